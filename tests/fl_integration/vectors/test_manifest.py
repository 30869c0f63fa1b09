"""Manifests: what is in them, when two are the same, which states fit one."""

import hashlib
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from fl_integration.vectors.manifest import Entry, Manifest
from fl_integration.vectors.vectorise import (
    apply_delta,
    changes,
    delta,
    flatten,
    load,
    manifest_of,
    unflatten,
)
from secagg.errors import ParameterError

INF = float("inf")


def test_digest_known_answer():
    """SHA-256 over the layout that `Manifest.digest` documents, written out by hand."""
    weight, mask = np.ones((2, 3), np.float32), np.array([-INF], np.float16)
    manifest = manifest_of({"w": weight, "t": weight, "c": mask, "n": np.array(1)})
    encoded = (
        b"secagg/1/model manifest"
        + bytes.fromhex("00000004")
        + bytes.fromhex("00000001") + b"w" + bytes.fromhex("00000007") + b"float32"
        + bytes.fromhex("00" "00000000" "02" "0000000000000002" "0000000000000003")
        + bytes.fromhex("00000001") + b"t" + bytes.fromhex("00000007") + b"float32"
        + bytes.fromhex("00" "00000001") + b"w" + bytes.fromhex("02" "0000000000000002" "0000000000000003")
        + bytes.fromhex("00000001") + b"c" + bytes.fromhex("00000007") + b"float16"
        + bytes.fromhex("01" "00000000" "01" "0000000000000001")
        + bytes.fromhex("00000001") + b"n" + bytes.fromhex("00000005") + b"int64"
        + bytes.fromhex("00" "00000000" "00")
    )  # fmt: skip
    assert manifest.digest == hashlib.sha256(encoded).digest()


def test_digest_is_the_models_not_the_values():
    one, other = nn.Linear(3, 2).state_dict(), nn.Linear(3, 2).state_dict()
    assert not torch.equal(one["weight"], other["weight"])
    assert flatten(one)[1].digest == flatten(other)[1].digest
    as_numpy = {name: value.numpy() for name, value in one.items()}
    assert manifest_of(as_numpy).digest == manifest_of(one).digest


BASE = {"a": np.ones((2, 3), np.float32), "b": np.ones(4, np.float32), "n": np.array(1)}


OTHERS = [
    ({**BASE, "b": np.ones(5, np.float32)}, "entry 1 is 'b'"),
    ({**BASE, "b": np.ones(4, np.float64)}, "entry 1 is 'b'"),
    ({**BASE, "a": np.ones((3, 2), np.float32)}, "entry 0 is 'a'"),
    ({**BASE, "a": np.ones(6, np.float32)}, "entry 0 is 'a'"),
    ({**BASE, "n": np.array(1, np.int32)}, "entry 2 is 'n'"),
    (
        {**BASE, "b": np.array([1, 2, 3, INF], np.float32)},
        r"entry 1 is 'b' float32\[4\] in .*, constant",
    ),
    ({"a": BASE["a"], "b": BASE["b"]}, "only one of the models has 'n' int64"),
]
"""States that differ from BASE, and how."""


@pytest.mark.parametrize(
    ("other", "text"),
    [
        *OTHERS,
        ({"b": BASE["b"], "a": BASE["a"], "n": BASE["n"]}, "entry 0 is 'a'"),
        ({"a": BASE["a"], "c": BASE["b"], "n": BASE["n"]}, "entry 1 is 'b'.*'c'"),
        ({**BASE, "z": np.ones(1)}, "only one of the models has 'z'"),
    ],
)
def test_every_difference_changes_the_digest_and_is_named(other, text):
    mine, theirs = manifest_of(BASE), manifest_of(other)
    assert mine.digest != theirs.digest
    for one, two in [(mine, theirs), (theirs, mine)]:
        with pytest.raises(ParameterError, match="all parties must build the same model"):
            one.require_same(two)
    with pytest.raises(ParameterError, match=text):
        mine.require_same(theirs)


def uses(manifest):
    """Every function that holds a state against a manifest."""
    vector = np.zeros(manifest.length, np.float32)
    return {
        "unflatten": lambda state: unflatten(vector, manifest, like=state),
        "apply_delta": lambda state: apply_delta(state, vector, manifest=manifest),
        "load": lambda state: load(vector, manifest, state),
        "changes": lambda state: changes(state, manifest, vector),
        "delta to": lambda state: delta(state, BASE, manifest=manifest),
        "delta from": lambda state: delta(BASE, state, manifest=manifest),
    }


USES = list(uses(manifest_of(BASE)))


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize(("other", "text"), [pair for pair in OTHERS if "constant" not in pair[1]])
def test_a_state_that_does_not_fit_is_refused_and_the_entry_named(use, other, text):
    with pytest.raises(ParameterError, match=text):
        uses(manifest_of(BASE))[use](other)


