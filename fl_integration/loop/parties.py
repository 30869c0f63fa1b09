"""The two parties of a federated training: a client with its examples, a server with or without the model.

Each wraps its half of a `SumProtocol` and is sans-I/O as that is: `FederatedClient.answer` turns received
bytes into bytes to send, training when it is asked for an update, and `FederatedServer.round` takes whatever
`exchange` function moves the bytes.

Where the server learns the sum, it holds the global model and sends it down with each round. Where the
clients do, it is blind: each client opens the sealed sums and moves its own copy of the model. What goes down
then is the digest of the initial model. Whether a sealed sum opens only clients see; so each names, with its
update, a digest of the initial model and of all sums that it applied (its head), and updates that name others
are not summed with it. A sum that does not open, or that honest updates cannot add up to, moves nobody.

Local training draws its batches from (seed, round, client) alone. An update that lies is not detected.

>>> training_seed(seed=1, round=0, client="basel") == training_seed(seed=1, round=0, client="wien")
False
>>> model_digest({"w": np.zeros(2)}) == model_digest({"w": np.zeros(2)})
True
"""

import copy
import hashlib
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from functools import partial
from typing import Final, Self, TypeAlias, TypeVar

import numpy as np

from fl_integration.site.training import Examples, LocalTraining, Loss, train_locally
from fl_integration.vectors.arrays import Array, Vector
from fl_integration.vectors.vectorise import (
    apply_delta,
    delta,
    flatten,
    manifest_of,
    unflatten,
)
from protocols.identity import SERVER, ClientId
from protocols.interface import Client, Learner, NeedUpdate, Outcome, Round, Server, Sum
from protocols.run import Exchange, run_round
from secagg.errors import MissingExtraError, ParameterError, PeerViolation, RoundAborted
from secagg.numbers import plain
from secagg.wire import Writer

try:
    from torch import nn
except ImportError as error:
    raise MissingExtraError(package="torch", extra="train") from error

__all__ = [
    "FederatedClient",
    "FederatedServer",
    "Loader",
    "OnModel",
    "State",
    "examples",
    "local_update",
    "model_digest",
    "moved",
    "snapshot",
    "training_seed",
]

T = TypeVar("T")

Loader: TypeAlias = Iterable[tuple[Examples, Examples]]
"""One client's examples in pieces `(x, y)`: a DataLoader, or a list. It is read anew in each round."""

State: TypeAlias = Mapping[str, Array]
"""A model's `state_dict`."""

OnModel: TypeAlias = Callable[[int, Sum, State], None]
"""`on_model(number, sum, state)`: a mean was applied, and this is the model now."""

_SEED: Final = b"secagg/1/local training"
_MODEL: Final = b"secagg/1/global model"
_BASE: Final = b"secagg/1/sums applied"
_DIGEST_BYTES: Final = 32


def model_digest(state: State) -> bytes:
    """SHA-256 (32 bytes) of a model's manifest and floating values: equal for bit-identical models."""
    return hashlib.sha256(_MODEL + _carried(state)).digest()


def training_seed(*, seed: int, round: int, client: ClientId) -> int:
    """The seed, in [0, 2**63), of one client's local training in one round.

    Args:
        seed: of the whole run, in [0, 2**63).
        round: in [0, 2**63).
        client: its id.
    """
    seed = plain(seed)
    if type(seed) is not int or not 0 <= seed < 1 << 63:
        raise ParameterError(f"seed is {seed!r}; it must be an int in [0, 2**63)")
    place = Writer().fixed(_SEED).uint(seed, 8).uint(round, 8).text(client).finish()
    return int.from_bytes(hashlib.sha256(place).digest()[:8], "big") >> 1


def local_update(
    module: nn.Module, reference: State, loader: Loader, *, loss: Loss, settings: LocalTraining, seed: int
) -> Vector:
    """Trains `module` from `reference` and returns what changed, float[d] laid out as `flatten(reference)`.

    Raises:
        ParameterError: as `train_locally`; or training diverged, and the update is not finite.
    """
    module.load_state_dict(dict(reference))
    train_locally(module, loader, loss=loss, settings=settings, seed=seed)
    update = delta(module.state_dict(), reference)
    if not np.isfinite(update).all():
        raise ParameterError("training diverged: the update is not finite; lower the learning rate")
    return update


