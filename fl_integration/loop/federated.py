"""The federated loop over any `SumProtocol`, whoever learns the sum.

FedAvg (McMahan et al., AISTATS'17) with the weighted mean taken inside a secure sum, and any server optimiser
over the mean (Reddi et al., ICLR'21). In each round a client trains from the global model and contributes
what changed, weighted by its number of examples; the weights are in the sum too, so nobody learns another's.
The loop drives the protocol's own machines through `run_round`; what moves the bytes is one `exchange`
function, here `InProcess`, and may be replaced.

* `Learner.SERVER`: the model goes down with the request for the update, and the server applies the mean.
* `Learner.CLIENTS`: the server never knows the model. All clients begin from the same one; a round's sealed
  sum rides on the next start, and each client opens it and moves its own copy before it trains again. One
  that was away catches up when it is back. With its update each names the copy that it trained from, and the
  largest group is summed; whoever the others left behind takes the model from one of them.

Nothing in it is silent. A site that cannot train sits the round out, with its reason in the report. A round
that fails costs that round; if all fail, the training raises. Values that are clipped are counted by entry,
and a warning says what to do. A client that an aborted round names as the culprit is not asked again, as long
as enough are left without it. A sum that was opened and then refused (`RoundAborted.opened`) is tried again
with its very contributors: with one of them less, the two sums would tell that one's update.

Every client draws its batches from (seed, round, client), so two runs from equal models train equally,
whatever protocol is between them: `fedavg` is the same loop without one, in plain floating point.

Not protected: what the mean itself says, round after round. With three clients each can subtract its own part
and sees the sum of the other two. An update that lies is not detected.

>>> import torch
>>> from protocols import MaskedSum
>>> x = torch.linspace(-1, 1, 12).unsqueeze(1)
>>> sites = {name: [(x[i::3], 2 * x[i::3])] for i, name in enumerate(["basel", "graz", "wien"])}
>>> local = LocalTraining(loss=torch.nn.functional.mse_loss, learning_rate=0.35)
>>> protocol = MaskedSum(max_clients=3, max_weight=4)
>>> run = federate(protocol, torch.nn.Linear(1, 1), sites, local=local, rounds=15)
>>> bool(abs(run.model.weight.item() - 2) < 0.05), run.history[0].total_weight
(True, 12)
"""

import os
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Final, TypeAlias

import numpy as np

from fl_integration.loop.alarm import Alarm
from fl_integration.loop.checkpoint import Checkpoint, Saved
from fl_integration.loop.cohorts import Sampling, Unmoved, common_base
from fl_integration.loop.evaluating import Evaluator
from fl_integration.loop.evaluation import Evaluation, Metric
from fl_integration.loop.global_model import GlobalModel
from fl_integration.loop.in_process import Drop, InProcess, check_drop
from fl_integration.loop.optimisers import FedAvg, ServerOptimiser
from fl_integration.loop.parties import FederatedClient, FederatedServer, Surroundings
from fl_integration.loop.preparing import Prepared, Shared, fingerprint_of, prepare, site_of
from fl_integration.loop.report import FederatedRun, Models, RoundReport, TrainingAborted
from fl_integration.loop.scales import fix_scales
from fl_integration.loop.side_sums import SideSums
from fl_integration.loop.watch import Bar, Watch, log_round
from fl_integration.site.site import copied
from fl_integration.site.step import Step
from fl_integration.site.training import LocalTraining
from fl_integration.vectors.autoclip import AutoClip
from protocols.identity import SERVER, ClientId, Identity, Roster
from protocols.interface import Learner, Sum
from protocols.machine.parameters import MachineProtocol
from protocols.simulation import Traffic
from secagg.entropy import Entropy, SeededEntropy, draw
from secagg.errors import MissingExtraError, ParameterError, RoundAborted, VerificationError
from secagg.numbers import plain

try:
    from torch import nn
except ImportError as error:
    raise MissingExtraError(package="torch", extra="train") from error

__all__ = ["InProcess", "LocalTraining", "Rehearsal", "federate"]

_SCALES: Final = "scales"

