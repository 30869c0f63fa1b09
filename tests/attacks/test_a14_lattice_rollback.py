"""A14 over LatticeSum: a client comes back from an older state, and hides a second update.

Whoever holds the client's disk restores the state that waited for the update. The round is the same, and so
are the public polynomials.

* A copy that derives its key and its noise from what is saved hides both updates under the same pair (a, s):
  b - b' = Δ·(X - X'), without any noise at all. Ours draws both afresh, and nothing of them is ever saved.
* Over MaskedSum **fresh keys are not enough**. The masks on the keys are in the saved state, so the key layer
  gives s - s' away (that is A14 against MaskedSum), and b - b' opens under it. Only a durable release log
  stops that. Over PaillierSum nothing is reused but the pads of the tags, which open nothing; but
  the server can then forge sums along the difference of the two updates, as `THREAT_MODEL` says.
* Either way, a client with a log that lasts refuses.

Not covered: a release log or an entropy source that is itself rolled back.
"""

import hashlib
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from protocols import LatticeSum, MemoryReleaseLog, NeedUpdate, Policy
from protocols.lattice.client import LatticeClientSteps
from protocols.lattice.messages import Contribution
from protocols.machine.client import ClientMachine
from protocols.machine.suite import ClientContext, Replied
from protocols.machine.summand import Summand
from protocols.masked.collecting import check_words, lanes_of
from protocols.masked.messages import MaskedInput
from protocols.messages.envelope import Refusal
from protocols.messages.schema import decode, encode
from secagg.entropy import SeededEntropy
from secagg.rlwe import scheme as rlwe
from secagg.rlwe.binomial import CENTRE
from secagg.secret import Secret
from secagg.vectors.lanes import Lanes
from tests.attacks.weakened import Vector, body_of, refused, updates_of
from tests.attacks.weakened_lattice import (
    LAYERS,
    OVER_MASKED,
    OVER_PAILLIER,
    Coefficients,
    LatticeStage,
    client_of,
)

NAMES = "abcd"
VICTIM = "c"
KEY = Secret(bytes(range(32)))
FIRST, SECOND = (updates_of(NAMES, seed=seed)[VICTIM] for seed in (1, 2))


class FromTheState(LatticeClientSteps):
    """A client whose key and noise follow from the state that is saved."""

    def fold(self, context: ClientContext, state: Any, summand: Summand) -> Replied:
        kept = SeededEntropy(hashlib.sha256(encode(state)).digest(), context.me.encode())
        return super().fold(replace(context, entropy=kept), state, summand)


class Twice:
    """The victim contributes, is rolled back to before it did, and contributes something else."""

    def __init__(
        self,
        protocol: LatticeSum,
        *,
        kind: type[LatticeClientSteps] = LatticeClientSteps,
        durable: bool = False,
        before: int = 0,
    ) -> None:
        log = MemoryReleaseLog() if durable else None
        steps = client_of(protocol, kind)
        policies = {VICTIM: Policy(release_log=log)} if durable else {}
        self.stage = LatticeStage(protocol, NAMES, steps={VICTIM: steps}, policies=policies)
        for _ in range(before):
            self.stage.play(updates_of(NAMES, seed=5))
        outbox = self.stage.open(updates_of(NAMES, seed=1), until=protocol.suite.collecting)
        party = self.stage.clients[VICTIM]
        assert isinstance(party.receive(outbox[VICTIM]), NeedUpdate)
        saved = party.export(key=KEY)
        self.answers = [party.contribute(FIRST)]
        restored = ClientMachine.restore(
            replace(protocol.suite, client=steps),
            saved,
            key=KEY,
            release_log=log,
            entropy=self.stage.entropy("another day"),
        )
        self.answers.append(restored.contribute(SECOND))

    @property
    def sent(self) -> list[Contribution]:
        return [body_of(Contribution, answer) for answer in self.answers]

    def difference(self, key: Coefficients | None = None) -> Vector | None:
        """What the server makes of both vectors, with the key that it may have."""
        one, other = (self.stage.coefficients(each) for each in self.sent)
        return self.stage.opened(one - other, seed=self.stage.round_seed(), key=key)


