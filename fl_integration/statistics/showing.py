"""How answers are shown: p-values as medical papers print them, and what stands below each table.

>>> p_value(0.0004), p_value(0.0042), p_value(0.0478), p_value(0.31), p_value(0.9999), p_value(float("nan"))
('<.001', '.004', '.048', '.31', '>.99', '–')
>>> complete(301, 2)
'301 complete rows, 2 were left out'
"""

import math
from typing import Any, Final

from fl_integration.statistics.answer import Provenance
from secagg.errors import MissingExtraError

__all__ = ["BLUE", "GREY", "ORANGE", "RED", "complete", "load_special", "p_value", "with_provenance"]

BLUE: Final = "#0072B2"
ORANGE: Final = "#E69F00"
RED: Final = "#D55E00"
GREY: Final = "#6b7280"
"""Of the palette of Okabe and Ito, which people with any common colour blindness tell apart, and a grey."""


def p_value(p: float) -> str:
    """As the AMA's manual of style has it: two digits, three below .01 and next to .05, never 0 or 1."""
    if math.isnan(p):
        return "–"
    if p < 0.001:
        return "<.001"
    if p > 0.99:
        return ">.99"
    digits = 3 if p < 0.01 or 0.045 <= p < 0.055 else 2
    return f"{p:.{digits}f}".removeprefix("0")


def complete(count: int, incomplete: int) -> str:
    """How many rows were counted, and how many were not."""
    return f"{count} complete rows" + (f", {incomplete} were left out" if incomplete else "")


def with_provenance(text: str, provenance: Provenance | None) -> str:
    """`text`, and below it how the answer came about."""
    return text if provenance is None else f"{text}\n({provenance})"


def load_special() -> Any:
    """The module scipy.special, which has the tails of all laws that are needed and loads at once.

    Raises:
        MissingExtraError: scipy is not installed.
    """
    try:
        from scipy import special
    except ImportError as error:
        raise MissingExtraError(package="scipy", extra="statistics") from error
    return special
