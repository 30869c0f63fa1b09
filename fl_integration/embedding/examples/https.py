"""Secure sums over HTTPS with mutual TLS, by aiohttp: the coordinator serves, the sites call it.

A site opens every connection, so its firewall lets nobody in. It posts the reply to one message and is given
the next one; if there is none yet, the coordinator holds the request for a while. A reply names its message
by SHA-256: one that is late for its exchange is left aside. Whatever is lost is sent again, for a machine
gives a repeated message the identical reply, and the machine at the other end passes a repeated reply over.

Who is who: both sides show certificates of one authority, and the common name in a site's certificate is the
client's name in the roster. The machine refuses a message that names another sender than that, with the
sender's name. TLS 1.3; no redirects, no proxies, no compressed bodies, and no body longer than was agreed.

Before a reply leaves, `save` has stored the site's machine, on a disk that the coordinator cannot rewind.
"""

import asyncio
import logging
import ssl
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import Any, Final, TypeAlias

import aiohttp
from aiohttp import web
from numpy.typing import NDArray

from protocols import Client, NeedUpdate, PeerViolation, Roster
from protocols.identity import SERVER

__all__ = ["Counter", "Save", "Train", "mutual_tls", "take_part"]

_LOG: Final = logging.getLogger("secagg")
HELD_SECONDS: Final = 20.0
"""How long the coordinator holds a request for which there is no message yet."""
SILENT_SECONDS: Final = 60.0
"""How long a site waits for the next byte: longer than it is held."""
AGAIN_SECONDS: Final = 1.0
"""Before a site calls again that could not reach the coordinator."""

Train: TypeAlias = Callable[[NeedUpdate], tuple[NDArray[Any], int]]
"""What a site does when it is asked: its update, and the weight of that."""
Save: TypeAlias = Callable[[Client], None]
"""Stores what `Client.export` gives, durably, in place of what was stored before."""


def mutual_tls(
    purpose: ssl.Purpose, *, authority: Path, certificate: Path, key: Path, password: str | None = None
) -> ssl.SSLContext:
    """CLIENT_AUTH for the coordinator, SERVER_AUTH for a site; nobody is trusted but the authority."""
    tls = ssl.create_default_context(purpose, cafile=authority)
    tls.minimum_version, tls.verify_mode = ssl.TLSVersion.TLSv1_3, ssl.CERT_REQUIRED
    tls.load_cert_chain(certificate, key, password or "")  # None would ask at the terminal
    return tls


class Counter:
    """Where sites call, at the coordinator.

    Args:
        roster: who may call.
        most: bytes that a body may have.
    """

    def __init__(self, roster: Roster, *, most: int) -> None:
        self._roster, self._waiting, self._news = roster, dict[str, bytes](), asyncio.Condition()
        self._replies = asyncio.Queue[tuple[str, bytes]]()
        self.app = web.Application(client_max_size=most)
        self.app.router.add_post("/{answers}", self._called)

    async def exchange(self, outbox: Mapping[str, bytes]) -> AsyncIterator[tuple[str, bytes]]:
        """The transport for `run_round_async`."""
        async with self._news:
            self._waiting, self._replies = dict(outbox), asyncio.Queue()
            self._news.notify_all()
        for _ in outbox:
            name, reply = await self._replies.get()
            if reply:
                yield name, reply

    async def _called(self, request: web.Request) -> web.Response:
        name, reply = self._caller(request), await request.read()
        message = self._waiting.get(name)
        if message is not None and sha256(message).hexdigest() == request.match_info["answers"]:
            del self._waiting[name]
            self._replies.put_nowait((name, reply))
        with suppress(TimeoutError):
            async with asyncio.timeout(HELD_SECONDS), self._news:
                await self._news.wait_for(lambda: name in self._waiting)
        return web.Response(body=self._waiting.get(name, b""))

    def _caller(self, request: web.Request) -> str:
        """The common name in the certificate that TLS has checked."""
        subject = request.get_extra_info("peercert")["subject"]
        names = [value for part in subject for kind, value in part if kind == "commonName"]
        if len(names) != 1 or names[0] not in self._roster:
            raise web.HTTPForbidden(text="the certificate's common name is no member of the roster")
        return str(names[0])


async def take_part(
    client: Client, train: Train, save: Save, *, url: str, tls: ssl.SSLContext, most: int
) -> None:
    """A site: calls, answers, calls again, until it is cancelled.

    Raises:
        aiohttp.ClientResponseError: the coordinator does not want this site.
        PeerViolation: it answers as none does, or with more than `most` bytes.
    """
    patient = aiohttp.ClientTimeout(total=None, sock_connect=SILENT_SECONDS, sock_read=SILENT_SECONDS)
    settings: dict[str, Any] = {"timeout": patient, "raise_for_status": True, "auto_decompress": False}
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=tls), **settings) as http:
        answers, reply = "nothing", b""
        while True:
            try:
                async with http.post(f"{url}/{answers}", data=reply, allow_redirects=False) as response:
                    message = await response.content.readexactly(_length(response, most))
            except (aiohttp.ClientConnectionError, aiohttp.ClientPayloadError, TimeoutError) as error:
                _LOG.warning("the coordinator is not reached: %s", error)
                await asyncio.sleep(AGAIN_SECONDS)
                continue
            answers, reply = "nothing", b""
            if message:
                answers, reply = (
                    sha256(message).hexdigest(),
                    await asyncio.to_thread(_answer, client, message, train, save),
                )


def _length(response: aiohttp.ClientResponse, most: int) -> int:
    """Of the body, which is not read before it is known to be one that a coordinator sends."""
    length = response.content_length
    if response.status != 200 or length is None or length > most:
        raise PeerViolation(
            f"an answer that no coordinator gives, or of more than {most} bytes", culprit=SERVER
        )
    return length


def _answer(client: Client, message: bytes, train: Train, save: Save) -> bytes:
    """The reply to a message, behind what is stored; empty if this site sits the round out."""
    try:
        answer = client.receive(message)
        if isinstance(answer, NeedUpdate):
            update, weight = train(answer)
            answer = client.contribute(update, weight=weight)
        save(client)
    except Exception:  # noqa: BLE001 - whatever its training or its disk did, this site calls again
        _LOG.exception("this site sits the round out")
        return b""
    return answer
