"""What noise a plan asks of whom, and that it refuses what cannot be."""

import functools
import math
from dataclasses import replace

import numpy as np
import pytest

from fl_integration.privacy.accountant import Release, epsilon_of
from fl_integration.privacy.adaptive import AdaptiveClip
from fl_integration.privacy.client import ClientLevel
from fl_integration.privacy.ledger import BudgetExceededError, BudgetLedger
from fl_integration.privacy.patient import PatientLevel
from fl_integration.privacy.plan import PrivacyPlan
from fl_integration.privacy.rows import RowLevel
from fl_integration.privacy.units import Noise, Unit
from protocols import Adversary, CkksSum, LatticeSum, MaskedSum, PaillierSum, PlainSum, Requirements, simulate
from secagg.entropy import SeededEntropy
from secagg.errors import ParameterError
from secagg.noise import DiscreteGaussian, Skellam

pytest.importorskip("dp_accounting")

SPARSE = MaskedSum(max_clients=500, requirements=Requirements(corrupt_fraction=0.02, dropout_fraction=0.05))
"""A random graph against a server that may tell different clients different stories."""

DENSE = MaskedSum(max_clients=25, requirements=Requirements(corrupt_fraction=0.1, dropout_fraction=0.2))
"""Complete for 25 clients, of whom a server may ask 24 on a random graph."""

UNIT = PatientLevel(epsilon=1.0, delta=1e-4, rounds=60, denominator=740)


@functools.cache
def planned(**requirements):
    clients = requirements.pop("clients", 4)
    protocol = MaskedSum(max_clients=clients, requirements=Requirements(**requirements))
    return UNIT.plan(clients, protocol=protocol, length=14)


def test_the_table():
    assert str(UNIT.plan(3, length=14)) == (
        "protects           a patient: one patient, with all of her records, is added or removed\n"
        "clients            3, up to 1 corrupt\n"
        "sure and honest    at least 2 contributors of every sum that is opened\n"
        "noise              Skellam, σ 33.3 clips (34,085 steps) in a sum of all 3\n"
        "one trusted party  σ 27.2 clips (27,830 steps), 1.22 times less\n"
        "one client adds    σ 19.2 clips (19,679 steps)\n"
        "epsilon            0.103 after 1, 0.37 after 10, 1 after 60 rounds\n"
        "delta              0.0001: 0.0001 for the noise, 0 for the protocol's plan, "
        "6e-20 for the tables of noise\n"
        "grid               1,024 steps a clip of 1\n"
        "ring               22 bits a value, 902 bytes a client and round"
    )


def test_the_noise_is_that_of_one_trusted_party_times_the_printed_factor():
    for plan in (planned(), planned(corrupt_fraction=0.0, dropout_fraction=0.0, min_contributors=4)):
        trusted = plan.noise_multiplier * plan.release.l2
        assert plan.sigma_trusted == pytest.approx(trusted)
        assert plan.sigma_client * math.sqrt(plan.sure_honest) >= trusted
        assert plan.sigma_total == pytest.approx(trusted * plan.contributors_factor, rel=1e-9)
        assert plan.contributors_factor == math.sqrt(plan.clients / plan.sure_honest)
    assert plan.contributors_factor == 1.0
    assert planned().noise_multiplier == pytest.approx(plan.noise_multiplier, rel=1e-5)


def test_the_smallest_honest_group_is_the_protocols_word():
    for adversary in Adversary:
        plan = planned(adversary=adversary, clients=10, corrupt_fraction=0.1, dropout_fraction=0.1)
        protocol = MaskedSum(max_clients=10, requirements=plan.exact.base.requirements)
        assert plan.sure_honest == protocol.plan(10).sure_honest < 10


