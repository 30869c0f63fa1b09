"""Canonical bytes of questions, and of what else goes down with a request: one encoding of each value.

A value is a tag and its content. A dataclass goes by its class's name and its fields in order; only classes
that `questions` lists, and those that their fields are annotated with, can be named, and every field is
checked against its annotation before the class sees it. Decoding and encoding again is the identity, so
that two sites with equal bytes have equal questions, and a digest of the bytes names the question. Hostile
bytes are a `DecodeError`, whatever is in them, and take no more memory than a small multiple of their
length.

>>> from fl_integration.statistics.columns import Number
>>> from fl_integration.statistics.moments import Moments
>>> question = Moments((Number("age", low=0, high=128, unit=1),))
>>> decode(Moments, encode(question)) == question
True
"""

import math
import struct
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from enum import Enum
from functools import cache
from types import NoneType, UnionType
from typing import Any, Final, TypeVar, Union, get_args, get_origin, get_type_hints

from fl_integration.statistics.question import Question
from fl_integration.statistics.questions import QUESTIONS
from secagg.errors import DecodeError, ParameterError
from secagg.wire import Buffer, Reader, Writer

__all__ = ["decode", "decode_question", "encode"]

T = TypeVar("T")

_NONE, _FALSE, _TRUE, _INT, _FLOAT, _TEXT, _TUPLE, _ENUM, _OBJECT = range(9)
_MOST_BYTES: Final = 1 << 24
_MOST_TEXT: Final = 1 << 12
_MOST_NAME: Final = 100
_DEEPEST: Final = 16
_INTEGERS: Final = 1 << 63


def encode(value: Any) -> bytes:
    """Canonical bytes of a question, or of another dataclass of such fields.

    Raises:
        ParameterError: it holds what cannot be told in bytes: a NaN, an array, an int beyond 64 bits.
    """
    writer = Writer()
    _write(writer, value)
    return writer.finish()


def decode(kind: type[T], data: Buffer) -> T:
    """The value of that class in `data`.

    Args:
        kind: a dataclass; of the classes in its fields' annotations and of `QUESTIONS` all can occur.
        data: at most 16 MB.

    Raises:
        DecodeError: anything but what `encode` would have written.
    """
    reader = Reader(data)
    if reader.remaining > _MOST_BYTES:
        raise DecodeError(f"a request of {reader.remaining} bytes; at most {_MOST_BYTES} are allowed")
    known = {each.__name__: each for each in _reachable((kind, *QUESTIONS))}
    value = _read(reader, known, 0)
    reader.finish()
    if not isinstance(value, kind):
        raise DecodeError(f"a {type(value).__name__} where a {kind.__name__} was expected")
    if encode(value) != data:
        raise DecodeError(f"bytes of a {kind.__name__} that are not its canonical ones")
    return value


def decode_question(data: Buffer) -> Question:
    """The question in `data`, of any class in `QUESTIONS`; `DecodeError` for anything else."""
    value: Any = decode(object, data)
    if not isinstance(value, Question):
        raise DecodeError(f"a {type(value).__name__} where a question was expected")
    return value


def _write(writer: Writer, value: Any) -> None:
    kind = type(value)
    if value is None:
        writer.uint(_NONE, 1)
    elif kind is bool:
        writer.uint(_TRUE if value else _FALSE, 1)
    elif kind is int:
        if not -_INTEGERS <= value < _INTEGERS:
            raise ParameterError("an int beyond 64 bits cannot be asked about; take smaller numbers")
        writer.uint(_INT, 1).fixed(value.to_bytes(8, "big", signed=True))
    elif kind is float:
        if math.isnan(value):
            raise ParameterError("a NaN cannot be asked about; leave the value out")
        writer.uint(_FLOAT, 1).fixed(struct.pack(">d", value + 0.0))  # there is one zero
    elif kind is str:
        writer.uint(_TEXT, 1).blob(_text(value))
    elif kind is tuple:
        writer.uint(_TUPLE, 1).uint(len(value), 4)
        for each in value:
            _write(writer, each)
    elif isinstance(value, Enum):
        writer.uint(_ENUM, 1).blob(kind.__name__.encode()).blob(value.name.encode())
    elif is_dataclass(value):
        writer.uint(_OBJECT, 1).blob(kind.__name__.encode())
        for each in fields(value):
            _write(writer, getattr(value, each.name))
    else:
        raise ParameterError(
            f"a {kind.__name__} cannot be asked about; numbers, str, tuples, enums and dataclasses can"
        )


