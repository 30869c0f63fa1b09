"""The federated loop over any `SumProtocol`, whoever learns the sum.

FedAvg (McMahan et al., AISTATS'17) with the weighted mean taken inside a secure sum. In each round a client
trains from the global model and contributes what changed, weighted by its number of examples; the weights are
in the sum too, so nobody learns another's. The loop drives the protocol's own machines through `run_round`;
what moves the bytes is one `exchange` function, here `InProcess`, and may be replaced.

* `Learner.SERVER`: the model goes down with the request for the update, and the server applies the mean.
* `Learner.CLIENTS`: the server never knows the model. All clients begin from the same one; a round's sealed
  sum rides on the next start, and each client opens it and moves its own copy before it trains again. One
  that was away catches up when it is back. With its update each names the copy that it trained from, and the
  largest group is summed; whoever the others left behind takes the model from one of them.

A round that fails costs that round. A client that an aborted round names as the culprit is not asked again,
as long as enough are left without it. A sum that was opened and then refused (`RoundAborted.opened`) is tried
again with its very contributors: with one of them less, the two sums would tell that one's update.

Every client draws its batches from (seed, round, client), so two runs from equal models train equally,
whatever protocol is between them: `fedavg` is the same loop without one, in plain floating point.

Not protected: what the mean itself says, round after round. With three clients each can subtract its own part
and sees the sum of the other two. An update that lies is not detected.

>>> import torch
>>> from protocols import MaskedSum
>>> x = torch.linspace(-1, 1, 12).unsqueeze(1)
>>> loaders = {name: [(x[i::3], 2 * x[i::3])] for i, name in enumerate(["basel", "graz", "wien"])}
>>> run = federate(MaskedSum(max_clients=3, max_weight=4), torch.nn.Linear(1, 1), loaders, rounds=15,
...                loss=torch.nn.functional.mse_loss, settings=LocalTraining(learning_rate=0.5), seed=1)
>>> bool(abs(run.model.weight.item() - 2) < 0.05), run.history[0].total_weight
(True, 12)
"""

import copy
import os
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TypeAlias

import numpy as np

from fl_integration.loop.parties import (
    FederatedClient,
    FederatedServer,
    Loader,
    OnModel,
    State,
    examples,
    local_update,
    model_digest,
    moved,
    snapshot,
    training_seed,
)
from fl_integration.site.training import LocalTraining, Loss
from fl_integration.vectors.vectorise import manifest_of
from protocols.identity import SERVER, ClientId, Identity, Roster
from protocols.interface import Learner, Sum
from protocols.machine.parameters import MachineProtocol
from protocols.messages.envelope import RESULT, Envelope
from protocols.simulation import Message, Traffic
from secagg.entropy import Entropy, SeededEntropy, draw
from secagg.errors import MissingExtraError, ParameterError, PeerViolation, RoundAborted, VerificationError
from secagg.numbers import plain

try:
    from torch import nn
except ImportError as error:
    raise MissingExtraError(package="torch", extra="train") from error

__all__ = ["FederatedRun", "InProcess", "RoundReport", "fedavg", "federate"]

