"""The codec: every message and saved state of every protocol round-trips, and nothing else decodes."""

from dataclasses import dataclass, fields, is_dataclass
from typing import Annotated, Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from protocols import CkksSum, LatticeSum, MaskedSum, PaillierSum, PlainSum
from protocols.consortium.messages import ConsortiumSecret, Result
from protocols.machine.client import Request
from protocols.masked.messages import SHARE_BYTES, PairKeyShare, Reveal, SelfMaskShare, ShareKeys, Unmask
from protocols.masked.transcript import EpochTranscript, SignedDealing, SignedKeys, SignedSurvivors
from protocols.messages.envelope import Refusal
from protocols.messages.record import RoundRecord, SignedRecord
from protocols.messages.schema import (
    U8,
    U16,
    U32,
    U64,
    Body,
    Key32,
    Name,
    Signature,
    Size,
    Stream,
    UpTo,
    decode,
    encode,
    parts,
)
from secagg.errors import DecodeError, ParameterError
from secagg.secret import Secret
from tests.protocols.conftest import values_of

SLOW = settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@dataclass(frozen=True, slots=True)
class Inner:
    """A part of a message."""

    name: Name
    pair: tuple[U8, bool]


@dataclass(frozen=True, slots=True, kw_only=True)
class Everything:
    """One field of each type that has an encoding."""

    small: U8
    medium: U16
    word: U32
    large: U64
    flag: bool
    key: Key32
    signature: Signature
    exact: Annotated[bytes, Size(3)]
    data: bytes
    short: Annotated[bytes, UpTo(4)]
    body: Body
    text: Name
    secret: Secret
    floats: NDArray[np.float64]
    words: NDArray[np.uint32]
    inner: Inner
    maybe: Inner | None
    either: SelfMaskShare | PairKeyShare
    many: tuple[Name, ...]
    few: Annotated[tuple[U8, ...], UpTo(2)]
    table: dict[Name, U16]
    group: frozenset[Name]


def protocol_types() -> list[type]:
    found: list[type] = [Everything, Request, Refusal, Result, ConsortiumSecret, RoundRecord, SignedRecord]
    found += [EpochTranscript, SignedDealing, SignedKeys, SignedSurvivors]
    for protocol in (PlainSum, MaskedSum, CkksSum, PaillierSum, LatticeSum):
        suite = protocol(max_clients=3).suite
        found += [*suite.requests, *suite.replies, *suite.client.states]
        found += [kind for kind in suite.server.states if is_dataclass(kind)]
    return list(dict.fromkeys(found))


TYPES = protocol_types()


def example() -> Everything:
    return Everything(
        small=7,
        medium=513,
        word=1,
        large=2**64 - 1,
        flag=True,
        key=bytes(range(32)),
        signature=bytes(64),
        exact=b"abc",
        data=b"data",
        short=b"1234",
        body=memoryview(b"body"),
        text="wien",
        secret=Secret(b"secret"),
        floats=np.array([1.5]),
        words=np.array([1, 2], dtype=np.uint32),
        inner=Inner("basel", (3, False)),
        maybe=None,
        either=PairKeyShare(b"share"),
        many=("b", "a"),
        few=(1, 2),
        table={"b": 2, "a": 1},
        group=frozenset(["z", "y"]),
    )


def test_the_encoding_is_pinned() -> None:
    # Written by hand from the rules: big-endian integers, 32-bit lengths and counts, keys in order.
    expected = b"".join(
        [
            b"\x07",
            b"\x02\x01",
            b"\x00\x00\x00\x01",
            b"\xff" * 8,
            b"\x01",
            bytes(range(32)),
            bytes(64),
            b"abc",
            b"\x00\x00\x00\x04data",
            b"\x00\x00\x00\x041234",
            b"\x00\x00\x00\x04body",
            b"\x00\x00\x00\x04wien",
            b"\x00\x00\x00\x06secret",
            b"\x03\x00\x00\x00\x08" + np.array([1.5], dtype="<f8").tobytes(),
            b"\x00\x00\x00\x00\x08\x01\x00\x00\x00\x02\x00\x00\x00",
            b"\x00\x00\x00\x05basel\x03\x00",
            b"\x01",
            b"\x01\x00\x00\x00\x05share",
            b"\x00\x00\x00\x02\x00\x00\x00\x01b\x00\x00\x00\x01a",
            b"\x00\x00\x00\x02\x01\x02",
            b"\x00\x00\x00\x02\x00\x00\x00\x01a\x00\x01\x00\x00\x00\x01b\x00\x02",
            b"\x00\x00\x00\x02\x00\x00\x00\x01y\x00\x00\x00\x01z",
        ]
    )
    assert encode(example()) == expected
    back = decode(Everything, expected)
    assert back.table == {"a": 1, "b": 2}
    assert back.body.tobytes() == b"body"
    assert back.secret == Secret(b"secret")
    assert back.words.dtype == np.uint32


