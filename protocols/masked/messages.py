"""The messages of MaskedSum, in order.

Symbols of the papers (Bonawitz et al., CCS'17, Figure 4; Bell et al., CCS'20, Algorithm 2) stand behind our
names in `SPEC.md`. A message that says one thing of each neighbour holds it in columns: equal pieces, one
for each neighbour that takes part, in the order of the cohort. Nothing names a party that both sides know,
so a message has the bytes of its content and a few more.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from protocols.messages.schema import U32, U64, Body, Key32, Name, Signature, Size, UpTo
from secagg.errors import DecodeError
from secagg.shamir import SHARE_BYTES
from secagg.standard.aead import OVERHEAD
from secagg.standard.kem import ENCAPSULATION_KEY_BYTES

__all__ = [
    "COMMITMENT_BYTES",
    "HASHES_BYTES",
    "SEALED_BYTES",
    "SHARE_BYTES",
    "SHARE_PAIR_BYTES",
    "AdvertiseKeys",
    "Announcement",
    "CohortKeys",
    "CollectInput",
    "ConsistencyCheck",
    "MaskedInput",
    "PairKeyShare",
    "Quorum",
    "Reveal",
    "SelfMaskShare",
    "ShareKeys",
    "Survivors",
    "Unmask",
    "columns",
]

SHARE_PAIR_BYTES: Final = 2 * SHARE_BYTES
SEALED_BYTES: Final = SHARE_PAIR_BYTES + OVERHEAD
"""One holder's two shares, sealed to it."""
COMMITMENT_BYTES: Final = 16
"""A hash that commits to 32 uniform secret bytes: nobody finds another preimage of 128 bits."""
HASHES_BYTES: Final = 2 * COMMITMENT_BYTES
"""The hashes of one holder's two shares, the self mask's first."""

EncapsulationKey: TypeAlias = Annotated[bytes, Size(ENCAPSULATION_KEY_BYTES)]
Bitmap: TypeAlias = Annotated[bytes, UpTo(1 << 17)]
"""A set of members of the cohort, one bit each: see `Members`."""


# Exchange 0, AdvertiseKeys: only on the long path


@dataclass(frozen=True, slots=True)
class Announcement:
    """Down: a round begins, and with it an epoch: new keys, a new graph."""

    parameters: Key32
    cohort: tuple[Name, ...]
    length: U64


@dataclass(frozen=True, slots=True)
class AdvertiseKeys:
    """Up: the epoch's public keys, each a pair of X25519 and ML-KEM-768, signed with the client's identity.

    The channel keys (c_u^PK) seal what clients send one another. The mask keys (s_u^PK) come from this
    round's secret, which Shamir shares may rebuild; they make the first round's pair secrets.

    `minimum` is the smallest set of survivors that this client's policy allows. Its holders keep to it,
    because its self mask could be opened without its own help.
    """

    channel_key: Key32
    channel_encapsulation: EncapsulationKey
    mask_key: Key32
    mask_encapsulation: EncapsulationKey
    minimum: U32
    signature: Signature


# Exchange 1, ShareKeys: only on the long path; later rounds' shares ride on Unmask


@dataclass(frozen=True, slots=True)
class CohortKeys:
    """Down: who advertised (U_1), the Merkle root of all keys, and the keys of this client's neighbours.

    `path` leads from this client's own keys to the root.
    """

    advertised: Bitmap
    root: Key32
    path: Annotated[tuple[Key32, ...], UpTo(32)]
    keys: tuple[AdvertiseKeys, ...]


@dataclass(frozen=True, slots=True)
class ShareKeys:
    """Up: one dealing. Shares of a round secret and of a self-mask seed, and what opens the pair masks.

    Attributes:
        sealed: for each neighbour that is there, its two shares (e_{u,v}).
        hashes: for each holder that is there, hashes of its two shares; a revealed share is checked by them.
        edges: hashes of pair secrets, for the neighbours with whom this client knows one already: all, but in
            the first dealing of an epoch only those behind it in the cohort.
        pairs: those pair secrets, sealed under a key from the round secret.
        encapsulations: first dealing only: a ciphertext to each neighbour's channel key, then one to the mask
            key of each neighbour behind this client.
        self_commitment, round_commitment: hashes of the self-mask seed and of the round secret.
        signature: the dealer's, over all of this in its place.
    """

    sealed: bytes
    hashes: bytes
    edges: bytes
    pairs: bytes
    encapsulations: bytes
    self_commitment: Key32
    round_commitment: Key32
    signature: Signature


# Exchange 2, MaskedInput


