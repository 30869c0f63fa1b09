"""A4: the server relays keys of its own in place of the other clients'.

The victim then deals the shares of its secrets to the server and makes its pair masks with the server: the
man in the middle of an unauthenticated key exchange (Bonawitz et al., CCS'17, section 6, sign the keys).
The weakened client does not look at the signatures; it is read in one round. Ours refuses, whichever of a
neighbour's four public keys is not its own, X25519 or ML-KEM.

For CkksSum and PaillierSum the same server would have the consortium's key sealed to itself, and then needs
no client to read everything.

Not covered: a roster that was wrong from the start. Agreeing on it is the one step outside the library.
"""

import hashlib
from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any

import pytest

from protocols import CkksSum, MaskedSum, PaillierSum
from protocols.consortium.client import _seal_key
from protocols.consortium.messages import (
    AdvertiseKeys as ConsortiumKeys,
)
from protocols.consortium.messages import (
    Collect,
    ConsortiumSecret,
    Contribution,
    Distribute,
    DistributeKey,
    SignedDistribution,
)
from protocols.identity import Identity, Roster
from protocols.masked.keys import EpochKeys, MaskKeys
from protocols.masked.messages import AdvertiseKeys, CohortKeys
from protocols.masked.server import MaskedServerSteps
from protocols.masked.transcript import SignedKeys, cohort_digest
from protocols.messages.schema import decode, encode
from secagg import labels
from secagg.standard.aead import open_sealed
from secagg.standard.agreement import PrivateKey, generate, public_key
from secagg.standard.kem import DecapsulationKey
from secagg.standard.merkle import Tree
from secagg.vectors.linear_mac import KEY_BYTES
from tests.attacks.stories import Story
from tests.attacks.unmasked import is_read
from tests.attacks.views import tell_stories
from tests.attacks.weakened import LENGTH, Stage, body_of, refused, request_of, updates_of

NAMES = ("a", "b", "c", "d")
VICTIM = "b"
OTHERS = ("a", "c", "d")
MASKED = MaskedSum(max_clients=6)
KEY_FIELDS = ("channel_key", "channel_encapsulation", "mask_key", "mask_encapsulation")


class Trusting(Roster):
    """A roster that takes everybody's word."""

    def verify(self, client: str, signature: bytes, message: bytes, *, label: bytes) -> None:
        pass


class Relaying(MaskedServerSteps):
    """A server that checks no signature: it made them itself."""

    def check(self, context: Any, state: Any, sender: str, reply: Any) -> Any:
        return super().check(replace(context, roster=Trusting(context.roster.keys)), state, sender, reply)


def between() -> Stage:
    """A stage on which all but the victim are the server's puppets: real clients with keys of its own."""
    stage = Stage(MASKED, NAMES, server_steps=Relaying())
    for name in OTHERS:
        puppet: Any = stage.clients[name]
        puppet._identity = Identity.generate(name, entropy=stage.entropy(f"the server as {name}"))
        puppet._roster = Trusting(stage.roster.keys)
    return stage


def test_without_signatures_the_victim_is_read() -> None:
    stage, updates = between(), updates_of(NAMES)
    victim: Any = stage.clients[VICTIM]
    victim._roster = Trusting(stage.roster.keys)
    everybody = frozenset(NAMES)
    coalition = tell_stories(stage, updates, {VICTIM: Story(everybody, everybody)}, OTHERS)
    assert coalition.opens(VICTIM, updates)


def test_ours_deals_nothing_to_strange_keys() -> None:
    stage = between()
    outbox = stage.open(updates_of(NAMES), until=1)
    assert refused(stage.tell(VICTIM, outbox[VICTIM]))
    assert "not signed" in str(stage.clients[VICTIM].refusal)


# One key of one neighbour


def honest_keys(stage: Stage) -> CohortKeys:
    return request_of(CohortKeys, stage.open(updates_of(NAMES), until=1)[VICTIM])


def with_keys(request: CohortKeys, client: str, keys: AdvertiseKeys) -> CohortKeys:
    """The same with other keys of one neighbour."""
    relayed = list(request.keys)
    relayed[OTHERS.index(client)] = keys
    return replace(request, keys=tuple(relayed))


