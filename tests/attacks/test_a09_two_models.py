"""A9 where the clients learn the sum: two models in one round, and each client shown the other's sum.

A server that runs two copies of a round can make two true sums, each with its tags. A client that took the
sum of a model which it did not answer would move its own model by updates to another one. A client remembers
which model it answered in a round, and takes no other sum of that round.

* A copy that forgets what it answered opens the other sum, and moves by it.
* Ours refuses, over both schemes and over LatticeSum. Whoever did not contribute has nothing to compare.

Not covered: two sums of one model, of different contributors; both are true, and both open.
"""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from protocols import PeerViolation
from protocols.consortium import client as consortium_client
from tests.protocols.conftest import FAMILIES, STATE_KEY, TWO, Family, World, updates_of

CONSORTIUMS = ["ckks", "paillier", "lattice over paillier"]


def shown(name: str) -> tuple[World, bytes, bytes]:
    """Clients a, b, c answered one model and d, e, f another in one round; the two results."""
    world = World(Family(name, FAMILIES[name])(requirements=TWO, max_clients=7), "abcdefg")
    updates = updates_of("abcdefg")
    world.play(updates, model=b"first")
    fork = world.server.export(key=STATE_KEY)
    mine = world.play({each: updates[each] for each in "abc"}, model=b"mine", cohort="abc")
    world.server = world.protocol.restore_server(fork, key=STATE_KEY)
    world.number -= 1
    theirs = world.play({each: updates[each] for each in "def"}, model=b"theirs", cohort="def")
    assert mine.result is not None
    assert theirs.result is not None
    return world, mine.result, theirs.result


@pytest.mark.parametrize("name", CONSORTIUMS)
def test_a_client_that_forgets_its_model_takes_the_other_sum(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    world, _, theirs = shown(name)
    check = consortium_client._check_result

    def forgetful(context: Any, state: Any, given: Any) -> None:
        check(context, replace(state, history=replace(state.history, answered={})), given)

    monkeypatch.setattr(consortium_client, "_check_result", forgetful)
    updates = updates_of("abcdefg")
    opened = world.clients["a"].open(theirs)
    truth = np.mean([updates[each].astype(np.float64) for each in "def"], axis=0)
    assert opened.contributors == frozenset("def")
    assert np.abs(opened.mean - truth).max() < 1e-4


@pytest.mark.parametrize("name", CONSORTIUMS)
def test_ours_takes_the_sum_of_the_model_that_it_answered_and_no_other(name: str) -> None:
    world, mine, theirs = shown(name)
    for each in "abc":
        with pytest.raises(PeerViolation, match="another model than this client"):
            world.clients[each].open(theirs)
        assert world.clients[each].open(mine).contributors == frozenset("abc")
    assert world.clients["g"].open(theirs).contributors == frozenset("def")


def test_it_is_remembered_across_a_restart() -> None:
    world, _, theirs = shown("paillier")
    world.restart()
    with pytest.raises(PeerViolation, match="another model than this client"):
        world.clients["a"].open(theirs)
