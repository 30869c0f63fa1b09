"""The digest of what an application is shown: another one for every other thing, the same for the same."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fl_integration.embedding.records import (
    DIGEST_BYTES,
    HASH,
    ArrayBytes,
    Kind,
    Record,
    array_digest,
    records_digest,
)
from secagg.errors import ParameterError

ARRAYS = Record(
    Kind.ARRAYS,
    {
        "weight": ArrayBytes("float32", (2, 1), "numpy.ndarray", b"\0\0\0\0\0\0\x80\x3f"),
        "bias": ArrayBytes("float32", (1,), "numpy.ndarray", b"\0\0\0\0"),
    },
)
SHOWN = {
    "arrays": ARRAYS,
    "config": Record(
        Kind.CONFIG, {"lr": 0.1, "epochs": 1, "name": "x", "on": True, "raw": b"\0", "many": [1, 2]}
    ),
    "metrics": Record(Kind.METRICS, {"loss": 0.5}),
}

scalars = (
    st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats()
    | st.text(st.characters(codec="utf-8"), max_size=8)
    | st.binary(max_size=8)
)
values = scalars | st.lists(st.integers(), max_size=3) | st.lists(st.text(max_size=3), max_size=3)
names = st.text(st.characters(codec="utf-8"), max_size=5)
arrays = st.builds(
    ArrayBytes,
    st.sampled_from(["float32", "float64"]),
    st.lists(st.integers(0, 3), max_size=3).map(tuple),
    st.sampled_from(["numpy.ndarray", "torch"]),
    st.binary(max_size=8),
)
records = st.builds(
    Record, st.sampled_from([Kind.METRICS, Kind.CONFIG]), st.dictionaries(names, values, max_size=3)
) | st.builds(Record, st.just(Kind.ARRAYS), st.dictionaries(names, arrays, max_size=3))
shown = st.dictionaries(names, records, max_size=3)


def spelt(everything: Any) -> Any:
    """All of it as plain text, by Python's own repr, with its order where order counts: the oracle."""
    return sorted(
        (
            name,
            record.kind.name,
            [
                (each, repr(value), bytes(value.data) if isinstance(value, ArrayBytes) else b"")
                for each, value in items
            ],
        )
        for name, record in everything.items()
        for items in [
            list(record.values.items())
            if record.kind is Kind.ARRAYS
            else sorted(record.values.items(), key=lambda pair: pair[0])
        ]
    )


def test_a_known_answer() -> None:
    # Both ends of a study may have different releases of this library, so the digest may not drift.
    assert records_digest(SHOWN)[: len(HASH)] == b"sha256:"
    assert len(records_digest(SHOWN)) == DIGEST_BYTES
    assert records_digest(SHOWN)[len(HASH) :].hex() == KNOWN
    assert array_digest(ARRAYS).hex() == KNOWN_ARRAYS


KNOWN = "3b3582c119604db937a143c4c1c86c9702035fdc28808e26656147b8379b9ccf"
KNOWN_ARRAYS = "33ccebdba1d340b3b8e969c61b936867be85850dae77082b7c1eba73a1cf3633"


@settings(max_examples=50)
@given(shown, shown)
def test_it_is_equal_exactly_for_equal_records(one: Any, other: Any) -> None:
    assert (records_digest(one) == records_digest(other)) == (spelt(one) == spelt(other))


@settings(max_examples=50)
@given(shown, st.randoms())
def test_the_order_of_records_and_of_settings_does_not_count(one: Any, random: Any) -> None:
    def shuffled(mapping: Any) -> dict[Any, Any]:
        pairs = list(mapping.items())
        random.shuffle(pairs)
        return dict(pairs)

    other = {
        name: record if record.kind is Kind.ARRAYS else replace(record, values=shuffled(record.values))
        for name, record in shuffled(one).items()
    }
    assert records_digest(other) == records_digest(one)


def with_array(**changes: Any) -> Callable[[Any], Any]:
    def change(everything: Any) -> Any:
        bias = replace(ARRAYS.values["bias"], **changes)
        return {**everything, "arrays": Record(Kind.ARRAYS, {**ARRAYS.values, "bias": bias})}

    return change


def with_config(name: str, value: Any) -> Callable[[Any], Any]:
    def change(everything: Any) -> Any:
        config = everything["config"]
        return {**everything, "config": replace(config, values={**config.values, name: value})}

    return change


