"""Integers modulo 2**bits, stored in machine words and sent in exactly `bits` bits each.

The sum of masked vectors lives in this ring (Bonawitz et al., CCS'17, section 4, with R = 2**bits). A power
of two costs nothing: numpy's unsigned words wrap around by themselves, and 2**bits divides 2**32 and 2**64,
so the bits above `bits` never flow downwards. They are left as they fall, as *garbage*, and only `pack`,
`centred` and `residues` drop them.

On the wire value i takes the bits [i * bits, (i + 1) * bits) of one stream, the least significant bit first,
and the padding of the last byte is zero. Each vector has one encoding.

Packing goes by groups of values that fill whole bytes. Each group is cut into *items* of at most 64 bits (two
neighbours joined, or one value over 32 bits), and every 64-bit word of the packed group is the OR of shifted
items, for all groups of a block at once. The last word of a group overlaps the one before it and writes the
same bits again, so that nothing reaches beyond the group. Widths of 5, 6 and 7 bytes need no shifts: their
values are stored as whole words, and what reaches into the next value is written again.

A ring hides nothing and checks no range: that a sum does not wrap is excluded by `FixedPoint.sum_ring`.

>>> ring = Ring(bits=20)
>>> vector = np.array([1, 2**20 - 1, 2**20 + 5], dtype=ring.dtype)
>>> body = ring.pack(vector)
>>> len(body), ring.packed_size(3)
(8, 8)
>>> ring.unpack(body, 3).tolist()
[1, 1048575, 5]
>>> ring.centred(vector).tolist()
[1, -1, 5]
"""

import io
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt

from secagg.errors import DecodeError, ParameterError
from secagg.numbers import plain, plain_fields
from secagg.wire import Buffer

__all__ = ["BLOCK_VALUES", "Ring", "Words"]

Words: TypeAlias = npt.NDArray[np.uint32] | npt.NDArray[np.uint64]
"""A vector over a ring: one machine word a value."""

BLOCK_VALUES: Final = 1 << 15
"""Values in each block but the last of `Ring.pack_blocks`. A multiple of 64, so blocks are whole bytes."""

