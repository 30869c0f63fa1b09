"""What one site's own wire carries: a relay between each site and the server, which counts.

    with Meter(to=server_port, wires=3) as meter:
        ports = meter.ports          # site i connects to ports[i] in place of the server
        meter.carried()[0].up        # bytes that site 0 has sent so far

Bytes pass as they are: TLS is between the two ends, which notice nothing but another port, and the relay
could not read it if it would. What is counted is what the ends write into their sockets: the handshakes,
records and alerts of TLS, whatever protocol is inside, polling and downloads included. The headers of TCP and
IP are not in it, nor is anything that is sent twice on the way.

It runs in a thread of its own, listens on 127.0.0.1 only and ends with the block: connections that are open
then are cut. Whoever of this machine can reach the server can reach it through a relay as well, and no
further. A site that is killed leaves its connection to the relay, which closes the other half at once, as the
server would have seen it.

>>> Carried(up=3, down=4) + Carried(up=1, down=1), Carried(up=3, down=4) - Carried(up=1, down=1)
(Carried(up=4, down=5), Carried(up=2, down=3))
"""

import asyncio
import contextlib
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Self

from secagg.errors import ParameterError
from secagg.numbers import plain

__all__ = ["Carried", "Meter"]

CHUNK: Final = 1 << 16
"""Bytes that a relay reads at once, and keeps of one direction while the other end does not take them."""
MOST_WIRES: Final = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Carried:
    """Bytes on one wire.

    Attributes:
        up: from the site to the server.
        down: from the server to the site.
    """

    up: int = 0
    down: int = 0

    def __add__(self, other: "Carried") -> "Carried":
        return Carried(up=self.up + other.up, down=self.down + other.down)

    def __sub__(self, other: "Carried") -> "Carried":
        return Carried(up=self.up - other.up, down=self.down - other.down)


class _Wire:
    """One site's relay: a listening socket, and what has passed."""

    def __init__(self) -> None:
        self.listening = socket.create_server(("127.0.0.1", 0))
        self.up = self.down = 0

    def sent(self, count: int) -> None:
        self.up += count

    def received(self, count: int) -> None:
        self.down += count


class Meter:
    """Relays to one server of this machine, one for each site.

    Args:
        to: the server's port on 127.0.0.1, in [1, 65535]; nobody needs to listen there yet.
        wires: how many sites, in [1, 1000].

    Raises:
        ParameterError: a number is outside its range.
        OSError: the system gives no port.
    """

    def __init__(self, *, to: int, wires: int) -> None:
        to, wires = plain(to), plain(wires)
        if type(to) is not int or not 1 <= to <= 65535:
            raise ParameterError(f"to is {to!r}; it is a port, an int in [1, 65535]")
        if type(wires) is not int or not 1 <= wires <= MOST_WIRES:
            raise ParameterError(f"wires is {wires!r}; it is how many sites there are, in [1, {MOST_WIRES}]")
        self._to, self._wires = to, tuple(_Wire() for _ in range(wires))
        self._loop = asyncio.new_event_loop()
        self._kept: set[asyncio.Task[None]] = set()
        self._serving = threading.Event()
        self._thread = threading.Thread(target=self._run, name="meter", daemon=True)

    @property
    def ports(self) -> tuple[int, ...]:
        """Where each site finds the server, in the order of the sites."""
        return tuple(wire.listening.getsockname()[1] for wire in self._wires)

    def carried(self) -> tuple[Carried, ...]:
        """What has passed so far, in the order of the sites."""
        return tuple(Carried(up=wire.up, down=wire.down) for wire in self._wires)

    def __enter__(self) -> Self:
        self._thread.start()
        self._serving.wait()
        return self

    def __exit__(self, *reason: object) -> None:
        self.close()

    def close(self) -> None:
        """Cuts every connection and frees the ports; the counts stay. Twice is once."""
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
        for wire in self._wires:
            wire.listening.close()
        if not self._loop.is_closed():
            self._loop.close()

    # In the thread

    def _run(self) -> None:
        servers = [self._loop.run_until_complete(self._serve(wire)) for wire in self._wires]
        self._loop.call_soon(self._serving.set)
        self._loop.run_forever()
        for server in servers:
            server.close()
        self._loop.run_until_complete(_cut_all())

    async def _serve(self, wire: _Wire) -> asyncio.Server:
        async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            # The loop keeps none of its tasks: one that waits for bytes alone would be collected.
            if (task := asyncio.current_task()) is not None:
                self._kept.add(task)
                task.add_done_callback(self._kept.discard)
            # Only the end of the meter cancels it; asyncio would log that as an error of this function.
            with contextlib.suppress(asyncio.CancelledError):
                await self._relay(wire, reader, writer)

        return await asyncio.start_server(accept, sock=wire.listening, limit=CHUNK)

    async def _relay(self, wire: _Wire, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection, until both directions have ended, or one of them was cut."""
        writers = [writer]
        # Nobody listens, or an end was cut: the other end sees no more than that either.
        with contextlib.suppress(OSError):
            try:
                there, back = await asyncio.open_connection("127.0.0.1", self._to, limit=CHUNK)
                writers.append(back)
                await asyncio.gather(_pass(reader, back, wire.sent), _pass(there, writer, wire.received))
                for each in writers:  # what is still to be written is written
                    each.close()
                    await each.wait_closed()
            finally:
                for each in writers:
                    each.transport.abort()


async def _cut_all() -> None:
    """Ends every connection of this thread's loop."""
    await asyncio.sleep(0)  # what was accepted in this very moment gets a task, which can be cancelled
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)
    await asyncio.sleep(0)  # a transport that is aborted closes its socket at the loop's next turn


async def _pass(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, count: Callable[[int], None]
) -> None:
    """One direction; its end is passed on, while the other may go on."""
    while data := await reader.read(CHUNK):
        count(len(data))
        writer.write(data)
        await writer.drain()
    writer.write_eof()
