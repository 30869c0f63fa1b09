"""Sums of products of columns: what covariances, components and least squares are made of.

A site sends the upper triangle of DᵀD, where a row of D is (1, the values of one person in the units of their
columns), and how many rows it left out because they lack a value. All are integers, and their sum over the
sites is the DᵀD of the pooled table, exactly. What follows is computed from N·Σxy - Σx·Σy in Python's
integers: nothing cancels, however far from zero a column lies.

At the site the products go through the matrix product of floating point, which is the fast one. It is exact
as well: it takes so few rows at once that no partial sum, in whatever order, reaches 2**53.

>>> from fl_integration.statistics.columns import Category, Number
>>> age, sex = Number("age", low=0, high=128, unit=1), Category("sex", ("f", "m"))
>>> rows = Rows.of({"age": [63.0, float("nan"), 70.0], "sex": ["f", "m", "m"]})
>>> products = Products.of(sum_products(rows, (age, sex)), width_of((age, sex)))
>>> products.count, products.incomplete, products.matrix.tolist()
(2, 1, [[2, 5, 1], [5, 37, 6], [1, 6, 1]])
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Self

import numpy as np
from numpy.typing import NDArray

from fl_integration.statistics.columns import Category, Column, Number
from fl_integration.statistics.question import Step, Total
from fl_integration.statistics.rows import Rows
from secagg.errors import ParameterError, RoundAborted

__all__ = [
    "Products",
    "check_step",
    "gram",
    "largest_product",
    "length_of",
    "numbers_of",
    "sum_products",
    "width_of",
]

_EXACT: Final = 1 << 53
"""Integers up to this are floats."""
_MOST_SUM: Final = 1 << 61
"""Of one site's sum, so that an int64 holds it and the totals of two sites."""
_BLOCK_ROWS: Final = 1 << 14
"""Rows that are floats at once; more would only take memory."""


