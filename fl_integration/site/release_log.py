"""A release log that outlives the process: one SQLite file, kept where the server cannot rewind it.

A client that comes back from an older saved state could release a second, different answer for a step that it
answered before: the other kind of share, or a second vector under the same masks (ATTACKS A14). Sealing the
state does not stop that. `SqliteReleaseLog` does: before a reply leaves, its digest is written, durably and
only if the step has none; what stands there decides.

Durable means that the transaction has reached the disk when `insert` returns: `synchronous` has its strictest
setting, and the journal stays beside the file, its header zeroed and forced to the disk to commit, so that
no folder has to be. It holds as far as the disk keeps its word. Only digests are stored, never a share, a
vector or a key.

The file has an identity, drawn when it was made, and no entry is ever removed. A saved client knows both: it
does not come back with another file, nor with a copy of its own that lacks entries which it has seen (ATTACKS
D9). **A file and a state that were restored together from one backup agree, and nobody on that machine can
tell**: put the file on storage of its own and leave it out of backups and snapshots. If it is lost, the
clients that wrote to it start afresh, in a new session.

>>> import tempfile, pathlib
>>> with tempfile.TemporaryDirectory() as folder, SqliteReleaseLog(pathlib.Path(folder) / "releases") as log:
...     log.insert(b"session", 1, 3, b"first") == log.insert(b"session", 1, 3, b"second") == b"first"
True
"""

import os
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from fl_integration.site.private_files import create_private
from fl_integration.site.transactions import transaction
from secagg.errors import ParameterError

__all__ = ["SqliteReleaseLog"]

_APPLICATION: Final = 0x53414747
"""Written into the file's header, so that another program's database is not taken for a log."""

_FORMAT: Final = 2
_WITHOUT_IDENTITY: Final = 1
"""What the first releases wrote: entries alone."""

_IDENTITY_BYTES: Final = 16
_INTEGERS: Final = 1 << 63
_WAIT_SECONDS: Final = 30.0

_RELEASES: Final = """
CREATE TABLE releases (
    session BLOB NOT NULL,
    round INTEGER NOT NULL,
    step INTEGER NOT NULL,
    digest BLOB NOT NULL,
    PRIMARY KEY (session, round, step)
) STRICT, WITHOUT ROWID
"""
_IDENTITY: Final = "CREATE TABLE identity (identity BLOB NOT NULL) STRICT"


class SqliteReleaseLog:
    """A durable insert-if-absent map; implements `protocols.ReleaseLog`.

    Several processes and threads may share one file: each insertion is one exclusive transaction. Each
    process opens the file itself; what was opened before a fork refuses in the child, as SQLite asks. A file
    that an earlier release made gets its identity when it is first opened here, and keeps its entries; that
    release then refuses it.

    Args:
        path: the file; it is created when absent, its folder is not.

    Raises:
        ParameterError: the file cannot be opened, or it holds something else.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = os.fspath(path)
        if not isinstance(self._path, str) or self._path in ("", ":memory:"):
            raise ParameterError(f"a release log lasts in a file; {self._path!r} does not name one")
        self._lock, self._home = threading.Lock(), os.getpid()
        create_private(Path(self._path))
        with self._refusing("opened"):
            self._connection = sqlite3.connect(
                self._path, timeout=_WAIT_SECONDS, isolation_level=None, check_same_thread=False
            )
        try:
            with self._refusing("used"):
                self._connection.execute("PRAGMA journal_mode = PERSIST")
                self._connection.execute("PRAGMA synchronous = EXTRA")
                with transaction(self._connection):
                    self._identity = self._prepare()
        except ParameterError:
            self._connection.close()
            raise

    @property
    def identity(self) -> bytes:
        """16 random bytes, drawn when the file was made and kept in it."""
        return self._identity

    def insert(self, session: bytes, round: int, step: int, digest: bytes) -> bytes:
        """Stores the digest unless (session, round, step) has one, durably; returns the one that stands.

        Args:
            session: the session's id, at least 1 byte.
            round: in [0, 2**63).
            step: in [0, 2**63).
            digest: of what is about to be released, at least 1 byte.

        Raises:
            ParameterError: an argument is outside its range, the log was closed or opened in another process,
                or the disk refused. Nothing may be released then.
        """
        _check_bytes(session=session, digest=digest)
        for name, number in (("round", round), ("step", step)):
            if type(number) is not int or not 0 <= number < _INTEGERS:
                raise ParameterError(f"the {name} is {number!r}; it must be an int in [0, 2**63)")
        self._check_home()
        place = (session, round, step)
        with self._lock, self._refusing("written"), transaction(self._connection):
            self._connection.execute(
                "INSERT INTO releases VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING", (*place, digest)
            )
            stands = self._connection.execute(
                "SELECT digest FROM releases WHERE session = ? AND round = ? AND step = ?", place
            ).fetchone()
        return bytes(stands[0])

    def count(self, session: bytes) -> int:
        """How many entries stand under this name.

        Raises:
            ParameterError: `session` is no non-empty bytes object, the log was closed or opened in another
                process, or the file cannot be read.
        """
        _check_bytes(session=session)
        self._check_home()
        with self._lock, self._refusing("read"):
            return self._one("SELECT count(*) FROM releases WHERE session = ?", session)

    def close(self) -> None:
        """Closes the file; closing twice is harmless."""
        with self._lock:
            self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _check_home(self) -> None:
        if os.getpid() != self._home:
            raise ParameterError(
                f"the release log {self._path!r} was opened in another process; open the file in this one"
            )

    def _prepare(self) -> bytes:
        """The file's identity; makes the tables in an empty file, refuses one that is not a log of ours."""
        found = tuple(self._one(f"PRAGMA {name}") for name in ("application_id", "user_version"))
        if found == (0, 0) and not self._one("SELECT count(*) FROM sqlite_schema"):
            self._connection.execute(_RELEASES)
            self._connection.execute(f"PRAGMA application_id = {_APPLICATION}")
            self._draw_identity()
        elif found == (_APPLICATION, _WITHOUT_IDENTITY):
            self._draw_identity()
        elif found != (_APPLICATION, _FORMAT):
            raise self._something_else()
        stored = self._connection.execute("SELECT identity FROM identity").fetchall()
        if [len(each) for (each,) in stored] != [_IDENTITY_BYTES]:
            raise self._something_else()
        return bytes(stored[0][0])

    def _draw_identity(self) -> None:
        """Within the transaction that opens the file: of several processes one draws, and the others read."""
        self._connection.execute(_IDENTITY)
        self._connection.execute("INSERT INTO identity VALUES (?)", (os.urandom(_IDENTITY_BYTES),))
        self._connection.execute(f"PRAGMA user_version = {_FORMAT}")

    def _something_else(self) -> ParameterError:
        return ParameterError(
            f"the file {self._path!r} holds something else than a release log of version {_FORMAT}; "
            "name a new file or one that this class wrote"
        )

    def _one(self, query: str, *values: bytes) -> int:
        return int(self._connection.execute(query, values).fetchone()[0])

    @contextmanager
    def _refusing(self, what: str) -> Iterator[None]:
        """No error of the database leaves this room under its own name."""
        try:
            yield
        except sqlite3.Error as error:
            raise ParameterError(
                f"the release log {self._path!r} cannot be {what}: {error}; release nothing until it can"
            ) from error


def _check_bytes(**named: object) -> None:
    for name, data in named.items():
        if type(data) is not bytes or not data:
            raise ParameterError(f"the {name} is not a non-empty bytes object")
