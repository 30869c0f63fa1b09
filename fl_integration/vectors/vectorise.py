"""A model's state <-> one flat vector, and the manifest that says what lies where.

A secure sum knows vectors, a framework knows named tensors. `flatten` turns a torch `state_dict`, a mapping
of names to arrays or a list of arrays into one vector of all floating entries in their order, together with
a `Manifest` of every entry's name, shape and dtype. `unflatten` turns it back.

The vector is float32 when no entry is wider (float16 and bfloat16 widen without loss), else float64.
Integer and boolean entries, such as BatchNorm's `num_batches_tracked`, have no meaningful mean: they are
described in the manifest but not in the vector, are never sent, and each receiver keeps its own from its
reference state. BatchNorm's running mean and variance are floating: they are averaged like parameters.

Clients send deltas by default: `delta(new, reference)` is small and fits a small clip, and `apply_delta`
adds the mean delta to the same reference, in float64 and rounded once, so that all parties that hold equal
references end with equal models.

Two manifests with equal digests describe the same model, entry by entry. Nothing about the *values* is
bound by it, and tensors that share storage (tied weights) are carried once for each name.

>>> state = {"w": np.array([[1.0, 2.0]], np.float32), "steps": np.array(7)}
>>> vector, manifest = flatten(state)
>>> vector
array([1., 2.], dtype=float32)
>>> apply_delta(state, np.array([0.5, -1.0]))
{'w': array([[1.5, 1. ]], dtype=float32), 'steps': array(7)}

BatchNorm's running variance does not fit the clip of a weight's delta; it gets one of its own:

>>> norm = {"1.weight": np.ones(4), "1.running_mean": np.zeros(4), "1.running_var": np.ones(4)}
>>> segments(flatten(norm)[1], clip=0.5, overrides={"*.running_var": 10.0})
(Segment(length=8, clip=0.5), Segment(length=4, clip=10.0))
"""

import hashlib
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from itertools import groupby
from typing import TYPE_CHECKING, Any, Final, TypeAlias, TypeGuard, overload

import numpy as np
import numpy.typing as npt

from secagg import labels
from secagg.errors import ParameterError
from secagg.vectors.fixedpoint import Segment
from secagg.wire import Writer

if TYPE_CHECKING:
    import torch

__all__ = [
    "Array",
    "Entry",
    "Manifest",
    "State",
    "Vector",
    "apply_delta",
    "delta",
    "flatten",
    "manifest_of",
    "segments",
    "unflatten",
]

Array: TypeAlias = "npt.NDArray[Any] | torch.Tensor"
"""One entry of a state."""

State: TypeAlias = Mapping[str, Array] | Sequence[Array]
"""A `state_dict`, a mapping of names to arrays, or a list of arrays (named by position, "0", "1", …)."""

Vector: TypeAlias = npt.NDArray[np.float32] | npt.NDArray[np.float64]
"""A one-dimensional float vector."""

_SUMMED: Final = frozenset({"float16", "bfloat16", "float32", "float64"})
_KEPT: Final = frozenset({"bool", *(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64))})


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One named tensor.

    Args:
        name: its key in the state.
        shape: its dimensions, each at least 0.
        dtype: its type's common name, such as "float32" or "int64".

    Raises:
        ParameterError: the dtype is one that is neither summed nor kept (complex, float8, objects …).
    """

    name: str
    shape: tuple[int, ...]
    dtype: str

    def __post_init__(self) -> None:
        if type(self.name) is not str:
            raise ParameterError(f"an entry's name is a {type(self.name).__name__}; it must be a str")
        if any(type(size) is not int or size < 0 for size in self.shape):
            raise ParameterError(
                f"entry {self.name!r} has shape {self.shape}; sizes must be ints of at least 0"
            )
        if self.dtype not in _SUMMED | _KEPT:
            raise ParameterError(
                f"entry {self.name!r} is {self.dtype}; float16, bfloat16, float32 and float64 can be summed, "
                "integers and bool are kept: convert it or leave it out"
            )

    @property
    def summed(self) -> bool:
        """Whether the entry is in the vector; one that is not stays as the receiver has it."""
        return self.dtype in _SUMMED

    @property
    def length(self) -> int:
        """Values that it takes in the vector: 0 when it is kept."""
        return math.prod(self.shape) if self.summed else 0

    def __str__(self) -> str:
        return f"{self.name!r} {self.dtype}{list(self.shape)}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """What a vector holds: the entries of the state it came from, in order."""

    entries: tuple[Entry, ...]

    @property
    def length(self) -> int:
        """The vector's length."""
        return sum(entry.length for entry in self.entries)

    @property
    def dtype(self) -> np.dtype[Any]:
        """The vector's dtype: float64 when some entry is float64, else float32."""
        return np.dtype(np.float64 if any(e.dtype == "float64" for e in self.entries) else np.float32)

    @property
    def digest(self) -> bytes:
        """SHA-256 (32 bytes) of the canonical encoding: label, count, then name, dtype and sizes of each."""
        writer = Writer().fixed(labels.MODEL_MANIFEST).uint(len(self.entries), 4)
        for entry in self.entries:
            writer.text(entry.name).text(entry.dtype).uint(len(entry.shape), 1)
            for size in entry.shape:
                writer.uint(size, 8)
        return hashlib.sha256(writer.finish()).digest()

    def slices(self) -> dict[str, slice]:
        """Where each summed entry lies in the vector, by name."""
        found, at = {}, 0
        for entry in self.entries:
            if entry.summed:
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


