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
"""

from typing import TypeAlias

from secagg.errors import DecodeError, ParameterError

__all__ = ["Buffer", "Reader", "Writer"]

Buffer: TypeAlias = bytes | bytearray | memoryview
"""What a message may be: any contiguous buffer of bytes, memory-mapped ones included."""

_LENGTH = 4


class Writer:
    """Collects fields and joins them once. Every method but `finish` returns the writer."""

    __slots__ = ("_parts",)

    def __init__(self) -> None:
        self._parts: list[Buffer] = []

    def uint(self, value: int, size: int) -> "Writer":
        """An unsigned integer of exactly `size` bytes, in [0, 256**size)."""
        if not 0 <= value < 1 << (8 * size):
            raise ParameterError(f"an integer is outside the {size}-byte field that it is written to")
        self._parts.append(value.to_bytes(size, "big"))
        return self

    def fixed(self, data: Buffer) -> "Writer":
        """Bytes whose length both sides know."""
        self._parts.append(data)
        return self

    def blob(self, data: Buffer) -> "Writer":
        """Bytes behind a 32-bit length."""
        self.uint(memoryview(data).nbytes, _LENGTH)
        self._parts.append(data)
        return self

    def text(self, value: str) -> "Writer":
        """UTF-8 behind a 32-bit length."""
        return self.blob(value.encode("utf-8"))

    def parts(self) -> tuple[Buffer, ...]:
        """All fields, as they were given and not joined yet."""
        return tuple(self._parts)

    def finish(self) -> bytes:
        """All fields, joined."""
        return b"".join(self._parts)


class Reader:
    """Walks over a buffer without copying it; slices are `memoryview`s of the input."""

    __slots__ = ("_at", "_view")

    def __init__(self, data: Buffer) -> None:
        try:
            self._view = memoryview(data).cast("B")
        except (TypeError, ValueError) as error:
            raise DecodeError(f"{type(data).__name__} is not a contiguous buffer of bytes") from error
        self._at = 0

    @property
    def remaining(self) -> int:
        """Bytes not read yet."""
        return len(self._view) - self._at

    def fixed(self, size: int) -> memoryview:
        """The next `size` bytes."""
        if size > self.remaining:
            raise DecodeError(f"{size} bytes were expected, {self.remaining} are left")
        start, self._at = self._at, self._at + size
        return self._view[start : self._at]

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
        data = bytes(self.blob(maximum=maximum))
        try:
            return data.decode("utf-8")
        except UnicodeDecodeError:
            raise DecodeError("a text field is not UTF-8") from None

    def rest(self) -> memoryview:
        """Everything that is left."""
        return self.fixed(self.remaining)

    def finish(self) -> None:
        """Raises `DecodeError` when anything is left over."""
        if self.remaining:
            raise DecodeError(f"{self.remaining} bytes are left over at the end")
