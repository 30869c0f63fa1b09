"""Flower's SecAgg+ as it ships, all parties in this process: the peer that MaskedSum is measured against.

A round is Flower's own code from end to end: its `SecAggPlusWorkflow` is the server, its `secaggplus_mod` is
each client (Bell et al., CCS'20, against a server that follows the protocol), and every message goes through
its protobuf encoding and back. Three things are ours: a grid that hands over bytes where Flower calls its
network, an app that returns a given update where others train, and a strategy that keeps the mean. FedAvg
would average one and the same mean once for each client, which says nothing about the cryptography. No model
is sent down.

The parameters are the workflow's defaults: clip 8, 2**22 quantisation steps, modulus 2**32, weights up to
1000. Shares go to all clients, and two thirds of them rebuild a key. Every client weighs 1000, because there
Flower is most precise: it scales values by weight / 1000 before it rounds them.

It turns Flower's telemetry off; importing it opens no socket.

>>> values = {"a": 0.5, "b": -0.25, "c": 2.0}
>>> updates = {name: np.full(4, value, dtype=np.float32) for name, value in values.items()}
>>> run = FlowerSession(updates).round(updates)
>>> run.mean.round(3).tolist(), run.exchanges, run.degree, run.threshold
([0.75, 0.75, 0.75, 0.75], 4, 2, 2)
"""

import logging
import os
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from protocols import Traffic

os.environ["FLWR_TELEMETRY_ENABLED"] = "0"  # Flower reads it once, at its import.

from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.client.mod import secaggplus_mod
from flwr.common import (
    Code,
    FitIns,
    FitRes,
    Parameters,
    Scalar,
    Status,
    ndarrays_to_parameters,
    parameters_to_ndarrays,
)
from flwr.common.secure_aggregation.secaggplus_constants import RECORD_KEY_CONFIGS, Key
from flwr.common.serde import message_from_proto, message_to_proto
from flwr.compat.common import recorddict_compat
from flwr.proto.message_pb2 import Message as ProtoMessage
from flwr.server import LegacyContext
from flwr.server.workflow import SecAggPlusWorkflow
from flwr.server.workflow.constant import MAIN_CONFIGS_RECORD, MAIN_PARAMS_RECORD
from flwr.server.workflow.constant import Key as WorkflowKey
from flwr.supercore.task_identity import TaskIdentity

__all__ = ["FlowerRound", "FlowerSession"]

SERVER: Final = "server"
WEIGHT: Final = 1000  # The workflow's largest.
THRESHOLD: Final = 2 / 3
RUN: Final = 1
NO_MODEL: Final = Parameters(tensors=[], tensor_type="numpy.ndarray")


@dataclass(frozen=True, slots=True, kw_only=True)
class FlowerRound:
    """What a round did; the fields are those of `Simulation`.

    Attributes:
        mean: float64[d].
        exchanges: broadcasts and their replies.
        traffic: bytes by party, `"server"` included.
        seconds: processor seconds by party, `"server"` included, without the protobuf encoding.
        degree: other clients that each client shares its keys with.
        threshold: shares that rebuild a key.
    """

    mean: NDArray[np.float64]
    exchanges: int
    traffic: dict[str, Traffic]
    seconds: dict[str, float]
    degree: int
    threshold: int


class FlowerSession:
    """Clients and a server that run SecAgg+ round after round.

    Args:
        clients: names, at least two.
    """

    def __init__(self, clients: Iterable[str]) -> None:
        names = tuple(clients)
        logging.getLogger("flwr").setLevel(logging.WARNING)  # It narrates every step.
        # Messages carry the identity of the process that makes them. Replies do not read it.
        TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = RUN, 0, 0
        self._contexts = {name: _context(node) for node, name in enumerate(names, start=1)}
        self._number = 0

    def round(self, updates: Mapping[str, NDArray[np.float32]]) -> FlowerRound:
        """One round of the clients that `updates` names, each with its 1-D float32 update.

        Raises:
            RuntimeError: Flower ended the round without a mean.
        """
        self._number += 1
        wire = _Wire(self._contexts, updates)
        strategy = _Strategy(wire)
        context = _context(0)
        context.state[MAIN_CONFIGS_RECORD] = ConfigRecord({WorkflowKey.CURRENT_ROUND: self._number})
        context.state[MAIN_PARAMS_RECORD] = recorddict_compat.parameters_to_arrayrecord(
            NO_MODEL, keep_input=True
        )
        workflow = SecAggPlusWorkflow(num_shares=1.0, reconstruction_threshold=THRESHOLD)
        grid: Any = wire  # Neither is derived from Flower's class, whose other methods nobody calls.
        flower_strategy: Any = strategy
        wire.turn(SERVER)
        workflow(grid, LegacyContext(context, strategy=flower_strategy))
        wire.turn(None)
        if strategy.mean is None:
            raise RuntimeError("Flower halted the round; let its logger 'flwr' speak to see why")
        return FlowerRound(
            mean=strategy.mean,
            exchanges=wire.exchanges,
            traffic={party: Traffic(wire.sent[party], wire.received[party]) for party in wire.seconds},
            seconds=wire.seconds,
            degree=wire.shares - 1,
            threshold=wire.threshold,
        )


