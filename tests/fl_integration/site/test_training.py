"""A site's local training, and the heart model."""

import math
from functools import partial
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from fl_integration.site.step import Trained, run_step
from fl_integration.site.training import LocalTraining, predict
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
    options = {"loss": MSE, "learning_rate": 0.05, "epochs": 2, "batch_size": 4, **settings}
    LocalTraining(**options)(model, [examples()], seed=seed)
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
    local = LocalTraining(loss=MSE, learning_rate=0.1, batch_size=None)
    assert local(model, [(x, y)], seed=0).weight == 10
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
    local = LocalTraining(loss=MSE, learning_rate=0.1, batch_size=None, epochs=3, proximal=0.7)
    local(model, [(x, y)], seed=0)
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
    local = LocalTraining(loss=MSE, learning_rate=0.05, batch_size=4)
    assert local(whole, [(x, y)], seed=2).weight == 10
    cut = [(x[:3].numpy(), y[:3].numpy()), (x[3:], y[3:])]
    assert local(pieces, iter(cut), seed=2).weight == 10
    assert torch.equal(whole.weight, pieces.weight)


def test_a_shuffling_dataloader_repeats_too():
    results = []
    for _ in range(2):
        loader = torch.utils.data.DataLoader(
            torch.utils.data.TensorDataset(*examples()), batch_size=3, shuffle=True
        )
        model = zero_linear()
        local = LocalTraining(loss=MSE, learning_rate=0.05, batch_size=4)
        local(model, loader, seed=2)
        results.append(model.weight.detach().clone())
    assert torch.equal(*results)


# --- the loss that is reported -----------------------------------------------------------------------------


