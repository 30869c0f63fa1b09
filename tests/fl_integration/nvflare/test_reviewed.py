"""What a hostile reader found in this room, each as the attack that worked: it does not any more."""

import importlib
import io
import json
import os
import shutil
import subprocess
import sys
import time
import zipfile
from pathlib import Path
from threading import Lock
from typing import Any

import pytest
from nvflare.apis.fl_context import FLContext
from nvflare.apis.fl_exception import UnsafeComponentError
from nvflare.apis.workspace import Workspace
from nvflare.app_common.default_component_policy import DEFAULT_CLASS_ALLOW_LIST
from nvflare.app_common.widgets.component_path_authorizer import ComponentPathAuthorizer
from nvflare.private.fed.utils.app_authz import AppAuthzService
from nvflare.private.fed.utils.app_deployer import AppDeployer
from nvflare.private.privacy_manager import PrivacyService

from fl_integration.embedding import own_files
from fl_integration.embedding.member import UNABLE, Memory
from fl_integration.embedding.parcels import Purpose, Refused, decode_head
from fl_integration.nvflare import here as room
from fl_integration.nvflare.carrier import unpacked
from fl_integration.nvflare.deployment import Deployment
from fl_integration.nvflare.enrolling import outside_of_the_job
from fl_integration.nvflare.here import Here
from fl_integration.nvflare.provisioning import COLLAB_CLASSES, OWN_CLASSES, Code, settle
from fl_integration.nvflare.shown import SETTINGS
from fl_integration.nvflare.site import _Delivered, _Site
from fl_integration.site.keys import save_identity
from fl_integration.site.roster_file import write_roster
from protocols import Identity, Roster
from protocols.membership import RosterVersion
from secagg.errors import ParameterError, VerificationError
from tests.fl_integration.nvflare.loopback import JOB
from tests.fl_integration.nvflare.stage import Study, by, zeros

READ = time.time()


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


def test_a_job_names_no_trainer_of_nvflares_which_would_train_in_the_clear(tmp_path: Path) -> None:
    workspace = Workspace(str(kit(tmp_path)), "va")
    for path in set(DEFAULT_CLASS_ALLOW_LIST):
        with pytest.raises(UnsafeComponentError, match="is not in allow_list"):
            ComponentPathAuthorizer().authorize_component_config({"path": path}, workspace=workspace)


def test_a_model_under_the_settings_name_is_bound_by_nothing_and_refused() -> None:
    made = _Delivered(None, bytes(32), functions={}, sums={}, weighted_by_key="num-examples")
    made.digest({"arrays": bytes(32)})
    with pytest.raises(VerificationError, match="withheld under a name that is this library's own"):
        made.digest({SETTINGS: bytes(32)})


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
        **dict.fromkeys(("startup", "local", "job"), tmp_path),
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


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="the system does not say")
def test_a_process_knows_when_it_began() -> None:
    """And not when it had imported this library, seconds behind the configuration."""
    assert room._began() < READ
    assert room._began() == pytest.approx(room.BEGAN, abs=1.0)


# Who takes part


