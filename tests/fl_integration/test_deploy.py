"""What DEPLOY.md and ETHICS.md say beside their commands: numbers, log lines, the unit, the door."""

import ast
import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest

from fl_integration.embedding.admission import AHEAD_SECONDS
from fl_integration.embedding.enrolment import Enrolment
from protocols import Adversary, MaskedSum, Requirements
from protocols.planning.requirements import ceil_fraction
from tests.fl_integration.deploying import COORDINATOR, FLEET, HOSPITALS, PAGE, blocks, fenced, settings, unit
from tests.fresh import ROOT

TEXT = PAGE.read_text(encoding="utf-8")
FLAT = " ".join(TEXT.split())
ETHICS = (ROOT / "fl_integration" / "ETHICS.md").read_text(encoding="utf-8")
HOLE = "…"


def test_every_block_says_where_it_is_typed() -> None:
    known = {"all", "each hospital", COORDINATOR, *HOSPITALS}
    for block in blocks():
        who, _, when = block.where.partition(", ")
        assert who in known, block.where
        assert when in ("", "while it runs", "while all run"), block.where
    assert len(blocks()) == 26


def test_what_is_installed_are_extras_that_there_are() -> None:
    first, *_ = blocks()
    (named,) = re.findall(r"'\./secagg-[\d.]+-py3-none-any\.whl\[([\w,]+)\]'", first.commands)
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert set(named.split(",")) <= extras["optional-dependencies"].keys()
    assert "pip" not in "".join(block.commands for block in blocks()[1:])


def test_every_variable_that_is_typed_is_set() -> None:
    typed = {name for block in blocks()[1:] for name in re.findall(r"\$([A-Z_]{2,})", block.commands)}
    assert typed <= settings().keys() | {"PWD"}
    assert {"COORDINATOR", "EXCHANGE", "FLWR_HOME", "LINK_PORT", "NODE_PORT", "PORT"} <= typed


def test_no_command_shows_a_password_or_sends_a_private_file() -> None:
    for block in blocks()[1:]:
        for line in block.commands.replace("\\\n", " ").splitlines():
            if "$EXCHANGE" not in line or not line.startswith("cp "):
                continue
            for private in ("site.key", "node.key ", "password", "state", "coordinator.key", "authority.key"):
                assert private not in line, line


def test_what_is_compared_is_copied_once_and_not_looked_up_where_others_write() -> None:
    compared = re.compile(r"\$EXCHANGE/([a-z]+-node\.pub|coordinator\.pub|authority\.crt|roster-\d\.txt)\"")
    for machine in (COORDINATOR, *HOSPITALS):
        lines = "".join(block.commands for block in blocks() if machine in block.machines).splitlines()
        read = [(name, line) for line in lines for name in compared.findall(line)]
        assert len(read) == len(dict(read)), f"{machine} takes a file again: {read}"
        assert all(line.startswith("cp ") for _, line in read), read
        assert {"roster-1.txt", "roster-2.txt"} <= dict(read).keys()


def test_the_unit_starts_what_the_page_wrote_and_starts_it_again(tmp_path: Path) -> None:
    service = unit()["Service"]
    assert (service["Restart"], service["ExecStart"]) == ("always", "/bin/sh start")
    assert service["WorkingDirectory"] == settings()["BASE"]
    assert service["EnvironmentFile"] == f"{settings()['BASE']}/secagg.env"
    assert sum("cat > start <<'END'\nexec flower-" in block.commands for block in blocks()) == 2
    if shutil.which("systemd-analyze"):
        file = tmp_path / "secagg.service"
        file.write_text(fenced("ini")[1])
        done = subprocess.run(
            ["systemd-analyze", "verify", str(file)], capture_output=True, text=True, check=False
        )
        assert "secagg.service:" not in done.stderr, done.stderr


