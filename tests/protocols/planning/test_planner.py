"""The planner: published parameters, definitions searched in fractions, and attacks that are counted."""

import math
import re
from collections.abc import Collection, Iterator
from dataclasses import replace
from fractions import Fraction
from itertools import combinations, product
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from protocols import Adversary, MaskedSum, ParameterError, Plan, Requirements
from protocols.planning.planner import (
    _exposure,
    _first_degree,
    _log_cut,
    _weigh,
    graph_parameters,
    plan_masked,
)

SEMI_HONEST, SEMI_MALICIOUS, MALICIOUS = Adversary
HUNDREDTHS = st.integers(0, 99).map(lambda hundredths: hundredths / 100)


def plan_of(n: int, adversary: Adversary, corrupt: float, dropout: float, **others: Any) -> Plan:
    requirements = Requirements(
        adversary=adversary, corrupt_fraction=corrupt, dropout_fraction=dropout, **others
    )
    return plan_masked(n, requirements, ring_bits=20)


# Published with Google's federated compute platform, or computed by its rule, at sigma = 40 and eta = 20.
SIZES = (100, 1_000, 10_000, 100_000, 1_000_000)
TABLE = {
    (SEMI_HONEST, 0.05, 0.05): ((12, 6), (30, 17), (34, 20), (36, 21), (38, 22)),
    (SEMI_MALICIOUS, 0.05, 0.05): ((16, 11), (52, 37), (62, 44), (68, 48), (74, 52)),
    (SEMI_HONEST, 0.33, 0.05): ((34, 29), (78, 60), (92, 70), (102, 77), (110, 83)),
    (SEMI_MALICIOUS, 0.33, 0.05): ((42, 37), (132, 109), (178, 146), (196, 160), (212, 173)),
}
VECTORS = [
    (n, *setting, expected) for setting, row in TABLE.items() for n, expected in zip(SIZES, row, strict=True)
] + [
    (500, SEMI_HONEST, 0.2, 0.3, (120, 57)),
    (1_000, SEMI_HONEST, 0.2, 0.3, (140, 67)),
    (500, SEMI_MALICIOUS, 0.2, 0.05, (76, 60)),
    (1_000, SEMI_MALICIOUS, 0.2, 0.05, (90, 71)),
    (500, SEMI_MALICIOUS, 0.2, 0.1, (116, 86)),
    (1_000, SEMI_MALICIOUS, 0.2, 0.1, (140, 104)),
]


@pytest.mark.parametrize(("n", "adversary", "corrupt", "dropout", "expected"), VECTORS)
def test_published_degrees_and_thresholds(
    n: int, adversary: Adversary, corrupt: float, dropout: float, expected: tuple[int, int]
) -> None:
    plan = plan_of(n, adversary, corrupt, dropout, grinding_bits=0)
    assert (plan.degree, plan.threshold) == expected
    assert plan.min_survivors == n - math.floor(Fraction(str(dropout)) * n)
    assert plan.corrupt == math.floor(Fraction(str(corrupt)) * n)
    assert (plan.clients, plan.adversary, plan.ring_bits, plan.quorum) == (n, adversary, 20, 0)
    assert 0 <= plan.security_failure <= 2.0**-40
    assert 0 <= plan.liveness_failure <= 2.0**-20


def test_a_dense_random_graph_gives_way_to_the_complete_one() -> None:
    """Published for these settings: (642, 409); only the complete graph is sure against split views."""
    requirements = Requirements(
        adversary=SEMI_MALICIOUS, grinding_bits=0, corrupt_fraction=0.2, dropout_fraction=0.3
    )
    assert graph_parameters(1_000, requirements) == (642, 409)
    plan = plan_masked(1_000, requirements, ring_bits=20)
    assert (plan.degree, plan.threshold, plan.min_survivors, plan.exposure) == (999, 601, 601, 0.0)
    assert plan.sure_contributors == 2 * 601 - 1_000


# The complete graph.


@pytest.mark.parametrize(
    ("adversary", "corrupt", "least", "expected"),
    # (threshold, survivors, sure, quorum). One may drop out where nobody lies and nobody is corrupt.
    [
        (SEMI_HONEST, 0.0, 3, (2, 3, 3, 0)),
        (SEMI_HONEST, 0.0, 2, (2, 2, 2, 0)),
        (SEMI_HONEST, 0.2, 2, (2, 3, 3, 0)),
        (SEMI_MALICIOUS, 0.0, 3, (2, 3, 3, 0)),
        (SEMI_MALICIOUS, 0.0, 2, (2, 3, 3, 0)),
        (SEMI_MALICIOUS, 0.2, 3, (3, 3, 3, 0)),
        (MALICIOUS, 0.0, 2, (2, 2, 2, 2)),
        (MALICIOUS, 0.0, 3, (2, 3, 3, 2)),
        (MALICIOUS, 0.2, 3, (2, 3, 3, 3)),
    ],
)
def test_three_clients(
    adversary: Adversary, corrupt: float, least: int, expected: tuple[int, int, int, int]
) -> None:
    plan = plan_of(3, adversary, corrupt, 0.3, min_contributors=least)
    assert (plan.threshold, plan.min_survivors, plan.sure_contributors, plan.quorum) == expected
    assert (plan.degree, plan.min_neighbours) == (2, plan.min_survivors - 1)
    assert plan.liveness_failure == float(plan.min_survivors == 3)


