"""What a model says of its examples, one by one, and that asking leaves no trace."""

import random
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from fl_integration.loop.scoring import Task, check_data, per_example, ranking, scored, undisturbed
from secagg.errors import ParameterError

BCE = functional.binary_cross_entropy_with_logits
LOGITS = torch.tensor([-2.0, 0.0, 0.5, 3.0])
LABELS = torch.tensor([0, 1, 1, 0])


def pieces(model, data, task=Task.BINARY, loss=None):
    with undisturbed(model):
        return list(scored(model, data, task=task, loss=per_example(loss, task)))


def losses(loss, *, task=Task.BINARY, prediction=LOGITS, labels=LABELS):
    [piece] = pieces(nn.Identity(), [(prediction, labels)], task, loss)
    return piece.loss


# --- losses ----------------------------------------------------------------------------------------------

EXPECTED = np.log1p(np.exp(-LOGITS.double().numpy() * (2 * LABELS.numpy() - 1)))


def averaged(prediction, y):
    return BCE(prediction, y)


def mean_cross_entropy(prediction, y):
    return functional.cross_entropy(prediction, y)


def mean_squared_error(prediction, y):
    return functional.mse_loss(prediction, y)


@pytest.mark.parametrize(
    "loss",
    [
        None,
        BCE,
        partial(BCE, reduction="sum"),
        nn.BCEWithLogitsLoss(),
        nn.BCEWithLogitsLoss(reduction="sum"),
        averaged,
    ],
)
@pytest.mark.parametrize("shape", [(4,), (4, 1)])
def test_every_kind_of_loss_gives_each_example_its_own(loss, shape):
    np.testing.assert_allclose(losses(loss, prediction=LOGITS.reshape(shape)), EXPECTED, rtol=1e-6)


def test_a_module_keeps_its_own_reduction():
    module = nn.BCEWithLogitsLoss(reduction="sum")
    losses(module)
    assert module.reduction == "sum"


def test_cross_entropy_and_squared_error_by_hand():
    logits = torch.tensor([[2.0, 0.0, 1.0], [0.0, 0.0, 5.0]])
    chosen = logits.double().numpy()[[0, 1], [1, 2]]
    expected = np.log(np.exp(logits.double().numpy()).sum(axis=1)) - chosen
    for loss in (None, functional.cross_entropy, mean_cross_entropy):
        found = losses(loss, task=Task.MULTICLASS, prediction=logits, labels=torch.tensor([1, 2]))
        np.testing.assert_allclose(found, expected, rtol=1e-6)
    for loss in (None, functional.mse_loss, nn.MSELoss(), mean_squared_error):
        found = losses(loss, task=Task.REGRESSION, prediction=LOGITS, labels=np.array([0.0, 1, 2, 3]))
        np.testing.assert_allclose(found, [4, 1, 2.25, 0], rtol=1e-6)


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        ("bce", r"loss is a str; it must be a function \(prediction, y\)"),
        (
            lambda p, y: (p - y).mean().item(),
            "the loss cannot be had example by example; write it with an argument",
        ),
        (lambda p, y: 1.0, "the loss cannot be had example by example"),
        (lambda p, y, reduction: 1.0, r"the losses of 4 examples are float; they must be \[n\]"),
        (lambda p, y, reduction: p.mean(), r"the losses of 4 examples are \[\]; they must be \[n\]"),
        (lambda p, y, reduction: p[:2], r"the losses of 4 examples are \[2\]"),
        (lambda p: p, "the loss cannot be had example by example"),
    ],
)
def test_a_loss_that_gives_no_loss_an_example_is_refused(loss, message):
    with pytest.raises(ParameterError, match=message):
        losses(loss)


def test_a_task_is_an_enum():
    with pytest.raises(
        ParameterError, match=r"task is 'binary'; it must be one of Task\.BINARY, Task\.MULTICLASS"
    ):
        per_example(None, "binary")


# --- data ------------------------------------------------------------------------------------------------


