"""Least squares of pooled rows are statsmodels', and better where statsmodels loses digits."""

import math
from fractions import Fraction

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
from hypothesis import given, settings
from hypothesis import strategies as st

from fl_integration.statistics.columns import Category, Number
from fl_integration.statistics.linear_regression import LinearRegression
from fl_integration.statistics.question import Step
from fl_integration.statistics.rows import Rows
from secagg.errors import ParameterError, RoundAborted
from tests.fl_integration.statistics.pooled import pooled

AGE = Number("age", low=0, high=128, unit=1 / 8)
CHOL = Number("chol", low=0, high=512, unit=1 / 4)
SEX = Category("sex", ("f", "m"))
SITE = Category("site", (1, 2, 3, 4))
OUTCOME = Number("out", low=-512, high=1024, unit=1 / 16)
EXACT = 1e-11


def grid(values, unit):
    return np.rint(values / unit) * unit


def table_of(rng, rows):
    age, chol = grid(rng.normal(60, 10, rows), 1 / 8), grid(rng.normal(220, 40, rows), 1 / 4)
    sex, site = rng.choice(["f", "m"], rows), rng.choice([1, 2, 3], rows)
    out = grid(
        30 + 2 * age - 0.1 * chol + 5 * (sex == "m") - 3 * (site == 2) + rng.normal(0, 8, rows), 1 / 16
    )
    table = pd.DataFrame({"age": age, "chol": chol, "sex": sex, "site": site, "out": out})
    table.loc[rng.random(rows) < 0.1, "chol"] = np.nan
    table.loc[rng.random(rows) < 0.05, "sex"] = None
    return table


@pytest.fixture(scope="module")
def tables():
    rng = np.random.default_rng(5)
    return [table_of(rng, rows) for rows in (140, 0, 70, 1)]


def design_of(table):
    """What is regressed on, and the outcome, of complete rows; sites 2 and 3 against 1."""
    whole = table.dropna()
    predictors = [whole.age, whole.chol, whole.sex == "m", whole.site == 2, whole.site == 3]
    return sm.add_constant(np.column_stack(predictors).astype(np.float64)), whole.out.to_numpy()


def check(found, reference, kept, *, rel):
    assert found.values[kept] == pytest.approx(reference.params, rel=rel)
    assert found.standard_errors[kept] == pytest.approx(reference.bse, rel=rel)
    assert found.t[kept] == pytest.approx(reference.tvalues, rel=rel)
    assert found.p_values[kept] == pytest.approx(reference.pvalues, rel=1e-9)
    assert np.stack([found.low, found.high], axis=1)[kept] == pytest.approx(reference.conf_int(), rel=rel)
    assert found.covariance[np.ix_(kept, kept)] == pytest.approx(reference.cov_params(), rel=rel, abs=1e-18)
    assert (found.r_squared, found.adjusted) == pytest.approx(
        (reference.rsquared, reference.rsquared_adj), rel=rel
    )
    assert (found.f, found.f_p_value) == pytest.approx((reference.fvalue, reference.f_pvalue), rel=1e-9)
    assert found.degrees == (reference.df_model, reference.df_resid)
    assert found.residual_deviation == pytest.approx(math.sqrt(reference.scale), rel=rel)
    assert found.count == reference.nobs


def test_the_fit_is_statsmodels(tables):
    found = pooled(LinearRegression(OUTCOME, (AGE, CHOL, SEX, SITE)), tables)
    everybody = pd.concat(tables)
    x, y = design_of(everybody)
    assert found.names == ("intercept", "age", "chol", "sex[m]", "site[2]", "site[3]", "site[4]")
    check(found, sm.OLS(y, x).fit(), [0, 1, 2, 3, 4, 5], rel=EXACT)
    assert found.incomplete == len(everybody) - len(y) > 0


def test_a_level_that_nobody_has_has_no_coefficient(tables):
    found = pooled(LinearRegression(OUTCOME, (AGE, CHOL, SEX, SITE)), tables)
    columns = (found.values, found.standard_errors, found.t, found.p_values, found.low, found.high)
    assert all(np.isnan(each[-1]) for each in columns)
    assert str(found).splitlines()[7].split() == ["site[4]", *"––––––"]
    assert len(found.draw().get_yticks()) == 5


