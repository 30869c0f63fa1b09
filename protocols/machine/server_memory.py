"""What a server remembers between two messages, as it is saved. See `protocols.machine.server`."""

from dataclasses import dataclass
from enum import Enum
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray

from protocols.interface import IntegerSum, Sum
from protocols.messages.record import SignedRecord
from protocols.messages.schema import U8, U32, U64, Key32, Name, UpTo
from secagg.secret import Secret

__all__ = ["Ending", "Memory", "SavedSum", "Status"]

Reason = Annotated[str, UpTo(8192)]


class Status(Enum):
    """Where the machine stands; `value` is its code in a saved state."""

    IDLE = 0
    OPEN = 1
    DONE = 2
    ABORTED = 3


@dataclass(frozen=True, slots=True)
class SavedSum:
    """A `Sum` as it is saved; `total` is that of an `IntegerSum`, whose type is saved with it."""

    mean: NDArray[np.float64]
    total_weight: U64
    contributors: frozenset[Name]
    metric_names: tuple[Annotated[str, UpTo(4096)], ...]
    metric_values: NDArray[np.float64]
    total: NDArray[Any] | None
    round: U64

    @classmethod
    def of(cls, value: Sum, *, round: int) -> "SavedSum":
        names = tuple(value.metrics)
        total = value.total if isinstance(value, IntegerSum) else None
        numbers = np.array([value.metrics[name] for name in names], dtype=np.float64)
        return cls(value.mean, value.total_weight, value.contributors, names, numbers, total, round)

    def restore(self) -> Sum:
        metrics = dict(zip(self.metric_names, map(float, self.metric_values), strict=True))
        if self.total is None:
            return Sum(self.mean, self.total_weight, self.contributors, metrics, round=self.round)
        return IntegerSum(
            self.mean, self.total_weight, self.contributors, metrics, self.total, round=self.round
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """How the last round ended, as it is saved."""

    total: SavedSum | None
    result: bytes | None
    record: SignedRecord
    reason: Reason


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """Everything that a server remembers, as it is saved."""

    signing_key: Secret
    roster: tuple[tuple[Name, Key32], ...]
    session: Annotated[bytes, UpTo(64)]
    rounds: U64
    cohort: tuple[Name, ...]
    length: U64
    model: bytes
    status: U8
    exchange: U8
    expected: frozenset[Name]
    answered: dict[Name, Key32]
    seen: frozenset[tuple[Name, Key32]]
    seen_before: frozenset[tuple[Name, Key32]]
    dropped: dict[Name, Reason]
    culprits: frozenset[Name]
    ever_culprits: frozenset[Name]
    seen_sums: dict[bytes, tuple[frozenset[Name], ...]]
    put_off: U32
    contributors: frozenset[Name]
    transcript: Key32
    results: dict[U64, bytes]
    owed: dict[Name, tuple[U64, ...]]
    carried: dict[Name, tuple[U64, ...]]
    ending: Ending | None
    state_kind: U8
    state: Secret
