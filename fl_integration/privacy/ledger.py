"""What a site has spent of each budget, in one SQLite file that the server cannot rewind.

A round is charged before its vector leaves, and stays charged if it fails: its vector may have been opened
by a server that lied about it. A charge is one exclusive transaction that has reached the disk when it
returns, so two processes cannot overspend together. The round of a session is charged once, however often it
is tried; another session starts from what is spent, not from nothing.

A budget belongs to a site and a roster. **A new roster starts a new one**: members of a consortium who sign
a new roster decide that, and an attacker who could make them sign could read more than one budget. **A file
that is restored from a backup has forgotten** what was spent since: keep it where backups and snapshots do
not reach. It holds sessions, rounds and sizes of noise, and nothing of any patient.

It adds up whatever is charged, and does not know what one release protects: a patient, a row, a client. The
sum is that of a patient where each has one row. Where she has several, keep a budget for rows (`RowLevel`)
and one for patients (`PatientLevel` with `patients=`) apart; and one for clients (`ClientLevel`) in any case:
a patient can turn a client's update into another one, which is twice as far as from nothing.

>>> from fl_integration.privacy.accountant import Release
>>> from fl_integration.privacy.units import Noise
>>> step = Release(noise=Noise.SKELLAM, l2=1000, l1=1e6, sigma=4000)
>>> with BudgetLedger(None, epsilon=2.0, delta=1e-5) as ledger:
...     spent = ledger.charge(site="cleveland", roster=b"digest", session=b"s", round=1, releases=[step])
>>> round(spent, 2)
1.01
"""

import hashlib
import json
import os
import sqlite3
import threading
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from fl_integration.privacy.accountant import Release, epsilon_of
from fl_integration.privacy.units import Noise, check_epsilon_delta
from fl_integration.site.private_files import create_private
from fl_integration.site.transactions import transaction
from secagg.errors import ParameterError
from secagg.numbers import is_number, plain
from secagg.wire import Writer

__all__ = ["BudgetExceededError", "BudgetLedger", "roster_of"]

_APPLICATION: Final = 0x53414742
"""Written into the file's header, so that another program's database is not taken for a ledger."""

_ROSTER: Final = b"secagg/1/roster of a budget"

_FORMAT: Final = 1
_IDENTITY_BYTES: Final = 16
_INTEGERS: Final = 1 << 63
_WAIT_SECONDS: Final = 30.0

_CHARGES: Final = """
CREATE TABLE charges (
    site TEXT NOT NULL,
    roster BLOB NOT NULL,
    session BLOB NOT NULL,
    round INTEGER NOT NULL,
    releases TEXT NOT NULL,
    failure REAL NOT NULL,
    PRIMARY KEY (site, roster, session, round)
) STRICT, WITHOUT ROWID
"""
_IDENTITY: Final = "CREATE TABLE identity (identity BLOB NOT NULL) STRICT"


class BudgetExceededError(ParameterError):
    """A round would cost more than is left. Nothing was charged, and nothing may leave."""


