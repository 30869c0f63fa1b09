"""Server optimisers: known answers, a slow reference in Python's floats, Flower's, equality in every bit."""

import math
import tracemalloc
from dataclasses import FrozenInstanceError
from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fl_integration.loop import optimisers
from fl_integration.loop.optimisers import (
    BiasCorrection,
    FedAdagrad,
    FedAdam,
    FedAvg,
    FedAvgM,
    FedYogi,
    OptimiserState,
    ServerOptimiser,
)
from secagg.errors import ParameterError

EVERY = [
    FedAvg(),
    FedAvg(learning_rate=0.7),
    FedAvgM(learning_rate=0.3, momentum=0.8),
    FedAdagrad(),
    FedAdagrad(momentum=0.9),
    FedAdam(),
    FedAdam(momentum=0.0, second_momentum=0.999, adaptivity=1e-8),
    FedAdam(bias_correction=BiasCorrection.KINGMA),
    FedYogi(),
    FedYogi(learning_rate=0.01, second_momentum=0.5),
]
KEPT = [each for each in EVERY if not isinstance(each, FedAvg)]


@pytest.fixture(params=EVERY, ids=repr)
def optimiser(request) -> ServerOptimiser:
    return request.param


def means(length: int, rounds: int, *, seed: int = 1) -> np.ndarray:
    """[rounds, length]: normal, of magnitudes from 1e-6 to 1e2, some of them zero."""
    generator = np.random.default_rng(seed)
    values = generator.normal(size=(rounds, length)) * 10.0 ** generator.integers(-6, 3, size=length)
    return np.where(generator.random((rounds, length)) < 0.1, 0.0, values)


def deltas(optimiser: ServerOptimiser, updates: np.ndarray) -> np.ndarray:
    """What the optimiser answers to these means, one after the other."""
    state, answers = optimiser.start(updates.shape[1]), []
    for number, mean in enumerate(updates):
        state, delta = optimiser.step(state, mean, round=number)
        answers.append(delta)
    return np.array(answers)


def reference(optimiser: ServerOptimiser, updates: np.ndarray) -> np.ndarray:
    """Alg. 2 as it is printed, one value after the other."""
    answers = np.zeros_like(updates)
    for column in range(updates.shape[1]):
        m = v = 0.0
        for t, mean in enumerate(map(float, updates[:, column])):
            rate = optimiser.rate(t)
            if isinstance(optimiser, FedAvg):
                answers[t, column] = rate * mean
                continue
            if isinstance(optimiser, FedAvgM):
                m = optimiser.momentum * m + mean
                answers[t, column] = rate * m
                continue
            m = optimiser.momentum * m + (1 - optimiser.momentum) * mean
            square = mean * mean
            if isinstance(optimiser, FedAdagrad):
                v = v + square
            elif isinstance(optimiser, FedAdam):
                v = optimiser.second_momentum * v + (1 - optimiser.second_momentum) * square
                if optimiser.bias_correction is not BiasCorrection.NONE:
                    second = math.prod([optimiser.second_momentum] * (t + 1))
                    rate = rate * math.sqrt(1 - second) / (1 - math.prod([optimiser.momentum] * (t + 1)))
            else:
                sign = (v > square) - (v < square)
                v = v - (1 - optimiser.second_momentum) * square * sign
            answers[t, column] = rate * m / (math.sqrt(v) + optimiser.adaptivity)
    return answers


# --- known answers ---------------------------------------------------------------------------------------


def test_first_steps_by_hand():
    mean = np.array([3.0, -0.5, 0.0])
    first = {
        FedAvg(learning_rate=0.5): [1.5, -0.25, 0.0],
        FedAvgM(learning_rate=2.0): [6.0, -1.0, 0.0],
        FedAdagrad(learning_rate=1.0, adaptivity=1.0): [3 / 4, -0.5 / 1.5, 0.0],
        # m is a tenth of the mean; v is 1 % of its square, and the root of that a tenth of the mean.
        FedAdam(learning_rate=1.0, adaptivity=0.1): [0.3 / 0.4, -0.05 / 0.15, 0.0],
        FedYogi(learning_rate=1.0, adaptivity=0.1): [0.3 / 0.4, -0.05 / 0.15, 0.0],
    }
    for optimiser, expected in first.items():
        (delta,) = deltas(optimiser, mean[None])
        np.testing.assert_allclose(delta, expected, rtol=1e-14, atol=0)


