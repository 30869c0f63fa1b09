"""From an update to the integers that are summed, and from their sum back: the two surfaces.

Every protocol sums integer vectors modulo 2**bits. `FloatSurface` puts `FixedPoint` on top: a client's
vector is (w·x_1, …, w·x_d, w·metric_1, …, w), so weights are exact integers inside the sum, a small
hospital loses no precision and nobody learns another's example count (ATTACKS B8). `IntegerSurface` is the
level below, for callers that bring integers of their own.

Overflow is excluded when a surface is built: the ring holds the largest possible sum with its sign.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from protocols.identity import ClientId
from protocols.interface import IntegerSum, Sum, Update
from secagg.entropy import Entropy
from secagg.errors import ParameterError, RoundAborted
from secagg.fixedpoint import FixedPoint, Rounding
from secagg.ring import Ring

__all__ = ["FloatSurface", "IntegerSurface", "Surface"]

Words: TypeAlias = NDArray[Any]
"""A vector of ring elements in `Ring.dtype`."""

METRIC_BITS = 16


class Surface(Protocol):
    """What a protocol needs to know of the numbers that it sums."""

    @property
    def ring(self) -> Ring:
        """Where the sums live."""
        ...

    @property
    def summand_bound(self) -> int:
        """Largest absolute value in one client's vector."""
        ...

    @property
    def sum_bound(self) -> int:
        """Largest absolute value in a sum."""
        ...

    def check_length(self, length: int) -> None:
        """Raises `ParameterError` for a vector length that this surface cannot carry."""
        ...

    def elements(self, length: int) -> int:
        """Ring elements that travel for an update of `length` values."""
        ...

    def check(self, update: Update, *, length: int, weight: int, metrics: Mapping[str, float]) -> None:
        """Raises `ParameterError` for an update that can never be summed."""
        ...

    def encode(
        self, update: Update, *, length: int, weight: int, metrics: Mapping[str, float], entropy: Entropy
    ) -> tuple[Words, int]:
        """The summand and how many values were clipped; `ParameterError` for what can never be summed."""
        ...

    def decode(self, total: Words, contributors: frozenset[ClientId]) -> Sum:
        """The sum; `RoundAborted` if it cannot have come from honest summands."""
        ...


def _check_vector(update: object, length: int) -> NDArray[Any]:
    if not isinstance(update, np.ndarray) or update.ndim != 1:
        kind = type(update).__name__
        shape = f" of shape {update.shape}" if isinstance(update, np.ndarray) else ""
        raise ParameterError(f"an update is a 1-D numpy array, not a {kind}{shape}")
    if len(update) != length:
        raise ParameterError(f"an update of {len(update)} values; this round sums {length}")
    return update


@dataclass(frozen=True, slots=True, kw_only=True)
class FloatSurface:
    """Weighted fixed-point numbers.

    Args:
        codec: the grid.
        max_clients: the most clients in a round.
        max_weight: the largest weight of one client.
        max_total_weight: the largest sum of weights in a round, at most max_clients·max_weight.
        metrics: (name, low, high) of each metric, in order of name.
    """

    codec: FixedPoint
    max_clients: int
    max_weight: int
    max_total_weight: int
    metrics: tuple[tuple[str, float, float], ...] = ()

    @property
    def ring(self) -> Ring:
        ring = self.codec.sum_ring(max_total_weight=self.max_total_weight)
        return Ring(bits=max(ring.bits, self.sum_bound.bit_length() + 1))

    @property
    def summand_bound(self) -> int:
        return self.max_weight * self.codec.largest_step

    @property
    def sum_bound(self) -> int:
        heaviest = self.max_clients * self.max_weight  # the sum of weights, before anybody can check it
        return max(self.max_total_weight * self.codec.largest_step, heaviest)

    @property
    def _metric_codec(self) -> FixedPoint:
        bits = min(self.codec.bits, METRIC_BITS)
        return FixedPoint(bits=bits, clip=1.0, rounding=Rounding.NEAREST)

    def check_length(self, length: int) -> None:
        self.codec.check_length(length)

    def elements(self, length: int) -> int:
        return length + len(self.metrics) + 1

    def check(self, update: Update, *, length: int, weight: int, metrics: Mapping[str, float]) -> None:
        values = self._check_form(update, length, weight)
        self._normalised(metrics)
        if not (finite := np.isfinite(values)).all():
            raise ParameterError(f"value {int(np.argmin(finite))} of the update is NaN or infinite")

    def _check_form(self, update: Update, length: int, weight: int) -> NDArray[Any]:
        values = _check_vector(update, length)
        if values.dtype not in (np.float32, np.float64):
            raise ParameterError(f"an update of {values.dtype}; float32 and float64 are summed")
        check_weight(weight, self.max_weight)
        return values

    def encode(
        self, update: Update, *, length: int, weight: int, metrics: Mapping[str, float], entropy: Entropy
    ) -> tuple[Words, int]:
        values, units = self._check_form(update, length, weight), self._normalised(metrics)
        weight = int(weight)
        words = np.empty(self.elements(length), dtype=self.ring.dtype)
        clipped = self.codec.encode(values, weight=weight, out=words[:length], entropy=entropy)
        if self.metrics:
            self._metric_codec.encode(units, weight=weight, out=words[length:-1], entropy=entropy)
        words[-1] = weight
        return words, clipped

    def _normalised(self, metrics: Mapping[str, float]) -> NDArray[np.float64]:
        """Each metric as a number in [-1, 1]; the names must be exactly the constructor's."""
        names = [name for name, _, _ in self.metrics]
        if set(metrics) != set(names):
            raise ParameterError(
                f"metrics {sorted(metrics)}; this protocol sums {names}, each in every round"
            )
        for name, low, high in self.metrics:
            value = metrics[name]
            if isinstance(value, bool) or not isinstance(value, int | float | np.floating | np.integer):
                raise ParameterError(f"metric {name!r} is a {type(value).__name__}; it must be a number")
            if not low <= value <= high:
                raise ParameterError(f"metric {name!r} is outside its declared range [{low}, {high}]")
        return np.array(
            [2 * (metrics[n] - low) / (high - low) - 1 for n, low, high in self.metrics], dtype=np.float64
        )

    def decode(self, total: Words, contributors: frozenset[ClientId]) -> Sum:
        length = len(total) - len(self.metrics) - 1
        tail = self.ring.centred(total[length:])
        total_weight = int(tail[-1])
        if not len(contributors) <= total_weight <= self.max_total_weight:
            raise RoundAborted(
                f"the total weight is outside [{len(contributors)}, {self.max_total_weight}]: "
                f"a contributor broke its cap, or max_total_weight is too small for this cohort"
            )
        mean = self.codec.decode(self.ring.centred(total[:length]), total_weight=total_weight)
        metrics: dict[str, float] = {}
        if self.metrics:
            units = self._metric_codec.decode(tail[:-1], total_weight=total_weight)
            metrics = {
                n: float(a + (u + 1) / 2 * (b - a)) for (n, a, b), u in zip(self.metrics, units, strict=True)
            }
        return Sum(mean, total_weight, contributors, metrics)


