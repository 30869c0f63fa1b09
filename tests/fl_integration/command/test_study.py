"""`secagg study`: what it refuses before anything runs, and the whole way over Flower's engine."""

import importlib
import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import sysconfig
import time
from pathlib import Path

import pytest

pytest.importorskip("typer", reason="typer is not installed")

from fl_integration.command.main import main
from fl_integration.loopback.processes import until
from tests.fresh import ROOT

SECONDS = 400


def refused(capsys, *arguments: str) -> str:
    assert main(["study", "heart", *arguments]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    return " ".join(printed.err.split())


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--kill",), "--kill is for a run over --engine; name one"),
        (("--port", "9092"), "--port is for a run over --engine; name one"),
        (("--engine", "flower", "--epsilon", "1"), "--epsilon is for a run in one process"),
        (("--engine", "flower", "--sites", "5"), "--sites is 5; 3 or 4 hospitals can take part"),
        (("--engine", "flower", "--rounds", "0"), "--rounds is 0; pass at least 1"),
        (("--engine", "flower", "--rounds", "1", "--kill"), "--rounds is 1, and whoever is killed"),
        (("--engine", "flower", "--seed", "-1"), "--seed is -1; pass a number in [0, 2**32)"),
        (("--engine", "flower", "--port", "65536"), "--port is 65536; pass a number in [1, 65535]"),
        (("--engine", "flower", "--port", "0"), "--port is 0; pass a number in [1, 65535]"),
        (("--engine", "flower", "--out", __file__), "which is a file; name a folder"),
        (("--engine", "flower", "--protocol", "ckks", "--kill"), "--kill is for masked, lattice and plain"),
        (
            ("--engine", "flower", "--protocol", "paillier", "--kill"),
            "under paillier the hospitals alone open",
        ),
        (("--engine", "nvflare", "--kill"), "--kill is for --engine flower: a site that NVFlare has lost"),
        (("--engine", "nvflare", "--port", "9092"), "--port is for --engine flower"),
        (("--engine", "carrier-pigeon"), "Invalid value for '--engine'"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_runs(arguments, said, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert said in refused(capsys, *arguments)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("absent", "extras"),
    [
        (["flwr"], "flower"),
        (["torch"], "demo"),
        (["jinja2"], "demo"),
        (["torch", "sklearn", "matplotlib"], "demo"),
        (["flwr", "torch", "jinja2"], "flower,demo"),
    ],
)
def test_missing_packages_are_brought_by_one_installation(absent, extras, capsys, tmp_path, monkeypatch):
    real = importlib.import_module

    def without(name, *rest):
        if name in absent:
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(importlib, "import_module", without)
    said = refused(capsys, "--engine", "flower", "--out", str(tmp_path / "out"))
    assert said == f"secagg: {absent[0]} is not installed; run: pip install 'secagg[{extras}]'"
    assert not (tmp_path / "out").exists()


def test_a_port_that_is_taken_is_named_and_nothing_is_left(capsys, tmp_path, monkeypatch):
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        arguments = ["--engine", "flower", "--port", port, "--out", str(tmp_path / "out")]
        assert main(["study", "heart", *arguments]) == 2
    assert f"secagg: port {port} of this machine cannot be had" in capsys.readouterr().err
    assert list((tmp_path / "temporary").iterdir()) == []


@pytest.mark.slow
def test_without_an_engine_it_is_what_hospitals_does(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr("fl_integration.studies.heart.costs.PARAMETERS", 2000)
    monkeypatch.setattr("fl_integration.command.hospitals.SPLITS", 1)
    monkeypatch.setattr("fl_integration.studies.heart.findings._RESAMPLES", 20)
    arguments = [
        "--protocol",
        "plain",
        "--sites",
        "3",
        "--rounds",
        "1",
        "--out",
        str(tmp_path),
        "--seed",
        "3",
    ]
    assert main(["study", "heart", *arguments]) == 0
    printed = capsys.readouterr().out
    assert "Act one: three hospitals; 1 rounds, seed 3" in printed
    assert json.loads((tmp_path / "results.json").read_text())["acts"][0]["engine"] is None


def test_help_names_every_option_and_says_how_long(capsys):
    assert main(["study", "heart", "--help"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    for word in ("--engine", "--protocol", "--sites", "--rounds", "--seed", "--kill", "--port", "--out"):
        assert word in text
    assert "about a minute" in text
    assert "about four minutes over Flower" in text
    assert "read from the own disk of one of them" in text


# --- over Flower's engine ---------------------------------------------------------------------------------


def start(folder: Path, *arguments: str, engine: str = "flower") -> subprocess.Popen[str]:
    """The command, as a user runs it; whatever is temporary lies in `folder`."""
    (folder / "temporary").mkdir()
    command = [sys.executable, "-m", "fl_integration.command.main", "study", "heart", "--engine", engine]
    return subprocess.Popen(
        [*command, "--out", str(folder / "out"), *arguments],
        cwd=ROOT,
        env=os.environ | {"TMPDIR": str(folder / "temporary")},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def left(folder: Path) -> list[str]:
    """Processes that have anything of the run's in their environment or arguments, and files of it."""
    mark, found = os.fsencode(folder / "temporary"), []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            if mark in (path / "environ").read_bytes() + (path / "cmdline").read_bytes():
                found.append(path.name)
        except OSError:
            continue
    # torch makes an empty folder for its compiler's cache, this user's and no run's.
    ours = [path for path in (folder / "temporary").iterdir() if not path.name.startswith("torchinductor_")]
    return found + [str(path) for path in ours]


def audited(printed: str, capsys: pytest.CaptureFixture[str]) -> str:
    """What the last line of the command's output says to type, typed."""
    program, *arguments = shlex.split(printed.splitlines()[-1])
    assert program == "secagg"
    assert main(arguments) == 0
    return " ".join(capsys.readouterr().out.split())


@pytest.mark.engine
@pytest.mark.xdist_group("engine")
def test_three_hospitals_over_nvflare_who_alone_learn_the_model(tmp_path, capsys):
    """Under CKKS: the model is read at one of them."""
    pytest.importorskip("nvflare", reason="nvflare is not installed")
    pytest.importorskip("tenseal", reason="tenseal is not installed")
    with start(tmp_path, "--rounds", "2", "--protocol", "ckks", engine="nvflare") as run:
        printed, said = run.communicate(timeout=SECONDS)
    assert run.returncode == 0, said
    assert re.search(r"Round 2 of 2: 3 hospitals, \d+\.\d s\.", said)
    assert re.search(r"After round 2: AUC 0\.\d{3}, of the model on Cleveland's own disk", said)
    assert "CkksSum over NVFlare" in printed
    act = json.loads((tmp_path / "out" / "results.json").read_text())["acts"][0]
    (row,) = (each for each in act["rows"] if each["kind"] == "engine")
    assert row["largest_difference_from_fedavg"] < 1e-6
    assert [each["total_weight"] for each in act["engine"]["rounds"]] == [None, None]
    alone = next(each for each in act["rows"] if each["kind"] == "secure")["usage"]
    for site in act["sites"]:
        carried = [each["wire_bytes"][site] for each in act["engine"]["rounds"]]
        assert all(each["up"] > alone["sent"] for each in carried)
    assert "2 records are whole, and signed by coordinator" in audited(printed, capsys)
    assert left(tmp_path) == []


@pytest.mark.engine
@pytest.mark.xdist_group("engine")
def test_among_four_the_round_survives_the_death_of_one_who_is_in_the_next(tmp_path, capsys):
    """In the clear, with one exchange a round for four: that MaskedSum bears it needs no engine to show."""
    pytest.importorskip("flwr", reason="flwr is not installed")
    with start(tmp_path, "--rounds", "2", "--sites", "4", "--kill", "--protocol", "plain") as run:
        printed, said = run.communicate(timeout=SECONDS)
    assert run.returncode == 0, said
    assert "Budapest is killed while it trains" in said
    assert "Budapest is back." in said
    assert re.search(r"Round 2 of 2: 4 hospitals, AUC 0\.\d{3}", said)
    act = json.loads((tmp_path / "out" / "results.json").read_text())["acts"][0]
    (row,) = (each for each in act["rows"] if each["kind"] == "engine")
    assert row["largest_difference_from_fedavg"] < 1e-6
    rounds = act["engine"]["rounds"]
    assert rounds[1]["total_weight"] == sum(site["train"] for site in act["sites"].values())
    assert [each["aborted"] for each in rounds] == ["", ""]
    assert [list(each["missing"]) for each in rounds] == [["budapest"], []]
    text = " ".join(printed.split())
    assert re.search(
        r"killed while it trained in round 1, which ended with 3 hospitals \(\d+ patients\)", text
    )
    told = audited(printed, capsys)
    assert "2 records are whole, and signed by coordinator" in told
    assert "budapest:" in told  # lost in one of them, and why
    assert left(tmp_path) == []


@pytest.mark.engine
@pytest.mark.xdist_group("engine")
def test_a_supernode_that_cannot_start_is_told_with_its_last_words_and_nothing_is_left(
    tmp_path, capsys, monkeypatch
):
    pytest.importorskip("flwr", reason="flwr is not installed")
    (tmp_path / "temporary").mkdir()
    (tmp_path / "scripts").mkdir()
    real = sysconfig.get_path
    for each in Path(real("scripts")).glob("fl*"):
        (tmp_path / "scripts" / each.name).symlink_to(each)
    broken = tmp_path / "scripts" / "flower-supernode"
    broken.unlink()
    broken.write_text("#!/bin/sh\necho no space left on device\nexit 1\n")
    broken.chmod(0o700)
    monkeypatch.setattr(
        sysconfig,
        "get_path",
        lambda name, *rest: str(broken.parent) if name == "scripts" else real(name, *rest),
    )
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    assert main(["study", "heart", "--engine", "flower", "--out", str(tmp_path / "out")]) == 2
    printed = capsys.readouterr()
    assert printed.err.endswith("secagg: SuperNode 0 did not start\n--- node-0\nno space left on device\n\n")
    assert printed.out == ""
    assert left(tmp_path) == []
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.engine
@pytest.mark.xdist_group("engine")
@pytest.mark.parametrize(
    ("how", "when"), [(signal.SIGINT, "superlink.log"), (signal.SIGTERM, "hospitals/cleveland/journal")]
)
def test_an_interruption_leaves_nothing(how, when, tmp_path):
    """While the engine starts, and in the middle of a round."""
    pytest.importorskip("flwr", reason="flwr is not installed")
    with start(tmp_path) as run:
        until(
            lambda: run.poll() is not None or any((tmp_path / "temporary").glob(f"*/{when}")),
            seconds=SECONDS,
            what=f"there is a {when}",
        )
        time.sleep(0.5)  # somewhere behind that
        run.send_signal(how)
        run.send_signal(how)  # whoever is impatient
        _, said = run.communicate(timeout=SECONDS)
    assert run.returncode == 130, said
    assert said.endswith("secagg: interrupted\n")
    until(lambda: not left(tmp_path), seconds=30, what="nothing is left")
    assert not list((tmp_path / "out").iterdir())
