"""A16: clients that vanish during set-up must not cost the others their round.

Seen in a shipped implementation, which expects shares of everybody that advertised a key and dies of a
KeyError. The weakened server does the same. Ours goes on with those who are left, whatever exchange they were
lost in, and for CkksSum and PaillierSum whoever was to make the key.

Not covered: losing so many that no plan is left; that is `RoundAborted`, and tested here too.
"""

from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np
import pytest

from protocols import CkksSum, MaskedSum, PaillierSum, Policy, RoundAborted
from protocols.consortium.client import ConsortiumClientSteps
from protocols.consortium.messages import DistributeKey
from protocols.masked.server import MaskedServerSteps, Sharing
from protocols.suite import Replied
from tests.attacks.weakened import Stage, updates_of

NAMES = "abcde"


class ExpectsEverybody(MaskedServerSteps):
    """Deals out what everybody that advertised a key has dealt, as if nobody could be lost in between."""

    def close(self, context: Any, state: Any, present: frozenset[str]) -> Any:
        if isinstance(state, Sharing):
            present = frozenset(state.keys)
        return super().close(context, state, present)


def test_a_server_that_expects_everybody_loses_the_round() -> None:
    stage = Stage(MaskedSum(max_clients=8), NAMES, server_steps=ExpectsEverybody())
    with pytest.raises(KeyError):
        stage.play(updates_of(NAMES), gone={"c": 1})


@pytest.mark.parametrize("exchanges", list(product(range(1, 5), repeat=2)))
def test_ours_goes_on_with_who_is_left(exchanges: tuple[int, int]) -> None:
    """Two of five vanish, each in any exchange from the first on or not at all (4)."""
    data = updates_of(NAMES)
    outcome = Stage(MaskedSum(max_clients=8), NAMES).play(data, gone=dict(zip("bd", exchanges, strict=True)))
    expected = set("ace") | {name for name, gone in zip("bd", exchanges, strict=True) if gone > 2}
    assert outcome.total is not None
    assert outcome.contributors == expected
    assert np.abs(outcome.total.mean - np.mean([data[n] for n in sorted(expected)], axis=0)).max() < 1e-4


def test_too_many_lost_is_an_abort_and_the_next_round_works() -> None:
    stage, data = Stage(MaskedSum(max_clients=8), NAMES), updates_of(NAMES)
    with pytest.raises(RoundAborted, match="at least 3"):
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
def test_who_asks_for_everybody_and_vanishes_costs_nobody_the_round(exchange: int) -> None:
    """Its minimum protects its own update alone, and that is not in the sum."""
    policy = {"e": Policy(min_contributors=len(NAMES))}
    stage = Stage(MaskedSum(max_clients=8), NAMES, policies=policy)
    assert stage.play(updates_of(NAMES), gone={"e": exchange}).contributors == frozenset("abcd")


def test_who_asks_for_everybody_and_contributes_gets_it() -> None:
    policy = {"e": Policy(min_contributors=len(NAMES))}
    stage = Stage(MaskedSum(max_clients=8), NAMES, policies=policy)
    with pytest.raises(RoundAborted):
        stage.play(updates_of(NAMES), gone={"d": 2})
    assert stage.play(updates_of(NAMES)).contributors == frozenset(NAMES)
