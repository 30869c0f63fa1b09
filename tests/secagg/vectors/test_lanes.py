"""Lanes against exact integers: sums come back whole, whatever their signs, lengths and masks."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from secagg.errors import ParameterError
from secagg.vectors.lanes import Lanes
from secagg.vectors.ring import BLOCK_VALUES, Ring


def blocks_of(values: np.ndarray) -> list[np.ndarray]:
    return [values[start : start + BLOCK_VALUES] for start in range(0, len(values), BLOCK_VALUES)]


def joined(lanes: Lanes, values: np.ndarray) -> np.ndarray:
    parts = [block.copy() for block in lanes.joined(blocks_of(values.view(lanes.ring.dtype)))]
    return np.concatenate([*parts, np.empty(0, lanes.wide.dtype)])


@pytest.mark.parametrize(("bits", "per_word"), [(1, 64), (8, 8), (16, 4), (20, 3), (21, 3), (22, 1), (32, 1)])
def test_how_many_fit(bits: int, per_word: int) -> None:
    lanes = Lanes(ring=Ring(bits=bits), signed=False)
    assert lanes.per_word == per_word
    assert lanes.wide.bits == bits * per_word


@given(
    bits=st.sampled_from([2, 5, 16, 17, 20, 21, 22, 32]),
    count=st.integers(1, 200),
    clients=st.integers(1, 5),
    seed=st.integers(0, 2**32),
)
def test_signed_sums_survive_masks(bits: int, count: int, clients: int, seed: int) -> None:
    lanes = Lanes(ring=Ring(bits=bits), signed=True)
    generator = np.random.default_rng(seed)
    most = ((1 << (bits - 1)) - 1) // clients
    values = generator.integers(-most, most + 1, (clients, count)).astype(np.int32)
    total = lanes.wide.zeros(lanes.words(count))
    mask = generator.integers(0, 1 << 63, len(total), dtype=np.uint64).astype(total.dtype)
    for each in values:
        total += joined(lanes, each) + mask
    for _ in range(clients):
        total -= mask
    kept = lanes.wide.unpack(lanes.wide.pack(total), len(total))
    assert lanes.ring.centred(lanes.view(kept, count)[:]).tolist() == values.sum(axis=0).tolist()


@given(
    bits=st.sampled_from([2, 8, 21, 33, 62]),
    rows=st.lists(st.lists(st.integers(-(2**63), 2**63 - 1), min_size=5, max_size=5), min_size=2, max_size=4),
)
def test_sums_that_wrap_around_spoil_no_neighbour(bits: int, rows: list[list[int]]) -> None:
    lanes = Lanes(ring=Ring(bits=bits), signed=True, wraps=True)
    assert (lanes.per_word, lanes.wide) == (1, lanes.ring)
    total = lanes.wide.zeros(lanes.words(5))
    for row in rows:
        total += joined(lanes, np.array(row, dtype=np.int64).astype(lanes.ring.dtype))
    expected = [sum(column) % (1 << bits) for column in zip(*rows, strict=True)]
    assert lanes.ring.residues(lanes.view(total, 5)[:]).tolist() == expected


@given(bits=st.sampled_from([3, 16, 20, 24]), count=st.integers(1, 100), seed=st.integers(0, 2**32))
def test_unsigned_sums(bits: int, count: int, seed: int) -> None:
    lanes = Lanes(ring=Ring(bits=bits), signed=False)
    values = np.random.default_rng(seed).integers(0, 1 << (bits - 1), (2, count)).astype(np.uint32)
    total = joined(lanes, values[0]) + joined(lanes, values[1])
    assert lanes.ring.residues(lanes.view(total, count)[:]).tolist() == values.sum(axis=0).tolist()


@pytest.mark.parametrize("extra", [-1, 0, 1, 5, BLOCK_VALUES, BLOCK_VALUES + 1])
def test_many_blocks_and_any_slice(extra: int) -> None:
    lanes = Lanes(ring=Ring(bits=20), signed=True)
    count = 3 * BLOCK_VALUES + extra
    values = np.random.default_rng(extra + 1).integers(-(1 << 18), 1 << 18, count).astype(np.int32)
    total = joined(lanes, values)
    assert len(total) == lanes.words(count)
    view = lanes.view(total, count - 2, padding=2)
    assert len(view) == count - 2
    for start, stop in [
        (0, 7),
        (BLOCK_VALUES - 3, BLOCK_VALUES + 3),
        (count - 40, count),
        (5, 5),
        (0, count),
    ]:
        expected = values[start : min(stop, count - 2)]
        assert lanes.ring.centred(view[start:stop]).tolist() == expected.tolist()


def test_the_wire_takes_no_more_bits_than_the_values() -> None:
    lanes = Lanes(ring=Ring(bits=20), signed=True)
    for count in (1, 2, 3, 100, BLOCK_VALUES, 3 * BLOCK_VALUES, 10**6):
        size = lanes.wide.packed_size(lanes.words(count))
        assert size <= -(-(count + lanes.per_word - 1) * 20 // 8)


def test_what_is_refused() -> None:
    lanes = Lanes(ring=Ring(bits=20), signed=True)
    with pytest.raises(ParameterError, match="elements"):
        lanes.view(lanes.wide.zeros(2), 7)
    with pytest.raises(ParameterError, match="vector over 60 bits"):
        lanes.view(lanes.ring.zeros(3), 7)
    with pytest.raises(ParameterError, match="step"):
        lanes.view(lanes.wide.zeros(3), 7)[::2]