class FederatedClient:
    """One client: its protocol machine, its examples and its copy of the global model. Bytes in, bytes out.

    Args:
        machine: the client's half of the protocol.
        name: its client id.
        learns: who learns the sum.
        model: the architecture and the initial values, the same for all clients; it is copied.
        loader: its examples; their number is its weight.
        loss, settings: of local training.
        seed: of the whole run; see `training_seed`.
        on_model: called when a mean was opened and applied here (`Learner.CLIENTS`), with its round.

    Attributes:
        weight: its number of examples.
        seconds: processor seconds that its machine took so far; training is not in it.
        clipped: values of the last contribution that were clipped.
        opened: sums opened and applied so far.
        base: digest (32 bytes) of the initial model and of all sums applied to it (`Learner.CLIENTS`).
        stranded: the others went on from another copy than its own, and it needs `take_over`.
    """

    def __init__(
        self,
        machine: Client,
        *,
        name: ClientId,
        learns: Learner,
        model: nn.Module,
        loader: Loader,
        loss: Loss,
        settings: LocalTraining,
        seed: int,
        on_model: OnModel | None = None,
    ) -> None:
        self._machine, self._learns, self._name = machine, learns, name
        self._module = copy.deepcopy(model)
        self._state: State = snapshot(model)
        self._manifest = manifest_of(self._state)
        self._loader, self._loss, self._settings, self._seed = loader, loss, settings, seed
        self._on_model = on_model
        self.base, self.stranded = model_digest(self._state), False
        self._initial = self.base
        self._applied: frozenset[bytes] = frozenset()
        self.weight = examples(loader, name)
        self.seconds, self.clipped, self.opened = 0.0, 0, 0

    @property
    def state(self) -> State:
        """Its copy of the global model."""
        return self._state

    @property
    def digest(self) -> bytes:
        """SHA-256 of that copy."""
        return model_digest(self._state)

    def answer(self, request: bytes) -> bytes:
        """The reply to one message of the server; trains when that message asks for an update.

        Raises:
            PeerViolation: the server sent a model that is none, or names another initial one than this client
                began from; or the others went on without it. There is no reply: it sits the round out.
            ParameterError: local training cannot work.
        """
        asked = self._timed(lambda: self._machine.receive(request))
        if self._learns is Learner.CLIENTS:
            self.catch_up()  # at once: the next message may bring another key
        if not isinstance(asked, NeedUpdate):
            return asked
        if self._learns is Learner.SERVER:
            self.take_model(asked.model)
        elif asked.model != self._initial:
            raise PeerViolation("the training began from another model than this client", culprit=SERVER)
        elif self.stranded:
            raise PeerViolation("the others went on from another model than this client has", culprit=SERVER)
        seed = training_seed(seed=self._seed, round=asked.round, client=self._name)
        try:
            update = local_update(
                self._module, self._state, self._loader, loss=self._loss, settings=self._settings, seed=seed
            )
        except ParameterError as error:
            raise ParameterError(f"{self._name!r}, round {asked.round}: {error}") from error
        head = self.base if self._learns is Learner.CLIENTS else None
        reply = self._timed(lambda: self._machine.contribute(update, weight=self.weight, head=head))
        self.clipped = self._machine.clipped
        return reply

    def take_model(self, body: bytes) -> None:
        """Takes the global model as the server sends it (`Learner.SERVER`): with a round, and after the last.

        Raises:
            PeerViolation: these are not the bytes of a model of this architecture.
        """
        size = self._manifest.dtype.itemsize * self._manifest.length
        if body[:_DIGEST_BYTES] != self._manifest.digest or len(body) != _DIGEST_BYTES + size:
            raise PeerViolation("the server's model is of another architecture", culprit=SERVER)
        values = np.frombuffer(body, self._manifest.dtype.newbyteorder("<"), offset=_DIGEST_BYTES)
        self._state = unflatten(
            values.astype(self._manifest.dtype, copy=False), self._manifest, like=self._state
        )

    def catch_up(self) -> None:
        """Opens the sums that arrived, oldest first, and moves its copy of the global model.

        One that does not open moves nobody's copy, and whoever holds its key finds that; nor does one that is
        no sum of honest updates. One whose key this client lacks may move others: then the next that opens
        answers another copy than its own, and it is `stranded`.
        """
        for result in self._machine.results:
            try:
                total = self._timed(partial(self._machine.open, result))
            except (PeerViolation, RoundAborted, ParameterError):
                continue
            if (digest := hashlib.sha256(result).digest()) in self._applied:
                continue  # taken over from a peer, before it was delivered here
            if total.head != self.base:
                self.stranded = True
                continue
            self._applied |= {digest}
            self._state = moved(self._state, total)
            self.base = _next_base(self.base, result)
            self.opened += 1
            if self._on_model is not None and total.round is not None:
                self._on_model(total.round, total, self._state)

    def take_over(self, peer: "FederatedClient") -> None:
        """Takes a peer's copy of the model: the way back for one that the others left behind."""
        self._state, self.base, self.opened = dict(peer._state), peer.base, peer.opened
        self._applied, self.stranded = peer._applied, False

    def _timed(self, step: Callable[[], T]) -> T:
        since = time.process_time()
        try:
            return step()
        finally:
            self.seconds += time.process_time() - since


