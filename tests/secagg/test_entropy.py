"""Injected randomness: the seeded stream, draws that are checked, and integers without bias."""

import hashlib
import hmac
import os
import struct
from collections import Counter
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from secagg import labels
from secagg.entropy import Entropy, SeededEntropy, draw, system_entropy, uniform_below
from secagg.errors import ParameterError


def rotate(value: int, count: int) -> int:
    return (value << count | value >> (32 - count)) & 0xFFFFFFFF


def slow_chacha20_block(key: bytes, counter: int) -> bytes:
    """RFC 8439, section 2.3, with a zero nonce."""
    start = [*struct.unpack("<4I", b"expand 32-byte k"), *struct.unpack("<8I", key), counter, 0, 0, 0]
    state = list(start)
    quarters = [(0, 4, 8, 12), (1, 5, 9, 13), (2, 6, 10, 14), (3, 7, 11, 15)]
    quarters += [(0, 5, 10, 15), (1, 6, 11, 12), (2, 7, 8, 13), (3, 4, 9, 14)]
    for _ in range(10):
        for a, b, c, d in quarters:
            for x, y, z, count in ((a, b, d, 16), (c, d, b, 12), (a, b, d, 8), (c, d, b, 7)):
                state[x] = (state[x] + state[y]) & 0xFFFFFFFF
                state[z] = rotate(state[z] ^ state[x], count)
    return struct.pack("<16I", *((s + t) & 0xFFFFFFFF for s, t in zip(state, start, strict=True)))


@pytest.mark.parametrize(
    ("seed", "purpose"), [(b"", b""), (b"seed", b""), (b"seed", b"client 7"), (bytes(99), b"p")]
)
def test_the_seeded_stream_is_chacha20_under_hkdf(seed: bytes, purpose: bytes) -> None:
    extracted = hmac.digest(purpose or bytes(32), seed, hashlib.sha256)
    key = hmac.digest(extracted, labels.SEEDED_ENTROPY + b"\x01", hashlib.sha256)
    expected = b"".join(slow_chacha20_block(key, counter) for counter in range(3))
    assert SeededEntropy(seed, purpose)(len(expected)) == expected


@given(seed=st.binary(), purpose=st.binary(), sizes=st.lists(st.integers(0, 100), max_size=5))
def test_the_stream_repeats_and_does_not_depend_on_how_it_is_cut(
    seed: bytes, purpose: bytes, sizes: list[int]
) -> None:
    cut = SeededEntropy(seed, purpose)
    assert b"".join(cut(size) for size in sizes) == SeededEntropy(seed, purpose)(sum(sizes))


def test_seeds_and_purposes_separate_streams() -> None:
    streams = {SeededEntropy(*arguments)(32) for arguments in [(b"a",), (b"b",), (b"a", b"b"), (b"b", b"a")]}
    assert len(streams) == 4


@pytest.mark.parametrize("wrong", ["text", 7, None, bytearray(b"b")])
def test_seeded_entropy_of_wrong_types(wrong: object) -> None:
    with pytest.raises(ParameterError, match="type bytes"):
        SeededEntropy(wrong)  # type: ignore[arg-type]
    with pytest.raises(ParameterError, match="type bytes"):
        SeededEntropy(b"seed", wrong)  # type: ignore[arg-type]


def test_the_seed_is_not_shown() -> None:
    assert repr(SeededEntropy(b"a seed to keep")) == "SeededEntropy(...)"


def test_the_default_is_the_system() -> None:
    assert system_entropy is os.urandom


@given(st.integers(0, 200))
def test_draw_gives_as_many_bytes_as_asked(size: int) -> None:
    assert len(draw(system_entropy, size)) == size
    assert draw(SeededEntropy(b"s"), size) == SeededEntropy(b"s")(size)


BROKEN: list[Entropy] = [
    lambda size: bytes(size - 1),
    lambda size: bytes(size + 1),
    lambda size: b"",
    bytearray,  # type: ignore[list-item]
    lambda size: "x" * size,  # type: ignore[list-item, return-value]
    lambda size: None,  # type: ignore[list-item, return-value]
]


@pytest.mark.parametrize("entropy", BROKEN)
def test_a_source_that_returns_something_else_is_refused(entropy: Entropy) -> None:
    with pytest.raises(ParameterError, match="asked for 16 bytes"):
        draw(entropy, 16)
    with pytest.raises(ParameterError, match="asked for 2 bytes"):
        uniform_below(entropy, 1000)


@given(seed=st.binary(), bound=st.integers(1, 2**300))
def test_uniform_below_stays_below(seed: bytes, bound: int) -> None:
    assert 0 <= uniform_below(SeededEntropy(seed), bound) < bound


class Exhausted(Exception):
    """The one byte of a test was rejected."""


def one_byte(value: int) -> Entropy:
    stream = iter([value])

    def entropy(size: int) -> bytes:
        for byte in stream:
            return bytes([byte])
        raise Exhausted

    return entropy


def fair(bound: int) -> Counter[int]:
    """How often each value comes out when every byte goes in once."""
    seen: Counter[int] = Counter()
    for value in range(256):
        with suppress(Exhausted):
            seen[uniform_below(one_byte(value), bound)] += 1
    return seen


def biased(bound: int) -> Counter[int]:
    """The weakened copy: a remainder, which favours small values."""
    return Counter(value % bound for value in range(256))


@pytest.mark.parametrize("bound", [3, 6, 100, 129, 200, 255])
def test_every_value_is_equally_likely_where_a_remainder_is_biased(bound: int) -> None:
    """A7, down to the generators that miss the top value."""
    assert set(fair(bound)) == set(range(bound))
    assert len(set(fair(bound).values())) == 1
    assert len(set(biased(bound).values())) == 2


@pytest.mark.parametrize(
    ("bound", "size"), [(1, 0), (2, 1), (256, 1), (257, 2), (2**16, 2), (2**256, 32), (2**256 + 1, 33)]
)
def test_the_top_value_is_reached_with_the_fewest_bytes(bound: int, size: int) -> None:
    asked = []

    def entropy(count: int) -> bytes:
        asked.append(count)
        bits = (bound - 1).bit_length()
        return ((bound - 1) << (8 * count - bits)).to_bytes(count, "big")

    assert uniform_below(entropy, bound) == bound - 1
    assert asked == [size]


def test_a_source_stuck_out_of_range_is_refused_in_bounded_time() -> None:
    asked = []
    with pytest.raises(ParameterError, match="broken"):
        uniform_below(lambda size: asked.append(size) or b"\xff" * size, 200)  # type: ignore[func-returns-value]
    assert len(asked) == 1000


@pytest.mark.parametrize("bound", [0, -1, -(2**64)])
def test_bounds_below_one_are_refused(bound: int) -> None:
    with pytest.raises(ParameterError, match="at least 1"):
        uniform_below(system_entropy, bound)
