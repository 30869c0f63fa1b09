"""`run_round` for whoever lives on an event loop: a round over an asynchronous transport, with a deadline.

The transport is one function again. Best it is an asynchronous generator that yields each reply when it
comes: what came before the deadline counts, and is taken while others are on their way. A coroutine that
returns all replies will do; of one that is not done by then nothing counts.

What the machine does with a vector of millions of values takes its time. It is done in a thread, so the loop
goes on. A step that has begun is never left in its middle: a deadline or a cancellation waits for it. The
outcome is bit for bit that of `run_round` over the same replies in the same order.

Each round leaves one line in `logging.getLogger("secagg")`, see `watch`. There is no retry here and no
authentication: whose a reply is, is for the transport to know.

>>> import numpy as np
>>> from protocols import Identity, NeedUpdate, PlainSum, Roster, Round
>>> identities = [Identity.generate(name) for name in "abc"]
>>> around = {"roster": Roster.of(*identities), "session": bytes(16)}
>>> clients = {each.client: PlainSum().client(identity=each, **around) for each in identities}
>>> async def exchange(outbox):
...     for name, message in outbox.items():
...         answer = clients[name].receive(message)
...         asked = isinstance(answer, NeedUpdate)
...         yield name, clients[name].contribute(np.full(2, 0.5)) if asked else answer
>>> server = PlainSum().server(**around)
>>> outcome = asyncio.run(run_round_async(server, Round(0, ("a", "b", "c"), 2), exchange, deadline=60))
>>> sorted(outcome.contributors), outcome.total.total_weight
(['a', 'b', 'c'], 3)
"""

import asyncio
import contextvars
import math
from collections.abc import AsyncGenerator, AsyncIterable, Awaitable, Callable, Iterable, Mapping
from contextlib import suppress
from functools import partial
from typing import Final, ParamSpec, TypeAlias, TypeVar

from fl_integration.loop.watch import log_left_open, log_outcome
from protocols.identity import ClientId
from protocols.interface import Outcome, Round, Server
from secagg.errors import ParameterError, PeerViolation
from secagg.numbers import is_number, plain
from secagg.wire import Buffer

__all__ = ["AsyncExchange", "run_round_async"]

Replies: TypeAlias = AsyncIterable[tuple[ClientId, Buffer]] | Awaitable[Iterable[tuple[ClientId, Buffer]]]

AsyncExchange: TypeAlias = Callable[[Mapping[ClientId, bytes]], Replies]
"""Delivers one message to each client and yields, or returns, (sender, reply) for the replies that came."""

LONGEST: Final = 7 * 24 * 3600.0
"""Seconds that one exchange may be given: a week. A round that waits longer waits for nobody."""

_Given = ParamSpec("_Given")
_Made = TypeVar("_Made")


async def run_round_async(
    server: Server, round: Round, exchange: AsyncExchange, *, deadline: float
) -> Outcome:
    """Runs one round to its end. Nothing else may call this server meanwhile, but for its properties.

    Args:
        server: the server's machine. Its calls run in threads of the loop's default executor, one at a time.
        round: its number, cohort, length and model.
        exchange: the transport. When its time is up it is cancelled, and awaited: a generator that waits for
            replies, or in a `yield`, sees `asyncio.CancelledError` there and may clean up, which is not
            counted. What it raises otherwise comes through.
        deadline: seconds for each exchange, in (0, 604800]. The one that asks for updates includes the
            training; there is no default, because nobody here knows how long that takes.

    Raises:
        ParameterError: an argument can never work; nothing was sent.
        RoundAborted: too few clients were left, for example because too few answered in time.
        asyncio.CancelledError: the caller was cancelled. The transport has ended and no thread works on the
            server any more. The round is left in the exchange that was open: start the next round, with a
            higher number, or export the server and go on with `advance`. Clients take either.
    """
    deadline = _check_deadline(deadline)
    outbox = await _off_the_loop(server.start, round)
    try:
        while outbox:
            await _exchange(server, outbox, exchange, deadline)
            outbox = await _off_the_loop(server.advance)
        outcome = await _off_the_loop(server.outcome)
    except BaseException as error:  # whatever ends a round, an interrupt too, leaves its line; and goes on
        log_left_open(round, error)
        raise
    log_outcome(round, outcome)
    return outcome


def _check_deadline(deadline: float) -> float:
    value = plain(deadline)
    if not is_number(value) or not math.isfinite(value) or not 0 < value <= LONGEST:
        raise ParameterError(
            f"deadline is {value!r}; it is the seconds that each exchange may take, in (0, {LONGEST:.0f}]"
        )
    return float(value)


async def _exchange(
    server: Server, outbox: Mapping[ClientId, bytes], exchange: AsyncExchange, deadline: float
) -> None:
    """One exchange: hands in what comes in time, and returns when all came or the time is up."""
    try:
        async with asyncio.timeout(deadline) as limit:
            replies = exchange(outbox)
            if isinstance(replies, AsyncIterable):
                await _take_each(server, replies)
            elif isinstance(replies, Awaitable):
                for sender, reply in await replies:
                    await _receive(server, sender, reply)
            else:
                raise ParameterError(
                    f"exchange gave a {type(replies).__name__}; write it as an `async def` that yields "
                    "(client, reply), or returns them all"
                )
    except TimeoutError:
        if not limit.expired():  # the transport's own, which is not ours to judge
            raise


async def _take_each(server: Server, replies: AsyncIterable[tuple[ClientId, Buffer]]) -> None:
    async for each in replies:
        try:
            sender, reply = each
            await _receive(server, sender, reply)
        except BaseException:  # above all a deadline or a cancellation; it goes on below
            await _stop(replies)
            raise


async def _stop(replies: AsyncIterable[tuple[ClientId, Buffer]]) -> None:
    """Ends a generator that stands in a `yield`.

    As if it had been cancelled there: a `TaskGroup` around a `yield` then cancels its tasks and waits for
    them, where a mere `aclose` would make an error of it.
    """
    if isinstance(replies, AsyncGenerator):
        with suppress(asyncio.CancelledError, StopAsyncIteration):
            await replies.athrow(asyncio.CancelledError())
        await replies.aclose()


async def _receive(server: Server, sender: ClientId, reply: Buffer) -> None:
    with suppress(PeerViolation):  # the server has noted the culprit
        await _off_the_loop(server.receive, sender, reply)


async def _off_the_loop(call: Callable[_Given, _Made], *args: _Given.args, **kwargs: _Given.kwargs) -> _Made:
    """What `call` returns, from a thread. Whoever is cancelled meanwhile is so when the call has ended.

    A future and no task, such as `asyncio.to_thread` makes: `asyncio.run` cancels all tasks when it ends, and
    this one would be over while its thread works on.
    """
    work = partial(contextvars.copy_context().run, call, *args, **kwargs)
    done = asyncio.get_running_loop().run_in_executor(None, work)
    try:
        return await asyncio.shield(done)
    except asyncio.CancelledError:
        while not done.done():
            with suppress(asyncio.CancelledError):  # a second one changes nothing: the first goes on below
                await asyncio.wait([done])
        if not done.cancelled():
            done.exception()  # it is taken note of: the machine remembers what went wrong
        raise