def manifest_of(state: State) -> Manifest:
    """The manifest alone, without copying any value.

    Raises:
        ParameterError: as `flatten`.
    """
    manifest = Manifest(
        entries=tuple(
            Entry(name=name, dtype=_dtype_name(name, value), shape=tuple(value.shape))
            for name, value in _items(state)
        )
    )
    if not manifest.length:
        raise ParameterError("the state has no floating values; there is nothing to sum")
    return manifest


def flatten(state: State) -> tuple[Vector, Manifest]:
    """All floating entries, in order, as one fresh vector [d] of `manifest.dtype`.

    Raises:
        ParameterError: the state is not a mapping of str or a list, an entry is not a dense array or of a
            dtype that cannot be carried, or there is no floating value at all.
    """
    manifest = manifest_of(state)
    vector, where = np.empty(manifest.length, manifest.dtype), manifest.slices()
    for name, value in _items(state):
        if name in where:
            vector[where[name]] = _to_numpy(value).reshape(-1)
    return vector, manifest


@overload
def unflatten(vector: Vector, manifest: Manifest, *, like: Mapping[str, Array]) -> dict[str, Array]: ...
@overload
def unflatten(vector: Vector, manifest: Manifest, *, like: Sequence[Array]) -> list[Array]: ...
def unflatten(vector: Vector, manifest: Manifest, *, like: State) -> dict[str, Array] | list[Array]:
    """The state that a vector stands for: a dict for a mapping, a list for a list. Nothing is shared.

    Args:
        vector: float32[d] or float64[d], d = `manifest.length`; each value is rounded to its entry's dtype.
        manifest: what came with the vector.
        like: the receiver's reference state. It gives the kind (torch or numpy), the device and the values
            of integer and boolean entries; its floating values are not read.

    Raises:
        ParameterError: the vector does not fit the manifest, or the manifest does not fit `like`.
    """
    _check(vector, manifest)
    manifest.require_same(manifest_of(like))
    where = manifest.slices()
    built = {
        name: _like(vector[where[name]].reshape(tuple(value.shape)), value) if name in where else _copy(value)
        for name, value in _items(like)
    }
    return built if isinstance(like, Mapping) else list(built.values())


def delta(new: State, old: State) -> Vector:
    """`new - old` over all floating entries: what a client sends after training from the reference `old`.

    Returns:
        float32[d] or float64[d], laid out as `flatten(old)`.

    Raises:
        ParameterError: the two are not states of one model; the text names the first differing entry.
    """
    manifest = manifest_of(old)
    manifest.require_same(manifest_of(new))
    vector, where = flatten(new)[0], manifest.slices()
    for name, value in _items(old):
        if name in where:
            vector[where[name]] -= _to_numpy(value).reshape(-1)
    return vector


