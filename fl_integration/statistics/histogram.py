"""How many rows fall into each bin of a number, or have each level of a category.

Bins are as numpy has them: each holds its lower edge and not its upper one, but for the last, which holds
both. What lies outside the edges is counted too, on either side, and so is what is missing.

**This opens cells**: a bin with one row says that there is such a row, and next to another histogram says
more. A site answers it as its policy's `SmallCells` says.

>>> from fl_integration.statistics.columns import Number
>>> question = Histogram(Number("age", low=0, high=128), (40.0, 60.0, 80.0))
>>> rows = Rows.of({"age": [39.0, 40.0, 60.0, 80.0, 81.0]})
>>> question.summand(next(question.asking(max_rows=9)), rows).tolist()
[1, 1, 2, 1, 0]
"""

import math
from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, ClassVar, Final

import numpy as np
from numpy.typing import NDArray

from fl_integration.statistics.answer import Answer, frame_of, new_axes
from fl_integration.statistics.columns import Category, Column, Number
from fl_integration.statistics.question import Asking, Question, Sensitivity, Step, Total
from fl_integration.statistics.rows import Rows
from secagg.errors import ParameterError
from secagg.numbers import is_number, plain

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

__all__ = ["Histogram", "HistogramAnswer"]

_MOST_BINS: Final = 1 << 16


@dataclass(frozen=True, eq=False)
class HistogramAnswer(Answer):
    """Counts by bin, or by level.

    Attributes:
        column: what was counted.
        edges: float64[bins + 1] of a number; empty for a category.
        counts: int64[bins], in the order of the edges or of the levels.
        below, above: rows with a value outside the edges; 0 for a category.
        missing: rows without a value.
    """

    column: Number | Category
    edges: NDArray[np.float64]
    counts: NDArray[np.int64]
    below: int
    above: int
    missing: int
    _: KW_ONLY

    @property
    def bins(self) -> tuple[str, ...]:
        """What each count is of, in words."""
        if isinstance(self.column, Category):
            return tuple(map(str, self.column.levels))
        words = [f"{low:g} to {high:g}" for low, high in pairwise(self.edges)]
        return tuple(words)

    def to_frame(self) -> "pd.DataFrame":
        index, counts = list(self.bins), self.counts.tolist()
        if isinstance(self.column, Number):
            index, counts = ["below", *index, "above"], [self.below, *counts, self.above]
        known = sum(counts)
        share = [each / known if known > 0 else math.nan for each in counts]
        shown = {"n": [*counts, self.missing], "share": [*share, math.nan]}
        return frame_of(shown, index=[*index, "missing"], name=self.column.name)

    def draw(self, axes: "Axes | None" = None) -> Any:
        axes = new_axes(axes)
        if isinstance(self.column, Category):
            axes.bar(self.bins, self.counts)
        else:
            axes.stairs(self.counts, self.edges, fill=True)
        axes.set_xlabel(self.column.name)
        axes.set_ylabel("rows of all sites")
        return axes


@dataclass(frozen=True, slots=True)
class Histogram(Question):
    """How many rows fall into each bin; one sum.

    A row without a value counts as missing. Values beyond the column's bounds are counted where they are.

    Args:
        column: a `Number` with edges, or a `Category` without.
        edges: 2 to 65,537 finite numbers, ascending.

    Raises:
        ParameterError: edges that are none, or that a category does not have.
    """

    cells: ClassVar[bool] = True

    column: Number | Category
    edges: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        Question.__post_init__(self)
        if not isinstance(self.column, Number | Category):
            raise ParameterError(
                f"column is a {type(self.column).__name__}; a histogram is of a Number or a Category"
            )
        object.__setattr__(self, "edges", _edges(self.edges))
        if isinstance(self.column, Category) is bool(self.edges):
            raise ParameterError(
                f"{len(self.edges)} edges for the column {self.column.name!r}; a Number has at least two, "
                "and a Category, whose levels are its bins, none"
            )

    @property
    def columns(self) -> tuple[Column, ...]:
        return (self.column,)

    @property
    def cuts(self) -> Mapping[str, tuple[float, ...]]:
        return {self.column.name: self.edges} if self.edges else {}

    @property
    def most_sums(self) -> int:
        return 1

    def largest(self, *, max_rows: int) -> int:
        return max_rows

    @property
    def _step(self) -> Step:
        bins = len(self.column.levels) if isinstance(self.column, Category) else len(self.edges) + 1
        return Step("bins", bins + 1)

    @property
    def sensitivity(self) -> Sensitivity:
        return Sensitivity(np.ones(self._step.length, dtype=np.int64), touched=1)

    def asking(self, *, max_rows: int) -> Asking:
        total = yield self._step
        counts, edges = total[:-1], np.array(self.edges, dtype=np.float64)
        below, above = 0, 0
        if len(edges):
            below, above, counts = int(counts[0]), int(counts[-1]), counts[1:-1]
        return HistogramAnswer(self.column, edges, counts.copy(), below, above, int(total[-1]))

    def summand(self, step: Step, rows: Rows) -> Total:
        if step != self._step:
            raise ParameterError(f"a step {step.name!r} of {step.length} values is none of this Histogram's")
        if isinstance(self.column, Category):
            codes = rows.codes(self.column)
            places = np.where(codes < 0, step.length - 1, codes)
        else:
            values = rows.numbers(self.column)
            places = np.searchsorted(self.edges, values, side="right")
            places[values == self.edges[-1]] = step.length - 3
            places[np.isnan(values)] = step.length - 1
        return np.bincount(places, minlength=step.length).astype(np.int64)


def _edges(given: object) -> tuple[float, ...]:
    if not isinstance(given, tuple | list | np.ndarray) or not all(is_number(plain(each)) for each in given):
        raise ParameterError(f"edges is a {type(given).__name__}; it must be a tuple of numbers, ascending")
    edges = tuple(float(plain(each)) for each in given)
    if len(edges) > _MOST_BINS + 1 or not all(math.isfinite(each) for each in edges):
        raise ParameterError(f"{len(edges)} edges; there are up to {_MOST_BINS + 1}, all finite")
    if edges and (len(edges) < 2 or not all(low < high for low, high in pairwise(edges))):
        raise ParameterError(f"{len(edges)} edges; there must be two at least, each above the one before")
    return edges
