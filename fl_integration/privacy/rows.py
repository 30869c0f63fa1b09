"""A guarantee for each row of a table, for statistics: noise on sums that a question asks for.

A question says by how much one row moves its sums, in whole units; nothing is clipped or sampled here. Where
one patient has several rows the guarantee is for a row, and weaker for the patient.

>>> unit = RowLevel(epsilon=1.0, delta=1e-6)
>>> plan = unit.plan(3, length=10, l2=1.0, largest=100_000)
>>> plan.unit.value, plan.epsilon <= 1.0
('row', True)
"""

import math
import os
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from fl_integration.privacy.ledger import BudgetLedger
from fl_integration.privacy.noising import noised
from fl_integration.privacy.plan import PrivacyPlan
from fl_integration.privacy.planning import Query, make_plan, most_l1
from fl_integration.privacy.units import (
    Noise,
    Unit,
    check_choice,
    check_count,
    check_epsilon_delta,
    check_positive,
)
from protocols.machine.parameters import Parameters
from secagg.entropy import Entropy
from secagg.errors import ParameterError
from secagg.numbers import plain

__all__ = ["RowLevel"]

_MOST_DELTA: Final = 1e-3
"""How many rows there are is not known here, and is never few."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RowLevel:
    """Differential privacy for each row of each site's table, of one question.

    Args:
        epsilon, delta: the budget of all sums of the question; delta at most 0.001, and below 1 over the rows
            of all sites, which is the caller's to know.
        noise: the law.
        ledger: what charges each sum before it leaves.

    Raises:
        ParameterError: a number outside its range.
    """

    epsilon: float
    delta: float
    noise: Noise = Noise.SKELLAM
    ledger: BudgetLedger | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        epsilon, delta = check_epsilon_delta(self.epsilon, self.delta)
        object.__setattr__(self, "epsilon", epsilon)
        object.__setattr__(self, "delta", delta)
        if delta > _MOST_DELTA:
            raise ParameterError(
                f"delta is {delta:g}, above {_MOST_DELTA:g}: with such a chance one row may be shown whole; "
                "pass less than 1 over the rows of all sites, by a factor of 10 at best"
            )
        check_choice("noise", self.noise, Noise)

    def plan(
        self,
        n: int,
        *,
        length: int,
        l2: float,
        largest: int,
        l1: float | None = None,
        sums: int = 1,
        protocol: Parameters | None = None,
        roster: int | None = None,
    ) -> PrivacyPlan:
        """The noise for a question of so many sums to n sites.

        Args:
            n: sites.
            length: values of one sum, in [1, 2**32].
            l2: the largest Euclidean change that one row makes to one sum, at least that of one unit of one
                value.
            largest: no site's summand is beyond ±largest.
            l1: the largest change of the sum of absolute values; None: what follows from l2 and length.
            sums: how many there are at most; each is charged as one round.
            protocol: any but PlainSum; None: MaskedSum(max_clients=n).
            roster: the size of the roster that the sites were chosen from; None: n.

        Raises:
            ParameterError: a number outside its range, or a plan that cannot be; says what to change.
            MissingExtraError: dp-accounting is not installed.
        """
        length = check_count("length", length, most=1 << 32)
        largest = check_count("largest", largest, most=1 << 61)
        l2 = check_positive("l2", l2)
        if l2 < 1:
            raise ParameterError(
                f"l2 is {l2:g}; sums are whole, so one row that counts moves them by at least 1"
            )
        bound = most_l1(math.ceil(l2 * l2), length)
        query = Query(
            unit=Unit.ROW,
            epsilon=self.epsilon,
            delta=self.delta,
            noise=self.noise,
            rounds=check_count("sums", sums, most=1 << 24),
            sampling_rate=1.0,
            entries=length,
            length=length,
            l2=l2,
            l1=bound if l1 is None else min(check_positive("l1", l1), bound),
            reach=largest,
            total_reach=largest * _sites(n),
        )
        return make_plan(query, n, protocol=protocol, roster=roster)

    def noised(
        self, summand: NDArray[np.int64], *, plan: PrivacyPlan, entropy: Entropy = os.urandom
    ) -> NDArray[np.int64]:
        """The summand with this site's share of the noise: int64 of the same length.

        Call it once for each vector that leaves.

        Args:
            summand: as a question makes it.
            plan: of this unit.
            entropy: secret and fresh.
        """
        return noised(summand, plan=plan, entropy=entropy)


def _sites(n: Any) -> int:
    """n for arithmetic; whether it is one is the protocol's to say."""
    number = plain(n)
    return number if type(number) is int and number > 0 else 1
