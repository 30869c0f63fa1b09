"""A round on an event loop: the same outcome as `run_round`, whoever is late, hangs, fails or gives up.

Nothing here waits for time to pass: the loop's clock is set forward when it is time.
"""

import asyncio
import base64
import logging
import threading
from collections.abc import AsyncIterator, Coroutine, Mapping
from functools import partial
from typing import Any

import numpy as np
import pytest

from fl_integration import run_round_async
from protocols import (
    Adversary,
    CkksSum,
    LatticeSum,
    MaskedSum,
    NeedUpdate,
    Outcome,
    PaillierSum,
    ParameterError,
    PeerViolation,
    PlainSum,
    Requirements,
    Round,
    RoundAborted,
    run_round,
)
from secagg.secret import Secret
from tests.protocols.conftest import World, updates_of

PROTOCOLS = {
    "plain": PlainSum,
    "masked": MaskedSum,
    "malicious": partial(MaskedSum, requirements=Requirements(adversary=Adversary.MALICIOUS)),
    "lattice": LatticeSum,
    "ckks": CkksSum,
    "paillier": partial(PaillierSum, key_bits=2048),
}
LONG = 60.0
"""Seconds: a deadline that is over only where a test says so."""
NAMES = "abcd"
KEY = Secret(bytes(range(32)))
UPDATES = updates_of(NAMES, 6)


class Clock(asyncio.SelectorEventLoop):
    """A loop on which time can pass at once."""

    ahead = 0.0

    def time(self) -> float:
        return super().time() + self.ahead


def run(main: Coroutine[Any, Any, Any]) -> Any:
    with asyncio.Runner(loop_factory=Clock) as runner:
        return runner.run(main)


def time_is_up() -> None:
    loop: Any = asyncio.get_running_loop()
    loop.ahead += 2 * LONG


async def hang() -> None:
    """Somebody never comes back, and everybody's time passes."""
    time_is_up()
    await asyncio.Event().wait()


class Site:
    """All clients of a world, as a transport finds them."""

    def __init__(self, protocol: Any, names: str = NAMES) -> None:
        self.world = World(protocol, names)
        self.server = self.world.server

    def answer(self, name: str, message: bytes) -> bytes:
        client = self.world.clients[name]
        answer = client.receive(message)
        return client.contribute(UPDATES[name]) if isinstance(answer, NeedUpdate) else answer

    def sync(self, outbox: Mapping[str, bytes]) -> list[tuple[str, bytes]]:
        return [(name, self.answer(name, message)) for name, message in outbox.items()]

    async def each(self, outbox: Mapping[str, bytes]) -> AsyncIterator[tuple[str, bytes]]:
        for name, message in outbox.items():
            await asyncio.sleep(0)
            yield name, self.answer(name, message)

    async def all(self, outbox: Mapping[str, bytes]) -> list[tuple[str, bytes]]:
        return self.sync(outbox)

    def round(self, number: int = 0) -> Round:
        return Round(number, tuple(self.world.names), 6, b"model")


def play(site: Site, exchange: Any, *, number: int = 0, deadline: float = LONG) -> Outcome:
    return run(run_round_async(site.server, site.round(number), exchange, deadline=deadline))


@pytest.fixture
def four_of_five() -> Site:
    """One may be lost."""
    return Site(MaskedSum(max_clients=6, requirements=Requirements(adversary=Adversary.SEMI_HONEST)))


# The same as run_round


@pytest.mark.parametrize("kind", ["each", "all"])
@pytest.mark.parametrize("name", PROTOCOLS)
def test_bit_for_bit_what_run_round_gives(name: str, kind: str) -> None:
    ours, theirs = (Site(PROTOCOLS[name](max_clients=6)) for _ in range(2))
    for number in range(2):
        found = play(ours, getattr(ours, kind), number=number)
        expected = run_round(theirs.server, theirs.round(number), theirs.sync)
        assert (found.contributors, found.dropped) == (expected.contributors, expected.dropped)
        if expected.total is not None and found.total is not None:
            assert found.total.mean.tobytes() == expected.total.mean.tobytes()
        else:
            assert found.result is not None
            sums = [
                site.world.clients["a"].open(outcome.result)
                for site, outcome in ((ours, found), (theirs, expected))
            ]
            assert sums[0].mean.tobytes() == sums[1].mean.tobytes()


def test_a_bad_message_costs_its_sender_the_round_and_nobody_else(four_of_five: Site) -> None:
    async def exchange(outbox: Mapping[str, bytes]) -> AsyncIterator[tuple[str, bytes]]:
        async for name, reply in four_of_five.each(outbox):
            yield name, b"no message" if name == "d" else reply

    outcome = play(four_of_five, exchange)
    assert outcome.contributors == frozenset("abc")
    assert outcome.culprits == frozenset("d")


# Deadlines


