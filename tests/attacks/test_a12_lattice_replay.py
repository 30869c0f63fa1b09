"""A12 over LatticeSum: contributions, halves of them, and results, of other rounds, sessions and senders.

A contribution has two halves, a key in the key layer's message and a vector under that key, and a replay can
take either. The weakened copies: a server that looks at no round and no session, with polynomials that are
the same in each round, counts an old update in a new sum; clients that look at no tag, with such polynomials,
take an old sum for a new one.

Ours: the machine refuses an envelope of another round, session or sender. Were it to take one, the old half
would be under other polynomials or other masks, and the sum of the keys would not open that of the vectors.
What clients learn is bound twice by tags, once for each half.

Not covered: a transport that lets one client speak in another's name. `Server.receive` is told the sender.
"""

import os
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from protocols import LatticeSum, PeerViolation, PlainSum, RoundAborted
from protocols.consortium.messages import Result as KeyResult
from protocols.lattice.messages import Contribution, Result
from protocols.machine.client import ClientMachine
from protocols.machine.server import ServerMachine
from protocols.messages.envelope import Envelope
from protocols.messages.schema import decode, encode
from secagg.errors import VerificationError
from secagg.vectors.linear_mac import MacKey, Tagging
from tests.attacks.weakened import Vector, body_of, rewrite, updates_of
from tests.attacks.weakened_lattice import (
    LAYERS,
    OVER_MASKED,
    OVER_PAILLIER,
    LatticeStage,
    unbind_seed,
)

NAMES = "abcd"
OVER_PLAIN = LatticeSum(max_clients=4, keys=PlainSum)
"""Its keys are bound to nothing, so what refuses a replay here is the vector alone."""
OLD, NEW = updates_of(NAMES, seed=1), updates_of(NAMES, seed=2)

Replay = Callable[[Contribution, Contribution], Contribution]
"""(old, new) to what arrives."""


def whole(old: Contribution, new: Contribution) -> Contribution:
    return old


def old_key(old: Contribution, new: Contribution) -> Contribution:
    return replace(new, keys=old.keys)


def old_vector(old: Contribution, new: Contribution) -> Contribution:
    return replace(new, vector=old.vector, tag=old.tag)


REPLAYS = [whole, old_key, old_vector]


class NoQuestions(ServerMachine):
    """A server that takes every message to be for now, from whoever brings it."""

    def receive(self, sender: str, message: Any) -> None:
        envelope = Envelope.decode(message)
        now = replace(envelope, round=self._round.number, session=self._session, sender=sender)
        self._take(sender, now, os.urandom(32))


def replayed(
    stage: LatticeStage, replay: Replay, *, of: LatticeStage | None = None, who: str = "a"
) -> Vector | None:
    """The mean of a second round in which a's contribution has something of `who`'s to an older one."""
    older = of or stage
    older.play(OLD)
    old = {name: encode(sent) for name, sent in older.sent().items()}[who]
    if older is not stage:
        stage.play(OLD)

    def swap(exchange: int, name: str, message: bytes) -> bytes:
        if name != "a" or exchange != stage.keys.collecting:
            return message
        return rewrite(message, replay(decode(Contribution, old), body_of(Contribution, message)))

    try:
        outcome = stage.play(NEW, reply=swap)
    except RoundAborted:
        return None
    assert outcome.total is not None
    return outcome.total.mean


