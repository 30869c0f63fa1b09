"""PlainSum: no protection at all. The server sees every update.

It is the baseline of every benchmark and the oracle of every test: the same interface, the same fixed-point
numbers, the same machines, one exchange, and nothing hidden. Use it where the other protocols' cost is to be
measured, never where privacy is wanted.

>>> import numpy as np
>>> from protocols import PlainSum, simulate
>>> updates = {name: np.full(3, value) for name, value in [("a", 0.0), ("b", 0.25), ("c", 0.5)]}
>>> [round(x, 3) for x in simulate(PlainSum(max_clients=3), updates, seed=1).mean.tolist()]
[0.25, 0.25, 0.25]
"""

from dataclasses import dataclass
from typing import Any, ClassVar

from numpy.typing import NDArray

from protocols.identity import ClientId
from protocols.interface import Learner
from protocols.machine.parameters import Parameters
from protocols.machine.suite import (
    Asked,
    ClientContext,
    ClientSteps,
    Finished,
    Opened,
    Replied,
    ServerContext,
    ServerSteps,
    Suite,
    check_request,
)
from protocols.machine.summand import Summand, Surface
from protocols.messages.schema import U64, Body, Key32, Name, Stream
from protocols.planning.requirements import Adversary, plan_unshared
from secagg.errors import PeerViolation

__all__ = ["PlainSum"]


@dataclass(frozen=True, slots=True)
class Collect:
    """Server to client: send your update."""

    parameters: Key32
    cohort: tuple[Name, ...]
    length: U64
    model: bytes


@dataclass(frozen=True, slots=True)
class PlainUpdate:
    """Client to server: the vector, bit-packed, in the clear."""

    vector: Body


@dataclass(frozen=True, slots=True)
class Idle:
    """Nothing is under way."""


@dataclass(frozen=True, slots=True)
class Summing:
    """The open round's sum so far; the array is updated in place."""

    total: NDArray[Any]


class PlainClientSteps(ClientSteps):
    """One row: asked, answered."""

    states: ClassVar[tuple[type, ...]] = (Idle,)

    def idle(self, state: Any) -> Idle:
        return Idle()

    def react(self, context: ClientContext, state: Any, request: Any) -> Asked:
        match state, request:
            case Idle(), Collect():
                check_request(
                    context, parameters=request.parameters, cohort=request.cohort, length=request.length
                )
                return Asked(Idle(), request.length, request.model)
        raise PeerViolation("a request out of order", culprit="server")

    def fold(self, context: ClientContext, state: Any, summand: Summand) -> Replied:
        ring = context.suite.surface.ring
        vector = Stream(ring.packed_size(summand.elements), ring.pack_stream(summand.blocks()))
        return Replied(Idle(), PlainUpdate(vector))


class PlainServerSteps(ServerSteps):
    """Adds what comes."""

    states: ClassVar[tuple[type, ...]] = (Idle, Summing)

    def idle(self, state: Any) -> Idle:
        return Idle()

    def begin(self, context: ServerContext, state: Any, cohort: tuple[ClientId, ...]) -> Opened:
        surface = context.suite.surface
        request = Collect(context.suite.digest, cohort, context.round.length, context.round.model)
        total = surface.ring.zeros(surface.elements(context.round.length))
        return Opened(Summing(total), 0, dict.fromkeys(cohort, request))

    def absorb(self, context: ServerContext, state: Any, sender: ClientId, reply: Any) -> Summing:
        context.suite.surface.ring.add_packed(state.total, reply.vector)
        return Summing(state.total)

    def close(self, context: ServerContext, state: Any, present: frozenset[ClientId]) -> Finished:
        return Finished(Idle(), total=context.suite.surface.decode(state.total, present))


@dataclass(frozen=True, kw_only=True)
class PlainSum(Parameters):
    """The sum in the clear: the server sees every update. See the module for what it is for."""

    withstands: ClassVar[frozenset[Adversary]] = frozenset(Adversary)
    """Nothing is protected from anybody, so no adversary is worse than another."""
    sums_residues: ClassVar[bool] = True

    @property
    def learns(self) -> Learner:
        return Learner.SERVER

    def suite_on(self, surface: Surface, *, digest: bytes) -> Suite:
        return Suite(
            code=1,
            name="PlainSum",
            learns=self.learns,
            surface=surface,
            requirements=self.requirements,
            max_clients=self.max_clients,
            digest=digest,
            exchanges=("Contribute",),
            collecting=0,
            requests=(Collect,),
            replies=(PlainUpdate,),
            client=PlainClientSteps(),
            server=PlainServerSteps(),
            plan=lambda n, roster: plan_unshared(
                n,
                self.requirements,
                roster=roster,
                ring_bits=surface.ring.bits,
                protects=False,
                one_update="is open to the server, and to whoever sees the traffic",
            ),
        )
