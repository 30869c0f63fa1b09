"""A model that the hospitals can share, how each of them trains it, and how well it ranks patients.

Logistic regression is what these records bear: a few hundred rows a site and 15 inputs. It starts at zero,
so parties that begin together begin equal, without a seed to agree on.

The figure of merit is the area under the ROC curve (AUC): the chance that a patient with the disease gets a
higher score than one without. It does not depend on a threshold or on how common the disease is, which
differs between the sites by a factor of 2.6. It says nothing about calibration.

>>> model = HeartModel()
>>> sum(p.numel() for p in model.parameters())
16
>>> auc([0, 1, 0, 1], [0.1, 0.4, 0.35, 0.8])
1.0
"""

from typing import Final

import numpy as np
import numpy.typing as npt

from fl_integration.site.training import LocalTraining
from fl_integration.studies.heart.records import FEATURES
from secagg.errors import MissingExtraError, ParameterError

try:
    import torch
    from torch import nn
    from torch.nn.functional import binary_cross_entropy_with_logits
except ImportError as error:
    raise MissingExtraError(package="torch", extra="train") from error

__all__ = ["LOCAL", "HeartModel", "auc"]

LOCAL: Final = LocalTraining(
    loss=binary_cross_entropy_with_logits, epochs=5, batch_size=32, learning_rate=0.1, weight_decay=0.01
)

_CLASSES: Final = (0, 1)


class HeartModel(nn.Module):
    """Logistic regression from `FEATURES` to the log-odds of disease.

    Args:
        features: the number of inputs, at least 1.
    """

    def __init__(self, *, features: int = len(FEATURES)) -> None:
        if type(features) is not int or features < 1:
            raise ParameterError(f"features is {features!r}; it must be an int of at least 1")
        super().__init__()
        self.linear = nn.Linear(features, 1)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """float[n, features] -> float[n], log-odds (train with `binary_cross_entropy_with_logits`)."""
        log_odds: torch.Tensor = self.linear(x)
        return log_odds.squeeze(-1)


def auc(y: npt.ArrayLike, score: npt.ArrayLike) -> float:
    """The area under the ROC curve, in [0, 1]; 0.5 is chance.

    Args:
        y: [n], labels 0 or 1, both present.
        score: [n], finite; higher means disease is likelier. Log-odds and probabilities rank alike.

    Raises:
        ParameterError: other shapes or labels, one class only, or a score that is not finite.
        MissingExtraError: scikit-learn is not installed.
    """
    try:
        from sklearn.metrics import roc_auc_score
    except ImportError as error:
        raise MissingExtraError(package="scikit-learn", extra="demo") from error
    labels, scores = np.asarray(y), np.asarray(score, np.float64)
    if labels.ndim != 1 or labels.shape != scores.shape:
        raise ParameterError(
            f"labels of shape {labels.shape} and scores of shape {scores.shape}; both must be [n]"
        )
    if not np.isfinite(scores).all():
        raise ParameterError("a score is not finite; the model has diverged, lower its learning rate")
    if not np.isin(labels, _CLASSES).all():
        raise ParameterError("a label is neither 0 nor 1")
    if np.unique(labels).size < 2:
        raise ParameterError(f"all {labels.size} labels are of one class; the AUC needs both in the test set")
    return float(roc_auc_score(labels, scores))
