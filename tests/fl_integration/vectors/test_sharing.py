"""Predicates for `shared=`, on small models of the kinds that they are for."""

import copy
import dataclasses
import pickle
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn

from fl_integration.vectors.sharing import AllBut, Only, adapters, all_but, all_but_norms, movable, only
from fl_integration.vectors.vectorise import changes, flatten, load, manifest_of
from secagg.errors import ParameterError


class Block(nn.Module):
    """One transformer block over tied embeddings: attention under a causal mask, norms, a perceptron."""

    def __init__(self, words=11, width=4, length=5):
        super().__init__()
        self.embed = nn.Embedding(words, width)
        self.register_buffer("mask", torch.full((length, length), float("-inf")).triu(1))
        self.register_buffer("positions", torch.arange(length), persistent=False)
        self.attention = nn.MultiheadAttention(width, num_heads=2, batch_first=True)
        self.norm = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 8), nn.GELU(), nn.Linear(8, width))
        self.head = nn.Linear(width, words, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, x):
        x = self.embed(x)
        x = x + self.attention(x, x, x, attn_mask=self.mask, need_weights=False)[0]
        return self.head(self.norm(x + self.mlp(x)))


def convolutional():
    return nn.Sequential(
        nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.ReLU()),
        nn.GroupNorm(1, 2),
        nn.Flatten(),
        nn.Linear(8, 3),
    )


class Adapted(nn.Module):
    """A frozen layer with a low-rank adapter, its entries named as PEFT names them."""

    def __init__(self):
        super().__init__()
        self.base_layer = nn.Linear(4, 3).requires_grad_(False)
        self.lora_A = nn.ModuleDict({"default": nn.Linear(4, 2, bias=False)})
        self.lora_B = nn.ModuleDict({"default": nn.Linear(2, 3, bias=False)})

    def forward(self, x):
        return self.base_layer(x) + self.lora_B["default"](self.lora_A["default"](x))


def shared_names(model, shared):
    return [entry.name for entry in manifest_of(model.state_dict(), shared=shared).entries]


# --- patterns --------------------------------------------------------------------------------------------


def test_a_head_of_ones_own_and_its_reverse():
    model = nn.ModuleDict({"body": nn.Linear(3, 2), "head": nn.Linear(2, 1)})
    assert shared_names(model, all_but("head.*")) == ["body.weight", "body.bias"]
    assert shared_names(model, only("head.*")) == ["head.weight", "head.bias"]
    assert shared_names(model, only("*.bias", "body.*")) == ["body.weight", "body.bias", "head.bias"]
    assert shared_names(model, all_but("*.bias", "head.*")) == ["body.weight"]


def test_patterns_tell_case_apart():
    assert not only("Head.*")("head.w")
    assert all_but("Head.*")("head.w")


@pytest.mark.parametrize("make", [only, all_but])
def test_a_pattern_that_fits_nothing_is_named(make):
    with pytest.raises(
        ParameterError, match=r"fits the pattern 'haed\.\*'; there are 'mask', 'embed.weight', "
    ):
        manifest_of(Block().state_dict(), shared=make("mlp.*", "haed.*"))


@pytest.mark.parametrize("make", [only, all_but])
def test_patterns_that_are_refused(make):
    with pytest.raises(ParameterError, match="there is no pattern"):
        make()
    with pytest.raises(ParameterError, match="a pattern is a int; it must be a str"):
        make("head.*", 3)
    with pytest.raises(ParameterError, match="a pattern is a list"):
        make(["head.*"])


def test_leaving_out_one_name_of_a_tie_is_refused():
    with pytest.raises(ParameterError, match=r"'embed.weight' and 'head.weight' are one tensor"):
        manifest_of(Block().state_dict(), shared=all_but("head.*"))
    assert "embed.weight" not in shared_names(Block(), all_but("head.*", "embed.*"))


# --- batch norm ------------------------------------------------------------------------------------------


def test_batch_norms_stay_home_and_other_norms_travel():
    model = convolutional()
    travels = ["0.0.weight", "0.0.bias", "1.weight", "1.bias", "3.weight", "3.bias"]
    assert shared_names(model, all_but_norms(model)) == travels


