"""Two categories against each other: counts, and whether they have to do with one another.

χ² is Pearson's, for tables of two by two also with Yates' correction. It is an approximation, and a poor one
where few are expected: Cochran (Biometrics 10, 1954) asks that no expected count be below 1 and no more than
a fifth of them below 5; where that is not so, `dependable` says so and the printed table too. A table of two
by two with an expected count below 5 has Fisher's exact test as well. Levels that nobody has are left out of
the tests. All counts are exact, and so is all that is computed of them up to a division for each cell.

The cells of the table are opened: whom a count of one describes is known by all who see it. What a site's
policy says of small cells holds before the sum, see `policy`.
"""

from collections.abc import Generator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Final

import numpy as np
from numpy.typing import NDArray

from fl_integration.statistics.answer import Answer, frame_of, new_axes
from fl_integration.statistics.columns import Category, Column
from fl_integration.statistics.products import check_names, check_step
from fl_integration.statistics.question import Question, Step, Total
from fl_integration.statistics.rows import Rows
from fl_integration.statistics.showing import BLUE, ORANGE, load_special, p_value, with_provenance
from secagg.errors import MissingExtraError, ParameterError, RoundAborted

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

__all__ = ["ChiSquared", "ContingencyTable", "CrossTable", "Fisher"]

_STEP: Final = "cells"
_MOST_CELLS: Final = 1 << 16
_FEW: Final = 5


@dataclass(frozen=True, slots=True)
class ChiSquared:
    """A test of independence.

    Attributes:
        statistic: χ².
        degrees: of freedom.
        p_value: the chance of as large a statistic where the two have nothing to do with each other.
    """

    statistic: float
    degrees: int
    p_value: float


@dataclass(frozen=True, slots=True)
class Fisher:
    """Fisher's exact test, two-sided.

    Attributes:
        odds_ratio: of the sample, ad/bc.
        p_value: the chance of a table that is no likelier than this one, its margins given.
    """

    odds_ratio: float
    p_value: float


@dataclass(frozen=True, slots=True)
class CrossTable(Question):
    """Counts of two categories by each other, with χ², Fisher's test and Cramér's V. One sum.

    A row that lacks one of the two values is in no cell; how many such rows there are is in the answer.

    Args:
        row: whose levels are the table's rows.
        column: whose levels are its columns; the table has at most 2**16 cells.

    Raises:
        ParameterError: they are no two categories, or have too many levels.
    """

    row: Category
    column: Category

    cells: ClassVar[bool] = True
    complete_cases: ClassVar[bool] = True
    needs_scipy: ClassVar[bool] = True

    def __post_init__(self) -> None:
        Question.__post_init__(self)
        if not (isinstance(self.row, Category) and isinstance(self.column, Category)):
            raise ParameterError(
                "row and column of a CrossTable are each a Category; bin a Number at the sites"
            )
        check_names(self.columns)
        if len(self.row.levels) * len(self.column.levels) > _MOST_CELLS:
            raise ParameterError(
                f"a table of {len(self.row.levels)} by {len(self.column.levels)} levels; at most "
                f"{_MOST_CELLS} cells: join levels"
            )

    @property
    def columns(self) -> tuple[Column, ...]:
        return (self.row, self.column)

    @property
    def most_sums(self) -> int:
        return 1

    def largest(self, *, max_rows: int) -> int:
        return max_rows

    @property
    def _length(self) -> int:
        return 1 + len(self.row.levels) * len(self.column.levels)

    def asking(self, *, max_rows: int) -> Generator[Step, Total, "ContingencyTable"]:
        total = yield Step(_STEP, self._length)
        if int(total.min()) < 0:
            raise RoundAborted("a count is below zero: a contributor added what no rows have")
        counts = total[1:].reshape(len(self.row.levels), len(self.column.levels))
        return _tested(self.row, self.column, counts.astype(np.int64), missing=int(total[0]))

    def summand(self, step: Step, rows: Rows) -> Total:
        check_step(step, name=_STEP, length=self._length)
        row, column = rows.codes(self.row), rows.codes(self.column)
        known = (row >= 0) & (column >= 0)
        cells = row[known] * len(self.column.levels) + column[known]
        counts = np.bincount(cells, minlength=self._length - 1)
        return np.concatenate([[np.count_nonzero(~known)], counts]).astype(np.int64)


