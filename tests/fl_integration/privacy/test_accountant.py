"""What releases cost, against dp-accounting's own numbers and against exact laws."""

import math
import textwrap
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fl_integration.privacy.accountant import _ORDERS, Release, _rdp, calibrate, epsilon_of, epsilons
from fl_integration.privacy.units import Noise
from secagg.errors import ParameterError
from secagg.noise import DiscreteGaussian, Skellam
from tests.fresh import BLOCKER, run

pytest.importorskip("dp_accounting")

FINE = 1e6
"""Steps of a grid on which integer noise is as good as Gaussian."""


def release(z, *, l2=FINE, noise=Noise.SKELLAM, **rest):
    return Release(noise=noise, l2=l2, l1=rest.pop("l1", l2 * 30), sigma=z * l2, **rest)


def test_on_a_fine_grid_it_says_what_the_gaussian_costs():
    # dp-accounting on integer orders, δ = 1e-5: a Gaussian of z = 1, and z = 1.1, q = .01 in 10,000 rounds.
    assert epsilon_of([release(1.0)], delta=1e-5) == pytest.approx(4.7527, abs=1e-4)
    assert epsilon_of({release(1.1, sampling_rate=0.01): 10_000}, delta=1e-5) == pytest.approx(
        5.6543, abs=1e-3
    )
    gaussian = release(1.0, noise=Noise.DISCRETE_GAUSSIAN, length=1000, shares=10)
    assert epsilon_of([gaussian], delta=1e-5) == pytest.approx(4.7285, abs=1e-3)  # and between them


def test_the_yardsticks_are_dp_accountings_own():
    from dp_accounting import GaussianDpEvent, PoissonSampledDpEvent, ZCDpEvent, rdp

    def by_rdp(event, count=1, orders=range(2, 129)):
        return rdp.RdpAccountant(orders).compose(event, count).get_epsilon(1e-5)

    assert by_rdp(GaussianDpEvent(1.0)) == pytest.approx(4.7527, abs=5e-5)
    assert by_rdp(ZCDpEvent(0.5, 0.0), orders=None) == pytest.approx(4.7285, abs=5e-5)
    assert by_rdp(PoissonSampledDpEvent(0.01, GaussianDpEvent(1.1)), 10_000) == pytest.approx(
        5.6543, abs=5e-5
    )


def privacy_loss(z, rounds, rate):
    from dp_accounting import GaussianDpEvent, PoissonSampledDpEvent, pld

    event = GaussianDpEvent(z) if rate == 1 else PoissonSampledDpEvent(rate, GaussianDpEvent(z))
    accountant = pld.PLDAccountant(value_discretization_interval=1e-3)
    return accountant.compose(event, rounds).get_epsilon(1e-5)


def test_it_never_says_less_than_the_privacy_loss_distribution():
    assert privacy_loss(1.0, 1, 1.0) == pytest.approx(4.3772, abs=1e-3)
    assert privacy_loss(1.1, 10_000, 0.01) == pytest.approx(5.1963, abs=2e-3)
    for z, rounds, rate in ((1.0, 1, 1.0), (4.0, 60, 1.0), (1.1, 10_000, 0.01), (2.0, 100, 0.2)):
        ours = epsilon_of({release(z, sampling_rate=rate): rounds}, delta=1e-5)
        exact = privacy_loss(z, rounds, rate)
        assert exact <= ours <= 1.2 * exact


def exact_epsilon(law, shift, delta, rate=1.0):
    """The least ε at δ of one release in one dimension, of both directions, by bisection over the pmf."""
    reach = law.bound + shift
    values = np.arange(-reach, reach + 1)
    without, with_ = law.pmf(values), law.pmf(values - shift)
    with_ = (1 - rate) * without + rate * with_

    def spent(epsilon):
        return max(
            np.maximum(one - math.exp(epsilon) * other, 0).sum()
            for one, other in ((without, with_), (with_, without))
        )

    low, high = 0.0, 60.0
    while high - low > 1e-6:
        middle = (low + high) / 2
        low, high = (low, middle) if spent(middle) <= delta else (middle, high)
    return low


@pytest.mark.parametrize("shift", [1, 3, 10])
@pytest.mark.parametrize("z", [0.7, 1.1, 4.0])
@pytest.mark.parametrize("rate", [1.0, 0.3])
def test_it_never_says_less_than_the_exact_law_in_one_dimension(shift, z, rate):
    for noise, law in (
        (Noise.SKELLAM, Skellam(variance=(z * shift) ** 2)),
        (Noise.DISCRETE_GAUSSIAN, DiscreteGaussian(sigma=z * shift)),
    ):
        said = Release(noise=noise, l2=shift, l1=shift, sigma=z * shift, length=1, sampling_rate=rate)
        exact = exact_epsilon(law, shift, 1e-5, rate)
        assert exact < epsilon_of([said], delta=1e-5)


