"""What differential privacy costs on FLamby's patients: accuracy by ε, as a table and as a picture.

Beside ours stand the rows that FLamby published for DP-FedAvg with Opacus. They are of another training (15
rounds of 100 local updates, each with noise of its own, and examples in place of patients), and only the
trend compares.
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

__all__ = ["EPSILONS", "HEADERS", "QUICK_RUNS", "Row", "draw", "lines_of", "measure", "said", "table_of"]

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
_BANDED: Final = (Arm.ALL, Arm.ALONE)
_SAID: Final = {
    Arm.ALL: "in the sum, all four add noise for sure (h = 4)",
    Arm.DEFAULT: "in the sum, default requirements (h = 3)",
    Arm.LOSS: "in the sum, one may be lost besides (h = 2)",
    Arm.ALONE: "each hospital for itself",
}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Row:
    """All arms at one ε; at an infinite one there is no noise, and they are one."""

    epsilon: float
    arms: Mapping[Arm, Trained]

    @property
    def first(self) -> Trained:
        """The arm with the least noise."""
        return next(iter(self.arms.values()))


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
            said(row.epsilon),
            *(_spread(row.arms[arm]) if arm in row.arms else "" for arm in Arm),
            ", ".join(f"{each.deviation:.3g}" for each in row.arms.values()),
            f"{FLAMBY_PRIVATE[row.epsilon]:.3f}" if row.epsilon in FLAMBY_PRIVATE else "",
        )
        for row in rows
    ]


def table_of(lines: Iterable[tuple[str, ...]], *, runs: int = RUNS) -> Table:
    """The lines for a terminal."""
    table = Table(
        title=f"Accuracy, mean ± standard deviation over {runs} runs; δ = {DELTA:g}, {ROUNDS} rounds"
    )
    for number, header in enumerate(HEADERS):
        table.add_column(header, justify="right" if number else "left")
    for line in lines:
        table.add_row(*line)
    return table


def draw(rows: Iterable[Row], path: Path) -> None:
    """Accuracy over ε; bands are one standard deviation of the runs, of the best and of the worst arm."""
    found = sorted(rows, key=lambda row: row.epsilon)
    noisy = [row for row in found if math.isfinite(row.epsilon)]
    runs = len(noisy[0].first.accuracy)
    figure, axis = plt.subplots(figsize=(9, 5.4), layout="constrained")
    for arm in Arm:
        at = np.array([row.epsilon for row in noisy])
        of_runs = np.array([row.arms[arm].accuracy for row in noisy])
        mean, deviation = of_runs.mean(axis=1), of_runs.std(axis=1, ddof=1)
        colour, width = _COLOURS[arm], 2.2 if arm in _BANDED else 1.2
        if arm in _BANDED:
            axis.fill_between(at, mean - deviation, mean + deviation, color=colour, alpha=0.15, linewidth=0)
        axis.plot(at, mean, color=colour, marker=_MARKERS[arm], linewidth=width, label=_SAID[arm])
    for row in found:
        if not math.isfinite(row.epsilon):
            level = float(row.first.accuracy.mean())
            axis.axhline(level, color="#1b1f24", linewidth=1.2, linestyle=(0, (4, 3)), zorder=1)
            axis.annotate(
                f"no noise, {level:.3f}",
                (0, level),
                xycoords=("axes fraction", "data"),
                xytext=(6, 4),
                textcoords="offset points",
            )
    published = sorted(each for each in FLAMBY_PRIVATE.items() if math.isfinite(each[0]))
    axis.plot(
        *zip(*published, strict=True),
        color=_GREY,
        marker="x",
        linestyle="none",
        label="FLamby's DP-FedAvg (published; another training)",
    )
    axis.set(xscale="log", ylabel="accuracy, mean over four hospitals' test patients")
    axis.set_xlabel(
        f"ε of a patient over {ROUNDS} rounds, δ = {DELTA:g} (logarithmic; smaller is more private)"
    )
    axis.set_xticks([row.epsilon for row in noisy], [said(row.epsilon) for row in noisy])
    axis.minorticks_off()
    axis.spines[["top", "right"]].set_visible(False)
    axis.grid(axis="y", color="#e5e7eb")
    axis.set_axisbelow(True)
    axis.legend(loc="lower right", frameon=False)
    axis.set_title(
        f"The same ε costs less where the noise is drawn inside the sum\n{runs} runs; bands: one standard "
        f"deviation",
        loc="left",
        fontsize=11,
    )
    figure.savefig(path, dpi=150)
    plt.close(figure)


def said(epsilon: float) -> str:
    """An epsilon for people."""
    return f"{epsilon:g}" if math.isfinite(epsilon) else "∞"


def _spread(trained: Trained) -> str:
    deviation = f" ± {trained.accuracy.std(ddof=1):.3f}" if len(trained.accuracy) > 1 else ""
    return f"{trained.accuracy.mean():.3f}{deviation}"
