"""Taking the masks off the sum: CCS'17, Figure 4, the server's part of the last round."""

from collections.abc import Mapping
from typing import NamedTuple, NoReturn

import numpy as np
from numpy.typing import NDArray

from protocols.identity import ClientId
from protocols.machine.channels import pair_bytes
from protocols.masked.accusing import agreed_secret
from protocols.masked.dealing import PAIR_KEY, SELF_MASK
from protocols.masked.epoch import Epoch
from protocols.masked.keys import MaskKeys, pair_mask_seed, pairs_key, self_mask_seed
from protocols.masked.messages import COMMITMENT_BYTES, SHARE_BYTES, Unmask, columns
from protocols.masked.relay import PAIR_SECRET_BYTES, Dealings, Places, holder_table, layout_of
from protocols.masked.transcript import commitment, edge_hash, share_hash_column
from secagg.errors import DecodeError, PeerViolation, RoundAborted, VerificationError
from secagg.secret import Secret
from secagg.shamir import combine_encoded
from secagg.standard.aead import open_sealed
from secagg.vectors.masking import apply_masks
from secagg.vectors.ring import Ring, Words

__all__ = ["check_reveals", "remove_masks"]

Revealed = Mapping[int, tuple[Places, bytes]]
"""By holder: the dealers whose shares it revealed, ascending, and those shares in their order."""


def check_reveals(
    reply: Unmask,
    *,
    bound: bytes,
    holder: int,
    client: ClientId,
    dealers: Places,
    promised: NDArray[np.uint8],
    survived: NDArray[np.bool_],
) -> None:
    """Each share is of the kind that was asked for, and has the hash that its dealer signed.

    Args:
        dealers: whose shares the holder says it has, ascending; shape (count,).
        promised: the two hashes of each of them; shape (count, 2, COMMITMENT_BYTES).
        survived: of each of them, whether it is a survivor; shape (count,).
    """
    kinds = reply.are_pair_keys(len(dealers))
    if (kinds == survived).any():
        raise PeerViolation("a share of the other kind than was asked for", culprit=client)
    found = share_hash_column(bound, dealers=dealers, holder=holder, kinds=kinds, shares=reply.shares)
    if found != promised[np.arange(len(dealers)), kinds.astype(np.intp)].tobytes():
        raise PeerViolation("a share that differs from the one that was dealt", culprit=client)


def remove_masks(
    total: Words,
    *,
    ring: Ring,
    epoch: Epoch,
    dealings: Dealings,
    transcript: bytes,
    active: frozenset[int],
    survivors: frozenset[int],
    shares: Revealed,
) -> None:
    """Rebuilds b_u of each survivor and K_u of each dropped client, and takes their masks off `total`.

    Raises:
        RoundAborted: too few shares are left, or a dealer's do not rebuild what it committed to; `total` is
            then as it was.
    """
    rebuilt = _Rebuilding(epoch, dealings, shares)
    add: list[Secret] = []
    subtract: list[Secret] = []
    near = layout_of(epoch, active).neighbours
    for dealer in sorted(active):
        if dealer in survivors:
            seed = rebuilt.secret(dealer, SELF_MASK)
            subtract.append(self_mask_seed(seed, transcript=transcript, client=dealer))
            continue
        # Fig. 4, round 3: recompute p_{v,u} of a dropped client for every survivor, with the other sign.
        peers = epoch.among(near.holders_of(dealer).tolist(), survivors)
        for peer, secret in rebuilt.pair_secrets(dealer, peers).items():
            mask = pair_mask_seed(secret, transcript=transcript, pair=pair_bytes(dealer, peer))
            (subtract if peer > dealer else add).append(mask)
    apply_masks(total, ring=ring, add=add, subtract=subtract)


class _Shares(NamedTuple):
    """All shares that were revealed: by dealer, and for one dealer by holder.

    Attributes:
        indices: the Shamir index of each share's holder; shape (count,).
        shares: `SHARE_BYTES` each, end to end.
        bounds: where the shares of the dealer in each place begin; those of the next one end them.
    """

    indices: Places
    shares: bytes
    bounds: list[int]


def _by_dealer(epoch: Epoch, revealed: Revealed) -> _Shares:
    """What came by holder, regrouped."""
    table = holder_table(epoch)
    dealers = holders = np.empty(0, dtype=np.int64)  # of nobody's shares, if nobody is left
    told = sorted(revealed)
    dealers = np.concatenate([dealers, *(revealed[holder][0] for holder in told)])
    holders = np.concatenate([holders, *(np.full(len(revealed[holder][0]), holder) for holder in told)])
    shares = b"".join(revealed[holder][1] for holder in told)
    order = np.argsort(dealers, kind="stable")  # for one dealer, by holder as before
    dealers, holders = dealers[order], holders[order]
    # A holder's index is its place among all whom the graph makes holders of the dealer, here or not. Rows
    # ascend, and so do the numbers (dealer, holder) over the whole table.
    clients, width = table.shape
    numbers = (table + clients * np.arange(clients)[:, None]).reshape(-1)
    indices = np.searchsorted(numbers, clients * dealers + holders) - width * dealers + 1
    return _Shares(
        indices,
        np.frombuffer(shares, dtype=np.uint8).reshape(-1, SHARE_BYTES)[order].tobytes(),
        np.searchsorted(dealers, np.arange(clients + 1)).tolist(),
    )


