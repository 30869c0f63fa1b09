"""What a round leaves behind: who was asked, who is in the sum, who was lost and why, under which plan.

The server signs it with its Ed25519 identity, so that it cannot tell two auditors different stories later.
No secret and no value of an update is in it. The transcript digest commits to every accepted message.
"""

import hashlib
from dataclasses import dataclass
from typing import Annotated

from protocols.messages.schema import U8, U16, U32, U64, Key32, Name, Signature, UpTo, decode, encode
from secagg import labels
from secagg.errors import DecodeError, VerificationError
from secagg.standard.signing import SigningKey, verify
from secagg.wire import Buffer

__all__ = ["RoundRecord", "SignedRecord"]

Session = Annotated[bytes, UpTo(64)]
Reason = Annotated[str, UpTo(8192)]


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundRecord:
    """One round, for the archive.

    Attributes:
        protocol: the protocol's number on the wire.
        parameters: SHA-256 of the protocol's public parameters.
        session, round, length, model: which sum; `model` is the SHA-256 of the model that was sent.
        cohort: in the roster's order.
        contributors, dropped, culprits: as in `Outcome`.
        opened: whether a sum of these contributors was opened, or sealed for those who open it. A round that
            was aborted may have such a sum: it was seen and then refused, or must be taken for seen.
        degree, threshold, ring_bits: the plan.
        roster: the size of the roster that the cohort was chosen from.
        corrupt: the corrupt clients that were planned for, in the cohort as in the whole roster.
        transcript: SHA-256 chain over every accepted message.
        aborted: why there is no sum; empty when there is one.
    """

    protocol: U8
    parameters: Key32
    session: Session
    round: U64
    length: U64
    model: Key32
    cohort: tuple[Name, ...]
    contributors: frozenset[Name]
    dropped: dict[Name, Reason]
    culprits: frozenset[Name]
    opened: bool
    degree: U32
    threshold: U32
    ring_bits: U16
    roster: U32
    corrupt: U32
    transcript: Key32
    aborted: Reason


@dataclass(frozen=True, slots=True)
class SignedRecord:
    """A record and the server's signature on it."""

    record: RoundRecord
    public_key: Key32
    signature: Signature

    @classmethod
    def sign(cls, record: RoundRecord, key: SigningKey) -> "SignedRecord":
        """The record under `key`."""
        return cls(record, key.public_key, key.sign(encode(record), label=labels.ROUND_RECORD))

    def verify(self, public_key: bytes) -> None:
        """Raises `VerificationError` unless the holder of `public_key` signed this record."""
        if public_key != self.public_key:
            raise VerificationError("the record names another signer's key")
        verify(public_key, self.signature, encode(self.record), label=labels.ROUND_RECORD)

    def encode(self) -> bytes:
        """Canonical bytes, for an archive."""
        return encode(self)

    @classmethod
    def decode(cls, data: Buffer) -> "SignedRecord":
        """The record in `data`, not verified yet; `DecodeError` for anything else."""
        return decode(cls, data)


class Transcript:
    """A running SHA-256 over what a server accepted: `absorb` in a fixed order, then `digest`."""

    __slots__ = ("_digest",)

    def __init__(self, digest: bytes = bytes(32)) -> None:
        if len(digest) != 32:
            raise DecodeError("a transcript digest has 32 bytes")
        self._digest = digest

    def absorb(self, exchange: int, messages: dict[str, bytes]) -> None:
        """Adds one exchange: the digests of its accepted messages by sender."""
        state = hashlib.sha256(labels.TRANSCRIPT + self._digest + exchange.to_bytes(1, "big"))
        for sender in sorted(messages):
            name = sender.encode()
            state.update(len(name).to_bytes(1, "big") + name + messages[sender])
        self._digest = state.digest()

    def digest(self) -> bytes:
        """32 bytes."""
        return self._digest
