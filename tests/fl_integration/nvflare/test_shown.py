"""What travels to a site's functions: only plain values, and exactly those."""

from enum import IntEnum
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fl_integration.embedding.records import records_digest
from fl_integration.nvflare.shown import ARRAYS, CONFIG, arrays_of, config_of, records_of, to_wire
from secagg.errors import DecodeError
from tests.fl_integration.nvflare.loopback import through_bytes

DTYPES = ["?", "i1", "i8", "u2", "f2", "f4", "f8", ">f4", ">i8"]
SCALARS = st.one_of(
    st.booleans(),
    st.integers(-(1 << 63), (1 << 63) - 1),
    st.floats(allow_nan=False),
    st.text(max_size=5),
    st.binary(max_size=5),
)
CONFIGS = st.dictionaries(st.text(max_size=5), st.one_of(SCALARS, st.lists(SCALARS, max_size=3)), max_size=4)
MODELS = st.dictionaries(
    st.text(max_size=5),
    st.sampled_from(DTYPES).flatmap(
        lambda dtype: hnp.arrays(dtype, hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=3))
    ),
    max_size=3,
)


@settings(max_examples=40)
@given(MODELS, CONFIGS)
def test_a_model_and_a_configuration_come_back(model: dict[str, Any], config: dict[str, Any]) -> None:
    wire = to_wire(model, config)
    records = records_of(through_bytes(wire))
    back = arrays_of(records[ARRAYS])
    assert list(back) == list(model)
    for name, value in model.items():
        np.testing.assert_array_equal(back[name], value)
        assert back[name].dtype == value.dtype.newbyteorder("<")
        assert back[name].shape == value.shape
    assert config_of(records) == config
    assert list(config_of(records)) == sorted(config)
    for name, value in config_of(records).items():
        assert type(value) is type(config[name])
    assert records_digest(records) == records_digest(records_of(wire))


def test_numpys_scalars_travel_as_pythons() -> None:
    sent = to_wire(None, {"lr": np.float32(0.5), "n": np.int64(3), "of": (np.float64(1.0), True)})
    assert sent == {CONFIG: {"lr": 0.5, "n": 3, "of": [1.0, True]}}
    assert [type(each) for each in sent[CONFIG].values()] == [float, int, list]
    assert records_of(sent).keys() == {CONFIG}


def test_what_is_shown_is_nobodys_to_write_into() -> None:
    array = arrays_of(records_of(to_wire({"w": np.zeros(2)}, {}))[ARRAYS])["w"]
    with pytest.raises(ValueError, match="read-only"):
        array[0] = 1.0


def test_nothing_that_travelled_is_nothing_shown() -> None:
    assert records_of(None) == {}
    assert config_of({}) == {}


class Rate(float):
    """It looks like a number to a digest, and like itself to a function that asks."""


class Level(IntEnum):
    """As `Rate`; NVFlare carries enums of any kind."""

    HIGH = 3


def array(**changed: Any) -> dict[str, Any]:
    whole = {"name": "w", "dtype": "<f4", "shape": [2], "data": bytes(8), **changed}
    return {CONFIG: {}, ARRAYS: [list(whole.values())]}


@pytest.mark.parametrize(
    ("wire", "message"),
    [
        ([], "no model and configuration"),
        ({}, "no model and configuration"),
        ({ARRAYS: []}, "no model and configuration"),
        ({CONFIG: {}, "more": 1}, "no model and configuration"),
        ({CONFIG: []}, "no dict by name"),
        ({CONFIG: {1: 1}}, "no dict by name"),
        ({CONFIG: {"lr": None}}, "a value of another type"),
        ({CONFIG: {"lr": {}}}, "a value of another type"),
        ({CONFIG: {"lr": (1,)}}, "a value of another type"),
        ({CONFIG: {"lr": [[1]]}}, "a value of another type"),
        ({CONFIG: {"lr": Rate(0.1)}}, "a value of another type"),
        ({CONFIG: {"lr": [Level.HIGH]}}, "a value of another type"),
        ({CONFIG: {"lr": np.float64(0.1)}}, "a value of another type"),
        ({CONFIG: {}, ARRAYS: {}}, "no list of arrays"),
        ({CONFIG: {}, ARRAYS: [np.zeros(2)]}, "no name, dtype, shape and bytes"),
        ({CONFIG: {}, ARRAYS: [["w", "<f4", [0]]]}, "no name, dtype, shape and bytes"),
        ({CONFIG: {}, ARRAYS: [["w", "<f4", [0], b""]] * 2}, "two arrays of one name"),
        (array(name=1), "no name, dtype, shape and bytes"),
        (array(shape=(2,)), "no name, dtype, shape and bytes"),
        (array(data=bytearray(8)), "no name, dtype, shape and bytes"),
        (array(dtype="|O"), "of a dtype that a model does not have"),
        (array(dtype=">f4"), "of a dtype that a model does not have"),
        (array(dtype="<c8"), "of a dtype that a model does not have"),
        (array(shape=[-2]), "of no shape"),
        (array(shape=[True, 2]), "of no shape"),
        (array(shape=[1] * 33, data=bytes(4)), "of no shape"),
        (array(shape=[3]), "more or fewer bytes than its shape"),
        (array(shape=[1 << 62, 1 << 62]), "more or fewer bytes than its shape"),
        (array(data=bytes(7)), "more or fewer bytes than its shape"),
    ],
)
def test_anything_else_is_refused(wire: Any, message: str) -> None:
    with pytest.raises(DecodeError, match=message):
        records_of(wire)


def test_every_value_and_the_order_of_arrays_are_bound() -> None:
    model, config = {"a": np.zeros(2, np.float32), "b": np.zeros(2, np.float32)}, {"lr": 0.1}
    others = [
        to_wire({"a": model["a"], "b": np.ones(2, np.float32)}, config),
        to_wire({"b": model["b"], "a": model["a"]}, config),
        to_wire({"a": model["a"].reshape(1, 2), "b": model["b"]}, config),
        to_wire({"a": model["a"].view(np.int32), "b": model["b"]}, config),
        to_wire({"a": model["a"]}, config),
        to_wire(None, config),
        to_wire(model, {"lr": 0.2}),
        to_wire(model, {"lr": [0.1]}),
        to_wire(model, {"lr": "0.1"}),
        to_wire(model, {}),
    ]
    digests = {records_digest(records_of(wire)) for wire in [to_wire(model, config), *others]}
    assert len(digests) == 1 + len(others)
