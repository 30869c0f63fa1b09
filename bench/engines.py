"""What a round costs on Flower's own engine: `python -m bench engines`.

Two engines. The simulation is Flower's own on Ray: nodes are virtual, apps run in two processes that stay, and
the model has 10^6 float32 values. The deployment (`--deployment`) is a SuperLink and three SuperNodes on the
loopback interface over TLS, each let in by its key; Flower starts a process for each message to each node, and a
SuperNode that finds no message sleeps three seconds, which is most of what stands in that column.

Training is next to nothing (`engine_apps`). The contenders take turns, `LAPS` times, each with few rounds and
with many; a round's seconds are the difference of the two least times over the difference of rounds, so that
what a run pays once is not in it. Wall clock: a busy machine makes all of them slower, and their ratios to
FedAvg, which is what to read, less so.

Needs flwr, for the simulation with its extra `simulation` (Ray); what is missing costs its rows. Both are told
to stay offline.
"""

import json
import logging
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from enum import Enum, auto
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

from rich.table import Table

from secagg.errors import MissingExtraError

__all__ = ["Engine", "Row", "measure", "table_of"]

VALUES: Final = 10**6
SIMULATED: Final = (3, 10)
DEPLOYED: Final = (3,)
LAPS: Final = 3
RUN_SECONDS: Final = 900
OFFLINE: Final = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    # Ray will stop touching this variable, and warns of it at each start.
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}


BASE: Final = "FedAvg"
CAPTION: Final = "10^6 values, next to no training, wall clock, marginal round; read the ratios."


class Engine(Enum):
    """What the apps run on."""

    SIMULATION = auto()
    DEPLOYMENT = auto()


TITLES: Final = {
    Engine.SIMULATION: "Flower's simulation on Ray, two processes for the clients",
    Engine.DEPLOYMENT: "SuperLink and SuperNodes on loopback over TLS",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A contender among so many nodes.

    Attributes:
        contender: its name.
        nodes: how many take part.
        seconds: of a round, wall clock; None where there is `reason`.
        reason: why it was not measured; empty where it was.
    """

    contender: str
    nodes: int
    seconds: float | None
    reason: str = ""


Run = Callable[[str, int], float]
"""(contender, rounds) -> seconds of the server's part."""


def measure(engine: Engine, *, quick: bool = False) -> list[Row]:
    """Measures all contenders on an engine: a row for each, and for each number of nodes.

    Args:
        engine: what they run on.
        quick: one lap, and fewer rounds.

    Raises:
        RuntimeError: an engine did not start, or a run failed; the text has its words.
    """
    sizes = SIMULATED if engine is Engine.SIMULATION else DEPLOYED
    if missing := _missing(engine):
        return [Row(contender="all", nodes=nodes, seconds=None, reason=missing) for nodes in sizes]
    os.environ.update(OFFLINE)
    few, many, laps = (2, 6, 1) if quick else (2, 12, LAPS)
    contenders: Mapping[str, Any] = import_module("bench.engine_apps").CONTENDERS
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="secagg-engines-") as folder:
        for nodes in sizes:
            reasons = {name: _absent(contender, nodes) for name, contender in contenders.items()}
            present = [name for name, reason in reasons.items() if not reason]
            with _open(engine, Path(folder) / str(nodes), nodes) as run:
                least = _turns(run, present, few=few, many=many, laps=laps)
            rows += [
                Row(contender=name, nodes=nodes, seconds=least.get(name), reason=reason)
                for name, reason in reasons.items()
            ]
    return rows


def table_of(engine: Engine, rows: list[Row]) -> Table:
    """The rows, with ratios to FedAvg among as many nodes."""
    table = Table(title=TITLES[engine], caption=CAPTION, title_justify="left", caption_justify="left")
    table.add_column("contender")
    for heading in ("nodes", "s a round", "× FedAvg"):
        table.add_column(heading, justify="right")
    plain = {row.nodes: row.seconds for row in rows if row.contender == BASE}
    for row in rows:
        if row.seconds is None:
            table.add_row(row.contender, str(row.nodes), row.reason)
            continue
        base = plain[row.nodes]
        ratio = f"{row.seconds / base:.1f}" if base and row.seconds > 0 else "too close to tell"
        table.add_row(row.contender, str(row.nodes), f"{row.seconds:.2f}", ratio)
    return table


def _missing(engine: Engine) -> str:
    """Why this engine cannot run here; empty where it can."""
    if find_spec("flwr") is None:
        return "flwr is not installed"
    if engine is Engine.SIMULATION and find_spec("ray") is None:
        return "ray is not installed (flwr's extra 'simulation')"
    return ""


def _absent(contender: Callable[[int], Any], nodes: int) -> str:
    """Why a contender cannot run here; empty where it can."""
    try:
        contender(nodes)
    except (ImportError, MissingExtraError) as error:
        return str(error)
    return ""


def _turns(run: Run, names: list[str], *, few: int, many: int, laps: int) -> dict[str, float]:
    """Seconds of a further round of each, which take turns."""
    least = {(name, rounds): float("inf") for name in names for rounds in (few, many)}
    for _ in range(laps):
        for key in least:
            least[key] = min(least[key], run(*key))
    return {name: (least[name, many] - least[name, few]) / (many - few) for name in names}


def _read(report: Path, log: str = "") -> float:
    """What `timed` wrote."""
    if not report.exists():
        raise RuntimeError(f"the server's part did not come to an end\n{log}")
    said = json.loads(report.read_text(encoding="utf-8"))
    if "error" in said:
        raise RuntimeError(f"{said['error']}\n{log}")
    return float(said["seconds"])


def _open(engine: Engine, folder: Path, nodes: int) -> AbstractContextManager[Run]:
    return (_simulation if engine is Engine.SIMULATION else _deployment)(folder, nodes)


@contextmanager
def _simulation(folder: Path, nodes: int) -> Iterator[Run]:
    """Ray in this process's tree, one core for each of two processes that run clients."""
    folder.mkdir()
    os.environ["FLWR_HOME"] = str(folder)
    apps = import_module("bench.engine_apps")
    simulation = import_module("flwr.simulation")
    logging.getLogger("flwr").setLevel(logging.CRITICAL)  # It narrates every step; errors come in the report.
    backend = {
        "client_resources": {"num_cpus": 1, "num_gpus": 0.0},
        "init_args": {"num_cpus": 2, "log_to_driver": False, "logging_level": logging.CRITICAL},
    }

    def run(contender: str, rounds: int) -> float:
        report = folder / "report.json"
        report.unlink(missing_ok=True)
        server, client = apps.CONTENDERS[contender](nodes)
        config = {"rounds": rounds, "nodes": nodes, "values": VALUES, "report": str(report)}
        simulation.run_simulation(apps.timed(server, config), client, nodes, backend_config=backend)
        return _read(report)

    yield run


@contextmanager
def _deployment(folder: Path, nodes: int) -> Iterator[Run]:
    """SuperLink and SuperNodes, each a process of its own."""
    from tests.fl_integration.flower.deployment import Apps, deployment

    with deployment(folder, nodes=nodes) as engine:

        def run(contender: str, rounds: int) -> float:
            report = folder / "report.json"
            report.unlink(missing_ok=True)
            config = {"rounds": rounds, "nodes": nodes, "values": VALUES, "report": str(report)}
            apps = Apps(
                server="bench.engine_apps:server",
                client="bench.engine_apps:client",
                config=config | {"contender": contender},
            )
            ended = engine.run(apps, seconds=RUN_SECONDS)
            return _read(report, ended.log)

        yield run
