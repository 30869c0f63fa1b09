"""A model's state <-> one flat vector, and the manifest that says what lies where.

A secure sum knows vectors, a framework knows named tensors. `flatten` turns a torch `state_dict`, a mapping
of names to arrays or a list of arrays into one vector of all floating entries in their order, together with
a `Manifest` of every entry's name, shape and dtype. `unflatten` turns it back.

The vector is float32 when no entry is wider (float16 and bfloat16 widen without loss), else float64.
Integer and boolean entries, such as BatchNorm's `num_batches_tracked`, have no meaningful mean, and neither
have constants that are not finite, such as a causal mask: they are described in the manifest but not in the
vector, are never sent, and each receiver keeps its own from its reference state. BatchNorm's running mean and
variance are floating: they are averaged like parameters. Tied weights travel once, and come back tied. With
`shared=` (see `sharing`) some entries stay home altogether: then the manifest does not know them.

Clients send deltas by default: `delta(new, reference)` is small and fits a small clip, and `apply_delta`
adds the mean delta to the same reference, in float64 and rounded once, so that all parties that hold equal
references end with equal models. A loop that keeps its reference as a vector needs no new state in each
round: `load` writes it into a model in place, and `changes` says what training did since.

Two manifests with equal digests describe the same model, entry by entry. Nothing about the *values* is
bound by it. Every function that is given a manifest looks its entries up by name, in its order, and does not
look at what else a state has.

>>> state = {"w": np.array([[1.0, 2.0]], np.float32), "steps": np.array(7)}
>>> vector, manifest = flatten(state)
>>> vector
array([1., 2.], dtype=float32)
>>> apply_delta(state, np.array([0.5, -1.0]))
{'w': array([[1.5, 1. ]], dtype=float32), 'steps': array(7)}
>>> load(np.array([4.0, 8.0]), manifest, state)
>>> state["w"] += 1
>>> changes(state, manifest, np.array([4.0, 8.0]))
array([1., 1.], dtype=float32)

BatchNorm's running variance does not fit the clip of a weight's delta; it gets one of its own:

>>> norm = {"1.weight": np.ones(4), "1.running_mean": np.zeros(4), "1.running_var": np.ones(4)}
>>> segments(flatten(norm)[1], clip=0.5, overrides={"*.running_var": 10.0})
(Segment(length=8, clip=0.5), Segment(length=4, clip=10.0))
"""

import math
from collections.abc import Callable, Mapping, Sequence
from fnmatch import fnmatchcase
from itertools import groupby
from typing import Any, overload

import numpy as np

from fl_integration.vectors.arrays import Array, Vector, copied, fresh, read, subtract, write
from fl_integration.vectors.manifest import Entry, Manifest
from fl_integration.vectors.memory import place_of, ties
from fl_integration.vectors.states import State, chosen, described, fitting, items, some
from secagg.errors import ParameterError
from secagg.vectors.fixedpoint import Segment

__all__ = [
    "apply_delta",
    "changes",
    "delta",
    "flatten",
    "load",
    "manifest_of",
    "segments",
    "snapshot",
    "unflatten",
]


def manifest_of(state: State, *, shared: Callable[[str], bool] | None = None) -> Manifest:
    """The manifest alone, without copying any value.

    Args:
        state: of the reference, whose values say which floating entries are constants.
        shared: which entries the parties share, by name; the others are not in the manifest and may be
            anything. None shares all. See `sharing`; a predicate with a method `check(names)` is first asked
            whether it fits the state.

    Raises:
        ParameterError: as `flatten`.
    """
    values = items(state)
    names = chosen(values, shared)
    others = {name: value for name, value in values.items() if name not in names}
    manifest = described({name: values[name] for name in names}, beside=others)
    if not manifest.length and shared is None:
        raise ParameterError("the state has no finite floating values; there is nothing to sum")
    if not manifest.length:
        raise ParameterError(
            f"shared fits no entry with finite floating values; there is nothing to sum among {some(values)}"
        )
    return manifest