_MAX_BITS: Final = 64
_WHOLE_WORDS: Final = (8, 16, 32, 64)
"""Widths whose packing is an array of machine words as it is."""
_ODD_BYTES: Final = (40, 48, 56)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ring:
    """The integers modulo 2**bits, 1 <= bits <= 64.

    Raises:
        ParameterError: bits is not an integer in [1, 64].
    """

    bits: int

    def __post_init__(self) -> None:
        plain_fields(self, "bits")
        if type(self.bits) is not int or not 1 <= self.bits <= _MAX_BITS:
            raise ParameterError(f"a ring of {self.bits!r} bits; choose an integer from 1 to {_MAX_BITS}")

    @property
    def dtype(self) -> np.dtype[Any]:
        """The machine word: uint32 up to 32 bits, uint64 above."""
        return np.dtype(np.uint32 if self.bits <= 32 else np.uint64)

    def zeros(self, count: int) -> Words:
        """`count` zeros, shape (count,) of `dtype`."""
        return np.zeros(_checked_count(count), dtype=self.dtype)

    def packed_size(self, count: int) -> int:
        """Bytes that `count` values take on the wire: ceil(count * bits / 8)."""
        return (_checked_count(count) * self.bits + 7) // 8

    def check_vector(self, vector: Words) -> None:
        """Refuses what is not a vector over this ring: contiguous, of one dimension and of `dtype`.

        Raises:
            ParameterError: it is anything else.
        """
        if (
            not isinstance(vector, np.ndarray)
            or vector.ndim != 1
            or vector.dtype != self.dtype
            or not vector.flags.c_contiguous
        ):
            raise ParameterError(
                f"a vector over {self.bits} bits is a contiguous one-dimensional array of {self.dtype}; "
                "convert it with numpy.ascontiguousarray and astype"
            )

    def pack(self, vector: Words) -> bytes:
        """The `packed_size(len(vector))` bytes of a vector; the bits above `bits` are dropped.

        Args:
            vector: shape (count,), contiguous, of `dtype`.

        Raises:
            ParameterError: the vector is anything else.
        """
        self.check_vector(vector)
        stream = io.BytesIO()
        for block in self._packed(vector):
            stream.write(block)
        return stream.getvalue()

    def pack_blocks(self, vector: Words) -> Iterator[bytes]:
        """`pack(vector)` in pieces: one for each `BLOCK_VALUES` values, the last one shorter.

        Each piece is the packing of its own slice of the vector and can be unpacked alone.

        Raises:
            ParameterError: as `pack`, at the call and not at the first block.
        """
        self.check_vector(vector)
        return (bytes(block) for block in self._packed(vector))

    def pack_stream(self, blocks: Iterable[Words]) -> Iterator[bytes]:
        """The packing of a vector that comes in blocks, block by block, through one reused buffer.

        Args:
            blocks: vectors of `BLOCK_VALUES` values each, the last one shorter. A block may reuse the memory
                of the one before.

        Raises:
            ParameterError: a block is anything else than `pack` takes, or one that is not the last is shorter
                or longer.
        """
        packer: _Packer | None = None
        complete = True
        for block in blocks:
            self.check_vector(block)
            if not complete or len(block) > BLOCK_VALUES:
                raise ParameterError(f"all blocks but the last have {BLOCK_VALUES} values")
            complete = len(block) == BLOCK_VALUES
            packer = packer or _Packer(self.bits, len(block))
            yield bytes(packer.pack(block))

    def unpack(self, buffer: Buffer, count: int) -> Words:
        """The `count` values of a packed vector, in [0, 2**bits), shape (count,) of `dtype`.

        Raises:
            DecodeError: the buffer does not have `packed_size(count)` bytes, or its padding is not zero.
            ParameterError: count is not an integer of at least 0.
        """
        body = self._checked_body(buffer, count)
        vector = np.empty(count, dtype=self.dtype)
        for start, values in self._unpacked(body, count):
            vector[start : start + len(values)] = values
        return vector

    def add_packed(self, accumulator: Words, buffer: Buffer) -> None:
        """Adds a packed vector to `accumulator` in place, block by block.

        The whole buffer is checked first: after an error the accumulator is as it was.

        Args:
            accumulator: shape (count,), contiguous, writeable, of `dtype`; garbage above `bits` is allowed.
            buffer: `packed_size(count)` bytes.

        Raises:
            DecodeError: as `unpack`.
            ParameterError: the accumulator is anything else.
        """
        self.check_vector(accumulator)
        if not accumulator.flags.writeable:
            raise ParameterError("the accumulator is read-only; pass a writeable array")
        body = self._checked_body(buffer, len(accumulator))
        if self.bits in _WHOLE_WORDS:
            np.add(accumulator, body.view(f"<u{self.bits // 8}"), out=accumulator)
            return
        for start, values in self._unpacked(body, len(accumulator)):
            part = accumulator[start : start + len(values)]
            np.add(part, values, out=part)

    def check_packed(self, buffer: Buffer, count: int) -> None:
        """Refuses what is not a packed vector of `count` values, so that adding it later cannot fail.

        Raises:
            DecodeError: as `unpack`.
            ParameterError: count is not an integer of at least 0.
        """
        self._checked_body(buffer, count)

    def centred(self, vector: Words) -> npt.NDArray[np.int64]:
        """The representatives in [-2**(bits-1), 2**(bits-1)): two's complement, shape (count,) of int64.

        Raises:
            ParameterError: as `pack`.
        """
        self.check_vector(vector)
        signed = np.dtype(np.int32 if self.bits <= 32 else np.int64)
        shift = 8 * signed.itemsize - self.bits
        centred = np.empty(len(vector), dtype=np.int64)
        scratch = np.empty(min(len(vector), BLOCK_VALUES), dtype=self.dtype)
        for start in range(0, len(vector), BLOCK_VALUES):
            block = vector[start : start + BLOCK_VALUES]
            part = scratch[: len(block)]
            np.left_shift(block, shift, out=part)
            np.right_shift(part.view(signed), shift, out=part.view(signed))
            centred[start : start + len(block)] = part.view(signed)
        return centred

    def residues(self, vector: Words) -> npt.NDArray[np.uint64]:
        """The representatives in [0, 2**bits), shape (count,) of uint64.

        Raises:
            ParameterError: as `pack`.
        """
        self.check_vector(vector)
        residues = vector.astype(np.uint64)
        residues &= np.uint64(_low_bits(self.bits))
        return residues

    def _packed(self, vector: Words) -> Iterator[memoryview]:
        """The blocks of `pack` in one reused buffer: each is valid until the next is asked for."""
        packer = _Packer(self.bits, min(len(vector), BLOCK_VALUES))
        for start in range(0, len(vector), BLOCK_VALUES):
            yield packer.pack(vector[start : start + BLOCK_VALUES])

    def _unpacked(self, body: npt.NDArray[np.uint8], count: int) -> Iterator[tuple[int, Words]]:
        """(first index, values) of each block, in one reused buffer."""
        packer = _Packer(self.bits, min(count, BLOCK_VALUES))
        for start in range(0, count, BLOCK_VALUES):
            values = min(BLOCK_VALUES, count - start)
            offset = start * self.bits // 8
            yield start, packer.unpack(body[offset : offset + self.packed_size(values)], values)

    def _checked_body(self, buffer: Buffer, count: int) -> npt.NDArray[np.uint8]:
        size = self.packed_size(count)
        try:
            view = memoryview(buffer)
        except TypeError:
            raise DecodeError(f"a packed vector is a buffer of bytes, not {type(buffer).__name__}") from None
        if not view.c_contiguous:
            raise DecodeError("a packed vector is a contiguous buffer of bytes, this one has gaps")
        if view.nbytes != size:
            raise DecodeError(
                f"a packed vector of {view.nbytes} bytes; {count} values of {self.bits} bits take {size}"
            )
        if not size:
            return np.empty(0, dtype=np.uint8)
        body = np.frombuffer(view, dtype=np.uint8)
        padding = 8 * size - count * self.bits
        if padding and int(body[-1]) >> (8 - padding):
            raise DecodeError(f"the {padding} padding bits at the end of a packed vector are not zero")
        return body


