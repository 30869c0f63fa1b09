"""What goes down with the request for a sum, in `Round.model`, and what an answer to it is bound to.

Where the server learns the sums it says all that the sites need: the question, who covers what, and the step.
Where the clients do, it says which question this is and no more: what has been opened, each of them knows,
and `head_of` names it with the contribution, so that only answers to one and the same step are summed.
"""

import hashlib
from dataclasses import dataclass
from typing import Final

from fl_integration.statistics.encoding import encode
from fl_integration.statistics.question import Question, Step

__all__ = ["Request", "head_of"]

_HEAD: Final = b"secagg/1/statistics head"


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One sum that is asked for.

    Attributes:
        question: of all sums.
        max_rows: the most rows that a site may have.
        sites: who is asked, all of whom must answer.
        number: of the sum, from 0 on.
        coverage: where the server learns the sums, how many sites cover each label; empty before it is known.
        step: where the server learns the sums, what is summed; None for the coverage.
    """

    question: Question
    max_rows: int
    sites: tuple[str, ...]
    number: int
    coverage: tuple[int, ...] = ()
    step: Step | None = None


def head_of(request: Request) -> bytes:
    """32 bytes that name a sum and all that led to it."""
    return hashlib.sha256(_HEAD + encode(request)).digest()
