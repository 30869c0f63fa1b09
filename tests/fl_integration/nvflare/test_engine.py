"""NVFlare's own simulator, a process for each site: the quickstart as it is, and sites that learn the sum."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from fl_integration.embedding.member import SITS_OUT
from fl_integration.loopback.processes import FOLDER_VARIABLE, kill_marked
from fl_integration.nvflare import Rehearsed, site_model
from tests.fresh import ROOT

pytestmark = [pytest.mark.engine, pytest.mark.xdist_group("engine")]

QUICKSTART = ROOT / "fl_integration" / "nvflare" / "quickstart" / "hospitals.py"
SECONDS = 240
"""For a run on a busy machine: the simulator takes twenty to start and to end."""


def run(script: Path, folder: Path) -> str:
    """What a script prints, in a fresh interpreter that sees this checkout; nothing of it is left."""
    try:
        done = subprocess.run(
            [sys.executable, str(script)],
            capture_output=True,
            text=True,
            check=False,
            timeout=SECONDS,
            cwd=folder,
            env={**os.environ, "PYTHONPATH": str(ROOT), FOLDER_VARIABLE: str(folder)},
        )
    finally:
        kill_marked(FOLDER_VARIABLE, str(folder))
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    return done.stdout


def test_the_quickstart_runs_as_it_stands(tmp_path: Path) -> None:
    script = tmp_path / "hospitals.py"
    script.write_bytes(QUICKSTART.read_bytes())
    said = run(script, tmp_path)
    assert said.count("patients, loss") == 5
    assert said.count("lost {}") == 5
    accuracy = float(said.split("accuracy ")[1].split()[0])
    assert accuracy > 0.8
    assert np.load(tmp_path / "quickstart-run" / "model.npz")["weight"].shape == (12,)
    for site in ("clinic-a", "clinic-b", "clinic-c"):
        assert (tmp_path / "quickstart-run" / "rehearsal" / site / "releases.sqlite").exists()


JOB = """
import sys
sys.path.insert(0, {root!r})
from nvflare.collab import CollabRecipe
from nvflare.recipe import SimEnv
from tests.fl_integration.nvflare import engine_app

if __name__ == "__main__":
    recipe = CollabRecipe("learners", server=engine_app, client=engine_app, min_clients=4)
    recipe.execute(SimEnv(clients=list(engine_app.SITES), workspace_root={workspace!r}))
"""


def test_sites_that_learn_the_sum_end_with_one_model_and_keep_their_errors(tmp_path: Path) -> None:
    script, workspace = tmp_path / "job.py", tmp_path / "workspace"
    script.write_text(JOB.format(root=str(ROOT), workspace=str(workspace)))
    run(script, tmp_path)
    first, second, third = json.loads((tmp_path / "said.json").read_text())
    everybody = ["site-1", "site-2", "site-3", "site-4"]
    assert first == third == [everybody, {}, ""]
    assert second == [everybody[:3], {"site-4": SITS_OUT}, ""]
    rehearsal = Rehearsed(tmp_path / "rehearsal", everybody)
    models = [site_model(rehearsal.enrol(name))["w"] for name in everybody]
    for model in models:
        np.testing.assert_array_equal(model, models[0])
    np.testing.assert_allclose(models[0], 2 * 0.25 + 0.2, atol=1e-3)
    # The exception is in its site's log, and nowhere at the server.
    told = {log.parent.name: "a patient's name" in log.read_text() for log in workspace.rglob("log.txt")}
    assert told.get("site-4")
    assert not told["server"]
