"""The model that a client holds itself, where the clients learn the sum and the server's arrays never move.

It begins from the arrays that the server showed first, and is moved by each sum that is opened here: an
`OwnCopy`, with what a vector does not carry (names, shapes, integer entries) beside it, so that an
application can be shown the model as arrays. It outlives a session: the next one begins from where this one
stands.

What an update answers is this copy *and* everything that the round showed: its head is made from both, so a
server that shows one client another learning rate has an update that is summed with nobody's (ATTACKS A9).

>>> from fl_integration.loop.optimisers import FedAvg
>>> held = HeldModel.begin({"w": np.zeros(2, np.float32)}, began=bytes(32), optimiser=FedAvg())
>>> again = HeldModel.from_bytes(held.to_bytes(session=bytes(32)), session=bytes(32), optimiser=FedAvg())
>>> again.arrays()["w"], again.own.base == held.own.base
(array([0., 0.], dtype=float32), True)
"""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Annotated, Any, Final, Self

import numpy as np

from fl_integration.loop.global_model import GlobalModel, Layout
from fl_integration.loop.optimisers import ServerOptimiser
from fl_integration.loop.own_copy import OwnCopy
from fl_integration.vectors.manifest import Entry, Manifest
from fl_integration.vectors.vectorise import flatten, unflatten
from protocols.interface import Client, Sum
from protocols.messages.schema import U64, Body, Key32, UpTo, decode, encode
from secagg import labels
from secagg.errors import DecodeError, ParameterError

__all__ = ["HeldModel", "answered_head", "arrays_in", "is_parameter"]

_STATISTICS: Final = ("running_mean", "running_var")


def is_parameter(name: str) -> bool:
    """Whether an entry is one that a server optimiser moves: all but the statistics of torch's BatchNorm.

    Those take the plain mean: the square root of a second moment says nothing about a variance.
    """
    return not name.endswith(_STATISTICS)


def answered_head(base: bytes, shown: bytes) -> bytes:
    """What an update answers, 32 bytes.

    Args:
        base: of the client's own copy, 32 bytes.
        shown: the digest that the round binds.
    """
    return hashlib.sha256(labels.ANSWERED + base + shown).digest()


@dataclass(frozen=True, slots=True)
class _SavedEntry:
    name: str
    dtype: str
    shape: tuple[U64, ...]
    constant: bool
    kept: Annotated[bytes, UpTo(1 << 30)]


@dataclass(frozen=True, slots=True)
class _Saved:
    session: Key32
    began: Key32
    entries: tuple[_SavedEntry, ...]
    copy: Body


