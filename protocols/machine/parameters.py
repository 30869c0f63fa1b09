"""The parameters that every protocol shares, and how they become machines.

`Parameters` is the keyword-only shape of all constructors; a protocol adds only what is its own and says
what `suite` it runs. `ExactSum` is the same protocol on one of its integer surfaces.
"""

import hashlib
import math
import os
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from enum import Enum
from typing import TYPE_CHECKING, ClassVar

from protocols.identity import Identity, Roster
from protocols.interface import Client, Learner, Policy, ReleaseLog, Server, SumProtocol
from protocols.machine.integers import IntegerSurface, ModularSurface, check_one
from protocols.machine.summand import FloatSurface, Surface
from protocols.planning.requirements import Adversary, Plan, Requirements
from secagg import labels
from secagg.entropy import Entropy
from secagg.errors import ParameterError
from secagg.numbers import is_number, plain, plain_fields
from secagg.secret import Secret
from secagg.vectors.fixedpoint import FixedPoint, Rounding, Segment
from secagg.wire import Buffer

if TYPE_CHECKING:
    from protocols.machine.suite import Suite

__all__ = ["ExactSum", "MachineProtocol", "Parameters"]

MAXIMUM_CLIENTS = 1 << 20
WRITTEN = 32
"""The most characters of one parameter, where parameters are written out for people."""


class MachineProtocol(SumProtocol):
    """Everything that follows from a suite."""

    @property
    @abstractmethod
    def suite(self) -> "Suite":
        """The messages, steps and numbers of this protocol."""

    def server(
        self,
        *,
        roster: Roster,
        session: bytes,
        identity: Identity | None = None,
        entropy: Entropy = os.urandom,
    ) -> Server:
        from protocols.machine.server import ServerMachine

        return ServerMachine(self.suite, roster=roster, session=session, identity=identity, entropy=entropy)

    def client(
        self,
        *,
        identity: Identity,
        roster: Roster,
        session: bytes,
        policy: Policy | None = None,
        entropy: Entropy = os.urandom,
    ) -> Client:
        from protocols.machine.client import ClientMachine

        return ClientMachine(
            self.suite, identity=identity, roster=roster, session=session, policy=policy, entropy=entropy
        )

    def restore_server(self, blob: Buffer, *, key: Secret, entropy: Entropy = os.urandom) -> Server:
        from protocols.machine.server import ServerMachine

        return ServerMachine.restore(self.suite, blob, key=key, entropy=entropy)

    def restore_client(
        self,
        blob: Buffer,
        *,
        key: Secret,
        release_log: ReleaseLog | None = None,
        apart: Mapping[bytes, bytes] | None = None,
        entropy: Entropy = os.urandom,
    ) -> Client:
        from protocols.machine.client import ClientMachine

        return ClientMachine.restore(
            self.suite, blob, key=key, release_log=release_log, apart=apart, entropy=entropy
        )

    def plan(self, n: int, *, roster: int | None = None) -> Plan:
        n, roster = plain(n), plain(roster)
        if type(n) is not int or not 1 <= n <= MAXIMUM_CLIENTS:
            raise ParameterError(f"a plan for {n!r} clients; n is an integer in [1, {MAXIMUM_CLIENTS}]")
        if roster is None:
            roster = n
        if type(roster) is not int or not n <= roster <= MAXIMUM_CLIENTS:
            raise ParameterError(
                f"a plan for {n} clients of a roster of {roster!r}; roster is an integer in "
                f"[{n}, {MAXIMUM_CLIENTS}]"
            )
        return self.suite.plan(n, roster)


