"""Tail probabilities against sums of big integers, and Chernoff's bound against whole distributions."""

import math
from fractions import Fraction
from itertools import product

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from protocols.planning.tails import chernoff, lower_quantile, upper_quantile


def masses(n: int, marked: int, drawn: int) -> dict[int, Fraction]:
    """Pr[X = x] of Hypergeom(n, marked, drawn), exactly, for x from 0 to drawn."""
    return {
        x: Fraction(math.comb(marked, x) * math.comb(n - marked, drawn - x), math.comb(n, drawn))
        for x in range(drawn + 1)
    }


@st.composite
def populations(draw: st.DrawFn, largest: int) -> tuple[int, int, int]:
    n = draw(st.integers(2, largest))
    return n, draw(st.integers(0, n)), draw(st.integers(1, n - 1))


@given(population=populations(90), bits=st.integers(1, 400))
def test_quantiles_are_those_of_exact_sums(population: tuple[int, int, int], bits: int) -> None:
    n, marked, drawn = population
    exact, bound = masses(n, marked, drawn), Fraction(1, 2**bits)
    above = {x: sum((exact[y] for y in exact if y > x), Fraction(0)) for x in exact}
    below = {x: sum((exact[y] for y in exact if y < x), Fraction(0)) for x in exact}
    assume(bound not in above.values())
    assume(bound not in below.values())
    low, high = (x(y for y in exact if exact[y]) for x in (min, max))

    most, chance = upper_quantile(n, marked=marked, drawn=drawn, bound=-bits * math.log(2))
    assert most == min(x for x in range(low, high + 1) if above[x] <= bound)
    assert chance == pytest.approx(float(above[most]), rel=1e-11, abs=0)

    left, chance = lower_quantile(n, marked=marked, drawn=drawn, bound=-bits * math.log(2))
    assert left == max(x for x in range(low, high + 1) if below[x] <= bound)
    assert chance == pytest.approx(float(below[left]), rel=1e-11, abs=0)


def test_more_marked_ones_than_there_are_places_are_all_of_them() -> None:
    for marked in (10, 11, 1_000):
        assert upper_quantile(10, marked=marked, drawn=4, bound=-1.0) == (4, 0.0)
        assert lower_quantile(10, marked=marked, drawn=4, bound=-1.0) == (4, 0.0)


@pytest.mark.parametrize(("n", "marked", "drawn"), [(10**6, 330_000, 200), (10**5, 20_000, 1_000)])
@pytest.mark.parametrize("bits", [21, 81, 405])
def test_quantiles_of_large_populations(n: int, marked: int, drawn: int, bits: int) -> None:
    """Integers of thousands of digits, so only a few of them."""
    whole = math.comb(n, drawn)
    counts = [math.comb(marked, x) * math.comb(n - marked, drawn - x) for x in range(drawn + 1)]
    most, chance = upper_quantile(n, marked=marked, drawn=drawn, bound=-bits * math.log(2))
    assert sum(counts[most + 1 :]) * 2**bits <= whole < sum(counts[most:]) * 2**bits
    assert chance == pytest.approx(float(Fraction(sum(counts[most + 1 :]), whole)), rel=1e-9, abs=0)
    left, chance = lower_quantile(n, marked=marked, drawn=drawn, bound=-bits * math.log(2))
    assert sum(counts[:left]) * 2**bits <= whole < sum(counts[: left + 1]) * 2**bits
    assert chance == pytest.approx(float(Fraction(sum(counts[:left]), whole)), rel=1e-9, abs=0)


@given(
    weights=st.lists(st.integers(0, 9), min_size=1, max_size=8),
    rate=st.floats(0.01, 0.95),
    target=st.integers(1, 80),
)
def test_chernoff_is_above_the_whole_distribution(weights: list[int], rate: float, target: int) -> None:
    bits = np.array(list(product((0, 1), repeat=len(weights))))
    chances = np.prod(np.where(bits, rate, 1 - rate), axis=1)
    exact = float(chances[bits @ np.array(weights) >= target].sum())
    bound = chernoff(np.array(weights, dtype=float), np.ones(len(weights)), rate, float(target))
    assert exact <= bound * (1 + 1e-9)
    if target > sum(weights):
        assert bound == 0.0


def test_chernoff_is_tight_where_all_must_agree() -> None:
    """Ten fair coins that all show heads: 2^-10, which the bound meets as the tilt grows."""
    assert chernoff(np.ones(1), np.full(1, 10.0), 0.5, 10.0) == pytest.approx(2**-10, rel=1e-9)


@pytest.mark.parametrize(("heads", "entropy_bits"), [(75, 0.811278), (90, 0.468996)])
def test_chernoff_has_the_known_exponent(heads: int, entropy_bits: float) -> None:
    """Pr[at least h of 100 fair coins] <= 2^(-100·(1 - H(h/100))), Chernoff's own case."""
    bound = chernoff(np.ones(100), np.ones(100), 0.5, float(heads))
    assert -math.log2(bound) == pytest.approx(100 * (1 - entropy_bits), abs=1e-3)


def test_chernoff_says_nothing_below_the_mean() -> None:
    assert chernoff(np.ones(4), np.ones(4), 0.5, 2.0) == 1.0
    assert chernoff(np.ones(4), np.ones(4), 0.0, 0.0) == 1.0
    assert chernoff(np.ones(4), np.ones(4), 0.0, 1.0) == 0.0