def test_second_steps_by_hand():
    updates = np.array([[4.0], [-2.0]])
    second = {
        FedAvgM(momentum=0.5): 0.0,
        FedAdagrad(learning_rate=1.0, adaptivity=1e-3): -2 / (math.sqrt(20) + 1e-3),
        FedAdam(learning_rate=1.0, momentum=0.5, second_momentum=0.5, adaptivity=1.0): 0.0,
        FedAdam(learning_rate=1.0, momentum=0.0, second_momentum=0.5, adaptivity=1.0): -2 / (6**0.5 + 1),
        # v is 8 after the first step, above 4, and falls by half of 4.
        FedYogi(learning_rate=1.0, momentum=0.0, second_momentum=0.5, adaptivity=1.0): -2 / (6**0.5 + 1),
        # v is 1.6, below 4, and rises by a tenth of 4.
        FedYogi(learning_rate=1.0, momentum=0.0, second_momentum=0.9, adaptivity=1.0): -2 / (2**0.5 + 1),
    }
    for optimiser, expected in second.items():
        assert deltas(optimiser, updates)[1, 0] == pytest.approx(expected, rel=1e-12)


def test_yogi_stands_still_where_v_is_the_square():
    optimiser = FedYogi(momentum=0.0, second_momentum=0.0)
    state = OptimiserState(steps=1, moments=(np.array([4.0]),))
    assert optimiser.step(state, np.array([2.0]), round=1)[0].moments[0] == 4.0


def test_bias_correction_makes_the_first_step_of_adam_one_learning_rate():
    optimiser = FedAdam(learning_rate=0.01, adaptivity=1e-12, bias_correction=BiasCorrection.KINGMA)
    np.testing.assert_allclose(deltas(optimiser, np.array([[5.0, -0.2]])), [[0.01, -0.01]], rtol=1e-9)


def test_every_optimiser_is_its_reference_bit_for_bit(optimiser):
    updates = means(40, 12)
    np.testing.assert_array_equal(deltas(optimiser, updates), reference(optimiser, updates))


def test_reference_is_the_exact_recursion_rounded():
    """The reference itself, against rational numbers: v of Yogi after some steps."""
    updates, v = means(1, 9)[:, 0], Fraction(0)
    share = 1 - Fraction(FedYogi().second_momentum)
    for mean in map(Fraction, updates):
        v -= share * mean**2 * ((v > mean**2) - (v < mean**2))
    state = FedYogi().start(1)
    for mean in updates:
        state, _ = FedYogi().step(state, np.array([mean]), round=0)
    assert state.moments[1][0] == pytest.approx(float(v), rel=1e-13)


# --- Flower's ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "ours", "tolerance"),
    [
        ("FedAdam", FedAdam(bias_correction=BiasCorrection.FLOWER, adaptivity=1e-9), 1e-15),
        ("FedYogi", FedYogi(learning_rate=0.01, adaptivity=1e-3), 0.0),
        ("FedAdagrad", FedAdagrad(adaptivity=1e-9), 0.0),
    ],
)
def test_fifteen_rounds_of_flower(name, ours, tolerance):
    strategy, common = pytest.importorskip("flwr.server.strategy"), pytest.importorskip("flwr.common")
    model = np.random.default_rng(5).normal(size=200)
    betas = {} if name == "FedAdagrad" else {"beta_1": ours.momentum, "beta_2": ours.second_momentum}
    theirs = getattr(strategy, name)(
        initial_parameters=common.ndarrays_to_parameters([model]),
        eta=ours.learning_rate,
        tau=ours.adaptivity,
        **betas,
    )
    state = ours.start(len(model))
    for number, mean in enumerate(means(len(model), 15, seed=6) / 100):
        trained = model + mean
        result = common.FitRes(
            status=common.Status(code=common.Code.OK, message=""),
            parameters=common.ndarrays_to_parameters([trained]),
            num_examples=1,
            metrics={},
        )
        answer, _ = theirs.aggregate_fit(number + 1, [(None, result)], [])
        state, delta = ours.step(state, trained - model, round=number)
        (expected,) = common.parameters_to_ndarrays(answer)
        np.testing.assert_allclose(model + delta, expected, rtol=tolerance, atol=tolerance)
        model = expected


