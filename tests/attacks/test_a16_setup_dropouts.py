"""A16: clients that vanish during set-up must not cost the others their round.

Seen in a shipped implementation, which expects shares of everybody that advertised a key and dies of a
KeyError. The weakened server does the same. Ours goes on with those who are left, whatever exchange they were
lost in, and for CkksSum and PaillierSum whoever was to make the key.

Not covered: losing so many that no plan is left; that is `RoundAborted`, and tested here too.
"""

from dataclasses import replace
from itertools import combinations_with_replacement
from typing import Any

import numpy as np
import pytest

from protocols import Adversary, CkksSum, MaskedSum, PaillierSum, Policy, Requirements, RoundAborted
from protocols.consortium.client import ConsortiumClientSteps
from protocols.consortium.messages import DistributeKey
from protocols.machine.suite import Replied
from protocols.masked.server import MaskedServerSteps
from protocols.masked.server_states import Sharing
from tests.attacks.weakened import Stage, updates_of

NAMES = "abcde"


class ExpectsEverybody(MaskedServerSteps):
    """Deals out what everybody that advertised a key has dealt, as if nobody could be lost in between."""

    def close(self, context: Any, state: Any, present: frozenset[str]) -> Any:
        if isinstance(state, Sharing):
            present = frozenset(state.epoch.cohort[place] for place in state.dealings.present)
        return super().close(context, state, present)


def test_a_server_that_expects_everybody_loses_the_round() -> None:
    stage = Stage(MaskedSum(max_clients=8), NAMES, server_steps=ExpectsEverybody())
    with pytest.raises(KeyError):
        stage.play(updates_of(NAMES), gone={"c": 1})


SEVEN = "abcdefg"
"""Of whom each plan below bears that two are lost."""
PLANS = {
    "semi-honest": Requirements(adversary=Adversary.SEMI_HONEST),
    "semi-malicious": Requirements(corrupt_fraction=0.0),
    "malicious": Requirements(adversary=Adversary.MALICIOUS),
}


