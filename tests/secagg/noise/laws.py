"""The two laws by other means than the library's, and how far samples and tables are from them."""

from collections.abc import Callable, Sequence
from itertools import pairwise

import mpmath
import numpy as np
from numpy.typing import NDArray
from scipy import special

from secagg.noise import DiscreteGaussian, Skellam
from secagg.noise.law import Law
from secagg.noise.tables import Samples

Exact = Callable[[int], mpmath.mpf]

DIGITS = 60
UNIT = 1 << 127


def exact(law: Law) -> Exact:
    """The chance of a value in 60 digits: Bessel's function, Fourier's sum, or the density over its sum."""
    if isinstance(law, Skellam):
        return of_skellam(mpmath.mpf(law.variance), law.bound)
    assert isinstance(law, DiscreteGaussian)
    sigma = mpmath.mpf(law.sigma)
    if sigma < 4:
        total = mpmath.fsum(mpmath.exp(-((k / sigma) ** 2) / 2) for k in range(-80, 81))
    else:  # Poisson's summation, of which one term is left
        total = sigma * mpmath.sqrt(2 * mpmath.pi) * (1 + 2 * mpmath.exp(-2 * (mpmath.pi * sigma) ** 2))
    return lambda k: mpmath.exp(-((k / sigma) ** 2) / 2) / total


def of_skellam(variance: mpmath.mpf, bound: int) -> Exact:
    if variance < 200:
        return lambda k: mpmath.exp(-variance) * mpmath.besseli(abs(k), variance)
    # The characteristic function exp(v (cos t - 1)) at the points of a period of four bounds: what folds
    # over lies three bounds out. Few points are above 10^-60.
    period = 4 * bound
    points = [2 * mpmath.pi * j / period for j in range(1, int(period * 3 / variance**0.5))]
    heights = [(point, mpmath.exp(variance * (mpmath.cos(point) - 1))) for point in points]
    assert heights[-1][1] < mpmath.mpf(10) ** -DIGITS
    return lambda k: (1 + 2 * mpmath.fsum(height * mpmath.cos(k * at) for at, height in heights)) / period


def chances(law: Law, values: NDArray[np.int64]) -> NDArray[np.float64]:
    """The same in floats, for many values: by scipy, and by summing the density."""
    if isinstance(law, Skellam):
        return np.asarray(special.ive(np.abs(values), law.variance))
    assert isinstance(law, DiscreteGaussian)
    every = np.arange(-40 * int(law.sigma + 1), 40 * int(law.sigma + 1))
    total = np.exp(-((every / law.sigma) ** 2) / 2).sum()
    return np.asarray(np.exp(-((values / law.sigma) ** 2) / 2) / total)


def deviation(samples: Samples, law: Law) -> float:
    """How far chi-squared is from what it is for samples of the law, in its standard deviations.

    Cells are single values, or runs of them where one is expected less than a thousandth of the time; the
    outermost hold the tails.
    """
    end = law.bound
    values = np.arange(-end, end + 1)
    cumulative = np.cumsum(chances(law, values))
    ends, done = list[int](), 0.0
    for index, upto in enumerate(cumulative.tolist()):
        if upto - done >= 0.001 and 1 - upto >= 0.001:  # what is left makes a cell too
            ends.append(index)
            done = upto
    expected = np.diff(np.concatenate([[0.0], cumulative[ends], [1.0]])) * len(samples)
    assert expected.min() > 20
    cells = np.bincount(np.searchsorted(values[ends], samples), minlength=len(expected))
    freedom = len(expected) - 1
    return float((((cells - expected) ** 2 / expected).sum() - freedom) / (2 * freedom) ** 0.5)


def variation(thresholds: Sequence[int], law: Law) -> float:
    """Total variation distance between a table's magnitudes and the law's, in 60 digits."""
    with mpmath.workdps(DIGITS):
        chance = exact(law)
        ends = [0, *thresholds, UNIT]
        table = [mpmath.mpf(above - below) / UNIT for below, above in pairwise(ends)]
        of_law = [chance(0), *(2 * chance(k) for k in range(1, len(table)))]
        within = mpmath.fsum(abs(one - other) for one, other in zip(table, of_law, strict=True))
        return float((within + abs(1 - mpmath.fsum(of_law))) / 2)
