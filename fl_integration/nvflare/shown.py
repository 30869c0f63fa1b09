"""What a round shows to a site's functions, as it travels over NVFlare: a model and a configuration.

NVFlare carries objects of many types, and would hand a subclass of float, or an enum, to one site and a plain
number to the others: the same value to a digest, another one to a function that looks at its type. So what
travels is plain: for each array its name, its dtype, its shape and its bytes; of the configuration exactly
bool, int, float, str, bytes and lists of these. Anything else is refused, on both sides. A function sees
the configuration in an order of names that no server chooses, and arrays in the order that the round binds.

>>> import numpy as np
>>> wire = to_wire({"w": np.zeros(2, np.float32)}, {"lr": 0.1})
>>> wire["arrays"][0][:3], wire["config"]
(['w', '<f4', [2]], {'lr': 0.1})
>>> arrays_of(records_of(wire)[ARRAYS])["w"]
array([0., 0.], dtype=float32)
"""

import math
from collections.abc import Mapping
from typing import Any, Final, TypeAlias

import numpy as np

from fl_integration.embedding.records import ArrayBytes, Kind, Record
from secagg.errors import DecodeError, ParameterError
from secagg.numbers import plain

__all__ = ["ARRAYS", "CONFIG", "SETTINGS", "Wire", "arrays_of", "config_of", "records_of", "to_wire"]

ARRAYS: Final = "arrays"
CONFIG: Final = "config"
SETTINGS: Final = "secagg.settings"
"""The names of the records that a round binds; the settings are known to both sides, and do not travel."""
_FORM: Final = "little-endian, row by row"
_DTYPES: Final = {
    np.dtype(name).newbyteorder("<").str: np.dtype(name).newbyteorder("<")
    for name in ("bool", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8")
}
_SCALARS: Final = (bool, int, float, str, bytes)
MOST_AXES: Final = 32

Wire: TypeAlias = dict[str, Any]
"""What `to_wire` gives: plain values that NVFlare carries as they are."""


def to_wire(model: Mapping[str, Any] | None, config: Mapping[str, Any]) -> Wire:
    """A model and a configuration as plain values.

    Args:
        model: numpy arrays by name, of booleans, integers or floating numbers; None: none travels.
        config: bool, int, float, str, bytes and lists of these, by name.

    Raises:
        ParameterError: a value is of another type.
    """
    wire: Wire = {CONFIG: {_name(name, "config"): _sent(name, config[name]) for name in config}}
    if model is not None:
        wire[ARRAYS] = [_array(_name(name, "model"), value) for name, value in model.items()]
    return wire


def _name(name: object, of: str) -> str:
    if type(name) is not str:
        raise ParameterError(f"the {of} has a name of type {type(name).__name__}; names are str")
    return name


def _array(name: str, value: object) -> list[Any]:
    if not isinstance(value, np.ndarray | np.generic):
        raise ParameterError(
            f"the model's {name!r} is of type {type(value).__name__}; a model is numpy arrays by name: "
            "of torch, {name: value.numpy() for name, value in module.state_dict().items()}"
        )
    array = np.asarray(value)
    dtype = array.dtype.newbyteorder("<")
    if dtype.str not in _DTYPES or array.ndim > MOST_AXES:
        raise ParameterError(
            f"the model's {name!r} is of dtype {array.dtype}, {array.ndim} axes; take booleans, integers of "
            f"up to 64 bits or floating numbers of 16 to 64 bits, with at most {MOST_AXES} axes"
        )
    return [name, dtype.str, list(array.shape), np.asarray(array, dtype, order="C").tobytes()]


def _sent(name: str, value: object) -> Any:
    value = plain(value)
    values = [plain(each) for each in value] if isinstance(value, list | tuple) else [value]
    if not all(type(each) in _SCALARS for each in values):
        raise ParameterError(
            f"config[{name!r}] is a {type(value).__name__}, or holds something else; a configuration is "
            "bool, int, float, str, bytes and lists of these"
        )
    if any(type(each) is int and not -(1 << 63) <= each < 1 << 63 for each in values):
        raise ParameterError(f"config[{name!r}] is an integer of more than 64 bits; send it as a str")
    return values if isinstance(value, list | tuple) else value


def records_of(wire: object) -> dict[str, Record]:
    """What these plain values are, in the order in which a site's functions see it.

    Args:
        wire: as it was delivered, from whomever. None: nothing travelled.

    Raises:
        DecodeError: it is anything else than `to_wire` gives.
    """
    if wire is None:
        return {}
    if type(wire) is not dict or not {CONFIG} <= wire.keys() <= {ARRAYS, CONFIG}:
        raise DecodeError("what is shown is no model and configuration")
    config = wire[CONFIG]
    if type(config) is not dict or not all(type(name) is str for name in config):
        raise DecodeError("a configuration that is no dict by name")
    for value in config.values():
        # The very types: a function may tell a subclass from a number, and a digest does not.
        if any(type(each) not in _SCALARS for each in (value if type(value) is list else [value])):
            raise DecodeError("a configuration with a value of another type than it may hold")
    found = {CONFIG: Record(Kind.CONFIG, {name: config[name] for name in sorted(config)})}
    if ARRAYS in wire:
        if type(wire[ARRAYS]) is not list:
            raise DecodeError("a model that is no list of arrays")
        arrays = dict(_received(each) for each in wire[ARRAYS])
        if len(arrays) != len(wire[ARRAYS]):
            raise DecodeError("a model with two arrays of one name")
        found[ARRAYS] = Record(Kind.ARRAYS, arrays)
    return found


def _received(entry: object) -> tuple[str, ArrayBytes]:
    if type(entry) is not list or [type(each) for each in entry] != [str, str, list, bytes]:
        raise DecodeError("an array that is no name, dtype, shape and bytes")
    name, dtype, shape, data = entry
    if dtype not in _DTYPES:
        raise DecodeError("an array of a dtype that a model does not have")
    if len(shape) > MOST_AXES or any(type(size) is not int or size < 0 for size in shape):
        raise DecodeError("an array of no shape")
    if math.prod(shape) * _DTYPES[dtype].itemsize != len(data):
        raise DecodeError("an array with more or fewer bytes than its shape has")
    return name, ArrayBytes(dtype, tuple(shape), _FORM, data)


def arrays_of(record: Record) -> dict[str, Any]:
    """The arrays of a record of `records_of`, by name; nobody can write into them."""
    return {
        name: np.frombuffer(each.data, _DTYPES[each.dtype]).reshape(each.shape)
        for name, each in record.values.items()
        if isinstance(each, ArrayBytes)
    }


def config_of(records: Mapping[str, Record]) -> dict[str, Any]:
    """The configuration among the records, the caller's own."""
    values = records[CONFIG].values if CONFIG in records else {}
    return {name: list(value) if isinstance(value, list) else value for name, value in values.items()}
