"""Updates of clients, against what TensorFlow Federated's own tests expect of its aggregator."""

import math
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fl_integration.privacy.adaptive import AdaptiveClip
from fl_integration.privacy.client import ClientLevel
from fl_integration.privacy.rotation import Rotation, back, padded, rotated
from fl_integration.privacy.rounding import most_squares, rounded, steps_for
from protocols import MaskedSum, PaillierSum, Requirements
from secagg.entropy import SeededEntropy
from secagg.errors import ParameterError

pytest.importorskip("dp_accounting")

BUDGET = {"epsilon": 8.0, "delta": 1e-3, "rounds": 2}
SEED = b"public, one for a round"


@cache
def plan_of(unit, length, n=3):
    return unit.plan(n, length=length)


@pytest.mark.parametrize("rotation", [Rotation.ON, Rotation.OFF])
def test_without_noise_a_sum_is_the_sum(rotation):
    # TFF: clip 10, 20 bits, clients -1, 2 and 3 add up to 4, within 1e-3.
    unit = ClientLevel(**BUDGET, clip=10.0, steps=1 << 18, rotation=rotation)
    plan = plan_of(unit, 1)
    sent = [unit.summand(np.array([value]), plan=plan, round_seed=SEED) for value in (-1.0, 2.0, 3.0)]
    mean = unit.mean(sum(sent), contributors=3, plan=plan, round_seed=SEED)
    assert 3 * mean == pytest.approx([4.0], abs=1e-3)


@pytest.mark.parametrize("rotation", [Rotation.ON, Rotation.OFF])
def test_updates_are_clipped_and_the_clip_follows(rotation):
    # TFF: .5, 1.5 and 2 along one of 99 axes, clip 1: 2.5, within 1e-4; then the clip is e^(2/3).
    adaptive = AdaptiveClip(initial=1.0, quantile=1.0, learning_rate=1.0)
    unit = ClientLevel(**BUDGET, steps=1 << 18, rotation=rotation, adaptive=adaptive)
    plan = plan_of(unit, 99)
    axis = np.eye(99)[0]
    sent = [unit.summand(size * axis, plan=plan, round_seed=SEED) for size in (0.5, 1.5, 2.0)]
    total = sum(sent)
    mean = unit.mean(total, contributors=3, plan=plan, round_seed=SEED)
    assert 3 * mean == pytest.approx(2.5 * axis, abs=1e-4)
    clip = adaptive.next(1.0, fraction=unit.fraction(total, contributors=3, plan=plan))
    assert clip == pytest.approx(math.exp(2 / 3), rel=1e-12)
    whole = unit.summand(2.0 * axis, plan=plan, round_seed=SEED, clip=2.0)
    assert whole[-1] == adaptive.half(plan.steps)
    assert unit.mean(whole, contributors=1, plan=plan, round_seed=SEED, clip=2.0) == pytest.approx(
        2 * axis, abs=1e-4
    )


def test_the_noise_of_a_sum_has_the_standard_deviation_of_the_plan():
    # TFF: two clients of 1.0, clip 1, 12 runs; here as many values at once, and the plan's own σ.
    both = MaskedSum(max_clients=2, requirements=Requirements(corrupt_fraction=0, min_contributors=2))
    unit = ClientLevel(epsilon=1.0, delta=1e-3, rounds=1, steps=300)
    plan = unit.plan(2, length=2000, protocol=both)
    one = unit.summand(np.full(2000, 2000**-0.5), plan=plan)
    clean = unit.mean(2 * one, contributors=2, plan=plan)
    runs = [
        unit.mean(
            sum(unit.noised(one, plan=plan, entropy=SeededEntropy(b"%d %d" % (run, who))) for who in (0, 1)),
            contributors=2,
            plan=plan,
        )
        for run in range(12)
    ]
    assert np.std(np.array(runs) - clean) * 2 * 300 == pytest.approx(
        plan.sigma_total, rel=4 / math.sqrt(2 * 24_000)
    )
    assert plan.sigma_total == pytest.approx(plan.noise_multiplier * plan.release.l2, rel=1e-9)  # h is 2


