"""The experiment: the same training alone, pooled, in the clear, and through each secure sum.

Every hospital trains on its own rows only. `alone` is what it can do without the others; `pooled` puts all
training rows into one pile, which is the ceiling and is what law or trust forbids; `FedAvg` averages updates
in plain floating point; each secure sum does the same and hides the updates. Model, seed, epochs and the
order of examples are the same throughout, so that what differs between FedAvg and a secure sum is the
cryptography and its fixed-point grid, and nothing else.

The area under the ROC curve (AUC) is taken on patients held back by each hospital, and on all of those
together. The latter is one ranking across hospitals whose patients differ, not the mean of the columns.

>>> ticks(sites=3, choices=(Choice.MASKED,), rounds=10)
60
"""

from collections.abc import Callable
from typing import Final, TypeAlias

import numpy as np
import torch

from fl_integration.loop.federated import federate
from fl_integration.loop.parties import State
from fl_integration.loop.plain import fedavg
from fl_integration.loop.rehearsal import Rehearsal
from fl_integration.loop.report import RoundReport, TrainingAborted
from fl_integration.loop.watch import Progress, Watch
from fl_integration.site.site import Site as TrainingSite
from fl_integration.site.training import predict
from fl_integration.studies.heart.choices import Choice, short_name
from fl_integration.studies.heart.findings import (
    Act,
    Auc,
    Floats,
    Glimpse,
    Repeat,
    Row,
    Usage,
    gain_of,
    interval,
    usage_of,
)
from fl_integration.studies.heart.model import LOCAL, HeartModel, auc
from fl_integration.studies.heart.records import FEATURES, Hospital, Site, load_hospitals
from fl_integration.vectors.vectorise import flatten
from protocols import Message, Sum
from protocols.machine.parameters import MachineProtocol
from protocols.masked.collecting import received_values
from protocols.masked.messages import MaskedInput
from protocols.messages.envelope import Envelope
from protocols.messages.schema import decode
from secagg.errors import ParameterError

__all__ = ["Tick", "loss_in_act_two", "refusal_among_three", "repeat_gains", "run_act", "ticks"]

Examples: TypeAlias = list[tuple[torch.Tensor, torch.Tensor]]

Tick: TypeAlias = Callable[[str], None]
"""Called with a row's title after each of its rounds."""

_LOST: Final = Site.BUDAPEST
_QUIET: Final = Watch(progress=Progress.NEVER)


def ticks(*, sites: int, choices: tuple[Choice, ...], rounds: int) -> int:
    """How often `run_act` calls its `tick`."""
    return (sites + 2 + len(choices)) * rounds


def loss_in_act_two(rounds: int) -> tuple[Site, int]:
    """Who vanishes in which round (from 0): in the middle, with a round left in which to be back.

    Raises:
        ParameterError: fewer than two rounds.
    """
    if rounds < 2:
        raise ParameterError(
            f"with four sites one is lost in a round and back in the next, {rounds} round is too few: "
            "pass --rounds 2 or more, or --sites 3"
        )
    return _LOST, (rounds - 1) // 2


def run_act(
    *,
    sites: int,
    choices: tuple[Choice, ...],
    rounds: int,
    seed: int,
    lost: tuple[Site, int] | None = None,
    tick: Tick = lambda title: None,
) -> Act:
    """Trains in every way over the first `sites` hospitals.

    Args:
        sites: 3 or 4.
        choices: the protocols, in the order of the rows.
        rounds: at least 1.
        seed: of split, training and protocol randomness, in [0, 2**63). Whoever knows it knows the keys of
            this demonstration; a deployment never seeds its protocol.
        lost: who vanishes in which round, in FedAvg and in every protocol alike.
        tick: called after each round.
    """
    hospitals = load_hospitals(sites=sites, seed=seed)
    stage = _Stage(hospitals, rounds=rounds, seed=seed, tick=tick)
    rows = [stage.alone(hospital) for hospital in hospitals]
    rows.append(stage.pooled())
    plain, reference = stage.plain(lost)
    rows.append(plain)
    glimpse = None
    for choice in choices:
        row, found = stage.secure(choice, reference, lost)
        rows.append(row)
        glimpse = glimpse or found
    joint = next((row for row in rows if row.kind == "secure"), plain)
    return Act(
        hospitals=hospitals,
        rounds=rounds,
        seed=seed,
        rows=tuple(rows),
        gains=tuple(
            gain_of(hospital, joint=joint, alone=rows[i], seed=seed) for i, hospital in enumerate(hospitals)
        ),
        lost=lost,
        glimpse=glimpse,
    )


