"""A2: a server tells one client, and no other, that some never dealt shares at all.

That costs it no votes, and a quorum none of its signatures: neither 2t > n + c nor a signed survivor set
stands against it. The client masks with those of whom it hears; the others hear that just these vanished, and
vote their round secrets open. So each client sees its surviving neighbours' signatures on their transcripts,
and reveals shares under its own story of who is active only; and a quorum is one of the whole cohort. The
weakened copies believe that all hear the same, and count a quorum of whom the server calls active.

A client that insists on more contributors than the plan has holders that keep to it. Of whom does a holder
keep the minimum, if it hears that it is lost? The weakened copy says of nobody.

Not covered: random graphs; see `test_a02_random_graph.py`.
"""

import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from protocols import MaskedSum, Policy, Requirements
from protocols.masked import client as client_module
from protocols.masked import revealing
from protocols.masked.epoch import Epoch
from protocols.masked.states import Confirmed, View
from protocols.masked.transcript import SignedInput, SignedSurvivors
from protocols.messages.schema import encode
from secagg import labels
from tests.attacks.stories import (
    LETTERS,
    Cohort,
    Story,
    cohort,
    rebuilt_from,
    releasing,
    stories_against,
    votes_for,
)
from tests.attacks.views import Coalition, malicious, tell_stories
from tests.attacks.weakened import Stage, believe_all_stories, refused, updates_of

# A story for one client alone


def told_of_few(each: Cohort) -> dict[str, Story]:
    """The first client hears of few active ones, and the others vote those away that it hears of."""
    most = each.plan.clients - each.plan.min_survivors
    unheard = set(each.honest[1 : 1 + most])
    stories = stories_against(
        {"a"},
        unheard=unheard,
        opened=set(each.honest) - unheard - {"a"},
        everybody=each.everybody,
        holders=each.holders,
        needs=each.needs,
        least=each.plan.min_survivors,
        least_neighbours=each.plan.min_neighbours,
        believed=True,
    )
    assert stories is not None
    return stories


def told_on_machines(n: int) -> tuple[Coalition, dict[str, Any], Cohort]:
    each = cohort("default", n)
    stage, updates = Stage(MaskedSum(max_clients=n), each.names), updates_of(each.names)
    return tell_stories(stage, updates, told_of_few(each), each.names[len(each.honest) :]), updates, each


@pytest.mark.parametrize("n", [10, 20])
def test_where_clients_believe_that_all_hear_the_same_one_is_read(
    monkeypatch: pytest.MonkeyPatch, n: int
) -> None:
    believe_all_stories(monkeypatch)
    coalition, updates, each = told_on_machines(n)
    assert not coalition.refused
    assert each.plan.sure_contributors >= 4
    assert coalition.opens("a", updates)


@pytest.mark.parametrize("n", [10, 20])
def test_ours_ask_which_story_their_neighbours_signed(n: int) -> None:
    coalition, updates, each = told_on_machines(n)
    assert coalition.refused.keys() == set(each.honest)
    assert all("did not sign this client's story" in why for why in coalition.refused.values())
    assert not coalition.opens("a", updates)
    on_paper = rebuilt_from(told_of_few(each), needs=each.needs, holders=each.holders)
    assert on_paper == (set(), set())


def any_stories(each: Cohort, generator: random.Random) -> dict[str, Story]:
    """Some hear of fewer active clients. Who is missing is so by chance, or as it heard another story."""
    spare = each.plan.clients - each.plan.min_survivors
    odd = generator.sample(each.honest, generator.randint(0, spare))
    hidden = set(generator.sample([name for name in each.honest if name not in odd], 1))
    active = {name: each.everybody - (hidden if name in odd else set()) for name in each.honest}
    stories = {}
    for name in each.honest:
        missing = [peer for peer in sorted(active[name] & set(each.honest)) if active[peer] != active[name]]
        if generator.random() < 0.2:
            missing = generator.sample(sorted(active[name] - {name}), spare)
        elif not missing:
            missing = [peer for peer in each.honest[:1] if generator.random() < 0.7 and peer != name]
        left = spare - len(each.everybody - active[name])
        stories[name] = Story(active[name], active[name] - set(missing[:left]))
    return stories


