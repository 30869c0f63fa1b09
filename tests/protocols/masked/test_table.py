"""Every (state, message) pair of MaskedSum's two machines: what is due is taken, all else changes nothing.

Real machines are driven through three rounds: one on the long path, a steady one, and one with a newcomer,
to which the others come with something prepared. In each state on the way they get every message of the
protocol, taken from other rounds and put into an envelope that fits, so that nothing but the table stands
against it. Then they get what is due, and at the end of each round the sum is right.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cache

import pytest

from protocols import NeedUpdate, PeerViolation
from protocols.machine.client import Request
from protocols.masked.messages import (
    AdvertiseKeys,
    Announcement,
    CohortKeys,
    CollectInput,
    ConsistencyCheck,
    MaskedInput,
    Quorum,
    ShareKeys,
    Survivors,
    Unmask,
)
from protocols.messages.envelope import Envelope, reply_stage, request_stage
from protocols.messages.schema import decode, encode
from tests.protocols.conftest import (
    FAMILIES,
    STATE_KEY,
    TWO,
    World,
    assert_right,
    exchange_of,
    is_long,
    is_refusal,
    updates_of,
)

VARIANTS = ["masked", "masked malicious"]
ROUNDS = [("abcd", True), ("abcd", False), ("abcde", True)]
"""Cohorts, and whether they take the long path."""
DOWN = (Announcement, CohortKeys, CollectInput, Survivors, Quorum)
UP = (AdvertiseKeys, ShareKeys, MaskedInput, ConsistencyCheck, Unmask)
LEGAL = {
    ("Idle", Announcement),
    ("Ready", Announcement),
    ("Advertised", CohortKeys),
    ("Dealt", CollectInput),
    ("Ready", CollectInput),
    ("Masked", Survivors),
    ("Masked", Quorum),
    ("Confirmed", Quorum),
}
"""What a client takes; where it is Masked, the one of Survivors and Quorum that its plan has next."""


def make_world(name: str) -> World:
    return World(FAMILIES[name](max_clients=5, requirements=TWO), "abcde")


@cache
def recorded(name: str) -> dict[type, list[bytes]]:
    """The bodies of each kind of message that went to a or came from it in three rounds like these."""
    world = make_world(name)
    found: dict[type, list[bytes]] = {}
    suite = world.protocol.suite  # type: ignore[attr-defined]
    for cohort, _ in ROUNDS:
        world.play(updates_of(cohort, 6), model=b"another")  # so that no message is that of the round itself
        for sent in world.log:
            if sent.client == "a":
                kind = (suite.requests if sent.down else suite.replies)[sent.exchange]
                body = Envelope.decode(sent.body).body
                found.setdefault(kind, []).append(
                    bytes(decode(Request, body).body if sent.down else body)  # of a request what is inside
                )
    return found


def bodies_of(name: str, kind: type) -> list[bytes]:
    """Messages of a kind, from a session against a malicious server where this one has none."""
    return recorded(name).get(kind) or recorded("masked malicious")[kind]


# The client


@dataclass
class Prober:
    """Sends a everything that is not due, in each state."""

    world: World
    name: str
    answered: set[int] = field(default_factory=set)
    state: str = "Idle"
    seen: list[tuple[str, bool]] = field(default_factory=list)
    refused: int = 0

    def __call__(self, exchange: int, client: str, message: bytes) -> bytes:
        """A request hook: probes a before each request, and while it trains."""
        if client != "a":
            return message
        long = is_long(self.world)
        if exchange == (0 if long else 2):
            self.answered = set()
        if exchange:
            self.state = {1: "Advertised", 2: "Dealt" if long else "Ready", 3: "Masked", 4: "Confirmed"}[
                exchange
            ]
        self.probe()
        if exchange == 2:
            assert isinstance(self.world.clients["a"].receive(message), NeedUpdate)
            self.state = "Collecting"
            self.probe()
        self.answered.add(exchange)
        return message

    def ended(self) -> None:
        """The round is over: everything in it is answered, and the next one is prepared."""
        self.state = "Ready"
        self.probe()

    def probe(self) -> None:
        self.seen.append((self.state, is_long(self.world)))
        for kind in DOWN:
            for body in bodies_of(self.name, kind):
                self._now(kind, body)
                self._in_a_later_round(kind, body)

    def _now(self, kind: type, body: bytes) -> None:
        exchange = self._exchange(kind)
        if exchange in self.answered:
            said = "answered already"
        elif self.state == "Collecting" and exchange == 2:
            said = "waits for its update"
        elif not self._known(kind):
            said = ""  # it does not even decode
        elif (self.state, kind) in LEGAL and not self._too_early(kind):
            return  # this kind is due, and comes
        else:
            said = f"{kind.__name__} came where this client is {self.state}"
        self._refuse(exchange, self.world.number, body, said)

    def _in_a_later_round(self, kind: type, body: bytes) -> None:
        """A request of a later round finds what is prepared, or nothing at all."""
        state = "Ready" if self.state == "Ready" else "Idle"
        exchange, number = self._exchange(kind), self.world.number + 1
        if (state, kind) not in LEGAL:
            said = f"{kind.__name__} came where this client is {state}" if self._known(kind) else ""
            self._refuse(exchange, number, body, said)
            return
        blob = self.world.clients["a"].export(key=STATE_KEY)
        twin = self.world.protocol.restore_client(blob, key=STATE_KEY)
        answer = twin.receive(self._message(exchange, number, body))
        assert "came where" not in (twin.refusal or "")
        if kind is Announcement:
            assert not is_refusal(answer)

    def _refuse(self, exchange: int, number: int, body: bytes, said: str) -> None:
        client = self.world.clients["a"]
        assert is_refusal(client.receive(self._message(exchange, number, body)))
        assert client.refusal is not None
        assert said in client.refusal
        self.refused += 1

    def _message(self, exchange: int, number: int, body: bytes) -> bytes:
        return Envelope(
            protocol=self.world.protocol.suite.code,  # type: ignore[attr-defined]
            session=self.world.session,
            round=number,
            stage=request_stage(exchange),
            sender="server",
        ).encode(encode(Request((), memoryview(body))))

    def _known(self, kind: type) -> bool:
        return kind in self.world.protocol.suite.requests  # type: ignore[attr-defined]

    def _exchange(self, kind: type) -> int:
        requests: tuple[type, ...] = self.world.protocol.suite.requests  # type: ignore[attr-defined]
        return requests.index(kind) if kind in requests else 3

    def _too_early(self, kind: type) -> bool:
        """A quorum before the consistency check."""
        return self.state == "Masked" and kind is Quorum and self.name == "masked malicious"


@pytest.mark.parametrize("name", VARIANTS)
def test_a_client_takes_what_is_due_and_nothing_else(name: str) -> None:
    world = make_world(name)
    prober = Prober(world, name)
    for number, (cohort, long) in enumerate(ROUNDS):
        updates = updates_of(cohort, seed=number)
        outcome = world.play(updates, request=prober)
        assert is_long(world) == long
        assert outcome.dropped == {}
        assert_right(world.learn(outcome), world.protocol, updates, cohort)
        prober.ended()
    confirmed = ["Confirmed"] if name == "masked malicious" else []
    steady = ["Ready", "Collecting", "Masked", *confirmed, "Ready"]
    first = ["Advertised", "Dealt", "Collecting", "Masked", *confirmed, "Ready"]
    assert [state for state, _ in prober.seen] == ["Idle", *first, *steady, "Ready", *first]
    assert prober.refused > 200


# The server


@dataclass
class Moment:
    """An exchange that is open, nothing answered yet."""

    state: str
    kind: type
    number: int
    cohort: str
    server: bytes
    clients: dict[str, bytes]
    outbox: dict[str, bytes]


STATES = {
    AdvertiseKeys: "Advertising",
    ShareKeys: "Sharing",
    MaskedInput: "Summing",
    ConsistencyCheck: "Confirming",
    Unmask: "Unmasking",
}


def moments(world: World) -> Iterator[Moment]:
    """Every open exchange of the three rounds."""
    replies = world.protocol.suite.replies  # type: ignore[attr-defined]
    for cohort, _ in ROUNDS:
        found: list[Moment] = []

        def look(exchange: int, name: str, message: bytes, cohort: str = cohort) -> bytes:
            if name == "a":
                server, clients = world.save()
                kind = replies[exchange]
                found.append(Moment(STATES[kind], kind, world.number, cohort, server, clients, {}))  # noqa: B023
            found[-1].outbox[name] = message  # noqa: B023
            return message

        world.play(updates_of(cohort), request=look)
        yield from found


def upward(world: World, kind: type, number: int, sender: str, body: bytes) -> bytes:
    replies: tuple[type, ...] = world.protocol.suite.replies  # type: ignore[attr-defined]
    return Envelope(
        protocol=world.protocol.suite.code,  # type: ignore[attr-defined]
        session=world.session,
        round=number,
        stage=reply_stage(replies.index(kind) if kind in replies else 3),
        sender=sender,
    ).encode(body)


@pytest.mark.parametrize("name", VARIANTS)
def test_a_server_takes_what_is_due_and_nothing_else(name: str) -> None:
    world = make_world(name)
    exchanges = world.protocol.exchanges(first=True)
    known = world.protocol.suite.replies  # type: ignore[attr-defined]
    seen, refused = [], 0
    for moment in list(moments(world)):
        seen.append(moment.state)
        restore(world, moment)
        due = world.clients["b"].receive(moment.outbox["b"])
        if isinstance(due, NeedUpdate):
            due = world.clients["b"].contribute(updates_of(moment.cohort)["b"])
        assert not is_refusal(due)
        step = f"another step than {exchanges[Envelope.decode(due).stage // 2]}"
        wrong = [(due, "in another party's name")]
        for kind in UP:
            for body in bodies_of(name, kind):
                wrong.append((upward(world, kind, moment.number + 1, "a", body), "a message for round"))
                if kind not in known:  # in the place of Unmask: it does not even decode
                    wrong.insert(0, (upward(world, kind, moment.number, "a", body), "."))
                elif kind is not moment.kind:
                    late = known.index(kind) < known.index(moment.kind)
                    said = "an earlier round or exchange" if late else step
                    wrong.append((upward(world, kind, moment.number, "a", body), said))
        restore(world, moment)
        for message, said in wrong:
            with pytest.raises(PeerViolation, match=said) as violation:
                world.server.receive("a", message)
            assert violation.value.culprit == "a"
            refused += 1
        finish(world, moment, without="a")
        # What is due, twice, and then something else.
        restore(world, moment)
        for _ in range(2):
            world.server.receive("b", due)
        with pytest.raises(PeerViolation, match="answered already") as violation:
            world.server.receive("b", due + b"!")
        assert violation.value.culprit == "b"
        finish(world, moment, without="b", contributed=moment.kind is MaskedInput)
        # What is due from b, as a's own.
        restore(world, moment)
        with pytest.raises(PeerViolation) as violation:
            world.server.receive("a", replace(Envelope.decode(due), sender="a").encode())
        assert violation.value.culprit == "a"
        finish(world, moment, without="a")
    checks = ["Confirming"] if name == "masked malicious" else []
    steady = ["Summing", *checks, "Unmasking"]
    assert seen == ["Advertising", "Sharing", *steady, *steady, "Advertising", "Sharing", *steady]
    assert refused > 100


def restore(world: World, moment: Moment) -> None:
    world.restore((moment.server, moment.clients))
    world.number = moment.number


def finish(world: World, moment: Moment, *, without: str, contributed: bool = False) -> None:
    updates = updates_of(moment.cohort)
    left = {name: message for name, message in moment.outbox.items() if name != without}
    outcome = world.resume(left, updates)
    assert set(outcome.dropped) == {without}
    late = contributed or exchange_of(next(iter(left.values()))) > 2
    contributors = set(moment.cohort) if late else set(moment.cohort) - {without}
    assert_right(world.learn(outcome), world.protocol, updates, contributors)


@pytest.mark.parametrize("name", VARIANTS)
def test_a_server_between_rounds_takes_nothing(name: str) -> None:
    world = make_world(name)
    for number in range(2):
        for kind in UP:
            for body in bodies_of(name, kind):
                for round in (number, number + 1):
                    with pytest.raises(PeerViolation) as violation:
                        world.server.receive("a", upward(world, kind, round, "a", body))
                    assert violation.value.culprit == "a"
        updates = updates_of("abcd", seed=number)
        outcome = world.play(updates)
        assert outcome.dropped == {}
        assert is_long(world) == (number == 0)
        assert_right(world.learn(outcome), world.protocol, updates, "abcd")
