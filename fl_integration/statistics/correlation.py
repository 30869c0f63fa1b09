"""Pearson's correlations of all pairs of columns.

Each pair takes the rows that have both its values (`Cases.PAIRWISE`), or all pairs take the rows that have
every value (`Cases.COMPLETE`). Pairwise uses more of the data, and then the matrix need not be positive
semi-definite, for its entries are of different people: who goes on computing with it wants complete cases.

With A = N·Σx² - (Σx)², B the same of y and C = N·Σxy - Σx·Σy, integers all, r² = C²/(A·B) and
1 - r² = (A·B - C²)/(A·B) are each one division, so a p-value is as good next to r = 1 as anywhere. It is that
of the two-sided t test of r, I_{1-r²}((n - 2)/2, 1/2), for pairs that are normal.
"""

from collections.abc import Generator
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from fl_integration.statistics.answer import Answer
from fl_integration.statistics.columns import Column, Number
from fl_integration.statistics.products import (
    Products,
    check_step,
    gram,
    largest_product,
    length_of,
    numbers_of,
    sum_products,
)
from fl_integration.statistics.question import Question, Step, Total
from fl_integration.statistics.rows import Rows
from fl_integration.statistics.showing import axes_of, load_pandas, load_special, p_value
from secagg.errors import ParameterError, RoundAborted

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

__all__ = ["Cases", "Correlation", "Correlations"]

_COMPLETE: Final = "products"
_PAIRWISE: Final = "pairs"
_SUMS_A_PAIR: Final = 6
"""n, Σx, Σy, Σx², Σy², Σxy."""


class Cases(Enum):
    """Which rows a pair of columns is correlated over."""

    PAIRWISE = "pairwise"
    COMPLETE = "complete"


