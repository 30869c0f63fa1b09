"""Clients of MaskedSum that lie, one thing at a time, and what becomes of the round, of them and of the next.

A liar here runs the protocol's own steps and changes what leaves it; where a signature stands over the lie
it is the liar's own. What the server or a holder sees in time costs the liar its place and nobody the round.
What only shows when masks come off aborts the round with the liar's name, and the next round can do without
it. Where nobody can tell who lied, nothing is opened.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest

from protocols import PeerViolation, RoundAborted
from protocols.client_machine import Request
from protocols.envelope import Envelope
from protocols.masked import dealing as dealing_steps
from protocols.masked.client import MaskedClientSteps
from protocols.masked.keys import pairs_key
from protocols.masked.members import Members
from protocols.masked.messages import (
    COMMITMENT_BYTES,
    HASHES_BYTES,
    SEALED_BYTES,
    SHARE_BYTES,
    AdvertiseKeys,
    Announcement,
    CohortKeys,
    ConsistencyCheck,
    MaskedInput,
    Quorum,
    ShareKeys,
    Unmask,
    columns,
)
from protocols.masked.states import Advertised, Dealt
from protocols.masked.transcript import SignedDealing, SignedKeys, cohort_digest, dealing_digest
from protocols.schema import decode, encode
from protocols.suite import Asked, ClientContext, Replied
from protocols.summand import Summand
from secagg import labels, shamir
from secagg.aead import OVERHEAD, seal
from secagg.agreement import PrivateKey
from secagg.kem import CIPHERTEXT_BYTES, DecapsulationKey
from secagg.secret import Secret
from tests.protocols.conftest import (
    FAMILIES,
    STATE_KEY,
    TWO,
    Family,
    Sent,
    World,
    assert_right,
    is_refusal,
    updates_of,
)

NAMES = "abcdefg"
"""Of seven, TWO lets one vanish beside the liar. The liar is always b, in place 1."""
OTHERS = "acdefg"
FOREIGN = PrivateKey(Secret(bytes(range(32, 64))))
FOREIGN_ENCAPSULATION = DecapsulationKey(Secret(bytes(range(64)))).encapsulation_key
"""Keys that no client has."""
Change = Callable[[ClientContext, Any, Any], Any]
"""(context, the liar's state behind the step, the honest message) to the message that leaves."""


class Liar(MaskedClientSteps):
    """Does what the protocol says and changes one kind of message, in one round."""

    def __init__(self, kind: type, change: Change, *, round: int = 0) -> None:
        self._kind, self._change, self._round = kind, change, round

    def react(self, context: ClientContext, state: Any, request: Any) -> Replied | Asked:
        step = super().react(context, state, request)
        return self._changed(context, step) if isinstance(step, Replied) else step

    def fold(self, context: ClientContext, state: Any, summand: Summand) -> Replied:
        return self._changed(context, super().fold(context, state, summand))

    def _changed(self, context: ClientContext, step: Replied) -> Replied:
        if context.round != self._round or type(step.message) is not self._kind:
            return step
        message = self._change(context, step.state, step.message)
        # Its own keys are those that it advertised.
        state = replace(step.state, mine=message) if isinstance(step.state, Advertised) else step.state
        return replace(step, state=state, message=message)


class OtherMasks(MaskedClientSteps):
    """Makes one of its masks from another seed, in one round."""

    def __init__(self, masks: str, round: int) -> None:
        self._masks, self._round = masks, round

    def fold(self, context: ClientContext, state: Any, summand: Summand) -> Replied:
        if context.round == self._round:
            first, *others = getattr(state, self._masks)
            other = Secret(bytes(byte ^ 1 for byte in first.reveal()))
            state = replace(state, **{self._masks: (other, *others)})
        return super().fold(context, state, summand)


def world_with(masked: Family, steps: MaskedClientSteps) -> World:
    return World(masked(max_clients=7, requirements=TWO), NAMES, steps={"b": steps})


def is_long(world: World) -> bool:
    """Whether the last round took the long path."""
    exchanges = {sent.exchange for sent in world.log if sent.down}
    assert exchanges in ({0, 1, *range(2, max(exchanges) + 1)}, {*range(2, max(exchanges) + 1)})
    return 0 in exchanges


def body_of(kind: type, message: bytes) -> Any:
    """What is inside a client's envelope."""
    return decode(kind, Envelope.decode(message).body)


def play_well(world: World, names: str, *, gone: dict[str, int] | None = None) -> None:
    """A round of which everybody stays in the sum who is there when vectors are collected."""
    updates = updates_of(names, seed=world.number + 2)
    outcome = world.play(updates, gone=gone)
    contributors = frozenset(name for name in names if (gone or {}).get(name, 99) > 2)
    assert outcome.contributors == contributors
    assert set(outcome.dropped) == set(gone or {})
    assert_right(world.learn(outcome), world.protocol, updates, contributors)


def play_aborted(world: World, *, culprits: str, gone: dict[str, int] | None = None) -> str:
    """A round that ends without a sum, and the reason. Whoever is to blame is in the signed record."""
    with pytest.raises(RoundAborted) as aborted:
        world.play(updates_of(NAMES), gone=gone)
    assert aborted.value.culprits == frozenset(culprits)
    with pytest.raises(RoundAborted):
        world.server.outcome()
    record = world.server.record().record
    assert record.aborted == aborted.value.reason
    assert record.contributors == frozenset()
    assert set(record.dropped) == {*culprits, *(gone or {})}
    assert all(repr(name) in aborted.value.reason for name in culprits)
    return aborted.value.reason


def spoilt(column: bytes, position: int, size: int) -> bytes:
    """A column with a bit of one piece flipped."""
    changed = bytearray(column)
    changed[position * size + size // 2] ^= 1
    assert len(changed) == len(column)
    return bytes(changed)


# What a liar signs


def signed_keys(**changes: Any) -> Change:
    """Advertised keys with other fields, signed by their owner."""

    def change(context: ClientContext, state: Any, message: AdvertiseKeys) -> AdvertiseKeys:
        keys = replace(message, **changes)
        statement = SignedKeys.of(
            keys,
            parameters=context.suite.digest,
            session=context.session,
            round=context.round,
            roster=context.roster.digest,
            cohort=cohort_digest(state.cohort),
            length=state.length,
            client=context.me,
        )
        signature = context.identity.key.sign(statement, label=labels.KEY_ADVERTISEMENT)
        return replace(keys, signature=signature)

    return change


def signed_dealing(change: Callable[[ShareKeys], ShareKeys], *, origin: int = 0) -> Change:
    """A dealing that is changed and signed by its dealer; `origin` is added to its true one."""

    def apply(context: ClientContext, state: Any, message: ShareKeys) -> ShareKeys:
        made, view = change(message), state.view
        first = isinstance(state, Dealt)
        near = state.keys if first else state.prepared.edges
        present = view.epoch.members.bitmap([view.epoch.cohort[place] for place in {*near, view.me}])
        true_origin = context.round if first else state.prepared.origin
        statement = SignedDealing(
            view.epoch.digest, true_origin + origin, context.me, present, dealing_digest(made)
        )
        return replace(made, signature=context.identity.key.sign(encode(statement), label=labels.DEALING))

    return apply


def in_unmask(change: Change) -> Change:
    """The same lie in the dealing that rides on Unmask."""
    return lambda context, state, message: replace(message, next=change(context, state, message.next))


def fields_of(**changes: Callable[[bytes], bytes]) -> Callable[[Any], Any]:
    """A message with these fields changed."""
    return lambda message: replace(
        message, **{name: change(getattr(message, name)) for name, change in changes.items()}
    )


def unsigned(**changes: Callable[[bytes], bytes]) -> Change:
    """A message with these fields changed and the signature left as it was."""
    return lambda context, state, message: fields_of(**changes)(message)


def shorter(column: bytes) -> bytes:
    return column[:-1]


def longer(column: bytes) -> bytes:
    return column + bytes(1)


def nothing(column: bytes) -> bytes:
    return b""


def zeros(column: bytes) -> bytes:
    return bytes(len(column))


def flipped(column: bytes) -> bytes:
    return spoilt(column, 0, 1)


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
        (AdvertiseKeys, lambda c, s, m: signed_keys(mask_key=m.channel_key)(c, s, m), "already"),
        *[(ShareKeys, change, said) for change, said in SHAPES],
        (ShareKeys, unsigned(encapsulations=flipped), "verify"),
        (MaskedInput, unsigned(transcript=zeros), "another transcript"),
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


def test_a_key_that_another_client_advertised_is_refused(masked: Family) -> None:
    seen: list[AdvertiseKeys] = []

    def copy(context: ClientContext, state: Any, message: AdvertiseKeys) -> AdvertiseKeys:
        return signed_keys(channel_key=seen[0].mask_key)(context, state, message)  # type: ignore[no-any-return]

    def look(exchange: int, name: str, message: bytes) -> bytes:
        if (exchange, name) == (0, "a"):
            seen.append(decode(AdvertiseKeys, Envelope.decode(message).body))
        return message

    world = world_with(masked, Liar(AdvertiseKeys, copy))
    outcome = world.play(updates_of(NAMES), reply=look)
    assert set(outcome.dropped) == {"b"}
    assert "stands in the cohort already" in outcome.dropped["b"]
    assert_right(world.learn(outcome), world.protocol, updates_of(NAMES), OTHERS)


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
    names = NAMES + "hijk"  # of eleven two may be missing in the steady state
    lie = Liar(ShareKeys, signed_dealing(everywhere(name, size, 1)))
    world = World(masked(max_clients=11, requirements=TWO), names, steps={"b": lie})
    play_well(world, names)
    assert {sent.client for sent in world.log if has_complaint(sent)} == {"a"}
    # Two ends that do not share a channel key disagree on the pair secret of the next round. Which of them
    # lies cannot be told, and both are left out of what was prepared.
    play_well(world, names[2:] if name == "encapsulations" else names)
    assert not is_long(world)
    play_well(world, names)
    assert is_long(world) == (name == "encapsulations")


def has_complaint(sent: Sent) -> bool:
    """Whether this is a vector whose sender complains about somebody."""
    if sent.down or sent.exchange != 2:
        return False
    return any(body_of(MaskedInput, sent.body).unopened)


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
    # b opens nothing that is sealed to it, and complains of everybody; its chains are nobody else's.
    world = world_with(masked, Liar(AdvertiseKeys, signed_keys(channel_encapsulation=FOREIGN_ENCAPSULATION)))
    play_well(world, NAMES)
    assert {sent.client for sent in world.log if has_complaint(sent)} == {"b"}
    play_well(world, OTHERS)
    assert not is_long(world)
    play_well(world, NAMES)
    assert is_long(world)


class Complaining(MaskedClientSteps):
    """Says in round 0 that it can open nobody's shares, and keeps to it."""

    def fold(self, context: ClientContext, state: Any, summand: Summand) -> Replied:
        step = super().fold(context, state, summand)
        if context.round:
            return step
        held = {state.view.me: state.held[state.view.me]}
        unopened = Members(tuple(NAMES)).bitmap(OTHERS)
        return replace(
            step, state=replace(step.state, held=held), message=replace(step.message, unopened=unopened)
        )


def test_lying_complaints_cost_nobody_anything(masked: Family) -> None:
    # It is not asked for any shares but its own, and that is all: enough others hold theirs.
    world = world_with(masked, Complaining())
    play_well(world, NAMES)
    assert {sent.client for sent in world.log if has_complaint(sent)} == {"b"}
    last = next(sent.body for sent in reversed(world.log) if not sent.down and sent.client == "b")
    assert len(body_of(Unmask, last).shares) == SHARE_BYTES
    play_well(world, NAMES)
    assert not is_long(world)


def test_who_complained_and_reveals_all_the_same_is_named(masked: Family) -> None:
    everybody = Members(tuple(NAMES)).bitmap(OTHERS)
    world = world_with(masked, Liar(MaskedInput, unsigned(unopened=lambda bitmap: everybody)))
    updates = updates_of(NAMES)
    outcome = world.play(updates)
    assert set(outcome.dropped) == {"b"}
    assert "1 shares were asked for" in outcome.dropped["b"]
    assert_right(world.learn(outcome), world.protocol, updates, NAMES)


# Seen when the masks come off: the round is aborted with the liar's name, the next can do without it


class OtherShares(MaskedClientSteps):
    """Deals shares of other secrets than those that it commits to and uses, hashed and sealed as they are.

    Args:
        which: 0 for the self-mask seed, 1 for the round secret.
        round: in which it deals so.
    """

    def __init__(self, which: int, *, round: int) -> None:
        self._which, self._round = which, round

    def react(self, context: ClientContext, state: Any, request: Any) -> Replied | Asked:
        honest, dealt = shamir.split, []

        def split(secret: Secret, **arguments: Any) -> Any:
            dealt.append(secret)
            other = Secret(bytes(byte ^ 1 for byte in secret.reveal()))
            return honest(other if len(dealt) == 1 + self._which else secret, **arguments)

        with pytest.MonkeyPatch.context() as patch:
            if context.round == self._round:
                patch.setattr(dealing_steps, "split", split)
            step = super().react(context, state, request)
        assert len(dealt) in (0, 2)
        return step


@pytest.mark.parametrize("dealt", [0, 1], ids=["first", "steady"])
@pytest.mark.parametrize("which", [0, 1], ids=["self mask", "round secret"])
def test_a_dealer_of_other_secrets_is_named(masked: Family, which: int, dealt: int) -> None:
    # Its self mask is opened where it stays, its pair masks where it vanishes. What round 0 deals for round 1
    # is dealt in its last exchange.
    world = world_with(masked, OtherShares(which, round=0))
    gone = {"b": 2} if which else None
    if dealt:
        world = world_with(masked, Later(OtherShares(which, round=0)))
        play_well(world, NAMES)
    assert "do not rebuild the secret it committed to" in play_aborted(world, culprits="b", gone=gone)
    assert is_long(world) == (dealt == 0)
    play_well(world, OTHERS)
    assert is_long(world)


class Later(MaskedClientSteps):
    """Honest as long as keys are advertised and shared, another's steps from the masked vector on."""

    def __init__(self, steps: MaskedClientSteps) -> None:
        self._steps = steps

    def react(self, context: ClientContext, state: Any, request: Any) -> Replied | Asked:
        if isinstance(request, Announcement | CohortKeys):
            return super().react(context, state, request)
        return self._steps.react(context, state, request)


def other_pairs(context: ClientContext, state: Any, message: ShareKeys) -> ShareKeys:
    """A first dealing that leaves other pair secrets with the server than those of its edges."""
    bound = state.view.epoch.context(context.round)
    key = pairs_key(state.secrets.round_secret, context=bound)
    left = bytes(len(message.pairs) - OVERHEAD)
    made = replace(message, pairs=seal(key, left, associated_data=bound, entropy=context.entropy))
    return signed_dealing(lambda _: made)(context, state, message)  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("change", "vanishes", "said"),
    [
        (signed_dealing(fields_of(self_commitment=flipped)), False, "the secret it committed to"),
        (signed_dealing(fields_of(round_commitment=flipped)), True, "the secret it committed to"),
        (signed_dealing(fields_of(pairs=flipped)), True, "do not open under its round secret"),
        (other_pairs, True, "another pair secret than it signed for"),
    ],
)
def test_a_lie_in_the_first_dealing_that_only_opening_shows(
    masked: Family, change: Change, vanishes: bool, said: str
) -> None:
    world = world_with(masked, Liar(ShareKeys, change))
    reason = play_aborted(world, culprits="b", gone={"b": 2} if vanishes else None)
    assert said in reason
    play_well(world, OTHERS)
    assert is_long(world)


@pytest.mark.parametrize(
    ("change", "vanishes", "said"),
    [
        (fields_of(self_commitment=flipped), False, "the secret it committed to"),
        (fields_of(round_commitment=flipped), True, "the secret it committed to"),
        (fields_of(pairs=flipped), True, "do not open under its round secret"),
    ],
)
def test_a_lie_in_a_later_dealing_that_only_opening_shows(
    masked: Family, change: Callable[[ShareKeys], ShareKeys], vanishes: bool, said: str
) -> None:
    world = world_with(masked, Liar(Unmask, in_unmask(signed_dealing(change)), round=1))
    for _ in range(2):
        play_well(world, NAMES)
    assert said in play_aborted(world, culprits="b", gone={"b": 2} if vanishes else None)
    assert not is_long(world)
    play_well(world, OTHERS)
    assert is_long(world)


@pytest.mark.parametrize(
    "keys", [{"mask_key": FOREIGN.public_key}, {"mask_encapsulation": FOREIGN_ENCAPSULATION}], ids=list
)
def test_mask_keys_that_do_not_come_from_the_round_secret(masked: Family, keys: dict[str, bytes]) -> None:
    # The last of the cohort makes no pair secret itself: the others made theirs with its keys.
    lie = Liar(AdvertiseKeys, signed_keys(**keys))
    world = World(masked(max_clients=7, requirements=TWO), NAMES, steps={"g": lie})
    reason = play_aborted(world, culprits="g", gone={"g": 2})
    assert "another secret than its mask keys" in reason
    play_well(world, NAMES[:-1])


def test_what_nobody_has_to_open_is_never_seen(masked: Family) -> None:
    # What b left for the case that it vanishes is worthless; it does not vanish.
    world = world_with(
        masked, Liar(ShareKeys, signed_dealing(fields_of(pairs=flipped, round_commitment=zeros)))
    )
    for _ in range(2):
        play_well(world, NAMES)
    assert not is_long(world)


# The pair secrets of a first round: whoever stands behind is sent them


LAST_EDGE = 4
"""Of b's edges to c, d, e, f and g the last."""
EDGE_LIES = [
    pytest.param(fields_of(edges=lambda column: spoilt(column, LAST_EDGE, COMMITMENT_BYTES)), id="hash"),
    pytest.param(
        fields_of(encapsulations=lambda column: spoilt(column, 6 + LAST_EDGE, CIPHERTEXT_BYTES)),
        id="ciphertext",
    ),
]


@pytest.mark.parametrize("change", EDGE_LIES)
def test_a_pair_secret_that_is_not_what_its_hash_says(
    masked: Family, change: Callable[[ShareKeys], ShareKeys]
) -> None:
    # g cannot make the mask and refuses; when its secret is rebuilt for that, the server sees why.
    world = world_with(masked, Liar(ShareKeys, signed_dealing(change)))
    with pytest.raises(RoundAborted) as aborted:
        world.play(updates_of(NAMES))
    assert aborted.value.culprits == frozenset("b")
    assert "'b' dealt another pair secret than it signed for" in aborted.value.reason
    dropped = dict(world.server.record().record.dropped)
    assert set(dropped) == {"b", "g"}
    assert "'b'" in dropped["g"]
    play_well(world, OTHERS)
    assert is_long(world)


@pytest.mark.parametrize("change", EDGE_LIES)
def test_a_pair_secret_between_two_who_are_gone_is_nobodys_business(
    masked: Family, change: Callable[[ShareKeys], ShareKeys]
) -> None:
    world = world_with(masked, Liar(ShareKeys, signed_dealing(change)))
    updates = updates_of(NAMES)
    outcome = world.play(updates, gone={"b": 2})
    assert set(outcome.dropped) == {"b", "g"}
    assert_right(world.learn(outcome), world.protocol, updates, "acdef")


@pytest.mark.parametrize(
    "lie",
    [
        Liar(ShareKeys, signed_dealing(fields_of(edges=zeros))),
        Liar(AdvertiseKeys, signed_keys(mask_key=FOREIGN.public_key)),
    ],
    ids=["hashes", "mask key"],
)
def test_a_dealer_of_pair_secrets_that_nobody_can_use(masked: Family, lie: Liar) -> None:
    # All behind b refuse, and say why: the record has its name five times, whoever the server believes.
    world = world_with(masked, lie)
    with pytest.raises(RoundAborted):
        world.play(updates_of(NAMES))
    dropped = dict(world.server.record().record.dropped)
    assert all("the pair secret that 'b' sent" in dropped[name] for name in "cdefg")
    assert "a" not in dropped
    play_well(world, OTHERS)
    assert is_long(world)


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
            lie = encode(replace(told, survivors=Members(tuple("abcd")).bitmap("acd")))
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


# Two ends of an edge


WIDE = NAMES + "hijk"
"""Of eleven two may be missing in the steady state."""


@pytest.mark.parametrize(
    ("positions", "left"),
    [((0,), "bcdefghijk"[1:]), ((9,), "acdefghij"), ((0, 4, 9), "acdefghijk"), (range(10), "acdefghijk")],
)
def test_two_ends_that_disagree_are_not_asked_again(
    masked: Family, positions: Sequence[int], left: str
) -> None:
    # Which end of one edge lies cannot be told, and both go. Who disagrees with several goes alone.
    def lie(message: ShareKeys) -> ShareKeys:
        edges = message.edges
        for position in positions:
            edges = spoilt(edges, position, COMMITMENT_BYTES)
        return replace(message, edges=edges)

    world = World(
        masked(max_clients=11, requirements=TWO),
        WIDE,
        steps={"b": Liar(Unmask, in_unmask(signed_dealing(lie)))},
    )
    play_well(world, WIDE)
    before = world.save()
    play_well(world, left)
    assert not is_long(world)
    for lost in set(WIDE) - set(left):
        world.restore(before)
        world.number = 0
        play_well(world, "".join(sorted({*left, lost})))
        assert is_long(world)


# Masks that do not cancel


@pytest.mark.parametrize("masks", ["add", "subtract"])
@pytest.mark.parametrize("round", [0, 1], ids=["first", "steady"])
def test_masks_of_other_seeds_open_nothing(masked: Family, masks: str, round: int) -> None:
    # "add" is b's self mask. Nobody can tell whose mask it is, so nobody is named.
    world = world_with(masked, OtherMasks(masks, round))
    for _ in range(round):
        play_well(world, NAMES)
    assert "do not cancel" in play_aborted(world, culprits="")
    assert is_long(world) == (round == 0)
    play_well(world, NAMES)
    assert is_long(world)


def test_masks_of_other_seeds_open_nothing_where_clients_vanish(masked: Family) -> None:
    world = world_with(masked, OtherMasks("subtract", 0))
    # The mask is that of b and c. With c gone, the server takes off the one that b did not put on.
    assert "do not cancel" in play_aborted(world, culprits="", gone={"c": 2})
    play_well(world, OTHERS)


def test_masks_of_another_story_are_named(masked: Family) -> None:
    # One client is told another model (ATTACKS A9). Its masks do not cancel: it is named, the rest goes on.
    world, updates = World(masked(max_clients=4, requirements=TWO), "abcd"), updates_of("abcd")

    def other_model(exchange: int, name: str, message: bytes) -> bytes:
        return message.replace(b"the model", b"THE MODEL") if name == "b" else message

    for _ in range(2):
        outcome = world.play(updates, model=b"the model", request=other_model)
        assert set(outcome.dropped) == {"b"}
        assert "transcript" in outcome.dropped["b"]
        assert_right(world.learn(outcome), world.protocol, updates, "acd")
