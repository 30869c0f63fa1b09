"""A14: a client comes back from an older saved state, and answers again, differently.

Whoever holds the disk of a client restores yesterday's state: the seal on it is intact. The client then puts
a second vector under the same masks (y - y' = x - x'), or answers a second survivor list, so that both kinds
of shares are out (A1). What stops it is a durable, insert-if-absent release log outside the state.

The weakened copy has no log: this is the library's own default, enough for a client that never leaves its
process, and documented to see no rollback. Ours here has a log that lasts.

In the steady state of MaskedSum a round begins with what the round before prepared. A client that is restored
to it after it was spent may be asked under a *new* round number, for which no log has an entry: so a release
says what it spends, and the log keeps that too. A second weakened copy has a log that ignores it.

Not covered: a release log that is itself lost or rolled back (D9).
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest

from protocols import (
    Adversary,
    CkksSum,
    LatticeSum,
    MaskedSum,
    MemoryReleaseLog,
    NeedUpdate,
    PaillierSum,
    ParameterError,
    Policy,
    Requirements,
)
from protocols.consortium.messages import DistributeKey
from protocols.masked.messages import (
    CollectInput,
    ConsistencyCheck,
    MaskedInput,
    PairKeyShare,
    Survivors,
    Unmask,
)
from protocols.masked.states import Ready
from protocols.messages.envelope import STAGES, Refusal
from secagg.secret import Secret
from tests.attacks.unmasked import is_read, rebuild, revealed, strip
from tests.attacks.weakened import LENGTH, Agreeable, Curious, Stage, body_of, refused, request_of, updates_of

NAMES = "abcde"
VICTIM = "c"
KEY = Secret(bytes(range(32)))
MASKED = MaskedSum(max_clients=8)


class Clients:
    """Clients with or without logs that last, that can be rolled back to a saved state."""

    def __init__(
        self, protocol: Any, *, durable: bool, log: Callable[[], MemoryReleaseLog] = MemoryReleaseLog
    ) -> None:
        self.logs: dict[str, Any] = {name: log() if durable else None for name in NAMES}
        policies = {name: Policy(release_log=self.logs[name]) for name in NAMES} if durable else {}
        steps = Curious() if protocol.suite.name == "MaskedSum" else None
        self.stage = Stage(protocol, NAMES, policies=policies, server_steps=steps)

    def save(self, name: str) -> bytes:
        return self.stage.clients[name].export(key=KEY)

    def roll_back(self, name: str, blob: bytes) -> None:
        self.stage.clients[name] = self.stage.protocol.restore_client(  # type: ignore[assignment]
            blob, key=KEY, release_log=self.logs[name]
        )


def second_vector(parties: Clients, *, before: int = 0) -> tuple[Any, Any, Any, Any]:
    """The victim contributes x, is rolled back, and contributes x': both answers and both updates."""
    stage = parties.stage
    first, second = updates_of(NAMES, seed=1)[VICTIM], updates_of(NAMES, seed=2)[VICTIM]
    for _ in range(before):
        stage.play(updates_of(NAMES))
    outbox = stage.open(updates_of(NAMES, seed=1), until=2)
    assert isinstance(stage.clients[VICTIM].receive(outbox[VICTIM]), NeedUpdate)
    blob = parties.save(VICTIM)
    once = stage.clients[VICTIM].contribute(first)
    parties.roll_back(VICTIM, blob)
    return once, stage.clients[VICTIM].contribute(second), first, second


@pytest.mark.parametrize("before", [0, 1, 2])
def test_without_a_durable_log_two_vectors_share_their_masks(before: int) -> None:
    parties = Clients(MASKED, durable=False)
    once, twice, first, second = second_vector(parties, before=before)
    words = [parties.stage.words(body_of(MaskedInput, answer).vector) for answer in (once, twice)]
    surface: Any = MASKED.suite.surface
    seen = parties.stage.values(words[0] - words[1])[:LENGTH] / surface.codec.largest_step
    assert np.abs(seen - (first - second)).max() < 1e-4


@pytest.mark.parametrize("before", [0, 1])
@pytest.mark.parametrize(
    "protocol",
    [
        MASKED,
        CkksSum(max_clients=8),
        PaillierSum(max_clients=8, key_bits=2048),
        LatticeSum(max_clients=8),
        LatticeSum(max_clients=8, keys=partial(PaillierSum, key_bits=2048)),
    ],
)
def test_the_log_keeps_the_second_vector_back(protocol: Any, before: int) -> None:
    _, twice, _, _ = second_vector(Clients(protocol, durable=True), before=before)
    assert refused(twice)


def enough(view: Any, shares: dict[str, bytes]) -> dict[str, bytes]:
    """As many shares as rebuild a secret."""
    assert len(shares) >= view.epoch.threshold
    return dict(sorted(shares.items())[: view.epoch.threshold])


