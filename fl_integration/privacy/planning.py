"""From a budget and a protocol to the noise of each client.

The protocol's own plan says how many honest contributors every opened sum has (h); each client adds 1/h of
the variance that the budget asks of one trusted party, so that colluders and dropouts are in the arithmetic.
δ has three parts: the noise's, the chance that the protocol's plan fails (by round, added up), and the
distance of the noise that is drawn from its law, d·rounds·n·(1 + e^ε)·distance. In this ε is 20, the largest
that any ledger adds up, so that the part holds for whatever else is charged there.

Under MaskedSum the sum wraps around in a ring wide enough that it hardly ever does: that costs accuracy,
never privacy. Other protocols cannot wrap: there a summand is held to ±`reach`, to which the noise's own
bound is added.
"""

import math
from dataclasses import dataclass, replace

from fl_integration.privacy.accountant import Release, calibrate, epsilon_of, epsilons
from fl_integration.privacy.plan import PrivacyPlan
from fl_integration.privacy.units import LARGEST_EPSILON, Noise, Unit
from protocols import MaskedSum, PlainSum
from protocols.machine.parameters import ExactSum, Parameters
from protocols.planning.requirements import Plan
from secagg.errors import ParameterError
from secagg.noise import DiscreteGaussian, Skellam
from secagg.noise.law import LARGEST_SIGMA
from secagg.numbers import plain

__all__ = ["Query", "make_plan", "most_l1"]

_TAIL = 11.0
"""Standard deviations of the sum's noise that the ring has room for: all of 10**6 values but once in
10**19. Narrow Skellam noise has longer tails, for which come at most 41 steps (Bernstein's inequality)."""

_LONGEST = 1 << 32
"""Values that δ has room for where the length is unknown."""

_DISTANCE = 2.0**-104
"""What is set aside for the distance of one sample; more, where the law says so."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """What one round opens, before it is known with whom.

    Args:
        unit: whom it protects.
        epsilon, delta: the budget of all rounds.
        noise: the law.
        rounds: how many there are.
        sampling_rate: of each unit in each round.
        entries: of a gradient, an update or a question; 0 where unknown.
        length: values of the summed vector, those of rotation and count with them; 0 where unknown.
        l2, l1: sensitivities in grid steps.
        reach: no client's summand is beyond ±reach before its noise, in grid steps.
        total_reach, total_spread: nor the sum of all clients' beyond total_reach, or where it is like noise
            of so many steps, but for what may wrap around.
        clip, steps: the clip and its steps, for people; 1.0 and 1 where there is none.
    """

    unit: Unit
    epsilon: float
    delta: float
    noise: Noise
    rounds: int
    sampling_rate: float
    entries: int
    length: int
    l2: float
    l1: float
    reach: int
    total_reach: int
    total_spread: float = 0.0
    clip: float = 1.0
    steps: int = 1


def most_l1(l2_squared: int, length: int) -> float:
    """The largest Δ₁ of whole numbers whose squares add up to this: each is at most its own square."""
    return min(math.sqrt(length * l2_squared) if length else math.inf, float(l2_squared))


def make_plan(query: Query, n: int, *, protocol: Parameters | None, roster: int | None) -> PrivacyPlan:
    """The plan of `query` for n clients.

    Raises:
        ParameterError: the protocol hides nothing or promises no honest contributor, delta leaves nothing for
            the noise, no noise is enough, or the numbers fit no ring. Each says what to change.
        MissingExtraError: dp-accounting is not installed.
    """
    n = plain(n)
    if protocol is None:
        protocol = MaskedSum(max_clients=n)
    base = _base_plan(protocol, n, roster)
    if base.degree > 0 and n < protocol.max_clients:
        # Of a cohort larger than planned, as many survivors as here may have fewer honest ones.
        protocol = replace(protocol, max_clients=n, max_total_weight=None)
    honest = base.sure_honest
    # A distance beyond what was set aside is set aside the next time; it hardly depends on the variance.
    distance = _DISTANCE
    while True:
        table = _table_failure(query, n, distance)
        left = _delta_left(query, base, table)
        multiplier = calibrate(
            epsilon=query.epsilon,
            delta=left,
            noise=query.noise,
            l2=query.l2,
            l1=query.l1,
            rounds=query.rounds,
            sampling_rate=query.sampling_rate,
            length=query.length,
            shares=honest,
        )
        share = _share(query, multiplier, honest)
        if share.distance <= distance:
            break
        distance = 2 * share.distance
    sigma = multiplier * query.l2
    release = Release(
        noise=query.noise,
        l2=query.l2,
        l1=query.l1,
        sigma=sigma,
        sampling_rate=query.sampling_rate,
        length=query.length,
        shares=honest if query.noise is Noise.DISCRETE_GAUSSIAN else 1,
    )
    exact, reach = _surface(query, protocol, share, total_sigma=share.standard_deviation * math.sqrt(n), n=n)
    carried = exact.plan(n, roster=roster)
    sent = carried.client_sends + -(-query.length * carried.ring_bits // 8)
    known = query.length and carried.client_sends  # ciphertexts are not counted in bits of a value
    return PrivacyPlan(
        unit=query.unit,
        clients=n,
        roster=base.roster,
        corrupt=base.corrupt,
        sure_honest=honest,
        contributors_factor=math.sqrt(n / honest),
        noise_multiplier=multiplier,
        sigma_total=share.standard_deviation * math.sqrt(n),
        sigma_client=share.standard_deviation,
        epsilon_by_round=epsilons(release, query.rounds, delta=left),
        epsilon=epsilon_of({release: query.rounds}, delta=left),
        delta=query.delta,
        delta_noise=left,
        security_failure=_security_failure(query, base),
        table_failure=table,
        rounds=query.rounds,
        entries=query.entries,
        length=query.length,
        clip=query.clip,
        steps=query.steps,
        reach=reach,
        ring_bits=carried.ring_bits,
        bytes_per_round=sent if known else 0,
        exact=exact,
        noise=share,
        release=release,
    )


def _base_plan(protocol: Parameters, n: int, roster: int | None) -> Plan:
    """The protocol's plan, if noise can hide anything under it."""
    if not isinstance(protocol, Parameters):
        raise ParameterError(
            "protocol is a protocol such as MaskedSum(...), not its integer surface: privacy makes that "
            "itself"
        )
    if isinstance(protocol, PlainSum):
        raise ParameterError(
            "PlainSum shows each client's vector to the server, with that client's share of the noise "
            "alone; take MaskedSum or another protocol that opens sums only"
        )
    if type(n) is int and n > protocol.max_clients:
        raise ParameterError(f"{n} clients; the protocol's max_clients is {protocol.max_clients}: raise it")
    base = _worst_cohort(protocol, protocol.plan(n, roster=roster))
    if base.sure_honest < 1 or base.security_failure >= 1:
        raise ParameterError(
            f"with {n} clients or a part of them, up to {base.corrupt} corrupt, under {base.adversary}"
            " no sum is sure to have an honest contributor, so no noise is sure to be in it: take "
            "Adversary.MALICIOUS, a smaller corrupt_fraction, or a larger min_contributors"
        )
    return base


