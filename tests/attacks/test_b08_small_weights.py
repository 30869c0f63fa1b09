"""B8: a small weight loses its precision.

Seen in a shipped implementation, which multiplies each update by its share of the total weight as a float and
quantises the product: at a weight of 1 in 1000 the rms error was 8.9e-4, and a small hospital's update is
mostly noise. Here weights are integers inside the sum, Σ w·x and Σ w, and w·x is quantised once, on the grid
of an update of weight 1: the heavier a client, the finer, and the lightest as fine as if it were alone.

Not covered: a lying weight; each client caps its own. The weakened copy prescales. Errors are those of the
small client's own update, read from the sum when all others contribute zero.
"""

from typing import Any

import numpy as np
import pytest

from protocols import CkksSum, LatticeSum, MaskedSum, PaillierSum, PlainSum, Rounding
from tests.attacks.weakened import Stage, Vector

WEIGHTS = {"small": 1, "large": 499, "larger": 500}
LENGTH = 500
CLIP = 1.0


@pytest.fixture
def update() -> Vector:
    return np.random.default_rng(8).uniform(-CLIP, CLIP, LENGTH)


def rms(error: Vector) -> float:
    return float(np.sqrt(np.mean(error**2)))


def prescaled(update: Vector, *, bits: int) -> Vector:
    """The weakened copy: weight as a float first, the grid of the unscaled values after."""
    step = CLIP / (2 ** (bits - 1) - 1)
    share = WEIGHTS["small"] / sum(WEIGHTS.values())
    read: Vector = np.rint(update * share / step) * step / share
    return read


def ours(protocol: Any, update: Vector) -> Vector:
    """The small client's update, as it stands in the sum."""
    stage = Stage(protocol, WEIGHTS)
    zeros = np.zeros(LENGTH)
    data = {"small": update, "large": zeros, "larger": zeros}
    outcome = stage.play(data, weights=WEIGHTS)
    total = outcome.total or stage.clients["large"].open(outcome.result or b"")
    assert total.total_weight == sum(WEIGHTS.values())
    small: Vector = total.mean * total.total_weight / WEIGHTS["small"]
    return small


@pytest.mark.parametrize("bits", [16, 20])
def test_a_prescaled_update_is_mostly_lost(bits: int, update: Vector) -> None:
    step = CLIP / (2 ** (bits - 1) - 1)
    assert rms(prescaled(update, bits=bits) - update) > 250 * step


@pytest.mark.parametrize("build", [PlainSum, MaskedSum, CkksSum, PaillierSum, LatticeSum])
def test_ours_loses_nothing_to_its_weight(build: Any, update: Vector) -> None:
    extra = {"key_bits": 2048} if build is PaillierSum else {}
    protocol = build(
        bits=16, max_clients=3, max_weight=500, max_total_weight=1000, rounding=Rounding.NEAREST, **extra
    )
    error = ours(protocol, update) - update
    step = CLIP / (2**15 - 1)
    assert np.abs(error).max() <= 0.51 * step
    assert rms(error) < rms(prescaled(update, bits=16) - update) / 500
