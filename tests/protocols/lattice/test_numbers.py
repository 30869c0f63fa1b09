"""LatticeSum's numbers: weights and metrics, extremes, the borders of blocks, cohorts, many rounds."""

import numpy as np
import pytest

from protocols import (
    IntegerSum,
    LatticeSum,
    ParameterError,
    RoundAborted,
    Rounding,
    Segment,
    simulate,
)
from tests.protocols.conftest import TWO, World, assert_right, updates_of
from tests.protocols.lattice.layers import PAILLIER, lattice_of

pytestmark = pytest.mark.usefixtures("one_paillier_key")


@pytest.mark.parametrize("bits", [8, 16, 24, 32])
@pytest.mark.parametrize("max_weight", [1, 500])
def test_weights_metrics_and_segments(bits: int, max_weight: int) -> None:
    protocol = LatticeSum(
        max_clients=10,
        bits=bits,
        max_weight=max_weight,
        clip=(Segment(length=3, clip=0.5), Segment(length=40, clip=2.0)),
        metrics={"loss": (0.0, 4.0), "accuracy": (0.0, 1.0)},
        rounding=Rounding.NEAREST,
    )
    names = "abcdefghij"
    updates = {name: 2 * update for name, update in updates_of(names, 43, seed=bits).items()}
    weights = {name: 1 + (max_weight - 1) * place // 9 for place, name in enumerate(names)}
    metrics = {name: {"loss": place / 3, "accuracy": place / 9} for place, name in enumerate(names)}
    run = simulate(protocol, updates, weights=weights, metrics=metrics)
    clip = np.repeat([0.5, 2.0], [3, 40])
    assert_right(run.sum, protocol, updates, names, weights, clip)
    for name in ("loss", "accuracy"):
        truth = sum(weights[n] * metrics[n][name] for n in names) / sum(weights.values())
        assert run.sum.metrics[name] == pytest.approx(truth, abs=1e-3)


@pytest.mark.parametrize("bits", [8, 16, 24, 32])
@pytest.mark.parametrize("extreme", [1.0, -1.0])
def test_extremes_do_not_spill_into_their_neighbours(bits: int, extreme: float) -> None:
    protocol = LatticeSum(max_clients=10, bits=bits, max_weight=500)
    update = np.resize([extreme, 0.0, -extreme, extreme], 9000)
    run = simulate(protocol, dict.fromkeys("abcdefghij", update), weights=dict.fromkeys("abcdefghij", 500))
    assert np.abs(run.mean - update).max() <= protocol.error_bound(10)


def test_a_weight_above_the_common_cap_is_an_abort_and_no_wrong_mean() -> None:
    protocol = LatticeSum(max_clients=3, max_weight=9, max_total_weight=10)
    updates = updates_of("abc")
    assert_right(simulate(protocol, updates, weights={"a": 8}).sum, protocol, updates, "abc", {"a": 8})
    with pytest.raises(RoundAborted, match="total weight"):
        simulate(protocol, updates, weights={"a": 9})


@pytest.mark.parametrize("most", [1, 2**8, 2**20, 2**40, (2**55 - 1) // 6])
def test_the_integer_surface(most: int) -> None:
    protocol = LatticeSum(max_clients=6).exact(max_summand=most)
    values = np.arange(5000, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    updates = {name: (values + np.uint64(place)) % np.uint64(most + 1) for place, name in enumerate("abcde")}
    updates["f"] = np.full(5000, most, dtype=np.uint64)
    learnt = simulate(protocol, updates).sum
    assert isinstance(learnt, IntegerSum)
    assert np.array_equal(learnt.total, np.sum(list(updates.values()), axis=0, dtype=np.uint64))


def test_an_integer_surface_that_is_too_wide_is_refused_when_it_is_made() -> None:
    with pytest.raises(ParameterError, match="lower"):
        LatticeSum(max_clients=6).exact(max_summand=(2**55 - 1) // 6 + 1)


# Lengths


def lengths() -> list[tuple[int, int]]:
    """(bits, length): one value, both ends of blocks, and of batches of eight blocks."""
    found = [(16, length) for length in (1, 2, 4095, 4096, 4097, 8191, 8192, 8193, 32769)]
    for bits, digits in ((8, 4), (16, 2), (32, 1)):
        for border in (digits * 4096, digits * 32768):
            found += [(bits, border + step) for step in (-digits - 1, -2, -1, 0, 1)]
    return sorted(set(found))


@pytest.mark.parametrize(("bits", "length"), lengths())
def test_lengths_at_the_borders_of_blocks(bits: int, length: int) -> None:
    protocol = LatticeSum(max_clients=10, bits=bits, requirements=TWO)
    assert lattice_of(protocol).digits == {8: 4, 16: 2, 32: 1}[bits]
    updates = updates_of("ab", length, seed=length)
    assert_right(simulate(protocol, updates).sum, protocol, updates, "ab")


@pytest.mark.parametrize("length", [1, 4096, 8192, 16383, 65537])
def test_lengths_where_clients_open(length: int) -> None:
    protocol = LatticeSum(max_clients=3, requirements=TWO, keys=PAILLIER)
    updates = updates_of("ab", length, seed=length)
    assert_right(simulate(protocol, updates).sum, protocol, updates, "ab")


# Cohorts and rounds


@pytest.mark.parametrize("count", range(2, 13))
def test_cohorts(count: int) -> None:
    names = "abcdefghijkl"[:count]
    protocol = LatticeSum(max_clients=12, requirements=TWO)
    updates = updates_of(names, 17)
    assert_right(simulate(protocol, updates).sum, protocol, updates, names)


def test_two_clients_are_asked_for_by_name() -> None:
    with pytest.raises(ParameterError, match="min_contributors"):
        simulate(LatticeSum(max_clients=12), updates_of("ab"))


@pytest.mark.slow
def test_many_rounds_with_losses_other_lengths_and_restarts() -> None:
    world = World(LatticeSum(max_clients=12, max_weight=3, requirements=TWO), "abcdefghijkl")
    collecting = world.protocol.suite.collecting  # type: ignore[attr-defined]
    generator = np.random.default_rng(12)
    for number in range(14):
        size = int(generator.integers(6, 13))
        cohort = sorted(generator.permutation(list("abcdefghijkl"))[:size].tolist())
        updates = updates_of(cohort, int(generator.integers(1, 9000)), seed=number)
        gone = {cohort[0]: collecting + number % 2} if number % 3 else {}
        weights = {cohort[-1]: 3}
        outcome = world.play(updates, weights=weights, gone=gone, model=b"%d" % number)
        contributors = {name for name in cohort if gone.get(name, 99) > collecting}
        assert_right(world.learn(outcome), world.protocol, updates, contributors, weights)
        if number % 4 == 3:
            world.restart()
