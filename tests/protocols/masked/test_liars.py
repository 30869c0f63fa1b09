"""Clients of MaskedSum that lie, one thing at a time, where it shows at once.

What the server or a holder sees in time costs the liar its place and nobody the round. Lies that only show
when masks come off are in `test_masked_dealers`.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from protocols import MaskedSum, PeerViolation, RoundAborted
from protocols.machine.client import Request
from protocols.machine.suite import ClientContext, Replied
from protocols.machine.summand import Summand
from protocols.masked.client import MaskedClientSteps
from protocols.masked.members import Members
from protocols.masked.messages import (
    HASHES_BYTES,
    SEALED_BYTES,
    SHARE_BYTES,
    AdvertiseKeys,
    ConsistencyCheck,
    MaskedInput,
    Quorum,
    ShareKeys,
    Unmask,
    columns,
)
from protocols.messages.envelope import Envelope
from protocols.messages.schema import decode, encode
from secagg.standard.kem import CIPHERTEXT_BYTES
from secagg.standard.signing import SIGNATURE_BYTES
from tests.protocols.conftest import (
    FAMILIES,
    STATE_KEY,
    TWO,
    Family,
    World,
    assert_right,
    is_long,
    is_refusal,
    updates_of,
)
from tests.protocols.liars import (
    FOREIGN_ENCAPSULATION,
    NAMES,
    OTHERS,
    WIDE,
    Change,
    Liar,
    body_of,
    fields_of,
    flipped,
    has_complaint,
    in_unmask,
    longer,
    nothing,
    play_aborted,
    play_well,
    shorter,
    signed_dealing,
    signed_input,
    signed_keys,
    spoilt,
    unsigned,
    world_with,
    zeros,
)

# Seen before the masks are on: the liar is left out, and the round goes on


SHAPES: list[tuple[Change, str]] = [
    (signed_dealing(fields_of(sealed=shorter)), "bytes of sealed"),
    (signed_dealing(fields_of(sealed=nothing)), "bytes of sealed"),
    (signed_dealing(fields_of(hashes=longer)), "bytes of hashes"),
    (signed_dealing(fields_of(edges=nothing)), "bytes of edges"),
    (signed_dealing(fields_of(edges=longer)), "bytes of edges"),
    (signed_dealing(fields_of(pairs=shorter)), "bytes of pairs"),
    (signed_dealing(fields_of(encapsulations=longer)), "bytes of encapsulations"),
    (signed_dealing(fields_of(), origin=1), "verify"),
    (unsigned(signature=zeros), "verify"),
    *[(unsigned(**{name: flipped}), "verify") for name in ("sealed", "hashes", "edges", "pairs")],
    *[(unsigned(**{name: flipped}), "verify") for name in ("self_commitment", "round_commitment")],
]
"""Dealings that the server does not take, in any round, and what it says of them."""


@pytest.mark.parametrize(
    ("kind", "change", "said"),
    [
        (AdvertiseKeys, unsigned(signature=zeros), "verify"),
        (AdvertiseKeys, unsigned(channel_key=flipped), "verify"),
        (AdvertiseKeys, unsigned(mask_encapsulation=flipped), "verify"),
        (AdvertiseKeys, signed_keys(channel_key=bytes(32)), "low order"),
        (AdvertiseKeys, signed_keys(mask_key=bytes(32)), "low order"),
        (AdvertiseKeys, signed_keys(channel_key=b"\xff" * 32), "canonical"),
        (AdvertiseKeys, signed_keys(mask_key=b"\xff" * 31 + b"\x7f"), "canonical"),
        (AdvertiseKeys, signed_keys(channel_encapsulation=b"\xff" * 1184), "encapsulation key"),
        (AdvertiseKeys, signed_keys(mask_encapsulation=b"\xff" * 1184), "encapsulation key"),
        (AdvertiseKeys, signed_keys(minimum=8), "wants 8 contributors"),
        (AdvertiseKeys, lambda c, s, m: signed_keys(mask_key=m.channel_key)(c, s, m), "both purposes"),
        *[(ShareKeys, change, said) for change, said in SHAPES],
        (ShareKeys, unsigned(encapsulations=flipped), "verify"),
        (MaskedInput, unsigned(transcript=zeros), "another transcript"),
        (MaskedInput, unsigned(signature=zeros), "verify"),
        (MaskedInput, signed_input(bytes(32)), "verify"),
        (MaskedInput, unsigned(transcript=flipped), "another transcript"),
        (MaskedInput, unsigned(unopened=lambda bitmap: b"\x02"), "a complaint about a client that dealt"),
        (MaskedInput, unsigned(unopened=lambda bitmap: b"\x80"), "behind the last"),
        (MaskedInput, unsigned(unopened=nothing), "1 bytes"),
    ],
)
def test_a_liar_that_the_server_sees_is_left_out(
    masked: Family, kind: type, change: Change, said: str
) -> None:
    world = world_with(masked, Liar(kind, change))
    updates = updates_of(NAMES)
    outcome = world.play(updates)
    assert outcome.contributors == frozenset(OTHERS)
    assert set(outcome.dropped) == {"b"}
    assert said in outcome.dropped["b"]
    assert_right(world.learn(outcome), world.protocol, updates, OTHERS)
    play_well(world, OTHERS)
    assert not is_long(world)
    play_well(world, NAMES)  # it lied once and is back, as an honest client
    assert is_long(world)


def test_a_key_that_another_client_advertised_is_its_copiers_loss(masked: Family) -> None:
    seen: list[AdvertiseKeys] = []

    def copy(context: ClientContext, state: Any, message: AdvertiseKeys) -> AdvertiseKeys:
        return signed_keys(channel_key=seen[0].mask_key)(context, state, message)  # type: ignore[no-any-return]

    def look(exchange: int, name: str, message: bytes) -> bytes:
        if (exchange, name) == (0, "a"):
            seen.append(decode(AdvertiseKeys, Envelope.decode(message).body))
        return message

    world = world_with(masked, Liar(AdvertiseKeys, copy))
    # Nothing that it deals opens, and all say so.
    with pytest.raises(RoundAborted) as aborted:
        world.play(updates_of(NAMES), reply=look)
    assert aborted.value.culprits == frozenset("b")
    assert set(world.server.record().record.dropped) == {"b"}
    play_well(world, OTHERS)


@pytest.mark.parametrize(("change", "said"), SHAPES)
def test_a_dealing_for_the_next_round_that_the_server_sees(masked: Family, change: Change, said: str) -> None:
    # b's vector is in the sum by then, and its shares are not needed; the next round does not ask it.
    world = world_with(masked, Liar(Unmask, in_unmask(change)))
    updates = updates_of(NAMES)
    outcome = world.play(updates)
    assert outcome.contributors == frozenset(NAMES)
    assert set(outcome.dropped) == {"b"}
    assert said in outcome.dropped["b"]
    assert_right(world.learn(outcome), world.protocol, updates, NAMES)
    play_well(world, OTHERS)
    assert not is_long(world)
    play_well(world, NAMES)
    assert is_long(world)


def test_a_wrong_signature_on_the_survivors_leaves_its_maker_out() -> None:
    malicious = Family("masked malicious", FAMILIES["masked malicious"])
    world = world_with(malicious, Liar(ConsistencyCheck, unsigned(signature=zeros), round=1))
    play_well(world, NAMES)
    updates = updates_of(NAMES)
    outcome = world.play(updates)
    assert not is_long(world)
    assert outcome.contributors == frozenset(NAMES)
    assert set(outcome.dropped) == {"b"}
    assert "verify" in outcome.dropped["b"]
    assert_right(world.learn(outcome), world.protocol, updates, NAMES)
    play_well(world, OTHERS)
    assert not is_long(world)


# Seen by the holders: they say so with their vectors, and hold nothing


def everywhere(name: str, size: int, pieces: int) -> Callable[[ShareKeys], ShareKeys]:
    """A dealing in which the first pieces of a column are spoilt."""

    def change(message: ShareKeys) -> ShareKeys:
        column = getattr(message, name)
        for position in range(pieces):
            column = spoilt(column, position, size)
        return replace(message, **{name: column})

    return change


FOR_HOLDERS = [("sealed", SEALED_BYTES), ("hashes", HASHES_BYTES), ("encapsulations", CIPHERTEXT_BYTES)]
"""What spoils b's shares for a if its first piece is spoilt, and for the others by theirs."""


