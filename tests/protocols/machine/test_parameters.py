"""What a constructor takes for a number, when protocols are equal, and in whose words they refuse."""

import copy
import pickle
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest

from protocols import (
    CkksSum,
    LatticeSum,
    MaskedSum,
    PaillierSum,
    ParameterError,
    PlainSum,
    Policy,
    Requirements,
    Round,
    Segment,
    Session,
    advise,
    simulate,
)
from secagg.entropy import SeededEntropy
from secagg.paillier import scheme as paillier
from tests.protocols.conftest import TWO, World

SMALL_KEYS = partial(PaillierSum, key_bits=2048)
CLASSES = [PlainSum, MaskedSum, LatticeSum, CkksSum, SMALL_KEYS, partial(LatticeSum, keys=SMALL_KEYS)]
NUMBERS: dict[str, Any] = {
    "clip": 0.5,
    "bits": 8,
    "max_clients": 5,
    "max_weight": 300,
    "max_total_weight": 900,
    "metrics": {"loss": (0, 2)},
}
NUMPYS: dict[str, Any] = {
    "clip": np.float32(0.5),
    "bits": np.int8(8),
    "max_clients": np.int64(5),
    "max_weight": np.uint16(300),
    "max_total_weight": np.int32(900),
    "metrics": {"loss": (np.int64(0), np.float64(2))},
}
every = pytest.mark.parametrize(
    "build", CLASSES, ids=["plain", "masked", "lattice", "ckks", "paillier", "nested"]
)


def requirements(number: Callable[[Any], Any], real: Callable[[Any], Any]) -> Requirements:
    return Requirements(
        corrupt_fraction=real(0.2),
        dropout_fraction=real(0.3),
        min_contributors=number(3),
        security_bits=number(41),
        liveness_bits=number(21),
        grinding_bits=number(11),
    )


@every
def test_numpys_scalars_are_numbers(build: Callable[..., Any]) -> None:
    ours = build(**NUMBERS, requirements=requirements(int, float))
    for integer, real in ((np.int64, np.float64), (np.int16, np.float32), (np.uint8, np.float64)):
        theirs = build(**NUMPYS, requirements=requirements(integer, real))
        assert theirs == ours
        assert hash(theirs) == hash(ours)
        assert repr(theirs) == repr(ours)
        assert theirs.suite.digest == ours.suite.digest
        assert theirs.plan(integer(5)) == ours.plan(5) == ours.plan(5, roster=5)
        assert theirs.plan(integer(5), roster=integer(8)) == ours.plan(5, roster=8)
        assert theirs.error_bound(integer(5)) == ours.error_bound(5)
        heavy = integer(100)
        assert theirs.error_bound(5, total_weight=heavy) == ours.error_bound(5, total_weight=100)
        assert theirs.exact(max_summand=integer(9)) == ours.exact(max_summand=9)
        assert theirs.exact(max_abs=integer(9)).suite.digest == ours.exact(max_abs=9).suite.digest


@pytest.mark.parametrize("field", ["bits", "max_clients", "max_weight", "max_total_weight", "clip"])
@pytest.mark.parametrize("value", [True, np.True_, np.float64(4.5), "4", np.array([4])], ids=repr)
def test_other_things_are_none(field: str, value: Any) -> None:
    if field == "clip" and value == 4.5:
        return
    with pytest.raises(ParameterError):
        MaskedSum(**{field: value})


def test_the_key_bits_of_paillier_may_be_numpys() -> None:
    assert PaillierSum(key_bits=np.int64(2048)) == PaillierSum(key_bits=2048)  # type: ignore[arg-type]


def test_rounds_policies_and_seeds_take_numpys_numbers() -> None:
    number = np.int64(3)
    assert Round(number, ("a",), number) == Round(3, ("a",), 3)  # type: ignore[arg-type]
    assert Policy(min_contributors=number, max_length=number) == Policy(  # type: ignore[arg-type]
        min_contributors=3, max_length=3
    )
    updates = {name: np.full(2, 0.5) for name in "abc"}
    weights = {name: np.int64(place) for place, name in enumerate("abc", 1)}
    protocol = MaskedSum(max_clients=3, max_weight=3, requirements=TWO)
    drop = {"c": np.int64(3)}
    one = simulate(protocol, updates, weights=weights, drop=drop, seed=np.uint32(7))  # type: ignore[arg-type]
    assert one.total_weight == 6
    assert one.mean.tolist() == simulate(protocol, updates, weights=weights, seed=7).mean.tolist()
    world = World(protocol)
    assert world.learn(world.play(updates, weights=weights)).total_weight == 6  # type: ignore[arg-type]
    session = Session(MaskedSum(max_clients=3, metrics={"loss": (0, 2)}), "abc", seed=np.int8(1))  # type: ignore[arg-type]
    metrics = {name: {"loss": np.float32(0.5)} for name in "abc"}
    assert session.round(updates, metrics=metrics).sum.metrics["loss"] == pytest.approx(0.5, abs=1e-4)


