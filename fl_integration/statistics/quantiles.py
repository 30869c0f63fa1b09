"""Quantiles of all sites' values together, by bisection on counts: exactly those of the pooled table.

Each sum asks how many values lie at or below seven thresholds, for all columns and probabilities at once, and
so takes three bits off what is not known yet; the first one counts the values as well. What is found is the
value at rank ⌈n·p⌉ in units of the column, as numpy's `inverted_cdf` has it, ties and all.

**This opens cells**: a quantile *is* some row's value, rounded to the unit, and the counts on the way to it
say how many rows lie close to it. Whoever may bisect without end counts single rows; so the number of sums
is part of the question, and a unit that is as coarse as the purpose allows hides more than any rule.
"""

import math
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Final

import numpy as np
from numpy.typing import NDArray

from fl_integration.statistics.answer import Answer, frame_of, new_axes
from fl_integration.statistics.columns import Column, Number
from fl_integration.statistics.moments import numbers_of
from fl_integration.statistics.question import Asking, Question, Sensitivity, Step, Total
from fl_integration.statistics.rows import Rows
from secagg.errors import ParameterError
from secagg.numbers import is_number, plain

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

__all__ = ["Quantiles", "QuantilesAnswer"]

_BITS: Final = 3
"""Bits that a sum finds; it takes one threshold less than two to this power for each value sought."""
_MOST_PROBABILITIES: Final = 1000
_FIRST, _NEXT = "count and thresholds", "thresholds"


@dataclass(frozen=True, eq=False)
class QuantilesAnswer(Answer):
    """Quantiles by column.

    Attributes:
        numbers: the columns, in this order everywhere.
        probabilities: of the quantiles, in this order everywhere.
        count: int64[columns], rows with a value.
        values: float64[columns, probabilities]; NaN where no row has a value.
    """

    numbers: tuple[Number, ...]
    probabilities: tuple[float, ...]
    count: NDArray[np.int64]
    values: NDArray[np.float64]
    _: KW_ONLY

    def to_frame(self) -> "pd.DataFrame":
        shown: dict[str, Any] = {"n": self.count}
        shown |= {f"{p:.3g}": self.values[:, place] for place, p in enumerate(self.probabilities)}
        return frame_of(shown, index=[each.name for each in self.numbers], name="column")

    def draw(self, axes: "Axes | None" = None) -> Any:
        axes = new_axes(axes, height=1 + 0.3 * len(self.numbers))
        low = np.array([[each.low] for each in self.numbers])
        span = np.array([[each.high] for each in self.numbers]) - low
        places = np.arange(len(self.numbers))[::-1]
        shown = (self.values - low) / span
        axes.hlines(places, shown.min(axis=1), shown.max(axis=1))
        for place in range(len(self.probabilities)):
            axes.plot(shown[:, place], places, "|", markersize=12)
        axes.set_yticks(places, [each.name for each in self.numbers])
        axes.set_xlim(0, 1)
        axes.set_xlabel("quantiles, from the lower bound (0) to the upper (1)")
        return axes


