"""Counts over the sites' examples: against the pooled examples, in parts, and through real secure sums."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sklearn.metrics import accuracy_score, log_loss, mean_squared_error, r2_score, roc_auc_score
from torch import nn
from torch.nn import functional

from fl_integration.loop.evaluation import EarlyStopping, OnSites, Task
from protocols import CkksSum, LatticeSum, MaskedSum, PaillierSum, PlainSum, simulate
from secagg.errors import ParameterError

ANY = [(np.zeros(1), np.zeros(1))]
IDENTITY = nn.Identity()
"""Its inputs are its predictions."""


def asked(task=Task.BINARY, **arguments) -> OnSites:
    return OnSites({"a": ANY}, task=task, **arguments)


def said(evaluate: OnSites, prediction, label) -> dict[str, float]:
    return evaluate.metrics(evaluate.counts(IDENTITY, [(np.asarray(prediction), np.asarray(label))]))


def examples(n: int, k: int | None = None, seed: int = 0):
    """Logits with some signal in them, and labels."""
    rng = np.random.default_rng(seed)
    label = rng.integers(0, k or 2, n)
    if k is None:
        return rng.normal(2 * label - 1, 2), label
    return rng.normal(0, 1, (n, k)) + 2 * np.eye(k)[label], label


# --- against plain numpy and scikit-learn ----------------------------------------------------------------


def test_binary_metrics_are_those_of_the_pooled_examples():
    logit, label = examples(3000)
    found = said(asked(), logit, label)
    assert list(found) == ["loss", "auc", "accuracy", "auc_error", "examples", "clipped_examples"]
    assert found["examples"] == 3000
    assert found["clipped_examples"] == 0
    assert found["accuracy"] == accuracy_score(label, logit > 0)
    assert abs(found["loss"] - log_loss(label, 1 / (1 + np.exp(-logit)))) < 1024 * 2**-41 + 1e-12
    assert abs(found["auc"] - roc_auc_score(label, logit)) <= found["auc_error"] < 0.01


def test_multiclass_metrics_are_those_of_the_pooled_examples():
    logits, label = examples(1500, 5)
    found = said(asked(Task.MULTICLASS), logits, label)
    assert list(found) == ["loss", "accuracy", "examples", "clipped_examples"]
    probability = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    assert found["accuracy"] == accuracy_score(label, logits.argmax(axis=1))
    assert abs(found["loss"] - log_loss(label, probability)) < 1e-9


@given(
    low=st.floats(-1e6, 1e6),
    width=st.floats(1e-3, 1e6),
    spread=st.floats(1e-3, 1.0),
    noise=st.floats(0.0, 0.3),
    seed=st.integers(0, 9),
)
def test_regression_metrics_are_within_their_bounds(low, width, spread, noise, seed):
    rng, high = np.random.default_rng(seed), low + width
    width = high - low  # as floats have it
    label = np.clip(low + width * (0.5 + spread * (rng.random(200) - 0.5)), low, high)
    prediction = label + width * noise * (rng.random(200) - 0.5)
    found = said(asked(Task.REGRESSION, target_range=(low, high)), prediction, label)
    assert list(found) == ["loss", "rmse", "r2", "mse", "examples", "clipped_examples"]
    mse, fuzz = mean_squared_error(label, prediction), 1e-9
    assert abs(found["mse"] - mse) <= width**2 * 2**-41 + fuzz * mse
    assert found["loss"] == pytest.approx(found["mse"], rel=1e-9, abs=width**2 * 2**-40)
    assert found["rmse"] == pytest.approx(math.sqrt(found["mse"]), rel=1e-12)
    r2, variance = r2_score(label, prediction), float(np.var((label - low) / width))
    assert abs(found["r2"] - r2) <= 1.01 * (4 - 3 * r2) * 2**-41 / variance + fuzz * (1 + abs(r2))


logits_of = st.integers(1, 60).flatmap(
    lambda n: st.tuples(
        arrays(np.float64, n, elements=st.floats(-20, 20) | st.sampled_from([-8.0, 0.0, 8.0, -0.0])),
        arrays(np.int64, n, elements=st.integers(0, 1)),
    )
)


@given(logits_of, st.sampled_from([3, 4, 17, 256, 4096]))
def test_the_auc_is_within_its_error(drawn, bins):
    logit, label = drawn
    found = said(asked(bins=bins), logit, label)
    if label.min() == label.max():
        assert not {"auc", "auc_error"} & found.keys()
    else:
        assert abs(found["auc"] - roc_auc_score(label, logit)) <= found["auc_error"] + 1e-12


def test_where_the_bins_lie():
    """Four bins: below -8, [-8, 0), [0, 8), from 8 on."""
    evaluate = asked(bins=4)
    logit = np.array([-np.inf, -9, -8, -0.1, 0, 7.9, 8, np.inf, np.nan])
    total = evaluate.counts(IDENTITY, [(logit, np.ones(9, np.int64))])
    assert total[3:11].tolist() == [2, 2, 3, 2, 0, 0, 0, 0]


@settings(max_examples=40)
@given(logits_of, st.integers(0, 60))
def test_counts_of_parts_give_the_metrics_of_the_whole(drawn, cut):
    logit, label = drawn
    cut = min(cut, len(label) - 1)
    evaluate = asked(bins=16)
    whole = evaluate.counts(IDENTITY, [(logit, label)])
    parts = [(logit[:cut], label[:cut]), (logit[cut:], label[cut:])]
    np.testing.assert_array_equal(evaluate.counts(IDENTITY, parts), whole)
    total = sum(evaluate.counts(IDENTITY, [part]) for part in parts if len(part[1]))
    assert evaluate.metrics(total) == evaluate.metrics(whole)
    np.testing.assert_array_equal(total[: 3 + 32], whole[: 3 + 32])  # all that is counted


# --- a model that diverged -------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_diverged_binary_model_shows(bad):
    label = np.array([0, 1, 0, 1])
    found = said(asked(), np.full(4, bad), label)
    assert found["auc"] == found["auc_error"] == 0.5
    # An infinite logit of the right sign, too, has no finite loss in torch: 0 times infinity.
    assert (found["loss"], found["clipped_examples"]) == (1024, 4)
    assert found["accuracy"] == (0 if np.isnan(bad) else 0.5)


def test_a_diverged_classifier_and_a_diverged_regression_show():
    found = said(asked(Task.MULTICLASS), np.array([[np.nan, 0.0], [3.0, 0.0]]), [0, 0])
    assert (found["accuracy"], found["clipped_examples"]) == (0.5, 1)
    assert 512 < found["loss"] < 512.1
    for bad in (np.nan, np.inf, 1e300, 12.1):
        found = said(asked(Task.REGRESSION, target_range=(0, 4)), [bad, 1.0, 3.0], [2.0, 1.0, 3.0])
        assert (found["clipped_examples"], found["mse"], found["loss"]) == (1, 16 / 3, 16 / 3)
        assert found["r2"] == pytest.approx(1 - 8)


def test_a_loss_is_clipped_to_its_maximum_and_to_zero():
    def offset(prediction, y, reduction):
        return prediction

    evaluate = asked(loss=offset, max_loss=3.0)
    found = said(evaluate, [-1.0, 0.5, 3.0, 3.5], [0, 1, 0, 1])
    assert (found["loss"], found["clipped_examples"]) == (pytest.approx((0 + 0.5 + 3 + 3) / 4), 2)


def test_a_loss_of_your_own_stands_beside_the_errors_of_a_regression():
    evaluate = asked(Task.REGRESSION, target_range=(0, 10), loss=functional.l1_loss)
    found = said(evaluate, [1.0, 4.0], [2.0, 7.0])
    assert (found["loss"], found["mse"]) == (pytest.approx(2.0), pytest.approx(5.0))


def test_equal_targets_have_no_r2():
    for target in (0.1, 1 / 3, 4.0):
        assert "r2" not in said(asked(Task.REGRESSION, target_range=(0, 4)), [1.0, 2.0, 3.0], [target] * 3)


# --- through secure sums ---------------------------------------------------------------------------------


def protocols():
    shape = {"max_clients": 3}
    return {
        "plain": PlainSum(**shape),
        "masked": MaskedSum(**shape),
        "lattice": LatticeSum(**shape, keys=MaskedSum),
        "ckks": CkksSum(**shape),
        "paillier": PaillierSum(**shape, key_bits=2048),
    }


@pytest.mark.parametrize("name", protocols())
@pytest.mark.parametrize("task", [Task.MULTICLASS, Task.REGRESSION])
def test_every_protocol_sums_the_counts_exactly(name, task):
    if task is Task.MULTICLASS:
        evaluate, (prediction, label) = asked(task), examples(60, 3)
    else:
        evaluate = asked(task, target_range=(-10, 10))
        prediction, label = examples(60)
    sites = {f"site {i}": [(prediction[i::3], label[i::3])] for i in range(3)}
    counts = {site: evaluate.counts(IDENTITY, data) for site, data in sites.items()}
    assert all(vector.shape == (evaluate.length,) for vector in counts.values())
    total = simulate(evaluate.sum_of(protocols()[name]), counts, seed=1).sum.total
    np.testing.assert_array_equal(total, sum(counts.values()))
    assert evaluate.metrics(total) == said(evaluate, prediction, label)


@pytest.mark.parametrize("clients", [3, 100, 1000])
def test_defaults_fit_every_protocol(clients):
    for protocol in (
        PlainSum(max_clients=clients),
        MaskedSum(max_clients=clients),
        LatticeSum(max_clients=clients, keys=MaskedSum),
        CkksSum(max_clients=clients),
        PaillierSum(max_clients=clients),
    ):
        assert asked().sum_of(protocol).max_summand == 2**20 - 1


def test_what_does_not_fit_says_what_to_change():
    with pytest.raises(
        ParameterError, match="counts of up to 4294967296 examples a site do not fit this protocol; lower"
    ):
        asked(max_examples=2**32).sum_of(CkksSum(max_clients=10_000))


@pytest.mark.parametrize(
    ("arguments", "length", "most"),
    [
        ({}, 3 + 512 + 3, 2**20 - 1),
        ({"bins": 3}, 3 + 6 + 3, 2**20 - 1),
        ({"max_examples": 2**20}, 3 + 512 + 4, 2**20),
        ({"max_examples": 2**32}, 3 + 512 + 4, 2**32),
        ({"max_examples": 1}, 3 + 512 + 3, 2**20 - 1),
        ({"task": Task.MULTICLASS}, 3 + 3, 2**20 - 1),
        ({"task": Task.REGRESSION, "target_range": (0, 1)}, 2 + 4 * 3, 2**20 - 1),
    ],
)
def test_length_and_largest_value(arguments, length, most):
    evaluate = asked(**arguments)
    assert (evaluate.length, evaluate.max_summand) == (length, most)


def test_the_heaviest_site_stays_within_its_bounds():
    """As many examples as may be, each at every maximum."""
    evaluate = asked(Task.REGRESSION, target_range=(0, 1), max_examples=3000)
    vector = evaluate.counts(IDENTITY, [(np.zeros(3000), np.ones(3000))])
    assert int(vector.max()) <= evaluate.max_summand
    found = evaluate.metrics(vector)
    assert (found["mse"], found["loss"], found["clipped_examples"]) == (1, 1, 0)


# --- refusals --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"task": "binary"}, "task is 'binary'; it must be one of Task"),
        ({"loss": 1}, "loss is a int; it must be a function"),
        ({"every": 0}, "every is 0; it must be an int of at least 1"),
        ({"bins": 2}, r"bins is 2; it must be an int in \[3, 65536\]"),
        ({"bins": 2**16 + 1}, "bins is 65537; it must be an int in"),
        ({"bins": 16.0}, "bins is 16.0; it must be an int in"),
        ({"max_examples": 0}, r"max_examples is 0; it must be an int in \[1, 2\*\*32\]"),
        ({"max_examples": 2**32 + 1}, "max_examples is 4294967297; it must be an int"),
        ({"max_examples": True}, "max_examples is True; it must be an int"),
        ({"max_loss": 0}, "max_loss is 0; it must be finite and above 0"),
        ({"max_loss": math.nan}, "max_loss is nan; it must be finite and above 0"),
        ({"max_loss": "big"}, "max_loss is 'big'; it must be finite and above 0"),
        ({"target_range": (0, 1)}, "target_range goes with Task.REGRESSION, which needs it"),
        ({"task": Task.REGRESSION}, r"target_range goes with Task.REGRESSION, which needs it: \(low, high\)"),
        ({"stop": 3}, "stop is a int; it must be an EarlyStopping or None"),
        (
            {"stop": EarlyStopping("r2")},
            r"early stopping asks for 'r2'; the evaluation's metrics are \['loss', 'auc', 'accuracy', ",
        ),
    ],
)
def test_bad_arguments_are_refused(arguments, message):
    with pytest.raises(ParameterError, match=message):
        asked(**arguments)


@pytest.mark.parametrize(
    "pair",
    [
        3,
        "ab",
        (1,),
        (1, 2, 3),
        (1, 1),
        (2, 1),
        (0, math.inf),
        (math.nan, 1),
        (0, 1e200),
        (0, 1e-200),
        (True, 2),
    ],
)
def test_a_range_that_is_none_is_refused(pair):
    message = r"target_range is .*; it must be \(low, high\), finite and low < high"
    with pytest.raises(ParameterError, match=message):
        asked(Task.REGRESSION, target_range=pair)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({}, "data has no sites; map each client's id to its test examples"),
        (ANY, "data has no sites"),
        ({"a": 3}, "the data of 'a' is a int; it must be a list of pieces"),
        ({"a": iter(ANY)}, "the data of 'a' can be read once only; make it a list"),
    ],
)
def test_data_without_sites_is_refused(data, message):
    with pytest.raises(ParameterError, match=message):
        OnSites(data, task=Task.BINARY)


def test_a_site_without_examples_or_with_too_many_is_refused():
    evaluate = asked(max_examples=5)
    for empty in ([], [(np.zeros(0), np.zeros(0))]):
        with pytest.raises(ParameterError, match="there are no examples; leave that site out"):
            evaluate.counts(IDENTITY, empty)
    assert evaluate.counts(IDENTITY, [(np.zeros(5), np.zeros(5))])[0] == 5
    with pytest.raises(ParameterError, match="more than max_examples = 5; raise it"):
        evaluate.counts(IDENTITY, [(np.zeros(3), np.zeros(3))] * 2)


def test_a_target_outside_its_range_is_refused_without_its_value():
    evaluate = asked(Task.REGRESSION, target_range=(0, 1))
    with pytest.raises(
        ParameterError, match="a target is outside target_range; widen it, for all sites alike"
    ) as error:
        evaluate.counts(IDENTITY, [(np.zeros(2), np.array([0.5, 1.25]))])
    assert "1.25" not in str(error.value)


@pytest.mark.parametrize(
    "total", [None, [0] * 518, np.zeros(517, np.uint64), np.zeros(518), np.zeros((1, 518), np.uint64)]
)
def test_a_total_of_another_kind_is_refused(total):
    with pytest.raises(ParameterError, match=r"the total is .*; it must be uint64\[518\], a sum of counts"):
        asked().metrics(total)


def test_a_total_without_examples_is_refused():
    with pytest.raises(ParameterError, match="there are no examples"):
        asked().metrics(np.zeros(518, np.uint64))


def test_counting_leaves_torchs_generator_alone():
    state = torch.get_rng_state()
    loader = torch.utils.data.DataLoader(
        torch.utils.data.TensorDataset(torch.zeros(9), torch.zeros(9)), shuffle=True
    )
    asked().counts(IDENTITY, loader)
    assert torch.equal(torch.get_rng_state(), state)
