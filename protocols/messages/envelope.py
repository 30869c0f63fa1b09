"""The envelope around every message: which library, protocol, session, round, step and sender.

    magic "SAGG" | version u8 | protocol u8 | session 16..64 bytes | round u64 | stage u8 | sender | body

A stage is 2·e for what the server sends in exchange e, 2·e + 1 for what a client answers, with e < 64; three
stages above stand for messages that any protocol may need. What does not fit is a `DecodeError`.
"""

from dataclasses import dataclass, field
from typing import Annotated, Final

from protocols.messages.schema import Name, UpTo
from secagg.errors import DecodeError, ParameterError
from secagg.release import RELEASE
from secagg.wire import Buffer, Piece, Reader, Writer

__all__ = [
    "ACKNOWLEDGEMENT",
    "REFUSAL",
    "RESULT",
    "STAGES",
    "Envelope",
    "Refusal",
    "reply_stage",
    "request_stage",
]

MAGIC: Final = b"SAGG"
VERSION: Final = 2
MINIMUM_SESSION: Final = 16
MAXIMUM_SESSION: Final = 64

STAGES: Final = 128
"""The steps of every protocol have stages below this."""
RESULT: Final = 253
"""Server to client: the sum of an earlier round, which only clients open."""
ACKNOWLEDGEMENT: Final = 254
"""Client to server: a result arrived."""
REFUSAL: Final = 255
"""Client to server: the last request broke the protocol or this client's policy; nothing was released."""


def request_stage(exchange: int) -> int:
    """The stage of the server's message in exchange number `exchange`."""
    return 2 * exchange


def reply_stage(exchange: int) -> int:
    """The stage of a client's answer in exchange number `exchange`."""
    return 2 * exchange + 1


def check_session(session: object) -> bytes:
    """`session`, if it may name one: 16 to 64 bytes, never used before by the same parties."""
    if type(session) is not bytes or not MINIMUM_SESSION <= len(session) <= MAXIMUM_SESSION:
        raise ParameterError(
            f"a session is {MINIMUM_SESSION} to {MAXIMUM_SESSION} bytes, for example 16 random ones"
        )
    return session


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a client releases nothing.

    Attributes:
        reason: for people; it contains no value.
        accused: the client whose bytes are the cause, by the refuser's word; empty where it is nobody's.
        proof: what lets the server see for itself, in the protocol's own terms; empty where there is none.
    """

    reason: str
    accused: Name = ""
    proof: Annotated[bytes, UpTo(64)] = field(default=b"", repr=False)

    def __post_init__(self) -> None:
        if len(self.reason.encode()) > 4096:
            raise ParameterError("a refusal's reason has at most 4096 bytes")
        if not self.reason.isprintable():  # it goes into logs
            raise ParameterError("a refusal's reason holds a control character")


@dataclass(frozen=True, slots=True, kw_only=True)
class Envelope:
    """One decoded message; `body` is a view into it."""

    protocol: int
    session: bytes
    round: int
    stage: int
    sender: str
    body: Buffer = b""

    def encode(self, *parts: Piece) -> bytes:
        """The message's bytes; the body, and behind it `parts`, are joined here and copied once.

        Raises:
            ParameterError: a stream among them gave another number of bytes than it announced.
        """
        writer = (
            Writer()
            .fixed(MAGIC)
            .uint(VERSION, 1)
            .uint(self.protocol, 1)
            .blob(self.session)
            .uint(self.round, 8)
            .uint(self.stage, 1)
            .text(self.sender)
        )
        for part in (self.body, *parts):
            writer.fixed(part)
        return writer.finish()

    @classmethod
    def decode(cls, message: Buffer) -> "Envelope":
        """The envelope of `message`; its body is still to be decoded.

        Raises:
            DecodeError: the bytes do not begin with a header of this version.
        """
        reader = Reader(message)
        if bytes(reader.fixed(4)) != MAGIC:
            raise DecodeError("the message does not begin with this library's magic bytes")
        if (version := reader.uint(1)) != VERSION:
            raise DecodeError(
                f"a message of wire version {version}; secagg {RELEASE} reads version {VERSION}. Both "
                "sites need releases that share one, see the changelog"
            )
        return cls(
            protocol=reader.uint(1),
            session=bytes(reader.blob(minimum=MINIMUM_SESSION, maximum=MAXIMUM_SESSION)),
            round=reader.uint(8),
            stage=reader.uint(1),
            sender=reader.text(maximum=64),
            body=reader.rest(),
        )
