"""MaskedSum with hundreds of clients: the server's and a client's processor time, and what the wire carries.

Every party is real and in this process, so a round's wall clock is that of hundreds of clients one after the
other and says nothing; the figures are each party's own processor seconds. All clients have the same update,
which no step can tell from any other. `first` is a round on the long path: new keys, a new graph, four or
five exchanges. The others are steady rounds. In those with dropouts, clients that had answered everything
send no vector: the server rebuilds their round secrets and takes off one mask for each of their neighbours.
They have dealt nothing for the next round, which therefore is another first one.

Degree and threshold are in every record. With `grinding_bits=0` they are those that Google's rule gives (the
planner's docstring); the default pays for the graphs that an adversary can try.

What all parties of a process compute alike (the graph and its scrypt seed) is cached, and the server, who
comes first, pays for it. `test_client_alone` has clients that find every cache empty.
"""

import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from bench.sampling import Float32Vector, draw_updates, repeat
from protocols import Adversary, Client, MaskedSum, NeedUpdate, Requirements, Session, Simulation
from protocols.identity import SERVER

LENGTH = 10**5
CORRUPT = 0.2
MALICIOUS, SEMI_MALICIOUS = Adversary.MALICIOUS, Adversary.SEMI_MALICIOUS
PLANNED = {MALICIOUS: 0.3, SEMI_MALICIOUS: 0.05}
"""The dropouts that each adversary is planned with."""
PERCENTS = {MALICIOUS: (0, 10, 30), SEMI_MALICIOUS: (0, 5)}


def case(adversary: Adversary, clients: int, *, grinding: int = 0, rounds: int = 1, long: bool = True) -> Any:
    marks = [pytest.mark.lengthy] if long else []
    name = f"{adversary.value}-{clients}-{grinding}"
    return pytest.param(adversary, clients, grinding, rounds, marks=marks, id=name)


SERVER_CASES = [
    *(case(MALICIOUS, clients, rounds=2, long=False) for clients in (50, 100, 200)),
    case(MALICIOUS, 500, rounds=2, long=False),
    case(SEMI_MALICIOUS, 500, rounds=2, long=False),
    case(MALICIOUS, 500, grinding=Requirements().grinding_bits),
    case(MALICIOUS, 1000),
    case(SEMI_MALICIOUS, 1000),
]


def protocol_of(adversary: Adversary, clients: int, grinding_bits: int) -> MaskedSum:
    requirements = Requirements(
        adversary=adversary,
        corrupt_fraction=CORRUPT,
        dropout_fraction=PLANNED[adversary],
        grinding_bits=grinding_bits,
    )
    return MaskedSum(max_clients=clients, requirements=requirements)


def names_of(clients: int) -> tuple[str, ...]:
    return tuple(f"client-{index:04d}" for index in range(clients))


def same_updates(names: Sequence[str], length: int) -> dict[str, Float32Vector]:
    (update,) = draw_updates(1, length).values()
    return dict.fromkeys(names, update)


