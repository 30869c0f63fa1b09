"""Counts by bin are those of the pooled table."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fl_integration.statistics.columns import Category, Number
from fl_integration.statistics.count import Count
from fl_integration.statistics.histogram import Histogram
from fl_integration.statistics.question import Condition, Step
from fl_integration.statistics.rows import Rows
from secagg.errors import ParameterError
from tests.fl_integration.statistics.pooled import pooled

AGE = Number("age", low=0, high=128)
SEX = Category("sex", ("f", "m"))


@given(st.lists(st.one_of(st.integers(0, 100), st.just(None)), min_size=1, max_size=60))
@settings(max_examples=40, deadline=None)
def test_bins_are_those_of_numpy(values: list[int | None]) -> None:
    """Values on edges, the last one included; and what lies beside them."""
    known = np.array([each for each in values if each is not None], dtype=float)
    answer = pooled(
        Histogram(AGE, (20, 40, 40.5, 80)), [{"age": values[::2]}, {"age": values[1::2] or [None]}]
    )
    counts, _ = np.histogram(known, (20, 40, 40.5, 80))
    assert answer.counts.tolist() == counts.tolist()
    assert (answer.below, answer.above) == ((known < 20).sum(), (known > 80).sum())
    assert answer.missing == values.count(None) + (len(values) == 1)


def test_levels_of_a_category() -> None:
    tables = [pd.DataFrame({"sex": ["f", None, "m"]}), {"sex": np.array(["m", "m"])}]
    answer = pooled(Histogram(SEX), tables)
    assert answer.counts.tolist() == [1, 3]
    assert (answer.below, answer.above, answer.missing) == (0, 0, 1)
    frame = answer.to_frame()
    assert frame.loc["m", "n"] == 3
    assert frame.loc["m", "share"] == 0.75
    assert len(answer.draw().patches) == 2


def test_a_histogram_prints_and_draws() -> None:
    answer = pooled(Histogram(AGE, (20, 40, 80)), [{"age": [10.0, 30.0, 30.0, 200.0, np.nan]}])
    assert answer.to_frame()["n"].to_dict() == {
        "below": 1,
        "20 to 40": 2,
        "40 to 80": 0,
        "above": 1,
        "missing": 1,
    }
    assert answer.draw().get_xlabel() == "age"


@pytest.mark.parametrize(
    ("column", "edges", "said"),
    [
        (AGE, (), "0 edges for the column 'age'"),
        (AGE, (1.0,), "there must be two"),
        (AGE, (2.0, 1.0), "each above the one before"),
        (AGE, (1.0, 1.0), "each above the one before"),
        (AGE, (1.0, float("inf")), "all finite"),
        (AGE, (1.0, float("nan")), "all finite"),
        (AGE, ("1", "2"), "must be a tuple of numbers"),
        (SEX, (1.0, 2.0), "2 edges for the column 'sex'"),
        ("age", (1.0, 2.0), "column is a str"),
    ],
)
def test_edges_that_are_none(column: object, edges: object, said: str) -> None:
    with pytest.raises(ParameterError, match=said):
        Histogram(column, edges)  # type: ignore[arg-type]


def test_another_step_is_refused() -> None:
    with pytest.raises(ParameterError, match="none of this Histogram's"):
        Histogram(SEX).summand(Step("bins", 4), Rows.of({"sex": ["f"]}))
    with pytest.raises(ParameterError, match="none of a Count's"):
        Count().summand(Step("rows", 2), Rows.of({"sex": ["f"]}))


def test_a_count() -> None:
    tables = [{"age": [10.0, 30.0, np.nan], "sex": ["f", "m", "m"]}] * 2
    assert pooled(Count(), tables).rows == 6
    counted = pooled(Count(where=(Condition(AGE, below=30), Condition(SEX, among=("f",)))), tables)
    assert counted.rows == 2
    assert counted.to_frame().loc[0, "rows"] == 2
    assert len(counted.draw().patches) == 1
