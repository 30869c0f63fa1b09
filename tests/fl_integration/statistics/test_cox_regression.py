"""Cox regression over sites is statsmodels' over the pooled table, and R's on a trial of the textbooks."""

import numpy as np
import pandas as pd
import pytest
from statsmodels.duration.hazard_regression import PHReg

from fl_integration.statistics.asking import ask
from fl_integration.statistics.columns import Category, Number
from fl_integration.statistics.cox_regression import CoxRegression, Ties
from fl_integration.statistics.newton import BETA_LIMIT
from fl_integration.statistics.question import Step
from fl_integration.statistics.rows import Rows
from protocols import MaskedSum
from secagg.errors import ParameterError, RoundAborted
from tests.fl_integration.statistics.pooled import pooled
from tests.fl_integration.statistics.trials import ARM, RELAPSE, WEEKS, leukaemia

TRIAL = CoxRegression(WEEKS, RELAPSE, (ARM,))
MONTHS = Number("months", low=0, high=24, unit=1)
DIED = Category("died", (0, 1))
X = Number("x", low=-4, high=4, unit=2.0**-10)
GROUP = Category("group", ("a", "b"))
STUDY = CoxRegression(MONTHS, DIED, (X, GROUP))


def study(seed=3, *, rows=180, sites=3, strength=0.4):
    generator = np.random.default_rng(seed)
    x, group = generator.normal(size=rows), generator.choice(["a", "b"], rows)
    months = np.ceil(generator.exponential(12 * np.exp(-strength * x - 0.5 * (group == "b"))))
    died = (generator.random(rows) < 0.8).astype(int)
    x[generator.random(rows) < 0.1] = np.nan
    table = pd.DataFrame({"months": months, "died": died, "x": x, "group": group})
    return [table.iloc[site::sites].reset_index(drop=True) for site in range(sites)]


@pytest.mark.parametrize(("ties", "expected"), [(Ties.BRESLOW, 1.5092), (Ties.EFRON, 1.5721)])
def test_the_childrens_remissions_are_those_of_r(ties, expected):
    answer = pooled(CoxRegression(WEEKS, RELAPSE, (ARM,), ties=ties), leukaemia())
    assert answer.names == ("arm[placebo]",)
    assert round(float(answer.estimates[0]), 4) == expected
    assert (answer.rows, answer.events, answer.incomplete) == (42, 30, 0)


@pytest.mark.parametrize("ties", Ties)
def test_it_is_statsmodels_of_the_pooled_complete_rows(ties):
    sites = study()
    whole = pd.concat(sites).dropna()
    beyond = whole.months > 24
    x = np.c_[np.rint(whole.x * 1024) / 1024, whole.group == "b"].astype(float)
    expected = PHReg(
        whole.months.clip(upper=24).to_numpy(), x, status=(whole.died & ~beyond).to_numpy(), ties=ties.value
    ).fit(disp=0, tol=1e-14)
    answer = pooled(CoxRegression(MONTHS, DIED, (X, GROUP), ties=ties), sites)
    assert answer.estimates == pytest.approx(expected.params, rel=1e-7)
    assert answer.standard_errors == pytest.approx(expected.bse, rel=1e-7)
    assert answer.p_values == pytest.approx(expected.pvalues, rel=1e-6)
    assert answer.log_likelihood == pytest.approx(expected.llf, abs=1e-6)
    assert answer.ratio_intervals == pytest.approx(np.exp(expected.conf_int()), rel=1e-6)
    assert (answer.rows, answer.events) == (len(whole), (whole.died & ~beyond).sum())
    assert answer.incomplete == 180 - len(whole) > 0


def test_a_row_far_above_the_mean_makes_the_offset_grow():
    """Its exponent is 12 above the mean, three offsets: neither may it be cut nor others lose digits."""
    sites = study(strength=2.0)
    sites[0].loc[0, ["x", "months", "died"]] = [-4.0, 1.0, 1]
    sites[0].loc[1, ["x", "months", "died"]] = [4.0, 1.0, 1]
    whole = pd.concat(sites).dropna()
    status = (whole.died & (whole.months <= 24)).to_numpy()
    x = np.c_[np.rint(whole.x.clip(-4, 4) * 1024) / 1024, whole.group == "b"].astype(float)
    expected = PHReg(whole.months.clip(upper=24).to_numpy(), x, status=status, ties="efron").fit(disp=0)
    answer = pooled(STUDY, sites)
    assert answer.estimates == pytest.approx(expected.params, rel=1e-6)
    assert answer.standard_errors == pytest.approx(expected.bse, rel=1e-6)
    assert answer.steps > 4  # one of them was too far


