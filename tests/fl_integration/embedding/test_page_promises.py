"""What EMBEDDING.md asks of a transport, and what it says is not needed: a test for each row.

The machines are real, and what stands between them is the test.
"""

import itertools
import pickle
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fl_integration import SqliteReleaseLog
from protocols import (
    Adversary,
    Identity,
    MaskedSum,
    MemoryReleaseLog,
    NeedUpdate,
    PlainSum,
    Policy,
    Requirements,
    Roster,
    Round,
    RoundAborted,
    run_round,
)
from secagg.errors import ParameterError, PeerViolation
from secagg.secret import Secret

NAMES = ("basel", "bern", "geneva", "zurich")
ONE_MAY_BE_LOST = Requirements(adversary=Adversary.MALICIOUS, dropout_fraction=0.25)
MASKED = MaskedSum(max_clients=4, requirements=ONE_MAY_BE_LOST)
PLAIN = PlainSum(max_clients=4)
KEY = Secret(bytes(range(32)))
LENGTH = 6
MODEL = b"the weights of the model, in the clear"


class Study:
    """Machines of one session, without any transport."""

    def __init__(self, protocol=MASKED, *, logs: Mapping[str, object] | None = None) -> None:
        self.protocol, self.logs = protocol, logs or {}
        self.identities = {name: Identity.generate(name) for name in NAMES}
        self.around = {"roster": Roster.of(*self.identities.values()), "session": bytes(32)}
        self.server = protocol.server(**self.around)
        self.clients = {name: self.client(name) for name in NAMES}
        self.updates = {name: np.full(LENGTH, (i + 1) / 8) for i, name in enumerate(NAMES)}

    def client(self, name: str):
        policy = Policy(release_log=self.logs.get(name))
        return self.protocol.client(identity=self.identities[name], policy=policy, **self.around)

    def answer(self, name: str, message: bytes, *, client=None) -> bytes:
        client = client or self.clients[name]
        answer = client.receive(message)
        return client.contribute(self.updates[name]) if isinstance(answer, NeedUpdate) else answer

    def exchange(self, outbox: Mapping[str, bytes]) -> Iterator[tuple[str, bytes]]:
        for name, message in outbox.items():
            yield name, self.answer(name, message)

    def round(self, number: int = 0, exchange=None, *, server=None):
        round = Round(number, NAMES, LENGTH, MODEL)
        return run_round(server or self.server, round, exchange or self.exchange)

    def mean(self, contributors) -> np.ndarray:
        return np.mean([self.updates[name] for name in contributors], axis=0)

    def check(self, outcome, *, contributors=NAMES) -> None:
        assert outcome.contributors == set(contributors)
        assert np.allclose(outcome.total.mean, self.mean(contributors), atol=1e-3)


# What the caller guarantees


def test_whoever_speaks_in_a_sites_name_costs_it_the_round() -> None:
    study = Study()

    def exchange(outbox):
        yield "bern", b"noise"
        yield from study.exchange(outbox)

    outcome = study.round(0, exchange)
    study.check(outcome, contributors=set(NAMES) - {"bern"})
    assert outcome.culprits == {"bern"}  # who is innocent


def test_without_protection_whoever_speaks_in_a_sites_name_chooses_the_sum() -> None:
    study, forged = Study(PLAIN), Study(PLAIN)
    forged.around, forged.identities = study.around, study.identities
    forged.updates["bern"] = np.full(LENGTH, 1.0)
    liar = forged.client("bern")

    def exchange(outbox):
        for name, message in outbox.items():
            yield (
                name,
                forged.answer(name, message, client=liar) if name == "bern" else study.answer(name, message),
            )

    with pytest.raises(AssertionError):
        study.check(study.round(0, exchange))


def test_whoever_is_called_as_the_server_learns_the_sum() -> None:
    study = Study()
    anybody = MASKED.server(**study.around)  # it holds no secret, and needs none
    study.check(study.round(0, server=anybody))


