"""What memory a party adds to its input: `python -m bench.memory --length 100000000 --protocol PlainSum`.

One whole round among three clients, over the public machines. Each party lives in a process of its own; large
messages go from one to the other as files, so that nobody holds another's memory. A client makes its update
when it is asked and drops it with its answer, one client after the other.

What is measured is the largest resident set of a step, less what was there before: for a client its update,
for a server the machine before the round. From it are taken the parts that have to be there, the message, the
accumulator and the float64 result. What is left over should stay below 64 MB, whatever the length.

It reads the high-water mark in /proc, which it sets back before each step: it runs on Linux only. Below some
ten million values the C library keeps freed messages for later, and they show as left over.
"""

import argparse
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

import numpy as np
from rich.console import Console
from rich.table import Table

from protocols import Client, Identity, LatticeSum, MaskedSum, NeedUpdate, PlainSum, Roster, Round, Server
from protocols.lattice.vector import vectors_of
from protocols.machine.parameters import Parameters
from protocols.masked.collecting import check_words, lanes_of
from secagg.entropy import SeededEntropy

__all__ = ["Step", "main", "measure"]

PROTOCOLS: dict[str, type[Parameters]] = {
    "PlainSum": PlainSum,
    "MaskedSum": MaskedSum,
    "LatticeSum": LatticeSum,
}
NAMES = ("cleveland", "budapest", "long beach")
SESSION = bytes(range(16))
MEGABYTE = 10**6
ALLOWED = 64 * MEGABYTE

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One step of one party, in bytes.

    Attributes:
        party, what: whose step, and which.
        added: the largest resident set, less what was there before.
        message, accumulator, result: the parts of it that have to be there.
    """

    party: str
    what: str
    added: int
    message: int = 0
    accumulator: int = 0
    result: int = 0

    @property
    def beyond(self) -> int:
        """What is left over."""
        return self.added - self.message - self.accumulator - self.result


def resident(field: str) -> int:
    """`VmRSS` (resident now) or `VmHWM` (the most since the mark was set back), in bytes."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith(f"{field}:"):
            return 1024 * int(line.split()[1])
    raise SystemExit(f"{field} is not in /proc/self/status: this measurement runs on Linux only")


def watched(call: Callable[[], T]) -> tuple[T, int]:
    """What `call` returns, and the largest resident set meanwhile."""
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    result = call()
    return result, resident("VmHWM")


# Each party's process keeps its machine here between two calls.
_party: dict[str, Any] = {}


def make_client(protocol: str, name: str) -> None:
    """The first thing in a client's process."""
    identities = identities_of()
    _party["client"] = PROTOCOLS[protocol](max_clients=len(NAMES)).client(
        identity=identities[name], roster=Roster.of(*identities.values()), session=SESSION
    )
    _party["name"] = name


def make_server(protocol: str) -> None:
    """The first thing in the server's process."""
    parameters = PROTOCOLS[protocol](max_clients=len(NAMES))
    _party["parameters"] = parameters
    _party["server"] = parameters.server(roster=Roster.of(*identities_of().values()), session=SESSION)
    _party["before"] = resident("VmRSS")


def identities_of() -> dict[str, Identity]:
    """The same in each process."""
    return {name: Identity.generate(name, entropy=SeededEntropy(name.encode())) for name in NAMES}


def answer(request: bytes, path: Path) -> list[Step]:
    """A client's process: writes the answer to one request to a file."""
    client: Client = _party["client"]
    before = resident("VmRSS")
    said, peak = watched(lambda: client.receive(request))
    steps = [Step(party="client", what="receive", added=peak - before)]
    if isinstance(said, NeedUpdate):
        update = np.random.default_rng(2017).standard_normal(said.length, dtype=np.float32)
        update *= np.float32(0.1)
        before = resident("VmRSS")
        reply, peak = watched(lambda: client.contribute(update))
        steps.append(Step(party="client", what="contribute", added=peak - before, message=len(reply)))
    else:
        reply = said
    if client.refusal is not None:
        raise SystemExit(f"{_party['name']} refuses: {client.refusal}")
    path.write_bytes(reply)
    return steps


def start(length: int) -> tuple[dict[str, bytes], Step]:
    """The server's process: opens the round."""
    server: Server = _party["server"]
    outbox, peak = watched(lambda: server.start(Round(0, NAMES, length)))
    _party["accumulator"] = accumulator_bytes(_party["parameters"], length)
    return outbox, Step(party="server", what="start", added=peak - _party["before"])


