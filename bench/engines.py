"""What a round costs on the engines themselves: `python -m bench engines`.

Three of them. The simulation is Flower's own on Ray: nodes are virtual, and apps run in two processes that
stay. The deployment (`--deployment`) is a SuperLink and three SuperNodes on the loopback interface over TLS,
each let in by its key. There Flower starts a process for each message to each node, and a SuperNode that
finds no message sleeps for three seconds: that is most of what stands in its table. NVFlare's simulator
(`--nvflare`) runs a process for each site and keeps it; its contenders share one job (`nvflare_app`).

Training is next to nothing (`engine_apps`), and the contenders take turns, so that a busy neighbour meets
all of them. A round's seconds are the median over the rounds of all runs, without each run's first two: they
start processes and make a session's keys. Wall clock: read the ratios to FedAvg in the clear.

Needs flwr, and for the simulation its extra `simulation` (Ray), or nvflare; what is missing costs its rows.
Flower is told to stay offline: it sends nothing about its use and looks for no newer version.
"""

import json
import logging
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass
from enum import Enum, auto
from importlib import import_module
from importlib.util import find_spec
from itertools import count
from pathlib import Path
from typing import Any, Final

from rich.table import Table

from secagg.errors import MissingExtraError

__all__ = ["Engine", "Row", "measure", "table_of"]

VALUES: Final = 10**6
STEADY: Final = 2
"""Rounds of each run that are left out."""
RUN_SECONDS: Final = 900
OFFLINE: Final = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    # Ray will stop touching this variable, and warns of it at each start.
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}
CAPTION: Final = f"{VALUES:,} values, next to no training, wall clock, medians; read the ratios."


class Engine(Enum):
    """What the apps run on."""

    SIMULATION = auto()
    DEPLOYMENT = auto()
    NVFLARE = auto()


