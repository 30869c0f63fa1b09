"""Fixed point: real vectors on a signed grid of integers, so that sums are exact and rings can carry them.

One step is clip / largest_step, with largest_step = 2**(bits-1) - 1, and a value v of at most the clip is v /
step steps. Under a weight w it becomes the integer round(w * v / step), at most w * largest_step: the product
is rounded, not multiplied after rounding, because sums of multiples of the weights tell the weights (ATTACKS
D3). So the *unit* of a party of weight w is 1/w of a step. The grid is symmetric and zero is a point of it.
What lies outside the clip is clipped and counted; NaN and infinity are refused. Arithmetic is in float64, the
sum is in integers, and the mean of many parties is `decode(sum of their integers, total_weight=sum of their
weights)`.

**Stochastic rounding** (the default; Gupta et al., ICML'15) goes up with a probability equal to the fraction
that remains, so its mean is the value and small updates survive many rounds. The product is rounded to a
multiple of 2**-F unit, F uniform bits are added, and the low F bits are dropped, in exact integers; F is what
49 bits leave beside w * largest_step, at most 32. Given the multiple the probability is exact; that first
rounding alone is biased, by at most 2**-(F+1) unit, beside the float64 round-off of the product (2**-52 of
the value). Where w * largest_step takes all 49 bits or more, F is 0, because float64 has hardly a fraction
there, and rounding is to the nearest integer. Up to 49 bits every point of the grid becomes exactly w times
its number; zero and the clip are exact always. The random bits are the AES-256-CTR keystream of a fresh key:
who foresees the rounding sees finer than a unit.

Rounding to the nearest integer has half the error at worst, always the same one, and needs no randomness.

The codec bounds values, not influence: a client that lies within its clip is not detected, and neither is a
lying weight. Nor does rounding hide the weight of a party whose values are known, as clipped ones are, or lie
on a grid coarser than the codec's own. Sums that could wrap are excluded beforehand, by `sum_ring`.

>>> from secagg.entropy import system_entropy
>>> codec = FixedPoint(bits=8, clip=1.0, rounding=Rounding.NEAREST)
>>> steps = np.zeros(4, dtype=np.uint32)
>>> codec.encode(np.array([0.0, 0.5, -1.0, 7.0]), weight=2, out=steps, entropy=system_entropy)
1
>>> total = steps.view(np.int32).astype(np.int64)
>>> total.tolist()
[0, 127, -254, 254]
>>> codec.decode(total, total_weight=2).round(3).tolist()
[0.0, 0.5, -1.0, 1.0]
>>> codec.sum_ring(max_total_weight=300)
Ring(bits=17)
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt
from cryptography.hazmat.primitives.ciphers import Cipher, CipherContext, algorithms, modes

from secagg.entropy import Entropy, draw
from secagg.errors import ParameterError
from secagg.numbers import is_number, plain, plain_fields
from secagg.vectors.ring import Ring, Words

__all__ = ["Encoder", "FixedPoint", "Floats", "Rounding", "Segment", "suggest_clip"]

Floats: TypeAlias = npt.NDArray[np.float32] | npt.NDArray[np.float64]
"""A vector of values: float32 or float64."""

_MIN_BITS: Final = 2
_MAX_BITS: Final = 32
_FRACTION_BITS: Final = 32
_PRODUCT_BITS: Final = 49
"""Of a product with its fraction: four roundings in float64 put it off by less than a quarter."""
_MIN_CLIP: Final = 1e-100
_MAX_CLIP: Final = 1e100
_CHUNK: Final = 1 << 14
_KEY_BYTES: Final = 32
_SHIFT: Final = 1.5 * 2.0**52
_SHIFT_BITS: Final = int(np.float64(_SHIFT).view(np.int64))  # its low 51 bits are zero
_SHIFTED_LIMIT: Final = 2.0**50


class Rounding(Enum):
    """How a value between two points of the grid becomes one of them."""

    STOCHASTIC = "stochastic"
    """Up or down by chance, so that the mean is the value. The error is less than one unit."""
    NEAREST = "nearest"
    """To the nearest integer, ties to the even one. The error is at most half a unit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """`length` neighbouring values of a vector that share a clip.

    Raises:
        ParameterError: length is not an integer of at least 1, or clip is not a number in [1e-100, 1e100].
    """

    length: int
    clip: float

    def __post_init__(self) -> None:
        plain_fields(self, "length")
        if type(self.length) is not int or self.length < 1:
            raise ParameterError(
                f"a segment of {self.length!r} values; its length is an integer of at least 1"
            )
        object.__setattr__(self, "clip", _checked_clip(self.clip))


