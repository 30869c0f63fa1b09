"""Who is behind which node in one session, and what they answer.

Every node that was not met is greeted (`Hello`); those that prove to be members of the roster are asked from
then on. A node that is no member, that has another protocol or another roster, or that has no secagg at all
is left alone, with the reason in the log, and greeted again after a while. Of two nodes that prove one
identity the first keeps it while it is there and answers.
"""

import logging
import os
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from fl_integration.embedding.carrier import Carrier, Node, Patience, Ticket, Undelivered, Wait
from fl_integration.embedding.parcels import (
    NO_COPY,
    Answer,
    Copy,
    Hello,
    Parcel,
    Place,
    Refused,
    Welcome,
    decode_head,
    encode_head,
    welcome_statement,
)
from protocols.identity import ClientId, Roster
from secagg import labels
from secagg.errors import DecodeError, VerificationError
from secagg.wire import Buffer

__all__ = ["Attendance"]

_LOG: Final = logging.getLogger("secagg")


@dataclass(slots=True)
class Greeting:
    """A `Hello` that is under way."""

    hello: Hello
    ticket: Ticket
    until: float


class Attendance:
    """The members of one session's roster, as far as they are there.

    Args:
        carrier: the engine's transport.
        place: which session.
        roster: of that session.
        terms: what both sides must agree on, as texts.
        patience: how long it waits.
        monotonic, pause: a clock for deadlines; waits so many seconds.
        member_at: where an engine names nodes as the roster names members: who alone may prove to be there.

    Attributes:
        nodes: the node behind each member that was met, by client.
        silent: members that did not answer when they were asked last.
        reasons: why members did not answer, in their sites' words or the engine's, until somebody clears it.
        place: which session.
    """

    def __init__(
        self,
        carrier: Carrier,
        *,
        place: Place,
        roster: Roster,
        terms: tuple[str, ...],
        patience: Patience,
        monotonic: Callable[[], float],
        pause: Callable[[float], None],
        member_at: Callable[[Node], ClientId] | None = None,
    ) -> None:
        self._member_at = member_at
        self._carrier, self.place, self._roster, self._terms = carrier, place, roster, terms
        self._patience, self._monotonic, self._pause = patience, monotonic, pause
        self.nodes: dict[ClientId, Node] = {}
        self.silent: set[ClientId] = set()
        self.reasons: dict[ClientId, str] = {}
        self._copies: dict[ClientId, Copy] = {}
        self._settings: dict[ClientId, bytes] = {}
        self._greetings: dict[Node, Greeting] = {}
        self._turned_away: dict[Node, tuple[float, str]] = {}

    def members(self) -> dict[Node, ClientId]:
        """The nodes that are there and proved to be members; new ones are greeted first.

        It waits for nodes that were not met before, as long as `patience.hello` says; for nobody else.
        """
        there = dict.fromkeys(self._carrier.nodes())  # in order: of two with one identity the first counts
        self._greet(there)
        deadline, wait = self._monotonic() + self._patience.hello, self._wait()
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
            wait.again(found=False)
        return {node: client for client, node in self.nodes.items() if node in there}

    def present(self) -> frozenset[ClientId]:
        """The members that were met, and whose nodes are there now."""
        there = set(self._carrier.nodes())
        return frozenset(client for client, node in self.nodes.items() if node in there)

    def copy_of(self, client: ClientId) -> Copy:
        """How a member's own copy of the model stands, as it said last."""
        return self._copies.get(client, NO_COPY)

    @property
    def copies(self) -> Mapping[ClientId, Copy]:
        """How the copies of all members stand that said so."""
        return self._copies

    def settings(self, cohort: Collection[ClientId]) -> bytes:
        """The digest of the run's settings as most of a cohort have them.

        A client that has others will refuse the round: what is bound is bound at each client.
        """
        found = [self._settings[client] for client in cohort]
        return max(sorted(set(found)), key=found.count)

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
        met = {*self.nodes.values(), *self._greetings}
        new = [node for node in there if node not in met and self._turned_away.get(node, (0.0, ""))[0] <= now]
        if not new:
            return
        hellos = {node: Hello(self.place, node, os.urandom(16), self._terms) for node in new}
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
        self._roster.verify(
            head.client,
            head.signature,
            welcome_statement(hello, head.client, head.settings, head.copy),
            label=labels.MEMBER_HELLO,
        )
        if self._member_at is not None and head.client != self._member_at(node):
            raise VerificationError(
                f"it proves to be {head.client!r}; at {self._named(node)} only the member of that name counts"
            )
        holder = self.nodes.get(head.client)
        rival = holder is not None and holder != node and holder in self._carrier.nodes()
        if rival and head.client not in self.silent:
            raise VerificationError(
                f"it proves to be {head.client!r}, and so does another node that is there and answers: one "
                "site, one node"
            )
        self.nodes[head.client], self._settings[head.client] = node, head.settings
        self._copies[head.client] = head.copy
        self.silent.discard(head.client)
        self._turned_away.pop(node, None)

    def _turn_away(self, node: Node, reason: str) -> None:
        before = self._turned_away.get(node)
        self._turned_away[node] = self._monotonic() + self._patience.again, reason
        if before is None or before[1] != reason:
            _LOG.warning("node %s takes no part: %s", self._named(node), reason)

    def _named(self, node: Node) -> str:
        """A node as a log names it."""
        return str(int.from_bytes(node, "big")) if self._member_at is None else repr(self._member_at(node))

    def ask(
        self, parcels: Mapping[ClientId, Parcel], awaited: Collection[ClientId], *, seconds: float
    ) -> Iterator[tuple[ClientId, Buffer]]:
        """Parcels out, the bodies of answers in, until all who are awaited answered or time is up.

        Who did not answer, and why, is in `reasons`.
        """
        until = self._monotonic() + seconds
        clients = {self.nodes[client]: client for client in parcels if client in self.nodes}
        for client in parcels.keys() - self.nodes.keys():
            self.reasons.setdefault(client, "its node is not there")
        tickets = self._carrier.push(
            {node: parcels[client] for node, client in clients.items()}, seconds=seconds
        )
        for node in clients.keys() - tickets.keys():
            self.lose(clients[node], "its node could not be reached")
        pending = {ticket: clients[node] for node, ticket in tickets.items()}
        wait = self._wait()
        while pending:
            answers = self._carrier.pull(list(pending))
            for ticket, answer in answers.items():
                client = pending.pop(ticket)
                if (reply := self._opened(client, answer)) is not None:
                    yield client, reply
            if not set(awaited).intersection(pending.values()) or self._monotonic() >= until:
                break
            wait.again(found=bool(answers))
        for client in set(awaited).intersection(pending.values()):
            self.lose(client, "no answer in time")

    def _opened(self, client: ClientId, answer: Parcel | Undelivered) -> Buffer | None:
        """The body of an answer; None if it has none, with the reason written down."""
        if isinstance(answer, Undelivered):
            self.lose(client, answer.reason)
            return None
        try:
            head = decode_head(answer.head)
        except DecodeError as error:
            self.reasons[client] = str(error)
            return None
        if isinstance(head, Answer):
            self._copies[client] = head.copy
        if isinstance(head, Answer) and not head.failure:
            self.silent.discard(client)
            return answer.body
        if isinstance(head, Answer):
            self.reasons[client] = head.failure
        elif isinstance(head, Refused):  # it is greeted anew before the next round, and says so again or not
            self.reasons[client] = head.reason
            self.nodes.pop(client, None)
        else:
            self.reasons[client] = "it answers a step with something else"
        return None

    def lose(self, client: ClientId, reason: str) -> None:
        """A member did not answer, and why."""
        self.reasons[client] = reason
        self.silent.add(client)

    def _wait(self) -> Wait:
        return Wait(self._patience, self._monotonic, self._pause)