def accumulator_bytes(parameters: Parameters, length: int) -> int:
    """What the server's running sum takes."""
    surface = parameters.surface
    elements, ring = surface.elements(length), surface.ring
    if isinstance(parameters, LatticeSum):  # several values share a coefficient
        vectors = vectors_of(surface, max_clients=len(NAMES))
        return vectors.coefficients(elements) * vectors.ring.dtype.itemsize
    if isinstance(parameters, MaskedSum):  # values share words
        lanes = lanes_of(surface)
        return lanes.words(elements + check_words(ring.bits)) * lanes.wide.dtype.itemsize
    return elements * ring.dtype.itemsize


def take(name: str, path: Path) -> Step:
    """The server's process: takes one message."""
    server: Server = _party["server"]
    message = path.read_bytes()
    accumulator = held(server)
    _, peak = watched(lambda: server.receive(name, message))
    return Step(
        party="server",
        what="receive",
        added=peak - _party["before"],
        message=len(message),
        accumulator=accumulator,
    )


def close() -> tuple[dict[str, bytes], Step]:
    """The server's process: closes the open exchange, and looks at the outcome behind the last one."""
    server: Server = _party["server"]
    accumulator = held(server)

    def advance() -> tuple[dict[str, bytes], int]:
        outbox = server.advance()
        if outbox:
            return outbox, 0
        total = server.outcome().total
        return outbox, 0 if total is None else total.mean.nbytes

    (outbox, result), peak = watched(advance)
    step = Step(
        party="server",
        what="advance" if outbox else "open the sum",
        added=peak - _party["before"],
        accumulator=accumulator,
        result=result,
    )
    return outbox, step


def held(server: Server) -> int:
    """Bytes of the accumulator, from the exchange that asks for updates to the end of the round."""
    _party["summing"] = _party.get("summing", False) or server.collecting
    return _party["accumulator"] if _party["summing"] else 0


def measure(protocol: str, *, length: int, folder: Path) -> list[Step]:
    """Every step of one round, in processes of their own.

    Args:
        protocol: one of `PROTOCOLS`.
        length: values in each update.
        folder: for messages on their way; the largest take some bytes a value.
    """
    fresh = get_context("spawn")
    server = ProcessPoolExecutor(1, fresh, make_server, (protocol,))
    clients: Mapping[str, ProcessPoolExecutor] = {
        name: ProcessPoolExecutor(1, fresh, make_client, (protocol, name)) for name in NAMES
    }
    path = folder / "message"
    try:
        outbox, step = server.submit(start, length).result()
        steps = [step]
        while outbox:
            for name, request in outbox.items():
                steps += clients[name].submit(answer, request, path).result()
                steps.append(server.submit(take, name, path).result())
            outbox, step = server.submit(close).result()
            steps.append(step)
        return steps
    finally:
        for executor in (server, *clients.values()):
            executor.shutdown()


def largest(steps: list[Step]) -> list[Step]:
    """Of each party's steps of one kind, the one that goes furthest beyond what has to be there."""
    worst: dict[tuple[str, str], Step] = {}
    for step in steps:
        place = (step.party, step.what)
        if place not in worst or step.beyond > worst[place].beyond:
            worst[place] = step
    return sorted(worst.values(), key=lambda step: (step.party, -step.added))


def table_of(steps: list[Step], title: str) -> Table:
    """A row for each kind of step, in megabytes."""
    table = Table(title=title, caption="MB of 10^6 bytes. sum: the accumulator; mean: the float64 result")
    for heading in ("party", "step", "adds", "message", "sum", "mean", "beyond", "of 64 MB"):
        table.add_column(heading, justify="left" if heading in ("party", "step") else "right", no_wrap=True)
    for step in largest(steps):
        numbers = (step.added, step.message, step.accumulator, step.result, step.beyond)
        share = f"{step.beyond / ALLOWED:.0%}" + (" missed" if step.beyond > ALLOWED else "")
        table.add_row(step.party, step.what, *(f"{number / MEGABYTE:.1f}" for number in numbers), share)
    return table


def main() -> int:
    """Measures and prints; the exit code is 1 where a party goes beyond 64 MB."""
    parser = argparse.ArgumentParser(prog="python -m bench.memory", description="What memory a party adds.")
    parser.add_argument("--length", type=int, default=10**8, help="values in each update")
    parser.add_argument("--protocol", choices=list(PROTOCOLS), default="MaskedSum")
    options = parser.parse_args()
    with TemporaryDirectory() as folder:
        steps = measure(options.protocol, length=options.length, folder=Path(folder))
    Console().print(table_of(steps, f"{options.protocol}, {len(NAMES)} clients, {options.length:,} values"))
    return int(any(step.beyond > ALLOWED for step in steps))


if __name__ == "__main__":
    raise SystemExit(main())
