"""What was answered: a site's memory, on disk, of the rows and sites that each answer was about.

A policy that looks at one question at a time sees no attack that takes two: all patients, and all but one. So
before a site's numbers leave it writes down which rows they count, and refuses a question whose rows differ
from those of an earlier answer by more than none and less than a few; likewise whose sites do, or those of
them that have enough rows, or whose columns have other bounds, for the sums under two bounds tell how many
rows lie in between. A question that
was answered may be answered again, over the same rows and sites: it says nothing new.

Rows are known by their contents, through a hash under a key that is drawn when the file is made: the file
holds no value, and nobody who lacks it can look for one. Whoever has the file can try out contents, as with
any such list: it is as private as the table (mode 0600). A table that gets another column is another table,
whose rows are all new. Only pairs of answers are compared: three or more can still be combined
(`STATISTICS.md`).

>>> import numpy as np
>>> rows = np.arange(40, dtype=np.uint8).reshape(20, 2)
>>> def asked(chosen):
...     return Asked(question=bytes(32), sites=("basel", "bern", "wien"), rows=rows[chosen],
...                  sets={"": np.ones(len(rows[chosen]), dtype=np.bool_)})
>>> ledger, limits = AnswerLedger(), {"min_difference": 10, "min_sites": 3, "max_answers": 100}
>>> ledger.charge(asked(slice(0, 20)), site="wien", session=b"one", number=0, **limits)
>>> ledger.charge(asked(slice(0, 19)), site="wien", session=b"two", number=0, **limits)
Traceback (most recent call last):
    ...
fl_integration.statistics.refusal.QuestionRefusedError: wien: the rows that count differ from those of an ...
"""

import os
import sqlite3
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import numpy as np
from numpy.typing import NDArray

from fl_integration.site.private_files import create_private
from fl_integration.site.transactions import transaction
from fl_integration.statistics.refusal import QuestionRefusedError
from fl_integration.statistics.row_names import bits_of, distance, names_of
from secagg.errors import ParameterError
from secagg.wire import Reader, Writer

__all__ = ["AnswerLedger", "Asked"]

_APPLICATION: Final = 0x53415147
"""Written into the file's header, so that another program's database is not taken for a ledger."""

_FORMAT: Final = 1
_KEY_BYTES: Final = 32
_WAIT_SECONDS: Final = 30.0

_TABLES: Final = (
    "CREATE TABLE key (key BLOB NOT NULL) STRICT",
    "CREATE TABLE rows (site TEXT NOT NULL, first INTEGER NOT NULL, names BLOB NOT NULL, "
    "PRIMARY KEY (site, first)) STRICT",
    "CREATE TABLE sets (site TEXT NOT NULL, id INTEGER NOT NULL, bits BLOB NOT NULL, "
    "PRIMARY KEY (site, id)) STRICT",
    "CREATE TABLE answered (site TEXT NOT NULL, label TEXT NOT NULL, id INTEGER NOT NULL, "
    "sites BLOB NOT NULL, PRIMARY KEY (site, label, id, sites)) STRICT, WITHOUT ROWID",
    "CREATE TABLE covered (site TEXT NOT NULL, label TEXT NOT NULL, sites BLOB NOT NULL, "
    "count INTEGER NOT NULL, PRIMARY KEY (site, label, sites, count)) STRICT, WITHOUT ROWID",
    "CREATE TABLE columns (site TEXT NOT NULL, name TEXT NOT NULL, said BLOB NOT NULL, "
    "PRIMARY KEY (site, name)) STRICT, WITHOUT ROWID",
    "CREATE TABLE sums (site TEXT NOT NULL, session BLOB NOT NULL, number INTEGER NOT NULL, "
    "question BLOB NOT NULL, PRIMARY KEY (site, session, number)) STRICT, WITHOUT ROWID",
)

_REFUSED: Final = b""
"""In the place of the question, where it was not answered for what the rows are."""

_KNOWN: Final = "SELECT question FROM sums WHERE site = ? AND session = ? AND number = ?"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Asked:
    """A question as the ledger knows it.

    Attributes:
        question: 32 bytes that name it.
        sites: who is asked.
        rows: uint8[rows, bytes], the contents of the rows that count, see `row_names`.
        sets: bool[rows] by column: which of them have a value there; under "" all of them.
        columns: what each column is said to be, in canonical bytes, by name.
    """

    question: bytes
    sites: tuple[str, ...]
    rows: NDArray[np.uint8]
    sets: Mapping[str, NDArray[np.bool_]]
    columns: Mapping[str, bytes] = field(default_factory=dict)


