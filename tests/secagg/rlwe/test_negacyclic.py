"""Exact products: slow twins over Python integers, the rounding bound at the largest keys, wrong input."""

import math
from fractions import Fraction
from typing import Any

import gmpy2
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from secagg.errors import ParameterError
from secagg.rlwe import negacyclic
from secagg.rlwe.negacyclic import MAXIMUM_ERROR, KeyProduct, rounding_bound

Integers = npt.NDArray[Any]


def exponent(position: int, degree: int) -> int:
    """The power of X whose coefficient stands at a memory position."""
    return position // 2 + (position % 2) * (degree // 2)


def natural(memory: list[int]) -> list[int]:
    """A polynomial by rising powers."""
    coefficients = [0] * len(memory)
    for position, value in enumerate(memory):
        coefficients[exponent(position, len(memory))] = value
    return coefficients


def in_memory(coefficients: list[int]) -> list[int]:
    return [coefficients[exponent(position, len(coefficients))] for position in range(len(coefficients))]


def schoolbook(a: list[int], b: list[int]) -> list[int]:
    """a·b mod X^N + 1 in memory order, term by term."""
    degree, product = len(a), [0] * len(a)
    for i, x in enumerate(natural(a)):
        for j, y in enumerate(natural(b)):
            wrapped = i + j >= degree
            product[(i + j) % degree] += -x * y if wrapped else x * y
    return in_memory(product)