def _worst_cohort(protocol: Parameters, base: Plan) -> Plan:
    """The plan, as bad as it is for the worst cohort that clients under `PrivacyPlan.policy` take part in.

    A server may announce a part of the roster; more than planned no client takes part with. Where clients
    share nothing, and on the complete graph, as many survivors as the whole cohort must have are enough for
    as many honest ones. A random graph has other thresholds, and fewer clients than on a complete one may
    have a random one, which promises nothing where the server splits views.
    """
    if not base.degree:
        return base
    honest, failure = base.sure_honest, base.security_failure
    for fewer in range(base.min_survivors, base.clients):
        try:
            found = protocol.plan(fewer, roster=base.roster)
        except ParameterError:  # no client takes part in such a round
            continue
        if found.degree < fewer - 1:
            honest, failure = min(honest, found.sure_honest), max(failure, found.security_failure)
    return replace(base, sure_honest=honest, security_failure=failure)


def _security_failure(query: Query, base: Plan) -> float:
    return query.rounds * base.security_failure


def _table_failure(query: Query, n: int, distance: float) -> float:
    return (query.length or _LONGEST) * query.rounds * n * (1 + math.exp(LARGEST_EPSILON)) * distance


def _delta_left(query: Query, base: Plan, table: float) -> float:
    """What δ leaves for the noise."""
    plan = _security_failure(query, base)
    left = query.delta - plan - table
    if left > 0:
        return left
    remedy = (
        "raise security_bits in the protocol's requirements, or delta"
        if plan > table
        else "raise delta, or lower rounds"
    )
    raise ParameterError(
        f"delta is {query.delta:.3g}, of which the protocol's plan takes {plan:.3g} in {query.rounds} "
        f"rounds and the noise's distance from its law {table:.3g}: nothing is left for the noise; {remedy}"
    )


def _share(query: Query, multiplier: float, honest: int) -> Skellam | DiscreteGaussian:
    """One client's share; a breath more than its part, so that `honest` of them are not less in float64."""
    sigma = multiplier * query.l2 / math.sqrt(honest) * (1 + 2**-40)
    if sigma > LARGEST_SIGMA:
        raise ParameterError(
            f"one client's share of the noise has a standard deviation of {sigma:,.0f} steps, and at most "
            f"{LARGEST_SIGMA:,.0f} can be drawn: {_coarser(query)}"
        )
    if query.noise is Noise.SKELLAM:
        return Skellam(variance=sigma**2)
    return DiscreteGaussian(sigma=sigma)


def _coarser(query: Query) -> str:
    """What makes numbers smaller."""
    return (
        "lower steps, the grid of a clip, or raise epsilon"
        if query.steps > 1
        else "raise epsilon, or count in coarser units"
    )


def _surface(
    query: Query, protocol: Parameters, share: Skellam | DiscreteGaussian, *, total_sigma: float, n: int
) -> tuple[ExactSum, int | None]:
    """The integer surface that noised sums fit, and what it holds summands to."""
    if isinstance(protocol, MaskedSum):
        noise = _TAIL**2 / 6 + math.hypot(_TAIL * total_sigma, _TAIL * query.total_spread, _TAIL**2 / 6)
        bits = math.ceil(math.log2(2 * (query.total_reach + noise) + 1))
        if bits > 62:
            raise ParameterError(f"sums of {bits} bits a value; 62 fit: {_coarser(query)}")
        return protocol.modular(bits=max(bits, 2)), None
    try:
        return protocol.exact(max_abs=query.reach + share.bound), query.reach
    except ParameterError as error:
        raise ParameterError(
            f"{error}; for noised sums max_abs follows from the plan: {_coarser(query)}"
        ) from error
