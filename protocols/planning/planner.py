"""The planner: graph, thresholds and failure probabilities for clients that share secrets with each other.

Small cohorts take the complete graph of Bonawitz et al. (CCS'17), others the random Harary graph of Bell et
al., "Secure Single-Server Aggregation with (Poly)Logarithmic Overhead" (CCS'20): clients in a random order on
a circle, each joined to the k/2 next ones on both sides. The rule for its degree k and threshold t is that of
Google's federated compute platform (`graph_parameter_finder`), whose published parameters it reproduces.

**The cohort and its roster.** γ is a share of the N clients of the roster, and whoever announces a cohort of
n of them chooses which (ATTACKS D1). So all corrupt clients of the roster are planned for among the n, never
fewer because n is small, and a cohort in which they leave fewer than two honest ones is refused. δ is a share
of the cohort.

**Complete graph.** At most c = ⌈γN⌉ holders pool their shares with the server. Against one that follows the
protocol, t = max(c + 1, 2) shares must be out of their reach, and m = max(min_contributors, c + 2)
contributors must survive, or the corrupt ones could subtract themselves from the sum and hold one honest
update. A server that tells different clients different survivors (ATTACKS A2) must not get t shares of both
secrets of one client, so 2t > n + c. It may still open a smaller group than any client saw. Each honest
client votes at most n - m clients as dropped, and to open the pair masks of one takes t - c > (n - c)/2
honest votes: fewer than 2(n - m) can be taken off, so 2m - n contributors are sure, of whom c may be
corrupt; m is chosen for that to be max(min_contributors, c + 2). With one survivor set that a quorum signed,
2q > n + c, there is one story, and all m contributors are sure.

Nothing is drawn on the complete graph, so security holds with certainty while at most c are corrupt. Liveness
is as certain: a round ends while no more than n - m vanish; the plan says 0.0 or 1.0 for a loss of d = ⌈δn⌉.

**Random graph.** Of n clients c = ⌊γN⌋ are corrupt and d = ⌊δn⌋ vanish. Three things may go wrong:
(a) corrupt and vanished clients cut the circle, which takes two runs of k/2 of them; (b) somebody has more
than t1 corrupt neighbours; (c) somebody has fewer than t2 neighbours left. (a) and (b) together have
probability at most 2^-σ, (c) at most 2^-η. k is the first even number with t2 >= t, where t = t1 + 1, and at
least 2 (the published rule asks for t2 > t1, which without corrupt clients may leave nobody to unmask with).
A server that splits views must not get t shares twice from k holders of whom t1 are corrupt, and so
⌊(t1 + k)/2⌋ stands in the place of t1. As an adversary may try 2^g seeds of the graph, σ is raised by g.

**What the random graph does not give.** This rule keeps a lying server from both secrets of one client, and
no more. It votes on neighbours only: clients that hear different stories may have t votes against everybody
around a client, or against two runs of k/2 clients that cut an arc out of the circle, and the arc's sum is
opened. `Plan.exposure` bounds the first for one client. Where it is 1.0, and it often is, a plan against
SEMI_MALICIOUS on a random graph promises a *group* of contributors to nobody: take MALICIOUS. There a server
that chooses who vanishes can still cut an arc out, but with one story its sum has t2 + 1 contributors. Where
the random graph would have more than half of all edges, the complete one is planned against SEMI_MALICIOUS,
which gives that promise for less than twice the price.

>>> plan = plan_masked(500, Requirements(adversary=Adversary.SEMI_HONEST), ring_bits=20)
>>> plan.degree, plan.threshold
(120, 57)
>>> print(plan_masked(10, Requirements(), ring_bits=20))
clients           10, up to 2 corrupt
adversary         semi-malicious
graph             complete, 9 neighbours each
threshold         7 shares rebuild a secret
survivors needed  7, and 6 neighbours of each client
ring              20 bits a value
security fails    never
liveness fails    never
revealed          who took part and the sum of at least 4 contributors, to the server
                  that sum without their own updates, to the server and 2 clients
sure and honest   at least 2 contributors of every sum that is opened
>>> chosen = plan_masked(10, Requirements(), ring_bits=20, roster=20)
>>> chosen.corrupt, chosen.min_survivors
(4, 8)
>>> plan_masked(3, Requirements(), ring_bits=20, roster=20)  # doctest: +NORMALIZE_WHITESPACE
Traceback (most recent call last):
    ...
secagg.errors.ParameterError: a cohort of 3 from a roster of 20, of whom 4 may be corrupt and all of them in
it: at least 6 clients are needed, or a corrupt_fraction of at most 0.05 agreed on by all
"""

