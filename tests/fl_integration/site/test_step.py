"""A step, whoever wrote it: what `run_step` asks of it and what it leaves as it was."""

import random
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    IterableDataset,
    SequentialSampler,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
)

from fl_integration.site.step import Trained, check_data, run_step, size_of
from fl_integration.site.training import LocalTraining
from secagg.errors import ParameterError

MSE = functional.mse_loss


def examples(n: int = 12) -> tuple[torch.Tensor, torch.Tensor]:
    x = torch.randn(n, 3, generator=torch.Generator().manual_seed(5))
    return x, x @ torch.tensor([[1.0], [-2.0], [0.5]])


def shuffling() -> DataLoader:
    return DataLoader(TensorDataset(*examples()), batch_size=5, shuffle=True)


def draws() -> tuple:
    return torch.rand(3).tolist(), np.random.rand(3).tolist(), [random.random() for _ in range(3)]


def run(local, model=None, data=None, *, seed=1, round=0) -> Trained:
    return run_step(local, nn.Linear(3, 1) if model is None else model, data, seed=seed, round=round)


def counted(model, data, *, seed):
    return len(data)


# --- what is left as it was ------------------------------------------------------------------------------


def restless(model, data, *, seed):
    """Draws from everything, changes modes and leaves gradients; then it may fail."""
    for x, y in data:
        np.random.rand()
        random.random()
        model.train()
        model[1].eval()
        MSE(model(x + torch.rand(())), y).backward()
    if seed == 13:
        raise RuntimeError("the disk is full")
    return 12


@pytest.mark.parametrize("seed", [1, 13])
def test_generators_modes_and_gradients_are_as_they_were_even_if_it_fails(seed):
    model = nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.5), nn.Linear(4, 1)).eval()
    model[2].train()
    torch.manual_seed(7)
    np.random.seed(7)
    random.seed(7)
    state = torch.get_rng_state(), np.random.get_state(), random.getstate()
    if seed == 13:
        with pytest.raises(RuntimeError, match="the disk is full"):
            run(restless, model, shuffling(), seed=seed)
    else:
        assert run(restless, model, shuffling(), seed=seed).weight == 12
    assert torch.equal(torch.get_rng_state(), state[0])
    np.testing.assert_equal(np.random.get_state(), state[1])
    assert random.getstate() == state[2]
    assert [module.training for module in model.modules()] == [False, False, False, True]
    assert all(parameter.grad is None for parameter in model.parameters())


def test_every_cuda_device_is_put_back(monkeypatch):
    """Without a GPU: torch's own fork_rng is told of all devices that torch counts."""
    told = []
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    fork = torch.random.fork_rng
    monkeypatch.setattr(
        torch.random, "fork_rng", lambda devices: told.append(list(devices)) or fork(devices=[])
    )
    run(counted, data=[1])
    assert told == [[0, 1, 2]]


def test_what_is_drawn_repeats_by_seed_and_not_by_what_was_before():
    seen = []

    def step(model, data, *, seed):
        seen.append((draws(), [y.ravel().tolist() for _, y in data]))
        return 1

    for seed in (1, 1, 2, 1 + (1 << 32)):
        draws()
        run(step, data=shuffling(), seed=seed)
    assert seen[0] == seen[1]
    assert all(seen[0][0][k] != seen[2][0][k] for k in range(3))
    # Torch's generator on the CPU reads 32 bits of a seed; the other two read all.
    assert [seen[0][0][k] == seen[3][0][k] for k in range(3)] == [True, False, False]
    assert seen[0][1] != seen[2][1]


def test_no_two_global_generators_draw_the_same_numbers():
    seen = []

    def step(model, data, *, seed):
        seen.extend((np.random.rand(4).tolist(), [random.random() for _ in range(4)]))
        return 1

    for seed in (1, 1 << 40):
        run(step, seed=seed)
    assert len({number for numbers in seen for number in numbers}) == 16


def test_a_gradient_from_before_does_not_take_part():
    model = nn.Linear(3, 1)
    model.weight.grad = torch.ones_like(model.weight)

    def step(model, data, *, seed):
        assert model.weight.grad is None
        return 1

    run(step, model)