def linear(dtype=torch.float32):
    model = nn.Linear(2, 1).to(dtype)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[1.0, -1.0]]))
        model.bias.fill_(0.25)
    return model


def test_lists_loaders_and_numpy_say_the_same():
    x, y = torch.randn(2500, 2, generator=torch.Generator().manual_seed(1)), torch.arange(2500) % 2
    expected = (x[:, 0] - x[:, 1] + 0.25).double().numpy()
    for data in (
        [(x, y)],
        [(x[:7], y[:7]), (x[7:7], y[7:7]), (x[7:].double().numpy(), y[7:].numpy().astype(np.float64))],
        DataLoader(TensorDataset(x, y), batch_size=600),
        [(x, y.bool())],
        [(x, y.unsqueeze(1))],
        [(x.numpy(), y.numpy().astype(np.uint64))],
        [(np.broadcast_to(x.numpy()[::-1], x.shape)[::-1], y.tolist())],
    ):
        found = pieces(linear(), data)
        assert max(len(piece.loss) for piece in found) <= 1024
        np.testing.assert_allclose(np.concatenate([p.prediction for p in found]), expected, atol=1e-6)
        np.testing.assert_array_equal(np.concatenate([p.label for p in found]), np.arange(2500) % 2)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_inputs_become_the_models_dtype(dtype):
    [piece] = pieces(linear(dtype), [(np.array([[1.0, 0.5]]), np.array([1]))])
    assert piece.prediction.dtype == np.float64
    assert piece.prediction.tolist() == [0.75]


def test_integer_inputs_stay_integers():
    model = nn.Sequential(nn.Embedding(4, 1), nn.Flatten())
    [piece] = pieces(model, [(torch.tensor([[0], [3]]), torch.tensor([0, 1]))])
    assert piece.prediction.shape == (2,)


@pytest.mark.parametrize(
    ("task", "x", "y", "message"),
    [
        (Task.BINARY, [0.0, 1.0], [0, 2], "a label is neither 0 nor 1; Task.BINARY has these two"),
        (Task.BINARY, [0.0, 1.0], [0.0, np.nan], "a label is neither 0 nor 1"),
        (Task.BINARY, [0.0, 1.0], [0, -1], "a label is neither 0 nor 1"),
        (
            Task.BINARY,
            [[0.0, 1.0]],
            [0],
            r"1 examples has shape \(1, 2\); Task.BINARY takes \[n\] or \[n, 1\]",
        ),
        (
            Task.BINARY,
            [0.0, 1.0],
            [[0, 1], [1, 0]],
            r"labels of shape \[n, 2\]; Task.BINARY takes one an example",
        ),
        (Task.MULTICLASS, [0.0, 1.0], [0, 1], r"shape \(2,\); Task.MULTICLASS takes logits \[n, k\], k >= 2"),
        (Task.MULTICLASS, [[0.0]], [0], r"shape \(1, 1\); Task.MULTICLASS takes logits"),
        (
            Task.MULTICLASS,
            [[0.0, 1.0]],
            [0.0],
            "labels of torch.float64; Task.MULTICLASS takes the classes' numbers",
        ),
        (Task.MULTICLASS, [[0.0, 1.0]], [2], r"a label is outside \[0, 2\); the model has 2 classes"),
        (Task.MULTICLASS, [[0.0, 1.0]], [-1], r"a label is outside \[0, 2\)"),
        (Task.REGRESSION, [0.0], [np.inf], "a label is NaN or infinite; leave that example out"),
        (
            Task.REGRESSION,
            [0.0],
            [0.0, 1.0],
            r"piece 0 has x of shape \(1,\) and y of shape \(2,\); their first",
        ),
        (Task.REGRESSION, 0.0, 0.0, r"piece 0 has x of shape \(\)"),
        (Task.REGRESSION, ["a"], [0.0], r"piece 0 of the data is not a pair \(x, y\) of arrays"),
    ],
)
def test_data_that_does_not_fit_is_refused(task, x, y, message):
    with pytest.raises(ParameterError, match=message):
        pieces(nn.Identity(), [(np.array(x), np.array(y))], task)


