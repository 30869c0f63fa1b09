"""A4: the server relays keys of its own in place of the other clients'.

The victim then deals the shares of its secrets to the server and makes its pair masks with the server: the
man in the middle of an unauthenticated key exchange (Bonawitz et al., CCS'17, section 6, sign the keys).
The weakened client does not look at the signatures; it is read in one round. Ours refuses.

For CkksSum and PaillierSum the same server would have the consortium's key sealed to itself, and then needs
no client to read everything.

Not covered: a roster that was wrong from the start. Agreeing on it is the one step outside the library.
"""

import hashlib
from dataclasses import replace
from types import SimpleNamespace
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
from protocols.masked.keys import RoundKeys, channel_key
from protocols.masked.messages import (
    AdvertiseKeys,
    CohortKeys,
    CohortTranscript,
    CollectInput,
    SealedShares,
    ShareKeys,
    SignedKeys,
    mask_transcript,
)
from protocols.schema import decode, encode
from secagg import labels
from secagg.aead import OVERHEAD, open_sealed
from secagg.agreement import PrivateKey, generate, public_key
from secagg.linear_mac import KEY_BYTES
from secagg.shamir import SHARE_BYTES
from tests.attacks.weakened import (
    Stage,
    Wire,
    body_of,
    is_read,
    rebuild,
    refused,
    request_of,
    strip,
    updates_of,
)

NAMES = ("a", "b", "c", "d")
VICTIM = "b"
MASKED = MaskedSum(max_clients=6)


def no_signatures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Roster, "verify", lambda *_, **__: None)


def put_between(stage: Stage) -> tuple[dict[str, RoundKeys], CohortKeys, dict[str, AdvertiseKeys]]:
    """The server's own keys for everybody but the victim, and the request that relays them."""
    outbox = stage.open(updates_of(NAMES), until=1)
    keys = dict(request_of(CohortKeys, outbox[VICTIM]).keys)
    ours = {name: RoundKeys.draw(stage.entropy(f"server as {name}")) for name in NAMES if name != VICTIM}
    forged = {
        name: AdvertiseKeys(each.channel_public, each.mask_public, 3, bytes(64))
        for name, each in ours.items()
    }
    return ours, CohortKeys({**keys, **forged}), keys


def test_without_signatures_the_victim_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    no_signatures(monkeypatch)
    stage, updates = Stage(MASKED, NAMES), updates_of(NAMES)
    ours, relayed, _ = put_between(stage)
    dealt = body_of(ShareKeys, stage.tell(VICTIM, stage.request(1, relayed)))
    suite = MASKED.suite
    cohort_digest = CohortTranscript(
        suite.digest, stage.session, 0, NAMES, 24, suite.plan(4).threshold, relayed.keys
    ).digest()
    self_shares, pair_shares = {}, {}
    for holder, keys in ours.items():
        key = channel_key(
            PrivateKey(keys.channel),
            relayed.keys[VICTIM].channel_key,
            transcript=cohort_digest,
            sender=VICTIM,
            receiver=holder,
        )
        plain = open_sealed(key, dealt.shares[holder].sealed, associated_data=cohort_digest).reveal()
        self_shares[holder], pair_shares[holder] = plain[:SHARE_BYTES], plain[SHARE_BYTES:]
    rubbish = SealedShares(bytes(2 * SHARE_BYTES + OVERHEAD), bytes(32), bytes(32))
    collect = CollectInput(dict.fromkeys(ours, rubbish), b"")
    stage.wire.append(Wire(False, 2, VICTIM, stage.tell(VICTIM, stage.request(2, collect), updates[VICTIM])))
    view = SimpleNamespace(
        holders=NAMES,
        threshold=suite.plan(4).threshold,
        dealt=dict.fromkeys(NAMES),
        keys=relayed.keys,
        transcript=mask_transcript(cohort_digest=cohort_digest, dealers=NAMES, model=b""),
    )
    seed, round_secret = rebuild(view, self_shares), rebuild(view, pair_shares)
    words = strip(stage, VICTIM, seed=seed, round_secret=round_secret, view=view)
    assert is_read(stage, words, updates[VICTIM])