def gram(
    left: NDArray[np.int64], right: NDArray[np.int64], *, left_largest: int, right_largest: int
) -> NDArray[np.int64]:
    """leftᵀ·right, exactly.

    Args:
        left: int64[rows, p], at most `left_largest` in absolute value.
        right: int64[rows, q], at most `right_largest`; the product of the two is at most 2**53.

    Returns:
        int64[p, q].

    Raises:
        ParameterError: so many rows may reach beyond 2**63.
    """
    product = max(1, left_largest * right_largest)
    rows = left.shape[0]
    if rows * product >= 1 << 63:
        raise ParameterError(
            f"{rows} products of up to {product} do not fit 63 bits: take a larger unit, or fewer rows"
        )
    block = min(_EXACT // product, _BLOCK_ROWS)
    total = np.zeros((left.shape[1], right.shape[1]), dtype=np.int64)
    for start in range(0, rows, block):
        part = slice(start, start + block)
        total += (left[part].T.astype(np.float64) @ right[part].astype(np.float64)).astype(np.int64)
    return total


def largest_product(columns: Sequence[Column], *, max_rows: int) -> int:
    """The largest absolute value of a sum of products of two columns over `max_rows` rows, 1 a column.

    Raises:
        ParameterError: it is above 2**61.
    """
    greatest = max((each for each in columns if isinstance(each, Number)), key=_largest, default=None)
    scale = 1 if greatest is None else max(1, greatest.largest)
    if greatest is not None and scale**2 * max_rows > _MOST_SUM:
        needed = greatest.unit * 2.0 ** _bits_over(scale**2 * max_rows)
        raise ParameterError(
            f"column {greatest.name!r} has {scale} units to a side, and the sum of {max_rows} squares of so "
            f"many may reach beyond 2**61: pass max_rows of at most {_MOST_SUM // scale**2}, or a unit of at "
            f"least {needed:g}"
        )
    return scale**2 * max_rows


def numbers_of(columns: object, *, least: int, what: str) -> tuple[Number, ...]:
    """`columns` as a tuple, if they are `Number`s with names of their own.

    Raises:
        ParameterError: they are not, or fewer than `least`.
    """
    found = tuple(columns) if isinstance(columns, tuple | list) else ()
    if len(found) < least or not all(isinstance(each, Number) for each in found):
        raise ParameterError(f"columns of {what} are a tuple of at least {least} Number; these are not")
    check_names(found)
    return found


def check_names(columns: Sequence[Column]) -> None:
    """Raises `ParameterError` where two columns have one name."""
    names = [each.name for each in columns]
    for name in names:
        if names.count(name) > 1:
            raise ParameterError(f"column {name!r} is there twice; name each once")


def check_step(step: Step, *, name: str, length: int) -> None:
    """Raises `ParameterError` unless the step is of this name and length, without parameters."""
    if (step.name, step.length, step.parameters) != (name, length, ()):
        raise ParameterError(
            f"the step {step.name!r} of {step.length} values and {len(step.parameters)} parameters; this "
            f"question has {name!r} of {length} and none"
        )


def width_of(columns: Sequence[Column]) -> int:
    """Columns of D: 1, one a number, and one for each level of a category but the first."""
    return 1 + sum(len(each.levels) - 1 if isinstance(each, Category) else 1 for each in columns)


def length_of(columns: Sequence[Column]) -> int:
    """Values of `sum_products`."""
    width = width_of(columns)
    return 1 + width * (width + 1) // 2


def sum_products(rows: Rows, columns: Sequence[Number | Category]) -> Total:
    """What a site adds: int64[`length_of(columns)`], its incomplete rows and the upper triangle of DᵀD."""
    complete = np.ones(len(rows), dtype=np.bool_)
    design = [np.ones(len(rows), dtype=np.int64)]
    for column in columns:
        if isinstance(column, Number):
            complete &= rows.present(column)
            design.append(rows.steps(column))
        else:
            codes = rows.codes(column)
            complete &= codes >= 0
            design += [(codes == level).astype(np.int64) for level in range(1, len(column.levels))]
    matrix = np.stack(design, axis=1)[complete]
    scale = max((each.largest for each in columns if isinstance(each, Number)), default=1)
    products = gram(matrix, matrix, left_largest=max(1, scale), right_largest=max(1, scale))
    incomplete = np.array([len(rows) - len(matrix)], dtype=np.int64)
    return np.concatenate([incomplete, products[np.triu_indices(len(products))]])


@dataclass(frozen=True, slots=True, eq=False)
class Products:
    """The pooled table's DᵀD.

    Attributes:
        matrix: object[width, width] of Python's ints, symmetric.
        incomplete: rows that were left out, for they lack a value.
    """

    matrix: NDArray[Any]
    incomplete: int

    @classmethod
    def of(cls, total: Total, width: int) -> Self:
        """Of the sum of all sites' `sum_products`.

        Raises:
            RoundAborted: no rows have such sums.
        """
        matrix = np.zeros((width, width), dtype=object)
        upper = np.triu_indices(width)
        matrix[upper] = [int(each) for each in total[1:]]
        matrix.T[upper] = matrix[upper]
        if min(int(total[0]), *np.diag(matrix)) < 0:
            raise RoundAborted("a sum of squares is below zero: a contributor added what no rows have")
        return cls(matrix, int(total[0]))

    @property
    def count(self) -> int:
        """Complete rows."""
        return int(self.matrix[0, 0])

    @property
    def sums(self) -> NDArray[Any]:
        """object[width - 1], Σx in units from each column's middle."""
        return self.matrix[0, 1:]

    @property
    def spread(self) -> NDArray[Any]:
        """object[width - 1, width - 1] of Python's ints, N·Σxy - Σx·Σy: N² times the covariance."""
        return self.count * self.matrix[1:, 1:] - np.outer(self.sums, self.sums)


def _largest(column: Number) -> int:
    return column.largest


def _bits_over(value: int) -> int:
    """Halvings of the units after which `value`, a sum of squares, is at most 2**61."""
    return max(1, ((value - 1) // _MOST_SUM).bit_length() + 1 >> 1)
