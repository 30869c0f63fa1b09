"""Pearson's correlations of all pairs of columns, over the rows that have a value in each of them.

Complete cases, not pairwise ones: a pair of columns that hardly any rows share would be told of those few,
and each pair would be of other people, so that the matrix need not be positive semi-definite. Whoever wants a
pair over all of its rows asks for that pair, which is a question of its own to each site's policy.

With A = N·Σx² - (Σx)², B the same of y and C = N·Σxy - Σx·Σy, integers all, r² = C²/(A·B) and
1 - r² = (A·B - C²)/(A·B) are each one division, so a p-value is as good next to r = 1 as anywhere. It is that
of the two-sided t test of r, I_{1-r²}((n - 2)/2, 1/2), for pairs that are normal.
"""

from collections.abc import Generator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Final

import numpy as np
from numpy.typing import NDArray

from fl_integration.statistics.answer import Answer, frame_of, new_axes
from fl_integration.statistics.columns import Column, Number
from fl_integration.statistics.products import (
    Products,
    check_step,
    largest_product,
    length_of,
    numbers_of,
    sum_products,
)
from fl_integration.statistics.question import Question, Step, Total
from fl_integration.statistics.rows import Rows
from fl_integration.statistics.showing import complete, load_special, p_value, with_provenance
from secagg.errors import RoundAborted

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

__all__ = ["Correlation", "Correlations"]

_STEP: Final = "products"


@dataclass(frozen=True, slots=True)
class Correlation(Question):
    """The correlation of each pair of columns, with its p-value. One sum, of about p²/2 values of p columns.

    A row that lacks any of the values is left out; how many such rows there are is in the answer.

    Args:
        numbers: the columns, at least two.

    Raises:
        ParameterError: they are no two or more numbers.
    """

    numbers: tuple[Number, ...]

    complete_cases: ClassVar[bool] = True
    needs_scipy: ClassVar[bool] = True

    def __post_init__(self) -> None:
        Question.__post_init__(self)
        object.__setattr__(self, "numbers", numbers_of(self.numbers, least=2, what="a Correlation"))

    @property
    def columns(self) -> tuple[Column, ...]:
        return self.numbers

    @property
    def most_sums(self) -> int:
        return 1

    def largest(self, *, max_rows: int) -> int:
        return largest_product(self.numbers, max_rows=max_rows)

    def asking(self, *, max_rows: int) -> Generator[Step, Total, "Correlations"]:
        total = yield Step(_STEP, length_of(self.numbers))
        return _correlated(self.numbers, Products.of(total, 1 + len(self.numbers)))

    def summand(self, step: Step, rows: Rows) -> Total:
        check_step(step, name=_STEP, length=length_of(self.numbers))
        return sum_products(rows, self.numbers)


@dataclass(frozen=True, kw_only=True, eq=False)
class Correlations(Answer):
    """The answer to a `Correlation`.

    Attributes:
        names: of the p columns.
        r: float64[p, p], 1 on the diagonal; NaN where one of the two does not vary.
        p_values: float64[p, p], two-sided; 0 on the diagonal, NaN where r is.
        count: complete rows.
        incomplete: rows that were left out.
    """

    names: tuple[str, ...]
    r: NDArray[np.float64]
    p_values: NDArray[np.float64]
    count: int
    incomplete: int

    def to_frame(self) -> "pd.DataFrame":
        """One row a pair: the two columns, r and p."""
        first, second = np.triu_indices(len(self.names), 1)
        return frame_of(
            {
                "column": [self.names[each] for each in first],
                "other": [self.names[each] for each in second],
                "r": self.r[first, second],
                "p": self.p_values[first, second],
            }
        )

    def draw(self, axes: "Axes | None" = None) -> Any:
        """The matrix as colours, blue below zero and orange above, with r written where there is room."""
        count = len(self.names)
        side = 3.0 + 0.45 * min(count, 24)
        axes = new_axes(axes, width=side + 1, height=side)
        image = axes.imshow(self.r, vmin=-1, vmax=1, cmap="PuOr_r")
        axes.set_xticks(range(count), self.names, rotation=45, ha="right")
        axes.set_yticks(range(count), self.names)
        if count <= 16:
            for i, j in np.ndindex(count, count):
                text = "–" if np.isnan(self.r[i, j]) else f"{self.r[i, j]:.2f}"
                shade = "white" if abs(self.r[i, j]) > 0.6 else "black"
                axes.text(j, i, text, ha="center", va="center", color=shade, fontsize="small")
        axes.spines[:].set_visible(False)
        axes.figure.colorbar(image, ax=axes, label="Pearson's r", shrink=0.8)
        return axes

    def __str__(self) -> str:
        """A line a pair."""
        frame = self.to_frame()
        frame["p"] = [p_value(each) for each in frame["p"]]
        table = frame.to_string(index=False, float_format=lambda each: f"{each:.3f}", na_rep="–")
        return with_provenance(f"{table}\n{complete(self.count, self.incomplete)}", self.provenance)


def _correlated(numbers: tuple[Number, ...], products: Products) -> Correlations:
    """Of Python's ints N·Σxy - Σx·Σy, and N·Σx² - (Σx)² on the diagonal."""
    spread = products.spread
    own = np.diag(spread)
    whole = np.outer(own, own)
    rest = whole - spread**2
    if (own < 0).any() or (rest < 0).any():
        raise RoundAborted("a correlation beyond 1: a contributor added what no rows have")
    diagonal = np.eye(len(numbers), dtype=np.bool_)
    varies = (whole > 0) & ~diagonal
    r, p_values = np.where(diagonal, 1.0, np.nan), np.where(diagonal, 0.0, np.nan)
    signs = np.where((spread < 0)[varies], -1.0, 1.0)
    r[varies] = signs * np.sqrt((spread[varies] ** 2 / whole[varies]).astype(np.float64))
    left = (rest[varies] / whole[varies]).astype(np.float64)
    # Two rows always lie on a line: no r is surprising.
    degrees = products.count - 2
    p_values[varies] = load_special().betainc(degrees / 2, 0.5, left) if degrees > 0 else 1.0
    return Correlations(
        names=tuple(each.name for each in numbers),
        r=r,
        p_values=p_values,
        count=products.count,
        incomplete=products.incomplete,
    )
