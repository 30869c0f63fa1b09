"""Flower's real engines: its simulation on Ray, and a deployment over TLS that loses a node in mid-round.

Nothing here is simulated by us: the processes are Flower's own, and the apps those of a user.
"""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("flwr", reason="flwr is not installed")

from fl_integration.flower.deployment import Apps, Deployment, deployment
from fl_integration.loopback.processes import FOLDER_VARIABLE, kill_marked, script, until
from tests.fl_integration.flower.engine_apps import VICTIM, rounds_file, training_file
from tests.fresh import ROOT, run

pytestmark = [pytest.mark.engine, pytest.mark.xdist_group("engine")]

ROUND_SECONDS = 120
"""For a round on a busy machine, a node's last heartbeat included."""

SIMULATION = """
    import os
    os.environ |= {{"FLWR_HOME": {folder!r}, "FLWR_TELEMETRY_ENABLED": "0", "RAY_USAGE_STATS_ENABLED": "0"}}
    from bench.engine_apps import Work, read_report
    from flwr.simulation import run_simulation

    work = Work(contender="MaskedSum", nodes={nodes}, rounds=2, values=1000, folder={folder!r})
    server, client = work.pair()
    backend = {{"client_resources": {{"num_cpus": 1, "num_gpus": 0.0}}, "init_args": {{"num_cpus": 2}}}}
    run_simulation(server, client, {nodes}, backend_config=backend)
    print("rounds:", len(read_report(work.report)))
"""


@pytest.mark.parametrize("nodes", [3, 10])
def test_the_simulation_sums(nodes: int, tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="ray is not installed")
    # The report is an error unless every round moved the model by everybody's step.
    assert run(SIMULATION.format(folder=str(tmp_path), nodes=nodes)).endswith("rounds: 2")


def begin(engine: Deployment, *, sites: int, rounds: int) -> int:
    module = "tests.fl_integration.flower.engine_apps"
    config = {"sites": sites, "rounds": rounds, "deadly-round": 2}
    return engine.begin(Apps(server=f"{module}:server", client=f"{module}:client", config=config))


def steps(engine: Deployment) -> list[float]:
    """How far the model had come at the start and after each round."""
    path = rounds_file(engine.folder)
    return [float(line) for line in path.read_text().split()] if path.exists() else []


def await_rounds(engine: Deployment, ended: int) -> list[float]:
    engine.until(lambda: len(steps(engine)) > ended, seconds=ROUND_SECONDS, what=f"round {ended} has ended")
    return steps(engine)


def kill_in_mid_round(engine: Deployment) -> None:
    engine.until(training_file(engine.folder).exists, seconds=ROUND_SECONDS, what="the victim trains")
    engine.kill(VICTIM)


def test_three_need_all_three_and_whoever_was_killed_is_in_the_next_round(tmp_path: Path) -> None:
    with deployment(tmp_path / "engine", nodes=3) as engine:
        before = engine.node_id(VICTIM)
        number = begin(engine, sites=3, rounds=3)
        kill_in_mid_round(engine)
        assert await_rounds(engine, 2) == [0, 1, 1]
        engine.start(VICTIM)
        assert engine.node_id(VICTIM) == before  # its key is registered, and the id goes with the key
        report = engine.finish(number, seconds=ROUND_SECONDS)
        assert report.status == "finished:completed", report.log
        assert steps(engine) == [0, 1, 1, 2], report.log


QUICKSTART = ROOT / "fl_integration" / "flower" / "quickstart"
OFFLINE = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
}


def test_the_quickstart_runs_as_it_stands(tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="ray is not installed")
    pytest.importorskip("torch", reason="torch is not installed")
    beside = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {
        **os.environ, **OFFLINE, "FLWR_HOME": str(tmp_path / "home"), "TMPDIR": str(tmp_path), "PATH": beside,
    }  # fmt: skip
    try:
        done = subprocess.run(
            [script("flwr"), "run", str(QUICKSTART), "--stream", "--federation-config", "num-supernodes=3"],
            cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=600, check=False,
        )  # fmt: skip
    finally:
        kill_marked(
            "FLWR_HOME", environment["FLWR_HOME"]
        )  # Flower's local SuperLink stays on for the next run
    said = done.stdout + done.stderr
    accuracies = [float(each) for each in re.findall(r"round \d+: accuracy (\d\.\d+)", said)]
    assert len(accuracies) == 5, said
    assert accuracies[-1] > 0.68  # more than the better half of guesses; 0.74 to 0.77 from four beginnings


OPEN = """
import sys, time
from pathlib import Path
from fl_integration.flower.deployment import deployment

with deployment(Path(sys.argv[1]), nodes=1):
    print("open", flush=True)
    time.sleep(600)
"""


def test_nothing_is_left_when_whoever_started_it_is_killed(tmp_path: Path) -> None:
    starter = subprocess.Popen([sys.executable, "-c", OPEN, str(tmp_path)], cwd=ROOT, stdout=subprocess.PIPE)
    assert starter.stdout is not None
    assert starter.stdout.readline() == b"open\n"
    assert len(marked(tmp_path)) >= 4  # link, node, and what each of them starts
    starter.send_signal(signal.SIGKILL)
    starter.communicate()
    until(lambda: not marked(tmp_path), seconds=30, what="all of the deployment's processes have ended")


def marked(folder: Path) -> list[str]:
    """Processes of a deployment."""
    mark, found = os.fsencode(f"{FOLDER_VARIABLE}={folder}"), []
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            if mark in path.read_bytes().split(b"\0"):
                found.append(path.parent.name)
        except OSError:
            continue
    return found
