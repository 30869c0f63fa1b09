"""How well a score tells an outcome: ROC curve, AUC, calibration, Brier score, from one histogram.

The sites count their rows by score, rounded to the score column's unit, and by outcome. All else follows from
the two histograms and is exact for the rounded scores: pairs in one bin count half, as ties do. Against
scores that were not rounded, the AUC is off by at most half the share of the pairs that share a bin
(`auc_bound`).

A histogram of a fine score opens cells of single patients: with 12 bits nearly every cell holds none or one.
A site's policy demands a coarser unit, or that only clients learn the sum (`cells`). Confidence intervals of
the AUC are DeLong's (DeLong, DeLong and Clarke-Pearson 1988), here from counts (Sun and Xu 2014 have the same
by ranks).

>>> question = RocCurve(Category("died", ("no", "yes")), Number("risk", low=0, high=1, unit=1 / 4))
>>> step = next(question.asking(max_rows=10))
>>> question.summand(step, Rows.of({"died": ["no", "yes", "yes"], "risk": [0.2, 0.26, 0.9]})).tolist()
[0, 1, 0, 0, 0, 0, 1, 0, 0, 1, 0]
"""

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import ClassVar, Final

import numpy as np

from fl_integration.statistics.columns import Category, Column, Number
from fl_integration.statistics.design_matrix import check_two_levels
from fl_integration.statistics.question import Asking, Question, Step, Total
from fl_integration.statistics.roc_answer import RocAnswer
from fl_integration.statistics.rows import Rows
from secagg.errors import ParameterError, RoundAborted

__all__ = ["RocCurve"]

_MOST_BINS: Final = (1 << 16) + 1


@dataclass(frozen=True, slots=True)
class RocCurve(Question):
    """Counts of rows by score and outcome.

    A row counts if both are known; the answer has the number of others. A score outside the bounds counts as
    the nearer bound.

    Args:
        outcome: two levels; the second is the event.
        score: higher where the event is likelier. If its bounds are 0 and 1, it is taken for a probability,
            and calibration and Brier score are to be had; unit=1 / 4096 gives 12 bits.

    Raises:
        ParameterError: the outcome has not two levels, or the score has more than 2**16 units.
    """

    outcome: Category
    score: Number
    cells: ClassVar[bool] = True
    complete_cases: ClassVar[bool] = True
    needs_scipy: ClassVar[bool] = True

    def __post_init__(self) -> None:
        Question.__post_init__(self)
        check_two_levels(self.outcome, role="the outcome")
        if not isinstance(self.score, Number) or self.score.name == self.outcome.name:
            raise ParameterError(
                f"score is {self.score!r}; it must be a Number, and another column than the outcome"
            )
        if self._bins > _MOST_BINS:
            raise ParameterError(
                f"the score {self.score.name!r} has {self._bins} bins; at most {_MOST_BINS} are allowed: "
                f"pass a larger unit, such as {(self.score.high - self.score.low) / 4096:g}"
            )

    @property
    def columns(self) -> tuple[Column, ...]:
        return (self.outcome, self.score)

    @property
    def cuts(self) -> Mapping[str, tuple[float, ...]]:
        """The grid of scores."""
        return {self.score.name: self._grid}

    @property
    def most_sums(self) -> int:
        return 1

    def largest(self, *, max_rows: int) -> int:
        """Every value is a count of rows."""
        return max_rows

    def asking(self, *, max_rows: int) -> Asking:
        total = yield Step(name="scores", length=self._length)
        if int(total.min()) < 0:
            raise RoundAborted("a count is below zero: a contributor added what no rows have")
        negatives, positives = total[:-1].reshape(2, self._bins)
        for counts, level in ((negatives, self.outcome.levels[0]), (positives, self.outcome.levels[1])):
            if not counts.any():
                raise ParameterError(
                    f"no row with a score has the level {level!r} of {self.outcome.name!r}; a ROC curve "
                    "needs both"
                )
        return RocAnswer(
            outcome=f"{self.outcome.name}={self.outcome.levels[1]}",
            score=self.score.name,
            scores=np.array(self._grid),
            positives=positives.copy(),
            negatives=negatives.copy(),
            incomplete=int(total[-1]),
        )

    def summand(self, step: Step, rows: Rows) -> Total:
        """Rows of the first level by score, of the second by score, and those that lack a value."""
        if (step.name, step.length, step.parameters) != ("scores", self._length, ()):
            raise ParameterError(
                f"the step {step.name!r} of {step.length} values is none of this question; it has 'scores' "
                f"of {self._length}, without parameters"
            )
        outcome = rows.codes(self.outcome)
        complete = (outcome >= 0) & rows.present(self.score)
        bins = rows.steps(self.score)[complete] + self.score.middle - self._lowest
        counts = np.bincount(outcome[complete] * self._bins + bins, minlength=2 * self._bins)
        return np.concatenate([counts, [len(rows) - len(bins)]]).astype(np.int64)

    @property
    def _lowest(self) -> int:
        """The lowest score, in units."""
        return round(self.score.low / self.score.unit)

    @property
    def _bins(self) -> int:
        return round(self.score.high / self.score.unit) - self._lowest + 1

    @property
    def _grid(self) -> tuple[float, ...]:
        steps = range(self._lowest, self._lowest + self._bins)
        return tuple(float(each * Fraction(self.score.unit)) for each in steps)

    @property
    def _length(self) -> int:
        return 2 * self._bins + 1