@dataclass(frozen=True, kw_only=True)
class Parameters(MachineProtocol):
    """The shared constructor of all protocols.

    Args:
        clip: values outside [-clip, clip] are clipped and counted; a tuple of `Segment` gives parts of the
            vector a clip of their own.
        bits: bits of one value on the signed grid, in [2, 32]; the grid has 2**(bits-1) - 1 steps each way.
        max_clients: the most clients in a round.
        max_weight: the largest weight of one client; each client caps its own.
        max_total_weight: the largest sum of weights in a round, if less than max_clients·max_weight: it saves
            bits on the wire of PlainSum and MaskedSum. A round whose total weight turns out to be above it
            is aborted.
        metrics: (low, high) by name: numbers that ride along with every update, averaged by weight.
        rounding: stochastic (unbiased) or to nearest.
        requirements: the adversary and the fractions that parameters are planned for.
    """

    clip: float | tuple[Segment, ...] = 1.0
    bits: int = 16
    max_clients: int = 100
    max_weight: int = 1
    max_total_weight: int | None = None
    metrics: Mapping[str, tuple[float, float]] = field(default_factory=dict, hash=False)
    rounding: Rounding = Rounding.STOCHASTIC
    requirements: Requirements = field(default_factory=Requirements)

    withstands: ClassVar[frozenset[Adversary]] = frozenset({Adversary.SEMI_HONEST})
    """The servers that this protocol has an answer to."""
    sums_residues: ClassVar[bool] = False
    """Whether what this protocol adds up may wrap around, as a ring's elements do."""

    def __post_init__(self) -> None:
        plain_fields(self, "max_clients", "max_weight", "max_total_weight", "bits", "clip")
        for name, least, most in (
            ("max_clients", 2, MAXIMUM_CLIENTS),
            ("max_weight", 1, 1 << 48),
        ):
            value = getattr(self, name)
            if type(value) is not int or not least <= value <= most:
                raise ParameterError(f"{name} is {value!r}; it must be an integer in [{least}, {most}]")
        if self.max_clients * self.max_weight >= 1 << 63:
            raise ParameterError(
                f"max_clients {self.max_clients} times max_weight {self.max_weight} is a total weight that "
                "does not fit 63 bits; lower one of them"
            )
        total = self.max_total_weight
        if total is not None and (
            type(total) is not int or not 1 <= total <= self.max_clients * self.max_weight
        ):
            raise ParameterError(
                f"max_total_weight is {total!r}; it must be an integer in [1, max_clients * max_weight]"
            )
        if not isinstance(self.requirements, Requirements):
            raise ParameterError("requirements is a Requirements(...)")
        if self.requirements.min_contributors > self.max_clients:
            raise ParameterError(
                f"min_contributors {self.requirements.min_contributors} is above max_clients "
                f"{self.max_clients}: no round could ever end; raise max_clients"
            )
        if self.requirements.adversary not in self.withstands:
            withstood = ", ".join(sorted(str(adversary) for adversary in self.withstands))
            raise ParameterError(
                f"{type(self).__name__} withstands {withstood}; it has no answer to "
                f"{self.requirements.adversary} and does not pretend to"
            )
        if not isinstance(self.metrics, Mapping):
            raise ParameterError("metrics maps each name to its (low, high)")
        for name, limits in self.metrics.items():
            pair = isinstance(limits, tuple | list) and len(limits) == 2
            if not pair or not all(is_number(plain(limit)) for limit in limits):
                raise ParameterError(f"metrics maps each name to its (low, high); {name!r} has another thing")
            if not isinstance(name, str) or not name:
                raise ParameterError(f"metrics has the name {name!r}; a name is a str of at least one letter")
            low, high = map(plain, limits)
            if not (math.isfinite(low) and math.isfinite(high) and low < high and math.isfinite(high - low)):
                raise ParameterError(
                    f"metric {name!r} has the range ({low}, {high}); it needs finite low < high"
                )
        # A copy of the caller's mapping, which may change; and equal protocols are written equally.
        metrics = {name: (float(low), float(high)) for name, (low, high) in sorted(self.metrics.items())}
        object.__setattr__(self, "metrics", metrics)
        _ = self.suite  # what can never work is refused now

    @property
    def surface(self) -> FloatSurface:
        """The numbers that are summed."""
        codec = FixedPoint(bits=self.bits, clip=self.clip, rounding=self.rounding)
        surface = FloatSurface(
            codec=codec,
            max_clients=self.max_clients,
            max_weight=self.max_weight,
            max_total_weight=self.max_total_weight or self.max_clients * self.max_weight,
            ring_weight=self._ring_weight,
            metrics=tuple((name, low, high) for name, (low, high) in self.metrics.items()),
        )
        _ = surface.ring
        return surface

    @property
    def _ring_weight(self) -> int:
        """The sum of weights that must fit. A broken cap shows in the sum of weights, which always fits."""
        return self.max_total_weight or self.max_clients * self.max_weight

    @property
    def suite(self) -> "Suite":
        suite = self.suite_on(self.surface, digest=self._digest(None))
        return replace(suite, public=self.written())

    @abstractmethod
    def suite_on(self, surface: Surface, *, digest: bytes) -> "Suite":
        """This protocol's suite over the given numbers."""

    def _digest(self, integers: int | tuple[str, int] | None) -> bytes:
        """SHA-256 over the public parameters, so that no two parties run with different ones unnoticed.

        Args:
            integers: None on floats; `max_summand` alone, or another surface's number with its name.
        """
        values = self._public_values()
        text = repr((type(self).__name__, integers, sorted(values.items(), key=lambda item: item[0])))
        return hashlib.sha256(labels.PARAMETERS + text.encode()).digest()

    def digest_on(self, name: str, number: int) -> bytes:
        """SHA-256 over the public parameters of an integer surface, which one named number makes."""
        return self._digest(number if name == "max_summand" else (name, number))

    def _public_values(self) -> dict[str, object]:
        """What the digest covers, by name; equal parameters have equal representations."""
        values = {each.name: getattr(self, each.name) for each in fields(self)}
        values["metrics"] = list(self.metrics.items())
        values["max_total_weight"] = self.surface.max_total_weight
        values["clip"] = self.clip if isinstance(self.clip, tuple) else float(self.clip)
        return values

    def written(self) -> dict[str, str]:
        """The public parameters by name, as people write them: what parties compare whose digests differ."""
        values = self._public_values()
        requirements = values.pop("requirements")
        values |= {each.name: getattr(requirements, each.name) for each in fields(self.requirements)}
        return {name: _written(value) for name, value in sorted(values.items())}

    def exchanges(self, *, first: bool) -> tuple[str, ...]:
        return self.suite.exchanges

    def error_bound(self, n_clients: int, *, total_weight: int | None = None) -> float:
        n_clients, total_weight = plain(n_clients), plain(total_weight)
        if type(n_clients) is not int or n_clients < 1:
            raise ParameterError(f"an error bound for {n_clients!r} clients; pass a positive integer")
        if total_weight is not None and (type(total_weight) is not int or total_weight < n_clients):
            raise ParameterError(
                f"an error bound for a total weight of {total_weight!r}; pass an integer of at least "
                f"{n_clients}, the number of clients"
            )
        return self.surface.codec.error_bound(summands=n_clients, total_weight=total_weight)

    def exact(self, *, max_summand: int | None = None, max_abs: int | None = None) -> "ExactSum":
        return ExactSum(base=self, max_summand=max_summand, max_abs=max_abs)

    def modular(self, *, bits: int) -> "ExactSum":
        return ExactSum(base=self, modular_bits=ModularSurface(bits=bits).bits)


