"""Exact integer sums under CKKS: clients share one secret key, the server adds without any.

CKKS (Cheon, Kim, Kim, Song, ASIACRYPT 2017) encrypts polynomials of Z[X]/(X^N + 1) scaled by Delta and
decrypts them with a small error. Here the plaintext is integers and Delta is so large that the error of the
sum stays below a quarter: rounding removes it, all holders of the key open the same integers, and what they
open is independent of noise and key. That answers the attack on approximate decryption (Li and Micciancio,
EUROCRYPT 2021) for everything that leaves `SecretKey.decrypt_vector`. The backend is TenSEAL (Microsoft
SEAL), loaded on first use; its types do not leave this file.

**Coefficients, not slots.** TenSEAL encodes real slots: an integer there meets the noise of all N
coefficients and an encoding error of its own. We evaluate the polynomial whose *coefficients* are the
integers (a DCT-III, see `_to_slots`) and hand TenSEAL its slots: Delta * c is an integer, so that encoding is
exact, and a coefficient meets only its own noise, which saves log2(sqrt(N / 2)) = 5.5 bits of Delta. Several
integers share a coefficient as digits of radix 2 * bound + 1.

**Why rounding is exact.** Write P for the largest packed coefficient of the sum, n for `max_summands` and
u = 2^-53. A decoded coefficient differs from its integer by E / Delta + F.
  E: symmetric encryption adds one centred binomial error per summand, a sum of 42 terms of ±1/2: strictly
     sub-Gaussian with variance 10.5, and at most 21.
  F: float64. Encoding and decoding are two transforms each, of 12 butterfly levels and a twist; a level is a
     scaled unitary map whose elementary roundings carry at most 4 u^2 / 3 of its relative energy. Roundings
     are modelled as independent and uniform (after Higham and Mary, SIAM J. Sci. Comput. 2019). The last r
     levels map blocks of 2^r coefficients of at most P each, so encoding and decoding each leave a
     sub-Gaussian error of variance at most f^2 P^2, f = 2u sqrt(26 / 3).
Variances of independent sub-Gaussian errors add, and Pr[|error| > z s] <= 2 exp(-z^2 / 2), which
z = sqrt(2 ln 2 * 91) = 11.2 makes 2^-90. Where z f P Delta reaches 1/2, encoding may round to a neighbour:
n / (2 Delta) more. `Parameters` refuses unless the whole is under 1/4. Over 2^29 coefficients and n <= 2^20
encodings of each, any failure has probability below 2^-40.

It does not protect against whoever holds the key (any client together with the server reads every vector:
ATTACKS C1), nor does it authenticate: a ciphertext that was tampered with may decrypt to other integers, or
to the same ones. Bind the sum with a MAC in the plaintext, and retire the key after the first
`VerificationError`: honest sums raise none, and a server that nudges a sum up to the limit of 1/4 learns a
digit of the key from whether it was opened. TenSEAL draws its own randomness and holds the GIL throughout.

>>> import numpy as np
>>> parameters = choose_parameters(bound=3 * 32767, max_summands=3)
>>> key = generate_key(parameters)
>>> total = Accumulator(PublicContext.from_parameters(parameters), count=4)
>>> for update in ([1, -2, 32767, 0], [5, 5, 32767, 0], [0, -3, 32767, 9]):
...     total.add(key.encrypt_vector(np.array(update)))
>>> key.decrypt_vector(total.to_bytes(), count=4, bound=3 * 32767)
array([    6,     0, 98301,     9])
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from itertools import repeat
from types import ModuleType
from typing import Any, Final, NoReturn, TypeAlias

import numpy as np
import numpy.typing as npt

from secagg.errors import DecodeError, MissingExtraError, ParameterError, VerificationError
from secagg.secret import Secret
from secagg.wire import Buffer, Reader, Writer

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

DEGREE: Final = 4096
"""N, the degree of X^N + 1. One SEAL prime has at most 60 bits, and 4096 is secure for 109."""

LOG_Q_LIMIT: Final = 109
"""Largest log2 of the product of all primes for 128-bit security at N = 4096 and ternary secrets, from the
table of the Homomorphic Encryption Standard (2018)."""

_COEFFICIENTS: Final = DEGREE // 2  # free coefficients of a polynomial whose slots are real
_SPECIAL_PRIME_BITS: Final = 20  # TenSEAL refuses a single prime; this one never travels
_DATA_PRIME_BITS: Final = range(24, 61)
_MAX_SUMMANDS: Final = 1 << 20
_MAX_COUNT: Final = 1 << 29

_TAIL: Final = math.sqrt(2 * math.log(2) * 91)  # z of the module's essay
_NOISE_VARIANCE: Final = 10.5
_NOISE_LARGEST: Final = 21
_FLOAT_ERROR: Final = 2 * 2.0**-53 * math.sqrt(26 / 3)  # f: of one way, relative to P

# A failure of the C++ side arrives as one of these, whatever bytes it was given.
_TENSEAL_ERRORS: Final = (ValueError, RuntimeError, TypeError, IndexError, OverflowError, MemoryError)

_Context: TypeAlias = Any
_Ciphertext: TypeAlias = Any
Int64Vector: TypeAlias = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameters:
    """One CKKS instance for sums of integers; `choose_parameters` makes them.

    Attributes:
        bound: largest absolute value of an element of the sum, at least 1. It also bounds the sum of the
            summands' declared magnitudes: nothing here relies on their cancelling.
        max_summands: at most this many vectors are added, in [1, 2^20].
        values_per_coefficient: integers packed into one coefficient.
        scale_bits: log2 of Delta.
        data_prime_bits: size of the ciphertext modulus, in [24, 60].

    Raises:
        ParameterError: a field is out of range, the security limit is passed, the packed sum does not fit
            the modulus, or rounding would not be exact.
    """

    bound: int
    max_summands: int
    values_per_coefficient: int
    scale_bits: int
    data_prime_bits: int

    def __post_init__(self) -> None:
        for name in ("bound", "max_summands", "values_per_coefficient", "scale_bits", "data_prime_bits"):
            value = getattr(self, name)
            if type(value) is not int or value < 1:
                raise ParameterError(f"{name} must be an int of at least 1")
        if self.max_summands > _MAX_SUMMANDS:
            raise ParameterError(f"max_summands is {self.max_summands}, at most {_MAX_SUMMANDS} are allowed")
        if self.data_prime_bits not in _DATA_PRIME_BITS:
            raise ParameterError(f"data_prime_bits is {self.data_prime_bits}; SEAL and we allow 24 to 60")
        if self.log_q > LOG_Q_LIMIT:
            raise ParameterError(
                f"log q is {self.log_q}, over the 128-bit limit of {LOG_Q_LIMIT} at N = 4096"
            )
        if self.values_per_coefficient * self.bound.bit_length() > 64:
            raise ParameterError("the packed values do not fit a coefficient; pack fewer, or lower the bound")
        # SEAL takes an encoded coefficient of at most 2^(bits - 2), and q is over twice that.
        if (self.packed_bound + 1) << self.scale_bits > 1 << (self.data_prime_bits - 2):
            raise ParameterError(
                "the scaled sum does not fit the data prime; use more bits or pack fewer values"
            )
        if self.error_bound >= 0.25:
            raise ParameterError(
                f"the error may reach {self.error_bound:.2f} of a step, 0.25 is allowed; lower bound or "
                "max_summands, or raise scale_bits"
            )

    @property
    def log_q(self) -> int:
        """Bits of all primes together, the special one included: what security depends on."""
        return self.data_prime_bits + _SPECIAL_PRIME_BITS

    @property
    def radix(self) -> int:
        """Radix of the signed digits that share a coefficient."""
        return 2 * self.bound + 1

    @property
    def packed_bound(self) -> int:
        """Largest absolute value of a packed coefficient of the sum (P)."""
        return _packed_bound(self.bound, self.values_per_coefficient)

    @property
    def values_per_block(self) -> int:
        """Elements of a vector that one ciphertext carries."""
        return _COEFFICIENTS * self.values_per_coefficient

    @property
    def error_bound(self) -> float:
        """High-probability bound of |decoded coefficient - integer|, in steps; see the module's essay."""
        return _error_bound(self.packed_bound, self.max_summands, self.scale_bits)

    def blocks(self, count: int) -> int:
        """Ciphertexts that carry a vector of `count` elements, count in [1, 2^29]."""
        if type(count) is not int or not 1 <= count <= _MAX_COUNT:
            raise ParameterError(f"a vector has 1 to {_MAX_COUNT} elements")
        return -(-count // self.values_per_block)


def _packed_bound(bound: int, values_per_coefficient: int) -> int:
    return int(((2 * bound + 1) ** values_per_coefficient - 1) // 2)


def _error_bound(packed_bound: int, max_summands: int, scale_bits: int) -> float:
    scale = 2.0**scale_bits
    float_error = _FLOAT_ERROR * packed_bound
    error = _TAIL * math.hypot(math.sqrt(_NOISE_VARIANCE * max_summands) / scale, math.sqrt(2) * float_error)
    largest = _NOISE_LARGEST * max_summands / scale + _TAIL * math.sqrt(2) * float_error
    inexact = _TAIL * float_error * scale >= 0.5
    return min(error, largest) + (max_summands / (2 * scale) if inexact else 0.0)


def choose_parameters(*, bound: int, max_summands: int) -> Parameters:
    """The parameters with the fewest bytes per element for which rounding is provably exact.

    Packs as many values into a coefficient as a prime of 60 bits and float64 allow (scale and headroom are
    paid once per coefficient), takes the smallest prime for them and gives its slack to the scale.

    Args:
        bound: largest absolute value of an element of the final sum; about 2^42 at most.
        max_summands: how many vectors are added at most, in [1, 2^20].

    Raises:
        ParameterError: an argument is not a positive int or too large for exact rounding.
    """
    for name, value in (("bound", bound), ("max_summands", max_summands)):
        if type(value) is not int or value < 1:
            raise ParameterError(f"{name} must be an int of at least 1")
    for packed in range(64 // (bound.bit_length() + 1), 0, -1):
        largest = _packed_bound(bound, packed)
        for data_bits in _DATA_PRIME_BITS:
            scale_bits = data_bits - 2 - largest.bit_length()
            if scale_bits > 0 and _error_bound(largest, max_summands, scale_bits) < 0.25:
                return Parameters(
                    bound=bound,
                    max_summands=max_summands,
                    values_per_coefficient=packed,
                    scale_bits=scale_bits,
                    data_prime_bits=data_bits,
                )
    raise ParameterError("no prime of at most 60 bits makes this sum exact; lower bound or max_summands")


class PublicContext:
    """What the server needs to add: the parameters, and not a bit of key material.

    TenSEAL adds ciphertexts in any context of equal parameters, so nothing is sent: both sides build it.
    """

    __slots__ = ("_context", "parameters")
    parameters: Parameters

    def __init__(self, *, parameters: Parameters) -> None:
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
        self.parameters = parameters
        self._context = context

    def __repr__(self) -> str:
        return "SecretKey(...)"

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise TypeError("a SecretKey is not pickled or copied; use encode()")

    def encode(self) -> Secret:
        """The key alone, without the parameters: about 42 kB. `decode` inverts it."""
        blob = self._context.serialize(
            save_public_key=False, save_secret_key=True, save_galois_keys=False, save_relin_keys=False
        )
        head, tail = _key_frame(self.parameters)
        return Secret(_unfield(_SECRET_TAG, _unfield(_PRIVATE_TAG, _between(blob, head, tail))))

    @classmethod
    def decode(cls, secret: Secret, parameters: Parameters) -> "SecretKey":
        """The key that `encode` wrote, under the same parameters.

        Encoding again is the identity within one version of TenSEAL; across versions, compression may differ.

        Raises:
            DecodeError: these bytes are not a key of these parameters.
        """
        data = secret.reveal()
        _check_seal_frame(memoryview(data), content=_SECRET_KEY_BYTES)
        head, tail = _key_frame(parameters)
        blob = b"".join((head, _field(_PRIVATE_TAG, _field(_SECRET_TAG, data)), tail))
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
        """A fresh symmetric encryption of int64[d]: blocks behind 32-bit lengths. See `encrypt_blocks`."""
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
        values = np.empty(self.parameters.blocks(count) * size, dtype=np.int64)
        for start, block in zip(
            range(0, values.size, size), _blocks(body, self.parameters, count), strict=True
        ):
            slots = np.array(_load(self._context, self.parameters, block).decrypt())
            values[start : start + size] = _unpack(_from_slots(slots), self.parameters)
        if values[count:].any():
            raise VerificationError("the padding of a decrypted vector is not zero; the sum is not authentic")
        values = values[:count]
        if int(values.max()) > bound or int(values.min()) < -bound:
            raise VerificationError("a decrypted element exceeds the bound; the sum is not authentic")
        return values

    def _encrypt_block(self, values: Int64Vector) -> bytes:
        slots = _to_slots(_pack(values, self.parameters)).tolist()
        # TenSEAL's own front end copies the slots through five containers first: a quarter of the time.
        vector = _tenseal()._ts_cpp.CKKSVector(self._context.data, slots)
        block = _unfield(_CIPHERTEXT_TAG, _between(vector.serialize(), *_vector_frame(self.parameters)))
        return Writer().blob(block).finish()


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
            DecodeError: framing, block count, a block's size, level, scale or coefficients are wrong.
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
        frame = _vector_frame(self._context.parameters)
        writer = Writer()
        for vector in self._blocks:
            writer.blob(_unfield(_CIPHERTEXT_TAG, _between(vector.serialize(), *frame)))
        return writer.finish()


def generate_key(parameters: Parameters) -> SecretKey:
    """A fresh key. Its randomness is TenSEAL's own (SEAL's Blake2xb, seeded by the system).

    Raises:
        MissingExtraError: TenSEAL is not installed.
    """
    return SecretKey(parameters=parameters, context=_new_context(parameters))


# --- coefficients and slots --------------------------------------------------------------------------------

# Slot i of SEAL is the value at zeta^(3^i), zeta = exp(i pi / N); hfft gives those at odd powers, in order.
# Any other order would still decrypt to the same integers, but with the noise of a whole slot.
_ORBIT: Final = np.array([pow(3, i, 2 * DEGREE) // 2 for i in range(_COEFFICIENTS)])
_TWIST: Final = np.exp(-1j * np.pi / DEGREE * np.arange(_COEFFICIENTS))


def _to_slots(coefficients: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Values of c_0 + sum_j c_j (X^j - X^(N-j)), 0 < j < N/2, at zeta^(3^i): real, float64[N/2].

    At zeta^(2k+1) it is c_0 + 2 sum_j c_j cos(pi j (2k+1) / N), a DCT-III.
    """
    values: npt.NDArray[np.float64] = np.fft.hfft(coefficients * _TWIST, n=DEGREE)[_ORBIT]
    return values


def _from_slots(slots: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """The inverse of `_to_slots`: c_j = 1/N sum_k v_k cos(pi j (2k+1) / N) over all N odd powers."""
    values = np.empty(DEGREE)
    values[_ORBIT] = slots
    values[DEGREE - 1 - _ORBIT] = slots
    coefficients: npt.NDArray[np.float64] = (np.fft.rfft(values)[:_COEFFICIENTS] * _TWIST).real / DEGREE
    return coefficients


def _pack(values: Int64Vector, parameters: Parameters) -> npt.NDArray[np.float64]:
    """Digit d of coefficient j is element d * N/2 + j of the block; missing elements are zero."""
    digits = np.zeros(parameters.values_per_block, dtype=np.int64)
    digits[: values.size] = values
    packed = np.zeros(_COEFFICIENTS, dtype=np.int64)
    for row in digits.reshape(-1, _COEFFICIENTS)[::-1]:
        packed *= parameters.radix
        packed += row
    return packed.astype(np.float64)


def _unpack(coefficients: npt.NDArray[np.float64], parameters: Parameters) -> Int64Vector:
    """Rounds and splits into signed digits; refuses what no sum within the bound can be."""
    rounded = np.rint(coefficients)
    if not float(np.abs(coefficients - rounded).max()) <= 0.25:
        raise VerificationError("a decrypted value is not near an integer; the sum is not authentic")
    if not float(np.abs(rounded).max()) <= parameters.packed_bound:
        raise VerificationError("a decrypted value exceeds the bound; the sum is not authentic")
    packed = rounded.astype(np.int64)
    digits = np.empty((parameters.values_per_coefficient, _COEFFICIENTS), dtype=np.int64)
    for row in digits:
        carry = (packed + parameters.bound) // parameters.radix
        np.subtract(packed, carry * parameters.radix, out=row)
        packed = carry
    return digits.reshape(-1)


# --- TenSEAL's bytes ---------------------------------------------------------------------------------------
# TenSEAL wraps each SEAL object into a protocol buffer. Only the SEAL object travels; the wrapping is public,
# rebuilt here, and so never hostile (TenSEAL believes the slot count in it, and reads beyond its buffer).

_CIPHERTEXT_TAG: Final = b"\x12"
_PRIVATE_TAG: Final = b"\x1a"
_SECRET_TAG: Final = b"\x0a"

_CIPHERTEXT_BYTES: Final = 97 + 2 * 8 * DEGREE  # metadata and two polynomials over one prime
_SECRET_KEY_BYTES: Final = 72 + 2 * 8 * DEGREE  # metadata and one polynomial over two primes
_SEAL_HEADER_BYTES: Final = 16
_ZSTD_BLOCKS: Final = 16


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
        coeff_mod_bit_sizes=[parameters.data_prime_bits, _SPECIAL_PRIME_BITS],
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
    slots = _varint(_COEFFICIENTS)
    return _field(b"\x0a", slots), b"\x19" + np.array(2.0**parameters.scale_bits, dtype="<f8").tobytes()


def _varint(value: int) -> bytes:
    low, rest = value & 0x7F, value >> 7
    return bytes((low | 0x80,)) + _varint(rest) if rest else bytes((low,))


def _field(tag: bytes, data: Buffer) -> bytes:
    return b"".join((tag, _varint(len(data)), data))


def _between(data: bytes, head: bytes, tail: bytes) -> bytes:
    if not (data.startswith(head) and data.endswith(tail)):
        raise VerificationError("this TenSEAL serialises in an unknown layout; install one that we allow")
    return data[len(head) : len(data) - len(tail)]


def _unfield(tag: bytes, data: bytes) -> bytes:
    for size in range(1, 5):
        content = data[len(tag) + size :]
        if data.startswith(tag + _varint(len(content))) and len(_varint(len(content))) == size:
            return content
    raise VerificationError("this TenSEAL serialises in an unknown layout; install one that we allow")


def _blocks(body: Buffer, parameters: Parameters, count: int) -> list[memoryview]:
    """The framed blocks of a whole body, each checked to be a SEAL ciphertext from the outside."""
    reader = Reader(body)
    blocks = [reader.blob(maximum=_CIPHERTEXT_BYTES + 1024) for _ in repeat(None, parameters.blocks(count))]
    reader.finish()
    for block in blocks:
        _check_seal_frame(block, content=_CIPHERTEXT_BYTES)
    return blocks


def _check_seal_frame(data: memoryview, *, content: int) -> None:
    """One SEAL 4 object that Zstandard (RFC 8878) inflates to about `content` bytes, nothing before or after.

    What TenSEAL inflates is bounded here, before it starts: a SEAL that inflates first and looks then would
    let a kilobyte cost gigabytes. And SEAL does not mind bytes after an object; we do.

    Raises:
        DecodeError: anything else.
    """
    reader = Reader(data)
    header = bytes(reader.fixed(_SEAL_HEADER_BYTES))
    # Magic, header size, major version; any minor version; Zstandard, reserved; size of the whole.
    if header[:4] != b"\x5e\xa1\x10\x04" or header[5:8] != b"\x02\x00\x00":
        raise DecodeError("not a SEAL 4 object compressed with Zstandard")
    if int.from_bytes(header[8:], "little") != len(data):
        raise DecodeError("the length in a SEAL header is not the length of its field")
    # Magic; a single segment whose size stands in two bytes, less 256.
    if reader.fixed(7) != b"\x28\xb5\x2f\xfd\x60" + (content - 256).to_bytes(2, "little"):
        raise DecodeError(f"a SEAL object does not inflate to {content} bytes")
    for _ in range(_ZSTD_BLOCKS):
        block = int.from_bytes(reader.fixed(3), "little")
        last, kind, size = block & 1, block >> 1 & 3, block >> 3
        if kind == 3 or size > content:
            raise DecodeError("a reserved or oversized block in a Zstandard frame")
        reader.fixed(1 if kind == 1 else size)
        if last:
            reader.finish()
            return
    raise DecodeError(f"more than {_ZSTD_BLOCKS} blocks in a Zstandard frame")


def _load(context: _Context, parameters: Parameters, block: memoryview) -> _Ciphertext:
    """A ciphertext of two polynomials modulo the data prime, in the evaluation domain, at our scale."""
    head, tail = _vector_frame(parameters)
    try:
        vector = _tenseal().ckks_vector_from(context, b"".join((head, _field(_CIPHERTEXT_TAG, block), tail)))
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
