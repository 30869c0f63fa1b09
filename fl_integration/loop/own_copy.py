"""A client's own copy of the global model, where the clients learn the sums (`Learner.CLIENTS`).

The server is blind there. Each client opens the sealed sums and moves its copy, optimiser and all; all that
opened the same sums, in the same order, have the same copy, bit for bit. `base` names how a copy came about:
a chain of digests over the initial model and every sealed sum that was applied. It goes up with each update
as its head, and updates that name other bases are not summed with it.

**What comes twice.** A sum that is in the copy already may arrive again: taken over from a peer before it was
delivered, or opened once more by a machine that was restored from before. Such a sum answers an earlier base,
and so does one that the others applied to another copy, when they went on without this client. The round
tells them apart, for the numbers of a session's rounds only rise. A sum of the last applied round, or of one
before, is in the copy or came too late for it, and is passed over. A later one that answers another base
makes the copy `stranded`. So clients that parted, by whatever was passed over, find it at the next sum: it
answers one base, and strands all that have another. One number remembers this for any number of rounds.

**On disk.** `to_bytes` is the whole copy, strict, canonical and bit-exact. It is no secret from any member of
the session, and one from everybody else: seal it. Store the copy before the machine that opened the sums,
for a machine does not open a sum again: lost in between, a copy that is behind is stranded, and one that is
ahead passes over what it has. An older copy put in its place is stranded by the next sum, no worse.

A copy belongs to one session, for rounds are numbered within one. The next session goes on from it
(`carried_on`), base and all: a base names sealed sums, which the server has seen, and never the model, whose
digest in an update's head would let the server try guesses of it.

>>> from fl_integration.loop.optimisers import FedAdam
>>> from fl_integration.vectors.vectorise import flatten
>>> values, manifest = flatten([np.zeros(2, np.float32)])
>>> layout = Layout(manifest=manifest, parameters=(slice(0, 2),), optimiser=FedAdam())
>>> own = OwnCopy(GlobalModel.of(layout, values))
>>> total = Sum(np.array([0.5, -1.0]), 3, frozenset("abc"), {}, round=0, head=own.base)
>>> own.apply(total, sealed=b"a sealed sum"), own.apply(total, sealed=b"a sealed sum")
(True, False)
>>> again = OwnCopy.from_bytes(own.to_bytes(), layout=layout)
>>> again.digest() == own.digest(), again.opened, again.stranded
(True, 1, False)
"""

import hashlib
from collections.abc import Callable
from typing import Any, Final, Protocol, Self, TypeAlias

import numpy as np
import numpy.typing as npt

from fl_integration.loop.global_model import Delivered, GlobalModel, Layout
from fl_integration.loop.optimisers import FedAvg, OptimiserState
from fl_integration.vectors.arrays import Vector
from fl_integration.vectors.manifest import Manifest
from protocols.interface import Sum
from secagg import labels
from secagg.errors import DecodeError, ParameterError, PeerViolation, RoundAborted
from secagg.wire import Buffer, Reader, Writer

__all__ = ["OnModel", "Opens", "OwnCopy"]

OnModel: TypeAlias = Callable[[int, Sum, GlobalModel], None]
"""`on_model(number, sum, model)`: a mean was applied, and this is the global model now."""

_MAGIC: Final = b"SAGM"
_VERSION: Final = 1
_DIGEST_BYTES: Final = 32
_F8: Final = np.dtype("<f8")


class Opens(Protocol):
    """What opens sealed sums: a protocol's `Client`, or whatever stands before one."""

    @property
    def results(self) -> tuple[bytes, ...]:
        """Sealed sums that arrived and were not opened yet, oldest first."""
        ...  # a Protocol's signature

    def open(self, result: bytes) -> Sum:
        """As `Client.open`."""
        ...  # a Protocol's signature


