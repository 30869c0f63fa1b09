"""What `advise` recommends, whom it strikes out, and that what it recommends runs."""

import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from protocols import Adversary, Advice, Learner, MaskedSum, ParameterError, Session, advise
from protocols.advice.advice import Candidate


def names(advice: Advice) -> list[str]:
    """Those that can be had, the recommended one first."""
    return [each.name for each in advice.candidates if not each.refused]


def refusals(advice: Advice) -> dict[str, str]:
    return {each.name: each.refused for each in advice.candidates if each.refused}


ALL = {"MaskedSum", "LatticeSum", "LatticeSum over PaillierSum", "CkksSum", "PaillierSum"}


def test_by_default_a_client_may_collude_and_nobody_shares_a_key() -> None:
    advice = advise(50, 100_000)
    assert set(names(advice)) == {"MaskedSum", "LatticeSum"}
    assert set(refusals(advice)) == ALL - set(names(advice))
    assert all("colludes" in reason for reason in refusals(advice).values())
    assert "CkksSum: it falls to one client that colludes with the server." in str(advice)
    assert all(each.protocol is None and each.plan is None for each in advice.candidates if each.refused)


def test_where_no_client_colludes_all_are_considered() -> None:
    assert set(names(advise(50, 100_000, clients_may_collude=False))) == ALL


def test_whoever_runs_the_server_and_a_client_colludes_with_itself() -> None:
    advice = advise(50, 100_000, clients_may_collude=False, server_is_client=True)
    assert set(names(advice)) == {"MaskedSum", "LatticeSum"}
    plan = advice.best.plan
    assert plan is not None
    assert plan.corrupt == 1


def test_a_cohort_is_advised_on_for_all_who_are_corrupt_in_its_roster() -> None:
    plan = advise(10, 1_000, roster=20).best.plan
    assert plan is not None
    assert (plan.clients, plan.roster, plan.corrupt) == (10, 20, 4)
    assert advise(50, 1_000, roster=50).candidates == advise(50, 1_000).candidates
    large = advise(100, 1_000, roster=200, corrupt_fraction=0.1).best.plan
    assert large is not None
    assert large.corrupt == 20
    refused = advise(10, 1_000, roster=100)
    assert names(refused) == []
    assert "of whom 20 may be corrupt" in refusals(refused)["MaskedSum"]
    for roster in (9, 10.5, True):
        with pytest.raises(ParameterError, match="roster is"):
            advise(10, 1_000, roster=roster)  # type: ignore[arg-type]


def test_a_server_that_must_not_know_the_sum() -> None:
    advice = advise(50, 100_000, clients_may_collude=False, server_may_learn=False)
    assert set(names(advice)) == ALL - {"MaskedSum", "LatticeSum"}
    assert advice.best.protocol is not None
    assert advice.best.protocol.learns is Learner.CLIENTS
    assert "quantum computer" in str(advice)
    assert "any client together with the server" in str(advice)


def test_nothing_fits_and_it_says_so() -> None:
    advice = advise(50, 100_000, server_may_learn=False)
    assert names(advice) == []
    assert set(refusals(advice)) == ALL
    with pytest.raises(ParameterError, match="no protocol of this package fits") as raised:
        _ = advice.best
    assert "tells the server the sum" in str(raised.value)
    assert "tells the server the sum" in str(advice)


@pytest.mark.parametrize(
    ("lying", "adversary"), [(True, Adversary.MALICIOUS), (False, Adversary.SEMI_HONEST)]
)
def test_the_plan_answers_the_server_that_is_feared(lying: bool, adversary: Adversary) -> None:
    plan = advise(50, 100_000, server_may_lie=lying).best.plan
    assert plan is not None
    assert plan.adversary is adversary


def test_the_longer_the_vector_and_the_more_drop_out_the_better_for_the_lattice() -> None:
    def advantage(**conditions: Any) -> float:
        seconds = {each.name: each.round_seconds for each in advise(**conditions).candidates}
        return seconds["MaskedSum"] / seconds["LatticeSum"]

    lengths = [advantage(n=100, length=length) for length in (1000, 10_000, 100_000, 1_000_000)]
    assert lengths == sorted(lengths)
    assert lengths[0] < 1 < lengths[-1]
    drops = [advantage(n=500, length=100_000, dropout_fraction=share) for share in (0.0, 0.1, 0.3)]
    assert drops == sorted(drops)
    assert advise(100, 1000).best.name == "MaskedSum"
    assert advise(100, 1_000_000).best.name == "LatticeSum"


def test_a_fast_link_favours_whoever_computes_least() -> None:
    slow, fast = (advise(10, 1_000_000, megabits=rate) for rate in (1, 100_000))
    for advice in (slow, fast):
        ordered = [each.round_seconds for each in advice.candidates if not each.refused]
        assert ordered == sorted(ordered)
    assert slow.best.round_seconds > 10 * fast.best.round_seconds
    assert slow.best.sent == min(each.sent for each in slow.candidates if not each.refused)


HIDDEN = {"clients_may_collude": False, "server_may_learn": False}