@dataclass(frozen=True, slots=True)
class Quantiles(Question):
    """Quantiles by column, to the column's unit; a sum for each three bits of the widest column.

    Each column is about the rows that have a value in it; values beyond the bounds count as the bounds.

    Args:
        numbers: columns, at least one, each once.
        probabilities: in [0, 1], at least one, each once.

    Raises:
        ParameterError: columns or probabilities that are none.
    """

    cells: ClassVar[bool] = True

    numbers: tuple[Number, ...]
    probabilities: tuple[float, ...] = (0.25, 0.5, 0.75)

    def __post_init__(self) -> None:
        Question.__post_init__(self)
        object.__setattr__(self, "numbers", numbers_of(self.numbers))
        object.__setattr__(self, "probabilities", _probabilities(self.probabilities))

    @property
    def columns(self) -> tuple[Column, ...]:
        return self.numbers

    @property
    def _width(self) -> int:
        """Bits of the widest column."""
        return max((2 * each.largest).bit_length() for each in self.numbers) or 1

    @property
    def most_sums(self) -> int:
        return -(-self._width // _BITS)

    def largest(self, *, max_rows: int) -> int:
        return max_rows

    @property
    def sensitivity(self) -> Sensitivity:
        # A row lies below all thresholds in the worst case.
        first = len(self.numbers) << _first_bits(self._width)
        longest = first
        if self.most_sums > 1:
            longest = max(first, len(self.numbers) * len(self.probabilities) * ((1 << _BITS) - 1))
        return Sensitivity(np.ones(longest, dtype=np.int64), touched=longest)

    def asking(self, *, max_rows: int) -> Asking:
        columns, ranks_of = len(self.numbers), np.array(self.probabilities)
        lows = np.array([[-each.largest] for each in self.numbers], dtype=np.int64)
        width = self._width
        bits = _first_bits(width)
        total = yield Step(_FIRST, columns << bits, (float(1 << (width - bits)), *_floats(lows)))
        count = np.maximum(total[:columns], 0)
        rank = _ranks(count, ranks_of)[:, :, np.newaxis]
        below = total[columns:].reshape(columns, 1, -1)
        width -= bits
        lows = lows + ((below < rank).sum(axis=2) << width)
        while width:
            bits, width = _BITS, width - _BITS
            parameters = (float(1 << width), *_floats(lows))
            total = yield Step(_NEXT, lows.size * ((1 << bits) - 1), parameters)
            below = total.reshape(*lows.shape, -1)
            lows = lows + ((below < rank).sum(axis=2) << width)
        units = np.array([[each.unit] for each in self.numbers])
        reach = np.array([[each.largest] for each in self.numbers])
        middle = np.array([[each.middle] for each in self.numbers])
        values = (np.minimum(lows, reach) + middle) * units
        values[count == 0] = np.nan
        return QuantilesAnswer(self.numbers, self.probabilities, count, values)

    def follows(self, previous: Step, step: Step) -> bool:
        """Each step looks into one of the parts that the one before made."""
        wide, before = self._read(previous)
        gap, lows = self._read(step)
        parts = 1 << (_first_bits(self._width) if previous.name == _FIRST else _BITS)
        part, beside = np.divmod(lows - before, wide)
        inside = (part >= 0) & (part < parts) & (beside == 0)
        return step.name == _NEXT and gap << _BITS == wide and bool(inside.all())

    def summand(self, step: Step, rows: Rows) -> Total:
        gap, lows = self._read(step)
        counts, found = [], []
        for column, starts in zip(self.numbers, lows, strict=True):
            values = np.sort(rows.steps(column)[rows.present(column)])
            each = 1 << (_first_bits(self._width) if step.name == _FIRST else _BITS)
            thresholds = starts[:, np.newaxis] + gap * np.arange(1, each) - 1
            counts.append(len(values))
            found.append(np.searchsorted(values, thresholds.reshape(-1), side="right"))
        if step.name == _FIRST:
            found.insert(0, np.array(counts))
        return np.concatenate(found).astype(np.int64)

    def _read(self, step: Step) -> tuple[int, NDArray[np.int64]]:
        """The gap between thresholds, and where those of each column begin.

        Raises:
            ParameterError: the step is none of this question's.
        """
        first = step.name == _FIRST
        sought = 1 if first else len(self.probabilities)
        each = 1 << _first_bits(self._width) if first else (1 << _BITS) - 1
        gap, *lows = step.parameters or (0.0,)
        if (
            step.name not in (_FIRST, _NEXT)
            or step.length != len(self.numbers) * sought * each
            or len(lows) != len(self.numbers) * sought
            or not all(low.is_integer() and abs(low) <= 1 << 32 for low in lows)
            or not (gap.is_integer() and 1 <= gap <= 1 << 32)
        ):
            raise ParameterError(f"a step {step.name!r} of {step.length} values is none of these Quantiles'")
        return int(gap), np.array(lows).astype(np.int64).reshape(len(self.numbers), sought)


def _first_bits(width: int) -> int:
    """Bits of the first sum, so that those behind it find three each."""
    return (width - 1) % _BITS + 1


def _floats(lows: NDArray[np.int64]) -> list[float]:
    floats: list[float] = lows.reshape(-1).astype(np.float64).tolist()
    return floats


def _ranks(count: NDArray[np.int64], probabilities: NDArray[np.float64]) -> NDArray[np.int64]:
    """int64[columns, probabilities]: ⌈n·p⌉ of the product in float64, as numpy rounds it, and at least 1."""
    product = count[:, np.newaxis] * probabilities - 1
    return np.maximum(np.ceil(product).astype(np.int64) + 1, 1)


def _probabilities(given: object) -> tuple[float, ...]:
    if not isinstance(given, Sequence | np.ndarray) or not all(is_number(plain(each)) for each in given):
        raise ParameterError(f"probabilities is a {type(given).__name__}; it must be a tuple of numbers")
    found = tuple(float(plain(each)) for each in given)
    if not 1 <= len(found) <= _MOST_PROBABILITIES or not all(0 <= each <= 1 for each in found):
        raise ParameterError(
            f"{len(found)} probabilities; there are 1 to {_MOST_PROBABILITIES}, each in [0, 1]"
        )
    if len(set(found)) < len(found) or not all(map(math.isfinite, found)):
        raise ParameterError("a probability stands twice among the probabilities; leave one out")
    return found