def test_the_step_gets_model_data_and_seed_as_they_are():
    model, data = nn.Linear(3, 1), object()

    def step(*args, **kwargs):
        assert args[0] is model
        assert args[1] is data
        assert kwargs == {"seed": (1 << 63) - 1}
        return 5

    assert run(step, model, data, seed=np.uint64((1 << 63) - 1), round=np.int64(2)) == Trained(weight=5)


def test_a_step_with_at_is_asked_for_the_rounds_own():
    class Thrice:
        def at(self, round):
            return partial(self, factor=3 * round)

        def __call__(self, model, data, *, seed, factor):
            return factor

    assert [run(Thrice(), round=round).weight for round in (1, 2)] == [3, 6]


# --- what it returns -------------------------------------------------------------------------------------


def test_weights_and_metrics_of_numpy_are_plain():
    trained = run(lambda *_, seed: np.int64(7))
    assert trained == Trained(weight=7)
    assert type(trained.weight) is int
    trained = run(
        lambda *_, seed: Trained(weight=np.uint8(200), metrics={"loss": np.float32(0.5), "steps": 3})
    )
    assert (trained.weight, trained.metrics) == (200, {"loss": 0.5, "steps": 3.0})
    assert [type(value) for value in trained.metrics.values()] == [float, float]


@pytest.mark.parametrize(
    ("weight", "text"),
    [
        (None, "weight is None; return the number of examples"),
        (True, "weight is True; return"),
        (np.True_, "weight is a bool; return"),
        (0, "weight is 0; return"),
        (np.int64(-1), "weight is -1; return"),
        (8.0, r"weight is 8\.0; return"),
        ("8", "weight is a str; return"),
        (torch.tensor(8), "weight is a Tensor; return"),
        ((8, {}), "weight is a tuple; return"),
    ],
)
def test_weights_that_are_refused(weight, text):
    with pytest.raises(ParameterError, match=text):
        run(lambda *_, seed: weight)


@pytest.mark.parametrize(
    ("metrics", "text"),
    [
        ({"loss": float("nan")}, "metric 'loss' is nan; it must be a finite number"),
        ({"loss": np.inf}, "metric 'loss' is inf; it must"),
        ({"loss": True}, "metric 'loss' is True; it must"),
        ({"loss": "1"}, "metric 'loss' is a str; it must"),
        ({"loss": torch.tensor(1.0)}, r"metric 'loss' is a Tensor; .*\.item\(\)"),
        ({"loss": None}, "metric 'loss' is None; it must"),
        ({3: 1.0}, "a metric's name is 3; it must be a str"),
        ([("loss", 1.0)], "metrics is a list; map names to numbers"),
        (None, "metrics is None; map names to numbers"),
    ],
)
def test_metrics_that_are_refused(metrics, text):
    with pytest.raises(ParameterError, match=text):
        Trained(weight=1, metrics=metrics)


def test_metrics_are_a_copy():
    metrics = {"loss": 1.0}
    trained = Trained(weight=1, metrics=metrics)
    metrics["loss"] = 2.0
    assert trained.metrics == {"loss": 1.0}


@pytest.mark.parametrize("seed", [-1, 1 << 63, 1.0, None, True, "1"])
def test_seeds_out_of_range(seed):
    with pytest.raises(ParameterError, match=r"seed is .*; it must be an int in \[0, 2\*\*63\)"):
        run(counted, data=[1], seed=seed)


@pytest.mark.parametrize("round", [-1, 1.0, None, True, "1"])
def test_rounds_out_of_range(round):
    with pytest.raises(ParameterError, match=r"round is .*; it must be an int of at least 0"):
        run(counted, data=[1], round=round)


# --- steps of one's own ----------------------------------------------------------------------------------


