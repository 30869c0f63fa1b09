"""What members of a session tell one of them by way of the server, which cannot read it.

One member *asks*: it signs a fresh hybrid key, X25519 with ML-KEM-768, and keeps the private halves. Others
*tell*: each encapsulates to that key from a fresh one of its own, seals its content under what follows from
both secrets, and signs. Session, roster, both names, the request's digest, all public keys and what kind of
message it is are signed, and key and associated data follow from them: a message opens and verifies in its
own place and nowhere else, and it is younger than the request. Each key seals one content, so a state that
is rolled back repeats no nonce.

It hides what is told and not how long it is, nor who tells whom. It is for few, large messages: a signature
and an encapsulation each. What they mean stands in `fl_integration.site.handover`.

>>> from secagg.entropy import system_entropy
>>> alice, bob = Identity.generate("alice"), Identity.generate("bob")
>>> roster, session = Roster.of(alice, bob), bytes(16)
>>> pending, request = asked(identity=alice, roster=roster, session=session, entropy=system_entropy)
>>> teller = Teller(Kind.ANSWER, bob, roster, session, system_entropy)
>>> message = teller.told(request, base=bytes(32), content=b"for alice", before=None)
>>> Asker(pending, roster=roster, session=session).opened(Kind.ANSWER, message).content
b'for alice'
"""

import hashlib
from dataclasses import dataclass
from enum import Enum
from typing import Annotated, Final, NamedTuple

from protocols.identity import ClientId, Identity, Roster
from protocols.machine.channels import SECRET_BYTES, hybrid
from protocols.messages.envelope import MAXIMUM_SESSION, check_session
from protocols.messages.schema import U8, Key32, Name, Size, UpTo, decode, encode
from secagg import labels
from secagg.entropy import Entropy, draw
from secagg.errors import DecodeError, ParameterError, PeerViolation, VerificationError
from secagg.secret import Secret
from secagg.standard.aead import OVERHEAD, open_sealed, seal
from secagg.standard.agreement import PrivateKey, check_canonical
from secagg.standard.kem import (
    CIPHERTEXT_BYTES,
    ENCAPSULATION_KEY_BYTES,
    SEED_BYTES,
    DecapsulationKey,
    encapsulate,
)
from secagg.standard.signing import SIGNATURE_BYTES
from secagg.wire import Buffer, Reader, Writer

__all__ = ["Asker", "Kind", "Request", "Said", "Teller", "asked", "read_request"]

_MAGIC: Final = b"SAGH"
_VERSION: Final = 1
_NONCE_BYTES: Final = 32
_BASE_BYTES: Final = 32
_MAXIMUM_STATEMENT: Final = 4096
_BOX: Final = 1 << 26
"""Bytes that are sealed at a time; a content of any size is a run of such boxes."""


class Kind(Enum):
    """What a message is: a byte on the wire, and a label of its own under the signature."""

    REQUEST = 0, labels.HANDOVER_REQUEST
    ANSWER = 1, labels.HANDOVER_ANSWER
    VOUCHER = 2, labels.HANDOVER_VOUCHER

    def __init__(self, code: int, label: bytes) -> None:
        self.code, self.label = code, label


@dataclass(frozen=True, slots=True)
class Request:
    """What the client that asks signs."""

    session: Annotated[bytes, UpTo(MAXIMUM_SESSION)]
    roster: Key32
    asker: Name
    nonce: Annotated[bytes, Size(_NONCE_BYTES)]
    agreement: Key32
    encapsulation: Annotated[bytes, Size(ENCAPSULATION_KEY_BYTES)]


@dataclass(frozen=True, slots=True)
class _Pending:
    """The private halves, and the request."""

    agreement: Annotated[bytes, Size(SECRET_BYTES)]
    encapsulation: Annotated[bytes, Size(SEED_BYTES)]
    request: Annotated[bytes, UpTo(_MAXIMUM_STATEMENT)]


@dataclass(frozen=True, slots=True)
class _Place:
    """Where something sealed belongs; key and associated data follow from all of it, and it is signed."""

    kind: U8
    session: Annotated[bytes, UpTo(MAXIMUM_SESSION)]
    roster: Key32
    giver: Name
    asker: Name
    request: Key32
    base: Key32
    agreement: Key32
    ciphertext: Annotated[bytes, Size(CIPHERTEXT_BYTES)]


class _Parts(NamedTuple):
    """A message in its parts; `body` is a view of what stands behind the signature."""

    statement: bytes
    signature: bytes
    body: memoryview


