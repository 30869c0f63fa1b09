"""B7: hostile bytes to any decoder: truncated, oversized, trailing, nested, of another type.

Every message of every protocol is cut at every place, lengthened, and filled with huge length prefixes. A
decoder gives back a value whose encoding is the very bytes, or raises `DecodeError` and nothing else; a
machine refuses and stays as it was; and neither takes memory before it knows that the bytes are there. The
weakened reader allocates what a prefix announces.

Not covered: TenSEAL's own decoder beyond the checks in front of it (see the tests of `secagg.ckks`). Time is
bounded by the same argument as memory, and no test here measures it.
"""

import os
import random
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import fields, is_dataclass, replace
from functools import partial
from typing import Any, get_args, get_type_hints

import pytest

from protocols import (
    Adversary,
    CkksSum,
    LatticeSum,
    MaskedSum,
    PaillierSum,
    ParameterError,
    PeerViolation,
    PlainSum,
    Requirements,
    RoundAborted,
)
from protocols.consortium.messages import Result
from protocols.machine.client import Received, Request
from protocols.machine.suite import Suite
from protocols.masked.messages import (
    Announcement,
    CohortKeys,
    CollectInput,
    MaskedInput,
    Quorum,
    ShareKeys,
    Survivors,
    Unmask,
)
from protocols.messages.envelope import Envelope, Refusal
from protocols.messages.record import SignedRecord
from protocols.messages.schema import decode, encode
from secagg.errors import DecodeError, VerificationError
from secagg.secret import Secret
from secagg.wire import Reader, Writer
from tests.attacks.weakened import Stage, refused, updates_of

NAMES = "abc"
PROTOCOLS = {
    "plain": PlainSum(max_clients=6),
    "masked": MaskedSum(max_clients=6),
    "malicious": MaskedSum(max_clients=6, requirements=Requirements(adversary=Adversary.MALICIOUS)),
    "ckks": CkksSum(max_clients=6),
    "paillier": PaillierSum(max_clients=6, key_bits=2048),
    "lattice": LatticeSum(max_clients=6),
    "lattice over paillier": LatticeSum(max_clients=6, keys=partial(PaillierSum, key_bits=2048)),
}
MEGABYTE = 1 << 20
HUGE = b"\xff\xff\xff\xff"


def peak_of(call: Callable[[], object]) -> int:
    """Bytes that a call holds at most, beyond what was there before."""
    tracemalloc.start()
    try:
        call()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def bodies(suite: Suite, stage: Stage) -> Iterator[tuple[type, bytes]]:
    """Each message of a round, as its type and its bytes."""
    for each in stage.wire:
        kinds = suite.requests if each.down else suite.replies
        body = bytes(Envelope.decode(each.message).body)
        if each.down:
            yield Request, body
            body = bytes(decode(Request, body).body)
        yield kinds[each.exchange], body


@pytest.fixture(params=PROTOCOLS, scope="module")
def played(request: pytest.FixtureRequest) -> Stage:
    stage, first = Stage(PROTOCOLS[request.param], NAMES), []
    for _ in range(2):  # MaskedSum's second round has fewer exchanges, and other dealings
        stage.play(updates_of(NAMES))
        first += stage.wire
    stage.wire = first
    return stage