@pytest.mark.parametrize("kind", TYPES, ids=lambda kind: f"{kind.__module__}.{kind.__name__}")
@SLOW
@given(data=st.data())
def test_round_trip_is_the_identity(kind: type, data: st.DataObject) -> None:
    try:
        value = data.draw(values_of(kind))
    except ParameterError:
        return  # the type's own check on its fields
    encoded = encode(value)
    decoded: Any = decode(kind, encoded)
    assert encode(decoded) == encoded
    assert type(decoded) is kind
    for field in fields(kind):
        before, after = getattr(value, field.name), getattr(decoded, field.name)
        if isinstance(before, int | str | bytes | bool | frozenset):
            assert before == after
            assert type(before) is type(after)
        elif isinstance(before, np.ndarray):
            assert after.flags.writeable
            assert before.tobytes() == after.tobytes()


@pytest.mark.parametrize("kind", TYPES, ids=lambda kind: f"{kind.__module__}.{kind.__name__}")
@SLOW
@given(data=st.data(), noise=st.binary(max_size=200))
def test_other_bytes_are_a_decode_error_or_canonical(kind: type, data: st.DataObject, noise: bytes) -> None:
    try:
        encoded = bytearray(encode(data.draw(values_of(kind))))
    except ParameterError:
        encoded = bytearray(noise)
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, len(encoded)))
        encoded[place : place + data.draw(st.integers(0, 4))] = data.draw(st.binary(max_size=4))
    for body in (bytes(encoded), noise):
        try:
            value: Any = decode(kind, body)
        except DecodeError:
            continue
        assert encode(value) == body


@pytest.mark.parametrize("kind", TYPES, ids=lambda kind: f"{kind.__module__}.{kind.__name__}")
@SLOW
@given(data=st.data())
def test_truncated_and_extended(kind: type, data: st.DataObject) -> None:
    try:
        encoded = encode(data.draw(values_of(kind)))
    except ParameterError:
        return
    with pytest.raises(DecodeError):
        decode(kind, encoded + b"\x00")
    if encoded:
        with pytest.raises(DecodeError):
            decode(kind, encoded[: data.draw(st.integers(0, len(encoded) - 1))])


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"\x00\x00\x00\x041234", b"\x00\x00\x00\x0512345"),  # over its bound
        (b"\x00\x00\x00\x04wien", b"\x00\x00\x00\x41" + b"w" * 65),
        (b"\x00\x00\x00\x04wien", b"\x00\x00\x00\x04wi\xff\xfe"),  # no UTF-8
        (b"\x00\x00\x00\x04wien", b"\x00\x00\x00\x03\xed\xa0\x80"),  # a lone surrogate
        (b"\x00\x00\x00\x04wien", b"\x00\x00\x00\x02\xc0\x80"),  # an overlong zero
        (b"\x00\x00\x00\x02\x01\x02", b"\x00\x00\x00\x03\x01\x02\x03"),
        (b"basel\x03\x00", b"basel\x03\x02"),  # a flag of 2
        (b"\x01\x01\x00\x00\x00\x05share", b"\x02\x01\x00\x00\x00\x05share"),  # an unknown alternative
        (b"\x01\x01\x00\x00\x00\x05share", b"\x01\x02\x00\x00\x00\x05share"),
        (b"\x00\x00\x00\x01y\x00\x00\x00\x01z", b"\x00\x00\x00\x01z\x00\x00\x00\x01y"),  # out of order
        (b"\x00\x00\x00\x01y\x00\x00\x00\x01z", b"\x00\x00\x00\x01z\x00\x00\x00\x01z"),  # twice
        (b"\x01a\x00\x01\x00\x00\x00\x01b\x00\x02", b"\x01b\x00\x01\x00\x00\x00\x01a\x00\x02"),
        (b"\x01a\x00\x01\x00\x00\x00\x01b\x00\x02", b"\x01a\x00\x01\x00\x00\x00\x01a\x00\x02"),
        (b"\x03\x00\x00\x00\x08", b"\x04\x00\x00\x00\x08"),  # an unknown type of array
        (
            b"\x00\x00\x00\x00\x08\x01\x00\x00\x00\x02\x00\x00\x00",
            b"\x00\x00\x00\x00\x07\x01\x00\x00\x00\x02\x00\x00",
        ),
    ],
)
def test_encodings_that_are_not_canonical(old: bytes, new: bytes) -> None:
    good = encode(example())
    assert good.count(old) == 1
    with pytest.raises(DecodeError):
        decode(Everything, good.replace(old, new))


