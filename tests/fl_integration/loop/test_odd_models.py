"""Models as they are found: tied, masked, in half precision. Right, or refused by name before anything runs.

A small language model stands for most of it: an embedding tied to the output, a causal mask of -inf in a
buffer, integer positions.
"""

import copy
import re
import threading
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy, mse_loss

from fl_integration import AutoClip, FedAdam, LocalTraining, Scaffold, Watch, model_digest, only
from fl_integration.loop.watch import Progress
from fl_integration.site.site import training_seed
from protocols import ParameterError
from tests.fl_integration.loop.stage import (
    LOCAL,
    NAMES,
    PROTOCOLS,
    distance,
    in_the_clear,
    linear,
    pieces,
    seeded,
    sites,
    train,
)

WORDS, WIDTH, SPAN = 7, 4, 5


@pytest.fixture(
    params=[
        pytest.param(each, marks=[pytest.mark.slow] if each in ("lattice", "paillier") else [])
        for each in PROTOCOLS
    ]
)
def name(request: Any) -> str:
    return str(request.param)


class Speaker(nn.Module):
    """Tied embedding and output, attention under a causal mask of -inf."""

    mask: torch.Tensor
    position: torch.Tensor

    def __init__(self, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.embedding = nn.Embedding(WORDS, WIDTH, dtype=dtype)
        self.output = nn.Linear(WIDTH, WORDS, bias=False, dtype=dtype)
        self.output.weight = self.embedding.weight
        self.register_buffer("mask", torch.full((SPAN, SPAN), -torch.inf, dtype=dtype).triu(1))
        self.register_buffer("position", torch.arange(SPAN))
        self.norm = nn.LayerNorm(WIDTH, dtype=dtype)

    def forward(self, words: torch.Tensor) -> torch.Tensor:
        x = self.embedding(words)
        attention = (x @ x.mT + self.mask).softmax(-1)
        predicted: torch.Tensor = self.output(self.norm(attention @ x)).mT
        return predicted


SPEAKING = LocalTraining(loss=cross_entropy, learning_rate=0.2, batch_size=4)


def texts() -> dict[str, Any]:
    generator = torch.Generator().manual_seed(2)
    made = {}
    for each in NAMES:
        words = torch.randint(WORDS, (12, SPAN + 1), generator=generator)
        made[each] = [(words[:, :-1], words[:, 1:])]
    return made


def shared_memory(model: nn.Module) -> bool:
    assert isinstance(model, Speaker)
    return (
        model.output.weight is model.embedding.weight
        and model.output.weight.data_ptr() == model.embedding.weight.data_ptr()
    )


# --- ties and masks ---------------------------------------------------------------------------------------


def test_tied_weights_travel_once_and_come_back_tied_beside_a_mask_of_minus_infinity(name: str) -> None:
    model = seeded(Speaker)
    before = copy.deepcopy(model.state_dict())
    lengths = set()
    watch = Watch(progress=Progress.NEVER, on_model=lambda n, total, state: lengths.add(len(total.mean)))
    run = train(name, texts(), model=model, local=SPEAKING, watch=watch)
    assert [report.contributors for report in run.history] == [set(NAMES)] * 3
    assert lengths == {WORDS * WIDTH + 2 * WIDTH}
    for each in (run.model, *run.models.values()):
        assert shared_memory(each)
        assert torch.equal(each.mask, before["mask"])
        assert torch.equal(each.position, before["position"])
        assert model_digest(each.state_dict()) == run.digest
    assert max_difference(run.model, in_the_clear(texts(), model=model, local=SPEAKING).model) < 1e-4
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def max_difference(one: nn.Module, other: nn.Module) -> float:
    pairs = zip(one.parameters(), other.parameters(), strict=True)
    return max(float((a.double() - b.double()).detach().abs().max()) for a, b in pairs)


def test_training_equals_plain_training_of_the_tied_model() -> None:
    """One site alone in the mean: the sum is its own training, step by step."""
    model = seeded(Speaker)
    alone = copy.deepcopy(model)
    run = in_the_clear({"a": texts()["a"]}, model=model, local=SPEAKING, rounds=1)
    SPEAKING(alone, texts()["a"], seed=training_seed(seed=7, round=0, client="a"))
    assert max_difference(run.model, alone) < 1e-6
    assert max_difference(run.model, model) > 1e-3


def test_ties_and_masks_under_everything_else() -> None:
    options: list[dict[str, Any]] = [
        {"server_optimiser": FedAdam(learning_rate=0.01, adaptivity=1e-2)},
        {"server_optimiser": Scaffold(), "shape": {"clip": 8.0}},
        {"clip": AutoClip()},
        {"shared": only("norm.*", "mask", "position")},
        {"shared": lambda entry: True},
    ]
    for option in options:
        clear = {key: value for key, value in option.items() if key not in ("clip", "shape")}
        run = train("masked", texts(), model=seeded(Speaker), local=SPEAKING, **option)
        assert shared_memory(run.model)
        assert all(shared_memory(each) for each in run.models.values())
        truth = in_the_clear(texts(), model=seeded(Speaker), local=SPEAKING, **clear)
        assert max_difference(run.model, truth.model) < 1e-3


def test_one_of_two_tied_entries_cannot_travel_alone() -> None:
    with pytest.raises(ParameterError, match=r"'embedding.weight' and 'output.weight' are one tensor"):
        refuse(seeded(Speaker), shared=only("embedding.*"))


def refuse(model: Any, **options: Any) -> None:
    """Trains a model that must be refused before anything runs."""

    def local(*_: Any, **__: Any) -> int:
        pytest.fail("a step ran")

    watch = Watch(progress=Progress.NEVER, on_message=lambda *_: pytest.fail("a message was sent"))
    train("masked", model=model, local=local, watch=watch, **options)


# --- digests ----------------------------------------------------------------------------------------------


def mixed() -> nn.Module:
    """Every floating dtype, a frozen part, BatchNorm with its counter, a constant and a buffer of floats."""
    net = nn.Sequential(
        nn.Linear(2, 3), nn.BatchNorm1d(3), nn.Linear(3, 3, dtype=torch.float64),
        nn.Linear(3, 2, dtype=torch.bfloat16), nn.Linear(2, 2, dtype=torch.float16), nn.Linear(2, 1),
    )  # fmt: skip
    net[0].requires_grad_(False)
    net.register_buffer("constant", torch.tensor([-torch.inf, 1.0]))
    net.register_buffer("level", torch.tensor([0.5]))
    return net


def nudge(model: nn.Module, data: Any, *, seed: int) -> int:
    """A step for any model: every floating value that may move does."""
    generator = torch.Generator().manual_seed(seed % 1000)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                noise = torch.randn(parameter.shape, generator=generator)
                parameter.add_((0.05 * noise).to(parameter.dtype))
        for entry, buffer in model.named_buffers():
            if buffer.is_floating_point() and "constant" not in entry and "mask" not in entry:
                buffer.add_(0.01)
    return 12


MODELS: dict[str, Callable[[], nn.Module]] = {
    "mixed": mixed,
    "bfloat16": lambda: nn.Linear(2, 1, dtype=torch.bfloat16),
    "float16": lambda: nn.Linear(2, 1, dtype=torch.float16),
    "float64": lambda: nn.Linear(2, 1, dtype=torch.float64),
    "norm": lambda: nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.Linear(3, 1)),
    "tied": Speaker,
    "tied bfloat16": lambda: Speaker(torch.bfloat16),
    "frozen": lambda: nn.Sequential(nn.Linear(2, 2).requires_grad_(False), nn.Linear(2, 1)),
}


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("protocol", ["masked", "ckks"])
def test_the_digest_is_that_of_the_model_that_is_returned(protocol: str, kind: str) -> None:
    model = seeded(MODELS[kind])
    run = train(protocol, model=model, local=nudge, rounds=2)
    assert [report.contributors for report in run.history] == [set(NAMES)] * 2
    assert model_digest(run.model.state_dict()) == run.digest
    for each in run.models.values():
        assert model_digest(each.state_dict()) == run.digest
    assert run.digest != model_digest(model.state_dict())
    for (key, one), two in zip(run.model.state_dict().items(), model.state_dict().values(), strict=True):
        assert one.dtype == two.dtype, key
    clear = in_the_clear(model=seeded(MODELS[kind]), local=nudge, rounds=2)
    assert max_difference(run.model, clear.model) < 0.01


