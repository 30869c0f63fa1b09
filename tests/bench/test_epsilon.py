"""FLamby's patients under differential privacy: what the page says, and what it rests on."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("sklearn")
pytest.importorskip("dp_accounting")

from bench.flamby import epsilon, membership, private
from bench.flamby.patients import load_cohort
from bench.flamby.private import Arm, gradients_of, plan_of, train
from bench.flamby.table import markdown_of
from secagg.noise import Skellam

PAGE = Path(__file__).parents[2] / "bench" / "EPSILON.md"


def at_noise(multiplier: float) -> float:
    """Mean accuracy over 25 runs with a sum's noise of so many clips, whatever an accountant says of it."""
    plan = plan_of(1.0, Arm.ALL)
    noise = Skellam(variance=(multiplier * plan.steps) ** 2 / 4)
    return float(train(Arm.ALL, 1.0, plan=replace(plan, noise=noise)).accuracy.mean())


def test_shares_that_are_sure_to_be_there():
    assert [plan_of(1.0, arm).sure_honest for arm in (Arm.ALL, Arm.DEFAULT, Arm.LOSS)] == [4, 3, 2]
    least = plan_of(1.0, Arm.ALL)
    for arm, factor in ((Arm.DEFAULT, math.sqrt(4 / 3)), (Arm.LOSS, math.sqrt(2))):
        assert plan_of(1.0, arm).sigma_total == pytest.approx(factor * least.sigma_total, rel=1e-6)
        assert plan_of(1.0, arm).sigma_trusted == pytest.approx(least.sigma_trusted, rel=1e-6)


def test_gradient_is_that_of_the_loss():
    site, weights, step = load_cohort().sites[2].train, np.linspace(-1, 1, 14), 1e-6
    losses = [membership._losses(weights + step * axis, site.x, site.y) for axis in np.eye(14)]
    there = membership._losses(weights, site.x, site.y)
    slopes = (np.array(losses).T - there[:, None]) / step
    np.testing.assert_allclose(gradients_of(weights, site.x, site.y), slopes, atol=1e-4)


@pytest.mark.parametrize("arm", [Arm.ALL, pytest.param(Arm.LOSS, marks=pytest.mark.slow)])
def test_machines_make_the_plain_sum_in_every_round(arm):
    assert train(arm, 10.0, runs=1, check=True).checked == private.ROUNDS


def test_without_noise_it_is_the_figure_of_plain_gradient_descent():
    assert float(train(Arm.ALL, math.inf, runs=1).accuracy[0]) == pytest.approx(0.719, abs=0.002)


@pytest.mark.slow
def test_noise_has_the_deviation_that_is_printed():
    """Of the first round alone, where all runs have the same gradient."""
    for arm in (Arm.ALL, Arm.ALONE):
        plan, unit = plan_of(1.0, arm), private.patient_level(1.0)
        summand = np.zeros(20_000, dtype=np.int64)
        wide = replace(plan, length=0)
        noise = sum(
            private._vector(unit, wide, summand, arm, private.stream(arm, name, 1.0, run=0, seed=1))
            for name in private.NAMES
        )
        assert noise.std() / plan.steps == pytest.approx(private.deviation_of(plan, arm), rel=0.03)


@pytest.mark.slow
@pytest.mark.parametrize(("multiplier", "mean", "deviation"), [(24.7, 0.720, 0.019), (190.0, 0.641, 0.054)])
def test_figures_at_the_noise_of_a_privacy_loss_distribution(multiplier, mean, deviation):
    """Both are means of 25 runs, so that their difference has √2 times the standard error of one."""
    assert at_noise(multiplier) == pytest.approx(mean, abs=2 * math.sqrt(2) * deviation / 5)


def test_one_that_remembers_is_told_without_noise_and_not_with_it():
    without = np.mean([membership.overfitted(math.inf, seed=seed) for seed in range(2)])
    under = np.mean([membership.overfitted(1.0, seed=seed) for seed in range(2)])
    assert without > 0.63
    assert abs(under - 0.5) < 0.06


def test_attack_counts_pairs():
    assert membership.attacked(np.array([0.0, 1.0]), np.array([1.0, 2.0])) == pytest.approx(3.5 / 4)


@pytest.mark.slow
def test_a_row_of_the_page():
    rows = epsilon.measure([1.0], arms=Arm)
    assert markdown_of(epsilon.HEADERS, epsilon.lines_of(rows)).splitlines()[2] in PAGE.read_text("utf-8")
