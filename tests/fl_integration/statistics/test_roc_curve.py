"""The ROC curve from a histogram is scikit-learn's of the rounded scores, to the last bit."""

from fractions import Fraction

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics
from sklearn.calibration import calibration_curve

from fl_integration.statistics.asking import ask
from fl_integration.statistics.columns import Category, Number
from fl_integration.statistics.policy import SitePolicy, SmallCells
from fl_integration.statistics.question import Step
from fl_integration.statistics.refusal import QuestionRefusedError
from fl_integration.statistics.roc_curve import RocCurve
from fl_integration.statistics.rows import Rows
from protocols import MaskedSum
from secagg.errors import ParameterError, RoundAborted
from tests.fl_integration.statistics.pooled import pooled

DIED = Category("died", ("no", "yes"))
RISK = Number("risk", low=0, high=1, unit=1 / 4096)
COARSE = Number("risk", low=0, high=1, unit=1 / 8)


def tables(*, rows=200, sites=3):
    generator = np.random.default_rng(2)
    risk = generator.random(rows)
    died = np.where(generator.random(rows) < risk, "yes", "no").astype(object)
    died[:10], risk[5:20] = None, np.nan
    return [pd.DataFrame({"died": died[site::sites], "risk": risk[site::sites]}) for site in range(sites)]


def rounded(sites, *, unit):
    whole = pd.concat(sites).dropna()
    return (whole.died == "yes").to_numpy(), np.rint(whole.risk.to_numpy() / unit) * unit, whole.risk


@pytest.mark.parametrize("column", [RISK, COARSE])
def test_it_is_scikit_learns(column):
    sites = tables()
    died, score, raw = rounded(sites, unit=column.unit)
    answer = pooled(RocCurve(DIED, column), sites)
    assert answer.auc == metrics.roc_auc_score(died, score)
    assert 0 < abs(answer.auc - metrics.roc_auc_score(died, raw)) <= answer.auc_bound + 1e-15
    assert answer.brier_score == pytest.approx(metrics.brier_score_loss(died, score), rel=1e-14)
    for mine, theirs in zip(
        answer.curve, metrics.roc_curve(died, score, drop_intermediate=False), strict=True
    ):
        assert mine.tolist() == theirs.tolist()
    observed, predicted = calibration_curve(died, score, n_bins=5)
    found = answer.calibration(groups=5)
    assert found.observed == pytest.approx(observed, rel=1e-14)
    assert found.predicted == pytest.approx(predicted, rel=1e-14)
    matrix = answer.confusion(0.5)
    assert metrics.confusion_matrix(died, score >= 0.5).ravel().tolist() == [
        matrix.true_negatives,
        matrix.false_positives,
        matrix.false_negatives,
        matrix.true_positives,
    ]
    assert matrix.sensitivity == metrics.recall_score(died, score >= 0.5)
    assert matrix.accuracy == metrics.accuracy_score(died, score >= 0.5)
    assert answer.incomplete == 20


def test_the_standard_error_is_delongs_over_pairs():
    sites = tables()
    died, score, _ = rounded(sites, unit=COARSE.unit)
    won = (score[died][:, None] > score[~died]) + (score[died][:, None] == score[~died]) / 2
    variance = won.mean(axis=1).var(ddof=1) / died.sum() + won.mean(axis=0).var(ddof=1) / (~died).sum()
    answer = pooled(RocCurve(DIED, COARSE), sites)
    assert answer.auc_standard_error == pytest.approx(np.sqrt(variance), rel=1e-12)
    low, high = answer.auc_interval
    assert (high - low) / 2 == pytest.approx(1.959963984540054 * np.sqrt(variance), rel=1e-12)


@given(
    st.lists(st.tuples(st.sampled_from([None, "no", "yes"]), st.integers(0, 8)), max_size=25),
    st.integers(1, 4),
)
@settings(max_examples=25, deadline=None)
def test_every_pair_is_counted_once(rows, sites):
    rows = [*rows, ("no", 3), ("yes", 4)]
    table = [
        {"died": [died for died, _ in rows[site::sites]], "risk": [risk / 8 for _, risk in rows[site::sites]]}
        for site in range(sites)
    ]
    answer = pooled(RocCurve(DIED, COARSE), [each for each in table if each["died"]])
    yes, no = ([risk for died, risk in rows if died == level] for level in ("yes", "no"))
    won = [Fraction((a > b) * 2 + (a == b), 2) for a in yes for b in no]
    assert answer.auc == float(sum(won) / len(won))
    assert answer.auc_bound == float(Fraction(sum(a == b for a in yes for b in no), 2 * len(won)))
    assert (answer.positives.sum(), answer.negatives.sum()) == (len(yes), len(no))
    assert answer.incomplete == len(rows) - len(yes) - len(no)


def test_hosmer_and_lemeshow_by_hand():
    """Four scores, ten rows each; scores of 0 and 1 that are right add nothing."""
    risk = np.repeat([0.0, 0.25, 0.5, 1.0], 10)
    died = ["no"] * 10 + ["yes"] * 4 + ["no"] * 6 + ["yes"] * 4 + ["no"] * 6 + ["yes"] * 10
    test = pooled(RocCurve(DIED, COARSE), [{"risk": risk, "died": died}]).hosmer_lemeshow(groups=4)
    assert test.groups == 4
    assert test.chi_squared == pytest.approx(1.5**2 / (2.5 * 0.75) + 1 / (5 * 0.5), rel=1e-12)
    assert test.p_value == pytest.approx(np.exp(-test.chi_squared / 2), rel=1e-12)
    assert test.p_value_elsewhere > test.p_value


