"""A question: what is asked of data that stays where it is, and how its answer is made from sums alone.

A question has two halves. At a site `summand` counts over the site's own rows; with whoever learns the sums,
`asking` says which sum it needs next and makes the answer of their totals. It is a generator: it yields a
`Step`, is sent the exact total of all sites, and returns the `Answer`. All that it does between two sums
follows from totals and from the question, so several parties that open the same sums make the same steps
and answers.

Questions are frozen dataclasses with a canonical encoding (`encoding`), which goes down to the sites with
each
request: what a site answers is what it read, or its policy says no. What a question's class says of itself,
`cells`, `complete_cases` and `cuts`, is what policies go by.

>>> from fl_integration.statistics.columns import Number
>>> from fl_integration.statistics.rows import Rows
>>> old = Condition(Number("age", low=0, high=128), at_least=60)
>>> len(selected(Rows.of({"age": [63.0, float("nan"), 41.0]}), (old,)))
1
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Generator, Mapping
from dataclasses import KW_ONLY, dataclass
from typing import TYPE_CHECKING, ClassVar, TypeAlias

import numpy as np
from numpy.typing import NDArray

from fl_integration.statistics.columns import Category, Column, Number
from secagg.errors import ParameterError
from secagg.numbers import is_number, plain

if TYPE_CHECKING:
    from fl_integration.statistics.answer import Answer
    from fl_integration.statistics.rows import Rows

__all__ = ["Asking", "Condition", "Question", "Sensitivity", "Step", "Total", "selected"]

Total: TypeAlias = NDArray[np.int64]
"""int64[length], the exact sum of all sites' summands."""


@dataclass(frozen=True, slots=True)
class Step:
    """One sum of a question.

    Attributes:
        name: what is summed, for people and policies: "counts", "thresholds", "newton".
        length: values in each site's summand, at least 1.
        parameters: public numbers that the sites need for it, such as thresholds or coefficients; finite.
    """

    name: str
    length: int
    parameters: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class Sensitivity:
    """By how much one row, added or removed, moves the summands of a question: what noise has to hide.

    Attributes:
        entries: int64[length of the longest step], the largest absolute change of each entry, at least 1; a
            shorter step has the first of them.
        touched: how many entries of one step one row can change at most.
    """

    entries: NDArray[np.int64]
    touched: int


Asking: TypeAlias = "Generator[Step, Total, Answer]"


@dataclass(frozen=True, slots=True, kw_only=True)
class Question(ABC):
    """What every question has.

    Args:
        where: conditions that a row must meet to be counted, all of them; none: every row.

    Attributes:
        cells: whether its sums open cells, numbers of rows that share something, which may be few.
        complete_cases: whether a row that lacks a value in one of `columns` is left out altogether. If not,
            each column is counted over the rows that have a value in it.
        needs_scipy: whether its answer has p-values or intervals.

    Raises:
        ParameterError: `where` has something else in it.
    """

    where: tuple["Condition", ...] = ()

    cells: ClassVar[bool] = False
    complete_cases: ClassVar[bool] = False
    needs_scipy: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if not isinstance(self.where, tuple) or not all(isinstance(each, Condition) for each in self.where):
            raise ParameterError(
                f"where is a {type(self.where).__name__}; it must be a tuple of Condition(…), or ()"
            )

    @property
    @abstractmethod
    def columns(self) -> tuple[Column, ...]:
        """The columns that it reads, without those of `where`."""

    @property
    def cuts(self) -> Mapping[str, tuple[float, ...]]:
        """Where it cuts each column into cells, by name; a policy allows the cuts that it declares."""
        return {}

    @property
    @abstractmethod
    def most_sums(self) -> int:
        """How many sums it may take at most; a site answers no more."""

    @abstractmethod
    def largest(self, *, max_rows: int) -> int:
        """Largest absolute value in a site's summand, in any step, if a site has at most `max_rows` rows."""

    @property
    def sensitivity(self) -> Sensitivity | None:
        """What one row changes in its sums; None: not known, so it is not asked under noise."""
        return None

    @abstractmethod
    def asking(self, *, max_rows: int) -> Asking:
        """The sums that it needs, one after the other, and the answer."""

    def follows(self, previous: Step, step: Step) -> bool:
        """Whether `step` can come after `previous`, whatever the totals were.

        A site asks this where the server learns the sums, and so says what comes next. True, where the
        question cannot tell.

        Raises:
            ParameterError: one of the two is none of this question's.
        """
        return True

    @abstractmethod
    def summand(self, step: Step, rows: "Rows") -> Total:
        """What one site adds: int64[step.length], within ±`largest`.

        Args:
            step: as `asking` made it; what a site receives has been checked for form, not for sense.
            rows: those that meet `where`.

        Raises:
            ParameterError: the step is none of this question's, or the rows do not fit its columns.
        """


