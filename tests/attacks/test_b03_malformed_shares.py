"""B3: a holder reveals a wrong share, or a dealer deals wrong ones.

A rebuilt secret is a sum over t shares, so one wrong share makes all of it wrong: masks do not come off and
the sum is garbage, or the round is lost. The weakened server does not compare a revealed share with the hash
that its dealer gave. Ours names the holder, leaves its shares out and goes on with the spare ones.

A dealer that lies is another matter: its masks are in everybody's vectors already. The round is lost, the
dealer is named, and nobody else is blamed; every lie of a dealer that we could think of is tried below.

Not covered: that such a round ends with a sum. That needs publicly verifiable shares.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from protocols import MaskedSum, RoundAborted
from protocols.masked import server
from protocols.masked.messages import (
    AdvertiseKeys,
    Kind,
    MaskedInput,
    PairKeyShare,
    SealedShares,
    SelfMaskShare,
    ShareKeys,
    SignedKeys,
    Unmask,
    share_hash,
)
from protocols.masked.server import MaskedServerSteps
from protocols.schema import encode
from protocols.server_machine import ServerMachine
from secagg import labels
from secagg.agreement import generate, public_key
from secagg.shamir import SHARE_BYTES
from tests.attacks.weakened import Liar, Stage, body_of, rewrite, updates_of

NAMES = "abcdm"
HONEST = "abcd"
PROTOCOL = MaskedSum(max_clients=8)


def changed(share: bytes) -> bytes:
    return share[:-1] + bytes([share[-1] ^ 1])


def wrong_shares(context: Any, state: Any, message: Any) -> Any:
    """Reveals, for every other dealer, a share that it was not dealt."""
    if not isinstance(message, Unmask):
        return message
    reveals = {
        name: each if name == context.me else type(each)(changed(each.share))
        for name, each in message.reveals.items()
    }
    return Unmask(reveals)


class NoHashes(MaskedServerSteps):
    """Takes every share for the one that was dealt."""

    def absorb(self, context: Any, state: Any, sender: str, reply: Any) -> Any:
        if isinstance(reply, Unmask):
            return replace(state, revealed={**state.revealed, sender: reply})
        return super().absorb(context, state, sender, reply)


@pytest.fixture
def liar_first(request: pytest.FixtureRequest) -> str:
    """The roster puts the liar first, so that its share is among the ones that are combined."""
    return "m" + HONEST


def test_without_hashes_one_holder_spoils_the_round(liar_first: str) -> None:
    stage = Stage(PROTOCOL, liar_first, steps={"m": Liar(wrong_shares)}, server_steps=NoHashes())
    with pytest.raises(RoundAborted, match="do not rebuild") as caught:
        stage.play(updates_of(liar_first))
    assert caught.value.culprits
    assert "m" not in caught.value.culprits  # somebody else looks guilty


def test_without_hashes_and_commitments_the_sum_is_garbage(
    liar_first: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "_check_seed", lambda *_: None)
    monkeypatch.setattr("protocols.summand.FloatSurface.decode", lambda self, total, names: total.copy())
    got: list[Any] = []
    monkeypatch.setattr(ServerMachine, "_finish", lambda self, step: got.append(step.total))
    stage = Stage(PROTOCOL, liar_first, steps={"m": Liar(wrong_shares)}, server_steps=NoHashes())
    data = updates_of(liar_first)
    stage.open(data, until=None)
    surface = PROTOCOL.suite.surface
    steps = surface.ring.centred(got[0])[:-1]
    truth = np.sum(list(data.values()), axis=0)
    assert np.median(np.abs(steps / PROTOCOL.surface.codec.largest_step - truth)) > 0.1


@pytest.mark.parametrize("names", ["m" + HONEST, HONEST + "m"])
@pytest.mark.parametrize("gone", [{}, {"d": 2}])
def test_ours_goes_on_and_names_the_holder(names: str, gone: dict[str, int]) -> None:
    data = updates_of(names)
    outcome = Stage(PROTOCOL, names, steps={"m": Liar(wrong_shares)}).play(data, gone=gone)
    assert outcome.total is not None
    contributors = frozenset(names) - gone.keys()
    assert outcome.contributors == contributors  # its vector was good
    assert "differs from the one that was dealt" in outcome.dropped["m"]
    assert outcome.dropped.keys() == {"m", *gone}
    assert np.abs(outcome.total.mean - np.mean([data[n] for n in sorted(contributors)], axis=0)).max() < 1e-4


def other_kind(reveals: dict[str, Any]) -> dict[str, Any]:
    swap = {SelfMaskShare: PairKeyShare, PairKeyShare: SelfMaskShare}
    return {name: swap[type(each)](each.share) for name, each in reveals.items()}


@pytest.mark.parametrize(
    "lie",
    [
        pytest.param(other_kind, id="the other kind"),
        pytest.param(lambda r: {**r, "a": SelfMaskShare(r["b"].share)}, id="another dealer's"),
        pytest.param(lambda r: {**r, "z": r["a"]}, id="a stranger's"),
        pytest.param(lambda r: {**r, "a": SelfMaskShare(r["a"].share[:-1])}, id="too short"),
        pytest.param(lambda r: {**r, "a": SelfMaskShare(r["a"].share + b"\0")}, id="too long"),
        pytest.param(lambda r: {**r, "a": SelfMaskShare(b"")}, id="empty"),
        pytest.param(lambda r: {**r, "a": SelfMaskShare(b"\xff" * SHARE_BYTES)}, id="outside the field"),
        pytest.param(lambda r: {}, id="nothing at all"),
    ],
)
def test_every_lie_of_a_holder(lie: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    def change(context: Any, state: Any, message: Any) -> Any:
        return Unmask(lie(dict(message.reveals))) if isinstance(message, Unmask) else message

    data = updates_of(NAMES)
    outcome = Stage(PROTOCOL, NAMES, steps={"m": Liar(change)}).play(data)
    assert outcome.total is not None
    assert outcome.dropped.keys() <= {"m"}
    assert np.abs(outcome.total.mean - np.mean(list(data.values()), axis=0)).max() < 1e-4


# A dealer that lies


def with_shares(change: Callable[[Any, str, SealedShares], SealedShares]) -> Liar:
    """A dealer that changes what it deals to every other holder."""

    def lie(context: Any, state: Any, message: Any) -> Any:
        if not isinstance(message, ShareKeys):
            return message
        dealt = {
            holder: each if holder == context.me else change(context, holder, each)
            for holder, each in message.shares.items()
        }
        return replace(message, shares=dealt)

    return Liar(lie)


class OutsideTheField(Liar):
    """Deals shares above the field's order, with the right hashes, sealed as they should be."""

    def __init__(self) -> None:
        super().__init__(lambda context, state, message: message)

    def react(self, context: Any, state: Any, request: Any) -> Any:
        from protocols.masked import client

        class Large:
            def encode(self) -> bytes:
                return b"\xff" * SHARE_BYTES

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(client, "split", lambda secret, *, indices, **_: [Large() for _ in indices])
            return super().react(context, state, request)


