"""Files that are there whole or not at all, and readers that take no more than they expect.

A file is written beside its place, under a name that nobody can guess, forced to the disk, and put into its
place by one step of the file system; then the folder is forced to the disk too. Whoever crashes finds the
file of before, or none. A process that is killed while it writes leaves its `.name.….part` behind, with the
mode of the file that it should have become; it may be deleted.

What stands in the place is replaced, and never written through: a symbolic link there is replaced, and not
followed. Who may write into the folder can put another file there, whatever this module does.

>>> import tempfile, pathlib
>>> with tempfile.TemporaryDirectory() as folder:
...     path = pathlib.Path(folder) / "note"
...     with written_whole(path, mode=0o600) as file:
...         _ = file.write(b"whole")
...     read_whole(path, maximum=10)
b'whole'
"""

import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from enum import Enum
from pathlib import Path
from typing import BinaryIO, Final

from secagg.errors import ParameterError

__all__ = ["Existing", "check_free", "file_path", "read_whole", "written_whole"]

_POSIX: Final = os.name == "posix"
_READING: Final = (
    os.O_RDONLY
    | getattr(os, "O_BINARY", 0)
    | getattr(os, "O_NONBLOCK", 0)  # a named pipe without a writer would keep us for ever
    | getattr(os, "O_NOCTTY", 0)
)


class Existing(Enum):
    """What happens to a file that already stands in the place."""

    REPLACE = "replace"
    REFUSE = "refuse"


@contextmanager
def written_whole(path: Path, *, mode: int, existing: Existing = Existing.REPLACE) -> Iterator[BinaryIO]:
    """An empty binary file to write to; it stands at `path` when the block is left without an exception.

    Args:
        path: in a folder that exists.
        mode: the permissions, from the file's first moment on; the process's umask takes from them.
        existing: with REFUSE a file that stands there is kept, even one that came while this one was written.

    Raises:
        FileExistsError: a file stands there, with REFUSE.
        OSError: anything else that the disk or the folder refuses. What stood there still stands.
    """
    temporary = path.with_name(f".{path.name}.{os.urandom(8).hex()}.part")
    try:
        with open(temporary, "xb", opener=lambda name, flags: os.open(name, flags, mode)) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        _put(temporary, path, existing)
    finally:
        with suppress(FileNotFoundError):
            temporary.unlink()
    _sync(path.parent)


def _put(temporary: Path, path: Path, existing: Existing) -> None:
    if existing is Existing.REPLACE:
        temporary.replace(path)
    elif _POSIX:
        os.link(temporary, path)  # unlike a rename it fails where a file stands; the other name goes
    else:
        temporary.rename(path)  # fails where a file stands on Windows alone


def _sync(folder: Path) -> None:
    """Forces the new name to the disk, where a folder can be opened for that."""
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _nothing_more(status: os.stat_result) -> None:
    """A file of which nothing is asked but that it is one."""


def read_whole(path: Path, *, maximum: int, check: Callable[[os.stat_result], None] = _nothing_more) -> bytes:
    """The content of a regular file of at most `maximum` bytes.

    Args:
        check: is shown the state of the open file, and raises what it does not like. A name may stand for
            another file a moment later; what was opened stays the same.

    Raises:
        ParameterError: there is no such file, it is none or has more bytes, or it cannot be read.
    """
    shown = repr(str(path))
    try:
        handle = os.open(path, _READING)
    except OSError as error:
        raise ParameterError(f"{shown} cannot be opened: {error.strerror}") from error
    try:
        status = os.fstat(handle)
        if not stat.S_ISREG(status.st_mode):
            raise ParameterError(f"{shown} is no regular file; name one")
        check(status)
        with open(handle, "rb", closefd=False) as file:
            data = file.read(maximum + 1)
    except OSError as error:
        raise ParameterError(f"{shown} cannot be read: {error.strerror}") from error
    finally:
        os.close(handle)
    if len(data) > maximum:
        raise ParameterError(f"{shown} has more than {maximum} bytes, which is more than belongs there")
    return data


def check_free(path: str | os.PathLike[str], what: str) -> None:
    """Returns when nothing stands there yet: before work is done whose result would have no place.

    Raises:
        ParameterError: a file, folder or link stands there, or `path` names none.
    """
    place = file_path(path, what)
    if os.path.lexists(place):
        raise ParameterError(f"{str(place)!r} is there already and is not overwritten; name another file")


def file_path(path: str | os.PathLike[str], what: str) -> Path:
    """`path` as a Path that names a file.

    Raises:
        ParameterError: it is of another type, empty, ends in no name, or holds a null or what the system
            cannot write in a name.
    """
    if not isinstance(path, str | os.PathLike) or not isinstance(os.fspath(path), str):
        raise ParameterError(f"the path of {what} is a str or a Path, not {type(path).__name__}")
    try:
        named = bool(Path(path).name) and b"\0" not in os.fsencode(path)
    except UnicodeEncodeError:  # half a character
        named = False
    if not named:
        raise ParameterError(f"{os.fspath(path)!r} does not name a file; name one for {what}")
    return Path(path)
