"""Requirements, the plan and its table, and the plan of those that share nothing."""

from dataclasses import FrozenInstanceError, replace
from fractions import Fraction
from math import ceil, floor
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocols import (
    Adversary,
    LatticeSum,
    MaskedSum,
    PaillierSum,
    ParameterError,
    PlainSum,
    Plan,
    Requirements,
)
from protocols.planning.requirements import ceil_fraction, check_size, floor_fraction, plan_unshared

PLAN = Plan(
    clients=1000,
    roster=1000,
    adversary=Adversary.MALICIOUS,
    degree=120,
    threshold=71,
    min_survivors=900,
    min_neighbours=72,
    corrupt=200,
    corrupt_neighbours=70,
    quorum=601,
    ring_bits=20,
    security_failure=2.0**-41.25,
    liveness_failure=2.0**-20.5,
    sure_contributors=73,
    sure_honest=3,
    exposure=0.0,
)


@pytest.mark.parametrize(
    ("fraction", "count", "below", "above"),
    # In binary 0.07 * 100 is above 7 and 0.29 * 100 below 29; decimals are exact.
    [
        (0.3, 10, 3, 3),
        (0.1, 30, 3, 3),
        (0.7, 10, 7, 7),
        (0.07, 100, 7, 7),
        (0.29, 100, 29, 29),
        (0.2, 3, 0, 1),
        (0.0, 9, 0, 0),
        (0.001, 1, 0, 1),
        (0.33, 10**6, 330_000, 330_000),
    ],
)
def test_fractions_are_decimals(fraction: float, count: int, below: int, above: int) -> None:
    assert floor_fraction(fraction, count) == below
    assert ceil_fraction(fraction, count) == above