@dataclass(frozen=True, slots=True)
class CollectInput:
    """Down: the model, who is active (U_2), and what this client's active neighbours dealt to it.

    Attributes:
        origin: the first round that those dealings could serve: this one, if no round in between was lost.
        sealed, hashes: as in `ShareKeys`, one piece of each active neighbour.
        edges: first dealing only: the hash of the pair secret, of each active neighbour before this client.
        encapsulations: first dealing only: each neighbour's ciphertext to this client's channel key, then one
            to its mask key from each neighbour before it.
    """

    origin: U64
    length: U64
    active: Bitmap
    sealed: bytes
    hashes: bytes
    edges: bytes
    encapsulations: bytes
    model: bytes


@dataclass(frozen=True, slots=True)
class MaskedInput:
    """Up: the masked vector (y_u), and the transcript under which its masks were made, signed.

    The signature is for the neighbours. They reveal a share of this client's self mask only if its story of
    the round was their own: a server cannot call others inactive to one client without telling its holders.
    `unopened` are the dealers whose shares for this client did not open, or were not what their hashes say.
    """

    transcript: Key32
    signature: Signature
    unopened: Bitmap
    vector: Body


# Exchange 3, ConsistencyCheck: only against a malicious server


@dataclass(frozen=True, slots=True)
class Survivors:
    """Down: whose vector arrived (U_3)."""

    survivors: Bitmap
    model: Key32


@dataclass(frozen=True, slots=True)
class ConsistencyCheck:
    """Up: this client's signature on the survivors, one set in a round (σ'_u)."""

    signature: Signature


# Exchange 3 or 4, Unmask


@dataclass(frozen=True, slots=True)
class Quorum:
    """Down: the survivors (U_3), and against a malicious server the signatures of a quorum on them.

    Attributes:
        model: the digest of the model that the sum answers; it stands in every mask seed too.
        inputs: the signature of each surviving neighbour on the transcript of its vector.
        signers, signatures: of the quorum.
    """

    survivors: Bitmap
    model: Key32
    inputs: bytes
    signers: Bitmap
    signatures: bytes


@dataclass(frozen=True, slots=True)
class SelfMaskShare:
    """A share of a survivor's self-mask seed (b_{v,u})."""

    share: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class PairKeyShare:
    """A share of a dropped client's round secret, which opens its pair masks (s_{v,u}^SK)."""

    share: bytes = field(repr=False)


Reveal: TypeAlias = SelfMaskShare | PairKeyShare
"""One kind of share for one peer. A message that holds both for the same peer cannot be written."""


@dataclass(frozen=True, slots=True)
class Unmask:
    """Up: one reveal for each active dealer whose shares this client holds, and the next round's dealing.

    `kinds` has a bit for each reveal, set where it is a `PairKeyShare`; `shares` has the one share.
    """

    kinds: Bitmap
    shares: bytes = field(repr=False)
    next: ShareKeys

    @classmethod
    def of(cls, reveals: Sequence[Reveal], *, following: ShareKeys) -> "Unmask":
        """The message that says these reveals, in the order of their dealers."""
        kinds = np.array([isinstance(each, PairKeyShare) for each in reveals], dtype=bool)
        shares = b"".join(each.share for each in reveals)
        return cls(np.packbits(kinds, bitorder="little").tobytes(), shares, following)

    def are_pair_keys(self, count: int) -> NDArray[np.bool_]:
        """Which of the `count` reveals inside are a `PairKeyShare`: shape (count,).

        Raises:
            DecodeError: it holds another number of them.
        """
        if len(self.shares) != count * SHARE_BYTES or len(self.kinds) != (count + 7) // 8:
            raise DecodeError(f"reveals of {len(self.shares)} bytes; {count} shares were asked for")
        kinds = np.unpackbits(np.frombuffer(self.kinds, dtype=np.uint8), bitorder="little")
        if kinds[count:].any():
            raise DecodeError("bits behind the last reveal")
        return kinds[:count].astype(bool)

    def reveals(self, count: int) -> list[Reveal]:
        """The `count` reveals inside; errors as `are_pair_keys`."""
        kinds, pieces = self.are_pair_keys(count).tolist(), columns(self.shares, SHARE_BYTES)
        return [
            PairKeyShare(share) if kind else SelfMaskShare(share)
            for kind, share in zip(kinds, pieces, strict=True)
        ]


def columns(data: bytes, size: int) -> list[bytes]:
    """`data` cut into pieces of `size` bytes."""
    return [data[start : start + size] for start in range(0, len(data), size)]
