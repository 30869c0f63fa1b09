"""What a hostile reader found in this room, each as the attack that worked: it does not any more."""

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from nvflare.apis.fl_exception import UnsafeComponentError
from nvflare.app_common.default_component_policy import DEFAULT_CLASS_ALLOW_LIST
from nvflare.app_common.widgets.component_path_authorizer import ComponentPathAuthorizer
from nvflare.apis.workspace import Workspace

from fl_integration.nvflare.deployment import Deployment
from fl_integration.nvflare.provisioning import COLLAB_CLASSES, OWN_CLASSES, Code, settle


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