CHANGES: dict[str, Callable[[Any], Any]] = {
    "a byte": with_array(data=b"\0\0\0\x01"),
    "a byte more": with_array(data=b"\0\0\0\0\0"),
    "a dtype": with_array(dtype="int32"),
    "a shape": with_array(shape=(1, 1)),
    "no shape": with_array(shape=()),
    "a form": with_array(form="torch"),
    "an array's name": lambda all: {
        **all,
        "arrays": Record(Kind.ARRAYS, {"weight": ARRAYS.values["weight"], "bia": ARRAYS.values["bias"]}),
    },
    "the arrays' order": lambda all: {
        **all,
        "arrays": Record(Kind.ARRAYS, dict(reversed(ARRAYS.values.items()))),
    },
    "an array less": lambda all: {**all, "arrays": Record(Kind.ARRAYS, {"weight": ARRAYS.values["weight"]})},
    "a record's name": lambda all: {
        ("configs" if name == "config" else name): each for name, each in all.items()
    },
    "a record's kind": lambda all: {**all, "config": replace(all["config"], kind=Kind.METRICS)},
    "a record less": lambda all: {name: each for name, each in all.items() if name != "metrics"},
    "an empty record more": lambda all: {**all, "more": Record(Kind.CONFIG, {})},
    "a setting": with_config("lr", 0.0),
    "a setting's name": with_config("Lr", 0.1),
    "a setting more": with_config("mu", 0.0),
    "the least bit of a float": with_config("lr", 0.1 + 2**-56),
    "a list's order": with_config("many", [2, 1]),
    "a list for its one value": with_config("epochs", [1]),
}


@pytest.mark.parametrize("change", CHANGES)
def test_any_change_gives_another_digest(change: str) -> None:
    assert records_digest(CHANGES[change](SHOWN)) != records_digest(SHOWN)


def test_values_that_compare_equal_or_look_alike_are_told_apart() -> None:
    # An application may ask for a type: `if config["on"] is True`.
    alike = [
        True,
        1,
        1.0,
        "1",
        b"1",
        "True",
        [1],
        [True],
        [1.0],
        ["1"],
        [b"1"],
        0.0,
        -0.0,
        False,
        0,
        "",
        b"",
        [],
    ]
    digests = {records_digest(with_config("lr", each)(SHOWN)) for each in alike}
    assert len(digests) == len(alike)


@pytest.mark.parametrize("buffer", [bytes, bytearray, memoryview])
def test_any_buffer_is_as_good_as_bytes(buffer: Any) -> None:
    assert records_digest(with_array(data=buffer(b"\0\0\0\0"))(SHOWN)) == records_digest(SHOWN)


def test_lengths_are_bound_so_that_nothing_moves_from_one_name_or_value_to_the_next() -> None:
    one = {"a": Record(Kind.CONFIG, {"b": "cd", "e": "f"})}
    for other in ({"b": "c", "de": "f"}, {"bcd": "", "e": "f"}, {"b": "cde", "": "f"}):
        assert records_digest({"a": Record(Kind.CONFIG, other)}) != records_digest(one)


def test_a_record_may_be_given_by_its_digest() -> None:
    rest = {name: each for name, each in SHOWN.items() if name != "arrays"}
    assert records_digest(rest, replaced={"arrays": array_digest(ARRAYS)}) == records_digest(SHOWN)
    assert records_digest(rest, replaced={"array": array_digest(ARRAYS)}) != records_digest(SHOWN)
    assert records_digest(rest, replaced={"arrays": bytes(32)}) != records_digest(SHOWN)


def test_a_record_is_given_once() -> None:
    with pytest.raises(ParameterError, match="the record 'arrays' is given, and given by its digest"):
        records_digest(SHOWN, replaced={"arrays": bytes(32)})


@pytest.mark.parametrize("value", [None, 1j, {"a": 1}, {1}, object()])
def test_what_has_no_encoding_is_refused(value: Any) -> None:
    with pytest.raises(
        ParameterError, match=rf"'config', 'lr' is of type {type(value).__name__}; a record holds"
    ):
        records_digest(with_config("lr", value)(SHOWN))


@pytest.mark.parametrize(
    "change",
    [
        with_array(shape=(-1,)),
        with_array(shape=(2**64,)),
        with_array(shape=(1,) * 300),
        with_array(shape=("1",)),
        with_array(data=None),
        with_array(data="text"),
        with_config("lr", 10**5000),
        with_config("lr", "\ud800"),
        with_config("\ud800", 1),
    ],
)
def test_values_out_of_every_range_are_refused_and_nothing_else_escapes(change: Any) -> None:
    # A server may send them: what escaped here would be said to it by the engine.
    with pytest.raises(ParameterError):
        records_digest(change(SHOWN))
