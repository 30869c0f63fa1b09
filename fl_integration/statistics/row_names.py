"""Rows by name: a keyed hash of what each holds, so that a list of rows holds no value.

The key is in the file that holds the list, and so whoever has both can try out contents.
"""

import hashlib
import math
import struct
from collections.abc import Iterable
from contextlib import suppress
from numbers import Real
from typing import Any, Final

import numpy as np
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from numpy.typing import NDArray

from fl_integration.statistics.rows import Rows, is_missing

__all__ = ["bits_of", "contents_of", "distance", "names_of"]

_NAME_BYTES: Final = 8
_LONG: Final = 1 << 12
"""Bytes of a row from which on the time is the hash function's."""


def contents_of(rows: Rows) -> NDArray[np.uint8]:
    """uint8[rows, bytes]: what each row holds, in all columns of the table in the order of their names.

    Numbers of any kind are told as float64, so that 1, 1.0, True and "1" are one value, and so are all that
    is missing; anything else by a hash of how it is written.
    """
    if not len(rows):
        return np.zeros((0, 1), dtype=np.uint8)
    parts = [_bytes_of(rows.arrays[name]) for name in sorted(rows.arrays)]
    return np.ascontiguousarray(np.concatenate(parts, axis=1))


def _bytes_of(column: NDArray[Any]) -> NDArray[np.uint8]:
    count = len(column)
    if column.dtype.kind in "biu" and column.dtype.itemsize == 1 and column.ndim > 1:
        return column.reshape(count, -1).view(np.uint8)
    if column.dtype.kind in "biuf":
        values = column.astype(np.float64).reshape(count, -1) + 0.0  # there is one zero
        values[np.isnan(values)] = np.nan  # and one NaN
        return values.view(np.uint8).reshape(count, -1)
    written = column.astype(object).reshape(count, -1)
    told = b"".join(map(_told, written.flat))
    return np.frombuffer(told, dtype=np.uint8).reshape(count, -1)


def _told(value: Any) -> bytes:
    """Eight bytes of one value, whatever stands above and below it: a column that was of numbers until a row
    with a text came, and is of texts since, must not give all other rows new names.
    """
    number = math.nan
    if _is_number(value):
        number = float(value)
    elif isinstance(value, str):
        with suppress(ValueError):
            number = float(value)
    if not math.isnan(number):
        return struct.pack("=d", number + 0.0)
    if is_missing(value):
        return struct.pack("=d", math.nan)
    written = f"{type(value).__name__} {value}".encode(errors="surrogatepass")
    return hashlib.blake2b(written, digest_size=_NAME_BYTES).digest()


def _is_number(value: Any) -> bool:
    """Whether a value has a float64: an integer may be too large for one."""
    return isinstance(value, Real | np.bool_) and not (isinstance(value, int) and value.bit_length() > 1000)


def names_of(rows: NDArray[np.uint8], *, key: bytes) -> NDArray[np.uint64]:
    """uint64[rows], a keyed hash of each; of equal rows the second and further ones have other names."""
    read: Iterable[Any] = rows
    if rows.shape[1] > _LONG:
        # Genotypes: processors have instructions for GHASH, under which two rows agree with a chance of some
        # 2**-50 to whoever has seen no tag. The hash behind it shows none, so one nonce serves for all.
        authenticator = AESGCM(key)
        read = (authenticator.encrypt(bytes(12), b"", row) for row in rows)
    told = b"".join(hashlib.blake2b(row, key=key, digest_size=_NAME_BYTES).digest() for row in read)
    names = np.frombuffer(told, dtype=np.uint64)
    if len(np.unique(names)) == len(names):
        return names
    order = np.argsort(names, kind="stable")
    ordered = names[order]
    first = np.searchsorted(ordered, ordered)
    nth = np.empty(len(names), dtype=np.uint64)
    nth[order] = np.arange(len(names)) - first
    again = np.stack([names, nth], axis=1).view(np.uint8).reshape(len(names), -1)
    return np.where(nth == 0, names, names_of(again, key=key))


def bits_of(places: NDArray[np.int64], universe: int) -> NDArray[np.uint8]:
    """A set of rows as a bitmap."""
    chosen = np.zeros(universe, dtype=np.bool_)
    chosen[places] = True
    return np.packbits(chosen)


def distance(one: NDArray[np.uint8], other: NDArray[np.uint8]) -> int:
    """In how many rows two sets differ; a bitmap that is shorter has zeros behind it."""
    short, long = sorted((one, other), key=len)
    differ = np.bitwise_count(short ^ long[: len(short)]).sum()
    return int(differ) + int(np.bitwise_count(long[len(short) :]).sum())