def both_lists(parties: Clients, *, before: int) -> tuple[dict[str, Unmask], dict[str, bytes]]:
    """All but the victim hear that it survived, are rolled back, and hear that it dropped."""
    stage = parties.stage
    for _ in range(before):
        stage.play(updates_of(NAMES, seed=5))
    stage.open(updates_of(NAMES), until=3)
    alive, dropped = (
        {name: stage.request(3, stage.quorum(name, survivors)) for name in OTHERS}
        for survivors in (NAMES, OTHERS)
    )
    saved = {name: parties.save(name) for name in OTHERS}
    first = {name: body_of(Unmask, stage.tell(name, alive[name])) for name in OTHERS}
    for name in OTHERS:
        parties.roll_back(name, saved[name])
    return first, {name: stage.tell(name, dropped[name]) for name in OTHERS}


OTHERS = [name for name in NAMES if name != VICTIM]


@pytest.mark.parametrize("before", [0, 1])
def test_without_a_durable_log_both_shares_come_out(before: int) -> None:
    parties = Clients(MASKED, durable=False)
    first, answers = both_lists(parties, before=before)
    second = {name: body_of(Unmask, answer) for name, answer in answers.items()}
    stage = parties.stage
    view: Any = stage.server._state.sum
    seed = rebuild(view, VICTIM, enough(view, revealed(view, first, VICTIM)))
    round_secret = rebuild(view, VICTIM, enough(view, revealed(view, second, VICTIM, PairKeyShare)))
    words = strip(stage, VICTIM, seed=seed, round_secret=round_secret, view=view)
    assert is_read(stage, words, updates_of(NAMES)[VICTIM])


@pytest.mark.parametrize("before", [0, 1])
def test_the_log_keeps_the_other_shares_back(before: int) -> None:
    _, answers = both_lists(Clients(MASKED, durable=True), before=before)
    assert all(refused(answer) for answer in answers.values())


def two_signatures(parties: Clients, before: int) -> bytes:
    """A client signs one survivor set, is rolled back, and is asked to sign another."""
    stage = parties.stage
    for _ in range(before):
        stage.play(updates_of(NAMES))
    box = stage.open(updates_of(NAMES), until=3)
    blob = parties.save("a")
    assert body_of(ConsistencyCheck, stage.tell("a", box["a"]))
    parties.roll_back("a", blob)
    other = Survivors(stage.bitmap(OTHERS), request_of(Survivors, box["a"]).model)
    return stage.tell("a", stage.request(3, other))


QUORUM = MaskedSum(max_clients=8, requirements=Requirements(adversary=Adversary.MALICIOUS))


@pytest.mark.parametrize("before", [0, 1])
def test_without_a_durable_log_a_client_signs_two_survivor_sets(before: int) -> None:
    assert body_of(ConsistencyCheck, two_signatures(Clients(QUORUM, durable=False), before))


@pytest.mark.parametrize("before", [0, 1])
def test_the_log_keeps_the_second_signature_back(before: int) -> None:
    assert refused(two_signatures(Clients(QUORUM, durable=True), before))


# What was prepared and spent, asked for again under a new number


class ForgetsWhatIsSpent(MemoryReleaseLog):
    """A log of steps and rounds only."""

    def insert(self, session: bytes, round: int, step: int, digest: bytes) -> bytes:
        return Agreeable(digest) if step >= STAGES else super().insert(session, round, step, digest)


def spent_again(parties: Clients, number: int) -> tuple[Any, Any, list[bytes], dict[str, bytes]]:
    """After round 1 the holders are restored to where it was prepared, and asked again as round `number`.

    Returns:
        what the server knows of round 1, the victim's vector of it, and the holders' answers in the new
        round: to the request for a vector, and to Unmask.
    """
    stage = parties.stage
    stage.play(updates_of(NAMES, seed=5))
    saved = {name: parties.save(name) for name in OTHERS}
    assert all(isinstance(stage.clients[name]._state, Ready) for name in OTHERS)
    stage.play(updates_of(NAMES))
    seen = stage.summing, stage.answers(2, MaskedInput)[VICTIM].vector
    asked = {w.client: request_of(CollectInput, w.message) for w in stage.wire if w.down and w.exchange == 2}
    sent, answers = [], {}
    for name in OTHERS:
        parties.roll_back(name, saved[name])
        once_more = stage.request(2, asked[name], round=number)
        sent.append(stage.tell(name, once_more, updates_of(NAMES, seed=6)[name]))
    for name in OTHERS:
        answers[name] = stage.tell(name, stage.request(3, stage.quorum(name, OTHERS), round=number))
    return *seen, sent, answers


