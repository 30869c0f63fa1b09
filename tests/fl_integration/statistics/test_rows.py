"""A site's table as questions read it."""

from decimal import Decimal
from typing import Any

import numpy as np
import pandas as pd
import pytest

from fl_integration.statistics.columns import Category, Column, Genotypes, Number
from fl_integration.statistics.rows import Rows
from secagg.errors import ParameterError

AGE = Number("age", low=0, high=128, unit=1)
SEX = Category("sex", ("f", "m"))
GENES = Genotypes("genes", 3)
MATRIX = np.array([[0, 1, 2], [-1, -1, -1]], dtype=np.int8)


@pytest.mark.parametrize(
    "values",
    [
        [63.0, np.nan, 64.5],
        [63, None, 64.5],
        pd.array([63, None, 64.5], dtype="Float64"),
        np.ma.masked_array([63.0, 99.0, 64.5], mask=[False, True, False]),
        np.array([63.0, np.nan, 64.5], dtype=np.float32),
        pd.Series([np.float64(63), pd.NA, np.float32(64.5)], dtype=object),
    ],
    ids=["floats", "objects", "nullable", "masked", "float32", "scalars"],
)
def test_a_number_however_it_is_held(values: Any) -> None:
    rows = Rows.of({"age": values})
    assert np.array_equal(rows.numbers(AGE), [63, np.nan, 64.5], equal_nan=True)
    assert rows.present(AGE).tolist() == [True, False, True]
    assert rows.steps(AGE).tolist() == [-1, 0, 0]  # ties to even


@pytest.mark.parametrize(
    "values",
    [
        ["f", None, "m"],
        ["f", np.nan, "m"],
        pd.Categorical(["f", None, "m"]),
        pd.array(["f", pd.NA, "m"], dtype="string"),
        np.ma.masked_array(["f", "x", "m"], mask=[False, True, False]),
    ],
    ids=["none", "nan", "categorical", "nullable", "masked"],
)
def test_a_category_however_it_is_held(values: Any) -> None:
    """A NaN among texts is no text."""
    assert Rows.of({"sex": values}).codes(SEX).tolist() == [0, -1, 1]


@pytest.mark.parametrize("values", [[0, 1], [0.0, 1.0], [False, True], np.array([0, 1], dtype=np.uint8)])
def test_levels_that_are_numbers(values: Any) -> None:
    assert Rows.of({"ill": values}).codes(Category("ill", (1, 0))).tolist() == [1, 0]


def test_hidden_columns_have_no_values() -> None:
    rows = Rows.of({"age": [1.0, 2.0], "sex": ["f", "m"], "genes": MATRIX})
    hidden = rows.hiding(["age", "sex", "genes"]).where(np.array([True, False]))
    assert not any(hidden.present(column).any() for column in (AGE, SEX, GENES))
    assert hidden.steps(AGE).tolist() == [0]
    assert len(hidden) == 1
    assert rows.present(GENES).tolist() == [True, False]
    assert hidden.names == ("age", "sex", "genes")


@pytest.mark.parametrize(
    ("values", "column", "said"),
    [
        (["9163", "9164"], AGE, "something that is no number"),
        ([9163.0, "9164"], AGE, "something that is no number"),
        ([Decimal("9163"), 1.0], AGE, "something that is no number"),
        ([9163j, 1.0], AGE, "something that is no number"),
        (pd.date_range("2020-01-01", periods=2), AGE, "something that is no number"),
        ([1.0, -np.inf], AGE, "an infinite value, first in row 1"),
        ([1, 10**400], AGE, "too large"),
        (["f", "9163"], SEX, "a value in row 1 that is none of its 2 levels"),
        ([1.0, 2.0], SEX, "a value in row 0 that is none"),
        (MATRIX, AGE, "has 2 dimensions; it must have 1"),
        ([1.0, 2.0], GENES, "has 1 dimensions; it must have 2"),
        (MATRIX[:, :2], GENES, "of 2 markers; it must hold integers of 3"),
        (MATRIX.astype(float), GENES, "is float64 of 3 markers"),
        (MATRIX + 1, GENES, "allele counts outside -1"),
    ],
)
def test_what_does_not_fit_is_refused_without_its_values(values: Any, column: Column, said: str) -> None:
    with pytest.raises(ParameterError, match=said) as found:
        Rows.of({column.name: values}).present(column)
    assert "9163" not in str(found.value)


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ([1, 2], "a table is a list"),
        ({}, "there must be one"),
        ({"age": 3.0}, "must be equal"),
        ({"age": [1.0], "sex": []}, "must be equal"),
        ({"age": [1.0], 3: [1.0], "3": [2.0]}, "two columns of one name"),
        (pd.DataFrame([[1, 2]], columns=["age", "age"]), "two columns of one name"),
    ],
)
def test_what_is_no_table(table: Any, said: str) -> None:
    with pytest.raises(ParameterError, match=said):
        Rows.of(table)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"low": 1, "high": 1}, "low must be less than high"),
        ({"low": 0, "high": float("inf")}, "must be a finite number"),
        ({"low": "0", "high": 1}, "must be a finite number"),
        ({"low": 0, "high": 1, "unit": -1}, "negative"),
        ({"low": 0, "high": 1, "unit": 1e-9}, "pass at least"),
        ({"low": 2.0**60, "high": 2.0**60 + 2**12, "unit": 2.0**-8}, "too far from zero"),
        ({"low": -1e308, "high": 1e308}, "low must be less than high"),
    ],
)
def test_numbers_that_are_none(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ParameterError, match=said):
        Number("x", **options)


def test_columns_that_are_none() -> None:
    for name in ("", "a\n", 3, "x" * 201):
        with pytest.raises(ParameterError, match="1 to 200 printable characters"):
            Category(name, ("a",))  # type: ignore[arg-type]
    for levels in ((), ("a", "a"), ("a", 1), (1.5,), (True, False)):
        with pytest.raises(ParameterError, match=r"levels|a level twice"):
            Category("x", levels)  # type: ignore[arg-type]
    for markers in (0, 1.0, "3", 1 << 25):
        with pytest.raises(ParameterError, match="markers is"):
            Genotypes("x", markers)  # type: ignore[arg-type]


def test_a_unit_that_is_left_out_is_a_power_of_two_and_fine() -> None:
    column = Number("x", low=-3, high=7.5)
    assert column.unit == 2.0**-13
    assert (column.high - column.low) / column.unit >= 1 << 16
    assert column.middle * column.unit == pytest.approx(2.25)
