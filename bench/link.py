"""What a secure round costs on a slow link: `python -m bench.link` writes one page with table and picture.

Ten clients, each on a machine and a link of its own with the same rate up and down; the server's link is not
the bottleneck. All start at once, so a round lasts as long as one client's way through it plus all the work
of the server. Two rounds are compared, training left out of both: plain FedAvg, which sends the model down as
float32 and every update up as float32, and a steady round of LatticeSum with 16-bit values, which sends the
same model down beside its messages and binds its SHA-256. The secure round's messages are smaller; whether
that pays for its work and its additional exchange depends on the rate.

Measured: rounds of 10^6 parameters, by the wall clock. The server and one client are processes that talk over
TCP on the loopback interface, where each sender keeps to the rate with a token bucket. The other nine clients
answer in the server's process while the clock stands still, since in a deployment they work at the same time
as the first; the server takes in all ten messages on the clock. Computed: rounds of 10^8 parameters, as bytes
over rate plus the processor time of the client and of the server in one round without a network. The same
computation stands beside the measured rounds, which it has to agree with. Neither has latency: every exchange
of a deployment adds its round trip, and a secure round has one exchange more.
"""

import argparse
import hashlib
import socket
import struct
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import closing
from multiprocessing import get_context
from pathlib import Path
from typing import Final, Protocol

import numpy as np
from rich.console import Console

from bench.link_page import MEGABIT, PLAIN, SECURE, Row, Work, page_of, table_of
from bench.sampling import Float32Vector
from protocols import Client, Identity, LatticeSum, NeedUpdate, Roster, Round, run_round
from secagg.entropy import SeededEntropy

__all__ = ["Link", "main", "measure_rounds", "measure_work"]

NAMES: Final = tuple(f"client-{index}" for index in range(10))
ME: Final = NAMES[0]
SESSION: Final = bytes(range(16))
PROTOCOL: Final = LatticeSum(max_clients=len(NAMES))
RATES: Final = (10, 100, 1000)
"""Mb/s, of 10^6 bits."""
SCHEMES: Final = (PLAIN, SECURE)
WARM_UP_VALUES: Final = 1000
REPEATS: Final = 5

Exchange = Callable[[Mapping[str, bytes], bytes], Iterable[tuple[str, bytes]]]
"""Delivers a request to each client, and the model (or nothing) to all; brings the answers."""


# The wire


class Link:
    """One end of a TCP connection that carries whole messages, at most as fast as it is told.

    The sender writes small pieces, each when a token bucket of `DEPTH` bytes allows it: what a late wake-up
    costs is caught up, a burst is never longer than the bucket.
    """

    PIECE: Final = 1 << 14
    DEPTH: Final = 1 << 16
    _HEADER: Final = struct.Struct(">QQdB")

    def __init__(self, connection: socket.socket) -> None:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._connection = connection

    def send(self, *messages: bytes, rate: float, kind: int) -> None:
        """Sends one message or two at `rate` bits a second; the other end is told the rate and the kind."""
        first, second = (*messages, b"")[:2]
        self._connection.sendall(self._HEADER.pack(len(first), len(second), rate, kind))
        free_at = time.perf_counter()
        for view in (memoryview(first), memoryview(second)):
            for start in range(0, len(view), self.PIECE):
                piece = view[start : start + self.PIECE]
                now = time.perf_counter()
                free_at = max(free_at, now - 8 * self.DEPTH / rate) + 8 * len(piece) / rate
                if free_at > now:
                    time.sleep(free_at - now)
                self._connection.sendall(piece)

    def receive(self) -> tuple[bytes, bytes, float, int] | None:
        """The next two messages, their rate and their kind; None where the other end hung up."""
        header = self._exactly(self._HEADER.size)
        if not header:
            return None
        first, second, rate, kind = self._HEADER.unpack(header)
        return self._exactly(first), self._exactly(second), rate, kind

    def _exactly(self, size: int) -> bytes:
        buffer = bytearray(size)
        view = memoryview(buffer)
        while view:
            count = self._connection.recv_into(view)
            if not count:
                return b""
            view = view[count:]
        return bytes(buffer)


# The two kinds of round


