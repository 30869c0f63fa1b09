"""`secagg-hospitals`: real hospitals train one model; see what each way costs and what it hides.

Act one trains with three hospitals: each alone, all rows in one pile, federated in the clear, and through
each secure sum. Act two adds a fourth and loses one in the middle of a round. Exit code 2 and one line on
standard error when something cannot work.

>>> build_parser().parse_args(["--rounds", "5"]).rounds
5
"""

import argparse
import importlib
import logging
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final, NoReturn

from fl_integration.command.console import degrade
from secagg.errors import MissingExtraError, ParameterError, SecAggError

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress
    from rich.table import Table

    from fl_integration.studies.heart.choices import Choice
    from fl_integration.studies.heart.costs import Cost
    from fl_integration.studies.heart.findings import Act, Repeat, Row
    from fl_integration.studies.heart.study import Tick

__all__ = ["build_parser", "main"]

_PROG: Final = "secagg-hospitals"
_CHOICES: Final = ("masked", "lattice", "ckks", "paillier", "plain")
_SECURE: Final = _CHOICES[:-1]
_SPLITS: Final = 5
_WIDE: Final = 124
_EXAMPLES: Final = """\
examples:
  secagg-hospitals                       both acts, all four secure sums, into ./secagg-hospitals-out
  secagg-hospitals --protocol masked     MaskedSum alone beside training in the clear
  secagg-hospitals --sites 4 --seed 7    only act two, another split
  secagg-hospitals --rounds 5 --out x    a short run, results in ./x

what it writes into DIR:
  report.html                everything on one page, nothing loaded from elsewhere
  auc_by_round.png           how well each way of training does (dropout.png: act two)
  what_the_server_saw.png    one hospital's update, the bytes that the server got, the mean (MaskedSum)
  results.json               every number
"""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{_PROG}: {message} (see {_PROG} --help)\n")


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = _Parser(
        prog=_PROG,
        description="Real hospitals train one heart-disease model together. Shows what joining brings, that\n"
        "the secure sums learn the same model as training in the clear, and what they cost.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--protocol",
        choices=_CHOICES,
        help="only this one, beside training in the clear (default: the secure ones)",
    )
    parser.add_argument(
        "--rounds", type=int, default=20, metavar="N", help="rounds of training (default: 20)"
    )
    parser.add_argument(
        "--seed",
        type=int,
        default=1,
        metavar="N",
        help="of the split into training and test patients, of "
        "training and of this demonstration's keys (default: 1)",
    )
    parser.add_argument(
        "--sites",
        type=int,
        choices=(3, 4),
        help="3: only act one; 4: only act two, in which one hospital is lost (default: both)",
    )
    parser.add_argument(
        "--out", type=Path, default=Path("secagg-hospitals-out"), metavar="DIR",
        help="where the results go; made if it is not there (default: %(default)s)",
    )  # fmt: skip
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the demonstration; the exit code."""
    degrade(sys.stdout, sys.stderr)
    logging.getLogger("secagg").addHandler(logging.NullHandler())  # the report says who was lost, and when
    arguments = build_parser().parse_args(argv)
    written: list[Path] = []
    try:
        _run(arguments, written)
    except SecAggError as error:
        sys.stderr.write(f"{_PROG}: {error}\n")
        return 2
    except KeyboardInterrupt:
        what = f"the results are in {arguments.out}" if written else "nothing was written"
        sys.stderr.write(f"{_PROG}: interrupted; {what}\n")
        return 130
    return 0


def _run(arguments: argparse.Namespace, written: list[Path]) -> None:
    """Trains, writes the files, and shows what is in them, in this order; `written` says how far it came."""
    names = (arguments.protocol,) if arguments.protocol else _SECURE
    _check(arguments, names)
    import torch
    from rich.console import Console

    from fl_integration.studies.heart import charts, report, study
    from fl_integration.studies.heart.choices import Choice
    from fl_integration.studies.heart.costs import cost_of

    torch.set_num_threads(1)  # sums in one order: the same figures on every run
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=_WIDE)
    choices, rounds, seed = tuple(Choice(name) for name in names), arguments.rounds, arguments.seed
    both, lost = arguments.sites is None, None
    if arguments.sites != 3:
        lost = study.loss_in_act_two(rounds)
    report.write(arguments.out, {})
    acts: list[Act] = []
    repeats: tuple[Repeat, ...] = ()
    refusals: dict[Choice, str] = {}
    with _progress() as progress:
        costs = {}
        task = progress.add_task("what a million parameters cost", total=len(choices))
        for choice in choices:
            progress.update(task, description=f"a million parameters: {choice.title}")
            costs[choice] = cost_of(choice)
            progress.advance(task)
        if both or arguments.sites == 3:
            tick = _ticker(progress, "act one", study.ticks(sites=3, choices=choices, rounds=rounds))
            acts.append(study.run_act(sites=3, choices=choices, rounds=rounds, seed=seed, tick=tick))
            tick = _ticker(progress, "other splits", _SPLITS)
            repeats = study.repeat_gains(splits=_SPLITS, rounds=rounds, seed=seed, tick=tick)
        if lost is not None:
            tick = _ticker(progress, "act two", study.ticks(sites=4, choices=choices, rounds=rounds))
            acts.append(
                study.run_act(sites=4, choices=choices, rounds=rounds, seed=seed, lost=lost, tick=tick)
            )
            refusals = {choices[0]: study.refusal_among_three(choices[0], seed=seed)}
    files: dict[str, bytes] = {}
    for act in acts:
        files[report.picture(act, of=len(acts))] = charts.auc_by_round(act)
        if act.glimpse is not None and "what_the_server_saw.png" not in files:
            files["what_the_server_saw.png"] = charts.what_the_server_saw(
                act.glimpse, hospitals=len(act.hospitals)
            )
    found = tuple(acts)
    files["report.html"] = report.html(found, costs, repeats, refusals, files).encode()
    files["results.json"] = report.as_json(report.results(found, costs, repeats, refusals))
    written += report.write(arguments.out, files)
    for act in acts:
        _show(console, act, costs, repeats, refusals, explain=act is acts[0])
    console.rule("written", align="left")
    for path in written:
        console.print(str(path), soft_wrap=True)


def _check(arguments: argparse.Namespace, names: tuple[str, ...]) -> None:
    """Everything that can be refused before anything has run."""
    if arguments.rounds < 1:
        raise ParameterError(f"--rounds is {arguments.rounds}; pass at least 1")
    if not 0 <= arguments.seed < 1 << 32:
        raise ParameterError(f"--seed is {arguments.seed}; pass a number in [0, 2**32)")
    if arguments.out.exists() and not arguments.out.is_dir():
        raise ParameterError(f"--out is {str(arguments.out)!r}, which is a file; name a folder")
    needed = [("torch", "torch", "train"), ("sklearn", "scikit-learn", "demo")]
    needed += [(package, package, "demo") for package in ("rich", "matplotlib", "jinja2")]
    if "ckks" in names:
        needed.append(("tenseal", "tenseal", "ckks"))
    for module, package, extra in needed:
        try:
            importlib.import_module(module)
        except ImportError as error:
            raise MissingExtraError(package=package, extra=extra) from error


@contextmanager
def _progress() -> Iterator["Progress"]:
    """Bars that are gone when the work is done; on standard error, so that no reader can stop the work."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description:<34}"), BarColumn(), TimeElapsedColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        yield progress