@pytest.mark.parametrize("adversary", Adversary)
@pytest.mark.parametrize("corrupt", [0.0, 0.5])
def test_two_clients_who_typed_it(adversary: Adversary, corrupt: float) -> None:
    plan = plan_of(2, adversary, corrupt, 0.0, min_contributors=2)
    assert (plan.threshold, plan.min_survivors, plan.sure_contributors) == (2, 2, 2)
    with pytest.raises(ParameterError, match="a cohort of 2, min_contributors is 3"):
        plan_of(2, adversary, corrupt, 0.0)
    with pytest.raises(ParameterError, match=r"2 of 2 clients .* lower corrupt_fraction to at most 0\.50"):
        plan_of(2, adversary, 0.51, 0.0, min_contributors=2)


def opened_contributors(n: int, pooled: int, threshold: int, survivors: int, *, splits: bool) -> int:
    """The fewest contributors, corrupt ones counted, that a server can open.

    One that splits views takes off any number x of honest clients as long as each gets t - c votes, and no
    honest client votes on more than n - m.
    """
    if not splits:
        return survivors
    honest, most = n - pooled, n - survivors
    enough = [x for x in range(honest + 1) if x * (threshold - pooled) <= honest * min(most, x)]
    return n - max(enough)


@given(
    n=st.integers(3, 19),
    adversary=st.sampled_from(Adversary),
    corrupt=HUNDREDTHS,
    dropout=HUNDREDTHS,
    least=st.integers(2, 6),
)
def test_small_cohorts_have_the_smallest_numbers_that_are_safe(
    n: int, adversary: Adversary, corrupt: float, dropout: float, least: int
) -> None:
    pooled = math.ceil(Fraction(str(corrupt)) * n)
    vanished = math.ceil(Fraction(str(dropout)) * n)
    splits, signs = adversary is SEMI_MALICIOUS, adversary is MALICIOUS
    asked = max(least, pooled + 2)
    # Out of the reach of those who pool; with two stories, not twice within n holders.
    threshold = min(
        t for t in range(2, 2 * n) if t > pooled and not (splits and 2 * (t - pooled) <= n - pooled)
    )
    quorum = min(q for q in range(2 * n) if 2 * (q - pooled) > n - pooled) if signs else 0
    safe = [
        m for m in range(max(asked, quorum), n + 1) if not splits or (m >= threshold and 2 * m - n >= asked)
    ]
    refused = splits and least > 3 and n - 2 * vanished < least
    if n < least or not safe or max(threshold, quorum) > n or refused:
        with pytest.raises(ParameterError):
            plan_of(n, adversary, corrupt, dropout, min_contributors=least)
        return
    plan = plan_of(n, adversary, corrupt, dropout, min_contributors=least)
    assert (plan.threshold, plan.min_survivors, plan.quorum) == (threshold, safe[0], quorum)
    assert (plan.degree, plan.min_neighbours, plan.corrupt) == (n - 1, safe[0] - 1, pooled)
    assert (plan.security_failure, plan.exposure) == (0.0, 0.0)
    assert plan.liveness_failure == float(n - vanished < safe[0])
    assert plan.threshold <= plan.min_survivors, "whoever is left can unmask"
    opened = opened_contributors(n, pooled, threshold, safe[0], splits=splits)
    assert opened >= plan.sure_contributors >= least
    assert plan.sure_contributors - pooled >= 2, "two honest ones"
    assert 2 <= plan.sure_honest <= opened - pooled


@pytest.mark.parametrize("n", range(2, 9))
@pytest.mark.parametrize("adversary", [SEMI_HONEST, MALICIOUS])
@pytest.mark.parametrize("corrupt", [0.0, 0.2, 0.33])
def test_no_sum_of_one_story_has_fewer_honest_contributors(
    n: int, adversary: Adversary, corrupt: float
) -> None:
    """Every set of survivors that the clients open and every set of corrupt ones; split views are A2's."""
    plan = plan_of(n, adversary, corrupt, 0.0, min_contributors=2)
    everybody = range(n)
    found = min(
        size - sum(place in pooled for place in left)
        for size in range(plan.min_survivors, n + 1)
        for left in combinations(everybody, size)
        for pooled in combinations(everybody, plan.corrupt)
    )
    assert plan.sure_honest == found
    assert found >= 2 or (n, found) == (2, 1), "of two, one may be corrupt"


def test_a_larger_group_of_honest_contributors_is_bought() -> None:
    """On a random graph an arc is sure and no more: what is asked for beyond the threshold is honest."""
    few = plan_of(500, MALICIOUS, 0.2, 0.3)
    many = plan_of(500, MALICIOUS, 0.2, 0.3, min_contributors=100)
    assert (few.degree, few.sure_honest) == (150, 2)
    assert few.sure_contributors - few.corrupt < 0, "all corrupt clients cannot be in the arc"
    assert many.sure_honest == 100 - many.corrupt_neighbours == 16
    assert plan_of(500, SEMI_HONEST, 0.2, 0.3).sure_honest == 350 - 100
    splits = plan_of(500, SEMI_MALICIOUS, 0.2, 0.05)
    assert (splits.degree < 499, splits.sure_honest) == (True, 0)
    assert plan_of(500, SEMI_MALICIOUS, 0.2, 0.3).sure_honest == 2  # the complete graph


