"""Figures that others published, to stand beside ours. Other machines made them: only magnitudes compare.

Nothing here was measured by us, and every table and picture that shows one says so.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

__all__ = [
    "EXPANSIONS",
    "FLAMBY",
    "FLAMBY_PRIVATE",
    "NAIVE",
    "PublishedAccuracy",
    "PublishedExpansion",
    "PublishedRounds",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedRounds:
    """Seconds of a whole round.

    Attributes:
        who: as tables call it.
        clients, parameters: of the cohort and of the model.
        server_seconds: by the percentage of clients that dropped out.
        client_seconds: the least and the largest of a client.
    """

    who: str
    clients: int
    parameters: int
    server_seconds: Mapping[int, float] = field(default_factory=dict)
    client_seconds: tuple[float, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedExpansion:
    """A client's bytes over those of its vector in the clear, and the least that the packed sum allows."""

    who: str
    clients: int
    parameters: int
    bits: int
    expansion: float
    floor: float


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedAccuracy:
    """Accuracy over five seeds: mean and standard deviation on all test patients, means on each site's."""

    mean: float
    deviation: float
    sites: tuple[float, ...]


NAIVE: Final = PublishedRounds(
    who="a naive SecAgg in Python (CSVs)",
    clients=600,
    parameters=10**5,
    server_seconds={0: 101.0, 10: 4303.0, 30: 11715.0},
    client_seconds=(52.0, 58.0),
)

EXPANSIONS: Final = (
    PublishedExpansion(
        who="Bonawitz et al., CCS'17", clients=2**10, parameters=2**20, bits=16, expansion=1.73, floor=1.625
    ),
    PublishedExpansion(
        who="Bonawitz et al., CCS'17", clients=2**14, parameters=2**24, bits=16, expansion=1.98, floor=1.875
    ),
)

FLAMBY: Final[Mapping[str, PublishedAccuracy]] = {
    "Pooled": PublishedAccuracy(mean=0.7953, deviation=0.0028, sites=(0.783, 0.764, 0.75, 0.644)),
    "Local 0": PublishedAccuracy(mean=0.7843, deviation=0.0070, sites=(0.746, 0.76, 0.725, 0.658)),
    "Local 1": PublishedAccuracy(mean=0.7268, deviation=0.0129, sites=(0.746, 0.746, 0.525, 0.498)),
    "Local 2": PublishedAccuracy(mean=0.4827, deviation=0.0449, sites=(0.481, 0.391, 0.725, 0.671)),
    "Local 3": PublishedAccuracy(mean=0.6110, deviation=0.0393, sites=(0.577, 0.467, 0.8, 0.702)),
    "FedAvg": PublishedAccuracy(mean=0.7480, deviation=0.0268, sites=(0.731, 0.719, 0.65, 0.64)),
    "FedProx": PublishedAccuracy(mean=0.7480, deviation=0.0268, sites=(0.731, 0.719, 0.65, 0.64)),
    "FedAdam": PublishedAccuracy(mean=0.7787, deviation=0.0146, sites=(0.752, 0.746, 0.738, 0.667)),
    "FedYogi": PublishedAccuracy(mean=0.7787, deviation=0.0153, sites=(0.76, 0.753, 0.738, 0.676)),
    "FedAdagrad": PublishedAccuracy(mean=0.7787, deviation=0.0153, sites=(0.76, 0.753, 0.738, 0.676)),
}
"""FLamby's Fed-Heart-Disease: owkin/FLamby at edacf54, results_benchmark_fed_heart_disease, five seeds."""

FLAMBY_PRIVATE: Final[Mapping[float, float]] = {
    float("inf"): 0.713,
    10.0: 0.7004,
    5.0: 0.7036,
    1.0: 0.6853,
    0.1: 0.6056,
}
"""The same data set, DP-FedAvg with Opacus at δ = 1e-4, by ε: the mean over clients and runs of the accuracy
on each client's own test patients. Another training than ours: 15 rounds of 100 local updates."""
