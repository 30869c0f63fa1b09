"""Several values in one coefficient: mixed-radix packing, digit by digit.

A plaintext coefficient is X = Σ x_d·B**d with m digits that keep to the base B even when they are summed, so
X carries m sums and no digit borrows from the next. Signed digits are balanced, |x_d| <= (B-1)/2; raised by
h = (B-1)/2 each they are plain ones, and X is raised by h·(B**m - 1)/(B - 1) = (B**m - 1)/2. So signed and
unsigned numbers are cut apart by the same divisions, of non-negative numbers.

m·N consecutive values fill a block of N coefficients: **digit d of coefficient p is value d·N + p**, so
digits are runs of values, contiguous in memory. The last group, of r < m·N values, has c = ceil(r/m)
coefficients: digit d of coefficient p is value d·c + p there, and digits that are missing are zero. A value
that breaks its bound spoils the other values of its own coefficient, and nothing else.

>>> from secagg.rlwe.parameters import choose_parameters
>>> parameters = choose_parameters(sum_bound=100, signed=True, max_summands=2)
>>> parameters.base, parameters.digits
(201, 7)
>>> packer = DigitPacker(parameters, [np.array([1, -2, 0, 3, 0], dtype=np.int32).view(np.uint32)], 5)
>>> packed = np.empty(2, dtype=np.int64)
>>> packer.fill(packed)
>>> packed.tolist()  # one column: 1 - 2·201 + 3·201**3; behind the last value zero
[24361402, 0]
"""

from collections.abc import Iterable
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from secagg.errors import ParameterError
from secagg.rlwe.parameters import Parameters
from secagg.vectors.ring import Words

__all__ = ["DigitCutter", "DigitPacker"]

Integers: TypeAlias = npt.NDArray[np.int32] | npt.NDArray[np.int64] | Words


class DigitPacker:
    """Joins the values of a vector, block by block, into plaintext coefficients.

    Args:
        parameters: of the sum.
        blocks: `digits`·`degree` values each, the last one shorter: exact integers as uint32 or uint64.
        count: values in all blocks.
    """

    __slots__ = ("_blocks", "_parameters", "_part", "_rest")

    def __init__(self, parameters: Parameters, blocks: Iterable[Words], count: int) -> None:
        self._parameters = parameters
        self._blocks = iter(blocks)
        self._rest = count
        self._part = np.empty(parameters.degree, dtype=np.int64)

    def fill(self, out: npt.NDArray[np.int64]) -> None:
        """The next `len(out)` coefficients; behind the last value they are zero."""
        degree, digits = self._parameters.degree, self._parameters.digits
        done = 0
        while self._rest and done < len(out):
            size = min(self._rest, digits * degree)
            columns = -(-size // digits)
            self._join(self._values(size), out[done : done + columns])
            self._rest -= size
            done += columns
        out[done:] = 0

    def finish(self) -> None:
        """Refuses values behind the last."""
        if next(self._blocks, None) is not None:
            raise ParameterError("there are more blocks than count says; nothing of this vector may be sent")

    def _values(self, size: int) -> Integers:
        block = next(self._blocks, None)
        if (
            not isinstance(block, np.ndarray)
            or block.dtype not in (np.uint32, np.uint64)
            or block.shape != (size,)
            or not block.flags.c_contiguous
        ):
            raise ParameterError(
                f"a block of {size} values comes next: a contiguous array of uint32 or uint64"
            )
        if block.dtype == np.uint64:
            return block.view(np.int64)
        return block.view(np.int32) if self._parameters.signed else block

    def _join(self, values: Integers, out: npt.NDArray[np.int64]) -> None:
        """Σ digit_d·B**d, digit d being the d-th run of `len(out)` values; digits that are missing are 0."""
        columns = len(out)
        np.copyto(out, values[:columns])
        for digit in range(1, self._parameters.digits):
            run = values[digit * columns : (digit + 1) * columns]
            part, target = self._part[: len(run)], out[: len(run)]
            np.multiply(run, self._parameters.base**digit, out=part, dtype=np.int64)
            np.add(target, part, out=target)


class DigitCutter:
    """Cuts plaintexts into the values that they carry, in buffers that it keeps.

    Args:
        parameters: of the sum.
        dtype: of the values, uint32 or uint64; at least as wide as the base.
        capacity: coefficients of one call at most.
    """

    __slots__ = ("_parameters", "_words")

    def __init__(self, parameters: Parameters, *, dtype: np.dtype[Any], capacity: int) -> None:
        self._parameters = parameters
        self._words = np.empty((3, capacity), dtype=dtype)

    def cut(self, raised: npt.NDArray[np.uint64], *, groups: int, out: Words) -> None:
        """Writes the values of `groups` groups of equally many coefficients.

        Args:
            raised: plaintexts in [0, B**m), raised by `parameters.plaintext_half`; consumed.
            out: shape (m·len(raised),), contiguous; signed values in two's complement.
        """
        if not len(raised):
            return
        parameters, dtype = self._parameters, self._words.dtype
        number = raised.reshape(groups, -1)
        low, next_low, part = (words[: len(raised)].reshape(groups, -1) for words in self._words)
        digits = out.reshape(groups, parameters.digits, -1)
        # A digit is the number less B times its quotient. It fits the narrow word, so low bits will do.
        base = dtype.type(parameters.base & (1 << 8 * dtype.itemsize) - 1)
        np.copyto(low, number, casting="unsafe")
        for digit in range(parameters.digits - 1):
            np.floor_divide(number, np.uint64(parameters.base), out=number)
            np.copyto(next_low, number, casting="unsafe")
            np.multiply(next_low, base, out=part)
            np.subtract(low, part, out=digits[:, digit])
            low, next_low = next_low, low
        digits[:, -1] = low
        if parameters.signed:
            np.subtract(out, dtype.type((parameters.base - 1) // 2), out=out)