def adam_with_schedule_and_closure(model, data, *, seed):
    optimiser = torch.optim.Adam(model.parameters(), lr=0.3)
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimiser, 0.9)
    n = 0
    for _ in range(25):
        n = 0
        for x, y in data:

            def closure(x=x, y=y):
                optimiser.zero_grad()
                loss = MSE(model(x), y)
                loss.backward()
                return loss

            loss = optimiser.step(closure)
            n += len(x)
        schedule.step()
    return Trained(weight=n, metrics={"loss": loss.item()})


def newton(model, data, *, seed):
    """LBFGS, which LocalTraining refuses."""
    optimiser = torch.optim.LBFGS(model.parameters(), max_iter=30)
    (x, y) = data.dataset.tensors

    def closure():
        optimiser.zero_grad()
        loss = MSE(model(x), y)
        loss.backward()
        return loss

    optimiser.step(closure)
    return len(x)


def mixed_precision(model, data, *, seed):
    optimiser, n = torch.optim.SGD(model.parameters(), lr=0.2), 0
    for x, y in (piece for _ in range(25) for piece in data):
        optimiser.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            prediction = model(x)
        assert prediction.dtype is torch.bfloat16
        MSE(prediction.float(), y).backward()
        optimiser.step()
        n += len(x)
    return n // 25


def of_dicts(model, data, *, seed):
    optimiser, n = torch.optim.SGD(model.parameters(), lr=0.2), 0
    for batch in (batch for _ in range(25) for batch in data):
        optimiser.zero_grad()
        MSE(model(batch["features"]), batch["target"]).backward()
        optimiser.step()
        n += len(batch["target"])
    return n // 25


