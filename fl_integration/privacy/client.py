"""A guarantee for each client: whole updates are clipped, and noise hides each in the sum.

The unit of TensorFlow Federated and of phones: neighbours differ in whether one client's update is there or
is zero. For a hundred clients and more. **For three to ten hospitals it destroys the model**: noise that
hides one hospital among three hides what the three have learnt; take `PatientLevel` there.

An update is clipped to `clip` in Euclidean norm, rotated where that saves bits, and rounded by chance to a
grid so fine that rounding adds at most 1 % of norm, which is in the noise. An update that is not finite
counts as zero: that a client stays away would tell of its data.

>>> import numpy as np
>>> unit = ClientLevel(epsilon=8.0, delta=1e-3, rounds=10, clip=1.0)
>>> plan = unit.plan(100, length=50)
>>> sent = unit.summand(np.full(50, 0.1), plan=plan, round_seed=b"known to all of a round")
>>> mean = unit.mean(100 * sent, contributors=100, plan=plan, round_seed=b"known to all of a round")
>>> bool(np.abs(mean - 0.1).max() < 0.05)
True
"""

import math
import os
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fl_integration.privacy.adaptive import AdaptiveClip, check_adaptive
from fl_integration.privacy.clipping import to_grid
from fl_integration.privacy.ledger import BudgetLedger
from fl_integration.privacy.noising import check_plan, check_total, noised
from fl_integration.privacy.plan import PrivacyPlan
from fl_integration.privacy.planning import Query, make_plan, most_l1
from fl_integration.privacy.rotation import FROM_CLIENTS, Rotation, back, block_of, padded, rotated
from fl_integration.privacy.rounding import most_squares, rounded, steps_for
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

