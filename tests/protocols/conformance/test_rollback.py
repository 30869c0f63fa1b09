"""A client that comes back from an older state releases nothing different: the release log holds."""

from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from protocols import (
    Client,
    Identity,
    MemoryReleaseLog,
    NeedUpdate,
    ParameterError,
    PeerViolation,
    PlainSum,
    Policy,
    Roster,
    Round,
    Session,
    SumProtocol,
)
from protocols.machine.client import Request
from protocols.masked.members import Members
from protocols.masked.messages import Quorum, Survivors, columns
from protocols.messages.envelope import Envelope
from protocols.messages.schema import decode, encode
from secagg.standard.signing import SIGNATURE_BYTES
from tests.protocols.conftest import (
    STATE_KEY,
    TWO,
    Family,
    Vector,
    World,
    assert_right,
    is_refusal,
    updates_of,
)

pytestmark = pytest.mark.usefixtures("one_paillier_key")

# Rollback


class EmptyLog(dict[tuple[bytes, int, int], bytes]):
    """A release log that is false while it is empty, as a mapping is."""

    identity = b"an empty mapping"

    def insert(self, session: bytes, round: int, step: int, digest: bytes) -> bytes:
        return self.setdefault((session, round, step), digest)

    def count(self, session: bytes) -> int:
        return sum(name == session for name, _, _ in self)


class Watched:
    """Rounds of a world in which a has a release log: its state before each request, and its answer.

    `logs` are copies of the log of the same moments. A copy that is restored together with its state forgets
    what both have not seen: this is how a client without a durable log does.
    """

    def __init__(self, protocol: SumProtocol, names: str, log: Any, *, rounds: int) -> None:
        self.world = World(protocol, names, policies={"a": Policy(release_log=log)})
        self.log = log
        self.logs: dict[tuple[int, int], Any] = {}
        self.older: dict[tuple[int, int], bytes] = {}
        self.requests: dict[tuple[int, int], bytes] = {}
        self.released: dict[tuple[int, int], bytes] = {}
        for number in range(rounds):
            self.updates = updates_of(names, seed=number)
            self.world.play(self.updates, request=self._before, reply=self._after)
            assert self.world.exchanges == len(protocol.exchanges(first=number == 0))

    def _before(self, exchange: int, name: str, message: bytes) -> bytes:
        if name == "a":
            place = (self.world.number, exchange)
            self.older[place] = self.world.clients["a"].export(key=STATE_KEY)
            self.logs[place] = deepcopy(self.log)
            self.requests[place] = message
        return message

    def _after(self, exchange: int, name: str, message: bytes) -> bytes:
        if name == "a":
            self.released[self.world.number, exchange] = message
        return message

    def rewound(self, place: tuple[int, int], log: Any) -> Client:
        """a as it was before the request of this round and exchange."""
        return self.world.protocol.restore_client(self.older[place], key=STATE_KEY, release_log=log)


def answer_of(client: Client, request: bytes, update: Vector) -> bytes:
    answer = client.receive(request)
    return client.contribute(update) if isinstance(answer, NeedUpdate) else answer


@pytest.mark.parametrize("make_log", [MemoryReleaseLog, EmptyLog])
def test_an_older_state_cannot_release_a_second_thing(
    family: Family, make_log: Callable[[], EmptyLog]
) -> None:
    log = make_log()
    watched = Watched(family(requirements=TWO), "abc", log, rounds=2)
    protocol, update = watched.world.protocol, -watched.updates["a"]
    steps = [len(protocol.exchanges(first=first)) for first in (True, False)]
    assert set(watched.older) == set(watched.released)
    assert [len([n for n, _ in watched.older if n == number]) for number in range(2)] == steps
    for place, blob in watched.older.items():
        # With the log, the older state gives the very same bytes again or refuses.
        client = watched.rewound(place, log)
        answer = answer_of(client, watched.requests[place], update)
        assert is_refusal(answer) or answer == watched.released[place]
        if is_refusal(answer):
            assert client.refusal is not None
            assert "before" in client.refusal
        # Without it, nothing can hold it back; so no state that had a log is restored without that one.
        with pytest.raises(ParameterError, match="release_log"):
            protocol.restore_client(blob, key=STATE_KEY)
        with pytest.raises(ParameterError, match="another release log"):
            watched.rewound(place, MemoryReleaseLog())
        forgetful = watched.rewound(place, watched.logs[place])
        assert not is_refusal(answer_of(forgetful, watched.requests[place], update))


