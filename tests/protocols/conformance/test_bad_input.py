"""The litany of arguments that cannot work: refused before anything runs, with a remedy and no value."""

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
    PlainSum,
    Requirements,
    RoundAborted,
    Segment,
    Session,
    Simulation,
    simulate,
)
from secagg.errors import SecAggError
from tests.protocols.conftest import TWO, Family, Vector, assert_right, updates_of

GOOD = updates_of("abc")
CANARY = 0.7318263354
"""A value of an update; no error may repeat it."""


class Stopped(Exception):
    """Something ran."""


@pytest.fixture
def nothing_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """From here on every message that a client or a server of any protocol handles is a failure."""
    from protocols.machine.client import ClientMachine
    from protocols.machine.server import ServerMachine

    def stop(*_: object, **__: object) -> None:
        raise Stopped

    for machine, methods in (
        (ClientMachine, ("receive", "contribute", "open")),
        (ServerMachine, ("receive", "advance")),
    ):
        for method in methods:
            monkeypatch.setattr(machine, method, stop)


def refused(protocol: Any, updates: Any, **arguments: Any) -> str:
    """The text of the refusal by `simulate`, and by a session that goes on."""
    with pytest.raises(ParameterError) as error:
        simulate(protocol, updates, **arguments)
    text = str(error.value)
    assert "73182" not in text
    arguments.pop("seed", None)
    session = Session(protocol, "abcdefgh"[:6])
    with pytest.raises(ParameterError):
        session.round(updates, **arguments)
    return text


def with_value(place: int, value: float) -> dict[str, Vector]:
    updates = {name: np.full(8, CANARY) for name in "abc"}
    updates["b"][place] = value
    return updates


# Updates


