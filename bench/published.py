"""Figures that others published, to stand beside ours. Other machines made them: only magnitudes compare.

Nothing here was measured by us, and every table and picture that shows one says so.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

__all__ = ["EXPANSIONS", "NAIVE", "PublishedExpansion", "PublishedRounds"]


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