class BudgetLedger:
    """Durable budgets of (ε, δ), one for each site and roster; `str` gives them as a table.

    Several processes and threads may share one file. Each process opens it itself.

    Args:
        path: the file, made with mode 0600 when it is absent; its folder is not. None: in memory, for
            simulations, and gone with the process.
        epsilon, delta: the budget of each site and roster. They are the operator's to set, and to raise.

    Raises:
        ParameterError: the budget is none, or the file cannot be opened or holds something else.
    """

    def __init__(self, path: str | os.PathLike[str] | None, *, epsilon: float, delta: float) -> None:
        self.epsilon, self.delta = check_epsilon_delta(epsilon, delta)
        self._path = ":memory:" if path is None else os.fspath(path)
        if not isinstance(self._path, str) or (path is not None and self._path in ("", ":memory:")):
            raise ParameterError(
                f"a ledger lasts in a file; {self._path!r} does not name one. None is memory"
            )
        self._lock, self._home = threading.RLock(), os.getpid()
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
                    self._identity = self._prepare()
        except ParameterError:
            self._connection.close()
            raise

    @property
    def identity(self) -> bytes:
        """16 random bytes, drawn when the file was made and kept in it."""
        return self._identity

    def charge(
        self,
        *,
        site: str,
        roster: bytes,
        session: bytes,
        round: int,
        releases: Iterable[Release],
        failure: float = 0.0,
    ) -> float:
        """Charges one round, durably, unless it is charged already; call it before its vector leaves.

        Args:
            site: whose patients.
            roster: the digest of the roster.
            session: the session's id.
            round: in [0, 2**63).
            releases: what the round opens, of which the noise is in the vector.
            failure: what the round takes from δ besides, `PrivacyPlan.failure`.

        Returns:
            ε that is spent now, at this ledger's δ.

        Raises:
            BudgetExceededError: it would be more than epsilon, or failures would use up delta.
            ParameterError: an argument is outside its range, the round was charged for other releases, or the
                disk refused. Nothing may leave then.
        """
        return self._charge(_place(site, roster, session, round), Counter(releases), failure)[0]

    def charge_once(
        self,
        *,
        site: str,
        roster: bytes,
        session: bytes,
        round: int,
        releases: Iterable[Release],
        failure: float = 0.0,
    ) -> float:
        """As `charge`, for whoever makes a round's vector: refused where the round was charged before.

        Its vector may have left then, and another one would be another draw of noise around the same secret.
        Of two that ask at the same time one is refused.

        Raises:
            BudgetExceededError: as `charge`.
            ParameterError: as `charge`, or the round was charged before.
        """
        spent, fresh = self._charge(_place(site, roster, session, round), Counter(releases), failure)
        if not fresh:
            raise ParameterError(
                f"round {round} of this session was paid for before at {site!r}, and its vector may have "
                "left: a second one would be a second draw of noise; sit this round out"
            )
        return spent

    def _charge(
        self, place: tuple[str, bytes, bytes, int], releases: Counter[Release], failure: float
    ) -> tuple[float, bool]:
        """ε that is spent now, and whether this call charged the round."""
        site, roster, _, round = place
        failure = plain(failure)
        if not is_number(failure) or not 0 <= failure < 1:
            raise ParameterError(f"failure is {failure!r}; it must be a number in [0, 1)")
        if not releases:
            raise ParameterError("a round without releases; a vector that leaves has at least one")
        written = _written(releases)
        self._check_home()
        epsilon_of(releases, delta=self.delta)  # the accountant is there, before anybody waits for the file
        with self._lock, self._refusing("written"), transaction(self._connection):
            stands = self._connection.execute(
                "SELECT releases FROM charges WHERE site = ? AND roster = ? AND session = ? AND round = ?",
                place,
            ).fetchone()
            if stands is None:
                spent = self._spent(site, roster)
                left = self._total(site, roster, releases, failure)
                if left > self.epsilon:
                    raise self._exceeded(site, spent, left)
                self._connection.execute(
                    "INSERT INTO charges VALUES (?, ?, ?, ?, ?, ?)", (*place, written, failure)
                )
                return left, True
        if stands[0] != written:
            raise ParameterError(
                f"round {round} of this session was charged for other releases at {site!r}; a round opens "
                "what it "
                "was charged for, or another round does"
            )
        return self.spent(site=site, roster=roster), False

    def spent(self, *, site: str, roster: bytes) -> float:
        """ε that is spent, at this ledger's δ: 0.0 at first."""
        _place(site, roster, b"-", 0)
        self._check_home()
        with self._lock, self._refusing("read"):
            return self._spent(site, roster)

    def check(self, *, site: str, roster: bytes, release: Release, rounds: int, failure: float = 0.0) -> None:
        """Refuses rounds that are too many for what is left, before the first of them; nothing is charged.

        Args:
            site, roster: whose budget.
            release, failure: of each round.
            rounds: how many are planned, at least 0.

        Raises:
            BudgetExceededError: they are too many; the text says how many there can be.
        """
        _place(site, roster, b"-", 0)
        self._check_home()
        with self._lock, self._refusing("read"):

            def fits(count: int) -> bool:
                return self._total(site, roster, Counter({release: count}), count * failure) <= self.epsilon

            if not rounds or fits(rounds):
                return
            spent = self._spent(site, roster)
            left = bisect_left(range(1, rounds), x=True, key=lambda count: not fits(count))
        raise BudgetExceededError(
            f"{site!r} has spent ε = {spent:.4g} of {self.epsilon:g} at delta {self.delta:g}, which leaves "
            f"room for {left} of {rounds} rounds: plan so many, or more noise (a smaller epsilon), or raise "
            "the ledger's epsilon, which its patients should hear of"
        )

    def rounds(self, *, site: str, roster: bytes) -> int:
        """How many rounds were charged."""
        _place(site, roster, b"-", 0)
        self._check_home()
        with self._lock, self._refusing("read"):
            query = "SELECT count(*) FROM charges WHERE site = ? AND roster = ?"
            return int(self._connection.execute(query, (site, roster)).fetchone()[0])

    def __str__(self) -> str:
        """What is spent of each budget, as a table in plain text."""
        self._check_home()
        with self._lock, self._refusing("read"):
            found = self._connection.execute(
                "SELECT site, roster, count(*) FROM charges GROUP BY site, roster ORDER BY site, roster"
            ).fetchall()
            lines = [("site", "roster", "rounds", "epsilon spent", f"of, at delta {self.delta:g}")]
            for site, roster, rounds in found:
                spent = self._spent(site, roster)
                lines.append(
                    (site, bytes(roster).hex()[:12], f"{rounds:,}", f"{spent:.4g}", f"{self.epsilon:g}")
                )
        widths = [max(len(line[column]) for line in lines) for column in range(5)]
        return "\n".join(
            "  ".join(f"{cell:<{width}}" for cell, width in zip(line, widths, strict=True)).rstrip()
            for line in lines
        )

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

    def _spent(self, site: str, roster: bytes) -> float:
        return self._total(site, roster, Counter(), 0.0)

    def _total(self, site: str, roster: bytes, more: Counter[Release], failure: float) -> float:
        """ε of what stands and of `more`; infinite where failures leave nothing of δ."""
        releases = Counter(more)
        stand = self._connection.execute(
            "SELECT releases, count(*), sum(failure) FROM charges "
            "WHERE site = ? AND roster = ? GROUP BY releases",
            (site, roster),
        )
        for written, count, failures in stand.fetchall():
            failure += failures
            for release, times in _read(written).items():
                releases[release] += count * times
        if not releases:
            return 0.0
        return epsilon_of(releases, delta=self.delta - failure) if failure < self.delta else float("inf")

    def _exceeded(self, site: str, spent: float, asked: float) -> BudgetExceededError:
        if asked == float("inf"):
            return BudgetExceededError(
                f"{site!r} has spent ε = {spent:.4g}, and what can fail beside the noise would use up delta "
                f"{self.delta:g}: raise the ledger's delta, or security_bits in the protocol's requirements"
            )
        return BudgetExceededError(
            f"{site!r} has spent ε = {spent:.4g} of {self.epsilon:g} at delta {self.delta:g}, and with this "
            f"round it would be {asked:.4g}: stop here, plan fewer rounds or more noise (a smaller epsilon), "
            "or raise the ledger's epsilon, which its patients should hear of"
        )

    def _check_home(self) -> None:
        if os.getpid() != self._home:
            raise ParameterError(
                f"the ledger {self._path!r} was opened in another process; open the file in this one"
            )

    def _prepare(self) -> bytes:
        """The file's identity; makes the tables in an empty file, refuses one that is no ledger of ours."""
        found = tuple(self._one(f"PRAGMA {name}") for name in ("application_id", "user_version"))
        if found == (0, 0) and not self._one("SELECT count(*) FROM sqlite_schema"):
            self._connection.execute(_CHARGES)
            self._connection.execute(_IDENTITY)
            self._connection.execute("INSERT INTO identity VALUES (?)", (os.urandom(_IDENTITY_BYTES),))
            self._connection.execute(f"PRAGMA application_id = {_APPLICATION}")
            self._connection.execute(f"PRAGMA user_version = {_FORMAT}")
        elif found != (_APPLICATION, _FORMAT):
            raise self._something_else()
        stored = self._connection.execute("SELECT identity FROM identity").fetchall()
        if [len(each) for (each,) in stored] != [_IDENTITY_BYTES]:
            raise self._something_else()
        return bytes(stored[0][0])

    def _something_else(self) -> ParameterError:
        return ParameterError(
            f"the file {self._path!r} holds something else than a budget ledger of version {_FORMAT}; "
            "name a new file or one that this class wrote"
        )

    def _one(self, query: str) -> int:
        return int(self._connection.execute(query).fetchone()[0])

    @contextmanager
    def _refusing(self, what: str) -> Iterator[None]:
        """No error of the database leaves this room under its own name."""
        try:
            yield
        except sqlite3.Error as error:
            raise ParameterError(
                f"the ledger {self._path!r} cannot be {what}: {error}; release nothing until it can"
            ) from error


