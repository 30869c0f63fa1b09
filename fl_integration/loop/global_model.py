"""The global model as those hold it who apply the means: one flat vector and what a server optimiser keeps.

A `Layout` is what all parties agree on before anything runs: which entries travel, which of their values are
parameters, which optimiser turns a mean into a step. A `GlobalModel` is the values, frozen: `moved` gives the
next one. Whoever holds equal ones and applies the same sum gets equal ones, bit for bit, which is what
`Learner.CLIENTS` needs: a step is +, -, *, / and the square root in float64, rounded once.

The values have the width of the vector, float32 for a bfloat16 model: a master copy, in which steps smaller
than half a unit in the last place of a bfloat16 add up. A site rounds what it trains from, and what it sends
is what changed since then.

Entries that are no parameters (BatchNorm's running mean and variance) take the plain mean, whatever the
optimiser: the square root of a second moment says nothing about a variance. With `Scaffold` the parameters'
control variates travel behind the values, in the same vector.

Scales are one for each segment, fixed by `AutoClip`; or, in a private training whose clip follows the sizes
of what it clips, they are that clip, and a sum that says which part it left whole moves it on (`adaptive`).

What goes down with a round (`body`) is the digest of the manifest, the scales if there are any, the values
and the control variates, little-endian. The protocol binds its digest into what a client sends (ATTACKS A9).

>>> from fl_integration.loop.optimisers import FedAvg
>>> from fl_integration.vectors.vectorise import flatten
>>> values, manifest = flatten([np.zeros(2, np.float32)])
>>> start = GlobalModel.of(Layout(manifest=manifest, parameters=(slice(0, 2),), optimiser=FedAvg()), values)
>>> start.moved(Sum(np.array([0.5, -1.0]), 3, frozenset("abc"), {}), round=0).values
array([ 0.5, -1. ], dtype=float32)
"""

import hashlib
from dataclasses import dataclass, field, replace
from itertools import accumulate, pairwise
from typing import Any, Final, Self, TypeAlias

import numpy as np
import numpy.typing as npt

from fl_integration.loop.optimisers import OptimiserState, ServerOptimiser
from fl_integration.privacy.adaptive import AdaptiveClip
from fl_integration.vectors.arrays import Vector
from fl_integration.vectors.manifest import Manifest
from protocols.interface import Sum
from secagg.errors import DecodeError, ParameterError
from secagg.wire import Buffer, Reader, Writer

__all__ = ["WITHIN", "Delivered", "GlobalModel", "Layout"]

Floats: TypeAlias = npt.NDArray[np.float64]

WITHIN: Final = "within the clip"
"""The metric of a private round whose clip follows: the noised part of units that the clip left whole."""

