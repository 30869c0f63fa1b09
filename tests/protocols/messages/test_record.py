"""The signed record: round trip, every field under the signature, the transcript chain."""

import hashlib
from dataclasses import replace
from typing import Any

import pytest

from protocols.messages.record import RoundRecord, SignedRecord, Transcript
from protocols.messages.schema import encode
from secagg import labels
from secagg.entropy import SeededEntropy
from secagg.errors import DecodeError, ParameterError, VerificationError
from secagg.standard.signing import SigningKey, verify

KEY = SigningKey.generate(SeededEntropy(b"the server"))
OTHER = SigningKey.generate(SeededEntropy(b"another server"))
RECORD = RoundRecord(
    protocol=2,
    parameters=bytes(32),
    session=bytes(16),
    round=3,
    length=100,
    model=hashlib.sha256(b"model").digest(),
    cohort=("wien", "basel", "berlin"),
    contributors=frozenset(["wien", "basel"]),
    dropped={"berlin": "did not answer in MaskedInput"},
    culprits=frozenset(["berlin"]),
    opened=True,
    degree=2,
    threshold=2,
    ring_bits=20,
    roster=12,
    corrupt=1,
    transcript=bytes(range(32)),
    aborted="",
)


def test_a_record_verifies_under_its_signers_key_alone() -> None:
    signed = SignedRecord.sign(RECORD, KEY)
    signed.verify(KEY.public_key)
    assert signed.public_key == KEY.public_key
    with pytest.raises(VerificationError):
        signed.verify(OTHER.public_key)
    with pytest.raises(VerificationError):
        SignedRecord(RECORD, KEY.public_key, OTHER.sign(b"", label=labels.ROUND_RECORD)).verify(
            KEY.public_key
        )


def test_a_record_round_trips() -> None:
    signed = SignedRecord.sign(RECORD, KEY)
    back = SignedRecord.decode(signed.encode())
    assert back == signed
    assert back.encode() == signed.encode()
    back.verify(KEY.public_key)
    assert back.record.cohort == ("wien", "basel", "berlin"), "in the roster's order, not sorted"


@pytest.mark.parametrize(
    "changes",
    [
        {"protocol": 1},
        {"parameters": bytes(31) + b"\x01"},
        {"session": bytes(17)},
        {"round": 4},
        {"length": 101},
        {"model": bytes(32)},
        {"cohort": ("basel", "wien", "berlin")},
        {"contributors": frozenset(["wien", "berlin"])},
        {"dropped": {}},
        {"dropped": {"berlin": "refused"}},
        {"culprits": frozenset()},
        {"opened": False},
        {"degree": 3},
        {"threshold": 3},
        {"ring_bits": 21},
        {"roster": 13},
        {"corrupt": 2},
        {"transcript": bytes(32)},
        {"aborted": "too few"},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_every_field_is_signed(changes: dict[str, Any]) -> None:
    signed = SignedRecord.sign(RECORD, KEY)
    forged = SignedRecord(replace(RECORD, **changes), KEY.public_key, signed.signature)
    with pytest.raises(VerificationError):
        forged.verify(KEY.public_key)


def test_the_signature_is_of_this_kind_of_statement() -> None:
    signed = SignedRecord.sign(RECORD, KEY)
    verify(KEY.public_key, signed.signature, encode(RECORD), label=labels.ROUND_RECORD)
    with pytest.raises(VerificationError):
        verify(KEY.public_key, signed.signature, encode(RECORD), label=labels.KEY_ADVERTISEMENT)


def test_records_cut_short_or_extended() -> None:
    encoded = SignedRecord.sign(RECORD, KEY).encode()
    for end in range(len(encoded)):
        with pytest.raises(DecodeError):
            SignedRecord.decode(encoded[:end])
    with pytest.raises(DecodeError):
        SignedRecord.decode(encoded + b"\x00")


@pytest.mark.parametrize(
    "changes", [{"protocol": 256}, {"parameters": b""}, {"session": bytes(65)}], ids=repr
)
def test_fields_that_do_not_fit(changes: dict[str, Any]) -> None:
    with pytest.raises(ParameterError):
        SignedRecord.sign(replace(RECORD, **changes), KEY)


# The transcript


def chain(*steps: tuple[int, dict[str, bytes]]) -> bytes:
    transcript = Transcript()
    for exchange, messages in steps:
        transcript.absorb(exchange, messages)
    return transcript.digest()


def test_the_transcript_commits_to_order_sender_and_message() -> None:
    one, two = hashlib.sha256(b"1").digest(), hashlib.sha256(b"2").digest()
    base = [(0, {"a": one, "b": two}), (1, {"a": two})]
    variants: list[list[tuple[int, dict[str, bytes]]]] = [
        base,
        base[:1],
        base[::-1],
        [(0, {"a": two, "b": one}), base[1]],
        [(0, {"a": one, "c": two}), base[1]],
        [(0, {"a": one}), base[1]],
        [(2, base[0][1]), base[1]],
        [(0, {"a": one}), (0, {"b": two}), base[1]],
        [(0, {"ab": one}), base[1]],
        [],
        [(0, {})],
    ]
    assert len({chain(*steps) for steps in variants}) == len(variants)
    assert chain(*base) == chain((0, {"b": two, "a": one}), base[1]), "the order of arrival does not matter"


def test_a_transcript_goes_on_from_its_digest() -> None:
    first, second = {"a": bytes(32)}, {"b": bytes(32)}
    continued = Transcript(chain((0, first)))
    continued.absorb(1, second)
    assert continued.digest() == chain((0, first), (1, second))


@pytest.mark.parametrize("size", [0, 31, 33])
def test_digests_of_another_size(size: int) -> None:
    with pytest.raises(DecodeError):
        Transcript(bytes(size))
