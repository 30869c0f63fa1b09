"""What parties are given and leave behind: buffers of any kind, policies of clients, the signed record."""

import mmap
import tempfile
from contextlib import suppress

import numpy as np
import pytest

from protocols import (
    NeedUpdate,
    ParameterError,
    Policy,
    Round,
    Rounding,
)
from secagg.errors import DecodeError, PeerViolation, RoundAborted, VerificationError
from tests.protocols.conftest import TWO, Family, World, assert_right, updates_of

pytestmark = pytest.mark.usefixtures("one_paillier_key")

# Buffers


@pytest.mark.parametrize("kind", ["bytes", "bytearray", "memoryview", "mmap"])
def test_messages_may_be_any_buffer(family: Family, kind: str) -> None:
    world = World(family())
    opened: list[mmap.mmap] = []

    def wrap(exchange: int, name: str, message: bytes) -> object:
        if kind == "bytearray":
            return bytearray(message)
        if kind == "memoryview":
            return memoryview(bytearray(message))
        if kind == "bytes":
            return message
        with tempfile.TemporaryFile() as file:
            file.write(message)
            file.flush()
            opened.append(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        return opened[-1]

    updates = updates_of("abc", 50)
    outcome = world.play(updates, request=wrap, reply=wrap)  # type: ignore[arg-type]
    assert_right(world.learn(outcome), world.protocol, updates, "abc")
    for each in opened:
        each.close()  # raises BufferError while a machine still holds a view of the message


def test_a_buffer_may_be_reused_after_the_call(family: Family) -> None:
    world = World(family())

    def overwrite(exchange: int, name: str, message: bytes) -> bytearray:
        for old in given_away:
            old[:] = bytes(len(old))
        given_away.append(bytearray(message))
        return given_away[-1]

    given_away: list[bytearray] = []
    updates = updates_of("abc", 50)
    outcome = world.play(updates, request=overwrite, reply=overwrite)  # type: ignore[arg-type]
    assert_right(world.learn(outcome), world.protocol, updates, "abc")


@pytest.mark.parametrize("shape", ["strided", "shaped", "text", "nothing", "number"])
def test_what_is_no_buffer_is_a_violation(family: Family, shape: str) -> None:
    world = World(family(requirements=TWO))
    outbox = world.server.start(Round(0, ("a", "b", "c"), 5))

    def spoil(message: bytes) -> object:
        return {
            "strided": memoryview(message + message)[::2],
            "shaped": memoryview(message).cast("B", [len(message), 1]),
            "text": "text",
            "nothing": None,
            "number": 7,
        }[shape]

    answer = world.clients["a"].receive(spoil(outbox["a"]))  # type: ignore[arg-type]
    assert isinstance(answer, bytes | NeedUpdate)
    reply = world.clients["b"].receive(outbox["b"])
    if isinstance(reply, NeedUpdate):
        reply = world.clients["b"].contribute(np.zeros(5))
    with suppress(PeerViolation):
        world.server.receive("b", spoil(reply))  # type: ignore[arg-type]


# Policies


def test_a_client_insists_on_its_own_minimum(family: Family) -> None:
    world = World(family(requirements=TWO), "abcde", policies={"a": Policy(min_contributors=5)})
    updates = updates_of("abcd")
    outcome = world.play(updates)
    assert "a" in outcome.dropped
    assert "refused" in outcome.dropped["a"]
    assert world.clients["a"].refusal is not None
    assert_right(world.learn(outcome), world.protocol, updates, "bcd")
    updates = updates_of("abcde")
    assert_right(world.learn(world.play(updates)), world.protocol, updates, "abcde")
    assert world.clients["a"].refusal is None


def test_the_strictest_client_of_a_sum_counts_for_all(family: Family) -> None:
    if family.name == "plain":
        pytest.skip(
            "the server of PlainSum sees every update; there is nothing that a client could hold back"
        )
    world = World(family(requirements=TWO), "abcde", policies={"a": Policy(min_contributors=5)})
    updates = updates_of("abcde")
    assert_right(world.learn(world.play(updates)), world.protocol, updates, "abcde")
    with pytest.raises(RoundAborted):
        world.play(updates, gone={"e": 2})
    with pytest.raises(RoundAborted):
        world.play(updates, reply=lambda e, name, message: None if (e, name) == (2, "b") else message)
    updates = updates_of("bcde")  # without a, three are enough for all, and two for some
    assert_right(world.learn(world.play(updates, gone={"e": 2})), world.protocol, updates, "bcd")


def test_a_client_gives_no_more_values_than_its_policy(family: Family) -> None:
    world = World(family(requirements=TWO), "abcd", policies={"c": Policy(max_length=4)})
    updates = updates_of("abcd", 5)
    outcome = world.play(updates)
    assert "c" in outcome.dropped
    assert_right(world.learn(outcome), world.protocol, updates, "abd")
    assert world.play(updates_of("abcd", 4)).dropped == {}
    # Nor in a round that the one before has prepared.
    outcome = world.play(updates)
    assert "c" in outcome.dropped
    assert_right(world.learn(outcome), world.protocol, updates, "abd")


@pytest.mark.parametrize("bad", [{"min_contributors": 1}, {"min_contributors": 2.0}, {"max_length": 0}])
def test_policies_that_make_no_sense(bad: dict[str, object]) -> None:
    with pytest.raises(ParameterError):
        Policy(**bad)  # type: ignore[arg-type]


# Records


def test_the_record_says_what_happened_and_no_secret(family: Family) -> None:
    world = World(family(requirements=TWO), "abcd")
    outcome = world.play(updates_of("abcd"), model=b"model", gone={"d": 0})
    signed, record = outcome.record, outcome.record.record
    signed.verify(world.server_identity.key.public_key)
    assert signed.public_key == world.server_identity.key.public_key
    assert record.cohort == ("a", "b", "c", "d")
    assert record.contributors == outcome.contributors == frozenset("abc")
    assert dict(record.dropped) == outcome.dropped
    assert set(outcome.dropped) == {"d"}
    assert (record.round, record.length, record.session, record.aborted) == (0, 5, world.session, "")
    plan = world.protocol.plan(4)
    assert (record.degree, record.threshold, record.ring_bits, record.roster, record.corrupt) == (
        plan.degree,
        plan.threshold,
        plan.ring_bits,
        plan.roster,
        plan.corrupt,
    )
    assert world.server.record() == signed
    encoded = signed.encode()
    assert type(signed).decode(encoded) == signed
    for identity in world.identities.values():
        assert identity.key.secret.reveal() not in encoded
    assert world.server_identity.key.secret.reveal() not in encoded
    if outcome.total is not None:
        assert outcome.total.mean.tobytes() not in encoded
    for place in range(len(encoded)):
        flipped = bytearray(encoded)
        flipped[place] ^= 1 << (place % 8)
        try:
            forged = type(signed).decode(flipped)
            forged.verify(world.server_identity.key.public_key)
        except (VerificationError, DecodeError):
            continue
        assert forged.record == record  # only the copy of the public key beside the record is not signed
        assert forged.public_key != signed.public_key


def test_the_transcript_digest_commits_to_every_accepted_message(family: Family) -> None:
    digests = set()
    for changed in (None, "a", "b", "c"):
        world = World(family(rounding=Rounding.NEAREST))
        updates = updates_of("abc")
        if changed is not None:
            updates[changed] = -updates[changed]
        digests.add(world.play(updates).record.record.transcript)
    assert len(digests) == 4
