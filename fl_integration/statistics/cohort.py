"""Table 1 as it is printed: numbers and categories, in all and by group, with what stands below."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from fl_integration.statistics.answer import Provenance, frame_of
from fl_integration.statistics.columns import Category, Level, Number
from fl_integration.statistics.comparing import Comparison
from fl_integration.statistics.showing import p_value

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["CategoryLine", "Label", "NumberLine", "TableOne"]

_MISSING: Final = "missing"
_P: Final = "p"

Label: TypeAlias = str | Mapping[Level | str, str]
"""What is printed for a column; for a category by level, with the column's own text under ""."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class NumberLine:
    """One measurement; the arrays have one value for all rows, and then one for each group.

    Attributes:
        column: what was measured.
        median: whether the median and quartiles are told, and not the mean and its deviation.
        count: int64[1 + groups], rows with a value.
        missing: int64[1 + groups], rows without one.
        centre: float64[1 + groups], mean or median; NaN where nothing is known.
        spread: float64[1 + groups, 2]: the standard deviation (n - 1) twice, or the quartiles.
        p_value: of the groups' difference; NaN where there is none to tell.
        test: that found it.
    """

    column: Number
    median: bool
    count: NDArray[np.int64]
    missing: NDArray[np.int64]
    centre: NDArray[np.float64]
    spread: NDArray[np.float64]
    p_value: float = math.nan
    test: Comparison | None = None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class CategoryLine:
    """One category.

    Attributes:
        column: the category.
        counts: int64[levels, 1 + groups], rows of each level, in all and by group.
        missing: int64[1 + groups], rows without a value.
        p_value, test: as of `NumberLine`.
    """

    column: Category
    counts: NDArray[np.int64]
    missing: NDArray[np.int64]
    p_value: float = math.nan
    test: Comparison | None = None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False, repr=False)
class TableOne:
    """A cohort, in all and by group.

    Attributes:
        by: the category whose levels are the groups; None: all rows alone.
        rows: int64[1 + groups], how many rows there are; those that lack `by` are in none.
        lines: the characteristics, in the order in which they were asked for.
        provenance: contributors, sums and bytes of all questions together.
        left_out: for a group (None: all) and a column ("": its rows), how many sites have too few to be in
            it.
        least_shown: counts below it are printed as "<" with it.
    """

    by: Category | None
    rows: NDArray[np.int64]
    lines: tuple[NumberLine | CategoryLine, ...]
    provenance: Provenance
    left_out: Mapping[tuple[Level | None, str], int] = field(default_factory=dict)
    least_shown: int = 1
    labels: Mapping[str, Label] = field(default_factory=dict)

    @property
    def heads(self) -> tuple[str, ...]:
        """The heads of the columns of `cells`."""
        groups = [] if self.by is None else [self._level(self.by, level) for level in self.by.levels]
        compared = (_P,) if self.by is not None else ()
        return (
            "",
            *(f"{name}\n(n = {self._count(n)})" for name, n in zip(["all", *groups], self.rows, strict=True)),
            _MISSING,
            *compared,
        )

    def cells(self) -> list[tuple[str, ...]]:
        """The table as texts, one tuple a row: the characteristic, all and each group, missing, p."""
        found = []
        for line in self.lines:
            found += self._number(line) if isinstance(line, NumberLine) else self._category(line)
        return found

    @property
    def notes(self) -> tuple[str, ...]:
        """What stands below the table."""
        told = []
        if any(isinstance(line, NumberLine) and not line.median for line in self.lines):
            told.append("mean (sd)")
        if any(isinstance(line, NumberLine) and line.median for line in self.lines):
            told.append("median [first and third quartile]")
        if any(isinstance(line, CategoryLine) for line in self.lines):
            told.append("n (% of those that are known)")
        notes = [f"Shown: {', '.join(told)}; missing: of all."]
        tests = [each.value for each in Comparison if any(line.test is each for line in self.lines)]
        if tests:
            notes.append(f"p: {', '.join(tests)}; not corrected for their number.")
        sites = len(self.provenance.contributors)
        most = max(self.provenance.sent.values(), default=0)
        notes.append(
            f"From {self.provenance.sums} secure sums of {sites} sites; each sent at most {most:,} bytes."
        )
        for (group, column), count in self.left_out.items():
            whose = "" if self.by is None or group is None else self._level(self.by, group)
            what = ", ".join(each for each in (self._name(column) if column else "", whose) if each) or "all"
            notes.append(
                f"{what}: {count} {'site has' if count == 1 else 'sites have'} too few "
                f"{'values' if column else 'rows'}, and none of them is counted."
            )
        return tuple(notes)

    def to_frame(self) -> "pd.DataFrame":
        """The table as texts."""
        heads = [head.replace("\n", " ") for head in self.heads]
        cells = self.cells()
        columns = {head: [row[place] for row in cells] for place, head in enumerate(heads) if place}
        return frame_of(columns, index=[row[0] for row in cells])

    def __str__(self) -> str:
        return "\n".join([self.to_frame().to_string(), "", *self.notes])

    def _number(self, line: NumberLine) -> list[tuple[str, ...]]:
        digits = _digits(line.column)
        shown = []
        for n, centre, (low, high) in zip(line.count, line.centre, line.spread, strict=True):
            if n < max(self.least_shown, 1) or math.isnan(centre):
                shown.append("–")
            elif line.median:
                shown.append(f"{centre:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]")
            else:
                shown.append(f"{centre:.{digits + 1}f} ({low:.{digits + 1}f})")
        return [self._row(self._name(line.column.name), shown, line)]

    def _category(self, line: CategoryLine) -> list[tuple[str, ...]]:
        known = line.counts.sum(axis=0)
        rows = [self._row(self._name(line.column.name), [""] * len(known), line)]
        for level, counts in zip(line.column.levels, line.counts, strict=True):
            shown = [self._share(int(n), int(of)) for n, of in zip(counts, known, strict=True)]
            rows.append((f"  {self._level(line.column, level)}", *shown, "", *[""] * (self.by is not None)))
        return rows

    def _row(self, name: str, shown: Sequence[str], line: NumberLine | CategoryLine) -> tuple[str, ...]:
        compared = (p_value(line.p_value),) if self.by is not None else ()
        return (name, *shown, self._count(int(line.missing[0])), *compared)

    def _share(self, n: int, of: int) -> str:
        if not of:
            return "–"
        return self._count(n) if 0 < n < self.least_shown else f"{n:,} ({100 * n / of:.1f})"

    def _count(self, n: int) -> str:
        return f"<{self.least_shown}" if 0 < n < self.least_shown else f"{n:,}"

    def _name(self, column: str) -> str:
        label = self.labels.get(column, column)
        return label if isinstance(label, str) else label.get("", column)

    def _level(self, column: Category, level: Level) -> str:
        label = self.labels.get(column.name, "")
        return str(level) if isinstance(label, str) else label.get(level, str(level))


def _digits(column: Number) -> int:
    """Decimals of a value that was written down in this unit, at most three."""
    return min(max(math.ceil(-math.log10(column.unit) - 1e-9), 0), 3)