def test_pieces_that_are_no_pairs_are_refused():
    with pytest.raises(ParameterError, match="piece 1 of the data is not a pair"):
        pieces(nn.Identity(), [(LOGITS, LABELS), (LOGITS,)])


def test_a_model_without_a_tensor_is_refused():
    class Said(nn.Module):
        def forward(self, x):
            return {"logits": x}

    with pytest.raises(ParameterError, match="the model's output is a dict; it must be a tensor"):
        pieces(Said(), [(LOGITS, LABELS)])


@pytest.mark.parametrize("data", [7, {"x": 1}, "xy"])
def test_what_is_no_list_of_pieces_is_refused(data):
    with pytest.raises(ParameterError, match=r"data is a \w+; it must be a list of pieces \(x, y\)"):
        check_data(data, "data")


def test_what_can_be_read_once_only_is_refused():
    with pytest.raises(ParameterError, match="the data of 'a' can be read once only; make it a list"):
        check_data(iter([(LOGITS, LABELS)]), "the data of 'a'")


# --- no trace --------------------------------------------------------------------------------------------


def test_scoring_leaves_the_model_and_the_generators_as_they_were():
    model = nn.Sequential(nn.Linear(2, 4), nn.BatchNorm1d(4), nn.Dropout(0.5), nn.Linear(4, 1))
    model.train()
    model[1].eval()
    loader = DataLoader(TensorDataset(torch.randn(9, 2), torch.arange(9) % 2), batch_size=2, shuffle=True)
    modes = [module.training for module in model.modules()]
    values = {name: value.clone() for name, value in model.state_dict().items()}
    states = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
    found = pieces(model, loader)
    assert sum(len(piece.loss) for piece in found) == 9
    assert torch.equal(torch.get_rng_state(), states[0])
    assert np.array_equal(np.random.get_state()[1], states[1])
    assert random.getstate() == states[2]
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(value, values[name]) for name, value in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())
    assert torch.is_grad_enabled()


def test_dropout_is_off():
    model = nn.Sequential(nn.Dropout(0.9))
    [piece] = pieces(model.train(), [(LOGITS, LABELS)])
    assert piece.prediction.tolist() == LOGITS.tolist()


def test_modes_and_generators_are_back_after_an_error_too():
    model, state = nn.Sequential(nn.Dropout(0.5)).train(), torch.get_rng_state()
    seen = []

    def fail():
        with undisturbed(model):
            seen.append(model[0].training)
            torch.rand(3)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert (seen, model[0].training) == ([False], True)
    assert torch.equal(torch.get_rng_state(), state)


# --- what the pieces say ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("task", "prediction", "labels", "correct"),
    [
        (Task.BINARY, [-1.0, 0.0, 2.0, np.nan], [0, 0, 1, 0], 3),
        (Task.BINARY, [0.0, np.inf, -np.inf, np.nan], [1, 1, 0, 1], 2),
        (Task.MULTICLASS, [[0.0, 1, 2], [5, 1, 2], [np.nan, 9, 0]], [2, 1, 1], 1),
    ],
)
def test_nan_predicts_nothing(task, prediction, labels, correct):
    [piece] = pieces(nn.Identity(), [(np.array(prediction), np.array(labels))], task)
    assert piece.correct == correct


def test_the_auc_of_bins_by_hand():
    """Negatives 2, 1, 0 and positives 0, 1, 2: of 9 pairs 8 are in order for sure and one shares a bin."""
    assert ranking(np.array([0, 1, 2]), np.array([2, 1, 0])) == {"auc": 8.5 / 9, "auc_error": 0.5 / 9}
    assert ranking(np.array([0, 3]), np.array([0, 0])) == {}
    assert ranking(np.array([4]), np.array([7])) == {"auc": 0.5, "auc_error": 0.5}
