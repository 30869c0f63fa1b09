"""Parcels as calls of Collab: what the server's half asks of a transport, over NVFlare's proxies.

Each parcel is one call to one site, whose answer nobody waits for here: it is looked for. A call has the
time that its exchange has; NVFlare's own limit, a minute, would cut a training short.

A site publishes one method for all of this library's messages, under whatever name its module gives it. It is
found by its parameters, which no other method has.
"""

from collections.abc import Collection, Mapping
from itertools import count
from typing import Any, Final

from fl_integration.embedding.carrier import Undelivered
from fl_integration.embedding.parcels import Parcel, said
from fl_integration.nvflare.engine import RunAborted, collab
from fl_integration.nvflare.shown import Wire
from secagg.errors import DecodeError, ParameterError

__all__ = ["DOOR", "CollabCarrier", "node_of", "packed", "site_of", "unpacked"]

DOOR: Final = ("secagg_head", "secagg_body", "secagg_shown")
"""The parameters of the method that a site publishes."""
MOST_WORDS: Final = 400
MOST_NAME: Final = 64


class CollabCarrier:
    """A carrier over the sites of the job at hand; made inside of `@collab.main`.

    Args:
        published: the name that the sites give the method, if they have more than one for parcels.

    Raises:
        ParameterError: `published` is no name, or a site's name is longer than a member's may be.
    """

    def __init__(self, published: str | None = None) -> None:
        if published is not None and (type(published) is not str or not published):
            raise ParameterError(
                f"published is {published!r}; it is the name of what the sites publish, or None"
            )
        self._numbers = count(1)
        self._calls: dict[str, Any] = {}
        self._doors = {proxy.name: _door(proxy, published) for proxy in collab.clients}
        self.shown: Wire | None = None
        if long := [site for site in self._doors if len(site.encode()) > MOST_NAME]:
            raise ParameterError(
                f"site {long[0]!r} has a name of more than {MOST_NAME} bytes; a site is named as its member "
                "in the roster"
            )

    def nodes(self) -> Collection[bytes]:
        _stop_if_aborted()
        return [node_of(site) for site in self._doors]

    def push(self, parcels: Mapping[bytes, Parcel], *, seconds: float) -> Mapping[bytes, str]:
        _stop_if_aborted()
        bodies: dict[int, bytes] = {}
        tickets = {}
        for node, parcel in parcels.items():
            site, ticket = site_of(node), f"call-{next(self._numbers)}"
            body = bodies.setdefault(id(parcel.body), bytes(parcel.body))
            self._calls[ticket] = self._call(site, Parcel(parcel.head, body, parcel.shows), seconds)
            tickets[node] = ticket
        return tickets

    def _call(self, site: str, parcel: Parcel, seconds: float) -> Any:
        """The live results of a call that goes out now, or why there is none."""
        door = self._doors[site]
        if isinstance(door, Undelivered):
            return door
        target, method = door
        calls = collab.get_clients([site])(blocking=False, timeout=max(seconds, 1.0), target=target)
        values = (bytes(parcel.head), parcel.body, self.shown if parcel.shows else None)
        return getattr(calls, method)(**dict(zip(DOOR, values, strict=True)))

    def pull(self, tickets: Collection[str]) -> Mapping[str, Parcel | Undelivered]:
        _stop_if_aborted()
        # Whatever is not asked for any more is forgotten.
        self._calls = {ticket: self._calls[ticket] for ticket in tickets if ticket in self._calls}
        found = {ticket: _answer(call) for ticket, call in self._calls.items()}
        answers = {ticket: answer for ticket, answer in found.items() if answer is not None}
        for ticket in answers:
            del self._calls[ticket]
        return answers


def _door(proxy: Any, published: str | None) -> tuple[str | None, str] | Undelivered:
    """The object of a site (None: the app itself) and its method that takes parcels; why there is none."""
    found = [
        (target, method)
        for target, owner in [(None, proxy), *proxy.children.items()]
        for method, parameters in owner.target_interface.items()
        if tuple(parameters) == DOOR and published in (None, method)
    ]
    if len(found) == 1:
        return found[0]
    if found:
        return Undelivered("it publishes more than one secure_aggregation(...): name one, published=...")
    named = "" if published is None else f" as {published!r}"
    return Undelivered(f"it publishes no secure_aggregation(...){named}: its side runs without secagg")


def _stop_if_aborted() -> None:
    """A job that is aborted ends here, and not when the patience of a round does."""
    if collab.is_aborted:
        raise RunAborted("the job was aborted while a secure sum waited for its sites")


def _answer(call: Any) -> Parcel | Undelivered | None:
    """What a call came to; None: not yet."""
    if isinstance(call, Undelivered):
        return call
    for error in call.failures.values():
        words = f"the engine says: {error.cause}"
        # The end of a text is where an exception's own line stands.
        return Undelivered(said(" ".join(words.split())[-MOST_WORDS:]))
    if not len(call):
        return None
    _, answer = next(call)
    try:
        return unpacked(answer)
    except DecodeError as error:
        return Undelivered(str(error))


def packed(parcel: Parcel) -> dict[str, bytes]:
    """A site's answer as plain values."""
    return {"head": bytes(parcel.head), "body": bytes(parcel.body)}


def unpacked(answer: object) -> Parcel:
    """The answer that `packed` made.

    Raises:
        DecodeError: it is anything else.
    """
    if type(answer) is not dict or answer.keys() != {"head", "body"}:
        raise DecodeError("the answer is no parcel of secagg: the other side runs without it")
    if any(type(value) is not bytes for value in answer.values()):
        raise DecodeError("a parcel whose head or body is of another type")
    return Parcel(answer["head"], answer["body"])


def node_of(site: str) -> bytes:
    """A site as a carrier names it."""
    return site.encode()


def site_of(node: bytes) -> str:
    """A node as NVFlare names its site."""
    return node.decode()
