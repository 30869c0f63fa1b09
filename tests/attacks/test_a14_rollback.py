"""A14: a client comes back from an older saved state, and answers again, differently.

Whoever holds the disk of a client restores yesterday's state: the seal on it is intact. The client then puts
a second vector under the same masks (y - y' = x - x'), or answers a second survivor list, so that both kinds
of shares are out (A1). What stops it is a durable, insert-if-absent release log outside the state.

The weakened copy has the default in-memory log, which a restored process starts anew: this is the library's
own default, documented to see no rollback across processes. Ours here has a log that lasts.

Not covered: a release log that is itself rolled back.
"""

from typing import Any

import numpy as np
import pytest

from protocols import CkksSum, MaskedSum, MemoryReleaseLog, NeedUpdate, PaillierSum, ParameterError, Policy
from protocols.consortium.messages import DistributeKey
from protocols.masked.messages import MaskedInput, PairKeyShare, Survivors, Unmask
from secagg.secret import Secret
from tests.attacks.weakened import (
    LENGTH,
    Stage,
    body_of,
    is_read,
    rebuild,
    refused,
    revealed,
    strip,
    updates_of,
)

NAMES = "abcde"
VICTIM = "c"
KEY = Secret(bytes(range(32)))
MASKED = MaskedSum(max_clients=8)


class Clients:
    """Clients with or without logs that last, that can be rolled back to a saved state."""

    def __init__(self, protocol: Any, *, durable: bool) -> None:
        self.logs: dict[str, Any] = {name: MemoryReleaseLog() if durable else None for name in NAMES}
        policies = {name: Policy(release_log=self.logs[name]) for name in NAMES} if durable else {}
        self.stage = Stage(protocol, NAMES, policies=policies)

    def save(self, name: str) -> bytes:
        return self.stage.clients[name].export(key=KEY)

    def roll_back(self, name: str, blob: bytes) -> None:
        self.stage.clients[name] = self.stage.protocol.restore_client(  # type: ignore[assignment]
            blob, key=KEY, release_log=self.logs[name]
        )


def second_vector(parties: Clients) -> tuple[Any, Any, Any, Any]:
    """The victim contributes x, is rolled back, and contributes x': both answers and both updates."""
    stage = parties.stage
    first, second = updates_of(NAMES, seed=1)[VICTIM], updates_of(NAMES, seed=2)[VICTIM]
    outbox = stage.open(updates_of(NAMES, seed=1), until=2)
    assert isinstance(stage.clients[VICTIM].receive(outbox[VICTIM]), NeedUpdate)
    blob = parties.save(VICTIM)
    once = stage.clients[VICTIM].contribute(first)
    parties.roll_back(VICTIM, blob)
    return once, stage.clients[VICTIM].contribute(second), first, second


def test_without_a_durable_log_two_vectors_share_their_masks() -> None:
    parties = Clients(MASKED, durable=False)
    once, twice, first, second = second_vector(parties)
    words = [parties.stage.words(body_of(MaskedInput, answer).vector) for answer in (once, twice)]
    surface = MASKED.suite.surface
    seen = surface.ring.centred(words[0] - words[1])[:LENGTH] / surface.codec.largest_step  # type: ignore[attr-defined]
    assert np.abs(seen - (first - second)).max() < 1e-4


@pytest.mark.parametrize(
    "protocol", [MASKED, CkksSum(max_clients=8), PaillierSum(max_clients=8, key_bits=2048)]
)
def test_the_log_keeps_the_second_vector_back(protocol: Any) -> None:
    _, twice, _, _ = second_vector(Clients(protocol, durable=True))
    assert refused(twice)


def both_lists(parties: Clients) -> tuple[dict[str, Unmask], dict[str, bytes]]:
    stage = parties.stage
    stage.open(updates_of(NAMES), until=3)
    others = [name for name in NAMES if name != VICTIM]
    alive = stage.request(3, Survivors(frozenset(NAMES)))
    dropped = stage.request(3, Survivors(frozenset(others)))
    saved = {name: parties.save(name) for name in others}
    first = {name: body_of(Unmask, stage.tell(name, alive)) for name in others}
    for name in others:
        parties.roll_back(name, saved[name])
    return first, {name: stage.tell(name, dropped) for name in others}


def test_without_a_durable_log_both_shares_come_out() -> None:
    parties = Clients(MASKED, durable=False)
    first, answers = both_lists(parties)
    second = {name: body_of(Unmask, answer) for name, answer in answers.items()}
    stage = parties.stage
    seed = rebuild(stage.view, revealed(first, VICTIM))
    round_secret = rebuild(stage.view, revealed(second, VICTIM, PairKeyShare))
    words = strip(stage, VICTIM, seed=seed, round_secret=round_secret)
    assert is_read(stage, words, updates_of(NAMES)[VICTIM])


def test_the_log_keeps_the_other_shares_back() -> None:
    _, answers = both_lists(Clients(MASKED, durable=True))
    assert all(refused(answer) for answer in answers.values())


def test_a_client_that_had_a_log_does_not_come_back_without_it() -> None:
    parties = Clients(MASKED, durable=True)
    parties.stage.open(updates_of(NAMES), until=1)
    blob = parties.save(VICTIM)
    with pytest.raises(ParameterError, match="release_log"):
        MASKED.restore_client(blob, key=KEY)


@pytest.mark.parametrize("exchange", [0, 1])
def test_no_step_is_taken_twice_with_other_secrets(exchange: int) -> None:
    """Fresh keys or fresh shares after a rollback would be a second, different release."""
    parties = Clients(MASKED, durable=True)
    stage = parties.stage
    outbox = stage.open(updates_of(NAMES), until=exchange)
    blob = parties.save(VICTIM)
    assert not refused(stage.tell(VICTIM, outbox[VICTIM]))
    parties.roll_back(VICTIM, blob)
    assert refused(stage.tell(VICTIM, outbox[VICTIM]))


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
