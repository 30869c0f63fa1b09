"""`secagg identity`: what it writes, what it prints, where passwords come from, what it refuses."""

import re
import stat
from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

from fl_integration.command.app import app
from fl_integration.site.keys import load_identity, load_public
from fl_integration.site.public_identity import PublicIdentity
from protocols.membership import fingerprint

pytestmark = pytest.mark.usefixtures("quick_passwords")

PASSWORD, OTHER = "correct horse battery", "another long password"


def run(*arguments: object, typed: str | None = None, **variables: str) -> Result:
    return CliRunner().invoke(app, [*map(str, arguments)], input=typed, env=variables)


def refused(result: Result, named: str) -> None:
    assert result.exit_code == 2
    assert re.fullmatch(r"secagg: [^\n]+\n", result.stderr.splitlines(keepends=True)[-1])
    assert re.search(named, result.stderr)
    assert "Traceback" not in result.output
    assert isinstance(result.exception, SystemExit)


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("keys") / "zurich.key"
    assert run("identity", "new", "Zürich", "--out", path, "--password-env", "PW", PW=PASSWORD).exit_code == 0
    return path


def test_new_asks_twice_writes_a_private_file_and_prints_the_public_line(tmp_path: Path) -> None:
    path = tmp_path / "basel.key"
    made = run("identity", "new", "basel", "--out", path, typed=f"{PASSWORD}\n{PASSWORD}\n")
    assert made.exit_code == 0
    public = PublicIdentity.parse(made.stdout)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    identity = load_identity(path, password=PASSWORD)
    assert (identity.client, identity.key.public_key) == ("basel", public.public_key)
    assert public.fingerprint in made.stderr
    for secret in (PASSWORD, identity.key.secret.reveal().hex()):
        assert secret not in made.output
    assert [each.name for each in tmp_path.iterdir()] == ["basel.key"]


def test_two_passwords_that_differ_are_asked_for_again(tmp_path: Path) -> None:
    path = tmp_path / "basel.key"
    typed = f"{PASSWORD}\n{OTHER}\n{OTHER}\n{OTHER}\n"
    assert run("identity", "new", "basel", "--out", path, typed=typed).exit_code == 0
    assert load_identity(path, password=OTHER).client == "basel"


def test_show_asks_for_nothing_and_a_console_changes_no_letter(key: Path) -> None:
    shown = run("identity", "show", key)
    assert shown.exit_code == 0
    assert shown.stdout_bytes == load_public(key).line.encode() + b"\n"
    assert shown.stderr == ""


def test_rotate_keeps_the_old_key_and_says_what_comes_next(key: Path, tmp_path: Path) -> None:
    new, before = tmp_path / "zurich-2.key", key.read_bytes()
    done = run(
        *("identity", "rotate", key, "--out", new, "--password-env", "OLD", "--new-password-env", "NEW"),
        OLD=PASSWORD,
        NEW=OTHER,
    )
    assert done.exit_code == 0
    assert key.read_bytes() == before
    rotated = load_identity(new, password=OTHER)
    assert rotated.client == "Zürich"
    assert rotated.key.public_key != load_public(key).public_key
    assert PublicIdentity.parse(done.stdout).public_key == rotated.key.public_key
    assert fingerprint(rotated.key.public_key) in done.stderr
    assert "roster add --replace" in done.stderr
    assert PASSWORD not in done.output
    assert OTHER not in done.output


def test_a_password_from_a_private_file(tmp_path: Path) -> None:
    file, path = tmp_path / "password", tmp_path / "basel.key"
    file.touch(mode=0o600)
    for content in (f"{PASSWORD}\n", f"{PASSWORD}\r\n", PASSWORD):
        file.write_bytes(content.encode())
        assert run("identity", "new", "basel", "--out", path, "--password-file", file).exit_code == 0
        path.unlink()
    file.chmod(0o644)
    refused(run("identity", "new", "basel", "--out", path, "--password-file", file), "mode 0644.*chmod 600")
    file.chmod(0o600)
    for content in (b"", b"\n", f"{PASSWORD}\nmore\n".encode(), b"\xff" * 20):
        file.write_bytes(content)
        refused(run("identity", "new", "basel", "--out", path, "--password-file", file), "holds no password")
    refused(
        run("identity", "new", "basel", "--out", path, "--password-file", tmp_path / "no"), "No such file"
    )
    assert not path.exists()


