"""The pictures of a run: processor time against model size, dropouts and clients; bytes beside the peers.

Colours are Okabe and Ito's, which people with any common colour vision tell apart; each protocol also has a
marker of its own, and the bars carry their figures.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple

import matplotlib as mpl

mpl.use("agg")

from matplotlib import pyplot as plt
from matplotlib.axes import Axes

from bench.published import NAIVE
from bench.report import FLOAT32_BYTES, PROTOCOLS
from bench.run import NotMeasured, Run
from bench.targets import graph_of

__all__ = ["draw_bytes", "draw_clients", "draw_dropouts", "draw_time"]

STYLES: Final[dict[str, tuple[str, str]]] = {
    "PlainSum": ("#000000", "o"),
    "MaskedSum": ("#0072B2", "s"),
    "CkksSum": ("#E69F00", "^"),
    "PaillierSum": ("#CC79A7", "D"),
}
PEER_COLOUR: Final = "#999999"
TIMES: Final[dict[int, tuple[str, str]]] = {0: ("#0072B2", "s"), 30: ("#D55E00", "o")}
"""Colour and marker of the smaller and of the larger of two, for example with 0 and 30 % dropped."""
CLIENTS: Final = 10
TITLE: Final = "The server in a steady round: 10^5 values, planned against a malicious server"


class Offset(NamedTuple):
    """Where a label stands beside its point."""

    points: tuple[float, float]
    horizontal: Literal["center", "left"]
    vertical: Literal["bottom", "top"]


ABOVE: Final = Offset((0, 7), "center", "bottom")
BELOW: Final = Offset((0, -7), "center", "top")
BELOW_RIGHT: Final = Offset((4, -5), "left", "top")


def draw_time(run: Run, path: Path) -> None:
    """Processor time of one client and of the server against the model's size, for ten clients."""
    figure, axes = plt.subplots(1, 2, figsize=(11, 4.8), sharey=True, layout="constrained")
    panels = [
        ("client_seconds", f"One client of {CLIENTS}"),
        ("server_seconds", f"The server, {CLIENTS} clients"),
    ]
    for axis, (party, title) in zip(axes, panels, strict=True):
        for protocol in PROTOCOLS:
            _line(axis, run, protocol, party)
        axis.set(xscale="log", yscale="log", title=title, xlabel="parameters of the model")
        axis.margins(x=0.2)
        _plain(axis)
    axes[0].set_ylabel("processor time of a round (ms)")
    axes[0].legend(frameon=False, loc="lower right")
    figure.savefig(path, dpi=150)
    plt.close(figure)


def _line(axis: Axes, run: Run, protocol: str, party: str) -> None:
    rounds = [e for e in run.all("round") if (e["protocol"], e["clients"]) == (protocol, CLIENTS)]
    points = sorted((each["parameters"], 1e3 * min(each[party])) for each in rounds)
    if not points:
        return
    colour, marker = STYLES[protocol]
    sizes, times = zip(*points, strict=True)
    axis.plot(sizes, times, color=colour, marker=marker, markersize=7, linewidth=2, label=protocol)
    axis.annotate(
        f"{times[-1]:,.0f} ms" if times[-1] >= 10 else f"{times[-1]:.1f} ms",
        (sizes[-1], times[-1]),
        textcoords="offset points",
        xytext=(8, 0),
        va="center",
        fontsize=9,
    )


def draw_dropouts(run: Run, path: Path) -> None:
    """The server's time against the share of clients that vanish in the last moment."""
    if not _scale(run):
        return
    figure, axis = plt.subplots(figsize=(8, 5), layout="constrained")
    percents, seconds = list(NAIVE.server_seconds), list(NAIVE.server_seconds.values())
    label = f"published: {NAIVE.who}, {NAIVE.clients} clients"
    axis.plot(percents, seconds, "v--", color=PEER_COLOUR, markersize=7, linewidth=2, label=label)
    _values(axis, percents, seconds, BELOW_RIGHT)
    for clients, (colour, marker), where in ((1000, TIMES[30], ABOVE), (500, TIMES[0], BELOW)):
        for entry in _scale(run, clients):
            percents = sorted(int(kind) for kind in entry["server_seconds"] if kind != "first")
            seconds = [min(entry["server_seconds"][str(percent)]) for percent in percents]
            label = f"MaskedSum, {clients:,} clients (k = {entry['degree']}, t = {entry['threshold']})"
            axis.plot(percents, seconds, color=colour, marker=marker, markersize=7, linewidth=2, label=label)
            _values(axis, percents, seconds, where)
    axis.set(yscale="log", ylim=(0.3, 1e5), xticks=list(NAIVE.server_seconds), xlim=(-3, 34))
    axis.set(
        xlabel="clients that vanish before their vector (%)",
        ylabel="the server's time (s); ours: processor time",
    )
    axis.set_title(TITLE, loc="left", fontsize=11)
    axis.yaxis.set_major_formatter("{x:,g}")
    axis.legend(frameon=False, loc="center", bbox_to_anchor=(0.5, 0.45))
    _plain(axis)
    figure.savefig(path, dpi=150)
    plt.close(figure)