@pytest.mark.usefixtures("nothing_runs")
@pytest.mark.parametrize(
    ("updates", "said"),
    [
        ({}, "empty"),
        (None, "mapping"),
        ([np.zeros(3)] * 3, "mapping"),
        ({"a": np.zeros(3), "b": np.zeros(4), "c": np.zeros(3)}, "length"),
        ({"a": np.zeros(0), "b": np.zeros(0), "c": np.zeros(0)}, "empty"),
        ({**GOOD, "b": np.zeros((5, 1))}, "1-D"),
        ({**GOOD, "b": np.float64(1.0)}, "1-D"),
        ({**GOOD, "b": [0.0] * 5}, "1-D"),
        ({**GOOD, "b": np.zeros(5, dtype=np.float16)}, "float32"),
        ({**GOOD, "b": np.zeros(5, dtype=np.int64)}, "float32"),
        ({**GOOD, "b": np.zeros(5, dtype=complex)}, "float32"),
        ({**GOOD, "b": np.zeros(5, dtype=object)}, "float32"),
        ({**GOOD, "b": np.array(["x"] * 5)}, "float32"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_updates_of_the_wrong_form(family: Family, updates: Any, said: str) -> None:
    text = refused(family(), updates)
    assert said in text
    if isinstance(updates, dict) and "b" in updates and len(updates["a"]) != 0:
        assert "'b'" in text or "different" in text


@pytest.mark.usefixtures("nothing_runs")
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("place", [0, 5, 7])
def test_nan_and_infinity_name_the_client_and_the_index(family: Family, value: float, place: int) -> None:
    text = refused(family(), with_value(place, value))
    assert "'b'" in text
    assert str(place) in text
    assert "NaN" in text


@pytest.mark.usefixtures("nothing_runs")
def test_a_masked_array_does_not_hide_its_nan(family: Family) -> None:
    hidden = np.ma.masked_array(np.array([CANARY, np.nan]), mask=[False, True])
    text = refused(family(), {"a": np.zeros(2), "b": hidden, "c": np.zeros(2)})
    assert "'b'" in text


@pytest.mark.usefixtures("nothing_runs")
def test_segments_of_another_length(family: Family) -> None:
    protocol = family(clip=(Segment(length=2, clip=1.0), Segment(length=2, clip=2.0)))
    text = refused(protocol, GOOD)
    assert "5" in text
    assert "4" in text


# Clients


@pytest.mark.usefixtures("nothing_runs")
@pytest.mark.parametrize("names", [("a",), ("a", "b")])
def test_cohorts_under_the_minimum_name_the_remedy(family: Family, names: tuple[str, ...]) -> None:
    text = refused(family(), updates_of(names))
    assert "min_contributors" in text
    assert "Requirements(min_contributors=2)" in text


@pytest.mark.usefixtures("nothing_runs")
def test_cohorts_over_the_maximum_name_the_remedy(family: Family) -> None:
    assert "max_clients=5" in refused(family(max_clients=4), updates_of("abcde"))


@pytest.mark.parametrize(
    "name",
    ["", "server", "x" * 65, "a\nb", "\x00", "\ud800", 7, None, b"a", "ü" * 33],
    ids=lambda name: repr(name)[:9],
)
def test_names_that_no_client_can_have(family: Family, name: Any) -> None:
    with pytest.raises(ParameterError):
        simulate(family(), {"a": np.zeros(2), "b": np.zeros(2), name: np.zeros(2)})
    with pytest.raises(ParameterError):
        Session(family(), ["a", "b", name])


@pytest.mark.parametrize("names", [[], ["a", "a", "b"], "aab"])
def test_sessions_without_distinct_clients(family: Family, names: Any) -> None:
    with pytest.raises(ParameterError):
        Session(family(), names)


def test_any_printable_name_will_do(family: Family) -> None:
    updates = updates_of(["Zürich", "東京", "the first one", "x" * 64])
    assert_right(simulate(family(), updates).sum, family(), updates, updates)


@pytest.mark.usefixtures("nothing_runs")
def test_clients_that_the_session_does_not_know(family: Family) -> None:
    session = Session(family(), "abc")
    with pytest.raises(ParameterError, match="'d'"):
        session.round(updates_of("abd"))
    with pytest.raises(ParameterError):
        session.round({**updates_of("ab"), 7: np.zeros(5), "z": np.zeros(5)})  # type: ignore[dict-item]


# Weights, metrics, drops


@pytest.mark.usefixtures("nothing_runs")
@pytest.mark.parametrize("weight", [0, -1, -(10**9)])
def test_weights_below_one(family: Family, weight: int) -> None:
    text = refused(family(max_weight=10), GOOD, weights={"b": weight})
    assert "'b'" in text
    assert "at least 1" in text


@pytest.mark.usefixtures("nothing_runs")
def test_weights_above_the_maximum_name_the_value_to_pass(family: Family) -> None:
    text = refused(family(), GOOD, weights={"a": 1, "c": 303})
    assert "'c'" in text
    assert "max_weight=303" in text


def test_the_remedy_for_a_weight_works(family: Family) -> None:
    protocol = family(max_weight=303)
    assert_right(simulate(protocol, GOOD, weights={"c": 303}).sum, protocol, GOOD, GOOD, {"c": 303})


@pytest.mark.usefixtures("nothing_runs")
@pytest.mark.parametrize("weight", [1.0, True, "1", None, np.float64(1), [1]], ids=repr)
def test_weights_of_another_type(family: Family, weight: Any) -> None:
    assert "int" in refused(family(max_weight=10), GOOD, weights={"b": weight})


@pytest.mark.parametrize(
    "maximum", [{"max_weight": 100, "max_total_weight": 10}, {"max_weight": 10**5, "max_total_weight": 4}]
)
def test_a_total_weight_above_its_maximum_gives_no_sum(family: Family, maximum: dict[str, int]) -> None:
    protocol = family(max_clients=3, **maximum)
    session = Session(protocol, "abc")
    assert session.round(GOOD).total_weight == 3
    with pytest.raises(SecAggError) as error:
        session.round(GOOD, weights={"a": maximum["max_weight"]})
    assert isinstance(error.value, ParameterError | RoundAborted)
    if isinstance(error.value, ParameterError):
        assert "max_total_weight" in str(error.value)  # the remedy is the caller's
    assert session.round(GOOD).total_weight == 3


@pytest.mark.usefixtures("nothing_runs")
@pytest.mark.parametrize("argument", ["weights", "drop", "metrics"])
def test_names_outside_the_cohort(family: Family, argument: str) -> None:
    for name in ("z", "server", 7):
        text = refused(family(), GOOD, **{argument: {name: 1}})
        assert argument in text
        assert str(name) in text
        assert "'a'" in text, "the text says who is in the cohort"


@pytest.mark.usefixtures("nothing_runs")
@pytest.mark.parametrize("argument", ["weights", "drop", "metrics"])
@pytest.mark.parametrize("value", [["a"], "a", 3], ids=repr)
def test_arguments_that_are_no_mappings(argument: str, value: Any) -> None:
    refused(PlainSum(max_clients=6), GOOD, **{argument: value})


@pytest.mark.usefixtures("nothing_runs")
@pytest.mark.parametrize("step", ["AdvertiseKeyz", "", -1, 99, 1.0, True, None, ("Contribute",)], ids=repr)
def test_exchanges_that_do_not_exist(family: Family, step: Any) -> None:
    text = refused(family(), GOOD, drop={"b": step})
    assert "'b'" in text
    assert family().exchanges(first=True)[0] in text, "the text lists the exchanges"


@pytest.mark.usefixtures("nothing_runs")
@pytest.mark.parametrize(
    "metrics",
    [
        None,
        {"a": {"loss": 1.0}},
        {"a": {}, "b": {}, "c": {}},
        {name: {"loss": 1.0, "other": 1.0} for name in "abc"},
        {name: {"loss": 10.5} for name in "abc"},
        {name: {"loss": -0.1} for name in "abc"},
        {name: {"loss": float("nan")} for name in "abc"},
        {name: {"loss": "1"} for name in "abc"},
        {name: {"loss": True} for name in "abc"},
        dict.fromkeys("abc", 3),
    ],
    ids=repr,
)
def test_metrics_that_do_not_fit(family: Family, metrics: Any) -> None:
    text = refused(family(metrics={"loss": (0.0, 10.0)}), GOOD, metrics=metrics)
    assert "metric" in text
    assert "10.5" not in text


@pytest.mark.usefixtures("nothing_runs")
@pytest.mark.parametrize("seed", [-1, 2**128, 1.0, "7", True], ids=repr)
def test_seeds_that_are_none(family: Family, seed: Any) -> None:
    with pytest.raises(ParameterError, match="seed"):
        simulate(family(), GOOD, seed=seed)


def test_a_refused_round_leaves_the_session_as_it_was(family: Family) -> None:
    session = Session(family(requirements=TWO), "abcd")
    for bad in (updates_of("a"), updates_of("abz"), {"a": np.zeros(3), "b": np.zeros(4)}):
        with pytest.raises(ParameterError):
            session.round(bad)
    with pytest.raises(ParameterError):
        session.round(updates_of("abc"), model="text")  # type: ignore[arg-type]
    # It is still the first round: its exchanges can be named by their numbers.
    last = len(family().exchanges(first=True)) - 1
    run: Simulation = session.round(updates_of("abcd"), drop={"d": last})
    assert run.exchanges == last + 1
    assert set(run.dropped) == {"d"}
    assert_right(run.sum, family(), updates_of("abcd"), run.contributors)


# Constructors


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"clip": 0.0}, "clip"),
        ({"clip": -1.0}, "clip"),
        ({"clip": float("nan")}, "clip"),
        ({"clip": float("inf")}, "clip"),
        ({"clip": ()}, "clip"),
        ({"clip": "1"}, "clip"),
        ({"bits": 1}, "bits"),
        ({"bits": 33}, "bits"),
        ({"bits": 16.0}, "bits"),
        ({"max_clients": 1}, "max_clients"),
        ({"max_clients": 3.0}, "max_clients"),
        ({"max_clients": 2}, "max_clients"),
        ({"max_weight": 0}, "max_weight"),
        ({"max_weight": True}, "max_weight"),
        ({"max_total_weight": 0}, "max_total_weight"),
        ({"max_total_weight": 7}, "max_total_weight"),
        ({"metrics": {"loss": (1.0, 1.0)}}, "loss"),
        ({"metrics": {"loss": (0.0, float("inf"))}}, "loss"),
        ({"metrics": {"loss": (0.0,)}}, "metrics"),
        ({"metrics": {"loss": 1.0}}, "metric"),
        ({"metrics": {"loss": ("0", "1")}}, "loss"),
        ({"metrics": {7: (0.0, 1.0)}}, "metrics"),
        ({"metrics": ["loss"]}, "metrics"),
        ({"rounding": "nearest"}, "rounding"),
        ({"requirements": "three"}, "Requirements"),
        ({"requirements": Requirements(min_contributors=7)}, "max_clients"),
    ],
    ids=lambda value: value if isinstance(value, str) else repr(value)[:40],
)
def test_parameters_that_cannot_work(family: Family, arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(ParameterError, match=said):
        family(**arguments)


def test_servers_that_a_protocol_has_no_answer_to(consortium: Family) -> None:
    with pytest.raises(ParameterError, match="SEMI_HONEST"):
        consortium(requirements=Requirements(adversary=Adversary.MALICIOUS))


@pytest.mark.parametrize("adversary", Adversary)
def test_servers_that_a_protocol_has_an_answer_to(to_server: Family, adversary: Adversary) -> None:
    # PlainSum hides nothing from any server; MaskedSum runs one exchange more against the strongest.
    protocol = to_server(requirements=Requirements(adversary=adversary))
    assert protocol.plan(4).adversary is adversary
    checks = to_server.masked and adversary is Adversary.MALICIOUS
    for first in (True, False):
        assert ("ConsistencyCheck" in protocol.exchanges(first=first)) == checks


@pytest.mark.parametrize(
    "wide",
    [
        {"bits": 32, "max_clients": 2**20, "max_weight": 2**30},
        {"bits": 32, "max_clients": 2, "max_weight": 2**33, "requirements": TWO},
    ],
    ids=repr,
)
def test_sums_that_no_ring_holds(family: Family, wide: dict[str, Any]) -> None:
    with pytest.raises(ParameterError) as error:
        family(**wide)
    assert any(
        remedy in str(error.value) for remedy in ("max_weight", "max_total_weight", "bits", "max_clients")
    )


def test_sums_that_ckks_cannot_hold_name_the_callers_numbers() -> None:
    with pytest.raises(ParameterError) as error:
        CkksSum(bits=24, max_clients=10, max_weight=10**6)
    assert any(
        remedy in str(error.value) for remedy in ("max_weight", "max_total_weight", "bits", "max_clients")
    )


@pytest.mark.parametrize("bits", [0, 512, 1024, 2047, 2049, 8256, 2048.0, "3072", True], ids=repr)
def test_paillier_keys_of_a_length_that_is_refused(bits: Any) -> None:
    with pytest.raises(ParameterError, match=r"key_bits|2048"):
        PaillierSum(max_clients=3, key_bits=bits)


@pytest.mark.parametrize("protocol", [PlainSum, MaskedSum, CkksSum, PaillierSum, LatticeSum])
def test_parameters_are_keywords_and_frozen(protocol: Any) -> None:
    with pytest.raises(TypeError):
        protocol(1.0)
    made = protocol(max_clients=3)
    with pytest.raises(AttributeError):
        made.bits = 3
    assert made == protocol(max_clients=3)
    assert made != protocol(max_clients=4)


@pytest.mark.parametrize("count", [0, -1, 1.0, True, None])
def test_questions_about_no_clients(family: Family, count: Any) -> None:
    with pytest.raises(ParameterError):
        family().error_bound(count)
    with pytest.raises(ParameterError):
        family().plan(count)


@pytest.mark.parametrize("total_weight", [2, 0, -3, 3.0, True, "3"])
def test_questions_about_a_weight_that_no_three_clients_have(family: Family, total_weight: Any) -> None:
    with pytest.raises(ParameterError, match="total weight"):
        family().error_bound(3, total_weight=total_weight)


def test_plans_below_the_minimum(family: Family) -> None:
    with pytest.raises(ParameterError, match="min_contributors"):
        family().plan(2)
    assert family(requirements=TWO).plan(2).threshold >= 2
