"""Tails of probability distributions, in logarithms.

The terms of a plan's failure probabilities are far smaller than their sums, some of them below the smallest
float; so everything is a natural logarithm until the end. The hypergeometric distribution is that of the
corrupt ones among k clients drawn without putting back; its tails are sums, exact but for rounding.
`chernoff` is an upper bound, for sums with weights.

>>> most, chance = upper_quantile(10, marked=5, drawn=4, bound=math.log(0.03))
>>> most, round(1 / chance)
(3, 42)
"""

import math

import numpy as np
from numpy.typing import NDArray

__all__ = ["chernoff", "lower_quantile", "upper_quantile"]


def _log_hypergeometric(n: int, marked: int, drawn: int) -> tuple[int, NDArray[np.float64]]:
    """The support's first value, and ln Pr[X = x] over the support of X ~ Hypergeom(n, marked, drawn).

    Of n no more than n are marked, though a roster may have more corrupt clients than a cohort has places.
    Ratios of neighbouring terms, summed and normalised: no difference of large log-gammas is taken.
    """
    marked = min(marked, n)
    low, high = max(0, drawn - (n - marked)), min(marked, drawn)
    x = np.arange(low, high, dtype=np.float64)
    ratios = np.log((marked - x) * (drawn - x)) - np.log((x + 1) * (n - marked - drawn + x + 1))
    logs = np.concatenate([np.zeros(1), np.cumsum(ratios)])
    return low, logs - np.logaddexp.reduce(logs)


def upper_quantile(n: int, *, marked: int, drawn: int, bound: float) -> tuple[int, float]:
    """The smallest t1 with ln Pr[X > t1] <= bound, and Pr[X > t1].

    On a random graph n·Pr[X > t1] is the exact expectation of how many of n clients have more than t1 marked
    ones among their k neighbours: a random place has a random set of neighbours.
    """
    low, logs = _log_hypergeometric(n, marked, drawn)
    above = np.append(np.logaddexp.accumulate(logs[::-1])[::-1][1:], -np.inf)  # ln Pr[X > low + i]
    index = int(np.count_nonzero(above > bound))
    return low + index, math.exp(above[index])


def lower_quantile(n: int, *, marked: int, drawn: int, bound: float) -> tuple[int, float]:
    """The largest t2 with ln Pr[X < t2] <= bound, and Pr[X < t2]."""
    low, logs = _log_hypergeometric(n, marked, drawn)
    below = np.append(-np.inf, np.logaddexp.accumulate(logs))  # ln Pr[X < low + i]
    index = int(np.count_nonzero(below <= bound)) - 1
    return low + index, math.exp(below[index])


def chernoff(weights: NDArray[np.float64], counts: NDArray[np.float64], rate: float, target: float) -> float:
    """Chernoff's bound of Pr[Σ_j w_j·B_j >= target] for independent B_j that are 1 with probability `rate`.

    `counts` says how many terms have each weight; weights are at least 0.
    """

    def slope(tilt: float) -> float:
        """The derivative of the exponent: the tilted mean, less the target."""
        return float(counts @ (weights * rate / (rate + (1 - rate) * np.exp(-tilt * weights)))) - target

    if target <= rate * float(counts @ weights):
        return 1.0
    if rate == 0 or target > float(counts @ weights):
        return 0.0
    low, high = 0.0, 1.0
    # Any tilt gives a bound and the exponent is convex, so it only matters to come near the least. At a
    # target that all terms must reach the slope never turns, and 64 is as good as infinity.
    while high < 64 and slope(high) < 0:
        low, high = high, 2 * high
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if slope(middle) < 0 else (low, middle)
    grown = high * weights + np.log(rate + (1 - rate) * np.exp(-high * weights))
    return math.exp(min(float(counts @ grown) - high * target, 0.0))