@given(thousandths=st.integers(0, 999), count=st.integers(0, 2**20))
def test_fractions_round_as_exact_numbers_do(thousandths: int, count: int) -> None:
    exact = Fraction(thousandths, 1000) * count
    assert floor_fraction(thousandths / 1000, count) == floor(exact)
    assert ceil_fraction(thousandths / 1000, count) == ceil(exact)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"adversary": "semi-honest"}, "Adversary"),
        ({"adversary": None}, "Adversary"),
        ({"corrupt_fraction": 1.0}, "corrupt_fraction"),
        ({"corrupt_fraction": -0.01}, "corrupt_fraction"),
        ({"corrupt_fraction": float("nan")}, "corrupt_fraction"),
        ({"corrupt_fraction": True}, "corrupt_fraction"),
        ({"corrupt_fraction": "0.2"}, "corrupt_fraction"),
        ({"dropout_fraction": 1}, "dropout_fraction"),
        ({"dropout_fraction": None}, "dropout_fraction"),
        ({"min_contributors": 1}, "min_contributors"),
        ({"min_contributors": 0}, "min_contributors"),
        ({"min_contributors": 3.0}, "min_contributors"),
        ({"min_contributors": True}, "min_contributors"),
        ({"security_bits": 0}, r"security_bits .* \[1, 256\]"),
        ({"security_bits": 257}, "security_bits"),
        ({"liveness_bits": 20.0}, "liveness_bits"),
        ({"liveness_bits": 0}, "liveness_bits"),
        ({"grinding_bits": -1}, r"grinding_bits .* \[0, 128\]"),
        ({"grinding_bits": 129}, "grinding_bits"),
        ({"grinding_bits": 40.0}, "grinding_bits"),
        ({"grinding_bits": False}, "grinding_bits"),
    ],
    ids=repr,
)
def test_requirements_that_make_no_sense(arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(ParameterError, match=said):
        Requirements(**arguments)


@pytest.mark.parametrize(
    "arguments",
    [
        {"security_bits": 1, "liveness_bits": 1, "grinding_bits": 0},
        {"security_bits": 256, "liveness_bits": 256, "grinding_bits": 128},
        {"corrupt_fraction": 0, "dropout_fraction": 0, "min_contributors": 2},
    ],
    ids=repr,
)
def test_requirements_at_their_limits(arguments: dict[str, Any]) -> None:
    made = Requirements(**arguments)
    assert {name: getattr(made, name) for name in arguments} == arguments


def test_defaults() -> None:
    made = Requirements()
    assert made.adversary is Adversary.SEMI_MALICIOUS
    assert (made.corrupt_fraction, made.dropout_fraction) == (0.2, 0.3)
    assert (made.min_contributors, made.security_bits, made.liveness_bits) == (3, 40, 20)
    assert made.grinding_bits == 40
    with pytest.raises(TypeError):
        Requirements(Adversary.SEMI_HONEST)  # type: ignore[call-arg]


@pytest.mark.parametrize("number", [np.float64(0.2), np.float64(0.0), 0])
def test_equal_requirements_are_equal_whatever_type_the_number_had(number: Any) -> None:
    made = Requirements(corrupt_fraction=number, dropout_fraction=number)
    same = Requirements(corrupt_fraction=float(number), dropout_fraction=float(number))
    assert made == same
    assert hash(made) == hash(same)
    assert repr(made) == repr(same)


@pytest.mark.parametrize("adversary", Adversary)
@given(n=st.integers(1, 50), more=st.integers(0, 50), least=st.integers(2, 50), protects=st.booleans())
def test_a_plan_that_shares_nothing_needs_enough_contributors(
    adversary: Adversary, n: int, more: int, least: int, protects: bool
) -> None:
    requirements = Requirements(adversary=adversary, min_contributors=least)
    if n < least:
        with pytest.raises(ParameterError, match=f"a cohort of {n}, min_contributors is {least}"):
            plan_unshared(n, requirements, ring_bits=18, protects=protects, roster=n + more)
        with pytest.raises(ParameterError, match="min_contributors"):
            check_size(n, requirements)
        return
    corrupt = ceil(Fraction(1, 5) * (n + more)) if protects else 0
    needed = max(least, corrupt + 2) if protects and (n, corrupt) != (2, 1) else least
    if n < needed:
        with pytest.raises(ParameterError, match=f"{corrupt} .*may be corrupt"):
            plan_unshared(n, requirements, ring_bits=18, protects=protects, roster=n + more)
        return
    plan = plan_unshared(n, requirements, ring_bits=18, protects=protects, roster=n + more)
    assert (plan.clients, plan.roster, plan.adversary, plan.ring_bits) == (n, n + more, adversary, 18)
    assert plan.threshold == plan.min_survivors == plan.sure_contributors == needed
    assert plan.sure_honest == (needed - corrupt if protects else 0)
    assert least == check_size(n, requirements)
    assert (plan.degree, plan.min_neighbours, plan.quorum) == (0, 0, 0)
    assert (plan.corrupt, plan.corrupt_neighbours) == (corrupt, 0)
    # Any dropout is survived that leaves enough contributors; the planned one may not.
    lost = ceil_fraction(requirements.dropout_fraction, n)
    assert plan.liveness_failure == (1.0 if n - lost < needed else 0.0)
    assert (plan.security_failure, plan.exposure) == (0.0 if protects else 1.0, 0.0)
    assert (plan.client_sends, plan.client_receives) == (0, 0)


@pytest.mark.parametrize("roster", [4, 5.0, True, "5"])
def test_a_roster_has_at_least_its_cohort(roster: Any) -> None:
    with pytest.raises(ParameterError, match="a cohort of 5 from a roster of"):
        plan_unshared(5, Requirements(), ring_bits=18, protects=True, roster=roster)


def test_a_refusal_says_what_is_needed() -> None:
    def said(n: int, roster: int, **asked: Any) -> str:
        with pytest.raises(ParameterError) as caught:
            plan_unshared(n, Requirements(**asked), ring_bits=18, protects=True, roster=roster)
        return str(caught.value)

    assert said(3, 20) == (
        "a cohort of 3 from a roster of 20, of whom 4 may be corrupt and all of them in it: at least 6 "
        "clients are needed, or a corrupt_fraction of at most 0.05 agreed on by all"
    )
    assert said(2, 10, min_contributors=2).endswith("of at most 0.10 agreed on by all")
    assert "no cohort is large enough" in said(3, 10, corrupt_fraction=0.9)
    assert said(3, 3, corrupt_fraction=0.5) == (
        "2 of 3 clients may be corrupt, which leaves fewer than two honest ones: ask more clients, or lower "
        "corrupt_fraction to at most 0.33"
    )


def test_a_plan_is_a_value() -> None:
    assert replace(PLAN, client_sends=1) != PLAN
    assert hash(replace(PLAN)) == hash(PLAN)
    with pytest.raises(FrozenInstanceError):
        PLAN.degree = 2  # type: ignore[misc]
    with pytest.raises(TypeError):
        Plan(10, Adversary.SEMI_HONEST)  # type: ignore[call-arg]


def test_the_table_of_a_malicious_plan() -> None:
    assert str(replace(PLAN, client_sends=12_345, client_receives=67_890)) == "\n".join(
        [
            "clients           1000, up to 200 corrupt",
            "adversary         malicious",
            "graph             random Harary, 120 neighbours each",
            "threshold         71 shares rebuild a secret",
            "survivors needed  900, and 72 neighbours of each client",
            "quorum            601 signatures on the survivors",
            "ring              20 bits a value",
            "client sends      12,345 bytes and 2.5 a value",
            "client receives   67,890 bytes and the model",
            "security fails    2^-41.2",
            "liveness fails    2^-20.5",
            "revealed          who took part and the sum of at least 73 contributors, to the server",
            "                  that sum without their own updates, to the server and 200 clients",
            "sure and honest   at least 3 contributors of every sum that is opened",
        ]
    )


def test_the_table_says_what_the_cohort_was_chosen_from() -> None:
    chosen = plan_unshared(10, Requirements(), ring_bits=18, protects=True, roster=20)
    assert rows(chosen)["clients"] == "10 of a roster of 20, up to 4 corrupt"
    assert rows(replace(chosen, corrupt=0))["clients"] == "10 of a roster of 20"
    assert rows(replace(chosen, roster=10))["clients"] == "10, up to 4 corrupt"


def rows(plan: Plan) -> dict[str, str]:
    """The table by the names of its rows; lines without a name belong to the one above."""
    found: dict[str, str] = {}
    name = ""
    for line in str(plan).splitlines():
        name = line[:18].strip() or name
        found[name] = f"{found[name]}; {line[18:]}" if name in found else line[18:]
    return found


def test_the_table_says_what_is_known_and_no_more() -> None:
    table = rows(PLAN)
    assert "client sends" not in table
    assert "client receives" not in table
    assert "exposure" not in table
    plain = rows(replace(PLAN, quorum=0, corrupt=0, degree=999))
    assert "quorum" not in plain
    assert plain["clients"] == "1000"
    assert plain["graph"] == "complete, 999 neighbours each"
    assert plain["revealed"] == "who took part and the sum of at least 73 contributors, to the server"


@pytest.mark.parametrize(
    ("probability", "said"), [(0.0, "never"), (1.0, "certain"), (0.5, "2^-1.0"), (2.0**-300, "2^-300.0")]
)
def test_the_table_says_how_often_a_plan_fails(probability: float, said: str) -> None:
    assert rows(replace(PLAN, liveness_failure=probability))["liveness fails"] == said
    assert rows(replace(PLAN, security_failure=probability))["security fails"] == said


def test_the_table_says_when_the_server_sees_all() -> None:
    bare = plan_unshared(3, Requirements(), ring_bits=18, protects=False)
    assert rows(bare)["revealed"] == "every update, to the server"
    assert rows(bare)["graph"] == "none, clients share nothing"
    sealed = plan_unshared(3, Requirements(), ring_bits=18, protects=True)
    assert "the sum of at least 3 contributors" in rows(sealed)["revealed"]
    assert rows(sealed)["revealed"].endswith("without their own updates, to 1 clients of those")
    assert "threshold" not in rows(sealed)


def test_the_table_says_how_many_are_sure_and_honest() -> None:
    assert rows(PLAN)["sure and honest"] == "at least 3 contributors of every sum that is opened"
    assert rows(replace(PLAN, sure_honest=0))["sure and honest"] == "none is promised"


def test_a_lattice_plan_promises_what_sums_its_keys_promises() -> None:
    asked = {"max_clients": 500, "requirements": Requirements(adversary=Adversary.SEMI_HONEST)}
    for keys, honest in ((MaskedSum, 250), (PaillierSum, 2), (PlainSum, 0)):
        plans = [each.plan(500) for each in (LatticeSum(**asked, keys=keys), keys(**asked))]
        assert [plan.sure_honest for plan in plans] == [honest] * 2


def test_the_table_says_to_whom_one_update_opens_and_what_a_quantum_computer_opens() -> None:
    assert not {"one update", "quantum computer"} & rows(PLAN).keys()
    said = rows(replace(PLAN, one_update="opens to any client", post_quantum=False))
    assert said["one update"] == "opens to any client"
    assert said["quantum computer"] == "traffic recorded today opens to it"
    assert "stays closed" in rows(replace(PLAN, post_quantum=True))["quantum computer"]


def test_the_table_says_who_is_exposed() -> None:
    said = rows(replace(PLAN, exposure=2.0**-16, sure_contributors=3))["exposure"]
    assert said.startswith("at most 2^-16.0: ")
    assert "fewer than 3 honest contributors" in said
    assert rows(replace(PLAN, exposure=1.0))["exposure"].startswith("not excluded: ")