def test_whoever_hangs_is_lost_and_the_others_go_on(four_of_five: Site) -> None:
    ended = []

    async def exchange(outbox: Mapping[str, bytes]) -> AsyncIterator[tuple[str, bytes]]:
        try:
            async for name, reply in four_of_five.each(outbox):
                if name == "d":
                    await hang()
                yield name, reply
        finally:
            await asyncio.sleep(0)  # cleaning up may wait
            ended.append(set(outbox))

    outcome = play(four_of_five, exchange, deadline=LONG)
    assert outcome.contributors == frozenset("abc")
    assert outcome.dropped == {"d": "did not answer in AdvertiseKeys"}
    assert ended == [set("abcd"), set("abc"), set("abc"), set("abc")], "each was ended before the next began"


def test_what_a_coroutine_has_not_returned_by_then_does_not_count(four_of_five: Site) -> None:
    cancelled = []

    async def exchange(outbox: Mapping[str, bytes]) -> list[tuple[str, bytes]]:
        try:
            await hang()
        finally:
            cancelled.append(len(outbox))
        return four_of_five.sync(outbox)

    with pytest.raises(RoundAborted, match="4 were asked, 0 answered AdvertiseKeys"):
        play(four_of_five, exchange, deadline=LONG)
    assert cancelled == [4]


def test_many_tasks_in_a_group_around_the_yield_are_cancelled_and_awaited(four_of_five: Site) -> None:
    """The natural way to write it: a task a client, one of which never comes back."""
    left = []

    async def ask(name: str, message: bytes) -> tuple[str, bytes]:
        try:
            if name == "d":
                await asyncio.Event().wait()
            return name, four_of_five.answer(name, message)
        except asyncio.CancelledError:
            await asyncio.sleep(0)
            left.append(name)
            raise

    async def exchange(outbox: Mapping[str, bytes]) -> AsyncIterator[tuple[str, bytes]]:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(ask(*each)) for each in outbox.items()]
            for count, done in enumerate(asyncio.as_completed(tasks)):
                if count == 3:
                    time_is_up()
                yield await done

    outcome = play(four_of_five, exchange, deadline=LONG)
    assert outcome.contributors == frozenset("abc")
    assert left == ["d"]


class Held:
    """A server one of whose calls waits until it is let go: a vector so large that it takes its time."""

    def __init__(self, server: Any, call: str) -> None:
        self._server, self._call = server, call
        self.begun, self.go, self.ended = threading.Event(), threading.Event(), threading.Event()

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._server, name)
        if name != self._call or self.begun.is_set():
            return found

        def held(*args: Any) -> Any:
            self.begun.set()
            assert self.go.wait(10)
            try:
                return found(*args)
            finally:
                self.ended.set()

        return held


async def until(event: threading.Event) -> None:
    while not event.is_set():
        await asyncio.sleep(0.001)


def test_a_reply_that_is_being_taken_when_time_is_up_is_taken_whole(four_of_five: Site) -> None:
    """And a generator that stands in its `yield` then is ended as one that was cancelled, group and all."""
    held: Any = Held(four_of_five.server, "receive")
    seen: list[str] = []

    async def exchange(outbox: Mapping[str, bytes]) -> AsyncIterator[tuple[str, bytes]]:
        async with asyncio.TaskGroup() as group:
            waiting = group.create_task(asyncio.Event().wait())
            try:
                async for each in four_of_five.each(outbox):
                    yield each
                waiting.cancel()
            except asyncio.CancelledError:
                seen.append("cancelled")
                raise

    async def main() -> None:
        task = asyncio.create_task(run_round_async(held, four_of_five.round(), exchange, deadline=LONG))
        await until(held.begun)
        time_is_up()
        for _ in range(9):  # the deadline is over, and nothing is left in its middle
            await asyncio.sleep(0)
        assert not held.ended.is_set()
        assert not task.done()
        held.go.set()
        with pytest.raises(RoundAborted, match="4 were asked, 1 answered AdvertiseKeys"):
            await task

    run(main())
    assert seen == ["cancelled"]


def test_the_loop_goes_on_while_the_machine_works(four_of_five: Site) -> None:
    for call in ("start", "receive", "advance", "outcome"):
        site = Site(PlainSum(max_clients=6))
        held: Any = Held(site.server, call)

        async def main(site: Site = site, held: Any = held) -> None:
            task = asyncio.create_task(run_round_async(held, site.round(), site.each, deadline=LONG))
            await until(held.begun)  # this very loop still turns
            held.go.set()
            assert (await task).contributors == frozenset(NAMES)

        run(main())


# Giving up


