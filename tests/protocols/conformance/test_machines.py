"""Repeats, and every (state, message) pair of both machines: recorded messages out of their order."""

from contextlib import suppress
from dataclasses import replace

import pytest

from protocols import NeedUpdate, ParameterError, PeerViolation, Round, RoundAborted
from protocols.machine.client import Request
from protocols.messages.envelope import ACKNOWLEDGEMENT, RESULT, Envelope
from protocols.messages.schema import decode, encode
from tests.protocols.conftest import (
    STATE_KEY,
    TWO,
    Family,
    Sent,
    Vector,
    World,
    assert_right,
    exchange_of,
    is_refusal,
    updates_of,
)

pytestmark = pytest.mark.usefixtures("one_paillier_key")

Saved = tuple[bytes, dict[str, bytes]]


def also_says(message: bytes, **changes: object) -> bytes:
    """A message with another header field, its body kept."""
    return replace(Envelope.decode(message), **changes).encode()  # type: ignore[arg-type]


def with_a_result(message: bytes) -> bytes:
    """A well-formed request that differs from `message` in nothing but a result that rides on it."""
    envelope = Envelope.decode(message)
    request = decode(Request, envelope.body)
    body = encode(Request((*request.results, memoryview(b"a result")), request.body))
    return replace(envelope, body=body).encode()


# Repeats


def test_identical_requests_get_identical_replies(family: Family) -> None:
    world = World(family())
    updates = updates_of("abc")
    said: dict[tuple[str, bytes], object] = {}

    def ask_first(exchange: int, name: str, message: bytes) -> bytes:
        said[name, message] = first = world.clients[name].receive(message)
        assert world.clients[name].receive(bytearray(message)) == first
        return message

    def ask_again(exchange: int, name: str, reply: bytes) -> bytes:
        request = next(sent.body for sent in reversed(world.log) if sent.down and sent.client == name)
        if not isinstance(said[name, request], NeedUpdate):
            assert said[name, request] == reply
        for _ in range(2):
            assert world.clients[name].receive(request) == reply
            assert world.clients[name].refusal is None
        world.restart()  # the reply is remembered in a saved state as well
        assert world.clients[name].receive(request) == reply
        return reply

    outcome = world.play(updates, request=ask_first, reply=ask_again)
    assert_right(world.learn(outcome), world.protocol, updates, "abc")
    # And after the round's end, until the next one begins.
    for sent in (sent for sent in world.log if sent.down):
        answers = [back.body for back in world.log if not back.down]
        assert world.clients[sent.client].receive(sent.body) in answers


def test_identical_replies_count_once(family: Family) -> None:
    world = World(family(max_weight=9), "abcd")
    updates = updates_of("abcd")

    def thrice(exchange: int, name: str, message: bytes) -> bytes:
        for _ in range(3):
            world.server.receive(name, bytearray(message))
        world.restart()
        world.server.receive(name, message)
        for sent in [sent for sent in world.log if not sent.down]:
            world.server.receive(sent.client, sent.body)  # of earlier exchanges, too
        return message

    outcome = world.play(updates, weights={"b": 9}, reply=thrice)
    assert outcome.dropped == {}
    assert_right(world.learn(outcome), world.protocol, updates, "abcd", {"b": 9})
    previous = [sent for sent in world.log if not sent.down]

    def of_the_last_round(exchange: int, name: str, message: bytes) -> bytes:
        for sent in previous:
            world.server.receive(sent.client, sent.body)
        return message

    outcome = world.play(updates, reply=of_the_last_round)
    assert outcome.dropped == {}
    assert_right(world.learn(outcome), world.protocol, updates, "abcd")


def test_a_different_request_for_an_answered_step_is_refused(family: Family) -> None:
    world = World(family())
    updates = updates_of("abc")

    def contradict(exchange: int, name: str, reply: bytes) -> bytes:
        request = next(sent.body for sent in reversed(world.log) if sent.down and sent.client == name)
        assert is_refusal(world.clients[name].receive(with_a_result(request)))
        assert world.clients[name].refusal is not None
        assert world.clients[name].results == ()  # nothing of it was taken
        assert world.clients[name].receive(request) == reply
        return reply

    outcome = world.play(updates, reply=contradict)
    assert_right(world.learn(outcome), world.protocol, updates, "abc")


