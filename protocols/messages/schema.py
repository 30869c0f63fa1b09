"""Messages and saved states are dataclasses; this file alone turns them into bytes and back.

A message *is* its type annotations: the field order is the wire order, `Annotated` carries each bound, and
the strict reader of `secagg.wire` enforces it. Encodings are canonical (mapping keys and sets ascend
strictly), so decoding and encoding again is the identity. `decode` returns a value or raises `DecodeError`.

>>> from dataclasses import dataclass
>>> @dataclass(frozen=True, slots=True)
... class Hello:
...     key: Key32
...     peers: tuple[Name, ...]
>>> body = encode(Hello(bytes(32), ("basel", "wien")))
>>> decode(Hello, body).peers
('basel', 'wien')
>>> decode(Hello, body + b"!")
Traceback (most recent call last):
    ...
secagg.errors.DecodeError: 1 bytes are left over at the end
"""

import functools
import itertools
from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass
from types import NoneType, UnionType
from typing import (
    Annotated,
    Any,
    Final,
    NamedTuple,
    TypeAlias,
    TypeVar,
    Union,
    cast,
    get_args,
    get_origin,
    get_type_hints,
)

import numpy as np

from secagg.errors import DecodeError, ParameterError
from secagg.secret import Secret
from secagg.wire import Buffer, Piece, Reader, Stream, Writer, size_of

__all__ = [
    "U8",
    "U16",
    "U32",
    "U64",
    "Body",
    "Key32",
    "Name",
    "Parts",
    "Signature",
    "Size",
    "Stream",
    "UpTo",
    "decode",
    "encode",
    "parts",
]

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Uint:
    """An unsigned integer of so many bytes."""

    size: int


@dataclass(frozen=True, slots=True)
class Size:
    """Bytes of exactly this length, without a length prefix."""

    size: int


@dataclass(frozen=True, slots=True)
class UpTo:
    """At most so many bytes (bytes, str) or items (tuple, dict, frozenset)."""

    maximum: int


MAXIMUM_ITEMS: Final = 1 << 20
MAXIMUM_BYTES: Final = (1 << 32) - 1

U8: TypeAlias = Annotated[int, Uint(1)]
U16: TypeAlias = Annotated[int, Uint(2)]
U32: TypeAlias = Annotated[int, Uint(4)]
U64: TypeAlias = Annotated[int, Uint(8)]
Key32: TypeAlias = Annotated[bytes, Size(32)]
Signature: TypeAlias = Annotated[bytes, Size(64)]
Name: TypeAlias = Annotated[str, UpTo(64)]
Parts: TypeAlias = tuple[Piece, ...]
"""Bytes in pieces that nobody has joined yet."""
Body: TypeAlias = Annotated[memoryview, UpTo(MAXIMUM_BYTES)]
"""A vector's bytes: encoded from any buffer, or from a `Stream` that makes them while they are written.

They are decoded as a view into the message, never copied.
"""


class _Codec(NamedTuple):
    write: Callable[[Writer, Any], object]
    read: Callable[[Reader], Any]


def encode(value: object) -> bytes:
    """The canonical bytes of a dataclass instance.

    Raises:
        ParameterError: a field holds what its annotation does not allow.
    """
    writer = Writer()
    kind: Any = type(value)
    _codec(kind).write(writer, value)
    return writer.finish()


def parts(value: object) -> Parts:
    """What `encode` would join: large vectors are copied once only, into the message that they end in.

    A `Stream` among them is not begun yet.
    """
    writer = Writer()
    kind: Any = type(value)
    _codec(kind).write(writer, value)
    return writer.parts()


def decode(kind: type[T], data: Buffer) -> T:
    """The dataclass of type `kind` that `data` encodes.

    Raises:
        DecodeError: `data` is anything but the canonical encoding of such a value.
    """
    reader = Reader(data)
    wanted: Any = kind
    value = _codec(wanted).read(reader)
    reader.finish()
    return cast(T, value)