@pytest.mark.parametrize("number", [0, 1], ids=["first", "steady"])
def test_an_older_state_does_not_reveal_the_other_kind_of_share(masked: Family, number: int) -> None:
    # The rewound client was first told that b survived, and is now told that b dropped (ATTACKS A14, A1).
    log = MemoryReleaseLog()
    watched = Watched(masked(max_clients=4, requirements=TWO), "abcd", log, rounds=2)
    kind = Survivors if masked.name == "masked malicious" else Quorum
    lie = lists_dropped(kind, watched.requests[number, 3], "b")
    client = watched.rewound((number, 3), log)
    assert is_refusal(client.receive(lie))
    assert "before" in (client.refusal or "")
    # The lie is well formed: a client without a memory falls for it.
    assert not is_refusal(watched.rewound((number, 3), watched.logs[number, 3]).receive(lie))


def lists_dropped(kind: type, message: bytes, client: str) -> bytes:
    """A request to a that names survivors, without one of the clients."""
    envelope = Envelope.decode(message)
    told: Any = decode(kind, decode(Request, envelope.body).body)
    members = Members(tuple("abcd"))
    left = [name for name in members.subset(told.survivors) if name != client]
    changes = {"survivors": members.bitmap(left)}
    if isinstance(told, Quorum):
        signed = dict(zip("bcd", columns(told.inputs, SIGNATURE_BYTES), strict=True))
        changes["inputs"] = b"".join(signed[name] for name in left if name != "a")
    body = encode(replace(told, **changes))
    return replace(envelope, body=encode(Request((), memoryview(body)))).encode()


@pytest.mark.parametrize("later", [1, 2, 1000])
def test_what_was_prepared_is_spent_once_in_whatever_round(masked: Family, later: int) -> None:
    # a comes back from between two rounds, and is asked for a vector under another round's number. Its place
    # in the log is free there, but the shares of its self-mask seed are out: they were revealed in round 1.
    log = MemoryReleaseLog()
    watched = Watched(masked(max_clients=4, requirements=TWO), "abcd", log, rounds=2)
    asked, survived = (
        replace(Envelope.decode(watched.requests[1, exchange]), round=1 + later).encode()
        for exchange in (2, 3)
    )
    client = watched.rewound((1, 2), log)
    update = watched.updates["a"]
    assert client.receive(asked) == NeedUpdate(1 + later, len(update), b"")
    assert is_refusal(client.contribute(update))
    assert "round 1" in (client.refusal or "")
    assert is_refusal(client.receive(survived))
    # The request is well formed: a client without a memory falls for it.
    naive = watched.rewound((1, 2), watched.logs[1, 2])
    assert not is_refusal(answer_of(naive, asked, update))


def test_a_rewound_client_comes_back_on_the_long_path(masked: Family) -> None:
    log = MemoryReleaseLog()
    watched = Watched(masked(max_clients=7, requirements=TWO), "abcdefg", log, rounds=3)
    world = watched.world
    world.clients["a"] = watched.rewound((1, 2), log)
    updates = updates_of("abcdefg", seed=9)
    outcome = world.play(updates)
    # The server goes on with what a dealt in round 2, of which the rewound a knows nothing.
    assert set(outcome.dropped) == {"a"}
    assert "round 1" in outcome.dropped["a"]
    assert_right(world.learn(outcome), world.protocol, updates, "bcdefg")
    outcome = world.play(updates)
    assert world.exchanges == len(world.protocol.exchanges(first=True))
    assert outcome.dropped == {}
    assert_right(world.learn(outcome), world.protocol, updates, "abcdefg")


def test_a_memory_log_keeps_the_first_digest() -> None:
    log = MemoryReleaseLog()
    assert log.insert(b"s", 1, 2, b"x") == b"x"
    assert log.insert(b"s", 1, 2, b"y") == b"x"
    for place in ((b"t", 1, 2), (b"s", 2, 2), (b"s", 1, 3)):
        assert log.insert(*place, b"z") == b"z"


