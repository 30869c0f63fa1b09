"""A key signs one successor of a version: what is remembered, what is refused, what a damaged memory does."""

import re
import stat
from pathlib import Path
from typing import Any

import pytest

from fl_integration.site import private_files
from fl_integration.site.private_files import WithoutModes
from fl_integration.site.signed_rosters import Second, sign_roster
from protocols import Identity, ParameterError, Roster, RosterVersion
from secagg.entropy import SeededEntropy

ALICE, BOB, CAROL = (
    Identity.generate(name, entropy=SeededEntropy(b"test", name.encode()))
    for name in ("alice", "bob", "carol")
)
FIRST = RosterVersion(Roster.of(ALICE, BOB, CAROL))
ONE, OTHER = FIRST.successor(Roster.of(ALICE, BOB)), FIRST.successor(Roster.of(ALICE, CAROL))
NEXT = ONE.successor(Roster.of(ALICE, CAROL))


def test_one_successor_is_signed_as_often_as_you_like_and_no_second(tmp_path: Path) -> None:
    memory = tmp_path / "k.signed"
    for _ in range(2):
        assert sign_roster(ONE, ALICE, memory) == ONE.signed(ALICE)
    with pytest.raises(ParameterError, match=re.escape(ONE.fingerprint)):
        sign_roster(OTHER, ALICE, memory)
    assert sign_roster(NEXT, ALICE, memory) == NEXT.signed(ALICE)
    with pytest.raises(ParameterError, match="signed another successor of the same version"):
        sign_roster(OTHER.signed(BOB), ALICE, str(memory))
    assert stat.S_IMODE(memory.stat().st_mode) == 0o600
    assert memory.read_text() == (
        "secagg signed rosters 1\n"
        f"{FIRST.digest.hex()} {ONE.digest.hex()}\n{ONE.digest.hex()} {NEXT.digest.hex()}\n"
    )


def test_a_successor_that_all_gave_up_is_replaced(tmp_path: Path) -> None:
    memory = tmp_path / "k.signed"
    sign_roster(ONE, ALICE, memory)
    assert sign_roster(OTHER, ALICE, memory, second=Second.GIVEN_UP) == OTHER.signed(ALICE)
    with pytest.raises(ParameterError, match=re.escape(OTHER.fingerprint)):
        sign_roster(ONE, ALICE, memory)


def test_first_versions_are_not_counted(tmp_path: Path) -> None:
    for version in (FIRST, RosterVersion(Roster.of(ALICE))):
        assert sign_roster(version, ALICE, tmp_path / "k.signed") == version.signed(ALICE)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\n",
        b"secagg signed rosters 1",
        b"secagg signed rosters 2\n",
        b"secagg signed rosters 1\nx\n",
        b"secagg signed rosters 1\n\n",
        b"\xff\n",
        b"secagg signed rosters 1\n" + b"a" * 64 + b" " + b"a" * 64,
        b"secagg signed rosters 1\n" + 2 * (b"a" * 64 + b" " + b"a" * 64 + b"\n"),
    ],
)
def test_a_damaged_memory_signs_nothing_and_is_kept(content: bytes, tmp_path: Path) -> None:
    memory = tmp_path / "k.signed"
    memory.write_bytes(content)
    memory.chmod(0o600)
    with pytest.raises(ParameterError, match="is not what `secagg roster sign` remembers"):
        sign_roster(ONE, ALICE, memory)
    assert memory.read_bytes() == content


def test_a_memory_that_others_can_change_or_that_cannot_be_written(tmp_path: Path) -> None:
    memory = tmp_path / "k.signed"
    sign_roster(ONE, ALICE, memory)
    memory.chmod(0o660)
    with pytest.raises(ParameterError, match="mode 0660"):
        sign_roster(ONE, ALICE, memory)
    with pytest.raises(ParameterError, match="cannot be written: No such file"):
        sign_roster(ONE, ALICE, tmp_path / "nowhere" / "k.signed")
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    with pytest.raises(ParameterError, match="cannot be opened"):
        sign_roster(ONE, ALICE, tmp_path / "dangling")


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"version": FIRST.roster}, "is a RosterVersion, not Roster"),
        ({"identity": ALICE.key}, "by an Identity, not SigningKey"),
        ({"memory": b"k"}, "a str or a Path, not bytes"),
        ({"memory": ""}, "does not name a file"),
        ({"second": True}, "a member of Second"),
        ({"without_modes": None}, "a member of WithoutModes"),
    ],
)
def test_arguments_that_are_refused(change: Any, named: str, tmp_path: Path) -> None:
    arguments = {"version": ONE, "identity": ALICE, "memory": tmp_path / "k.signed", **change}
    with pytest.raises(ParameterError, match=re.escape(named)):
        sign_roster(**arguments)
    assert list(tmp_path.iterdir()) == []


def test_without_modes_the_folder_has_to_be_trusted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(private_files, "_MODES_HOLD", False)
    memory, trusted = tmp_path / "k.signed", WithoutModes.TRUST_THE_FOLDER
    with pytest.raises(ParameterError, match="TRUST_THE_FOLDER"):
        sign_roster(ONE, ALICE, memory)
    sign_roster(ONE, ALICE, memory, without_modes=trusted)
    with pytest.raises(ParameterError, match="another successor"):
        sign_roster(OTHER, ALICE, memory, without_modes=trusted)