@dataclass(frozen=True, slots=True, kw_only=True)
class FixedPoint:
    """The codec between float vectors and integer steps.

    Args:
        bits: width of one encoded value, 2 <= bits <= 32; the grid has 2**bits - 1 points.
        clip: the largest magnitude that is represented, for the whole vector or segment by segment.
        rounding: how to reach the grid.

    Raises:
        ParameterError: an argument is anything else.
    """

    bits: int = 16
    clip: float | tuple[Segment, ...] = 1.0
    rounding: Rounding = Rounding.STOCHASTIC

    def __post_init__(self) -> None:
        plain_fields(self, "bits")
        if type(self.bits) is not int or not _MIN_BITS <= self.bits <= _MAX_BITS:
            raise ParameterError(
                f"{self.bits!r} bits a value; choose an integer from {_MIN_BITS} to {_MAX_BITS}"
            )
        if not isinstance(self.rounding, Rounding):
            raise ParameterError("rounding is Rounding.STOCHASTIC or Rounding.NEAREST")
        if not isinstance(self.clip, tuple):
            object.__setattr__(self, "clip", _checked_clip(self.clip))
        elif not self.clip or not all(isinstance(segment, Segment) for segment in self.clip):
            raise ParameterError("clip is one number or a tuple of at least one Segment")

    @property
    def largest_step(self) -> int:
        """The largest magnitude of an encoded value: 2**(bits-1) - 1."""
        return (1 << (self.bits - 1)) - 1

    def check_length(self, length: int) -> None:
        """Refuses a length that this codec cannot encode.

        Raises:
            ParameterError: length is not an integer of at least 1, or not the sum of the segments' lengths.
        """
        length = plain(length)
        if type(length) is not int or length < 1:
            raise ParameterError(f"a vector of {length!r} values; its length is an integer of at least 1")
        if isinstance(self.clip, tuple):
            allowed = sum(segment.length for segment in self.clip)
            if length != allowed:
                raise ParameterError(
                    f"a vector of {length} values, but the clip's segments hold {allowed}; make them agree"
                )

    def part(self, start: int, stop: int) -> "FixedPoint":
        """The codec of the values [start, stop) of a vector, for those who encode or decode it in parts.

        Raises:
            ParameterError: not 0 <= start < stop, or stop lies behind the last segment.
        """
        start, stop = plain(start), plain(stop)
        if type(start) is not int or type(stop) is not int or not 0 <= start < stop:
            raise ParameterError("a part [start, stop) needs integers with 0 <= start < stop")
        if not isinstance(self.clip, tuple):
            return self
        if stop > sum(segment.length for segment in self.clip):
            raise ParameterError("a part ends behind the last segment of the clip")
        segments = []
        end = 0
        for segment in self.clip:
            begin, end = end, end + segment.length
            length = min(end, stop) - max(begin, start)
            if length > 0:
                segments.append(Segment(length=length, clip=segment.clip))
        return FixedPoint(bits=self.bits, clip=tuple(segments), rounding=self.rounding)

    def encode(self, values: Floats, *, weight: int = 1, out: Words, entropy: Entropy) -> int:
        """Writes round(weight * value / step) into `out`, in two's complement of its machine word.

        Args:
            values: shape (length,) of float32 or float64, contiguous or not.
            weight: at least 1, an `int`; weight * largest_step must fit the signed machine word of `out`.
            out: shape (length,) of uint32 or uint64, writeable. After an error its content is undefined.
            entropy: gives the 32-byte key of the rounding; not called where no fraction is left to chance,
                as by `Rounding.NEAREST`.

        Returns:
            How many values were clipped: |v| > clip, compared in float64.

        Raises:
            ParameterError: NaN or infinity (the text names the index of the first in `values`, and no
                value), or an argument is anything else.
        """
        self._check_encode(values, weight, out)
        return self._encode(values, out, _Rounder(self, weight, entropy, min(len(values), _CHUNK)))

    def _encode(self, values: Floats, out: Words, rounder: "_Rounder") -> int:
        values = values.view(np.ndarray)  # A masked array would hide its NaN from min and max.
        clipped = 0
        for start, stop, clip in self._runs(len(values)):
            for first in range(start, stop, _CHUNK):
                chunk = values[first : min(first + _CHUNK, stop)]
                largest = _largest_magnitude(chunk, first)
                clipped += rounder.encode(chunk, largest, clip, out[first : first + len(chunk)])
        return clipped

    def decode(self, total: npt.NDArray[np.int64], *, total_weight: int) -> npt.NDArray[np.float64]:
        """The weighted mean of which `total` is the sum: total * step / total_weight.

        Totals beyond total_weight * largest_step are decoded as they are: noise may have carried them there.
        Any int64 total will do. Four roundings of float64 put the mean off by at most 2**-50 of itself.

        Args:
            total: shape (length,) of int64, the centred sums of encoded values.
            total_weight: the sum of the weights, at least 1.

        Returns:
            shape (length,) of float64.

        Raises:
            ParameterError: an argument is anything else.
        """
        if not isinstance(total, np.ndarray) or total.ndim != 1 or total.dtype != np.int64:
            raise ParameterError("a total is a one-dimensional array of int64; see Ring.centred")
        self.check_length(len(total))
        _check_weight(total_weight, "total_weight")
        # Division first: a total of total_weight * largest_step decodes to the clip itself.
        scale = float(total_weight * self.largest_step)
        mean = np.empty(len(total), dtype=np.float64)
        for start, stop, clip in self._runs(len(total)):
            for first in range(start, stop, _CHUNK):
                last = min(first + _CHUNK, stop)
                part = mean[first:last]
                np.divide(total[first:last], scale, out=part)
                np.multiply(part, clip, out=part)
        return mean

    def error_bound(self, *, summands: int = 1, total_weight: int | None = None) -> float:
        """The largest absolute error of one decoded value against the exact weighted mean of clipped inputs.

        A summand is off by its unit, a step over its weight (half of it to nearest), and a mean takes it by
        its weight: each adds step / total_weight, whatever the weights. Step and clip are those of the widest
        segment. float64 adds less than 2**-50 of the clip: there are two roundings in an encoded value, of
        the scale and of the product, and four in a mean, of the sum, the divisor, the quotient and the
        product with the clip. Each is off by at most 2**-53 of a number that stands for the clip at most.

        Args:
            summands: how many vectors are added.
            total_weight: the sum of their weights. None: `summands`, for the bound that holds whatever it is.

        Returns:
            The bound, in the unit of the values.

        Raises:
            ParameterError: summands is not an integer of at least 1, or total_weight not one of at least
                `summands`.
        """
        summands, total_weight = plain(summands), plain(total_weight)
        _check_weight(summands, "summands")
        weight = summands if total_weight is None else total_weight
        if type(weight) is not int or weight < summands:
            raise ParameterError(
                f"total_weight is {total_weight!r}; it is an integer of at least {summands}, as each of the "
                "summands weighs 1 or more"
            )
        clip = max(clip for _, clip in self._lengths_and_clips(1))
        units = 1.0 if self.rounding is Rounding.STOCHASTIC else 0.5
        return clip * (units / self.largest_step * (summands / weight) + 2.0**-50)

    def sum_bits(self, *, max_total_weight: int) -> int:
        """Bits that hold each of the 2 * max_total_weight * largest_step + 1 possible sums.

        Raises:
            ParameterError: max_total_weight is not an integer in [1, 2**63).
        """
        _check_weight(max_total_weight, "max_total_weight")
        return (2 * max_total_weight * self.largest_step).bit_length()

    def sum_ring(self, *, max_total_weight: int) -> Ring:
        """The smallest ring in which a sum does not wrap. Decoding is precise for all of it.

        Raises:
            ParameterError: no ring of 64 bits is wide enough; the text says what to lower.
        """
        bits = self.sum_bits(max_total_weight=max_total_weight)
        if bits > 64:
            raise ParameterError(
                f"sums of {self.bits}-bit values with a total weight of {max_total_weight} take {bits} "
                "bits, 64 are possible; lower max_total_weight (max_clients, max_weight) or bits"
            )
        return Ring(bits=bits)

    def _check_encode(self, values: Floats, weight: int, out: Words) -> None:
        if not _is_float_vector(values):
            raise ParameterError("values are a one-dimensional array of float32 or float64; convert them")
        self.check_length(len(values))
        if (
            not isinstance(out, np.ndarray)
            or out.shape != values.shape
            or out.dtype not in (np.uint32, np.uint64)
            or not out.flags.writeable
        ):
            raise ParameterError(
                f"out is a writeable array of uint32 or uint64 of shape ({len(values)},), as the values are"
            )
        _check_weight(weight, "weight")
        word = 8 * out.dtype.itemsize
        if weight * self.largest_step >= 1 << (word - 1):
            raise ParameterError(
                f"the weight times values of {self.bits} bits overflows a word of {word} bits; "
                "lower the weight or bits, or take an array of sum_ring(...).dtype"
            )

    def _lengths_and_clips(self, length: int) -> Iterator[tuple[int, float]]:
        if isinstance(self.clip, tuple):
            yield from ((segment.length, segment.clip) for segment in self.clip)
        else:
            yield length, self.clip

    def _runs(self, length: int) -> Iterator[tuple[int, int, float]]:
        """(start, stop, clip) of the half-open runs of equal clip; neighbours are joined."""
        start = stop = 0
        current = 0.0
        for size, clip in self._lengths_and_clips(length):
            if clip != current:
                if stop > start:
                    yield start, stop, current
                start, current = stop, clip
            stop += size
        yield start, stop, current


