"""What the parties of MaskedSum must agree on, hashed: every key, share and signature is bound to it.

Parties that were told different stories derive different keys from then on: shares do not open, signatures
do not verify, masks do not cancel. None of these hashes hides anything, and none needs to: what they commit
to has 256 uniform bits.
"""

import hashlib
import struct
from dataclasses import dataclass, fields
from functools import lru_cache
from typing import Final

import numpy as np
from numpy.typing import NDArray

from protocols.masked.messages import COMMITMENT_BYTES, SHARE_BYTES, AdvertiseKeys, ShareKeys
from protocols.messages.schema import U32, U64, Key32, Name, encode
from secagg import labels
from secagg.secret import Secret
from secagg.wire import Writer

__all__ = [
    "EpochTranscript",
    "SignedDealing",
    "SignedInput",
    "SignedKeys",
    "SignedSurvivors",
    "cohort_digest",
    "commitment",
    "dealing_digest",
    "edge_hash",
    "mask_transcript",
    "share_context",
    "share_hash",
    "share_hash_column",
]


_SHARE_PLACE: Final = struct.Struct(">BBII")
_PLACES: Final = np.dtype([("purpose", "u1"), ("kind", "u1"), ("dealer", ">u4"), ("holder", ">u4")])
"""`_SHARE_PLACE` of many shares; the purpose is 0."""
_EDGE_PLACE: Final = struct.Struct(">BII")


@dataclass(frozen=True, slots=True)
class SignedKeys:
    """What the signature on advertised keys covers: nothing of it moves to another round or client (A4)."""

    parameters: Key32
    session: bytes
    round: U64
    roster: Key32
    cohort: Key32
    length: U64
    client: Name
    keys: Key32

    @classmethod
    def of(
        cls,
        keys: AdvertiseKeys,
        *,
        parameters: bytes,
        session: bytes,
        round: int,
        roster: bytes,
        cohort: bytes,
        length: int,
        client: str,
    ) -> bytes:
        """The bytes to sign; `keys` with or without its signature."""
        content = hashlib.sha256(encode(keys)[:-64]).digest()
        return encode(cls(parameters, session, round, roster, cohort, length, client, content))


@dataclass(frozen=True, slots=True)
class EpochTranscript:
    """What binds a whole epoch: who was asked, who advertised which keys, and how they share."""

    parameters: Key32
    session: bytes
    round: U64
    roster: Key32
    cohort: Key32
    length: U64
    advertised: bytes
    root: Key32
    degree: U32
    threshold: U32

    def digest(self) -> bytes:
        """32 bytes."""
        return hashlib.sha256(labels.TRANSCRIPT + b"/epoch" + encode(self)).digest()


@dataclass(frozen=True, slots=True)
class SignedDealing:
    """What the signature on a dealing covers: it serves this epoch, this origin and these holders only."""

    epoch: Key32
    origin: U64
    client: Name
    present: bytes
    content: Key32


@dataclass(frozen=True, slots=True)
class SignedInput:
    """What a client signs with its vector: its story of the round, down to who is active."""

    transcript: Key32


@dataclass(frozen=True, slots=True)
class SignedSurvivors:
    """What a client signs in the consistency check (CCS'17, Fig. 4, round 3)."""

    transcript: Key32
    survivors: bytes


@lru_cache(maxsize=16)
def cohort_digest(cohort: tuple[str, ...]) -> bytes:
    """32 bytes that stand for the cohort's names in their order."""
    writer = Writer().uint(len(cohort), 4)
    for client in cohort:
        writer.text(client)
    return hashlib.sha256(labels.TRANSCRIPT + b"/cohort" + writer.finish()).digest()


def dealing_digest(dealing: ShareKeys) -> bytes:
    """32 bytes that stand for a dealing without its signature."""
    hasher = hashlib.sha256(labels.SHARE_COMMITMENT + b"/dealing")
    for each in fields(dealing)[:-1]:
        column = getattr(dealing, each.name)
        hasher.update(len(column).to_bytes(8, "big"))
        hasher.update(column)
    return hasher.digest()


def mask_transcript(
    *, epoch: bytes, origin: int, round: int, length: int, active: bytes, model: bytes
) -> bytes:
    """What every mask seed of a round is derived under; `model` is the model's digest (A9)."""
    writer = Writer().fixed(epoch).uint(origin, 8).uint(round, 8).uint(length, 8).blob(active).fixed(model)
    return hashlib.sha256(labels.TRANSCRIPT + b"/mask" + writer.finish()).digest()


def share_context(*, epoch: bytes, origin: int) -> bytes:
    """What all hashes and seals of one preparation share."""
    return labels.SHARE_COMMITMENT + epoch + origin.to_bytes(8, "big")


def share_hash(context: bytes, dealer: int, holder: int, kind: int, share: bytes) -> bytes:
    """Commits to a share in its place: no share can stand in for another one (B3).

    `dealer` and `holder` are places in the cohort; `kind` is 0 for the self mask, 1 for the round secret.
    """
    return hashlib.sha256(context + _SHARE_PLACE.pack(0, kind, dealer, holder) + share).digest()[
        :COMMITMENT_BYTES
    ]


def share_hash_column(
    context: bytes, *, dealers: NDArray[np.int64], holder: int, kinds: NDArray[np.bool_], shares: bytes
) -> bytes:
    """`share_hash` of one holder's shares of many dealers, end to end.

    `dealers` and `kinds` have shape (count,); `shares` has count·SHARE_BYTES bytes.
    """
    count = len(dealers)
    places = np.zeros(count, dtype=_PLACES)
    places["kind"], places["dealer"], places["holder"] = kinds, dealers, holder
    size = len(context) + _PLACES.itemsize + SHARE_BYTES
    rows = np.empty((count, size), dtype=np.uint8)
    rows[:, : len(context)] = np.frombuffer(context, dtype=np.uint8)
    rows[:, len(context) : -SHARE_BYTES] = places.view(np.uint8).reshape(count, _PLACES.itemsize)
    rows[:, -SHARE_BYTES:] = np.frombuffer(shares, dtype=np.uint8).reshape(count, SHARE_BYTES)
    data, sha256 = rows.tobytes(), hashlib.sha256
    digests = b"".join([sha256(data[at : at + size]).digest() for at in range(0, len(data), size)])
    return np.frombuffer(digests, dtype=np.uint8).reshape(count, 32)[:, :COMMITMENT_BYTES].tobytes()


def edge_hash(context: bytes, *, low: int, high: int, secret: Secret) -> bytes:
    """Commits to a pair secret; both ends must say the same."""
    place = _EDGE_PLACE.pack(1, low, high)
    return hashlib.sha256(context + place + secret.reveal()).digest()[:COMMITMENT_BYTES]


def commitment(context: bytes, *, dealer: int, kind: int, secret: Secret) -> bytes:
    """Commits to a self-mask seed (kind 0) or a round secret (kind 1) as a whole."""
    place = b"%c%c" % (2, kind) + dealer.to_bytes(4, "big")
    return hashlib.sha256(context + place + secret.reveal()).digest()
