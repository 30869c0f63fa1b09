"""The job of FILTERS.md, as it stands there, in NVFlare's own simulator."""

import json
import os
import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fl_integration.embedding.enrolment import Enrolment
from fl_integration.embedding.site_model import site_model
from fl_integration.nvflare import filters
from fl_integration.site.keys import load_identity, save_identity
from fl_integration.site.roster_file import read_roster, write_roster
from protocols.identity import Identity, Roster
from protocols.membership import RosterVersion

PAGE = Path(filters.__file__).parent / "FILTERS.md"
ROOT = Path(filters.__file__).parents[2]
PASSWORD = "correct horse battery staple"
SITES = ("site-1", "site-2", "site-3")
OURS = (
    "fl_integration.nvflare.filters.ModelOpener",
    "fl_integration.nvflare.filters.UpdateSealer",
    "fl_integration.nvflare.filters_server.SealedSum",
)


def blocks() -> list[dict[str, Any]]:
    """The page's configurations: the server's, the sites', a site's file, a privacy policy."""
    return [json.loads(each) for each in re.findall(r"```json\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL)]


def parts(config: Any) -> list[dict[str, Any]]:
    """Everything in a configuration that names a class."""
    if isinstance(config, dict):
        own = [config] if "path" in config else []
        return own + [each for value in config.values() for each in parts(value)]
    return [each for value in config for each in parts(value)] if isinstance(config, list) else []


def test_every_class_of_the_page_is_built_from_what_stands_there() -> None:
    named = [part for config in blocks() for part in parts(config)]
    assert {part["path"] for part in named} >= set(OURS)
    for part in named:
        module, _, name = part["path"].rpartition(".")
        getattr(import_module(module), name)(**part["args"])


def test_the_pages_protocols_are_one() -> None:
    named = [part["args"] for config in blocks() for part in parts(config)]
    protocols = [args["protocol"] for args in named if "protocol" in args]
    assert len(protocols) == 2
    assert protocols[0] == protocols[1]


@pytest.mark.engine
@pytest.mark.xdist_group("engine")
def test_the_job_of_the_page_runs_in_the_simulator(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server, client, _, privacy = blocks()
    config = tmp_path / "job" / "app" / "config"
    config.mkdir(parents=True)
    (config / "config_fed_server.json").write_text(json.dumps(server))
    (config / "config_fed_client.json").write_text(json.dumps(client))
    meta = {"name": "page", "resource_spec": {}, "min_clients": 3, "deploy_map": {"app": ["@ALL"]}}
    (tmp_path / "job" / "meta.json").write_text(json.dumps(meta))
    local = tmp_path / "workspace" / "local"
    local.mkdir(parents=True)
    allowed = {"format_version": 2, "class_allow_list": ["nvflare.", *OURS]}
    (local / "resources.json").write_text(json.dumps(allowed))
    # The simulator's server reads the sites' policy too, and must not seal what arrives; its sites read none.
    (local / "privacy.json").write_text(json.dumps(privacy))
    identities = [Identity.generate(name) for name in SITES]
    write_roster(RosterVersion(Roster.of(*identities)), tmp_path / "roster.txt")
    (tmp_path / "server.json").write_text(json.dumps({"roster": "roster.txt"}))
    for identity in identities:
        name = identity.client
        save_identity(identity, tmp_path / f"{name}.pem", password=PASSWORD)
        said = {"identity": f"{name}.pem", "roster": "roster.txt", "state": f"state-{name}"}
        (tmp_path / f"{name}.json").write_text(json.dumps(said))
    monkeypatch.setenv("SECAGG_SITE_FILE", str(tmp_path / "{site}.json"))
    monkeypatch.setenv("SECAGG_PASSWORD", PASSWORD)
    ended = subprocess.run(
        [
            sys.executable, "-m", "nvflare.private.fed.app.simulator.simulator", str(tmp_path / "job"),
            "-w", str(tmp_path / "workspace"), "-n", "3", "-t", "3",
        ],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )  # fmt: skip
    said = ended.stdout + ended.stderr
    assert ended.returncode == 0, said[-2000:]
    assert said.count("train: the sum of 3 of 3") == 3
    # The persistor's model, and three rounds of NPTrainer's step of 1 at every site alike.
    start = np.arange(1, 10, dtype=np.float32).reshape(3, 3)
    for name in SITES:
        held = site_model(
            Enrolment(
                identity=load_identity(tmp_path / f"{name}.pem", password=PASSWORD),
                roster=read_roster(tmp_path / "roster.txt"),
                state_dir=tmp_path / f"state-{name}",
            ),
            study="heart-2026",
        )
        np.testing.assert_allclose(held["numpy_key"], start + 3, atol=1e-3)
    np.testing.assert_array_equal(np.load(next((tmp_path / "workspace").rglob("server.npy"))), start)
