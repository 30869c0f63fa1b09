"""The server's half: who is behind which node, sessions, and one sum after the other over a carrier.

A `Carrier` is an engine's transport: it hands parcels to nodes and brings their answers. The coordinator
greets every node that it has not met (`Hello`), takes those that prove to be members of the roster, and runs
rounds among the members that it is told. It waits for nobody for ever: each exchange has a deadline, after
which it goes on with whoever answered; the one in which clients train has what the round has left.

Nothing here is believed that a member's machine does not check again. The coordinator is what an honest
server runs; a lying one can do what THREAT_MODEL.md allows it to, whatever stands here.

* A node that is no member, that has another protocol or another roster, or that has no secagg at all is left
  alone, with the reason in the log, and asked again after a while.
* Two nodes that prove one identity: the first keeps it while it is there and answers.
* A round that aborts is over; the next one starts from what the machines remember.
* A change of roster, read between rounds, or a lost state opens a new session: new keys, and a new ledger
  entry at each site.

With a folder for its state the server's machines are stored before each message leaves, and a coordinator
that starts again over the same folder goes on in the same session; the round that was open is aborted first.
"""

import logging
import math
import os
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, fields
from typing import Annotated, Any, Final, Protocol, TypeAlias

from fl_integration.embedding.parcels import (
    NO_COPY,
    Answer,
    Brought,
    Copy,
    Errand,
    Handover,
    Hello,
    Parcel,
    Place,
    Purpose,
    Refused,
    Step,
    Welcome,
    decode_head,
    encode_head,
    purpose_session,
    welcome_statement,
)
from fl_integration.site.handover import MAXIMUM_VOUCHER
from fl_integration.site.sealed_folder import SealedFolder
from protocols.identity import ClientId
from protocols.interface import Learner, Outcome, Round, Server
from protocols.machine.parameters import MachineProtocol
from protocols.membership import RosterVersion, session_id
from protocols.messages.schema import U8, U64, Key32, UpTo, decode, encode
from protocols.planning.requirements import ceil_fraction
from protocols.run import run_round
from secagg import labels
from secagg.errors import DecodeError, ParameterError, PeerViolation, RoundAborted, VerificationError
from secagg.numbers import is_number, plain_fields
from secagg.wire import Buffer

__all__ = ["Carrier", "Coordinator", "Patience", "Ticket", "Undelivered", "check_seconds"]

_LOG: Final = logging.getLogger("secagg")
_FILE: Final = "server"
_SLOWER: Final = 1.3
"""How much longer each pause between two looks is: a dozen looks in the first second, then two a second."""
KEPT_ROUNDS: Final = 16
"""Rounds whose binding digest is told with results: more than a mailbox keeps."""

MOST_PAUSE: Final = 8
"""Rounds between two attempts to bring one client along, at most."""

Ticket: TypeAlias = str
"""A carrier's name for one parcel that is under way."""

Node: TypeAlias = bytes
"""An engine's name for a node, as bytes."""


@dataclass(frozen=True, slots=True)
class Undelivered:
    """There will be no answer, and why."""

    reason: str


class Carrier(Protocol):
    """An engine's transport."""

    def nodes(self) -> Collection[Node]:
        """The nodes that are there now."""
        ...  # a Protocol's signature

    def push(self, parcels: Mapping[Node, Parcel], *, seconds: float) -> Mapping[Node, Ticket]:
        """Sends parcels; a node without a ticket could not be reached. After `seconds` nobody waits."""
        ...  # a Protocol's signature

    def pull(self, tickets: Collection[Ticket]) -> Mapping[Ticket, Parcel | Undelivered]:
        """The answers that are there, each once."""
        ...  # a Protocol's signature


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """How long the coordinator waits; all in seconds.

    Attributes:
        exchange: for an exchange in which nobody trains.
        hello: for a node that was not met before.
        connect: for as many members as the smallest cohort needs, before a round is tried without them.
        again: before a node that was turned away, or did not answer its greeting, is greeted again.
        first_look, last_look: between two looks for answers, from the first to the longest.

    Raises:
        ParameterError: one of them is no finite number above zero. Nobody is waited for without an end.
    """

    exchange: float = 180.0
    hello: float = 90.0
    connect: float = 600.0
    again: float = 30.0
    first_look: float = 0.02
    last_look: float = 0.5

    def __post_init__(self) -> None:
        names = [each.name for each in fields(self)]
        plain_fields(self, *names)
        for name in names:
            check_seconds(f"patience.{name}", getattr(self, name))