_STATE: Final = b"secagg/1/global model and optimiser"
_DIGEST_BYTES: Final = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """What all parties agree on.

    Args:
        manifest: of the entries that travel.
        parameters: half-open runs of the vector that are parameters, in order, apart from each other; the
            rest are buffers.
        optimiser: of whoever applies the means.
        members: how many sites there are; for control variates.
        adaptive: how a private training's clip follows; None: scales, if there are any, stay as they are.
    """

    manifest: Manifest
    parameters: tuple[slice, ...]
    optimiser: ServerOptimiser
    members: int = 1
    adaptive: AdaptiveClip | None = None

    @property
    def values(self) -> int:
        """Values of the model in an update."""
        return self.manifest.length

    @property
    def controls(self) -> int:
        """Values of the control variates in an update, behind those of the model: 0 without them."""
        return self.movable if self.optimiser.controls else 0

    @property
    def movable(self) -> int:
        """Values that are parameters."""
        return sum(run.stop - run.start for run in self.parameters)

    @property
    def length(self) -> int:
        """Values in an update."""
        return self.values + self.controls

    @property
    def segments(self) -> dict[str, slice]:
        """Where each entry lies in an update, control variates behind, by name."""
        found = dict(self.manifest.slices())
        if self.controls:
            inside = {
                name: part
                for name, part in found.items()
                if any(run.start <= part.start and part.stop <= run.stop for run in self.parameters)
            }
            ends = accumulate((part.stop - part.start for part in inside.values()), initial=self.values)
            found |= {
                f"control variate of {name}": slice(start, stop)
                for name, (start, stop) in zip(inside, pairwise(ends), strict=True)
            }
        return {name: part for name, part in found.items() if part.stop > part.start}

    def of_parameters(self, vector: Floats) -> Floats:
        """The parameters' values of a model's vector, in order: a view where they are one run."""
        parts = [vector[run] for run in self.parameters]
        return parts[0] if len(parts) == 1 else np.concatenate(parts) if parts else vector[:0]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Delivered:
    """What a site trains from.

    Attributes:
        values: float32[d] or float64[d], of the manifest's dtype.
        control: the server's control variate, [parameters], or empty.
        scales: float64, one for each of the layout's segments, or None: the updates are not scaled.
    """

    values: Vector
    control: Vector
    scales: Floats | None

    @classmethod
    def decode(cls, body: Buffer, layout: Layout) -> Self:
        """Reads what came down with a round; the arrays are views of `body`.

        Raises:
            DecodeError: these are not the bytes of a model of this layout.
        """
        reader = Reader(body)
        if bytes(reader.fixed(_DIGEST_BYTES)) != layout.manifest.digest:
            raise DecodeError("the model is of another architecture")
        count = reader.uint(4)
        if count not in (0, len(layout.segments)):
            raise DecodeError(f"{count} scales for {len(layout.segments)} segments")
        scales = np.frombuffer(reader.fixed(8 * count), "<f8").astype(np.float64) if count else None
        dtype = layout.manifest.dtype.newbyteorder("<")
        values = np.frombuffer(reader.fixed(dtype.itemsize * layout.values), dtype)
        control = np.frombuffer(reader.fixed(dtype.itemsize * layout.controls), dtype)
        reader.finish()
        if scales is not None and not (np.isfinite(scales).all() and (scales > 0).all()):
            raise DecodeError("a scale is not finite and above zero")
        native = layout.manifest.dtype
        return cls(
            values=values.astype(native, copy=False),
            control=control.astype(native, copy=False),
            scales=scales,
        )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class GlobalModel:
    """The global model, and what is needed to move it.

    Attributes:
        layout: what all parties agree on.
        values: [d] of the manifest's dtype.
        state: of the server optimiser.
        control: the server's control variate, [parameters] of the manifest's dtype; empty without `Scaffold`.
        scales: float64, one for each segment, or a private round's clip in all of them; None: updates are not
            scaled.
    """

    layout: Layout
    values: Vector
    state: OptimiserState
    control: Vector
    scales: Floats | None = field(default=None)

    @classmethod
    def of(cls, layout: Layout, values: Vector) -> Self:
        """The model before the first round."""
        return cls(
            layout=layout,
            values=values,
            state=layout.optimiser.start(layout.movable),
            control=np.zeros(layout.controls, layout.manifest.dtype),
        )

    @property
    def delivered(self) -> Delivered:
        """What a site that holds this model trains from."""
        return Delivered(values=self.values, control=self.control, scales=self.scales)

    def body(self) -> bytes:
        """What goes down with a round."""
        little = self.layout.manifest.dtype.newbyteorder("<")
        scales = np.empty(0) if self.scales is None else self.scales
        pieces = (
            self.layout.manifest.digest,
            len(scales).to_bytes(4, "big"),
            _bytes(scales.astype("<f8", copy=False)),
            _bytes(self.values.astype(little, copy=False)),
            _bytes(self.control.astype(little, copy=False)),
        )
        return b"".join(pieces)

    def digest(self) -> bytes:
        """SHA-256 (32 bytes) of everything that says how this model goes on: values, optimiser, its state."""
        hashed = hashlib.sha256(_STATE)
        hashed.update(Writer().text(repr(self.layout.optimiser)).uint(self.state.steps, 8).finish())
        hashed.update(self.body())
        for moment in self.state.moments:
            hashed.update(_bytes(moment.astype("<f8", copy=False)))
        return hashed.digest()

    def equals(self, other: "GlobalModel") -> bool:
        """Whether both go on alike: equal values, optimiser state, control variates and scales."""
        none: Floats = np.empty(0)
        mine, theirs = (
            (
                each.values,
                each.control,
                none if each.scales is None else each.scales,
                *each.state.moments,
            )
            for each in (self, other)
        )
        same = all(np.array_equal(a, b) for a, b in zip(mine, theirs, strict=True))
        return same and self.state.steps == other.state.steps

    def scaled(self, scales: Floats) -> Self:
        """The same model, with scales for its updates."""
        if scales.shape != (len(self.layout.segments),):
            raise ParameterError(f"{len(scales)} scales for {len(self.layout.segments)} segments")
        return replace(self, scales=scales)

    def moved(self, total: Sum, *, round: int) -> Self:
        """The model after a round whose sum was opened. Equal models and sums give equal models, bit for bit.

        Args:
            total: its mean is float64[layout.length]; where the clip follows, its metrics have `WITHIN`.
            round: the round's number, by which a schedule of server learning rates is read.
        """
        layout, mean = self.layout, total.mean
        if len(mean) != layout.length:
            raise ParameterError(f"a mean of {len(mean)} values for a model of {layout.length}")
        if self.scales is not None:
            mean = mean.copy()
            for part, scale in zip(layout.segments.values(), self.scales.tolist(), strict=True):
                mean[part] *= scale
        of_model, of_controls = mean[: layout.values], mean[layout.values :]
        state, step = layout.optimiser.step(self.state, layout.of_parameters(of_model), round=round)
        values = np.empty_like(self.values)
        if layout.movable == layout.values:
            _add(self.values, step, values)
        else:
            _add(self.values, of_model, values)
            at = 0
            for run in layout.parameters:
                length = run.stop - run.start
                _add(self.values[run], step[at : at + length], values[run])
                at += length
        control = self.control
        if layout.controls:
            # Karimireddy+ ICML'20, Alg. 1, step 17, but for what the mean is taken of: see `Scaffold`.
            share = len(total.contributors) / layout.members
            control = np.empty_like(self.control)
            _add(self.control, of_controls * share, control)
        scales = self.scales
        if layout.adaptive is not None and scales is not None:
            clip = layout.adaptive.next(float(scales[0]), fraction=total.metrics[WITHIN])
            scales = np.full_like(scales, clip)
        return replace(self, values=values, state=state, control=control, scales=scales)


def _add(values: Vector, step: Floats, out: Vector) -> None:
    """values + step in float64, each rounded once."""
    np.add(values, step, out=out, dtype=np.float64, casting="same_kind")


def _bytes(values: npt.NDArray[Any]) -> memoryview:
    """An array's memory, as it lies there."""
    return np.ascontiguousarray(values).view(np.uint8).data
