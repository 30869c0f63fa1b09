"""What releases cost, and how much noise a budget asks for.

The one file that imports dp-accounting (extra `privacy`), and it does so when a number is first asked for.
Each release has a curve of Rényi divergences, curves of releases add up, and `compute_epsilon` of
dp-accounting turns the sum into (ε, δ) (Canonne, Kamath and Steinke 2020, Prop. 12).

* **Skellam** (Agarwal, Kairouz and Liu 2021, Thm 3.5), for integer orders α:
  αΔ₂²/2σ² + min(((2α−1)Δ₂² + 6Δ₁)/4σ⁴, 3Δ₁/2σ²).
* **Sum of discrete Gaussians** (Kairouz, Liu and Steinke 2021, Prop. 14): the least of three, with
  τ = 10·Σ_{k<shares} exp(−2π²σ_share²·k/(k+1)).
* **Between integer orders** (α−1)·D_α is convex in α, so the straight line between two bounds is a bound.
* **Poisson sampling** at a rate q. Let P and Q be the output with and without a patient who was drawn. With
  her among the data the output is (1−q)Q + qP, and E_Q[((1−q) + q·P/Q)^α] is a binomial sum over
  E_Q[(P/Q)^l] = exp((l−1)·D_l(P‖Q)): any bound of the mechanism's own curve bounds it, for integer α. That
  is one direction. The other, D_α(Q ‖ (1−q)Q + qP), is never larger here, as both laws of noise are
  symmetric: x ↦ Δ−x swaps P and Q, so with u = P/Q, a = 1−q+qu, b = 1−q+q/u and u ≥ 1 the two directions
  compare, pair by pair of points, as a^α + u·b^α ≥ a^(1−α) + u·b^(1−α). There is equality at α = 1, and both
  differences have the form 2√·sinh((α−½)·ln·), of which the left grows faster since ab ≥ 1. The factor 3 of
  the bound for any mechanism (Zhu and Wang 2019, Thm 5) is not needed then. The sample is shared by all
  values of one release: its curve is sampled as one.

Rényi accounting is simple and exceeds the truth by about a tenth: for z = 1.1, q = .01 and 10,000 rounds at
δ = 1e-5 it says 5.66, and a privacy-loss distribution would say 5.20 for the Gaussian. None is known to be
the worst case of a Skellam in many dimensions, so none is used.

>>> round(epsilon_of({Release(noise=Noise.SKELLAM, l2=1000, l1=1e6, sigma=4000): 10}, delta=1e-5), 2)
3.63
"""

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from types import ModuleType
from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from fl_integration.privacy.units import Noise, check_choice, check_count, check_positive
from secagg.errors import MissingExtraError, ParameterError
from secagg.numbers import is_number, plain

__all__ = ["Release", "Releases", "calibrate", "epsilon_of", "epsilons"]

_MOST_SAMPLED: Final = 1024
"""The largest order of a sampled release: its bound is a sum of so many terms."""

