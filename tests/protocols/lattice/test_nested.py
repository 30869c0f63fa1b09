"""The key layer's bytes inside LatticeSum's: cut, lengthened, of another type, round or client, flipped.

LatticeSum's three messages hold one of the key layer's, whose decoder runs inside the outer one's. Whatever
stands there, a server names the sender and goes on without it, a client refuses and stays as it was, and a
result does not open; or everything fits and the sum is right. Never a wrong sum, never a foreign error.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import pytest

from protocols import NeedUpdate, PeerViolation, Round, RoundAborted
from protocols.lattice.messages import Collect, Contribution, Result, task_of
from protocols.machine.client import Request
from protocols.messages.envelope import Envelope
from protocols.messages.schema import decode, encode
from tests.protocols.conftest import (
    FAMILIES,
    STATE_KEY,
    TWO,
    Family,
    Vector,
    World,
    assert_right,
    is_refusal,
    updates_of,
)
from tests.protocols.liars import rewritten

pytestmark = pytest.mark.usefixtures("one_paillier_key")

NAMES = "abcd"
HUGE = b"\xff\xff\xff\xff"
families = pytest.mark.parametrize("name", ["lattice", "lattice over paillier"])


@dataclass(frozen=True)
class Moment:
    """A collecting exchange about to be answered: states, requests and replies; and its round's result."""

    saved: tuple[bytes, dict[str, bytes]]
    requests: dict[str, bytes]
    replies: dict[str, bytes]
    updates: dict[str, Vector]
    result: bytes | None


@cache
def played(name: str) -> tuple[World, list[Moment], list[bytes]]:
    """Two rounds of one session, and every message of the key layer alone in them."""
    world = World(Family(name, FAMILIES[name])(requirements=TWO, max_clients=4), NAMES)
    suite = world.protocol.suite  # type: ignore[attr-defined]
    moments, others = list[Moment](), list[bytes]()
    for number in range(2):
        updates = updates_of(NAMES, seed=number)
        found: dict[str, Any] = {}
        outbox = world.server.start(Round(number, tuple(NAMES), 5, b"model"))
        while outbox:
            saved, replies, exchange = world.save(), {}, 0
            for client, request in outbox.items():
                exchange = Envelope.decode(request).stage // 2
                reply = world.clients[client].receive(request)
                if isinstance(reply, NeedUpdate):
                    reply = world.clients[client].contribute(updates[client])
                world.server.receive(client, reply)
                replies[client] = reply
            if exchange == suite.collecting:
                found = {"saved": saved, "requests": dict(outbox), "replies": replies}
            else:
                others += [bytes(Envelope.decode(replies[each]).body) for each in replies]
                others += [
                    bytes(decode(Request, Envelope.decode(each).body).body) for each in outbox.values()
                ]
            outbox = world.server.advance()
        moments.append(Moment(**found, updates=updates, result=world.server.outcome().result))
    return world, moments, others


def contribution_of(message: bytes) -> Contribution:
    return decode(Contribution, Envelope.decode(message).body)


def collect_of(message: bytes) -> Collect:
    return decode(Collect, decode(Request, Envelope.decode(message).body).body)


def with_body(message: bytes, **changes: Any) -> bytes:
    """A client's contribution with other fields."""
    body = encode(replace(contribution_of(message), **changes))
    return replace(Envelope.decode(message), body=body).encode()


