"""Exact integer sums under CKKS: clients share one secret key, the server adds without any.

CKKS (Cheon, Kim, Kim, Song, ASIACRYPT 2017) encrypts polynomials of Z[X]/(X^N + 1) scaled by Delta and
decrypts them with a small error. Here the plaintext is integers and Delta is so large that the error of the
sum stays below a quarter: rounding removes it, all holders of the key open the same integers, and what they
open is independent of noise and key. That answers the attack on approximate decryption (Li and Micciancio,
EUROCRYPT 2021) for everything that leaves `SecretKey.decrypt_vector`. The backend is TenSEAL (Microsoft
SEAL), loaded on first use; its types do not leave this file.

Why rounding is exact, and what the parameters are chosen for, stands in `parameters`; how integers fill
the coefficients in `encoding`.

It does not protect against whoever holds the key (any client together with the server reads every vector:
ATTACKS C1), nor does it authenticate: a ciphertext that was tampered with may decrypt to other integers, or
to the same ones. Bind the sum with a MAC, and stop opening under a key after a few `VerificationError`s:
honest sums raise none, and a server that nudges a sum up to the limit of 1/4 learns a digit of the key from
whether it was opened. TenSEAL draws its own randomness and holds the GIL throughout.

>>> import numpy as np
>>> parameters = choose_parameters(bound=3 * 32767, max_summands=3)
>>> key = generate_key(parameters)
>>> total = Accumulator(PublicContext.from_parameters(parameters), count=4)
>>> for update in ([1, -2, 32767, 0], [5, 5, 32767, 0], [0, -3, 32767, 9]):
...     total.add(key.encrypt_vector(np.array(update)))
>>> key.decrypt_vector(total.to_bytes(), count=4, bound=3 * 32767)
array([    6,     0, 98301,     9])
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from types import ModuleType
from typing import Any, Final, NoReturn, TypeAlias

import numpy as np
import numpy.typing as npt

from secagg.ckks.encoding import Int64Vector, from_slots, pack, to_slots, unpack
from secagg.ckks.objects import UNKNOWN_LAYOUT, inflate, pack_words, uncompressed, unpack_words
from secagg.ckks.parameters import (
    COEFFICIENTS,
    DEGREE,
    LOG_Q_LIMIT,
    SPECIAL_PRIME_BITS,
    Parameters,
    choose_parameters,
)
from secagg.errors import DecodeError, MissingExtraError, ParameterError, VerificationError
from secagg.secret import Secret
from secagg.wire import Buffer

__all__ = [
    "DEGREE",
    "LOG_Q_LIMIT",
    "Accumulator",
    "Parameters",
    "PublicContext",
    "SecretKey",
    "choose_parameters",
    "generate_key",
]

# A failure of the C++ side arrives as one of these, whatever bytes it was given.
_TENSEAL_ERRORS: Final = (ValueError, RuntimeError, TypeError, IndexError, OverflowError, MemoryError)

_Context: TypeAlias = Any
_Ciphertext: TypeAlias = Any


class PublicContext:
    """What the server needs to add: the parameters, and not a bit of key material.

    TenSEAL adds ciphertexts in any context of equal parameters, so nothing is sent: both sides build it.
    """

    __slots__ = ("_context", "parameters")
    parameters: Parameters

    def __init__(self, *, parameters: Parameters) -> None:
        _frame(parameters)  # a backend that will not do is refused now, and not as somebody's bad message
        self.parameters = parameters
        self._context = _tenseal().context_from(_keyless(parameters), n_threads=1)

    @classmethod
    def from_parameters(cls, parameters: Parameters) -> "PublicContext":
        """The context of these parameters."""
        return cls(parameters=parameters)


class SecretKey:
    """The consortium's key, from `generate_key` or `decode`. Whoever holds it reads everything."""

    __slots__ = ("_context", "parameters")
    parameters: Parameters

    def __init__(self, *, parameters: Parameters, context: _Context) -> None:
        _frame(parameters)
        self.parameters = parameters
        self._context = context

    def __repr__(self) -> str:
        return "SecretKey(...)"

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise TypeError("a SecretKey is not pickled or copied; use encode()")

    def encode(self) -> Secret:
        """The key alone, without the parameters: 512 bytes a bit of both primes. `decode` inverts it."""
        blob = self._context.serialize(
            save_public_key=False, save_secret_key=True, save_galois_keys=False, save_relin_keys=False
        )
        head, tail = _key_frame(self.parameters)
        found = _unfield(_SECRET_TAG, _unfield(_PRIVATE_TAG, _between(blob, head, tail)))
        words = _words_of(found, self.parameters, metadata=_frame(self.parameters).key)
        bits = (self.parameters.data_prime_bits, SPECIAL_PRIME_BITS)
        halves = (words[:DEGREE], words[DEGREE:])
        return Secret(b"".join(pack_words(half, bits=each) for half, each in zip(halves, bits, strict=True)))

    @classmethod
    def decode(cls, secret: Secret, parameters: Parameters) -> "SecretKey":
        """The key that `encode` wrote, under the same parameters. Encoding again is the identity.

        Raises:
            DecodeError: these bytes are not a key of these parameters.
        """
        data, cut = memoryview(secret.reveal()), DEGREE * parameters.data_prime_bits // 8
        words = (
            unpack_words(data[:cut], count=DEGREE, bits=parameters.data_prime_bits),
            unpack_words(data[cut:], count=DEGREE, bits=SPECIAL_PRIME_BITS),
        )
        head, tail = _key_frame(parameters)
        frame = _frame(parameters)
        found = uncompressed(frame.version, frame.key, *(each.data for each in words))
        blob = b"".join((head, _field(_PRIVATE_TAG, _field(_SECRET_TAG, found)), tail))
        try:
            return cls(parameters=parameters, context=_tenseal().context_from(blob, n_threads=1))
        except _TENSEAL_ERRORS:
            raise DecodeError("TenSEAL refuses these bytes as a secret key of these parameters") from None

    def encrypt_blocks(self, values: Int64Vector) -> Iterator[bytes]:
        """The body of `encrypt_vector` one block at a time, to be written as it comes.

        Args:
            values: int64[d], 1 <= d <= 2^29, every |value| <= parameters.bound.

        Raises:
            ParameterError: another type, dtype or shape, or a value beyond the bound; at once.
        """
        if not isinstance(values, np.ndarray) or values.dtype != np.int64 or values.ndim != 1:
            raise ParameterError("values must be a one-dimensional numpy array of int64")
        blocks = self.parameters.blocks(values.size)
        if int(values.max()) > self.parameters.bound or int(values.min()) < -self.parameters.bound:
            raise ParameterError(f"a value lies outside ±{self.parameters.bound}; clip before encrypting")
        step = self.parameters.values_per_block
        return (self._encrypt_block(values[step * i : step * (i + 1)]) for i in range(blocks))

    def encrypt_vector(self, values: Int64Vector) -> bytes:
        """A fresh symmetric encryption of int64[d]: blocks of `block_bytes` each. See `encrypt_blocks`."""
        return b"".join(self.encrypt_blocks(values))

    def decrypt_vector(self, body: Buffer, *, count: int, bound: int) -> Int64Vector:
        """The exact integers of a sum (or of one vector).

        Args:
            body: what `Accumulator.to_bytes` or `encrypt_vector` wrote.
            count: elements of the vector, d.
            bound: largest absolute value that this sum may have, in [0, parameters.bound].

        Returns:
            int64[d].

        Raises:
            ParameterError: count or bound is out of range.
            DecodeError: the body is not the encoding of such a vector.
            VerificationError: it decrypts to something that is no sum of encryptions: a coefficient over a
                quarter away from an integer, an element beyond `bound`, padding that is not zero.
        """
        if type(bound) is not int or not 0 <= bound <= self.parameters.bound:
            raise ParameterError(f"bound must be an int in [0, {self.parameters.bound}]")
        size = self.parameters.values_per_block
        blocks = _blocks(body, self.parameters, count)  # as many as the body holds, before memory is taken
        values = np.empty(len(blocks) * size, dtype=np.int64)
        for start, block in zip(range(0, values.size, size), blocks, strict=True):
            slots = np.array(_load(self._context, self.parameters, block).decrypt())
            values[start : start + size] = unpack(from_slots(slots), self.parameters)
        if values[count:].any():
            raise VerificationError("the padding of a decrypted vector is not zero; the sum is not authentic")
        values = values[:count]
        if int(values.max()) > bound or int(values.min()) < -bound:
            raise VerificationError("a decrypted element exceeds the bound; the sum is not authentic")
        return values

    def _encrypt_block(self, values: Int64Vector) -> bytes:
        slots = to_slots(pack(values, self.parameters)).tolist()
        # TenSEAL's own front end copies the slots through five containers first: a quarter of the time.
        vector = _tenseal()._ts_cpp.CKKSVector(self._context.data, slots)
        return _block_of(vector, self.parameters)