def test_ours_deals_nothing_to_strange_keys() -> None:
    stage = Stage(MASKED, NAMES)
    _, relayed, honest = put_between(stage)
    assert refused(stage.tell(VICTIM, stage.request(1, relayed)))
    assert "not signed" in str(stage.clients[VICTIM].refusal)
    assert not refused(stage.tell(VICTIM, stage.request(1, CohortKeys(honest))))  # nothing was released


def test_one_key_in_place_of_one_is_enough_to_refuse() -> None:
    stage = Stage(MASKED, NAMES)
    _, relayed, honest = put_between(stage)
    for name in ("a", "c", "d"):
        assert refused(stage.tell(VICTIM, stage.request(1, CohortKeys({**honest, name: relayed.keys[name]}))))


@pytest.mark.parametrize("field", ["parameters", "session", "round", "cohort", "length", "client", "minimum"])
def test_a_signature_for_another_place_does_not_count(field: str) -> None:
    """The real client's signature, over real keys, but for another round, cohort and so on."""
    stage = Stage(MASKED, NAMES)
    _, _, honest = put_between(stage)
    keys = RoundKeys.draw(stage.entropy("elsewhere"))
    signed = SignedKeys(
        MASKED.suite.digest, stage.session, 0, NAMES, 24, "a", keys.channel_public, keys.mask_public, 3
    )
    other: dict[str, Any] = {
        "parameters": bytes(32),
        "session": bytes(16),
        "round": 1,
        "cohort": NAMES[::-1],
        "length": 25,
        "client": "c",
        "minimum": 2,
    }

    def relay(statement: SignedKeys) -> bytes:
        signature = stage.identities["a"].key.sign(encode(statement), label=labels.KEY_ADVERTISEMENT)
        moved = AdvertiseKeys(keys.channel_public, keys.mask_public, 3, signature)
        return stage.tell(VICTIM, stage.request(1, CohortKeys({**honest, "a": moved})))

    assert refused(relay(replace(signed, **{field: other[field]})))
    assert not refused(relay(signed))


def test_invented_clients_are_refused() -> None:
    stage = Stage(MASKED, NAMES)
    _, _, honest = put_between(stage)
    keys = RoundKeys.draw(stage.entropy("nobody"))
    stranger = AdvertiseKeys(keys.channel_public, keys.mask_public, 3, bytes(64))
    assert refused(stage.tell(VICTIM, stage.request(1, CohortKeys({**honest, "z": stranger}))))


# The consortium's key


def ask_for_the_key(stage: Stage) -> tuple[dict[str, Any], bytes]:
    """The server asks a custodian to seal the key to keys of the server's own."""
    stage.open(updates_of(NAMES), until=1)
    private = {name: generate(stage.entropy(f"server as {name}")) for name in NAMES if name != VICTIM}
    forged = {name: ConsortiumKeys(public_key(key), bytes(64)) for name, key in private.items()}
    request = Distribute(stage.protocol.suite.digest, NAMES, 24, forged)
    return private, stage.tell(VICTIM, stage.request(1, request))


def test_without_signatures_the_server_gets_the_consortium_key(monkeypatch: pytest.MonkeyPatch) -> None:
    no_signatures(monkeypatch)
    protocol = CkksSum(max_clients=6)
    stage, updates = Stage(protocol, NAMES), updates_of(NAMES)
    private, answer = ask_for_the_key(stage)
    sealed = body_of(DistributeKey, answer)
    distribution = SignedDistribution(
        protocol.suite.digest,
        stage.session,
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
        "a",
        collect.key_id,
        hashlib.sha256(collect.delivery.public).digest(),
        collect.delivery.channel_key,
    )
    signature = server.key.sign(encode(distribution), label=labels.CONSORTIUM_SEAL)
    forged = replace(collect, delivery=replace(collect.delivery, signature=signature))
    assert refused(stage.tell("b", stage.request(2, forged)))
    assert not refused(stage.tell("b", stage.request(2, collect), updates_of(NAMES)["b"]))
