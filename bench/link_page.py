"""The page of `bench.link`: tables, a picture and the model behind them, in one file that loads nothing."""

import base64
from collections.abc import Mapping
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Final, NamedTuple

import jinja2
import matplotlib as mpl
from rich.table import Table

mpl.use("agg")

from matplotlib import pyplot as plt
from matplotlib.axes import Axes

__all__ = ["MEGABIT", "PLAIN", "SECURE", "Row", "Timing", "Work", "page_of", "table_of"]

PLAIN: Final = "plain FedAvg, float32"
SECURE: Final = "LatticeSum, 16 bits"
MEGABIT: Final = 10**6
PARTS: Final = {"down": "#56B4E9", "client": "#D55E00", "up": "#0072B2", "server": "#E69F00"}
LABELS: Final = {
    "down": "model down",
    "client": "client's work",
    "up": "update up",
    "server": "server's work",
}


class Timing(NamedTuple):
    """A round's parts in seconds."""

    down: float
    client: float
    up: float
    server: float

    @property
    def total(self) -> float:
        return sum(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What a round takes without a network.

    Attributes:
        length: parameters.
        client_seconds, server_seconds: processor time of one client (the mean) and of the server.
        down, up: bytes of one client, all exchanges together.
        exchanges: how often the server asks.
    """

    length: int
    client_seconds: float
    server_seconds: float
    down: int
    up: int
    exchanges: int

    def at(self, megabits: int) -> Timing:
        """The round on links of so many Mb/s."""
        seconds_a_byte = 8 / (megabits * MEGABIT)
        return Timing(
            self.down * seconds_a_byte, self.client_seconds, self.up * seconds_a_byte, self.server_seconds
        )


class Row(NamedTuple):
    """One line of the table: a model size at a rate, plain and secure."""

    length: int
    rate: int
    plain: Timing
    secure: Timing
    measured: tuple[float, float] | None

    @property
    def seconds(self) -> tuple[float, float]:
        """Plain and secure: measured where there is such a round, otherwise computed."""
        return self.measured or (self.plain.total, self.secure.total)

    @property
    def ratio(self) -> float:
        plain, secure = self.seconds
        return secure / plain


def picture(rows: list[Row]) -> bytes:
    """Each round's parts as shares of the plain round at the same rate; PNG."""
    sizes = sorted({row.length for row in rows})
    figure, axes = plt.subplots(
        1, len(sizes), figsize=(5.5 * len(sizes), 4.6), sharey=True, squeeze=False, layout="constrained"
    )
    for axis, size in zip(axes[0], sizes, strict=True):
        _bars(axis, [row for row in rows if row.length == size])
        axis.set_title(f"{size:,} parameters", loc="left", fontsize=11)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0][0].set_ylabel("time of a round, the plain one = 1")
    handles, labels = axes[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(handles), frameon=False)
    buffer = BytesIO()
    figure.savefig(buffer, format="png", dpi=130)
    plt.close(figure)
    return buffer.getvalue()


def _bars(axis: Axes, rows: list[Row]) -> None:
    width = 0.38
    for place, row in enumerate(rows):
        for side, timing in ((-1, row.plain), (1, row.secure)):
            bottom, where = 0.0, place + side * width / 2
            for part, colour in PARTS.items():
                height = getattr(timing, part) / row.plain.total
                label = LABELS[part] if place == 0 and side < 0 else None
                axis.bar(where, height, 0.92 * width, bottom=bottom, color=colour, label=label)
                bottom += height
            if row.measured is not None:
                height = row.measured[side > 0] / row.plain.total
                label = "measured" if (place, side) == (0, -1) else None
                axis.plot(where, height, "kD", markersize=5, label=label)
                bottom = max(bottom, height)
            axis.annotate(
                f"{'plain' if side < 0 else 'secure'}\n{seconds(timing.total)}",
                (where, bottom),
                textcoords="offset points",
                xytext=(0, 6),
                ha="center",
                fontsize=9,
            )
    axis.set_xticks(range(len(rows)), [f"{row.rate:,} Mb/s" for row in rows])
    axis.margins(y=0.18)
    axis.axhline(1, color="#888888", linewidth=0.8, zorder=0)


def seconds(value: float) -> str:
    """With three digits or so."""
    return f"{value:,.0f} s" if value >= 100 else f"{value:.1f} s" if value >= 10 else f"{value:.2f} s"


def break_even(both: Mapping[str, Work]) -> float:
    """The rate in Mb/s at which both rounds would take as long: bits saved over seconds of work added."""
    plain, secure = both[PLAIN], both[SECURE]
    saved = 8 * (plain.down + plain.up - secure.down - secure.up)
    added = secure.client_seconds + secure.server_seconds - plain.client_seconds - plain.server_seconds
    return saved / added / MEGABIT


def verdict(row: Row) -> str:
    """In words; what is closer than a hundredth is called equal."""
    change = row.ratio - 1
    if abs(change) < 0.01:
        return "as fast"
    return f"{abs(change):.0%} {'slower' if change > 0 else 'faster'}"


def page_of(rows: list[Row], works: Mapping[int, Mapping[str, Work]], *, clients: int, repeats: int) -> str:
    """The page, with everything that it needs inside."""
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    template = Path(__file__).with_name("link.html.j2").read_text(encoding="utf-8")
    return environment.from_string(template).render(
        rows=rows,
        works=works,
        schemes=(PLAIN, SECURE),
        clients=clients,
        picture=base64.b64encode(picture(rows)).decode("ascii"),
        seconds=seconds,
        verdict=verdict,
        break_even=break_even,
        repeats=repeats,
    )


def table_of(rows: list[Row], *, clients: int) -> Table:
    """The same lines for a terminal."""
    table = Table(title=f"A round of {clients} clients: plain FedAvg and LatticeSum", title_justify="left")
    for heading in ("parameters", "Mb/s", "how", "plain", "secure", "the secure round is", "computed"):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in rows:
        plain, secure = row.seconds
        computed = f"{seconds(row.plain.total)} / {seconds(row.secure.total)}"
        how = "computed" if row.measured is None else "measured"
        cells = (how, seconds(plain), seconds(secure), verdict(row), computed)
        table.add_row(f"{row.length:,}", f"{row.rate:,}", *cells)
    return table
