"""How the study of the hospitals is shown in a terminal: bars while it runs, tables and sentences at the end.

Bars and what happens on the way go to standard error, so that no reader of the output can stop the work.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress
    from rich.table import Table

    from fl_integration.statistics.cohort import TableOne
    from fl_integration.studies.heart.choices import Choice
    from fl_integration.studies.heart.costs import Cost
    from fl_integration.studies.heart.findings import Act, Repeat, Row
    from fl_integration.studies.heart.study import Tick

__all__ = ["described", "output", "progress", "show_act", "ticker", "write_and_show"]

_WIDE: Final = 124
"""Columns of an output that is no terminal."""


def output() -> "Console":
    """Standard output, wide enough where it is no terminal."""
    from rich.console import Console

    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=_WIDE)


@contextmanager
def progress() -> Iterator["Progress"]:
    """Bars that are gone when the work is done; on standard error, so that no reader can stop the work."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description:<34}"), BarColumn(), TimeElapsedColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bars:
        yield bars


def described(bars: "Progress", *, sites: int, seed: int | None) -> "TableOne":
    """Table 1 of so many hospitals through MaskedSum, with a bar."""
    from fl_integration.studies.heart.choices import Choice
    from fl_integration.studies.heart.describing import cohort, cohort_ticks

    tick = ticker(bars, "table 1", cohort_ticks())
    return cohort(Choice.MASKED, sites=sites, seed=seed, tick=tick)


def ticker(bars: "Progress", name: str, total: int) -> "Tick":
    """A bar of so many ticks, which says what each was for."""
    task = bars.add_task(name, total=total)

    def tick(title: str) -> None:
        bars.update(task, description=f"{name}: {title}", advance=1)

    return tick


def write_and_show(
    console: "Console",
    acts: "tuple[Act, ...]",
    costs: "dict[Choice, Cost]",
    repeats: "tuple[Repeat, ...]",
    refusals: "dict[Choice, str]",
    *,
    folder: Path,
    written: list[Path],
    cohort: "TableOne | None" = None,
) -> None:
    """Writes pictures, page and numbers, and shows what is in them, in this order.

    Args:
        console: where to show it.
        acts, costs, repeats, refusals: what was found.
        folder: where the files go.
        written: gets their paths, before anything is shown.
        cohort: the page's Table 1.

    Raises:
        ParameterError: the folder cannot be written to.
    """
    from fl_integration.studies.heart import charts, numbers, report

    files: dict[str, bytes] = {}
    for act in acts:
        files[report.picture(act, of=len(acts))] = charts.auc_by_round(act)
        if act.glimpse is not None and "what_the_server_saw.png" not in files:
            files["what_the_server_saw.png"] = charts.what_the_server_saw(
                act.glimpse, hospitals=len(act.hospitals)
            )
    files["report.html"] = report.html(acts, costs, repeats, refusals, files, cohort=cohort).encode()
    files["results.json"] = numbers.as_json(numbers.results(acts, costs, repeats, refusals))
    written += report.write(folder, files)
    for act in acts:
        show_act(console, act, costs, repeats, refusals, explain=act is acts[0])
    console.rule("written", align="left")
    for path in written:
        console.print(str(path), soft_wrap=True)


def show_act(
    console: "Console",
    act: "Act",
    costs: "dict[Choice, Cost]",
    repeats: "tuple[Repeat, ...]",
    refusals: "dict[Choice, str]",
    *,
    explain: bool,
) -> None:
    """Writes what an act has shown.

    Args:
        console: where to.
        act, costs, repeats, refusals: what was found.
        explain: whether the words in the tables are explained with it.
    """
    from fl_integration.studies.heart import report
    from fl_integration.studies.heart.federation import wires
    from fl_integration.studies.heart.private import private_sentences

    console.print()
    head, _, who = report.title(act).partition(": ")
    console.rule(f"[bold]{head}[/]: {who}; {act.rounds} rounds, seed {act.seed}", align="left")
    for table in _tables(console, act, costs):
        console.print()
        console.print(table)
    if act.engine is not None:
        console.print()
        console.print(_wires(act))
    console.print()
    notes = [
        *report.small_sets(act),
        report.scaling_note(act),
        report.setup_note(act),
        *filter(None, [wires.wire_note(act)]),
    ]
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
    gains = act.engine is None and act.lost is None
    console.print("[bold]Who gains by joining?[/]" if gains else "[bold]What happened?[/]")
    sentences = report.sentences(act, refusals)
    if repeats and (gains or act.engine is not None):
        sentences.append(report.repeat_sentence(repeats))
    for sentence in sentences:
        console.print(_item(sentence))
    console.print()
    if act.private is not None:
        console.print("[bold]With noise that hides each patient[/]")
        for sentence in private_sentences(act):
            console.print(_item(sentence))
        console.print()
        console.print(str(act.private.plan), markup=False, soft_wrap=True)
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
    rows = [(row, [*report.cells(act, row), *report.row_cost(row, costs)]) for row in act.rows]
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


def _wires(act: "Act") -> "Table":
    """What each hospital's wire carried."""
    from rich import box
    from rich.table import Table

    from fl_integration.studies.heart.federation.wires import HEADINGS, wire_rows

    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1), show_edge=False, pad_edge=False)
    for place, head in enumerate(HEADINGS):
        table.add_column(head, justify="right" if place else "left", no_wrap=True)
    for row in wire_rows(act):
        table.add_row(*row)
    return table
