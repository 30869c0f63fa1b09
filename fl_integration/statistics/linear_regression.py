"""Ordinary least squares over the pooled rows.

The sum is XᵀX, Xᵀy and yᵀy in integers, the columns' units being public; all else follows from it. Normal
equations have a bad name, for they square the condition of X, and in float64 that costs half of the digits.
Here they are exact, and they are solved in floating point of 256 bits (a Cholesky factor, gmpy2): what is
lost to the condition is lost beyond the fortieth digit, and each figure is rounded to float64 once, at its
end. So the answer is that of the rounded table to about 1e-15, whether its columns are centred or not.

What cannot be estimated is refused, with the column to leave out: of what a column still varies when those
before it are known, at least 1e-8 must be left. A level that nobody has is no reason; it has no coefficient.

Categories are coded by treatment: a coefficient for each level but the first, against the first. The sums
tell how many have each level, each two levels, and the sum of each number over them: they open cells, and so
they do for a number of few values.
"""

import math
from collections.abc import Generator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Final, TypeAlias

import gmpy2
import numpy as np
from numpy.typing import NDArray

from fl_integration.statistics.answer import Answer, frame_of, new_axes
from fl_integration.statistics.columns import Category, Column, Number
from fl_integration.statistics.products import (
    Products,
    check_names,
    check_step,
    largest_product,
    length_of,
    sum_products,
    width_of,
)
from fl_integration.statistics.question import Question, Step, Total
from fl_integration.statistics.rows import Rows
from fl_integration.statistics.showing import (
    BLUE,
    GREY,
    complete,
    load_special,
    p_value,
    with_provenance,
)
from secagg.errors import ParameterError, RoundAborted

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

__all__ = ["LinearFit", "LinearRegression"]

_STEP: Final = "products"
_PRECISION: Final = 256
_TOLERANCE: Final = 1e-8
_NOTHING: Final = 2.0**-180
"""Of a sum of squares; what is less is an error of 256 bits."""

_Lower: TypeAlias = list[list[Any]]
"""A lower triangular matrix of gmpy2's mpfr, by rows."""


@dataclass(frozen=True, slots=True)
class LinearRegression(Question):
    """A number as a linear function of others, fitted by least squares, with an intercept. One sum.

    A row that lacks the outcome or any predictor is left out; how many such rows there are is in the answer.

    Args:
        outcome: what is explained.
        predictors: at least one; a `Category` has a coefficient for each level but its first.

    Raises:
        ParameterError: they are no such columns, or one is there twice.
    """

    outcome: Number
    predictors: tuple[Number | Category, ...]

    cells: ClassVar[bool] = True
    complete_cases: ClassVar[bool] = True
    needs_scipy: ClassVar[bool] = True

    def __post_init__(self) -> None:
        Question.__post_init__(self)
        if not isinstance(self.outcome, Number):
            raise ParameterError(
                "the outcome of a LinearRegression is a Number; of two levels ask a LogisticRegression"
            )
        found = tuple(self.predictors) if isinstance(self.predictors, tuple | list) else ()
        if not found or not all(isinstance(each, Number | Category) for each in found):
            raise ParameterError("predictors are a tuple of at least one Number or Category; these are not")
        object.__setattr__(self, "predictors", found)
        check_names(self.columns)

    @property
    def columns(self) -> tuple[Column, ...]:
        return (*self.predictors, self.outcome)

    @property
    def most_sums(self) -> int:
        return 1

    @property
    def coefficients(self) -> tuple[str, ...]:
        """The coefficients' names, the intercept first."""
        names = ["intercept"]
        for each in self.predictors:
            levels = each.levels[1:] if isinstance(each, Category) else ()
            names += [f"{each.name}[{level}]" for level in levels] if levels else []
            names += [each.name] if isinstance(each, Number) else []
        return tuple(names)

    def largest(self, *, max_rows: int) -> int:
        return largest_product(self.columns, max_rows=max_rows)

    def asking(self, *, max_rows: int) -> Generator[Step, Total, "LinearFit"]:
        total = yield Step(_STEP, length_of(self.columns))
        return _fitted(self, Products.of(total, width_of(self.columns)))

    def summand(self, step: Step, rows: Rows) -> Total:
        check_step(step, name=_STEP, length=length_of(self.columns))
        return sum_products(rows, (*self.predictors, self.outcome))


