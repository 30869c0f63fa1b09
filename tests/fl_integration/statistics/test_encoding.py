"""Questions as bytes: one encoding each, and nothing else is read."""

import math
import struct
import tracemalloc
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fl_integration.privacy.units import Noise
from fl_integration.statistics.columns import Category, Number
from fl_integration.statistics.count import Count
from fl_integration.statistics.encoding import decode, decode_question, encode
from fl_integration.statistics.histogram import Histogram
from fl_integration.statistics.moments import Moments
from fl_integration.statistics.quantiles import Quantiles
from fl_integration.statistics.question import Condition, Question, Step
from fl_integration.statistics.questions import QUESTIONS
from fl_integration.statistics.request import Request, head_of
from secagg.errors import DecodeError, ParameterError
from secagg.wire import Writer

names = st.text(st.characters(categories=["L", "N"]), min_size=1, max_size=12)
finite = st.floats(-1e6, 1e6)


@st.composite
def numbers(draw: Any) -> Number:
    low = draw(finite)
    return Number(draw(names), low=low, high=low + draw(st.floats(1, 1000)), unit=draw(st.floats(0.01, 4)))


categories = st.builds(
    Category,
    names,
    st.one_of(
        st.lists(names, min_size=1, max_size=4, unique=True).map(tuple),
        st.lists(st.integers(-9, 9), min_size=1, max_size=4, unique=True).map(tuple),
    ),
)
conditions = st.one_of(
    st.builds(lambda column, limit: Condition(column, at_least=limit), numbers(), finite),
    st.builds(lambda column, limit: Condition(column, below=limit), numbers(), finite),
    st.builds(lambda column: Condition(column, among=column.levels[:1]), categories),
)
wheres = st.lists(conditions, max_size=3).map(tuple)
several = st.lists(numbers(), min_size=1, max_size=4, unique_by=lambda each: each.name).map(tuple)
questions = st.one_of(
    st.builds(Count, where=wheres),
    st.builds(Moments, several, where=wheres),
    st.builds(Quantiles, several, st.just((0.0, 0.5)), where=wheres),
    st.builds(Histogram, numbers(), st.just((-1.0, 0.0, 2.5)), where=wheres),
    st.builds(Histogram, categories, where=wheres),
)
REQUEST = Request(
    question=Moments(
        (Number("age", low=0, high=1),), where=(Condition(Category("sex", (0, 1)), among=(1,)),)
    ),
    max_rows=100,
    sites=("basel", "wien"),
    noise=(Noise.SKELLAM, 1.0, 1e-6),
    number=2,
    coverage=(2, 2),
    step=Step("moments", 4, (0.5, -1.0)),
)


@given(questions)
@settings(max_examples=50, deadline=None)
def test_what_is_written_is_read_and_one_question_has_one_encoding(question: Question) -> None:
    body = encode(question)
    assert decode_question(body) == question
    assert encode(decode_question(body)) == body


@given(questions, questions)
@settings(max_examples=25, deadline=None)
def test_different_questions_have_different_bytes(one: Question, other: Question) -> None:
    assert (encode(one) == encode(other)) is (one == other and type(one) is type(other))


def test_equal_questions_of_other_numbers_are_written_equally() -> None:
    one = Moments(
        (Number("x", low=0, high=10, unit=1),), where=(Condition(Number("y", low=-0.0, high=1), below=1),)
    )
    other = Moments(
        (Number("x", low=0.0, high=10.0, unit=1.0),),
        where=(Condition(Number("y", low=0, high=1.0), below=1.0),),
    )
    assert encode(one) == encode(other)


def test_a_request_goes_down_with_all_that_it_has() -> None:
    assert decode(Request, encode(REQUEST)) == REQUEST


def test_the_head_names_all_that_led_to_a_sum() -> None:
    changed: list[dict[str, Any]] = [
        {"question": Count()},
        {"max_rows": 101},
        {"sites": ("basel", "bern")},
        {"noise": None},
        {"number": 3},
        {"coverage": (2, 3)},
        {"step": Step("moments", 4, (0.5, 1.0))},
    ]
    heads = {head_of(replace(REQUEST, **each)) for each in changed}
    assert len(heads | {head_of(REQUEST)}) == 8
    assert {len(head) for head in heads} == {32}


@given(st.binary(max_size=300))
@settings(max_examples=100, deadline=None)
def test_hostile_bytes_are_refused_as_such(body: bytes) -> None:
    with pytest.raises(DecodeError):
        decode_question(body)


