"""Server optimisers and control variates through every protocol, against plain implementations."""

import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import mse_loss

from fl_integration.loop.alarm import ClippingWarning
from fl_integration.loop.global_model import GlobalModel
from fl_integration.loop.in_process import InProcess
from fl_integration.loop.optimisers import (
    FedAdagrad,
    FedAdam,
    FedAvg,
    FedAvgM,
    FedYogi,
    ServerOptimiser,
)
from fl_integration.loop.parties import FederatedClient, Surroundings
from fl_integration.loop.preparing import Prepared, prepare, site_of
from fl_integration.loop.report import TrainingAborted
from fl_integration.loop.rounds import Training
from fl_integration.loop.scaffold import Scaffold
from fl_integration.loop.watch import Watch
from fl_integration.site.site import training_seed
from fl_integration.site.training import LocalTraining
from fl_integration.vectors.autoclip import AutoClip
from fl_integration.vectors.sharing import all_but
from protocols import Learner, ParameterError, Rounding
from secagg.errors import VerificationError
from tests.fl_integration.loop.stage import (
    EACH,
    LOCAL,
    NAMES,
    QUIET,
    distance,
    in_the_clear,
    linear,
    pieces,
    protocol,
    seeded,
    sites,
    train,
)

CLIENTS_LEARN = ("ckks", pytest.param("paillier", marks=pytest.mark.slow))
OPTIMISERS = [
    FedAvg(learning_rate=0.5),
    FedAvg(learning_rate=[1.0, 0.5, 0.25]),
    FedAvgM(momentum=0.5),
    FedAdagrad(learning_rate=0.05),
    FedAdam(learning_rate=0.05),
    FedAdam(learning_rate=[0.1, 0.05, 0.02], momentum=0.0),
    FedYogi(learning_rate=0.05),
    Scaffold(learning_rate=0.5),
]
WIDE: dict[str, Any] = {"clip": 16.0, "bits": 28}
"""So that no control variate is clipped."""


@pytest.fixture(params=EACH)
def name(request: Any) -> str:
    return str(request.param)


def skewed() -> dict[str, Any]:
    """Sites that differ, in number and in what they see."""
    return {
        each: [(x + index / 4, y)] for index, each in enumerate(NAMES) for x, y in pieces(each, 8 + 4 * index)
    }


# --- as in the clear --------------------------------------------------------------------------------------


@pytest.mark.parametrize("optimiser", OPTIMISERS, ids=repr)
def test_every_protocol_does_what_is_done_in_the_clear(name: str, optimiser: ServerOptimiser) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error", ClippingWarning)
        run = train(name, skewed(), server_optimiser=optimiser, shape=WIDE)
    truth = in_the_clear(skewed(), server_optimiser=optimiser)
    assert distance(run.model, truth.model) < 2e-5
    assert distance(run.model, in_the_clear(skewed()).model) > 1e-2  # another optimiser is seen


