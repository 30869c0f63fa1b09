"""Tests of very many markers are scipy's, one by one, and their sums are exact."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from fl_integration.statistics.allele_test import AlleleTest, Association, Calls
from fl_integration.statistics.columns import Category, Genotypes, Number
from fl_integration.statistics.question import Step
from fl_integration.statistics.rows import Rows
from secagg.errors import ParameterError, RoundAborted
from tests.fl_integration.statistics.pooled import pooled

ILL = Category("ill", (0, 1))
EXACT = 1e-12


def table_of(rng, rows, markers, *, missing=0.0, dtype=np.int8):
    genotypes = rng.binomial(2, rng.uniform(0.05, 0.5, markers), (rows, markers)).astype(dtype)
    if missing:
        genotypes[rng.random((rows, markers)) < missing] = -1
    return {"snps": genotypes, "ill": rng.integers(0, 2, rows)}


def question_of(markers, calls=Calls.COUNTED, association=Association.ALLELIC):
    return AlleleTest(Genotypes("snps", markers), ILL, calls, association)


@pytest.mark.parametrize("missing", [0.0, 0.1])
def test_each_marker_is_scipys(missing):
    rng = np.random.default_rng(2)
    tables = [table_of(rng, rows, 60, missing=missing) for rows in (150, 0, 90)]
    found = pooled(question_of(60, association=Association.TREND), tables)
    genotypes = np.concatenate([each["snps"] for each in tables])
    ill = np.concatenate([each["ill"] for each in tables])
    assert (found.cases, found.controls) == (ill.sum(), len(ill) - ill.sum())
    for marker in range(60):
        known = genotypes[:, marker] >= 0
        x, group = genotypes[known, marker].astype(int), ill[known]
        table = [[x[group == each].sum(), (2 - x[group == each]).sum()] for each in (0, 1)]
        reference = stats.chi2_contingency(table, correction=False)
        assert found.alleles[:, marker].tolist() == [row[0] for row in table]
        assert found.called[:, marker].tolist() == [(group == 0).sum(), (group == 1).sum()]
        assert found.chi_squared[marker] == pytest.approx(reference.statistic, rel=EXACT)
        assert found.p_values[marker] == pytest.approx(reference.pvalue, rel=EXACT)
        assert found.odds_ratios[marker] == pytest.approx(
            stats.contingency.odds_ratio(np.array(table)[::-1], kind="sample").statistic, rel=EXACT
        )
        # The trend test is N·r² of case and count (Sasieni 1997).
        trend = len(x) * stats.pearsonr(x, group).statistic ** 2
        assert found.trend[marker] == pytest.approx(trend, rel=1e-10, abs=1e-13)
        assert found.trend_p_values[marker] == pytest.approx(stats.chi2.sf(trend, 1), rel=1e-10)


def test_a_trend_by_hand():
    """Cochran and Armitage's formula with weights 0, 1, 2 on a table of cases and controls by genotype."""
    cases, controls = np.array([19, 31, 20]), np.array([38, 29, 13])
    genotypes = np.concatenate([np.repeat([0, 1, 2], counts) for counts in (cases, controls)])
    table = {"snps": genotypes[:, None].astype(np.int8), "ill": np.repeat([1, 0], [70, 80])}
    found = pooled(question_of(1, association=Association.TREND), [table])
    weights, both = np.array([0, 1, 2]), cases + controls
    slope = (weights * (cases * 80 - controls * 70)).sum()
    variance = 70 * 80 / 150 * ((weights**2 * both * (150 - both)).sum() - 2 * (1 * 2 * both[1] * both[2]))
    assert found.trend[0] == pytest.approx(slope**2 / variance, rel=EXACT)


