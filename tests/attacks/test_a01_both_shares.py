"""A1: the server lists one client as a survivor and as dropped, and asks for both of its shares.

With shares of the self-mask seed *and* of the round secret all masks of the victim come off, and its update
is read. Seen in a shipped secure-aggregation client, which answers both lists (one update recovered to
3.6e-5).

The server may ask twice in one exchange, across ConsistencyCheck and Unmask, or in the next round, which in
the steady state begins with what this round prepared. Several things stand in the way, each enough by itself:
the state moves on after one answer, a different request for an answered step is refused, what a round
prepared is gone once it was used, and a release log refuses a second release. All are taken away before an
attack works. And one message cannot say both: it has one bit and one share for each dealer.

Not covered: a server that gives different lists to different clients (A2).
"""

from collections.abc import Mapping
from dataclasses import replace
from itertools import combinations
from typing import Any

import pytest

from protocols import Adversary, MaskedSum, MemoryReleaseLog, Policy, Requirements
from protocols.machine.client import ClientMachine
from protocols.masked.client import MaskedClientSteps
from protocols.masked.messages import (
    SHARE_BYTES,
    CollectInput,
    ConsistencyCheck,
    MaskedInput,
    PairKeyShare,
    Quorum,
    SelfMaskShare,
    Survivors,
    Unmask,
)
from protocols.masked.states import Confirmed, Ready
from protocols.masked.transcript import SignedSurvivors
from protocols.messages.schema import encode
from secagg import labels
from secagg.errors import DecodeError
from tests.attacks.unmasked import is_read, rebuild, revealed, strip
from tests.attacks.weakened import (
    AmnesicLog,
    Curious,
    Stage,
    Vector,
    body_of,
    refused,
    request_of,
    updates_of,
)

NAMES = "abcde"
VICTIM = "c"
OTHERS = "abde"
CHECKS = ("state", "answers", "log")
MALICIOUS = Requirements(adversary=Adversary.MALICIOUS)


def subsets(checks: tuple[str, ...]) -> list[tuple[str, ...]]:
    return [kept for size in range(1, len(checks) + 1) for kept in combinations(checks, size)]


def staged(steps: type[MaskedClientSteps], without: frozenset[str], **named: Any) -> Stage:
    """A stage whose clients run these steps; where their machines lack a check, it is in `without`."""

    class Machine(ClientMachine):
        def _repeated(self, number: int, stage: int, digest: bytes) -> Any:
            return None if "answers" in without else super()._repeated(number, stage, digest)

    logs = {name: AmnesicLog() if "log" in without else MemoryReleaseLog() for name in NAMES}
    return Stage(
        MaskedSum(max_clients=8, **named),
        NAMES,
        steps={name: steps() for name in NAMES},
        machine=dict.fromkeys(NAMES, Machine),
        policies={name: Policy(release_log=log) for name, log in logs.items()},
    )


def both_secrets_open(
    stage: Stage, view: Any, first: Mapping[str, bytes], second: Mapping[str, bytes], vector: Any
) -> Vector:
    """The victim's vector without what these two sets of answers open."""
    seed = rebuild(view, VICTIM, revealed(view, unmasked(first), VICTIM))
    shares = revealed(view, unmasked(second), VICTIM, PairKeyShare)
    round_secret = rebuild(view, VICTIM, shares)
    # Either secret alone leaves the other's masks on.
    update = updates_of(NAMES)[VICTIM]
    assert not is_read(stage, strip(stage, VICTIM, seed=seed, view=view, vector=vector), update)
    assert not is_read(
        stage, strip(stage, VICTIM, round_secret=round_secret, view=view, vector=vector), update
    )
    return strip(stage, VICTIM, seed=seed, round_secret=round_secret, view=view, vector=vector)


def unmasked(answers: Mapping[str, bytes]) -> dict[str, Unmask]:
    return {name: body_of(Unmask, answer) for name, answer in answers.items()}


# Twice in one exchange


def forgetful(without: frozenset[str]) -> Stage:
    """Clients that lack the named checks against a second Unmask."""

    class Steps(MaskedClientSteps):
        def react(self, context: Any, state: Any, request: Any) -> Any:
            step: Any = super().react(context, state, request)
            if "state" in without and isinstance(request, Quorum):
                return replace(step, state=state)
            return step

    return staged(Steps, without)


def ask_twice(stage: Stage) -> tuple[dict[str, bytes], dict[str, bytes]]:
    """What the others say to 'everybody survived', and then to 'the victim dropped'."""
    stage.open(updates_of(NAMES), until=3)
    first, second = (
        {name: stage.tell(name, stage.request(3, stage.quorum(name, survivors))) for name in OTHERS}
        for survivors in (NAMES, OTHERS)
    )
    return first, second