def test_whoever_reads_the_wire_learns_the_sum_and_the_model() -> None:
    study, wire = Study(), []

    def exchange(outbox):
        assert any(MODEL in message for message in outbox.values()) == study.server.collecting
        replies = list(study.exchange(outbox))
        wire.append(replies)
        yield from replies

    study.check(study.round(0, exchange))
    listener = MASKED.server(**study.around)
    study.check(study.round(0, lambda outbox: wire.pop(0), server=listener))


def test_a_silent_site_holds_the_round_until_you_close_the_exchange() -> None:
    study = Study()
    outbox = study.server.start(Round(0, NAMES, LENGTH))
    for name in NAMES[1:]:
        study.server.receive(name, study.answer(name, outbox[name]))
    with pytest.raises(ParameterError, match="no round has ended"):  # nothing here looks at a clock
        study.server.outcome()
    assert "basel" not in study.server.advance()


def test_too_few_replies_abort_a_round_and_the_next_one_goes_on() -> None:
    study = Study()
    needed = MASKED.plan(len(NAMES)).min_survivors

    def exchange(outbox):
        return itertools.islice(study.exchange(outbox), needed - 1)

    with pytest.raises(RoundAborted, match="did not answer"):
        study.round(0, exchange)
    study.check(study.round(1))


def test_a_rounds_number_goes_up() -> None:
    study = Study()
    study.round(4)
    sent = []
    with pytest.raises(ParameterError, match="the next round's number is at least 5"):
        study.round(4, lambda outbox: sent.append(outbox) or [])
    assert not sent


def test_a_second_state_of_one_client_costs_it_the_round() -> None:
    study = Study()
    twin = study.client("bern")

    def exchange(outbox):
        yield from study.exchange(outbox)
        if "bern" in outbox:
            yield "bern", study.answer("bern", outbox["bern"], client=twin)

    outcome = study.round(0, exchange)
    assert "bern" in outcome.dropped
    assert "bern" in outcome.culprits
    with pytest.raises(TypeError, match="not pickled or copied"):
        pickle.dumps(twin)


@pytest.mark.parametrize("logged", [True, False])
def test_a_restored_older_state_answers_twice_unless_its_log_remembers(logged, tmp_path) -> None:
    with SqliteReleaseLog(tmp_path / "log") as log:
        study = Study(logs={"bern": log} if logged else None)
        bern = study.clients["bern"]
        older = bern.export(key=KEY)
        message = study.server.start(Round(0, NAMES, LENGTH))["bern"]
        said = bern.receive(message)
        back = MASKED.restore_client(older, key=KEY, release_log=log if logged else None)
        again = back.receive(message)
        assert again != said
        assert (back.refusal is not None) == logged


def test_a_state_without_its_log_does_not_come_back() -> None:
    log = MemoryReleaseLog()
    study = Study(logs={"bern": log})
    study.round()
    state = study.clients["bern"].export(key=KEY)
    with pytest.raises(ParameterError, match="log"):
        MASKED.restore_client(state, key=KEY, release_log=MemoryReleaseLog())
    with pytest.raises(ParameterError, match="log"):
        MASKED.restore_client(state, key=KEY)


def test_a_site_with_another_roster_or_session_refuses() -> None:
    study, other = Study(), Study()
    message = study.server.start(Round(0, NAMES, LENGTH))["bern"]
    mine = {"identity": other.identities["bern"], "roster": other.around["roster"]}
    elsewhere = MASKED.client(session=bytes(31) + b"\1", **mine)
    elsewhere.receive(message)
    assert "another session" in elsewhere.refusal
    other.server = study.server  # one name for a session over two rosters: their keys do not verify
    with pytest.raises(RoundAborted):
        other.round(1)


