"""Public polynomials of lattice encryption, from a seed, and their products with a key.

As FrodoKEM makes its matrix (Alkim et al., specification of 2021, algorithm 7), the polynomials a_j of a
seed are AES-128-CTR keystream under a public key: an ideal cipher's output, which nobody can steer as long as
the seed is a hash of what all parties said. A seed that one party chooses freely is worth no proof (ATTACKS
C10). Nothing here is secret but the key that is multiplied.

Polynomial j is *defined* by its L limbs of w bits, a_j = Σ limb_i·2**(w·i): its keystream begins at counter
j·L·N/4, limb i is the 32-bit words [i·N, (i+1)·N) of it, little-endian, each shifted right by 32 - w as a
signed integer, in the memory order of `negacyclic`. L·w >= K, so a_j is uniform modulo 2**K; the limbs
are what the exact product wants, and one block opens without the others.

>>> from secagg.rlwe.parameters import choose_parameters
>>> parameters = choose_parameters(sum_bound=100, signed=True, max_summands=2)
>>> one = np.zeros(parameters.degree, dtype=np.int64)
>>> one[0] = 1
>>> product = PublicProduct(parameters, seed=bytes(32), key=one)
>>> both, second = np.empty(2 * parameters.degree, np.uint64), np.empty(parameters.degree, np.uint64)
>>> product.write(0, both, offset=0)
>>> product.write(1, second, offset=0)
>>> np.array_equal(both[parameters.degree :], second)
True
"""

from typing import Final

import numpy as np
import numpy.typing as npt
from cryptography.hazmat.primitives.ciphers import Cipher, CipherContext, algorithms, modes

from secagg import labels
from secagg.errors import ParameterError
from secagg.rlwe.negacyclic import KeyProduct
from secagg.rlwe.parameters import Parameters
from secagg.secret import Secret
from secagg.standard.kdf import hkdf
from secagg.vectors.ring import BLOCK_VALUES

__all__ = ["SEED_BYTES", "PublicProduct"]

SEED_BYTES: Final = 32
"""Bytes of a public seed: a hash of all that the sum depends on."""

_AES_BLOCK: Final = 16


class PublicProduct:
    """The products of the public polynomials of a seed with one key, block by block.

    Args:
        parameters: of the sum.
        seed: `SEED_BYTES` public bytes.
        key: shape (N,) of int64, centred; its squared norm is at most `parameters.key_norm_bound`.

    Raises:
        ParameterError: the seed is anything else, or the key is too large to multiply exactly.
    """

    __slots__ = ("_blocks", "_keystream", "_limbs", "_next", "_parameters", "_product", "_public", "_zeros")

    def __init__(self, parameters: Parameters, *, seed: bytes, key: npt.NDArray[np.int64]) -> None:
        if type(seed) is not bytes or len(seed) != SEED_BYTES:
            raise ParameterError(f"a public seed is {SEED_BYTES} bytes of type bytes")
        self._parameters = parameters
        self._public = hkdf(Secret(seed), label=labels.LATTICE_PUBLIC, size=_AES_BLOCK).reveal()
        self._product = KeyProduct(key, limb_bits=parameters.limb_bits, limbs=parameters.limbs)
        self._blocks = min(self._product.blocks, BLOCK_VALUES // parameters.degree)
        self._limbs = np.empty((self._blocks, parameters.limbs, parameters.degree), dtype="<i4")
        self._zeros = memoryview(bytes(self._limbs.nbytes))
        self._keystream: CipherContext | None = None
        self._next = 0

    def write(self, first: int, out: npt.NDArray[np.uint64], *, offset: int) -> None:
        """Writes the products of the blocks from `first` on, each coefficient plus `offset`, modulo 2**64.

        Args:
            out: shape (blocks·N,), contiguous.
        """
        degree = self._parameters.degree
        for start in range(0, len(out) // degree, self._blocks):
            part = out[start * degree : (start + self._blocks) * degree]
            self._product.write(
                self._polynomials(first + start, len(part) // degree), out=part, offset=offset
            )

    def _polynomials(self, first: int, count: int) -> npt.NDArray[np.int32]:
        """The limbs of public polynomials [first, first + count), shape (count, L, N); reused memory."""
        limbs = self._limbs[:count]
        if self._keystream is None or self._next != first:
            counter = first * (self._limbs[0].nbytes // _AES_BLOCK)
            nonce = counter.to_bytes(_AES_BLOCK, "big")
            self._keystream = Cipher(algorithms.AES128(self._public), modes.CTR(nonce)).encryptor()
        self._keystream.update_into(self._zeros[: limbs.nbytes], limbs.data.cast("B"))
        self._next = first + count
        np.right_shift(limbs, 32 - self._parameters.limb_bits, out=limbs)
        return limbs
