"""Shamir's scheme: a slow twin, any t shares, t - 1 shares, indices, and every wrong argument."""

import copy
import pickle
from dataclasses import FrozenInstanceError
from fractions import Fraction
from itertools import combinations, product
from math import prod
from operator import mul

import gmpy2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from secagg import shamir
from secagg.entropy import Entropy, SeededEntropy, uniform_below
from secagg.errors import DecodeError, ParameterError, VerificationError
from secagg.secret import Secret
from secagg.shamir import PRIME, SHARE_BYTES, Share, combine, combine_encoded, lagrange_at_zero, split

SECRET = Secret(bytes(range(1, 33)))


def share(index: int, value: int) -> Share:
    return Share(index=index, value=Secret(value.to_bytes(SHARE_BYTES, "big")))


def number(secret: Secret) -> int:
    return int.from_bytes(secret.reveal(), "big")


def replay(*draws: bytes) -> Entropy:
    """A source that answers with these draws and no more."""
    stream = iter(draws)
    return lambda size: next(stream)


def interpolate(points: dict[int, int], at: int) -> int:
    """Lagrange's formula over the rationals, one term at a time; only the sum is taken modulo the prime."""
    total = sum(
        y * prod((Fraction(at - other, x - other) for other in points if other != x), start=Fraction(1))
        for x, y in points.items()
    )
    fraction = Fraction(total)
    return fraction.numerator * pow(fraction.denominator, -1, PRIME) % PRIME


cohorts = st.lists(st.integers(1, 2**16 - 1), min_size=1, max_size=12, unique=True)
secrets = st.binary(min_size=32, max_size=32).map(Secret)


def test_the_field() -> None:
    assert gmpy2.next_prime(2**256) == PRIME
    assert (PRIME - 1).bit_length() <= 8 * SHARE_BYTES


def test_known_answer() -> None:
    """f(x) = secret + 2x + 3x², computed by hand for small x."""
    entropy = replay((3 << 7).to_bytes(33, "big"), (2 << 7).to_bytes(33, "big"))
    shares = split(Secret((1000).to_bytes(32, "big")), threshold=3, indices=[1, 2, 10], entropy=entropy)
    assert [number(s.value) for s in shares] == [1005, 1016, 1320]
    assert [s.index for s in shares] == [1, 2, 10]


def test_known_answer_that_wraps_around_the_prime() -> None:
    """f(x) = secret + (p - 1)·x = secret - x."""
    shares = split(
        Secret((5).to_bytes(32, "big")),
        threshold=2,
        indices=[1, 6],
        entropy=lambda _: ((PRIME - 1) << 7).to_bytes(33, "big"),
    )
    assert [number(s.value) for s in shares] == [4, PRIME - 1]
    assert combine(shares, threshold=2) == Secret((5).to_bytes(32, "big"))


def test_known_lagrange_weights() -> None:
    """Over the integers f(0) = 3·f(1) - 3·f(2) + f(3) for every f of degree two."""
    assert lagrange_at_zero((1, 2, 3)) == (3, PRIME - 3, 1)
    assert lagrange_at_zero((3, 1, 2)) == (1, 3, PRIME - 3)
    assert lagrange_at_zero((7,)) == (1,)


@given(indices=cohorts)
def test_lagrange_weights_against_the_rational_formula(indices: list[int]) -> None:
    expected = []
    for x in indices:
        weight = prod((Fraction(y, y - x) for y in indices if y != x), start=Fraction(1))
        expected.append(weight.numerator * pow(weight.denominator, -1, PRIME) % PRIME)
    assert lagrange_at_zero(tuple(indices)) == tuple(expected)


@given(indices=st.one_of(cohorts, st.lists(st.integers(1, 90), min_size=1, max_size=60, unique=True)))
def test_weights_by_gaps_are_those_of_any_indices(indices: list[int]) -> None:
    """Two formulas, one for dense indices; which one answers is decided by the indices alone."""
    ours = shamir._lagrange_at_zero.__wrapped__(tuple(indices))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shamir, "_DENSE_INDEX", 0)
        assert shamir._lagrange_at_zero.__wrapped__(tuple(indices)) == ours


@pytest.mark.parametrize("highest", [16, 17])
def test_weights_where_one_formula_takes_over_from_the_other(highest: int) -> None:
    """With eight indices up to 16 half of the numbers are gaps; with 17, more."""
    indices = (*range(2, 9), highest)
    for x, weight in zip(indices, lagrange_at_zero(indices), strict=True):
        expected = prod((Fraction(y, y - x) for y in indices if y != x), start=Fraction(1))
        assert weight * expected.denominator % PRIME == expected.numerator % PRIME


