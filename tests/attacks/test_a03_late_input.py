"""A3: a vector that arrives after its sender was declared dropped and its pair masks were opened.

Without a self mask the server reads it; this is why Bonawitz et al., CCS'17, section 4, mask twice. The
weakened copy has no self mask. Ours has, in an epoch's first round as in a steady one, and the server refuses
the late vector all the same.

Not covered: a server that asks for the late client's other share as well (A1, A2).
"""

from contextlib import suppress
from dataclasses import replace
from typing import Any

import pytest

from protocols import MaskedSum, PeerViolation, RoundAborted
from protocols.masked.client import MaskedClientSteps
from protocols.masked.messages import MaskedInput, PairKeyShare, Unmask
from tests.attacks.unmasked import is_read, rebuild, revealed, strip
from tests.attacks.weakened import Curious, Stage, Vector, Wire, updates_of

NAMES = "abcde"
VICTIM = "c"


class NoSelfMask(MaskedClientSteps):
    """Pair masks alone, as in the first protocol of the paper that does not survive dropouts well."""

    def fold(self, context: Any, state: Any, vector: Any) -> Any:
        return super().fold(context, replace(state, add=state.add[1:]), vector)


class NoSelfMaskLater(NoSelfMask):
    """The same from the second round on, so that there is a second round."""

    def fold(self, context: Any, state: Any, vector: Any) -> Any:
        return (
            super().fold(context, state, vector)
            if context.round
            else MaskedClientSteps.fold(self, context, state, vector)
        )


def late(stage: Stage, *, steady: bool) -> dict[str, Vector]:
    """A round without the victim, whose vector arrives when its pair masks are open; the updates."""
    held: dict[str, bytes] = {}

    def hold(exchange: int, name: str, message: bytes) -> bytes | None:
        if name == VICTIM and exchange == 2:
            held[name] = message
            return None
        return message

    updates = updates_of(NAMES)
    with suppress(RoundAborted):  # the weakened copy's sums do not come out
        if steady:
            stage.play(updates)
        stage.play(updates, reply=hold)
    stage.wire.append(Wire(False, 2, VICTIM, held[VICTIM]))
    return updates


def read(stage: Stage, update: Vector) -> bool:
    """Whether the victim's opened pair masks alone give its vector away."""
    assert stage.answers(2, MaskedInput)[VICTIM].transcript == stage.summing.transcript
    shares = revealed(stage.summing, stage.answers(3, Unmask), VICTIM, PairKeyShare)
    round_secret = rebuild(stage.summing, VICTIM, shares)
    return is_read(stage, strip(stage, VICTIM, round_secret=round_secret), update)


@pytest.mark.parametrize("steady", [False, True])
def test_without_a_self_mask_it_is_read(steady: bool) -> None:
    steps = {VICTIM: NoSelfMask() if not steady else NoSelfMaskLater()}
    stage = Stage(MaskedSum(max_clients=8), NAMES, steps=steps, server_steps=Curious())
    assert read(stage, late(stage, steady=steady)[VICTIM])


@pytest.mark.parametrize("steady", [False, True])
def test_ours_keeps_its_self_mask_on(steady: bool) -> None:
    stage = Stage(MaskedSum(max_clients=8), NAMES, server_steps=Curious())
    assert not read(stage, late(stage, steady=steady)[VICTIM])


@pytest.mark.parametrize("until", [3, None])
def test_the_server_refuses_it(until: int | None) -> None:
    stage = Stage(MaskedSum(max_clients=8), NAMES)
    held: list[bytes] = []

    def hold(exchange: int, name: str, message: bytes) -> bytes | None:
        if name == VICTIM and exchange == 2:
            held.append(message)
            return None
        return message

    stage.open(updates_of(NAMES), until=until, reply=hold)
    with pytest.raises(PeerViolation) as caught:
        stage.server.receive(VICTIM, held[0])
    assert caught.value.culprit == VICTIM
    assert VICTIM not in stage.server._contributors
