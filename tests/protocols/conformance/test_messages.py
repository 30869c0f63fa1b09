"""Headers that lie, strangers, calls that cannot work: refused, and the round goes on."""

import copy
from dataclasses import replace

import numpy as np
import pytest

from protocols import NeedUpdate, ParameterError, PeerViolation, Round
from protocols.messages.envelope import ACKNOWLEDGEMENT, REFUSAL, RESULT, Envelope
from tests.protocols.conftest import (
    ONE_OF_SIX,
    STATE_KEY,
    TWO,
    Family,
    World,
    assert_right,
    is_refusal,
    updates_of,
)

pytestmark = pytest.mark.usefixtures("one_paillier_key")

Saved = tuple[bytes, dict[str, bytes]]


def also_says(message: bytes, **changes: object) -> bytes:
    """A message with another header field, its body kept."""
    return replace(Envelope.decode(message), **changes).encode()  # type: ignore[arg-type]


# Headers


@pytest.mark.parametrize(
    "change",
    [
        {"protocol": 99},
        {"session": bytes(16)},
        {"session": bytes(17)},
        {"round": 5},
        {"round": 2**64 - 1},
        {"stage": 200},
        {"stage": 0},
        {"stage": RESULT},
        {"sender": "b"},
        {"sender": "server"},
        {"sender": ""},
    ],
    ids=repr,
)
def test_wrong_headers_at_the_server(family: Family, change: dict[str, object]) -> None:
    exchanges = [family.collecting] if family.heavy else range(len(family().exchanges(first=True)))
    for exchange in exchanges:
        world = World(family(requirements=TWO), "abcd")
        updates = updates_of("abcd")
        sent_wrong: list[str] = []

        def change_one(now: int, name: str, message: bytes) -> bytes:
            if now == exchange and name == "a":  # noqa: B023
                sent_wrong.append(name)  # noqa: B023
                with pytest.raises(PeerViolation) as violation:
                    world.server.receive("a", also_says(message, **change))  # noqa: B023
                assert violation.value.culprit == "a"
            return message

        outcome = world.play(updates, reply=change_one)
        assert sent_wrong
        assert "a" in outcome.dropped
        assert_right(world.learn(outcome), world.protocol, updates, outcome.contributors)


@pytest.mark.parametrize(
    "change",
    [
        {"protocol": 99},
        {"session": bytes(16)},
        {"round": 2**63},
        {"round": 2**64 - 1},
        {"stage": 1},
        {"stage": 100},
        {"stage": REFUSAL},
        {"stage": ACKNOWLEDGEMENT},
        {"sender": "a"},
        {"sender": ""},
    ],
    ids=repr,
)
def test_wrong_headers_at_the_client(family: Family, change: dict[str, object]) -> None:
    world = World(family())
    updates = updates_of("abc")

    def change_all(exchange: int, name: str, message: bytes) -> bytes:
        answer = world.clients[name].receive(also_says(message, **change))
        assert is_refusal(answer)
        assert world.clients[name].refusal
        world.clients[name].export(key=STATE_KEY)
        return message

    outcome = world.play(updates, request=change_all)
    assert outcome.dropped == {}
    assert_right(world.learn(outcome), world.protocol, updates, "abc")


def test_a_refusal_tells_the_server_why(family: Family) -> None:
    world = World(family(requirements=TWO), "abcd")
    updates = updates_of("abcd")
    outcome = world.play(
        updates, request=lambda e, name, message: message[:-1] if name == "b" and e == 0 else message
    )
    assert outcome.dropped["b"].startswith("refused")
    assert world.clients["b"].refusal is not None
    assert world.clients["b"].refusal in outcome.dropped["b"]
    assert_right(world.learn(outcome), world.protocol, updates, "acd")


def test_messages_of_strangers(family: Family) -> None:
    world = World(family(), "abc")
    other = World(family(), "abcd", seed=b"another session")
    updates = updates_of("abc")

    def intrude(exchange: int, name: str, message: bytes) -> bytes:
        for sender in ("d", "server", "", "A", None, 7, ("a",)):
            with pytest.raises(PeerViolation) as violation:
                world.server.receive(sender, message)  # type: ignore[arg-type]
            assert violation.value.culprit == str(sender)
        return message

    outcome = world.play(updates, reply=intrude)
    assert outcome.dropped == {}
    assert_right(world.learn(outcome), world.protocol, updates, "abc")
    other.play(updates_of("abcd"))
    for sent in other.log:
        if sent.down:
            assert is_refusal(world.clients["a"].receive(sent.body))


