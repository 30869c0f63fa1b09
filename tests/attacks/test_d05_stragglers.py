"""D5: an honest client is late, and is taken for a liar.

A network that holds one answer back until the next exchange is open makes its honest sender look like one
that answers out of turn. A server that names it does the network's work: the loop leaves culprits out, and a
sum that was opened and refused, tried again without somebody honest, tells what that one contributed (A10).
So on the copy (`Impatient`) each answer that comes one exchange too late makes a culprit. Ours refuses it and
that is all: being late costs what being silent costs, as the signed record has it, and the next round has the
late one again.
"""

from dataclasses import replace
from functools import partial
from typing import Any

import pytest

from protocols import Adversary, CkksSum, LatticeSum, MaskedSum, PaillierSum, PeerViolation, Requirements
from protocols.machine.parameters import MachineProtocol
from protocols.machine.server import ServerMachine
from protocols.messages.record import RoundRecord
from tests.attacks.weakened import Stage, updates_of

NAMES = "abcdefg"
VICTIM = "f"
PAILLIER = partial(PaillierSum, key_bits=2048)
PROTOCOLS: dict[str, MachineProtocol] = {
    "masked": MaskedSum(max_clients=7),
    "masked malicious": MaskedSum(max_clients=7, requirements=Requirements(adversary=Adversary.MALICIOUS)),
    "lattice": LatticeSum(max_clients=7),
    "ckks": CkksSum(max_clients=7),
    "paillier": PAILLIER(max_clients=7),
    "lattice over paillier": LatticeSum(max_clients=7, keys=PAILLIER),
}
CUSTODIAL = "DistributeKey"
"""One client alone is asked, and the next one if it is silent: the same exchange is opened again."""
CASES = [(name, step) for name, each in PROTOCOLS.items() for step in each.exchanges(first=True)]
LATER = [
    (name, step) for name, step in CASES if step not in (CUSTODIAL, PROTOCOLS[name].exchanges(first=True)[-1])
]


CUSTODIANS = [name for name, step in CASES if step == CUSTODIAL]


class Impatient(ServerMachine):
    """A server that holds what is late against its sender."""

    def _is_too_late(self, sender: str, envelope: Any) -> bool:
        return False


class Held:
    """A round in which one answer comes when its exchange is over, or never.

    Args:
        never: it is lost.
        again: how often the same late answer comes, in each exchange behind it.
    """

    def __init__(
        self,
        name: str,
        step: str,
        *,
        never: bool = False,
        client: str = VICTIM,
        again: int = 1,
        machine: type[ServerMachine] = ServerMachine,
    ) -> None:
        self.stage = Stage(PROTOCOLS[name], NAMES, server_machine=machine)
        self.exchange = PROTOCOLS[name].suite.exchanges.index(step)
        self.never, self.client, self.again = never, client, again
        self.kept: bytes | None = None
        self.asked = 0
        self.said: list[str] = []
        self.outcome = self.stage.play(updates_of(NAMES), request=self.deliver, reply=self.hold)
        self.deliver(99, "", b"")  # and once more when the round is over

    @property
    def record(self) -> RoundRecord:
        return self.stage.server.record().record

    def hold(self, exchange: int, name: str, answer: bytes) -> bytes | None:
        if (exchange, name) != (self.exchange, self.client):
            return answer
        self.kept, self.asked = answer, exchange
        return None

    def deliver(self, exchange: int, name: str, message: bytes) -> bytes:
        """Before the first request of each exchange behind that of the answer."""
        if self.kept is None or self.never or exchange == self.asked:
            return message
        self.asked = exchange
        for _ in range(self.again):
            with pytest.raises(PeerViolation) as refusal:
                self.stage.server.receive(self.client, self.kept)
            self.said.append(refusal.value.reason)
        return message