@pytest.mark.parametrize(
    ("roster", "cohort", "asked"),
    [
        pytest.param(20, 11, {}, id="of more clients as many survivors have fewer honest ones"),
        pytest.param(
            20,
            10,
            {"adversary": Adversary.MALICIOUS, "corrupt_fraction": 0.0, "dropout_fraction": 0.0},
            id="more clients have a random graph",
        ),
    ],
)
def test_whatever_cohort_a_server_announces_as_many_are_sure_and_honest(roster, cohort, asked):
    protocol = MaskedSum(max_clients=roster, max_total_weight=roster, requirements=Requirements(**asked))
    plan = UNIT.plan(cohort, protocol=protocol, length=14, roster=roster)
    least = plan.policy.min_contributors
    for announced in range(least, plan.exact.suite.max_clients + 1):  # a machine takes part in no others
        try:
            found = plan.exact.plan(announced, roster=roster)
        except ParameterError:  # nor in this one
            continue
        more = max(least - found.min_survivors, 0)
        voted = 2 if found.adversary is Adversary.SEMI_MALICIOUS else 1
        complete = found.degree == announced - 1
        assert found.sure_honest + (voted * more if complete else 0) >= plan.sure_honest, announced


def test_what_the_budget_buys_is_spent_round_by_round():
    plan = planned()
    assert len(plan.epsilon_by_round) == 60
    assert list(plan.epsilon_by_round) == sorted(plan.epsilon_by_round)
    assert 0.999 < plan.epsilon_by_round[-1] == plan.epsilon <= 1.0
    assert plan.epsilon == epsilon_of({plan.release: 60}, delta=plan.delta_noise)
    assert plan.delta == pytest.approx(plan.delta_noise + plan.security_failure + plan.table_failure)


def test_epsilon_never_falls_when_shares_of_noise_are_missing():
    plan = planned()
    costs = [plan.epsilon_with(shares) for shares in (1, 2, 3, 4)]
    assert costs == sorted(costs, reverse=True)
    assert plan.epsilon_with(plan.sure_honest) == pytest.approx(plan.epsilon, rel=1e-6)
    # Planned for all of three, one of whom colludes: of a Gaussian with z = 1, 4.753 becomes 6.003.
    one = Release(noise=Noise.SKELLAM, l2=1e6, l1=3e7, sigma=1e6)
    less = replace(one, sigma=1e6 * math.sqrt(2 / 3))
    assert epsilon_of([less], delta=1e-5) == pytest.approx(6.003, abs=0.01)


def test_who_pools_reads_more_and_the_report_says_what():
    first, second, third = UNIT.plan(3, length=14).meaning
    assert first == "Who reads only the sums of all 3: ε = 0.798 for a patient."
    assert second == "A client, who knows its own noise and takes it off: ε = 1 for a patient of the others."
    assert third == (
        "Two that pool what they know read the last one's sum under its own noise alone: ε = 1.48 "
        "for a patient, at δ = 0.0001; without noise they would read it exactly."
    )
    alone = "The other client reads the last one's sum"
    two = Requirements(min_contributors=2, corrupt_fraction=0.5)
    pair = UNIT.plan(2, protocol=MaskedSum(max_clients=2, requirements=two), length=14)
    assert [line.startswith(alone) for line in pair.meaning] == [False, True]


def test_shares_as_narrow_as_can_be_have_a_table_too():
    """Of half a step, where the deviation of a discrete Gaussian is .464."""
    unit = RowLevel(epsilon=20.0, delta=1e-3, noise=Noise.DISCRETE_GAUSSIAN)
    plan = unit.plan(3, length=1, l2=1.0, largest=1000)
    assert plan.sigma_client < 0.5
    assert plan.epsilon_with(plan.sure_honest) == pytest.approx(plan.epsilon, rel=1e-9)
    assert len(plan.meaning) == 3


def test_without_corrupt_clients_it_says_what_a_curious_one_reads():
    text = str(planned(corrupt_fraction=0.0, dropout_fraction=0.0, min_contributors=4))
    assert "clients            4, none of them corrupt" in text
    assert "a curious client   1.18 against a contributor that reads the sums and knows its own noise" in text
    assert "a curious client" not in str(planned())


