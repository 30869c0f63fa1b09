"""Exact products of wide polynomials by a small one in Z[X]/(X^N + 1), through a float64 FFT.

The wide factor has N uniform coefficients of many bits; the small one is a lattice key, or a sum of keys.
The wide one is given by *limbs* of w bits, signed, and each limb's product with the key is an integer vector
so small that float64 brings every coefficient near enough to round it. The limbs are then joined in 64-bit
words: the product modulo 2**64, and so modulo every smaller power of two.

**Order.** X^N + 1 is folded as usual: with ω = exp(iπ/N) and z_j = (x_j + i·x_{j+N/2})·ω^j, one complex FFT
of length N/2 evaluates x at half of the roots of X^N + 1, whose conjugates are the other half. So that
nothing is ever permuted, a polynomial lies in memory as those complex numbers do: **position p holds the
coefficient of X^(p//2 + (p%2)·N/2)**. All factors and products here have that order.

**Rounding.** Percival ("Rapid multiplication modulo the sum and difference of highly composite numbers",
Math. Comp. 72, 2003, theorem 5.1; the constant √5 of a complex product by Brent, Percival and Zimmermann,
Math. Comp. 76, 2007): with FFTs of length 2^k, unit round-off u = 2^-53 and roots of unity that err by at
most β, each coefficient of the convolution of x and y errs by less than

    ‖x‖₂·‖y‖₂·((1 + u)^(3k)·(1 + u√5)^(3k+1)·(1 + β)^(3k) - 1).

The fold multiplies x, y and the result by rounded roots of unity, which adds a factor (1 + u√5)³·(1 + β)³;
scaling by a power of two is exact, and folding keeps norms. x is a limb, ‖x‖₂ <= √N·2^(w-1) whatever it
holds; ‖y‖₂ is computed for the key at hand. `KeyProduct` refuses a key for which the bound reaches 1/4, half
of what rounding allows, so a product is exact without an *if*.

Two assumptions remain. The theorem counts a radix-2 FFT, while numpy's pocketfft takes steps of radix 4 and
8, which are two and three levels at once with no more roundings on any path; and β = 2^-52, where pocketfft
takes each root as one product of two that it gets from the C library, and errs by up to 1.73u at these
lengths. Tests redo these roots, and hold the largest error seen, at the largest keys, against exact integers
and the bound; and each `KeyProduct` multiplies its key once by a limb for which the product is known, so that
a numpy with another FFT would not go unseen.

The FFT reads and writes the same places whatever the key is, but floating-point units are not promised to
take the same time for all operands.

>>> product = KeyProduct(np.array([0, 0, 1, 0], dtype=np.int64), limb_bits=8, limbs=1)  # X, as N/2 = 2
>>> out = np.empty(4, dtype=np.uint64)
>>> product.write(np.array([[[1, 3, 2, 4]]], dtype=np.int32), out=out)  # 1 + 2X + 3X^2 + 4X^3
>>> out.view(np.int64).tolist()  # -4 + X + 2X^2 + 3X^3
[-4, 2, 1, 3]
"""

import math
from functools import lru_cache
from typing import Final

import numpy as np
import numpy.typing as npt

from secagg.errors import ParameterError

__all__ = ["MAXIMUM_ERROR", "KeyProduct", "rounding_bound"]

MAXIMUM_ERROR: Final = 0.25
"""A key is refused where `rounding_bound` is not below this; rounding would still be right below 1/2."""

_UNIT: Final = 2.0**-53
_ROOT_ERROR: Final = 2.0**-52
_SHIFT: Final = 1.5 * 2.0**52
_SHIFT_BITS: Final = int(np.float64(_SHIFT).view(np.uint64))
_MAX_LIMB_BITS: Final = 32
_WORD: Final = 1 << 64
_PASS_BYTES: Final = (
    1 << 19
)  # complex numbers of one pass: calls of the FFT are few, and an L2 cache holds them


