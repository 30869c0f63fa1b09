"""The one interface that every protocol has, and what it promises.

A `SumProtocol` is frozen parameters that make two session-long machines, a `Server` and a `Client`. They are
sans-I/O: bytes in, bytes out. Whoever moves the bytes writes one function, `exchange(outbox)`, and hands it
to `run_round`; simulations, adapters, conformance tests and benchmarks are written once against this page.

Promises, which the conformance suite holds every protocol to:

* Contributors are fixed when the collecting exchange closes. Losing more than the protocol can bear later
  raises `RoundAborted`; a round that ended stays ended.
* `Server.receive` raises only `PeerViolation`, and the culprit is out of this round. The identical message
  again gets the identical reply; a different one for an answered step is a violation.
* A client refuses, and releases nothing, whenever a request breaks the protocol or its own policy. The
  refusal is a message, so that the server has a reason.
* One machine, many threads: calls that overlap are put one after the other, and what is answered once stays
  answered. One machine, one process: it is neither copied nor pickled, and a forked copy of it raises
  `ParameterError` whatever it is asked, because it would be a rollback.
* State may leave the process between any two exchanges (`export`), sealed. The caller stores the new state
  before a reply leaves and never restores an older one; the `ReleaseLog` is what holds if it does. A state
  comes back with its own log alone, and only while no entry that it saw is missing.
"""

import os
from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, MutableMapping
from dataclasses import dataclass, field, fields
from enum import Enum
from typing import Any, Final, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from protocols.identity import ClientId, Identity, Roster
from protocols.messages.record import SignedRecord
from protocols.planning.requirements import Plan
from secagg.entropy import Entropy
from secagg.errors import ParameterError
from secagg.numbers import plain_fields
from secagg.secret import Secret
from secagg.wire import Buffer

__all__ = [
    "Client",
    "IntegerSum",
    "Learner",
    "MemoryReleaseLog",
    "NeedUpdate",
    "Outcome",
    "Policy",
    "ReleaseLog",
    "Reply",
    "Round",
    "Server",
    "Sum",
    "SumProtocol",
]

Reply: TypeAlias = bytes
"""What a client sends back. Whether it is a refusal stands in `Client.refusal`."""

Update: TypeAlias = NDArray[Any]
"""A 1-D vector: float32 or float64 for the protocols, uint64 or int64 for their integer surfaces."""

IDENTITY_BYTES: Final = 16
"""Of a release log."""


class Learner(Enum):
    """Who learns the sum."""

    SERVER = "server"
    CLIENTS = "clients"


@dataclass(frozen=True, slots=True)
class Round:
    """What the server is asked to run.

    Attributes:
        number: above the number of every earlier round of the session; in [0, 2**63).
        cohort: the clients that are asked, members of the roster.
        length: values in each update, at least 1.
        model: any bytes, given to each client together with the request for its update. Its digest is
            bound into the protocol where the protocol can.
    """

    number: int
    cohort: tuple[ClientId, ...]
    length: int
    model: bytes = b""

    def __post_init__(self) -> None:
        plain_fields(self, "number", "length")


@dataclass(frozen=True, slots=True)
class NeedUpdate:
    """The moment to train: call `Client.contribute` with `length` values."""

    round: int
    length: int
    model: bytes


@dataclass(frozen=True, slots=True, eq=False)
class Sum:
    """What is learnt: the weighted mean and the total weight, of all contributors together.

    Attributes:
        mean: float64[d], Σ w_k·x_k / Σ w_k over the contributors.
        total_weight: Σ w_k.
        contributors: whose updates are in it.
        metrics: weighted mean of each metric that the protocol's constructor names.
        round: the number of the round that summed them; None for a sum that no round made.
        head: what all updates in it answered, where the clients learn the sum: see `Client.contribute`.

    Two sums are equal if what was learnt is, whatever round it was.
    """

    mean: NDArray[np.float64]
    total_weight: int
    contributors: frozenset[ClientId]
    metrics: dict[str, float]
    round: int | None = field(default=None, kw_only=True, compare=False)
    head: bytes = field(default=b"", kw_only=True, compare=False)

    def __eq__(self, other: object) -> bool:
        # Field by field, as a dataclass has it; but two arrays are equal if all their values are.
        if type(other) is not type(self):
            return NotImplemented
        learnt = (each.name for each in fields(self) if each.compare)
        pairs = ((getattr(self, name), getattr(other, name)) for name in learnt)
        return all(np.array_equal(a, b) if isinstance(a, np.ndarray) else a == b for a, b in pairs)

    __hash__ = None  # type: ignore[assignment]  # it holds arrays


