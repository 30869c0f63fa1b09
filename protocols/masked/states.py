"""What a client of MaskedSum knows at each moment of a round, and no more. See `client` for the steps."""

from dataclasses import dataclass
from typing import Final

from protocols.masked.dealing import FirstDealing
from protocols.masked.epoch import Epoch, Prepared
from protocols.masked.keys import EpochKeys
from protocols.masked.messages import (
    AdvertiseKeys,
)
from protocols.messages.schema import U32, U64, Key32, Name
from secagg.errors import PeerViolation
from secagg.secret import Secret

__all__ = [
    "FROM_SERVER",
    "Active",
    "Advertised",
    "Collecting",
    "Confirmed",
    "Dealt",
    "Idle",
    "Masked",
    "Ready",
    "View",
    "require_enough",
]

FROM_SERVER: Final = "server"


@dataclass(frozen=True, slots=True)
class View:
    """A client's place in the epoch, and the policies of the neighbours whose shares it will hold."""

    epoch: Epoch
    me: U32
    minima: dict[U32, U32]

    @property
    def neighbours(self) -> tuple[int, ...]:
        return self.epoch.graph.neighbours(self.me)

    def least(self, survivors: set[int]) -> int:
        """Without how many survivors this client reveals nothing."""
        # A server that splits views could tell a holder that its strict neighbour is lost.
        listed = self.minima.keys() if self.epoch.splits else survivors | {self.me}
        strict = max(minimum for place, minimum in self.minima.items() if place in listed)
        return max(self.epoch.least, self.epoch.survivors_for(strict))


@dataclass(frozen=True, slots=True)
class Idle:
    """Outside a round, with nothing prepared: no secret at all."""


@dataclass(frozen=True, slots=True)
class Ready:
    """Between rounds, with the next one prepared."""

    view: View
    prepared: Prepared


@dataclass(frozen=True, slots=True)
class Advertised:
    """After AdvertiseKeys."""

    cohort: tuple[Name, ...]
    length: U64
    secrets: EpochKeys
    mine: AdvertiseKeys


@dataclass(frozen=True, slots=True)
class Dealt:
    """After ShareKeys: the neighbours' keys, and what was dealt to them."""

    view: View
    length: U64
    secrets: EpochKeys
    keys: dict[U32, tuple[Key32, Key32]]
    dealing: FirstDealing


@dataclass(frozen=True, slots=True)
class Active:
    """Who takes part in a round, and what binds it."""

    origin: U64
    length: U64
    places: frozenset[U32]
    transcript: Key32
    model: Key32


@dataclass(frozen=True, slots=True)
class Collecting:
    """Asked for the update: the mask seeds are derived and what they came from is gone."""

    view: View
    active: Active
    held: dict[U32, Secret]
    chains: dict[U32, Secret]
    add: tuple[Secret, ...]
    subtract: tuple[Secret, ...]


@dataclass(frozen=True, slots=True)
class Masked:
    """After MaskedInput: only shares and channels are left."""

    view: View
    active: Active
    held: dict[U32, Secret]
    chains: dict[U32, Secret]


@dataclass(frozen=True, slots=True)
class Confirmed:
    """After ConsistencyCheck: the one survivor set that this client signed."""

    masked: Masked
    survivors: frozenset[U32]


def require_enough(view: View, places: frozenset[int], what: str) -> None:
    """Refuses sets that are too small as a whole, or around this client."""
    if len(places) < (least := view.least(set(places))):
        raise PeerViolation(f"{len(places)} clients {what}; {least} are needed", culprit=FROM_SERVER)
    near = len(view.epoch.among(view.neighbours, places))
    if near < view.epoch.least_neighbours:
        raise PeerViolation(
            f"{near} neighbours {what}; {view.epoch.least_neighbours} are needed", culprit=FROM_SERVER
        )