def test_a_server_that_greets_nobody_again_keeps_no_expelled_member(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """d's operator installs the roster without c, whose key was stolen; the server goes on as before."""
    study = Study(tmp_path, names="abcd")
    first = RosterVersion(study.roster)
    second = RosterVersion(Roster.of(*(study.ids[each] for each in "abd")), version=2, previous=first.digest)
    for name in "abcd":
        second = second.signed(study.ids[name])
    study.rosters |= dict.fromkeys("abcd", first)
    with study.secure(roster=first) as secure:
        assert secure.train(zeros()).contributors == ("a", "b", "c", "d")
        study.rosters["d"] = second
        outcome = secure.train(zeros())
    assert "d" not in outcome.contributors
    assert "the server's is an older one" in outcome.lost["d"]


def test_an_identity_is_opened_once_for_one_file_and_one_password(
    tmp_path: Path, quick_passwords: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened, real = [], own_files.load_identity

    def load(path: Any, **others: Any) -> Identity:
        opened.append(path)
        return real(path, **others)

    monkeypatch.setattr(own_files, "load_identity", load)
    ids = [Identity.generate(name) for name in "abc"]
    other = Identity.generate("a")
    for identity, name in ((ids[0], "a"), (other, "other")):
        save_identity(identity, tmp_path / f"{name}.key", password="correct horse battery")
    for each, name in ((ids, "roster"), ([other, *ids[1:]], "next")):
        write_roster(RosterVersion(Roster.of(*each)), tmp_path / f"{name}.txt")

    def enrolled(key: str, roster: str) -> Any:
        return own_files.enrolment_at(
            identity=tmp_path / key,
            roster=tmp_path / roster,
            state=tmp_path / "state",
            password_file=None,
            setting="password-file",
        )

    monkeypatch.setenv("SECAGG_PASSWORD", "correct horse battery")
    for _ in range(3):
        assert enrolled("a.key", "roster.txt").identity.key.public_key == ids[0].key.public_key
    assert len(opened) == 1
    (tmp_path / "other.key").replace(tmp_path / "a.key")  # rotated: never what was opened before
    assert enrolled("a.key", "next.txt").identity.key.public_key == other.key.public_key
    monkeypatch.setenv("SECAGG_PASSWORD", "another one altogether")
    with pytest.raises(ParameterError):
        enrolled("a.key", "next.txt")
    monkeypatch.setenv("SECAGG_PASSWORD", "correct horse battery")
    (tmp_path / "a.key").chmod(0o644)
    with pytest.raises(ParameterError, match="can be read or written by others"):
        enrolled("a.key", "next.txt")


def test_what_one_thread_stored_is_not_forgotten_for_what_another_knew() -> None:
    def memory(counter: int) -> Memory:
        return Memory(counter, bytes(32), bytes([counter]) * 32)

    site = _Site.__new__(_Site)
    site._remembered, site._remembering = {}, Lock()
    known = {Purpose.TRAIN: memory(4), Purpose.EVALUATE: memory(2)}
    site.remember("a", known)
    # Two calls begin with this; the one that stored the training's sixth state ends first.
    site.remember("a", {**known, Purpose.TRAIN: memory(6)})
    site.remember("a", {**known, Purpose.EVALUATE: memory(3)})
    assert site.remembered("a") == {Purpose.TRAIN: memory(6), Purpose.EVALUATE: memory(3)}
    assert site.remembered("b") == {}


def test_an_enrolment_that_ends_its_process_ends_no_thread_of_nvflares(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def leaves(site: str) -> Any:
        raise SystemExit("/home/ward/patients.csv")

    study = Study(tmp_path, names="abcd")
    study.join("d", by(0.4, 40), enrol=leaves)
    assert set(study.train().lost) == {"d"}
    (answer,) = study.job.heard("d")
    assert decode_head(unpacked(answer["result"]).head) == Refused(UNABLE)
    assert "patients" in caplog.text  # here, and nowhere else


# Where the state lies


def job_of(files: dict[str, str]) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for name, text in files.items():
            archive.writestr(name, text)
    return packed.getvalue()


def in_kit(folder: Path) -> Here:
    places = {each: folder / each for each in ("startup", "local")}
    job = folder / "job-1"
    return Here(
        **places, job=job, config=job / "config",
        name="va", caller="server", simulated=False, props={}, published=(),
    )  # fmt: skip


def test_a_server_that_names_a_job_as_the_states_folder_would_wipe_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """NVFlare's own deployer, as a site's process calls it; so the state lies elsewhere."""
    workspace = Workspace(str(kit(tmp_path)), "va")
    monkeypatch.setattr(AppAuthzService, "validate_app", lambda path: ("", {}))
    monkeypatch.setattr(AppAuthzService, "authorize_app_info", lambda **others: (True, ""))
    monkeypatch.setattr(PrivacyService, "is_scope_allowed", lambda scope: True)
    for named in ("secagg-state", "local"):
        (tmp_path / named).mkdir(exist_ok=True)
        (tmp_path / named / "releases.sqlite").write_bytes(b"what this site released")
        data = job_of({"config/config_fed_client.json": "{}"})
        AppDeployer().deploy(workspace, named, {"name": "x"}, "app", data, FLContext())
        assert not (tmp_path / named / "releases.sqlite").exists()


@pytest.mark.parametrize(
    ("name", "path", "refused"),
    [
        ("state", "secagg-state", True),
        ("state", "local/state", True),  # a job may be called local
        ("state", ".", True),
        ("identity", "keys/va.pem", True),
        ("identity", "local/va.pem", False),  # what is wiped there is missed, and nothing is said twice
        ("roster", "startup/roster.txt", True),
        ("state", "../elsewhere", False),
    ],
)
def test_what_a_job_could_replace_is_no_place_of_a_sites_own(
    tmp_path: Path, name: str, path: str, refused: bool
) -> None:
    here = in_kit(tmp_path / "kit")
    (tmp_path / "kit" / "local").mkdir(parents=True)
    if not refused:
        assert outside_of_the_job(here, name, tmp_path / "kit" / path) == tmp_path / "kit" / path
        return
    with pytest.raises(ParameterError, match="where a job of the folder's name would replace it"):
        outside_of_the_job(here, name, tmp_path / "kit" / path)