def strange_keys(stage: Stage) -> AdvertiseKeys:
    """Keys whose private halves the server has."""
    drawn = EpochKeys.draw(stage.entropy("the server's own"))
    mask = MaskKeys(drawn.round_secret)
    return AdvertiseKeys(
        PrivateKey(drawn.channel).public_key,
        DecapsulationKey(drawn.channel_seed).encapsulation_key,
        mask.agreement.public_key,
        mask.encapsulation.encapsulation_key,
        3,
        bytes(64),
    )


def refuses_and_goes_on(stage: Stage, spoilt: CohortKeys, honest: CohortKeys) -> bool:
    """Whether the victim refuses; it must then not have released anything."""
    answer = stage.tell(VICTIM, stage.request(1, spoilt))
    return refused(answer) and not refused(stage.tell(VICTIM, stage.request(1, honest)))


@pytest.mark.parametrize("name", KEY_FIELDS)
@pytest.mark.parametrize("client", OTHERS)
def test_one_key_in_place_of_one_is_enough_to_refuse(client: str, name: str) -> None:
    stage = Stage(MASKED, NAMES)
    honest = honest_keys(stage)
    keys = honest.keys[OTHERS.index(client)]
    spoilt = replace(keys, **{name: getattr(strange_keys(stage), name)})
    assert refuses_and_goes_on(stage, with_keys(honest, client, spoilt), honest)


def test_another_clients_keys_are_refused() -> None:
    """They are signed, but by somebody else; and a client's own, echoed back."""
    stage = Stage(MASKED, NAMES)
    honest = honest_keys(stage)
    of_d = honest.keys[OTHERS.index("d")]
    mine: Any = stage.clients[VICTIM]._state
    assert refused(stage.tell(VICTIM, stage.request(1, with_keys(honest, "a", of_d))))
    assert refused(stage.tell(VICTIM, stage.request(1, replace(honest, keys=honest.keys[::-1]))))
    assert refuses_and_goes_on(stage, with_keys(honest, "a", mine.mine), honest)


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda request, keys: replace(request, keys=(*request.keys, keys)), id="one too many"),
        pytest.param(lambda request, keys: replace(request, keys=request.keys[:-1]), id="one too few"),
        pytest.param(lambda request, keys: replace(request, keys=()), id="none"),
        pytest.param(lambda request, keys: replace(request, advertised=b"\x1f"), id="a bit too many"),
        pytest.param(lambda request, keys: replace(request, advertised=b"\x0d"), id="not itself"),
        pytest.param(lambda request, keys: replace(request, root=bytes(32)), id="another root"),
        pytest.param(lambda request, keys: replace(request, path=request.path[::-1]), id="another path"),
    ],
)
def test_neighbours_are_neither_invented_nor_left_out(
    change: Callable[[CohortKeys, AdvertiseKeys], CohortKeys],
) -> None:
    stage = Stage(MASKED, NAMES)
    honest = honest_keys(stage)
    assert refuses_and_goes_on(stage, change(honest, strange_keys(stage)), honest)


def test_own_keys_that_were_changed_are_seen_in_the_root() -> None:
    """The others would be told the server's keys as the victim's; the root then has another leaf."""
    stage = Stage(MASKED, NAMES)
    honest = honest_keys(stage)
    of: dict[str, Any] = dict(zip(OTHERS, honest.keys, strict=True))
    of[VICTIM] = strange_keys(stage)
    tree = Tree([encode(of[name]) for name in NAMES])
    spoilt = replace(honest, root=tree.root, path=tree.path(NAMES.index(VICTIM)))
    assert refuses_and_goes_on(stage, spoilt, honest)


@pytest.mark.parametrize("field", ["parameters", "session", "round", "roster", "cohort", "length", "client"])
def test_a_signature_for_another_place_does_not_count(field: str) -> None:
    """The real client's signature, over real keys, but for another round, cohort and so on."""
    stage = Stage(MASKED, NAMES)
    honest = honest_keys(stage)
    keys = strange_keys(stage)
    place: dict[str, Any] = {
        "parameters": MASKED.suite.digest,
        "session": stage.session,
        "round": 0,
        "roster": stage.roster.digest,
        "cohort": cohort_digest(NAMES),
        "length": LENGTH,
        "client": "a",
    }
    other: dict[str, Any] = {
        "parameters": bytes(32),
        "session": bytes(16),
        "round": 1,
        "roster": bytes(32),
        "cohort": cohort_digest(NAMES[::-1]),
        "length": LENGTH + 1,
        "client": "c",
    }

    def relay(where: dict[str, Any]) -> bytes:
        statement = SignedKeys.of(keys, **where)
        signature = stage.identities["a"].key.sign(statement, label=labels.KEY_ADVERTISEMENT)
        return stage.tell(
            VICTIM, stage.request(1, with_keys(honest, "a", replace(keys, signature=signature)))
        )

    assert {each.name for each in fields(SignedKeys)} - {"keys"} == place.keys()
    assert refused(relay({**place, field: other[field]}))
    assert not refused(relay(place))