def test_an_intercept_alone_has_no_f():
    """Nobody has the only level that would have a coefficient."""
    table = {"sex": np.zeros(20), "y": np.arange(20.0)}
    found = pooled(
        LinearRegression(Number("y", low=0, high=100, unit=1), (Category("sex", (0, 1)),)), [table]
    )
    assert found.degrees == (0, 19)
    assert np.isnan(found.f)
    assert np.isnan(found.f_p_value)
    assert "F(0, 19) = nan, p –" in str(found)


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=15)
def test_the_fit_is_that_of_fractions(seed):
    """Cramer's rule in exact arithmetic, of columns that are far from zero and nearly alike."""
    rng = np.random.default_rng(seed)
    x = Number("x", low=10**6, high=10**6 + 4096, unit=1)
    y = Number("y", low=10**6, high=10**6 + 4096, unit=1)
    out = Number("out", low=-(10**6), high=10**6, unit=1)
    base = rng.integers(0, 4096, 20)
    a, b, c = (
        base + 10**6,
        np.clip(base + rng.integers(-1, 2, 20), 0, 4096) + 10**6,
        rng.integers(-999, 999, 20),
    )
    b[0] = a[0] + 1 - 2 * (a[0] > 10**6)  # never the same as a in all rows
    found = pooled(LinearRegression(out, (x, y)), [{"x": a, "y": b, "out": c}])
    design = [[Fraction(1), Fraction(int(i)), Fraction(int(j))] for i, j in zip(a, b, strict=True)]
    gram = [[sum(row[i] * row[j] for row in design) for j in range(3)] for i in range(3)]
    right = [sum(row[i] * int(value) for row, value in zip(design, c, strict=True)) for i in range(3)]
    whole = determinant(gram)
    exact = []
    for place in range(3):
        changed = [[right[i] if j == place else gram[i][j] for j in range(3)] for i in range(3)]
        exact.append(determinant(changed) / whole)
    assert found.values == pytest.approx([float(each) for each in exact], rel=4e-16)
    residual = sum(
        (int(value) - sum(b * x for b, x in zip(exact, row, strict=True))) ** 2
        for row, value in zip(design, c, strict=True)
    )
    assert found.residual_deviation == pytest.approx(math.sqrt(residual / 17), rel=4e-16)


def determinant(m):
    return (
        m[0][0] * (m[1][1] * m[2][2] - m[1][2] * m[2][1])
        - m[0][1] * (m[1][0] * m[2][2] - m[1][2] * m[2][0])
        + m[0][2] * (m[1][0] * m[2][1] - m[1][1] * m[2][0])
    )


def test_longley_has_all_the_digits_that_nist_certifies():
    """The classic of ill-conditioned regressions, from statsmodels; NIST StRD's certified values."""
    data = sm.datasets.longley.load_pandas().data
    table = data.rename(columns={"TOTEMP": "out"})
    bounds = {"GNPDEFL": 1 / 10, "GNP": 1, "UNEMP": 1, "ARMED": 1, "POP": 1, "YEAR": 1}
    predictors = tuple(Number(name, low=0, high=2**20 * unit, unit=unit) for name, unit in bounds.items())
    found = pooled(
        LinearRegression(Number("out", low=0, high=2**20, unit=1), predictors), [table[::2], table[1::2]]
    )
    certified = [
        -3482258.63459582,
        15.0618722713733,
        -0.358191792925910e-01,
        -2.02022980381683,
        -1.03322686717359,
        -0.511041056535807e-01,
        1829.15146461355,
    ]
    errors = [890420.383607373, 84.9149257747669, 0.334910077722432e-01, 0.488399681651699]
    assert found.values == pytest.approx(certified, rel=1e-14)
    assert found.standard_errors[:4] == pytest.approx(errors, rel=1e-14)
    assert found.r_squared == pytest.approx(0.995479004577296, rel=1e-14)
    assert found.f == pytest.approx(330.285339234588, rel=1e-13)
    assert found.residual_deviation == pytest.approx(304.854073561965, rel=1e-14)


def test_a_perfect_fit_has_no_errors():
    found = pooled(LinearRegression(OUTCOME, (AGE,)), [{"age": [1.0, 2.0, 4.0], "out": [5.0, 7.0, 11.0]}])
    assert found.values.tolist() == [3, 2]
    assert found.standard_errors.tolist() == [0, 0]
    assert np.isinf(found.t).all()
    assert (found.p_values.tolist(), found.f, found.f_p_value, found.r_squared) == ([0, 0], math.inf, 0, 1)


def columns(**given):
    return [{name: np.array(values, dtype=object) for name, values in given.items()}]