def test_weights_of_the_highest_dense_index() -> None:
    """The longest factors and binomials that the dense formula meets."""
    indices = tuple(range(shamir._DENSE_INDEX // 2 + 1, shamir._DENSE_INDEX + 1))
    weights = shamir._dense_weights(indices, shamir._DENSE_INDEX)
    points = (lambda x: 1, lambda x: x, lambda x: x * x)
    for value, expected in zip(points, (1, 0, 0), strict=True):  # f(0) of three polynomials
        assert sum(map(mul, weights, map(value, indices))) % PRIME == expected


@given(secret=secrets, indices=cohorts.map(sorted), seed=st.binary(max_size=8), data=st.data())
def test_encodings_combine_as_shares_do(
    secret: Secret, indices: list[int], seed: bytes, data: st.DataObject
) -> None:
    threshold = data.draw(st.integers(1, len(indices)))
    shares = split(secret, threshold=threshold, indices=indices, entropy=SeededEntropy(seed))
    encodings = [each.encode() for each in shares]
    assert combine_encoded(indices, encodings, threshold=threshold) == secret


@pytest.mark.parametrize("indices", [(2, 1, 3), (1, 3, 2), (1, 2), (1, 2, 3, 4), (1, 2, 2), (0, 1, 2)])
def test_encodings_want_indices_that_ascend(indices: tuple[int, ...]) -> None:
    with pytest.raises(ParameterError):
        combine_encoded(indices, [bytes(SHARE_BYTES)] * 3, threshold=2)


@pytest.mark.parametrize("position", [0, 1])
@pytest.mark.parametrize("wrong", [b"", bytes(32), bytes(34), PRIME.to_bytes(33, "big"), b"\xff" * 33])
def test_encodings_that_no_share_has(position: int, wrong: bytes) -> None:
    encodings = [bytes(SHARE_BYTES)] * 3
    encodings[position] = wrong
    with pytest.raises(DecodeError, match="33 bytes"):
        combine_encoded((1, 2, 3), encodings, threshold=2)


@given(secret=secrets, indices=cohorts, data=st.data())
def test_any_threshold_shares_give_the_secret(
    secret: Secret, indices: list[int], data: st.DataObject
) -> None:
    threshold = data.draw(st.integers(1, len(indices)))
    seed = data.draw(st.binary(max_size=8))
    shares = split(secret, threshold=threshold, indices=indices, entropy=SeededEntropy(seed))
    assert [s.index for s in shares] == indices
    chosen = data.draw(st.permutations(shares))[: data.draw(st.integers(threshold, len(shares)))]
    assert combine(chosen, threshold=threshold) == secret
    points = {s.index: number(s.value) for s in chosen}
    assert interpolate(points, 0) == number(secret)


@given(secret=secrets, threshold=st.integers(1, 8), seed=st.binary(max_size=8))
def test_split_evaluates_the_polynomial_that_the_entropy_gave(
    secret: Secret, threshold: int, seed: bytes
) -> None:
    entropy = SeededEntropy(seed)
    highest_first = [uniform_below(entropy, PRIME) for _ in range(threshold - 1)] + [number(secret)]
    for part in split(secret, threshold=threshold, indices=range(1, 10), entropy=SeededEntropy(seed)):
        expected = sum(c * part.index**power for power, c in enumerate(reversed(highest_first)))
        assert number(part.value) == expected % PRIME


def test_every_pattern_of_a_small_cohort() -> None:
    indices = (1, 2, 3, 500, 2**16 - 1)
    for threshold in range(1, 6):
        shares = split(SECRET, threshold=threshold, indices=indices)
        for size in range(threshold, 6):
            for chosen in combinations(shares, size):
                assert combine(chosen, threshold=threshold) == SECRET


@settings(max_examples=50)
@given(secret=secrets, candidate=secrets, threshold=st.integers(2, 6), seed=st.binary(max_size=8))
def test_one_share_too_few_fits_every_secret(
    secret: Secret, candidate: Secret, threshold: int, seed: bytes
) -> None:
    """Any candidate completes t - 1 shares to t points of one polynomial, so they exclude no secret."""
    known = split(secret, threshold=threshold, indices=range(1, 8), entropy=SeededEntropy(seed))[
        : threshold - 1
    ]
    points = {0: number(candidate)} | {s.index: number(s.value) for s in known}
    completed = share(threshold, interpolate(points, threshold))
    assert combine([*known, completed], threshold=threshold) == candidate


def test_one_share_too_few_is_uniform_in_a_small_field(monkeypatch: pytest.MonkeyPatch) -> None:
    """All polynomials over 11 elements: two of three shares take every value once, whatever the secret."""
    monkeypatch.setattr(shamir, "PRIME", 11)
    for value in range(11):
        seen = set()
        for highest, lowest in product(range(11), repeat=2):
            shares = split(
                Secret(value.to_bytes(32, "big")),
                threshold=3,
                indices=[1, 2, 3],
                entropy=replay(bytes([highest << 4]), bytes([lowest << 4])),
            )
            seen.add((number(shares[0].value), number(shares[1].value)))
        assert len(seen) == 121


def test_fewer_shares_at_a_lower_threshold_give_another_secret() -> None:
    shares = split(SECRET, threshold=3, indices=[1, 2, 3], entropy=SeededEntropy(b"degree"))
    for chosen in combinations(shares, 2):
        assert combine(chosen, threshold=2) != SECRET


def test_zero_coefficients_are_not_drawn_again() -> None:
    """Uniform means that zero is as likely as the rest: refusing it would tell t - 1 shares something."""
    assert all(
        number(s.value) == number(SECRET)
        for s in split(SECRET, threshold=3, indices=[1, 2, 3], entropy=bytes)
    )


def test_coefficients_are_rejected_above_the_prime_and_never_reduced() -> None:
    asked = []

    def entropy(size: int) -> bytes:
        asked.append(size)
        return b"\xff" * size if len(asked) == 1 else bytes(size)

    split(SECRET, threshold=2, indices=[1, 2], entropy=entropy)
    assert asked == [33, 33]
    with pytest.raises(ParameterError, match="broken"):
        split(SECRET, threshold=2, indices=[1, 2], entropy=lambda size: b"\xff" * size)
    with pytest.raises(ParameterError, match="asked for 33 bytes"):
        split(SECRET, threshold=2, indices=[1, 2], entropy=lambda size: bytes(size - 1))


def test_two_splits_of_one_secret_differ() -> None:
    first, second = (split(SECRET, threshold=2, indices=[1, 2]) for _ in range(2))
    assert first != second


def test_a_wrong_share_gives_another_secret() -> None:
    shares = split(SECRET, threshold=3, indices=range(1, 6), entropy=SeededEntropy(b"liar"))
    wrong = share(2, (number(shares[1].value) + 1) % PRIME)
    assert combine([shares[0], wrong, *shares[2:]], threshold=3) != SECRET
    assert combine([shares[0], *shares[2:]], threshold=3) == SECRET


@pytest.mark.parametrize("value", [2**256, 2**256 + 1, PRIME - 1])
def test_a_result_outside_32_bytes_is_refused(value: int) -> None:
    with pytest.raises(VerificationError, match="no 32-byte secret"):
        combine([share(5, value)], threshold=1)
    assert combine([share(5, 2**256 - 1)], threshold=1) == Secret(b"\xff" * 32)


@given(value=st.integers(0, PRIME - 1) | st.just(PRIME - 1), index=st.integers(1, 2**16 - 1))
def test_share_round_trip(value: int, index: int) -> None:
    original = share(index, value)
    assert len(original.encode()) == SHARE_BYTES
    for data in (original.encode(), bytearray(original.encode()), memoryview(original.encode())):
        assert Share.decode(index, data) == original


@given(data=st.binary(max_size=70) | st.binary(min_size=33, max_size=33))
def test_hostile_bytes_are_a_share_or_a_decode_error(data: bytes) -> None:
    if len(data) == SHARE_BYTES and int.from_bytes(data, "big") < PRIME:
        assert Share.decode(1, data).encode() == data
    else:
        with pytest.raises(DecodeError):
            Share.decode(1, data)


@pytest.mark.parametrize("value", [PRIME, PRIME + 1, 2**257, 2**264 - 1])
def test_values_at_or_above_the_prime_are_refused(value: int) -> None:
    with pytest.raises(DecodeError, match="not below"):
        Share.decode(1, value.to_bytes(SHARE_BYTES, "big"))
    with pytest.raises(ParameterError, match="not below"):
        share(1, value)


@pytest.mark.parametrize("size", [0, 1, 32, 34, 66])
def test_shares_of_another_length_are_refused(size: int) -> None:
    with pytest.raises(DecodeError):
        Share.decode(1, bytes(size))
    with pytest.raises(ParameterError, match="33 bytes"):
        Share(index=1, value=Secret(bytes(size)))


@pytest.mark.parametrize("data", ["text", None, 7, [0] * 33])
def test_shares_of_another_type_are_refused(data: object) -> None:
    with pytest.raises(DecodeError, match="buffer"):
        Share.decode(1, data)  # type: ignore[arg-type]
    with pytest.raises(ParameterError, match="33 bytes"):
        Share(index=1, value=data)  # type: ignore[arg-type]


BAD_INDICES = [0, -1, 2**16, PRIME, PRIME + 1, True, 1.0, "1", None, np.int64(1)]


@pytest.mark.parametrize("index", BAD_INDICES)
def test_b4_zero_and_congruent_indices_are_refused(index: object) -> None:
    """PRIME is congruent to 0, where the secret itself would be the share, and PRIME + 1 to 1."""
    with pytest.raises(ParameterError, match="index"):
        split(SECRET, threshold=1, indices=[2, index])  # type: ignore[list-item]
    with pytest.raises(ParameterError, match="index"):
        Share(index=index, value=Secret(bytes(SHARE_BYTES)))  # type: ignore[arg-type]
    with pytest.raises(ParameterError, match="index"):
        Share.decode(index, bytes(SHARE_BYTES))  # type: ignore[arg-type]
    with pytest.raises(ParameterError, match="index"):
        lagrange_at_zero((2, index))  # type: ignore[arg-type]


def test_b4_repeated_indices_are_refused() -> None:
    with pytest.raises(ParameterError, match="repeated"):
        split(SECRET, threshold=1, indices=[1, 2, 1])
    with pytest.raises(ParameterError, match="repeated"):
        lagrange_at_zero((4, 4))
    shares = split(SECRET, threshold=2, indices=[1, 2, 3])
    for tail in ([shares[0]], [share(1, 7)], [share(1, 7), shares[1]]):
        with pytest.raises(ParameterError, match="repeated"):
            combine([shares[0], *tail], threshold=2)
    with pytest.raises(ParameterError, match="repeated"):
        combine([*shares, share(3, 7)], threshold=2)


@pytest.mark.parametrize("threshold", [0, -1, 4, True, 2.0, "2", None])
def test_wrong_threshold(threshold: object) -> None:
    with pytest.raises(ParameterError, match="threshold is"):
        split(SECRET, threshold=threshold, indices=[1, 2, 3])  # type: ignore[arg-type]
    with pytest.raises(ParameterError, match="threshold is"):
        combine([share(i, i) for i in (1, 2, 3)], threshold=threshold)  # type: ignore[arg-type]


def test_too_few_shares() -> None:
    shares = split(SECRET, threshold=3, indices=[1, 2, 3])
    for size in range(3):
        with pytest.raises(ParameterError, match="threshold is 3"):
            combine(shares[:size], threshold=3)


def test_no_indices() -> None:
    with pytest.raises(ParameterError, match="threshold is 1"):
        split(SECRET, threshold=1, indices=[])
    with pytest.raises(ParameterError, match="no indices"):
        lagrange_at_zero(())


@pytest.mark.parametrize(
    "secret", [bytes(32), "s" * 32, None, Secret(b""), Secret(bytes(31)), Secret(bytes(33))]
)
def test_wrong_secret(secret: object) -> None:
    with pytest.raises(ParameterError, match="Secret of 32 bytes"):
        split(secret, threshold=1, indices=[1])  # type: ignore[arg-type]


@pytest.mark.parametrize("indices", [None, 3, {1, 2}, iter([1, 2]), np.arange(1, 4)])
def test_indices_that_are_no_sequence(indices: object) -> None:
    with pytest.raises(ParameterError, match="a sequence of ints"):
        split(SECRET, threshold=1, indices=indices)  # type: ignore[arg-type]
    with pytest.raises(ParameterError, match="a sequence of ints"):
        lagrange_at_zero(indices)  # type: ignore[arg-type]


@pytest.mark.parametrize("shares", [None, 3, [b"share"], [SECRET], {1: SECRET}, [share(1, 1), None]])
def test_shares_that_are_no_shares(shares: object) -> None:
    with pytest.raises(ParameterError, match="sequence of Shares"):
        combine(shares, threshold=1)  # type: ignore[arg-type]


def test_a_share_is_hard_to_spill() -> None:
    part = share(3, 0xC0FFEE)
    assert repr(part) == "Share(index=3, value=Secret(33 bytes))"
    for spill in (pickle.dumps, copy.deepcopy, hash):
        with pytest.raises(TypeError):
            spill(part)
    with pytest.raises(FrozenInstanceError):
        part.index = 4  # type: ignore[misc]
    assert not hasattr(part, "__dict__")
