"""What a party adds to its input: one message, and not a second copy of it anywhere (DESIGN, section 2).

The bounds are those of a vector of four million values, where a copy more would be many megabytes.
`bench/memory.py` measures the same for a hundred million, in processes of their own.
"""

import tracemalloc
from collections.abc import Callable
from typing import TypeVar

import numpy as np
import pytest

from protocols import NeedUpdate, Outcome, Round
from protocols.interface import MemoryReleaseLog, Policy
from tests.protocols.conftest import TWO, Family, World, updates_of

LENGTH = 4_000_000
SLACK = 4_000_000
"""Buffers of a block and small objects; a second message would be twice as much."""
NAMES = ("a", "b")

T = TypeVar("T")


def peak_of(call: Callable[[], T]) -> tuple[T, int]:
    """What `call` returns, and the most memory that it held at a time beyond what was there before."""
    tracemalloc.start()
    try:
        result = call()
        return result, tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.fixture
def collecting(to_server: Family) -> tuple[World, dict[str, bytes]]:
    """A world whose open exchange asks for the updates, and its requests."""
    World(to_server(requirements=TWO), NAMES).play(updates_of(NAMES))  # what a process makes once is made
    policies = {"a": Policy(release_log=MemoryReleaseLog())}
    world = World(to_server(requirements=TWO), NAMES, policies=policies)
    outbox = world.server.start(Round(0, NAMES, LENGTH))
    while not world.server.collecting:
        for name, request in outbox.items():
            answer = world.clients[name].receive(request)
            assert isinstance(answer, bytes)
            world.server.receive(name, answer)
        outbox = world.server.advance()
    return world, outbox


def test_one_message_beside_the_input(collecting: tuple[World, dict[str, bytes]]) -> None:
    world, requests = collecting
    update = np.full(LENGTH, 0.25, dtype=np.float32)
    replies: dict[str, bytes] = {}
    for name in NAMES:
        client = world.clients[name]
        assert isinstance(client.receive(requests[name]), NeedUpdate)
        reply, peak = peak_of(lambda client=client: client.contribute(update))  # type: ignore[misc]
        assert client.refusal is None
        assert len(reply) > 2 * SLACK
        assert peak < len(reply) + SLACK
        # The answer to a repeated request is the same object.
        again, peak = peak_of(lambda client=client, name=name: client.receive(requests[name]))  # type: ignore[misc]
        assert again is reply
        assert peak < SLACK
        replies[name] = reply
    accumulator = 9 * LENGTH  # which the first vector makes where only vectors of one head are summed
    for name, reply in replies.items():
        _, peak = peak_of(lambda name=name, reply=reply: world.server.receive(name, reply))  # type: ignore[misc]
        assert peak < accumulator + SLACK
        accumulator = 0
    assert_little_but_the_result(world)


def assert_little_but_the_result(world: World) -> None:
    """Ends the round: the sum's float64 vector is made once, and handed out as it is."""

    def end() -> Outcome:
        while outbox := world.server.advance():
            for name, request in outbox.items():
                answer = world.clients[name].receive(request)
                assert isinstance(answer, bytes)
                world.server.receive(name, answer)
        return world.server.outcome()

    outcome, peak = peak_of(end)
    assert outcome.total is not None
    assert peak < outcome.total.mean.nbytes + SLACK
    again, peak = peak_of(world.server.outcome)
    assert again.total is not None
    assert again.total.mean is outcome.total.mean
    assert peak < SLACK


def test_a_large_model_is_copied_into_the_request_alone(to_server: Family) -> None:
    world = World(to_server(requirements=TWO), NAMES)
    model = bytes(3 * SLACK)
    outbox, peak = peak_of(lambda: world.server.start(Round(0, NAMES, 5, model)))
    while not world.server.collecting:
        for name, request in outbox.items():
            world.server.receive(name, world.clients[name].receive(request))  # type: ignore[arg-type]
        outbox, peak = peak_of(world.server.advance)
    assert all(len(request) > len(model) for request in outbox.values())
    messages = sum(len(message) for message in {id(each): each for each in outbox.values()}.values())
    assert peak < messages + SLACK