@given(
    st.integers(0, 2**32 - 1),
    st.integers(0, 200),
    st.sampled_from(Calls),
    st.sampled_from(Association),
    st.sampled_from([np.int8, np.int64, np.uint8]),
    st.booleans(),
)
@settings(max_examples=25)
def test_sums_are_exact(seed, rows, calls, association, dtype, fortran):
    """Whatever the number of rows, around which int8 sums are cut, and however the matrix lies in memory."""
    rng = np.random.default_rng(seed)
    missing = 0.2 if calls is Calls.COUNTED and dtype is not np.uint8 else 0.0
    table = table_of(rng, rows, 5, missing=missing, dtype=dtype)
    if fortran:
        table["snps"] = np.asfortranarray(table["snps"])
    question = question_of(5, calls, association)
    total = question.summand(next(question.asking(max_rows=200)), Rows.of(table))
    known = (table["snps"].astype(np.int64) >= 0).any(axis=1)
    genotypes, ill = table["snps"][known].astype(np.int64), table["ill"][known]
    groups = [genotypes[ill == each] for each in (0, 1)]
    expected = [np.array([len(each) for each in groups])]
    expected += [(np.maximum(each - 1, -1) * (each >= 0)).sum(axis=0) for each in groups]
    if calls is Calls.COUNTED:
        expected += [(each < 0).sum(axis=0) for each in groups]
    if association is Association.TREND:
        expected += [sum((each == 2).sum(axis=0) for each in groups)]
    assert (total == np.concatenate(expected)).all()


def test_the_largest_counts_fit():
    """All carry both alleles: each sum of int8 is 126, and each of the site is the bound itself."""
    table = {"snps": np.full((1000, 3), 2, dtype=np.int8), "ill": np.zeros(1000, dtype=int)}
    question = question_of(3, association=Association.TREND)
    total = question.summand(next(question.asking(max_rows=1000)), Rows.of(table))
    assert total.tolist() == [1000, 0] + [1000] * 3 + [0] * 9 + [1000] * 3
    assert question.largest(max_rows=1000) == 1000


def test_more_markers_than_a_block_has():
    rng = np.random.default_rng(4)
    table = table_of(rng, 70, 8200)
    found = pooled(question_of(8200, Calls.COMPLETE), [table])
    assert (found.alleles[1] == table["snps"][table["ill"] == 1].sum(axis=0, dtype=int)).all()


def test_persons_of_whom_it_is_not_known_are_left_out():
    rng = np.random.default_rng(4)
    table = table_of(rng, 40, 3)
    table["ill"] = table["ill"].astype(np.float64)
    known = {name: each[10:] for name, each in table.items()}
    table["ill"][:10] = np.nan
    found, without = (pooled(question_of(3), [each]) for each in (table, known))
    assert found.cases + found.controls == 30
    assert (found.alleles == without.alleles).all()


def test_persons_without_a_genotype_are_no_complete_cases():
    """Else the number of cases is of one more than the rows that the ledger knows of."""
    table = {"snps": np.array([[-1, -1], [0, -1], [2, 1], [1, 1]], np.int8), "ill": np.array([1, 1, 1, 0])}
    question = question_of(2)
    found = pooled(question, [table])
    rows = Rows.of(table)
    known = rows.present(question.genotypes) & rows.present(question.cases)
    assert (found.cases, found.controls) == (2, 1)
    assert found.cases + found.controls == known.sum()
    assert found.called.tolist() == [[1, 1], [2, 1]]


def test_no_p_value_is_printed_as_nothing():
    table = {"snps": np.repeat([[0], [2]], 1500, axis=0).astype(np.int8), "ill": np.repeat([0, 1], 1500)}
    found = pooled(question_of(1), [table], max_rows=3000)
    assert found.p_values[0] == 0.0
    assert str(found).splitlines()[-1].split()[-1] == "<1e-307"


def test_markers_that_cannot_be_tested_are_nan():
    table = {"snps": np.array([[0, 2, -1, 0], [0, 2, 1, 1], [0, 2, -1, 2]]), "ill": np.array([0, 1, 0])}
    found = pooled(question_of(4, association=Association.TREND), [table])
    assert np.isnan(found.chi_squared).tolist() == [True, True, True, False]
    assert np.isnan(found.trend).tolist() == [True, True, True, False]
    assert found.frequencies[:, :2].tolist() == [[0, 1], [0, 1]]
    assert np.isnan(found.frequencies[0, 2])
    assert "1 of 4 markers tested" in str(found)


def test_nobody_has_no_test():
    found = pooled(question_of(2), [table_of(np.random.default_rng(0), 0, 2)])
    assert np.isnan(found.p_values).all()
    assert "0 cases, 0 controls; 0 of 2 markers tested" in str(found)
    assert found.draw().get_xlim() == (-0.5, 1.5)


