"""A training between its first and last round: all parties in one process, and what the loop remembers.

A round: whoever cannot follow takes the model from a peer; scales are fixed if they are not yet; the cohort
is asked; what moved nobody is remembered. Then come, where they are asked for, a checkpoint, an evaluation
and another checkpoint, and whoever watches is told. The first one stands before the evaluation, so that
nothing that fails there makes a round run again whose sum was opened (ATTACKS A10).
"""

from collections.abc import Collection, Mapping
from dataclasses import replace
from functools import partial
from typing import Final

from fl_integration.loop.alarm import Alarm
from fl_integration.loop.checkpoint import Checkpoint, Saved
from fl_integration.loop.cohorts import Sampling, Unmoved, common_base
from fl_integration.loop.evaluating import Evaluator
from fl_integration.loop.global_model import GlobalModel
from fl_integration.loop.in_process import InProcess
from fl_integration.loop.means import Means, added
from fl_integration.loop.noised import NoisedSite, NoisedSums
from fl_integration.loop.parties import FederatedClient, Surroundings
from fl_integration.loop.preparing import Prepared, check_adaptivity, site_of, surface_of
from fl_integration.loop.private import Budget, spent_in
from fl_integration.loop.rehearsal import Rehearsal, RehearsedEntropy
from fl_integration.loop.report import FederatedRun, Models, RoundReport, TrainingAborted
from fl_integration.loop.scales import fix_scales
from fl_integration.loop.serving import FederatedServer
from fl_integration.loop.side_sums import SideSums
from fl_integration.loop.watch import Bar, Watch, log_round
from fl_integration.site.site import SiteFailedError, copied
from fl_integration.vectors.autoclip import AutoClip
from protocols.identity import SERVER, ClientId, Identity, Roster
from protocols.interface import Learner, Sum
from protocols.machine.client import KEPT_RESULTS
from protocols.machine.parameters import MachineProtocol
from protocols.simulation import Traffic
from secagg.entropy import Entropy, draw
from secagg.errors import MissingExtraError, ParameterError, RoundAborted, VerificationError

try:
    from torch import nn
except ImportError as error:
    raise MissingExtraError(package="torch", extra="train") from error

__all__ = ["Training"]

_SCALES: Final = "scales"
_BEGUN: Final = "the training was interrupted in this round, whose noised vectors may have left"


