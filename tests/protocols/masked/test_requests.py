"""Requests of MaskedSum that a server with a plan would send: each client checks and releases nothing.

In every test the true request comes after the lie, and the round ends well.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from protocols import Policy
from protocols.machine.client import Request
from protocols.masked.members import Members
from protocols.masked.messages import (
    AdvertiseKeys,
    Announcement,
    CohortKeys,
    CollectInput,
    Quorum,
    Survivors,
    columns,
)
from protocols.masked.transcript import SignedInput
from protocols.messages.envelope import Envelope
from protocols.messages.schema import decode, encode
from secagg import labels
from secagg.standard.merkle import Tree
from secagg.standard.signing import SIGNATURE_BYTES
from tests.protocols.conftest import FAMILIES, TWO, Family, World, assert_right, is_refusal, updates_of
from tests.protocols.liars import first_request, rewritten

Change = Callable[[World, Any], Any]


def bitmap(names: str, cohort: str = "abcd") -> bytes:
    return Members(tuple(cohort)).bitmap(names)


def try_lie(masked: Family, kind: type, change: Change, *, rounds: int = 1, **parameters: Any) -> str:
    """Tells a the changed request before the true one, in the last of so many rounds; why it refused.

    The round ends well: whatever a refused, it did not take for granted afterwards.
    """
    world = World(masked(max_clients=4, requirements=TWO), "abcd", **parameters)
    at = world.protocol.suite.requests.index(kind)  # type: ignore[attr-defined]
    reasons: list[str] = []

    def lie(exchange: int, name: str, message: bytes) -> bytes:
        if (exchange, name, world.number) == (at, "a", rounds - 1):
            lies = rewritten(kind, message, lambda told: change(world, told))
            assert lies != message
            assert is_refusal(world.clients["a"].receive(lies))
            reasons.append(world.clients["a"].refusal or "")
        return message

    for number in range(rounds):
        updates = updates_of("abcd", seed=number)
        outcome = world.play(updates, model=b"model", request=lie)
        assert world.exchanges == len(world.protocol.exchanges(first=number == 0))
        assert outcome.dropped == {}
        assert_right(world.learn(outcome), world.protocol, updates, "abcd")
    (reason,) = reasons
    return reason


def told(**changes: Any) -> Change:
    """The request with these fields."""
    return lambda world, request: replace(request, **changes)


def keys_of(place: int, **changes: Any) -> Change:
    """The keys of a's neighbour at this place among b, c, d changed."""

    def change(world: World, request: CohortKeys) -> CohortKeys:
        keys = list(request.keys)
        keys[place] = replace(keys[place], **changes)
        return replace(request, keys=tuple(keys))

    return change


def echoed(world: World, request: CohortKeys) -> CohortKeys:
    """Its own keys, as those of b."""
    mine = body_of(AdvertiseKeys, world, "a")
    return replace(request, keys=(mine, *request.keys[1:]))


def same_key_twice(world: World, request: CohortKeys) -> Any:
    return keys_of(0, mask_key=request.keys[1].mask_key)(world, request)


def signed_by_another(world: World, request: CohortKeys) -> Any:
    return keys_of(0, signature=request.keys[1].signature)(world, request)


def twins_keys(world: World, request: CohortKeys) -> CohortKeys:
    """Well-signed keys of the same client, for another cohort: of a twin with other randomness."""
    twin = world.protocol.client(identity=world.identities["b"], roster=world.roster, session=world.session)
    start = next(sent.body for sent in world.log if sent.down and sent.client == "b")
    answer = twin.receive(rewritten(Announcement, start, lambda asked: replace(asked, cohort=tuple("abc"))))
    assert isinstance(answer, bytes)
    return replace(request, keys=(decode(AdvertiseKeys, Envelope.decode(answer).body), *request.keys[1:]))