@pytest.mark.parametrize("call", ["start", "receive", "advance", "outcome"])
def test_a_cancelled_round_leaves_no_thread_on_the_server(call: str) -> None:
    site = Site(MaskedSum(max_clients=6))
    held: Any = Held(site.server, call)

    async def main() -> None:
        task = asyncio.create_task(run_round_async(held, site.round(), site.each, deadline=LONG))
        await until(held.begun)
        task.cancel()
        await asyncio.sleep(0.01)
        task.cancel()  # impatience changes nothing
        await asyncio.sleep(0.01)
        assert not task.done()
        held.go.set()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert held.ended.is_set()

    run(main())
    assert play(site, site.each, number=1).contributors == frozenset(NAMES)


def test_a_loop_that_ends_waits_for_the_thread_too() -> None:
    """Whoever's `main` is over cancels all that is left, and whatever it awaits, at once."""
    site = Site(PlainSum(max_clients=6))
    held: Any = Held(site.server, "receive")
    ended = []

    async def left() -> None:
        try:
            await run_round_async(held, site.round(), site.each, deadline=LONG)
        finally:
            ended.append(held.ended.is_set())

    async def main() -> asyncio.Task[None]:
        task = asyncio.create_task(left())
        await until(held.begun)
        asyncio.get_running_loop().call_later(0.01, held.go.set)
        return task

    assert run(main()).cancelled()
    assert ended == [True]


def test_a_round_that_was_given_up_goes_on_from_its_saved_state() -> None:
    site = Site(MaskedSum(max_clients=6))
    reached = asyncio.Event()

    async def stuck(outbox: Mapping[str, bytes]) -> AsyncIterator[tuple[str, bytes]]:
        async for each in site.each(outbox):
            yield each
        if site.server.collecting:
            reached.set()
            await asyncio.Event().wait()

    async def main() -> None:
        task = asyncio.create_task(run_round_async(site.server, site.round(), stuck, deadline=LONG))
        await reached.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    run(main())
    server = site.world.protocol.restore_server(site.server.export(key=KEY), key=KEY)
    outbox = server.advance()
    while outbox:
        for name, reply in site.sync(outbox):
            server.receive(name, reply)
        outbox = server.advance()
    assert server.outcome().contributors == frozenset(NAMES)


def test_a_round_given_up_while_shares_are_revealed_was_seen() -> None:
    """Its server could open the sum with them: the next one may not differ from it by one (ATTACKS A10)."""
    site = Site(MaskedSum(max_clients=6, requirements=Requirements(adversary=Adversary.SEMI_HONEST)), "abcde")
    UPDATES.setdefault("e", UPDATES["a"])

    async def breaks(outbox: Mapping[str, bytes]) -> AsyncIterator[tuple[str, bytes]]:
        async for each in site.each(outbox):
            yield each
            if site.server._exchange == 3:  # type: ignore[attr-defined]
                raise ConnectionResetError("graz:4711 is gone")

    with pytest.raises(ConnectionResetError):
        play(site, breaks)

    async def without_e(outbox: Mapping[str, bytes]) -> AsyncIterator[tuple[str, bytes]]:
        async for name, reply in site.each(outbox):
            if name != "e":
                yield name, reply

    with pytest.raises(RoundAborted, match=r"would tell\s+their difference"):
        play(site, without_e, number=1)
    assert play(site, site.each, number=2).contributors == frozenset("abcde")


# Errors of the transport


@pytest.mark.parametrize("error", [ConnectionResetError, TimeoutError, PeerViolation])
@pytest.mark.parametrize("kind", ["each", "all"])
def test_what_the_transport_raises_comes_through(kind: str, error: Any) -> None:
    """Its own time-outs, too: they are not the deadline of the exchange. And the next round goes well."""
    site = Site(PlainSum(max_clients=6))
    raised = error("x", culprit="b") if error is PeerViolation else error("x")

    async def each(outbox: Mapping[str, bytes]) -> AsyncIterator[tuple[str, bytes]]:
        yield "a", site.answer("a", outbox["a"])
        raise raised

    async def whole(outbox: Mapping[str, bytes]) -> list[tuple[str, bytes]]:
        raise raised

    with pytest.raises(error) as found:
        play(site, each if kind == "each" else whole)
    assert found.value is raised
    assert play(site, site.each, number=1).contributors == frozenset(NAMES)


@pytest.mark.parametrize(("item", "error"), [(7, TypeError), (("a",), ValueError)])
def test_a_transport_that_yields_something_else_is_ended_before_it_hears_of_it(item: Any, error: Any) -> None:
    site = Site(PlainSum(max_clients=6))
    said = []

    async def exchange(outbox: Mapping[str, bytes]) -> AsyncIterator[Any]:
        try:
            yield item
        finally:
            said.append("ended")

    async def main() -> None:
        try:
            await run_round_async(site.server, site.round(), exchange, deadline=LONG)
        finally:
            said.append("raised")

    with pytest.raises(error):
        run(main())
    assert said == ["ended", "raised"]


# Bad arguments


