"""Lattice masks: wrong keys, tampered sums, wrong arguments."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from secagg.entropy import SeededEntropy, system_entropy
from secagg.errors import ParameterError, VerificationError
from secagg.rlwe.binomial import CENTRE, COINS
from secagg.rlwe.negacyclic import KeyProduct
from secagg.rlwe.scheme import (
    KEY_SUMMAND_MAX,
    OpenedVector,
    Parameters,
    choose_parameters,
    draw_key,
    mask_blocks,
)
from secagg.secret import Secret
from secagg.vectors.ring import BLOCK_VALUES, Ring
from tests.secagg.rlwe.cohorts import (
    SEED,
    SMALL,
    USUAL,
    Cohort,
    Counts,
    Vector,
    drawn,
    groups,
    masked,
    ring_of,
    slow_packed,
)

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
        for use in (lambda v: v[:1], lambda v: v.check_all()):
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