def test_counts_are_checked_before_anything_is_allocated() -> None:
    @dataclass(frozen=True, slots=True)
    class Many:
        items: tuple[U8, ...]

    for count in (3, 2**20, 2**20 + 1, 2**32 - 1):
        with pytest.raises(DecodeError):
            decode(Many, count.to_bytes(4, "big") + b"\x01\x02")


@pytest.mark.parametrize("size", [0, 1, 2**31, 2**32 - 1])
def test_lengths_are_checked_before_anything_is_sliced(size: int) -> None:
    with pytest.raises(DecodeError):
        decode(SelfMaskShare, size.to_bytes(4, "big") + b"\x01\x02")


@pytest.mark.parametrize(
    "data", [None, 7, "text", [1], memoryview(b"abcd")[::2]], ids=lambda data: type(data).__name__
)
def test_what_is_no_buffer(data: Any) -> None:
    with pytest.raises(DecodeError):
        decode(SelfMaskShare, data)


def test_a_body_is_a_view_into_the_message() -> None:
    message = bytearray(encode(Request((), memoryview(b"a long vector"))))
    body = decode(Request, message).body
    assert isinstance(body, memoryview)
    message[-1] ^= 1
    assert body[-1] == message[-1]


def test_a_body_is_written_from_a_stream() -> None:
    blocks = [b"a long", b"", b" vector"]
    plain = encode(Request((memoryview(b"result"),), memoryview(b"a long vector")))
    assert encode(Request((memoryview(b"result"),), Stream(13, iter(blocks)))) == plain
    stream = Stream(13, iter(blocks))
    pieces = parts(Request((memoryview(b"result"),), stream))
    assert any(piece is stream for piece in pieces)
    assert encode(Request((memoryview(b"result"),), Stream.of(pieces[-1:]))) == plain
    body = decode(Request, plain).body
    assert isinstance(body, memoryview)
    assert bytes(body) == b"a long vector"


def test_a_stream_that_does_not_fit_its_field() -> None:
    @dataclass(frozen=True, slots=True)
    class Short:
        body: Annotated[memoryview, UpTo(4)]

    assert encode(Short(Stream(4, [b"1234"]))) == b"\x00\x00\x00\x041234"
    with pytest.raises(ParameterError, match="5 bytes, at most 4"):
        encode(Short(Stream(5, [b"12345"])))
    with pytest.raises(ParameterError, match="4"):
        encode(Short(Stream(4, [b"12345"])))


@pytest.mark.parametrize(
    "changes",
    [
        {"small": 256},
        {"small": -1},
        {"large": 2**64},
        {"key": bytes(31)},
        {"signature": bytes(65)},
        {"short": b"12345"},
        {"text": "x" * 65},
        {"text": "ü" * 33},
        {"few": (1, 2, 3)},
        {"either": b"neither"},
        {"floats": np.zeros((2, 2))},
        {"floats": np.array(["x"])},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_values_that_do_not_fit_their_field(changes: dict[str, Any]) -> None:
    from dataclasses import replace

    with pytest.raises(ParameterError):
        encode(replace(example(), **changes))


def test_types_without_an_encoding() -> None:
    @dataclass(frozen=True, slots=True)
    class Odd:
        value: float

    with pytest.raises(ParameterError):
        encode(Odd(1.0))
    with pytest.raises(ParameterError):
        decode(Odd, b"")


def test_one_kind_of_share_for_one_peer() -> None:
    # One bit says the kind of each dealer's one share: a message with both kinds for the same peer cannot be
    # written, not as a value, not as bytes.
    dealing = ShareKeys(b"", b"", b"", b"", b"", bytes(32), bytes(32), bytes(64))
    shares = [bytes([index]) * SHARE_BYTES for index in range(9)]
    told: list[Reveal] = [PairKeyShare(each) if each[0] % 3 else SelfMaskShare(each) for each in shares]
    message = decode(Unmask, encode(Unmask.of(told, following=dealing)))
    assert message.reveals(9) == told
    assert len(message.kinds) == 2
    for count in (8, 10, 0):
        with pytest.raises(DecodeError, match="shares were asked for"):
            message.reveals(count)
    for kinds in (b"", message.kinds[:1], message.kinds + b"\x00", message.kinds[:1] + b"\x02"):
        with pytest.raises(DecodeError):
            Unmask(kinds, message.shares, dealing).reveals(9)