def repeat_gains(
    *, splits: int, rounds: int, seed: int, tick: Tick = lambda title: None
) -> tuple[Repeat, ...]:
    """What joining changes at each of three hospitals over `splits` other splits, in the clear.

    Args:
        splits: at least 1; they are those of the seeds `seed + 1`, `seed + 2`, …
        rounds, seed: as in `run_act`.
        tick: called once for each split.
    """
    found: dict[Site, list[float]] = {}
    for other in range(seed + 1, seed + 1 + splits):
        hospitals = load_hospitals(sites=3, seed=other)
        stage = _Stage(hospitals, rounds=rounds, seed=other, tick=lambda title: None)
        joint, _ = stage.plain(None)
        for hospital in hospitals:
            alone = stage.alone(hospital)
            gain = joint.aucs[hospital.site].value - alone.aucs[hospital.site].value
            found.setdefault(hospital.site, []).append(gain)
        tick(f"split {other - seed} of {splits}")
    return tuple(
        Repeat(
            site=site,
            splits=splits,
            better=sum(g > 0 for g in gains),
            low=min(gains),
            mean=sum(gains) / splits,
            high=max(gains),
        )
        for site, gains in found.items()
    )


def refusal_among_three(choice: Choice, *, seed: int) -> str:
    """What a round among three says when one of them vanishes at the worst moment."""
    hospitals = load_hospitals(sites=3, seed=seed)
    try:
        federate(
            choice.protocol(clients=3),
            HeartModel(),
            {hospital.site.value: _loader(hospital) for hospital in hospitals},
            local=LOCAL,
            rounds=1,
            seed=seed,
            watch=_QUIET,
            rehearsal=Rehearsal(drop={0: {_LOST.value: choice.worst_moment}}, protocol_seed=seed),
        )
    except TrainingAborted as error:
        return error.history[0].aborted
    return ""


class _Stage:
    """The hospitals, and how every row of one act is trained and judged."""

    def __init__(self, hospitals: tuple[Hospital, ...], *, rounds: int, seed: int, tick: Tick) -> None:
        self._hospitals, self._rounds, self._seed, self._tick = hospitals, rounds, seed, tick
        self._loaders = {hospital.site.value: _loader(hospital) for hospital in hospitals}
        self._labels = np.concatenate([hospital.test_y for hospital in hospitals])

    def alone(self, hospital: Hospital) -> Row:
        title, site = f"{short_name(hospital.site)} alone", hospital.site
        return self._by_one(title, "alone", site.value, self._loaders[site.value], site=site)

    def pooled(self) -> Row:
        pile = [piece for loader in self._loaders.values() for piece in loader]
        return self._by_one("all rows pooled", "pooled", "pooled", pile)

    def _by_one(self, title: str, kind: str, client: str, loader: Examples, site: Site | None = None) -> Row:
        """As many epochs as the hospitals take together, cut into as many rounds."""
        curve: list[float] = []

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

    def plain(self, lost: tuple[Site, int] | None) -> tuple[Row, HeartModel]:
        """FedAvg in the clear, and its model."""
        model, curve = HeartModel(), []

        def follow(number: int, total: Sum, state: State) -> None:
            curve.append(self._overall(_loaded(state)))
            self._tick("FedAvg in the clear")

        run = fedavg(
            model,
            self._loaders,
            local=LOCAL,
            rounds=self._rounds,
            seed=self._seed,
            absent={} if lost is None else {lost[1]: {lost[0].value}},
            watch=Watch(on_model=follow, progress=Progress.NEVER),
        )
        trained = _loaded(run.model.state_dict())
        row = self._row(trained, title="FedAvg in the clear", kind="plain", curve=curve, history=run.history)
        return row, trained

    def secure(
        self, choice: Choice, reference: HeartModel, lost: tuple[Site, int] | None
    ) -> tuple[Row, Glimpse | None]:
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
            rehearsal=Rehearsal(
                drop={} if lost is None else {lost[1]: {lost[0].value: choice.worst_moment}},
                protocol_seed=self._seed,
            ),
        )
        trained = _loaded(run.model.state_dict())
        curve: list[float] = []
        for number in range(self._rounds):
            curve.append(self._overall(models[number]) if number in models else (curve or [0.5])[-1])
        row = self._row(
            trained,
            title=choice.title,
            kind="secure" if choice is not Choice.PLAIN else "plain sum",
            curve=curve,
            choice=choice,
            difference=float(np.abs(_vector(trained) - _vector(reference)).max()),
            history=run.history,
            usage=usage_of(run, clients=tuple(self._loaders)),
        )
        glimpse = None
        if choice is Choice.MASKED and 0 in sums:
            glimpse = self._glimpse(protocol, messages, sums[0])
        return row, glimpse

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
        curve: list[float],
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
        return auc(self._labels, np.concatenate([predict(model, h.test_x) for h in self._hospitals]))


def _loader(hospital: Hospital) -> list[tuple[torch.Tensor, torch.Tensor]]:
    return [(torch.from_numpy(hospital.train_x), torch.from_numpy(hospital.train_y))]


def _loaded(state: State) -> HeartModel:
    model = HeartModel()
    model.load_state_dict(dict(state))
    return model


def _vector(model: HeartModel) -> Floats:
    return flatten(model.state_dict())[0].astype(np.float64)