def draw_clients(run: Run, path: Path) -> None:
    """The server's time against the number of clients."""
    entries = sorted(_scale(run), key=lambda entry: int(entry["clients"]))
    if not entries:
        return
    figure, axis = plt.subplots(figsize=(8, 5), layout="constrained")
    clients = [entry["clients"] for entry in entries]
    for percent, (colour, marker) in TIMES.items():
        seconds = [min(entry["server_seconds"][str(percent)]) for entry in entries]
        label = f"{percent} % vanish before their vector"
        axis.plot(clients, seconds, color=colour, marker=marker, markersize=7, linewidth=2, label=label)
        _values(axis, clients, seconds, ABOVE if percent else BELOW)
    axis.set(xscale="log", yscale="log", xlim=(0.8 * clients[0], 1.25 * clients[-1]))
    axis.margins(y=0.15)
    axis.set_xticks(clients, [f"{entry['clients']:,}\n{graph_of(entry)}" for entry in entries])
    axis.minorticks_off()
    axis.set(xlabel="clients; degree, threshold of their graph", ylabel="processor time of the server (s)")
    axis.set_title(TITLE, loc="left", fontsize=11)
    axis.yaxis.set_major_formatter("{x:,g}")
    axis.legend(frameon=False, loc="upper left")
    _plain(axis)
    figure.savefig(path, dpi=150)
    plt.close(figure)


def _scale(run: Run, clients: int | None = None) -> list[dict[str, Any]]:
    """Rounds of many clients on the published graph against a malicious server."""
    entries = (each for each in run.all("scale") if each["adversary"] == "malicious")
    return [e for e in entries if not e["grinding_bits"] and clients in (None, e["clients"])]


def _values(axis: Axes, places: Sequence[float], seconds: Sequence[float], where: Offset) -> None:
    """Writes each value beside its point."""
    for place, value in zip(places, seconds, strict=True):
        axis.annotate(
            f"{value:,.0f} s" if value >= 100 else f"{value:.1f} s" if value >= 1 else f"{value:.2f} s",
            (place, value),
            textcoords="offset points",
            xytext=where.points,
            ha=where.horizontal,
            va=where.vertical,
            fontsize=9,
            zorder=1,  # over the grid, whose lines it hides, and under the curves
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.5},
        )


def _plain(axis: Axes) -> None:
    axis.grid(which="major", color="#DDDDDD")
    axis.set_axisbelow(True)
    axis.spines[["top", "right"]].set_visible(False)


def draw_bytes(run: Run, path: Path) -> None:
    """Bytes that a client uploads for a parameter, ours and the peers', fewest first."""
    bars = sorted(_bars(run), key=lambda bar: bar[1], reverse=True)
    names, sizes, colours = zip(*bars, strict=True)
    figure, axis = plt.subplots(figsize=(9, 0.5 * len(bars) + 1.2), layout="constrained")
    drawn = axis.barh(names, sizes, color=colours, height=0.65)
    axis.bar_label(drawn, [f"{size:,.2f}" if size < 100 else f"{size:,.0f}" for size in sizes], padding=4)
    axis.set(xscale="log", xlim=(1, 2 * max(sizes)), xlabel="bytes uploaded per parameter (logarithmic)")
    axis.set_title("Upload of one client: this library in colour, others in grey", loc="left", fontsize=11)
    axis.tick_params(axis="y", length=0)
    axis.spines[["top", "right", "left"]].set_visible(False)
    figure.savefig(path, dpi=150)
    plt.close(figure)


def _bars(run: Run) -> list[tuple[str, float, str]]:
    """(name, bytes a parameter, colour) of whatever this run has."""
    bars: list[tuple[str, float, str]] = [("float32 in the clear", FLOAT32_BYTES, PEER_COLOUR)]
    for protocol in PROTOCOLS:
        for entry in _measured(run, protocol):
            bars.append(
                (
                    f"{protocol}, {entry['parameters']:,} parameters",
                    entry["up"] / entry["parameters"],
                    STYLES[protocol][0],
                )
            )
    for entry in run.all("masked weights"):
        size = entry["up"]["500"] / entry["parameters"]
        bars.append(("MaskedSum, weights up to 500", size, STYLES["MaskedSum"][0]))
    for entry in run.all("flower"):
        if entry["clients"] == CLIENTS:
            size = entry["up"]["Flower"] / entry["parameters"]
            bars.append(("Flower's SecAgg+", size, PEER_COLOUR))
    for entry in run.all("tenseal"):
        bars.append(("TenSEAL as NVFlare sets it", entry["bytes"]["TenSEAL symmetric encrypt"], PEER_COLOUR))
    for entry in run.all("phe"):
        bars.append((f"phe, {entry['key_bits']} bits", entry["bytes"]["phe encrypt"], PEER_COLOUR))
    return bars


def _measured(run: Run, protocol: str) -> list[dict[str, Any]]:
    try:
        return [run.largest_round(protocol, clients=CLIENTS)]
    except NotMeasured:
        return []
