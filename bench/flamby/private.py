"""FLamby's patients under differential privacy: DP-SGD whose noise is drawn inside a secure sum.

A round is one step over all training patients: each patient's gradient is clipped to norm 1, each hospital
adds its patients' gradients and its share of the noise, and the sum over the hospitals, divided by the public
number of patients, moves the 14 weights. 60 rounds, δ = 1e-4, a rate of 2.0, chosen before anything was
looked at.

The same ε can come about in four ways, which are the columns of the table:

* `Arm.ALL`: in the sum, drawn in four shares. The plan promises that all four hospitals are in every sum and
  that none of them pools what it knows with the server: h = 4 shares are always there.
* `Arm.DEFAULT`: in the sum, under the default requirements. All four must stay and one may collude: h = 3, so
  every share is larger, and the sum has √(4/3) times the noise.
* `Arm.LOSS`: in the sum, where one may be lost besides (a server that lies is answered by a signed survivor
  set): h = 2, √2 times the noise.
* `Arm.ALONE`: each hospital for itself, as where there is no secure sum: each adds the whole noise, and the
  sum has four times its variance.

All runs of an arm are trained side by side; their randomness is drawn from seeds, so that the figures repeat.
A deployment never seeds it. The inputs' scale is taken for public, as FLamby's own rows take it: strictly, a
site's mean and deviation are queries too, which this ε does not count.
"""

import math
from dataclasses import dataclass
from enum import Enum
from functools import cache
from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt

from bench.flamby.patients import INPUTS, NAMES, Cohort, load_cohort
from fl_integration.privacy.patient import PatientLevel
from fl_integration.privacy.plan import PrivacyPlan
from protocols import Adversary, MaskedSum, Requirements, Session
from secagg.entropy import Entropy, SeededEntropy
from secagg.noise import Skellam

__all__ = [
    "CLIP",
    "DELTA",
    "RATE",
    "ROUNDS",
    "RUNS",
    "Arm",
    "Floats",
    "Trained",
    "accuracies",
    "gradients_of",
    "plan_of",
    "train",
]

Floats: TypeAlias = npt.NDArray[np.float64]
Integers: TypeAlias = npt.NDArray[np.int64]

ROUNDS: Final = 60
DELTA: Final = 1e-4
CLIP: Final = 1.0
RATE: Final = 2.0
RUNS: Final = 25
"""Of an arm; each has noise of its own, and all else is equal."""


class Arm(Enum):
    """Where the noise comes from; see above."""

    ALL = "in the sum, h = 4"
    DEFAULT = "in the sum, h = 3 (defaults)"
    LOSS = "in the sum, h = 2"
    ALONE = "each hospital for itself"


_REQUIREMENTS: Final = {
    Arm.ALL: Requirements(corrupt_fraction=0.0, dropout_fraction=0.0, min_contributors=len(NAMES)),
    Arm.DEFAULT: Requirements(),
    Arm.LOSS: Requirements(adversary=Adversary.MALICIOUS),
}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Trained:
    """What came out of an arm.

    Attributes:
        accuracy: float64[runs], FLamby's figure: the mean over its four clients' accuracies on their own test
            patients, in [0, 1].
        weights: float64[runs, 14].
        deviation: of the noise in a coordinate of the sum, in units of the clip; 0 without noise.
        checked: rounds whose sum the real machines made too, and made alike.
    """

    accuracy: Floats
    weights: Floats
    deviation: float
    checked: int = 0


def patient_level(epsilon: float) -> PatientLevel:
    """The privacy of a run."""
    return PatientLevel(
        epsilon=epsilon,
        delta=DELTA,
        clip=CLIP,
        rounds=ROUNDS,
        denominator=sum(len(site.train) for site in load_cohort().sites),
    )


@cache
def plan_of(epsilon: float, arm: Arm) -> PrivacyPlan:
    """The plan of an arm; that of `Arm.ALONE` is the one of the sum, whose whole noise each hospital adds."""
    requirements = _REQUIREMENTS.get(arm, _REQUIREMENTS[Arm.ALL])
    protocol = MaskedSum(max_clients=len(NAMES), requirements=requirements)
    return patient_level(epsilon).plan(len(NAMES), protocol=protocol, length=INPUTS + 1)