def test_a_sites_running_values_are_its_own():
    mine, theirs = convolutional(), convolutional()
    mine(torch.arange(32.0).reshape(2, 1, 4, 4))
    before = copy.deepcopy(mine[0][1].state_dict())
    vector, manifest = flatten(theirs.state_dict(), shared=all_but_norms(theirs))
    load(vector, manifest, mine.state_dict())
    assert torch.equal(mine[3].weight, theirs[3].weight)
    assert all(torch.equal(value, before[name]) for name, value in mine[0][1].state_dict().items())
    assert before["running_mean"].any()


@pytest.mark.parametrize("kind", [nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm])
def test_every_batch_norm_is_one(kind):
    model = nn.ModuleDict({"norm": kind(2), "norms": nn.Linear(1, 1), "norm2": kind(2, affine=False)})
    assert shared_names(model, all_but_norms(model)) == ["norms.weight", "norms.bias"]


@pytest.mark.parametrize("model", [Block(), nn.InstanceNorm1d(2, affine=True), nn.Linear(1, 1)])
def test_a_model_without_batch_norm_is_refused(model):
    with pytest.raises(ParameterError, match="the model has no batch norm"):
        all_but_norms(model)


def test_a_model_that_is_a_batch_norm_shares_nothing():
    model = nn.BatchNorm1d(2)
    with pytest.raises(ParameterError, match="shared fits no entry"):
        manifest_of(model.state_dict(), shared=all_but_norms(model))


# --- adapters --------------------------------------------------------------------------------------------


def test_adapters_by_pefts_names():
    model = nn.ModuleDict({"q": Adapted(), "v": Adapted()})
    names = [f"{place}.lora_{side}.default.weight" for place in "qv" for side in "AB"]
    assert shared_names(model, adapters()) == names
    assert shared_names(model, only("*.lora_B.*")) == names[1::2]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("base_model.model.layers.0.self_attn.q_proj.lora_A.default.weight", True),
        ("base_model.model.layers.0.self_attn.q_proj.base_layer.weight", False),
        ("embed.lora_embedding_B.default", True),
        ("q.lora_magnitude_vector.default.weight", True),
        ("lora_A", True),
        ("flora_A.weight", False),
        ("explora.weight", False),
        ("q.LORA_A.weight", False),
    ],
)
def test_what_an_adapters_name_is(name, expected):
    assert adapters()(name) is expected


def test_a_model_without_adapters_is_refused():
    with pytest.raises(ParameterError, match=r"no entry's name has a part lora_\*; there are '0.0.weight'"):
        manifest_of(convolutional().state_dict(), shared=adapters())


# --- what training can change ----------------------------------------------------------------------------


def test_all_of_a_model_that_trains_is_movable():
    for model in (Block(), convolutional()):
        assert shared_names(model, movable(model)) == list(model.state_dict())


def test_frozen_parameters_stay_home():
    model = Adapted()
    assert shared_names(model, movable(model)) == shared_names(model, adapters())


def test_buffers_of_a_frozen_module_stay_home():
    model = convolutional()
    model[0].requires_grad_(False)
    assert shared_names(model, movable(model)) == ["1.weight", "1.bias", "3.weight", "3.bias"]
    model[0][1].bias.requires_grad_(True)
    travels = ["bias", "running_mean", "running_var", "num_batches_tracked"]
    assert [n for n in shared_names(model, movable(model)) if n.startswith("0.")] == [
        f"0.1.{n}" for n in travels
    ]


def test_buffers_of_a_module_without_parameters_are_shared():
    model = nn.Sequential(nn.BatchNorm1d(2, affine=False), nn.Linear(2, 1).requires_grad_(False))
    assert shared_names(model, movable(model)) == [f"0.{name}" for name in model[0].state_dict()]


def test_a_module_under_two_names_moves_under_both():
    layer = nn.Linear(2, 2)
    model = nn.ModuleDict({"a": layer, "b": layer, "c": nn.Linear(2, 1).requires_grad_(False)})
    assert shared_names(model, movable(model)) == ["a.weight", "a.bias", "b.weight", "b.bias"]
    assert manifest_of(model.state_dict(), shared=movable(model)).length == 6


def test_extra_state_stays_home():
    class WithExtra(nn.Linear):
        def get_extra_state(self):
            return object()

    model = nn.Sequential(WithExtra(2, 1))
    assert shared_names(model, movable(model)) == ["0.weight", "0.bias"]


