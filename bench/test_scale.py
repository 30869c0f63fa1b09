"""Hundreds of clients: the server's and a client's processor time, and what the wire carries.

MaskedSum, and LatticeSum over MaskedSum, in the same rounds with the same plans.

Every party is real and in this process, so a round's wall clock is that of hundreds of clients one after the
other and says nothing; the figures are each party's own processor seconds. All clients have the same update,
which no step can tell from any other. `first` is a round on the long path: new keys, a new graph, four or
five exchanges. The others are steady rounds. In those with dropouts, clients that had answered everything
send no vector: the server rebuilds their round secrets and takes off one mask for each of their neighbours.
They have dealt nothing for the next round, which would be another first one, and hundreds of clients take
minutes for that. So every steady round runs in a forked copy of the process, and the cohort is as it was.

Degree and threshold are in every record. With `grinding_bits=0` they are those that Google's rule gives (the
planner's docstring); the default pays for the graphs that an adversary can try.

What all parties of a process compute alike (the graph and its scrypt seed) is cached, and the server, who
comes first, pays for it. `test_client_alone` has clients that find every cache empty.
"""

import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from multiprocessing import get_context
from typing import Any, NamedTuple

import numpy as np
import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from bench.sampling import Float32Vector, draw_updates, repeat, time_server
from protocols import (
    Adversary,
    Client,
    LatticeSum,
    MaskedSum,
    NeedUpdate,
    Requirements,
    Session,
    Simulation,
)
from protocols.identity import SERVER
from protocols.machine.guard import Guard
from protocols.machine.parameters import Parameters

LENGTH = 10**5
CORRUPT = 0.2
MALICIOUS, SEMI_MALICIOUS = Adversary.MALICIOUS, Adversary.SEMI_MALICIOUS
PLANNED = {MALICIOUS: 0.3, SEMI_MALICIOUS: 0.05}
"""The dropouts that each adversary is planned with."""
PERCENTS = {MALICIOUS: (0, 10, 30), SEMI_MALICIOUS: (0, 5)}
PROTOCOLS: dict[str, type[Parameters]] = {"MaskedSum": MaskedSum, "LatticeSum": LatticeSum}


def case(
    adversary: Adversary,
    clients: int,
    *,
    protocol: str = "MaskedSum",
    grinding: int = 0,
    rounds: int = 2,
    long: bool = True,
) -> Any:
    marks = [pytest.mark.lengthy] if long else []
    name = f"{protocol}-{adversary.value}-{clients}-{grinding}"
    return pytest.param(protocol, adversary, clients, grinding, rounds, marks=marks, id=name)


SERVER_CASES = [
    *(
        case(MALICIOUS, clients, protocol=protocol, rounds=3, long=False)
        for protocol in PROTOCOLS
        for clients in (50, 100)
    ),
    *(case(MALICIOUS, 200, protocol=protocol, rounds=3) for protocol in PROTOCOLS),
    case(SEMI_MALICIOUS, 500, rounds=3),
    case(MALICIOUS, 500, grinding=Requirements().grinding_bits),
    case(MALICIOUS, 1000),
    case(MALICIOUS, 1000, protocol="LatticeSum"),
    case(SEMI_MALICIOUS, 1000),
    # The last two cohorts are needed again by `test_long_vectors`.
    *(case(MALICIOUS, 500, protocol=protocol, rounds=3) for protocol in PROTOCOLS),
]


def protocol_of(
    adversary: Adversary, clients: int, grinding_bits: int, *, protocol: str = "MaskedSum"
) -> Parameters:
    requirements = Requirements(
        adversary=adversary,
        corrupt_fraction=CORRUPT,
        dropout_fraction=PLANNED[adversary],
        grinding_bits=grinding_bits,
    )
    return PROTOCOLS[protocol](max_clients=clients, requirements=requirements)


def names_of(clients: int) -> tuple[str, ...]:
    return tuple(f"client-{index:04d}" for index in range(clients))


def same_updates(names: Sequence[str], length: int) -> dict[str, Float32Vector]:
    (update,) = draw_updates(1, length).values()
    return dict.fromkeys(names, update)


class Measured(NamedTuple):
    """Processor seconds of one round: the server's, the mean client's, the server's with a median vector."""

    server: float
    client: float
    vector: float


