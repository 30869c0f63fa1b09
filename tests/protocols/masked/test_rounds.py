"""Rounds of MaskedSum after rounds: which path each takes, what drops do, and that every sum is right.

An epoch begins on the long path and goes on in the steady state, where a round begins with what the one
before has prepared. What must happen is predicted here by counting, from the plan; nothing looks into a
machine.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from protocols import ParameterError, Policy, Round, RoundAborted, Session
from tests.protocols.conftest import (
    FAMILIES,
    MASKED,
    TWO,
    Family,
    World,
    assert_right,
    is_long,
    updates_of,
)

HISTORIES = settings(
    max_examples=15,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
NAMES = "abcdefg"
"""Of seven, TWO lets one be missing in the steady state, whoever the adversary is."""
NEVER = 99
LAST = 98
"""Stands for the number of the last exchange, which the variants do not share."""

Gone = Mapping[str, int]


@dataclass
class Oracle:
    """What becomes of a round on the complete graph, by counting who is there.

    Attributes:
        size: of the epoch's cohort.
        prepared: whose dealing for the next round arrived; None where the next round is a new start.
    """

    protocol: Any
    size: int = 0
    prepared: frozenset[str] | None = None

    def goes_on(self, cohort: frozenset[str]) -> bool:
        """Nobody new, and no more than half of the losses that the epoch bears are used up."""
        if self.prepared is None or not cohort <= self.prepared:
            return False
        least: int = self.protocol.plan(self.size).min_survivors
        return len(cohort) >= least and 2 * (len(cohort) - least) >= self.size - least

    def play(self, cohort: frozenset[str], gone: Gone) -> tuple[bool, frozenset[str] | None]:
        """(whether the long path is taken, who contributes; None where the round aborts)."""
        long = not self.goes_on(cohort)
        if long:
            self.size = len(cohort)
        self.prepared = None
        plan, exchanges = self.protocol.plan(self.size), len(self.protocol.exchanges(first=True))
        there = [
            frozenset(name for name in cohort if gone.get(name, NEVER) > exchange)
            for exchange in range(exchanges)
        ]
        needed = [plan.min_survivors] * 3 + [plan.quorum] * (exchanges - 4) + [plan.threshold]
        for exchange in range(0 if long else 2, exchanges):
            if len(there[exchange]) < needed[exchange]:
                return long, None
        if len(there[-1]) >= plan.min_survivors:
            self.prepared = there[-1]
        return long, there[2]


def play(
    world: World,
    oracle: Oracle,
    cohort: str,
    gone: Gone | None = None,
    *,
    length: int = 5,
    model: bytes = b"",
) -> bool:
    """One round, as the oracle says it must go; whether it took the long path."""
    gone = {name: last_of(world) if exchange == LAST else exchange for name, exchange in (gone or {}).items()}
    long, contributors = oracle.play(frozenset(cohort), gone)
    updates = updates_of(cohort, length, seed=world.number + 2)
    weights = {name: 1 + (world.number + place) % 3 for place, name in enumerate(cohort)}
    if contributors is None:
        with pytest.raises(RoundAborted) as aborted:
            world.play(updates, weights=weights, gone=gone, model=model)
        assert world.server.record().record.contributors == aborted.value.opened
    else:
        outcome = world.play(updates, weights=weights, gone=gone, model=model)
        assert outcome.contributors == contributors
        assert set(outcome.dropped) == {name for name in cohort if gone.get(name, NEVER) != NEVER}
        assert world.exchanges == len(world.protocol.exchanges(first=long))
        assert_right(world.learn(outcome), world.protocol, updates, contributors, weights)
    assert is_long(world) == long
    return long


def last_of(world: World) -> int:
    return len(world.protocol.exchanges(first=True)) - 1


def world_of(masked: Family, names: str = NAMES, **parameters: Any) -> tuple[World, Oracle]:
    protocol = masked(**{"max_clients": 12, "requirements": TWO, "max_weight": 3, **parameters})
    return World(protocol, names), Oracle(protocol)


# Which path


WITHOUT_A = NAMES[1:]
EVERYBODY_AT_2: Gone = dict.fromkeys(NAMES, 2)
PATHS: dict[str, list[tuple[str, Gone, str]]] = {
    "nobody leaves": [(NAMES, {}, "long"), *[(NAMES, {}, "steady")] * 4],
    "a newcomer": [
        (WITHOUT_A, {}, "long"),
        (WITHOUT_A, {}, "steady"),
        (NAMES, {}, "long"),
        (NAMES, {}, "steady"),
    ],
    "one who was not asked": [
        (NAMES, {}, "long"),
        (WITHOUT_A, {}, "steady"),
        (WITHOUT_A, {}, "steady"),
        (NAMES, {}, "long"),
        (NAMES, {}, "steady"),
    ],
    "one who does not answer": [
        (NAMES, {}, "long"),
        (NAMES, {"a": 2}, "steady"),
        (NAMES, {"a": 2}, "long"),
        (WITHOUT_A, {}, "steady"),
        (NAMES, {}, "long"),
    ],
    "one who contributes and vanishes": [
        (NAMES, {}, "long"),
        (NAMES, {"a": LAST}, "steady"),
        (WITHOUT_A, {}, "steady"),
        (NAMES, {"b": LAST}, "long"),
        (NAMES, {}, "long"),
        (NAMES, {}, "steady"),
    ],
    "one who vanishes on the long path": [
        (NAMES, {"a": 0}, "long"),
        (WITHOUT_A, {}, "steady"),
        (NAMES, {"a": 1}, "long"),
        (WITHOUT_A, {}, "steady"),
        (NAMES, {}, "long"),
    ],
    "two aborts in a row": [
        (NAMES, {}, "long"),
        (NAMES, EVERYBODY_AT_2, "steady"),
        (NAMES, EVERYBODY_AT_2, "long"),
        (NAMES, {}, "long"),
        (NAMES, dict.fromkeys(NAMES, LAST), "steady"),
        (NAMES, dict.fromkeys(NAMES, 0), "long"),
        (NAMES, {}, "long"),
        (NAMES, {}, "steady"),
    ],
    "a cohort that grows": [
        (NAMES[:4], {}, "long"),
        (NAMES[:5], {}, "long"),
        (NAMES[:5], {}, "steady"),
        (NAMES[:6], {}, "long"),
        (NAMES, {}, "long"),
        (NAMES, {}, "steady"),
    ],
    "a cohort that skips another one each time": [
        (NAMES, {}, "long"),
        ("bcdefg", {}, "steady"),
        ("acdefg", {}, "long"),
        ("abdefg", {}, "long"),
        ("abdefg", {}, "steady"),
    ],
    "other members altogether": [
        ("abcd", {}, "long"),
        ("defg", {}, "long"),
        ("defg", {}, "steady"),
        ("abcd", {}, "long"),
    ],
}


@pytest.mark.parametrize("history", PATHS)
def test_paths(masked: Family, history: str) -> None:
    world, oracle = world_of(masked)
    for cohort, gone, path in PATHS[history]:
        assert play(world, oracle, cohort, gone) == (path == "long")


def test_exchanges_are_those_of_the_table(masked: Family) -> None:
    steady = ["MaskedInput", "Unmask"]
    if masked.name == "masked malicious":
        steady.insert(1, "ConsistencyCheck")
    first = ["AdvertiseKeys", "ShareKeys", *steady]
    session = Session(masked(max_clients=4), "abcd")
    for number in range(4):
        run = session.round(updates_of("abcd", seed=number))
        names = list(dict.fromkeys(message.exchange for message in run.transcript))
        assert names == (steady if number else first)
        assert run.exchanges == len(names)


def test_a_shrinking_cohort_takes_new_keys_when_half_of_its_losses_are_used_up(masked: Family) -> None:
    # One fewer each round, until the plan has no cohort that small. Each epoch bears half of what its plan
    # bears; after that its members make new keys, in time.
    names = "abcdefghijkl"
    world, oracle = world_of(masked, names)
    paths = []
    for size in range(len(names), 3, -1):
        before = oracle.size
        paths.append(play(world, oracle, names[:size]))
        if not paths[-1]:
            least = world.protocol.plan(before).min_survivors
            assert before - size <= (before - least) / 2
    assert paths[0]
    assert not all(paths)
    assert any(paths[1:])


def test_losses_of_earlier_rounds_of_an_epoch_count(masked: Family) -> None:
    # Twelve, of whom half of what may be lost is gone after these rounds. More of them vanish in a last one:
    # the epoch bears exactly its plan's losses, all rounds together.
    names = "abcdefghijkl"
    world, oracle = world_of(masked, names)
    plan = world.protocol.plan(len(names))
    half = (len(names) - plan.min_survivors) // 2
    assert half >= 2
    play(world, oracle, names)
    for lost in range(1, half + 1):
        assert not play(world, oracle, names[lost:], {names[lost]: LAST} if lost < half else None)
    left = names[half:]
    before = world.save()
    more = len(left) - plan.min_survivors
    for vanish in (more, more + 1):
        world.restore(before)
        updates, gone = updates_of(left), dict.fromkeys(left[:vanish], 2)
        if vanish == more:
            outcome = world.play(updates, gone=gone)
            assert_right(world.learn(outcome), world.protocol, updates, left[vanish:])
        else:
            with pytest.raises(RoundAborted, match=f"at least {plan.min_survivors} are needed"):
                world.play(updates, gone=gone)
        assert not is_long(world)


@pytest.mark.parametrize("cohort", [NAMES + "hi", WITHOUT_A + "hij"], ids=["with it", "without it"])
def test_a_cohort_that_is_too_small_for_a_policy_takes_new_keys(masked: Family, cohort: str) -> None:
    # a insists on all ten. On the long path it refuses alone; in the steady state its holders would keep to
    # its minimum too, and where views may be split even if they were told that it is gone.
    names = NAMES + "hij"
    protocol = masked(max_clients=10, requirements=TWO)
    world = World(protocol, names, policies={"a": Policy(min_contributors=10)})
    assert world.play(updates_of(names)).dropped == {}
    for _ in range(2):
        updates = updates_of(cohort)
        outcome = world.play(updates)
        assert set(outcome.dropped) == {"a"} & set(cohort)
        assert_right(world.learn(outcome), protocol, updates, set(cohort) - {"a"})


# What a steady round may change


def test_other_lengths_and_models_in_the_steady_state(masked: Family) -> None:
    world, oracle = world_of(masked)
    rounds = [(5, b""), (1, b"a model"), (3000, b"another"), (1, b""), (64, bytes(10**5)), (64, bytes(10**5))]
    for number, (length, model) in enumerate(rounds):
        assert play(world, oracle, NAMES, length=length, model=model) == (number == 0)
        carried = {sent.exchange for sent in world.log if sent.down and len(model) and model in sent.body}
        assert carried == ({2} if model else set())


def test_numbers_of_rounds_may_skip_in_the_steady_state(masked: Family) -> None:
    world, oracle = world_of(masked)
    for number in (0, 1, 7, 8, 2**40, 2**63 - 1):
        world.number = number - 1
        assert play(world, oracle, NAMES) == (number == 0)


def test_a_round_that_was_started_and_left_costs_the_steady_state(masked: Family) -> None:
    # The server begins a round and is told to begin another: what was prepared may be under way already.
    world, oracle = world_of(masked)
    play(world, oracle, NAMES)
    world.number += 1
    world.server.start(Round(world.number, tuple(NAMES), 5))
    oracle.prepared = None
    assert play(world, oracle, NAMES)
    assert not play(world, oracle, NAMES)


def test_a_start_that_cannot_work_leaves_the_steady_state(masked: Family) -> None:
    world, oracle = world_of(masked)
    play(world, oracle, NAMES)
    for wrong in (Round(0, tuple(NAMES), 5), Round(1, ("a", "x"), 5), Round(1, tuple(NAMES), 0)):
        with pytest.raises(ParameterError):
            world.server.start(wrong)
    assert not play(world, oracle, NAMES)


def test_a_client_that_lost_its_state_comes_back_on_the_long_path(masked: Family) -> None:
    world, oracle = world_of(masked)
    play(world, oracle, NAMES)
    world.clients["a"] = world.protocol.client(
        identity=world.identities["a"], roster=world.roster, session=world.session
    )
    outcome = world.play(updates_of(NAMES))
    assert not is_long(world)
    assert set(outcome.dropped) == {"a"}
    assert "CollectInput came where this client is Idle" in outcome.dropped["a"]
    assert_right(world.learn(outcome), world.protocol, updates_of(NAMES), WITHOUT_A)
    oracle.prepared = frozenset(WITHOUT_A)
    assert play(world, oracle, NAMES)
    assert not play(world, oracle, NAMES)


def test_the_integer_surface_has_a_steady_state(masked: Family) -> None:
    world = World(masked(max_clients=7, requirements=TWO).exact(max_summand=2**33), NAMES)
    for number in range(3):
        updates = {
            name: np.array([2**33, number, place], dtype=np.uint64) for place, name in enumerate(NAMES)
        }
        gone = {"g": 2} if number == 1 else {}
        cohort = NAMES if number < 2 else NAMES[:-1]
        outcome = world.play({name: updates[name] for name in cohort}, gone=gone)
        assert is_long(world) == (number == 0)
        contributors = [name for name in cohort if name not in gone]
        total: Any = world.learn(outcome)
        assert np.array_equal(total.total, np.stack([updates[name] for name in contributors]).sum(axis=0))


# Random histories


@st.composite
def histories(draw: st.DrawFn) -> list[tuple[str, dict[str, int]]]:
    """Cohorts and drops; most clients stay most of the time, so that all paths are walked."""
    rounds = []
    cohort = draw(st.sampled_from(["abcdef", "bcdef", "abcd"]))
    for _ in range(draw(st.integers(2, 5))):
        change = draw(st.sampled_from(["same", "same", "fewer", "any"]))
        if change == "fewer" and len(cohort) > 3:
            out = draw(st.sampled_from(cohort))
            cohort = cohort.replace(out, "")
        elif change == "any":
            cohort = "".join(sorted(draw(st.sets(st.sampled_from("abcdef"), min_size=3))))
        lost = draw(st.sets(st.sampled_from(cohort), max_size=draw(st.sampled_from([0, 0, 1, 1, 2, 6]))))
        rounds.append((cohort, {name: draw(st.integers(0, 4)) for name in sorted(lost)}))
    return rounds


@pytest.mark.slow
@HISTORIES
@given(
    history=histories(), restart=st.booleans(), lengths=st.lists(st.integers(1, 70), min_size=6, max_size=6)
)
@pytest.mark.parametrize("name", MASKED)
def test_any_history(
    name: str, history: Sequence[tuple[str, dict[str, int]]], restart: bool, lengths: Sequence[int]
) -> None:
    world, oracle = world_of(Family(name, FAMILIES[name]), "abcdef")
    last = last_of(world)
    for (cohort, gone), length in zip(history, lengths, strict=False):
        there = {name: exchange for name, exchange in gone.items() if exchange <= last}
        play(world, oracle, cohort, there, length=length)
        if restart:
            world.restart()
    # Whatever happened, the next good round works, and the one after it is steady.
    play(world, oracle, "abcdef", length=lengths[-1])
    assert not play(world, oracle, "abcdef")
