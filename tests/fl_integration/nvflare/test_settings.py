"""What a job sets for a site's code is bound like what a round shows: its configuration, its properties."""

import os
from pathlib import Path
from typing import Any

import pytest
from nvflare.collab import collab

from fl_integration.nvflare import here as room
from fl_integration.nvflare.here import Here
from secagg.errors import ParameterError
from tests.fl_integration.nvflare.loopback import JOB
from tests.fl_integration.nvflare.stage import Study, by, mean_of, moved, near

OTHERS = "what was delivered here is not what the round binds: it was shown to nobody"


def here(folder: Path, **props: Any) -> Here:
    (folder / "config").mkdir(exist_ok=True)
    return Here(
        name="a",
        caller="server",
        simulated=True,
        startup=folder,
        local=folder,
        job=folder,
        config=folder / "config",
        props=props,
        published=(),
    )


def test_every_property_and_every_file_is_bound(tmp_path: Path) -> None:
    found = {here(tmp_path).settings()}
    for value in (1, 1.0, True, "1", None, [1], ["1"], {"a": 1}, {"a": {"b": 1}}, {"a": 1, "b": 2}):
        found.add(here(tmp_path, lr=value).settings())
    found.add(here(tmp_path, lr={"b": 2, "a": 1}).settings())  # a function may walk over it
    found.add(here(tmp_path, rate=1).settings())
    for name, data in (("job", b"{}"), ("job", b"{ }"), ("other", b"{}"), ("in/job", b"{}")):
        (tmp_path / "config" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "config" / name).write_bytes(data)
        found.add(here(tmp_path).settings())
    assert len(found) == 17
    assert here(tmp_path).settings() == here(tmp_path).settings()


def test_the_order_of_names_is_nobodys(tmp_path: Path) -> None:
    assert here(tmp_path, a=1, b=2).settings() == here(tmp_path, b=2, a=1).settings()


@pytest.mark.parametrize("value", [object(), (1,), {1: 2}, b"x", [object()], {"a": {"b": (1,)}}])
def test_a_property_that_is_no_setting_is_refused(tmp_path: Path, value: Any) -> None:
    with pytest.raises(ParameterError, match="properties are settings that all sites have alike"):
        here(tmp_path, loader=value).settings()


def test_a_configuration_that_cannot_be_read_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = here(tmp_path)
    (tmp_path / "config").rmdir()
    with pytest.raises(ParameterError, match="the job's configuration cannot be read here"):
        made.settings()
    made = here(tmp_path)
    for name in "ab":
        (tmp_path / "config" / name).write_text("{}")
    monkeypatch.setattr(room, "MOST_FILES", 1)
    with pytest.raises(ParameterError, match="the job's configuration has more than 1 files"):
        made.settings()
    monkeypatch.setattr(room, "MOST_FILES", 2)
    monkeypatch.setattr(room, "MOST_BYTES", 1)
    with pytest.raises(ParameterError, match="has more than 1 bytes"):
        made.settings()


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="the system has no such files")
def test_a_file_that_never_ends_is_not_read(tmp_path: Path) -> None:
    made = here(tmp_path)
    os.mkfifo(tmp_path / "config" / "pipe")
    with pytest.raises(ParameterError, match="is no regular file"):
        made.settings()


def test_a_site_with_other_settings_sits_the_round_out(tmp_path: Path) -> None:
    study, seen = Study(tmp_path, names="abcd"), []

    def train(model: Any, config: Any) -> Any:
        seen.append(collab.get_app_prop("scale"))
        return by(0.4, 40)(model, config)

    for place, name in enumerate("abc"):
        study.join(name, by(0.1 * (place + 1), 10 * (place + 1)), joins={"scale": 1})
    study.join("d", train, joins={"scale": 0})
    outcome = study.train()
    assert outcome.lost == {"d": OTHERS}
    assert moved(outcome) == near(mean_of("a", "b", "c"))
    assert not seen
    study.join("d", train, joins={"scale": 1})
    assert moved(study.train()) == near(mean_of("a", "b", "c", "d"))
    assert seen == [1]


def test_a_site_whose_job_is_configured_otherwise_sits_the_round_out(tmp_path: Path) -> None:
    """A constructor's argument: the object of one site is told to train for no epoch."""
    study = Study(tmp_path, names="abcd")
    study.join("d", by(0.4, 40), joins={"config": {"components": [{"id": "_client", "args": {"epochs": 0}}]}})
    outcome = study.train()
    assert outcome.lost == {"d": OTHERS}
    assert moved(outcome) == near(mean_of("a", "b", "c"))


def test_a_job_that_is_deployed_anew_beside_its_process_does_not_hide_a_property(tmp_path: Path) -> None:
    """The files are the others' by now; what the process read before is in its memory."""
    study = Study(tmp_path, names="abcd")
    for name in "abc":
        study.join(name, by(0.1), joins={"scale": 1, "config": {"props": {"scale": 1}}})
    study.join("d", by(0.4), joins={"scale": 0, "config": {"props": {"scale": 0}}})
    places = {name: tmp_path / "workspaces" / name / JOB / f"app_{name}" / "config" for name in "ad"}
    file = "config_fed_client.json"
    (places["d"] / file).write_bytes((places["a"] / file).read_bytes())
    assert study.train().lost == {"d": OTHERS}


def test_code_that_keeps_an_object_in_the_properties_is_told_where_it_belongs(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    study = Study(tmp_path, names="abcd")

    def train(model: Any, config: Any) -> Any:
        collab.set_app_prop("loader", object())
        return by(0.4, 40)(model, config)

    study.join("d", train)
    assert "d" in study.train().contributors
    assert "d" not in study.train().contributors
    assert "the app's property 'loader' is, or holds, a object; properties are settings" in caplog.text