def test_the_reported_loss_is_the_last_epochs_mean_over_examples():
    seen: list[tuple[float, int]] = []

    def record(prediction: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        loss = MSE(prediction, y)
        seen.append((loss.item(), len(y)))
        return loss

    local = LocalTraining(loss=record, learning_rate=0.1, epochs=3, batch_size=4, proximal=9.0)
    done = local(zero_linear(), [examples()], seed=1)
    last = seen[-3:]
    assert [n for _, n in last] == [4, 3, 3]
    assert isinstance(done, Trained)
    assert done.weight == 10
    assert done.metrics == {"loss": pytest.approx(sum(v * n for v, n in last) / 10)}


def test_a_loss_with_one_axis_is_as_good():
    one, other = zero_linear(), zero_linear()
    done = LocalTraining(loss=MSE, learning_rate=0.1)(one, [examples()], seed=1)
    local = LocalTraining(loss=lambda *pair: MSE(*pair).reshape(1), learning_rate=0.1)
    assert local(other, [examples()], seed=1) == done
    assert torch.equal(one.weight, other.weight)


@pytest.mark.parametrize(
    ("loss", "text"),
    [
        (
            lambda prediction, y: (prediction - y) ** 2,
            r"the loss of a batch is \[10, 1\]; it must be a tensor of one",
        ),
        (lambda prediction, y: 0.0, "the loss of a batch is a float; it must"),
        (lambda prediction, y: None, "the loss of a batch is a NoneType; it must"),
    ],
)
def test_losses_that_are_no_mean(loss, text):
    model = zero_linear()
    with pytest.raises(ParameterError, match=text):
        LocalTraining(loss=loss, learning_rate=0.1)(model, [examples()], seed=1)
    assert not model.weight.any()


# --- learning rates ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("rates", [[0.1, 0.5], (0.1, 0.5), np.array([0.1, 0.5]), [np.float64(0.1), 0.5]])
def test_a_schedule_has_a_rate_for_each_round(rates):
    local = LocalTraining(loss=MSE, learning_rate=rates)
    assert local.learning_rate == (0.1, 0.5)
    assert [local.at(round).learning_rate for round in (0, np.int64(1))] == [0.1, 0.5]
    assert local.at(1) == LocalTraining(loss=MSE, learning_rate=0.5)
    assert hash(local) == hash(LocalTraining(loss=MSE, learning_rate=[0.1, 0.5]))
    local.check(rounds=2)
    for rounds in (1, 3):
        with pytest.raises(
            ParameterError, match=f"has 2 rates and there are {rounds} rounds; give one number, or"
        ):
            local.check(rounds=rounds)
    for round in (2, -1, 0.0, True, None):
        with pytest.raises(ParameterError, match=r"round is .*; learning_rate has those of rounds 0 to 1"):
            local.at(round)
    with pytest.raises(ParameterError, match=r"one rate for each round; at\(round\) gives"):
        local(zero_linear(), [examples()], seed=1)


def test_one_rate_does_for_all_rounds():
    local = LocalTraining(loss=MSE, learning_rate=np.float32(0.5))
    local.check(rounds=7)
    assert local.at(6) is local
    assert type(local.learning_rate) is float


def test_each_round_runs_at_its_rate():
    """One full batch from zero: the step is proportional to the rate."""
    local = LocalTraining(loss=MSE, learning_rate=[0.1, 0.3], batch_size=None)
    steps = []
    for round in (0, 1):
        model = zero_linear()
        run_step(local, model, [examples()], seed=1, round=round)
        steps.append(model.weight.detach().clone())
    torch.testing.assert_close(steps[1], 3 * steps[0])


# --- optimisers --------------------------------------------------------------------------------------------


def plain_loop(
    model: nn.Module, optimiser: torch.optim.Optimizer, *, seed: int, epochs: int = 2
) -> nn.Module:
    """The loop as anybody would write it, with the draws that LocalTraining promises: seed, then orders."""
    x, y = examples()
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng():
        torch.manual_seed(int(torch.randint(1 << 62, (), generator=generator)))
        model.train()
        for _ in range(epochs):
            for rows in torch.randperm(10, generator=generator).tensor_split(3):
                optimiser.zero_grad()
                MSE(model(x[rows]), y[rows]).backward()
                optimiser.step()
    return model


SGD = partial(torch.optim.SGD, momentum=0.9, weight_decay=0.01)


@pytest.mark.parametrize(
    ("options", "factory"),
    [
        ({}, torch.optim.SGD),
        ({"momentum": 0.9, "weight_decay": 0.01}, SGD),
        ({"optimiser": SGD}, SGD),
        ({"optimiser": torch.optim.AdamW}, torch.optim.AdamW),
        (
            {"optimiser": partial(torch.optim.Adam, weight_decay=1e-2)},
            partial(torch.optim.Adam, weight_decay=1e-2),
        ),
        ({"optimiser": torch.optim.RMSprop}, torch.optim.RMSprop),
    ],
)
def test_any_optimiser_is_as_in_a_plain_loop_bit_for_bit(options, factory):
    model = model_with_dropout()
    expected = plain_loop(model, factory(model.parameters(), lr=0.05), seed=8).state_dict()
    found = trained(8, **options)
    assert all(torch.equal(found[name], value) for name, value in expected.items())


def test_an_optimiser_starts_afresh_in_each_call():
    local = LocalTraining(loss=MSE, learning_rate=0.05, optimiser=torch.optim.Adam)
    first, second = zero_linear(), zero_linear()
    for model in (first, second):
        local(model, [examples()], seed=1)
    assert torch.equal(first.weight, second.weight)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"momentum": 0.9}, r"momentum and weight_decay are the default optimiser's; .*functools\.partial"),
        ({"weight_decay": 0.9}, "momentum and weight_decay are the default optimiser's"),
        ({"optimiser": partial(torch.optim.Adam, lr=0.1)}, "an lr of its own; its rate is learning_rate"),
    ],
)
def test_options_that_do_not_go_with_an_optimiser(options, text):
    with pytest.raises(ParameterError, match=text):
        LocalTraining(**{"loss": MSE, "learning_rate": 0.1, "optimiser": torch.optim.Adam, **options})