def test_fewer_survivors_would_let_a_lying_server_read_one_client() -> None:
    """The weakened copy of A2: with the semi-honest number of survivors a split view opens too few."""
    plan = plan_of(12, SEMI_MALICIOUS, 0.2, 0.0)
    weak = plan_of(12, SEMI_HONEST, 0.2, 0.0).min_survivors
    assert opened_contributors(12, plan.corrupt, plan.threshold, plan.min_survivors, splits=True) >= 5
    assert opened_contributors(12, plan.corrupt, plan.threshold, weak, splits=True) - plan.corrupt < 2


@pytest.mark.parametrize("adversary", Adversary)
def test_grinding_costs_nothing_where_nothing_is_drawn(adversary: Adversary) -> None:
    assert plan_of(10, adversary, 0.2, 0.3, grinding_bits=0) == plan_of(
        10, adversary, 0.2, 0.3, grinding_bits=128
    )


def test_cohorts_that_no_random_graph_fits_take_the_complete_one() -> None:
    plan = plan_of(20, SEMI_MALICIOUS, 0.2, 0.35)
    assert (plan.degree, plan.threshold, plan.min_survivors, plan.corrupt) == (19, 13, 13, 4)
    assert (plan.security_failure, plan.liveness_failure, plan.exposure) == (0.0, 0.0, 0.0)
    assert plan.sure_contributors == 6
    assert plan_of(19, SEMI_HONEST, 0.0, 0.0).degree == 18
    assert plan_of(20, SEMI_HONEST, 0.0, 0.0).degree == 2


# The random graph.


def exact_tails(n: int, marked: int, drawn: int) -> list[Fraction]:
    """Pr[X >= x] of Hypergeom(n, marked, drawn) for x from 0 to drawn + 1."""
    ways = [math.comb(marked, x) * math.comb(n - marked, drawn - x) for x in range(drawn + 1)]
    return [Fraction(sum(ways[x:]), math.comb(n, drawn)) for x in range(drawn + 2)]


def slow_rule(
    n: int, adversary: Adversary, corrupt: int, lost: int, bits: tuple[int, int], least: int
) -> Iterator[tuple[bool, int, int, int, Fraction, Fraction]]:
    """The published rule: (passes, k, t, t2, (a) + (b), (c)) of every even k, in fractions."""
    security, liveness = Fraction(1, 2 ** (bits[0] + 1)), Fraction(1, 2 ** bits[1])
    b = corrupt + lost
    for k in range(2, n - 1, 2):
        cut = Fraction(n * (n - k - 1), 2) * Fraction(math.comb(b, k), math.comb(n, k))
        bad, left = exact_tails(n, corrupt, k), exact_tails(n, n - lost, k)
        support = range(max(0, k - n + corrupt), min(k, corrupt) + 1)
        t1 = min(x for x in support if n * bad[x + 1] <= security)
        t2 = max(x for x in range(k + 1) if n * (1 - left[x]) <= liveness)
        assume(cut != security)
        assume(all(n * tail != security for tail in bad))
        assume(all(n * (1 - tail) != liveness for tail in left))
        reach = math.ceil((t1 + k - Fraction(5, 4)) / 2) if adversary is SEMI_MALICIOUS else t1
        enough = t2 >= max(reach + 1, 2) and not (adversary is MALICIOUS and t2 + 1 < least)
        passes = cut < security and b < n and enough
        yield passes, k, max(reach + 1, 2), t2, cut + n * bad[t1 + 1], n * (1 - left[t2])