def kronecker(a: list[int], b: list[int]) -> list[int]:
    """The same in one product of big integers (Kronecker substitution): for large degrees."""
    degree, bits = len(a), 160
    half = 1 << (bits - 1)

    def joined(coefficients: list[int]) -> int:
        positive = b"".join(max(x, 0).to_bytes(bits // 8, "little") for x in coefficients)
        negative = b"".join(max(-x, 0).to_bytes(bits // 8, "little") for x in coefficients)
        return int.from_bytes(positive, "little") - int.from_bytes(negative, "little")

    raised = int(gmpy2.mpz(joined(natural(a))) * joined(natural(b))) + joined([half] * (2 * degree))
    body = raised.to_bytes(2 * degree * bits // 8 + 1, "little")
    product = [
        int.from_bytes(body[at * bits // 8 : (at + 1) * bits // 8], "little") - half
        for at in range(2 * degree)
    ]
    return in_memory([product[at] - product[at + degree] for at in range(degree)])


def product(key: Integers, wide: Integers, *, limb_bits: int, offset: int = 0) -> list[int]:
    """What `KeyProduct` makes of wide factors of shape (count, limbs, N)."""
    out = np.empty(wide.shape[0] * wide.shape[2], dtype=np.uint64)
    KeyProduct(key, limb_bits=limb_bits, limbs=wide.shape[1]).write(wide, out=out, offset=offset)
    return out.tolist()


def joined_limbs(limbs: Integers, limb_bits: int) -> list[int]:
    return [sum(int(x) << (limb_bits * i) for i, x in enumerate(column)) for column in limbs.T]


def drawn_limbs(rng: np.random.Generator, shape: tuple[int, int, int], limb_bits: int) -> Integers:
    half = 1 << (limb_bits - 1)
    return rng.integers(-half, half, shape, dtype=np.int32)


# Known answers and slow twins


def test_x_times_x_to_the_last_is_minus_one() -> None:
    for degree in (4, 8, 1024):
        key, wide = np.zeros(degree, dtype=np.int64), np.zeros((1, 1, degree), dtype=np.int32)
        key[in_memory([int(power == 1) for power in range(degree)]).index(1)] = 1
        wide[0, 0, in_memory([int(power == degree - 1) for power in range(degree)]).index(1)] = 5
        out = product(key, wide, limb_bits=8)
        assert out == [(-5) % 2**64] + [0] * (degree - 1)


def test_the_two_slow_twins_agree() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.integers(-(2**62), 2**62, 32).tolist(), rng.integers(-(2**15), 2**15, 32).tolist()
    assert schoolbook(a, b) == kronecker(a, b)


@given(
    power=st.integers(2, 5),
    limb_bits=st.integers(1, 24),
    limbs=st.integers(1, 4),
    count=st.integers(1, 3),
    largest=st.integers(0, 5000),
    offset=st.integers(-(2**70), 2**70),
    seed=st.integers(0, 2**32),
)
def test_products_agree_with_the_schoolbook(
    power: int, limb_bits: int, limbs: int, count: int, largest: int, offset: int, seed: int
) -> None:
    rng, degree = np.random.default_rng(seed), 1 << power
    key = rng.integers(-largest, largest, degree, endpoint=True)
    wide = drawn_limbs(rng, (count, limbs, degree), limb_bits)
    expected = [
        (value + offset) % 2**64
        for block in wide
        for value in schoolbook(joined_limbs(block, limb_bits), key.tolist())
    ]
    assert product(key, wide, limb_bits=limb_bits, offset=offset) == expected


@pytest.mark.parametrize(("limb_bits", "limbs"), [(24, 2), (22, 3), (27, 1), (16, 4)])
@pytest.mark.parametrize("degree", [1024, 2048, 4096, 8192])
def test_products_of_every_degree(degree: int, limb_bits: int, limbs: int) -> None:
    rng = np.random.default_rng(degree)
    key = rng.binomial(164, 0.5, degree) - 82
    wide = drawn_limbs(rng, (2, limbs, degree), limb_bits)
    expected = [
        value % 2**64 for block in wide for value in kronecker(joined_limbs(block, limb_bits), key.tolist())
    ]
    assert product(key, wide, limb_bits=limb_bits) == expected


def test_buffers_are_used_again_and_the_key_is_left_alone() -> None:
    rng = np.random.default_rng(1)
    key = rng.integers(-50, 50, 64)
    before, multiplier = key.copy(), KeyProduct(key, limb_bits=20, limbs=2)
    assert multiplier.blocks > 3
    wide = drawn_limbs(rng, (3, 2, 64), 20)
    kept, together, alone = wide.copy(), np.empty(3 * 64, dtype=np.uint64), np.empty(64, dtype=np.uint64)
    multiplier.write(wide, out=together)
    for index in (2, 0, 1):
        multiplier.write(wide[index : index + 1], out=alone)
        assert np.array_equal(alone, together[64 * index : 64 * (index + 1)])
    assert np.array_equal(key, before)
    assert np.array_equal(wide, kept)


# Rounding


def keys_at_the_limit(degree: int, limb_bits: int) -> list[Integers]:
    """Keys whose rounding bound is just below the one that is refused, in adversarial patterns."""
    unit = rounding_bound(degree=degree, limb_bits=limb_bits, squared_norm=10**12) / 10**6
    norm = 0.999 * MAXIMUM_ERROR / unit
    level = int(norm / degree**0.5)
    signs = np.random.default_rng(2).choice([-1, 1], degree)
    alternating = np.tile([1, -1], degree // 2)
    wave = np.cos(np.arange(degree) * (math.pi / degree) * (2 * (degree // 3) + 1))
    spike = np.zeros(degree, dtype=np.int64)
    spike[degree // 2 + 1] = int(norm)
    return [
        np.full(degree, level, dtype=np.int64),
        level * signs,
        level * alternating,
        level * np.repeat(alternating[: degree // 2], 2),
        (level * wave).astype(np.int64),
        spike,
    ]


@pytest.mark.parametrize("limb_bits", [12, 22, 24, 28])
@pytest.mark.parametrize(
    "degree", [1024, *(pytest.param(each, marks=pytest.mark.slow) for each in (4096, 8192))]
)
def test_errors_at_the_largest_keys_stay_far_under_the_bound(degree: int, limb_bits: int) -> None:
    rng, half = np.random.default_rng(3), 1 << (limb_bits - 1)
    worst = 0.0
    for key in keys_at_the_limit(degree, limb_bits):
        squared_norm = sum(value * value for value in key.tolist())
        bound = rounding_bound(degree=degree, limb_bits=limb_bits, squared_norm=squared_norm)
        assert 0 < bound < MAXIMUM_ERROR
        signs = np.where(key[::-1] < 0, -half, half - 1)
        patterns = [
            np.full(degree, -half),
            np.where(rng.random(degree) < 0.5, -half, half - 1),
            np.where(key < 0, -half, half - 1),
            signs,
            rng.integers(-half, half, degree),
        ]
        multiplier = KeyProduct(key, limb_bits=limb_bits, limbs=1)
        for limb in patterns:
            floats = multiplier._products(limb.astype(np.int32).reshape(1, 1, -1)).view(np.float64).ravel()
            exact = np.array(kronecker(limb.tolist(), key.tolist()), dtype=np.int64)
            nearest = np.rint(floats)
            assert np.array_equal(nearest.astype(np.int64), exact)
            error = float(np.abs(floats - nearest).max())
            assert error < bound
            worst = max(worst, error)
    assert 0 < worst < MAXIMUM_ERROR / 4


def test_products_round_wrongly_far_beyond_the_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    """The bound is not idle: without it keys are multiplied wrongly."""
    monkeypatch.setattr(negacyclic, "rounding_bound", lambda **_: 0.0)
    monkeypatch.setattr(KeyProduct, "_try", lambda self, key: None)
    rng = np.random.default_rng(4)
    key = 10**5 * keys_at_the_limit(4096, 24)[1]
    wide = drawn_limbs(rng, (1, 1, 4096), 24)
    exact = [value % 2**64 for value in kronecker(wide[0, 0].tolist(), key.tolist())]
    assert product(key, wide, limb_bits=24) != exact


def test_an_fft_of_single_precision_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    key = keys_at_the_limit(4096, 24)[1]
    KeyProduct(key, limb_bits=24, limbs=2)
    exact = np.fft.ifft

    def rough(values: Any, **arguments: Any) -> Any:
        values[...] = values.astype(np.complex64)
        return exact(values, **arguments)

    monkeypatch.setattr(np.fft, "ifft", rough)
    with pytest.raises(ParameterError, match="less precise than exact products need"):
        KeyProduct(key, limb_bits=24, limbs=2)


def slow_bound(degree: int, limb_bits: int, squared_norm: int) -> Fraction:
    """Percival's theorem 5.1 and three folds, in fractions; roots are raised a little."""
    unit, root, levels = Fraction(1, 2**53), Fraction(1, 2**52), int(math.log2(degree // 2))
    multiplied = 1 + unit * Fraction(22360679774997897, 10**16)
    growth = (1 + unit) ** (3 * levels) * multiplied ** (3 * levels + 1) * (1 + root) ** (3 * levels) * (
        multiplied * (1 + root)
    ) ** 3 - 1
    norms = Fraction(math.isqrt(degree * squared_norm * 10**20) + 1, 10**10)
    return norms * 2 ** (limb_bits - 1) * growth


@pytest.mark.parametrize("degree", [4, 1024, 4096, 8192])
@pytest.mark.parametrize(("limb_bits", "squared_norm"), [(1, 1), (24, 2_065_277), (22, 2 * 10**9)])
def test_the_bound_is_the_theorem(degree: int, limb_bits: int, squared_norm: int) -> None:
    bound = rounding_bound(degree=degree, limb_bits=limb_bits, squared_norm=squared_norm)
    assert bound == pytest.approx(float(slow_bound(degree, limb_bits, squared_norm)), rel=1e-9)


@pytest.mark.parametrize("degree", [4, 1024, 4096, 8192, 2**15])
def test_the_folds_roots_err_by_less_than_the_bound_assumes(degree: int) -> None:
    gmpy2.get_context().precision = 200
    worst = 0.0
    for index, root in enumerate(negacyclic._twist(degree).tolist()):
        angle = gmpy2.const_pi() * index / degree
        error = gmpy2.hypot(gmpy2.cos(angle) - root.real, gmpy2.sin(angle) - root.imag)
        worst = max(worst, float(error))
    assert worst < negacyclic._ROOT_ERROR


def octant(index: int, size: int, step: float) -> complex:
    """exp(2πi·index/size) for index <= size/2 as pocketfft finds it, by angles of at most π/4."""
    index *= 8
    if index >= 2 * size:
        turned = octant((index - 2 * size) // 8, size, step)
        return complex(-turned.imag, turned.real)
    if index < size:
        return complex(math.cos(index * step), math.sin(index * step))
    return complex(math.sin((2 * size - index) * step), math.cos((2 * size - index) * step))


@pytest.mark.parametrize("size", [512, 1024, 2048, 4096])
def test_the_ffts_roots_err_by_less_than_the_bound_assumes(size: int) -> None:
    """pocketfft makes its roots as products of two smaller tables: a twin of its method."""
    gmpy2.get_context().precision = 200
    step, shift = 0.25 * math.pi / size, ((size // 2).bit_length()) // 2
    fine = [octant(index, size, step) for index in range(1 << shift)]
    worst = 0.0
    for index in range(size // 2 + 1):
        a, b = fine[index % (1 << shift)], octant(index >> shift << shift, size, step)
        real, imaginary = a.real * b.real - a.imag * b.imag, a.real * b.imag + a.imag * b.real
        angle = 2 * gmpy2.const_pi() * index / size
        worst = max(worst, float(gmpy2.hypot(gmpy2.cos(angle) - real, gmpy2.sin(angle) - imaginary)))
    assert worst < negacyclic._ROOT_ERROR


@pytest.mark.parametrize("size", [512, 2048, 4096])
def test_the_ffts_of_units_err_by_less_than_its_levels_allow(size: int) -> None:
    """Each output is a product of the roots on its path and nothing else: (1+u)(1+u√5)(1+β) a level."""
    gmpy2.get_context().precision = 200
    angles = [2 * gmpy2.const_pi() * index / size for index in range(size)]
    exact = [(gmpy2.cos(angle), -gmpy2.sin(angle)) for angle in angles]
    levels = size.bit_length() - 1
    allowed = levels * (2.0**-53 * (1 + 5**0.5) + negacyclic._ROOT_ERROR)
    for index in (1, 3, size // 3, size - 1):
        unit = np.zeros(size, dtype=np.complex128)
        unit[index] = 1
        for output, value in enumerate(np.fft.fft(unit).tolist()):
            real, imaginary = exact[index * output % size]
            assert float(gmpy2.hypot(real - value.real, imaginary - value.imag)) < allowed / 4


# Refusals


@pytest.mark.parametrize("limb_bits", [16, 24, 32])
def test_a_key_beyond_the_bound(limb_bits: int) -> None:
    for key in keys_at_the_limit(4096, limb_bits):
        KeyProduct(key, limb_bits=limb_bits, limbs=1)
        if int(key @ key) < 10**4:
            continue  # so few bits that two hundredths more do not change it
        with pytest.raises(ParameterError, match="use more and narrower limbs") as refusal:
            KeyProduct(2 * key, limb_bits=limb_bits, limbs=1)
        assert str(int(key[0])) not in str(refusal.value).split() or not key[0]


def test_a_key_that_overflows_every_check() -> None:
    with pytest.raises(ParameterError, match="narrower limbs"):
        KeyProduct(np.full(4096, -(2**63), dtype=np.int64), limb_bits=1, limbs=1)


@pytest.mark.parametrize(
    "key",
    [
        None,
        [0] * 8,
        np.zeros(8),
        np.zeros(8, dtype=np.int32),
        np.zeros(8, dtype=np.uint64),
        np.zeros((2, 4), dtype=np.int64),
    ],
)
def test_what_is_not_a_key(key: object) -> None:
    with pytest.raises(ParameterError, match="array of int64"):
        KeyProduct(key, limb_bits=8, limbs=1)  # type: ignore[arg-type]


@pytest.mark.parametrize("degree", [0, 1, 2, 3, 6, 1000, 4095, 2**16])
def test_a_wrong_degree(degree: int) -> None:
    with pytest.raises(ParameterError, match="power of two"):
        KeyProduct(np.zeros(degree, dtype=np.int64), limb_bits=8, limbs=1)


@pytest.mark.parametrize("limb_bits", [0, -1, 33, 8.0, True, None])
def test_wrong_limb_bits(limb_bits: int) -> None:
    with pytest.raises(ParameterError, match="from 1 to 32"):
        KeyProduct(np.zeros(8, dtype=np.int64), limb_bits=limb_bits, limbs=1)


@pytest.mark.parametrize("limbs", [0, -1, 1.0, True, None])
def test_wrong_limbs(limbs: int) -> None:
    with pytest.raises(ParameterError, match="at least 1"):
        KeyProduct(np.zeros(8, dtype=np.int64), limb_bits=8, limbs=limbs)
