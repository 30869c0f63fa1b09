"""D3: example counts out of the sum.

The server of MaskedSum follows the protocol and reads one sum, Σ w_k·q_k, with its total weight. If each
summand is its weight times an integer, as where a value is rounded first and multiplied after, the sum tells
the weights. Where values are small, few sums can be made from given weights, and only the true ones make all
coordinates of a sum at 8 bits. At any width a coordinate that one site alone trains is a multiple of that
site's n_k, and the common divisor of a few of them is n_k. The weakened copy multiplies after rounding.

In ours round(w·x) stands in the sum: no multiples of anything.

**Partial.** It is the rounding that hides the weight, so that it hides nothing where there is none to speak
of, and these tests succeed on ours: a coordinate whose value is known, because one site alone was clipped in
it, is w_k clips; and values on a coarser grid than the codec's are integers times w_k again, as those of
half precision are at 16 bits and those of float32 at 32. A weight that must not be known should not be an
example count: give each site the same, or one from a coarse scale.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import combinations_with_replacement, product
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from protocols import MaskedSum, Rounding, simulate
from protocols.machine.parameters import MachineProtocol
from protocols.machine.summand import FloatSurface, Summand
from tests.attacks.weakened import Doctored, Vector

WEIGHTS = {"budapest": 294, "cleveland": 303, "long beach": 200}
TOTAL = sum(WEIGHTS.values())
LARGEST = 500
LENGTH = 60
Sums = NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class MultipliesAfter(FloatSurface):
    """Values are rounded first, and the integers multiplied by the weight."""

    def encode(self, update: Any, *, weight: int, **rest: Any) -> Summand:
        def times(block: Vector) -> None:
            block *= block.dtype.type(weight)

        return Doctored(FloatSurface.encode(self, update, weight=1, **rest), times)


@dataclass(frozen=True, kw_only=True)
class MultiplyingSum(MaskedSum):
    """MaskedSum over these summands. Its masks, its ring and its sum are ours."""

    @property
    def surface(self) -> FloatSurface:
        right = MaskedSum.surface.__get__(self)
        return MultipliesAfter(
            codec=right.codec,
            max_clients=right.max_clients,
            max_weight=right.max_weight,
            max_total_weight=right.max_total_weight,
            ring_weight=right.ring_weight,
        )


def protocol(kind: type[MaskedSum], bits: int, rounding: Rounding = Rounding.STOCHASTIC) -> MaskedSum:
    return kind(max_clients=3, max_weight=LARGEST, bits=bits, rounding=rounding)


def seen(made: MachineProtocol, updates: Mapping[str, Vector], bits: int) -> Sums:
    """The integers that the server unmasks in a round, from the mean that it made of them."""
    run = simulate(made, updates, weights=WEIGHTS, seed=3)
    assert run.total_weight == TOTAL
    return np.rint(run.mean * (TOTAL * (2 ** (bits - 1) - 1))).astype(np.int64)


# All weights from one sum of few bits


STEPS = 3
"""Late in a training no value moves by more than so many steps of 8 bits; the server knows, or guesses it."""


def small_updates() -> dict[str, Vector]:
    generator = np.random.default_rng(1)
    return {name: generator.uniform(-STEPS, STEPS, LENGTH) / 127 for name in WEIGHTS}


def candidates() -> Iterator[tuple[int, int, int]]:
    """All triples of weights with the total that the server knows."""
    for first, second in combinations_with_replacement(range(1, LARGEST + 1), 2):
        if second <= (third := TOTAL - first - second) <= LARGEST:
            yield first, second, third


def consistent_with(sums: Sums) -> list[list[int]]:
    """The weights of which every coordinate is a sum of multiples, of at most STEPS each."""
    steps = np.array(list(product(range(-STEPS, STEPS + 1), repeat=3)), dtype=np.int32)
    weights = np.array(list(candidates()), dtype=np.int32)
    for coordinate in sums:
        weights = weights[(weights @ steps.T == coordinate).any(axis=1)]
    return weights.tolist()


@pytest.mark.parametrize("rounding", Rounding)
def test_multiplied_after_rounding_one_sum_of_8_bits_names_all_weights(rounding: Rounding) -> None:
    sums = seen(protocol(MultiplyingSum, 8, rounding), small_updates(), 8)
    assert consistent_with(sums) == [sorted(WEIGHTS.values())]


@pytest.mark.parametrize("rounding", Rounding)
def test_ours_is_no_sum_of_multiples_of_any_weights(rounding: Rounding) -> None:
    """Neither of the true ones nor of others: coordinates lie between, wherever the products fell."""
    sums = seen(protocol(MaskedSum, 8, rounding), small_updates(), 8)
    assert not consistent_with(sums)
    # What there is to see is the sum of the products, each rounded.
    exact = sum(weight * 127 * small_updates()[name] for name, weight in WEIGHTS.items())
    assert np.abs(sums - exact).max() <= (3 if rounding is Rounding.STOCHASTIC else 1.5)


# One weight from the coordinates that its site alone trains


def one_trains(values: Vector) -> dict[str, Vector]:
    """All others leave these coordinates as they are: a head, a rare word, a frozen part."""
    return {name: values if name == "cleveland" else np.zeros_like(values) for name in WEIGHTS}


def divisor(sums: Sums) -> int:
    return int(np.gcd.reduce(sums))


@pytest.mark.parametrize("rounding", Rounding)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("bits", [8, 16, 24])
def test_multiplied_after_rounding_a_common_divisor_is_the_weight(
    bits: int, dtype: type, rounding: Rounding
) -> None:
    values = np.random.default_rng(2).uniform(-0.9, 0.9, LENGTH).astype(dtype)
    sums = seen(protocol(MultiplyingSum, bits, rounding), one_trains(values), bits)
    assert divisor(sums) == WEIGHTS["cleveland"]


@pytest.mark.parametrize("rounding", Rounding)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("bits", [8, 16, 24])
def test_ours_has_no_common_divisor(bits: int, dtype: type, rounding: Rounding) -> None:
    values = np.random.default_rng(2).uniform(-0.9, 0.9, LENGTH).astype(dtype)
    sums = seen(protocol(MaskedSum, bits, rounding), one_trains(values), bits)
    assert divisor(sums) == 1
    # Nor is one weight a better guess than another: its multiples are as frequent as those of any number.
    multiples = [np.count_nonzero(sums % weight == 0) for weight in range(150, LARGEST)]
    assert max(multiples) <= 4


# What no rounding hides: these succeed on ours


@pytest.mark.parametrize("bits", [8, 16, 24, 32])
def test_where_one_site_alone_was_clipped_its_weight_stands_in_the_sum(bits: int) -> None:
    values = np.array([0.1, -0.2, 5.0, 0.3])
    sums = seen(protocol(MaskedSum, bits), one_trains(values), bits)
    assert sums[2] == WEIGHTS["cleveland"] * (2 ** (bits - 1) - 1)


def test_where_all_were_clipped_nothing_but_the_total_weight_is_seen() -> None:
    values = np.full(4, 5.0)
    sums = seen(protocol(MaskedSum, 16), dict.fromkeys(WEIGHTS, values), 16)
    assert set(sums.tolist()) == {TOTAL * 32767}


@pytest.mark.parametrize("bits", [8, 16, 24])
def test_a_value_that_the_server_knows_tells_the_weight(bits: int) -> None:
    """It chose the model, and a site answers it with a gradient that does not depend on its data."""
    known = 0.3
    sums = seen(protocol(MaskedSum, bits), one_trains(np.full(4, known)), bits)
    assert set(np.rint(sums / (known * (2 ** (bits - 1) - 1))).tolist()) == {WEIGHTS["cleveland"]}


def coarse(bits: int, values: Vector, fraction: float) -> int:
    """The common divisor in units of the values' own grid, where the codec's is finer."""
    sums = seen(protocol(MaskedSum, bits), one_trains(values), bits)
    return divisor(np.rint(sums / ((2 ** (bits - 1) - 1) * fraction)).astype(np.int64))


def test_half_precision_at_16_bits_is_a_grid_of_its_own() -> None:
    values = np.random.default_rng(2).uniform(0.5, 1.0, LENGTH).astype(np.float16).astype(np.float32)
    assert coarse(16, values, 2.0**-11) == WEIGHTS["cleveland"]
    assert coarse(8, values, 2.0**-11) == 1


def test_float32_at_32_bits_is_a_grid_of_its_own() -> None:
    """Float64 is not, and float32 is none up to 24 bits; from 26 bits on it is, near the clip first."""
    values = np.random.default_rng(2).uniform(0.5, 1.0, LENGTH)
    assert coarse(32, values.astype(np.float32), 2.0**-24) == WEIGHTS["cleveland"]
    assert coarse(26, values.astype(np.float32), 2.0**-24) == WEIGHTS["cleveland"]
    assert coarse(24, values.astype(np.float32), 2.0**-24) == 1
    assert coarse(32, values, 2.0**-24) == 1