@settings(deadline=None)
@given(
    n=st.integers(20, 60),
    adversary=st.sampled_from(Adversary),
    corrupt=st.integers(0, 40).map(lambda part: part / 100),
    dropout=st.integers(0, 40).map(lambda part: part / 100),
    bits=st.tuples(st.integers(1, 24), st.integers(1, 12), st.integers(0, 12)),
    least=st.integers(2, 10),
)
def test_the_first_degree_that_passes_in_exact_arithmetic(
    n: int, adversary: Adversary, corrupt: float, dropout: float, bits: tuple[int, int, int], least: int
) -> None:
    pooled, vanished = (math.floor(Fraction(str(part)) * n) for part in (corrupt, dropout))
    security, liveness, grinding = bits
    tries = 0 if adversary is SEMI_HONEST else grinding
    rule = slow_rule(n, adversary, pooled, vanished, (security + tries, liveness), least)
    first = next((row for row in rule if row[0]), None)
    sure = n - 2 * vanished if adversary is SEMI_MALICIOUS else n - vanished
    quorum = (n + pooled) // 2 + 1 if adversary is MALICIOUS else 0
    assume(first is not None)
    assert first is not None
    asked: dict[str, Any] = {
        "security_bits": security,
        "liveness_bits": liveness,
        "grinding_bits": grinding,
        "min_contributors": least,
    }
    if least > sure or quorum > n - vanished:
        with pytest.raises(ParameterError, match="may vanish"):
            plan_of(n, adversary, corrupt, dropout, **asked)
        return
    plan = plan_of(n, adversary, corrupt, dropout, **asked)
    _, k, t, left, failure, starved = first
    if adversary is SEMI_MALICIOUS and 2 * k > n and plan.degree == n - 1:
        asked |= {"adversary": adversary, "corrupt_fraction": corrupt, "dropout_fraction": dropout}
        assert graph_parameters(n, Requirements(**asked)) == (k, t)
        assert (plan.liveness_failure, plan.exposure) == (0.0, 0.0)
        return
    assert (plan.degree, plan.threshold, plan.min_neighbours) == (k, t, left)
    assert (plan.min_survivors, plan.corrupt, plan.quorum) == (n - vanished, pooled, quorum)
    assert plan.security_failure == pytest.approx(float(failure * 2**tries), rel=1e-9, abs=0)
    assert plan.liveness_failure == pytest.approx(float(starved), rel=1e-9, abs=0)
    assert plan.threshold <= plan.min_neighbours
    expected = {SEMI_HONEST: n - vanished, SEMI_MALICIOUS: least, MALICIOUS: left + 1}[adversary]
    assert plan.sure_contributors == expected >= least
    honest = {SEMI_HONEST: n - vanished - pooled, SEMI_MALICIOUS: 0, MALICIOUS: left + 1 - (t - 1)}[adversary]
    # Where nobody may be corrupt the threshold is 2 all the same.
    assert plan.sure_honest == honest + (adversary is MALICIOUS and plan.corrupt_neighbours == 0)


@settings(deadline=None)
@given(
    n=st.integers(20, 2**20),
    adversary=st.sampled_from(Adversary),
    corrupt=st.integers(0, 45).map(lambda part: part / 100),
    dropout=st.integers(0, 30).map(lambda part: part / 100),
    security=st.integers(1, 256),
    liveness=st.integers(1, 64),
    grinding=st.integers(0, 128),
)
def test_a_plan_keeps_what_was_asked(
    n: int,
    adversary: Adversary,
    corrupt: float,
    dropout: float,
    security: int,
    liveness: int,
    grinding: int,
) -> None:
    try:
        plan = plan_of(
            n,
            adversary,
            corrupt,
            dropout,
            security_bits=security,
            liveness_bits=liveness,
            grinding_bits=grinding,
        )
    except ParameterError:
        assume(False)
    assert 0 <= plan.security_failure <= 2.0**-security
    assert 0 <= plan.liveness_failure <= 2.0**-liveness
    assert 2 <= plan.threshold <= max(plan.min_neighbours, plan.min_survivors * (plan.degree == n - 1))
    assert plan.threshold > plan.corrupt * plan.degree // n, (
        "not in the reach of an average client's neighbours"
    )
    assert plan.degree == n - 1 or (plan.degree % 2 == 0 and plan.degree < n - 1)
    assert plan.sure_contributors >= 3
    assert plan.min_survivors >= plan.quorum
    assert 0.0 <= plan.exposure <= 1.0
    if adversary is not SEMI_MALICIOUS or plan.degree == n - 1:
        assert plan.exposure == 0.0


def degree_of(n: int, **asked: Any) -> int:
    """The degree of the random graph, or the complete graph's where no other passes."""
    found = graph_parameters(n, Requirements(**asked))
    return n - 1 if found is None else found[0]


@settings(deadline=None)
@given(
    n=st.integers(20, 20_000),
    corrupt=st.integers(0, 40),
    dropout=st.integers(0, 30),
    bits=st.tuples(st.integers(1, 100), st.integers(1, 40), st.integers(0, 60)),
    adversary=st.sampled_from(Adversary),
    more=st.integers(1, 20),
)
def test_who_asks_for_more_gets_no_smaller_degree(
    n: int,
    corrupt: int,
    dropout: int,
    bits: tuple[int, int, int],
    adversary: Adversary,
    more: int,
) -> None:
    asked = {
        "adversary": adversary,
        "corrupt_fraction": corrupt / 100,
        "dropout_fraction": dropout / 100,
        "security_bits": bits[0],
        "liveness_bits": bits[1],
        "grinding_bits": bits[2],
    }
    least = degree_of(n, **asked)
    for harder in (
        {"corrupt_fraction": (corrupt + more) / 100},
        {"dropout_fraction": (dropout + more) / 100},
        {"security_bits": bits[0] + more},
        {"liveness_bits": bits[1] + more},
        {"grinding_bits": bits[2] + more},
    ):
        assert degree_of(n, **(asked | harder)) >= least
    assert degree_of(n, **(asked | {"adversary": SEMI_HONEST})) <= least


