"""Ties, overlaps and copies: tied weights are summed once and stay one, any other overlap is refused."""

import copy

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from fl_integration.vectors.memory import place_of
from fl_integration.vectors.vectorise import (
    apply_delta,
    changes,
    delta,
    flatten,
    load,
    manifest_of,
    snapshot,
    unflatten,
)
from secagg.errors import ParameterError


class Tied(nn.Module):
    """An embedding whose weights are the output layer's too."""

    def __init__(self):
        super().__init__()
        self.embed, self.norm, self.out = nn.Embedding(5, 3), nn.LayerNorm(3), nn.Linear(3, 5, bias=False)
        self.out.weight = self.embed.weight


def tied_numpy():
    weight = np.arange(6.0, dtype=np.float32).reshape(2, 3)
    return {"embed": weight, "bias": np.ones(2, np.float32), "out": weight[:]}


# --- ties ------------------------------------------------------------------------------------------------


def test_tied_weights_travel_once():
    vector, manifest = flatten(Tied().state_dict())
    assert len(vector) == manifest.length == 15 + 6
    assert [entry.tied for entry in manifest.entries] == ["", "", "", "embed.weight"]
    assert list(manifest.slices()) == ["embed.weight", "norm.weight", "norm.bias"]


def test_tied_and_untied_models_are_told_apart():
    untied = Tied()
    untied.out.weight = nn.Parameter(untied.embed.weight.detach().clone())
    mine, theirs = manifest_of(Tied().state_dict()), manifest_of(untied.state_dict())
    assert mine.digest != theirs.digest
    with pytest.raises(ParameterError, match=r"entry 3 is 'out.weight'.*, tied to 'embed.weight' in one"):
        mine.require_same(theirs)
    for state, manifest in [(untied.state_dict(), mine), (Tied().state_dict(), theirs)]:
        with pytest.raises(ParameterError, match=r"entry 3 is 'out.weight'"):
            load(np.zeros(manifest.length, np.float32), manifest, state)
        with pytest.raises(ParameterError, match=r"entry 3 is 'out.weight'"):
            changes(state, manifest, np.zeros(manifest.length, np.float32))


@pytest.mark.parametrize("state", [Tied().state_dict(), tied_numpy()], ids=["torch", "numpy"])
def test_tied_entries_come_back_as_one_object(state):
    first, last = next(iter(state)), list(state)[-1]
    vector, manifest = flatten(state)
    for back in (
        unflatten(vector, manifest, like=state),
        apply_delta(state, np.ones(len(vector), np.float32)),
        snapshot(state),
    ):
        assert back[first] is back[last]
        assert place_of(back[first]) != place_of(state[first])
        assert manifest_of(back) == manifest


def test_a_tied_weight_moves_once():
    model = Tied()
    vector, manifest = flatten(model.state_dict())
    load(vector + 1, manifest, model.state_dict())
    np.testing.assert_allclose(changes(model.state_dict(), manifest, vector), 1, rtol=1e-6)
    assert model.out.weight is model.embed.weight


@given(st.lists(st.integers(0, 3), min_size=1, max_size=8), st.booleans())
def test_any_pattern_of_ties_survives(pattern, in_torch):
    kinds = [np.full(3, index, np.float32) for index in range(4)]
    states = [torch.from_numpy(kind) for kind in kinds] if in_torch else kinds
    state = {f"{position}": states[index] for position, index in enumerate(pattern)}
    vector, manifest = flatten(state)
    assert len(vector) == 3 * len(set(pattern))
    back = unflatten(vector, manifest, like=state)
    for one, index in enumerate(pattern):
        np.testing.assert_array_equal(back[f"{one}"], np.full(3, index))
        for two, other in enumerate(pattern):
            assert (back[f"{one}"] is back[f"{two}"]) == (index == other)
    assert manifest_of(back).digest == manifest_of(snapshot(state)).digest == manifest.digest


def test_a_stride_that_is_never_used_parts_no_tie():
    row = torch.arange(3.0)
    state = {"a": row.as_strided((1, 3), (3, 1)), "b": row.as_strided((1, 3), (7, 1))}
    assert manifest_of(state).entries[1].tied == "a"


def test_empty_tensors_have_no_memory_to_share():
    empty = torch.empty(0)
    manifest = manifest_of({"a": empty, "b": empty, "w": torch.ones(1)})
    assert not any(entry.tied for entry in manifest.entries)


