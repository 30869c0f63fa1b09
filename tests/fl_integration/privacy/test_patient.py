"""Patients' gradients become whole steps of a bounded norm, whatever comes."""

import math
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from fl_integration.privacy.adaptive import AdaptiveClip
from fl_integration.privacy.client import ClientLevel
from fl_integration.privacy.clipping import cut_to, held_to
from fl_integration.privacy.patient import PatientLevel
from fl_integration.privacy.units import Noise
from protocols import LatticeSum, MaskedSum, Requirements, Session
from secagg.entropy import SeededEntropy
from secagg.errors import ParameterError

pytest.importorskip("dp_accounting")

BUDGET = {"epsilon": 8.0, "delta": 1e-4, "rounds": 10, "denominator": 740}
UNIT = PatientLevel(**BUDGET)
ANY = st.floats(width=64, allow_nan=True, allow_infinity=True)


@cache
def plan_for(length):
    return UNIT.plan(3, length=length)


@given(arrays(np.float64, (3, 5), elements=ANY))
@settings(max_examples=80, deadline=None)
def test_no_patient_moves_the_sum_by_more_than_a_clip(gradients):
    for row in gradients:
        found = UNIT.summand(row[None, :], plan=plan_for(5))
        assert sum(int(each) ** 2 for each in found) <= UNIT.steps**2
    together = UNIT.summand(gradients, plan=plan_for(5))
    apart = sum(UNIT.summand(row[None, :], plan=plan_for(5)) for row in gradients)
    assert np.array_equal(together, apart)


@given(arrays(np.float64, 5, elements=st.floats(-1, 1)), st.integers(-300, 300))
@settings(max_examples=80, deadline=None)
def test_it_is_the_clipped_gradient_cut_toward_zero(gradient, power):
    gradient = gradient * 2.0**power
    norm = math.hypot(*gradient)
    exact = gradient / max(norm, 1.0) * UNIT.steps if norm else gradient
    found = UNIT.summand(gradient[None, :], plan=plan_for(5))
    assert (np.abs(found) <= np.abs(exact) * (1 + 1e-12)).all()
    assert (np.abs(found - exact) <= 1 + 1e-9).all()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_known_sums(dtype):
    gradients = np.array([[3, 4], [0, -0.5], [math.nan, 0], [math.inf, 1], [0.6, -0.8]], dtype=dtype)
    # .6 and -.8 of 1,024 steps are 614.4 and -819.2; float32 has them a little larger or smaller.
    assert UNIT.summand(gradients, plan=plan_for(2)).tolist() == [614 + 614, 819 - 512 - 819]
    assert UNIT.summand(gradients[:0], plan=plan_for(2)).tolist() == [0, 0]


def test_huge_gradients_are_clipped_like_others_and_tiny_ones_are_cut():
    gradients = np.array([[1e200, 0.0], [1.7e308, 1.7e308], [5e-324, -1e-200]])
    assert UNIT.summand(gradients, plan=plan_for(2)).tolist() == [1024 + 724, 724]
    wide = PatientLevel(**BUDGET, clip=100.0)
    assert wide.summand(gradients[:1], plan=plan_for(2)).tolist() == [1024, 0]


def test_whatever_float64_proposes_the_integers_are_bounded():
    with np.errstate(invalid="ignore"):
        cut = cut_to(np.array([[math.nan, 1e300, -1e300], [2.0**40, 0.0, 0.0]]), steps=16)
    assert max(sum(int(each) ** 2 for each in row) for row in cut) <= 256


@given(arrays(np.int64, 6, elements=st.integers(-40, 40)), st.integers(0, 3000))
@settings(max_examples=80, deadline=None)
def test_what_exceeds_the_bound_is_drawn_toward_zero_and_it_ends(values, most):
    held = held_to(values[None, :].copy(), most=most)[0]
    assert int(held @ held) <= most
    assert (np.abs(held) <= np.abs(values)).all()
    assert (held * values >= 0).all()
    if int(values @ values) <= most:
        assert np.array_equal(held, values)


def test_float64_may_round_up_and_the_integers_notice():
    # A row that scaling has left a breath too long.
    row = np.array([[600.0, 800.0 + 1e-9]]) * 1.0000001 + 1
    cut = cut_to(row.copy(), steps=1000)
    assert int(cut[0] @ cut[0]) <= 1000**2 < 601**2 + 801**2


def test_records_of_one_patient_are_added_up_before_they_are_clipped():
    gradients = np.array([[0.6, 0.0], [0.0, 0.3], [0.6, 0.0], [0.6, 0.0], [math.nan, 0.0]])
    ids = ["b", "a", "b", "b", "a"]
    found = UNIT.summand(gradients, plan=plan_for(2), patients=ids)
    assert found.tolist() == [1024, 307]  # not 1,843: b counts once; a's second record is not there
    numbers = UNIT.summand(gradients, plan=plan_for(2), patients=np.array([7, -1, 7, 7, -1]))
    assert np.array_equal(found, numbers)


