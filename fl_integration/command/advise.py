"""`secagg advise`: which protocol for whom, and why."""

from typing import Annotated, Final

import typer

from fl_integration.command.tables import show
from protocols.advice import advice
from protocols.advice.advice import Candidate

__all__ = ["EPILOG", "advise"]

EPILOG: Final = """\
\b
Examples:
  secagg advise 10 1000000
  secagg advise 500 1000000 --dropout-fraction 0.3
  secagg advise 10 1000000 --no-clients-may-collude --no-server-may-learn

Exit code 1 if no protocol fits.
"""
_HEADS: Final = ("protocol", "client s", "server s", "sends MB", "round s")


def advise(
    n: Annotated[int, typer.Argument(metavar="N", help="Clients in a round, at least 3.")],
    length: Annotated[int, typer.Argument(metavar="LENGTH", help="Values in an update.")],
    *,
    bits: Annotated[int, typer.Option(metavar="N", help="Of one value.")] = 16,
    max_weight: Annotated[int, typer.Option(metavar="N", help="The largest weight of one client.")] = 1,
    dropout_fraction: Annotated[
        float, typer.Option(metavar="SHARE", help="Of the clients: who vanishes in a round.")
    ] = 0.1,
    corrupt_fraction: Annotated[
        float, typer.Option(metavar="SHARE", help="Of the roster: who may collude, if any may.")
    ] = 0.2,
    clients_may_collude: Annotated[bool, typer.Option(help="A client may, with the server.")] = True,
    server_is_client: Annotated[bool, typer.Option(help="Whoever runs the server runs a client.")] = False,
    server_may_learn: Annotated[bool, typer.Option(help="The server may know the sum.")] = True,
    server_may_lie: Annotated[
        bool, typer.Option(help="The server may tell clients different stories.")
    ] = True,
    megabits: Annotated[float, typer.Option(metavar="MBIT/S", help="Of a client's link.")] = 100.0,
    roster: Annotated[
        int | None,
        typer.Option(metavar="N", help="Clients that a round's are chosen from.", show_default="N"),
    ] = None,
) -> None:
    """Recommend a protocol for N clients with updates of LENGTH values, and say why."""
    found = advice.advise(
        n,
        length,
        bits=bits,
        max_weight=max_weight,
        dropout_fraction=dropout_fraction,
        corrupt_fraction=corrupt_fraction,
        clients_may_collude=clients_may_collude,
        server_is_client=server_is_client,
        server_may_learn=server_may_learn,
        server_may_lie=server_may_lie,
        megabits=megabits,
        roster=roster,
    )
    show(_HEADS, map(_row, found.candidates), numbers=True)
    typer.echo("")
    for reason in found.reasons:
        typer.echo(f"- {reason}")
    if found.candidates[0].refused:
        raise typer.Exit(1)


def _row(each: Candidate) -> tuple[str, ...]:
    figures = (each.client_seconds, each.server_seconds, each.sent / 1e6, each.round_seconds)
    return each.name, *("-" if each.refused else f"{figure:.3g}" for figure in figures)
