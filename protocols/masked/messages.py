"""The eight messages of MaskedSum, in order, and the one type that keeps a client from saying too much.

Symbols of the paper (Bonawitz et al., CCS'17, Figure 4) stand behind our names in the package's README.
"""

import hashlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from typing import TypeAlias

from protocols.identity import ClientId
from protocols.schema import U32, U64, Body, Key32, Name, Signature, encode
from secagg import labels
from secagg.shamir import SHARE_BYTES
from secagg.wire import Writer

__all__ = [
    "AdvertiseKeys",
    "Announcement",
    "CohortKeys",
    "CollectInput",
    "MaskedInput",
    "PairKeyShare",
    "Reveal",
    "SealedShares",
    "SelfMaskShare",
    "ShareKeys",
    "Survivors",
    "Unmask",
]


# Exchange 0, AdvertiseKeys


@dataclass(frozen=True, slots=True)
class Announcement:
    """Down: a round begins."""

    parameters: Key32
    cohort: tuple[Name, ...]
    length: U64


@dataclass(frozen=True, slots=True)
class AdvertiseKeys:
    """Up: this round's two public keys (c_u^PK, s_u^PK), signed with the client's identity (σ_u).

    `minimum` is the smallest set of survivors that this client's policy allows. Everybody keeps to the
    largest one among the survivors, because a sum can be opened without the help of any one of them.
    """

    channel_key: Key32
    mask_key: Key32
    minimum: U32
    signature: Signature


@dataclass(frozen=True, slots=True)
class SignedKeys:
    """What that signature covers: nothing of it can be moved to another round, session or client."""

    parameters: Key32
    session: bytes
    round: U64
    cohort: tuple[Name, ...]
    length: U64
    client: Name
    channel_key: Key32
    mask_key: Key32
    minimum: U32


# Exchange 1, ShareKeys


@dataclass(frozen=True, slots=True)
class CohortKeys:
    """Down: the keys of everybody who advertised (U_1)."""

    keys: dict[Name, AdvertiseKeys]


@dataclass(frozen=True, slots=True)
class SealedShares:
    """One holder's pair of shares, sealed to it (e_{u,v}), and a hash of each, for the server.

    A share is 32 uniform bytes or more, so its hash tells the server nothing; it lets the server see, later,
    whether a revealed share is the one that was dealt.
    """

    sealed: bytes
    self_mask_hash: Key32
    pair_key_hash: Key32


@dataclass(frozen=True, slots=True)
class ShareKeys:
    """Up: shares of the round secret and of the self-mask seed for every holder in U_1, itself included.

    `own` has the hashes of the share that the client keeps; `commitment` is a hash of the self-mask seed.
    """

    shares: dict[Name, SealedShares]
    commitment: Key32


# Exchange 2, MaskedInput


@dataclass(frozen=True, slots=True)
class CollectInput:
    """Down: what the others dealt to this client (U_2), and the model that its update answers."""

    sealed: dict[Name, SealedShares]
    model: bytes


@dataclass(frozen=True, slots=True)
class MaskedInput:
    """Up: the masked vector (y_u), and the transcript under which its masks were made.

    `unopened` names the dealers whose shares for this client did not open, or were not what their hashes say.
    """

    transcript: Key32
    unopened: frozenset[Name]
    vector: Body


# Exchange 3, Unmask


@dataclass(frozen=True, slots=True)
class Survivors:
    """Down: whose vector arrived (U_3); the others who dealt shares are dropped."""

    survivors: frozenset[Name]


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
    """Up: one reveal for each peer whose shares this client holds."""

    reveals: dict[Name, SelfMaskShare | PairKeyShare] = field(repr=False)


class Kind(IntEnum):
    """Which secret a share belongs to."""

    SELF_MASK = 0
    PAIR_KEY = 1


def share_hash(
    *, session: bytes, round: int, dealer: ClientId, holder: ClientId, kind: Kind, share: bytes
) -> bytes:
    """SHA-256 of a share in its place: no share can stand in for another one."""
    place = Writer().blob(session).uint(round, 8).text(dealer).text(holder).uint(kind, 1).blob(share).finish()
    return hashlib.sha256(labels.SHARE_COMMITMENT + place).digest()


def seed_commitment(*, session: bytes, round: int, dealer: ClientId, seed: bytes) -> bytes:
    """SHA-256 of a self-mask seed in its place; the seed has 256 uniform bits, so nothing leaks."""
    place = Writer().blob(session).uint(round, 8).text(dealer).blob(seed).finish()
    return hashlib.sha256(labels.SELF_MASK_COMMITMENT + place).digest()


@dataclass(frozen=True, slots=True)
class CohortTranscript:
    """What the parties must agree on before any secret is dealt; hashed, it binds all that follows."""

    parameters: Key32
    session: bytes
    round: U64
    cohort: tuple[Name, ...]
    length: U64
    threshold: U32
    keys: dict[Name, AdvertiseKeys]

    def digest(self) -> bytes:
        """32 bytes."""
        return hashlib.sha256(labels.TRANSCRIPT + b"/cohort" + encode(self)).digest()


def mask_transcript(*, cohort_digest: bytes, dealers: tuple[ClientId, ...], model: bytes) -> bytes:
    """What every mask seed is derived under: the cohort, who dealt shares, the digest of the model (A9)."""
    writer = Writer().fixed(cohort_digest).uint(len(dealers), 4)
    for dealer in dealers:
        writer.text(dealer)
    writer.fixed(hashlib.sha256(model).digest())
    return hashlib.sha256(labels.TRANSCRIPT + b"/mask" + writer.finish()).digest()


def least_survivors(least: int, minima: Mapping[ClientId, int], survivors: Collection[ClientId]) -> int:
    """Without how many survivors nothing is revealed: the plan's number, or the strictest survivor's."""
    return max([least, *(minima[client] for client in survivors)])


SHARE_PAIR_BYTES = 2 * SHARE_BYTES
