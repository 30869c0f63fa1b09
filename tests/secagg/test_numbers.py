"""Numbers of other kinds become Python's own; nothing else does."""

from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from gmpy2 import mpz

from secagg.numbers import is_number, plain

INTEGERS = [np.int8, np.uint8, np.int16, np.int32, np.int64, np.uint64, mpz]
FLOATS = [np.float16, np.float32, np.float64, np.longdouble]


@pytest.mark.parametrize("kind", INTEGERS)
def test_an_integer_of_any_kind_is_an_int(kind: Any) -> None:
    assert type(plain(kind(7))) is int
    assert plain(kind(7)) == 7


def test_an_integer_that_fits_no_word_stays_exact() -> None:
    assert plain(np.uint64(2**64 - 1)) == 2**64 - 1
    assert plain(2**200) == 2**200


@pytest.mark.parametrize("kind", [*FLOATS, Fraction])
def test_a_real_of_any_kind_is_a_float(kind: Any) -> None:
    assert type(plain(kind(0.5))) is float
    assert plain(kind(0.5)) == 0.5


@pytest.mark.parametrize("value", [True, np.True_, "3", None, 1j, Decimal(1), np.array(3), np.zeros(2), [1]])
def test_what_is_no_number_stays_as_it_is(value: Any) -> None:
    assert plain(value) is value
    assert not is_number(plain(value))


def test_numbers_are_ints_and_floats() -> None:
    assert all(map(is_number, (0, -1, 0.0, float("nan"))))
