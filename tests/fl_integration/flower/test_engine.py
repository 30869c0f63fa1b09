"""Secure sums on Flower's own engine: simulated nodes on Ray, and processes that talk over TLS.

These start an engine: `make test-all` runs them.
"""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.fresh import ROOT

pytest.importorskip("flwr", reason="flwr is not installed: pip install 'secagg[flower]'")

from tests.fl_integration.flower.deployment import FOLDER_VARIABLE, Apps, deployment, until
from tests.fl_integration.flower.engine_apps import SETTINGS, STEP
from tests.fl_integration.flower.processes import script

OFFLINE = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
}
pytestmark = [pytest.mark.engine, pytest.mark.xdist_group("flower engine")]

APPS = "tests.fl_integration.flower.engine_apps"
QUICKSTART = ROOT / "fl_integration" / "flower" / "quickstart"
SIMULATION = f"""
from flwr.simulation import run_simulation
from {APPS} import client, server
backend = {{"client_resources": {{"num_cpus": 1, "num_gpus": 0.0}}, "init_args": {{"num_cpus": 2}}}}
run_simulation(server, client, %d, backend_config=backend)
"""


def mean(places: Iterable[int]) -> float:
    """What one round adds: the sites weigh the same."""
    return STEP * float(np.mean([place + 1 for place in places]))


def ask(folder: Path, **settings: float) -> None:
    """Leaves what the apps are to do."""
    folder.mkdir(parents=True, exist_ok=True)
    asked = {
        "slow-round": 0,
        "fraction-evaluate": 0.0,
        **{k.replace("_", "-"): v for k, v in settings.items()},
    }
    (folder / SETTINGS).write_text(json.dumps(asked))


def report_in(folder: Path) -> dict[str, Any]:
    """What the server saw."""
    found: dict[str, Any] = json.loads((folder / "report.json").read_text())
    return found


@pytest.mark.parametrize("nodes", [3, 10])
def test_a_simulation_trains_and_evaluates_through_sums_alone(tmp_path: Path, nodes: int) -> None:
    pytest.importorskip("ray", reason="ray is not installed: pip install 'secagg[simulation]'")
    ask(tmp_path, sites=nodes, rounds=3, fraction_evaluate=1.0)
    environment = {
        **os.environ,
        **OFFLINE,
        FOLDER_VARIABLE: str(tmp_path),
        "FLWR_HOME": str(tmp_path / "home"),
    }
    done = subprocess.run(
        [sys.executable, "-c", SIMULATION % nodes],
        cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    report = report_in(tmp_path)
    assert report["models"] == pytest.approx([number * mean(range(nodes)) for number in range(4)], abs=1e-3)
    assert report["losses"] == pytest.approx(
        dict.fromkeys("123", min(4.0, np.mean(np.minimum(np.arange(nodes), 4)))), abs=1e-3
    )
    weights = np.arange(nodes) + 1
    right = float(np.average(np.arange(nodes) / 10, weights=weights))
    assert report["accuracies"] == pytest.approx(dict.fromkeys("123", right), abs=1e-3)
    assert report["here"] == []


@pytest.mark.parametrize("sites", [3, 4])
def test_a_supernode_is_killed_in_mid_round_and_comes_back(tmp_path: Path, sites: int) -> None:
    # Three sites at the defaults need all three: that round is lost. Of four, one may go, and the round is not.
    with deployment(tmp_path, nodes=sites) as engine:
        ask(engine.folder, sites=sites, rounds=4, slow_round=2)
        run = engine.begin(Apps(server=f"{APPS}:server", client=f"{APPS}:client"))
        marks = engine.folder / "trains-1"
        until(lambda: marks.exists() and "2" in marks.read_text().split(), seconds=120, what="site 1 trains")
        before = engine.node_id(1)
        engine.kill(1)
        engine.start(1)
        assert engine.node_id(1) == before
        finished = engine.finish(run, seconds=400)
    assert finished.status == "finished:completed", finished.log
    models = report_in(tmp_path)["models"]
    everybody = mean(range(sites))
    steps = np.diff(models)
    assert steps[0] == pytest.approx(everybody, abs=1e-3)
    lost = 0.0 if sites == 3 else mean([0, 2, 3])
    assert steps[1] == pytest.approx(lost, abs=1e-3)
    assert steps[-1] == pytest.approx(everybody, abs=1e-3)  # it is back
    assert report_in(tmp_path)["here"] == []


def test_the_quickstart_runs_as_it_stands(tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="ray is not installed: pip install 'secagg[simulation]'")
    pytest.importorskip("torch", reason="torch is not installed: pip install 'secagg[train]'")
    environment = {
        **os.environ, **OFFLINE, "FLWR_HOME": str(tmp_path / "home"), "TMPDIR": str(tmp_path),
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }  # fmt: skip
    done = subprocess.run(
        [script("flwr"), "run", str(QUICKSTART), "--stream", "--federation-config", "num-supernodes=3"],
        cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip
    said = done.stdout + done.stderr
    accuracies = [float(each) for each in re.findall(r"round \d+: accuracy (\d\.\d+)", said)]
    assert len(accuracies) == 5, said
    assert accuracies[-1] > 0.6
