"""What goes down with the request for a sum, in `Round.model`, and what an answer to it is bound to.

Where the server learns the sums it says all that the sites need: the question, who covers what, and the step.
Where the clients do, it says which question this is and no more: what has been opened, each of them knows,
and `head_of` names it with the contribution, so that only answers to one and the same step are summed.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Self

from fl_integration.privacy.units import Noise
from fl_integration.statistics.encoding import encode
from fl_integration.statistics.question import Question, Step
from fl_integration.statistics.row_noise import RowNoise

__all__ = ["Request", "head_of"]

_HEAD: Final = b"secagg/1/statistics head"


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One sum that is asked for.

    Attributes:
        question: of all sums.
        max_rows: the most rows that a site may have.
        sites: who is asked, all of whom must answer.
        noise: the law of the noise in the sums, with its ε and δ; None: the sums are exact.
        number: of the sum, from 0 on.
        coverage: where the server learns the sums, how many sites cover each label; empty before it is known.
        step: where the server learns the sums, what is summed; None for the coverage.
    """

    question: Question
    max_rows: int
    sites: tuple[str, ...]
    noise: tuple[Noise, float, float] | None = None
    number: int = 0
    coverage: tuple[int, ...] = ()
    step: Step | None = None

    @classmethod
    def first(
        cls, question: Question, *, max_rows: int, sites: Sequence[str], noise: RowNoise | None
    ) -> Self:
        """The request for the first sum, without what the server adds where it learns the sums."""
        law = None
        if noise is not None:
            law = (noise.privacy.noise, noise.privacy.epsilon, noise.privacy.delta)
        return cls(question=question, max_rows=max_rows, sites=tuple(sites), noise=law)


def head_of(request: Request) -> bytes:
    """32 bytes that name a sum and all that led to it."""
    return hashlib.sha256(_HEAD + encode(request)).digest()
