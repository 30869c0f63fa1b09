"""Lattice masks: slow twins over Python integers, exact tails, wrong keys, tampered sums, wrong arguments."""

import hashlib
import math
from collections.abc import Callable, Iterator
from dataclasses import FrozenInstanceError, replace
from itertools import pairwise
from typing import Any

import gmpy2
import numpy as np
import numpy.typing as npt
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from hypothesis import given, settings
from hypothesis import strategies as st

from secagg import labels
from secagg.binomial import CENTRE, COINS, VARIANCE, BinomialStream
from secagg.entropy import SeededEntropy, system_entropy
from secagg.errors import ParameterError, VerificationError
from secagg.kdf import hkdf
from secagg.negacyclic import MAXIMUM_ERROR, KeyProduct, rounding_bound
from secagg.ring import BLOCK_VALUES, Ring, Words
from secagg.rlwe import (
    KEY_SUMMAND_MAX,
    OpenedVector,
    Parameters,
    choose_parameters,
    draw_key,
    mask_blocks,
)
from secagg.rlwe_parameters import (
    CHECK_BITS,
    DEGREES,
    MAXIMUM_COEFFICIENTS,
    MAXIMUM_SUMMANDS,
    SECURE_MODULUS_BITS,
)
from secagg.rlwe_public import PublicProduct
from secagg.secret import Secret

SEED = bytes(range(32))
Vector = npt.NDArray[np.int64]
Counts = npt.NDArray[np.uint64]


class Cohort:
    """Honest clients with their vectors, and what they send."""

    def __init__(self, parameters: Parameters, vectors: list[Vector], *, seed: bytes = SEED) -> None:
        self.parameters, self.seed, self.count = parameters, seed, len(vectors[0])
        entropies = [SeededEntropy(b"client %d" % index) for index in range(len(vectors))]
        self.keys = [draw_key(entropy, degree=parameters.degree) for entropy in entropies]
        self.sent = [
            masked(parameters, vector, seed=seed, key=key, entropy=entropy)
            for vector, key, entropy in zip(vectors, self.keys, entropies, strict=True)
        ]
        self.expected: Vector = np.sum(vectors, axis=0)

    @property
    def ring(self) -> Ring:
        return ring_of(self.parameters)

    def opened(self, **changes: Any) -> OpenedVector:
        """The sum of all, or what becomes of it with other arguments."""
        arguments: dict[str, Any] = {
            "seed": self.seed,
            "key": sum(self.keys[1:], self.keys[0]),
            "summands": len(self.keys),
            "total": sum(self.sent[1:], self.sent[0]),
            "count": self.count,
            "ring": self.ring,
        }
        return OpenedVector(self.parameters, **(arguments | changes))


def ring_of(parameters: Parameters) -> Ring:
    """The narrowest ring of the sums."""
    return Ring(bits=(parameters.base - 1).bit_length())


def words(vector: Vector) -> Words:
    if len(vector) and (vector.min() < -(2**31) or vector.max() >= 2**31):
        return vector.view(np.uint64)
    return vector.astype(np.int32).view(np.uint32)


def groups(parameters: Parameters, vector: Vector) -> Iterator[Words]:
    """The blocks of a vector, each in the memory of the one before."""
    size = parameters.digits * parameters.degree
    whole = words(vector)
    buffer = np.empty(min(size, len(vector)), dtype=whole.dtype)
    for start in range(0, len(vector), size):
        block = buffer[: min(size, len(vector) - start)]
        block[:] = whole[start : start + size]
        yield block


def masked(parameters: Parameters, vector: Vector, **arguments: Any) -> Words:
    blocks = mask_blocks(
        parameters,
        **({"seed": SEED, "blocks": groups(parameters, vector), "count": len(vector)} | arguments),
    )
    return np.concatenate([block.copy() for block in blocks])


def read(vector: OpenedVector, parameters: Parameters) -> Vector:
    """All values, as integers."""
    ring = ring_of(parameters)
    if parameters.signed:
        return ring.centred(vector[:])
    return ring.residues(vector[:]).astype(np.int64)