def test_the_exact_law_is_what_others_computed():
    # Ten shares of σ 3.5, sensitivity 10, δ = 1e-5: a discrete Gaussian (by dp-accounting), a Skellam.
    assert exact_epsilon(DiscreteGaussian(sigma=3.5 * math.sqrt(10)), 10, 1e-5) == pytest.approx(
        3.8945, abs=1e-3
    )
    assert exact_epsilon(Skellam(variance=122.5), 10, 1e-5) == pytest.approx(3.818, abs=1e-3)


@given(st.floats(0.02, 0.98), st.integers(2, 40), st.lists(st.floats(-3, 3), min_size=2, max_size=6))
@settings(max_examples=60, deadline=None)
def test_of_symmetric_noise_sampling_is_worst_in_the_direction_that_is_accounted(rate, order, logs):
    # Pairs of points that a reflection swaps: P and Q exchange their chances there.
    ups = np.exp(logs)
    q = np.concatenate([1 / (1 + ups), ups / (1 + ups)]) / len(ups)
    p = np.roll(q, len(ups))
    mixed = (1 - rate) * q + rate * p
    there = (mixed**order * q ** (1.0 - order)).sum()
    back = (q**order * mixed ** (1.0 - order)).sum()
    assert back <= there * (1 + 1e-12)
    moments = [(p**each * q ** (1.0 - each)).sum() for each in range(order + 1)]
    binomial = sum(
        math.comb(order, each) * (1 - rate) ** (order - each) * rate**each * moments[each]
        for each in range(order + 1)
    )
    assert there == pytest.approx(binomial, rel=1e-9)


def curve_at(order, **release):
    return _rdp(Release(**release))[_ORDERS.tolist().index(order)]


def test_on_a_coarse_grid_curves_are_those_of_the_theorems():
    """Worked out by hand, in numbers at which each bound is the least of its theorem."""
    skellam = {"noise": Noise.SKELLAM, "l2": math.sqrt(5), "l1": 3}
    assert curve_at(8, **skellam, sigma=math.sqrt(2)) == pytest.approx(10 + 2.25)
    assert curve_at(8, **skellam, sigma=math.sqrt(50)) == pytest.approx(0.4 + 0.0093)
    assert curve_at(2.5, **skellam, sigma=math.sqrt(50)) == pytest.approx(
        ((0.1 + 0.0033) + 2 * (0.15 + 0.0043)) / 2 / 1.5
    )
    shares = {"noise": Noise.DISCRETE_GAUSSIAN, "shares": 3}  # tau is .0202613 at .8 steps a share
    wide = 0.8 * math.sqrt(3)
    assert curve_at(2, **shares, l2=3, l1=6, length=4, sigma=wide) == pytest.approx(4.768545)
    assert curve_at(8, **shares, l2=3, l1=3, length=1000, sigma=wide) == pytest.approx(20.743018)
    assert curve_at(2, **shares, l2=1, l1=1000, length=10_000, sigma=wide) == pytest.approx(7.550505)


def test_a_coarse_grid_costs_more_and_a_small_one_norm_less():
    costs = [
        epsilon_of([release(1.0, l2=steps, l1=steps * steps)], delta=1e-5) for steps in (1, 2, 8, 64, 4096)
    ]
    assert costs == sorted(costs, reverse=True)
    assert epsilon_of([release(1.0, l2=4, l1=4)], delta=1e-5) < epsilon_of(
        [release(1.0, l2=4, l1=16)], delta=1e-5
    )


def test_shares_of_discrete_gaussians_cost_what_their_sum_lacks():
    one, many = (
        release(1.0, l2=2, l1=4, noise=Noise.DISCRETE_GAUSSIAN, length=100, shares=shares)
        for shares in (1, 16)
    )
    assert epsilon_of([one], delta=1e-5) < epsilon_of([many], delta=1e-5)


@cache
def calibrated(epsilon, delta, rounds, rate, noise):
    return calibrate(
        epsilon=epsilon,
        delta=delta,
        noise=noise,
        l2=64,
        l1=640,
        rounds=rounds,
        sampling_rate=rate,
        length=100,
    )


@pytest.mark.parametrize("noise", Noise)
@pytest.mark.parametrize("epsilon", [0.05, 1.0, 12.0, 60.0])
@pytest.mark.parametrize(("rounds", "rate"), [(1, 1.0), (300, 1.0), (300, 0.05)])
def test_what_is_calibrated_is_within_the_budget_and_hardly_below(epsilon, rounds, rate, noise):
    z = calibrated(epsilon, 1e-5, rounds, rate, noise)
    cost = epsilon_of(
        {
            Release(noise=noise, l2=64, l1=640, sigma=64 * z, sampling_rate=rate, length=100): rounds,
        },
        delta=1e-5,
    )
    assert 0.999 * epsilon < cost <= epsilon


