"""The pictures of a run: processor time against model size, dropouts and clients; bytes beside the peers.

Colours are Okabe and Ito's, which people with any common colour vision tell apart; each protocol also has a
marker of its own, and the bars carry their figures.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple

import matplotlib as mpl

mpl.use("agg")

from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator

from bench.published import NAIVE
from bench.report import FLOAT32_BYTES, PROTOCOLS
from bench.run import NotMeasured, Run
from bench.targets import graph_of

__all__ = ["draw_bytes", "draw_clients", "draw_crossing", "draw_dropouts", "draw_lattice", "draw_time"]

STYLES: Final[dict[str, tuple[str, str]]] = {
    "PlainSum": ("#000000", "o"),
    "MaskedSum": ("#0072B2", "s"),
    "LatticeSum": ("#D55E00", "P"),
    "CkksSum": ("#E69F00", "^"),
    "PaillierSum": ("#CC79A7", "D"),
}
PEER_COLOUR: Final = "#999999"
LINES: Final[dict[int, str]] = {0: "--", 30: "-"}
"""By the percentage of clients that vanish."""
SUMMED: Final = ("MaskedSum", "LatticeSum")
"""Whose rounds of many clients are drawn."""
SERVER: Final = "the server's time (s); ours: processor time"
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
    """The server's time against the share of clients that vanish in the last moment, cohort by cohort."""
    cohorts = [clients for clients in (500, 1000) if _scale(run, clients=clients)]
    if not cohorts:
        return
    figure, axes = plt.subplots(
        1,
        len(cohorts),
        figsize=(max(8, 5.6 * len(cohorts)), 5),
        sharey=True,
        squeeze=False,
        layout="constrained",
    )
    for axis, clients in zip(axes[0], cohorts, strict=True):
        percents, seconds = list(NAIVE.server_seconds), list(NAIVE.server_seconds.values())
        label = f"published: {NAIVE.who}, {NAIVE.clients} clients"
        axis.plot(percents, seconds, "v--", color=PEER_COLOUR, markersize=7, linewidth=2, label=label)
        _values(axis, percents, seconds, BELOW_RIGHT)
        for entry in _scale(run, clients=clients):
            _dropout_line(axis, entry)
        graph = graph_of(_scale(run, clients=clients)[0])
        axis.set_title(f"{clients:,} clients (k, t = {graph})", loc="left", fontsize=11)
        axis.set(yscale="log", ylim=(0.1, 1e5), xticks=list(NAIVE.server_seconds), xlim=(-3, 34))
        axis.set(xlabel="clients that vanish before their vector (%)")
        axis.yaxis.set_major_formatter("{x:,g}")
        _plain(axis)
    axes[0][0].set_ylabel(SERVER)
    axes[0][0].legend(frameon=False, loc="center", bbox_to_anchor=(0.55, 0.36))
    figure.suptitle(TITLE, x=0.01, ha="left", fontsize=11)
    figure.savefig(path, dpi=150)
    plt.close(figure)


def _dropout_line(axis: Axes, entry: Mapping[str, Any]) -> None:
    percents = sorted(int(kind) for kind in entry["server_seconds"] if kind != "first")
    seconds = [min(entry["server_seconds"][str(percent)]) for percent in percents]
    protocol = entry["protocol"]
    colour, marker = STYLES[protocol]
    axis.plot(percents, seconds, color=colour, marker=marker, markersize=7, linewidth=2, label=protocol)
    _values(axis, percents, seconds, ABOVE if protocol == "MaskedSum" else BELOW)


def draw_clients(run: Run, path: Path) -> None:
    """The server's time against the number of clients."""
    figure, axis = plt.subplots(figsize=(8.5, 5.2), layout="constrained")
    ticks: dict[int, str] = {}
    for protocol in SUMMED:
        entries = sorted(_scale(run, protocol=protocol), key=lambda entry: int(entry["clients"]))
        clients = [entry["clients"] for entry in entries]
        ticks.update({entry["clients"]: f"{entry['clients']:,}\n{graph_of(entry)}" for entry in entries})
        colour, marker = STYLES[protocol]
        for percent, line in LINES.items() if entries else ():
            seconds = [min(entry["server_seconds"][str(percent)]) for entry in entries]
            label = f"{protocol}, {percent} % vanish before their vector"
            axis.plot(
                clients, seconds, line, color=colour, marker=marker, markersize=7, linewidth=2, label=label
            )
            if percent:
                _values(axis, clients, seconds, ABOVE if protocol == "MaskedSum" else BELOW)
    if not ticks:
        plt.close(figure)
        return
    axis.set(xscale="log", yscale="log", xlim=(0.8 * min(ticks), 1.25 * max(ticks)))
    axis.margins(y=0.15)
    axis.set_xticks(list(ticks), list(ticks.values()))
    axis.minorticks_off()
    axis.set(xlabel="clients; degree, threshold of their graph", ylabel="processor time of the server (s)")
    axis.set_title(TITLE, loc="left", fontsize=11)
    axis.yaxis.set_major_formatter("{x:,g}")
    axis.legend(frameon=False, loc="upper left")
    _plain(axis)
    figure.savefig(path, dpi=150)
    plt.close(figure)


