"""A13: one party works with another clip, length, modulus or threshold than the rest.

A sum of integers on two different grids is a number without a meaning, and nobody notices: the weakened
copies, which do not compare parameters, return it. In ours the digest of all public parameters is in the
first request, under every signature, in every mask seed and in every tag; a party with others is refused.

The threshold, the degree and the smallest number of survivors are no parameters that anybody may send: each
client plans them for itself, and they are in the transcript under which it signs what it deals. The length of
the vector may change from round to round of MaskedSum's steady state, so it is in every mask seed: whoever
was told another one makes masks that the server can see would not cancel.

Not covered: parameters that are the same for all and bad for all.
"""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from itertools import permutations
from typing import Any

import numpy as np
import pytest

from protocols import (
    Adversary,
    CkksSum,
    IntegerSum,
    LatticeSum,
    MaskedSum,
    PaillierSum,
    PeerViolation,
    PlainSum,
    Requirements,
    Round,
    RoundAborted,
    plain,
)
from protocols.machine.client import ClientMachine
from protocols.masked import collecting, joining, server
from protocols.masked.members import Members
from protocols.masked.messages import SHARE_BYTES, Announcement, CohortKeys, CollectInput
from protocols.masked.server import MaskedServerSteps
from protocols.masked.transcript import commitment, mask_transcript
from tests.attacks.unmasked import rebuild
from tests.attacks.weakened import LENGTH, Stage, refused, request_of, updates_of

NAMES = "abcd"
FIVE = "abcde"


def mixed(protocol: Any, other: Any, names: str = NAMES) -> Stage:
    """A stage on which the last client runs `other`."""
    stage, last = Stage(protocol, names), names[-1]
    stage.clients[last] = ClientMachine(
        other.suite,
        identity=stage.identities[last],
        roster=stage.roster,
        session=stage.session,
        policy=None,
        entropy=stage.entropy(f"machine/{last}"),
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


@pytest.mark.parametrize("build", [PlainSum, MaskedSum, CkksSum, PaillierSum, LatticeSum])
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
        {"requirements": Requirements(adversary=Adversary.SEMI_HONEST)},
    ],
    ids=lambda other: str(next(iter(other))),
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
    data = updates_of(FIVE)
    outcome = mixed(MaskedSum(max_clients=5), MaskedSum(max_clients=5, clip=4.0), FIVE).play(data)
    assert outcome.total is not None
    assert set(outcome.dropped) == {"e"}
    assert np.abs(outcome.total.mean - np.mean([data[n] for n in "abcd"], axis=0)).max() < 1e-4


@pytest.mark.parametrize(
    "protocol",
    [PlainSum(max_clients=4), MaskedSum(max_clients=4), CkksSum(max_clients=4), LatticeSum(max_clients=4)],
)
def test_the_integer_surface_is_another_protocol(protocol: Any) -> None:
    digests = {protocol.suite.digest, *(protocol.exact(max_summand=m).suite.digest for m in (1, 2))}
    assert len(digests) == 3


SURFACES: dict[str, Callable[[Any], Any]] = {
    "unsigned": lambda protocol: protocol.exact(max_summand=511),
    "signed": lambda protocol: protocol.exact(max_abs=255),
    "modular": lambda protocol: protocol.modular(bits=11),
}
"""Among four clients all three take 11 bits a value: no message has another size."""


def test_two_integer_surfaces_in_one_sum_are_nonsense(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plain, "check_request", lambda *_, **__: None)
    unsigned, signed = (SURFACES[name](PlainSum(max_clients=4)) for name in ("unsigned", "signed"))
    data = {name: np.zeros(LENGTH, dtype=np.uint64) for name in "abc"} | {"d": np.full(LENGTH, -5)}
    total = mixed(unsigned, signed).play(data).total
    assert isinstance(total, IntegerSum)
    assert total.total.tolist() == [2**11 - 5] * LENGTH  # four may add up to 2044, so that nobody notices


@pytest.mark.parametrize("build", [PlainSum, MaskedSum, CkksSum, PaillierSum, LatticeSum])
@pytest.mark.parametrize(("here", "there"), list(permutations(SURFACES, 2)))
def test_ours_goes_on_without_the_one_on_another_surface(build: Any, here: str, there: str) -> None:
    protocol = build(max_clients=4)
    if "modular" in (here, there) and not protocol.sums_residues:
        return
    ours, theirs = SURFACES[here](protocol), SURFACES[there](protocol)
    assert ours.plan(4).ring_bits == theirs.plan(4).ring_bits
    data = {name: np.zeros(LENGTH, dtype=np.uint64 if here == "unsigned" else np.int64) for name in NAMES}
    stage = mixed(ours, theirs)
    box = stage.server.start(Round(0, tuple(NAMES), LENGTH))
    answers = {name: stage.tell(name, message, data[name]) for name, message in box.items()}
    assert {name for name, answer in answers.items() if refused(answer)} == {"d"}
    assert "parameters" in str(stage.clients["d"].refusal)


@pytest.mark.parametrize("build", [PlainSum, MaskedSum])
def test_equal_numbers_of_other_surfaces_are_other_parameters(build: Any) -> None:
    protocol = build(max_clients=4)
    surfaces = (protocol.exact(max_summand=9), protocol.exact(max_abs=9), protocol.modular(bits=9))
    assert len({protocol.suite.digest, *(each.suite.digest for each in surfaces)}) == 4


