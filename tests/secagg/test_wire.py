"""Strict bytes: one encoding a value; hostile input gives a value or a DecodeError, nothing else (B7)."""

import itertools
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import TypeAlias

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from secagg.errors import DecodeError, ParameterError
from secagg.wire import Buffer, Reader, Stream, Writer, size_of

Field: TypeAlias = tuple[str, int | bytes | str, int]

fields = st.lists(
    st.one_of(
        st.integers(1, 9).flatmap(
            lambda n: st.tuples(st.just("uint"), st.integers(0, 256**n - 1), st.just(n))
        ),
        st.binary(max_size=20).map(lambda b: ("fixed", b, len(b))),
        st.binary(max_size=20).map(lambda b: ("blob", b, 20)),
        st.text(max_size=10).map(lambda t: ("text", t, 40)),
    ),
    max_size=8,
)


def write(values: list[Field]) -> bytes:
    writer = Writer()
    for kind, value, size in values:
        writer = writer.uint(value, size) if kind == "uint" else getattr(writer, kind)(value)  # type: ignore[arg-type]
    return writer.finish()


def read(data: bytes, values: list[Field]) -> list[int | bytes | str]:
    reader = Reader(data)
    result: list[int | bytes | str] = []
    for kind, _, size in values:
        if kind == "uint":
            result.append(reader.uint(size))
        elif kind == "fixed":
            result.append(bytes(reader.fixed(size)))
        elif kind == "blob":
            result.append(bytes(reader.blob(maximum=size)))
        else:
            result.append(reader.text(maximum=size))
    reader.finish()
    return result


def test_known_answer() -> None:
    body = Writer().uint(258, 3).fixed(b"xy").blob(b"abc").text("wien ü").finish()
    assert body.hex(" ") == "00 01 02 78 79 00 00 00 03 61 62 63 00 00 00 07 77 69 65 6e 20 c3 bc"


@given(fields)
def test_round_trip(values: list[Field]) -> None:
    assert read(write(values), values) == [value for _, value, _ in values]


@given(fields.filter(len), st.data())
def test_every_truncation_and_every_leftover_is_refused(values: list[Field], data: st.DataObject) -> None:
    body = write(values)
    with pytest.raises(DecodeError, match="left over"):
        read(body + data.draw(st.binary(min_size=1, max_size=5)), values)
    if body:
        with pytest.raises(DecodeError):
            read(body[: data.draw(st.integers(0, len(body) - 1))], values)


@given(fields, st.binary(max_size=120))
def test_hostile_bytes_are_the_canonical_encoding_or_a_decode_error(values: list[Field], body: bytes) -> None:
    try:
        decoded = read(body, values)
    except DecodeError:
        return
    shape = [(kind, value, size) for (kind, _, size), value in zip(values, decoded, strict=True)]
    assert write(shape) == body


@given(fields.filter(len), st.data())
def test_a_changed_byte_is_another_value_or_a_decode_error(values: list[Field], data: st.DataObject) -> None:
    body = bytearray(write(values))
    if not body:
        return
    at = data.draw(st.integers(0, len(body) - 1))
    body[at] ^= data.draw(st.integers(1, 255))
    try:
        decoded = read(bytes(body), values)
    except DecodeError:
        return
    assert decoded != [value for _, value, _ in values]


READS: list[Callable[[Reader], object]] = [
    lambda reader: reader.uint(3),
    lambda reader: reader.fixed(5),
    lambda reader: reader.blob(maximum=9),
    lambda reader: reader.blob(maximum=2**32, minimum=2),
    lambda reader: reader.text(maximum=9),
    lambda reader: reader.text(maximum=2**32),
    lambda reader: reader.rest(),
    lambda reader: reader.finish(),
]


@given(st.binary(max_size=60), st.lists(st.sampled_from(READS), max_size=12))
def test_any_sequence_of_reads_raises_nothing_but_decode_error(
    body: bytes, reads: list[Callable[[Reader], object]]
) -> None:
    reader = Reader(body)
    for step in reads:
        before = reader.remaining
        with suppress(DecodeError):
            step(reader)
        assert 0 <= reader.remaining <= before


@pytest.mark.parametrize("maximum", [1000, 2**32 - 1])
@pytest.mark.parametrize("prefix", ["ffffffff", "7fffffff", "000003e9"])
def test_an_oversized_length_allocates_nothing(prefix: str, maximum: int) -> None:
    body = bytes.fromhex(prefix) + b"short"
    tracemalloc.start()
    try:
        with pytest.raises(DecodeError):
            Reader(body).blob(maximum=maximum)
        with pytest.raises(DecodeError):
            Reader(body).text(maximum=maximum)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 100_000


def test_blob_bounds_are_inclusive() -> None:
    body = Writer().blob(b"abc").finish()
    assert bytes(Reader(body).blob(maximum=3, minimum=3)) == b"abc"
    with pytest.raises(DecodeError, match="a field of 3 bytes, at most 2"):
        Reader(body).blob(maximum=2)
    with pytest.raises(DecodeError, match="a field of 3 bytes, at least 4"):
        Reader(body).blob(maximum=9, minimum=4)


@pytest.mark.parametrize("data", ["ff", "c3", "c0af", "eda080", "f5808080", "61ff"])
def test_text_that_is_not_utf8(data: str) -> None:
    """A stray byte, a cut sequence, an overlong one, a surrogate, above U+10FFFF, and a bad end."""
    with pytest.raises(DecodeError, match="not UTF-8") as caught:
        Reader(Writer().blob(bytes.fromhex(data)).finish()).text(maximum=10)
    assert caught.value.__suppress_context__


