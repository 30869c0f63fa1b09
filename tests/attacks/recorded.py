"""What an adversary that records everything has of several rounds of MaskedSum, in the order of an attack.

`Recorder` plays honest rounds with a curious server and keeps, for each, the server's view, the public keys
of the epoch, all dealings with their sealed shares, and all masked vectors. `Blob` is one sealed thing with
what it is bound to; `opened_by` tries keys on all of them. Nothing here is weakened.
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from protocols.masked.dealing import sealed_context
from protocols.masked.messages import SEALED_BYTES, AdvertiseKeys, MaskedInput, ShareKeys, Unmask, columns
from secagg.errors import VerificationError
from secagg.secret import Secret
from secagg.standard.aead import open_sealed
from tests.attacks.weakened import Stage, Vector


@dataclass(frozen=True)
class Blob:
    """Something sealed: a dealer's two shares for a holder, or a dealer's own pair secrets (no holder)."""

    round: int
    dealer: str
    holder: str
    sealed: bytes = field(repr=False)
    associated: bytes = field(repr=False)

    def open(self, key: Secret) -> Secret | None:
        """What is inside, if this key opens it."""
        with suppress(VerificationError):
            return open_sealed(key, self.sealed, associated_data=self.associated)
        return None


@dataclass(frozen=True)
class Recorded:
    """One round.

    Attributes:
        view: what the server knows of the sum (`Stage.summing`).
        keys: the epoch's advertised keys.
        dealt: the dealings that this round used.
        vectors: the masked vectors, packed.
        unmasked: what was revealed.
    """

    number: int
    view: Any
    keys: Mapping[str, AdvertiseKeys]
    dealt: Mapping[str, ShareKeys]
    vectors: Mapping[str, Any]
    unmasked: Mapping[str, Unmask]

    @property
    def bound(self) -> bytes:
        """What all hashes and seals of this round's dealings are bound to."""
        context: bytes = self.view.epoch.context(self.view.dealings.origin)
        return context

    def near(self, client: str) -> tuple[str, ...]:
        """To whom a client dealt."""
        epoch = self.view.epoch
        places = epoch.graph.neighbours(epoch.members.index(client))
        return tuple(epoch.cohort[place] for place in epoch.among(places, self.view.dealings.present))

    def blobs(self) -> Iterator[Blob]:
        """Everything sealed that this round used."""
        place = self.view.epoch.members.index
        for dealer, dealing in self.dealt.items():
            pieces = columns(dealing.sealed, SEALED_BYTES)
            for holder, sealed in zip(self.near(dealer), pieces, strict=True):
                associated = sealed_context(self.bound, dealer=place(dealer), holder=place(holder))
                yield Blob(self.number, dealer, holder, sealed, associated)
            yield Blob(self.number, dealer, "", dealing.pairs, self.bound)


class Recorder:
    """Plays rounds on a stage with a `Curious` server and keeps what was on the wire."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self.rounds: list[Recorded] = []

    def play(self, updates: Mapping[str, Vector], **spoilt: Any) -> Recorded:
        """One round to its end; arguments are those of `Stage.open`."""
        stage = self.stage
        stage.play(updates, **spoilt)
        keys = stage.answers(0, AdvertiseKeys)
        dealt = stage.answers(1, ShareKeys)
        if not keys:
            before = self.rounds[-1]
            keys = dict(before.keys)
            dealt = {client: answer.next for client, answer in before.unmasked.items()}
        vectors = {client: each.vector for client, each in stage.answers(2, MaskedInput).items()}
        unmasked = stage.answers(stage.unmasking, Unmask)
        self.rounds.append(Recorded(stage.number, stage.summing, keys, dealt, vectors, unmasked))
        return self.rounds[-1]

    def opened_by(self, keys: Iterable[Secret]) -> set[Blob]:
        """What any of these keys opens, of all rounds."""
        blobs = [blob for each in self.rounds for blob in each.blobs()]
        return {blob for key in keys for blob in blobs if blob.open(key) is not None}
