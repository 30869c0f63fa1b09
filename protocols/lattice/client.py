"""The client of LatticeSum: the key layer's client, which sums a key, and a vector under that key.

Every message but the collecting one is the key layer's. When it asks for an update, the client draws a fresh
key, gives that to the key layer, and sends the layer's reply and its vector under the key in one message. Key
and noise live in `fold` and nowhere else: no saved state holds them, and a client that comes back from an
older state draws others (ATTACKS C10). That is not enough against a rollback (A14) where the key layer hides
keys under masks that its saved state holds, as MaskedSum does: two keys under one mask give away their
difference, and with it that of the vectors. As for every protocol here, what holds is the release log.
"""

import hashlib
from dataclasses import make_dataclass, replace
from functools import cache
from typing import Any, Final, Union

from protocols.interface import IntegerSum, Learner, Sum
from protocols.lattice.messages import Collect, Contribution, Result, Task, public_seed, tag_of
from protocols.lattice.vector import hidden, open_sum, tagging_of
from protocols.machine.suite import Asked, ClientContext, ClientSteps, Declined, Replied, Suite, check_length
from protocols.machine.summand import Summand
from protocols.messages.schema import Stream, decode, encode, parts
from secagg.errors import DecodeError, ParameterError, PeerViolation
from secagg.rlwe import scheme as rlwe
from secagg.secret import Secret
from secagg.wire import Buffer

__all__ = ["LatticeClientSteps"]

FROM_SERVER: Final = "server"


class LatticeClientSteps(ClientSteps):
    """The key layer's table, with more in one row.

    Args:
        keys: the key layer on its integer surface, one summand a key.
        vectors: the lattice parameters.
    """

    def __init__(self, keys: Suite, vectors: rlwe.Parameters) -> None:
        self._keys = keys
        self._vectors = vectors
        self._collecting = _collecting(keys.client.states)
        # The table's states are those of the key layer at hand, not of the class.
        self.states = (*keys.client.states, self._collecting)  # type: ignore[misc]

    def _layer(self, context: ClientContext) -> ClientContext:
        """The key layer's context: its vectors are keys, of the same length always."""
        return replace(context, suite=self._keys, max_length=self._vectors.degree)

    def _own(self, state: Any) -> Any:
        """The key layer's state."""
        return state.keys if isinstance(state, self._collecting) else state

    def idle(self, state: Any) -> Any:
        return self._keys.client.idle(self._own(state))

    def react(self, context: ClientContext, state: Any, request: Any) -> Replied | Asked | Declined:
        layer, own = self._layer(context), self._own(state)
        if not isinstance(request, Collect):
            return self._keys.client.react(layer, own, request)
        kind = self._keys.requests[self._keys.collecting]
        step = self._keys.client.react(layer, own, decode(kind, request.keys))
        if isinstance(step, Declined):
            return step
        if isinstance(step, Replied) or step.length != self._vectors.degree:
            raise PeerViolation("a sum of keys of another length than keys have", culprit=FROM_SERVER)
        task = decode(Task, step.model)
        if task.model != hashlib.sha256(request.model).digest():
            raise PeerViolation("another model than the keys are bound to", culprit=FROM_SERVER)
        self._check_length(context, task.length)
        return Asked(self._collecting(step.state, step.model), task.length, request.model)

    def fold(self, context: ClientContext, state: Any, summand: Summand) -> Replied:
        layer = self._layer(context)
        # ACORN, RLWE-SA: a fresh s_i; its coefficients travel as counts, which are not negative.
        key = rlwe.draw_key(context.entropy, degree=self._vectors.degree)
        counts = self._keys.surface.encode(
            key, length=len(key), weight=1, metrics={}, entropy=context.entropy
        )
        step = self._keys.client.fold(layer, state.keys, counts)
        seed = _seed(context, round=context.round, task=state.task)
        vector, tag = hidden(
            self._vectors,
            summand,
            seed=seed,
            key=key,
            tagging=tagging_of(self._keys.client.common_secret(step.state), seed=seed, head=context.head),
            signer=context.me,
            entropy=context.entropy,
        )
        message = Contribution(Stream.of(parts(step.message)), vector, tag)
        return Replied(step.state, message, spends=step.spends)

    def _check_length(self, context: ClientContext, length: int) -> int:
        """The coefficients of a vector of so many values, if this client contributes or opens as many."""
        check_length(context, length)
        try:
            return self._vectors.coefficients(context.suite.surface.elements(length))
        except ParameterError as error:
            raise PeerViolation(str(error), culprit=FROM_SERVER) from None

    # Where the clients learn the sum

    def common_secret(self, state: Any) -> Secret | None:
        return self._keys.client.common_secret(self._own(state))

    def round_of(self, context: ClientContext, result: Buffer) -> int:
        if self._keys.learns is not Learner.CLIENTS:
            return super().round_of(context, result)
        return self._keys.client.round_of(self._layer(context), decode(Result, result).keys)

    def head_of(self, context: ClientContext, result: Buffer) -> bytes:
        if self._keys.learns is not Learner.CLIENTS:
            return super().head_of(context, result)
        return self._keys.client.head_of(self._layer(context), decode(Result, result).keys)

    def failed(self, state: Any) -> Any:
        failed = self._keys.client.failed(self._own(state))
        return replace(state, keys=failed) if isinstance(state, self._collecting) else failed

    def open(self, context: ClientContext, state: Any, result: Buffer) -> Sum:
        if self._keys.learns is not Learner.CLIENTS:
            return super().open(context, state, result)
        given = decode(Result, result)
        layer, own = self._layer(context), self._own(state)
        surface, length = context.suite.surface, given.task.length
        try:
            count = self._check_length(context, length)
        except PeerViolation as error:
            raise DecodeError(error.reason) from None
        tag = tag_of(given.tag, tagged=True)
        total = self._vectors.ring.unpack(given.vector, count)
        keys = self._keys.client.open(layer, own, given.keys)
        if not isinstance(keys, IntegerSum) or len(keys.total) != self._vectors.degree:
            raise DecodeError("a sum of keys of another length than keys have")
        seed = _seed(
            context,
            round=self._keys.client.round_of(layer, given.keys),
            task=encode(given.task),
        )
        return open_sum(
            self._vectors,
            surface,
            seed=seed,
            keys=keys,
            total=total,
            length=length,
            tagging=tagging_of(
                self._keys.client.common_secret(own),
                seed=seed,
                head=self._keys.client.head_of(layer, given.keys),
            ),
            tag=tag,
        )


@cache
def _collecting(states: tuple[type, ...]) -> type[Any]:
    """Asked for the update: the key layer's state then, and the task that binds the vector."""
    fields = [("keys", Union[states]), ("task", bytes)]  # noqa: UP007
    return make_dataclass("Collecting", fields, frozen=True, slots=True)


def _seed(context: ClientContext, *, round: int, task: bytes) -> bytes:
    return public_seed(
        parameters=context.suite.digest,
        session=context.session,
        round=round,
        roster=context.roster,
        task=task,
    )
