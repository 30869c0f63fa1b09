"""When a model is evaluated, and when that ends the training: early stopping on one of the metrics.

The rule is that of Goodfellow, Bengio and Courville (Deep Learning, 2016, Algorithm 7.1): stop when the
metric has not improved for `patience` evaluations. It is a pure function of the evaluations so far, so a run
that was interrupted and taken up again decides as one that was not.

Unlike there, stopping ends the rounds and nothing else: the run's model is its *last* one, `patience`
evaluations past the best. `best_of` says which one that was; whoever wants its weights keeps the models as
they come (`Watch.on_model`, or a checkpoint a round). The last is what a run gives because choosing uses up
the data: the best of many evaluations looks better than that model is, the more so the fewer examples there
are. For the same reason a metric that decided when to stop is no test result any more; take other examples
for that.

>>> stop = EarlyStopping("auc", patience=2)
>>> history = [{"auc": 0.70}, {"auc": 0.81}, {"auc": 0.80}, {"auc": 0.81}]
>>> stop.best_of(history), stop.stops(history[:3]), stop.stops(history)
(1, False, True)
"""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from enum import Enum
from typing import Final

from secagg.errors import ParameterError
from secagg.numbers import is_number, plain_fields

__all__ = ["Better", "EarlyStopping", "Schedule"]


class Better(Enum):
    """Which of two values of a metric is the better one."""

    HIGHER = "higher"
    LOWER = "lower"


_KNOWN: Final = {
    **dict.fromkeys(("accuracy", "auc", "r2"), Better.HIGHER),
    **dict.fromkeys(("loss", "mse", "rmse"), Better.LOWER),
}


@dataclass(frozen=True, slots=True)
class EarlyStopping:
    """Stop when `metric` has not improved for `patience` evaluations.

    Args:
        metric: its name among the evaluation's metrics.
        patience: evaluations without an improvement, at least 1. With `every=n` of the evaluation they are
            n rounds apart.
        minimum_change: what is no more than this is no improvement; at least 0, in the metric's own unit.
        better: which way is up. None: as is known of loss, mse, rmse, accuracy, auc and r2; any other metric
            needs it. The attribute is never None.

    Raises:
        ParameterError: a value is outside its range, or `better` is needed.
    """

    metric: str
    _: KW_ONLY
    patience: int = 5
    minimum_change: float = 0.0
    better: Better | None = None

    def __post_init__(self) -> None:
        plain_fields(self, "patience", "minimum_change")
        if type(self.metric) is not str:
            raise ParameterError(f"metric is a {type(self.metric).__name__}; it is a metric's name, a str")
        if type(self.patience) is not int or self.patience < 1:
            raise ParameterError(f"patience is {self.patience!r}; it must be an int of at least 1")
        if not is_number(self.minimum_change) or not 0 <= self.minimum_change < math.inf:
            raise ParameterError(
                f"minimum_change is {self.minimum_change!r}; it must be finite and at least 0"
            )
        if self.better is None:
            if self.metric not in _KNOWN:
                raise ParameterError(
                    f"whether a higher {self.metric!r} is better is not known here; "
                    "pass better=Better.HIGHER or better=Better.LOWER"
                )
            object.__setattr__(self, "better", _KNOWN[self.metric])
        if not isinstance(self.better, Better):
            raise ParameterError(f"better is {self.better!r}; it must be Better.HIGHER or Better.LOWER")

    def check(self, names: Collection[str]) -> None:
        """Refuses a metric that is not among those of an evaluation.

        Raises:
            ParameterError: it is not; the text names those that are.
        """
        if self.metric not in names:
            raise ParameterError(
                f"early stopping asks for {self.metric!r}; the evaluation's metrics are {list(names)}"
            )

    def best_of(self, history: Sequence[Mapping[str, float]]) -> int | None:
        """The position of the evaluation from which patience counts: the last that was an improvement.

        Args:
            history: the evaluations so far, oldest first. An empty one stands for a round without evaluation
                and counts for nothing, so the reports of all rounds will do.

        Returns:
            An index of `history`; None when no evaluation has a finite value. NaN and infinity are no
            improvement, and neither is an evaluation without a metric that others have (an AUC of one class).

        Raises:
            ParameterError: no evaluation has the metric; the text names those that there are.
        """
        present = {name: None for metrics in history for name in metrics}  # in order, each once
        if present:
            self.check(present)
        sign = 1 if self.better is Better.HIGHER else -1
        best, position = -math.inf, None  # of what is finite
        for index, metrics in enumerate(history):
            value = sign * metrics.get(self.metric, math.nan)
            if math.isfinite(value) and value > best + self.minimum_change:
                best, position = value, index
        return position

    def stops(self, history: Sequence[Mapping[str, float]]) -> bool:
        """Whether the training ends after the last of these evaluations; `history` as for `best_of`.

        Raises:
            ParameterError: as `best_of`.
        """
        best = self.best_of(history)
        since = history if best is None else history[best + 1 :]
        return sum(1 for metrics in since if metrics) >= self.patience


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Schedule:
    """What every kind of evaluation has: see there for `every` and `stop`."""

    every: int = 1
    stop: EarlyStopping | None = None

    def __post_init__(self) -> None:
        plain_fields(self, "every")
        if type(self.every) is not int or self.every < 1:
            raise ParameterError(f"every is {self.every!r}; it must be an int of at least 1")
        if self.stop is not None and not isinstance(self.stop, EarlyStopping):
            raise ParameterError(f"stop is a {type(self.stop).__name__}; it must be an EarlyStopping or None")

    def due(self, number: int, *, rounds: int) -> bool:
        """Is round `number` (from 0) of `rounds` followed by one? Each `every`-th is, and the last."""
        return (number + 1) % self.every == 0 or number + 1 == rounds