@dataclass(frozen=True, slots=True, kw_only=True)
class IntegerSurface:
    """uint64 vectors with values in [0, max_summand], summed exactly."""

    max_clients: int
    max_summand: int

    def __post_init__(self) -> None:
        if type(self.max_summand) is not int or self.max_summand < 1:
            raise ParameterError(f"max_summand is {self.max_summand!r}; it must be a positive integer")
        if (self.max_clients * self.max_summand).bit_length() > 63:
            raise ParameterError(
                f"{self.max_clients} summands of up to {self.max_summand} do not fit 63 bits: "
                f"lower max_summand or max_clients"
            )

    @property
    def ring(self) -> Ring:
        return Ring(bits=(self.max_clients * self.max_summand).bit_length())

    @property
    def summand_bound(self) -> int:
        return self.max_summand

    @property
    def sum_bound(self) -> int:
        return self.max_clients * self.max_summand

    def check_length(self, length: int) -> None:
        """Every length will do."""

    def elements(self, length: int) -> int:
        return length

    def check(self, update: Update, *, length: int, weight: int, metrics: Mapping[str, float]) -> None:
        values = _check_vector(update, length)
        if values.dtype != np.uint64:
            raise ParameterError(f"a summand of {values.dtype}; the integer surface takes uint64")
        if weight != 1 or metrics:
            raise ParameterError(
                "the integer surface has neither weights nor metrics; scale the summand yourself"
            )
        if int(values.max()) > self.max_summand:
            raise ParameterError(f"a value above max_summand = {self.max_summand}; nothing was sent")

    def encode(
        self, update: Update, *, length: int, weight: int, metrics: Mapping[str, float], entropy: Entropy
    ) -> tuple[Words, int]:
        self.check(update, length=length, weight=weight, metrics=metrics)
        return update.astype(self.ring.dtype), 0

    def decode(self, total: Words, contributors: frozenset[ClientId]) -> Sum:
        exact = self.ring.residues(total)
        if len(exact) and int(exact.max()) > len(contributors) * self.max_summand:
            raise RoundAborted(
                "a sum above what its contributors may add up to: a contributor broke max_summand"
            )
        return IntegerSum(exact / len(contributors), len(contributors), contributors, {}, exact)


def check_weight(weight: object, max_weight: int) -> int:
    """`weight`, if a client may have it; else a `ParameterError` that names the value to pass."""
    if isinstance(weight, np.integer):
        weight = int(weight)
    if type(weight) is not int:
        raise ParameterError(f"a weight is an int, not {type(weight).__name__}; for example an example count")
    if weight < 1:
        raise ParameterError(
            f"a weight of {weight}; weights are at least 1, leave the client out of the cohort"
        )
    if weight > max_weight:
        raise ParameterError(
            f"a weight of {weight} is above max_weight = {max_weight}; pass max_weight={weight}"
        )
    return weight