def test_a_different_request_while_training_is_refused(family: Family) -> None:
    world = World(family())
    updates = updates_of("abc")
    waited = []

    def contradict(exchange: int, name: str, message: bytes) -> bytes:
        asked = world.clients[name].receive(message)
        if isinstance(asked, NeedUpdate):
            waited.append(name)
            assert is_refusal(world.clients[name].receive(with_a_result(message)))
            assert world.clients[name].receive(message) == asked
        return message

    outcome = world.play(updates, request=contradict)
    assert waited == ["a", "b", "c"]
    assert_right(world.learn(outcome), world.protocol, updates, "abc")


def test_a_different_reply_for_an_answered_step_is_a_violation(family: Family) -> None:
    exchanges = len(family().exchanges(first=True))
    for exchange in range(exchanges):
        world = World(family(requirements=TWO), "abcd")
        updates = updates_of("abcd")
        asked: list[tuple[bytes, bytes]] = []

        def remember(now: int, name: str, message: bytes) -> bytes:
            if name == "a" and now == exchange:  # noqa: B023
                asked.append((world.clients["a"].export(key=STATE_KEY), message))  # noqa: B023
            return message

        def answer_twice(now: int, name: str, message: bytes) -> bytes:
            if name != "a" or now != exchange:  # noqa: B023
                return message
            # A twin that does not know what was said draws other randomness: a second, valid answer.
            state, request = asked[0]  # noqa: B023
            twin = world.protocol.restore_client(state, key=STATE_KEY)  # noqa: B023
            second = twin.receive(request)
            if isinstance(second, NeedUpdate):
                second = twin.contribute(-updates["a"])  # noqa: B023
            if second == message:  # ConsistencyCheck has no randomness: another answer is a header that lies
                second = also_says(message, round=7)
            world.server.receive("a", message)  # noqa: B023
            with pytest.raises(PeerViolation) as violation:
                world.server.receive("a", second)  # noqa: B023
            assert violation.value.culprit == "a"
            return message

        outcome = world.play(updates, request=remember, reply=answer_twice)
        assert "a" in outcome.dropped
        collected = exchange >= (2 if exchanges > 1 else 0)
        contributors = frozenset("abcd") if collected else frozenset("bcd")
        assert outcome.contributors == contributors
        assert_right(world.learn(outcome), world.protocol, updates, contributors)


def test_an_update_is_given_once(family: Family) -> None:
    world = World(family())
    updates = updates_of("abc")

    def again(exchange: int, name: str, message: bytes) -> bytes:
        with pytest.raises(ParameterError):
            world.clients[name].contribute(updates[name])
        return message

    outcome = world.play(updates, reply=again)
    assert_right(world.learn(outcome), world.protocol, updates, "abc")


# Every pair


class Recording:
    """Two rounds, with every party's state before each exchange, and all messages of both rounds."""

    def __init__(self, family: Family) -> None:
        self.world = World(family(requirements=TWO), "abcd")
        self.updates = [updates_of("abcd", 4, seed=number) for number in range(2)]
        self.before: list[tuple[int, Saved, dict[str, bytes]]] = []
        self.messages: list[tuple[int, Sent]] = []
        for number in range(2):
            self._play(number)

    def _play(self, number: int) -> None:
        world = self.world
        outbox = world.server.start(Round(number, tuple("abcd"), 4))
        while outbox:
            self.before.append((number, world.save(), dict(outbox)))
            for name, message in outbox.items():
                self.messages.append((number, Sent(True, exchange_of(message), name, message)))
                reply = world.clients[name].receive(message)
                if isinstance(reply, NeedUpdate):
                    reply = world.clients[name].contribute(self.updates[number][name])
                self.messages.append((number, Sent(False, exchange_of(reply), name, reply)))
                world.server.receive(name, reply)
            outbox = world.server.advance()
        for name, message in world.server.deliver().items():
            self.messages.append((number, Sent(True, exchange_of(message), name, message)))
            reply = world.clients[name].receive(message)
            assert isinstance(reply, bytes)
            self.messages.append((number, Sent(False, exchange_of(reply), name, reply)))
            world.server.receive(name, reply)


