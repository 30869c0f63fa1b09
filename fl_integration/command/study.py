"""`secagg study`: the studies, in one process or over an engine whose processes talk over TLS.

`secagg study heart` is what `secagg hospitals` does. With `--engine` the hospitals and the coordinator are
processes of their own, on this machine; whatever ends the command, Ctrl-C and `kill` among it, ends them all
and removes their folder. Options are checked, and packages looked for, before anything starts.
"""

import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from fl_integration.command import hospitals
from fl_integration.command.plain_help import PlainCommand, PlainGroup
from fl_integration.command.plan import Protocol
from fl_integration.command.preparing import check_run, need_packages
from fl_integration.command.showing import described, output, progress, ticker, write_and_show
from fl_integration.studies.heart.federation.engine import EngineName
from secagg.errors import ParameterError

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress, TaskID

    from fl_integration.studies.heart.federation.engine import Opened, Plan
    from fl_integration.studies.heart.federation.outcome import EngineRound, EngineRun
    from fl_integration.studies.heart.records import Hospital, Site

__all__ = ["app"]


class Scale(Enum):
    """Whose mean and deviation measurements are scaled by: `Standardise` on the command line."""

    SITE = "site"
    POOLED = "pooled"


_ROUNDS: Final = 10
_OUT: Final = Path("secagg-hospitals-out")
_BACK: Final = "Flower lets a node that was killed in again after about a minute"
_TITLES: Final = {EngineName.FLOWER: "Flower", EngineName.NVFLARE: "NVFlare"}
_NEEDS: Final = {
    EngineName.FLOWER: ("flwr", "flwr", "flower"),
    EngineName.NVFLARE: ("nvflare", "nvflare", "nvflare"),
}
_EPILOG: Final = """\
\b
Examples:
  secagg study heart                                  all in one process, as secagg hospitals
  secagg study heart --epsilon 1                      with differential privacy as well
  secagg study heart --engine flower                  a SuperLink and three SuperNodes, over TLS
  secagg study heart --engine flower --sites 4 --kill one of four is killed, and the round goes on
  secagg study heart --engine nvflare --protocol ckks a server and three clients of NVFlare; homomorphic

With --engine the model is judged by whoever runs the command, on test patients that no hospital's process
has seen. Under ckks and paillier only the hospitals have it: it is read from the own disk of one of them, as
its operator could. The coordinator signs a record of each round, for secagg audit. On two cores ten rounds
take about four minutes over Flower, which starts a process for each message, and with --kill a minute and a
half more; over NVFlare less than one.
What it needs: pip install 'secagg[cli,demo]', with privacy for --epsilon, and flower or nvflare for --engine.
"""

app = typer.Typer(cls=PlainGroup, help="Run a study, in one process or over an engine.", no_args_is_help=True)


@app.callback()
def _studies() -> None:
    """Run a study, in one process or over an engine."""