def snapshot(state: State) -> dict[str, Array]:
    """A copy that shares nothing with a state, by name. What is tied in the state is tied in the copy.

    What is no array (a module's extra state) is deep-copied.
    """
    values, memo = items(state), dict[int, Any]()
    tied = ties({name: place_of(value) for name, value in values.items()})
    made: dict[str, Array] = {}
    for name, value in values.items():
        made[name] = made[tied[name]] if name in tied else copied(value, memo)
    return made


def flatten(state: State, *, shared: Callable[[str], bool] | None = None) -> tuple[Vector, Manifest]:
    """All floating entries, in order, as one fresh vector [d] of `manifest.dtype`.

    Args:
        state: each entry that is shared is a dense array.
        shared: as in `manifest_of`.

    Raises:
        ParameterError: the state is not a mapping of str or a list; an entry is not a dense array, is of a
            dtype that cannot be carried, or shares a part of its memory with another; there is no finite
            floating value at all; or `shared` does not answer with a bool, does not fit the state, or parts
            entries that are tied.
    """
    manifest = manifest_of(state, shared=shared)
    return _vector(items(state), manifest), manifest


@overload
def unflatten(vector: Vector, manifest: Manifest, *, like: Mapping[str, Array]) -> dict[str, Array]: ...
@overload
def unflatten(vector: Vector, manifest: Manifest, *, like: Sequence[Array]) -> list[Array]: ...
def unflatten(vector: Vector, manifest: Manifest, *, like: State) -> dict[str, Array] | list[Array]:
    """The state that a vector stands for: a dict for a mapping, a list for a list. Nothing is shared with it.

    Args:
        vector: float32[d] or float64[d], d = `manifest.length`; each value is rounded once to its entry's
            dtype.
        manifest: what came with the vector.
        like: the receiver's reference state. It gives the kind (torch or numpy), the device and the values
            of entries that are kept; its other values are not read.

    Returns:
        The manifest's entries, in its order. Tied ones are one object.

    Raises:
        ParameterError: the vector does not fit the manifest, or the manifest does not fit `like`.
    """
    _check(vector, manifest)
    values, where = fitting(like, manifest), manifest.slices()
    made = snapshot({entry.name: values[entry.name] for entry in manifest.entries if not entry.summed})
    for name, part in where.items():
        made[name] = fresh(values[name])
        write(vector[part], made[name])
    built = {entry.name: made[entry.tied or entry.name] for entry in manifest.entries}
    return built if isinstance(like, Mapping) else list(built.values())


def delta(new: State, old: State, *, manifest: Manifest | None = None) -> Vector:
    """`new - old` over all floating entries: what a client sends after training from the reference `old`.

    Args:
        new: its values may be anything, NaN too.
        old: the reference.
        manifest: of the reference; left out, it is made from the whole of `old`.

    Returns:
        float32[d] or float64[d], laid out as `flatten(old)`.

    Raises:
        ParameterError: the two are not states of one model; the text names the first differing entry.
    """
    if manifest is None:
        manifest = manifest_of(old)
        if extra := [name for name in items(new) if name not in items(old)]:
            raise ParameterError(
                f"only one of the models has {extra[0]!r}; all parties must build the same model"
            )
    after, before = _vector(fitting(new, manifest), manifest), _vector(fitting(old, manifest), manifest)
    with np.errstate(over="ignore", invalid="ignore"):  # who trains looks for what is not finite
        after -= before
    return after


@overload
def apply_delta(
    state: Mapping[str, Array], mean_delta: Vector, *, manifest: Manifest | None = None
) -> dict[str, Array]: ...
@overload
def apply_delta(
    state: Sequence[Array], mean_delta: Vector, *, manifest: Manifest | None = None
) -> list[Array]: ...
def apply_delta(
    state: State, mean_delta: Vector, *, manifest: Manifest | None = None
) -> dict[str, Array] | list[Array]:
    """The reference state moved by a mean delta; `state` itself is left alone.

    Entries that are kept stay as `state` has them. The sum is taken in float64 and rounded once.

    Args:
        state: the reference.
        mean_delta: float32[d] or float64[d].
        manifest: of the reference; left out, it is made from the whole of `state`.

    Returns:
        The manifest's entries, as `unflatten`.

    Raises:
        ParameterError: `mean_delta` is not a float vector of the state's length.
    """
    manifest = manifest_of(state) if manifest is None else manifest
    _check(mean_delta, manifest)
    start = _vector(fitting(state, manifest), manifest)
    return unflatten(np.add(start, mean_delta, dtype=np.float64), manifest, like=state)


