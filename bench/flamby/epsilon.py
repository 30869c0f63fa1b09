"""What differential privacy costs on FLamby's patients: accuracy by ε, as a table and as a picture.

Beside ours stand the rows that FLamby published for DP-FedAvg with Opacus. They are of another training (15
rounds of 100 local updates, each with noise of its own, and examples in place of patients), and only the trend
compares.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import matplotlib as mpl
import numpy as np
from rich.table import Table

from bench.flamby.private import DELTA, ROUNDS, RUNS, Arm, Trained, train
from bench.published import FLAMBY_PRIVATE

mpl.use("agg")

from matplotlib import pyplot as plt

__all__ = ["EPSILONS", "HEADERS", "Row", "draw", "lines_of", "markdown_of", "measure", "table_of"]

EPSILONS: Final = (math.inf, 10.0, 5.0, 1.0, 0.5, 0.1)
QUICK_RUNS: Final = 5

HEADERS: Final = (
    "ε",
    *(arm.value for arm in Arm),
    "noise of the sum, in clips",
    "FLamby's DP-FedAvg, other training",
)

_COLOURS: Final = {
    Arm.ALL: "#0072B2",
    Arm.DEFAULT: "#56B4E9",
    Arm.LOSS: "#009E73",
    Arm.ALONE: "#D55E00",
}
_MARKERS: Final = {Arm.ALL: "s", Arm.DEFAULT: "P", Arm.LOSS: "o", Arm.ALONE: "^"}
_GREY: Final = "#6b7280"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Row:
    """All arms at one ε; at an infinite one there is no noise, and they are one."""

    epsilon: float
    arms: Mapping[Arm, Trained]


def measure(
    epsilons: Iterable[float] = EPSILONS, *, arms: Iterable[Arm] = Arm, runs: int = RUNS
) -> list[Row]:
    """Trains all; the first run of each arm in the sum goes through the machines of MaskedSum too."""
    chosen = tuple(arms)
    return [
        Row(
            epsilon=epsilon,
            arms={
                arm: train(
                    arm,
                    epsilon,
                    runs=runs if math.isfinite(epsilon) else 1,
                    check=arm is not Arm.ALONE,
                )
                for arm in (chosen if math.isfinite(epsilon) else chosen[:1])
            },
        )
        for epsilon in epsilons
    ]


def lines_of(rows: Iterable[Row]) -> list[tuple[str, ...]]:
    """A line of the table for each ε; the columns are `HEADERS`."""
    return [
        (
            _said(row.epsilon),
            *(_spread(row.arms[arm]) if arm in row.arms else "" for arm in Arm),
            ", ".join(f"{each.deviation:.3g}" for each in row.arms.values()),
            f"{FLAMBY_PRIVATE[row.epsilon]:.3f}" if row.epsilon in FLAMBY_PRIVATE else "",
        )
        for row in rows
    ]


def markdown_of(lines: Iterable[tuple[str, ...]]) -> str:
    """The lines for a page."""
    rows = (HEADERS, ("---",) * len(HEADERS), *lines)
    return "".join(f"| {' | '.join(cells)} |\n" for cells in rows)


def table_of(lines: Iterable[tuple[str, ...]]) -> Table:
    """The lines for a terminal."""
    table = Table(
        title=f"Accuracy, mean ± standard deviation over {RUNS} runs; δ = {DELTA:g}, {ROUNDS} rounds"
    )
    for number, header in enumerate(HEADERS):
        table.add_column(header, justify="right" if number else "left")
    for line in lines:
        table.add_row(*line)
    return table


def draw(rows: Iterable[Row], path: Path) -> None:
    """Accuracy over ε, with a band of one standard deviation of the runs on either side."""
    noisy = sorted((row for row in rows if math.isfinite(row.epsilon)), key=lambda row: row.epsilon)
    without = [row for row in rows if not math.isfinite(row.epsilon)]
    figure, axis = plt.subplots(figsize=(9, 5.4), layout="constrained")
    for arm in Arm:
        found = [(row.epsilon, row.arms[arm].accuracy) for row in noisy if arm in row.arms]
        if not found:
            continue
        at = np.array([epsilon for epsilon, _ in found])
        mean = np.array([accuracy.mean() for _, accuracy in found])
        deviation = np.array([accuracy.std(ddof=1) for _, accuracy in found])
        axis.fill_between(at, mean - deviation, mean + deviation, color=_COLOURS[arm], alpha=0.13, linewidth=0)
        axis.plot(at, mean, color=_COLOURS[arm], marker=_MARKERS[arm], linewidth=2, label=f"noise {arm.value}")
    for row in without:
        level = float(next(iter(row.arms.values())).accuracy.mean())
        axis.axhline(level, color="#1b1f24", linewidth=1.2, linestyle=(0, (4, 3)), zorder=1)
        axis.annotate(f"no noise  {level:.3f}", (1, level), xycoords=("axes fraction", "data"), xytext=(-4, 5), textcoords="offset points", ha="right")
    published = sorted((epsilon, value) for epsilon, value in FLAMBY_PRIVATE.items() if math.isfinite(epsilon))
    axis.plot(*zip(*published, strict=True), color=_GREY, marker="x", linestyle="none", label="FLamby's DP-FedAvg (published; other training)")
    axis.set(xscale="log", xlabel=f"ε of a patient over {ROUNDS} rounds, δ = {DELTA:g} (logarithmic; smaller is more private)")
    axis.set_ylabel("accuracy, mean over four hospitals' test patients")
    axis.set_xticks([row.epsilon for row in noisy], [_said(row.epsilon) for row in noisy], minor=False)
    axis.minorticks_off()
    axis.spines[["top", "right"]].set_visible(False)
    axis.grid(axis="y", color="#e5e7eb")
    axis.set_axisbelow(True)
    axis.legend(loc="lower right", frameon=False)
    axis.set_title(
        f"The same ε costs less where the noise is drawn inside the sum ({RUNS} runs; bands: one standard deviation)",
        loc="left",
        fontsize=11,
    )
    figure.savefig(path, dpi=150)
    plt.close(figure)


def _said(epsilon: float) -> str:
    return f"{epsilon:g}" if math.isfinite(epsilon) else "∞"


def _spread(trained: Trained) -> str:
    deviation = f" ± {trained.accuracy.std(ddof=1):.3f}" if len(trained.accuracy) > 1 else ""
    return f"{trained.accuracy.mean():.3f}{deviation}"