# --- how they relate to each other ------------------------------------------------------------------------


def test_fedavg_with_rate_one_is_the_mean_itself():
    mean = np.array([-0.0, 5e-324, 0.1])
    _, delta = FedAvg().step(FedAvg().start(3), mean, round=0)
    assert delta is mean
    _, scheduled = FedAvg(learning_rate=[0.5, 1]).step(FedAvg().start(3), mean, round=1)
    assert scheduled is mean


def test_fedavgm_without_momentum_is_fedavg():
    updates = means(30, 5)
    plain = deltas(FedAvg(learning_rate=0.3), updates)
    np.testing.assert_array_equal(deltas(FedAvgM(learning_rate=0.3, momentum=0.0), updates), plain)


def test_fedavgm_moves_ten_times_as_far_in_the_long_run():
    assert deltas(FedAvgM(), np.ones((400, 1)))[-1, 0] == pytest.approx(10.0)


def test_yogi_is_adagrad_while_v_is_below_the_square_of_the_mean():
    """(1 - beta_2) comes out of the root; with a constant mean that holds for 1 / (1 - beta_2) rounds."""
    updates = np.tile(np.linspace(-20, 20, 20), (15, 1))
    factor = 1 / math.sqrt(1 - 0.9)
    yogi = FedYogi(learning_rate=0.01, momentum=0.9, second_momentum=0.9, adaptivity=1e-3)
    adagrad = FedAdagrad(learning_rate=0.01 * factor, momentum=0.9, adaptivity=1e-3 * factor)
    ours, theirs = deltas(yogi, updates), deltas(adagrad, updates)
    np.testing.assert_allclose(ours[:10], theirs[:10], rtol=1e-12)
    assert (np.abs(ours[12:] / theirs[12:] - 1) > 1e-2).all()


def test_adagrad_is_adam_with_a_memory_that_never_fades():
    """(1 - beta_2) sum of squares, as beta_2 goes to 1."""
    gap = 2.0**-30
    adam = FedAdam(learning_rate=1.0, momentum=0.0, second_momentum=1 - gap, adaptivity=2.0**-25)
    adagrad = FedAdagrad(learning_rate=2.0**15, adaptivity=2.0**-10)
    updates = means(20, 8)
    np.testing.assert_allclose(deltas(adam, updates), deltas(adagrad, updates), rtol=1e-7)


def test_adaptive_steps_do_not_depend_on_the_scale_of_the_mean():
    """A power of two scales without rounding, and so does all that follows."""
    updates = means(30, 6)
    for optimiser in (FedAdagrad, FedAdam, FedYogi):
        small, large = optimiser(adaptivity=2.0**-20), optimiser(adaptivity=2.0**-10)
        np.testing.assert_array_equal(deltas(small, updates), deltas(large, updates * 2.0**10))


def test_odd_in_the_mean(optimiser):
    updates = means(30, 6)
    np.testing.assert_array_equal(deltas(optimiser, -updates), -deltas(optimiser, updates))


def test_schedule_is_read_by_round():
    rates = [0.5, 0.25, 2.0]
    updates = means(10, 3)
    for each in (FedAvg, FedAvgM, FedAdagrad, FedAdam, FedYogi):
        scheduled, steady = (
            deltas(each(learning_rate=rates), updates),
            deltas(each(learning_rate=1.0), updates),
        )
        np.testing.assert_array_equal(scheduled, steady * np.array(rates)[:, None])