@given(st.data())
@settings(max_examples=40, deadline=None)
def test_one_patient_of_many_records_moves_the_sum_by_a_clip_at_most(data):
    rows = data.draw(st.integers(1, 12))
    ids = np.array(data.draw(st.lists(st.integers(0, 3), min_size=rows, max_size=rows)))
    gradients = data.draw(arrays(np.float64, (rows, 5), elements=st.floats(-100, 100)))
    gone = data.draw(st.sampled_from(sorted(set(ids.tolist()))))
    all_of_them = UNIT.summand(gradients, plan=plan_for(5), patients=ids)
    without = UNIT.summand(gradients[ids != gone], plan=plan_for(5), patients=ids[ids != gone])
    moved = all_of_them - without
    assert int(moved @ moved) <= UNIT.steps**2


def test_who_is_not_drawn_adds_nothing():
    rng = np.random.default_rng(1)
    gradients, ids = rng.normal(size=(40, 5)), rng.integers(0, 9, size=40)
    unit = PatientLevel(**BUDGET, sampling_rate=0.5, adaptive=AdaptiveClip(initial=1.0))
    plan = unit.plan(3, length=5)
    taken = unit.sample(40, entropy=SeededEntropy(b"who"), patients=ids)
    assert 0 < taken.sum() < 40
    drawn = unit.summand(gradients[taken], plan=plan, patients=ids[taken])
    assert np.array_equal(unit.summand(gradients, plan=plan, patients=ids, sampled=taken), drawn)
    partly = np.isin(ids, ids[taken][:1]) & (np.arange(40) != np.flatnonzero(taken)[0])
    assert partly.any()  # of one patient all records but one: she takes no part
    assert not unit.summand(gradients, plan=plan, patients=ids, sampled=partly).any()
    nobody = unit.summand(gradients, plan=plan, patients=ids, sampled=np.zeros(40, dtype=bool))
    assert not nobody.any()


def test_sampling_is_of_the_stated_rate_and_never_above():
    class Words:
        """64-bit words, one after the other."""

        def __init__(self, *words):
            self.data = b"".join(each.to_bytes(8, "little") for each in words)

        def __call__(self, size):
            return self.data[:size]

    unit = PatientLevel(**BUDGET, sampling_rate=0.1)
    edge = math.floor(0.1 * 2**64)
    assert unit.sample(4, entropy=Words(edge - 1, edge, 0, 2**64 - 1)).tolist() == [True, False, True, False]
    drawn = unit.sample(100_000, entropy=SeededEntropy(b"rate")).mean()
    assert drawn == pytest.approx(0.1, abs=4 * math.sqrt(0.09 / 100_000))
    assert UNIT.sample(3, entropy=Words()).all()
    assert unit.sample(0, entropy=Words()).shape == (0,)
    tiny = PatientLevel(**BUDGET, sampling_rate=2.0**-70)
    assert not tiny.sample(2, entropy=Words(0, 0)).any()


def test_an_empty_summand_has_the_noise_of_any_other():
    plan = plan_for(5)
    empty = UNIT.summand(np.zeros((0, 5)), plan=plan)
    one, two = (UNIT.noised(empty, plan=plan, entropy=SeededEntropy(seed)) for seed in (b"1", b"2"))
    assert one.dtype == np.int64
    assert not np.array_equal(one, two)
    again = UNIT.noised(empty + 5, plan=plan, entropy=SeededEntropy(b"1"))
    assert np.array_equal(again - one, np.full(5, 5))
    assert not empty.any()  # the summand is left as it was


def test_where_sums_cannot_wrap_a_summand_is_held_and_every_sum_fits():
    unit = PatientLevel(**BUDGET, max_patients=10)
    plan = unit.plan(3, length=2, protocol=LatticeSum(max_clients=3))
    assert plan.reach == 10 * 1024
    beyond = np.array([1 << 60, -(1 << 60)])
    held, inside = (
        unit.noised(each, plan=plan, entropy=SeededEntropy(b"n"))
        for each in (beyond, np.array([plan.reach, -plan.reach]))
    )
    assert np.array_equal(held, inside)
    assert plan.exact.max_abs == plan.reach + plan.noise.bound


