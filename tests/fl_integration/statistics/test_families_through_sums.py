"""Cross tables, correlations, components, regressions, allele tests through the machines, under policies."""

import dataclasses

import numpy as np
import pandas as pd
import pytest

from fl_integration.statistics.allele_test import AlleleTest, Association, Calls
from fl_integration.statistics.asking import ask
from fl_integration.statistics.columns import Category, Genotypes, Number
from fl_integration.statistics.correlation import Correlation
from fl_integration.statistics.cross_table import CrossTable
from fl_integration.statistics.linear_regression import LinearRegression
from fl_integration.statistics.moments import Moments
from fl_integration.statistics.pca import PCA, Matrix
from fl_integration.statistics.policy import SitePolicy, SmallCells
from fl_integration.statistics.refusal import QuestionRefusedError
from fl_integration.statistics.row_names import names_of
from protocols import CkksSum, MaskedSum
from secagg.errors import ParameterError
from tests.fl_integration.statistics.pooled import pooled

AGE = Number("age", low=0, high=128, unit=1 / 8)
CHOL = Number("chol", low=0, high=512, unit=1 / 4)
SEX = Category("sex", ("f", "m"))
ILL = Category("ill", (0, 1))
SNPS = Genotypes("snps", 40)

QUESTIONS = [
    CrossTable(SEX, ILL),
    Correlation((AGE, CHOL)),
    PCA((AGE, CHOL), 2, Matrix.CORRELATION),
    LinearRegression(CHOL, (AGE, SEX)),
    AlleleTest(SNPS, ILL, Calls.COUNTED, Association.TREND),
]


@pytest.fixture(scope="module")
def tables():
    rng = np.random.default_rng(17)
    return {
        site: table_of(rng, rows) for site, rows in (("basel", 40), ("bern", 60), ("genf", 50), ("wien", 3))
    }


def table_of(rng, rows):
    age = np.rint(rng.normal(60, 10, rows) * 8) / 8
    table = {
        "age": age,
        "chol": np.rint((150 + age + rng.normal(0, 30, rows)) * 4) / 4,
        "sex": rng.choice(["f", "m"], rows).astype(object),
        "ill": rng.integers(0, 2, rows),
        "snps": rng.integers(-1, 3, (rows, 40)),
    }
    table["chol"][:2], table["sex"][2:3] = np.nan, None
    return table


def same(one, other):
    """Whether two answers have the same figures, bit for bit."""
    for field in dataclasses.fields(one):
        if field.name != "provenance":
            np.testing.assert_array_equal(getattr(one, field.name), getattr(other, field.name))


@pytest.mark.parametrize("question", QUESTIONS, ids=lambda each: type(each).__name__)
def test_the_answer_is_that_of_the_pooled_tables(tables, question):
    """A site with fewer rows than its policy counts takes part as one that has none."""
    found = ask(MaskedSum(max_clients=4), tables, question, max_rows=100, seed=1)
    large = [tables[site] for site in ("basel", "bern", "genf")]
    same(found, pooled(question, large, max_rows=100))
    assert found.provenance.contributors == set(tables)
    assert found.provenance.sums == 2
    assert "(4 sites, 2 sums, at most" in str(found)


def test_what_was_left_out_is_told(tables):
    assert ask(MaskedSum(max_clients=4), tables, QUESTIONS[3], seed=1).incomplete == 9
    assert ask(MaskedSum(max_clients=4), tables, QUESTIONS[0], seed=1).missing == 3


def test_where_the_clients_learn_the_sums_they_have_the_same_answer(tables):
    found = ask(CkksSum(max_clients=4), tables, QUESTIONS[3], max_rows=100, seed=1)
    same(found, pooled(QUESTIONS[3], [tables[site] for site in ("basel", "bern", "genf")], max_rows=100))


def test_a_site_needs_enough_complete_rows(tables):
    """Forty rows with an age and forty with a cholesterol, but five with both, are five."""
    few = {name: np.array(each[:75]) for name, each in table_of(np.random.default_rng(3), 75).items()}
    few["age"][:35], few["chol"][40:] = np.nan, np.nan
    found = ask(MaskedSum(max_clients=4), tables | {"wien": few}, QUESTIONS[1], seed=1)
    without = ask(MaskedSum(max_clients=4), tables, QUESTIONS[1], seed=1)
    same(found, without)


def test_cells_are_a_matter_of_policy(tables):
    """Where nothing is declared no site tells cells, and a regression on a category has some."""
    for question in (QUESTIONS[0], QUESTIONS[3], QUESTIONS[4]):
        with pytest.raises(QuestionRefusedError, match="opens cells, and the column"):
            ask(MaskedSum(max_clients=4), tables, question, policy=SitePolicy())
    declared = SitePolicy(columns={each.name: each for each in (SEX, ILL)}, small_cells=SmallCells.BINNED)
    assert ask(MaskedSum(max_clients=4), tables, QUESTIONS[0], policy=declared, seed=1).counts.sum() == 147


def test_two_questions_that_differ_in_the_incomplete_rows_are_one_too_many(tables):
    """The sum of ages over all rows, less that over the complete ones, is that of few patients."""
    policies = {site: SitePolicy() for site in tables}
    ask(MaskedSum(max_clients=4), tables, Moments((AGE,)), policy=policies)
    with pytest.raises(
        QuestionRefusedError, match="the rows that have 'age' differ from those of an earlier"
    ):
        ask(MaskedSum(max_clients=4), tables, QUESTIONS[1], policy=policies)


def test_the_same_complete_rows_may_be_asked_about_again(tables):
    policies = {site: SitePolicy() for site in tables}
    for question in (QUESTIONS[1], QUESTIONS[2], QUESTIONS[1]):
        ask(MaskedSum(max_clients=4), tables, question, policy=policies)


def test_a_column_that_is_wrong_at_one_site_names_the_site(tables):
    wrong = tables | {"bern": tables["bern"] | {"age": np.array(["old"] * 60, dtype=object)}}
    with pytest.raises(ParameterError, match="bern: column 'age' holds something that is no number"):
        ask(MaskedSum(max_clients=4), wrong, QUESTIONS[3])


def test_a_frame_is_a_table(tables):
    frames = {
        site: pd.DataFrame({name: each for name, each in table.items() if name != "snps"})
        for site, table in tables.items()
    }
    found = ask(MaskedSum(max_clients=4), frames, QUESTIONS[3], seed=1)
    same(found, ask(MaskedSum(max_clients=4), tables, QUESTIONS[3], seed=1))


def test_a_question_whose_sums_do_not_fit_is_refused_before_anything_runs(tables):
    fine = Number("age", low=0, high=128, unit=2.0**-17)
    with pytest.raises(ParameterError, match="column 'age' has 8388608 units to a side"):
        ask(MaskedSum(max_clients=4), tables, Correlation((fine, CHOL)), max_rows=100_000)


def test_persons_are_told_apart_by_their_last_genotype():
    """Rows that are long go through another hash first."""
    rows = np.zeros((3, 5000), dtype=np.uint8)
    rows[1, -1] = 1
    names = names_of(rows, key=bytes(32))
    assert len(set(names.tolist())) == 3  # the third is the first once more
    assert names[0] == names_of(rows[:1], key=bytes(32))[0] != names_of(rows[:1], key=b"\1" * 32)[0]
