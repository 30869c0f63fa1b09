"""Survival curves (Kaplan and Meier 1958) and the log-rank test, from one sum.

The sites count deaths and censored rows by group and time, in units of the duration's column. What follows is
what the pooled table gives with its times rounded so: nothing is lost, since the estimator reads counts only.

The counts are the leak. By day, nearly every count is 0 or 1, so the sum tells the exact day of each event,
and who knows of a patient's day learns which group it was, and that nothing else happened. Let a site's
policy demand a `unit` of a month or a quarter, or that only clients learn the sum (`cells`). A site that
alone observes late times is alone in them.

>>> question = KaplanMeier(Number("months", low=0, high=3, unit=1), Category("died", ("no", "yes")))
>>> step = next(question.asking(max_rows=10))
>>> question.summand(step, Rows.of({"months": [1.0, 1.0, 3.0], "died": ["yes", "no", "yes"]})).tolist()
[0, 1, 0, 1, 0, 1, 0, 0, 0]
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Final

import numpy as np

from fl_integration.statistics.columns import Category, Column, Number
from fl_integration.statistics.question import Asking, Question, Step, Total
from fl_integration.statistics.rows import Rows
from fl_integration.statistics.survival_curves import SurvivalCurves
from fl_integration.statistics.survival_times import SurvivalTimes
from secagg.errors import ParameterError, RoundAborted

__all__ = ["KaplanMeier"]

_MOST_VALUES: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class KaplanMeier(Question):
    """Counts of deaths and of censored rows by group and time.

    A row counts if duration, event and group are known; the answer has the number of others. A duration above
    its bound counts as censored there.

    Args:
        duration: from 0 or later on; its unit is the grid of times.
        event: two levels; the second is the event, the first is censored.
        groups: None: one curve.

    Raises:
        ParameterError: a column is none of these, or groups times times are more than 2**20 counts.
    """

    duration: Number
    event: Category
    groups: Category | None = None
    cells: ClassVar[bool] = True
    complete_cases: ClassVar[bool] = True
    needs_scipy: ClassVar[bool] = True

    def __post_init__(self) -> None:
        Question.__post_init__(self)
        times = SurvivalTimes(self.duration, self.event)
        if self.groups is None:
            return
        if not isinstance(self.groups, Category) or self.groups.name in (self.duration.name, self.event.name):
            raise ParameterError(
                f"groups is {self.groups!r}; it must be a Category, and another column than duration and "
                "event"
            )
        if self._length > _MOST_VALUES:
            raise ParameterError(
                f"{len(self.groups.levels)} groups at {times.count} times are more than {_MOST_VALUES} "
                "counts; pass a larger unit of time, or fewer groups"
            )

    @property
    def columns(self) -> tuple[Column, ...]:
        return (self.duration, self.event, *([] if self.groups is None else [self.groups]))

    @property
    def cuts(self) -> Mapping[str, tuple[float, ...]]:
        """The grid of times."""
        return {self.duration.name: tuple(self._times.grid.tolist())}

    @property
    def most_sums(self) -> int:
        return 1

    def largest(self, *, max_rows: int) -> int:
        """Every value is a count of rows."""
        return max_rows

    def asking(self, *, max_rows: int) -> Asking:
        total = yield Step(name="times", length=self._length)
        if int(total.min()) < 0:
            raise RoundAborted("a count is below zero: a contributor added what no rows have")
        counts = total[:-1].reshape(self._levels, 2, self._times.count)
        if not counts.any():
            raise ParameterError("no row of any site has a duration, an event and a group")
        return SurvivalCurves(
            groups=("all",)
            if self.groups is None
            else tuple(f"{self.groups.name}={each}" for each in self.groups.levels),
            duration=self.duration.name,
            times=self._times.grid,
            deaths=counts[:, 0].copy(),
            censored=counts[:, 1].copy(),
            incomplete=int(total[-1]),
        )

    def summand(self, step: Step, rows: Rows) -> Total:
        """For each group deaths by time and censored rows by time; then the rows that lack a value."""
        if (step.name, step.length, step.parameters) != ("times", self._length, ()):
            raise ParameterError(
                f"the step {step.name!r} of {step.length} values is none of this question; it has 'times' of "
                f"{self._length}, without parameters"
            )
        places, died = self._times.read(rows)
        group = np.zeros(len(rows), dtype=np.int64) if self.groups is None else rows.codes(self.groups)
        complete = self._times.complete(rows) & (group >= 0)
        cell = ((2 * group + ~died) * self._times.count + places)[complete]
        counts = np.bincount(cell, minlength=self._length - 1)
        return np.concatenate([counts, [len(rows) - len(cell)]]).astype(np.int64)

    @property
    def _times(self) -> SurvivalTimes:
        return SurvivalTimes(self.duration, self.event)

    @property
    def _levels(self) -> int:
        return 1 if self.groups is None else len(self.groups.levels)

    @property
    def _length(self) -> int:
        return 2 * self._levels * self._times.count + 1
