"""The ring: a slow twin over Python integers for all widths, one encoding a vector, wrong arguments."""

import mmap
from dataclasses import FrozenInstanceError
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from secagg.errors import DecodeError, ParameterError
from secagg.vectors.ring import BLOCK_VALUES, Ring, Words

WIDTHS = range(1, 65)
# Around the groups of 8 to 64 values and the blocks.
LENGTHS = (0, 1, 2, 3, 7, 8, 9, 15, 16, 17, 63, 64, 65, 127, 1001)
LONG = (BLOCK_VALUES - 1, BLOCK_VALUES, BLOCK_VALUES + 1, 2 * BLOCK_VALUES + 13)


def garbage(ring: Ring, count: int, seed: int = 0) -> Words:
    """Uniform machine words: the bits above `ring.bits` are set at random."""
    words = np.random.default_rng([ring.bits, count, seed]).integers(0, 2**64, count, dtype=np.uint64)
    return words.astype(ring.dtype)


def slow_pack(ring: Ring, vector: Words) -> bytes:
    """One Python integer that holds the whole stream."""
    stream = 0
    for index, value in enumerate(vector.tolist()):
        stream |= (value % 2**ring.bits) << (index * ring.bits)
    return stream.to_bytes(-(-len(vector) * ring.bits // 8), "little")


# Known answers


@pytest.mark.parametrize(
    ("bits", "values", "body"),
    [
        # Written out by hand from the definition of the stream.
        (1, [1, 0, 1, 1, 0, 0, 0, 0, 1], "0d01"),
        (3, [7, 0, 5], "4701"),
        (8, [1, 255], "01ff"),
        (12, [0x123, 0x456, 0x789], "2361458907"),
        (20, [0x12345, 0xABCDE], "4523e1cdab"),
        (31, [1, 1, 2**31 - 1], "01000080000000c0ffffff1f"),
        (33, [1, 2**32], "010000000000000002"),
        (64, [0x0102030405060708], "0807060504030201"),
    ],
)
def test_known_answers(bits: int, values: list[int], body: str) -> None:
    ring = Ring(bits=bits)
    vector = np.array(values, dtype=ring.dtype)
    assert ring.pack(vector).hex() == body
    assert ring.unpack(bytes.fromhex(body), len(values)).tolist() == values


@pytest.mark.parametrize("bits", WIDTHS)
def test_pack_agrees_with_the_slow_twin(bits: int) -> None:
    ring = Ring(bits=bits)
    for count in LENGTHS:
        vector = garbage(ring, count)
        body = ring.pack(vector)
        assert body == slow_pack(ring, vector)
        assert len(body) == ring.packed_size(count)


# Round trips


@pytest.mark.parametrize("bits", WIDTHS)
def test_round_trip_at_every_width(bits: int) -> None:
    ring = Ring(bits=bits)
    for count in (*LENGTHS, *LONG):
        vector = garbage(ring, count)
        body = ring.pack(vector)
        unpacked = ring.unpack(body, count)
        assert unpacked.dtype == ring.dtype
        assert np.array_equal(unpacked, ring.residues(vector))
        assert ring.pack(unpacked) == body


@pytest.mark.parametrize("bits", [1, 8, 13, 20, 31, 32, 33, 40, 61, 64])
def test_add_packed_is_addition_of_the_unpacked(bits: int) -> None:
    ring = Ring(bits=bits)
    for count in (1, 65, *LONG):
        accumulator, summand = garbage(ring, count, 1), garbage(ring, count, 2)
        expected = ring.residues(accumulator + summand)
        ring.add_packed(accumulator, ring.pack(summand))
        assert np.array_equal(ring.residues(accumulator), expected)


@pytest.mark.parametrize("bits", [1, 5, 20, 32, 47, 64])
def test_pack_blocks_are_packed_slices(bits: int) -> None:
    ring = Ring(bits=bits)
    vector = garbage(ring, 2 * BLOCK_VALUES + 13)
    blocks = list(ring.pack_blocks(vector))
    assert b"".join(blocks) == ring.pack(vector)
    assert [len(block) for block in blocks] == [
        ring.packed_size(BLOCK_VALUES),
        ring.packed_size(BLOCK_VALUES),
        ring.packed_size(13),
    ]
    assert np.array_equal(
        ring.unpack(blocks[1], BLOCK_VALUES), ring.residues(vector[BLOCK_VALUES : 2 * BLOCK_VALUES])
    )


@given(
    bits=st.integers(1, 64),
    values=st.lists(st.integers(0, 2**64 - 1), max_size=70),
    other=st.integers(0, 2**64 - 1),
)
def test_properties(bits: int, values: list[int], other: int) -> None:
    ring = Ring(bits=bits)
    modulus = 2**bits
    vector = np.array(values, dtype=np.uint64).astype(ring.dtype)
    residues = [value % modulus for value in values]
    assert ring.residues(vector).tolist() == residues
    assert ring.centred(vector).tolist() == [
        residue - modulus if residue >= modulus // 2 else residue for residue in residues
    ]
    body = ring.pack(vector)
    assert body == slow_pack(ring, vector)
    assert ring.unpack(body, len(values)).tolist() == residues
    summand = np.full(len(values), other, dtype=np.uint64).astype(ring.dtype)
    ring.add_packed(vector, ring.pack(summand))
    assert ring.residues(vector).tolist() == [(residue + other) % modulus for residue in residues]


@given(bits=st.integers(1, 64), body=st.binary(max_size=80), count=st.integers(0, 80))
def test_hostile_bytes_decode_canonically_or_not_at_all(bits: int, body: bytes, count: int) -> None:
    ring = Ring(bits=bits)
    try:
        vector = ring.unpack(body, count)
    except DecodeError:
        return
    assert ring.pack(vector) == body


@pytest.mark.parametrize("bits", [1, 2, 20, 32, 33, 64])
def test_centred_range(bits: int) -> None:
    ring = Ring(bits=bits)
    half = 2 ** (bits - 1)
    vector = np.array([0, half - 1, half, 2**bits - 1], dtype=np.uint64).astype(ring.dtype)
    centred = ring.centred(vector)
    assert centred.dtype == np.int64
    assert centred.tolist() == [0, half - 1, -half, -1]


def test_centred_and_residues_across_blocks() -> None:
    ring = Ring(bits=20)
    vector = garbage(ring, 2 * BLOCK_VALUES + 13)
    residues = vector.astype(np.int64) % 2**20
    assert np.array_equal(ring.residues(vector), residues)
    assert np.array_equal(ring.centred(vector), residues - 2**20 * (residues >= 2**19))


# Buffers


def test_every_kind_of_buffer(tmp_path: Path) -> None:
    ring = Ring(bits=21)
    vector = garbage(ring, 100)
    body = ring.pack(vector)
    path = tmp_path / "message"
    path.write_bytes(b"odd" + body)
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        window = memoryview(mapped)[3:]
        from_file = ring.unpack(window, 100)
        window.release()
    for unpacked in (
        from_file,
        ring.unpack(bytearray(body), 100),
        ring.unpack(memoryview(b"x" + body)[1:], 100),
        ring.unpack(memoryview(np.frombuffer(body, dtype=np.uint8)), 100),
    ):
        assert np.array_equal(unpacked, ring.residues(vector))


@pytest.mark.parametrize("bits", [16, 20, 32, 40, 64])
def test_unaligned_vectors(bits: int) -> None:
    ring = Ring(bits=bits)
    vector = garbage(ring, BLOCK_VALUES + 13)
    raw = bytearray(b"x" + vector.tobytes())
    unaligned = np.frombuffer(raw, dtype=ring.dtype, offset=1)
    assert not unaligned.flags.aligned
    assert ring.pack(unaligned) == ring.pack(vector)
    ring.add_packed(unaligned, ring.pack(vector))
    assert np.array_equal(ring.residues(unaligned), ring.residues(vector + vector))


def test_arguments_are_left_alone() -> None:
    ring = Ring(bits=20)
    vector = garbage(ring, 77)
    before = vector.copy()
    ring.pack(vector)
    ring.centred(vector)
    ring.residues(vector)
    list(ring.pack_blocks(vector))
    assert np.array_equal(vector, before)


# Refusals


@pytest.mark.parametrize("bits", [20, 31, 33, 63])
def test_truncated_and_oversized(bits: int) -> None:
    ring = Ring(bits=bits)
    body = ring.pack(garbage(ring, 9))
    for wrong in (b"", body[:-1], body[1:], body + b"\0"):
        accumulator = garbage(ring, 9, 1)
        before = accumulator.copy()
        with pytest.raises(DecodeError, match=rf"of {len(wrong)} bytes.*take {len(body)}"):
            ring.unpack(wrong, 9)
        with pytest.raises(DecodeError):
            ring.add_packed(accumulator, wrong)
        with pytest.raises(DecodeError):
            ring.check_packed(wrong, 9)
        assert np.array_equal(accumulator, before)
    ring.check_packed(body, 9)


@pytest.mark.parametrize(
    ("bits", "count"), [(1, 1), (3, 5), (20, 1), (31, 3), (63, 9), (20, BLOCK_VALUES + 1)]
)
def test_each_padding_bit_is_checked(bits: int, count: int) -> None:
    ring = Ring(bits=bits)
    body = bytearray(ring.pack(garbage(ring, count)))
    padding = 8 * len(body) - bits * count
    assert padding
    for bit in range(8 - padding, 8):
        tampered = bytearray(body)
        tampered[-1] |= 1 << bit
        accumulator = ring.zeros(count)
        with pytest.raises(DecodeError, match="padding bits"):
            ring.unpack(tampered, count)
        with pytest.raises(DecodeError, match="padding bits"):
            ring.add_packed(accumulator, tampered)
        with pytest.raises(DecodeError, match="padding bits"):
            ring.check_packed(tampered, count)
        assert not accumulator.any()


@pytest.mark.parametrize("buffer", [None, "text", 7, memoryview(bytes(10))[::2]])
def test_what_is_not_a_buffer(buffer: object) -> None:
    ring = Ring(bits=8)
    with pytest.raises(DecodeError, match="buffer of bytes"):
        ring.unpack(buffer, 5)  # type: ignore[arg-type]
    with pytest.raises(DecodeError, match="buffer of bytes"):
        ring.add_packed(ring.zeros(5), buffer)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "vector",
    [
        [1, 2, 3],
        None,
        np.zeros(3, dtype=np.int32),
        np.zeros(3, dtype=np.uint64),
        np.zeros(3, dtype=np.float32),
        np.zeros(3, dtype=np.dtype(np.uint32).newbyteorder()),
        np.zeros((1, 3), dtype=np.uint32),
        np.zeros((), dtype=np.uint32),
        np.zeros(6, dtype=np.uint32)[::2],
    ],
)
def test_what_is_not_a_vector(vector: Words) -> None:
    ring = Ring(bits=20)
    for use in (ring.check_vector, ring.pack, ring.pack_blocks, ring.centred, ring.residues):
        with pytest.raises(ParameterError, match="one-dimensional array of uint32"):
            use(vector)
    with pytest.raises(ParameterError, match="one-dimensional array of uint32"):
        ring.add_packed(vector, bytes(8))
    with pytest.raises(ParameterError, match="array of uint64"):
        Ring(bits=33).pack(np.zeros(3, dtype=np.uint32))


def test_a_read_only_accumulator() -> None:
    ring = Ring(bits=8)
    accumulator = ring.zeros(3)
    accumulator.flags.writeable = False
    with pytest.raises(ParameterError, match="read-only"):
        ring.add_packed(accumulator, b"abc")


@pytest.mark.parametrize("bits", [0, -1, 65, 20.0, True, "20", None, np.int64(65)])
def test_wrong_bits(bits: int) -> None:
    with pytest.raises(ParameterError, match="from 1 to 64"):
        Ring(bits=bits)


@pytest.mark.parametrize("count", [-1, 1.0, True, None, "1", np.int64(-1)])
def test_wrong_counts(count: int) -> None:
    ring = Ring(bits=20)
    for use in (ring.zeros, ring.packed_size):
        with pytest.raises(ParameterError, match="integer of at least 0"):
            use(count)
    with pytest.raises(ParameterError, match="integer of at least 0"):
        ring.unpack(b"", count)


# The type


def test_dtype_and_zeros() -> None:
    for bits in WIDTHS:
        ring = Ring(bits=bits)
        assert ring.dtype == (np.uint32 if bits <= 32 else np.uint64)
        zeros = ring.zeros(5)
        assert zeros.dtype == ring.dtype
        assert zeros.tolist() == [0] * 5


def test_a_ring_is_a_value() -> None:
    ring = Ring(bits=20)
    assert ring == Ring(bits=20)
    assert ring != Ring(bits=21)
    assert len({ring, Ring(bits=20)}) == 1
    with pytest.raises(FrozenInstanceError):
        ring.bits = 21  # type: ignore[misc]
    with pytest.raises(TypeError):
        Ring(20)  # type: ignore[call-arg]


def test_numpys_integers_are_integers() -> None:
    assert Ring(bits=np.int64(20)) == Ring(bits=20)  # type: ignore[arg-type]
    assert type(Ring(bits=np.int64(20)).bits) is int  # type: ignore[arg-type]
    assert Ring(bits=20).packed_size(np.uint8(200)) == 500  # type: ignore[arg-type]  # and nothing wraps around