def test_a_patient_who_leaves_alone_is_seen_in_the_sums():
    """Why the grid is to be coarse: the sums at two times differ by who left between them."""
    sites = [Rows.of(each.dropna()) for each in study()]
    lonely = Rows.of({"months": [23.0], "died": [1], "x": [2.5], "group": ["b"]})
    asking = STUDY.asking(max_rows=1000)
    step = next(asking)
    step = asking.send(sum(STUDY.summand(step, rows) for rows in [*sites, lonely]))
    times = step.parameters[3:]
    sums = sum(STUDY.summand(step, rows) for rows in [*sites, lonely])[:-2].reshape(2, len(times), -1) / 2**32
    dying = sums[1, times.index(23.0)]
    assert dying[:3].tolist() == [1, 2.5 / 4, 1]


def test_a_group_without_events_is_refused_by_name():
    sites = study()
    for site in sites:
        site.loc[site.group == "b", "died"] = 0
    with pytest.raises(ParameterError, match=r"the coefficient of 'group\[b\]' grows without end"):
        pooled(STUDY, sites)


def test_no_events():
    with pytest.raises(ParameterError, match="no complete row has the level 1 of 'died'"):
        pooled(STUDY, [each.assign(died=0) for each in study()])


def test_a_predictor_that_does_not_vary():
    with pytest.raises(ParameterError, match="do not determine the coefficient of 'x'"):
        pooled(STUDY, [each.assign(x=0.5) for each in study()])


def test_an_empty_site_adds_nothing():
    sites = study()
    with_empty = pooled(STUDY, [*sites, sites[0].iloc[:0]])
    assert with_empty.estimates.tobytes() == pooled(STUDY, sites).estimates.tobytes()


def test_rows_that_change_between_steps_end_it():
    rows = [Rows.of(each) for each in study()]
    asking = STUDY.asking(max_rows=1000)
    step = next(asking)
    step = asking.send(sum(STUDY.summand(step, each) for each in rows))
    with pytest.raises(RoundAborted, match="a site came, went or changed its table"):
        asking.send(sum(STUDY.summand(step, each) for each in rows[1:]))


@pytest.mark.parametrize(
    ("deaths", "rows", "incomplete"),
    [(-1, 3, 0), (4, 3, 0), (1 << 50, 1 << 50, 0), (1, 1 << 25, 0), (1, -1, 0), (1, 1, -1)],
)
def test_counts_of_a_liar_end_it_before_they_cost_anything(deaths, rows, incomplete):
    asking = STUDY.asking(max_rows=10)
    total = np.zeros(next(asking).length, dtype=np.int64)
    total[[3, -2, -1]] = deaths, rows, incomplete
    with pytest.raises(RoundAborted, match="a contributor added what no rows have"):
        asking.send(total)


def newton(*, offset=0.0, beta=(0.0, 0.0), when=(1.0, 2.0), length=None):
    return Step("newton", 12 * len(when) + 2 if length is None else length, (offset, *beta, *when))


@pytest.mark.parametrize(
    "step",
    [
        newton(offset=-BETA_LIMIT * 4.0, beta=(BETA_LIMIT, BETA_LIMIT)),
        newton(offset=BETA_LIMIT * 4.0, beta=(-BETA_LIMIT, BETA_LIMIT)),
        newton(when=tuple(map(float, range(25)))),
    ],
)
def test_the_worst_steps_stay_within_the_bound(step):
    rows = Rows.of({"months": [1.0, 9.0, 1.0], "died": [1, 0, 1], "x": [4.0, -4.0, 4.0], "group": ["b"] * 3})
    summand = STUDY.summand(step, rows)
    assert summand.shape == (step.length,)
    assert np.abs(summand).max() <= STUDY.largest(max_rows=3)


