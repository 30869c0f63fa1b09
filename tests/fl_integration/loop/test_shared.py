"""`shared=`: what travels, what stays at its site, and that nobody else ever writes to that."""

import copy
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import nn

from fl_integration.loop.evaluation import Central, Task
from fl_integration.loop.optimisers import FedAdam
from fl_integration.loop.scaffold import Scaffold
from fl_integration.loop.watch import Watch
from fl_integration.site.site import training_seed
from fl_integration.site.training import LocalTraining
from fl_integration.vectors.autoclip import AutoClip
from fl_integration.vectors.sharing import adapters, all_but, all_but_norms, only
from protocols import ParameterError
from tests.fl_integration.loop.stage import (
    EACH,
    LOCAL,
    NAMES,
    QUIET,
    distance,
    in_the_clear,
    pieces,
    seeded,
    sites,
    train,
)


@pytest.fixture(params=EACH)
def name(request: Any) -> str:
    return str(request.param)


class Net(nn.Module):
    def __init__(self, *, norm: bool = False) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(2, 3), *([nn.BatchNorm1d(3)] if norm else []))
        self.head = nn.Linear(3, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(x))


def net(*, norm: bool = False) -> nn.Module:
    return seeded(lambda: Net(norm=norm))


def entries(module: nn.Module, prefix: str) -> dict[str, torch.Tensor]:
    return {name: value for name, value in module.state_dict().items() if name.startswith(prefix)}


def equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def summed(name: str = "plain", **options: Any) -> set[int]:
    """How many values each mean had."""
    lengths: set[int] = set()
    watch = Watch(on_model=lambda n, total, state: lengths.add(len(total.mean)), progress=QUIET.progress)
    train(name, watch=watch, **options)
    return lengths


# --- what travels -----------------------------------------------------------------------------------------


def test_everything_is_the_plain_run_bit_for_bit(name: str) -> None:
    one, other = train(name, model=net(norm=True)), train(name, model=net(norm=True), shared=lambda _: True)
    assert one.digest == other.digest
    for left, right in zip(one.history, other.history, strict=True):
        assert left.traffic == right.traffic
    truth = in_the_clear(model=net(norm=True), shared=lambda _: True)
    assert truth.digest == in_the_clear(model=net(norm=True)).digest
    assert distance(one.model, truth.model) < 1e-5


