"""Every protocol sums: cohorts, lengths, weights, metrics, roundings, segments; PlainSum is the oracle."""

from dataclasses import FrozenInstanceError
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from protocols import (
    Learner,
    NeedUpdate,
    Outcome,
    ParameterError,
    PlainSum,
    Requirements,
    Round,
    Rounding,
    Segment,
    Simulation,
    run_round,
    simulate,
)
from tests.protocols.conftest import (
    FAMILIES,
    ONE_OF_SIX,
    TWO,
    Family,
    Vector,
    World,
    assert_right,
    truth,
    updates_of,
)

pytestmark = pytest.mark.usefixtures("one_paillier_key")

SAME = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def nearest_oracle(updates: dict[str, Vector], **parameters: object) -> Simulation:
    weights = parameters.pop("weights", None)
    metrics = parameters.pop("metrics", None)
    plain = PlainSum(**{"max_clients": 6, **parameters})  # type: ignore[arg-type]
    return simulate(plain, updates, weights=weights, metrics=metrics)  # type: ignore[arg-type]


# Cohorts and lengths


@pytest.mark.parametrize("count", [2, 3, 4, 5, 6])
def test_cohorts_of_two_to_six(family: Family, count: int) -> None:
    requirements = TWO if count == 2 else Requirements()
    protocol = family(requirements=requirements)
    updates = updates_of("abcdef"[:count], 7, seed=count)
    run = simulate(protocol, updates)
    assert_right(run.sum, protocol, updates, updates)
    assert np.array_equal(run.mean, run.sum.mean)
    assert run.contributors == frozenset(updates)
    assert run.dropped == {}
    assert run.total_weight == count
    assert run.exchanges == len(protocol.exchanges(first=True))


@pytest.mark.parametrize("length", [1, 2, 3, 63, 64, 65, 101, 102, 103, 997, 4096, 4097, 8191])
def test_lengths(family: Family, length: int) -> None:
    protocol = family(rounding=Rounding.NEAREST)
    updates = updates_of("abc", min(length, 1001) if family.name == "paillier" else length, seed=length)
    run = simulate(protocol, updates)
    assert_right(run.sum, protocol, updates, updates)
    # Rounding to nearest has no randomness, so equal integers are summed: the oracle agrees to the last bit.
    assert np.array_equal(run.mean, nearest_oracle(updates, rounding=Rounding.NEAREST).mean)


@pytest.mark.parametrize("length", [32769, 10**5, 10**5 - 1])
@pytest.mark.parametrize("name", ["plain", "masked", "masked malicious", "ckks"])
def test_long_vectors(name: str, length: int) -> None:
    protocol = Family(name, FAMILIES[name])(max_clients=3, rounding=Rounding.NEAREST)
    updates = updates_of("abc", length, seed=length)
    run = simulate(protocol, updates)
    assert_right(run.sum, protocol, updates, updates)
    assert np.array_equal(run.mean, nearest_oracle(updates, rounding=Rounding.NEAREST, max_clients=3).mean)


# Numbers


@pytest.mark.parametrize("bits", [2, 3, 8, 16, 24, 32])
@pytest.mark.parametrize("rounding", Rounding)
def test_bits_and_roundings(family: Family, bits: int, rounding: Rounding) -> None:
    protocol = family(bits=bits, rounding=rounding, clip=2.5)
    updates = updates_of("abcd", 33, seed=bits, clip=3.5)
    run = simulate(protocol, updates)
    assert_right(run.sum, protocol, updates, updates, clip=2.5)
    steps = 1.0 if rounding is Rounding.STOCHASTIC else 0.5
    assert protocol.error_bound(4) == pytest.approx(steps * 2.5 / (2 ** (bits - 1) - 1), rel=1e-3)
    # The heavier the same number of clients, the finer.
    assert protocol.error_bound(4, total_weight=4) == protocol.error_bound(4)
    assert protocol.error_bound(4, total_weight=400) == pytest.approx(protocol.error_bound(4) / 100, rel=1e-3)


@pytest.mark.parametrize("rounding", Rounding)
def test_extremes_do_not_wrap(family: Family, rounding: Rounding) -> None:
    protocol = family(max_clients=4, max_weight=1000, rounding=rounding)
    for sign in (1.0, -1.0):
        updates = {name: np.full(9, sign) for name in "abcd"}
        run = simulate(protocol, updates, weights=dict.fromkeys("abcd", 1000))
        assert np.array_equal(run.mean, np.full(9, sign))
        assert run.total_weight == 4000