def is_mean(outcome: Any, data: dict[str, Any], names: Any) -> bool:
    truth = np.mean([data[name] for name in sorted(names)], axis=0)
    return bool(np.abs(outcome.total.mean - truth).max() < 1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("plan", PLANS)
def test_ours_goes_on_with_who_is_left(plan: str) -> None:
    """Two of seven vanish, each in any exchange or not at all; then a steady round, or new keys for all."""
    protocol = MaskedSum(max_clients=8, requirements=PLANS[plan])
    last = len(protocol.suite.exchanges)
    data = updates_of(SEVEN)
    for exchanges in combinations_with_replacement(range(last + 1), 2):
        who_first = "bd" if sum(exchanges) % 2 else "db"
        stage, gone = Stage(protocol, SEVEN), dict(zip(who_first, exchanges, strict=True))
        outcome = stage.play(data, gone=gone)
        expected = set("acefg") | {name for name, exchange in gone.items() if exchange > 2}
        assert outcome.contributors == expected
        assert is_mean(outcome, data, expected)
        assert outcome.dropped.keys() == {name for name, exchange in gone.items() if exchange < last}
        again = stage.play(data)  # whoever vanished is back
        assert again.contributors == frozenset(SEVEN)
        assert is_mean(again, data, SEVEN)


@pytest.mark.slow
@pytest.mark.parametrize("plan", PLANS)
def test_ours_goes_on_in_the_steady_state(plan: str) -> None:
    protocol = MaskedSum(max_clients=8, requirements=PLANS[plan])
    last = len(protocol.suite.exchanges)
    data = updates_of(SEVEN)
    for exchanges in combinations_with_replacement(range(2, last + 1), 2):
        who_first = "bd" if sum(exchanges) % 2 else "db"
        stage, gone = Stage(protocol, SEVEN), dict(zip(who_first, exchanges, strict=True))
        stage.play(data)
        outcome = stage.play(data, gone=gone)
        assert all(wire.exchange >= 2 for wire in stage.wire)
        expected = set("acefg") | {name for name, exchange in gone.items() if exchange > 2}
        assert outcome.contributors == expected
        assert is_mean(outcome, data, expected)
        # Who is left goes on, with those who came through or with new keys for everybody.
        assert stage.play({name: data[name] for name in "acefg"}).contributors == frozenset("acefg")
        assert stage.play(data).contributors == frozenset(SEVEN)


@pytest.mark.parametrize("exchange", [0, 1])
def test_on_a_random_graph_too(exchange: int) -> None:
    names = [f"client {place:02d}" for place in range(28)]
    requirements = Requirements(
        corrupt_fraction=0.0, dropout_fraction=0.1, security_bits=10, liveness_bits=1, grinding_bits=0
    )
    protocol = MaskedSum(max_clients=28, requirements=requirements)
    assert protocol.plan(28).degree < 27
    stage, data = Stage(protocol, names), updates_of(names)
    outcome = stage.play(data, gone={names[3]: exchange})
    assert outcome.contributors == frozenset(names) - {names[3]}
    assert is_mean(outcome, data, outcome.contributors)


def test_too_many_lost_is_an_abort_and_the_next_round_works() -> None:
    stage, data = Stage(MaskedSum(max_clients=8), NAMES), updates_of(NAMES)
    with pytest.raises(RoundAborted, match="at least 4"):
        stage.play(data, gone=dict.fromkeys("bcd", 1))
    assert stage.play(data).contributors == frozenset(NAMES)


CONSORTIA = [
    pytest.param(CkksSum(max_clients=8), id="ckks"),
    pytest.param(PaillierSum(max_clients=8, key_bits=2048), id="paillier"),
]


@pytest.mark.parametrize("protocol", CONSORTIA)
@pytest.mark.parametrize("gone", [{"a": 0}, {"a": 1}, {"a": 1, "b": 1}, {"a": 2}, {"e": 1, "d": 2}])
def test_a_consortium_without_its_custodian(protocol: Any, gone: dict[str, int]) -> None:
    stage, data = Stage(protocol, NAMES), updates_of(NAMES)
    outcome = stage.play(data, gone=gone)
    # Who vanishes while another makes the key still has it sealed to it, and contributes if it comes back.
    expected = frozenset(NAMES) - gone.keys()
    assert outcome.contributors == expected
    assert outcome.result is not None
    mean = stage.clients[min(expected)].open(outcome.result).mean
    assert np.abs(mean - np.mean([data[n] for n in sorted(expected)], axis=0)).max() < 1e-4


def test_a_custodian_whose_answer_was_lost_comes_back() -> None:
    stage, data = Stage(CkksSum(max_clients=8), NAMES), updates_of(NAMES)

    def lose(exchange: int, name: str, message: bytes) -> bytes | None:
        return None if (exchange, name) == (1, "a") else message

    assert stage.play(data, reply=lose).contributors == frozenset("bcde")
    assert stage.play(data).contributors == frozenset(NAMES)


def test_a_client_that_lost_its_state_gets_the_key_again() -> None:
    stage, data = Stage(CkksSum(max_clients=8), NAMES), updates_of(NAMES)
    stage.play(data)
    stage.clients["c"] = stage.join("c")
    stage.play(data)
    assert stage.play(data).contributors == frozenset(NAMES)


class SealsRubbish(ConsortiumClientSteps):
    """A malicious custodian: nobody can open what it sealed."""

    def react(self, context: Any, state: Any, request: Any) -> Any:
        step = super().react(context, state, request)
        if isinstance(step, Replied) and isinstance(step.message, DistributeKey):
            sealed = {name: bytes(len(each)) for name, each in step.message.sealed.items()}
            return replace(step, message=replace(step.message, sealed=sealed))
        return step


@pytest.mark.parametrize("protocol", CONSORTIA)
def test_a_custodian_that_seals_rubbish_costs_one_round(protocol: Any) -> None:
    stage = Stage(protocol, NAMES, steps={"a": SealsRubbish(protocol.suite.client._scheme)})
    data = updates_of(NAMES)
    with pytest.raises(RoundAborted):
        stage.play(data)
    assert stage.play(data).contributors >= frozenset("bcde")


@pytest.mark.parametrize("exchange", [1, 2])
@pytest.mark.parametrize("adversary", Adversary)
def test_who_asks_for_everybody_and_vanishes_costs_nobody_the_round(
    adversary: Adversary, exchange: int
) -> None:
    """Its minimum protects its own update alone, and that is not in the sum.

    Holders that may hear different stories cannot know that it is not, and keep to it (A11): a round is lost.
    """
    policy = {"e": Policy(min_contributors=len(NAMES))}
    stage = Stage(
        MaskedSum(max_clients=8, requirements=Requirements(adversary=adversary)), NAMES, policies=policy
    )
    data = updates_of(NAMES)
    if adversary is Adversary.SEMI_MALICIOUS:
        with pytest.raises(RoundAborted, match=r"strictest: \['e'\]"):
            stage.play(data, gone={"e": exchange})
        assert stage.play({name: data[name] for name in "abcd"}).contributors == frozenset("abcd")
    else:
        assert stage.play(data, gone={"e": exchange}).contributors == frozenset("abcd")


def test_who_asks_for_everybody_and_contributes_gets_it() -> None:
    policy = {"e": Policy(min_contributors=len(NAMES))}
    stage = Stage(MaskedSum(max_clients=8), NAMES, policies=policy)
    with pytest.raises(RoundAborted):
        stage.play(updates_of(NAMES), gone={"d": 2})
    assert stage.play(updates_of(NAMES)).contributors == frozenset(NAMES)