@functools.cache
def _codec(kind: Any) -> _Codec:
    """The codec of an annotation, built once."""
    bound: Any = None
    if get_origin(kind) is Annotated:
        kind, bound = get_args(kind)[0], get_args(kind)[1]
    origin, arguments = get_origin(kind), get_args(kind)
    if is_dataclass(kind) and isinstance(kind, type):
        return _dataclass(kind)
    if kind is bool:
        return _Codec(lambda w, v: w.uint(int(v), 1), _read_bool)
    if kind is int:
        return _integer((bound or Uint(8)).size)
    if kind is bytes and isinstance(bound, Size):
        return _fixed(bound.size)
    maximum = bound.maximum if isinstance(bound, UpTo) else None
    if kind in (bytes, memoryview):
        return _buffer(maximum or MAXIMUM_BYTES, copy=kind is bytes)
    if kind is str:
        return _text(maximum or 4096)
    if kind is Secret:
        return _Codec(lambda w, v: w.blob(v.reveal()), lambda r: Secret(bytes(r.blob(maximum=MAXIMUM_BYTES))))
    if kind is np.ndarray or origin is np.ndarray:
        return _array()
    if origin is tuple and len(arguments) == 2 and arguments[1] is Ellipsis:
        return _sequence(_codec(arguments[0]), maximum or MAXIMUM_ITEMS)
    if origin is tuple:
        return _record(tuple(_codec(argument) for argument in arguments))
    if origin is dict:
        return _mapping(_codec(arguments[0]), _codec(arguments[1]), maximum or MAXIMUM_ITEMS)
    if origin is frozenset:
        return _set(_codec(arguments[0]), maximum or MAXIMUM_ITEMS)
    if origin in (Union, UnionType):
        return _union(arguments)
    raise ParameterError(f"a field of type {kind!r} has no encoding")


def _dataclass(kind: type) -> _Codec:
    hints = get_type_hints(kind, include_extras=True)
    parts = [(field.name, _codec(hints[field.name])) for field in fields(kind)]
    names = [name for name, _ in parts]

    def write(writer: Writer, value: Any) -> None:
        for name, codec in parts:
            codec.write(writer, getattr(value, name))

    def read(reader: Reader) -> Any:
        values = [codec.read(reader) for _, codec in parts]
        try:
            return kind(**dict(zip(names, values, strict=True)))
        except ParameterError as error:  # the type's own check on its fields
            raise DecodeError(str(error)) from None

    return _Codec(write, read)


def _read_bool(reader: Reader) -> bool:
    value = reader.uint(1)
    if value > 1:
        raise DecodeError("a flag is neither 0 nor 1")
    return bool(value)


def _integer(size: int) -> _Codec:
    return _Codec(lambda w, v: w.uint(v, size), lambda r: r.uint(size))


def _fixed(size: int) -> _Codec:
    def write(writer: Writer, value: bytes) -> None:
        if len(value) != size:
            raise ParameterError(f"a field of {len(value)} bytes, its type has {size}")
        writer.fixed(value)

    return _Codec(write, lambda r: bytes(r.fixed(size)))


def _buffer(maximum: int, *, copy: bool) -> _Codec:
    def write(writer: Writer, value: Piece) -> None:
        if (size := size_of(value)) > maximum:
            raise ParameterError(f"a field of {size} bytes, at most {maximum} are allowed")
        writer.blob(value)

    def read(reader: Reader) -> Buffer:
        view = reader.blob(maximum=maximum)
        return bytes(view) if copy else view

    return _Codec(write, read)


def _text(maximum: int) -> _Codec:
    def write(writer: Writer, value: str) -> None:
        if len(value.encode("utf-8")) > maximum:
            raise ParameterError(f"a text of over {maximum} bytes does not fit its field")
        writer.text(value)

    return _Codec(write, lambda r: r.text(maximum=maximum))


_DTYPES: Final = ("<u4", "<u8", "<i8", "<f8")