class _Wire:
    """Flower's `Grid`, as far as the workflow uses it, over bytes; knows whose processor time it is."""

    def __init__(self, contexts: Mapping[str, Context], updates: Mapping[str, NDArray[np.float32]]) -> None:
        self.names = {contexts[name].node_id: name for name in updates}
        self.seconds = dict.fromkeys([SERVER, *updates], 0.0)
        self.sent = dict.fromkeys(self.seconds, 0)
        self.received = dict.fromkeys(self.seconds, 0)
        self.exchanges = self.shares = self.threshold = 0
        self._contexts = contexts
        # A trained model leaves the app serialised already.
        self._parameters = {name: ndarrays_to_parameters([update]) for name, update in updates.items()}
        self._owner: str | None = None
        self._since = time.process_time()

    def turn(self, party: str | None) -> None:
        """From now on processor time is `party`'s, or nobody's."""
        now = time.process_time()
        if self._owner is not None:
            self.seconds[self._owner] += now - self._since
        self._owner, self._since = party, now

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:
        """One exchange: every client answers at once, so `timeout` never passes."""
        self.turn(None)
        self.exchanges += 1
        replies = [self._deliver(message) for message in messages]
        self.turn(SERVER)
        return replies

    def _deliver(self, message: Message) -> Message:
        name = self.names[message.metadata.dst_node_id]
        configs: Any = message.content.config_records[RECORD_KEY_CONFIGS]
        if Key.THRESHOLD in configs:
            self.shares, self.threshold = configs[Key.SHARE_NUMBER], configs[Key.THRESHOLD]
        request = self._carry(SERVER, name, message)
        self.turn(name)
        reply = secaggplus_mod(request, self._contexts[name], self._app)
        self.turn(None)
        return self._carry(name, SERVER, reply)

    def _carry(self, sender: str, receiver: str, message: Message) -> Message:
        body = message_to_proto(message).SerializeToString()
        self.sent[sender] += len(body)
        self.received[receiver] += len(body)
        return message_from_proto(ProtoMessage.FromString(body))

    def _app(self, message: Message, context: Context) -> Message:
        """Where a client trains."""
        result = FitRes(
            status=Status(Code.OK, ""),
            parameters=self._parameters[self.names[context.node_id]],
            num_examples=WEIGHT,
            metrics={},
        )
        return Message(recorddict_compat.fitres_to_recorddict(result, keep_input=True), reply_to=message)


class _Strategy:
    """Flower's `Strategy`, as far as the workflow uses it: everybody takes part, and the mean is kept."""

    def __init__(self, wire: _Wire) -> None:
        self.mean: NDArray[np.float64] | None = None
        self._wire = wire

    def configure_fit(self, number: int, model: Parameters, manager: object) -> list[tuple[object, FitIns]]:
        return [(SimpleNamespace(node_id=node), FitIns(NO_MODEL, {})) for node in self._wire.names]

    def aggregate_fit(
        self, number: int, results: list[tuple[object, FitRes]], failures: list[object]
    ) -> tuple[None, dict[str, Scalar]]:
        self._wire.turn(None)
        _, result = results[0]  # The workflow has put the mean into every result.
        (self.mean,) = parameters_to_ndarrays(result.parameters)
        self._wire.turn(SERVER)
        return None, {}


def _context(node: int) -> Context:
    """What Flower keeps of a party from message to message."""
    return Context(run_id=RUN, node_id=node, node_config={}, state=RecordDict(), run_config={})
