"""Cross tables of pooled rows are scipy's, small ones and degenerate ones too."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from scipy.stats import contingency

from fl_integration.statistics.columns import Category, Number
from fl_integration.statistics.cross_table import ChiSquared, CrossTable
from fl_integration.statistics.question import Step
from fl_integration.statistics.rows import Rows
from secagg.errors import ParameterError, RoundAborted
from tests.fl_integration.statistics.pooled import pooled

SEX = Category("sex", ("f", "m"))
PAIN = Category("pain", (1, 2, 3, 4))
ILL = Category("ill", (0, 1))
EXACT = 1e-12


def table_of(counts, row=SEX, column=ILL):
    """A person for each count."""
    cells = [
        (a, b)
        for a, across in zip(row.levels, counts, strict=True)
        for b, count in zip(column.levels, across, strict=True)
        for _ in range(count)
    ]
    return {
        row.name: np.array([a for a, _ in cells], dtype=object),
        column.name: np.array([b for _, b in cells], dtype=object),
    }


def test_a_table_of_four_by_two_is_scipys():
    rng = np.random.default_rng(1)
    tables = [
        pd.DataFrame({"sex": rng.choice(["f", "m"], n), "pain": rng.choice([1.0, 2.0, 3.0, 4.0, np.nan], n)})
        for n in (200, 0, 90)
    ]
    found = pooled(CrossTable(PAIN, SEX), tables)
    everybody = pd.concat(tables)
    counts = pd.crosstab(everybody.pain, everybody.sex).to_numpy()
    assert (found.counts == counts).all()
    assert found.missing == everybody.pain.isna().sum() > 0
    reference = stats.chi2_contingency(counts, correction=False)
    assert found.chi_squared.statistic == pytest.approx(reference.statistic, rel=EXACT)
    assert found.chi_squared.p_value == pytest.approx(reference.pvalue, rel=EXACT)
    assert found.chi_squared.degrees == reference.dof == 3
    assert found.expected == pytest.approx(reference.expected_freq, rel=EXACT)
    assert found.cramers_v == pytest.approx(contingency.association(counts, method="cramer"), rel=EXACT)
    assert found.corrected is None
    assert found.fisher is None
    assert found.dependable


@given(st.lists(st.integers(0, 40), min_size=4, max_size=4))
@settings(max_examples=40)
def test_a_table_of_two_by_two_is_scipys(cells):
    counts = np.array(cells).reshape(2, 2)
    found = pooled(CrossTable(SEX, ILL), [table_of(counts), table_of(np.zeros((2, 2), int))])
    assert (found.counts == counts).all()
    if not (counts.sum(axis=0).all() and counts.sum(axis=1).all()):
        assert found.chi_squared is found.corrected is found.fisher is None
        assert np.isnan(found.cramers_v)
        assert not found.dependable
        return
    for mine, correction in ((found.chi_squared, False), (found.corrected, True)):
        reference = stats.chi2_contingency(counts, correction=correction)
        assert mine.statistic == pytest.approx(reference.statistic, rel=EXACT, abs=1e-14)
        assert mine.p_value == pytest.approx(reference.pvalue, rel=EXACT)
    few = reference.expected_freq.min() < 5
    assert found.dependable == (not few)
    assert (found.fisher is not None) == few
    if few:
        odds, chance = stats.fisher_exact(counts)
        assert (found.fisher.odds_ratio, found.fisher.p_value) == (odds, chance)


def test_the_tea_tasting_lady():
    """Fisher's own table: three of four cups told right has p = .486."""
    found = pooled(CrossTable(SEX, ILL), [table_of([[3, 1], [0, 0]]), table_of([[0, 0], [1, 3]])])
    assert found.fisher.p_value == pytest.approx(34 / 70)
    assert found.fisher.odds_ratio == 9
    assert "Fisher's exact test: p = .49, odds ratio 9.00" in str(found)
    assert "χ² is not to be relied on: expected counts are too small; read Fisher's test" in str(found)


def test_a_level_that_nobody_has_is_left_out_of_the_tests():
    counts = np.array([[10, 20, 0, 0], [30, 15, 0, 0]])
    found = pooled(CrossTable(SEX, PAIN), [table_of(counts, SEX, PAIN)])
    reference = stats.chi2_contingency(counts[:, :2], correction=True)
    assert found.corrected == ChiSquared(
        pytest.approx(reference.statistic, rel=EXACT), 1, pytest.approx(reference.pvalue, rel=EXACT)
    )
    assert (found.expected[:, 2:] == 0).all()