def _text(value: str) -> bytes:
    try:
        data = value.encode()
    except UnicodeEncodeError:
        raise ParameterError("a text with half a surrogate pair cannot be asked about; repair it") from None
    if len(data) > _MOST_TEXT:
        raise ParameterError(f"a text of {len(data)} bytes; at most {_MOST_TEXT} can be asked about")
    return data


def _read(reader: Reader, known: dict[str, type], depth: int) -> Any:
    if depth > _DEEPEST:
        raise DecodeError(f"values within values, more than {_DEEPEST} deep")
    match reader.uint(1):
        case 0:
            return None
        case 1 | 2 as flag:
            return flag == _TRUE
        case 3:
            return int.from_bytes(reader.fixed(8), "big", signed=True)
        case 4:
            (number,) = struct.unpack(">d", reader.fixed(8))
            if math.isnan(number):
                raise DecodeError("a NaN")
            return number
        case 5:
            return reader.text(maximum=_MOST_TEXT)
        case 6:
            count = reader.uint(4)
            if count > reader.remaining:  # each takes a byte at least
                raise DecodeError(f"a tuple of {count} values in {reader.remaining} bytes")
            return tuple(_read(reader, known, depth + 1) for _ in range(count))
        case 7:
            kind = _named(reader, known)
            name = reader.text(maximum=_MOST_NAME)
            if not issubclass(kind, Enum) or name not in kind.__members__:
                raise DecodeError(f"no member of an enum {kind.__name__}")
            return kind[name]
        case 8:
            return _made(_named(reader, known), reader, known, depth)
        case tag:
            raise DecodeError(f"a value with the tag {tag}, which none has")


def _named(reader: Reader, known: dict[str, type]) -> type:
    name = reader.text(maximum=_MOST_NAME)
    if name not in known:
        raise DecodeError("a class that is no question's and in none; both sides need one version")
    return known[name]


def _made(kind: type, reader: Reader, known: dict[str, type], depth: int) -> Any:
    if not is_dataclass(kind):
        raise DecodeError(f"a {kind.__name__} is no dataclass")
    hints = _hints(kind)
    values = {}
    for each in fields(kind):
        values[each.name] = _read(reader, known, depth + 1)
        if not _fits(values[each.name], hints[each.name]):
            raise DecodeError(f"{each.name} of a {kind.__name__} is a {type(values[each.name]).__name__}")
    try:
        return kind(**values)
    except Exception as error:  # what a class's own check says to values that a liar chose is not known here
        raise DecodeError(f"fields of a {kind.__name__} that it refuses: {type(error).__name__}") from error


@cache
def _hints(kind: type) -> dict[str, Any]:
    return get_type_hints(kind)


def _fits(value: Any, hint: Any) -> bool:
    """Whether a value is of the annotated type; a float is no int, a bool is none of both."""
    origin, inner = get_origin(hint), get_args(hint)
    if hint is Any:
        return True
    if origin in (Union, UnionType):
        return any(_fits(value, each) for each in inner)
    if origin is tuple:
        if type(value) is not tuple:
            return False
        if len(inner) == 2 and inner[1] is Ellipsis:
            return all(_fits(each, inner[0]) for each in value)
        return len(value) == len(inner) and all(map(_fits, value, inner))
    if hint in (None, NoneType):
        return value is None
    if hint in (bool, int, float, str):
        return type(value) is hint
    return isinstance(hint, type) and isinstance(value, hint)


@cache
def _reachable(kinds: tuple[type, ...]) -> tuple[type, ...]:
    """These classes, and all dataclasses and enums that their fields are annotated with."""
    found: dict[type, None] = {}
    waiting = list(kinds)
    while waiting:
        kind = waiting.pop()
        if kind in found:
            continue
        found[kind] = None
        if is_dataclass(kind):
            waiting += [part for hint in _hints(kind).values() for part in _parts(hint)]
    return tuple(each for each in found if is_dataclass(each) or issubclass(each, Enum))


def _parts(hint: Any) -> Iterator[type]:
    if isinstance(hint, type) and (is_dataclass(hint) or issubclass(hint, Enum)):
        yield hint
    for each in get_args(hint):
        yield from _parts(each)