Drop: TypeAlias = Mapping[int, Mapping[ClientId, str]]
"""Round (from 0) -> client -> name of the first exchange of that round that it does not answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundReport:
    """What one round did and cost.

    Attributes:
        number: from 0.
        contributors: whose updates are in the mean; in an aborted round those of a sum that was opened and
            refused, or nobody.
        dropped: reason by client; one that had contributed stands in both.
        culprits: those of them who broke the protocol.
        total_weight: the contributors' examples together. Where only clients learn it, it is None while the
            run goes on and filled in afterwards.
        aborted: why there is no mean; empty when there is one.
        clipped: values clipped, by contributor; in a deployment only the client itself knows.
        traffic: bytes by party, `"server"` included.
        seconds: processor seconds of cryptography by party, `"server"` included; training is not in it.
    """

    number: int
    contributors: frozenset[ClientId]
    dropped: dict[ClientId, str]
    culprits: frozenset[ClientId]
    total_weight: int | None
    aborted: str
    clipped: dict[ClientId, int]
    traffic: dict[str, Traffic]
    seconds: dict[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class FederatedRun:
    """A finished training.

    Attributes:
        model: a trained copy; the one that was passed in is as it was.
        history: one report a round.
        digest: SHA-256 of the global model (32 bytes), equal at all who hold it.
        handed_over: clients that the others left behind, and that took the model from a peer.
    """

    model: nn.Module
    history: tuple[RoundReport, ...]
    digest: bytes
    handed_over: frozenset[ClientId] = frozenset()


class InProcess:
    """An exchange function for clients in this process, which loses whom it is told and counts what passes.

    Args:
        names: the protocol's exchanges, `protocol.exchanges(first=True)`.
        clients: by id.
        on_message: `on_message(round, message)` sees every message, for demonstrations and tests.
    """

    def __init__(
        self,
        names: tuple[str, ...],
        clients: Mapping[ClientId, FederatedClient],
        *,
        on_message: Callable[[int, Message], None] | None = None,
    ) -> None:
        self._names, self._clients, self._on_message = names, clients, on_message
        self.begin(0, {})

    def begin(self, number: int, lost: Mapping[ClientId, str]) -> None:
        """A round: counts from zero; `lost` maps a client to the first exchange that it misses."""
        self._number = number
        self._lost = {client: self._names.index(name) for client, name in lost.items()}
        self._sent = dict.fromkeys([SERVER, *self._clients], 0)
        self._received = dict(self._sent)
        self._before = {name: client.seconds for name, client in self._clients.items()}
        self._outside, self._since = 0.0, time.process_time()

    def costs(self) -> tuple[dict[str, Traffic], dict[str, float]]:
        """Bytes and processor seconds of cryptography by party since `begin`."""
        elapsed = time.process_time() - self._since - self._outside
        seconds = {name: client.seconds - self._before[name] for name, client in self._clients.items()}
        traffic = {party: Traffic(self._sent[party], self._received[party]) for party in self._sent}
        return traffic, {SERVER: elapsed, **seconds}

    def __call__(self, outbox: Mapping[ClientId, bytes]) -> Iterator[tuple[ClientId, bytes]]:
        since = time.process_time()
        for client, request in outbox.items():
            if (reply := self._answer(client, request)) is not None:
                self._outside += time.process_time() - since
                yield client, reply
                since = time.process_time()
        self._outside += time.process_time() - since

    def _answer(self, client: ClientId, request: bytes) -> bytes | None:
        stage = Envelope.decode(request).stage
        position = len(self._names) if stage == RESULT else stage // 2
        if self._lost.get(client, position + 1) <= position:
            return None
        name = "Result" if stage == RESULT else self._names[position]
        self._carry(name, SERVER, client, request)
        try:
            reply = self._clients[client].answer(request)
        except PeerViolation:
            return None  # it sits the round out
        self._carry(name, client, SERVER, reply)
        return reply

    def _carry(self, exchange: str, sender: str, receiver: str, body: bytes) -> None:
        self._sent[sender] += len(body)
        self._received[receiver] += len(body)
        if self._on_message is not None:
            self._on_message(self._number, Message(exchange, sender, receiver, body))


def federate(
    protocol: MachineProtocol,
    model: nn.Module,
    loaders: Mapping[ClientId, Loader],
    *,
    loss: Loss,
    settings: LocalTraining,
    rounds: int,
    seed: int = 0,
    drop: Drop | None = None,
    on_round: Callable[[RoundReport], None] | None = None,
    on_model: OnModel | None = None,
    on_message: Callable[[int, Message], None] | None = None,
    protocol_seed: int | None = None,
) -> FederatedRun:
    """Trains one model on everybody's examples, all parties in this process.

    Args:
        protocol: any protocol; its `max_weight` must admit the largest number of examples.
        model: architecture and initial values; it is left alone.
        loaders: each client's examples; the order of the keys is the roster's.
        loss, settings: of local training, as `train_locally`.
        rounds: at least 1.
        seed: of local training, in [0, 2**63).
        drop: who vanishes, when; nobody if left out.
        on_round: called after each round, aborted ones too.
        on_model: called once for each mean, when the first party has applied it: at once where the server
            learns it, in the next round where the clients do.
        on_message: `on_message(round, message)` sees every byte on the wire.
        protocol_seed: with one, the protocol's randomness repeats and is as secret as this number: for tests
            and demonstrations only.

    Raises:
        ParameterError: an argument can never work (nothing has run), or local training cannot.
        VerificationError: the parties did not end with identical models.
    """
    names, drop = protocol.exchanges(first=True), drop or {}
    rounds, seed, protocol_seed = plain(rounds), plain(seed), plain(protocol_seed)
    _check(rounds, seed, drop, names, loaders)
    start, means = snapshot(model), _Means(on_model)
    length, learns = manifest_of(start).length, protocol.learns
    identities = [Identity.generate(name, entropy=_entropy(protocol_seed, f"key/{name}")) for name in loaders]
    roster, session = Roster.of(*identities), draw(_entropy(protocol_seed, "session"), 16)
    clients = {
        each.client: FederatedClient(
            protocol.client(
                identity=each,
                roster=roster,
                session=session,
                entropy=_entropy(protocol_seed, f"machine/{each.client}"),
            ),
            name=each.client,
            learns=learns,
            model=model,
            loader=loaders[each.client],
            loss=loss,
            settings=settings,
            seed=seed,
            on_model=means.applied,
        )
        for each in identities
    }
    _check_weights(protocol, clients, length=length)
    machine = protocol.server(
        roster=roster, session=session, entropy=_entropy(protocol_seed, f"machine/{SERVER}")
    )
    if learns is Learner.SERVER:
        server = FederatedServer.knowing(machine, state=start)
    else:
        server = FederatedServer.blind(machine, length=length, base=model_digest(start))
    exchange = InProcess(names, clients, on_message=on_message)
    history: list[RoundReport] = []
    handed_over: set[ClientId] = set()
    culprits: set[ClientId] = set()
    unmoved = _Unmoved(protocol, clients)
    for number in range(rounds):
        handed_over |= _bring_along(clients, [name for name, each in clients.items() if each.stranded])
        exchange.begin(number, drop.get(number, {}))
        cohort = unmoved.next_cohort(culprits, deliver=partial(_deliver, server, exchange))
        report, failed = _run(server, number, {name: clients[name] for name in cohort}, exchange, means)
        history.append(report)
        unmoved.ended(report.contributors, failed)
        culprits |= failed.culprits if failed is not None else frozenset()
        if on_round is not None:
            on_round(history[-1])
    exchange.begin(rounds, {})
    handed_over |= _settle(server, clients, exchange)
    digests = {client.digest for client in clients.values()}
    if len(digests) > 1:
        raise VerificationError("the parties did not end with bit-identical models; this is a fault")
    return FederatedRun(
        model=_loaded(model, next(iter(clients.values())).state),
        history=tuple(replace(report, total_weight=means.weights.get(report.number)) for report in history),
        digest=digests.pop(),
        handed_over=frozenset(handed_over),
    )


def fedavg(
    model: nn.Module,
    loaders: Mapping[ClientId, Loader],
    *,
    loss: Loss,
    settings: LocalTraining,
    rounds: int,
    seed: int = 0,
    absent: Mapping[int, Collection[ClientId]] | None = None,
    on_model: OnModel | None = None,
) -> FederatedRun:
    """The same training without any protocol: the mean is taken in float64, in the clear.

    Args:
        absent: round (from 0) -> clients whose updates are not in its mean. The rest is as in `federate`.

    Raises:
        ParameterError: as `federate`, or nobody is left in a round.
    """
    absent = absent or {}
    rounds, seed = plain(rounds), plain(seed)
    _check(
        rounds, seed, {number: dict.fromkeys(names, "") for number, names in absent.items()}, ("",), loaders
    )
    state: State = snapshot(model)
    module = copy.deepcopy(model)
    history: list[RoundReport] = []
    for number in range(rounds):
        present = [client for client in loaders if client not in absent.get(number, ())]
        if not present:
            raise ParameterError(f"nobody is left in round {number}; leave somebody out of absent")
        total, weight = np.zeros(manifest_of(state).length), 0
        for client in present:
            derived = training_seed(seed=seed, round=number, client=client)
            update = local_update(module, state, loaders[client], loss=loss, settings=settings, seed=derived)
            count = examples(loaders[client], client)
            total += count * update.astype(np.float64)
            weight += count
        mean = Sum(total / weight, weight, frozenset(present), {})
        state = moved(state, mean)
        history.append(
            RoundReport(
                number=number,
                contributors=mean.contributors,
                dropped={client: "absent" for client in loaders if client not in present},
                culprits=frozenset(),
                total_weight=weight,
                aborted="",
                clipped={},
                traffic={},
                seconds={},
            )
        )
        if on_model is not None:
            on_model(number, mean, state)
    return FederatedRun(model=_loaded(model, state), history=tuple(history), digest=model_digest(state))


@dataclass(slots=True)
class _Means:
    """Which rounds' means somebody has applied."""

    on_model: OnModel | None
    weights: dict[int, int] = field(default_factory=dict)

    def applied(self, number: int, total: Sum, state: State) -> None:
        """A party applied this round's sum."""
        if number in self.weights:
            return
        self.weights[number] = total.total_weight
        if self.on_model is not None:
            self.on_model(number, total, state)


