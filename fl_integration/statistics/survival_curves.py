"""What follows from counts of deaths and censored rows by time: the answer of `KaplanMeier`."""

import math
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fl_integration.statistics.answer import Answer, frame_of, new_axes
from fl_integration.statistics.showing import GREY, complete, load_special, p_value, with_provenance
from secagg.errors import ParameterError

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

__all__ = ["LogRank", "SurvivalCurves"]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LogRank:
    """The log-rank test (Mantel 1966) that all groups survive alike.

    Attributes:
        chi_squared, freedom, p_value: of the test; groups that expect no deaths do not count.
        observed, expected: float64[groups], deaths.
    """

    chi_squared: float
    freedom: int
    p_value: float
    observed: NDArray[np.float64]
    expected: NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, eq=False)
class SurvivalCurves(Answer):
    """Curves by group.

    Attributes:
        groups: their names.
        duration: the name of the time.
        times: float64[times], ascending, in the column's own measure.
        deaths, censored: int64[groups, times].
        incomplete: rows left out because a value is missing.
    """

    groups: tuple[str, ...]
    duration: str
    times: NDArray[np.float64]
    deaths: NDArray[np.int64]
    censored: NDArray[np.int64]
    incomplete: int

    @cached_property
    def at_risk(self) -> NDArray[np.int64]:
        """int64[groups, times], rows whose duration is at least that."""
        return np.cumsum((self.deaths + self.censored)[:, ::-1], axis=1)[:, ::-1]

    @cached_property
    def survival(self) -> NDArray[np.float64]:
        """float64[groups, times], after the deaths at each time; the nearest to the exact fraction."""
        return np.array([[alive / all_ for alive, all_ in each] for each in self._fractions])

    @cached_property
    def intervals(self) -> NDArray[np.float64]:
        """float64[groups, times, 2], of 95 %, by Greenwood's formula for the logarithm of -log(survival).

        These are lifelines' default and R's conf.type="log-log". Before the first death they are (1, 1),
        after the last row died (NaN, NaN), as in R.
        """
        z = float(load_special().ndtri(0.975))
        staying = self.at_risk - self.deaths
        with np.errstate(divide="ignore", invalid="ignore"):
            hazard = np.where(self.deaths > 0, self.deaths / (self.at_risk * staying), 0.0)
            log = np.log(self.survival)  # where nobody is left, this makes NaN of all that follows
            reach = z * np.sqrt(np.cumsum(hazard, axis=1)) / log
            powers = np.exp(np.stack([-reach, reach], axis=-1))
            limits = np.asarray(self.survival[..., None] ** powers, dtype=np.float64)
        limits[self.survival == 1] = 1.0
        return limits

    @property
    def medians(self) -> NDArray[np.float64]:
        """float64[groups], the first time at which at most half survive; infinite where it is not reached."""
        return np.array(
            [self._first([2 * alive <= all_ for alive, all_ in each]) for each in self._fractions]
        )

    @property
    def median_intervals(self) -> NDArray[np.float64]:
        """float64[groups, 2], of 95 %: where the curve's limits reach one half (Brookmeyer and Crowley)."""
        return np.array([[self._first(limit <= 0.5) for limit in each.T] for each in self.intervals])

    def at(self, times: NDArray[np.float64] | list[float]) -> NDArray[np.int64]:
        """int64[groups, len(times)], rows at risk at these times: those whose duration is at least that."""
        places = np.searchsorted(self.times, np.asarray(times, dtype=np.float64))
        padded = np.concatenate([self.at_risk, np.zeros((len(self.groups), 1), dtype=np.int64)], axis=1)
        return padded[:, places]

    @property
    def log_rank(self) -> LogRank:
        """The test over all groups that were at risk when somebody died.

        Raises:
            ParameterError: they are fewer than two, or two were never at risk together.
        """
        died, risk = self.deaths.astype(np.float64), self.at_risk.astype(np.float64)
        everybody, deaths = risk.sum(axis=0), died.sum(axis=0)
        share = np.divide(risk, everybody, out=np.zeros_like(risk), where=everybody > 0)
        expected = (share * deaths).sum(axis=1)
        weight = np.where(everybody > 1, deaths * (everybody - deaths) / np.maximum(everybody - 1, 1), 0.0)
        used = expected > 0
        covariance = np.diag((share * weight).sum(axis=1)) - (share * weight) @ share.T
        # The surpluses add up to nothing, so one group says nothing new.
        covariance = covariance[used][:, used][:-1, :-1]
        if len(covariance) < 1 or np.linalg.eigvalsh(covariance)[0] <= 1e-12 * weight.sum():
            raise ParameterError(
                "the log-rank test compares two groups or more, each with rows at risk when somebody of "
                "another died"
            )
        surplus = (died.sum(axis=1) - expected)[used][:-1]
        chi_squared = float(surplus @ np.linalg.solve(covariance, surplus))
        return LogRank(
            chi_squared=chi_squared,
            freedom=len(covariance),
            p_value=float(load_special().chdtrc(len(covariance), chi_squared)),
            observed=died.sum(axis=1),
            expected=expected,
        )

    def to_frame(self) -> "pd.DataFrame":
        """A row for each group and time at which somebody died or was censored."""
        where = np.nonzero(self.deaths + self.censored)
        return frame_of(
            {
                "group": [self.groups[group] for group in where[0]],
                "time": self.times[where[1]],
                "at risk": self.at_risk[where],
                "deaths": self.deaths[where],
                "censored": self.censored[where],
                "survival": self.survival[where],
                "lower 95 %": self.intervals[where][:, 0],
                "upper 95 %": self.intervals[where][:, 1],
            }
        )

    def draw(self, axes: "Axes | None" = None) -> Any:
        """The curves with their intervals, censored rows as ticks, and the numbers at risk below.

        Raises:
            MissingExtraError: matplotlib is not installed.
        """
        axes = new_axes(axes)
        start = min(0.0, float(self.times[0]))
        for group, name in enumerate(self.groups):
            last = int(np.flatnonzero(self.at_risk[group])[-1]) + 1 if self.at_risk[group, 0] else 0
            times = np.concatenate([[start], self.times[:last]])
            curve = np.concatenate([[1.0], self.survival[group, :last]])
            limits = np.concatenate([[[1.0, 1.0]], self.intervals[group, :last]])
            color = f"C{group % 10}"
            axes.step(times, curve, where="post", color=color, label=name)
            axes.fill_between(
                times, limits[:, 0], limits[:, 1], step="post", color=color, alpha=0.15, linewidth=0
            )
            left = np.flatnonzero(self.censored[group])
            axes.plot(self.times[left], self.survival[group, left], "|", color=color, markersize=6)
        axes.set(ylim=(0, 1.02), xlim=(start, float(self.times[-1])), ylabel="survival", xlabel=self.duration)
        ticks = [tick for tick in axes.get_xticks().tolist() if start <= tick <= self.times[-1]]
        axes.set_xticks(ticks)
        blended = axes.get_xaxis_transform()
        axes.text(0, -0.19, "at risk", transform=axes.transAxes, fontsize="small", color=GREY)
        for group, counts in enumerate(self.at(ticks)):
            for tick, count in zip(ticks, counts.tolist(), strict=True):
                axes.text(
                    tick,
                    -0.2 - 0.05 * (group + 1),
                    str(count),
                    transform=blended,
                    ha="center",
                    fontsize="small",
                    color=f"C{group % 10}",
                )
        if len(self.groups) > 1:
            axes.legend(frameon=False)
        return axes

    def __str__(self) -> str:
        table = frame_of(
            {
                "rows": self.at_risk[:, 0],
                "events": self.deaths.sum(axis=1),
                f"median {self.duration} (95 % CI)": [
                    f"{_time(median)} ({_time(low)} to {_time(high)})"
                    for median, (low, high) in zip(self.medians, self.median_intervals, strict=True)
                ],
            },
            index=list(self.groups),
        )
        lines = [
            f"survival of {complete(int(self.at_risk[:, 0].sum()), self.incomplete)}",
            table.to_string(),
        ]
        if np.count_nonzero(self.at_risk[:, 0]) > 1:
            lines.append(self._compared())
        return with_provenance("\n".join(lines), self.provenance)

    def _compared(self) -> str:
        try:
            test = self.log_rank
        except ParameterError as error:
            return f"no log-rank test: {error}"
        return (
            f"log-rank test: chi-squared {test.chi_squared:.2f} of {test.freedom} degrees of freedom, "
            f"p {p_value(test.p_value)}"
        )

    @cached_property
    def _fractions(self) -> list[list[tuple[int, int]]]:
        """For each group and time survival as a fraction of whole numbers."""
        curves = []
        for died, risk in zip(self.deaths.tolist(), self.at_risk.tolist(), strict=True):
            alive, everybody, curve = 1, 1, []
            for deaths, rows in zip(died, risk, strict=True):
                if deaths:
                    shared = math.gcd(alive * (rows - deaths), everybody * rows)
                    alive, everybody = alive * (rows - deaths) // shared, everybody * rows // shared
                curve.append((alive, everybody))
            curves.append(curve)
        return curves

    def _first(self, reached: Any) -> float:
        places = np.flatnonzero(np.asarray(reached))
        return float(self.times[places[0]]) if len(places) else math.inf


def _time(value: float) -> str:
    return "not reached" if math.isinf(value) else f"{value:g}"