@pytest.mark.parametrize("use", USES)
def test_a_state_without_an_entry_of_the_manifest_is_refused(use):
    with pytest.raises(ParameterError, match=r"only one of the models has 'b' float32\[4\]"):
        uses(manifest_of(BASE))[use]({"a": BASE["a"], "c": BASE["b"], "n": BASE["n"]})


@pytest.mark.parametrize("use", USES)
def test_order_and_further_entries_do_not_matter(use):
    state = {"z": object(), "b": BASE["b"].copy(), "n": BASE["n"], "a": BASE["a"].copy(), "x": np.ones(1)}
    uses(manifest_of(BASE))[use](state)
    assert set(state) == {"a", "b", "n", "x", "z"}


def test_values_go_by_name_in_the_manifests_order():
    manifest = manifest_of({"a": np.zeros(1), "b": np.zeros(2)})
    state = {"x": object(), "b": np.array([2.0, 3.0]), "a": np.array([1.0])}
    np.testing.assert_array_equal(changes(state, manifest, np.zeros(3)), [1, 2, 3])
    assert list(unflatten(np.zeros(3), manifest, like=state)) == ["a", "b"]
    load(np.array([4.0, 5.0, 6.0]), manifest, state)
    assert (state["a"].tolist(), state["b"].tolist()) == ([4], [5, 6])


def test_delta_of_whole_states_refuses_what_only_one_has():
    with pytest.raises(ParameterError, match="only one of the models has 'z'"):
        delta({**BASE, "z": np.ones(1)}, BASE)
    with pytest.raises(ParameterError, match="only one of the models has 'n'"):
        delta({"a": BASE["a"], "b": BASE["b"]}, BASE)


def test_equal_manifests_are_the_same():
    mine = manifest_of(BASE)
    mine.require_same(Manifest(entries=mine.entries))
    assert mine == manifest_of(BASE)


@pytest.mark.parametrize("shape", [(-1,), (2.0,), (True,)])
def test_entry_refuses_shapes(shape):
    with pytest.raises(ParameterError, match="shape"):
        Entry(name="w", shape=shape, dtype="float32")


def test_slices_cover_the_vector_in_order():
    manifest = manifest_of({"n": np.array(1), "a": np.ones((2, 3)), "e": np.ones(0), "b": np.ones(4)})
    assert manifest.slices() == {"a": slice(0, 6), "e": slice(6, 6), "b": slice(6, 10)}


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"constant": 1}, "constant 1"),
        ({"tied": None}, "tied None"),
        ({"dtype": "int64", "constant": True}, "only a floating entry can be constant"),
        ({"dtype": "int64", "tied": "v"}, "only one that is summed can be tied"),
        ({"constant": True, "tied": "v"}, "only one that is summed can be tied"),
        ({"name": 3}, "name is a int"),
        ({"dtype": "complex64"}, "'w' is complex64"),
    ],
)
def test_entry_refuses(arguments, text):
    with pytest.raises(ParameterError, match=text):
        Entry(**{"name": "w", "shape": (2,), "dtype": "float32", **arguments})


ONE = partial(Entry, shape=(2,), dtype="float32")


@pytest.mark.parametrize(
    ("entries", "text"),
    [
        ([ONE(name="a"), ONE(name="a")], "two entries have the name 'a'"),
        ([ONE(name="a", tied="b"), ONE(name="b")], "not there"),
        ([ONE(name="a", tied="a")], "not there"),
        ([ONE(name="a"), Entry(name="b", shape=(1,), dtype="float32", tied="a")], "same shape"),
        ([ONE(name="a"), Entry(name="b", shape=(2,), dtype="float16", tied="a")], "same shape"),
        ([ONE(name="a"), ONE(name="b", tied="a"), ONE(name="c", tied="b")], "is 'b' .* tied to 'a'"),
        ([ONE(name="a", constant=True), ONE(name="b", tied="a")], "is 'a' .* constant"),
        ([Entry(name="a", shape=(2,), dtype="int8"), ONE(name="b", tied="a")], "is 'a' int8"),
    ],
)
def test_manifest_refuses(entries, text):
    with pytest.raises(ParameterError, match=text):
        Manifest(entries=tuple(entries))


# --- constants -------------------------------------------------------------------------------------------


def masked(weight=1.0, fill=-INF):
    return {"w": np.full(2, weight, np.float32), "mask": np.triu(np.full((3, 3), fill, np.float32), k=1)}


