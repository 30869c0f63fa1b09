"""SEAL's objects, reduced to their coefficients: bytes of one size, whatever the ciphertext.

SEAL compresses what it writes, so that a size would depend on a ciphertext's entropy. What is known to both
sides (SEAL's header and the object's metadata, which follow from the parameters) does not travel; the
coefficients do, each with the bits of its prime. Nothing that comes from outside is ever inflated.

>>> words = np.arange(8, dtype=np.uint64)
>>> packed = pack_words(words, bits=40)
>>> len(packed), bool((unpack_words(packed, count=8, bits=40) == words).all())
(40, True)
"""

from types import ModuleType
from typing import Final

import numpy as np
import numpy.typing as npt

from secagg.errors import MissingExtraError, ParameterError
from secagg.vectors.ring import Ring
from secagg.wire import Buffer

__all__ = ["UNKNOWN_LAYOUT", "inflate", "pack_words", "uncompressed", "unpack_words"]

UNKNOWN_LAYOUT: Final = "this TenSEAL serialises in an unknown layout; install one that we allow"
_SEAL_4: Final = b"\x5e\xa1\x10\x04"  # magic, header size, major version; any minor version follows
_NOT_COMPRESSED: Final = bytes(3)  # compression, and two bytes in reserve
_HEADER_BYTES: Final = 16

Words = npt.NDArray[np.uint64]


def _zstandard() -> ModuleType:
    try:
        import zstandard
    except ImportError:
        raise MissingExtraError(package="zstandard", extra="ckks") from None
    return zstandard


def inflate(data: bytes, *, size: int) -> tuple[bytes, bytes]:
    """(version, content) of an object that our own SEAL just wrote; the content has `size` bytes.

    Raises:
        MissingExtraError: zstandard is not installed.
        ParameterError: this SEAL writes something else. It is nobody's message that is wrong.
    """
    zstandard = _zstandard()
    try:
        content: bytes = zstandard.ZstdDecompressor().decompress(data[_HEADER_BYTES:], max_output_size=size)
    except zstandard.ZstdError:
        raise ParameterError(UNKNOWN_LAYOUT) from None
    if data[:4] != _SEAL_4 or len(content) != size:
        raise ParameterError(UNKNOWN_LAYOUT)
    return data[4:5], content


def uncompressed(version: bytes, *content: Buffer) -> bytes:
    """The SEAL object of this content, not compressed."""
    size = _HEADER_BYTES + sum(memoryview(part).nbytes for part in content)
    return b"".join((_SEAL_4, version, _NOT_COMPRESSED, size.to_bytes(8, "little"), *content))


def pack_words(words: Words, *, bits: int) -> bytes:
    """Coefficients below 2**bits as a bit stream of ceil(len(words)·bits / 8) bytes."""
    return Ring(bits=bits).pack(_as_residues(words, bits))


def unpack_words(packed: Buffer, *, count: int, bits: int) -> Words:
    """The inverse of `pack_words`; `DecodeError` for another size."""
    return Ring(bits=bits).unpack(packed, count).astype("<u8", copy=False)


def _as_residues(words: Words, bits: int) -> npt.NDArray[np.unsignedinteger]:
    return np.ascontiguousarray(words).astype(Ring(bits=bits).dtype)