def _array() -> _Codec:
    def write(writer: Writer, value: np.ndarray[Any, Any]) -> None:
        kind = np.dtype(value.dtype).newbyteorder("<").str
        if kind not in _DTYPES or value.ndim != 1:
            raise ParameterError(f"an array of {kind} in {value.ndim} dimensions has no encoding")
        writer.uint(_DTYPES.index(kind), 1)
        writer.blob(np.ascontiguousarray(value, dtype=kind).tobytes())

    def read(reader: Reader) -> np.ndarray[Any, Any]:
        code = reader.uint(1)
        if code >= len(_DTYPES):
            raise DecodeError("an array of an unknown type")
        dtype = np.dtype(_DTYPES[code])
        data = reader.blob(maximum=MAXIMUM_BYTES)
        if data.nbytes % dtype.itemsize:
            raise DecodeError("an array that ends within an item")
        return np.frombuffer(data, dtype=dtype).astype(dtype.newbyteorder("="))

    return _Codec(write, read)


def _count(reader: Reader, maximum: int) -> int:
    """A number of items; each takes at least a byte, so a count above what is left is refused unread."""
    count = reader.uint(4)
    if count > maximum or count > reader.remaining:
        raise DecodeError(f"{count} items, at most {min(maximum, reader.remaining)} are possible here")
    return count


def _sequence(item: _Codec, maximum: int) -> _Codec:
    def write(writer: Writer, value: tuple[Any, ...]) -> None:
        if len(value) > maximum:
            raise ParameterError(f"{len(value)} items, at most {maximum} are allowed")
        writer.uint(len(value), 4)
        for entry in value:
            item.write(writer, entry)

    return _Codec(write, lambda r: tuple(item.read(r) for _ in range(_count(r, maximum))))


def _record(items: tuple[_Codec, ...]) -> _Codec:
    def write(writer: Writer, value: tuple[Any, ...]) -> None:
        for codec, entry in zip(items, value, strict=True):
            codec.write(writer, entry)

    return _Codec(write, lambda r: tuple(codec.read(r) for codec in items))


def _ascending(keys: list[Any]) -> None:
    if any(not first < second for first, second in itertools.pairwise(keys)):
        raise DecodeError("keys that do not ascend strictly")


def _mapping(key: _Codec, item: _Codec, maximum: int) -> _Codec:
    def write(writer: Writer, value: dict[Any, Any]) -> None:
        if len(value) > maximum:
            raise ParameterError(f"{len(value)} items, at most {maximum} are allowed")
        writer.uint(len(value), 4)
        for name in sorted(value):
            key.write(writer, name)
            item.write(writer, value[name])

    def read(reader: Reader) -> dict[Any, Any]:
        pairs = [(key.read(reader), item.read(reader)) for _ in range(_count(reader, maximum))]
        _ascending([name for name, _ in pairs])
        return dict(pairs)

    return _Codec(write, read)


def _set(item: _Codec, maximum: int) -> _Codec:
    sequence = _sequence(item, maximum)

    def read(reader: Reader) -> frozenset[Any]:
        entries = list(sequence.read(reader))
        _ascending(entries)
        return frozenset(entries)

    return _Codec(lambda w, v: sequence.write(w, tuple(sorted(v))), read)


def _union(kinds: tuple[Any, ...]) -> _Codec:
    """One byte says which alternative follows, by its place in the annotation."""
    codecs = [_Codec(lambda w, v: None, lambda r: None) if k is NoneType else _codec(k) for k in kinds]
    classes = [get_origin(get_args(k)[0] if get_origin(k) is Annotated else k) or _bare(k) for k in kinds]

    def write(writer: Writer, value: Any) -> None:
        for tag, (kind, codec) in enumerate(zip(classes, codecs, strict=True)):
            if isinstance(value, kind):
                writer.uint(tag, 1)
                codec.write(writer, value)
                return
        raise ParameterError(f"a {type(value).__name__} is no alternative of its field")

    def read(reader: Reader) -> Any:
        tag = reader.uint(1)
        if tag >= len(codecs):
            raise DecodeError("an unknown alternative")
        return codecs[tag].read(reader)

    return _Codec(write, read)


def _bare(kind: Any) -> Any:
    return get_args(kind)[0] if get_origin(kind) is Annotated else kind