def _place(site: str, roster: bytes, session: bytes, round: int) -> tuple[str, bytes, bytes, int]:
    """The key of a charge."""
    if type(site) is not str or not site:
        raise ParameterError("the site is not a non-empty str")
    for name, data in (("roster", roster), ("session", session)):
        if type(data) is not bytes or not data:
            raise ParameterError(f"the {name} is not a non-empty bytes object")
    number = plain(round)
    if type(number) is not int or not 0 <= number < _INTEGERS:
        raise ParameterError(f"the round is {number!r}; it must be an int in [0, 2**63)")
    return site, roster, session, number


def _written(releases: Counter[Release]) -> str:
    """Equal releases are written equally, and read as they were: JSON keeps every digit of a float."""
    each = [
        {**asdict(release), "noise": release.noise.name, "times": times}
        for release, times in releases.items()
    ]
    return json.dumps(sorted(sorted(one.items()) for one in each), separators=(",", ":"))


def _read(written: str) -> Counter[Release]:
    found: Counter[Release] = Counter()
    for pairs in json.loads(written):
        numbers = dict(pairs)
        times, noise = numbers.pop("times"), Noise[numbers.pop("noise")]
        found[Release(noise=noise, **numbers)] += times
    return found


def roster_of(sites: Iterable[str]) -> bytes:
    """32 bytes that name a roster by its ids alone: whom a budget is for, where keys are made anew each time.

    A training and a question in one process name it alike, and so spend one budget.

    >>> roster_of(["wien", "basel"]) == roster_of(("basel", "wien"))
    True
    """
    writer = Writer().fixed(_ROSTER)
    for site in sorted(sites):
        writer.text(site)
    return hashlib.sha256(writer.finish()).digest()
