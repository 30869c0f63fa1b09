"""`load` and `changes`, the loop's two functions, and how values are rounded."""

from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from torch import nn

from fl_integration.vectors.vectorise import apply_delta, changes, flatten, load, manifest_of, unflatten
from secagg.errors import ParameterError

HALVES = [torch.float16, torch.bfloat16]
DTYPES = [*HALVES, torch.float32, torch.float64]
MODERATE = st.floats(-6e4, 6e4, width=64)
"""Values that every dtype holds without becoming infinite."""


def zeros(dtype, size=3):
    return {"w": torch.zeros(size, dtype=dtype)}


# --- load and changes ------------------------------------------------------------------------------------


@given(
    st.lists(st.tuples(st.sampled_from(DTYPES), st.booleans(), st.integers(0, 5)), min_size=1, max_size=5),
    st.data(),
)
def test_nothing_changed_since_it_was_loaded(layout, data):
    state = {"first": torch.zeros(1)}
    for index, (dtype, in_torch, size) in enumerate(layout):
        tensor = torch.ones(size, dtype=dtype)
        state[str(index)] = tensor if in_torch or dtype is torch.bfloat16 else tensor.numpy()
    manifest = manifest_of(state)
    dtype = data.draw(st.sampled_from([np.float32, np.float64]))
    reference = data.draw(hnp.arrays(np.float64, manifest.length, elements=MODERATE)).astype(dtype)
    load(reference, manifest, state)
    found = changes(state, manifest, reference)
    assert found.dtype == manifest.dtype
    assert not found.any()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_load_is_unflatten_in_place(dtype):
    rng = np.random.default_rng(0)
    model = nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3)).to(memory_format=torch.channels_last)
    state = {**model.state_dict(), "half": torch.zeros(4, dtype=torch.bfloat16), "array": np.zeros((2, 2))}
    manifest = manifest_of(state)
    vector = rng.normal(size=manifest.length).astype(dtype)
    expected = unflatten(vector, manifest, like=state)
    addresses = {name: value.data_ptr() for name, value in model.state_dict().items()}
    load(vector, manifest, state)
    for name, value in expected.items():
        assert torch.equal(torch.as_tensor(state[name]), torch.as_tensor(value))
    assert {name: value.data_ptr() for name, value in model.state_dict().items()} == addresses
    assert torch.equal(model[0].weight, expected["0.weight"])


def test_live_parameters_are_loaded_without_a_gradient():
    model = nn.Linear(2, 1)
    parameters = dict(model.named_parameters())
    load(np.arange(3.0), manifest_of(parameters), parameters)
    assert model.weight.tolist() == [[0, 1]]
    assert model.weight.requires_grad
    assert model.weight.is_leaf
    np.testing.assert_array_equal(changes(parameters, manifest_of(parameters), np.zeros(3)), [0, 1, 2])


def test_torch_sees_that_a_weight_was_loaded():
    """A gradient through values that were overwritten would be wrong; torch must be able to say so."""
    weight = torch.ones(3, requires_grad=True)
    loss = (weight * weight).sum()
    load(np.zeros(3), manifest_of({"w": weight}), {"w": weight})
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_kept_entries_are_left_alone():
    state = {"w": np.zeros(2), "n": np.array(3), "mask": np.array([np.inf]), "flag": torch.tensor(True)}
    load(np.ones(2), manifest_of(state), state)
    assert state["w"].tolist() == [1, 1]
    assert (state["n"], state["mask"], state["flag"].item()) == (3, np.inf, True)


def test_a_read_only_vector_is_read():
    """As bytes from a message are."""
    received = np.frombuffer(np.arange(70_000, dtype=np.float32).tobytes(), np.float32)
    for state in ({"w": torch.zeros(70_000)}, {"w": np.zeros(70_000)}, zeros(torch.bfloat16, 70_000)):
        manifest = manifest_of(state)
        load(received, manifest, state)
        assert float(state["w"][-1]) == pytest.approx(69_999, rel=2**-8)
        assert not changes(state, manifest, received).any()


@pytest.mark.parametrize("view", [np.s_[::2], np.s_[::-1]])
def test_a_strided_vector_is_read(view):
    vector = np.arange(6.0)[view]
    for state in ({"w": torch.zeros(len(vector))}, {"w": np.zeros(len(vector), np.float32)}):
        manifest = manifest_of(state)
        load(vector, manifest, state)
        assert state["w"].tolist() == vector.tolist()
        np.testing.assert_array_equal(changes(state, manifest, vector[::-1]), vector - vector[::-1])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", [(1 << 16) - 1, 1 << 16, (1 << 16) + 1])
