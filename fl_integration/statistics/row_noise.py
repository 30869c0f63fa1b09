"""Noise on the sums of a question, so that no row shows in them: `RowLevel` of the room below, applied.

The entries of a summand are of different sizes: a count moves by 1 when a row comes or goes, a sum of squares
by a square. So each is brought to one size before the noise and back behind it, rounded down to a
`_GRID`-th of what one row can be; then one row moves every entry by at most one size, whatever the rows
are, and noise of one law hides it. What is read from the totals is post-processing and costs nothing.

Under noise nothing else may depend on the rows: there is no coverage, no site leaves itself out for want of
rows, and no two answers are compared. What cannot be counted at all (more rows than `max_rows`, a text where
a number is due) is still refused aloud. The guarantee covers the site alone in a column and the differencing
pair, for as much as ε says; the budget's ledger holds the sums together.
"""

from typing import Final

import numpy as np

from fl_integration.privacy.ledger import BudgetLedger, roster_of
from fl_integration.privacy.rows import RowLevel
from fl_integration.statistics.question import Question, Total
from protocols.machine.parameters import MachineProtocol, Parameters
from secagg.entropy import Entropy
from secagg.errors import ParameterError

__all__ = ["RowNoise"]

_GRID: Final = 64
"""Steps of what one row can add to an entry, where entries differ in that."""


class RowNoise:
    """The noise of one question.

    Args:
        privacy: what is promised, and the ledger that is charged.
        question: what is asked.
        max_rows: the most rows that a site may have.
        sites: how many are asked.
        protocol: whose integer surface sums.

    Attributes:
        privacy: as it was given.
        plan: the noise of each site, and the integer surface that holds it.
        length: values of every sum, shorter steps filled up with noise.

    Raises:
        ParameterError: the question does not say what one row changes, or there is no such plan.
        MissingExtraError: dp-accounting is not installed.
    """

    def __init__(
        self,
        privacy: RowLevel,
        question: Question,
        *,
        max_rows: int,
        sites: int,
        protocol: MachineProtocol,
    ) -> None:
        if not isinstance(protocol, Parameters):
            raise ParameterError(
                "noise goes with a protocol such as MaskedSum(…), not with its integer surface"
            )
        sensitivity = question.sensitivity
        if sensitivity is None:
            raise ParameterError(
                f"a {type(question).__name__} is not answered under privacy=: nobody has worked out what one "
                "row changes in its sums; Count, Moments, Histogram and Quantiles are, or leave privacy out"
            )
        self.privacy, self.length = privacy, len(sensitivity.entries)
        self._sizes = sensitivity.entries
        self._grid = 1 if int(self._sizes.max()) == 1 else _GRID
        if (max_rows * self._grid * int(self._sizes.max())).bit_length() > 62:
            raise ParameterError(
                f"sums over {max_rows} rows do not fit 62 bits under noise; lower max_rows, or take "
                "coarser units"
            )
        self.plan = privacy.plan(
            sites,
            length=self.length,
            l2=self._grid * float(np.sqrt(sensitivity.touched)),
            l1=float(self._grid * sensitivity.touched),
            largest=max_rows * self._grid,
            sums=question.most_sums,
            protocol=protocol,
        )

    @property
    def of_a_count(self) -> float:
        """Standard deviation of the noise in a value that one row changes by 1."""
        return self.plan.sigma_total / self._grid

    def add(self, summand: Total, *, entropy: Entropy) -> Total:
        """A site's summand with its share of the noise: int64[length]. Once for each that leaves."""
        scaled = np.zeros(self.length, dtype=np.int64)
        scaled[: len(summand)] = summand * self._grid // self._sizes[: len(summand)]
        return self.privacy.noised(scaled, plan=self.plan, entropy=entropy)

    def read(self, total: Total, *, length: int) -> Total:
        """The first `length` entries of a noised total, in the question's own size, rounded."""
        if self._grid == 1:
            return total[:length]
        pairs = zip(total[:length].tolist(), self._sizes[:length].tolist(), strict=True)
        return np.array([(2 * each * size + self._grid) // (2 * self._grid) for each, size in pairs])

    def charge(
        self, *, site: str, sites: tuple[str, ...], session: bytes, number: int, budget: BudgetLedger | None
    ) -> None:
        """Charges one sum before its vector leaves, to the ledgers that there are.

        Args:
            site: who answers.
            sites: who is asked; the asker's ledger has a budget for each such set.
            session: of the question.
            number: of the sum.
            budget: the site's own, which is one whoever else is asked.

        Raises:
            BudgetExceededError: a budget is spent.
            ParameterError: this sum was charged before, and its vector may have left under other noise.
        """
        for ledger, together in ((budget, (site,)), (self.privacy.ledger, sites)):
            if ledger is not None:
                ledger.charge_once(
                    site=site,
                    roster=roster_of(together),
                    session=session,
                    round=number,
                    releases=[self.plan.release],
                    failure=self.plan.failure,
                )
