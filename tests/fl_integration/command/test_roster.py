"""`secagg roster`: three hospitals from their keys to a roster that all signed, and what changes it later."""

import re
from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

from fl_integration.command.app import app
from fl_integration.site.keys import save_identity
from fl_integration.site.public_identity import PublicIdentity
from fl_integration.site.roster_file import read_roster, write_roster
from protocols import Identity, Roster, RosterVersion
from protocols.membership import fingerprint
from secagg.entropy import SeededEntropy

pytestmark = pytest.mark.usefixtures("quick_passwords")

PASSWORD = "correct horse battery"


def made(name: str, key: str = "") -> Identity:
    return Identity.generate(name, entropy=SeededEntropy(b"test", f"{name} {key}".encode()))


CLEVELAND, BUDAPEST, ZURICH, BASEL = map(made, ("Cleveland", "Budapest", "Zürich [b]x[/b]", "basel"))
NEW_ZURICH = made(ZURICH.client, "new")
FIRST = RosterVersion(Roster.of(CLEVELAND, BUDAPEST, ZURICH))


def run(*arguments: object, typed: str | None = None) -> Result:
    return CliRunner().invoke(app, [*map(str, arguments)], input=typed, env={"PW": PASSWORD})


def good(*arguments: object) -> Result:
    result = run(*arguments)
    assert result.exit_code == 0, result.output
    return result