def test_who_reveals_what_is_on_the_machines_as_it_is_on_paper() -> None:
    """All stories that the plan allows, whatever comes of them."""
    each, generator = cohort("default", 8), random.Random(1)
    honest, kinds = set(each.honest), set()
    for _ in range(24):
        stories = any_stories(each, generator)
        stage, updates = Stage(MaskedSum(max_clients=8), each.names), updates_of(each.names)
        coalition = tell_stories(stage, updates, stories, each.names[len(each.honest) :])
        talking = releasing(stories, each.holders)
        assert honest - coalition.refused.keys() == talking
        seeds, round_secrets = rebuilt_from(stories, needs=each.needs, holders=each.holders)
        assert coalition.seeds.keys() & honest == seeds
        assert coalition.round_secrets.keys() & honest == round_secrets
        assert not seeds & round_secrets
        kinds |= {(talking == honest, bool(talking)), ("b", bool(seeds)), ("K", bool(round_secrets))}
    # All reveal or only some; self masks are opened or none are; round secrets are or none are.
    assert len(kinds) >= 6


def test_no_signature_but_the_neighbours_own_on_this_story_counts() -> None:
    """Not the receiver's, not another's, not one of an earlier round, not one for another purpose."""
    stage, names = Stage(MaskedSum(max_clients=5), "abcde"), "abcde"
    stage.play(updates_of(names))
    before = dict(stage.inputs)
    stage.open(updates_of(names), until=3)
    transcript = stage.summing.transcript
    survivors = encode(SignedSurvivors(transcript, stage.bitmap(names)))
    for wrong in (
        before["b"],
        stage.inputs["a"],
        stage.inputs["c"],
        bytes(64),
        stage.identities["b"].key.sign(encode(SignedInput(transcript)), label=labels.SURVIVORS),
        stage.identities["b"].key.sign(survivors, label=labels.MASKED_INPUT),
    ):
        asked = stage.quorum("a", names, inputs={"b": wrong})
        assert refused(stage.tell("a", stage.request(3, asked)))
        assert "'b' did not sign" in str(stage.clients["a"].refusal)
    assert not refused(stage.tell("a", stage.request(3, stage.quorum("a", names))))


# A client that insists on more than the plan


def against_the_strict() -> tuple[Coalition, dict[str, Any]]:
    """The first of eleven insists on nine contributors: ten must survive. All others would do with seven.

    Six hear that it survived, and of one that did not; the others that it and three more vanished.
    """
    names = LETTERS[:11]
    protocol = MaskedSum(max_clients=11, requirements=Requirements(corrupt_fraction=0.0))
    stage = Stage(protocol, names, policies={"a": Policy(min_contributors=9)})
    plan = stage.protocol.plan(11)
    assert (plan.threshold, plan.min_survivors, plan.sure_contributors) == (6, 7, 3)
    alive, opened = "aghijk", "ijk"
    budgets = {name: 1 if name in alive else 3 for name in names}
    said = votes_for(
        dict.fromkeys(opened, plan.threshold), budgets, {name: set(names) - {name} for name in opened}
    )
    assert said is not None
    everybody, updates = frozenset(names), updates_of(names)
    stories = {
        name: Story(everybody, everybody - said[name] - (set() if name in alive else {"a"})) for name in names
    }
    return tell_stories(stage, updates, stories, ""), updates


def test_where_the_lost_do_not_count_a_strict_client_is_among_fewer(monkeypatch: pytest.MonkeyPatch) -> None:
    def of_the_listed(self: View, survivors: set[int]) -> int:
        minimum = max(self.minima[place] for place in self.minima.keys() & (survivors | {self.me}))
        return max(self.epoch.least, self.epoch.survivors_for(minimum))

    monkeypatch.setattr(View, "least", of_the_listed)
    coalition, updates = against_the_strict()
    assert not coalition.refused
    assert coalition.opens("abcdefgh", updates)