def test_numbers_of_a_biobank_do_not_overflow():
    """A thousand sites of 2**20 rows, all called: the products are those of Python's integers."""
    asking = question_of(1, association=Association.TREND).asking(max_rows=1 << 20)
    next(asking)
    controls, cases = 2**29 + 7, 2**29 - 7
    centred = (12345, -54321)
    doubles = 2**28
    with pytest.raises(StopIteration) as done:
        asking.send(np.array([controls, cases, *centred, 0, 0, doubles]))
    found = done.value.value
    b, a = controls + centred[0], cases + centred[1]
    d, c = 2 * controls - b, 2 * cases - a
    exact = 2**31 * (a * d - b * c) ** 2 / ((a + b) * (c + d) * (a + c) * (b + d))
    assert found.chi_squared[0] == pytest.approx(exact, rel=1e-14)
    n, squares = 2**30, a + b + 2 * doubles
    trend = n * (n * a - cases * (a + b)) ** 2 / (cases * controls * (n * squares - (a + b) ** 2))
    assert found.trend[0] == pytest.approx(trend, rel=1e-14)


def test_the_wire_is_what_was_asked_for():
    for calls, association, rows in [
        (Calls.COMPLETE, Association.ALLELIC, 2),
        (Calls.COMPLETE, Association.TREND, 3),
        (Calls.COUNTED, Association.ALLELIC, 4),
        (Calls.COUNTED, Association.TREND, 5),
    ]:
        step = next(question_of(100, calls, association).asking(max_rows=1))
        assert step == Step("alleles", 2 + 100 * rows)
    assert AlleleTest.cells


def test_missing_genotypes_where_none_were_said_to_be_are_refused():
    table = table_of(np.random.default_rng(0), 10, 4, missing=0.5)
    with pytest.raises(
        ParameterError, match=r"'snps' has missing genotypes.* ask with Calls.COUNTED, or impute"
    ):
        pooled(question_of(4, Calls.COMPLETE), [table])


def test_a_marker_that_matters_is_found_and_drawn():
    rng = np.random.default_rng(6)
    table = table_of(rng, 600, 500)
    table["snps"][:, 123] = rng.binomial(2, 0.2 + 0.3 * table["ill"])
    found = pooled(question_of(500), [table])
    assert found.to_frame()["p"].idxmin() == 123
    assert found.p_values[123] < 1e-12
    assert 0.7 < found.inflation < 1.3
    assert str(found).splitlines()[3].split()[0] == "123"
    assert "1 with p below .05/500" in str(found)
    axes = found.draw()
    assert axes.collections[1].get_offsets()[:, 0].tolist() == [123]
    assert len(axes.collections[0].get_offsets()) == 499


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ((Number("snps", low=0, high=2), ILL), "genotypes of an AlleleTest are Genotypes"),
        ((Genotypes("snps", 3), Category("ill", (0, 1, 2))), "a Category of two levels, controls first"),
        ((Genotypes("snps", 3), Number("ill", low=0, high=1)), "a Category of two levels, controls first"),
        ((Genotypes("snps", 3), ILL, "counted"), "calls and association of an AlleleTest are a Calls and an"),
        ((Genotypes("snps", 3), ILL, Calls.COUNTED, True), "calls and association of an AlleleTest are"),
        ((Genotypes("ill", 3), ILL), "column 'ill' is there twice"),
    ],
)
def test_what_is_no_allele_test(arguments, match):
    with pytest.raises(ParameterError, match=match):
        AlleleTest(*arguments)


def test_more_rows_than_products_bear_are_refused():
    assert question_of(3).largest(max_rows=1 << 20) == 1 << 20
    with pytest.raises(ParameterError, match="an AlleleTest takes at most 1048576 rows a site"):
        question_of(3).largest(max_rows=(1 << 20) + 1)


def test_a_step_of_another_question_is_refused():
    with pytest.raises(ParameterError, match="this question has 'alleles' of 14 and none"):
        question_of(3).summand(Step("alleles", 8), Rows.of(table_of(np.random.default_rng(0), 1, 3)))


@pytest.mark.parametrize(
    "lie", [[5, 5, 6, 0, 0, 0, 0], [5, 5, 0, 0, -1, 0, 0], [5, 5, 0, 0, 0, 6, 0], [5, 5, 0, 0, 0, 0, 11]]
)
def test_counts_that_no_persons_have_are_somebodys_lie(lie):
    asking = question_of(1, association=Association.TREND).asking(max_rows=10)
    next(asking)
    with pytest.raises(RoundAborted, match="allele counts beyond those of the persons"):
        asking.send(np.array(lie))