@settings(deadline=None, max_examples=40)
@given(
    n=st.integers(20, 3_000),
    corrupt=st.integers(0, 40),
    dropout=st.integers(0, 40),
    security=st.integers(1, 100),
    adversary=st.sampled_from(Adversary),
    least=st.integers(2, 200),
)
def test_no_degree_that_passes_is_jumped_over(
    n: int, corrupt: int, dropout: int, security: int, adversary: Adversary, least: int
) -> None:
    requirements = Requirements(
        adversary=adversary,
        corrupt_fraction=corrupt / 100,
        dropout_fraction=dropout / 100,
        security_bits=security,
        min_contributors=least,
    )
    tries = 0 if adversary is SEMI_HONEST else requirements.grinding_bits
    b = n * corrupt // 100 + n * dropout // 100
    passing = (
        degree
        for degree in range(2, n - 1, 2)
        if b < n
        and _log_cut(n, b, degree) < -(security + tries + 1) * math.log(2)
        and _weigh(n, n, requirements, degree).missing <= 0
    )
    first, found = next(passing, None), _first_degree(n, n, requirements)
    assert (found and found.degree) == first


def test_grinding_is_paid_for_by_whoever_does_not_follow_the_protocol() -> None:
    """80 bits of which an adversary tries 40 away are 40 bits: the same graph, another promise."""
    for adversary in (SEMI_MALICIOUS, MALICIOUS):
        ground = plan_of(1_000, adversary, 0.05, 0.05, security_bits=40, grinding_bits=40)
        given_away = plan_of(1_000, adversary, 0.05, 0.05, security_bits=80, grinding_bits=0)
        assert (ground.degree, ground.threshold) == (given_away.degree, given_away.threshold)
        assert ground.security_failure == given_away.security_failure * 2.0**40
    curious = [plan_of(1_000, SEMI_HONEST, 0.05, 0.05, grinding_bits=bits) for bits in (0, 128)]
    assert curious[0] == curious[1]


def test_without_corrupt_clients_two_neighbours_are_left_to_unmask_with() -> None:
    """One of 20 may vanish and nobody is corrupt: k = 2 would pass with t1 = 0, t2 = 1, but t is 2."""
    plan = plan_of(20, SEMI_HONEST, 0.0, 0.05)
    assert (plan.degree, plan.threshold, plan.min_neighbours) == (4, 2, 3)


def test_many_contributors_under_one_story_take_a_larger_degree() -> None:
    few = plan_of(2_000, MALICIOUS, 0.1, 0.1)
    many = plan_of(2_000, MALICIOUS, 0.1, 0.1, min_contributors=300)
    assert few.sure_contributors < 300 <= many.sure_contributors
    assert many.degree > few.degree
    assert many.quorum == (2_000 + 200) // 2 + 1


