"""Model state to vector and back."""

import subprocess
import sys
from collections import OrderedDict
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from torch import nn

from fl_integration.vectors.vectorise import (
    apply_delta,
    delta,
    flatten,
    manifest_of,
    segments,
    unflatten,
)
from secagg.errors import ParameterError
from secagg.vectors.fixedpoint import Segment


def network(seed: int = 0) -> nn.Sequential:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(8, 3))


def stepped(model: nn.Module, batches: int) -> nn.Module:
    """The model after it has seen some batches: BatchNorm's counter and running values have moved."""
    model.train()
    with torch.no_grad():
        for index in range(batches):
            model(torch.full((2, 1, 4, 4), float(index)) + torch.arange(16.0).reshape(4, 4))
    return model


# --- flatten and unflatten -------------------------------------------------------------------------------


def test_vector_is_the_floating_entries_in_order():
    model = network()
    vector, manifest = flatten(model.state_dict())
    expected = np.concatenate(
        [v.numpy().ravel() for k, v in model.state_dict().items() if k != "1.num_batches_tracked"]
    )
    assert vector.dtype == np.float32
    np.testing.assert_array_equal(vector, expected)
    assert [e.name for e in manifest.entries] == list(model.state_dict())
    assert manifest.length == len(vector) == 20 + 8 + 27


def test_round_trip_restores_a_torch_model_exactly():
    source, receiver = network(1), network(2)
    state = unflatten(*flatten(source.state_dict()), like=receiver.state_dict())
    receiver.load_state_dict(state)
    for name, value in source.state_dict().items():
        assert torch.equal(receiver.state_dict()[name], value), name


def test_batchnorm_counter_is_the_receivers_own():
    sender, receiver = stepped(network(), 5), stepped(network(), 3)
    state = unflatten(*flatten(sender.state_dict()), like=receiver.state_dict())
    assert state["1.num_batches_tracked"].item() == 3
    assert state["1.num_batches_tracked"].dtype == torch.int64
    assert torch.equal(state["1.running_mean"], sender.state_dict()["1.running_mean"])


def test_booleans_and_integers_are_kept_and_take_no_room():
    mine = {"mask": np.array([True, False]), "w": np.zeros(2), "n": np.array(5, np.uint8)}
    theirs = {"mask": np.array([False, False]), "w": np.ones(2), "n": np.array(9, np.uint8)}
    vector, manifest = flatten(theirs)
    assert manifest.length == 2
    back = unflatten(vector, manifest, like=mine)
    np.testing.assert_array_equal(back["mask"], mine["mask"])
    assert back["n"] == 5
    np.testing.assert_array_equal(back["w"], theirs["w"])


@given(
    st.lists(
        hnp.arrays(
            st.sampled_from([np.float16, np.float32, np.float64, np.int32, np.bool_]),
            hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4),
        ),
        max_size=6,
    )
)
def test_round_trip_of_any_list_of_arrays(arrays):
    arrays = [*arrays, np.array(1.5, np.float32)]
    like = [np.zeros_like(a) if a.dtype.kind == "f" and np.isfinite(a).all() else a for a in arrays]
    back = unflatten(*flatten(arrays), like=like)
    assert isinstance(back, list)
    for got, expected in zip(back, arrays, strict=True):
        assert got.dtype == expected.dtype
        np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize(
    ("dtypes", "expected"),
    [
        ((np.float32, np.float32), np.float32),
        ((np.float64, np.float64), np.float64),
        ((np.float32, np.float64), np.float64),
        ((np.float16, np.float64), np.float64),
        ((np.float16, np.float16), np.float32),
        ((np.float16, np.float32), np.float32),
    ],
)
def test_vector_dtype(dtypes, expected):
    vector, manifest = flatten([np.ones(2, dtype) for dtype in dtypes])
    assert vector.dtype == manifest.dtype == expected