class Rounds:
    """A cohort that has had its first round, and its steady rounds."""

    def __init__(self, protocol: Parameters, clients: int) -> None:
        self.protocol = protocol
        self.names = names_of(clients)
        self.session = Session(protocol, self.names)
        self._server = time_server(self.session)
        self._first = self._round(LENGTH, lost=0, first=True)

    def measure(
        self, length: int, percents: Sequence[int], *, rounds: int
    ) -> dict[str, dict[str, list[float]]]:
        """Steady rounds of `length` values; the first round had `LENGTH`.

        Returns:
            for each field of `Measured`, by `"first"` or the percentage that vanished: a figure a round.
        """
        found: dict[str, list[Measured]] = {"first": [self._first]}
        for _ in range(rounds):
            for percent in percents:
                found.setdefault(str(percent), []).append(in_a_copy(self._steady, length, percent))
        return {
            f"{what}_seconds": {
                kind: [getattr(each, what) for each in samples] for kind, samples in found.items()
            }
            for what in Measured._fields
        }

    def _steady(self, length: int, percent: int) -> Measured:
        """A steady round in the forked copy, whose machines would refuse: nobody else will hear of them."""
        for party in (self._server.machine, *self.session.clients.values()):
            party._guard = Guard()
        return self._round(length, lost=len(self.names) * percent // 100, first=False)

    def _round(self, length: int, *, lost: int, first: bool) -> Measured:
        updates = same_updates(self.names, length)
        gone = self.names[: -lost - 1 : -1]
        run = self.session.round(updates, drop=dict.fromkeys(gone, "MaskedInput"))
        assert run.exchanges == len(self.protocol.exchanges(first=first))
        assert len(run.contributors) == len(self.names) - lost
        expected = updates[self.names[0]].astype(np.float64)
        assert np.abs(run.mean - expected).max() <= self.protocol.error_bound(len(self.names))
        stayed = [run.seconds[name] for name in self.names if name in run.contributors]
        return Measured(run.seconds[SERVER], float(np.mean(stayed)), float(np.median(self._server.vectors)))


def in_a_copy(function: Callable[..., Measured], *arguments: Any) -> Measured:
    """Calls a function in a forked copy of this process: what it does to the parties stays there."""
    fork = get_context("fork")
    receiver, sender = fork.Pipe(duplex=False)
    process = fork.Process(target=lambda: sender.send(function(*arguments)))
    process.start()
    sender.close()
    result: Measured = receiver.recv()  # EOFError, where the function raised
    process.join()
    return result


@lru_cache(maxsize=2)
def cohort(protocol: str, adversary: Adversary, clients: int, grinding_bits: int) -> Rounds:
    """A cohort after its first round; the last two are kept, because `test_long_vectors` needs them again."""
    return Rounds(protocol_of(adversary, clients, grinding_bits, protocol=protocol), clients)


def describe(protocol: Parameters, clients: int) -> dict[str, Any]:
    """What a figure of a cohort of this size has to say of itself."""
    plan, asked = protocol.plan(clients), protocol.requirements
    return {
        "protocol": type(protocol).__name__,
        "clients": clients,
        "adversary": asked.adversary.value,
        "corrupt_fraction": asked.corrupt_fraction,
        "dropout_fraction": asked.dropout_fraction,
        "grinding_bits": asked.grinding_bits,
        "degree": plan.degree,
        "threshold": plan.threshold,
        "ring_bits": plan.ring_bits,
    }


@pytest.mark.parametrize(("protocol", "adversary", "clients", "grinding_bits", "rounds"), SERVER_CASES)
def test_scale(
    benchmark: BenchmarkFixture,
    quick: bool,
    protocol: str,
    adversary: Adversary,
    clients: int,
    grinding_bits: int,
    rounds: int,
) -> None:
    found: dict[str, Any] = {}

    def lap() -> None:
        rounds_of_cohort = cohort(protocol, adversary, clients, grinding_bits)
        found.update(rounds_of_cohort.measure(LENGTH, PERCENTS[adversary], rounds=1 if quick else rounds))

    repeat(benchmark, lap, rounds=1)
    benchmark.extra_info.update(
        kind="scale",
        parameters=LENGTH,
        **found,
        **describe(protocol_of(adversary, clients, grinding_bits, protocol=protocol), clients),
    )


LONG_CLIENTS = 500
LONG_LENGTH = 10**6
LONG_PERCENTS = {"LatticeSum": (0, 30), "MaskedSum": (30,)}
"""Without dropouts LatticeSum alone: whether its work on a vector depends on who drops out."""


@pytest.mark.lengthy
def test_long_vectors(benchmark: BenchmarkFixture) -> None:
    """500 clients with 10**6 values: LatticeSum's server beside MaskedSum's, and what dropouts do to each."""
    found: dict[str, dict[str, Any]] = {}

    def lap() -> None:
        for name, percents in LONG_PERCENTS.items():
            rounds = 2 if name == "LatticeSum" else 1
            found[name] = cohort(name, MALICIOUS, LONG_CLIENTS, 0).measure(
                LONG_LENGTH, percents, rounds=rounds
            )

    repeat(benchmark, lap, rounds=1)
    benchmark.extra_info.update(
        kind="long vectors",
        parameters=LONG_LENGTH,
        **{what: {name: each[what] for name, each in found.items()} for what in found["LatticeSum"]},
        **describe(protocol_of(MALICIOUS, LONG_CLIENTS, 0, protocol="LatticeSum"), LONG_CLIENTS),
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
    protocol, names = protocol_of(MALICIOUS, clients, 0), names_of(clients)
    session, alone = Session(protocol, names), names[::50]
    stands_alone: dict[str, Any] = session.clients  # what a round does with a client, Alone can do
    for name in alone:
        stands_alone[name] = Alone(session.clients[name])
    updates = same_updates(names, LENGTH)
    seconds: dict[str, list[float]] = {}

    def lap() -> None:
        for kind in ("first", "0", "0"):
            run = session.round(updates)
            assert run.exchanges == len(protocol.exchanges(first=kind == "first"))
            seconds.setdefault(kind, []).append(float(np.mean([run.seconds[name] for name in alone])))

    repeat(benchmark, lap, rounds=1)
    benchmark.extra_info.update(
        kind="client alone",
        parameters=LENGTH,
        client_seconds=seconds,
        **describe(protocol, clients),
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
    protocol: Parameters, clients: int, lengths: Sequence[int]
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