def test_small_expected_counts_of_a_larger_table_are_marked():
    counts = np.array([[1, 3, 2, 9], [2, 1, 4, 8]])
    found = pooled(CrossTable(SEX, PAIN), [table_of(counts, SEX, PAIN)])
    assert found.chi_squared.statistic == pytest.approx(
        stats.chi2_contingency(counts, correction=False).statistic, rel=EXACT
    )
    assert not found.dependable
    assert "χ² is not to be relied on: expected counts are too small; join levels" in str(found)


def test_a_perfect_association_has_cramers_v_of_one():
    assert pooled(CrossTable(SEX, ILL), [table_of([[10, 0], [0, 12]])]).cramers_v == 1.0


def test_counts_of_a_billion_rows_neither_overflow_nor_cancel():
    asking = CrossTable(SEX, ILL).asking(max_rows=1 << 40)
    next(asking)
    counts = np.array([0, 10**12 + 1, 10**12, 10**12, 10**12 - 1])
    with pytest.raises(StopIteration) as done:
        asking.send(counts)
    a, b, c, d = counts[1:].tolist()
    exact = (a + b + c + d) * (a * d - b * c) ** 2 / ((a + b) * (c + d) * (a + c) * (b + d))
    assert done.value.value.chi_squared.statistic == pytest.approx(exact, rel=EXACT)


def test_nobody_at_all_is_no_test():
    found = pooled(CrossTable(SEX, ILL), [table_of(np.zeros((2, 2), int))])
    assert found.counts.sum() == 0
    assert "no test: fewer than two levels occur" in str(found)
    assert np.isnan(found.expected).all()


def test_it_prints_margins_and_tests():
    text = str(pooled(CrossTable(SEX, ILL), [table_of([[10, 20], [30, 15]])]))
    assert text.splitlines()[-3:] == [
        "all  40  35   75",
        "χ²(1) = 8.04, p = .005; Cramér's V 0.33",
        "with Yates' correction 6.75, p = .009",
    ]


def test_a_level_may_be_called_all():
    """Beside the margin of that name, which does not take its place."""
    row, column = Category("row", ("x", "all")), Category("column", ("all", "y"))
    table = {"row": ["x", "x", "x", "all"], "column": ["all", "y", "y", "y"]}
    shown = str(pooled(CrossTable(row, column), [table])).splitlines()
    assert [line.split() for line in shown[:5:2]] == [
        ["column", "all", "y", "all"],
        ["x", "1", "2", "3"],
        ["all", "1", "3", "4"],
    ]


def test_it_is_a_frame_and_draws_itself():
    found = pooled(CrossTable(SEX, ILL), [table_of([[10, 20], [30, 15]])])
    assert found.to_frame().loc["m", 0] == 30
    axes = found.draw()
    assert [text.get_text() for text in axes.get_yticklabels()] == ["f\nn = 30", "m\nn = 45"]
    assert [bar.get_width() for bar in axes.patches] == pytest.approx([10 / 30, 30 / 45, 20 / 30, 15 / 45])
    assert found.draw(axes) is axes


def test_cells_are_opened_and_it_says_so():
    assert CrossTable.cells
    assert CrossTable(SEX, ILL).columns == (SEX, ILL)
    assert CrossTable(SEX, ILL).largest(max_rows=17) == 17


@pytest.mark.parametrize(
    ("row", "column", "match"),
    [
        (Number("age", low=0, high=9), ILL, "row and column of a CrossTable are each a Category"),
        (SEX, "ill", "row and column of a CrossTable are each a Category"),
        (SEX, SEX, "column 'sex' is there twice"),
        (
            Category("a", tuple(range(300))),
            Category("b", tuple(range(300))),
            "a table of 300 by 300 levels; at most 65536 cells: join levels",
        ),
    ],
)
def test_what_is_no_cross_table(row, column, match):
    with pytest.raises(ParameterError, match=match):
        CrossTable(row, column)


@pytest.mark.parametrize("step", [Step("cells", 4), Step("count", 5), Step("cells", 5, (1.0,))])
def test_a_step_of_another_question_is_refused(step):
    with pytest.raises(ParameterError, match="this question has 'cells' of 5 and none"):
        CrossTable(SEX, ILL).summand(step, Rows.of(table_of([[1, 1], [1, 1]])))


def test_counts_below_zero_are_somebodys_lie():
    asking = CrossTable(SEX, ILL).asking(max_rows=10)
    next(asking)
    with pytest.raises(RoundAborted, match="a count is below zero"):
        asking.send(np.array([0, 1, 1, -1, 1]))
