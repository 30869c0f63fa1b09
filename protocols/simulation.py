"""Many parties in one process: the real machines over the real bytes, for tests, benchmarks, notebooks.

`simulate` runs one round, `Session` many. Arguments are checked before anything runs. Every byte that a
party sends or receives is counted, and every party's processor time: this is the only room of the floor that
looks at a clock, and it looks at processor time only, to measure.

>>> import numpy as np
>>> from protocols import MaskedSum
>>> run = simulate(MaskedSum(max_clients=3), {name: np.zeros(2) for name in "abc"}, weights={"a": 1}, seed=7)
>>> run.mean.tolist(), run.total_weight, run.exchanges
([0.0, 0.0], 3, 4)
"""

import os
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from protocols.identity import SERVER, ClientId, Identity, Roster
from protocols.interface import Client, NeedUpdate, Outcome, Round, Server, Sum
from protocols.machine.parameters import MachineProtocol
from protocols.messages.envelope import RESULT, Envelope
from protocols.messages.record import SignedRecord
from protocols.run import run_round
from secagg.entropy import Entropy, SeededEntropy, draw
from secagg.errors import ParameterError, RoundAborted
from secagg.numbers import plain

__all__ = ["Message", "Session", "Simulation", "Traffic", "simulate"]


@dataclass(frozen=True, slots=True)
class Traffic:
    """Bytes that one party sent and received."""

    sent: int
    received: int


@dataclass(frozen=True, slots=True)
class Message:
    """One message as it went over the wire."""

    exchange: str
    sender: str
    receiver: str
    body: bytes


@dataclass(frozen=True, slots=True, kw_only=True, eq=False, repr=False)
class Simulation:
    """What a simulated round did.

    Attributes:
        mean: float64[d], the weighted mean that the learners got.
        total_weight: the sum of the contributors' weights.
        contributors: whose updates are in it.
        dropped: reason by client; one who had contributed stands in both.
        exchanges: broadcasts and their replies, the unit in which a deployment pays latency.
        clipped: number of clipped values by contributor; in a deployment only the client itself knows.
        traffic: bytes by party, `"server"` included.
        seconds: processor seconds by party, `"server"` included.
        transcript: every message in order.
        sum: the whole `Sum`, metrics included (an `IntegerSum` on the integer surface).
        record: the server's signed record.
    """

    mean: NDArray[np.float64]
    total_weight: int
    contributors: frozenset[ClientId]
    dropped: dict[ClientId, str]
    exchanges: int
    clipped: dict[ClientId, int]
    traffic: dict[str, Traffic]
    seconds: dict[str, float]
    transcript: tuple[Message, ...]
    sum: Sum
    record: SignedRecord

    def __repr__(self) -> str:
        sent = sum(each.sent for each in self.traffic.values())
        dropped = f", dropped {', '.join(sorted(self.dropped))}" if self.dropped else ""
        return (
            f"Simulation({len(self.mean)} values of {len(self.contributors)} contributors, weight "
            f"{self.total_weight}, {self.exchanges} exchanges, {sent:,} bytes{dropped})"
        )

    def __str__(self) -> str:
        rows = [["party", "sent", "received", "seconds", "clipped", ""]]
        for party, each in self.traffic.items():
            clipped = str(self.clipped[party]) if self.clipped.get(party) else ""
            seconds = f"{self.seconds.get(party, 0.0):.3f}"
            note = self.dropped.get(party, "")
            rows.append([party, f"{each.sent:,}", f"{each.received:,}", seconds, clipped, note])
        return "\n".join([repr(self), *aligned(rows)])


