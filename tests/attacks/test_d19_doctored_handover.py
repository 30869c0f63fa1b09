"""D19: a corrupt member brings a client along, with a model of its own making.

The client missed more sums than the server keeps, and needs a peer's copy. Peer and server are one: the copy
has the base that all others have, so that the client's next update is summed with theirs, and values that
they have not. What the client then sends is the answer to a model that the attacker wrote (A9), within a sum
that nobody else finds strange.

The weakened copies accept what any one member signed, and count vouchers instead of members. On ours as many
members as may be corrupt and one more must hold the very bytes. What remains, and is said: if the server
parted the honest clients, each part vouches for its own copy, and the server chooses between the two.
"""

from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fl_integration import FedAdam
from fl_integration.loop.own_copy import OwnCopy
from fl_integration.loop.parties import FederatedClient, Surroundings
from fl_integration.loop.preparing import prepare, site_of
from fl_integration.loop.serving import FederatedServer
from fl_integration.site import handover
from fl_integration.site.handover import Asked, answer, ask, vouch
from fl_integration.site.relayed import Asker, Kind
from protocols import Identity, Learner, PeerViolation, Roster
from protocols.machine.client import KEPT_RESULTS
from secagg.errors import VerificationError
from tests.fl_integration.loop.stage import LOCAL, NAMES, linear, protocol, sites

VICTIM, LIAR = "d", "c"
ELSEWHERE = 7.0
"""The attacker's model: this, everywhere."""

Accept = Callable[..., bytes]


def trusting(pending: Any, *, answer: bytes, roster: Roster, session: bytes, **_: Any) -> bytes:
    """The weakened copy: a member signed it, and that will do."""
    return Asker(pending, roster=roster, session=session).opened(Kind.ANSWER, answer).content


def counting(pending: Any, *, answer: bytes, vouchers: Collection[bytes], needed: int, **place: Any) -> bytes:
    """The weakened copy: it counts what verifies and agrees, and not who said it."""
    asker = Asker(pending, **place)
    given = asker.opened(Kind.ANSWER, answer)
    held = handover._digest(given.content)
    if 1 + sum(asker.opened(Kind.VOUCHER, each).content == held for each in vouchers) < needed:
        raise VerificationError("too few")
    return given.content


class Session:
    """A training in which the victim was away for longer than the server keeps sums."""

    def __init__(self) -> None:
        summing = protocol("ckks")
        surface: Any = summing.suite.surface
        start = prepare(
            linear(), sites(), local=LOCAL, rounds=9, seed=7, optimiser=FedAdam(), surface=surface
        )
        self.who = {name: Identity.generate(name) for name in NAMES}
        roster = Roster.of(*self.who.values())
        self.place: dict[str, Any] = {"roster": roster, "session": bytes(16)}
        self.needed = summing.plan(len(NAMES)).corrupt + 1
        around = Surroundings(learns=Learner.CLIENTS, surface=surface)
        self.clients = {
            name: FederatedClient(
                summing.client(identity=each, **self.place),
                site=site_of(name, start),
                start=start.start,
                around=around,
            )
            for name, each in self.who.items()
        }
        self.server = FederatedServer.blind(
            summing.server(**self.place), length=start.layout.length, base=self.copy(VICTIM).initial
        )
        self.number = 0
        self.round()
        for _ in range(KEPT_RESULTS + 1):
            self.round(lost=VICTIM)
        assert self.round() == set(NAMES) - {VICTIM}
        assert self.copy(VICTIM).stranded

    def copy(self, name: str) -> OwnCopy:
        own = self.clients[name].own_copy
        assert own is not None
        return own

    def round(self, *, lost: str = "") -> frozenset[str]:
        def exchange(outbox: Any) -> Iterator[tuple[str, bytes]]:
            for name, request in outbox.items():
                try:
                    if name not in lost:
                        yield name, self.clients[name].answer(request)
                except PeerViolation:
                    continue

        self.number += 1
        return self.server.round(self.number, NAMES, exchange).contributors

    def ask(self) -> Asked:
        return ask(identity=self.who[VICTIM], **self.place)

    def tells(self, act: Callable[..., bytes], request: bytes, name: str, copy: bytes | None = None) -> bytes:
        own = self.copy(name)
        told = own.for_peer() if copy is None else copy
        return act(request, identity=self.who[name], **self.place, base=own.base, copy=told)

    def doctored(self) -> bytes:
        """The liar's true copy, but for the values of the model."""
        data = self.copy(LIAR).for_peer()
        values = self.copy(LIAR).model.values
        assert data.endswith(values.tobytes())
        return data[: -values.nbytes] + np.full_like(values, ELSEWHERE).tobytes()

    def take_over(self, accept: Accept, mine: Asked, given: bytes, *vouchers: bytes) -> None:
        found = accept(mine.pending, **self.place, answer=given, vouchers=vouchers, needed=self.needed)
        own = self.copy(VICTIM)
        own.take_over(OwnCopy.from_bytes(found, layout=own.model.layout))