def test_no_piece_is_lost_between_two(dtype, size):
    state, rng = zeros(dtype, size), np.random.default_rng(size)
    reference = rng.normal(size=size)
    manifest = manifest_of(state)
    load(reference, manifest, state)
    expected = torch.from_numpy(reference.astype(np.float32)).to(dtype).double().numpy()
    np.testing.assert_allclose(state["w"].double().numpy(), reference, rtol=2**-8)
    if dtype is torch.float32:
        np.testing.assert_array_equal(state["w"].numpy(), expected)
    state["w"] += 1
    found = changes(state, manifest, reference)
    assert not (np.abs(found - 1) > 2**-6).any()


@pytest.mark.parametrize("turn", [lambda v: v.t(), lambda v: v[:, ::2], lambda v: v.expand(2, 3, 4)[0]])
@pytest.mark.parametrize("dtype", DTYPES)
def test_strided_entries(turn, dtype):
    entry = turn(torch.zeros(3, 4, dtype=dtype))
    values = np.arange(entry.numel()) + 0.5
    load(values, manifest_of([entry]), [entry])
    assert entry.reshape(-1).tolist() == values.tolist()
    assert changes([entry], manifest_of([entry]), np.zeros(len(values))).tolist() == values.tolist()


def test_big_endian_arrays():
    state = {"w": np.zeros(2, ">f4")}
    load(np.array([1.0, 2.0]), manifest_of(state), state)
    assert state["w"].tolist() == [1, 2]
    assert changes(state, manifest_of(state), np.ones(2)).tolist() == [0, 1]


# --- the reference is a master in more bits --------------------------------------------------------------


@pytest.mark.parametrize("dtype", HALVES)
def test_steps_too_small_for_a_half_add_up_in_the_reference(dtype):
    """The reference keeps what the model cannot hold: 64 steps of 1/64 of its spacing move it by one."""
    state = zeros(dtype, 1)
    manifest, spacing = manifest_of(state), torch.finfo(dtype).eps
    reference = np.ones(1, np.float32)
    for _ in range(64):
        load(reference, manifest, state)
        assert changes(state, manifest, reference).tolist() == [0]
        reference += np.float32(spacing / 64)
    load(reference, manifest, state)
    assert state["w"].item() == 1 + spacing


@pytest.mark.parametrize("dtype", HALVES)
def test_a_change_does_not_hold_the_references_rounding(dtype):
    state = zeros(dtype, 1)
    manifest = manifest_of(state)
    spacing = torch.finfo(dtype).eps
    reference = np.array([1 + spacing / 4], np.float32)
    load(reference, manifest, state)
    assert state["w"].item() == 1
    state["w"] += spacing
    assert changes(state, manifest, reference).tolist() == [spacing]
    assert (flatten(state)[0] - reference).tolist() == [spacing * 3 / 4]


def test_a_float64_reference_of_float32_entries_is_rounded_too():
    state = {"w": np.zeros(1, np.float32)}
    manifest, reference = manifest_of(state), np.array([1 + 2.0**-30])
    load(reference, manifest, state)
    assert changes(state, manifest, reference).tolist() == [0]


# --- rounding --------------------------------------------------------------------------------------------


def nearest(value, dtype):
    """The value of a half type nearest to a rational, ties to even; by definition, and slow."""
    exact, size = Fraction(value), abs(Fraction(value))
    info = torch.finfo(dtype)
    digits = {torch.float16: 10, torch.bfloat16: 7}[dtype]
    exponent = max(np.frexp(float(size))[1] - 1, round(np.log2(info.smallest_normal)))
    unit = Fraction(2) ** (int(exponent) - digits)
    found = round(exact / unit) * unit  # Python rounds a Fraction's ties to even
    limit = Fraction(info.max)
    return float(found) if abs(found) <= limit else float("inf") * (1 if found > 0 else -1)