@pytest.mark.parametrize("number", [2, 7])
def test_a_log_that_ignores_what_is_spent_gives_both_shares(number: int) -> None:
    """Round 1 told that the victim survived, the new round that it dropped: its vector of round 1 is read."""
    parties = Clients(MASKED, durable=True, log=ForgetsWhatIsSpent)
    view, vector, sent, answers = spent_again(parties, number)
    assert not any(refused(answer) for answer in sent)
    stage, first = parties.stage, parties.stage.answers(3, Unmask)
    then = {name: body_of(Unmask, answer) for name, answer in answers.items()}
    seed = rebuild(view, VICTIM, enough(view, revealed(view, first, VICTIM)))
    round_secret = rebuild(view, VICTIM, enough(view, revealed(view, then, VICTIM, PairKeyShare)))
    words = strip(stage, VICTIM, seed=seed, round_secret=round_secret, view=view, vector=vector)
    assert is_read(stage, words, updates_of(NAMES)[VICTIM])


@pytest.mark.parametrize("number", [2, 7])
def test_our_log_remembers_what_was_spent(number: int) -> None:
    """They refuse at the vector already, and so come to no state in which they could reveal anything."""
    _, _, sent, answers = spent_again(Clients(MASKED, durable=True), number)
    assert all("used before by a later state" in body_of(Refusal, answer).reason for answer in sent)
    assert all(refused(answer) for answer in answers.values())


def test_a_client_that_is_restored_to_what_it_has_not_spent_goes_on() -> None:
    """A crash between two rounds costs nothing: this is what saved states are for."""
    parties = Clients(MASKED, durable=True)
    stage = parties.stage
    stage.play(updates_of(NAMES))
    for name in NAMES:
        parties.roll_back(name, parties.save(name))
    assert stage.play(updates_of(NAMES)).contributors == frozenset(NAMES)
    assert all(wire.exchange >= 2 for wire in stage.wire)


def test_a_client_that_had_a_log_does_not_come_back_without_it() -> None:
    parties = Clients(MASKED, durable=True)
    parties.stage.open(updates_of(NAMES), until=1)
    blob = parties.save(VICTIM)
    with pytest.raises(ParameterError, match="release_log"):
        MASKED.restore_client(blob, key=KEY)


@pytest.mark.parametrize(("before", "exchange"), [(0, 0), (0, 1), (0, 2), (0, 3), (1, 2), (1, 3)])
def test_no_step_is_taken_twice_with_other_secrets(before: int, exchange: int) -> None:
    """Fresh keys, fresh shares or a fresh rounding after a rollback would be a second, different release."""
    parties = Clients(MASKED, durable=True)
    stage, data = parties.stage, updates_of(NAMES)
    for _ in range(before):
        stage.play(data)
    outbox = stage.open(data, until=exchange)
    blob = parties.save(VICTIM)
    assert not refused(stage.tell(VICTIM, outbox[VICTIM], data[VICTIM]))
    parties.roll_back(VICTIM, blob)
    assert refused(stage.tell(VICTIM, outbox[VICTIM], data[VICTIM]))


def test_a_custodian_does_not_make_a_second_key_after_a_rollback() -> None:
    parties = Clients(CkksSum(max_clients=8), durable=True)
    stage = parties.stage
    ((custodian, request),) = stage.open(updates_of(NAMES), until=1).items()
    blob = parties.save(custodian)
    assert body_of(DistributeKey, stage.tell(custodian, request)).sealed
    parties.roll_back(custodian, blob)
    assert refused(stage.tell(custodian, request))


def test_a_server_that_starts_the_round_again_gets_the_same_answers() -> None:
    """The identical request gets the identical bytes, which tell nothing new; another one nothing."""
    stage = Stage(MASKED, NAMES)
    outbox = stage.open(updates_of(NAMES), until=2)
    asked = stage.tell(VICTIM, outbox[VICTIM], updates_of(NAMES)[VICTIM])
    assert stage.clients[VICTIM].receive(outbox[VICTIM]) == asked
    again = stage.request(0, stage.protocol.suite.requests[0](MASKED.suite.digest, tuple(NAMES), LENGTH + 1))
    assert refused(stage.clients[VICTIM].receive(again))


def test_a_server_that_is_itself_restored_cannot_ask_for_other_survivors() -> None:
    """It comes back from before Unmask, loses one vector, and would have its masks opened as well."""
    stage, data = Stage(MASKED, NAMES), updates_of(NAMES)
    stage.play(data)
    box = stage.open(data, until=2)
    vectors = {name: stage.tell(name, box[name], data[name]) for name in NAMES}
    blob = stage.server.export(key=KEY)
    outboxes = []
    for present in (NAMES, "abde"):
        server: Any = MASKED.restore_server(blob, key=KEY)
        for name in present:
            server.receive(name, vectors[name])
        outboxes.append(server.advance())
    assert all(not refused(stage.tell(name, outboxes[0][name])) for name in NAMES)
    assert all(refused(stage.tell(name, outboxes[1][name])) for name in "abde")
    assert all(not refused(stage.tell(name, outboxes[0][name])) for name in NAMES)
