"""B3: a client that complains of honest dealers, and stops every round.

A holder whose share does not open says so, and is not asked for it. Nothing proves such a complaint: what
would prove it opens all that the dealer ever sealed to that client. Where every holder counts, for somebody
vanished, one complaint leaves a dealer too few, and the round is aborted. A liar may say it of another dealer
each time. On the copy (`of_dealers_alone`), which counts who was complained of and by whom, nobody is ever
found. Ours counts those of whom a client complains as well: not all of them can have lied to it.

A dealer that wrongs one holder after the other is found by the same count, and honest holders are not,
however often they complain of it.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from protocols import Adversary, MaskedSum, PeerViolation, Requirements, RoundAborted
from protocols.machine.server import ServerMachine
from protocols.masked import server as room
from protocols.masked.client import MaskedClientSteps
from secagg.secret import Secret
from tests.attacks.weakened import Stage, updates_of

NAMES = "abcde"
"""Of five, one may be corrupt, and one may vanish: it is e, when vectors are collected."""
WOLF = "b"
MASKED = MaskedSum(max_clients=7)
MALICIOUS = MaskedSum(max_clients=7, requirements=Requirements(adversary=Adversary.MALICIOUS))
KEY = Secret(bytes(32))


class Complains(MaskedClientSteps):
    """Says in each round that it cannot open what these dealt, and keeps to it.

    Args:
        of: by round, of whom.
    """

    def __init__(self, of: Callable[[int], str]) -> None:
        self._of = of

    def fold(self, context: Any, state: Any, summand: Any) -> Any:
        step: Any = super().fold(context, state, summand)
        members = state.view.epoch.members
        places = [members.index(name) for name in self._of(context.round)]
        held = {place: share for place, share in step.state.held.items() if place not in places}
        unopened = members.bitmap(tuple(self._of(context.round)))
        return replace(
            step, state=replace(step.state, held=held), message=replace(step.message, unopened=unopened)
        )


def of_dealers_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that counts by whom a dealer was complained of, and not of whom a client complained."""
    honest = room.blamed

    def blamed(state: Any, dealer: int, complaints: int) -> frozenset[str]:
        return honest(state, dealer, complaints) & room.accusers_in(state).keys()

    monkeypatch.setattr(room, "blamed", blamed)


def session(of: Callable[[int], str], names: str = NAMES) -> Stage:
    return Stage(MASKED, names, steps={WOLF: Complains(of)})


def aborted(stage: Stage, **spoilt: Any) -> frozenset[str]:
    """The culprits of a round in which too few are left that hold what somebody dealt."""
    with pytest.raises(RoundAborted, match="surviving holders could open what") as error:
        stage.play(updates_of(stage.names), gone={"e": 2}, **spoilt)
    record = stage.server.record().record
    assert record.culprits == error.value.culprits
    assert not record.opened
    return error.value.culprits


def test_on_the_copy_who_cries_wolf_stops_all_rounds_and_is_not_found(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    of_dealers_alone(monkeypatch)
    stage = session(lambda number: "acd"[number % 3])
    for _ in range(7):
        assert not aborted(stage)


@pytest.mark.parametrize("restarted", [False, True], ids=["running", "restarted"])
def test_on_ours_it_is_found_with_one_more_than_can_be_corrupt(restarted: bool) -> None:
    assert MASKED.plan(5).corrupt == 1
    stage = session(lambda number: "aacd"[number])
    for _ in range(2):  # of the same one: a may have lied to it
        assert not aborted(stage)
    if restarted:
        saved = stage.server.export(key=KEY)
        stage.server = ServerMachine.restore(
            stage.protocol.suite, saved, key=KEY, entropy=stage.entropy("again")
        )
    assert aborted(stage) == {WOLF}
    assert aborted(stage) == {WOLF}  # and it stays so
    updates = {name: update for name, update in updates_of(NAMES).items() if name != WOLF}
    assert stage.play(updates).contributors == frozenset(updates)


def test_complaints_that_cost_no_round_are_remembered() -> None:
    stage = session(lambda number: "acd"[number])
    assert stage.play(updates_of(NAMES)).contributors == frozenset(NAMES)  # all are there: enough hold it
    assert not stage.server.record().record.culprits
    assert aborted(stage) == {WOLF}


def test_the_honest_are_not_found_however_often_they_complain_of_one() -> None:
    """It wrongs one after the other, and the second accuser is one more than could be lying."""
    dealt: dict[str, str] = {"a": "b", "c": "b"}
    stage = Stage(
        MASKED,
        NAMES,
        steps={
            name: Complains(lambda number, at=at, of=of: of if number == at else "")  # type: ignore[misc]
            for at, (name, of) in enumerate(dealt.items())
        },
    )
    assert not aborted(stage)
    assert aborted(stage) == {"b"}


@pytest.mark.parametrize("protocol", [MASKED, MALICIOUS], ids=["default", "malicious"])
@pytest.mark.parametrize(("of", "named"), [("ac", False), ("acd", True), ("acdefg", True)])
def test_who_complains_of_more_than_can_be_corrupt_is_named_at_once(
    protocol: MaskedSum, of: str, named: bool
) -> None:
    """Of seven, two may be: their vector is not taken, and the others' sum is what it is."""
    stage = Stage(protocol, "abcdefg", steps={WOLF: Complains(lambda number: "" if number else of)})
    refused: list[str] = []
    receive = stage.server.receive

    def heard(sender: str, message: bytes) -> None:
        try:
            receive(sender, message)
        except PeerViolation as violation:
            refused.append(violation.reason)
            raise

    stage.server.receive = heard  # type: ignore[method-assign]
    outcome = stage.play(updates_of("abcdefg"))
    if named:
        assert refused[0] == f"complaints about {len(of)} clients, of whom 2 may be corrupt"
        assert outcome.culprits == {WOLF}
        assert outcome.contributors == frozenset("acdefg")
    else:
        assert outcome.contributors == frozenset("abcdefg")
        assert "complaints" not in "".join(refused)
