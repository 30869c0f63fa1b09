"""A client that comes back from an older state releases nothing different: the release log holds."""

from collections.abc import Callable

import pytest

from protocols import (
    MaskedSum,
    MemoryReleaseLog,
    NeedUpdate,
    ParameterError,
    PeerViolation,
    Policy,
    Session,
)
from protocols.envelope import Envelope
from protocols.schema import decode
from tests.protocols.conftest import (
    STATE_KEY,
    TWO,
    Family,
    World,
    assert_right,
    is_refusal,
    updates_of,
)

pytestmark = pytest.mark.usefixtures("one_paillier_key")

# Rollback


class EmptyLog(dict[tuple[bytes, int, int], bytes]):
    """A release log that is false while it is empty, as a mapping is."""

    def insert(self, session: bytes, round: int, step: int, digest: bytes) -> bytes:
        return self.setdefault((session, round, step), digest)


@pytest.mark.parametrize("make_log", [MemoryReleaseLog, EmptyLog])
def test_an_older_state_cannot_release_a_second_thing(
    family: Family, make_log: Callable[[], EmptyLog]
) -> None:
    log = make_log()
    world = World(family(requirements=TWO), "abc", policies={"a": Policy(release_log=log)})
    updates = updates_of("abc")
    released: dict[int, bytes] = {}
    older: dict[int, bytes] = {}
    requests: dict[int, bytes] = {}

    def before(exchange: int, name: str, message: bytes) -> bytes:
        if name == "a":
            older[exchange], requests[exchange] = world.clients["a"].export(key=STATE_KEY), message
        return message

    def after(exchange: int, name: str, message: bytes) -> bytes:
        if name == "a":
            released[exchange] = message
        return message

    world.play(updates, request=before, reply=after)
    assert set(older) == set(released) == set(range(len(world.protocol.exchanges(first=True)))) - (set())
    for exchange, blob in older.items():
        # With the log, the older state gives the very same bytes again or refuses.
        client = world.protocol.restore_client(blob, key=STATE_KEY, release_log=log)
        answer = client.receive(requests[exchange])
        if isinstance(answer, NeedUpdate):
            answer = client.contribute(-updates["a"])
        assert is_refusal(answer) or answer == released[exchange]
        if is_refusal(answer):
            assert client.refusal is not None
            assert "before" in client.refusal
        # Without it, nothing can hold it back; so no state that had a log is restored without one.
        with pytest.raises(ParameterError, match="release_log"):
            world.protocol.restore_client(blob, key=STATE_KEY)
        fresh = world.protocol.restore_client(blob, key=STATE_KEY, release_log=MemoryReleaseLog())
        answer = fresh.receive(requests[exchange])
        if isinstance(answer, NeedUpdate):
            answer = fresh.contribute(-updates["a"])
        assert not is_refusal(answer)


def test_an_older_state_does_not_reveal_the_other_kind_of_share() -> None:
    # The rewound client is first told that b survived, then that b dropped (ATTACKS A14, A1).
    log = MemoryReleaseLog()
    protocol = MaskedSum(max_clients=4, requirements=TWO)
    world = World(protocol, "abcd", policies={"a": Policy(release_log=log)})
    older: list[bytes] = []

    def before(exchange: int, name: str, message: bytes) -> bytes:
        if exchange == 3 and name == "a":
            older.append(world.clients["a"].export(key=STATE_KEY))
        return message

    world.play(updates_of("abcd"), request=before)
    survivors = next(
        sent.body for sent in world.log if sent.down and sent.exchange == 3 and sent.client == "a"
    )
    lie = lists_dropped(survivors, "b")
    client = protocol.restore_client(older[0], key=STATE_KEY, release_log=log)
    assert is_refusal(client.receive(lie))
    # The lie is well formed: a client without a memory falls for it.
    naive = protocol.restore_client(older[0], key=STATE_KEY, release_log=MemoryReleaseLog())
    assert not is_refusal(naive.receive(lie))


def lists_dropped(message: bytes, client: str) -> bytes:
    """A Survivors request without one of the clients."""
    from dataclasses import replace

    from protocols.client_machine import Request
    from protocols.masked.messages import Survivors
    from protocols.schema import encode

    envelope = Envelope.decode(message)
    told = decode(Survivors, decode(Request, envelope.body).body)
    body = encode(Survivors(told.survivors - {client}))
    return replace(envelope, body=encode(Request((), memoryview(body)))).encode()


def test_a_memory_log_keeps_the_first_digest() -> None:
    log = MemoryReleaseLog()
    assert log.insert(b"s", 1, 2, b"x") == b"x"
    assert log.insert(b"s", 1, 2, b"y") == b"x"
    for place in ((b"t", 1, 2), (b"s", 2, 2), (b"s", 1, 3)):
        assert log.insert(*place, b"z") == b"z"


def test_every_release_is_in_the_log_before_it_leaves(family: Family) -> None:
    class Refusing(MemoryReleaseLog):
        def insert(self, session: bytes, round: int, step: int, digest: bytes) -> bytes:
            calls.append((session, round, step))
            return b"something else stands here"

    calls: list[tuple[bytes, int, int]] = []
    world = World(family(requirements=TWO), "abc", policies={"a": Policy(release_log=Refusing())})
    updates = updates_of("abc")
    outcome = world.play(updates)
    assert calls
    assert {number for _, number, _ in calls} == {0}
    named = {session for session, _, _ in calls}
    assert len(named) == 1
    assert world.session in named.pop()
    assert set(outcome.dropped) == {"a"}
    assert all(is_refusal(sent.body) for sent in world.log if not sent.down and sent.client == "a")
    assert_right(world.learn(outcome), world.protocol, updates, "bc")


def test_the_session_of_a_simulation_can_be_saved_too(family: Family) -> None:
    session = Session(family(), "abc", seed=3)
    first = session.round(updates_of("abc"))
    session.server = family().restore_server(session.server.export(key=STATE_KEY), key=STATE_KEY)
    for name, client in session.clients.items():
        session.clients[name] = family().restore_client(client.export(key=STATE_KEY), key=STATE_KEY)
    second = session.round(updates_of("abc", seed=2))
    assert_right(first.sum, family(), updates_of("abc"), "abc")
    assert_right(second.sum, family(), updates_of("abc", seed=2), "abc")


def test_a_restored_client_still_knows_what_it_opened(consortium: Family) -> None:
    world = World(consortium())
    outcome = world.play(updates_of("abc"))
    world.learn(outcome)
    assert outcome.result is not None
    other = World(consortium(), seed=b"another")
    world.restart()
    assert world.clients["a"].open(outcome.result).contributors == frozenset("abc")
    with pytest.raises(PeerViolation):
        world.clients["a"].open(other.play(updates_of("abc")).result or b"")


def test_clients_of_one_host_may_share_a_log(family: Family) -> None:
    log = MemoryReleaseLog()
    world = World(family(), "abc", policies=dict.fromkeys("abc", Policy(release_log=log)))
    updates = updates_of("abc")
    outcome = world.play(updates)
    assert outcome.dropped == {}
    assert_right(world.learn(outcome), world.protocol, updates, "abc")