class Rounds:
    """Rounds of one cohort, and what they took: `"first"`, or the percentage that vanished, in each."""

    def __init__(self, protocol: MaskedSum, clients: int) -> None:
        self.protocol = protocol
        self.names = names_of(clients)
        self.session = Session(protocol, self.names)
        self.server_seconds: dict[str, list[float]] = {}
        self.client_seconds: dict[str, list[float]] = {}
        self._updates = same_updates(self.names, LENGTH)
        self._prepared = False

    def steady(self, percent: int) -> None:
        """A steady round that loses so many clients in the last moment; before it, a first one if needed."""
        if not self._prepared:
            self.first()
        self._run(str(percent), lost=len(self.names) * percent // 100)

    def first(self) -> None:
        """A round on the long path, which only an unprepared cohort takes."""
        self._run("first", lost=0)

    def _run(self, kind: str, *, lost: int) -> None:
        gone = self.names[: -lost - 1 : -1]
        run = self.session.round(self._updates, drop=dict.fromkeys(gone, "MaskedInput"))
        assert run.exchanges == len(self.protocol.exchanges(first=kind == "first"))
        assert len(run.contributors) == len(self.names) - lost
        expected = self._updates[self.names[0]].astype(np.float64)
        assert np.abs(run.mean - expected).max() <= self.protocol.error_bound(len(self.names))
        stayed = [run.seconds[name] for name in self.names if name in run.contributors]
        self.server_seconds.setdefault(kind, []).append(run.seconds[SERVER])
        self.client_seconds.setdefault(kind, []).append(float(np.mean(stayed)))
        self._prepared = not lost


def describe(protocol: MaskedSum, clients: int) -> dict[str, Any]:
    """What a figure of a cohort of this size has to say of itself."""
    plan, asked = protocol.plan(clients), protocol.requirements
    return {
        "clients": clients,
        "adversary": asked.adversary.value,
        "corrupt_fraction": asked.corrupt_fraction,
        "dropout_fraction": asked.dropout_fraction,
        "grinding_bits": asked.grinding_bits,
        "degree": plan.degree,
        "threshold": plan.threshold,
        "ring_bits": plan.ring_bits,
    }


@pytest.mark.parametrize(("adversary", "clients", "grinding_bits", "rounds"), SERVER_CASES)
def test_scale(
    benchmark: BenchmarkFixture,
    quick: bool,
    adversary: Adversary,
    clients: int,
    grinding_bits: int,
    rounds: int,
) -> None:
    measured = Rounds(protocol_of(adversary, clients, grinding_bits), clients)

    def lap() -> None:
        for percent in PERCENTS[adversary]:
            measured.steady(percent)

    repeat(benchmark, lap, rounds=1 if quick else rounds)
    benchmark.extra_info.update(
        kind="scale",
        parameters=LENGTH,
        server_seconds=measured.server_seconds,
        client_seconds=measured.client_seconds,
        **describe(measured.protocol, clients),
    )


# A client of its own


def caches() -> list[Callable[[], None]]:
    """How to empty each cache of ours that the parties of a process share."""
    ours = [module for name, module in sys.modules.items() if name.split(".")[0] in ("protocols", "secagg")]
    values = (value for module in ours for value in vars(module).values())
    return [value.cache_clear for value in values if hasattr(value, "cache_clear")]


class Alone:
    """A client that finds every cache empty with each message, as in a fresh process for every exchange."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._caches = caches()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)

    def receive(self, message: bytes) -> bytes | NeedUpdate:
        for clear in self._caches:
            clear()
        return self._client.receive(message)


@pytest.mark.lengthy
def test_client_alone(benchmark: BenchmarkFixture) -> None:
    """The server's time of these rounds is not kept: the emptied caches are its caches too."""
    clients = 500
    rounds = Rounds(protocol_of(MALICIOUS, clients, 0), clients)
    alone = rounds.names[::50]
    stands_alone: dict[str, Any] = rounds.session.clients  # what a round does with a client, Alone can do
    for name in alone:
        stands_alone[name] = Alone(rounds.session.clients[name])
    updates = same_updates(rounds.names, LENGTH)
    seconds: dict[str, list[float]] = {}

    def lap() -> None:
        for kind in ("first", "0", "0"):
            run = rounds.session.round(updates)
            assert run.exchanges == len(rounds.protocol.exchanges(first=kind == "first"))
            seconds.setdefault(kind, []).append(float(np.mean([run.seconds[name] for name in alone])))

    repeat(benchmark, lap, rounds=1)
    benchmark.extra_info.update(
        kind="client alone",
        parameters=LENGTH,
        client_seconds=seconds,
        **describe(rounds.protocol, clients),
    )


# Bytes

WIRE_CLIENTS = 2**10
WIRE_LENGTH = 2**20
SHORT_LENGTHS = 2**10, 2**12
VECTOR = ("MaskedInput", "up")


@pytest.mark.lengthy
@pytest.mark.parametrize("grinding_bits", [0, Requirements().grinding_bits])
def test_expansion(benchmark: BenchmarkFixture, grinding_bits: int) -> None:
    """Bytes of one client of 2**10 in a steady round of 2**20 values, both ways, without the model.

    So many clients with so long a vector do not fit one process. They run with two short vectors, which
    shows that only the vector's own message grows with the length. What it grows by up to the full length is
    taken from three clients in the same ring.
    """
    requirements = Requirements(corrupt_fraction=0.05, dropout_fraction=0.05, grinding_bits=grinding_bits)
    protocol = MaskedSum(max_clients=WIRE_CLIENTS, requirements=requirements)
    many: dict[int, Counter[tuple[str, str]]] = {}
    few: dict[int, Counter[tuple[str, str]]] = {}

    def lap() -> None:
        many.update(wire_bytes(protocol, WIRE_CLIENTS, SHORT_LENGTHS))
        few.update(wire_bytes(protocol, 3, (*SHORT_LENGTHS, WIRE_LENGTH)))

    repeat(benchmark, lap, rounds=1)
    short, longer = SHORT_LENGTHS
    grown = {key for key in many[short] if many[short][key] != many[longer][key]}
    assert grown == {VECTOR}
    assert growth(many, short, longer, WIRE_CLIENTS) == growth(few, short, longer, 3)
    sent, received = (
        sum(size for (_, way), size in many[short].items() if way == direction) / WIRE_CLIENTS
        for direction in ("up", "down")
    )
    benchmark.extra_info.update(
        kind="expansion",
        parameters=WIRE_LENGTH,
        bits=protocol.bits,
        sent=sent + growth(few, short, WIRE_LENGTH, 3),
        received=received,
        **describe(protocol, WIRE_CLIENTS),
    )


def wire_bytes(
    protocol: MaskedSum, clients: int, lengths: Sequence[int]
) -> Iterator[tuple[int, Counter[tuple[str, str]]]]:
    """For each length, all clients' bytes of a steady round by exchange and direction."""
    names = names_of(clients)
    session = Session(protocol, names)
    session.round(same_updates(names, min(lengths)))
    for length in lengths:
        run = session.round(same_updates(names, length))
        assert run.exchanges == len(protocol.exchanges(first=False))
        yield length, by_message(run)


def by_message(run: Simulation) -> Counter[tuple[str, str]]:
    sizes: Counter[tuple[str, str]] = Counter()
    for message in run.transcript:
        sizes[message.exchange, "down" if message.sender == SERVER else "up"] += len(message.body)
    return sizes


def growth(measured: Mapping[int, Counter[tuple[str, str]]], short: int, longer: int, clients: int) -> float:
    """Bytes by which one client's vector message grows with the length."""
    return (measured[longer][VECTOR] - measured[short][VECTOR]) / clients
