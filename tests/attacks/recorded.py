"""What an adversary that records everything has of several rounds of MaskedSum, in the order of an attack.

`Recorder` plays honest rounds with a curious server and keeps, for each, the server's view, the public keys
of the epoch, all dealings with their sealed shares, and all masked vectors. `Blob` is one sealed thing with
what it is bound to; `opened_by` tries keys on all of them, and `every_key` makes keys from a secret. Nothing
here is weakened.
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from protocols.machine.channels import first_seal_key, ratchet
from protocols.masked.dealing import sealed_context
from protocols.masked.keys import MaskKeys
from protocols.masked.messages import SEALED_BYTES, AdvertiseKeys, MaskedInput, ShareKeys, Unmask, columns
from secagg import labels
from secagg.errors import VerificationError
from secagg.secret import Secret
from secagg.standard.aead import open_sealed
from secagg.standard.agreement import PrivateKey
from secagg.standard.kdf import hkdf
from secagg.standard.kem import CIPHERTEXT_BYTES, SEED_BYTES, DecapsulationKey
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


def every_key(recorder: Recorder, client: str, secret: Secret) -> Iterator[Secret]:
    """Whatever the library derives from secrets, from this one, in every place and for every round."""
    mask = MaskKeys(secret)
    seed = hkdf(secret, label=labels.MASK_ENCAPSULATION, size=SEED_BYTES).reveal()
    roots = [secret, hkdf(secret, label=labels.MASK_KEY), Secret(seed[:32]), Secret(seed[32:])]
    first = recorder.rounds[0]
    epoch = first.view.epoch
    for root in roots:
        for label in (value for value in vars(labels).values() if isinstance(value, bytes)):
            for context in (b"", epoch.digest, *(each.bound for each in recorder.rounds)):
                yield hkdf(root, label=label, context=context)
    for peer in first.near(client):
        # As if its mask keys were its channel keys.
        ciphertexts = columns(first.dealt[peer].encapsulations, CIPHERTEXT_BYTES)
        yield from (mask.encapsulation.decapsulate(each) for each in ciphertexts)
        for key in (first.keys[peer].channel_key, first.keys[peer].mask_key):
            with suppress(VerificationError):  # a copy of its own key (D6)
                roots.append(mask.agreement.agree(key))
    for root in roots:
        yield root
        for each in recorder.rounds:  # and as if any of these were a link of a chain
            link = ratchet(root, epoch=epoch.digest, origin=each.number)
            yield from (link.pair_secret, *link.seals, link.following)


def first_seal_of(played: Recorded, dealer: str, holder: str, channel: Secret, seed: Secret) -> Secret:
    """The key under which `dealer` sealed its first shares to `holder`, from the holder's channel keys."""
    place = played.view.epoch.members.index
    ciphertexts = columns(played.dealt[dealer].encapsulations, CIPHERTEXT_BYTES)
    ciphertext = ciphertexts[played.near(dealer).index(holder)]
    return first_seal_key(
        PrivateKey(channel).agree(played.keys[dealer].channel_key),
        DecapsulationKey(seed).decapsulate(ciphertext),
        ciphertext,
        epoch=played.view.epoch.digest,
        dealer=place(dealer),
        holder=place(holder),
    )