class Accumulator:
    """The server's running sum of encrypted vectors of `count` elements, one ciphertext a block.

    `add` takes at most `parameters.max_summands` vectors: the noise bound ends there.
    """

    __slots__ = ("_blocks", "_context", "count", "summands")

    def __init__(self, context: PublicContext, *, count: int) -> None:
        context.parameters.blocks(count)
        self._context = context
        self._blocks: list[_Ciphertext] = []
        self.count = count
        self.summands = 0

    @classmethod
    def restore(cls, context: PublicContext, body: Buffer, *, count: int, summands: int) -> "Accumulator":
        """The accumulator whose `to_bytes()` was `body` after `summands` vectors.

        Raises:
            ParameterError: summands is not in [1, max_summands], or count is out of range.
            DecodeError: as for `add`.
        """
        if type(summands) is not int or not 1 <= summands <= context.parameters.max_summands:
            raise ParameterError(f"summands must be an int in [1, {context.parameters.max_summands}]")
        accumulator = cls(context, count=count)
        accumulator.add(body)
        accumulator.summands = summands
        return accumulator

    def add(self, body: Buffer) -> None:
        """Adds one vector, all of it or, when an error is raised, nothing of it.

        Raises:
            ParameterError: max_summands vectors have been added already.
            DecodeError: the body has another size, or a coefficient is not below the prime.
        """
        parameters = self._context.parameters
        if self.summands >= parameters.max_summands:
            raise ParameterError(f"{self.summands} vectors are in this sum, which is all that it may hold")
        blocks = [
            _load(self._context._context, parameters, block)
            for block in _blocks(body, parameters, self.count)
        ]
        try:
            for block, total in zip(blocks, self._blocks, strict=False):
                block.add_(total)
        except _TENSEAL_ERRORS:
            raise DecodeError("TenSEAL refuses to add this vector: its sum would be no ciphertext") from None
        self._blocks = blocks
        self.summands += 1

    def to_bytes(self) -> bytes:
        """The encrypted sum, in the encoding of `encrypt_vector`.

        Raises:
            ParameterError: nothing has been added yet.
        """
        if not self._blocks:
            raise ParameterError("nothing has been added yet; an empty sum has no ciphertext")
        return b"".join(_block_of(vector, self._context.parameters) for vector in self._blocks)


