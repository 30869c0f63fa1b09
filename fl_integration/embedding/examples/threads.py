"""Secure sums between threads: a transport of queues.

The machines of `protocols` ask one thing of a transport: a function that takes an outbox and yields replies.
Here each site is a thread with an inbox. Each exchange has a queue of its own for the replies, so that who is
late answers where nobody looks any more. A site that cannot answer says None, and nobody waits for it.

The threads are of one process: nothing is durable, and whose a reply is, the thread itself says. That is
enough for a rehearsal, where one party owns them all; it hides nothing from that party.

>>> import numpy as np
>>> from threading import Thread
>>> from protocols import Identity, MaskedSum, Roster, Round, run_round
>>> protocol = MaskedSum(max_clients=3, max_weight=1000)
>>> identities = [Identity.generate(name) for name in ("zurich", "basel", "bern")]
>>> around = {"roster": Roster.of(*identities), "session": bytes(16)}
>>> inboxes = {each.client: SimpleQueue() for each in identities}
>>> def site(identity):
...     client = protocol.client(identity=identity, **around)
...     answer_all(client, identity.client, lambda asked: (np.full(4, 0.5), 100), inboxes[identity.client])
>>> for each in identities:
...     Thread(target=site, args=[each], daemon=True).start()
>>> exchange = over_queues(inboxes, deadline=60)
>>> outcome = run_round(protocol.server(**around), Round(0, tuple(inboxes), length=4), exchange)
>>> outcome.total.mean.round(3).tolist(), outcome.total.total_weight
([0.5, 0.5, 0.5, 0.5], 300)
>>> for inbox in inboxes.values():
...     inbox.put(None)
"""

import logging
from collections.abc import Callable, Iterator, Mapping
from queue import Empty, SimpleQueue
from time import monotonic
from typing import Any, Final, TypeAlias

from numpy.typing import NDArray

from protocols import Client, NeedUpdate
from protocols.run import Exchange

__all__ = ["Inbox", "Train", "answer_all", "over_queues"]

_LOG: Final = logging.getLogger("secagg")

Replies: TypeAlias = "SimpleQueue[tuple[str, bytes | None]]"
Inbox: TypeAlias = "SimpleQueue[tuple[bytes, Replies] | None]"
Train: TypeAlias = Callable[[NeedUpdate], tuple[NDArray[Any], int]]
"""What a site does when it is asked: its update, and the weight of that."""


def answer_all(client: Client, name: str, train: Train, inbox: Inbox) -> None:
    """A site's thread: answers one message after the other, until None comes."""
    while (letter := inbox.get()) is not None:
        message, replies = letter
        try:
            answer = client.receive(message)
            if isinstance(answer, NeedUpdate):
                update, weight = train(answer)
                answer = client.contribute(update, weight=weight)
            replies.put((name, answer))
        except Exception:  # noqa: BLE001 - whatever its training did, this site is there for the next round
            _LOG.exception("%s sits the round out", name)
            replies.put((name, None))


def over_queues(inboxes: Mapping[str, Inbox], *, deadline: float) -> Exchange:
    """The transport for `run_round`; an exchange ends after `deadline` seconds at the latest."""

    def exchange(outbox: Mapping[str, bytes]) -> Iterator[tuple[str, bytes]]:
        until, replies = monotonic() + deadline, SimpleQueue[tuple[str, bytes | None]]()
        for name, message in outbox.items():
            inboxes[name].put((message, replies))
        for _ in outbox:
            try:
                name, reply = replies.get(timeout=max(0.0, until - monotonic()))
            except Empty:
                return
            if reply is not None:
                yield name, reply

    return exchange
