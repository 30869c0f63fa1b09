"""Integers in the coefficients of a CKKS plaintext.

**Coefficients, not slots.** TenSEAL encodes real slots: an integer there meets the noise of all N
coefficients and an encoding error of its own. We evaluate the polynomial whose *coefficients* are the
integers (a DCT-III, see `to_slots`) and hand TenSEAL its slots: Delta * c is an integer, so that encoding is
exact, and a coefficient meets only its own noise, which saves log2(sqrt(N / 2)) = 5.5 bits of Delta. Several
integers share a coefficient as digits of radix 2 * bound + 1.

>>> np.allclose(from_slots(to_slots(np.arange(2048.0))), np.arange(2048.0))
True
"""

from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt

from secagg.ckks.parameters import COEFFICIENTS, DEGREE, Parameters
from secagg.errors import VerificationError

__all__ = ["Int64Vector", "from_slots", "pack", "to_slots", "unpack"]

Int64Vector: TypeAlias = npt.NDArray[np.int64]

# Slot i of SEAL is the value at zeta^(3^i), zeta = exp(i pi / N); hfft gives those at odd powers, in order.
# Any other order would still decrypt to the same integers, but with the noise of a whole slot.
_ORBIT: Final = np.array([pow(3, i, 2 * DEGREE) // 2 for i in range(COEFFICIENTS)])
_TWIST: Final = np.exp(-1j * np.pi / DEGREE * np.arange(COEFFICIENTS))


def to_slots(coefficients: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Values of c_0 + sum_j c_j (X^j - X^(N-j)), 0 < j < N/2, at zeta^(3^i): real, float64[N/2].

    At zeta^(2k+1) it is c_0 + 2 sum_j c_j cos(pi j (2k+1) / N), a DCT-III.
    """
    values: npt.NDArray[np.float64] = np.fft.hfft(coefficients * _TWIST, n=DEGREE)[_ORBIT]
    return values


def from_slots(slots: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """The inverse of `to_slots`: c_j = 1/N sum_k v_k cos(pi j (2k+1) / N) over all N odd powers."""
    values = np.empty(DEGREE)
    values[_ORBIT] = slots
    values[DEGREE - 1 - _ORBIT] = slots
    coefficients: npt.NDArray[np.float64] = (np.fft.rfft(values)[:COEFFICIENTS] * _TWIST).real / DEGREE
    return coefficients


def pack(values: Int64Vector, parameters: Parameters) -> npt.NDArray[np.float64]:
    """Digit d of coefficient j is element d * N/2 + j of the block; missing elements are zero."""
    digits = np.zeros(parameters.values_per_block, dtype=np.int64)
    digits[: values.size] = values
    packed = np.zeros(COEFFICIENTS, dtype=np.int64)
    for row in digits.reshape(-1, COEFFICIENTS)[::-1]:
        packed *= parameters.radix
        packed += row
    return packed.astype(np.float64)


def unpack(coefficients: npt.NDArray[np.float64], parameters: Parameters) -> Int64Vector:
    """Rounds and splits into signed digits; refuses what no sum within the bound can be."""
    rounded = np.rint(coefficients)
    if not float(np.abs(coefficients - rounded).max()) <= 0.25:
        raise VerificationError("a decrypted value is not near an integer; the sum is not authentic")
    if not float(np.abs(rounded).max()) <= parameters.packed_bound:
        raise VerificationError("a decrypted value exceeds the bound; the sum is not authentic")
    packed = rounded.astype(np.int64)
    digits = np.empty((parameters.values_per_coefficient, COEFFICIENTS), dtype=np.int64)
    for row in digits:
        carry = (packed + parameters.bound) // parameters.radix
        np.subtract(packed, carry * parameters.radix, out=row)
        packed = carry
    return digits.reshape(-1)
