"""B5: points of low order, and a client's own key echoed back to it.

With a public key of low order the shared secret is zero whatever the private key is, so that anybody derives
the channel key or the pair mask (RFC 7748, section 6.1). A malicious client that advertises one must cost
nobody but itself: the server looks first. A server that lets it through meets clients that refuse.

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
from protocols.masked.keys import channel_key
from protocols.masked.messages import AdvertiseKeys, ShareKeys, SignedKeys
from protocols.schema import encode
from secagg import agreement, labels
from secagg.aead import open_sealed
from secagg.agreement import PrivateKey
from secagg.errors import VerificationError
from secagg.secret import Secret
from secagg.shamir import SHARE_BYTES
from tests.attacks.weakened import Curious, Liar, Stage, body_of, refused, updates_of

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


class Advertises(Liar):
    """A client that signs for keys of its choice."""

    def __init__(self, change: Callable[[AdvertiseKeys], AdvertiseKeys]) -> None:
        super().__init__(lambda context, state, message: message)
        self._change = change

    def react(self, context: Any, state: Any, request: Any) -> Any:
        step = super().react(context, state, request)
        if not isinstance(getattr(step, "message", None), AdvertiseKeys):
            return step
        mine = self._change(step.message)
        signed = SignedKeys(
            request.parameters,
            context.session,
            context.round,
            request.cohort,
            request.length,
            context.me,
            mine.channel_key,
            mine.mask_key,
            mine.minimum,
        )
        signature = context.identity.key.sign(encode(signed), label=labels.KEY_ADVERTISEMENT)
        mine = replace(mine, signature=signature)
        return replace(step, state=replace(step.state, mine=mine), message=mine)


def with_key(field: str, key: bytes) -> Advertises:
    change: Any = {field: key}
    return Advertises(lambda mine: replace(mine, **change))


def test_all_of_them_are_of_low_order() -> None:
    private = agreement.generate()
    for key in LOW_ORDER.values():
        with pytest.raises(VerificationError, match="low order"):
            agreement.agree(private, key)


def test_without_the_check_anybody_opens_what_is_sealed_to_such_a_key(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    honest = PrivateKey.agree

    def forgiving(self: PrivateKey, public: bytes) -> Secret:
        """X25519 as it comes out, zero included."""
        try:
            return honest(self, public)
        except VerificationError:
            return Secret(bytes(32))

    monkeypatch.setattr(PrivateKey, "agree", forgiving)
    stage = Stage(
        PROTOCOL, NAMES, steps={"m": with_key("channel_key", LOW_ORDER["one"])}, server_steps=Curious()
    )
    stage.open(updates_of(NAMES), until=2)
    view = stage.server._suite.server.seen[-1]  # type: ignore[attr-defined]
    for dealer in HONEST:
        nobody = PrivateKey(agreement.generate(stage.entropy("an outsider with no key of this round")))
        key = channel_key(nobody, LOW_ORDER["one"], transcript=view.transcript, sender=dealer, receiver="m")
        sealed = stage.answers(1, ShareKeys)[dealer].shares["m"].sealed
        assert len(open_sealed(key, sealed, associated_data=view.transcript)) == 2 * SHARE_BYTES


class NoProbe(type(PROTOCOL.suite.server)):  # type: ignore[misc]
    """A server that relays whatever keys it gets."""

    def absorb(self, context: Any, state: Any, sender: str, reply: Any) -> Any:
        if isinstance(reply, AdvertiseKeys):
            return replace(state, keys={**state.keys, sender: reply})
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


# The consortium's set-up


class LowChannel(ConsortiumClientSteps):
    """A newcomer that asks for the consortium's key under a key of low order."""

    def react(self, context: Any, state: Any, request: Any) -> Any:
        step: Any = super().react(context, state, request)
        if isinstance(getattr(step, "message", None), consortium.AdvertiseKeys):
            signed = consortium.SignedKey(context.suite.digest, context.session, context.me, LOW_ORDER["one"])
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
    request = consortium.Distribute(protocol.suite.digest, tuple(NAMES), 24, newcomers)
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
def test_an_echo_costs_the_echo_its_place(field: str) -> None:
    stage = Stage(PROTOCOL, NAMES)
    echo(stage, "a", field, bytes)
    outcome = stage.play(updates_of(NAMES))
    assert outcome.contributors == frozenset(HONEST)
    assert outcome.dropped.keys() == {"m"}


@pytest.mark.parametrize("field", ["channel_key", "mask_key"])
def test_an_echo_in_another_encoding_costs_the_echo_its_place(field: str) -> None:
    stage = Stage(PROTOCOL, NAMES)
    echo(stage, "a", field, other_encoding)
    outcome = stage.play(updates_of(NAMES))
    assert outcome.contributors == frozenset(HONEST)
    assert outcome.dropped.keys() == {"m"}


def test_two_clients_with_one_point_do_not_crash_the_server() -> None:
    """One of them drops after dealing; rebuilding its key, the server meets the same point at the other."""
    stage = Stage(PROTOCOL, "abcdlm")
    echo(stage, "l", "mask_key", other_encoding)
    with suppress(RoundAborted):
        stage.play(updates_of("abcdlm"), gone={"l": 2})