@pytest.mark.parametrize(("name", "size"), FOR_HOLDERS)
def test_one_share_that_does_not_open_costs_nothing(masked: Family, name: str, size: int) -> None:
    lie = Liar(ShareKeys, signed_dealing(everywhere(name, size, 1)))
    world = World(masked(max_clients=11, requirements=TWO), WIDE, steps={"b": lie})
    play_well(world, WIDE)
    assert {sent.client for sent in world.log if has_complaint(sent)} == {"a"}
    # Two ends that do not share a channel key disagree on the pair secret of the next round. Which of them
    # lies cannot be told, and both are left out of what was prepared.
    play_well(world, WIDE[2:] if name == "encapsulations" else WIDE)
    assert not is_long(world)
    play_well(world, WIDE)
    assert is_long(world) == (name == "encapsulations")


@pytest.mark.parametrize("vanishes", [False, True])
@pytest.mark.parametrize(("name", "size"), FOR_HOLDERS)
def test_a_dealer_whose_shares_open_for_nobody_aborts_the_round(
    masked: Family, name: str, size: int, vanishes: bool
) -> None:
    pieces = 7 if name == "hashes" else 6  # b holds a share of its own secrets
    world = world_with(masked, Liar(ShareKeys, signed_dealing(everywhere(name, size, pieces))))
    reason = play_aborted(world, culprits="b", gone={"b": 2} if vanishes else None)
    assert "6 complain" in reason
    play_well(world, OTHERS)
    assert is_long(world)