def generate_key(parameters: Parameters) -> SecretKey:
    """A fresh key. Its randomness is TenSEAL's own (SEAL's Blake2xb, seeded by the system).

    Raises:
        MissingExtraError: TenSEAL is not installed.
    """
    return SecretKey(parameters=parameters, context=_new_context(parameters))


# --- TenSEAL's bytes ---------------------------------------------------------------------------------------
# TenSEAL wraps each SEAL object into a protocol buffer. Only coefficients travel; what is around them is
# public, rebuilt here, and so never hostile (TenSEAL believes the slot count in it, and reads past it).

_CIPHERTEXT_TAG: Final = b"\x12"
_PRIVATE_TAG: Final = b"\x1a"
_SECRET_TAG: Final = b"\x0a"

_CIPHERTEXT_METADATA: Final = 97
_KEY_METADATA: Final = 72
_COEFFICIENT_BYTES: Final = 2 * 8 * DEGREE
"""Two polynomials over one prime; for a key, one polynomial over two primes."""


@cache
def _tenseal() -> ModuleType:
    try:
        import tenseal
    except ImportError:
        raise MissingExtraError(package="tenseal", extra="ckks") from None
    module: ModuleType = tenseal
    return module


def _new_context(parameters: Parameters) -> _Context:
    tenseal = _tenseal()
    context = tenseal.context(
        tenseal.SCHEME_TYPE.CKKS,
        poly_modulus_degree=DEGREE,
        coeff_mod_bit_sizes=[parameters.data_prime_bits, SPECIAL_PRIME_BITS],
        encryption_type=tenseal.ENCRYPTION_TYPE.SYMMETRIC,
        n_threads=1,
    )
    context.global_scale = 2.0**parameters.scale_bits
    return context


@cache
def _keyless(parameters: Parameters) -> bytes:
    """A serialised context without any key. The key pair that TenSEAL insists on drawing is thrown away."""
    blob: bytes = _new_context(parameters).serialize(
        save_public_key=False, save_secret_key=False, save_galois_keys=False, save_relin_keys=False
    )
    return blob


def _key_frame(parameters: Parameters) -> tuple[bytes, bytes]:
    """What stands before and after the private part of a context: its parameters, and 'symmetric'."""
    blob = _keyless(parameters)
    return blob[:-2], blob[-2:]


def _vector_frame(parameters: Parameters) -> tuple[bytes, bytes]:
    """What stands before and after the ciphertext of a full CKKSVector: its slot count and its scale."""
    slots = _varint(COEFFICIENTS)
    return _field(b"\x0a", slots), b"\x19" + np.array(2.0**parameters.scale_bits, dtype="<f8").tobytes()