def test_a_memory_log_counts_its_entries_and_has_an_identity_of_its_own() -> None:
    log, other = MemoryReleaseLog(), MemoryReleaseLog()
    assert log.count(b"s") == 0
    for place in ((b"t", 1, 2), (b"s", 2, 2), (b"s", 1, 3), (b"s", 1, 3)):
        log.insert(*place, b"z")
    assert [log.count(name) for name in (b"s", b"t", b"u")] == [2, 1, 0]
    assert len(log.identity) == 16
    assert log.identity == log.identity != other.identity


class Lacking(MemoryReleaseLog):
    """A log without one of its members, or with something else in its place."""

    def __init__(self, name: str, value: object) -> None:
        super().__init__()
        self.lacks = name, value

    def __getattribute__(self, name: str) -> Any:
        lacks, value = object.__getattribute__(self, "__dict__").get("lacks", ("", None))
        return value if name == lacks else super().__getattribute__(name)


@pytest.mark.parametrize(
    "lacking",
    [
        ("insert", None),
        ("count", None),
        ("count", 0),
        ("identity", None),
        ("identity", b""),
        ("identity", bytes(15)),
        ("identity", "0123456789abcdef"),
    ],
)
def test_what_is_no_log_is_refused_wherever_it_is_passed(lacking: tuple[str, object]) -> None:
    log = Lacking(*lacking)
    with pytest.raises(ParameterError, match=r"16 random bytes.*Lacking lacks one of the three"):
        Policy(release_log=log)
    world = World(PlainSum(max_clients=3), "abc")
    world.play(updates_of("abc"))
    blob = world.clients["a"].export(key=STATE_KEY)
    with pytest.raises(ParameterError, match=r"16 random bytes.*Lacking lacks one of the three"):
        world.protocol.restore_client(blob, key=STATE_KEY, release_log=log)


@pytest.mark.parametrize("log", [MemoryReleaseLog, {}, "releases"])
def test_a_class_a_mapping_or_a_path_is_no_log(log: Any) -> None:
    with pytest.raises(ParameterError, match="a release log has"):
        Policy(release_log=log)


def test_every_release_is_in_the_log_before_it_leaves(family: Family) -> None:
    class Refusing(MemoryReleaseLog):
        def insert(self, session: bytes, round: int, step: int, digest: bytes) -> bytes:
            calls.append((session, round, step))
            return b"something else stands here"

    calls: list[tuple[bytes, int, int]] = []
    world = World(family(requirements=TWO), "abcd", policies={"a": Policy(release_log=Refusing())})
    updates = updates_of("abcd")
    outcome = world.play(updates)
    assert calls
    assert {number for _, number, _ in calls} == {0}
    named = {session for session, _, _ in calls}
    assert len(named) == 1
    assert world.session in named.pop()
    assert set(outcome.dropped) == {"a"}
    assert all(is_refusal(sent.body) for sent in world.log if not sent.down and sent.client == "a")
    assert_right(world.learn(outcome), world.protocol, updates, "bcd")


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


def test_two_sessions_and_clients_of_one_spelling_do_not_share_a_place() -> None:
    """A slash may stand in a session and in a client's id: S/x and y, S and x/y would be one name."""
    log = MemoryReleaseLog()
    for session, name in ((bytes(16), "x/y"), (bytes(16) + b"/x", "y")):
        identities = [Identity.generate(each) for each in (name, "b", "c")]
        roster = Roster.of(*identities)
        protocol = PlainSum(max_clients=3)
        server = protocol.server(roster=roster, session=session)
        client = protocol.client(
            identity=identities[0], roster=roster, session=session, policy=Policy(release_log=log)
        )
        request = server.start(Round(0, roster.members, 4))[name]
        assert isinstance(client.receive(request), NeedUpdate)
        assert not is_refusal(client.contribute(np.zeros(4)))


def test_clients_of_one_host_may_share_a_log(family: Family) -> None:
    log = MemoryReleaseLog()
    world = World(family(), "abc", policies=dict.fromkeys("abc", Policy(release_log=log)))
    updates = updates_of("abc")
    outcome = world.play(updates)
    assert outcome.dropped == {}
    assert_right(world.learn(outcome), world.protocol, updates, "abc")
