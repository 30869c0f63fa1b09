"""LatticeSum's parameters: a surface, a key layer and the lattice that both imply."""

import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import TYPE_CHECKING, ClassVar

from protocols.interface import Learner
from protocols.machine.integers import IntegerSurface
from protocols.machine.parameters import Parameters
from protocols.machine.summand import Surface
from protocols.planning.requirements import Adversary, Plan
from secagg import labels
from secagg.errors import ParameterError

if TYPE_CHECKING:
    from protocols.machine.suite import Suite

__all__ = ["KeyLayer", "LatticeParameters"]

KeyLayer = Callable[..., Parameters]
"""A protocol class, or a partial of one: called with `max_clients` and `requirements`."""


@dataclass(frozen=True, kw_only=True)
class LatticeParameters(Parameters):
    """LatticeSum without a default key layer.

    Args:
        keys: the protocol class that sums the keys, or a `functools.partial` of one. It is built with the
            same `max_clients` and `requirements`, and refuses what it has no answer to.
    """

    keys: KeyLayer

    withstands: ClassVar[frozenset[Adversary]] = frozenset(Adversary)
    """What the key layer withstands; its own constructor refuses the rest."""

    def __eq__(self, other: object) -> bool:
        # Two partials are equal only if they are one object; what they make tells whether they are the same.
        if type(other) is not type(self):
            return NotImplemented
        return self._public_values() == other._public_values()

    def __hash__(self) -> int:
        return hash(self._digest(None))

    @cached_property
    def key_layer(self) -> Parameters:
        """The protocol that sums the keys."""
        if not callable(self.keys):
            raise ParameterError(
                "keys is a protocol class or a partial of one, for example "
                "functools.partial(PaillierSum, key_bits=2048), and not a protocol that was made already"
            )
        if isinstance(self.keys, partial) and {"max_clients", "requirements"} & self.keys.keywords.keys():
            raise ParameterError(
                "keys has max_clients or requirements of its own; LatticeSum passes its own ones on"
            )
        try:
            layer = self.keys(max_clients=self.max_clients, requirements=self.requirements)
        except TypeError as error:
            raise ParameterError(
                f"keys cannot be called with max_clients and requirements: {error}; pass a protocol class, "
                "or a functools.partial of one with parameters that it has"
            ) from None
        if not isinstance(layer, Parameters) or isinstance(layer, LatticeParameters):
            raise ParameterError(
                f"keys makes a {type(layer).__name__}; the keys are summed by a protocol with an integer "
                "surface that is no LatticeSum itself, for example MaskedSum"
            )
        if layer.max_clients != self.max_clients or layer.requirements != self.requirements:
            raise ParameterError(
                "keys makes a protocol with max_clients or requirements of its own; give both to LatticeSum"
            )
        return layer

    @property
    def _ring_weight(self) -> int:
        # Values share a coefficient: one that overflows spoils its neighbours, and nobody could say why.
        return self.max_clients * self.max_weight

    @property
    def learns(self) -> Learner:
        return self.key_layer.learns

    def exchanges(self, *, first: bool) -> tuple[str, ...]:
        return self.key_layer.exchanges(first=first)

    def _public_values(self) -> dict[str, object]:
        from secagg.rlwe.scheme import KEY_SUMMAND_MAX

        return {**super()._public_values(), "keys": self.key_layer.digest_on("max_summand", KEY_SUMMAND_MAX)}

    def written(self) -> dict[str, str]:
        layer = self.key_layer
        own = {**super().written(), "keys": type(layer).__name__}
        theirs = {name: value for name, value in layer.written().items() if name not in own}
        return {**own, **{f"keys.{name}": value for name, value in theirs.items()}}

    def suite_on(self, surface: Surface, *, digest: bytes) -> "Suite":
        # The steps and the lattice are loaded with the first LatticeSum.
        from protocols.lattice.client import LatticeClientSteps
        from protocols.lattice.messages import Collect, Contribution
        from protocols.lattice.server import LatticeServerSteps
        from protocols.lattice.vector import vectors_of
        from protocols.machine.suite import Suite
        from secagg.rlwe.parameters import MAXIMUM_SUMMANDS
        from secagg.rlwe.scheme import KEY_SUMMAND_MAX

        if self.max_clients > MAXIMUM_SUMMANDS:
            raise ParameterError(
                f"max_clients is {self.max_clients}; LatticeSum sums vectors of up to {MAXIMUM_SUMMANDS:,}"
            )
        vectors = vectors_of(surface, max_clients=self.max_clients)
        # Another release may choose other lattice parameters for the same numbers; it must notice.
        digest = hashlib.sha256(labels.PARAMETERS + digest + repr(vectors).encode()).digest()
        counts = IntegerSurface(max_clients=self.max_clients, max_summand=KEY_SUMMAND_MAX)
        keys = self.key_layer.suite_on(counts, digest=digest)
        key_bytes = keys.server.body_bytes(vectors.degree, packed=counts.ring.packed_size(vectors.degree))

        def plan(n: int, roster: int) -> Plan:
            numbers = keys.plan(n, roster)
            return replace(
                numbers,
                ring_bits=math.ceil(vectors.bits_per_value),
                client_sends=numbers.client_sends + key_bytes,
            )

        def wrapped(kinds: tuple[type, ...], ours: type) -> tuple[type, ...]:
            return (*kinds[: keys.collecting], ours, *kinds[keys.collecting + 1 :])

        return Suite(
            code=3,
            name="LatticeSum",
            learns=keys.learns,
            surface=surface,
            requirements=self.requirements,
            max_clients=self.max_clients,
            digest=digest,
            exchanges=keys.exchanges,
            collecting=keys.collecting,
            requests=wrapped(keys.requests, Collect),
            replies=wrapped(keys.replies, Contribution),
            client=LatticeClientSteps(keys, vectors),
            server=LatticeServerSteps(keys, vectors),
            plan=plan,
        )