@given(questions, st.data())
@settings(max_examples=60, deadline=None)
def test_changed_bytes_are_refused_or_another_question(question: Question, data: st.DataObject) -> None:
    body = bytearray(encode(question))
    place = data.draw(st.integers(0, len(body) - 1))
    body[place] ^= data.draw(st.integers(1, 255))
    try:
        found = decode_question(bytes(body))
    except DecodeError:
        return
    assert encode(found) == body


@pytest.mark.parametrize("cut", [1, 7])
def test_bytes_that_are_too_few_or_too_many(cut: int) -> None:
    body = encode(Count())
    for wrong in (body[:-cut], body + bytes(cut), b""):
        with pytest.raises(DecodeError):
            decode_question(wrong)


def text(value: str) -> bytes:
    return Writer().uint(5, 1).text(value).finish()


def number(value: float) -> bytes:
    return b"\x04" + struct.pack(">d", value)


def made(name: str, *fields: bytes) -> bytes:
    return Writer().uint(8, 1).text(name).finish() + b"".join(fields)


EMPTY = b"\x06\x00\x00\x00\x00"
AGE = made("Number", text("age"), number(0.0), number(1.0), number(0.5))


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"\x09", "the tag 9"),
        (made("Path", text("/")), "a class that is no question's"),
        (made("object"), "a class that is no question's"),
        (made("Noise"), "a class that is no question's"),
        (AGE, "a Number where a question was expected"),
        (made("Count", b"\x00"), "where of a Count is a NoneType"),
        (made("Count", b"\x06\xff\xff\xff\xff"), "a tuple of 4294967295 values in 0 bytes"),
        (made("Moments", EMPTY, EMPTY), "fields of a Moments that it refuses: ParameterError"),
        (
            made("Moments", EMPTY, b"\x06\x00\x00\x00\x01" + made("Number", *[text("x")] * 4)),
            "low of a Number",
        ),
        (
            made("Moments", EMPTY, b"\x06\x00\x00\x00\x01" + AGE.replace(number(0.5), number(0.0))),
            "not its canonical ones",
        ),
        (
            made("Moments", EMPTY, b"\x06\x00\x00\x00\x01" + AGE.replace(number(0.0), number(-0.0))),
            "not its canonical ones",
        ),
        (
            made("Moments", EMPTY, b"\x06\x00\x00\x00\x01" + AGE.replace(number(0.0), number(math.nan))),
            "a NaN",
        ),
        (b"\x06\x00\x00\x00\x01" * 40 + b"\x00", "more than 16 deep"),
        (text("x") * 2, "left over"),
        (b"\x05\x00\x00\x00\x02\xff\xfe", "not UTF-8"),
        (b"\x05\x00\x00\xff\xff" + b"a" * 65535, "at most 4096"),
    ],
)
def test_bytes_that_no_question_has(body: bytes, said: str) -> None:
    with pytest.raises(DecodeError, match=said):
        decode_question(body)


def test_a_long_lie_takes_little_memory() -> None:
    lie = made("Count", b"\x06\x00\x0f\xff\xff" + b"\x00" * 100_000)
    huge = bytes((1 << 24) + 1)
    tracemalloc.start()
    for body in (lie, b"\x06\x00\x0f\x00\x00" + b"\x06\x00\x00\x00\x00" * 60_000, huge):
        with pytest.raises(DecodeError):
            decode_question(body)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 20_000_000


@dataclass(frozen=True)
class Strange:
    value: Any


class Secret(Enum):
    WORD = 1


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (float("nan"), "a NaN cannot be asked"),
        (1 << 63, "beyond 64 bits"),
        ([1], "a list cannot be asked about"),
        ("\ud800", "half a surrogate pair"),
        ("a" * 5000, "a text of 5000 bytes"),
        (b"", "a bytes cannot be asked about"),
    ],
)
def test_what_cannot_be_told_in_bytes(value: Any, said: str) -> None:
    with pytest.raises(ParameterError, match=said):
        encode(Strange(value))


def test_an_enum_that_no_field_is_annotated_with_is_not_read() -> None:
    with pytest.raises(DecodeError, match="a class that is no question's"):
        decode(Strange, encode(Strange(Secret.WORD)))
    assert decode(Strange, encode(Strange((None, True, False, -1, 0.5, "é")))).value == (
        None,
        True,
        False,
        -1,
        0.5,
        "é",
    )


def test_every_question_is_listed_and_no_two_have_one_name() -> None:
    assert len({each.__name__ for each in QUESTIONS}) == len(QUESTIONS)
    assert all(issubclass(each, Question) and each.__doc__ for each in QUESTIONS)
