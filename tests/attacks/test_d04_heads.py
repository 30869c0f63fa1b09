"""D4: heads that nobody else names, and who is shut out by them.

Where clients learn the sum, each names what its update answers, and the server keeps one sum for each head:
one for each client that may lie, and one for all others. A client that was away long enough to answer an old
model takes a place too. So one honest straggler and as many liars as may be, each with a new head every
round, fill all places: on the copy (`without_giving_way`) the honest majority, when it comes last, is refused
and named, and every round is aborted, for good. Ours lets the oldest head that one client alone names give
way. Who named it is left out of this sum, and is not to blame.

The last tests are of one client that saw eight sums fail which nobody else saw fail. Its key may be spent, so
it opens nothing under it any more; and alone it is too few to be given another. On the copy it is shut out
for good. Ours makes another key when it has asked for long.
"""

import hashlib
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import replace
from functools import partial
from itertools import permutations
from typing import Any

import pytest

from protocols import (
    CkksSum,
    LatticeSum,
    NeedUpdate,
    PaillierSum,
    PeerViolation,
    Requirements,
    Round,
    RoundAborted,
)
from protocols.consortium import server as consortium_server
from protocols.consortium.messages import Contribution, Result
from protocols.consortium.server import PATIENCE
from protocols.machine.parameters import MachineProtocol
from protocols.machine.server import ServerMachine
from protocols.messages.schema import decode, encode
from secagg.secret import Secret
from tests.attacks.trained import Says, lying
from tests.attacks.weakened import Stage, updates_of

NAMES = "abcde"
"""Of five, one may be corrupt. The liar is a, and b was away."""
ASKED = Requirements(dropout_fraction=0.0)
PAILLIER = partial(PaillierSum, key_bits=2048)
PROTOCOLS: dict[str, MachineProtocol] = {
    "ckks": CkksSum(max_clients=9, requirements=ASKED),
    "paillier": PAILLIER(max_clients=9, requirements=ASKED),
    "lattice over paillier": LatticeSum(max_clients=9, requirements=ASKED, keys=PAILLIER),
}
HONEST, STALE = hashlib.sha256(b"the model").digest(), hashlib.sha256(b"an older one").digest()
LIMIT = 8
"""Results that a client tries under one key without success."""
KEY = Secret(bytes(32))
ORDERS = tuple("".join(each) for each in permutations(NAMES))


class Heads:
    """Rounds in which a client names a head of its own: a new one in each round, or the old model.

    Attributes:
        accumulators: the most sums that the server kept at once.
    """

    def __init__(self, name: str, names: str = NAMES, *, liars: str = "a", stale: str = "b") -> None:
        self.stage = Stage(PROTOCOLS[name], names)
        self.names, self.liars, self.stale = names, liars, stale
        self.corrupt = PROTOCOLS[name].plan(len(names)).corrupt
        assert len(liars) <= self.corrupt
        self.accumulators = 0

    @property
    def majority(self) -> frozenset[str]:
        return frozenset(self.names).difference(self.liars, self.stale)

    def head(self, client: str) -> bytes:
        if client in self.liars:
            return hashlib.sha256(f"{client} in round {self.stage.number}".encode()).digest()
        return STALE if client in self.stale else HONEST

    def play(self, order: Iterable[str]) -> Any:
        """One round, in which the clients' answers come in this order."""
        stage, place = self.stage, "".join(order).index
        stage.number += 1
        updates = updates_of(self.names, seed=stage.number)
        outbox = stage.server.start(Round(stage.number, tuple(self.names), 24, b""))
        while outbox:
            for client in sorted(outbox, key=place):
                answer = stage.clients[client].receive(outbox[client])
                if isinstance(answer, NeedUpdate):
                    answer = stage.clients[client].contribute(updates[client], head=self.head(client))
                try:
                    stage.server.receive(client, answer)
                except PeerViolation:
                    assert client not in self.majority or self.blames
                self.accumulators = max(self.accumulators, len(getattr(stage.server._state, "groups", ())))
            outbox = stage.server.advance()
        return stage.server.outcome()

    blames = False
    """Whether the server is the copy, which refuses the honest."""


