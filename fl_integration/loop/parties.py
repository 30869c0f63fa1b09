"""A client of a federated training: its examples, its half of the protocol and, it may be, the model.

It wraps its half of a `SumProtocol` and is sans-I/O as that is: `FederatedClient.answer` turns received bytes
into bytes to send, training when it is asked for an update. The server's half is in `serving`.

Where the server learns the sum, it holds the global model and sends it down with each round. Where the
clients do, it is blind: each client opens the sealed sums and moves its own copy of the model, optimiser and
all. What goes down then is the digest of the initial model. Whether a sealed sum opens only clients see; so
each names, with its update, a digest of the initial model and of all sums that it applied (its head), and
updates that name others are not summed with it. A sum that does not open, or that honest updates cannot add
up to, moves nobody. In a private training what a client sends is noised and paid for: see `noised`.

What a client sends is what changed, weighted by the examples that it was trained on in this round. Weights,
metrics and clips are its own affair until the sum. An update that lies is not detected.

>>> model_digest({"w": np.zeros(2)}) == model_digest({"w": np.zeros(2)})
True
"""

import hashlib
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Final, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt

from fl_integration.loop.global_model import Delivered, GlobalModel, Layout
from fl_integration.loop.noised import NoisedSite, NoisedSums, Summand
from fl_integration.loop.own_copy import OnModel, OwnCopy
from fl_integration.site.site import Site, SiteFailedError
from fl_integration.site.step import Trained
from fl_integration.vectors.arrays import Array, Vector
from fl_integration.vectors.autoclip import AutoClip, ScalesRefusedError
from fl_integration.vectors.states import has_form, items
from fl_integration.vectors.vectorise import flatten, unflatten
from protocols.identity import SERVER, ClientId
from protocols.interface import Client, Learner, NeedUpdate, Sum
from protocols.machine.summand import FloatSurface
from secagg.errors import DecodeError, ParameterError, PeerViolation

__all__ = [
    "FederatedClient",
    "OnModel",
    "State",
    "Surroundings",
    "clipped_entries",
    "model_digest",
]

T = TypeVar("T")

State: TypeAlias = Mapping[str, Array]
"""A model's `state_dict`."""

_MODEL: Final = b"secagg/1/global model"


