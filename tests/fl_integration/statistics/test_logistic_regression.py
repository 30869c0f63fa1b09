"""Logistic regression over sites is statsmodels' and scikit-learn's over the pooled table."""

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
from sklearn.linear_model import LogisticRegression as Pooled

from fl_integration.statistics.asking import ask
from fl_integration.statistics.coefficients import Coefficients
from fl_integration.statistics.columns import Category, Number
from fl_integration.statistics.logistic_regression import LogisticRegression
from fl_integration.statistics.newton import BETA_LIMIT
from fl_integration.statistics.question import Step
from fl_integration.statistics.rows import Rows
from protocols import MaskedSum
from secagg.errors import ParameterError, RoundAborted
from tests.fl_integration.statistics.pooled import pooled
from tests.fl_integration.statistics.trials import AGE, DIED, PRESSURE, SEX, patients

QUESTION = LogisticRegression(DIED, (AGE, SEX, PRESSURE))


def design(sites):
    whole = pd.concat(sites).dropna()
    return sm.add_constant(np.c_[whole.age, whole.sex == "m", whole.pressure].astype(float)), whole.died


def one_column(x, died):
    return [{"x": x[site::3], "died": died[site::3]} for site in range(3)]


X = Number("x", low=-8, high=8, unit=1 / 16)
ONE = LogisticRegression(DIED, (X,))


def test_it_is_statsmodels_of_the_pooled_complete_rows():
    sites = patients()
    x, died = design(sites)
    expected = sm.Logit(died, x).fit(disp=0, tol=1e-14)
    answer = pooled(QUESTION, sites)
    assert answer.names == ("intercept", "age", "sex[m]", "pressure")
    assert answer.estimates == pytest.approx(expected.params.to_numpy(), rel=1e-8)
    assert answer.standard_errors == pytest.approx(expected.bse.to_numpy(), rel=1e-8)
    assert answer.z == pytest.approx(expected.tvalues.to_numpy(), rel=1e-8)
    assert answer.p_values == pytest.approx(expected.pvalues.to_numpy(), rel=1e-6)
    assert answer.intervals == pytest.approx(expected.conf_int().to_numpy(), rel=1e-7, abs=1e-9)
    assert answer.ratio_intervals == pytest.approx(np.exp(expected.conf_int().to_numpy()), rel=1e-7)
    assert answer.log_likelihood == pytest.approx(expected.llf, abs=1e-6)
    assert answer.null_log_likelihood == pytest.approx(expected.llnull, abs=1e-6)
    assert answer.aic == pytest.approx(expected.aic, abs=1e-6)
    assert (answer.rows, answer.events) == (len(died), died.sum())
    assert answer.incomplete == 240 - len(died) > 0


def test_its_first_sum_opens_cells_and_it_says_so():
    """A quarter of XᵀX at 0: how many have each two levels, and with the gradient how many of them died."""
    first, second = Category("a", (0, 1)), Category("b", (0, 1))
    table = {"a": [0, 1, 1, 1, 0], "b": [1, 1, 0, 1, 0], "died": [0, 1, 0, 0, 0]}
    question = LogisticRegression(DIED, (first, second))
    total = question.summand(next(question.asking(max_rows=9)), Rows.of(table)) / (1 << 30)
    assert total[4] * 4 == 2  # of a and b, both 1
    assert total[7] + total[1] * 2 == 1  # one of a died
    assert LogisticRegression.cells


def test_a_ridge_is_that_of_scikit_learn_on_the_scaled_columns():
    sites = patients()
    x, died = design(sites)
    scaled = np.c_[(x[:, 1] - 64) / 64, x[:, 2], (x[:, 3] - 160) / 100]
    expected = Pooled(C=1 / 3, tol=1e-12, max_iter=10_000).fit(scaled, died)
    answer = pooled(LogisticRegression(DIED, (AGE, SEX, PRESSURE), ridge=3.0), sites)
    assert answer.estimates[1:] * [64, 1, 100] == pytest.approx(expected.coef_[0], abs=1e-7)
    at_the_middle = answer.estimates[0] + answer.estimates[1] * 64 + answer.estimates[3] * 160
    assert at_the_middle == pytest.approx(expected.intercept_[0], abs=1e-7)
    assert "ridge 3" in str(answer)


def test_bounds_far_from_the_data_do_not_matter():
    sites = patients()
    wide = LogisticRegression(DIED, (Number("age", low=-2000, high=3000, unit=1), SEX, PRESSURE))
    assert pooled(wide, sites).estimates == pytest.approx(pooled(QUESTION, sites).estimates, rel=1e-6)


