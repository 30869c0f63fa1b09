"""Proportional hazards (Cox 1972), fitted by Newton's method on a grid of times, with sums over all sites.

The first sum counts deaths by time. Each further one is taken at published coefficients, and every site
answers, for each time at which somebody died, with its part of the sums over the rows still at risk of u, x·u
and x·xᵀ·u, u = exp(βx - offset) (WebDISCO, Lu et al. 2015). The pooled likelihood, its gradient and its
Hessian follow from their totals, so the coefficients are those of the pooled table with its times rounded to
the grid.

What it costs in secrecy is more than other regressions cost. The sums of two neighbouring times differ by
those who left between them: a patient who left alone is seen with all predictors, without a name. Let a
site's policy demand a `unit` of time (a quarter, a year) in which many leave, or that only clients learn the
sums (`cells`). A step with p predictors and k times of death has k·(p + 1)(p + 2)/2 numbers, and with
`Ties.EFRON` twice as many.

How exact it is: summands are multiples of 2**-32, and the offset is such that u is at most 1 for every row
and usually about e**-4 for an average one. The answer then differs from the pooled one by about 1e-8 of a
standard error. A row whose u would be above 1 is counted, and makes Newton's method come back with a shorter
step and an offset that is larger by 4, which costs nearly two digits, so that nothing is cut off in silence.
As a site sees the coefficients and not the sums, it cannot know that they are Newton's: chosen large, they
let few rows weigh. They are limited, as are the steps.

>>> question = CoxRegression(
...     Number("months", low=0, high=60, unit=1),
...     Category("died", ("no", "yes")),
...     (Number("age", low=0, high=128, unit=1), Category("arm", ("old", "new"))),
... )
>>> next(question.asking(max_rows=1000))
Step(name='times', length=67, parameters=())
"""

import math
from collections.abc import Generator, Mapping
from dataclasses import KW_ONLY, dataclass
from typing import ClassVar, Final

import numpy as np
from numpy.typing import NDArray

from fl_integration.statistics.coefficients import INTERCEPT, Coefficients
from fl_integration.statistics.columns import Category, Column, Number
from fl_integration.statistics.design_matrix import DesignMatrix, Triangle
from fl_integration.statistics.newton import BETA_LIMIT, Likelihood, check_beta, check_most_steps, maximise
from fl_integration.statistics.partial_likelihood import Deaths, RiskSums, Ties, partial_likelihood
from fl_integration.statistics.question import Asking, Question, Step, Total
from fl_integration.statistics.rows import Rows
from fl_integration.statistics.showing import complete
from fl_integration.statistics.survival_times import SurvivalTimes
from secagg.errors import ParameterError, RoundAborted
from secagg.numbers import plain_fields

__all__ = ["CoxAnswer", "CoxRegression", "Ties"]

_SCALE: Final = 1 << 32
"""Fixed-point steps in 1 of all sums over rows at risk."""
_MOST_ROWS: Final = 1 << 20
_MOST_PERSONS: Final = 1 << 24
"""Of all sites together; what is done for each death ends."""
_MOST_VALUES: Final = 1 << 21
_CHUNK_VALUES: Final = 1 << 20
_SHIFT: Final = 4.0
"""How far above the mean of βx the offset lies at first, and how much it grows when a row is above."""
_OFFSETS: Final = 1 << 10
"""Offsets are multiples of one over this."""


@dataclass(frozen=True, kw_only=True, eq=False)
class CoxAnswer(Coefficients):
    """What a Cox regression finds; coefficients are log hazard ratios for one more of a column's own measure.

    Attributes:
        rows: complete rows, those counted.
        events: rows among them that ended in the event.
        incomplete: rows left out because a value is missing.
        ties: how deaths at one time were counted.
        log_likelihood: partial, at the estimates.
        null_log_likelihood: with all coefficients 0.
        steps: sums that Newton's method took.
    """

    rows: int
    events: int
    incomplete: int
    ties: Ties
    log_likelihood: float
    null_log_likelihood: float
    steps: int

    @property
    def aic(self) -> float:
        """Akaike's criterion of the partial likelihood, 2k - 2·log-likelihood."""
        return 2 * len(self.names) - 2 * self.log_likelihood

    def _headlines(self) -> list[str]:
        return [
            f"Cox regression: {self.events} events in {complete(self.rows, self.incomplete)}",
            f"ties by {self.ties.name.title()}, log-likelihood {self.log_likelihood:.3f}, {self.steps} steps",
            self._against(self.null_log_likelihood, self.log_likelihood, freedom=len(self.names)),
        ]