def two_losses(model, data, *, seed):
    optimiser = torch.optim.AdamW(model.parameters(), lr=0.2)
    fits = penalties = n = 0
    for x, y in (piece for _ in range(25) for piece in data):
        fit, penalty = MSE(model(x), y), model.weight.abs().sum()
        (fit + 1e-3 * penalty).backward()
        optimiser.step()
        optimiser.zero_grad()
        fits, penalties, n = fit.item(), penalty.item(), n + len(x)
    return Trained(weight=n // 25, metrics={"fit": fits, "penalty": penalties})


def dicts() -> DataLoader:
    x, y = examples()
    rows = [{"features": x[i], "target": y[i]} for i in range(len(x))]
    return DataLoader(rows, batch_size=5, shuffle=True)


@pytest.mark.parametrize(
    ("local", "data", "names"),
    [
        (adam_with_schedule_and_closure, shuffling, {"loss"}),
        (newton, shuffling, set()),
        (mixed_precision, shuffling, set()),
        (of_dicts, dicts, set()),
        (two_losses, shuffling, {"fit", "penalty"}),
        (LocalTraining(loss=MSE, learning_rate=[1e-9, 0.2], epochs=25, batch_size=5), shuffling, {"loss"}),
    ],
)
def test_steps_of_many_kinds_learn_repeat_and_leave_no_trace(local, data, names):
    x, y = examples()
    found = []
    for _ in range(2):
        model = nn.Linear(3, 1)
        nn.init.zeros_(model.weight)
        nn.init.zeros_(model.bias)
        before = MSE(model(x), y).item()
        state = torch.get_rng_state()
        trained = run_step(local, model, data(), seed=3, round=1)
        assert trained.weight == 12
        assert set(trained.metrics) == names
        assert MSE(model(x), y).item() < 0.1 * before
        assert torch.equal(torch.get_rng_state(), state)
        assert model.weight.grad is None
        found.append(model.weight.detach().clone())
        torch.rand(1)
    assert torch.equal(*found)


# --- how many examples -----------------------------------------------------------------------------------


class Unread(TensorDataset):
    """Fails when an example is read."""

    def __getitem__(self, index):
        raise AssertionError("it was read")


class Stream(IterableDataset):
    def __iter__(self):
        raise AssertionError("it was read")

    def __len__(self):
        return 10


class OwnLoader(DataLoader):
    def __iter__(self):
        return iter([])


class OwnBatches(BatchSampler):
    def __iter__(self):
        return iter([[0]])


class Odd:
    """Nothing about it works."""

    def __len__(self):
        raise RuntimeError("no")

    def __iter__(self):
        raise RuntimeError("no")


def unread(n: int = 10, **options) -> DataLoader:
    return DataLoader(Unread(torch.zeros(n, 1), torch.zeros(n)), **options)


X, Y = examples()


@pytest.mark.parametrize(
    ("data", "size"),
    [
        (unread(batch_size=4), 10),
        (unread(batch_size=4, shuffle=True, num_workers=2), 10),
        (unread(batch_size=4, drop_last=True), 8),
        (unread(batch_size=11, drop_last=True), 0),
        (unread(batch_size=4, sampler=SubsetRandomSampler([1, 2, 3])), 3),
        (unread(batch_size=4, sampler=WeightedRandomSampler([1.0] * 10, 33)), 33),
        (unread(batch_sampler=BatchSampler(SequentialSampler(range(7)), 3, True)), 6),
        ([(X, Y), (X[:5].numpy(), Y[:5].numpy())], 17),
        (((X, Y), [X[:2], Y[:2]]), 14),
        ([], 0),
        ([(X[:0], Y[:0])], 0),
    ],
)
def test_sizes_that_are_told_without_reading(data, size):
    assert size_of(data) == size
    assert type(size_of(data)) is int


@given(n=st.integers(1, 30), batch_size=st.integers(1, 12), drop_last=st.booleans(), shuffle=st.booleans())
@settings(max_examples=40, deadline=None)
def test_a_loaders_size_is_what_it_yields(n, batch_size, drop_last, shuffle):
    dataset = TensorDataset(torch.zeros(n, 1), torch.zeros(n))
    loader = DataLoader(dataset, batch_size=batch_size, drop_last=drop_last, shuffle=shuffle)
    assert size_of(loader) == sum(len(x) for x, _ in loader)


@pytest.mark.parametrize(
    "data",
    [
        unread(batch_size=None),
        unread(batch_sampler=[[0, 1], [2]]),
        unread(batch_sampler=OwnBatches(SequentialSampler(range(7)), 3, False)),
        unread(batch_size=4, sampler=iter([1, 2])),
        DataLoader(Stream(), batch_size=2),
        OwnLoader(Unread(X, Y)),
        Unread(X, Y),
        (X, Y),
        [X, Y],
        [(X, Y[:5])],
        [(X,)],
        [(X, Y, Y)],
        [(X, Y), None],
        [{"x": X, "y": Y}],
        [("ab", "cd")],
        [(np.float64(1), np.float64(2))],
        [torch.zeros(2, 3)],
        {"x": X, "y": Y},
        "ab",
        lambda: iter([(X, Y)]),
        (pair for pair in [(X, Y)]),
        Odd(),
        [Odd()],
        None,
        7,
    ],
)
def test_sizes_that_only_reading_would_tell(data):
    assert size_of(data) is None


def test_a_data_frame_does_not_tell():
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"age": [60, 61], "sick": [0, 1]})
    assert size_of(frame) is None
    check_data("basel", frame)


# --- data that can be read once --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (iter([(X, Y)]), "list_iterator"),
        ((pair for pair in [(X, Y)]), "generator"),
        (zip([X], [Y], strict=True), "zip"),
        (map(tuple, [(X, Y)]), "map"),
    ],
)
def test_what_can_be_read_once_is_refused_unread(data, kind):
    with pytest.raises(
        ParameterError, match=f"the data of 'basel' is a {kind}, which can be read once.*pass a list"
    ):
        check_data("basel", data)
    assert len(list(data)) == 1


def test_what_can_be_read_again_passes_and_is_not_even_begun():
    class Anew:
        def __iter__(self):
            raise AssertionError("it was begun")

    state = torch.get_rng_state()
    everything = [[(X, Y)], (X, Y), {"x": X}, Anew(), Odd(), X, X.numpy(), None, len, range(3), Stream()]
    for data in [*everything, unread(shuffle=True, num_workers=2), DataLoader(Stream())]:
        check_data("basel", data)
    assert torch.equal(torch.get_rng_state(), state)