def test_kept_entries_are_not_described_as_tied_and_stay_one():
    steps, mask = torch.tensor(3), torch.full((2, 2), float("-inf"))
    state = {"w": torch.ones(1), "n": steps, "m": steps, "a": mask, "b": mask}
    vector, manifest = flatten(state)
    assert not any(entry.tied for entry in manifest.entries)
    back = unflatten(vector, manifest, like=state)
    assert back["n"] is back["m"]
    assert back["a"] is back["b"]
    assert manifest == manifest_of({**state, "m": torch.tensor(3), "b": mask.clone()})


@pytest.mark.parametrize("home", ["embed", "out"])
def test_a_tie_that_shared_parts_is_refused(home):
    with pytest.raises(ParameterError, match=r"'(embed|out).weight' and '(embed|out).weight' are one"):
        manifest_of(Tied().state_dict(), shared=lambda name: not name.startswith(home))
    manifest = manifest_of(Tied().state_dict(), shared=lambda name: name.startswith("norm"))
    assert manifest.length == 6


# --- overlaps --------------------------------------------------------------------------------------------

FLAT = torch.arange(12.0)


@pytest.mark.parametrize(
    ("state", "text"),
    [
        ({"a": FLAT, "b": FLAT[3:6]}, "'a' and 'b'"),
        ({"a": FLAT[:4], "b": FLAT[3:6]}, "'a' and 'b'"),
        ({"a": FLAT.view(3, 4), "b": FLAT}, "'a' and 'b'"),
        ({"a": FLAT.view(3, 4), "b": FLAT.view(3, 4).t()}, "'a' and 'b'"),
        ({"a": FLAT[::2], "x": torch.ones(1), "b": FLAT[::3]}, "'a' and 'b'"),
        ({"a": FLAT, "b": FLAT.view(torch.int32)}, "'b' and 'a'"),
        ({"a": FLAT.numpy(), "b": FLAT}, "'a' and 'b'"),
        ({"a": FLAT.numpy()[::-1], "b": FLAT.numpy()}, "'a' and 'b'"),
        ({"a": torch.ones(1).expand(3)}, "values of entry 'a'"),
        ({"a": torch.ones(2, 1).expand(2, 3)}, "values of entry 'a'"),
        ({"a": FLAT.as_strided((3, 4), (2, 1))}, "values of entry 'a'"),
        ({"a": np.broadcast_to(np.ones(2), (3, 2))}, "values of entry 'a'"),
    ],
)
def test_overlaps_are_refused_and_named(state, text):
    with pytest.raises(ParameterError, match=text):
        manifest_of(state)


@pytest.mark.parametrize(
    "state",
    [
        {"a": FLAT[:4], "b": FLAT[4:]},
        {"a": FLAT.view(3, 4)[:, :2], "b": FLAT.view(3, 4)[:, 2:]},
        {"a": FLAT[::2], "b": FLAT[1::2]},
        {"a": FLAT.numpy()[::-2], "b": FLAT.numpy()[::2]},
        {"a": torch.ones(3, 2, 4).permute(2, 0, 1)},
        {"a": torch.ones(2, 3, 4, 4).to(memory_format=torch.channels_last)},
    ],
)
def test_views_that_lie_apart_are_entries_like_others(state):
    vector, manifest = flatten(state)
    assert len(vector) == sum(np.asarray(value).size for value in state.values())
    assert not any(entry.tied for entry in manifest.entries)


def test_an_overlap_with_what_stays_home_is_refused():
    for other in (FLAT[2:], FLAT.view(3, 4)):
        with pytest.raises(ParameterError, match=r"'[ab]' and '[ab]' share a part"):
            manifest_of({"a": FLAT, "b": other}, shared=lambda name: name == "a")


def test_what_is_kept_may_overlap():
    mask = torch.full((4, 4), float("-inf"))
    ids = torch.arange(4)
    state = {"w": torch.ones(1), "m": mask, "part": mask[:2], "i": ids.expand(3, 4), "j": ids[:2]}
    assert manifest_of(state).length == 1
    assert manifest_of({"w": torch.ones(1), "c": torch.full((1,), float("-inf")).expand(5)}).length == 1


# --- copies ----------------------------------------------------------------------------------------------


def test_a_snapshot_shares_nothing():
    state = {"w": torch.ones(2), "a": np.ones(2), "n": torch.tensor(1), "x": {"k": [1]}}
    taken = snapshot(state)
    state["w"] += 1
    state["a"] += 1
    state["n"] += 1
    state["x"]["k"].append(2)
    assert taken["w"].tolist() == [1, 1]
    assert taken["a"].tolist() == [1, 1]
    assert taken["n"].item() == 1
    assert taken["x"] == {"k": [1]}


def test_a_snapshot_of_live_parameters_has_no_gradient():
    taken = snapshot(dict(nn.Linear(2, 1).named_parameters()))
    assert not any(value.requires_grad for value in taken.values())