def _varint(value: int) -> bytes:
    low, rest = value & 0x7F, value >> 7
    return bytes((low | 0x80,)) + _varint(rest) if rest else bytes((low,))


def _field(tag: bytes, data: Buffer) -> bytes:
    return b"".join((tag, _varint(len(data)), data))


def _between(data: bytes, head: bytes, tail: bytes) -> bytes:
    if not (data.startswith(head) and data.endswith(tail)):
        raise ParameterError(UNKNOWN_LAYOUT)
    return data[len(head) : len(data) - len(tail)]


def _unfield(tag: bytes, data: bytes) -> bytes:
    for size in range(1, 5):
        content = data[len(tag) + size :]
        if data.startswith(tag + _varint(len(content))) and len(_varint(len(content))) == size:
            return content
    raise ParameterError(UNKNOWN_LAYOUT)


@dataclass(frozen=True, slots=True)
class _Frame:
    """What stands before the coefficients of this SEAL's objects, the same for all of equal parameters."""

    version: bytes
    ciphertext: bytes
    key: bytes


@cache
def _frame(parameters: Parameters) -> _Frame:
    """Read off a ciphertext and a key that are thrown away."""
    context = _new_context(parameters)
    vector = _tenseal()._ts_cpp.CKKSVector(context.data, [0.0] * COEFFICIENTS)
    found = _unfield(_CIPHERTEXT_TAG, _between(vector.serialize(), *_vector_frame(parameters)))
    version, ciphertext = inflate(found, size=_CIPHERTEXT_METADATA + _COEFFICIENT_BYTES)
    blob = context.serialize(
        save_public_key=False, save_secret_key=True, save_galois_keys=False, save_relin_keys=False
    )
    found = _unfield(_SECRET_TAG, _unfield(_PRIVATE_TAG, _between(blob, *_key_frame(parameters))))
    _, key = inflate(found, size=_KEY_METADATA + _COEFFICIENT_BYTES)
    return _Frame(version, ciphertext[:_CIPHERTEXT_METADATA], key[:_KEY_METADATA])


def _words_of(found: bytes, parameters: Parameters, *, metadata: bytes) -> npt.NDArray[np.uint64]:
    """The coefficients of an object that our own SEAL wrote: uint64[2·DEGREE]."""
    _, content = inflate(found, size=len(metadata) + _COEFFICIENT_BYTES)
    if not content.startswith(metadata):
        raise ParameterError(UNKNOWN_LAYOUT)
    return np.frombuffer(content, dtype="<u8", offset=len(metadata))


def _block_of(vector: _Ciphertext, parameters: Parameters) -> bytes:
    """A ciphertext as it travels: `Parameters.block_bytes`."""
    found = _unfield(_CIPHERTEXT_TAG, _between(vector.serialize(), *_vector_frame(parameters)))
    words = _words_of(found, parameters, metadata=_frame(parameters).ciphertext)
    return pack_words(words, bits=parameters.data_prime_bits)


def _blocks(body: Buffer, parameters: Parameters, count: int) -> list[memoryview]:
    """The blocks of a whole body, which has exactly their size."""
    view, size, blocks = memoryview(body), parameters.block_bytes, parameters.blocks(count)
    if not view.c_contiguous or view.nbytes != blocks * size:
        raise DecodeError(f"a body of {view.nbytes} bytes; {count} elements take {blocks} blocks of {size}")
    view = view.cast("B")
    return [view[size * each : size * (each + 1)] for each in range(blocks)]


def _load(context: _Context, parameters: Parameters, block: memoryview) -> _Ciphertext:
    """A ciphertext of two polynomials modulo the data prime, in the evaluation domain, at our scale."""
    words = unpack_words(block, count=2 * DEGREE, bits=parameters.data_prime_bits)
    head, tail = _vector_frame(parameters)
    frame = _frame(parameters)
    written = uncompressed(frame.version, frame.ciphertext, words.data)
    try:
        vector = _tenseal().ckks_vector_from(
            context, b"".join((head, _field(_CIPHERTEXT_TAG, written), tail))
        )
        (ciphertext,) = vector.ciphertext()
        found = (
            ciphertext.size(),
            ciphertext.coeff_modulus_size(),
            ciphertext.is_ntt_form(),
            ciphertext.is_transparent(),
            ciphertext.scale,
        )
    except _TENSEAL_ERRORS:
        raise DecodeError("TenSEAL refuses a block: it is no ciphertext of these parameters") from None
    if found != (2, 1, True, False, 2.0**parameters.scale_bits):
        raise DecodeError("a ciphertext has another size, level, form or scale than these parameters say")
    return vector