@dataclass(frozen=True, kw_only=True, eq=False)
class LinearFit(Answer):
    """The answer to a `LinearRegression` with k coefficients, the intercept first.

    Attributes:
        outcome: its name.
        names: of the coefficients; "sex[m]" is what level m adds to the first level.
        values, standard_errors, t, p_values: float64[k]; the p-values are two-sided. NaN for a level that no
            complete row has.
        low, high: float64[k], 95 % confidence intervals.
        covariance: float64[k, k], of the coefficients.
        r_squared, adjusted: in [0, 1], the share of variance explained, and that adjusted for k.
        f, f_p_value: of all coefficients but the intercept together; NaN where there is none.
        degrees: of freedom of f, those of the model and those of the residuals.
        residual_deviation: standard deviation of the residuals, in the outcome's measure.
        count: complete rows.
        incomplete: rows that were left out.
    """

    outcome: str
    names: tuple[str, ...]
    values: NDArray[np.float64]
    standard_errors: NDArray[np.float64]
    t: NDArray[np.float64]
    p_values: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]
    covariance: NDArray[np.float64]
    r_squared: float
    adjusted: float
    f: float
    f_p_value: float
    degrees: tuple[int, int]
    residual_deviation: float
    count: int
    incomplete: int

    def to_frame(self) -> "pd.DataFrame":
        """One row a coefficient: its value, standard error, t, p and 95 % interval."""
        return frame_of(
            {
                "coefficient": self.values,
                "se": self.standard_errors,
                "t": self.t,
                "p": self.p_values,
                "low": self.low,
                "high": self.high,
            },
            index=self.names,
        )

    def draw(self, axes: "Axes | None" = None) -> Any:
        """Each coefficient but the intercept with its 95 % interval."""
        shown = [each for each in range(1, len(self.names)) if not math.isnan(self.values[each])]
        axes = new_axes(axes, height=1.6 + 0.35 * max(3, len(shown)))
        values = self.values[shown]
        reach = np.stack([values - self.low[shown], self.high[shown] - values])
        axes.axvline(0, color=GREY, linewidth=1)
        axes.errorbar(values, range(len(shown)), xerr=reach, fmt="o", color=BLUE, capsize=3)
        axes.set_yticks(range(len(shown)), [self.names[each] for each in shown])
        axes.set_ylim(len(shown) - 0.5, -0.5)
        axes.set_xlabel(f"change of {self.outcome}, 95 % interval")
        axes.spines[["top", "right"]].set_visible(False)
        return axes

    def __str__(self) -> str:
        """The coefficients, and how well they explain the outcome."""
        frame = self.to_frame()
        frame["p"] = [p_value(each) for each in frame["p"]]
        table = frame.to_string(float_format=lambda each: f"{each:.4g}", na_rep="–")
        text = (
            f"{table}\n"
            f"R² {self.r_squared:.3f}, adjusted {self.adjusted:.3f}; "
            f"F({self.degrees[0]}, {self.degrees[1]}) = {self.f:.4g}, p {p_value(self.f_p_value)}; "
            f"residual sd {self.residual_deviation:.4g}\n"
            f"{complete(self.count, self.incomplete)}"
        )
        return with_provenance(text, self.provenance)


def _fitted(question: LinearRegression, products: Products) -> LinearFit:
    """The fit of the pooled products."""
    raw = _from_zero(products, question)
    kept = _estimable(question, products)
    degrees = (len(kept) - 1, products.count - len(kept))
    if degrees[1] < 1:
        raise ParameterError(
            f"{products.count} rows are complete, and there are {len(kept)} coefficients: ask for fewer "
            "predictors, or of more rows"
        )
    units = np.array([1.0, *_units(question)])
    outcome_unit = question.outcome.unit
    with gmpy2.context(precision=_PRECISION):
        lower = _factor(raw[np.ix_([*kept, -1], [*kept, -1])], [question.coefficients[each] for each in kept])
        size = len(kept)
        triangle, last = lower[:size], lower[size]
        inverse = _inverse(triangle)
        # L·z = Xᵀy is the factor's last row, and what is left of yᵀy its last pivot: the residuals' squares.
        steps = [sum(inverse[k][j] * last[k] for k in range(j, size)) for j in range(size)]
        residual = last[size]
        total = residual + sum(each**2 for each in last[1:size])
        if total <= _NOTHING * raw[-1, -1]:
            raise ParameterError(f"the outcome {question.outcome.name!r} is the same in all complete rows")
        if residual <= _NOTHING * total:
            residual = gmpy2.mpfr(0)  # a perfect fit
        variance = residual / degrees[1]
        of_steps = [
            [
                variance * sum(inverse[k][i] * inverse[k][j] for k in range(max(i, j), size))
                for j in range(size)
            ]
            for i in range(size)
        ]
        unexplained = float(residual / total)
        explained = (total - residual) / degrees[0] if degrees[0] else math.nan
        f = float(explained / variance) if variance else math.inf
        deviation = float(gmpy2.sqrt(variance)) * outcome_unit
    width = len(question.coefficients)
    values, covariance = np.full(width, np.nan), np.full((width, width), np.nan)
    scale = outcome_unit / units[kept]
    values[kept] = np.array(steps, dtype=np.float64) * scale
    covariance[np.ix_(kept, kept)] = np.array(of_steps, dtype=np.float64) * np.outer(scale, scale)
    return _with_tests(
        question,
        products,
        values,
        covariance,
        degrees=degrees,
        unexplained=unexplained,
        f=f,
        deviation=deviation,
    )