def drawn(parameters: Parameters, clients: int, count: int, seed: int = 0) -> list[Vector]:
    """Vectors whose sums reach both ends of the range."""
    bound = (parameters.base - 1) // (2 if parameters.signed else 1) // clients
    rng = np.random.default_rng(seed)
    low = -bound if parameters.signed else 0
    vectors = [rng.integers(low, bound, count, endpoint=True) for _ in range(clients)]
    for vector in vectors:
        vector[: count // 4], vector[count // 2 : count // 2 + count // 4] = bound, low
    return vectors


SMALL = choose_parameters(sum_bound=3 * 100, signed=True, max_summands=3, degree=1024)
USUAL = choose_parameters(sum_bound=10 * 32767, signed=True, max_summands=10)


# Parameters


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


def slow_packed(parameters: Parameters, vector: Vector) -> list[int]:
    """Mixed radix, value by value, with the checks behind."""
    size, packed = parameters.digits * parameters.degree, []
    for start in range(0, len(vector), size):
        group = vector[start : start + size].tolist()
        columns = -(-len(group) // parameters.digits)
        for column in range(columns):
            digits = group[column::columns]
            packed.append(sum(digit * parameters.base**power for power, digit in enumerate(digits)))
    return packed + [0] * parameters.check_coefficients


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
    again = np.concatenate([block.copy() for block in opened.packed_blocks()])
    assert np.array_equal(both, again)


# What must not open


def changed(key: Counts, *positions: tuple[int, int]) -> Counts:
    key = key.copy()
    for position, step in positions:
        key[position] = np.uint64(int(key[position]) + step)
    return key


@pytest.mark.parametrize("parameters", [SMALL, USUAL], ids=["small", "usual"])
@pytest.mark.parametrize("count", [1, 2, 3000, 40_000])
def test_a_wrong_key_opens_nothing(parameters: Parameters, count: int) -> None:
    cohort = Cohort(parameters, drawn(parameters, 3, count))
    key = cohort.keys[0] + cohort.keys[1] + cohort.keys[2]
    other = draw_key(SeededEntropy(b"other"), degree=parameters.degree)
    wrong = [
        changed(key, (0, 1)),
        changed(key, (parameters.degree - 1, -1)),
        changed(key, (7, 1), (8, -1)),  # the sum of all counts stays
        changed(key, (9, 2)),
        cohort.keys[0] + cohort.keys[1] + other,
    ]
    for attempt in wrong:
        for use in (lambda v: v[:1], lambda v: v.check_all(), lambda v: list(v.packed_blocks())):
            with pytest.raises(VerificationError, match="does not open under this key"):
                use(cohort.opened(key=attempt))
    with pytest.raises(VerificationError, match="does not open under this key"):
        cohort.opened(key=cohort.keys[0] + cohort.keys[1], summands=2)[:1]


@pytest.mark.parametrize("count", [1, 3000])
def test_another_seed_or_a_missing_vector_opens_nothing(count: int) -> None:
    cohort = Cohort(SMALL, drawn(SMALL, 3, count))
    for changes in ({"seed": bytes(32)}, {"total": cohort.sent[0] + cohort.sent[1]}):
        with pytest.raises(VerificationError, match="does not open"):
            cohort.opened(**changes)[:1]


def test_one_clients_vector_does_not_open_with_the_sum_of_the_keys() -> None:
    cohort = Cohort(USUAL, drawn(USUAL, 2, 10_000))
    with pytest.raises(VerificationError, match="does not open"):
        cohort.opened(total=cohort.sent[0])[:]


@pytest.mark.parametrize("where", ["first", "middle", "last value", "first check", "last check"])
def test_a_tampered_coefficient_is_found_and_other_blocks_still_open(where: str) -> None:
    count = 2 * SMALL.digits * BLOCK_VALUES + 1234
    cohort = Cohort(SMALL, drawn(SMALL, 2, count))
    coefficients, checks = SMALL.coefficients(count), SMALL.check_coefficients
    position = {
        "first": 0,
        "middle": BLOCK_VALUES + 5,
        "last value": coefficients - checks - 1,
        "first check": coefficients - checks,
        "last check": coefficients - 1,
    }[where]
    total = cohort.sent[0] + cohort.sent[1]
    total[position] += total.dtype.type(1 << (SMALL.scale_bits - 1))
    opened, bad = cohort.opened(total=total), position // BLOCK_VALUES
    for batch in range(3):
        start = batch * SMALL.digits * BLOCK_VALUES
        part = slice(start, start + 100)
        for _ in range(2):  # a batch that failed is not kept
            if batch == bad:
                with pytest.raises(VerificationError, match="does not open"):
                    opened[part]
            else:
                assert np.array_equal(cohort.ring.centred(opened[part]), cohort.expected[part])
    with pytest.raises(VerificationError, match="does not open"):
        opened[:]
    with pytest.raises(VerificationError, match="does not open"):
        opened.check_all()


def test_a_whole_step_is_seen_in_checks_and_missing_digits_but_not_in_values() -> None:
    """What the module says of itself: changes by multiples of Δ need a MAC, for which `packed` is."""
    count = SMALL.digits * 1000 + 1
    step = 1 << SMALL.scale_bits
    cohort = Cohort(SMALL, [np.zeros(count, dtype=np.int64)] * 2)
    honest = cohort.sent[0] + cohort.sent[1]

    value = honest.copy()
    value[3] += step
    assert cohort.ring.centred(cohort.opened(total=value)[:]).sum() == 1

    check = honest.copy()
    check[-1] += step
    with pytest.raises(VerificationError, match="does not open"):
        cohort.opened(total=check)[:]

    missing = honest.copy()
    missing[-SMALL.check_coefficients - 1] += step * SMALL.base ** (SMALL.digits - 1)
    with pytest.raises(VerificationError, match="behind the last one"):
        cohort.opened(total=missing)[:]

    beyond = honest.copy()
    beyond[3] += step * ((SMALL.base**SMALL.digits - 1) // 2 + 1)
    with pytest.raises(VerificationError, match="does not open"):
        cohort.opened(total=beyond)[:]


@pytest.mark.parametrize("beyond", [0, 1])
def test_noise_at_its_bound_opens_and_beyond_it_does_not(beyond: int) -> None:
    """Noise that is written by hand, on a sum of zeros under keys of zero."""
    for signed in (True, False):
        parameters = replace(SMALL, signed=signed)
        total = parameters.ring.zeros(parameters.coefficients(100))
        for sign in (-1, 1):
            total[0] = sign * (parameters.noise_bound + beyond) % 2**parameters.modulus_bits
            vector = OpenedVector(
                parameters,
                seed=SEED,
                key=np.full(parameters.degree, 2 * CENTRE, dtype=np.uint64),
                summands=2,
                total=total,
                count=100,
                ring=ring_of(parameters),
            )
            if beyond:
                with pytest.raises(VerificationError, match="does not open"):
                    vector[:]
            else:
                assert not vector[:].any()


def test_keys_that_no_summands_have() -> None:
    cohort = Cohort(USUAL, drawn(USUAL, 3, 100))
    key = cohort.keys[0] + cohort.keys[1] + cohort.keys[2]
    for position in (0, 4095):
        with pytest.raises(VerificationError, match="a count is out of range"):
            cohort.opened(key=changed(key, (position, 3 * COINS + 1 - int(key[position]))))
    for wrong in (2**64 - 1, 2**63, 2**63 - 1):
        extreme = key.copy()
        extreme[17] = wrong
        with pytest.raises(VerificationError, match="a count is out of range"):
            cohort.opened(key=extreme)
    # Three summands may reach 3·82 in a coefficient, but not in all of them.
    for level in (0, 3 * COINS):
        with pytest.raises(VerificationError, match="too large"):
            cohort.opened(key=np.full(4096, level, dtype=np.uint64))


def test_the_norm_bound_is_what_the_product_allows() -> None:
    """Any key that passes the check is multiplied exactly; `KeyProduct` would refuse it otherwise."""
    for clients in (1, 10, 1000):
        p = choose_parameters(sum_bound=clients * 32767, signed=True, max_summands=clients)
        level = math.isqrt(p.key_norm_bound // p.degree)
        KeyProduct(np.full(p.degree, level, dtype=np.int64), limb_bits=p.limb_bits, limbs=p.limbs)


def test_c10_a_key_used_twice_gives_away_the_difference() -> None:
    """Why a key serves one vector: whoever sees both needs no key at all."""
    first, second = drawn(USUAL, 2, 8192)
    key = draw_key(system_entropy, degree=USUAL.degree)
    difference = masked(USUAL, first, key=key, entropy=system_entropy) - masked(
        USUAL, second, key=key, entropy=system_entropy
    )
    plain = np.array(slow_packed(USUAL, first - second))
    noise = USUAL.ring.centred(difference) - (plain << USUAL.scale_bits)
    assert np.abs(noise).max() <= USUAL.noise_bound
    # Fresh keys leave nothing of the sort.
    other = draw_key(system_entropy, degree=USUAL.degree)
    fresh = masked(USUAL, first, key=key, entropy=system_entropy) - masked(
        USUAL, second, key=other, entropy=system_entropy
    )
    far = np.abs(USUAL.ring.centred(fresh - (plain << USUAL.scale_bits).view(np.uint64)))
    assert np.median(far) > 2 ** (USUAL.modulus_bits - 4)


def test_noise_and_keys_are_fresh() -> None:
    entropy = SeededEntropy(b"fresh")
    keys = [draw_key(entropy, degree=4096) for _ in range(2)]
    assert not np.array_equal(*keys)
    assert max(int(key.max()) for key in keys) <= KEY_SUMMAND_MAX
    zeros = np.zeros(5000, dtype=np.int64)
    assert not np.array_equal(*(masked(USUAL, zeros, key=keys[0], entropy=entropy) for _ in range(2)))


def test_entropy_is_drawn_when_the_first_block_is_asked_for() -> None:
    sizes: list[int] = []

    def counting(size: int) -> bytes:
        sizes.append(size)
        return bytes(size)

    key = draw_key(counting, degree=1024)
    assert sizes == [32]
    vector = np.zeros(10, dtype=np.int64)
    blocks = mask_blocks(SMALL, seed=SEED, key=key, blocks=groups(SMALL, vector), count=10, entropy=counting)
    assert sizes == [32]
    next(blocks)
    assert sizes == [32, 32]


def test_masked_vectors_look_uniform() -> None:
    zeros = np.zeros(USUAL.digits * 64 * USUAL.degree, dtype=np.int64)
    key = draw_key(SeededEntropy(b"uniform"), degree=USUAL.degree)
    sent = masked(USUAL, zeros, key=key, entropy=SeededEntropy(b"noise"))
    for shift in range(0, USUAL.modulus_bits, 8):
        cells = np.bincount((sent >> np.uint64(shift) & np.uint64(255)).astype(np.int64), minlength=256)
        expected = len(sent) / 256
        assert abs(float(((cells - expected) ** 2).sum() / expected) - 255) < 5 * 510**0.5


# Refusals


def arguments(**changes: Any) -> dict[str, Any]:
    vector = np.zeros(10, dtype=np.int64)
    return {
        "seed": SEED,
        "key": draw_key(SeededEntropy(b"key"), degree=SMALL.degree),
        "blocks": groups(SMALL, vector),
        "count": 10,
        "entropy": system_entropy,
    } | changes


WRONG_SEEDS = [b"", bytes(31), bytes(33), bytearray(32), "0" * 32, None, Secret(bytes(32))]
WRONG_KEYS = [
    None,
    [CENTRE] * 1024,
    np.full(1024, CENTRE, dtype=np.int64),
    np.full(1024, CENTRE, dtype=np.uint8),
    np.full(1023, CENTRE, dtype=np.uint64),
    np.full(4096, CENTRE, dtype=np.uint64),
    np.full((1, 1024), CENTRE, dtype=np.uint64),
]


@pytest.mark.parametrize("seed", WRONG_SEEDS)
def test_a_wrong_seed(seed: object) -> None:
    with pytest.raises(ParameterError, match="public seed is 32 bytes"):
        mask_blocks(SMALL, **arguments(seed=seed))
    with pytest.raises(ParameterError, match="public seed is 32 bytes"):
        Cohort(SMALL, [np.zeros(10, dtype=np.int64)]).opened(seed=seed)


@pytest.mark.parametrize("key", WRONG_KEYS)
def test_a_wrong_key(key: object) -> None:
    with pytest.raises(ParameterError, match="array of 1024 counts"):
        mask_blocks(SMALL, **arguments(key=key))
    with pytest.raises(ParameterError, match="array of 1024 counts"):
        Cohort(SMALL, [np.zeros(10, dtype=np.int64)]).opened(key=key)


def test_a_clients_own_key_out_of_range_is_its_own_mistake() -> None:
    for key in (np.full(1024, COINS + 1, dtype=np.uint64), np.full(1024, COINS, dtype=np.uint64)):
        with pytest.raises(ParameterError, match="is not the sum of keys of 1 summands"):
            mask_blocks(SMALL, **arguments(key=key))


@pytest.mark.parametrize("parameters", [None, 4096, {"degree": 4096}, Ring(bits=48)])
def test_wrong_parameters(parameters: Any) -> None:
    with pytest.raises(ParameterError, match="choose_parameters"):
        mask_blocks(parameters, **arguments())
    with pytest.raises(ParameterError, match="choose_parameters"):
        OpenedVector(
            parameters,
            seed=SEED,
            key=np.zeros(1024, dtype=np.uint64),
            summands=1,
            total=np.zeros(10, dtype=np.uint64),
            count=3,
            ring=Ring(bits=20),
        )


@pytest.mark.parametrize("degree", [0, 512, 3000, 4096.0, "4096", None, True])
def test_a_key_of_a_wrong_degree(degree: int) -> None:
    with pytest.raises(ParameterError, match="choose one of"):
        draw_key(system_entropy, degree=degree)


def test_a_broken_entropy_source() -> None:
    with pytest.raises(ParameterError, match="asked for 32 bytes"):
        draw_key(lambda size: bytes(size - 1), degree=1024)
    with pytest.raises(ParameterError, match="asked for 32 bytes"):
        next(mask_blocks(SMALL, **arguments(entropy=lambda size: bytes(size - 1))))


GROUP = SMALL.digits * SMALL.degree


@pytest.mark.parametrize(
    "blocks",
    [
        [],
        [np.zeros(GROUP, dtype=np.uint32)],
        [np.zeros(GROUP - 1, dtype=np.uint32), np.zeros(11, dtype=np.uint32)],
        [np.zeros(GROUP, dtype=np.uint32), np.zeros(9, dtype=np.uint32)],
        [np.zeros(GROUP + 10, dtype=np.uint32)],
        [np.zeros(GROUP, dtype=np.int32), np.zeros(10, dtype=np.uint32)],
        [np.zeros(GROUP, dtype=np.float64), np.zeros(10, dtype=np.uint32)],
        [np.zeros((GROUP, 1), dtype=np.uint32), np.zeros(10, dtype=np.uint32)],
        [np.zeros(2 * GROUP, dtype=np.uint32)[::2], np.zeros(10, dtype=np.uint32)],
        [[0] * GROUP, np.zeros(10, dtype=np.uint32)],
    ],
)
def test_wrong_blocks(blocks: list[Any]) -> None:
    with pytest.raises(ParameterError, match="values comes next"):
        list(mask_blocks(SMALL, **arguments(blocks=blocks, count=GROUP + 10)))


def test_more_blocks_than_values() -> None:
    blocks = [np.zeros(10, dtype=np.uint32), np.zeros(1, dtype=np.uint32)]
    with pytest.raises(ParameterError, match="more blocks than count says"):
        list(mask_blocks(SMALL, **arguments(blocks=blocks)))


@pytest.mark.parametrize("count", [-1, 1.0, True, None, 2**40])
def test_mask_and_open_refuse_a_wrong_count(count: Any) -> None:
    with pytest.raises(ParameterError):
        mask_blocks(SMALL, **arguments(count=count))
    with pytest.raises(ParameterError):
        Cohort(SMALL, [np.zeros(10, dtype=np.int64)]).opened(count=count)


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"summands": 0}, "allow 1 to 3"),
        ({"summands": 4}, "allow 1 to 3"),
        ({"summands": True}, "allow 1 to 3"),
        ({"summands": 2.0}, "allow 1 to 3"),
        ({"total": None}, "contiguous array of"),
        ({"total": np.zeros(3, dtype=np.uint32)}, "contiguous array of"),
        ({"total": np.zeros(SMALL.coefficients(10), dtype=np.int32)}, "contiguous array of"),
        ({"total": np.zeros(SMALL.coefficients(10), dtype=np.uint64)}, "contiguous array of"),
        ({"total": np.zeros(2 * SMALL.coefficients(10), dtype=np.uint32)[::2]}, "contiguous array of"),
        ({"count": 500}, "contiguous array of"),
        ({"ring": Ring(bits=9)}, "narrower than a digit"),
        ({"ring": None}, "narrower than a digit"),
    ],
)
def test_what_an_opened_vector_refuses(changes: dict[str, Any], match: str) -> None:
    cohort = Cohort(SMALL, drawn(SMALL, 2, 10))
    with pytest.raises(ParameterError, match=match):
        cohort.opened(**changes)


def test_a_slice_with_a_step() -> None:
    opened = Cohort(SMALL, drawn(SMALL, 2, 10)).opened()
    for part in (slice(None, None, 2), slice(None, None, -1)):
        with pytest.raises(ParameterError, match="one after the other"):
            opened[part]


def test_a_hook_that_refuses_sees_its_block_again() -> None:
    calls: list[int] = []

    def refusing(block: Vector, start: int) -> None:
        calls.append(start)
        raise VerificationError("no")

    opened = Cohort(SMALL, drawn(SMALL, 2, 10)).opened(packed=refusing)
    for _ in range(2):
        with pytest.raises(VerificationError, match="no"):
            opened[:]
    assert calls == [0, 0]


def test_texts_and_reprs_hold_no_values() -> None:
    cohort = Cohort(SMALL, [np.full(10, 77, dtype=np.int64)] * 2)
    texts = [repr(cohort.opened())]
    wrong = changed(cohort.keys[0] + cohort.keys[1], (0, 1))
    with pytest.raises(VerificationError) as refusal:
        cohort.opened(key=wrong)[:]
    texts.append(str(refusal.value))
    assert not any(digits in "".join(texts) for digits in ("154", "77", str(int(wrong[0]))))
