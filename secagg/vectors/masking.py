"""Pseudo-random masks: the PRG of Bonawitz et al., CCS'17, and Bell et al., CCS'20.

A mask is the AES-128-CTR keystream (NIST SP 800-38A, section 6.5) of its seed, counter from zero, read as
little-endian machine words: of 32 bits for rings of up to 32 bits, of 64 above. One of two neighbours adds
the mask that the other subtracts, and in the sum of all parties each pair cancels.

**Each seed is the key of one stream only.** The counter always starts at zero, so a seed that masks two
vectors gives away their difference (ATTACKS A6). Derive one for each pair, round and purpose, and drop it.

A whole word stands for each value although the ring may be narrower. 2**bits divides the number of words, so
every residue has equally many preimages: the low bits of a uniform word are uniform over the ring, its top
value included (A7, A8). The bits above are the ring's garbage, dropped when the vector is packed.

Masks hide a vector from whoever lacks the seeds, and nothing more: they do not authenticate it, and the sum
opens for whoever holds all vectors. The blocks of a counter never repeat: beyond AES itself, B blocks of a
mask differ from uniform ones by at most B**2 / 2**129, under 2**-79 for 1e8 words of 32 bits.

>>> ring, seed = Ring(bits=20), Secret(bytes(range(16)))
>>> mine, theirs = ring.zeros(3), ring.zeros(3)
>>> apply_masks(mine, ring=ring, add=[seed], subtract=[])
>>> apply_masks(theirs, ring=ring, add=[], subtract=[seed])
>>> ring.residues(mine + theirs).tolist()
[0, 0, 0]
"""

from collections.abc import Sequence
from typing import Final

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, CipherContext, algorithms, modes

from secagg.errors import ParameterError
from secagg.secret import Secret
from secagg.vectors.ring import Ring, Words

__all__ = ["MASK_KEY_BYTES", "MaskStream", "apply_masks", "expand"]

MASK_KEY_BYTES: Final = 16
"""Bytes of a mask seed: an AES-128 key. Each is used for one stream only."""

_CHUNK_BYTES: Final = 1 << 17
_ZEROS: Final = memoryview(bytes(_CHUNK_BYTES))
_FROM_ZERO: Final = modes.CTR(bytes(16))
"""The counter of every mask. Short masks cost little but their set-up, so it is not made anew for each."""


def expand(seed: Secret, *, ring: Ring, count: int) -> Words:
    """The mask of a seed, at once: the reference that `apply_masks` agrees with.

    Args:
        seed: `MASK_KEY_BYTES` secret bytes that serve no other stream.
        count: values of the mask, at least 0.

    Returns:
        shape (count,) of `ring.dtype`, uniform over all machine words.

    Raises:
        ParameterError: the seed or the count is anything else.
    """
    mask = ring.zeros(count)
    keystream = _keystream(seed).update(bytes(mask.nbytes))
    mask[:] = np.frombuffer(keystream, dtype=_wire_dtype(ring))
    return mask


class MaskStream:
    """The masks of all seeds together, applied to a vector part by part, in order.

    It holds one chunk of keystream (128 KiB); a chunk of the vector stays in the cache while all masks pass
    over it. Nothing is ever applied twice: the stream moves on with each part and cannot go back.

    Args:
        ring: gives the machine word.
        add: seeds (`MASK_KEY_BYTES` each) of the masks to add.
        subtract: seeds of the masks to subtract.

    Raises:
        ParameterError: a seed is not a Secret of `MASK_KEY_BYTES`.
    """

    __slots__ = ("_ring", "_streams", "_words")

    def __init__(self, *, ring: Ring, add: Sequence[Secret], subtract: Sequence[Secret]) -> None:
        self._ring = ring
        self._streams: list[tuple[CipherContext, np.ufunc]] = [(_keystream(seed), np.add) for seed in add]
        self._streams += [(_keystream(seed), np.subtract) for seed in subtract]
        self._words = np.empty(_CHUNK_BYTES // ring.dtype.itemsize, dtype=_wire_dtype(ring))

    def apply(self, part: Words) -> None:
        """Masks the next `len(part)` values of the vector in place.

        Args:
            part: shape (count,), contiguous, writeable, of `ring.dtype`.

        Raises:
            ParameterError: the part is anything else; it and the stream are as before.
        """
        self._ring.check_vector(part)
        if not part.flags.writeable:
            raise ParameterError("the vector to mask is read-only; pass a writeable array")
        keystream = self._words.data.cast("B")
        for start in range(0, len(part), len(self._words)):
            chunk = part[start : start + len(self._words)]
            mask = self._words[: len(chunk)]
            zeros, mask_bytes = _ZEROS[: chunk.nbytes], keystream[: chunk.nbytes]
            for stream, combine in self._streams:
                stream.update_into(zeros, mask_bytes)
                combine(chunk, mask, out=chunk)


def apply_masks(vector: Words, *, ring: Ring, add: Sequence[Secret], subtract: Sequence[Secret]) -> None:
    """Masks a whole vector in place: vector += sum of masks to add - sum of masks to subtract.

    Args and errors are those of `MaskStream`; everything is checked before the vector is touched.

    Raises:
        ParameterError: a seed or the vector is not what `MaskStream` takes.
    """
    MaskStream(ring=ring, add=add, subtract=subtract).apply(vector)


def _keystream(seed: Secret) -> CipherContext:
    if not isinstance(seed, Secret):
        raise ParameterError(f"a mask seed is a Secret, not {type(seed).__name__}")
    if len(seed) != MASK_KEY_BYTES:
        raise ParameterError(f"a mask seed of {len(seed)} bytes; derive one of {MASK_KEY_BYTES}")
    return Cipher(algorithms.AES128(seed.reveal()), _FROM_ZERO).encryptor()


def _wire_dtype(ring: Ring) -> np.dtype[np.uint32] | np.dtype[np.uint64]:
    """The ring's machine word with its byte order written down, so that all hosts make the same mask."""
    return ring.dtype.newbyteorder("<")
