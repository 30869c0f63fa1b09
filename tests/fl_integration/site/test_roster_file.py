"""A roster as text: one spelling of each version, errors with the number of the line, what a diff shows."""

import difflib
import os
import re
import stat
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fl_integration import Existing, read_roster, write_roster
from fl_integration.site import roster_file
from fl_integration.site.roster_file import parse_roster, roster_text
from protocols import Identity, ParameterError, Roster, RosterVersion
from protocols.membership import fingerprint
from secagg.entropy import SeededEntropy

ALICE, BOB, ZURICH = (
    Identity.generate(name, entropy=SeededEntropy(b"test", name.encode()))
    for name in ("alice", "bob", 'Zürich "B" \\ 1')
)
FIRST = RosterVersion(Roster.of(ZURICH, ALICE, BOB)).signed(ALICE).signed(BOB)
SECOND = FIRST.successor(Roster.of(ZURICH, BOB)).signed(ZURICH)
TEXT = roster_text(FIRST)
LINES = TEXT.splitlines()


@pytest.mark.parametrize("version", [FIRST, SECOND, RosterVersion(Roster.of(ALICE))])
def test_a_version_comes_back(version: RosterVersion, tmp_path: Path) -> None:
    path = tmp_path / "roster.txt"
    write_roster(version, path)
    assert read_roster(str(path)) == version
    assert path.read_text(encoding="utf-8") == roster_text(version)
    assert [each.name for each in tmp_path.iterdir()] == ["roster.txt"]


def test_the_text_is_what_the_page_shows() -> None:
    signature = {key.hex(): value.hex() for key, value in FIRST.signatures}
    alice, bob, zurich = (each.key.public_key for each in (ALICE, BOB, ZURICH))
    expected = [
        "secagg roster 1",
        "version 1",
        "previous none",
        f'member "Zürich \\"B\\" \\\\ 1" {zurich.hex()}  # {fingerprint(zurich)}',
        f'member "alice" {alice.hex()}  # {fingerprint(alice)}',
        f'member "bob" {bob.hex()}  # {fingerprint(bob)}',
        *(f"signature {key} {signature[key]}" for key in sorted((alice.hex(), bob.hex()))),
    ]
    assert expected == LINES
    assert roster_text(SECOND).splitlines()[1:3] == ["version 2", f"previous {FIRST.digest.hex()}"]


def test_a_member_who_leaves_is_one_line_of_a_diff() -> None:
    changed = [
        line
        for line in difflib.ndiff(LINES, roster_text(SECOND).splitlines())
        if line[0] in "+-" and "member" in line
    ]
    assert changed == [f"- {LINES[4]}"]


@given(st.data())
def test_what_is_accepted_is_what_would_have_been_written(data: st.DataObject) -> None:
    """Change, drop, repeat or insert a piece: it is refused, or it is the one spelling of what it says."""
    at = data.draw(st.integers(0, len(TEXT)))
    to = data.draw(st.integers(at, min(len(TEXT), at + 3)))
    piece = data.draw(st.text('ab 0123456789"\\\n#\rAB\u00a0', max_size=3) | st.sampled_from(LINES))
    changed = TEXT[:at] + piece + TEXT[to:]
    try:
        version = parse_roster(changed)
    except ParameterError:
        return
    assert roster_text(version) == changed


@given(st.lists(st.text('"\\ #x', min_size=1, max_size=64), min_size=1, max_size=5, unique=True))
def test_names_of_marks_and_spaces_are_told_apart(names: list[str]) -> None:
    roster = Roster(tuple((name, bytes([at]) * 32) for at, name in enumerate(names)))
    version = RosterVersion(roster)
    assert parse_roster(roster_text(version)) == version


def lines(*changes: tuple[int, str]) -> str:
    found = [*LINES]
    for at, line in changes:
        found[at - 1] = line
    return "".join(f"{line}\n" for line in found)


