"""Steps of one's own and every setting of `LocalTraining`: a federated training is the one in the clear."""

from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy, l1_loss, mse_loss
from torch.optim.lr_scheduler import StepLR

from fl_integration.site.step import Trained
from fl_integration.site.training import LocalTraining, predict
from fl_integration.vectors.vectorise import changes, flatten, load, unflatten
from tests.fl_integration.loop.stage import (
    EACH,
    NAMES,
    distance,
    in_the_clear,
    linear,
    pieces,
    seeded,
    train,
)
from tests.fl_integration.site.test_second_device import ELSEWHERE, Elsewhere, SecondDevice, moved, network


@pytest.fixture(params=EACH)
def name(request: Any) -> str:
    return str(request.param)


def agrees(local: Any, data: Any = None, *, name: str = "masked", model: Any = linear, **options: Any) -> Any:
    """The secure run is the one in the clear, to the grid, and did train."""
    shape = options.pop("shape", None)
    run = train(name, data, local=local, model=model(), shape=shape, **options)
    truth = in_the_clear(data, local=local, model=model(), **options)
    assert distance(run.model, truth.model) < 1e-5
    assert distance(run.model, model()) > 1e-2
    assert [r.total_weight for r in run.history] == [r.total_weight for r in truth.history]
    return run


# --- steps of one's own -----------------------------------------------------------------------------------


def batches(data: Any) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    for x, y in data:
        yield from zip(x.split(4), y.split(4), strict=True)


def scheduled(model: nn.Module, data: Any, *, seed: int) -> int:
    """Adam under a schedule of its own within the round."""
    optimiser = torch.optim.Adam(model.parameters(), lr=0.05)
    schedule = StepLR(optimiser, step_size=1, gamma=0.5)
    seen = 0
    for x, y in batches(data):
        optimiser.zero_grad()
        mse_loss(model(x), y).backward()
        optimiser.step()
        schedule.step()
        seen += len(x)
    return seen


def mixed_precision(model: nn.Module, data: Any, *, seed: int) -> int:
    optimiser = torch.optim.SGD(model.parameters(), lr=0.05)
    for x, y in batches(data):
        optimiser.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            guess = model(x)
        assert guess.dtype == torch.bfloat16
        mse_loss(guess.float(), y).backward()
        optimiser.step()
    return 12


def two_losses(model: nn.Module, data: Any, *, seed: int) -> Trained:
    optimiser = torch.optim.SGD(model.parameters(), lr=0.05)
    for x, y in batches(data):
        optimiser.zero_grad()
        guess = model(x)
        square, absolute = mse_loss(guess, y), l1_loss(guess, y)
        (square + 0.5 * absolute).backward()
        optimiser.step()
    return Trained(weight=12, metrics={"square": square.item(), "absolute": absolute.item()})


def closure(model: nn.Module, data: Any, *, seed: int) -> int:
    """LBFGS evaluates the loss itself."""
    [(x, y)] = data
    optimiser = torch.optim.LBFGS(model.parameters(), lr=0.1, max_iter=2)

    def loss() -> torch.Tensor:
        optimiser.zero_grad()
        found = mse_loss(model(x), y)
        found.backward()
        return found

    optimiser.step(loss)  # type: ignore[arg-type]  # torch's signature says float
    return len(x)


@pytest.mark.parametrize("local", [scheduled, mixed_precision, closure])
def test_any_way_to_train(local: Any) -> None:
    assert [report.total_weight for report in agrees(local).history] == [48] * 3


@pytest.mark.parametrize("name", ["masked", "ckks"])
def test_two_losses_whose_means_ride_along(name: str) -> None:
    shape = {"metrics": {"square": (0.0, 20.0), "absolute": (0.0, 5.0)}}
    run = agrees(two_losses, name=name, shape=shape)
    truth = in_the_clear(local=two_losses)
    for report, true in zip(run.history, truth.history, strict=True):
        assert report.metrics == pytest.approx(true.metrics, abs=1e-4)
    assert run.history[2].metrics["square"] < run.history[0].metrics["square"]


def test_batches_of_any_form() -> None:
    def local(model: nn.Module, data: Any, *, seed: int) -> int:
        optimiser = torch.optim.SGD(model.parameters(), lr=0.05)
        for batch in data:
            optimiser.zero_grad()
            mse_loss(model(batch["image"]), batch["label"]).backward()
            optimiser.step()
        return sum(len(batch["label"]) for batch in data)

    data = {each: [{"image": x, "label": y} for x, y in batches(pieces(each))] for each in NAMES}
    assert agrees(local, data).history[0].total_weight == 48


def test_data_need_not_be_pieces_at_all(name: str) -> None:
    def local(model: nn.Module, data: str, *, seed: int) -> int:
        return scheduled(model, pieces(data), seed=seed)

    agrees(local, {each: each for each in NAMES}, name=name, rounds=1)