def _ticker(progress: "Progress", name: str, total: int) -> "Tick":
    task = progress.add_task(name, total=total)

    def tick(title: str) -> None:
        progress.update(task, description=f"{name}: {title}", advance=1)

    return tick


def _show(
    console: "Console",
    act: "Act",
    costs: "dict[Choice, Cost]",
    repeats: "tuple[Repeat, ...]",
    refusals: "dict[Choice, str]",
    *,
    explain: bool,
) -> None:
    from fl_integration.studies.heart import report

    who = f"{len(act.hospitals)} hospitals, {act.rounds} rounds, seed {act.seed}"
    console.print()
    console.rule(
        f"[bold]Act one[/]: {who}" if act.lost is None else f"[bold]Act two[/]: {who}, one is lost",
        align="left",
    )
    for table in _tables(console, act, costs):
        console.print()
        console.print(table)
    console.print()
    notes = [*report.small_sets(act), report.setup_note(act)]
    if explain:
        notes = [
            "AUC: the chance that a patient with the disease gets a higher score than one without; 0.5 is "
            "guessing. Columns: each hospital's own test patients. " + report.OVERALL,
            *notes,
            report.cost_note(costs),
            report.WEIGHT_CAP,
        ]
    for note in notes:
        console.print(f"[dim]{note}[/]")
    console.print()
    if act.lost is None:
        console.print("[bold]Who gains by joining?[/]")
        sentences = [*report.gain_sentences(act), report.repeat_sentence(repeats)]
    else:
        console.print("[bold]What happened?[/]")
        sentences = report.act_two_sentences(act, refusals)
    for sentence in sentences:
        console.print(_item(sentence))
    console.print()


def _item(sentence: str) -> "Table":
    from rich.table import Table
    from rich.text import Text

    grid = Table.grid(padding=(0, 1))
    grid.add_row("-", Text(sentence))
    return grid


def _tables(console: "Console", act: "Act", costs: "dict[Choice, Cost]") -> "list[Table]":
    """One table where there is room, else one for how well and one for how much."""
    from fl_integration.studies.heart import report

    heads = report.headings(act)
    rows = [
        (row, [*report.cells(act, row), *report.cost_cells(costs.get(row.choice) if row.choice else None)])
        for row in act.rows
    ]
    whole = _table(heads, rows)
    if console.measure(whole, options=console.options.update(max_width=1000)).maximum <= console.width:
        return [whole]
    cut = len(act.hospitals) + 2
    return [
        _table(heads[:cut], [(row, cells[:cut]) for row, cells in rows]),
        _table(heads[cut:], [(row, cells[cut:]) for row, cells in rows if row.choice is not None]),
    ]


def _table(heads: list[str], rows: "list[tuple[Row, list[str]]]") -> "Table":
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1), show_edge=False, pad_edge=False)
    table.add_column("trained", no_wrap=True)
    for head in heads:
        table.add_column(head, justify="right", no_wrap=True)
    for row, cells in rows:
        table.add_row(row.title, *cells, end_section=row.kind == "pooled")
    return table


if __name__ == "__main__":
    sys.exit(main())