@dataclass(frozen=True, slots=True, eq=False)
class IntegerSum(Sum):
    """A sum on the integer surface.

    Attributes:
        total: Σ x_k, exact: uint64[d] under `exact(max_summand=…)`, int64[d] under `exact(max_abs=…)`; under
            `modular(bits=…)` int64[d], equal to the sum modulo 2**bits.
        mean: total / contributors, rounded.
    """

    total: NDArray[Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How a round ended. Exactly one of `total` and `result` is there.

    Attributes:
        round: its number.
        contributors: whose updates are in the sum.
        dropped: reason by client; a client that had contributed before it was lost stands in both.
        culprits: those of them who broke the protocol: by their own message, or by another client's proof.
        total: the sum, where the server learns it.
        result: bytes that only clients open (`Client.open`), where they learn it.
        record: what happened, signed by the server; no secret in it.
    """

    round: int
    contributors: frozenset[ClientId]
    dropped: dict[ClientId, str]
    culprits: frozenset[ClientId]
    total: Sum | None
    result: bytes | None
    record: SignedRecord


class ReleaseLog(Protocol):
    """A durable insert-if-absent map, kept where the server cannot rewind it.

    A client writes here before a reply leaves it. Should it ever come back from an older state, the entry
    refuses a second, different release for the same step (ATTACKS A14); sealing the state cannot do that.
    Another log in its place, or an older copy of it, would not hold that entry: so a saved client knows the
    log by its identity, and how many entries of its own it has seen there (ATTACKS D9). An entry is never
    removed. A log and a state that were restored together from one backup agree; nothing here can tell.
    """

    @property
    def identity(self) -> bytes:
        """16 random bytes, drawn when the log was made and kept with it for good. They are no secret."""
        ...  # a Protocol's signature

    def insert(self, session: bytes, round: int, step: int, digest: bytes) -> bytes:
        """Stores the digest unless (session, round, step) has one, durably; returns the one that stands.

        `session` names the session and the client, so that clients of one host may share a log.
        """
        ...  # a Protocol's signature

    def count(self, session: bytes) -> int:
        """How many entries stand under this name: a high-water mark, because none is ever removed."""
        ...  # a Protocol's signature


class MemoryReleaseLog:
    """A release log that lasts as long as its process, and so does what is saved with it.

    It sees no rollback across processes: a state that knows this log does not come back in another one,
    where its entries are gone. For that take `fl_integration.SqliteReleaseLog`, or one of your own.

    >>> log = MemoryReleaseLog()
    >>> log.insert(b"session", 1, 3, b"first") == log.insert(b"session", 1, 3, b"second") == b"first"
    True
    >>> log.count(b"session")
    1
    """

    def __init__(self) -> None:
        self._identity = os.urandom(IDENTITY_BYTES)
        self._digests: dict[bytes, dict[tuple[int, int], bytes]] = {}

    @property
    def identity(self) -> bytes:
        return self._identity

    def insert(self, session: bytes, round: int, step: int, digest: bytes) -> bytes:
        # Clients of other threads may share the log: nothing here walks over a mapping.
        return self._digests.setdefault(session, {}).setdefault((round, step), digest)

    def count(self, session: bytes) -> int:
        return len(self._digests.get(session, ()))


def _check_log(log: object) -> None:
    """A log is any object of this shape; one that lacks a member is refused before anything relies on it."""
    identity = getattr(log, "identity", None)
    named = isinstance(identity, bytes) and len(identity) == IDENTITY_BYTES
    if not named or not all(callable(getattr(log, name, None)) for name in ("insert", "count")):
        raise ParameterError(
            f"a release log has insert(session, round, step, digest), count(session) and an identity, "
            f"{IDENTITY_BYTES} random bytes that it keeps for good; {type(log).__name__} lacks one of the "
            f"three, see protocols.ReleaseLog"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """What a client insists on, whatever the server says. `None` takes the protocol's own value.

    Args:
        min_contributors: the smallest cohort and the smallest set of survivors that it takes part in. On the
            random graph of a large MaskedSum a lying server may open a part of the survivors: what is sure of
            that is the plan's, see `Plan.sure_contributors`.
        max_length: the most values that it will ever contribute in a round.
        release_log: durable memory of what was released. Without one nothing but the client's own state
            stands against a second release, which is enough for a client that never leaves its process.
    """

    min_contributors: int | None = None
    max_length: int = 2**40
    release_log: ReleaseLog | None = None

    def __post_init__(self) -> None:
        plain_fields(self, "min_contributors", "max_length")
        least = self.min_contributors
        if least is not None and (type(least) is not int or least < 2):
            raise ParameterError(f"min_contributors is {least!r}; a policy asks for at least 2")
        if type(self.max_length) is not int or self.max_length < 1:
            raise ParameterError(f"max_length is {self.max_length!r}; it must be at least 1")
        if self.release_log is not None:
            _check_log(self.release_log)


class Server(ABC):
    """The aggregating party, for a whole session."""

    @property
    @abstractmethod
    def collecting(self) -> bool:
        """Whether the open exchange asks for updates."""

    @abstractmethod
    def start(self, round: Round) -> dict[ClientId, bytes]:
        """Opens a round; what to send to whom. Members outside the cohort may get a result, nothing else.

        A round that was not brought to its end is given up; if shares were being revealed for its sum, that
        counts as seen.

        Raises:
            ParameterError: the round can never work; nothing has changed.
        """

    @abstractmethod
    def receive(self, sender: ClientId, message: Buffer) -> None:
        """Takes one message of `sender`, which the transport has authenticated.

        Raises:
            PeerViolation: the message is refused; its sender is out of this round and the rest goes on. A
                straggler's message of an earlier round is refused too, but does not cost it this one.
        """

    @abstractmethod
    def advance(self) -> dict[ClientId, bytes]:
        """Closes this exchange with whoever answered; what to send next. Empty: the round is over.

        Raises:
            RoundAborted: too few are left.
        """

    @abstractmethod
    def outcome(self) -> Outcome:
        """How the last round ended.

        Raises:
            RoundAborted: it was aborted, for the same reason as `advance` said.
            ParameterError: no round has ended.
        """

    @abstractmethod
    def deliver(self) -> dict[ClientId, bytes]:
        """Results that wait for the next `start`, now: for a last round, or an impatient deployment."""

    @abstractmethod
    def remember(
        self,
        contributors: Collection[ClientId],
        *,
        culprits: Collection[ClientId] = (),
        model: bytes = b"",
        head: bytes = b"",
    ) -> None:
        """A sum that another session opened and that moved nobody: one that is near it is put off here, too.

        Args:
            contributors: of that sum.
            culprits: who broke the protocol in that session. If they are missing now, nobody waits for them.
            model: what its round sent down, where the server learns the sum.
            head: what its contributions answered, where the clients do.

        Raises:
            ParameterError: the roster does not hold one of these.
        """

    @abstractmethod
    def record(self) -> SignedRecord:
        """The signed record of the last round that ended, well or not."""

    @abstractmethod
    def export(self, *, key: Secret) -> bytes:
        """The whole state, versioned, sealed under a 32-byte key of the caller."""


class Client(ABC):
    """One contributing party, for a whole session."""

    refusal: str | None
    """Why the last `receive` or `contribute` ended in a refusal; None when it did not."""
    clipped: int
    """How many values of the last contribution were clipped. It is told to the client alone."""
    results: tuple[bytes, ...]
    """Results that arrived and were not opened yet, oldest first (`Learner.CLIENTS`)."""

    @abstractmethod
    def receive(self, message: Buffer) -> Reply | NeedUpdate:
        """Answers one message of the server. It never raises for what a message says: it refuses."""

    @abstractmethod
    def contribute(
        self,
        update: Update,
        *,
        weight: int = 1,
        metrics: Mapping[str, float] | None = None,
        head: bytes | None = None,
    ) -> Reply:
        """The update that `NeedUpdate` asked for.

        Args:
            update: float32 or float64, 1-D, finite, of the length that was asked for. Values outside the
                clip are clipped and counted.
            weight: a positive integer up to the protocol's `max_weight`, for example an example count.
            metrics: one float for each metric that the protocol names.
            head: `Learner.CLIENTS` only: 32 bytes that name what the update answers, for example the digest
                of this client's own copy of the model. Which results could be opened no server knows, so it
                does not know either; it sums the largest group of contributions that name one head, and the
                others are lost in this round. None: the SHA-256 of the model that came with the request.

        Raises:
            ParameterError: the argument can never work, or nothing was asked; nothing was released.
        """

    @abstractmethod
    def open(self, result: Buffer) -> Sum:
        """The sum inside a result (`Learner.CLIENTS` only).

        Whether a result opens is for its bytes alone to say: every client that holds its key finds the same,
        unless its own policy, its failures or its memory of that round forbid it to try. One that does not
        open is done with, and no longer in `results`; go on with the next, as all others do. One under a key
        that this client does not hold stays there, for it may still be given that key.

        Raises:
            PeerViolation: the result does not decode or does not verify: the server, or a contributor,
                doctored it; nothing is returned. Where the key was used, no other result of its round is
                tried; after four such this client asks for another key, after eight it uses this one no more.
            RoundAborted: it is authentic, but cannot have come from honest summands; it was seen, though
                (`RoundAborted.opened`).
            ParameterError: this protocol's clients learn no sum, or this client has no key yet.
        """

    @abstractmethod
    def export(self, *, key: Secret, apart: MutableMapping[bytes, bytes] | None = None) -> bytes:
        """The whole state, versioned, sealed under a 32-byte key of the caller.

        Args:
            key: of the caller.
            apart: takes replies of more than 64 KiB, each under its SHA-256, in place of the state, which is
                small then. They are what this client sends in any case, so they are stored as they are, and
                once, before the state: one that was restored from there gives them no second time. What is in
                it and needed no more, whatever its value, is taken out. None: all is in the state.
        """


class SumProtocol(ABC):
    """Frozen parameters that make the two machines."""

    @property
    @abstractmethod
    def learns(self) -> Learner:
        """Who learns the sum."""

    @abstractmethod
    def exchanges(self, *, first: bool) -> tuple[str, ...]:
        """The steps' names, in order, of a session's first round or of a later one."""

    @abstractmethod
    def server(
        self,
        *,
        roster: Roster,
        session: bytes,
        identity: Identity | None = None,
        entropy: Entropy = os.urandom,
    ) -> Server:
        """The server's machine. `identity` signs the records; without one a fresh key does."""

    @abstractmethod
    def client(
        self,
        *,
        identity: Identity,
        roster: Roster,
        session: bytes,
        policy: Policy | None = None,
        entropy: Entropy = os.urandom,
    ) -> Client:
        """One client's machine."""

    @abstractmethod
    def restore_server(self, blob: Buffer, *, key: Secret, entropy: Entropy = os.urandom) -> Server:
        """The machine that `Server.export` saved, made by equal parameters.

        Raises:
            ParameterError: another protocol, other parameters or another version saved it.
            VerificationError: the key is wrong or the blob was changed.
        """

    @abstractmethod
    def restore_client(
        self,
        blob: Buffer,
        *,
        key: Secret,
        release_log: ReleaseLog | None = None,
        apart: Mapping[bytes, bytes] | None = None,
        entropy: Entropy = os.urandom,
    ) -> Client:
        """The machine that `Client.export` saved. A client that had a release log needs that very log again.

        One that had none may be given one, for what it releases from then on. A log that holds more than the
        state saw is welcome: the state is an older one, and the log keeps the client to what it said since.

        `apart` has the replies that `export` put there. It is looked into when a request is repeated; if what
        is needed is not there then, the client refuses.

        Raises:
            ParameterError, VerificationError: as `restore_server`.
            ParameterError: the release log is missing, is another one, or has lost entries. Find the log; if
                it is lost for good, start this client afresh in a new session.
        """

    @abstractmethod
    def plan(self, n: int, *, roster: int | None = None) -> Plan:
        """The parameters of a round among n clients of a roster.

        Args:
            n: the cohort's size.
            roster: the size of the roster that whoever announces the cohort chooses it from; None for n. The
                planned share of the roster may be corrupt, and all of them in the cohort.

        Raises:
            ParameterError: no plan holds for such a cohort; every client would refuse it.
        """

    @abstractmethod
    def error_bound(self, n_clients: int, *, total_weight: int | None = None) -> float:
        """Largest absolute error of a mean against the weighted mean of the clipped updates.

        Args:
            n_clients: how many updates are in the mean.
            total_weight: the sum of their weights: the heavier they are, the finer they are rounded. None:
                n_clients, for the bound that holds whatever it is.

        Raises:
            ParameterError: n_clients is not a positive integer, or total_weight none of at least n_clients.
        """

    @abstractmethod
    def exact(self, *, max_summand: int | None = None, max_abs: int | None = None) -> "SumProtocol":
        """The integer surface: the same machines on integer vectors, without weights.

        Args:
            max_summand: for uint64 vectors with values in [0, max_summand].
            max_abs: for int64 vectors with values in [-max_abs, max_abs].

        Raises:
            ParameterError: not exactly one of the two is given, or the largest sum does not fit the protocol.
        """

    @abstractmethod
    def modular(self, *, bits: int) -> "SumProtocol":
        """The same machines on int64 vectors of any size, summed modulo 2**bits: sums may wrap around.

        For integers with noise in them. What is opened is not checked: any total is a possible one.

        Args:
            bits: of one value on the wire, in [2, 62]; totals are in [-2**(bits-1), 2**(bits-1)).

        Raises:
            ParameterError: bits is anything else, or this protocol's sums cannot wrap around; take
                `exact(max_abs=…)` then.
        """