def test_a_round_opens_the_mean_gradient_and_the_noise_of_the_plan():
    requirements = Requirements(corrupt_fraction=0.0, dropout_fraction=0.0)
    unit = PatientLevel(epsilon=8.0, delta=1e-3, rounds=10, denominator=100, clip=2.0)
    length = 3000
    plan = unit.plan(3, length=length, protocol=MaskedSum(max_clients=3, requirements=requirements))
    rng = np.random.default_rng(3)
    gradients = {name: rng.normal(size=(20, length)) / 30 for name in ("a", "b", "c")}
    noised = {
        name: unit.noised(unit.summand(each, plan=plan), plan=plan, entropy=SeededEntropy(name.encode()))
        for name, each in gradients.items()
    }
    total = Session(plan.exact, tuple(noised), seed=1).round(noised).sum.total
    assert np.array_equal(total, sum(noised.values()))
    clean = unit.mean(sum(unit.summand(each, plan=plan) for each in gradients.values()), plan=plan)
    norms = {name: np.linalg.norm(each, axis=1, keepdims=True) for name, each in gradients.items()}
    exact = sum((each * np.minimum(1, 2 / norms[name])).sum(axis=0) for name, each in gradients.items()) / 100
    assert np.abs(clean - exact).max() <= 60 * 2 / 1024 / 100
    noise = (unit.mean(total, plan=plan) - clean) * 100 / 2
    assert np.std(noise) == pytest.approx(plan.sigma_total / 1024, rel=4 / math.sqrt(2 * length))


def test_the_clip_follows_and_its_count_is_in_the_sensitivity():
    plain, unit = (
        PatientLevel(**BUDGET),
        PatientLevel(**BUDGET, adaptive=AdaptiveClip(initial=0.5, share=0.05)),
    )
    without, plan = plain.plan(3, length=2), unit.plan(3, length=2)
    assert plan.release.l2**2 == pytest.approx(without.release.l2**2 / 0.95, rel=1e-3)
    assert plan.length == 3
    gradients = np.array([[0.3, 0.0], [0.0, 0.4], [9.0, 0.0], [math.nan, 0.0]])
    found = unit.summand(gradients, plan=plan)
    moved = unit.summand(gradients[2:3], plan=plan).astype(object)
    assert sum(moved**2) <= plan.release.l2**2 * (1 + 1e-12)
    half = unit.adaptive.half(1024)
    assert found[-1] == half * (2 - 1)  # who is not finite is not there
    assert unit.fraction(found, plan=plan) == pytest.approx(0.5 + 1 / (2 * 740))
    wider = unit.summand(gradients[2:3], plan=plan, clip=10.0)
    assert wider.tolist() == [921, 0, half]
    assert unit.mean(wider, plan=plan, clip=10.0).tolist() == pytest.approx([921 / 1024 * 10 / 740, 0])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"epsilon": 0}, r"epsilon is 0; it must be a number in \(0, 20\]"),
        ({"epsilon": -1.0}, r"epsilon is -1.0; it must be a number in \(0, 20\]"),
        ({"epsilon": math.nan}, r"epsilon is nan; it must be"),
        ({"epsilon": math.inf}, r"epsilon is inf; it must be"),
        ({"epsilon": "1"}, r"epsilon is '1'; it must be"),
        ({"delta": 0.0}, r"delta is 0.0; it must be a number in \(0, 1\)"),
        ({"delta": 1}, r"delta is 1; it must be a number in \(0, 1\)"),
        ({"delta": 0.01}, r"delta is 0.01, above 1/denominator = 0.00135: .* lower delta"),
        ({"rounds": 0}, r"rounds is 0; it must be an integer in \[1, "),
        ({"rounds": 2.5}, r"rounds is 2.5; it must be an integer in \[1, "),
        ({"denominator": 0}, r"denominator is 0; it must be an integer in \[1, "),
        ({"clip": 0.0}, r"clip is 0.0; it must be a finite number above 0"),
        ({"clip": -1.0}, r"clip is -1.0; it must be a finite number above 0"),
        ({"sampling_rate": 0.0}, r"sampling_rate is 0.0; it must be a number in \(0, 1\]"),
        ({"sampling_rate": 1.5}, r"sampling_rate is 1.5; it must be a number in \(0, 1\]"),
        ({"steps": 1}, r"steps is 1; it must be an integer in \[16, 1048576\]"),
        (
            {"noise": "Skellam"},
            r"noise is 'Skellam'; it must be one of Noise.SKELLAM, Noise.DISCRETE_GAUSSIAN",
        ),
        ({"max_patients": 0}, r"max_patients is 0; it must be an integer in \[1, "),
        ({"patients": [1, 2]}, r"patients maps each site to the ids of its rows' patients"),
        ({"adaptive": 1.0}, r"adaptive is an AdaptiveClip\(initial=…\) or None"),
        ({"adaptive": AdaptiveClip(initial=1.0), "clip": 2.0}, r"clip and adaptive are both given"),
    ],
)
def test_units_that_are_none(change, said):
    with pytest.raises(ParameterError, match=said):
        PatientLevel(**{**BUDGET, **change})