@pytest.mark.parametrize(
    ("optimiser", "text"),
    [
        (torch.optim.LBFGS, "LBFGS evaluates the loss itself, by a closure; write a step of your own"),
        (partial(torch.optim.LBFGS, max_iter=3), "LBFGS evaluates the loss itself"),
        (lambda parameters, lr: None, r"optimiser made a NoneType; it must make a torch\.optim\.Optimizer"),
    ],
)
def test_optimisers_that_do_not_fit_leave_the_model_alone(optimiser, text):
    model = zero_linear()
    with pytest.raises(ParameterError, match=text):
        LocalTraining(loss=MSE, learning_rate=0.1, optimiser=optimiser)(model, [examples()], seed=1)
    assert not model.weight.any()


# --- clipping ----------------------------------------------------------------------------------------------


def test_a_long_gradient_is_scaled_to_the_limit_and_a_short_one_left():
    x, y = examples()
    gradient = -2 / 10 * (x.T @ y).T
    norm = gradient.norm().item()
    for limit, factor in ((norm / 4, 0.25), (norm * 2, 1.0)):
        model = zero_linear()
        local = LocalTraining(loss=MSE, learning_rate=0.1, batch_size=None, clip_gradient=limit)
        local(model, [(x, y)], seed=1)
        torch.testing.assert_close(model.weight.detach(), -0.1 * factor * gradient, rtol=1e-5, atol=1e-6)


def test_the_limit_holds_for_all_parameters_together_and_with_the_proximal_pull():
    """Each step of SGD is at most rate · limit long, over weight and bias; and the limit is reached."""
    model, places = nn.Linear(3, 1), []

    def record(prediction: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        places.append(nn.utils.parameters_to_vector(model.parameters()).detach().clone())
        return MSE(prediction, y)

    local = LocalTraining(
        loss=record, learning_rate=0.5, batch_size=None, epochs=4, proximal=50.0, clip_gradient=0.2
    )
    local(model, [examples()], seed=1)
    steps = [(after - before).norm().item() for before, after in pairwise(places)]
    np.testing.assert_allclose(steps, 0.1, rtol=1e-4)


# --- class weights -----------------------------------------------------------------------------------------


LABELS = torch.tensor([0, 0, 0, 0, 0, 0, 0, 1, 1, 2])


def test_class_weights_are_those_of_cross_entropy():
    x, _ = examples()
    weights = torch.tensor([1.0, 4.0, 0.5])
    models = [nn.Linear(3, 3) for _ in range(2)]
    models[1].load_state_dict(models[0].state_dict())
    options = {"learning_rate": 0.1, "batch_size": 4, "epochs": 2}
    found = LocalTraining(loss=functional.cross_entropy, class_weights=weights, **options)
    assert found.class_weights == (1.0, 4.0, 0.5)
    expected = LocalTraining(loss=partial(functional.cross_entropy, weight=weights), **options)
    losses = [
        local(model, [(x, LABELS)], seed=1) for local, model in zip((found, expected), models, strict=True)
    ]
    torch.testing.assert_close(models[0].weight, models[1].weight)
    assert losses[0].metrics["loss"] == pytest.approx(losses[1].metrics["loss"])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.int64])
def test_class_weights_by_hand_for_a_binary_loss(dtype):
    """At zero log-odds the gradient is sum(c_i · (1/2 - y_i) · x_i) / sum(c_i); c_i is 5 where y_i is 1."""
    x, _ = examples()
    y = (LABELS > 0).to(dtype).unsqueeze(1)
    model, c = zero_linear(), torch.where(y > 0, 5.0, 1.0)

    def loss(prediction, y, **options):
        return BCE(prediction, y.float(), **options)

    LocalTraining(loss=loss, learning_rate=1, batch_size=None, class_weights=[1, 5])(model, [(x, y)], seed=1)
    gradient = (c * (0.5 - y) * x).sum(0, keepdim=True) / c.sum()
    torch.testing.assert_close(model.weight.detach(), -gradient.float())


def test_equal_class_weights_change_nothing():
    x, _ = examples()
    models = [nn.Linear(3, 3) for _ in range(2)]
    models[1].load_state_dict(models[0].state_dict())
    for model, weights in zip(models, (None, np.full(3, 7.0)), strict=True):
        local = LocalTraining(loss=functional.cross_entropy, learning_rate=0.1, class_weights=weights)
        local(model, [(x, LABELS)], seed=1)
    torch.testing.assert_close(models[0].weight, models[1].weight)


