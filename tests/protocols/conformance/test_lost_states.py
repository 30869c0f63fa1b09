"""A client loses its state: at any point, with its release log or without. It costs one round at most.

And nobody makes the others lose more: a client that says it has lost its state whenever it is asked, or falls
silent, costs exchanges. What is asked again is never released twice: the round goes on with what was said,
and what a client that comes back says is said in a round of its own.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from protocols import MemoryReleaseLog, NeedUpdate, Policy, RoundAborted
from protocols.messages.envelope import RESULT, Envelope
from tests.protocols.conftest import (
    STATE_KEY,
    TWO,
    Family,
    World,
    assert_right,
    exchange_of,
    is_long,
    is_refusal,
    updates_of,
)

pytestmark = pytest.mark.usefixtures("one_paillier_key")

ROUNDS = 3
CALM = 2
"""Rounds before anything is lost: enough for a steady state."""


class Losing:
    """A world in which one client comes back without its state.

    Args:
        victim: who.
        log: whether its release log outlives its state.
    """

    def __init__(
        self, family: Family, names: str, victim: str, *, log: bool, requirements: Any = None
    ) -> None:
        extra = {} if requirements is None else {"requirements": requirements}
        policies = {victim: Policy(release_log=MemoryReleaseLog())} if log else {}
        self.world = World(family(**extra), names, policies=policies)
        self.victim, self.lives = victim, 0

    def lose(self) -> None:
        """It begins again, and draws other randomness than it did before."""
        self.lives += 1
        world, policy = self.world, self.world.policies.get(self.victim)
        world.clients[self.victim] = world.protocol.client(
            identity=world.identities[self.victim],
            roster=world.roster,
            session=world.session,
            policy=policy,
            entropy=world.entropy(f"client/{self.victim}/{self.lives}"),
        )

    def play(self, **hooks: Any) -> frozenset[str]:
        """The contributors of a round; none if it was aborted."""
        updates = updates_of(self.world.names)
        try:
            outcome = self.world.play(updates, **hooks)
        except RoundAborted:
            return frozenset()
        learnt = outcome.total
        if outcome.result is not None:  # the victim may have lost the key again since
            other = min(outcome.contributors - {self.victim})
            learnt = self.world.clients[other].open(outcome.result)
        assert learnt is not None
        assert_right(learnt, self.world.protocol, updates, outcome.contributors)
        return outcome.contributors

    def missed(self, rounds: int = ROUNDS) -> int:
        """In how many of the next rounds there is no update of the victim."""
        return sum(self.victim not in self.play() for _ in range(rounds))


@pytest.fixture(
    params=[pytest.param(False, marks=pytest.mark.slow, id="no log"), pytest.param(True, id="its log")]
)
def log(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


@pytest.mark.parametrize("names", ["abc", pytest.param("abcd", marks=pytest.mark.slow)])
@pytest.mark.parametrize("victim", ["a", pytest.param("c", marks=pytest.mark.slow)])
def test_a_state_that_is_lost_between_two_rounds(family: Family, names: str, victim: str, log: bool) -> None:
    losing = Losing(family, names, victim, log=log)
    assert losing.missed(CALM) == 0
    losing.lose()
    assert losing.missed() <= 1
    assert losing.missed(1) == 0


@pytest.mark.parametrize(
    "when",
    [
        pytest.param("before it answers", marks=pytest.mark.slow),
        "after it answered",
        pytest.param("after its answer came", marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize("calm", [CALM, pytest.param(0, marks=pytest.mark.slow)])
def test_a_state_that_is_lost_in_any_exchange(family: Family, when: str, log: bool, calm: int) -> None:
    """It is killed there, is silent for the rest of the round, and is back in the next."""
    collecting = family.collecting
    last = len(family().exchanges(first=True)) - 1
    for killed in range(0 if calm == 0 else collecting, last + 1):
        losing = Losing(family, "abcd", "a", log=log)
        assert losing.missed(calm) == 0
        request, reply = _killing(losing, killed, when)
        missed = losing.victim not in losing.play(request=request, reply=reply)
        assert losing.lives == 1
        assert missed + losing.missed(2) <= 1, killed


def _killing(losing: Losing, killed: int, when: str) -> tuple[Any, Any]:
    dead = False

    def request(exchange: int, name: str, message: bytes) -> bytes | None:
        nonlocal dead
        if name == losing.victim and exchange == killed and when == "before it answers":
            losing.lose()
            dead = True
        return None if dead and name == losing.victim else message

    def reply(exchange: int, name: str, message: bytes) -> bytes | None:
        nonlocal dead
        if name != losing.victim or exchange != killed or dead:
            return message
        losing.lose()
        dead = True
        return message if when == "after its answer came" else None

    return request, reply


def test_the_server_comes_back_from_a_saved_state_meanwhile(family: Family) -> None:
    losing = Losing(family, "abcd", "a", log=True)
    assert losing.missed(CALM) == 0
    silent = {"a": family.collecting}
    assert (losing.victim not in losing.play(gone=silent)) == 1
    losing.world.server = losing.world.protocol.restore_server(
        losing.world.server.export(key=STATE_KEY), key=STATE_KEY
    )
    losing.lose()
    assert losing.missed() == 0


@pytest.mark.parametrize("asked", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_client_that_is_first_seen_in_a_session_that_runs_costs_no_round(
    family: Family, asked: bool
) -> None:
    """It was asked from the beginning, or was not."""
    world = World(family(requirements=TWO), "abcdef")
    for number in range(CALM):
        updates = updates_of("abcdef" if asked else "abcde", seed=number)
        outcome = world.play(updates, gone={"f": 0} if asked else {})
        assert outcome.contributors == frozenset("abcde")
    updates = updates_of("abcdef", seed=9)
    outcome = world.play(updates)
    assert outcome.dropped == {}
    assert_right(world.learn(outcome), world.protocol, updates, "abcdef")


def test_all_that_is_lost_at_once(family: Family) -> None:
    """A power cut at all sites between two rounds: the round after the next has everybody."""
    losing = Losing(family, "abc", "a", log=False)
    assert losing.missed(CALM) == 0
    for losing.victim in "abc":
        losing.lose()
    losing.victim = "a"
    assert losing.missed() <= 1


# Who passes the key on


def test_who_cannot_pass_the_key_on_is_asked_for_its_own(consortium: Family) -> None:
    """The custodian lost the key, and a newcomer is waiting for it: one round, not two."""
    losing = Losing(consortium, "abcd", "a", log=False, requirements=TWO)
    for _ in range(CALM):
        assert losing.world.play(updates_of("abc")).dropped == {}
    losing.lose()
    outcome = losing.world.play(updates_of("abcd"))
    assert outcome.dropped["a"].startswith("refused: DistributeKey: ")
    assert outcome.contributors == frozenset("bcd"), "the next custodian took over"
    assert losing.missed() == 0


def test_who_was_only_slow_costs_one_exchange(consortium: Family) -> None:
    world = World(consortium(requirements=TWO), "abcd")
    for name, first in [("a", 0), ("d", CALM)]:  # the custodian, and another one
        for number in range(first, first + CALM):
            world.play(updates_of("abcd", seed=number))
        outcome = world.play(updates_of("abcd"), gone={name: consortium.collecting})
        assert outcome.contributors == frozenset("abcd") - {name}
        key = world.server._state.consortium.key_id  # type: ignore[attr-defined]
        assert world.play(updates_of("abcd")).dropped == {}
        assert world.exchanges == 2
        asked = [sent.exchange for sent in world.log if sent.down and sent.exchange < RESULT // 2]
        assert asked == [0, 2, 2, 2, 2]
        assert world.server._state.consortium.key_id == key  # type: ignore[attr-defined]
        assert world.play(updates_of("abcd")).dropped == {}
        assert world.exchanges == 1


# Liars


def lies(
    family: Family, names: str, how: Callable[[Losing, int, bytes], bytes | None]
) -> list[tuple[int, int]]:
    """(exchanges, contributors) of rounds in which one client lies; the others have to go on without it."""
    losing = Losing(family, names, "a", log=False, requirements=TWO)
    losing.missed(CALM)
    played = []
    for _ in range(ROUNDS):
        contributors = losing.play(
            reply=lambda exchange, name, said: how(losing, exchange, said) if name == "a" else said
        )
        played.append((losing.world.exchanges, len(contributors - {"a"})))
    return played


def test_a_client_that_always_says_it_lost_its_state_costs_exchanges_and_no_round(family: Family) -> None:
    """It begins afresh before each request, and says so in truth: what it was given last time is gone."""
    exchanges = len(family().exchanges(first=True))
    losing = Losing(family, "abcdef", "a", log=False, requirements=TWO)
    losing.missed(CALM)

    def afresh(exchange: int, name: str, message: bytes) -> bytes:
        if name == "a":
            losing.lose()
        return message

    for number in range(ROUNDS):
        outcome = losing.world.play(updates_of("abcdef", seed=number), request=afresh)
        assert outcome.contributors >= frozenset("bcdef")
        assert losing.world.exchanges <= exchanges


def test_a_client_that_is_silent_whenever_it_is_asked_to_contribute_costs_no_round(family: Family) -> None:
    exchanges = len(family().exchanges(first=True))
    for silent_in, said in lies(family, "abcdef", lambda _, e, m: None if e == family.collecting else m):
        assert silent_in <= exchanges
        assert said == 5


def test_lying_about_a_key_makes_no_other_key(consortium: Family) -> None:
    """Otherwise results under the old one would be lost to whoever is away (and patience would never end)."""
    losing = Losing(consortium, "abcde", "a", log=False, requirements=TWO)
    losing.missed(CALM)
    server: Any = losing.world.server
    key = server._state.consortium.key_id
    for _ in range(ROUNDS):
        losing.lose()
        losing.play(gone={"a": consortium.collecting})
        assert server._state.consortium.key_id == key
        assert frozenset("bcde") <= server._state.consortium.holders


def test_bringing_a_key_again_forgets_nobodys_wish_for_another(consortium: Family) -> None:
    """Or a liar could lose its key whenever somebody has asked for another one nearly long enough (D8)."""
    losing = Losing(consortium, "abcd", "a", log=False, requirements=TWO)
    losing.missed(CALM)
    server: Any = losing.world.server
    wished = replace(server._state.consortium, asked={"c": 5})
    server._state = replace(server._state, consortium=wished)
    losing.lose()
    assert losing.missed() == 1
    assert server._state.consortium.key_id == wished.key_id
    assert server._state.consortium.asked == {"c": 5}


def test_what_a_client_said_before_it_lost_its_state_is_not_said_again(family: Family) -> None:
    """Its log holds it to that: it is asked again in the round in which it was lost (ATTACKS A6, A14)."""
    if family.name == "plain":
        pytest.skip("nothing is hidden in the vectors of PlainSum, so that two of them tell nothing more")
    losing = Losing(family, "abcd", "a", log=True)
    assert losing.missed(CALM) == 0
    again: list[object] = []

    def reply(exchange: int, name: str, message: bytes) -> bytes:
        if name == "a" and exchange == family.collecting:
            asked = next(sent.body for sent in reversed(losing.world.log) if sent.down and sent.client == "a")
            assert exchange_of(asked) == Envelope.decode(asked).stage // 2 == exchange
            losing.lose()
            again.append(losing.world.clients["a"].receive(asked))
        return message

    losing.play(reply=reply)
    [answer] = again
    assert not isinstance(answer, NeedUpdate)
    assert is_refusal(answer)


def test_a_round_that_goes_on_is_not_begun_again(masked: Family) -> None:
    """The others' vectors are out: they are not asked for others in this round, whatever one client says."""
    losing = Losing(masked, "abcdef", "a", log=False, requirements=TWO)
    assert losing.missed(CALM) == 0
    losing.lose()
    losing.play()
    asked = [sent.exchange for sent in losing.world.log if sent.down and sent.client == "b"]
    assert asked == sorted(set(asked))
    assert not is_long(losing.world)
    losing.play()
    assert is_long(losing.world)
