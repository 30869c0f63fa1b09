"""What follows from the histograms of a score by outcome: the answer of `RocCurve`."""

import math
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fl_integration.statistics.answer import Answer, frame_of, new_axes
from fl_integration.statistics.showing import BLUE, GREY, complete, load_special, p_value, with_provenance
from secagg.errors import ParameterError
from secagg.numbers import is_number, plain

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

__all__ = ["Calibration", "ConfusionMatrix", "HosmerLemeshow", "RocAnswer"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfusionMatrix:
    """Rows by what happened and by whether the score is at least `threshold`."""

    threshold: float
    true_positives: int
    false_positives: int
    true_negatives: int
    false_negatives: int

    @property
    def sensitivity(self) -> float:
        """The share of events that are called."""
        return _share(self.true_positives, self.true_positives + self.false_negatives)

    @property
    def specificity(self) -> float:
        """The share of the others that are not called."""
        return _share(self.true_negatives, self.true_negatives + self.false_positives)

    @property
    def positive_predictive_value(self) -> float:
        """The share of calls that are events; NaN where nothing is called."""
        return _share(self.true_positives, self.true_positives + self.false_positives)

    @property
    def negative_predictive_value(self) -> float:
        """The share of rows not called that are no events; NaN where everything is called."""
        return _share(self.true_negatives, self.true_negatives + self.false_negatives)

    @property
    def accuracy(self) -> float:
        """The share of rows that are called rightly."""
        right = self.true_positives + self.true_negatives
        return _share(right, right + self.false_positives + self.false_negatives)

    def __str__(self) -> str:
        return (
            f"at a score of at least {self.threshold:g}: sensitivity {self.sensitivity:.3f} "
            f"({self.true_positives} of {self.true_positives + self.false_negatives}), "
            f"specificity {self.specificity:.3f} "
            f"({self.true_negatives} of {self.true_negatives + self.false_positives}), "
            f"predictive values {self.positive_predictive_value:.3f} and {self.negative_predictive_value:.3f}"
        )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Calibration:
    """Groups of rows by predicted probability, those without rows left out.

    Attributes:
        rows: int64[groups].
        events: int64[groups].
        predicted: float64[groups], mean probability.
        observed: float64[groups], share of events.
    """

    rows: NDArray[np.int64]
    events: NDArray[np.int64]
    predicted: NDArray[np.float64]
    observed: NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class HosmerLemeshow:
    """A test of calibration (Hosmer and Lemeshow 1980).

    Attributes:
        chi_squared: over the groups.
        groups: of nearly equal size; ties in one group.
        p_value: with groups - 2 degrees of freedom, for a model that was fitted to these rows.
        p_value_elsewhere: with as many as groups, for a model that was fitted to other rows.
    """

    chi_squared: float
    groups: int
    p_value: float
    p_value_elsewhere: float


@dataclass(frozen=True, kw_only=True, eq=False)
class RocAnswer(Answer):
    """Rows by score and outcome.

    Attributes:
        outcome, score: names.
        scores: float64[bins], ascending.
        positives, negatives: int64[bins], rows with the event and without it.
        incomplete: rows left out because a value is missing.
    """

    outcome: str
    score: str
    scores: NDArray[np.float64]
    positives: NDArray[np.int64]
    negatives: NDArray[np.int64]
    incomplete: int

    @property
    def auc(self) -> float:
        """The probability that an event has the higher score than a row without, ties by halves; exact."""
        return float(Fraction(self._twice_won, 2 * self._pairs))

    @property
    def auc_bound(self) -> float:
        """How far the AUC of the scores before rounding can be from `auc`."""
        tied = sum(a * b for a, b in zip(self.positives.tolist(), self.negatives.tolist(), strict=True))
        return float(Fraction(tied, 2 * self._pairs))

    @property
    def auc_standard_error(self) -> float:
        """DeLong's; NaN where an outcome has a single row."""
        positives, negatives = int(self.positives.sum()), int(self.negatives.sum())
        if min(positives, negatives) < 2:
            return math.nan
        below = np.cumsum(self.negatives) - self.negatives / 2
        above = positives - (np.cumsum(self.positives) - self.positives / 2)
        spread = [
            float((counts * (shares - self.auc) ** 2).sum()) / (total - 1) / total
            for counts, shares, total in (
                (self.positives, below / negatives, positives),
                (self.negatives, above / positives, negatives),
            )
        ]
        return math.sqrt(sum(spread))

    @property
    def auc_interval(self) -> tuple[float, float]:
        """Of 95 %, DeLong's, cut to [0, 1]; of no width where the scores separate the outcomes perfectly."""
        reach = float(load_special().ndtri(0.975)) * self.auc_standard_error
        if math.isnan(reach):
            return math.nan, math.nan
        return max(0.0, self.auc - reach), min(1.0, self.auc + reach)

    @property
    def curve(self) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
        """False positive rates, true positive rates and thresholds, each float64[points], from (0, 0) up.

        A row is called at a threshold if its score is at least that; the first threshold is infinite.
        """
        used = np.flatnonzero(self.positives + self.negatives)[::-1]
        rates = [
            np.concatenate([[0.0], np.cumsum(counts[used]) / counts.sum()])
            for counts in (self.negatives, self.positives)
        ]
        return rates[0], rates[1], np.concatenate([[np.inf], self.scores[used]])

    @property
    def brier_score(self) -> float:
        """Mean squared difference of probability and outcome.

        Raises:
            ParameterError: the score is no probability.
        """
        self._check_probability()
        squares = self.positives * (1 - self.scores) ** 2 + self.negatives * self.scores**2
        return math.fsum(squares.tolist()) / self._rows

    def confusion(self, threshold: float) -> ConfusionMatrix:
        """Rows called and not called at a threshold.

        Raises:
            ParameterError: the threshold is no number.
        """
        threshold = plain(threshold)
        if not is_number(threshold) or math.isnan(threshold):
            raise ParameterError(f"threshold is {threshold!r}; it must be a number, such as 0.5")
        called = self.scores >= threshold
        return ConfusionMatrix(
            threshold=threshold,
            true_positives=int(self.positives[called].sum()),
            false_positives=int(self.negatives[called].sum()),
            true_negatives=int(self.negatives[~called].sum()),
            false_negatives=int(self.positives[~called].sum()),
        )

    def calibration(self, *, groups: int = 10) -> Calibration:
        """Observed against predicted in equal parts of [0, 1], each with its upper end, the first with both.

        Raises:
            ParameterError: the score is no probability, or groups is no int in [1, 1000].
        """
        self._check_probability()
        _check_groups(groups, least=1)
        return self._grouped(np.searchsorted(np.linspace(0, 1, groups + 1)[1:-1], self.scores))

    def hosmer_lemeshow(self, *, groups: int = 10) -> HosmerLemeshow:
        """A test of calibration over groups of nearly equal size by predicted probability.

        Raises:
            ParameterError: the score is no probability, or groups is no int in [3, 1000], or fewer than three
                groups differ in their scores.
        """
        self._check_probability()
        _check_groups(groups, least=3)
        counts = self.positives + self.negatives
        found = self._grouped(
            ((np.cumsum(counts) - (counts + 1) // 2) * groups // self._rows).clip(0, groups - 1)
        )
        if len(found.rows) < 3:
            raise ParameterError(
                "the scores make fewer than three groups; Hosmer and Lemeshow's test needs three"
            )
        expected = found.rows * found.predicted
        variance = expected * (1 - found.predicted)
        squares = (found.events - expected) ** 2
        with np.errstate(divide="ignore", invalid="ignore"):
            # Where a group's probabilities are all 0, or all 1, one other outcome refutes the model.
            chi_squared = float(np.where(squares == 0, 0.0, squares / variance).sum())
        tail = load_special().chdtrc
        return HosmerLemeshow(
            chi_squared=chi_squared,
            groups=len(found.rows),
            p_value=float(tail(len(found.rows) - 2, chi_squared)),
            p_value_elsewhere=float(tail(len(found.rows), chi_squared)),
        )

    def to_frame(self) -> "pd.DataFrame":
        """A row for each point of the curve."""
        false, true, thresholds = self.curve
        return frame_of({"threshold": thresholds, "false positive rate": false, "true positive rate": true})

    def draw(self, axes: "Axes | None" = None) -> Any:
        """The ROC curve.

        Raises:
            MissingExtraError: matplotlib is not installed.
        """
        axes = new_axes(axes)
        false, true, _ = self.curve
        low, high = self.auc_interval
        axes.plot([0, 1], [0, 1], color=GREY, linewidth=1, linestyle="--")
        axes.plot(false, true, color=BLUE, linewidth=2, label=f"AUC {self.auc:.3f} ({low:.3f} to {high:.3f})")
        axes.set(
            xlim=(-0.01, 1.01),
            ylim=(-0.01, 1.01),
            aspect="equal",
            xlabel="1 - specificity",
            ylabel="sensitivity",
            title=f"{self.score} for {self.outcome}",
        )
        axes.legend(loc="lower right", frameon=False)
        return axes

    def draw_calibration(self, axes: "Axes | None" = None, *, groups: int = 10) -> Any:
        """Observed against predicted probability, each group with Wilson's interval of 95 %.

        Raises:
            ParameterError: as `calibration`.
            MissingExtraError: matplotlib is not installed.
        """
        found, axes = self.calibration(groups=groups), new_axes(axes)
        z = float(load_special().ndtri(0.975))
        middle = (found.observed + z * z / 2 / found.rows) / (1 + z * z / found.rows)
        reach = np.sqrt(found.observed * (1 - found.observed) / found.rows + (z / 2 / found.rows) ** 2)
        reach *= z / (1 + z * z / found.rows)
        axes.plot([0, 1], [0, 1], color=GREY, linewidth=1, linestyle="--")
        axes.vlines(found.predicted, middle - reach, middle + reach, color=BLUE, linewidth=2)
        axes.plot(found.predicted, found.observed, "s", color=BLUE)
        axes.set(
            xlim=(-0.01, 1.01),
            ylim=(-0.01, 1.01),
            aspect="equal",
            xlabel="predicted probability",
            ylabel=f"observed share of {self.outcome}",
            title=f"Brier score {self.brier_score:.3f}",
        )
        return axes

    def __str__(self) -> str:
        low, high = self.auc_interval
        lines = [
            f"{self.score} for {self.outcome}: {int(self.positives.sum())} of "
            f"{complete(self._rows, self.incomplete)}",
            f"AUC {self.auc:.3f} (95 % CI {low:.3f} to {high:.3f}); by rounding of scores off by at most "
            f"{self.auc_bound:.1e}",
        ]
        if self._is_probability:
            lines += [f"Brier score {self.brier_score:.4f}", str(self.confusion(0.5)), *self._calibrated()]
        return with_provenance("\n".join(lines), self.provenance)

    def _calibrated(self) -> list[str]:
        """The test of calibration, where there are groups enough, and its table."""
        found = self.calibration()
        shown = {
            "rows": found.rows,
            "events": found.events,
            "predicted": [f"{each:.3f}" for each in found.predicted],
            "observed": [f"{each:.3f}" for each in found.observed],
        }
        table = str(frame_of(shown).to_string(index=False))
        try:
            test = self.hosmer_lemeshow()
        except ParameterError:  # the scores make too few groups, which the table shows
            return [table]
        return [
            f"Hosmer-Lemeshow: chi-squared {test.chi_squared:.2f} over {test.groups} groups, p "
            f"{p_value(test.p_value)} if the model was fitted to these rows, "
            f"{p_value(test.p_value_elsewhere)} if not",
            table,
        ]

    @property
    def _rows(self) -> int:
        return int(self.positives.sum() + self.negatives.sum())

    @property
    def _pairs(self) -> int:
        return int(self.positives.sum()) * int(self.negatives.sum())

    @property
    def _twice_won(self) -> int:
        """Pairs in which the event has the higher score, twice, and ties once."""
        won, below = 0, 0
        for positive, negative in zip(self.positives.tolist(), self.negatives.tolist(), strict=True):
            won += positive * (2 * below + negative)
            below += negative
        return won

    @property
    def _is_probability(self) -> bool:
        return bool(self.scores[0] >= 0 and self.scores[-1] <= 1)

    def _check_probability(self) -> None:
        if not self._is_probability:
            raise ParameterError(
                f"the score {self.score!r} goes from {self.scores[0]:g} to {self.scores[-1]:g} and is no "
                "probability; declare it with low=0 and high=1, if it is one"
            )

    def _grouped(self, group: NDArray[np.int64]) -> Calibration:
        rows = np.bincount(group, weights=self.positives + self.negatives)
        events = np.bincount(group, weights=self.positives)
        predicted = np.bincount(group, weights=(self.positives + self.negatives) * self.scores)
        used = rows > 0
        return Calibration(
            rows=rows[used].astype(np.int64),
            events=events[used].astype(np.int64),
            predicted=predicted[used] / rows[used],
            observed=events[used] / rows[used],
        )


def _share(part: int, whole: int) -> float:
    return part / whole if whole else math.nan


def _check_groups(groups: object, *, least: int) -> None:
    if type(groups) is not int or not least <= groups <= 1000:
        raise ParameterError(f"groups is {groups!r}; it must be an int in [{least}, 1000]")
