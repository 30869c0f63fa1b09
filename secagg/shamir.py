"""Shares of a secret: Shamir, "How to share a secret", CACM 1979.

A 32-byte secret is the value at zero of a random polynomial of degree `threshold` - 1 over the integers
modulo p = 2^256 + 297, the smallest prime above 2^256; the share of holder i is its value at i. Any
`threshold` shares give the secret back. Fewer say nothing whatever, not even to unbounded computation.

Indices are public, non-zero and distinct; the roster's order fixes them and no party chooses its own
(ATTACKS B4). A share that a holder changed cannot be told from an honest one: the combined secret is then
simply another one, out of the 32-byte range only with probability about 2^-248. Compare what `combine`
returns with what the dealer committed to (ATTACKS B3).

The arithmetic is Python's own: on numbers of nine digits GMP is no faster, since its calls cost as much as
the work.

>>> key = Secret(bytes(range(32)))
>>> shares = split(key, threshold=2, indices=[1, 2, 3])
>>> combine(shares[1:], threshold=2) == key
True
>>> shares[0]
Share(index=1, value=Secret(33 bytes))
"""

import math
import operator
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate
from typing import Final

import numpy as np

from secagg.entropy import Entropy, system_entropy, uniform_below
from secagg.errors import DecodeError, ParameterError, VerificationError
from secagg.secret import Secret
from secagg.wire import Buffer, Reader

__all__ = [
    "MAXIMUM_INDEX",
    "PRIME",
    "SECRET_BYTES",
    "SHARE_BYTES",
    "Share",
    "combine",
    "combine_encoded",
    "lagrange_at_zero",
    "split",
]

PRIME: Final = 2**256 + 297
"""The field's order p, the smallest prime above 2^256, so that every 32-byte secret is an element."""

SECRET_BYTES: Final = 32
SHARE_BYTES: Final = 33
MAXIMUM_INDEX: Final = 2**16 - 1

