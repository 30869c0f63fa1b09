"""Strict bytes: a writer, and a reader that accepts only what the writer would have written.

Integers are big-endian and of fixed width; variable fields carry a 32-bit length and a bound that is
checked *before* anything is sliced or allocated; nothing may be left over. There is one encoding of each
value, so decoding and encoding again is the identity. The reader raises `DecodeError` and nothing else.

>>> body = Writer().uint(7, 2).blob(b"abc").text("wien").finish()
>>> reader = Reader(body)
>>> reader.uint(2), bytes(reader.blob(maximum=10)), reader.text(maximum=10)
(7, b'abc', 'wien')
>>> reader.finish()
>>> Reader(b"\\x00\\x00\\x00\\xffabc").blob(maximum=10)
Traceback (most recent call last):
    ...
secagg.errors.DecodeError: a field of 255 bytes, at most 10 are allowed here

A field of many megabytes need not exist before it is written: a `Stream` is made while the fields are joined.

>>> blocks = (bytes([index]) * 4 for index in range(3))
>>> Writer().blob(Stream(12, blocks)).finish().hex()
'0000000c000000000101010102020202'
"""

import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

from secagg.errors import DecodeError, ParameterError

if TYPE_CHECKING:
    # A message's field has the type that its reader sees, a memoryview. Whoever writes it may give a stream.
    from typing import Any as AnyField
else:
    AnyField = object

__all__ = ["Buffer", "Piece", "Reader", "Stream", "Writer"]

Buffer: TypeAlias = bytes | bytearray | memoryview
"""What a message may be: any contiguous buffer of bytes, memory-mapped ones included."""


@dataclass(frozen=True, slots=True)
class Stream(AnyField):  # type: ignore[misc]
    """A field's bytes, made block by block while the message is written, and once only.

    Args:
        nbytes: how many bytes the blocks have together; `Writer.finish` refuses any other number.
        blocks: gone through once. A block may reuse the memory of the one before.
    """

    nbytes: int
    blocks: Iterable["Piece"] = field(repr=False)

    @classmethod
    def of(cls, pieces: Sequence["Piece"]) -> "Stream":
        """Pieces one after the other, such as another message's `Writer.parts`."""
        return cls(sum(map(size_of, pieces)), pieces)


Piece: TypeAlias = Buffer | Stream
"""What a field is written from."""


def size_of(piece: Piece) -> int:
    """The bytes that a piece takes, without a length before it."""
    return piece.nbytes if isinstance(piece, Stream) else memoryview(piece).nbytes


_LENGTH = 4


class Writer:
    """Collects fields and joins them once. Every method but `parts` and `finish` returns the writer."""

    __slots__ = ("_parts",)

    def __init__(self) -> None:
        self._parts: list[Piece] = []

    def uint(self, value: int, size: int) -> "Writer":
        """An unsigned integer of exactly `size` bytes, in [0, 256**size)."""
        if not 0 <= value < 1 << (8 * size):
            raise ParameterError(f"an integer is outside the {size}-byte field that it is written to")
        self._parts.append(value.to_bytes(size, "big"))
        return self

    def fixed(self, data: Piece) -> "Writer":
        """Bytes whose length both sides know."""
        self._parts.append(data)
        return self

    def blob(self, data: Piece) -> "Writer":
        """Bytes behind a 32-bit length."""
        self.uint(size_of(data), _LENGTH)
        self._parts.append(data)
        return self

    def text(self, value: str) -> "Writer":
        """UTF-8 behind a 32-bit length."""
        return self.blob(value.encode("utf-8"))

    def parts(self) -> tuple[Piece, ...]:
        """All fields, as they were given and not joined yet."""
        return tuple(self._parts)

    def finish(self) -> bytes:
        """All fields, joined. Of a stream only the current block exists beside the result.

        Raises:
            ParameterError: a stream gave another number of bytes than it announced, or was used before.
        """
        buffers = [part for part in self._parts if not isinstance(part, Stream)]
        if len(buffers) == len(self._parts):
            return b"".join(buffers)
        joined = io.BytesIO()
        # The buffer takes its full size at once, and `getvalue` hands it out as it is: nothing is copied.
        joined.seek(sum(map(size_of, self._parts)))
        joined.write(b"\0")
        joined.seek(0)
        for part in self._parts:
            _pour(part, joined)
        joined.truncate()
        return joined.getvalue()


def _pour(piece: Piece, joined: io.BytesIO) -> None:
    """Writes a piece; a stream's blocks, if they have the announced size together."""
    if not isinstance(piece, Stream):
        joined.write(piece)
        return
    left = piece.nbytes
    for block in piece.blocks:
        left -= size_of(block)
        if left < 0:
            raise ParameterError(f"a stream gave more than the {piece.nbytes} bytes that it announced")
        _pour(block, joined)
    if left:
        raise ParameterError(
            f"a stream gave {piece.nbytes - left} bytes of the {piece.nbytes} that it announced; "
            "make a new one for each message"
        )


class Reader:
    """Walks over a buffer without copying it; slices are `memoryview`s of the input."""

    __slots__ = ("_at", "_size", "_view")

    def __init__(self, data: Buffer) -> None:
        try:
            self._view = memoryview(data).cast("B")
        except (TypeError, ValueError) as error:
            raise DecodeError(f"{type(data).__name__} is not a contiguous buffer of bytes") from error
        self._at, self._size = 0, len(self._view)

    @property
    def remaining(self) -> int:
        """Bytes not read yet."""
        return self._size - self._at

    def fixed(self, size: int) -> memoryview:
        """The next `size` bytes."""
        start = self._at
        stop = start + size
        if stop > self._size:
            raise DecodeError(f"{size} bytes were expected, {self.remaining} are left")
        self._at = stop
        return self._view[start:stop]

    def uint(self, size: int) -> int:
        """An unsigned integer of `size` bytes."""
        return int.from_bytes(self.fixed(size), "big")

    def blob(self, *, maximum: int, minimum: int = 0) -> memoryview:
        """A length-prefixed field of `minimum` to `maximum` bytes."""
        size = self.uint(_LENGTH)
        if size > maximum:
            raise DecodeError(f"a field of {size} bytes, at most {maximum} are allowed here")
        if size < minimum:
            raise DecodeError(f"a field of {size} bytes, at least {minimum} are needed here")
        return self.fixed(size)

    def text(self, *, maximum: int) -> str:
        """A length-prefixed UTF-8 field of at most `maximum` bytes."""
        data = self.blob(maximum=maximum)
        try:
            return str(data, "utf-8")
        except UnicodeDecodeError:
            raise DecodeError("a text field is not UTF-8") from None

    def rest(self) -> memoryview:
        """Everything that is left."""
        return self.fixed(self.remaining)

    def finish(self) -> None:
        """Raises `DecodeError` when anything is left over."""
        if self.remaining:
            raise DecodeError(f"{self.remaining} bytes are left over at the end")