def test_a_client_that_answers_both_lists_is_read() -> None:
    stage = forgetful(frozenset(CHECKS))
    first, second = ask_twice(stage)
    vector = stage.answers(2, MaskedInput)[VICTIM].vector
    words = both_secrets_open(stage, stage.summing, first, second, vector)
    assert is_read(stage, words, updates_of(NAMES)[VICTIM])


@pytest.mark.parametrize("kept", subsets(CHECKS))
def test_any_one_check_is_enough(kept: tuple[str, ...]) -> None:
    _, second = ask_twice(forgetful(frozenset(CHECKS) - set(kept)))
    assert all(refused(answer) for answer in second.values())


def test_ours_refuses_and_still_repeats_its_first_answer() -> None:
    stage = Stage(MaskedSum(max_clients=8), NAMES)
    first, second = ask_twice(stage)
    assert all(refused(answer) for answer in second.values())
    again = {name: stage.tell(name, stage.request(3, stage.quorum(name, NAMES))) for name in OTHERS}
    assert again == first


# Across ConsistencyCheck and Unmask


def signs_twice(without: frozenset[str]) -> Stage:
    """Clients of the malicious variant that lack the named checks against a second survivor set."""

    class Steps(MaskedClientSteps):
        def react(self, context: Any, state: Any, request: Any) -> Any:
            if "state" not in without:
                return super().react(context, state, request)
            if isinstance(state, Confirmed) and isinstance(request, Survivors):
                state = state.masked
            step: Any = super().react(context, state, request)
            return replace(step, state=state) if isinstance(request, Quorum) else step

    return staged(Steps, without, requirements=MALICIOUS)


def two_sets(stage: Stage) -> tuple[dict[str, bytes], dict[str, bytes]]:
    """What the others say to a survivor set and its quorum, and then to another set and its quorum."""
    stage.open(updates_of(NAMES), until=3)
    found = []
    for survivors in (NAMES, OTHERS):
        asked = stage.request(3, stage.survivors(survivors))
        signed = {name: stage.tell(name, asked) for name in OTHERS}
        signatures = {
            name: body_of(ConsistencyCheck, answer).signature
            for name, answer in signed.items()
            if not refused(answer)
        }
        requests = {
            name: stage.request(4, stage.quorum(name, survivors, signatures=signatures)) for name in OTHERS
        }
        found.append({name: stage.tell(name, request) for name, request in requests.items()})
    return found[0], found[1]


def test_a_client_that_signs_two_sets_is_read() -> None:
    stage = signs_twice(frozenset(CHECKS))
    first, second = two_sets(stage)
    vector = stage.answers(2, MaskedInput)[VICTIM].vector
    words = both_secrets_open(stage, stage.summing, first, second, vector)
    assert is_read(stage, words, updates_of(NAMES)[VICTIM])


@pytest.mark.parametrize("kept", subsets(CHECKS))
def test_any_one_check_keeps_it_to_one_set(kept: tuple[str, ...]) -> None:
    first, second = two_sets(signs_twice(frozenset(CHECKS) - set(kept)))
    assert not any(refused(answer) for answer in first.values())
    assert all(refused(answer) for answer in second.values())


def test_a_client_unmasks_for_the_set_that_it_signed_and_for_no_other() -> None:
    """Even where everybody else, bribed or not, has signed another one."""
    stage = Stage(MaskedSum(max_clients=8, requirements=MALICIOUS), NAMES)
    stage.open(updates_of(NAMES), until=3)
    asked = stage.survivors(NAMES)
    assert not refused(stage.tell("a", stage.request(3, asked)))
    statement = encode(SignedSurvivors(stage.summing.transcript, stage.bitmap(OTHERS)))
    signatures = {name: stage.identities[name].key.sign(statement, label=labels.SURVIVORS) for name in OTHERS}
    assert refused(stage.tell("a", stage.request(4, stage.quorum("a", OTHERS, signatures=signatures))))


# Across a steady round


def undead(without: frozenset[str]) -> Stage:
    """Clients that come back, in a later round, with what an earlier one prepared and used up."""

    class Steps(MaskedClientSteps):
        used: Ready | None = None

        def react(self, context: Any, state: Any, request: Any) -> Any:
            if isinstance(state, Ready) and isinstance(request, CollectInput):
                self.used = state
            return super().react(context, state, request)

        def idle(self, state: Any) -> Any:
            return self.used if "state" in without and self.used is not None else super().idle(state)

    return staged(Steps, without)