class Encoder:
    """`FixedPoint.encode` part by part, in any order, through buffers that are kept from part to part.

    Args:
        codec: the codec of the whole vector.
        weight, entropy: as for `FixedPoint.encode`; one rounding key serves all parts.

    Raises:
        ParameterError: weight is not an integer in [1, 2**63), or the entropy source fails.
    """

    __slots__ = ("_codec", "_rounder", "_weight")

    def __init__(self, codec: FixedPoint, *, weight: int, entropy: Entropy) -> None:
        _check_weight(weight, "weight")
        self._codec = codec
        self._weight = weight
        self._rounder = _Rounder(codec, weight, entropy, _CHUNK)

    def encode(self, values: Floats, *, start: int, out: Words) -> int:
        """Encodes values [start, start + len(values)) of the vector; how many were clipped.

        Raises:
            ParameterError: as `FixedPoint.encode`; the index of a NaN counts from `start`.
        """
        part = self._codec.part(start, start + len(values))
        part._check_encode(values, self._weight, out)
        return part._encode(values, out, self._rounder)


class _Rounder:
    """Encodes chunks of up to `capacity` values in buffers that it keeps."""

    __slots__ = ("_fraction_bits", "_integers", "_keystream", "_limit", "_random", "_scaled", "_zeros")

    def __init__(self, codec: FixedPoint, weight: int, entropy: Entropy, capacity: int) -> None:
        self._limit = weight * codec.largest_step
        room = _PRODUCT_BITS - self._limit.bit_length()
        stochastic = codec.rounding is Rounding.STOCHASTIC
        self._fraction_bits = max(0, min(_FRACTION_BITS, room)) if stochastic else 0
        self._scaled = np.empty(capacity, dtype=np.float64)
        self._integers = np.empty(capacity, dtype=np.int64)
        self._random = np.empty(capacity, dtype="<u4")
        self._zeros = memoryview(bytes(self._random.nbytes))
        self._keystream: CipherContext | None = None
        if self._fraction_bits:
            key = draw(entropy, _KEY_BYTES)
            self._keystream = Cipher(algorithms.AES256(key), modes.CTR(bytes(16))).encryptor()

    def encode(self, values: Floats, largest: float, clip: float, out: Words) -> int:
        """One chunk of `FixedPoint.encode`; `largest` is the largest magnitude in it."""
        scaled = self._scaled[: len(values)]
        np.copyto(scaled, values)
        clipped = 0
        if largest > clip:
            clipped = int(np.count_nonzero(np.abs(scaled) > clip))
            np.clip(scaled, -clip, clip, out=scaled)
        limit = float(self._limit << self._fraction_bits)
        if limit < _SHIFTED_LIMIT:
            integers = self._shifted(scaled, min(largest, clip), limit, limit / clip)
        else:
            integers = self._wide(scaled, clip, limit)
        np.copyto(out, integers, casting="unsafe")
        return clipped

    def _shifted(
        self, scaled: npt.NDArray[np.float64], largest: float, limit: float, scale: float
    ) -> npt.NDArray[np.int64]:
        """Clipped values as integers, in the values' memory: where float64 has all of them."""
        np.multiply(scaled, scale, out=scaled)
        # clip * (limit / clip) may round to just above the limit; float64 multiplication is monotone, so
        # one product speaks for the chunk.
        if largest * scale > limit:
            np.clip(scaled, -limit, limit, out=scaled)
        # Added to 1.5 * 2**52 a float64 is rounded to an integer, and its low bits are that integer.
        np.add(scaled, _SHIFT, out=scaled)
        integers = scaled.view(np.int64)
        if self._keystream is not None:
            random = self._random[: len(scaled)]
            self._keystream.update_into(self._zeros[: random.nbytes], random.data.cast("B"))
            if self._fraction_bits < _FRACTION_BITS:
                np.bitwise_and(random, (1 << self._fraction_bits) - 1, out=random)
            # At most limit + 2**F - 1, which falls to weight * largest_step: rounding never leaves the grid.
            np.add(integers, random, out=integers)
            np.right_shift(integers, self._fraction_bits, out=integers)
        np.subtract(integers, _SHIFT_BITS >> self._fraction_bits, out=integers)
        return integers

    def _wide(self, scaled: npt.NDArray[np.float64], clip: float, limit: float) -> npt.NDArray[np.int64]:
        """Clipped values as integers so large that float64 may lack the largest, which is then set as one."""
        integers = self._integers[: len(scaled)]
        top, bottom = scaled == clip, scaled == -clip
        np.multiply(scaled, limit / clip, out=scaled)
        np.rint(scaled, out=scaled)
        below = limit if int(limit) <= self._limit else math.nextafter(limit, 0.0)
        np.clip(scaled, -below, below, out=scaled)
        np.copyto(integers, scaled, casting="unsafe")
        integers[top], integers[bottom] = self._limit, -self._limit
        return integers


