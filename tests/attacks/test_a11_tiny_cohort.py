"""A11: a tiny cohort, or one in which all but one are corrupt: the sum is one client's update.

Four minima stand against it, and each client enforces them itself, whatever the server says: its policy, when
a cohort is announced and when survivors are named; its own plan; the policies of its neighbours, whose self
masks could be opened without their help; and on a random graph the number of neighbours that may be dropped,
without which a client could be cut out of the graph. Each weakened copy lacks one of them.

Not covered: more corrupt clients in a cohort than `corrupt_fraction` says; a policy that is too small for
what its owner believes; and on a random graph what `Plan.exposure` says of servers that split views (A2).
"""

from collections.abc import Mapping
from dataclasses import replace
from itertools import combinations
from typing import Any

import numpy as np
import pytest

from protocols import Adversary, MaskedSum, Policy, Requirements, RoundAborted
from protocols.masked import joining, revealing
from protocols.masked.client import MaskedClientSteps
from protocols.masked.epoch import Prepared
from protocols.masked.graph import SEED_BYTES, Graph
from protocols.masked.members import Members
from protocols.masked.messages import AdvertiseKeys, CohortKeys, PairKeyShare, ShareKeys, Unmask
from protocols.masked.server import MaskedServerSteps
from protocols.masked.server_states import Summing
from protocols.masked.states import View
from secagg.secret import Secret
from tests.attacks.unmasked import is_read, pair_secrets, rebuild, revealed, strip
from tests.attacks.weakened import Advertises, Stage, body_of, refused, request_of, updates_of

VICTIM = "c"
LONELY = MaskedSum(max_clients=8, requirements=Requirements(corrupt_fraction=0.0, min_contributors=2))


class TakesAnyCohort(MaskedClientSteps):
    """A client without a minimum of its own."""

    def react(self, context: Any, state: Any, request: Any) -> Any:
        return super().react(replace(context, min_contributors=2), state, request)


# The policy, when a cohort is announced


def test_without_a_minimum_one_accomplice_subtracts_itself() -> None:
    stage, data = Stage(LONELY, "cm", steps={VICTIM: TakesAnyCohort()}, policies=STRICT), updates_of("cm")
    total = stage.play(data).total
    assert total is not None
    assert np.abs(total.mean * 2 - data["m"] - data[VICTIM]).max() < 1e-3


STRICT = {VICTIM: Policy(min_contributors=4)}


@pytest.mark.parametrize("cohort", ["cm", "acm"])
def test_ours_refuses_the_cohort(cohort: str) -> None:
    stage = Stage(LONELY, "abcdm", policies=STRICT)
    outbox = stage.open(updates_of(cohort), until=0)
    assert refused(stage.tell(VICTIM, outbox[VICTIM]))
    assert "takes part among 4" in str(stage.clients[VICTIM].refusal)


def test_ours_takes_part_where_there_are_enough() -> None:
    assert Stage(LONELY, "abcm", policies=STRICT).play(updates_of("abcm")).contributors == frozenset("abcm")


# The client's own plan, when survivors are named

FIVE = "abcde"


def isolate(stage: Stage) -> dict[str, bytes]:
    """Everybody is told that only it and the victim are left: all others' pair masks come out."""
    stage.open(updates_of(FIVE), until=3)
    return {name: stage.tell(name, stage.request(3, stage.quorum(name, {name, VICTIM}))) for name in FIVE}


@pytest.fixture
def no_next_round(monkeypatch: pytest.MonkeyPatch) -> None:
    """Weakened clients are told of too few to deal to, so they deal nothing for a round that never comes."""
    nothing = ShareKeys(b"", b"", b"", b"", b"", bytes(32), bytes(32), bytes(64))
    prepared = Prepared(0, {}, Secret(b""), Secret(b""))
    monkeypatch.setattr(revealing, "deal_next", lambda *_, **__: (prepared, nothing))


@pytest.mark.usefixtures("no_next_round")
def test_without_a_least_number_of_survivors_everybody_helps_to_open_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(revealing, "require_enough", lambda *_: None)
    stage = Stage(MaskedSum(max_clients=8), FIVE)
    answers = {name: body_of(Unmask, answer) for name, answer in isolate(stage).items()}
    view = stage.summing
    seed = rebuild(view, VICTIM, first(view, revealed(view, answers, VICTIM)))
    pairs = {}
    for name in set(FIVE) - {VICTIM}:
        shares = revealed(view, answers, name, PairKeyShare)
        pairs[name] = pair_secrets(view, name, rebuild(view, name, first(view, shares)))[VICTIM]
    assert is_read(stage, strip(stage, VICTIM, seed=seed, pairs=pairs), updates_of(FIVE)[VICTIM])


def first(view: Any, shares: Mapping[str, bytes]) -> dict[str, bytes]:
    """As many shares as rebuild a secret."""
    assert len(shares) >= view.epoch.threshold
    return dict(sorted(shares.items())[: view.epoch.threshold])


