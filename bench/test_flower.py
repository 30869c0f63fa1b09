"""Flower's SecAgg+ and MaskedSum: whole rounds that take turns on the same updates.

Every message is real bytes, every party is in this process, every client weighs the same, nobody drops out.
Processor time is that of the parties, added up: neither Flower's protobuf encoding nor our counting of
messages is in it. Flower shares its keys with all clients and rebuilds them from two thirds of the shares;
MaskedSum does what its plan says, for a server that may tell different clients different stories, which
Flower's cannot answer. MaskedSum runs with its 16-bit values in [-1, 1], and with 22 bits in [-8, 8], which
is Flower's grid, on which both are equally exact; each in a steady round, and in a session's first one, which
makes all keys as each of Flower's rounds does.
"""

import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from pytest_benchmark.fixture import BenchmarkFixture

from bench.sampling import Float32Vector, draw_updates, repeat
from protocols import Adversary, MaskedSum, Requirements, Session, Simulation

WARM_UP_VALUES = 5000
CASES = [
    pytest.param(3, 10**6, 0.0, 5, id="3x1e6"),
    pytest.param(10, 10**6, 0.3, 3, id="10x1e6"),
    pytest.param(30, 10**5, 0.3, 1, marks=pytest.mark.lengthy, id="30x1e5"),
]


@pytest.mark.parametrize(("clients", "length", "dropout", "rounds"), CASES)
def test_flower(benchmark: BenchmarkFixture, clients: int, length: int, dropout: float, rounds: int) -> None:
    flower = pytest.importorskip("bench.flower_secagg", reason="flwr is not installed")
    updates = draw_updates(clients, length)
    requirements = Requirements(
        adversary=Adversary.SEMI_MALICIOUS, corrupt_fraction=0.2, dropout_fraction=dropout
    )
    ours = {
        "MaskedSum": MaskedSum(max_clients=clients, requirements=requirements),
        "MaskedSum on Flower's grid": MaskedSum(
            max_clients=clients, requirements=requirements, bits=22, clip=8.0
        ),
    }
    contenders: dict[str, Any] = {name: Session(protocol, updates) for name, protocol in ours.items()}
    first = {f"{name}, first round": FirstRounds(protocol) for name, protocol in ours.items()}
    ours |= {name: rounds_of.protocol for name, rounds_of in first.items()}
    contenders |= first
    contenders["Flower"] = flower.FlowerSession(updates)
    samples = {name: Samples(length) for name in contenders}
    last: dict[str, Any] = {}
    for session in contenders.values():
        session.round(draw_updates(clients, WARM_UP_VALUES))

    def lap() -> None:
        for name, session in contenders.items():
            last[name] = samples[name].take(session, updates)

    repeat(benchmark, lap, rounds=rounds)
    plans = {name: protocol.plan(clients) for name, protocol in ours.items()} | {"Flower": last["Flower"]}
    bounds = {name: protocol.error_bound(clients) for name, protocol in ours.items()}
    errors = {name: max_error(run.mean, updates) for name, run in last.items()}
    assert all(errors[name] <= bounds[name] for name in ours)
    # Flower quantises in float32, which adds up to an eighth of a step to what its grid costs.
    assert errors["Flower"] <= 1.25 * bounds["MaskedSum on Flower's grid"]
    benchmark.extra_info.update(
        kind="flower",
        clients=clients,
        parameters=length,
        laps={name: each.laps for name, each in samples.items()},
        client_seconds={name: each.client_seconds for name, each in samples.items()},
        server_seconds={name: each.server_seconds for name, each in samples.items()},
        up={name: mean_bytes(run, updates, "sent") for name, run in last.items()},
        down={name: mean_bytes(run, updates, "received") for name, run in last.items()},
        exchanges={name: run.exchanges for name, run in last.items()},
        max_error=errors,
        degree={name: plan.degree for name, plan in plans.items()},
        threshold={name: plan.threshold for name, plan in plans.items()},
    )


class FirstRounds:
    """Each round is the first of a session of its own."""

    def __init__(self, protocol: MaskedSum) -> None:
        self.protocol = protocol

    def round(self, updates: Mapping[str, Float32Vector]) -> Simulation:
        return Session(self.protocol, updates).round(updates)


class Samples:
    """What a contender's rounds took: `wall` of the whole round, `cpu` of all parties together."""

    def __init__(self, length: int) -> None:
        self.laps: dict[str, Any] = {"values": length, "wall": [], "cpu": []}
        self.client_seconds: list[float] = []
        self.server_seconds: list[float] = []

    def take(self, session: Any, updates: Mapping[str, Float32Vector]) -> Any:
        """One round of a session, ours or Flower's: both say whose processor time it took."""
        start = time.perf_counter()
        run = session.round(updates)
        self.laps["wall"].append(time.perf_counter() - start)
        self.laps["cpu"].append(sum(run.seconds.values()))
        self.client_seconds.append(float(np.mean([run.seconds[name] for name in updates])))
        self.server_seconds.append(run.seconds["server"])
        return run


def mean_bytes(run: Any, updates: Mapping[str, Float32Vector], direction: str) -> float:
    """Mean over the clients of the bytes that they sent or received in a round."""
    return float(np.mean([getattr(run.traffic[name], direction) for name in updates]))


def max_error(mean: NDArray[np.float64], updates: Mapping[str, Float32Vector]) -> float:
    """Largest distance of a value of the mean from the mean of the inputs, in float64."""
    exact = np.mean([update.astype(np.float64) for update in updates.values()], axis=0)
    return float(np.abs(mean - exact).max())
