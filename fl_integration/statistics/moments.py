"""Means and standard deviations, column by column, each over the rows that have a value in it.

The sums are of integers, n, Σx and Σx² in units from the column's middle, so nothing cancels: the variance is
(n·Σx² - (Σx)²) / n², or / n(n - 1), in Python's integers, and is rounded once. On data that are multiples of
the unit the answer is that of the pooled table to the last digits of a float64.

>>> from fl_integration.statistics.columns import Number
>>> question = Moments((Number("age", low=0, high=128, unit=1),))
>>> asking = question.asking(max_rows=10)
>>> step = next(asking)
>>> try:
...     asking.send(question.summand(step, Rows.of({"age": [60.0, 63.0, float("nan"), 66.0]})))
... except StopIteration as done:
...     print(done.value)  # doctest: +NORMALIZE_WHITESPACE
        n  missing  mean   sd
column
age     3        1  63.0  3.0
"""

import math
from dataclasses import KW_ONLY, dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fl_integration.statistics.answer import Answer, frame_of, new_axes
from fl_integration.statistics.columns import Column, Number
from fl_integration.statistics.question import Asking, Question, Sensitivity, Step, Total
from fl_integration.statistics.rows import Rows
from secagg.errors import ParameterError

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

__all__ = ["Moments", "MomentsAnswer"]


@dataclass(frozen=True, eq=False)
class MomentsAnswer(Answer):
    """Mean and standard deviation of each column.

    Attributes:
        numbers: the columns, in this order everywhere.
        rows: of all sites that had enough of them, with values or without.
        count: int64[columns], rows with a value.
        mean: float64[columns]; NaN where no row has a value.
        sd: float64[columns], with n - 1 in the denominator, as pandas has it; NaN below two values, and where
            noise left less than nothing of the variance.
        population_sd: float64[columns], with n in the denominator, as StandardScaler has it.
    """

    numbers: tuple[Number, ...]
    rows: int
    count: NDArray[np.int64]
    mean: NDArray[np.float64]
    sd: NDArray[np.float64]
    population_sd: NDArray[np.float64]
    _: KW_ONLY

    @property
    def missing(self) -> NDArray[np.int64]:
        """int64[columns], rows without a value, those of sites with too few values included."""
        return np.asarray(self.rows - self.count)

    def to_frame(self) -> "pd.DataFrame":
        shown = {"n": self.count, "missing": self.missing, "mean": self.mean, "sd": self.sd}
        return frame_of(shown, index=[each.name for each in self.numbers], name="column")

    def draw(self, axes: "Axes | None" = None) -> Any:
        axes = new_axes(axes, height=1 + 0.3 * len(self.numbers))
        low = np.array([each.low for each in self.numbers])
        span = np.array([each.high for each in self.numbers]) - low
        places = np.arange(len(self.numbers))[::-1]
        axes.errorbar((self.mean - low) / span, places, xerr=self.sd / span, fmt="o", capsize=3)
        axes.set_yticks(places, [each.name for each in self.numbers])
        axes.set_xlim(0, 1)
        axes.set_xlabel("mean ± sd, from the lower bound (0) to the upper (1)")
        return axes


@dataclass(frozen=True, slots=True)
class Moments(Question):
    """Mean and standard deviation by column; one sum of 1 + 3·columns numbers.

    Each column is counted over the rows that have a value in it; how many lack one is in the answer.

    Args:
        numbers: columns, at least one, each once.

    Raises:
        ParameterError: there are none, or one is no `Number`.
    """

    numbers: tuple[Number, ...]

    def __post_init__(self) -> None:
        Question.__post_init__(self)
        object.__setattr__(self, "numbers", numbers_of(self.numbers))

    @property
    def columns(self) -> tuple[Column, ...]:
        return self.numbers

    @property
    def most_sums(self) -> int:
        return 1

    def largest(self, *, max_rows: int) -> int:
        return max_rows * max(1, *(each.largest for each in self.numbers)) ** 2

    @property
    def _step(self) -> Step:
        return Step("moments", 1 + 3 * len(self.numbers))

    @property
    def sensitivity(self) -> Sensitivity:
        reach = np.array([max(1, each.largest) for each in self.numbers], dtype=np.int64)
        entries = np.concatenate([[1], np.ones_like(reach), reach, reach * reach])
        return Sensitivity(entries, touched=len(entries))

    def asking(self, *, max_rows: int) -> Asking:
        total = yield self._step
        rows, (count, first, second) = int(total[0]), total[1:].reshape(3, -1).tolist()
        mean, sd, population = [], [], []
        for column, n, s, q in zip(self.numbers, count, first, second, strict=True):
            unit, spread = Fraction(column.unit), n * q - s * s
            mean.append(float((Fraction(s, n) + column.middle) * unit) if n > 0 else math.nan)
            population.append(_root(Fraction(spread, n * n), unit) if n > 0 else math.nan)
            sd.append(_root(Fraction(spread, n * (n - 1)), unit) if n > 1 else math.nan)
        return MomentsAnswer(
            self.numbers, rows, np.array(count), np.array(mean), np.array(sd), np.array(population)
        )

    def summand(self, step: Step, rows: Rows) -> Total:
        if step != self._step:
            raise ParameterError(f"a step {step.name!r} of {step.length} values is none of these Moments'")
        parts = np.empty((3, len(self.numbers)), dtype=np.int64)
        for place, column in enumerate(self.numbers):
            steps = rows.steps(column)
            parts[:, place] = np.count_nonzero(rows.present(column)), steps.sum(), (steps * steps).sum()
        return np.concatenate([[len(rows)], parts.reshape(-1)])


def _root(variance: Fraction, unit: Fraction) -> float:
    return math.sqrt(variance) * float(unit) if variance >= 0 else math.nan


def numbers_of(given: object) -> tuple[Number, ...]:
    """The columns of a question, as a tuple.

    Raises:
        ParameterError: there are none, one is no `Number`, or two have one name.
    """
    if not isinstance(given, tuple | list) or not all(isinstance(each, Number) for each in given):
        raise ParameterError(f"numbers is a {type(given).__name__}; it must be a tuple of Number(…)")
    if not given or len({each.name for each in given}) < len(given):
        raise ParameterError(f"{len(given)} columns; there must be one, and each once")
    return tuple(given)