# --- half precision ---------------------------------------------------------------------------------------


class Line(nn.Module):
    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3, dtype=dtype))


class OneMoves:
    """One of four sites moves by one unit in the last place of a bfloat16: the mean by a quarter of it."""

    def __init__(self, mover: Any) -> None:
        self._mover = mover

    def __call__(self, model: nn.Module, data: Any, *, seed: int) -> int:
        if data is self._mover:
            with torch.no_grad():
                model.weight += 2.0**-7
        return 12


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_steps_below_half_a_unit_in_the_last_place_add_up(name: str, dtype: torch.dtype) -> None:
    """A float32 master at whoever applies the mean; without one, no round would ever move the model."""
    made = {}
    for each in (dtype, torch.float32):
        data = sites()
        made[each] = train(name, data, model=Line(each), local=OneMoves(data["a"]), rounds=8)
    half, full = (run.model.weight.detach().double() for run in made.values())
    assert (full - 1).tolist() == pytest.approx([8 * 2.0**-9] * 3, abs=1e-5)
    assert half.tolist() == full.to(dtype).tolist() == pytest.approx([1 + 2.0**-6] * 3)
    assert made[dtype].model.weight.dtype == dtype


def test_one_such_step_alone_is_not_lost_at_the_end() -> None:
    data = sites()
    run = train("masked", data, model=Line(torch.bfloat16), local=OneMoves(data["a"]), rounds=1)
    assert (run.model.weight == 1).all()  # a quarter of a unit, rounded