def test_a_start_that_cannot_work_changes_nothing(family: Family) -> None:
    world = World(family(requirements=ONE_OF_SIX), "abcdef")
    updates = updates_of("abc")
    assert_right(world.learn(world.play(updates)), world.protocol, updates, "abc")
    world.number += 1
    outbox = world.server.start(Round(1, tuple("abc"), 5))
    impossible = [
        Round(0, tuple("abc"), 5),
        Round(2, tuple("ab"), 5),
        Round(2, ("a", "b", "b"), 5),
        Round(2, ("a", "b", "stranger"), 5),
        Round(2, tuple("abc"), 0),
        Round(2, tuple("abc"), 5, "text"),  # type: ignore[arg-type]
        Round(2, ("a", 7, "x"), 5),  # type: ignore[arg-type]
        Round(2, (["a"], "b", "c"), 5),  # type: ignore[arg-type]
    ]
    if family.opened_by_clients:
        impossible.append(Round(2, tuple("def"), 5))  # none of them has the key or can pass it on
    for round in impossible:
        with pytest.raises(ParameterError):
            world.server.start(round)
    outcome = world.resume(outbox, updates)
    assert (outcome.round, outcome.dropped) == (1, {})
    assert_right(world.learn(outcome), world.protocol, updates, "abc")


def test_a_cohort_that_the_corrupt_could_fill_is_no_round(family: Family) -> None:
    """Of six two may be corrupt, and of three that would leave one client alone with them (ATTACKS D1)."""
    world, protects = World(family(), "abcdef"), family.kind != "plain"
    if protects:
        with pytest.raises(ParameterError, match="a cohort of 3 from a roster of 6, of whom 2"):
            world.server.start(Round(0, tuple("abc"), 5))
    outcome = world.play(updates_of("abcd"))
    assert outcome.contributors == frozenset("abcd")
    assert (outcome.record.record.roster, outcome.record.record.corrupt) == (6, 2 if protects else 0)


def test_updates_that_cannot_work_release_nothing(family: Family) -> None:
    world = World(family(max_weight=3))
    good = updates_of("abc")
    bad = [np.zeros(4), np.zeros((5, 1)), np.array([0, np.nan, 0, 0, 0]), np.zeros(5, dtype=int), [0.0] * 5]

    def offer_bad_first(exchange: int, name: str, message: bytes) -> bytes:
        if isinstance(world.clients[name].receive(message), NeedUpdate):
            for update in copy.deepcopy(bad):
                with pytest.raises(ParameterError):
                    world.clients[name].contribute(update)  # type: ignore[arg-type]
            for weight in (0, -1, 4, 1.0, True, None):
                with pytest.raises(ParameterError):
                    world.clients[name].contribute(good[name], weight=weight)  # type: ignore[arg-type]
            with pytest.raises(ParameterError):
                world.clients[name].contribute(good[name], metrics={"unknown": 1.0})
        return message

    outcome = world.play(good, request=offer_bad_first)
    assert outcome.dropped == {}
    assert_right(world.learn(outcome), world.protocol, good, "abc")


def test_a_straggler_of_an_earlier_round_does_not_lose_the_next(family: Family) -> None:
    # An honest client's answer of two rounds ago, never seen before, arrives now: refused, and no more.
    world, updates, late = World(family(requirements=TWO), "abcd"), updates_of("abcd"), []

    def hold_back(exchange: int, name: str, message: bytes) -> bytes | None:
        if name == "b":
            late.append(message)
            return None
        return message

    world.play(updates, reply=hold_back)
    assert late
    world.play(updates)

    def deliver_late(exchange: int, name: str, message: bytes) -> bytes:
        for old in late:
            with pytest.raises(PeerViolation) as violation:
                world.server.receive("b", old)
            assert violation.value.culprit == "b"
        return message

    outcome = world.play(updates, reply=deliver_late)
    assert outcome.dropped == {}
    assert_right(world.learn(outcome), world.protocol, updates, "abcd")
