"""B1. Overflow that wraps: sums that leave the ring come back with the other sign, and nobody notices.

Seen in deployed code that only warns, or that takes the next machine word and hopes. The weakened copy sums
the same fixed-point vectors in a ring that is one bit too narrow: the mean of extreme updates is wrong by the
whole range of the ring and no error is raised. Ours derives the ring from the largest sum that honest clients
can make, refuses what cannot be held when the protocol is built, and aborts when a cap on weights is broken.
"""

from dataclasses import dataclass

import numpy as np
import pytest

from protocols import (
    CkksSum,
    LatticeSum,
    MaskedSum,
    PaillierSum,
    ParameterError,
    PlainSum,
    RoundAborted,
    simulate,
)
from protocols.machine.summand import FloatSurface
from secagg.vectors.ring import Ring

EXTREMES = [1.0, -1.0]
NAMES = "abcde"


@dataclass(frozen=True, slots=True, kw_only=True)
class NarrowSurface(FloatSurface):
    """One bit too few for the largest sum."""

    @property
    def ring(self) -> Ring:
        return Ring(bits=FloatSurface.ring.__get__(self).bits - 1)


@dataclass(frozen=True, kw_only=True)
class NarrowPlainSum(PlainSum):
    """PlainSum over the narrow ring."""

    @property
    def surface(self) -> FloatSurface:
        right = PlainSum.surface.__get__(self)
        return NarrowSurface(
            codec=right.codec,
            max_clients=right.max_clients,
            max_weight=right.max_weight,
            max_total_weight=right.max_total_weight,
            ring_weight=right.ring_weight,
        )


def updates(value: float) -> dict[str, np.ndarray]:
    return {name: np.full(9, value) for name in NAMES}


@pytest.mark.parametrize("extreme", EXTREMES)
def test_a_narrow_ring_wraps_and_nobody_notices(extreme: float) -> None:
    run = simulate(NarrowPlainSum(max_clients=5), updates(extreme))
    assert np.abs(run.mean - extreme).min() > 1


@pytest.mark.parametrize("extreme", EXTREMES)
@pytest.mark.parametrize("weight", [1, 7])
@pytest.mark.parametrize("bits", [2, 8, 16, 24, 32])
@pytest.mark.parametrize("build", [PlainSum, MaskedSum, LatticeSum])
def test_the_largest_sums_fit(build: type[PlainSum], bits: int, weight: int, extreme: float) -> None:
    protocol = build(max_clients=5, max_weight=7, bits=bits)
    run = simulate(protocol, updates(extreme), weights=dict.fromkeys(NAMES, weight))
    assert np.abs(run.mean - extreme).max() <= protocol.error_bound(5)


@pytest.mark.parametrize("extreme", EXTREMES)
@pytest.mark.parametrize("protocol", [CkksSum(max_clients=5), PaillierSum(max_clients=5, key_bits=2048)])
def test_the_largest_encrypted_sums_fit(protocol: CkksSum | PaillierSum, extreme: float) -> None:
    assert np.abs(simulate(protocol, updates(extreme)).mean - extreme).max() <= protocol.error_bound(5)


@pytest.mark.parametrize("build", [PlainSum, MaskedSum, CkksSum, PaillierSum, LatticeSum])
def test_a_sum_that_no_ring_holds_is_refused_when_the_protocol_is_built(build: type[PlainSum]) -> None:
    with pytest.raises(ParameterError, match=r"lower .*(max_clients|max_weight|max_total_weight|bound|bits)"):
        build(bits=32, max_clients=2**20, max_weight=2**40)


@pytest.mark.parametrize("build", [MaskedSum, LatticeSum])
def test_weights_beyond_their_common_cap_are_an_abort_and_not_a_wrong_mean(build: type[MaskedSum]) -> None:
    protocol = build(max_clients=5, max_weight=10, max_total_weight=20)
    with pytest.raises(RoundAborted, match="total weight"):
        simulate(protocol, updates(1.0), weights=dict.fromkeys(NAMES, 5))


@pytest.mark.parametrize("pattern", [[1.0, -1.0], [-1.0, 1.0, 1.0], [0.0, -1.0, 1.0, 0.0]])
@pytest.mark.parametrize("bits", [2, 5, 16, 18, 19, 32])
@pytest.mark.parametrize("build", [MaskedSum, LatticeSum])
def test_opposite_extremes_in_one_machine_word_do_not_meet(
    build: type[MaskedSum], bits: int, pattern: list[float]
) -> None:
    """Both put several narrow values into one word; no sum may borrow from the one beside it."""
    protocol = build(max_clients=5, bits=bits)
    update = np.resize(np.array(pattern), 10_001)
    run = simulate(protocol, dict.fromkeys(NAMES, update))
    assert np.abs(run.mean - update).max() <= protocol.error_bound(5)
