"""What travels between the two halves beside a protocol's own messages: small heads, in canonical bytes.

A parcel is a head, the bytes of the protocol's message, and the mark that the round's records travel with it.
The engine carries all three; the body is never copied here. There are three requests:

* `Hello` opens a session, or finds out who a node is: the session's place in the roster's line, the terms
  that both sides must agree on, a challenge. The answer, `Welcome`, is signed by a member of the roster and
  bound to the session, the node and the challenge, so that neither a stranger nor a replay gets in.
* `Step` carries a message of a protocol's machine; `Answer` carries the reply.
* `Handover` brings a client along that was left behind, where clients learn the sum; `Answer` again.

Whatever else goes wrong at a site is `Refused`: a text for people, without any value.

>>> decode_head(encode_head(Refused("the roster is version 2 here"))).reason
'the roster is version 2 here'
"""

import hashlib
from dataclasses import dataclass, field
from enum import Enum
from typing import Annotated, Final, TypeAlias

from protocols.identity import Identity
from protocols.messages.schema import U8, U64, Body, Key32, Name, Signature, Size, UpTo, decode, encode
from secagg import labels
from secagg.errors import DecodeError, ParameterError
from secagg.wire import Buffer, Writer

__all__ = [
    "DEFAULT_STUDY",
    "NO_COPY",
    "Answer",
    "Brought",
    "Copy",
    "Errand",
    "Handover",
    "Head",
    "Hello",
    "Parcel",
    "Place",
    "Purpose",
    "Refused",
    "Step",
    "Welcome",
    "decode_head",
    "encode_head",
    "purpose_session",
    "said",
    "sign_welcome",
    "study_of",
    "welcome_statement",
]

MAGIC: Final = b"SAGP"
VERSION: Final = 1
MAXIMUM_REASON: Final = 2000
"""Characters of a reason; an encoding has up to four bytes for each."""
MAXIMUM_NODE: Final = 64

DEFAULT_STUDY: Final = "study"


class Purpose(Enum):
    """What a sum is for: each has machines, keys and a session of its own. The values are on the wire."""

    TRAIN = 1
    EVALUATE = 2


@dataclass(frozen=True, slots=True)
class Place:
    """Which session: see `protocols.membership.session_id`.

    Attributes:
        study: names the training.
        version: of the roster.
        roster: the digest of that version.
        epoch: raised whenever a session begins anew.
    """

    study: Annotated[bytes, UpTo(255)]
    version: U64
    roster: Key32
    epoch: U64


@dataclass(frozen=True, slots=True)
class Copy:
    """How a client's own copy of the model stands, where clients learn the sum.

    Attributes:
        began: digest of the arrays that its training began from; zeros without a copy.
        left_behind: the others moved on by sums that it cannot open: a peer must bring it along.
        moved: a sum is in it, so that the arrays that it began from are no model to begin from any more.
    """

    began: Key32 = bytes(32)
    left_behind: bool = False
    moved: bool = False

    def in_step(self, began: bytes) -> bool:
        """Whether it is of the training that began from these arrays, and not left behind."""
        return self.began == began and not self.left_behind


@dataclass(frozen=True, slots=True)
class Hello:
    """Opens a session at a node.

    Attributes:
        place: which session.
        node: the engine's name for the node that is asked.
        challenge: 16 fresh bytes.
        terms: what both sides must agree on, as texts that people can compare: protocol, metrics, keys.
    """

    place: Place
    node: Annotated[bytes, UpTo(MAXIMUM_NODE)]
    challenge: Annotated[bytes, Size(16)]
    terms: Annotated[tuple[str, ...], UpTo(16)]


NO_COPY: Final = Copy()


@dataclass(frozen=True, slots=True)
class Welcome:
    """A member's answer.

    Attributes:
        client: who it is.
        settings: digest of the run's settings as this node has them.
        copy: its own copy of the model, where clients learn the sum.
        signature: over all that was said, see `welcome_statement`.
    """

    client: Name
    settings: Key32
    copy: Copy
    signature: Signature


@dataclass(frozen=True, slots=True)
class Step:
    """A message of the protocol's machine comes with this head.

    Attributes:
        place: which session; one that a client has not seen yet, but may admit, begins here.
        purpose: which of its machines is meant.
        withheld: names and digests of array records that the round binds and that did not travel.
        shown: for results in the message, by round: the digest that the round bound.
    """

    place: Place
    purpose: U8
    withheld: Annotated[dict[str, Key32], UpTo(64)] = field(default_factory=dict)
    shown: Annotated[dict[U64, bytes], UpTo(1024)] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Answer:
    """The machine's reply comes with this head.

    Attributes:
        copy: the client's own copy of the model.
        failure: why there is no reply, in words that hold no value. Empty if there is one.
    """

    copy: Copy = NO_COPY
    failure: Annotated[str, UpTo(4 * MAXIMUM_REASON)] = ""

    def __post_init__(self) -> None:
        _check_reason(self.failure)


