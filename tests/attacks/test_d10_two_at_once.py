"""D10. Two handlers at once: a machine that many threads, or a forked copy, use at the same time.

On a copy without its guard a server's sum loses what two threads add at the same moment, with all
contributors and no error, and a client answers one request with two vectors under one mask. Ours puts calls
one after the other; what is answered once stays answered. A machine that was forked refuses.
"""

import copy
import os
import pickle
import signal
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from threading import Barrier
from typing import Any

import numpy as np
import pytest

from protocols import (
    LatticeSum,
    MaskedSum,
    NeedUpdate,
    Outcome,
    PaillierSum,
    ParameterError,
    PeerViolation,
    PlainSum,
    RoundAborted,
    Rounding,
    SecAggError,
)
from protocols.interface import Round
from protocols.machine import client as client_room
from protocols.machine import server as server_room
from protocols.machine.client import ClientMachine
from protocols.masked.collecting import lanes_of
from protocols.masked.messages import MaskedInput
from secagg.vectors.ring import Ring
from tests.attacks.weakened import body_of
from tests.protocols.conftest import (
    FAMILIES,
    STATE_KEY,
    Family,
    Vector,
    World,
    assert_right,
    exchange_of,
    is_refusal,
    param,
    updates_of,
)

THREADS = 4
NAMES = ("a", "b", "c", "d", "e", "f")
LENGTHS = {"ckks": 300, "paillier": 300, "lattice over paillier": 300}
"""Long vectors where adding takes no time that counts, so that threads are inside it together."""
TRIES = 40
every = pytest.mark.parametrize(
    "family",
    [pytest.param(Family(name, each), marks=param(name).marks, id=name) for name, each in FAMILIES.items()],
)


class NoGuard:
    """A guard that lets everybody in."""

    def alone(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)


@pytest.fixture
def unguarded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Machines as they would be without a guard."""
    for room in (client_room, server_room):
        monkeypatch.setattr(room, "Guard", NoGuard)


@pytest.fixture(autouse=True)
def restless() -> Iterator[None]:
    """Threads take turns a thousand times as often as usual."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(5e-6)
    yield
    sys.setswitchinterval(before)


@pytest.fixture(scope="module")
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(2 * len(NAMES)) as threads:
        yield threads


def together(pool: ThreadPoolExecutor, calls: list[Callable[[], Any]]) -> list[Any]:
    """What each call returns or raises, all begun at the same moment."""
    barrier = Barrier(len(calls))

    def begin(call: Callable[[], Any]) -> Any:
        barrier.wait(60)
        try:
            return call()
        except (SecAggError, RuntimeError) as error:  # a RuntimeError: what is changed while it is walked
            return error

    return list(pool.map(begin, calls))


def answers_of(world: World, outbox: Mapping[str, bytes], updates: Mapping[str, Vector]) -> dict[str, bytes]:
    """Each client's answer to its request."""
    answers = {}
    for name, message in outbox.items():
        answer = world.clients[name].receive(message)
        answers[name] = (
            world.clients[name].contribute(updates[name]) if isinstance(answer, NeedUpdate) else answer
        )
    return answers


def crowded(
    world: World, updates: Mapping[str, Vector], pool: ThreadPoolExecutor, *, times: int = 2
) -> Outcome:
    """A round in which all answers of an exchange reach the server at the same moment, so many times each."""
    world.number += 1
    outbox = world.server.start(Round(world.number, tuple(updates), len(next(iter(updates.values())))))
    while outbox:
        answers = answers_of(world, outbox, updates)
        calls = [partial(world.server.receive, name, answer) for name, answer in answers.items()]
        assert [each for each in together(pool, calls * times) if each is not None] == []
        outbox = world.server.advance()
    return world.server.outcome()


# The server


@every
def test_a_server_takes_all_messages_at_once(family: Family, pool: ThreadPoolExecutor) -> None:
    world = World(family(), NAMES)
    updates = updates_of(NAMES, LENGTHS.get(family.name, 100_000))
    for _ in range(2):
        outcome = crowded(world, updates, pool)
        assert not outcome.dropped
        assert_right(world.learn(outcome), world.protocol, updates, NAMES)


def leisurely(ring: Ring, accumulator: Any, buffer: Any) -> None:
    """`Ring.add_packed`, right for one caller at a time, with time for others between reading and writing.

    The last words, in which are the total weight and the words that check the masks, are added at once.
    """
    body, tail = accumulator[:-64], accumulator[-64:]
    values = ring.unpack(buffer, len(accumulator))
    np.add(tail, values[-64:], out=tail)
    before = body.copy()
    time.sleep(0.005)
    np.add(before, values[:-64], out=body)


