"""A5: the server puts corrupt clients around the victim.

On a random graph (Bell et al., CCS'20) a client shares its secrets with k neighbours. Who can choose them
chooses who holds the shares. The weakened copy takes the graph's seed from the server, which picks one that
puts corrupt clients on all k places around the victim; they hand over their shares, and its update is read.
Ours computes the whole graph from the root of all signed keys, and refuses other neighbours.

A root can be chosen too, a little: corrupt clients draw their keys last, and look at the graph of each draw.
So every draw costs an evaluation of scrypt, and the plan has paid for 2**grinding_bits of them beforehand.
Both are taken away here, with few security bits, so that the search takes a second and succeeds; with the
bits that the plan adds the same search finds nothing, and over many graphs the share of bad ones stays below
what the plan says.

Not covered: dedicated hardware that evaluates scrypt more cheaply than the plan assumes.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from protocols import Adversary, MaskedSum, Requirements
from protocols.masked import admission, joining
from protocols.masked.graph import Graph, graph_seed
from protocols.masked.keys import EpochKeys
from protocols.masked.messages import CohortKeys
from protocols.messages.schema import encode
from protocols.planning.planner import plan_masked
from protocols.planning.requirements import Plan
from secagg.standard import kdf
from secagg.standard.agreement import PrivateKey
from secagg.standard.merkle import Tree
from tests.attacks.stories import Story
from tests.attacks.views import Coalition, tell_stories
from tests.attacks.weakened import Stage, Vector, refused, request_of, updates_of

NAMES = "abcdefghijklmnopqrstuvwx"
VICTIM = "c"
CORRUPT = "klmn"
EASY = Requirements(
    adversary=Adversary.MALICIOUS,
    corrupt_fraction=0.2,
    dropout_fraction=0.0,
    security_bits=1,
    liveness_bits=1,
    grinding_bits=0,
)
PROTOCOL = MaskedSum(max_clients=24, requirements=EASY)
PLACES = frozenset(NAMES.index(name) for name in CORRUPT)


def corrupt_neighbours(graph: Graph, place: int) -> int:
    return len(PLACES.intersection(graph.neighbours(place)))


# A seed that the server chooses


def chosen_seed(degree: int) -> bytes:
    """The first of a row of seeds that puts corrupt clients on all places around the victim."""
    for number in range(1 << 17):
        seed = hashlib.sha256(number.to_bytes(4, "big")).digest()
        graph = Graph.harary(len(NAMES), degree=degree, seed=seed)
        if corrupt_neighbours(graph, NAMES.index(VICTIM)) == min(degree, len(CORRUPT)):
            return seed
    raise AssertionError("no seed isolates the victim")


def played() -> tuple[Coalition, dict[str, Vector]]:
    """An honest round; the corrupt clients hand over what they hold."""
    stage, updates = Stage(PROTOCOL, NAMES), updates_of(NAMES)
    everybody = frozenset(NAMES)
    honest = everybody - set(CORRUPT)
    stories = dict.fromkeys(sorted(honest), Story(everybody, everybody))
    return tell_stories(stage, updates, stories, CORRUPT), updates


def test_a_victim_among_corrupt_neighbours_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = PROTOCOL.plan(len(NAMES))
    assert plan.degree <= len(CORRUPT) == plan.corrupt
    seed = chosen_seed(plan.degree)
    for module in (joining, admission):
        monkeypatch.setattr(module, "graph_seed", lambda **_: seed)
    coalition, updates = played()
    assert VICTIM in coalition.round_secrets.keys() & coalition.seeds.keys()
    assert coalition.opens(VICTIM, updates)


def test_with_the_seed_of_all_keys_it_is_not() -> None:
    coalition, updates = played()
    assert VICTIM not in coalition.round_secrets
    assert not coalition.opens(VICTIM, updates)


def test_other_neighbours_than_the_graph_says_are_refused() -> None:
    """The right number of signed keys, but of clients that the server likes better."""
    stage = Stage(PROTOCOL, NAMES)
    outbox = stage.open(updates_of(NAMES), until=1)
    epoch = stage.view.epoch
    near = epoch.graph.neighbours(NAMES.index(VICTIM))
    request = request_of(CohortKeys, outbox[VICTIM])
    of = dict(zip(near, request.keys, strict=True))
    for place, liked in enumerate(NAMES):
        if place in near or liked == VICTIM:
            continue
        # Any neighbour of somebody's holds the keys of `liked`, as the server does.
        friend = epoch.graph.neighbours(place)[0]
        theirs = request_of(CohortKeys, outbox[NAMES[friend]]).keys
        stranger = theirs[epoch.graph.neighbours(friend).index(place)]
        spoilt = replace(request, keys=(stranger, *(of[each] for each in near[1:])))
        assert refused(stage.tell(VICTIM, stage.request(1, spoilt)))
        assert "not signed" in str(stage.clients[VICTIM].refusal)
    assert not refused(stage.tell(VICTIM, stage.request(1, request)))


def test_the_graph_is_bound_to_everything_that_was_agreed() -> None:
    """Another root, round, cohort or set of advertised clients draws another graph."""
    stage = Stage(PROTOCOL, NAMES)
    outbox = stage.open(updates_of(NAMES), until=1)
    epoch = stage.view.epoch
    root = request_of(CohortKeys, outbox[VICTIM]).root
    assert epoch.seed == graph_seed(root=root, context=epoch.digest)
    seeds = {epoch.seed, graph_seed(root=bytes(32), context=epoch.digest), graph_seed(root=root, context=b"")}
    assert len(seeds) == 3
    orders = {tuple(Graph.harary(24, degree=4, seed=seed).neighbours(0)) for seed in seeds}
    assert len(orders) > 1


def test_who_did_not_advertise_keeps_its_place() -> None:
    """Otherwise the server moved everybody by choosing who is left."""
    stage = Stage(
        MaskedSum(max_clients=24, requirements=replace(EASY, dropout_fraction=0.1, liveness_bits=4)), NAMES
    )
    stage.open(updates_of(NAMES), until=2, gone={"a": 0})
    epoch = stage.view.epoch
    assert epoch.graph.clients == len(NAMES)
    state: Any = stage.clients[VICTIM]._state
    assert state.view.epoch.graph.neighbours(2) == epoch.graph.neighbours(2)


# A root that is ground


def ground_roots(count: int) -> Iterator[bytes]:
    """Roots over real keys of which one corrupt client's differ from try to try."""
    stage = Stage(PROTOCOL, NAMES)
    outbox = stage.open(updates_of(NAMES), until=1)
    assert len(outbox) == len(NAMES)
    leaves = [encode(stage.clients[name]._state.mine) for name in NAMES]
    last = NAMES.index(CORRUPT[-1])
    mine = stage.clients[CORRUPT[-1]]._state.mine
    entropy = stage.entropy("grinding")
    for _ in range(count):
        key = PrivateKey(EpochKeys.draw(entropy).channel).public_key
        leaves[last] = encode(replace(mine, channel_key=key))
        yield Tree(leaves).root