def test_round_chooses_the_rate_and_nothing_else():
    optimiser, mean = FedAdam(bias_correction=BiasCorrection.KINGMA), means(10, 1)[0]
    first = optimiser.step(optimiser.start(10), mean, round=0)[1]
    np.testing.assert_array_equal(optimiser.step(optimiser.start(10), mean, round=7)[1], first)


# --- equal in every bit -----------------------------------------------------------------------------------


@given(
    values=hnp.arrays(np.float64, (3, 33), elements=st.floats(-1e3, 1e3)),
    cuts=st.lists(st.integers(1, 32), max_size=6, unique=True),
    optimiser=st.sampled_from(EVERY),
)
def test_whole_is_its_parts(values, cuts, optimiser):
    whole = deltas(optimiser, values)
    bounds = [0, *sorted(cuts), values.shape[1]]
    parts = [deltas(optimiser, np.ascontiguousarray(values[:, a:b])) for a, b in pairwise(bounds)]
    np.testing.assert_array_equal(np.hstack(parts).view(np.uint64), whole.view(np.uint64))


@pytest.mark.parametrize("size", [1, 7, 64, 1000])
def test_chunks_do_not_show(optimiser, size, monkeypatch):
    updates = means(999, 3)
    expected = deltas(optimiser, updates)
    monkeypatch.setattr(optimisers, "_CHUNK", size)
    np.testing.assert_array_equal(deltas(optimiser, updates).view(np.uint64), expected.view(np.uint64))


def test_more_than_one_chunk_of_the_real_size(optimiser):
    length = 2 * optimisers._CHUNK + 3
    updates = means(length, 2)
    whole = deltas(optimiser, updates)
    for place in (0, optimisers._CHUNK - 1, optimisers._CHUNK, length - 1):
        alone = deltas(optimiser, np.ascontiguousarray(updates[:, place : place + 1]))
        np.testing.assert_array_equal(whole[:, place], alone[:, 0])


@pytest.mark.parametrize("offset", [1, 4, 8, 24])
def test_alignment_does_not_show(optimiser, offset):
    updates = means(131, 3)
    expected, state = deltas(optimiser, updates), optimiser.start(131)
    for number, mean in enumerate(updates):
        moved = np.frombuffer(bytes(offset) + mean.tobytes(), np.float64, offset=offset)
        state, delta = optimiser.step(state, moved, round=number)
        np.testing.assert_array_equal(delta, expected[number])


def test_arguments_are_left_alone(optimiser):
    updates = means(50, 2)
    state, _ = optimiser.step(optimiser.start(50), updates[0], round=0)
    mean, before = updates[1], updates[1].copy()
    kept = [moment.copy() for moment in state.moments]
    following, delta = optimiser.step(state, mean, round=1)
    again, same = optimiser.step(state, mean, round=1)
    np.testing.assert_array_equal(mean, before)
    np.testing.assert_array_equal(same, delta)
    assert (state.steps, following.steps, again.steps) == (1, 2, 2)
    for old, copied, new in zip(state.moments, kept, following.moments, strict=True):
        np.testing.assert_array_equal(old, copied)
        assert not np.shares_memory(old, new)


def test_nothing_is_held_but_the_result(optimiser):
    length = 1 << 18
    state, mean = optimiser.start(length), np.ones(length)
    optimiser.step(state, mean, round=0)
    tracemalloc.start()
    try:
        state, delta = optimiser.step(state, mean, round=0)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    result = sum(moment.nbytes for moment in state.moments) + (0 if delta is mean else delta.nbytes)
    assert peak <= result + 2 * 8 * optimisers._CHUNK