def without_giving_way(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that has no room for one head more than there may be liars, and who brings it is a liar."""

    def full(context: Any, state: Any, sender: str) -> Any:
        if len(state.groups) > consortium_server.corrupt_in(context):
            raise PeerViolation("an update that answers another head than the others", culprit=sender)
        return state

    monkeypatch.setattr(consortium_server, "_with_room", full)
    monkeypatch.setattr(Heads, "blames", True)


def summed(heads: Heads, outcome: Any) -> None:
    """The majority is in the sum, it opens, and nobody is named."""
    assert outcome.contributors == heads.majority
    assert not outcome.culprits
    assert not outcome.record.record.culprits
    assert outcome.dropped.keys() == set(heads.liars + heads.stale)
    assert all("another head" in reason for reason in outcome.dropped.values())
    opened = heads.stage.clients[heads.names[-1]].open(outcome.result)
    assert opened.contributors == heads.majority
    assert heads.accumulators <= heads.corrupt + 1


@pytest.mark.parametrize("name", ["ckks", "paillier"])
def test_on_the_copy_two_heads_are_the_end(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    without_giving_way(monkeypatch)
    heads = Heads(name)
    for _ in range(4):
        with pytest.raises(RoundAborted):
            heads.play(NAMES)
        assert heads.stage.server.record().record.culprits == heads.majority  # the honest ones
    nobody_lies = Heads(name, liars="", stale="")
    assert nobody_lies.play(NAMES).contributors == frozenset(NAMES)


@pytest.mark.parametrize("name", ["ckks", "paillier", "lattice over paillier"])
def test_on_ours_the_majority_is_summed_round_after_round(name: str) -> None:
    heads = Heads(name)
    for _ in range(4):
        summed(heads, heads.play(NAMES))


def test_in_whatever_order_they_come_behind_another() -> None:
    heads = Heads("ckks")
    heads.play(NAMES)
    for order in ORDERS:
        summed(heads, heads.play(order))


@pytest.mark.slow
@pytest.mark.parametrize("order", ORDERS)
def test_in_whatever_order_they_come_first_one_round_is_lost_at_most(order: str) -> None:
    heads = Heads("ckks")
    with suppress(RoundAborted):
        heads.play(order)
    assert not heads.stage.server.record().record.culprits
    summed(heads, heads.play(order))


class Nine(Heads):
    """Nine clients, of whom two may be corrupt: enough are left if one of the majority is not in the sum."""

    def __init__(self, name: str) -> None:
        super().__init__(name, "abcdefghi", liars="ab", stale="c")


@pytest.mark.parametrize("name", ["ckks", "paillier", "lattice over paillier"])
def test_what_gave_way_is_in_no_sum_when_its_head_comes_again(name: str) -> None:
    """The first of the majority gives way to a third head of somebody alone; then the others come."""
    heads = Nine(name)
    outcome = heads.play("dabcefghi")
    assert outcome.contributors >= set("efghi")
    assert not outcome.culprits
    for client in "efghi":
        assert heads.stage.clients[client].open(outcome.result).contributors == outcome.contributors


class InPairs(Heads):
    """Nine clients, of whom two pairs answer older models, each pair another one."""

    def __init__(self, name: str) -> None:
        super().__init__(name, "abcdefghi", liars="a", stale="bcde")

    def head(self, client: str) -> bytes:
        return hashlib.sha256(STALE).digest() if client in "de" else super().head(client)


@pytest.mark.parametrize("name", PROTOCOLS)
@pytest.mark.parametrize("order", ["bcdefghia", "ihgfedcba", "fbdgceahi"])
def test_where_no_head_is_alone_who_brings_another_is_left_out(name: str, order: str) -> None:
    heads = InPairs(name)
    summed(heads, heads.play(order))


# One that is shut out


class ShutOut:
    """One client of seven is shown results that were spoilt for it alone, until it tries no more."""

    VICTIM = "f"

    def __init__(self, name: str) -> None:
        self.stage = Stage(PROTOCOLS[name], "abcdefg")
        self.set_ups: list[int] = []
        self.play()
        for _ in range(LIMIT):
            assert self.tries(self.spoilt(self.play()))
        assert not self.tries(self.play())
        assert not self.tries(self.spoilt(self.play()))

    def play(self) -> bytes:
        """A round with everybody in it, of which all others open the result."""
        outcome = self.stage.play(updates_of("abcdefg", seed=self.stage.number + 2))
        assert outcome.contributors == frozenset("abcdefg")
        assert not outcome.dropped
        self.set_ups += {self.stage.number for each in self.stage.wire if each.exchange == 1}
        for client in "abcdeg":
            self.stage.clients[client].open(outcome.result or b"")
        return outcome.result or b""

    def spoilt(self, result: bytes) -> bytes:
        return encode(replace(decode(Result, result), tag=bytes(16)))

    def tries(self, result: bytes) -> bool:
        """Whether the victim uses its key on a result."""
        try:
            return bool(self.stage.clients[self.VICTIM].open(result).contributors)
        except PeerViolation as violation:
            return "tag" in violation.reason


@pytest.mark.parametrize("name", ["ckks", "paillier"])
def test_on_the_copy_one_that_opens_nothing_any_more_stays_so(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(consortium_server, "PATIENCE", 1 << 30)
    shut_out = ShutOut(name)
    for _ in range(3 * PATIENCE):
        assert not shut_out.tries(shut_out.play())
    assert shut_out.set_ups == [0]


@pytest.mark.parametrize("restarted", [False, True], ids=["running", "restarted"])
@pytest.mark.parametrize("name", ["ckks", "paillier"])
def test_on_ours_it_has_another_key_before_long(name: str, restarted: bool) -> None:
    """It alone asks for it, in each of its rounds."""
    shut_out = ShutOut(name)
    stage = shut_out.stage
    for _ in range(PATIENCE):
        if restarted:
            saved = stage.server.export(key=KEY)
            stage.server = ServerMachine.restore(
                stage.protocol.suite, saved, key=KEY, entropy=stage.entropy("again")
            )
        if shut_out.tries(shut_out.play()):
            break
    assert len(shut_out.set_ups) == 2
    assert shut_out.tries(shut_out.play())
    assert len(shut_out.set_ups) == 2


@pytest.mark.slow
@pytest.mark.parametrize("asking", [1, 2])
def test_who_asks_for_no_reason_costs_a_set_up_in_some_rounds(asking: int) -> None:
    """As many as may be corrupt, in each round; the others' sums open all the same."""
    asks = Says(Contribution, lambda context, state, message: replace(message, renew=True))
    steps = lying(PROTOCOLS["ckks"].suite.client, dict.fromkeys(range(99), (asks,)))
    stage = Stage(PROTOCOLS["ckks"], "abcdefg", steps=dict.fromkeys("ab"[:asking], steps))
    set_ups = 0
    for number in range(2 * PATIENCE + 2):
        outcome = stage.play(updates_of("abcdefg", seed=number))
        set_ups += any(each.exchange == 1 for each in stage.wire)
        for client in "abcdefg":
            assert stage.clients[client].open(outcome.result or b"").contributors == frozenset("abcdefg")
    assert set_ups == 3