def test_what_the_protocol_may_fail_comes_off_delta():
    requirements = Requirements(
        adversary=Adversary.SEMI_HONEST, security_bits=10, grinding_bits=0, min_contributors=50
    )
    protocol = MaskedSum(max_clients=100, requirements=requirements)
    base = protocol.plan(100)
    unit = PatientLevel(epsilon=8.0, delta=0.05, rounds=10, denominator=20)
    plan = unit.plan(100, protocol=protocol, length=10)
    assert plan.security_failure >= 10 * base.security_failure > 1e-3
    assert plan.delta_noise == pytest.approx(0.05 - plan.security_failure - plan.table_failure, rel=1e-12)
    assert plan.failure * 10 == pytest.approx(plan.security_failure + plan.table_failure)
    strict = PatientLevel(epsilon=1.0, delta=base.security_failure * 9, rounds=10, denominator=20)
    with pytest.raises(
        ParameterError, match=r"nothing is left for the noise; raise security_bits in .* or delta"
    ):
        strict.plan(100, protocol=protocol, length=10)


def test_the_distance_of_what_is_drawn_comes_off_delta():
    plan = UNIT.plan(3, length=10**6)
    assert plan.table_failure == 10**6 * 60 * 3 * (1 + math.exp(20)) * 2.0**-104
    with pytest.raises(ParameterError, match="nothing is left for the noise; raise delta, or lower rounds"):
        PatientLevel(epsilon=1.0, delta=1e-15, rounds=60, denominator=740).plan(3, length=10**6)


@pytest.mark.parametrize(
    "law", [Skellam(variance=2.0**36), DiscreteGaussian(sigma=2.0**18), Skellam(variance=1.0)]
)
def test_no_law_is_farther_from_what_is_drawn_than_is_set_aside(law):
    assert law.distance <= 2.0**-104


def test_a_ledger_of_the_same_budget_pays_for_all_rounds_and_not_for_one_more():
    unit = PatientLevel(epsilon=2.0, delta=1e-4, rounds=7, denominator=740)
    plan = unit.plan(3, length=5)
    with BudgetLedger(None, epsilon=2.0, delta=1e-4) as ledger:
        for round in range(7):
            spent = ledger.charge(
                site="a",
                roster=b"r",
                session=b"s",
                round=round,
                releases=[plan.release],
                failure=plan.failure,
            )
            # What later rounds may fail is not charged yet.
            assert spent == pytest.approx(plan.epsilon_by_round[round], rel=1e-9)
        with pytest.raises(BudgetExceededError):
            ledger.charge(site="a", roster=b"r", session=b"s", round=7, releases=[plan.release])


@pytest.mark.parametrize("protocol", [LatticeSum, PaillierSum, CkksSum])
def test_protocols_that_cannot_wrap_hold_every_sum(protocol):
    unit = PatientLevel(epsilon=8.0, delta=1e-4, rounds=10, denominator=740, max_patients=300)
    plan = unit.plan(3, protocol=protocol(max_clients=3), length=14)
    assert plan.exact.max_abs == plan.reach + plan.noise.bound == 300 * 1024 + plan.noise.bound
    assert plan.sure_honest == 2


def test_lattice_sums_open_the_sum_of_noised_summands():
    unit = RowLevel(epsilon=2.0, delta=1e-6)
    plan = unit.plan(3, length=4, l2=1.0, largest=1000, protocol=LatticeSum(max_clients=3))
    noised = {
        name: unit.noised(np.array([5, 0, -7, 1000]), plan=plan, entropy=SeededEntropy(name.encode()))
        for name in ("a", "b", "c")
    }
    assert np.array_equal(simulate(plan.exact, noised, seed=1).sum.total, sum(noised.values()))


