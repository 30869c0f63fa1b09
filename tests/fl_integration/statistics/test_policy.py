"""What a site answers, and what it does not, before anything is read."""

import pickle
from typing import Any

import pytest

from fl_integration.privacy.ledger import BudgetLedger
from fl_integration.statistics.asking import ask
from fl_integration.statistics.columns import Category, Column, Number
from fl_integration.statistics.count import Count
from fl_integration.statistics.histogram import Histogram
from fl_integration.statistics.moments import Moments
from fl_integration.statistics.policy import SitePolicy, SmallCells
from fl_integration.statistics.quantiles import Quantiles
from fl_integration.statistics.question import Condition, Question
from fl_integration.statistics.refusal import QuestionRefusedError
from secagg.errors import ParameterError
from tests.fl_integration.statistics.sites import AGE, CHOL, MASKED, PROTOCOLS, SEX, tables

DECLARED: dict[str, Column | None] = {"age": AGE, "sex": SEX, "chol": None}
EDGES = {"age": (40.0, 50.0, 60.0)}
OLD = (Condition(AGE, at_least=60),)
BUDGET = BudgetLedger(None, epsilon=1.0, delta=1e-5)
BINS = Histogram(AGE, (40, 60))
YEARS = Category("age", tuple(range(128)))
EXTREMES = Quantiles((AGE,), (0, 1))


def check(
    policy: SitePolicy, question: Question, *, clients_learn: bool = False, noised: bool = False
) -> None:
    policy.check(question, site="wien", clients_learn=clients_learn, noised=noised)


@pytest.mark.parametrize(
    ("policy", "question", "said"),
    [
        (SitePolicy(questions=frozenset({Count})), Moments((AGE,)), "a Moments is not among the questions"),
        (SitePolicy(columns={"age": AGE}), Moments((AGE, CHOL)), "the column 'chol' is not among those"),
        (SitePolicy(columns={"chol": CHOL}), Moments((CHOL,), where=OLD), "the column 'age' is not among"),
        (SitePolicy(columns=DECLARED), Moments((Number("age", low=0, high=99),)), "with other bounds"),
        (
            SitePolicy(columns=DECLARED),
            Histogram(Category("sex", ("f",))),
            "with other bounds, unit or levels",
        ),
        (SitePolicy(edges=EDGES), Count(where=(Condition(AGE, below=61),)), "'age' is cut where"),
        (SitePolicy(edges=EDGES, columns=DECLARED), Histogram(AGE, (40, 61)), "'age' is cut where"),
        (SitePolicy(columns=DECLARED), Quantiles((AGE,), (0.5, 1.0)), "quantiles at other probabilities"),
        (
            SitePolicy(edges=EDGES),
            Count(where=(Condition(YEARS, among=(41,)),)),
            "'age' is cut by its levels",
        ),
        (SitePolicy(max_sums=2), Quantiles((AGE,)), "a Quantiles of up to 4 sums; this site answers 2"),
        (SitePolicy(), Histogram(SEX), "'sex' is not declared"),
        (
            SitePolicy(columns=DECLARED),
            Histogram(CHOL, (0, 9)),
            "'chol' is not declared",
        ),
        (SitePolicy(columns=DECLARED), BINS, "'age', and this site's policy says nowhere where"),
        (SitePolicy(columns=DECLARED), Quantiles((CHOL,)), "'chol' is not declared"),
        (
            SitePolicy(columns=DECLARED),
            Histogram(SEX, where=OLD),
            "'age', and this site's policy says nowhere",
        ),
        (SitePolicy(small_cells=SmallCells.NOISED), BINS, "under noise alone"),
        (SitePolicy(small_cells=SmallCells.CLIENTS_ONLY), BINS, "where the clients alone learn the sums"),
    ],
)
def test_questions_that_are_not_answered(policy: SitePolicy, question: Question, said: str) -> None:
    with pytest.raises(QuestionRefusedError, match=said) as found:
        check(policy, question)
    assert set(found.value.reasons) == {"wien"}


@pytest.mark.parametrize(
    ("policy", "question", "options"),
    [
        (SitePolicy(), Moments((AGE, CHOL), where=OLD), {}),
        (SitePolicy(columns=DECLARED), Moments((AGE, CHOL)), {}),
        (SitePolicy(columns=DECLARED, edges=EDGES), BINS, {}),
        (SitePolicy(columns=DECLARED), Histogram(SEX), {}),
        (SitePolicy(columns=DECLARED), Quantiles((AGE,)), {}),
        (SitePolicy(small_cells=SmallCells.OPENED), BINS, {}),
        (SitePolicy(small_cells=SmallCells.NOISED, budget=BUDGET), BINS, {"noised": True}),
        (SitePolicy(small_cells=SmallCells.OPENED), BINS, {"noised": True}),
        (
            SitePolicy(small_cells=SmallCells.NOISED, budget=BUDGET),
            Quantiles((AGE,), (0, 1)),
            {"noised": True},
        ),
        (SitePolicy(small_cells=SmallCells.OPENED), EXTREMES, {}),
        (SitePolicy(small_cells=SmallCells.CLIENTS_ONLY), BINS, {"clients_learn": True}),
    ],
)
def test_questions_that_are_answered(policy: SitePolicy, question: Question, options: Any) -> None:
    check(policy, question, **options)


