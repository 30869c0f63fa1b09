"""What an application is shown in a round, and the one digest that binds all of it.

A server that shows one client another model, or another learning rate, than the rest reads that client's
update out of the sum (Pasquini et al., CCS'22; ATTACKS A9): with a rate of 0 the others send nothing. So what
a round binds is the digest of *everything* that the application sees: every record, its kind, its names, its
dtypes, shapes and bytes, configuration included, and the settings of the run. The server puts the digest into
the round; each client makes it anew from what was delivered, before its application is called. Both call
`records_digest`, and so does the adapter of every engine.

The encoding is canonical: a type before each value, a length before each text, names sorted, but for arrays,
which an application may read in order. The digest begins with the name of its hash, so that a faster one can
follow without a client taking one for the other.

It says nothing about what the application knows from elsewhere: its code, its node's own settings, the clock.

>>> one = {"config": Record(Kind.CONFIG, {"lr": 0.1})}
>>> records_digest(one)[:7]
b'sha256:'
>>> records_digest(one) == records_digest({"config": Record(Kind.CONFIG, {"lr": 0.0})})
False
"""

import hashlib
import struct
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Final, TypeAlias

from secagg import labels
from secagg.errors import ParameterError
from secagg.wire import Buffer, Writer

__all__ = ["ArrayBytes", "Kind", "Record", "Records", "Value", "array_digest", "records_digest"]

HASH: Final = b"sha256:"
DIGEST_BYTES: Final = len(HASH) + 32


class Kind(Enum):
    """What a record is for. The values are on the wire."""

    ARRAYS = 1
    METRICS = 2
    CONFIG = 3
    SETTINGS = 4
    """The settings of the whole run, which engines hand to an application beside its messages."""


@dataclass(frozen=True, slots=True)
class ArrayBytes:
    """One array, as an engine carries it.

    Attributes:
        dtype: its name, such as "float32".
        shape: its dimensions.
        form: how the bytes are to be read, in the engine's terms.
        data: the bytes.
    """

    dtype: str
    shape: tuple[int, ...]
    form: str
    data: Buffer = field(repr=False)


Value: TypeAlias = "bool | int | float | str | bytes | ArrayBytes | list[Any]"
"""What a record holds; a list holds scalars of one type."""


@dataclass(frozen=True, slots=True)
class Record:
    """Named values of one kind."""

    kind: Kind
    values: Mapping[str, Value]


Records: TypeAlias = Mapping[str, Record]
"""Everything that one message shows to an application, by name."""

_BOOL, _INT, _FLOAT, _TEXT, _BYTES, _LIST, _ARRAY = range(1, 8)


def records_digest(records: Records, *, replaced: Mapping[str, bytes] | None = None) -> bytes:
    """The name of the hash, a colon and 32 bytes: equal exactly for equal records.

    Args:
        records: what the application sees.
        replaced: digests (`array_digest`) of array records that both sides know and that did not travel with
            this message, by name.

    Raises:
        ParameterError: a value is of no type that has an encoding, or a name stands in both arguments.
    """
    replaced = {} if replaced is None else replaced
    if both := sorted(records.keys() & replaced.keys()):
        raise ParameterError(
            f"the record {both[0]!r} is given, and given by its digest; one of the two is right"
        )
    with _encoding():
        return _records_digest(records, replaced)


def _records_digest(records: Records, replaced: Mapping[str, bytes]) -> bytes:
    digests = {name: _record_digest(name, record) for name, record in records.items()} | dict(replaced)
    writer = Writer().fixed(labels.SHOWN_RECORDS).fixed(HASH).uint(len(digests), 4)
    for name in sorted(digests):
        writer.text(name).blob(digests[name])
    return HASH + hashlib.sha256(writer.finish()).digest()


def array_digest(record: Record) -> bytes:
    """The digest of one record, 32 bytes, under which it may be named when it does not travel.

    Raises:
        ParameterError: as `records_digest`.
    """
    with _encoding():
        return _record_digest("arrays", record)


@contextmanager
def _encoding() -> Iterator[None]:
    """Whatever a server wrote where a number, a text or bytes belong is refused as what it is."""
    try:
        yield
    except ParameterError:  # which is a ValueError, too
        raise
    except (TypeError, ValueError, OverflowError) as error:
        raise ParameterError(
            "a record holds a number that is out of every range, a text that is none, or no bytes where an "
            "array's belong"
        ) from error


def _record_digest(name: str, record: Record) -> bytes:
    hashed = hashlib.sha256(labels.SHOWN_RECORD)
    names = list(record.values) if record.kind is Kind.ARRAYS else sorted(record.values)
    hashed.update(Writer().uint(record.kind.value, 1).uint(len(names), 4).finish())
    for each in names:
        hashed.update(Writer().text(each).finish())
        for piece in _pieces(record.values[each], f"{name!r}, {each!r}"):
            hashed.update(piece)
    return hashed.digest()


def _pieces(value: Value, where: str) -> tuple[Buffer, ...]:
    """The canonical encoding of one value; a large one is not copied."""
    # bool before int: it is one, and an application may tell them apart.
    if isinstance(value, bool):
        return (bytes([_BOOL, value]),)
    if isinstance(value, int):
        return (Writer().uint(_INT, 1).text(str(value)).finish(),)
    if isinstance(value, float):
        return (bytes([_FLOAT]) + struct.pack(">d", value),)
    if isinstance(value, str):
        return (Writer().uint(_TEXT, 1).text(value).finish(),)
    if isinstance(value, bytes):
        return (Writer().uint(_BYTES, 1).uint(len(value), 8).finish(), value)
    if isinstance(value, list | tuple):
        pieces = [piece for each in value for piece in _pieces(each, where)]
        return (Writer().uint(_LIST, 1).uint(len(value), 8).finish(), *pieces)
    if isinstance(value, ArrayBytes):
        writer = Writer().uint(_ARRAY, 1).text(value.dtype).text(value.form).uint(len(value.shape), 1)
        for size in value.shape:
            writer.uint(size, 8)
        data = memoryview(value.data).cast("B")
        return (writer.uint(len(data), 8).finish(), data)
    raise ParameterError(
        f"{where} is of type {type(value).__name__}; a record holds bool, int, float, str, bytes, arrays and "
        "lists of these"
    )
