"""One exclusive transaction of a site's SQLite file: what the release log and both ledgers write by.

>>> connection = sqlite3.connect(":memory:", isolation_level=None)
>>> with transaction(connection):
...     _ = connection.execute("CREATE TABLE charges (round INTEGER)")
>>> try:
...     with transaction(connection):
...         _ = connection.execute("INSERT INTO charges VALUES (1)")
...         raise KeyError
... except KeyError:
...     print(connection.execute("SELECT count(*) FROM charges").fetchone())
(0,)
"""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["transaction"]


@contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """All or nothing; on the disk when it is left without an exception.

    Args:
        connection: with `isolation_level=None`; its pragma `synchronous` says what "on the disk" means.

    Raises:
        sqlite3.Error: the file is locked for too long, or the disk refuses. Nothing was written.
    """
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    finally:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
