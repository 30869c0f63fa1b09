"""D6: a corrupt client copies an honest one's public keys, signs them first, and has their owner expelled.

Public keys are public: whoever sees the network has them before the server does. CCS'17, Figure 4, round 1,
asserts that all public keys differ. The weakened copies do so, as the library did. Its server takes the keys
of whoever is faster and expels the other one, which is the honest owner, and names it, in every round; its
clients refuse a cohort in which a key stands twice, and every round dies.

Ours asks nobody for keys that differ. A key proves nothing but that its owner can use it: the copier cannot,
so its shares do not open, its pair secrets are not what it signs for, and it is named for that. Nor does a
copy weaken anything. Whatever is derived from two parties' keys is bound to both places in the cohort, so
that the masks and seals of two clients with one key are independent, even if they share the private key too;
and what the server rebuilds of the copier is a secret that the copier has drawn itself.

Not covered: a client that gives its private keys away. Then whoever has them is that client.
"""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import Any
from unittest.mock import ANY

import numpy as np
import pytest

from protocols import Adversary, MaskedSum, Outcome, PeerViolation, Requirements, RoundAborted
from protocols.machine.channels import chain_key, first_seal_key, pair_bytes, ratchet
from protocols.machine.suite import Declined
from protocols.masked import collecting, joining
from protocols.masked.client import MaskedClientSteps
from protocols.masked.epoch import Edge
from protocols.masked.keys import MaskKeys, first_pair_secret, pair_mask_seed
from protocols.masked.messages import (
    AdvertiseKeys,
    CollectInput,
    MaskedInput,
    PairKeyShare,
    ShareKeys,
    Unmask,
)
from protocols.masked.server import MaskedServerSteps
from protocols.masked.states import Dealt, Idle
from protocols.messages.envelope import Refusal
from secagg.errors import VerificationError
from secagg.secret import Secret
from tests.attacks.recorded import Recorded, Recorder, every_key
from tests.attacks.unmasked import is_read, pair_secrets, rebuild, revealed, strip
from tests.attacks.weakened import (
    Advertises,
    Curious,
    Hook,
    Stage,
    Vector,
    Wire,
    body_of,
    refused,
    rewrite,
    updates_of,
)
from tests.protocols.liars import fields_of, signed_dealing, spoilt

COPIER, OWNER = "m", "v"
ORDERS = ["mvabcde", "vabcdem", "abmcdve", "abvcdme", "abcdevm"]
"""Cohorts of seven: the copier before its victim and behind it, next to it and far away."""
HONEST = "abcdev"
PROTOCOL = MaskedSum(max_clients=10)
KEYS = ("channel_key", "channel_encapsulation", "mask_key", "mask_encapsulation")
COPIES: dict[str, tuple[str, ...]] = {
    **{key: (key,) for key in KEYS},
    "both X25519 keys": ("channel_key", "mask_key"),
    "both ML-KEM keys": ("channel_encapsulation", "mask_encapsulation"),
    "all": KEYS,
}
SENT = f"the pair secret that {COPIER!r} sent"


class Copier(Advertises):
    """Signs for another client's keys in the place of its own, for some of them."""

    def __init__(self, seen: Callable[[], AdvertiseKeys], fields: tuple[str, ...]) -> None:
        super().__init__(lambda mine: replace(mine, **{each: getattr(seen(), each) for each in fields}))


class Twin(MaskedClientSteps):
    """A copier that has the private keys as well: more than any copier has."""

    def __init__(self, seen: Callable[[], Any]) -> None:
        self._seen = seen

    def react(self, context: Any, state: Any, request: Any) -> Any:
        step: Any = super().react(context, state, request)
        if not isinstance(getattr(step, "message", None), AdvertiseKeys):
            return step
        keys = {each: getattr(self._seen().mine, each) for each in KEYS}
        twin = Advertises(lambda mine: replace(mine, **keys)).react(context, state, request)
        return replace(twin, state=replace(twin.state, secrets=self._seen().secrets))