def other_leaf(world: World, request: CohortKeys) -> CohortKeys:
    """A tree in which a's place has other keys than a advertised."""
    keys = [body_of(AdvertiseKeys, world, name) for name in "abcd"]
    tree = Tree([encode(replace(keys[0], minimum=3)), *map(encode, keys[1:])])
    return replace(request, root=tree.root, path=tree.path(0))


def other_place(world: World, request: CohortKeys) -> CohortKeys:
    """b's path in the true tree."""
    tree = Tree([encode(body_of(AdvertiseKeys, world, name)) for name in "abcd"])
    assert tree.root == request.root
    return replace(request, path=tree.path(1))


def body_of(kind: type, world: World, name: str) -> Any:
    """What a client answered in the exchange whose answers are of this type."""
    at = world.protocol.suite.replies.index(kind)  # type: ignore[attr-defined]
    sent = next(s for s in reversed(world.log) if not s.down and s.client == name and s.exchange == at)
    return decode(kind, Envelope.decode(sent.body).body)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (told(advertised=bitmap("bcd")), "this one are needed"),
        (told(advertised=bitmap("a")), "keys of 1 clients"),
        (told(advertised=bitmap("abc")), "keys of 3 neighbours; 2 advertised"),
        (told(advertised=b"\x1f"), "behind the last"),
        (told(advertised=b""), "1 bytes"),
        (told(advertised=bitmap("abcd") + b"\x00"), "left over"),
        (told(keys=()), "keys of 0 neighbours; 3 advertised"),
        (lambda world, request: replace(request, keys=request.keys[:2]), "keys of 2 neighbours"),
        (lambda world, request: replace(request, keys=request.keys * 2), "keys of 6 neighbours"),
        (lambda world, request: replace(request, keys=request.keys[::-1]), "'b' are not signed"),
        (told(root=bytes(32)), "under this root"),
        (lambda world, request: replace(request, path=request.path[:1]), "path"),
        (other_leaf, "under this root"),
        (other_place, "under this root"),
        (echoed, "'b' are not signed"),
        (same_key_twice, "'b' are not signed"),
        (signed_by_another, "signed"),
        (twins_keys, "signed"),
        (keys_of(0, minimum=1), "'b' are not signed"),
        (keys_of(1, channel_encapsulation=bytes(1184)), "'c' are not signed"),
        (keys_of(2, mask_encapsulation=bytes(1184)), "'d' are not signed"),
        (keys_of(0, channel_key=bytes(32)), "'b' are not signed"),
        (keys_of(0, channel_key=b"\xff" * 32), "canonical"),
    ],
)
def test_cohort_keys_that_a_client_refuses(masked: Family, change: Change, said: str) -> None:
    assert said in try_lie(masked, CohortKeys, change)


@pytest.mark.parametrize("rounds", [1, 2], ids=["first", "steady"])
@pytest.mark.parametrize(
    ("change", "said"),
    [
        (told(origin=7), "round 7"),
        (lambda world, request: replace(request, origin=request.origin ^ 1), "are next"),
        (told(length=0), "0 "),
        (told(length=2**41), "values"),
        (told(active=bitmap("bcd")), "not active"),
        (told(active=bitmap("a")), "needed"),
        (told(active=b"\x1f"), "behind the last"),
        (told(active=b"\x0f\x00"), "left over"),
        (told(active=bitmap("abc")), "other clients than the active neighbours"),
        (told(sealed=b""), "shares of other clients"),
        (
            lambda world, request: replace(request, sealed=request.sealed + bytes(94)),
            "shares of other clients",
        ),
        (lambda world, request: replace(request, sealed=request.sealed[:-1]), "shares of other clients"),
        (told(hashes=b""), "shares of other clients"),
        (
            lambda world, request: replace(request, hashes=request.hashes + bytes(32)),
            "shares of other clients",
        ),
        (lambda world, request: replace(request, edges=request.edges + bytes(16)), ""),
        (lambda world, request: replace(request, encapsulations=request.encapsulations + bytes(1088)), ""),
    ],
)
def test_dealt_shares_that_a_client_refuses(masked: Family, change: Change, said: str, rounds: int) -> None:
    assert said in try_lie(masked, CollectInput, change, rounds=rounds)