@pytest.mark.parametrize(("n", "degree"), [(10, 2), (11, 4), (12, 4)])
def test_the_chance_of_a_cut_circle_is_below_its_bound(n: int, degree: int) -> None:
    """Every set of lost clients on a small circle: how many leave the others in two parts."""

    def falls_apart(lost: set[int]) -> bool:
        left = set(range(n)) - lost
        reached, border = set(), {min(left)}
        while border:
            reached |= border
            steps = [step for half in range(1, degree // 2 + 1) for step in (half, -half)]
            border = {(place + step) % n for place in border for step in steps} & left - reached
        return reached != left

    tight = False
    for lost in range(2, n - 1):
        sets = list(combinations(range(n), lost))
        chance = sum(falls_apart(set(each)) for each in sets) / len(sets)
        bound = math.exp(_log_cut(n, lost, degree))
        assert chance <= bound * (1 + 1e-12)
        tight |= 0 < bound < 2 * chance
    assert tight, "a bound far above the truth would pass, too"


# What a lying server can do on the random graph.


def votes_suffice(
    n: int,
    degree: int,
    threshold: int,
    droppable: int,
    corrupt: set[int],
    drop: set[int],
    *,
    silent: Collection[int] = (),
) -> bool:
    """Whether all of `drop` get t votes: from each corrupt neighbour, and from honest ones with D votes each.

    Augmenting paths, as for matchings. Who is in `silent` has no vote.
    """
    voted: dict[int, set[int]] = {place: set() for place in range(n)}
    steps = [step for half in range(1, degree // 2 + 1) for step in (half, -half)]

    def place_vote(dropped: int, tried: set[int]) -> bool:
        for holder in ((dropped + step) % n for step in steps):
            if holder in corrupt or holder in silent or holder in tried or dropped in voted[holder]:
                continue
            tried.add(holder)
            if len(voted[holder]) < droppable:
                voted[holder].add(dropped)
                return True
            for other in list(voted[holder]):
                if place_vote(other, tried):
                    voted[holder] ^= {other, dropped}
                    return True
        return False

    return all(
        place_vote(dropped, set())
        for dropped in sorted(drop)
        for _ in range(threshold - sum((dropped + step) % n in corrupt for step in steps))
    )


def singled_out(n: int, corrupt: int, degree: int, threshold: int, droppable: int, group: int) -> float:
    """The share of all sets of corrupt clients with which client 0 is left with fewer than `group` others.

    Those and D more of its honest neighbours need no votes: the D are inactive, which uses up its own votes.
    It is granted that this costs nobody else a vote, which is more than a server has.
    """
    near = [place for half in range(1, degree // 2 + 1) for place in (half, n - half)]
    found = total = 0
    for chosen in combinations(range(1, n), corrupt):
        honest = {place for place in near if place not in chosen}
        spared = combinations(sorted(honest), min(group - 1 + droppable, len(honest)))
        total += 1
        found += any(
            votes_suffice(n, degree, threshold, droppable, set(chosen), honest - set(others), silent=(0,))
            for others in spared
        )
    return found / total


@pytest.mark.parametrize(("n", "degree", "corrupt"), [(14, 6, 3), (16, 8, 2), (16, 6, 0), (11, 8, 0)])
def test_exposure_is_above_every_attack_that_is_counted(n: int, degree: int, corrupt: int) -> None:
    partly = 0
    for threshold, droppable, group in product(range(degree // 2 + 1, degree + 1), range(1, 4), (1, 2)):
        numbers = {"corrupt": corrupt, "degree": degree, "threshold": threshold, "droppable": droppable}
        chance = singled_out(n, group=group, **numbers)
        bound = _exposure(n, group=group, **numbers)
        assert chance <= bound, numbers
        partly += chance > 0 and bound < 1
    assert partly or not corrupt, "an exposure of 1.0 everywhere would pass, too"


@pytest.mark.parametrize(
    ("droppable", "threshold", "opened"), [(1, 2, True), (1, 3, False), (2, 4, True), (2, 6, False)]
)
def test_without_corrupt_clients_exposure_is_a_matter_of_counting(
    droppable: int, threshold: int, opened: bool
) -> None:
    """k = 6: D neighbours are inactive, the others need t(6 - D) votes. Places at a distance of 1 to 6 have
    4, 3, 2, 3, 2 and 1 of the neighbours as theirs: 6 votes on each side with D = 1, and 11 with D = 2.
    """
    numbers = {"corrupt": 0, "degree": 6, "threshold": threshold, "droppable": droppable}
    assert _exposure(50, group=1, **numbers) == float(opened)
    near = {1, 2, 3, 47, 48, 49}
    found = (
        votes_suffice(50, 6, threshold, droppable, set(), near - set(inactive), silent=(0,))
        for inactive in combinations(sorted(near), droppable)
    )
    assert any(found) == opened


def test_exposure_grows_with_what_is_asked_for_and_what_is_tried() -> None:
    setting = (1_000, SEMI_MALICIOUS, 0.05, 0.01)
    alone, among_few, among_many = (
        plan_of(*setting, security_bits=80, grinding_bits=0, min_contributors=least) for least in (2, 3, 10)
    )
    assert alone.degree == among_few.degree == among_many.degree
    assert 0 < alone.exposure < among_few.exposure < 2.0**-14 < among_many.exposure
    ground = plan_of(*setting, security_bits=77, grinding_bits=3, min_contributors=2)
    assert ground.exposure == alone.exposure * 2**3
    assert plan_of(*setting).exposure == 1.0
    assert plan_of(1_000, MALICIOUS, 0.05, 0.05).exposure == 0.0


def test_a_lying_server_cuts_the_circle_and_the_plan_does_not_deny_it() -> None:
    """Two runs of k/2 neighbours, each voted away, cut an arc out of the published graph: 100 of 1,000.

    Every client hears of 950 survivors and more, and of as many neighbours as it asks for. So the plan
    promises no more than min_contributors, and says how often it does not keep that.
    """
    plan = plan_of(1_000, SEMI_MALICIOUS, 0.05, 0.05, grinding_bits=0)
    corrupt = set(range(0, 1_000, 20))
    droppable = plan.degree - plan.min_neighbours
    assert len(corrupt) == plan.corrupt
    assert droppable <= plan.clients - plan.min_survivors
    half = plan.degree // 2
    for start in (100, 100 + half + 100):
        run = set(range(start, start + half)) - corrupt
        assert votes_suffice(1_000, plan.degree, plan.threshold, droppable, corrupt, run)
    assert plan.sure_contributors == 3
    assert plan.exposure > 0


# Refusals, and that their advice is good.


def refusal(n: int, requirements: Requirements) -> str:
    with pytest.raises(ParameterError) as caught:
        plan_masked(n, requirements, ring_bits=20)
    return str(caught.value)


def advised(text: str, name: str) -> float:
    found = re.search(rf"{name} to at most ([0-9.]*[0-9])", text)
    assert found, text
    return float(found[1])


REFUSED: dict[str, tuple[int, dict[str, Any], tuple[str, ...]]] = {
    "too many corrupt": (10, {"corrupt_fraction": 0.95}, ("corrupt_fraction",)),
    "all corrupt but one, malicious": (
        7,
        {"adversary": MALICIOUS, "corrupt_fraction": 0.8},
        ("corrupt_fraction",),
    ),
    "few sure, small": (
        12,
        {"min_contributors": 8, "dropout_fraction": 0.2},
        ("min_contributors", "dropout_fraction"),
    ),
    "many vanish, small": (
        10,
        {"min_contributors": 4, "dropout_fraction": 0.6},
        ("min_contributors", "dropout_fraction"),
    ),
    "no graph, two stories": (100, {"dropout_fraction": 0.45}, ("dropout_fraction",)),
    "no graph, one story": (
        30,
        {"adversary": SEMI_HONEST, "corrupt_fraction": 0.5, "dropout_fraction": 0.6},
        ("dropout_fraction",),
    ),
    "few left": (
        1_000,
        {"adversary": SEMI_HONEST, "min_contributors": 800},
        ("min_contributors", "dropout_fraction"),
    ),
    "few sure": (
        1_000,
        {"min_contributors": 900, "dropout_fraction": 0.1},
        ("min_contributors", "dropout_fraction"),
    ),
    "no quorum": (
        2_001,
        {"adversary": MALICIOUS, "corrupt_fraction": 0.3, "dropout_fraction": 0.36},
        ("dropout_fraction",),
    ),
    "too many for the complete graph": (
        100_000,
        {"dropout_fraction": 0.45},
        ("dropout_fraction",),
    ),
}


@pytest.mark.parametrize(("n", "asked", "names"), REFUSED.values(), ids=REFUSED)
def test_a_refusal_names_numbers_that_work(n: int, asked: dict[str, Any], names: tuple[str, ...]) -> None:
    requirements = Requirements(**asked)
    text = refusal(n, requirements)
    for name in names:
        value = advised(text, name)
        assert value < getattr(requirements, name)
        change: Any = int(value) if name == "min_contributors" else value
        plan = plan_masked(n, replace(requirements, **{name: change}), ring_bits=20)
        assert plan.sure_contributors >= min(requirements.min_contributors, 3)


@pytest.mark.parametrize(
    ("case", "said"),
    [
        ("too many corrupt", "10 of 10 clients may be corrupt, which leaves fewer than two honest ones"),
        ("few sure, small", "12 clients of whom 3 may vanish: a server that tells different clients"),
        ("no graph, two stories", "no graph on 100 clients bears dropout_fraction 0.45 beside"),
        (
            "few left",
            "at most 700 contributors are sure against a semi-honest server, min_contributors is 800",
        ),
        ("few sure", "at most 800 contributors are sure against a semi-malicious server"),
        ("no quorum", "the survivor set needs 1301 signatures; lower dropout_fraction to at most 0.349"),
        ("too many for the complete graph", "at most 65535 clients can all share with each other"),
    ],
)
def test_a_refusal_says_what_was_found(case: str, said: str) -> None:
    n, asked, _ = REFUSED[case]
    assert said in refusal(n, Requirements(**asked))


def test_where_dropouts_are_not_to_blame_the_corrupt_fraction_is() -> None:
    text = refusal(10**6, Requirements(corrupt_fraction=0.9999, dropout_fraction=0.0))
    assert "lower corrupt_fraction, or ask fewer clients" in text
    assert "at most 0." not in text


def test_a_small_cohort_that_needs_everybody_is_planned_and_says_so() -> None:
    """Three hospitals with the default dropout: a plan, which no dropout is survived under."""
    assert plan_of(3, SEMI_MALICIOUS, 0.2, 0.3).liveness_failure == 1.0
    assert plan_of(12, SEMI_MALICIOUS, 0.2, 0.6).liveness_failure == 1.0
    assert plan_of(12, SEMI_MALICIOUS, 0.2, 0.25).liveness_failure == 0.0


def test_nobody_has_more_holders_than_there_are_indices() -> None:
    """With so many contributors asked for, the degree would have to be above the largest Shamir index."""
    asked = Requirements(
        adversary=MALICIOUS, corrupt_fraction=0.1, dropout_fraction=0.1, min_contributors=62_000
    )
    assert "65535" in refusal(200_000, asked)
    assert plan_masked(200_000, replace(asked, min_contributors=50_000), ring_bits=20).degree <= 65_534


def test_plans_are_made_once() -> None:
    asked = Requirements(corrupt_fraction=0.11)
    assert plan_masked(10, asked, ring_bits=20) is plan_masked(10, replace(asked), ring_bits=20)
    assert plan_masked(10, asked, ring_bits=21) == replace(plan_masked(10, asked, ring_bits=20), ring_bits=21)


@pytest.mark.parametrize("n", [3, 10, 19, 20, 40])
@pytest.mark.parametrize("adversary", Adversary)
def test_masked_sum_plans_as_its_requirements_say(n: int, adversary: Adversary) -> None:
    requirements = Requirements(adversary=adversary)
    made = MaskedSum(max_clients=40, requirements=requirements).plan(n)
    assert made.client_sends > 0
    assert made.client_receives > 0
    assert "nobody" in made.one_update
    assert made.post_quantum
    planned = replace(made, client_sends=0, client_receives=0, one_update="", post_quantum=None)
    assert planned == plan_masked(n, requirements, ring_bits=made.ring_bits)


# A cohort that is a part of its roster.


def chosen(n: int, roster: int, adversary: Adversary, **asked: Any) -> Plan:
    return plan_masked(n, Requirements(adversary=adversary, **asked), ring_bits=20, roster=roster)


@pytest.mark.parametrize("adversary", Adversary)
@pytest.mark.parametrize(("n", "roster", "corrupt"), [(3, 20, 4), (5, 20, 4), (10, 100, 20)])
def test_a_cohort_that_the_corrupt_could_fill_is_refused(
    n: int, roster: int, corrupt: int, adversary: Adversary
) -> None:
    with pytest.raises(ParameterError) as caught:
        chosen(n, roster, adversary)
    text = str(caught.value)
    assert f"a cohort of {n} from a roster of {roster}, of whom {corrupt} may be corrupt" in text
    needed = int(re.findall(r"at least (\d+) clients", text)[0])
    assert chosen(needed, roster, adversary).corrupt == corrupt
    fraction = advised(text.replace("corrupt_fraction of", "corrupt_fraction to"), "corrupt_fraction")
    assert chosen(n, roster, adversary, corrupt_fraction=fraction).corrupt == n - 2


def test_a_cohort_that_is_large_enough_is_planned_for_all_of_them() -> None:
    plan = chosen(10, 20, SEMI_MALICIOUS)
    assert (plan.clients, plan.roster, plan.corrupt, plan.corrupt_neighbours) == (10, 20, 4, 4)
    assert (plan.threshold, plan.min_survivors, plan.sure_contributors) == (8, 8, 6)
    assert plan_masked(20, Requirements(), ring_bits=20, roster=20) == chosen(20, 20, SEMI_MALICIOUS)


@pytest.mark.parametrize(
    ("n", "adversary", "spare"), [(3, SEMI_MALICIOUS, 0), (4, MALICIOUS, 1), (3, SEMI_HONEST, 0)]
)
def test_whole_small_rosters_go_on(n: int, adversary: Adversary, spare: int) -> None:
    plan = chosen(n, n, adversary)
    assert n - plan.min_survivors == spare


def test_three_of_four_go_on() -> None:
    for adversary in Adversary:
        plan = chosen(3, 4, adversary)
        assert (plan.corrupt, plan.min_survivors, plan.sure_contributors) == (1, 3, 3)


@pytest.mark.parametrize("adversary", Adversary)
def test_two_are_planned_for_where_at_most_one_is_corrupt(adversary: Adversary) -> None:
    assert chosen(2, 5, adversary, min_contributors=2).min_survivors == 2
    with pytest.raises(ParameterError, match=r"of whom 2 may be corrupt .* at least 4 clients"):
        chosen(2, 6, adversary, min_contributors=2)


@settings(deadline=None)
@given(
    n=st.integers(3, 120),
    more=st.integers(1, 500),
    adversary=st.sampled_from(Adversary),
    corrupt=st.integers(0, 99).map(lambda part: part / 100),
    dropout=st.sampled_from([0.0, 0.1, 0.3]),
    bits=st.sampled_from([(40, 40), (1, 0)]),
)
def test_whatever_the_cohort_two_honest_ones_are_in_a_sum(
    n: int, more: int, adversary: Adversary, corrupt: float, dropout: float, bits: tuple[int, int]
) -> None:
    roster = n + more
    security, grinding = bits
    asked = {
        "corrupt_fraction": corrupt,
        "dropout_fraction": dropout,
        "security_bits": security,
        "grinding_bits": grinding,
    }
    try:
        plan = chosen(n, roster, adversary, **asked)
    except ParameterError:
        return
    share = Fraction(str(corrupt)) * roster
    complete = plan.degree == n - 1
    assert plan.corrupt == (math.ceil(share) if complete else math.floor(share)) <= n - 2
    assert plan.corrupt_neighbours <= min(plan.corrupt, plan.degree)
    assert plan.corrupt_neighbours < plan.threshold
    if complete:
        assert plan.corrupt_neighbours == plan.corrupt
        assert plan.sure_contributors - plan.corrupt >= 2
    elif adversary is SEMI_HONEST:
        assert plan.sure_contributors - plan.corrupt >= 2
    elif adversary is MALICIOUS:
        # A client and the neighbours that it insists on, of whom at most t1 are corrupt.
        assert plan.sure_contributors - plan.corrupt_neighbours >= 2
        assert 2 * plan.quorum > n + plan.corrupt


@given(n=st.integers(20, 60), adversary=st.sampled_from(Adversary), corrupt=st.integers(90, 99))
def test_more_corrupt_clients_than_the_cohort_has_places_are_no_puzzle(
    n: int, adversary: Adversary, corrupt: int
) -> None:
    asked = Requirements(adversary=adversary, corrupt_fraction=corrupt / 100)
    assert graph_parameters(n, asked, roster=10 * n) is None
    assert _weigh(n, 10 * n, asked, 2).reach == 2
    with pytest.raises(ParameterError, match=r"no cohort is large enough|at least"):
        plan_masked(n, asked, ring_bits=20, roster=10 * n)


def test_a_dense_graph_whose_complete_one_cannot_be_planned_stays_random() -> None:
    """⌊γN⌋ = 18 of 20 leave two honest ones, ⌈γN⌉ = 19 do not."""
    asked = Requirements(
        corrupt_fraction=0.305,
        dropout_fraction=0.0,
        security_bits=1,
        grinding_bits=0,
        min_contributors=2,
    )
    found = _first_degree(20, 61, asked)
    assert found is not None
    plan = plan_masked(20, asked, ring_bits=20, roster=61)
    assert (plan.degree, plan.corrupt) == (found.degree, 18)
    assert 2 * plan.degree > 20
