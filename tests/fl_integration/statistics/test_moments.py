"""Means and standard deviations are those of the pooled table."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.preprocessing import StandardScaler

from fl_integration.statistics.columns import Category, Number
from fl_integration.statistics.moments import Moments
from fl_integration.statistics.question import Condition, Step
from fl_integration.statistics.rows import Rows
from secagg.errors import ParameterError
from tests.fl_integration.statistics.pooled import pooled

AGE = Number("age", low=0, high=128, unit=0.25)
FAR = Number("far", low=1e6, high=1e6 + 16, unit=2.0**-10)
"""Far from zero with a small spread: where floats cancel."""


def tables(seed: int = 1, sites: int = 3, rows: int = 40) -> list[pd.DataFrame]:
    generator = np.random.default_rng(seed)
    made = []
    for _ in range(sites):
        age = np.round(generator.normal(60, 12, rows) * 4) / 4
        age[generator.random(rows) < 0.2] = np.nan
        far = 1e6 + np.round(generator.random(rows) * 2**10) / 2**10
        made.append(pd.DataFrame({"age": age, "far": far, "sex": generator.choice(["f", "m"], rows)}))
    return made


def test_they_are_those_of_pandas_and_of_the_standard_scaler() -> None:
    sites = tables()
    whole = pd.concat(sites)
    answer = pooled(Moments((AGE, FAR)), sites)
    scaler = StandardScaler().fit(whole[["age", "far"]])
    assert np.allclose(answer.mean, whole[["age", "far"]].mean(), rtol=1e-14, atol=0)
    assert np.allclose(answer.sd, whole[["age", "far"]].std(), rtol=1e-12, atol=0)
    assert np.allclose(answer.population_sd, scaler.scale_, rtol=1e-9, atol=0)  # it cancels, we do not
    assert answer.count.tolist() == whole[["age", "far"]].count().tolist()
    assert answer.missing.tolist() == whole[["age", "far"]].isna().sum().tolist()
    assert answer.rows == 120


@given(st.lists(st.integers(-64, 64), min_size=2, max_size=30))
@settings(max_examples=30, deadline=None)
def test_integers_are_exact(values: list[int]) -> None:
    column = Number("x", low=-64, high=64, unit=1)
    answer = pooled(Moments((column,)), [{"x": values[::2]}, {"x": values[1::2]}])
    assert answer.mean[0] == np.mean(values)
    assert np.isclose(answer.sd[0], np.std(values, ddof=1), rtol=1e-13, atol=1e-15)


def test_conditions_choose_rows() -> None:
    sites = tables()
    whole = pd.concat(sites)
    chosen = whole[(whole.age >= 50) & (whole.age < 70) & (whole.sex == "f")]
    where = (Condition(AGE, at_least=50, below=70), Condition(Category("sex", ("m", "f")), among=("f",)))
    answer = pooled(Moments((FAR,), where=where), sites)
    assert answer.rows == len(chosen)
    assert answer.mean[0] == pytest.approx(chosen.far.mean(), rel=1e-14)


def test_values_outside_their_bounds_count_as_the_bounds_and_the_site_knows() -> None:
    rows = Rows.of({"age": [-10.0, 64.0, 500.0, np.nan]})
    question = Moments((AGE,))
    assert question.summand(next(question.asking(max_rows=4)), rows).tolist() == [4, 3, 0, 2 * 256**2]
    assert rows.clipped == {"age": 2}


def test_what_is_not_there_is_not_a_number() -> None:
    answer = pooled(
        Moments((AGE, FAR)), [{"age": [60.0], "far": [np.nan]}, {"age": [np.nan], "far": [np.nan]}]
    )
    assert answer.mean[0] == 60
    assert np.isnan(answer.sd[0])
    assert answer.population_sd[0] == 0
    assert np.isnan([answer.mean[1], answer.sd[1], answer.population_sd[1]]).all()
    assert answer.missing.tolist() == [1, 2]


def test_an_answer_prints_and_draws() -> None:
    answer = pooled(Moments((AGE, FAR)), tables())
    assert list(answer.to_frame().columns) == ["n", "missing", "mean", "sd"]
    assert "age" in str(answer)
    assert [each.get_text() for each in answer.draw().get_yticklabels()] == ["age", "far"]


@pytest.mark.parametrize(
    ("numbers", "said"),
    [
        ((), "0 columns"),
        ((AGE, AGE), "2 columns; there must be one, and each once"),
        (AGE, "numbers is a Number"),
        ((Category("sex", ("f", "m")),), "numbers is a tuple; it must be a tuple of Number"),
    ],
)
def test_columns_that_are_none(numbers: object, said: str) -> None:
    with pytest.raises(ParameterError, match=said):
        Moments(numbers)  # type: ignore[arg-type]


def test_another_step_is_refused() -> None:
    with pytest.raises(ParameterError, match="none of these Moments'"):
        Moments((AGE,)).summand(Step("moments", 7), Rows.of({"age": [1.0]}))


def test_a_variance_that_noise_made_negative_is_not_told_as_none() -> None:
    asking = Moments((Number("age", low=0, high=128, unit=1),)).asking(max_rows=100)
    next(asking)
    with pytest.raises(StopIteration) as done:
        asking.send(np.array([20, 20, 40, 70]))
    assert done.value.value.mean.tolist() == [66.0]
    assert np.isnan([done.value.value.sd[0], done.value.value.population_sd[0]]).all()
