"""A13: one party works with another clip, length, modulus or threshold than the rest.

A sum of integers on two different grids is a number without a meaning, and nobody notices: the weakened
copies, which do not compare parameters, return it. In ours the digest of all public parameters is in the
first request, under every signature, in every mask seed and in every tag; a party with others is refused.

The threshold is not a parameter that anybody may send: each client plans it for itself.

Not covered: parameters that are the same for all and bad for all.
"""

from typing import Any

import numpy as np
import pytest

from protocols import CkksSum, MaskedSum, PaillierSum, PlainSum, Requirements, Round, plain
from protocols.client_machine import ClientMachine
from protocols.masked.messages import Announcement, CohortKeys
from tests.attacks.weakened import LENGTH, Stage, refused, request_of, updates_of

NAMES = "abcd"


def mixed(protocol: Any, other: Any) -> Stage:
    """A stage on which the last client runs `other`."""
    stage = Stage(protocol, NAMES)
    stage.clients["d"] = ClientMachine(
        other.suite,
        identity=stage.identities["d"],
        roster=stage.roster,
        session=stage.session,
        policy=None,
        entropy=stage.entropy("machine/d"),
    )
    return stage


def test_two_clips_in_one_sum_are_nonsense(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plain, "check_request", lambda *_, **__: None)
    data = updates_of(NAMES)
    total = mixed(PlainSum(max_clients=4, clip=1.0), PlainSum(max_clients=4, clip=4.0)).play(data).total
    assert total is not None
    assert total.contributors == frozenset(NAMES)
    truth = np.mean(list(data.values()), axis=0)
    assert np.abs(total.mean - truth).max() > 0.05  # a quarter of one update is missing, and nothing says so


@pytest.mark.parametrize("build", [PlainSum, MaskedSum, CkksSum, PaillierSum])
@pytest.mark.parametrize(
    "other",
    [
        {"clip": 4.0},
        {"bits": 15},
        {"max_clients": 5},
        {"max_weight": 2},
        {"metrics": {"loss": (0.0, 1.0)}},
        {"requirements": Requirements(corrupt_fraction=0.0)},
        {"requirements": Requirements(min_contributors=2)},
    ],
    ids=lambda other: next(iter(other)),
)
def test_ours_goes_on_without_the_one_that_differs(build: Any, other: dict[str, Any]) -> None:
    data = updates_of(NAMES)
    stage = mixed(build(max_clients=4), build(**{"max_clients": 4, **other}))
    # No key is needed to see it, so the cohort is not asked for more than its first step.
    box = stage.server.start(Round(0, tuple(NAMES), LENGTH))
    answers = {name: stage.tell(name, message, data[name]) for name, message in box.items()}
    assert {name for name, answer in answers.items() if refused(answer)} == {"d"}
    assert "parameters" in str(stage.clients["d"].refusal)


def test_the_round_ends_right_for_the_rest() -> None:
    data = updates_of(NAMES)
    outcome = mixed(MaskedSum(max_clients=4), MaskedSum(max_clients=4, clip=4.0)).play(data)
    assert outcome.total is not None
    assert set(outcome.dropped) == {"d"}
    assert np.abs(outcome.total.mean - np.mean([data[n] for n in "abc"], axis=0)).max() < 1e-4


@pytest.mark.parametrize(
    "protocol", [PlainSum(max_clients=4), MaskedSum(max_clients=4), CkksSum(max_clients=4)]
)
def test_the_integer_surface_is_another_protocol(protocol: Any) -> None:
    digests = {protocol.suite.digest, *(protocol.exact(max_summand=m).suite.digest for m in (1, 2))}
    assert len(digests) == 3


def test_a_length_that_differs_for_one_client_costs_it_its_place() -> None:
    """The signature on the keys covers the length, so the others do not deal shares to this client."""
    stage = Stage(MaskedSum(max_clients=4), NAMES)

    def longer(exchange: int, name: str, message: bytes) -> bytes:
        if exchange == 0 and name == "d":
            body = Announcement(stage.protocol.suite.digest, tuple(NAMES), LENGTH + 1)
            return stage.request(0, body)
        return message

    outcome = stage.play(updates_of(NAMES), request=longer)
    assert outcome.contributors == frozenset("abc")
    assert "signature" in outcome.dropped["d"]


def test_no_plan_gets_smaller_by_relaying_fewer_keys() -> None:
    """The plan is made for the cohort that was announced: fewer keys are refused, not planned for."""
    names = "abcdefghijkl"
    stage = Stage(MaskedSum(max_clients=12), names)
    relayed = request_of(CohortKeys, stage.open(updates_of(names), until=1)["a"])
    least = stage.protocol.plan(12).min_survivors
    assert least > stage.protocol.plan(4).min_survivors

    def relay(count: int) -> bytes:
        few = CohortKeys({name: relayed.keys[name] for name in names[:count]})
        return stage.tell("a", stage.request(1, few))

    assert refused(relay(4))
    assert refused(relay(least - 1))
    assert not refused(relay(least))