def fast_seed(root: bytes) -> bytes:
    """The weakened copy's stretch: one SHA-256."""
    return hashlib.sha256(root).digest()


def isolating(plan: Plan, root: bytes, place: int) -> bool:
    graph = Graph.harary(len(NAMES), degree=plan.degree, seed=fast_seed(root))
    return corrupt_neighbours(graph, place) >= plan.threshold


TRIES = 1 << 11


def test_few_bits_and_a_fast_hash_are_ground_away() -> None:
    plan = plan_masked(len(NAMES), EASY, ring_bits=20)
    assert any(isolating(plan, root, NAMES.index(VICTIM)) for root in ground_roots(TRIES))


def test_the_bits_that_the_plan_adds_pay_for_the_tries() -> None:
    raised = plan_masked(len(NAMES), replace(EASY, grinding_bits=11), ring_bits=20)
    assert raised.security_failure <= 0.5  # of 2**11 graphs together
    assert not any(isolating(raised, root, NAMES.index(VICTIM)) for root in ground_roots(TRIES))


@pytest.mark.parametrize("bits", [0, 2, 4])
def test_bad_graphs_are_as_rare_as_the_plan_says(bits: int) -> None:
    """Somebody with t corrupt neighbours, over 2,000 graphs; the plan bounds all its tries together."""
    asked = replace(EASY, grinding_bits=bits)
    plan = plan_masked(len(NAMES), asked, ring_bits=20)
    bound = plan.security_failure / 2**bits
    graphs = 2000
    bad = 0
    for number in range(graphs):
        seed = hashlib.sha256(b"%d" % number).digest()
        graph = Graph.harary(len(NAMES), degree=plan.degree, seed=seed)
        honest = (place for place in range(len(NAMES)) if place not in PLACES)
        bad += any(corrupt_neighbours(graph, place) >= plan.threshold for place in honest)
    # Four standard deviations of a count whose mean is at most bound·graphs.
    assert bad <= bound * graphs + 4 * (bound * graphs) ** 0.5
    if bits == 0:
        assert bad > 0  # it can be seen at all


def test_every_try_costs_an_evaluation_of_scrypt(monkeypatch: pytest.MonkeyPatch) -> None:
    costs: list[tuple[int, int]] = []
    honest = kdf._scrypt

    def counted(data: bytes, *, salt: bytes, n: int, r: int, p: int, size: int) -> bytes:
        costs.append((n, r))
        return honest(data, salt=salt, n=n, r=r, p=p, size=size)

    monkeypatch.setattr(kdf, "_scrypt", counted)
    for number in range(3):
        graph_seed(root=bytes([number]) * 32, context=b"an epoch that nobody else uses")
    assert costs == [(2**14, 8)] * 3
