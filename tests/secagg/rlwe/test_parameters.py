"""Lattice parameters: every promise recomputed, exact tails, what is refused."""

import math
from dataclasses import FrozenInstanceError, replace
from typing import Any

import gmpy2
import numpy as np
import pytest

from secagg.errors import ParameterError
from secagg.rlwe.binomial import CENTRE, COINS, VARIANCE
from secagg.rlwe.negacyclic import MAXIMUM_ERROR, rounding_bound
from secagg.rlwe.parameters import (
    CHECK_BITS,
    DEGREES,
    MAXIMUM_COEFFICIENTS,
    MAXIMUM_SUMMANDS,
    SECURE_MODULUS_BITS,
)
from secagg.rlwe.scheme import (
    choose_parameters,
)
from tests.secagg.rlwe.cohorts import SMALL, USUAL


@pytest.mark.parametrize(
    ("clients", "bits", "digits", "modulus_bits"),
    [(10, 8, 4, 56), (10, 16, 2, 48), (10, 24, 2, 64), (500, 16, 2, 64), (1000, 16, 2, 64), (3, 16, 3, 61)],
)
def test_the_table_of_parameters(clients: int, bits: int, digits: int, modulus_bits: int) -> None:
    largest = 2 ** (bits - 1) - 1
    parameters = choose_parameters(sum_bound=clients * largest, signed=True, max_summands=clients)
    assert (parameters.digits, parameters.modulus_bits) == (digits, modulus_bits)
    assert parameters.bits_per_value == modulus_bits / digits
    assert parameters.base == 2 * clients * largest + 1
    million = parameters.packed_size(10**6)
    assert million == pytest.approx(10**6 * modulus_bits / digits / 8, rel=1e-4)


CHOICES = [
    (sum_bound, signed, clients, degree)
    for sum_bound in (1, 100, 2**20)
    for signed in (True, False)
    for clients in (1, 10, 1000, MAXIMUM_SUMMANDS)
    for degree in DEGREES
    if degree > 2048 or (degree == 2048 and clients < 10**4) or (sum_bound <= 100 and clients <= 10)
]


def widened(bits: int) -> int:
    """39, 47, 54, 55, 62 and 63 bits are filled up to whole bytes; others are not."""
    return {39: 40, 47: 48, 54: 56, 55: 56, 62: 64, 63: 64}.get(bits, bits)


