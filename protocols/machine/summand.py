"""From an update to the integers that are summed, and from their sum back: surfaces, and that of floats.

Every protocol sums integer vectors modulo 2**bits. `FloatSurface` puts `FixedPoint` on top: a client's
vector is (w·x_1, …, w·x_d, w·metric_1, …, w), each product rounded. So weights are exact integers inside the
sum, a small hospital loses no precision (ATTACKS B8), and nobody's example count divides what it adds (D3).
`protocols.machine.integers` is the level below, for callers that bring integers of their own.

Overflow is excluded when a surface is built: the ring holds the largest possible sum with its sign. A client
that lies is not bound by that, and what it sends cannot be looked at; but a sum beyond what its total weight
allows is refused by whoever decodes it (D2).
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from protocols.identity import ClientId
from protocols.interface import Sum, Update
from secagg.entropy import Entropy
from secagg.errors import ParameterError, RoundAborted
from secagg.numbers import is_number, plain
from secagg.vectors.fixedpoint import Encoder, FixedPoint, Rounding
from secagg.vectors.ring import BLOCK_VALUES, Ring

__all__ = ["FloatSurface", "Summand", "Surface", "Total", "Words", "check_vector", "check_weight"]

Words: TypeAlias = NDArray[Any]
"""A vector of ring elements in `Ring.dtype`."""


class Total(Protocol):
    """A vector of sums over a ring that is read in slices: an array, or one that is cut from wider words."""

    def __len__(self) -> int: ...

    def __getitem__(self, part: slice, /) -> Words: ...


METRIC_BITS = 16


class Summand(ABC):
    """One client's vector of ring elements, made block by block so that it stays in the cache.

    Attributes:
        elements: how many there are.
        clipped: how many values were clipped in the blocks made so far.
    """

    clipped: int = 0

    def __init__(self, ring: Ring, elements: int) -> None:
        self._ring = ring
        self.elements = elements

    def blocks(self, padding: int = 0, *, size: int = BLOCK_VALUES) -> Iterator[Words]:
        """Blocks of `size` elements, the last one shorter, each in the memory of the one before.

        Args:
            padding: zeros behind the last element, for what a protocol adds of its own.
        """
        count = self.elements + padding
        buffer = np.empty(min(size, count), dtype=self._ring.dtype)
        for start in range(0, count, size):
            block = buffer[: min(size, count - start)]
            own = min(max(self.elements - start, 0), len(block))
            if own:
                self._write(start, block[:own])
            block[own:] = 0
            yield block

    def integers(self) -> NDArray[np.int64]:
        """All elements, as signed integers."""
        vector = np.empty(self.elements, dtype=np.int64)
        for index, block in enumerate(self.blocks()):
            start = index * BLOCK_VALUES
            vector[start : start + len(block)] = self._ring.centred(block)
        return vector

    @abstractmethod
    def _write(self, start: int, block: Words) -> None:
        """Fills `block` with the elements from `start` on."""


class _FloatSummand(Summand):
    """Fixed-point values, then a tail of metrics and the weight."""

    def __init__(
        self,
        ring: Ring,
        *,
        codec: FixedPoint,
        values: NDArray[Any],
        weight: int,
        tail: Words,
        entropy: Entropy,
    ) -> None:
        super().__init__(ring, len(values) + len(tail))
        self._values, self._tail = values, tail
        self._encoder = Encoder(codec, weight=weight, entropy=entropy)

    def _write(self, start: int, block: Words) -> None:
        stop = min(start + len(block), len(self._values))
        count = max(stop - start, 0)
        if count:
            self.clipped += self._encoder.encode(self._values[start:stop], start=start, out=block[:count])
        skipped = max(start - len(self._values), 0)
        block[count:] = self._tail[skipped : skipped + len(block) - count]


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
    ) -> "Summand":
        """The update as ring elements; `ParameterError` for what can never be summed."""
        ...

    @property
    def signed(self) -> bool:
        """Whether sums are signed."""
        ...

    @property
    def wraps(self) -> bool:
        """Whether sums wrap around in the ring; if not, they fit it."""
        ...

    def decode(self, total: Total, contributors: frozenset[ClientId]) -> Sum:
        """The sum; `RoundAborted` with `opened=contributors` if it cannot have come from honest summands."""
        ...


def check_vector(update: object, length: int) -> NDArray[Any]:
    """An update as a plain array; `ParameterError` if it is no vector of this length."""
    if not isinstance(update, np.ndarray) or update.ndim != 1:
        kind = type(update).__name__
        shape = f" of shape {update.shape}" if isinstance(update, np.ndarray) else ""
        raise ParameterError(f"an update is a 1-D numpy array, not a {kind}{shape}")
    if len(update) != length:
        raise ParameterError(f"an update of {len(update)} values; this round sums {length}")
    return np.asarray(update)  # a masked array would hide its NaN


@dataclass(frozen=True, slots=True, kw_only=True)
class FloatSurface:
    """Weighted fixed-point numbers.

    Args:
        codec: the grid.
        max_clients: the most clients in a round.
        max_weight: the largest weight of one client.
        max_total_weight: the largest sum of weights in a round, at most max_clients·max_weight; checked when
            a sum is decoded.
        ring_weight: the largest sum of weights that the ring has room for, at least max_total_weight.
        metrics: (name, low, high) of each metric, in order of name.
    """

    codec: FixedPoint
    max_clients: int
    max_weight: int
    max_total_weight: int
    ring_weight: int
    metrics: tuple[tuple[str, float, float], ...] = ()

    @property
    def ring(self) -> Ring:
        ring = self.codec.sum_ring(max_total_weight=self.ring_weight)
        return Ring(bits=max(ring.bits, self.sum_bound.bit_length() + 1))

    @property
    def summand_bound(self) -> int:
        return self.max_weight * self.codec.largest_step

    @property
    def sum_bound(self) -> int:
        heaviest = self.max_clients * self.max_weight  # the sum of weights, before anybody can check it
        return max(self.ring_weight * self.codec.largest_step, heaviest)

    @property
    def _metric_codec(self) -> FixedPoint:
        bits = min(self.codec.bits, METRIC_BITS)
        return FixedPoint(bits=bits, clip=1.0, rounding=Rounding.NEAREST)

    def check_length(self, length: int) -> None:
        self.codec.check_length(length)

    def elements(self, length: int) -> int:
        return length + len(self.metrics) + 1

    def check(self, update: Update, *, length: int, weight: int, metrics: Mapping[str, float]) -> None:
        values = check_vector(update, length)
        if values.dtype not in (np.float32, np.float64):
            raise ParameterError(f"an update of {values.dtype}; float32 and float64 are summed")
        if check_weight(weight, self.max_weight) > self.max_total_weight:
            raise ParameterError(
                f"a weight of {weight} is above max_total_weight = {self.max_total_weight}; raise it"
            )
        self._normalised(metrics)
        if not (np.isfinite(values.min()) and np.isfinite(values.max())):  # NaN is the minimum of its vector
            index = int(np.argmin(np.isfinite(values)))
            raise ParameterError(f"the value at index {index} is NaN or infinite; repair the update first")

    def encode(
        self, update: Update, *, length: int, weight: int, metrics: Mapping[str, float], entropy: Entropy
    ) -> Summand:
        self.check(update, length=length, weight=weight, metrics=metrics)
        ring, weight = self.ring, int(weight)
        tail = np.empty(len(self.metrics) + 1, dtype=ring.dtype)
        if self.metrics:
            units = self._normalised(metrics)
            self._metric_codec.encode(units, weight=weight, out=tail[:-1], entropy=entropy)
        tail[-1] = weight
        values = np.asarray(update)
        return _FloatSummand(ring, codec=self.codec, values=values, weight=weight, tail=tail, entropy=entropy)

    def _normalised(self, metrics: Mapping[str, float]) -> NDArray[np.float64]:
        """Each metric as a number in [-1, 1]; the names must be exactly the constructor's."""
        names = [name for name, _, _ in self.metrics]
        if not isinstance(metrics, Mapping):
            raise ParameterError(f"metrics is a {type(metrics).__name__}; it maps each name to its number")
        if set(metrics) != set(names):
            raise ParameterError(
                f"metrics {sorted(metrics)}; this protocol sums {names}, each in every round"
            )
        for name, low, high in self.metrics:
            value = plain(metrics[name])
            if not is_number(value):
                raise ParameterError(f"metric {name!r} is a {type(value).__name__}; it must be a number")
            if not low <= value <= high:
                raise ParameterError(f"metric {name!r} is outside its declared range [{low}, {high}]")
        return np.array(
            [2 * (plain(metrics[n]) - low) / (high - low) - 1 for n, low, high in self.metrics],
            dtype=np.float64,
        )

    @property
    def signed(self) -> bool:
        return True

    @property
    def wraps(self) -> bool:
        return False

    def decode(self, total: Total, contributors: frozenset[ClientId]) -> Sum:
        length = len(total) - len(self.metrics) - 1
        tail = self.ring.centred(total[length:])
        count, total_weight = len(contributors), int(tail[-1])
        heaviest = min(self.max_total_weight, count * self.max_weight)
        if not count <= total_weight <= heaviest:
            raise RoundAborted(
                f"the total weight is outside [{count}, {heaviest}]: "
                f"a contributor broke its cap, or max_total_weight is too small for this cohort",
                opened=contributors,
            )
        most = total_weight * self._metric_codec.largest_step
        for (name, _, _), units in zip(self.metrics, tail[:-1].tolist(), strict=True):
            if abs(units) > most:
                raise _beyond(f"the sum of metric {name!r}", contributors, "its range")
        mean = self._mean(total, length, total_weight, contributors)
        metrics: dict[str, float] = {}
        if self.metrics:
            means = self._metric_codec.decode(tail[:-1], total_weight=total_weight)
            metrics = {
                n: float(a + (u + 1) / 2 * (b - a)) for (n, a, b), u in zip(self.metrics, means, strict=True)
            }
        return Sum(mean, total_weight, contributors, metrics)

    def _mean(
        self, total: Total, length: int, total_weight: int, contributors: frozenset[ClientId]
    ) -> NDArray[np.float64]:
        """The weighted mean, block by block: beside the result a block of integers is all that it takes."""
        self.codec.check_length(length)
        ring, most = self.ring, total_weight * self.codec.largest_step
        mean = np.empty(length, dtype=np.float64)
        for start in range(0, length, BLOCK_VALUES):
            stop = min(start + BLOCK_VALUES, length)
            codec, block = self.codec.part(start, stop), ring.centred(total[start:stop])
            if int(block.max()) > most or int(block.min()) < -most:
                raise _beyond("a value of the sum", contributors, "the clip")
            mean[start:stop] = codec.decode(block, total_weight=total_weight)
        return mean


def _beyond(what: str, contributors: frozenset[ClientId], limit: str) -> RoundAborted:
    return RoundAborted(
        f"{what} is beyond what {len(contributors)} contributors of the total weight may add up to within "
        f"{limit}: a contributor broke {limit}",
        opened=contributors,
    )


def check_weight(weight: object, max_weight: int) -> int:
    """`weight`, if a client may have it; else a `ParameterError` that names the value to pass."""
    weight = plain(weight)
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
