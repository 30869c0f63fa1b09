"""Whole rounds: the real machines over the real bytes, all parties in this process, one after the other.

Each session first runs a short round, which does the set-up (keys of a consortium, tables); what is measured
is a later round, as a deployment has it every time.
"""

from functools import partial
from typing import Any

import numpy as np
import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from bench.sampling import Float32Vector, Laps, MaskFloor, draw_updates, drive, repeat
from protocols import CkksSum, Client, LatticeSum, MaskedSum, PaillierSum, PlainSum, Session, Simulation
from protocols.machine.parameters import Parameters
from secagg.secret import Secret
from secagg.vectors.masking import apply_masks
from secagg.vectors.ring import Ring

PROTOCOLS: dict[str, Parameters] = {
    "PlainSum": PlainSum(max_clients=10),
    "MaskedSum": MaskedSum(max_clients=10),
    "LatticeSum": LatticeSum(max_clients=10),
    "PaillierSum": PaillierSum(max_clients=10, key_bits=3072),
}
WARM_UP_VALUES = 5000
MILLION = 10**6


def case(protocol: str, clients: int, length: int, *, rounds: int, lengthy: bool = False) -> Any:
    marks = [pytest.mark.lengthy] if lengthy else []
    return pytest.param(protocol, clients, length, rounds, marks=marks)


CASES = [
    *(
        case(name, n, d, rounds=5)
        for name in ("PlainSum", "MaskedSum", "LatticeSum")
        for n in (3, 10)
        for d in (10**4, 10**5, MILLION)
    ),
    *(case("CkksSum", n, d, rounds=3) for n in (3, 10) for d in (10**4, 10**5)),
    *(case("CkksSum", n, MILLION, rounds=2, lengthy=True) for n in (3, 10)),
    *(case("PaillierSum", n, 10**4, rounds=2) for n in (3, 10)),
    *(case("PaillierSum", n, 10**5, rounds=1, lengthy=True) for n in (3, 10)),
]


def protocol_of(name: str) -> Parameters:
    if name == "CkksSum":
        pytest.importorskip("tenseal")
        return CkksSum(max_clients=10)
    return PROTOCOLS[name]


@pytest.mark.parametrize(("protocol", "clients", "length", "rounds"), CASES)
def test_round(benchmark: BenchmarkFixture, protocol: str, clients: int, length: int, rounds: int) -> None:
    updates = draw_updates(clients, length)
    parameters = protocol_of(protocol)
    session = Session(parameters, updates)
    first = session.round(draw_updates(clients, WARM_UP_VALUES))
    seconds: list[dict[str, float]] = []
    last: list[Simulation] = []

    def whole_round() -> None:
        last.clear()
        last.append(session.round(updates))
        seconds.append(last[0].seconds)

    repeat(benchmark, whole_round, rounds=rounds)
    (run,) = last
    benchmark.extra_info.update(
        kind="round",
        protocol=protocol,
        clients=clients,
        parameters=length,
        exchanges=run.exchanges,
        client_seconds=[float(np.mean([each[name] for name in updates])) for each in seconds],
        server_seconds=[each["server"] for each in seconds],
        set_up_seconds=max(first.seconds[name] for name in updates),
        up=float(np.mean([run.traffic[name].sent for name in updates])),
        down=float(np.mean([run.traffic[name].received for name in updates])),
        max_error=max_error(run, updates),
        error_bound=parameters.error_bound(clients),
    )


def max_error(run: Simulation, updates: dict[str, Float32Vector]) -> float:
    """Largest distance of a value of the mean from the mean of the inputs, in float64."""
    exact = np.mean([update.astype(np.float64) for update in updates.values()], axis=0)
    return float(np.abs(run.mean - exact).max())


def test_masked_client_against_the_floor(benchmark: BenchmarkFixture) -> None:
    """MaskedSum, ten clients: what a client does with its vector, beside the floor of its ten masks."""
    updates = draw_updates(10, MILLION)
    session = Session(MaskedSum(max_clients=10), updates)
    floor = MaskFloor(masks=10, count=MILLION)
    ring, vector = Ring(bits=20), Ring(bits=20).zeros(MILLION)
    seeds = [Secret(bytes([index]) * 16) for index in range(10)]
    laps, numbers = Laps(), iter(range(100))

    def contribute(name: str, client: Client) -> bytes:
        laps.time("floor", floor, values=MILLION)
        laps.time(
            "apply_masks",
            lambda: apply_masks(vector, ring=ring, add=seeds[:5], subtract=seeds[5:]),
            values=MILLION,
        )
        return laps.time("contribute", lambda: client.contribute(updates[name]), values=MILLION)

    repeat(benchmark, lambda: drive(session, next(numbers), updates, contribute), rounds=4)
    benchmark.extra_info.update(kind="masked client", laps=laps.record())


def test_masked_weights(benchmark: BenchmarkFixture) -> None:
    """What weights of up to 500 cost MaskedSum: wider ring elements, in rounds that take turns."""
    updates = draw_updates(10, MILLION)
    sessions = {weight: Session(MaskedSum(max_clients=10, max_weight=weight), updates) for weight in (1, 500)}
    laps = Laps()
    client_seconds: dict[str, list[float]] = {"1": [], "500": []}
    up: dict[str, float] = {}

    def lap() -> None:
        for weight, session in sessions.items():
            weights = dict.fromkeys(updates, weight)
            whole_round = partial(session.round, updates, weights=weights)
            run = laps.time(f"max_weight={weight}", whole_round, values=MILLION)
            client_seconds[str(weight)].append(float(np.mean([run.seconds[name] for name in updates])))
            up[str(weight)] = float(np.mean([run.traffic[name].sent for name in updates]))

    repeat(benchmark, lap, rounds=4)
    benchmark.extra_info.update(
        kind="masked weights", laps=laps.record(), client_seconds=client_seconds, up=up, parameters=MILLION
    )
