"""What a model says of a site's examples, one by one: prediction, label and loss, in pieces.

The ground of every evaluation, at a site or at a central test set. A piece has about a thousand examples at
most, so a DataLoader may be larger than memory. Scoring leaves no trace: torch's global generators, the mode
of every module and the gradients are as they were.

>>> import torch
>>> x, y = torch.tensor([-1.0, 2.0]), np.array([0, 1])
>>> with undisturbed(torch.nn.Identity()) as model:
...     [piece] = scored(model, [(x, y)], task=Task.BINARY, loss=per_example(None, Task.BINARY))
>>> piece.prediction, piece.label, piece.loss.round(3)
(array([-1.,  2.]), array([0., 1.]), array([0.313, 0.127]))
"""

import copy
import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from fl_integration.site.step import kept_modes
from fl_integration.site.training import Examples
from secagg.errors import MissingExtraError, ParameterError

try:
    import torch
    from torch import nn
    from torch.nn import functional
except ImportError as error:
    raise MissingExtraError(package="torch", extra="train") from error

__all__ = [
    "NAMES",
    "Data",
    "PerExample",
    "Scored",
    "Task",
    "check_data",
    "no_examples",
    "per_example",
    "ranking",
    "scored",
    "undisturbed",
]

Data: TypeAlias = Iterable[tuple[Examples, Examples]]
"""Examples in pieces `(x, y)`: a list, or a DataLoader. It is read anew in each evaluation."""

PerExample: TypeAlias = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""`(prediction, y)` of n examples -> their n losses."""

_BATCH: Final = 1024


class Task(Enum):
    """What the model predicts, and so what its output and the labels look like.

    BINARY: one logit an example, [n] or [n, 1]; labels 0 and 1.
    MULTICLASS: logits [n, k], k at least 2; labels are integers in [0, k).
    REGRESSION: one value an example, [n] or [n, 1]; labels are finite numbers.
    """

    BINARY = "binary"
    MULTICLASS = "multiclass"
    REGRESSION = "regression"


NAMES: Final = {
    Task.BINARY: ("loss", "auc", "accuracy", "auc_error", "examples"),
    Task.MULTICLASS: ("loss", "accuracy", "examples"),
    Task.REGRESSION: ("loss", "rmse", "r2", "mse", "examples"),
}
"""The metrics of a task, in the order in which they are shown."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Scored:
    """A piece of n examples.

    Attributes:
        prediction: float64[n], or float64[n, k] with `Task.MULTICLASS`; of a model that diverged, not finite.
        label: float64[n], or int64[n] with `Task.MULTICLASS`; as the task has it.
        loss: float64[n]; of a model that diverged, not finite.
    """

    prediction: NDArray[np.float64]
    label: NDArray[Any]
    loss: NDArray[np.float64]

    @property
    def correct(self) -> int:
        """Examples whose class is predicted: 1 by a logit above 0, or by the largest logit; never by NaN."""
        if self.prediction.ndim == 1:
            right = (self.prediction > 0) == (self.label == 1)
            return int(np.count_nonzero(right & ~np.isnan(self.prediction)))
        right = self.prediction.argmax(axis=1) == self.label
        return int(np.count_nonzero(right & ~np.isnan(self.prediction).any(axis=1)))

    @property
    def rank(self) -> NDArray[np.float64]:
        """The logits for an AUC, where a NaN stands in the middle, at 0."""
        return np.where(np.isnan(self.prediction), 0.0, self.prediction)


def ranking(positives: NDArray[Any], negatives: NDArray[Any]) -> dict[str, float]:
    """The AUC by Mann-Whitney's U, from the number of examples of each class in each bin of the logit.

    Args:
        positives, negatives: [bins], counts, lowest logits first. Pairs that share a bin count one half.

    Returns:
        "auc", and "auc_error": what those pairs could change at most. Nothing when there is one class only.
    """
    ones, zeros = positives.astype(np.float64), negatives.astype(np.float64)
    pairs = float(ones.sum() * zeros.sum())
    if not pairs:
        return {}
    shared = float(ones @ zeros) / 2
    below = np.cumsum(zeros) - zeros
    return {"auc": (float(ones @ below) + shared) / pairs, "auc_error": shared / pairs}


