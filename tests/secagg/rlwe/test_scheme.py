"""Lattice masks: slow twins over Python integers, and round trips."""

import hashlib
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from hypothesis import given, settings
from hypothesis import strategies as st

from secagg import labels
from secagg.entropy import SeededEntropy, system_entropy
from secagg.errors import VerificationError
from secagg.rlwe.binomial import CENTRE, BinomialStream
from secagg.rlwe.public import PublicProduct
from secagg.rlwe.scheme import (
    OpenedVector,
    Parameters,
    choose_parameters,
    draw_key,
    mask_blocks,
)
from secagg.secret import Secret
from secagg.standard.kdf import hkdf
from secagg.vectors.ring import BLOCK_VALUES, Ring
from tests.secagg.rlwe.cohorts import (
    SEED,
    SMALL,
    USUAL,
    Cohort,
    Vector,
    drawn,
    groups,
    masked,
    read,
    ring_of,
    slow_packed,
)

# Slow twins


def public_polynomial(parameters: Parameters, block: int) -> list[int]:
    """a_j in memory order, from its definition."""
    degree, limbs, width = parameters.degree, parameters.limbs, parameters.limb_bits
    key = hkdf(Secret(SEED), label=labels.LATTICE_PUBLIC, size=16).reveal()
    nonce = (block * limbs * degree // 4).to_bytes(16, "big")
    stream = Cipher(algorithms.AES128(key), modes.CTR(nonce)).encryptor().update(bytes(4 * limbs * degree))
    integers = [
        int.from_bytes(stream[at : at + 4], "little", signed=True) >> (32 - width)
        for at in range(0, len(stream), 4)
    ]
    return [
        sum(integers[limb * degree + position] << (width * limb) for limb in range(limbs))
        for position in range(degree)
    ]


def slow_product(a: list[int], s: list[int]) -> list[int]:
    """a·s mod X^N + 1 and mod 2**64 in memory order: position p is that of X^(p//2 + (p%2)·N/2)."""
    degree = len(a)
    powers = [position // 2 + position % 2 * (degree // 2) for position in range(degree)]
    natural, rising = np.zeros(degree, dtype=np.uint64), np.zeros(degree, dtype=np.uint64)
    rising[powers] = [value % 2**64 for value in a]
    for position, factor in enumerate(s):
        power = powers[position]
        shifted = np.concatenate([np.negative(rising[degree - power :]), rising[: degree - power]])
        natural += np.uint64(factor % 2**64) * shifted
    return [int(natural[power]) for power in powers]


@pytest.mark.parametrize(
    "parameters", [SMALL, replace(SMALL, signed=False), USUAL], ids=["small", "unsigned", "usual"]
)
def test_masked_vectors_are_the_scheme_term_by_term(parameters: Parameters) -> None:
    degree, entropy, twin = parameters.degree, SeededEntropy(b"one"), SeededEntropy(b"one")
    (vector,) = drawn(parameters, 1, parameters.digits * degree + 33)
    key = draw_key(entropy, degree=degree)
    sent = masked(parameters, vector, key=key, entropy=entropy)

    counts = np.empty(degree, dtype=np.uint8)
    BinomialStream(hkdf(Secret(twin(32)), label=labels.LATTICE_KEY)).fill(counts)
    assert key.tolist() == counts.tolist()
    noise = np.empty(len(sent), dtype=np.uint8)
    BinomialStream(hkdf(Secret(twin(32)), label=labels.LATTICE_NOISE)).fill(noise)
    centred = [int(count) - CENTRE for count in key]
    products = [value for j in (0, 1) for value in slow_product(public_polynomial(parameters, j), centred)]
    expected = [
        (product + int(count) - CENTRE + (plain << parameters.scale_bits)) % 2**parameters.modulus_bits
        for product, count, plain in zip(products, noise, slow_packed(parameters, vector), strict=False)
    ]
    assert len(sent) == parameters.coefficients(len(vector))
    assert parameters.ring.residues(sent).tolist() == expected


@pytest.mark.parametrize("parameters", [SMALL, USUAL], ids=["small", "usual"])
def test_one_public_block_opens_alone(parameters: Parameters) -> None:
    degree = parameters.degree
    one = np.zeros(degree, dtype=np.int64)
    one[0] = 1
    product = PublicProduct(parameters, seed=SEED, key=one)
    together, alone = np.empty(40 * degree, dtype=np.uint64), np.empty(degree, dtype=np.uint64)
    product.write(0, together, offset=0)
    for block in (39, 0, 1, 17):
        product.write(block, alone, offset=0)
        assert np.array_equal(alone, together[block * degree : (block + 1) * degree])
        assert alone.tolist() == [value % 2**64 for value in public_polynomial(parameters, block)]


def test_pinned_digests() -> None:
    one = np.zeros(USUAL.degree, dtype=np.int64)
    one[0] = 1
    block = np.empty(USUAL.degree, dtype=np.uint64)
    PublicProduct(USUAL, seed=SEED, key=one).write(5, block, offset=0)
    assert (
        hashlib.sha256(USUAL.ring.pack(block)).hexdigest()
        == "a776f4eb190147cf1a968ff9d391bd8556804868111740942e09cd2a40f5c06c"
    )
    entropy = SeededEntropy(b"pinned")
    key = draw_key(entropy, degree=USUAL.degree)
    sent = masked(USUAL, np.arange(-5000, 5000), key=key, entropy=entropy)
    assert (
        hashlib.sha256(USUAL.ring.pack(sent)).hexdigest()
        == "16f07b007eb4f43a79362d0dda5ea379da6cc55e20549b1cb76e3372f0dd7a0d"
    )


def test_public_polynomials_are_uniform() -> None:
    one = np.zeros(USUAL.degree, dtype=np.int64)
    one[0] = 1
    values = np.empty(64 * USUAL.degree, dtype=np.uint64)
    PublicProduct(USUAL, seed=SEED, key=one).write(0, values, offset=0)
    for shift in range(0, USUAL.modulus_bits, 8):
        cells = np.bincount((values >> np.uint64(shift) & np.uint64(255)).astype(np.int64), minlength=256)
        expected = len(values) / 256
        chi_square = float(((cells - expected) ** 2).sum() / expected)
        assert abs(chi_square - 255) < 5 * 510**0.5


# Round trips


@settings(deadline=None, max_examples=60)
@given(
    degree=st.sampled_from([1024, 2048, 4096, 8192]),
    clients=st.integers(1, 5),
    spare=st.integers(0, 100),
    summand=st.integers(1, 2**28),
    signed=st.booleans(),
    count=st.integers(1, 20_000),
    seed=st.integers(0, 2**32),
)
def test_sums_are_exact(
    degree: int, clients: int, spare: int, summand: int, signed: bool, count: int, seed: int
) -> None:
    most = clients + spare
    if degree == 1024:
        summand = min(summand, 2)
    elif degree == 2048:
        summand = min(summand, 10**5)
    parameters = choose_parameters(sum_bound=most * summand, signed=signed, max_summands=most, degree=degree)
    rng = np.random.default_rng(seed)
    low = -summand if signed else 0
    vectors = [rng.integers(low, summand, count, endpoint=True) for _ in range(clients)]
    cohort = Cohort(parameters, vectors)
    assert np.array_equal(read(cohort.opened(), parameters), cohort.expected)


@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize("digits", [1, 2, 3, 4, 5, 8])
def test_every_number_of_digits_to_the_ends_of_its_range(digits: int, signed: bool) -> None:
    bits = 52 // digits
    parameters = choose_parameters(
        sum_bound=2 ** (bits - 1) - 1 if signed else 2**bits - 1, signed=signed, max_summands=3
    )
    parameters = replace(
        parameters,
        digits=digits,
        modulus_bits=64,
        limb_bits=22,
        limbs=3,
    )
    for count in (
        1,
        digits,
        digits + 1,
        4096 * digits - 1,
        4096 * digits,
        4096 * digits + 5,
        3 * BLOCK_VALUES,
    ):
        cohort = Cohort(parameters, drawn(parameters, 3, count))
        assert np.array_equal(read(cohort.opened(), parameters), cohort.expected)


def test_values_wider_than_32_bits() -> None:
    parameters = choose_parameters(sum_bound=3 * 2**40, signed=True, max_summands=3)
    cohort = Cohort(parameters, drawn(parameters, 3, 10_000))
    assert cohort.opened()[:].dtype == np.uint64
    assert np.array_equal(read(cohort.opened(), parameters), cohort.expected)


def test_a_ring_wider_than_the_values() -> None:
    cohort = Cohort(SMALL, drawn(SMALL, 3, 5000))
    for bits in (10, 20, 32, 33, 64):
        ring = Ring(bits=bits)
        values = cohort.opened(ring=ring)[:]
        assert values.dtype == ring.dtype
        assert np.array_equal(ring.centred(values), cohort.expected)


def test_an_empty_vector_is_its_checks() -> None:
    cohort = Cohort(USUAL, [np.zeros(0, dtype=np.int64)] * 2)
    opened = cohort.opened()
    assert len(opened) == len(opened[:]) == 0
    assert len(cohort.sent[0]) == USUAL.check_coefficients
    opened.check_all()
    with pytest.raises(VerificationError):
        cohort.opened(key=cohort.keys[0]).check_all()


def test_slices_in_any_order() -> None:
    count = 2 * SMALL.digits * BLOCK_VALUES + 1234
    cohort = Cohort(SMALL, drawn(SMALL, 2, count))
    opened, ring = cohort.opened(), cohort.ring
    assert len(opened) == count
    cuts = [0, 1, 1000, BLOCK_VALUES, SMALL.digits * BLOCK_VALUES - 1, count - 1234, count - 1, count]
    for start, stop in [*pairwise(cuts), *pairwise(reversed(cuts)), (0, count), (5, 5), (9, 3), (-7, count)]:
        values = opened[start:stop]
        assert values.flags.c_contiguous
        assert np.array_equal(ring.centred(values), cohort.expected[start:stop])
        values[:] = 0  # fresh memory: what is kept inside does not change
    assert opened[count + 5 :].size == 0


def test_checks_may_spill_into_a_block_of_their_own() -> None:
    checks = SMALL.check_coefficients
    assert checks > 1
    for columns in (SMALL.degree - checks + 1, SMALL.degree, BLOCK_VALUES - 1, BLOCK_VALUES):
        cohort = Cohort(SMALL, drawn(SMALL, 2, columns * SMALL.digits))
        assert len(cohort.sent[0]) == columns + checks
        assert np.array_equal(read(cohort.opened(), SMALL), cohort.expected)
        cohort.opened().check_all()


@pytest.mark.parametrize("parameters", [SMALL, USUAL], ids=["small", "usual"])
def test_over_the_wire_and_bits_above_the_modulus_are_ignored(parameters: Parameters) -> None:
    count, ring = parameters.digits * BLOCK_VALUES + 10_000, parameters.ring
    vectors = drawn(parameters, 3, count)
    total, keys = ring.zeros(parameters.coefficients(count)), np.zeros(parameters.degree, dtype=np.uint64)
    for vector in vectors:
        key = draw_key(system_entropy, degree=parameters.degree)
        blocks = mask_blocks(
            parameters,
            seed=SEED,
            key=key,
            blocks=groups(parameters, vector),
            count=count,
            entropy=system_entropy,
        )
        body = b"".join(ring.pack_stream(blocks))
        assert len(body) == parameters.packed_size(count)
        ring.add_packed(total, body)
        keys += key
    total += total.dtype.type(5 << parameters.modulus_bits)
    before = total.copy()
    opened = OpenedVector(
        parameters, seed=SEED, key=keys, summands=3, total=total, count=count, ring=ring_of(parameters)
    )
    assert np.array_equal(read(opened, parameters), np.sum(vectors, axis=0))
    assert np.array_equal(total, before)


def test_the_packed_plaintexts_are_seen_on_both_sides() -> None:
    count = SMALL.digits * BLOCK_VALUES + 77
    vectors = drawn(SMALL, 2, count)
    seen: list[list[tuple[int, Vector]]] = [[], [], []]

    def hook(index: int) -> Callable[[Vector, int], None]:
        return lambda block, start: seen[index].append((start, block.copy()))

    keys = [draw_key(system_entropy, degree=SMALL.degree) for _ in vectors]
    total = sum(
        masked(SMALL, vector, key=key, entropy=system_entropy, packed=hook(index))
        for index, (vector, key) in enumerate(zip(vectors, keys, strict=True))
    )
    opened = OpenedVector(
        SMALL,
        seed=SEED,
        key=keys[0] + keys[1],
        summands=2,
        total=total,
        count=count,
        ring=ring_of(SMALL),
        packed=hook(2),
    )
    assert opened[-5:].size == 5  # the last batch first
    opened.check_all()
    opened.check_all()
    assert opened[:].size == count
    assert [start for start, _ in seen[2]] == [BLOCK_VALUES, 0]
    for index, vector in enumerate(vectors):
        assert [start for start, _ in seen[index]] == [0, BLOCK_VALUES]
        assert np.concatenate([block for _, block in seen[index]]).tolist() == slow_packed(SMALL, vector)
    both = np.concatenate([block for _, block in sorted(seen[2], key=lambda pair: pair[0])])
    assert both.tolist() == slow_packed(SMALL, vectors[0] + vectors[1])
