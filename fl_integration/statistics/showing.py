"""How answers are shown: p-values as medical papers print them, axes to draw on, pandas where it is there.

>>> p_value(0.0004), p_value(0.0042), p_value(0.0478), p_value(0.31), p_value(0.9999), p_value(float("nan"))
('<.001', '.004', '.048', '.31', '>.99', '–')
"""

import math
from typing import TYPE_CHECKING, Any, Final

from secagg.errors import MissingExtraError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["BLUE", "GREY", "ORANGE", "RED", "axes_of", "load_pandas", "load_special", "p_value"]

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


def axes_of(axes: "Axes | None", *, width: float = 6.4, height: float = 4.8) -> "Axes":
    """`axes`, or those of a new figure of so many inches.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    if axes is not None:
        return axes
    try:
        from matplotlib import pyplot
    except ImportError as error:
        raise MissingExtraError(package="matplotlib", extra="demo") from error
    return pyplot.subplots(figsize=(width, height), layout="constrained")[1]


def load_pandas() -> Any:
    """The module pandas.

    Raises:
        MissingExtraError: it is not installed.
    """
    try:
        import pandas as pd
    except ImportError as error:
        raise MissingExtraError(package="pandas", extra="statistics") from error
    return pd


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
