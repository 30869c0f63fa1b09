"""NVFlare's own simulator, a process for each site: the quickstart as it is, and sites that learn the sum."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from nvflare.collab import CollabRecipe

from fl_integration.embedding.member import SITS_OUT
from fl_integration.loopback.processes import FOLDER_VARIABLE, kill_marked
from fl_integration.nvflare import Rehearsed, site_model
from fl_integration.nvflare.deployment import deployment
from fl_integration.site.keys import save_identity
from fl_integration.site.roster_file import write_roster
from protocols import Identity, Roster
from protocols.membership import RosterVersion
from tests.fl_integration.nvflare import deployed_app
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


def test_in_a_provisioned_deployment_sites_are_who_their_kits_say(tmp_path: Path) -> None:
    """TLS, kits of NVFlare's own making, code that the sites have; and one site whose kit is another's."""
    *honest, odd = deployed_app.SITES
    identities = [Identity.generate(site) for site in deployed_app.SITES]
    roster = RosterVersion(Roster.of(*identities))
    recipe = CollabRecipe("deployed", server=deployed_app, client=deployed_app, min_clients=len(identities))
    passwords = {site: {"SECAGG_PASSWORD": f"the password of {site}"} for site in deployed_app.SITES}
    with deployment(tmp_path, sites=deployed_app.SITES, environment=passwords) as engine:
        write_roster(roster, tmp_path / deployed_app.ROSTER.name)
        for identity in identities:
            site = identity.client
            own = engine.kit(site) / "local"
            save_identity(identity, own / "key.pem", password=passwords[site]["SECAGG_PASSWORD"])
            write_roster(roster, own / "roster.txt")
            settings = {
                "identity": "key.pem",
                "roster": "roster.txt",
                "state": str(tmp_path / "states" / site),
            }
            (own / "secagg.json").write_text(json.dumps(settings))
        # Its process is connected, by its own certificate; what lies in its kit is looked at in each call.
        kits = [engine.kit(site) / "startup" / "client.crt" for site in (honest[0], odd)]
        shutil.copy(*kits)
        report = engine.run(recipe, seconds=SECONDS)
        assert report.status == "FINISHED:COMPLETED", report.log
    assert f"names '{honest[0]}', NVFlare's name of the site is '{odd}'" in report.log
    first, second = json.loads((tmp_path / deployed_app.SAID.name).read_text())
    assert first[:4] == second[:4] == [honest, {odd: "this node is no member"}, "", 60]
    assert second[4] == pytest.approx(2 * 0.5 * (0.1 * 10 + 0.2 * 20 + 0.3 * 30) / 60, abs=1e-3)
