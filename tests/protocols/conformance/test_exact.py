"""The integer surfaces, and what a value costs on the wire."""

from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from protocols import (
    CkksSum,
    IntegerSum,
    Learner,
    MaskedSum,
    PaillierSum,
    ParameterError,
    PlainSum,
    Round,
    RoundAborted,
    simulate,
)
from tests.protocols.conftest import TWO, Family, Vector, World, is_refusal, updates_of

pytestmark = pytest.mark.usefixtures("one_paillier_key")

Build = Callable[..., Any]
QUICK = settings(
    max_examples=15,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


def numpy_sum(updates: dict[str, Vector]) -> Vector:
    total: Vector = np.stack(list(updates.values())).sum(axis=0, dtype=np.uint64)
    return total


def limit(family: Family, *, sign: int = 0) -> int:
    """The largest summand of six clients: 63 bits of sum, 55 beside noise, or what CKKS rounds exactly.

    A sign takes one of these bits.
    """
    bits = 55 if family.kind == "lattice" else 63
    return 2**40 if family.name == "ckks" else (2 ** (bits - sign) - 1) // 6


# exact()


@pytest.mark.parametrize("most", [1, 2, 3, 255, 2**16, 2**31 - 1, 2**32, 2**45 - 3, (2**63 - 1) // 6])
@pytest.mark.parametrize("length", [1, 67])
def test_sums_equal_numpys(family: Family, most: int, length: int) -> None:
    most = min(most, limit(family))
    protocol = family().exact(max_summand=most)
    generator = np.random.default_rng(length)
    for count in (3, 6):
        updates = {
            name: generator.integers(0, most, length, dtype=np.uint64, endpoint=True)
            for name in "abcdef"[:count]
        }
        learnt = simulate(protocol, updates).sum
        assert isinstance(learnt, IntegerSum)
        assert learnt.total.dtype == np.uint64
        assert np.array_equal(learnt.total, numpy_sum(updates))
        assert np.allclose(learnt.mean, numpy_sum(updates) / count, rtol=1e-15)
        assert (learnt.total_weight, learnt.contributors, learnt.metrics) == (count, frozenset(updates), {})


@pytest.mark.parametrize("most", [1, 2**15, 2**32 - 1, (2**63 - 1) // 6])
def test_extremes_of_the_integer_surface(family: Family, most: int) -> None:
    most = min(most, limit(family))
    protocol = family().exact(max_summand=most)
    updates = {
        name: np.array([0, most, most * (place % 2)], dtype=np.uint64) for place, name in enumerate("abcdef")
    }
    learnt = simulate(protocol, updates).sum
    assert learnt.total.tolist() == [0, 6 * most, 3 * most]  # type: ignore[attr-defined]


@QUICK
@given(st.data())
def test_any_integers(family: Family, data: st.DataObject) -> None:
    most = data.draw(st.integers(1, limit(family)))
    rows = data.draw(st.lists(st.lists(st.integers(0, most), min_size=3, max_size=3), min_size=3, max_size=4))
    updates = {name: np.array(row, dtype=np.uint64) for name, row in zip("abcd", rows, strict=False)}
    learnt = simulate(family().exact(max_summand=most), updates).sum
    assert learnt.total.tolist() == [sum(column) for column in zip(*rows, strict=True)]  # type: ignore[attr-defined]


def test_dropouts_on_the_integer_surface(family: Family) -> None:
    protocol = family(requirements=TWO).exact(max_summand=100)
    updates = {name: np.array([place, 100, 0], dtype=np.uint64) for place, name in enumerate("abcdef")}
    last = "Unmask" if family.masked else "Contribute"
    run = simulate(protocol, updates, drop={"f": 0, "e": last})
    contributors = "abcde" if family.masked else "abcd"
    assert run.contributors == frozenset(contributors)
    expected = [sum(range(len(contributors))), 100 * len(contributors), 0]
    assert run.sum.total.tolist() == expected  # type: ignore[attr-defined]


def test_a_surface_is_a_protocol_of_its_own(family: Family) -> None:
    base = family()
    protocol = base.exact(max_summand=9)
    assert protocol.learns is base.learns
    assert protocol.learns is (Learner.CLIENTS if family.opened_by_clients else Learner.SERVER)
    for first in (True, False):
        assert protocol.exchanges(first=first) == base.exchanges(first=first)
    assert protocol.error_bound(3) == protocol.error_bound(3, total_weight=5) == 0.0
    assert protocol.exact(max_summand=8) == base.exact(max_summand=8)
    assert protocol.plan(4).threshold == base.plan(4).threshold
    # A client of one does not talk to a server of the other.
    world, other = World(protocol), World(base)
    outbox = world.server.start(Round(0, ("a", "b", "c"), 2))
    answer = other.clients["a"].receive(outbox["a"])
    assert is_refusal(answer)
    assert "parameters" in (other.clients["a"].refusal or "")


@pytest.mark.parametrize("most", [0, -1, 1.0, True, (2**63 - 1) // 6 + 1, 2**63])
def test_bounds_that_cannot_be_held(family: Family, most: int) -> None:
    with pytest.raises(ParameterError, match="max_summand"):
        family().exact(max_summand=most)


@pytest.mark.parametrize(
    ("update", "said"),
    [
        (np.array([1.0, 2.0]), "uint64"),
        (np.array([1, 2]), "uint64"),
        (np.array([1, 10], dtype=np.uint64), "max_summand"),
        (np.array([2**64 - 1, 1], dtype=np.uint64), "max_summand"),
    ],
)
def test_summands_that_are_refused(family: Family, update: Vector, said: str) -> None:
    good = np.array([9, 9], dtype=np.uint64)
    with pytest.raises(ParameterError, match=said):
        simulate(family().exact(max_summand=9), {"a": good, "b": update, "c": good})


def test_the_integer_surface_has_no_weights_and_no_metrics(family: Family) -> None:
    updates = {name: np.array([1], dtype=np.uint64) for name in "abc"}
    protocol = family(max_weight=5).exact(max_summand=9)
    with pytest.raises(ParameterError, match="weight"):
        simulate(protocol, updates, weights={"a": 2})
    with pytest.raises(ParameterError, match="metrics"):
        simulate(protocol, updates, metrics={"a": {"loss": 1.0}})


# exact(max_abs=…)


@pytest.mark.parametrize("most", [1, 2**63])
def test_sums_of_either_sign_equal_numpys(family: Family, most: int) -> None:
    most = min(most, limit(family, sign=1))
    generator = np.random.default_rng(most % 97)
    updates = {name: generator.integers(-most, most, 67, endpoint=True) for name in "abc"}
    for update in updates.values():
        update[:3] = most, -most, 0
    learnt = simulate(family().exact(max_abs=most), updates).sum
    assert isinstance(learnt, IntegerSum)
    assert learnt.total.dtype == np.int64
    assert learnt.total[:3].tolist() == [3 * most, -3 * most, 0]
    assert np.array_equal(learnt.total, np.sum(list(updates.values()), axis=0))
    assert np.allclose(learnt.mean, learnt.total / 3, rtol=1e-15)
    assert (learnt.total_weight, learnt.contributors, learnt.metrics) == (3, frozenset("abc"), {})


@pytest.mark.parametrize("most", [0, -1, 1.0, True, (2**62 - 1) // 6 + 1, 2**63])
def test_bounds_of_either_sign_that_cannot_be_held(family: Family, most: int) -> None:
    with pytest.raises(ParameterError, match="max_abs"):
        family().exact(max_abs=most)


def test_an_integer_surface_has_one_bound(family: Family) -> None:
    base = family()
    for protocol in (base, base.exact(max_abs=5)):
        with pytest.raises(
            ParameterError, match=r"with no bound: give one, exact\(max_summand=…\) for uint64"
        ):
            protocol.exact()
        with pytest.raises(ParameterError, match=r"with max_summand and max_abs: give one"):
            protocol.exact(max_summand=5, max_abs=5)


@pytest.mark.parametrize(
    ("update", "said"),
    [
        (np.array([1.0, 2.0]), "a summand of float64; the integer surface with max_abs takes int64"),
        (np.array([1, 2], dtype=np.uint64), "uint64; the integer surface with max_abs takes int64"),
        (np.array([1, 2], dtype=np.int32), "int32; the integer surface with max_abs takes int64"),
        (np.array([1, 10]), "a value outside ±max_abs = 9; nothing was sent"),
        (np.array([-10, 1]), "a value outside ±max_abs = 9"),
        (np.array([-(2**63), 1]), "a value outside ±max_abs = 9"),
    ],
)
def test_summands_of_either_sign_that_are_refused(family: Family, update: Vector, said: str) -> None:
    good = np.array([9, -9])
    with pytest.raises(ParameterError, match=said):
        simulate(family().exact(max_abs=9), {"a": good, "b": update, "c": good})


# modular()

WRAPPING = {"plain": PlainSum, "masked": MaskedSum}
wrapping = pytest.mark.parametrize("build", WRAPPING.values(), ids=WRAPPING)
int64s = st.integers(-(2**63), 2**63 - 1)


def modulo(values: Iterable[int], bits: int) -> int:
    """Their sum, centred: slowly, in Python's integers."""
    half = 1 << (bits - 1)
    return (sum(values) + half) % (1 << bits) - half


@wrapping
@pytest.mark.parametrize("bits", [2, 3, 17, 21, 23, 32, 33, 62])
@settings(max_examples=4, deadline=None)
@given(rows=st.lists(st.lists(int64s, min_size=70, max_size=70), min_size=3, max_size=3))
def test_sums_modulo_equal_pythons(build: Build, bits: int, rows: list[list[int]]) -> None:
    edge = 1 << (bits - 1)
    # All wrap, none does, and a single step beyond the edge; then whatever comes.
    corners = [[edge, edge, -edge, edge - 1, 0], [edge, -edge, -edge, 0, 1], [edge, 0, -edge, 1, -edge]]
    updates = {
        name: np.array([*corner, *row], dtype=np.int64)
        for name, corner, row in zip("abc", corners, rows, strict=True)
    }
    learnt = simulate(build(max_clients=3).modular(bits=bits), updates).sum
    assert isinstance(learnt, IntegerSum)
    assert learnt.total.dtype == np.int64
    columns = zip(*(update.tolist() for update in updates.values()), strict=True)
    assert learnt.total.tolist() == [modulo(column, bits) for column in columns]
    assert np.array_equal(learnt.mean, learnt.total / 3)


@wrapping
@pytest.mark.parametrize("bits", [2, 3, 17, 23, 32, 33, 62])
def test_a_value_modulo_takes_its_bits_on_the_wire(build: Build, bits: int) -> None:
    protocol = build(max_clients=3).modular(bits=bits)
    assert protocol.plan(3).ring_bits == bits

    def sent(length: int) -> int:
        updates = {name: np.zeros(length, dtype=np.int64) for name in "abc"}
        return simulate(protocol, updates, seed=1).traffic["a"].sent

    assert sent(9 + 800) - sent(9) == 100 * bits


@wrapping
def test_dropouts_and_blocks_modulo(build: Build) -> None:
    length = 2**15 + 3
    updates = {name: np.arange(length) * (place - 2) for place, name in enumerate("abcde")}
    protocol = build(max_clients=5, requirements=TWO).modular(bits=9)
    learnt = simulate(protocol, updates, drop={"e": 0}).sum
    assert learnt.contributors == frozenset("abcd")
    expected = (-2 * np.arange(length) + 256) % 512 - 256
    assert np.array_equal(learnt.total, expected)  # type: ignore[attr-defined]


@wrapping
@pytest.mark.parametrize("bits", [1, 0, -3, 63, 64, 2.0, True, None, "8"])
def test_moduli_that_are_refused(build: Build, bits: Any) -> None:
    with pytest.raises(ParameterError, match=r"bits is an integer in \[2, 62\]"):
        build().modular(bits=bits)


@wrapping
@pytest.mark.parametrize("update", [np.array([1.0]), np.array([1], np.uint64), np.array([1], np.int32)])
def test_summands_that_are_refused_modulo(build: Build, update: Vector) -> None:
    with pytest.raises(ParameterError, match=r"with sums modulo 2\*\*bits takes int64"):
        simulate(build(max_clients=3).modular(bits=8), dict.fromkeys("abc", update))


def test_who_cannot_wrap_says_what_to_take(family: Family) -> None:
    protocol = family()
    if family.kind in WRAPPING:
        surface = protocol.modular(bits=np.int64(8))
        assert surface == protocol.exact(max_abs=3).modular(bits=8)
        assert hash(surface) == hash(protocol.modular(bits=8))
        assert surface.exact(max_abs=3) == protocol.exact(max_abs=3)
        assert surface.suite.public["modular_bits"] == "8"
        return
    for each in (protocol, protocol.exact(max_abs=3)):
        with pytest.raises(ParameterError, match=r"do not wrap around.*take exact\(max_abs=…\)"):
            each.modular(bits=8)


# Sizes


def contribution(world: World, length: int, *, collecting: int) -> bytes:
    """One client's upload in the exchange that collects; nobody opens anything."""
    sizes: list[bytes] = []

    def only_one(exchange: int, name: str, message: bytes) -> bytes | None:
        if exchange == collecting and name != "a":
            return None
        return message

    def keep(exchange: int, name: str, message: bytes) -> bytes:
        if exchange == collecting:
            sizes.append(message)
        return message

    with suppress(RoundAborted):
        world.play(updates_of("abc", length), request=only_one, reply=keep)
    assert len(sizes) == 1
    return sizes[0]


def test_masked_sum_takes_under_2_6_bytes_a_parameter() -> None:
    protocol = MaskedSum(bits=16, max_clients=10)
    run = simulate(protocol, updates_of("abc", 10**5))
    for name in "abc":
        assert run.traffic[name].sent <= 2.6 * 10**5


def test_ckks_sum_takes_under_31_bytes_a_parameter() -> None:
    message = contribution(World(CkksSum(bits=16, max_clients=10)), 10**5, collecting=2)
    assert len(message) <= 31 * 10**5


@pytest.mark.slow
def test_paillier_sum_takes_under_5_2_bytes_a_parameter() -> None:
    message = contribution(World(PaillierSum(bits=16, max_clients=10, key_bits=3072)), 10**5, collecting=2)
    assert len(message) <= 5.2 * 10**5


@pytest.mark.parametrize("bits", [2, 5, 8, 16, 17, 24, 32])
@pytest.mark.parametrize("protocol", [PlainSum, MaskedSum])
@pytest.mark.parametrize("clients", [3, 10, 1000])
def test_a_value_takes_exactly_the_bits_that_the_sum_needs(
    protocol: type[PlainSum] | type[MaskedSum], bits: int, clients: int
) -> None:
    made = protocol(bits=bits, max_clients=clients)
    # Sums go from -n·(2^(bits-1) - 1) to +n·(2^(bits-1) - 1), and the sum of weights must fit beside them.
    most = clients * (2 ** (bits - 1) - 1)
    needed = max((2 * most).bit_length(), clients.bit_length() + 1)
    assert made.plan(3).ring_bits == needed

    def size(length: int) -> int:
        return len(contribution(World(made), length, collecting=made.suite.collecting))

    # MaskedSum puts as many values as fit into a word of 64 bits, so that whole words are compared.
    step = 8 * (64 // needed)
    for length in (1, 8, 1001):
        first = size(length)
        assert size(length + step) - first == step * needed // 8
        # One element more, the weight; in MaskedSum 16 bytes of zeros that are masked, an unfinished word, a
        # hash and a signature.
        extra = first - ((length + 1) * needed + 7) // 8
        assert extra < (110 + 64 if protocol is MaskedSum else 60)


def test_max_total_weight_saves_bits() -> None:
    wide = MaskedSum(max_clients=10, max_weight=1000).plan(3).ring_bits
    narrow = MaskedSum(max_clients=10, max_weight=1000, max_total_weight=2000).plan(3).ring_bits
    assert narrow < wide


def test_a_rider_takes_as_little_as_its_result(consortium: Family) -> None:
    # One result rides on the next start to each member, once, and is gone when it has arrived.
    world = World(consortium())
    first = world.play(updates_of("abc", 5))
    second = world.play(updates_of("abc", 5))
    assert first.result is not None
    for sent in world.log:
        if sent.down:
            assert sent.body.count(first.result) == 1
            assert (second.result or b"") not in sent.body
    for name in "abc":
        assert first.result in world.clients[name].results
    third = world.play(updates_of("abc", 5))
    assert not any(first.result in sent.body for sent in world.log)
    assert third.result is not None