def check_data(data: Data, name: str) -> None:
    """Refuses data that no loop can read, or none can read twice; `name` says whose."""
    if not isinstance(data, Iterable) or isinstance(data, Mapping | str | bytes):
        raise ParameterError(f"{name} is a {type(data).__name__}; it must be a list of pieces (x, y)")
    if isinstance(data, Iterator):
        raise ParameterError(f"{name} can be read once only; make it a list, it is read in each evaluation")


def no_examples() -> ParameterError:
    """There is nothing to evaluate on."""
    return ParameterError("there are no examples; leave that site out of the evaluation's data")


def per_example(loss: Callable[..., torch.Tensor] | None, task: Task) -> PerExample:
    """A loss that gives every example its own.

    Args:
        loss: a function that takes `reduction="none"`, or a module with an attribute `reduction`, as torch's
            have. Any other function is a mean over its batch, and is asked of each example alone
            (`torch.vmap`). None: the task's usual one, in float64: binary cross entropy with logits, cross
            entropy, squared error.

    Raises:
        ParameterError: it cannot be called, or the task is none.
    """
    if not isinstance(task, Task):
        raise ParameterError(f"task is {task!r}; it must be one of {', '.join(map(str, Task))}")
    if loss is None:
        usual: Any = {
            Task.BINARY: functional.binary_cross_entropy_with_logits,
            Task.MULTICLASS: functional.cross_entropy,
            Task.REGRESSION: functional.mse_loss,
        }[task]
        kind = None if task is Task.MULTICLASS else torch.float64
        return lambda prediction, y: usual(prediction.double(), y.to(kind or y.dtype), reduction="none")
    if not callable(loss):
        raise ParameterError(f"loss is a {type(loss).__name__}; it must be a function (prediction, y)")
    each = _alone(loss)
    if task is Task.MULTICLASS:
        return each
    return lambda prediction, y: each(prediction, y.to(prediction.dtype))


def _alone(loss: Callable[..., torch.Tensor]) -> PerExample:
    if isinstance(loss, nn.Module) and hasattr(loss, "reduction"):
        module = copy.copy(loss)
        module.reduction = "none"  # type: ignore[assignment]
        return module
    try:
        reduces = "reduction" in inspect.signature(loss).parameters
    except ValueError:  # written in C, without a signature
        reduces = False
    if reduces:
        return lambda prediction, y: loss(prediction, y, reduction="none")
    return torch.vmap(lambda prediction, y: loss(prediction.unsqueeze(0), y.unsqueeze(0)))


@contextmanager
def undisturbed(model: nn.Module) -> Iterator[nn.Module]:
    """Evaluation mode inside; afterwards every module's own mode and torch's global generators are back."""
    # A DataLoader draws from the global generator each time that it is read, shuffling or not.
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())), kept_modes(model):
        model.eval()
        yield model


def scored(model: nn.Module, data: Data, *, task: Task, loss: PerExample) -> Iterator[Scored]:
    """The examples in their order, in pieces. Floating inputs become the model's own dtype.

    Raises:
        ParameterError: the data, the model's output or the loss is not what the task asks for. The text holds
            no value of an example.
    """
    weights = next((p for p in model.parameters() if p.is_floating_point()), None)
    for index, piece in enumerate(data):
        xs, ys = _pair(index, piece)
        if weights is not None:
            xs, ys = xs.to(weights.device), ys.to(weights.device)
            xs = xs.to(weights.dtype) if xs.is_floating_point() else xs
        for x, y in zip(torch.split(xs, _BATCH), torch.split(ys, _BATCH), strict=True):
            if len(x):  # split gives an empty piece one empty part
                yield _scored(model, x, y, task=task, loss=loss)