def test_a_length_that_differs_for_one_client_costs_it_its_place() -> None:
    """The signature on the keys covers the length, so the others do not deal shares to this client."""
    stage = Stage(MaskedSum(max_clients=5), FIVE)

    def longer(exchange: int, name: str, message: bytes) -> bytes:
        if exchange == 0 and name == "e":
            body = Announcement(stage.protocol.suite.digest, tuple(FIVE), LENGTH + 1)
            return stage.request(0, body)
        return message

    outcome = stage.play(updates_of(FIVE), request=longer)
    assert outcome.contributors == frozenset("abcd")
    assert "signature" in outcome.dropped["e"]


def other_length(stage: Stage) -> tuple[Any, bytes]:
    """A steady round in which one client is asked for fewer values; how it ends, and the client's answer."""
    stage.play(updates_of(FIVE))
    data, said = updates_of(FIVE), []

    def shorter(exchange: int, name: str, message: bytes) -> bytes | None:
        if (exchange, name) != (2, "e"):
            return message
        request = replace(request_of(CollectInput, message), length=SHORT)
        said.append(stage.tell(name, stage.request(2, request), data[name][:SHORT]))
        with suppress(PeerViolation):
            stage.server.receive(name, said[0])
        return None

    return stage.play(data, weights={"d": 2}, request=shorter), said[0]


WEIGHTED = MaskedSum(max_clients=5, max_weight=2)
SHORT = LENGTH - 1
"""One value less, which takes as many words as before: nothing but the transcript tells the vectors apart."""


def test_without_the_length_in_the_masks_two_lengths_are_summed(monkeypatch: pytest.MonkeyPatch) -> None:
    """All masks cancel, and the weight of the shorter vector stands where the others have a value."""
    for module in (server, collecting):

        def blind(*, length: int, **bound: Any) -> bytes:
            return mask_transcript(length=0, **bound)

        monkeypatch.setattr(module, "mask_transcript", blind)
    stage, data = Stage(WEIGHTED, FIVE), updates_of(FIVE)
    total = other_length(stage)[0].total
    assert total.contributors == frozenset(FIVE)
    assert total.total_weight == 5  # of weights 1, 1, 1, 2 and 1, and nobody notices
    truth = sum(data[name] * (1 + (name == "d")) for name in FIVE) / 6
    assert np.abs(total.mean - truth).max() > 0.01


def test_our_server_sees_that_the_masks_would_not_cancel() -> None:
    outcome, answer = other_length(Stage(WEIGHTED, FIVE))
    assert not refused(answer)  # the client cannot know; its masks are of use for that length only
    assert outcome.contributors == frozenset("abcd")
    assert "another transcript" in outcome.dropped["e"]


def test_no_plan_gets_smaller_by_relaying_fewer_keys() -> None:
    """The plan is made for the cohort that was announced: fewer keys are refused, not planned for."""
    names = "abcdefghijkl"
    stage = Stage(MaskedSum(max_clients=12), names)
    relayed = request_of(CohortKeys, stage.open(updates_of(names), until=1)["a"])
    least = stage.protocol.plan(12).min_survivors
    assert least > stage.protocol.plan(4).min_survivors
    members = Members(tuple(names))

    def relay(count: int) -> bytes:
        few = replace(relayed, advertised=members.bitmap(names[:count]), keys=relayed.keys[: count - 1])
        return stage.tell("a", stage.request(1, few))

    assert refused(relay(4))
    assert refused(relay(least - 1))
    assert not refused(relay(least))


class SmallerPlan(MaskedServerSteps):
    """A server that plans for a threshold of its own."""

    def close(self, context: Any, state: Any, present: frozenset[str]) -> Any:
        def plan(n: int, roster: int) -> Any:
            return replace(context.suite.plan(n, roster), threshold=2, min_survivors=2)

        return super().close(replace(context, suite=replace(context.suite, plan=plan)), state, present)


def test_clients_that_let_the_server_plan_share_under_its_threshold(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two of five holders then open everybody's secrets."""
    stage = Stage(MaskedSum(max_clients=5), FIVE, server_steps=SmallerPlan())
    monkeypatch.setattr(
        joining, "_plan", lambda context, n: replace(context.plan(n), threshold=2, min_survivors=2)
    )
    stage.open(updates_of(FIVE), until=3)
    view = stage.summing
    held: Any = {name: stage.clients[name]._state.held for name in "ab"}
    for dealer in range(5):
        shares = {name: held[name][dealer].reveal()[:SHARE_BYTES] for name in "ab"}
        seed = rebuild(view, FIVE[dealer], shares)
        promised = view.dealings.made[dealer].self_commitment
        assert commitment(view.epoch.context(0), dealer=dealer, kind=0, secret=seed) == promised


def test_our_clients_plan_for_themselves() -> None:
    """They share under their own threshold and sign for it, so that nothing they deal fits such a server."""
    stage = Stage(MaskedSum(max_clients=5), FIVE, server_steps=SmallerPlan())
    with pytest.raises(RoundAborted):
        stage.play(updates_of(FIVE))
    reasons = stage.server.record().record.dropped
    assert all("signature" in reasons[name] for name in FIVE)
    for client in stage.clients.values():
        state: Any = client._state
        assert state.view.epoch.threshold == stage.protocol.plan(5).threshold