_DENSE_INDEX: Final = 2**12
"""Up to here weights may come from binomials, whose size grows with the index."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """What one holder keeps of one secret.

    Attributes:
        index: the holder's public evaluation point, in [1, 2^16).
        value: the polynomial's value there, below PRIME, as 33 big-endian bytes.

    Raises:
        ParameterError: an index or a value of the wrong type, length or range.
    """

    index: int
    value: Secret

    def __post_init__(self) -> None:
        _require_index(self.index)
        if not isinstance(self.value, Secret) or len(self.value) != SHARE_BYTES:
            raise ParameterError(f"the value of a share is a Secret of {SHARE_BYTES} bytes; use Share.decode")
        if int.from_bytes(self.value.reveal(), "big") >= PRIME:
            raise ParameterError("the value of a share is not below 2^256 + 297; use Share.decode")

    def encode(self) -> bytes:
        """The value alone, SHARE_BYTES bytes; both sides know the index from the roster."""
        return self.value.reveal()

    @classmethod
    def decode(cls, index: int, data: Buffer) -> "Share":
        """The share of holder `index` from the SHARE_BYTES bytes of its value.

        Raises:
            ParameterError: `index` is not an int in [1, 2^16).
            DecodeError: `data` is not a buffer of SHARE_BYTES bytes, or its integer is not below PRIME.
        """
        _require_index(index)
        reader = Reader(data)
        value = bytes(reader.fixed(SHARE_BYTES))
        reader.finish()
        if int.from_bytes(value, "big") >= PRIME:
            raise DecodeError("the value of a share is not below 2^256 + 297")
        return cls(index=index, value=Secret(value))


def split(
    secret: Secret, *, threshold: int, indices: Sequence[int], entropy: Entropy = system_entropy
) -> tuple[Share, ...]:
    """One share for each of `indices`, in their order; any `threshold` of them give `secret` back.

    Args:
        secret: 32 bytes.
        threshold: t, in [1, len(indices)].
        indices: the holders' evaluation points, distinct, each in [1, 2^16).
        entropy: gives the t - 1 coefficients, uniform in [0, PRIME); zero is one of them.

    Raises:
        ParameterError: a wrong type, length or range, a repeated index, or a broken entropy source.
    """
    if not isinstance(secret, Secret) or len(secret) != SECRET_BYTES:
        raise ParameterError(f"the secret to split is a Secret of {SECRET_BYTES} bytes")
    _require_distinct(indices)
    _require_threshold(threshold, len(indices))
    coefficients = [uniform_below(entropy, PRIME) for _ in range(threshold - 1)]
    constant = int.from_bytes(secret.reveal(), "big")
    shares = []
    for index in indices:
        value = 0
        for coefficient in coefficients:
            value = (value + coefficient) * index % PRIME
        value = (value + constant) % PRIME
        shares.append(Share(index=index, value=Secret(value.to_bytes(SHARE_BYTES, "big"))))
    return tuple(shares)


def combine(shares: Sequence[Share], *, threshold: int) -> Secret:
    """The 32-byte secret, from the `threshold` shares of lowest index; spare shares are not looked at.

    Args:
        shares: at least `threshold` of them, with distinct indices, all of one secret.
        threshold: the t that the secret was split with.

    Raises:
        ParameterError: too few shares, a repeated index, or a wrong type.
        VerificationError: the result is no 32-byte secret, so that at least one share is wrong.
    """
    if not isinstance(shares, Sequence) or not all(isinstance(share, Share) for share in shares):
        raise ParameterError(
            "combine takes a sequence of Shares; use Share.decode on what came over the wire"
        )
    _require_distinct([share.index for share in shares])
    _require_threshold(threshold, len(shares))
    chosen = sorted(shares, key=lambda share: share.index)[:threshold]
    values = [int.from_bytes(share.value.reveal(), "big") for share in chosen]
    return _at_zero([share.index for share in chosen], values)


def combine_encoded(indices: Sequence[int], encodings: Sequence[bytes], *, threshold: int) -> Secret:
    """`combine` on the encodings of shares, for whoever rebuilds thousands of secrets.

    Args:
        indices: of the holders, strictly ascending.
        encodings: SHARE_BYTES bytes of each, in the same order.
        threshold: as for `combine`.

    Raises:
        ParameterError: too few shares, indices that do not ascend in [1, 2^16), or another number of them.
        DecodeError: an encoding that no share has.
        VerificationError: as `combine`.
    """
    _require_distinct(indices)
    _require_threshold(threshold, len(encodings))
    if len(indices) != len(encodings) or sorted(indices) != list(indices):
        raise ParameterError("each encoding has the index of its holder, and the indices ascend")
    values = [int.from_bytes(encoding, "big") for encoding in encodings[:threshold]]
    if set(map(len, encodings)) != {SHARE_BYTES} or max(values) >= PRIME:
        raise DecodeError(f"a share has {SHARE_BYTES} bytes and is below 2^256 + 297")
    return _at_zero(list(indices[:threshold]), values)


def _at_zero(indices: list[int], values: list[int]) -> Secret:
    """The value at zero of the polynomial through these points."""
    total = sum(map(operator.mul, _lagrange_at_zero(tuple(indices)), values)) % PRIME
    if total >> (8 * SECRET_BYTES):
        raise VerificationError("the shares combine to no 32-byte secret: at least one of them is wrong")
    return Secret(total.to_bytes(SECRET_BYTES, "big"))


def lagrange_at_zero(indices: Sequence[int]) -> tuple[int, ...]:
    """The weights w with f(0) = Σ w_i·f(indices[i]) mod PRIME for every f of degree below len(indices).

    They depend on public indices alone and are remembered, so that many secrets with the same holders pay
    for them once.

    Raises:
        ParameterError: no index, a repeated one, or one that is not an int in [1, 2^16).
    """
    _require_distinct(indices)
    if not indices:
        raise ParameterError("there are no indices; at least one is needed")
    return _lagrange_at_zero(tuple(indices))


@lru_cache(maxsize=256)
def _lagrange_at_zero(indices: tuple[int, ...]) -> tuple[int, ...]:
    # Holders are numbered from 1: when a few are lost, there are few gaps below the highest index.
    if (highest := max(indices)) <= min(2 * len(indices), _DENSE_INDEX):
        return _dense_weights(indices, highest)
    # w_i = Π_{j≠i} x_j / (x_j - x_i) = (Π_j x_j) / (x_i·Π_{j≠i} (x_j - x_i))
    denominators = [x * math.prod(other - x for other in indices if other != x) % PRIME for x in indices]
    # One inversion for all of them (Montgomery 1987): running products up, then peeled off downwards.
    products = list(accumulate(denominators, lambda left, right: left * right % PRIME, initial=1))
    inverse = pow(products[-1], -1, PRIME) * math.prod(indices) % PRIME
    weights = []
    for denominator, product in zip(reversed(denominators), reversed(products[:-1]), strict=True):
        weights.append(inverse * product % PRIME)
        inverse = inverse * denominator % PRIME
    return tuple(reversed(weights))


def _dense_weights(indices: tuple[int, ...], highest: int) -> tuple[int, ...]:
    """The weights where half of 1, ..., m or more are indices, m the highest: several times faster.

    If all are, w_i = Π_{j≠i} j / (j - i) = (-1)^(i-1)·C(m, i). Each gap g takes a factor g / (g - i) out.
    """
    gaps = list(set(range(1, highest + 1)).difference(indices))
    scale = pow(math.prod(gaps), -1, PRIME)
    # Several factors g - i, each below 2^bit_length, are multiplied in one machine word.
    together = 63 // highest.bit_length()
    differences = np.array(gaps, dtype=np.int64) - np.array(indices, dtype=np.int64)[:, None]
    padded = np.ones((len(indices), -(-len(gaps) // together) * together), dtype=np.int64)
    padded[:, : len(gaps)] = differences
    factors = np.multiply.reduce(padded.reshape(len(indices), -1, together), axis=2).tolist()
    return tuple(
        _alternating_binomial(highest, index) * math.prod(each) * scale % PRIME
        for index, each in zip(indices, factors, strict=True)
    )


@lru_cache(maxsize=1 << 13)
def _alternating_binomial(highest: int, index: int) -> int:
    return math.comb(highest, index) if index & 1 else -math.comb(highest, index)


def _require_index(index: object) -> None:
    if type(index) is not int or not 1 <= index <= MAXIMUM_INDEX:
        raise ParameterError(f"a share's index is an int in [1, {MAXIMUM_INDEX + 1}); number holders from 1")


def _require_distinct(indices: Sequence[int]) -> None:
    if not isinstance(indices, Sequence):
        raise ParameterError(f"indices are of type {type(indices).__name__}; a sequence of ints is needed")
    integers = set(map(type, indices)) == {int}
    if not integers or min(indices) < 1 or max(indices) > MAXIMUM_INDEX:
        for index in indices:
            _require_index(index)
    if len(set(indices)) != len(indices):
        raise ParameterError("an index is repeated; each holder has one of its own")


def _require_threshold(threshold: object, available: int) -> None:
    if type(threshold) is not int or not 1 <= threshold <= available:
        raise ParameterError(
            f"threshold is {threshold!r}; with {available} shares an int in [1, {available}]"
        )
