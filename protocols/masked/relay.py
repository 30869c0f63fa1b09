"""What the server keeps of the dealings, and which of their columns go to whom.

A dealing is columns: one piece for each neighbour that was there when it was made. The server never looks
into them; it checks that they have the right size and their maker's signature, and hands each holder its
pieces. For all clients at once that is a transposition: pieces come sorted by dealer and leave sorted by
holder.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Final

import numpy as np
from numpy.typing import NDArray

from protocols.machine.suite import ServerContext
from protocols.masked.epoch import Epoch
from protocols.masked.messages import COMMITMENT_BYTES, HASHES_BYTES, SEALED_BYTES, ShareKeys
from protocols.masked.messages import columns as columns_of
from protocols.masked.transcript import SignedDealing, dealing_digest
from protocols.messages.schema import U32, U64, Key32, encode
from secagg import labels
from secagg.errors import PeerViolation
from secagg.standard.aead import OVERHEAD
from secagg.standard.kem import CIPHERTEXT_BYTES

__all__ = [
    "PAIR_SECRET_BYTES",
    "Dealings",
    "Pairs",
    "Places",
    "Relayed",
    "check_dealing",
    "disagreements",
    "flags",
    "holder_table",
    "holders_left",
    "layout_of",
    "one_object",
    "relay",
]

PAIR_SECRET_BYTES: Final = 32

Places = NDArray[np.int64]


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
        made = {place: replace(self.made[place], sealed=b"", hashes=b"") for place in sorted(active)}
        return replace(self, made=made)


@dataclass(frozen=True, slots=True)
class Pairs:
    """(dealer, holder) of each piece of a column, as all dealers' columns follow one another.

    Attributes:
        dealers, holders: shape (pieces,); by dealer, and for one dealer by holder.
        bounds: where the pieces of the dealer in each place begin; those of the next one end them.
    """

    dealers: Places
    holders: Places
    bounds: list[int]

    @classmethod
    def of(cls, table: Places, chosen: NDArray[np.bool_]) -> "Pairs":
        """From a table with a row of holders for each dealer, and which of them there is a piece for."""
        counts = np.count_nonzero(chosen, axis=1)
        dealers, holders = np.repeat(np.arange(len(table)), counts), table[chosen]
        dealers.flags.writeable = holders.flags.writeable = False  # layouts are remembered, and shared
        return cls(dealers, holders, np.cumsum([0, *counts]).tolist())

    def holders_of(self, dealer: int) -> Places:
        """Whom one dealer's pieces are for, ascending: the same who have pieces for it, if they dealt."""
        return self.holders[self.bounds[dealer] : self.bounds[dealer + 1]]

    def count(self, dealer: int) -> int:
        """Pieces of one dealer."""
        return self.bounds[dealer + 1] - self.bounds[dealer]

    def positions(self, dealer: int) -> dict[int, int]:
        """The place of each holder's piece in one dealer's column."""
        return {holder: position for position, holder in enumerate(self.holders_of(dealer).tolist())}


@dataclass(frozen=True, slots=True)
class Layout:
    """The shape of dealings: pieces for neighbours, for holders, and for neighbours behind the dealer."""

    neighbours: Pairs
    holders: Pairs
    behind: Pairs


@lru_cache(maxsize=8)  # a server uses two in an exchange; a process may hold several servers
def layout_of(epoch: Epoch, present: frozenset[int]) -> Layout:
    """The layout of dealings to those who are present."""
    there, table = flags(epoch, present), holder_table(epoch)
    near = there[table] & there[:, None]
    neighbours = holders = Pairs.of(table, near)
    if epoch.graph.is_complete:  # where holders are neighbours and the dealer itself
        near &= table != np.arange(len(table))[:, None]
        neighbours = Pairs.of(table, near)
    behind = Pairs.of(table, near & (table > np.arange(len(table))[:, None]))
    return Layout(neighbours, holders, behind)


@lru_cache(maxsize=8)
def one_object(places: frozenset[int]) -> frozenset[int]:
    """The same object for equal sets: what is remembered for it is then found without comparing members."""
    return places


@lru_cache(maxsize=4)
def holder_table(epoch: Epoch) -> Places:
    """Who holds shares of each member, as `Graph.holder_table`; read-only."""
    table = epoch.graph.holder_table()
    table.flags.writeable = False
    return table


@lru_cache(maxsize=8)
def flags(epoch: Epoch, places: frozenset[int]) -> NDArray[np.bool_]:
    """Whether each member is in a set: shape (clients,), read-only."""
    there = np.zeros(len(epoch.cohort), dtype=bool)
    there[list(places)] = True
    there.flags.writeable = False
    return there


def holders_left(epoch: Epoch, there: frozenset[int]) -> Places:
    """How many of those who are there hold shares of each member: shape (clients,)."""
    left: Places = np.count_nonzero(flags(epoch, there)[holder_table(epoch)], axis=1)
    return left


