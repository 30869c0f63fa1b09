"""Quantiles are those of the pooled values, exactly."""

from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fl_integration.statistics.columns import Number
from fl_integration.statistics.quantiles import Quantiles
from fl_integration.statistics.question import Step
from fl_integration.statistics.rows import Rows
from secagg.errors import ParameterError
from tests.fl_integration.statistics.pooled import pooled

PROBABILITIES = (0.0, 0.07, 0.25, 0.5, 0.7, 0.75, 1.0)


@given(
    st.lists(st.integers(-50, 90), min_size=1, max_size=120),
    st.integers(1, 4),
    st.sampled_from([0.25, 1.0, 4.0]),
)
@settings(max_examples=60, deadline=None)
def test_they_are_inverted_cdf_of_the_pooled_values(values: list[int], sites: int, unit: float) -> None:
    """With ties, ranks that fall on a value, and p·n that float64 rounds up."""
    column = Number("x", low=-64, high=96, unit=unit)
    tables = [{"x": np.array(values[site::sites], dtype=float)} for site in range(sites)]
    answer = pooled(Quantiles((column,), PROBABILITIES), tables)
    gridded = np.rint(np.array(values) / unit) * unit
    assert answer.values[0].tolist() == np.quantile(gridded, PROBABILITIES, method="inverted_cdf").tolist()
    assert answer.count.tolist() == [len(values)]


def test_many_columns_of_different_widths_at_once() -> None:
    generator = np.random.default_rng(4)
    wide = Number("wide", low=-1000, high=1000, unit=2.0**-5)
    flag = Number("flag", low=0, high=1, unit=1)
    empty = Number("empty", low=0, high=10)
    frames = []
    for rows in (30, 17, 55):
        values = np.round(generator.normal(0, 400, rows) * 32) / 32
        values[generator.random(rows) < 0.3] = np.nan
        frames.append(
            pd.DataFrame(
                {"wide": values, "flag": generator.integers(0, 2, rows), "empty": np.full(rows, np.nan)}
            )
        )
    question = Quantiles((wide, flag, empty))
    answer = pooled(question, frames)
    whole = pd.concat(frames)
    known = whole.wide.dropna().clip(-1000, 1000)
    for place, values in ((0, known), (1, whole.flag)):
        expected = np.quantile(values, question.probabilities, method="inverted_cdf")
        assert answer.values[place].tolist() == expected.tolist()
    assert np.isnan(answer.values[2]).all()
    assert answer.count.tolist() == [len(known), 102, 0]
    assert question.most_sums == 6  # 17 bits
    assert list(answer.to_frame().columns) == ["n", "0.25", "0.5", "0.75"]
    assert len(answer.draw().get_yticks()) == 3


@pytest.mark.parametrize("bits", range(1, 9))
def test_it_takes_a_sum_for_three_bits(bits: int) -> None:
    column = Number("x", low=0, high=(1 << bits) - 1, unit=1)
    values = np.arange(1 << bits)
    answer = pooled(Quantiles((column,), (0.3,)), [{"x": values}])
    assert answer.values[0, 0] == np.quantile(values, 0.3, method="inverted_cdf")


@pytest.mark.parametrize(
    ("probabilities", "said"),
    [
        ((), "0 probabilities"),
        ((0.5, 1.5), "each in"),
        ((0.5, 0.5), "stands twice"),
        (("half",), "must be a tuple of numbers"),
        (0.5, "probabilities is a float"),
        ((float("nan"),), "each in"),
    ],
)
def test_probabilities_that_are_none(probabilities: object, said: str) -> None:
    with pytest.raises(ParameterError, match=said):
        Quantiles((Number("x", low=0, high=1),), probabilities)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "step",
    [
        Step("thresholds", 7, (1.0,)),
        Step("thresholds", 8, (1.0, 0.0)),
        Step("thresholds", 7, (0.5, 0.0)),
        Step("thresholds", 7, (1.0, 1e300)),
        Step("thresholds", 7, (1.0, float("inf"))),
        Step("moments", 7, (1.0, 0.0)),
        Step("count and thresholds", 8, ()),
    ],
)
def test_other_steps_are_refused(step: Step) -> None:
    question = Quantiles((Number("x", low=0, high=511, unit=1),), (0.5,))
    assert question.summand(Step("thresholds", 7, (1.0, 0.0)), Rows.of({"x": [256.0]})).tolist() == [1] * 7
    with pytest.raises(ParameterError, match="none of these Quantiles'"):
        question.summand(step, Rows.of({"x": [1.0]}))


def test_steps_follow_from_one_another() -> None:
    """Honest ones do, whatever the totals are; a threshold beside, the same gap, or a step back do not."""
    column = Number("x", low=-100, high=300, unit=1)
    question = Quantiles((column, Number("y", low=0, high=1, unit=1)), (0.1, 0.5))
    generator = np.random.default_rng(3)
    for _ in range(20):
        asking = question.asking(max_rows=100)
        steps = [next(asking)]
        try:
            while True:
                steps.append(asking.send(generator.integers(0, 100, steps[-1].length)))
        except StopIteration:
            pass
        assert len(steps) == question.most_sums == 3
        assert all(question.follows(one, other) for one, other in pairwise(steps))
        assert not question.follows(steps[1], steps[0])
        assert not question.follows(steps[0], steps[2])
        assert not question.follows(steps[1], steps[1])
        gap, *lows = steps[2].parameters
        for change in (-1, 1, 8 * 8, -8 * 8):
            moved = Step(steps[2].name, steps[2].length, (gap, lows[0] + change, *lows[1:]))
            assert not question.follows(steps[1], moved)
