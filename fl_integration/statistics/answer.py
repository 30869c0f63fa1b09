"""An answer: a table to read, a picture to look at, and how it came about."""

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

__all__ = ["Answer", "Provenance"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Provenance:
    """How an answer came about.

    Attributes:
        contributors: the sites whose rows are in it.
        sums: secure sums that it took.
        sent: bytes that each site sent, by site.
        seconds: processor seconds of each party, by party, "server" included.
        left_out: for each column, how many sites had too few values in it to be counted.
        epsilon, delta: what noise inside the sum guarantees each row; None where there is none.
    """

    contributors: frozenset[str]
    sums: int
    sent: dict[str, int]
    seconds: dict[str, float] = field(default_factory=dict)
    left_out: dict[str, int] = field(default_factory=dict)
    epsilon: float | None = None
    delta: float | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class Answer(ABC):
    """What every answer has.

    Attributes:
        provenance: how it came about; None before the last sum is opened.
    """

    provenance: Provenance | None = None

    @abstractmethod
    def to_frame(self) -> "pd.DataFrame":
        """The answer as a pandas DataFrame."""

    @abstractmethod
    def draw(self, axes: "Axes | None" = None) -> Any:
        """Draws itself; returns the matplotlib Axes (needs matplotlib, extra `demo`)."""

    def __str__(self) -> str:
        return str(self.to_frame().to_string())