def on_stage(
    names: str,
    steps: Callable[[Stage], MaskedClientSteps],
    *,
    protocol: MaskedSum = PROTOCOL,
    server_steps: MaskedServerSteps | None = None,
) -> Stage:
    stage = Stage(protocol, names, server_steps=server_steps)
    stage.steps = {COPIER: steps(stage)}
    stage.clients[COPIER] = stage.join(COPIER)
    return stage


def copying(fields: tuple[str, ...]) -> Callable[[Stage], MaskedClientSteps]:
    return lambda stage: Copier(lambda: stage.clients[OWNER]._state.mine, fields)


def twin(stage: Stage) -> MaskedClientSteps:
    return Twin(lambda: stage.clients[OWNER]._state)


def faster(stage: Stage) -> dict[str, Hook]:
    """The copier sees its victim's keys on the network, and its own message arrives first."""
    late: list[bytes] = []
    arrived: list[bytes] = []

    def request(exchange: int, name: str, message: bytes) -> bytes:
        if (exchange, name) == (0, COPIER):
            stage.clients[OWNER].receive(message)  # it answers everybody the same, and so this again later
        return message

    def reply(exchange: int, name: str, message: bytes) -> bytes | None:
        if exchange == 0 and name == OWNER and not arrived:
            late.append(message)
            return None
        if (exchange, name) == (0, COPIER):
            arrived.append(message)
            for client, each in [(COPIER, message), *((OWNER, each) for each in late)]:
                stage.wire.append(Wire(False, 0, client, each))
                with suppress(PeerViolation):
                    stage.server.receive(client, each)
            return None
        return message

    return {"request": request, "reply": reply}


def assert_right(outcome: Outcome, updates: dict[str, Vector], contributors: str) -> None:
    assert outcome.contributors == frozenset(contributors)
    assert outcome.total is not None
    truth = np.mean([updates[name] for name in contributors], axis=0)
    assert np.abs(outcome.total.mean - truth).max() < 1e-4


# Keys that must differ


class AllDiffer(MaskedServerSteps):
    """A server that takes nobody's key twice."""

    def absorb(self, context: Any, state: Any, sender: str, reply: Any) -> Any:
        if isinstance(reply, AdvertiseKeys):
            taken = {key for each in state.keys.values() for key in (each.channel_key, each.mask_key)}
            if taken & {reply.channel_key, reply.mask_key}:
                raise PeerViolation("a public key that stands in the cohort already", culprit=sender)
        return super().absorb(context, state, sender, reply)


def ask_for_all_to_differ(monkeypatch: pytest.MonkeyPatch) -> None:
    """Clients that refuse a cohort in which a key stands twice."""
    honest = joining._check_keys

    def check(context: Any, state: Any, epoch: Any, neighbours: Any) -> None:
        every = (state.mine, *neighbours.values())
        public = [key for each in every for key in (each.channel_key, each.mask_key)]
        if len(set(public)) != len(public):
            raise PeerViolation("a public key stands in the cohort twice", culprit="server")
        honest(context, state, epoch, neighbours)

    monkeypatch.setattr(joining, "_check_keys", check)


@pytest.mark.parametrize("copied", ["channel_key", "mask_key", "both X25519 keys", "all"])
@pytest.mark.parametrize("names", ORDERS)
def test_where_all_keys_must_differ_the_honest_owner_is_expelled_and_named(names: str, copied: str) -> None:
    stage = on_stage(names, copying(COPIES[copied]), server_steps=AllDiffer())
    for _ in range(3):  # and in every round again
        with suppress(RoundAborted):
            stage.play(updates_of(names), **faster(stage))
        record = stage.server.record().record
        assert OWNER in record.culprits
        assert record.dropped[OWNER] == "a public key that stands in the cohort already"


