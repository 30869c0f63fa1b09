"""A2 on a random graph: different stories where clients see their neighbours only.

Against SEMI_MALICIOUS a random graph promises a group of contributors to nobody. A single client is opened on
one here, and `Plan.exposure`, which says how likely that may be, is compared with how often an attack works.

Against MALICIOUS one story is signed by a quorum. That alone does not bind a client which signed nothing: it
may have been told of other active clients, and so made its masks with others than the quorum thinks. Its
neighbours see which story it signed with its vector. The weakened copy does not look.

Not covered: better attacks than the one that is tried; it shows that something can be opened, not that
something cannot.
"""

from collections.abc import Sequence, Set

import numpy as np
import pytest

from protocols import Adversary, MaskedSum, Requirements
from protocols.masked.graph import Graph
from protocols.planning.planner import plan_masked
from protocols.planning.requirements import Plan
from tests.attacks.stories import Story, rebuilt_from, smallest_opened, stories_against
from tests.attacks.views import Coalition, tell_stories
from tests.attacks.weakened import Stage, Vector, believe_all_stories, updates_of

NAMES = "abcdefghijklmnopqrstuvwx"


class Around:
    """The stories that open the first client of a random graph alone, if there are any.

    Some of its honest neighbours, those with the fewest corrupt friends, are inactive: nobody hears of them,
    as the holders of its self mask must have heard what it heard, and so on from neighbour to neighbour. The
    round secrets of all others are voted open by their neighbours. As many are inactive as makes that work.
    """

    def __init__(self, plan: Plan, graph: Graph, names: Sequence[str], *, corrupt: Set[str]) -> None:
        self.holders = {
            name: frozenset(names[place] for place in graph.neighbours(index))
            for index, name in enumerate(names)
        }
        self.needs = {
            name: max(plan.threshold - len(near & corrupt), 0)
            for name, near in self.holders.items()
            if name not in corrupt
        }
        victim = names[0]
        spare = min(plan.degree - plan.min_neighbours, plan.clients - plan.min_survivors)
        near = sorted(self.holders[victim] - corrupt, key=lambda name: (-self.needs[name], name))
        everybody = frozenset(names)
        found = (
            stories_against(
                everybody - set(near[:inactive]),
                unheard=set(near[:inactive]),
                opened=set(near[inactive:]),
                everybody=everybody,
                holders=self.holders,
                needs=self.needs,
                least=plan.min_survivors,
                least_neighbours=plan.min_neighbours,
            )
            for inactive in range(spare + 1)
        )
        self.stories = next((stories for stories in found if stories is not None), None)


def test_on_a_random_graph_one_client_is_opened_and_the_plan_says_so() -> None:
    """An honest negative result: 2m - n are sure on the complete graph, here a single client is opened.

    Its neighbours' neighbours are enough to have every pair mask around it opened, and each client sees only
    its own neighbours: nobody hears a story that is worse than the plan allows.
    """
    asked = Requirements(
        corrupt_fraction=0.0, dropout_fraction=0.25, security_bits=1, liveness_bits=1, grinding_bits=0
    )
    protocol = MaskedSum(max_clients=24, requirements=asked)
    plan, names = protocol.plan(24), NAMES
    assert plan.adversary is Adversary.SEMI_MALICIOUS
    assert plan.degree < 23
    assert 2 * plan.min_survivors - plan.clients >= 10
    stage, updates = Stage(protocol, names), updates_of(names)
    stage.open(updates, until=1)  # the graph is drawn from the clients' keys, so a round must begin for it
    around = Around(plan, stage.view.epoch.graph, names, corrupt=frozenset())
    assert around.stories is not None
    seeds, round_secrets = rebuilt_from(around.stories, needs=around.needs, holders=around.holders)
    found = smallest_opened(
        around.stories, seeds=seeds, round_secrets=round_secrets, neighbours=around.holders, most=1
    )
    assert found == (names[0],)
    stage = Stage(protocol, names)  # the same keys, and therefore the same graph
    coalition = tell_stories(stage, updates, around.stories, "")
    assert not coalition.refused
    assert coalition.opens(names[0], updates)
    # The plan promises this to nobody.
    assert plan.exposure == 1.0
    assert "not excluded" in str(plan)


