"""`run_round`: one round of any protocol over any transport.

The transport is a function. It delivers the outbox, waits as long as the deployment likes, and yields the
answers that came back; retries, deadlines and threads are its own affair.
"""

from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from typing import TypeAlias

from protocols.identity import ClientId
from protocols.interface import Outcome, Round, Server
from secagg.errors import PeerViolation
from secagg.wire import Buffer

__all__ = ["Exchange", "run_round"]

Exchange: TypeAlias = Callable[[Mapping[ClientId, bytes]], Iterable[tuple[ClientId, Buffer]]]
"""Delivers one message to each client and yields (sender, reply) for the replies that came in time."""


def run_round(server: Server, round: Round, exchange: Exchange) -> Outcome:
    """Runs one round to its end.

    Args:
        server: the server's machine.
        round: its number, cohort, length and model.
        exchange: the transport.

    Raises:
        ParameterError: the round can never work; nothing was sent.
        RoundAborted: too few clients were left.
    """
    outbox = server.start(round)
    while outbox:
        for sender, reply in exchange(outbox):
            with suppress(PeerViolation):  # the server has noted the culprit
                server.receive(sender, reply)
        outbox = server.advance()
    return server.outcome()