def error_of_a_slow_mean(
    build: Callable[..., Any], pool: ThreadPoolExecutor, patch: pytest.MonkeyPatch
) -> float:
    """How far the mean of a crowded round is from the truth; all contribute and nobody complains."""
    patch.setattr(Ring, "add_packed", leisurely)
    world, updates = World(build(max_clients=6), NAMES), updates_of(NAMES, 1000)
    outcome = crowded(world, updates, pool, times=1)
    assert outcome.contributors == frozenset(NAMES)
    mean = world.learn(outcome).mean
    return float(np.abs(mean - np.mean([updates[name] for name in NAMES], axis=0)).max())


@pytest.mark.parametrize("build", [PlainSum, MaskedSum])
def test_an_addition_that_takes_its_time_is_alone(
    build: Callable[..., Any], pool: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert error_of_a_slow_mean(build, pool, monkeypatch) <= build(max_clients=6).error_bound(6)


@pytest.mark.usefixtures("unguarded")
def test_without_the_guard_a_mean_is_false_and_nobody_says_so(
    pool: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert error_of_a_slow_mean(PlainSum, pool, monkeypatch) > 100 * PlainSum(max_clients=6).error_bound(6)


@pytest.mark.usefixtures("unguarded")
def test_without_the_guard_masks_stay_in_a_sum_and_a_contributor_is_blamed(
    pool: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A vector that is lost leaves its masks, which are beyond any clip (D2)."""
    with pytest.raises(RoundAborted, match="broke the clip"):
        error_of_a_slow_mean(MaskedSum, pool, monkeypatch)


@pytest.mark.parametrize("build", [PlainSum, MaskedSum, LatticeSum])
def test_a_message_that_comes_while_its_exchange_closes_counts_whole_or_not_at_all(
    build: Callable[..., Any], pool: ThreadPoolExecutor
) -> None:
    updates = updates_of(NAMES, 20_000)
    ended = 0
    for attempt in range(12):
        world = World(build(max_clients=6), NAMES, seed=bytes([attempt]))
        outbox = world.server.start(Round(0, NAMES, 20_000))
        closed = None
        while outbox:
            answers = answers_of(world, outbox, updates)
            if not world.server.collecting:
                for name, answer in answers.items():
                    world.server.receive(name, answer)
                outbox = world.server.advance()
                continue
            calls = [partial(world.server.receive, name, answer) for name, answer in answers.items()]
            for call in calls[:4]:
                call()
            first, second, closed = together(pool, [*calls[4:], world.server.advance])
            for each in (first, second):
                assert each is None or isinstance(each, PeerViolation)
            if isinstance(closed, RoundAborted):  # too few for this plan, and said so
                break
            outbox = closed
        if isinstance(closed, RoundAborted):
            continue
        outcome = world.server.outcome()
        ended += 1
        assert outcome.contributors >= set(NAMES[:4])
        assert_right(world.learn(outcome), world.protocol, updates, outcome.contributors)
    assert ended == 12 or build is not PlainSum  # which bears any loss; the others may say that they do not


def half_an_addition(ring: Ring, accumulator: Any, buffer: Any) -> None:
    accumulator[: len(accumulator) // 2] += 1
    raise KeyboardInterrupt


@pytest.mark.parametrize("build", [PlainSum, MaskedSum, LatticeSum])
def test_a_message_that_was_interrupted_while_it_was_added_ends_the_round(
    build: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A part of the vector is in the sum; sent again, it would be in it one and a half times."""
    world, updates = World(build(max_clients=6), NAMES), updates_of(NAMES)
    outbox = world.server.start(Round(0, NAMES, 5))
    while not world.server.collecting:
        for name, answer in answers_of(world, outbox, updates).items():
            world.server.receive(name, answer)
        outbox = world.server.advance()
    answers = answers_of(world, outbox, updates)
    with monkeypatch.context() as patch:
        patch.setattr(Ring, "add_packed", half_an_addition)
        with pytest.raises(KeyboardInterrupt):
            world.server.receive("a", answers["a"])
    with pytest.raises(PeerViolation, match="after the round's end"):
        world.server.receive("a", answers["a"])
    with pytest.raises(RoundAborted, match="'a' was interrupted"):
        world.server.advance()
    world.number = 0
    assert_right(world.learn(world.play(updates)), world.protocol, updates, NAMES)


@pytest.mark.parametrize("build", [PlainSum, MaskedSum, LatticeSum])
@pytest.mark.parametrize("after", [0, 1], ids=["before", "within"])
def test_an_exchange_that_was_interrupted_while_it_was_closed_ends_the_round(
    build: Callable[..., Any], after: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sums change in place: masks that were taken off once would be taken off twice by a second try."""
    world, updates = World(build(max_clients=6), NAMES), updates_of(NAMES)
    suite = world.protocol.suite  # type: ignore[attr-defined]
    outbox, last = world.server.start(Round(0, NAMES, 5)), len(suite.exchanges) - 1
    while True:
        for name, answer in answers_of(world, outbox, updates).items():
            world.server.receive(name, answer)
        if exchange_of(next(iter(outbox.values()))) == last:
            break
        outbox = world.server.advance()
    steps = type(suite.server)
    close = steps.close

    def interrupted(*args: Any) -> Any:
        if after:
            close(*args)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(steps, "close", interrupted)
        with pytest.raises(KeyboardInterrupt):
            world.server.advance()
    for call in (world.server.advance, world.server.outcome):
        with pytest.raises(RoundAborted, match="was closed"):
            call()
    assert "was closed" in world.server.record().record.aborted
    world.number = 0
    assert_right(world.learn(world.play(updates)), world.protocol, updates, NAMES)


CLOSED = [
    (name, step)
    for name in ("masked", "masked malicious", "lattice")
    for step in FAMILIES[name](max_clients=6).exchanges(first=True)
]


@pytest.mark.parametrize(("name", "step"), CLOSED)
@pytest.mark.parametrize("after", [0, 1], ids=["before", "within"])
def test_what_was_interrupted_once_shares_were_asked_for_may_have_been_seen(
    name: str, step: str, after: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A core dump of that server holds the sum. So the round says whose it was, as one that was refused does:
    without that a loop would ask others next time, and the difference would tell on who is in one sum only.
    """
    protocol = FAMILIES[name](max_clients=6)
    steps, last = type(protocol.suite.server), protocol.suite.exchanges[-1]
    close = steps.close

    def interrupted(*args: Any) -> Any:
        if after:
            close(*args)
        raise MemoryError

    world, updates = World(protocol, NAMES), updates_of(NAMES)
    outbox = world.server.start(Round(0, NAMES, 5, b"a model"))
    while True:
        for client, answer in answers_of(world, outbox, updates).items():
            world.server.receive(client, answer)
        if protocol.suite.exchanges[exchange_of(next(iter(outbox.values())))] == step:
            break
        outbox = world.server.advance()
    with monkeypatch.context() as patch:
        patch.setattr(steps, "close", interrupted)
        with pytest.raises(MemoryError):
            world.server.advance()
    opened = frozenset(NAMES) if step == last else frozenset()
    saved = world.server.export(key=STATE_KEY)
    for server in (world.server, protocol.restore_server(saved, key=STATE_KEY)):
        for call in (server.advance, server.outcome):
            with pytest.raises(RoundAborted, match=f"interrupted while {step} was closed") as aborted:
                call()
            assert aborted.value.opened == opened
        record = server.record().record
        assert record.contributors == opened
        assert record.opened is bool(opened)
        assert not record.culprits
    world.number = 0
    if step == last:  # not without one of them, as long as there is hope for it
        with pytest.raises(RoundAborted, match="a sum for this model was seen"):
            world.play(updates, model=b"a model", gone={NAMES[-1]: 2})
        gone = {}
    else:
        gone = {NAMES[-1]: 2}
    outcome = world.play(updates, model=b"a model", gone=gone)
    assert outcome.contributors == frozenset(NAMES).difference(gone)


def test_an_abort_that_is_interrupted_itself_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    world, updates = World(PlainSum(max_clients=6), NAMES), updates_of(NAMES)
    answers = answers_of(world, world.server.start(Round(0, NAMES, 5)), updates)
    with monkeypatch.context() as patch:
        patch.setattr(Ring, "add_packed", half_an_addition)
        patch.setattr(server_room.ServerMachine, "_sign", half_an_addition)
        with pytest.raises((KeyboardInterrupt, TypeError)):
            world.server.receive("a", answers["a"])
    with pytest.raises(PeerViolation, match="after the round's end"):
        world.server.receive("a", answers["a"])
    for call in (world.server.advance, world.server.outcome):
        with pytest.raises(RoundAborted, match="interrupted"):
            call()
    saved = world.server.export(key=STATE_KEY)
    with pytest.raises(RoundAborted, match="interrupted"):
        world.protocol.restore_server(saved, key=STATE_KEY).advance()
    world.number = 0
    assert_right(world.learn(world.play(updates)), world.protocol, updates, NAMES)


def test_a_call_from_inside_a_call_is_refused_and_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A signal handler that saves the state would seal half a vector."""
    world, updates = World(PlainSum(max_clients=6), NAMES), updates_of(NAMES)
    answers = answers_of(world, world.server.start(Round(0, NAMES, 5)), updates)
    said: list[str] = []
    add = Ring.add_packed

    def handled(ring: Ring, accumulator: Any, buffer: Any) -> None:
        for call in (partial(world.server.export, key=STATE_KEY), world.server.advance):
            try:
                call()
            except ParameterError as error:
                said.append(str(error))
        add(ring, accumulator, buffer)

    monkeypatch.setattr(Ring, "add_packed", handled)
    for name, answer in answers.items():
        world.server.receive(name, answer)
    assert len(said) == 2 * len(NAMES)
    assert all("from inside one of its own calls" in each for each in said)
    assert world.server.advance() == {}
    assert_right(world.learn(world.server.outcome()), world.protocol, updates, NAMES)


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="this system has no interval timer")
def test_interrupts_leave_no_machine_locked(pool: ThreadPoolExecutor) -> None:
    """An interrupt between two lines of a lock's own Python would leave all other threads waiting."""
    world = World(PlainSum(max_clients=6), NAMES)
    answer = answers_of(world, world.server.start(Round(0, NAMES, 5)), updates_of(NAMES))["a"]
    world.server.receive("a", answer)

    def interrupt(*_: object) -> None:
        raise InterruptedError

    before = signal.signal(signal.SIGALRM, interrupt)
    interrupts = 0
    try:
        for attempt in range(3000):
            try:
                signal.setitimer(signal.ITIMER_REAL, 2e-5 + attempt % 50 * 1e-6)
                for _ in range(20):
                    world.server.receive("a", answer)
                signal.setitimer(signal.ITIMER_REAL, 0)
            except InterruptedError:
                interrupts += 1
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert interrupts > 100
    assert pool.submit(world.server.receive, "a", answer).result(30) is None


# A client


def crowd(world: World, updates: Mapping[str, Vector], pool: ThreadPoolExecutor) -> Iterator[list[Any]]:
    """What one client answers to each request of a round, which several threads hand to it at once."""
    world.number += 1
    outbox = world.server.start(Round(world.number, tuple(updates), len(updates["a"])))
    while outbox:
        if "a" in outbox:
            client = world.clients["a"]
            said = together(pool, [partial(client.receive, outbox["a"])] * THREADS)
            yield said
            if isinstance(said[0], NeedUpdate):
                others = updates_of(NAMES, len(updates["a"]), seed=2)
                calls = [partial(client.contribute, each) for each in (updates["a"], others["a"])]
                said = together(pool, calls)
                yield [each for each in said if not isinstance(each, ParameterError)]
                said = [each for each in said if not isinstance(each, ParameterError)]
            with suppress(PeerViolation):
                world.server.receive("a", said[0])
        rest = {name: message for name, message in outbox.items() if name != "a"}
        for name, answer in answers_of(world, rest, updates).items():
            world.server.receive(name, answer)
        outbox = world.server.advance()


@every
def test_a_client_answers_a_request_once_whoever_asks_at_the_same_time(
    family: Family, pool: ThreadPoolExecutor
) -> None:
    world, updates = World(family(), NAMES), updates_of(NAMES, LENGTHS.get(family.name, 10_000))
    steps = 0
    for said in crowd(world, updates, pool):
        steps += 1
        assert all(isinstance(each, bytes | NeedUpdate) for each in said)
        assert all(each == said[0] for each in said)
        assert not is_refusal(said[0])
    assert steps >= 2


@pytest.mark.usefixtures("unguarded")
@pytest.mark.parametrize(
    "build", [PlainSum, MaskedSum, LatticeSum, partial(PaillierSum, key_bits=2048)], ids=str
)
def test_without_the_guard_a_client_sends_two_vectors(
    build: Callable[..., Any], pool: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    digest = ClientMachine._release_digest

    def leisurely_digest(*args: Any) -> bytes:  # made when the answer is, before it is committed
        time.sleep(0.05)
        return digest(*args)

    monkeypatch.setattr(ClientMachine, "_release_digest", leisurely_digest)
    protocol = build(max_clients=6)
    length = 300 if isinstance(build, partial) else 10_000
    for attempt in range(TRIES):
        world = World(protocol, NAMES, seed=bytes([attempt]))
        try:
            for said in crowd(world, updates_of(NAMES, length), pool):
                if len({each for each in said if isinstance(each, bytes)}) > 1:
                    return
        except RoundAborted:
            continue
    pytest.fail(f"one answer each in {TRIES} rounds")


# Another process


def in_a_fork(call: Callable[[], Any]) -> bytes:
    """What a forked copy of this process makes of a call: its bytes, or the error's name and text."""
    read, write = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # this process has threads; the child uses none
        child = os.fork()
    if not child:
        try:
            try:
                said = call()
                data = said if isinstance(said, bytes) else repr(said).encode()
            except SecAggError as error:
                data = f"{type(error).__name__}: {error}".encode()
            with os.fdopen(write, "wb") as pipe:
                pipe.write(data)
        finally:
            os._exit(0)
    os.close(write)
    with os.fdopen(read, "rb") as pipe:
        data = pipe.read()
    os.waitpid(child, 0)
    return data


needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")


def waiting(protocol: Any) -> World:
    """A world in which all were asked for their updates."""
    world, updates = World(protocol, NAMES), updates_of(NAMES)
    outbox = world.server.start(Round(0, NAMES, 5))
    while not world.server.collecting:
        for name, answer in answers_of(world, outbox, updates).items():
            world.server.receive(name, answer)
        outbox = world.server.advance()
    for name, message in outbox.items():
        assert isinstance(world.clients[name].receive(message), NeedUpdate)
    return world


@every
@needs_fork
def test_a_forked_copy_of_any_machine_refuses(family: Family) -> None:
    world = waiting(family())
    client, server, update = world.clients["a"], world.server, np.zeros(5)
    calls: list[Callable[[], Any]] = [
        partial(client.receive, b"anything"),
        partial(client.contribute, update),
        partial(client.open, b"anything"),
        partial(client.export, key=STATE_KEY),
        partial(server.start, Round(1, NAMES, 5)),
        partial(server.receive, "a", b"anything"),
        server.advance,
        server.outcome,
        server.record,
        server.deliver,
        partial(server.export, key=STATE_KEY),
        lambda: server.collecting,
    ]
    for call in calls:
        assert in_a_fork(call).startswith(b"ParameterError: this machine was made in another process"), call
    # Here all is as it was.
    for name in NAMES:
        world.server.receive(name, world.clients[name].contribute(update))


@needs_fork
def test_a_restored_machine_works_in_the_process_that_restored_it() -> None:
    world = waiting(MaskedSum(max_clients=6))
    saved = world.clients["a"].export(key=STATE_KEY)
    said = in_a_fork(lambda: world.protocol.restore_client(saved, key=STATE_KEY).contribute(np.zeros(5)))
    world.server.receive("a", said)


@needs_fork
@pytest.mark.usefixtures("unguarded")
def test_without_the_guard_a_fork_puts_two_vectors_under_one_mask() -> None:
    world = waiting(MaskedSum(max_clients=6, rounding=Rounding.NEAREST))
    wide = lanes_of(world.protocol.suite.surface).wide  # type: ignore[attr-defined]

    def words(message: bytes) -> Any:
        vector = body_of(MaskedInput, message).vector
        return wide.unpack(vector, 8 * len(vector) // wide.bits)

    there = in_a_fork(lambda: world.clients["a"].contribute(np.full(5, 0.25)))
    here = world.clients["a"].contribute(np.full(5, 0.5))
    # The masks are gone from the difference of what the two sent: it is the difference of the updates.
    low = wide.residues(words(here) - words(there))
    surface = world.protocol.suite.surface  # type: ignore[attr-defined]
    step = round(0.25 * (2**15 - 1))
    assert abs(int(low[0] % (1 << surface.ring.bits)) - step) <= 1


@every
def test_no_machine_is_copied_or_pickled(family: Family) -> None:
    world = World(family(), NAMES)
    for machine in (world.server, world.clients["a"]):
        for spill in (pickle.dumps, copy.copy, copy.deepcopy):
            with pytest.raises(TypeError, match="not pickled or copied; export"):
                spill(machine)
