"""Masks: published keystreams, cancellation, whole against parts, uniformity with planted weak generators."""

from collections.abc import Callable
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from hypothesis import given
from hypothesis import strategies as st

from secagg.entropy import SeededEntropy
from secagg.errors import ParameterError
from secagg.secret import Secret
from secagg.vectors.masking import MASK_KEY_BYTES, MaskStream, apply_masks, expand
from secagg.vectors.ring import Ring, Words

RINGS = [Ring(bits=bits) for bits in (1, 16, 20, 32, 33, 48, 64)]
# Around the block of AES and the chunk of 2**17 bytes, in both word sizes.
LENGTHS = (0, 1, 2, 3, 5, 1001, 2**14 - 1, 2**14 + 1, 2**15 - 1, 2**15, 2**15 + 1, 2**16 + 3)


def seeds(count: int, label: bytes = b"masks") -> list[Secret]:
    entropy = SeededEntropy(label)
    return [Secret(entropy(MASK_KEY_BYTES)) for _ in range(count)]


# Known answers


def test_the_library_primitive_against_nist() -> None:
    # NIST SP 800-38A, F.5.1, CTR-AES128.Encrypt.
    key = bytes.fromhex("2b7e151628aed2a6abf7158809cf4f3c")
    counter = bytes.fromhex("f0f1f2f3f4f5f6f7f8f9fafbfcfdfeff")
    plaintext = bytes.fromhex(
        "6bc1bee22e409f96e93d7e117393172aae2d8a571e03ac9c9eb76fac45af8e51"
        "30c81c46a35ce411e5fbc1191a0a52eff69f2445df4f9b17ad2b417be66c3710"
    )
    ciphertext = bytes.fromhex(
        "874d6191b620e3261bef6864990db6ce9806f66b7970fdff8617187bb9fffdff"
        "5ae4df3edbd5d35e5b4f09020db03eab1e031dda2fbe03d1792170a0f3009cee"
    )
    assert Cipher(algorithms.AES128(key), modes.CTR(counter)).encryptor().update(plaintext) == ciphertext


@pytest.mark.parametrize("bits", [20, 40])
def test_keystream_of_the_zero_key(bits: int) -> None:
    # McGrew and Viega, The Galois/Counter Mode of Operation, appendix B, under the zero key: H of test case
    # 1 encrypts counter 0, its tag encrypts counter 1, and the ciphertext of case 2 (a zero block) counter 2.
    keystream = bytes.fromhex(
        "66e94bd4ef8a2c3b884cfa59ca342b2e58e2fccefa7e3061367f1d57a4e7455a0388dace60b6a392f328c2b971b2fe78"
    )
    ring = Ring(bits=bits)
    width = ring.dtype.itemsize
    words = [int.from_bytes(keystream[at : at + width], "little") for at in range(0, 48, width)]
    seed = Secret(bytes(16))
    assert expand(seed, ring=ring, count=len(words)).tolist() == words
    vector = ring.zeros(len(words))
    apply_masks(vector, ring=ring, add=[seed], subtract=[])
    assert vector.tolist() == words


@pytest.mark.parametrize("ring", RINGS)
def test_masks_are_the_keystream_from_counter_zero(ring: Ring) -> None:
    for count in LENGTHS:
        (seed,) = seeds(1, b"%d" % count)
        stream = Cipher(algorithms.AES(seed.reveal()), modes.CTR(bytes(16))).encryptor()
        keystream = stream.update(bytes(count * ring.dtype.itemsize))
        mask = expand(seed, ring=ring, count=count)
        assert mask.dtype == ring.dtype
        assert mask.astype(ring.dtype.newbyteorder("<")).tobytes() == keystream


# Application


@pytest.mark.parametrize("ring", RINGS)
def test_apply_agrees_with_expand(ring: Ring) -> None:
    for count in LENGTHS:
        add, subtract = seeds(3, b"add"), seeds(2, b"subtract")
        vector = expand(seeds(1, b"data")[0], ring=ring, count=count)
        expected = vector.copy()
        for seed in add:
            expected += expand(seed, ring=ring, count=count)
        for seed in subtract:
            expected -= expand(seed, ring=ring, count=count)
        apply_masks(vector, ring=ring, add=add, subtract=subtract)
        assert np.array_equal(vector, expected)


@pytest.mark.parametrize("ring", RINGS)
def test_masks_cancel(ring: Ring) -> None:
    data = expand(seeds(1, b"data")[0], ring=ring, count=40_001)
    vector = data.copy()
    masks = seeds(4)
    apply_masks(vector, ring=ring, add=masks, subtract=[])
    # A value escapes its mask with a chance of 2**-bits of the machine word.
    assert np.count_nonzero(vector == data) < 5
    apply_masks(vector, ring=ring, add=[], subtract=masks[::-1])
    assert np.array_equal(vector, data)