import math
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Final

import numpy as np

from protocols.planning.requirements import (
    Adversary,
    Plan,
    Requirements,
    at_most,
    ceil_fraction,
    check_size,
    floor_fraction,
    too_many_corrupt,
)
from protocols.planning.tails import chernoff, lower_quantile, upper_quantile
from secagg.errors import ParameterError
from secagg.shamir import MAXIMUM_INDEX

__all__ = ["graph_parameters", "plan_masked"]

MAXIMUM_HOLDERS: Final = MAXIMUM_INDEX
SMALLEST_RANDOM: Final = 20
"""Cohorts under this take the complete graph."""

LN2: Final = math.log(2)


def plan_masked(n: int, requirements: Requirements, *, ring_bits: int, roster: int | None = None) -> Plan:
    """The plan for n clients, on the graph that fits.

    Args:
        n: the announced cohort's size, at least 1.
        requirements: what is asked.
        ring_bits: bits of one summed value; only passed on.
        roster: the size of the roster that the cohort was chosen from; None where it is the whole.

    Raises:
        ParameterError: no graph on n clients gives what is asked; the text says which number to change.
    """
    return _planned(n, requirements, ring_bits, n if roster is None else roster)


@lru_cache(maxsize=256)
def _planned(n: int, requirements: Requirements, ring_bits: int, roster: int) -> Plan:
    check_size(n, requirements, roster)
    if n < SMALLEST_RANDOM:
        plan = _complete(n, roster, requirements, ring_bits)
        _refuse_few_sure(n, requirements)
        return plan
    found = _first_degree(n, roster, requirements)
    if found is not None and not _is_dense(n, roster, requirements, found):
        return _random(n, roster, requirements, ring_bits, found)
    if n > MAXIMUM_HOLDERS:
        raise _too_many_for_the_complete_graph(n, roster, requirements)
    plan = _complete(n, roster, requirements, ring_bits)
    if plan.liveness_failure:
        raise _too_many_vanish(plan, requirements)
    return plan


# The complete graph.


def _majority(parties: int, corrupt: int) -> int:
    """The smallest x with 2x > parties + corrupt: two sets of x parties share an honest one."""
    return (parties + corrupt) // 2 + 1


