"""What an engine's transport is to the server's half, and how long that waits for it."""

import math
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, fields
from typing import Any, Final, Protocol, TypeAlias

from fl_integration.embedding.parcels import Parcel
from secagg.errors import ParameterError
from secagg.numbers import is_number, plain_fields

__all__ = ["Carrier", "Node", "Patience", "Ticket", "Undelivered", "Wait", "check_seconds"]

_SLOWER: Final = 1.3
"""How much longer each pause between two looks is: a dozen looks in the first second, then two a second."""

Ticket: TypeAlias = str
"""A carrier's name for one parcel that is under way."""

Node: TypeAlias = bytes
"""An engine's name for a node, as bytes."""


@dataclass(frozen=True, slots=True)
class Undelivered:
    """There will be no answer, and why."""

    reason: str


class Carrier(Protocol):
    """An engine's transport."""

    def nodes(self) -> Collection[Node]:
        """The nodes that are there now."""
        ...  # a Protocol's signature

    def push(self, parcels: Mapping[Node, Parcel], *, seconds: float) -> Mapping[Node, Ticket]:
        """Sends parcels; a node without a ticket could not be reached. After `seconds` nobody waits."""
        ...  # a Protocol's signature

    def pull(self, tickets: Collection[Ticket]) -> Mapping[Ticket, Parcel | Undelivered]:
        """The answers that are there, each once."""
        ...  # a Protocol's signature


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """How long the coordinator waits; all in seconds.

    Attributes:
        exchange: for an exchange in which nobody trains.
        hello: for a node that was not met before.
        connect: for as many members as the smallest cohort needs, before a round is tried without them.
        again: before a node that was turned away, or did not answer its greeting, is greeted again.
        first_look, last_look: between two looks for answers, from the first to the longest.

    Raises:
        ParameterError: one of them is no finite number above zero. Nobody is waited for without an end.
    """

    exchange: float = 180.0
    hello: float = 90.0
    connect: float = 600.0
    again: float = 30.0
    first_look: float = 0.02
    last_look: float = 0.5

    def __post_init__(self) -> None:
        names = [each.name for each in fields(self)]
        plain_fields(self, *names)
        for name in names:
            check_seconds(f"patience.{name}", getattr(self, name))


def check_seconds(name: str, seconds: Any) -> None:
    """Returns if `seconds` is a finite number above zero.

    Raises:
        ParameterError: it is anything else.
    """
    if not is_number(seconds) or not 0 < float(seconds) < math.inf:
        raise ParameterError(f"{name} is {seconds!r}; it is seconds: a finite number above zero")


@dataclass(slots=True)
class Wait:
    """Looks for answers that come in bunches: soon at first and behind each answer, then ever later.

    Args:
        patience: how soon, how late.
        monotonic, pause: a clock for deadlines; waits so many seconds.
    """

    patience: Patience
    monotonic: Callable[[], float] = time.monotonic
    pause: Callable[[float], None] = time.sleep
    _next: float = 0.0

    def again(self, *, found: bool) -> None:
        """Waits until the next look; `found` says whether the last one found anything."""
        self._next = self.patience.first_look if found else min(_SLOWER * self._next, self.patience.last_look)
        self._next = max(self._next, self.patience.first_look)
        self.pause(self._next)