# --- dataclasses ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [FedAvg, FedAvgM, FedAdagrad, FedAdam, FedYogi])
@pytest.mark.parametrize(
    "rate", [0.5, np.float32(0.5), [0.5, 1], (np.float64(0.5), 1.0), np.array([0.5, 1.0])]
)
def test_equal_ones_are_equal_and_hash_equal(kind, rate):
    single = kind(learning_rate=0.5)
    expected = single if np.ndim(rate) == 0 else kind(learning_rate=(0.5, 1.0))
    found = kind(learning_rate=rate)
    assert found == expected
    assert hash(found) == hash(expected)
    assert repr(found) == repr(expected)
    assert found != kind(learning_rate=0.25)


def test_different_ones_differ():
    assert len(set(EVERY)) == len(EVERY)
    assert FedAvg() != FedAvgM()


def test_frozen():
    with pytest.raises(FrozenInstanceError):
        FedAdam().momentum = 0.5


def test_adaptivity_is_there_for_all():
    assert [each.adaptivity for each in (FedAvg(), FedAvgM(), FedAdagrad(adaptivity=0.5))] == [
        None,
        None,
        0.5,
    ]


@pytest.mark.parametrize(
    ("each", "moments"),
    [
        (FedAvg(), 0),
        (FedAvgM(), 1),
        (FedAdagrad(), 1),
        (FedAdagrad(momentum=0.5), 2),
        (FedAdam(), 2),
        (FedYogi(), 2),
    ],
)
def test_start_is_zeros(each, moments):
    state = each.start(np.int64(4))
    assert (state.steps, len(state.moments)) == (0, moments)
    assert all(moment.tolist() == [0.0] * 4 and moment.dtype == np.float64 for moment in state.moments)


# --- refused ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [FedAvg, FedAvgM, FedAdagrad, FedAdam, FedYogi])
@pytest.mark.parametrize(
    ("rate", "text"),
    [
        (0.0, "learning_rate is 0.0; it must be finite and above 0"),
        (-1, "learning_rate is -1; it must be finite"),
        (math.inf, "learning_rate is inf; it must be finite"),
        (math.nan, "learning_rate is nan; it must be finite"),
        (True, "learning_rate is True; it must be finite"),
        ("0.1", "learning_rate is '0.1'; it must be finite"),
        (None, "learning_rate is None; it must be finite"),
        ([], "the schedule has no learning rate"),
        ([0.1, 0.0], "learning_rate of round 1 is 0.0; it must be finite and above 0"),
        ([0.1, "x"], "learning_rate of round 1 is 'x'"),
    ],
)
def test_bad_learning_rates(kind, rate, text):
    with pytest.raises(ParameterError, match=text.replace("(", r"\(")):
        kind(learning_rate=rate)


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        (FedAvgM, "momentum"),
        (FedAdagrad, "momentum"),
        (FedAdam, "momentum"),
        (FedAdam, "second_momentum"),
        (FedYogi, "momentum"),
        (FedYogi, "second_momentum"),
    ],
)
@pytest.mark.parametrize("value", [-0.1, 1.0, 1, math.nan, True, "0.9", None])
def test_bad_momenta(kind, name, value):
    with pytest.raises(ParameterError, match=rf"^{name} is {value!r}; it must be in \[0, 1\)"):
        kind(**{name: value})


@pytest.mark.parametrize("kind", [FedAdagrad, FedAdam, FedYogi])
@pytest.mark.parametrize("value", [0.0, -1e-3, math.inf, math.nan, True, "1", None])
def test_bad_adaptivity(kind, value):
    with pytest.raises(ParameterError, match=rf"^adaptivity is {value!r}; it must be finite and above 0"):
        kind(adaptivity=value)


@pytest.mark.parametrize("value", ["NONE", None, True, 1])
def test_bad_bias_correction(value):
    with pytest.raises(ParameterError, match=f"bias_correction is {value!r}; it must be a BiasCorrection"):
        FedAdam(bias_correction=value)


