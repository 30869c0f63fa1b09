"""Trainings with liars in them: the library's own loop, over clients of which some lie in some rounds.

`WithLiars` is a protocol whose machines are the library's; a liar's client runs the protocol's own steps, and
a lie changes what leaves them. What it signs is signed anew with its own key, for a liar has one.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

from protocols import Identity, Learner, Policy, Roster
from protocols.interface import Client, Sum, SumProtocol
from protocols.lattice.client import LatticeClientSteps
from protocols.lattice.messages import Contribution as Vector
from protocols.machine.client import ClientMachine
from protocols.machine.parameters import MachineProtocol
from protocols.machine.suite import Asked, ClientContext, ClientSteps, Declined, Replied, Suite
from secagg.entropy import Entropy, system_entropy
from secagg.errors import PeerViolation
from secagg.secret import Secret
from secagg.wire import Buffer


@dataclass(frozen=True)
class Says:
    """Another message of this kind: `change(context, state, message)`, the state being the one behind it."""

    kind: type
    change: Callable[[ClientContext, Any, Any], Any]


@dataclass(frozen=True)
class Refuses:
    """No answer to a request of this kind but a refusal; with a proof, one that reveals it."""

    kind: type
    accused: str = "server"
    proof: Callable[[Any], bytes] | None = None


Lie: TypeAlias = Says | Refuses
Lies: TypeAlias = Mapping[int, tuple[Lie, ...]]
"""By round."""


class Lying(ClientSteps):
    """Somebody's steps, with lies in some rounds."""

    def __init__(self, honest: ClientSteps, lies: Lies) -> None:
        self._honest, self._lies = honest, lies
        self.states = honest.states  # type: ignore[misc]

    def react(self, context: ClientContext, state: Any, request: Any) -> Any:
        for lie in self._lies.get(context.round, ()):
            if isinstance(lie, Refuses) and isinstance(request, lie.kind):
                if lie.proof is None:
                    raise PeerViolation("a lie", culprit=lie.accused)
                return Declined(self.idle(state), "a lie", lie.accused, lie.proof(state))
        return self._told(context, self._honest.react(context, state, request))

    def fold(self, context: ClientContext, state: Any, summand: Any) -> Replied:
        step: Replied = self._told(context, self._honest.fold(context, state, summand))
        return step

    def _told(self, context: ClientContext, step: Any) -> Any:
        if isinstance(step, Asked | Declined):
            return step
        for lie in self._lies.get(context.round, ()):
            if isinstance(lie, Says) and isinstance(step.message, lie.kind):
                step = replace(step, message=lie.change(context, step.state, step.message))
        return step

    def idle(self, state: Any) -> Any:
        return self._honest.idle(state)

    def common_secret(self, state: Any) -> Secret | None:
        return self._honest.common_secret(state)

    def round_of(self, context: ClientContext, result: Buffer) -> int:
        return self._honest.round_of(context, result)

    def head_of(self, context: ClientContext, result: Buffer) -> bytes:
        return self._honest.head_of(context, result)

    def open(self, context: ClientContext, state: Any, result: Buffer) -> Sum:
        return self._honest.open(context, state, result)

    def failed(self, state: Any) -> Any:
        return self._honest.failed(state)


@dataclass(frozen=True)
class WithLiars(MachineProtocol):
    """A protocol some of whose clients lie; where another protocol sums its keys, in both layers."""

    base: MachineProtocol
    lies: Mapping[str, Lies] = field(hash=False)

    @property
    def suite(self) -> Suite:
        return self.base.suite

    @property
    def learns(self) -> Learner:
        return self.base.learns

    def exchanges(self, *, first: bool) -> tuple[str, ...]:
        return self.base.exchanges(first=first)

    def error_bound(self, n_clients: int, *, total_weight: int | None = None) -> float:
        return self.base.error_bound(n_clients, total_weight=total_weight)

    def exact(self, *, max_summand: int | None = None, max_abs: int | None = None) -> SumProtocol:
        return self.base.exact(max_summand=max_summand, max_abs=max_abs)

    def modular(self, *, bits: int) -> SumProtocol:
        return self.base.modular(bits=bits)

    def client(
        self,
        *,
        identity: Identity,
        roster: Roster,
        session: bytes,
        policy: Policy | None = None,
        entropy: Entropy = system_entropy,
    ) -> Client:
        suite = self.suite
        return ClientMachine(
            replace(suite, client=lying(suite.client, self.lies.get(identity.client, {}))),
            identity=identity,
            roster=roster,
            session=session,
            policy=policy,
            entropy=entropy,
        )


def lying(steps: ClientSteps, lies: Lies) -> ClientSteps:
    """Steps with lies in them, in the layer whose messages they are about."""
    if not isinstance(steps, LatticeClientSteps):
        return Lying(steps, lies)
    # Every message but one is the key layer's.
    ours = {number: tuple(lie for lie in told if lie.kind is Vector) for number, told in lies.items()}
    rest = {number: tuple(lie for lie in told if lie.kind is not Vector) for number, told in lies.items()}
    layer = replace(steps._keys, client=Lying(steps._keys.client, rest))
    return Lying(LatticeClientSteps(layer, steps._vectors), ours)