def is_read(found: Vector | None) -> bool:
    """Whether this is how the victim's update changed."""
    return found is not None and bool(np.abs(found - (FIRST - SECOND)).max() < 1e-4)


def difference_of_keys(twice: Twice) -> NDArray[np.int64]:
    """What MaskedSum gives away: the masks on both keys are the same."""
    lanes = lanes_of(twice.stage.keys.surface)
    padding, degree = check_words(lanes.ring.bits), twice.stage.vectors.degree
    packed = [decode(MaskedInput, each.keys).vector for each in twice.sent]
    one, other = (lanes.wide.unpack(each, lanes.words(degree + padding)) for each in packed)
    signed = Lanes(ring=lanes.ring, signed=True)
    return lanes.ring.centred(signed.view(one - other, degree, padding=padding)[:])


@pytest.mark.parametrize("before", [0, 1])
@pytest.mark.parametrize("protocol", LAYERS)
def test_keys_from_the_saved_state_open_the_difference(protocol: LatticeSum, before: int) -> None:
    assert is_read(Twice(protocol, kind=FromTheState, before=before).difference())


@pytest.mark.parametrize("before", [0, 1])
@pytest.mark.parametrize("protocol", LAYERS)
def test_our_keys_are_drawn_afresh(protocol: LatticeSum, before: int) -> None:
    assert Twice(protocol, before=before).difference() is None


@pytest.mark.parametrize("before", [0, 1])
def test_over_masked_sum_without_a_log_the_masks_on_the_keys_give_the_difference_away(before: int) -> None:
    """Succeeds on ours: the default log sees no rollback, whatever is drawn afresh."""
    twice = Twice(OVER_MASKED, before=before)
    key = (difference_of_keys(twice) + CENTRE).astype(np.uint64)
    assert is_read(twice.difference(key))


def test_over_paillier_sum_what_the_server_has_of_the_keys_is_encrypted_twice() -> None:
    one, other = (bytes(each.keys) for each in Twice(OVER_PAILLIER).sent)
    pieces = [{each[at : at + 32] for at in range(0, len(each), 32)} for each in (one, other)]
    assert len(one) == len(other) > 4096
    # The key's name, the model's digest and the head stand before the tag; behind it nothing is the same.
    assert len(pieces[0] & pieces[1]) <= 3


@pytest.mark.parametrize("before", [0, 1])
@pytest.mark.parametrize("kind", [FromTheState, LatticeClientSteps])
@pytest.mark.parametrize("protocol", LAYERS)
def test_the_log_keeps_the_second_vector_back(
    protocol: LatticeSum, kind: type[LatticeClientSteps], before: int
) -> None:
    """Also that of the weakened copy."""
    first, second = Twice(protocol, kind=kind, durable=True, before=before).answers
    assert not refused(first)
    assert refused(second)
    assert "later state" in body_of(Refusal, second).reason


def test_no_saved_state_holds_a_key_or_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything that is drawn between two saved states of one client, searched for in both."""
    drawn = list[bytes]()
    draw_key = rlwe.draw_key

    def watched(entropy: Any, *, degree: int) -> Coefficients:
        counts = draw_key(entropy, degree=degree)
        drawn.append(counts.astype(np.uint8).tobytes()[:64])
        drawn.append(counts.tobytes()[:64])
        return counts

    monkeypatch.setattr(rlwe, "draw_key", watched)
    stage = LatticeStage(OVER_MASKED, NAMES)
    outbox = stage.open(updates_of(NAMES), until=2)
    party = stage.clients[VICTIM]
    party.receive(outbox[VICTIM])
    states = [encode(party._state)]
    answer = party.contribute(FIRST)
    states.append(encode(party._state))
    assert len(drawn) == 2
    assert isinstance(answer, bytes)
    assert not any(each in state for each in drawn for state in states)