class Errand(Enum):
    """What is asked of a client when one is brought along. The values are on the wire."""

    ASK = 1
    """The one that was left behind asks for a peer's copy."""
    GIVE = 2
    """A peer gives its copy, sealed, to the one whose request is the body."""
    VOUCH = 3
    """Another peer vouches for its own."""
    TAKE = 4
    """The one that asked gets what the others said: a `Brought` is the body."""


@dataclass(frozen=True, slots=True)
class Handover:
    """Brings a client along that was left behind: see `fl_integration.site.handover`.

    Attributes:
        place: which session.
        errand: which part of it is asked, an `Errand`. With TAKE the arrays travel that the training began
            from.
    """

    place: Place
    errand: U8


@dataclass(frozen=True, slots=True)
class Brought:
    """What the peers said, as the server relays it."""

    given: Body
    vouchers: Annotated[tuple[Body, ...], UpTo(4096)]


@dataclass(frozen=True, slots=True)
class Refused:
    """This node does not take part, and why."""

    reason: Annotated[str, UpTo(4 * MAXIMUM_REASON)]

    def __post_init__(self) -> None:
        _check_reason(self.reason)


def _check_reason(reason: str) -> None:
    if not reason.isprintable():  # it goes into logs
        raise ParameterError("a reason holds a control character")


def said(text: str) -> str:
    """A reason on one line, printable and not too long."""
    return "".join(each if each.isprintable() else " " for each in text)[:MAXIMUM_REASON]


Head: TypeAlias = Hello | Welcome | Step | Handover | Answer | Refused

_KINDS: Final[tuple[type[Head], ...]] = (Hello, Welcome, Step, Handover, Answer, Refused)


@dataclass(frozen=True, slots=True)
class Parcel:
    """What an engine carries.

    Attributes:
        head: `encode_head` made it.
        body: the protocol's message; may be empty.
        shows: the round's records travel with it, and the application will see them.
    """

    head: bytes
    body: Buffer = field(default=b"", repr=False)
    shows: bool = False


def encode_head(head: Head) -> bytes:
    """Its canonical bytes."""
    return Writer().fixed(MAGIC).uint(VERSION, 1).uint(_KINDS.index(type(head)), 1).finish() + encode(head)


def decode_head(data: Buffer) -> Head:
    """The head that these bytes are.

    Raises:
        DecodeError: they are none of this version.
    """
    view = memoryview(data)
    start = len(MAGIC) + 2
    if len(view) < start or bytes(view[: len(MAGIC)]) != MAGIC:
        raise DecodeError("a parcel's head does not begin with this library's magic bytes")
    if view[len(MAGIC)] != VERSION:
        raise DecodeError(
            f"a parcel of version {view[len(MAGIC)]}, this release reads version {VERSION}; "
            "both sides need releases that share one"
        )
    if view[len(MAGIC) + 1] >= len(_KINDS):
        raise DecodeError("a parcel's head of a kind that there is not")
    return decode(_KINDS[view[len(MAGIC) + 1]], view[start:])


def study_of(study: str) -> bytes:
    """The name of a study in bytes.

    Raises:
        ParameterError: it is no str of 1 to 255 bytes.
    """
    if not isinstance(study, str) or not 1 <= len(study.encode()) <= 255:
        raise ParameterError(
            f"study is {study!r}; it names the training in 1 to 255 bytes, alike on both sides"
        )
    return study.encode()


def purpose_session(session: bytes, purpose: Purpose) -> bytes:
    """The id (32 bytes) of the machines' session for one purpose: no two purposes share a key."""
    return hashlib.sha256(
        Writer().fixed(labels.PURPOSE).blob(session).uint(purpose.value, 1).finish()
    ).digest()


def welcome_statement(hello: Hello, client: str, settings: bytes, copy: Copy) -> bytes:
    """What a member signs: everything in the challenge, its own name, and what it says of itself."""
    return Writer().blob(encode(hello)).text(client).fixed(settings).fixed(encode(copy)).finish()


def sign_welcome(hello: Hello, identity: Identity, *, settings: bytes, copy: Copy) -> Welcome:
    """The answer of `identity` to `hello`."""
    statement = welcome_statement(hello, identity.client, settings, copy)
    return Welcome(identity.client, settings, copy, identity.key.sign(statement, label=labels.MEMBER_HELLO))
