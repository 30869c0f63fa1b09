"""Several narrow values in one machine word, so that one mask word hides them all.

Values of few bits waste most of a machine word, and the mask pays for the whole of it. Here L = ⌊64/b⌋ values
x_0 ... x_{L-1} of b bits travel as one element of the ring of L·b bits,

    w = x_0 + x_1·2^b + ... + x_{L-1}·2^{(L-1)b}   mod 2^{Lb}.

Sums of such elements are the elements of the sums, and a mask that is uniform over the wide ring hides all
of them at once; from the sum modulo 2^{Lb} nothing is learnt but the sums of the values. Their signs are no
obstacle: before the lanes are cut apart, half of 2^b is added to each, which makes every sum positive, so
that no lane borrows from the next. The lanes of a group of values are its consecutive parts, hence contiguous
in memory. On the wire an element takes L·b bits: exactly what its values take.

It pays for values of up to 21 bits, three or more of which fit a word; wider ones travel one by one. So do
values whose sum may wrap around modulo 2^b, of any width: what a lane loses would be a carry into the next.

>>> lanes = Lanes(ring=Ring(bits=20), signed=True)
>>> lanes.per_word, lanes.wide.bits, lanes.words(7)
(3, 60, 3)
>>> values = np.array([1, -2, 3, -4, 5, -6, 7], dtype=np.int32).view(np.uint32)
>>> wide = np.concatenate([word.copy() for word in lanes.joined([values])])
>>> lanes.ring.centred(lanes.view(wide + wide, 7)[:]).tolist()
[2, -4, 6, -8, 10, -12, 14]
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from secagg.errors import ParameterError
from secagg.vectors.ring import BLOCK_VALUES, Ring, Words

__all__ = ["LaneView", "Lanes"]

WORD_BITS: Final = 64
LEAST_LANES: Final = 3
"""With two lanes a word of 64 bits masks no more than two words of 32 do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lanes:
    """How values over `ring` share elements of a wider ring.

    Args:
        ring: of one value; the sum of all values must fit it, with its sign if it has one, unless `wraps`.
        signed: whether sums are read as signed (`Ring.centred`) or as residues.
        wraps: whether sums are taken modulo 2^b. Then an element is one value.
    """

    ring: Ring
    signed: bool
    wraps: bool = False

    @property
    def per_word(self) -> int:
        """Values in one element (L)."""
        lanes = WORD_BITS // self.ring.bits
        return lanes if lanes >= LEAST_LANES and not self.wraps else 1

    @property
    def wide(self) -> Ring:
        """The ring of L·b bits."""
        return Ring(bits=self.per_word * self.ring.bits)

    def words(self, count: int) -> int:
        """Elements that `count` values take."""
        full, rest = divmod(count, self.per_word * BLOCK_VALUES)
        return full * BLOCK_VALUES + -(-rest // self.per_word)

    def joined(self, blocks: Iterable[Words]) -> Iterator[Words]:
        """The elements of a vector that comes in blocks, in blocks of `BLOCK_VALUES` elements.

        Args:
            blocks: as for `Ring.pack_stream`: words of exact integers in two's complement, not masked yet.

        Returns:
            blocks of the wide ring, each in the memory of the one before.
        """
        if self.per_word == 1:
            yield from blocks
            return
        capacity = self.per_word * BLOCK_VALUES
        values, held = np.empty(capacity, dtype=self.ring.dtype), 0
        scratch = (np.empty(BLOCK_VALUES, dtype=np.int64), np.empty(BLOCK_VALUES, dtype=np.int64))
        for block in blocks:
            values[held : held + len(block)] = block
            held += len(block)
            if held == capacity:
                yield self._join(values, *scratch)
                held = 0
        if held:
            yield self._join(values[:held], *scratch)

    def _join(self, values: Words, total: npt.NDArray[Any], lane: npt.NDArray[Any]) -> Words:
        size = -(-len(values) // self.per_word)
        signed = values.view(np.int32)
        total, lane = total[:size], lane[:size]
        total[:] = signed[:size]
        for index in range(1, self.per_word):
            part = signed[index * size : (index + 1) * size]
            np.left_shift(part, index * self.ring.bits, out=lane[: len(part)], dtype=np.int64)
            total[: len(part)] += lane[: len(part)]
        return total.view(np.uint64)

    def view(self, total: Words, count: int, *, padding: int = 0) -> "Words | LaneView":
        """The first `count` of `count` + `padding` values of a sum, cut apart where they are read.

        Raises:
            ParameterError: `total` is no vector of the wide ring, or has another number of elements.
        """
        self.wide.check_vector(total)
        if len(total) != (words := self.words(count + padding)):
            raise ParameterError(f"{len(total)} elements; {count + padding} values take {words}")
        return total[:count] if self.per_word == 1 else LaneView(self, total, count)


@dataclass(frozen=True, slots=True, eq=False)
class LaneView:
    """The values of a vector of elements; a slice of it is an array over the narrow ring."""

    _lanes: Lanes
    _total: Words
    _count: int

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, part: slice) -> Words:
        """The values of a slice with step 1, fresh and contiguous."""
        start, stop, step = part.indices(self._count)
        if step != 1:
            raise ParameterError(f"a slice with step {step}; values are read one after the other")
        values = np.empty(max(stop - start, 0), dtype=self._lanes.ring.dtype)
        at = start
        while at < stop:
            group, offset = divmod(at, self._lanes.per_word * BLOCK_VALUES)
            words = self._total[group * BLOCK_VALUES : (group + 1) * BLOCK_VALUES]
            lane, first = divmod(offset, len(words))
            size = min(len(words) - first, stop - at)
            self._cut(words[first : first + size], lane, out=values[at - start : at - start + size])
            at += size
        return values

    def _cut(self, words: Words, lane: int, *, out: Words) -> None:
        bits = self._lanes.ring.bits
        half = 1 << (bits - 1) if self._lanes.signed else 0
        raised = words + np.uint64(sum(half << (index * bits) for index in range(self._lanes.per_word)))
        raised >>= np.uint64(lane * bits)
        np.copyto(out, raised, casting="same_kind" if out.dtype == raised.dtype else "unsafe")
        out &= out.dtype.type((1 << bits) - 1)
        out -= out.dtype.type(half)