@pytest.mark.parametrize("conditions", [{}, pytest.param(HIDDEN, marks=pytest.mark.slow)])
def test_bytes_are_those_of_a_real_round(conditions: dict[str, bool]) -> None:
    names, length = [f"client {index}" for index in range(8)], 20_000
    advice = advise(len(names), length, corrupt_fraction=0.125, dropout_fraction=0.1, **conditions)
    updates = {name: np.zeros(length, dtype=np.float32) for name in names}
    for each in advice.candidates:
        if each.refused or each.name == "PaillierSum":
            continue
        assert each.protocol is not None
        session = Session(each.protocol, names, seed=1)
        session.round({name: np.zeros(2, dtype=np.float32) for name in names})
        sent = session.round(updates).traffic[names[0]].sent
        assert each.sent == pytest.approx(sent, abs=1500)


def test_what_is_recommended_runs() -> None:
    protocol = advise(5, 100).best.protocol
    assert isinstance(protocol, MaskedSum)
    updates = {name: np.full(100, 0.25) for name in "abcde"}
    assert np.allclose(Session(protocol, "abcde", seed=1).round(updates).mean, 0.25, atol=1e-4)


def test_a_round_that_could_not_bear_its_losses_is_named() -> None:
    said = str(advise(3, 100, dropout_fraction=0.3))
    assert "3 of 3 must stay" in said
    assert "must stay" not in str(advise(50, 100))


def test_the_table_has_a_row_for_each_and_reasons_below() -> None:
    advice = advise(50, 100_000)
    table, reasons = str(advice).split("\n\n")
    rows = [re.split(r"\s{2,}", row) for row in table.splitlines()]
    assert rows[0] == ["protocol", "client s", "server s", "sends MB", "round s"]
    assert [row[0] for row in rows[1:]] == [each.name for each in advice.candidates]
    assert len(set(map(len, table.splitlines()))) == 1
    assert [row[1:] for row in rows[1:] if row[0] in refusals(advice)] == [["-"] * 4] * 3
    assert reasons.splitlines() == [f"- {reason}" for reason in advice.reasons]
    assert "opens to nobody" in reasons


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"n": 2}, "n is 2"),
        ({"n": 3.0}, "n is 3.0"),
        ({"length": 0}, "length is 0"),
        ({"length": True}, "length is True"),
        ({"dropout_fraction": 1.0}, "dropout_fraction is 1.0"),
        ({"corrupt_fraction": -0.1}, "corrupt_fraction is -0.1"),
        ({"megabits": 0}, "megabits is 0"),
        ({"megabits": float("nan")}, "megabits is nan"),
        ({"megabits": True}, "megabits is True"),
        ({"bits": 99}, "99"),
        ({"max_weight": 0}, "max_weight is 0"),
        ({"bits": 32, "max_weight": 1 << 40}, "bits"),
        ({"server_may_learn": None}, "server_may_learn is None"),
        ({"clients_may_collude": "no"}, "clients_may_collude is 'no'"),
    ],
)
def test_conditions_that_mean_nothing(arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(ParameterError, match=re.escape(said)):
        advise(**{"n": 10, "length": 100, **arguments})


def test_what_a_protocol_refuses_by_itself_is_passed_on() -> None:
    advice = advise(70_000, 1000)
    assert names(advice) == ["MaskedSum"]
    assert "65,536" in refusals(advice)["LatticeSum"]
    assert "LatticeSum: max_clients is 70000" in str(advice)


@pytest.mark.parametrize("n", [*range(3, 61), 77, 99, 119, 150, 211, 300])
@pytest.mark.parametrize("lying", [False, True])
def test_a_client_that_colludes_is_planned_for_whatever_the_cohort(n: int, lying: bool) -> None:
    for conditions in (
        {"clients_may_collude": False, "server_is_client": True},
        {"corrupt_fraction": 0.0},
    ):
        advice = advise(n, 1000, dropout_fraction=0.0, server_may_lie=lying, **conditions)
        plans = [each.plan for each in advice.candidates if each.plan is not None]
        assert len(plans) == 2
        assert {plan.corrupt for plan in plans} == {1}


@pytest.mark.parametrize("n", [10, 21, 35, 50, 91])
def test_a_plan_that_bears_the_losses_is_not_called_fragile(n: int) -> None:
    advice = advise(n, 1000)
    assert not advice.best.fragile
    assert "is aborted" not in str(advice)


def test_what_cannot_bear_the_losses_stands_behind_what_can() -> None:
    advice = advise(8, 1000, dropout_fraction=0.5, clients_may_collude=False)
    fragile = [each.fragile for each in advice.candidates if not each.refused]
    assert fragile == sorted(fragile)
    assert {False, True} == set(fragile)
    assert advice.best.protocol is not None
    assert advice.best.protocol.learns is Learner.CLIENTS


def test_a_server_that_lies_to_clients_who_learn_the_sum_is_named() -> None:
    hidden = {"clients_may_collude": False, "server_may_learn": False}
    assert "compare notes" in str(advise(20, 10**6, **hidden))
    assert "compare notes" not in str(advise(20, 10**6, server_may_lie=False, **hidden))


def test_candidates_are_values() -> None:
    candidate = Candidate(name="MaskedSum", refused="not today")
    assert replace(candidate, name="LatticeSum").refused == "not today"
