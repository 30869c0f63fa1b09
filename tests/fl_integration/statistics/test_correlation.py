"""Correlations of pooled rows are scipy's, of complete cases."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from fl_integration.statistics.columns import Category, Number
from fl_integration.statistics.correlation import Correlation
from fl_integration.statistics.question import Step
from fl_integration.statistics.rows import Rows
from secagg.errors import ParameterError, RoundAborted
from tests.fl_integration.statistics.pooled import pooled

NUMBERS = (
    Number("age", low=0, high=128, unit=1 / 8),
    Number("chol", low=0, high=512, unit=1 / 4),
    Number("st", low=-8, high=8, unit=2.0**-12),
)
EXACT = 1e-12


def table_of(rng, rows):
    age = np.rint(rng.normal(60, 10, rows) * 8) / 8
    chol = np.rint((150 + age + rng.normal(0, 30, rows)) * 4) / 4
    slope = np.rint((rng.normal(0, 1, rows) - age / 40) * 2**12) / 2**12
    table = pd.DataFrame({"age": age, "chol": chol, "st": slope})
    return table.mask(rng.random(table.shape) < 0.1)


@pytest.fixture(scope="module")
def tables():
    rng = np.random.default_rng(7)
    return [table_of(rng, rows) for rows in (120, 0, 60, 1)]


def test_each_pair_is_scipys(tables):
    found = pooled(Correlation(NUMBERS), tables)
    everybody = pd.concat(tables)
    assert found.incomplete == everybody.isna().any(axis=1).sum() > 0
    everybody = everybody.dropna()
    assert found.count == len(everybody)
    for i, first in enumerate(everybody.columns):
        for j, second in enumerate(everybody.columns):
            if i == j:
                assert (found.r[i, i], found.p_values[i, i]) == (1, 0)
                continue
            reference = stats.pearsonr(everybody[first], everybody[second])
            assert found.r[i, j] == pytest.approx(reference.statistic, rel=EXACT)
            assert found.p_values[i, j] == pytest.approx(reference.pvalue, rel=1e-10)


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=25)
def test_r_is_that_of_exact_integers(seed):
    """Of columns a million units away from their middle, where float64 would lose the digits."""
    rng = np.random.default_rng(seed)
    far = Number("far", low=-1, high=1, unit=2.0**-22)
    near = Number("near", low=0, high=4, unit=1)
    steps = 2**22 - rng.integers(0, 4, 50)
    other = rng.integers(0, 3, 50)
    other[:2], steps[:2] = (0, 1), (2**22 - 1, 2**22 - 2)
    found = pooled(Correlation((far, near)), [{"far": steps * 2.0**-22, "near": other}])
    x, y, count = [int(each) for each in steps], [int(each) for each in other], 50
    spread = [
        count * sum(a * b for a, b in zip(u, v, strict=True)) - sum(u) * sum(v)
        for u, v in ((x, y), (x, x), (y, y))
    ]
    assert found.r[0, 1] == pytest.approx(spread[0] / np.sqrt(spread[1] * spread[2]), rel=1e-15, abs=0)


def test_a_column_that_does_not_vary_has_no_correlation():
    found = pooled(Correlation(NUMBERS[:2]), [{"age": [50.0, 50.0, 50.0], "chol": [1.0, 2.0, 3.0]}])
    assert np.isnan([found.r[0, 1], found.p_values[0, 1]]).all()
    assert str(found).splitlines()[1].split() == ["age", "chol", "–", "–"]


def test_two_rows_are_on_a_line_and_no_surprise():
    found = pooled(Correlation(NUMBERS[:2]), [{"age": [50.0, 51.0], "chol": [3.0, 2.0]}])
    assert (found.r[0, 1], found.p_values[0, 1]) == (-1, 1)


def test_three_rows_can_surprise():
    found = pooled(Correlation(NUMBERS[:2]), [{"age": [50.0, 51.0, 53.0], "chol": [3.0, 2.0, 2.5]}])
    assert found.p_values[0, 1] == pytest.approx(stats.pearsonr([50, 51, 53], [3, 2, 2.5]).pvalue, rel=EXACT)


def test_nobody_has_no_correlation():
    assert np.isnan(pooled(Correlation(NUMBERS[:2]), [{"age": [], "chol": []}]).r[0, 1])


def test_values_beyond_the_bounds_are_clipped():
    rows = Rows.of({"age": [1000.0, 3.0, 5.0], "chol": [1.0, 2.0, 4.0]})
    question = Correlation(NUMBERS[:2])
    question.summand(next(question.asking(max_rows=3)), rows)
    assert rows.clipped == {"age": 1, "chol": 0}
    found = pooled(question, [{"age": [1000.0, 3.0, 5.0], "chol": [1.0, 2.0, 4.0]}])
    assert found.r[0, 1] == pytest.approx(stats.pearsonr([128, 3, 5], [1, 2, 4]).statistic, rel=EXACT)


def test_it_is_a_frame_and_draws_itself(tables):
    found = pooled(Correlation(NUMBERS), tables)
    frame = found.to_frame()
    assert frame[["column", "other"]].to_numpy().tolist() == [["age", "chol"], ["age", "st"], ["chol", "st"]]
    assert frame["r"].tolist() == found.r[[0, 0, 1], [1, 2, 2]].tolist()
    axes = found.draw()
    assert (axes.images[0].get_array() == found.r).all()
    assert [each.get_text() for each in axes.texts][:2] == ["1.00", f"{found.r[0, 1]:.2f}"]


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ((NUMBERS[:1],), "a tuple of at least 2 Number"),
        (((NUMBERS[0], Category("sex", ("f", "m"))),), "a tuple of at least 2 Number"),
        (("age",), "a tuple of at least 2 Number"),
        (((NUMBERS[0], NUMBERS[0]),), "column 'age' is there twice"),
    ],
)
def test_what_is_no_correlation(arguments, match):
    with pytest.raises(ParameterError, match=match):
        Correlation(*arguments)


def test_a_step_of_another_question_is_refused():
    with pytest.raises(ParameterError, match="this question has 'products' of 11 and none"):
        Correlation(NUMBERS).summand(Step("pairs", 11), Rows.of({"age": [], "chol": [], "st": []}))


def test_sums_that_no_rows_have_are_somebodys_lie():
    asking = Correlation(NUMBERS[:2]).asking(max_rows=10)
    assert next(asking) == Step("products", 7)
    with pytest.raises(RoundAborted, match="a correlation beyond 1"):
        asking.send(np.array([0, 3, 0, 0, 2, 9, 2]))


def test_products_that_may_not_fit_are_refused_before_the_sum():
    fine = (NUMBERS[0], Number("x", low=-1, high=1, unit=2.0**-23))
    with pytest.raises(ParameterError, match="pass max_rows of at most 32768, or a unit of at least"):
        Correlation(fine).largest(max_rows=100_000)