# --- what is right ----------------------------------------------------------------------------------------


class Extra(nn.Linear):
    """Remembers how often it was called, in the state that is its own."""

    def __init__(self) -> None:
        super().__init__(2, 1)
        self.calls = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return super().forward(x)

    def get_extra_state(self) -> Any:
        return {"calls": self.calls}

    def set_extra_state(self, state: Any) -> None:
        self.calls = state["calls"]


def test_extra_state_stays_at_its_site(name: str) -> None:
    run = train(name, model=seeded(Extra), rounds=2)
    assert max_difference(run.model, train(name, rounds=2).model) < 1e-6
    assert [each.calls for each in run.models.values()] == [6] * 4
    assert run.model.calls == 0
    assert model_digest(run.model.state_dict()) == run.digest


def test_extra_state_of_a_failed_round_is_as_it_was() -> None:
    run = train("masked", sites(b=Failing({1})), model=seeded(Extra), rounds=3)
    assert [each.calls for each in run.models.values()] == [9, 6, 9, 9]


class Failing:
    """Examples that fail in some rounds, at their end: by then the model was already given."""

    def __init__(self, rounds: set[int]) -> None:
        self._rounds, self.asked = rounds, 0

    def __iter__(self) -> Iterator[Any]:
        yield from pieces("b")
        self.asked += 1
        if self.asked - 1 in self._rounds:
            raise OSError("the disk is gone")


def test_extra_state_cannot_be_shared() -> None:
    with pytest.raises(ParameterError, match="entry '_extra_state' is a module's extra state"):
        refuse(Extra(), shared=lambda entry: True)


class Negated(nn.Linear):
    """Its weight is a view with torch's negation bit, as the imaginary part of a conjugate is."""

    def __init__(self) -> None:
        super().__init__(2, 1)
        self.weight = nn.Parameter(torch._neg_view(-self.weight.detach()))
        assert self.weight.is_neg()


def test_a_negated_view_is_its_values() -> None:
    run = train("masked", model=seeded(Negated))
    assert max_difference(run.model, train("masked").model) < 1e-6
    assert model_digest(run.model.state_dict()) == run.digest


class Conjugated(nn.Linear):
    """A complex buffer with torch's conjugation bit, such as rotary embeddings; it has no mean."""

    def __init__(self) -> None:
        super().__init__(2, 1)
        self.register_buffer("rotation", torch.ones(2, dtype=torch.complex64).mul(1j).conj(), persistent=True)


def test_what_is_complex_is_named() -> None:
    with pytest.raises(ParameterError, match="entry 'rotation' is complex64"):
        refuse(Conjugated())
    run = train("masked", model=seeded(Conjugated), shared=only("weight", "bias"))
    assert max_difference(run.model, train("masked").model) == 0
    assert model_digest(run.model.state_dict()) == run.digest
    assert torch.equal(run.model.rotation.resolve_conj(), Conjugated().rotation.resolve_conj())


@pytest.mark.parametrize("frozen", [False, True])
def test_what_is_sparse_may_stay_home(frozen: bool) -> None:
    def make() -> nn.Module:
        net = nn.Sequential(nn.Linear(2, 1), Scattered())
        net[1].requires_grad_(not frozen)
        return net

    def local(model: Any, data: Any, *, seed: int) -> Any:
        return LOCAL(model[0], data, seed=seed)

    run = train("masked", model=seeded(make), shared=only("0.*"), local=local)
    assert [len(report.contributors) for report in run.history] == [4] * 3
    assert model_digest(run.model.state_dict()) == run.digest
    assert torch.equal(run.models["a"][1].graph.to_dense(), torch.eye(2))