def train(
    arm: Arm,
    epsilon: float,
    *,
    runs: int = RUNS,
    seed: int = 0,
    check: bool = False,
    plan: PrivacyPlan | None = None,
) -> Trained:
    """Trains `runs` models with noise of their own.

    Args:
        arm: where the noise comes from.
        epsilon: above 0; infinite for gradients that are clipped and summed without noise.
        runs: at least 1.
        seed: of the noise.
        check: the first run's sums go through the machines of MaskedSum as well, and must be the plain ones.
        plan: with the noise of a client; None: that of the arm.
    """
    noisy = math.isfinite(epsilon)
    privacy, plan = patient_level(epsilon if noisy else 1.0), plan or plan_of(epsilon if noisy else 1.0, arm)
    machines = Session(plan.exact, NAMES, seed=seed) if check else None
    streams = [[stream(arm, name, epsilon, run=run, seed=seed) for run in range(runs)] for name in NAMES]
    sites = load_cohort().sites
    weights, checked = np.zeros((runs, INPUTS + 1)), 0
    for _ in range(ROUNDS):
        vectors = []
        for site, of_runs in zip(sites, streams, strict=True):
            summands = [
                privacy.summand(gradients_of(each, site.train.x, site.train.y), plan=plan) for each in weights
            ]
            if noisy:
                summands = [
                    _vector(privacy, plan, summand, arm, entropy)
                    for summand, entropy in zip(summands, of_runs, strict=True)
                ]
            vectors.append(np.stack(summands))
        totals = np.sum(vectors, axis=0)
        if machines is not None:
            made = machines.round({name: each[0] for name, each in zip(NAMES, vectors, strict=True)})
            if made.sum is None or not np.array_equal(made.sum.total, totals[0]):
                raise AssertionError("the machines' sum is not the plain one")
            checked += 1
        weights -= RATE * np.stack([privacy.mean(total, plan=plan) for total in totals])
    return Trained(
        accuracy=accuracies(weights, load_cohort()),
        weights=weights,
        deviation=deviation_of(plan, arm) if noisy else 0.0,
        checked=checked,
    )


def accuracies(weights: Floats, cohort: Cohort) -> Floats:
    """float64[runs]: the mean over the sites of the accuracy on each one's own test patients."""
    of_sites = [
        ((site.test.x @ weights.T > 0) == (site.test.y == 1)[:, None]).mean(axis=0) for site in cohort.sites
    ]
    return np.asarray(np.mean(of_sites, axis=0), np.float64)


def stream(arm: Arm, name: str, epsilon: float, *, run: int, seed: int) -> SeededEntropy:
    """What the noise of one hospital in one run is drawn from."""
    return SeededEntropy(seed.to_bytes(16, "big"), f"{arm.name} {epsilon} {name} {run}".encode())


def _vector(
    privacy: PatientLevel, plan: PrivacyPlan, summand: Integers, arm: Arm, entropy: Entropy
) -> Integers:
    """What a hospital adds to the sum."""
    if arm is not Arm.ALONE:
        return privacy.noised(summand, plan=plan, entropy=entropy)
    return summand + _whole(plan).sample(len(summand), entropy=entropy)


def _whole(plan: PrivacyPlan) -> Skellam:
    """The noise that a hospital needs which relies on nobody: all of what one trusted party would add."""
    return Skellam(variance=plan.sigma_trusted**2)


def deviation_of(plan: PrivacyPlan, arm: Arm) -> float:
    """Of the noise in one coordinate of a sum of all four hospitals, in units of the clip."""
    total = plan.sigma_trusted * math.sqrt(len(NAMES)) if arm is Arm.ALONE else plan.sigma_total
    return total / plan.steps


def gradients_of(weights: Floats, x: Floats, y: Floats) -> Floats:
    """float64[patients, 14], of the cross-entropy."""
    probability = 1.0 / (1.0 + np.exp(-(x @ weights)))
    return np.asarray((probability - y)[:, None] * x, np.float64)