def refused(result: Result, named: str) -> None:
    assert result.exit_code == 2, result.output
    assert re.fullmatch(r"secagg: [^\n]+\n", result.stderr)
    assert re.search(named, result.stderr)
    assert isinstance(result.exception, SystemExit)


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("keys")
    for file, identity in (("cleveland", CLEVELAND), ("zurich", ZURICH)):
        save_identity(identity, folder / f"{file}.key", password=PASSWORD)
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Public lines, and the first version, signed by nobody."""
    everybody = {
        "cleveland": CLEVELAND,
        "budapest": BUDAPEST,
        "zurich": ZURICH,
        "zurich-2": NEW_ZURICH,
        "basel": BASEL,
    }
    for file, identity in everybody.items():
        (tmp_path / f"{file}.pub").write_text(PublicIdentity.of(identity).line + "\n", encoding="utf-8")
    write_roster(FIRST, tmp_path / "1.txt")
    return tmp_path


def test_a_roster_from_public_lines(folder: Path) -> None:
    files = [folder / f"{name}.pub" for name in ("cleveland", "budapest", "zurich")]
    done = good("roster", "new", *files, "--out", folder / "new.txt")
    assert read_roster(folder / "new.txt") == FIRST
    assert FIRST.fingerprint in done.stdout
    for name, key in FIRST.roster.keys:
        assert re.search(rf"{re.escape(name)} +{fingerprint(key)} +no", done.stdout)
    (folder / "all.pub").write_text(
        "".join(file.read_text(encoding="utf-8") for file in files), encoding="utf-8"
    )
    good("roster", "new", folder / "all.pub", "--out", folder / "again.txt")
    assert read_roster(folder / "again.txt") == FIRST


def test_signing_and_collecting(folder: Path, keys: Path) -> None:
    """Two members sign copies, a third collects: the order of signing does not matter."""
    copy, file = folder / "copy.txt", folder / "1.txt"
    write_roster(FIRST.signed(BUDAPEST), copy)
    done = good("roster", "sign", file, "--key", keys / "zurich.key", "--password-env", "PW")
    assert FIRST.fingerprint in done.stderr
    assert done.stdout.startswith("1 of 3 members have signed")
    done = good(
        "roster", "sign", file, "--collect", copy, "--key", keys / "cleveland.key", "--password-env", "PW"
    )
    assert done.stdout.startswith("3 of 3")
    assert read_roster(file) == FIRST.signed(ZURICH).signed(BUDAPEST).signed(CLEVELAND)
    assert ZURICH.key.secret.reveal().hex() not in done.output
    assert PASSWORD not in done.output


def test_signatures_of_another_roster_or_of_nobody_are_not_collected(folder: Path) -> None:
    write_roster(RosterVersion(Roster.of(CLEVELAND)).signed(CLEVELAND), folder / "other.txt")
    refused(run("roster", "sign", folder / "1.txt", "--collect", folder / "other.txt"), "is another roster")
    forged = RosterVersion(FIRST.roster, signatures=((BUDAPEST.key.public_key, bytes(64)),))
    write_roster(forged, folder / "forged.txt")
    write_roster(FIRST.signed(BUDAPEST), folder / "1.txt")
    good("roster", "sign", folder / "1.txt", "--collect", folder / "forged.txt")
    assert read_roster(folder / "1.txt") == FIRST.signed(BUDAPEST)


def test_check_asks_whether_all_signed(folder: Path) -> None:
    file = folder / "1.txt"
    write_roster(FIRST.signed(CLEVELAND), file)
    done = run("roster", "check", file)
    assert done.exit_code == 1
    assert "1 of 3 members have signed" in done.stdout
    assert re.search(r"Cleveland +\S+ \S+ \S+ \S+ \S+ +yes", done.stdout)
    assert re.search(r"Budapest +\S+ \S+ \S+ \S+ \S+ +no", done.stdout)
    assert "Zürich [b]x[/b]" in done.stdout
    write_roster(FIRST.signed(CLEVELAND).signed(BUDAPEST).signed(ZURICH), file)
    assert "3 of 3 members have signed" in good("roster", "check", file).stdout


def test_check_compares_a_fingerprint_however_it_is_typed(folder: Path) -> None:
    file, said = folder / "1.txt", FIRST.fingerprint
    for text in (said, said.lower(), said.replace(" ", ""), f"  {said.replace(' ', '  ')} "):
        assert "the fingerprint is the same" in good("roster", "check", file, "--fingerprint", text).stdout
    for text in ("", said[:4], said[:-1], said + "A", said.replace(said[0], "A" if said[0] != "A" else "B")):
        done = run("roster", "check", file, "--fingerprint", text)
        assert done.exit_code == 1
        assert "ANOTHER ONE" in done.stdout


def test_a_member_joins_and_another_leaves(folder: Path) -> None:
    good("roster", "add", folder / "1.txt", folder / "basel.pub", "--out", folder / "2.txt")
    second = read_roster(folder / "2.txt")
    assert second == FIRST.successor(Roster.of(CLEVELAND, BUDAPEST, ZURICH, BASEL))
    good("roster", "remove", folder / "2.txt", "Budapest", ZURICH.client, "--out", folder / "3.txt")
    assert read_roster(folder / "3.txt") == second.successor(Roster.of(CLEVELAND, BASEL))


def test_check_says_whether_a_successor_stands(folder: Path) -> None:
    second = FIRST.successor(Roster.of(CLEVELAND, NEW_ZURICH, BASEL))
    question = ("roster", "check", folder / "2.txt", "--previous", folder / "1.txt")
    write_roster(second.signed(CLEVELAND).signed(ZURICH).signed(BASEL), folder / "2.txt")
    done = run(*question)
    assert done.exit_code == 1
    assert "2 of the 3 members of version 1 signed it" in done.stdout
    assert "3 are needed" in done.stdout
    assert FIRST.fingerprint in done.stdout
    done = good(*question, "--corrupt-fraction", "0")
    assert re.search(r"it succeeds version 1 .*: 2 of its 3 members signed, 2 are needed", done.stdout)
    table = [" ".join(line.split()) for line in done.stdout.splitlines()]
    shown = {
        each.client: fingerprint(each.key.public_key) for each in (CLEVELAND, NEW_ZURICH, BASEL, BUDAPEST)
    }
    assert f"Cleveland {shown['Cleveland']} yes yes" in table
    assert f"{ZURICH.client} {shown[ZURICH.client]} no NEW KEY yes" in table
    assert f"basel {shown['basel']} yes joins no" in table
    assert f"Budapest {shown['Budapest']} leaves no" in table
    assert run(*question, "--corrupt-fraction", "0", "--fingerprint", FIRST.fingerprint).exit_code == 1
    refused(run(*question, "--corrupt-fraction", "1"), "corrupt_fraction is 1.0")


def test_a_key_is_replaced_by_who_says_so_alone(folder: Path) -> None:
    add = ("roster", "add", folder / "1.txt", folder / "zurich-2.pub", "--out", folder / "2.txt")
    old, new = (fingerprint(each.key.public_key) for each in (ZURICH, NEW_ZURICH))
    refused(run(*add), f"is in the roster already, under the key {old}; this one is {new}.*--replace")
    assert not (folder / "2.txt").exists()
    good(*add, "--replace")
    assert read_roster(folder / "2.txt") == FIRST.successor(Roster.of(CLEVELAND, BUDAPEST, NEW_ZURICH))
    stranger = (
        "roster",
        "add",
        folder / "1.txt",
        folder / "basel.pub",
        "--out",
        folder / "3.txt",
        "--replace",
    )
    refused(run(*stranger), "'basel' is not in the roster")


def test_of_two_lines_for_one_name_none_is_taken_because_it_came_last(folder: Path) -> None:
    """A second file, or a second line that was slipped into one, must not decide whose key it is."""
    other = made("basel", "a liar's")
    lines = [PublicIdentity.of(each).line + "\n" for each in (BASEL, other)]
    (folder / "two.pub").write_text("".join(lines), encoding="utf-8")
    both = rf"'basel' stands in these files twice, .* {PublicIdentity.of(BASEL).fingerprint} and "
    for files in (["two.pub"], ["basel.pub", "basel.pub"]):
        given = [folder / file for file in files]
        refused(run("roster", "add", folder / "1.txt", *given, "--out", folder / "x"), both)
    new = [folder / "zurich-2.pub", folder / "zurich.pub"]
    refused(run("roster", "add", "--replace", folder / "1.txt", *new, "--out", folder / "x"), "files twice")
    assert not (folder / "x").exists()


def test_the_old_key_signs_for_the_new_one_and_is_told_so(folder: Path, keys: Path) -> None:
    write_roster(FIRST.successor(Roster.of(CLEVELAND, NEW_ZURICH)), folder / "2.txt")
    sign = ("roster", "sign", folder / "2.txt", "--key", keys / "zurich.key", "--password-env", "PW")
    done = good(*sign)
    assert "does not hold 'Zürich [b]x[/b]' under this key" in done.stderr
    assert done.stdout.startswith("0 of 2 members")
    assert read_roster(folder / "2.txt").signers_among(FIRST.roster) == (ZURICH.client,)


def test_a_key_signs_one_successor_unless_all_gave_it_up(folder: Path, keys: Path) -> None:
    sign = ("--key", keys / "cleveland.key", "--password-env", "PW")
    write_roster(FIRST.successor(Roster.of(CLEVELAND, BUDAPEST)), folder / "2.txt")
    write_roster(FIRST.successor(Roster.of(CLEVELAND, BASEL)), folder / "other.txt")
    good("roster", "sign", folder / "2.txt", *sign)
    good("roster", "sign", folder / "2.txt", *sign)
    second = run("roster", "sign", folder / "other.txt", *sign)
    assert second.exit_code == 2
    assert read_roster(folder / "2.txt").fingerprint in second.stderr
    assert read_roster(folder / "other.txt").signatures == ()
    good("roster", "sign", folder / "other.txt", *sign, "--given-up")
    assert read_roster(folder / "other.txt").signers == ("Cleveland",)
    (keys / "cleveland.key.signed").unlink()


def test_a_link_to_a_key_has_the_memory_of_the_key(folder: Path, keys: Path) -> None:
    link = folder / "linked.key"
    link.symlink_to(keys / "cleveland.key")
    write_roster(FIRST.successor(Roster.of(CLEVELAND, BUDAPEST)), folder / "2.txt")
    write_roster(FIRST.successor(Roster.of(CLEVELAND, BASEL)), folder / "other.txt")
    good("roster", "sign", folder / "2.txt", "--key", keys / "cleveland.key", "--password-env", "PW")
    done = run("roster", "sign", folder / "other.txt", "--key", link, "--password-env", "PW")
    (keys / "cleveland.key.signed").unlink()
    assert done.exit_code == 2
    assert "has signed another successor" in done.stderr


def test_a_signature_that_comes_while_the_password_is_typed_stays(
    folder: Path, keys: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a folder that members share. And a roster that was put there meanwhile is not written over."""
    file, sign = folder / "1.txt", ("--key", keys / "zurich.key")
    meanwhile = [FIRST.signed(BUDAPEST), RosterVersion(Roster.of(BASEL))]

    def typed(*_: object, **__: object) -> str:
        write_roster(meanwhile[0], file)
        return PASSWORD

    monkeypatch.setattr("fl_integration.command.roster.asked", typed)
    good("roster", "sign", file, *sign)
    assert read_roster(file) == FIRST.signed(BUDAPEST).signed(ZURICH)
    del meanwhile[0]
    refused_last = run("roster", "sign", file, *sign)
    assert refused_last.exit_code == 2
    assert "the copy is another roster" in refused_last.stderr
    assert read_roster(file) == meanwhile[0]


