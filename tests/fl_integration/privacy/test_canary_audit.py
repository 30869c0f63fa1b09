"""An audit of patient-level privacy: how well can anybody tell whether a canary took part?

Four hospitals sum one value; in one of them there is a patient made for it, whose gradient is as long as the
clip allows and points where nobody else's does, or there is not. All 10^4 releases of such a sum go through
the real summand and noise, and through the real machines, whose ring wraps. The sure lower bound on ε that
follows from how often a release lies beyond a threshold (Clopper and Pearson's limits at 99 %, as in
Jagielski et al., NeurIPS'20) must stay below the ε that the plan promises. Copies that are weakened, a third
of the noise, no clip, a share that is drawn for more honest contributors than there are, are caught by the
same bound.
"""

import math
from dataclasses import replace

import numpy as np
import pytest

from fl_integration.privacy.patient import PatientLevel
from fl_integration.privacy.plan import PrivacyPlan
from protocols import MaskedSum, Requirements, Session
from secagg.entropy import SeededEntropy
from secagg.noise import Skellam

pytest.importorskip("dp_accounting")
beta = pytest.importorskip("scipy.stats").beta

NAMES = ("basel", "bern", "graz", "wien")
RUNS = 10_000
CONFIDENCE = 0.99
UNIT = PatientLevel(epsilon=1.0, delta=1e-3, rounds=1, denominator=100, steps=256)
ALL_FOUR = MaskedSum(
    max_clients=4, requirements=Requirements(corrupt_fraction=0, dropout_fraction=0, min_contributors=4)
)
PLAN = UNIT.plan(4, protocol=ALL_FOUR)
"""Of any length: here a vector's entries are runs, each with noise of its own."""


def summands(*, canary: float) -> list[np.ndarray]:
    """int64[1] of each hospital; a canary of this gradient is in the first, and none where it is 0."""
    rng = np.random.default_rng(3)
    gradients = [rng.normal(0, 0.05, (5, 1)) for _ in NAMES]
    if canary:
        gradients[0] = np.concatenate([gradients[0], [[canary]]])
    return [UNIT.summand(each, plan=PLAN) for each in gradients]


def released(
    parts: list[np.ndarray], *, plan: PrivacyPlan, seed: bytes, lost: int = 0, machines: bool = False
) -> np.ndarray:
    """int64[RUNS]: releases of one sum, without the noise of the last `lost`, which the attacker knows."""
    vectors = {}
    for place, (name, part) in enumerate(zip(NAMES, parts, strict=True)):
        repeated = np.repeat(part, RUNS)
        entropy = SeededEntropy(seed, name.encode())
        known = place >= len(NAMES) - lost
        vectors[name] = repeated if known else UNIT.noised(repeated, plan=plan, entropy=entropy)
    if not machines:
        return np.sum(list(vectors.values()), axis=0)
    made = Session(plan.exact, NAMES, seed=1).round(vectors)
    assert made.sum is not None
    return np.asarray(made.sum.total)


def lower_bound(without: np.ndarray, with_canary: np.ndarray, *, delta: float) -> float:
    """A lower bound on ε, sure to `CONFIDENCE`; the threshold is chosen on the first tenth of the runs."""
    tenth = RUNS // 10
    centre, spread = without[:tenth].mean(), without[:tenth].std()
    best, threshold = -math.inf, centre
    for each in centre + spread * np.arange(0.5, 3.25, 0.25):
        out, there = (without[:tenth] > each).sum(), (with_canary[:tenth] > each).sum()
        found = bound_of(out, there, runs=tenth, delta=delta)
        best, threshold = (found, each) if found > best else (best, threshold)
    out, there = (without[tenth:] > threshold).sum(), (with_canary[tenth:] > threshold).sum()
    return bound_of(out, there, runs=RUNS - tenth, delta=delta)


def bound_of(out: int, there: int, *, runs: int, delta: float) -> float:
    """ε is at least ln((P[beyond | in] - δ) / P[beyond | out]); each chance at its own sure end."""
    level = (1 - CONFIDENCE) / 2
    least = beta.ppf(level, there, runs - there + 1) if there else 0.0
    most = beta.ppf(1 - level, out + 1, runs - out) if out < runs else 1.0
    return math.log((least - delta) / most) if least > delta else -math.inf


def audit(plan: PrivacyPlan = PLAN, *, canary: float = 5.0, lost: int = 0, machines: bool = False) -> float:
    out, there = (
        released(summands(canary=each), plan=plan, seed=bytes([place]) * 16, lost=lost, machines=machines)
        for place, each in enumerate((0.0, canary))
    )
    return lower_bound(out, there, delta=plan.delta)


def thinner(plan: PrivacyPlan, factor: float) -> PrivacyPlan:
    """The plan with so many times less noise than it says."""
    return replace(plan, noise=Skellam(variance=plan.noise.variance / factor**2))


def test_bound_of_what_is_known():
    """Randomised response with a chance of e/(1+e) has an ε of 1: the bound comes near it from below."""
    runs = 10**6
    chance = math.e / (1 + math.e)
    found = bound_of(round((1 - chance) * runs), round(chance * runs), runs=runs, delta=0.0)
    assert 0.98 < found < 1
    assert bound_of(0, 0, runs=100, delta=0.0) == -math.inf
    assert bound_of(100, 100, runs=100, delta=0.0) <= 0


@pytest.mark.parametrize("machines", [False, True])
def test_canary_stays_below_the_claim(machines):
    found = audit(machines=machines)
    assert 0.1 < found < PLAN.epsilon <= 1


@pytest.mark.parametrize("canary", [1.0, -1.0, 1e30, 1e300, math.nan, -math.inf])
def test_a_giant_is_no_more_than_the_clip(canary):
    moved = summands(canary=canary)[0] - summands(canary=0.0)[0]
    assert abs(int(moved[0])) in ((UNIT.steps - 1, UNIT.steps) if math.isfinite(canary) else (0,))


def test_a_third_of_the_noise_is_caught():
    assert audit(thinner(PLAN, 3)) > PLAN.epsilon


def test_a_gradient_without_clip_is_caught(monkeypatch):
    def unclipped(self, gradients, *, plan):
        return np.trunc(np.asarray(gradients) * self.steps).astype(np.int64).sum(axis=0)

    monkeypatch.setattr(PatientLevel, "summand", unclipped)
    assert audit(canary=5.0) > PLAN.epsilon


def test_colluders_are_in_the_arithmetic_where_the_plan_has_them():
    """Two of four tell their noise. A plan for h = 2 bears that, one that counts on all four does not."""
    loose = UNIT.plan(
        4,
        protocol=MaskedSum(
            max_clients=4,
            requirements=Requirements(corrupt_fraction=0.5, dropout_fraction=0, min_contributors=4),
        ),
    )
    assert loose.sure_honest == 2
    assert audit(loose, lost=2) < loose.epsilon
    with_two, with_four = audit(loose, lost=2), audit(lost=2)
    assert with_four > with_two


@pytest.mark.slow
def test_clipping_is_what_a_claim_of_a_tenth_rests_on():
    """At ε = 0.1 a tenth of the noise is caught as surely; the audit has power where the claim is strict."""
    strict = replace(UNIT, epsilon=0.1)
    plan = strict.plan(4, protocol=ALL_FOUR)
    assert audit(plan) < plan.epsilon
    assert audit(thinner(plan, 10)) > plan.epsilon