def test_our_holders_keep_to_the_minimum_of_who_is_said_to_be_lost() -> None:
    coalition, updates = against_the_strict()
    assert coalition.refused.keys() == set("bcdef")
    assert not coalition.opens("abcdefgh", updates)
    # The plan with ten survivors promises nine contributors.
    strict = Cohort(replace(cohort("nobody corrupt", 11).plan, min_survivors=10, sure_contributors=9))
    assert strict.worst(strict.promised - 1) is None


# Quorums on two stories


def over_the_active(monkeypatch: pytest.MonkeyPatch) -> None:
    """A quorum of those whom the server calls active, and not of the cohort."""

    def check_quorum(context: Any, state: Confirmed, request: Any) -> None:
        active = len(state.masked.active.places)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Epoch, "quorum", property(lambda epoch: (active + epoch.corrupt) // 2 + 1))
            revealing.check_quorum(context, state, request)

    monkeypatch.setattr(client_module, "check_quorum", check_quorum)


def two_quorums(n: int) -> tuple[Coalition, dict[str, Any]]:
    """Two stories of few active clients, each with a majority of those: the victim survived, it vanished."""
    stage, updates, each = malicious(n)
    corrupt, least = each.names[len(each.honest) :], each.plan.min_survivors
    first, second = ((active + each.plan.corrupt) // 2 + 1 - len(corrupt) for active in (least, least + 1))
    assert first + second <= len(each.honest)
    stories: dict[str, Story] = {}
    for signers, size in ((each.honest[:first], least), (each.honest[first : first + second], least + 1)):
        there = dict.fromkeys([*signers, *corrupt, "a", *each.names])
        active = frozenset([*there][:size])
        lost = {"a"} - set(signers)
        stories |= {name: Story(active, active - lost) for name in signers}
    stories |= {name: Story(each.everybody, each.everybody) for name in each.honest if name not in stories}
    return tell_stories(stage, updates, dict(sorted(stories.items())), corrupt), updates


@pytest.mark.parametrize("n", [8, 9, 10])
def test_two_quorums_of_the_active_read_the_victim(monkeypatch: pytest.MonkeyPatch, n: int) -> None:
    over_the_active(monkeypatch)
    believe_all_stories(monkeypatch)
    coalition, updates = two_quorums(n)
    assert coalition.opens("a", updates)


@pytest.mark.parametrize("weakened", [(), (over_the_active,), (believe_all_stories,)])
@pytest.mark.parametrize("n", [8, 9, 10])
def test_a_quorum_of_the_cohort_or_the_neighbours_stories_are_enough(
    monkeypatch: pytest.MonkeyPatch, n: int, weakened: tuple[Callable[[pytest.MonkeyPatch], None], ...]
) -> None:
    for each in weakened:
        each(monkeypatch)
    coalition, updates = two_quorums(n)
    assert not coalition.opens("a", updates)


@pytest.mark.parametrize("n", [8, 10, 12])
def test_nor_do_two_sets_of_active_clients(n: int) -> None:
    """To some clients the cohort is as small as it may be, so that fewer of them might be a quorum of it."""
    for size in range(1, n):
        stage, updates, each = malicious(n)
        corrupt, plan = each.names[len(each.honest) :], each.plan
        group, others = each.honest[:size], each.honest[size:]
        rest = each.everybody - set(group)
        if len(rest) < plan.min_survivors or not others:
            continue
        padding = [name for name in (*corrupt, *others) if name not in group]
        active = frozenset([*group, *padding][: max(plan.min_survivors, size)])
        if not set(corrupt) <= active:
            continue
        stories = {name: Story(active, active) for name in group}
        stories |= {name: Story(each.everybody, rest) for name in others}
        coalition = tell_stories(stage, updates, stories, corrupt)
        assert not any(coalition.opens(name, updates) for name in group)
        assert set(group) <= coalition.refused.keys() or set(others) <= coalition.refused.keys()