def model_digest(state: State) -> bytes:
    """SHA-256 (32 bytes) of a model's manifest and floating values: equal for bit-identical models.

    What could not be in a manifest (a module's extra state, complex and sparse tensors) is no part of it.
    """
    vector, manifest = flatten({name: value for name, value in items(state).items() if has_form(name, value)})
    hashed = hashlib.sha256(_MODEL + manifest.digest)
    little = vector.astype(manifest.dtype.newbyteorder("<"), copy=False)
    hashed.update(little.view(np.uint8).data)
    return hashed.digest()


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What the protocol around a client is like.

    Args:
        learns: who learns the sum.
        surface: the numbers that are summed: clip, metrics.
        auto_clip: the rule for scales, if updates are scaled.
        rehearse: called with the number of each round right before its update is handed to the protocol, by
            whoever repeats the protocol's randomness; None in earnest.
    """

    learns: Learner
    surface: FloatSurface
    auto_clip: AutoClip | None = None
    rehearse: Callable[[int], None] | None = None


class FederatedClient:
    """One client: its protocol machine, its site and, where it learns the sums, the global model.

    Args:
        machine: the client's half of the protocol.
        site: its model, examples and step.
        start: the global model that all begin from.
        around: the protocol around it.
        on_model: called when a mean was opened and applied here (`Learner.CLIENTS`), with its round.
        own_copy: its copy of the model as it was saved, in a fresh process; None: it begins from `start`.
        noised: its half of a private training, whose machine sums integers; None without privacy.

    Raises:
        ParameterError: there is a copy, and the server learns the sums.

    Attributes:
        own_copy: its copy of the global model (`Learner.CLIENTS`), else None.
        seconds: processor seconds that its machine took so far; training is not in it.
        clipped: values of the last contribution that were clipped, by entry of the model, those with any.
        strange: metrics of the last contribution that were outside their range, and were clipped too.
        drowned: entries whose first update was lost in the grid's rounding under the training's scales.
        refused_scales: in its last round it did not put up with the training's scales.
        trained: it has trained at least once in this run.
        hollow: why, in its last private round, it had nothing to add but noise; None if it had. It sends that
            all the same: who stays away because of its data tells of them.
    """

    def __init__(
        self,
        machine: Client,
        *,
        site: Site,
        start: GlobalModel,
        around: Surroundings,
        on_model: OnModel | None = None,
        own_copy: OwnCopy | None = None,
        noised: NoisedSite | None = None,
    ) -> None:
        self._machine, self.site, self._around, self._on_model = machine, site, around, on_model
        self._noised = noised
        if own_copy is not None and around.learns is not Learner.CLIENTS:
            raise ParameterError("the server learns the sums, and clients keep no copy; leave own_copy out")
        self._start = start
        self.own_copy = OwnCopy(start) if own_copy is None and around.learns is Learner.CLIENTS else own_copy
        self._scales = start.scales
        self._ahead: tuple[int, Delivered, Vector, Trained] | None = None
        self._lock = threading.Lock()  # one module, one update: an overlapping call would train into both
        self.trained = False
        self.seconds = 0.0
        self.clipped: dict[str, int] = {}
        self.strange: tuple[str, ...] = ()
        self.drowned: tuple[str, ...] = ()
        self.refused_scales = False
        self.hollow: SiteFailedError | None = None
        self._looked_at: npt.NDArray[np.float64] = np.empty(0)

    @property
    def name(self) -> ClientId:
        """Its client id."""
        return self.site.name

    @property
    def model(self) -> GlobalModel:
        """The global model as it has it; where the server learns the sums, the one that all began from."""
        return self._start if self.own_copy is None else self.own_copy.model

    @property
    def base(self) -> bytes:
        """As `OwnCopy.base`; empty where the server learns the sums."""
        return b"" if self.own_copy is None else self.own_copy.base

    @property
    def opened(self) -> int:
        """Sums opened and applied so far, that of the scales too."""
        return 0 if self.own_copy is None else self.own_copy.opened

    @property
    def stranded(self) -> bool:
        """The others went on from another copy than its own, and it needs `take_over`."""
        return self.own_copy is not None and self.own_copy.stranded

    def answer(self, request: bytes) -> bytes:
        """The reply to one message of the server; trains when that message asks for an update.

        Raises:
            PeerViolation: the server sent a model that is none, or names another initial one than this client
                began from; or the others went on without it. There is no reply: it sits the round out.
            SiteFailedError: its own training failed, or what came out of it cannot be summed. It sits the
                round out.
        """
        with self._lock:
            asked = self._timed(lambda: self._machine.receive(request))
            if self._around.learns is Learner.CLIENTS:
                self.catch_up()  # at once: the next message may bring another key
            if not isinstance(asked, NeedUpdate):
                return asked
            self.refused_scales = False
            delivered = self._delivered(asked)
            if self._noised is None:
                update, trained = self.train(delivered, round=asked.round)
                contribute = partial(self._contributed, asked, delivered, update, trained)
            else:
                summand = self._own_summand(self._noised, delivered, round=asked.round)
                contribute = partial(self._noised_and_paid, self._noised, asked, summand)
            try:
                reply = contribute()
            except BaseException as error:
                self.site.take_back()  # nothing was sent
                if isinstance(error, ParameterError):
                    raise SiteFailedError.of(error) from error
                raise
            if self._machine.refusal is not None:
                self.site.take_back()
            return reply

    def train(self, delivered: Delivered, *, round: int) -> tuple[Vector, Trained]:
        """What this round's training changes; the same once more if it was asked for ahead of the round.

        Raises:
            SiteFailedError: as `Site.train`.
        """
        if self._ahead is not None:
            number, before, update, trained = self._ahead
            same = all(
                np.array_equal(one, other)
                for one, other in (
                    (before.values, delivered.values),
                    (before.control, delivered.control),
                )
            )
            if number == round and same:
                self._ahead = None
                return update, trained
            self.drop_ahead()
        update, trained = self.site.train(delivered.values, delivered.control, round=round)
        self.trained = True
        return update, trained

    def train_ahead(self, delivered: Delivered, *, round: int) -> Vector:
        """What this round's training changes, kept for the round itself."""
        update, trained = self.train(delivered, round=round)
        self._ahead = round, delivered, update, trained
        return update

    def drop_ahead(self) -> None:
        """Takes back what was trained ahead of a round that went on without it, or never began."""
        if self._ahead is not None:
            self._ahead = None
            self.site.take_back()

    def take_model(self, body: bytes) -> Delivered:
        """Reads the global model as the server sends it with a round (`Learner.SERVER`).

        Raises:
            PeerViolation: these are not the bytes of a model of this architecture; or it has scales where the
                training has none, or the reverse, or other ones than before.
        """
        delivered = self.read_model(body)
        scaled = self._around.auto_clip is not None or self.model.layout.adaptive is not None
        if (delivered.scales is not None) != scaled:
            raise PeerViolation(
                "the server's model has scales for updates that are not scaled, or lacks them", culprit=SERVER
            )
        if delivered.scales is not None and self._around.auto_clip is not None:
            # Fixed once: a server that moved them from round to round would measure the updates with them.
            self._scales = delivered.scales if self._scales is None else self._scales
            if not np.array_equal(self._scales, delivered.scales):
                raise PeerViolation("the server changed the scales of this training", culprit=SERVER)
        return delivered

    def read_model(self, body: bytes) -> Delivered:
        """Reads a model as the server sends it, with scales or without (`Learner.SERVER`).

        Raises:
            PeerViolation: these are not the bytes of a model of this architecture.
        """
        try:
            return Delivered.decode(body, self.model.layout)
        except DecodeError as error:
            raise PeerViolation(f"the server's model does not fit: {error}", culprit=SERVER) from error

    def take_scales(self, scales: npt.NDArray[np.float64]) -> None:
        """Goes on with scales, which it opened itself (`Learner.CLIENTS`)."""
        self._copy().take_scales(scales)

    def catch_up(self) -> None:
        """As `OwnCopy.catch_up`, with what its machine opens (`Learner.CLIENTS`)."""
        sums = None if self._noised is None else self._noised.sums
        self._copy().catch_up(_Timed(self._machine, self._timed, sums), on_model=self._on_model)

    def take_over(self, peer: "FederatedClient") -> None:
        """Takes a peer's copy of the model: the way back for one that the others left behind."""
        self._copy().take_over(peer._copy())

    def _copy(self) -> OwnCopy:
        if self.own_copy is None:
            raise ParameterError("the server learns the sums: it has the model, and clients keep no copy")
        return self.own_copy

    def _delivered(self, asked: NeedUpdate) -> Delivered:
        if self._around.learns is Learner.SERVER:
            return self.take_model(asked.model)
        own = self._copy()
        if asked.model != own.initial:
            raise PeerViolation("the training began from another model than this client", culprit=SERVER)
        if own.stranded:
            raise PeerViolation("the others went on from another model than this client has", culprit=SERVER)
        return own.model.delivered

    def _contributed(
        self, asked: NeedUpdate, delivered: Delivered, update: Vector, trained: Trained
    ) -> bytes:
        around, layout = self._around, self.model.layout
        clipped: dict[str, int] | None = None
        if around.auto_clip is not None:
            if delivered.scales is None:
                raise ParameterError("the scales of this training have not arrived here")
            clipped = self._scaled(around.auto_clip, update, delivered.scales)
        metrics = self._in_range(trained.metrics)
        if around.rehearse is not None:
            around.rehearse(asked.round)
        head = self.base if around.learns is Learner.CLIENTS else None
        reply = self._timed(
            lambda: self._machine.contribute(update, weight=trained.weight, metrics=metrics, head=head)
        )
        if clipped is None:
            clipped = clipped_entries(update, around.surface, layout) if self._machine.clipped else {}
        self.clipped = clipped
        return reply

    def _own_summand(self, noised: NoisedSite, delivered: Delivered, *, round: int) -> Summand:
        self.hollow = None
        try:
            summand = noised.summand(delivered, round=round)
        except SiteFailedError as error:
            said = "it sent noise alone, for its training failed: "
            self.hollow = SiteFailedError(said + error.reason, logged=said + error.logged)
            return noised.nothing()
        self.trained = True
        return summand

    def _noised_and_paid(self, noised: NoisedSite, asked: NeedUpdate, summand: Summand) -> bytes:
        around = self._around
        if around.rehearse is not None:
            around.rehearse(asked.round)
        vector = self._timed(lambda: noised.noised(summand, round=asked.round))
        if asked.length != len(vector):  # looked at before it is paid for
            raise PeerViolation("the server asks for a vector of another length", culprit=SERVER)
        noised.pay(round=asked.round)
        head = self.base if around.learns is Learner.CLIENTS else None
        return self._timed(lambda: self._machine.contribute(vector, head=head))

    def _scaled(self, rule: AutoClip, update: Vector, scales: npt.NDArray[np.float64]) -> dict[str, int]:
        """Divides the update by the scales, if this site puts up with them; what was clipped, by segment."""
        segments = self.model.layout.segments
        try:
            clipped = rule.apply(update, scales, segments)
            if self._looked_at is not scales and not np.array_equal(self._looked_at, scales):
                step = 1.0 / self._around.surface.codec.largest_step
                self.drowned = tuple(rule.drowned(update, segments, step=step))
                self._looked_at = scales
        except ScalesRefusedError:
            self.refused_scales = True
            raise
        return clipped

    def _in_range(self, metrics: Mapping[str, float]) -> dict[str, float]:
        """The metrics that the protocol sums, each within its range; what is outside counts as its end."""
        found, strange = {}, []
        for name, low, high in self._around.surface.metrics:
            if name not in metrics:
                raise ParameterError(
                    f"the protocol sums the metric {name!r}, and the step says {sorted(metrics)}; return "
                    f"Trained(weight=…, metrics={{{name!r}: …}})"
                )
            found[name] = min(max(metrics[name], low), high)
            if found[name] != metrics[name]:
                strange.append(name)
        self.strange = tuple(strange)
        return found

    def _timed(self, step: Callable[[], T]) -> T:
        since = time.process_time()
        try:
            return step()
        finally:
            self.seconds += time.process_time() - since


