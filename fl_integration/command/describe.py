"""`secagg describe`: a cohort's Table 1, as medical papers have it, from secure sums of the hospitals' rows.

All hospitals run in this process, over the protocol's real bytes: what it shows is what a consortium would
have, and what it would cost. The records are public, so that this hides nothing from whoever runs it.
"""

from enum import Enum
from typing import TYPE_CHECKING, Annotated, Final

import typer

from fl_integration.command.plan import Protocol
from fl_integration.command.showing import progress, ticker
from fl_integration.command.tables import show
from secagg.errors import ParameterError

if TYPE_CHECKING:
    from fl_integration.statistics.cohort import TableOne

__all__ = ["EPILOG", "describe"]

EPILOG: Final = """\
\b
Examples:
  secagg describe heart
  secagg describe heart --sites 3 --protocol paillier

A hospital answers about a group of its patients if it has at least as many of them as --min-rows says; counts
below that are not printed either, though they may follow from those beside them. p-values are not corrected
for their number. What it needs: pip install 'secagg[cli,statistics]', and ckks for that protocol.
"""


class Cohort(Enum):
    """Whose patients."""

    HEART = "heart"


def describe(
    cohort: Annotated[
        Cohort, typer.Argument(metavar="[COHORT]", help="Whose patients: heart.")
    ] = Cohort.HEART,
    *,
    sites: Annotated[int, typer.Option(metavar="3|4", help="How many hospitals.")] = 4,
    protocol: Annotated[Protocol, typer.Option(help="That sums.")] = Protocol.MASKED,
    min_rows: Annotated[
        int,
        typer.Option(
            metavar="N",
            help="Patients of a group that a hospital must have to be counted; no count below is printed.",
        ),
    ] = 5,
) -> None:
    """Show a cohort's Table 1, by diagnosis, from secure sums of the hospitals' rows."""
    if sites not in (3, 4):
        raise ParameterError(f"--sites is {sites}; 3 or 4 hospitals can take part")
    if min_rows < 1:
        raise ParameterError(f"--min-rows is {min_rows}; pass at least 1")
    from fl_integration.statistics.showing import load_special
    from fl_integration.studies.heart.choices import Choice
    from fl_integration.studies.heart.describing import cohort as described
    from fl_integration.studies.heart.describing import cohort_ticks

    load_special()  # what is missing is said before anything is asked
    with progress() as bars:
        tick = ticker(bars, "asking", cohort_ticks())
        found = described(Choice(protocol.value), sites=sites, min_rows=min_rows, tick=tick)
    _show(found)
    if protocol is Protocol.PLAIN:
        typer.echo("PlainSum hides nothing: whoever summed saw the counts of each hospital.")


def _show(found: "TableOne") -> None:
    show(found.heads, found.cells(), numbers=True)
    typer.echo()
    for note in found.notes:
        typer.echo(note)
