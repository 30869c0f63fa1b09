"""Requirements and the plan for the complete graph, against a slow search with fractions."""

from fractions import Fraction
from math import ceil
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocols import Adversary, MaskedSum, ParameterError, Requirements
from protocols.requirements import ceil_fraction, plan_complete

DECIMALS = st.integers(0, 99).map(lambda hundredths: hundredths / 100)


def slow_plan(n: int, corrupt: Fraction, dropout: Fraction, least: int) -> tuple[int, int, float] | None:
    """(smallest threshold, smallest set of survivors, whether d may vanish) by search; None if none is safe.

    A threshold t >= 2 is safe when c pooled shares do not reach it. A set of survivors is safe when two of
    them are honest and the policy allows it; of two clients in all, nobody is private from the other.
    """
    pooled, vanished = ceil(corrupt * n), ceil(dropout * n)
    if n < least:
        return None
    safe = [s for s in range(least, n + 1) if s - pooled >= 2 or n == 2]
    threshold = next(t for t in range(2, n + 2) if t > pooled)
    if not safe or threshold > n:
        return None
    return threshold, safe[0], float(n - vanished < safe[0])


@given(n=st.integers(2, 60), corrupt=DECIMALS, dropout=DECIMALS, least=st.integers(2, 6))
def test_the_plan_is_the_smallest_that_is_safe_and_live(
    n: int, corrupt: float, dropout: float, least: int
) -> None:
    requirements = Requirements(corrupt_fraction=corrupt, dropout_fraction=dropout, min_contributors=least)
    expected = slow_plan(n, Fraction(str(corrupt)), Fraction(str(dropout)), least)
    if expected is None:
        with pytest.raises(ParameterError):
            plan_complete(n, requirements, ring_bits=20)
        return
    plan = plan_complete(n, requirements, ring_bits=20)
    assert (plan.threshold, plan.min_survivors, plan.liveness_failure) == expected
    assert (plan.degree, plan.ring_bits, plan.security_failure) == (n - 1, 20, 0.0)
    assert plan.threshold <= plan.min_survivors, "whoever is left can unmask"


@pytest.mark.parametrize(
    ("fraction", "count", "expected"),
    # In binary 0.3 * 10 is above 3 for some fractions and below for others; decimals are exact.
    [
        (0.3, 10, 3),
        (0.1, 30, 3),
        (0.7, 10, 7),
        (0.07, 100, 7),
        (0.29, 100, 29),
        (0.2, 3, 1),
        (0.0, 9, 0),
        (0.001, 1, 1),
    ],
)
def test_fractions_are_decimals(fraction: float, count: int, expected: int) -> None:
    assert ceil_fraction(fraction, count) == expected


def test_three_clients_share_with_two() -> None:
    plan = plan_complete(3, Requirements(), ring_bits=18)
    assert (plan.threshold, plan.degree) == (2, 2)


def test_impossible_requirements_name_the_number_to_change() -> None:
    with pytest.raises(ParameterError, match="corrupt_fraction"):
        plan_complete(10, Requirements(corrupt_fraction=0.95, dropout_fraction=0.5), ring_bits=20)
    with pytest.raises(ParameterError, match="min_contributors"):
        plan_complete(2, Requirements(), ring_bits=20)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"adversary": "semi-honest"}, "Adversary"),
        ({"adversary": None}, "Adversary"),
        ({"corrupt_fraction": 1.0}, "corrupt_fraction"),
        ({"corrupt_fraction": -0.01}, "corrupt_fraction"),
        ({"corrupt_fraction": float("nan")}, "corrupt_fraction"),
        ({"corrupt_fraction": True}, "corrupt_fraction"),
        ({"corrupt_fraction": "0.2"}, "corrupt_fraction"),
        ({"dropout_fraction": 1}, "dropout_fraction"),
        ({"dropout_fraction": None}, "dropout_fraction"),
        ({"min_contributors": 1}, "min_contributors"),
        ({"min_contributors": 0}, "min_contributors"),
        ({"min_contributors": 3.0}, "min_contributors"),
        ({"min_contributors": True}, "min_contributors"),
        ({"security_bits": 0}, "security_bits"),
        ({"security_bits": 257}, "security_bits"),
        ({"liveness_bits": 20.0}, "liveness_bits"),
    ],
    ids=repr,
)
def test_requirements_that_make_no_sense(arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(ParameterError, match=said):
        Requirements(**arguments)


def test_defaults() -> None:
    made = Requirements()
    assert made.adversary is Adversary.SEMI_HONEST
    assert (made.corrupt_fraction, made.dropout_fraction) == (0.2, 0.3)
    assert (made.min_contributors, made.security_bits, made.liveness_bits) == (3, 40, 20)
    with pytest.raises(TypeError):
        Requirements(Adversary.SEMI_HONEST)  # type: ignore[call-arg]


@pytest.mark.parametrize("number", [np.float64(0.2), np.float64(0.0), 0])
def test_any_number_that_is_accepted_can_be_planned_with(number: Any) -> None:
    requirements = Requirements(corrupt_fraction=number, dropout_fraction=number)
    same = Requirements(corrupt_fraction=float(number), dropout_fraction=float(number))
    assert requirements == same
    assert plan_complete(10, requirements, ring_bits=20) == plan_complete(10, same, ring_bits=20)
    assert MaskedSum(max_clients=10, requirements=requirements).plan(10).degree == 9


@given(n=st.integers(3, 40))
def test_masked_sum_plans_as_its_requirements_say(n: int) -> None:
    requirements = Requirements()
    made = MaskedSum(max_clients=40, requirements=requirements)
    assert made.plan(n) == plan_complete(n, requirements, ring_bits=made.plan(3).ring_bits)
