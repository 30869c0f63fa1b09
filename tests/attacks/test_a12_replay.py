"""A12: a message from another round, session or sender, and the same message twice.

The weakened server looks at neither: an old vector is counted in a new round, and a message that the network
delivers twice is counted twice. Ours refuses the first, whoever says that it sent it, and takes the second
for what it is. Signed keys of another round are a replay too: see A4.

What MaskedSum's clients prepare for the next round is tried in `test_a12_replay_between_rounds`.

Not covered: a transport that lets one client speak in another's name. `Server.receive` is told the sender.

Nor may a replay cost an honest client its place: a straggler of the last round keeps its own in this one, and
an old acknowledgement takes no result back.
"""

import os
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest

from protocols import (
    CkksSum,
    LatticeSum,
    MaskedSum,
    PaillierSum,
    PeerViolation,
    PlainSum,
)
from protocols.machine.server import ServerMachine
from protocols.messages.envelope import Envelope
from tests.attacks.weakened import (
    Stage,
    refused,
    updates_of,
)

NAMES = "abcd"
PROTOCOLS = [
    pytest.param(PlainSum(max_clients=6), id="plain"),
    pytest.param(MaskedSum(max_clients=6), id="masked"),
    pytest.param(CkksSum(max_clients=6), id="ckks"),
    pytest.param(PaillierSum(max_clients=6, key_bits=2048), id="paillier"),
    pytest.param(LatticeSum(max_clients=6), id="lattice"),
    pytest.param(
        LatticeSum(max_clients=6, keys=partial(PaillierSum, key_bits=2048)), id="lattice over paillier"
    ),
]


class NoQuestions(ServerMachine):
    """A server that takes every message to be for now, and every delivery to be a new message."""

    def receive(self, sender: str, message: Any) -> None:
        envelope = replace(Envelope.decode(message), round=self._round.number, session=self._session)
        self._seen.clear()
        self._answered.pop(sender, None)
        self._take(sender, envelope, os.urandom(32))


def sent(stage: Stage, exchange: int) -> dict[str, bytes]:
    return {w.client: w.message for w in stage.wire if w.exchange == exchange and not w.down}


def test_an_old_vector_is_counted_by_a_server_that_does_not_look() -> None:
    stage = Stage(PlainSum(max_clients=6), NAMES, server_machine=NoQuestions)
    old = updates_of(NAMES, seed=1)
    stage.play(old)
    replayed = sent(stage, 0)["a"]
    new = updates_of(NAMES, seed=2)
    outcome = stage.play(new, reply=lambda _, name, message: replayed if name == "a" else message)
    assert outcome.total is not None
    mixed = np.mean([old["a"], *(new[name] for name in "bcd")], axis=0)
    assert np.abs(outcome.total.mean - mixed).max() < 1e-4


def test_a_vector_is_counted_twice_by_a_server_that_does_not_look() -> None:
    """Under a cap of 1 the total weight would tell."""
    stage = Stage(PlainSum(max_clients=6, max_weight=2), NAMES, server_machine=NoQuestions)
    data = updates_of(NAMES)
    for name, message in stage.open(data, until=0).items():
        answer = stage.tell(name, message, data[name])
        for _ in range(2 if name == "a" else 1):
            stage.server.receive(name, answer)
    stage.server.advance()
    total = stage.server.outcome().total
    assert total is not None
    twice = np.sum([data["a"], *data.values()], axis=0) / 5
    assert np.abs(total.mean - twice).max() < 1e-4


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_the_same_message_twice_counts_once(protocol: Any) -> None:
    data = updates_of(NAMES)
    results = []
    for copies in (1, 3):
        stage = Stage(protocol, NAMES)
        box = stage.open(data, until=0)
        while box:
            for name, message in box.items():
                answer = stage.tell(name, message, data[name])
                assert all(stage.clients[name].receive(message) == answer for _ in range(copies))
                for _ in range(copies):
                    stage.server.receive(name, answer)
            box = stage.server.advance()
        outcome = stage.server.outcome()
        assert not outcome.dropped
        results.append(outcome.total or stage.clients["b"].open(outcome.result or b""))
    assert np.abs(results[0].mean - results[1].mean).max() <= protocol.error_bound(4)
    assert results[0].total_weight == results[1].total_weight == 4


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_old_messages_do_not_count(protocol: Any) -> None:
    """Each message of round 0, offered where round 1 waits for updates, by its sender and by another."""
    stage = Stage(protocol, NAMES)
    stage.play(updates_of(NAMES, seed=1))
    old = [w for w in stage.wire if not w.down and w.client == "a"]
    fresh = updates_of(NAMES, seed=2)
    stage.open(fresh, until=protocol.suite.collecting)
    for each in old:
        stage.server.receive("a", each.message)  # taken for a late copy and ignored
        with pytest.raises(PeerViolation) as caught:
            stage.server.receive("b", each.message)
        assert caught.value.culprit == "b"
    assert not stage.server._answered


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_messages_of_another_session_or_sender_are_refused(protocol: Any) -> None:
    data = updates_of(NAMES)
    here, there = Stage(protocol, NAMES, seed=b"here"), Stage(protocol, NAMES, seed=b"there")
    box = here.open(data, until=0)
    strange = {
        name: there.tell(name, message, data[name]) for name, message in there.open(data, until=0).items()
    }
    answers = {name: here.tell(name, message, data[name]) for name, message in box.items()}
    with pytest.raises(PeerViolation, match="session") as caught:
        here.server.receive("a", strange["a"])
    assert caught.value.culprit == "a"
    with pytest.raises(PeerViolation, match="another party's name") as caught:
        here.server.receive("b", answers["c"])
    assert caught.value.culprit == "b"
    with pytest.raises(PeerViolation, match="stranger"):
        here.server.receive("zoe", answers["c"])
    for name in "cd":
        here.server.receive(name, answers[name])
    # A request of another session, or one that a client sent, moves no client.
    for message in (there.open(data, until=0)["d"], answers["a"]):
        assert refused(here.clients["d"].receive(message))


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_requests_of_an_earlier_round_are_refused(protocol: Any) -> None:
    stage = Stage(protocol, NAMES)
    stage.play(updates_of(NAMES))
    old = [w.message for w in stage.wire if w.down and w.client == "a"]
    stage.play(updates_of(NAMES))
    assert all(refused(stage.clients["a"].receive(message)) for message in old)


def test_a_straggler_keeps_its_place_in_the_next_round() -> None:
    """Its answer of round 0 came after that exchange had closed, so the server never saw it before."""
    stage = Stage(MaskedSum(max_clients=6), "abcde")
    late: dict[str, bytes] = {}

    def hold(exchange: int, name: str, message: bytes) -> bytes | None:
        if name != "d":
            return message
        late[name] = message
        return None

    stage.play(updates_of("abcde"), reply=hold)
    stage.open(updates_of("abcde"), until=1)
    with pytest.raises(PeerViolation):
        stage.server.receive("d", late["d"])
    assert "d" not in stage.server._dropped


def test_an_old_acknowledgement_does_not_cancel_a_delivery() -> None:
    stage, data = Stage(CkksSum(max_clients=6), NAMES), updates_of(NAMES)
    stage.play(data)
    acknowledgement = stage.tell("a", stage.server.deliver()["a"])
    stage.server.receive("a", acknowledgement)
    stage.play(data)
    assert "a" in stage.server.deliver()  # and this delivery is lost on the way
    stage.server.receive("a", acknowledgement)  # the transport delivers the old one again
    assert "a" in stage.server.deliver()