@pytest.mark.parametrize(
    "deadline", [0, -1.0, float("inf"), float("nan"), 604_801, None, True, "60", 1 + 2j, [60]]
)
def test_a_deadline_is_a_number_of_seconds_that_ends(deadline: Any) -> None:
    site = Site(PlainSum(max_clients=6))
    with pytest.raises(ParameterError, match=r"deadline is .*; it is the seconds .* in \(0, 604800\]"):
        play(site, site.each, deadline=deadline)
    assert play(site, site.each, deadline=np.float32(60)).contributors == frozenset(
        NAMES
    )  # nothing was begun


def test_a_transport_that_is_not_asynchronous_is_refused() -> None:
    site = Site(PlainSum(max_clients=6))
    with pytest.raises(ParameterError, match=r"exchange gave a list; write it as an `async def`"):
        play(site, site.sync)


def test_a_round_that_can_never_work_is_refused_and_leaves_no_line(caplog: pytest.LogCaptureFixture) -> None:
    site = Site(PlainSum(max_clients=6))
    with caplog.at_level(logging.DEBUG), pytest.raises(ParameterError, match="a length of 0"):
        run(run_round_async(site.server, Round(0, tuple(NAMES), 0), site.each, deadline=LONG))
    assert not [each for each in caplog.records if each.name == "secagg"]


# The log


def lines(caplog: pytest.LogCaptureFixture) -> list[tuple[str, str]]:
    return [(each.levelname, each.getMessage()) for each in caplog.records if each.name.startswith("secagg")]


def test_a_line_a_round(caplog: pytest.LogCaptureFixture, four_of_five: Site) -> None:
    async def without_d(outbox: Mapping[str, bytes]) -> AsyncIterator[tuple[str, bytes]]:
        async for name, reply in four_of_five.each(outbox):
            if name != "d":
                yield name, reply

    async def nobody(outbox: Mapping[str, bytes]) -> list[tuple[str, bytes]]:
        return []

    async def breaks(outbox: Mapping[str, bytes]) -> list[tuple[str, bytes]]:
        raise ConnectionResetError("patient 4711 at graz")

    with caplog.at_level(logging.DEBUG, "secagg"):
        play(four_of_five, four_of_five.each)
        play(four_of_five, without_d, number=1)
        with pytest.raises(RoundAborted) as aborted:
            play(four_of_five, nobody, number=2)
        with pytest.raises(ConnectionResetError):
            play(four_of_five, breaks, number=3)
    assert lines(caplog) == [
        ("INFO", "round 0: 4 of 4 clients"),
        ("WARNING", "round 1: 3 of 4 clients; 1 lost: 'd' (did not answer in MaskedInput)"),
        ("WARNING", f"round 2: aborted: {aborted.value.reason}"),
        ("WARNING", "round 3: left open by a ConnectionResetError"),
    ]
    assert "4 are lost: 'a', 'b', 'c', 'd' (did not answer in AdvertiseKeys)" in aborted.value.reason


@pytest.mark.parametrize("name", PROTOCOLS)
def test_no_line_holds_a_key_a_value_or_a_message(name: str, caplog: pytest.LogCaptureFixture) -> None:
    """Of a run in which a client is lost and one refuses, at the level that tells most."""
    site = Site(PROTOCOLS[name](max_clients=6))
    carried: list[bytes] = []

    async def exchange(outbox: Mapping[str, bytes]) -> AsyncIterator[tuple[str, bytes]]:
        async for client, reply in site.each(outbox):
            carried.extend([outbox[client], reply])
            if client == "c" and site.server._rounds == 2:  # type: ignore[attr-defined]
                yield client, site.world.clients[client].receive(b"no message")
            elif client != "d" or site.server._rounds != 3:  # type: ignore[attr-defined]
                yield client, reply

    outcomes = []
    with caplog.at_level(logging.DEBUG):
        for number in range(4):
            try:
                outcomes.append(play(site, exchange, number=number))
            except RoundAborted:
                outcomes.append(None)
    mine = lines(caplog)
    assert len(mine) == 4, "exactly one line a round"
    said = "\n".join(line for _, line in mine)
    secrets = [client._identity.key.secret.reveal() for client in site.world.clients.values()]  # type: ignore[attr-defined]
    for secret in [*secrets, *(message[80:2000] for message in carried)]:  # their headers hold names
        for piece in (secret[start : start + 8] for start in range(0, len(secret) - 7, 8)):
            for written in (piece.hex(), base64.b64encode(piece).decode()[:10], repr(piece)[2:-1]):
                assert written not in said
    for update in UPDATES.values():
        for value in update.tolist():
            assert f"{value:.3g}" not in said
            assert f"{value:.4f}" not in said
    for outcome in outcomes:
        total = outcome and outcome.total
        for value in total.mean.tolist() if total else []:
            assert f"{value:.4f}" not in said