def test_a_server_that_lost_its_state_opens_another_session() -> None:
    study = Study()
    study.round(3)
    study.server = MASKED.server(**study.around)
    with pytest.raises(RoundAborted, match="round 3 is under way"):
        study.round(0)
    study.around["session"] = bytes(31) + b"\1"
    study.server = MASKED.server(**study.around)
    study.clients = {name: study.client(name) for name in NAMES}
    study.check(study.round(0))


# What the caller need not guarantee


def test_replies_come_in_any_order() -> None:
    study = Study()
    study.check(study.round(0, lambda outbox: reversed(list(study.exchange(outbox)))))


def test_a_message_that_comes_again_gets_the_same_reply_and_a_reply_counts_once() -> None:
    study = Study()

    def exchange(outbox):
        for name, message in outbox.items():
            first = study.answer(name, message)
            assert study.answer(name, message) == first
            yield name, first
            yield name, first

    study.check(study.round(0, exchange))


def test_a_late_message_costs_nobody_a_later_round() -> None:
    study, late = Study(), []

    def loses(outbox):
        for name, reply in study.exchange(outbox):
            if name == "bern":
                late.append(reply)
            else:
                yield name, reply

    def delivers(outbox):
        yield from (("bern", reply) for reply in late)
        yield from study.exchange(outbox)

    study.check(study.round(0, loses), contributors=set(NAMES) - {"bern"})
    study.check(study.round(1, delivers))


def test_an_older_message_behind_a_newer_one_is_refused_and_changes_nothing() -> None:
    study, older = Study(), {}

    def remembers(outbox):
        older.setdefault("message", outbox["bern"])
        return study.exchange(outbox)

    def reorders(outbox):
        yield from study.exchange(outbox)
        study.clients["bern"].receive(older["message"])
        assert "is under way" in study.clients["bern"].refusal

    study.check(study.round(0, remembers))
    study.check(study.round(1, reorders))


def test_who_is_lost_for_good_is_left_out() -> None:
    study = Study()

    def exchange(outbox):
        return (each for each in study.exchange(outbox) if each[0] != "bern")

    study.check(study.round(0, exchange), contributors=set(NAMES) - {"bern"})


@settings(max_examples=8, deadline=None)
@example(at=9, bit=-9, down=False)  # in a masked vector
@given(at=st.integers(0, 19), bit=st.integers(0, 1 << 20), down=st.booleans())
def test_a_flipped_bit_never_makes_a_false_sum(at: int, bit: int, down: bool) -> None:
    """Whichever message it is in and wherever: somebody is left out, or the round aborts."""
    study, count = Study(), itertools.count()

    def flipped(message: bytes) -> bytes:
        changed = bytearray(message)
        changed[bit // 8 % len(changed)] ^= 1 << bit % 8
        return bytes(changed)

    def exchange(outbox):
        for name, message in outbox.items():
            hit = next(count) == at
            with suppress(PeerViolation):
                reply = study.answer(name, flipped(message) if hit and down else message)
                yield name, flipped(reply) if hit and not down else reply

    with suppress(RoundAborted):
        outcome = study.round(0, exchange)
        study.check(outcome, contributors=outcome.contributors)
    assert next(count) > at


def test_replies_may_be_handed_in_from_many_threads() -> None:
    study = Study()
    outbox = study.server.start(Round(0, NAMES, LENGTH, MODEL))
    with ThreadPoolExecutor(len(NAMES)) as pool:
        while outbox:
            replies = list(pool.map(lambda each: (each[0], study.answer(*each)), outbox.items()))
            list(pool.map(lambda each: study.server.receive(*each), replies * 2))
            outbox = study.server.advance()
    study.check(study.server.outcome())


def test_a_process_for_every_message_is_enough() -> None:
    study = Study()

    def exchange(outbox):
        for name, message in outbox.items():
            yield name, study.answer(name, message)
            study.clients[name] = MASKED.restore_client(study.clients[name].export(key=KEY), key=KEY)

    study.check(study.round(0, exchange))