@app.command("heart", cls=PlainCommand, epilog=_EPILOG)
def heart(
    *,
    engine: Annotated[
        EngineName | None,
        typer.Option(help="Run over it, in processes of their own.", show_default="none: in one process"),
    ] = None,
    protocol: Annotated[
        Protocol | None,
        typer.Option(help="Only this one.", show_default="masked; without --engine, all secure ones"),
    ] = None,
    sites: Annotated[
        int | None,
        typer.Option(
            metavar="3|4", help="How many hospitals.", show_default="3; without --engine, one act with each"
        ),
    ] = None,
    rounds: Annotated[
        int | None,
        typer.Option(metavar="N", help="Rounds of training.", show_default="10; without --engine, 20"),
    ] = None,
    seed: Annotated[
        int, typer.Option(metavar="N", help="Of the split and of training; without --engine also of keys.")
    ] = 1,
    standardise: Annotated[
        Scale,
        typer.Option(
            help="Scale measurements by each hospital's own mean and deviation, or by those of all training "
            "patients, from secure sums."
        ),
    ] = Scale.SITE,
    kill: Annotated[
        bool,
        typer.Option(
            "--kill",
            help="One hospital's node is killed while it trains, and started again. Of three, the round is "
            "aborted; of four, it goes on. " + _BACK + ", for which the next round waits.",
        ),
    ] = False,
    port: Annotated[
        int | None,
        typer.Option(metavar="N", help="Of the engine's server.", show_default="one that is free"),
    ] = None,
    epsilon: Annotated[
        float | None,
        typer.Option(
            metavar="E",
            help="Train with differential privacy as well, without --engine: what all rounds tell of one "
            "patient; 1 is strict.",
            show_default="none",
        ),
    ] = None,
    delta: Annotated[
        float | None,
        typer.Option(metavar="D", help="The chance that epsilon does not hold.", show_default="1e-4"),
    ] = None,
    out: Annotated[
        Path, typer.Option(metavar="DIR", help="Where the results go; made if it is not there.")
    ] = _OUT,
) -> None:
    """Real hospitals train one model of heart disease together."""
    if engine is None:
        if kill or port is not None:
            raise ParameterError(f"{'--kill' if kill else '--port'} is for a run over --engine; name one")
        given: dict[str, object] = {"--protocol": protocol and protocol.value, "--sites": sites}
        given |= {"--rounds": rounds, "--epsilon": epsilon, "--delta": delta}
        options = [f"{name}={value}" for name, value in given.items() if value is not None]
        options += [f"--standardise={standardise.value}", f"--seed={seed}", f"--out={out}"]
        raise typer.Exit(hospitals.main(options))
    if epsilon is not None or delta is not None:
        raise ParameterError(
            "--epsilon is for a run in one process: over an engine the study's sites train without noise; "
            "leave it or --engine out"
        )
    if standardise is Scale.POOLED:
        raise ParameterError(
            "--standardise pooled is for a run in one process: over an engine each hospital's process "
            "prepares its rows alone, before it is asked anything; leave it or --engine out"
        )
    rounds, sites = _ROUNDS if rounds is None else rounds, 3 if sites is None else sites
    chosen = Protocol.MASKED if protocol is None else protocol
    _check(engine, chosen, sites=sites, rounds=rounds, kill=kill, port=port)
    check_run(rounds=rounds, seed=seed, out=out)
    need_packages([chosen.value], [_NEEDS[engine]])
    _over(engine, chosen, sites=sites, rounds=rounds, seed=seed, kill=kill, port=port or 0, out=out)


def _check(
    engine: EngineName, protocol: Protocol, *, sites: int, rounds: int, kill: bool, port: int | None
) -> None:
    """What can be refused before anything is loaded."""
    if engine is EngineName.NVFLARE and kill:
        raise ParameterError(
            "--kill is for --engine flower: a site that NVFlare has lost is in no round of the same job again"
        )
    if engine is EngineName.NVFLARE and port is not None:
        raise ParameterError("--port is for --engine flower; NVFlare is given one that is free")
    if kill and protocol in (Protocol.CKKS, Protocol.PAILLIER):
        raise ParameterError(
            f"--kill is for masked, lattice and plain: under {protocol.value} the hospitals alone open the "
            "sums, and from outside nobody sees which of them a hospital has that was away"
        )
    if sites not in (3, 4):
        raise ParameterError(f"--sites is {sites}; 3 or 4 hospitals can take part")
    if kill and rounds < 2:
        raise ParameterError(
            f"--rounds is {rounds}, and whoever is killed is back in the next; pass at least 2"
        )
    if port is not None and not 1 <= port <= 65535:
        raise ParameterError(f"--port is {port}; pass a number in [1, 65535]")


def _over(
    engine: EngineName,
    protocol: Protocol,
    *,
    sites: int,
    rounds: int,
    seed: int,
    kill: bool,
    port: int,
    out: Path,
) -> None:
    """Runs, judges, writes and shows."""
    import torch

    from fl_integration.loopback.scratch import interruptible, scratch
    from fl_integration.studies.heart import report, study
    from fl_integration.studies.heart.choices import Choice
    from fl_integration.studies.heart.costs import cost_of
    from fl_integration.studies.heart.federation.engine import Plan
    from fl_integration.studies.heart.records import load_hospitals

    torch.set_num_threads(1)  # sums in one order: the same figures on every run
    choice = Choice(protocol.value)
    report.write(out, {})
    members = load_hospitals(sites=sites, seed=seed)
    plan = Plan(
        choice=choice,
        sites=tuple(hospital.site for hospital in members),
        rounds=rounds,
        seed=seed,
        killed=study.loss_in_act_two(rounds) if kill else None,
        port=port,
    )
    with interruptible(), progress() as bars:
        with scratch() as folder:
            run = _run(bars, engine, folder, plan, members)
        task = bars.add_task(f"a million parameters: {choice.title}", total=1)
        costs = {choice: cost_of(choice)}
        bars.advance(task)
        tick = ticker(bars, "in one process", study.ticks(sites=sites, choices=(choice,), rounds=rounds))
        act = study.run_act(
            sites=sites, choices=(choice,), rounds=rounds, seed=seed, lost=plan.killed, engine=run, tick=tick
        )
        tick = ticker(bars, "other splits", hospitals.SPLITS)
        repeats = study.repeat_gains(splits=hospitals.SPLITS, rounds=rounds, seed=seed, tick=tick)
        refusals = {choice: study.refusal_among_three(choice, seed=seed)} if kill and sites == 4 else {}
        cohort = described(bars, sites=sites, seed=seed)
    console, written = output(), list[Path]()
    if run.records is not None:
        written += report.write(out / run.records.place, run.records.files)
    write_and_show(console, (act,), costs, repeats, refusals, folder=out, written=written, cohort=cohort)
    if run.records is not None:
        _say_how_to_audit(console, out / run.records.place)


