"""Centred binomial samples: small keys and noise of lattice encryption, exactly as distributed as they claim.

A sample counts the heads of 164 fair coins; less 82 it is centred, with a variance of 164 / 4 = 41 and a
standard deviation of 6.40. The coins are bits of an AES-256-CTR keystream (NIST SP 800-38A, section 6.5) and
are counted by `numpy.bitwise_count`: without tables, which leak their index through the cache, without
floats, and without a rejection whose time tells something. The distribution is the binomial itself and not
an approximation of a Gaussian by sixteen bits (ATTACKS C11), so a proof may name it; ML-KEM (FIPS 203) takes
its secrets from the same family. Sums stay in it: n samples are the heads of 164·n coins, and
tails follow from Hoeffding's inequality without any slack for the sampler.

**Each seed serves one stream only**: the counter starts at zero. Whoever knows the seed knows the samples.
Neither numpy nor Python promises constant time, but nothing here branches on a coin or looks one up.

>>> stream = BinomialStream(Secret(bytes(range(32))))
>>> counts = np.empty(100_000, dtype=np.uint8)
>>> stream.fill(counts)
>>> round(float(counts.mean()), 1), round(float(counts.var()), 0)
(82.0, 41.0)
"""

from typing import Final

import numpy as np
import numpy.typing as npt
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from secagg.errors import ParameterError
from secagg.secret import Secret

__all__ = ["CENTRE", "COINS", "SEED_BYTES", "VARIANCE", "BinomialStream"]

COINS: Final = 164
"""Fair coins in a sample, which is the number of heads: from 0 to 164."""

CENTRE: Final = COINS // 2
"""The mean of a sample; less this it is centred."""

VARIANCE: Final = COINS // 4

SEED_BYTES: Final = 32
"""Bytes of a seed: an AES-256 key."""

_CHUNK: Final = 1 << 12
_CHUNK_BYTES: Final = _CHUNK * COINS // 8
_ZEROS: Final = memoryview(bytes(_CHUNK_BYTES))


class BinomialStream:
    """The samples of one seed, in order.

    Args:
        seed: `SEED_BYTES` secret bytes that serve no other stream.

    Raises:
        ParameterError: the seed is anything else.
    """

    __slots__ = ("_bytes", "_keystream", "_part", "_ready", "_spare")

    def __init__(self, seed: Secret) -> None:
        if not isinstance(seed, Secret) or len(seed) != SEED_BYTES:
            raise ParameterError(f"a BinomialStream is seeded with a Secret of {SEED_BYTES} bytes")
        self._keystream = Cipher(algorithms.AES256(seed.reveal()), modes.CTR(bytes(16))).encryptor()
        self._bytes = np.empty(_CHUNK_BYTES, dtype=np.uint8)
        self._part = np.empty(_CHUNK, dtype=np.uint8)
        self._spare = np.empty(_CHUNK, dtype=np.uint8)
        self._ready = 0

    def fill(self, out: npt.NDArray[np.uint8]) -> None:
        """Writes the next `len(out)` samples as counts in [0, `COINS`]; a stream in parts is the whole.

        Args:
            out: shape (count,) of uint8, contiguous and writeable.

        Raises:
            ParameterError: it is anything else; the stream does not move.
        """
        if (
            not isinstance(out, np.ndarray)
            or out.ndim != 1
            or out.dtype != np.uint8
            or not out.flags.c_contiguous
            or not out.flags.writeable
        ):
            raise ParameterError("samples go to a contiguous, writeable, one-dimensional array of uint8")
        done = min(self._ready, len(out))
        first = _CHUNK - self._ready
        out[:done] = self._spare[first : first + done]
        self._ready -= done
        while len(out) - done >= _CHUNK:
            self._draw(out[done : done + _CHUNK])
            done += _CHUNK
        if rest := len(out) - done:
            self._draw(self._spare)
            out[done:] = self._spare[:rest]
            self._ready = _CHUNK - rest

    def _draw(self, counts: npt.NDArray[np.uint8]) -> None:
        """The next `_CHUNK` samples.

        The chunk's keystream holds two words of 64 bits for each sample, then one of 32, then half a byte.
        Bits are only counted, so the order of the bytes in a word does not matter.
        """
        self._keystream.update_into(_ZEROS, self._bytes.data)
        words = self._bytes[: 16 * _CHUNK].view(np.uint64)
        halves = self._bytes[16 * _CHUNK : 20 * _CHUNK].view(np.uint32)
        nibbles = self._bytes[20 * _CHUNK :]
        part, middle = self._part, _CHUNK // 2
        np.bitwise_count(words[:_CHUNK], out=counts)
        np.bitwise_count(words[_CHUNK:], out=part)
        np.add(counts, part, out=counts)
        np.bitwise_count(halves, out=part)
        np.add(counts, part, out=counts)
        np.bitwise_and(nibbles, 15, out=part[:middle])
        np.right_shift(nibbles, 4, out=part[middle:])
        np.bitwise_count(part, out=part)
        np.add(counts, part, out=counts)
