"""Which genetic markers differ between cases and controls: a test for each of very many.

The allelic test is Pearson's χ² of the two by two table of alleles: how many of one kind and how many of the
other, in cases and in controls. It takes the two alleles of a person for independent draws, which holds in
Hardy-Weinberg equilibrium. The trend test (Cochran 1954, Armitage 1955; Sasieni, Biometrics 53, 1997)
compares persons' allele counts and needs no equilibrium; it costs half as much again on the wire.

A site sums x - 1 over its persons, with x in 0, 1, 2 the count of the allele: so the sum is at most the
number of persons in absolute value, not twice that, and a value on the wire is a bit shorter. It sums in
int8, 63 persons at a time, which is as fast as memory is. All statistics are of integers, vectorised over the
markers.

What is opened are the allele frequencies of cases and of controls at each marker. Of so many markers they
tell whether a person whose genotype one knows is among the cases (Homer et al., PLoS Genetics 4, 2008). Ask
this of large cohorts only, and let those who learn the answer be bound by more than arithmetic.
"""

import math
from collections.abc import Generator
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any, ClassVar, Final

import numpy as np
from numpy.typing import NDArray

from fl_integration.statistics.answer import Answer, frame_of, new_axes
from fl_integration.statistics.columns import Category, Column, Genotypes
from fl_integration.statistics.products import check_names, check_step
from fl_integration.statistics.question import Question, Step, Total
from fl_integration.statistics.rows import Rows
from fl_integration.statistics.showing import BLUE, RED, load_special, p_value, with_provenance
from secagg.errors import ParameterError, RoundAborted

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

__all__ = ["AlleleTest", "AlleleTests", "Association", "Calls"]

_STEP: Final = "alleles"
_GROUPS: Final = 2
_MOST_ROWS: Final = 1 << 20
"""Rows of a site, so that N·Σxy of a thousand sites is an int64."""
_PERSONS: Final = 63
"""Whose allele counts, each at most 2, add up to an int8."""
_MARKERS: Final = 1 << 13
"""Markers at once: 63 persons' of them stay in the cache."""
_SHOWN: Final = 10
_MEDIAN: Final = 0.454936423119572
"""Of χ² with one degree of freedom."""


class Calls(Enum):
    """What is known of missing genotypes.

    COUNTED: each marker has its own counts of persons, which doubles the wire.
    COMPLETE: there are none, and a site that has one refuses.
    """

    COUNTED = "counted"
    COMPLETE = "complete"


class Association(Enum):
    """Which tests are made.

    ALLELIC: χ² of alleles.
    TREND: that, and the test of Cochran and Armitage.
    """

    ALLELIC = "allelic"
    TREND = "trend"