def draw_lattice(run: Run, path: Path) -> None:
    """LatticeSum and MaskedSum: a client against clients and model size, the server against dropouts."""
    grid = sorted(run.all("crossing"), key=lambda entry: int(entry["clients"]))
    if not grid:
        return
    figure, axes = plt.subplots(1, 3, figsize=(14, 4.6), layout="constrained")
    largest = grid[-1]
    length = max(map(int, largest["points"]["LatticeSum"]))
    title, dropouts = _dropouts(run, largest, length)
    for protocol in SUMMED:
        colour, marker = STYLES[protocol]
        by_clients = {e["clients"]: e["points"][protocol][str(length)]["client_seconds"] for e in grid}
        by_size = {int(size): point["client_seconds"] for size, point in largest["points"][protocol].items()}
        for axis, series, unit in (
            (axes[0], by_clients, 1e3),
            (axes[1], by_size, 1e3),
            (axes[2], dropouts[protocol], 1),
        ):
            places = sorted(series)
            times = [unit * min(series[place]) for place in places]
            axis.plot(places, times, color=colour, marker=marker, markersize=7, linewidth=2, label=protocol)
    axes[0].set_title(f"One client, {length:,} values", loc="left", fontsize=11)
    axes[0].set(xscale="log", yscale="log", xlabel="clients", ylabel="processor time (ms)")
    axes[0].set_xticks([entry["clients"] for entry in grid], [str(entry["clients"]) for entry in grid])
    axes[1].set_title(f"One client of {largest['clients']}", loc="left", fontsize=11)
    axes[1].set(xscale="log", yscale="log", xlabel="values", ylabel="processor time (ms)")
    axes[2].set_title(title, loc="left", fontsize=11)
    axes[2].set(xlabel="clients that vanish before their vector (%)", ylabel="processor time (s)")
    axes[2].set(ylim=(0, None))
    for axis in axes[:2]:
        axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.yaxis.set_major_formatter("{x:,g}")
        axis.minorticks_off()
    for axis in axes:
        axis.margins(x=0.1, y=0.12)
        _plain(axis)
    axes[0].legend(frameon=False, loc="upper left")
    figure.savefig(path, dpi=150)
    plt.close(figure)


def _dropouts(
    run: Run, largest: Mapping[str, Any], length: int
) -> tuple[str, dict[str, dict[int, list[float]]]]:
    """The server's times by protocol and percentage that vanishes, of the long vectors or of the grid."""
    for entry in run.all("long vectors"):
        title = f"The server, {entry['clients']} clients, {entry['parameters']:,} values"
        times = entry["server_seconds"]
        return title, {
            name: {int(kind): times[name][kind] for kind in times[name] if kind != "first"} for name in SUMMED
        }
    title = f"The server, {largest['clients']} clients, {length:,} values"
    percent = round(100 * largest["lost"] / largest["clients"])
    found: dict[str, dict[int, list[float]]] = {}
    for name in SUMMED:
        point = largest["points"][name][str(length)]
        found[name] = {0: point["server_seconds"]}
        if percent:
            found[name][percent] = point["server_seconds_lossy"]
    return title, found


CROSSING_PANELS: Final = {
    "client_seconds": "A client's time",
    "server_seconds": "The server's, nobody vanishes",
    "server_seconds_lossy": "The server's, a tenth vanishes",
    "bytes": "A client's bytes",
}
COHORTS: Final = ("#56B4E9", "#009E73", "#E69F00", "#CC79A7")


def draw_crossing(run: Run, path: Path) -> None:
    """LatticeSum over MaskedSum against the model's size, a line for each number of clients."""
    grid = sorted(run.all("crossing"), key=lambda entry: int(entry["clients"]))
    if not grid:
        return
    figure, axes = plt.subplots(1, 4, figsize=(15, 4.4), sharey=True, layout="constrained")
    for axis, (field, title) in zip(axes, CROSSING_PANELS.items(), strict=True):
        axis.axhline(1, color="#000000", linewidth=1)
        for entry, colour, marker in zip(grid, COHORTS, "osD^", strict=False):
            lattice, masked = entry["points"]["LatticeSum"], entry["points"]["MaskedSum"]
            points = [
                (int(length), _least(lattice[length][field]) / _least(masked[length][field]))
                for length in lattice
                if lattice[length][field]
            ]
            if points:
                label = f"{entry['clients']} clients"
                axis.plot(
                    *zip(*sorted(points), strict=True), color=colour, marker=marker, linewidth=2, label=label
                )
        axis.set(xscale="log", yscale="log", xlabel="values")
        axis.set_yticks((0.5, 0.7, 1, 1.5, 2, 3), ("0.5", "0.7", "1", "1.5", "2", "3"))
        axis.minorticks_off()
        axis.set_title(title, loc="left", fontsize=11)
        _plain(axis)
    axes[0].set_ylabel("LatticeSum / MaskedSum")
    figure.suptitle("Below 1 LatticeSum is cheaper", x=0.01, ha="left", fontsize=11)
    axes[-1].legend(frameon=False, loc="best")
    figure.savefig(path, dpi=150)
    plt.close(figure)


def _least(value: float | list[float]) -> float:
    return min(value) if isinstance(value, list) else value


def _scale(run: Run, **fields: Any) -> list[dict[str, Any]]:
    """Rounds of many clients with these fields, on the published graph against a malicious server."""
    fields |= {"adversary": "malicious", "grinding_bits": 0}
    return [each for each in run.all("scale") if all(each[name] == value for name, value in fields.items())]


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
    for entry in run.all("lattice vector"):
        if (entry["bits"], entry["max_weight"]) != (16, 1):
            name = f"LatticeSum, {entry['bits']} bits"
            name += f", weights up to {entry['max_weight']}" if entry["max_weight"] > 1 else ""
            bars.append((name, entry["up"] / entry["parameters"], STYLES["LatticeSum"][0]))
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