def check_seconds(name: str, seconds: Any) -> None:
    """Returns if `seconds` is a finite number above zero.

    Raises:
        ParameterError: it is anything else.
    """
    if not is_number(seconds) or not 0 < float(seconds) < math.inf:
        raise ParameterError(f"{name} is {seconds!r}; it is seconds: a finite number above zero")


@dataclass(frozen=True, slots=True)
class Saved:
    """The server's state, as it is stored before a message leaves."""

    epoch: U64
    roster: Key32
    moved: Annotated[bytes, UpTo(32)]
    rounds: dict[U8, U64]
    shown: dict[U8, dict[U64, bytes]]
    machines: Annotated[dict[U8, bytes], UpTo(8)] = field(repr=False)


@dataclass(slots=True)
class Greeting:
    """A `Hello` that is under way."""

    hello: Hello
    ticket: Ticket
    until: float


@dataclass(slots=True)
class Fruitless:
    """Attempts to bring a client along that led to nothing.

    Attributes:
        givers: whose copies were asked for.
        attempts: how many.
        pause: rounds until the next one.
    """

    givers: frozenset[ClientId]
    attempts: int = 0
    pause: int = 0


class Coordinator:
    """One study's server.

    Args:
        carrier: the engine's transport.
        sums: the protocol for each purpose.
        study: 1 to 255 bytes that name the training, and are no other's.
        roster: gives the roster's version that holds now; it is asked between rounds.
        terms: what both sides must agree on, as texts.
        patience: how long it waits.
        files: where the state is stored; None: nowhere, and a new coordinator opens a new session.
        clock, monotonic, pause: seconds since 1970; a clock for deadlines; waits so many seconds.

    Attributes:
        reasons: why clients did not answer since the members were asked for, in their sites' words or the
            engine's.
    """

    def __init__(
        self,
        carrier: Carrier,
        *,
        sums: Mapping[Purpose, MachineProtocol],
        study: bytes,
        roster: Callable[[], RosterVersion],
        terms: tuple[str, ...],
        patience: Patience,
        files: SealedFolder | None = None,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        self._carrier, self._sums, self._study, self._roster = carrier, dict(sums), study, roster
        self._terms, self._patience, self._files = terms, patience, files
        self._clock, self._monotonic, self._pause = clock, monotonic, pause
        self._version = roster()
        self._epoch = 0
        self._machines: dict[Purpose, Server] = {}
        self._rounds: dict[Purpose, int] = {}
        self._shown: dict[Purpose, dict[int, bytes]] = {}
        self._copies: dict[ClientId, Copy] = {}
        self._fruitless: dict[ClientId, Fruitless] = {}
        self._moved = b""  # digest of the arrays of the training that a sum was handed out for
        self._nodes: dict[ClientId, Node] = {}
        self._settings: dict[ClientId, bytes] = {}
        self._silent: set[ClientId] = set()
        self._greetings: dict[Node, Greeting] = {}
        self._turned_away: dict[Node, tuple[float, str]] = {}
        self.reasons: dict[ClientId, str] = {}
        if not self._restore():
            self._open()

    # Sessions

    @property
    def version(self) -> RosterVersion:
        """The version of the roster that the open session is over."""
        return self._version

    @property
    def session(self) -> bytes:
        """The id of the open session, 32 bytes."""
        return session_id(self._study, self._version, self._epoch)

    @property
    def _place(self) -> Place:
        return Place(self._study, self._version.version, self._version.digest, self._epoch)

    def renew(self) -> None:
        """Opens a new session over the same roster: new keys, a new entry in each site's ledger."""
        self._leave(self._version)
        self._open()

    def _leave(self, version: RosterVersion) -> None:
        """Hands out what waits in the open session, to those who stay under `version`."""
        for purpose in self._machines:
            if self._sums[purpose].learns is Learner.CLIENTS:
                self.deliver(purpose, to=version.roster.members)

    def _open(self) -> None:
        self._epoch = max(int(self._clock() * 1000), self._epoch + 1)
        # Rounds go on counting: schedules of the clients' optimisers read their numbers.
        self._machines, self._shown, self._copies, self._fruitless = {}, {}, {}, {}
        self._nodes, self._settings, self._silent = {}, {}, set()
        self._greetings, self._turned_away = {}, {}
        _LOG.info(
            "session %s opens over version %d of the roster (%s), %d members",
            self.session.hex()[:8], self._version.version, self._version.fingerprint,
            len(self._version.roster),
        )  # fmt: skip

    def _look_at_the_roster(self) -> None:
        """Between rounds: another version of the roster closes the session and opens one over itself."""
        version = self._roster()
        if version.digest == self._version.digest:
            return
        if version.version <= self._version.version:
            raise ParameterError(
                f"the roster is now version {version.version} ({version.fingerprint}); the open session is "
                f"over version {self._version.version} ({self._version.fingerprint}), and versions go up"
            )
        self._leave(version)
        self._version = version
        self._open()

    def _machine(self, purpose: Purpose) -> Server:
        if purpose not in self._machines:
            self._machines[purpose] = self._sums[purpose].server(
                roster=self._version.roster, session=purpose_session(self.session, purpose)
            )
        return self._machines[purpose]

    # The state

    def _restore(self) -> bool:
        data = None if self._files is None else self._files.read(_FILE)
        if data is None or self._files is None:
            return False
        saved = decode(Saved, data)
        self._epoch, self._moved = saved.epoch, saved.moved
        self._rounds = {Purpose(each): number for each, number in saved.rounds.items()}
        if saved.roster != self._version.digest:
            return False
        self._shown = {Purpose(each): shown for each, shown in saved.shown.items()}
        for each, blob in saved.machines.items():
            if Purpose(each) not in self._sums:  # it was summed before, and is not any more
                continue
            machine = self._sums[Purpose(each)].restore_server(blob, key=self._files.key)
            # Whatever was asked in a round that was open, its answers went elsewhere: nobody answered.
            with suppress(RoundAborted, ParameterError):
                while machine.advance():
                    continue
            self._machines[Purpose(each)] = machine
        _LOG.info("session %s goes on", self.session.hex()[:8])
        return True

    def _store(self) -> None:
        if self._files is None:
            return
        saved = Saved(
            epoch=self._epoch,
            roster=self._version.digest,
            moved=self._moved,
            rounds={each.value: number for each, number in self._rounds.items()},
            shown={each.value: shown for each, shown in self._shown.items()},
            machines={
                each.value: machine.export(key=self._files.key) for each, machine in self._machines.items()
            },
        )
        self._files.write(_FILE, encode(saved))

    def pause(self) -> None:
        """Waits as long as between two looks."""
        self._pause(self._patience.last_look)

    # Members

    def members(self) -> dict[Node, ClientId]:
        """The nodes that are there and proved to be members of the roster; new ones are greeted first.

        It waits for nodes that were not met before, as long as `patience.hello` says; for nobody else.
        """
        self.reasons = {}
        self._look_at_the_roster()
        there = dict.fromkeys(
            self._carrier.nodes()
        )  # in order: of two nodes with one identity the first counts
        self._greet(there)
        deadline, look = self._monotonic() + self._patience.hello, self._patience.first_look
        while True:
            self._hear()
            now = self._monotonic()
            waiting = [
                node
                for node, each in self._greetings.items()
                if now < min(each.until, deadline) and node not in self._turned_away
            ]
            if not waiting:
                break
            self._pause(look)
            look = min(_SLOWER * look, self._patience.last_look)
        return {node: client for client, node in self._nodes.items() if node in there}

    def _greet(self, there: Collection[Node]) -> None:
        now = self._monotonic()
        for node in [
            each for each in self._greetings if each not in there or self._greetings[each].until <= now
        ]:
            if node in there and node not in self._turned_away:
                self._turn_away(node, "it did not answer the greeting")
            del self._greetings[node]
        for node in [
            each for each, (until, _) in self._turned_away.items() if each not in there and until <= now
        ]:
            del self._turned_away[node]  # a stranger may come under a new name each time
        met = {*self._nodes.values(), *self._greetings}
        new = [node for node in there if node not in met and self._turned_away.get(node, (0.0, ""))[0] <= now]
        if not new:
            return
        hellos = {node: Hello(self._place, node, os.urandom(16), self._terms) for node in new}
        seconds = self._patience.hello
        tickets = self._carrier.push(
            {node: Parcel(encode_head(hello)) for node, hello in hellos.items()}, seconds=seconds
        )
        for node, ticket in tickets.items():
            self._greetings[node] = Greeting(hellos[node], ticket, now + seconds)

    def _hear(self) -> None:
        """Takes the answers to greetings that are there."""
        if not self._greetings:
            return
        by_ticket = {each.ticket: node for node, each in self._greetings.items()}
        for ticket, answer in self._carrier.pull(list(by_ticket)).items():
            node = by_ticket[ticket]
            greeting = self._greetings.pop(node)
            try:
                self._meet(node, greeting.hello, answer)
            except (DecodeError, VerificationError) as error:
                self._turn_away(node, str(error))

    def _meet(self, node: Node, hello: Hello, answer: Parcel | Undelivered) -> None:
        if isinstance(answer, Undelivered):
            raise VerificationError(f"no answer to the greeting: {answer.reason}")
        head = decode_head(answer.head)
        if isinstance(head, Refused):
            raise VerificationError(head.reason)
        if not isinstance(head, Welcome):
            raise DecodeError("it answers a greeting with something else")
        self._version.roster.verify(
            head.client,
            head.signature,
            welcome_statement(hello, head.client, head.settings, head.copy),
            label=labels.MEMBER_HELLO,
        )
        holder = self._nodes.get(head.client)
        rival = holder is not None and holder != node and holder in self._carrier.nodes()
        if rival and head.client not in self._silent:
            raise VerificationError(
                f"it proves to be {head.client!r}, and so does another node that is there and answers: one "
                "site, one node"
            )
        self._nodes[head.client], self._settings[head.client] = node, head.settings
        self._copies[head.client] = head.copy
        self._silent.discard(head.client)
        self._turned_away.pop(node, None)

    def _turn_away(self, node: Node, reason: str) -> None:
        before = self._turned_away.get(node)
        self._turned_away[node] = self._monotonic() + self._patience.again, reason
        if before is None or before[1] != reason:
            _LOG.warning("node %s takes no part: %s", int.from_bytes(node, "big"), reason)

    def settings(self, cohort: Collection[ClientId]) -> bytes:
        """The digest of the run's settings as most of a cohort have them.

        A client that has others will refuse the round: what is bound is bound at each client.
        """
        found = [self._settings[client] for client in cohort]
        return max(sorted(set(found)), key=found.count)

    # Sums

    def sum(
        self,
        purpose: Purpose,
        cohort: Sequence[ClientId],
        *,
        length: int,
        model: bytes,
        withheld: Mapping[str, bytes],
        seconds: float,
        began: bytes = b"",
    ) -> Outcome:
        """One round of the purpose's protocol.

        Args:
            purpose: what the sum is for.
            cohort: members that `members` named.
            length: values in each update.
            model: the digest that the round binds.
            withheld: digests of array records that do not travel with it.
            seconds: for the whole round.
            began: digest of the arrays that the training began from, where clients learn the sum.

        Raises:
            ParameterError: the round can never work; nothing was sent.
            RoundAborted: too few clients were left.
        """
        machine = self._machine(purpose)
        number = self._rounds.get(purpose, 0)
        self._rounds[purpose] = number + 1
        shown = self._shown.setdefault(purpose, {})
        shown[number] = model
        for old in sorted(shown)[:-KEPT_ROUNDS]:
            del shown[old]
        self.reasons = {}
        end = self._monotonic() + seconds

        def exchange(outbox: Mapping[ClientId, bytes]) -> Iterator[tuple[ClientId, Buffer]]:
            self._store()
            return self._exchange(purpose, outbox, frozenset(cohort), withheld, end=end)

        try:
            outcome = run_round(machine, Round(number, tuple(cohort), length, model), exchange)
            if purpose is Purpose.TRAIN and outcome.result is not None:
                self._moved = began
            return outcome
        finally:
            self._store()

    def _exchange(
        self,
        purpose: Purpose,
        outbox: Mapping[ClientId, bytes],
        awaited: frozenset[ClientId],
        withheld: Mapping[str, bytes],
        *,
        end: float,
    ) -> Iterator[tuple[ClientId, Buffer]]:
        """Hands the outbox out and yields the answers, until all who are awaited answered or time is up."""
        collecting, parcels, clients = self._machine(purpose).collecting, {}, {}
        learns = self._sums[purpose].learns is Learner.CLIENTS
        for client, body in outbox.items():
            node = self._nodes.get(client)
            if node is None:
                self.reasons.setdefault(client, "its node is not there")
                continue
            shows = collecting and client in awaited
            head = Step(
                self._place,
                purpose.value,
                dict(withheld) if shows else {},
                self._shown.get(purpose, {}) if learns else {},
            )
            parcels[node], clients[node] = Parcel(encode_head(head), body, shows=shows), client
        until = self._until(purpose, collecting=collecting, end=end)
        yield from self._carried(parcels, clients, awaited, until)

    def _carried(
        self,
        parcels: Mapping[Node, Parcel],
        clients: Mapping[Node, ClientId],
        awaited: frozenset[ClientId],
        until: float,
    ) -> Iterator[tuple[ClientId, Buffer]]:
        """Parcels out, answers in, until all who are awaited answered or time is up."""
        tickets = self._carrier.push(parcels, seconds=until - self._monotonic())
        for node in parcels.keys() - tickets.keys():
            self._lose(clients[node], "its node could not be reached")
        pending = {ticket: clients[node] for node, ticket in tickets.items()}
        look = self._patience.first_look
        while pending:
            answers = self._carrier.pull(list(pending))
            for ticket, answer in answers.items():
                client = pending.pop(ticket)
                if (reply := self._opened(client, answer)) is not None:
                    yield client, reply
            if awaited.isdisjoint(pending.values()) or self._monotonic() >= until:
                break
            # Answers come in bunches: after one, the next may be near.
            look = self._patience.first_look if answers else min(_SLOWER * look, self._patience.last_look)
            self._pause(look)
        for client in awaited & set(pending.values()):
            self._lose(client, "no answer in time")

    def _until(self, purpose: Purpose, *, collecting: bool, end: float) -> float:
        """When this exchange closes: training has what the exchanges behind it will not need."""
        now, each = self._monotonic(), self._patience.exchange
        if not collecting:
            return min(now + each, end)
        suite = self._sums[purpose].suite
        return max(end - each * (len(suite.exchanges) - suite.collecting - 1), now + min(each, end - now))

    def _opened(self, client: ClientId, answer: Parcel | Undelivered) -> Buffer | None:
        """The body of an answer; None if it has none, with the reason written down."""
        if isinstance(answer, Undelivered):
            self._lose(client, answer.reason)
            return None
        try:
            head = decode_head(answer.head)
        except DecodeError as error:
            self.reasons[client] = str(error)
            return None
        if isinstance(head, Answer):
            self._copies[client] = head.copy
        if isinstance(head, Answer) and not head.failure:
            self._silent.discard(client)
            return answer.body
        if isinstance(head, Answer):
            self.reasons[client] = head.failure
        elif isinstance(head, Refused):  # it is greeted anew before the next round, and says so again or not
            self.reasons[client] = head.reason
            self._nodes.pop(client, None)
        else:
            self.reasons[client] = "it answers a step with something else"
        return None

    # Where clients learn the sum

    def deliver(self, purpose: Purpose, *, to: Collection[ClientId] | None = None) -> None:
        """Hands out the results that wait for the next round, now; to these members, or to all."""
        machine = self._machine(purpose)
        waiting = machine.deliver()
        if outbox := {client: body for client, body in waiting.items() if to is None or client in to}:
            end = self._monotonic() + self._patience.exchange
            for sender, reply in self._exchange(purpose, outbox, frozenset(outbox), {}, end=end):
                with suppress(PeerViolation):  # the server has noted the culprit
                    machine.receive(sender, reply)
            self._store()

    def withholds(self, cohort: Collection[ClientId], began: bytes) -> bool:
        """Whether all of a cohort have a model of their own that began from the arrays of this digest."""
        return all(self._copies.get(client, NO_COPY).began == began for client in cohort)

    def bring_along(self, cohort: Collection[ClientId], *, began: bytes) -> dict[ClientId, str]:
        """Lets peers hand their copy to those of a cohort who were left behind; who is behind still, and why.

        While no sum has moved anybody, whoever has no copy begins from the server's arrays. Afterwards nobody
        does, even if nobody is there who has one: another training would begin under the same name. A server
        that made no sum itself goes by what members say of their copies, if more say so than may be corrupt:
        a single liar would keep all the others from beginning. A copy counts only if enough members vouch for
        it, see `fl_integration.site.handover`; this server cannot read it.
        """
        self.reasons = {}
        moved = self._moved == began or self._say_moved(began)
        copies = {client: self._copies.get(client, NO_COPY) for client in cohort}
        behind = [
            client
            for client, copy in copies.items()
            if copy.left_behind or (moved and not copy.in_step(began))
        ]
        for client in copies.keys() - behind:
            self._fruitless.pop(client, None)
        if not behind:
            return {}
        there = set(self._carrier.nodes())
        in_step = [
            client
            for client in self._version.roster.order(self._nodes)
            if self._copies.get(client, NO_COPY).in_step(began) and self._nodes[client] in there
        ]
        answering = [client for client in in_step if client not in self._silent]
        # Whoever did not answer last may be waited for in vain, but may have been away for that once.
        givers = answering if len(answering) > self._corrupt else in_step
        asked = [client for client in behind if givers and self._has_a_turn(client, givers)]
        for client, request in self._errands(Errand.ASK, dict.fromkeys(asked, b"")).items():
            self._hand_over(client, request, givers, began=began)
        return {
            client: f"it has no copy of the model as it is now, and no peer brought it along"
            f"{': ' if client in self.reasons else ''}{self.reasons.get(client, '')}"
            for client in behind
            if not self._copies.get(client, NO_COPY).in_step(began)
        }

    def _has_a_turn(self, client: ClientId, givers: Collection[ClientId]) -> bool:
        """Whether a client that is behind is brought along in this round.

        A liar may be left behind for ever, and each attempt costs all the others' time. So what led to
        nothing from the same givers is tried again at once, then behind a round, then behind two, and so on.
        """
        tried = self._fruitless.get(client)
        if tried is None or tried.givers != frozenset(givers):
            tried = self._fruitless[client] = Fruitless(frozenset(givers))
        if tried.pause:
            tried.pause -= 1
            return False
        tried.pause = min(tried.attempts, MOST_PAUSE)
        tried.attempts += 1
        return True

    def _say_moved(self, began: bytes) -> bool:
        """Whether enough members say that sums moved the training that began from these arrays."""
        saying = [
            client
            for client, copy in self._copies.items()
            if copy.began == began and (copy.moved or copy.left_behind)
        ]
        if saying and len(saying) <= self._corrupt:
            _LOG.warning(
                "%s alone say that their models were moved already; %d may be corrupt, so the others begin",
                ", ".join(sorted(saying)), self._corrupt,
            )  # fmt: skip
        return len(saying) > self._corrupt

    def _hand_over(
        self,
        client: ClientId,
        request: bytes,
        givers: Sequence[ClientId],
        *,
        began: bytes,
    ) -> None:
        """Lets one giver after the other answer a request, until the client takes a copy.

        One more than may be corrupt are tried: a liar that comes first would keep the client behind for ever.
        """
        vouchers = {
            name: voucher
            for name, voucher in self._errands(Errand.VOUCH, dict.fromkeys(givers, request)).items()
            if len(voucher) <= MAXIMUM_VOUCHER  # a longer one would only be in the way of the others'
        }
        left = 1 + self._corrupt
        for giver in (each for each in givers if each in vouchers):
            given = self._errands(Errand.GIVE, {giver: request})
            if giver not in given:
                continue
            others = [memoryview(voucher) for name, voucher in vouchers.items() if name != giver]
            brought = encode(Brought(memoryview(given[giver]), tuple(others)))
            self._errands(Errand.TAKE, {client: brought})
            left -= 1
            if self._copies.get(client, NO_COPY).in_step(began) or not left:
                return

    @property
    def _corrupt(self) -> int:
        """How many members may be corrupt."""
        share = max(protocol.suite.requirements.corrupt_fraction for protocol in self._sums.values())
        return ceil_fraction(share, len(self._version.roster))

    def _errands(self, errand: Errand, bodies: Mapping[ClientId, Buffer]) -> dict[ClientId, bytes]:
        """What clients answer to an errand, each with its own body."""
        head = encode_head(Handover(self._place, errand.value))
        shows = errand is Errand.TAKE
        clients = {self._nodes[client]: client for client in bodies if client in self._nodes}
        parcels = {node: Parcel(head, bodies[client], shows=shows) for node, client in clients.items()}
        until = self._monotonic() + self._patience.exchange
        answers = self._carried(parcels, clients, frozenset(clients.values()), until)
        return {client: bytes(body) for client, body in answers}

    def _lose(self, client: ClientId, reason: str) -> None:
        self.reasons[client] = reason
        self._silent.add(client)
