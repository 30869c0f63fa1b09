"""A12: a message from another round, session or sender, and the same message twice.

The weakened server looks at neither: an old vector is counted in a new round, and a message that the network
delivers twice is counted twice. Ours refuses the first, whoever says that it sent it, and takes the second
for what it is. Signed keys of another round are a replay too: see A4.

MaskedSum's clients deal the shares of the next round with each reveal, so there is more to replay: sealed
shares of an earlier round, which a holder would reveal a second time and with the other kind; an old dealing,
an old quorum, an old reveal. Each is bound to its epoch and to the first round that it can serve, and each
weakened copy forgets one of these bonds.

Not covered: a transport that lets one client speak in another's name. `Server.receive` is told the sender.

Nor may a replay cost an honest client its place: a straggler of the last round keeps its own in this one, and
an old acknowledgement takes no result back.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from protocols import (
    Adversary,
    CkksSum,
    MaskedSum,
    PaillierSum,
    PeerViolation,
    PlainSum,
    Requirements,
    RoundAborted,
)
from protocols.envelope import Envelope
from protocols.masked import dealing, revealing, server
from protocols.masked.epoch import Epoch
from protocols.masked.keys import Link, ratchet
from protocols.masked.messages import (
    HASHES_BYTES,
    SEALED_BYTES,
    CollectInput,
    ConsistencyCheck,
    MaskedInput,
    PairKeyShare,
    Quorum,
    SelfMaskShare,
    ShareKeys,
    Unmask,
    columns,
)
from protocols.masked.transcript import SignedSurvivors
from protocols.server_machine import ServerMachine
from secagg.secret import Secret
from tests.attacks.weakened import (
    Curious,
    Stage,
    body_of,
    is_read,
    rebuild,
    refused,
    request_of,
    revealed,
    rewrite,
    strip,
    updates_of,
)

NAMES = "abcd"
PROTOCOLS = [
    pytest.param(PlainSum(max_clients=6), id="plain"),
    pytest.param(MaskedSum(max_clients=6), id="masked"),
    pytest.param(CkksSum(max_clients=6), id="ckks"),
    pytest.param(PaillierSum(max_clients=6, key_bits=2048), id="paillier"),
]


class NoQuestions(ServerMachine):
    """A server that takes every message to be for now, and every delivery to be a new message."""

    def receive(self, sender: str, message: Any) -> None:
        envelope = replace(Envelope.decode(message), round=self._round.number, session=self._session)
        self._seen.clear()
        self._answered.pop(sender, None)
        self._take(sender, envelope, bytes(32))


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
    stage = Stage(PlainSum(max_clients=6), NAMES, server_machine=NoQuestions)
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


# MaskedSum: what rides from one round to the next

FIVE = "abcde"
VICTIM = "c"
MASKED = MaskedSum(max_clients=6)


def asked(stage: Stage) -> dict[str, CollectInput]:
    """What the clients were asked in the round that was played last."""
    return {w.client: request_of(CollectInput, w.message) for w in stage.wire if w.down and w.exchange == 2}


def with_old_piece(new: CollectInput, old: CollectInput, position: int) -> CollectInput:
    """The request with one dealer's sealed shares, and their hashes, out of an older one."""

    def swapped(before: bytes, after: bytes, size: int) -> bytes:
        pieces = columns(before, size)
        pieces[position] = columns(after, size)[position]
        return b"".join(pieces)

    return replace(
        new,
        sealed=swapped(new.sealed, old.sealed, SEALED_BYTES),
        hashes=swapped(new.hashes, old.hashes, HASHES_BYTES),
    )