def _with_tests(
    question: LinearRegression,
    products: Products,
    values: NDArray[np.float64],
    covariance: NDArray[np.float64],
    *,
    degrees: tuple[int, int],
    unexplained: float,
    f: float,
    deviation: float,
) -> LinearFit:
    special = load_special()
    errors = np.sqrt(np.diag(covariance))
    with np.errstate(divide="ignore", invalid="ignore"):  # a perfect fit has no errors
        t = values / errors
    reach = special.stdtrit(degrees[1], 0.975) * errors
    return LinearFit(
        outcome=question.outcome.name,
        names=question.coefficients,
        values=values,
        standard_errors=errors,
        t=t,
        p_values=2 * special.stdtr(degrees[1], -np.abs(t)),
        low=values - reach,
        high=values + reach,
        covariance=covariance,
        r_squared=1 - unexplained,
        adjusted=1 - unexplained * (products.count - 1) / degrees[1],
        f=f,
        f_p_value=0.0 if math.isinf(f) else float(special.fdtrc(*degrees, f)),
        degrees=degrees,
        residual_deviation=deviation,
        count=products.count,
        incomplete=products.incomplete,
    )


def _units(question: LinearRegression) -> list[float]:
    """Of each coefficient but the intercept."""
    units: list[float] = []
    for each in question.predictors:
        units += [1.0] * (len(each.levels) - 1) if isinstance(each, Category) else [each.unit]
    return units


def _from_zero(products: Products, question: LinearRegression) -> NDArray[Any]:
    """DᵀD in units from zero, where the sums are from each column's middle; object[width, width], exact."""
    middles = [0]
    for each in (*question.predictors, question.outcome):
        middles += [0] * (len(each.levels) - 1) if isinstance(each, Category) else [each.middle]
    shift: NDArray[Any] = np.array(middles, dtype=object)
    first: NDArray[Any] = products.matrix[0]
    return np.asarray(
        products.matrix
        + np.outer(shift, first)
        + np.outer(first, shift)
        + products.count * np.outer(shift, shift)
    )


def _estimable(question: LinearRegression, products: Products) -> list[int]:
    """The coefficients that are not of a level which nobody has.

    Raises:
        ParameterError: nobody has the first level of a category, which the others are compared to.
    """
    kept, place = [0], 1
    for each in question.predictors:
        if not isinstance(each, Category):
            kept.append(place)
            place += 1
            continue
        places = range(place, place + len(each.levels) - 1)
        counts = [int(products.matrix[0, level]) for level in places]
        if products.count and sum(counts) == products.count:
            raise ParameterError(
                f"no complete row has the first level of column {each.name!r}, which the others are compared "
                "to: put first a level that is there, or leave the column out"
            )
        kept += [level for level, count in zip(places, counts, strict=True) if count]
        place = places.stop
    return kept


def _factor(matrix: NDArray[Any], names: list[str]) -> _Lower:
    """Cholesky's L of a matrix of Python's ints, but for its last pivot, which is not rooted.

    Raises:
        ParameterError: a column follows from those before it.
        RoundAborted: no rows have such products.
    """
    lower: _Lower = []
    for i, entries in enumerate(matrix):
        row: list[Any] = []
        for j in range(i):
            rest = entries[j] - sum(a * b for a, b in zip(row, lower[j], strict=False))
            row.append(rest / lower[j][j])
        pivot = entries[i] - sum((each**2 for each in row), gmpy2.mpfr(0))
        if pivot < -_NOTHING * entries[i]:
            raise RoundAborted("products that no rows have: a contributor added something else")
        if i == len(names):
            lower.append([*row, max(pivot, gmpy2.mpfr(0))])
            return lower
        _check_pivot(pivot, entries[i] - row[0] ** 2 if row else pivot, entries[i], name=names[i])
        lower.append([*row, gmpy2.sqrt(pivot)])
    return lower


def _check_pivot(pivot: Any, alone: Any, whole: int, *, name: str) -> None:
    """Refuses a column by its squares: left after all before it, left after the intercept, the whole."""
    if alone <= _NOTHING * whole:
        raise ParameterError(f"column {name!r} is the same in all complete rows: leave it out")
    if pivot <= _TOLERANCE * alone:
        raise ParameterError(
            f"column {name!r} follows from those before it: less than {_TOLERANCE:g} of its variance is its "
            "own; leave it out"
        )


def _inverse(lower: _Lower) -> _Lower:
    """Of a lower triangular matrix; full rows, zeros above the diagonal."""
    size = len(lower)
    inverse: _Lower = []
    for i in range(size):
        row = [
            -sum(lower[i][k] * inverse[k][j] for k in range(j, i)) / lower[i][i] if j < i else gmpy2.mpfr(0)
            for j in range(size)
        ]
        row[i] = 1 / lower[i][i]
        inverse.append(row)
    return inverse
