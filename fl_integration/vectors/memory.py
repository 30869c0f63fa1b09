"""Where arrays lie in memory: which entries of a state are one, and which lie on one another.

Tied weights are two names of one tensor. They are summed once and stay one. Any other overlap has no meaning
in a vector, where each value has a place of its own: a view of a part of another entry, a transposed view,
an expanded tensor. It is refused rather than summed twice.

Torch tensors are known by device, address, shape and strides, numpy arrays likewise. Nothing is read.

>>> weight = np.ones((2, 3), np.float32)
>>> ties({"embed": place_of(weight), "bias": place_of(np.ones(3)), "head": place_of(weight[:])})
{'head': 'embed'}
>>> require_apart({"embed": place_of(weight), "row": place_of(weight[1])}, beside={})
Traceback (most recent call last):
    ...
secagg.errors.ParameterError: entries 'embed' and 'row' share a part of their memory; copy one of them
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from fl_integration.vectors.arrays import is_dense
from secagg.errors import ParameterError

__all__ = ["Place", "place_of", "require_apart", "ties"]

_CPU = "cpu"
_EFFORT = 100_000
"""Steps that an exact answer about two interleaved arrays may take; one that takes more is a yes."""


@dataclass(frozen=True, slots=True)
class Place:
    """The memory of an array with at least one value. Equal places are one memory, read in one way.

    Args:
        kind: library, dtype, and what the library does to the bytes before it shows them (torch's negation).
        space: the device.
        address: of the first value.
        sizes: of the dimensions, those of size 1 left out.
        strides: in bytes, one a size.
        itemsize: bytes of one value.
    """

    kind: str
    space: str
    address: int
    sizes: tuple[int, ...]
    strides: tuple[int, ...]
    itemsize: int

    @property
    def start(self) -> int:
        """The lowest address in it."""
        return self.address + sum(
            min(0, (n - 1) * step) for n, step in zip(self.sizes, self.strides, strict=True)
        )

    @property
    def stop(self) -> int:
        """The first address behind it."""
        spread = sum(max(0, (n - 1) * step) for n, step in zip(self.sizes, self.strides, strict=True))
        return self.address + spread + self.itemsize

    @property
    def folded(self) -> bool:
        """Whether two of its values may lie on one another, as those of an expanded tensor do."""
        reach = self.itemsize
        for step, size in sorted((abs(s), n) for n, s in zip(self.sizes, self.strides, strict=True)):
            if step < reach:
                return True
            reach += step * (size - 1)
        return False

    def meets(self, other: "Place") -> bool:
        """Whether some byte is in both."""
        if self.space != other.space or self.stop <= other.start or other.stop <= self.start:
            return False
        try:
            return bool(np.shares_memory(_outline(self), _outline(other), max_work=_EFFORT))  # type: ignore[arg-type]  # numpy's stubs know two of its values
        except np.exceptions.TooHardError:
            return True


def place_of(value: object) -> Place | None:
    """Where an array lies; None for one without values, and for what is no dense array."""
    if not is_dense(value):
        return None
    if isinstance(value, np.ndarray):
        count, size, steps = value.size, value.itemsize, value.strides
        kind, space, address = f"numpy {value.dtype.str}", _CPU, value.__array_interface__["data"][0]
    else:
        count, size = value.numel(), value.element_size()
        steps = tuple(step * size for step in value.stride())
        kind, space, address = f"torch {value.dtype} {value.is_neg()}", str(value.device), value.data_ptr()
    if not count:
        return None
    # The stride of a dimension of size 1 is never used, and two views of one memory may differ in it.
    used = [(n, step) for n, step in zip(value.shape, steps, strict=True) if n > 1]
    return Place(kind, space, address, tuple(n for n, _ in used), tuple(step for _, step in used), size)


def ties(places: Mapping[str, Place | None]) -> dict[str, str]:
    """Every name whose memory is an earlier entry's -> that entry's name."""
    first: dict[Place, str] = {}
    found = {}
    for name, place in places.items():
        if place is not None and first.setdefault(place, name) != name:
            found[name] = first[place]
    return found


def require_apart(summed: Mapping[str, Place | None], *, beside: Mapping[str, Place | None]) -> None:
    """Refuse summed entries that overlap in part, with each other or with something beside them.

    Args:
        summed: each memory under one name only.
        beside: what is not summed; it may overlap among itself.

    Raises:
        ParameterError: names both entries, or the one whose own values lie on one another.
    """
    known = [(place, name) for name, place in {**beside, **summed}.items() if place is not None]
    known.sort(key=lambda item: (item[0].space, item[0].start))
    for index, (place, name) in enumerate(known):
        if name in summed and place.folded:
            raise ParameterError(
                f"values of entry {name!r} share their memory with one another, as in an expanded tensor; "
                "make it contiguous"
            )
        for later in range(index + 1, len(known)):
            other, other_name = known[later]
            if other.space != place.space or other.start >= place.stop:
                break
            if (name in summed or other_name in summed) and place.meets(other):
                raise ParameterError(
                    f"entries {name!r} and {other_name!r} share a part of their memory; copy one of them"
                )


class _Outlined:
    def __init__(self, interface: dict[str, object]) -> None:
        self.__array_interface__ = interface


def _outline(place: Place) -> npt.NDArray[Any]:
    """An array at the place's addresses, which may be a GPU's: its values must not be touched."""
    return np.asarray(
        _Outlined(
            {
                "version": 3,
                "typestr": f"|V{place.itemsize}",
                "data": (place.address, True),
                "shape": place.sizes,
                "strides": place.strides,
            }
        )
    )
