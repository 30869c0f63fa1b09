"""Rounds over NVFlare, under every protocol: what comes out is what anybody would have found in the clear."""

from functools import partial
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from nvflare.collab import collab
from nvflare.collab.api.module_wrapper import wrap_if_module

from fl_integration.nvflare import Enrolment, SecureClients, secure_aggregation
from protocols import LatticeSum, MaskedSum, PlainSum, Rounding
from secagg.errors import ParameterError
from secagg.secret import Secret
from tests.fl_integration.nvflare.stage import (
    ACCURACY,
    MASKED,
    PATIENCE,
    PLAIN,
    Study,
    by,
    finds,
    mean_of,
    moved,
    near,
    zeros,
)
from tests.fl_integration.waiting import Time

SERVERS = [
    pytest.param(PLAIN, id="plain"),
    pytest.param(MASKED, id="masked"),
    pytest.param(
        LatticeSum(keys=MaskedSum, max_clients=4, max_weight=1000), id="lattice", marks=pytest.mark.slow
    ),
]
"""Every protocol whose server learns the sum; `test_clients_learn` has the others."""


@pytest.mark.parametrize("protocol", SERVERS)
def test_a_round_moves_the_model_by_the_weighted_mean(tmp_path: Path, protocol: Any) -> None:
    study = Study(tmp_path, protocol=protocol)
    model = {
        "w": np.linspace(-1, 1, 6, dtype=np.float32).reshape(2, 3),
        "half": np.array([0.5, -0.5], np.float16),
        "steps": np.array([3, 4], np.int64),
        "scalar": np.array(2.0, np.float64),
        "mask": np.array([True, False]),
    }
    before = {name: value.copy() for name, value in model.items()}
    with study.secure() as secure:
        first = secure.train(model)
        second = secure.train(first.model, {"lr": 0.5})
    for name, value in model.items():
        np.testing.assert_array_equal(value, before[name])  # the caller's own
        for outcome in (first, second):
            assert (outcome.model[name].dtype, outcome.model[name].shape) == (value.dtype, value.shape)
    assert list(second.model) == list(model)
    step = mean_of("a", "b", "c")
    for name in ("w", "half", "scalar"):
        np.testing.assert_allclose(first.model[name] - model[name], step, atol=1e-3)
        np.testing.assert_allclose(second.model[name] - model[name], 1.5 * step, atol=2e-3)
    for name in ("steps", "mask"):
        np.testing.assert_array_equal(second.model[name], model[name])
    assert (first.weight, first.contributors, first.lost, first.aborted) == (60, ("a", "b", "c"), {}, "")
    assert first.metrics == {}


