"""The messages of the consortium protocol.

Set-up, where somebody of the cohort has no key yet: AdvertiseKeys and DistributeKey. Every round: Contribute.
"""

import hashlib
from dataclasses import dataclass
from typing import Annotated

from protocols.identity import ClientId
from protocols.messages.schema import U32, U64, Body, Key32, Name, Signature, Size, UpTo
from secagg import labels
from secagg.secret import Secret
from secagg.vectors.linear_mac import TAG_BYTES
from secagg.wire import Writer

__all__ = [
    "AdvertiseKeys",
    "Announcement",
    "Collect",
    "ConsortiumSecret",
    "Contribution",
    "Delivery",
    "Distribute",
    "DistributeKey",
    "Result",
    "SignedDistribution",
    "SignedKey",
]

Sealed = Annotated[bytes, UpTo(1 << 20)]
Public = Annotated[bytes, UpTo(1 << 16)]
Tag = Annotated[bytes, Size(TAG_BYTES)]


@dataclass(frozen=True, slots=True)
class Announcement:
    """Down, AdvertiseKeys: a round begins, and its receiver has no key yet."""

    parameters: Key32
    cohort: tuple[Name, ...]
    length: U64


@dataclass(frozen=True, slots=True)
class AdvertiseKeys:
    """Up: a channel key for this session, signed with the client's identity."""

    channel_key: Key32
    signature: Signature


@dataclass(frozen=True, slots=True)
class SignedKey:
    """What that signature covers."""

    parameters: Key32
    session: Annotated[bytes, UpTo(64)]
    roster: Key32
    client: Name
    channel_key: Key32


@dataclass(frozen=True, slots=True)
class Distribute:
    """Down, DistributeKey: seal the key of this id to these newcomers; make a new one if there is no id."""

    parameters: Key32
    cohort: tuple[Name, ...]
    length: U64
    key_id: Key32 | None
    newcomers: dict[Name, AdvertiseKeys]


@dataclass(frozen=True, slots=True)
class DistributeKey:
    """Up: what the server adds with, and the key for each newcomer, sealed to it."""

    key_id: Key32
    public: Public
    channel_key: Key32
    sealed: dict[Name, Sealed]
    signature: Signature


@dataclass(frozen=True, slots=True)
class SignedDistribution:
    """What that signature covers."""

    parameters: Key32
    session: Annotated[bytes, UpTo(64)]
    roster: Key32
    custodian: Name
    key_id: Key32
    public: Key32
    channel_key: Key32


@dataclass(frozen=True, slots=True)
class Delivery:
    """One newcomer's part of a distribution, as the server passes it on."""

    custodian: Name
    public: Public
    channel_key: Key32
    sealed: Sealed
    signature: Signature


@dataclass(frozen=True, slots=True)
class Collect:
    """Down, Contribute: send your encrypted update; the key comes with it where it is still missing."""

    parameters: Key32
    cohort: tuple[Name, ...]
    length: U64
    key_id: Key32
    delivery: Delivery | None
    model: bytes


@dataclass(frozen=True, slots=True)
class Contribution:
    """Up: the encrypted vector and its tag under the consortium's MAC key.

    `head` is what the update answers, `minimum` the fewest contributors that this client asks for; the tag
    binds both. `renew` asks for another key: too many sums under this one did not verify.
    """

    key_id: Key32
    model: Key32
    head: Key32
    minimum: U32
    renew: bool
    tag: Tag
    vector: Body


@dataclass(frozen=True, slots=True)
class Result:
    """The encrypted sum, for clients only; each contributor with the minimum that it asks for."""

    round: U64
    key_id: Key32
    contributors: dict[Name, U32]
    length: U64
    model: Key32
    head: Key32
    tag: Tag
    vector: Body


@dataclass(frozen=True, slots=True)
class ConsortiumSecret:
    """What the clients share: the scheme's private key and a MAC key."""

    mac_key: Secret
    private_key: Secret


def mac_context(
    *, session: bytes, roster: bytes, round: int, length: int, model: bytes, head: bytes, parameters: bytes
) -> bytes:
    """What a tag is good for: this sum of this session, answering this model and head, and no other."""
    writer = Writer().fixed(parameters).blob(session).fixed(roster)
    return writer.uint(round, 8).uint(length, 8).fixed(model).fixed(head).finish()


def signer(client: ClientId, minimum: int) -> bytes:
    """Under which name a client tags: its id and the minimum that it insists on."""
    return Writer().text(client).uint(minimum, 4).finish()


def key_id_of(*, session: bytes, encoded_secret: bytes) -> bytes:
    """A name for a key that says nothing about it: SHA-256 of hundreds of uniform bits and more."""
    place = Writer().blob(session).blob(encoded_secret).finish()
    return hashlib.sha256(labels.CONSORTIUM_KEY_ID + place).digest()