def test_another_length_than_announced_is_refused(masked: Family) -> None:
    assert "announcement of 5" in try_lie(masked, CollectInput, told(length=6))


def test_keys_of_a_first_dealing_are_refused_in_a_steady_round(masked: Family) -> None:
    for changes in ({"edges": bytes(16)}, {"encapsulations": bytes(1088)}):
        assert "first dealing" in try_lie(masked, CollectInput, told(**changes), rounds=2)


def test_a_client_with_which_nothing_is_prepared_is_not_active(masked: Family) -> None:
    # g advertised keys and never dealt; in the next round, its dealing for it never arrived.
    world = World(masked(max_clients=7, requirements=TWO), "abcdefg")
    everybody, tried = bitmap("abcdefg", cohort="abcdefg"), []

    def lie(exchange: int, name: str, message: bytes) -> bytes:
        if (exchange, name) == (2, "a"):
            lies = rewritten(CollectInput, message, lambda request: replace(request, active=everybody))
            assert is_refusal(world.clients["a"].receive(lies))
            tried.append(world.clients["a"].refusal)
        return message

    world.play(updates_of("abcdefg"), gone={"g": 1}, request=lie)
    outcome = world.play(updates_of("abcdef"), request=lie)
    assert world.exchanges == len(world.protocol.exchanges(first=False))
    assert outcome.contributors == frozenset("abcdef")
    assert tried == [
        "encapsulations of other clients than the active neighbours",
        "shares of a client with which nothing is prepared",
    ]


SURVIVORS = [
    (told(survivors=bitmap("bcd")), "dropped"),
    (told(survivors=bitmap("")), "dropped"),
    (told(survivors=bitmap("a")), "1 clients survived"),
    (told(survivors=b"\x1f"), "behind the last"),
    (told(survivors=b""), "1 bytes"),
    (told(model=bytes(32)), "another model"),
]


@pytest.mark.parametrize("rounds", [1, 2], ids=["first", "steady"])
@pytest.mark.parametrize(("change", "said"), SURVIVORS)
def test_survivors_that_a_client_refuses(masked: Family, change: Change, said: str, rounds: int) -> None:
    if masked.name == "masked malicious":
        assert said in try_lie(masked, Survivors, change, rounds=rounds)
    reason = try_lie(masked, Quorum, change, rounds=rounds)
    # Against a malicious server any other set than the one that was signed is refused for that alone.
    assert said in reason or "another survivor set" in reason


def test_a_survivor_that_never_dealt_is_refused(masked: Family) -> None:
    world = World(masked(max_clients=5, requirements=TWO), "abcde")
    tried = []

    def lie(exchange: int, name: str, message: bytes) -> bytes:
        if exchange == 3:
            kind = first_request(world, message)
            everybody = bitmap("abcde", cohort="abcde")
            lies = rewritten(kind, message, lambda request: replace(request, survivors=everybody))
            assert is_refusal(world.clients[name].receive(lies))
            tried.append(world.clients[name].refusal)
        return message

    outcome = world.play(updates_of("abcde"), gone={"e": 1}, request=lie)
    assert outcome.contributors == frozenset("abcd")
    assert tried == ["a survivor that never dealt shares"] * 4


def test_a_survivor_set_below_a_clients_policy_is_refused(masked: Family) -> None:
    # d insists on four. a, whose own policy allows two, keeps to it as long as d is among the survivors.
    policies = {"d": Policy(min_contributors=4)}
    kind = Survivors if masked.name == "masked malicious" else Quorum
    reason = try_lie(masked, kind, told(survivors=bitmap("abd")), policies=policies)
    assert "3 clients survived; 4 are needed" in reason


