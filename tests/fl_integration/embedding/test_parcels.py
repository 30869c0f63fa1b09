"""Heads in canonical bytes: what was encoded comes back, and arbitrary bytes are a DecodeError or a head."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from fl_integration.embedding import parcels
from fl_integration.embedding.parcels import (
    MAXIMUM_REASON,
    NO_COPY,
    Answer,
    Copy,
    Errand,
    Handover,
    Hello,
    Place,
    Purpose,
    Refused,
    Step,
    Welcome,
    decode_head,
    encode_head,
    purpose_session,
    sign_welcome,
    welcome_statement,
)
from protocols import Identity, Roster
from secagg import labels
from secagg.errors import DecodeError, ParameterError, VerificationError

PLACE = Place(study=b"heart", version=1, roster=bytes(32), epoch=7)
HELLO = Hello(place=PLACE, node=b"12345678", challenge=bytes(16), terms=("one", "two"))
HEADS = [
    HELLO,
    sign_welcome(HELLO, Identity.generate("a"), settings=bytes(32), copy=NO_COPY),
    Step(place=PLACE, purpose=1),
    Step(place=PLACE, purpose=2, withheld={"arrays": bytes(32)}),
    Answer(),
    Answer(copy=Copy(began=bytes([1] * 32), moved=True)),
    Handover(place=PLACE, errand=next(iter(Errand)).value),
    Answer(failure="it sits the round out"),
    Refused("no"),
]

texts = st.text(st.characters(codec="utf-8", categories=["L", "N", "P"]), max_size=20)
u64 = st.integers(0, 2**63 - 1)
places = st.builds(Place, st.binary(max_size=255), u64, st.binary(min_size=32, max_size=32), u64)


@pytest.mark.parametrize("head", HEADS, ids=lambda head: type(head).__name__)
def test_what_was_encoded_comes_back(head: Any) -> None:
    assert decode_head(encode_head(head)) == head


@given(
    st.builds(
        Hello,
        places,
        st.binary(max_size=64),
        st.binary(min_size=16, max_size=16),
        st.lists(texts, max_size=4).map(tuple),
    )
    | st.builds(Refused, texts)
)
def test_whatever_was_encoded_comes_back(head: Any) -> None:
    assert decode_head(encode_head(head)) == head


@given(st.binary(max_size=200))
@example(b"")
@example(b"SAGP")
@example(b"SAGP\x01")
def test_bytes_are_no_head_or_exactly_one(data: bytes) -> None:
    for candidate in (data, b"SAGP\x01" + data, b"SAGP\x01\x00" + data):
        try:
            head = decode_head(candidate)
        except DecodeError:
            continue
        assert encode_head(head) == candidate


@pytest.mark.parametrize("head", HEADS, ids=lambda head: type(head).__name__)
def test_a_head_that_is_cut_continued_or_changed_is_another_or_none(head: Any) -> None:
    encoded = encode_head(head)
    for length in range(len(encoded)):
        with pytest.raises(DecodeError):
            decode_head(encoded[:length])
    with pytest.raises(DecodeError):
        decode_head(encoded + b"\0")
    for place in range(len(encoded)):
        for bit in (1, 128):
            spoilt = bytearray(encoded)
            spoilt[place] ^= bit
            try:
                found = decode_head(spoilt)
            except DecodeError:
                continue
            assert found != head


def test_another_version_is_refused_in_words() -> None:
    encoded = bytearray(encode_head(Refused("no")))
    encoded[4] = 9
    with pytest.raises(DecodeError, match="a parcel of version 9, this release reads version 1"):
        decode_head(encoded)


@pytest.mark.parametrize("reason", ["two\nlines", "\x1b[2J", "\0", "\u202e"])
@pytest.mark.parametrize("build", [Refused, lambda reason: Answer(failure=reason)], ids=["refused", "answer"])
def test_what_goes_into_a_log_holds_no_control_character(
    build: Any, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ParameterError, match="a reason holds a control character"):
        build(reason)
    # Whoever sends it builds it without the check.
    with monkeypatch.context() as patch:
        patch.setattr(parcels, "_check_reason", lambda text: None)
        encoded = encode_head(build(reason))
    with pytest.raises(DecodeError):
        decode_head(encoded)


def test_a_reason_may_be_as_long_as_it_says() -> None:
    assert decode_head(encode_head(Refused("ä" * MAXIMUM_REASON))) == Refused("ä" * MAXIMUM_REASON)
    assert decode_head(encode_head(Refused("\U0001d11e" * MAXIMUM_REASON)))


def test_each_purpose_has_a_session_of_its_own() -> None:
    sessions = {
        purpose_session(each, purpose) for each in (bytes(32), bytes([1] * 32)) for purpose in Purpose
    }
    assert len(sessions) == 4
    assert {len(each) for each in sessions} == {32}


class TestWelcome:
    """A welcome says who is there to whoever gave this challenge, and to nobody else."""

    def verifies(self, hello: Hello, welcome: Welcome, roster: Roster) -> bool:
        statement = welcome_statement(hello, welcome.client, welcome.settings, welcome.copy)
        try:
            roster.verify(welcome.client, welcome.signature, statement, label=labels.MEMBER_HELLO)
        except VerificationError:
            return False
        return True

    @pytest.mark.parametrize(
        "other",
        [
            {"place": replace(PLACE, study=b"lungs")},
            {"place": replace(PLACE, version=2)},
            {"place": replace(PLACE, roster=bytes([1] * 32))},
            {"place": replace(PLACE, epoch=8)},
            {"node": b"12345679"},
            {"challenge": bytes([1] * 16)},
            {"terms": ("one", "too")},
            {"terms": ("onetwo",)},
        ],
        ids=str,
    )
    def test_it_answers_one_hello(self, other: dict[str, Any]) -> None:
        alice, bob = Identity.generate("alice"), Identity.generate("bob")
        roster = Roster.of(alice, bob)
        welcome = sign_welcome(HELLO, alice, settings=bytes(32), copy=NO_COPY)
        assert self.verifies(HELLO, welcome, roster)
        assert not self.verifies(replace(HELLO, **other), welcome, roster)

    def test_it_names_one_member_and_one_settings(self) -> None:
        alice, bob = Identity.generate("alice"), Identity.generate("bob")
        roster = Roster.of(alice, bob)
        welcome = sign_welcome(HELLO, alice, settings=bytes(32), copy=NO_COPY)
        assert not self.verifies(HELLO, replace(welcome, client="bob"), roster)
        assert not self.verifies(HELLO, replace(welcome, settings=bytes([1] * 32)), roster)
        assert not self.verifies(HELLO, replace(welcome, copy=Copy(moved=True)), roster)
        assert not self.verifies(HELLO, replace(welcome, signature=bytes(64)), roster)
