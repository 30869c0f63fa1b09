"""Flower's grid in one process: real ClientApps, real messages, no sockets; nodes fail when told to.

Each message goes through Flower's own bytes (deflated and inflated), so that what an app sees is what it
would see over a link. A node keeps its context from message to message, as a SuperNode does.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from typing import Any

from flwr.app import (
    Context,
    Error,
    Message,
)
from flwr.clientapp import ClientApp
from flwr.proto.node_pb2 import NodeInfo
from flwr.serverapp import Grid
from flwr.supercore.inflatable.inflatable_object import (
    get_all_nested_objects,
)
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents
from flwr.supercore.task_identity import TaskIdentity

RUN_CONFIG = {"local-epochs": 1}


@contextmanager
def identity_put_back() -> Iterator[None]:
    """Messages carry the identity of the process that makes them, which Flower keeps in a class."""
    names = ("_run_id", "_node_id", "_task_id")  # the public ones refuse before they are set
    before = {name: getattr(TaskIdentity, name) for name in names}
    yield
    for name, value in before.items():
        setattr(TaskIdentity, name, value)


@dataclass
class Node:
    """A SuperNode: an app, its context, and what goes wrong with it."""

    app: ClientApp
    context: Context
    deaf: Callable[[int], bool] = lambda nth: False
    mute: Callable[[int], bool] = lambda nth: False
    received: int = 0
    connected: bool = True
    activated: str = ""


@dataclass
class LoopbackGrid(Grid):
    """A grid over nodes in this process.

    Attributes:
        nodes: by node id.
        sent: every message that reached a node, in order: (node id, what it said, what was answered).
        tamper: may change a message on its way to a node: `tamper(node id, message)`.
        forge: may change an answer on its way back: `forge(node id, answer)`.
    """

    nodes: dict[int, Node] = field(default_factory=dict)
    sent: list[tuple[int, Message, Message | None]] = field(default_factory=list)
    tamper: Callable[[int, Message], Message] = lambda node, message: message
    forge: Callable[[int, Message], Message] = lambda node, answer: answer
    _answers: dict[str, Message] = field(default_factory=dict)
    _numbers: Any = field(default_factory=lambda: count(1))

    def __post_init__(self) -> None:
        # Messages carry the identity of the process that makes them.
        TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = 1, 0, 0

    def set_run(self, run: Any) -> None:
        raise NotImplementedError

    @property
    def run(self) -> Any:
        raise NotImplementedError

    def create_message(self, *args: Any, **kwargs: Any) -> Message:
        raise NotImplementedError

    def get_node_ids(self) -> Iterable[int]:
        return [node_id for node_id, node in self.nodes.items() if node.connected]

    def get_nodes(self) -> Iterable[NodeInfo]:
        return [
            NodeInfo(node_id=node_id, last_activated_at=self.nodes[node_id].activated)
            for node_id in self.get_node_ids()
        ]

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        pushed = []
        for message in messages:
            message.metadata.__dict__["_message_id"] = f"message-{next(self._numbers)}"
            pushed.append(message.metadata.message_id)
            self._deliver(message)
        return pushed

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        return [self._answers.pop(each) for each in list(message_ids) if each in self._answers]

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        return self.pull_messages(self.push_messages(messages))

    def _deliver(self, message: Message) -> None:
        node_id = message.metadata.dst_node_id
        node = self.nodes.get(node_id)
        if node is None or not node.connected:
            return
        nth, node.received = node.received, node.received + 1
        if node.deaf(nth):
            return
        delivered = self.tamper(node_id, through_bytes(message))
        try:
            answer = node.app(delivered, node.context)
        except Exception as error:  # noqa: BLE001 - what Flower does with an app that raises
            answer = Message(Error(2, f"{type(error).__name__}: {error}"), reply_to=message)
        self.sent.append((node_id, message, answer))
        if not node.mute(nth):
            answer = self.forge(node_id, answer)
            answer.metadata.__dict__["_reply_to_message_id"] = message.metadata.message_id
            self._answers[message.metadata.message_id] = answer


def through_bytes(message: Message) -> Message:
    """The message as it comes out of Flower's own encoding."""
    objects = {key: value.deflate() for key, value in get_all_nested_objects(message).items()}
    copy = inflate_object_from_contents(message.object_id, objects)
    assert isinstance(copy, Message)
    copy.metadata.__dict__["_message_id"] = message.metadata.message_id
    return copy
