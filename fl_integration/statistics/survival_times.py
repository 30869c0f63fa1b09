"""Durations and events as survival analysis counts them: whole units of time, and whether it ended in the
event.

A duration beyond the column's upper bound is one that was still going on there: it counts as censored at the
bound, whatever came later.

>>> times = SurvivalTimes(Number("months", low=0, high=4, unit=1), Category("died", ("no", "yes")))
>>> rows = Rows.of({"months": [2.0, 7.0, 0.0], "died": ["yes", "yes", "no"]})
>>> [each.tolist() for each in times.read(rows)]
[[2, 4, 0], [True, False, False]]
>>> times.grid.tolist()
[0.0, 1.0, 2.0, 3.0, 4.0]
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from fl_integration.statistics.columns import Category, Number
from fl_integration.statistics.design_matrix import check_two_levels
from fl_integration.statistics.rows import Rows
from secagg.errors import ParameterError

__all__ = ["SurvivalTimes"]

_MOST_TIMES: Final = 1 << 14


@dataclass(frozen=True, slots=True)
class SurvivalTimes:
    """The two columns of a survival analysis.

    Args:
        duration: from 0 or later on, counted in its unit; its upper bound ends the observation.
        event: two levels; the second is the event, the first is censored.

    Raises:
        ParameterError: they are none of these, or there are more than 2**14 times.
    """

    duration: Number
    event: Category

    def __post_init__(self) -> None:
        check_two_levels(self.event, role="the event")
        if not isinstance(self.duration, Number) or self.duration.name == self.event.name:
            raise ParameterError(
                f"duration is {self.duration!r}; it must be a Number, and another column than the event"
            )
        if self.duration.low < 0:
            raise ParameterError(
                f"the duration {self.duration.name!r} may be {self.duration.low}; pass low=0, or a later "
                "start"
            )
        if self.count > _MOST_TIMES:
            raise ParameterError(
                f"the duration {self.duration.name!r} has {self.count} times; at most {_MOST_TIMES} are "
                "allowed: pass a larger unit, such as a month, which also hides the days of single patients"
            )

    @property
    def first(self) -> int:
        """The earliest time, in units."""
        return round(self.duration.low / self.duration.unit)

    @property
    def count(self) -> int:
        """How many times there are."""
        return round(self.duration.high / self.duration.unit) - self.first + 1

    @property
    def grid(self) -> NDArray[np.float64]:
        """float64[count], the times, in the column's own measure."""
        return np.arange(self.first, self.first + self.count, dtype=np.float64) * self.duration.unit

    def complete(self, rows: Rows) -> NDArray[np.bool_]:
        """bool[rows], where both are known."""
        return rows.present(self.duration) & rows.present(self.event)

    def read(self, rows: Rows) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """Each row's place in the grid, int64[rows], and whether the event ended it, bool[rows].

        Rows that lack a value have a place and no event; `complete` tells them.

        Raises:
            ParameterError: the rows do not fit the columns.
        """
        places = np.clip(rows.steps(self.duration) + self.duration.middle - self.first, 0, self.count - 1)
        later = rows.numbers(self.duration) > self.duration.high
        return places, (rows.codes(self.event) == 1) & ~later
