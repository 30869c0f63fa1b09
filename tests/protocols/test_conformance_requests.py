"""Requests that a server with a plan would send: each client checks for itself and releases nothing."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from protocols import NeedUpdate, PeerViolation, Policy, Segment
from protocols.client_machine import Request
from protocols.consortium.messages import Result
from protocols.envelope import Envelope
from protocols.masked.members import Members
from protocols.masked.messages import (
    AdvertiseKeys,
    Announcement,
    CohortKeys,
    CollectInput,
    Quorum,
    Survivors,
)
from protocols.schema import decode, encode
from secagg.merkle import Tree
from tests.protocols.conftest import (
    FAMILIES,
    TWO,
    Family,
    World,
    assert_right,
    exchange_of,
    is_refusal,
    updates_of,
)

pytestmark = pytest.mark.usefixtures("one_paillier_key")


def rewritten(kind: type, message: bytes, change: Callable[[Any], Any]) -> bytes:
    """A request with another body of the same type."""
    envelope = Envelope.decode(message)
    body = encode(change(decode(kind, decode(Request, envelope.body).body)))
    return replace(envelope, body=encode(Request((), memoryview(body)))).encode()


def first_request(world: World, message: bytes) -> type:
    suite = world.protocol.suite  # type: ignore[attr-defined]
    found: type = suite.requests[exchange_of(message)]
    return found


# What every announcement is checked for


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"cohort": ("b", "c", "d")}, "without this client"),
        ({"cohort": ("b", "a", "c")}, "order"),
        ({"cohort": ("a", "b", "b", "c")}, "order"),
        ({"cohort": ("a", "b", "stranger")}, "roster"),
        ({"cohort": ("a", "b")}, "cohort of 2"),
        ({"cohort": ("a",)}, "cohort of 1"),
        ({"cohort": ()}, "without this client"),
        ({"cohort": ("a", "b", "c", "d", "e")}, "cohort of 5"),
        ({"length": 0}, "0"),
        ({"length": 2**41}, "values"),
        ({"parameters": bytes(32)}, "parameters"),
    ],
    ids=lambda value: "" if isinstance(value, str) else "-".join(f"{k}={v}" for k, v in value.items())[:40],
)
def test_announcements_that_a_client_refuses(family: Family, changes: dict[str, Any], said: str) -> None:
    world = World(family(max_clients=4), "abcde")
    updates = updates_of("abc")
    tried: list[object] = []

    def lie(exchange: int, name: str, message: bytes) -> bytes:
        if not tried:
            kind = first_request(world, message)
            changed = rewritten(kind, message, lambda told: replace(told, **changes))
            tried.append(world.clients["a"].receive(changed))
            assert is_refusal(tried[0])
            assert said in (world.clients["a"].refusal or "")
        return message

    outcome = world.play(updates, request=lie)
    assert tried
    assert outcome.dropped == {}
    assert_right(world.learn(outcome), world.protocol, updates, "abc")


def test_every_steady_request_of_a_consortium_is_checked(consortium: Family) -> None:
    world = World(consortium(max_clients=4), "abcde")
    world.play(updates_of("abc"))
    updates = updates_of("abc")

    def lie(exchange: int, name: str, message: bytes) -> bytes:
        if exchange > 2:
            return message  # a result, to those outside the cohort
        kind = first_request(world, message)
        wrong: list[dict[str, Any]] = [
            {"cohort": ("a", "b")},
            {"cohort": ("b", "c", "d") if name == "a" else ("a", "d", "e")},
            {"length": 0},
            {"parameters": bytes(32)},
            {"key_id": bytes(32)},
        ]
        for changes in wrong:
            answer = world.clients[name].receive(rewritten(kind, message, lambda t: replace(t, **changes)))  # noqa: B023
            assert is_refusal(answer), changes
        return message

    outcome = world.play(updates, request=lie)
    assert outcome.dropped == {}
    assert_right(world.learn(outcome), world.protocol, updates, "abc")


def test_a_length_that_the_segments_do_not_have(family: Family) -> None:
    world = World(family(clip=(Segment(length=2, clip=1.0), Segment(length=3, clip=1.0))))
    updates = updates_of("abc")

    def lie(exchange: int, name: str, message: bytes) -> bytes:
        if exchange_of(message) == 0:
            kind = first_request(world, message)
            answer = world.clients[name].receive(rewritten(kind, message, lambda t: replace(t, length=4)))
            assert is_refusal(answer)
        return message

    assert_right(world.learn(world.play(updates, request=lie)), world.protocol, updates, "abc")


# MaskedSum

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
    """b is given a's own keys."""
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
    """The latest answer of a client to which this is the type."""
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
        (echoed, "twice"),
        (same_key_twice, "twice"),
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


# One use of the key for a round


def test_after_a_lie_that_was_decrypted_its_round_is_closed(consortium: Family) -> None:
    world = World(consortium())
    honest = world.play(updates_of("abc")).result or b""
    lie = encode(replace(decode(Result, honest), tag=bytes(16)))
    for _ in range(2):
        for result in (lie, honest):
            with pytest.raises(PeerViolation):
                world.clients["a"].open(result)
        world.restart()
    # A lie that is seen without the key costs nothing.
    with pytest.raises(PeerViolation):
        world.clients["b"].open(encode(replace(decode(Result, honest), key_id=bytes(32))))
    assert world.clients["b"].open(honest).contributors == frozenset("abc")


def test_a_request_is_for_one_client_at_a_time(family: Family) -> None:
    # What a got, fed to d who was not asked: it is not in the cohort.
    world = World(family(), "abcd")
    updates = updates_of("abc")

    def also_to_d(exchange: int, name: str, message: bytes) -> bytes:
        answer = world.clients["d"].receive(message)
        assert is_refusal(answer)
        assert not isinstance(answer, NeedUpdate)
        return message

    outcome = world.play(updates, request=also_to_d)
    assert outcome.dropped == {}
    assert np.isfinite(world.learn(outcome).mean).all()
