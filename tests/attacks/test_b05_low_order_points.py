"""B5: points of low order, malformed ML-KEM keys, and a client's own key echoed back to it.

With a public key of low order the shared secret is zero whatever the private key is (RFC 7748, section 6.1).
Where X25519 stands alone anybody derives the channel key then; MaskedSum's keys are hybrids, and the weakened
copies show what each half keeps. A malicious client that advertises such a key, or an ML-KEM key that fails
the modulus check of FIPS 203, must cost nobody but itself: the server looks first. A server that lets it
through meets clients that refuse.

An echoed key makes its owner share a secret with itself, which X25519 cannot tell from any other; ours
refuses, in every encoding of the point. Where the echo is caught decides who pays for it: see the last tests.

Not covered: a client that gives its private key away. That is a corrupt client, and counted as one.
"""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from protocols import CkksSum, MaskedSum, RoundAborted
from protocols.consortium import messages as consortium
from protocols.consortium.client import ConsortiumClientSteps
from protocols.machine.channels import first_seal_key
from protocols.masked import dealing
from protocols.masked.dealing import sealed_context
from protocols.masked.messages import SEALED_BYTES, AdvertiseKeys, ShareKeys, columns
from protocols.messages.envelope import Envelope
from protocols.messages.schema import encode
from secagg import labels
from secagg.errors import VerificationError
from secagg.secret import Secret
from secagg.shamir import SHARE_BYTES
from secagg.standard import agreement
from secagg.standard.aead import open_sealed
from secagg.standard.agreement import PrivateKey
from secagg.standard.kem import (
    CIPHERTEXT_BYTES,
    ENCAPSULATION_KEY_BYTES,
    SEED_BYTES,
    DecapsulationKey,
    encapsulate,
)
from tests.attacks.weakened import Advertises, Stage, body_of, refused, updates_of

# u-coordinates of order 1, 2, 4 and 8 on the curve and its twist (RFC 7748 names the check, not the list);
# then the ones that are not reduced modulo 2^255 - 19.
LOW_ORDER = {
    "zero": bytes(32),
    "one": b"\1" + bytes(31),
    "order 8": bytes.fromhex("e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800"),
    "order 8 again": bytes.fromhex("5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157"),
    "p - 1": ((1 << 255) - 20).to_bytes(32, "little"),
    "p": ((1 << 255) - 19).to_bytes(32, "little"),
    "p + 1": ((1 << 255) - 18).to_bytes(32, "little"),
    "zero, top bit set": bytes(31) + b"\x80",
}
NAMES = "abcdm"
HONEST = "abcd"
PROTOCOL = MaskedSum(max_clients=8)


def with_key(field: str, key: bytes) -> Advertises:
    change: Any = {field: key}
    return Advertises(lambda mine: replace(mine, **change))


def test_all_of_them_are_of_low_order() -> None:
    private = agreement.generate()
    for key in LOW_ORDER.values():
        with pytest.raises(VerificationError, match="low order"):
            agreement.agree(private, key)


@pytest.fixture
def forgiving(monkeypatch: pytest.MonkeyPatch) -> None:
    """X25519 as it comes out, zero included."""
    honest = PrivateKey.agree

    def agree(self: PrivateKey, public: bytes, *, own: bool = False) -> Secret:
        try:
            return honest(self, public, own=own)
        except VerificationError:
            return Secret(bytes(32))

    monkeypatch.setattr(PrivateKey, "agree", agree)


@pytest.fixture
def no_kem(monkeypatch: pytest.MonkeyPatch) -> None:
    """Channels that rest on X25519 alone."""
    monkeypatch.setattr(dealing, "encapsulate", lambda key: (Secret(bytes(32)), encapsulate(key)[1]))


