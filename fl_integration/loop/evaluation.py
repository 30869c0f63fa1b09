"""How good the global model is after a round: three ways to ask.

* `OnSites`: the sites' own examples, through a secure sum of their own; nobody sees a prediction.
* `Central`: one test set, held by whoever holds the global model.
* a function of your own, `(round, model) -> metrics`, alone or in `Custom`.

Each says how often it is asked (`every`, and always after the last round) and may end the training early
(`stop`; see `EarlyStopping`, also for which model is kept). No evaluation changes the training: the modes of
the model's modules and torch's global generators are as they were.

>>> import torch
>>> x, y = torch.tensor([-2.0, 0.5, 3.0]), torch.tensor([0, 0, 1])
>>> evaluate = Central([(x, y)], task=Task.BINARY, every=5, stop=EarlyStopping("auc", patience=3))
>>> {name: round(value, 3) for name, value in evaluate.metrics(torch.nn.Identity()).items()}
{'loss': 0.383, 'auc': 1.0, 'accuracy': 0.667, 'examples': 3.0}
>>> [number for number in range(12) if evaluate.due(number, rounds=12)]
[4, 9, 11]
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import KW_ONLY, dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from fl_integration.loop.on_sites import OnSites
from fl_integration.loop.scoring import (
    NAMES,
    Data,
    Task,
    check_data,
    no_examples,
    per_example,
    ranking,
    scored,
    undisturbed,
)
from fl_integration.loop.stopping import Better, EarlyStopping, Schedule
from secagg.errors import MissingExtraError, ParameterError
from secagg.numbers import is_number, plain

try:
    import torch
    from torch import nn
except ImportError as error:
    raise MissingExtraError(package="torch", extra="train") from error

__all__ = [
    "Better",
    "Central",
    "Custom",
    "EarlyStopping",
    "Evaluation",
    "Metric",
    "OnSites",
    "Task",
    "evaluation_of",
]

Metric: TypeAlias = Callable[[int, nn.Module], Mapping[str, float]]
"""`(round, model) -> metrics`, with the round counted from 0."""


@dataclass(frozen=True, slots=True, eq=False)
class Central(Schedule):
    """One test set, held by whoever holds the global model; nothing about any site is told.

    The metrics of `OnSites` without its rounding, bins and clipping: "auc" is exact, and the loss of a model
    that diverged is NaN or infinite.

    Args:
        data: the examples.
        task, loss, every, stop: as for `OnSites`.

    Raises:
        ParameterError: a value is outside its range, or `stop` asks for a metric that is not there.
    """

    data: Data
    _: KW_ONLY
    task: Task
    loss: Callable[..., torch.Tensor] | None = None

    def __post_init__(self) -> None:
        Schedule.__post_init__(self)
        check_data(self.data, "data")
        per_example(self.loss, self.task)
        if self.stop is not None:
            self.stop.check(self.names)

    @property
    def names(self) -> tuple[str, ...]:
        """All metrics that it can have; a few are absent where the examples do not define them."""
        return tuple(name for name in NAMES[self.task] if name != "auc_error")

    def metrics(self, model: nn.Module) -> dict[str, float]:
        """What the examples say of the model, which is as it was afterwards.

        Raises:
            ParameterError: no examples, a label outside, shapes that do not fit.
        """
        with undisturbed(model):
            loss = per_example(self.loss, self.task)
            pieces = list(scored(model, self.data, task=self.task, loss=loss))
        if not pieces:
            raise no_examples()
        label, losses = (np.concatenate([getattr(p, name) for p in pieces]) for name in ("label", "loss"))
        metrics = {"loss": float(losses.mean()), "examples": float(len(label))}
        if self.task is Task.REGRESSION:
            metrics |= _fit(label, np.concatenate([piece.prediction for piece in pieces]))
        else:
            metrics["accuracy"] = sum(piece.correct for piece in pieces) / len(label)
        if self.task is Task.BINARY:
            # A bin for every logit that there is: what still shares one is a tie.
            place = np.unique(np.concatenate([piece.rank for piece in pieces]), return_inverse=True)[1]
            metrics |= ranking(*(np.bincount(place[label == y], minlength=place.max() + 1) for y in (1, 0)))
        return {name: metrics[name] for name in self.names if name in metrics}


@dataclass(frozen=True, slots=True, eq=False)
class Custom(Schedule):
    """A function of your own, for whatever the other two do not know.

    Args:
        function: `(round, model) -> metrics`; the model is in evaluation mode, and must keep its values.
        every, stop: as for `OnSites`. Which metrics there are shows at the first evaluation.

    Raises:
        ParameterError: a value is outside its range.
    """

    function: Metric
    _: KW_ONLY

    def __post_init__(self) -> None:
        Schedule.__post_init__(self)
        if not callable(self.function):
            raise ParameterError(
                f"function is a {type(self.function).__name__}; it must be (round, model) -> metrics"
            )

    def metrics(self, number: int, model: nn.Module) -> dict[str, float]:
        """What the function says after round `number`, as floats.

        Raises:
            ParameterError: it gives anything but a mapping of names to numbers.
        """
        with undisturbed(model):
            said = self.function(number, model)
        if not isinstance(said, Mapping):
            raise ParameterError(f"the evaluation gave a {type(said).__name__}; it maps names to numbers")
        metrics = {name: plain(value) for name, value in said.items()}
        for name, value in metrics.items():
            if type(name) is not str or not is_number(value):
                raise ParameterError(
                    f"the evaluation gave {name!r}: a {type(value).__name__}; it maps names to numbers"
                )
        return {name: float(value) for name, value in metrics.items()}


Evaluation: TypeAlias = OnSites | Central | Custom


def evaluation_of(evaluate: Evaluation | Metric | None) -> Evaluation | None:
    """What `evaluate=` was given, as one of the three kinds; a function is asked after every round.

    Raises:
        ParameterError: it is none of them.
    """
    if evaluate is None or isinstance(evaluate, OnSites | Central | Custom):
        return evaluate
    if not callable(evaluate) or isinstance(evaluate, type):
        raise ParameterError(
            f"evaluate is a {type(evaluate).__name__}; it must be OnSites(…), Central(…), Custom(…) or a "
            "function (round, model) -> metrics"
        )
    return Custom(evaluate)


def _fit(label: NDArray[np.float64], prediction: NDArray[np.float64]) -> dict[str, float]:
    with np.errstate(over="ignore"):  # a model that diverged
        mse = float(np.mean((prediction - label) ** 2))
    metrics = {"mse": mse, "rmse": math.sqrt(mse)}
    if label.min() < label.max():
        metrics["r2"] = 1 - mse / float(label.var())
    return metrics
