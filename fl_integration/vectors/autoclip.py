"""`AutoClip`: a public scale for each part of an update, so that one clip of 1 fits all of them.

A weight moves by a thousandth in a round, BatchNorm's running variance by ten, the bias of a regression with
unscaled targets by a hundred. Under one clip either the small ones drown in the grid's steps or the large
ones are cut off. So each segment of the vector, an entry of the model, is divided by a scale of its own
before it is summed and the mean is multiplied by it again; the protocol keeps its clip of 1.

The scale has to be the same for all, before anybody has seen anybody's update. It comes from one small exact
sum: every site counts the magnitudes of its first update by powers of two, segment by segment, the counts are
added, and the scale is the smallest power of two that leaves at most a share of them above it, with some
headroom. Then it is fixed. A power of two, so that dividing and multiplying lose nothing.

What that sum tells: how many values of all sites together lie in each power of two, for each segment, and
nothing by site. A server that announced a tiny scale would turn every update into signs, and their sum into
weights by sign; so a site refuses a scale under which more than `most_clipped` of its own values would be
clipped, over the whole update or over one segment of at least twenty values. Values that are zero do not
count: an embedding of which a site moves few rows is no cover. In smaller segments of a larger model, a bias
of one value say, that is not refused: there honest updates may outgrow the scale, and clipping is reported.
In a model of fewer than twenty values one that is clipped is more than the twentieth: give it headroom.

A site that counts falsely can make a scale far too large. Then what others learn is lost in the grid's
rounding, and what a lie in the training itself may do is bounded by that scale alone. A site refuses scales
under which all of its first update is lost, and says which parts are; more cannot be told from one sum.

>>> rule, segments = AutoClip(), {"weight": slice(0, 3), "bias": slice(3, 4)}
>>> updates = np.array([[0.01, -0.02, 0.03, 90.0], [0.02, 0.01, 0.0, 70.0]])
>>> counts = sum(rule.counts(each, segments) for each in updates)
>>> rule.scales(counts, segments, sites=2).tolist()
[0.0625, 256.0]
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from fl_integration.vectors.arrays import Vector
from secagg.errors import ParameterError
from secagg.numbers import is_number, plain_fields

__all__ = ["AutoClip", "ScalesRefusedError"]

_LOWEST: Final = -80
_HIGHEST: Final = 80
_BINS: Final = _HIGHEST - _LOWEST + 1
"""Bin i counts magnitudes in [2**(_LOWEST + i - 1), 2**(_LOWEST + i)); the ends take the rest."""
_MOST_ROOM: Final = 32
_CHUNK: Final = 1 << 16
_SMALL: Final = 20
_FEW_STEPS: Final = 8


class ScalesRefusedError(ParameterError):
    """A site does not put up with the scales of its training."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AutoClip:
    """How the scales are chosen, and what a site puts up with.

    Args:
        share: of the values that are not zero, in [0, 1): at most so many may lie above a segment's scale,
            before `headroom`.
        headroom: a power of two of at least 1, by which the scale is larger: later updates may be.
        most_clipped: in (0, 1): the share of its own values that are not zero beyond which a site refuses a
            scale.

    Raises:
        ParameterError: a value is outside its range.
    """

    share: float = 1e-3
    headroom: float = 2.0
    most_clipped: float = 0.05

    def __post_init__(self) -> None:
        plain_fields(self, "share", "headroom", "most_clipped")
        if not is_number(self.share) or not 0 <= self.share < 1:
            raise ParameterError(f"share is {self.share!r}; it must be in [0, 1)")
        room = self.headroom
        if not is_number(room) or not 1 <= room < 2**_MOST_ROOM or math.frexp(room)[0] != 0.5:
            raise ParameterError(f"headroom is {room!r}; it must be a power of two of at least 1")
        if not is_number(self.most_clipped) or not 0 < self.most_clipped < 1:
            raise ParameterError(f"most_clipped is {self.most_clipped!r}; it must be in (0, 1)")

    def length(self, segments: Mapping[str, slice]) -> int:
        """Counts of one site: values of the exact sum."""
        return _BINS * len(segments)

    def largest_count(self, segments: Mapping[str, slice]) -> int:
        """The largest count that one site can have, at least 1."""
        return max((part.stop - part.start for part in segments.values()), default=1)

    def counts(self, update: Vector, segments: Mapping[str, slice]) -> npt.NDArray[np.uint64]:
        """How many of a site's values lie in each power of two, by segment; zeros are not counted.

        Returns:
            uint64[segments * bins].
        """
        found = np.zeros((len(segments), _BINS), np.uint64)
        for row, part in zip(found, segments.values(), strict=True):
            for start in range(part.start, part.stop, _CHUNK):
                values = update[start : min(start + _CHUNK, part.stop)]
                exponents = np.frexp(values[values != 0])[1].clip(_LOWEST, _HIGHEST) - _LOWEST
                np.add(row, np.bincount(exponents, minlength=_BINS).astype(np.uint64), out=row)
        return found.reshape(-1)

    def scales(
        self, total: npt.NDArray[np.uint64], segments: Mapping[str, slice], *, sites: int
    ) -> npt.NDArray[np.float64]:
        """The scale of each segment, from the counts of so many sites together; 1 where nothing moved.

        Raises:
            ParameterError: these are not counts for these segments, or more than so many sites have values.
        """
        if total.shape != (self.length(segments),):
            raise ParameterError(f"{total.shape} counts for {len(segments)} segments of {_BINS} bins")
        counts = total.reshape(len(segments), _BINS).astype(np.float64)
        everything = counts.sum(axis=1)
        for (name, part), count in zip(segments.items(), everything.tolist(), strict=True):
            if count > sites * (part.stop - part.start):
                raise ParameterError(
                    f"{count:.0f} values were counted in {name!r}, where {sites} sites have "
                    f"{sites * (part.stop - part.start)}: somebody counted falsely"
                )
        above = everything[:, None] - counts.cumsum(axis=1)  # beyond the upper edge of each bin
        first = np.argmax(above <= self.share * everything[:, None], axis=1)
        return np.where(everything > 0, np.ldexp(self.headroom, first + _LOWEST), 1.0)

    def apply(
        self, update: Vector, scales: npt.NDArray[np.float64], segments: Mapping[str, slice]
    ) -> dict[str, int]:
        """Divides a site's update by the scales and cuts it to [-1, 1], in place.

        Returns:
            How many values of each segment lay above its scale, those with any: they were clipped.

        Raises:
            ScalesRefusedError: more of them than this site puts up with, or these are not scales of such a
                rule.
        """
        mantissas, exponents = np.frexp(scales)
        if (
            len(scales) != len(segments)
            or not (
                (mantissas == 0.5) & (exponents - 1 >= _LOWEST) & (exponents - 1 < _HIGHEST + _MOST_ROOM)
            ).all()
        ):
            raise ScalesRefusedError(
                f"a scale is not a power of two from 2**{_LOWEST} to below 2**{_HIGHEST + _MOST_ROOM}, or "
                "there are others than one for each segment; AutoClip makes no such scales"
            )
        clipped: dict[str, int] = {}
        for (name, part), scale in zip(segments.items(), scales.tolist(), strict=True):
            values = update[part]
            with np.errstate(over="ignore"):  # what becomes infinite is cut like all that is too large
                np.multiply(values, 1.0 / scale, out=values, casting="same_kind")
            if max(values.max(), -values.min()) > 1:
                clipped[name] = int(np.count_nonzero(np.abs(values) > 1))
                np.clip(values, -1, 1, out=values)
        if clipped:
            moved = {name: int(np.count_nonzero(update[part])) for name, part in segments.items()}
            self._refuse("the update", sum(clipped.values()), sum(moved.values()))
            for name, count in clipped.items():
                if segments[name].stop - segments[name].start >= _SMALL:
                    self._refuse(repr(name), count, moved[name])
        return clipped

    def drowned(self, update: Vector, segments: Mapping[str, slice], *, step: float) -> list[str]:
        """Segments that moved, and of which nothing is as large as a few of the grid's steps.

        A site asks this of its first update under scales that it sees for the first time: somebody may have
        counted falsely, or is far off, and then what this site learns is lost in the rounding.

        Args:
            update: divided by the scales.
            step: of the protocol's grid.

        Raises:
            ScalesRefusedError: that is all that moved.
        """
        moved = {name: max(update[part].max(), -update[part].min()) for name, part in segments.items()}
        moved = {name: largest for name, largest in moved.items() if largest > 0}
        found = [name for name, largest in moved.items() if largest < _FEW_STEPS * step]
        if found and len(found) == len(moved):
            raise ScalesRefusedError(
                "nothing in this site's update is as large as a few steps of the grid under the scales that "
                "the training fixed: another site's first update was far larger, or was counted falsely. "
                "Look at the sites' data and learning rate, and begin anew"
            )
        return found

    def _refuse(self, what: str, count: int, size: int) -> None:
        if count > self.most_clipped * size:
            raise ScalesRefusedError(
                f"{count} of {size} values of {what} that moved lie above the scale that the training fixed, "
                f"more than {self.most_clipped:.0%}: under it the sum would tell signs and weights. If the "
                "updates have outgrown it honestly, begin anew with more headroom, AutoClip(headroom=…), or "
                "a lower learning rate"
            )