class AnswerLedger:
    """A durable list of answers, of one site or of several.

    Each entry is one exclusive transaction, on the disk before `charge` returns. Processes and threads may
    share a file; each process opens it itself.

    Args:
        path: the file; it is created when absent, readable by its owner alone; its folder is not created.
            None: in memory, and gone with this object.

    Raises:
        ParameterError: the file cannot be opened, or it holds something else.
    """

    def __init__(self, path: str | os.PathLike[str] | None = None) -> None:
        self._path = ":memory:" if path is None else os.fspath(path)
        if (
            not isinstance(self._path, str)
            or self._path == ""
            or (path is not None and self._path == ":memory:")
        ):
            raise ParameterError(f"a ledger lasts in a file; {self._path!r} does not name one")
        self._lock, self._home = threading.Lock(), os.getpid()
        if path is not None:
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
                    self._key = self._prepare()
        except ParameterError:
            self._connection.close()
            raise

    def __repr__(self) -> str:
        return f"AnswerLedger({'in memory' if self._path == ':memory:' else repr(self._path)})"

    def charge(
        self,
        asked: Asked,
        *,
        site: str,
        session: bytes,
        number: int,
        min_difference: int,
        min_sites: int,
        max_answers: int,
        covered: Mapping[str, int] | None = None,
    ) -> None:
        """Writes down one sum of a question, durably, before its summand leaves; the same one again is one.

        Args:
            asked: the question, its rows and its sites.
            site: who answers.
            session: of the question.
            number: of the sum; sum 0 is compared with all earlier answers of this site.
            min_difference: rows by which two sets of rows differ, if they do.
            min_sites: sites by which two sets of sites differ, if they do.
            max_answers: sums of this site in all; a refusal for the sake of rows counts as one.
            covered: once it is known, by label, how many of the sites have enough.

        Raises:
            QuestionRefusedError: it is not answered.
            ParameterError: the file cannot be written, or was opened in another process. Nothing may leave.
        """
        self._check_home()
        with self._lock, self._refusing("written"), transaction(self._connection):
            place = (site, session, number)
            known = self._all(_KNOWN, *place)
            if known == [(asked.question,)]:
                return
            if known:
                raise _refused(site, "another question was answered in this place of the session")
            self._check_answers(site, max_answers)
            refusal = None
            if number == 0:
                self._compare_sites(asked, site, min_sites=min_sites)
                self._connection.execute("SAVEPOINT asked")
                self._compare_columns(asked, site)
                refusal = self._compare_rows(asked, site, min_difference=min_difference)
                if refusal is not None:
                    self._connection.execute("ROLLBACK TO asked")
            self._compare_covered(asked, site, covered or {}, min_sites=min_sites)
            what = asked.question if refusal is None else _REFUSED
            self._connection.execute("INSERT INTO sums VALUES (?, ?, ?, ?)", (*place, what))
        if refusal is not None:
            raise refusal

    def refuse(self, *, site: str, session: bytes, max_answers: int) -> None:
        """Writes down that a question was not answered for what its rows are: it counts as a sum.

        Args:
            site: who does not answer.
            session: of the question.
            max_answers: sums of this site in all.

        Raises:
            QuestionRefusedError: there were as many before.
            ParameterError: the file cannot be written, or was opened in another process.
        """
        self._check_home()
        with self._lock, self._refusing("written"), transaction(self._connection):
            self._check_answers(site, max_answers)
            self._connection.execute("INSERT INTO sums VALUES (?, ?, 0, ?)", (site, session, _REFUSED))

    def answers(self, site: str) -> int:
        """How many sums a site has answered, or not answered for what its rows are.

        Raises:
            ParameterError: the file cannot be read.
        """
        with self._lock, self._refusing("read"):
            return self._answers(site)

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

    # Rows and sets of rows

    def _compare_sites(self, asked: Asked, site: str, *, min_sites: int) -> None:
        """Refuses sites that are nearly those of an earlier answer."""
        here = frozenset(asked.sites)
        for label, sites in self._all("SELECT DISTINCT label, sites FROM answered WHERE site = ?", site):
            if label in asked.sets and 0 < len(here ^ _sites(sites)) < min_sites:
                raise _refused(
                    site,
                    f"the sites differ from those of an earlier answer by fewer than {min_sites}, and the "
                    "difference would tell what one of them has: ask the same sites, or wait for more",
                )

    def _compare_rows(self, asked: Asked, site: str, *, min_difference: int) -> QuestionRefusedError | None:
        """Why rows are too near those of an earlier answer; None: written down is what this one is about."""
        places, universe = self._places(asked.rows, site)
        earlier = self._all("SELECT DISTINCT label, id FROM answered WHERE site = ?", site)
        bits = {
            number: np.frombuffer(stored, dtype=np.uint8)
            for number, stored in self._all("SELECT id, bits FROM sets WHERE site = ?", site)
        }
        for label, number in earlier:
            if label not in asked.sets:
                continue
            if 0 < distance(bits[number], bits_of(places[asked.sets[label]], universe)) < min_difference:
                about = f"that have {label!r}" if label else "that count"
                return _refused(
                    site,
                    f"the rows {about} differ from those of an earlier answer by fewer than "
                    f"{min_difference}, and the difference would tell what few have: ask about the same "
                    "rows, or about more others",
                )
        for label, chosen in asked.sets.items():
            number = self._set(bits_of(places[chosen], universe), bits, site)
            self._connection.execute(
                "INSERT INTO answered VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING",
                (site, label, number, _written(asked.sites)),
            )
        return None

    def _compare_covered(
        self, asked: Asked, site: str, covered: Mapping[str, int], *, min_sites: int
    ) -> None:
        """Refuses other sites than before, of which those that hold a column may be nearly the same ones."""
        here = frozenset(asked.sites)
        earlier = self._all("SELECT label, sites, count FROM covered WHERE site = ?", site)
        for label, sites, count in earlier:
            there = _sites(sites)
            if label not in covered or here == there:
                continue
            both, now = len(here & there), covered[label]
            if max(abs(now - count), max(now - both, 0) + max(count - both, 0)) < min_sites:
                what = f"values in {label!r}" if label else "rows that count"
                raise _refused(
                    site,
                    f"the sites that have enough {what} may differ from those of an earlier answer by fewer "
                    f"than {min_sites}, which would tell what one of them has: ask the same sites",
                )
        for label, now in covered.items():
            self._connection.execute(
                "INSERT INTO covered VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING",
                (site, label, _written(here), now),
            )

    def _compare_columns(self, asked: Asked, site: str) -> None:
        """A column keeps its bounds: the sums under two of them tell how many rows lie in between."""
        said = dict(self._all("SELECT name, said FROM columns WHERE site = ?", site))
        for name, column in asked.columns.items():
            if said.setdefault(name, column) != column:
                raise _refused(
                    site,
                    f"the column {name!r} was answered about with other bounds, unit or levels, and the "
                    "difference would tell which rows lie in between: ask with those",
                )
            self._connection.execute(
                "INSERT INTO columns VALUES (?, ?, ?) ON CONFLICT DO NOTHING", (site, name, column)
            )

    def _places(self, rows: NDArray[np.uint8], site: str) -> tuple[NDArray[np.int64], int]:
        """Where each row stands among all that this site ever counted, new ones at the end; and how many."""
        stored = self._all("SELECT names FROM rows WHERE site = ? ORDER BY first", site)
        known = np.frombuffer(b"".join(each for (each,) in stored), dtype=np.uint64)
        names = names_of(rows, key=self._key)
        new = np.setdiff1d(names, known)
        if len(new):
            self._connection.execute("INSERT INTO rows VALUES (?, ?, ?)", (site, len(known), new.tobytes()))
            known = np.concatenate([known, new])
        order = np.argsort(known)
        return order[np.searchsorted(known, names, sorter=order)], len(known)

    def _set(self, chosen: NDArray[np.uint8], known: dict[int, NDArray[np.uint8]], site: str) -> int:
        """The number of a set of rows; it is stored once."""
        for number, bits in known.items():
            if not distance(bits, chosen):
                return number
        number = len(known)
        known[number] = chosen
        self._connection.execute("INSERT INTO sets VALUES (?, ?, ?)", (site, number, chosen.tobytes()))
        return number

    # The file

    def _prepare(self) -> bytes:
        """The file's key; makes the tables in an empty file, refuses one that is not a ledger of ours."""
        found = tuple(self._all(f"PRAGMA {name}")[0][0] for name in ("application_id", "user_version"))
        if found == (0, 0) and not self._all("SELECT count(*) FROM sqlite_schema")[0][0]:
            for table in _TABLES:
                self._connection.execute(table)
            self._connection.execute("INSERT INTO key VALUES (?)", (os.urandom(_KEY_BYTES),))
            self._connection.execute(f"PRAGMA application_id = {_APPLICATION}")
            self._connection.execute(f"PRAGMA user_version = {_FORMAT}")
        elif found != (_APPLICATION, _FORMAT):
            raise self._something_else()
        stored = self._all("SELECT key FROM key")
        if [len(each) for (each,) in stored] != [_KEY_BYTES]:
            raise self._something_else()
        return bytes(stored[0][0])

    def _check_home(self) -> None:
        if os.getpid() != self._home:
            raise ParameterError(f"{self!r} was opened in another process; open the file in this one")

    def _check_answers(self, site: str, most: int) -> None:
        if self._answers(site) >= most:
            raise _refused(site, f"{most} sums were answered, which is all that the policy allows")

    def _something_else(self) -> ParameterError:
        return ParameterError(
            f"the file {self._path!r} holds something else than a ledger of answers of version {_FORMAT}; "
            "name a new file or one that this class wrote"
        )

    def _answers(self, site: str) -> int:
        return int(self._all("SELECT count(*) FROM sums WHERE site = ?", site)[0][0])

    def _all(self, query: str, *values: Any) -> list[tuple[Any, ...]]:
        return self._connection.execute(query, values).fetchall()

    @contextmanager
    def _refusing(self, what: str) -> Iterator[None]:
        """No error of the database leaves this room under its own name."""
        try:
            yield
        except sqlite3.Error as error:
            raise ParameterError(
                f"{self!r} cannot be {what}: {error}; answer nothing until it can"
            ) from error


def _written(sites: Iterable[str]) -> bytes:
    writer = Writer()
    for name in sorted(frozenset(sites)):
        writer.text(name)
    return writer.finish()


def _sites(written: bytes) -> frozenset[str]:
    reader, found = Reader(written), set()
    while reader.remaining:
        found.add(reader.text(maximum=1 << 16))
    return frozenset(found)


def _refused(site: str, reason: str) -> QuestionRefusedError:
    return QuestionRefusedError({site: reason})