@pytest.mark.parametrize(("name", "step"), LATER)
def test_on_the_copy_who_is_late_is_a_culprit(name: str, step: str) -> None:
    held = Held(name, step, machine=Impatient)
    assert held.said
    assert held.outcome.culprits == held.record.culprits == {VICTIM}


@pytest.mark.parametrize(("name", "step"), [case for case in CASES if case[1] != CUSTODIAL])
def test_on_ours_being_late_costs_what_being_silent_costs(name: str, step: str) -> None:
    late, silent = Held(name, step, again=2), Held(name, step, never=True)
    assert late.said
    for said in late.said[:-2]:
        assert "earlier round or exchange" in said
    assert "after the round's end" in late.said[-1]
    assert not late.record.culprits
    assert not late.outcome.culprits
    assert replace(late.record, transcript=silent.record.transcript) == silent.record
    assert late.record.dropped == {VICTIM: f"did not answer in {step}"}
    assert late.outcome.contributors == silent.outcome.contributors
    # And the next round has it again.
    assert late.stage.play(updates_of(NAMES, seed=2)).contributors == frozenset(NAMES)


@pytest.mark.parametrize("name", ["masked malicious", "lattice", "ckks"])
def test_nor_does_it_in_the_next_round(name: str) -> None:
    """Of a round that ended without it, an answer comes in the midst of another one."""
    step = PROTOCOLS[name].exchanges(first=True)[-1]
    held = Held(name, step, never=True)
    held.never, held.said = False, []
    stage, answer = held.stage, held.kept
    assert answer is not None
    said = list[str]()

    def late(exchange: int, client: str, message: bytes) -> bytes:
        with pytest.raises(PeerViolation) as refusal:
            stage.server.receive(VICTIM, answer)
        said.append(refusal.value.reason)
        return message

    outcome = stage.play(updates_of(NAMES, seed=2), request=late)
    assert outcome.contributors == frozenset(NAMES)
    assert not outcome.culprits
    assert not outcome.dropped
    assert set(said) == {"a message of an earlier round or exchange; this is round 1"}


@pytest.mark.parametrize(("name", "step"), [case for case in CASES if case[1] == CUSTODIAL])
def test_a_custodian_whose_key_comes_when_all_have_another(name: str, step: str) -> None:
    """The answer comes when updates are collected."""
    stage = Stage(PROTOCOLS[name], NAMES)
    collecting = PROTOCOLS[name].suite.collecting
    kept: list[bytes] = []

    def hold(exchange: int, client: str, answer: bytes) -> bytes | None:
        if (exchange, client) != (1, "a"):
            return answer
        kept.append(answer)
        return None

    def late(exchange: int, client: str, message: bytes) -> bytes:
        if exchange == collecting and kept:
            with pytest.raises(PeerViolation, match="earlier round or exchange"):
                stage.server.receive("a", kept.pop())
        return message

    outcome = stage.play(updates_of(NAMES), request=late, reply=hold)
    assert not kept
    assert not outcome.culprits
    assert outcome.dropped == {"a": f"did not answer in {step}"}
    assert stage.play(updates_of(NAMES, seed=2)).contributors == frozenset(NAMES)


@pytest.mark.parametrize("name", CUSTODIANS)
def test_a_custodian_whose_key_comes_when_the_next_one_was_asked(name: str) -> None:
    """It is the same exchange, opened again for another: still the answer is late and no more."""
    stage, kept = Stage(PROTOCOLS[name], NAMES), list[bytes]()

    def hold(exchange: int, client: str, answer: bytes) -> bytes | None:
        if (exchange, client) != (1, "a"):
            return answer
        kept.append(answer)
        return None

    def late(exchange: int, client: str, message: bytes) -> bytes:
        if (exchange, client) == (1, "b"):
            with pytest.raises(PeerViolation):
                stage.server.receive("a", kept.pop())
        return message

    outcome = stage.play(updates_of(NAMES), request=late, reply=hold)
    assert not kept
    assert outcome.dropped == {"a": "did not answer in DistributeKey"}
    assert not outcome.culprits
