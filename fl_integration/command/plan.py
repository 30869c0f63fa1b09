"""`secagg plan`: what a protocol's parameters are for so many clients, and what can fail."""

from enum import Enum
from typing import Annotated, Final

import typer

from protocols import (
    Adversary,
    CkksSum,
    LatticeSum,
    MaskedSum,
    PaillierSum,
    PlainSum,
    Requirements,
)
from protocols.machine.parameters import Parameters

__all__ = ["EPILOG", "plan"]

EPILOG: Final = """\
\b
Examples:
  secagg plan 10
  secagg plan 100 --roster 1000 --adversary malicious --corrupt-fraction 0.05
"""
_DEFAULTS: Final = Requirements()


class Protocol(Enum):
    """A protocol's name on the command line."""

    MASKED = "masked"
    LATTICE = "lattice"
    CKKS = "ckks"
    PAILLIER = "paillier"
    PLAIN = "plain"


_CLASSES: Final[dict[Protocol, type[Parameters]]] = {
    Protocol.MASKED: MaskedSum,
    Protocol.LATTICE: LatticeSum,
    Protocol.CKKS: CkksSum,
    Protocol.PAILLIER: PaillierSum,
    Protocol.PLAIN: PlainSum,
}


def plan(
    n: Annotated[int, typer.Argument(metavar="N", help="Clients in a round.")],
    *,
    protocol: Annotated[Protocol, typer.Option(help="Whose plan.")] = Protocol.MASKED,
    roster: Annotated[
        int | None,
        typer.Option(metavar="N", help="Clients that a round's are chosen from.", show_default="N"),
    ] = None,
    adversary: Annotated[Adversary, typer.Option(help="What the server may do.")] = _DEFAULTS.adversary,
    corrupt_fraction: Annotated[
        float,
        typer.Option(metavar="SHARE", help="Of the roster: who may pool what they know with the server."),
    ] = _DEFAULTS.corrupt_fraction,
    dropout_fraction: Annotated[
        float, typer.Option(metavar="SHARE", help="Of the clients: who is expected to vanish in a round.")
    ] = _DEFAULTS.dropout_fraction,
    min_contributors: Annotated[
        int, typer.Option(metavar="N", help="No sum of fewer is opened.")
    ] = _DEFAULTS.min_contributors,
    bits: Annotated[int, typer.Option(metavar="N", help="Of one value, before it is summed.")] = 16,
    max_weight: Annotated[int, typer.Option(metavar="N", help="The largest weight of one client.")] = 1,
) -> None:
    """Show the plan of a round of N clients: what is needed, what can fail, who learns what."""
    made = _CLASSES[protocol](
        bits=bits,
        max_clients=n,
        max_weight=max_weight,
        requirements=Requirements(
            adversary=adversary,
            corrupt_fraction=corrupt_fraction,
            dropout_fraction=dropout_fraction,
            min_contributors=min_contributors,
        ),
    )
    typer.echo(str(made.plan(n, roster=roster)))