def broken(good: bytes, foreign: list[bytes]) -> Iterator[bytes]:
    """What is no message of this type: cut, lengthened, with a huge prefix, and messages of other types."""
    places = sorted({*range(0, min(len(good), 80)), *range(0, len(good), 1 + len(good) // 25), len(good) - 1})
    yield from (good[:at] for at in places)
    yield from (good + extra for extra in (b"\0", b"!", good, bytes(4096)))
    yield from (b"\0" + good, HUGE, HUGE + good)
    yield from foreign


def flipped(good: bytes) -> Iterator[bytes]:
    """A bit of each of the first bytes, and of some of the others; and edits in many places at once."""
    generator = random.Random(len(good))
    for place in sorted(
        {*range(min(len(good), 90)), *range(0, len(good), 1 + len(good) // 30), len(good) - 1}
    ):
        changed = bytearray(good)
        changed[place] ^= 1 << place % 8
        yield bytes(changed)
    for _ in range(20):
        changed = bytearray(good)
        for _ in range(generator.randint(2, 40)):
            changed[generator.randrange(len(changed))] = generator.randrange(256)
        yield bytes(changed)


def right_or_nothing(world: World, moment: Moment, *, instead: bytes) -> frozenset[str] | None:
    """Plays the round to its end with `instead` for what a says; the contributors, or None without a sum."""
    world.restore(moment.saved)
    left = {**moment.replies, "a": instead}
    try:
        outcome = world.resume(
            moment.requests, moment.updates, reply=lambda exchange, name, message: left.pop(name, message)
        )
        learnt = world.learn(outcome)
    except (RoundAborted, PeerViolation):
        return None
    assert learnt.contributors == outcome.contributors
    assert_right(learnt, world.protocol, moment.updates, outcome.contributors)
    return outcome.contributors


def other_types(name: str, moment: Moment) -> list[bytes]:
    """Bytes that are well-formed messages, and of another type than the key layer's contribution."""
    _, _, others = played(name)
    outer = [bytes(Envelope.decode(message).body) for message in moment.replies.values()]
    inner = [bytes(collect_of(message).keys) for message in moment.requests.values()]
    return [*others, *outer, *inner, *moment.replies.values(), task_of(length=5, model=b"model")]


# A client to the server


@families
def test_keys_that_no_client_sends_name_their_sender(name: str) -> None:
    world, moments, _ = played(name)
    for moment in moments:
        good = bytes(contribution_of(moment.replies["a"]).keys)
        server: Any = world.protocol.restore_server(moment.saved[0], key=STATE_KEY)
        before = encode(server._suite.server.freeze(server._context(server._round), server._state))
        for keys in broken(good, other_types(name, moment)):
            server = world.protocol.restore_server(moment.saved[0], key=STATE_KEY)
            with pytest.raises(PeerViolation) as violation:
                server.receive("a", with_body(moment.replies["a"], keys=memoryview(keys)))
            assert violation.value.culprit == "a"
            # Nothing of it was taken: neither its key nor its vector.
            state = server._suite.server.freeze(server._context(server._round), server._state)
            assert encode(state) == before
        wrong = with_body(moment.replies["a"], keys=memoryview(good[:-1]))
        assert right_or_nothing(world, moment, instead=wrong) == frozenset("bcd")
        assert right_or_nothing(world, moment, instead=moment.replies["a"]) == frozenset("abcd")


@families
def test_flipped_bits_in_the_keys_of_a_contribution(name: str) -> None:
    world, moments, _ = played(name)
    taken = spoilt = 0
    for keys in flipped(bytes(contribution_of(moments[1].replies["a"]).keys)):
        wrong = with_body(moments[1].replies["a"], keys=memoryview(keys))
        server = world.protocol.restore_server(moments[1].saved[0], key=STATE_KEY)
        try:
            server.receive("a", wrong)
        except PeerViolation as violation:
            assert violation.culprit == "a"  # noqa: PT017
            continue
        taken += 1
        if name == "lattice" or taken % 12 == 1:
            # A key with one number changed opens nothing: its sender spoils the round, and that is all. The
            # bits may also be those of a complaint, or of a signature that others refuse.
            spoilt += right_or_nothing(world, moments[1], instead=wrong) is None
    assert taken > 10
    assert spoilt > 3


@families
def test_keys_and_vectors_of_other_clients_and_rounds(name: str) -> None:
    """Keys that are honest, with a vector that is honest, and do not belong together."""
    world, (old, now), _ = played(name)
    mine, theirs, before = (
        contribution_of(each) for each in (now.replies["a"], now.replies["b"], old.replies["a"])
    )
    mixtures = [
        replace(mine, keys=theirs.keys),
        replace(mine, vector=theirs.vector),
        replace(mine, vector=theirs.vector, tag=theirs.tag),
        replace(mine, keys=before.keys),
        replace(mine, vector=before.vector),
        replace(mine, vector=before.vector, tag=before.tag),
        theirs,
        before,
    ]
    for mixture in mixtures:
        wrong = replace(Envelope.decode(now.replies["a"]), body=encode(mixture)).encode()
        # The sender is named and left out, or nothing opens; nobody's update counts twice.
        assert right_or_nothing(world, now, instead=wrong) in (None, frozenset("bcd"))


# A server to a client


@families
def test_keys_that_no_server_sends_are_refused(name: str) -> None:
    world, moments, others = played(name)
    for moment in moments:
        request = moment.requests["a"]
        foreign = [*others, encode(collect_of(request)), bytes(contribution_of(moment.replies["a"]).keys)]
        client: Any = world.protocol.restore_client(moment.saved[1]["a"], key=STATE_KEY)
        before = encode(client._state)
        for keys in broken(bytes(collect_of(request).keys), foreign):
            wrong = rewritten(Collect, request, lambda told: replace(told, keys=memoryview(keys)))  # noqa: B023
            assert is_refusal(client.receive(wrong))
            assert encode(client._state) == before
        assert isinstance(client.receive(request), NeedUpdate)


@families
def test_flipped_bits_in_the_keys_of_a_request(name: str) -> None:
    world, moments, _ = played(name)
    request = moments[1].requests["a"]
    refused = 0
    for keys in flipped(bytes(collect_of(request).keys)):
        client: Any = world.protocol.restore_client(moments[1].saved[1]["a"], key=STATE_KEY)
        before = encode(client._state)
        told = replace(collect_of(request), keys=memoryview(keys))
        answer = client.receive(rewritten(Collect, request, lambda _, told=told: told))  # type: ignore[misc]
        assert is_refusal(answer) or isinstance(answer, NeedUpdate)
        if is_refusal(answer):
            refused += 1
            assert encode(client._state) == before
    assert refused > 20


@families
def test_requests_of_other_clients_and_rounds(name: str) -> None:
    world, (old, now), _ = played(name)
    told, before = collect_of(now.requests["a"]), collect_of(old.requests["a"])
    for wrong in (replace(told, keys=before.keys), replace(told, model=b"other")):
        client = world.protocol.restore_client(now.saved[1]["a"], key=STATE_KEY)
        answer = client.receive(rewritten(Collect, now.requests["a"], lambda _, wrong=wrong: wrong))  # type: ignore[misc]
        assert is_refusal(answer) or name == "lattice over paillier"
        if isinstance(answer, NeedUpdate):  # the consortium's request is the same in every steady round
            assert decode(Collect, encode(wrong)).model == b"model"
            reply = client.contribute(now.updates["a"])
            assert right_or_nothing(world, now, instead=reply) == frozenset(NAMES)


# A result


def test_keys_of_a_result_that_does_not_open() -> None:
    world, (old, now), others = played("lattice over paillier")
    assert old.result is not None
    assert now.result is not None
    result, before = decode(Result, now.result), decode(Result, old.result)
    saved = now.saved[1]["b"]
    foreign = [*others, now.result, bytes(contribution_of(now.replies["a"]).keys)]
    lies = [*broken(bytes(result.keys), foreign), bytes(before.keys), *list(flipped(bytes(result.keys)))[::6]]
    for keys in lies:
        client = world.protocol.restore_client(saved, key=STATE_KEY)
        with pytest.raises(PeerViolation) as violation:
            client.open(encode(replace(result, keys=memoryview(keys))))
        assert violation.value.culprit == "server"
    client = world.protocol.restore_client(saved, key=STATE_KEY)
    assert_right(client.open(now.result), world.protocol, now.updates, NAMES)


def test_layers_of_layers_are_refused() -> None:
    """A message inside its own field is just another wrong type, however deep."""
    world, (_, now), _ = played("lattice")
    message, server = now.replies["a"], world.protocol.restore_server(now.saved[0], key=STATE_KEY)
    for _ in range(4):
        message = with_body(now.replies["a"], keys=memoryview(Envelope.decode(message).body))
        with pytest.raises(PeerViolation):
            server.receive("a", message)
        server = world.protocol.restore_server(now.saved[0], key=STATE_KEY)
