"""The two pictures of a run: processor time against model size, and bytes on the wire beside the peers.

Colours are Okabe and Ito's, which people with any common colour vision tell apart; each protocol also has a
marker of its own, and the bars carry their figures.
"""

from pathlib import Path
from typing import Any, Final

import matplotlib as mpl

mpl.use("agg")

from matplotlib import pyplot as plt
from matplotlib.axes import Axes

from bench.report import FLOAT32_BYTES, PROTOCOLS, NotMeasured, Run

__all__ = ["draw_bytes", "draw_time"]

STYLES: Final[dict[str, tuple[str, str]]] = {
    "PlainSum": ("#000000", "o"),
    "MaskedSum": ("#0072B2", "s"),
    "CkksSum": ("#E69F00", "^"),
    "PaillierSum": ("#CC79A7", "D"),
}
PEER_COLOUR: Final = "#999999"
CLIENTS: Final = 10


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
        axis.grid(which="major", color="#DDDDDD")
        axis.set_axisbelow(True)
        axis.spines[["top", "right"]].set_visible(False)
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