def test_they_are_what_they_are_called() -> None:
    """FedAdam over two rounds, from the means themselves, by Alg. 2."""
    means, states = [], [{k: v.double().numpy() for k, v in linear().state_dict().items()}]
    watch = Watch(on_model=lambda n, total, state: (means.append(total.mean.copy()), states.append(
        {k: v.double().numpy() for k, v in state.items()})), progress=QUIET.progress)  # fmt: skip
    train("masked", server_optimiser=FedAdam(learning_rate=0.05), watch=watch)
    m = v = np.zeros(3)
    for number, mean in enumerate(means):
        m, v = 0.9 * m + 0.1 * mean, 0.99 * v + 0.01 * mean**2
        step = 0.05 * m / (np.sqrt(v) + 1e-3)
        for entry, part in {"weight": slice(0, 2), "bias": slice(2, 3)}.items():
            moved = states[number + 1][entry].ravel() - states[number][entry].ravel()
            np.testing.assert_allclose(moved, step[part], rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", EACH)
def test_a_rate_of_one_is_the_default_bit_for_bit(name: str) -> None:
    default = train(name, skewed())
    for optimiser in (FedAvg(learning_rate=1.0), FedAvg(learning_rate=[1, 1, 1])):
        assert train(name, skewed(), server_optimiser=optimiser).digest == default.digest


@pytest.mark.parametrize("optimiser", [FedAvg(learning_rate=1), FedAvgM(momentum=0.0)], ids=repr)
def test_no_momentum_is_no_change(optimiser: ServerOptimiser) -> None:
    assert train("masked", server_optimiser=optimiser).digest == train("masked").digest


# --- where clients learn ----------------------------------------------------------------------------------


@pytest.fixture
def trainings(monkeypatch: pytest.MonkeyPatch) -> list[Training]:
    """Every training of a test, to look at its clients."""
    made: list[Training] = []
    real = Training._ended

    def ended(self: Training, stopped: str) -> Any:
        made.append(self)
        return real(self, stopped)

    monkeypatch.setattr(Training, "_ended", ended)
    return made


@pytest.mark.parametrize("name", CLIENTS_LEARN)
@pytest.mark.parametrize("optimiser", [FedAdam(learning_rate=0.05), Scaffold(learning_rate=0.5)], ids=repr)
def test_all_clients_hold_the_same_bits(name: str, optimiser: ServerOptimiser, trainings: Any) -> None:
    train(name, skewed(), server_optimiser=optimiser, shape=WIDE, drop={1: {"b": "Contribute"}})
    models = [each.model for each in trainings[0].clients.values()]
    assert len({model.digest() for model in models}) == 1  # values, moments, steps, control variates
    assert {model.state.steps for model in models} == {3}
    if optimiser.controls:
        assert np.abs(models[0].control).max() > 0.01


@pytest.mark.parametrize("name", CLIENTS_LEARN)
@pytest.mark.parametrize(
    "spoilt",
    [
        lambda model: replace(model, values=model.values + np.float32(2**-20)),
        lambda model: replace(model, control=model.control + np.float32(2**-20)),
        lambda model: replace(model, state=replace(model.state, steps=model.state.steps + 1)),
    ],
    ids=["values", "control variate", "steps"],
)
def test_one_that_holds_other_bits_at_the_end_is_a_fault_and_said(
    name: str, spoilt: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It applied the same sums, so that its copy goes by the same name; it was quietly given the others'."""
    real, calls = GlobalModel.moved, Counter[str]()

    def moved(self: GlobalModel, total: Any, *, round: int) -> GlobalModel:
        calls["moved"] += 1
        right = real(self, total, round=round)
        return spoilt(right) if calls["moved"] == 2 else right

    monkeypatch.setattr(GlobalModel, "moved", moved)
    with pytest.raises(VerificationError, match="bit-identical"):
        train(name, server_optimiser=Scaffold(), rounds=2, shape=WIDE)
    assert calls["moved"] == 2 * len(NAMES)


@pytest.mark.parametrize("name", CLIENTS_LEARN)
def test_one_that_was_away_for_two_rounds_takes_two_steps_in_order(name: str, trainings: Any) -> None:
    optimiser = FedAdam(learning_rate=[0.2, 0.1, 0.05, 0.02])
    away = {1: {"b": "Contribute"}, 2: {"b": "Contribute"}}
    run = train(name, skewed(), rounds=4, server_optimiser=optimiser, drop=away, shape=WIDE)
    assert [len(report.contributors) for report in run.history] == [4, 3, 3, 4]
    assert not run.handed_over
    assert trainings[0].clients["b"].opened == trainings[0].clients["a"].opened == 4
    assert len({each.model.digest() for each in trainings[0].clients.values()}) == 1
    truth = in_the_clear(skewed(), rounds=4, server_optimiser=optimiser, absent={1: {"b"}, 2: {"b"}})
    assert distance(run.model, truth.model) < 2e-5


@pytest.mark.parametrize("name", CLIENTS_LEARN)
def test_one_that_is_away_at_the_end_catches_up(name: str, trainings: Any) -> None:
    away = {1: {"b": "Contribute"}, 2: {"b": "Contribute"}}
    run = train(name, server_optimiser=FedYogi(learning_rate=0.05), drop=away)
    assert len({each.model.digest() for each in trainings[0].clients.values()}) == 1
    assert distance(run.models["b"], run.model) == 0


# --- a round without a mean -------------------------------------------------------------------------------


@pytest.mark.parametrize("optimiser", [FedAvgM(), FedAdam(learning_rate=0.05)], ids=repr)
def test_an_aborted_round_is_no_step(name: str, optimiser: ServerOptimiser) -> None:
    """Two steps, the second from the seed of round 2: the optimiser's memory is that of one step."""
    late = "MaskedInput" if name in ("masked", "lattice") else "Contribute"
    models = []
    watch = Watch(
        on_model=lambda n, total, state: models.append((n, total.mean.copy())), progress=QUIET.progress
    )
    run = train(name, server_optimiser=optimiser, drop={1: dict.fromkeys("abc", late)}, watch=watch)
    assert [bool(report.aborted) for report in run.history] == [False, True, False]
    assert [number for number, _ in models] == [0, 2]
    values = np.concatenate([p.detach().double().numpy().ravel() for p in linear().parameters()])
    state = optimiser.start(3)
    for number, mean in models:
        state, step = optimiser.step(state, mean, round=number)
        values = values + step
    found = np.concatenate([p.detach().double().numpy().ravel() for p in run.model.parameters()])
    np.testing.assert_allclose(found, values, rtol=0, atol=1e-6)


def test_the_schedule_goes_by_the_round_not_by_the_step() -> None:
    rates = [1.0, 0.5, 0.25]
    seen = []
    watch = Watch(
        on_model=lambda n, total, state: seen.append((n, total.mean.copy(), state)), progress=QUIET.progress
    )
    train("plain", server_optimiser=FedAvg(learning_rate=rates), drop={1: dict.fromkeys("abc", "Contribute")},
          watch=watch)  # fmt: skip
    (_, _, before), (number, mean, after) = seen
    assert number == 2
    moved = (after["bias"].double() - before["bias"].double()).numpy()
    np.testing.assert_allclose(moved, 0.25 * mean[2:], rtol=0, atol=1e-6)


# --- buffers ----------------------------------------------------------------------------------------------


BUFFERS = [FedAdam(learning_rate=0.05), FedAvg(learning_rate=0.25), FedAvgM()]


def normed() -> nn.Module:
    return seeded(lambda: nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.Linear(3, 1)))


@pytest.mark.parametrize("optimiser", BUFFERS, ids=repr)
def test_running_statistics_take_the_plain_mean(optimiser: ServerOptimiser) -> None:
    """By hand: after one round they are the weighted mean of those that the sites ended with."""
    data = skewed()
    mean, weight = {"1.running_mean": 0.0, "1.running_var": 0.0}, 0
    moved = 0.0
    for client, theirs in data.items():
        module = normed()
        weighs = LOCAL(module, theirs, seed=training_seed(seed=7, round=0, client=client)).weight
        weight += weighs
        mean = {n: value + weighs * module.state_dict()[n].double() for n, value in mean.items()}
        moved = moved + weighs * (module.state_dict()["1.weight"] - 1).double()
    run = train("masked", data, model=normed(), rounds=1, server_optimiser=optimiser, shape=WIDE)
    for entry, total in mean.items():
        torch.testing.assert_close(run.model.state_dict()[entry].double(), total / weight, rtol=0, atol=1e-5)
    plain = (run.model.state_dict()["1.weight"] - 1).double()
    close = torch.allclose(plain, moved / weight, rtol=0, atol=1e-5)
    assert close is isinstance(optimiser, FedAvgM)  # its first step is the mean; the others' are not


# --- SCAFFOLD ---------------------------------------------------------------------------------------------


def two_layers() -> nn.Module:
    return seeded(lambda: nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 1)))