def test_every_party_makes_the_same_steps():
    """The grid of the coefficients is there so that their bytes are equal: steps are multiples of it."""
    sites = [Rows.of(each) for each in patients()]
    asking = QUESTION.asking(max_rows=1000)
    step = next(asking)
    for _ in range(3):
        step = asking.send(sum(QUESTION.summand(step, rows) for rows in sites))
        scaled = np.array(step.parameters) * 2**30
        assert (scaled == np.rint(scaled)).all()
        assert scaled.any()


def test_a_rare_event_is_no_separation():
    x, died = np.zeros(4000), np.zeros(4000, dtype=int)
    x[::2], died[[0, 1, 2]] = 1, 1
    answer = pooled(ONE, one_column(x, died), max_rows=2000)
    assert answer.estimates == pytest.approx([np.log(1 / 1999), np.log(2 / 1998 * 1999)], rel=1e-7)


def test_perfect_separation_is_refused_at_once():
    x = np.concatenate([np.linspace(-2, -1, 33), np.linspace(0.5, 2, 33)])
    died = (x > 0).astype(int)
    with pytest.raises(ParameterError, match=r"'died' perfectly.*pass a ridge, such as ridge=1.0, or drop"):
        pooled(LogisticRegression(DIED, (X,), most_steps=4), one_column(x, died))
    assert pooled(LogisticRegression(DIED, (X,), ridge=1.0), one_column(x, died)).estimates[1] > 0


def test_a_level_that_decides_the_outcome_is_refused_by_name():
    """Quasi-complete separation: whoever has the level died, the others overlap."""
    generator = np.random.default_rng(4)
    x, arm = generator.normal(size=120), generator.choice(["a", "b"], 120)
    died = np.where(arm == "b", 1, generator.integers(0, 2, 120))
    question = LogisticRegression(DIED, (X, Category("arm", ("a", "b"))))
    with pytest.raises(ParameterError, match=r"the coefficient of 'arm\[b\]' grows without end"):
        pooled(question, [{"x": x, "arm": arm, "died": died}])


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ({"x": [1.0, 2.0, 3.0], "died": [0, 0, 0]}, "every complete row has the level 0 of 'died'"),
        ({"x": [1.0, 2.0, 3.0], "died": [1, 1, 1]}, "every complete row has the level 1 of 'died'"),
        ({"x": [np.nan, np.nan], "died": [0, 1]}, "no row of any site has the outcome and all predictors"),
        ({"x": [2.0, 2.0, 2.0, 2.0], "died": [0, 1, 0, 1]}, "do not determine the coefficient of 'x'"),
    ],
)
def test_tables_that_have_no_fit(table, said):
    with pytest.raises(ParameterError, match=said):
        pooled(ONE, [table])


def test_too_few_steps_name_what_still_moves():
    with pytest.raises(
        ParameterError, match=r"after 2 steps the coefficient of '.*' still moves; raise most"
    ):
        pooled(LogisticRegression(DIED, (AGE, SEX), most_steps=2), patients())


def test_an_empty_site_adds_nothing():
    sites = patients()
    with_empty = pooled(QUESTION, [*sites, sites[0].iloc[:0]])
    assert with_empty.estimates.tobytes() == pooled(QUESTION, sites).estimates.tobytes()


def test_rows_that_change_between_steps_end_it():
    rows = [Rows.of(each) for each in patients()]
    asking = QUESTION.asking(max_rows=1000)
    step = next(asking)
    step = asking.send(sum(QUESTION.summand(step, each) for each in rows))
    with pytest.raises(RoundAborted, match="a site came, went or changed its table"):
        asking.send(sum(QUESTION.summand(step, each) for each in rows[1:]))


@pytest.mark.parametrize("counts", [(3, 4, 0), (3, -1, 0), (-3, -3, 0), (3, 2, -1)])
def test_counts_of_a_liar_end_it(counts):
    asking = ONE.asking(max_rows=10)
    total = np.zeros(next(asking).length, dtype=np.int64)
    total[5:8] = counts
    with pytest.raises(RoundAborted, match="a contributor added what no rows have"):
        asking.send(total)


@pytest.mark.parametrize("beta", [(BETA_LIMIT, -BETA_LIMIT), (-BETA_LIMIT, BETA_LIMIT), (0.0, BETA_LIMIT)])
def test_the_worst_coefficients_stay_within_the_bound(beta):
    """A row's log-likelihood would be about -512, and its exponential beyond float64, if it were not cut."""
    rows = Rows.of({"x": [8.0, -8.0, 8.0, -8.0], "died": [0, 1, 1, 0]})
    summand = ONE.summand(Step("newton", ONE._length, beta), rows)
    assert np.abs(summand).max() <= ONE.largest(max_rows=4)