class _Unmoved:
    """Sums for the model at hand that moved nobody: they were opened and refused, or did not verify.

    Somebody may have seen them: the server, or a client that spoilt one and holds the key. A sum of nearly
    the same clients would tell the updates of those in which the two differ. So the next is asked of the same
    again (a culprit may be missing: that is its own update), or of others by as many as hide an honest one.
    """

    def __init__(self, protocol: MachineProtocol, clients: Mapping[ClientId, FederatedClient]) -> None:
        self._protocol, self._clients = protocol, clients
        self._seen: set[frozenset[ClientId]] = set()
        self._base = _common_base(clients)
        self._sealed: frozenset[ClientId] | None = None  # contributors of a result that is not delivered yet
        self._delivered: frozenset[ClientId] | None = None  # of the one before

    def ended(self, contributors: frozenset[ClientId], failed: RoundAborted | None) -> None:
        """A round is over."""
        if self._protocol.learns is Learner.CLIENTS:
            self._delivered, self._sealed = self._sealed, contributors if failed is None else None
        elif failed is None:
            self._seen.clear()  # the model moved
        elif failed.opened:
            self._seen.add(failed.opened)

    def next_cohort(
        self, culprits: Collection[ClientId], *, deliver: Callable[[], None]
    ) -> tuple[ClientId, ...]:
        """Whom the next round asks: all but the culprits, if there is a plan for so few; else all.

        Where the clients learn the sum, whether the last one moved them is known once they have it: it is
        delivered now if that makes a difference, and else with the round.
        """
        self._look(self._delivered)
        self._delivered = None
        cohort = self._chosen(culprits, self._seen)
        if self._sealed is not None and self._chosen(culprits, self._seen | {self._sealed}) != cohort:
            deliver()
            self._look(self._sealed)
            self._sealed = None
            return self._chosen(culprits, self._seen)
        return cohort

    def _look(self, contributors: frozenset[ClientId] | None) -> None:
        """Takes note of whether a delivered sum of these moved the clients."""
        if (base := _common_base(self._clients)) != self._base:
            self._base, self._seen = base, set()
        elif contributors is not None:
            self._seen.add(contributors)

    def _chosen(
        self, culprits: Collection[ClientId], seen: Collection[frozenset[ClientId]]
    ) -> tuple[ClientId, ...]:
        members = tuple(self._clients)
        least = self._protocol.suite.requirements.min_contributors

        def will_do(cohort: tuple[ClientId, ...]) -> bool:
            try:
                apart = max(least, self._protocol.plan(len(cohort), roster=len(members)).corrupt + 2)
            except ParameterError:
                return False
            differences = [each.symmetric_difference(cohort).difference(culprits) for each in seen]
            if len(seen) > 1:  # three sums tell more than their differences
                return not all(differences)
            return all(not difference or len(difference) >= apart for difference in differences)

        wanted = [frozenset(members).difference(culprits)]
        wanted += [each.difference(culprits) for each in seen] + list(seen)
        cohorts = [tuple(name for name in members if name in each) for each in wanted]
        return next(filter(will_do, cohorts), members)


