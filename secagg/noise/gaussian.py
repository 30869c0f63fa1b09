"""Discrete Gaussian noise: the Gaussian's density on integers, scaled to a sum of one.

P(X = k) is proportional to exp(-k^2 / (2 sigma^2)) (Canonne, Kamath and Steinke, NeurIPS 2020). It has the
Gaussian's tails and privacy. Its variance is below sigma^2: .86 of it at sigma = .5, where a rounded normal
has more than sigma^2; from sigma = 2 on the two are one float. Sums of such variables are not discrete
Gaussian: Kairouz, Liu and Steinke (ICML 2021) bound by how much, and an accountant of shares must add that.
`skellam` has no such term.

A chance times exp((2k - 1) / (2 sigma^2)) is the one below it, and these ratios fall by a factor that is
always the same: two multiplications of 256 bits for an entry. N entries lose at most log2(N^2) + 3 bits, 47
for the widest law. The scale is that of the law cut at N, beyond which there is nothing that counts.

>>> noise = DiscreteGaussian(sigma=2.0)
>>> noise.standard_deviation, noise.bound, noise.distance < 2.0**-109
(2.0, 24, True)
>>> noise.pmf([-1, 0, 1]).round(6).tolist()
[0.176033, 0.199471, 0.176033]
>>> round(DiscreteGaussian(sigma=0.5).standard_deviation ** 2 / 0.25, 2)
0.86
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import gmpy2

from secagg.noise.law import LARGEST_SIGMA, Law, checked
from secagg.noise.tables import Real

__all__ = ["LEAST_SIGMA", "DiscreteGaussian"]

LEAST_SIGMA: Final = 0.1
"""Below it a sample is other than zero once in 2^71, or less: it hides nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DiscreteGaussian(Law):
    """The discrete Gaussian law of mean zero.

    Args:
        sigma: of the density that is scaled (the law's own deviation is smaller), in [0.1, 2^18].

    Raises:
        ParameterError: it is anything else.
    """

    sigma: float

    def __post_init__(self) -> None:
        sigma = checked(
            self.sigma,
            name="sigma",
            least=LEAST_SIGMA,
            most=LARGEST_SIGMA,
            remedy="use fewer steps a clip where the noise is larger, and more where it is smaller",
        )
        object.__setattr__(self, "sigma", sigma)

    @property
    def standard_deviation(self) -> float:
        """Of the law itself; from sigma = 2 on it differs from sigma by less than a float shows."""
        if self.sigma >= 2:
            return self.sigma
        weights = [(k, math.exp(-((k / self.sigma) ** 2) / 2)) for k in range(1, self.bound + 1)]
        squares = math.fsum(k * k * weight for k, weight in weights)
        return math.sqrt(2 * squares / (1 + 2 * math.fsum(weight for _, weight in weights)))

    def _log2_tail(self, beyond: int) -> float:
        # E exp(tX) <= exp(t^2 sigma^2 / 2): of all shifts of the density, the sum over integers is largest
        # where its centre is one (Poisson's summation has positive terms there). Then Chernoff's inequality.
        return 1 - ((beyond + 1) / self.sigma) ** 2 / 2 / math.log(2)

    def _weights(self, last: int, start: Real) -> Iterator[Real]:
        square = gmpy2.mpfr(self.sigma) ** 2
        ratio, fall = gmpy2.exp((2 * last - 1) / (2 * square)), gmpy2.exp(-1 / square)
        weight = start
        for _ in range(last):
            yield weight
            weight = weight * ratio
            ratio = ratio * fall
        yield weight