@pytest.mark.parametrize(("name", "size"), FOR_HOLDERS[:2])
def test_a_later_dealing_whose_shares_open_for_nobody_aborts_its_round(
    masked: Family, name: str, size: int
) -> None:
    lie = in_unmask(signed_dealing(everywhere(name, size, 7 if name == "hashes" else 6)))
    world = world_with(masked, Liar(Unmask, lie))
    play_well(world, NAMES)
    assert "6 complain" in play_aborted(world, culprits="b")
    assert not is_long(world)
    play_well(world, OTHERS)
    assert is_long(world)


def test_a_channel_key_that_nobody_has_leaves_its_owner_out_of_the_steady_state(masked: Family) -> None:
    # b opens nothing that is sealed to it, and complains of everybody: more than can all have lied to it.
    world = world_with(masked, Liar(AdvertiseKeys, signed_keys(channel_encapsulation=FOREIGN_ENCAPSULATION)))
    updates = updates_of(NAMES)
    outcome = world.play(updates)
    assert {sent.client for sent in world.log if has_complaint(sent)} == {"b"}
    assert outcome.culprits == set(outcome.dropped) == {"b"}
    assert_right(world.learn(outcome), world.protocol, updates, OTHERS)
    play_well(world, OTHERS)
    assert not is_long(world)
    play_well(world, NAMES)
    assert is_long(world)


class Complaining(MaskedClientSteps):
    """Says in round 0 that it cannot open the shares of a, and keeps to it."""

    def fold(self, context: ClientContext, state: Any, summand: Summand) -> Replied:
        step = super().fold(context, state, summand)
        if context.round:
            return step
        held = {place: both for place, both in state.held.items() if place != 0}
        unopened = Members(tuple(NAMES)).bitmap("a")
        return replace(
            step, state=replace(step.state, held=held), message=replace(step.message, unopened=unopened)
        )


def test_lying_complaints_cost_nobody_anything(masked: Family) -> None:
    # It is not asked for that share, and that is all: enough others hold theirs.
    world = world_with(masked, Complaining())
    play_well(world, NAMES)
    assert {sent.client for sent in world.log if has_complaint(sent)} == {"b"}
    last = next(sent.body for sent in reversed(world.log) if not sent.down and sent.client == "b")
    assert len(body_of(Unmask, last).shares) == (len(NAMES) - 1) * SHARE_BYTES
    play_well(world, NAMES)
    assert not is_long(world)


def test_who_complained_and_reveals_all_the_same_is_named(masked: Family) -> None:
    of_a = Members(tuple(NAMES)).bitmap("a")
    world = world_with(masked, Liar(MaskedInput, unsigned(unopened=lambda bitmap: of_a)))
    updates = updates_of(NAMES)
    outcome = world.play(updates)
    assert set(outcome.dropped) == {"b"}
    assert "6 shares were asked for" in outcome.dropped["b"]
    assert_right(world.learn(outcome), world.protocol, updates, NAMES)


def test_complaints_that_corrupt_clients_could_have_made_up_name_nobody() -> None:
    # Of three clients one may be corrupt, and all three are needed. c says that what a dealt did not open,
    # and a, who is honest, must not be put out for that.
    lie = Liar(MaskedInput, unsigned(unopened=lambda bitmap: Members(tuple("abc")).bitmap("a")))
    world = World(MaskedSum(max_clients=3), "abc", steps={"c": lie})
    assert world.protocol.plan(3).corrupt == 1
    with pytest.raises(RoundAborted, match="1 complain") as aborted:
        world.play(updates_of("abc"))
    assert aborted.value.culprits == frozenset()
    assert world.server.record().record.dropped == {}
    outcome = world.play(updates_of("abc"))
    assert_right(world.learn(outcome), world.protocol, updates_of("abc"), "abc")


# Lying holders


def other_kind(message: Unmask) -> Unmask:
    """The first share is said to be of the other kind."""
    return replace(message, kinds=bytes([message.kinds[0] ^ 1]))