class Federation(Protocol):
    """A server, and clients that answer it."""

    def run(self, length: int, model: bytes, exchange: Exchange) -> Float32Vector:
        """One round on the server's side."""
        ...

    def answer(self, name: str, request: bytes, model: bytes) -> bytes:
        """What a client of this process says to a request."""
        ...


class PlainFederation:
    """FedAvg in the clear: a float32 model down, a float32 update up, and one addition a value."""

    def __init__(self, update: Float32Vector) -> None:
        self._update = update

    def run(self, length: int, model: bytes, exchange: Exchange) -> Float32Vector:
        total = np.zeros(length, dtype=np.float32)
        for _, reply in exchange(dict.fromkeys(NAMES, b""), model):
            np.add(total, np.frombuffer(reply, dtype=np.float32), out=total)
        return np.divide(total, np.float32(len(NAMES)), out=total)

    def answer(self, name: str, request: bytes, model: bytes) -> bytes:
        return self._update[: len(model) // 4].tobytes()


class SecureFederation:
    """LatticeSum over the public machines. Identities are the same in every process.

    The round's own model is the SHA-256 of the real one, which travels beside the requests: the server has
    one copy of it for all clients, as in the plain round.
    """

    def __init__(self, update: Float32Vector) -> None:
        identities = {name: Identity.generate(name, entropy=SeededEntropy(name.encode())) for name in NAMES}
        roster = Roster.of(*identities.values())
        self._update = update
        self._server = PROTOCOL.server(roster=roster, session=SESSION)
        self._clients: dict[str, Client] = {
            name: PROTOCOL.client(identity=identity, roster=roster, session=SESSION)
            for name, identity in identities.items()
        }
        self._number = 0

    def run(self, length: int, model: bytes, exchange: Exchange) -> Float32Vector:
        number, self._number = self._number, self._number + 1
        bound = hashlib.sha256(model).digest()

        def with_model(outbox: Mapping[str, bytes]) -> Iterable[tuple[str, bytes]]:
            return exchange(outbox, model if self._server.collecting else b"")

        outcome = run_round(self._server, Round(number, NAMES, length, bound), with_model)
        if outcome.total is None or outcome.contributors != frozenset(NAMES):
            raise SystemExit(f"a round lost clients: {outcome.dropped}")
        return outcome.total.mean.astype(np.float32)

    def answer(self, name: str, request: bytes, model: bytes) -> bytes:
        client = self._clients[name]
        said = client.receive(request)
        if isinstance(said, NeedUpdate):
            if said.model != hashlib.sha256(model).digest():
                raise SystemExit(f"{name} got another model than the round is bound to")
            reply = client.contribute(self._update[: said.length])
        else:
            reply = said
        if client.refusal is not None:
            raise SystemExit(f"{name} refuses: {client.refusal}")
        return reply


def federations(length: int) -> dict[str, Federation]:
    """Both kinds; all clients have the same update, which no step can tell from any other."""
    update = np.random.default_rng(2017).standard_normal(length, dtype=np.float32)
    update *= np.float32(0.1)
    return {PLAIN: PlainFederation(update), SECURE: SecureFederation(update)}


# What is measured


def measure_work(length: int, *, rounds: int) -> dict[str, Work]:
    """Both kinds of round in this process; the least times of so many."""
    model = bytes(4 * length)
    found: dict[str, Work] = {}
    for scheme, federation in federations(length).items():
        federation.run(WARM_UP_VALUES, bytes(4 * WARM_UP_VALUES), answering(federation))
        works = [_work(federation, length, model) for _ in range(rounds)]
        found[scheme] = Work(
            length=length,
            client_seconds=min(work.client_seconds for work in works),
            server_seconds=min(work.server_seconds for work in works),
            down=works[0].down,
            up=works[0].up,
            exchanges=works[0].exchanges,
        )
    return found


def answering(federation: Federation) -> Exchange:
    """All clients in this process."""
    return lambda outbox, model: [
        (name, federation.answer(name, request, model)) for name, request in outbox.items()
    ]


def _work(federation: Federation, length: int, model: bytes) -> Work:
    clients = 0.0
    down = up = exchanges = 0

    def exchange(outbox: Mapping[str, bytes], model: bytes) -> Iterable[tuple[str, bytes]]:
        # One reply at a time, so that the largest of them are never there together.
        nonlocal clients, down, up, exchanges
        exchanges += 1
        for name, request in outbox.items():
            since = time.process_time()
            reply = federation.answer(name, request, model)
            clients += time.process_time() - since
            if name == ME:
                down, up = down + len(request) + len(model), up + len(reply)
            yield name, reply

    since = time.process_time()
    federation.run(length, model, exchange)
    server = time.process_time() - since - clients
    return Work(
        length=length,
        client_seconds=clients / len(NAMES),
        server_seconds=server,
        down=down,
        up=up,
        exchanges=exchanges,
    )


def measure_rounds(length: int, *, rates: tuple[int, ...], repeats: int) -> dict[tuple[str, int], float]:
    """Seconds of whole rounds over loopback TCP by scheme and rate, each the least of `repeats`."""
    here = federations(length)
    model = bytes(4 * length)
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        child = get_context("spawn").Process(target=be_client, args=(listener.getsockname()[1], length))
        child.start()
        connection, _ = listener.accept()
        with closing(connection):
            link = Link(connection)
            for kind, scheme in enumerate(SCHEMES):
                _timed_round(here[scheme], link, kind, WARM_UP_VALUES, model[: 4 * WARM_UP_VALUES], 1e9)
            best = {
                (scheme, rate): min(
                    _timed_round(here[scheme], link, kind, length, model, float(rate * MEGABIT))
                    for _ in range(repeats)
                )
                for rate in rates
                for kind, scheme in enumerate(SCHEMES)
            }
        child.join()
    return best


def _timed_round(
    federation: Federation, link: Link, kind: int, length: int, model: bytes, rate: float
) -> float:
    """Wall-clock seconds of one round, of which one client is at the other end of the link."""
    stopped = 0.0

    def exchange(outbox: Mapping[str, bytes], model: bytes) -> list[tuple[str, bytes]]:
        nonlocal stopped
        since = time.perf_counter()
        others = [(name, federation.answer(name, outbox[name], model)) for name in outbox if name != ME]
        stopped += time.perf_counter() - since
        link.send(outbox[ME], model, rate=rate, kind=kind)
        said = link.receive()
        if said is None:
            raise SystemExit("the client's process hung up; see its traceback above")
        return [(ME, said[0]), *others]

    since = time.perf_counter()
    federation.run(length, model, exchange)
    return time.perf_counter() - since - stopped


def be_client(port: int, length: int) -> None:
    """The other process: one client, which answers at the rate that each request came with."""
    here = list(federations(length).values())
    with closing(socket.create_connection(("127.0.0.1", port))) as connection:
        link = Link(connection)
        while (said := link.receive()) is not None:
            request, model, rate, kind = said
            link.send(here[kind].answer(ME, request, model), rate=rate, kind=kind)


def rows_of(
    works: Mapping[int, Mapping[str, Work]],
    measured: Mapping[tuple[str, int], float],
    *,
    length: int,
) -> list[Row]:
    """All lines; `measured` are the rounds of `length` parameters."""
    return [
        Row(
            size,
            rate,
            both[PLAIN].at(rate),
            both[SECURE].at(rate),
            (measured[PLAIN, rate], measured[SECURE, rate]) if size == length else None,
        )
        for size, both in works.items()
        for rate in RATES
    ]


def main() -> int:
    """Measures, prints and writes the page."""
    parser = argparse.ArgumentParser(prog="python -m bench.link", description="A secure round on slow links.")
    parser.add_argument("--out", type=Path, default=Path("bench-out"), help="folder for link.html")
    parser.add_argument("--length", type=int, default=10**6, help="parameters of the measured rounds")
    parser.add_argument("--large", type=int, default=10**8, help="parameters of the computed rounds")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    works = {
        options.length: measure_work(options.length, rounds=REPEATS),
        options.large: measure_work(options.large, rounds=1),
    }
    measured = measure_rounds(options.length, rates=RATES, repeats=REPEATS)
    rows = rows_of(works, measured, length=options.length)
    Console(width=None if sys.stdout.isatty() else 132).print(table_of(rows, clients=len(NAMES)))
    (options.out / "link.html").write_text(
        page_of(rows, works, clients=len(NAMES), repeats=REPEATS), encoding="utf-8"
    )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
