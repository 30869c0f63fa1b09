"""The table of a regression: coefficients, their uncertainty, and the ratios that papers print.

>>> table = Coefficients(
...     names=("age",), estimates=np.array([0.0]), covariance=np.array([[0.01]]), ratio="odds ratio"
... )
>>> table.standard_errors.tolist(), table.p_values.tolist(), table.ratio_intervals.round(3).tolist()
([0.1], [1.0], [[0.822, 1.217]])
"""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from fl_integration.statistics.answer import Answer, frame_of, new_axes
from fl_integration.statistics.showing import BLUE, GREY, load_special, p_value, with_provenance

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

__all__ = ["INTERCEPT", "Coefficients"]

INTERCEPT: Final = "intercept"
"""The name of a regression's constant, among its coefficients."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Coefficients(Answer):
    """Coefficients by maximum likelihood, in the columns' own measures; intervals and tests are Wald's.

    Attributes:
        names: of the coefficients.
        estimates: float64[k].
        covariance: float64[k, k], of the estimates.
        ratio: what the exponential of a coefficient is called.
    """

    names: tuple[str, ...]
    estimates: NDArray[np.float64]
    covariance: NDArray[np.float64]
    ratio: str

    @property
    def standard_errors(self) -> NDArray[np.float64]:
        """float64[k]."""
        return np.sqrt(np.diag(self.covariance))

    @property
    def z(self) -> NDArray[np.float64]:
        """float64[k], estimates over their standard errors."""
        return self.estimates / self.standard_errors

    @property
    def p_values(self) -> NDArray[np.float64]:
        """float64[k], two-sided, for a coefficient of 0."""
        return np.asarray(2 * load_special().ndtr(-np.abs(self.z)), dtype=np.float64)

    @property
    def intervals(self) -> NDArray[np.float64]:
        """float64[k, 2], of 95 %."""
        reach = float(load_special().ndtri(0.975)) * self.standard_errors
        return np.stack([self.estimates - reach, self.estimates + reach], axis=1)

    @property
    def ratios(self) -> NDArray[np.float64]:
        """float64[k], for one more of the column's own measure; infinite where float64 ends."""
        with np.errstate(over="ignore"):
            return np.exp(self.estimates)

    @property
    def ratio_intervals(self) -> NDArray[np.float64]:
        """float64[k, 2], of 95 %."""
        with np.errstate(over="ignore"):
            return np.exp(self.intervals)

    def to_frame(self) -> "pd.DataFrame":
        """A row for each coefficient."""
        return frame_of(
            {
                "coefficient": self.estimates,
                "standard error": self.standard_errors,
                "z": self.z,
                "p": self.p_values,
                self.ratio: self.ratios,
                "lower 95 %": self.ratio_intervals[:, 0],
                "upper 95 %": self.ratio_intervals[:, 1],
            },
            index=list(self.names),
        )

    def draw(self, axes: "Axes | None" = None) -> Any:
        """A forest plot of the ratios on a logarithmic axis, without the constant.

        Raises:
            MissingExtraError: matplotlib is not installed.
        """
        axes = new_axes(axes, height=1.2 + 0.35 * max(3, len(self.names)))
        from matplotlib.ticker import LogLocator, NullFormatter

        shown = [place for place, name in enumerate(self.names) if name != INTERCEPT]
        heights = np.arange(len(shown))[::-1]
        axes.axvline(1.0, color=GREY, linewidth=1)
        axes.hlines(
            heights, self.ratio_intervals[shown, 0], self.ratio_intervals[shown, 1], color=BLUE, linewidth=2
        )
        axes.plot(self.ratios[shown], heights, "s", color=BLUE)
        axes.set_xscale("log")
        low, high = axes.get_xlim()
        between = (1.0, 1.2, 1.5, 2.0, 3.0, 5.0, 7.0) if high < 10 * low else (1.0,)
        axes.xaxis.set_major_locator(LogLocator(subs=between))
        axes.xaxis.set_major_formatter("{x:g}")
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.set_yticks(heights, [self.names[place] for place in shown])
        axes.set_ylim(-0.6, len(shown) - 0.4)
        axes.set_xlabel(f"{self.ratio} (95 % confidence interval)")
        return axes

    def __str__(self) -> str:
        frame = frame_of(
            {
                "coefficient": [f"{each:.4g}" for each in self.estimates],
                "standard error": [f"{each:.3g}" for each in self.standard_errors],
                "z": [f"{each:.2f}" for each in self.z],
                "p": [p_value(each) for each in self.p_values.tolist()],
                f"{self.ratio} (95 % CI)": [
                    f"{_three(ratio)} ({_three(low)} to {_three(high)})"
                    for ratio, (low, high) in zip(self.ratios, self.ratio_intervals, strict=True)
                ],
            },
            index=list(self.names),
        )
        return with_provenance("\n".join([*self._headlines(), frame.to_string()]), self.provenance)

    def _headlines(self) -> list[str]:
        """What stands above the table."""
        return []

    def _against(self, start: float, value: float, *, freedom: int) -> str:
        """The likelihood-ratio test of all predictors together, as a sentence."""
        chi_squared = max(0.0, 2 * (value - start))
        p = float(load_special().chdtrc(freedom, chi_squared))
        digits = "" if math.isnan(p) else f", p {p_value(p) if p < 0.001 or p > 0.99 else '= ' + p_value(p)}"
        return f"likelihood-ratio test: chi-squared {chi_squared:.2f} of {freedom} degrees of freedom{digits}"


def _three(ratio: float) -> str:
    """Three digits, zeros too: an interval from 1.00 is not one from 1."""
    return f"{ratio:#.3g}".rstrip(".")
