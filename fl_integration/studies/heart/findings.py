"""What the experiment finds: rows, gains and costs, and how sure one can be of them.

The intervals are percentiles of a bootstrap over test patients, within each diagnosis: they say how much the
choice of these few patients matters, and nothing about another split, seed or year.

>>> low, value, high = interval(np.array([1.0, 1.0, 0.0]), np.array([0.9, 0.8, 0.1]), seed=1)
>>> value
1.0
"""

from dataclasses import dataclass
from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt

from fl_integration.loop.report import FederatedRun, RoundReport
from fl_integration.loop.standardising import Standardise
from fl_integration.privacy.plan import PrivacyPlan
from fl_integration.statistics.moments import MomentsAnswer
from fl_integration.studies.heart.choices import Choice
from fl_integration.studies.heart.federation.outcome import EngineRun
from fl_integration.studies.heart.records import Hospital, Site

__all__ = [
    "Act",
    "Auc",
    "Floats",
    "Gain",
    "Glimpse",
    "Private",
    "Repeat",
    "Row",
    "Scaling",
    "Usage",
    "gain_of",
    "interval",
    "usage_of",
    "usage_over",
]

Floats: TypeAlias = npt.NDArray[np.float64]

_RESAMPLES: Final = 2000


@dataclass(frozen=True, slots=True)
class Auc:
    """An AUC and the ends of its 95 % bootstrap interval."""

    low: float
    value: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """What a secure sum cost a hospital and the server in a round once keys are set up; medians over rounds.

    Attributes:
        sent, received: bytes of one hospital.
        setup_sent: the largest number of bytes that a hospital sent more in the first round.
        client_seconds: processor seconds of cryptography at one hospital; None where nobody measured them.
        server_seconds: the same at the server.
    """

    sent: int
    received: int
    setup_sent: int
    client_seconds: float | None
    server_seconds: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One way to train, and how well it went.

    Attributes:
        title: for people.
        kind: "alone", "pooled", "plain" (FedAvg in the clear), "secure", "engine" (the same over one),
            "private" (with noise in the sum), or "steps" (the same steps as that, in the clear).
        site: the hospital that trained alone.
        choice: the protocol.
        aucs: on each hospital's own test patients.
        overall: on all test patients together.
        scores: each hospital's test patients' log-odds, for comparisons patient by patient.
        curve: overall AUC after each round; None where nobody saw the model.
        difference: largest absolute difference of a parameter from FedAvg in the clear.
        history: the rounds, where there are any.
        usage: of a secure sum.
    """

    title: str
    kind: str
    aucs: dict[Site, Auc]
    overall: Auc
    scores: dict[Site, Floats]
    curve: tuple[float | None, ...]
    site: Site | None = None
    choice: Choice | None = None
    difference: float | None = None
    history: tuple[RoundReport, ...] = ()
    usage: Usage | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Gain:
    """What joining changes at one hospital: AUC of the joint model minus its own's, on its own patients.

    `low` and `high` end the 95 % interval of the difference; both models score the same resampled patients.
    """

    site: Site
    patients: int
    low: float
    value: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Repeat:
    """The same gain over other splits of the same patients: mean, extremes, how often it is above 0."""

    site: Site
    splits: int
    better: int
    low: float
    mean: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Scaling:
    """Whose mean and deviation the measurements are scaled by, and what the other choice would have brought.

    Attributes:
        how: the choice.
        this, other: AUC of FedAvg in the clear on all test patients, on this scale and on the other.
        asked: the pooled figures, and what they cost.
    """

    how: Standardise
    this: Auc
    other: Auc
    asked: MomentsAnswer


@dataclass(frozen=True, slots=True, kw_only=True)
class Glimpse:
    """One round of MaskedSum as the parties see it, from the bytes on the wire.

    Attributes:
        site: whose update.
        parameters: their names.
        update: float[d], in the clear; it never leaves the hospital.
        weight: its training patients.
        received: uint64[d + 1], the ring elements in its MaskedInput message; the last one is its weight.
        ring_bits: the elements are in [0, 2**ring_bits).
        mean: float64[d], what the server learnt.
        total_weight: the training patients in the mean.
    """

    site: Site
    parameters: tuple[str, ...]
    update: Floats
    weight: int
    received: npt.NDArray[np.uint64]
    ring_bits: int
    mean: Floats
    total_weight: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Private:
    """A training with noise in its sums.

    Attributes:
        plan: what was promised to whom, and the noise for it.
        spent: ε after the last round.
    """

    plan: PrivacyPlan
    spent: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Act:
    """One experiment over one set of hospitals.

    Attributes:
        lost: the hospital that vanishes in the middle of a round, and the round (from 0).
        glimpse: of the first round of MaskedSum, if that ran.
        engine: the run over an engine, if there was one.
        private: of the private training, if there was one.
        scaling: of the measurements.
    """

    hospitals: tuple[Hospital, ...]
    rounds: int
    seed: int
    rows: tuple[Row, ...]
    gains: tuple[Gain, ...]
    lost: tuple[Site, int] | None
    glimpse: Glimpse | None
    engine: EngineRun | None = None
    private: Private | None = None
    scaling: Scaling | None = None

    @property
    def joint(self) -> Row:
        """The row of the model that the hospitals train together, as near to a deployment as there is one."""
        by_kind = {row.kind: row for row in reversed(self.rows)}
        return next(by_kind[kind] for kind in ("engine", "secure", "plain") if kind in by_kind)

    @property
    def secure(self) -> tuple[Row, ...]:
        """The rows that went through a protocol."""
        return tuple(row for row in self.rows if row.choice is not None)


def interval(labels: npt.ArrayLike, scores: npt.ArrayLike, *, seed: int) -> tuple[float, float, float]:
    """(low, AUC, high) with the ends of a 95 % bootstrap interval over patients, within each diagnosis."""
    wins = _wins(np.asarray(labels), np.asarray(scores, np.float64))
    resampled = _resampled(wins, seed=seed)
    low, high = np.percentile(resampled, [2.5, 97.5])
    return float(low), float(wins.mean()), float(high)


def gain_of(hospital: Hospital, *, joint: Row, alone: Row, seed: int) -> Gain:
    """What joining changes at one hospital, with a 95 % bootstrap interval over its test patients."""
    labels, site = hospital.test_y, hospital.site
    wins = _wins(labels, joint.scores[site]) - _wins(labels, alone.scores[site])
    low, high = np.percentile(_resampled(wins, seed=seed), [2.5, 97.5])
    return Gain(site=site, patients=len(labels), low=float(low), value=float(wins.mean()), high=float(high))


def _wins(labels: npt.NDArray[np.generic], scores: Floats) -> Floats:
    """[diseased, healthy]: 1 where the diseased patient scores higher, 1/2 for a tie; its mean is the AUC."""
    diseased, healthy = scores[labels == 1][:, None], scores[labels == 0][None, :]
    return np.asarray((diseased > healthy) + 0.5 * (diseased == healthy), np.float64)


def _resampled(wins: Floats, *, seed: int) -> Floats:
    """The mean of `wins` over resampled rows and columns: float64[_RESAMPLES]."""
    rng, (rows, columns) = np.random.default_rng(seed), wins.shape
    times_row = rng.multinomial(rows, np.full(rows, 1 / rows), size=_RESAMPLES)
    times_column = rng.multinomial(columns, np.full(columns, 1 / columns), size=_RESAMPLES)
    means: Floats = np.einsum("br,rc,bc->b", times_row, wins, times_column, optimize=True) / wins.size
    return means


def usage_of(run: FederatedRun, *, clients: tuple[str, ...]) -> Usage:
    """Medians over the rounds after the first, in which keys are set up, and without a loss."""
    first = run.history[0]
    steady = [r for r in run.history[1:] if not r.dropped and not r.aborted] or [first]
    sent = int(np.median([r.traffic[c].sent for r in steady for c in clients]))
    return Usage(
        sent=sent,
        received=int(np.median([r.traffic[c].received for r in steady for c in clients])),
        setup_sent=max(max(first.traffic[c].sent for c in clients) - sent, 0),
        client_seconds=float(np.median([r.seconds[c] for r in steady for c in clients])),
        server_seconds=float(np.median([r.seconds["server"] for r in steady])),
    )


def usage_over(run: EngineRun) -> Usage:
    """What the hospitals' wires carried: medians over the rounds after the first that nobody missed."""
    first = run.rounds[0]
    steady = [each for each in run.rounds[1:] if not each.missing] or [first]
    sent = int(np.median([each.carried[site].up for each in steady for site in run.sites]))
    return Usage(
        sent=sent,
        received=int(np.median([each.carried[site].down for each in steady for site in run.sites])),
        setup_sent=max(max(first.carried[site].up for site in run.sites) - sent, 0),
        client_seconds=None,
        server_seconds=None,
    )