@dataclass(frozen=True, slots=True)
class AlleleTest(Question):
    """Allelic χ², odds ratio and p of each marker, and the trend test where asked. One sum.

    Of M markers 2·M + 2 values go over the wire, 2·M more with `Calls.COUNTED`, M more with
    `Association.TREND`. Persons of whom no genotype is known, or not whether they are cases, are left
    out; how many is not told.

    Args:
        genotypes: allele counts.
        cases: who is a case: a category of two levels, the first of controls, the second of cases.
        calls: what is known of missing genotypes.
        association: which tests.

    Raises:
        ParameterError: an argument is none of these.
    """

    genotypes: Genotypes
    cases: Category
    calls: Calls = Calls.COUNTED
    association: Association = Association.ALLELIC

    cells: ClassVar[bool] = True
    complete_cases: ClassVar[bool] = True
    needs_scipy: ClassVar[bool] = True

    def __post_init__(self) -> None:
        Question.__post_init__(self)
        if not isinstance(self.genotypes, Genotypes):
            raise ParameterError("genotypes of an AlleleTest are Genotypes")
        if not isinstance(self.cases, Category) or len(self.cases.levels) != _GROUPS:
            raise ParameterError(
                "cases of an AlleleTest are a Category of two levels, controls first and cases second"
            )
        if not isinstance(self.calls, Calls) or not isinstance(self.association, Association):
            raise ParameterError("calls and association of an AlleleTest are a Calls and an Association")
        check_names(self.columns)

    @property
    def columns(self) -> tuple[Column, ...]:
        return (self.genotypes, self.cases)

    @property
    def most_sums(self) -> int:
        return 1

    def largest(self, *, max_rows: int) -> int:
        if max_rows > _MOST_ROWS:
            raise ParameterError(
                f"max_rows is {max_rows}; an AlleleTest takes at most {_MOST_ROWS} rows a site"
            )
        return max_rows

    @property
    def _length(self) -> int:
        counted, trend = self.calls is Calls.COUNTED, self.association is Association.TREND
        return _GROUPS + self.genotypes.markers * (_GROUPS * (1 + counted) + trend)

    def asking(self, *, max_rows: int) -> Generator[Step, Total, "AlleleTests"]:
        total = yield Step(_STEP, self._length)
        persons, rest = total[:_GROUPS, None], total[_GROUPS:].reshape(-1, self.genotypes.markers)
        missing = rest[_GROUPS : 2 * _GROUPS] if self.calls is Calls.COUNTED else np.zeros((1, 1), np.int64)
        called = persons - missing
        doubles = rest[-1] if self.association is Association.TREND else None
        lies = int(missing.min()) < 0 or int(called.min()) < 0 or (np.abs(rest[:_GROUPS]) > called).any()
        if lies or (doubles is not None and ((doubles < 0) | (doubles > called.sum(axis=0))).any()):
            raise RoundAborted(
                "allele counts beyond those of the persons: a contributor added something else"
            )
        return _associated(
            rest[:_GROUPS] + called, np.broadcast_to(called, rest[:_GROUPS].shape), doubles, persons
        )

    def summand(self, step: Step, rows: Rows) -> Total:
        check_step(step, name=_STEP, length=self._length)
        matrix = rows.matrix(self.genotypes)
        # Of whom no genotype is known is no complete case, and the ledger does not know of her.
        codes = np.where(rows.present(self.genotypes), rows.codes(self.cases), -1)
        persons = np.array([np.count_nonzero(codes == group) for group in range(_GROUPS)], dtype=np.int64)
        if self.calls is Calls.COMPLETE and matrix.size and int(matrix.min()) < 0:
            raise ParameterError(
                f"{self.genotypes.name!r} has missing genotypes, and the question says Calls.COMPLETE: "
                "ask with Calls.COUNTED, or impute them"
            )
        total = np.zeros(self._length, dtype=np.int64)
        total[:_GROUPS] = persons
        sums = total[_GROUPS:].reshape(-1, self.genotypes.markers)
        for group in range(_GROUPS):
            members = np.flatnonzero(codes == group)
            for start in range(0, self.genotypes.markers, _MARKERS):
                part = slice(start, start + _MARKERS)
                for first in range(0, len(members), _PERSONS):
                    self._add(sums[:, part], matrix[members[first : first + _PERSONS], part], group)
        return total

    def _add(self, sums: NDArray[np.int64], block: NDArray[np.int8], group: int) -> None:
        """Adds at most 63 persons of a group to the sums, of which each is at most 126 and fits an int8."""
        sums[group] += block.sum(axis=0, dtype=np.int8)
        sums[group] -= len(block)
        if self.calls is Calls.COUNTED:
            missing = (block < 0).sum(axis=0, dtype=np.int8)
            sums[_GROUPS + group] += missing
            sums[group] += 2 * missing.astype(np.int64)  # -1 where x is missing, and 1 was taken off: now 0
        if self.association is Association.TREND:
            sums[-1] += (block == 2).sum(axis=0, dtype=np.int8)


