"""A question: what is asked of data that stays where it is, and how its answer is made from sums alone.

A question has two halves. At a site `summand` counts over the site's own rows; with whoever learns the sums,
`asking` says which sum it needs next and makes the answer of their totals. It is a generator: it yields a
`Step`, is sent the exact total of all sites, and returns the `Answer`. All that it does between two sums follows
from totals and from the question, so several parties that open the same sums make the same steps and answers.

Questions are frozen dataclasses with a canonical encoding, which goes down to the sites with each request:
what a site answers is what it read, or its policy says no.
"""

from abc import ABC, abstractmethod
from collections.abc import Generator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from numpy.typing import NDArray

from fl_integration.statistics.columns import Category, Column, Number

if TYPE_CHECKING:
    from fl_integration.statistics.answer import Answer
    from fl_integration.statistics.rows import Rows

__all__ = ["Asking", "Question", "Step", "Total"]

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


Asking: TypeAlias = "Generator[Step, Total, Answer]"


@dataclass(frozen=True, slots=True, kw_only=True)
class Question(ABC):
    """What every question has.

    Args:
        where: conditions that a row must meet to be counted, all of them; none: every row.
    """

    where: tuple["Condition", ...] = field(default=())

    @property
    @abstractmethod
    def columns(self) -> tuple[Column, ...]:
        """The columns that it reads, without those of `where`."""

    @property
    @abstractmethod
    def most_sums(self) -> int:
        """How many sums it may take at most; a site answers no more."""

    @abstractmethod
    def largest(self, *, max_rows: int) -> int:
        """Largest absolute value in a site's summand, in any step, if a site has at most `max_rows` rows."""

    @abstractmethod
    def asking(self, *, max_rows: int) -> Asking:
        """The sums that it needs, one after the other, and the answer."""

    @abstractmethod
    def summand(self, step: Step, rows: "Rows") -> Total:
        """What one site adds: int64[step.length], within ±`largest`.

        Args:
            step: as `asking` made it; what a site receives has been checked for form, not for sense.
            rows: those that meet `where`.

        Raises:
            ParameterError: the step is none of this question's, or the rows do not fit its columns.
        """


@dataclass(frozen=True, slots=True, kw_only=True)
class Condition:
    """A row is counted if its value in one column is known and in a range, or among some levels.

    Args:
        column: a `Number` with `at_least` or `below` or both, or a `Category` with `among`.
    """

    column: Number | Category
    at_least: float | None = None
    below: float | None = None
    among: tuple[str | int, ...] = ()
