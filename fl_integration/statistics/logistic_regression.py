"""Logistic regression: the odds of an outcome, fitted by Newton's method whose sums are over all sites.

Each step sends the coefficients down, and every site answers with its part of XᵀWX, of Xᵀ(y - p) and of the
log-likelihood at them, in fixed point of 2**-30. Their sums are those of the pooled table, so the
coefficients are those of the pooled table, and not an average of the sites' own.

What it costs in secrecy: p predictors make (p + 1)(p + 4)/2 + 5 numbers a step, sums over all rows of all
sites, at coefficients that whoever asks has chosen, and a site cannot know that they are Newton's. Both their
size and the number of steps are limited for that reason. The first step, at 0, is a quarter of XᵀX: with
categories among the predictors it tells how many have each two levels and the event, as a `CrossTable` does
(`cells`). Over few rows, or with a predictor that few rows have, such sums say much about those: a site's
policy must demand a least number of rows.

How exact it is: a summand is rounded to 2**-31 at most, so with S sites the gradient is off by at most
S·2**-31 in each place, and the coefficients of the scaled columns by that times the inverse of the
information, which is the square of a standard error: less than 1e-8 for standard errors up to 2 and four
sites.

>>> question = LogisticRegression(
...     Category("died", ("no", "yes")), (Number("age", low=0, high=128, unit=1), Category("sex", ("f", "m")))
... )
>>> question.names
('intercept', 'age', 'sex[m]')
>>> next(question.asking(max_rows=1000))
Step(name='newton', length=14, parameters=(0.0, 0.0, 0.0))
"""

import math
from collections.abc import Generator
from dataclasses import KW_ONLY, dataclass
from typing import ClassVar, Final, NoReturn

import numpy as np
from numpy.typing import NDArray

from fl_integration.statistics.coefficients import INTERCEPT, Coefficients
from fl_integration.statistics.columns import Category, Column, Number
from fl_integration.statistics.design_matrix import DesignMatrix, Triangle, check_two_levels
from fl_integration.statistics.newton import Likelihood, check_beta, check_most_steps, maximise
from fl_integration.statistics.question import Asking, Question, Step, Total
from fl_integration.statistics.rows import Rows
from fl_integration.statistics.showing import complete
from secagg.errors import ParameterError, RoundAborted
from secagg.numbers import is_number, plain_fields

__all__ = ["LogisticAnswer", "LogisticRegression"]

_SCALE: Final = 1 << 30
"""Fixed-point steps in 1 of the information and the gradient."""
_STEEPEST: Final = 64.0
"""A linear predictor is cut to this; beyond it a probability differs from 0 or 1 by less than a step."""
_COARSER: Final = 1 << 7
"""How much coarser the log-likelihood is: a row's is at least -(64 + log 2), and so fits a row's share."""
_MOST_ROWS: Final = 1 << 22
_CHUNK: Final = 4096
_COUNTS: Final = 5


@dataclass(frozen=True, kw_only=True, eq=False)
class LogisticAnswer(Coefficients):
    """What a logistic regression finds; coefficients are log odds for one more of a column's own measure.

    Attributes:
        rows: complete rows, those counted.
        events: rows among them with the outcome's second level.
        incomplete: rows left out because a value is missing.
        log_likelihood: at the estimates.
        null_log_likelihood: with the constant alone.
        ridge: the penalty; with one, standard errors are those of a posterior, not of a test.
        steps: sums that it took.
    """

    rows: int
    events: int
    incomplete: int
    log_likelihood: float
    null_log_likelihood: float
    ridge: float
    steps: int

    @property
    def aic(self) -> float:
        """Akaike's criterion, 2k - 2·log-likelihood; of no meaning where there is a ridge."""
        return 2 * len(self.names) - 2 * self.log_likelihood

    def _headlines(self) -> list[str]:
        lines = [
            f"logistic regression: {self.events} of {complete(self.rows, self.incomplete)}",
            f"log-likelihood {self.log_likelihood:.3f}, AIC {self.aic:.2f}, {self.steps} steps",
        ]
        if self.ridge:
            return [*lines, f"ridge {self.ridge:g}: intervals and p-values are not those of a test"]
        return [
            *lines,
            self._against(self.null_log_likelihood, self.log_likelihood, freedom=len(self.names) - 1),
        ]


