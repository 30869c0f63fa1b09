"""Table 1 against pandas and scipy on the same rows in one pile, and how it is printed."""

import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from fl_integration.statistics.cohort import CategoryLine, NumberLine, TableOne
from fl_integration.statistics.columns import Category, Number
from fl_integration.statistics.comparing import (
    Comparison,
    compared_counts,
    compared_means,
    compared_ranks,
    pooled_moments,
)
from fl_integration.statistics.policy import SitePolicy, SmallCells
from fl_integration.statistics.refusal import QuestionRefusedError
from fl_integration.statistics.table_one import questions, rank_edges, table_one
from protocols import CkksSum, MaskedSum, PlainSum
from secagg.errors import ParameterError

AGE = Number("age", low=0, high=128, unit=1)
DOSE = Number("dose", low=0, high=16, unit=0.5)
SEX = Category("sex", ("f", "m"))
STAGE = Category("stage", (1, 2, 3))
OUTCOME = Category("outcome", ("well", "ill"))
COLUMNS = (AGE, DOSE, SEX, STAGE)
PLAIN = PlainSum(max_clients=3)


def rows(seed: int, count: int = 120) -> pd.DataFrame:
    """Rows of one site, a few values missing, the outcome among them."""
    rng = np.random.default_rng(seed)
    ill = rng.random(count) < 0.4
    frame = pd.DataFrame(
        {
            "age": np.round(rng.normal(50 + 6 * ill, 10)),
            "dose": np.clip(np.round(2 * rng.exponential(2 + ill)) / 2, 0, 16),
            "sex": np.where(rng.random(count) < 0.3 + 0.3 * ill, "f", "m").astype(object),
            "stage": rng.integers(1, 4, count).astype(float),
            "outcome": np.where(ill, "ill", "well").astype(object),
        }
    )
    frame.loc[rng.integers(0, count, 5), "age"] = np.nan
    frame.loc[rng.integers(0, count, 4), "sex"] = None
    frame.loc[0, "outcome"] = None
    return frame


TABLES = {name: rows(seed) for seed, name in enumerate(("basel", "bern", "wien"))}


def pile() -> pd.DataFrame:
    whole = pd.concat(TABLES.values())
    return whole[whole["outcome"].notna()]


def groups(column: str) -> list[pd.Series]:
    return [pile().loc[pile()["outcome"] == each, column].dropna() for each in OUTCOME.levels]


@pytest.fixture(scope="module")
def described() -> TableOne:
    return table_one(PLAIN, TABLES, COLUMNS, by=OUTCOME, medians=("dose",), max_rows=200)


def line(table: TableOne, column: str) -> NumberLine | CategoryLine:
    return next(each for each in table.lines if each.column.name == column)


# --- against the pile -------------------------------------------------------------------------------------


def test_rows(described):
    assert described.rows.tolist() == [len(pile()), *(len(groups("outcome")[place]) for place in (0, 1))]


def test_means(described):
    found = line(described, "age")
    for place, each in enumerate([pile()["age"].dropna(), *groups("age")]):
        assert found.count[place] == len(each)
        assert found.centre[place] == pytest.approx(each.mean(), rel=1e-12)
        assert found.spread[place] == pytest.approx([each.std()] * 2, rel=1e-12)
    assert found.missing[0] == pile()["age"].isna().sum() > 0
    assert found.p_value == pytest.approx(stats.ttest_ind(*groups("age"), equal_var=False).pvalue, rel=1e-9)
    assert found.test is Comparison.WELCH


def test_medians(described):
    found = line(described, "dose")
    for place, each in enumerate([pile()["dose"], *groups("dose")]):
        low, middle, high = np.quantile(each, [0.25, 0.5, 0.75], method="inverted_cdf")
        assert (found.centre[place], *found.spread[place]) == (middle, low, high)
    # The bins are as wide as the unit, so that the ranks are those of the values.
    theirs = stats.mannwhitneyu(*groups("dose"), use_continuity=False, method="asymptotic")
    assert found.p_value == pytest.approx(theirs.pvalue, rel=1e-9)
    assert found.test is Comparison.RANKS


@pytest.mark.parametrize("column", ["sex", "stage"])
def test_categories(described, column):
    found = line(described, column)
    known = pile()[pile()[column].notna()]
    table = pd.crosstab(known[column], known["outcome"])[list(OUTCOME.levels)]
    np.testing.assert_array_equal(found.counts[:, 1:], table)
    np.testing.assert_array_equal(found.counts[:, 0], table.sum(axis=1))
    assert found.missing[0] == len(pile()) - len(known)
    assert found.p_value == pytest.approx(stats.chi2_contingency(table, correction=False).pvalue, rel=1e-9)
    assert found.test is Comparison.CHI_SQUARED