@overload
def apply_delta(state: Mapping[str, Array], mean_delta: Vector) -> dict[str, Array]: ...
@overload
def apply_delta(state: Sequence[Array], mean_delta: Vector) -> list[Array]: ...
def apply_delta(state: State, mean_delta: Vector) -> dict[str, Array] | list[Array]:
    """The reference state moved by a mean delta; `state` itself is left alone.

    Integer and boolean entries stay as `state` has them. The sum is taken in float64 and rounded once.

    Raises:
        ParameterError: `mean_delta` is not a float vector of the state's length.
    """
    start, manifest = flatten(state)
    _check(mean_delta, manifest)
    return unflatten(np.add(start, mean_delta, dtype=np.float64), manifest, like=state)


def segments(
    manifest: Manifest, *, clip: float, overrides: Mapping[str, float] | None = None
) -> tuple[Segment, ...]:
    """The vector cut into runs of equal clip, in order; their lengths add up to `manifest.length`.

    Args:
        manifest: of the model.
        clip: the largest magnitude that a value may have where no override applies.
        overrides: glob pattern (case-sensitive, `fnmatch`'s rules) -> clip. The first pattern that fits an
            entry's name counts.

    Raises:
        ParameterError: a clip is not a finite number above 0, or a pattern fits no summed entry.
    """
    overrides = {} if overrides is None else overrides
    names = manifest.slices()
    for pattern, value in {"clip": clip, **overrides}.items():
        if not isinstance(value, float | int) or not 0 < value < math.inf:
            raise ParameterError(f"the clip for {pattern!r} is {value!r}; it must be finite and above 0")
    for pattern in overrides:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise ParameterError(
                f"no summed entry's name fits the pattern {pattern!r}; see manifest.slices()"
            )

    def clip_of(entry: Entry) -> float:
        return next((c for pattern, c in overrides.items() if fnmatchcase(entry.name, pattern)), clip)

    runs = groupby((entry for entry in manifest.entries if entry.length), key=clip_of)
    return tuple(Segment(length=sum(e.length for e in run), clip=value) for value, run in runs)


def _items(state: State) -> list[tuple[str, Array]]:
    if isinstance(state, Mapping):
        return list(state.items())
    if isinstance(state, list | tuple):
        return [(str(index), value) for index, value in enumerate(state)]
    raise ParameterError(
        f"a state is a mapping of names to arrays or a list of arrays, not a {type(state).__name__}"
    )


def _is_tensor(value: object) -> TypeGuard["torch.Tensor"]:
    """Whether it is a torch tensor, without importing torch: nothing is one before somebody imported it."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.Tensor)


def _dtype_name(name: str, value: object) -> str:
    if isinstance(value, np.ndarray):
        return str(value.dtype.name)
    if not _is_tensor(value):
        raise ParameterError(f"entry {name!r} is a {type(value).__name__}; it must be an array or a tensor")
    if str(value.layout) != "torch.strided" or value.is_meta or value.is_quantized:
        raise ParameterError(f"entry {name!r} is a sparse, quantized or meta tensor; make it dense first")
    return str(value.dtype).removeprefix("torch.")


def _to_numpy(value: Array) -> npt.NDArray[Any]:
    """The values on the CPU; bfloat16, which numpy lacks, as float32. May share memory with `value`."""
    if not _is_tensor(value):
        return np.asarray(value)
    plain = value.detach().cpu()
    found: npt.NDArray[Any] = (plain.float() if str(plain.dtype) == "torch.bfloat16" else plain).numpy()
    return found


def _like(values: Vector, like: Array) -> Array:
    """A fresh copy of `values` of the kind, dtype and device of `like`."""
    if _is_tensor(like):
        return like.new_tensor(values, requires_grad=False)
    return values.astype(np.asarray(like).dtype)


def _copy(value: Array) -> Array:
    return value.detach().clone() if _is_tensor(value) else np.array(value)


def _check(vector: Vector, manifest: Manifest) -> None:
    if not isinstance(vector, np.ndarray) or vector.dtype not in (np.float32, np.float64) or vector.ndim != 1:
        found = (
            f"{vector.dtype}{list(vector.shape)}" if isinstance(vector, np.ndarray) else type(vector).__name__
        )
        raise ParameterError(f"the vector is {found}; it must be a 1-D array of float32 or float64")
    if len(vector) != manifest.length:
        raise ParameterError(f"the vector has {len(vector)} values, the model {manifest.length}")