Sites: TypeAlias = Mapping[ClientId, object]
"""Each site's data, as its step takes them: for `LocalTraining` a DataLoader, or a list of pairs (x, y)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rehearsal:
    """What only tests and demonstrations need.

    Args:
        drop: who vanishes, when: round (from 0) -> client -> the first exchange that it does not answer.
        protocol_seed: with one, in [0, 2**128), the protocol's randomness repeats and is as secret as this
        number.

    Raises:
        ParameterError: the seed is outside its range.
    """

    drop: Drop = field(default_factory=dict)
    protocol_seed: int | None = None

    def __post_init__(self) -> None:
        seed = plain(self.protocol_seed)
        if seed is not None and (type(seed) is not int or not 0 <= seed < 1 << 128):
            raise ParameterError(f"protocol_seed is {seed!r}; it must be None or an int in [0, 2**128)")
        object.__setattr__(self, "protocol_seed", seed)


def federate(
    protocol: MachineProtocol,
    model: nn.Module,
    sites: Sites,
    *,
    local: Step,
    rounds: int,
    server_optimiser: ServerOptimiser = FedAvg(),  # noqa: B008  (frozen)
    shared: Shared | None = None,
    clip: AutoClip | None = None,
    evaluate: Evaluation | Metric | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    sampling: Sampling | None = None,
    seed: int = 0,
    watch: Watch = Watch(),  # noqa: B008  (frozen)
    rehearsal: Rehearsal = Rehearsal(),
) -> FederatedRun:
    """Trains one model on everybody's examples, all parties in this process.

    Args:
        protocol: any protocol; its `max_weight` must admit the largest number of examples. A metric `loss` of
            its `metrics` is the training loss.
        model: architecture and initial values; it is left alone.
        sites: each client's data; the order of the keys is the roster's.
        local: what a site does in a round: `LocalTraining(loss=…, learning_rate=…)`, or a step of your own,
            `local(model, data, *, seed) -> weight`, which trains the model in place.
        rounds: at least 1, those of a checkpoint included.
        server_optimiser: what a mean does to the model.
        shared: which entries of the model travel, a predicate on their names (see `sharing`); the rest stays
            at its site. Left out: all but frozen parameters and what only they move.
        clip: `AutoClip()` gives each entry of the update a public scale of its own, fixed by one small exact
            sum before the first round; the protocol's clip is then 1.0.
        evaluate: `OnSites(…)`, `Central(…)`, or a callback `(round, model) -> {name: figure}`.
        checkpoint: a folder; written after each round, and taken up if it holds this training.
        sampling: `Sampling(size=…)` asks so many sites a round; everybody if left out.
        seed: of local training and sampling, in [0, 2**63).
        watch: callbacks, and the progress bar, which shows on a terminal.
        rehearsal: what only tests need.

    Raises:
        ParameterError: an argument can never work (nothing has run), or no site can train.
        RoundAborted: no round had a mean; its `history` says why, round by round.
        VerificationError: the parties did not end with identical models.
    """
    rounds, seed = plain(rounds), plain(seed)
    names = protocol.exchanges(first=True)
    prepared = prepare(
        model,
        sites,
        local=local,
        rounds=rounds,
        seed=seed,
        optimiser=server_optimiser,
        shared=shared,
        surface=protocol.suite.surface,
        clip=clip,
    )
    check_drop(rehearsal.drop, rounds=rounds, names=names, clients=sites)
    if sampling is not None:
        sampling.check(protocol, sites)
    evaluator = Evaluator(evaluate, rounds=rounds, sites=sites, protocol=protocol)
    disk, saved = None, None
    if checkpoint is not None:
        told = fingerprint_of(prepared, protocol, sites, seed=seed, clip=clip, sampling=sampling)
        disk = Checkpoint(Path(checkpoint), told)
        saved = disk.load(prepared.start)
        if saved is not None and saved.next_round > rounds:
            raise ParameterError(
                f"the checkpoint is of a training after {saved.next_round} rounds, and rounds is {rounds}; "
                "ask for more, or name another folder"
            )
    training = _Training(
        protocol,
        prepared,
        saved,
        disk=disk,
        evaluator=evaluator,
        clip=clip,
        sampling=sampling,
        watch=watch,
        rehearsal=rehearsal,
    )
    return training.run()


class _Training:
    """A training between its first and last round: all parties, and what the loop remembers."""

    def __init__(
        self,
        protocol: MachineProtocol,
        prepared: Prepared,
        saved: Saved | None,
        *,
        disk: Checkpoint | None,
        evaluator: Evaluator,
        clip: AutoClip | None,
        sampling: Sampling | None,
        watch: Watch,
        rehearsal: Rehearsal,
    ) -> None:
        self._protocol, self._prepared, self._disk = protocol, prepared, disk
        self._evaluator, self._clip, self._sampling = evaluator, clip, sampling
        self._watch, self._rehearsal, self._alarm = watch, rehearsal, Alarm(prepared.layout, clip)
        self._first = 0 if saved is None else saved.next_round
        start = prepared.start if saved is None else saved.model
        self._identities = [
            Identity.generate(name, entropy=self._entropy(f"key/{name}")) for name in prepared.sites
        ]
        self._means = _Means(self._applied)
        roster, session = Roster.of(*self._identities), draw(self._entropy("session"), 16)
        self.clients = {
            each.client: self._client(each, roster, session, start, saved) for each in self._identities
        }
        machine = protocol.server(roster=roster, session=session, entropy=self._entropy(f"machine/{SERVER}"))
        if protocol.learns is Learner.SERVER:
            self.server = FederatedServer.knowing(machine, start=start)
        else:
            base = next(iter(self.clients.values())).base
            self.server = FederatedServer.blind(machine, length=prepared.layout.length, base=base)
        self.exchange = InProcess(protocol.exchanges(first=True), self.clients, on_message=watch.on_message)
        self._side_sums: dict[str, SideSums] = {}
        self._unmoved = Unmoved(protocol, self.clients)
        self.history: list[RoundReport] = []
        self._culprits: set[ClientId] = set()
        self._handed_over: set[ClientId] = set()
        if saved is not None:
            self.history += saved.history
            self._culprits |= saved.culprits
            self._handed_over |= saved.handed_over
            self._unmoved.seen |= saved.seen
            self._means.recall(saved.history)

    def _client(
        self, identity: Identity, roster: Roster, session: bytes, start: GlobalModel, saved: Saved | None
    ) -> FederatedClient:
        name, protocol = identity.client, self._protocol
        entropy = self._entropy(f"machine/{name}")
        machine = protocol.client(identity=identity, roster=roster, session=session, entropy=entropy)
        site = site_of(name, self._prepared)
        if saved is not None:
            site.own = saved.own[name]
        around = Surroundings(
            learns=protocol.learns,
            surface=protocol.suite.surface,  # type: ignore[arg-type]  # `prepare` looked at it
            auto_clip=self._clip,
            rehearse=entropy.at if isinstance(entropy, _Rehearsed) else None,
        )
        return FederatedClient(machine, site=site, start=start, around=around, on_model=self._means.applied)

    def run(self) -> FederatedRun:
        """All rounds that are left, and the end."""
        rounds, stopped = self._prepared.rounds, ""
        with Bar(self._watch, rounds=rounds, done=self._first) as bar:
            for number in range(self._first, rounds):
                if stopped := self._evaluator.stops(self.history):
                    break
                self._round(number)
                bar.update(self.history[-1])
        return self._ended(stopped)

    def _round(self, number: int) -> None:
        self._bring_along([name for name, each in self.clients.items() if each.stranded])
        self.exchange.begin(number, self._rehearsal.drop.get(number, {}))
        try:
            side = self._fix_scales(number)
        except RoundAborted as error:
            report = self._without_scales(number, error)
        else:
            report = replace(self._collect(number), side_traffic=side)
        self._refuse_what_never_works(report)
        self.history.append(report)
        if self._evaluator.is_due(number) or self._disk is not None:
            self._deliver()
            self._unmoved.settled()
            self._look_back()
        self._evaluate(number)
        if self._disk is not None:
            self._disk.save(self._saved(number + 1))
        log_round(self.history[-1], self._prepared.rounds)
        if self._watch.on_round is not None:
            self._watch.on_round(self.history[-1])

    def _collect(self, number: int) -> RoundReport:
        """One round of the protocol: its report; in an aborted one the model is as it was."""
        wanted = None
        if self._sampling is not None:
            members = tuple(self.clients)
            wanted = self._sampling.cohort(members, seed=self._prepared.seed, round=number)
        cohort = self._unmoved.next_cohort(self._culprits, deliver=self._deliver, wanted=wanted)
        failed: RoundAborted | None = None
        outcome = None
        try:
            outcome = self.server.round(number, cohort, self.exchange)
        except RoundAborted as error:
            failed = error
        if outcome is not None and outcome.total is not None and self.server.model is not None:
            self._means.applied(number, outcome.total, self.server.model)
        traffic, seconds = self.exchange.costs()
        record = self.server.machine.record().record
        counted = [self.clients[name] for name in sorted(record.contributors)]
        clipped = self._alarm.clipped(number, counted)
        report = RoundReport(
            number=number,
            asked=frozenset(cohort),
            contributors=record.contributors,
            dropped={**record.dropped, **self._reasons()},
            culprits=record.culprits,
            total_weight=self._means.weight(number),
            aborted=record.aborted,
            clipped={each.name: sum(each.clipped.values()) for each in counted},
            clipped_share=clipped.share,
            clipped_entries=clipped.entries,
            metrics=self._means.metrics(number),
            traffic=traffic,
            seconds=seconds,
        )
        self._unmoved.ended(record.contributors, failed)
        self._culprits |= failed.culprits if failed is not None else frozenset()
        return report

    def _refuse_what_never_works(self, report: RoundReport) -> None:
        """If no site ever contributed and now none can, no later round will do better."""
        failures = self.exchange.failures
        if any(each.contributors for each in [*self.history, report]) or not failures:
            return
        if failures.keys() >= report.asked.difference(self._rehearsal.drop.get(report.number, {})):
            said = "; ".join(f"{name!r}: {error}" for name, error in failures.items())
            raise ParameterError(f"no site can take part: {said}") from next(iter(failures.values()))

    def _fix_scales(self, number: int) -> dict[str, Traffic]:
        """The scales of the updates, before the first round that can be summed; bytes by party.

        Raises:
            RoundAborted: their sum did not end; it is tried again in the next round.
        """
        if self._clip is None or (self.server.model or self._foremost().model).scales is not None:
            return {}
        segments = self._prepared.layout.segments
        sums = self._side(_SCALES, self._clip.largest_count(segments), self._clip.length(segments))
        asked = {name: self.clients[name] for name in self._unmoved.all_but(self._culprits)}
        traffic = fix_scales(self._clip, sums, number, asked, self.server)
        if self.server.model is None:
            scaled = {name: each for name, each in asked.items() if each.model.scales is not None}
            self._bring_along(list(self.clients), among=scaled)
        return traffic

    def _without_scales(self, number: int, error: RoundAborted) -> RoundReport:
        """The report of a round that had no scales to begin with."""
        sums = self._side_sums[_SCALES]
        self.exchange.failures.update(sums.failures)
        self.exchange.refusals.update(sums.refusals)
        asked = self._unmoved.all_but(self._culprits)
        self._culprits |= error.culprits
        return RoundReport(
            number=number,
            asked=frozenset(asked),
            aborted=f"the scales were not fixed: {error.reason}",
            dropped=self._reasons(),
            culprits=error.culprits,
            side_traffic=sums.traffic,
        )

    def _reasons(self) -> dict[ClientId, str]:
        """Why sites did not take part, in their own words."""
        failed = {name: each.reason for name, each in self.exchange.failures.items()}
        return {**self.exchange.refusals, **failed}

    def _evaluate(self, number: int) -> None:
        report = self.history[-1]
        if not self._evaluator.is_due(number) or report.total_weight is None:
            return
        model = self.server.model or self._foremost().model
        on_sites = self._evaluator.on_sites
        traffic: dict[str, Traffic] = {}
        if on_sites is None:
            figures = self._evaluator.at_one_place(number, partial(self._prepared.module, model))
        else:
            figures, traffic = self._evaluator.through_a_sum(
                number,
                self.clients,
                self._side("evaluation", on_sites.max_summand, on_sites.length),
                model=self.server.body,
                learns=self._protocol.learns,
            )
        side = _added(report.side_traffic, traffic)
        self.history[-1] = replace(report, evaluation=figures, side_traffic=side)

    def _side(self, purpose: str, max_summand: int, length: int) -> SideSums:
        if purpose not in self._side_sums:
            self._side_sums[purpose] = SideSums(
                self._protocol,
                max_summand=max_summand,
                length=length,
                identities=self._identities,
                entropy=lambda party: self._entropy(f"{purpose}/{party}"),
                on_message=self._watch.on_message,
            )
        return self._side_sums[purpose]

    def _saved(self, next_round: int) -> Saved:
        return Saved(
            next_round=next_round,
            model=self.server.model or self._foremost().model,
            own={name: each.site.own for name, each in self.clients.items()},
            history=tuple(self.history),
            culprits=frozenset(self._culprits),
            handed_over=frozenset(self._handed_over),
            seen=frozenset(self._unmoved.seen),
        )

    def _deliver(self) -> None:
        """Brings sealed sums to their clients, which open them."""
        for sender, reply in self.exchange(self.server.machine.deliver()):
            self.server.machine.receive(sender, reply)

    def _look_back(self) -> None:
        """What is known of each round by now."""
        self.history = [
            replace(
                report,
                total_weight=self._means.weight(report.number),
                metrics=self._means.metrics(report.number),
            )
            for report in self.history
        ]

    def _foremost(self, among: Mapping[ClientId, FederatedClient] | None = None) -> FederatedClient:
        clients = self.clients if among is None else among
        base = common_base(clients)
        return next(each for each in clients.values() if each.base == base)

    def _bring_along(
        self, late: Collection[ClientId], *, among: Mapping[ClientId, FederatedClient] | None = None
    ) -> None:
        """Those of `late` whose model is not that of the largest group (`among` these) take it from there."""
        if self.server.model is not None:
            return
        foremost = self._foremost(among)
        self._handed_over |= {name for name in late if self.clients[name].base != foremost.base}
        for name in late:
            self.clients[name].take_over(foremost)

    def _ended(self, stopped: str) -> FederatedRun:
        """Everybody gets the last model, from the server, a sealed sum or a peer: the same everywhere."""
        self.exchange.begin(self._prepared.rounds, {})
        if self.server.model is None:
            self._deliver()
            self._bring_along(list(self.clients))
        self._look_back()
        history = tuple(self.history)
        if all(report.total_weight is None for report in history):
            last = next((report.aborted for report in reversed(history) if report.aborted), "no sum opened")
            raise TrainingAborted(
                f"none of {len(history)} rounds had a mean; the last said: {last}", history=history
            )
        final = self.server.model or self._foremost().model
        if self.server.model is None:
            for client in self.clients.values():
                if client.base != self._foremost().base or not np.array_equal(
                    client.model.values, final.values
                ):
                    raise VerificationError(
                        "the parties did not end with bit-identical models; this is a fault"
                    )
        else:
            body = self.server.body
            for client in self.clients.values():
                client.take_model(body)
        trained = self._prepared.module(final)
        return FederatedRun(
            model=trained,
            models=Models({n: partial(_own_model, each, final) for n, each in self.clients.items()}),
            history=history,
            digest=self._prepared.digest_of(trained),
            handed_over=frozenset(self._handed_over),
            stopped=stopped,
        )

    def _applied(self, number: int, total: Sum, model: GlobalModel) -> None:
        if self._watch.on_model is not None:
            self._watch.on_model(number, total, self._prepared.state(model))

    def _entropy(self, purpose: str) -> Entropy:
        seed = self._rehearsal.protocol_seed
        return os.urandom if seed is None else _Rehearsed(seed, f"{purpose}/{self._first}")


def _own_model(client: FederatedClient, model: GlobalModel) -> nn.Module:
    return copied(client.site.load(model.values))


def _added(one: Mapping[str, Traffic], other: Mapping[str, Traffic]) -> dict[str, Traffic]:
    none = Traffic(0, 0)
    return {
        party: Traffic(
            one.get(party, none).sent + other.get(party, none).sent,
            one.get(party, none).received + other.get(party, none).received,
        )
        for party in {**one, **other}
    }


class _Rehearsed:
    """Randomness that repeats, and whose stream for an update depends on the round alone.

    How much a machine drew before depends on whether a round is the first of its session; the rounding of an
    update must not, or a training that was taken up again would differ from one that was not interrupted.
    """

    def __init__(self, seed: int, purpose: str) -> None:
        self._seed, self._purpose = seed.to_bytes(16, "big"), purpose
        self._stream = SeededEntropy(self._seed, purpose.encode())

    def __call__(self, size: int) -> bytes:
        return self._stream(size)

    def at(self, round: int) -> None:
        """What is drawn from here on belongs to this round's update."""
        party = self._purpose.rpartition("/")[0]
        self._stream = SeededEntropy(self._seed, f"{party}/update/{round}".encode())


@dataclass(slots=True)
class _Means:
    """Which rounds' means somebody has applied."""

    then: Callable[[int, Sum, GlobalModel], None]
    _weights: dict[int, int] = field(default_factory=dict)
    _metrics: dict[int, dict[str, float]] = field(default_factory=dict)

    def applied(self, number: int, total: Sum, model: GlobalModel) -> None:
        """A party applied this round's sum."""
        if number in self._weights:
            return
        self._weights[number], self._metrics[number] = total.total_weight, dict(total.metrics)
        self.then(number, total, model)

    def recall(self, history: Collection[RoundReport]) -> None:
        """Rounds before a training was taken up again."""
        for report in history:
            if report.total_weight is not None:
                self._weights[report.number] = report.total_weight
                self._metrics[report.number] = report.metrics

    def weight(self, number: int) -> int | None:
        """The total weight of a round whose mean was applied."""
        return self._weights.get(number)

    def metrics(self, number: int) -> dict[str, float]:
        """Its metrics."""
        return self._metrics.get(number, {})