def test_metrics_that_the_protocol_names_are_summed_within_their_range(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    study = Study(tmp_path, protocol=PlainSum(max_weight=1000, metrics={"loss": (0.0, 2.0)}))
    for name, loss in zip("abc", (0.5, np.float32(1.0), 7.0), strict=True):
        study.join(name, by(0.1, 10, loss=loss, private=3.0))
    outcome = study.train()
    assert outcome.metrics == {"loss": pytest.approx((0.5 + 1.0 + 2.0) / 3, abs=1e-3)}
    assert "'loss' is outside its range [0.0, 2.0] and counts as its end" in caplog.text


def test_an_evaluation_is_a_sum_of_its_own(tmp_path: Path) -> None:
    study = Study(tmp_path, protocol=MASKED, evaluate_metrics=ACCURACY)
    seen: list[Any] = []

    def evaluate(model: dict[str, Any], config: dict[str, Any]) -> dict[str, Any]:
        seen.append((model, config))
        return {"num-examples": 30, "accuracy": np.float64(0.9)}

    study.join("a", by(0.1), evaluate=evaluate)
    model = {"w": np.arange(8, dtype=np.float32)}
    with study.secure() as secure:
        outcome = secure.evaluate(model, {"batch": 16})
    assert (outcome.weight, outcome.contributors) == (50, ("a", "b", "c"))
    assert outcome.metrics == {"accuracy": pytest.approx((30 * 0.9 + 20 * 0.5) / 50, abs=1e-3)}
    np.testing.assert_array_equal(outcome.model["w"], model["w"])
    np.testing.assert_array_equal(seen[0][0]["w"], model["w"])
    assert seen[0][1] == {"batch": 16}


def test_the_sum_is_all_that_the_server_is_told(tmp_path: Path) -> None:
    study = Study(tmp_path, protocol=MASKED)
    update = (np.full(8, 0.1, np.float32) * 10).tobytes()
    for name in "abc":
        study.join(name, by(0.1, 10))
    study.train()
    for name in "abc":
        assert study.job.heard(name)
        for reply in study.job.heard(name):
            assert set(reply["result"]) == {"head", "body"}
            for given_away in (update, b"num-examples"):
                assert given_away not in reply["result"]["body"]


def test_functions_of_a_module_work_as_an_objects_attribute_does(tmp_path: Path) -> None:
    study, module = Study(tmp_path), ModuleType("hospital")
    vars(module)["anything"] = study.door(by(0.1))
    vars(module)["train"] = by(0.1)
    study.job.join("a", wrap_if_module(module))

    class Hospital:
        """As users write one: its methods, and what it publishes."""

        def __init__(self, step: float = 0.2) -> None:
            self.step = step
            self.secure = secure_aggregation(study.protocol, study.enrol, train=self.train)

        def train(self, model: dict[str, Any], config: dict[str, Any]) -> Any:
            return by(self.step, 20)(model, config)

    study.job.join("b", Hospital())
    assert moved(study.train()) == near(mean_of("a", "b", "c"))
    assert set(study.job.sites["b"].app.get_collab_interface()["client"]) == {"secure"}


def test_a_function_may_change_the_arrays_that_it_was_given(tmp_path: Path) -> None:
    study = Study(tmp_path)

    def train(model: dict[str, Any], config: dict[str, Any]) -> Any:
        model["w"] += np.float32(0.1)
        config["list"].append(1)
        return model, {"num-examples": 10}

    study.join("a", train)
    with study.secure() as secure:
        for _ in range(2):
            assert moved(secure.train(zeros(), {"list": [0]})) == near(mean_of("a", "b", "c"))


def test_a_cohort_of_some_sites_by_name(tmp_path: Path) -> None:
    study = Study(tmp_path, names="abcd")
    with study.secure() as secure:
        assert secure.sites() == ("a", "b", "c", "d")
        outcome = secure.train(zeros(), sites=["d", "b", "a", "b"])
        assert (outcome.contributors, outcome.lost) == (("a", "b", "d"), {})
        assert moved(outcome) == near(mean_of("a", "b", "d"))
        assert len(study.steps("c")) == 0
        with pytest.raises(ParameterError, match="the job has no site 'e'; it has a, b, c, d"):
            secure.train(zeros(), sites=["a", "e"])
        with pytest.raises(ParameterError, match="sites is a list of names"):
            secure.train(zeros(), sites="abc")


def test_a_training_takes_what_the_round_has_and_not_nvflares_minute(tmp_path: Path, time: Time) -> None:
    study, asked = Study(tmp_path), []
    real = study.job.deliver

    def deliver(target: str, method: str, arguments: dict[str, Any]) -> Any:
        asked.append((bool(arguments["secagg_shown"]), time.now))
        return real(target, method, arguments)

    study.job.deliver = deliver  # type: ignore[method-assign]  # what a call is given, beside what it says
    study.job.sites["c"].mute = lambda nth: nth > 0
    with study.secure(patience=PATIENCE) as secure:
        outcome = secure.train(zeros(), seconds=500.0)
    assert outcome.lost == {"c": "no answer in time"} or outcome.aborted
    assert 490 < time.now <= 500 + 2 * PATIENCE.exchange


def test_a_server_started_anew_goes_on_in_its_session(tmp_path: Path) -> None:
    study, given = (
        Study(tmp_path, protocol=MASKED),
        {
            "state_dir": tmp_path / "server",
            "state_key": Secret(bytes(range(32))),
        },
    )
    first = study.train(**given)
    calls = len(study.steps("a"))
    study.train(**given)
    assert first.aborted == ""
    assert len(study.steps("a")) - calls == len(MASKED.exchanges(first=False))
    study.train()  # with no state another session begins, keys and all
    assert len(study.steps("a")) - calls == len(MASKED.exchanges(first=False)) + len(
        MASKED.exchanges(first=True)
    )


def test_the_run_ends_where_the_job_is_aborted(tmp_path: Path) -> None:
    from nvflare.collab.api.exceptions import RunAborted

    study = Study(tmp_path)
    study.job.sites["c"].deaf = lambda nth: True
    with study.secure() as secure:
        study.job.abort.trigger("stop")
        with pytest.raises(RunAborted, match="the job was aborted while a secure sum waited for its sites"):
            secure.train(zeros())


# What can never work


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"rounds": 0}, "rounds is 0; it is how many training rounds will run"),
        ({"rounds": True}, "rounds is True"),
        ({"roster": "roster.txt"}, "roster is a str; pass a Roster"),
        ({"study": ""}, "study is ''; it names the training in 1 to 255 bytes"),
        ({"evaluate_metrics": {}}, "evaluate_metrics is empty"),
        ({"state_dir": "x"}, "state_dir and state_key go together"),
        ({"published": ""}, "published is ''; it is the name of what the sites publish"),
        ({"published": 1}, "published is 1"),
    ],
)
def test_a_server_says_what_it_cannot_work_with(tmp_path: Path, given: Any, message: str) -> None:
    study = Study(tmp_path)
    with pytest.raises(ParameterError, match=message), study.secure(**given):
        pass