def one_dealing_twice(stage: Stage) -> tuple[Any, Any, dict[str, bytes], dict[str, bytes]]:
    """Two steady rounds on one dealing: in the first the victim survives, in the second it vanishes."""
    updates = updates_of(NAMES)
    stage.play(updates)
    collecting = {
        name: request_of(CollectInput, message) for name, message in stage.open(updates, until=2).items()
    }
    for name, request in collecting.items():
        answer = stage.tell(name, stage.request(2, request), updates[name])
        stage.server.receive(name, answer)
        if name == VICTIM:
            vector = body_of(MaskedInput, answer).vector
    view = stage.summing
    first = {name: stage.tell(name, stage.request(3, stage.quorum(name, NAMES))) for name in OTHERS}
    again: dict[str, bytes] = {}
    for name in OTHERS:
        stage.tell(name, stage.request(2, collecting[name], round=2), updates[name])
    for name in OTHERS:
        again[name] = stage.tell(name, stage.request(3, stage.quorum(name, OTHERS), round=2))
    return view, vector, first, again


def test_a_dealing_that_serves_two_rounds_is_read() -> None:
    stage = undead(frozenset(CHECKS))
    view, vector, first, second = one_dealing_twice(stage)
    words = both_secrets_open(stage, view, first, second, vector)
    assert is_read(stage, words, updates_of(NAMES)[VICTIM])


@pytest.mark.parametrize("kept", [("state",), ("log",)])
def test_either_the_state_or_the_log_keeps_a_dealing_to_one_round(kept: tuple[str, ...]) -> None:
    _, _, first, second = one_dealing_twice(undead(frozenset(CHECKS) - set(kept)))
    assert not any(refused(answer) for answer in first.values())
    assert all(refused(answer) for answer in second.values())


def test_after_an_aborted_steady_round_its_dealing_is_gone() -> None:
    """The vector is out, so the dealing is spent, although nobody asked for a share of it."""
    stage, updates = Stage(MaskedSum(max_clients=8), NAMES), updates_of(NAMES)
    stage.play(updates)
    collecting = {
        name: request_of(CollectInput, message) for name, message in stage.open(updates, until=2).items()
    }
    for name in NAMES:
        assert not refused(stage.tell(name, stage.request(2, collecting[name]), updates[name]))
    for name in NAMES:
        assert refused(stage.tell(name, stage.request(2, collecting[name], round=2), updates[name]))
        assert refused(stage.tell(name, stage.request(3, stage.quorum(name, OTHERS), round=2)))


# What no honest server sends, and what no message can say


@pytest.mark.parametrize(
    "survivors",
    [
        pytest.param(OTHERS, id="itself dropped"),
        pytest.param("bc", id="too few"),
        pytest.param("", id="nobody"),
    ],
)
def test_lists_that_no_honest_server_sends(survivors: str) -> None:
    stage = Stage(MaskedSum(max_clients=8), NAMES)
    stage.open(updates_of(NAMES), until=3)
    assert refused(stage.tell(VICTIM, stage.request(3, stage.quorum(VICTIM, survivors))))
    # Nothing was released, so the honest list still gets its answer.
    assert not refused(stage.tell(VICTIM, stage.request(3, stage.quorum(VICTIM, NAMES))))


def test_a_survivor_that_was_never_active_is_refused() -> None:
    stage = Stage(MaskedSum(max_clients=8), NAMES)
    stage.open(updates_of(NAMES), until=3, gone={"e": 1})
    assert refused(stage.tell(VICTIM, stage.request(3, stage.quorum(VICTIM, NAMES))))
    assert not refused(stage.tell(VICTIM, stage.request(3, stage.quorum(VICTIM, "abcd"))))


@pytest.mark.parametrize(
    "survivors",
    [
        pytest.param(b"\xff", id="bits behind the last client"),
        pytest.param(b"", id="no byte"),
        pytest.param(b"\x1f\x00", id="a byte too many"),
    ],
)
def test_a_list_has_one_encoding(survivors: bytes) -> None:
    stage = Stage(MaskedSum(max_clients=8), NAMES)
    stage.open(updates_of(NAMES), until=3)
    spoilt = replace(stage.quorum("a", NAMES), survivors=survivors)
    assert refused(stage.tell("a", stage.request(3, spoilt)))


def test_one_message_cannot_say_both() -> None:
    """It has one bit and one share for each dealer; a share more, or a bit more, is not decoded."""
    stage = Stage(MaskedSum(max_clients=8), NAMES, server_steps=Curious())
    stage.play(updates_of(NAMES))
    honest = stage.answers(3, Unmask)["a"]
    assert len(honest.reveals(len(NAMES))) == len(NAMES)
    share = honest.shares[:SHARE_BYTES]
    for spoilt in (
        replace(honest, shares=honest.shares + share),
        replace(honest, kinds=honest.kinds + b"\x01"),
        replace(honest, kinds=bytes([honest.kinds[0] | 1 << len(NAMES)])),
    ):
        with pytest.raises(DecodeError):
            spoilt.reveals(len(NAMES))
    both = Unmask.of([SelfMaskShare(share), PairKeyShare(share)], following=honest.next)
    with pytest.raises(DecodeError):  # two shares are of two dealers, never of one
        both.reveals(1)