def ask_again_with_old_shares(stage: Stage, old: Mapping[str, CollectInput]) -> dict[str, bytes]:
    """The next round, in which all but the victim get the victim's old shares; what they reveal of it."""
    box = stage.open(updates_of(FIVE, seed=3), until=2)
    state: Any = stage.server._state
    members, answers = state.epoch.members, {}
    for name in set(FIVE) - {VICTIM}:
        position = FIVE.replace(name, "").index(VICTIM)
        request = with_old_piece(request_of(CollectInput, box[name]), old[name], position)
        answer = stage.tell(name, stage.request(2, request), updates_of(FIVE, seed=3)[name])
        complaint = members.places(body_of(MaskedInput, answer).unopened)
        survivors = [each for each in FIVE if each != VICTIM]
        answers[name] = stage.tell(name, stage.request(3, stage.quorum(survivors)))
        state.unopened[FIVE.index(name)] = frozenset(complaint)
    unmasked = {name: body_of(Unmask, answer) for name, answer in answers.items()}
    return revealed(state, unmasked, VICTIM, PairKeyShare)


def still(chain: Secret, *, epoch: bytes, origin: int) -> Link:
    """A ratchet that does not move."""
    return replace(ratchet(chain, epoch=epoch, origin=0), following=chain)


def test_without_an_origin_old_shares_are_revealed_again_as_the_other_kind(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Then both secrets of that round are out, and the vector of that round is read."""
    bound = Epoch.context
    monkeypatch.setattr(Epoch, "context", lambda self, origin: bound(self, 0))
    monkeypatch.setattr(dealing, "ratchet", still)
    stage, data = Stage(MASKED, FIVE, server_steps=Curious()), updates_of(FIVE, seed=2)
    stage.play(updates_of(FIVE))
    stage.play(data)
    view, vector = stage.summing, stage.answers(2, MaskedInput)[VICTIM].vector
    shares = revealed(view, stage.answers(3, Unmask), VICTIM, SelfMaskShare)
    seed = rebuild(view, VICTIM, dict(sorted(shares.items())[: view.epoch.threshold]))
    old = ask_again_with_old_shares(stage, asked(stage))
    assert len(old) == view.epoch.threshold
    round_secret = rebuild(view, VICTIM, old)
    words = strip(stage, VICTIM, seed=seed, round_secret=round_secret, view=view, vector=vector)
    assert is_read(stage, words, data[VICTIM])


@pytest.mark.parametrize("rounds", [1, 2, 3])
def test_our_holders_reveal_nothing_of_old_shares(rounds: int) -> None:
    """They say that the shares did not open, and hold none of that dealer."""
    stage = Stage(MASKED, FIVE)
    for seed in range(rounds):
        stage.play(updates_of(FIVE, seed=seed))
    old = asked(stage)
    assert ask_again_with_old_shares(stage, old) == {}


def test_our_holders_reveal_nothing_of_another_epochs_shares() -> None:
    stage = Stage(MASKED, FIVE + "f")
    stage.play(updates_of(FIVE))
    old = asked(stage)
    stage.play(updates_of(FIVE + "f"))  # a newcomer begins a new epoch
    stage.play(updates_of(FIVE))
    assert ask_again_with_old_shares(stage, old) == {}


def test_a_request_of_an_earlier_round_under_a_new_number_is_refused() -> None:
    stage = Stage(MASKED, FIVE)
    stage.play(updates_of(FIVE))
    stage.play(updates_of(FIVE))
    for old in stage.wire:
        if old.down:
            body: Any = request_of(stage.protocol.suite.requests[old.exchange], old.message)
            assert refused(stage.tell(old.client, stage.request(old.exchange, body, round=2)))
    assert stage.play(updates_of(FIVE)).contributors == frozenset(FIVE)


# A quorum of another round

QUORUM = MaskedSum(max_clients=6, requirements=Requirements(adversary=Adversary.MALICIOUS))


def old_quorum(stage: Stage) -> bytes:
    """A client's answer to signatures of the round before, when nobody but itself signed in this one."""
    for _ in range(2):
        stage.play(updates_of(FIVE))
    old = request_of(Quorum, next(w.message for w in stage.wire if w.down and w.exchange == 4))
    box = stage.open(updates_of(FIVE), until=3)
    assert body_of(ConsistencyCheck, stage.tell("a", box["a"]))
    return stage.tell("a", stage.request(4, old))


def test_without_the_transcript_an_old_quorum_does_for_a_new_round(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (server, revealing):
        monkeypatch.setattr(
            module, "SignedSurvivors", lambda _, survivors: SignedSurvivors(bytes(32), survivors)
        )
    assert body_of(Unmask, old_quorum(Stage(QUORUM, FIVE))).shares


def test_our_clients_refuse_an_old_quorum() -> None:
    stage = Stage(QUORUM, FIVE)
    assert refused(old_quorum(stage))
    assert "does not verify" in str(stage.clients["a"].refusal)


# Dealings and reveals of another round, or of another client

LIAR = "m"
NAMED = "ambcd"


def replayed(stage: Stage, exchange: int, body: Any) -> Any:
    """The next round, in which the liar's answer to one exchange is an old body."""

    def swap(at: int, name: str, message: bytes) -> bytes:
        return rewrite(message, body) if (at, name) == (exchange, LIAR) else message

    return stage.play(updates_of(NAMED), reply=swap)


def first_dealings(stage: Stage) -> dict[str, ShareKeys]:
    """Those of an epoch that has ended."""
    stage.play(updates_of(NAMED))
    dealt = stage.answers(1, ShareKeys)
    with pytest.raises(RoundAborted):
        stage.play(updates_of(NAMED), gone=dict.fromkeys("ab", 2))
    return dealt


def test_a_server_that_takes_an_old_dealing_loses_the_round(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "check_dealing", lambda *_: None)
    stage = Stage(MASKED, NAMED)
    old = first_dealings(stage)[LIAR]
    with pytest.raises(RoundAborted):
        replayed(stage, 1, old)


def test_our_server_leaves_out_who_deals_old_shares_on_the_long_path() -> None:
    stage = Stage(MASKED, NAMED)
    old = first_dealings(stage)[LIAR]
    outcome = replayed(stage, 1, old)
    assert outcome.contributors == frozenset("abcd")
    assert "signature" in outcome.dropped[LIAR]


@pytest.mark.parametrize("owner", [LIAR, "b"])
def test_our_server_leaves_out_who_deals_old_or_others_shares_in_the_steady_state(owner: str) -> None:
    stage = Stage(MASKED, NAMED)
    stage.play(updates_of(NAMED))
    before = stage.answers(3, Unmask)
    stage.play(updates_of(NAMED))

    def swap(at: int, name: str, message: bytes) -> bytes:
        if (at, name) != (3, LIAR):
            return message
        mine = body_of(Unmask, message)
        return rewrite(message, Unmask(mine.kinds, mine.shares, before[owner].next))

    outcome = stage.play(updates_of(NAMED), reply=swap)
    assert outcome.contributors == frozenset(NAMED)
    assert outcome.dropped.keys() == {LIAR}
    assert "signature" in outcome.dropped[LIAR]


def test_a_server_that_takes_an_old_reveal_blames_somebody_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "check_reveals", lambda *_, **__: None)
    monkeypatch.setattr(server, "check_dealing", lambda *_: None)
    stage = Stage(MASKED, NAMED)
    stage.play(updates_of(NAMED))
    with pytest.raises(RoundAborted) as caught:
        replayed(stage, 3, stage.answers(3, Unmask)[LIAR])
    assert caught.value.culprits
    assert LIAR not in caught.value.culprits


def test_our_server_names_who_replays_a_reveal_and_goes_on() -> None:
    stage = Stage(MASKED, NAMED)
    stage.play(updates_of(NAMED))
    outcome = replayed(stage, 3, stage.answers(3, Unmask)[LIAR])
    assert outcome.contributors == frozenset(NAMED)
    assert "differs from the one that was dealt" in outcome.dropped[LIAR]