@dataclass(frozen=True, slots=True)
class _Timed:
    """A client's machine, by which its copy opens sums while somebody counts the time."""

    machine: Client
    timed: Callable[[Callable[[], Sum]], Sum]
    sums: NoisedSums | None

    @property
    def results(self) -> tuple[bytes, ...]:
        return self.machine.results

    def open(self, result: bytes) -> Sum:
        total = self.timed(partial(self.machine.open, result))
        return total if self.sums is None else self.sums.read(total)


def clipped_entries(update: Vector, surface: FloatSurface, layout: Layout) -> dict[str, int]:
    """How many values of each segment lie outside the protocol's clip, those with any."""
    found = {}
    for name, part in layout.segments.items():
        clip, count, at = surface.codec.part(part.start, part.stop).clip, 0, part.start
        for length, limit in (
            [(part.stop - part.start, clip)]
            if isinstance(clip, float)
            else [(each.length, each.clip) for each in clip]
        ):
            count += int(np.count_nonzero(np.abs(update[at : at + length]) > np.float64(limit)))
            at += length
        if count:
            found[name] = count
    return found


def state_of(model: GlobalModel, like: State) -> dict[str, Array]:
    """The state that a global model stands for, over the entries of `like` that it does not carry."""
    return {**like, **unflatten(model.values, model.layout.manifest, like=like)}
