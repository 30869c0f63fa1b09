"""The course of a question: first who covers what, then the sums that it asks for, then the answer.

Whoever learns the sums follows it: the server, or each of the clients for itself. Sum 0 counts sites, not
values: for each column how many of them have enough values in it. A site that has too few counts as one that
has none, then and in all later sums, and a column that too few sites have is asked no further (`respondent`).
"""

import hashlib
from collections.abc import Sequence
from typing import Final

import numpy as np

from fl_integration.statistics.answer import Answer
from fl_integration.statistics.question import Question, Step, Total
from fl_integration.statistics.row_noise import RowNoise
from secagg.errors import ParameterError, RoundAborted

__all__ = ["COVERAGE", "ROWS", "Course", "labels_of"]

ROWS: Final = "(rows)"
"""The label of what every question counts, beside its columns."""

COVERAGE: Final = "coverage"

_DIGEST: Final = b"secagg/1/statistics totals"


def labels_of(question: Question) -> tuple[str, ...]:
    """What is covered or not: all rows together, under "", and each column by its name.

    Raises:
        ParameterError: two different columns have one name.
    """
    names: dict[str, object] = {}
    for column in (*question.columns, *(each.column for each in question.where)):
        if names.setdefault(column.name, column) != column:
            raise ParameterError(f"two different columns are named {column.name!r}; agree on one of them")
    return ("", *dict.fromkeys(column.name for column in question.columns))


class Course:
    """Where a question stands.

    Args:
        question: what is asked.
        max_rows: the most rows that a site may have.
        sites: how many are asked.
        noise: where there is noise in the sums: then nobody is asked who covers what.

    Attributes:
        number: of the sum that is wanted next; 0 is the coverage, if there is one.
        coverage: for each of `labels_of`, how many sites have enough rows; empty before it is known.
        step: what is summed next; None for the coverage, and when all is done.
        answer: when all is done.
    """

    def __init__(
        self, question: Question, *, max_rows: int, sites: int, noise: RowNoise | None = None
    ) -> None:
        self.labels = labels_of(question)
        self._question, self._sites, self._noise = question, sites, noise
        self._asking = question.asking(max_rows=max_rows)
        self._digest = hashlib.sha256(_DIGEST)
        self.number = 0
        self.coverage: tuple[int, ...] = ()
        self.step: Step | None = None
        self.answer: Answer | None = None
        self._most = question.most_sums + 1
        if noise is not None:
            self.step, self._most = next(self._asking), question.most_sums

    @property
    def length(self) -> int | None:
        """Values in the next sum; None when all is done."""
        if self.answer is not None:
            return None
        if self._noise is not None:
            return self._noise.length
        return len(self.labels) if self.step is None else self.step.length

    @property
    def digest(self) -> bytes:
        """SHA-256 over all totals so far: who has the same has the same answer."""
        return self._digest.digest()

    def take(self, total: Total) -> None:
        """The exact total of all sites in the sum that was wanted.

        Raises:
            RoundAborted: more sites cover a column than there are.
            ParameterError: the question wants more sums than it says.
        """
        self._digest.update(len(total).to_bytes(8, "big") + np.ascontiguousarray(total, "<i8").tobytes())
        try:
            if self.step is None:
                self._take_coverage(total.tolist())
                self.step = next(self._asking)
            else:
                if self._noise is not None:
                    total = self._noise.read(total, length=self.step.length)
                self.step = self._asking.send(total)
        except StopIteration as done:
            self.step, self.answer = None, done.value
        self.number += 1
        if self.step is not None and self.number >= self._most:
            raise ParameterError(
                f"a {type(self._question).__name__} wants a sum more than the {self._question.most_sums} "
                "that it takes at most; most_sums must say how many there can be"
            )

    def _take_coverage(self, counted: Sequence[int]) -> None:
        if not all(0 <= each <= self._sites for each in counted):
            raise RoundAborted(f"a column is covered by more than the {self._sites} sites: one of them lies")
        self.coverage = tuple(counted)

    @property
    def left_out(self) -> dict[str, int]:
        """By column, how many sites have too few values."""
        shown = zip(self.labels, self.coverage, strict=False)  # under noise there is no coverage
        return {label or ROWS: self._sites - each for label, each in shown if each < self._sites}