__all__ = ["ClientLevel"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientLevel:
    """Differential privacy for each client (its update is there, or is zero).

    Args:
        epsilon, delta: the budget of all rounds; delta at most 1/clients.
        clip: C, the largest Euclidean norm of an update, in the model's units. Public, and chosen without
            looking at data.
        rounds: of the training.
        noise: the law.
        steps: grid steps of one clip, in [16, 2**30]; None: as many as keep what rounding adds below 1 % of
            norm, about 3.6·√length. Fewer save bits and cost noise.
        rotation: whether updates are rotated.
        adaptive: a clip that follows; `clip` is left out then.
        ledger: what charges each round before its vector leaves.

    Raises:
        ParameterError: a number outside its range.
    """

    epsilon: float
    delta: float
    rounds: int
    clip: float = 1.0
    noise: Noise = Noise.SKELLAM
    steps: int | None = None
    rotation: Rotation = Rotation.AUTO
    adaptive: AdaptiveClip | None = None
    ledger: BudgetLedger | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        epsilon, delta = check_epsilon_delta(self.epsilon, self.delta)
        for name, value in (
            ("epsilon", epsilon),
            ("delta", delta),
            ("rounds", check_count("rounds", self.rounds, most=1 << 24)),
            ("clip", check_positive("clip", self.clip)),
        ):
            object.__setattr__(self, name, value)
        if self.steps is not None:
            object.__setattr__(self, "steps", check_count("steps", self.steps, least=16, most=1 << 30))
        check_choice("noise", self.noise, Noise)
        check_choice("rotation", self.rotation, Rotation)
        check_adaptive(self.adaptive, self.clip)

    @property
    def first_clip(self) -> float:
        """The clip of the first round."""
        return self.adaptive.initial if self.adaptive else self.clip

    def plan(
        self,
        n: int,
        *,
        protocol: Parameters | None = None,
        length: int | None = None,
        roster: int | None = None,
    ) -> PrivacyPlan:
        """The noise for a cohort of n clients.

        Args:
            n: clients in each round.
            protocol: any but PlainSum; None: MaskedSum(max_clients=n).
            length: entries of an update; it is needed, since the grid follows from it.
            roster: the size of the roster that the cohort is chosen from; None: n.

        Raises:
            ParameterError: a number outside its range, or a plan that cannot be; says what to change.
            MissingExtraError: dp-accounting is not installed.
        """
        if length is None:
            raise ParameterError(
                "a plan for whole updates without their length; pass length=, the model's entries"
            )
        n, entries = check_count("n", n, most=1 << 20), check_count("length", length, most=1 << 32)
        if self.delta > 1 / n:
            raise ParameterError(
                f"delta is {self.delta:g}, above 1/{n}: with such a chance one client's update may be shown "
                "whole; lower delta, by a factor of 10 at best"
            )
        turned = self._rotates(n)
        width = padded(entries) if turned else entries
        steps = self.steps or steps_for(width)
        most, half = most_squares(steps, width), self._half(steps)
        if width * most >= 1 << 62:
            raise ParameterError(
                f"{width:,} entries of up to {steps:,} steps: their squares do not fit 63 bits; lower steps"
            )
        values = width + bool(self.adaptive)
        query = Query(
            unit=Unit.CLIENT,
            epsilon=self.epsilon,
            delta=self.delta,
            noise=self.noise,
            rounds=self.rounds,
            sampling_rate=1.0,
            entries=entries,
            length=values,
            l2=math.sqrt(most + half**2),
            l1=most_l1(most + half**2, values),
            reach=max(math.isqrt(most), half),
            # A rotated update has its norm in its block, over which it is spread like noise.
            total_reach=n * half if turned else n * math.isqrt(most),
            total_spread=n * math.sqrt(most / block_of(entries)) if turned else 0.0,
            clip=self.first_clip,
            steps=steps,
        )
        return make_plan(query, n, protocol=protocol, roster=roster)

    def summand(
        self,
        update: ArrayLike,
        *,
        plan: PrivacyPlan,
        entropy: Entropy = os.urandom,
        round_seed: bytes = b"",
        clip: float | None = None,
    ) -> NDArray[np.int64]:
        """The clipped update in whole steps, without noise: int64[plan.length].

        Args:
            update: float32 or float64[d]; one that is not finite counts as zero.
            plan: of this unit, for d entries.
            entropy: secret; rounds up or down.
            round_seed: public and the same for all clients of a round, at least 16 bytes, such as the round's
                digest; only a rotation needs it.
            clip: that of the round, if it follows; None: that of the first.

        Raises:
            ParameterError: shapes, types or a seed that do not fit; nothing is said of values.
        """
        self._check(plan)
        given = np.asarray(update)
        if given.ndim != 1 or given.dtype not in (np.float32, np.float64):
            raise ParameterError(
                f"an update is {given.dtype} of {given.ndim} dimensions; it must be float32 or float64[d]"
            )
        if len(given) != plan.entries:
            raise ParameterError(f"an update of {len(given)} entries; the plan is for {plan.entries}")
        clip = self.first_clip if clip is None else check_positive("clip", clip)
        steps = plan.steps
        row = given.astype(np.float64)[None, :]
        finite, whole = to_grid(row, clip=clip, steps=steps)
        vector = rotated(row[0], seed=round_seed) if self._rotates(plan.clients) else row[0]
        cut = rounded(vector, steps=steps, most=most_squares(steps, len(vector)), entropy=entropy)
        if not self.adaptive:
            return cut
        half = self._half(steps) * int(finite[0])
        return np.append(cut, np.int64(half if whole[0] else -half))

    def noised(
        self, summand: NDArray[np.int64], *, plan: PrivacyPlan, entropy: Entropy = os.urandom
    ) -> NDArray[np.int64]:
        """The summand with this client's share of the noise: int64 of the same length, ready to be summed.

        Call it once for each vector that leaves: who saw one summand under two draws of noise could average
        them.

        Args:
            summand: as `summand` makes it.
            plan: of this unit.
            entropy: secret and fresh.
        """
        return noised(summand, plan=plan, entropy=entropy)

    def mean(
        self,
        total: NDArray[np.int64],
        *,
        contributors: int,
        plan: PrivacyPlan,
        round_seed: bytes = b"",
        clip: float | None = None,
    ) -> NDArray[np.float64]:
        """The mean update that was opened: float64[d], the total over steps/clip and the contributors.

        Args:
            total: the opened sum, `IntegerSum.total`.
            contributors: how many are in it, which is public.
            plan, round_seed, clip: as for `summand`.
        """
        clip = self.first_clip if clip is None else check_positive("clip", clip)
        self._check(plan)
        contributors = check_count("contributors", contributors)
        vector = check_total(total, plan=plan)[: plan.length - bool(self.adaptive)].astype(np.float64)
        vector *= clip / (plan.steps * contributors)
        return back(vector, seed=round_seed, length=plan.entries) if self._rotates(plan.clients) else vector

    def fraction(self, total: NDArray[np.int64], *, contributors: int, plan: PrivacyPlan) -> float:
        """The noised part of the updates that the clip left whole, for `AdaptiveClip.next`."""
        if not self.adaptive:
            raise ParameterError("this unit has no adaptive clip, so nothing was counted")
        self._check(plan)
        counted = int(check_total(total, plan=plan)[-1])
        return 0.5 + counted / (2 * self._half(plan.steps) * check_count("contributors", contributors))

    def _check(self, plan: PrivacyPlan) -> None:
        if not isinstance(plan, PrivacyPlan):
            raise ParameterError("plan is what `plan(n, …)` of this unit made")
        squares = most_squares(plan.steps, plan.length - bool(self.adaptive)) + self._half(plan.steps) ** 2
        check_plan(plan, unit=Unit.CLIENT, l2=math.sqrt(squares), rounds=self.rounds, rate=1.0)

    def _half(self, steps: int) -> int:
        return self.adaptive.half(steps) if self.adaptive else 0

    def _rotates(self, n: int) -> bool:
        return self.rotation is Rotation.ON or (self.rotation is Rotation.AUTO and plain(n) >= FROM_CLIENTS)
