"""Torch tensors and numpy arrays, read and written alike.

One value passes between an entry of any dtype, layout and device and a run of a float vector, and is rounded
at most once, to nearest, ties to even. A temporary, where one is needed, has 2**16 values; it is as large as
the entry for a tensor on another device, and for a strided one that cannot be filled from the vector itself.

Torch is not imported here: nothing is a tensor before somebody else imported it.

>>> values = np.array([1.0, 2.0 ** -24 + 2.0 ** -50])
>>> half = np.zeros(2, np.float16)
>>> write(values, half)
>>> half
array([1.e+00, 6.e-08], dtype=float16)
>>> subtract(np.array([3, 5], np.float16), values, out := np.empty(2))
>>> out
array([2.        , 4.99999994])
"""

import copy
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final, TypeAlias, TypeGuard

import numpy as np
import numpy.typing as npt

from secagg.errors import ParameterError

if TYPE_CHECKING:
    import torch

__all__ = [
    "Array",
    "Vector",
    "all_finite",
    "copied",
    "dtype_name",
    "fresh",
    "is_dense",
    "is_tensor",
    "read",
    "subtract",
    "write",
]

Array: TypeAlias = "npt.NDArray[Any] | torch.Tensor"
"""One entry of a state."""

Vector: TypeAlias = npt.NDArray[np.float32] | npt.NDArray[np.float64]
"""A one-dimensional float vector."""

_CHUNK: Final = 1 << 16
"""Values of a temporary: in the L2 cache."""

_EXTRA: Final = "_extra_state"
"""Torch's key for whatever a module's `get_extra_state` returns."""


def is_tensor(value: object) -> TypeGuard["torch.Tensor"]:
    """Whether it is a torch tensor, without importing torch."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.Tensor)


def dtype_name(name: str, value: object) -> str:
    """The dtype's common name.

    Raises:
        ParameterError: the entry is not a dense, initialised array, or a module's extra state.
    """
    if name.rpartition(".")[2] == _EXTRA:
        raise ParameterError(
            f"entry {name!r} is a module's extra state, which may be anything and has no mean; "
            "keep it home with shared="
        )
    if isinstance(value, np.ndarray):
        return str(value.dtype.name)
    if not is_tensor(value):
        raise ParameterError(
            f"entry {name!r} is a {type(value).__name__}; it must be an array or a tensor, "
            "or be kept home with shared="
        )
    if _is_lazy(value):
        raise ParameterError(f"entry {name!r} is not initialised yet; run one batch through the model first")
    if not is_dense(value):
        raise ParameterError(
            f"entry {name!r} is a sparse, quantized, nested or meta tensor; make it dense first"
        )
    return str(value.dtype).removeprefix("torch.")


def is_dense(value: object) -> TypeGuard[Array]:
    """Whether it is an array with a value at every index, in memory."""
    if not is_tensor(value):
        return isinstance(value, np.ndarray)
    if _is_lazy(value) or value.is_meta or value.is_quantized or value.is_nested:
        return False
    return str(value.layout) == "torch.strided"


def all_finite(value: Array) -> bool:
    """Whether no value is infinite or NaN."""
    if isinstance(value, np.ndarray):
        return bool(np.isfinite(value).all())
    if not value.numel():
        return True
    low, high = value.detach().aminmax()  # NaN passes through both
    return bool(low.isfinite() and high.isfinite())


def copied(value: Any, memo: dict[int, Any]) -> Any:
    """The same in memory of its own; what is no dense array is deep-copied with this memo."""
    if is_dense(value) and is_tensor(value):
        return value.detach().clone()
    if isinstance(value, np.ndarray) and not value.dtype.hasobject:
        return np.array(value)
    return copy.deepcopy(value, memo)


def fresh(like: Array) -> Array:
    """An array of the shape, dtype, kind and device of `like`, its values undefined."""
    if isinstance(like, np.ndarray):
        return np.empty(like.shape, like.dtype)
    return like.new_empty(tuple(like.shape), requires_grad=False)


def read(value: Array, out: Vector) -> None:
    """Writes an entry's values, in logical order, into float32[n] or float64[n] that holds its dtype."""
    if isinstance(value, np.ndarray):
        np.copyto(out.reshape(value.shape), value, casting="unsafe")
        return
    import torch

    torch.from_numpy(out).view(tuple(value.shape)).copy_(value.detach().cpu())