def load(vector: Vector, manifest: Manifest, state: State) -> None:
    """Writes a vector's values into the summed entries of a state, in place and on its devices.

    Args:
        vector: float32[d] or float64[d], d = `manifest.length`; each value is rounded once to its entry's
            dtype.
        manifest: what came with the vector.
        state: such as a `state_dict`, whose tensors are the model's own; what else it holds is left alone.

    Raises:
        ParameterError: the vector does not fit the manifest, the manifest does not fit the state, or an array
            is read-only. Nothing was written.
    """
    _check(vector, manifest)
    values, where = fitting(state, manifest), manifest.slices()
    for name in where:
        entry = values[name]
        if isinstance(entry, np.ndarray) and not entry.flags.writeable:
            raise ParameterError(f"entry {name!r} is a read-only array; give a copy, such as snapshot(state)")
    for name, part in where.items():
        write(vector[part], values[name])


def changes(state: State, manifest: Manifest, reference: Vector, *, out: Vector | None = None) -> Vector:
    """What changed in a state since `load(reference, manifest, state)`: exactly 0 where nothing did.

    The reference is rounded to each entry's dtype before it is subtracted. For half-precision entries that
    matters: the difference from the reference itself would send its rounding error as an update.

    Args:
        state: its values may be anything, NaN too.
        manifest: of the reference.
        reference: float32[d] or float64[d], d = `manifest.length`.
        out: a contiguous vector [d] of `manifest.dtype`, which is overwritten and returned; it must not share
            memory with the others. Left out, the result is fresh.

    Returns:
        [d] of `manifest.dtype`.

    Raises:
        ParameterError: the reference does not fit the manifest, the manifest does not fit the state, or `out`
            is none of the above.
    """
    _check(reference, manifest)
    values = fitting(state, manifest)
    if out is None:
        out = np.empty(manifest.length, manifest.dtype)
    _check(out, manifest, called="out")
    if out.dtype != manifest.dtype or not out.flags.c_contiguous or not out.flags.writeable:
        raise ParameterError(
            f"out is {out.dtype}, strides {out.strides}, writeable {out.flags.writeable}; "
            f"it must be contiguous, writeable and {manifest.dtype}"
        )
    if np.may_share_memory(out, reference):
        raise ParameterError("out shares its memory with the reference; give it its own")
    for name, part in manifest.slices().items():
        subtract(values[name], reference[part], out[part])
    return out


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
                f"no summed entry's name fits the pattern {pattern!r}; see manifest.slices() "
                "(a tied entry has the clip of the one that it is tied to)"
            )

    def clip_of(entry: Entry) -> float:
        return next((c for pattern, c in overrides.items() if fnmatchcase(entry.name, pattern)), clip)

    runs = groupby((entry for entry in manifest.entries if entry.length), key=clip_of)
    return tuple(Segment(length=sum(e.length for e in run), clip=value) for value, run in runs)


def _vector(values: Mapping[str, Array], manifest: Manifest) -> Vector:
    """The values of a state that fits the manifest."""
    vector: Vector = np.empty(manifest.length, manifest.dtype)
    for name, part in manifest.slices().items():
        read(values[name], vector[part])
    return vector


def _check(vector: Vector, manifest: Manifest, *, called: str = "the vector") -> None:
    if not isinstance(vector, np.ndarray) or vector.dtype not in (np.float32, np.float64) or vector.ndim != 1:
        found = (
            f"{vector.dtype}{list(vector.shape)}" if isinstance(vector, np.ndarray) else type(vector).__name__
        )
        raise ParameterError(f"{called} is {found}; it must be a 1-D array of float32 or float64")
    if len(vector) != manifest.length:
        raise ParameterError(f"{called} has {len(vector)} values, the model {manifest.length}")