def test_polynomials_that_are_always_the_same_let_an_old_update_count(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    unbind_seed(monkeypatch, round=0)
    mean = replayed(LatticeStage(OVER_PLAIN, NAMES, server_machine=NoQuestions), whole)
    assert mean is not None
    mixed = np.mean([OLD["a"], *(NEW[name] for name in "bcd")], axis=0)
    assert np.abs(mean - mixed).max() < 1e-4


@pytest.mark.parametrize("replay", REPLAYS)
@pytest.mark.parametrize("protocol", [OVER_PLAIN, OVER_MASKED])
def test_whoever_takes_an_old_half_has_no_sum(protocol: LatticeSum, replay: Replay) -> None:
    """Not even over keys that are bound to nothing, and with a machine that looks at no envelope."""
    assert replayed(LatticeStage(protocol, NAMES, server_machine=NoQuestions), replay) is None


@pytest.mark.parametrize("replay", REPLAYS)
@pytest.mark.parametrize("who", ["a", "b"])
def test_halves_of_another_session_or_sender_spoil_the_sum_too(replay: Replay, who: str) -> None:
    other = LatticeStage(OVER_PLAIN, NAMES, seed=b"another session")
    stage = LatticeStage(OVER_PLAIN, NAMES, server_machine=NoQuestions)
    assert replayed(stage, replay, of=other, who=who) is None


def copied(stage: LatticeStage) -> Vector | None:
    """The mean of a round in which b's contribution comes a second time, as a's."""
    outbox = stage.open(NEW, until=stage.keys.collecting)
    answers = {name: stage.tell(name, message, NEW[name]) for name, message in outbox.items()}
    for name in NAMES:
        stage.server.receive(name, answers["b" if name == "a" else name])
    stage.server.advance()
    total = stage.server.outcome().total
    return None if total is None else total.mean


def test_a_contribution_in_two_names_counts_twice_where_nothing_says_whose_it_is() -> None:
    """Keys in the clear, and a server that takes anybody's word for the sender."""
    roomy = LatticeSum(max_clients=20, keys=PlainSum)
    mean = copied(LatticeStage(roomy, NAMES, server_machine=NoQuestions))
    assert mean is not None
    assert np.abs(mean - np.mean([NEW[name] for name in "bbcd"], axis=0)).max() < 1e-4


def test_ours_takes_no_contribution_in_another_name() -> None:
    with pytest.raises(PeerViolation, match="another party's name"):
        copied(LatticeStage(OVER_PLAIN, NAMES))
    # A story that b signed is not a's, whatever the envelope says.
    with pytest.raises(VerificationError, match="signature"):
        copied(LatticeStage(OVER_MASKED, NAMES, server_machine=NoQuestions))
    # Twice the same key is too large for a sum of as many independent ones, where n is the most there can be.
    with pytest.raises(RoundAborted, match="too large"):
        copied(LatticeStage(OVER_PLAIN, NAMES, server_machine=NoQuestions))


@pytest.mark.parametrize("protocol", LAYERS)
def test_our_server_refuses_messages_of_other_rounds_and_sessions(protocol: LatticeSum) -> None:
    """Whoever brings one loses its own place, and nobody else's."""
    names, wider = "abcdef", replace(protocol, max_clients=6)
    old, new = updates_of(names, seed=1), updates_of(names, seed=2)
    stage, other = LatticeStage(wider, names), LatticeStage(wider, names, seed=b"another session")
    other.play(new)
    stage.play(old)

    def sent(played: LatticeStage, client: str) -> bytes:
        return next(w.message for w in played.wire if (w.client, w.exchange, w.down) == (client, 2, False))

    replayed = sent(stage, "a")
    outbox = stage.open(new, until=2)
    with pytest.raises(PeerViolation, match="another session"):
        stage.server.receive("b", sent(other, "b"))
    stage.server.receive("a", replayed)  # known from the round before: passed over in silence
    for name in "acdef":
        stage.server.receive(name, stage.tell(name, outbox[name], new[name]))
    for name, message in stage.server.advance().items():
        stage.server.receive(name, stage.tell(name, message))
    outcome = stage.server.outcome() if stage.server.advance() == {} else None
    assert outcome is not None
    assert outcome.contributors == frozenset("acdef")
    total = outcome.total if outcome.total is not None else stage.clients["a"].open(outcome.result or b"")
    assert np.abs(total.mean - np.mean([new[name] for name in "acdef"], axis=0)).max() < 1e-4


# Results, over encrypted keys


class Forgets(ClientMachine):
    """A client that does not remember what it opened."""

    def open(self, result: Any) -> Any:
        self._opened.clear()
        return super().open(result)


def two_results(machine: type[ClientMachine] = ClientMachine) -> tuple[LatticeStage, Result, Result]:
    stage = LatticeStage(OVER_PAILLIER, NAMES, machine=dict.fromkeys(NAMES, machine))
    results = [decode(Result, stage.play(updates).result or b"") for updates in (OLD, NEW)]
    return stage, results[0], results[1]


def renumbered(result: Result, number: int) -> Result:
    """An old result that says that it is of another round."""
    keys = replace(decode(KeyResult, result.keys), round=number)
    return replace(result, keys=memoryview(encode(keys)))


def no_tags(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MacKey, "verify", lambda *_, **__: None)
    monkeypatch.setattr(Tagging, "verify", lambda *_, **__: None)


def one_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    unbind_seed(monkeypatch, round=0)


def test_without_tags_and_with_one_polynomial_an_old_sum_passes_for_a_new_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    no_tags(monkeypatch)
    one_seed(monkeypatch)
    stage, old, _ = two_results(Forgets)
    opened = stage.clients["a"].open(encode(renumbered(old, 1)))
    assert np.abs(opened.mean - np.mean(list(OLD.values()), axis=0)).max() < 1e-4


@pytest.mark.parametrize("weaken", [no_tags, one_seed, None])
def test_our_clients_open_a_sum_as_that_of_its_own_round_only(
    weaken: Callable[[pytest.MonkeyPatch], None] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tags and polynomials are each enough."""
    if weaken:
        weaken(monkeypatch)
    stage, old, new = two_results(Forgets)
    mixtures = [
        renumbered(old, 1),
        renumbered(old, 7),
        replace(new, vector=old.vector, tag=old.tag),
        replace(new, keys=old.keys),
        replace(new, keys=renumbered(old, 1).keys),
    ]
    for place, mixture in enumerate(mixtures):
        with pytest.raises(PeerViolation, match="verify"):
            stage.clients[NAMES[place % len(NAMES)]].open(encode(mixture))
    assert (
        np.abs(stage.clients["d"].open(encode(new)).mean - np.mean(list(NEW.values()), axis=0)).max() < 1e-4
    )


def test_a_result_of_another_session_is_not_even_tried() -> None:
    stage, _, _ = two_results()
    other = LatticeStage(OVER_PAILLIER, NAMES, seed=b"another session")
    foreign = other.play(OLD).result
    assert foreign is not None
    for name in NAMES:
        with pytest.raises(PeerViolation, match="another key"):
            stage.clients[name].open(foreign)
