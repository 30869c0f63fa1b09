"""Samples of contenders that take turns, and rounds whose steps can be timed one by one.

Timings on a shared machine drift by tens of percent within a minute. Two things measured one after the other
cannot be compared; two things that take turns can, by their minima: the least disturbed sample of each.

>>> laps = Laps()
>>> for _ in range(3):
...     total = laps.time("sum", lambda: sum(range(1000)), values=1000)
>>> total, len(laps.record()["sum"]["cpu"]), laps.record()["sum"]["values"]
(499500, 3, 1000)
"""

import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from numpy.typing import NDArray
from pytest_benchmark.fixture import BenchmarkFixture

from protocols import Client, NeedUpdate, Outcome, Round, Session, run_round

__all__ = ["Laps", "MaskFloor", "TimedServer", "draw_updates", "drive", "repeat", "time_server"]

T = TypeVar("T")
Float32Vector = NDArray[np.float32]


class Laps:
    """Wall-clock and processor seconds of each contender, sample by sample.

    Processor time leaves out what other processes do meanwhile, and counts the work of all threads.
    """

    def __init__(self) -> None:
        self._samples: dict[str, dict[str, Any]] = {}

    def time(self, name: str, function: Callable[[], T], *, values: int) -> T:
        """One sample of `name`; `values` is how many values it works on, to compare by the value."""
        wall, cpu = time.perf_counter(), time.process_time()
        result = function()
        cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
        self.note(name, values=values, cpu=cpu, wall=wall)
        return result

    def note(self, name: str, *, values: int, cpu: float, wall: float | None = None) -> None:
        """One sample that was timed elsewhere, perhaps without a wall clock."""
        samples = self._samples.setdefault(name, {"values": values, "wall": [], "cpu": []})
        samples["cpu"].append(cpu)
        if wall is not None:
            samples["wall"].append(wall)

    def record(self) -> dict[str, dict[str, Any]]:
        """All samples, as they go into the JSON: `values`, and lists of `wall` and `cpu`, by contender."""
        return self._samples


def repeat(benchmark: BenchmarkFixture, lap: Callable[[], object], *, rounds: int) -> None:
    """Runs `lap` so many times; its duration is what the benchmark itself reports."""
    benchmark.pedantic(lap, rounds=rounds)  # type: ignore[no-untyped-call]


class MaskFloor:
    """The least that masking a vector of uint32 can cost here: for each mask, AES-128-CTR and one addition.

    Both go chunk by chunk through one reused buffer that stays in the cache. It derives nothing, checks
    nothing and masks whatever is there.
    """

    _CHUNK_BYTES = 1 << 17

    def __init__(self, *, masks: int, count: int) -> None:
        self._vector = np.zeros(count, dtype=np.uint32)
        self._keys = [bytes([index]) * 16 for index in range(masks)]
        self._words = np.empty(self._CHUNK_BYTES // 4, dtype=np.uint32)
        self._zeros = memoryview(bytes(self._CHUNK_BYTES))

    def __call__(self) -> None:
        """Adds all masks to the vector."""
        keystream = self._words.data.cast("B")
        streams = [Cipher(algorithms.AES128(key), modes.CTR(bytes(16))).encryptor() for key in self._keys]
        for start in range(0, len(self._vector), len(self._words)):
            chunk = self._vector[start : start + len(self._words)]
            for stream in streams:
                stream.update_into(self._zeros[: chunk.nbytes], keystream[: chunk.nbytes])
                np.add(chunk, self._words[: len(chunk)], out=chunk)


class TimedServer:
    """Stands before a session's server and times its steps; `time_server` puts it there.

    Attributes:
        machine: the server itself.
        vectors: processor seconds of taking each reply in the exchange that collects the updates: envelope,
            signature, what the protocol checks, unpacking, adding.
        closings: processor seconds of closing each exchange of the last round; the last one opens the sum.
    """

    def __init__(self, server: Any) -> None:
        self.machine = self._server = server
        self.vectors: list[float] = []
        self.closings: list[float] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._server, name)

    def start(self, round: Round) -> dict[str, bytes]:
        self.vectors, self.closings = [], []
        return dict(self._server.start(round))

    def receive(self, sender: str, message: bytes) -> None:
        collecting, since = self._server.collecting, time.process_time()
        self._server.receive(sender, message)
        if collecting:
            self.vectors.append(time.process_time() - since)

    def advance(self) -> dict[str, bytes]:
        since = time.process_time()
        outbox = dict(self._server.advance())
        self.closings.append(time.process_time() - since)
        return outbox


def time_server(session: Session) -> TimedServer:
    """Puts a `TimedServer` into a session, in the place of its server."""
    timed = TimedServer(session.server)
    stands_there: Any = session  # what a round does with a server, a TimedServer can do
    stands_there.server = timed
    return timed


def draw_updates(clients: int, length: int) -> dict[str, Float32Vector]:
    """Updates as training makes them: normal, of deviation 0.1, so that a clip of 1 touches nothing."""
    generator = np.random.default_rng(2017)
    return {
        f"client-{index:02d}": (0.1 * generator.standard_normal(length, dtype=np.float32)).clip(-1, 1)
        for index in range(clients)
    }


def drive(
    session: Session,
    number: int,
    updates: Mapping[str, Float32Vector],
    contribute: Callable[[str, Client], bytes],
) -> Outcome:
    """Round `number` of a session, with `contribute` in the place where each client answers with its update.

    The session must have been driven from its first round on: `Session.round` counts rounds by itself.
    """

    def exchange(outbox: Mapping[str, bytes]) -> Iterable[tuple[str, bytes]]:
        for name, request in outbox.items():
            client = session.clients[name]
            answer = client.receive(request)
            yield name, contribute(name, client) if isinstance(answer, NeedUpdate) else answer

    length = len(next(iter(updates.values())))
    return run_round(session.server, Round(number, tuple(updates), length), exchange)
