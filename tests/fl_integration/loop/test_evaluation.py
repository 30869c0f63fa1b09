"""A central test set against scikit-learn, functions of one's own, and what `evaluate=` may be."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sklearn.metrics import accuracy_score, log_loss, r2_score, roc_auc_score
from torch import nn

from fl_integration.loop.evaluation import Central, Custom, EarlyStopping, OnSites, Task, evaluation_of
from secagg.errors import ParameterError

ANY = [(np.zeros(1), np.zeros(1))]
IDENTITY = nn.Identity()


def said(prediction, label, task=Task.BINARY, loss=None) -> dict[str, float]:
    return Central([(np.asarray(prediction), np.asarray(label))], task=task, loss=loss).metrics(IDENTITY)


binary = st.integers(2, 40).flatmap(
    lambda n: st.tuples(
        arrays(np.float64, n, elements=st.floats(-30, 30) | st.sampled_from([0.0, -0.0, 1.0])),
        arrays(np.int64, n, elements=st.integers(0, 1)),
    )
)


@given(binary)
def test_a_central_auc_is_exact(drawn):
    logit, label = drawn
    found = said(logit, label)
    assert found["accuracy"] == accuracy_score(label, logit > 0)
    if label.min() == label.max():
        assert list(found) == ["loss", "accuracy", "examples"]
    else:
        assert list(found) == ["loss", "auc", "accuracy", "examples"]
        assert found["auc"] == pytest.approx(roc_auc_score(label, logit), abs=1e-12)


def test_central_metrics_of_classes_and_of_numbers():
    rng = np.random.default_rng(1)
    logits, label = rng.normal(size=(2000, 4)), rng.integers(0, 4, 2000)
    found = said(logits, label, Task.MULTICLASS)
    probability = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    assert found == {
        "loss": pytest.approx(log_loss(label, probability), abs=1e-9),
        "accuracy": accuracy_score(label, logits.argmax(axis=1)),
        "examples": 2000,
    }
    target = rng.normal(5, 3, 2000)
    prediction = target + rng.normal(0, 1, 2000)
    found = said(prediction, target, Task.REGRESSION)
    mse = np.mean((prediction - target) ** 2)
    assert found == {
        "loss": pytest.approx(mse),
        "rmse": pytest.approx(math.sqrt(mse)),
        "r2": pytest.approx(r2_score(target, prediction)),
        "mse": pytest.approx(mse),
        "examples": 2000,
    }
    assert "r2" not in said(prediction[:5], np.full(5, 2.0), Task.REGRESSION)


def test_the_sites_and_a_central_set_agree():
    rng = np.random.default_rng(2)
    label = rng.integers(0, 2, 900)
    logit = rng.normal(label, 1)
    data = [(logit, label)]
    sites = OnSites({"a": data}, task=Task.BINARY)
    found, exact = sites.metrics(sites.counts(IDENTITY, data)), said(logit, label)
    assert abs(found["auc"] - exact["auc"]) <= found["auc_error"]
    assert abs(found["loss"] - exact["loss"]) < 1e-9
    assert (found["accuracy"], found["examples"]) == (exact["accuracy"], exact["examples"])


def test_a_diverged_model_shows_centrally():
    found = said([np.nan] * 4, [0, 1, 0, 1])
    assert math.isnan(found["loss"])
    assert (found["auc"], found["accuracy"]) == (0.5, 0)
    found = said([np.inf, 1.0], [0.0, 1.0], Task.REGRESSION)
    assert (found["mse"], found["r2"]) == (math.inf, -math.inf)


def test_a_central_set_is_read_anew_each_time():
    x, y = torch.randn(10, generator=torch.Generator().manual_seed(0)), torch.arange(10) % 2
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, y), batch_size=3)
    evaluate, state = Central(loader, task=Task.BINARY), torch.get_rng_state()
    assert evaluate.metrics(IDENTITY) == evaluate.metrics(IDENTITY) == said(x, y)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"task": "binary"}, "task is 'binary'; it must be one of Task"),
        ({"data": 5}, r"data is a int; it must be a list of pieces \(x, y\)"),
        ({"data": {"a": ANY}}, "data is a dict; it must be a list of pieces"),
        ({"data": iter(ANY)}, "data can be read once only; make it a list"),
        ({"loss": 5}, "loss is a int; it must be a function"),
        ({"every": -1}, "every is -1; it must be an int of at least 1"),
        (
            {"stop": EarlyStopping("accuracy"), "task": Task.REGRESSION},
            "asks for 'accuracy'; the",
        ),
    ],
)
def test_bad_arguments_of_a_central_set_are_refused(arguments, message):
    arguments = {"data": ANY, "task": Task.BINARY, **arguments}
    with pytest.raises(ParameterError, match=message):
        Central(arguments.pop("data"), **arguments)


def test_a_central_set_without_examples_is_refused():
    with pytest.raises(ParameterError, match="there are no examples"):
        Central([], task=Task.BINARY).metrics(IDENTITY)


def test_every_metric_that_is_named_is_there():
    label = np.array([0, 1, 0, 1])
    for task, prediction in (
        (Task.BINARY, np.arange(4.0)),
        (Task.MULTICLASS, np.eye(4)),
        (Task.REGRESSION, np.arange(4.0)),
    ):
        central = Central([(prediction, label)], task=task)
        assert central.names == tuple(central.metrics(IDENTITY))
        bounds = (0, 1) if task is Task.REGRESSION else None
        sites = OnSites({"a": ANY}, task=task, target_range=bounds)
        assert sites.names == tuple(sites.metrics(sites.counts(IDENTITY, [(prediction, label)])))


# --- a function of one's own -----------------------------------------------------------------------------


def test_a_function_is_asked_with_round_and_model_and_leaves_no_trace():
    asked = []

    def metric(number, model):
        asked.append((number, model, model.training))
        torch.rand(5)
        model.train()
        return {"dice": np.float32(0.5), "count": np.int64(3)}

    model, state = nn.Sequential(nn.Dropout(0.5)).train(), torch.get_rng_state()
    found = evaluation_of(metric).metrics(7, model)
    assert found == {"dice": 0.5, "count": 3.0}
    assert all(type(value) is float for value in found.values())
    assert asked == [(7, model, False)]
    assert model.training
    assert model[0].training
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (0.5, "the evaluation gave a float; it maps names to numbers"),
        (None, "the evaluation gave a NoneType; it maps names to numbers"),
        ({"dice": "high"}, "the evaluation gave 'dice': a str; it maps names to numbers"),
        ({"dice": True}, "the evaluation gave 'dice': a bool"),
        ({3: 0.5}, "the evaluation gave 3: a float"),
        ({"dice": torch.ones(2)}, "the evaluation gave 'dice': a Tensor"),
    ],
)
def test_a_function_that_gives_no_metrics_is_refused(answer, message):
    with pytest.raises(ParameterError, match=message):
        Custom(lambda number, model: answer).metrics(0, IDENTITY)


def test_what_evaluate_may_be():
    sites, central = OnSites({"a": ANY}, task=Task.BINARY), Central(ANY, task=Task.BINARY)
    custom = Custom(lambda number, model: {}, every=3, stop=EarlyStopping("loss"))
    assert [evaluation_of(each) for each in (sites, central, custom, None)] == [sites, central, custom, None]
    assert evaluation_of(lambda number, model: {}).every == 1


@pytest.mark.parametrize("evaluate", [0, "auc", {"auc": 1}, Central, ANY])
def test_anything_else_is_refused(evaluate):
    with pytest.raises(ParameterError, match=r"evaluate is a \w+; it must be OnSites\(…\), Central\(…\)"):
        evaluation_of(evaluate)


@pytest.mark.parametrize("arguments", [{"every": 0}, {"stop": "auc"}])
def test_a_custom_evaluation_has_the_same_schedule(arguments):
    with pytest.raises(ParameterError, match=next(iter(arguments))):
        Custom(lambda number, model: {}, **arguments)


def test_a_custom_evaluation_needs_a_function():
    with pytest.raises(ParameterError, match="function is a float; it must be"):
        Custom(0.5)