@given(st.integers(1, 300), st.floats(0.01, 100.0), st.binary(min_size=8, max_size=8))
@settings(max_examples=60, deadline=None)
def test_rounding_goes_to_a_neighbour_and_keeps_the_bound(length, scale, seed):
    rng = np.random.default_rng(list(seed))
    vector = rng.normal(size=length)
    steps = steps_for(length)
    vector *= steps * min(scale, 1.0) / np.linalg.norm(vector)
    most = most_squares(steps, length)
    found = rounded(vector, steps=steps, most=most, entropy=SeededEntropy(seed))
    assert int(found @ found) <= most <= (1.01 * steps) ** 2
    assert (np.abs(found - vector) < 1 + 1e-9).all()


def test_rounding_is_without_bias():
    vector = np.tile([0.25, -1.75, 3.0], 40_000)
    most = most_squares(10_000, len(vector))
    found = rounded(vector, steps=10_000, most=most, entropy=SeededEntropy(b"bias")).reshape(-1, 3)
    assert set(np.unique(found[:, 0])) == {0, 1}
    assert found.mean(axis=0) == pytest.approx([0.25, -1.75, 3.0], abs=4 * 0.44 / 200)


def test_where_chance_is_broken_rounding_ends_and_keeps_the_bound():
    def always_up(size):
        asked.append(size)
        return bytes(size)

    asked = []
    vector = np.full(10_000, 0.0001)
    found = rounded(vector, steps=1, most=most_squares(1, 10_000), entropy=always_up)
    assert int(found @ found) <= most_squares(1, 10_000)
    # A bound below what any draw can meet: all tries are spent, and entries are cut toward zero.
    asked.clear()
    long = np.full(4, 100.5)
    assert rounded(long, steps=201, most=40_000, entropy=always_up).tolist() == [100] * 4
    assert len(asked) == 64


def test_the_grid_is_as_coarse_as_one_percent_allows():
    for length in (1, 10, 1000, 1_000_000):
        steps = steps_for(length)
        assert most_squares(steps, length) <= (1.01 * steps) ** 2
        assert most_squares(steps - 1, length) > (1.01 * (steps - 1)) ** 2
    assert steps_for(1_000_000) == pytest.approx(3.6 * 1000, rel=0.02)
    # Far above, rounding adds what Kairouz+ 2021 say; grids of 160 and 10,240 steps a clip.
    for steps, inflation in ((160, 3.29), (640, 1.27), (10_240, 1.001)):
        assert math.sqrt(most_squares(steps, 1_000_000)) / steps == pytest.approx(inflation, abs=0.005)


@given(st.integers(1, 3000), st.binary(min_size=16, max_size=32))
@settings(max_examples=40, deadline=None)
def test_a_rotation_keeps_norms_and_comes_back(length, seed):
    vector = np.random.default_rng(length).normal(size=length)
    turned = rotated(vector, seed=seed)
    assert len(turned) == padded(length)
    assert np.linalg.norm(turned) == pytest.approx(np.linalg.norm(vector), rel=1e-12)
    assert back(turned, seed=seed, length=length) == pytest.approx(vector, abs=1e-12)


def test_a_rotation_spreads_a_spike_over_its_block_of_a_long_vector():
    spike = np.zeros(40_000)
    spike[20_000] = 128.0
    turned = rotated(spike, seed=SEED)
    assert len(turned) == 3 * 16_384
    assert np.abs(turned[16_384:32_768]) == pytest.approx(np.ones(16_384))
    assert not turned[:16_384].any()
    two = rotated(np.roll(spike, 1) + spike, seed=SEED)
    assert set(np.abs(two[16_384:32_768]).round(6)) == {0.0, 2.0}


def test_rotation_comes_from_thirty_clients_on():
    unit = ClientLevel(**BUDGET)
    few, many = plan_of(unit, 3000), plan_of(unit, 3000, n=40)
    assert (few.length, many.length) == (3000, 4096)
    assert plan_of(ClientLevel(**BUDGET, rotation=Rotation.OFF), 3000, n=40).ring_bits > many.ring_bits
    update = np.zeros(3000)
    assert len(unit.summand(update, plan=few)) == 3000
    with pytest.raises(ParameterError, match="a rotation takes a round_seed of at least 16 bytes"):
        unit.summand(update, plan=many)