@dataclass(frozen=True, kw_only=True, eq=False)
class ContingencyTable(Answer):
    """The answer to a `CrossTable`.

    Attributes:
        row, column: the two categories.
        counts: int64[levels of row, levels of column].
        expected: float64 of the same shape, what the margins alone would give; NaN of an empty table.
        missing: rows that lack one of the two values.
        chi_squared: without correction; None where fewer than two levels of either occur.
        corrected: with Yates' correction, of two by two; None otherwise.
        fisher: of two by two with an expected count below 5; None otherwise.
        cramers_v: in [0, 1], how strong the association is; NaN where there is no χ².
        dependable: whether the expected counts are large enough for χ² (Cochran's rule).
    """

    row: Category
    column: Category
    counts: NDArray[np.int64]
    expected: NDArray[np.float64]
    missing: int
    chi_squared: ChiSquared | None
    corrected: ChiSquared | None
    fisher: Fisher | None
    cramers_v: float
    dependable: bool

    def to_frame(self) -> "pd.DataFrame":
        """The counts, levels of `row` down and levels of `column` across."""
        across = dict(zip(self.column.levels, self.counts.T, strict=True))
        frame = frame_of(across, index=self.row.levels, name=self.row.name)
        return frame.rename_axis(columns=self.column.name)

    def draw(self, axes: "Axes | None" = None) -> Any:
        """Stacked bars, one a level of `row`: the share of each level of `column`, and how many they are."""
        axes = new_axes(axes)
        sizes = self.counts.sum(axis=1)
        shares = self.counts / np.maximum(sizes, 1)[:, None]
        places, left = np.arange(len(sizes)), np.zeros(len(sizes))
        shades = _shades(len(self.column.levels))
        for level, share, shade in zip(self.column.levels, shares.T, shades, strict=True):
            axes.barh(places, share, left=left, color=shade, edgecolor="white", label=str(level))
            left = left + share
        axes.set_yticks(
            places, [f"{level}\nn = {size}" for level, size in zip(self.row.levels, sizes, strict=True)]
        )
        axes.invert_yaxis()
        axes.set_xlim(0, 1)
        axes.set_xlabel(f"share of {self.column.name}")
        axes.set_ylabel(self.row.name)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(title=self.column.name, loc="upper left", bbox_to_anchor=(1, 1), frameon=False)
        axes.set_title(self._words()[0] if self._words() else "", fontsize="medium")
        return axes

    def __str__(self) -> str:
        """The table with its margins, and the tests below."""
        sides, margin = self.counts.sum(axis=1), self.counts.sum(axis=0)
        whole = np.block([[self.counts, sides[:, None]], [margin, sides.sum()]])
        # By place and not by name: a level may be called "all".
        frame = frame_of(dict(enumerate(whole.T)), index=[*self.row.levels, "all"], name=self.row.name)
        frame.columns = [*map(str, self.column.levels), "all"]
        frame = frame.rename_axis(columns=self.column.name)
        left_out = [f"{self.missing} rows lack a value"] if self.missing else []
        return with_provenance("\n".join([frame.to_string(), *self._words(), *left_out]), self.provenance)

    def _words(self) -> list[str]:
        """What the tests say, a line each."""
        if self.chi_squared is None:
            return ["no test: fewer than two levels occur"]
        found = self.chi_squared
        lines = [
            f"χ²({found.degrees}) = {found.statistic:.2f}, p {_written(found.p_value)}; "
            f"Cramér's V {self.cramers_v:.2f}"
        ]
        if self.corrected is not None:
            lines.append(
                f"with Yates' correction {self.corrected.statistic:.2f}, p {_written(self.corrected.p_value)}"
            )
        if self.fisher is not None:
            lines.append(
                f"Fisher's exact test: p {_written(self.fisher.p_value)}, "
                f"odds ratio {self.fisher.odds_ratio:.2f}"
            )
        if not self.dependable:
            lines.append(
                "χ² is not to be relied on: expected counts are too small"
                + ("; read Fisher's test" if self.fisher is not None else "; join levels")
            )
        return lines


def _tested(row: Category, column: Category, counts: NDArray[np.int64], *, missing: int) -> ContingencyTable:
    """The answer of the pooled counts."""
    exact = counts.astype(object)  # Python's ints: N·count and the products of margins pass 63 bits
    everybody = int(counts.sum(dtype=object))
    across, down = exact.sum(axis=1), exact.sum(axis=0)
    margins = np.outer(across, down)
    expected = (
        (margins / everybody).astype(np.float64)
        if everybody
        else np.full(counts.shape, np.nan, dtype=np.float64)
    )
    kept = np.ix_(across > 0, down > 0)
    shape = counts[kept].shape
    chi_squared = corrected = fisher = None
    cramers_v, dependable = float("nan"), False
    if min(shape) >= 2:
        few = expected[kept] < _FEW
        dependable = bool(expected[kept].min() >= 1 and few.mean() <= 0.2)
        distance = abs(exact[kept] * everybody - margins[kept])  # N·|count - expected|
        chi_squared = _chi_squared(distance, margins[kept], everybody)
        cramers_v = float(np.sqrt(chi_squared.statistic / (everybody * (min(shape) - 1))))
        if shape == (2, 2):
            # Yates takes half a count off each distance, and no more than it is.
            twice = 2 * distance - np.minimum(everybody, 2 * distance)
            corrected = _chi_squared(twice, 4 * margins[kept], everybody)
            fisher = _fisher(counts[kept]) if few.any() else None
    return ContingencyTable(
        row=row,
        column=column,
        counts=counts,
        expected=expected,
        missing=missing,
        chi_squared=chi_squared,
        corrected=corrected,
        fisher=fisher,
        cramers_v=cramers_v,
        dependable=dependable,
    )


def _chi_squared(distance: NDArray[Any], margins: NDArray[Any], everybody: int) -> ChiSquared:
    """Of Python's ints: Σ (count - expected)² / expected, a division a cell."""
    statistic = float(np.sum(distance**2 / (margins * everybody)))
    degrees = (distance.shape[0] - 1) * (distance.shape[1] - 1)
    return ChiSquared(statistic, degrees, float(load_special().chdtrc(degrees, statistic)))


def _fisher(counts: NDArray[np.int64]) -> Fisher:
    try:
        from scipy.stats import fisher_exact
    except ImportError as error:
        raise MissingExtraError(package="scipy", extra="statistics") from error
    ratio, chance = fisher_exact(counts)
    return Fisher(float(ratio), float(chance))


def _written(p: float) -> str:
    text = p_value(p)
    return text if text[0] in "<>" else f"= {text}"


def _shades(count: int) -> list[Any]:
    """Colours from blue to orange."""
    from matplotlib.colors import LinearSegmentedColormap

    return list(
        LinearSegmentedColormap.from_list("levels", [BLUE, "#dfe3e8", ORANGE])(np.linspace(0, 1, count))
    )
