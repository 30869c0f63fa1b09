"""A1: the server lists one client as a survivor and as dropped, and asks for both of its shares.

With shares of the self-mask seed *and* of the round secret all masks of the victim come off, and its update
is read. Seen in a shipped secure-aggregation client, which answers both lists (one update recovered to
3.6e-5).

Three things stand in the way here, each enough by itself: the state moves on after one answer, a different
request for an answered step is refused, and a release log refuses a second release. All three are taken away
before the attack works. And one message cannot say both: the schema has no such value.

Not covered: a server that gives different lists to different clients (A2), which MaskedSum's semi-honest
adversary does not do.
"""

from dataclasses import replace
from itertools import combinations
from typing import Any

import pytest

from protocols import MaskedSum, MemoryReleaseLog, Policy
from protocols.client_machine import ClientMachine
from protocols.masked.client import MaskedClientSteps
from protocols.masked.messages import PairKeyShare, SelfMaskShare, Survivors, Unmask
from protocols.schema import decode, encode
from protocols.suite import Replied
from secagg.errors import DecodeError
from secagg.shamir import SHARE_BYTES
from secagg.wire import Writer
from tests.attacks.weakened import (
    AmnesicLog,
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
OTHERS = tuple(name for name in NAMES if name != VICTIM)
CHECKS = ("state", "answers", "log")


def weakened(without: frozenset[str]) -> Stage:
    """A stage whose clients lack the named checks."""

    class Steps(MaskedClientSteps):
        def react(self, context: Any, state: Any, request: Any) -> Any:
            step: Any = super().react(context, state, request)
            if "state" in without and isinstance(request, Survivors):
                return Replied(state, step.message)
            return step

    class Machine(ClientMachine):
        def _repeated(self, number: int, stage: int, digest: bytes) -> Any:
            return None if "answers" in without else super()._repeated(number, stage, digest)

    logs = {name: AmnesicLog() if "log" in without else MemoryReleaseLog() for name in NAMES}
    return Stage(
        MaskedSum(max_clients=8),
        NAMES,
        steps={name: Steps() for name in NAMES},
        machine=dict.fromkeys(NAMES, Machine),
        policies={name: Policy(release_log=log) for name, log in logs.items()},
    )


def ask_twice(stage: Stage, updates: dict[str, Any]) -> tuple[dict[str, Unmask], dict[str, bytes]]:
    """What the others say to 'everybody survived', and then to 'the victim dropped'."""
    stage.open(updates, until=3)
    alive = stage.request(3, Survivors(frozenset(NAMES)))
    dropped = stage.request(3, Survivors(frozenset(OTHERS)))
    first = {name: body_of(Unmask, stage.tell(name, alive)) for name in OTHERS}
    return first, {name: stage.tell(name, dropped) for name in OTHERS}


def test_a_client_that_answers_both_lists_is_read() -> None:
    stage, updates = weakened(frozenset(CHECKS)), updates_of(NAMES)
    first, second = ask_twice(stage, updates)
    then = {name: body_of(Unmask, answer) for name, answer in second.items()}
    view = replace(stage.view)
    seed = rebuild(view, revealed(first, VICTIM))
    round_secret = rebuild(view, revealed(then, VICTIM, PairKeyShare))
    assert is_read(stage, strip(stage, VICTIM, seed=seed, round_secret=round_secret), updates[VICTIM])
    # Either secret alone leaves the other's masks on.
    assert not is_read(stage, strip(stage, VICTIM, seed=seed), updates[VICTIM])
    assert not is_read(stage, strip(stage, VICTIM, round_secret=round_secret), updates[VICTIM])


@pytest.mark.parametrize("kept", [c for size in (1, 2, 3) for c in combinations(CHECKS, size)])
def test_any_one_check_is_enough(kept: tuple[str, ...]) -> None:
    _, second = ask_twice(weakened(frozenset(CHECKS) - set(kept)), updates_of(NAMES))
    assert all(refused(answer) for answer in second.values())


def test_ours_refuses_and_still_repeats_its_first_answer() -> None:
    stage = Stage(MaskedSum(max_clients=8), NAMES)
    first, second = ask_twice(stage, updates_of(NAMES))
    assert all(refused(answer) for answer in second.values())
    again = stage.request(3, Survivors(frozenset(NAMES)))
    assert {name: body_of(Unmask, stage.tell(name, again)) for name in OTHERS} == first


@pytest.mark.parametrize(
    "survivors",
    [
        pytest.param(frozenset(OTHERS), id="itself dropped"),
        pytest.param(frozenset("abcdez"), id="a stranger"),
        pytest.param(frozenset("bc"), id="too few"),
        pytest.param(frozenset(), id="nobody"),
    ],
)
def test_lists_that_no_honest_server_sends(survivors: frozenset[str]) -> None:
    stage = Stage(MaskedSum(max_clients=8), NAMES)
    stage.open(updates_of(NAMES), until=3)
    assert refused(stage.tell(VICTIM, stage.request(3, Survivors(survivors))))
    # Nothing was released, so the honest list still gets its answer.
    assert not refused(stage.tell(VICTIM, stage.request(3, Survivors(frozenset(NAMES)))))


def test_a_list_that_names_a_client_twice_is_not_canonical() -> None:
    stage = Stage(MaskedSum(max_clients=8), NAMES)
    stage.open(updates_of(NAMES), until=3)
    body = Writer().uint(len(NAMES) + 1, 4)
    for name in "aabcde":
        body.text(name)
    assert refused(stage.tell("a", stage.request(3, body.finish())))


def test_one_message_cannot_say_both() -> None:
    """A mapping has one reveal for each dealer, and its encoding refuses a dealer that stands there twice."""
    share = bytes(SHARE_BYTES)
    one = encode(Unmask({"c": SelfMaskShare(share)}))
    other = encode(Unmask({"c": PairKeyShare(share)}))
    entries = one[4:] + other[4:]
    with pytest.raises(DecodeError, match="ascend"):
        decode(Unmask, (2).to_bytes(4, "big") + entries)
    assert decode(Unmask, one) != decode(Unmask, other)
    with pytest.raises(DecodeError, match="left over"):  # nor does one reveal carry two shares
        decode(Unmask, one + share)
