"""A guarantee for each patient: her gradient is clipped, and noise hides it in the sum of all hospitals.

One round is one step of DP-SGD (Abadi+ CCS'16) whose noise no single party adds. Each hospital draws its own
patients, each with the same secret chance, clips the gradient of each to `clip` in Euclidean norm, cuts it to
whole steps *toward zero* and adds up. Cut so, no vector grows: its squares add up to at most steps², which is
checked in exact integers, whatever float64 did before. The sum of all hospitals carries the noise of one
trusted party and is divided by a *public* denominator. How many patients were drawn stays secret.

What the guarantee rests on is the summand alone: whatever gradients come, not finite ones included, one
patient moves it by at most `steps`. It does not cover what a site opens besides (its metrics, its weight,
its number of patients), nor a denominator that follows from secret numbers.

>>> import numpy as np
>>> unit = PatientLevel(epsilon=1.0, delta=1e-4, rounds=60, denominator=740, steps=1024)
>>> plan = unit.plan(3, length=2)
>>> unit.summand(np.array([[3.0, 4.0], [0.0, -0.5], [np.nan, 0.0]]), plan=plan).tolist()
[614, 307]
"""

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fl_integration.privacy.accountant import check_rate
from fl_integration.privacy.adaptive import AdaptiveClip, check_adaptive
from fl_integration.privacy.clipping import cut_to, to_grid
from fl_integration.privacy.ledger import BudgetLedger
from fl_integration.privacy.noising import check_plan, check_total, noised
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
from secagg.entropy import Entropy, draw
from secagg.errors import ParameterError

__all__ = ["PatientLevel"]

