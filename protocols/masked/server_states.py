"""What the server of MaskedSum keeps while each exchange is open. See `server` for the steps."""

from dataclasses import dataclass, field
from typing import Any, TypeAlias

from numpy.typing import NDArray

from protocols.masked.epoch import Epoch
from protocols.masked.messages import (
    AdvertiseKeys,
)
from protocols.masked.relay import Dealings
from protocols.messages.schema import U32, Key32, Name, Signature

__all__ = ["Advertising", "Confirming", "Idle", "Sharing", "Standing", "Summing", "Unmasking"]


@dataclass(frozen=True, slots=True)
class Standing:
    """An epoch that may go on: what everybody dealt for the next round."""

    epoch: Epoch
    minima: dict[U32, U32]
    dealings: Dealings


Accusers: TypeAlias = dict[Name, frozenset[Name]]
"""By dealer, who ever complained of its shares in this session."""


@dataclass(frozen=True, slots=True)
class Idle:
    """Between rounds."""

    standing: Standing | None = None
    accusers: Accusers = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Advertising:
    """AdvertiseKeys is open: the keys so far (U_1). Filled in place."""

    accusers: Accusers
    keys: dict[Name, AdvertiseKeys] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Sharing:
    """ShareKeys is open: the dealings so far (U_2). Filled in place."""

    accusers: Accusers
    epoch: Epoch
    minima: dict[U32, U32]
    dealings: Dealings


@dataclass(frozen=True, slots=True)
class Summing:
    """MaskedInput is open: the sum of masked vectors so far (U_3). Filled in place.

    `active` are the places of those whose masks are in the vectors, `expected` the hashes of the shares that
    each of them holds, `guilty` those who were shown to have dealt a wrong pair secret.
    """

    accusers: Accusers
    epoch: Epoch
    minima: dict[U32, U32]
    dealings: Dealings
    active: frozenset[U32]
    expected: dict[U32, bytes]
    transcript: Key32
    total: NDArray[Any]
    unopened: dict[U32, frozenset[U32]]
    inputs: dict[U32, Signature]
    guilty: frozenset[U32] = frozenset()


@dataclass(frozen=True, slots=True)
class Confirming:
    """ConsistencyCheck is open: signatures on the survivors. Filled in place."""

    sum: Summing
    survivors: frozenset[U32]
    statement: bytes
    signatures: dict[U32, Signature]


@dataclass(frozen=True, slots=True)
class Unmasking:
    """Unmask is open: what was revealed so far, and what was dealt for the next round. Filled in place."""

    sum: Summing
    survivors: frozenset[U32]
    revealed: dict[U32, bytes] = field(repr=False)
    following: Dealings