def _common_base(clients: Mapping[ClientId, FederatedClient]) -> bytes:
    """What the largest group of clients has applied to the initial model."""
    return Counter(each.base for each in clients.values()).most_common(1)[0][0]


def _deliver(server: FederatedServer, exchange: InProcess) -> None:
    """Brings sealed sums to their clients, which open them."""
    for sender, reply in exchange(server.machine.deliver()):
        server.machine.receive(sender, reply)


def _run(
    server: FederatedServer,
    number: int,
    clients: Mapping[ClientId, FederatedClient],
    exchange: InProcess,
    means: _Means,
) -> tuple[RoundReport, RoundAborted | None]:
    """One round: its report, and why there is no mean if it was aborted; the model is then as it was."""
    failed: RoundAborted | None = None
    try:
        outcome = server.round(number, tuple(clients), exchange)
    except RoundAborted as error:
        failed = error
    traffic, seconds = exchange.costs()
    record = server.machine.record().record
    if failed is None and outcome.total is not None and server.state is not None:
        means.applied(number, outcome.total, server.state)
    report = RoundReport(
        number=number,
        contributors=record.contributors,
        dropped=dict(record.dropped),
        culprits=record.culprits,
        total_weight=means.weights.get(number),
        aborted=record.aborted,
        clipped={name: clients[name].clipped for name in sorted(record.contributors)},
        traffic=traffic,
        seconds=seconds,
    )
    return report, failed


