"""What a hostile reader found in this room, each as the attack that worked: it does not any more."""

import importlib
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from nvflare.apis.fl_exception import UnsafeComponentError
from nvflare.app_common.default_component_policy import DEFAULT_CLASS_ALLOW_LIST
from nvflare.app_common.widgets.component_path_authorizer import ComponentPathAuthorizer
from nvflare.apis.workspace import Workspace

from fl_integration.nvflare import here as room
from fl_integration.nvflare.deployment import Deployment
from fl_integration.nvflare.here import Here
from fl_integration.nvflare.provisioning import COLLAB_CLASSES, OWN_CLASSES, Code, settle
from secagg.errors import ParameterError
from tests.fl_integration.nvflare.loopback import JOB
from tests.fl_integration.nvflare.stage import Study, by


# What a job may name


def kit(folder: Path) -> Path:
    """A site's kit as NVFlare makes it, and as its operator then settles it."""
    for each in ("startup", "local"):
        (folder / each).mkdir(parents=True)
    resources = {"class_allow_list": list(DEFAULT_CLASS_ALLOW_LIST)}
    (folder / "local" / "resources.json.default").write_text(json.dumps(resources))
    (folder / "local" / "authorization.json.default").write_text(json.dumps({"format_version": "1.0"}))
    settle(folder, code=Code.OF_THE_SITE, store=folder / "store")
    return folder


@pytest.mark.parametrize(
    "name",
    [
        "command_line.ask",  # a process, in an environment that the job names
        "deployment.kill_marked",  # ends every process with a variable that the job names
        "deployment.Deployment",
        "provisioning.settle",  # writes the site's policies
        "provisioning.forget_authority",  # removes folders
        "enrolling.by_site_files",
        "filters_settings.SiteFile",
        "filters.ModelOpenerOfSomebody",
    ],
)
def test_a_job_names_classes_of_this_library_and_nothing_that_lies_beside_them(
    tmp_path: Path, name: str
) -> None:
    workspace = Workspace(str(kit(tmp_path)), "va")
    ask = ComponentPathAuthorizer().authorize_component_config
    for path in (*OWN_CLASSES, *COLLAB_CLASSES):
        ask({"path": path}, workspace=workspace)
    with pytest.raises(UnsafeComponentError, match="is not in allow_list"):
        ask({"path": f"fl_integration.nvflare.{name}"}, workspace=workspace)


def test_each_class_that_a_job_may_name_is_defined_where_the_list_says() -> None:
    for path in OWN_CLASSES:
        module, name = path.rsplit(".", 1)
        found: Any = getattr(importlib.import_module(module), name)
        assert isinstance(found, type)
        assert found.__module__ == module


def test_a_site_imports_nothing_from_where_jobs_are_unpacked(tmp_path: Path) -> None:
    (tmp_path / "job-1" / "app_va" / "config").mkdir(parents=True)
    (tmp_path / "job-1" / "app_va" / "config" / "evil.py").write_text("print('evil')")
    made = Deployment(tmp_path / "deployment", sites=("va",))
    try:
        environment = made._environment
    finally:
        made.close()
    say = "import importlib; importlib.import_module('job-1.app_va.config.evil')"

    def imported(env: dict[str, str]) -> str:
        done = subprocess.run(
            [sys.executable, "-c", say], cwd=tmp_path, env=env, capture_output=True, text=True, check=False
        )
        return done.stdout

    without = {name: value for name, value in environment.items() if name != "PYTHONSAFEPATH"}
    assert imported(without) == "evil\n"  # else nothing is tried
    assert not imported(environment)


# What a job sets


def test_a_job_that_is_deployed_anew_beside_its_process_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """d's object was made with a constructor's argument of its own; then d got the others' files."""
    study = Study(tmp_path, names="abcd")
    monkeypatch.setattr("fl_integration.nvflare.site.check_names", lambda here, client: None)
    for name in "abc":
        study.join(name, by(0.1), joins={"config": {"epochs": 1}})
    study.join("d", by(0.4), joins={"config": {"epochs": 0}, "simulated": False})
    places = {name: next((tmp_path / "workspaces" / name / JOB).glob("*/config")) for name in "ad"}
    monkeypatch.setattr(room, "BEGAN", time.time() + 60.0)  # the deployments of before are older
    assert "d" in study.train().lost
    shutil.copytree(places["a"], places["d"], dirs_exist_ok=True)
    assert "d" in study.train().contributors  # as if nobody looked
    monkeypatch.setattr(room, "BEGAN", min(each.stat().st_ctime for each in places["d"].iterdir()) - 1e-3)
    caplog.clear()
    outcome = study.train()
    assert "d" in outcome.lost
    assert "the job's configuration was changed after its process began" in caplog.text


def test_a_file_that_was_taken_away_is_a_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tmp_path / "config"
    config.mkdir()
    (config / "a").write_text("{}")
    (config / "b").write_text("{}")
    made = Here(
        **{each: tmp_path for each in ("startup", "local", "job")},
        **{"name": "a", "caller": "server", "simulated": False, "props": {}, "published": ()},
        config=config,
    )
    monkeypatch.setattr(room, "BEGAN", time.time() + 60.0)
    made.settings()
    (config / "b").unlink()
    monkeypatch.setattr(room, "BEGAN", (config / "a").stat().st_ctime)
    os.utime(config, (0, 0))  # nobody chooses the time of a change
    with pytest.raises(ParameterError, match="was changed after its process began"):
        made.settings()


def test_a_process_knows_when_it_began() -> None:
    say = "import time; print(time.time()); from fl_integration.nvflare import here; print(here.BEGAN)"
    before = time.time()
    done = subprocess.run([sys.executable, "-c", say], capture_output=True, text=True, check=True)
    first, began = map(float, done.stdout.split())
    assert before - 0.1 < began < first + 0.1  # and not when it had imported this library