def test_no_masks_change_nothing() -> None:
    ring = Ring(bits=20)
    vector = np.arange(10, dtype=np.uint32)
    apply_masks(vector, ring=ring, add=[], subtract=[])
    assert vector.tolist() == list(range(10))


@given(cuts=st.lists(st.integers(0, 70_000), max_size=6), bits=st.sampled_from([20, 40]))
def test_a_stream_in_parts_is_the_whole(cuts: list[int], bits: int) -> None:
    ring = Ring(bits=bits)
    whole, parts = ring.zeros(70_000), ring.zeros(70_000)
    add, subtract = seeds(2), seeds(1, b"other")
    apply_masks(whole, ring=ring, add=add, subtract=subtract)
    stream = MaskStream(ring=ring, add=add, subtract=subtract)
    bounds = [0, *sorted(cuts), 70_000]
    for start, stop in pairwise(bounds):
        stream.apply(parts[start:stop])
    assert np.array_equal(parts, whole)


def test_a_stream_does_not_repeat_itself() -> None:
    ring = Ring(bits=64)
    stream = MaskStream(ring=ring, add=seeds(1), subtract=[])
    first, second = ring.zeros(100), ring.zeros(100)
    stream.apply(first)
    stream.apply(second)
    assert not np.intersect1d(first, second).size


def test_a_refused_part_does_not_move_the_stream() -> None:
    ring = Ring(bits=20)
    stream = MaskStream(ring=ring, add=seeds(1), subtract=[])
    with pytest.raises(ParameterError):
        stream.apply(np.zeros(9, dtype=np.float32))  # type: ignore[arg-type]
    vector = ring.zeros(9)
    stream.apply(vector)
    assert np.array_equal(vector, expand(seeds(1)[0], ring=ring, count=9))


# Uniformity. Statistics of a fixed seed: these tests give the same answer every time.

Generator = Callable[[Ring, int], Words]
SAMPLES = 1 << 18


def deviation(digits: npt.NDArray[np.integer], cells: int) -> float:
    """Pearson's chi-square of `digits` over [0, cells), in standard deviations from its mean."""
    expected = len(digits) / cells
    chi_square = float(((np.bincount(digits, minlength=cells) - expected) ** 2).sum() / expected)
    return (chi_square - (cells - 1)) / (2 * (cells - 1)) ** 0.5


def looks_uniform(generator: Generator, ring: Ring) -> bool:
    """No deviation over 6 in the low or the top bits (8 at most), and in the pairs of neighbours."""
    residues = ring.residues(generator(ring, SAMPLES))
    bits = min(ring.bits, 8)
    low = (residues & np.uint64(2**bits - 1)).astype(np.int64)
    top = (residues >> np.uint64(ring.bits - bits)).astype(np.int64)
    half = bits // 2
    pairs = (top[::2] >> half << half) + (top[1::2] >> (bits - half))
    deviations = [deviation(low, 2**bits), deviation(top, 2**bits), deviation(pairs, 2**bits)]
    return max(map(abs, deviations)) < 6


def ours(ring: Ring, count: int) -> Words:
    return expand(seeds(1, b"uniform")[0], ring=ring, count=count)


def ours_applied(ring: Ring, count: int) -> Words:
    vector = ring.zeros(count)
    apply_masks(vector, ring=ring, add=seeds(2, b"uniform"), subtract=seeds(1, b"more"))
    return vector


def misses_the_top_value(ring: Ring, count: int) -> Words:
    # A7: an exclusive upper bound taken for an inclusive one.
    return np.random.default_rng(1).integers(0, 2**ring.bits - 1, count, dtype=np.uint64).astype(ring.dtype)


def covers_half_the_ring(ring: Ring, count: int) -> Words:
    # A8: bounded masks, so that a sum of few of them shows the data's upper bits.
    return (
        np.random.default_rng(1).integers(0, 2 ** (ring.bits - 1), count, dtype=np.uint64).astype(ring.dtype)
    )


def rounds_a_gaussian(ring: Ring, count: int) -> Words:
    # A8: float masks around zero.
    noise = np.random.default_rng(1).normal(scale=2 ** (ring.bits - 3), size=count)
    return np.rint(noise).astype(np.int64).astype(np.uint64).astype(ring.dtype)


def takes_a_remainder(ring: Ring, count: int) -> Words:
    # One byte modulo 255: zero comes twice as often.
    return (np.random.default_rng(1).integers(0, 256, count, dtype=np.uint64) % np.uint64(255)).astype(
        ring.dtype
    )