@pytest.mark.parametrize("cells", [SmallCells.BINNED, SmallCells.NOISED, SmallCells.CLIENTS_ONLY])
def test_noise_needs_a_budget_of_the_sites(cells: SmallCells) -> None:
    """Who asks says how much noise there is, and noise sets aside min_rows, min_sites and the ledger."""
    with pytest.raises(QuestionRefusedError, match="costs some of a budget, and this site's policy has none"):
        check(SitePolicy(small_cells=cells), Count(), noised=True)
    check(SitePolicy(small_cells=cells, budget=BUDGET), Count(), noised=True)


def test_who_learns_the_sums_is_told_to_the_policy() -> None:
    pytest.importorskip("tenseal")
    policy = SitePolicy(small_cells=SmallCells.CLIENTS_ONLY)
    assert ask(PROTOCOLS["ckks"], tables(), Histogram(SEX), policy=policy, seed=1).counts.sum() == 120
    with pytest.raises(QuestionRefusedError, match="where the clients alone learn"):
        ask(MASKED, tables(), Histogram(SEX), policy=policy, seed=1)


def test_a_refusal_pickles_with_its_reasons() -> None:
    error = pickle.loads(pickle.dumps(QuestionRefusedError({"wien": "no", "bern": "never"})))
    assert error.reasons == {"wien": "no", "bern": "never"}
    assert str(error) == "wien: no; bern: never"


def test_a_sum_that_is_too_long_is_refused() -> None:
    policy = SitePolicy(small_cells=SmallCells.OPENED, max_length=3)
    with pytest.raises(QuestionRefusedError, match=r"wien: .*4"):
        ask(MASKED, tables(), Histogram(AGE, (0, 60)), policy=policy, seed=1)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"probabilities": (0.5, 2)}, "a number outside"),
        ({"probabilities": 0.5}, "a tuple of numbers in"),
        ({"min_rows": 0}, "min_rows is 0; it must be an int in"),
        ({"min_sites": 1}, "min_sites is 1"),
        ({"min_difference": 2.5}, "min_difference is 2.5"),
        ({"max_answers": True}, "max_answers is True"),
        ({"max_sums": 0}, "max_sums is 0"),
        ({"small_cells": "binned"}, "a member of SmallCells"),
        ({"ledger": "file"}, "ledger is a str"),
        ({"budget": 1.0}, "budget is a float"),
        ({"questions": {"Count"}}, "questions holds classes"),
        ({"questions": Count}, "questions holds classes"),
        ({"columns": [AGE]}, "columns maps a column's name"),
        ({"columns": {"age": "AGE"}}, "columns maps 'age' to a str"),
        ({"columns": {"years": AGE}}, "columns maps 'years' to the column 'age'"),
        ({"edges": (1.0,)}, "edges maps a column's name"),
        ({"edges": {"age": 1.0}}, "edges maps a column's name"),
        ({"edges": {"age": ("1",)}}, "edges maps a column's name"),
    ],
)
def test_policies_that_are_none(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ParameterError, match=said):
        SitePolicy(**options)


@pytest.mark.parametrize(
    ("column", "options", "said"),
    [
        (AGE, {}, "at_least, below or both"),
        (AGE, {"among": (1,)}, "at_least, below or both"),
        (AGE, {"at_least": 5, "below": 5}, "no value of 'age'"),
        (AGE, {"at_least": float("nan")}, "must be a finite number"),
        (AGE, {"below": "60"}, "must be a finite number"),
        (SEX, {}, "among names 0 levels"),
        (SEX, {"among": ("x",)}, "among names 1 levels"),
        (SEX, {"among": ("f", "f")}, "each once"),
        (SEX, {"among": "f"}, "among, a tuple of levels"),
        (SEX, {"at_least": 1}, "among, a tuple of levels"),
        ("age", {"at_least": 1}, "not on a str"),
    ],
)
def test_conditions_that_are_none(column: Any, options: dict[str, Any], said: str) -> None:
    with pytest.raises(ParameterError, match=said):
        Condition(column, **options)
    with pytest.raises(ParameterError, match="where is a list"):
        Count(where=[])  # type: ignore[arg-type]