_CHUNK: Final = 1 << 17
"""Numbers that are worked on at once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PatientLevel:
    """Differential privacy for each patient (add or remove one; to replace one costs that of two).

    Args:
        epsilon, delta: the budget of all rounds; delta at most 1/denominator.
        clip: C, the largest Euclidean norm of one patient's gradient, in the model's units. Public, and
            chosen without looking at data.
        sampling_rate: q in (0, 1], the chance of each patient to be drawn for a round, the same at all sites.
        rounds: steps of the training.
        denominator: a public number of patients of all sites; the sum is divided by
            sampling_rate·denominator.
        steps: grid steps of one clip, in [16, 2**20]. Cutting biases each entry by half a step toward zero.
        noise: the law.
        patients: for each site the ids of its rows' patients, integers or texts, in the order of its rows;
            None: one row is one patient.
        max_patients: the most patients of one site; only protocols other than MaskedSum need it, where a
            site's summand is held to max_patients·steps, which loses accuracy if it has more, and no
            privacy. None: the denominator.
        adaptive: a clip that follows; `clip` is left out then.
        ledger: what charges each round before its vector leaves.

    Raises:
        ParameterError: a number outside its range.
    """

    epsilon: float
    delta: float
    rounds: int
    denominator: int
    clip: float = 1.0
    sampling_rate: float = 1.0
    steps: int = 1024
    noise: Noise = Noise.SKELLAM
    patients: Mapping[str, ArrayLike] | None = field(default=None, compare=False)
    max_patients: int | None = None
    adaptive: AdaptiveClip | None = None
    ledger: BudgetLedger | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        epsilon, delta = check_epsilon_delta(self.epsilon, self.delta)
        for name, value in (
            ("epsilon", epsilon),
            ("delta", delta),
            ("rounds", check_count("rounds", self.rounds, most=1 << 24)),
            ("denominator", check_count("denominator", self.denominator)),
            ("clip", check_positive("clip", self.clip)),
            ("sampling_rate", check_rate(self.sampling_rate)),
            ("steps", check_count("steps", self.steps, least=16, most=1 << 20)),
        ):
            object.__setattr__(self, name, value)
        if self.max_patients is not None:
            object.__setattr__(self, "max_patients", check_count("max_patients", self.max_patients))
        check_choice("noise", self.noise, Noise)
        if self.patients is not None and not isinstance(self.patients, Mapping):
            raise ParameterError("patients maps each site to the ids of its rows' patients, or is None")
        if self.delta > 1 / self.denominator:
            raise ParameterError(
                f"delta is {self.delta:g}, above 1/denominator = {1 / self.denominator:.3g}: with such a "
                "chance one patient's record may be shown whole; lower delta, by a factor of 10 at best"
            )
        check_adaptive(self.adaptive, self.clip)

    @property
    def first_clip(self) -> float:
        """The clip of the first round."""
        return self.adaptive.initial if self.adaptive else self.clip

    @property
    def _half(self) -> int:
        return self.adaptive.half(self.steps) if self.adaptive else 0

    @property
    def _squares(self) -> int:
        """The most that the squares of one patient's entries add up to, the count's with them."""
        return self.steps**2 + self._half**2

    def _check(self, plan: PrivacyPlan) -> None:
        l2 = math.sqrt(self._squares)
        check_plan(plan, unit=Unit.PATIENT, l2=l2, rounds=self.rounds, rate=self.sampling_rate)

    def _check_squares(self, entries: int) -> None:
        if entries * self.steps**2 >= 1 << 62:
            raise ParameterError(
                f"{entries:,} entries of up to {self.steps:,} steps: their squares do not fit 63 bits; lower "
                "steps"
            )

    def plan(
        self,
        n: int,
        *,
        protocol: Parameters | None = None,
        length: int | None = None,
        roster: int | None = None,
    ) -> PrivacyPlan:
        """The noise for a cohort of n sites.

        Args:
            n: sites in each round.
            protocol: any but PlainSum; None: MaskedSum(max_clients=n).
            length: entries of a gradient; None where it is not known yet, which costs a little of delta, and
                of epsilon where steps are few.
            roster: the size of the roster that the cohort is chosen from; None: n.

        Raises:
            ParameterError: a number outside its range, or a plan that cannot be; says what to change.
            MissingExtraError: dp-accounting is not installed.
        """
        entries = 0 if length is None else check_count("length", length, most=1 << 32)
        self._check_squares(entries)
        values = entries + bool(self.adaptive) if entries else 0
        # Ten standard deviations above the mean of how many are drawn: the ring need not hold more.
        drawn = self.sampling_rate * self.denominator
        drawn = min(self.denominator, math.ceil(drawn + 10 * math.sqrt(drawn) + 10))
        query = Query(
            unit=Unit.PATIENT,
            epsilon=self.epsilon,
            delta=self.delta,
            noise=self.noise,
            rounds=self.rounds,
            sampling_rate=self.sampling_rate,
            entries=entries,
            length=values,
            l2=math.sqrt(self._squares),
            l1=most_l1(self._squares, values),
            reach=(self.max_patients or self.denominator) * self.steps,
            total_reach=drawn * self.steps,
            clip=self.first_clip,
            steps=self.steps,
        )
        return make_plan(query, n, protocol=protocol, roster=roster)

    def sample(
        self, count: int, *, entropy: Entropy = os.urandom, patients: ArrayLike | None = None
    ) -> NDArray[np.bool_]:
        """Which rows take part in a round: bool[count].

        Each patient is drawn alone, with probability ⌊sampling_rate·2**64⌋/2**64, which is never above the
        rate that is accounted for. Draw from fresh entropy in each round, never from a seed that others
        know: the guarantee needs that nobody can tell who was drawn. Time and memory depend on the counts
        alone.

        Args:
            count: rows of the site.
            entropy: secret.
            patients: ids of the rows' patients, ids[count]; the rows of one are drawn together. None: one
                row is one patient.
        """
        count = check_count("count", count, least=0)
        if patients is not None:
            of_row = _group(patients, count)
            return self.sample(int(of_row.max(initial=-1)) + 1, entropy=entropy)[of_row]
        if self.sampling_rate == 1:
            return np.ones(count, dtype=np.bool_)
        words = np.frombuffer(draw(entropy, 8 * count), dtype="<u8")
        return words < np.uint64(math.floor(self.sampling_rate * 2**64))

    def summand(
        self,
        gradients: ArrayLike,
        *,
        plan: PrivacyPlan,
        patients: ArrayLike | None = None,
        sampled: ArrayLike | None = None,
        clip: float | None = None,
    ) -> NDArray[np.int64]:
        """The sum of clipped gradients in whole steps: int64[d], or int64[d + 1] with an adaptive clip.

        Summands of batches add up to that of all rows, if all rows of one patient stand in one batch. Pass
        the rows of all patients and `sampled`, and the time does not tell who was drawn.

        Args:
            gradients: float32 or float64[rows, d], the gradient of the loss of each row. A row that is not
                finite counts as if it was not there.
            plan: of this unit.
            patients: ids of the rows' patients, ids[rows]; gradients of one patient are added up before they
                are clipped. None: one row is one patient.
            sampled: bool[rows], who takes part; None: all. A patient takes part if all of her rows do.
            clip: that of the round, if it follows; None: that of the first.

        Raises:
            ParameterError: shapes or types that do not fit; nothing is said of values.
        """
        self._check(plan)
        rows = _as_rows(gradients, plan.entries)
        self._check_squares(rows.shape[1])
        taken = _as_mask(sampled, len(rows))
        clip = self.first_clip if clip is None else check_positive("clip", clip)
        if patients is not None:
            rows, taken = _of_patients(rows, taken, _group(patients, len(rows)))
        length = rows.shape[1]
        total = np.zeros(length + bool(self.adaptive), dtype=np.int64)
        most = max(1, _CHUNK // max(length, 1))
        for start in range(0, len(rows), most):
            part = rows[start : start + most].astype(np.float64)
            present, whole = to_grid(part, clip=clip, steps=self.steps)
            keep = present & taken[start : start + most]
            cut = cut_to(part, steps=self.steps)
            total[:length] += np.einsum("ij,i->j", cut, keep.astype(np.int64))
            if self.adaptive:
                total[length] += self._half * int(np.where(whole, 1, -1) @ keep.astype(np.int64))
        return total

    def noised(
        self, summand: NDArray[np.int64], *, plan: PrivacyPlan, entropy: Entropy = os.urandom
    ) -> NDArray[np.int64]:
        """The summand with this site's share of the noise: int64 of the same length, ready to be summed.

        An empty summand (zeros) gets its noise as any other. Call it once for each vector that leaves: who
        saw one summand under two draws of noise could average them.

        Args:
            summand: of all batches.
            plan: of this unit.
            entropy: secret and fresh.
        """
        return noised(summand, plan=plan, entropy=entropy)

    def mean(
        self, total: NDArray[np.int64], *, plan: PrivacyPlan, clip: float | None = None
    ) -> NDArray[np.float64]:
        """The mean gradient that was opened: float64[d], the total over steps/clip·sampling_rate·denominator.

        Args:
            total: the opened sum, `IntegerSum.total`.
            plan: of this unit.
            clip: that of the round, if it follows.
        """
        self._check(plan)
        clip = self.first_clip if clip is None else check_positive("clip", clip)
        vector = check_total(total, plan=plan)[: len(total) - bool(self.adaptive)].astype(np.float64)
        vector *= clip / (self.steps * self.sampling_rate * self.denominator)
        return vector

    def fraction(self, total: NDArray[np.int64], *, plan: PrivacyPlan) -> float:
        """The noised part of the patients whose gradients the clip left whole, for `AdaptiveClip.next`."""
        if not self.adaptive:
            raise ParameterError("this unit has no adaptive clip, so nothing was counted")
        self._check(plan)
        return 0.5 + int(check_total(total, plan=plan)[-1]) / (
            2 * self._half * self.sampling_rate * self.denominator
        )


def _as_rows(gradients: ArrayLike, length: int) -> NDArray[Any]:
    rows = np.asarray(gradients)
    if rows.ndim != 2 or rows.dtype not in (np.float32, np.float64):
        raise ParameterError(
            f"gradients are {rows.dtype} of {rows.ndim} dimensions; they must be float32 or "
            "float64[patients, d]"
        )
    if length and rows.shape[1] != length:
        raise ParameterError(f"gradients of {rows.shape[1]} entries; the plan is for {length}")
    return rows


def _as_mask(sampled: ArrayLike | None, rows: int) -> NDArray[np.bool_]:
    if sampled is None:
        return np.ones(rows, dtype=np.bool_)
    mask = np.asarray(sampled)
    if mask.dtype != np.bool_ or mask.shape != (rows,):
        raise ParameterError(f"sampled is {mask.dtype} of shape {mask.shape}; it must be bool[{rows}]")
    return mask


def _group(patients: ArrayLike, rows: int) -> NDArray[np.int64]:
    """For each row the number of its patient, from 0 on."""
    ids = np.asarray(patients)
    if ids.shape != (rows,) or ids.dtype.kind not in "iuUSO":
        raise ParameterError(
            f"patients are {ids.dtype} of shape {ids.shape}; they must be integers or texts, one for each "
            f"of {rows} rows"
        )
    return np.unique(ids, return_inverse=True)[1].astype(np.int64)


def _of_patients(
    rows: NDArray[Any], taken: NDArray[np.bool_], of_row: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """One row for each patient: the sum of her rows that are finite."""
    order = np.argsort(of_row, kind="stable")
    starts = np.flatnonzero(np.diff(of_row[order], prepend=-1))
    sorted_rows = rows[order].astype(np.float64)
    sorted_rows[~np.isfinite(sorted_rows).all(axis=1)] = 0.0
    if not len(starts):
        return sorted_rows, taken
    with np.errstate(over="ignore", invalid="ignore"):  # a sum that is not finite counts as none later
        return np.add.reduceat(sorted_rows, starts, axis=0), np.logical_and.reduceat(taken[order], starts)