def test_ours_reveals_nothing_to_so_few() -> None:
    stage = Stage(MaskedSum(max_clients=8), FIVE)
    assert all(refused(answer) for answer in isolate(stage).values())
    assert all("survived; 4 are needed" in str(client.refusal) for client in stage.clients.values())


@pytest.mark.slow
@pytest.mark.parametrize("adversary", list(Adversary))
def test_the_least_number_is_the_plans_own(adversary: Adversary) -> None:
    """Every number of survivors: one too few is refused, the least is enough."""
    names = "abcdefghij"
    protocol = MaskedSum(max_clients=10, requirements=Requirements(adversary=adversary))
    least = protocol.plan(len(names)).min_survivors
    for count in range(1, len(names) + 1):
        stage = Stage(protocol, names)
        stage.open(updates_of(names), until=3)
        request = stage.quorum("a", names[:count])
        kind = stage.protocol.suite.requests[3]
        answer = stage.tell(
            "a",
            stage.request(3, request if kind is type(request) else kind(request.survivors, request.model)),
        )
        assert refused(answer) == (count < least)


# The neighbours' policies


class ForgetsMinima(MaskedServerSteps):
    """A server that goes on with any survivors that the plan allows, whatever anybody asked for."""

    def close(self, context: Any, state: Any, present: frozenset[str]) -> Any:
        if isinstance(state, Summing):
            state = replace(state, minima=dict.fromkeys(state.minima, 0))
        return super().close(context, state, present)


def three_of_five() -> Stage:
    """The victim asks for five, two vanish, and the server does not care."""
    curious = Requirements(adversary=Adversary.SEMI_HONEST)
    protocol = MaskedSum(max_clients=8, requirements=curious)
    return Stage(protocol, FIVE, policies={VICTIM: Policy(min_contributors=5)}, server_steps=ForgetsMinima())


def test_holders_that_forget_a_neighbours_minimum_open_its_update_without_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(View, "least", lambda self, _: max(self.epoch.least, self.minima[self.me]))
    stage, data = three_of_five(), updates_of(FIVE)
    outcome = stage.play(data, gone=dict.fromkeys("de", 2))
    assert "5 are needed" in outcome.dropped[VICTIM]  # it refused, and was opened all the same
    assert outcome.contributors == frozenset("abc")
    assert outcome.total is not None
    assert np.abs(outcome.total.mean - np.mean([data[name] for name in "abc"], axis=0)).max() < 1e-4


def test_our_holders_keep_to_it() -> None:
    stage = three_of_five()
    with pytest.raises(RoundAborted):
        stage.play(updates_of(FIVE), gone=dict.fromkeys("de", 2))
    assert all("survived; 5 are needed" in str(stage.clients[name].refusal) for name in "abc")


def test_our_holders_keep_to_it_in_the_steady_state() -> None:
    stage = three_of_five()
    assert stage.play(updates_of(FIVE)).contributors == frozenset(FIVE)
    with pytest.raises(RoundAborted):
        stage.play(updates_of(FIVE), gone=dict.fromkeys("de", 2))
    assert all(wire.exchange >= 2 for wire in stage.wire)
    assert all("survived; 5 are needed" in str(stage.clients[name].refusal) for name in "abc")


def test_a_minimum_counts_only_while_its_owner_is_in_the_sum() -> None:
    """Otherwise one client could stop everybody by asking for all and vanishing."""
    stage = three_of_five()
    assert stage.play(updates_of(FIVE), gone={VICTIM: 2}).contributors == frozenset("abde")


class AsksForAnything(MaskedServerSteps):
    """A server that takes every minimum for possible."""

    def check(self, context: Any, state: Any, sender: str, reply: Any) -> Any:
        if isinstance(reply, AdvertiseKeys):
            return reply
        return super().check(context, state, sender, reply)


@pytest.mark.parametrize("server", [AsksForAnything(), None], ids=["weakened", "ours"])
def test_nobody_stops_a_round_by_asking_for_more_than_there_are(server: MaskedServerSteps | None) -> None:
    greedy = Advertises(lambda mine: replace(mine, minimum=len(FIVE) + 1))
    stage = Stage(MaskedSum(max_clients=8), FIVE, steps={"e": greedy}, server_steps=server)
    if server is not None:
        with pytest.raises(RoundAborted):
            stage.play(updates_of(FIVE))
        return
    outcome = stage.play(updates_of(FIVE))
    assert outcome.contributors == frozenset("abcd")
    assert "wants 6 contributors" in outcome.dropped["e"]


# Neighbours on a random graph

MANY = tuple(f"client {place:02d}" for place in range(28))
SPARSE = MaskedSum(
    max_clients=28,
    requirements=Requirements(
        corrupt_fraction=0.0, dropout_fraction=0.1, security_bits=10, liveness_bits=1, grinding_bits=0
    ),
)
"""4 neighbours each, of whom 3 must survive and 3 hold enough; 2 of the 28 may be lost."""