def test_a_snapshot_names_a_lists_entries_by_position():
    assert list(snapshot([np.ones(1), np.ones(2)])) == ["0", "1"]


def test_a_snapshot_holds_what_no_vector_could():
    lazy = nn.LazyLinear(2)
    table = [1]
    state = {
        **lazy.state_dict(),
        "sparse": torch.eye(2).to_sparse(),
        "complex": torch.ones(1, dtype=torch.complex64),
        "meta": torch.ones(1, device="meta"),
        "objects": np.array([table], object),
        "x": table,
        "y": table,
    }
    taken = snapshot(state)
    assert list(taken) == list(state)
    assert taken["sparse"].to_dense().tolist() == [[1, 0], [0, 1]]
    assert taken["x"] is taken["y"]
    assert taken["x"] is not table


def test_a_deep_copy_of_the_model_has_the_same_manifest():
    model = Tied()
    assert manifest_of(copy.deepcopy(model).state_dict()) == manifest_of(model.state_dict())
    assert not delta(copy.deepcopy(model).state_dict(), model.state_dict()).any()


# --- what torch only promises to compute -----------------------------------------------------------------


def negated():
    """A tensor whose memory holds the negative of its values."""
    value = torch.tensor([1 + 2j, 3 - 4j]).conj().imag
    assert value.is_neg()
    return value


def test_values_of_a_negated_view_are_its_own():
    state = {"w": negated()}
    vector, manifest = flatten(state)
    assert vector.tolist() == [-2, 4]
    assert unflatten(vector, manifest, like=state)["w"].tolist() == [-2, 4]
    assert delta(state, {"w": torch.zeros(2)}).tolist() == [-2, 4]
    assert changes(state, manifest, np.ones(2, np.float32)).tolist() == [-3, 3]
    assert snapshot(state)["w"].tolist() == [-2, 4]
    load(np.array([5.0, 6.0]), manifest, state)
    assert state["w"].tolist() == [5, 6]


def test_a_negated_view_is_not_tied_to_what_it_negates():
    number = torch.tensor([1 + 2j])
    with pytest.raises(ParameterError, match="'a' and 'b' share a part"):
        manifest_of({"a": number.imag, "b": number.conj().imag})


def test_complex_entries_are_refused_conjugate_or_not():
    number = torch.tensor([1 + 2j])
    for value in (number, number.conj()):
        with pytest.raises(ParameterError, match="'w' is complex64"):
            manifest_of({"w": value})


class WithExtra(nn.Linear):
    def get_extra_state(self):
        return {"calls": 3}

    def set_extra_state(self, state):
        pass


def test_extra_state_must_stay_home():
    state = nn.Sequential(WithExtra(2, 1)).state_dict()
    with pytest.raises(ParameterError, match=r"'0._extra_state' is a module's extra state.*shared="):
        manifest_of(state)
    with pytest.raises(ParameterError, match="'_extra_state' is a module's extra state"):
        manifest_of({"_extra_state": torch.ones(1)})
    manifest = manifest_of(state, shared=lambda name: not name.endswith("_extra_state"))
    assert manifest.length == 3
    assert changes(state, manifest, np.zeros(3, np.float32)).any()


@pytest.mark.parametrize("module", [nn.LazyLinear(2), nn.LazyBatchNorm1d(affine=False)])
def test_lazy_modules_must_see_a_batch_first(module):
    with pytest.raises(ParameterError, match=r"entry '.*' is not initialised yet; run one batch"):
        manifest_of(module.state_dict())
    assert (
        manifest_of({**module.state_dict(), "w": torch.ones(1)}, shared=lambda name: name == "w").length == 1
    )
    module(torch.ones(2, 3))
    assert manifest_of(module.state_dict()).length


@pytest.mark.filterwarnings(
    "ignore:torch.quantize:UserWarning", "ignore:The PyTorch API of nested:UserWarning"
)
@pytest.mark.parametrize(
    "make",
    [
        lambda: torch.eye(2).to_sparse(),
        lambda: torch.ones(2, device="meta"),
        lambda: torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8),
        lambda: torch.nested.nested_tensor([torch.ones(1), torch.ones(2)], layout=torch.strided),
    ],
    ids=["sparse", "meta", "quantized", "nested"],
)
def test_tensors_without_a_value_at_every_index(make):
    state = {"w": make(), "v": torch.ones(1)}
    with pytest.raises(ParameterError, match="'w' is a sparse, quantized, nested or meta tensor"):
        manifest_of(state)
    assert manifest_of(state, shared=lambda name: name == "v").length == 1