def test_zero_is_exact(family: Family) -> None:
    updates = {name: np.zeros(17) for name in "abc"}
    assert np.array_equal(simulate(family(bits=3), updates).mean, np.zeros(17))


@SAME
@given(weights=st.lists(st.integers(1, 10**6), min_size=3, max_size=6), seed=st.integers(0, 2**16))
@pytest.mark.parametrize("name", ["plain", "masked"])
def test_any_weights(name: str, weights: list[int], seed: int) -> None:
    protocol = Family(name, FAMILIES[name])(max_weight=10**6, bits=24)
    names = "abcdef"[: len(weights)]
    updates, heavy = updates_of(names, 11, seed=seed), dict(zip(names, weights, strict=True))
    run = simulate(protocol, updates, weights=heavy)
    assert_right(run.sum, protocol, updates, updates, heavy)


@pytest.mark.parametrize("weights", [{"a": 1, "b": 10**6, "c": 999_983}, {"b": 7}, {}])
def test_weights(family: Family, weights: dict[str, int]) -> None:
    protocol = family(max_weight=10**6)
    updates = updates_of("abc", 13)
    assert_right(simulate(protocol, updates, weights=weights).sum, protocol, updates, updates, weights)


def test_weights_may_be_numpy_integers(family: Family) -> None:
    protocol = family(max_weight=500)
    updates = updates_of("abc", 13)
    weights: dict[str, Any] = {"a": np.int64(303), "b": np.uint16(294), "c": np.int32(200)}
    run = simulate(protocol, updates, weights=weights)
    assert_right(run.sum, protocol, updates, updates, {name: int(w) for name, w in weights.items()})


def test_total_weight_cap(family: Family) -> None:
    protocol = family(max_weight=1000, max_total_weight=797)
    updates = updates_of("abc", 6)
    exactly = {"a": 303, "b": 294, "c": 200}
    assert_right(simulate(protocol, updates, weights=exactly).sum, protocol, updates, updates, exactly)


def test_metrics(family: Family) -> None:
    ranges = {"loss": (0.0, 10.0), "accuracy": (0.0, 1.0)}
    protocol = family(max_weight=50, metrics=ranges)
    updates, weights = updates_of("abc", 6), {"a": 50, "b": 3}
    metrics = {
        "a": {"loss": 0.0, "accuracy": 1.0},
        "b": {"loss": 10.0, "accuracy": 0.25},
        "c": {"loss": 2.5, "accuracy": 0.5},
    }
    learnt = simulate(protocol, updates, weights=weights, metrics=metrics).sum
    assert_right(learnt, protocol, updates, updates, weights)
    assert set(learnt.metrics) == set(ranges)
    for name, (low, high) in ranges.items():
        expected = (50 * metrics["a"][name] + 3 * metrics["b"][name] + metrics["c"][name]) / 54
        assert learnt.metrics[name] == pytest.approx(expected, abs=(high - low) / 2**15)


def test_segments(family: Family) -> None:
    segments = (Segment(length=3, clip=0.25), Segment(length=1, clip=100.0), Segment(length=5, clip=2.0))
    protocol = family(clip=segments, rounding=Rounding.NEAREST)
    clips = np.repeat([0.25, 100.0, 2.0], [3, 1, 5])
    updates = updates_of("abcd", 9, clip=3.0)
    run = simulate(protocol, updates)
    mean, _ = truth(updates, updates, clip=clips)
    assert (np.abs(run.mean - mean) <= clips * (0.5 / 32767 + 2**-49)).all()
    assert run.clipped == {
        name: int((np.abs(update.astype(float)) > clips).sum()) for name, update in updates.items()
    }


def test_stochastic_rounding_is_unbiased(family: Family) -> None:
    # 2000 values between two points of a coarse grid: the mean of all is off by 3/1000 step at one sigma.
    updates = {name: np.full(2000, 0.3) for name in "abc"}
    mean = float(simulate(family(bits=2), updates).mean.mean())
    assert abs(mean - 0.3) < 0.05
    assert simulate(family(bits=2, rounding=Rounding.NEAREST), updates).mean.max() == 0.0


def test_clipped_values_are_told_to_the_client_alone(family: Family) -> None:
    world = World(family())
    updates = {"a": np.array([2.0, -3.0, 0.5]), "b": np.array([0.0, 1.0, -1.0]), "c": np.array([9.0, 0, 0])}
    world.learn(world.play(updates))
    assert {name: client.clipped for name, client in world.clients.items()} == {"a": 2, "b": 0, "c": 1}


# Outcomes


