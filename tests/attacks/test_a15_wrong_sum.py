"""A15: a wrong sum is returned, or honest clients are dropped at will.

**Partial.** Nothing in the protocol verifies the sum: where the server learns it, clients take its word, and
a server that says that a vector never came is believed. The first tests show both on ours. (What CkksSum and
PaillierSum open is bound to its contributors by a tag: see C4.)

What there is: a signed record of each round. It names the contributors and the dropped ones with a reason, so
that nobody who was left out can be told that it took part; it cannot be told in two ways, because two signed
records of one round are the proof; and it commits to every accepted message, so that whoever is given the
messages runs the server's part again and sees a wrong sum. The weakened records are not signed, or commit to
nothing.

Not covered: without the messages a wrong sum is not seen by anybody. Verifiable aggregation is future work.
"""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from protocols import MaskedSum, Outcome, Round, Sum
from protocols.machine.server import ServerMachine
from protocols.machine.suite import Finished
from protocols.messages.record import RoundRecord, SignedRecord, Transcript
from protocols.messages.schema import encode
from secagg.errors import VerificationError
from tests.attacks.weakened import LENGTH, Stage, Vector, updates_of

NAMES = "abcde"
PROTOCOL = MaskedSum(max_clients=8)


class WrongSum(ServerMachine):
    """A server that follows the protocol to its end and then tells another mean."""

    def _finish(self, step: Finished) -> None:
        assert step.total is not None
        super()._finish(replace(step, total=replace(step.total, mean=step.total.mean + 1)))


def mean_of(data: dict[str, Vector], names: Any) -> Vector:
    mean: Vector = np.mean([data[name] for name in sorted(names)], axis=0)
    return mean


def test_nobody_notices_a_wrong_sum_on_ours_either() -> None:
    stage, data = Stage(PROTOCOL, NAMES, server_machine=WrongSum), updates_of(NAMES)
    outcome = stage.play(data)
    assert outcome.total is not None
    assert np.abs(outcome.total.mean - mean_of(data, NAMES)).min() > 0.9
    outcome.record.verify(stage.server._key.public_key)
    assert all(client.refusal is None for client in stage.clients.values())
    assert stage.play(data).contributors == frozenset(NAMES)  # and the session goes on


def test_an_honest_client_is_dropped_at_will_on_ours_too() -> None:
    """The server throws a vector away. The rest is asked to unmask without it, and does."""
    stage, data = Stage(PROTOCOL, NAMES), updates_of(NAMES)
    outcome = stage.play(data, reply=lambda at, name, message: None if (at, name) == (2, "c") else message)
    assert outcome.total is not None
    assert outcome.contributors == frozenset("abde")
    assert np.abs(outcome.total.mean - mean_of(data, "abde")).max() < 1e-4
    assert stage.clients["c"].refusal is None


# The record


def dropped_at_will(stage: Stage) -> Outcome:
    return stage.play(
        updates_of(NAMES), reply=lambda at, name, message: None if (at, name) == (2, "c") else message
    )


def test_the_record_says_who_was_left_out() -> None:
    """Whoever has an answer of its own to show, and is not in the record, knows that it was left out."""
    stage = Stage(PROTOCOL, NAMES)
    signed = dropped_at_will(stage).record
    signed.verify(stage.server._key.public_key)
    assert signed.record.cohort == tuple(NAMES)
    assert signed.record.contributors == frozenset("abde")
    assert signed.record.dropped.keys() == {"c"}
    assert "did not answer" in signed.record.dropped["c"]


@pytest.mark.parametrize(
    "change",
    [
        {"contributors": frozenset(NAMES)},
        {"dropped": {}},
        {"cohort": tuple("abde")},
        {"round": 7},
        {"length": 1},
        {"model": bytes(32)},
        {"transcript": bytes(32)},
        {"aborted": "never happened"},
    ],
    ids=lambda change: str(next(iter(change))),
)
def test_a_record_without_its_signature_says_what_one_likes(change: dict[str, Any]) -> None:
    """The weakened archive keeps plain records, which say what they say; a signed one verifies or not."""
    stage = Stage(PROTOCOL, NAMES)
    signed = dropped_at_will(stage).record
    doctored = replace(signed.record, **change)
    assert doctored != signed.record
    assert encode(doctored) != encode(signed.record)
    with pytest.raises(VerificationError):
        SignedRecord(doctored, signed.public_key, signed.signature).verify(stage.server._key.public_key)
    signed.verify(stage.server._key.public_key)


def contradict(first: SignedRecord, second: SignedRecord, key: bytes) -> bool:
    """Whether one server signed two different things about one round."""
    first.verify(key)
    second.verify(key)
    one, other = first.record, second.record
    return (one.session, one.round) == (other.session, other.round) and one != other


def test_two_stories_about_one_round_convict_the_server() -> None:
    stage = Stage(PROTOCOL, NAMES)
    signed = dropped_at_will(stage).record
    other: RoundRecord = replace(signed.record, contributors=frozenset(NAMES), dropped={})
    told_to_c = SignedRecord.sign(other, stage.server._key)
    key = stage.server._key.public_key
    assert contradict(signed, told_to_c, key)
    assert not contradict(signed, SignedRecord.decode(signed.encode()), key)
    assert not contradict(signed, stage.play(updates_of(NAMES)).record, key)


# An auditor with the messages


def audit(stage: Stage, outcome: Outcome) -> Sum | None:
    """The sum that follows from the messages, or None if they are not the ones that the record commits to."""
    auditor = ServerMachine(
        PROTOCOL.suite,
        roster=stage.roster,
        session=stage.session,
        identity=None,
        entropy=stage.entropy("auditor"),
    )
    record = outcome.record.record
    outbox = auditor.start(Round(record.round, record.cohort, record.length))
    exchange = 0
    while outbox:
        for wire in stage.wire:
            if not wire.down and wire.exchange == exchange and wire.client in outbox:
                auditor.receive(wire.client, wire.message)
        outbox = auditor.advance()
        exchange += 1
    if auditor.record().record.transcript != record.transcript:
        return None
    return auditor.outcome().total


def test_an_auditor_with_the_messages_sees_a_wrong_sum() -> None:
    stage, data = Stage(PROTOCOL, NAMES, server_machine=WrongSum), updates_of(NAMES)
    outcome = stage.play(data)
    right = audit(stage, outcome)
    assert right is not None
    assert np.abs(right.mean - mean_of(data, NAMES)).max() < 1e-4
    assert outcome.total is not None
    assert np.abs(right.mean - outcome.total.mean).min() > 0.9


def other_messages(stage: Stage) -> Outcome:
    """A server that shows the auditor a round with the same parties that never was."""
    outcome = stage.play(updates_of(NAMES))
    there = Stage(PROTOCOL, NAMES)
    there.clients["c"]._entropy = there.entropy("something else")
    there.play({**updates_of(NAMES), "c": np.zeros(LENGTH)})
    stage.wire = there.wire
    return outcome


def test_without_the_transcript_the_auditor_is_shown_another_round(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Transcript, "absorb", lambda *_: None)
    stage = Stage(PROTOCOL, NAMES)
    outcome = other_messages(stage)
    shown = audit(stage, outcome)
    assert shown is not None
    assert outcome.total is not None
    assert np.abs(shown.mean - outcome.total.mean).max() > 0.05


def test_our_records_commit_to_the_messages() -> None:
    stage = Stage(PROTOCOL, NAMES)
    assert audit(stage, other_messages(stage)) is None