@given(st.lists(st.floats(allow_nan=True, allow_infinity=True), min_size=4, max_size=4))
@settings(max_examples=60, deadline=None)
def test_no_client_moves_the_sum_by_more_than_the_plan_says(update):
    unit = ClientLevel(**BUDGET, adaptive=AdaptiveClip(initial=1.0))
    plan = plan_of(unit, 4)
    found = unit.summand(np.array(update), plan=plan)
    squares = sum(int(each) ** 2 for each in found)
    assert squares <= round(plan.release.l2**2)
    assert sum(abs(int(each)) for each in found) <= plan.release.l1 * (1 + 1e-12)
    assert math.isfinite(sum(update)) or not found.any() or np.isfinite(update).all()


def test_a_summand_fits_where_sums_cannot_wrap():
    unit = ClientLevel(**BUDGET)
    plan = unit.plan(3, length=4, protocol=PaillierSum(max_clients=3))
    found = unit.noised(
        unit.summand(np.array([9.0, 0, 0, 0]), plan=plan), plan=plan, entropy=SeededEntropy(b"n")
    )
    assert np.abs(found).max() <= plan.exact.max_abs
    assert plan.reach == math.isqrt(most_squares(plan.steps, 4))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"epsilon": 0}, r"epsilon is 0; it must be a number in \(0, 20\]"),
        ({"delta": math.nan}, r"delta is nan; it must be a number in \(0, 1\)"),
        ({"rounds": True}, r"rounds is True; it must be an integer in \[1, "),
        ({"clip": math.inf}, r"clip is inf; it must be a finite number above 0"),
        ({"steps": 15}, r"steps is 15; it must be an integer in \[16, "),
        ({"rotation": True}, r"rotation is True; it must be one of Rotation.AUTO, Rotation.ON, Rotation.OFF"),
        ({"noise": None}, r"noise is None; it must be one of Noise.SKELLAM"),
        ({"adaptive": AdaptiveClip(initial=1.0), "clip": 3.0}, "clip and adaptive are both given"),
    ],
)
def test_units_that_are_none(change, said):
    with pytest.raises(ParameterError, match=said):
        ClientLevel(**{**BUDGET, **change})


def test_plans_that_are_none():
    unit = ClientLevel(**BUDGET)
    with pytest.raises(ParameterError, match="a plan for whole updates without their length; pass length="):
        unit.plan(3)
    with pytest.raises(ParameterError, match=r"delta is 0.5, above 1/3: .* lower delta"):
        ClientLevel(epsilon=1.0, delta=0.5, rounds=1).plan(3, length=4)
    with pytest.raises(ParameterError, match=r"their squares do not fit 63 bits; lower steps"):
        ClientLevel(**BUDGET, steps=1 << 30).plan(3, length=1_000_000)


def test_updates_and_totals_that_are_none():
    unit = ClientLevel(**BUDGET)
    plan = plan_of(unit, 4)
    with pytest.raises(ParameterError, match=r"an update is float64 of 2 dimensions; it must be"):
        unit.summand(np.zeros((1, 4)), plan=plan)
    with pytest.raises(ParameterError, match=r"an update is int64 of 1 dimensions"):
        unit.summand(np.zeros(4, dtype=int), plan=plan)
    with pytest.raises(ParameterError, match="an update of 5 entries; the plan is for 4"):
        unit.summand(np.zeros(5), plan=plan)
    total = np.zeros(4, dtype=np.int64)
    with pytest.raises(ParameterError, match=r"contributors is 0; it must be an integer in \[1, "):
        unit.mean(total, contributors=0, plan=plan)
    with pytest.raises(ParameterError, match="a total of 5 entries; the plan is for 4"):
        unit.mean(np.zeros(5, dtype=np.int64), contributors=3, plan=plan)
    with pytest.raises(ParameterError, match="this unit has no adaptive clip"):
        unit.fraction(total, contributors=3, plan=plan)
    with pytest.raises(ParameterError, match="a plan that another unit made"):
        ClientLevel(**{**BUDGET, "rounds": 3}).summand(np.zeros(4), plan=plan)
    with pytest.raises(ParameterError, match="plan is what"):
        unit.summand(np.zeros(4), plan=None)
