"""The transport of a rehearsal: clients in this process, some of them lost on purpose, every byte counted.

An `exchange` function is all that `run_round` needs of a transport. This one hands each message to its client
and carries back what it says. A client that cannot answer, because its site failed or it refuses to go on,
says nothing, as it would over a network; why is kept beside, in `failures`, for the operator of all sites at
once. A real server would not be told.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from typing import Protocol, TypeAlias

from fl_integration.site.site import SiteFailedError
from protocols.identity import SERVER, ClientId
from protocols.messages.envelope import RESULT, Envelope
from protocols.simulation import Message, Traffic
from secagg.errors import ParameterError, PeerViolation

__all__ = ["Answers", "Drop", "InProcess"]

Drop: TypeAlias = Mapping[int, Mapping[ClientId, str]]
"""Round (from 0) -> client -> name of the first exchange of that round that it does not answer."""


class Answers(Protocol):
    """A client as a transport sees it: bytes in, bytes out."""

    @property
    def seconds(self) -> float:
        """Processor seconds of its machine so far."""
        ...  # a Protocol's signature

    def answer(self, request: bytes) -> bytes:
        """The reply; `PeerViolation` or `SiteFailedError` where there is none."""
        ...  # a Protocol's signature


class InProcess:
    """An exchange function for clients in this process, which loses whom it is told and counts what passes.

    Args:
        names: the protocol's exchanges, `protocol.exchanges(first=True)`.
        clients: by id.
        on_message: `on_message(round, message)` sees every message, for demonstrations and tests.

    Attributes:
        failures: since `begin`, what kept a site from answering, by client.
        refusals: since `begin`, why a client did not go along with what it was sent, by client.
    """

    def __init__(
        self,
        names: tuple[str, ...],
        clients: Mapping[ClientId, Answers],
        *,
        on_message: Callable[[int, Message], None] | None = None,
    ) -> None:
        self._names, self._clients, self._on_message = names, clients, on_message
        self.failures: dict[ClientId, SiteFailedError] = {}
        self.refusals: dict[ClientId, str] = {}
        self.begin(0, {})

    def begin(self, number: int, lost: Mapping[ClientId, str]) -> None:
        """A round: counts from zero; `lost` maps a client to the first exchange that it misses."""
        self._number = number
        self.failures, self.refusals = {}, {}
        self._lost = {client: self._names.index(name) for client, name in lost.items()}
        self._sent = dict.fromkeys([SERVER, *self._clients], 0)
        self._received = dict(self._sent)
        self._before = {name: client.seconds for name, client in self._clients.items()}
        self._outside, self._since = 0.0, time.process_time()

    def costs(self) -> tuple[dict[str, Traffic], dict[str, float]]:
        """Bytes and processor seconds of cryptography by party since `begin`."""
        elapsed = time.process_time() - self._since - self._outside
        seconds = {name: client.seconds - self._before[name] for name, client in self._clients.items()}
        traffic = {party: Traffic(self._sent[party], self._received[party]) for party in self._sent}
        return traffic, {SERVER: elapsed, **seconds}

    def __call__(self, outbox: Mapping[ClientId, bytes]) -> Iterator[tuple[ClientId, bytes]]:
        since = time.process_time()
        for client, request in outbox.items():
            if (reply := self._answer(client, request)) is not None:
                self._outside += time.process_time() - since
                yield client, reply
                since = time.process_time()
        self._outside += time.process_time() - since

    def _answer(self, client: ClientId, request: bytes) -> bytes | None:
        stage = Envelope.decode(request).stage
        position = len(self._names) if stage == RESULT else stage // 2
        if self._lost.get(client, position + 1) <= position:
            return None
        name = "Result" if stage == RESULT else self._names[position]
        self._carry(name, SERVER, client, request)
        try:
            reply = self._clients[client].answer(request)
        except PeerViolation as error:
            self.refusals[client] = str(error)
            return None  # it sits the round out
        except SiteFailedError as error:
            self.failures[client] = error
            return None
        self._carry(name, client, SERVER, reply)
        return reply

    def _carry(self, exchange: str, sender: str, receiver: str, body: bytes) -> None:
        self._sent[sender] += len(body)
        self._received[receiver] += len(body)
        if self._on_message is not None:
            self._on_message(self._number, Message(exchange, sender, receiver, body))


def check_drop(
    drop: Drop, *, rounds: int, names: tuple[str, ...], clients: Mapping[ClientId, object]
) -> None:
    """Refuses losses that cannot happen.

    Raises:
        ParameterError: a round, client or exchange that there is not.
    """
    for number, lost in drop.items():
        if number not in range(rounds):
            raise ParameterError(f"somebody is lost in round {number!r}; the rounds are 0 to {rounds - 1}")
        for client, name in lost.items():
            if client not in clients:
                raise ParameterError(f"{client!r} is to be lost and is no client; they are {list(clients)}")
            if name not in names:
                raise ParameterError(f"{client!r} is to miss {name!r}; the exchanges are {list(names)}")
