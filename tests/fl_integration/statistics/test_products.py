"""Sums of products are those of Python's integers, whatever the matrix product computes in."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from fl_integration.statistics.columns import Category, Number
from fl_integration.statistics.products import (
    Products,
    gram,
    largest_product,
    length_of,
    sum_products,
    width_of,
)
from fl_integration.statistics.rows import Rows
from secagg.errors import ParameterError, RoundAborted

FINEST = Number("x", low=-1, high=1, unit=2.0**-23)
AGE = Number("age", low=0, high=128, unit=1 / 8)
SEX = Category("sex", ("f", "m"))


@given(
    st.data(),
    st.integers(0, 300),
    st.sampled_from([(1, 1), (2**15, 2**16), (2**23, 2**23), (2**46, 1), (2**53, 1)]),
)
@settings(max_examples=40)
def test_products_are_those_of_pythons_integers(data, rows, largest):
    left, right = (
        data.draw(arrays.arrays(np.int64, (rows, 2), elements=st.integers(-most, most))) for most in largest
    )
    exact = left.astype(object).T @ right.astype(object) if rows else np.zeros((2, 2))
    found = gram(left, right, left_largest=largest[0], right_largest=largest[1])
    assert found.dtype == np.int64
    assert (found == exact).all()


def test_the_largest_products_of_odd_numbers_do_not_round():
    """The sum of 1000 products of 2**23 - 1 each is beyond 2**53, and odd: a float would round it."""
    column = np.full((999, 1), 2**23 - 1, dtype=np.int64)
    found = gram(column, column, left_largest=2**23, right_largest=2**23)
    assert int(found[0, 0]) == 999 * (2**23 - 1) ** 2 > 2**53


def test_more_rows_than_an_int64_bears_are_refused():
    for rows, fits in ((1023, True), (1024, False)):
        column = np.full((rows, 1), 2**53, dtype=np.int64)
        ones = np.ones((rows, 1), dtype=np.int64)
        if fits:
            assert gram(column, ones, left_largest=2**53, right_largest=1)[0, 0] == rows * 2**53
            continue
        with pytest.raises(ParameterError, match="do not fit 63 bits: take a larger unit, or fewer rows"):
            gram(column, ones, left_largest=2**53, right_largest=1)


def test_a_sum_is_bounded_before_anybody_computes_it():
    most = 2**61 // FINEST.largest**2
    assert largest_product((FINEST, SEX), max_rows=most) == FINEST.largest**2 * most <= 2**61
    with pytest.raises(
        ParameterError, match=rf"column 'x' has 8388608 units .* max_rows of at most {most}, or "
    ):
        largest_product((SEX, FINEST), max_rows=most + 1)
    assert largest_product((SEX,), max_rows=7) == 7


def test_the_unit_that_is_named_is_large_enough():
    rows = 10**7
    with pytest.raises(ParameterError, match="a unit of at least ") as refused:
        largest_product((FINEST,), max_rows=rows)
    unit = float(str(refused.value).split("a unit of at least ")[1])
    assert largest_product((Number("x", low=-1, high=1, unit=unit),), max_rows=rows) <= 2**61
    assert unit < 2.0**-17


@given(st.integers(0, 40), st.integers(0, 2**32 - 1))
@settings(max_examples=40)
def test_the_pooled_matrix_is_that_of_the_complete_rows(rows, seed):
    rng = np.random.default_rng(seed)
    age, sex = rng.integers(-100, 1200, rows) / 8, rng.choice(["f", "m", None], rows)
    age[rng.random(rows) < 0.2] = np.nan
    table = {"age": age, "sex": sex.astype(object)}
    parts = [{name: each[place::2] for name, each in table.items()} for place in (0, 1)]
    total = sum(sum_products(Rows.of(part), (AGE, SEX)) for part in parts)
    assert len(total) == length_of((AGE, SEX))
    products = Products.of(total, width_of((AGE, SEX)))
    whole = ~np.isnan(age) & np.array([each is not None for each in sex], dtype=bool)
    design = np.stack(
        [np.ones(rows), np.clip(age, 0, 128) * 8 - AGE.middle, (sex == "m").astype(float)], axis=1
    )[whole].astype(np.int64)
    assert (products.matrix == design.T @ design).all()
    assert (products.count, products.incomplete) == (whole.sum(), rows - whole.sum())


def test_what_no_rows_have_is_refused():
    with pytest.raises(RoundAborted, match="a sum of squares is below zero"):
        Products.of(np.array([0, 5, 1, -1]), 2)
    with pytest.raises(RoundAborted, match="a sum of squares is below zero"):
        Products.of(np.array([-1, 5, 1, 1]), 2)