def places(size: int) -> list[int]:
    """Every place of a short message, a hundred of a long one."""
    return (
        list(range(size))
        if size <= 400
        else sorted({*range(100), *range(size - 20, size), *range(0, size, size // 40)})
    )


def test_every_message_is_there(played: Stage) -> None:
    suite = played.protocol.suite
    assert one_of_each(played).keys() == {Request, *suite.requests, *suite.replies}


def one_of_each(stage: Stage) -> dict[type, bytes]:
    return dict(bodies(stage.protocol.suite, stage))


def test_every_cut_is_refused(played: Stage) -> None:
    for kind, body in one_of_each(played).items():
        for at in places(len(body)):
            with pytest.raises(DecodeError):
                decode(kind, body[:at])


def test_every_addition_is_refused(played: Stage) -> None:
    for kind, body in one_of_each(played).items():
        for extra in (b"\0", b"!", body):
            with pytest.raises(DecodeError):
                decode(kind, body + extra)


def test_huge_prefixes_cost_nothing(played: Stage) -> None:
    for kind, body in one_of_each(played).items():
        for at in places(len(body)):
            hostile = body[:at] + HUGE + body[at + 4 :]

            def attempt(kind: type = kind, hostile: bytes = hostile) -> None:
                with suppress(DecodeError):
                    assert encode(decode(kind, hostile)) == hostile

            assert peak_of(attempt) < MEGABYTE + 16 * len(hostile)


def test_changed_bytes_decode_to_themselves_or_not_at_all(played: Stage) -> None:
    """There is one encoding of each value."""
    generator = random.Random(7)
    for kind, body in one_of_each(played).items():
        for _ in range(150):
            hostile = bytearray(body)
            for _ in range(generator.randint(1, 4)):
                hostile[generator.randrange(len(hostile))] = generator.randrange(256)
            with suppress(DecodeError):
                assert encode(decode(kind, bytes(hostile))) == hostile


def test_a_reader_that_believes_the_prefix_takes_the_memory() -> None:
    class Believes(Reader):
        def blob(self, *, maximum: int, minimum: int = 0) -> memoryview:
            buffer = bytearray(self.uint(4))
            buffer[: self.remaining] = self.rest()
            return memoryview(buffer)

    hostile = (64 * MEGABYTE).to_bytes(4, "big") + b"short"

    def ours() -> None:
        with pytest.raises(DecodeError):
            Reader(hostile).blob(maximum=(1 << 32) - 1)

    assert peak_of(lambda: Believes(hostile).blob(maximum=0)) > 64 * MEGABYTE
    assert peak_of(ours) < MEGABYTE // 8


@pytest.mark.parametrize("count", [1 << 20, (1 << 20) + 1, (1 << 32) - 1])
def test_announced_items_that_are_not_there(count: int) -> None:
    """A tuple, a mapping, a set: what is left of the message bounds the number of items."""
    prefix = Writer().uint(count, 4).finish()
    bitmap = Writer().blob(b"\x07").finish()
    places = (
        (Announcement, bytes(32)),
        (CohortKeys, b""),
        (CohortKeys, bitmap + bytes(32)),
        (CohortKeys, bitmap + bytes(32 + 4)),
        (ShareKeys, b""),
        (ShareKeys, bytes(4 * 4)),
        (CollectInput, bytes(16)),
        (CollectInput, bytes(16) + bitmap),
        (MaskedInput, bytes(32 + 64)),
        (MaskedInput, bytes(32 + 64) + bitmap),
        (Survivors, b""),
        (Quorum, b""),
        (Quorum, bitmap + bytes(32)),
        (Quorum, bitmap + bytes(32) + bytes(4) + bitmap),
        (Unmask, b""),
        (Unmask, bitmap),
    )
    for kind, head in places:

        def attempt(kind: Any = kind, head: bytes = head) -> None:
            with pytest.raises(DecodeError):
                decode(kind, head + prefix + bytes(1000))

        assert peak_of(attempt) < MEGABYTE // 4


@pytest.mark.parametrize(
    "junk", ["str", 7, None, 1.5, [1, 2], memoryview(bytes(16))[::2], {"a": 1}, object()]
)
def test_what_is_no_buffer_at_all(junk: Any) -> None:
    stage = Stage(PROTOCOLS["masked"], NAMES)
    stage.open(updates_of(NAMES), until=0)
    with pytest.raises(DecodeError):
        decode(Refusal, junk)
    with pytest.raises(PeerViolation):
        stage.server.receive("a", junk)
    assert refused(stage.clients["b"].receive(junk))


def test_no_message_contains_itself() -> None:
    """So no bytes can nest deeper than the types do."""

    def walk(kind: Any, above: tuple[Any, ...]) -> None:
        assert kind not in above
        if is_dataclass(kind):
            hints = get_type_hints(kind, include_extras=True)
            for each in fields(kind):
                walk(hints[each.name], (*above, kind))
        for argument in get_args(kind):
            if isinstance(argument, type) or get_args(argument):
                walk(argument, above)

    for protocol in PROTOCOLS.values():
        for kind in (*protocol.suite.requests, *protocol.suite.replies):
            walk(kind, ())
    for kind in (Request, Received, Refusal, Result, SignedRecord):
        walk(kind, ())


# Machines


@pytest.mark.parametrize("name", PROTOCOLS)
def test_machines_refuse_and_stay_as_they_were(name: str) -> None:
    """Each message, cut short in several places, arrives before the real one; the round ends well."""
    data = updates_of(NAMES)
    stage = Stage(PROTOCOLS[name], NAMES)

    def before(exchange: int, client: str, message: bytes) -> bytes:
        machine = stage.clients[client]
        for at in (0, 3, 4, 20, 40, len(message) // 2, len(message) - 1):
            assert refused(machine.receive(message[:at]))
        assert refused(machine.receive(message + b"\0"))
        assert refused(machine.receive(os.urandom(64)))
        return message

    outcome = stage.play(data, request=before)
    assert outcome.contributors == frozenset(NAMES)
    assert not outcome.dropped


@pytest.mark.parametrize("name", PROTOCOLS)
def test_a_server_names_whoever_sends_rubbish_and_goes_on(name: str) -> None:
    names = "abcdm"
    data = updates_of(names)
    generator = random.Random(11)
    for exchange in range(len(PROTOCOLS[name].suite.exchanges)):

        def spoil(at: int, client: str, message: bytes, exchange: int = exchange) -> bytes:
            if (at, client) != (exchange, "m"):
                return message
            return message[: generator.randrange(60, len(message))]

        stage = Stage(PROTOCOLS[name], names, seed=bytes([exchange]))
        outcome = stage.play(data, reply=spoil)
        asked = any(w.client == "m" and w.exchange == exchange for w in stage.wire)
        assert outcome.dropped.keys() == ({"m"} if asked else set())
        assert outcome.contributors >= frozenset("abcd")


@pytest.mark.parametrize("name", PROTOCOLS)
def test_bytes_changed_at_random_raise_nothing_else(name: str) -> None:
    """Fuzzing whole messages: a server raises `PeerViolation` or takes it, a client answers."""
    data = updates_of(NAMES)
    generator = random.Random(13)
    for attempt in range(6):
        stage = Stage(PROTOCOLS[name], NAMES, seed=bytes([attempt]))

        def spoil(exchange: int, client: str, message: bytes) -> bytes:
            hostile = bytearray(message)
            for _ in range(generator.choice((0, 0, 1, 3))):
                hostile[generator.randrange(len(hostile))] ^= 1 << generator.randrange(8)
            return bytes(hostile)

        box = stage.open(data, until=0)
        for _ in range(8):
            for client, message in box.items():
                try:
                    answer = stage.tell(client, spoil(0, client, message), data[client])
                except ParameterError:
                    answer = b""  # a spoilt length: the update does not fit what was asked
                with suppress(PeerViolation):
                    stage.server.receive(client, spoil(0, client, answer) if answer else answer)
            try:
                box = stage.server.advance()
            except RoundAborted:
                break


# Results and saved states


def test_a_result_that_announces_a_huge_sum() -> None:
    stage = Stage(PROTOCOLS["ckks"], NAMES)
    result = decode(Result, stage.play(updates_of(NAMES)).result or b"")
    for length in (1 << 20, (1 << 29) - 2, 1 << 30, 1 << 40, (1 << 63)):

        def attempt(length: int = length) -> None:
            with pytest.raises(PeerViolation):
                stage.clients["a"].open(encode(replace(result, length=length)))

        assert peak_of(attempt) < 4 * MEGABYTE
    assert stage.clients["a"].open(encode(result)).contributors == frozenset(NAMES)


@pytest.mark.parametrize("name", ["ckks", "paillier", "lattice over paillier"])
def test_results_cut_short(name: str) -> None:
    stage = Stage(PROTOCOLS[name], NAMES)
    result = stage.play(updates_of(NAMES)).result or b""
    for at in (0, 1, 7, 8, 40, len(result) // 2, len(result) - 1):
        with pytest.raises(PeerViolation):
            stage.clients["a"].open(result[:at])
    assert stage.clients["a"].open(result).total_weight == 3


def test_a_round_number_beyond_the_last_one() -> None:
    """A client that took it could not be saved any more, and would refuse every round to come."""
    stage = Stage(PROTOCOLS["masked"], NAMES)
    suite = stage.protocol.suite
    announcement = suite.requests[0](suite.digest, tuple(NAMES), 24)
    for number in (1 << 63, (1 << 64) - 1):
        assert refused(stage.tell("a", stage.request(0, announcement, round=number)))
    assert stage.clients["a"].export(key=Secret(bytes(32)))


@pytest.mark.parametrize("name", ["masked", "ckks", "lattice", "lattice over paillier"])
def test_results_that_nobody_asked_for_are_not_hoarded(name: str) -> None:
    """Clients that open none take none; those that do can tell from the bytes that it is none."""
    stage = Stage(PROTOCOLS[name], NAMES)
    stage.play(updates_of(NAMES))
    for number in range(32):
        stage.tell("a", stage.results(bytes([number]) * 100_000))
    assert sum(map(len, stage.clients["a"].results)) < MEGABYTE


@pytest.mark.parametrize("role", ["client", "server"])
def test_hostile_saved_states(role: str) -> None:
    """They are sealed, so that hostile ones do not even reach a decoder."""
    protocol, key = PROTOCOLS["masked"], Secret(bytes(range(32)))
    stage = Stage(protocol, NAMES)
    party = stage.server if role == "server" else stage.clients["a"]
    restore: Any = protocol.restore_server if role == "server" else protocol.restore_client
    blob = party.export(key=key)
    for at in places(len(blob)):
        with pytest.raises((ParameterError, VerificationError)):
            restore(blob[:at], key=key)
        flipped = bytearray(blob)
        flipped[at] ^= 1
        with pytest.raises((ParameterError, VerificationError)):
            restore(bytes(flipped), key=key)
