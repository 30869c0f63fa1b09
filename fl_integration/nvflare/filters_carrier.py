"""Letters over NVFlare's tasks and messages: what the server's half asks of a transport.

What a round shows travels in the workflow's own task, and its answer in the task's result. All else (who is
there, keys of the first round, sums that are handed out) goes over NVFlare's messages to the same job
processes, before or behind the task: so a round of the workflow stays one task, set-up included.

Each letter bears a ticket of 16 random bytes that only its addressee is sent. An answer counts under its
ticket alone, whatever name it comes under.
"""

import os
import threading
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Final, TypeAlias

from fl_integration.embedding.carrier import Undelivered
from fl_integration.embedding.parcels import Parcel, Step, decode_head
from fl_integration.nvflare.filters_letters import Letter, Shown
from secagg.errors import RoundAborted, SecAggError

__all__ = ["Post", "Send", "TaskCarrier"]

TICKET_BYTES: Final = 16
MOST_NODE: Final = 64
"""Bytes of a site's name: of a node's, in a greeting."""

Send: TypeAlias = Callable[[str, Letter, float], Letter]
"""Sends a site a letter by message, and gives its answer within so many seconds or raises SecAggError."""


@dataclass(frozen=True, slots=True)
class Post:
    """How the carrier reaches an engine.

    Attributes:
        sites: names those that are there.
        send: sends one letter.
    """

    sites: Callable[[], Collection[str]]
    send: Send


class TaskCarrier:
    """A carrier whose parcels that show a round wait for the workflow's tasks.

    Args:
        post: reaches the sites by message.
    """

    def __init__(self, post: Post) -> None:
        self._post = post
        self._changed = threading.Condition()
        self._tasks: dict[str, Letter] = {}
        self._asked: dict[str, str] = {}
        self._answers: dict[str, Parcel | Undelivered] = {}
        self._shown: Shown | None = None
        self._arrays: bytes | None = None
        self._posted = self._stopped = False

    # What the coordinator asks for

    def nodes(self) -> Collection[bytes]:
        self._check_goes_on()
        return [name for site in self._post.sites() if len(name := site.encode()) <= MOST_NODE]

    def push(self, parcels: Mapping[bytes, Parcel], *, seconds: float) -> Mapping[bytes, str]:
        self._check_goes_on()
        tickets: dict[bytes, str] = {}
        for node, parcel in parcels.items():
            site, ticket = node.decode(), os.urandom(TICKET_BYTES)
            tickets[node] = ticket.hex()
            letter = Letter(parcel, ticket, *((self._shown, self._arrays) if parcel.shows else (None, None)))
            if parcel.shows and isinstance(decode_head(parcel.head), Step):
                with self._changed:
                    self._tasks[site], self._asked[ticket.hex()] = letter, site
            else:
                threading.Thread(
                    target=self._send, args=(site, letter, seconds), name="secagg-post", daemon=True
                ).start()
        with self._changed:
            self._posted = self._posted or bool(self._tasks)
            self._changed.notify_all()
        return tickets

    def pull(self, tickets: Collection[str]) -> Mapping[str, Parcel | Undelivered]:
        self._check_goes_on()
        with self._changed:
            return {ticket: self._answers.pop(ticket) for ticket in tickets if ticket in self._answers}

    def _check_goes_on(self) -> None:
        if self._stopped:
            raise RoundAborted("the run is over")

    def _send(self, site: str, letter: Letter, seconds: float) -> None:
        answer: Parcel | Undelivered
        try:
            answer = self._post.send(site, letter, seconds).parcel
        except SecAggError as error:
            answer = Undelivered(str(error))
        with self._changed:
            self._answers[letter.ticket.hex()] = answer

    # What the workflow's tasks carry

    def forget(self) -> None:
        """Letters of the round before, and what came for them, are no more: before the next one is begun."""
        with self._changed:
            self._posted, self._tasks, self._asked, self._answers = False, {}, {}, {}

    def begin(self, shown: Shown, arrays: bytes) -> None:
        """A round: what it shows."""
        self._shown, self._arrays = shown, arrays

    def withhold(self) -> None:
        """The arrays do not travel in this round."""
        self._arrays = None

    def wait_posted(self, over: Callable[[], bool]) -> bool:
        """Waits until the round has letters for tasks, or is over without; whether it has."""
        with self._changed:
            while not self._posted and not over():
                self._changed.wait(0.05)
            return self._posted

    def letter_for(self, site: str) -> Letter | None:
        """What a site's task holds in this round, as often as it is asked; None: it is left out."""
        with self._changed:
            return self._tasks.get(site)

    def answered(self, letter: Letter) -> bool:
        """Takes the answer to a task; whether a task of this round waited for it."""
        with self._changed:
            if self._asked.pop(ticket := letter.ticket.hex(), None) is None:
                return False
            self._answers[ticket] = letter.parcel
            return True

    def close(self, reason: str) -> None:
        """The workflow waits for no more results."""
        with self._changed:
            self._answers |= {ticket: Undelivered(reason) for ticket in self._asked}
            self._asked = {}

    def stop(self) -> None:
        """The run is over: whoever still waits here for a site is told so by RoundAborted."""
        self._stopped = True
