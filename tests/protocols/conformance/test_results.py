"""Results that only clients open: they ride, wait, arrive once, and open once."""

import numpy as np
import pytest

from protocols import (
    ParameterError,
    PeerViolation,
)
from protocols.messages.envelope import RESULT, Envelope
from tests.protocols.conftest import (
    TWO,
    Family,
    World,
    assert_right,
    is_refusal,
    updates_of,
)

# What is reported


# Results


def test_a_member_dropped_while_contributing_gets_key_and_missed_results(consortium: Family) -> None:
    world = World(consortium(requirements=TWO), "abcd")
    missed = []
    for number in range(2):
        updates = updates_of("abcd", seed=number)
        outcome = world.play(updates, gone={"d": 2})
        assert outcome.contributors == frozenset("abc")
        missed.append((outcome.result, world.learn(outcome)))
    # It was asked for its channel key again, and the first result came with that.
    assert world.clients["d"].results == (missed[0][0],)
    updates = updates_of("abcd", seed=9)
    outcome = world.play(updates)
    assert_right(world.learn(outcome), world.protocol, updates, "abcd")
    assert world.clients["d"].results == tuple(result for result, _ in missed), "oldest first"
    for result, expected in missed:
        assert result is not None
        opened = world.clients["d"].open(result)
        assert np.array_equal(opened.mean, expected.mean)
        assert opened.contributors == expected.contributors
    assert world.clients["d"].results == ()


def test_results_ride_to_members_outside_the_cohort(consortium: Family) -> None:
    world = World(consortium(), "abcd")
    world.play(updates_of("abcd"))
    second = world.play(updates_of("abc"))
    # The result of round 0 rode on the start of round 1, to d as well, which was not asked for an update.
    to_d = [sent for sent in world.log if sent.down and sent.client == "d"]
    assert [Envelope.decode(sent.body).stage for sent in to_d] == [RESULT]
    assert len(world.clients["d"].results) == 1
    assert "d" not in second.dropped
    assert "d" not in second.record.record.cohort
    opened = world.clients["d"].open(world.clients["d"].results[0])
    assert opened.contributors == frozenset("abcd")
    # So does the result of a round that d took no part in: every member's model moves on.
    world.play(updates_of("abc"))
    assert world.clients["d"].results == (second.result,)
    assert world.clients["d"].open(second.result or b"").contributors == frozenset("abc")


def test_a_result_is_owed_until_it_arrived(consortium: Family) -> None:
    world = World(consortium(), "abc")
    outcome = world.play(updates_of("abc"))
    for _ in range(3):
        outbox = world.server.deliver()
        assert set(outbox) == set("abc")
        assert all(outcome.result in message for message in outbox.values() if outcome.result)
        world.restart()
    for name, message in world.server.deliver().items():
        reply = world.clients[name].receive(message)
        assert not is_refusal(reply)
        assert isinstance(reply, bytes)
        world.server.receive(name, reply)
        world.server.receive(name, reply)  # an acknowledgement may come twice
    assert world.server.deliver() == {}
    assert [client.results for client in world.clients.values()] == [(outcome.result,)] * 3


def test_a_result_that_comes_again_is_not_waiting_again(consortium: Family) -> None:
    # A caller that opens what waits must not apply one round's mean twice.
    world = World(consortium(), "abc")
    world.play(updates_of("abc"))
    outbox = world.server.deliver()
    for name, message in outbox.items():
        client = world.clients[name]
        first = client.receive(message)
        assert client.receive(message) == first
        assert len(client.results) == 1
        client.open(client.results[0])
        assert not client.results
        client.receive(message)
        assert not client.results, "it was opened already"
    world.restart()
    for name, message in outbox.items():
        world.clients[name].receive(message)
        assert not world.clients[name].results, "it was opened in an earlier process"


def test_a_late_acknowledgement_is_for_what_it_acknowledges(consortium: Family) -> None:
    # c's acknowledgement of the first result is slow. Meanwhile a message with the second is lost. The
    # acknowledgement must not speak for the second.
    world = World(consortium(requirements=TWO), "abc")
    first = world.play(updates_of("abc"))
    slow = world.clients["c"].receive(world.server.deliver()["c"])
    assert isinstance(slow, bytes)
    second = world.play(updates_of("abc"), gone={"c": 0})
    lost = world.server.deliver()["c"]
    assert second.result is not None
    assert second.result in lost
    world.server.receive("c", slow)
    owed = world.server.deliver()
    assert "c" in owed
    assert second.result in owed["c"]
    world.clients["c"].receive(owed["c"])
    assert [first.result, second.result] == list(world.clients["c"].results)


def test_no_client_opens_before_it_has_the_key(consortium: Family) -> None:
    world = World(consortium(), "abcd")
    outcome = world.play(updates_of("abc"))
    assert outcome.result is not None
    with pytest.raises(ParameterError, match="key"):
        world.clients["d"].open(outcome.result)
    world.play(updates_of("abcd"))
    assert world.clients["d"].open(outcome.result).contributors == frozenset("abc")


def test_results_of_another_session_do_not_open(consortium: Family) -> None:
    world, other = World(consortium()), World(consortium(), seed=b"another")
    world.play(updates_of("abc"))
    stranger = other.play(updates_of("abc")).result
    assert stranger is not None
    with pytest.raises(PeerViolation) as violation:
        world.clients["a"].open(stranger)
    assert violation.value.culprit == "server"
