"""The relay that counts: every byte passes, both ways, as it was, and nothing outlives it."""

import contextlib
import socket
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from fl_integration.loopback.certificates import write_certificates
from fl_integration.loopback.meter import CHUNK, Carried, Meter
from fl_integration.loopback.processes import until
from secagg.errors import ParameterError

SECONDS = 20


@contextlib.contextmanager
def server(answer) -> Iterator[int]:
    """A server that hands each connection to `answer` in a thread; its port."""
    listening = socket.create_server(("127.0.0.1", 0))

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = listening.accept()
                connection.settimeout(SECONDS)
                threading.Thread(target=answer, args=(connection,), daemon=True).start()

    thread = threading.Thread(target=accept, daemon=True)
    thread.start()
    try:
        yield listening.getsockname()[1]
    finally:
        with contextlib.suppress(OSError):
            listening.shutdown(socket.SHUT_RDWR)  # wakes the accept
        listening.close()
        thread.join(SECONDS)


def everything(connection: socket.socket) -> bytes:
    found = bytearray()
    while data := connection.recv(CHUNK):
        found += data
    return bytes(found)


def twice(connection: socket.socket) -> None:
    """Answers with all that came, two times, once the other end has said its last."""
    with connection:
        connection.sendall(2 * everything(connection))


def ask(port: int, data: bytes) -> bytes:
    with socket.create_connection(("127.0.0.1", port), timeout=SECONDS) as connection:
        connection.sendall(data)
        connection.shutdown(socket.SHUT_WR)
        return everything(connection)


@pytest.mark.parametrize("size", [0, 1, CHUNK, 3 * CHUNK + 7, 5_000_000])
def test_every_byte_passes_and_counts_once(size: int) -> None:
    data = np.random.default_rng(size).bytes(size)
    with server(twice) as port, Meter(to=port, wires=2) as meter:
        assert ask(meter.ports[1], data) == 2 * data
        assert meter.carried() == (Carried(), Carried(up=size, down=2 * size))


def test_connections_at_once_go_to_their_own_wire() -> None:
    answers: dict[int, bytes] = {}

    def one(place: int, port: int) -> None:
        answers[place] = ask(port, bytes([place]) * 100_000)

    with server(twice) as port, Meter(to=port, wires=3) as meter:
        threads = [threading.Thread(target=one, args=(place, meter.ports[place % 3])) for place in range(12)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(SECONDS)
        assert answers == {place: bytes([place]) * 200_000 for place in range(12)}
        assert set(meter.carried()) == {Carried(up=400_000, down=800_000)}


def test_tls_is_between_the_ends_and_counts(tmp_path: Path) -> None:
    authority, certificate, key = write_certificates(tmp_path)
    inside = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    inside.load_cert_chain(certificate, key)

    def echo(connection: socket.socket) -> None:
        with inside.wrap_socket(connection, server_side=True) as secure:
            secure.sendall(secure.recv(5))

    context = ssl.create_default_context(cafile=str(authority))
    with (
        server(echo) as port,
        Meter(to=port, wires=1) as meter,
        socket.create_connection(("127.0.0.1", meter.ports[0]), timeout=SECONDS) as raw,
        context.wrap_socket(raw, server_hostname="localhost") as secure,
    ):
        secure.sendall(b"hello")
        assert secure.recv(5) == b"hello"
        (carried,) = meter.carried()
        assert carried.up > 300  # a handshake, and five bytes in a record
        assert carried.down > 500  # a certificate is in it


def test_where_nobody_listens_the_connection_ends() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with Meter(to=port, wires=1) as meter:
        with contextlib.suppress(OSError):
            assert ask(meter.ports[0], b"hello") == b""
        assert meter.carried()[0].down == 0


def test_an_end_that_is_cut_is_cut_for_the_other() -> None:
    gone = threading.Event()

    def wait(connection: socket.socket) -> None:
        with contextlib.suppress(ConnectionError):
            everything(connection)
        gone.set()

    with server(wait) as port, Meter(to=port, wires=1) as meter:
        connection = socket.create_connection(("127.0.0.1", meter.ports[0]), timeout=SECONDS)
        connection.sendall(b"x")
        until(lambda: meter.carried()[0].up > 0, seconds=SECONDS, what="the byte has passed")
        # As when a process is killed with unread bytes: a reset, no goodbye.
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        connection.close()
        assert gone.wait(SECONDS)


def test_its_end_cuts_what_is_open_and_frees_the_ports() -> None:
    with server(everything) as port:
        with Meter(to=port, wires=1) as meter:
            connection = socket.create_connection(("127.0.0.1", meter.ports[0]), timeout=SECONDS)
            connection.sendall(b"x")
            until(lambda: meter.carried()[0].up > 0, seconds=SECONDS, what="the byte has passed")
            place = meter.ports[0]
        with connection, contextlib.suppress(ConnectionError):
            assert connection.recv(1) == b""
        with pytest.raises(ConnectionError):
            socket.create_connection(("127.0.0.1", place), timeout=SECONDS)
        assert meter.carried() == (Carried(up=1),)
        meter.close()
    assert "meter" not in {thread.name for thread in threading.enumerate()}


def test_it_listens_on_this_machine_alone() -> None:
    meter = Meter(to=1, wires=1)
    assert {wire.listening.getsockname()[0] for wire in meter._wires} == {"127.0.0.1"}
    meter.close()


@pytest.mark.parametrize("to", [0, -1, 65536, 1.5, "80", True, None])
def test_what_is_no_port_is_refused(to) -> None:
    with pytest.raises(ParameterError, match=r"an int in \[1, 65535\]"):
        Meter(to=to, wires=1)


@pytest.mark.parametrize("wires", [0, -1, 1001, 1.5, None])
def test_no_sites_are_refused(wires) -> None:
    with pytest.raises(ParameterError, match=r"how many sites there are, in \[1, 1000\]"):
        Meter(to=1, wires=wires)