def test_what_is_refused_leaves_the_files_as_they_were(folder: Path, keys: Path) -> None:
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    first, out = folder / "1.txt", folder / "2.txt"
    refused(run("roster", "new", folder / "basel.pub", "--out", first), "is there already")
    refused(
        run("roster", "new", folder / "basel.pub", folder / "basel.pub", "--out", out),
        "stands in the roster twice",
    )
    refused(run("roster", "new", folder / "nowhere", "--out", out), "No such file")
    refused(run("roster", "new", first, "--out", out), "line 1 of .*no line of a public identity")
    refused(run("roster", "add", first, folder / "basel.pub", "--out", first), "is there already")
    refused(run("roster", "remove", first, "nobody", "--out", out), "'nobody' is not in the roster")
    everybody = [name for name, _ in FIRST.roster.keys]
    refused(run("roster", "remove", first, *everybody, "--out", out), "a roster without members")
    refused(run("roster", "sign", first), "name a --key that signs, or copies")
    refused(run("roster", "check", folder / "basel.pub"), "line 1 of .*belongs here")
    wrong = run("roster", "sign", first, "--key", keys / "zurich.key", typed="another password\n")
    assert wrong.exit_code == 2
    assert "the password does not open the key" in wrong.stderr
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_a_public_line_that_was_changed_on_its_way(folder: Path) -> None:
    line = (folder / "basel.pub").read_text(encoding="utf-8")
    (folder / "two.pub").write_text(line + line.replace("basel", "berne"), encoding="utf-8")
    refused(
        run("roster", "new", folder / "two.pub", "--out", folder / "x"),
        "line 2 of .*did not sign the name 'berne'",
    )
    (folder / "two.pub").write_bytes(b"\xff\n")
    refused(run("roster", "new", folder / "two.pub", "--out", folder / "x"), "line 1 of .*not UTF-8")
    (folder / "two.pub").write_bytes(line.encode() + line.replace("\n", "\r\n").encode())
    refused(run("roster", "new", folder / "two.pub", "--out", folder / "x"), "line 2 of .*a carriage return")
