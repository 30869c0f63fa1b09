"""Parcels as Flower's messages: what the server's half asks of a transport, over Flower's own grid.

A SuperNode that is killed has lost the message that it was working on, and Flower delivers none twice. Once
it counts as offline Flower says so, after up to a minute; if it is started again sooner it was never seen to
be away, and its answer would be waited for until time is up. So the moment at which each node was last
activated is remembered with what was sent to it: another moment later on, and there will be no answer.
"""

import time
from collections.abc import Collection, Mapping
from typing import Final

from fl_integration.embedding.carrier import Undelivered
from fl_integration.embedding.parcels import Parcel, said
from fl_integration.flower.engine import Bodies, Grid, Message, MessageType, RecordDict, pack, unpack
from secagg.errors import DecodeError

__all__ = ["FlowerCarrier", "node_id", "node_of"]

NODE_BYTES: Final = 8
LOOK_SECONDS: Final = 5.0
"""Between two looks at when the nodes were activated."""
MOST_WORDS: Final = 400


class FlowerCarrier:
    """A carrier over Flower's grid.

    Args:
        grid: Flower's own.
    """

    def __init__(self, grid: Grid) -> None:
        self._grid = grid
        self._sent: dict[str, tuple[int, str]] = {}
        self._looked = 0.0
        self.end()

    def begin(self, kind: str, group: str, shown: RecordDict) -> None:
        """A round: of which type and group its messages are, and what it shows."""
        self._kind, self._group, self._shown = kind, group, shown

    def shows(self, shown: RecordDict) -> None:
        """What the round shows from here on."""
        self._shown = shown

    def end(self) -> None:
        """The round is over."""
        self._kind, self._group, self._shown = MessageType.TRAIN, "", RecordDict()

    def nodes(self) -> Collection[bytes]:
        return [node_of(node) for node in self._grid.get_node_ids()]

    def push(self, parcels: Mapping[bytes, Parcel], *, seconds: float) -> Mapping[bytes, str]:
        bodies: Bodies = {}
        messages = {
            node: Message(
                pack(parcel, self._shown if parcel.shows else None, bodies=bodies),
                dst_node_id=node_id(node),
                message_type=self._kind,
                group_id=self._group,
                ttl=max(seconds, 1.0),
            )
            for node, parcel in parcels.items()
        }
        if not messages:
            return {}
        activated, self._looked = self._activated(), time.monotonic()
        taken = {each for each in self._grid.push_messages(list(messages.values())) if each}
        found = {node: message.metadata.message_id for node, message in messages.items()}
        tickets = {node: ticket for node, ticket in found.items() if ticket in taken}
        self._sent |= {
            ticket: (node_id(node), activated.get(node_id(node), "")) for node, ticket in tickets.items()
        }
        return tickets

    def pull(self, tickets: Collection[str]) -> Mapping[str, Parcel | Undelivered]:
        found: dict[str, Parcel | Undelivered] = {
            answer.metadata.reply_to_message_id: _answer(answer)
            for answer in self._grid.pull_messages(list(tickets))
            if answer.metadata.reply_to_message_id in tickets
        }
        # Whatever is not asked for any more is forgotten.
        self._sent = {ticket: self._sent[ticket] for ticket in tickets if ticket in self._sent}
        if time.monotonic() - self._looked > LOOK_SECONDS:
            activated, self._looked = self._activated(), time.monotonic()
            for ticket, (node, before) in self._sent.items():
                if ticket not in found and activated.get(node, before) != before:
                    found[ticket] = Undelivered("its SuperNode was started anew, and its message is lost")
        return found

    def _activated(self) -> dict[int, str]:
        """When each node was last activated, as Flower says it."""
        return {node.node_id: node.last_activated_at for node in self._grid.get_nodes()}


def _answer(message: Message) -> Parcel | Undelivered:
    if message.has_error():
        words = f"the engine says: {message.error.reason or message.error.code}"
        # The end of a text is where an exception's own line stands.
        return Undelivered(said(" ".join(words.split())[-MOST_WORDS:]))
    try:
        return unpack(message.content)
    except DecodeError as error:
        return Undelivered(str(error))


def node_id(node: bytes) -> int:
    """Flower's number of a node."""
    return int.from_bytes(node, "big")


def node_of(number: int) -> bytes:
    """A node of Flower's number, as a carrier names it."""
    return number.to_bytes(NODE_BYTES, "big")
