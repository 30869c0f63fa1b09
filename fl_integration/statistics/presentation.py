"""What answers need to show themselves: the optional libraries, and numbers as papers print them.

>>> p_text(0.00004), p_text(0.0042), p_text(0.034), p_text(0.999)
('<0.001', '0.004', '0.03', '>0.99')
"""

import math
from typing import TYPE_CHECKING, Any

from secagg.errors import MissingExtraError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["drawing_axes", "p_text", "pandas_library", "scipy_stats"]


def pandas_library() -> Any:
    """The module `pandas`.

    Raises:
        MissingExtraError: it is not installed.
    """
    try:
        import pandas as pd
    except ImportError as error:
        raise MissingExtraError(package="pandas", extra="statistics") from error
    return pd


def scipy_stats() -> Any:
    """The module `scipy.stats`, for the laws behind p-values and intervals.

    Raises:
        MissingExtraError: it is not installed.
    """
    try:
        from scipy import stats
    except ImportError as error:
        raise MissingExtraError(package="scipy", extra="statistics") from error
    return stats


def drawing_axes(axes: "Axes | None") -> "Axes":
    """The axes to draw on: those given, or new ones of pyplot.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    if axes is not None:
        return axes
    try:
        from matplotlib import pyplot as plt
    except ImportError as error:
        raise MissingExtraError(package="matplotlib", extra="demo") from error
    return plt.subplots(layout="constrained")[1]


def p_text(p: float) -> str:
    """A p-value as medical papers have it: two digits after the point, three below 0.01, bounds beyond."""
    if math.isnan(p):
        return "-"
    if p < 0.001:
        return "<0.001"
    if p > 0.99:
        return ">0.99"
    return f"{p:.3f}" if p < 0.01 else f"{p:.2f}"
