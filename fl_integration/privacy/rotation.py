"""A public rotation that spreads an update over all its entries, so that a ring needs fewer bits.

The randomised Hadamard transform (Ailon and Chazelle 2006; Kairouz, Liu and Steinke 2021, §4.2): signs from a
public seed, then an orthogonal matrix of ±1, in blocks of 2**14 entries. It hides nothing and costs no
privacy: norms stay, and the bound is checked afterwards in integers. It pays from about 30 clients on; with
fewer, noise fills the ring anyway.

>>> import numpy as np
>>> spike = np.zeros(8)
>>> spike[0] = 8.0
>>> np.abs(rotated(spike, seed=b"a public seed of a round")).round(3).tolist()[:3]
[2.828, 2.828, 2.828]
"""

import math
from enum import Enum
from functools import lru_cache
from typing import Final

import numpy as np
from numpy.typing import NDArray

from secagg import labels
from secagg.entropy import SeededEntropy
from secagg.errors import ParameterError

__all__ = ["FROM_CLIENTS", "Rotation", "back", "block_of", "padded", "rotated"]

FROM_CLIENTS: Final = 30
"""Where it begins to pay."""

_BLOCK: Final = 1 << 14
_SEED_BYTES: Final = 16


class Rotation(Enum):
    """Whether updates are rotated before they are rounded."""

    AUTO = "from 30 clients on"
    ON = "always"
    OFF = "never"


def block_of(length: int) -> int:
    """Entries of one block for a vector of `length`: a power of two, at most 2**14."""
    return min(_BLOCK, 1 << max(length - 1, 0).bit_length())


def padded(length: int) -> int:
    """The length of a rotated vector: whole blocks."""
    block = block_of(length)
    return -(-length // block) * block


def rotated(vector: NDArray[np.float64], *, seed: bytes) -> NDArray[np.float64]:
    """The vector with zeros to whole blocks, rotated: float64[padded(d)], of equal norm.

    Args:
        vector: float64[d].
        seed: public, the same for all clients of a round, at least 16 bytes.
    """
    spread = np.zeros(padded(len(vector)))
    spread[: len(vector)] = vector
    spread *= _signs(seed, len(spread))
    return _transformed(spread, block_of(len(vector)))


def back(vector: NDArray[np.float64], *, seed: bytes, length: int) -> NDArray[np.float64]:
    """What was rotated, or a sum of such: float64[length]."""
    spread = _transformed(vector, block_of(length))
    spread *= _signs(seed, len(spread))
    return spread[:length]


def _signs(seed: bytes, length: int) -> NDArray[np.float64]:
    if type(seed) is not bytes or len(seed) < _SEED_BYTES:
        raise ParameterError(
            f"a rotation takes a round_seed of at least {_SEED_BYTES} bytes, public and the same for all "
            "clients"
        )
    bits = np.frombuffer(SeededEntropy(seed, purpose=labels.ROTATION_SIGNS)(-(-length // 8)), dtype=np.uint8)
    return np.unpackbits(bits, count=length).astype(np.float64) * 2 - 1


def _transformed(vector: NDArray[np.float64], block: int) -> NDArray[np.float64]:
    """Each block times the Hadamard matrix of its size, in two halves: H of a·b is H of a times H of b."""
    rows = 1 << (block.bit_length() - 1) // 2
    columns = block // rows
    blocks = vector.reshape(-1, rows, columns)
    turned: NDArray[np.float64] = _hadamard(rows) @ (blocks @ _hadamard(columns))
    return turned.reshape(-1)


@lru_cache(maxsize=4)
def _hadamard(size: int) -> NDArray[np.float64]:
    """Sylvester's, scaled to be orthogonal; it is its own inverse."""
    matrix: NDArray[np.float64] = np.ones((1, 1))
    while len(matrix) < size:
        matrix = np.block([[matrix, matrix], [matrix, -matrix]])
    matrix /= math.sqrt(size)
    matrix.flags.writeable = False
    return matrix
