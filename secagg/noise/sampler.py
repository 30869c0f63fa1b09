"""Samples of a symmetric law from one seed: uniform words, a table's magnitudes, and a sign.

The words are the AES-256-CTR keystream (NIST SP 800-38A, section 6.5) of the seed, counter from zero, in
little-endian words of 64 bits: one for a sample. Its lowest bit is the sign, the upper 63 are the number
that `tables` looks up. The sign of a zero changes nothing, so zero is not drawn twice. Where 63 bits do not
decide, 64 more come from the same keystream's second half, counter from 2^127, in the order of the samples:
so neither a tie nor the size of a chunk moves the words of other samples, and the first samples of a seed
are the same however many are drawn.

**Each seed serves one call only.** Whoever knows it knows the noise.

>>> table = Table.of([1 << 126])  # zero half of the time, one and minus one a quarter each
>>> draw_samples(table, seed=Secret(bytes(32)), count=8).tolist()
[1, -1, -1, -1, 0, 0, 0, -1]
"""

import sys
from typing import Final

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from secagg.noise.tables import Samples, Table, Words
from secagg.secret import Secret

__all__ = ["SEED_BYTES", "WordStream", "draw_samples"]

SEED_BYTES: Final = 32
"""Bytes of a seed: an AES-256 key."""

_CHUNK: Final = 1 << 14
"""Words at a time: with all their buffers they stay in a second-level cache."""

_ZEROS: Final = memoryview(bytes(8 * _CHUNK))
_FIRST_HALF: Final = modes.CTR(bytes(16))
_SECOND_HALF: Final = modes.CTR(b"\x80" + bytes(15))


class WordStream:
    """The uniform words of one seed.

    Args:
        seed: `SEED_BYTES` secret bytes that serve no other stream.
    """

    __slots__ = ("_further", "_keystream")

    def __init__(self, seed: Secret) -> None:
        key = algorithms.AES256(seed.reveal())
        self._keystream = Cipher(key, _FIRST_HALF).encryptor()
        self._further = Cipher(key, _SECOND_HALF).encryptor()

    def fill(self, words: Words) -> None:
        """Writes the next words, `_CHUNK` at most."""
        size = words.nbytes
        self._keystream.update_into(_ZEROS[:size], words.data.cast("B"))
        if sys.byteorder == "big":
            words.byteswap(inplace=True)

    def further(self) -> int:
        """The next word of the second half: the 64 bits that decide a tie."""
        return int.from_bytes(self._further.update(bytes(8)), "little")


def draw_samples(table: Table, *, seed: Secret, count: int) -> Samples:
    """`count` samples whose magnitudes are a table's and whose signs are fair."""
    return samples_of(table, WordStream(seed), count=count)


def samples_of(table: Table, stream: WordStream, *, count: int) -> Samples:
    """`count` samples from a stream of words.

    Returns:
        shape (count,) of int64.
    """
    samples = np.empty(count, dtype=np.int64)
    words = np.empty(min(count, _CHUNK), dtype=np.uint64)
    spare = np.empty(len(words), dtype=np.int32)
    for start in range(0, count, _CHUNK):
        part = samples[start : start + _CHUNK]
        chunk = words[: len(part)]
        stream.fill(chunk)
        for tied in table.look_up(chunk, out=part, spare=spare[: len(part)]):
            part[tied] = table.settle(int(chunk[tied]) >> 1, stream.further())
        # 0 or -1 for the sign: the complement less minus one is the negative.
        np.bitwise_and(chunk, np.uint64(1), out=chunk)
        signs = chunk.view(np.int64)
        np.negative(signs, out=signs)
        np.bitwise_xor(part, signs, out=part)
        np.subtract(part, signs, out=part)
    return samples