def rounding_bound(*, degree: int, limb_bits: int, squared_norm: int) -> float:
    """What no coefficient of a limb's product errs by, before it is rounded.

    Args:
        degree: N, a power of two of at least 4.
        limb_bits: w; the limb's coefficients are in [-2**(w-1), 2**(w-1)].
        squared_norm: ‖key‖₂², the sum of the squares of the key's coefficients.
    """
    levels = (degree // 2).bit_length() - 1
    products = 3 * levels + 4  # of which 3 fold and unfold
    roots = 3 * levels + 3
    growth = (
        3 * levels * math.log1p(_UNIT)
        + products * math.log1p(_UNIT * math.sqrt(5))
        + roots * math.log1p(_ROOT_ERROR)
    )
    return math.sqrt(degree * squared_norm) * 2.0 ** (limb_bits - 1) * math.expm1(growth)


@lru_cache(maxsize=8)
def _twist(degree: int) -> npt.NDArray[np.complex128]:
    """ω^j for j < N/2, ω = exp(iπ/N).

    Each comes from its own sine and cosine, of an angle of at most π/4 where errors of the angle weigh least,
    and by the C library: together they err by less than `_ROOT_ERROR`.
    """
    quarter = degree // 4
    angles = [j * (math.pi / degree) for j in range(quarter + 1)]
    cosines, sines = [math.cos(a) for a in angles], [math.sin(a) for a in angles]
    twist = np.empty(2 * quarter, dtype=np.complex128)
    twist.real = cosines + sines[quarter - 1 : 0 : -1]
    twist.imag = sines + cosines[quarter - 1 : 0 : -1]
    twist.flags.writeable = False
    return twist


class KeyProduct:
    """Multiplies by one key, in buffers that it keeps.

    Args:
        key: shape (N,) of int64, N a power of two from 4 to 2**15, in the order of this module.
        limb_bits: w, in [1, 32].
        limbs: of each wide factor, at least 1.

    Raises:
        ParameterError: an argument is anything else, or the key is so large that the rounding bound for
            `limb_bits` is not below `MAXIMUM_ERROR`.
    """

    __slots__ = (
        "_blocks",
        "_complex",
        "_conjugate",
        "_degree",
        "_limb_bits",
        "_limbs",
        "_spectrum",
        "_twist",
    )

    def __init__(self, key: npt.NDArray[np.int64], *, limb_bits: int, limbs: int) -> None:
        if not isinstance(key, np.ndarray) or key.ndim != 1 or key.dtype != np.int64:
            raise ParameterError("a key is a one-dimensional array of int64")
        degree = len(key)
        if degree not in {1 << power for power in range(2, 16)}:
            raise ParameterError(f"a key of {degree} coefficients; the degree is a power of two, 4 to 32,768")
        if type(limb_bits) is not int or not 1 <= limb_bits <= _MAX_LIMB_BITS:
            raise ParameterError(f"limbs of {limb_bits!r} bits; choose an integer from 1 to {_MAX_LIMB_BITS}")
        if type(limbs) is not int or limbs < 1:
            raise ParameterError(f"{limbs!r} limbs; a wide factor has at least 1")
        floats = np.ascontiguousarray(key, dtype=np.float64)
        # Coefficients beyond 2**53 are rounded here, but then the bound is far above 1/4.
        squared_norm = float(floats @ floats) * (1 + 2.0**-30)
        bound = rounding_bound(degree=degree, limb_bits=limb_bits, squared_norm=math.ceil(squared_norm))
        if bound >= MAXIMUM_ERROR:
            raise ParameterError(
                f"a key too large for limbs of {limb_bits} bits: the product could be off by {bound:.2g}, "
                f"{MAXIMUM_ERROR} is allowed; use more and narrower limbs"
            )
        self._degree, self._limb_bits, self._limbs = degree, limb_bits, limbs
        self._twist = _twist(degree)
        self._conjugate = self._twist.conj()
        folded = floats.view(np.complex128) * self._twist
        self._spectrum = np.fft.fft(folded) * (2 / degree)
        self._blocks = max(1, _PASS_BYTES // (8 * degree * limbs))
        self._complex = np.empty((self._blocks, limbs, degree // 2), dtype=np.complex128)
        self._try(key)

    def _try(self, key: npt.NDArray[np.int64]) -> None:
        """Multiplies the key by the largest limb of equal coefficients, a product that sums of the key give.

        The coefficient of X^j in key·(1 + X + … + X^(N-1)) is the sum of the key's coefficients up to X^j,
        less that of the others.
        """
        largest = (1 << (self._limb_bits - 1)) - 1
        wide = np.full((1, self._limbs, self._degree), largest, dtype=np.int32)
        product = self._products(wide)[0, 0]
        until = np.cumsum(key.reshape(-1, 2).T.ravel())
        exact = (2 * until - until[-1]).reshape(2, -1).T.ravel() * largest
        if float(np.abs(product.view(np.float64) - exact).max()) >= MAXIMUM_ERROR:
            raise ParameterError(
                "numpy's FFT on this machine is less precise than exact products need: install a build of "
                "numpy that computes it in float64"
            )

    @property
    def blocks(self) -> int:
        """Wide factors that `write` takes at most: as many as stay in the cache."""
        return self._blocks

    def write(self, wide: npt.NDArray[np.int32], *, out: npt.NDArray[np.uint64], offset: int = 0) -> None:
        """Writes the products of `key` and some wide factors, each plus `offset`, modulo 2**64.

        Args:
            wide: shape (count, limbs, N) with 1 <= count <= `blocks`: limb j of a factor counts 2**(w·j)-fold
                and has coefficients in [-2**(w-1), 2**(w-1)).
            out: shape (count·N,), contiguous.
            offset: added to every coefficient.
        """
        limbs = self._products(wide)
        words = limbs.view(np.float64)
        np.add(words, _SHIFT, out=words)
        # Added to 1.5 * 2**52 a float64 is rounded to an integer, and its low bits are that integer.
        integers = words.view(np.uint64)
        target = out.reshape(len(wide), self._degree)
        shift_bits = sum(_SHIFT_BITS << (self._limb_bits * limb) for limb in range(self._limbs))
        np.add(integers[:, 0], np.uint64((offset - shift_bits) % _WORD), out=target)
        for limb in range(1, self._limbs):
            upper = integers[:, limb]
            np.left_shift(upper, self._limb_bits * limb, out=upper)
            np.add(target, upper, out=target)

    def _products(self, wide: npt.NDArray[np.int32]) -> npt.NDArray[np.complex128]:
        """The folded products, limb by limb, before they are rounded: valid until the next call."""
        folded = self._complex[: len(wide)]
        np.copyto(folded.view(np.float64), wide)
        np.multiply(folded, self._twist, out=folded)
        np.fft.fft(folded, out=folded)
        np.multiply(folded, self._spectrum, out=folded)
        # norm="forward" leaves the inverse unscaled; 2/N is in the key's spectrum.
        np.fft.ifft(folded, norm="forward", out=folded)
        np.multiply(folded, self._conjugate, out=folded)
        return folded
