"""Parameters for exact integer sums under CKKS, and the argument that rounding is exact.

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

Security follows the Homomorphic Encryption Standard's table for ternary secrets, the special prime included.

>>> choose_parameters(bound=10 * 32767, max_summands=10).log_q <= LOG_Q_LIMIT
True
"""

import math
from dataclasses import dataclass
from typing import Final

from secagg.errors import ParameterError

__all__ = ["COEFFICIENTS", "DEGREE", "LOG_Q_LIMIT", "SPECIAL_PRIME_BITS", "Parameters", "choose_parameters"]

DEGREE: Final = 4096
"""N, the degree of X^N + 1. One SEAL prime has at most 60 bits, and 4096 is secure for 109."""

LOG_Q_LIMIT: Final = 109
"""Largest log2 of the product of all primes for 128-bit security at N = 4096 and ternary secrets, from the
table of the Homomorphic Encryption Standard (2018)."""

COEFFICIENTS: Final = DEGREE // 2
"""Free coefficients of a polynomial whose slots are real."""

SPECIAL_PRIME_BITS: Final = 20
"""TenSEAL refuses a single prime; this one never travels."""

_DATA_PRIME_BITS: Final = range(24, 61)
_MAX_SUMMANDS: Final = 1 << 20
_MAX_COUNT: Final = 1 << 29

_TAIL: Final = math.sqrt(2 * math.log(2) * 91)  # z of the module's essay
_NOISE_VARIANCE: Final = 10.5
_NOISE_LARGEST: Final = 21
_FLOAT_ERROR: Final = 2 * 2.0**-53 * math.sqrt(26 / 3)  # f: of one way, relative to P


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
        return self.data_prime_bits + SPECIAL_PRIME_BITS

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
        return COEFFICIENTS * self.values_per_coefficient

    @property
    def block_bytes(self) -> int:
        """Bytes of one ciphertext on the wire: two polynomials, the bits of the prime a coefficient."""
        return 2 * DEGREE * self.data_prime_bits // 8

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