@pytest.mark.parametrize(
    "protocol", [MaskedSum(max_clients=3), pytest.param(CkksSum(max_clients=3), marks=pytest.mark.slow)]
)
def test_same_table_through_a_protocol(protocol, described):
    columns = (AGE, SEX)
    found = table_one(protocol, TABLES, columns, by=OUTCOME, max_rows=200)
    alike = table_one(PLAIN, TABLES, columns, by=OUTCOME, max_rows=200)
    assert found.cells() == alike.cells()
    assert min(found.provenance.sent.values()) > 0


def test_without_groups():
    found = table_one(PLAIN, TABLES, COLUMNS, medians=("dose",), max_rows=200)
    whole = pd.concat(TABLES.values())
    assert found.rows.tolist() == [len(whole)]
    assert line(found, "age").centre[0] == pytest.approx(whole["age"].mean())
    assert line(found, "sex").counts[:, 0].tolist() == [(whole["sex"] == each).sum() for each in "fm"]
    assert "p" not in found.heads
    assert all(math.isnan(each.p_value) for each in found.lines)


def test_three_groups():
    found = table_one(PLAIN, TABLES, (AGE, DOSE), by=STAGE, medians=("dose",), max_rows=200)
    whole = pd.concat(TABLES.values())
    parts = [whole[whole["stage"] == each] for each in STAGE.levels]
    ages, doses = ([each[name].dropna() for each in parts] for name in ("age", "dose"))
    assert line(found, "age").p_value == pytest.approx(stats.f_oneway(*ages).pvalue, rel=1e-9)
    assert line(found, "age").test is Comparison.ANOVA
    assert line(found, "dose").p_value == pytest.approx(stats.kruskal(*doses).pvalue, rel=1e-9)


def test_few_by_two_is_fishers():
    tables = {
        name: {"sex": ["f"] * 12 + ["m"] * 3, "outcome": ["well"] * 11 + ["ill"] * 4} for name in TABLES
    }
    policy = SitePolicy(small_cells=SmallCells.OPENED, min_rows=1, min_difference=1)
    found = table_one(PLAIN, tables, (SEX,), by=OUTCOME, policy=policy, max_rows=20)
    assert line(found, "sex").test is Comparison.FISHER
    assert line(found, "sex").p_value == pytest.approx(stats.fisher_exact([[33, 3], [0, 9]]).pvalue)


# --- tests of difference ----------------------------------------------------------------------------------

samples = st.lists(
    st.lists(st.integers(0, 30), min_size=3, max_size=12).filter(lambda each: len(set(each)) > 1),
    min_size=2,
    max_size=4,
)


@settings(max_examples=30, deadline=None)
@given(samples)
def test_means_are_compared_as_scipy_does(parts):
    count = np.array([len(each) for each in parts])
    mean, deviation = (np.array([f(each) for each in parts]) for f in (np.mean, lambda x: np.std(x, ddof=1)))
    p, test = compared_means(count, mean, deviation)
    theirs = stats.ttest_ind(*parts, equal_var=False) if len(parts) == 2 else stats.f_oneway(*parts)
    assert p == pytest.approx(theirs.pvalue, rel=1e-6, abs=1e-12)
    assert test is (Comparison.WELCH if len(parts) == 2 else Comparison.ANOVA)
    whole = np.concatenate(parts)
    assert pooled_moments(count, mean, deviation) == pytest.approx(
        (whole.mean(), whole.std(ddof=1)), rel=1e-9
    )


@settings(max_examples=30, deadline=None)
@given(samples)
def test_ranks_are_compared_as_scipy_does(parts):
    counts = np.array([np.bincount(each, minlength=31) for each in parts])
    assert compared_ranks(counts)[0] == pytest.approx(stats.kruskal(*parts).pvalue, rel=1e-6, abs=1e-12)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.lists(st.integers(0, 30), min_size=3, max_size=3), min_size=2, max_size=4))
def test_counts_are_compared_as_scipy_does(counts):
    table = np.array(counts)
    p, test = compared_counts(table)
    kept = table[table.sum(axis=1) > 0][:, table.sum(axis=0) > 0]
    if min(kept.shape) < 2:
        assert math.isnan(p)
        assert test is None
    elif test is Comparison.FISHER:
        assert p == pytest.approx(stats.fisher_exact(kept).pvalue)
    else:
        theirs = stats.chi2_contingency(kept, correction=False)
        assert p == pytest.approx(theirs.pvalue, rel=1e-6, abs=1e-12)
        assert kept.shape != (2, 2) or theirs.expected_freq.min() >= 5


@pytest.mark.parametrize("counts", [[[5, 0], [0, 0]], [[5, 0], [7, 0]], [[0, 0], [0, 0]], [[1, 0], [0, 0]]])
def test_what_has_no_ranks_has_no_p(counts):
    assert math.isnan(compared_ranks(np.array(counts))[0])