def test_bfloat16_goes_through_float32_without_loss():
    state = {"w": torch.tensor([1.0, -0.3, 3e38], dtype=torch.bfloat16)}
    vector, manifest = flatten(state)
    assert vector.dtype == np.float32
    back = unflatten(vector, manifest, like=state)
    assert back["w"].dtype == torch.bfloat16
    assert torch.equal(back["w"], state["w"])


def test_nothing_is_shared_with_the_inputs():
    state = {"w": torch.ones(2), "n": torch.tensor(1)}
    vector, manifest = flatten(state)
    back = unflatten(vector, manifest, like=state)
    vector[:] = 9
    back["n"] += 1
    assert torch.equal(state["w"], torch.ones(2))
    assert torch.equal(back["w"], torch.ones(2))
    assert state["n"].item() == 1


def test_live_parameters_give_plain_tensors():
    parameters = dict(network().named_parameters())
    back = unflatten(*flatten(parameters), like=parameters)
    assert not any(value.requires_grad for value in back.values())


def test_non_contiguous_entries_are_read_in_their_logical_order():
    grid = np.arange(6.0).reshape(2, 3)
    np.testing.assert_array_equal(flatten([grid.T])[0], [0, 3, 1, 4, 2, 5])
    np.testing.assert_array_equal(flatten([torch.from_numpy(grid).t()])[0], [0, 3, 1, 4, 2, 5])


def test_numpy_state_needs_no_torch():
    code = (
        "import sys, numpy as np; import fl_integration.vectors.vectorise as v;"
        "v.flatten([np.ones(2)]); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    ("state", "text"),
    [
        ("weights", "not a str"),
        (None, "not a NoneType"),
        (np.ones(3), "not a ndarray"),
        ({}, "nothing to sum"),
        ([np.array(3)], "nothing to sum"),
        ([np.empty((0, 3))], "nothing to sum"),
        ({"w": [1.0]}, "'w' is a list"),
        ({1: np.ones(1)}, "name is a int"),
        ({"w": np.ones(1, np.complex128)}, "'w' is complex128"),
        ({"w": np.array(["x"])}, "'w' is str"),
        ({"w": np.array([object()])}, "'w' is object"),
        ({"w": torch.ones(1, dtype=torch.complex64)}, "'w' is complex64"),
        ({"w": torch.ones(1).to(torch.float8_e4m3fn)}, "'w' is float8"),
        ({"w": torch.eye(2).to_sparse()}, "sparse"),
        ({"w": torch.ones(2, device="meta")}, "meta"),
    ],
)
def test_states_that_cannot_be_carried(state, text):
    with pytest.raises(ParameterError, match=text):
        flatten(state)


@pytest.mark.parametrize(
    "vector",
    [np.ones(3), np.ones(1), np.ones((1, 2)), np.ones(2, np.int64), np.ones(2, np.float16), [1.0, 2.0], None],
)
def test_vectors_that_do_not_fit(vector):
    state = [np.zeros(2)]
    with pytest.raises(ParameterError, match="the vector"):
        unflatten(vector, manifest_of(state), like=state)
    with pytest.raises(ParameterError, match="the vector"):
        apply_delta(state, vector)


# --- deltas ----------------------------------------------------------------------------------------------


def test_delta_then_apply_is_the_new_model():
    old, new = network(1), stepped(network(2), 4)
    back = apply_delta(old.state_dict(), delta(new.state_dict(), old.state_dict()))
    for name, value in new.state_dict().items():
        if name == "1.num_batches_tracked":
            assert back[name].item() == 0
        else:
            torch.testing.assert_close(back[name], value, rtol=1e-6, atol=1e-6)


def test_apply_delta_rounds_once_from_float64():
    one = np.float32(1)
    half_step = np.array([2.0**-24 + 2.0**-50])  # as float32 it would be a tie, which rounds down
    assert apply_delta([np.array([one])], half_step)[0][0] == one + np.float32(2.0**-23)
    moved = apply_delta([np.array([one])], half_step.astype(np.float32))[0]
    assert moved.dtype == np.float32
    assert moved[0] == one


