"""Requests that a server with a plan would send: each client checks for itself and releases nothing."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from protocols import MaskedSum, NeedUpdate, PeerViolation, Policy, Segment
from protocols.client_machine import Request
from protocols.consortium.messages import Result
from protocols.envelope import Envelope
from protocols.masked.messages import AdvertiseKeys, CohortKeys, CollectInput, Survivors
from protocols.schema import decode, encode
from tests.protocols.conftest import (
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


def try_lie(kind: type, at: int, change: Callable[[World, Any], Any], **parameters: Any) -> list[str]:
    """Tells a the changed request before the true one; why it refused, if it did. The round ends well."""
    world = World(MaskedSum(max_clients=4, requirements=TWO), "abcd", **parameters)
    updates, reasons = updates_of("abcd"), []

    def lie(exchange: int, name: str, message: bytes) -> bytes:
        if (exchange, name) == (at, "a"):
            answer = world.clients["a"].receive(rewritten(kind, message, lambda told: change(world, told)))
            assert is_refusal(answer)
            reasons.append(world.clients["a"].refusal or "")
        return message

    outcome = world.play(updates, request=lie)
    assert outcome.dropped == {}
    assert_right(world.learn(outcome), world.protocol, updates, "abcd")
    return reasons


def keys_without(name: str) -> Callable[[World, CohortKeys], CohortKeys]:
    return lambda world, told: CohortKeys({who: key for who, key in told.keys.items() if who != name})


def other_keys(name: str) -> Callable[[World, CohortKeys], CohortKeys]:
    """Well-signed keys of the same client, for the same round: of a twin with other randomness."""

    def change(world: World, told: CohortKeys) -> CohortKeys:
        twin = world.protocol.client(
            identity=world.identities[name], roster=world.roster, session=world.session
        )
        start = next(sent.body for sent in world.log if sent.down and sent.client == name)
        answer = twin.receive(start)
        assert isinstance(answer, bytes)
        keys: AdvertiseKeys = decode(AdvertiseKeys, Envelope.decode(answer).body)
        return CohortKeys({**told.keys, name: keys})

    return change


def echoed(world: World, told: CohortKeys) -> CohortKeys:
    return CohortKeys({**told.keys, "b": told.keys["a"]})


def same_key_twice(world: World, told: CohortKeys) -> CohortKeys:
    return CohortKeys({**told.keys, "b": replace(told.keys["b"], mask_key=told.keys["c"].mask_key)})


def unsigned(world: World, told: CohortKeys) -> CohortKeys:
    return CohortKeys({**told.keys, "b": replace(told.keys["b"], signature=told.keys["c"].signature)})


def unknown(world: World, told: CohortKeys) -> CohortKeys:
    return CohortKeys({**told.keys, "e": told.keys["b"]})


def only_two_others_lost(world: World, told: CohortKeys) -> CohortKeys:
    return CohortKeys({"a": told.keys["a"]})


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (keys_without("a"), "own"),
        (other_keys("a"), "own"),
        (echoed, "twice"),
        (same_key_twice, "twice"),
        (unsigned, "signed"),
        (unknown, "announced"),
        (only_two_others_lost, "keys of 1"),
    ],
)
def test_cohort_keys_that_a_client_refuses(
    change: Callable[[World, CohortKeys], CohortKeys], said: str
) -> None:
    (reason,) = try_lie(CohortKeys, 1, change)
    assert said in reason


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda world, told: replace(told, sealed={**told.sealed, "a": told.sealed["b"]}), "shares"),
        (lambda world, told: replace(told, sealed={**told.sealed, "e": told.sealed["b"]}), "shares"),
        (lambda world, told: replace(told, sealed={}), "1"),
    ],
)
def test_dealt_shares_that_a_client_refuses(change: Callable[[World, Any], Any], said: str) -> None:
    (reason,) = try_lie(CollectInput, 2, change)
    assert said in reason


@pytest.mark.parametrize(
    ("survivors", "said"),
    [
        (frozenset("bcd"), "dropped"),
        (frozenset("a"), "1 survivors"),
        (frozenset(), "dropped"),
        (frozenset("abcde"), "never dealt"),
        (frozenset(["a", "b", "stranger"]), "never dealt"),
    ],
)
def test_survivors_that_a_client_refuses(survivors: frozenset[str], said: str) -> None:
    (reason,) = try_lie(Survivors, 3, lambda world, told: Survivors(survivors))
    assert said in reason


def test_a_survivor_set_below_a_clients_policy_is_refused() -> None:
    # d insists on four. a, whose own policy allows two, keeps to it as long as d is among the survivors.
    policies = {"d": Policy(min_contributors=4)}
    (reason,) = try_lie(Survivors, 3, lambda world, told: Survivors(frozenset("abd")), policies=policies)
    assert "3 survivors" in reason


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