def test_zero_size_tensors_take_no_place(name: str) -> None:
    net = seeded(lambda: nn.Linear(2, 1))
    net.register_parameter("nothing", nn.Parameter(torch.zeros(0, 3)))
    net.register_buffer("empty", torch.zeros(0))
    for options in ({}, {"clip": AutoClip(), "server_optimiser": Scaffold()}):
        run = train(name, model=net, rounds=1, **options)
        assert run.model.nothing.shape == (0, 3)
        assert [len(report.contributors) for report in run.history] == [4]
        assert model_digest(run.model.state_dict()) == run.digest


def test_parametrizations() -> None:
    net = seeded(lambda: nn.utils.parametrizations.weight_norm(nn.Linear(2, 1)))
    run = train("masked", model=net)
    assert distance(run.model, in_the_clear(model=net).model) < 1e-5
    assert torch.nn.utils.parametrize.is_parametrized(run.model, "weight")
    assert model_digest(run.model.state_dict()) == run.digest


# --- what is refused --------------------------------------------------------------------------------------


class Complex(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.wave = nn.Parameter(torch.ones(2, 1, dtype=torch.complex64))


class Scattered(nn.Linear):
    def __init__(self) -> None:
        super().__init__(2, 1)
        self.register_buffer("graph", torch.eye(2).to_sparse())


class Locked(nn.Linear):
    def __init__(self) -> None:
        super().__init__(2, 1)
        self.lock = threading.Lock()


class Copying(nn.Linear):
    """Its state_dict holds copies: what is written there does not reach it."""

    def __init__(self) -> None:
        super().__init__(2, 1)
        self._register_state_dict_hook(lambda module, state, *_: state.update(weight=self_copy(state)))


def self_copy(state: Any) -> Any:
    return state["weight"].clone()


class Renaming(nn.Linear):
    def __init__(self) -> None:
        super().__init__(2, 1)
        self._register_state_dict_hook(lambda module, state, *_: state.update(kernel=state.pop("weight")))


class Empty(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


def filled(value: float) -> nn.Module:
    net = nn.Linear(2, 1)
    nn.init.constant_(net.bias, value)
    return net


@pytest.mark.filterwarnings("ignore:.*weight_norm.*", "ignore:Lazy modules.*")
@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (Complex, "entry 'wave' is complex64"),
        (Scattered, "entry 'graph' is a sparse"),
        (Locked, "the model cannot be copied.*lock"),
        (Copying, r"a new 'weight' at each call"),
        (Renaming, "cannot load its own state_dict(.|\n)*kernel"),
        (Empty, "no parameter that requires a gradient"),
        (lambda: nn.Linear(2, 1).requires_grad_(False), "no parameter that requires a gradient"),
        (lambda: nn.LazyLinear(1), "entry 'weight' is not initialised yet"),
        (lambda: nn.utils.weight_norm(nn.Linear(2, 1)), "'weight' is a tensor that is computed"),
        (lambda: filled(float("nan")), "parameter 'bias' is not finite before"),
        (lambda: filled(float("inf")), "parameter 'bias' is not finite before"),
        (lambda: nn.Linear(2, 1, device="meta"), "entry 'weight' is a sparse, quantized, nested or meta"),
        (lambda: {"weight": torch.ones(2)}, "the model is a dict; it must be a torch"),
        (lambda: nn.Linear, "the model is a type; it must be a torch"),
    ],
)  # fmt: skip
def test_what_cannot_be_carried_is_named_before_anything_runs(make: Any, reason: str) -> None:
    with pytest.raises(ParameterError, match=reason):
        refuse(make())


# --- steps that change the model --------------------------------------------------------------------------


class Meddling:
    """Trains, and then does something to one site's model in one round."""

    def __init__(self, victim: Any, meddle: Callable[[Any], None]) -> None:
        self._victim, self._meddle, self.calls = victim, meddle, Counter[int]()

    def __call__(self, model: nn.Module, data: Any, *, seed: int) -> Any:
        found = LOCAL(model, data, seed=seed)
        self.calls[id(data)] += 1
        if data is self._victim and self.calls[id(data)] == 2:
            with torch.no_grad():
                self._meddle(model)
        return found


def meddled(meddle: Callable[[Any], None], make: Any = None, **options: Any) -> Any:
    data = sites()
    model = seeded(make) if make is not None else linear()
    run = train("masked", data, model=model, local=Meddling(data["b"], meddle), **options)
    return run, model


