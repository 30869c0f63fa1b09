"""Randomness is an argument.

Everything random in this library takes an `Entropy`: a callable from a byte count to that many bytes. The
default is `os.urandom`. `SeededEntropy` repeats itself for tests, simulations and benchmarks; whoever knows
its seed knows every secret that was drawn from it.

Numbers below a bound come from rejection sampling, never from `%`: a remainder is biased (ATTACKS: weak
generators that miss the top value).

>>> SeededEntropy(b"a test")(4) == SeededEntropy(b"a test")(4)
True
>>> uniform_below(SeededEntropy(b"dice"), 6) in range(6)
True
"""

import os
from collections.abc import Callable
from typing import TypeAlias

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from secagg import labels
from secagg.errors import ParameterError

__all__ = ["Entropy", "SeededEntropy", "draw", "system_entropy", "uniform_below"]

Entropy: TypeAlias = Callable[[int], bytes]
"""`entropy(n)` returns n fresh, uniform, secret bytes."""

system_entropy: Entropy = os.urandom


class SeededEntropy:
    """A deterministic `Entropy`: the ChaCha20 keystream of HKDF-SHA256(seed, label, purpose).

    Args:
        seed: any bytes; equal seeds and purposes give equal streams.
        purpose: separates streams drawn from one seed, for example one per client.
    """

    __slots__ = ("_stream",)

    def __init__(self, seed: bytes, purpose: bytes = b"") -> None:
        if type(seed) is not bytes or type(purpose) is not bytes:
            raise ParameterError("SeededEntropy takes a seed and a purpose of type bytes")
        key = HKDF(hashes.SHA256(), 32, salt=purpose, info=labels.SEEDED_ENTROPY).derive(seed)
        self._stream = Cipher(algorithms.ChaCha20(key, bytes(16)), mode=None).encryptor()

    def __call__(self, size: int, /) -> bytes:
        return self._stream.update(bytes(size))

    def __repr__(self) -> str:
        return "SeededEntropy(...)"


def draw(entropy: Entropy, size: int) -> bytes:
    """`size` bytes from `entropy`; a source that returns anything else is refused.

    Raises:
        ParameterError: the source returned the wrong type or the wrong number of bytes.
    """
    data = entropy(size)
    if type(data) is not bytes or len(data) != size:
        raise ParameterError(f"the entropy source was asked for {size} bytes and did not return {size} bytes")
    return data


def uniform_below(entropy: Entropy, bound: int) -> int:
    """A uniform integer in [0, bound), by rejection sampling (fewer than two draws on average).

    Raises:
        ParameterError: bound is not positive, or the source returned 1000 rejected draws in a row.
    """
    if bound < 1:
        raise ParameterError(f"bound is {bound}; it must be at least 1")
    bits = (bound - 1).bit_length()
    size = (bits + 7) // 8
    for _ in range(1000):
        value = int.from_bytes(draw(entropy, size), "big") >> (8 * size - bits)
        if value < bound:
            return value
    raise ParameterError("the entropy source is broken: 1000 draws in a row were out of range")