@pytest.mark.parametrize("copied", ["channel_key", "mask_key", "all"])
@pytest.mark.parametrize("names", ["mvabcde", "abcdevm"])
def test_where_clients_ask_for_it_the_round_dies_and_nobody_is_named(
    names: str, copied: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask_for_all_to_differ(monkeypatch)
    stage = on_stage(names, copying(COPIES[copied]))
    for _ in range(2):
        with pytest.raises(RoundAborted) as aborted:
            stage.play(updates_of(names), **faster(stage))
        assert aborted.value.culprits == frozenset()
        lost = stage.server.record().record.dropped
        assert all("twice" in lost[name] for name in HONEST)


# Ours


def only_the_copier_pays(stage: Stage, names: str, *, gone: dict[str, int] | None = None) -> None:
    """The round ends with all who are honest, or it names the copier, and the next one ends without it."""
    updates = updates_of(names)
    with suppress(RoundAborted):
        stage.play(updates, gone=gone, **faster(stage))
    record = stage.server.record().record
    assert record.culprits <= {COPIER}
    lost = dict(record.dropped)
    if not record.aborted:
        assert lost.keys() <= {COPIER}
        there = "".join(name for name in names if name in record.contributors)
        assert set(there) >= set(HONEST)
        assert_right(stage.server.outcome(), updates, there)
    else:
        assert record.culprits == {COPIER}
        lost.pop(COPIER)
        assert all(
            SENT in reason for reason in lost.values()
        )  # whoever had to refuse, and says because of whom
    updates = updates_of(HONEST, seed=2)
    outcome = stage.play(updates)
    assert not outcome.dropped
    assert_right(outcome, updates, HONEST)


@pytest.mark.parametrize("gone", [None, 1, 2], ids=["stays", "vanishes at once", "vanishes later"])
@pytest.mark.parametrize("copied", COPIES)
@pytest.mark.parametrize("names", ORDERS)
def test_ours_never_loses_or_names_the_owner(names: str, copied: str, gone: int | None) -> None:
    stage = on_stage(names, copying(COPIES[copied]))
    only_the_copier_pays(stage, names, gone={COPIER: gone} if gone else None)


@pytest.mark.parametrize("copied", ["channel_key", "mask_key", "all"])
@pytest.mark.parametrize("adversary", [Adversary.SEMI_HONEST, Adversary.MALICIOUS])
def test_nor_does_it_under_another_adversary(adversary: Adversary, copied: str) -> None:
    protocol = MaskedSum(max_clients=10, requirements=Requirements(adversary=adversary))
    for names in ("abmcdve", "abvcdme"):
        only_the_copier_pays(on_stage(names, copying(COPIES[copied]), protocol=protocol), names)


class Brazen(Copier):
    """It contributes whatever it cannot make, and accuses nobody."""

    def react(self, context: Any, state: Any, request: Any) -> Any:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(collecting, "edge_hash", lambda *_, **__: ANY)
            return super().react(context, state, request)


@pytest.mark.slow
@pytest.mark.parametrize("vanishes", ["", OWNER, "a"], ids=["all stay", "the owner goes", "another goes"])
@pytest.mark.parametrize("copied", COPIES)
@pytest.mark.parametrize("names", ["abcdemv", "mabcdev", "vabcdem"])
def test_a_copier_that_goes_on_as_if_the_keys_were_its_own_frames_nobody(
    names: str, copied: str, vanishes: str
) -> None:
    """Its vector is in the sum, and the server meets its keys again when it rebuilds another's secret."""
    names, fields = "fgh" + names, COPIES[copied]
    stage = on_stage(names, lambda stage: Brazen(lambda: stage.clients[OWNER]._state.mine, fields))
    updates = updates_of(names)
    with suppress(RoundAborted):
        stage.play(updates, gone=dict.fromkeys(vanishes, 2), **faster(stage))
    record = stage.server.record().record
    assert "interrupted" not in record.aborted
    assert record.culprits <= {COPIER}
    assert record.aborted or record.contributors >= set(names) - {*vanishes, COPIER}
    honest = "fgh" + HONEST
    assert_right(stage.play(updates := updates_of(honest)), updates, honest)


@pytest.mark.parametrize("names", ORDERS)
def test_a_copy_with_its_owners_signature_costs_the_copier_its_place(names: str) -> None:
    """Nothing is signed anew: what the owner signed holds for the owner."""
    stage, updates = Stage(PROTOCOL, names), updates_of(names)
    hooks = faster(stage)

    def reply(exchange: int, name: str, message: bytes) -> bytes | None:
        if (exchange, name) == (0, COPIER):
            message = rewrite(message, stage.clients[OWNER]._state.mine)
        return hooks["reply"](exchange, name, message)

    outcome = stage.play(updates, request=hooks["request"], reply=reply)
    assert outcome.culprits == outcome.dropped.keys() == {COPIER}
    assert "signature" in outcome.dropped[COPIER]
    assert_right(outcome, updates, "".join(name for name in names if name != COPIER))


@pytest.mark.parametrize("names", ["mvabcde", "abcdevm"])
@pytest.mark.parametrize(("field", "copied"), [("mask_key", "channel_key"), ("channel_key", "mask_key")])
def test_a_key_for_the_other_purpose_is_no_better(names: str, field: str, copied: str) -> None:
    """The copier's channel key is the owner's mask key, which may be rebuilt; or the other way round."""

    def steps(stage: Stage) -> MaskedClientSteps:
        return Advertises(
            lambda mine: replace(
                mine,
                **{field: getattr(stage.clients[OWNER]._state.mine, copied)},
            )
        )

    only_the_copier_pays(on_stage(names, steps), names)


def test_only_ones_own_two_keys_must_differ() -> None:
    same = Advertises(lambda mine: replace(mine, mask_key=mine.channel_key))
    outcome = on_stage("abcdevm", lambda stage: same).play(updates := updates_of("abcdevm"))
    assert outcome.culprits == outcome.dropped.keys() == {COPIER}
    assert_right(outcome, updates, HONEST)


def test_several_copies_of_one_clients_keys() -> None:
    """All corrupt clients that are planned for copy the same owner."""
    names, liars = "abcdefg" + OWNER + "lm", "lm"
    assert PROTOCOL.plan(len(names)).corrupt == len(liars)
    stage = Stage(PROTOCOL, names)
    stage.steps = {liar: copying(KEYS)(stage) for liar in liars}
    for liar in liars:
        stage.clients[liar] = stage.join(liar)
    left = names

    def request(exchange: int, name: str, message: bytes) -> bytes:
        if exchange == 0 and name in liars:
            stage.clients[OWNER].receive(message)
        return message

    while True:
        with suppress(RoundAborted):
            reply = faster(stage)["reply"] if COPIER in left else None
            stage.play(updates := updates_of(left), request=request, reply=reply)
        record = stage.server.record().record
        assert record.culprits <= set(liars)
        if not record.aborted:
            break
        assert record.culprits
        left = "".join(name for name in left if name not in record.culprits)
    assert_right(stage.server.outcome(), updates, left)
    assert OWNER in left


# With another's proof


class AccusesWith(MaskedClientSteps):
    """Copies the owner's keys, and later accuses an honest client with the owner's own proof."""

    def __init__(self, stage: Stage, proofs: list[bytes], accused: str) -> None:
        self._copier = copying(KEYS)(stage)
        self._proofs, self._accused = proofs, accused

    def react(self, context: Any, state: Any, request: Any) -> Any:
        if isinstance(request, CollectInput) and isinstance(state, Dealt):
            return Declined(Idle(), "it did it", self._accused, self._proofs[0])
        return self._copier.react(context, state, request)


class WrongsTheOwner(MaskedClientSteps):
    """Another liar: one pair secret of its first dealing, the owner's, is not what it signed for."""

    def react(self, context: Any, state: Any, request: Any) -> Any:
        step: Any = super().react(context, state, request)
        if not isinstance(getattr(step, "message", None), ShareKeys):
            return step
        view = step.state.view
        place = view.epoch.members.index(OWNER) - view.me - 1  # among those behind it
        lie = signed_dealing(fields_of(edges=lambda column: spoilt(column, place, 16)))
        return replace(step, message=lie(context, step.state, step.message))


@pytest.mark.parametrize("accused", ["a", "h", OWNER])
def test_the_owners_proof_in_the_copiers_hands_frames_nobody(accused: str) -> None:
    """It fits the copier's keys, and with it comes out what the accused signed for."""
    names, proofs = "labcdefh" + OWNER + COPIER, list[bytes]()
    stage = Stage(PROTOCOL, names, steps={"l": WrongsTheOwner()})
    stage.steps = {**stage.steps, COPIER: AccusesWith(stage, proofs, accused)}
    stage.clients[COPIER] = stage.join(COPIER)
    hooks = faster(stage)

    def reply(exchange: int, name: str, message: bytes) -> bytes | None:
        if exchange == 2 and name == OWNER:
            assert refused(message)
            proofs.append(body_of(Refusal, message).proof)
        if exchange == 2 and name == "l":
            return None  # so that the round goes on
        return hooks["reply"](exchange, name, message)

    updates = updates_of(names)
    with suppress(RoundAborted):
        stage.play(updates, request=hooks["request"], reply=reply)
    record = stage.server.record().record
    assert len(proofs[0]) == 32
    assert record.culprits == {"l", COPIER}
    assert f"of a pair secret that is as {accused!r} signed for it" in record.dropped[COPIER]
    assert "the pair secret that 'l' sent" in record.dropped[OWNER]
    left = "abcdefh" + OWNER
    assert_right(stage.play(updates := updates_of(left)), updates, left)


# Why it is safe


@pytest.fixture
def derived(monkeypatch: pytest.MonkeyPatch) -> dict[int, dict[int, Edge]]:
    """What each client derived with each neighbour in the first dealing, by their places."""
    found: dict[int, dict[int, Edge]] = {}
    honest = collecting._first_edges

    def first_edges(state: Dealt, active: Any, request: CollectInput) -> dict[int, Edge]:
        found[state.view.me] = edges = honest(state, active, request)
        return edges

    monkeypatch.setattr(collecting, "_first_edges", first_edges)
    return found


@pytest.mark.parametrize("names", ORDERS)
def test_two_clients_of_one_private_key_share_no_mask_and_no_seal(
    names: str, derived: dict[int, dict[int, Edge]]
) -> None:
    stage, updates = on_stage(names, twin, server_steps=Curious()), updates_of(names)
    outcome = stage.play(updates, **faster(stage))
    assert not outcome.dropped  # whoever has the private keys is as good as their owner
    assert_right(outcome, updates, names)
    view = stage.summing
    owner, copier = stage.places([OWNER, COPIER])
    keys = stage.answers(0, AdvertiseKeys)
    assert all(getattr(keys[OWNER], each) == getattr(keys[COPIER], each) for each in KEYS)
    for place in set(range(len(names))) - {owner, copier}:
        one, other = derived[place][owner], derived[place][copier]
        secrets: list[Secret] = []
        for edge, peer in ((one, owner), (other, copier)):
            link = ratchet(edge.chain, epoch=view.epoch.digest, origin=1)
            pair = pair_bytes(place, peer)
            secrets += [
                edge.pair_secret,
                edge.incoming,
                derived[peer][place].incoming,
                edge.chain,
                pair_mask_seed(edge.pair_secret, transcript=view.transcript, pair=pair),
                link.pair_secret,
                *link.seals,
                link.following,
            ]
            assert derived[peer][place].pair_secret == edge.pair_secret  # both ends of it agree
        assert len({each.reveal() for each in secrets}) == len(secrets) == 18
    # The next round is made from the chains.
    assert_right(stage.play(updates), updates, names)
    assert min(wire.exchange for wire in stage.wire) == 2


def test_not_even_if_nothing_but_the_places_differed() -> None:
    """Every encapsulation is fresh. Were it the same too, the places would still keep all of it apart."""
    shared, first, second = (Secret(bytes([each]) * 32) for each in range(3))
    ciphertext, epoch = bytes(1088), bytes(32)
    seeds = set()
    for peer in (4, 5):  # the owner and the copier, for the client in place 2
        pair = pair_bytes(2, peer)
        seeds |= {
            first_pair_secret(shared, first, ciphertext, epoch=epoch, pair=pair).reveal(),
            chain_key(shared, first, second, epoch=epoch, pair=pair).reveal(),
            pair_mask_seed(shared, transcript=epoch, pair=pair).reveal(),
            first_seal_key(shared, first, ciphertext, epoch=epoch, dealer=2, holder=peer).reveal(),
            first_seal_key(shared, first, ciphertext, epoch=epoch, dealer=peer, holder=2).reveal(),
        }
    assert len(seeds) == 10


@pytest.mark.parametrize(
    "copied", [("mask_key",), ("mask_encapsulation",), ("mask_key", "mask_encapsulation")], ids=list
)
@pytest.mark.parametrize("names", ["vabcdem", "abcdevm"])
def test_what_is_rebuilt_of_a_copier_opens_nothing_of_the_owner(names: str, copied: tuple[str, ...]) -> None:
    """It vanishes after dealing, so that the holders give its secret away: one that it drew itself."""
    stage = on_stage(names, copying(copied), server_steps=Curious())
    updates = updates_of(names)
    with pytest.raises(RoundAborted, match="another secret than its mask keys come from") as aborted:
        stage.play(updates, gone={COPIER: 2}, **faster(stage))
    assert aborted.value.culprits == {COPIER}
    recorder, view = Recorder(stage), stage.summing
    played = Recorded(
        0,
        view,
        stage.answers(0, AdvertiseKeys),
        stage.answers(1, ShareKeys),
        {client: each.vector for client, each in stage.answers(2, MaskedInput).items()},
        stage.answers(stage.unmasking, Unmask),
    )
    recorder.rounds.append(played)
    rebuilt = rebuild(view, COPIER, revealed(view, played.unmasked, COPIER, PairKeyShare))
    theirs, mask = played.keys[OWNER], MaskKeys(rebuilt)
    assert mask.agreement.public_key != theirs.mask_key
    assert mask.encapsulation.encapsulation_key != theirs.mask_encapsulation
    keys = {key.reveal(): key for key in every_key(recorder, COPIER, rebuilt)}
    keys |= {key.reveal(): key for key in every_key(recorder, OWNER, rebuilt)}
    opened = {(blob.dealer, blob.holder) for blob in recorder.opened_by(keys.values())}
    assert opened == {(COPIER, "")}  # what it left with the server itself
    with pytest.raises(VerificationError):
        pair_secrets(view, OWNER, rebuilt)
    own = pair_secrets(view, COPIER, rebuilt)
    for name in played.vectors:
        seed = rebuild(view, name, revealed(view, played.unmasked, name))
        words = strip(stage, name, seed=seed, pairs={COPIER: own[name]})
        assert not is_read(stage, words, updates[name])


@pytest.mark.parametrize("names", ["vabcdem", "abcdevm", "mabcdev"])
def test_what_is_rebuilt_of_the_owner_opens_nothing_more_because_of_a_copy(names: str) -> None:
    """Of the copier's edges it does. That is a corrupt client's own loss, and no vector but its own opens."""
    stage = on_stage(names, twin, server_steps=Curious())
    recorder, updates = Recorder(stage), updates_of(names)
    played = recorder.play(updates, gone={OWNER: 2}, **faster(stage))
    there = "".join(name for name in names if name != OWNER)
    assert_right(stage.server.outcome(), updates, there)
    view = played.view
    rebuilt = rebuild(view, OWNER, revealed(view, played.unmasked, OWNER, PairKeyShare))
    keys = {key.reveal(): key for key in every_key(recorder, OWNER, rebuilt)}
    opened = {(blob.dealer, blob.holder) for blob in recorder.opened_by(keys.values())}
    assert opened == {(OWNER, ""), (COPIER, "")}
    pairs = {peer: pair_secrets(view, peer, rebuilt) for peer in (OWNER, COPIER)}
    for name in set(there) - {COPIER}:
        assert pairs[OWNER][name] != pairs[COPIER][name]
        seed = rebuild(view, name, revealed(view, played.unmasked, name))
        words = strip(stage, name, seed=seed, pairs={peer: each[name] for peer, each in pairs.items()})
        assert not is_read(stage, words, updates[name])