def check_dealing(
    context: ServerContext, epoch: Epoch, dealings: Dealings, dealer: int, message: ShareKeys
) -> None:
    """Refuses a dealing of another shape, or one that its dealer did not sign for this place."""
    client, layout = epoch.cohort[dealer], layout_of(epoch, dealings.present)
    neighbours, behind = layout.neighbours.count(dealer), layout.behind.count(dealer)
    edges = behind if dealings.first else neighbours
    shape = (
        ("sealed", neighbours * SEALED_BYTES),
        ("hashes", layout.holders.count(dealer) * HASHES_BYTES),
        ("edges", edges * COMMITMENT_BYTES),
        ("pairs", edges * PAIR_SECRET_BYTES + OVERHEAD),
        ("encapsulations", (neighbours + behind) * CIPHERTEXT_BYTES if dealings.first else 0),
    )
    for name, size in shape:
        if len(getattr(message, name)) != size:
            found = len(getattr(message, name))
            raise PeerViolation(f"a dealing with {found} bytes of {name}, not {size}", culprit=client)
    present = epoch.members.bitmap_of([dealer, *layout.neighbours.holders_of(dealer).tolist()])
    statement = SignedDealing(epoch.digest, dealings.origin, client, present, dealing_digest(message))
    context.roster.verify(client, message.signature, encode(statement), label=labels.DEALING)


@dataclass(frozen=True, slots=True)
class Relayed:
    """What goes to one holder: columns of `CollectInput`; and what it will be held to.

    Attributes:
        expected: the hashes of every pair of shares that it holds, its own on the complete graph included.
    """

    sealed: bytes
    hashes: bytes
    edges: bytes
    encapsulations: bytes
    expected: bytes


def relay(epoch: Epoch, dealings: Dealings, active: frozenset[int]) -> dict[int, Relayed]:
    """Each active holder's pieces, in the order of their dealers."""
    layout = layout_of(epoch, dealings.present)
    made = [dealings.made[dealer] for dealer in sorted(active)]

    def transposed(pairs: Pairs, size: int, column: Callable[[ShareKeys, int], bytes]) -> dict[int, bytes]:
        columns = [column(message, dealer) for message, dealer in zip(made, sorted(active), strict=True)]
        return _transposed(pairs, size, columns, epoch=epoch, active=active)

    sealed = transposed(layout.neighbours, SEALED_BYTES, lambda message, _: message.sealed)
    expected = transposed(layout.holders, HASHES_BYTES, lambda message, _: message.hashes)
    edges: dict[int, bytes] = {}
    to_channels: dict[int, bytes] = {}
    to_masks: dict[int, bytes] = {}
    if dealings.first:

        def split(dealer: int) -> int:
            return layout.neighbours.count(dealer) * CIPHERTEXT_BYTES

        edges = transposed(layout.behind, COMMITMENT_BYTES, lambda message, _: message.edges)
        to_channels = transposed(
            layout.neighbours,
            CIPHERTEXT_BYTES,
            lambda message, dealer: message.encapsulations[: split(dealer)],
        )
        to_masks = transposed(
            layout.behind, CIPHERTEXT_BYTES, lambda message, dealer: message.encapsulations[split(dealer) :]
        )
    relayed = {}
    for holder in sorted(active):
        hashes = expected[holder]
        if layout.holders.count(holder) > layout.neighbours.count(holder):  # its own stay here
            own = sum(place < holder for place in active) * HASHES_BYTES
            hashes = hashes[:own] + hashes[own + HASHES_BYTES :]
        encapsulations = to_channels.get(holder, b"") + to_masks.get(holder, b"")
        relayed[holder] = Relayed(
            sealed[holder], hashes, edges.get(holder, b""), encapsulations, expected[holder]
        )
    return relayed


def _transposed(
    pairs: Pairs, size: int, columns: list[bytes], *, epoch: Epoch, active: frozenset[int]
) -> dict[int, bytes]:
    """The active dealers' columns, one after the other, regrouped by active holder."""
    there = flags(epoch, active)
    holders = pairs.holders[there[pairs.dealers]]
    pieces = np.frombuffer(b"".join(columns), dtype=np.uint8).reshape(-1, size)
    to_active = np.flatnonzero(there[holders])
    # Pieces come in the order of their dealers; a stable sort keeps it for each holder.
    order = to_active[np.argsort(holders[to_active], kind="stable")]
    data = pieces[order].tobytes()
    ends = np.searchsorted(holders[order], sorted(active), side="right").tolist()
    starts = [0, *ends[:-1]]
    return {
        holder: data[start * size : stop * size]
        for holder, start, stop in zip(sorted(active), starts, ends, strict=True)
    }


def disagreements(epoch: Epoch, dealings: Dealings) -> set[int]:
    """Who must be left out of a later dealing so that both ends of every edge name the same pair secret.

    Which end of an edge lies cannot be told. Whoever disagrees with most goes first, so a liar that spoils
    many edges goes alone; of two that disagree with nobody else, both go.
    """
    made = frozenset(dealings.made)
    pairs = layout_of(epoch, dealings.present).neighbours
    columns = [dealings.made[dealer].edges for dealer in sorted(made)]
    theirs = _transposed(pairs, COMMITMENT_BYTES, columns, epoch=epoch, active=made)
    against: dict[int, set[int]] = {}
    for dealer in sorted(made):
        own = dealings.made[dealer].edges
        if own == theirs[dealer]:
            continue
        said = dict(zip(pairs.positions(dealer), columns_of(own, COMMITMENT_BYTES), strict=True))
        peers = [peer for peer in said if peer in made]
        for peer, heard in zip(peers, columns_of(theirs[dealer], COMMITMENT_BYTES), strict=True):
            if said[peer] != heard:
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
