"""The two parties of a federated training: a client with its examples, a server with or without the model.

Each wraps its half of a `SumProtocol` and is sans-I/O as that is: `FederatedClient.answer` turns received
bytes into bytes to send, training when it is asked for an update, and `FederatedServer.round` takes whatever
`exchange` function moves the bytes.

Where the server learns the sum, it holds the global model and sends it down with each round. Where the
clients do, it is blind: each client opens the sealed sums and moves its own copy of the model. What goes down
then is a digest of the initial model and of all sealed sums since, and a client whose copy is another one
sits the round out instead of spoiling it.

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
from fl_integration.vectors.vectorise import (
    Array,
    Vector,
    apply_delta,
    delta,
    flatten,
    manifest_of,
    unflatten,
)
from protocols.identity import SERVER, ClientId
from protocols.interface import Client, Learner, NeedUpdate, Outcome, Round, Server, Sum
from protocols.run import Exchange, run_round
from secagg.errors import MissingExtraError, ParameterError, PeerViolation
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
        on_model: called when a mean was opened and applied here (`Learner.CLIENTS`), with its place among the
            sums of the session, from 0.

    Attributes:
        weight: its number of examples.
        seconds: processor seconds that its machine took so far; training is not in it.
        clipped: values of the last contribution that were clipped.
        opened: sums opened and applied so far.
        base: digest (32 bytes) of the initial model and of all sums applied to it (`Learner.CLIENTS`).
        stranded: it missed more sums than were delivered later, and needs `take_over`.
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
            PeerViolation: the server sent a model that is none, names a base that this client does not have,
                or a sum that does not verify. There is nothing to reply: this client sits the round out.
            ParameterError: local training cannot work.
        """
        asked = self._timed(lambda: self._machine.receive(request))
        if not isinstance(asked, NeedUpdate):
            return asked
        if self._learns is Learner.SERVER:
            self.take_model(asked.model)
        else:
            self.catch_up()
            self.stranded = asked.model != self.base
            if self.stranded:
                raise PeerViolation("the round answers another model than this client has", culprit=SERVER)
        seed = training_seed(seed=self._seed, round=asked.round, client=self._name)
        try:
            update = local_update(
                self._module, self._state, self._loader, loss=self._loss, settings=self._settings, seed=seed
            )
        except ParameterError as error:
            raise ParameterError(f"{self._name!r}, round {asked.round}: {error}") from error
        reply = self._timed(lambda: self._machine.contribute(update, weight=self.weight))
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
        """Opens the sums that arrived and moves its copy of the global model, oldest first.

        Raises:
            PeerViolation: a sum does not verify.
            ParameterError: this client has no key yet.
        """
        for result in self._machine.results:
            total = self._timed(partial(self._machine.open, result))
            if (digest := hashlib.sha256(result).digest()) in self._applied:
                continue  # delivered again, because the reply to the first delivery was lost
            self._applied |= {digest}
            self._state = moved(self._state, total)
            self.base = _next_base(self.base, result)
            self.opened += 1
            if self._on_model is not None:
                self._on_model(self.opened - 1, total, self._state)

    def take_over(self, peer: "FederatedClient") -> None:
        """Takes a peer's copy of the model: the way back for one that missed more than is delivered later."""
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
        base: digest (32 bytes) of the initial model and of all sealed sums since; None if it knows the model.
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
        """What goes down with a round: the model, or the digest of what its updates answer."""
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
        if outcome.result is not None and self.base is not None:
            self.base = _next_base(self.base, outcome.result)
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