class OwnCopy:
    """One client's copy of the global model, for one session.

    Args:
        start: the global model that all begin from.

    Attributes:
        model: the global model as this client has it.
        initial: digest (32 bytes) of the model that all began from.
        base: digest (32 bytes) of the initial model and of all sums applied to it.
        opened: sums opened and applied so far, that of the scales too.
        last: the round of the last sum applied; None before the first.
        stranded: the others went on from another copy than this one, and it needs `take_over`.
    """

    __slots__ = ("base", "initial", "last", "model", "opened", "stranded")

    def __init__(self, start: GlobalModel) -> None:
        self.model = start
        self.base = self.initial = start.digest()
        self.opened = 0
        self.last: int | None = None
        self.stranded = False

    def catch_up(self, machine: Opens, *, on_model: OnModel | None = None) -> None:
        """Opens the sums that arrived, oldest first, and moves this copy.

        One that does not open moves nobody's copy, and whoever holds its key finds that; nor does one that is
        no sum of honest updates. One whose key this client lacks may move others: then the next that opens
        answers another copy than its own, and it is `stranded`.

        Args:
            machine: the client's half of the protocol, or what stands before it.
            on_model: called for each sum that was applied.
        """
        for result in machine.results:
            try:
                total = machine.open(result)
            except (PeerViolation, RoundAborted, ParameterError):
                continue
            if self.apply(total, sealed=result) and on_model is not None and total.round is not None:
                on_model(total.round, total, self.model)

    def apply(self, total: Sum, *, sealed: Buffer) -> bool:
        """Moves this copy by a sum that was opened, if the sum answers it; whether it did.

        Args:
            total: with its round and head.
            sealed: the sealed sum that it was opened from.

        Raises:
            ParameterError: the optimiser cannot take this step; nothing has changed.
        """
        number = total.round
        if number is None or total.head != self.base:
            known = number is not None and self.last is not None and number <= self.last
            self.stranded = self.stranded or not known
            return False
        moved = self.model.moved(total, round=number)
        digest = hashlib.sha256(sealed).digest()
        self.model = moved
        self.base = hashlib.sha256(labels.SUMS_APPLIED + self.base + digest).digest()
        self.last = number if self.last is None else max(self.last, number)
        self.opened += 1
        return True

    def take_scales(self, scales: npt.NDArray[np.float64]) -> None:
        """Goes on with scales for the updates, float64, one for each segment, which this client opened.

        Raises:
            ParameterError: another number of scales.
        """
        self.model = self.model.scaled(scales)
        self.base = hashlib.sha256(labels.SCALES_APPLIED + self.base + _pack(scales, _F8)).digest()
        self.opened += 1

    def take_over(self, peer: "OwnCopy") -> None:
        """Goes on from a peer's copy: the way back for one that the others left behind.

        Raises:
            ParameterError: the peer's copy began from another model, or is of another form.
        """
        if peer.initial != self.initial or _form(peer.model.layout) != _form(self.model.layout):
            raise ParameterError(
                "a copy of another training, with another initial model, architecture or optimiser; take it "
                "over from a member of this session"
            )
        self.model, self.base, self.opened, self.last = peer.model, peer.base, peer.opened, peer.last
        self.stranded = False

    def carried_on(self) -> Self:
        """This copy as another session begins with it: no round of that one is in it yet."""
        own = type(self)(self.model)
        own.initial, own.base, own.stranded = self.initial, self.base, self.stranded
        return own

    def to_bytes(self) -> bytes:
        """The whole copy, for this client's own disk."""
        return self._encoded(stranded=self.stranded)

    def for_peer(self) -> bytes:
        """The copy for handing it over (`fl_integration.site.handover`): equal at all clients in step.

        Raises:
            ParameterError: this copy is stranded, and nobody should go on from it.
        """
        if self.stranded:
            raise ParameterError("the others went on without this copy; take theirs over before giving it")
        return self.to_bytes()

    def digest(self) -> bytes:
        """SHA-256 (32 bytes) of all of it, equal at all clients in step; whether it is stranded is left out.

        Guesses of the model can be tried by it, so it is as secret as the model is.
        """
        hashed = hashlib.sha256(labels.OWN_COPY)
        hashed.update(self._encoded(stranded=False))
        return hashed.digest()

    @classmethod
    def from_bytes(cls, data: Buffer, *, layout: Layout) -> Self:
        """The copy that `to_bytes` or `for_peer` wrote. Its arrays are its own.

        Args:
            data: any buffer; its length must be exactly what the layout asks for.
            layout: of the training, as all agreed on it.

        Raises:
            DecodeError: these are not the bytes of a copy of this version and layout.
        """
        reader = Reader(data)
        if bytes(reader.fixed(len(_MAGIC))) != _MAGIC:
            raise DecodeError("these bytes are no copy of a global model")
        if (version := reader.uint(1)) != _VERSION:
            raise DecodeError(f"a copy of format {version}; this version reads {_VERSION}")
        if bytes(reader.fixed(_DIGEST_BYTES)) != _form(layout):
            raise DecodeError("a copy of another architecture, or for another optimiser")
        initial, base = (bytes(reader.fixed(_DIGEST_BYTES)) for _ in range(2))
        opened, following, flag, steps = (reader.uint(size) for size in (8, 8, 1, 8))
        if flag > 1 or following > 1 << 63:
            raise DecodeError("a flag is neither 0 nor 1, or a round's number is too large")
        moments = tuple(
            np.frombuffer(reader.fixed(8 * layout.movable), _F8).astype(np.float64)
            for _ in range(_moments(layout))
        )
        given = Delivered.decode(reader.rest(), layout)
        own = cls.__new__(cls)
        own.model = GlobalModel(
            layout=layout,
            values=given.values.copy(),
            state=OptimiserState(steps=steps, moments=moments),
            control=given.control.copy(),
            scales=given.scales,
        )
        own.initial, own.base, own.opened = initial, base, opened
        own.last, own.stranded = following - 1 if following else None, bool(flag)
        return own

    @staticmethod
    def values_in(data: Buffer, *, manifest: Manifest) -> Vector:
        """The model's values in a copy of this client's own, whatever moves it: [d] of the manifest's dtype.

        They stand at the end, and need no layout to be found.

        Raises:
            DecodeError: these bytes are no copy of a model of this form, or of one with control variates.
        """
        layout = Layout(manifest=manifest, parameters=(), optimiser=FedAvg())
        view = memoryview(data)
        body = _DIGEST_BYTES + 4 + manifest.dtype.itemsize * manifest.length
        if len(view) < body or bytes(view[: len(_MAGIC)]) != _MAGIC:
            raise DecodeError("these bytes are no copy of a global model")
        return Delivered.decode(view[len(view) - body :], layout).values.copy()

    def _encoded(self, *, stranded: bool) -> bytes:
        model, state = self.model, self.model.state
        writer = Writer().fixed(_MAGIC).uint(_VERSION, 1).fixed(_form(model.layout))
        writer.fixed(self.initial).fixed(self.base).uint(self.opened, 8)
        writer.uint(0 if self.last is None else self.last + 1, 8).uint(stranded, 1).uint(state.steps, 8)
        for moment in state.moments:
            writer.fixed(_pack(moment, _F8))
        return writer.fixed(model.body()).finish()


def _form(layout: Layout) -> bytes:
    """Digest (32 bytes) of what two copies must agree in before their values mean the same."""
    said = Writer().fixed(labels.OWN_COPY).fixed(layout.manifest.digest).text(repr(layout.optimiser))
    said.uint(layout.members, 4).uint(len(layout.parameters), 4)
    for run in layout.parameters:
        said.uint(run.start, 8).uint(run.stop, 8)
    return hashlib.sha256(said.finish()).digest()


def _moments(layout: Layout) -> int:
    """How many moments the layout's optimiser keeps."""
    return len(layout.optimiser.start(1).moments)


def _pack(values: npt.NDArray[Any], dtype: np.dtype[Any]) -> bytes:
    """An array's values, little-endian."""
    return values.astype(dtype, copy=False).tobytes()