class FederatedServer:
    """The server of a training: its protocol machine and, only if it learns the sums, the global model.

    Make it with `knowing` or `blind`.

    Attributes:
        base: digest (32 bytes) of the initial model; None if it knows the model.
    """

    def __init__(self, machine: Server, *, length: int, state: State | None, base: bytes | None) -> None:
        self.machine, self.base = machine, base
        self._length, self._state = length, state

    @classmethod
    def knowing(cls, machine: Server, *, state: State) -> Self:
        """For `Learner.SERVER`: begins from `state` and applies each mean to it."""
        return cls(machine, length=manifest_of(state).length, state=state, base=None)

    @classmethod
    def blind(cls, machine: Server, *, length: int, base: bytes) -> Self:
        """For `Learner.CLIENTS`: knows the number of values and `model_digest` of the initial model."""
        return cls(machine, length=length, state=None, base=base)

    @property
    def model(self) -> bytes:
        """What goes down with a round: the model, or the digest of the one that all began from."""
        return _carried(self._state) if self._state is not None else self.base or b""

    @property
    def state(self) -> State | None:
        """The global model, if this server knows it."""
        return self._state

    def round(self, number: int, cohort: Collection[ClientId], exchange: Exchange) -> Outcome:
        """Runs one round and applies its mean.

        Raises:
            ParameterError: the round can never work; nothing was sent.
            RoundAborted: too few clients were left; the model is as it was.
        """
        outcome = run_round(self.machine, Round(number, tuple(cohort), self._length, self.model), exchange)
        if outcome.total is not None and self._state is not None:
            self._state = moved(self._state, outcome.total)
        return outcome


def snapshot(model: nn.Module) -> dict[str, Array]:
    """A copy of a model's state that shares nothing with it."""
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


def moved(state: State, total: Sum) -> State:
    """The global model after a round: every party that holds `state` gets the identical result."""
    return apply_delta(state, total.mean)


def _carried(state: State) -> bytes:
    """A model as it goes down: 32 bytes of manifest digest, then all floating values, little-endian."""
    vector, manifest = flatten(state)
    return manifest.digest + vector.astype(manifest.dtype.newbyteorder("<"), copy=False).tobytes()


def _next_base(base: bytes, result: bytes) -> bytes:
    return hashlib.sha256(_BASE + base + hashlib.sha256(result).digest()).digest()


def examples(loader: Loader, name: ClientId) -> int:
    """The number of examples, at least 1, that a client's loader yields: its weight in the mean."""
    try:
        count = sum(len(x) for x, _ in loader)
    except (TypeError, ValueError) as error:
        raise ParameterError(f"the loader of {name!r} does not yield pairs (x, y) of arrays") from error
    if not count:
        raise ParameterError(f"the loader of {name!r} has no examples; leave that client out")
    return count
