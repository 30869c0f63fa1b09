"""Bringing along who was left behind, where the clients learn the sum and the server has no model to send.

Peers hand their copy over, sealed past this server, and vouch for it: see `fl_integration.site.handover`.
"""

import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from fl_integration.embedding.attendance import Attendance
from fl_integration.embedding.parcels import Brought, Errand, Handover, Parcel, encode_head
from fl_integration.site.handover import MAXIMUM_VOUCHER
from protocols.identity import ClientId, Roster
from protocols.messages.schema import encode
from secagg.wire import Buffer

__all__ = ["Bringing"]

_LOG: Final = logging.getLogger("secagg")
MOST_PAUSE: Final = 8
"""Rounds between two attempts to bring one client along, at most."""


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


class Bringing:
    """Who is behind in one session, and what was tried.

    Args:
        attendance: of the session.
        roster: of the session.
        corrupt: how many of its members may be corrupt.
        seconds: for each exchange.
    """

    def __init__(self, attendance: Attendance, *, roster: Roster, corrupt: int, seconds: float) -> None:
        self._attendance, self._roster, self._corrupt, self._seconds = attendance, roster, corrupt, seconds
        self._fruitless: dict[ClientId, Fruitless] = {}

    def all_hold(self, cohort: Collection[ClientId], began: bytes) -> bool:
        """Whether all of a cohort have a model of their own that began from the arrays of this digest."""
        return all(self._attendance.copy_of(client).began == began for client in cohort)

    def along(self, cohort: Collection[ClientId], *, began: bytes, moved: bool) -> dict[ClientId, str]:
        """Lets peers hand their copy to those of a cohort who were left behind; who is behind still, and why.

        While no sum has moved anybody, whoever has no copy begins from the server's arrays. Afterwards nobody
        does, even if nobody is there who has one: another training would begin under the same name. A server
        that made no sum itself goes by what members say of their copies, if more say so than may be corrupt:
        a single liar would keep all the others from beginning. A copy counts only if enough members vouch for
        it, see `fl_integration.site.handover`; this server cannot read it.

        Args:
            cohort: whom the next round will ask.
            began: digest of the arrays that the training began from.
            moved: this server handed out a sum of it.
        """
        attendance = self._attendance
        moved = moved or self._say_moved(began)
        copies = {client: attendance.copy_of(client) for client in cohort}
        behind = [
            client
            for client, copy in copies.items()
            if copy.left_behind or (moved and not copy.in_step(began))
        ]
        for client in copies.keys() - behind:
            self._fruitless.pop(client, None)
        if not behind:
            return {}
        in_step = [
            client
            for client in self._roster.order(attendance.present())
            if attendance.copy_of(client).in_step(began)
        ]
        answering = [client for client in in_step if client not in attendance.silent]
        # Whoever did not answer last may be waited for in vain, but may have been away for that once.
        givers = answering if len(answering) > self._corrupt else in_step
        asked = [client for client in behind if givers and self._has_a_turn(client, givers)]
        for client, request in self._errands(Errand.ASK, dict.fromkeys(asked, b"")).items():
            self._hand_over(client, request, givers, began=began)
        return {
            client: f"it has no copy of the model as it is now, and no peer brought it along"
            f"{': ' if client in attendance.reasons else ''}{attendance.reasons.get(client, '')}"
            for client in behind
            if not self._attendance.copy_of(client).in_step(began)
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
            for client, copy in self._attendance.copies.items()
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
            if self._attendance.copy_of(client).in_step(began) or not left:
                return

    def _errands(self, errand: Errand, bodies: Mapping[ClientId, Buffer]) -> dict[ClientId, bytes]:
        """What clients answer to an errand, each with its own body."""
        head = encode_head(Handover(self._attendance.place, errand.value))
        shows = errand is Errand.TAKE
        parcels = {client: Parcel(head, body, shows=shows) for client, body in bodies.items()}
        answers = self._attendance.ask(parcels, frozenset(parcels), seconds=self._seconds)
        return {client: bytes(body) for client, body in answers}