def write(values: Vector, entry: Array) -> None:
    """Writes float32[n] or float64[n] into an entry in place, each value rounded once to its dtype."""
    if isinstance(entry, np.ndarray):
        with np.errstate(over="ignore"):  # what is too large for the dtype becomes infinite, as in torch
            np.copyto(entry, _narrowed(values, entry).reshape(entry.shape), casting="unsafe")
        return
    import torch

    plain = entry.detach()
    if (view := _view(entry)) is not None and view.dtype == values.dtype and plain.is_contiguous():
        # As it lies there, from read-only memory too, which torch takes with a warning. A write to none of
        # its values tells autograd, which a numpy view does not.
        np.copyto(view.reshape(-1), values)
        plain.view(-1)[:0].zero_()
        return
    with torch.no_grad():
        if not plain.is_contiguous():
            plain.copy_(_tensor(values, plain).view(tuple(plain.shape)))
            return
        flat = plain.view(-1)
        for part in _parts(len(values), whole=_as_is(values, plain)):
            flat[part].copy_(_tensor(values[part], plain))


def subtract(entry: Array, reference: Vector, out: Vector) -> None:
    """Writes `entry - reference` into `out`, the reference first rounded to the entry's dtype.

    Args:
        entry: of n values.
        reference: float32[n] or float64[n].
        out: float32[n] or float64[n] that holds the entry's dtype; contiguous, with memory of its own.
    """
    view = _view(entry)
    with np.errstate(over="ignore", invalid="ignore"):  # who trains looks for what is not finite
        if view is not None and view.dtype.kind == "f" and view.itemsize >= reference.itemsize:
            shape = view.shape
            np.subtract(view, reference.reshape(shape), out=out.reshape(shape), dtype=out.dtype)
            return
        read(entry, out)
        for part in _parts(len(out), whole=False):
            out[part] -= _rounded(reference[part], entry).astype(out.dtype, copy=False)


def _parts(length: int, *, whole: bool) -> Iterator[slice]:
    """The range in pieces of a temporary's size, or as one."""
    step = max(1, length) if whole else _CHUNK
    return (slice(start, min(start + step, length)) for start in range(0, length, step))


def _view(entry: Array) -> npt.NDArray[Any] | None:
    """The entry's own memory as a numpy array, if it can be had."""
    if isinstance(entry, np.ndarray):
        return entry
    if entry.device.type != "cpu" or entry.is_neg() or str(entry.dtype) == "torch.bfloat16":
        return None
    view: npt.NDArray[Any] = entry.detach().numpy()
    return view


def _rounded(values: Vector, entry: Array) -> npt.NDArray[Any]:
    """Values as `write` would leave them in the entry; bfloat16, which numpy lacks, as float32."""
    if isinstance(entry, np.ndarray):
        return _narrowed(values, entry).astype(entry.dtype)
    rounded = _tensor(values, entry).to(entry.dtype)
    found: npt.NDArray[Any] = (rounded.float() if rounded.element_size() < 4 else rounded).numpy()
    return found


def _tensor(values: Vector, entry: "torch.Tensor") -> "torch.Tensor":
    """Values as a tensor that the entry can be filled from, converted here unless the entry is here too."""
    import torch

    source = torch.from_numpy(np.require(_narrowed(values, entry), requirements=["C", "W"]))
    return source if entry.device.type == "cpu" else source.to(entry.dtype)


def _as_is(values: Vector, entry: "torch.Tensor") -> bool:
    """Whether an entry can be filled from the vector's own memory."""
    usable = values.flags.writeable and values.flags.c_contiguous  # torch warns of read-only memory
    return usable and entry.device.type == "cpu" and not _is_narrow(values, entry)


def _is_narrow(values: Vector, entry: Array) -> bool:
    """Whether the entry's dtype is rounded to by way of float32, by torch or by an extension of numpy."""
    by_way = entry.dtype.kind != "f" if isinstance(entry, np.ndarray) else True
    return by_way and entry.itemsize < 4 and values.dtype == np.float64


def _narrowed(values: Vector, entry: Array) -> Vector:
    """Values that rounding by way of float32 rounds only once.

    A float64 that is to become a half goes to float32 with rounding to odd: cut towards zero, the last bit
    set when anything was cut. Then no float32 lies on a tie on which the float64 does not lie (Boldo &
    Melquiond, IEEE Trans. Computers 2008; float32 has more than two bits more than either half).
    """
    if not _is_narrow(values, entry):
        return values
    with np.errstate(over="ignore"):
        near = values.astype(np.float32)
    bits, back = near.view(np.int32), near.astype(np.float64)
    inexact_and_even = (back != values) & (bits & 1 == 0)
    bits += np.where(np.abs(back) > np.abs(values), -1, 1).astype(np.int32) * inexact_and_even
    return near


def _is_lazy(value: "torch.Tensor") -> bool:
    """Whether a lazy module has not yet seen the batch that gives this entry its shape."""
    from torch.nn.parameter import is_lazy

    return bool(is_lazy(value))
