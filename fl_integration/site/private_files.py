"""Files that only their owner reads: keys, states, passwords.

`write_private` writes whole or not at all, with mode 0600 from the file's first moment on. `read_private`
refuses what others could have read, or written: a file whose mode gives group or others anything, or that
belongs to another user. It looks at the file that it has opened, not at its name, so that nobody changes the
one for the other in between. An access control list that lets others in shows in the mode of the group.

Where the system has no such modes, as on Windows, both refuse, unless the caller says that the folder keeps
others out: `WithoutModes.TRUST_THE_FOLDER`. That has no effect where there are modes, so it weakens nothing
there; a disk that ignores them (a memory stick, another system's) is found out before anything is written to
it. Nobody looks at the folder anywhere: who may write into it can take the file away.

Nothing here encrypts. An administrator, a backup and whoever takes the disk read such a file.

>>> import tempfile, pathlib
>>> with tempfile.TemporaryDirectory() as folder:
...     path = pathlib.Path(folder) / "state"
...     write_private(path, b"sealed bytes")
...     path.chmod(0o644)
...     read_private(path, maximum=100)
Traceback (most recent call last):
    ...
secagg.errors.ParameterError: '.../state' can be read or written by others (mode 0644); run: chmod 600, ...
"""

import os
import stat
from contextlib import suppress
from enum import Enum
from functools import partial
from pathlib import Path
from typing import Final

from fl_integration.site.whole_files import Existing, file_path, read_whole, written_whole
from secagg.errors import ParameterError
from secagg.numbers import plain

__all__ = ["Existing", "WithoutModes", "create_private", "read_private", "write_private"]

PRIVATE: Final = 0o600
_OTHERS: Final = 0o077
_MODES_HOLD: Final = os.name == "posix"


class WithoutModes(Enum):
    """What happens on a system whose file modes keep nobody out, as on Windows."""

    REFUSE = "refuse"
    TRUST_THE_FOLDER = "trust the folder"
    """The caller has made sure that only this user can read the folder."""


def write_private(
    path: str | os.PathLike[str],
    data: bytes,
    *,
    existing: Existing = Existing.REPLACE,
    without_modes: WithoutModes = WithoutModes.REFUSE,
) -> None:
    """Puts `data` at `path`, whole or not at all, readable by its owner alone (mode 0600).

    Args:
        path: in a folder that exists.
        data: of type bytes.
        existing: whether a file that stands there is replaced; a link there is replaced, not followed.
        without_modes: what to do where modes mean nothing.

    Raises:
        ParameterError: an argument is anything else, a file stands there and is not to be replaced, the disk
            or the folder refuses, or the system, or the disk, has no modes. What stood there still stands.
    """
    _check(without_modes)
    if not isinstance(existing, Existing):
        raise ParameterError("existing is a member of Existing: Existing.REPLACE or Existing.REFUSE")
    if type(data) is not bytes:
        raise ParameterError(f"a private file is written from bytes, not {type(data).__name__}")
    place = file_path(path, "a private file")
    _check_modes(place, without_modes)
    try:
        with written_whole(place, mode=PRIVATE, existing=existing) as file:
            _check_kept(place, os.fstat(file.fileno()))
            file.write(data)
    except FileExistsError as error:
        raise ParameterError(
            f"{str(place)!r} is there already and is not overwritten; name another file"
        ) from error
    except OSError as error:
        raise ParameterError(f"{str(place)!r} cannot be written: {error.strerror}") from error


def create_private(path: Path) -> None:
    """A file with mode 0600, for a library that would make one with the process's own mode.

    What stands there already stays, if nobody else could have read or written it. If the disk refuses, so it
    will for whoever opens the file next, and its own error says more.

    Raises:
        ParameterError: a file stands there that is open to others or of another user, or a link to nothing,
            behind which the library would make a file with the process's own mode.
    """
    if os.path.lexists(path):
        with suppress(OSError):  # what cannot be looked at cannot be opened either, but for a link to nothing
            _check_owned(path, path.stat())
            return
        if path.is_symlink():
            raise ParameterError(f"{str(path)!r} is a link to a file that is not there; name the file itself")
        return
    # Never by opening the place itself: to close any handle of a file drops all of SQLite's locks on it.
    # A path that names no file is a ValueError.
    with suppress(OSError, ValueError), written_whole(path, mode=PRIVATE, existing=Existing.REFUSE):
        pass


def read_private(
    path: str | os.PathLike[str], *, maximum: int, without_modes: WithoutModes = WithoutModes.REFUSE
) -> bytes:
    """The bytes of a file of this user's that nobody else can read or write.

    Args:
        path: a regular file, or a link to one.
        maximum: the most bytes that it may have, at least 1.
        without_modes: what to do where modes mean nothing.

    Raises:
        ParameterError: an argument is anything else; there is no such file; it is no regular file, of another
            user, open to group or others, or too long; or the system has no modes.
    """
    _check(without_modes)
    maximum = plain(maximum)
    if type(maximum) is not int or maximum < 1:
        raise ParameterError(f"maximum is {maximum!r}; it must be an integer of at least 1")
    place = file_path(path, "a private file")
    _check_modes(place, without_modes)

    return read_whole(place, maximum=maximum, check=partial(_check_owned, place))


def _check_owned(place: Path, status: os.stat_result) -> None:
    """Refuses a file that others could have read or written."""
    if not _MODES_HOLD:
        return
    shown, mode = str(place), stat.S_IMODE(status.st_mode)
    if status.st_uid != os.geteuid():
        raise ParameterError(
            f"{shown!r} belongs to another user (number {status.st_uid}), who can read it; make a file of "
            "your own"
        )
    if mode & _OTHERS:
        raise ParameterError(
            f"{shown!r} can be read or written by others (mode {mode:04o}); run: chmod 600, and consider "
            "whether what stands in it is still secret"
        )


def _check_kept(place: Path, status: os.stat_result) -> None:
    """Nothing is written to a file that did not get its mode: some disks show one mode for all files."""
    mode = stat.S_IMODE(status.st_mode)
    if _MODES_HOLD and (mode & _OTHERS or status.st_uid != os.geteuid()):
        raise ParameterError(
            f"the disk under {str(place)!r} keeps no modes and owners (mode {mode:04o}, user number "
            f"{status.st_uid}), so others could read it; take a folder on another disk"
        )


def _check(without_modes: object) -> None:
    if not isinstance(without_modes, WithoutModes):
        raise ParameterError(
            "without_modes is a member of WithoutModes: WithoutModes.REFUSE or WithoutModes.TRUST_THE_FOLDER"
        )


def _check_modes(place: Path, without_modes: WithoutModes) -> None:
    if not _MODES_HOLD and without_modes is WithoutModes.REFUSE:
        raise ParameterError(
            f"this system's file modes do not keep others from {str(place)!r}; take a folder that only you "
            "can read, and say so with WithoutModes.TRUST_THE_FOLDER"
        )
