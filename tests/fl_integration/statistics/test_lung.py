"""The lung cancer patients of the North Central group, by institution, are lifelines' pooled ones."""

import numpy as np
import pytest

from fl_integration.statistics.columns import Category, Number
from fl_integration.statistics.cox_regression import CoxRegression
from fl_integration.statistics.kaplan_meier import KaplanMeier
from tests.fl_integration.statistics.pooled import pooled

pytestmark = pytest.mark.slow

DAYS = Number("time", low=0, high=1100, unit=1)
DIED = Category("status", (0, 1))
SEX = Category("sex", (1, 2))


@pytest.fixture(scope="module")
def lung():
    from lifelines.datasets import load_lung

    return load_lung().dropna(subset=["inst"])


def by_institution(table):
    return [
        table[(table.inst > low) & (table.inst <= high)]
        for low, high in ((0, 3), (3, 10), (10, 13), (13, 99))
    ]


def test_curves_and_log_rank(lung):
    from lifelines import KaplanMeierFitter
    from lifelines.statistics import logrank_test
    from lifelines.utils import median_survival_times

    answer = pooled(KaplanMeier(DAYS, DIED, SEX), by_institution(lung))
    men, women = (lung[lung.sex == sex] for sex in (1, 2))
    for group, whole in enumerate((men, women)):
        fitted = KaplanMeierFitter().fit(whole.time, whole.status)
        expected = fitted.survival_function_at_times(answer.times).to_numpy()
        assert answer.survival[group] == pytest.approx(expected, abs=1e-14)
        limits = fitted.confidence_interval_.reindex(answer.times, method="ffill").to_numpy()
        assert answer.intervals[group] == pytest.approx(limits, abs=1e-13)
        assert answer.medians[group] == fitted.median_survival_time_
        assert answer.median_intervals[group].tolist() == (
            median_survival_times(fitted.confidence_interval_).to_numpy()[0].tolist()
        )
    expected = logrank_test(men.time, women.time, men.status, women.status)
    assert answer.log_rank.chi_squared == pytest.approx(expected.test_statistic, rel=1e-11)
    assert answer.log_rank.p_value == pytest.approx(expected.p_value, rel=1e-11)


def test_log_rank_of_many_groups(lung):
    from lifelines.statistics import multivariate_logrank_test

    whole = lung.dropna(subset=["ph.ecog"])
    stage = Category("ph.ecog", (0, 1, 2, 3))
    answer = pooled(KaplanMeier(DAYS, DIED, stage), by_institution(lung))
    expected = multivariate_logrank_test(whole.time, whole["ph.ecog"], whole.status)
    assert answer.log_rank.freedom == 3
    assert answer.log_rank.chi_squared == pytest.approx(expected.test_statistic, rel=1e-9)
    assert answer.incomplete == len(lung) - len(whole)


@pytest.mark.parametrize("unit", [1, 30])
def test_hazard_ratios(lung, unit):
    from lifelines import CoxPHFitter

    whole = lung.dropna(subset=["age", "sex", "ph.ecog"]).copy()
    whole["time"] = np.rint(whole.time / unit) * unit
    question = CoxRegression(
        Number("time", low=0, high=1110, unit=unit),
        DIED,
        (Number("age", low=0, high=128, unit=1), SEX, Number("ph.ecog", low=0, high=4, unit=1)),
    )
    answer = pooled(question, by_institution(lung))
    expected = CoxPHFitter().fit(
        whole[["time", "status", "age", "sex", "ph.ecog"]], "time", "status", fit_options={"precision": 1e-12}
    )
    assert answer.estimates == pytest.approx(expected.params_.to_numpy(), rel=1e-7)
    assert answer.standard_errors == pytest.approx(expected.standard_errors_.to_numpy(), rel=1e-7)
    assert answer.log_likelihood == pytest.approx(expected.log_likelihood_, abs=1e-6)