@pytest.mark.parametrize("rounds", [1, 2], ids=["first", "steady"])
@pytest.mark.parametrize(
    ("change", "said"),
    [
        (told(survivors=bitmap("abc")), "another survivor set"),
        (told(signers=bitmap("")), "0 signers"),
        (told(signers=bitmap("ab")), "2 signers"),
        (told(signers=bitmap("abcd")), "number of signatures"),
        (told(signers=bitmap("abd")), "'d' on the survivors"),
        (told(signers=b"\x17"), "behind the last"),
        (told(signatures=b""), "number of signatures"),
        (lambda world, request: replace(request, signatures=bytes(len(request.signatures))), "'a' on the"),
        (
            lambda world, request: replace(request, signatures=request.signatures[:64] * 3),
            "'b' on the survivors",
        ),
    ],
)
def test_quorums_that_a_client_refuses(change: Change, said: str, rounds: int) -> None:
    malicious = Family("masked malicious", FAMILIES["masked malicious"])
    assert said in try_lie(malicious, Quorum, change, rounds=rounds)


def swapped(world: World, request: Quorum) -> Quorum:
    """The signed transcripts of a's neighbours, the first two in each other's place."""
    first, second, *others = columns(request.inputs, SIGNATURE_BYTES)
    return replace(request, inputs=b"".join([second, first, *others]))


def other_story(world: World, request: Quorum) -> Quorum:
    """c's own signature, on another transcript."""
    signed = columns(request.inputs, SIGNATURE_BYTES)
    other = encode(SignedInput(bytes(32)))
    forged = world.identities["c"].key.sign(other, label=labels.MASKED_INPUT)
    return replace(request, inputs=b"".join([signed[0], forged, signed[2]]))


@pytest.mark.parametrize("rounds", [1, 2], ids=["first", "steady"])
@pytest.mark.parametrize(
    ("change", "said"),
    [
        (told(inputs=b""), "number of signed transcripts"),
        (lambda world, request: replace(request, inputs=request.inputs[:-1]), "number of signed transcripts"),
        (lambda world, request: replace(request, inputs=request.inputs + bytes(64)), "number of signed"),
        (lambda world, request: replace(request, inputs=bytes(len(request.inputs))), "'b' did not sign"),
        (
            lambda world, request: replace(request, inputs=request.inputs[:128] + bytes(64)),
            "'d' did not sign",
        ),
        (swapped, "'b' did not sign"),
        (other_story, "'c' did not sign"),
    ],
)
def test_a_client_reveals_nothing_under_a_story_that_its_neighbours_did_not_sign(
    masked: Family, change: Change, said: str, rounds: int
) -> None:
    assert said in try_lie(masked, Quorum, change, rounds=rounds)


def test_signatures_of_another_round_are_no_quorum() -> None:
    world = World(FAMILIES["masked malicious"](max_clients=4, requirements=TWO), "abcd")
    earlier: list[Quorum] = []
    refused = []

    def replay(exchange: int, name: str, message: bytes) -> bytes:
        if exchange == 4:
            signed = decode(Quorum, decode(Request, Envelope.decode(message).body).body)
            if earlier:
                old = replace(signed, signatures=earlier[0].signatures)
                assert is_refusal(world.clients[name].receive(rewritten(Quorum, message, lambda _: old)))
                refused.append(world.clients[name].refusal or "")
        return message

    for number in range(2):
        updates = updates_of("abcd", seed=number)
        assert_right(world.learn(world.play(updates, request=replay)), world.protocol, updates, "abcd")
        quorum = next(sent.body for sent in world.log if sent.down and sent.exchange == 4)
        earlier.append(decode(Quorum, decode(Request, Envelope.decode(quorum).body).body))
    assert refused == ["the signature of 'a' on the survivors does not verify"] * 4


@pytest.mark.parametrize("changes", [{"signers": bitmap("a")}, {"signatures": bytes(64)}])
@pytest.mark.parametrize("name", ["masked", "masked semi-honest"])
def test_a_quorum_where_none_is_asked_for_is_refused(name: str, changes: dict[str, bytes]) -> None:
    assert "signatures" in try_lie(Family(name, FAMILIES[name]), Quorum, told(**changes))