@pytest.mark.parametrize(
    ("predictors", "table", "match"),
    [
        (
            (AGE, CHOL),
            columns(age=[1, 2, 3, 4], chol=[2, 4, 6, 8], out=[1, 3, 2, 5]),
            "column 'chol' follows from those before it: less than 1e-08 of its variance is its own; leave",
        ),
        (
            (CHOL, AGE),
            columns(age=[1, 2, 3, 4], chol=[2, 2, 2, 2], out=[1, 3, 2, 5]),
            "column 'chol' is the same in all complete rows: leave it out",
        ),
        (
            (SEX, Category("arm", ("a", "b"))),
            columns(sex=["f", "m", "m", "f"], arm=["a", "b", "b", "a"], out=[1, 3, 2, 5]),
            r"column 'arm\[b\]' follows from those before it",
        ),
        (
            (SEX,),
            columns(sex=["m", "m", "m", "m"], out=[1, 3, 2, 5]),
            "no complete row has the first level of column 'sex'.* put first a level that is there",
        ),
        (
            (AGE,),
            columns(age=[1, 2, 3], out=[4, 4, 4]),
            "the outcome 'out' is the same in all complete rows",
        ),
        (
            (AGE,),
            columns(age=[1, 2, None], out=[4, 5, 6]),
            "2 rows are complete, and there are 2 coefficients",
        ),
        ((AGE,), columns(age=[], out=[]), "0 rows are complete, and there are 2 coefficients"),
    ],
)
def test_what_cannot_be_estimated_names_what_to_leave_out(predictors, table, match):
    with pytest.raises(ParameterError, match=match):
        pooled(LinearRegression(OUTCOME, predictors), table)


def test_a_column_that_is_nearly_another_is_estimated(tables):
    """Rounding to units alone is enough to tell them apart; only what rounding cannot explain is refused."""
    rng = np.random.default_rng(1)
    age = grid(rng.normal(60, 10, 200), 1 / 8)
    twin = age + rng.choice([0, 1 / 8], 200)
    table = {"age": age, "twin": twin, "out": grid(age + rng.normal(0, 1, 200), 1 / 16)}
    found = pooled(LinearRegression(OUTCOME, (AGE, Number("twin", low=0, high=128, unit=1 / 8))), [table])
    reference = sm.OLS(table["out"], sm.add_constant(np.column_stack([age, twin]))).fit()
    assert found.values == pytest.approx(reference.params, rel=1e-9)


def test_it_is_a_frame_and_draws_itself(tables):
    found = pooled(LinearRegression(OUTCOME, (AGE, CHOL, SEX)), tables)
    frame = found.to_frame()
    assert frame.loc["sex[m]", "coefficient"] == found.values[3]
    assert frame.columns.tolist() == ["coefficient", "se", "t", "p", "low", "high"]
    axes = found.draw()
    assert [each.get_text() for each in axes.get_yticklabels()] == ["age", "chol", "sex[m]"]
    last = str(found).splitlines()
    assert last[-2].startswith("R² 0.")
    assert last[-2].endswith(f"p <.001; residual sd {found.residual_deviation:.4g}")
    assert last[-1] == f"{found.count} complete rows, {found.incomplete} were left out"


@pytest.mark.parametrize(
    ("outcome", "predictors", "match"),
    [
        (
            SEX,
            (AGE,),
            "the outcome of a LinearRegression is a Number; of two levels ask a LogisticRegression",
        ),
        (OUTCOME, (), "predictors are a tuple of at least one Number or Category"),
        (OUTCOME, AGE, "predictors are a tuple of at least one Number or Category"),
        (OUTCOME, (AGE, "sex"), "predictors are a tuple of at least one Number or Category"),
        (OUTCOME, (AGE, OUTCOME), "column 'out' is there twice"),
    ],
)
def test_what_is_no_regression(outcome, predictors, match):
    with pytest.raises(ParameterError, match=match):
        LinearRegression(outcome, predictors)


def test_a_list_of_predictors_is_a_tuple():
    question = LinearRegression(OUTCOME, [AGE, SEX])
    assert question == LinearRegression(OUTCOME, (AGE, SEX))
    assert question.columns == (AGE, SEX, OUTCOME)


def test_a_step_of_another_question_is_refused():
    with pytest.raises(ParameterError, match="this question has 'products' of 7 and none"):
        LinearRegression(OUTCOME, (AGE,)).summand(Step("products", 6), Rows.of({"age": [], "out": []}))


def test_squares_that_may_not_fit_name_the_column():
    fine = Number("out", low=-1, high=1, unit=2.0**-23)
    with pytest.raises(
        ParameterError, match=r"column 'out' has 8388608 units .* max_rows of at most 32768, or"
    ):
        LinearRegression(fine, (AGE,)).largest(max_rows=40_000)


def test_products_that_no_rows_have_are_somebodys_lie():
    asking = LinearRegression(OUTCOME, (AGE,)).asking(max_rows=10)
    next(asking)
    with pytest.raises(RoundAborted, match="products that no rows have"):
        asking.send(np.array([0, 9, 0, 0, 5, 1000, 5]))