def test_schedule_of_another_length():
    FedAvg().check(rounds=7)
    FedAvg(learning_rate=[1.0, 0.5]).check(rounds=np.int64(2))
    with pytest.raises(ParameterError, match="the schedule has 2 learning rates for 3 rounds"):
        FedAdam(learning_rate=[1.0, 0.5]).check(rounds=3)
    with pytest.raises(ParameterError, match="round 2 is beyond the schedule, which has 2 learning rates"):
        FedAdam(learning_rate=[1.0, 0.5]).rate(2)


@pytest.mark.parametrize("value", [-1, 0.0, True, "1", None])
def test_bad_counts(value):
    with pytest.raises(ParameterError, match=f"round is {value!r}; it must be an int of at least 0"):
        FedAvg().rate(value)
    with pytest.raises(ParameterError, match=f"rounds is {value!r}; it must be an int of at least 1"):
        FedAvg().check(rounds=value)
    with pytest.raises(ParameterError, match=f"length is {value!r}; it must be an int of at least 1"):
        FedAvg().start(value)
    with pytest.raises(ParameterError, match=f"steps is {value!r}; it must be an int of at least 0"):
        OptimiserState(steps=value, moments=())


@pytest.mark.parametrize(
    ("mean", "text"),
    [
        (
            np.ones(6, np.float32)[::2],
            r"the mean is float32\[3\] with strides; it must be a contiguous float64",
        ),
        (np.ones(3, np.float32), r"the mean is float32\[3\]; it must be a contiguous float64"),
        (np.ones(6)[::2], r"the mean is float64\[3\] with strides; it must be a contiguous float64"),
        (np.ones(3, ">f8"), r"the mean is >f8\[3\]; it must be"),
        (np.ones(3, np.int64), r"the mean is int64\[3\]; it must be"),
        (np.ones((3, 1)), r"the mean is float64\[3, 1\]; it must be"),
        (np.ones(0), r"the mean is float64\[0\]; it must be"),
        ([1.0, 2.0, 3.0], "the mean is a list; it must be an array of float64"),
    ],
)
def test_bad_means(optimiser, mean, text):
    with pytest.raises(ParameterError, match=text):
        optimiser.step(optimiser.start(3), mean, round=0)


@pytest.mark.parametrize("each", KEPT, ids=repr)
def test_state_of_another_length_or_optimiser(each):
    with pytest.raises(ParameterError, match="the mean has 3 values, the optimiser's state 4"):
        each.step(each.start(4), np.ones(3), round=0)
    with pytest.raises(ParameterError, match=r"the state has 0 moments, Fed\w+ keeps \d; go on with"):
        each.step(FedAvg().start(3), np.ones(3), round=0)
    with pytest.raises(ParameterError, match="the state has 1 moments, FedAvg keeps 0"):
        FedAvg().step(FedAvgM().start(3), np.ones(3), round=0)


@pytest.mark.parametrize(
    ("moments", "text"),
    [
        ([np.ones(3)], "moments is a list; it must be a tuple"),
        ((np.ones(3), np.ones(4)), r"the moments have lengths \[3, 4\]; they belong to one model"),
        ((np.ones(3, np.float32),), r"a moment is float32\[3\]; it must be a contiguous float64"),
        ((3.0,), "a moment is a float; it must be an array"),
    ],
)
def test_bad_moments(moments, text):
    with pytest.raises(ParameterError, match=text):
        OptimiserState(steps=0, moments=moments)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_step_that_is_not_finite(value):
    for each in [FedAvg(learning_rate=0.5), *KEPT]:
        with pytest.raises(ParameterError, match=rf"the step of {type(each).__name__} is not finite"):
            each.step(each.start(3), np.array([0.0, value, 0.0]), round=0)


@pytest.mark.parametrize("kind", [FedAdagrad, FedAdam, FedYogi])
def test_square_that_overflows(kind):
    with pytest.raises(ParameterError, match=rf"the step of {kind.__name__} is not finite.*square overflows"):
        kind().step(kind().start(1), np.array([1e200]), round=0)
