"""A release log that survives the process and the power: one SQLite file, kept where the server cannot rewind it.

A client that comes back from an older saved state could release a second, different answer for a step that it
answered before: the other kind of share, or a second vector under the same masks (ATTACKS A14; the two together
open what one alone does not). Sealing the state does not stop that. `SqliteReleaseLog` does: before a reply
leaves, its digest is written, durably and only if the step has none; what stands there decides.

Durable means that the transaction has reached the disk when `insert` returns: `synchronous` is at its strictest
setting, which is FULL and in addition syncs the directory after the journal is gone. It holds as far as the
disk keeps its word, and as far as nobody restores the *file* from a backup: put it on storage of its own and
leave it out of snapshots. Only digests are stored, never a share, a vector or a key.

>>> import tempfile, pathlib
>>> with tempfile.TemporaryDirectory() as folder, SqliteReleaseLog(pathlib.Path(folder) / "releases") as log:
...     log.insert(b"session", 1, 3, b"first") == log.insert(b"session", 1, 3, b"second") == b"first"
True
"""

import os
import sqlite3
import threading
from contextlib import suppress
from types import TracebackType
from typing import Final, Self

from secagg.errors import ParameterError

__all__ = ["SqliteReleaseLog"]

_APPLICATION: Final = 0x53414747
"""Written into the file's header, so that another program's database is not taken for a log."""

_FORMAT: Final = 1
_INTEGERS: Final = 1 << 63
_WAIT_SECONDS: Final = 30.0

_TABLE: Final = """
CREATE TABLE releases (
    session BLOB NOT NULL,
    round INTEGER NOT NULL,
    step INTEGER NOT NULL,
    digest BLOB NOT NULL,
    PRIMARY KEY (session, round, step)
) STRICT, WITHOUT ROWID
"""


class SqliteReleaseLog:
    """A durable insert-if-absent map; implements `protocols.ReleaseLog`.

    Several processes and threads may share one file: each insertion is one exclusive transaction.

    Args:
        path: the file; it is created when absent, its folder is not.

    Raises:
        ParameterError: the file cannot be opened, or it holds something else.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = os.fspath(path)
        self._lock = threading.Lock()
        try:
            self._connection = sqlite3.connect(
                self._path, timeout=_WAIT_SECONDS, isolation_level=None, check_same_thread=False
            )
        except sqlite3.Error as error:
            raise ParameterError(f"the release log {self._path!r} cannot be opened: {error}") from error
        try:
            self._connection.execute("PRAGMA journal_mode = DELETE")
            self._connection.execute("PRAGMA synchronous = EXTRA")
            self._prepare()
        except sqlite3.Error as error:
            self._connection.close()
            raise ParameterError(
                f"the file {self._path!r} cannot be used as a release log: {error}; name a new file or one that this "
                "class wrote"
            ) from error
        except ParameterError:
            self._connection.close()
            raise

    def _prepare(self) -> None:
        """Makes the table in an empty file; refuses a file that is not a log of this version."""
        self._connection.execute("BEGIN IMMEDIATE")
        with suppress(sqlite3.Error), _Transaction(self._connection):
            found = self._pragma("application_id"), self._pragma("user_version")
            tables = self._connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]
            if not tables and found == (0, 0):
                self._connection.execute(_TABLE)
                self._connection.execute(f"PRAGMA application_id = {_APPLICATION}")
                self._connection.execute(f"PRAGMA user_version = {_FORMAT}")