def two_swapped(message: Unmask) -> Unmask:
    shares = columns(message.shares, SHARE_BYTES)
    return replace(message, shares=b"".join([shares[1], shares[0], *shares[2:]]))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (fields_of(shares=flipped), "differs from the one that was dealt"),
        (fields_of(shares=lambda shares: spoilt(shares, 6, SHARE_BYTES)), "differs from the one"),
        (fields_of(shares=zeros), "differs from the one"),
        (two_swapped, "differs from the one"),
        (other_kind, "other kind"),
        (fields_of(shares=shorter), "reveals of 230 bytes"),
        (fields_of(shares=lambda shares: shares[SHARE_BYTES:]), "7 shares were asked for"),
        (fields_of(shares=lambda shares: shares + bytes(SHARE_BYTES)), "7 shares were asked for"),
        (fields_of(shares=nothing), "reveals of 0 bytes"),
        (fields_of(kinds=nothing), "shares were asked for"),
        (fields_of(kinds=longer), "shares were asked for"),
        (fields_of(kinds=lambda kinds: bytes([kinds[0] | 0x80])), "behind the last"),
    ],
)
@pytest.mark.parametrize("round", [0, 1], ids=["first", "steady"])
def test_a_lying_holder_is_left_out_and_named(
    masked: Family, change: Callable[[Unmask], Unmask], said: str, round: int
) -> None:
    # g vanishes, so that shares of both kinds are asked for.
    world = world_with(masked, Liar(Unmask, lambda c, s, m: change(m), round=round))
    for _ in range(round):
        play_well(world, NAMES)
    updates = updates_of(NAMES)
    outcome = world.play(updates, gone={"g": 2})
    assert outcome.contributors == frozenset("abcdef")
    assert set(outcome.dropped) == {"b", "g"}
    assert said in outcome.dropped["b"]
    assert_right(world.learn(outcome), world.protocol, updates, "abcdef")
    play_well(world, NAMES)
    assert is_long(world)


def test_no_bit_of_a_revealed_share_can_be_changed(masked: Family) -> None:
    world, tried = World(masked(max_clients=4, requirements=TWO), "abcd"), 0
    last = world.protocol.exchanges(first=True).index("Unmask")

    def change(exchange: int, name: str, message: bytes) -> bytes:
        nonlocal tried
        if (exchange, name) != (last, "a"):
            return message
        shares = body_of(Unmask, message).shares
        assert len(shares) == 4 * SHARE_BYTES
        begin = message.index(shares)
        saved = world.server.export(key=STATE_KEY)
        for place in range(begin, begin + len(shares)):
            changed = bytearray(message)
            changed[place] ^= 1 << (place % 8)
            world.server = world.protocol.restore_server(saved, key=STATE_KEY)
            with pytest.raises(PeerViolation) as violation:
                world.server.receive("a", changed)
            assert violation.value.culprit == "a"
            tried += 1
        world.server = world.protocol.restore_server(saved, key=STATE_KEY)
        return message

    outcome = world.play(updates_of("abcd"), gone={"d": 2}, reply=change)
    assert tried == 4 * SHARE_BYTES
    assert set(outcome.dropped) == {"d"}
    assert_right(world.learn(outcome), world.protocol, updates_of("abcd"), "abc")


@pytest.mark.parametrize("name", ["masked", "masked semi-honest"])
def test_a_share_of_the_other_kind_is_named(name: str) -> None:
    # a answers as if b had dropped: the very share that was dealt to it, but not the one that was asked for.
    world, updates = World(FAMILIES[name](max_clients=4, requirements=TWO), "abcd"), updates_of("abcd")
    swapped: list[bytes] = []

    def twin(exchange: int, name: str, message: bytes) -> bytes:
        if (exchange, name) == (3, "a"):
            other = world.protocol.restore_client(world.clients["a"].export(key=STATE_KEY), key=STATE_KEY)
            envelope = Envelope.decode(message)
            told = decode(Quorum, decode(Request, envelope.body).body)
            survivors = Members(tuple("abcd")).bitmap("acd")
            lie = encode(replace(told, survivors=survivors, inputs=told.inputs[SIGNATURE_BYTES:]))
            answer = other.receive(replace(envelope, body=encode(Request((), memoryview(lie)))).encode())
            assert isinstance(answer, bytes)
            assert not is_refusal(answer)
            swapped.append(answer)
        return message

    def answer_otherwise(exchange: int, name: str, message: bytes) -> bytes:
        if (exchange, name) == (3, "a"):
            with pytest.raises(PeerViolation, match="kind"):
                world.server.receive("a", swapped[0])
        return message

    outcome = world.play(updates, request=twin, reply=answer_otherwise)
    assert set(outcome.dropped) == {"a"}
    assert_right(world.learn(outcome), world.protocol, updates, "abcd")