def test_the_door_passes_on_what_nodes_need_and_nothing_else() -> None:
    (nginx,) = fenced("nginx")
    assert re.findall(r"location (\S+) \{", nginx) == [FLEET, "/"]
    assert "location / { return 403; }" in nginx
    assert f"proxy_pass https://127.0.0.1:{settings()['LINK_PORT']};" in nginx
    for needed in ("proxy_ssl_verify on;", "deny all;", "client_max_body_size 0;", "ssl_protocols TLSv1.3;"):
        assert needed in nginx
    link = next(block.commands for block in blocks() if "exec flower-superlink" in block.commands)
    assert "--host 127.0.0.1" in link
    assert "--enable-supernode-auth" in link


def test_clocks_and_counts_are_those_of_the_code() -> None:
    constant = pytest.importorskip("flwr.common.constant")
    ahead, behind = (
        constant.SYSTEM_TIME_TOLERANCE,
        constant.TIMESTAMP_TOLERANCE + constant.SYSTEM_TIME_TOLERANCE,
    )
    assert f"more than {ahead} seconds ahead of the coordinator's, or more than {behind} behind" in FLAT
    assert AHEAD_SECONDS == 24 * 3600
    assert "more than a day ahead" in FLAT
    admitted = Enrolment.__dataclass_fields__["max_sessions"].default
    assert f"each hospital admits {admitted} over one roster" in FLAT


# Log lines


def templates() -> set[str]:
    """Every text of the rooms that log, with a hole where a value comes in."""
    found = set()
    for room in ("embedding", "flower"):
        for path in (ROOT / "fl_integration" / room).glob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.JoinedStr):
                    pieces = [each.value if isinstance(each, ast.Constant) else HOLE for each in node.values]
                    found.add("".join(map(str, pieces)))
                elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                    found.add(re.sub(r"%[sdr]", HOLE, node.value))
    return found


def log_lines() -> list[str]:
    rows = TEXT[TEXT.index("| the coordinator's log") : TEXT.index("## 7.")]
    return re.findall(r"^\| `([^`]+)` \|", rows, flags=re.MULTILINE)


def test_log_lines_on_the_page_are_what_the_code_says() -> None:
    assert len(log_lines()) == 11
    said = templates()
    for line in log_lines():
        core = line.strip(f"{HOLE} ")
        assert any(core in each for each in said), line
    assert not any("joins anew" in each for each in said), "the test finds what is not there"


# ETHICS.md


def cells(first: str) -> list[str]:
    (row,) = [line for line in ETHICS.splitlines() if line.startswith(f"| {first}")]
    return [cell.strip() for cell in row.strip("|").split("|")]


def test_the_boards_table_has_the_planners_numbers() -> None:
    corrupt = {n: ceil_fraction(Requirements().corrupt_fraction, n) for n in (3, 10)}
    assert corrupt == {3: 1, 10: 2}
    assert "one of three, two of ten" in " ".join(ETHICS.split())
    three, ten = (MaskedSum(max_clients=n).plan(n) for n in (3, 10))
    assert Requirements().adversary is Adversary.SEMI_MALICIOUS
    assert (three.min_survivors, three.sure_contributors) == (3, 3)
    _, few, many = cells("the coordinator | the sum")
    assert few.startswith("the sum of all three")
    least, sure = ten.min_survivors, ten.sure_contributors
    assert many == f"the sum of at least {least}; if it lies about who was lost, of at least {sure}"
    assert cells("one hospital")[2] == f"the sum of the others, at least {least - 1}"
    assert cells("**two hospitals together**")[2] == f"the sum of the others, at least {least - 2}"
    assert cells("the coordinator, with as many")[2] == f"the sum of at least {sure - corrupt[10]} others"
    assert "nothing unless somebody insists" in " ".join(ETHICS.split())
    assert Requirements().min_contributors == 3


def test_the_board_reads_two_tables_at_most() -> None:
    assert len(re.findall(r"^\|---", ETHICS, flags=re.MULTILINE)) == 2