def _written(value: object) -> str:
    """A value on a short line; of a long one the beginning, and what tells it from others like it."""
    text = str(value) if isinstance(value, Enum) else repr(value)
    if len(text) <= WRITTEN:
        return text
    return f"{text[: WRITTEN - 12]}…#{hashlib.sha256(text.encode()).hexdigest()[:8]}"


@dataclass(frozen=True, kw_only=True)
class ExactSum(MachineProtocol):
    """A protocol's integer surface: the same machines, exchanges and guarantees on integer vectors.

    Its sums are `IntegerSum`s. It has no weights, no clipping and no error.

    Args:
        base: the protocol.
        max_summand, max_abs: the bound of one summand, see `IntegerSurface`.
        modular_bits: sums are taken modulo 2**modular_bits, see `ModularSurface`. One of the three is given.
    """

    base: Parameters
    max_summand: int | None = None
    max_abs: int | None = None
    modular_bits: int | None = None

    def __post_init__(self) -> None:
        plain_fields(self, "max_summand", "max_abs", "modular_bits")
        check_one(max_summand=self.max_summand, max_abs=self.max_abs, modular_bits=self.modular_bits)
        if self.modular_bits is not None and not self.base.sums_residues:
            raise ParameterError(
                f"{type(self.base).__name__} has no sums modulo 2**bits: its digits, packings or slots do "
                "not wrap around, and sums of residues in them would tell how often single vectors did; take "
                "exact(max_abs=…) with the bound of one summand, the tail of its noise included"
            )
        _ = self.suite

    @property
    def learns(self) -> Learner:
        return self.base.learns

    @property
    def suite(self) -> "Suite":
        surface, (name, number) = self.surface, self._number
        suite = self.base.suite_on(surface, digest=self.base.digest_on(name, number))
        return replace(suite, public={**self.base.written(), name: str(number)})

    @property
    def surface(self) -> Surface:
        """The numbers that are summed."""
        if self.modular_bits is not None:
            return ModularSurface(bits=self.modular_bits)
        return IntegerSurface(
            max_clients=self.base.max_clients, max_summand=self.max_summand, max_abs=self.max_abs
        )

    @property
    def _number(self) -> tuple[str, int]:
        """What tells this surface from others, with its name."""
        numbers = (
            ("max_summand", self.max_summand),
            ("max_abs", self.max_abs),
            ("modular_bits", self.modular_bits),
        )
        return next((name, number) for name, number in numbers if number is not None)

    def exchanges(self, *, first: bool) -> tuple[str, ...]:
        return self.base.exchanges(first=first)

    def error_bound(self, n_clients: int, *, total_weight: int | None = None) -> float:
        return 0.0

    def exact(self, *, max_summand: int | None = None, max_abs: int | None = None) -> "ExactSum":
        return self.base.exact(max_summand=max_summand, max_abs=max_abs)

    def modular(self, *, bits: int) -> "ExactSum":
        return self.base.modular(bits=bits)