@pytest.mark.parametrize(
    "loss", [lambda prediction, y: (prediction - y).norm(), nn.CrossEntropyLoss(), torch.dist, max]
)
def test_losses_without_reduction_take_no_class_weights(loss):
    with pytest.raises(
        ParameterError, match=r"class_weights need a loss that takes reduction=.*cross_entropy"
    ):
        LocalTraining(loss=loss, learning_rate=0.1, class_weights=[1, 2])
    assert LocalTraining(loss=loss, learning_rate=0.1).loss is loss


@pytest.mark.parametrize(
    ("y", "text"),
    [
        (LABELS, "none of the classes 0 to 1"),
        (LABELS - 1, "none of the classes 0 to 1"),
        (torch.full((10,), 0.5), "none of the classes 0 to 1"),
        (torch.full((10,), math.nan), "none of the classes 0 to 1"),
        (
            torch.eye(2)[LABELS % 2],
            r'reduction="none" is \[10\] where y is \[10, 2\]; .* one loss for each label',
        ),
    ],
)
def test_labels_that_class_weights_do_not_know(y, text):
    model = nn.Linear(3, 2)
    before = model.weight.detach().clone()
    with pytest.raises(ParameterError, match=text):
        LocalTraining(loss=functional.cross_entropy, learning_rate=0.1, class_weights=[1, 2])(
            model, [(examples()[0], y)], seed=1
        )
    assert torch.equal(model.weight, before)