@pytest.mark.parametrize("dtype", HALVES)
@given(
    st.integers(1, 2**11),
    st.integers(-150, 130),
    st.integers(-60, -20),
    st.sampled_from([-1, 0, 1]),
    st.sampled_from([-1, 1]),
)
def test_a_half_is_rounded_once(dtype, mantissa, exponent, fine, nudge, sign):
    """Values within a hair of a tie, where rounding to float32 first would land on it."""
    value = sign * (mantissa + nudge * 2.0**fine) * 2.0**exponent
    state = zeros(dtype, 1)
    load(np.array([value]), manifest_of(state), state)
    expected = nearest(value, dtype)
    assert state["w"].double().item() == expected
    assert apply_delta(zeros(dtype, 1), np.array([value]))["w"].double().item() == expected
    if dtype is torch.float16:
        array = {"w": np.zeros(1, np.float16)}
        load(np.array([value]), manifest_of(array), array)
        assert float(array["w"][0]) == expected


@pytest.mark.parametrize("dtype", HALVES)
def test_twice_rounded_would_be_another_value(dtype):
    """The known answer: just above the tie between 1 and the next value, by less than float32 can say."""
    spacing = torch.finfo(dtype).eps
    value = 1 + spacing / 2 + 2.0**-40
    assert torch.tensor([value], dtype=torch.float64).to(torch.float32).to(dtype).item() == 1
    state = zeros(dtype, 1)
    load(np.array([value]), manifest_of(state), state)
    assert state["w"].item() == 1 + spacing


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan, 1e300, -1e300, 1e-300, -0.0])
@pytest.mark.parametrize("dtype", DTYPES)
def test_extremes_pass_as_torch_has_them_and_nobody_warns(dtype, value):
    expected = torch.tensor([value], dtype=torch.float64).to(dtype)
    state = zeros(dtype, 1)
    states = [state] if dtype is torch.bfloat16 else [state, {"w": state["w"].numpy().copy()}]
    for each in states:
        manifest = manifest_of(each)
        load(np.array([value]), manifest, each)
        found = torch.as_tensor(each["w"])
        assert torch.equal(found.nan_to_num(7), expected.nan_to_num(7))
        assert torch.equal(found.signbit(), expected.signbit()) or np.isnan(value)
        change = changes(each, manifest, np.array([value]))
        assert bool(np.isfinite(change).all()) == bool(expected.isfinite().all())


# --- bad arguments ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "vector",
    [
        *(np.ones(3), np.ones(1), np.ones((1, 2)), np.ones(2, np.int64), np.ones(2, np.float16)),
        *([1.0, 2.0], None, np.ones(2, ">f8"), torch.ones(2)),
    ],
)
def test_vectors_that_do_not_fit(vector):
    state = [np.zeros(2)]
    with pytest.raises(ParameterError, match="the vector"):
        load(vector, manifest_of(state), state)
    with pytest.raises(ParameterError, match="the vector"):
        changes(state, manifest_of(state), vector)
    assert state[0].tolist() == [0, 0]


def test_a_read_only_array_is_refused_before_anything_is_written():
    fixed = np.zeros(1)
    fixed.flags.writeable = False
    state = {"w": np.zeros(1), "f": fixed}
    with pytest.raises(ParameterError, match="'f' is a read-only array"):
        load(np.ones(2), manifest_of(state), state)
    assert state["w"].tolist() == [0]
    assert changes(state, manifest_of(state), np.ones(2)).tolist() == [-1, -1]


def test_out_is_overwritten_and_returned():
    state = {"w": np.ones(2), "h": np.ones(1, np.float16)}
    out = np.full(3, np.nan)
    assert changes(state, manifest_of(state), np.zeros(3), out=out) is out
    assert out.tolist() == [1, 1, 1]


def frozen(array):
    array.flags.writeable = False
    return array


@pytest.mark.parametrize(
    ("out", "text"),
    [
        (np.empty(3), "out has 3 values, the model 2"),
        (np.empty((2, 1)), r"out is float64\[2, 1\]"),
        (np.empty(2, np.float32), "out is float32, .* it must be contiguous, writeable and float64"),
        (np.empty(4)[::2], r"out is float64, strides \(16,\)"),
        (frozen(np.empty(2)), "writeable False"),
        ([0.0, 0.0], "out is list"),
    ],
)
def test_outs_that_are_refused(out, text):
    state = [np.zeros(2)]
    with pytest.raises(ParameterError, match=text):
        changes(state, manifest_of(state), np.zeros(2), out=out)


def test_out_is_not_the_reference():
    state, reference = [np.zeros(2)], np.zeros(2)
    with pytest.raises(ParameterError, match="out shares its memory with the reference"):
        changes(state, manifest_of(state), reference, out=reference)