def _largest_magnitude(values: Floats, offset: int) -> float:
    """max |v|; refuses NaN and infinity. `offset` is the index of the first value in its vector."""
    lowest, highest = float(values.min()), float(values.max())
    if not (math.isfinite(lowest) and math.isfinite(highest)):
        first = offset + int(np.argmin(np.isfinite(values)))
        raise ParameterError(
            f"the value at index {first} is NaN or infinite; repair the update before encoding"
        )
    return max(highest, -lowest)


def suggest_clip(sample: Floats, *, clipped_fraction: float = 1e-4) -> float:
    """The smallest clip that at most `clipped_fraction` of a sample exceeds.

    Take the sample from public or past updates of your own: a clip computed from data and sent to others
    tells them its largest magnitudes.

    Args:
        sample: shape (count,) of float32 or float64, not empty.
        clipped_fraction: in [0, 1).

    Raises:
        ParameterError: the sample is empty, not finite, or so full of zeros that the clip would be zero;
            or an argument is anything else.
    """
    if not _is_float_vector(sample):
        raise ParameterError("a sample is a one-dimensional array of float32 or float64")
    clipped_fraction = plain(clipped_fraction)
    if not is_number(clipped_fraction) or not 0 <= clipped_fraction < 1:
        raise ParameterError("clipped_fraction is a number in [0, 1)")
    if not len(sample):
        raise ParameterError("the sample is empty; pass at least one value")
    sample = sample.view(np.ndarray)
    finite = np.isfinite(sample)
    if not finite.all():
        raise ParameterError(f"the value at index {int(np.argmin(finite))} of the sample is NaN or infinite")
    rank = len(sample) - 1 - int(len(sample) * clipped_fraction)
    clip = float(np.partition(np.abs(sample), rank)[rank])
    if clip == 0.0:
        raise ParameterError(
            "nearly all values of the sample are zero, and so would be the clip; "
            "lower clipped_fraction, or pass a sample of values that change"
        )
    return clip


def _is_float_vector(values: object) -> bool:
    return isinstance(values, np.ndarray) and values.ndim == 1 and values.dtype in (np.float32, np.float64)


def _checked_clip(clip: float) -> float:
    clip = plain(clip)
    if not is_number(clip) or not _MIN_CLIP <= clip <= _MAX_CLIP:  # NaN compares as False
        raise ParameterError(f"a clip is a number from {_MIN_CLIP:g} to {_MAX_CLIP:g}; choose one above zero")
    return float(clip)


def _check_weight(weight: int, name: str) -> None:
    if type(weight) is not int or not 1 <= weight < 1 << 63:
        raise ParameterError(f"{name} is an integer in [1, 2**63); convert example counts with int()")
