"""The command as a whole: help, codes, what it loads, what it says is missing; plan and advise."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from fl_integration.command.app import app
from fl_integration.command.main import main
from fl_integration.site.keys import load_public, save_identity
from fl_integration.site.roster_file import write_roster
from protocols import Adversary, CkksSum, Identity, MaskedSum, Requirements, Roster, RosterVersion, advise
from secagg.release import RELEASE
from tests.fresh import BLOCKER, ROOT, run

VERBS = {
    "identity": ("new", "show", "rotate"),
    "roster": ("new", "add", "remove", "sign", "check"),
    "plan": (),
    "advise": (),
    "study": ("heart",),
    "describe": (),
    "audit": (),
}


def test_the_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"secagg {RELEASE}\n"


def test_every_verb_has_help_with_an_example() -> None:
    runner = CliRunner()
    whole = runner.invoke(app, ["--help"])
    assert whole.exit_code == 0
    assert "Exit codes: 0" in whole.stdout
    listed = re.findall(r"^  (\w+) {2,}\w", whole.stdout.partition("Commands:")[2], flags=re.MULTILINE)
    assert listed == [*VERBS, "hospitals"]
    said = " ".join(whole.stdout.partition("Commands:")[2].split())
    assert "..." not in said
    assert "Your long-term signing key: make it, show its public half, replace it." in said
    for noun, verbs in VERBS.items():
        for words in [(noun, verb) for verb in verbs] or [(noun,)]:
            shown = runner.invoke(app, [*words, "--help"])
            assert shown.exit_code == 0
            assert f"  secagg {' '.join(words)} " in shown.stdout
            assert "Example" in shown.stdout
            assert "\\" not in shown.stdout


def test_help_says_once_what_every_argument_is() -> None:
    runner = CliRunner()
    for words, arguments in (
        (["plan"], {"N": "Clients in a round."}),
        (["advise"], {"N": "Clients in a round, at least 3.", "LENGTH": "Values in an update."}),
        (["audit"], {"FOLDER": "Where the records lie."}),
        (["identity", "rotate"], {"KEY": "The file with your identity."}),
        (["roster", "remove"], {"ROSTER": "The file with the roster.", "NAME...": "Members who leave."}),
    ):
        shown = runner.invoke(app, [*words, "--help"]).stdout
        listed = re.findall(
            r"^  (\S+) {2,}(\S.*?)  \[required\]$", shown.partition("\nOptions:")[0], re.MULTILINE
        )
        assert dict(listed) == arguments
        assert len(re.findall(r"rguments:$", shown, flags=re.MULTILINE)) == 1


def test_wrong_use_is_code_2() -> None:
    for arguments in (
        [],
        ["identity"],
        ["nothing"],
        ["plan"],
        ["plan", "x"],
        ["--nothing"],
        ["roster", "new"],
    ):
        assert CliRunner().invoke(app, arguments).exit_code == 2


def test_an_error_of_ours_is_one_line_and_code_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "0"]) == 2
    assert capsys.readouterr().err == "secagg: max_clients is 0; it must be an integer in [2, 1048576]\n"


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="a disk that is always full")
def test_an_output_that_takes_nothing_is_one_line_and_code_2(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Not 1, which would say that the roster is another one."""
    write_roster(RosterVersion(Roster.of(Identity.generate("basel"))), tmp_path / "1.txt")
    for arguments in (["roster", "check", str(tmp_path / "1.txt")], ["plan", "10"]):
        with open("/dev/full", "w", encoding="utf-8") as full:
            monkeypatch.setattr(sys, "stdout", full)
            assert main(arguments) == 2
            with pytest.raises(OSError, match="No space"):
                full.close()
        assert capsys.readouterr().err == "secagg: the output cannot be written: No space left on device\n"


def test_plan_prints_the_plan() -> None:
    shown = CliRunner().invoke(app, ["plan", "10"]).stdout
    assert shown == f"{MaskedSum(max_clients=10).plan(10)}\n"
    requirements = Requirements(
        adversary=Adversary.MALICIOUS, corrupt_fraction=0.05, dropout_fraction=0.1, min_contributors=5
    )
    options = ["--roster", "1000", "--adversary", "malicious", "--corrupt-fraction", "0.05"]
    options += ["--dropout-fraction", "0.1", "--min-contributors", "5", "--bits", "8", "--max-weight", "9"]
    shown = CliRunner().invoke(app, ["plan", "100", *options]).stdout
    made = MaskedSum(max_clients=100, bits=8, max_weight=9, requirements=requirements)
    assert shown == f"{made.plan(100, roster=1000)}\n"
    shown = CliRunner().invoke(app, ["plan", "5", "--protocol", "ckks"]).stdout
    assert shown == f"{CkksSum(max_clients=5).plan(5)}\n"


