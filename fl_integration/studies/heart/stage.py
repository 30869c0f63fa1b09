"""The stage of one act: the same hospitals, and how every way to train runs on it and is judged."""

from collections.abc import Callable, Collection, Mapping
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import torch

from fl_integration.loop.federated import federate
from fl_integration.loop.parties import State
from fl_integration.loop.plain import fedavg
from fl_integration.loop.rehearsal import Rehearsal
from fl_integration.loop.report import RoundReport
from fl_integration.loop.watch import Progress, Watch
from fl_integration.site.site import Site as TrainingSite
from fl_integration.site.training import predict
from fl_integration.studies.heart.choices import Choice, short_name
from fl_integration.studies.heart.federation.folders import first_state
from fl_integration.studies.heart.federation.outcome import EngineRun
from fl_integration.studies.heart.findings import (
    Auc,
    Floats,
    Glimpse,
    Private,
    Row,
    Usage,
    interval,
    usage_of,
    usage_over,
)
from fl_integration.studies.heart.model import LOCAL, HeartModel, auc
from fl_integration.studies.heart.private import STEP, Promise
from fl_integration.studies.heart.records import FEATURES, Hospital, Site
from fl_integration.vectors.vectorise import flatten
from protocols import Message, Sum
from protocols.machine.parameters import MachineProtocol
from protocols.masked.collecting import received_values
from protocols.masked.messages import MaskedInput
from protocols.messages.envelope import Envelope
from protocols.messages.schema import decode
from protocols.simulation import Traffic

__all__ = ["Absent", "Stage", "Tick", "auc_together", "loader"]

Examples: TypeAlias = list[tuple[torch.Tensor, torch.Tensor]]

Absent: TypeAlias = Mapping[int, Collection[Site]]
"""Round (from 0) -> whose updates are not in its mean."""

Tick: TypeAlias = Callable[[str], None]
"""Called with a row's title after each of its rounds."""


