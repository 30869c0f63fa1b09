"""The wheel, as a newcomer gets it: built, installed without extras into an empty environment, tried.

Nothing of this checkout is on the path there, so a file that the wheel forgot is missed here first.
"""

import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FIRST, *_ = re.findall(
    r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), flags=re.DOTALL
)

pytestmark = pytest.mark.slow


def run(*command: str | Path, cwd: Path) -> str:
    done = subprocess.run(
        [str(each) for each in command], cwd=cwd, capture_output=True, text=True, check=False, timeout=600
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    run(*pip, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", folder, ROOT, cwd=folder)
    (built,) = folder.glob("secagg-*.whl")
    return built


@pytest.fixture(scope="module")
def python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of an empty environment with the wheel in it."""
    folder = tmp_path_factory.mktemp("empty")
    run(sys.executable, "-m", "venv", folder, cwd=folder)
    made = next(
        each for each in (folder / "bin" / "python", folder / "Scripts" / "python.exe") if each.exists()
    )
    constraints = ROOT / "constraints.txt"
    pip = [made, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    run(*pip, "install", "--constraint", constraints, wheel, cwd=folder)
    return made


def test_the_wheel_has_the_three_floors_and_nothing_else(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0] for name in names if ".dist-info" not in name} == {
        "secagg",
        "protocols",
        "fl_integration",
    }
    listed = subprocess.run(
        ["git", "ls-files", "secagg", "protocols", "fl_integration"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    ).stdout.split()
    if not listed:
        pytest.skip("not a checkout: what belongs to the project is not known")
    assert set(listed) <= set(names)


def test_only_the_core_comes_with_it(python: Path, tmp_path: Path) -> None:
    listed = run(python, "-m", "pip", "--disable-pip-version-check", "list", "--format=freeze", cwd=tmp_path)
    names = {line.split("==")[0].lower() for line in listed.split()}
    assert {"secagg", "numpy", "cryptography", "gmpy2"} <= names
    assert names <= {
        "secagg",
        "numpy",
        "cryptography",
        "gmpy2",
        "cffi",
        "pycparser",
        "pip",
        "setuptools",
        "wheel",
    }


def test_the_first_example_of_the_readme_runs(python: Path, tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(FIRST, encoding="utf-8")
    printed = run(python, "-W", "error", "program.py", cwd=tmp_path)
    assert " 500" in printed


def test_the_doors_open_and_name_what_is_missing(python: Path, tmp_path: Path) -> None:
    program = """
import secagg, protocols, fl_integration
from secagg import PaillierSum, simulate
import numpy as np
simulate(PaillierSum(max_clients=3, key_bits=2048), {name: np.zeros(3) for name in "abc"})
with fl_integration.SqliteReleaseLog("log") as log:
    log.insert(b"session", 1, 1, b"digest")
for name in ("federate", "LocalTraining"):
    try:
        getattr(secagg, name)
    except ImportError as error:
        print(error)
print(secagg.__version__)
"""
    said = run(python, "-c", program, cwd=tmp_path).splitlines()
    assert said[:2] == ["torch is not installed; run: pip install 'secagg[train]'"] * 2
    assert re.fullmatch(r"\d+\.\d+\.\d+", said[2])


def test_the_demo_says_what_it_needs(python: Path, tmp_path: Path) -> None:
    command = python.parent / "secagg-hospitals"
    assert "examples:" in run(command, "--help", cwd=tmp_path)
    done = subprocess.run([command], cwd=tmp_path, capture_output=True, text=True, check=False, timeout=100)
    assert done.returncode == 2
    assert done.stderr == "secagg-hospitals: torch is not installed; run: pip install 'secagg[demo]'\n"
    assert not list(tmp_path.iterdir())


def test_the_command_names_its_extra(python: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [python.parent / "secagg", "--version"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )
    assert done.returncode == 2
    assert re.fullmatch(
        r"secagg: (typer|rich) is not installed; run: pip install 'secagg\[cli\]'\n", done.stderr
    )


def test_keys_and_rosters_need_no_extra(python: Path, tmp_path: Path) -> None:
    program = """
from fl_integration import load_identity, read_roster, save_identity, write_roster
from secagg import Identity, Roster, RosterVersion, session_id
save_identity(Identity.generate("graz"), "graz.key", password="correct horse battery")
identity = load_identity("graz.key", password="correct horse battery")
write_roster(RosterVersion(Roster.of(identity)).signed(identity), "roster.txt")
print(read_roster("roster.txt").signers, len(session_id(b"a training", read_roster("roster.txt"), 0)))
"""
    assert run(python, "-c", program, cwd=tmp_path) == "('graz',) 32\n"