def repeats_each_word(ring: Ring, count: int) -> Words:
    return np.repeat(ours(ring, count // 2), 2)


@pytest.mark.parametrize("generator", [ours, ours_applied])
@pytest.mark.parametrize("bits", [2, 8, 12, 16, 20, 31, 32, 33, 48, 63, 64])
def test_masks_are_uniform(generator: Generator, bits: int) -> None:
    assert looks_uniform(generator, Ring(bits=bits))


@pytest.mark.parametrize(
    "generator",
    [misses_the_top_value, covers_half_the_ring, rounds_a_gaussian, takes_a_remainder, repeats_each_word],
)
def test_weak_generators_are_caught(generator: Generator) -> None:
    assert not looks_uniform(generator, Ring(bits=8))


@pytest.mark.parametrize("generator", [covers_half_the_ring, rounds_a_gaussian, repeats_each_word])
@pytest.mark.parametrize("bits", [20, 40])
def test_weak_generators_are_caught_in_wide_rings(generator: Generator, bits: int) -> None:
    assert not looks_uniform(generator, Ring(bits=bits))


@pytest.mark.parametrize("bits", [1, 2, 4, 8, 12])
def test_every_residue_occurs(bits: int) -> None:
    ring = Ring(bits=bits)
    assert len(np.unique(ring.residues(ours(ring, SAMPLES)))) == 2**bits
    assert ring.residues(misses_the_top_value(ring, SAMPLES)).max() < 2**bits - 1


def test_seeds_make_unrelated_masks() -> None:
    ring = Ring(bits=64)
    masks = [expand(Secret(bytes(15) + bytes([last])), ring=ring, count=1000) for last in range(8)]
    assert len(np.unique(np.concatenate(masks))) == 8000


# Refusals


@pytest.mark.parametrize("size", [0, 1, 15, 17, 24, 32])
def test_a_seed_of_another_length(size: int) -> None:
    ring = Ring(bits=20)
    wrong = Secret(bytes(size))
    vector = ring.zeros(3)
    with pytest.raises(ParameterError, match=f"of {size} bytes; derive one of 16"):
        expand(wrong, ring=ring, count=3)
    with pytest.raises(ParameterError, match=f"of {size} bytes"):
        apply_masks(vector, ring=ring, add=[*seeds(1), wrong], subtract=[])
    with pytest.raises(ParameterError, match=f"of {size} bytes"):
        apply_masks(vector, ring=ring, add=seeds(1), subtract=[wrong])
    assert not vector.any()


@pytest.mark.parametrize("wrong", [bytes(16), bytearray(16), "0" * 16, 7, None])
def test_a_seed_that_is_not_secret(wrong: Secret) -> None:
    ring = Ring(bits=20)
    with pytest.raises(ParameterError, match="is a Secret, not"):
        expand(wrong, ring=ring, count=3)
    with pytest.raises(ParameterError, match="is a Secret, not"):
        apply_masks(ring.zeros(3), ring=ring, add=[wrong], subtract=[])


@pytest.mark.parametrize(
    "vector",
    [
        [0, 0],
        np.zeros(4, dtype=np.float32),
        np.zeros(4, dtype=np.int32),
        np.zeros(4, dtype=np.uint64),
        np.zeros((2, 2), dtype=np.uint32),
        np.zeros(8, dtype=np.uint32)[::2],
    ],
)
def test_what_is_not_a_vector(vector: Words) -> None:
    with pytest.raises(ParameterError, match="one-dimensional array of uint32"):
        apply_masks(vector, ring=Ring(bits=20), add=seeds(1), subtract=[])


def test_a_read_only_vector() -> None:
    ring = Ring(bits=20)
    vector = ring.zeros(4)
    vector.flags.writeable = False
    with pytest.raises(ParameterError, match="read-only"):
        apply_masks(vector, ring=ring, add=seeds(1), subtract=[])
    assert not vector.any()


@pytest.mark.parametrize("count", [-1, 1.5, None])
def test_a_wrong_count(count: int) -> None:
    with pytest.raises(ParameterError, match="integer of at least 0"):
        expand(seeds(1)[0], ring=Ring(bits=20), count=count)


def test_texts_and_reprs_hold_no_seed() -> None:
    seed = Secret(b"very secret seed" + b"!")
    with pytest.raises(ParameterError) as refusal:
        expand(seed, ring=Ring(bits=20), count=1)
    stream = MaskStream(ring=Ring(bits=20), add=[Secret(b"very secret seed")], subtract=[])
    assert "very" not in str(refusal.value) + repr(stream)