@dataclass(frozen=True, slots=True)
class Correlation(Question):
    """The correlation of each pair of columns, with its p-value and its number of rows. One sum.

    Args:
        numbers: the columns, at least two.
        cases: PAIRWISE, rows that have both values (default), about 3·p² values of p columns on the wire;
            or COMPLETE, rows that have all, about p²/2.

    Raises:
        ParameterError: they are no two or more numbers.
    """

    numbers: tuple[Number, ...]
    cases: Cases = Cases.PAIRWISE

    def __post_init__(self) -> None:
        object.__setattr__(self, "numbers", numbers_of(self.numbers, least=2, what="a Correlation"))
        if not isinstance(self.cases, Cases):
            raise ParameterError(f"cases is {self.cases!r}; it must be a Cases")

    @property
    def columns(self) -> tuple[Column, ...]:
        return self.numbers

    @property
    def most_sums(self) -> int:
        return 1

    def largest(self, *, max_rows: int) -> int:
        return largest_product(self.numbers, max_rows=max_rows)

    @property
    def _step(self) -> Step:
        if self.cases is Cases.COMPLETE:
            return Step(_COMPLETE, length_of(self.numbers))
        count = len(self.numbers)
        return Step(_PAIRWISE, count + _SUMS_A_PAIR * count * (count - 1) // 2)

    def asking(self, *, max_rows: int) -> Generator[Step, Total, "Correlations"]:
        total = yield self._step
        names, width = tuple(each.name for each in self.numbers), len(self.numbers)
        if self.cases is Cases.COMPLETE:
            products = Products.of(total, 1 + width)
            spread, variances = products.spread, np.diag(products.spread)
            shape = (width, width)
            return _correlated(
                names,
                np.full(shape, products.count, dtype=np.int64),
                spread,
                np.broadcast_to(variances[:, None], shape),
                np.broadcast_to(variances[None, :], shape),
            )
        counts, *sums = _of_pairs(total, width)
        count, sum_x, sum_y, square_x, square_y, product = (each.astype(object) for each in (counts, *sums))
        return _correlated(
            names,
            counts,
            count * product - sum_x * sum_y,
            count * square_x - sum_x**2,
            count * square_y - sum_y**2,
        )

    def summand(self, step: Step, rows: Rows) -> Total:
        check_step(step, name=self._step.name, length=self._step.length)
        if self.cases is Cases.COMPLETE:
            return sum_products(rows, self.numbers)
        known = np.stack([rows.present(each) for each in self.numbers], axis=1).astype(np.int64)
        steps = np.stack([rows.steps(each) for each in self.numbers], axis=1)  # 0 where missing
        scale = max(1, *(each.largest for each in self.numbers))
        counts = gram(known, known, left_largest=1, right_largest=1)
        sums = gram(steps, known, left_largest=scale, right_largest=1)
        squares = gram(steps**2, known, left_largest=scale**2, right_largest=1)
        products = gram(steps, steps, left_largest=scale, right_largest=scale)
        pairs = np.triu_indices(len(self.numbers), 1)
        return np.concatenate(
            [
                np.diag(counts),
                *(each[pairs] for each in (counts, sums, sums.T, squares, squares.T, products)),
            ]
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class Correlations(Answer):
    """The answer to a `Correlation`.

    Attributes:
        names: of the p columns.
        r: float64[p, p], 1 on the diagonal; NaN where one of the two does not vary.
        p_values: float64[p, p], two-sided; 0 on the diagonal, NaN where r is.
        counts: int64[p, p], rows of each pair; on the diagonal, of each column (or the complete ones).
    """

    names: tuple[str, ...]
    r: NDArray[np.float64]
    p_values: NDArray[np.float64]
    counts: NDArray[np.int64]

    def to_frame(self) -> "pd.DataFrame":
        """One row a pair: the two columns, r, p and n."""
        first, second = np.triu_indices(len(self.names), 1)
        return load_pandas().DataFrame(
            {
                "column": [self.names[each] for each in first],
                "other": [self.names[each] for each in second],
                "r": self.r[first, second],
                "p": self.p_values[first, second],
                "n": self.counts[first, second],
            }
        )

    def draw(self, axes: "Axes | None" = None) -> Any:
        """The matrix as colours, blue below zero and orange above, with r written where there is room."""
        count = len(self.names)
        side = 3.0 + 0.45 * min(count, 24)
        axes = axes_of(axes, width=side + 1, height=side)
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
        return str(frame.to_string(index=False, float_format=lambda each: f"{each:.3f}", na_rep="–"))


def _of_pairs(total: Total, width: int) -> list[NDArray[np.int64]]:
    """The six sums of each ordered pair (i, j), int64[width, width] each; on the diagonal only n is.

    n, Σxy are symmetric; Σx at (i, j) is Σy at (j, i).
    """
    upper = np.triu_indices(width, 1)
    count, first, second, first_square, second_square, product = total[width:].reshape(_SUMS_A_PAIR, -1)

    def square(above: NDArray[np.int64], below: NDArray[np.int64]) -> NDArray[np.int64]:
        matrix = np.zeros((width, width), dtype=np.int64)
        matrix[upper] = above
        matrix.T[upper] = below
        return matrix

    counts = square(count, count)
    np.fill_diagonal(counts, total[:width])
    return [
        counts,
        square(first, second),
        square(second, first),
        square(first_square, second_square),
        square(second_square, first_square),
        square(product, product),
    ]


def _correlated(
    names: tuple[str, ...],
    counts: NDArray[np.int64],
    spread: NDArray[Any],
    spread_x: NDArray[Any],
    spread_y: NDArray[Any],
) -> Correlations:
    """Of Python's ints N·Σxy - Σx·Σy, N·Σx² - (Σx)² and the same of y, for each pair."""
    whole = spread_x * spread_y
    rest = whole - spread**2
    off = ~np.eye(len(names), dtype=np.bool_)
    if (rest[off] < 0).any() or (spread_x[off] < 0).any() or (counts < 0).any():
        raise RoundAborted("a correlation beyond 1: a contributor added what no rows have")
    varies = off & (whole > 0)
    r, p_values = (np.full(counts.shape, np.nan) for _ in range(2))
    np.fill_diagonal(r, 1.0)
    np.fill_diagonal(p_values, 0.0)
    r[varies] = np.sqrt((spread[varies] ** 2 / whole[varies]).astype(np.float64))
    r[varies & (spread < 0)] *= -1
    degrees = counts[varies] - 2.0
    left = (rest[varies] / whole[varies]).astype(np.float64)
    # Two rows always lie on a line: no r is surprising.
    p_values[varies] = np.where(
        degrees > 0, load_special().betainc(np.maximum(degrees, 1) / 2, 0.5, left), 1.0
    )
    return Correlations(names=names, r=r, p_values=p_values, counts=counts)