class AnotherKey(Liar):
    """Advertises a mask key that does not follow from the secret that it deals."""

    def __init__(self) -> None:
        super().__init__(lambda context, state, message: message)

    def react(self, context: Any, state: Any, request: Any) -> Any:
        step = super().react(context, state, request)
        if not isinstance(step.message if hasattr(step, "message") else None, AdvertiseKeys):
            return step
        other = public_key(generate(context.entropy))
        signed = SignedKeys(
            request.parameters,
            context.session,
            context.round,
            request.cohort,
            request.length,
            context.me,
            step.message.channel_key,
            other,
            step.message.minimum,
        )
        signature = context.identity.key.sign(encode(signed), label=labels.KEY_ADVERTISEMENT)
        mine = replace(step.message, mask_key=other, signature=signature)
        return replace(step, state=replace(step.state, mine=mine), message=mine)


def rubbish(context: Any, holder: str, dealt: SealedShares) -> SealedShares:
    return replace(dealt, sealed=bytes(len(dealt.sealed)))


def wrong_hash(context: Any, holder: str, dealt: SealedShares) -> SealedShares:
    return replace(dealt, self_mask_hash=bytes(32))


def wrong_pair_hash(context: Any, holder: str, dealt: SealedShares) -> SealedShares:
    return replace(dealt, pair_key_hash=bytes(32))


