"""D1: the server picks the cohort. It asks one honest client and as many corrupt ones as it likes.

Who takes part is the server's choice. A plan that counts corrupt clients in the cohort alone counts one of
three where all but the victim are corrupt: they take their own updates off a sum that every check allowed,
and what is left is the victim's. That works on the weakened copy, whose plans know no roster, against every
adversary that a plan can name. Ours counts the corrupt clients of the whole roster in every cohort, so that a
cohort is refused by each of its honest clients when it is announced, or two honest ones are left in whatever
is opened.

Not covered: more corrupt clients than `corrupt_fraction` of the roster; sums of two cohorts that differ in
one client (A10). CkksSum and PaillierSum fall to a client that colludes with the server, whatever the cohort
(C1); here the clients pool with each other, and the server chooses for them.
"""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from string import ascii_lowercase
from typing import Any

import numpy as np
import pytest

from protocols import (
    Adversary,
    CkksSum,
    LatticeSum,
    MaskedSum,
    PaillierSum,
    ParameterError,
    PeerViolation,
    Plan,
    Requirements,
    RoundAborted,
)
from protocols.consortium.messages import Contribution, Distribute
from protocols.machine.client import ClientMachine
from protocols.machine.server import ServerMachine
from protocols.machine.suite import Suite
from protocols.masked.server import MaskedServerSteps
from protocols.masked.server_states import Summing
from tests.attacks.stories import Cohort
from tests.attacks.weakened import LENGTH, Stage, Vector, refused, request_of, updates_of

VICTIM = "a"
TEN = ascii_lowercase[:10]
CORRUPT = "ij"
"""Two of ten, the default share."""
PAILLIER = partial(PaillierSum, key_bits=2048)
CONSORTIA = [
    pytest.param(CkksSum(max_clients=10), id="ckks"),
    pytest.param(PAILLIER(max_clients=10), id="paillier"),
]


def for_the_cohort(suite: Suite) -> Suite:
    """The same protocol with plans that know no roster."""

    def plan(n: int, roster: int) -> Plan:
        return suite.plan(n, n)

    return replace(suite, plan=plan)


class KnowsNoRoster(ClientMachine):
    """A client that plans for the cohort alone."""

    def __init__(self, suite: Suite, **others: Any) -> None:
        super().__init__(for_the_cohort(suite), **others)


class Chooses(ServerMachine):
    """A server that announces any cohort which would be one if it were the whole roster."""

    def __init__(self, suite: Suite, **others: Any) -> None:
        super().__init__(for_the_cohort(suite), **others)


def weakened(protocol: Any, names: str) -> Stage:
    machine: dict[str, type[ClientMachine]] = dict.fromkeys(names, KnowsNoRoster)
    return Stage(protocol, names, machine=machine, server_machine=Chooses)


def masked(adversary: Adversary) -> MaskedSum:
    return MaskedSum(max_clients=20, requirements=Requirements(adversary=adversary))


def is_the_victims(total: Any, data: dict[str, Vector], corrupt: str) -> bool:
    """Whether the victim's update is left when the corrupt clients take theirs off the sum."""
    left = total.mean * total.total_weight - sum(data[name] for name in corrupt)
    return bool(np.abs(left - data[VICTIM]).max() < 1e-3)


# One victim, all others corrupt


@pytest.mark.parametrize("adversary", Adversary)
def test_a_plan_for_the_cohort_alone_has_the_victim_read(adversary: Adversary) -> None:
    """Of twenty with four planned corrupt, two are enough: in a cohort of three one is planned for."""
    protocol, data = masked(adversary), updates_of(VICTIM + "st")
    stage = weakened(protocol, ascii_lowercase[:20])
    outcome = stage.play(data)
    assert outcome.contributors == data.keys()
    assert is_the_victims(outcome.total, data, "st")
    assert protocol.plan(20).corrupt == 4
    assert protocol.plan(3).corrupt == 1


@pytest.mark.parametrize("protocol", CONSORTIA)
def test_in_a_consortium_the_corrupt_clients_open_it_themselves(protocol: Any) -> None:
    stage, data = weakened(protocol, TEN), updates_of(VICTIM + CORRUPT)
    result = stage.play(data).result
    assert result is not None
    assert is_the_victims(stage.clients[CORRUPT[0]].open(result), data, CORRUPT)


OURS: dict[str, Any] = {
    **{f"masked {adversary.value}": masked(adversary) for adversary in Adversary},
    "ckks": CkksSum(max_clients=20),
    "paillier": PAILLIER(max_clients=20),
    "lattice": LatticeSum(max_clients=20),
    "lattice over paillier": LatticeSum(max_clients=20, keys=PAILLIER),
}


def cohorts() -> Iterator[str]:
    """The victim and all corrupt clients, with more and more honest ones; in the roster's order."""
    for size in range(len(CORRUPT) + 1, len(TEN) + 1):
        yield TEN[: size - len(CORRUPT)] + CORRUPT


def announce(stage: Stage, cohort: str) -> dict[str, bytes]:
    """What the honest clients answer to this cohort."""
    suite = stage.protocol.suite
    body = suite.requests[0](suite.digest, tuple(cohort), LENGTH)
    return {name: stage.tell(name, stage.request(0, body, round=0)) for name in cohort if name not in CORRUPT}


