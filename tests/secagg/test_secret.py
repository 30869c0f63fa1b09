"""A Secret shows, copies and pickles nothing, and compares by content."""

import copy
import hmac
import pickle
import traceback
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from secagg.errors import ParameterError
from secagg.secret import Secret

CONTENT = b"the bytes that must not spill"


@given(st.binary())
def test_reveal_gives_the_bytes_back(data: bytes) -> None:
    assert Secret(data).reveal() == data
    assert len(Secret(data)) == len(data)


@given(st.binary(max_size=4), st.binary(max_size=4))
def test_equality_is_that_of_the_bytes(left: bytes, right: bytes) -> None:
    assert (Secret(left) == Secret(right)) == (left == right)
    assert (Secret(left) != Secret(right)) == (left != right)


def test_comparison_is_the_constant_time_one(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def compare(left: bytes, right: bytes) -> bool:
        calls.append((left, right))
        return True

    monkeypatch.setattr(hmac, "compare_digest", compare)
    assert Secret(b"a") == Secret(b"b")
    assert calls == [(b"a", b"b")]


@pytest.mark.parametrize("other", [CONTENT, CONTENT.decode(), None, 7])
def test_a_secret_equals_nothing_but_a_secret(other: object) -> None:
    assert Secret(CONTENT) != other
    assert (Secret(CONTENT) == other) is False


@pytest.mark.parametrize("data", ["text", bytearray(b"b"), memoryview(b"m"), None, 7, [1, 2], Secret(b"s")])
def test_wrong_type(data: object) -> None:
    with pytest.raises(ParameterError, match=f"not {type(data).__name__}"):
        Secret(data)  # type: ignore[arg-type]


def test_a_subclass_of_bytes_is_refused() -> None:
    class Chatty(bytes):
        pass

    with pytest.raises(ParameterError, match="not Chatty"):
        Secret(Chatty(b"data"))


def test_nothing_printable_shows_the_content() -> None:
    secret = Secret(CONTENT)
    try:
        raise ValueError(secret)
    except ValueError as error:
        report = "".join(traceback.format_exception(error))
    shown = [repr(secret), str(secret), f"{secret}", f"{secret!r}", "%s" % secret, repr([secret]), report]  # noqa: UP031
    for text in shown:
        assert "Secret(29 bytes)" in text
        assert "spill" not in text
        assert CONTENT.hex() not in text


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_pickling_is_refused_at_every_depth(protocol: int) -> None:
    for holder in (Secret(CONTENT), [Secret(CONTENT)], {"key": Secret(CONTENT)}, Holder(key=Secret(CONTENT))):
        with pytest.raises(TypeError, match="not pickled"):
            pickle.dumps(holder, protocol)


@dataclass(frozen=True, slots=True, kw_only=True)
class Holder:
    key: Secret


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy])
def test_copying_is_refused(duplicate: object) -> None:
    with pytest.raises(TypeError, match="not pickled or copied"):
        duplicate(Secret(CONTENT))  # type: ignore[operator]


def test_a_secret_is_no_key_of_a_hash_table() -> None:
    with pytest.raises(TypeError, match="unhashable"):
        hash(Secret(CONTENT))
    with pytest.raises(TypeError, match="unhashable"):
        {Secret(CONTENT): 1}


def test_a_secret_is_immutable() -> None:
    secret = Secret(CONTENT)
    with pytest.raises(AttributeError, match="immutable"):
        secret._data = b"other"
    with pytest.raises(AttributeError, match="immutable"):
        secret.note = "x"
    with pytest.raises(AttributeError, match="immutable"):
        del secret._data
    assert secret.reveal() == CONTENT
    assert not hasattr(secret, "__dict__")


@pytest.mark.parametrize("convert", [bytes, list, iter, memoryview])
def test_only_reveal_gives_the_content(convert: object) -> None:
    with pytest.raises(TypeError):
        convert(Secret(CONTENT))  # type: ignore[operator]