def test_what_new_refuses(key: Path, tmp_path: Path) -> None:
    path = tmp_path / "basel.key"
    new = ("identity", "new", "basel", "--out", path)
    refused(run(*new, "--password-env", "PW", PW="short"), "shorter than 12 characters")
    refused(run(*new, typed="short\nshort\n"), "shorter than 12 characters")
    refused(run(*new, "--password-env", "NOTHING"), "'NOTHING' is not set")
    refused(run(*new, "--password-env", "PW", PW=""), "'PW' is not set, or empty")
    refused(run(*new, "--password-env", "PW", "--password-file", "x", PW=PASSWORD), "name one of the two")
    refused(run("identity", "new", "server", "--out", path), "'server' names the server")
    refused(run("identity", "new", "a\nb", "--out", path), "not printable")
    refused(
        run("identity", "new", "basel", "--out", tmp_path / "no" / "k", "--password-env", "PW", PW=PASSWORD),
        "cannot be written: No such file",
    )
    before = key.read_bytes()
    refused(run("identity", "new", "basel", "--out", key), "is there already and is not overwritten")
    assert key.read_bytes() == before
    assert list(tmp_path.iterdir()) == []


def test_there_is_no_way_to_pass_a_password_as_an_argument(tmp_path: Path) -> None:
    for option in ("--password", "--passphrase", "-p"):
        done = run("identity", "new", "basel", "--out", tmp_path / "k", option, PASSWORD)
        assert done.exit_code == 2
        assert "No such option" in done.stderr


def test_a_letter_that_the_terminal_garbled_is_refused_and_shown_nowhere(tmp_path: Path) -> None:
    typed = "prüfung des bestands\n".encode("latin-1")
    done = CliRunner().invoke(
        app, ["identity", "new", "basel", "--out", str(tmp_path / "k")], input=2 * typed
    )
    assert done.exit_code == 2
    assert done.stderr.endswith("in another encoding than the one it says; use --password-file\n")
    assert "fung des" not in done.output
    assert not list(tmp_path.iterdir())


def test_an_interrupted_prompt_writes_nothing(tmp_path: Path) -> None:
    done = run("identity", "new", "basel", "--out", tmp_path / "k", typed="")
    assert done.exit_code == 130
    assert done.stderr.endswith("secagg: interrupted\n")
    assert list(tmp_path.iterdir()) == []


def test_what_show_and_rotate_refuse(key: Path, tmp_path: Path) -> None:
    refused(run("identity", "show", tmp_path / "no"), "No such file")
    (tmp_path / "text").write_text("text")
    (tmp_path / "text").chmod(0o600)
    refused(run("identity", "show", tmp_path / "text"), "is no identity")
    (tmp_path / "copy").write_bytes(key.read_bytes())
    (tmp_path / "copy").chmod(0o640)
    refused(run("identity", "show", tmp_path / "copy"), "mode 0640")
    wrong = run(*("identity", "rotate", key, "--out", tmp_path / "new", "--password-env", "PW"), PW=OTHER)
    refused(wrong, "the password does not open the key")
    assert OTHER not in wrong.output
    refused(
        run("identity", "rotate", key, "--out", key, "--password-env", "PW", PW=PASSWORD), "is there already"
    )
    (tmp_path / "copy").chmod(0o600)
    (tmp_path / "copy").write_bytes(key.read_bytes().replace("Zürich".encode(), b"Berlin", 1))
    refused(run("identity", "show", tmp_path / "copy"), "did not sign the name 'Berlin'")
    assert not (tmp_path / "new").exists()
