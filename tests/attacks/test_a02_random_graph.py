"""A2 on a random graph: different stories where clients see their neighbours only.

Against SEMI_MALICIOUS a random graph promises a group of contributors to nobody. A single client is opened on
one here, and `Plan.exposure`, which says how likely that may be, is compared with how often an attack works.

Against MALICIOUS one story is signed by a quorum. It has to bind the vectors too: a client that was told of
other active clients than the quorum made its masks with others than the quorum thinks.

Not covered: better attacks than the one that is tried; it shows that something can be opened, not that
something cannot.
"""

from collections.abc import Sequence, Set

import numpy as np
import pytest

from protocols import Adversary, MaskedSum, Requirements
from protocols.masked.graph import Graph
from protocols.planner import plan_masked
from protocols.requirements import Plan
from tests.attacks.views import Story, rebuilt_from, smallest_opened, stories_against, tell_stories
from tests.attacks.weakened import Stage, updates_of

NAMES = "abcdefghijklmnopqrstuvwx"


class Around:
    """The stories that open the first client of a random graph alone, if there are any.

    It never hears of as many honest neighbours as may be missing, of those with the fewest corrupt friends;
    the round secrets of all others are voted open by their neighbours.
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
        self.stories = stories_against(
            {victim},
            unheard=set(near[:spare]),
            opened=set(near[spare:]),
            everybody=frozenset(names),
            holders=self.holders,
            needs=self.needs,
            least=plan.min_survivors,
            least_neighbours=plan.min_neighbours,
        )


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
    ("n", "lost"),
    [pytest.param(100, 0.02, id="few may vanish"), pytest.param(200, 0.12, id="many may vanish")],
)
def test_the_exposure_bounds_how_often_a_client_is_opened_alone(n: int, lost: float) -> None:
    """Over random graphs and corrupt clients; this search is one attack, so it may only find fewer."""
    asked = Requirements(
        corrupt_fraction=0.05,
        dropout_fraction=lost,
        min_contributors=2,
        security_bits=20,
        liveness_bits=1,
        grinding_bits=0,
    )
    plan = plan_masked(n, asked, ring_bits=20)
    assert plan.sure_contributors == 2  # so that the exposure speaks of a client that is opened alone
    names = [f"client {number:03}" for number in range(n)]
    generator, graphs, opened = np.random.default_rng(1), 100, 0
    for _ in range(graphs):
        graph = Graph.harary(n, degree=plan.degree, seed=generator.bytes(32))
        corrupt = generator.choice(np.arange(1, n), plan.corrupt, replace=False)
        around = Around(plan, graph, names, corrupt={names[place] for place in corrupt.tolist()})
        opened += around.stories is not None
    # Four standard deviations above the mean that the plan allows.
    assert opened <= graphs * plan.exposure + 4 * (graphs * plan.exposure * (1 - plan.exposure)) ** 0.5


# One story, signed by a quorum


@pytest.mark.parametrize("steady", [False, True])
def test_a_vector_for_other_active_clients_than_the_quorums_is_not_opened(steady: bool) -> None:
    """A random graph. One client alone hears that half of its neighbours never dealt shares.

    It masks with the other half only, and those vanish in the one story that all others sign. They open the
    round secrets of that half, and the neighbours of whom the victim never heard open its self mask.
    """
    asked = Requirements(
        adversary=Adversary.MALICIOUS,
        corrupt_fraction=0.0,
        dropout_fraction=0.3,
        security_bits=10,
        liveness_bits=6,
        grinding_bits=0,
    )
    protocol, names = MaskedSum(max_clients=24, requirements=asked), NAMES
    plan = protocol.plan(24)
    assert plan.degree < 23
    stage, updates = Stage(protocol, names), updates_of(names)
    if steady:
        stage.play(updates)
        graph = stage.clients["a"]._state.view.epoch.graph
    else:
        stage.open(updates, until=1)
        graph = stage.view.epoch.graph
        stage = Stage(protocol, names)  # the same keys, and therefore the same graph
    near = [names[place] for place in graph.neighbours(0)]
    unheard, vanished = near[: len(near) // 2], near[len(near) // 2 :]
    everybody = frozenset(names)
    told, signed = everybody - set(unheard), everybody - set(vanished)
    stories = {name: Story(everybody, signed) for name in signed - {"a"}} | {"a": Story(told, told)}
    stories |= {name: Story(everybody, everybody) for name in vanished}
    coalition = tell_stories(stage, updates, dict(sorted(stories.items())), "")
    assert not coalition.opens("a", updates)
