"""The server of LatticeSum: the key layer's server, and the running sum of the vectors.

A contribution counts whole: its vector is checked before the key layer takes its key, and added after. From
then on the vectors cost nothing: no client that drops out later leaves anything in them. Where the key layer
tells the server the sum of the keys, it opens the sum of the vectors with it, and sees at every coefficient
whether they belong together; where it tells the clients, they get both.
"""

from dataclasses import dataclass, make_dataclass, replace
from functools import cache
from typing import Annotated, Any, Union

import numpy as np
from numpy.typing import NDArray

from protocols.identity import ClientId
from protocols.interface import IntegerSum, Learner, Round
from protocols.lattice.messages import (
    Collect,
    Contribution,
    Result,
    Task,
    public_seed,
    tag_of,
    task_of,
)
from protocols.lattice.vector import open_sum
from protocols.machine.suite import Finished, Opened, ServerContext, ServerSteps, Suite
from protocols.messages.schema import Size, Stream, decode, encode, parts
from protocols.planning.requirements import Plan
from secagg.errors import RoundAborted, VerificationError
from secagg.rlwe import scheme as rlwe
from secagg.vectors.linear_mac import PRIME, TAG_BYTES
from secagg.wire import Buffer

__all__ = ["LatticeServerSteps"]


@dataclass(frozen=True, slots=True)
class Checked:
    """A contribution whose parts were checked: the key layer's answer, the vector, the tag."""

    keys: Any
    vector: Buffer
    tag: int


class LatticeServerSteps(ServerSteps):
    """The key layer's table, with more in the collecting exchange and at the end.

    Args:
        keys: the key layer on its integer surface.
        vectors: the lattice parameters.
    """

    def __init__(self, keys: Suite, vectors: rlwe.Parameters) -> None:
        self._keys = keys
        self._vectors = vectors
        self._summing = _summing(keys.server.states)
        # The table's states are those of the key layer at hand, not of the class.
        self.states = (*keys.server.states, self._summing)  # type: ignore[misc]

    def _layer(self, context: ServerContext, task: bytes) -> ServerContext:
        """The key layer's context: it sums keys, and has the task for a model."""
        round = Round(context.round.number, context.round.cohort, self._vectors.degree, task)
        return replace(context, suite=self._keys, round=round)

    def idle(self, state: Any) -> Any:
        return self._keys.server.idle(state.keys if isinstance(state, self._summing) else state)

    def begin(self, context: ServerContext, state: Any, cohort: tuple[ClientId, ...]) -> Opened:
        task = task_of(length=context.round.length, model=context.round.model)
        opened = self._keys.server.begin(self._layer(context, task), state, cohort)
        nothing = self._summing(opened.state, task, np.empty(0, dtype=np.uint64), bytes(TAG_BYTES))
        return self._opened(context, nothing, opened)

    def _opened(self, context: ServerContext, state: Any, opened: Opened) -> Opened:
        """The key layer's exchange, which brings the model too if it collects."""
        if opened.exchange != self._keys.collecting:
            return Opened(replace(state, keys=opened.state), opened.exchange, opened.requests)
        count = context.suite.surface.elements(context.round.length)
        total = self._vectors.ring.zeros(self._vectors.coefficients(count))
        made: dict[int, Collect] = {}  # who gets the same request from the key layer gets the same from us
        requests = {
            client: made.setdefault(id(request), Collect(Stream.of(parts(request)), context.round.model))
            for client, request in opened.requests.items()
        }
        return Opened(replace(state, keys=opened.state, total=total), opened.exchange, requests)

    def check(self, context: ServerContext, state: Any, sender: ClientId, reply: Any) -> Any:
        layer, server = self._layer(context, state.task), self._keys.server
        if not isinstance(reply, Contribution):
            return server.check(layer, state.keys, sender, reply)
        self._vectors.ring.check_packed(reply.vector, len(state.total))
        # The clients tag their vectors where they hold a secret that the server lacks.
        tag = tag_of(reply.tag, tagged=self._keys.learns is Learner.CLIENTS)
        keys: Any = decode(self._keys.replies[self._keys.collecting], reply.keys)
        return Checked(server.check(layer, state.keys, sender, keys), reply.vector, tag)

    def absorb(self, context: ServerContext, state: Any, sender: ClientId, reply: Any) -> Any:
        layer = self._layer(context, state.task)
        if not isinstance(reply, Checked):
            return replace(state, keys=self._keys.server.absorb(layer, state.keys, sender, reply))
        keys = self._keys.server.absorb(layer, state.keys, sender, reply.keys)
        self._vectors.ring.add_packed(state.total, reply.vector)
        tag = (int.from_bytes(state.tag, "big") + reply.tag) % PRIME
        return replace(state, keys=keys, tag=tag.to_bytes(TAG_BYTES, "big"))

    def close(self, context: ServerContext, state: Any, present: frozenset[ClientId]) -> Opened | Finished:
        step = self._keys.server.close(self._layer(context, state.task), state.keys, present)
        if isinstance(step, Opened):
            return self._opened(context, state, step)
        if isinstance(step.total, IntegerSum):
            return replace(step, total=self._open(context, state, step.total))
        ring = self._vectors.ring
        vector = Stream(ring.packed_size(len(state.total)), ring.pack_blocks(state.total))
        result = Result(
            memoryview(step.result or b""), decode(Task, state.task), vector, memoryview(state.tag)
        )
        return replace(step, result=encode(result))

    def _open(self, context: ServerContext, state: Any, keys: IntegerSum) -> Any:
        seed = public_seed(
            parameters=context.suite.digest,
            session=context.session,
            round=context.round.number,
            roster=context.roster,
            task=state.task,
        )
        try:
            return open_sum(
                self._vectors,
                context.suite.surface,
                seed=seed,
                keys=keys,
                total=state.total,
                length=context.round.length,
            )
        except VerificationError as error:
            raise RoundAborted(f"the sum of the keys does not open the sum of the vectors: {error}") from None

    def plan(self, context: ServerContext, state: Any) -> Plan:
        if not isinstance(state, self._summing):
            return super().plan(context, state)
        keys = self._keys.server.plan(self._layer(context, state.task), state.keys)
        return context.plan(keys.clients)

    def body_bytes(self, count: int, *, packed: int) -> int:
        return self._vectors.packed_size(count)

    def refused(self, state: Any, client: ClientId) -> Any:
        return replace(state, keys=self._keys.server.refused(state.keys, client))

    # Saved states

    def freeze(self, context: ServerContext, state: Any) -> Any:
        if not isinstance(state, self._summing):
            return self._keys.server.freeze(context, state)
        return replace(state, keys=self._keys.server.freeze(self._layer(context, state.task), state.keys))

    def thaw(self, state: Any) -> Any:
        if not isinstance(state, self._summing):
            return self._keys.server.thaw(state)
        return replace(state, keys=self._keys.server.thaw(state.keys))


@cache
def _summing(states: tuple[type, ...]) -> type[Any]:
    """An open round: the key layer's state, the task, and the vectors' sum so far, updated in place."""
    fields = [
        ("keys", Union[states]),  # noqa: UP007
        ("task", bytes),
        ("total", NDArray[np.uint64]),
        ("tag", Annotated[bytes, Size(TAG_BYTES)]),
    ]
    return make_dataclass("Summing", fields, frozen=True, slots=True)
