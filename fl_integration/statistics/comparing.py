"""Whether groups differ, from what sums tell of them: counts, means and deviations, counts of bins.

>>> count, mean, deviation = np.array([20, 30]), np.array([50.0, 55.0]), np.array([8.0, 9.0])
>>> p, test = compared_means(count, mean, deviation)
>>> round(p, 4), test.value
(0.0455, "Welch's t test")
"""

import math
from enum import Enum
from typing import Final

import numpy as np
from numpy.typing import NDArray

from fl_integration.statistics.showing import load_special
from secagg.errors import MissingExtraError

__all__ = ["Comparison", "compared_counts", "compared_means", "compared_ranks", "pooled_moments"]


_FEW: Final = 5


class Comparison(Enum):
    """How groups were compared; the value is what stands below a table."""

    WELCH = "Welch's t test"
    ANOVA = "analysis of variance"
    RANKS = "rank test (Mann-Whitney, Kruskal-Wallis) on binned values"
    CHI_SQUARED = "chi-squared test"
    FISHER = "Fisher's exact test"


def pooled_moments(
    count: NDArray[np.int64], mean: NDArray[np.float64], deviation: NDArray[np.float64]
) -> tuple[float, float]:
    """Mean and standard deviation of all, from those of the groups."""
    there = count > 0
    n, means, deviations = count[there], mean[there], np.where(count[there] > 1, deviation[there], 0.0)
    if not len(n):
        return math.nan, math.nan
    of_all = float((n * means).sum() / n.sum())
    squares = float(((n - 1) * deviations**2 + n * (means - of_all) ** 2).sum())
    return of_all, math.sqrt(squares / (n.sum() - 1)) if n.sum() > 1 else math.nan


def compared_means(
    count: NDArray[np.int64], mean: NDArray[np.float64], deviation: NDArray[np.float64]
) -> tuple[float, Comparison | None]:
    """Welch's t test of two groups, an analysis of variance of more; of groups with two values at least."""
    there = count > 1
    n, means, variances = count[there].astype(np.float64), mean[there], deviation[there] ** 2
    if len(n) < 2 or not variances.any():
        return math.nan, None
    special = load_special()
    if len(n) == 2:
        parts = variances / n
        freedom = parts.sum() ** 2 / (parts**2 / (n - 1)).sum()
        t = (means[0] - means[1]) / math.sqrt(parts.sum())
        return float(2 * special.stdtr(freedom, -abs(t))), Comparison.WELCH
    of_all = (n * means).sum() / n.sum()
    between, within = (n * (means - of_all) ** 2).sum(), ((n - 1) * variances).sum()
    groups, rest = len(n) - 1, n.sum() - len(n)
    return float(special.fdtrc(groups, rest, (between / groups) / (within / rest))), Comparison.ANOVA


def compared_counts(counts: NDArray[np.int64]) -> tuple[float, Comparison | None]:
    """Pearson's χ² without correction, of int64[levels, groups]; Fisher's exact test of few by two.

    Few are an expected count below 5. Levels and groups that nobody has are left out.
    """
    counts = counts[counts.sum(axis=1) > 0][:, counts.sum(axis=0) > 0]
    if min(counts.shape) < 2:
        return math.nan, None
    expected = counts.sum(axis=1, keepdims=True) * counts.sum(axis=0, keepdims=True) / counts.sum()
    if counts.shape == (2, 2) and expected.min() < _FEW:
        return _fisher(counts), Comparison.FISHER
    freedom = (counts.shape[0] - 1) * (counts.shape[1] - 1)
    statistic = float(((counts - expected) ** 2 / expected).sum())
    return float(load_special().chdtrc(freedom, statistic)), Comparison.CHI_SQUARED


def _fisher(counts: NDArray[np.int64]) -> float:
    try:
        from scipy.stats import fisher_exact
    except ImportError as error:
        raise MissingExtraError(package="scipy", extra="statistics") from error
    return float(fisher_exact(counts).pvalue)


def compared_ranks(counts: NDArray[np.int64]) -> tuple[float, Comparison | None]:
    """Kruskal and Wallis' test (JASA 47, 1952), with ties, of int64[groups, bins].

    Of two groups it is Mann and Whitney's, as a normal law without correction for continuity.
    """
    counts = counts[counts.sum(axis=1) > 0].astype(np.float64)
    ties, n = counts.sum(axis=0), counts.sum()
    untied = 1 - (ties**3 - ties).sum() / (n**3 - n) if n > 1 else 0.0
    if len(counts) < 2 or untied <= 0:
        return math.nan, None
    ranks = np.cumsum(ties) - ties + (ties + 1) / 2
    sums = counts @ ranks
    h = 12 / (n * (n + 1)) * (sums**2 / counts.sum(axis=1)).sum() - 3 * (n + 1)
    return float(load_special().chdtrc(len(counts) - 1, max(h / untied, 0.0))), Comparison.RANKS
