"""Rows of floats to rows of whole steps whose squares add up to no more than the clip's.

The bound is what privacy rests on, so float64 only proposes: exact integers decide. Squares of all entries
of a row fit 62 bits, which the plan has seen to.
"""

import numpy as np
from numpy.typing import NDArray

__all__ = ["cut_to", "held_to", "to_grid"]


def to_grid(
    rows: NDArray[np.float64], *, clip: float, steps: int
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Scales rows in place to steps of a grid, those above the clip down to it; what is not finite is zero.

    Args:
        rows: float64[rows, d].
        clip: in [1e-100, 1e100].
        steps: of one clip.

    Returns:
        Which rows are finite, and which the clip left whole: bool[rows] each.
    """
    with np.errstate(over="ignore", invalid="ignore", under="ignore"):
        squares = np.einsum("ij,ij->i", rows, rows)
    # Squares out of range, in the middle of which the clip's lie: the row is huge, or not finite.
    odd = ~np.isfinite(squares)
    finite = np.ones(len(rows), dtype=np.bool_)
    norms = np.sqrt(squares, where=~odd, out=np.zeros(len(rows)))
    for row in np.flatnonzero(odd):
        largest = np.abs(rows[row]).max()
        if np.isfinite(largest):
            rows[row] /= largest
            norms[row] = np.linalg.norm(rows[row])
        else:
            rows[row] = 0.0
            finite[row] = False
    above = odd | (norms > clip)
    factors = np.full(len(rows), steps / clip)
    np.divide(float(steps), norms, out=factors, where=above & finite)
    rows *= factors[:, None]
    return finite, ~above


def cut_to(rows: NDArray[np.float64], *, steps: int) -> NDArray[np.int64]:
    """int64[rows, d]: cut toward zero, and the squares of each row add up to at most steps².

    Args:
        rows: float64[rows, d] as `to_grid` leaves them.
        steps: d·steps² is below 2**62.
    """
    cut = rows.astype(np.int64)  # toward zero
    np.clip(cut, -steps, steps, out=cut)
    return held_to(cut, most=steps * steps)


def held_to(cut: NDArray[np.int64], *, most: int) -> NDArray[np.int64]:
    """The rows, in place, with the largest entries of a row nearer to zero while its squares exceed `most`.

    A row that float64 has scaled exceeds by less than one such move. It ends in any case: each move takes
    from the sum of squares, and a row of zeros has none.
    """
    squares = np.einsum("ij,ij->i", cut, cut)
    for row in np.flatnonzero(squares > most):
        values, excess = cut[row], int(squares[row]) - most
        while excess > 0:
            largest = int(np.argmax(np.abs(values)))
            size = abs(int(values[largest]))
            values[largest] -= np.sign(values[largest])
            excess -= 2 * size - 1
    return cut
