"""Members and their bitmaps: a bit-by-bit twin, the one encoding of each set, and every wrong argument."""

import pickle
from dataclasses import FrozenInstanceError

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocols.masked.members import Members
from secagg.errors import DecodeError, ParameterError

NAMES = tuple(f"hospital {letter}" for letter in "kjihgfedcba")
MEMBERS = Members(NAMES)


def slow_bitmap(names: tuple[str, ...], subset: set[str]) -> bytes:
    bitmap = bytearray((len(names) + 7) // 8)
    for place, name in enumerate(names):
        if name in subset:
            bitmap[place // 8] |= 1 << (place % 8)
    return bytes(bitmap)


@given(count=st.integers(0, 70), data=st.data())
def test_a_subset_goes_there_and_back(count: int, data: st.DataObject) -> None:
    names = tuple(f"client {place}" for place in range(count))
    subset = data.draw(st.sets(st.sampled_from(names)) if names else st.just(set()))
    members = Members(names)
    bitmap = members.bitmap(subset)
    assert bitmap == slow_bitmap(names, subset)
    assert members.subset(bitmap) == tuple(name for name in names if name in subset)


@given(bitmap=st.binary(min_size=2, max_size=2))
def test_every_bitmap_is_the_encoding_of_one_set_or_refused(bitmap: bytes) -> None:
    if bitmap[1] >> 3:
        with pytest.raises(DecodeError, match="behind the last of 11 members"):
            MEMBERS.subset(bitmap)
    else:
        assert MEMBERS.bitmap(MEMBERS.subset(bitmap)) == bitmap


def test_pinned_bitmaps() -> None:
    assert MEMBERS.bitmap([]) == b"\x00\x00"
    assert MEMBERS.bitmap(NAMES) == b"\xff\x07"
    assert MEMBERS.bitmap({"hospital k", "hospital a"}) == b"\x01\x04"
    assert MEMBERS.subset(b"\x80\x01") == ("hospital d", "hospital c")


@pytest.mark.parametrize("kind", [list, tuple, set, frozenset, dict.fromkeys])
def test_any_collection_is_a_subset(kind: type) -> None:
    assert MEMBERS.bitmap(kind(reversed(NAMES[2:5]))) == b"\x1c\x00"
    assert MEMBERS.bitmap([NAMES[2], NAMES[2]]) == b"\x04\x00"


@pytest.mark.parametrize("convert", [bytes, bytearray, memoryview])
def test_any_buffer_is_a_bitmap(convert: type) -> None:
    assert MEMBERS.subset(convert(b"\x01\x04")) == ("hospital k", "hospital a")


@pytest.mark.parametrize("bitmap", [b"", b"\x00", bytes(3), bytes(100)])
def test_a_bitmap_of_a_wrong_size(bitmap: bytes) -> None:
    with pytest.raises(DecodeError):
        MEMBERS.subset(bitmap)


@pytest.mark.parametrize("bitmap", ["\x00\x00", None, 0, [0, 0], memoryview(bytes(4))[::2]])
def test_what_is_no_buffer(bitmap: object) -> None:
    with pytest.raises(DecodeError, match="not a contiguous buffer"):
        MEMBERS.subset(bitmap)  # type: ignore[arg-type]


@pytest.mark.parametrize("bit", range(3, 8))
def test_a_padding_bit(bit: int) -> None:
    with pytest.raises(DecodeError, match="must be zero"):
        MEMBERS.subset(bytes([0, 1 << bit]))


def test_index_and_membership() -> None:
    assert [MEMBERS.index(name) for name in NAMES] == list(range(len(NAMES))) == list(range(len(MEMBERS)))
    assert "hospital a" in MEMBERS
    assert "hospital z" not in MEMBERS
    assert None not in MEMBERS


def test_a_stranger_has_no_index_and_is_in_no_set() -> None:
    with pytest.raises(ParameterError, match="not a member") as caught:
        MEMBERS.index("hospital z")
    assert not isinstance(caught.value, LookupError)
    with pytest.raises(ParameterError, match="not a member"):
        MEMBERS.bitmap({"hospital a", "hospital z"})


def test_the_order_is_given_and_each_name_is_there_once() -> None:
    assert Members(("b", "a")) != Members(("a", "b"))
    with pytest.raises(ParameterError, match="twice"):
        Members(("a", "b", "a"))


@pytest.mark.parametrize("names", [["a", "b"], "ab", None, {"a": 1}])
def test_names_are_a_tuple(names: object) -> None:
    with pytest.raises(ParameterError, match="a tuple is needed"):
        Members(names)  # type: ignore[arg-type]


def test_members_are_frozen_values() -> None:
    with pytest.raises(FrozenInstanceError):
        MEMBERS.names = ()  # type: ignore[misc]
    assert not hasattr(MEMBERS, "__dict__")
    assert Members(NAMES) == MEMBERS
    assert hash(Members(NAMES)) == hash(MEMBERS)
    assert repr(Members(("a",))) == "Members(names=('a',))"
    assert pickle.loads(pickle.dumps(MEMBERS)).bitmap(NAMES) == b"\xff\x07"


def test_a_hundred_thousand_members() -> None:
    names = tuple(f"client {place:06}" for place in range(100_000))
    members = Members(names)
    subset = names[::3]
    bitmap = members.bitmap(subset)
    assert len(bitmap) == 12_500
    assert members.subset(bitmap) == subset