def opened_by_an_outsider(stage: Stage) -> list[str]:
    """Whose shares for m open for somebody who has no key at all."""
    stage.open(updates_of(NAMES), until=2)
    epoch, opened = stage.summing.epoch, []
    holder = epoch.members.index("m")
    for dealer, message in stage.answers(1, ShareKeys).items():
        place = epoch.members.index(dealer)
        if place == holder:
            continue
        position = epoch.graph.neighbours(place).index(holder)
        key = first_seal_key(
            Secret(bytes(32)),
            Secret(bytes(32)),
            columns(message.encapsulations, CIPHERTEXT_BYTES)[position],
            epoch=epoch.digest,
            dealer=place,
            holder=holder,
        )
        bound = sealed_context(epoch.context(0), dealer=place, holder=holder)
        with suppress(VerificationError):
            plain = open_sealed(key, columns(message.sealed, SEALED_BYTES)[position], associated_data=bound)
            assert len(plain) == 2 * SHARE_BYTES
            opened.append(dealer)
    return opened


@pytest.mark.usefixtures("forgiving", "no_kem")
def test_without_both_anybody_opens_what_is_sealed_to_such_a_key() -> None:
    stage = Stage(PROTOCOL, NAMES, steps={"m": with_key("channel_key", LOW_ORDER["one"])})
    assert opened_by_an_outsider(stage) == list(HONEST)


@pytest.mark.usefixtures("forgiving")
def test_without_the_check_mlkem_still_keeps_it_shut() -> None:
    stage = Stage(PROTOCOL, NAMES, steps={"m": with_key("channel_key", LOW_ORDER["one"])})
    assert opened_by_an_outsider(stage) == []


class NoProbe(type(PROTOCOL.suite.server)):  # type: ignore[misc]
    """A server that relays whatever keys it gets."""

    def check(self, context: Any, state: Any, sender: str, reply: Any) -> Any:
        if isinstance(reply, AdvertiseKeys):
            return reply
        return super().check(context, state, sender, reply)

    def absorb(self, context: Any, state: Any, sender: str, reply: Any) -> Any:
        if isinstance(reply, AdvertiseKeys):
            state.keys[sender] = reply
            return state
        return super().absorb(context, state, sender, reply)


@pytest.mark.parametrize("field", ["channel_key", "mask_key"])
def test_a_server_that_lets_it_through_loses_the_round_to_one_client(field: str) -> None:
    stage = Stage(PROTOCOL, NAMES, steps={"m": with_key(field, LOW_ORDER["order 8"])}, server_steps=NoProbe())
    with pytest.raises(RoundAborted):
        stage.play(updates_of(NAMES))
    reasons = stage.server.record().record.dropped
    assert all("low order" in reasons[name] for name in HONEST)  # because every honest client refuses


@pytest.mark.parametrize("field", ["channel_key", "mask_key"])
@pytest.mark.parametrize("point", LOW_ORDER)
def test_ours_leaves_the_client_out_and_goes_on(field: str, point: str) -> None:
    data = updates_of(NAMES)
    outcome = Stage(PROTOCOL, NAMES, steps={"m": with_key(field, LOW_ORDER[point])}).play(data)
    assert outcome.total is not None
    assert outcome.dropped.keys() == {"m"}
    assert np.abs(outcome.total.mean - np.mean([data[n] for n in HONEST], axis=0)).max() < 1e-4


def test_one_key_for_both_purposes_is_refused() -> None:
    same = Advertises(lambda mine: replace(mine, mask_key=mine.channel_key))
    assert Stage(PROTOCOL, NAMES, steps={"m": same}).play(updates_of(NAMES)).dropped.keys() == {"m"}


# ML-KEM keys

TOO_LARGE = {
    "all ones": b"\xff" * ENCAPSULATION_KEY_BYTES,
    "first coefficient 3329": (3329).to_bytes(2, "little") + bytes(ENCAPSULATION_KEY_BYTES - 2),
    "last coefficient 4095": bytes(ENCAPSULATION_KEY_BYTES - 33) + b"\xff" + bytes(32),
}
KEM_FIELDS = ["channel_encapsulation", "mask_encapsulation"]


@pytest.mark.parametrize("key", TOO_LARGE)
def test_all_of_them_fail_the_modulus_check(key: str) -> None:
    with pytest.raises(VerificationError, match="modulus check"):
        encapsulate(TOO_LARGE[key])