@dataclass(frozen=True, slots=True)
class LogisticRegression(Question):
    """The log odds of an outcome as a constant plus a sum over predictors.

    A row counts if the outcome and all predictors are known (complete cases); the answer has the number of
    others. A value outside its column's bounds counts as the nearer bound.

    Args:
        outcome: two levels; the second is the event.
        predictors: `Number`s in their own measure, `Category`s by treatment coding against their first level.
        ridge: λ of the penalty λ/2·Σβ² on the coefficients of the columns scaled to [-1, 1] by their bounds,
            the constant left out; 0: none. A ridge of 1 lets a perfectly separating predictor stay.
        most_steps: how many sums Newton's method may take, 2 to 100.

    Raises:
        ParameterError: an argument is none of these.
    """

    outcome: Category
    predictors: tuple[Number | Category, ...]
    _: KW_ONLY
    ridge: float = 0.0
    most_steps: int = 12
    cells: ClassVar[bool] = True
    complete_cases: ClassVar[bool] = True
    needs_scipy: ClassVar[bool] = True

    def __post_init__(self) -> None:
        Question.__post_init__(self)
        check_two_levels(self.outcome, role="the outcome")
        plain_fields(self, "ridge", "most_steps")
        object.__setattr__(
            self, "predictors", DesignMatrix(self.predictors, taken=(self.outcome.name, INTERCEPT)).predictors
        )
        if not is_number(self.ridge) or not 0 <= self.ridge <= 1e9:
            raise ParameterError(f"ridge is {self.ridge!r}; it must be a number in [0, 1e9]")
        object.__setattr__(self, "ridge", float(self.ridge))
        check_most_steps(self.most_steps)

    @property
    def columns(self) -> tuple[Column, ...]:
        return (self.outcome, *self.predictors)

    @property
    def names(self) -> tuple[str, ...]:
        """Of the coefficients."""
        return (INTERCEPT, *self._design.names)

    @property
    def most_sums(self) -> int:
        return self.most_steps

    def largest(self, *, max_rows: int) -> int:
        """One row adds at most 1 to each place of XᵀWX and Xᵀ(y - p), 2**7 to the log-likelihood, 1 to a
        count.

        Raises:
            ParameterError: so many rows are too many for the fixed point.
        """
        if not 1 <= max_rows <= _MOST_ROWS:
            raise ParameterError(
                f"max_rows is {max_rows}; a logistic regression takes 1 to {_MOST_ROWS} rows of a site: "
                "lower max_rows"
            )
        return max_rows * _SCALE

    def asking(self, *, max_rows: int) -> Asking:
        self.largest(max_rows=max_rows)
        width = self._triangle.width
        counts: list[tuple[int, int, int]] = []

        def evaluate(beta: NDArray[np.float64]) -> Generator[Step, Total, Likelihood]:
            total = yield self._step(beta)
            rows, events, incomplete, wrong, value = (int(each) for each in total[-_COUNTS:])
            counts.append((rows, events, incomplete))
            if counts[0] != counts[-1]:
                raise RoundAborted(
                    "the rows are not those of the step before: a site came, went or changed its table; ask "
                    "again"
                )
            self._check_counts(*counts[0])
            if wrong == 0 and not self.ridge:
                self._refuse_separation()
            sums = total[:-_COUNTS] / _SCALE
            return Likelihood(
                value * (_COARSER / _SCALE),
                sums[-width:],
                self._triangle.square(sums[: self._triangle.length]),
            )

        penalty = np.full(width, self.ridge)
        penalty[0] = 0.0
        fit = yield from maximise(evaluate, names=self.names, most_steps=self.most_steps, penalty=penalty)
        rows, events, incomplete = counts[0]
        measure = self._measure()
        return LogisticAnswer(
            names=self.names,
            estimates=measure @ fit.beta,
            covariance=measure @ fit.covariance @ measure.T,
            ratio="odds ratio",
            rows=rows,
            events=events,
            incomplete=incomplete,
            log_likelihood=fit.value,
            null_log_likelihood=sum(each * math.log(each / rows) for each in (events, rows - events)),
            ridge=self.ridge,
            steps=fit.steps,
        )

    def summand(self, step: Step, rows: Rows) -> Total:
        """XᵀWX and Xᵀ(y - p) in 2**-30; counts of rows, events, incomplete rows and rows on the wrong side of
        the coefficients; and the log-likelihood in 2**-23.
        """
        if step.name != "newton" or step.length != self._length:
            raise ParameterError(
                f"the step {step.name!r} of {step.length} values is none of this question; it has "
                f"'newton' of {self._length}"
            )
        beta = check_beta(step.parameters, width=self._triangle.width)
        outcome = rows.codes(self.outcome)
        known = (outcome >= 0) & self._design.complete(rows)
        matrix, happened = self._design.matrix(rows)[known], outcome[known] == 1
        width, wrong, likelihood = self._triangle.width, 0, 0.0
        information, gradient = np.zeros((width, width)), np.zeros(width)
        for start in range(0, len(matrix), _CHUNK):
            x = np.ones((len(matrix[start : start + _CHUNK]), width))
            x[:, 1:] = matrix[start : start + _CHUNK]
            y = happened[start : start + _CHUNK]
            # Signed so that a row is on the right side, and its outcome likely, where `margin` is positive.
            margin = np.where(y, 1.0, -1.0) * np.clip(x @ beta, -_STEEPEST, _STEEPEST)
            small = np.exp(-np.abs(margin))
            unlikely = np.where(margin > 0, small, 1.0) / (1.0 + small)
            information += x.T @ (x * (unlikely * (1.0 - unlikely))[:, None])
            gradient += x.T @ (np.where(y, 1.0, -1.0) * unlikely)
            likelihood -= float((np.log1p(small) + np.maximum(-margin, 0.0)).sum())
            wrong += int(np.count_nonzero(margin <= 0))
        sums = np.concatenate([self._triangle.flat(information), gradient])
        counts = [
            len(matrix),
            int(np.count_nonzero(happened)),
            len(rows) - len(matrix),
            wrong,
            round(likelihood * (_SCALE // _COARSER)),
        ]
        return np.concatenate([np.rint(sums * _SCALE).astype(np.int64), np.array(counts, dtype=np.int64)])

    @property
    def _design(self) -> DesignMatrix:
        return DesignMatrix(self.predictors)

    @property
    def _triangle(self) -> Triangle:
        return Triangle(self._design.width + 1)

    @property
    def _length(self) -> int:
        return self._triangle.length + self._triangle.width + _COUNTS

    def _step(self, beta: NDArray[np.float64]) -> Step:
        return Step(name="newton", length=self._length, parameters=tuple(beta.tolist()))

    def _measure(self) -> NDArray[np.float64]:
        """float64[k, k], from coefficients of scaled columns to those of the columns' own measures."""
        measure = np.diag(np.concatenate([[1.0], 1.0 / self._design.scales]))
        measure[0, 1:] = -self._design.centres / self._design.scales
        return measure

    def _check_counts(self, rows: int, events: int, incomplete: int) -> None:
        if not 0 <= events <= rows or incomplete < 0:
            raise RoundAborted(
                "more events than rows, or fewer than none: a contributor added what no rows have"
            )
        if rows == 0:
            raise ParameterError(
                "no row of any site has the outcome and all predictors; leave predictors out"
            )
        if events in (0, rows):
            level = self.outcome.levels[0 if events == 0 else 1]
            raise ParameterError(
                f"every complete row has the level {level!r} of {self.outcome.name!r}; a regression needs "
                "both"
            )

    def _refuse_separation(self) -> NoReturn:
        raise ParameterError(
            f"the predictors separate the levels of {self.outcome.name!r} perfectly, so no coefficients are "
            "most likely; pass a ridge, such as ridge=1.0, or drop a predictor"
        )