def scaffold_by_hand(
    data: dict[str, Any], *, rounds: int, rate: float, steps: int, server_rate: float, absent: dict[int, str]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Karimireddy et al., ICML'20, Alg. 1, option II, the means by weight: full batches, K = `steps`.

    Where somebody is absent step 17 is as `Scaffold` says: c goes to the mean of the c_i of the others, by
    their share.

    x, c and all c_i as flat float64 vectors, gradients by autograd, no optimiser, no hook.
    """
    module = two_layers().double()
    shapes = [p.shape for p in module.parameters()]
    names = [n for n, _ in module.named_parameters()]
    x = torch.cat([p.detach().ravel() for p in module.parameters()])
    c, own = torch.zeros_like(x), {client: torch.zeros_like(x) for client in data}

    def gradient(at: torch.Tensor, inputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        point = at.detach().requires_grad_(True)
        parts = point.split([shape.numel() for shape in shapes])
        given = {n: part.view(shape) for n, part, shape in zip(names, parts, shapes, strict=True)}
        loss = mse_loss(torch.func.functional_call(module, given, (inputs,)), targets)
        return torch.autograd.grad(loss, point)[0]

    for number in range(rounds):
        present = [client for client in data if client not in absent.get(number, "")]
        moved, shifted, weight = torch.zeros_like(x), torch.zeros_like(x), 0
        for client in present:
            inputs, targets = (part.double() for part in data[client][0])
            y = x
            for _ in range(steps):
                y = y - rate * (gradient(y, inputs, targets) - own[client] + c)  # step 10
            after = own[client] - c + (x - y) / (steps * rate)  # step 12, option II
            moved += len(inputs) * (y - x)
            shifted += len(inputs) * (after - (c if absent else own[client]))
            weight += len(inputs)
            own[client] = after
        x = x + server_rate * moved / weight
        c = c + len(present) / len(data) * shifted / weight
    return x, c


@pytest.mark.parametrize("absent", [{}, {1: "b"}], ids=["all", "one away"])
@pytest.mark.parametrize("name", ["masked", "ckks"])
def test_scaffold_is_algorithm_1(name: str, absent: dict[int, str], trainings: Any) -> None:
    data = {each: [(x, y + index)] for index, (each, ((x, y),)) in enumerate(skewed().items())}
    local = LocalTraining(loss=mse_loss, learning_rate=0.05, batch_size=None, epochs=4)
    # One that is away must not train: the drop is before it is asked.
    drop = {1: {"b": "MaskedInput" if name == "masked" else "Contribute"}} if absent else {}
    run = train(name, data, model=two_layers(), local=local, server_optimiser=Scaffold(learning_rate=0.5),
                drop=drop, shape={"clip": 16.0, "bits": 28})  # fmt: skip
    x, c = scaffold_by_hand(data, rounds=3, rate=0.05, steps=4, server_rate=0.5, absent=absent)
    found = torch.cat([p.detach().double().ravel() for p in run.model.parameters()])
    torch.testing.assert_close(found, x, rtol=0, atol=2e-5)
    server = trainings[0].server.model or trainings[0].clients["a"].model
    torch.testing.assert_close(torch.from_numpy(server.control).double(), c, rtol=0, atol=1e-4)
    without = train(name, data, model=two_layers(), local=local, server_optimiser=FedAvg(learning_rate=0.5),
                    drop=drop, shape={"clip": 16.0, "bits": 28})  # fmt: skip
    assert distance(run.model, without.model) > 1e-3  # the control variates are seen


def test_the_control_variates_travel_behind_the_update() -> None:
    lengths = set()
    watch = Watch(on_model=lambda n, total, state: lengths.add(len(total.mean)), progress=QUIET.progress)
    train("plain", model=normed(), server_optimiser=Scaffold(), watch=watch, clip=AutoClip())
    assert lengths == {
        9 + 6 + 6 + 4 + 9 + 6 + 4
    }  # weights, batch norm with its statistics; again, parameters


def refused(match: str, **options: Any) -> None:
    def fail(*_: Any, **__: Any) -> None:
        pytest.fail("something ran")

    watch = Watch(on_message=fail, on_round=fail, progress=QUIET.progress)
    with pytest.raises(ParameterError, match=match):
        train(**{"name": "plain", "watch": watch, **options})
    with pytest.raises(ParameterError, match=match):
        in_the_clear(**{"watch": watch, **options})


@pytest.mark.parametrize(
    "local",
    [
        LocalTraining(loss=mse_loss, learning_rate=0.05, optimiser=torch.optim.Adam),
        LocalTraining(loss=mse_loss, learning_rate=0.05, momentum=0.9),
        LocalTraining(loss=mse_loss, learning_rate=0.05, proximal=0.1),
        LocalTraining(loss=mse_loss, learning_rate=0.05, clip_gradient=1.0),
        lambda model, data, *, seed: 12,
    ],
    ids=["Adam", "momentum", "proximal", "clip_gradient", "own"],
)
def test_scaffold_needs_plain_sgd(local: Any) -> None:
    refused("control variates", local=local, server_optimiser=Scaffold())


def unlike() -> dict[str, Any]:
    """Sites that want different lines: FedAvg in many steps ends beside what they want together."""
    found = {}
    for index, each in enumerate(NAMES):
        ((x, _),) = pieces(each)
        x = x * (1 + index / 6)
        found[each] = [(x, x @ torch.tensor([[1.0], [float(index) - 2]]) + index / 10)]
    return found


STEPS = LocalTraining(loss=mse_loss, learning_rate=0.12, batch_size=None, epochs=3)


@pytest.fixture(scope="module")
def together() -> nn.Module:
    """What all sites want together."""
    data = unlike()
    x, y = (torch.cat([data[each][0][part] for each in NAMES]).double() for part in (0, 1))
    best = torch.linalg.lstsq(torch.cat([x, torch.ones(len(x), 1)], 1), y).solution
    model = linear()
    model.load_state_dict({"weight": best[:2].T, "bias": best[2]})
    return model


def lost_on_the_way(monkeypatch: pytest.MonkeyPatch, who: str, number: int) -> None:
    """These train and answer in this round, and the answer does not arrive."""
    real = InProcess._answer

    def answer(self: InProcess, client: str, request: bytes) -> bytes | None:
        before = vectors[client]
        reply = real(self, client, request)
        return None if self._number == number and client in who and vectors[client] > before else reply

    contributed = FederatedClient._contributed

    def count(self: FederatedClient, *args: Any) -> bytes:
        vectors[self.name] += 1
        return contributed(self, *args)

    vectors: Counter[str] = Counter()
    monkeypatch.setattr(InProcess, "_answer", answer)
    monkeypatch.setattr(FederatedClient, "_contributed", count)


@pytest.mark.parametrize("who", ["d", "abcd"], ids=["one", "all"])
@pytest.mark.parametrize("name", ["plain", pytest.param("masked", marks=pytest.mark.slow)])
def test_an_update_that_was_lost_on_the_way_is_forgotten(
    name: str, who: str, together: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its c_i has moved and c has not; with changes alone the training ended beside its optimum for good."""
    options: dict[str, Any] = {"local": STEPS, "rounds": 12, "shape": {"clip": 64.0, "bits": 32}}
    away = in_the_clear(unlike(), local=STEPS, rounds=12).model
    assert distance(away, together) > 0.05  # there is something to get right
    lost_on_the_way(monkeypatch, who, 0)
    run = train(name, unlike(), server_optimiser=Scaffold(), **options)
    assert run.history[0].contributors == (set() if who == "abcd" else set("abc"))
    assert bool(run.history[0].aborted) is (who == "abcd")
    assert distance(run.model, together) < 2e-3


def test_in_an_aborted_first_round_too(together: nn.Module) -> None:
    """Nobody answers the last exchange, with which the masks would have gone."""
    options: dict[str, Any] = {"local": STEPS, "rounds": 12, "shape": {"clip": 64.0, "bits": 32}}
    run = train("masked", unlike(), server_optimiser=Scaffold(), drop={0: dict.fromkeys(NAMES, "Unmask")},
                **options)  # fmt: skip
    assert run.history[0].aborted
    assert distance(run.model, together) < 2e-3


class FirstFails:
    """Examples that cannot be read the first time."""

    def __init__(self, name: str) -> None:
        self._pieces, self.asked = pieces(name), 0

    def __iter__(self) -> Iterator[Any]:
        self.asked += 1
        if self.asked == 1:
            raise OSError("the disk is gone")
        return iter(self._pieces)


@pytest.mark.parametrize("resumed", [False, True], ids=["", "resumed"])
@pytest.mark.parametrize(("name", "kept"), [("plain", "control variates"), ("masked", "heads"),
                                            ("ckks", "control variates")])  # fmt: skip
def test_what_was_trained_for_scales_that_failed_is_taken_back(
    name: str, kept: str, resumed: bool, tmp_path: Path
) -> None:
    """Two sites cannot count, and the sum aborts: what the others trained moves nothing that they keep."""
    local = LocalTraining(loss=mse_loss, learning_rate=0.05, batch_size=None)
    options: dict[str, Any] = {"clip": AutoClip(), "model": two_layers(), "local": local}
    if kept == "heads":
        options["shared"] = all_but("2.*")
    else:
        options["server_optimiser"] = Scaffold()
    whole = train(name, rounds=3, **options)
    failing = sites(b=FirstFails("b"), c=FirstFails("c"))
    if resumed:
        with pytest.raises(TrainingAborted):
            train(name, failing, rounds=1, checkpoint=tmp_path, **options)
    found = train(name, failing, rounds=4, **options, **({"checkpoint": tmp_path} if resumed else {}))
    assert "the scales were not fixed" in found.history[0].aborted
    assert distance(found.model, whole.model) < 1e-6  # full batches: only their order differs
    assert all(distance(found.models[each], whole.models[each]) < 1e-6 for each in NAMES)


def one_client(start: Prepared) -> FederatedClient:
    suite = protocol("plain").suite
    machine: Any = None  # nothing is sent
    return FederatedClient(
        machine, site=site_of("a", start), start=start.start,
        around=Surroundings(learns=Learner.SERVER, surface=suite.surface),  # type: ignore[arg-type]
    )  # fmt: skip


@pytest.mark.parametrize("moved", ["control", "values", "round"])
def test_what_was_trained_ahead_is_for_that_model_and_round_alone(moved: str) -> None:
    start = prepare(linear(), skewed(), local=STEPS, rounds=2, seed=7, optimiser=Scaffold())
    given, number = start.start.delivered, 0
    ahead, other = one_client(start), one_client(start)
    first = ahead.train_ahead(given, round=0).copy()
    if moved == "round":
        number = 1
    else:
        given = replace(given, **{moved: getattr(given, moved) + 1})
    found, _ = ahead.train(given, round=number)
    expected, _ = other.train(given, round=number)
    assert np.array_equal(found, expected)
    assert np.array_equal(ahead.site.own.control, other.site.own.control)
    assert moved == "round" or not np.array_equal(found, first)


# --- what can never work ----------------------------------------------------------------------------------


@pytest.mark.parametrize("wrong", ["FedAdam", FedAdam, None, torch.optim.SGD, 0.5, lambda mean: mean])
def test_no_server_optimiser(wrong: Any) -> None:
    refused(r"server_optimiser is a \w+; pass FedAvg\(\), FedAdam", server_optimiser=wrong)


@pytest.mark.parametrize("count", [1, 2, 4])
def test_a_schedule_of_the_wrong_length(count: int) -> None:
    optimiser = FedAvg(learning_rate=[1.0] * count)
    refused(f"the schedule has {count} learning rates for 3 rounds", server_optimiser=optimiser)


# --- the grid ---------------------------------------------------------------------------------------------


def test_an_adaptivity_below_the_grid_is_said() -> None:
    fine = FedAdam(learning_rate=0.05, adaptivity=1e-5)
    with pytest.warns(UserWarning, match="adaptivity is 1e-05, below a step of the protocol's grid") as said:
        train("masked", server_optimiser=fine, rounds=1, shape={"bits": 12})
    assert len(said) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        train("masked", server_optimiser=fine, rounds=1)  # 24 bits
        train("masked", server_optimiser=FedAvgM(), rounds=1, shape={"bits": 12})
        in_the_clear(server_optimiser=FedAdam(learning_rate=0.05, adaptivity=1e-12), rounds=1)


def test_the_warning_is_no_false_alarm() -> None:
    """What stands still, moves by rounding alone: under it a coordinate walks as far as one that learns."""

    class Still(nn.Module):
        """Its second parameter has a gradient of next to nothing."""

        def __init__(self) -> None:
            super().__init__()
            self.line, self.still = nn.Linear(2, 1), nn.Parameter(torch.zeros(1))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.line(x) + 1e-5 * self.still

    shape = {"bits": 12, "rounding": Rounding.STOCHASTIC}

    def still(adaptivity: float) -> float:
        optimiser = FedAdam(learning_rate=0.05, adaptivity=adaptivity)
        run = train("plain", model=seeded(Still), server_optimiser=optimiser, rounds=8, shape=shape)
        return abs(float(run.model.still))

    with pytest.warns(UserWarning, match="adaptivity"):
        fine = still(1e-8)
    assert 5 * still(1e-2) < fine


def test_sites_do_not_see_the_optimiser() -> None:
    """What goes down with a round is the model, whatever moves it: an update's length is the same."""
    assert train("plain", sites(), server_optimiser=FedAdam(learning_rate=0.05)).history[0].traffic == (
        train("plain", sites()).history[0].traffic
    )