@dataclass(frozen=True, slots=True)
class Condition:
    """A row is counted if its value in one column is known and in a range, or among some levels.

    Args:
        column: a `Number` with `at_least` or `below` or both, or a `Category` with `among`.
        at_least: the least value that is counted.
        below: the least value above those that are counted.
        among: levels of the category.

    Raises:
        ParameterError: nothing can meet it, or it is none of the two.
    """

    column: Number | Category
    _: KW_ONLY
    at_least: float | None = None
    below: float | None = None
    among: tuple[str | int, ...] = ()

    def __post_init__(self) -> None:
        match self.column:
            case Number():
                self._check_range(self.column)
            case Category():
                self._check_levels(self.column)
            case _:
                raise ParameterError(
                    f"a condition is on a Number or a Category, not on a {type(self.column).__name__}"
                )

    def _check_range(self, column: Number) -> None:
        if self.among or (self.at_least is None and self.below is None):
            raise ParameterError(
                f"a condition on the number {column.name!r} has at_least, below or both, and not among"
            )
        for name in ("at_least", "below"):
            limit = plain(getattr(self, name))
            if limit is None:
                continue
            if not is_number(limit) or not math.isfinite(limit):
                raise ParameterError(f"{name} of {column.name!r} is {limit!r}; it must be a finite number")
            object.__setattr__(self, name, float(limit))
        if self.at_least is not None and self.below is not None and not self.at_least < self.below:
            raise ParameterError(
                f"no value of {column.name!r} is at least {self.at_least} and below {self.below}"
            )

    def _check_levels(self, column: Category) -> None:
        if not isinstance(self.among, tuple) or self.at_least is not None or self.below is not None:
            raise ParameterError(f"a condition on the category {column.name!r} has among, a tuple of levels")
        among = tuple(plain(each) for each in self.among)
        if not among or len(set(among)) < len(among) or not set(among) <= set(column.levels):
            raise ParameterError(
                f"among names {len(among)} levels of {column.name!r}; it must name at least one of its "
                f"{len(column.levels)}, each once"
            )
        object.__setattr__(self, "among", among)

    @property
    def cuts(self) -> tuple[float, ...]:
        """Where it cuts a number."""
        return tuple(each for each in (self.at_least, self.below) if each is not None)

    def met(self, rows: "Rows") -> NDArray[np.bool_]:
        """bool[rows], where it is met.

        Raises:
            ParameterError: the rows do not fit the column.
        """
        if isinstance(self.column, Category):
            codes = [self.column.levels.index(each) for each in self.among]
            return np.isin(rows.codes(self.column), codes)
        values = rows.numbers(self.column)
        with np.errstate(invalid="ignore"):  # a missing value is NaN, and meets nothing
            met = ~np.isnan(values)
            if self.at_least is not None:
                met &= values >= self.at_least
            if self.below is not None:
                met &= values < self.below
        return met


def selected(rows: "Rows", where: tuple[Condition, ...]) -> "Rows":
    """The rows that meet all conditions.

    Raises:
        ParameterError: the rows do not fit a condition's column.
    """
    if not where:
        return rows  # and not a copy: genotypes are large
    chosen = np.ones(len(rows), dtype=np.bool_)
    for condition in where:
        chosen &= condition.met(rows)
    return rows.where(chosen)
