"""A law of magnitudes as fixed-point thresholds, and which magnitude a uniform word stands for.

Let q_0, q_1, … be the chances of a magnitude. A uniform number of 127 bits stands for the magnitude m that
has T_(m-1) <= number < T_m, where T_m is q_0 + … + q_m in units of 2^-127. Sixty-three bits of the number
are compared first. Where they equal those of a threshold, and there only, the other 64 decide, so that a
threshold never carries less than 127 bits: a table of 16 bits, or of a float's 53, is another law (C11).

Thresholds are made in 256 bits and from the small end up: tails are added before what outweighs them, so
each tail has its own relative precision, and is rounded to 2^-127 once. What arithmetic adds (below 2^-200,
see `skellam` and `gaussian`) does not count beside that.

Most words need no search: a guide says, for the top bits of a word, which magnitude all such words stand
for, or that a threshold lies among them. It has four entries or more for each threshold, so that one word in
twenty is searched for, but not more than 2^20 entries (4 MB): at sigma = 2^18 half of the words are.

**Look-ups leak their index through the cache**; `law` says to whom, and what it costs.

>>> coin = Table.of([1 << 126])  # 0 or 1, each with chance 1/2
>>> words = np.array([0, (1 << 63) - 1, 1 << 63], dtype=np.uint64)
>>> out = np.empty(3, dtype=np.int64)
>>> coin.look_up(words, out=out, spare=np.empty(3, dtype=np.int32)).tolist()  # the last word is a tie
[2]
>>> out[:2].tolist(), coin.settle(1 << 62, 0)
([0, 0], 1)
"""

from collections.abc import Iterator, Sequence
from itertools import accumulate, islice
from typing import Any, Final, TypeAlias

import gmpy2
import numpy as np
import numpy.typing as npt

__all__ = ["PRECISION", "THRESHOLD_BITS", "Real", "Samples", "Table", "Words", "arithmetic", "tabulate"]

PRECISION: Final = 256
"""Bits of the arithmetic that makes tables. It loses 47 at most, and leaves 2^-200 beside 2^-127."""

THRESHOLD_BITS: Final = 127
"""Bits of a threshold: one of the 128 of two words is the sign."""

Real: TypeAlias = Any
"""A `gmpy2.mpfr`, which has no types of its own."""

Words: TypeAlias = npt.NDArray[np.uint64]
Samples: TypeAlias = npt.NDArray[np.int64]

_GUIDE_BITS: Final = range(10, 21)
_BLOCK: Final = 1 << 14
_ONE: Final = np.uint64(1)


class Table:
    """Thresholds in ascending order, in words of which the higher has 63 bits, and their guide.

    Args:
        high: shape (entries,), the thresholds over 2^64, at most 2^63.
        low: shape (entries,), the rest.
    """

    __slots__ = ("_guide", "_high", "_low", "_shift")

    def __init__(self, *, high: Words, low: Words) -> None:
        bits = min(max(len(high).bit_length() + 2, _GUIDE_BITS[0]), _GUIDE_BITS[-1])
        edges = np.arange(1 << bits, dtype=np.uint64) << np.uint64(63 - bits)
        below = high.searchsorted(edges)
        upto = np.append(below[1:], high.searchsorted(np.uint64(1 << 63)))
        self._guide = np.where(below == upto, below, -1).astype(np.int32)
        self._shift = np.uint64(64 - bits)
        self._high, self._low = high, low

    @classmethod
    def of(cls, thresholds: Sequence[int]) -> "Table":
        """The table of these thresholds: ascending, each in [0, 2^127]."""
        high, low = zip(*(divmod(each, 1 << 64) for each in thresholds), strict=True)
        return cls(high=np.array(high, dtype=np.uint64), low=np.array(low, dtype=np.uint64))

    def __len__(self) -> int:
        return len(self._high)

    def thresholds(self) -> list[int]:
        """All of them, as integers."""
        pairs = zip(self._high.tolist(), self._low.tolist(), strict=True)
        return [(high << 64) + low for high, low in pairs]

    def look_up(self, words: Words, *, out: Samples, spare: npt.NDArray[np.int32]) -> npt.NDArray[np.intp]:
        """Which magnitudes the upper 63 bits of words stand for.

        Args:
            words: shape (count,); their lowest bits are not looked at.
            out: shape (count,), receives the magnitudes.
            spare: shape (count,), is written over.

        Returns:
            the positions of the words whose upper 63 bits are those of a threshold: there `out` holds the
            largest magnitude that it can be, and `settle` tells the right one.
        """
        np.right_shift(words, self._shift, out=out.view(np.uint64))
        self._guide.take(out, out=spare, mode="clip")  # clips nothing: any other mode copies
        out[:] = spare
        open_ = np.flatnonzero(spare < 0)
        upper = words[open_] >> _ONE
        found = self._high.searchsorted(upper, side="right")
        out[open_] = found
        # Below all thresholds found - 1 is the last one, which such a word does not equal.
        ties: npt.NDArray[np.intp] = open_[self._high[found - 1] == upper]
        return ties

    def settle(self, upper: int, lower: int) -> int:
        """The magnitude that the number of 127 bits upper * 2^64 + lower stands for, by both words."""
        first = int(self._high.searchsorted(np.uint64(upper), side="left"))
        last = int(self._high.searchsorted(np.uint64(upper), side="right"))
        return first + int(self._low[first:last].searchsorted(np.uint64(lower), side="right"))


def arithmetic() -> Any:
    """The context in which tables are made, whatever the caller has set: 256 bits, to the nearest."""
    return gmpy2.context(precision=PRECISION)


def tabulate(tails: Iterator[Real], *, bound: int, skip: int) -> Table:
    """The table of a symmetric law's magnitudes, within `arithmetic`.

    Args:
        tails: the chances of last, last - 1, …, 1 times 2^128: one sign's, so that those of magnitudes come
            in units of 2^-127.
        bound: the largest magnitude that the table has, last - skip; what is beyond is given to it.
        skip: how many of the tails lie beyond the bound.
    """
    sums = islice(map(gmpy2.mpz, accumulate(tails)), skip, None)
    parts = list[bytes]()
    while block := list(islice(sums, _BLOCK)):  # block by block: as objects, numbers take ten times the room
        parts.append(int(gmpy2.pack(block, 128)).to_bytes(16 * len(block), "little"))
    halves = np.frombuffer(b"".join(parts), dtype="<u8").reshape(bound, 2)[::-1].astype(np.uint64)
    # 2^127 less a tail, in two words: the lower wraps, and borrows unless it is zero.
    high = np.uint64(1 << 63) - halves[:, 1] - (halves[:, 0] > 0)
    return Table(high=np.ascontiguousarray(high), low=np.negative(halves[:, 0]))
