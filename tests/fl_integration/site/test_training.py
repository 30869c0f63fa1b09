"""One client's training, and the heart model."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from fl_integration.site.training import LocalTraining, predict, train_locally
from fl_integration.studies.heart.model import HeartModel, auc
from fl_integration.studies.heart.records import FEATURES, load_hospitals
from secagg.errors import ParameterError

MSE = functional.mse_loss
BCE = functional.binary_cross_entropy_with_logits


def examples(n: int = 10) -> tuple[torch.Tensor, torch.Tensor]:
    x = torch.randn(n, 3, generator=torch.Generator().manual_seed(5))
    return x, x @ torch.tensor([[1.0], [-2.0], [0.5]])


def model_with_dropout() -> nn.Sequential:
    model = nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 1))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return model


def trained(seed: int, model: nn.Module | None = None, **settings) -> dict[str, torch.Tensor]:
    model = model_with_dropout() if model is None else model
    options = LocalTraining(**{"learning_rate": 0.05, "epochs": 2, "batch_size": 4, **settings})
    train_locally(model, [examples()], loss=MSE, settings=options, seed=seed)
    return {name: value.clone() for name, value in model.state_dict().items()}


def zero_linear() -> nn.Linear:
    model = nn.Linear(3, 1, bias=False)
    nn.init.zeros_(model.weight)
    return model


# --- known answers ---------------------------------------------------------------------------------------


def test_one_full_batch_step_by_hand():
    """w1 = -lr · grad, and the gradient of the mean squared error at w = 0 is -2/n · xᵀy."""
    x, y = examples()
    model = zero_linear()
    settings = LocalTraining(learning_rate=0.1, batch_size=None)
    assert train_locally(model, [(x, y)], loss=MSE, settings=settings, seed=0) == 10
    torch.testing.assert_close(model.weight.detach(), 0.1 * 2 / 10 * (x.T @ y).T)


def test_proximal_term_by_hand():
    """FedProx, full batch: w_{s+1} = w_s - lr · (grad(w_s) + mu · (w_s - w_0))."""
    x, y = examples()
    model, start = zero_linear(), torch.tensor([[0.3, 0.3, 0.3]])
    with torch.no_grad():
        model.weight.copy_(start)
    w = start.clone()
    for _ in range(3):
        w = w - 0.1 * (2 / 10 * (w @ x.T - y.T) @ x + 0.7 * (w - start))
    settings = LocalTraining(learning_rate=0.1, batch_size=None, epochs=3, proximal=0.7)
    train_locally(model, [(x, y)], loss=MSE, settings=settings, seed=0)
    torch.testing.assert_close(model.weight.detach(), w)


@pytest.mark.parametrize("option", [{"momentum": 0.9}, {"weight_decay": 0.5}, {"proximal": 5.0}])
def test_each_option_takes_part(option):
    plain, other = trained(1, zero_linear()), trained(1, zero_linear(), **option)
    assert not torch.equal(plain["weight"], other["weight"])


# --- repeatable ------------------------------------------------------------------------------------------


def test_same_seed_same_model_bit_for_bit():
    first, second = trained(3), trained(3)
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_other_seed_other_model():
    assert not torch.equal(trained(3)["0.weight"], trained(4)["0.weight"])


def test_seed_chooses_the_order_of_examples():
    assert not torch.equal(trained(3, zero_linear())["weight"], trained(4, zero_linear())["weight"])


def test_global_generator_neither_matters_nor_moves():
    first, model = trained(3), model_with_dropout()
    torch.manual_seed(99)
    before = torch.get_rng_state()
    second = trained(3, model)
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_pieces_are_joined_whatever_the_cut():
    x, y = examples()
    whole, pieces = zero_linear(), zero_linear()
    settings = LocalTraining(learning_rate=0.05, batch_size=4)
    assert train_locally(whole, [(x, y)], loss=MSE, settings=settings, seed=2) == 10
    cut = [(x[:3].numpy(), y[:3].numpy()), (x[3:], y[3:])]
    assert train_locally(pieces, iter(cut), loss=MSE, settings=settings, seed=2) == 10
    assert torch.equal(whole.weight, pieces.weight)


def test_a_shuffling_dataloader_repeats_too():
    results = []
    for _ in range(2):
        loader = torch.utils.data.DataLoader(
            torch.utils.data.TensorDataset(*examples()), batch_size=3, shuffle=True
        )
        model = zero_linear()
        settings = LocalTraining(learning_rate=0.05, batch_size=4)
        train_locally(model, loader, loss=MSE, settings=settings, seed=2)
        results.append(model.weight.detach().clone())
    assert torch.equal(*results)


# --- batches and modes -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("n", "batch_size", "sizes"),
    [(10, 4, [4, 3, 3]), (9, 8, [5, 4]), (8, 8, [8]), (5, None, [5]), (3, 1, [1, 1, 1]), (3, 99, [3])],
)
def test_batches_are_nearly_equal_and_cover_every_example_once_an_epoch(n, batch_size, sizes):
    x = torch.arange(float(n)).unsqueeze(1)
    seen: list[list[float]] = []

    def record(prediction: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        seen.append(y.ravel().tolist())
        return MSE(prediction, y)

    settings = LocalTraining(learning_rate=1e-3, batch_size=batch_size, epochs=2)
    train_locally(nn.Linear(1, 1), [(x, x)], loss=record, settings=settings, seed=1)
    assert [len(batch) for batch in seen] == sizes * 2
    for epoch in (seen[: len(sizes)], seen[len(sizes) :]):
        assert sorted(value for batch in epoch for value in batch) == list(range(n))


def test_training_counts_batches_and_leaves_each_modules_mode():
    model = model_with_dropout().eval()
    model[2].train()
    settings = LocalTraining(learning_rate=0.01, batch_size=5, epochs=3)
    train_locally(model, [examples()], loss=MSE, settings=settings, seed=1)
    assert model[1].num_batches_tracked.item() == 6
    assert [module.training for module in model] == [False, False, True, False]
    assert not model.training


def test_frozen_parameters_stay():
    model = nn.Linear(3, 1)
    model.bias.requires_grad_(False)
    bias, weight = model.bias.clone(), model.weight.detach().clone()
    train_locally(model, [examples()], loss=MSE, settings=LocalTraining(learning_rate=0.1), seed=1)
    assert torch.equal(model.bias, bias)
    assert not torch.equal(model.weight, weight)


def test_no_gradient_is_left_behind():
    model = model_with_dropout()
    train_locally(model, [examples()], loss=MSE, settings=LocalTraining(learning_rate=0.1), seed=1)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_predict_is_evaluation_in_any_batch_size_and_changes_nothing():
    model = model_with_dropout().train()
    x, _ = examples()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    whole, parts = predict(model, x), predict(model, x.numpy(), batch_size=3)
    assert whole.dtype == np.float32
    assert whole.shape == (10, 1)
    np.testing.assert_allclose(whole, parts, rtol=1e-6)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(module.training for module in model.modules())


# --- refusals --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("epochs", [0, -1, 1.0, True, "1", None]),
        ("batch_size", [0, -1, 2.0, True, "8"]),
        ("learning_rate", [0, -0.1, math.inf, math.nan, "0.1", None, True]),
        ("momentum", [-0.1, 1, math.nan, "0", None]),
        ("weight_decay", [-0.1, math.inf, math.nan, "0", None]),
        ("proximal", [-0.1, math.inf, math.nan, "0", None]),
    ],
)
def test_settings_out_of_range(name, values):
    for value in values:
        with pytest.raises(ParameterError, match=f"{name} is"):
            LocalTraining(**{"learning_rate": 0.1, name: value})


@pytest.mark.parametrize("seed", [-1, 1 << 63, 1.0, None, True, "1"])
def test_seeds_out_of_range(seed):
    with pytest.raises(ParameterError, match="seed is"):
        train_locally(
            zero_linear(), [examples()], loss=MSE, settings=LocalTraining(learning_rate=0.1), seed=seed
        )


X, Y = examples()


@pytest.mark.parametrize(
    ("loader", "text"),
    [
        ([], "no examples"),
        ([(X[:0], Y[:0])], "no examples"),
        ([(X, Y[:9])], "piece 0 has x of shape"),
        ([(X, Y), (torch.tensor(1.0), torch.tensor(1.0))], "piece 1 has x of shape"),
        ([(X,)], "piece 0 of the loader is not a pair"),
        ([X], "piece 0 of the loader is not a pair"),
        ([("x", "y")], "piece 0 of the loader is not a pair"),
        ([7], "piece 0 of the loader is not a pair"),
        ([(X, Y), (X[:, :2], Y)], "the pieces' x are"),
        ([(X, Y), (X, Y.double())], "the pieces' y are"),
    ],
)
def test_loaders_that_are_refused_leave_the_model_alone(loader, text):
    model = zero_linear().eval()
    with pytest.raises(ParameterError, match=text):
        train_locally(model, loader, loss=MSE, settings=LocalTraining(learning_rate=0.1), seed=1)
    assert not model.weight.any()
    assert not model.training


def test_nothing_to_train():
    with pytest.raises(ParameterError, match="nothing to train"):
        train_locally(nn.ReLU(), [examples()], loss=MSE, settings=LocalTraining(learning_rate=1), seed=1)


@pytest.mark.parametrize("batch_size", [0, -1, 1.5, None])
def test_predict_batch_sizes(batch_size):
    with pytest.raises(ParameterError, match="batch_size is"):
        predict(zero_linear(), X, batch_size=batch_size)


# --- the heart model -------------------------------------------------------------------------------------


def test_heart_model_starts_at_even_odds_and_is_small():
    model = HeartModel()
    assert sum(p.numel() for p in model.parameters()) == len(FEATURES) + 1 == 16
    np.testing.assert_array_equal(predict(model, np.ones((4, len(FEATURES)), np.float32)), np.zeros(4))


@pytest.mark.parametrize("features", [0, -1, 2.0, None])
def test_heart_model_refuses(features):
    with pytest.raises(ParameterError, match="features is"):
        HeartModel(features=features)


def test_heart_model_learns_from_one_hospital():
    """Far better than chance on patients that it has not seen."""
    cleveland = load_hospitals(seed=1)[0]
    model = HeartModel()
    settings = LocalTraining(learning_rate=0.1, epochs=30)
    weight = train_locally(
        model, [(cleveland.train_x, cleveland.train_y)], loss=BCE, settings=settings, seed=1
    )
    assert weight == len(cleveland.train_y)
    assert auc(cleveland.test_y, predict(model, cleveland.test_x)) > 0.85


def test_auc_known_answers():
    assert auc([0, 0, 1, 1], [0.1, 0.4, 0.35, 0.8]) == 0.75  # the example of scikit-learn's documentation
    assert auc([0, 1], [1.0, 1.0]) == 0.5
    assert auc(np.array([True, False]), [0.0, 1.0]) == 0.0


def test_auc_is_the_share_of_ordered_pairs():
    rng = np.random.default_rng(1)
    y, score = rng.integers(0, 2, 40), rng.integers(0, 9, 40)
    pairs = [(a > b) + 0.5 * (a == b) for a in score[y == 1] for b in score[y == 0]]
    assert auc(y, score) == pytest.approx(np.mean(pairs))


def test_auc_does_not_depend_on_scale():
    y, score = [0, 1, 0, 1, 1], np.array([-2.0, 0.5, 1.0, 3.0, -1.0])
    assert auc(y, score) == auc(y, 1 / (1 + np.exp(-score)))
    assert all(a == b for a, b in pairwise([auc(y, score * k) for k in (0.1, 1, 10)]))


@pytest.mark.parametrize(
    ("y", "score", "text"),
    [
        ([1, 1], [0.1, 0.2], "one class"),
        ([0, 0], [0.1, 0.2], "one class"),
        ([], [], "one class"),
        ([0, 1], [0.1], "both must be"),
        ([[0, 1]], [[0.1, 0.2]], "both must be"),
        ([0, 2], [0.1, 0.2], "neither 0 nor 1"),
        ([0, 1], [0.1, math.nan], "not finite"),
        ([0, 1], [0.1, math.inf], "not finite"),
    ],
)
def test_auc_refuses(y, score, text):
    with pytest.raises(ParameterError, match=text):
        auc(y, score)