@pytest.mark.parametrize("field", KEM_FIELDS)
def test_a_server_that_relays_it_loses_the_round_to_one_client(field: str) -> None:
    steps = {"m": with_key(field, TOO_LARGE["all ones"])}
    stage = Stage(PROTOCOL, NAMES, steps=steps, server_steps=NoProbe())
    with pytest.raises(RoundAborted):
        stage.play(updates_of(NAMES))
    reasons = stage.server.record().record.dropped
    assert all("modulus check" in reasons[name] for name in HONEST)


@pytest.mark.parametrize("field", KEM_FIELDS)
@pytest.mark.parametrize("key", TOO_LARGE)
def test_ours_leaves_out_who_advertises_it_and_goes_on(field: str, key: str) -> None:
    data = updates_of(NAMES)
    outcome = Stage(PROTOCOL, NAMES, steps={"m": with_key(field, TOO_LARGE[key])}).play(data)
    assert outcome.total is not None
    assert outcome.dropped.keys() == {"m"}
    assert np.abs(outcome.total.mean - np.mean([data[n] for n in HONEST], axis=0)).max() < 1e-4


@pytest.mark.parametrize("size", [0, ENCAPSULATION_KEY_BYTES - 1, ENCAPSULATION_KEY_BYTES + 1])
def test_an_encapsulation_key_of_another_size_does_not_decode(size: int) -> None:
    data = updates_of(NAMES)
    stage = Stage(PROTOCOL, NAMES)

    def resized(exchange: int, name: str, message: bytes) -> bytes:
        if (exchange, name) != (0, "m"):
            return message
        body = bytes(Envelope.decode(message).body)
        spoilt = body[:32] + body[32 : 32 + ENCAPSULATION_KEY_BYTES][:size].ljust(size, b"!")
        envelope = replace(Envelope.decode(message), body=spoilt + body[32 + ENCAPSULATION_KEY_BYTES :])
        return envelope.encode()

    assert stage.play(data, reply=resized).dropped.keys() == {"m"}


def only_its_owner_pays(stage: Stage, names: str) -> None:
    """The round ends well, or names the owner of the key and nobody else; the others go on without it."""
    data, named = updates_of(names), frozenset[str]()
    try:
        outcome = stage.play(data)
    except RoundAborted as error:
        named = error.culprits
        outcome = stage.play(updates_of(HONEST))
    assert named <= {"m"}
    assert outcome.contributors >= frozenset(HONEST)
    assert outcome.dropped.keys() <= {"m"}
    assert outcome.total is not None
    truth = np.mean([data[name] for name in sorted(outcome.contributors)], axis=0)
    assert np.abs(outcome.total.mean - truth).max() < 1e-4


@pytest.mark.parametrize("field", KEM_FIELDS)
@pytest.mark.parametrize("names", [HONEST + "m", "mabcd"])
def test_a_key_whose_secret_nobody_has_is_its_owners_loss(field: str, names: str) -> None:
    """Well-formed, and of no use to its owner: it alone loses what is encapsulated to it."""
    useless = DecapsulationKey(Secret(bytes(SEED_BYTES))).encapsulation_key
    only_its_owner_pays(Stage(PROTOCOL, names, steps={"m": with_key(field, useless)}), names)


# The consortium's set-up


class LowChannel(ConsortiumClientSteps):
    """A newcomer that asks for the consortium's key under a key of low order."""

    def react(self, context: Any, state: Any, request: Any) -> Any:
        step: Any = super().react(context, state, request)
        if isinstance(getattr(step, "message", None), consortium.AdvertiseKeys):
            signed = consortium.SignedKey(
                context.suite.digest, context.session, context.roster.digest, context.me, LOW_ORDER["one"]
            )
            signature = context.identity.key.sign(encode(signed), label=labels.CONSORTIUM_ADVERTISEMENT)
            return replace(step, message=consortium.AdvertiseKeys(LOW_ORDER["one"], signature))
        return step