def _bring_along(
    clients: Mapping[ClientId, FederatedClient], late: Collection[ClientId]
) -> frozenset[ClientId]:
    """Those of `late` whose model is not that of the largest group take it from there; who they are."""
    base = _common_base(clients)
    foremost = next(each for each in clients.values() if each.base == base)
    behind = frozenset(name for name in late if clients[name].base != foremost.base)
    for name in late:
        clients[name].take_over(foremost)
    return behind


def _settle(
    server: FederatedServer, clients: Mapping[ClientId, FederatedClient], exchange: InProcess
) -> frozenset[ClientId]:
    """After the last round: everybody gets the last model, from the server, a sealed sum or a peer."""
    if server.base is None:
        for client in clients.values():
            client.take_model(server.model)
        return frozenset()
    _deliver(server, exchange)
    return _bring_along(clients, clients)


def _loaded(model: nn.Module, state: State) -> nn.Module:
    trained = copy.deepcopy(model)
    trained.load_state_dict(dict(state))
    return trained


def _entropy(seed: int | None, purpose: str) -> Entropy:
    return os.urandom if seed is None else SeededEntropy(seed.to_bytes(16, "big"), purpose.encode())


def _check(
    rounds: int, seed: int, drop: Drop, names: tuple[str, ...], loaders: Mapping[ClientId, Loader]
) -> None:
    if type(rounds) is not int or rounds < 1:
        raise ParameterError(f"rounds is {rounds!r}; it must be an int of at least 1")
    if not loaders:
        raise ParameterError("loaders is empty; map each client's id to its examples")
    training_seed(seed=seed, round=0, client="")
    for number, lost in drop.items():
        if number not in range(rounds):
            raise ParameterError(f"somebody is lost in round {number!r}; the rounds are 0 to {rounds - 1}")
        for client, name in lost.items():
            if client not in loaders:
                raise ParameterError(f"{client!r} is to be lost and is no client; they are {list(loaders)}")
            if name not in names:
                raise ParameterError(f"{client!r} is to miss {name!r}; the exchanges are {list(names)}")


def _check_weights(
    protocol: MachineProtocol, clients: Mapping[ClientId, FederatedClient], *, length: int
) -> None:
    """Everything that a protocol can refuse in an update, before anything runs; the heaviest client first."""
    for name in sorted(clients, key=lambda name: -clients[name].weight):
        weight = clients[name].weight
        try:
            protocol.suite.surface.check(np.zeros(length), length=length, weight=weight, metrics={})
        except ParameterError as error:
            raise ParameterError(f"{name!r} has {weight} examples, its weight in the mean: {error}") from None