def test_the_minimum_is_signed_too() -> None:
    """A neighbour's policy binds who holds its shares, so the server must not talk it down."""
    stage = Stage(MASKED, NAMES)
    honest = honest_keys(stage)
    lowered = replace(honest.keys[0], minimum=honest.keys[0].minimum - 1)
    assert refuses_and_goes_on(stage, with_keys(honest, "a", lowered), honest)


# The consortium's key


def ask_for_the_key(stage: Stage) -> tuple[dict[str, Any], bytes]:
    """The server asks a custodian to seal the key to keys of the server's own."""
    stage.open(updates_of(NAMES), until=1)
    private = {name: generate(stage.entropy(f"server as {name}")) for name in NAMES if name != VICTIM}
    forged = {name: ConsortiumKeys(public_key(key), bytes(64)) for name, key in private.items()}
    request = Distribute(stage.protocol.suite.digest, NAMES, 24, None, forged)
    return private, stage.tell(VICTIM, stage.request(1, request))


def test_without_signatures_the_server_gets_the_consortium_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Roster, "verify", lambda *_, **__: None)
    protocol = CkksSum(max_clients=6)
    stage, updates = Stage(protocol, NAMES), updates_of(NAMES)
    private, answer = ask_for_the_key(stage)
    sealed = body_of(DistributeKey, answer)
    distribution = SignedDistribution(
        protocol.suite.digest,
        stage.session,
        stage.roster.digest,
        VICTIM,
        sealed.key_id,
        hashlib.sha256(sealed.public).digest(),
        sealed.channel_key,
    )
    key = _seal_key(private["a"], sealed.channel_key, distribution, receiver="a")
    opened = open_sealed(key, sealed.sealed["a"], associated_data=encode(distribution))
    secret = decode(ConsortiumSecret, opened.reveal())
    assert len(secret.mac_key) == KEY_BYTES
    collect = Collect(protocol.suite.digest, NAMES, 24, sealed.key_id, None, b"")
    contribution = body_of(Contribution, stage.tell(VICTIM, stage.request(2, collect), updates[VICTIM]))
    scheme = protocol.scheme(protocol.surface)
    values = scheme.open_key(secret.private_key).decrypt(contribution.vector, count=25, summands=1)
    assert is_read(stage, values.astype(protocol.surface.ring.dtype), updates[VICTIM])


@pytest.mark.parametrize("protocol", [CkksSum(max_clients=6), PaillierSum(max_clients=6, key_bits=2048)])
def test_our_custodian_seals_to_the_roster_only(protocol: Any) -> None:
    stage = Stage(protocol, NAMES)
    _, answer = ask_for_the_key(stage)
    assert refused(answer)


def test_a_delivery_of_a_stranger_is_refused() -> None:
    """The server as custodian: it would know the key, but nobody in the roster signs for it."""
    stage = Stage(CkksSum(max_clients=6), NAMES)
    server = Identity.generate("a", entropy=stage.entropy("the server's idea of a"))

    outbox = stage.open(updates_of(NAMES), until=2)
    collect = request_of(Collect, outbox["b"])
    assert collect.delivery is not None
    distribution = SignedDistribution(
        stage.protocol.suite.digest,
        stage.session,
        stage.roster.digest,
        "a",
        collect.key_id,
        hashlib.sha256(collect.delivery.public).digest(),
        collect.delivery.channel_key,
    )
    signature = server.key.sign(encode(distribution), label=labels.CONSORTIUM_SEAL)
    forged = replace(collect, delivery=replace(collect.delivery, signature=signature))
    assert refused(stage.tell("b", stage.request(2, forged)))
    assert not refused(stage.tell("b", stage.request(2, collect), updates_of(NAMES)["b"]))