class Stage:
    """The hospitals, and how every row of one act is trained and judged.

    Args:
        hospitals: who takes part.
        rounds, seed, tick: as in `run_act`.
    """

    def __init__(self, hospitals: tuple[Hospital, ...], *, rounds: int, seed: int, tick: Tick) -> None:
        self._hospitals, self._rounds, self._seed, self._tick = hospitals, rounds, seed, tick
        self._loaders = {hospital.site.value: loader(hospital) for hospital in hospitals}
        self._labels = np.concatenate([hospital.test_y for hospital in hospitals])

    def alone(self, hospital: Hospital) -> Row:
        """One hospital, on its own rows."""
        title, site = f"{short_name(hospital.site)} alone", hospital.site
        return self._by_one(title, "alone", site.value, self._loaders[site.value], site=site)

    def pooled(self) -> Row:
        """All rows in one pile."""
        pile = [piece for loader in self._loaders.values() for piece in loader]
        return self._by_one("all rows pooled", "pooled", "pooled", pile)

    def _by_one(self, title: str, kind: str, client: str, loader: Examples, site: Site | None = None) -> Row:
        """As many epochs as the hospitals take together, cut into as many rounds."""
        curve: list[float | None] = []

        def follow(number: int, total: Sum, state: State) -> None:
            curve.append(self._overall(_loaded(state)))
            self._tick(title)

        run = fedavg(
            HeartModel(),
            {client: loader},
            local=LOCAL,
            rounds=self._rounds,
            seed=self._seed,
            watch=Watch(on_model=follow, progress=Progress.NEVER),
        )
        trained = _loaded(run.model.state_dict())
        return self._row(trained, title=title, kind=kind, curve=curve, site=site)

    def plain(self, absent: Absent) -> tuple[Row, HeartModel]:
        """FedAvg in the clear, and its model."""
        model = HeartModel()
        models: dict[int, HeartModel] = {}

        def follow(number: int, total: Sum, state: State) -> None:
            models[number] = _loaded(state)

        run = fedavg(
            model,
            self._loaders,
            local=LOCAL,
            rounds=self._rounds,
            seed=self._seed,
            absent={number: {site.value for site in sites} for number, sites in absent.items() if sites},
            watch=Watch(
                on_model=follow,
                on_round=lambda report: self._tick("FedAvg in the clear"),
                progress=Progress.NEVER,
            ),
        )
        trained = _loaded(run.model.state_dict())
        row = self._row(
            trained,
            title="FedAvg in the clear",
            kind="plain",
            curve=self._curve(models),
            history=run.history,
        )
        return row, trained

    def over_engine(self, run: EngineRun, reference: HeartModel) -> Row:
        """The model that came out of a run over an engine."""
        models = {
            each.number: _loaded_from(each.state)
            for each in run.rounds
            if each.state is not None and not each.aborted
        }
        trained = models[max(models)] if models else _loaded_from(first_state())
        return self._row(
            trained,
            title=f"{run.choice.title} over {run.engine}",
            kind="engine",
            curve=self._curve(models, unseen=run.unseen),
            choice=run.choice,
            difference=float(np.abs(_vector(trained) - _vector(reference)).max()),
            history=tuple(_report(run, number) for number in range(len(run.rounds))),
            usage=usage_over(run),
        )

    def _curve(self, models: Mapping[int, HeartModel], *, unseen: Collection[int] = ()) -> list[float | None]:
        """AUC by round; one that changed nothing has that of the round before."""
        curve: list[float | None] = []
        for number in range(self._rounds):
            if number in unseen:
                curve.append(None)
            else:
                curve.append(self._overall(models[number]) if number in models else (curve or [0.5])[-1])
        return curve

    def secure(self, choice: Choice, reference: HeartModel, missing: Absent) -> tuple[Row, Glimpse | None]:
        """FedAvg through a protocol; for MaskedSum also what passed over the wire in the first round."""
        protocol = choice.protocol(clients=len(self._hospitals))
        models: dict[int, HeartModel] = {}
        sums: dict[int, Sum] = {}
        messages: list[Message] = []

        def follow(number: int, total: Sum, state: State) -> None:
            models[number], sums[number] = _loaded(state), total

        def listen(number: int, message: Message) -> None:
            if number == 0:
                messages.append(message)

        run = federate(
            protocol,
            HeartModel(),
            self._loaders,
            local=LOCAL,
            rounds=self._rounds,
            seed=self._seed,
            watch=Watch(
                on_round=lambda report: self._tick(choice.title),
                on_model=follow,
                on_message=listen,
                progress=Progress.NEVER,
            ),
            rehearsal=Rehearsal(drop=_drop(choice, missing), protocol_seed=self._seed),
        )
        trained = _loaded(run.model.state_dict())
        row = self._row(
            trained,
            title=choice.title,
            kind="secure" if choice is not Choice.PLAIN else "plain sum",
            curve=self._curve(models),
            choice=choice,
            difference=float(np.abs(_vector(trained) - _vector(reference)).max()),
            history=run.history,
            usage=usage_of(run, clients=tuple(self._loaders)),
        )
        glimpse = None
        if choice is Choice.MASKED and 0 in sums:
            glimpse = self._glimpse(protocol, messages, sums[0])
        return row, glimpse

    def private(self, promise: Promise, choice: Choice, missing: Absent) -> tuple[Row, Private]:
        """One step a round through a protocol, with noise in the sum; the stage is on the public scale."""
        clients, title = len(self._hospitals), f"{choice.title}, ε = {promise.epsilon:g}"
        models: dict[int, HeartModel] = {}

        def follow(number: int, total: Sum, state: State) -> None:
            models[number] = _loaded(state)

        run = federate(
            choice.protocol(clients=clients),
            HeartModel(),
            self._loaders,
            local=STEP,
            rounds=self._rounds,
            privacy=promise.unit(hospitals=clients, rounds=self._rounds),
            seed=self._seed,
            watch=Watch(on_round=lambda report: self._tick(title), on_model=follow, progress=Progress.NEVER),
            rehearsal=Rehearsal(drop=_drop(choice, missing), protocol_seed=self._seed),
        )
        trained = _loaded(run.model.state_dict())
        row = self._row(trained, title=title, kind="private", curve=self._curve(models), history=run.history)
        if run.privacy is None:
            raise TypeError("a private training without a plan; this is a fault")
        return row, Private(plan=run.privacy, spent=run.history[-1].epsilon or 0.0)

    def steps(self) -> Row:
        """The same steps in the clear, neither clipped nor noised."""
        title = "the same steps, no noise"
        models: dict[int, HeartModel] = {}

        def follow(number: int, total: Sum, state: State) -> None:
            models[number] = _loaded(state)
            self._tick(title)

        run = fedavg(
            HeartModel(),
            self._loaders,
            local=STEP,
            rounds=self._rounds,
            seed=self._seed,
            watch=Watch(on_model=follow, progress=Progress.NEVER),
        )
        trained = _loaded(run.model.state_dict())
        return self._row(trained, title=title, kind="steps", curve=self._curve(models))

    def _glimpse(self, protocol: MachineProtocol, messages: list[Message], total: Sum) -> Glimpse:
        hospital = self._hospitals[0]
        sent = next(
            m.body for m in messages if m.exchange == "MaskedInput" and m.sender == hospital.site.value
        )
        masked = decode(MaskedInput, Envelope.decode(sent).body)
        surface, start = protocol.suite.surface, HeartModel()
        values, manifest = flatten(start.state_dict())
        count = surface.elements(len(total.mean))
        site = TrainingSite(
            hospital.site.value,
            model=start,
            data=self._loaders[hospital.site.value],
            local=LOCAL,
            manifest=manifest,
            seed=self._seed,
        )
        update, _ = site.train(values, values[:0], round=0)
        return Glimpse(
            site=hospital.site,
            parameters=(*FEATURES, "intercept"),
            update=update.astype(np.float64),
            weight=len(hospital.train_y),
            received=received_values(surface, masked, count=count),
            ring_bits=surface.ring.bits,
            mean=total.mean,
            total_weight=total.total_weight,
        )

    def _row(
        self,
        model: HeartModel,
        *,
        title: str,
        kind: str,
        curve: list[float | None],
        site: Site | None = None,
        choice: Choice | None = None,
        difference: float | None = None,
        history: tuple[RoundReport, ...] = (),
        usage: Usage | None = None,
    ) -> Row:
        scores = {h.site: predict(model, h.test_x).astype(np.float64) for h in self._hospitals}
        aucs = {h.site: Auc(*interval(h.test_y, scores[h.site], seed=self._seed)) for h in self._hospitals}
        together = np.concatenate([scores[h.site] for h in self._hospitals])
        return Row(
            title=title,
            kind=kind,
            aucs=aucs,
            overall=Auc(*interval(self._labels, together, seed=self._seed)),
            scores=scores,
            curve=tuple(curve),
            site=site,
            choice=choice,
            difference=difference,
            history=history,
            usage=usage,
        )

    def _overall(self, model: HeartModel) -> float:
        return _auc_together(model, self._hospitals)