def _complete(n: int, roster: int, requirements: Requirements, ring_bits: int) -> Plan:
    """All pairs share; a client keeps a share of its own secrets."""
    adversary = requirements.adversary
    corrupt = ceil_fraction(requirements.corrupt_fraction, roster)
    # A sum of one honest client and the corrupt ones is that client's update: two honest ones at least.
    least = max(requirements.min_contributors, corrupt + 2)
    threshold, survivors, quorum = max(corrupt + 1, 2), least, 0
    if adversary is Adversary.SEMI_MALICIOUS:
        threshold = _majority(n, corrupt)
        survivors = max(threshold, -(-(n + least) // 2))
    elif adversary is Adversary.MALICIOUS:
        quorum = _majority(n, corrupt)
        survivors = max(least, quorum)
    if n == 2:
        survivors = 2  # of two, nobody is private from the other; who typed min_contributors=2 has been told
    if max(survivors, threshold, quorum) > n:
        raise too_many_corrupt(
            n,
            roster=roster,
            corrupt=corrupt,
            needed=_needed(n, roster, requirements, corrupt),
            bearable=_bearable(n, requirements),
        )
    lost = ceil_fraction(requirements.dropout_fraction, n)
    sure = 2 * survivors - n if adversary is Adversary.SEMI_MALICIOUS else survivors
    return Plan(
        clients=n,
        roster=roster,
        adversary=adversary,
        degree=n - 1,
        threshold=threshold,
        min_survivors=survivors,
        min_neighbours=survivors - 1,
        corrupt=corrupt,
        corrupt_neighbours=corrupt,
        quorum=quorum,
        ring_bits=ring_bits,
        security_failure=0.0,
        liveness_failure=float(lost > n - survivors),
        sure_contributors=sure,
        sure_honest=sure - corrupt,
        exposure=0.0,
    )


def _refuse_few_sure(n: int, requirements: Requirements) -> None:
    """Refuses a min_contributors that the planned dropouts make impossible to promise (ATTACKS A2)."""
    least = requirements.min_contributors
    lost = ceil_fraction(requirements.dropout_fraction, n)
    sure = n - 2 * lost
    # The default of 3 is no wish: a small cohort then needs all its clients, which liveness_failure tells.
    if requirements.adversary is Adversary.SEMI_MALICIOUS and least > max(3, sure):
        raise ParameterError(
            f"{n} clients of whom {lost} may vanish: a server that tells different clients different "
            f"survivors can open a sum of {max(sure, 0)}, min_contributors is {least}; lower "
            f"min_contributors to at most {max(3, sure)}, or dropout_fraction to at most "
            f"{at_most((n - least) // 2, n)}"
        )


def _spare(n: int, requirements: Requirements) -> int:
    """By how many clients, for those who vanish, a cohort must be larger than c + 2 on the complete graph.

    Small cohorts are planned without, and their plan says that a round which loses somebody fails.
    """
    lost = ceil_fraction(requirements.dropout_fraction, n) if n >= SMALLEST_RANDOM else 0
    # m <= n - d, and c + 2 of m, 2m - n or a quorum's 2m - n + 1 are asked for.
    if requirements.adversary is Adversary.SEMI_HONEST:
        return lost
    return max(2 * lost - 1, lost) if requirements.adversary is Adversary.MALICIOUS else 2 * lost


def _bearable(n: int, requirements: Requirements) -> int:
    """The most corrupt clients that the complete graph on n clients bears."""
    # Of two, nobody is private from the other.
    return max(n - 2, 1) if n < SMALLEST_RANDOM else n - 2 - _spare(n, requirements)


def _needed(n: int, roster: int, requirements: Requirements, corrupt: int) -> int:
    """The fewest clients, n or more, on whose complete graph so many may be corrupt; else above `roster`."""
    # What is needed grows with the cohort, so the first size that is as large as its own need is the least.
    while n <= roster and (more := corrupt + 2 + _spare(n, requirements)) > n:
        n = more
    return n


def _too_many_vanish(plan: Plan, requirements: Requirements) -> ParameterError:
    """What to change where the complete graph, and so every other, loses more than it bears."""
    n, roster, dropout = plan.clients, plan.roster, requirements.dropout_fraction
    fewer = (
        f"lower dropout_fraction to at most {at_most(n - plan.min_survivors, n)}, or lower corrupt_fraction"
    )
    if n == roster:
        return ParameterError(
            f"no graph on {n} clients bears dropout_fraction {dropout} beside corrupt_fraction "
            f"{requirements.corrupt_fraction}: {fewer}"
        )
    needed = _needed(n, roster, requirements, plan.corrupt)
    return ParameterError(
        f"a cohort of {n} from a roster of {roster}, of whom {plan.corrupt} may be corrupt and all of them "
        f"in it, does not bear dropout_fraction {dropout}: "
        + (f"at least {needed} clients are needed, or " if needed <= roster else "")
        + f"{fewer} to at most {at_most(_bearable(n, requirements), roster)}, agreed on by all"
    )


# The random graph.


@dataclass(frozen=True, slots=True, kw_only=True)
class _Degree:
    """What one degree gives.

    Attributes:
        degree: k.
        most: the corrupt neighbours that nobody has more of (t1).
        reach: the shares of one secret that an adversary can get (t1, or what stands in its place).
        left: the neighbours that everybody keeps (t2).
        missing: by how much t2 is too small; 0 or less passes, if (a) does.
        cut, corrupted, starved: the probabilities of (a), (b), (c).
    """

    degree: int
    most: int
    reach: int
    left: int
    missing: int
    cut: float
    corrupted: float
    starved: float


def _weigh(n: int, roster: int, requirements: Requirements, degree: int) -> _Degree:
    """t1, t2 and the probabilities at an even degree in [2, n - 2]."""
    adversary = requirements.adversary
    corrupt = floor_fraction(requirements.corrupt_fraction, roster)
    lost = floor_fraction(requirements.dropout_fraction, n)
    most, corrupted = upper_quantile(
        n, marked=corrupt, drawn=degree, bound=_log_security(requirements) - math.log(n)
    )
    left, starved = lower_quantile(
        n, marked=n - lost, drawn=degree, bound=-requirements.liveness_bits * LN2 - math.log(n)
    )
    # 2t > k + t1: of the holders of one secret too few are left for the other. The published form is
    # ⌈(t1 + k - 5/4)/2⌉, the same integer.
    reach = (most + degree) // 2 if adversary is Adversary.SEMI_MALICIOUS else most
    # With one story (MALICIOUS) a client and the neighbours that it needs are in one sum.
    asked = requirements.min_contributors - 1 if adversary is Adversary.MALICIOUS else 0
    return _Degree(
        degree=degree,
        most=most,
        reach=reach,
        left=left,
        missing=max(reach + 1, 2, asked) - left,
        cut=math.exp(_log_cut(n, corrupt + lost, degree)),
        corrupted=n * corrupted,
        starved=n * starved,
    )


def _first_degree(n: int, roster: int, requirements: Requirements) -> _Degree | None:
    """The smallest even degree that passes, None if none does."""
    last = _last_degree(n)
    degree = _first_connected(n, roster, requirements, last)
    while degree is not None and degree <= last:
        weighed = _weigh(n, roster, requirements, degree)
        if weighed.missing <= 0:
            return weighed
        # Two more neighbours make t2 at most 2 larger and t1 never smaller, so what is missing shrinks by
        # at most 2, or 1 where the reach grows by half the degree: nothing that passes is jumped over.
        splits = requirements.adversary is Adversary.SEMI_MALICIOUS
        degree += 2 * (weighed.missing if splits else -(-weighed.missing // 2))
    return None


def graph_parameters(
    n: int, requirements: Requirements, *, roster: int | None = None
) -> tuple[int, int] | None:
    """(degree, threshold) of the random graph for n clients of a roster, None if no degree passes."""
    found = _first_degree(n, n if roster is None else roster, requirements)
    return None if found is None else (found.degree, max(found.reach + 1, 2))


def _is_dense(n: int, roster: int, requirements: Requirements, found: _Degree) -> bool:
    """Whether the complete graph, which is sure against split views, costs less than twice the random one."""
    if requirements.adversary is not Adversary.SEMI_MALICIOUS or n > MAXIMUM_HOLDERS:
        return False
    if 2 * found.degree <= n:
        return False
    try:
        return not _complete(n, roster, requirements, 1).liveness_failure
    except ParameterError:  # it counts ⌈γN⌉ corrupt ones, and the random graph ⌊γN⌋
        return False


def _last_degree(n: int) -> int:
    """The largest even degree below the complete graph's, as long as every holder has an index."""
    return min(n - 2, MAXIMUM_HOLDERS) // 2 * 2


def _log_security(requirements: Requirements) -> float:
    """ln of what (a) and (b) may each have: half of 2^-(σ + g)."""
    return -(requirements.security_bits + _grinding(requirements) + 1) * LN2


def _grinding(requirements: Requirements) -> int:
    """log2 of the graphs that the adversary may choose from; who follows the protocol takes the first."""
    return 0 if requirements.adversary is Adversary.SEMI_HONEST else requirements.grinding_bits


def _random(n: int, roster: int, requirements: Requirements, ring_bits: int, found: _Degree) -> Plan:
    """The plan on the random graph."""
    adversary = requirements.adversary
    corrupt = floor_fraction(requirements.corrupt_fraction, roster)
    survivors = n - floor_fraction(requirements.dropout_fraction, n)
    threshold = max(found.reach + 1, 2)
    tries = 2.0 ** _grinding(requirements)
    sure, honest, quorum, exposure = survivors, survivors - corrupt, 0, 0.0
    if adversary is Adversary.SEMI_MALICIOUS:
        # 2m - n, which is sure on the complete graph, is not where clients see their neighbours only: what
        # was asked for is promised, and the exposure says how well.
        sure, honest = requirements.min_contributors, 0
        exposure = tries * _exposure(
            n,
            corrupt=corrupt,
            degree=found.degree,
            threshold=threshold,
            droppable=found.degree - found.left,
            group=sure - 1,
        )
    elif adversary is Adversary.MALICIOUS:
        # An honest client that reveals has t2 neighbours in the one survivor set, all in its sum; at most
        # t1 < t2 of them are corrupt, so two are honest. Whose self mask is opened has such a client among
        # its neighbours, for t > t1 of them revealed. What is opened may be an arc with no more than these:
        # of them all c would be too many to take off, t1 are.
        sure, quorum = found.left + 1, _majority(n, corrupt)
        honest = sure - found.most
    _refuse_few_survivors(n, roster, requirements, survivors=survivors, quorum=quorum)
    return Plan(
        clients=n,
        roster=roster,
        adversary=adversary,
        degree=found.degree,
        threshold=threshold,
        min_survivors=survivors,
        min_neighbours=found.left,
        corrupt=corrupt,
        corrupt_neighbours=found.most,
        quorum=quorum,
        ring_bits=ring_bits,
        security_failure=tries * (found.cut + found.corrupted),
        liveness_failure=found.starved,
        sure_contributors=sure,
        sure_honest=honest,
        exposure=min(exposure, 1.0),
    )


def _refuse_few_survivors(
    n: int, roster: int, requirements: Requirements, *, survivors: int, quorum: int
) -> None:
    """Refuses a min_contributors or a quorum that the planned dropouts leave too few for."""
    cohort = f"{_chosen(n, roster, requirements)} of whom {n - survivors} may vanish"
    larger = ", or ask more clients" if roster > n else ""
    least = requirements.min_contributors
    splits = requirements.adversary is Adversary.SEMI_MALICIOUS
    # A server that splits views leaves 2m - n at most (ATTACKS A2), whatever the graph.
    most = 2 * survivors - n if splits else survivors
    if least > most:
        raise ParameterError(
            f"{cohort}: at most {most} contributors are sure against a "
            f"{requirements.adversary.value} server, min_contributors is {least}; lower min_contributors to "
            f"at most {most}, or dropout_fraction to at most "
            f"{at_most((n - least) // 2 if splits else n - least, n)}{larger}"
        )
    if quorum > survivors:
        raise ParameterError(
            f"{cohort}: the survivor set needs {quorum} signatures; "
            f"lower dropout_fraction to at most {at_most(n - quorum, n)}, or lower corrupt_fraction{larger}"
        )


def _chosen(n: int, roster: int, requirements: Requirements) -> str:
    """The cohort in words, with what is assumed of it where it is a part of its roster."""
    if n == roster:
        return f"{n} clients"
    corrupt = floor_fraction(requirements.corrupt_fraction, roster)
    return f"{n} clients from a roster of {roster}, up to {corrupt} of them corrupt,"


def _too_many_for_the_complete_graph(n: int, roster: int, requirements: Requirements) -> ParameterError:
    """What to change where no random graph passes and the complete one has too many holders."""
    last = _last_degree(n)
    passes, fails = -1, floor_fraction(requirements.dropout_fraction, 100) + 1
    while fails - passes > 1:  # in hundredths, at the largest degree: what passes there has a first degree
        middle = (passes + fails) // 2
        milder = replace(requirements, dropout_fraction=middle / 100)
        connected = _first_connected(n, roster, milder, last) is not None
        fine = connected and _weigh(n, roster, milder, last).missing <= 0
        passes, fails = (middle, fails) if fine else (passes, middle)
    advice = (
        f"lower dropout_fraction to at most {passes / 100:.2f}" if passes >= 0 else "lower corrupt_fraction"
    )
    return ParameterError(
        f"no random graph on {_chosen(n, roster, requirements)} bears dropout_fraction "
        f"{requirements.dropout_fraction} beside corrupt_fraction {requirements.corrupt_fraction}, and at "
        f"most {MAXIMUM_HOLDERS} clients can all share with each other: {advice}, or ask fewer clients"
    )


# What the graph does to these clients, in probability.


def _log_cut(n: int, lost: int, degree: int) -> float:
    """(a): upper bound of Pr[two runs of k/2 places hold none but corrupt and vanished clients].

    A union over the n(n - k - 1)/2 pairs of runs with somebody between them; k given places are all among
    the b lost ones with probability b·(b - 1)···/(n·(n - 1)···), k factors each.
    """
    if lost < degree:
        return -math.inf
    place = np.arange(degree, dtype=np.float64)
    return math.log(n * (n - degree - 1) / 2) + float(np.log((lost - place) / (n - place)).sum())


def _first_connected(n: int, roster: int, requirements: Requirements, last: int) -> int | None:
    """The smallest even degree up to `last` with (a) small enough; (a) falls with the degree."""
    lost = floor_fraction(requirements.corrupt_fraction, roster)
    lost += floor_fraction(requirements.dropout_fraction, n)
    bound = _log_security(requirements)
    # All n may be lost: nobody is left to connect. Of more than n there is no distribution to ask.
    if lost >= n or _log_cut(n, lost, last) >= bound:
        return None
    passes = 2
    while _log_cut(n, lost, passes) >= bound:
        passes = min(2 * passes, last)
    fails, half = 0, passes // 2  # of halves, as degrees are even
    while half - fails > 1:
        middle = (half + fails) // 2
        half, fails = (middle, fails) if _log_cut(n, lost, 2 * middle) < bound else (half, middle)
    return 2 * half


def _exposure(n: int, *, corrupt: int, degree: int, threshold: int, droppable: int, group: int) -> float:
    """Upper bound of the probability that one given client is opened among at most `group` honest ones.

    A lying server has the client's self mask from neighbours that hear of it as a survivor. For its pair
    masks it needs, of each of its k neighbours v that is honest and not in the group, the round secret:
    t - c_v votes of honest holders that hear that v vanished, where c_v of v's neighbours are corrupt. An
    honest client votes so on at most D = `droppable` of its neighbours, and on none that it is not joined
    to. That v never dealt shares may be told to the client and to the holders who reveal its self mask, who
    must have heard the same story; they need not be joined to v, so it may cost no vote at all, for D of v.

    Let B_j be 1 where place j is corrupt. The votes that are needed are at least Σ_v (1 - B_v)(t - c_v), with
    c_v = Σ B_j over the neighbours of v, and (1 - B_v)(t - c_v) >= t - c_v - t·B_v; others of the group, and
    the D that are called inactive, spare t each. Those to be had are Σ_j (1 - B_j)·min(D, a_j), a_j being the
    neighbours that j has in common with the client; the client's own D go to those that it calls inactive, or
    take the place of theirs. So it takes

        Σ_j w_j·B_j >= T = t·(k - D - group + 1) - Σ_j min(D, a_j),

    where w_j = a_j - min(D, a_j), and t more where j is a neighbour. The c corrupt ones among the n - 1
    other places are negatively associated, which is at least as good as independent for Chernoff's bound:
    Pr <= exp(Σ_j ln(1 + γ(e^{λ·w_j} - 1)) - λT) for every λ >= 0.
    """
    # Places by their distance from the client on the circle, with the number of places at that distance.
    distance = np.arange(1, min(n // 2, degree) + 1)
    places = np.where(2 * distance == n, 1.0, 2.0)
    # Two arcs of k + 1 places overlap on one side or, where the circle is short, on both; a place is not
    # its own neighbour.
    near = distance <= degree // 2
    common = np.maximum(degree + 1 - distance, 0) + np.maximum(degree + 1 - (n - distance), 0) - 2 * near
    votes = np.minimum(droppable, common)
    weights = (common - votes + threshold * near).astype(np.float64)
    target = threshold * (degree - droppable - group + 1) - float(places @ votes)
    return chernoff(weights, places, corrupt / (n - 1), target)
