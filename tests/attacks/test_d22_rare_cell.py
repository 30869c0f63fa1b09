"""D22. A question about a rare cell: a count of one says that there is such a patient, and who she is.

A server that has seen the sum cannot suppress it afterwards. So a site whose rows that count are few takes
part with none, and cells are opened as the site's policy says, or not at all.
"""

import numpy as np
import pytest

from fl_integration.privacy.ledger import BudgetExceededError, BudgetLedger
from fl_integration.privacy.rows import RowLevel
from fl_integration.statistics.count import Count
from fl_integration.statistics.histogram import Histogram
from fl_integration.statistics.policy import SitePolicy, SmallCells
from fl_integration.statistics.question import Condition
from fl_integration.statistics.refusal import QuestionRefusedError
from tests.attacks.questions import AGE, CLIENTS_LEARN, SICK, hospitals, remembering, told

RARE = (Condition(AGE, at_least=44, below=45), Condition(SICK, among=(1,)))
"""Three in all: one at each hospital."""
FINE = tuple(float(edge) for edge in range(20, 61))
COARSE = (20.0, 40.0, 60.0)


def test_on_a_copy_that_counts_few_rows_a_count_tells_three_patients() -> None:
    careless = SitePolicy(min_rows=1)
    assert told(Count(where=RARE), policy=careless).rows == 3


def test_ours_count_as_having_none_and_few_such_sites_end_the_question() -> None:
    with pytest.raises(QuestionRefusedError, match="0 of 3 sites have enough rows that count"):
        told(Count(where=RARE))
    tables = hospitals()
    tables["genf"] = tables["wien"].iloc[:39]
    answer = told(Count(where=(Condition(AGE, at_least=50),)), tables=tables)
    assert answer.rows == 30  # ten at each of three hospitals; nine at the fourth, which are few
    assert answer.provenance.left_out == {"(rows)": 1}


def test_on_a_copy_that_opens_cells_a_histogram_tells_ages() -> None:
    tables = hospitals()
    tables["wien"].loc[0, "age"] = 59.5
    answer = told(Histogram(AGE, FINE), policy=SitePolicy(small_cells=SmallCells.OPENED), tables=tables)
    assert answer.counts[0] == 2  # twenty years old: one at Basel, one at Bern, and none at Wien


@pytest.mark.parametrize(
    ("policy", "said"),
    [
        (SitePolicy(), "is not declared with its bounds"),
        (SitePolicy(columns={"age": AGE}), "says nowhere where"),
        (SitePolicy(columns={"age": AGE}, edges={"age": COARSE}), "is cut where this site's policy does not"),
        (SitePolicy(small_cells=SmallCells.NOISED), "under noise alone"),
        (SitePolicy(small_cells=SmallCells.CLIENTS_ONLY), "where the clients alone"),
    ],
)
def test_ours_opens_no_cell_of_the_askers_making(policy: SitePolicy, said: str) -> None:
    with pytest.raises(QuestionRefusedError, match=said):
        told(Histogram(AGE, FINE), policy=policy)


@pytest.mark.slow  # it waits for the accountant
def test_ours_opens_cells_under_noise() -> None:
    pytest.importorskip("dp_accounting")
    budget = BudgetLedger(None, epsilon=1.0, delta=1e-6)
    noised = SitePolicy(small_cells=SmallCells.NOISED, budget=budget)
    answer = told(Histogram(AGE, FINE), policy=noised, privacy=RowLevel(epsilon=1.0, delta=1e-6))
    exact = told(Histogram(AGE, FINE)).counts
    assert np.abs(answer.counts - exact).max() > 3  # more than there are in a cell


@pytest.mark.slow  # it waits for the accountant
def test_noise_that_hides_nothing_buys_no_rare_cell() -> None:
    """Who asks chooses ε, and noise sets aside few rows and earlier answers: so there is a budget."""
    pytest.importorskip("dp_accounting")
    weak = RowLevel(epsilon=20.0, delta=1e-6)
    assert abs(told(Count(where=RARE), privacy=weak).rows - 3) < 9  # without a policy
    with pytest.raises(QuestionRefusedError, match="costs some of a budget"):
        told(Count(where=RARE), policy=SitePolicy(), privacy=weak)
    with BudgetLedger(None, epsilon=1.0, delta=1e-6) as budget, pytest.raises(BudgetExceededError):
        told(Count(where=RARE), policy=SitePolicy(budget=budget), privacy=weak)


def test_ours_opens_what_its_policy_declares_or_to_clients() -> None:
    binned = SitePolicy(columns={"age": AGE}, edges={"age": COARSE})
    assert told(Histogram(AGE, COARSE), policy=binned).counts.tolist() == [60, 60]
    pytest.importorskip("tenseal")
    clients = SitePolicy(small_cells=SmallCells.CLIENTS_ONLY)
    assert told(Histogram(AGE, FINE), policy=clients, protocol=CLIENTS_LEARN).counts.sum() == 120


def test_two_histograms_whose_edges_differ_a_little_are_a_rare_cell() -> None:
    """The difference of their bins: a policy that declares edges leaves no others to subtract."""
    one, other = Histogram(AGE, (20, 40, 60)), Histogram(AGE, (20, 41, 60))
    open_to_all = remembering()
    counts = [told(each, policy=open_to_all).counts[0] for each in (one, other)]
    assert counts[1] - counts[0] == 3  # who is 40
    binned = remembering(edges={"age": COARSE})
    told(one, policy=binned)
    with pytest.raises(QuestionRefusedError, match="is cut where this site's policy does not cut it"):
        told(other, policy=binned)