class ByRound:
    """A step that differs from round to round."""

    def __init__(self) -> None:
        self.asked: list[int] = []

    def __call__(self, model: nn.Module, data: Any, *, seed: int) -> int:
        pytest.fail("at(round) has the step")

    def at(self, round: int) -> Any:
        self.asked.append(round)
        return LocalTraining(loss=mse_loss, learning_rate=[0.1, 0.05, 0.01][round], batch_size=4)


def test_a_step_for_each_round() -> None:
    step = ByRound()
    run = train("masked", local=step)
    assert step.asked == [0] * 4 + [1] * 4 + [2] * 4
    same = LocalTraining(loss=mse_loss, learning_rate=[0.1, 0.05, 0.01], batch_size=4)
    assert run.digest == train("masked", local=same).digest


def test_seeds_are_those_of_the_clear_run_and_differ_by_site_and_round() -> None:
    seen: list[int] = []

    def local(model: nn.Module, data: Any, *, seed: int) -> int:
        seen.append(seed)
        assert torch.initial_seed() == seed
        return scheduled(model, data, seed=seed)

    train("masked", local=local)
    secure, seen[:] = sorted(seen), []
    in_the_clear(local=local)
    assert secure == sorted(seen)
    assert len(set(secure)) == 12


def test_a_frozen_batch_norm_stays_as_it_is() -> None:
    def net() -> nn.Module:
        made = seeded(lambda: nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.Linear(3, 1)))
        made[1].requires_grad_(False)  # type: ignore[index]
        return made

    run = agrees(LocalTraining(loss=mse_loss, learning_rate=0.02, batch_size=4), model=net)
    for each in [run.model, *run.models.values()]:
        for one, other in zip(each[1].state_dict().values(), net()[1].state_dict().values(), strict=True):  # type: ignore[index]
            assert torch.equal(one, other)


def test_no_gradient_and_no_mode_outlives_a_step() -> None:
    def local(model: nn.Module, data: Any, *, seed: int) -> int:
        assert all(p.grad is None for p in model.parameters())
        assert model.training
        model.eval()
        return scheduled(model, data, seed=seed)

    agrees(local)


# --- LocalTraining's settings -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "settings",
    [
        {"optimiser": torch.optim.Adam},
        {"optimiser": partial(torch.optim.AdamW, weight_decay=0.1)},
        {"clip_gradient": 0.5},
        {"learning_rate": [0.04, 0.02, 0.01]},
        {"momentum": 0.9, "weight_decay": 0.01, "proximal": 0.1, "epochs": 2, "learning_rate": 0.004},
    ],
    ids=["Adam", "AdamW", "clipped", "schedule", "all of SGD"],
)
def test_settings_are_those_of_the_clear_run(settings: dict[str, Any]) -> None:
    given: dict[str, Any] = {"loss": mse_loss, "learning_rate": 0.02, "batch_size": 4, **settings}
    local = LocalTraining(**given)
    run = agrees(local)
    without = LocalTraining(loss=mse_loss, learning_rate=0.02, batch_size=4)
    assert distance(run.model, train("masked", local=without).model) > 1e-3  # the setting does something


def test_class_weights() -> None:
    data = {each: [(x, (y.ravel() > 0).long()) for x, y in pieces(each)] for each in NAMES}

    def net() -> nn.Module:
        return seeded(lambda: nn.Linear(2, 2))

    given: dict[str, Any] = {"loss": cross_entropy, "learning_rate": 0.1, "batch_size": 4}
    run = agrees(LocalTraining(**given, class_weights=[1.0, 5.0]), data, model=net)
    other = train("masked", data, local=LocalTraining(**given), model=net())
    assert distance(run.model, other.model) > 1e-3


def test_every_protocol_takes_a_schedule(name: str) -> None:
    local = LocalTraining(loss=mse_loss, learning_rate=[0.05, 0.01], batch_size=4, optimiser=torch.optim.Adam)
    agrees(local, name=name, rounds=2)


# --- a second device --------------------------------------------------------------------------------------


def test_a_model_on_a_second_device_is_loaded_and_read_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Elsewhere, "is_meta", False)  # its name is that of another device
    monkeypatch.setattr(Elsewhere, "data_ptr", lambda self: self.values_there.data_ptr())
    model = network()
    values, manifest = flatten(model.state_dict())
    moved_on = values + np.float32(0.25)
    expected = network()
    load(moved_on, manifest, expected.state_dict())
    with SecondDevice():
        other = moved(network())
        load(moved_on, manifest, other.state_dict())
        assert all(value.device == ELSEWHERE for value in other.state_dict().values())
        update = np.empty_like(values)
        changes(other.state_dict(), manifest, values, out=update)
        np.testing.assert_allclose(update, 0.25, atol=1e-6)
        assert np.array_equal(predict(other, np.ones((4, 3))), predict(expected, np.ones((4, 3))))
        state = unflatten(moved_on, manifest, like=other.state_dict())
        assert all(value.device == ELSEWHERE for value in state.values())
        back = {name: value.cpu() for name, value in state.items()}
    assert all(torch.equal(back[name], value) for name, value in expected.state_dict().items())