def test_the_largest_summand_can_be_reached():
    """All rows at the bounds with a coefficient of 0: the gradient of the constant is half a step a row."""
    rows = Rows.of({"x": [8.0] * 8, "died": [1] * 8})
    summand = ONE.summand(Step("newton", ONE._length, (-64.0, -64.0)), rows)
    assert summand[3] == summand[4] == ONE.largest(max_rows=8)


@pytest.mark.parametrize(
    ("step", "said"),
    [
        (Step("newton", 9, (0.0, 0.0)), "'newton' of 9 values is none of this question"),
        (Step("thresholds", 10, (0.0, 0.0)), "'thresholds' of 10 values is none of this question"),
        (Step("newton", 10, (0.0,)), "the step has 1 coefficients; this question has 2"),
        (Step("newton", 10, ()), "the step has 0 coefficients; this question has 2"),
        (Step("newton", 10, (0.0, float("nan"))), "not finite, or larger than 256"),
        (Step("newton", 10, (float("inf"), 0.0)), "not finite, or larger than 256"),
        (Step("newton", 10, (0.0, 257.0)), "not finite, or larger than 256"),
    ],
)
def test_a_site_answers_no_other_step(step, said):
    assert ONE._length == 10
    with pytest.raises(ParameterError, match=said):
        ONE.summand(step, Rows.of({"x": [1.0], "died": [1]}))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"outcome": Category("died", (0, 1, 2))}, "the outcome is Category.*of two levels"),
        ({"outcome": AGE}, "the outcome is Number"),
        ({"predictors": ()}, "there are no predictors"),
        ({"predictors": ("age",)}, "a predictor is 'age'; it must be a Number or a Category"),
        ({"predictors": (AGE, AGE)}, r"the columns \['age'\] have two parts"),
        ({"predictors": (Number("intercept", low=0, high=1),)}, r"the columns \['intercept'\] have two"),
        ({"predictors": (DIED,)}, r"the columns \['died'\] have two parts"),
        ({"predictors": (Category("one", ("only",)),)}, "'one' can have one value only"),
        ({"predictors": (Number("flat", low=0, high=1, unit=4),)}, "'flat' can have one value only"),
        ({"predictors": (Category("many", tuple(range(600))),)}, "make 599 columns; at most 512"),
        ({"ridge": -1.0}, r"ridge is -1.0; it must be a number in \[0, 1e9\]"),
        ({"ridge": float("nan")}, "ridge is nan"),
        ({"ridge": True}, "ridge is True"),
        ({"most_steps": 1}, r"most_steps is 1; it must be an int in \[2, 100\]"),
        ({"most_steps": 3.0}, "most_steps is 3.0"),
        ({"where": ("age",)}, "where is a tuple; it must be a tuple of Condition"),
    ],
)
def test_questions_that_are_none(arguments, said):
    with pytest.raises(ParameterError, match=said):
        LogisticRegression(**{"outcome": DIED, "predictors": (AGE,)} | arguments)


@pytest.mark.parametrize("rows", [0, (1 << 22) + 1])
def test_more_rows_than_the_fixed_point_holds(rows):
    with pytest.raises(
        ParameterError, match=rf"max_rows is {rows}; a logistic regression takes 1 to 4194304"
    ):
        QUESTION.largest(max_rows=rows)


def test_it_prints_and_draws():
    answer = pooled(QUESTION, patients())
    said = str(answer)
    assert "<.001" in said
    assert "odds ratio (95 % CI)" in said
    assert f"{answer.events} of {answer.rows} complete rows, {answer.incomplete} were left out" in said
    assert "of 3 degrees of freedom" in said
    assert list(answer.to_frame().index) == list(answer.names)
    axes = answer.draw()
    assert [each.get_text() for each in axes.get_yticklabels()] == ["age", "sex[m]", "pressure"]


@pytest.mark.parametrize(
    ("low", "high", "said"),
    [
        (1.0004, 1.04, "1.02 (1.00 to 1.04)"),
        (0.9996, 1.04, "1.02 (1.00 to 1.04)"),
        (81.0, 400.0, "180 (81.0 to 400)"),
    ],
)
def test_ratios_have_three_digits(low, high, said):
    middle, error = np.log(low * high) / 2, np.log(high / low) / 2 / 1.959963984540054
    found = Coefficients(
        names=("x",), estimates=np.array([middle]), covariance=np.array([[error**2]]), ratio="odds ratio"
    )
    assert said in str(found)


def test_through_a_masked_sum():
    tables = {f"site{place}": each for place, each in enumerate(patients())}
    answer = ask(MaskedSum(max_clients=3), tables, QUESTION, seed=1, max_rows=1000)
    assert answer.estimates.tobytes() == pooled(QUESTION, tables.values()).estimates.tobytes()
    assert answer.incomplete == pooled(QUESTION, tables.values()).incomplete > 0
    assert answer.provenance.sums <= QUESTION.most_sums + 1
