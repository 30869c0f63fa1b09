"""The predictors of a regression as columns of numbers, scaled by what the sites agreed on and not by the
data.

A `Number` is one column: its value, in units, from the middle of its declared bounds, over the largest such
distance, so that it lies in [-1, 1]. A `Category` is one column for each level but the first, 1 where the row
has that level (treatment coding; the first level is what the others are compared with). Nothing of this
depends on data: all sites make the same columns, and sums over rows have bounds that anybody can check.

>>> from fl_integration.statistics.columns import Category, Number
>>> design = DesignMatrix((Number("age", low=0, high=128, unit=1), Category("arm", ("old", "new"))))
>>> design.names
('age', 'arm[new]')
>>> design.matrix(Rows.of({"age": [32.0, 128.0], "arm": ["new", "old"]})).tolist()
[[-0.5, 1.0], [1.0, 0.0]]
"""

from collections import Counter
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from fl_integration.statistics.columns import Category, Number
from fl_integration.statistics.rows import Rows
from secagg.errors import ParameterError

__all__ = ["DesignMatrix", "Triangle", "check_two_levels"]

_MOST_COLUMNS: Final = 512
"""Of a design matrix: the sums grow with the square of it."""


def check_two_levels(column: Category, *, role: str) -> None:
    """Refuses an outcome or event that is no category of two levels.

    Raises:
        ParameterError: it is not.
    """
    if not isinstance(column, Category) or len(column.levels) != 2:
        raise ParameterError(
            f"{role} is {column!r}; it must be a Category of two levels, of which the second is what happens"
        )


@dataclass(frozen=True, slots=True)
class DesignMatrix:
    """The columns of a regression, without a constant.

    Args:
        predictors: at least one, each name once.
        taken: names that no predictor may have: the outcome's, and that of the constant.

    Raises:
        ParameterError: a predictor is no Number or Category, has a single value, or comes twice; or they make
            more than 512 columns.
    """

    predictors: tuple[Number | Category, ...]
    taken: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "predictors", tuple(self.predictors))
        if not self.predictors:
            raise ParameterError("there are no predictors; pass at least one")
        for each in self.predictors:
            if not isinstance(each, (Number, Category)):
                raise ParameterError(f"a predictor is {each!r}; it must be a Number or a Category")
            if (each.largest < 1) if isinstance(each, Number) else (len(each.levels) < 2):
                raise ParameterError(
                    f"predictor {each.name!r} can have one value only; leave it out, or pass a smaller unit "
                    "or more levels"
                )
        names = Counter([*(each.name for each in self.predictors), *self.taken])
        twice = sorted(name for name, times in names.items() if times > 1)
        if twice:
            raise ParameterError(f"the columns {twice} have two parts in this regression; each may have one")
        if self.width > _MOST_COLUMNS:
            raise ParameterError(
                f"the predictors make {self.width} columns; at most {_MOST_COLUMNS} are allowed: leave some "
                "out"
            )

    @property
    def width(self) -> int:
        """How many columns there are."""
        return sum(len(each.levels) - 1 if isinstance(each, Category) else 1 for each in self.predictors)

    @property
    def names(self) -> tuple[str, ...]:
        """Of the columns: a number's own, and category[level]."""
        return tuple(
            name
            for each in self.predictors
            for name in (
                [f"{each.name}[{level}]" for level in each.levels[1:]]
                if isinstance(each, Category)
                else [each.name]
            )
        )

    @property
    def scales(self) -> NDArray[np.float64]:
        """float64[width], the values that a column's 1 stands for, in the column's own measure."""
        return np.concatenate(
            [
                np.ones(len(each.levels) - 1) if isinstance(each, Category) else [each.unit * each.largest]
                for each in self.predictors
            ]
        )

    @property
    def centres(self) -> NDArray[np.float64]:
        """float64[width], the values that a column's 0 stands for, in the column's own measure."""
        return np.concatenate(
            [
                np.zeros(len(each.levels) - 1) if isinstance(each, Category) else [each.unit * each.middle]
                for each in self.predictors
            ]
        )

    def complete(self, rows: Rows) -> NDArray[np.bool_]:
        """bool[rows], where every predictor is known.

        Raises:
            ParameterError: the rows do not fit the columns.
        """
        complete = np.ones(len(rows), dtype=np.bool_)
        for each in self.predictors:
            complete &= rows.present(each)
        return complete

    def matrix(self, rows: Rows) -> NDArray[np.float64]:
        """float64[rows, width], all within [-1, 1]; a missing number is 0, a missing category its first
        level.

        Raises:
            ParameterError: the rows do not fit the columns.
        """
        matrix = np.empty((len(rows), self.width), dtype=np.float64, order="F")
        place = 0
        for each in self.predictors:
            if isinstance(each, Number):
                np.divide(rows.steps(each), each.largest, out=matrix[:, place])
                place += 1
            else:
                codes = rows.codes(each)
                for code in range(1, len(each.levels)):
                    np.equal(codes, code, out=matrix[:, place], casting="unsafe")
                    place += 1
        return matrix


@dataclass(frozen=True, slots=True)
class Triangle:
    """A symmetric matrix as its upper triangle, row by row.

    Args:
        width: of the matrix.
    """

    width: int

    @property
    def length(self) -> int:
        """Values in the triangle."""
        return self.width * (self.width + 1) // 2

    def flat(self, matrix: NDArray[Any]) -> NDArray[Any]:
        """[…, width, width] as […, length]."""
        return np.asarray(matrix[(..., *np.triu_indices(self.width))])

    def square(self, flat: NDArray[Any]) -> NDArray[Any]:
        """[…, length] as […, width, width]."""
        above, beside = np.triu_indices(self.width)
        matrix = np.empty((*flat.shape[:-1], self.width, self.width), dtype=flat.dtype)
        matrix[..., above, beside] = flat
        matrix[..., beside, above] = flat
        return matrix
