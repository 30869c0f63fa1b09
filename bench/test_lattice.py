"""LatticeSum: what its long vector costs by the value, and from which model on it is cheaper than MaskedSum.

Steps are whole steps of the machines, with the key layer (MaskedSum), the envelope and the signature in them.
"""

from typing import Any

import numpy as np
import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from bench.sampling import Float32Vector, Laps, draw_updates, drive, repeat, time_server
from protocols import Client, LatticeSum, MaskedSum, Session
from protocols.lattice.vector import vectors_of
from protocols.machine.parameters import Parameters

MILLION = 10**6
CLIENTS = 10
WARM_UP_VALUES = 5000


@pytest.mark.parametrize(("bits", "max_weight"), [(16, 1), (24, 1), (8, 1), (16, 500)])
def test_vector(benchmark: BenchmarkFixture, bits: int, max_weight: int) -> None:
    """Ten clients of 10**6 values: a client's step, the server's step for each vector, and the opening."""
    protocol = LatticeSum(max_clients=CLIENTS, bits=bits, max_weight=max_weight)
    updates = draw_updates(CLIENTS, MILLION)
    session = Session(protocol, updates)
    server = time_server(session)
    laps, numbers, sizes = Laps(), iter(range(100)), list[int]()
    surface = protocol.suite.surface
    ring = vectors_of(surface, max_clients=CLIENTS).ring
    count = vectors_of(surface, max_clients=CLIENTS).coefficients(surface.elements(MILLION))
    total, received = ring.zeros(count), ring.zeros(count)
    packed = ring.pack(np.random.default_rng(3).integers(0, 1 << 32, count).astype(ring.dtype))

    def contribute(name: str, client: Client) -> bytes:
        reply = laps.time(
            "contribute", lambda: client.contribute(updates[name], weight=max_weight), values=MILLION
        )
        laps.time("add", lambda: np.add(total, received, out=total), values=MILLION)
        laps.time("unpack and add", lambda: ring.add_packed(total, packed), values=MILLION)
        sizes.append(len(reply))
        return reply

    def one_round() -> None:
        outcome = drive(session, next(numbers), updates, contribute)
        assert outcome.contributors == frozenset(updates)
        laps.note("open", values=MILLION, cpu=server.closings[-1])
        for seconds in server.vectors:
            laps.note("receive", values=MILLION, cpu=seconds)

    repeat(benchmark, one_round, rounds=4)
    benchmark.extra_info.update(
        kind="lattice vector",
        bits=bits,
        max_weight=max_weight,
        clients=CLIENTS,
        parameters=MILLION,
        laps=laps.record(),
        up=float(np.mean(sizes)),
    )


# The crossing

LENGTHS = (10**3, 10**4, 10**5, MILLION)
LOST = {3: 0, 10: 1, 30: 3, 100: 10}
"""By cohort: how many vanish in the rounds with dropouts. Three clients bear none."""
CROSSING_CASES = [
    pytest.param(3, 5),
    pytest.param(10, 3),
    pytest.param(30, 2, marks=pytest.mark.lengthy),
    pytest.param(100, 1, marks=pytest.mark.lengthy),
]


class Grid:
    """Steady rounds of one protocol and cohort, of several lengths; all clients have the same update."""

    def __init__(self, protocol: Parameters, names: tuple[str, ...]) -> None:
        self.session = Session(protocol, names)
        self.points: dict[str, dict[str, Any]] = {}
        self._names = names
        self._prepared = False

    def steady(self, update: Float32Vector, *, lost: int) -> None:
        """A steady round that loses so many before their vector; before it, a short first one if needed."""
        if not self._prepared:
            self.session.round(dict.fromkeys(self._names, update[:WARM_UP_VALUES]))
        gone, stayed = self._names[:lost], self._names[lost:]
        run = self.session.round(dict.fromkeys(self._names, update), drop=dict.fromkeys(gone, "MaskedInput"))
        assert run.contributors == frozenset(stayed)
        self._prepared = not lost
        point = self.points.setdefault(
            str(len(update)), {"client_seconds": [], "server_seconds": [], "server_seconds_lossy": []}
        )
        if lost:
            point["server_seconds_lossy"].append(run.seconds["server"])
            return
        point["client_seconds"].append(float(np.mean([run.seconds[name] for name in stayed])))
        point["server_seconds"].append(run.seconds["server"])
        traffic = [run.traffic[name].sent + run.traffic[name].received for name in stayed]
        point["bytes"] = float(np.mean(traffic))


@pytest.mark.parametrize(("clients", "rounds"), CROSSING_CASES)
def test_crossing(benchmark: BenchmarkFixture, clients: int, rounds: int) -> None:
    """Steady rounds of both protocols, in turn, from small models to large ones; then with a tenth lost."""
    names = tuple(f"client-{index:03d}" for index in range(clients))
    protocols: dict[str, Parameters] = {
        "MaskedSum": MaskedSum(max_clients=clients),
        "LatticeSum": LatticeSum(max_clients=clients),
    }
    grids = {name: Grid(protocol, names) for name, protocol in protocols.items()}
    (update,) = draw_updates(1, max(LENGTHS)).values()

    def lap() -> None:
        for lost in sorted({0, LOST[clients]}):
            for length in LENGTHS:
                for grid in grids.values():
                    grid.steady(update[:length], lost=lost)

    repeat(benchmark, lap, rounds=rounds)
    plan = protocols["MaskedSum"].plan(clients)
    benchmark.extra_info.update(
        kind="crossing",
        clients=clients,
        lost=LOST[clients],
        points={name: grid.points for name, grid in grids.items()},
        degree=plan.degree,
        threshold=plan.threshold,
    )