def aligned(rows: list[list[str]], *, most: int = 12) -> list[str]:
    """Rows of a table as lines: the head first, all but the last column to the right, the middle left out.

    Args:
        rows: of equal length; the first is the head.
        most: rows shown besides the head, at least 2.
    """
    head, *body = rows
    if len(body) > most:
        left_out = [f"… {len(body) - most} more", *[""] * (len(head) - 1)]
        body = [*body[: most - most // 2], left_out, *body[-(most // 2) :]]
    widths = [max(len(row[i]) for row in [head, *body]) for i in range(len(head) - 1)]
    return [
        "  ".join([*(f"{cell:>{width}}" for cell, width in zip(row, widths, strict=False)), row[-1]]).rstrip()
        for row in [head, *body]
    ]


class _Wire:
    """Counts what goes over it, and whose processor time it took."""

    def __init__(self, parties: Iterable[str]) -> None:
        self.seconds = dict.fromkeys([SERVER, *parties], 0.0)
        self.sent = dict.fromkeys(self.seconds, 0)
        self.received = dict.fromkeys(self.seconds, 0)
        self.messages: list[Message] = []
        self._owner = SERVER
        self._since = time.process_time()

    def turn(self, party: str) -> None:
        """From now on processor time is `party`'s."""
        now = time.process_time()
        self.seconds[self._owner] += now - self._since
        self._owner, self._since = party, now

    def carry(self, exchange: str, sender: str, receiver: str, body: bytes) -> bytes:
        self.sent[sender] += len(body)
        self.received[receiver] += len(body)
        self.messages.append(Message(exchange, sender, receiver, body))
        return body


class Session:
    """Parties that run many rounds of one protocol together, in this process.

    Args:
        protocol: any protocol of this package, or its integer surface.
        clients: the ids of all clients that will ever take part; their order is the roster's.
        seed: with one, results, drops and message sizes repeat. Everything is then as secret as the seed, so
            leave it out for anything but tests and demonstrations.
    """

    def __init__(
        self, protocol: MachineProtocol, clients: Iterable[ClientId], *, seed: int | None = None
    ) -> None:
        names = tuple(clients)
        seed = plain(seed)
        if seed is not None and (type(seed) is not int or not 0 <= seed < 1 << 128):
            raise ParameterError(f"seed is {seed!r}; it must be None or an integer in [0, 2**128)")
        self._protocol = protocol
        self._number = 0
        identities = [Identity.generate(name, entropy=_entropy(seed, f"identity/{name}")) for name in names]
        self.roster = Roster.of(*identities)
        session = draw(_entropy(seed, "session"), 16)
        self.server: Server = protocol.server(
            roster=self.roster, session=session, entropy=_entropy(seed, f"machine/{SERVER}")
        )
        self.clients: dict[ClientId, Client] = {
            identity.client: protocol.client(
                identity=identity,
                roster=self.roster,
                session=session,
                entropy=_entropy(seed, f"machine/{identity.client}"),
            )
            for identity in identities
        }

    def round(
        self,
        updates: Mapping[ClientId, NDArray[Any]],
        *,
        weights: Mapping[ClientId, int] | None = None,
        drop: Mapping[ClientId, int | str] | None = None,
        metrics: Mapping[ClientId, Mapping[str, float]] | None = None,
        model: bytes = b"",
    ) -> Simulation:
        """One round.

        Args:
            updates: 1-D float32 or float64 arrays of equal length (on the integer surfaces uint64, or
                int64 where they are signed); the keys are the cohort.
            weights: positive integers up to `max_weight`; a client that is not named weighs 1.
            drop: for a client, the first exchange (index or name) that it does not answer.
            metrics: the metrics of each client, if the protocol names any.
            model: bytes that every client gets with the request for its update.

        Raises:
            ParameterError: an argument can never work; nothing has run.
            RoundAborted: too few clients were left. The session goes on.
        """
        length = _check_updates(updates)
        self.roster.order(updates)
        first = self._number == 0
        given = _check_names("weights", weights, updates)
        weights = {name: given.get(name, 1) for name in updates}
        gone = _check_drop(self._protocol, first, updates, drop)
        metrics = _check_names("metrics", metrics, updates)
        surface = self._protocol.suite.surface
        for name, update in updates.items():
            try:
                surface.check(update, length=length, weight=weights[name], metrics=metrics.get(name, {}))
            except ParameterError as error:
                raise ParameterError(f"{name!r}: {error}") from None
        wire = _Wire(self.roster.members)
        clipped: dict[ClientId, int] = {}
        exchanges = 0

        def exchange(outbox: Mapping[ClientId, bytes]) -> Iterable[tuple[ClientId, bytes]]:
            nonlocal exchanges
            exchanges += 1
            for client, request in outbox.items():
                if (reply := self._answer(client, request, wire, gone, give)) is not None:
                    yield client, reply

        def give(client: Client, name: ClientId) -> bytes:
            reply = client.contribute(updates[name], weight=weights[name], metrics=metrics.get(name, {}))
            clipped[name] = client.clipped
            return reply

        wire.turn(SERVER)
        number, self._number = self._number, self._number + 1
        try:
            outcome = run_round(self.server, Round(number, tuple(updates), length, model), exchange)
        except ParameterError:
            self._number = number if not exchanges else self._number  # nothing was sent
            raise
        total = outcome.total if outcome.total is not None else self._open(outcome, wire, gone, give)
        wire.turn(SERVER)
        return Simulation(
            mean=total.mean,
            total_weight=total.total_weight,
            contributors=outcome.contributors,
            dropped=outcome.dropped,
            exchanges=exchanges,
            clipped={client: clipped[client] for client in sorted(outcome.contributors)},
            traffic={party: Traffic(wire.sent[party], wire.received[party]) for party in wire.sent},
            seconds=wire.seconds,
            transcript=tuple(wire.messages),
            sum=total,
            record=outcome.record,
        )

    def _answer(
        self,
        client: ClientId,
        request: bytes,
        wire: _Wire,
        gone: Mapping[ClientId, int],
        give: Callable[[Client, ClientId], bytes],
    ) -> bytes | None:
        """Delivers one request, and brings back the reply of a client that is still there."""
        stage = Envelope.decode(request).stage
        names = self._protocol.exchanges(first=True)
        position = len(names) if stage == RESULT else stage // 2
        if client in gone and gone[client] <= position:
            return None
        name = "Result" if stage == RESULT else names[position]
        wire.carry(name, SERVER, client, request)
        wire.turn(client)
        answer = self.clients[client].receive(request)
        reply = give(self.clients[client], client) if isinstance(answer, NeedUpdate) else answer
        wire.turn(SERVER)
        return wire.carry(name, client, SERVER, reply)

    def _open(
        self,
        outcome: Outcome,
        wire: _Wire,
        gone: Mapping[ClientId, int],
        give: Callable[[Client, ClientId], bytes],
    ) -> Sum:
        """Delivers the result now instead of with the next start, and lets every client that got it open it.

        A client that has no key yet (it never took part, or was lost in set-up) cannot open anything and
        opens the result later, or never.
        """
        for client, request in self.server.deliver().items():
            if (reply := self._answer(client, request, wire, gone, give)) is not None:
                self.server.receive(client, reply)
        sums: list[Sum] = []
        for name, party in self.clients.items():
            if (
                outcome.result in party.results
                and name in outcome.contributors
                and outcome.result is not None
            ):
                wire.turn(name)
                sums.append(party.open(outcome.result))
        wire.turn(SERVER)
        if not sums:
            raise RoundAborted("no contributor was left to open the result; it rides on the next start")
        return sums[0]


def simulate(
    protocol: MachineProtocol,
    updates: Mapping[ClientId, NDArray[Any]],
    *,
    weights: Mapping[ClientId, int] | None = None,
    drop: Mapping[ClientId, int | str] | None = None,
    metrics: Mapping[ClientId, Mapping[str, float]] | None = None,
    seed: int | None = None,
) -> Simulation:
    """One round among the clients that `updates` names. See `Session.round` for the arguments and errors."""
    _check_updates(updates)
    return Session(protocol, updates, seed=seed).round(updates, weights=weights, drop=drop, metrics=metrics)


def _entropy(seed: int | None, purpose: str) -> Entropy:
    return os.urandom if seed is None else SeededEntropy(seed.to_bytes(16, "big"), purpose.encode())


def _check_updates(updates: object) -> int:
    """The common length of all updates."""
    if not isinstance(updates, Mapping) or not updates:
        raise ParameterError("updates maps each client's id to its 1-D array; it is empty or no mapping")
    lengths: dict[int, ClientId] = {}
    for name, update in updates.items():
        if not isinstance(update, np.ndarray) or update.ndim != 1:
            raise ParameterError(f"the update of {name!r} is not a 1-D numpy array")
        if not len(update):
            raise ParameterError(f"the update of {name!r} is empty; a round sums at least one value")
        lengths.setdefault(len(update), name)
    if len(lengths) > 1:
        found = ", ".join(f"{name!r} has {length}" for length, name in lengths.items())
        raise ParameterError(f"updates of different lengths: {found}; all must have the same")
    return next(iter(lengths))


def _check_names(
    what: str, named: Mapping[ClientId, Any] | None, updates: Mapping[ClientId, object]
) -> Mapping[ClientId, Any]:
    """`named`, or nothing for None, if it names members of the cohort only."""
    if named is None:
        return {}
    if not isinstance(named, Mapping):
        raise ParameterError(f"{what} is a {type(named).__name__}; it maps client ids")
    if strangers := sorted(set(named) - set(updates), key=str):
        cohort = sorted(updates, key=str)
        raise ParameterError(f"{what} names {strangers}, who are not in updates; the cohort is {cohort}")
    return named


def _check_drop(
    protocol: MachineProtocol,
    first: bool,
    updates: Mapping[ClientId, object],
    drop: Mapping[ClientId, int | str] | None,
) -> dict[ClientId, int]:
    """For each client that vanishes, the first exchange (by its number on the wire) that it misses."""
    every, now = protocol.exchanges(first=True), protocol.exchanges(first=first)
    gone: dict[ClientId, int] = {}
    for name, given in _check_names("drop", drop, updates).items():
        step = plain(given)
        if isinstance(step, str) and step in every:
            gone[name] = every.index(step)
        elif type(step) is int and 0 <= step < len(now):
            gone[name] = every.index(now[step])
        else:
            raise ParameterError(
                f"drop[{name!r}] is {step!r}; it is one of {list(now)}, or an index in [0, {len(now)})"
            )
    return gone