@pytest.mark.parametrize("name", OURS)
def test_ours_refuse_or_two_honest_clients_are_in_each_sum(name: str) -> None:
    protocol, planned = OURS[name], []
    for cohort in cohorts():
        stage = Stage(protocol, TEN)
        fresh = {each: stage.clients[each]._state for each in cohort}
        answers = announce(stage, cohort)
        try:
            plan = protocol.plan(len(cohort), roster=len(TEN))
        except ParameterError as error:
            assert {stage.clients[each].refusal for each in answers} == {str(error)}  # noqa: PT017
            assert all(map(refused, answers.values()))
            # Nothing was drawn, signed or released.
            assert all(stage.clients[each]._state is fresh[each] for each in answers)
            continue
        planned.append(len(cohort))
        assert not any(map(refused, answers.values()))
        assert plan.corrupt == len(CORRUPT)
        assert plan.sure_contributors - plan.corrupt >= 2
    assert planned == [4, 5, 6, 7, 8, 9, 10]  # all but the victim alone with the corrupt


@pytest.mark.parametrize("name", OURS)
def test_our_servers_announce_no_such_cohort(name: str) -> None:
    stage = Stage(OURS[name], TEN)
    with pytest.raises(ParameterError, match="a cohort of 3 from a roster of 10, of whom 2 may be corrupt"):
        stage.open(updates_of(VICTIM + CORRUPT), until=0)


class LosesAnybody(MaskedServerSteps):
    """A server that goes on with any survivors, whatever the plan and the clients ask for."""

    def close(self, context: Any, state: Any, present: frozenset[str]) -> Any:
        if isinstance(state, Summing):
            careless = replace(state.epoch, least=0, least_neighbours=0)
            state = replace(state, epoch=careless, minima=dict.fromkeys(state.minima, 0))
        return super().close(context, state, present)


@pytest.mark.slow
@pytest.mark.parametrize("adversary", Adversary)
def test_no_dropouts_leave_the_victim_alone_with_them(adversary: Adversary) -> None:
    """The server may also lose honest clients of a larger cohort, as many as it likes."""
    protocol = masked(adversary)
    for cohort in list(cohorts())[1:]:
        honest, plan = cohort[: -len(CORRUPT)], protocol.plan(len(cohort), roster=len(TEN))
        for lost in range(len(honest)):
            stage = Stage(protocol, TEN, server_steps=LosesAnybody())
            gone = dict.fromkeys(honest[len(honest) - lost :], 2)
            if len(cohort) - lost < plan.min_survivors:
                with pytest.raises(RoundAborted):
                    stage.play(updates_of(cohort), gone=gone)
                break
            contributors = stage.play(updates_of(cohort), gone=gone).contributors
            assert len(contributors - set(CORRUPT)) >= 2
        # Nor does a server that tells each of them another story open fewer than two of them (ATTACKS A2).
        if adversary is Adversary.SEMI_MALICIOUS:
            assert Cohort(plan).worst(most=1) is None


@pytest.mark.parametrize("protocol", CONSORTIA)
def test_a_consortiums_server_finishes_no_sum_of_so_few(protocol: Any) -> None:
    """Whatever its clients ask for: these ask for three, as a plan for three has it."""
    data = updates_of(TEN)
    stage = Stage(protocol, TEN, machine=dict.fromkeys(TEN, KnowsNoRoster))
    few = weakened(protocol, TEN)
    assert few.play(updates_of(VICTIM + CORRUPT)).contributors == set(VICTIM + CORRUPT)
    with pytest.raises(RoundAborted, match="3 contributors, at least 4 are needed"):
        stage.play(data, gone=dict.fromkeys(TEN[1:8], 2))
    assert stage.play(data, gone=dict.fromkeys(TEN[1:7], 2)).contributors == set("ahij")


@pytest.mark.parametrize("protocol", CONSORTIA)
def test_a_consortiums_clients_share_no_key_with_so_few(protocol: Any) -> None:
    stage = Stage(protocol, TEN)
    asked = stage.open(updates_of(TEN), until=1)
    custodian, message = next(iter(asked.items()))
    distribute = request_of(Distribute, message)
    few = {name: key for name, key in distribute.newcomers.items() if name in CORRUPT}
    assert refused(stage.tell(custodian, stage.request(1, replace(distribute, newcomers=few))))
    assert "a key for 3 clients; this client shares one from 4 on" in str(stage.clients[custodian].refusal)


@pytest.mark.parametrize("protocol", CONSORTIA)
def test_a_consortiums_clients_open_no_sum_of_so_few(protocol: Any) -> None:
    """A client with the key, and one that plans without the roster, get the sum of three others."""
    machine: dict[str, type[ClientMachine]] = dict.fromkeys(TEN[1:], KnowsNoRoster)
    stage = Stage(protocol, TEN, machine=machine, server_machine=Chooses)
    stage.play(updates_of(TEN))
    result = stage.play(updates_of("hij")).result
    assert result is not None
    assert stage.clients["b"].open(result).contributors == set("hij")
    with pytest.raises(PeerViolation, match="a sum of 3: a cohort of 3 from a roster of 10, of whom 2"):
        stage.clients[VICTIM].open(result)


@pytest.mark.parametrize("protocol", CONSORTIA)
def test_a_consortiums_clients_name_what_their_plan_asks_for(protocol: Any) -> None:
    """So the tag binds it, and holds among all who open the sum."""
    stage = Stage(protocol, TEN)
    stage.play(updates_of(TEN))
    assert {answer.minimum for answer in stage.answers(2, Contribution).values()} == {4}