def test_epsilon_grows_round_by_round_and_ends_at_the_sum_of_all():
    for rate in (1.0, 0.1):
        one = release(3.0, sampling_rate=rate)
        grown = epsilons(one, 200, delta=1e-5)
        assert list(grown) == sorted(grown)
        assert len(grown) == 200
        for count in (1, 2, 7, 199, 200):
            assert grown[count - 1] == pytest.approx(epsilon_of({one: count}, delta=1e-5), rel=1e-9)


def test_releases_of_all_kinds_add_up():
    kinds = [release(3.0), release(2.0, sampling_rate=0.1), release(5.0, l2=10), release(3.0)]
    together = epsilon_of(kinds, delta=1e-5)
    assert together == epsilon_of({kinds[0]: 2, kinds[1]: 1, kinds[2]: 1}, delta=1e-5)
    assert max(epsilon_of([each], delta=1e-5) for each in kinds) < together
    assert epsilon_of([], delta=1e-5) == 0


def test_more_sampling_costs_more():
    costs = [
        epsilon_of({release(2.0, sampling_rate=rate): 10}, delta=1e-5) for rate in (0.01, 0.1, 0.5, 0.99, 1.0)
    ]
    assert costs == sorted(costs)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            {"noise": "Skellam"},
            "noise is 'Skellam'; it must be one of Noise.SKELLAM, Noise.DISCRETE_GAUSSIAN",
        ),
        ({"l2": 0}, "l2 is 0; it must be a finite number above 0"),
        ({"l1": math.nan}, "l1 is nan; it must be a finite number above 0"),
        ({"sigma": math.inf}, "sigma is inf; it must be a finite number above 0"),
        ({"sigma": True}, "sigma is True; it must be a finite number above 0"),
        ({"sampling_rate": 0}, r"sampling_rate is 0; it must be a number in \(0, 1\]"),
        ({"sampling_rate": 1.01}, r"sampling_rate is 1.01; it must be a number in \(0, 1\]"),
        ({"shares": 0}, r"shares is 0; it must be an integer in \[1, "),
        ({"length": -1}, r"length is -1; it must be an integer in \[0, "),
        ({"noise": Noise.DISCRETE_GAUSSIAN}, "a discrete Gaussian release without its length"),
        (
            {"noise": Noise.DISCRETE_GAUSSIAN, "length": 1, "shares": 64},
            "discrete Gaussian shares of 0.125 steps; they need 0.5",
        ),
    ],
)
def test_releases_that_are_none(change, said):
    given_ = {"noise": Noise.SKELLAM, "l2": 1.0, "l1": 1.0, "sigma": 1.0}
    with pytest.raises(ParameterError, match=said):
        Release(**{**given_, **change})


@pytest.mark.parametrize("delta", [0, 1, -1e-5, math.nan, None, True])
def test_deltas_that_are_none(delta):
    with pytest.raises(ParameterError, match=r"delta is .*; it must be a number in \(0, 1\)"):
        epsilon_of([release(1.0)], delta=delta)


def test_a_budget_that_no_noise_meets_says_which_number_to_change():
    with pytest.raises(
        ParameterError, match=r"no noise keeps 1000 rounds within epsilon 1e-12 .* raise epsilon"
    ):
        calibrate(epsilon=1e-12, delta=1e-300, noise=Noise.SKELLAM, l2=1, l1=1, rounds=1000)


def test_numpys_numbers_are_numbers():
    plain = Release(noise=Noise.SKELLAM, l2=2.0, l1=2.0, sigma=3.0, length=4)
    assert plain == Release(
        noise=Noise.SKELLAM, l2=np.float32(2), l1=np.int64(2), sigma=np.float64(3), length=np.int32(4)
    )


def test_the_rooms_open_without_dp_accounting_and_counting_names_the_extra():
    said = run(
        BLOCKER.format(library="dp_accounting")
        + textwrap.dedent(
            """
            from fl_integration import BudgetLedger, ClientLevel, PatientLevel, RowLevel
            from secagg.errors import MissingExtraError
            unit = PatientLevel(epsilon=1.0, delta=1e-4, rounds=60, denominator=740)
            try:
                unit.plan(3, length=14)
            except MissingExtraError as missing:
                print(missing)
            print(sorted({"torch", "pandas", "scipy"} & set(sys.modules)))
            """
        )
    )
    assert said == "dp-accounting is not installed; run: pip install 'secagg[privacy]'\n[]"