MEMBER = LINES[4]


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("", "line 1 of the roster: the file ends in the middle of a line"),
        ("\n", "line 1 of the roster: 'secagg roster 1' belongs here"),
        (TEXT[:-1], "line 8 of the roster: the file ends in the middle of a line"),
        (TEXT + "x", "line 9 of the roster: the file ends in the middle"),
        (TEXT + "\n", "line 9 of the roster: it is neither a member"),
        (TEXT.replace("\n", "\r\n"), "line 1 of the roster: it ends in a carriage return"),
        ("\ufeff" + TEXT, "line 1 of the roster: 'secagg roster 1' belongs here"),
        (lines((1, "secagg roster 2")), "line 1"),
        (lines((2, "version 01")), "line 2 of the roster: 'version' and its number belongs here"),
        (lines((2, "version 0")), "line 2"),
        (lines((2, "version -1")), "line 2"),
        (lines((2, "version ١")), "line 2"),
        (lines((2, "version 2")), "previous of version 2 must be 32 bytes"),
        (lines((2, "version 9999999999999999999")), "version is 9999999999999999999"),
        (lines((3, "previous")), "line 3 of the roster: 'previous' and a digest or 'none' belongs here"),
        (lines((3, "previous " + "A" * 64)), "line 3"),
        (lines((3, "previous " + "a" * 64)), "previous of version 1 must be 0 bytes"),
        ("".join(f"{line}\n" for line in LINES[:2]), "line 3 of the roster"),
        ("".join(f"{line}\n" for line in LINES[:3]), "a roster without members"),
        (lines((5, "# a remark")), "line 5 of the roster: it is neither a member"),
        (lines((5, "")), "line 5"),
        (lines((5, " " + MEMBER)), "line 5"),
        (lines((5, MEMBER + " ")), "line 5"),
        (lines((5, MEMBER.replace("  #", " #"))), "line 5"),
        (lines((5, MEMBER.partition("  #")[0])), "line 5"),
        (lines((5, MEMBER.upper())), "line 5"),
        (lines((5, MEMBER.replace('"alice"', "alice"))), "line 5"),
        (lines((5, MEMBER.replace('"alice"', '"al"ice"'))), "line 5"),
        (lines((5, MEMBER.replace('"alice"', '"al\\ice"'))), "line 5"),
        (
            lines((5, MEMBER.replace('"alice"', '"server"'))),
            "line 5 of the roster: 'server' names the server",
        ),
        (lines((5, MEMBER.replace('"alice"', '""'))), "line 5 of the roster: the client id '' has 0 bytes"),
        (lines((5, MEMBER.replace("alice", "a\u202elice"))), "not printable"),
        (lines((5, MEMBER.replace("alice", "u\u0308"))), "normal form NFC"),
        (
            lines((5, MEMBER[:-1] + ("A" if MEMBER[-1] != "A" else "B"))),
            "line 5 of the roster: the fingerprint",
        ),
        (lines((5, LINES[3])), "line 5 of the roster: this name or this key stands above"),
        (
            lines((5, MEMBER), (6, MEMBER.replace("alice", "carol"))),
            "line 6 of the roster: this name or this key",
        ),
        (lines((7, LINES[7]), (8, LINES[6])), "line 8 of the roster: signatures stand in the order"),
        (lines((8, LINES[6])), "line 8 of the roster: signatures stand in the order"),
        (lines((6, LINES[6]), (7, LINES[5])), "line 7 of the roster: it is neither a member"),
        (lines((8, LINES[7][:-1])), "line 8"),
    ],
)
def test_texts_that_are_refused_with_the_number_of_the_line(text: str, named: str) -> None:
    with pytest.raises(ParameterError, match=re.escape(named)):
        parse_roster(text)


def test_a_line_that_is_not_utf8_is_named(tmp_path: Path) -> None:
    path = tmp_path / "roster.txt"
    path.write_bytes(TEXT.encode().replace("ü".encode(), b"\xfc"))
    with pytest.raises(ParameterError, match=f"line 4 of {re.escape(repr(str(path)))}: it is not UTF-8"):
        read_roster(path)


def test_a_file_has_a_bound_both_ways(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "roster.txt"
    write_roster(FIRST, path)
    monkeypatch.setattr(roster_file, "MAXIMUM_FILE", len(TEXT.encode()) - 1)
    with pytest.raises(ParameterError, match="has more than"):
        read_roster(path)
    with pytest.raises(ParameterError, match="a file has at most"):
        write_roster(SECOND.signed(ALICE).signed(BOB).signed(Identity.generate("x")), path)
    assert path.read_text(encoding="utf-8") == TEXT


def test_a_roster_is_for_everybody_to_read(tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        write_roster(FIRST, tmp_path / "roster.txt")
    finally:
        os.umask(before)
    if os.name == "posix":
        assert stat.S_IMODE((tmp_path / "roster.txt").stat().st_mode) == 0o644


def test_a_roster_that_stands_there_is_kept_if_asked(tmp_path: Path) -> None:
    path = tmp_path / "roster.txt"
    write_roster(FIRST, path, existing=Existing.REFUSE)
    with pytest.raises(ParameterError, match="is there already and is not overwritten"):
        write_roster(SECOND, path, existing=Existing.REFUSE)
    assert read_roster(path) == FIRST
    with pytest.raises(ParameterError, match="a member of Existing"):
        write_roster(SECOND, path, existing=False)  # type: ignore[arg-type]
    write_roster(SECOND, path)
    assert read_roster(path) == SECOND


@pytest.mark.parametrize("version", [FIRST.roster, TEXT, None])
def test_only_versions_are_written(version: Any, tmp_path: Path) -> None:
    with pytest.raises(ParameterError, match="holds a RosterVersion"):
        write_roster(version, tmp_path / "roster.txt")


def test_places_that_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ParameterError, match="cannot be opened: No such file"):
        read_roster(tmp_path / "nowhere")
    with pytest.raises(ParameterError, match="no regular file"):
        read_roster(tmp_path)
    with pytest.raises(ParameterError, match="cannot be written: No such file"):
        write_roster(FIRST, tmp_path / "nowhere" / "roster.txt")
    with pytest.raises(ParameterError, match="the path of a roster is a str or a Path, not bytes"):
        read_roster(b"roster.txt")  # type: ignore[arg-type]
    with pytest.raises(ParameterError, match="does not name a file"):
        write_roster(FIRST, "")
