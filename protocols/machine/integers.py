"""The integer surfaces: for callers that bring integers of their own, and want their exact sum.

Under `IntegerSurface` the ring holds the largest possible sum: nothing wraps around, and a sum that its
contributors cannot have added up to is refused by whoever decodes it, as on floats (D2).

Under `ModularSurface` sums are taken modulo 2**bits. It is for integers with noise in them, whose tails
would cost room in the ring. **Nothing is refused there after opening**: all its elements are possible sums.

>>> from protocols import MaskedSum, simulate
>>> summands = {name: np.array([value, -value]) for name, value in [("a", 5), ("b", 100), ("c", -1)]}
>>> simulate(MaskedSum(max_clients=3).exact(max_abs=100), summands).sum.total.tolist()
[104, -104]
>>> simulate(MaskedSum(max_clients=3).modular(bits=7), summands).sum.total.tolist()  # in [-64, 64)
[-24, 24]
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from protocols.identity import ClientId
from protocols.interface import IntegerSum, Sum, Update
from protocols.machine.summand import Summand, Total, Words, check_vector
from secagg.entropy import Entropy
from secagg.errors import ParameterError, RoundAborted
from secagg.numbers import plain_fields
from secagg.vectors.ring import BLOCK_VALUES, Ring

__all__ = ["IntegerSurface", "ModularSurface", "check_one"]

SUM_BITS: Final = 63
"""The widest sums that do not wrap around, with their sign."""
MODULAR_BITS: Final = 62
"""The widest sums that wrap around."""


class _IntegerSummand(Summand):
    """Integers as they are; words keep their low bits, which are those modulo 2**bits."""

    def __init__(self, ring: Ring, values: NDArray[Any]) -> None:
        super().__init__(ring, len(values))
        self._values = values

    def _write(self, start: int, block: Words) -> None:
        block[:] = self._values[start : start + len(block)]


@dataclass(frozen=True, slots=True, kw_only=True)
class IntegerSurface:
    """Integers of a declared range, summed exactly: one of the two ranges.

    Args:
        max_clients: the most clients in a round.
        max_summand: summands are uint64 in [0, max_summand], totals uint64.
        max_abs: summands are int64 in [-max_abs, max_abs], totals int64.

    Raises:
        ParameterError: none of the two bounds, both, or one whose largest sum does not fit a ring.
    """

    max_clients: int
    max_summand: int | None = None
    max_abs: int | None = None

    def __post_init__(self) -> None:
        plain_fields(self, "max_summand", "max_abs")
        check_one(max_summand=self.max_summand, max_abs=self.max_abs)
        given = self.max_abs if self.signed else self.max_summand
        if type(given) is not int or given < 1:
            raise ParameterError(f"{self._bound} is {given!r}; it must be a positive integer")
        if self._bits > SUM_BITS:
            raise ParameterError(
                f"{self.max_clients} summands of up to {self._most} do not fit {SUM_BITS} bits: "
                f"lower {self._bound} or max_clients"
            )

    @property
    def _bound(self) -> str:
        """The name of the bound, for what is said of it."""
        return "max_abs" if self.signed else "max_summand"

    @property
    def _most(self) -> int:
        return self.max_abs or self.max_summand or 0  # one of the two is there, and it is positive

    @property
    def _bits(self) -> int:
        return self.sum_bound.bit_length() + (1 if self.signed else 0)

    @property
    def _dtype(self) -> np.dtype[Any]:
        return np.dtype(np.int64 if self.signed else np.uint64)

    @property
    def ring(self) -> Ring:
        return Ring(bits=self._bits)

    @property
    def summand_bound(self) -> int:
        return self._most

    @property
    def sum_bound(self) -> int:
        return self.max_clients * self._most

    @property
    def signed(self) -> bool:
        return self.max_abs is not None

    @property
    def wraps(self) -> bool:
        return False

    def check_length(self, length: int) -> None:
        """Every length will do."""

    def elements(self, length: int) -> int:
        return length

    def check(self, update: Update, *, length: int, weight: int, metrics: Mapping[str, float]) -> None:
        values = _check_integers(
            update, length, dtype=self._dtype, bound=self._bound, weight=weight, metrics=metrics
        )
        if int(values.max()) > self._most or int(values.min()) < -self._most:
            where = "outside ±" if self.signed else "above "
            raise ParameterError(f"a value {where}{self._bound} = {self._most}; nothing was sent")

    def encode(
        self, update: Update, *, length: int, weight: int, metrics: Mapping[str, float], entropy: Entropy
    ) -> Summand:
        self.check(update, length=length, weight=weight, metrics=metrics)
        return _IntegerSummand(self.ring, update)

    def decode(self, total: Total, contributors: frozenset[ClientId]) -> Sum:
        exact = _integers(total, read=self.ring.centred if self.signed else self.ring.residues)
        most = len(contributors) * self._most
        if len(exact) and (int(exact.max()) > most or int(exact.min()) < -most):
            raise RoundAborted(
                f"a sum {'outside' if self.signed else 'above'} what its contributors may add up to: "
                f"a contributor broke {self._bound}",
                opened=contributors,
            )
        return IntegerSum(exact / len(contributors), len(contributors), contributors, {}, exact)


@dataclass(frozen=True, slots=True, kw_only=True)
class ModularSurface:
    """int64 of any size, summed modulo 2**bits; totals are int64, read in [-2**(bits-1), 2**(bits-1)).

    Noise has tails, and room for the tails of all clients costs bits on the wire. Here a sum that leaves the
    range comes out on the other side of it; who chooses `bits` chooses how often. That costs accuracy and no
    privacy: wrapping around is what anybody could do with the true sum.

    **Nothing is checked when a sum is opened** (D2): every element of the ring is a possible sum, so one
    contributor can move it anywhere, and nobody notices. `IntegerSurface` refuses what its contributors
    cannot have added up to.

    Args:
        bits: of one value on the wire, in [2, 62].

    Raises:
        ParameterError: bits is anything else.
    """

    bits: int

    def __post_init__(self) -> None:
        plain_fields(self, "bits")
        if type(self.bits) is not int or not 2 <= self.bits <= MODULAR_BITS:
            raise ParameterError(
                f"sums modulo 2**bits with bits {self.bits!r}; bits is an integer in [2, {MODULAR_BITS}]"
            )

    @property
    def ring(self) -> Ring:
        return Ring(bits=self.bits)

    @property
    def summand_bound(self) -> int:
        return 1 << (self.bits - 1)

    @property
    def sum_bound(self) -> int:
        return 1 << (self.bits - 1)

    @property
    def signed(self) -> bool:
        return True

    @property
    def wraps(self) -> bool:
        return True

    def check_length(self, length: int) -> None:
        """Every length will do."""

    def elements(self, length: int) -> int:
        return length

    def check(self, update: Update, *, length: int, weight: int, metrics: Mapping[str, float]) -> None:
        _check_integers(
            update,
            length,
            dtype=np.dtype(np.int64),
            bound="sums modulo 2**bits",
            weight=weight,
            metrics=metrics,
        )

    def encode(
        self, update: Update, *, length: int, weight: int, metrics: Mapping[str, float], entropy: Entropy
    ) -> Summand:
        self.check(update, length=length, weight=weight, metrics=metrics)
        return _IntegerSummand(self.ring, update)

    def decode(self, total: Total, contributors: frozenset[ClientId]) -> Sum:
        exact = _integers(total, read=self.ring.centred)
        return IntegerSum(exact / len(contributors), len(contributors), contributors, {}, exact)


def check_one(**bounds: int | None) -> None:
    """Exactly one of these bounds is given; `ParameterError` says which are and what each is for."""
    given = [name for name, value in bounds.items() if value is not None]
    if len(given) != 1:
        raise ParameterError(
            f"an integer surface with {' and '.join(given) or 'no bound'}: give one, exact(max_summand=…) "
            "for uint64 summands from 0 on, or exact(max_abs=…) for int64 summands of either sign"
        )


def _check_integers(
    update: object,
    length: int,
    *,
    dtype: np.dtype[Any],
    bound: str,
    weight: int,
    metrics: Mapping[str, float],
) -> NDArray[Any]:
    """A vector of this type, without weight and metrics."""
    values = check_vector(update, length)
    if values.dtype != dtype:
        raise ParameterError(f"a summand of {values.dtype}; the integer surface with {bound} takes {dtype}")
    if weight != 1 or metrics:
        raise ParameterError(
            "the integer surface has neither weights nor metrics; scale the summand yourself"
        )
    return values


def _integers(total: Total, *, read: Callable[[Words], NDArray[Any]]) -> NDArray[Any]:
    """The representatives of all elements of a sum, as `Ring.centred` or `Ring.residues` reads them."""
    exact = np.empty(len(total), dtype=read(total[:0]).dtype)
    for start in range(0, len(total), BLOCK_VALUES):
        stop = min(start + BLOCK_VALUES, len(total))
        exact[start:stop] = read(total[start:stop])
    return exact