def test_every_state_and_message_of_the_client(family: Family) -> None:
    recording = Recording(family)
    world, refused = recording.world, 0
    wrong: list[tuple[str, int, int]] = []
    for number, saved, outbox in recording.before:
        exchange = exchange_of(next(iter(outbox.values())))
        world.restore(saved)
        answered = [
            sent.body
            for now, sent in recording.messages
            if not sent.down and sent.client == "a" and now <= number
        ]
        for now, sent in recording.messages:
            if sent.down and (now, sent.exchange) == (number, exchange):
                continue  # what is due, or what is due from another client
            if sent.down and sent.exchange == RESULT // 2:
                continue  # results may come at any time
            if sent.down and now > number and opens_a_round(recording, now, sent):
                continue  # the next round may begin at any moment
            state = world.clients["a"].export(key=STATE_KEY)
            answer = world.clients["a"].receive(sent.body)
            assert isinstance(answer, bytes | NeedUpdate)
            if is_refusal(answer):
                refused += 1
                assert world.clients["a"].refusal
            elif isinstance(answer, NeedUpdate):
                wrong.append(("NeedUpdate", number, exchange))
                world.clients["a"] = world.protocol.restore_client(state, key=STATE_KEY)
            elif answer not in answered:
                wrong.append((world.protocol.exchanges(first=True)[sent.exchange], number, exchange))
                world.clients["a"] = world.protocol.restore_client(state, key=STATE_KEY)
        outcome = world.resume(outbox, recording.updates[number])
        assert outcome.dropped == {}
        assert_right(world.learn(outcome), world.protocol, recording.updates[number], "abcd")
    assert refused > 10
    assert wrong == [], "answered, though another request was due (name, round, open exchange)"


def opens_a_round(recording: Recording, number: int, sent: Sent) -> bool:
    """Whether this message is the first that its receiver gets in its round."""
    first = next(
        each
        for now, each in recording.messages
        if now == number and each.down and each.client == sent.client and each.exchange != RESULT // 2
    )
    return first.exchange == sent.exchange


@pytest.mark.slow
def test_every_state_and_message_of_the_server(family: Family) -> None:
    recording = Recording(family)
    world, violations = recording.world, 0
    for place, (number, saved, outbox) in enumerate(recording.before):
        exchange = max(exchange_of(message) for message in outbox.values())
        for now, sent in recording.messages:
            own = not sent.down and sent.client == "a"
            acceptable = own and now == number and sent.exchange == exchange
            world.restore(saved)
            if not acceptable:
                repeated = own and (now, sent.exchange) < (number, exchange)
                result = own and sent.exchange == ACKNOWLEDGEMENT // 2
                try:
                    world.server.receive("a", sent.body)
                    assert repeated or result, (number, exchange, now, sent)
                except PeerViolation as violation:
                    assert violation.culprit == "a"  # noqa: PT017
                    violations += 1
                    if place % (4 if family.heavy else 2) or sent.down:
                        continue
                    finish(world, outbox, recording.updates[number], without="a")
    assert violations > 20


def finish(world: World, outbox: dict[str, bytes], updates: dict[str, Vector], *, without: str) -> None:
    """Ends the round of which one client is out: the sum of those who contributed is right."""
    with suppress(RoundAborted):
        outcome = world.resume({n: m for n, m in outbox.items() if n != without}, updates)
        assert without in outcome.dropped
        learnt = world.learn(outcome)
        assert set("bcd") <= set(learnt.contributors) <= set("abcd")
        assert_right(learnt, world.protocol, updates, learnt.contributors)
        return
    pytest.fail("three of four are left, two are enough")
