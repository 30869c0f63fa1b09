"""An answer: a table to read, a picture to look at, and how it came about."""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from secagg.errors import MissingExtraError

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

__all__ = ["Answer", "Provenance", "frame_of", "new_axes"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Provenance:
    """How an answer came about.

    Attributes:
        contributors: the sites whose rows are in it.
        sums: secure sums that it took.
        sent: bytes that each site sent, by site.
        seconds: processor seconds of each party, by party, "server" included.
        left_out: for each column, how many sites had too few values in it to be counted; under "(rows)", how
            many had too few rows.
        epsilon, delta: what noise inside the sum guarantees each row; None where there is none.
        noise: standard deviation of the noise in each count that was summed; 0.0 where there is none.
    """

    contributors: frozenset[str]
    sums: int
    sent: dict[str, int]
    seconds: dict[str, float] = field(default_factory=dict)
    left_out: dict[str, int] = field(default_factory=dict)
    epsilon: float | None = None
    delta: float | None = None
    noise: float = 0.0

    def __str__(self) -> str:
        most = max(self.sent.values(), default=0)
        said = [f"{len(self.contributors)} sites, {self.sums} sums, at most {most / 1000:.1f} kB sent a site"]
        said += [f"{sites} without {column!r}" for column, sites in self.left_out.items()]
        if self.epsilon is not None:
            delta = 0.0 if self.delta is None else self.delta
            said.append(f"each row is protected with ε = {self.epsilon:.3g}, δ = {delta:.1g}")
            said.append(f"noise of sd {self.noise:.3g} in each count")
        return "; ".join(said)


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
        """Draws itself; returns the matplotlib Axes (needs matplotlib, extra `statistics`)."""

    def __str__(self) -> str:
        table = str(self.to_frame().to_string())
        return table if self.provenance is None else f"{table}\n({self.provenance})"


def frame_of(columns: Mapping[Any, Any], *, index: Any = None, name: str = "") -> "pd.DataFrame":
    """A DataFrame.

    Raises:
        MissingExtraError: pandas is not installed.
    """
    try:
        import pandas as pd
    except ImportError as error:
        raise MissingExtraError(package="pandas", extra="statistics") from error
    frame = pd.DataFrame(dict(columns))
    return frame if index is None else frame.set_index(pd.Index(index, name=name or None))


def new_axes(axes: "Axes | None", *, height: float = math.nan, width: float = 6.4) -> "Axes":
    """The axes that were given, or those of a new figure.

    Args:
        axes: where to draw.
        height: of a new figure, in inches; NaN: matplotlib's own.
        width: of a new figure, in inches.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    if axes is not None:
        return axes
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtraError(package="matplotlib", extra="statistics") from error
    size = (width, 4.8 if math.isnan(height) else height)
    figure = Figure(figsize=size, layout="constrained")
    return figure.subplots()