def untied(model: Any) -> None:
    model.second.weight = nn.Parameter(model.second.weight.detach().clone())


class Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(2, 2), nn.Linear(2, 2)
        self.second.weight = self.first.weight
        self.last = nn.Linear(2, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        last: torch.Tensor = self.last(self.second(self.first(x)))
        return last


class Headed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.frozen, self.head = nn.Linear(2, 2), nn.Linear(2, 2), nn.Linear(2, 1)
        self.frozen.requires_grad_(False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.head(self.frozen(self.body(x)))
        return out


def put_in_place(model: Any) -> None:
    model.frozen.weight = nn.Parameter(model.frozen.weight + 1, requires_grad=False)


@pytest.mark.parametrize(
    ("make", "meddle", "reason"),
    [
        (None, lambda model: model.double(), "step made 'weight' float64.*it was float32"),
        (None, lambda model: model.to("meta"), "step made 'weight' float32.* on meta"),
        (None, lambda model: setattr(model, "more", nn.Linear(1, 1)), r"step added 'more\.weight'"),
        (None, lambda model: model.register_buffer("seen", torch.ones(1)), "step added 'seen'"),
        (None, lambda model: setattr(model, "bias", None), "step removed 'bias'"),
        (None, lambda m: setattr(m, "weight", nn.Parameter(torch.ones(2, 1))), r"made 'weight' .*\[2, 1\]"),
        (Twice, untied, "tied"),
        (Headed, lambda model: model.head.double(), r"step made 'head\.weight' float64"),
        (Headed, lambda model: model.frozen.weight.add_(1), r"step changed 'frozen\.weight'"),
        (Headed, put_in_place, r"step changed 'frozen\.weight'"),
    ],
)  # fmt: skip
def test_a_step_that_bends_the_model_sits_out_and_its_site_is_sane_in_the_next_round(
    make: Any, meddle: Any, reason: str
) -> None:
    options: dict[str, Any] = {"shared": only("body.*")} if make is Headed else {}
    run, model = meddled(meddle, make, **options)
    assert [report.contributors for report in run.history] == [set(NAMES), set("acd"), set(NAMES)]
    assert list(run.history[1].dropped) == ["b"]
    assert re.search(reason, run.history[1].dropped["b"])
    truth = in_the_clear(model=model, absent={1: {"b"}}, **options)
    assert distance(run.model, truth.model) < 1e-5
    for key, value in run.models["b"].state_dict().items():
        assert value.shape == model.state_dict()[key].shape
        assert value.dtype == model.state_dict()[key].dtype
    if make is Headed:
        assert torch.equal(run.models["b"].frozen.weight, model.frozen.weight)
        # Its head has moved in two rounds and not in the one that failed.
        assert distance(run.models["a"], truth.models["a"]) < 1e-5


def test_a_parameter_that_is_replaced_by_one_of_its_form_is_an_update_like_any_other() -> None:
    def replace(model: Any) -> None:
        model.weight = nn.Parameter(model.weight.detach().clone())

    run, model = meddled(replace)
    assert [len(report.contributors) for report in run.history] == [4, 4, 4]
    assert distance(run.model, in_the_clear(model=model).model) < 1e-5


def test_a_frozen_part_that_moved_away_and_back_is_as_it_was() -> None:
    """A step that moves the model to another device for a while gets tensors of another place."""

    def away_and_back(model: Any) -> None:
        model.frozen.weight = nn.Parameter(model.frozen.weight.double().float(), requires_grad=False)

    run, _ = meddled(away_and_back, Headed, shared=only("body.*"))
    assert [len(report.contributors) for report in run.history] == [4, 4, 4]


def test_no_warning_and_no_trace_in_the_model_that_was_passed_in() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = seeded(Headed)
        before = copy.deepcopy(model.state_dict())
        run = train("masked", model=model, shared=only("body.*"), local=LocalTraining(
            loss=mse_loss, learning_rate=0.05))  # fmt: skip
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert np.isfinite([distance(each, run.model) for each in run.models.values()]).all()


def test_a_buffer_of_nan_is_said() -> None:
    class Spoilt(nn.Linear):
        def __init__(self) -> None:
            super().__init__(2, 1)
            self.register_buffer("scale", torch.tensor([1.0, torch.nan]))

    with pytest.warns(UserWarning, match="buffer 'scale' holds NaN"):
        train("plain", model=seeded(Spoilt), rounds=1)
