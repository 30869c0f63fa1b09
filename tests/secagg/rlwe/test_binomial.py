"""Centred binomial samples: the definition in slow Python, the exact distribution, wrong arguments."""

import hashlib
import math
from collections.abc import Callable
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from hypothesis import given
from hypothesis import strategies as st

from secagg.errors import ParameterError
from secagg.rlwe.binomial import CENTRE, COINS, SEED_BYTES, VARIANCE, BinomialStream
from secagg.secret import Secret

SEED = Secret(bytes(range(32)))
CHUNK = 4096
SAMPLES = 1 << 20

Counts = npt.NDArray[np.uint8]


def samples(count: int, seed: Secret = SEED) -> Counts:
    counts = np.empty(count, dtype=np.uint8)
    BinomialStream(seed).fill(counts)
    return counts


def slow_chunk(keystream: bytes) -> list[int]:
    """The definition, bit by bit: 2 words of 64, one of 32, and half a byte for each sample of a chunk."""
    counts = []
    for index in range(CHUNK):
        first, second = keystream[8 * index :][:8], keystream[8 * (CHUNK + index) :][:8]
        third = keystream[16 * CHUNK + 4 * index :][:4]
        nibble = keystream[20 * CHUNK + index % (CHUNK // 2)] >> (4 * (index // (CHUNK // 2))) & 15
        counts.append(int.from_bytes(first + second + third + bytes([nibble]), "big").bit_count())
    return counts


# Known answers


def test_the_stream_against_its_definition() -> None:
    size = CHUNK * COINS // 8
    cipher = Cipher(algorithms.AES256(SEED.reveal()), modes.CTR(bytes(16))).encryptor()
    keystream = cipher.update(bytes(2 * size))
    assert samples(2 * CHUNK).tolist() == slow_chunk(keystream[:size]) + slow_chunk(keystream[size:])


def test_pinned_samples() -> None:
    counts = samples(10_000)
    assert counts[:8].tolist() == [79, 92, 85, 89, 75, 75, 90, 87]
    assert hashlib.sha256(counts.tobytes()).hexdigest() == (
        "dc92a03d4235887b4ce2830208242f6393491deb613af9d77c7566f0aee2f7ba"
    )


def test_every_coin_is_counted_once() -> None:
    # 164 coins in 20.5 bytes: a chunk uses its keystream up, and no bit of it twice.
    size = CHUNK * COINS // 8
    keystream = Cipher(algorithms.AES256(SEED.reveal()), modes.CTR(bytes(16))).encryptor().update(bytes(size))
    assert int(samples(CHUNK).sum()) == int.from_bytes(keystream, "big").bit_count()


@given(cuts=st.lists(st.integers(0, 3 * CHUNK), max_size=8))
def test_a_stream_in_parts_is_the_whole(cuts: list[int]) -> None:
    stream, parts = BinomialStream(SEED), np.empty(3 * CHUNK, dtype=np.uint8)
    for start, stop in pairwise([0, *sorted(cuts), 3 * CHUNK]):
        stream.fill(parts[start:stop])
    assert np.array_equal(parts, samples(3 * CHUNK))


def test_seeds_make_unrelated_streams() -> None:
    other = samples(SAMPLES, Secret(bytes(31) + b"\x01")).astype(np.float64)
    assert abs(np.corrcoef(samples(SAMPLES), other)[0, 1]) < 6 / SAMPLES**0.5


# The distribution. Statistics of a fixed seed: these tests give the same answer every time.


def chance(count: int) -> float:
    return math.comb(COINS, count) / 2**COINS


def deviations(counts: Counts) -> dict[str, float]:
    """How far statistics are from those of Binomial(164, 1/2), in their standard deviations."""
    low, high = CENTRE - 28, CENTRE + 28  # beyond, less than 20 of 2**20 samples are expected
    cells = np.bincount(np.clip(counts, low, high), minlength=high + 1)[low:]
    chances = [chance(count) for count in range(low + 1, high)]
    tail = (1 - math.fsum(chances)) / 2
    expected = np.array([tail, *chances, tail]) * len(counts)
    freedom = len(cells) - 1
    chi_square = float(((cells - expected) ** 2 / expected).sum())
    centred = counts.astype(np.float64) - CENTRE
    fourth, eighth = (
        math.fsum((count - CENTRE) ** power * chance(count) for count in range(COINS + 1)) for power in (4, 8)
    )
    root = len(counts) ** 0.5
    neighbours = float((centred[1:] * centred[:-1]).mean())
    halves = float((centred[: CHUNK // 2] * centred[CHUNK // 2 : CHUNK]).mean())
    return {
        "chi-square": (chi_square - freedom) / (2 * freedom) ** 0.5,
        "mean": float(centred.mean()) * root / VARIANCE**0.5,
        "variance": (float((centred**2).mean()) - VARIANCE) * root / (fourth - VARIANCE**2) ** 0.5,
        "fourth moment": (float((centred**4).mean()) - fourth) * root / (eighth - fourth**2) ** 0.5,
        "neighbours": neighbours * root / VARIANCE,
        "halves of a nibble": halves * (CHUNK // 2) ** 0.5 / VARIANCE,
    }


@pytest.mark.parametrize("last", range(4))
def test_the_distribution_is_the_binomial(last: int) -> None:
    counts = samples(SAMPLES, Secret(bytes(31) + bytes([last])))
    assert max(map(abs, deviations(counts).values())) < 5
    assert counts.max() <= COINS


def narrow_gaussian(count: int) -> Counts:
    normal = np.random.default_rng(1).normal(CENTRE, 6.3, count)
    return np.rint(normal).astype(np.uint8)


def four_coins_short(count: int) -> Counts:
    return (np.random.default_rng(1).binomial(COINS - 4, 0.5, count) + 2).astype(np.uint8)


def one_coin_short(count: int) -> Counts:
    return np.random.default_rng(1).binomial(COINS - 1, 0.5, count).astype(np.uint8)


def biased_coins(count: int) -> Counts:
    return np.random.default_rng(1).binomial(COINS, 0.501, count).astype(np.uint8)


def every_sample_twice(count: int) -> Counts:
    return np.repeat(samples(count // 2), 2)


def shared_nibbles(count: int) -> Counts:
    counts = samples(count)
    counts[CHUNK // 2 : CHUNK] = counts[: CHUNK // 2]
    return counts


@pytest.mark.parametrize(
    "weak",
    [
        narrow_gaussian,
        four_coins_short,
        one_coin_short,
        biased_coins,
        every_sample_twice,
        shared_nibbles,
    ],
)
def test_c11_weak_generators_are_caught(weak: Callable[[int], Counts]) -> None:
    assert max(map(abs, deviations(weak(SAMPLES)).values())) > 5


def test_the_variance_is_that_of_the_coins() -> None:
    exact = math.fsum((count - CENTRE) ** 2 * chance(count) for count in range(COINS + 1))
    assert exact == pytest.approx(VARIANCE, rel=1e-12)


# Refusals


@pytest.mark.parametrize(
    "seed", [bytes(32), bytearray(32), "a" * 32, None, Secret(bytes(31)), Secret(bytes(33)), Secret(b"")]
)
def test_wrong_seed(seed: object) -> None:
    with pytest.raises(ParameterError, match=f"Secret of {SEED_BYTES} bytes"):
        BinomialStream(seed)  # type: ignore[arg-type]


def read_only() -> Counts:
    counts = np.empty(8, dtype=np.uint8)
    counts.flags.writeable = False
    return counts


@pytest.mark.parametrize(
    "out",
    [
        None,
        bytearray(8),
        [0] * 8,
        np.empty(8, dtype=np.int8),
        np.empty(8, dtype=np.uint64),
        np.empty((2, 4), dtype=np.uint8),
        np.empty(16, dtype=np.uint8)[::2],
        read_only(),
    ],
)
def test_wrong_target_leaves_the_stream_where_it_is(out: object) -> None:
    stream, counts = BinomialStream(SEED), np.empty(8, dtype=np.uint8)
    with pytest.raises(ParameterError, match="array of uint8"):
        stream.fill(out)  # type: ignore[arg-type]
    stream.fill(counts)
    assert np.array_equal(counts, samples(8))


def test_nothing_to_fill() -> None:
    stream, counts = BinomialStream(SEED), np.empty(8, dtype=np.uint8)
    stream.fill(counts[:0])
    stream.fill(counts)
    assert np.array_equal(counts, samples(8))


def test_repr_and_errors_hold_no_seed() -> None:
    with pytest.raises(ParameterError) as refusal:
        BinomialStream(Secret(b"very secret seed"))
    assert "very" not in str(refusal.value) + repr(BinomialStream(Secret(b"very secret seed" * 2)))
