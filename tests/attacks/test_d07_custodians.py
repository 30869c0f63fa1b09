"""D7: bad custodians starve a session that remembers one name.

One client makes the key that all share, and seals it to each other one. A server cannot look inside; it finds
out when nobody uses that key. Where it then remembers the last bad custodian alone, two of them, of ten, take
turns for ever: each is asked while the other is the one in disgrace. That works on the copy (`OneName`).
Ours remembers all of them, and whom receivers accuse, so bad custodians cost one round each. It forgets when
nobody is left to trust, because a receiver may lie as well: then it costs its own rounds and no others.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest

from protocols import CkksSum, LatticeSum, PaillierSum, Requirements, RoundAborted
from protocols.consortium import messages as consortium
from protocols.consortium.server import ConsortiumServerSteps, Custody, Idle
from protocols.machine.parameters import MachineProtocol
from protocols.machine.server import ServerMachine
from protocols.machine.suite import ClientSteps, ServerSteps
from secagg.secret import Secret
from tests.attacks.trained import Lie, Lying, Refuses, Says, lying
from tests.attacks.weakened import Stage, updates_of

NAMES = "abcdefghij"
ASKED = Requirements(dropout_fraction=0.0)
PAILLIER = partial(PaillierSum, key_bits=2048)
PROTOCOLS: dict[str, MachineProtocol] = {
    "ckks": CkksSum(max_clients=10, requirements=ASKED),
    "paillier": PAILLIER(max_clients=10, requirements=ASKED),
}
ALWAYS = range(40)


def sealing(spoils: Callable[[str], bool]) -> Lie:
    """Rubbish for these clients, in place of the key."""

    def change(context: Any, state: Any, message: Any) -> Any:
        sealed = {name: bytes(len(key)) if spoils(name) else key for name, key in message.sealed.items()}
        return replace(message, sealed=sealed)

    return Says(consortium.DistributeKey, change)


BAD = sealing(lambda name: True)


class OneName(ConsortiumServerSteps):
    """Remembers the last custodian whose key nobody used, and no accusation."""

    def idle(self, state: Any) -> Idle:
        if isinstance(state, Idle):
            return state
        consortium = super().idle(state).consortium
        failed = frozenset() if consortium is not None else {state.consortium.custodian}
        return Idle(consortium, Custody(failed=frozenset(failed)))


def stage_with(
    name: str, *, names: str = NAMES, server: type[ConsortiumServerSteps] | None = None, **liars: Lie
) -> Stage:
    protocol = PROTOCOLS[name]
    suite = protocol.suite
    assert isinstance(suite.server, ConsortiumServerSteps)
    steps: dict[str, ClientSteps] = {
        liar: Lying(suite.client, dict.fromkeys(ALWAYS, (lie,))) for liar, lie in liars.items()
    }
    weak: ServerSteps | None = None if server is None else server(suite.server._scheme)
    return Stage(protocol, names, steps=steps, server_steps=weak)


def rounds(stage: Stage, count: int, names: str = NAMES) -> list[frozenset[str]]:
    """Who contributed to each round; nobody to one that was aborted. Those whose sum opened have it right."""
    found = []
    for number in range(count):
        data = updates_of(names, seed=number)
        try:
            outcome = stage.play(data)
        except RoundAborted:
            found.append(frozenset[str]())
            continue
        assert outcome.result is not None
        opener = stage.clients[min(outcome.contributors)]
        total = opener.open(outcome.result)
        truth = np.mean([data[name] for name in sorted(outcome.contributors)], axis=0)
        assert np.abs(total.mean - truth).max() < 1e-4
        found.append(outcome.contributors)
    return found


@pytest.mark.parametrize("name", PROTOCOLS)
@pytest.mark.parametrize("pair", ["ab", "aj"])
def test_two_of_ten_starve_a_server_that_remembers_one(name: str, pair: str) -> None:
    # The other bad one need not be second: it is enough that it comes first once.
    names = pair + "".join(sorted(set(NAMES) - set(pair)))
    stage = stage_with(name, names=names, server=OneName, **dict.fromkeys(pair, BAD))
    assert rounds(stage, 8, names) == [frozenset()] * 8


@pytest.mark.parametrize("name", PROTOCOLS)
def test_on_ours_each_of_them_costs_a_round(name: str) -> None:
    stage = stage_with(name, a=BAD, b=BAD)
    assert rounds(stage, 4) == [frozenset(), frozenset(), frozenset(NAMES), frozenset(NAMES)]
    record = stage.server.record().record
    assert not record.culprits


def test_a_custodian_of_whom_more_complain_than_may_be_corrupt_is_named() -> None:
    stage = stage_with("ckks", a=BAD)
    with pytest.raises(RoundAborted) as aborted:
        stage.play(updates_of(NAMES))
    assert aborted.value.culprits == {"a"}
    dropped = stage.server.record().record.dropped
    assert all("what 'a' sealed is no key" in dropped[name] for name in NAMES[1:])


def test_a_key_that_only_its_makers_friends_got_is_made_anew() -> None:
    # a seals well to b alone, which passes rubbish on: nobody else that has the key could pass it on.
    stage = stage_with("ckks", a=sealing(lambda name: name != "b"), b=BAD)
    found = rounds(stage, 4)
    assert found[:2] == [frozenset(), frozenset()]
    assert found[2:] == [frozenset(NAMES)] * 2


def test_who_got_no_key_gets_it_from_another_one() -> None:
    stage = stage_with("ckks", a=sealing(lambda name: name == "e"))
    assert rounds(stage, 3) == [frozenset(NAMES) - {"e"}, frozenset(NAMES), frozenset(NAMES)]


@pytest.mark.parametrize("accused", ["a", "j", "x", "server"])
def test_a_receiver_that_always_refuses_costs_its_own_rounds(accused: str) -> None:
    """It shuts nobody out, and makes nobody a culprit; when it has disgraced everybody, all begin anew."""
    stage = stage_with("ckks", e=Refuses(consortium.Collect, accused))
    others = frozenset(NAMES) - {"e"}
    assert rounds(stage, 12) == [others] * 12
    assert not stage.server.record().record.culprits


def test_a_liar_that_blames_each_custodian_in_turn() -> None:
    class Blames(Lying):
        def react(self, context: Any, state: Any, request: Any) -> Any:
            if isinstance(request, consortium.Collect) and request.delivery is not None:
                self._lies = {context.round: (Refuses(consortium.Collect, request.delivery.custodian),)}
            return super().react(context, state, request)

    stage = Stage(PROTOCOLS["ckks"], NAMES, steps={"e": Blames(PROTOCOLS["ckks"].suite.client, {})})
    # When all others are in disgrace the liar itself makes a key, and holds one.
    assert all(found >= frozenset(NAMES) - {"e"} for found in rounds(stage, 14))
    assert not stage.server.record().record.culprits


def test_a_custodian_that_never_answers_is_passed_over_in_the_same_round() -> None:
    stage = stage_with("ckks", a=Refuses(consortium.Distribute), b=Refuses(consortium.Distribute))
    assert rounds(stage, 1) == [frozenset(NAMES) - set("ab")]


def test_what_is_known_of_custodians_survives_a_restart() -> None:
    stage = stage_with("ckks", a=BAD, b=BAD)
    assert rounds(stage, 1) == [frozenset()]
    key = Secret(bytes(32))
    stage.server = ServerMachine.restore(
        stage.protocol.suite, stage.server.export(key=key), key=key, entropy=stage.entropy("again")
    )
    assert rounds(stage, 2) == [frozenset(), frozenset(NAMES)]


@pytest.mark.slow
def test_the_same_where_a_lattice_is_over_it() -> None:
    protocol = LatticeSum(max_clients=10, keys=PAILLIER, requirements=ASKED)
    suite = protocol.suite
    steps = {name: lying(suite.client, dict.fromkeys(ALWAYS, (BAD,))) for name in "ab"}
    stage = Stage(protocol, NAMES, steps=steps)
    assert rounds(stage, 3) == [frozenset(), frozenset(), frozenset(NAMES)]