def test_outcome_has_one_of_total_and_result(family: Family) -> None:
    world = World(family())
    outcome = world.play(updates_of("abc"))
    assert world.protocol.learns is (Learner.CLIENTS if family.opened_by_clients else Learner.SERVER)
    assert (outcome.total is None) == family.opened_by_clients
    assert (outcome.result is None) != family.opened_by_clients
    assert outcome.round == 0
    assert outcome.contributors == frozenset("abc")
    with pytest.raises(FrozenInstanceError):
        outcome.round = 3  # type: ignore[misc]


def test_all_clients_open_identical_models(consortium: Family) -> None:
    world = World(consortium(), "abcde")
    outcome = world.play(updates_of("abcde", 40))
    world.learn(outcome)  # compares what each of them opened, bit for bit


def test_a_server_that_learns_has_nothing_for_clients_to_open(to_server: Family) -> None:
    world = World(to_server())
    world.play(updates_of("abc"))
    with pytest.raises(ParameterError, match="server"):
        world.clients["a"].open(b"a result")
    assert world.server.deliver() == {}


def test_the_model_comes_with_the_request_for_an_update(family: Family) -> None:
    world = World(family())
    seen: list[NeedUpdate] = []
    for name, client in list(world.clients.items()):
        world.clients[name] = Spy(client, seen)  # type: ignore[assignment]
    world.play(updates_of("abc", 4), model=b"the model of round 0")
    assert seen == [NeedUpdate(0, 4, b"the model of round 0")] * 3
    # Only the exchange that is collecting carries the model down.
    carries = {sent.exchange for sent in world.log if sent.down and b"the model of round 0" in sent.body}
    assert carries == {family.collecting}


class Spy:
    """A client that remembers what it was asked."""

    def __init__(self, client: object, seen: list[NeedUpdate]) -> None:
        self._client, self._seen = client, seen

    def __getattr__(self, name: str) -> object:
        return getattr(self._client, name)

    def receive(self, message: bytes) -> object:
        answer = self._client.receive(message)  # type: ignore[attr-defined]
        if isinstance(answer, NeedUpdate):
            self._seen.append(answer)
        return answer


def test_many_rounds_with_changing_cohorts(family: Family) -> None:
    world = World(family(requirements=ONE_OF_SIX), "abcdef")
    for number, cohort in enumerate(["abc", "abcdef", "bdf", "fedcba", "ace"]):
        updates = updates_of(cohort, 3 + number, seed=number)
        outcome = world.play(updates)
        assert outcome.round == number
        assert_right(world.learn(outcome), world.protocol, updates, cohort)


def test_round_numbers_may_skip_but_not_return(family: Family) -> None:
    world = World(family())
    updates = updates_of("abc")
    for number in (0, 7, 2**62):
        world.number = number - 1
        outcome = world.play(updates)
        assert outcome.round == number
        assert_right(world.learn(outcome), world.protocol, updates, "abc")
    wrong: tuple[Any, ...] = (2**62, 7, -1, 2**63, True, 8.0)
    for number in wrong:
        with pytest.raises(ParameterError, match="number"):
            world.server.start(Round(number, ("a", "b", "c"), 5))


def test_collecting_says_when_updates_are_asked_for(family: Family) -> None:
    world = World(family())
    asked: list[tuple[int, bool]] = []

    def look(exchange: int, name: str, message: bytes) -> bytes:
        asked.append((exchange, world.server.collecting))
        return message

    assert not world.server.collecting
    collecting = "MaskedInput" if family.masked else "Contribute"
    names = world.protocol.exchanges(first=True)
    for first in (True, False):
        asked.clear()
        world.play(updates_of("abc"), request=look)
        there = set(world.protocol.exchanges(first=first))
        assert set(asked) == {(e, name == collecting) for e, name in enumerate(names) if name in there}
        assert not world.server.collecting


def test_run_round_is_the_whole_driver(family: Family) -> None:
    world, updates = World(family()), updates_of("abc")

    def exchange(outbox: dict[str, bytes]) -> list[tuple[str, bytes]]:
        replies = []
        for name, message in outbox.items():
            answer = world.clients[name].receive(message)
            replies.append(
                (
                    name,
                    world.clients[name].contribute(updates[name])
                    if isinstance(answer, NeedUpdate)
                    else answer,
                )
            )
        replies.append(("a stranger", b"noise"))  # run_round notes violations and goes on
        return replies

    outcome = run_round(world.server, Round(0, ("a", "b", "c"), 5), exchange)  # type: ignore[arg-type]
    assert isinstance(outcome, Outcome)
    assert_right(world.learn(outcome), world.protocol, updates, "abc")