def test_a_model_frozen_altogether_has_nothing_to_share():
    model = nn.Linear(2, 1).requires_grad_(False)
    with pytest.raises(ParameterError, match=r"shared fits no entry .* among 'weight', 'bias'"):
        manifest_of(model.state_dict(), shared=movable(model))


def test_training_moves_nothing_that_stayed_home():
    """What `movable` leaves out is, after a step of training, as it was: that is what the name says."""
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), Adapted())
    model[0].requires_grad_(False)
    shared = movable(model)
    reference, manifest = flatten(model.state_dict(), shared=shared)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    optimiser = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    model(torch.randn(8, 3)).square().sum().backward()
    optimiser.step()
    after = model.state_dict()
    assert all(torch.equal(after[name], before[name]) for name in after if not shared(name))
    assert changes(after, manifest, reference).any()


def test_a_transformer_goes_round():
    torch.manual_seed(1)
    model, receiver = Block(), Block()
    reference, manifest = flatten(model.state_dict(), shared=movable(model))
    kinds = {entry.name: (entry.constant, entry.tied) for entry in manifest.entries}
    assert kinds["mask"] == (True, "")
    assert kinds["head.weight"] == (False, "embed.weight")
    assert len(reference) == sum(parameter.numel() for parameter in model.parameters())
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1)
    words = torch.arange(5).reshape(1, 5)
    nn.functional.cross_entropy(model(words)[0], words[0]).backward()
    optimiser.step()
    update = changes(model.state_dict(), manifest, reference)
    assert np.isfinite(update).all()
    load(reference + update, manifest, receiver.state_dict())
    torch.testing.assert_close(receiver(words), model(words))
    assert receiver.head.weight is receiver.embed.weight


# --- of models -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", [all_but_norms, movable])
def test_a_state_of_another_model_is_refused(rule):
    model = convolutional()
    other = nn.ModuleDict({"module": convolutional()})
    with pytest.raises(ParameterError, match=rf"{rule.__name__} .* without the entry 'module.0.0.weight'"):
        manifest_of(other.state_dict(), shared=rule(model))


@pytest.mark.parametrize("rule", [all_but_norms, movable])
@pytest.mark.parametrize("model", [None, {"w": torch.ones(1)}, nn.Linear])
def test_what_is_no_module_is_refused(rule, model):
    with pytest.raises(ParameterError, match=r"the model is a \w+; it must be a torch module"):
        rule(model)


def test_a_part_of_the_models_state_is_enough():
    model = convolutional()
    manifest = manifest_of(dict(model.named_parameters()), shared=movable(model))
    assert manifest.length == sum(parameter.numel() for parameter in model.parameters())


# --- as values -------------------------------------------------------------------------------------------

FROZEN = Adapted()


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: only("head.*", "x"), "only('head.*', 'x')"),
        (lambda: all_but("head.*"), "all_but('head.*')"),
        (adapters, "adapters()"),
        (lambda: movable(FROZEN), "movable(2 of 4 entries)"),
        (lambda: all_but_norms(convolutional()), "all_but_norms(6 of 11 entries)"),
    ],
)
def test_predicates_are_values(make, text):
    one, other = make(), make()
    assert repr(one) == text
    assert one == other == pickle.loads(pickle.dumps(one)) == copy.deepcopy(one)
    assert hash(one) == hash(other)
    assert not hasattr(one, "__dict__")
    for field in dataclasses.fields(one):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(one, field.name, None)


def test_different_predicates_differ():
    model = nn.Sequential(nn.BatchNorm1d(2), nn.Linear(2, 1))
    frozen = copy.deepcopy(model)
    frozen[1].requires_grad_(False)
    found = [
        only("a"),
        only("b"),
        all_but("a"),
        adapters(),
        movable(model),
        movable(frozen),
        all_but_norms(model),
    ]
    assert len(set(found)) == len(found)
    assert (only("a"), all_but("a")) == (Only(("a",)), AllBut(("a",)))


def test_patterns_need_no_torch():
    code = (
        "import sys, numpy as np; from fl_integration.vectors import sharing, vectorise as v;"
        "v.flatten({'a': np.ones(1), 'lora_b': np.ones(1)}, shared=sharing.all_but('a'));"
        "v.flatten({'a': np.ones(1), 'lora_b': np.ones(1)}, shared=sharing.adapters());"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