@pytest.mark.parametrize(
    ("corrupt", "lost", "bits", "found"),
    [
        pytest.param(0.05, 0.02, 20, False, id="few corrupt"),
        pytest.param(0.2, 0.01, 1, True, id="many corrupt, a weak plan"),
    ],
)
def test_the_exposure_bounds_how_often_a_client_is_opened_alone(
    corrupt: float, lost: float, bits: int, found: bool
) -> None:
    """Over random graphs and corrupt clients; this search is one attack, so it may only find fewer."""
    asked = Requirements(
        corrupt_fraction=corrupt,
        dropout_fraction=lost,
        min_contributors=2,
        security_bits=bits,
        liveness_bits=1,
        grinding_bits=0,
    )
    n = 100
    plan = plan_masked(n, asked, ring_bits=20)
    assert plan.sure_contributors == 2  # so that the exposure speaks of a client that is opened alone
    names = [f"client {number:03}" for number in range(n)]
    assert plan.exposure < 0.7
    generator, graphs, opened = np.random.default_rng(3), 100, 0
    for _ in range(graphs):
        graph = Graph.harary(n, degree=plan.degree, seed=generator.bytes(32))
        places = generator.choice(np.arange(1, n), plan.corrupt, replace=False).tolist()
        around = Around(plan, graph, names, corrupt={names[place] for place in places})
        opened += around.stories is not None
    assert bool(opened) == found
    # Four standard deviations above the mean that the plan allows.
    assert opened <= graphs * plan.exposure + 4 * (graphs * plan.exposure * (1 - plan.exposure)) ** 0.5


# One story, signed by a quorum


def other_active_clients(n: int, *, steady: bool) -> tuple[Coalition, str, dict[str, Vector]]:
    """A random graph. One client alone hears that half of its neighbours never dealt shares.

    It masks with the other half only, and those vanish in the one story that all others sign. They open the
    round secrets of that half, and the neighbours of whom the victim never heard open its self mask.
    """
    protocol = MaskedSum(max_clients=n, requirements=Requirements(adversary=Adversary.MALICIOUS))
    names = [f"{place:02}" for place in range(n)]
    plan, victim = protocol.plan(n), names[0]
    assert plan.degree < n - 1
    stage, updates = Stage(protocol, names), updates_of(names)
    if steady:
        stage.play(updates)
        graph = stage.clients[victim]._state.view.epoch.graph
    else:
        stage.open(updates, until=1)
        graph = stage.view.epoch.graph
        stage = Stage(protocol, names)  # the same keys, and therefore the same graph
    near = [names[place] for place in graph.neighbours(0)]
    vanished, unheard = near[: plan.min_neighbours], near[plan.min_neighbours :]
    everybody = frozenset(names)
    told, signed = everybody - set(unheard), everybody - set(vanished)
    assert len(signed - {victim}) >= plan.quorum
    stories = {name: Story(everybody, signed) for name in signed} | {victim: Story(told, told)}
    stories |= {name: Story(everybody, everybody) for name in vanished}
    return tell_stories(stage, updates, dict(sorted(stories.items())), ""), victim, updates


@pytest.mark.parametrize("n", [20, 30])
@pytest.mark.parametrize("steady", [False, True])
def test_a_quorum_of_others_reads_a_client_whose_story_they_believe_to_be_theirs(
    monkeypatch: pytest.MonkeyPatch, steady: bool, n: int
) -> None:
    believe_all_stories(monkeypatch)
    coalition, victim, updates = other_active_clients(n, steady=steady)
    assert coalition.opens({victim}, updates)


@pytest.mark.parametrize("n", [20, 30])
@pytest.mark.parametrize("steady", [False, True])
def test_a_vector_for_other_active_clients_than_the_quorums_is_not_opened(steady: bool, n: int) -> None:
    """Who is joined to the victim sees that it signed another story, and reveals nothing."""
    coalition, victim, updates = other_active_clients(n, steady=steady)
    assert not coalition.opens({victim}, updates)
    assert not any(dealer == victim for dealer, _ in coalition.shares)
    assert any("did not sign this client's story" in why for why in coalition.refused.values())
