"""Dealers of MaskedSum whose lies only show when masks come off, or in the next round.

The round is aborted with the liar's name, and the next one can do without it. Where nobody can tell who lied,
nothing is opened.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest

from protocols import RoundAborted
from protocols.machine.suite import Asked, ClientContext, Replied
from protocols.machine.summand import Summand
from protocols.masked import dealing as dealing_steps
from protocols.masked.client import MaskedClientSteps
from protocols.masked.keys import pairs_key
from protocols.masked.messages import (
    COMMITMENT_BYTES,
    AdvertiseKeys,
    Announcement,
    CohortKeys,
    ShareKeys,
    Unmask,
)
from secagg import shamir
from secagg.secret import Secret
from secagg.standard.aead import OVERHEAD, seal
from secagg.standard.kem import CIPHERTEXT_BYTES
from tests.protocols.conftest import TWO, Family, World, assert_right, is_long, updates_of
from tests.protocols.liars import (
    FOREIGN,
    FOREIGN_ENCAPSULATION,
    NAMES,
    OTHERS,
    WIDE,
    Change,
    Liar,
    fields_of,
    flipped,
    in_unmask,
    play_aborted,
    play_well,
    signed_dealing,
    signed_keys,
    spoilt,
    world_with,
    zeros,
)

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
    # g cannot make the mask, and proves whose fault that is. b's vector was in the sum by then.
    world = world_with(masked, Liar(ShareKeys, signed_dealing(change)))
    with pytest.raises(RoundAborted) as aborted:
        world.play(updates_of(NAMES))
    assert aborted.value.culprits == frozenset("b")
    assert "['b'] contributed, and dealt a wrong pair secret" in aborted.value.reason
    record = world.server.record().record
    assert set(record.dropped) == {"b", "g"}
    assert record.culprits == {"b"}
    assert "another one than it signed for" in record.dropped["b"]
    assert "the pair secret that 'b' sent" in record.dropped["g"]
    assert not any(sent.exchange > 2 for sent in world.log)  # nobody was asked to reveal anything
    play_well(world, OTHERS)
    assert is_long(world)


@pytest.mark.parametrize("change", EDGE_LIES)
def test_a_proof_that_comes_before_the_dealers_vector_saves_the_round(
    masked: Family, change: Callable[[ShareKeys], ShareKeys]
) -> None:
    world = world_with(masked, Liar(ShareKeys, signed_dealing(change)))
    updates = updates_of(NAMES)
    outcome = world.play(updates, order="gfedcba")
    assert set(outcome.dropped) == {"b", "g"}
    assert outcome.culprits == {"b"}
    assert_right(world.learn(outcome), world.protocol, updates, "acdef")


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
    # All behind b refuse; the first proof names it, and the reasons of the others are in the record.
    world = world_with(masked, lie)
    with pytest.raises(RoundAborted) as aborted:
        world.play(updates_of(NAMES))
    assert aborted.value.culprits == frozenset("b")
    dropped = dict(world.server.record().record.dropped)
    assert all("the pair secret that 'b' sent" in dropped[name] for name in "cdefg")
    assert "a" not in dropped
    play_well(world, OTHERS)
    assert is_long(world)


# Two ends of an edge


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