@torch.no_grad()
def _scored(model: nn.Module, x: torch.Tensor, y: torch.Tensor, *, task: Task, loss: PerExample) -> Scored:
    output = model(x)
    if not isinstance(output, torch.Tensor):
        raise ParameterError(f"the model's output is a {type(output).__name__}; it must be a tensor")
    n = len(y)
    shape, single = tuple(output.shape), task is not Task.MULTICLASS
    if single and shape not in ((n,), (n, 1)):
        raise ParameterError(
            f"the model's output for {n} examples has shape {shape}; {task} takes [n] or [n, 1]"
        )
    if not single and (len(shape) != 2 or shape[0] != n or shape[1] < 2):
        raise ParameterError(
            f"the model's output for {n} examples has shape {shape}; {task} takes logits [n, k], k >= 2"
        )
    if y.numel() != n:
        raise ParameterError(f"labels of shape [n{_tail(y)}]; {task} takes one an example, [n] or [n, 1]")
    prediction = output.float() if output.dtype in (torch.float16, torch.bfloat16) else output
    label = _labels(y.reshape(n), task=task, classes=1 if single else shape[1])
    # A loss sees the label in the prediction's own shape: [n, 1] and [n] would spread to [n, n].
    target = label.reshape(shape) if single else label
    return Scored(
        prediction=_array(prediction.reshape(n) if single else prediction),
        label=_array(label) if single else label.cpu().numpy(),
        loss=_array(_losses(loss, prediction, target)),
    )


def _losses(loss: PerExample, prediction: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    try:
        losses = loss(prediction, target)
    except (RuntimeError, TypeError, ValueError) as error:
        raise ParameterError(
            "the loss cannot be had example by example; write it with an argument reduction, and return one "
            'loss an example for reduction="none"'
        ) from error
    n = len(prediction)
    if not isinstance(losses, torch.Tensor) or tuple(losses.shape) not in ((n,), (n, 1)):
        found = list(losses.shape) if isinstance(losses, torch.Tensor) else type(losses).__name__
        raise ParameterError(f"the losses of {n} examples are {found}; they must be [n], one an example")
    return losses.reshape(n)


def _labels(y: torch.Tensor, *, task: Task, classes: int) -> torch.Tensor:
    if not y.is_floating_point() and not y.is_complex():
        y = y.long()
    match task:
        case Task.BINARY:
            if not ((y == 0) | (y == 1)).all():
                raise ParameterError(f"a label is neither 0 nor 1; {task} has these two")
        case Task.MULTICLASS:
            if y.dtype is not torch.int64:
                raise ParameterError(f"labels of {y.dtype}; {task} takes the classes' numbers, integers")
            if not ((y >= 0) & (y < classes)).all():
                raise ParameterError(f"a label is outside [0, {classes}); the model has {classes} classes")
        case Task.REGRESSION:
            if not y.isfinite().all():
                raise ParameterError("a label is NaN or infinite; leave that example out")
    return y


def _pair(index: int, piece: tuple[Examples, Examples]) -> tuple[torch.Tensor, torch.Tensor]:
    try:
        x, y = map(_tensor, piece)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ParameterError(f"piece {index} of the data is not a pair (x, y) of arrays") from error
    if x.ndim == 0 or y.ndim == 0 or len(x) != len(y):
        raise ParameterError(
            f"piece {index} has x of shape {tuple(x.shape)} and y of shape {tuple(y.shape)}; "
            "their first axes must count the same examples"
        )
    return x, y


def _tensor(part: Examples) -> torch.Tensor:
    # Torch shares no array that is read backwards, and warns of one that is read-only.
    shared = part if isinstance(part, torch.Tensor) else np.require(part, requirements=["C", "W"])
    return torch.as_tensor(shared)


def _tail(y: torch.Tensor) -> str:
    return "".join(f", {size}" for size in y.shape[1:])


def _array(values: torch.Tensor) -> NDArray[np.float64]:
    return np.asarray(values.detach().double().cpu().numpy(), np.float64)
