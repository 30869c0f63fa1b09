"""The experiment: the same training alone, pooled, in the clear, and through each secure sum.

Every hospital trains on its own rows only. `alone` is what it can do without the others; `pooled` puts all
training rows into one pile, which is the ceiling and is what law or trust forbids; `FedAvg` averages updates
in plain floating point; each secure sum does the same and hides the updates. Model, seed, epochs and the
order of examples are the same throughout, so that what differs between FedAvg and a secure sum is the
cryptography and its fixed-point grid, and nothing else.

Where a run over an engine is given (`federation`), its model is judged as all others are. Whoever was missing
from one of its rounds is missing from that round everywhere, and a round that it aborted is left out
everywhere, so that there, too, what differs is the cryptography, and the engine.

The area under the ROC curve (AUC) is taken on patients held back by each hospital, and on all of those
together. The latter is one ranking across hospitals whose patients differ, not the mean of the columns.

>>> ticks(sites=3, choices=(Choice.MASKED,), rounds=10)
60
"""

from dataclasses import replace
from typing import Final

from fl_integration.loop.federated import federate
from fl_integration.loop.rehearsal import Rehearsal
from fl_integration.loop.report import TrainingAborted
from fl_integration.loop.standardising import Standardise
from fl_integration.loop.watch import Progress, Watch
from fl_integration.studies.heart.choices import Choice
from fl_integration.studies.heart.federation.outcome import EngineRun
from fl_integration.studies.heart.findings import Act, Repeat, Scaling, gain_of
from fl_integration.studies.heart.model import LOCAL, HeartModel
from fl_integration.studies.heart.pooling import ask_figures, figures_of
from fl_integration.studies.heart.private import Promise, on_public_scale
from fl_integration.studies.heart.records import Site, load_hospitals
from fl_integration.studies.heart.stage import Absent, Stage, Tick, loader
from secagg.errors import ParameterError

__all__ = ["Tick", "loss_in_act_two", "refusal_among_three", "repeat_gains", "run_act", "ticks"]

_LOST: Final = Site.BUDAPEST
_QUIET: Final = Watch(progress=Progress.NEVER)


def ticks(*, sites: int, choices: tuple[Choice, ...], rounds: int, promise: Promise | None = None) -> int:
    """How often `run_act` calls its `tick`."""
    return (sites + 2 + len(choices) + (0 if promise is None else 2)) * rounds


def loss_in_act_two(rounds: int) -> tuple[Site, int]:
    """Who vanishes in which round (from 0): in the middle, with a round left in which to be back.

    Raises:
        ParameterError: fewer than two rounds.
    """
    if rounds < 2:
        raise ParameterError(
            f"with four sites one is lost in a round and back in the next, {rounds} round is too few: "
            "pass --rounds 2 or more, or let nobody be lost"
        )
    return _LOST, (rounds - 1) // 2


def run_act(
    *,
    sites: int,
    choices: tuple[Choice, ...],
    rounds: int,
    seed: int,
    lost: tuple[Site, int] | None = None,
    engine: EngineRun | None = None,
    promise: Promise | None = None,
    standardise: Standardise = Standardise.SITE,
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
        engine: a run of the same training over an engine, which says itself who was missing when.
        promise: with one, a private training as well, through the first of the protocols.
        standardise: whose mean and deviation measurements are scaled by. Pooled ones come out of a sum of the
            first protocol, MaskedSum's if there is none. FedAvg in the clear is trained on the other scale
            too, to be compared with.
        tick: called after each round.
    """
    summing = choices[0] if choices else Choice.MASKED
    asked = ask_figures(summing.protocol(clients=sites), sites=sites, seed=seed)
    own = load_hospitals(sites=sites, seed=seed)
    pooled = load_hospitals(sites=sites, seed=seed, figures=figures_of(asked))
    hospitals, others = (own, pooled) if standardise is Standardise.SITE else (pooled, own)
    stage = Stage(hospitals, rounds=rounds, seed=seed, tick=tick)
    rows = [stage.alone(hospital) for hospital in hospitals]
    rows.append(stage.pooled())
    missing: Absent = {} if lost is None else {lost[1]: {lost[0]}}
    absent = missing
    if engine is not None:
        numbers = range(len(engine.rounds))
        absent = {
            each: {site for site in engine.sites if site not in engine.contributors(each)} for each in numbers
        }
        missing = {each: _the_one(engine, each) or absent[each] for each in numbers}
    plain, reference = stage.plain(absent)
    rows.append(plain)
    other, _ = Stage(others, rounds=rounds, seed=seed, tick=lambda title: None).plain(absent)
    glimpse = None
    for choice in choices:
        row, found = stage.secure(choice, reference, missing)
        rows.append(row)
        glimpse = glimpse or found
    if engine is not None:
        rows.append(stage.over_engine(engine, reference))
    private = None
    if promise is not None:
        public = Stage(on_public_scale(hospitals), rounds=rounds, seed=seed, tick=tick)
        row, private = public.private(promise, choices[0], missing)
        rows += [row, public.steps()]
    act = Act(
        hospitals=hospitals,
        rounds=rounds,
        seed=seed,
        rows=tuple(rows),
        gains=(),
        lost=lost,
        glimpse=glimpse,
        engine=engine,
        private=private,
        scaling=Scaling(how=standardise, this=plain.overall, other=other.overall, asked=asked),
    )
    gains = (gain_of(each, joint=act.joint, alone=rows[i], seed=seed) for i, each in enumerate(hospitals))
    return replace(act, gains=tuple(gains))


def _the_one(engine: EngineRun, number: int) -> set[Site]:
    """Who was killed in this round: one who is lost costs the same round in one process, or not."""
    return {engine.killed[0]} if engine.killed is not None and engine.killed[1] == number else set()


def repeat_gains(
    *,
    splits: int,
    rounds: int,
    seed: int,
    standardise: Standardise = Standardise.SITE,
    tick: Tick = lambda title: None,
) -> tuple[Repeat, ...]:
    """What joining changes at each of three hospitals over `splits` other splits, in the clear.

    Args:
        splits: at least 1; they are those of the seeds `seed + 1`, `seed + 2`, …
        rounds, seed, standardise: as in `run_act`.
        tick: called once for each split.
    """
    found: dict[Site, list[float]] = {}
    for other in range(seed + 1, seed + 1 + splits):
        figures = None
        if standardise is Standardise.POOLED:
            figures = figures_of(ask_figures(Choice.PLAIN.protocol(clients=3), sites=3, seed=other))
        hospitals = load_hospitals(sites=3, seed=other, figures=figures)
        stage = Stage(hospitals, rounds=rounds, seed=other, tick=lambda title: None)
        joint, _ = stage.plain({})
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
            {hospital.site.value: loader(hospital) for hospital in hospitals},
            local=LOCAL,
            rounds=1,
            seed=seed,
            watch=_QUIET,
            rehearsal=Rehearsal(drop={0: {_LOST.value: choice.worst_moment}}, protocol_seed=seed),
        )
    except TrainingAborted as error:
        return error.history[0].aborted
    return ""
