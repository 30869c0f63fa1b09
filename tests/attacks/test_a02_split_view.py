"""A2: different clients hear of different survivors, each set of which is plausible.

Half of the clients hear that the victim survived, the other half that it vanished; each half reveals what it
may, and together they open the victim. Bonawitz et al., CCS'17, section 6, ask for a signed survivor set
against this, and Bell et al., CCS'20, for 2t above the number of holders and corrupt ones. MaskedSum has both
answers, by the adversary that is asked for.

Neither makes a lying server harmless. It may still open a *smaller* group than any client heard of. What is
left to it is computed here by ranks (`stories.smallest_opened`) over all splits of small cohorts, whoever is
active in them, and compared with what the plan promises.

Not covered: different stories of who is active, which are a lie of their own; see `test_a02_active_sets.py`.
Random graphs, on which clients see their neighbours only; see `test_a02_random_graph.py`.
"""

from collections.abc import Set
from dataclasses import replace
from typing import Any

import pytest

from protocols import Adversary, MaskedSum, Requirements
from protocols.masked import client as client_module
from protocols.planning import planner
from protocols.planning.planner import plan_masked
from protocols.planning.requirements import Plan
from tests.attacks.stories import ASKED, Story, cohort, rebuilt_from, smallest_opened
from tests.attacks.views import Coalition, malicious, tell_stories
from tests.attacks.weakened import Stage, refused, updates_of

SEMI_HONEST, SEMI_MALICIOUS, MALICIOUS = Adversary


def halves(names: str, victim: str, alive: Set[str], corrupt: Set[str] = frozenset()) -> dict[str, Story]:
    """`alive` and the victim hear that all survived, the other honest ones that the victim vanished."""
    everybody = frozenset(names)
    return {
        name: Story(everybody, everybody if name == victim or name in alive else everybody - {victim})
        for name in names
        if name not in corrupt
    }


# The threshold


def split(names: str, corrupt: str, alive: Set[str]) -> tuple[Coalition, dict[str, Any]]:
    """A round in which the first client is the victim."""
    stage, updates = Stage(MaskedSum(max_clients=8), names), updates_of(names)
    return tell_stories(stage, updates, halves(names, names[0], alive, set(corrupt)), corrupt), updates


def test_with_the_semi_honest_threshold_the_victim_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    def low(n: int, requirements: Requirements, **others: int) -> Plan:
        honest = replace(requirements, adversary=SEMI_HONEST)
        threshold = plan_masked(n, honest, **others).threshold
        return replace(plan_masked(n, requirements, **others), threshold=threshold)

    monkeypatch.setattr(planner, "plan_masked", low)
    coalition, updates = split("abcdef", "", {"b", "c"})
    assert not coalition.refused
    assert coalition.opens("a", updates)


@pytest.mark.parametrize("corrupt", ["", "ef"])
@pytest.mark.parametrize("alive", ["", "b", "bc", "bcd"])
def test_with_ours_no_split_gives_both_secrets(corrupt: str, alive: str) -> None:
    assert MaskedSum(max_clients=8).plan(6).corrupt == 2
    coalition, updates = split("abcdef", corrupt, set(alive))
    assert not coalition.refused  # each story is one that an honest server could tell
    assert not {"a"} <= coalition.seeds.keys() & coalition.round_secrets.keys()
    assert not coalition.opens("a", updates)


# What is left to a server that splits views


@pytest.mark.parametrize("n", range(4, 11))
@pytest.mark.parametrize("asked", ASKED)
def test_no_split_opens_fewer_than_the_plan_promises(asked: str, n: int) -> None:
    each = cohort(asked, n)
    assert each.plan.adversary is SEMI_MALICIOUS
    assert each.worst(each.promised - 1) is None


@pytest.mark.parametrize(
    ("asked", "n"), [("default", 4), ("default", 5), ("default", 6), ("nobody corrupt, two contributors", 4)]
)
def test_the_splits_that_are_looked_at_are_the_worst(asked: str, n: int) -> None:
    """Every story to every client, against the representatives that the other tests use."""
    each = cohort(asked, n)
    assert each.worst(n, brute=True) == each.worst(n)


def test_the_promise_is_tight() -> None:
    """At most one contributor more is sure than is promised, and somewhere none is."""
    above = set()
    for n in range(4, 9):
        each = cohort("default", n)
        found = each.worst(n)
        assert found is not None
        above.add(found - each.promised)
    assert 0 in above
    assert above <= {0, 1}


@pytest.mark.parametrize("n", [5, 6, 7, 8])
def test_with_one_share_less_a_single_client_is_opened(n: int) -> None:
    lowered = cohort("default", n, lower=1)
    assert lowered.plan.min_survivors < n
    assert lowered.worst(lowered.promised - 1) == 1


@pytest.mark.parametrize("n", [8, 10])
def test_what_is_found_on_paper_is_opened_on_the_machines(n: int) -> None:
    """The smallest group of all splits, opened on the real clients; and none of its members alone."""
    each = cohort("default", n)
    size = each.worst(n)
    assert size is not None
    stories = next(stories for stories in each.splits() if each.opened(stories, size) == size)
    seeds, round_secrets = rebuilt_from(stories, needs=each.needs, holders=each.holders)
    group = smallest_opened(
        stories, seeds=seeds, round_secrets=round_secrets, neighbours=each.neighbours, most=size
    )
    assert group is not None
    stage, updates = Stage(MaskedSum(max_clients=n), each.names), updates_of(each.names)
    coalition = tell_stories(stage, updates, stories, each.names[len(each.honest) :])
    assert not coalition.refused
    assert coalition.seeds.keys() & set(each.honest) == seeds
    assert coalition.round_secrets.keys() & set(each.honest) == round_secrets
    assert coalition.opens(group, updates)
    assert size >= each.promised
    assert not any(coalition.opens(name, updates) for name in group)


# One story, signed by a quorum


def no_quorum(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "check_quorum", lambda *_: None)


def test_without_the_quorum_the_victim_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    no_quorum(monkeypatch)
    stage, updates, each = malicious(7)
    coalition = tell_stories(stage, updates, halves(each.names, "a", {"b", "c"}, {"f", "g"}), "fg")
    assert not coalition.refused
    assert coalition.opens("a", updates)


@pytest.mark.parametrize("n", [5, 7, 10])
def test_two_survivor_sets_do_not_both_get_a_quorum(n: int) -> None:
    for count in range(n):
        stage, updates, each = malicious(n)
        corrupt = each.names[len(each.honest) :]
        alive = each.honest[1 : 1 + count]
        stories = halves(each.names, "a", set(alive), set(corrupt))
        coalition = tell_stories(stage, updates, stories, corrupt)
        released = {stories[name] for name in stories if name not in coalition.refused}
        assert len(released) <= 1
        assert not coalition.opens("a", updates)
        if count >= len(each.honest):
            assert len(released) == 1  # one story, and the round goes on
            break


def test_a_client_signs_one_survivor_set_in_a_round() -> None:
    stage, updates, each = malicious(7)
    stage.open(updates, until=3)
    assert not refused(stage.tell("a", stage.request(3, stage.survivors(each.names))))
    assert refused(stage.tell("a", stage.request(3, stage.survivors(each.names[:-1]))))
