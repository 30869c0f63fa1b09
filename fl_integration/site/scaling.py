"""A scale for the columns of a site's inputs, and a site's data under it.

Inputs of other units and magnitudes train badly together, so each column has its mean subtracted and is
divided by its standard deviation. Whose mean and deviation that is (the site's own, or those of all sites
together) is decided above, in `fl_integration.loop.standardising`; new patients must be scaled by the same.

>>> scale = Scale(mean=np.array([50.0, 0.0]), deviation=np.array([10.0, 1.0]))
>>> scale.apply(np.array([[60.0, 1.0], [45.0, 0.0]], np.float32)).tolist()
[[1.0, 1.0], [-0.5, 0.0]]
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from secagg.errors import MissingExtraError, ParameterError

try:
    import torch
    from torch.utils.data import DataLoader
except ImportError as error:
    raise MissingExtraError(package="torch", extra="train") from error

__all__ = ["Scale", "ScaledLoader", "inputs_of", "scaled"]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Scale:
    """What each column has subtracted, and what it is then divided by.

    Args:
        mean: float64[columns], finite; 0 for a column that is left as it is.
        deviation: float64[columns], finite and above 0; 1 for a column that is left as it is, or is constant.

    Raises:
        ParameterError: the two do not fit each other.
    """

    mean: npt.NDArray[np.float64]
    deviation: npt.NDArray[np.float64]

    def __post_init__(self) -> None:
        for name in ("mean", "deviation"):
            values = np.array(getattr(self, name), np.float64)
            values.setflags(write=False)
            object.__setattr__(self, name, values)
        if self.mean.ndim != 1 or self.mean.shape != self.deviation.shape:
            raise ParameterError(
                f"mean has the shape {self.mean.shape} and deviation {self.deviation.shape}; both must be "
                f"[columns]"
            )
        if not np.isfinite(self.mean).all() or not (np.isfinite(self.deviation) & (self.deviation > 0)).all():
            raise ParameterError("a mean is not finite, or a deviation is not finite and above 0")

    def apply(self, x: Any) -> Any:
        """The scaled inputs, of the dtype that they came in; computed in float64.

        Args:
            x: a floating array or tensor [rows, columns]; a missing value (NaN) stays missing.

        Raises:
            ParameterError: it is of another form.
        """
        _check(x, columns=len(self.mean))
        if isinstance(x, torch.Tensor):
            mean, deviation = (
                torch.from_numpy(np.array(each)).to(x.device) for each in (self.mean, self.deviation)
            )
            return ((x.double() - mean) / deviation).to(x.dtype)
        return ((x.astype(np.float64) - self.mean) / self.deviation).astype(x.dtype)


class ScaledLoader:
    """A DataLoader whose inputs come scaled; it is read anew at each pass, as the loader is.

    Attributes:
        loader: what is behind it.
    """

    def __init__(self, loader: DataLoader[Any], scale: Scale) -> None:
        self.loader, self._scale = loader, scale

    def __iter__(self) -> Iterator[tuple[Any, Any]]:
        for x, y in self.loader:
            yield self._scale.apply(x), y

    def __len__(self) -> int:
        return len(self.loader)


def scaled(data: Any, scale: Scale) -> Any:
    """A site's data on this scale.

    Args:
        data: a DataLoader, which stays one pass after another, or a list or tuple of pairs (x, y).

    Raises:
        ParameterError: it is neither, or an x is of another form than the scale.
    """
    if isinstance(data, DataLoader):
        return ScaledLoader(data, scale)
    return [(scale.apply(x), y) for x, y in _pairs(data)]


def inputs_of(data: Any, *, columns: int) -> npt.NDArray[np.float64]:
    """float64[rows, columns]: the inputs of one pass over a site's data.

    Args:
        data: a DataLoader, or a list or tuple of pairs (x, y); torch's global generator is as it was
            afterwards.
        columns: that there must be.

    Raises:
        ParameterError: it is neither, or an x is no floating [rows, columns].
    """
    with torch.random.fork_rng(devices=[]):  # a DataLoader draws a seed for its workers at each pass
        pieces = [x for x, _ in _pairs(data)]
    for x in pieces:
        _check(x, columns=columns)
    arrays = [x.detach().cpu().double().numpy() if isinstance(x, torch.Tensor) else x for x in pieces]
    return np.concatenate([np.zeros((0, columns)), *arrays], dtype=np.float64)


def _pairs(data: Any) -> Iterable[tuple[Any, Any]]:
    if not isinstance(data, DataLoader | list | tuple):
        raise ParameterError(
            f"the data is a {type(data).__name__}, whose inputs nobody here can scale; pass a DataLoader or "
            "a list of pairs (x, y), or scale it yourself and leave standardise= out"
        )
    for piece in data:
        if not isinstance(piece, list | tuple) or len(piece) != 2:
            raise ParameterError(
                f"a piece of the data is a {type(piece).__name__}, and no pair (x, y); scale it yourself "
                "and leave standardise= out"
            )
        yield piece[0], piece[1]


def _check(x: Any, *, columns: int) -> None:
    if not isinstance(x, np.ndarray | torch.Tensor):
        raise ParameterError(
            f"x is a {type(x).__name__}; it must be an array or a tensor of shape [rows, {columns}]"
        )
    if x.ndim != 2:
        raise ParameterError(
            f"x has the shape {list(x.shape)}, and a scale is of the columns of [rows, {columns}]; scale "
            "images and sequences in their own transform, and leave standardise= out"
        )
    if x.shape[1] != columns:
        raise ParameterError(
            f"x has {x.shape[1]} columns, and {columns} are declared; name each in columns=, None for one "
            "that is to stay as it is"
        )
    floating = x.is_floating_point() if isinstance(x, torch.Tensor) else np.issubdtype(x.dtype, np.floating)
    if not floating:
        raise ParameterError(f"x holds {x.dtype}; standardised inputs are floating: make it float32")
