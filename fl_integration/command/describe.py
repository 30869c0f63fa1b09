"""`secagg describe`: a cohort's Table 1, as medical papers have it, from secure sums of the hospitals' rows.

All hospitals run in this process, over the protocol's real bytes: what it shows is what a consortium would
have, and what it would cost. The records are public, so that this hides nothing from whoever runs it.
"""

from enum import Enum
from typing import TYPE_CHECKING, Annotated, Final

import typer

from fl_integration.command.preparing import need_packages
from fl_integration.command.showing import progress, ticker
from fl_integration.command.tables import show
from secagg.errors import ParameterError

if TYPE_CHECKING:
    from fl_integration.statistics.table_one import TableOne

__all__ = ["EPILOG", "describe"]

EPILOG: Final = """\
\b
Examples:
  secagg describe heart
  secagg describe heart --sites 3 --protocol paillier

A hospital answers about a group of its patients if it has at least as many of them as --min-rows says; counts
below that are not printed either. p-values are not corrected for their number. What it needs:
pip install 'secagg[cli,statistics,demo]'.
"""


class Cohort(Enum):
    """Whose patients."""

    HEART = "heart"
