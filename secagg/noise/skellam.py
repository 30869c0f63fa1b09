"""Skellam noise: the difference of two Poisson variables, whose sums are Skellam again.

X = Poisson(v/2) - Poisson(v/2) has the variance v and P(X = k) = e^-v I_|k|(v), with I the modified Bessel
function of the first kind. Two of variances v and w add up to one of v + w (Agarwal, Kairouz and Liu,
NeurIPS 2021), so that h parties draw shares whose sum has the law that one trusted party would draw, and
`h * distance` bounds how far. The variance is the float that is given: where v / h is none, h shares
add up to a Skellam of h * fl(v / h), and that is what an accountant must be told; `distance` does not
cover it. Choose the share first, rounded up, and account for h times it.

The chances come from I_(k-1) = I_(k+1) + (2k / v) I_k, run down from N + 1, where 0 stands for I, and scaled
to a sum of one (Miller's algorithm). All terms are positive: nothing cancels, and N steps of 256 bits lose
log2(5 N) of them. Starting from 0 adds a multiple of the recurrence's other solution, (-1)^k K_k(v): relative
to I_k it is I_(N+1) / I_k * K_k / K_(N+1), and as K grows with its order, each chance errs by less than the
chance of N + 1.

>>> from secagg.entropy import SeededEntropy
>>> noise = Skellam(variance=4.0)
>>> noise.standard_deviation, noise.bound, noise.distance < 2.0**-109
(2.0, 37, True)
>>> noise.pmf([-1, 0, 1]).round(6).tolist()
[0.178751, 0.207002, 0.178751]
>>> noise.sample(8, entropy=SeededEntropy(b"an example")).tolist()
[1, 0, -1, 0, 3, 0, 1, 0]
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import gmpy2

from secagg.noise.law import LARGEST_SIGMA, Law, checked
from secagg.noise.tables import Real

__all__ = ["LEAST_VARIANCE", "Skellam"]

LEAST_VARIANCE: Final = 2.0**-20
"""A share may be small: its sum is not."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Skellam(Law):
    """The Skellam law of mean zero.

    Args:
        variance: of the law (its two Poisson variables have half of it each), in [2^-20, 2^36].

    Raises:
        ParameterError: it is anything else.
    """

    variance: float

    def __post_init__(self) -> None:
        variance = checked(
            self.variance,
            name="variance",
            least=LEAST_VARIANCE,
            most=LARGEST_SIGMA**2,
            remedy="use fewer steps a clip where it is larger, or add samples: variances add up exactly",
        )
        object.__setattr__(self, "variance", variance)

    @property
    def standard_deviation(self) -> float:
        """Of the law itself: the square root of its variance."""
        return math.sqrt(self.variance)

    def _log2_tail(self, beyond: int) -> float:
        # E exp(tX) = exp(v (cosh t - 1)), and t = asinh(a / v) makes the most of Chernoff's inequality.
        magnitude = beyond + 1
        slope = magnitude / self.variance
        exponent = magnitude * (slope / (1 + math.sqrt(1 + slope**2)) - math.asinh(slope))
        return 1 + exponent / math.log(2)

    def _weights(self, last: int, start: Real) -> Iterator[Real]:
        double = 2 / gmpy2.mpfr(self.variance)
        above, weight = gmpy2.mpfr(0), start
        for order in range(last, 0, -1):
            yield weight
            above, weight = weight, above + order * double * weight
        yield weight
