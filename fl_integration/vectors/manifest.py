"""What a model's vector holds: every entry's name, shape and dtype, and which entries are not in it.

Parties whose manifests have equal digests lay out the same vector, entry by entry. A manifest is made once,
from the reference that all begin from (`vectorise.manifest_of`), and what it decides is never decided anew:

* Integers and booleans are kept: they have no meaningful mean.
* A `constant` is kept too: a floating entry that held infinities or NaN in the reference, such as a causal
  mask. A training that diverges later does not turn a weight into one.
* A `tied` entry shares its memory with an earlier one (tied weights) and travels under that name alone.

Nothing about the *values* is bound by it.

>>> weight = Entry(name="embed.weight", shape=(8, 2), dtype="float32")
>>> head = Entry(name="head.weight", shape=(8, 2), dtype="float32", tied="embed.weight")
>>> mask = Entry(name="mask", shape=(4, 4), dtype="float32", constant=True)
>>> manifest = Manifest(entries=(weight, head, mask))
>>> manifest.length, manifest.slices()
(16, {'embed.weight': slice(0, 16, None)})
>>> print(head)
'head.weight' float32[8, 2], tied to 'embed.weight'
"""

import hashlib
import math
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from secagg import labels
from secagg.errors import ParameterError
from secagg.wire import Writer

__all__ = ["SUMMED", "Entry", "Manifest"]

SUMMED: Final = frozenset({"float16", "bfloat16", "float32", "float64"})
"""Dtypes that have a mean."""

_KEPT: Final = frozenset({"bool", *(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64))})


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One named tensor.

    Args:
        name: its key in the state.
        shape: its dimensions, each at least 0.
        dtype: its type's common name, such as "float32" or "int64".
        constant: a floating entry that is kept, because the reference's values were not all finite.
        tied: the name of the earlier entry whose memory this one is; empty for one with memory of its own.

    Raises:
        ParameterError: the dtype is one that is neither summed nor kept (complex, float8, objects …); or an
            entry that is not in the vector is said to be constant or tied.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    constant: bool = False
    tied: str = ""

    def __post_init__(self) -> None:
        if type(self.name) is not str:
            raise ParameterError(f"an entry's name is a {type(self.name).__name__}; it must be a str")
        if any(type(size) is not int or size < 0 for size in self.shape):
            raise ParameterError(
                f"entry {self.name!r} has shape {self.shape}; sizes must be ints of at least 0"
            )
        if self.dtype not in SUMMED | _KEPT:
            raise ParameterError(
                f"entry {self.name!r} is {self.dtype}; float16, bfloat16, float32 and float64 can be summed, "
                "integers and bool are kept: convert it or leave it out"
            )
        if type(self.constant) is not bool or type(self.tied) is not str:
            raise ParameterError(
                f"entry {self.name!r} has constant {self.constant!r} and tied {self.tied!r}; "
                "they must be a bool and a str"
            )
        if (self.constant and self.dtype in _KEPT) or (self.tied and not self.summed):
            raise ParameterError(
                f"entry {self.name!r} is {self.dtype} and constant {self.constant}, tied {self.tied!r}; "
                "only a floating entry can be constant, and only one that is summed can be tied"
            )

    @property
    def summed(self) -> bool:
        """Whether the vector says its values, under its own name or another; if not, the receiver's stay."""
        return self.dtype in SUMMED and not self.constant

    @property
    def length(self) -> int:
        """Values that it takes in the vector: 0 when it is kept or tied."""
        return math.prod(self.shape) if self.summed and not self.tied else 0

    def __str__(self) -> str:
        kind = ", constant" if self.constant else f", tied to {self.tied!r}" if self.tied else ""
        return f"{self.name!r} {self.dtype}{list(self.shape)}{kind}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """What a vector holds: the entries of the state it came from, in order.

    Raises:
        ParameterError: two entries have one name; or one is tied to a name that no earlier entry has, or to
            an entry of another shape or dtype, or to one that has no values in the vector itself.
    """

    entries: tuple[Entry, ...]

    def __post_init__(self) -> None:
        seen: dict[str, Entry] = {}
        for entry in self.entries:
            if entry.name in seen:
                raise ParameterError(f"two entries have the name {entry.name!r}; names must differ")
            first = seen.get(entry.tied)
            if entry.tied and (
                first is None
                or first.tied
                or not first.summed
                or (first.shape, first.dtype) != (entry.shape, entry.dtype)
            ):
                raise ParameterError(
                    f"entry {entry}: that must be an earlier summed entry of the same shape and dtype, "
                    f"and is {'not there' if first is None else first}"
                )
            seen[entry.name] = entry

    @property
    def length(self) -> int:
        """The vector's length."""
        return sum(entry.length for entry in self.entries)

    @property
    def dtype(self) -> np.dtype[Any]:
        """The vector's dtype: float64 when some summed entry is float64, else float32."""
        wide = any(entry.dtype == "float64" and entry.summed for entry in self.entries)
        return np.dtype(np.float64 if wide else np.float32)

    @property
    def digest(self) -> bytes:
        """SHA-256 (32 bytes) of the canonical encoding.

        It is the label and the number of entries; then each one's name, dtype, whether it is constant, what
        it is tied to, the number of its dimensions and their sizes.
        """
        writer = Writer().fixed(labels.MODEL_MANIFEST).uint(len(self.entries), 4)
        for entry in self.entries:
            writer.text(entry.name).text(entry.dtype).uint(entry.constant, 1).text(entry.tied)
            writer.uint(len(entry.shape), 1)
            for size in entry.shape:
                writer.uint(size, 8)
        return hashlib.sha256(writer.finish()).digest()

    def slices(self) -> dict[str, slice]:
        """Where each summed entry lies in the vector, by name, in order; tied entries only by their first."""
        found, at = {}, 0
        for entry in self.entries:
            if entry.summed and not entry.tied:
                found[entry.name] = slice(at, at + entry.length)
            at += entry.length
        return found

    def require_same(self, other: "Manifest") -> None:
        """Refuse a manifest of another model.

        Raises:
            ParameterError: names the first entry in which they differ.
        """
        for index, (mine, theirs) in enumerate(zip(self.entries, other.entries, strict=False)):
            if mine != theirs:
                raise ParameterError(
                    f"entry {index} is {mine} in one model and {theirs} in the other; "
                    "all parties must build the same model"
                )
        if len(self.entries) != len(other.entries):
            longer = max(self.entries, other.entries, key=len)
            extra = longer[min(len(self.entries), len(other.entries))]
            raise ParameterError(f"only one of the models has {extra}; all parties must build the same model")