def test_reading_does_not_copy() -> None:
    body = bytearray(Writer().blob(b"abc").fixed(b"rest").finish())
    reader = Reader(body)
    blob, rest = reader.blob(maximum=3), reader.rest()
    body[4], body[-1] = ord("X"), ord("Y")
    assert (bytes(blob), bytes(rest)) == (b"Xbc", b"resY")
    reader.finish()


def test_remaining_counts_down() -> None:
    reader = Reader(bytes(10))
    assert reader.remaining == 10
    reader.uint(4)
    assert reader.remaining == 6
    assert len(reader.rest()) == 6
    assert (reader.remaining, len(reader.rest())) == (0, 0)


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview, lambda b: np.frombuffer(b, dtype=np.uint16)])
def test_any_contiguous_buffer_is_read(kind: Callable[[bytes], memoryview]) -> None:
    reader = Reader(kind(b"\x01\x02\x03\x04"))
    assert (reader.remaining, reader.uint(4)) == (4, 0x01020304)


@pytest.mark.parametrize(
    "data", ["text", None, 7, [1, 2], memoryview(bytes(8))[::2], np.zeros((4, 4), dtype=np.uint8)[:, 1]]
)
def test_anything_else_is_a_decode_error(data: object) -> None:
    with pytest.raises(DecodeError, match="not a contiguous buffer of bytes"):
        Reader(data)  # type: ignore[arg-type]


@pytest.mark.parametrize(("value", "size"), [(-1, 1), (256, 1), (2**32, 4), (1, 0)])
def test_integers_outside_their_field(value: int, size: int) -> None:
    with pytest.raises(ParameterError, match=f"the {size}-byte field"):
        Writer().uint(value, size)


def test_a_blob_of_wide_items_has_its_length_in_bytes() -> None:
    values = np.arange(3, dtype=np.uint32)
    body = Writer().blob(values.data).finish()
    assert body == b"\x00\x00\x00\x0c" + values.tobytes()


# Streams


@given(st.lists(st.binary(max_size=9), max_size=6), st.binary(max_size=9))
def test_a_stream_is_written_as_its_bytes(blocks: list[bytes], tail: bytes) -> None:
    whole = b"".join(blocks)
    plain = Writer().uint(3, 2).blob(whole).fixed(whole).fixed(tail).finish()
    size = len(whole)
    stream = (
        Writer().uint(3, 2).blob(Stream(size, iter(blocks))).fixed(Stream(size, iter(blocks))).fixed(tail)
    )
    assert stream.finish() == plain
    nested = Stream.of([Stream(size, iter(blocks)), tail])
    assert (nested.nbytes, size_of(nested), size_of(tail)) == (size + len(tail), size + len(tail), len(tail))
    assert Writer().fixed(nested).finish() == whole + tail


def test_a_block_may_reuse_the_memory_of_the_one_before() -> None:
    block = bytearray(4)

    def blocks() -> Iterator[Buffer]:
        for index in range(3):
            block[:] = bytes([index]) * 4
            yield memoryview(block)

    assert Writer().fixed(Stream(12, blocks())).finish().hex() == "000000000101010102020202"


def test_the_blocks_of_a_stream_are_counted_in_bytes() -> None:
    values = np.arange(3, dtype=np.uint32)
    assert Writer().blob(Stream.of([values.data])).finish() == b"\x00\x00\x00\x0c" + values.tobytes()


def test_a_stream_is_begun_by_finish_and_by_nothing_else() -> None:
    begun: list[int] = []

    def blocks() -> Iterator[bytes]:
        begun.append(1)
        yield b"abc"

    stream = Stream(3, blocks())
    writer = Writer().blob(stream)
    assert writer.parts()[1] is stream
    assert "blocks" not in repr(stream)
    assert begun == []
    assert writer.finish() == b"\x00\x00\x00\x03abc"
    assert begun == [1]
    with pytest.raises(ParameterError, match="0 bytes of the 3"):
        writer.finish()


@pytest.mark.parametrize(("announced", "given_sizes"), [(3, []), (3, [2]), (0, [1]), (3, [2, 2]), (3, [4])])
def test_a_stream_of_another_size_than_announced_is_refused(announced: int, given_sizes: list[int]) -> None:
    blocks = [bytes(size) for size in given_sizes]
    with pytest.raises(ParameterError, match=f"the {announced}"):
        Writer().fixed(b"before").fixed(Stream(announced, blocks)).finish()
    with pytest.raises(ParameterError, match=f"the {announced}"):
        Writer().fixed(Stream.of([b"", Stream(announced, blocks)])).finish()


def test_an_endless_stream_ends_at_its_announced_size() -> None:
    with pytest.raises(ParameterError, match="more than the 10 bytes"):
        Writer().fixed(Stream(10, itertools.repeat(b"abc"))).finish()


def test_beside_a_message_there_is_one_block_of_its_stream() -> None:
    size, block = 16_000_000, bytes(100_000)
    tracemalloc.start()
    try:
        message = Writer().uint(1, 1).blob(Stream(size, itertools.repeat(block, 160))).finish()
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert len(message) == size + 5
    assert peak < size + 500_000