def test_advice_takes_numpys_numbers() -> None:
    ours = advise(10, 1000, bits=8, max_weight=3, dropout_fraction=0.1, corrupt_fraction=0.2, megabits=10)
    theirs = advise(
        np.int64(10),  # type: ignore[arg-type]
        np.uint32(1000),  # type: ignore[arg-type]
        bits=np.int8(8),  # type: ignore[arg-type]
        max_weight=np.int64(3),  # type: ignore[arg-type]
        dropout_fraction=np.float32(0.1),  # type: ignore[arg-type]
        corrupt_fraction=np.float64(0.2),
        megabits=np.float64(10),
    )
    assert str(theirs) == str(ours)


# Equal protocols


@every
def test_protocols_are_equal_to_their_copies_and_hash(build: Callable[..., Any]) -> None:
    protocol = build(**NUMBERS)
    others = [build(**{**NUMBERS, "bits": 9}), build(max_clients=5), PlainSum(clip=0.7)]
    for each in (protocol, protocol.exact(max_summand=9), protocol.exact(max_abs=9)):
        for carried in (pickle.loads(pickle.dumps(each)), copy.copy(each), copy.deepcopy(each)):
            assert carried == each
            assert hash(carried) == hash(each)
            assert carried.suite.digest == each.suite.digest
            assert {carried: 1}[each] == 1
        assert all(each != other for other in others)


def test_a_lattice_is_told_apart_by_what_sums_its_keys() -> None:
    over = [
        LatticeSum(),
        LatticeSum(keys=PaillierSum),
        LatticeSum(keys=SMALL_KEYS),
        LatticeSum(keys=PlainSum),
    ]
    assert len(set(over)) == 4
    assert LatticeSum(keys=partial(PaillierSum)) == LatticeSum(keys=PaillierSum)
    assert LatticeSum() != MaskedSum()


def test_a_frozen_protocol_does_not_change_with_the_callers_mapping() -> None:
    metrics = {"loss": (0.0, 1.0)}
    protocol = MaskedSum(metrics=metrics)
    digest = protocol.suite.digest
    metrics["loss"] = (0.0, 9.0)
    metrics["more"] = (0.0, 1.0)
    assert protocol.metrics == {"loss": (0.0, 1.0)}
    assert protocol.suite.digest == digest


@pytest.mark.parametrize(
    "value", [Requirements(), Segment(length=2, clip=1.0), Policy(), MaskedSum().plan(5)]
)
def test_what_else_is_frozen_hashes(value: object) -> None:
    assert hash(value) == hash(copy.copy(value))


# In whose words

INNER = ("bound", "max_summands", "coefficient", "a ring of", "a field of", "slots", "vectors are in")


@every
def test_what_does_not_fit_is_said_in_the_callers_words(build: Callable[..., Any]) -> None:
    said = set()
    for numbers in (
        {"bits": 32, "max_weight": 1 << 48, "max_clients": 1000},
        {"bits": 32, "max_weight": 1 << 20, "max_clients": 10_000},
        {"bits": 2, "max_weight": 1 << 48, "max_clients": 1 << 20},
        {"bits": 2, "max_weight": 1 << 48, "max_clients": 1 << 20, "max_total_weight": 1},
        {"bits": 16, "max_weight": 1 << 40, "max_clients": 100},
    ):
        try:
            build(**numbers)
        except ParameterError as error:
            said.add(str(error))
    assert said
    assert all("max_clients" in text and "lower" in text for text in said)
    protocol = build(max_clients=5)
    for n in (0, 1 << 21, 10**9):
        with pytest.raises(ParameterError, match=r"n is an integer in \[1, 1048576\]") as caught:
            protocol.plan(n)
        said.add(str(caught.value))
    for roster in (4, 5.5, True, "6", 1 << 21):
        with pytest.raises(ParameterError, match=r"roster is an integer in \[5, 1048576\]"):
            protocol.plan(5, roster=roster)
    for length in (1 << 38, 1 << 60):
        with pytest.raises(ParameterError, match=f"a round of {length} values; .* carries up to") as caught:
            World(protocol).server.start(Round(0, ("a", "b", "c"), length))
        said.add(str(caught.value))
    assert [text for text in said for word in INNER if word in text] == []


@every
def test_a_round_of_the_longest_vector_that_is_named_fits(build: Callable[..., Any]) -> None:
    protocol = build(max_clients=5)
    with pytest.raises(ParameterError) as caught:
        World(protocol).server.start(Round(0, ("a", "b", "c"), 1 << 60))
    longest = int(str(caught.value).split("carries up to ")[1].split()[0])
    suite = protocol.suite
    for length, fits in ((longest, True), (longest + 1, False)):
        elements = suite.surface.elements(length)
        try:
            size = suite.server.body_bytes(elements, packed=suite.surface.ring.packed_size(elements))
        except ParameterError:
            size = 1 << 32
        assert (size < 1 << 32) is fits


def test_a_plaintext_is_refused_by_where_it_stands_and_why() -> None:
    key = paillier.generate_key(key_bits=2048, entropy=SeededEntropy(b"test_parameters")).public_key
    with pytest.raises(ParameterError, match=r"^the plaintext is negative; .* encrypt value % n"):
        key.encrypt_int(-1)
    with pytest.raises(ParameterError, match=r"^the plaintext at index 1 is n or more"):
        key.encrypt_ints([1, key.n])
    with pytest.raises(ParameterError, match=r"^the plaintext is a float"):
        key.encrypt_int(1.0)  # type: ignore[arg-type]
