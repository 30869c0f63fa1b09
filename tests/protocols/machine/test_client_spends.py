"""Material that is prepared in one round and used up in another is released once, whatever round asks.

A home-made protocol: in every round the server says which round's material it wants, and the client releases
a word made under it. Two different words under the same material would be a two-time pad.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import pytest

from protocols import (
    CkksSum,
    Identity,
    LatticeSum,
    MaskedSum,
    MemoryReleaseLog,
    NeedUpdate,
    PaillierSum,
    PlainSum,
    Policy,
    Roster,
)
from protocols.identity import SERVER
from protocols.machine.client import ClientMachine, Request
from protocols.machine.suite import Asked, ClientContext, ClientSteps, Replied, Suite
from protocols.machine.summand import Summand
from protocols.messages.envelope import REFUSAL, STAGES, Envelope, request_stage
from protocols.messages.schema import U64, Body, Stream, decode, encode
from secagg.entropy import SeededEntropy, draw
from secagg.errors import PeerViolation, VerificationError
from secagg.wire import Buffer, Writer
from tests.protocols.conftest import STATE_KEY

SESSION = bytes(range(16))
ALICE, BOB = (Identity.generate(name, entropy=SeededEntropy(name.encode())) for name in ("alice", "bob"))
ROSTER = Roster.of(ALICE, BOB)
NOTHING = 2**64 - 1


@dataclass(frozen=True, slots=True)
class Ask:
    """Server to client: release something under the material of this round, or of none."""

    prepared: U64
    wish: bytes


@dataclass(frozen=True, slots=True)
class AskForVector:
    """Server to client: the same with an update."""

    prepared: U64
    wish: bytes


@dataclass(frozen=True, slots=True)
class Word:
    """Client to server."""

    word: Body


@dataclass(frozen=True, slots=True)
class Ready:
    """The only state between requests."""


@dataclass(frozen=True, slots=True)
class Folding:
    """Waits for an update."""

    prepared: U64


class SpendingSteps(ClientSteps):
    """Says which material each release uses up."""

    states: ClassVar[tuple[type, ...]] = (Ready, Folding)
    failure: ClassVar[Exception | None] = None
    """Raised when the vector is half written."""

    def idle(self, state: Any) -> Ready:
        return Ready()

    def react(self, context: ClientContext, state: Any, request: Any) -> Replied | Asked:
        match state, request:
            case Ready(), Ask():
                word = memoryview(draw(context.entropy, 8))
                return Replied(Ready(), Word(word), spends=material(request.prepared))
            case Ready(), AskForVector():
                return Asked(Folding(request.prepared), 2**17, b"")
        raise PeerViolation("a request out of order", culprit=SERVER)

    def fold(self, context: ClientContext, state: Any, summand: Summand) -> Replied:
        ring = context.suite.surface.ring

        def packed() -> Iterator[Buffer]:
            for block in ring.pack_stream(summand.blocks()):
                yield block
                if self.failure is not None:
                    raise self.failure

        vector: Any = Stream(ring.packed_size(summand.elements), packed())
        return Replied(Ready(), Word(vector), spends=material(state.prepared))


def material(prepared: int) -> int | None:
    return None if prepared == NOTHING else prepared


SUITE: Suite = replace(
    PlainSum(max_clients=3).suite,
    exchanges=("Ask", "AskForVector"),
    collecting=1,
    requests=(Ask, AskForVector),
    replies=(Word, Word),
    client=SpendingSteps(),
)


class SpiedLog(MemoryReleaseLog):
    """Remembers where something was written, in order."""

    def __init__(self) -> None:
        super().__init__()
        self.places: list[tuple[bytes, int, int]] = []

    def insert(self, session: bytes, round: int, step: int, digest: bytes) -> bytes:
        self.places.append((session, round, step))
        return super().insert(session, round, step, digest)


def client_of(log: Any, identity: Identity = ALICE, entropy: bytes = b"first") -> ClientMachine:
    return ClientMachine(
        SUITE,
        identity=identity,
        roster=ROSTER,
        session=SESSION,
        policy=Policy(release_log=log),
        entropy=SeededEntropy(entropy),
    )


def older_state(client: ClientMachine, log: Any, entropy: bytes = b"second") -> ClientMachine:
    """The same client from its state of now, with other randomness."""
    blob = client.export(key=STATE_KEY)
    return ClientMachine.restore(SUITE, blob, key=STATE_KEY, release_log=log, entropy=SeededEntropy(entropy))


def ask(round: int, prepared: int, *, exchange: int = 0, wish: bytes = b"") -> bytes:
    request = SUITE.requests[exchange](prepared, wish)
    return Envelope(
        protocol=SUITE.code, session=SESSION, round=round, stage=request_stage(exchange), sender=SERVER
    ).encode(encode(Request((), memoryview(encode(request)))))


def refused(answer: object) -> bool:
    return isinstance(answer, bytes) and Envelope.decode(answer).stage == REFUSAL


def test_what_one_round_prepared_goes_out_once() -> None:
    log = MemoryReleaseLog()
    client = client_of(log)
    rewound = older_state(client, log)
    first = client.receive(ask(5, prepared=3))
    assert not refused(first)
    # The rewound client is asked in another round, whose place in the log is free.
    second = rewound.receive(ask(6, prepared=3))
    assert refused(second)
    assert rewound.refusal is not None
    assert "round 3" in rewound.refusal
    assert "before" in rewound.refusal
    # Nothing of the reply is in the refusal, and this client goes on with other material.
    assert isinstance(second, bytes)
    assert len(second) < 300
    assert not refused(rewound.receive(ask(7, prepared=4)))


def test_a_release_that_spends_nothing_of_another_round_is_held_by_its_own_round_alone() -> None:
    log = MemoryReleaseLog()
    client = client_of(log)
    rewound = older_state(client, log)
    assert not refused(client.receive(ask(5, prepared=NOTHING)))
    assert refused(older_state(rewound, log).receive(ask(5, prepared=NOTHING, wish=b"another")))
    assert not refused(rewound.receive(ask(6, prepared=NOTHING)))


def test_the_very_same_release_may_leave_again() -> None:
    log = MemoryReleaseLog()
    client = client_of(log)
    twin = client_of(log)  # the same client before its first round, with the same randomness
    assert client.receive(ask(5, prepared=3)) == twin.receive(ask(5, prepared=3))
    assert twin.refusal is None
    # The same word, but in answer to another request.
    assert refused(client_of(log).receive(ask(6, prepared=3)))


def test_different_steps_and_different_clients_have_material_of_their_own() -> None:
    log = MemoryReleaseLog()
    for identity in (ALICE, BOB):
        client = client_of(log, identity)
        assert not refused(client.receive(ask(5, prepared=3)))
        assert isinstance(client.receive(ask(5, prepared=3, exchange=1)), NeedUpdate)
        assert not refused(client.contribute(np.zeros(2**17)))
        assert refused(older_state(client_of(log, identity), log).receive(ask(9, prepared=3)))


def test_both_places_are_written_before_anything_leaves() -> None:
    log = SpiedLog()
    client_of(log).receive(ask(5, prepared=3))
    name = Writer().blob(SESSION).text("alice").finish()
    assert log.places == [(name, 5, 0), (name, 3, STAGES)]
    # Where the step itself was answered before, its material is not touched.
    log.places.clear()
    assert refused(client_of(log, entropy=b"second").receive(ask(5, prepared=4)))
    assert log.places == [(name, 5, 0)]


def test_material_of_the_same_round_has_a_place_of_its_own() -> None:
    log = SpiedLog()
    assert not refused(client_of(log).receive(ask(3, prepared=3)))
    assert len(set(log.places)) == 2


def test_a_rewound_client_does_not_send_a_second_vector() -> None:
    log = MemoryReleaseLog()
    client = client_of(log)
    rewound = older_state(client, log)
    for machine, number, value in ((client, 5, 0.25), (rewound, 6, 2.0)):
        assert isinstance(machine.receive(ask(number, prepared=3, exchange=1)), NeedUpdate)
        machine.clipped = 77
        reply = machine.contribute(np.full(2**17, value))
        assert refused(reply) == (machine is rewound)
        assert machine.clipped == (77 if machine is rewound else 0)


@pytest.mark.parametrize(
    "failure",
    [
        PeerViolation("a mask that does not fit", culprit=SERVER),
        VerificationError("a mask that does not fit"),
    ],
    ids=["violation", "verification"],
)
def test_what_goes_wrong_within_the_vector_is_a_refusal(
    failure: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = SpiedLog()
    client = client_of(log)
    assert isinstance(client.receive(ask(5, prepared=3, exchange=1)), NeedUpdate)
    monkeypatch.setattr(SpendingSteps, "failure", failure)
    assert refused(client.contribute(np.zeros(2**17)))
    assert client.refusal == "a mask that does not fit"
    assert log.places == []
    # Nothing was released, so nothing was committed: the step still waits for its update.
    monkeypatch.setattr(SpendingSteps, "failure", None)
    reply = client.contribute(np.full(2**17, 2.0))
    assert not refused(reply)
    assert client.clipped == 2**17
    assert len(decode(Word, Envelope.decode(reply).body).word) == SUITE.surface.ring.packed_size(2**17 + 1)


def test_without_a_log_nothing_but_the_steps_hold() -> None:
    client = client_of(None)
    rewound = older_state(client, None)
    assert not refused(client.receive(ask(5, prepared=3)))
    assert not refused(rewound.receive(ask(6, prepared=3)))


@pytest.mark.parametrize("protocol", [PlainSum, MaskedSum, CkksSum, PaillierSum, LatticeSum])
def test_no_step_has_the_place_of_material(protocol: Any) -> None:
    exchanges = len(protocol(max_clients=3).suite.exchanges)
    assert request_stage(exchanges - 1) < STAGES