def moved_hash(context: Any, holder: str, dealt: SealedShares) -> SealedShares:
    """The hash of a share that somebody else could have been dealt."""
    found = share_hash(
        session=context.session,
        round=context.round,
        dealer=context.me,
        holder=holder,
        kind=Kind.SELF_MASK,
        share=bytes(SHARE_BYTES),
    )
    return replace(dealt, self_mask_hash=found)


def wrong_commitment(context: Any, state: Any, message: Any) -> Any:
    return replace(message, commitment=bytes(32)) if isinstance(message, ShareKeys) else message


DEALERS = {
    "rubbish": with_shares(rubbish),
    "wrong hashes": with_shares(wrong_hash),
    "wrong hashes of the other kind": with_shares(wrong_pair_hash),
    "hashes of another share": with_shares(moved_hash),
    "a wrong commitment": Liar(wrong_commitment),
    "shares outside the field": OutsideTheField(),
}


@pytest.mark.parametrize("lie", DEALERS)
@pytest.mark.parametrize("names", ["m" + HONEST, HONEST + "m"])
def test_a_lying_dealer_is_named_and_nobody_else(lie: str, names: str) -> None:
    stage = Stage(PROTOCOL, names, steps={"m": DEALERS[lie]})
    with pytest.raises(RoundAborted) as caught:
        stage.play(updates_of(names))
    assert caught.value.culprits == {"m"}
    assert stage.server.record().record.dropped.keys() == {"m"}
    assert stage.play(updates_of(HONEST)).contributors == frozenset(HONEST)  # the next round does without it


def test_a_dealer_of_another_key_is_named_when_it_drops() -> None:
    stage = Stage(PROTOCOL, NAMES, steps={"m": AnotherKey()})
    with pytest.raises(RoundAborted) as caught:
        stage.play(updates_of(NAMES), gone={"m": 2})
    assert caught.value.culprits == {"m"}


@pytest.mark.parametrize("change", [rubbish, wrong_hash])
def test_a_dealer_cannot_make_one_holder_look_guilty(change: Any) -> None:
    """Only one holder gets a bad share: it says so with its vector, and the round ends well."""

    def to_a(context: Any, holder: str, dealt: SealedShares) -> SealedShares:
        return change(context, holder, dealt) if holder == "a" else dealt

    outcome = Stage(PROTOCOL, NAMES, steps={"m": with_shares(to_a)}).play(updates_of(NAMES))
    assert outcome.contributors == frozenset(NAMES)
    assert not outcome.dropped


def test_one_false_complaint_costs_nobody_anything() -> None:
    """A holder may say that somebody's shares did not open; alone it does not reach the threshold."""

    def complain(context: Any, state: Any, message: Any) -> Any:
        if isinstance(message, MaskedInput):
            return replace(message, unopened=frozenset(HONEST))
        if isinstance(message, Unmask):
            return Unmask({"m": message.reveals["m"]})
        return message

    outcome = Stage(PROTOCOL, NAMES, steps={"m": Liar(complain)}).play(updates_of(NAMES))
    assert outcome.contributors == frozenset(NAMES)
    assert not outcome.dropped


@pytest.mark.parametrize("unopened", [{"m"}, {"z"}, {"a", "z"}])
def test_impossible_complaints_are_refused(unopened: set[str]) -> None:
    def complain(exchange: int, name: str, message: bytes) -> bytes:
        if (exchange, name) != (2, "m"):
            return message
        return rewrite(message, replace(body_of(MaskedInput, message), unopened=frozenset(unopened)))

    outcome = Stage(PROTOCOL, NAMES).play(updates_of(NAMES), reply=complain)
    assert outcome.contributors == frozenset(HONEST)
    assert "complaint" in outcome.dropped["m"]