# --- dtypes and kinds of arrays ----------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("given", [np.float16, np.float32, np.float64])
def test_floating_examples_take_the_models_dtype(dtype, given):
    x, y = (part.numpy().astype(np.float16) for part in examples())
    seen = set()

    def record(prediction: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        seen.update((prediction.dtype, y.dtype))
        return MSE(prediction, y)

    found, expected = zero_linear().to(dtype), zero_linear().to(dtype)
    local = LocalTraining(loss=record, learning_rate=0.1)
    done = local(found, [(x.astype(given), y.astype(given))], seed=1)
    assert seen == {dtype}
    local(expected, [(torch.from_numpy(x).to(dtype), torch.from_numpy(y).to(dtype))], seed=1)
    assert torch.equal(found.weight, expected.weight)
    assert math.isfinite(done.metrics["loss"])
    assert predict(found, x.astype(given)).dtype == np.float32


def test_integers_stay_integers():
    """Token ids in, class numbers out."""
    model = nn.Sequential(nn.Embedding(5, 4), nn.Flatten(), nn.Linear(8, 3))
    ids, labels = np.arange(10).reshape(5, 2) % 5, np.array([0, 1, 2, 0, 1])
    local = LocalTraining(loss=functional.cross_entropy, learning_rate=0.1)
    assert local(model, [(ids, labels)], seed=1).weight == 5
    assert predict(model, ids).shape == (5, 3)


def test_arrays_that_torch_does_not_share_are_copied(recwarn):
    x, y = (part.numpy() for part in examples())
    expected, backwards, frozen = zero_linear(), zero_linear(), x.copy()
    local = LocalTraining(loss=MSE, learning_rate=0.1)
    local(expected, [(x, y)], seed=1)
    local(backwards, [(x[::-1].copy()[::-1], y)], seed=1)
    assert torch.equal(backwards.weight, expected.weight)
    frozen.flags.writeable = False
    np.testing.assert_array_equal(predict(expected, frozen), predict(expected, x))
    assert not recwarn.list


def test_a_table_and_its_column_are_a_pair():
    pandas = pytest.importorskip("pandas")
    x, y = (part.numpy() for part in examples())
    rows = pandas.Index(range(100, 110))
    pair = pandas.DataFrame(x, index=rows), pandas.Series(y[:, 0], index=rows)
    found, expected = zero_linear(), zero_linear()
    local = LocalTraining(loss=lambda prediction, y: MSE(prediction[:, 0], y), learning_rate=0.1)
    for model, (features, target) in ((found, pair), (expected, (x, y[:, 0]))):
        local(model, [(features, target)], seed=1)
    assert torch.equal(found.weight, expected.weight)


# --- what cannot end well ----------------------------------------------------------------------------------


def spoilt(place: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    pair = tuple(part.clone() for part in examples())
    pair[place][3, 0] = math.nan
    return [pair]


@pytest.mark.parametrize(
    ("data", "options"),
    [
        (spoilt(0), {}),
        (spoilt(1), {}),
        (spoilt(0), {"clip_gradient": 1.0}),
        (spoilt(0), {"proximal": 1.0, "momentum": 0.5}),
        ([examples()], {"learning_rate": 1e30, "epochs": 9}),
    ],
)
def test_training_that_diverges(data, options):
    model = zero_linear().eval()
    text = "training diverged: .*lower the learning rate, or look for NaN in the examples"
    with pytest.raises(ParameterError, match=text):
        LocalTraining(**{"loss": MSE, "learning_rate": 0.1, **options})(model, data, seed=1)
    assert model.weight.grad is None
    assert not model.training


def test_parameters_that_are_not_finite_at_the_last_step_only():
    """The loss of the only step was still finite."""
    model = zero_linear()
    with pytest.raises(ParameterError, match="training diverged"):
        LocalTraining(loss=MSE, learning_rate=3e38, batch_size=None)(model, [examples()], seed=1)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_model_that_is_not_finite_to_begin_with(value):
    model = model_with_dropout()
    with torch.no_grad():
        model[3].bias[0] = value
    with pytest.raises(ParameterError, match=r"parameter '3\.bias' is not finite before training"):
        LocalTraining(loss=MSE, learning_rate=0.1)(model, [examples()], seed=1)


def test_a_frozen_infinity_may_be_a_mask_but_nan_is_none():
    class Masked(nn.Linear):
        def __init__(self):
            super().__init__(3, 1)
            self.mask = nn.Parameter(torch.tensor([0.0, -math.inf]), requires_grad=False)

    model, local = Masked(), LocalTraining(loss=MSE, learning_rate=0.1)
    local(model, [examples()], seed=1)
    model.mask[0] = math.nan
    with pytest.raises(ParameterError, match="parameter 'mask' is not finite"):
        local(model, [examples()], seed=1)


def test_one_example_under_batch_norm_is_refused_by_torch():
    model = model_with_dropout().eval()
    x, y = examples(1)
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        LocalTraining(loss=MSE, learning_rate=0.1)(model, [(x, y)], seed=1)
    assert not any(module.training for module in model.modules())


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

    local = LocalTraining(loss=record, learning_rate=1e-3, batch_size=batch_size, epochs=2)
    local(nn.Linear(1, 1), [(x, x)], seed=1)
    assert [len(batch) for batch in seen] == sizes * 2
    for epoch in (seen[: len(sizes)], seen[len(sizes) :]):
        assert sorted(value for batch in epoch for value in batch) == list(range(n))


def test_training_counts_batches_and_leaves_each_modules_mode():
    model = model_with_dropout().eval()
    model[2].train()
    local = LocalTraining(loss=MSE, learning_rate=0.01, batch_size=5, epochs=3)
    local(model, [examples()], seed=1)
    assert model[1].num_batches_tracked.item() == 6
    assert [module.training for module in model] == [False, False, True, False]
    assert not model.training


def test_frozen_parameters_stay():
    model = nn.Linear(3, 1)
    model.bias.requires_grad_(False)
    bias, weight = model.bias.clone(), model.weight.detach().clone()
    LocalTraining(loss=MSE, learning_rate=0.1)(model, [examples()], seed=1)
    assert torch.equal(model.bias, bias)
    assert not torch.equal(model.weight, weight)


@pytest.mark.parametrize(
    ("frozen", "affine", "moves"),
    [(("weight", "bias"), True, False), (("weight",), True, True), ((), True, True), ((), False, True)],
)
def test_a_frozen_batch_norm_keeps_its_statistics(frozen, affine, moves):
    norm = nn.BatchNorm1d(3, affine=affine)
    for name in frozen:
        getattr(norm, name).requires_grad_(False)
    model = nn.Sequential(norm, nn.Linear(3, 1))
    LocalTraining(loss=MSE, learning_rate=0.1)(model, [examples()], seed=1)
    assert bool(norm.running_mean.any()) is moves
    assert norm.num_batches_tracked.item() == int(moves)
    assert norm.training


def test_another_default_device_does_not_matter():
    local = LocalTraining(
        loss=functional.cross_entropy, learning_rate=0.1, class_weights=[1, 2], proximal=1.0
    )
    model, expected = nn.Linear(3, 2), nn.Linear(3, 2)
    expected.load_state_dict(model.state_dict())
    x, y = examples()[0].numpy(), LABELS.numpy() % 2
    local(expected, [(x, y)], seed=1)
    with torch.device("meta"):
        local(model, [(x, y)], seed=1)
        predict(model, x)
    assert torch.equal(model.weight, expected.weight)


def test_no_gradient_is_left_behind():
    model = model_with_dropout()
    LocalTraining(loss=MSE, learning_rate=0.1)(model, [examples()], seed=1)
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
        ("learning_rate", [[], [0.1, 0], [0.1, math.nan], ["0.1"], [[0.1]], np.zeros(2), iter([0.1]), {0.1}]),
        ("clip_gradient", [0, -1.0, math.inf, math.nan, "1", True]),
        (
            "class_weights",
            [[], [1.0], 2.0, [1.0, 0.0], [1, math.inf], [1, math.nan], ["1", "2"], "12", [True, 1]],
        ),
        ("loss", [None, "mse", 7]),
        ("optimiser", ["adam", 7, torch.optim.SGD([torch.zeros(1)], lr=1)]),
        ("momentum", [-0.1, 1, math.nan, "0", None]),
        ("weight_decay", [-0.1, math.inf, math.nan, "0", None]),
        ("proximal", [-0.1, math.inf, math.nan, "0", None]),
    ],
)
def test_settings_out_of_range(name, values):
    for value in values:
        with pytest.raises(ParameterError, match=f"{name} is"):
            LocalTraining(**{"loss": MSE, "learning_rate": 0.1, name: value})