@dataclass(frozen=True, kw_only=True, eq=False)
class AlleleTests(Answer):
    """The answer to an `AlleleTest` of M markers.

    Attributes:
        cases, controls: persons.
        alleles: int64[2, M], of the kind that is counted, in controls and in cases.
        called: int64[2, M], controls and cases whose genotype is known.
        odds_ratios: float64[M], of the counted allele in cases against controls; inf or NaN where a cell is
            empty.
        chi_squared: float64[M], allelic, without correction; NaN where all alleles are alike or a group is
            empty.
        p_values: float64[M].
        trend: float64[M], statistic of Cochran and Armitage with weights 0, 1, 2; None where not asked.
        trend_p_values: float64[M]; None where not asked.
    """

    cases: int
    controls: int
    alleles: NDArray[np.int64]
    called: NDArray[np.int64]
    odds_ratios: NDArray[np.float64]
    chi_squared: NDArray[np.float64]
    p_values: NDArray[np.float64]
    trend: NDArray[np.float64] | None
    trend_p_values: NDArray[np.float64] | None

    @property
    def frequencies(self) -> NDArray[np.float64]:
        """float64[2, M], of the counted allele in controls and in cases; NaN where nobody's is known."""
        with np.errstate(invalid="ignore"):
            return self.alleles / (2 * self.called)

    @property
    def inflation(self) -> float:
        """Median χ² over what it would be if no marker mattered: above 1.1 look for ancestry that differs."""
        tested = self.chi_squared[~np.isnan(self.chi_squared)]
        return float(np.median(tested)) / _MEDIAN if len(tested) else float("nan")

    def to_frame(self) -> "pd.DataFrame":
        """One row a marker."""
        controls, cases = self.frequencies
        columns = {
            "controls": self.called[0],
            "cases": self.called[1],
            "frequency in controls": controls,
            "in cases": cases,
            "odds ratio": self.odds_ratios,
            "χ²": self.chi_squared,
            "p": self.p_values,
        }
        if self.trend is not None:
            columns |= {"trend": self.trend, "trend p": self.trend_p_values}
        return frame_of(columns, index=range(len(self.p_values)), name="marker")

    def draw(self, axes: "Axes | None" = None) -> Any:
        """A Manhattan plot: -log10 p of each marker, and Bonferroni's line of 5 % for all together."""
        axes = new_axes(axes, width=9, height=4)
        tested = np.flatnonzero(~np.isnan(self.p_values))
        height = -np.log10(np.maximum(self.p_values[tested], np.finfo(np.float64).tiny))
        line = -np.log10(0.05 / max(1, len(tested)))
        above = height > line
        for chosen, colour in ((~above, BLUE), (above, RED)):
            axes.scatter(tested[chosen], height[chosen], s=6, color=colour, linewidths=0, rasterized=True)
        axes.axhline(line, color=RED, linewidth=1, linestyle="--")
        axes.set_xlim(-0.5, len(self.p_values) - 0.5)
        axes.set_ylim(bottom=0)
        axes.set_xlabel("marker")
        axes.set_ylabel("-log₁₀ p")
        axes.set_title(f"{self.cases} cases, {self.controls} controls", fontsize="medium")
        axes.spines[["top", "right"]].set_visible(False)
        return axes

    def __str__(self) -> str:
        """The ten markers of the smallest p, and how many pass Bonferroni's 5 %."""
        tested = int(np.count_nonzero(~np.isnan(self.p_values)))
        frame = self.to_frame().sort_values("p", kind="stable").head(_SHOWN)
        for name in frame.columns.intersection(["p", "trend p"]):
            frame[name] = [_small(each) for each in frame[name]]
        passed = int(np.count_nonzero(self.p_values < 0.05 / max(1, tested)))
        text = (
            f"{self.cases} cases, {self.controls} controls; {tested} of {len(self.p_values)} markers tested, "
            f"{passed} with p below .05/{tested}; inflation {self.inflation:.3f}\n"
            f"{frame.to_string(float_format=lambda each: f'{each:.4g}', na_rep='–')}"
        )
        return with_provenance(text, self.provenance)


def _small(p: float) -> str:
    """Of so many tests the small p-values are the ones to tell apart; none is 0."""
    if p >= 0.001 or math.isnan(p):
        return p_value(p)
    return f"{p:.2g}" if p > 0 else "<1e-307"


def _associated(
    alleles: NDArray[np.int64],
    called: NDArray[np.int64],
    doubles: NDArray[np.int64] | None,
    persons: NDArray[np.int64],
) -> AlleleTests:
    """The answer; alleles and called are int64[2, M], of controls and cases; so are the products below."""
    chances = 2 * called
    others = chances - alleles
    either, neither = alleles.sum(axis=0), others.sum(axis=0)
    # ad - bc, of at most (N/2)² for N alleles; largest() holds N below 2**31.
    cross = alleles[1] * others[0] - alleles[0] * others[1]
    everybody = chances.sum(axis=0).astype(np.float64)
    chdtrc = load_special().chdtrc
    with np.errstate(divide="ignore", invalid="ignore"):
        odds = (alleles[1] * others[0]) / (alleles[0] * others[1])
        # Quotients first: the product of the four margins may be beyond a float's whole numbers, this is not.
        margins = (chances[0] * chances[1]).astype(np.float64) * (either * neither).astype(np.float64)
        chi_squared = everybody * cross.astype(np.float64) ** 2 / margins
        trend = None
        if doubles is not None:
            count = called.sum(axis=0)
            squares = either + 2 * doubles  # x² is x, and 2 more where x is 2
            slope = (count * alleles[1] - called[1] * either).astype(np.float64)
            spread = (count * squares - either**2).astype(np.float64)
            trend = count * slope**2 / ((called[0] * called[1]).astype(np.float64) * spread)
    return AlleleTests(
        controls=int(persons[0, 0]),
        cases=int(persons[1, 0]),
        alleles=alleles,
        called=np.ascontiguousarray(called),
        odds_ratios=odds,
        chi_squared=chi_squared,
        p_values=chdtrc(1, chi_squared),
        trend=trend,
        trend_p_values=None if trend is None else chdtrc(1, trend),
    )