@pytest.mark.parametrize(("sum_bound", "signed", "clients", "degree"), CHOICES)
def test_parameters_keep_every_promise(sum_bound: int, signed: bool, clients: int, degree: int) -> None:
    p = choose_parameters(sum_bound=sum_bound, signed=signed, max_summands=clients, degree=degree)
    assert p.modulus_bits <= min(64, SECURE_MODULUS_BITS[degree])
    assert p.base == (2 * sum_bound + 1 if signed else sum_bound + 1)
    # Room: the largest plaintext and the largest noise together do not wrap.
    largest = (p.base**p.digits - 1) // 2 if signed else p.base**p.digits - 1
    lowest = -largest if signed else 0
    span = (largest - lowest) * 2**p.scale_bits + 2 * p.noise_bound + 1
    assert span <= 2**p.modulus_bits
    assert p.plaintext_half == -lowest
    # A uniform residue passes with at most 31/32, and half the scale would not do.
    assert (2 * p.noise_bound + 1) * 32 <= 31 * 2**p.scale_bits
    assert (2 * p.noise_bound + 1) * 32 > 31 * 2 ** (p.scale_bits - 1)
    # No other number of digits takes fewer bits a value.
    for digits in range(1, 65):
        bits = widened(p.scale_bits + (p.base**digits - 1).bit_length())
        if bits <= min(64, SECURE_MODULUS_BITS[degree]):
            assert bits * p.digits >= p.modulus_bits * digits
    # Products are exact under every key that is accepted, and one limb less would not be.
    for limbs, exact in ((p.limbs, True), (p.limbs - 1, False)):
        if limbs:
            limb_bits = -(-p.modulus_bits // limbs)
            bound = rounding_bound(degree=degree, limb_bits=limb_bits, squared_norm=p.key_norm_bound)
            assert (bound < MAXIMUM_ERROR and limb_bits <= 32) == exact
    assert p.limb_bits == -(-p.modulus_bits // p.limbs)
    # The checks: under a key that is off by δ, all coefficients of which 2^c divides, a coefficient is noise
    # around zero with (2E + 1 + 2^(c+1))/2^K at most, and 2^c <= 164n.
    passing = math.log2(2 * p.noise_bound + 1 + 328 * p.max_summands) - p.modulus_bits
    assert p.check_coefficients * passing < -CHECK_BITS <= (p.check_coefficients - 1) * passing


@pytest.mark.parametrize(("base", "digits", "more"), [(6, 20, 21), (11, 15, 16)])
def test_of_equal_widths_the_one_with_fewer_digits_is_taken(base: int, digits: int, more: int) -> None:
    p = choose_parameters(sum_bound=base - 1, signed=False, max_summands=2)
    bits = p.scale_bits + (base**more - 1).bit_length()
    assert bits <= 64
    assert p.bits_per_value == bits / more
    assert p.digits == digits


def log2_tail(coins: int, beyond: int) -> float:
    """log2 of Pr[|heads - coins/2| > beyond], exactly."""
    half = coins // 2
    term = gmpy2.bincoef(coins, half + beyond + 1)
    tail, count = gmpy2.mpz(0), half + beyond + 1
    while term and count <= coins:
        tail += term
        term = term * (coins - count) // (count + 1)
        count += 1
    return float(gmpy2.log2(gmpy2.mpfr(2 * tail)) - coins)


@pytest.mark.parametrize("clients", [1, 2, 3, 10, 100, 500, 1000])
def test_the_noise_bound_fails_less_often_than_promised(clients: int) -> None:
    p = choose_parameters(sum_bound=clients, signed=True, max_summands=clients)
    exact = log2_tail(COINS * clients, p.noise_bound)
    assert exact + math.log2(MAXIMUM_COEFFICIENTS) < -40
    # Hoeffding's inequality, and that the next smaller bound does not satisfy it.
    hoeffding = [
        1 - 2 * (bound + 1) ** 2 / (COINS * clients) / math.log(2)
        for bound in (p.noise_bound, p.noise_bound - 1)
    ]
    assert exact < hoeffding[0] < -68 < hoeffding[1]


def test_the_tail_is_computed_rightly() -> None:
    assert log2_tail(2, 0) == pytest.approx(-1)
    assert log2_tail(4, 1) == pytest.approx(math.log2(2 / 16))
    direct = sum(math.comb(164, heads) for heads in range(165) if abs(heads - 82) > 20)
    assert log2_tail(164, 20) == pytest.approx(math.log2(direct) - 164)


def test_the_key_norm_bound_is_that_of_hsu_kakade_and_zhang() -> None:
    t = 64 * math.log(2)
    for clients, degree in ((1, 4096), (1000, 4096), (10, 1024), (10, 8192)):
        p = choose_parameters(sum_bound=clients, signed=True, max_summands=clients, degree=degree)
        bound = VARIANCE * clients * (degree + 2 * math.sqrt(degree * t) + 2 * t)
        assert p.key_norm_bound == math.ceil(bound)
        key = np.random.default_rng(1).binomial(COINS * clients, 0.5, (200, degree)) - CENTRE * clients
        norms = (key**2).sum(axis=1)
        # Honest keys: the mean, and six of its deviations, keep well below.
        assert norms.mean() == pytest.approx(VARIANCE * clients * degree, rel=0.01)
        assert norms.max() < 0.95 * p.key_norm_bound


def test_coefficients_and_sizes() -> None:
    group, checks = USUAL.digits * USUAL.degree, USUAL.check_coefficients
    assert [USUAL.coefficients(count) - checks for count in (0, 1, 2, 3, group - 1, group, group + 1)] == [
        0,
        1,
        1,
        2,
        4096,
        4096,
        4097,
    ]
    assert USUAL.packed_size(3) == USUAL.ring.packed_size(2 + checks) == (2 + checks) * 6
    longest = (MAXIMUM_COEFFICIENTS // USUAL.degree - 1) * group + USUAL.digits * (USUAL.degree - checks)
    assert USUAL.coefficients(longest) == MAXIMUM_COEFFICIENTS
    with pytest.raises(ParameterError, match="split the vector"):
        USUAL.coefficients(longest + 1)


@pytest.mark.parametrize("count", [-1, 1.0, True, None, np.int64(3)])
def test_a_wrong_count(count: int) -> None:
    for method in (USUAL.coefficients, USUAL.packed_size):
        with pytest.raises(ParameterError, match="integer of at least 0"):
            method(count)


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"sum_bound": 0}, "at least 1"),
        ({"sum_bound": -5}, "at least 1"),
        ({"sum_bound": 1.5}, "at least 1"),
        ({"sum_bound": True}, "at least 1"),
        ({"signed": 1}, "bool"),
        ({"signed": None}, "bool"),
        ({"max_summands": 0}, "1 to 65,536"),
        ({"max_summands": MAXIMUM_SUMMANDS + 1}, "1 to 65,536"),
        ({"max_summands": 2.0}, "1 to 65,536"),
        ({"degree": 512}, "secure are the degrees"),
        ({"degree": 3000}, "secure are the degrees"),
        ({"degree": 4096.0}, "secure are the degrees"),
        ({"degree": 16384}, "secure are the degrees"),
        ({"sum_bound": 2**60}, "lower max_clients, max_weight, bits"),
        ({"sum_bound": 10 * 32767, "degree": 1024}, "lower max_clients, max_weight, bits"),
    ],
)
def test_what_choose_parameters_refuses(arguments: dict[str, Any], match: str) -> None:
    with pytest.raises(ParameterError, match=match):
        choose_parameters(**({"sum_bound": 100, "signed": True, "max_summands": 10} | arguments))


@pytest.mark.parametrize(("degree", "allowed"), SECURE_MODULUS_BITS.items())
def test_moduli_that_are_not_secure_are_refused(degree: int, allowed: int) -> None:
    changes = {"degree": degree, "digits": 1, "base": 3, "limbs": 4, "limb_bits": 32}
    replace(SMALL, **changes, modulus_bits=min(allowed, 64))  # type: ignore[arg-type]
    with pytest.raises(ParameterError, match="not secure at degree"):
        replace(SMALL, **changes, modulus_bits=min(allowed, 64) + 1)  # type: ignore[arg-type]
    with pytest.raises(ParameterError, match="not secure at degree 512"):
        replace(SMALL, **(changes | {"degree": 512}), modulus_bits=10)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "changes",
    [
        {"digits": USUAL.digits + 1},
        {"base": 2 * USUAL.base},
        {"scale_bits": USUAL.scale_bits + 1},
        {"noise_bound": USUAL.noise_bound + 60},
        {"limbs": 1},
        {"modulus_bits": USUAL.modulus_bits - 1},
    ],
)
def test_parameters_that_do_not_decode_are_refused(changes: dict[str, int]) -> None:
    with pytest.raises(ParameterError, match="do not decode"):
        replace(USUAL, **changes)  # type: ignore[arg-type]
    with pytest.raises(FrozenInstanceError):
        USUAL.noise_bound = 0  # type: ignore[misc]
