"""Floats to whole steps without bias, and without more norm than was agreed on.

Each entry goes up or down by chance, so that its mean stays. Rounded so, a vector of d entries gains up to
√d in norm, and noise must grow with it. Conditional rounding (Kairouz, Liu and Steinke 2021, Alg. 1) draws
again until the squares add up to at most c² + d/4 + √(2·ln(1/β))·(c + √d/2), which a draw exceeds with a
chance of at most β (here e^-½). From c = 3.6·√d steps on that is 1 % more norm. The bound holds for every
outcome, so privacy does not depend on how random the rounding was.

After 64 draws, which all fail with a chance below 2^-46, entries are cut toward zero: that always fits.

>>> most_squares(3600, 1_000_000) < (1.01 * 3600) ** 2
True
"""

import math
from typing import Final

import numpy as np
from numpy.typing import NDArray

from fl_integration.privacy.clipping import held_to
from secagg import labels
from secagg.entropy import Entropy, SeededEntropy, draw

__all__ = ["most_squares", "rounded", "steps_for"]

_TRIES: Final = 64
_SEED_BYTES: Final = 32
_CHUNK: Final = 1 << 15
_INFLATION: Final = 1.01
_WORD: Final = float(1 << 32)


def most_squares(steps: int, length: int) -> int:
    """The largest sum of squares of a rounded vector that was at most `steps` long."""
    root = math.sqrt(length)
    always = (steps + root) ** 2
    likely = steps**2 + length / 4 + (steps + root / 2)  # √(2·ln(1/β)) is 1
    return math.floor(min(always, likely))


def steps_for(length: int) -> int:
    """The fewest grid steps of a clip with which rounding adds at most 1 % of norm: about 3.6·√length."""
    low, high = 1, 1 << 40
    while high - low > 1:
        middle = (low + high) // 2
        fits = most_squares(middle, length) <= (_INFLATION * middle) ** 2
        low, high = (low, middle) if fits else (middle, high)
    return high


def rounded(vector: NDArray[np.float64], *, steps: int, most: int, entropy: Entropy) -> NDArray[np.int64]:
    """int64[d]: the vector with each entry rounded up or down by chance, squares adding up to at most `most`.

    Args:
        vector: float64[d], at most `steps` long but for what float64 rounds.
        steps: of a clip.
        most: `most_squares(steps, d)`; with d·most below 2**62.
        entropy: secret; asked for 32 bytes at each try.
    """
    for _ in range(_TRIES):
        words = SeededEntropy(draw(entropy, _SEED_BYTES), purpose=labels.STOCHASTIC_ROUNDING)
        found = np.empty(len(vector), dtype=np.int64)
        squares = 0
        for start in range(0, len(vector), _CHUNK):
            part = vector[start : start + _CHUNK]
            below = np.floor(part)
            chance = np.frombuffer(words(4 * len(part)), dtype="<u4")
            up = chance < (part - below) * _WORD
            cut = found[start : start + _CHUNK]
            cut[:] = below
            cut += up
            np.clip(cut, -steps - 1, steps + 1, out=cut)
            squares += int(cut @ cut)
        if squares <= most:
            return found
    # Alg. 1 would go on for ever where chance is broken; this one ends.
    cut_off: NDArray[np.int64] = np.clip(vector.astype(np.int64), -steps, steps)
    return held_to(cut_off.reshape(1, -1), most=most).reshape(-1)
