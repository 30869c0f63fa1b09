"""Well-formed lies: results and keys that only a server or a custodian with a plan would send.

The liars among MaskedSum's clients are in `test_masked_liars` and its neighbours.
"""

from contextlib import suppress
from dataclasses import replace
from typing import Any

import pytest

from protocols import PeerViolation, RoundAborted
from protocols.consortium.messages import Contribution, DistributeKey, Result
from protocols.lattice import messages as lattice
from protocols.messages.envelope import Envelope
from protocols.messages.schema import decode, encode
from secagg.entropy import SeededEntropy
from secagg.errors import SecAggError
from secagg.paillier.scheme import generate_key
from secagg.vectors.linear_mac import PRIME
from tests.protocols.conftest import (
    FAMILIES,
    STATE_KEY,
    TWO,
    Family,
    World,
    assert_right,
    updates_of,
)
from tests.protocols.liars import lying

pytestmark = pytest.mark.usefixtures("one_paillier_key")

# What only a liar would think of


def lying_result(consortium: Family, **changes: Any) -> tuple[World, bytes]:
    world = World(consortium(max_clients=3, requirements=TWO), "abcde")
    return world, lying(world, world.play(updates_of("abc")).result, **changes)


@pytest.mark.parametrize(
    "changes",
    [
        {"contributors": {"a": 2, "b": 2}},
        {"contributors": {"a": 2, "b": 2, "d": 2}},
        {"contributors": dict.fromkeys("abcd", 2)},
        {"contributors": dict.fromkeys("abcde", 2)},
        {"contributors": {"a": 2}},
        {"contributors": {}},
        {"contributors": {"a": 2, "b": 2, "stranger": 2}},
        {"contributors": {"a": 2, "b": 2, "c": 3}},
        {"contributors": {"a": 0, "b": 2, "c": 2}},
        {"round": 1},
        {"length": 4},
        {"length": 6},
        {"length": 0},
        {"length": 2**39},
        {"length": 2**41},
        {"model": bytes(32)},
        {"key_id": bytes(32)},
        {"tag": bytes(16)},
        {"tag": b"\xff" * 16},
        {"vector": memoryview(b"")},
        {"vector": memoryview(bytes(64))},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_results_that_lie(consortium: Family, changes: dict[str, Any]) -> None:
    if consortium.heavy and not changes.keys() & {"round", "length", "model", "tag"}:
        pytest.skip("its key layer is PaillierSum, of whose checks these show that they are made")
    world, lie = lying_result(consortium, **changes)
    with pytest.raises(PeerViolation) as violation:
        world.clients["a"].open(lie)
    assert violation.value.culprit == "server"
    honest = world.server.outcome().result
    assert honest is not None
    assert world.clients["b"].open(honest).contributors == frozenset("abc")
    # A client uses the key once for a round: after a lie that had to be decrypted to be seen, not even the
    # honest result is tried. The next round is another matter.
    with suppress(PeerViolation):
        assert world.clients["a"].open(honest).contributors == frozenset("abc")
    updates = updates_of("abc", seed=2)
    world.number += 1  # one of the lies is about round 1
    outcome = world.play(updates)
    assert_right(world.learn(outcome), world.protocol, updates, "abc")


def test_a_result_of_segments_with_a_lying_length(consortium: Family) -> None:
    from protocols import Segment

    world = World(consortium(clip=(Segment(length=2, clip=1.0), Segment(length=3, clip=2.0))))
    outcome = world.play(updates_of("abc"))
    lie = lying(world, outcome.result, length=4)
    if consortium.kind == "lattice":  # the long vector's length is in its own part of the result
        result = decode(lattice.Result, outcome.result or b"")
        lie = encode(replace(result, task=replace(result.task, length=4)))
    with pytest.raises(PeerViolation):
        world.clients["a"].open(lie)


def test_a_second_result_of_one_round_is_refused(consortium: Family) -> None:
    # The server runs the same round twice, by coming back from an older state, with other contributors.
    world = World(consortium(requirements=TWO))
    updates = updates_of("abc")
    world.learn(world.play(updates))
    saved = world.save()
    first = world.play(updates)
    world.restore((saved[0], {}))  # the server alone
    for name in "abc":
        world.clients[name] = world.protocol.restore_client(saved[1][name], key=STATE_KEY)
    world.number -= 1
    second = world.play(updates, gone={"c": 2})
    assert first.result is not None
    assert second.result is not None
    assert world.clients["a"].open(second.result).contributors == frozenset("ab")
    for _ in range(2):
        with pytest.raises(PeerViolation):
            world.clients["a"].open(first.result)
        world.restart()  # what was opened is remembered in a saved state as well
    assert world.clients["a"].open(second.result).contributors == frozenset("ab")


@pytest.mark.slow
def test_a_key_of_another_size_is_the_custodians_fault() -> None:
    world = World(Family("paillier", FAMILIES["paillier"])(requirements=TWO))
    other = generate_key(key_bits=2112, entropy=SeededEntropy(b"another size"))
    updates = updates_of("abc")

    def swap(exchange: int, name: str, message: bytes) -> bytes:
        if exchange != 1 or name != "a":
            return message
        envelope = Envelope.decode(message)
        made = decode(DistributeKey, envelope.body)
        forged = sign_again(world, replace(made, public=other.public_key.encode()))
        with pytest.raises(PeerViolation) as violation:
            world.server.receive("a", replace(envelope, body=encode(forged)).encode())
        assert violation.value.culprit == "a"
        return message

    outcome = world.play(updates, reply=swap)
    assert "a" in outcome.dropped
    assert_right(world.learn(outcome), world.protocol, updates, "bc")


def sign_again(world: World, made: DistributeKey) -> DistributeKey:
    """The distribution under its custodian's own signature: a client may lie, and sign its lie."""
    import hashlib

    from protocols.consortium.messages import SignedDistribution
    from secagg import labels

    said = SignedDistribution(
        world.protocol.suite.digest,  # type: ignore[attr-defined]
        world.session,
        world.roster.digest,
        "a",
        made.key_id,
        hashlib.sha256(made.public).digest(),
        made.channel_key,
    )
    return replace(made, signature=world.identities["a"].key.sign(encode(said), label=labels.CONSORTIUM_SEAL))


@pytest.mark.parametrize("name", ["ckks", "paillier"])  # as a key layer they are the same machines
def test_an_honest_sum_of_too_few_does_not_open(name: str) -> None:
    # A server that ignores the minimum adds two contributions and their tags: every tag is authentic.
    world = World(Family(name, FAMILIES[name])(max_clients=3), "abc")
    said: dict[str, Contribution] = {}
    public = [b""]

    def keep(exchange: int, name: str, message: bytes) -> bytes:
        body = Envelope.decode(message).body
        if exchange == 1:
            public[0] = decode(DistributeKey, body).public
        if exchange == 2:
            said[name] = decode(Contribution, body)
        return message

    updates = updates_of("abc")
    outcome = world.play(updates, reply=keep)
    honest = decode(Result, outcome.result or b"")
    scheme = world.protocol.scheme(world.protocol.surface)  # type: ignore[attr-defined]

    def result_of(names: str) -> bytes:
        total = scheme.total(public[0], count=6)
        for name in names:
            total.add(bytes(said[name].vector))
        tag = sum(int.from_bytes(said[name].tag, "big") for name in names) % PRIME
        return encode(
            replace(
                honest,
                contributors={name: said[name].minimum for name in names},
                tag=tag.to_bytes(16, "big"),
                vector=memoryview(total.to_bytes()),
            )
        )

    for client in world.clients.values():
        with pytest.raises(PeerViolation, match="3"):
            client.open(result_of("ab"))
        # Seen without the key, so nothing is lost; and what this test puts together does open.
        assert_right(client.open(result_of("abc")), world.protocol, updates, "abc")


@pytest.mark.slow
def test_a_client_stops_opening_after_eight_failures(consortium: Family) -> None:
    world = World(consortium(max_clients=3), "abc")

    def played() -> bytes:
        return world.play(updates_of("abc")).result or b""

    first = lying(world, played(), tag=bytes(16))
    for _ in range(7):
        lie = lying(world, played(), tag=bytes(16))
        for _ in range(3):  # the same again tells nobody anything
            with pytest.raises(PeerViolation):
                world.clients["a"].open(lie)
        world.restart()
    assert world.clients["a"].open(played()).contributors == frozenset("abc")
    with pytest.raises(PeerViolation, match="forgot"):  # the key is not tried on what is older than memory
        world.clients["a"].open(first)
    with pytest.raises(PeerViolation):
        world.clients["a"].open(lying(world, played(), tag=bytes(16)))
    world.restart()
    last = played()
    with pytest.raises(PeerViolation, match=r"\b8\b"):
        world.clients["a"].open(last)
    assert world.clients["b"].open(last).contributors == frozenset("abc")


def test_errors_are_of_this_library() -> None:
    assert issubclass(PeerViolation, SecAggError)
    assert issubclass(RoundAborted, SecAggError)