def test_the_ring_has_room_for_the_noise_and_no_more_than_it_needs():
    for unit, length, n in ((UNIT, 14, 4), (ClientLevel(epsilon=8.0, delta=1e-3, rounds=10), 10_000, 3)):
        plan = unit.plan(n, length=length)
        assert plan.reach is None
        summands = 740 if unit is UNIT else n
        needed = 2 * (summands * plan.release.l2 + 11 * plan.sigma_total) + 1
        assert plan.ring_bits == math.ceil(math.log2(needed))
        assert plan.bytes_per_round == plan.exact.plan(n).client_sends + math.ceil(
            length * plan.ring_bits / 8
        )


@pytest.mark.parametrize("epsilon", [0.1, 1.0, 5.0, 20.0])
def test_narrow_noise_has_longer_tails_and_the_ring_room_for_them(epsilon):
    plan = RowLevel(epsilon=epsilon, delta=1e-3).plan(3, length=1000, l2=1.0, largest=1)
    summed = Skellam(variance=3 * plan.noise.variance)
    left = 2 ** (plan.ring_bits - 1) - 3  # beside the sites' summands
    assert summed.pmf(np.arange(left, 2 * left)).sum() < 1e-25


def test_without_a_length_it_plans_for_the_worst():
    known, unknown = UNIT.plan(3, length=14), UNIT.plan(3)
    assert unknown.noise_multiplier >= known.noise_multiplier
    assert unknown.table_failure > known.table_failure
    assert (unknown.length, unknown.bytes_per_round) == (0, 0)
    assert UNIT.summand(np.zeros((1, 7)), plan=unknown).shape == (7,)


def test_sampling_buys_accuracy():
    sampled = PatientLevel(epsilon=1.0, delta=1e-4, rounds=60, denominator=740, sampling_rate=0.1)
    plan = sampled.plan(3, length=14)
    # The noise in the mean gradient: σ over q·N. It is more than at q = 1, for a tenth of the gradients.
    assert plan.sigma_trusted < UNIT.plan(3, length=14).sigma_trusted / 5
    assert "sampled            each patient with probability 0.1, in secret" in str(plan)


def test_rows_have_the_sensitivity_that_is_given():
    unit = RowLevel(epsilon=1.0, delta=1e-6)
    one = unit.plan(3, length=10, l2=1.0, largest=1000)
    assert (one.unit, one.release.l2, one.release.l1) == (Unit.ROW, 1.0, 1.0)
    three = unit.plan(3, length=10, l2=math.sqrt(3), largest=1000)
    assert three.release.l1 == pytest.approx(3.0)
    assert three.sigma_client == pytest.approx(one.sigma_client * math.sqrt(3), rel=0.05)
    assert unit.plan(3, length=10, l2=10.0, l1=12.0, largest=1000).release.l1 == 12.0
    assert unit.plan(3, length=10, l2=1.0, largest=1000, sums=5).sigma_client > 2 * one.sigma_client
    assert "grid" not in str(one)


@pytest.mark.parametrize(
    ("n", "protocol", "said"),
    [
        (3, PlainSum(max_clients=3), "PlainSum shows each client's vector to the server"),
        (3, MaskedSum(max_clients=3).exact(max_abs=5), "protocol is a protocol such as MaskedSum"),
        (3, "MaskedSum", "protocol is a protocol such as MaskedSum"),
        (4, MaskedSum(max_clients=3), "4 clients; the protocol's max_clients is 3: raise it"),
        (0, MaskedSum(max_clients=3), "a plan for 0 clients"),
        (2, None, "min_contributors 3 is above max_clients 2"),
        (
            500,
            SPARSE,
            r"no sum is sure to have an honest contributor, .*: take Adversary.MALICIOUS, a smaller ",
        ),
        (25, DENSE, "with 25 clients or a part of them, .* no sum is sure to have an honest contributor"),
    ],
)
def test_plans_that_cannot_be(n, protocol, said):
    with pytest.raises(ParameterError, match=said):
        UNIT.plan(n, protocol=protocol, length=14)