def _low_bits(bits: int) -> int:
    return (1 << bits) - 1


def _checked_count(count: int) -> int:
    count = plain(count)
    if type(count) is not int or count < 0:
        raise ParameterError(f"a vector of {count!r} values; its length is an integer of at least 0")
    return count


@dataclass(frozen=True, slots=True, kw_only=True)
class _Layout:
    """Where the items of a group stand in its packed bytes.

    Shifts are to the left when positive and to the right when negative.

    Attributes:
        values_per_item: 2 up to 32 bits, else 1.
        items: items in a group.
        size: bytes of a packed group, at least 8.
        words: (byte offset, ((item, shift), ...)): the packed word there is the OR of the shifted items.
        loads: for each item ((byte offset, shift), ...): the OR of the shifted words, cut to its width.
    """

    values_per_item: int
    items: int
    size: int
    words: tuple[tuple[int, tuple[tuple[int, int], ...]], ...]
    loads: tuple[tuple[tuple[int, int], ...], ...]


@lru_cache(maxsize=_MAX_BITS)
def _layout(bits: int) -> _Layout:
    values_per_item = 2 if bits <= 32 else 1
    width = values_per_item * bits
    items = 8 // values_per_item
    while items * width < 64:
        items *= 2
    size = items * width // 8
    words = []
    for offset in [*range(0, size - 8, 8), size - 8]:
        shifts = ((item, item * width - 8 * offset) for item in range(items))
        words.append((offset, tuple((item, shift) for item, shift in shifts if -width < shift < 64)))
    loads = []
    for item in range(items):
        first = min(item * width // 8, size - 8)
        parts = [(first, 8 * first - item * width)]
        if (item + 1) * width > 8 * first + 64:
            last = ((item + 1) * width + 7) // 8 - 8
            parts.append((last, 8 * last - item * width))
        loads.append(tuple(parts))
    return _Layout(
        values_per_item=values_per_item, items=items, size=size, words=tuple(words), loads=tuple(loads)
    )


def _shift(source: npt.NDArray[np.uint64], shift: int, out: npt.NDArray[np.uint64]) -> None:
    if shift > 0:
        np.left_shift(source, shift, out=out)
    elif shift < 0:
        np.right_shift(source, -shift, out=out)
    else:
        np.copyto(out, source)


class _Packer:
    """Packs and unpacks blocks of up to `capacity` values in buffers that it keeps.

    Words are little-endian by their type, so the bytes are the same on every host.
    """

    __slots__ = ("_bits", "_layout", "_stream", "_values", "_words")

    def __init__(self, bits: int, capacity: int) -> None:
        self._bits = bits
        self._layout = _layout(bits)
        group = self._layout.items * self._layout.values_per_item
        groups = -(-capacity // group)
        self._values = np.zeros(groups * group, dtype="<u4" if bits <= 32 else "<u8")
        self._words = np.empty((3, groups * self._layout.items), dtype="<u8")
        self._stream = np.zeros(groups * self._layout.size + 8, dtype=np.uint8)

    def pack(self, values: Words) -> memoryview:
        """The packed bytes of a block, valid until the next call."""
        size = (len(values) * self._bits + 7) // 8
        if self._bits in _WHOLE_WORDS:
            whole = self._stream[:size].view(f"<u{self._bits // 8}")
            np.copyto(whole, values, casting="unsafe")
            return self._stream.data[:size]
        if self._bits in _ODD_BYTES:
            self._store(values)
            return self._stream.data[:size]
        items = self._joined(values)
        layout = self._layout
        groups = len(items) // layout.items
        word, part = self._words[1, :groups], self._words[2, :groups]
        for offset, parts in layout.words:
            for index, (item, shift) in enumerate(parts):
                _shift(items[item :: layout.items], shift, part if index else word)
                if index:
                    np.bitwise_or(word, part, out=word)
            np.copyto(_strided(self._stream, "<u8", offset, groups, layout.size), word)
        return self._stream.data[:size]

    def unpack(self, body: npt.NDArray[np.uint8], count: int) -> Words:
        """The `count` values of a packed block, valid until the next call."""
        if self._bits in _WHOLE_WORDS:
            np.copyto(self._values[:count], body.view(f"<u{self._bits // 8}"))
            return self._values[:count]
        if self._bits in _ODD_BYTES:
            return self._load(body, count)
        layout = self._layout
        groups = -(-count // (layout.items * layout.values_per_item))
        if len(body) < groups * layout.size:
            self._stream[: len(body)] = body
            self._stream[len(body) : groups * layout.size] = 0
            body = self._stream
        slots = self._values.view("<u8")
        item, part, half = self._words[0, :groups], self._words[1, :groups], self._words[2, :groups]
        for index, loads in enumerate(layout.loads):
            for number, (offset, shift) in enumerate(loads):
                np.copyto(part, _strided(body, "<u8", offset, groups, layout.size))
                _shift(part, shift, part if number else item)
                if number:
                    np.bitwise_or(item, part, out=item)
            slot = slots[index : groups * layout.items : layout.items]
            if layout.values_per_item == 1:
                np.bitwise_and(item, _low_bits(self._bits), out=slot)
            else:
                np.left_shift(item, 32 - self._bits, out=half)
                np.bitwise_and(half, _low_bits(self._bits) << 32, out=half)
                np.bitwise_and(item, _low_bits(self._bits), out=item)
                np.bitwise_or(item, half, out=slot)
        return self._values[:count]

    def _joined(self, values: Words) -> npt.NDArray[np.uint64]:
        """The items of a block: neighbours joined, garbage dropped, zeros after the last value."""
        group = self._layout.items * self._layout.values_per_item
        padded = -(-len(values) // group) * group
        source = values.astype(self._values.dtype, copy=False)
        if len(values) < padded:
            self._values[: len(values)] = values
            self._values[len(values) : padded] = 0
            source = self._values[:padded]
        words = source.view("<u8")
        items = self._words[0, : len(words)]
        np.bitwise_and(words, _low_bits(self._bits), out=items)
        if self._layout.values_per_item == 2:
            upper = self._words[1, : len(words)]
            np.right_shift(words, 32 - self._bits, out=upper)
            np.bitwise_and(upper, _low_bits(self._bits) << self._bits, out=upper)
            np.bitwise_or(items, upper, out=items)
        return items

    def _store(self, values: Words) -> None:
        """Writes values of 5, 6 or 7 bytes to the stream as words of 8, in three strokes.

        Words at every other value do not overlap. The even ones spill into the odd ones, which come after
        them; those spill at most 3 bytes into the even ones, whose low 4 bytes are written again. The copies
        are ufuncs, which go through an aligned buffer: numpy's own copy of such words is four times slower.
        """
        size = self._bits // 8
        words = values.astype("<u8", copy=False)
        evens, odds = words[::2], words[1::2]
        np.positive(evens, out=_strided(self._stream, "<u8", 0, len(evens), 2 * size))
        np.positive(odds, out=_strided(self._stream, "<u8", size, len(odds), 2 * size))
        np.positive(words.view("<u4")[::4], out=_strided(self._stream, "<u4", 0, len(evens), 2 * size))

    def _load(self, body: npt.NDArray[np.uint8], count: int) -> Words:
        """Reads values of 5, 6 or 7 bytes as words of 8; the last one, behind which nothing stands, alone."""
        size = self._bits // 8
        whole = _strided(body, "<u8", 0, count - 1, size)
        np.bitwise_and(whole, _low_bits(self._bits), out=self._values[: count - 1])
        self._values[count - 1] = int.from_bytes(body[-size:].tobytes(), "little")
        return self._values[:count]


def _strided(
    stream: npt.NDArray[np.uint8], dtype: str, offset: int, count: int, stride: int
) -> npt.NDArray[Any]:
    """The words at `offset`, `offset` + `stride` ... of a stream of bytes, wherever they are aligned."""
    return np.ndarray((count,), dtype=dtype, buffer=stream.data, offset=offset, strides=(stride,))
