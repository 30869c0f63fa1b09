"""Many integers in one Paillier plaintext, and vectors of ciphertexts as bytes.

A plaintext modulo n has room for a hundred and more small integers. Value x_j goes to slot j, that is into
the sum Σ x_j·2^(w·j), negative values borrowing from the slots above. Sums of plaintexts are then sums of
vectors. If no sum leaves [-B, B], adding B to each slot makes all of them non-negative, and slots of
w = bit_length(2·B) bits are read without a carry between them. Packing for Paillier goes back to Ge and
Zdonik (VLDB'07); BatchCrypt (USENIX ATC'20) packs gradients. Unlike theirs, our slots are exactly as wide as
the largest sum needs, and a sum that would not fit is excluded when the `Packing` is made.

On the wire a vector is a run of ciphertexts of key_bits/4 bytes each, big-endian, and nothing else: no
exponent, no length, so that the body says only how many values there may be (ATTACKS C7). Each summand is
freshly randomised, and the randomness of a sum is the product of theirs: who does not know that of every
summand learns no more from the sum than from a fresh ciphertext of it, so it is not randomised again.

Who opens a sum checks each slot (ATTACKS C6): within the bound that the number of summands allows, and zero
in the slots after the last value. A client that sends a ciphertext of anything else spoils the sum, and the
check may or may not see it; what was added, and by whom, is the caller's to authenticate.

>>> from secagg.entropy import SeededEntropy
>>> from secagg.paillier.scheme import generate_key
>>> private = generate_key(key_bits=2048, entropy=SeededEntropy(b"a doctest"))
>>> packing = Packing(key_bits=2048, bound=32767, max_summands=10)
>>> packing.slot_bits, packing.slots
(20, 102)
>>> total = Accumulator(private.public_key, packing.ciphertexts(3))
>>> for values in ([1, -2, 32767], [10, -20, 32767]):
...     total.add(encrypt_vector(private.public_key, np.array(values), packing=packing))
>>> decrypt_vector(private, total.to_bytes(), packing=packing, count=3, summands=2).tolist()
[11, -22, 65534]
"""

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

import gmpy2
import numpy as np
import numpy.typing as npt
from gmpy2 import mpz

from secagg.entropy import Entropy, system_entropy
from secagg.errors import DecodeError, ParameterError, VerificationError
from secagg.paillier.scheme import PrivateKey, PublicKey, check_key_bits
from secagg.vectors.ring import Ring
from secagg.wire import Buffer, Reader, Writer

__all__ = ["Accumulator", "Packing", "decrypt_vector", "encrypt_vector"]

