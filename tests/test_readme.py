"""The README's examples run as they stand, and what pages say of plans and advice is what they are."""

import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from protocols import Adversary, MaskedSum, Requirements, advise
from protocols.membership import quorum

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
REQUIREMENTS = ROOT / "protocols" / "REQUIREMENTS.md"
EXAMPLES = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), flags=re.DOTALL)


TRAINING = ROOT / "fl_integration" / "TRAINING.md"


def test_the_training_page_runs_from_its_first_line_to_its_last(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("torch")
    blocks = re.findall(r"```python\n(.*?)```", TRAINING.read_text(encoding="utf-8"), flags=re.DOTALL)
    assert len(blocks) == 8
    exec(compile("\n".join(blocks), "TRAINING.md", "exec"), {})
    assert "summed" in capsys.readouterr().out


STATISTICS = ROOT / "fl_integration" / "STATISTICS.md"


def test_the_page_on_statistics_runs_from_its_first_line_to_its_last(
    capsys: pytest.CaptureFixture[str],
) -> None:
    pytest.importorskip("pandas")
    pytest.importorskip("dp_accounting")
    blocks = re.findall(r"```python\n(.*?)```", STATISTICS.read_text(encoding="utf-8"), flags=re.DOTALL)
    assert len(blocks) == 3
    exec(compile("\n".join(blocks), "STATISTICS.md", "exec"), {})
    printed = capsys.readouterr().out
    assert "missing" in printed
    assert "each row is protected with ε = 1, δ = 1e-06" in printed


KEYS = ROOT / "fl_integration" / "KEYS.md"


def test_the_page_on_keys_runs_from_its_first_line_to_its_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    testing = pytest.importorskip("typer.testing")
    from fl_integration.command.app import app

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("fl_integration.site.pkcs8._N", 1 << 8)  # passwords that cost no time
    password, ran = "correct horse battery", 0
    blocks = re.findall(r"```(sh|python)\n(.*?)```", KEYS.read_text(encoding="utf-8"), flags=re.DOTALL)
    for kind, block in blocks:
        if kind == "python":
            exec(compile(block, "KEYS.md", "exec"), {"password": password})
            continue
        for line in block.splitlines():
            words, _, file = line.partition(" > ")
            program, *arguments = shlex.split(words)
            done = testing.CliRunner().invoke(app, arguments, input=f"{password}\n" * 3)
            assert (program, done.exit_code) == ("secagg", 0), f"{line}\n{done.output}"
            if file:
                Path(file).write_bytes(done.stdout_bytes)
            ran += 1
    assert (len(blocks), ran) == (7, 26)


def test_the_quorums_on_the_page_are_those_of_the_library() -> None:
    rows = re.findall(
        r"^\| (\d+), (\d+) \| (\d+) \| (yes|\*\*no\*\*) \|$", KEYS.read_text(encoding="utf-8"), re.M
    )
    assert len(rows) == 5
    for members, corrupt, needed, enough in rows:
        assert quorum(int(members), int(corrupt)) == int(needed)
        assert (int(needed) < int(members)) == (enough == "yes")


def test_there_are_two_examples() -> None:
    assert len(EXAMPLES) == 2


@pytest.mark.parametrize("index", range(len(EXAMPLES)))
def test_example_runs(index: int, capsys: pytest.CaptureFixture[str]) -> None:
    if "torch" in EXAMPLES[index]:
        pytest.importorskip("torch")
        pytest.importorskip("tenseal")
    exec(compile(EXAMPLES[index], f"README example {index}", "exec"), {})
    printed = capsys.readouterr().out
    assert "basel" in printed or "500" in printed


@pytest.mark.parametrize(
    ("clients", "requirements"),
    [
        (3, Requirements()),
        (50, Requirements(adversary=Adversary.MALICIOUS)),
        (1000, Requirements(adversary=Adversary.MALICIOUS)),
    ],
)
def test_the_plans_on_the_page_are_the_planners(clients: int, requirements: Requirements) -> None:
    plan = MaskedSum(max_clients=clients, requirements=requirements).plan(clients)
    assert f"```\n{plan}\n```" in REQUIREMENTS.read_text(encoding="utf-8")


HIDDEN_SUM = {"clients_may_collude": False, "server_may_learn": False}
CASES: dict[str, dict[str, Any]] = {
    "3 hospitals, 10⁶ values": {"n": 3, "length": 10**6},
    "10 hospitals, 10⁶ values, a link of 1 Gb/s": {"n": 10, "length": 10**6, "megabits": 1000},
    "100 clients, 10³ values": {"n": 100, "length": 10**3},
    "100 clients, 10⁶ values": {"n": 100, "length": 10**6},
    "500 clients, 10⁶ values, 30 % vanish": {"n": 500, "length": 10**6, "dropout_fraction": 0.3},
    "1,000 clients, 10⁵ values, 30 % vanish": {"n": 1000, "length": 10**5, "dropout_fraction": 0.3},
    "10 hospitals, 10⁶ values, none colludes, the server must not know the sum": {
        "n": 10,
        "length": 10**6,
        **HIDDEN_SUM,
    },
    "the same, and one of them runs the server": {
        "n": 10,
        "length": 10**6,
        "server_is_client": True,
        **HIDDEN_SUM,
    },
}


def advised() -> str:
    """The table of the page, as `advise` would write it."""
    lines = ["| | recommended | a round | next | a round |", "|---|---|---|---|---|"]
    for case, conditions in CASES.items():
        best, second, *_ = advise(**conditions).candidates
        cells = ["none here", "", "", ""]
        if not best.refused:
            cells = [
                f"**{best.name}**",
                f"{best.round_seconds:.2g} s",
                second.name,
                f"{second.round_seconds:.2g} s",
            ]
        lines.append("| " + " | ".join([case, *cells]) + " |")
    return "\n".join(lines)


def test_the_table_on_the_page_is_what_is_advised() -> None:
    assert advised() in REQUIREMENTS.read_text(encoding="utf-8")


def test_each_attack_that_is_tried_has_a_row_and_each_row_its_test() -> None:
    page = (ROOT / "protocols" / "THREAT_MODEL.md").read_text(encoding="utf-8")
    table = page[page.index("| attack |") :]
    tests = {path.stem for path in (ROOT / "tests" / "attacks").glob("test_*.py")}
    assert set(re.findall(r"`(test_\w+)`", table)) == tests


def test_the_readme_is_short() -> None:
    assert len(README.read_text(encoding="utf-8").splitlines()) <= 150


PAGES = sorted(path for path in ROOT.rglob("*.md") if not {".venv", ".git"} & set(path.parts))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_between_pages_lead_somewhere(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", text):
        if "://" not in target:
            assert (page.parent / target).exists(), target


NAMED = re.compile(r"`((?:secagg|protocols|fl_integration)(?:\.[a-z_]+)+)`")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_rooms_that_pages_name_are_there(page: Path) -> None:
    for name in NAMED.findall(page.read_text(encoding="utf-8")):
        assert is_there(name), name


def is_there(name: str) -> bool:
    """Whether a dotted name is a folder, a room, something that a room defines, or a name of a door."""
    path = ROOT / name.replace(".", "/")
    above, last = path.parent, path.name
    if path.is_dir() or path.with_suffix(".py").exists():
        return True
    holder = above.with_suffix(".py") if above.with_suffix(".py").exists() else above / "__init__.py"
    defined = rf'^ *(?:def|class) {last}\b|^{last}\b|^ *"{last}",'
    return holder.exists() and re.search(defined, holder.read_text(encoding="utf-8"), re.M) is not None


def test_a_room_that_moved_is_missed() -> None:
    assert is_there("secagg.standard.kdf.hkdf")
    assert is_there("secagg.run_round")
    for gone in (
        "secagg.kdf",
        "secagg.ckks_parameters",
        "protocols.client_machine",
        "secagg.standard.kdf.nothing",
    ):
        assert not is_there(gone)
