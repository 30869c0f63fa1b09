"""A MAC on sums: tags of vectors add up to a tag of their sum, under one shared key.

Agrawal and Boneh, "Homomorphic MACs: MAC-Based Integrity for Network Coding", ACNS 2009, for integer vectors
over the prime field of P = 2^127 - 1:

    tag_i = Σ_j ρ_j·x_ij + pad_i  mod P

ρ is the keystream of a key derived for one context (a session, a round, a model); pad_i is a pseudorandom
field element for one signer in that context. The sum of tags is checked against the opened sum of vectors
and the pads of the signers that are said to be in it, so it binds the signers, the context and every element.
Without the key a change of the sum or of the list is accepted with probability 2^-126 per attempt.

A pad is used once: one signer must not tag two vectors in one context. Tags may be public: a pad hides the
linear form of a vector as a one-time pad does. Whoever holds the key can forge.

>>> import numpy as np
>>> key = MacKey(Secret(bytes(32)))
>>> a, b = np.array([1, -2, 3]), np.array([10, 20, 30])
>>> tags = key.tag(a, signer=b"a", context=b"round 1"), key.tag(b, signer=b"b", context=b"round 1")
>>> total = sum(tags) % PRIME
>>> key.verify(a + b, total, signers=[b"a", b"b"], context=b"round 1")
>>> key.verify(a + b, total, signers=[b"a", b"c"], context=b"round 1")
Traceback (most recent call last):
    ...
secagg.errors.VerificationError: the tag does not belong to this sum, these signers and this context
"""

import hmac
from collections.abc import Iterable
from typing import Any, Final

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from numpy.typing import NDArray

from secagg import labels
from secagg.errors import ParameterError, VerificationError
from secagg.secret import Secret
from secagg.standard.kdf import hkdf

__all__ = ["KEY_BYTES", "PRIME", "TAG_BYTES", "MacKey", "Tagging"]

PRIME: Final = 2**127 - 1
KEY_BYTES: Final = 32
TAG_BYTES: Final = 16

_CHUNK: Final = 1 << 14
_LIMB_BITS: Final = 22  # 22 + 16 + log2(_CHUNK) = 52 bits: float64 dot products are exact
_LIMBS: Final = 3
_RHO_WORDS: Final = 8
_ZEROS: Final = memoryview(bytes(2 * _RHO_WORDS * _CHUNK))


class MacKey:
    """The shared key: 32 uniform secret bytes."""

    __slots__ = ("_key",)

    def __init__(self, key: Secret) -> None:
        if not isinstance(key, Secret) or len(key) != KEY_BYTES:
            raise ParameterError(f"a MacKey is made of a Secret of {KEY_BYTES} bytes")
        self._key = key

    def __repr__(self) -> str:
        return "MacKey(...)"

    def tag(self, vector: NDArray[np.int64], *, signer: bytes, context: bytes) -> int:
        """The tag of one signer's vector, in [0, PRIME).

        Args:
            vector: int64[d], d >= 1.
            signer: who signs; tags at most one vector in a context.
            context: what the sum is for.
        """
        tagging = Tagging(self, context=context)
        tagging.add(vector)
        return tagging.tag(signer)

    def verify(self, total: NDArray[np.int64], tag: int, *, signers: Iterable[bytes], context: bytes) -> None:
        """Raises `VerificationError` unless `tag` is the sum of the tags of exactly these signers."""
        tagging = Tagging(self, context=context)
        tagging.add(total)
        tagging.verify(tag, signers=signers)

    def _derive(self, label: bytes, context: bytes) -> Secret:
        return hkdf(self._key, label=label, context=context)


class Tagging:
    """The tag of a vector, or of a sum, that comes in parts, in any order.

    Args:
        key: the shared key.
        context: what the sum is for.
    """

    __slots__ = ("_form", "_form_key", "_limbs", "_pad_key", "_words")

    def __init__(self, key: MacKey, *, context: bytes) -> None:
        self._form_key = key._derive(labels.CONSORTIUM_MAC_FORM, context)
        self._pad_key = key._derive(labels.CONSORTIUM_MAC_PAD, context)
        self._words = bytearray(len(_ZEROS) + 16)
        self._limbs = np.empty((_LIMBS, _CHUNK), dtype=np.float64)
        self._form = 0

    def add(self, part: NDArray[np.int64], start: int = 0) -> None:
        """Takes the elements [start, start + len(part)); each element must come once.

        Σ_j ρ_j·x_j mod PRIME, in exact float64 dot products of 22-bit by 16-bit limbs. An element's ρ is one
        block of the keystream, so that any part can be taken alone.
        """
        if not isinstance(part, np.ndarray) or part.dtype != np.int64 or part.ndim != 1 or not len(part):
            raise ParameterError("a MAC is taken of a 1-D array of int64 with at least one element")
        if type(start) is not int or not 0 <= start < 1 << 63:
            raise ParameterError(f"a part that starts at {start!r}; elements are counted from 0")
        first = modes.CTR(start.to_bytes(16, "big"))
        stream = Cipher(algorithms.AES(self._form_key.reveal()), first).encryptor()
        for at in range(0, len(part), _CHUNK):
            chunk = part[at : at + _CHUNK]
            size = 2 * _RHO_WORDS * len(chunk)
            stream.update_into(_ZEROS[:size], self._words)
            rho = np.frombuffer(self._words, dtype="<u2", count=size // 2).reshape(-1, _RHO_WORDS)
            used = _split(chunk, self._limbs[:, : len(chunk)])
            self._form += _join(self._limbs[:used, : len(chunk)] @ rho.astype(np.float64))

    def tag(self, signer: bytes) -> int:
        """The tag of one signer's vector, in [0, PRIME)."""
        return (self._form + self._pad(signer)) % PRIME

    def verify(self, tag: int, *, signers: Iterable[bytes]) -> None:
        """Raises `VerificationError` unless `tag` is the sum of the tags of exactly these signers."""
        names = list(signers)
        if len(set(names)) != len(names):
            raise ParameterError("a signer is listed twice")
        expected = (self._form + sum(self._pad(name) for name in names)) % PRIME
        given = (tag % PRIME).to_bytes(TAG_BYTES, "big")
        if not hmac.compare_digest(expected.to_bytes(TAG_BYTES, "big"), given):
            raise VerificationError("the tag does not belong to this sum, these signers and this context")

    def _pad(self, signer: bytes) -> int:
        # Half as long again as the field, so that reducing it leaves a bias of 2^-65.
        wide = hkdf(self._pad_key, label=labels.CONSORTIUM_MAC_PAD, context=signer, size=24)
        return int.from_bytes(wide.reveal(), "big") % PRIME


def _split(part: NDArray[np.int64], limbs: NDArray[np.float64]) -> int:
    """Writes x = Σ limb_k·2^(22k), the last limb signed; returns how many limbs are not all zero."""
    largest = max(int(part.max()), -int(part.min()) - 1)
    used = min(_LIMBS, (largest.bit_length() + 1 + _LIMB_BITS - 1) // _LIMB_BITS)
    mask = (1 << _LIMB_BITS) - 1
    for index in range(used):
        shifted = part >> (_LIMB_BITS * index)
        limbs[index] = shifted if index == used - 1 else shifted & mask
    return used


def _join(products: NDArray[Any]) -> int:
    """Σ products[k, w]·2^(22k + 16w) as an exact integer."""
    return sum(
        int(value) << (_LIMB_BITS * k + 16 * w)
        for k, row in enumerate(products)
        for w, value in enumerate(row)
    )
