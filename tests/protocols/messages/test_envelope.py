"""The header of every message: pinned, strict, and checked field by field."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocols.messages.envelope import (
    ACKNOWLEDGEMENT,
    REFUSAL,
    RESULT,
    STAGES,
    Envelope,
    Refusal,
    check_session,
    reply_stage,
    request_stage,
)
from protocols.messages.schema import decode, encode
from secagg.errors import DecodeError, ParameterError
from secagg.wire import Stream

GOOD = Envelope(protocol=2, session=bytes(range(16)), round=258, stage=5, sender="wien", body=b"the body")
PINNED = (
    b"SAGG\x02\x02"
    + b"\x00\x00\x00\x10"
    + bytes(range(16))
    + b"\x00\x00\x00\x00\x00\x00\x01\x02\x05"
    + b"\x00\x00\x00\x04wien"
    + b"the body"
)

envelopes = st.builds(
    Envelope,
    protocol=st.integers(0, 255),
    session=st.binary(min_size=16, max_size=64),
    round=st.integers(0, 2**64 - 1),
    stage=st.integers(0, 255),
    sender=st.text(st.characters(exclude_categories=["Cs"]), max_size=16),
    body=st.binary(max_size=40),
)


def test_the_header_is_pinned() -> None:
    assert GOOD.encode() == PINNED
    assert Envelope.decode(PINNED) == GOOD


@given(envelopes)
def test_round_trip(envelope: Envelope) -> None:
    encoded = envelope.encode()
    assert Envelope.decode(encoded) == envelope
    assert Envelope.decode(memoryview(bytearray(encoded))).encode() == encoded


@given(envelopes, st.lists(st.binary(max_size=9), max_size=4))
def test_parts_and_streams_follow_the_body(envelope: Envelope, blocks: list[bytes]) -> None:
    size = sum(map(len, blocks))
    expected = envelope.encode() + b"".join(blocks) + b"tail"
    assert envelope.encode(*blocks, b"tail") == expected
    assert envelope.encode(Stream(size, iter(blocks)), b"tail") == expected
    with pytest.raises(ParameterError, match="announced"):
        envelope.encode(Stream(size + 1, iter(blocks)))


@given(st.binary(max_size=80) | envelopes.flatmap(lambda e: st.integers(0, 40).map(lambda n: e.encode()[:n])))
def test_noise_and_stumps(noise: bytes) -> None:
    try:
        envelope = Envelope.decode(noise)
    except DecodeError:
        return
    assert envelope.encode() == noise


@pytest.mark.parametrize(
    "bad",
    [
        b"",
        PINNED[:-9],
        PINNED[:20],
        b"sagg" + PINNED[4:],
        PINNED[:4] + b"\x00" + PINNED[5:],
        PINNED[:4] + b"\x01" + PINNED[5:],
        PINNED.replace(b"\x00\x00\x00\x10" + bytes(range(16)), b"\x00\x00\x00\x0f" + bytes(15)),
        PINNED.replace(b"\x00\x00\x00\x10" + bytes(range(16)), b"\x00\x00\x00\x41" + bytes(65)),
        PINNED.replace(b"\x00\x00\x00\x10" + bytes(range(16)), b"\xff\xff\xff\xff" + bytes(16)),
        PINNED.replace(b"\x00\x00\x00\x04wien", b"\x00\x00\x00\x41" + b"w" * 65),
        PINNED.replace(b"\x00\x00\x00\x04wien", b"\x00\x00\x00\x02\xff\xfe"),
        PINNED.replace(b"\x00\x00\x00\x04wien", b"\xff\xff\xff\xffwien"),
    ],
)
def test_headers_that_are_refused(bad: bytes) -> None:
    with pytest.raises(DecodeError):
        Envelope.decode(bad)


@pytest.mark.parametrize("bad", [None, 3, "text", memoryview(PINNED)[::2]], ids=type)
def test_what_is_no_buffer(bad: object) -> None:
    with pytest.raises(DecodeError):
        Envelope.decode(bad)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "changes", [{"protocol": 256}, {"round": 2**64}, {"round": -1}, {"stage": 300}], ids=repr
)
def test_fields_that_do_not_fit(changes: dict[str, int]) -> None:
    from dataclasses import replace

    with pytest.raises(ParameterError):
        replace(GOOD, **changes).encode()  # type: ignore[arg-type]


def test_the_body_is_a_view() -> None:
    message = bytearray(PINNED)
    body = Envelope.decode(message).body
    message[-1] ^= 1
    assert bytes(body) == bytes(message[-8:])


def test_stages_do_not_meet() -> None:
    stages = [stage(exchange) for exchange in range(STAGES // 2) for stage in (request_stage, reply_stage)]
    assert set(stages) == set(range(STAGES))
    assert not set(stages) & {RESULT, ACKNOWLEDGEMENT, REFUSAL}
    assert (RESULT, ACKNOWLEDGEMENT, REFUSAL) == (253, 254, 255)


@pytest.mark.parametrize("size", [16, 17, 64])
def test_sessions(size: int) -> None:
    assert check_session(bytes(size)) == bytes(size)


@pytest.mark.parametrize("session", [b"", bytes(15), bytes(65), bytearray(16), "x" * 16, None, 16], ids=repr)
def test_sessions_that_are_refused(session: object) -> None:
    with pytest.raises(ParameterError, match="16 to 64"):
        check_session(session)


def test_refusals() -> None:
    reason = "a cohort of 2; this client takes part from 3 on"
    assert decode(Refusal, encode(Refusal(reason))).reason == reason
    with pytest.raises(ParameterError):
        Refusal("ü" * 2049)
    with pytest.raises(DecodeError):
        decode(Refusal, b"\x00\x00\x10\x01" + b"x" * 4097)