@pytest.mark.parametrize("value", [INF, -INF, float("nan")])
@pytest.mark.parametrize("make", [np.array, torch.tensor])
def test_what_is_not_finite_in_the_reference_is_a_constant(make, value):
    vector, manifest = flatten({"w": make([1.0]), "c": make([0.0, value, 1.0])})
    assert vector.tolist() == [1]
    assert [entry.constant for entry in manifest.entries] == [False, True]
    assert manifest.slices() == {"w": slice(0, 1)}


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_constants_of_every_floating_dtype(dtype):
    low, high = torch.finfo(dtype).min, torch.finfo(dtype).max
    state = {"w": torch.tensor([low, high], dtype=dtype), "c": torch.tensor([low, INF], dtype=dtype)}
    assert [entry.constant for entry in manifest_of(state).entries] == [False, True]


def test_a_constant_is_each_receivers_own():
    vector, manifest = flatten(masked())
    mine = masked(weight=5, fill=-9.0)
    back = unflatten(vector, manifest, like=mine)
    np.testing.assert_array_equal(back["mask"], mine["mask"])
    assert back["mask"] is not mine["mask"]
    assert back["w"].tolist() == [1, 1]
    load(vector, manifest, mine)
    assert (mine["w"].tolist(), mine["mask"].min()) == ([1, 1], -9)


def test_a_wide_constant_does_not_widen_the_vector():
    assert manifest_of({"w": np.ones(1, np.float32), "c": np.array([INF])}).dtype == np.float32


def test_training_that_diverged_is_no_other_model():
    reference = masked()
    vector, manifest = flatten(reference)
    diverged = masked(weight=np.nan)
    assert np.isnan(delta(diverged, reference)).all()
    assert np.isnan(changes(diverged, manifest, vector)).all()
    assert np.isnan(delta(diverged, reference, manifest=manifest)).all()
    # And the reverse: a constant that became finite takes no place in the vector.
    assert len(changes(masked(fill=0.0), manifest, vector)) == 2


def test_one_manifest_goes_through_a_training_whatever_becomes_of_the_values():
    manifest = manifest_of({"w": np.zeros(2, np.float16)})
    moved = apply_delta({"w": np.array([INF, 1], np.float16)}, np.array([1.0, 70000.0]), manifest=manifest)
    assert moved["w"].tolist() == [INF, INF]


# --- what is shared --------------------------------------------------------------------------------------

MIXED = {"body.w": np.ones(2, np.float32), "head.w": np.full(3, 2.0), "head.n": np.array(4), "x": object()}


def test_only_what_is_shared_is_in_the_manifest():
    vector, manifest = flatten(MIXED, shared=lambda name: name.startswith("head"))
    assert [entry.name for entry in manifest.entries] == ["head.w", "head.n"]
    assert vector.tolist() == [2, 2, 2]
    assert manifest == manifest_of({"head.w": np.zeros(3), "head.n": np.array(0)})


def test_positions_of_a_list_are_its_names():
    vector, manifest = flatten([np.ones(1), object(), np.full(1, 3.0)], shared=lambda name: name != "1")
    assert vector.tolist() == [1, 3]
    back = unflatten(vector, manifest, like=[np.zeros(1), None, np.zeros(1)])
    assert [value.tolist() for value in back] == [[1], [3]]


def test_numpys_bools_are_bools():
    manifest = manifest_of(MIXED, shared=lambda name: np.bool_(name == "body.w"))
    assert [entry.name for entry in manifest.entries] == ["body.w"]


@given(st.sets(st.sampled_from("abcdef"), min_size=1))
def test_any_subset_travels_and_the_rest_is_left_alone(names):
    rng = np.random.default_rng(1)
    state = {name: rng.normal(size=index + 1) for index, name in enumerate("abcdef")}
    before = {name: value.copy() for name, value in state.items()}
    vector, manifest = flatten(state, shared=names.__contains__)
    load(vector + 1, manifest, state)
    for name, value in state.items():
        np.testing.assert_array_equal(value, before[name] + (name in names))


@pytest.mark.parametrize(
    ("shared", "text"),
    [
        ("head.*", "shared is a str; it must be a function"),
        (["head.w"], "shared is a list; it must be a function"),
        (lambda name: None, r"shared\('body.w'\) is a NoneType; it must be a bool"),
        (lambda name: 1, r"shared\('body.w'\) is a int; it must be a bool"),
        (lambda name: False, "shared fits no entry .* among 'body.w', 'head.w', 'head.n', 'x'"),
        (lambda name: name == "head.n", "shared fits no entry"),
        (lambda name: name == "x", "'x' is a object; .* kept home with shared="),
    ],
)
def test_predicates_that_are_refused(shared, text):
    for function in (manifest_of, flatten):
        with pytest.raises(ParameterError, match=text):
            function(MIXED, shared=shared)


def test_a_predicate_is_asked_whether_it_fits():
    class Picky:
        def __call__(self, name):
            return True

        def check(self, names):
            raise ParameterError(f"not {names}")

    with pytest.raises(ParameterError, match=r"not \['w'\]"):
        manifest_of({"w": np.ones(1)}, shared=Picky())