class Transfer(nn.Module):
    """A backbone of 130,000 values and a head of 20,000."""

    def __init__(self) -> None:
        super().__init__()
        self.widen = nn.Linear(2, 200, bias=False)
        self.backbone = nn.Linear(200, 648, bias=False)
        self.head = nn.Linear(648, 30, bias=False)
        self.rest = nn.Linear(30, 18, bias=False)
        self.scale = nn.Parameter(torch.ones(20))
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.mul_(0.1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.rest(self.head(self.backbone(self.widen(x))))
        return found.sum(1, keepdim=True) * self.scale.mean()


def transfer() -> nn.Module:
    made = seeded(Transfer)
    made.widen.requires_grad_(False)
    made.backbone.requires_grad_(False)
    return made


@pytest.mark.parametrize(
    "shared", [None, only("head.*", "rest.*", "scale"), all_but("widen.*", "backbone.*")]
)
@pytest.mark.parametrize("name", ["plain", "masked", "ckks"])
def test_a_frozen_backbone_stays_home(name: str, shared: Any) -> None:
    model = transfer()
    assert sum(p.numel() for p in model.parameters() if not p.requires_grad) == 130_000
    sizes: dict[str, int] = {}
    watch = Watch(
        on_message=lambda n, m: sizes.update({m.exchange: max(len(m.body), sizes.get(m.exchange, 0))}),
        progress=QUIET.progress,
    )
    assert summed(name, model=model, shared=shared, rounds=1) == {20_000}
    train(name, model=model, shared=shared, rounds=1, watch=watch)
    if name != "ckks":
        assert max(sizes.values()) < 110_000  # 20,000 values of 4 bytes and a little, not 150,000
    run = train(name, model=model, shared=shared, rounds=1)
    assert torch.equal(run.model.backbone.weight, model.backbone.weight)
    assert not torch.equal(run.model.head.weight, model.head.weight)
    assert not run.model.backbone.weight.requires_grad


def test_a_frozen_backbone_that_is_asked_for_travels() -> None:
    assert summed(model=transfer(), shared=lambda _: True, rounds=1) == {150_000}


# --- heads of one's own -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", EACH)
def test_heads_differ_and_the_body_is_one(name: str) -> None:
    run = train(name, model=net(), shared=all_but("head.*"))
    assert list(run.models) == list(NAMES)
    bodies = [entries(each, "body.") for each in run.models.values()]
    assert all(equal(each, entries(run.model, "body.")) for each in bodies)
    heads = {str(entries(each, "head.")) for each in run.models.values()}
    assert len(heads) == 4
    assert equal(entries(run.model, "head."), entries(net(), "head."))
    assert summed(name, model=net(), shared=all_but("head.*"), rounds=1) == {9}
    truth = in_the_clear(model=net(), shared=all_but("head.*"))
    for client in NAMES:
        assert distance(run.models[client], truth.models[client]) < 1e-5


def test_heads_by_hand() -> None:
    """FedPer written out: everybody trains all, the bodies are averaged, each goes on with its own head."""
    mine = {client: net() for client in NAMES}
    for number in range(3):
        for client, module in mine.items():
            LOCAL(module, pieces(client), seed=training_seed(seed=7, round=number, client=client))
        for entry in entries(net(), "body."):
            mean = torch.stack([each.state_dict()[entry].double() for each in mine.values()]).mean(0)
            for each in mine.values():
                each.state_dict()[entry].copy_(mean)
    run = train("masked", model=net(), shared=all_but("head.*"))
    for client in NAMES:
        assert distance(run.models[client], mine[client]) < 1e-5


def test_nobody_sees_a_head_on_the_wire() -> None:
    """With PlainSum every update is in the clear: no head's bytes are in any message."""
    bodies: list[bytes] = []
    watch = Watch(on_message=lambda n, m: bodies.append(bytes(m.body)), progress=QUIET.progress)
    run = train("plain", model=net(), shared=all_but("head.*"), watch=watch)
    wire = b"".join(bodies)
    assert entries(net(), "body.")["body.0.weight"].numpy().tobytes() in wire
    for each in [*run.models.values(), net()]:
        assert entries(each, "head.")["head.weight"].numpy().tobytes() not in wire


def late(name: str) -> str:
    return "MaskedInput" if name in ("masked", "lattice") else "Contribute"


def test_one_that_is_away_keeps_its_head(name: str) -> None:
    """Away in the last round and the one before: its head is that of round 0, its body that of everybody."""
    drop = {1: {"b": late(name)}, 2: {"b": late(name)}}
    run = train(name, model=net(), shared=all_but("head.*"), drop=drop)
    first = train(name, model=net(), shared=all_but("head.*"), rounds=1)
    assert [len(report.contributors) for report in run.history] == [4, 3, 3]
    assert equal(entries(run.models["b"], "head."), entries(first.models["b"], "head."))
    assert equal(entries(run.models["b"], "body."), entries(run.models["a"], "body."))
    assert not equal(entries(run.models["a"], "head."), entries(first.models["a"], "head."))


# --- a failed round leaves nothing behind -----------------------------------------------------------------


def faulty(fault: str) -> Any:
    """A step that moves everything at `b` in its round 1, and then fails."""
    rounds: dict[int, int] = {}

    def local(model: nn.Module, data: Any, *, seed: int) -> Any:
        rounds[id(data)] = rounds.get(id(data), -1) + 1
        weight = LOCAL(model, data, seed=seed)
        if data[0][0].shape[0] == 11 and rounds[id(data)] == 1:
            with torch.no_grad():
                model.head.weight.add_(5.0)
            if fault == "raises":
                raise OSError("the disk is gone")
            if fault == "diverges":
                model.body[0].weight.data.fill_(torch.nan)
            return {"no weight": None, "too heavy": 65, "diverges": 11}[fault]
        return weight

    return local


@pytest.mark.parametrize("fault", ["raises", "no weight", "diverges", "too heavy"])
@pytest.mark.parametrize("name", ["masked", "ckks"])
def test_one_that_failed_has_its_head_back(name: str, fault: str) -> None:
    options: dict[str, Any] = {"data": sites(b=pieces("b", 11)), "model": net(norm=True),
                               "shared": all_but("head.*"), "rounds": 2}  # fmt: skip
    run = train(name, local=faulty(fault), **options)
    assert run.history[1].dropped.keys() == {"b"}
    first = train(name, **{**options, "rounds": 1})
    assert equal(entries(run.models["b"], "head."), entries(first.models["b"], "head."))


def test_a_scale_that_is_refused_takes_the_head_back() -> None:
    """What fails after training, on the way into the sum."""
    rounds: dict[int, int] = {}

    def local(model: nn.Module, data: Any, *, seed: int) -> Any:
        rounds[id(data)] = rounds.get(id(data), -1) + 1
        weight = LOCAL(model, data, seed=seed)
        if data[0][0].shape[0] == 11 and rounds[id(data)] == 1:
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter.add_(1000.0)
        return weight

    options: dict[str, Any] = {"data": sites(b=pieces("b", 11)), "model": net(), "clip": AutoClip(),
                               "shared": all_but("head.*"), "rounds": 2}  # fmt: skip
    run = train("masked", local=local, **options)
    assert "lie above the scale" in run.history[1].dropped["b"]
    first = train("masked", **{**options, "rounds": 1})
    assert equal(entries(run.models["b"], "head."), entries(first.models["b"], "head."))


def test_a_control_variate_survives_a_diverged_round() -> None:
    """It had become NaN, and the site sat out for ever after."""
    rounds = {"b": -1}

    class Rows:
        def __iter__(self) -> Iterator[Any]:
            rounds["b"] += 1
            x, y = pieces("b")[0]
            yield (x * (torch.nan if rounds["b"] == 1 else 1.0), y)

    run = train(
        "masked", sites(b=Rows()), server_optimiser=Scaffold(), rounds=4, clip=AutoClip(headroom=16.0)
    )
    assert [len(report.contributors) for report in run.history] == [4, 3, 4, 4]


# --- norms ------------------------------------------------------------------------------------------------


def test_norms_of_ones_own() -> None:
    """FedBN: another brightness at each site, and its statistics stay there."""
    data = {each: [(x + 10 * index, y)] for index, each in enumerate(NAMES) for x, y in pieces(each)}
    model = net(norm=True)
    run = train("masked", data, model=model, shared=all_but_norms(model), clip=AutoClip(headroom=16.0))
    means = [each.state_dict()["body.1.running_mean"] for each in run.models.values()]
    assert all(not torch.equal(means[0], each) for each in means[1:])
    for each in run.models.values():
        assert each.state_dict()["body.1.num_batches_tracked"] == 3 * 3
        assert equal(entries(each, "body.0"), entries(run.model, "body.0"))
        assert equal(entries(each, "head"), entries(run.model, "head"))
    assert torch.equal(run.model.state_dict()["body.1.running_mean"], torch.zeros(3))


def test_shared_counters_stay_as_they_were() -> None:
    run = train("plain", model=net(norm=True))
    for each in [run.model, *run.models.values()]:
        assert each.state_dict()["body.1.num_batches_tracked"] == 0


def frozen_norm() -> nn.Module:
    made = net(norm=True)
    made.body[1].requires_grad_(False)
    return made


def test_a_frozen_norm_does_not_move() -> None:
    run = train("masked", model=frozen_norm())
    for each in [run.model, *run.models.values()]:
        assert equal(entries(each, "body.1"), entries(net(norm=True), "body.1"))
    assert summed(model=frozen_norm(), rounds=1) == {9 + 4}


def test_a_step_that_moves_a_frozen_norm_sits_out_and_learns_why() -> None:
    def local(model: nn.Module, data: Any, *, seed: int) -> int:
        model.train()  # LocalTraining would leave the frozen one in evaluation mode
        model(data[0][0])
        return 12

    with pytest.raises(
        ParameterError, match=r"changed 'body\.1\.running_mean', which is frozen.*evaluation mode"
    ):
        train("masked", model=frozen_norm(), local=local)


# --- frozen entries ---------------------------------------------------------------------------------------


def head_only() -> nn.Module:
    made = net()
    made.body.requires_grad_(False)
    return made


def writing(how: str, rounds: set[int]) -> Any:
    """A step that writes to a frozen entry at the site with 11 examples, in some rounds."""
    seen: dict[int, int] = {}

    def local(model: nn.Module, data: Any, *, seed: int) -> Any:
        seen[id(data)] = seen.get(id(data), -1) + 1
        weight = LOCAL(model, data, seed=seed)
        if data[0][0].shape[0] == 11 and seen[id(data)] in rounds:
            with torch.no_grad():
                weight_of = model.body[0].weight
                if how == "past autograd":
                    weight_of.data += 1.0
                elif how == "replaced":
                    model.body[0].weight = nn.Parameter(weight_of + 1, requires_grad=False)
                else:
                    weight_of.add_(1.0)
            if how == "and fails":
                raise OSError("the disk is gone")
        return weight

    return local


@pytest.mark.parametrize("how", ["in place", "past autograd", "replaced", "and fails"])
def test_a_step_that_changes_a_frozen_entry(how: str) -> None:
    """It sits out, says why, and the next round finds the entry as it was."""
    data = sites(b=pieces("b", 11))
    run = train("masked", data, model=head_only(), local=writing(how, {1}))
    assert [len(report.contributors) for report in run.history] == [4, 3, 4]
    reason = run.history[1].dropped["b"]
    assert "disk" in reason if how == "and fails" else "changed 'body.0.weight', which is frozen" in reason
    assert equal(entries(run.models["b"], "body."), entries(net(), "body."))
    truth = in_the_clear(data, model=head_only(), absent={1: {"b"}})
    assert distance(run.model, truth.model) < 1e-5


def test_a_step_may_load_its_best_state() -> None:
    """Early stopping inside a step writes to every entry, frozen ones too, what was there."""

    def local(model: nn.Module, data: Any, *, seed: int) -> Any:
        weight = LOCAL(model, data, seed=seed)
        model.load_state_dict(copy.deepcopy(model.state_dict()))
        return weight

    assert train("masked", model=head_only(), local=local).digest == train("masked", model=head_only()).digest


def test_a_mask_of_infinities_may_be_frozen() -> None:
    class Masked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.line = nn.Linear(2, 1)
            self.mask = nn.Parameter(torch.tensor([0.0, -torch.inf]), requires_grad=False)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.line(x) + torch.softmax(self.mask, 0)[0]

    run = train("masked", model=seeded(Masked))
    assert all(len(report.contributors) == 4 for report in run.history)


# --- adapters ---------------------------------------------------------------------------------------------


class Adapted(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.base = nn.Linear(2, 3)
        self.lora_A, self.lora_B = nn.Linear(2, 1, bias=False), nn.Linear(1, 3, bias=False)
        self.head = nn.Linear(3, 1)
        self.base.requires_grad_(False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.base(x) + self.lora_B(self.lora_A(x)))


def test_adapters_alone() -> None:
    model = seeded(Adapted)
    assert summed(model=model, shared=adapters(), rounds=1) == {5}
    run = train("masked", model=model, shared=adapters())
    for each in run.models.values():
        assert equal(entries(each, "lora"), entries(run.model, "lora"))
        assert equal(entries(each, "base"), entries(model, "base"))
    assert len({str(entries(each, "head.")) for each in run.models.values()}) == 4
    assert not equal(entries(run.model, "lora"), entries(model, "lora"))


# --- what can never work ----------------------------------------------------------------------------------


class Stateful(nn.Module):
    """A site's own notes, no tensor, that a step changes."""

    def __init__(self) -> None:
        super().__init__()
        self.line, self.notes = nn.Linear(2, 1), {"rounds": 0}

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.line(x)

    def get_extra_state(self) -> Any:
        return self.notes

    def set_extra_state(self, state: Any) -> None:
        self.notes = copy.deepcopy(state)


def counting(model: nn.Module, data: Any, *, seed: int) -> Any:
    model.notes["rounds"] += 1
    if data[0][0].shape[0] == 11 and model.notes["rounds"] == 2:
        raise OSError("the disk is gone")
    return LOCAL(model, data, seed=seed)


@pytest.mark.parametrize("shared", [None, only("line.*")])
def test_own_entries_that_are_no_tensors(shared: Any) -> None:
    run = train("masked", sites(b=pieces("b", 11)), model=Stateful(), local=counting, shared=shared)
    rounds = {client: module.notes["rounds"] for client, module in run.models.items()}
    assert rounds == {"a": 3, "b": 1, "c": 3, "d": 3}  # b's were taken back, twice
    assert run.model.notes == {"rounds": 0}


def test_what_is_no_tensor_cannot_travel() -> None:
    refused("'_extra_state'", model=Stateful(), shared=lambda _: True)


def refused(match: str, **options: Any) -> None:
    def fail(*_: Any, **__: Any) -> None:
        pytest.fail("something ran")

    watch = Watch(on_message=fail, on_round=fail, progress=QUIET.progress)
    with pytest.raises(ParameterError, match=match):
        train(**{"watch": watch, "local": LocalTraining(loss=fail, learning_rate=0.1), **options})


@pytest.mark.parametrize(
    ("shared", "match"),
    [
        (lambda _: False, "shared fits no entry"),
        (only("haed.*"), r"no entry fits the pattern 'haed\.\*'"),
        (all_but("haed.*"), r"no entry fits the pattern 'haed\.\*'"),
        (adapters(), "lora_"),
        (all_but_norms(nn.BatchNorm1d(2)), "asked about a model without the entry"),
        (only("body.1.running_*"), "no entry that is shared is a parameter"),
        (only("*.num_batches_tracked"), "shared fits no entry"),
        (lambda name: 1, "must be a bool"),
        ("head", "shared is a str"),
    ],
)
def test_predicates_that_can_never_work(shared: Any, match: str) -> None:
    refused(match, model=net(norm=True), shared=shared)
    with pytest.raises(ParameterError, match=match):
        in_the_clear(model=net(norm=True), shared=shared)


# --- what the run hands out -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["masked", "ckks"])
def test_models_are_copies(name: str) -> None:
    run = train(name, model=net(), shared=all_but("head.*"))
    before = {client: copy.deepcopy(module.state_dict()) for client, module in run.models.items()}
    digest = copy.deepcopy(run.model.state_dict())
    for module in [*run.models.values(), run.models["a"]]:
        with torch.no_grad():
            for parameter in module.parameters():
                parameter.fill_(7.0)
    assert all(equal(dict(module.state_dict()), before[client]) for client, module in run.models.items())
    assert equal(dict(run.model.state_dict()), digest)
    assert run.models["a"] is not run.models["a"]


def test_evaluation_does_not_touch_them() -> None:
    kind = Central(pieces("a"), task=Task.REGRESSION)
    options: dict[str, Any] = {"model": net(norm=True), "shared": all_but("head.*")}
    one, other = train("masked", **options), train("masked", **options, evaluate=kind)
    assert all(equal(dict(one.models[n].state_dict()), dict(other.models[n].state_dict())) for n in NAMES)


def test_an_optimiser_moves_what_is_shared_alone() -> None:
    options: dict[str, Any] = {"model": net(norm=True), "shared": all_but("head.*"),
                               "server_optimiser": FedAdam(learning_rate=0.05)}  # fmt: skip
    run, truth = train("masked", **options), in_the_clear(**options)
    assert all(distance(run.models[n], truth.models[n]) < 1e-3 for n in NAMES)
    assert equal(entries(run.model, "head."), entries(net(), "head."))
