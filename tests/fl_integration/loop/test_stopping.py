"""Early stopping against a loop written out, and when an evaluation is due."""

import math
from dataclasses import FrozenInstanceError

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fl_integration.loop.stopping import Better, EarlyStopping, Schedule
from secagg.errors import ParameterError

NAN = math.nan


def told(*values: float | None, metric: str = "auc") -> list[dict[str, float]]:
    return [{} if value is None else {metric: value} for value in values]


def by_hand(values: list[float], *, patience: int, change: float, sign: int) -> tuple[int | None, bool]:
    """One evaluation after the other, with a counter, as a training loop would have it."""
    best, where, waited = None, None, 0
    for index, value in enumerate(values):
        if math.isfinite(value) and (best is None or sign * value > sign * best + change):
            best, where, waited = value, index, 0
        else:
            waited += 1
    return where, waited >= patience


@given(
    values=st.lists(st.floats(-2, 2) | st.sampled_from([NAN, math.inf, -math.inf]), max_size=12),
    patience=st.integers(1, 5),
    change=st.sampled_from([0.0, 0.25]),
    better=st.sampled_from(Better),
)
def test_it_decides_as_a_counter_does(values, patience, change, better):
    rule = EarlyStopping("auc", patience=patience, minimum_change=change, better=better)
    best, stops = by_hand(values, patience=patience, change=change, sign=1 if better is Better.HIGHER else -1)
    assert rule.best_of(told(*values)) == best
    assert rule.stops(told(*values)) is stops


@pytest.mark.parametrize(
    ("values", "best", "stops"),
    [
        ([], None, False),
        ([0.5], 0, False),
        ([0.5, 0.5, 0.5], 0, True),
        ([0.5, 0.4, 0.6, 0.5], 2, False),
        ([0.5, None, None, None, 0.4], 0, False),
        ([None, 0.5, 0.4, None, 0.5], 1, True),
        ([NAN, NAN], None, True),
        ([NAN, 0.1, NAN], 1, False),
        ([None, None, None], None, False),
    ],
)
def test_known_answers(values, best, stops):
    rule = EarlyStopping("auc", patience=2)
    assert (rule.best_of(told(*values)), rule.stops(told(*values))) == (best, stops)


def test_patience_counts_from_the_last_real_improvement():
    rule = EarlyStopping("loss", patience=2, minimum_change=0.1)
    history = told(1.0, 0.95, 0.91, metric="loss")
    assert rule.best_of(history) == 0
    assert rule.stops(history)
    assert not rule.stops(told(1.0, 0.95, 0.89, metric="loss"))


def test_an_evaluation_without_the_metric_is_no_improvement():
    rule = EarlyStopping("auc", patience=2)
    assert rule.stops([{"auc": 0.7, "loss": 1.0}, {"loss": 1.0}, {"loss": 1.0}])
    assert rule.best_of([{"loss": 1.0}, {"auc": 0.1}]) == 1


def test_a_metric_that_nobody_has_is_refused_with_those_that_are_there():
    message = r"early stopping asks for 'auc'; the evaluation's metrics are \['loss', 'accuracy'\]"
    with pytest.raises(ParameterError, match=message):
        EarlyStopping("auc").stops([{}, {"loss": 1.0}, {"loss": 1.0, "accuracy": 0.5}])


@pytest.mark.parametrize("metric", ["loss", "mse", "rmse"])
def test_of_a_loss_lower_is_better(metric):
    assert EarlyStopping(metric).better is Better.LOWER


@pytest.mark.parametrize("metric", ["accuracy", "auc", "r2"])
def test_of_a_score_higher_is_better(metric):
    assert EarlyStopping(metric).better is Better.HIGHER


def test_the_way_up_can_be_said_of_any_metric():
    assert EarlyStopping("dice", better=Better.HIGHER).better is Better.HIGHER
    assert EarlyStopping("loss", better=Better.HIGHER).better is Better.HIGHER


def test_it_is_frozen_and_takes_numpys_scalars():
    rule = EarlyStopping("auc", patience=np.int64(3), minimum_change=np.float32(0.5))
    assert rule == EarlyStopping("auc", patience=3, minimum_change=0.5)
    assert (type(rule.patience), type(rule.minimum_change)) == (int, float)
    with pytest.raises(FrozenInstanceError):
        rule.patience = 4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"metric": 3}, "metric is a int; it is a metric's name, a str"),
        (
            {"metric": "dice"},
            "whether a higher 'dice' is better is not known here; pass better=Better.HIGHER",
        ),
        ({"patience": 0}, "patience is 0; it must be an int of at least 1"),
        ({"patience": 1.5}, "patience is 1.5; it must be an int"),
        ({"patience": True}, "patience is True; it must be an int"),
        ({"minimum_change": -0.1}, "minimum_change is -0.1; it must be finite and at least 0"),
        ({"minimum_change": NAN}, "minimum_change is nan; it must be finite"),
        ({"minimum_change": math.inf}, "minimum_change is inf; it must be finite"),
        ({"better": "higher"}, "better is 'higher'; it must be Better.HIGHER or Better.LOWER"),
    ],
)
def test_bad_arguments_are_refused(arguments, message):
    with pytest.raises(ParameterError, match=message):
        EarlyStopping(**{"metric": "auc", **arguments})


@pytest.mark.parametrize(
    ("every", "rounds", "expected"), [(1, 3, [0, 1, 2]), (2, 5, [1, 3, 4]), (5, 12, [4, 9, 11]), (9, 2, [1])]
)
def test_each_nth_round_is_evaluated_and_the_last(every, rounds, expected):
    assert [n for n in range(rounds) if Schedule(every=every).due(n, rounds=rounds)] == expected


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"every": 0}, "every is 0; it must be an int of at least 1"),
        ({"every": 2.0}, "every is 2.0; it must be an int"),
        ({"stop": "auc"}, "stop is a str; it must be an EarlyStopping or None"),
    ],
)
def test_a_schedule_refuses_what_is_none(arguments, message):
    with pytest.raises(ParameterError, match=message):
        Schedule(**arguments)
