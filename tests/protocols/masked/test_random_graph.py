"""Rounds of MaskedSum on the random graph: thirty clients, of whom some vanish at every exchange.

The probabilities that the plan allows are large here, so that the degree is small; the seeds of these worlds
are fixed, and with them the graphs.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pytest

from protocols import Requirements, RoundAborted
from protocols.machine.client import Request
from protocols.masked.messages import AdvertiseKeys, CohortKeys
from protocols.messages.envelope import Envelope
from protocols.messages.schema import decode
from tests.protocols.conftest import FAMILIES, Family, World, assert_right, is_long, updates_of

NEVER = 99
Gone = Mapping[str, int]

RANDOM = Requirements(
    corrupt_fraction=0.05,
    dropout_fraction=0.2,
    min_contributors=2,
    security_bits=10,
    liveness_bits=5,
    grinding_bits=0,
)
MANY = [f"client {number:02}" for number in range(30)]


@dataclass
class Crowd:
    """Thirty clients on a random graph, and rounds in which some vanish."""

    masked: Family
    world: World = field(init=False)

    def __post_init__(self) -> None:
        protocol = self.masked(max_clients=40, requirements=RANDOM, bits=8)
        self.plan = protocol.plan(len(MANY))
        assert self.plan.degree < len(MANY) - 1
        self.world = World(protocol, MANY)
        self.last = len(protocol.exchanges(first=True)) - 1

    def play(self, cohort: Sequence[str], gone: Gone | None = None, *, length: int = 3) -> bool:
        """A round that ends well; whether it took the long path."""
        world, gone = self.world, gone or {}
        updates = updates_of(cohort, length, seed=world.number + 2)
        outcome = world.play(updates, gone=gone)
        contributors = frozenset(name for name in cohort if gone.get(name, NEVER) > 2)
        assert outcome.contributors == contributors
        assert set(outcome.dropped) == set(gone)
        assert_right(world.learn(outcome), world.protocol, updates, contributors)
        return is_long(world)

    def neighbours(self, client: str) -> list[str]:
        """Who a client's neighbours are, as it was told on the long path."""
        advertised = {
            bytes(Envelope.decode(sent.body).body): sent.client
            for sent in self.world.log
            if not sent.down and sent.exchange == 0
        }
        told = next(s for s in self.world.log if s.down and s.exchange == 1 and s.client == client)
        keys = decode(CohortKeys, decode(Request, Envelope.decode(told.body).body).body).keys
        by_keys = {decode(AdvertiseKeys, body): name for body, name in advertised.items()}
        return [by_keys[each] for each in keys]


@pytest.mark.slow
def test_a_random_graph_over_several_rounds(masked: Family) -> None:
    crowd = Crowd(masked)
    last = crowd.last
    assert crowd.play(MANY)
    graph = {name: crowd.neighbours(name) for name in MANY}
    assert {len(near) for near in graph.values()} == {crowd.plan.degree}
    assert all(name in graph[other] for name in MANY for other in graph[name])
    # Steady rounds, with one more lost at every exchange there is, until half of the losses are used up.
    left = list(MANY)
    for exchange in (2, 3, last):
        assert not crowd.play(left, {left[7]: exchange}, length=40)
        del left[7]
    assert len(left) == 27
    assert not crowd.play(left)
    assert crowd.play(left[1:])  # one fewer still: another graph, for 26
    assert crowd.play(MANY)


def test_drops_at_every_exchange_of_a_random_graph(masked: Family) -> None:
    crowd = Crowd(masked)
    exchanges = range(crowd.last + 1)
    gone = {MANY[3 + 4 * exchange]: exchange for exchange in exchanges}
    assert crowd.play(MANY, gone)
    assert crowd.play(MANY)


@pytest.mark.slow
def test_too_many_drops_on_a_random_graph(masked: Family) -> None:
    crowd = Crowd(masked)
    assert crowd.play(MANY)
    lost = len(MANY) - crowd.plan.min_survivors + 1
    for _ in range(2):
        with pytest.raises(RoundAborted, match="at least 24 are needed"):
            crowd.world.play(updates_of(MANY), gone=dict.fromkeys(MANY[:lost], 2))
    assert crowd.play(MANY)
    assert not crowd.play(MANY, dict.fromkeys(MANY[: lost - 4], 2))


@pytest.mark.parametrize("name", ["masked semi-honest", "masked malicious"])
def test_a_client_without_enough_neighbours_reveals_nothing(name: str) -> None:
    # All its losses hit one neighbourhood. Its vector is in the sum already; others reveal what is needed.
    crowd = Crowd(Family(name, FAMILIES[name]))
    crowd.play(MANY)
    lonely = MANY[11]
    lost = crowd.neighbours(lonely)[: crowd.plan.degree - crowd.plan.min_neighbours + 1]
    assert len(lost) <= len(MANY) - crowd.plan.min_survivors
    updates = updates_of(MANY)
    outcome = crowd.world.play(updates, gone=dict.fromkeys(lost, 2))
    assert not is_long(crowd.world)
    assert "neighbours survived" in outcome.dropped[lonely]
    assert outcome.contributors == frozenset(MANY) - set(lost)
    assert_right(crowd.world.learn(outcome), crowd.world.protocol, updates, outcome.contributors)
    left = [name for name in MANY if name not in outcome.dropped]
    crowd.play(left)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2])
def test_any_drops_on_a_random_graph(masked: Family, seed: int) -> None:
    # The sum is right or there is none, and a good round after that works.
    crowd = Crowd(masked)
    draws = np.random.default_rng(seed)
    assert crowd.play(MANY)
    last, ended = crowd.last, 0
    for number in range(4):
        cohort = [name for name in MANY if draws.random() > 0.03 * number]
        gone = {name: int(draws.integers(0, last + 1)) for name in cohort if draws.random() < 0.12}
        updates = updates_of(cohort, seed=number)
        try:
            outcome = crowd.world.play(updates, gone=gone)
        except RoundAborted:
            assert crowd.world.server.record().record.contributors == frozenset()
            continue
        ended += 1
        assert set(outcome.dropped) >= set(gone)
        assert_right(crowd.world.learn(outcome), crowd.world.protocol, updates, outcome.contributors)
    assert ended
    crowd.play(MANY)
    assert not crowd.play(MANY)