@pytest.mark.parametrize(
    ("count", "deviation"), [([1, 30], [math.nan, 2.0]), ([0, 0], [math.nan] * 2), ([20, 20], [0.0, 0.0])]
)
def test_what_has_no_spread_has_no_p(count, deviation):
    p, test = compared_means(np.array(count), np.array([1.0, 2.0]), np.array(deviation))
    assert math.isnan(p)
    assert test is None


def test_moments_of_an_empty_group_are_left_out():
    found = pooled_moments(np.array([0, 2]), np.array([math.nan, 3.0]), np.array([math.nan, 1.0]))
    assert found == (3.0, 1.0)
    assert all(map(math.isnan, pooled_moments(np.array([0]), np.array([math.nan]), np.array([math.nan]))))


# --- what is printed --------------------------------------------------------------------------------------


def test_cells_by_hand():
    labels = {"sex": {"": "Sex", "f": "women", "m": "men"}, "age": "Age, years"}
    tables = {name: {"age": [40.0, 60.0] * 10 + [math.nan], "sex": ["f"] * 2 + ["m"] * 19} for name in TABLES}
    policy = SitePolicy(small_cells=SmallCells.OPENED, min_rows=1, min_difference=1)
    given = {"labels": labels, "policy": policy, "max_rows": 64}
    found = table_one(PLAIN, tables, (AGE, SEX), **given)
    assert found.heads == ("", "all\n(n = 63)", "missing")
    assert found.cells() == [
        ("Age, years", "50.0 (10.1)", "3"),
        ("Sex", "", "0"),
        ("  women", "6 (9.5)", ""),
        ("  men", "57 (90.5)", ""),
    ]
    hidden = table_one(PLAIN, tables, (AGE, SEX), least_shown=7, **given)
    assert [row[1] for row in hidden.cells()] == ["50.0 (10.1)", "", "<7", "57 (90.5)"]
    assert hidden.cells()[0][2] == "<7"
    assert "mean (sd), n (% of those that are known)" in str(found)


def test_notes_say_what_it_took(described):
    sums = described.provenance.sums
    assert sums > 2 * questions(COLUMNS, by=OUTCOME, medians=("dose",)) - 1
    assert f"From {sums} secure sums of 3 sites; each sent at most" in str(described)
    assert "Welch's t test, rank test" in str(described)
    assert described.to_frame().shape == (9, 5)


def test_ticks_and_questions():
    seen = []
    given = {"by": OUTCOME, "medians": ("dose",)}
    table_one(PLAIN, TABLES, COLUMNS, max_rows=200, tick=seen.append, **given)
    assert len(seen) == questions(COLUMNS, **given)


def test_a_site_with_few_rows_is_left_out_and_said():
    few = rows(9, 120)
    few["outcome"] = ["ill"] * 3 + ["well"] * 117
    four = PlainSum(max_clients=4)
    found = table_one(four, {**TABLES, "zug": few}, (AGE,), by=OUTCOME, max_rows=200)
    assert "ill: 1 site has too few rows, and none of them is counted." in found.notes
    ill = sum((TABLES[name]["outcome"] == "ill").sum() for name in TABLES)
    assert found.rows[2] == ill


def test_policy_that_does_not_cut_there_refuses():
    policy = SitePolicy(columns={each.name: each for each in (*COLUMNS, OUTCOME)})
    with pytest.raises(QuestionRefusedError, match="cuts the column 'dose'"):
        table_one(PLAIN, TABLES, (DOSE,), by=OUTCOME, medians=("dose",), policy=policy, max_rows=200)
    assert (rank_edges(DOSE)[0], rank_edges(DOSE)[-1], len(rank_edges(DOSE))) == (0, 16, 33)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"columns": ()}, "there must be one, each once"),
        ({"columns": (AGE, AGE)}, "each once"),
        ({"columns": (AGE, OUTCOME)}, "`by` not among them"),
        ({"columns": "age"}, "columns is a str, or holds something else than Number"),
        ({"columns": ("age",)}, "holds something else than Number"),
        ({"by": AGE}, "by is a Number; pass the Category whose levels are the groups, or None"),
        (
            {"medians": ("sex",)},
            r"medians is \('sex',\); it must be names of numbers, among \['age', 'dose'\]",
        ),
        ({"medians": "dose"}, "medians is 'dose'; it must be names of numbers"),
        ({"least_shown": 0}, "least_shown is 0; it must be an int of at least 1"),
    ],
)
def test_what_cannot_be(arguments, message):
    with pytest.raises(ParameterError, match=message):
        table_one(PLAIN, TABLES, **{"columns": COLUMNS, "by": OUTCOME, **arguments})