def test_nobody_seals_a_consortium_key_to_such_a_point() -> None:
    protocol = CkksSum(max_clients=8)
    steps = LowChannel(protocol.suite.client._scheme)  # type: ignore[attr-defined]
    outcome = Stage(protocol, NAMES, steps={"m": steps}).play(updates_of(NAMES))
    assert outcome.contributors == frozenset(HONEST)
    assert "low order" in outcome.dropped["m"]


def test_a_custodian_refuses_when_the_server_passes_it_on() -> None:
    protocol = CkksSum(max_clients=8)
    steps = LowChannel(protocol.suite.client._scheme)  # type: ignore[attr-defined]
    stage = Stage(protocol, NAMES, steps={"m": steps})
    stage.open(updates_of(NAMES), until=1)
    newcomers = {
        each.client: body_of(consortium.AdvertiseKeys, each.message)
        for each in stage.wire
        if not each.down and each.client != "a"
    }
    request = consortium.Distribute(protocol.suite.digest, tuple(NAMES), 24, None, newcomers)
    assert refused(stage.tell("a", stage.request(1, request)))


# A key echoed back


def other_encoding(key: bytes) -> bytes:
    """The same point: X25519 ignores the top bit."""
    return key[:31] + bytes([key[31] ^ 0x80])


def echo(stage: Stage, owner: str, field: str, encoding: Callable[[bytes], bytes]) -> None:
    """The last client, who saw the owner's key on the network, advertises it as its own."""

    def change(mine: AdvertiseKeys) -> AdvertiseKeys:
        echoed: Any = {field: encoding(getattr(stage.clients[owner]._state.mine, field))}
        return replace(mine, **echoed)

    stage.steps = {"m": Advertises(change)}
    stage.clients["m"] = stage.join("m")


@pytest.mark.parametrize("field", ["channel_key", "mask_key"])
def test_an_echo_is_the_echos_loss(field: str) -> None:
    stage = Stage(PROTOCOL, NAMES)
    echo(stage, "a", field, bytes)
    only_its_owner_pays(stage, NAMES)


@pytest.mark.parametrize("field", ["channel_key", "mask_key"])
def test_an_echo_in_another_encoding_costs_the_echo_its_place(field: str) -> None:
    stage = Stage(PROTOCOL, NAMES)
    echo(stage, "a", field, other_encoding)
    outcome = stage.play(updates_of(NAMES))
    assert outcome.contributors == frozenset(HONEST)
    assert outcome.dropped.keys() == {"m"}


@pytest.mark.parametrize("field", ["channel_key", "mask_key"])
def test_clients_refuse_another_encoding_that_the_server_lets_through(field: str) -> None:
    stage = Stage(PROTOCOL, NAMES, server_steps=NoProbe())
    echo(stage, "a", field, other_encoding)
    with pytest.raises(RoundAborted):
        stage.play(updates_of(NAMES))
    assert all("canonical" in str(stage.clients[name].refusal) for name in HONEST)


@pytest.mark.parametrize("encoding", [bytes, other_encoding])
@pytest.mark.parametrize("steps", [None, NoProbe()], ids=["ours", "no probe"])
def test_two_clients_with_one_point_do_not_crash_the_server(
    encoding: Callable[[bytes], bytes], steps: Any
) -> None:
    """One of them drops after dealing; rebuilding its key, the server meets the same point at the other."""
    stage = Stage(PROTOCOL, "abcdlm", server_steps=steps)
    echo(stage, "l", "mask_key", encoding)
    with suppress(RoundAborted):
        stage.play(updates_of("abcdlm"), gone={"l": 2})


@pytest.mark.parametrize("field", KEM_FIELDS)
def test_an_echoed_encapsulation_key_is_the_echos_loss(field: str) -> None:
    """What is encapsulated to it opens for its owner, who lacks the other half of the hybrid."""
    stage = Stage(PROTOCOL, NAMES)
    echo(stage, "a", field, bytes)
    only_its_owner_pays(stage, NAMES)