class Said(NamedTuple):
    """What a member told: `base` for all to read, `content` for the client that asked."""

    member: ClientId
    base: bytes
    content: bytes


def asked(*, identity: Identity, roster: Roster, session: bytes, entropy: Entropy) -> tuple[Secret, bytes]:
    """The private half of a request, and the request.

    Raises:
        ParameterError: the session is none, or the roster holds another key for this client, or none.
    """
    _check_member(identity, roster)
    agreement, encapsulation = Secret(draw(entropy, SECRET_BYTES)), Secret(draw(entropy, SEED_BYTES))
    request = Request(
        check_session(session),
        roster.digest,
        identity.client,
        draw(entropy, _NONCE_BYTES),
        PrivateKey(agreement).public_key,
        DecapsulationKey(encapsulation).encapsulation_key,
    )
    signed = _signed(Kind.REQUEST, encode(request), identity)
    return Secret(encode(_Pending(agreement.reveal(), encapsulation.reveal(), signed))), signed


def read_request(request: Buffer, *, roster: Roster, session: bytes) -> Request:
    """A request that verifies.

    Raises:
        DecodeError: these are not the bytes of a request.
        VerificationError: it is of another session or roster, or its signature is no member's.
    """
    check_session(session)
    parts = _parted(Kind.REQUEST, request)
    found = decode(Request, parts.statement)
    if len(parts.body):
        raise DecodeError(f"{len(parts.body)} bytes are left over behind a request")
    if (found.session, found.roster) != (session, roster.digest):
        raise VerificationError("a request of another session or of another roster")
    _verify(Kind.REQUEST, parts, found.asker, roster)
    return found


