"""Well-formed lies: results and keys that only a server or a custodian with a plan would send."""

from contextlib import suppress
from dataclasses import replace
from typing import Any

import pytest

from protocols import MaskedSum, PeerViolation, RoundAborted
from protocols.client_machine import Request
from protocols.consortium.messages import Contribution, DistributeKey, Result
from protocols.envelope import Envelope
from protocols.masked.messages import Survivors, Unmask
from protocols.schema import decode, encode
from secagg import shamir
from secagg.entropy import SeededEntropy
from secagg.errors import SecAggError
from secagg.linear_mac import PRIME
from secagg.paillier import generate_key
from secagg.secret import Secret
from tests.protocols.conftest import (
    FAMILIES,
    STATE_KEY,
    TWO,
    Family,
    World,
    assert_right,
    updates_of,
)

pytestmark = pytest.mark.usefixtures("one_paillier_key")

# What only a liar would think of


def lying_result(consortium: Family, **changes: Any) -> tuple[World, bytes]:
    world = World(consortium(max_clients=3, requirements=TWO), "abcde")
    outcome = world.play(updates_of("abc"))
    assert outcome.result is not None
    return world, encode(replace(decode(Result, outcome.result), **changes))


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
    lie = encode(replace(decode(Result, outcome.result or b""), length=4))
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
        "a",
        made.key_id,
        hashlib.sha256(made.public).digest(),
        made.channel_key,
    )
    return replace(made, signature=world.identities["a"].key.sign(encode(said), label=labels.CONSORTIUM_SEAL))


def test_an_honest_sum_of_too_few_does_not_open(consortium: Family) -> None:
    # A server that ignores the minimum adds two contributions and their tags: every tag is authentic.
    world = World(consortium(max_clients=3), "abc")
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


def test_masks_of_another_story_are_named() -> None:
    # One client is told another model (ATTACKS A9). Its masks do not cancel: it is named, the rest goes on.
    world, updates = World(MaskedSum(max_clients=4, requirements=TWO), "abcd"), updates_of("abcd")

    def other_model(exchange: int, name: str, message: bytes) -> bytes:
        return message.replace(b"the model", b"THE MODEL") if name == "b" else message

    outcome = world.play(updates, model=b"the model", request=other_model)
    assert set(outcome.dropped) == {"b"}
    assert "transcript" in outcome.dropped["b"]
    assert_right(world.learn(outcome), world.protocol, updates, "acd")


def test_a_revealed_share_that_was_not_dealt_is_named() -> None:
    # Every byte of every share in a's last message; the round goes on without them (ATTACKS B3).
    world, updates = World(MaskedSum(max_clients=4, requirements=TWO), "abcd"), updates_of("abcd")
    tried = []

    def change(exchange: int, name: str, message: bytes) -> bytes:
        if (exchange, name) != (3, "a"):
            return message
        saved = world.server.export(key=STATE_KEY)
        shares = [each.share for each in decode(Unmask, Envelope.decode(message).body).reveals.values()]
        assert len(shares) == 4
        for share in shares:
            begin = message.index(share)
            for place in range(begin, begin + len(share)):
                changed = bytearray(message)
                changed[place] ^= 1 << (place % 8)
                world.server = world.protocol.restore_server(saved, key=STATE_KEY)
                with pytest.raises(PeerViolation) as violation:
                    world.server.receive("a", changed)
                assert violation.value.culprit == "a"
                tried.append(place)
        return message  # too late: a is out

    outcome = world.play(updates, gone={"d": 2}, reply=change)
    assert len(tried) > 100
    assert set(outcome.dropped) == {"a", "d"}
    assert outcome.contributors == frozenset("abc")
    assert_right(world.learn(outcome), world.protocol, updates, "abc")


def test_a_share_of_the_other_kind_is_named() -> None:
    # a answers as if b had dropped: the very share that was dealt to it, but not the one that was asked for.
    world, updates = World(MaskedSum(max_clients=4, requirements=TWO), "abcd"), updates_of("abcd")
    swapped: list[bytes] = []

    def twin(exchange: int, name: str, message: bytes) -> bytes:
        if (exchange, name) == (3, "a"):
            other = world.protocol.restore_client(world.clients["a"].export(key=STATE_KEY), key=STATE_KEY)
            envelope = Envelope.decode(message)
            told = encode(Request((), memoryview(encode(Survivors(frozenset("acd"))))))
            answer = other.receive(replace(envelope, body=told).encode())
            assert isinstance(answer, bytes)
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


@pytest.mark.parametrize("secret", [0, 1])
def test_a_dealer_of_other_secrets_is_named(secret: int, monkeypatch: pytest.MonkeyPatch) -> None:
    # b deals shares of a secret that is not the one behind its masks: of its round secret (and vanishes),
    # or of its self-mask seed (and stays). No wrong sum comes out of it.
    from protocols.masked import client as masked_client

    honest, dealt = shamir.split, []

    def lie(value: Secret, **arguments: Any) -> Any:
        dealt.append(value)
        other = Secret(bytes([value.reveal()[0] ^ 1]) + value.reveal()[1:])
        return honest(other if len(dealt) == 1 + secret else value, **arguments)

    def only_b(exchange: int, name: str, message: bytes) -> bytes:
        monkeypatch.setattr(masked_client, "split", lie if (exchange, name) == (1, "b") else honest)
        return message

    world = World(MaskedSum(max_clients=4, requirements=TWO), "abcd")
    with pytest.raises(RoundAborted) as aborted:
        world.play(updates_of("abcd"), request=only_b, gone={"b": 2} if secret == 0 else {})
    assert len(dealt) == 2
    assert "'b'" in aborted.value.reason
    assert "b" in dict(world.server.record().record.dropped)


def test_a_client_stops_opening_after_eight_failures(consortium: Family) -> None:
    world = World(consortium(max_clients=3), "abc")
    results = [world.play(updates_of("abc")).result or b"" for _ in range(10)]
    lies = [encode(replace(decode(Result, result), tag=bytes(16))) for result in results]
    for lie in lies[:7]:
        for _ in range(3):  # the same again tells nobody anything
            with pytest.raises(PeerViolation):
                world.clients["a"].open(lie)
        world.restart()
    assert world.clients["a"].open(results[8]).contributors == frozenset("abc")
    with pytest.raises(PeerViolation):
        world.clients["a"].open(lies[7])
    world.restart()
    with pytest.raises(PeerViolation, match=r"\b8\b"):
        world.clients["a"].open(results[9])
    assert world.clients["b"].open(results[9]).contributors == frozenset("abc")


def test_errors_are_of_this_library() -> None:
    assert issubclass(PeerViolation, SecAggError)
    assert issubclass(RoundAborted, SecAggError)