def test_a_protocol_is_one_of_this_library(tmp_path: Path) -> None:
    study = Study(tmp_path)
    with (
        study.job.main(),
        pytest.raises(ParameterError, match="protocol is a str; pass one such as MaskedSum"),
    ):
        SecureClients("MaskedSum", roster=study.roster)  # type: ignore[arg-type]  # what is refused


def test_a_site_with_a_name_that_no_member_has_is_refused_at_the_start(tmp_path: Path) -> None:
    study = Study(tmp_path)
    study.job.join("x" * 65, SimpleNamespace())
    with pytest.raises(ParameterError, match="has a name of more than 64 bytes"), study.secure():
        pass


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (({},), "the model has no arrays"),
        ((None,), "the model has no arrays"),
        (([np.zeros(2)],), "the model has no arrays"),
        (({"w": [0.0]},), "the model's 'w' is of type list; a model is numpy arrays by name"),
        (({"w": np.array(["x"])},), "the model's 'w' is of dtype <U1"),
        (({"w": np.zeros(2, np.complex64)},), "dtype complex64"),
        (({1: np.zeros(2)},), "the model has a name of type int; names are str"),
        ((zeros(), [1]), "config is a list; it is values by name, or None"),
        ((zeros(), {"lr": None}), r"config\['lr'\] is a NoneType"),
        ((zeros(), {"lr": {"a": 1}}), r"config\['lr'\] is a dict"),
        ((zeros(), {"lr": [[1]]}), r"config\['lr'\] is a list, or holds something else"),
        ((zeros(), {"n": 1 << 63}), r"config\['n'\] is an integer of more than 64 bits; send it as a str"),
        ((zeros(), {2: 1}), "the config has a name of type int"),
    ],
)
def test_a_round_says_what_it_cannot_show(tmp_path: Path, arguments: Any, message: str) -> None:
    study = Study(tmp_path)
    with study.secure() as secure, pytest.raises(ParameterError, match=message):
        secure.train(*arguments)
    assert not study.job.sent


@pytest.mark.parametrize("seconds", [0.0, -1.0, float("nan"), float("inf"), True, "60"])
def test_nobody_is_waited_for_without_an_end(tmp_path: Path, seconds: Any) -> None:
    study = Study(tmp_path)
    with study.secure() as secure, pytest.raises(ParameterError, match="it is seconds: a finite number"):
        secure.train(zeros(), seconds=seconds)