def test_apply_delta_leaves_the_reference_alone():
    state = OrderedDict(w=torch.zeros(2), n=torch.tensor(3))
    moved = apply_delta(state, np.array([1.0, 2.0]))
    assert torch.equal(state["w"], torch.zeros(2))
    assert torch.equal(moved["w"], torch.tensor([1.0, 2.0]))
    assert moved["n"].item() == 3


def test_delta_leaves_both_states_alone():
    new, old = {"w": torch.ones(2)}, {"w": torch.full((2,), 3.0)}
    np.testing.assert_array_equal(delta(new, old), [-2, -2])
    assert torch.equal(new["w"], torch.ones(2))
    assert torch.equal(old["w"], torch.full((2,), 3.0))


def test_delta_between_different_models_names_the_entry():
    wider = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(8, 4))
    with pytest.raises(ParameterError, match=r"entry 7 is '3.weight' float32\[3, 8\].*float32\[4, 8\]"):
        delta(wider.state_dict(), network().state_dict())


# --- segments --------------------------------------------------------------------------------------------


def test_segments_of_a_batchnorm_network():
    manifest = manifest_of(network().state_dict())
    found = segments(manifest, clip=0.5, overrides={"*.running_var": 10.0})
    assert found == (
        Segment(length=26, clip=0.5),
        Segment(length=2, clip=10.0),
        Segment(length=27, clip=0.5),
    )


def test_segments_without_overrides_are_one():
    manifest = manifest_of(network().state_dict())
    assert segments(manifest, clip=1.0) == (Segment(length=manifest.length, clip=1.0),)


def test_first_pattern_counts_and_equal_neighbours_merge():
    manifest = manifest_of(
        {"a.w": np.ones(1), "a.b": np.ones(2), "n": np.array(1), "c.b": np.ones(3), "e": np.ones(0)}
    )
    found = segments(manifest, clip=1.0, overrides={"a.b": 2.0, "*.b": 2.0, "a.*": 3.0})
    assert found == (Segment(length=1, clip=3.0), Segment(length=5, clip=2.0))


def test_patterns_tell_case_apart():
    manifest = manifest_of({"Head.w": np.ones(1), "head.w": np.ones(1)})
    found = segments(manifest, clip=1.0, overrides={"Head.*": 2.0})
    assert found == (Segment(length=1, clip=2.0), Segment(length=1, clip=1.0))


@given(st.lists(st.tuples(st.integers(0, 5), st.sampled_from([0.5, 1.0, 2.0])), min_size=1, max_size=8))
def test_segments_give_every_value_its_own_clip(layout):
    layout = [*layout, (1, 4.0)]
    manifest = manifest_of({f"{i}": np.ones(size) for i, (size, _) in enumerate(layout)})
    found = segments(manifest, clip=9.0, overrides={f"{i}": clip for i, (_, clip) in enumerate(layout)})
    assert [s.clip for s in found for _ in range(s.length)] == [c for size, c in layout for _ in range(size)]
    assert all(left.clip != right.clip for left, right in pairwise(found))


@pytest.mark.parametrize("clip", [0, -1.0, float("inf"), float("nan"), "1", None])
def test_clips_that_are_refused(clip):
    manifest = manifest_of([np.ones(1)])
    with pytest.raises(ParameterError, match="clip"):
        segments(manifest, clip=clip)
    with pytest.raises(ParameterError, match="clip"):
        segments(manifest, clip=1.0, overrides={"0": clip})


@pytest.mark.parametrize("pattern", ["*.running_vra", "1.num_batches_tracked", "0.WEIGHT"])
def test_a_pattern_that_fits_nothing_is_refused(pattern):
    with pytest.raises(ParameterError, match="fits the pattern"):
        segments(manifest_of(network().state_dict()), clip=1.0, overrides={pattern: 2.0})
