"""What the server keeps of the dealings, and which of their columns go to whom.

A dealing is columns: one piece for each neighbour that was there when it was made. The server never looks
into them; it checks that they have the right size and their maker's signature, and hands each holder its
slices.
"""

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Final

from protocols.masked.epoch import Epoch
from protocols.masked.messages import COMMITMENT_BYTES, HASHES_BYTES, SEALED_BYTES, ShareKeys
from protocols.masked.transcript import SignedDealing, dealing_digest
from protocols.schema import U32, U64, Key32, encode
from protocols.suite import ServerContext
from secagg import labels
from secagg.aead import OVERHEAD
from secagg.errors import PeerViolation
from secagg.kem import CIPHERTEXT_BYTES

__all__ = ["Dealings", "Layout", "check_dealing", "disagreements", "layout_of", "relay"]

PAIR_SECRET_BYTES: Final = 32


@dataclass(frozen=True, slots=True)
class Dealings:
    """All dealings of one preparation.

    Attributes:
        origin: the first round that they can serve.
        present: who was there to be dealt to.
        made: each dealer's message. Filled in place while its exchange is open.
        mask_keys: in an epoch's first round, each client's X25519 mask key and the SHA-256 of its ML-KEM one;
            empty later, when pair secrets come from channels.
    """

    origin: U64
    present: frozenset[U32]
    made: dict[U32, ShareKeys]
    mask_keys: dict[U32, tuple[Key32, Key32]]

    @property
    def first(self) -> bool:
        """Whether these are an epoch's first."""
        return bool(self.mask_keys)

    def without_seals(self, active: frozenset[int]) -> "Dealings":
        """What is still needed once the active clients got their shares."""
        made = {place: replace(self.made[place], sealed=b"") for place in sorted(active)}
        return replace(self, made=made)


@dataclass(frozen=True, slots=True)
class Layout:
    """Where in each dealer's columns a holder's piece is: {dealer: {holder: position}}."""

    sealed: dict[int, dict[int, int]]
    hashes: dict[int, dict[int, int]]
    behind: dict[int, dict[int, int]]

    def edge(self, dealings: Dealings, dealer: int, peer: int) -> bytes:
        """The hash of the pair secret of two neighbours, as the dealer said it."""
        position = (self.behind if dealings.first else self.sealed)[dealer][peer]
        return _piece(dealings.made[dealer].edges, position, COMMITMENT_BYTES)

    def share_hashes(self, dealings: Dealings, dealer: int, holder: int) -> bytes:
        """The hashes of a holder's two shares, as the dealer said them."""
        return _piece(dealings.made[dealer].hashes, self.hashes[dealer][holder], HASHES_BYTES)

    def to_channel(self, dealings: Dealings, dealer: int, peer: int) -> bytes:
        """First dealing: what the dealer encapsulated to a neighbour's channel key."""
        return _piece(dealings.made[dealer].encapsulations, self.sealed[dealer][peer], CIPHERTEXT_BYTES)

    def to_mask(self, dealings: Dealings, dealer: int, peer: int) -> bytes:
        """First dealing: what the dealer encapsulated to the mask key of a neighbour behind it."""
        position = len(self.sealed[dealer]) + self.behind[dealer][peer]
        return _piece(dealings.made[dealer].encapsulations, position, CIPHERTEXT_BYTES)


def _piece(column: bytes, position: int, size: int) -> bytes:
    return column[position * size : (position + 1) * size]


@lru_cache(maxsize=4)
def layout_of(epoch: Epoch, present: frozenset[int]) -> Layout:
    """The layout of dealings to those who are present."""
    sealed, hashes, behind = {}, {}, {}
    for dealer in sorted(present):
        there = epoch.among(epoch.graph.neighbours(dealer), present)
        holders = epoch.among(epoch.graph.holders(dealer), present)
        sealed[dealer] = {place: position for position, place in enumerate(there)}
        hashes[dealer] = {place: position for position, place in enumerate(holders)}
        later = [place for place in there if place > dealer]
        behind[dealer] = {place: position for position, place in enumerate(later)}
    return Layout(sealed, hashes, behind)


def check_dealing(
    context: ServerContext, epoch: Epoch, dealings: Dealings, dealer: int, message: ShareKeys
) -> None:
    """Refuses a dealing of another shape, or one that its dealer did not sign for this place."""
    client, layout = epoch.cohort[dealer], layout_of(epoch, dealings.present)
    neighbours, behind = len(layout.sealed[dealer]), len(layout.behind[dealer])
    edges = behind if dealings.first else neighbours
    shape = (
        ("sealed", neighbours * SEALED_BYTES),
        ("hashes", len(layout.hashes[dealer]) * HASHES_BYTES),
        ("edges", edges * COMMITMENT_BYTES),
        ("pairs", edges * PAIR_SECRET_BYTES + OVERHEAD),
        ("encapsulations", (neighbours + behind) * CIPHERTEXT_BYTES if dealings.first else 0),
    )
    for name, size in shape:
        if len(getattr(message, name)) != size:
            found = len(getattr(message, name))
            raise PeerViolation(f"a dealing with {found} bytes of {name}, not {size}", culprit=client)
    places = sorted({dealer, *layout.sealed[dealer]})
    present = epoch.members.bitmap([epoch.cohort[place] for place in places])
    statement = SignedDealing(epoch.digest, dealings.origin, client, present, dealing_digest(message))
    context.roster.verify(client, message.signature, encode(statement), label=labels.DEALING)


def relay(
    epoch: Epoch, dealings: Dealings, holder: int, active: frozenset[int]
) -> tuple[bytes, bytes, bytes, bytes]:
    """The columns of `CollectInput` for one holder: sealed shares, hashes, edges, encapsulations."""
    layout = layout_of(epoch, dealings.present)
    dealers = epoch.among(epoch.graph.neighbours(holder), active)
    sealed = [
        _piece(dealings.made[dealer].sealed, layout.sealed[dealer][holder], SEALED_BYTES)
        for dealer in dealers
    ]
    hashes = [layout.share_hashes(dealings, dealer, holder) for dealer in dealers]
    edges, encapsulations = [], []
    if dealings.first:
        before = [dealer for dealer in dealers if dealer < holder]
        edges = [layout.edge(dealings, dealer, holder) for dealer in before]
        encapsulations = [layout.to_channel(dealings, dealer, holder) for dealer in dealers]
        encapsulations += [layout.to_mask(dealings, dealer, holder) for dealer in before]
    return b"".join(sealed), b"".join(hashes), b"".join(edges), b"".join(encapsulations)


def disagreements(epoch: Epoch, dealings: Dealings) -> set[int]:
    """Who must be left out of a later dealing so that both ends of every edge name the same pair secret.

    Which end of an edge lies cannot be told. Whoever disagrees with most goes first, so a liar that spoils
    many edges goes alone; of two that disagree with nobody else, both go.
    """
    layout = layout_of(epoch, dealings.present)
    against: dict[int, set[int]] = {}
    for dealer in dealings.made:
        for peer in layout.behind[dealer]:
            if peer not in dealings.made:
                continue
            if layout.edge(dealings, dealer, peer) != layout.edge(dealings, peer, dealer):
                against.setdefault(dealer, set()).add(peer)
                against.setdefault(peer, set()).add(dealer)
    out: set[int] = set()
    while against:
        most = max(len(peers) for peers in against.values())
        worst = {place for place, peers in against.items() if len(peers) == most}
        out |= worst
        against = {place: peers - worst for place, peers in against.items() if place not in worst}
        against = {place: peers for place, peers in against.items() if peers}
    return out