def test_no_evaluation_without_a_metric_that_is_summed(tmp_path: Path) -> None:
    study = Study(tmp_path)
    with (
        study.secure() as secure,
        pytest.raises(ParameterError, match="no metric of an evaluation is summed"),
    ):
        secure.evaluate(zeros())


def test_more_sites_than_the_protocol_is_made_for(tmp_path: Path) -> None:
    study = Study(tmp_path, protocol=PlainSum(max_weight=1000, max_clients=3), names="abcd")
    with study.secure() as secure, pytest.raises(ParameterError, match="max_clients"):
        secure.train(zeros())


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"train": "train"}, "train is a str; it is a function"),
        ({"enrol": None}, "enrol is a NoneType; it is a function"),
        ({"evaluate": finds()}, "evaluate, a function, and evaluate_metrics, the ranges"),
        ({"evaluate_metrics": ACCURACY}, "evaluate, a function, and evaluate_metrics, the ranges"),
        ({"evaluate": 1, "evaluate_metrics": ACCURACY}, "evaluate, a function"),
        ({"study": 1}, "study is 1; it names the training"),
        ({"in_the_clear": "version"}, r"in_the_clear is a tuple of names of published methods, such as"),
        ({"in_the_clear": (1,)}, r"in_the_clear is a tuple of names of published methods, such as"),
        ({"server_optimiser": "adam"}, "server_optimiser is one of FedAvg"),
        (
            {"weighted_by_key": "loss", "protocol": PlainSum(metrics={"loss": (0, 1)})},
            "a metric is named 'loss'",
        ),
        ({"protocol": "MaskedSum"}, "protocol is a str"),
    ],
)
def test_a_site_says_what_it_cannot_work_with(given: Any, message: str) -> None:
    arguments = {"protocol": PLAIN, "enrol": partial(str), "train": by(0.1), **given}
    with pytest.raises(ParameterError, match=message):
        secure_aggregation(arguments.pop("protocol"), arguments.pop("enrol"), **arguments)


def test_an_optimiser_at_the_sites_is_for_protocols_whose_clients_learn() -> None:
    from fl_integration.loop.optimisers import FedAdam

    with pytest.raises(ParameterError, match="whose main function moves the model; server_optimiser is for"):
        secure_aggregation(PLAIN, str, train=by(0.1), server_optimiser=FedAdam(learning_rate=0.1))


def test_rounding_is_of_both_sides(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    study = Study(tmp_path)
    study.protocol = PlainSum(max_weight=1000, rounding=Rounding.NEAREST)
    study.join("a", by(0.1))
    study.protocol = PLAIN
    outcome = study.train()
    assert outcome.aborted
    assert "the server goes by train: PlainSum(" in caplog.text


def test_two_studies_of_one_app_are_told_apart_by_name(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    study = Study(tmp_path)

    def enrol(site: str) -> Enrolment:
        return Enrolment(identity=study.ids[site], roster=study.roster, state_dir=tmp_path / f"second-{site}")

    for name in "abc":
        second = study.door(by(0.5), enrol=enrol, study="second")
        study.job.join(name, SimpleNamespace(first=study.door(by(0.25)), second=second))
    assert moved(study.train(published="first")) == near(0.25)
    assert moved(study.train(published="second", study="second")) == near(0.5)
    assert study.train().aborted
    assert "it publishes more than one secure_aggregation(...): name one, published=" in caplog.text
    assert study.train(published="third").aborted
    assert "it publishes no secure_aggregation(...) as 'third'" in caplog.text


def test_what_else_the_server_calls_is_collabs_own_affair(tmp_path: Path) -> None:
    study = Study(tmp_path)
    door = study.door(by(0.1), in_the_clear=("version",))
    study.job.join("a", SimpleNamespace(secure=door, version=collab.publish(lambda: "1.2")))
    with study.secure() as secure:
        assert moved(secure.train(zeros())) == near(mean_of("a", "b", "c"))
        assert list(collab.get_clients(["a"])(blocking=False, timeout=5.0).version()) == [("a", "1.2")]