def _say_how_to_audit(console: "Console", place: Path) -> None:
    from fl_integration.studies.heart.federation.signed import PUBLIC_LINE

    command = ["secagg", "audit", str(place), "--key", str(place / PUBLIC_LINE)]
    console.print("\nWhat the coordinator signed of these rounds:")
    console.print(f"  {shlex.join(command)}", markup=False, soft_wrap=True)


def _run(
    bars: "Progress", engine: EngineName, folder: Path, plan: "Plan", members: "tuple[Hospital, ...]"
) -> "EngineRun":
    """The run over the engine, with what happens in it on standard error."""
    from fl_integration.studies.heart.federation.running import run_over

    name = _TITLES[engine]
    with _told(bars, name, plan, members) as told:
        return run_over(_opened(engine), folder, name=name, plan=plan, hospitals=members, told=told)


def _opened(engine: EngineName) -> "Opened":
    """What starts an engine; only the one that is asked for is loaded."""
    if engine is EngineName.FLOWER:
        from fl_integration.studies.heart.federation.over_flower import flower

        return flower
    from fl_integration.studies.heart.federation.over_nvflare import nvflare

    return nvflare


@contextmanager
def _told(bars: "Progress", name: str, plan: "Plan", members: "tuple[Hospital, ...]") -> Iterator["_Told"]:
    told = _Told(bars, name, plan, members)
    try:
        yield told
    finally:
        bars.remove_task(told.task)


class _Told:
    """A bar of rounds with who trains now, and a line for whatever happened."""

    def __init__(self, bars: "Progress", name: str, plan: "Plan", members: "tuple[Hospital, ...]") -> None:
        self._bars, self._name, self._plan, self._members = bars, name, plan, members
        self.task: TaskID = bars.add_task(f"over {name}", total=plan.rounds)

    def starting(self) -> None:
        """See `running.Told`."""
        self._describe(f"{self._name} starts")
        self._say(f"{self._name} starts: a server and {len(self._plan.sites)} hospitals, TLS between them.")

    def working(self, number: int, training: "tuple[Site, ...]") -> None:
        """See `running.Told`."""
        from fl_integration.studies.heart.choices import short_name

        who = ", ".join(short_name(site) for site in training)
        self._describe(f"round {number + 1}: {who} train" if who else f"round {number + 1}")

    def killed(self, site: "Site", number: int) -> None:
        """See `running.Told`."""
        from fl_integration.studies.heart.choices import short_name

        name = short_name(site)
        self._describe(f"round {number + 1}: {name} is away")
        self._say(f"Round {number + 1}: {name} is killed while it trains, and started again. {_BACK}.")

    def back(self, site: "Site") -> None:
        """See `running.Told`."""
        from fl_integration.studies.heart.choices import short_name

        self._say(f"{short_name(site)} is back.")

    def ended(self, found: "EngineRound") -> None:
        """See `running.Told`."""
        from fl_integration.studies.heart.stage import auc_together

        number = f"Round {found.number + 1} of {self._plan.rounds}"
        seconds = f"{found.seconds:.1f}"
        if found.aborted:
            self._say(f"{number}: no sum, {found.aborted}; {seconds} s.")
        else:
            who = f"{len(self._plan.sites) - len(found.missing)} hospitals"
            auc = "" if found.state is None else f"AUC {auc_together(found.state, self._members):.3f}, "
            self._say(f"{number}: {who}, {auc}{seconds} s.")
        self._bars.advance(self.task)

    def read(self, site: "Site", found: "EngineRound") -> None:
        """See `running.Told`."""
        from fl_integration.studies.heart.choices import short_name
        from fl_integration.studies.heart.stage import auc_together

        if found.state is not None:
            auc, name = auc_together(found.state, self._members), short_name(site)
            self._say(f"After round {found.number + 1}: AUC {auc:.3f}, of the model on {name}'s own disk.")

    def _describe(self, what: str) -> None:
        self._bars.update(self.task, description=what)

    def _say(self, line: str) -> None:
        self._bars.console.print(line, highlight=False, soft_wrap=True)