class Training:
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
        sums: NoisedSums | None = None,
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
        self._means = Means(self._applied)
        self._sums = sums
        self._budget = None if sums is None else Budget(sums, prepared, saved)
        # A private training runs over the integer surface, which its plan has made wide enough.
        self._machines: MachineProtocol = protocol if sums is None else sums.plan.exact
        roster, session = Roster.of(*self._identities), draw(self._entropy("session"), 16)
        self.clients = {
            each.client: self._client(each, roster, session, start, saved) for each in self._identities
        }
        machine = self._machines.server(
            roster=roster, session=session, entropy=self._entropy(f"machine/{SERVER}")
        )
        if protocol.learns is Learner.SERVER:
            self.server = FederatedServer.knowing(machine, start=start, sums=sums)
        else:
            base = next(iter(self.clients.values())).base
            length = prepared.layout.length if sums is None else sums.length
            self.server = FederatedServer.blind(machine, length=length, base=base)
        self.exchange = InProcess(protocol.exchanges(first=True), self.clients, on_message=watch.on_message)
        self._side_sums: dict[str, SideSums] = {}
        self._unmoved = Unmoved(protocol, self.clients)
        self.history: list[RoundReport] = []
        self._failed: dict[ClientId, SiteFailedError] = {}
        self._culprits: set[ClientId] = set()
        self._handed_over: set[ClientId] = set()
        if saved is not None:
            self.history += saved.history
            self._culprits |= saved.culprits
            self._handed_over |= saved.handed_over
            self._means.recall(saved.history)
            self._unmoved.seen |= saved.seen
            for contributors in saved.seen:  # the new server has to know whose sums somebody saw, too
                self.server.machine.remember(
                    contributors,
                    culprits=saved.culprits.union(*(report.culprits for report in saved.history)),
                    model=self.server.body,
                    head=b"" if self.server.model is not None else self.server.base or b"",
                )

    def _client(
        self, identity: Identity, roster: Roster, session: bytes, start: GlobalModel, saved: Saved | None
    ) -> FederatedClient:
        name, protocol = identity.client, self._protocol
        entropy = self._entropy(f"machine/{name}")
        machine = self._machines.client(
            identity=identity,
            roster=roster,
            session=session,
            policy=None if self._sums is None else self._sums.plan.policy,
            entropy=entropy,
        )
        site = site_of(name, self._prepared)
        if saved is not None:
            site.own = saved.own[name]
        around = Surroundings(
            learns=protocol.learns,
            surface=surface_of(protocol),
            auto_clip=self._clip,
            rehearse=entropy.at if isinstance(entropy, RehearsedEntropy) else None,
        )
        noised = None
        if self._sums is not None and self._budget is not None:
            # A stream for each purpose and round, whose repetition is a rehearsal's affair.
            noised = NoisedSite(
                self._sums,
                site=site,
                account=self._budget.account(name),
                entropy=lambda purpose: self._rehearsal.entropy(f"{purpose}/{name}", first_round=0),
            )
        return FederatedClient(
            machine, site=site, start=start, around=around, on_model=self._means.applied, noised=noised
        )

    def run(self) -> FederatedRun:
        """All rounds that are left, and the end."""
        rounds, stopped = self._prepared.rounds, ""
        if self._evaluator.on_sites is None and self._evaluator.asks(self.history):
            self._evaluate(self._first - 1)
            self._save(self._first)
        with Bar(self._watch, rounds=rounds, done=self._first) as bar:
            for number in range(self._first, rounds):
                if stopped := self._evaluator.stops(self.history) or spent_in(self.exchange.failures):
                    break
                self._begin(number)
                self._round(number)
                bar.update(self.history[-1])
        return self._ended(stopped)

    def _begin(self, number: int) -> None:
        """A private round that was begun is not begun again, whatever becomes of it: vectors may leave."""
        if self._budget is not None and self._disk is not None:
            asked = frozenset(self._wanted(number))
            self.history.append(RoundReport(number=number, asked=asked, aborted=_BEGUN))
            self._save(number + 1)
            self.history.pop()

    def _round(self, number: int) -> None:
        wanted = self._wanted(number)
        self._bring_along(self._left_behind(number, wanted))
        self.exchange.begin(number, self._rehearsal.drop.get(number, {}))
        asked = self._cohort(wanted) if self._lacks_scales() else wanted
        try:
            side = self._fix_scales(number, asked)
        except RoundAborted as error:
            report = self._without_scales(number, asked, error)
        else:
            report = replace(self._collect(number, wanted), side_traffic=side)
        for client in self.clients.values():
            client.drop_ahead()
        self._refuse_what_never_works(report)
        self.history.append(report)
        if self._evaluator.is_due(number) or self._disk is not None:
            self._unmoved.settle(self._deliver)
            self._recount()
            self._look_back()
        if self._evaluator.asks(self.history):
            # A sum of counts that was begun is not begun again, whatever becomes of it (ATTACKS A10).
            begun = self._evaluator.on_sites is not None
            self.history[-1] = replace(self.history[-1], evaluated=begun)
            self._save(number + 1)
            self._evaluate(number)
        self._save(number + 1)
        said = {name: each.logged for name, each in self.exchange.failures.items()}
        log_round(self.history[-1], self._prepared.rounds, said=said)
        if self._watch.on_round is not None:
            self._watch.on_round(self.history[-1])

    def _wanted(self, number: int) -> tuple[ClientId, ...]:
        """Whom the round shall ask: everybody, or a sample; of no culprits, where enough others are left."""
        members = tuple(self.clients)
        if self._sampling is None:
            return members
        honest = tuple(name for name in members if name not in self._culprits)
        drawn_from = honest if len(honest) >= self._sampling.size else members
        return self._sampling.cohort(drawn_from, seed=self._prepared.seed, round=number)

    def _cohort(self, wanted: tuple[ClientId, ...]) -> tuple[ClientId, ...]:
        """Whom it asks, in view of the sums that were seen and moved nobody."""
        if self._sums is not None:
            return wanted  # the noise is planned for so many, and holds against differences of sums
        return self._unmoved.next_cohort(self._culprits, deliver=self._deliver, wanted=wanted)

    def _left_behind(self, number: int, wanted: Collection[ClientId]) -> list[ClientId]:
        """Who cannot catch up with sums that wait: they are gone, or the others went on from another copy."""
        most, lost = self._foremost().opened, self._rehearsal.drop.get(number, {})
        # The sealed sum of the round before is still on its way, and takes the place of the oldest.
        far = {name for name in wanted if most - self.clients[name].opened >= KEPT_RESULTS}
        return [name for name, each in self.clients.items() if each.stranded or name in far.difference(lost)]

    def _collect(self, number: int, wanted: tuple[ClientId, ...]) -> RoundReport:
        """One round of the protocol: its report; in an aborted one the model is as it was."""
        cohort = self._cohort(wanted)
        failed: RoundAborted | None = None
        outcome = None
        try:
            outcome = self.server.round(number, cohort, self.exchange)
        except RoundAborted as error:
            failed = error
        hollow = {name: self.clients[name].hollow for name in cohort}
        self.exchange.failures |= {name: error for name, error in hollow.items() if error is not None}
        if outcome is not None and outcome.total is not None and self.server.model is not None:
            self._means.applied(number, outcome.total, self.server.model)
        traffic, seconds = self.exchange.costs()
        record = self.server.machine.record().record
        counted = [self.clients[name] for name in sorted(record.contributors)]
        clipped = self._alarm.clipped(number, counted)
        self._alarm.of_scales(number, [self.clients[name] for name in cohort])
        report = RoundReport(
            number=number,
            asked=frozenset(cohort),
            contributors=record.contributors,
            dropped={**record.dropped, **self._reasons()},
            culprits=record.culprits,
            total_weight=self._means.weight(number),
            aborted=record.aborted,
            epsilon=None if self._budget is None else self._budget.spent,
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
        """If no site ever contributed and each failed when it was last asked, no later round does better."""
        with_something = [*(each.contributors for each in self.history), self._not_hollow(report)]
        if any(with_something):
            return
        for name in report.asked:
            self._failed.pop(name, None)
        self._failed |= self.exchange.failures
        lost = self._rehearsal.drop.get(report.number, {})
        if self._failed and self._failed.keys() | lost.keys() >= self.clients.keys():
            said = "; ".join(f"{name!r}: {error}" for name, error in self._failed.items())
            raise ParameterError(f"no site can take part: {said}") from next(iter(self._failed.values()))

    def _not_hollow(self, report: RoundReport) -> frozenset[ClientId]:
        """Who added more than noise; without privacy, who contributed."""
        return frozenset(name for name in report.contributors if self.clients[name].hollow is None)

    def _lacks_scales(self) -> bool:
        return self._clip is not None and (self.server.model or self._foremost().model).scales is None

    def _fix_scales(self, number: int, cohort: Collection[ClientId]) -> dict[str, Traffic]:
        """The scales of the updates, before the first round that can be summed; bytes by party.

        Raises:
            RoundAborted: their sum did not end; it is tried again in the next round.
        """
        if self._clip is None or not self._lacks_scales():
            return {}
        segments = self._prepared.layout.segments
        sums = self._side(_SCALES, self._clip.largest_count(segments), self._clip.length(segments))
        traffic = fix_scales(self._clip, sums, number, self.clients, self.server, cohort=cohort)
        if self.server.model is None:
            scaled = {name: each for name, each in self.clients.items() if each.model.scales is not None}
            self._bring_along(list(self.clients), among=scaled)
        self._check_steps()
        return traffic

    def _check_steps(self) -> None:
        """Whether the optimiser is told from the rounding, now that the grid of each entry is known."""
        layout, scales = self._prepared.layout, (self.server.model or self._foremost().model).scales
        if scales is not None:
            largest_step = surface_of(self._protocol).codec.largest_step
            check_adaptivity(layout.optimiser, step=float(scales.max()) / largest_step)

    def _without_scales(self, number: int, cohort: Collection[ClientId], error: RoundAborted) -> RoundReport:
        """The report of a round that had no scales to begin with."""
        sums = self._side_sums[_SCALES]
        self.exchange.failures.update(sums.failures)
        self.exchange.refusals.update(sums.refusals)
        self._culprits |= error.culprits
        if error.opened:
            self._unmoved.seen.add(error.opened)
        return RoundReport(
            number=number,
            asked=frozenset(cohort),
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
        model = self.server.model or self._foremost().model
        on_sites = self._evaluator.on_sites
        traffic: dict[str, Traffic] = {}
        dropped: dict[ClientId, str] = {}
        if on_sites is None:
            figures = self._evaluator.at_one_place(number, partial(self._prepared.module, model))
        else:
            # The largest group's counts are summed; it must not be one that is behind.
            lost = self._rehearsal.drop.get(number, {})
            self._bring_along([name for name in on_sites.data if name not in lost])
            figures, traffic, dropped = self._evaluator.through_a_sum(
                number,
                self.clients,
                self._side("evaluation", on_sites.max_summand, on_sites.length),
                model=self.server.body,
                learns=self._protocol.learns,
            )
        side = added(report.side_traffic, traffic)
        self.history[-1] = replace(
            report,
            evaluated=True,
            evaluation=figures,
            evaluation_dropped=dropped,
            side_traffic=side,
        )

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

    def _save(self, next_round: int) -> None:
        if self._disk is None:
            return
        self._disk.save(
            Saved(
                next_round=next_round,
                model=self.server.model or self._foremost().model,
                own={name: each.site.own for name, each in self.clients.items()},
                history=tuple(self.history),
                culprits=frozenset(self._culprits),
                handed_over=frozenset(self._handed_over),
                seen=frozenset(self._unmoved.seen),
                account=b"" if self._budget is None else self._budget.saved,
            )
        )

    def _deliver(self) -> None:
        """Brings sealed sums to their clients, which open them."""
        for sender, reply in self.exchange(self.server.machine.deliver()):
            self.server.machine.receive(sender, reply)

    def _recount(self) -> None:
        """What the last round has cost by now."""
        traffic, seconds = self.exchange.costs()
        self.history[-1] = replace(self.history[-1], traffic=traffic, seconds=seconds)

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
        for client in (self.clients[name] for name in late):
            if client.base != foremost.base:
                self._handed_over.add(client.name)
            if client.stranded or client.base != foremost.base:
                client.take_over(foremost)

    def _ended(self, stopped: str) -> FederatedRun:
        """Everybody gets the last model, from the server, a sealed sum or a peer: the same everywhere."""
        if self.server.model is None:
            last = self.history[-1]
            self.exchange.begin(last.number, {})
            self._deliver()
            traffic, seconds = self.exchange.costs()
            if any(each.sent for each in traffic.values()):
                self.history[-1] = replace(
                    last,
                    traffic=added(last.traffic, traffic),
                    seconds={party: last.seconds.get(party, 0.0) + s for party, s in seconds.items()},
                )
            self._bring_along(list(self.clients))
        self._look_back()
        history = tuple(self.history)
        if all(report.total_weight is None for report in history):
            said = next((report.aborted for report in reversed(history) if report.aborted), "no sum opened")
            raise TrainingAborted(
                f"none of {len(history)} rounds had a mean; the last said: {said}", history=history
            )
        final = self.server.model or self._foremost().model
        if self.server.model is None and not all(each.model.equals(final) for each in self.clients.values()):
            raise VerificationError("the parties did not end with bit-identical models; this is a fault")
        trained = self._prepared.module(final)
        return FederatedRun(
            model=trained,
            models=Models({n: partial(_own_model, each, final) for n, each in self.clients.items()}),
            history=history,
            digest=self._prepared.digest_of(trained),
            handed_over=frozenset(self._handed_over),
            stopped=stopped,
            privacy=None if self._sums is None else self._sums.plan,
        )

    def _applied(self, number: int, total: Sum, model: GlobalModel) -> None:
        if self._watch.on_model is not None:
            self._watch.on_model(number, total, self._prepared.state(model))

    def _entropy(self, purpose: str) -> Entropy:
        return self._rehearsal.entropy(purpose, first_round=self._first)


def _own_model(client: FederatedClient, model: GlobalModel) -> nn.Module:
    return copied(client.site.load(model.values))
