"""A12: replay of what MaskedSum's clients prepare for the next round.

They deal its shares with each reveal, so there is more to replay than a message: sealed shares of an earlier
round, which a holder would reveal a second time and with the other kind; an old dealing, an old quorum, an
old reveal. Each is bound to its epoch and to the first round that it can serve, and each weakened copy
forgets one of these bonds.

Not covered: replay to a client that was rolled back; see A14.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from protocols import (
    Adversary,
    MaskedSum,
    Requirements,
    RoundAborted,
)
from protocols.machine.channels import Link, ratchet
from protocols.masked import dealing, revealing, server
from protocols.masked.epoch import Epoch
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
from secagg.secret import Secret
from tests.attacks.unmasked import is_read, rebuild, revealed, strip
from tests.attacks.weakened import Curious, Stage, body_of, refused, request_of, rewrite, updates_of

FIVE = "abcde"
VICTIM = "c"
MASKED = MaskedSum(max_clients=6, requirements=Requirements(corrupt_fraction=0.16))
"""One of six may be corrupt, so that one of five may be lost."""


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
        state.unopened[FIVE.index(name)] = frozenset(complaint)
    survivors = [each for each in FIVE if each != VICTIM]
    for name in survivors:
        answers[name] = stage.tell(name, stage.request(3, stage.quorum(name, survivors)))
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
    return stage.tell("a", stage.request(4, replace(old, inputs=stage.quorum("a", FIVE).inputs)))


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
