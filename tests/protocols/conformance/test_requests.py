"""Requests that a server with a plan would send: each client checks for itself and releases nothing."""

from typing import Any

import numpy as np
import pytest

from protocols import NeedUpdate, PeerViolation, Segment
from protocols.lattice.messages import task_of
from tests.protocols.conftest import (
    Family,
    World,
    assert_right,
    is_refusal,
    updates_of,
)
from tests.protocols.liars import lying, retold

pytestmark = pytest.mark.usefixtures("one_paillier_key")


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
            tried.append(world.clients["a"].receive(retold(world, message, **changes)))
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
        wrong: list[dict[str, Any]] = [
            {"cohort": ("a", "b")},
            {"cohort": ("b", "c", "d") if name == "a" else ("a", "d", "e")},
            {"length": 0},
            {"parameters": bytes(32)},
            {"key_id": bytes(32)},
        ]
        for changes in wrong:
            assert is_refusal(world.clients[name].receive(retold(world, message, **changes))), changes
        return message

    outcome = world.play(updates, request=lie)
    assert outcome.dropped == {}
    assert_right(world.learn(outcome), world.protocol, updates, "abc")


def test_a_length_that_the_segments_do_not_have(family: Family) -> None:
    world = World(family(clip=(Segment(length=2, clip=1.0), Segment(length=3, clip=1.0))))
    updates = updates_of("abc")

    def lie(exchange: int, name: str, message: bytes) -> bytes:
        if exchange == asked:
            tried.append(world.clients[name].receive(retold(world, message, **four)))
            assert is_refusal(tried[-1])
        return message

    # LatticeSum announces the length of its keys; that of the vector comes with the model, in the task.
    lattice, tried = family.kind == "lattice", list[object]()
    asked = family.collecting if lattice else 0
    four: dict[str, Any] = {"model": task_of(length=4, model=b"")} if lattice else {"length": 4}
    assert_right(world.learn(world.play(updates, request=lie)), world.protocol, updates, "abc")
    assert len(tried) == 3


# One use of the key for a round


def test_after_a_lie_that_was_decrypted_its_round_is_closed(consortium: Family) -> None:
    world = World(consortium())
    honest = world.play(updates_of("abc")).result or b""
    lie = lying(world, honest, tag=bytes(16))
    for _ in range(2):
        for result in (lie, honest):
            with pytest.raises(PeerViolation):
                world.clients["a"].open(result)
        world.restart()
    # A lie that is seen without the key costs nothing.
    with pytest.raises(PeerViolation):
        world.clients["b"].open(lying(world, honest, key_id=bytes(32)))
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
