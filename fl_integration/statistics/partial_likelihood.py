"""Cox's partial likelihood from sums over the rows at risk, with the same bits at every party.

At a time with d deaths let s be the sums over all rows at risk, and t those over the rows that die then, of
u, x·u and x·xᵀ·u. Breslow (1974) takes s for each of the d deaths; Efron (1977) takes s - (l/d)·t for the
l-th, as if the tied deaths came one after the other. Sums over l go into a few numbers for each time, so that
a step costs the same with many ties. Logarithms are decimal ones, correctly rounded, since those of a
machine's library are not.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Context, Decimal
from enum import Enum
from typing import Final

import numpy as np
from numpy.typing import NDArray

from fl_integration.statistics.newton import Likelihood

__all__ = ["Deaths", "RiskSums", "Ties", "partial_likelihood"]

_DIGITS: Final = Context(prec=25)
_LN_2: Final = float(Decimal(2).ln(_DIGITS))


class Ties(Enum):
    """How deaths at one time are counted."""

    BRESLOW = "breslow"
    EFRON = "efron"


@dataclass(frozen=True, slots=True, eq=False)
class Deaths:
    """Those who died.

    Attributes:
        counts: int64[times], at each time, at least 1.
        predictors: float64[width], summed over all of them.
    """

    counts: NDArray[np.int64]
    predictors: NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class RiskSums:
    """Sums over some rows for each time.

    Attributes:
        zero: float64[times], of u.
        one: float64[times, width], of x·u.
        two: float64[times, width, width], of x·xᵀ·u.
    """

    zero: NDArray[np.float64]
    one: NDArray[np.float64]
    two: NDArray[np.float64]


def partial_likelihood(
    beta: NDArray[np.float64], deaths: Deaths, *, offset: float, risk: RiskSums, dying: RiskSums | None
) -> Likelihood:
    """The likelihood at some coefficients.

    Args:
        beta: float64[width].
        deaths: at the times of the sums.
        offset: what was subtracted from βx in u.
        risk: over the rows at risk.
        dying: over the rows that die, for Efron's; None for Breslow's.

    Returns:
        it, with a value of minus infinity if the rows at risk have no weight that the sums can show.
    """
    width = len(beta)
    shares = [
        [position / count for position in range(count)] if dying is not None else [0.0] * count
        for count in deaths.counts.tolist()
    ]
    lost = dying.zero.tolist() if dying is not None else [0.0] * len(shares)
    terms = [
        [whole - share * gone for share in each]
        for whole, gone, each in zip(risk.zero.tolist(), lost, shares, strict=True)
    ]
    if any(term <= 0 for each in terms for term in each):
        return Likelihood(-math.inf, np.zeros(width), np.zeros((width, width)))

    def over_deaths(of: Callable[[float, float], float]) -> NDArray[np.float64]:
        """For each time the sum over its deaths of a function of l/d and of the weight at risk."""
        return np.array(
            [
                math.fsum(of(share, term) for share, term in zip(some, each, strict=True))
                for some, each in zip(shares, terms, strict=True)
            ]
        )

    # Products, no powers: those are a library's, and not correctly rounded.
    once, twice = over_deaths(lambda _, term: 1 / term), over_deaths(lambda _, term: 1 / (term * term))
    mean = risk.one * once[:, None]
    square = risk.two * once[:, None, None]
    outer = _outer(risk.one, risk.one) * twice[:, None, None]
    if dying is not None:
        shared = over_deaths(lambda share, term: share / term)
        mean = mean - dying.one * shared[:, None]
        square = square - dying.two * shared[:, None, None]
        crossed = _outer(risk.one, dying.one)
        crossed = crossed + crossed.transpose(0, 2, 1)
        outer = outer - crossed * over_deaths(lambda share, term: share / (term * term))[:, None, None]
        twofold = over_deaths(lambda share, term: share * share / (term * term))
        outer = outer + _outer(dying.one, dying.one) * twofold[:, None, None]
    logarithms = [_logarithm(each) + len(each) * offset for each in terms]
    value = math.fsum((beta * deaths.predictors).tolist()) - math.fsum(logarithms)
    return Likelihood(value, deaths.predictors - _added(mean), _added(square - outer))


def _logarithm(factors: list[float]) -> float:
    """Of a product of positive numbers: one decimal logarithm, for they are slow."""
    mantissa, exponent = 1.0, 0
    for each in factors:
        mantissa, shift = math.frexp(mantissa * each)
        exponent += shift
    return float(Decimal(mantissa).ln(_DIGITS)) + exponent * _LN_2


def _outer(left: NDArray[np.float64], right: NDArray[np.float64]) -> NDArray[np.float64]:
    return left[:, :, None] * right[:, None, :]


def _added(each: NDArray[np.float64]) -> NDArray[np.float64]:
    """The sum over the first axis, from first to last: the order in which numpy adds is its own affair."""
    total = np.zeros(each.shape[1:])
    for one in each:
        total += one
    return total