def test_advise_prints_the_candidates_and_why() -> None:
    options = ["--no-clients-may-collude", "--no-server-may-learn", "--megabits", "10", "--roster", "20"]
    done = CliRunner().invoke(app, ["advise", "10", "1000000", *options])
    expected = advise(10, 10**6, clients_may_collude=False, server_may_learn=False, megabits=10, roster=20)
    assert done.exit_code == 0
    rows = [re.split(r" {2,}", line.strip()) for line in done.stdout.splitlines()]
    names = [row[0] for row in rows[2:7]]
    assert names == [each.name for each in expected.candidates]
    assert rows[2][-1] == f"{expected.best.round_seconds:.3g}"
    assert done.stdout.endswith("".join(f"- {reason}\n" for reason in expected.reasons))


def test_no_advice_is_code_1() -> None:
    done = CliRunner().invoke(app, ["advise", "3", "10", "--no-server-may-learn"])
    assert done.exit_code == 1
    assert "it tells the server the sum" in done.stdout


def test_hospitals_takes_the_options_of_the_old_script(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["hospitals", "--rounds", "0"]) == 2
    assert capsys.readouterr().err == "secagg-hospitals: --rounds is 0; pass at least 1\n"
    assert main(["hospitals", "--help"]) == 0
    assert "what it writes into DIR" in capsys.readouterr().out


@pytest.mark.parametrize("library", ["typer", "rich"])
def test_without_the_extra_one_line_names_it(library: str) -> None:
    said = run(
        BLOCKER.format(library=library)
        + "\nimport contextlib, io"
        + "\nfrom fl_integration.command.main import main"
        + "\nwith contextlib.redirect_stderr(io.StringIO()) as error:"
        + "\n    code = main(['--version'])"
        + "\nprint(code, error.getvalue(), end='')"
    )
    assert said == f"2 secagg: {library} is not installed; run: pip install 'secagg[cli]'"


def test_keys_and_rosters_load_nothing_heavy(tmp_path: Path) -> None:
    key, public, roster = tmp_path / "k", tmp_path / "p", tmp_path / "r"
    said = run(
        f"""
        import contextlib, io, os, sys
        from fl_integration.command.main import main
        os.environ["PW"] = "correct horse battery"
        quiet = io.TextIOWrapper(io.BytesIO())
        with contextlib.redirect_stdout(quiet), contextlib.redirect_stderr(quiet):
            codes = [main(["identity", "new", "a", "--out", {str(key)!r}, "--password-env", "PW"])]
            quiet.flush()
            open({str(public)!r}, "wb").write(quiet.buffer.getvalue().splitlines(True)[0])
            codes += [main(["roster", "new", {str(public)!r}, "--out", {str(roster)!r}])]
            codes += [main(["roster", "check", {str(roster)!r}]), main(["plan", "5"])]
        heavy = {{"torch", "flwr", "pandas", "matplotlib", "sklearn", "tenseal", "phe", "gmpy2"}}
        print(codes, sorted(heavy & set(sys.modules)))
        """
    )
    assert said == "[0, 0, 1, 0] []"


def started(*arguments: object, **variables: str) -> "subprocess.CompletedProcess[bytes]":
    return subprocess.run(
        [sys.executable, "-m", "fl_integration.command.main", *map(str, arguments)],
        capture_output=True,
        check=False,
        timeout=120,
        cwd=ROOT,
        env={**os.environ, **variables},
    )


@pytest.mark.slow
def test_a_poor_console_gets_plainer_text_and_the_same_public_line(tmp_path: Path) -> None:
    poor = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    save_identity(Identity.generate("Zürich"), tmp_path / "k", password="correct horse battery")
    shown = started("identity", "show", tmp_path / "k", **poor)
    assert shown.stdout == load_public(tmp_path / "k").line.encode() + b"\n"
    (tmp_path / "p").write_bytes(shown.stdout)
    made = started("roster", "new", tmp_path / "p", "--out", tmp_path / "r", **poor)
    assert made.returncode == 0
    assert "Zurich" in made.stdout.decode("ascii")


@pytest.mark.slow
def test_where_nothing_hides_what_is_typed_it_is_not_asked_for(tmp_path: Path) -> None:
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "fl_integration.command.main",
            "identity",
            "new",
            "a",
            "--out",
            tmp_path / "k",
        ],
        input=b"correct horse battery\n" * 2,
        capture_output=True,
        check=False,
        timeout=120,
        cwd=ROOT,
        start_new_session=True,  # no terminal of ours is found
    )
    assert done.returncode == 2
    assert (
        done.stderr == b"secagg: there is no terminal that hides what is typed; "
        b"use --password-file or --password-env\n"
    )
    assert not (tmp_path / "k").exists()


@pytest.mark.slow
def test_a_shell_completes_the_verbs() -> None:
    asked = {"_SECAGG_COMPLETE": "complete_bash", "COMP_WORDS": "secagg roster ", "COMP_CWORD": "2"}
    assert started(**asked).stdout.decode().split() == list(VERBS["roster"])


@pytest.mark.slow
def test_a_reader_that_leaves_early_is_no_error() -> None:
    done = subprocess.run(
        f"{sys.executable} -m fl_integration.command.main advise 10 1000 | head -c 1",
        shell=True, capture_output=True, check=False, timeout=120, cwd=ROOT,
    )  # fmt: skip
    assert done.stderr == b""