def test_a_row_above_the_offset_is_counted():
    rows = Rows.of({"months": [1.0, 9.0], "died": [1, 0], "x": [4.0, -4.0], "group": ["a", "a"]})
    assert STUDY.summand(newton(beta=(1.0, 0.0)), rows)[-2:].tolist() == [2, 1]
    assert STUDY.summand(newton(beta=(1.0, 0.0), offset=1.0), rows)[-2:].tolist() == [2, 0]


@pytest.mark.parametrize(
    ("step", "said"),
    [
        (Step("times", 30), "'times' of 30 values is none of this question"),
        (Step("times", 31, (1.0,)), "the step 'times' has parameters; it must have none"),
        (Step("counts", 31), "'counts' of 31 values is none of this question"),
        (newton(length=27), "has 5 parameters and 27 values, which do not fit each other"),
        (newton(when=()), "has 3 parameters and 2 values"),
        (Step("newton", 26), "has 0 parameters and 26 values"),
        (newton(when=tuple(map(float, range(26)))), "has 29 parameters and 314 values"),
        (newton(when=(2.0, 1.0)), "not ascending places in the grid"),
        (newton(when=(1.0, 1.0)), "not ascending places in the grid"),
        (newton(when=(1.0, 1.5)), "not ascending places in the grid"),
        (newton(when=(-1.0, 1.0)), "not ascending places in the grid"),
        (newton(when=(1.0, 25.0)), "not ascending places in the grid"),
        (newton(when=(1.0, float("nan"))), "not ascending places in the grid"),
        (newton(beta=(0.0, float("nan"))), "not finite, or larger than 256"),
        (newton(beta=(257.0, 0.0)), "not finite, or larger than 256"),
        (newton(offset=float("nan")), "the offset of the step is not finite"),
        (newton(offset=1e9), "the offset of the step is not finite, or larger"),
    ],
)
def test_a_site_answers_no_other_step(step, said):
    rows = Rows.of({"months": [1.0], "died": [1], "x": [1.0], "group": ["a"]})
    with pytest.raises(ParameterError, match=said):
        STUDY.summand(step, rows)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"duration": X}, "the duration 'x' may be -4.0"),
        ({"event": GROUP, "predictors": (GROUP,)}, r"the columns \['group'\] have two parts"),
        ({"predictors": (MONTHS,)}, r"the columns \['months'\] have two parts"),
        ({"predictors": ()}, "there are no predictors"),
        ({"ties": "efron"}, "ties is 'efron'; it must be Ties.BRESLOW or Ties.EFRON"),
        ({"most_steps": 101}, r"most_steps is 101; it must be an int in \[2, 100\]"),
        (
            {"predictors": (Category("many", tuple(range(400))),)},
            "25 times with 399 columns of predictors may take more than 2097152 numbers a step",
        ),
    ],
)
def test_questions_that_are_none(arguments, said):
    with pytest.raises(ParameterError, match=said):
        CoxRegression(**{"duration": MONTHS, "event": DIED, "predictors": (X,)} | arguments)


@pytest.mark.parametrize("rows", [0, (1 << 20) + 1])
def test_more_rows_than_the_fixed_point_holds(rows):
    with pytest.raises(ParameterError, match=rf"max_rows is {rows}; a Cox regression takes 1 to 1048576"):
        STUDY.largest(max_rows=rows)


def test_it_prints_and_draws():
    answer = pooled(TRIAL, leukaemia())
    said = str(answer)
    assert "30 events in 42 complete rows" in said
    assert "ties by Efron" in said
    assert "4.82 (2.15 to 10.8)" in said
    assert "likelihood-ratio test: chi-squared 16.35 of 1 degrees of freedom, p <.001" in said
    assert list(answer.to_frame().columns)[-3:] == ["hazard ratio", "lower 95 %", "upper 95 %"]
    assert answer.draw().get_xlabel().startswith("hazard ratio")


@pytest.mark.slow
def test_through_a_masked_sum():
    sites = {f"site{place}": each.dropna() for place, each in enumerate(study())}
    answer = ask(MaskedSum(max_clients=3), sites, STUDY, seed=1, max_rows=1000)
    assert answer.estimates.tobytes() == pooled(STUDY, sites.values()).estimates.tobytes()