def stories(graph: Graph, victim: int, *, threshold: int, droppable: int) -> dict[int, set[int]] | None:
    """Whom each holder must hear to be dropped so that all pair masks of the victim come out.

    Each of the victim's neighbours needs `threshold` votes of its own neighbours, and nobody hears of more
    than `droppable`. None if there is no such assignment: all are tried.
    """
    wanted = graph.neighbours(victim)

    def assign(index: int, told: dict[int, set[int]]) -> dict[int, set[int]] | None:
        if index == len(wanted):
            return told
        for voters in combinations(graph.neighbours(wanted[index]), threshold):
            if any(len(told.get(voter, ())) >= droppable for voter in voters):
                continue
            more = {voter: told.get(voter, set()) | {wanted[index]} for voter in voters}
            if (found := assign(index + 1, {**told, **more})) is not None:
                return found
        return None

    return assign(0, {})


def cut_out(stage: Stage, victim: int, told: Mapping[int, set[int]]) -> dict[str, bytes]:
    """Each client's answer to its own story."""
    answers = {}
    for place, name in enumerate(MANY):
        survivors = [MANY[each] for each in range(28) if each not in told.get(place, ())]
        answers[name] = stage.tell(name, stage.request(3, stage.quorum(name, survivors)))
    return answers


@pytest.mark.usefixtures("no_next_round")
def test_without_the_cap_on_neighbours_one_client_is_cut_out() -> None:
    """The cap on all survivors still stands: nobody hears of more than two that dropped."""
    plan = SPARSE.plan(28)
    assert (plan.degree, plan.threshold, plan.min_survivors, plan.min_neighbours) == (4, 3, 26, 3)
    stage, data = Stage(SPARSE, MANY), updates_of(MANY)
    stage.open(data, until=3)
    epoch = stage.summing.epoch
    told = stories(epoch.graph, 0, threshold=plan.threshold, droppable=28 - plan.min_survivors)
    assert told is not None
    for name in MANY:  # the cap, and nothing else, is gone
        state: Any = stage.clients[name]._state
        loose = replace(state.view.epoch, least_neighbours=0)
        stage.clients[name]._state = replace(state, view=replace(state.view, epoch=loose))
    answers = {name: body_of(Unmask, answer) for name, answer in cut_out(stage, 0, told).items()}
    view, victim = stage.summing, MANY[0]
    seed = rebuild(view, victim, first(view, revealed(view, answers, victim)))
    pairs = {}
    for place in epoch.graph.neighbours(0):
        name = MANY[place]
        shares = first(view, revealed(view, answers, name, PairKeyShare))
        pairs[name] = pair_secrets(view, name, rebuild(view, name, shares))[victim]
    assert is_read(stage, strip(stage, victim, seed=seed, pairs=pairs), data[victim])


def test_with_the_cap_no_story_cuts_it_out() -> None:
    plan = SPARSE.plan(28)
    stage = Stage(SPARSE, MANY)
    stage.open(updates_of(MANY), until=3)
    graph = stage.summing.epoch.graph
    threshold, droppable = plan.threshold, plan.degree - plan.min_neighbours
    assert droppable < 28 - plan.min_survivors  # so it is this cap that binds
    for victim in range(28):
        assert stories(graph, victim, threshold=threshold, droppable=droppable) is None
    told = stories(graph, 0, threshold=threshold, droppable=28 - plan.min_survivors)
    assert told is not None
    answers = cut_out(stage, 0, told)
    heard = {MANY[place]: len(dropped & set(graph.neighbours(place))) for place, dropped in told.items()}
    assert {name for name, answer in answers.items() if refused(answer)} == {
        name for name, count in heard.items() if count > droppable
    }
    assert any("neighbours survived" in str(client.refusal) for client in stage.clients.values())


def few_neighbours(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> bytes:
    """The server says that two of one client's four neighbours never advertised keys."""
    monkeypatch.setattr(joining, "graph_seed", lambda **_: bytes(SEED_BYTES))  # the test must know the graph
    request = request_of(CohortKeys, stage.open(updates_of(MANY), until=1)[MANY[0]])
    advertised = stage.answers(0, AdvertiseKeys)
    near = Graph.harary(28, degree=4, seed=bytes(SEED_BYTES)).neighbours(0)
    there = [name for place, name in enumerate(MANY) if place not in near[:2]]
    keys = tuple(advertised[MANY[place]] for place in near[2:])
    bitmap = Members(MANY).bitmap(there)
    return stage.tell(MANY[0], stage.request(1, replace(request, advertised=bitmap, keys=keys)))


def test_without_the_cap_a_client_deals_to_what_neighbours_are_left(monkeypatch: pytest.MonkeyPatch) -> None:
    planned = joining._plan

    def loose(context: Any, n: int) -> Any:
        return replace(planned(context, n), min_neighbours=0, threshold=2)  # no more than are left to deal to

    monkeypatch.setattr(joining, "_plan", loose)
    assert not refused(few_neighbours(Stage(SPARSE, MANY), monkeypatch))


def test_with_the_cap_it_deals_to_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    stage = Stage(SPARSE, MANY)
    assert refused(few_neighbours(stage, monkeypatch))
    assert "2 neighbours are left; 3 are needed" in str(stage.clients[MANY[0]].refusal)
