"""Survival curves over sites are those of textbooks and of lifelines over the pooled table."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fl_integration.statistics.asking import ask
from fl_integration.statistics.columns import Category, Number
from fl_integration.statistics.kaplan_meier import KaplanMeier
from fl_integration.statistics.policy import SitePolicy, SmallCells
from fl_integration.statistics.question import Step
from fl_integration.statistics.refusal import QuestionRefusedError
from fl_integration.statistics.rows import Rows
from protocols import MaskedSum
from secagg.errors import ParameterError, RoundAborted
from tests.fl_integration.statistics.pooled import pooled
from tests.fl_integration.statistics.trials import ARM, RELAPSE, WEEKS, leukaemia

QUESTION = KaplanMeier(WEEKS, RELAPSE, ARM)
DAYS = Number("days", low=0, high=6, unit=1)
DIED = Category("died", (0, 1))


def test_the_childrens_remissions_are_those_of_the_textbooks():
    """Klein and Moeschberger 2003, table 4.1B; the log-rank test of R's survdiff."""
    answer = pooled(QUESTION, leukaemia())
    at = [6, 7, 10, 13, 16, 22, 23]
    assert answer.survival[0, at].round(3).tolist() == [0.857, 0.807, 0.753, 0.69, 0.627, 0.538, 0.448]
    assert answer.at_risk[0, at].tolist() == [21, 17, 15, 12, 11, 7, 6]
    assert answer.at([0, 6, 6.5, 35, 36]).tolist() == [[21, 21, 17, 1, 0], [21, 12, 12, 0, 0]]
    assert answer.medians.tolist() == [23, 8]
    test = answer.log_rank
    assert (round(test.chi_squared, 2), test.freedom) == (16.79, 1)
    assert test.p_value == pytest.approx(4.17e-5, rel=2e-3)
    assert test.observed.tolist() == [9, 21]
    assert test.expected.round(2).tolist() == [19.25, 10.75]


def test_greenwoods_intervals_by_hand():
    """One death of 21 twice three, then of 17: Σ d/(n(n - d)) = 3/(21·18) + 1/(17·16)."""
    answer = pooled(QUESTION, leukaemia())
    survival = 18 / 21 * 16 / 17
    reach = 1.959963984540054 * np.sqrt(3 / (21 * 18) + 1 / (17 * 16)) / np.log(survival)
    assert answer.intervals[0, 7] == pytest.approx(survival ** np.exp([-reach, reach]), rel=1e-12)
    assert answer.intervals[0, 5].tolist() == [1, 1]
    assert np.isnan(answer.intervals[1, 23]).all()


@given(
    st.lists(
        st.tuples(st.sampled_from([None, *range(9)]), st.sampled_from([None, 0, 1]), st.sampled_from("ab")),
        min_size=1,
        max_size=30,
    )
)
@settings(max_examples=25, deadline=None)
def test_curves_are_products_over_counts(rows):
    rows = [*rows, (3, 1, "a")]
    sites = [
        {
            "days": [np.nan if days is None else days for days, _, _ in part],
            "died": [died for _, died, _ in part],
            "arm": [arm for _, _, arm in part],
        }
        for part in (rows[:3], rows[3:])
    ]
    answer = pooled(KaplanMeier(DAYS, DIED, Category("arm", ("a", "b"))), sites)
    complete = [row for row in rows if None not in row]
    assert answer.incomplete == len(rows) - len(complete)
    for group, name in enumerate("ab"):
        mine = [(min(days, 6), died and days <= 6) for days, died, arm in complete if arm == name]
        survival = Fraction(1)
        for day in range(7):
            risk = sum(days >= day for days, _ in mine)
            deaths = sum(1 for days, died in mine if days == day and died)
            assert (answer.at_risk[group, day], answer.deaths[group, day]) == (risk, deaths)
            survival *= Fraction(risk - deaths, risk) if deaths else 1
            assert answer.survival[group, day] == float(survival)


def test_a_median_is_exact_where_half_survive():
    """Three deaths of six, one after the other: floats make 0.5000000000000001 of it."""
    answer = pooled(KaplanMeier(DAYS, DIED), [{"days": [1, 2, 3, 4, 4, 4], "died": [1, 1, 1, 0, 0, 0]}])
    assert answer.medians[0] == 3
    assert answer.survival[0, 3] == 0.5
    assert answer.groups == ("all",)


def test_no_events_and_one_event():
    none = pooled(KaplanMeier(DAYS, DIED), [{"days": [1, 2], "died": [0, 0]}, {"days": [], "died": []}])
    assert none.survival.tolist() == [[1.0] * 7]
    assert np.isinf(none.medians).all()
    assert "not reached" in str(none)
    assert none.draw().get_ylabel() == "survival"
    last = pooled(KaplanMeier(DAYS, DIED), [{"days": [2], "died": [1]}])
    assert last.survival[0].tolist() == [1, 1, 0, 0, 0, 0, 0]


def test_a_duration_beyond_the_bound_is_censored_there():
    answer = pooled(KaplanMeier(DAYS, DIED), [{"days": [6, 6.2, 40], "died": [1, 1, 1]}])
    assert (answer.deaths[0, 6], answer.censored[0, 6]) == (1, 2)


