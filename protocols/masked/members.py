"""Numbers for the clients of a cohort, and sets of them as bitmaps.

Clients have names in a roster; what a round says about many of them at once, who advertised, who dealt, who
survived, is one bit each. The bit of a client is its place in `names`, which everybody knows from the same
list in the same order: bit i, counted from the least significant of byte 0, is `names[i]`. 100,000 survivors
are 12,500 bytes, and there is one encoding of each set: the bits behind the last client are zero.

It only translates. Whether somebody may be in a set is for the caller to say.

>>> members = Members(("ada", "bea", "cyd"))
>>> members.bitmap({"cyd", "ada"})
b'\\x05'
>>> members.subset(b"\\x06")
('bea', 'cyd')
"""

from collections.abc import Collection
from dataclasses import dataclass, field
from itertools import compress

import numpy as np
import numpy.typing as npt

from secagg.errors import DecodeError, ParameterError
from secagg.wire import Buffer, Reader

__all__ = ["Members"]


@dataclass(frozen=True, slots=True)
class Members:
    """The clients of a cohort in the roster's order.

    Args:
        names: client ids, each once. The index of a client is its place here.

    Raises:
        ParameterError: `names` is not a tuple, or has a name twice.
    """

    names: tuple[str, ...]
    _places: dict[str, int] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if type(self.names) is not tuple:
            raise ParameterError(f"names is of type {type(self.names).__name__}; a tuple is needed")
        object.__setattr__(self, "_places", {name: place for place, name in enumerate(self.names)})
        if len(self._places) != len(self.names):
            raise ParameterError("a client is twice in the list of members; list each once")

    def __len__(self) -> int:
        return len(self.names)

    def __contains__(self, name: object) -> bool:
        return name in self._places

    def index(self, name: str) -> int:
        """The place of a client, in [0, len(members)).

        Raises:
            ParameterError: no member has this name.
        """
        place = self._places.get(name)
        if place is None:
            raise ParameterError("a client that is not a member has no index; check that it is one first")
        return place

    def bitmap(self, subset: Collection[str]) -> bytes:
        """⌈n/8⌉ bytes in which the bits of the clients of `subset` are set.

        Raises:
            ParameterError: somebody in it is not a member.
        """
        bits = np.zeros(len(self.names), dtype=np.uint8)
        try:
            bits[[self._places[name] for name in subset]] = 1
        except KeyError:
            raise ParameterError("a set with a client that is not a member; keep to the members") from None
        return np.packbits(bits, bitorder="little").tobytes()

    def bitmap_of(self, places: Collection[int]) -> bytes:
        """`bitmap` of the clients in these places, each in [0, len(members))."""
        bits = np.zeros(len(self.names), dtype=np.uint8)
        bits[np.fromiter(places, dtype=np.intp, count=len(places))] = 1
        return np.packbits(bits, bitorder="little").tobytes()

    def subset(self, bitmap: Buffer) -> tuple[str, ...]:
        """The clients whose bits are set, in the roster's order.

        Raises:
            DecodeError: not ⌈n/8⌉ bytes, or a bit behind the last client is set.
        """
        return tuple(compress(self.names, self._bits(bitmap).tolist()))

    def places(self, bitmap: Buffer) -> tuple[int, ...]:
        """The places whose bits are set, ascending; errors as `subset`."""
        return tuple(np.flatnonzero(self._bits(bitmap)).tolist())

    def _bits(self, bitmap: Buffer) -> npt.NDArray[np.uint8]:
        count = len(self.names)
        reader = Reader(bitmap)
        packed = np.frombuffer(reader.fixed((count + 7) // 8), dtype=np.uint8)
        reader.finish()
        bits = np.unpackbits(packed, bitorder="little")
        if bits[count:].any():
            raise DecodeError(f"a bit behind the last of {count} members is set; it must be zero")
        return bits