_BLOCK: Final = 64
"""Ciphertexts that are packed or opened together: some 10,000 values, which fit the cache."""
_MAX_SUM: Final = 2**63 - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Packing:
    """How integers stand in the plaintexts of a key.

    Args:
        key_bits: length of the key, see `secagg.paillier.scheme.check_key_bits`.
        bound: the largest absolute value in any summand, b.
        max_summands: the most vectors in one sum, m.
        max_sum: the largest absolute value in any sum, B, if something (a limit on the total weight, say)
            keeps it under b·m. It must hold for every sum that is opened. None means b·m.

    Attributes:
        slot_bits: bits of a slot, w = bit_length(2·B).
        slots: values in a ciphertext, ⌊(key_bits - 1) / w⌋.

    Raises:
        ParameterError: an argument is not a positive int, max_sum is not in [b, b·m], or B ≥ 2^63.
    """

    key_bits: int
    bound: int
    max_summands: int
    max_sum: int | None = None
    slot_bits: int = field(init=False)
    slots: int = field(init=False)

    def __post_init__(self) -> None:
        check_key_bits(self.key_bits)
        _check_positive("bound", self.bound)
        _check_positive("max_summands", self.max_summands)
        if self.max_sum is not None:
            _check_positive("max_sum", self.max_sum)
            if not self.bound <= self.max_sum <= self.bound * self.max_summands:
                raise ParameterError("max_sum must lie between bound and bound times max_summands")
        if self.sum_bound > _MAX_SUM:
            raise ParameterError(
                f"sums of up to {self.sum_bound.bit_length()} bits do not fit an int64; "
                "lower bound, max_summands or max_sum"
            )
        object.__setattr__(self, "slot_bits", (2 * self.sum_bound).bit_length())
        object.__setattr__(self, "slots", (self.key_bits - 1) // self.slot_bits)

    @property
    def sum_bound(self) -> int:
        """The largest absolute value that a slot can carry after summing, B."""
        return self.bound * self.max_summands if self.max_sum is None else self.max_sum

    def ciphertexts(self, count: int) -> int:
        """Ciphertexts of a vector of `count` values, count at least 1."""
        _check_positive("count", count)
        return -(-count // self.slots)

    def body_bytes(self, count: int) -> int:
        """Bytes of an encrypted vector of `count` values, count at least 1."""
        return self.ciphertexts(count) * (self.key_bits // 4)

    def encode(self, values: npt.NDArray[np.int64]) -> list[int]:
        """The plaintexts of a vector: signed ints of `ciphertexts(count)`, to be taken modulo n.

        Args:
            values: int64[count], each in [-bound, bound], count at least 1.

        Raises:
            ParameterError: the values are anything else.
        """
        self._check_values(values)
        count = len(values)
        rows = self.ciphertexts(count)
        ring = Ring(bits=self.slot_bits)
        # Wrapping addition in uint64 is exact: the result is in [0, 2·bound].
        shifted = np.full(rows * self.slots, self.bound, dtype=np.uint64)
        np.add(values.view(np.uint64), np.uint64(self.bound), out=shifted[:count])
        stream = ring.pack(shifted.astype(ring.dtype, copy=False))
        offset = self.bound * self._ones
        return [int(row - offset) for row in _cut(mpz.from_bytes(stream, "little"), self._width, rows)]

    def decode(
        self, plaintexts: Sequence[int], *, modulus: int, count: int, summands: int
    ) -> npt.NDArray[np.int64]:
        """The sum of `summands` vectors, int64[count], from its `ciphertexts(count)` plaintexts mod n.

        Raises:
            ParameterError: summands is not in [0, max_summands], or the number of plaintexts is wrong.
            VerificationError: a plaintext or a slot is beyond what that many summands can reach, or a slot
                after the last value is not zero.
        """
        self._check_summands(summands)
        rows = self.ciphertexts(count)
        if len(plaintexts) != rows:
            raise ParameterError(f"{len(plaintexts)} plaintexts; {count} values take {rows}")
        offset = self.sum_bound * self._ones
        stream = mpz(0)
        for index, plaintext in enumerate(plaintexts):
            row = (mpz(plaintext) + offset) % modulus
            if row.bit_length() > self._width:
                raise VerificationError(f"plaintext {index} is outside the headroom of its packing")
            stream |= row << (index * self._width)
        ring = Ring(bits=self.slot_bits)
        size = ring.packed_size(rows * self.slots)
        found = ring.unpack(stream.to_bytes(size, "little"), rows * self.slots).astype(np.uint64, copy=False)
        limit = min(self.sum_bound, summands * self.bound)
        values = found[:count]
        if values.max() > self.sum_bound + limit or values.min() < self.sum_bound - limit:
            raise VerificationError(f"a sum is beyond what {summands} summands can reach")
        if np.any(found[count:] != self.sum_bound):
            raise VerificationError("a slot after the last value is not zero")
        return (values - np.uint64(self.sum_bound)).view(np.int64)

    @property
    def _width(self) -> int:
        """Bits of a plaintext that slots take."""
        return self.slots * self.slot_bits

    @property
    def _ones(self) -> mpz:
        """A one in each slot."""
        return ((mpz(1) << self._width) - 1) // ((mpz(1) << self.slot_bits) - 1)

    def _check_values(self, values: npt.NDArray[np.int64]) -> None:
        if (
            not isinstance(values, np.ndarray)
            or values.dtype != np.int64
            or values.ndim != 1
            or not len(values)
        ):
            raise ParameterError("the values must be a one-dimensional int64 array of at least one value")
        if values.max() > self.bound or values.min() < -self.bound:
            index = int(np.argmax((values > self.bound) | (values < -self.bound)))
            raise ParameterError(f"value {index} is outside ±{self.bound}, the bound of this packing")

    def _check_summands(self, summands: int) -> None:
        if type(summands) is not int or not 0 <= summands <= self.max_summands:
            raise ParameterError(f"summands must be an int in [0, {self.max_summands}]")


def encrypt_vector(
    public_key: PublicKey,
    values: npt.NDArray[np.int64],
    *,
    packing: Packing,
    entropy: Entropy = system_entropy,
) -> bytes:
    """The encrypted vector, `packing.body_bytes(count)` bytes.

    Args:
        public_key: a key of `packing.key_bits` bits.
        values: int64[count], each in [-packing.bound, packing.bound], count at least 1.

    Raises:
        ParameterError: the key is of another length, or the values are anything else.
    """
    _check_key(public_key, packing)
    packing._check_values(values)
    body = io.BytesIO()
    step = _BLOCK * packing.slots
    for start in range(0, len(values), step):
        plaintexts = [row % public_key.n for row in packing.encode(values[start : start + step])]
        for ciphertext in public_key.encrypt_ints(plaintexts, entropy=entropy):
            body.write(ciphertext.to_bytes(public_key.ciphertext_bytes, "big"))
    return body.getvalue()


def decrypt_vector(
    private_key: PrivateKey, body: Buffer, *, packing: Packing, count: int, summands: int
) -> npt.NDArray[np.int64]:
    """The sum of `summands` encrypted vectors, int64[count].

    Args:
        body: `packing.body_bytes(count)` bytes, from `Accumulator.to_bytes` or `encrypt_vector`.
        summands: the number of vectors in the sum, in [0, packing.max_summands].

    Raises:
        ParameterError: the key is of another length, or count or summands are out of range.
        DecodeError: the body has another length, or a ciphertext is not in (0, n²).
        VerificationError: a ciphertext shares a factor with n, or a slot fails a check of `Packing.decode`.
    """
    if not isinstance(private_key, PrivateKey):
        raise ParameterError(f"opening a sum needs a PrivateKey, not {type(private_key).__name__}")
    public = private_key.public_key
    _check_key(public, packing)
    packing._check_summands(summands)
    total = packing.ciphertexts(count)
    view = _checked_body(public, body, total)
    values = np.empty(count, dtype=np.int64)
    step = _BLOCK * packing.slots
    block_bytes = _BLOCK * public.ciphertext_bytes
    for block, start in enumerate(range(0, count, step)):
        ciphertexts = _ciphertexts(public, view[block * block_bytes : (block + 1) * block_bytes])
        plaintexts = [private_key.decrypt_int(int(c)) for c in ciphertexts]
        part = values[start : start + step]
        part[:] = packing.decode(plaintexts, modulus=public.n, count=len(part), summands=summands)
    return values


class Accumulator:
    """Adds encrypted vectors without a private key: the server's state, one ciphertext vector in size.

    `Accumulator(public_key, count)`, with `count` the number of *ciphertexts* in a vector, at least 1. It
    does not know the packing: that at most `max_summands` are added is the caller's to see to.
    """

    __slots__ = ("_public_key", "_summands", "_sums")

    def __init__(self, public_key: PublicKey, count: int) -> None:
        if not isinstance(public_key, PublicKey):
            raise ParameterError(f"the accumulator needs a PublicKey, not {type(public_key).__name__}")
        _check_positive("count", count)
        self._public_key = public_key
        self._sums = [mpz(1)] * count
        self._summands = 0

    @property
    def summands(self) -> int:
        """Vectors added so far."""
        return self._summands

    def add(self, body: Buffer) -> None:
        """Adds one vector. The whole body is checked first: after an error the sum is as it was.

        Args:
            body: `count` ciphertexts; not to be changed by another thread meanwhile.

        Raises:
            DecodeError: the body has another length, or a ciphertext is not in (0, n²).
            VerificationError: a ciphertext shares a factor with n.
        """
        view = _checked_body(self._public_key, body, len(self._sums))
        _check_units(self._public_key, view)
        square = mpz(self._public_key.n) ** 2
        for index, ciphertext in enumerate(_ciphertexts(self._public_key, view)):
            self._sums[index] = self._sums[index] * ciphertext % square
        self._summands += 1

    def to_bytes(self) -> bytes:
        """The encrypted sum, in the format of `encrypt_vector`.

        Raises:
            ParameterError: nothing was added yet.
        """
        if not self._summands:
            raise ParameterError("the accumulator is empty; add a vector first")
        size = self._public_key.ciphertext_bytes
        body = io.BytesIO()
        for ciphertext in self._sums:
            body.write(ciphertext.to_bytes(size, "big"))
        return body.getvalue()

    def export(self) -> bytes:
        """The state: summands (4 bytes), then the sum if there are any. Not secret, not authenticated."""
        writer = Writer().uint(self._summands, 4)
        return writer.fixed(self.to_bytes() if self._summands else b"").finish()

    @classmethod
    def restore(cls, public_key: PublicKey, count: int, state: Buffer) -> "Accumulator":
        """The accumulator that was exported.

        Raises:
            DecodeError, VerificationError: as `add`, or the state is not an export of `count` ciphertexts.
        """
        accumulator = cls(public_key, count)
        reader = Reader(state)
        summands = reader.uint(4)
        if summands:
            accumulator.add(reader.rest())
            accumulator._summands = summands
        reader.finish()
        return accumulator


def _checked_body(public_key: PublicKey, body: Buffer, count: int) -> memoryview:
    view = Reader(body).rest()
    size = count * public_key.ciphertext_bytes
    if len(view) != size:
        raise DecodeError(f"an encrypted vector of {len(view)} bytes; {count} ciphertexts take {size}")
    return view


def _ciphertexts(public_key: PublicKey, view: memoryview) -> Iterator[mpz]:
    """Each ciphertext of a body of whole ciphertexts, checked for its range."""
    size = public_key.ciphertext_bytes
    square = mpz(public_key.n) ** 2
    for index, start in enumerate(range(0, len(view), size)):
        ciphertext = mpz(int.from_bytes(view[start : start + size], "big"))
        if not 0 < ciphertext < square:
            raise DecodeError(f"ciphertext {index} of an encrypted vector is outside (0, n²)")
        yield ciphertext


def _check_units(public_key: PublicKey, view: memoryview) -> None:
    """One gcd for all: the product shares a factor with n if and only if a ciphertext does."""
    modulus = mpz(public_key.n)
    product = mpz(1)
    for ciphertext in _ciphertexts(public_key, view):
        product = product * ciphertext % modulus
    if gmpy2.gcd(product, modulus) != 1:
        raise VerificationError("a ciphertext of an encrypted vector shares a factor with n")


def _cut(stream: mpz, width: int, count: int) -> Iterator[mpz]:
    """`count` pieces of `width` bits, the lowest first."""
    return (gmpy2.f_mod_2exp(stream >> (index * width), width) for index in range(count))


def _check_key(public_key: PublicKey, packing: Packing) -> None:
    if not isinstance(public_key, PublicKey) or not isinstance(packing, Packing):
        raise ParameterError("an encrypted vector needs a key of secagg.paillier.scheme and a Packing")
    if public_key.key_bits != packing.key_bits:
        raise ParameterError(
            f"a key of {public_key.key_bits} bits, the packing is for {packing.key_bits} bits"
        )


def _check_positive(name: str, value: int) -> None:
    if type(value) is not int or value < 1:
        raise ParameterError(f"{name} must be an int of at least 1")