def test_a_score_that_is_no_probability_has_a_curve_alone():
    points = Number("points", low=0, high=40, unit=1)
    answer = pooled(RocCurve(DIED, points), [{"died": ["yes", "no", "yes"], "points": [40, 7, 7]}])
    assert answer.auc == 0.75
    assert "Brier" not in str(answer)
    for what in (answer.calibration, answer.hosmer_lemeshow, lambda: answer.brier_score):
        with pytest.raises(ParameterError, match="goes from 0 to 40 and is no probability"):
            what()


def test_scores_outside_the_bounds_count_as_the_bounds():
    rows = Rows.of({"died": ["yes", "no"], "risk": [7.0, -1.0]})
    question = RocCurve(DIED, COARSE)
    summand = question.summand(next(question.asking(max_rows=2)), rows)
    assert np.flatnonzero(summand).tolist() == [0, 9 + 8]
    assert rows.clipped == {"risk": 2}


def test_an_odd_number_of_units_stays_a_probability():
    fifths = Number("risk", low=0, high=1, unit=0.2)
    answer = pooled(RocCurve(DIED, fifths), [{"died": ["yes", "no"], "risk": [1.0, 0.0]}])
    assert answer.scores == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 1])
    assert answer.brier_score == 0


@pytest.mark.parametrize(("level", "other"), [("yes", "no"), ("no", "yes")])
def test_one_class_has_no_curve(level, other):
    with pytest.raises(ParameterError, match=f"no row with a score has the level '{other}' of 'died'"):
        pooled(RocCurve(DIED, COARSE), [{"died": [level] * 3, "risk": [0.1, 0.5, 0.9]}])


def test_a_sum_of_a_liar_ends_it():
    asking = RocCurve(DIED, COARSE).asking(max_rows=10)
    total = np.ones(next(asking).length, dtype=np.int64)
    total[3] = -1
    with pytest.raises(RoundAborted, match="a count is below zero"):
        asking.send(total)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((RISK, RISK), "the outcome is Number"),
        ((DIED, DIED), "score is Category.*it must be a Number, and another column than the outcome"),
        ((DIED, Number("died", low=0, high=1)), "another column than the outcome"),
        ((DIED, Number("risk", low=0, high=1, unit=2**-17)), "has 131073 bins; at most 65537 .* larger unit"),
    ],
)
def test_questions_that_are_none(arguments, said):
    with pytest.raises(ParameterError, match=said):
        RocCurve(*arguments)


@pytest.mark.parametrize("step", [Step("scores", 18), Step("score", 19), Step("scores", 19, (0.5,))])
def test_a_site_answers_no_other_step(step):
    with pytest.raises(ParameterError, match="is none of this question; it has 'scores' of 19"):
        RocCurve(DIED, COARSE).summand(step, Rows.of({"died": ["yes"], "risk": [0.5]}))


@pytest.mark.parametrize(("groups", "least"), [(0, 1), (1001, 1), (2.0, 1), (True, 1)])
def test_groups_that_are_none(groups, least):
    answer = pooled(RocCurve(DIED, COARSE), tables())
    with pytest.raises(ParameterError, match=rf"groups is {groups}; it must be an int in \[{least}, 1000\]"):
        answer.calibration(groups=groups)
    with pytest.raises(ParameterError, match=r"it must be an int in \[3, 1000\]"):
        answer.hosmer_lemeshow(groups=2)


@pytest.mark.parametrize("threshold", ["0.5", None, float("nan"), True])
def test_thresholds_that_are_none(threshold):
    with pytest.raises(ParameterError, match=f"threshold is {threshold!r}; it must be a number"):
        pooled(RocCurve(DIED, COARSE), tables()).confusion(threshold)


def test_it_prints_and_draws():
    answer = pooled(RocCurve(DIED, RISK), tables())
    said = str(answer)
    assert f"AUC {answer.auc:.3f} (95 % CI" in said
    assert "Hosmer-Lemeshow" in said
    assert "20 were left out" in said
    assert len(answer.to_frame()) == len(answer.curve[0])
    assert f"AUC {answer.auc:.3f}" in answer.draw().get_legend().get_texts()[0].get_text()
    assert answer.draw_calibration(groups=4).get_title().startswith("Brier score")


@pytest.mark.slow
def test_through_a_masked_sum_where_cells_may_be_opened():
    sites = {f"site{place}": each.dropna() for place, each in enumerate(tables())}
    question = RocCurve(DIED, COARSE)
    answer = ask(MaskedSum(max_clients=3), sites, question, seed=1, max_rows=1000)
    assert answer.auc == pooled(question, sites.values()).auc
    policy = SitePolicy(small_cells=SmallCells.CLIENTS_ONLY)
    with pytest.raises(QuestionRefusedError, match="a RocCurve opens cells"):
        ask(MaskedSum(max_clients=3), sites, question, policy=policy, seed=1, max_rows=1000)