def test_a_group_for_which_nothing_is_promised_is_bought():
    malicious = Requirements(adversary=Adversary.MALICIOUS, min_contributors=300)
    plan = UNIT.plan(500, protocol=MaskedSum(max_clients=500, requirements=malicious), length=14)
    assert plan.sure_honest >= 2
    assert plan.contributors_factor == math.sqrt(500 / plan.sure_honest)


def test_noise_that_is_too_wide_and_sums_that_are_too_wide_say_what_to_change():
    with pytest.raises(
        ParameterError, match=r"at most 262,144 can be drawn: lower steps, .* or raise epsilon"
    ):
        PatientLevel(epsilon=0.1, delta=1e-4, rounds=60, denominator=740, steps=8192).plan(3, length=14)
    wide = RowLevel(epsilon=1.0, delta=1e-6)
    with pytest.raises(
        ParameterError, match=r"63 bits a value; 62 fit: raise epsilon, or count in coarser units"
    ):
        wide.plan(3, length=4, l2=1.0, largest=1 << 60)
    with pytest.raises(
        ParameterError, match=r"max_abs follows from the plan: raise epsilon, or count in coarser"
    ):
        wide.plan(3, length=4, l2=1.0, largest=1 << 61, protocol=LatticeSum(max_clients=3))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"length": 0}, r"length is 0; it must be an integer in \[1, "),
        ({"l2": 0.5}, "l2 is 0.5; sums are whole, so one row that counts moves them by at least 1"),
        ({"l2": math.nan}, "l2 is nan; it must be a finite number above 0"),
        ({"l1": -1}, "l1 is -1; it must be a finite number above 0"),
        ({"largest": 0}, r"largest is 0; it must be an integer in \[1, "),
        ({"sums": 0}, r"sums is 0; it must be an integer in \[1, "),
    ],
)
def test_questions_that_are_none(change, said):
    unit = RowLevel(epsilon=1.0, delta=1e-6)
    with pytest.raises(ParameterError, match=said):
        unit.plan(3, **{"length": 4, "l2": 1.0, "largest": 10, **change})


@pytest.mark.parametrize(
    ("epsilon", "delta"), [(0, 1e-6), (21, 1e-6), (1, 0), (1, 1.0), (1, 0.5), (1, 0.0011), (True, 1e-6)]
)
def test_budgets_of_rows_that_are_none(epsilon, delta):
    with pytest.raises(ParameterError, match=r"epsilon is|delta is"):
        RowLevel(epsilon=epsilon, delta=delta)


def test_a_clip_that_follows_finds_the_quantile():
    clip = AdaptiveClip(initial=0.01, quantile=0.7)
    norms, current = np.linspace(0, 10, 1001), 0.01
    for _ in range(200):
        current = clip.next(current, fraction=float(np.mean(norms <= current)))
    assert current == pytest.approx(7.0, rel=0.01)
    assert clip.next(1.0, fraction=9.0) == clip.next(1.0, fraction=1.0) < 1 < clip.next(1.0, fraction=-9.0)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"initial": 0}, "initial is 0; it must be a finite number above 0"),
        ({"quantile": 0}, r"quantile is 0; it must be a number in \(0, 1\]"),
        ({"quantile": 1.5}, r"quantile is 1.5; it must be a number in \(0, 1\]"),
        ({"learning_rate": math.nan}, r"learning_rate is nan; it must be a number in \(0, 10\]"),
        ({"share": 0.6}, r"share is 0.6; it must be a number in \(0, 0.5\]"),
        ({"share": "half"}, r"share is 'half'; it must be"),
    ],
)
def test_clips_that_do_not_follow(change, said):
    with pytest.raises(ParameterError, match=said):
        AdaptiveClip(**{"initial": 1.0, **change})


def test_a_fraction_that_is_none():
    with pytest.raises(ParameterError, match="fraction is NaN"):
        AdaptiveClip(initial=1.0).next(1.0, fraction=math.nan)


def test_a_plan_is_a_value():
    assert UNIT.plan(3, length=14) == UNIT.plan(np.int64(3), length=np.int32(14))
    assert isinstance(UNIT.plan(3), PrivacyPlan)
