"""What the laws of noise have in common: samples, chances, a bound, and how far samples are from the law.

`distance` bounds the total variation distance between one sample and the law by what can go wrong, which is
three things. Samples end at `bound`, beyond which the law has less than 2^-110 (`_log2_tail`, by Chernoff's
inequality). Each of the table's `bound` thresholds is rounded to 127 bits, and carries an arithmetic error
below 2^-200: together at most bound * 2^-126. The law is computed over a longer range and scaled to a sum of
one, for at most 2^-127 (`_last`). The keystream behind the words is taken for uniform, as everywhere here.
A vector of d samples is within d times the distance; a differentially private release adds
d * (1 + e^ε) times it to its δ.

**Look-ups leak their index through the cache** (Groot Bruinderink+ CHES'16; ATTACKS C11). Here the index
is the magnitude of a sample, never its sign. Who sees it is who runs code on the machine that draws, while it
draws: not the server, and not the other clients. To him this party's noise hides little or nothing, and the
others' noise hides as before: count such a machine among the corrupt, as one that tells its share. No key and
no mask depends on these samples, unlike the errors of a lattice scheme, which are counted and not looked up
(`secagg.rlwe.binomial`). From further away only the time of a whole call can be seen. It grows with the
number of words that needed a search, one number about all samples together; `distance` does not cover it.

No seed is logged or kept, but memory is not wiped. Samples serve one release: a second one under the same
seed gives away the difference of the two (D14). Tables stay in memory, the last four of all laws: at most
56 MB each, and half as much where chances are asked for.
"""

import math
from abc import ABC, abstractmethod
from bisect import bisect_left
from collections.abc import Callable, Iterator
from functools import lru_cache
from itertools import islice
from typing import Final

import gmpy2
import numpy as np
import numpy.typing as npt

from secagg.entropy import Entropy, draw, system_entropy
from secagg.errors import ParameterError
from secagg.noise.sampler import SEED_BYTES, draw_samples
from secagg.noise.tables import THRESHOLD_BITS, Real, Samples, Table, arithmetic, tabulate
from secagg.numbers import is_number, plain
from secagg.secret import Secret

__all__ = ["LARGEST_SIGMA", "Law", "checked"]

LARGEST_SIGMA: Final = 2.0**18
"""Its table takes 56 MB, and six seconds to make."""

_CUT_BITS: Final = 110
_SCALING_BITS: Final = 130
_TABLES: Final = 4


class Law(ABC):
    """A symmetric law of integers; those of equal parameters share a table."""

    __slots__ = ()

    @property
    @abstractmethod
    def standard_deviation(self) -> float:
        """Of the law itself."""

    @abstractmethod
    def _log2_tail(self, beyond: int) -> float:
        """The logarithm of an upper bound of the chance that a magnitude is above `beyond`."""

    @abstractmethod
    def _weights(self, last: int, start: Real) -> Iterator[Real]:
        """Numbers in proportion to the chances of last, last - 1, …, 0, the first of which is `start`."""

    @property
    def bound(self) -> int:
        """No sample is larger in absolute value. It is 12.5 standard deviations of a wide law."""
        return _smallest(lambda end: self._log2_tail(end) < -_CUT_BITS - 0.5)  # floats err by far less

    @property
    def distance(self) -> float:
        """Total variation distance between one sample and the law, an upper bound: 2^-104 or less."""
        return 2.0**-_CUT_BITS + (self.bound + 1) * 2.0 ** (1 - THRESHOLD_BITS)

    def sample(self, count: int, *, entropy: Entropy = system_entropy) -> Samples:
        """Independent samples. The first call for a law makes its table: a second for 4 * 10^5 entries.

        Args:
            count: how many, at least 0.
            entropy: is asked for `SEED_BYTES`, once; equal bytes give equal samples.

        Returns:
            shape (count,) of int64, each in [-bound, bound].

        Raises:
            ParameterError: a wrong count, or an entropy source that does not give what it was asked for.
        """
        count = plain(count)
        if type(count) is not int or count < 0:
            raise ParameterError(f"count is {count!r}; give how many samples to draw, an int of at least 0")
        return draw_samples(_table(self), seed=Secret(draw(entropy, SEED_BYTES)), count=count)

    def pmf(self, values: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """The chance of each value, with the relative precision of a float wherever samples can be.

        Args:
            values: integers of any shape.

        Returns:
            of the same shape. Beyond `bound` it is 0.0, where the law has less than 2^-110 in all.

        Raises:
            ParameterError: the values are not integers.
        """
        integers = np.asarray(values)
        if integers.dtype.kind not in "iu":
            raise ParameterError(f"values of type {integers.dtype}; this is a law of integers: pass integers")
        masses = _masses(self)
        unsigned = integers.dtype.kind == "u"
        wide = np.minimum(integers.astype(np.uint64), 1 << 62) if unsigned else integers
        inside = np.clip(wide.astype(np.int64), -len(masses), len(masses))
        return np.append(masses, 0.0)[np.abs(inside)]

    def _last(self) -> int:
        """Where computing starts. All together, what lies beyond changes samples by at most 2^-127.

        With N = last, and r the chance of a magnitude above it: the law cut there is r from the law, and
        weights that err by at most r each (Miller's algorithm, see `skellam`; 0 for the Gaussian) sum to one
        within (2N + 2) r, so that after scaling they are within 2 (2N + 3) r of the law.
        """
        return _smallest(
            lambda end: math.log2(2 * end + 3) + self._log2_tail(end) < -_SCALING_BITS, at_least=self.bound
        )

    def _chances(self, total: int) -> tuple[int, Iterator[Real]]:
        """Where computing starts, and the chances of last, …, 1, 0 times `total`; within `arithmetic`."""
        last, one = self._last(), gmpy2.mpfr(1)
        # A first pass says what the weights add up to, so that nobody has to keep them.
        centre, one_side = one, gmpy2.mpfr(0)
        for centre in self._weights(last, one):
            one_side += centre
        return last, self._weights(last, total / (2 * one_side - centre))


def checked(value: object, *, name: str, least: float, most: float, remedy: str) -> float:
    """A law's parameter as a float.

    Raises:
        ParameterError: it is no number of [least, most]; the text ends with the remedy.
    """
    number = plain(value)
    if not is_number(number) or not least <= number <= most:
        raise ParameterError(f"{name} is {number!r}; a number in [{least:g}, {most:g}] is needed: {remedy}")
    return float(number)


def _smallest(fits: Callable[[int], bool], *, at_least: int = 0) -> int:
    """The smallest integer that fits, where all that are larger do."""
    step = 1
    while not fits(at_least + step):
        step *= 2
    return at_least + bisect_left(range(step), x=True, key=lambda offset: fits(at_least + offset))


@lru_cache(maxsize=_TABLES)
def _table(law: Law) -> Table:
    bound = law.bound
    with arithmetic():
        last, tails = law._chances(1 << (THRESHOLD_BITS + 1))
        return tabulate(islice(tails, last), bound=bound, skip=last - bound)


@lru_cache(maxsize=_TABLES)
def _masses(law: Law) -> npt.NDArray[np.float64]:
    """The chances of 0, 1, …, bound: made apart, as they are seldom asked for."""
    bound = law.bound
    with arithmetic():
        last, chances = law._chances(1)
        inside = islice(chances, last - bound, None)
        downward = np.fromiter(map(float, inside), dtype=np.float64, count=bound + 1)
    masses = np.ascontiguousarray(downward[::-1])
    masses.flags.writeable = False
    return masses