def auc_together(state: Mapping[str, npt.NDArray[np.float32]], hospitals: tuple[Hospital, ...]) -> float:
    """The AUC of a model on all hospitals' test patients in one ranking.

    Args:
        state: the model's entries by name.
        hospitals: with their test patients.
    """
    return _auc_together(_loaded_from(state), hospitals)


def _auc_together(model: HeartModel, hospitals: tuple[Hospital, ...]) -> float:
    labels = np.concatenate([each.test_y for each in hospitals])
    return auc(labels, np.concatenate([predict(model, each.test_x) for each in hospitals]))


def loader(hospital: Hospital) -> Examples:
    """A hospital's training rows, as a step reads them."""
    return [(torch.from_numpy(hospital.train_x), torch.from_numpy(hospital.train_y))]


def _drop(choice: Choice, missing: Absent) -> dict[int, dict[str, str]]:
    """Who vanishes at the worst moment."""
    return {
        number: {site.value: choice.worst_moment for site in sites}
        for number, sites in missing.items()
        if sites
    }


def _loaded(state: State) -> HeartModel:
    model = HeartModel()
    model.load_state_dict(dict(state))
    return model


def _loaded_from(arrays: Mapping[str, npt.NDArray[np.float32]]) -> HeartModel:
    return _loaded({name: torch.from_numpy(np.array(values)) for name, values in arrays.items()})


def _report(run: EngineRun, number: int) -> RoundReport:
    """An engine's round as others are reported; its traffic is what the wires carried."""
    found = run.rounds[number]
    return RoundReport(
        number=number,
        asked=frozenset(site.value for site in run.sites),
        contributors=frozenset(site.value for site in run.contributors(number)),
        dropped={site.value: reason for site, reason in found.missing.items()},
        total_weight=found.total_weight,
        aborted=found.aborted,
        traffic={site.value: Traffic(each.up, each.down) for site, each in found.carried.items()},
    )


def _vector(model: HeartModel) -> Floats:
    return flatten(model.state_dict())[0].astype(np.float64)