_INTEGERS: Final = np.arange(1, _MOST_SAMPLED + 1, dtype=np.float64)
_ORDERS: Final = np.array(
    [1.5, 1.75, *np.arange(2, 8, 0.125), *np.arange(8, 16, 0.25), *range(16, 64)]
    + [*range(64, 128, 2), *range(128, 256, 8), *range(256, 513, 32), 640, 768, 896]
    + [float(1 << power) for power in range(10, 25)]
)
_LOG_FACTORIALS: Final = np.concatenate([[0.0], np.cumsum(np.log(_INTEGERS))])
_SLACK: Final = 1 + 1e-9
"""Every ε is raised by this factor: it covers what float64 rounds off on the way."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Release:
    """One noised vector of integers; all lengths are in steps of its grid.

    Args:
        noise: the law of the noise.
        l2: the largest Euclidean change that one unit makes to the vector (Δ₂).
        l1: the largest change in the sum of absolute values (Δ₁); as steps are whole, at most l2², and at
            most √length·l2.
        sigma: the standard deviation of the noise that is there for sure, in each value.
        sampling_rate: q in (0, 1], with which each unit is drawn, alone and secretly.
        length: values; only the discrete Gaussian needs it, 0 where it is unknown.
        shares: discrete Gaussians that `sigma` is the sum of; a Skellam does not depend on it.

    Raises:
        ParameterError: a number outside its range; discrete Gaussian shares without a length or with a
            standard deviation below 1/2.
    """

    noise: Noise
    l2: float
    l1: float
    sigma: float
    sampling_rate: float = 1.0
    length: int = 0
    shares: int = 1

    def __post_init__(self) -> None:
        check_choice("noise", self.noise, Noise)
        for name in ("l2", "l1", "sigma"):
            object.__setattr__(self, name, check_positive(name, getattr(self, name)))
        object.__setattr__(self, "sampling_rate", check_rate(self.sampling_rate))
        object.__setattr__(self, "length", check_count("length", plain(self.length or 0), least=0))
        object.__setattr__(self, "shares", check_count("shares", self.shares))
        if self.noise is Noise.DISCRETE_GAUSSIAN:
            if not self.length:
                raise ParameterError(
                    "a discrete Gaussian release without its length; give it, or take Skellam"
                )
            if self.sigma / math.sqrt(self.shares) < 0.5:
                raise ParameterError(
                    f"discrete Gaussian shares of {self.sigma / math.sqrt(self.shares):.3g} steps; they "
                    "need 0.5: take a finer grid (steps), or Noise.SKELLAM"
                )


Releases: TypeAlias = "Iterable[Release] | Mapping[Release, int]"
"""Releases one by one, or each with how often it was made."""


def check_rate(value: Any) -> float:
    """A sampling rate in (0, 1] as a float."""
    value = plain(value)
    if not is_number(value) or not 0 < value <= 1:
        raise ParameterError(f"sampling_rate is {value!r}; it must be a number in (0, 1], 1 takes everyone")
    return float(value)


def epsilon_of(releases: Releases, *, delta: float) -> float:
    """ε of all these releases together, at δ; they may have been chosen one after the other.

    Raises:
        ParameterError: delta is not in (0, 1).
        MissingExtraError: dp-accounting is not installed.
    """
    total = np.zeros(len(_ORDERS))
    for release, count in Counter(releases).items():
        total += count * _curve(release)
    return _epsilon(total, _checked_delta(delta))


def epsilons(release: Release, rounds: int, *, delta: float) -> tuple[float, ...]:
    """ε after 1, 2, …, `rounds` of the same release."""
    curve, delta = _curve(release), _checked_delta(delta)
    said, here = [], 0
    for count in range(1, rounds + 1):
        # The best order falls with the count, slowly after a while; every subset of orders gives a bound.
        near = slice(max(here - 12, 0), here + 12) if 20 < count < rounds else slice(None)
        found, order = _accounting().compute_epsilon(_ORDERS[near], count * curve[near], delta)
        here = int(np.searchsorted(_ORDERS, order))
        said.append(float(found) * _SLACK)
    return tuple(said)


def calibrate(
    *,
    epsilon: float,
    delta: float,
    noise: Noise,
    l2: float,
    l1: float,
    rounds: int = 1,
    sampling_rate: float = 1.0,
    length: int = 0,
    shares: int = 1,
) -> float:
    """The noise multiplier σ/Δ₂ with which `rounds` releases cost at most epsilon, within 1e-6 of the least.

    Args:
        epsilon, delta: the budget.
        rounds: how often the release is made.
        noise, l2, l1, sampling_rate, length, shares: see `Release`.

    Raises:
        ParameterError: no multiplier up to 1e9 is enough.
    """

    def cost(multiplier: float) -> float:
        sigma = multiplier * l2
        if noise is Noise.DISCRETE_GAUSSIAN and sigma / math.sqrt(shares) < 0.5:
            return math.inf
        release = Release(
            noise=noise,
            l2=l2,
            l1=l1,
            sigma=sigma,
            sampling_rate=sampling_rate,
            length=length,
            shares=shares,
        )
        return _epsilon(rounds * _rdp(release), delta)

    delta, target = _checked_delta(delta), epsilon / _SLACK  # a ledger adds the same numbers in another order
    low = high = math.sqrt(2 * rounds * math.log(1.25 / delta)) * sampling_rate / epsilon
    while cost(high) > target:
        low, high = high, high * 2
        if high > 1e9:
            raise ParameterError(
                f"no noise keeps {rounds} rounds within epsilon {epsilon:g} at delta {delta:g}; raise "
                "epsilon or delta, or ask for fewer rounds"
            )
    while low > 1e-6 and cost(low) <= target:
        low, high = low / 2, low
    while high / low > 1 + 1e-6:
        middle = math.sqrt(low * high)
        low, high = (low, middle) if cost(middle) <= target else (middle, high)
    return high


def _checked_delta(delta: Any) -> float:
    delta = plain(delta)
    if not is_number(delta) or not 0 < delta < 1:
        raise ParameterError(f"delta is {delta!r}; it must be a number in (0, 1)")
    return float(delta)


@lru_cache(maxsize=1)
def _accounting() -> ModuleType:
    try:
        from dp_accounting import rdp
    except ImportError as missing:
        raise MissingExtraError(package="dp-accounting", extra="privacy") from missing
    module: ModuleType = rdp
    return module


def _epsilon(curve: NDArray[np.float64], delta: float) -> float:
    return float(_accounting().compute_epsilon(_ORDERS, curve, delta)[0]) * _SLACK


@lru_cache(maxsize=4096)
def _curve(release: Release) -> NDArray[np.float64]:
    """`_rdp` of a release that comes again, as those of one training do; read-only."""
    curve = _rdp(release)
    curve.flags.writeable = False
    return curve


def _rdp(release: Release) -> NDArray[np.float64]:
    """The bound of D_α at `_ORDERS`; infinite at orders for which there is none."""
    if release.noise is Noise.DISCRETE_GAUSSIAN and release.sampling_rate == 1:
        return _unsampled(release, _ORDERS)  # all orders have one
    integers = _unsampled(release, _INTEGERS)
    moments = (_INTEGERS - 1) * integers
    if release.sampling_rate < 1:
        moments = _sampled(release.sampling_rate, moments)
    curve: NDArray[np.float64] = np.interp(_ORDERS, _INTEGERS, moments) / (_ORDERS - 1)
    beyond = _ORDERS > _MOST_SAMPLED  # integers too
    curve[beyond] = _unsampled(release, _ORDERS[beyond]) if release.sampling_rate == 1 else np.inf
    return curve


def _unsampled(release: Release, orders: NDArray[np.float64]) -> NDArray[np.float64]:
    """The curve of a release in which every unit takes part; of Skellam noise at integer orders."""
    ratio = release.l2 / release.sigma
    if release.noise is Noise.SKELLAM:
        # Agarwal+ 2021, Thm 3.5; written with ratios, whose squares stay in range.
        fourth = (2 * orders - 1) * ratio**2 / (4 * release.sigma**2)
        fourth += 6 * release.l1 / release.sigma**2 / (4 * release.sigma**2)
        return orders * ratio**2 / 2 + np.minimum(fourth, 3 * release.l1 / (2 * release.sigma**2))
    tau = _tau(release.sigma / math.sqrt(release.shares), release.shares)
    first = orders / 2 * ratio**2 + tau * release.length  # Kairouz+ 2021, Prop. 14
    second = orders / 2 * (ratio**2 + 2 * release.l1 / release.sigma * tau + tau**2 * release.length)
    third = orders / 2 * (ratio + math.sqrt(release.length) * tau) ** 2
    return np.minimum(np.minimum(first, second), third)


def _tau(share: float, shares: int) -> float:
    """How far the sum of so many discrete Gaussians is from one (Kairouz+ 2021, eq. 17)."""
    ratios = [k / (k + 1) for k in range(1, min(shares, 1000))]
    tau = sum(math.exp(-2 * (math.pi * share) ** 2 * ratio) for ratio in ratios)
    # Beyond the thousandth each term is below what k/(k+1) = .999 gives.
    return 10 * (tau + max(shares - 1000, 0) * math.exp(-2 * (math.pi * share) ** 2 * 0.999))


def _sampled(rate: float, moments: NDArray[np.float64]) -> NDArray[np.float64]:
    """(α−1)·D_α under Poisson sampling at α = 1, …, of (l−1)·D_l without it.

    As Σ_l C(α,l)·q^l·(1−q)^(α−l) is 1, what is summed is the part of each term above its weight: all of it
    positive, so that a small divergence is not lost beside 1.
    """
    with np.errstate(divide="ignore"):  # the first moment is 0, and its logarithm -inf
        excess = moments + np.log(-np.expm1(-moments))
    found = np.zeros(len(moments))
    powers = np.arange(len(moments) + 1)
    for order in _needed():
        each = powers[2 : order + 1]
        weights = _LOG_FACTORIALS[order] - _LOG_FACTORIALS[each] - _LOG_FACTORIALS[order - each]
        weights += each * math.log(rate) + (order - each) * math.log1p(-rate)
        terms = weights + excess[1:order]
        most = float(terms.max())
        total = most + math.log(float(np.exp(terms - most).sum()))
        found[order - 1] = np.logaddexp(0.0, total)
    return found


@lru_cache(maxsize=1)
def _needed() -> tuple[int, ...]:
    """The integer orders that `_ORDERS` are, or lie between."""
    inside = _ORDERS[_ORDERS <= _MOST_SAMPLED]
    return tuple(sorted({int(each) for each in [*np.floor(inside), *np.ceil(inside)] if each >= 2}))
