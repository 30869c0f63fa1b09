"""B3: a dealer deals wrong shares, wrong hashes, wrong pair secrets.

Its masks are in everybody's vectors already when its shares are needed. The round is lost, the dealer is
named, and nobody else is blamed; every lie of a dealer that we could think of is tried, in the first dealing
of an epoch and in the one that rides on Unmask. A dealer that deceives only one holder costs nothing.

Holders compare what they were dealt with the hashes before they say that they hold it; the server compares
what both ends of an edge say before a vector is made from it. Where one of these is missing, an honest holder
looks guilty, or a round is lost that need not be.

Not covered: that such a round ends with a sum. That needs publicly verifiable shares. And one lie is told to
clients only: who lies about the pair secrets of a first dealing is named in the refusals of those who stand
behind it in the cohort, which the server keeps as reasons but cannot judge.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any
from unittest.mock import ANY

import pytest

from protocols import MaskedSum, RoundAborted
from protocols.masked import collecting, server
from protocols.masked import dealing as dealing_module
from protocols.masked.client import MaskedClientSteps
from protocols.masked.dealing import sign_dealing
from protocols.masked.messages import (
    COMMITMENT_BYTES,
    HASHES_BYTES,
    SEALED_BYTES,
    SHARE_BYTES,
    CohortKeys,
    MaskedInput,
    Quorum,
    ShareKeys,
    Unmask,
    columns,
)
from protocols.masked.states import View
from secagg.secret import Secret
from secagg.shamir import split
from secagg.standard.agreement import public_key
from secagg.standard.kem import DecapsulationKey
from tests.attacks.weakened import Advertises, Stage, body_of, updates_of

NAMES = "abcdefm"
HONEST = "abcdef"
ORDERS = ["m" + HONEST, "abcmdef", HONEST + "m"]
PROTOCOL = MaskedSum(max_clients=8)
"""Of seven, five shares rebuild a secret and one client may be lost."""

Change = Callable[[ShareKeys, View, list[int]], ShareKeys]
"""(dealing, the dealer's view, the places of the other holders) to what it signs instead."""


class LyingDealer(MaskedClientSteps):
    """A dealer that changes what it deals for one round, and signs for it.

    Args:
        origin: 0 for the first dealing, 1 for the one that rides on Unmask in round 0.
    """

    def __init__(self, change: Change, *, origin: int = 0) -> None:
        self._change, self._origin = change, origin

    def react(self, context: Any, state: Any, request: Any) -> Any:
        step: Any = super().react(context, state, request)
        match getattr(step, "message", None):
            case ShareKeys() as mine if context.round == self._origin == 0:
                there = sorted(step.state.keys)
                return replace(step, message=self._lied(context, step.state.view, mine, there))
            case Unmask() as mine if step.state.prepared.origin == self._origin != 0:
                there = sorted(step.state.prepared.edges)
                following = self._lied(context, step.state.view, mine.next, there)
                return replace(step, message=Unmask(mine.kinds, mine.shares, following))
        return step

    def _lied(self, context: Any, view: View, dealing: ShareKeys, there: list[int]) -> ShareKeys:
        epoch = view.epoch
        present = epoch.members.bitmap([epoch.cohort[place] for place in sorted({*there, view.me})])
        unsigned = self._change(dealing, view, there)
        return sign_dealing(context, epoch, unsigned, origin=self._origin, present=present)


class BadSplit(LyingDealer):
    """Deals other shares than those of its secrets, with the right hashes, sealed as they should be."""

    def __init__(self, split: Callable[..., Any], *, origin: int = 0) -> None:
        super().__init__(lambda dealing, view, there: dealing, origin=origin)
        self._split = split

    def react(self, context: Any, state: Any, request: Any) -> Any:
        with pytest.MonkeyPatch.context() as patch:
            if isinstance(request, Quorum if self._origin else CohortKeys):
                patch.setattr(dealing_module, "split", self._split)
            return super().react(context, state, request)


def outside_the_field(secret: Any, *, indices: Any, **_: Any) -> Any:
    class Large:
        def encode(self) -> bytes:
            return b"\xff" * SHARE_BYTES

    return [Large() for _ in indices]


def of_no_polynomial(secret: Any, *, threshold: int, indices: Any, entropy: Any) -> Any:
    """Each share from another polynomial."""
    return [
        split(secret, threshold=threshold, indices=indices, entropy=entropy)[place]
        for place in range(len(indices))
    ]


def every_hash(kind: int, value: bytes) -> Change:
    def change(dealing: ShareKeys, view: View, there: list[int]) -> ShareKeys:
        pieces = columns(dealing.hashes, COMMITMENT_BYTES)
        pieces[kind::2] = [value] * len(pieces[kind::2])
        return replace(dealing, hashes=b"".join(pieces))

    return change


def rotated(dealing: ShareKeys, view: View, there: list[int]) -> ShareKeys:
    """To each holder the hashes of the next one's shares."""
    return replace(dealing, hashes=dealing.hashes[HASHES_BYTES:] + dealing.hashes[:HASHES_BYTES])


def rubbish(dealing: ShareKeys, view: View, there: list[int]) -> ShareKeys:
    return replace(dealing, sealed=bytes(len(dealing.sealed)))


def misdirected(dealing: ShareKeys, view: View, there: list[int]) -> ShareKeys:
    """To each holder what is sealed to the next one."""
    return replace(dealing, sealed=dealing.sealed[SEALED_BYTES:] + dealing.sealed[:SEALED_BYTES])


def no_commitment(dealing: ShareKeys, view: View, there: list[int]) -> ShareKeys:
    return replace(dealing, self_commitment=bytes(32))


def no_round_commitment(dealing: ShareKeys, view: View, there: list[int]) -> ShareKeys:
    return replace(dealing, round_commitment=bytes(32))


def no_pairs(dealing: ShareKeys, view: View, there: list[int]) -> ShareKeys:
    return replace(dealing, pairs=bytes(len(dealing.pairs)))


def no_edges(dealing: ShareKeys, view: View, there: list[int]) -> ShareKeys:
    return replace(dealing, edges=bytes(len(dealing.edges)))


DEALERS: dict[str, Callable[[int], LyingDealer]] = {
    "rubbish": lambda origin: LyingDealer(rubbish, origin=origin),
    "somebody else's": lambda origin: LyingDealer(misdirected, origin=origin),
    "wrong hashes": lambda origin: LyingDealer(every_hash(0, bytes(16)), origin=origin),
    "wrong hashes of the other kind": lambda origin: LyingDealer(every_hash(1, bytes(16)), origin=origin),
    "hashes of another share": lambda origin: LyingDealer(rotated, origin=origin),
    "a wrong commitment": lambda origin: LyingDealer(no_commitment, origin=origin),
    "shares outside the field": lambda origin: BadSplit(outside_the_field, origin=origin),
    "shares of no polynomial": lambda origin: BadSplit(of_no_polynomial, origin=origin),
}


@pytest.mark.parametrize("origin", [0, 1])
@pytest.mark.parametrize("lie", DEALERS)
@pytest.mark.parametrize("names", ORDERS)
def test_a_lying_dealer_is_named_and_nobody_else(lie: str, names: str, origin: int) -> None:
    stage = Stage(PROTOCOL, names, steps={"m": DEALERS[lie](origin)})
    for _ in range(origin):
        stage.play(updates_of(names))
    with pytest.raises(RoundAborted) as caught:
        stage.play(updates_of(names))
    assert caught.value.culprits == {"m"}
    assert stage.server.record().record.dropped.keys() == {"m"}
    assert stage.play(updates_of(HONEST)).contributors == frozenset(HONEST)  # the next round does without it


@pytest.mark.parametrize("origin", [0, 1])
@pytest.mark.parametrize("change", [no_pairs, no_round_commitment])
@pytest.mark.parametrize("names", ORDERS)
def test_who_lies_about_its_pair_masks_is_named_when_it_drops(
    names: str, change: Change, origin: int
) -> None:
    if names[-1] == "m" and origin == 0 and change is no_pairs:
        names = "abcdemf"  # the last of the cohort leaves no pair secrets in a first dealing
    stage = Stage(PROTOCOL, names, steps={"m": LyingDealer(change, origin=origin)})
    for _ in range(origin):
        stage.play(updates_of(names))
    with pytest.raises(RoundAborted) as caught:
        stage.play(updates_of(names), gone={"m": 2})
    assert caught.value.culprits == {"m"}
    assert stage.play(updates_of(HONEST)).contributors == frozenset(HONEST)


def test_a_server_that_does_not_compare_edges_loses_a_round_to_who_lied_and_vanished(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(server, "disagreements", lambda *_: set())
    stage = Stage(PROTOCOL, NAMES, steps={"m": LyingDealer(no_edges, origin=1)})
    stage.play(updates_of(NAMES))
    with pytest.raises(RoundAborted, match="pair secret"):
        stage.play(updates_of(NAMES), gone={"m": 2})


def test_our_server_compares_them_and_loses_none() -> None:
    stage = Stage(PROTOCOL, NAMES, steps={"m": LyingDealer(no_edges, origin=1)})
    stage.play(updates_of(NAMES))
    assert stage.play(updates_of(NAMES), gone={"m": 2}).contributors == frozenset(HONEST)


@pytest.mark.parametrize("names", ORDERS)
def test_who_lies_about_edges_in_the_steady_state_begins_a_new_epoch_and_no_more(names: str) -> None:
    """Both ends say what the pair secret is, before any vector is made from it."""
    stage, data = Stage(PROTOCOL, names, steps={"m": LyingDealer(no_edges, origin=1)}), updates_of(names)
    assert stage.play(data).contributors == frozenset(names)
    assert stage.play(data).contributors == frozenset(names)
    assert min(wire.exchange for wire in stage.wire) == 0


def test_the_others_go_on_without_who_lied_about_edges() -> None:
    stage, data = Stage(PROTOCOL, NAMES, steps={"m": LyingDealer(no_edges, origin=1)}), updates_of(NAMES)
    stage.play(data)
    assert stage.play(updates_of(HONEST)).contributors == frozenset(HONEST)


@pytest.mark.parametrize("field", ["edges", "encapsulations"])
def test_who_lies_to_those_behind_it_is_named(field: str) -> None:
    """A first dealing: they cannot know which masks to make, so they refuse, and prove because of whom."""

    def change(dealing: ShareKeys, view: View, there: list[int]) -> ShareKeys:
        lied: Any = {field: bytes(len(getattr(dealing, field)))}
        return replace(dealing, **lied)

    stage = Stage(PROTOCOL, "abcmdef", steps={"m": LyingDealer(change)})
    with pytest.raises(RoundAborted) as caught:
        stage.play(updates_of("abcmdef"))
    assert caught.value.culprits == {"m"}
    reasons = stage.server.record().record.dropped
    assert reasons.keys() == set("mdef")
    assert all("the pair secret that 'm' sent" in reasons[name] for name in "def")
    assert stage.play(updates_of(HONEST)).contributors == frozenset(HONEST)


@pytest.mark.parametrize(
    ("field", "other"),
    [
        ("mask_key", public_key(Secret(bytes(32)))),
        ("mask_encapsulation", DecapsulationKey(Secret(bytes(64))).encapsulation_key),
    ],
    ids=["X25519", "ML-KEM"],
)
def test_a_dealer_of_another_key_is_named_when_it_drops(field: str, other: Any) -> None:
    """The X25519 half, or the ML-KEM half, does not follow from the secret that it deals."""
    stage = Stage(PROTOCOL, NAMES, steps={"m": Advertises(lambda mine: replace(mine, **{field: other}))})
    with pytest.raises(RoundAborted) as caught:
        stage.play(updates_of(NAMES), gone={"m": 2})
    assert caught.value.culprits == {"m"}


def one_holder(column: str) -> Change:
    """A lie to the first holder only."""
    size = {"sealed": SEALED_BYTES, "hashes": HASHES_BYTES}[column]

    def to_one(dealing: ShareKeys, view: View, there: list[int]) -> ShareKeys:
        lied: Any = {column: bytes(size) + getattr(dealing, column)[size:]}
        return replace(dealing, **lied)

    return to_one


def test_a_holder_that_does_not_compare_looks_guilty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(collecting, "share_hashes", lambda *_, **__: ANY)
    outcome = Stage(PROTOCOL, NAMES, steps={"m": LyingDealer(one_holder("hashes"))}).play(updates_of(NAMES))
    assert outcome.dropped.keys() == {"a"}
    assert "differs from the one that was dealt" in outcome.dropped["a"]


@pytest.mark.parametrize("origin", [0, 1])
@pytest.mark.parametrize("column", ["sealed", "hashes"])
def test_a_dealer_cannot_make_one_holder_look_guilty(column: str, origin: int) -> None:
    """Only one holder gets a bad share: it says so with its vector, and the round ends well."""
    stage = Stage(PROTOCOL, NAMES, steps={"m": LyingDealer(one_holder(column), origin=origin)})
    for _ in range(origin):
        stage.play(updates_of(NAMES))
    outcome = stage.play(updates_of(NAMES))
    assert outcome.contributors == frozenset(NAMES)
    assert not outcome.dropped
    complaint = body_of(
        MaskedInput, next(w.message for w in stage.wire if not w.down and w.exchange == 2 and w.client == "a")
    )
    assert complaint.unopened == bytes([1 << NAMES.index("m")])
