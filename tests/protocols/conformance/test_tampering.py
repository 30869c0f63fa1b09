"""Bytes that nobody honest sends: flipped bits, edits, noise. Never a wrong sum, never a foreign error."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from protocols import NeedUpdate, PeerViolation, Round, RoundAborted, Sum
from protocols.machine.client import Request
from protocols.messages.envelope import Envelope
from protocols.messages.schema import decode, encode
from tests.protocols.conftest import (
    FAMILIES,
    MASKED,
    STATE_KEY,
    TWO,
    Family,
    Hook,
    Vector,
    World,
    assert_right,
    is_refusal,
    updates_of,
    values_of,
)

pytestmark = pytest.mark.usefixtures("one_paillier_key")

FUZZ = settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
NAMES = "abc"
SHARED = (*MASKED, "lattice")
"""Variants of MaskedSum, one of them under LatticeSum."""


@dataclass(frozen=True)
class Scene:
    """One exchange about to be answered: all states, the requests, and the honest replies to them."""

    round: int
    saved: tuple[bytes, dict[str, bytes]]
    requests: dict[str, bytes]
    replies: dict[str, bytes]
    updates: dict[str, Vector]


@cache
def scenes(name: str) -> tuple[World, list[Scene], bytes | None]:
    """Two rounds of small vectors, exchange by exchange, and the last result."""
    world = World(Family(name, FAMILIES[name])(requirements=TWO, max_clients=3), NAMES)
    found: list[Scene] = []
    for number in range(2):
        updates = updates_of(NAMES, 2, seed=number)
        outbox = world.server.start(Round(number, tuple(NAMES), 2, b"model"))
        while outbox:
            saved, replies = world.save(), {}
            for client, request in outbox.items():
                reply = world.clients[client].receive(request)
                if isinstance(reply, NeedUpdate):
                    reply = world.clients[client].contribute(updates[client])
                world.server.receive(client, reply)
                replies[client] = reply
            found.append(Scene(number, saved, dict(outbox), replies, updates))
            outbox = world.server.advance()
    return world, found, world.server.outcome().result


@pytest.fixture
def stage(family: Family) -> tuple[World, list[Scene], bytes | None]:
    return scenes(family.name)


def flips(message: bytes) -> Iterator[tuple[int, bytes]]:
    """A bit of each byte, every bit of the first header; of a long message some hundred bytes."""
    envelope = Envelope.decode(message)
    header = len(message) - len(envelope.body)
    bits = range(8) if envelope.stage < 2 else range(2, 4)
    places = [(place, bit) for place in range(header) for bit in bits]
    body = range(header, len(message))
    if len(body) > 1500:
        body = sorted({*body[:300], *body[300 :: len(body) // 100], *body[-16:]})  # type: ignore[assignment]
    places += [(place, place % 8) for place in body]
    for place, bit in places:
        changed = bytearray(message)
        changed[place] ^= 1 << bit
        yield place, bytes(changed)


def learn_or_nothing(
    world: World, scene: Scene, *, request: Hook | None = None, reply: Hook | None = None
) -> None:
    """The sum is right, or there is none: the round aborts, or clients refuse to open its result."""
    try:
        outcome = world.resume(scene.requests, scene.updates, request=request, reply=reply)
        learnt = world.learn(outcome)
    except (RoundAborted, PeerViolation):
        return
    assert learnt.contributors == outcome.contributors
    assert_right(learnt, world.protocol, scene.updates, learnt.contributors)


def swapped(instead: dict[str, bytes]) -> Hook:
    """Delivers something else to some clients, once."""
    return lambda exchange, name, message: instead.pop(name, message)


def vector_of(family: Family, scene: Scene) -> range:
    """Where the vector of a's reply stands, if its bits are the value itself and no one can see them change.

    A bit-packed vector of PlainSum, a masked one of MaskedSum and a hidden one of LatticeSum carry the
    update: whoever changes them says another update, as the client itself could, or only noise. Vectors are
    not signed; the transport authenticates them. Behind LatticeSum's comes the length of its tag, which is 0.
    """
    reply = scene.replies["a"]
    envelope = Envelope.decode(reply)
    if family.opened_by_clients or envelope.stage // 2 != family.collecting:
        return range(0)
    said: Any = decode(family().suite.replies[family.collecting], envelope.body)
    end = len(reply) - (4 if family.kind == "lattice" else 0)
    assert reply[:end].endswith(said.vector)
    return range(end - len(said.vector), end)


@pytest.mark.slow
def test_flipped_bits_on_the_way_to_the_server(
    family: Family, stage: tuple[World, list[Scene], bytes]
) -> None:
    world, found, _ = stage
    stride = 50 if family.heavy else 5 if family.opened_by_clients or family.kind == "lattice" else 1
    violations = accepted = 0
    for scene in found:
        if "a" not in scene.replies or (scene.round and not family.masked):
            continue  # only MaskedSum says anything new in a steady round
        vector = vector_of(family, scene)
        for place, changed in flips(scene.replies["a"]):
            if place in vector:
                continue
            server = world.protocol.restore_server(scene.saved[0], key=STATE_KEY)
            try:
                server.receive("a", changed)
            except PeerViolation as violation:
                assert violation.culprit == "a"  # noqa: PT017
                violations += 1
                continue
            accepted += 1
            if accepted % stride:
                continue  # ciphertexts, and masked keys, of all values look alike
            world.restore(scene.saved)
            # Only this one message is changed; the others are what was said, and later ones as they come.
            learn_or_nothing(world, scene, reply=once({("a", scene.requests["a"]): changed}, scene))
    assert violations > 100


def once(swap: dict[tuple[str, bytes], bytes], scene: Scene) -> Callable[[int, str, bytes], bytes]:
    """Replies as they were recorded for this scene, with one of them changed; later ones as they come."""
    left = {name: swap.get((name, scene.requests[name]), scene.replies[name]) for name in scene.replies}

    def reply(exchange: int, name: str, message: bytes) -> bytes:
        return left.pop(name, message)

    return reply


@pytest.mark.slow
def test_flipped_bits_on_the_way_to_a_client(family: Family, stage: tuple[World, list[Scene], bytes]) -> None:
    world, found, _ = stage
    refusals = accepted = 0
    for scene in found:
        if "a" not in scene.requests:
            continue
        for _, changed in flips(scene.requests["a"]):
            client = world.protocol.restore_client(scene.saved[1]["a"], key=STATE_KEY)
            answer = client.receive(changed)
            assert isinstance(answer, bytes | NeedUpdate)
            if is_refusal(answer):
                refusals += 1
                assert client.refusal
                continue
            assert client.refusal is None
            accepted += 1
            if family.opened_by_clients and accepted % (40 if family.heavy else 8):
                continue  # another number of a round to come, most often; every eighth is played to its end
            if family.masked and accepted % len(SHARED) != SHARED.index(family.name):
                continue  # seals and ciphertexts that do not open; the variants share them
            world.restore(scene.saved)
            learn_or_nothing(world, scene, request=swapped({"a": changed}))
    assert refusals > 100


def test_flipped_bits_of_a_result(consortium: Family) -> None:
    world, found, result = scenes(consortium.name)
    assert result is not None
    world.restore(found[-1].saved)  # these clients have the key and have opened nothing of this round
    saved = world.clients["a"].export(key=STATE_KEY)
    refused = 0
    length = len(result)
    places = sorted({*range(min(length, 200)), *range(0, length, max(1, length // 100)), length - 1})
    if consortium.heavy:
        places = places[::4]
    for place in places:
        changed = bytearray(result)
        changed[place] ^= 1 << (place % 8)
        client = world.protocol.restore_client(saved, key=STATE_KEY)
        try:
            opened = client.open(changed)
        except PeerViolation as violation:
            assert violation.culprit == "server"  # noqa: PT017
            refused += 1
            continue
        assert_right(opened, world.protocol, found[-1].updates, NAMES)
    assert refused > len(places) / 2
    for cut in (0, 1, length // 2, length - 1):
        with pytest.raises(PeerViolation):
            world.protocol.restore_client(saved, key=STATE_KEY).open(result[:cut])
    assert_right(world.clients["a"].open(result), world.protocol, found[-1].updates, NAMES)


# Edits and noise


def edits() -> st.SearchStrategy[Callable[[bytes], bytes]]:
    """Cuts, insertions, repetitions and overwritten fields."""
    place, data = st.integers(0, 2**16), st.binary(max_size=8)

    def edit(kind: str, at: int, to: int, fill: bytes) -> Callable[[bytes], bytes]:
        def apply(message: bytes) -> bytes:
            begin, end = sorted((at % (len(message) + 1), to % (len(message) + 1)))
            middle = {"cut": b"", "insert": fill + message[begin:end], "repeat": message[begin:end] * 2}.get(
                kind
            )
            if middle is None:
                return message[:begin] + fill + message[begin + len(fill) :]
            return message[:begin] + middle + message[end:]

        return apply

    return st.builds(edit, st.sampled_from(["cut", "insert", "repeat", "overwrite"]), place, place, data)


@FUZZ
@given(
    noise=st.binary(max_size=300), edit=st.lists(edits(), min_size=1, max_size=3), which=st.integers(0, 99)
)
def test_noise_and_edits_at_the_server(
    family: Family, noise: bytes, edit: list[Callable[[bytes], bytes]], which: int
) -> None:
    world, found, _ = scenes(family.name)
    scene = found[which % len(found)]
    sender, message = sorted(scene.replies.items())[which % len(scene.replies)]
    server = world.protocol.restore_server(scene.saved[0], key=STATE_KEY)
    edited = message
    for each in edit:
        edited = each(edited)
    header = message[: len(message) - len(Envelope.decode(message).body)]
    for body in (noise, edited, header + noise):
        try:
            server.receive(sender, body)
        except PeerViolation as violation:
            assert violation.culprit == sender  # noqa: PT017


@FUZZ
@given(
    noise=st.binary(max_size=300), edit=st.lists(edits(), min_size=1, max_size=3), which=st.integers(0, 99)
)
def test_noise_and_edits_at_the_client(
    family: Family, noise: bytes, edit: list[Callable[[bytes], bytes]], which: int
) -> None:
    world, found, result = scenes(family.name)
    scene = found[which % len(found)]
    name, message = sorted(scene.requests.items())[which % len(scene.requests)]
    client = world.protocol.restore_client(scene.saved[1][name], key=STATE_KEY)
    edited = message
    for each in edit:
        edited = each(edited)
    header = message[: len(message) - len(Envelope.decode(message).body)]
    for body in (noise, edited, header + noise):
        assert isinstance(client.receive(body), bytes | NeedUpdate)
    client.export(key=STATE_KEY)
    if result is not None:
        for each in edit:
            opener = world.protocol.restore_client(world.save()[1]["a"], key=STATE_KEY)
            try:
                assert isinstance(opener.open(each(result)), Sum)
            except PeerViolation as violation:
                assert violation.culprit == "server"  # noqa: PT017


@FUZZ
@given(data=st.data(), which=st.integers(0, 99))
def test_well_typed_nonsense(family: Family, data: st.DataObject, which: int) -> None:
    """Messages of the right type with arbitrary contents: past the decoder, into the protocol itself."""
    world, found, _ = scenes(family.name)
    scene = found[which % len(found)]
    name = sorted(scene.replies)[which % len(scene.replies)]
    envelope, back = Envelope.decode(scene.requests[name]), Envelope.decode(scene.replies[name])
    suite = world.protocol.suite  # type: ignore[attr-defined]
    real = decode(suite.requests[envelope.stage // 2], decode(Request, envelope.body).body)
    nonsense = mixed(data, real)
    body = encode(Request((), memoryview(encode(nonsense))))
    client = world.protocol.restore_client(scene.saved[1][name], key=STATE_KEY)
    answer = client.receive(replace(envelope, body=body).encode())
    assert isinstance(answer, bytes | NeedUpdate)
    if isinstance(answer, NeedUpdate) and answer.length < 10**4:
        assert isinstance(client.contribute(np.zeros(answer.length)), bytes)
    client.export(key=STATE_KEY)
    said = decode(suite.replies[back.stage // 2], back.body)
    server = world.protocol.restore_server(scene.saved[0], key=STATE_KEY)
    try:
        server.receive(name, replace(back, body=encode(mixed(data, said))).encode())
    except PeerViolation as violation:
        assert violation.culprit == name  # noqa: PT017
    server.export(key=STATE_KEY)


def mixed(data: st.DataObject, real: Any) -> Any:
    """A message with some fields kept and the others arbitrary."""
    wild = data.draw(values_of(type(real), NAMES))
    fields = [name for name in type(real).__slots__ if data.draw(st.booleans())]
    return replace(wild, **{name: getattr(real, name) for name in fields})