TITLES: Final = {
    Engine.SIMULATION: "Flower's simulation on Ray, two processes for the clients",
    Engine.DEPLOYMENT: "SuperLink and SuperNodes on loopback over TLS",
    Engine.NVFLARE: "NVFlare's simulator, a process for each site",
}
BASES: Final = {
    Engine.SIMULATION: "FedAvg",
    Engine.DEPLOYMENT: "FedAvg",
    Engine.NVFLARE: "average in the clear",
}
NODES: Final = {Engine.SIMULATION: (3, 10), Engine.DEPLOYMENT: (3,), Engine.NVFLARE: (3,)}
LAPS: Final = {Engine.SIMULATION: 3, Engine.DEPLOYMENT: 1, Engine.NVFLARE: 1}
ROUNDS: Final = {Engine.SIMULATION: 8, Engine.DEPLOYMENT: 5, Engine.NVFLARE: 22}


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A contender among so many nodes.

    Attributes:
        contender: its name.
        nodes: how many take part.
        seconds: of a round; None where there is `reason`.
        reason: why it was not measured; empty where it was.
    """

    contender: str
    nodes: int
    seconds: float | None = None
    reason: str = ""


Run = Callable[[Any], list[float]]
"""A `Work` -> seconds of each of its rounds."""


def measure(engine: Engine, *, quick: bool = False) -> list[Row]:
    """Measures all contenders on an engine: a row for each, and for each number of nodes.

    Args:
        engine: what they run on.
        quick: one lap.
    """
    if missing := _missing(engine):
        return [Row(contender="all", nodes=nodes, reason=missing) for nodes in NODES[engine]]
    if engine is Engine.NVFLARE:
        return _nvflare(rounds=8 if quick else ROUNDS[engine])
    os.environ.update(OFFLINE)
    try:
        apps = import_module("bench.engine_apps")
    except MissingExtraError as error:
        return [Row(contender="all", nodes=nodes, reason=str(error)) for nodes in NODES[engine]]
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="secagg-engines-") as folder:
        for nodes in NODES[engine]:
            home = Path(folder) / f"{nodes}-nodes"
            home.mkdir()
            with _open(engine, home, nodes) as run:
                laps = 1 if quick else LAPS[engine]
                rows += _turns(run, apps, home, nodes, laps=laps, rounds=ROUNDS[engine])
    return rows


def _turns(run: Run, apps: Any, home: Path, nodes: int, *, laps: int, rounds: int) -> list[Row]:
    """A row for each contender; they take turns. Who cannot run says so and leaves the others alone."""
    steady: dict[str, list[float]] = {name: [] for name in apps.CONTENDERS}
    reasons: dict[str, str] = {}
    numbers = count(1)
    for _ in range(laps):
        for name in [each for each in apps.CONTENDERS if each not in reasons]:
            folder = home / f"run-{next(numbers)}"
            folder.mkdir()
            work = apps.Work(contender=name, nodes=nodes, rounds=rounds, values=VALUES, folder=str(folder))
            try:
                steady[name] += run(work)[STEADY:]
            except (MissingExtraError, RuntimeError, TimeoutError) as error:
                reasons[name] = str(error).splitlines()[0]
    return [
        Row(contender=name, nodes=nodes, reason=reasons[name])
        if name in reasons
        else Row(contender=name, nodes=nodes, seconds=statistics.median(seconds))
        for name, seconds in steady.items()
    ]


def table_of(engine: Engine, rows: list[Row]) -> Table:
    """The rows, with ratios to FedAvg among as many nodes."""
    table = Table(title=TITLES[engine], caption=CAPTION, title_justify="left", caption_justify="left")
    table.add_column("contender")
    for heading in ("nodes", "s a round", f"× {BASES[engine]}"):
        table.add_column(heading, justify="right")
    plain = {row.nodes: row.seconds for row in rows if row.contender == BASES[engine]}
    for row in rows:
        if row.seconds is None:
            table.add_row(f"{row.contender}: {row.reason}", str(row.nodes))
            continue
        base = plain[row.nodes]
        ratio = f"{row.seconds / base:.2f}" if base else ""
        table.add_row(row.contender, str(row.nodes), f"{row.seconds:.2f}", ratio)
    return table


def _missing(engine: Engine) -> str:
    """Why this engine cannot run here; empty where it can."""
    if engine is Engine.NVFLARE:
        return "" if find_spec("nvflare") else "nvflare is not installed"
    if find_spec("flwr") is None:
        return "flwr is not installed"
    if engine is Engine.SIMULATION and find_spec("ray") is None:
        return "ray is not installed (flwr's extra 'simulation')"
    return ""


def _nvflare(*, rounds: int) -> list[Row]:
    """A row for each contender of one job; they take turns in it."""
    (nodes,) = NODES[Engine.NVFLARE]
    with tempfile.TemporaryDirectory(prefix="secagg-engines-") as folder:
        done = subprocess.run(
            [sys.executable, "-m", "bench.nvflare_app", folder, str(rounds)],
            capture_output=True,
            text=True,
            check=False,
            timeout=RUN_SECONDS,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
        )
        report = Path(folder) / "report.json"
        if not report.exists():
            last = next(iter(reversed((done.stdout + done.stderr).splitlines())), "the job said nothing")
            return [Row(contender="all", nodes=nodes, reason=last)]
        seconds: dict[str, list[float]] = json.loads(report.read_text(encoding="utf-8"))
    return [
        Row(contender=name, nodes=nodes, seconds=statistics.median(each[STEADY:]))
        for name, each in seconds.items()
    ]


def _open(engine: Engine, home: Path, nodes: int) -> AbstractContextManager[Run]:
    return _simulation(home, nodes) if engine is Engine.SIMULATION else _deployment(home, nodes)


@contextmanager
def _simulation(home: Path, nodes: int) -> Iterator[Run]:
    """Ray in this process's tree, a core for each of the two processes that run clients."""
    os.environ["FLWR_HOME"] = str(home)
    apps = import_module("bench.engine_apps")
    simulation = import_module("flwr.simulation")
    logging.getLogger("flwr").setLevel(logging.CRITICAL)  # It narrates every step; errors come in the report.
    backend = {
        "client_resources": {"num_cpus": 1, "num_gpus": 0.0},
        "init_args": {"num_cpus": 2, "log_to_driver": False, "logging_level": logging.CRITICAL},
    }

    def run(work: Any) -> list[float]:
        server, client = work.pair()
        simulation.run_simulation(server, client, nodes, backend_config=backend)
        seconds: list[float] = apps.read_report(work.report)
        return seconds

    yield run


@contextmanager
def _deployment(home: Path, nodes: int) -> Iterator[Run]:
    """SuperLink and SuperNodes, each a process of its own."""
    from fl_integration.flower.deployment import Apps, deployment

    apps = import_module("bench.engine_apps")
    with deployment(home / "engine", nodes=nodes) as engine:

        def run(work: Any) -> list[float]:
            work.pair()  # what is missing is missing here as well
            named = Apps(
                server="bench.engine_apps:server", client="bench.engine_apps:client", config=asdict(work)
            )
            engine.run(named, seconds=RUN_SECONDS)
            seconds: list[float] = apps.read_report(work.report)
            return seconds

        yield run
