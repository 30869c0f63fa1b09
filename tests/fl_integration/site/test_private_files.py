"""Files for their owner alone, and files that are there whole or not at all: modes, owners, links, faults."""

import errno
import os
import re
import stat
import threading
from pathlib import Path
from typing import Any

import pytest

from fl_integration.privacy.ledger import BudgetLedger
from fl_integration.site import private_files
from fl_integration.site.private_files import Existing, WithoutModes, read_private, write_private
from fl_integration.site.release_log import SqliteReleaseLog
from fl_integration.site.whole_files import read_whole, written_whole
from fl_integration.statistics.ledger import AnswerLedger
from secagg.errors import ParameterError

POSIX = pytest.mark.skipif(os.name != "posix", reason="file modes are POSIX's")


def mode(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


def refused(named: str, path: Any, **options: Any) -> None:
    with pytest.raises(ParameterError, match=re.escape(named)):
        read_private(path, **{"maximum": 100, **options})


def test_what_was_written_is_read_and_replaced_and_nothing_stays_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "key"
    for data in (b"first", b"", b"x" * 100):
        write_private(path, data)
        assert read_private(str(path), maximum=100) == data
        assert [each.name for each in tmp_path.iterdir()] == ["key"]


@POSIX
@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
def test_the_mode_is_0600_from_the_first_byte_on(umask: int, tmp_path: Path) -> None:
    path, before = tmp_path / "key", os.umask(umask)
    try:
        with written_whole(path, mode=0o600) as file:
            (temporary,) = tmp_path.iterdir()
            assert mode(temporary) == 0o600
            file.write(b"half")
        write_private(path, b"whole")
    finally:
        os.umask(before)
    assert mode(path) == 0o600


@POSIX
def test_the_file_is_on_the_disk_before_its_name_and_the_name_before_it_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    forced, replace = os.fsync, Path.replace

    def fsync(handle: int) -> None:
        said.append("folder" if stat.S_ISDIR(os.fstat(handle).st_mode) else "file")
        forced(handle)

    def renamed(path: Path, target: Path) -> Path:
        said.append("name")
        return replace(path, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(Path, "replace", renamed)
    write_private(tmp_path / "key", b"data")
    assert said == ["file", "name", "folder"]


@POSIX
@pytest.mark.parametrize("bits", [0o640, 0o604, 0o660, 0o602, 0o620, 0o610, 0o601, 0o644, 0o777])
def test_what_others_can_read_or_write_is_refused(bits: int, tmp_path: Path) -> None:
    path = tmp_path / "key"
    write_private(path, b"data")
    path.chmod(bits)
    refused(f"can be read or written by others (mode {bits:04o}); run: chmod 600", path)
    path.chmod(0o400)
    assert read_private(path, maximum=4) == b"data"


@POSIX
def test_what_is_anothers_is_refused(tmp_path: Path) -> None:
    if os.geteuid() == 0:
        path = tmp_path / "key"
        write_private(path, b"data")
        os.chown(path, 12345, -1)
        refused("belongs to another user (number 12345)", path)
    else:
        refused("belongs to another user (number 0)", "/etc/passwd", maximum=1 << 20)


@POSIX
def test_a_link_is_read_through_and_replaced_but_never_written_through(tmp_path: Path) -> None:
    target, link = tmp_path / "target", tmp_path / "link"
    write_private(target, b"old")
    link.symlink_to(target)
    assert read_private(link, maximum=100) == b"old"
    target.chmod(0o644)
    refused("mode 0644", link)
    write_private(link, b"new")
    assert not link.is_symlink()
    assert (target.read_bytes(), link.read_bytes()) == (b"old", b"new")


@POSIX
def test_a_name_that_changes_while_it_is_read_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The open file is looked at: whoever swaps the name between opening and looking gains nothing."""
    path, other = tmp_path / "key", tmp_path / "other"
    path.write_bytes(b"open to all")
    path.chmod(0o644)
    write_private(other, b"private")
    opened = os.open

    def swapped(name: Any, *rest: Any, **options: Any) -> int:
        handle = opened(name, *rest, **options)
        if name == path:
            other.replace(path)
        return handle

    monkeypatch.setattr(os, "open", swapped)
    refused("mode 0644", path)
    monkeypatch.undo()
    assert read_private(path, maximum=100) == b"private"


@POSIX
def test_what_is_no_file_is_refused_and_a_pipe_keeps_nobody_waiting(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe, 0o600)
    found: list[str] = []

    def read() -> None:
        with pytest.raises(ParameterError) as caught:
            read_private(pipe, maximum=100)
        found.append(str(caught.value))

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    reader.join(timeout=30)
    assert found == [f"{str(pipe)!r} is no regular file; name one"]
    for path in (tmp_path, Path("/dev/null")):
        refused("is no regular file", path)


def test_sizes(tmp_path: Path) -> None:
    path = tmp_path / "key"
    write_private(path, b"x" * 101)
    refused("has more than 100 bytes", path)
    assert len(read_private(path, maximum=101)) == 101
    refused("has more than 1 bytes", path, maximum=1)


def test_a_file_that_stands_there_is_kept_if_asked(tmp_path: Path) -> None:
    path = tmp_path / "key"
    write_private(path, b"first", existing=Existing.REFUSE)
    for occupied in (path, tmp_path):
        with pytest.raises(ParameterError, match="is there already and is not overwritten"):
            write_private(occupied, b"second", existing=Existing.REFUSE)
    assert path.read_bytes() == b"first"
    assert [each.name for each in tmp_path.iterdir()] == ["key"]


@POSIX
def test_a_dangling_link_is_a_file_that_stands_there(tmp_path: Path) -> None:
    (tmp_path / "key").symlink_to(tmp_path / "nowhere")
    with pytest.raises(ParameterError, match="is there already"):
        write_private(tmp_path / "key", b"data", existing=Existing.REFUSE)
    assert not (tmp_path / "nowhere").exists()


def test_a_file_that_comes_while_ours_is_written_is_kept_too(tmp_path: Path) -> None:
    path = tmp_path / "key"

    def interrupted() -> None:
        with written_whole(path, mode=0o600, existing=Existing.REFUSE) as file:
            file.write(b"ours")
            path.write_bytes(b"theirs")

    with pytest.raises(FileExistsError):
        interrupted()
    assert path.read_bytes() == b"theirs"
    assert [each.name for each in tmp_path.iterdir()] == ["key"]


@pytest.mark.parametrize("fault", ["fsync", "rename", "block"])
@pytest.mark.parametrize("existing", list(Existing))
def test_after_a_fault_the_file_of_before_stands_alone(
    fault: str, existing: Existing, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "key"
    if existing is Existing.REPLACE:
        write_private(path, b"before")
    names = [each.name for each in tmp_path.iterdir()]

    def broken(*_: Any, **__: Any) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    def interrupted() -> None:
        with written_whole(path, mode=0o600, existing=existing) as file:
            file.write(b"half")
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        if fault == "fsync":
            patch.setattr(os, "fsync", broken)
        elif fault == "rename":
            patch.setattr(Path, "replace", broken)
            patch.setattr(os, "link", broken)
        else:
            with pytest.raises(KeyboardInterrupt):
                interrupted()
        if fault != "block":
            with pytest.raises(ParameterError, match="cannot be written: Input/output error"):
                write_private(path, b"after", existing=existing)
    assert [each.name for each in tmp_path.iterdir()] == names
    if names:
        assert path.read_bytes() == b"before"


def test_folders_that_are_not_there_and_names_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(ParameterError, match="cannot be written: No such file"):
        write_private(tmp_path / "nowhere" / "key", b"data")
    with pytest.raises(ParameterError, match="cannot be written: Is a directory"):
        write_private(tmp_path, b"data")
    refused("cannot be opened: No such file", tmp_path / "nowhere")
    for path, named in (
        ("", "does not name a file"),
        (".", "does not name a file"),
        ("/", "does not name a file"),
        ("a\0b", "does not name a file"),
        ("\ud800", "does not name a file"),
        (b"key", "a str or a Path, not bytes"),
        (7, "not int"),
    ):
        refused(named, path)
        with pytest.raises(ParameterError, match=re.escape(named)):
            write_private(path, b"data")  # type: ignore[arg-type]


def test_arguments_that_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "key"
    for data in ("text", bytearray(3), None):
        with pytest.raises(ParameterError, match="written from bytes"):
            write_private(path, data)  # type: ignore[arg-type]
    with pytest.raises(ParameterError, match="a member of Existing"):
        write_private(path, b"", existing=True)  # type: ignore[arg-type]
    with pytest.raises(ParameterError, match="a member of WithoutModes"):
        write_private(path, b"", without_modes=True)  # type: ignore[arg-type]
    refused("a member of WithoutModes", path, without_modes="refuse")
    for maximum in (0, -1, True, 1.5, None):
        refused(f"maximum is {maximum!r}", path, maximum=maximum)
    assert list(tmp_path.iterdir()) == []


def test_a_system_without_modes_is_refused_unless_the_folder_is_trusted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(private_files, "_MODES_HOLD", False)
    path = tmp_path / "key"
    with pytest.raises(ParameterError, match=r"do not keep others from .*WithoutModes\.TRUST_THE_FOLDER"):
        write_private(path, b"data")
    assert not path.exists()
    write_private(path, b"data", without_modes=WithoutModes.TRUST_THE_FOLDER)
    refused("do not keep others from", path)
    assert read_private(path, maximum=4, without_modes=WithoutModes.TRUST_THE_FOLDER) == b"data"


@POSIX
@pytest.mark.parametrize("existing", list(Existing))
def test_a_disk_that_ignores_modes_gets_no_byte(
    existing: Existing, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As FAT and mounts of other systems do: one mode for all files, whatever is asked for."""
    path, written = tmp_path / "key", os.open
    if existing is Existing.REPLACE:
        write_private(path, b"before")

    def ignoring(name: Any, flags: int, mode: int = 0o777) -> int:
        handle = written(name, flags, mode)
        if flags & os.O_CREAT:
            os.fchmod(handle, 0o755)
        return handle

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", ignoring)
        for without_modes in WithoutModes:
            with pytest.raises(ParameterError, match=r"keeps no modes and owners \(mode 0755, user number"):
                write_private(path, b"secret", existing=existing, without_modes=without_modes)
    assert [each.name for each in tmp_path.iterdir()] == ["key"] * (existing is Existing.REPLACE)


@POSIX
def test_trust_in_a_folder_weakens_nothing_where_there_are_modes(tmp_path: Path) -> None:
    path = tmp_path / "key"
    write_private(path, b"data", without_modes=WithoutModes.TRUST_THE_FOLDER)
    path.chmod(0o644)
    refused("mode 0644", path, without_modes=WithoutModes.TRUST_THE_FOLDER)


def test_what_is_not_private_is_read_whole_and_bounded_too(tmp_path: Path) -> None:
    (tmp_path / "roster").write_bytes(b"text")
    assert read_whole(tmp_path / "roster", maximum=4) == b"text"
    with pytest.raises(ParameterError, match="more than 3 bytes"):
        read_whole(tmp_path / "roster", maximum=3)


@pytest.mark.parametrize(
    "opened",
    [
        SqliteReleaseLog,
        AnswerLedger,
        lambda path: BudgetLedger(path, epsilon=1.0, delta=1e-5),
    ],
    ids=["release log", "answers", "budget"],
)
def test_no_log_lies_in_a_file_that_others_can_read(opened: Any, tmp_path: Path) -> None:
    """Neither in one that was there before, nor in one behind a link, made with the process's own mode."""
    path = tmp_path / "log"
    path.touch(mode=0o644)
    path.chmod(0o644)
    with pytest.raises(
        ParameterError, match=r"can be read or written by others \(mode 0644\); run: chmod 600"
    ):
        opened(path)
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "target")
    with pytest.raises(ParameterError, match="is a link to a file that is not there; name the file itself"):
        opened(link)
    assert not (tmp_path / "target").exists()
    path.chmod(0o600)
    opened(path).close()