class _Rebuilding:
    """Secrets from shares, each checked against what its dealer signed."""

    def __init__(self, epoch: Epoch, dealings: Dealings, shares: Revealed) -> None:
        self._epoch, self._dealings = epoch, dealings
        self._layout = layout_of(epoch, dealings.present)
        self._bound = epoch.context(dealings.origin)
        self._shares = _by_dealer(epoch, shares)

    def secret(self, dealer: int, kind: int) -> Secret:
        """b_u or K_u, from the shares of the first holders; spare ones are not looked at."""
        threshold, there = self._epoch.threshold, self._shares
        start, stop = there.bounds[dealer], there.bounds[dealer + 1]
        if stop - start < threshold:
            raise RoundAborted(
                f"{stop - start} shares of {self._name(dealer)!r} are left, {threshold} are needed"
            )
        stop = start + threshold
        indices = there.indices[start:stop].tolist()
        encodings = columns(there.shares[start * SHARE_BYTES : stop * SHARE_BYTES], SHARE_BYTES)
        try:
            secret = combine_encoded(indices, encodings, threshold=threshold)
        except (DecodeError, VerificationError):
            self._blame(dealer, "shares that do not lie on one polynomial")
        made = self._dealings.made[dealer]
        promised = made.self_commitment if kind == SELF_MASK else made.round_commitment
        if commitment(self._bound, dealer=dealer, kind=kind, secret=secret) != promised:
            self._blame(dealer, "shares that do not rebuild the secret it committed to")
        return secret

    def pair_secrets(self, dealer: int, peers: tuple[int, ...]) -> dict[int, Secret]:
        """The pair secrets of a dropped client with these neighbours, each as its maker committed to it."""
        round_secret = self.secret(dealer, PAIR_KEY)
        known = self._edges(dealer)
        left = self._left_behind(dealer, round_secret)
        secrets: dict[int, Secret] = {}
        for peer in peers:
            if peer in known:
                position, promised = known[peer]
                secrets[peer] = self._confirmed(
                    dealer, peer, maker=dealer, secret=left[position], promised=promised
                )
        missing = [peer for peer in peers if peer not in known]
        if missing:
            secrets.update(self._encapsulated(dealer, missing, round_secret))
        return secrets

    def _edges(self, dealer: int) -> dict[int, tuple[int, bytes]]:
        """The neighbours whose pair secrets the dealer left behind: where, and their hashes."""
        pairs = self._layout.behind if self._dealings.first else self._layout.neighbours
        hashes = columns(self._dealings.made[dealer].edges, COMMITMENT_BYTES)
        return {peer: (position, hashes[position]) for peer, position in pairs.positions(dealer).items()}

    def _left_behind(self, dealer: int, round_secret: Secret) -> list[Secret]:
        """What the dealer sealed under its own round secret."""
        key = pairs_key(round_secret, context=self._bound)
        try:
            left = open_sealed(key, self._dealings.made[dealer].pairs, associated_data=self._bound)
        except VerificationError:
            self._blame(dealer, "pair secrets that do not open under its round secret")
        return [Secret(each) for each in columns(left.reveal(), PAIR_SECRET_BYTES)]

    def _encapsulated(self, dealer: int, peers: list[int], round_secret: Secret) -> dict[int, Secret]:
        """First round: what the neighbours before the dealer encapsulated to its mask key."""
        mask = MaskKeys(round_secret)
        if mask.advertised != self._dealings.mask_keys[dealer]:
            self._blame(dealer, "shares of another secret than its mask keys come from")
        secrets: dict[int, Secret] = {}
        for peer in peers:
            secret, promised = agreed_secret(self._epoch, self._dealings, low=peer, high=dealer, mask=mask)
            secrets[peer] = self._confirmed(dealer, peer, maker=peer, secret=secret, promised=promised)
        return secrets

    def _confirmed(self, dealer: int, peer: int, *, maker: int, secret: Secret, promised: bytes) -> Secret:
        low, high = (dealer, peer) if dealer < peer else (peer, dealer)
        if edge_hash(self._bound, low=low, high=high, secret=secret) != promised:
            self._blame(maker, "another pair secret than it signed for")
        return secret

    def _name(self, place: int) -> str:
        return self._epoch.cohort[place]

    def _blame(self, dealer: int, how: str) -> NoReturn:
        name = self._name(dealer)
        raise RoundAborted(f"{name!r} dealt {how}", culprits=frozenset([name]))
