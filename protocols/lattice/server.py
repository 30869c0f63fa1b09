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
from protocols.machine.suite import Finished, Judged, Opened, ServerContext, ServerSteps, Suite
from protocols.messages.envelope import Refusal
from protocols.messages.schema import Name, Size, Stream, decode, encode, parts
from protocols.planning.requirements import Plan
from secagg.errors import RoundAborted, VerificationError
from secagg.rlwe import scheme as rlwe
from secagg.vectors.linear_mac import PRIME, TAG_BYTES
from secagg.wire import Buffer

__all__ = ["LatticeServerSteps"]


@dataclass(frozen=True, slots=True)
class Checked:
    """A contribution whose parts were checked: the key layer's answer and its head, the vector, the tag."""

    keys: Any
    head: bytes
    vector: Buffer
    tag: int


@dataclass(frozen=True, slots=True)
class Group:
    """The vectors' sum so far, of contributions that name one head; the total is updated in place."""

    members: frozenset[Name]
    total: NDArray[Any]
    tag: Annotated[bytes, Size(TAG_BYTES)]


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
        nothing = self._summing(opened.state, task, {})
        return self._opened(context, nothing, opened)

    def _opened(self, context: ServerContext, state: Any, opened: Opened) -> Opened:
        """The key layer's exchange, which brings the model too if it collects."""
        if opened.exchange != self._keys.collecting:
            return Opened(replace(state, keys=opened.state), opened.exchange, opened.requests)
        made: dict[int, Collect] = {}  # who gets the same request from the key layer gets the same from us
        requests = {
            client: made.setdefault(id(request), Collect(Stream.of(parts(request)), context.round.model))
            for client, request in opened.requests.items()
        }
        return Opened(replace(state, keys=opened.state), opened.exchange, requests)

    def _coefficients(self, context: ServerContext) -> int:
        """Of a vector in this round."""
        return self._vectors.coefficients(context.suite.surface.elements(context.round.length))

    def check(self, context: ServerContext, state: Any, sender: ClientId, reply: Any) -> Any:
        layer, server = self._layer(context, state.task), self._keys.server
        if not isinstance(reply, Contribution):
            return server.check(layer, state.keys, sender, reply)
        self._vectors.ring.check_packed(reply.vector, self._coefficients(context))
        # The clients tag their vectors where they hold a secret that the server lacks.
        tag = tag_of(reply.tag, tagged=self._keys.learns is Learner.CLIENTS)
        keys: Any = decode(self._keys.replies[self._keys.collecting], reply.keys)
        head = server.head_of(keys)
        return Checked(server.check(layer, state.keys, sender, keys), head, reply.vector, tag)

    def absorb(self, context: ServerContext, state: Any, sender: ClientId, reply: Any) -> Any:
        layer = self._layer(context, state.task)
        if not isinstance(reply, Checked):
            return replace(state, keys=self._keys.server.absorb(layer, state.keys, sender, reply))
        keys = self._keys.server.absorb(layer, state.keys, sender, reply.keys)
        group = state.groups.get(reply.head)
        if group is None:  # the key layer has let it in: there are no more of them than its groups
            zeros = self._vectors.ring.zeros(self._coefficients(context))
            group = Group(frozenset(), zeros, bytes(TAG_BYTES))
        self._vectors.ring.add_packed(group.total, reply.vector)
        tag = ((int.from_bytes(group.tag, "big") + reply.tag) % PRIME).to_bytes(TAG_BYTES, "big")
        taken = Group(group.members | {sender}, group.total, tag)
        summed = self._keys.server.heads(keys)  # one may have given way to this one
        groups = {head: each for head, each in state.groups.items() if head in summed}
        return replace(state, keys=keys, groups={**groups, reply.head: taken})

    def close(self, context: ServerContext, state: Any, present: frozenset[ClientId]) -> Opened | Finished:
        step = self._keys.server.close(self._layer(context, state.task), state.keys, present)
        if isinstance(step, Opened):
            return self._opened(context, state, step)
        # The vectors in the sum are of those whose keys are.
        group = next(each for each in state.groups.values() if not each.members <= step.left_out.keys())
        if isinstance(step.total, IntegerSum):
            return replace(step, total=self._open(context, state, step.total, group.total))
        ring = self._vectors.ring
        vector = Stream(ring.packed_size(len(group.total)), ring.pack_blocks(group.total))
        result = Result(
            memoryview(step.result or b""), decode(Task, state.task), vector, memoryview(group.tag)
        )
        return replace(step, result=encode(result))

    def _open(self, context: ServerContext, state: Any, keys: IntegerSum, total: NDArray[np.uint64]) -> Any:
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
                total=total,
                length=context.round.length,
            )
        except VerificationError as error:
            raise RoundAborted(
                f"the sum of the keys does not open the sum of the vectors: {error}",
                opened=keys.contributors,  # one bad coefficient keeps nobody from reading the others
            ) from None

    def plan(self, context: ServerContext, state: Any) -> Plan:
        if not isinstance(state, self._summing):
            return super().plan(context, state)
        keys = self._keys.server.plan(self._layer(context, state.task), state.keys)
        return context.plan(keys.clients)

    def body_bytes(self, count: int, *, packed: int) -> int:
        return self._vectors.packed_size(count)

    def refused(self, context: ServerContext, state: Any, client: ClientId, refusal: Refusal) -> Judged:
        layer = self._layer(context, state.task)
        judged = self._keys.server.refused(layer, state.keys, client, refusal)
        return replace(judged, state=replace(state, keys=judged.state))

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
    """An open round: the key layer's state, the task, and the vectors' sums so far, by head."""
    fields = [
        ("keys", Union[states]),  # noqa: UP007
        ("task", bytes),
        ("groups", dict[bytes, Group]),
    ]
    return make_dataclass("Summing", fields, frozen=True, slots=True)