@pytest.fixture(scope="module")
def session() -> Session:
    return Session()


@pytest.mark.parametrize("weakened", [trusting, counting])
def test_on_the_copies_an_update_answers_the_attackers_model(session: Session, weakened: Accept) -> None:
    mine = session.ask()
    given, again = (session.tells(act, mine.request, LIAR, session.doctored()) for act in (answer, vouch))
    session.take_over(weakened, mine, given, again)
    assert session.copy(VICTIM).base == session.copy("a").base
    assert (session.copy(VICTIM).model.values == ELSEWHERE).all()
    assert session.round() == set(NAMES)  # and it is summed


def test_on_ours_it_is_refused_and_its_giver_named(session: Session) -> None:
    before = session.copy(VICTIM).to_bytes()
    mine = session.ask()
    given, again = (session.tells(act, mine.request, LIAR, session.doctored()) for act in (answer, vouch))
    others = [session.tells(vouch, mine.request, name) for name in "ab"]
    for vouchers in ([], [again], [again] * len(NAMES), others[:1], [again, others[0]]):
        with pytest.raises(VerificationError, match="1 of 2 members"):
            session.take_over(handover.accept, mine, given, *vouchers)
    with pytest.raises(PeerViolation, match="after the same sums") as caught:
        session.take_over(handover.accept, mine, given, again, *others)
    assert caught.value.culprit == LIAR
    assert session.copy(VICTIM).to_bytes() == before


def test_an_honest_handover_brings_it_back_in_step(session: Session) -> None:
    session.copy(VICTIM).stranded = True
    mine = session.ask()
    given, lie = session.tells(answer, mine.request, "a"), session.tells(vouch, mine.request, LIAR, b"a lie")
    session.take_over(handover.accept, mine, given, lie, session.tells(vouch, mine.request, "b"))
    assert session.copy(VICTIM).digest() == session.copy("a").digest()
    assert session.round() == set(NAMES)
    assert len({session.copy(name).digest() for name in NAMES}) == 1


def test_a_server_that_parted_the_clients_chooses_whose_copy_and_that_is_said(session: Session) -> None:
    """It left two of them a sum behind, who vouch for what they have."""
    behind = session.copy("a").for_peer()
    session.round()
    mine = session.ask()
    given = session.tells(answer, mine.request, "a", behind)
    voucher = session.tells(vouch, mine.request, "b", behind)
    session.take_over(handover.accept, mine, given, voucher)
    assert session.copy(VICTIM).opened == session.copy(LIAR).opened - 1
    page = (Path(__file__).parents[2] / "protocols" / "THREAT_MODEL.md").read_text(encoding="utf-8")
    row = next(line for line in page.splitlines() if line.startswith("| D19 "))
    assert Path(__file__).stem in row
    assert "**succeeds**" in row