@dataclass(frozen=True, slots=True)
class CoxRegression(Question):
    """The log hazard as an unknown course of time plus a sum over predictors.

    A row counts if duration, event and all predictors are known (complete cases); the answer has the number
    of others. A duration above its bound counts as censored there; a predictor outside its bounds counts as
    the nearer bound. A row that is censored at a time is at risk at that time.

    Args:
        duration: from 0 or later on; its unit is the grid of times.
        event: two levels; the second is the event, the first is censored.
        predictors: `Number`s in their own measure, `Category`s by treatment coding against their first level.
        ties: how deaths at one time are counted; Efron's is the better one on a coarse grid.
        most_steps: how many sums Newton's method may take, 2 to 100.

    Raises:
        ParameterError: an argument is none of these, or the sums of a step could be more than 2**21 numbers.
    """

    duration: Number
    event: Category
    predictors: tuple[Number | Category, ...]
    _: KW_ONLY
    ties: Ties = Ties.EFRON
    most_steps: int = 12
    cells: ClassVar[bool] = True
    complete_cases: ClassVar[bool] = True
    needs_scipy: ClassVar[bool] = True

    def __post_init__(self) -> None:
        Question.__post_init__(self)
        times = SurvivalTimes(self.duration, self.event)
        design = DesignMatrix(self.predictors, taken=(self.duration.name, self.event.name, INTERCEPT))
        object.__setattr__(self, "predictors", design.predictors)
        plain_fields(self, "most_steps")
        check_most_steps(self.most_steps)
        if not isinstance(self.ties, Ties):
            raise ParameterError(f"ties is {self.ties!r}; it must be Ties.BRESLOW or Ties.EFRON")
        if self._values * times.count > _MOST_VALUES:
            raise ParameterError(
                f"{times.count} times with {design.width} columns of predictors may take more than "
                f"{_MOST_VALUES} numbers a step; pass a larger unit of time, or fewer predictors"
            )

    @property
    def columns(self) -> tuple[Column, ...]:
        return (self.duration, self.event, *self.predictors)

    @property
    def names(self) -> tuple[str, ...]:
        """Of the coefficients."""
        return self._design.names

    @property
    def cuts(self) -> Mapping[str, tuple[float, ...]]:
        """The grid of times."""
        return {self.duration.name: tuple(self._times.grid.tolist())}

    @property
    def most_sums(self) -> int:
        return 1 + self.most_steps

    def largest(self, *, max_rows: int) -> int:
        """One row adds at most 1 to each sum, since x lies within [-1, 1] and u within [0, 1].

        Raises:
            ParameterError: so many rows are too many for the fixed point.
        """
        if not 1 <= max_rows <= _MOST_ROWS:
            raise ParameterError(
                f"max_rows is {max_rows}; a Cox regression takes 1 to {_MOST_ROWS} rows of a site: lower "
                "max_rows"
            )
        return max_rows * _SCALE

    def asking(self, *, max_rows: int) -> Asking:
        self.largest(max_rows=max_rows)
        width, grid = self._design.width, self._times.count
        total = yield Step(name="times", length=grid + 2 * width + 2)
        rows, incomplete = int(total[-2]), int(total[-1])
        counts = total[:grid]
        when, events = np.flatnonzero(counts), sum(counts.tolist())
        if int(counts.min()) < 0 or not events <= rows <= _MOST_PERSONS or incomplete < 0:
            raise RoundAborted(
                f"more deaths than rows, fewer than none, or over {_MOST_PERSONS} rows: a contributor added "
                "what no rows have"
            )
        if not events:
            raise ParameterError(
                f"no complete row has the level {self.event.levels[1]!r} of {self.event.name!r}; without an "
                "event there is no regression"
            )
        mean = total[grid : grid + width] / _SCALE / rows
        deaths = Deaths(counts[when], total[grid + width : grid + 2 * width] / _SCALE)
        shift = 0.0

        def evaluate(beta: NDArray[np.float64]) -> Generator[Step, Total, Likelihood]:
            nonlocal shift
            middle = math.fsum((beta * mean).tolist())
            furthest = math.fsum((np.abs(beta) * (1 + np.abs(mean))).tolist())
            offset = math.ceil((middle + min(shift, furthest)) * _OFFSETS) / _OFFSETS
            sums = yield self._step(offset, beta, when)
            if int(sums[-2]) != rows:
                raise RoundAborted(
                    "the rows are not those of the step before: a site came, went or changed its table; ask "
                    "again"
                )
            if sums[-1]:
                shift += _SHIFT
                return Likelihood(-math.inf, np.zeros(width), np.zeros((width, width)))
            shift = max(shift, _SHIFT)
            parts = self._parts(sums[:-2] / _SCALE, len(when))
            return partial_likelihood(
                beta, deaths, offset=offset, risk=parts[0], dying=parts[1] if len(parts) > 1 else None
            )

        fit = yield from maximise(
            evaluate, names=self.names, most_steps=self.most_steps, penalty=np.zeros(width)
        )
        scales = self._design.scales
        return CoxAnswer(
            names=self.names,
            estimates=fit.beta / scales,
            covariance=fit.covariance / np.outer(scales, scales),
            ratio="hazard ratio",
            rows=rows,
            events=events,
            incomplete=incomplete,
            ties=self.ties,
            log_likelihood=fit.value,
            null_log_likelihood=fit.start,
            steps=fit.steps,
        )

    def summand(self, step: Step, rows: Rows) -> Total:
        """Of "times": deaths by time, sums of the predictors over rows and over deaths, rows, incomplete
        rows.

        Of "newton": for each time the sums over rows at risk, and for Efron those over the rows that die;
        then rows, and those among them whose u would be above 1.
        """
        known = self._times.complete(rows) & self._design.complete(rows)
        places, died = (each[known] for each in self._times.read(rows))
        x = self._design.matrix(rows)[known]
        match step.name:
            case "times" if step.length == self._times.count + 2 * self._design.width + 2:
                if step.parameters:
                    raise ParameterError("the step 'times' has parameters; it must have none")
                counts = np.bincount(places[died], minlength=self._times.count)
                sums = np.rint(np.concatenate([x.sum(axis=0), x[died].sum(axis=0)]) * _SCALE)
                counted = [len(x), len(rows) - len(x)]
                return np.concatenate([counts, sums, counted]).astype(np.int64)
            case "newton":
                offset, beta, when = self._read(step)
                exponents = x @ beta - offset
                u = np.exp(np.minimum(exponents, 0.0))
                # A row is at risk up to the last of these times that is not later than its own.
                until = np.searchsorted(when, places, side="right") - 1
                leaving = self._sums_by_time(x, u, until, len(when))
                parts = [np.cumsum(leaving[::-1], axis=0)[::-1]]
                if self.ties is Ties.EFRON:
                    here = np.where(died & (when[np.maximum(until, 0)] == places), until, -1)
                    parts.append(self._sums_by_time(x, u, here, len(when)))
                sums = np.rint(np.concatenate([part.ravel() for part in parts]) * _SCALE)
                counted = [len(x), int(np.count_nonzero(exponents > 0))]
                return np.concatenate([sums, counted]).astype(np.int64)
        raise ParameterError(
            f"the step {step.name!r} of {step.length} values is none of this question; it has 'times' and "
            "'newton'"
        )

    @property
    def _times(self) -> SurvivalTimes:
        return SurvivalTimes(self.duration, self.event)

    @property
    def _design(self) -> DesignMatrix:
        return DesignMatrix(self.predictors)

    @property
    def _values(self) -> int:
        """Sums for each time."""
        each = 1 + self._design.width + Triangle(self._design.width).length
        return 2 * each if self.ties is Ties.EFRON else each

    def _step(self, offset: float, beta: NDArray[np.float64], when: NDArray[np.int64]) -> Step:
        return Step(
            name="newton",
            length=self._values * len(when) + 2,
            parameters=(offset, *beta.tolist(), *(float(place) for place in when.tolist())),
        )

    def _read(self, step: Step) -> tuple[float, NDArray[np.float64], NDArray[np.int64]]:
        """Offset, coefficients and places of times, as a site reads them."""
        width, given = self._design.width, step.parameters
        times = len(given) - 1 - width
        if not 1 <= times <= self._times.count or step.length != self._values * times + 2:
            raise ParameterError(
                f"the step 'newton' has {len(given)} parameters and {step.length} values, which do not fit "
                "each other"
            )
        beta, when = check_beta(given[1 : 1 + width], width=width), np.array(given[1 + width :])
        if not abs(given[0]) <= BETA_LIMIT * 2 * width:
            raise ParameterError(
                "the offset of the step is not finite, or larger than any sum of coefficients"
            )
        inside = (when >= 0) & (when < self._times.count)
        if not (inside & (when == np.rint(when))).all() or not (np.diff(when) > 0).all():
            raise ParameterError("the times of the step are not ascending places in the grid of times")
        return given[0], beta, when.astype(np.int64)

    def _sums_by_time(
        self, x: NDArray[np.float64], u: NDArray[np.float64], place: NDArray[np.int64], times: int
    ) -> NDArray[np.float64]:
        """float64[times, 1 + width + triangle], sums over the rows of each place; -1 counts nowhere."""
        triangle = Triangle(self._design.width)
        above, beside = np.triu_indices(triangle.width)
        sums = np.zeros((times, 1 + triangle.width + triangle.length))
        order = np.argsort(place, kind="stable")
        order = order[np.searchsorted(place[order], 0) :]
        size = max(1, _CHUNK_VALUES // sums.shape[1])
        for start in range(0, len(order), size):
            some = order[start : start + size]
            weighted = x[some] * u[some, None]
            summands = np.concatenate(
                [u[some, None], weighted, x[some][:, above] * weighted[:, beside]], axis=1
            )
            starts = np.flatnonzero(np.diff(place[some], prepend=-1))
            sums[place[some[starts]]] += np.add.reduceat(summands, starts, axis=0)
        return sums

    def _parts(self, sums: NDArray[np.float64], times: int) -> list[RiskSums]:
        """The sums over rows at risk, and for Efron those over deaths."""
        triangle = Triangle(self._design.width)
        each = 1 + triangle.width + triangle.length
        return [
            RiskSums(
                part[:, 0], part[:, 1 : 1 + triangle.width], triangle.square(part[:, 1 + triangle.width :])
            )
            for part in sums.reshape(-1, times, each)
        ]
