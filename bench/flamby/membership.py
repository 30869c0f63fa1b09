"""Who was trained on? The loss tells, unless there is noise (Yeom et al., CSF'18).

The attack: a patient whose loss under the trained model is small was likelier trained on. Its AUC is the
chance that a training patient has a smaller loss than one who was not; 0.5 is guessing. It is asked of two
models:

* FLamby's, of 14 weights and 486 patients, which has hardly room to remember anybody;
* one that has: the products of all pairs of inputs (105 weights), learnt from 80 patients by chance, by the
  same 60 steps; those who were not chosen are the others.

An attack that finds little proves little: stronger ones exist, which train models of their own. What no
attack can pass is what ε says; a test of a canary (`tests/fl_integration/privacy/`) holds noise and clip to
that.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

import numpy as np
from rich.table import Table
from sklearn.metrics import roc_auc_score

from bench.flamby.epsilon import EPSILONS, Row, said
from bench.flamby.patients import NAMES, load_cohort
from bench.flamby.private import CLIP, DELTA, RATE, ROUNDS, Floats, gradients_of
from fl_integration.privacy.patient import PatientLevel
from secagg.entropy import SeededEntropy

__all__ = ["HEADERS", "attacked", "lines_of", "measure", "overfitted", "table_of"]

HEADERS: Final = (
    "ε",
    "FLamby's model: 486 patients, 14 weights",
    "one that remembers: 80 patients, 105 weights",
)

MEMBERS: Final = 80
_REPEATS: Final = 20
_REACH: Final = 3.0
_SIZE: Final = 4.0
"""Root of the mean square length of a row of products."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Attacked:
    """AUC of the attack at one ε, one a model."""

    epsilon: float
    plain: tuple[float, ...]
    remembering: tuple[float, ...]


def measure(rows: Iterable[Row], *, repeats: int = _REPEATS) -> list[Attacked]:
    """Attacks the models of `epsilon.measure`, and as many that overfit."""
    return [
        Attacked(
            epsilon=row.epsilon,
            plain=tuple(_of_flamby(weights) for weights in row.first.weights),
            remembering=tuple(overfitted(row.epsilon, seed=seed) for seed in range(repeats)),
        )
        for row in rows
    ]


def overfitted(epsilon: float, *, seed: int) -> float:
    """AUC of the attack on a model of 80 patients.

    Args:
        epsilon: one of `EPSILONS`, or another; infinite for no noise.
        seed: of who is trained on, and of the noise.
    """
    x, y = _products()
    order = np.random.default_rng(seed).permutation(len(y))
    members, others = order[:MEMBERS], order[MEMBERS:]
    privacy = PatientLevel(
        epsilon=epsilon if math.isfinite(epsilon) else EPSILONS[1],
        delta=DELTA,
        clip=CLIP,
        rounds=ROUNDS,
        denominator=MEMBERS,
    )
    plan = privacy.plan(len(NAMES), length=x.shape[1])
    entropy = SeededEntropy(seed.to_bytes(16, "big"), f"membership {epsilon}".encode())
    weights = np.zeros(x.shape[1])
    for _ in range(ROUNDS):
        total = np.zeros(x.shape[1], dtype=np.int64)
        for of_site in np.array_split(members, len(NAMES)):
            vector = privacy.summand(gradients_of(weights, x[of_site], y[of_site]), plan=plan)
            total += privacy.noised(vector, plan=plan, entropy=entropy) if math.isfinite(epsilon) else vector
        weights -= RATE * privacy.mean(total, plan=plan)
    return attacked(_losses(weights, x[members], y[members]), _losses(weights, x[others], y[others]))


def attacked(members: Floats, others: Floats) -> float:
    """The chance that one who was trained on has the smaller loss, ties counted half."""
    labels = np.concatenate([np.ones(len(members)), np.zeros(len(others))])
    return float(roc_auc_score(labels, -np.concatenate([members, others])))


def lines_of(found: Iterable[Attacked]) -> list[tuple[str, ...]]:
    """A line for each ε; the columns are `HEADERS`."""
    return [(said(each.epsilon), _spread(each.plain), _spread(each.remembering)) for each in found]


def table_of(lines: Iterable[tuple[str, ...]]) -> Table:
    """The lines for a terminal."""
    table = Table(title="Membership inference by the loss: AUC, mean ± standard deviation; 0.5 is guessing")
    for number, header in enumerate(HEADERS):
        table.add_column(header, justify="right" if number else "left")
    for line in lines:
        table.add_row(*line)
    return table


def _of_flamby(weights: Floats) -> float:
    """Training patients against test patients, each on their site's scale."""
    sites = load_cohort().sites
    members, others = (
        np.concatenate([_losses(weights, part.x, part.y) for part in parts])
        for parts in ([site.train for site in sites], [site.test for site in sites])
    )
    return attacked(members, others)


def _products() -> tuple[Floats, Floats]:
    """float64[486, 105], products of all pairs of the 13 inputs and the 1; and the diagnoses."""
    sites = load_cohort().sites
    x = np.clip(np.concatenate([site.train.x for site in sites]), -_REACH, _REACH)
    first, second = np.triu_indices(x.shape[1])
    products = x[:, first] * x[:, second]
    products *= _SIZE / math.sqrt((products**2).sum(axis=1).mean())
    return products, np.concatenate([site.train.y for site in sites])


def _losses(weights: Floats, x: Floats, y: Floats) -> Floats:
    """float64[patients], the cross-entropy of each."""
    return np.logaddexp(0.0, -(2 * y - 1) * (x @ weights))


def _spread(values: tuple[float, ...]) -> str:
    deviation = f" ± {np.std(values, ddof=1):.3f}" if len(values) > 1 else ""
    return f"{np.mean(values):.3f}{deviation}"