@dataclass(frozen=True, slots=True)
class Teller:
    """A member that tells one that asks.

    Args:
        kind: an answer or a voucher.
        identity, roster, session: of the member, in the session that runs now.
        entropy: for fresh keys and nonces.
    """

    kind: Kind
    identity: Identity
    roster: Roster
    session: bytes
    entropy: Entropy

    def told(self, request: Buffer, *, base: bytes, content: bytes, before: bytes | None) -> bytes:
        """The content, sealed to whoever asks, and signed; or what was told before to the same request.

        Raises:
            DecodeError, VerificationError: as `read_request`.
            PeerViolation: the client that asks signed a key that is none.
            ParameterError: an argument can never work.
        """
        me = self.identity.client
        _check_member(self.identity, self.roster)
        if type(base) is not bytes or len(base) != _BASE_BYTES:
            raise ParameterError(f"a base is {_BASE_BYTES} bytes, the digest of the sums in a copy")
        found = read_request(request, roster=self.roster, session=self.session)
        if found.asker == me:
            raise VerificationError("a client's own request came back to it; its peers answer")
        digest = hashlib.sha256(request).digest()
        if before is not None and self._is_to(before, digest):
            return before
        private = PrivateKey(Secret(draw(self.entropy, SECRET_BYTES)))
        try:
            check_canonical(found.agreement)
            shared = private.agree(found.agreement)
            encapsulated, ciphertext = encapsulate(found.encapsulation)
        except VerificationError as error:
            raise PeerViolation(f"it asks under a key that is none: {error}", culprit=found.asker) from None
        statement = encode(
            _Place(
                self.kind.code,
                self.session,
                self.roster.digest,
                me,
                found.asker,
                digest,
                base,
                private.public_key,
                ciphertext,
            )
        )
        key, count = _key(shared, encapsulated, statement), -(-len(content) // _BOX)
        boxes = [
            seal(
                key,
                content[index * _BOX : (index + 1) * _BOX],
                associated_data=_box(statement, index, count),
                entropy=self.entropy,
            )
            for index in range(count)
        ]
        return _signed(self.kind, statement, self.identity, *boxes)

    def _is_to(self, before: bytes, request: bytes) -> bool:
        """Whether an earlier message of this very client is to this request."""
        try:
            parts = _parted(self.kind, before)
            place = decode(_Place, parts.statement)
            _verify(self.kind, parts, self.identity.client, self.roster)
        except (DecodeError, VerificationError):
            raise ParameterError(
                f"before is no {self.kind.name.lower()} that this client signed; pass the last one that was "
                "returned, or None"
            ) from None
        return place.request == request


class Asker:
    """The client that asked: it opens what members tell it.

    Args:
        pending: the private half of its request.
        roster, session: of the session that runs now.

    Raises:
        ParameterError: `pending` belongs to no request of this session and roster.
    """

    __slots__ = ("_agreement", "_encapsulation", "_expected", "_roster")

    def __init__(self, pending: Secret, *, roster: Roster, session: bytes) -> None:
        if not isinstance(pending, Secret):
            raise ParameterError(
                f"pending is a {type(pending).__name__}; it is the Secret that was made with the request"
            )
        try:
            kept = decode(_Pending, pending.reveal())
            request = read_request(kept.request, roster=roster, session=session)
        except (DecodeError, VerificationError) as error:
            raise ParameterError(f"pending is no request of this session; ask anew ({error})") from None
        self._agreement = PrivateKey(Secret(kept.agreement))
        self._encapsulation = DecapsulationKey(Secret(kept.encapsulation))
        public = self._agreement.public_key, self._encapsulation.encapsulation_key
        if public != (request.agreement, request.encapsulation):  # or an honest peer would be accused
            raise ParameterError("pending holds keys of another request; ask anew")
        digest = hashlib.sha256(kept.request).digest()
        self._roster, self._expected = roster, (session, roster.digest, request.asker, digest)

    def opened(self, kind: Kind, message: Buffer) -> Said:
        """What a member told in answer to this very request.

        Raises:
            DecodeError, VerificationError: no other member told this here.
            PeerViolation: it did, and it does not open.
        """
        parts = _parted(kind, message)
        place = decode(_Place, parts.statement)
        found = place.session, place.roster, place.asker, place.request
        if place.kind != kind.code or found != self._expected:
            raise VerificationError("this was told in another session, to another client or another request")
        if place.giver == place.asker:
            raise VerificationError("a client does not answer itself")
        _verify(kind, parts, place.giver, self._roster)
        box = _BOX + OVERHEAD
        count = -(-len(parts.body) // box)
        try:
            shared = self._agreement.agree(place.agreement)
            key = _key(shared, self._encapsulation.decapsulate(place.ciphertext), parts.statement)
            pieces = [
                open_sealed(
                    key,
                    bytes(parts.body[index * box : (index + 1) * box]),
                    associated_data=_box(parts.statement, index, count),
                ).reveal()
                for index in range(count)
            ]
        except VerificationError as error:
            raise PeerViolation(f"what it sealed does not open: {error}", culprit=place.giver) from None
        return Said(place.giver, place.base, b"".join(pieces))


def _key(shared: Secret, encapsulated: Secret, statement: bytes) -> Secret:
    """The key of one message: both secrets, bound to the place with all public keys in it."""
    context = hashlib.sha256(statement).digest()
    return hybrid(shared, encapsulated, label=labels.HANDOVER_SEAL, context=context)


def _box(statement: bytes, index: int, count: int) -> bytes:
    """What a box is bound to: the message's place, its number, and how many there are."""
    return Writer().blob(statement).uint(index, 8).uint(count, 8).finish()


def _signed(kind: Kind, statement: bytes, identity: Identity, *body: bytes) -> bytes:
    """A message: magic, version, kind, statement, signature over statement and body, body."""
    hashed = hashlib.sha256()
    for piece in body:
        hashed.update(piece)
    signature = identity.key.sign(statement + hashed.digest(), label=kind.label)
    writer = Writer().fixed(_MAGIC).uint(_VERSION, 1).uint(kind.code, 1).blob(statement).fixed(signature)
    for piece in body:
        writer.fixed(piece)
    return writer.finish()


def _parted(kind: Kind, message: Buffer) -> _Parts:
    """A message's parts; nothing is verified."""
    reader = Reader(message)
    if bytes(reader.fixed(len(_MAGIC))) != _MAGIC:
        raise DecodeError("these bytes are no part of a handover")
    if (version := reader.uint(1)) != _VERSION:
        raise DecodeError(f"a handover of format {version}; this version reads {_VERSION}")
    if reader.uint(1) != kind.code:
        raise DecodeError(f"another part of a handover; this is to be the {kind.name.lower()}")
    statement = bytes(reader.blob(maximum=_MAXIMUM_STATEMENT))
    return _Parts(statement, bytes(reader.fixed(SIGNATURE_BYTES)), reader.rest())


def _verify(kind: Kind, parts: _Parts, member: ClientId, roster: Roster) -> None:
    """Raises `VerificationError` unless `member` is one and signed this as a message of this kind."""
    statement = parts.statement + hashlib.sha256(parts.body).digest()
    roster.verify(member, parts.signature, statement, label=kind.label)


def _check_member(identity: Identity, roster: Roster) -> None:
    if identity.client not in roster or roster.public_key(identity.client) != identity.key.public_key:
        raise ParameterError(
            f"the roster does not hold the key of {identity.client!r}; take the roster of the running session"
        )