def test_a_grid_that_starts_late_has_its_own_first_time():
    late = Number("days", low=3, high=12, unit=3)
    answer = pooled(KaplanMeier(late, DIED), [{"days": [3.0, 7.0, 12.0], "died": [1, 1, 0]}])
    assert answer.times.tolist() == [3, 6, 9, 12]
    assert answer.deaths[0].tolist() == [1, 1, 0, 0]
    assert answer.at_risk[0].tolist() == [3, 2, 1, 1]


@pytest.mark.parametrize(
    ("days", "died", "arm"),
    [
        ([1, 2], [1, 1], ["a", "a"]),
        ([1, 2, 3], [0, 0, 1], ["a", "a", "b"]),
        ([1, 2, 3], [0, 0, 0], ["a", "b", "b"]),
    ],
)
def test_groups_that_were_never_compared(days, died, arm):
    question = KaplanMeier(DAYS, DIED, Category("arm", ("a", "b")))
    answer = pooled(question, [{"days": days, "died": died, "arm": arm}])
    with pytest.raises(ParameterError, match="the log-rank test compares two groups or more"):
        answer.log_rank  # noqa: B018 -- it is computed when it is read
    assert str(answer)


def test_a_group_without_rows_does_not_count():
    three = KaplanMeier(WEEKS, RELAPSE, Category("arm", ("none", "6-MP", "placebo")))
    test = pooled(three, leukaemia()).log_rank
    assert test.freedom == 1
    assert test.chi_squared == pytest.approx(pooled(QUESTION, leukaemia()).log_rank.chi_squared, rel=1e-12)


def test_a_policy_sees_the_grid_of_times():
    policy = SitePolicy(edges={"weeks": (12.0, 24.0)}, small_cells=SmallCells.OPENED)
    quarters = KaplanMeier(Number("weeks", low=12, high=24, unit=12), RELAPSE)
    policy.check(quarters, site="wien", clients_learn=False, noised=False)
    with pytest.raises(QuestionRefusedError, match="the column 'weeks' is cut where this site's policy"):
        policy.check(QUESTION, site="wien", clients_learn=False, noised=False)


def test_a_sum_of_a_liar_ends_it():
    asking = QUESTION.asking(max_rows=10)
    total = np.ones(next(asking).length, dtype=np.int64)
    total[3] = -1
    with pytest.raises(RoundAborted, match="a count is below zero"):
        asking.send(total)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((DIED, DIED), "duration is Category.*must be a Number, and another column than the event"),
        ((Number("died", low=0, high=9, unit=1), DIED), "another column than the event"),
        ((DAYS, Category("died", (0, 1, 2))), "the event is Category.*of two levels"),
        ((DAYS, DAYS), "the event is Number"),
        ((Number("days", low=-1, high=6, unit=1), DIED), "'days' may be -1.0; pass low=0"),
        ((Number("days", low=0, high=20_000, unit=1), DIED), "has 20001 times; at most 16384 .* larger unit"),
        ((DAYS, DIED, DAYS), "groups is Number.*must be a Category"),
        ((DAYS, DIED, DIED), "another column than duration and event"),
        (
            (Number("days", low=0, high=16_000, unit=1), DIED, Category("arm", tuple(range(99)))),
            "99 groups at 16001 times are more than 1048576 counts",
        ),
    ],
)
def test_questions_that_are_none(arguments, said):
    with pytest.raises(ParameterError, match=said):
        KaplanMeier(*arguments)


@pytest.mark.parametrize("step", [Step("times", 14), Step("time", 15), Step("times", 15, (1.0,))])
def test_a_site_answers_no_other_step(step):
    with pytest.raises(ParameterError, match="is none of this question; it has 'times' of 15"):
        KaplanMeier(DAYS, DIED).summand(step, Rows.of({"days": [1.0], "died": [1]}))


def test_no_rows_at_all():
    with pytest.raises(ParameterError, match="no row of any site has a duration, an event and a group"):
        pooled(KaplanMeier(DAYS, DIED), [{"days": [np.nan], "died": [1]}])


def test_it_prints_and_draws():
    answer = pooled(QUESTION, leukaemia())
    said = str(answer)
    assert "23 (13 to not reached)" in said
    assert "chi-squared 16.79 of 1 degrees of freedom, p <.001" in said
    assert len(answer.to_frame()) == np.count_nonzero(answer.deaths + answer.censored)
    axes = answer.draw()
    assert [each.get_text() for each in axes.get_legend().get_texts()] == ["arm=6-MP", "arm=placebo"]
    assert "at risk" in [each.get_text() for each in axes.texts]


def test_through_a_masked_sum_where_cells_may_be_opened():
    sites = {f"site{place}": each for place, each in enumerate(leukaemia())}
    answer = ask(MaskedSum(max_clients=3), sites, QUESTION, seed=1, max_rows=1000)
    assert (answer.deaths == pooled(QUESTION, sites.values()).deaths).all()
    policy = SitePolicy(small_cells=SmallCells.CLIENTS_ONLY)
    with pytest.raises(QuestionRefusedError, match="a KaplanMeier opens cells"):
        ask(MaskedSum(max_clients=3), sites, QUESTION, policy=policy, seed=1, max_rows=1000)