@dataclass(slots=True)
class HeldModel:
    """One client's model.

    Attributes:
        own: the values, and what moves them.
        began: digest of the arrays that the training began from.
        like: the arrays that it began from; of them the entries that a vector does not carry are read.
    """

    own: OwnCopy
    began: bytes
    like: Mapping[str, Any]

    @property
    def moved(self) -> bool:
        """Whether a sum is in it, of whatever session."""
        return self.own.base != self.own.initial

    @property
    def standing(self) -> tuple[bytes, bool, int | None]:
        """What differs whenever the model on disk is another one than this."""
        return self.own.base, self.own.stranded, self.own.last

    @classmethod
    def begin(
        cls,
        arrays: Mapping[str, Any],
        *,
        began: bytes,
        optimiser: ServerOptimiser,
        parameters: Callable[[str], bool] = is_parameter,
    ) -> Self:
        """The model before the first sum.

        Args:
            arrays: by name, as the server showed them.
            began: their digest, 32 bytes.
            optimiser: turns a mean into a step; the same at all clients, or their copies part.
            parameters: which entries it moves; the rest take the plain mean.
        """
        values, manifest = flatten(dict(arrays))
        layout = _layout(manifest, optimiser, parameters)
        return cls(OwnCopy(GlobalModel.of(layout, values)), began, arrays)

    def arrays(self) -> dict[str, Any]:
        """The model as an application is shown it."""
        model = self.own.model
        return unflatten(model.values, model.layout.manifest, like=dict(self.like))

    def catch_up(self, machine: Client, shown: Mapping[int, bytes]) -> int:
        """Opens the sums that arrived, and moves by those that answer this copy; how many did.

        Args:
            machine: the client's half of the protocol.
            shown: the digest that each of the last rounds bound, by number, as the server says; a wrong one
                only leaves this client behind.
        """
        before = self.own.opened
        self.own.catch_up(_Answering(machine, self.own, shown))
        return self.own.opened - before

    def handed_over(self, copy: bytes) -> Self:
        """This training's model as a peer has it.

        Raises:
            DecodeError: these bytes are no copy of a model of this form, or one that began from other values.
        """
        own = OwnCopy.from_bytes(copy, layout=self.own.model.layout)
        if own.initial != self.own.initial:
            raise DecodeError("a copy of another training, which began from other values")
        return replace(self, own=own)

    def to_bytes(self, *, session: bytes) -> bytes:
        """The whole model, for this client's own disk."""
        entries = tuple(
            _SavedEntry(
                each.name,
                each.dtype,
                each.shape,
                each.constant,
                b"" if each.summed else np.ascontiguousarray(self.like[each.name]).tobytes(),
            )
            for each in self.own.model.layout.manifest.entries
        )
        return encode(_Saved(session, self.began, entries, memoryview(self.own.to_bytes())))

    @classmethod
    def from_bytes(
        cls,
        data: bytes,
        *,
        session: bytes,
        optimiser: ServerOptimiser,
        parameters: Callable[[str], bool] = is_parameter,
    ) -> Self:
        """The model that `to_bytes` wrote. In another session it is where that one begins.

        Raises:
            DecodeError: these bytes are no model of this optimiser.
        """
        saved = decode(_Saved, data)
        manifest, like = _like(saved)
        try:
            layout = _layout(manifest, optimiser, parameters)
        except ParameterError as error:
            raise DecodeError(f"these bytes are no model: {error}") from None
        own = OwnCopy.from_bytes(saved.copy, layout=layout)
        return cls(own if saved.session == session else own.carried_on(), saved.began, like)


def arrays_in(data: bytes) -> dict[str, Any]:
    """The arrays of a model that `to_bytes` wrote, by name. No optimiser is needed to read them.

    Raises:
        DecodeError: these bytes are no model.
    """
    saved = decode(_Saved, data)
    manifest, like = _like(saved)
    return unflatten(OwnCopy.values_in(saved.copy, manifest=manifest), manifest, like=like)


def _like(saved: _Saved) -> tuple[Manifest, dict[str, Any]]:
    """A model's entries; and arrays of their forms, with what a vector does not carry."""
    try:
        manifest = Manifest(
            entries=tuple(
                Entry(name=each.name, shape=each.shape, dtype=each.dtype, constant=each.constant)
                for each in saved.entries
            )
        )
        if manifest.length > len(saved.copy):  # before room is made for them
            raise DecodeError("fewer values than its entries have")
        like = {
            each.name: np.frombuffer(bytearray(kept.kept), each.dtype).reshape(each.shape)
            if not each.summed
            else np.empty(each.shape, each.dtype)
            for each, kept in zip(manifest.entries, saved.entries, strict=True)
        }
    except (ParameterError, ValueError, TypeError) as error:
        raise DecodeError(f"these bytes are no model: {error}") from None
    return manifest, like


@dataclass(frozen=True, slots=True)
class _Answering:
    """A client's machine, whose sums answer a copy if their heads are made from it and what was shown."""

    machine: Client
    own: OwnCopy
    shown: Mapping[int, bytes]

    @property
    def results(self) -> tuple[bytes, ...]:
        return self.machine.results

    def open(self, result: bytes) -> Sum:
        total = self.machine.open(result)
        shown = None if total.round is None else self.shown.get(total.round)
        if shown is not None and total.head == answered_head(self.own.base, shown):
            return replace(total, head=self.own.base)
        return total


def _layout(manifest: Manifest, optimiser: ServerOptimiser, parameters: Callable[[str], bool]) -> Layout:
    runs = []
    for moved, group in groupby(manifest.slices().items(), key=lambda item: parameters(item[0])):
        parts = [part for _, part in group if part.stop > part.start]
        if moved and parts:
            runs.append(slice(parts[0].start, parts[-1].stop))
    return Layout(manifest=manifest, parameters=tuple(runs), optimiser=optimiser)