@pytest.mark.parametrize(
    ("gradients", "rest", "said"),
    [
        (
            np.zeros(5),
            {},
            r"gradients are float64 of 1 dimensions; they must be float32 or float64\[patients, d\]",
        ),
        (np.zeros((2, 5), dtype=int), {}, r"gradients are int64 of 2 dimensions"),
        (np.zeros((2, 4)), {}, r"gradients of 4 entries; the plan is for 5"),
        (np.zeros((2, 5)), {"patients": [1]}, r"patients are int64 of shape \(1,\); they must be"),
        (np.zeros((2, 5)), {"patients": [1.0, 2.0]}, r"patients are float64 of shape \(2,\); they must be"),
        (np.zeros((2, 5)), {"sampled": [1, 0]}, r"sampled is int64 of shape \(2,\); it must be bool\[2\]"),
        (np.zeros((2, 5)), {"clip": math.inf}, r"clip is inf; it must be a finite number above 0"),
    ],
)
def test_gradients_that_are_none(gradients, rest, said):
    with pytest.raises(ParameterError, match=said):
        UNIT.summand(gradients, plan=plan_for(5), **rest)


def test_without_a_planned_length_too_many_entries_for_exact_squares_are_refused():
    unit = PatientLevel(**{**BUDGET, "epsilon": 20.0, "rounds": 1}, steps=1 << 17)
    with pytest.raises(ParameterError, match="268,435,456 entries of up to 131,072 steps: their squares do"):
        unit.summand(np.zeros((0, 1 << 28)), plan=unit.plan(3))


def test_the_mean_is_over_the_patients_that_are_drawn_on_average():
    unit = PatientLevel(**BUDGET, sampling_rate=0.5, clip=2.0)
    total = np.array([unit.steps, -3 * unit.steps], dtype=np.int64)
    expected = np.array([2.0, -6.0]) / (0.5 * unit.denominator)
    np.testing.assert_allclose(unit.mean(total, plan=unit.plan(3, length=2)), expected)


def test_a_plan_serves_the_unit_that_made_it():
    others = (
        PatientLevel(**BUDGET, steps=2048),
        PatientLevel(**BUDGET, sampling_rate=0.5),
        PatientLevel(**{**BUDGET, "rounds": 11}),
        PatientLevel(**BUDGET, adaptive=AdaptiveClip(initial=1.0)),
    )
    for other in others:
        with pytest.raises(ParameterError, match="a plan that another unit made"):
            other.summand(np.zeros((1, 5)), plan=plan_for(5))
    client = ClientLevel(epsilon=1.0, delta=1e-4, rounds=10).plan(3, length=5)
    with pytest.raises(ParameterError, match="a plan that another unit made"):
        UNIT.summand(np.zeros((1, 5)), plan=client)
    with pytest.raises(ParameterError, match="plan is what"):
        UNIT.mean(np.zeros(5, dtype=np.int64), plan=None)


def test_summands_and_totals_that_are_none():
    plan = plan_for(5)
    for wrong in (np.zeros(5), np.zeros((1, 5), dtype=np.int64), np.zeros(0, dtype=np.int64), [0] * 5):
        with pytest.raises(ParameterError, match="a summand is int64"):
            UNIT.noised(wrong, plan=plan)
    with pytest.raises(ParameterError, match="a summand of 4 entries; the plan is for 5"):
        UNIT.noised(np.zeros(4, dtype=np.int64), plan=plan)
    with pytest.raises(ParameterError, match="a total is int64"):
        UNIT.mean(np.zeros(5), plan=plan)
    with pytest.raises(ParameterError, match="a total of 6 entries; the plan is for 5"):
        UNIT.mean(np.zeros(6, dtype=np.int64), plan=plan)
    with pytest.raises(ParameterError, match="this unit has no adaptive clip"):
        UNIT.fraction(np.zeros(5, dtype=np.int64), plan=plan)


def test_a_grid_whose_squares_do_not_fit_says_so():
    with pytest.raises(ParameterError, match=r"4,194,304 entries of up to 1,048,576 steps: .* lower steps"):
        PatientLevel(**BUDGET, steps=1 << 20).plan(3, length=1 << 22)


def test_a_discrete_gaussian_does_as_well():
    unit = PatientLevel(**BUDGET, noise=Noise.DISCRETE_GAUSSIAN)
    gaussian, skellam = unit.plan(3, length=5), plan_for(5)
    assert gaussian.sigma_client == pytest.approx(skellam.sigma_client, rel=0.01)
    assert unit.noised(np.zeros(5, dtype=np.int64), plan=gaussian).shape == (5,)