@pytest.mark.parametrize("seed", [-1, 1 << 63, 1.0, None, True, "1"])
def test_seeds_out_of_range(seed):
    with pytest.raises(ParameterError, match="seed is"):
        LocalTraining(loss=MSE, learning_rate=0.1)(zero_linear(), [examples()], seed=seed)


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
        ([{"x": X, "y": Y}], r"not a pair \(x, y\) of arrays, it is a dict.*a step of your own"),
        ([(X, Y, Y)], "piece 0 of the loader is not a pair"),
        ([(X, Y), (np.array([object()]), Y[:1])], "piece 1 of the loader is not a pair"),
        ((X, Y), r"it is a Tensor\. One pair is \[\(x, y\)\]"),
        (7, r"the data is a int; it must be pieces"),
        (torch.utils.data.TensorDataset(X, Y), "the data is a TensorDataset; .* or a DataLoader"),
        ([(X, Y), (X[:, :2], Y)], "the pieces' x are"),
        ([(X, Y), (X, Y.double())], "the pieces' y are"),
    ],
)
def test_loaders_that_are_refused_leave_the_model_alone(loader, text):
    model = zero_linear().eval()
    with pytest.raises(ParameterError, match=text):
        LocalTraining(loss=MSE, learning_rate=0.1)(model, loader, seed=1)
    assert not model.weight.any()
    assert not model.training


def test_nothing_to_train():
    with pytest.raises(ParameterError, match="nothing to train"):
        LocalTraining(loss=MSE, learning_rate=1)(nn.ReLU(), [examples()], seed=1)


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
    local = LocalTraining(loss=BCE, learning_rate=0.1, epochs=30)
    weight = local(model, [(cleveland.train_x, cleveland.train_y)], seed=1).weight
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
