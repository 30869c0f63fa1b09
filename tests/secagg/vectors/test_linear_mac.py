"""The MAC on sums, against the same sums in plain Python integers, and everything it must bind."""

import itertools
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from hypothesis import given, settings
from hypothesis import strategies as st

from secagg.errors import ParameterError, VerificationError
from secagg.secret import Secret
from secagg.vectors.linear_mac import KEY_BYTES, PRIME, TAG_BYTES, MacKey, Tagging

RAW = bytes(range(32))
KEY = MacKey(Secret(RAW))
INT64 = st.integers(-(2**63), 2**63 - 1)


# The slow truth, from the paper's formula and the derivations that the module names. Only integers.


def derive(key: bytes, label: bytes, context: bytes, size: int) -> bytes:
    info = len(label).to_bytes(4, "big") + label + len(context).to_bytes(4, "big") + context
    return HKDF(hashes.SHA256(), size, salt=b"", info=info).derive(key)


def slow_form(values: list[int], context: bytes) -> int:
    """Σ ρ_j·x_j mod 2^127 - 1, with ρ_j the j-th 16 bytes of a keystream, little-endian."""
    key = derive(RAW, b"secagg/1/consortium mac linear form", context, 32)
    stream = Cipher(algorithms.AES(key), modes.CTR(bytes(16))).encryptor().update(bytes(16 * len(values)))
    rho = [int.from_bytes(stream[at : at + 16], "little") for at in range(0, len(stream), 16)]
    return sum(r * x for r, x in zip(rho, values, strict=True)) % (2**127 - 1)


def slow_pad(signer: bytes, context: bytes) -> int:
    label = b"secagg/1/consortium mac pad"
    wide = derive(derive(RAW, label, context, 32), label, signer, 24)
    return int.from_bytes(wide, "big") % (2**127 - 1)


def slow_tag(values: list[int], signer: bytes, context: bytes) -> int:
    return (slow_form(values, context) + slow_pad(signer, context)) % (2**127 - 1)


def vector(values: list[int]) -> Any:
    return np.array(values, dtype=np.int64)


def test_constants() -> None:
    assert PRIME == 2**127 - 1
    assert (KEY_BYTES, TAG_BYTES) == (32, 16)
    assert all(PRIME % small for small in (2, 3, 5, 7, 11, 13, 127))
    assert pow(3, PRIME - 1, PRIME) == 1


@given(
    values=st.lists(INT64, min_size=1, max_size=40),
    signer=st.binary(max_size=8),
    context=st.binary(max_size=8),
)
def test_tags_equal_the_slow_truth(values: list[int], signer: bytes, context: bytes) -> None:
    tag = KEY.tag(vector(values), signer=signer, context=context)
    assert tag == slow_tag(values, signer, context)
    assert 0 <= tag < PRIME


@pytest.mark.parametrize(
    "value",
    [
        0,
        1,
        -1,
        2**21 - 1,
        2**21,
        -(2**21),
        -(2**21) - 1,
        2**22 - 1,
        2**22,
        2**43 - 1,
        2**43,
        -(2**43) - 1,
        2**44,
        2**63 - 1,
        -(2**63),
    ],
)
@pytest.mark.parametrize("count", [1, 2, 2**14 - 1, 2**14, 2**14 + 1, 40_000])
def test_limbs_and_chunks(value: int, count: int) -> None:
    # Around the limbs of 22 bits and the chunks of 2^14 values; the largest dot products are reached.
    values = [value] * count
    assert KEY.tag(vector(values), signer=b"s", context=b"c") == slow_tag(values, b"s", b"c")


def test_chunks_of_different_width() -> None:
    values = [1] * 2**14 + [2**50] * 2**14 + [-(2**63)] * 3 + [0] * 2**14
    assert KEY.tag(vector(values), signer=b"s", context=b"c") == slow_tag(values, b"s", b"c")


def test_non_contiguous_vectors() -> None:
    values = np.arange(-50, 50, dtype=np.int64)
    assert KEY.tag(values[::-3], signer=b"s", context=b"c") == slow_tag(values[::-3].tolist(), b"s", b"c")


@settings(max_examples=50)
@given(rows=st.lists(st.lists(st.integers(-(2**40), 2**40), min_size=3, max_size=3), min_size=1, max_size=5))
def test_tags_of_vectors_add_up_to_a_tag_of_their_sum(rows: list[list[int]]) -> None:
    signers = [b"%d" % place for place in range(len(rows))]
    tags = [KEY.tag(vector(row), signer=name, context=b"r") for row, name in zip(rows, signers, strict=True)]
    total = vector([sum(column) for column in zip(*rows, strict=True)])
    KEY.verify(total, sum(tags) % PRIME, signers=signers, context=b"r")
    KEY.verify(total, sum(tags) % PRIME, signers=reversed(signers), context=b"r")
    changed = total.copy()
    changed[1] += 1
    with pytest.raises(VerificationError):
        KEY.verify(changed, sum(tags) % PRIME, signers=signers, context=b"r")


def signed() -> tuple[Any, int]:
    a, b = vector([1, -2, 3]), vector([10, 20, -30])
    tags = KEY.tag(a, signer=b"a", context=b"round 1") + KEY.tag(b, signer=b"b", context=b"round 1")
    return a + b, tags % PRIME


def test_everything_is_bound() -> None:
    total, tag = signed()
    KEY.verify(total, tag, signers=[b"a", b"b"], context=b"round 1")
    for place in range(3):
        for change in (1, -1, 2**40):
            changed = total.copy()
            changed[place] += change
            with pytest.raises(VerificationError):
                KEY.verify(changed, tag, signers=[b"a", b"b"], context=b"round 1")
    for signers in ([b"a"], [b"b"], [b"a", b"b", b"c"], [b"a", b"c"], [b"ab"], []):
        with pytest.raises(VerificationError):
            KEY.verify(total, tag, signers=signers, context=b"round 1")
    for context in (b"round 2", b"round 11", b"", b"Round 1"):
        with pytest.raises(VerificationError):
            KEY.verify(total, tag, signers=[b"a", b"b"], context=context)
    for other in (total[::-1].copy(), total[:2].copy(), vector([*total, 1]), vector([0, *total])):
        with pytest.raises(VerificationError):
            KEY.verify(other, tag, signers=[b"a", b"b"], context=b"round 1")
    with pytest.raises(VerificationError):
        MacKey(Secret(bytes(32))).verify(total, tag, signers=[b"a", b"b"], context=b"round 1")


def test_every_bit_of_a_tag_matters() -> None:
    total, tag = signed()
    for bit in range(127):
        with pytest.raises(VerificationError):
            KEY.verify(total, tag ^ (1 << bit), signers=[b"a", b"b"], context=b"round 1")


def test_a_signer_and_a_context_do_not_run_into_each_other() -> None:
    values = vector([0])  # the tag of zero is its pad
    tags = {
        KEY.tag(values, signer=signer, context=context)
        for signer, context in ((b"ab", b"c"), (b"a", b"bc"), (b"abc", b""), (b"", b"abc"))
    }
    assert len(tags) == 4


def test_a_pad_hides_the_form() -> None:
    # The difference of two signers' tags on one vector is that of their pads: nothing of the vector is left.
    for values in ([1, 2], [2**60, -5]):
        difference = KEY.tag(vector(values), signer=b"a", context=b"r") - KEY.tag(
            vector(values), signer=b"b", context=b"r"
        )
        assert difference % PRIME == (slow_pad(b"a", b"r") - slow_pad(b"b", b"r")) % PRIME


def test_a_zero_appended_is_not_seen() -> None:
    # A linear form says nothing of trailing zeros: the length belongs into the context, where callers put it.
    tag = KEY.tag(vector([5]), signer=b"a", context=b"r")
    KEY.verify(vector([5, 0]), tag, signers=[b"a"], context=b"r")


@pytest.mark.parametrize(
    "bad",
    [
        np.array([1], dtype=np.int32),
        np.array([1], dtype=np.uint64),
        np.array([1.0]),
        np.zeros((2, 2), dtype=np.int64),
        np.zeros(0, dtype=np.int64),
        [1, 2],
        None,
    ],
    ids=["int32", "uint64", "float", "2-D", "empty", "list", "None"],
)
def test_vectors_that_are_refused(bad: Any) -> None:
    with pytest.raises(ParameterError):
        KEY.tag(bad, signer=b"a", context=b"c")
    with pytest.raises(ParameterError):
        KEY.verify(bad, 0, signers=[b"a"], context=b"c")


@pytest.mark.parametrize(
    "key", [Secret(bytes(31)), Secret(bytes(33)), Secret(b""), bytes(32), None], ids=repr
)
def test_keys_that_are_refused(key: Any) -> None:
    with pytest.raises(ParameterError):
        MacKey(key)


def test_a_signer_counts_once() -> None:
    total, tag = signed()
    with pytest.raises(ParameterError, match="twice"):
        KEY.verify(total, tag, signers=[b"a", b"b", b"a"], context=b"round 1")


@pytest.mark.parametrize("name", ["signer", "context"])
def test_signers_and_contexts_are_bytes(name: str) -> None:
    arguments: dict[str, Any] = {"signer": b"a", "context": b"c", name: "text"}
    with pytest.raises(ParameterError):
        KEY.tag(vector([1]), **arguments)


@given(
    values=st.lists(INT64, min_size=1, max_size=60),
    cuts=st.sets(st.integers(0, 60), max_size=5),
    order=st.randoms(use_true_random=False),
)
@settings(max_examples=60)
def test_parts_in_any_order_make_the_tag_of_the_whole(values: list[int], cuts: set[int], order: Any) -> None:
    edges = sorted({0, len(values), *(cut for cut in cuts if cut < len(values))})
    parts = list(itertools.pairwise(edges))
    order.shuffle(parts)
    tagging = Tagging(KEY, context=b"round 1")
    for start, stop in parts:
        tagging.add(vector(values[start:stop]), start)
    assert tagging.tag(b"a") == KEY.tag(vector(values), signer=b"a", context=b"round 1")
    tagging.verify(tagging.tag(b"a"), signers=[b"a"])
    with pytest.raises(VerificationError):
        tagging.verify(tagging.tag(b"a") + 1, signers=[b"a"])


def test_a_part_counts_from_where_it_starts() -> None:
    moved = Tagging(KEY, context=b"round 1")
    moved.add(vector([1, 2, 3]), 1)
    assert moved.tag(b"a") != KEY.tag(vector([1, 2, 3]), signer=b"a", context=b"round 1")
    assert moved.tag(b"a") == KEY.tag(vector([0, 1, 2, 3]), signer=b"a", context=b"round 1")


@pytest.mark.parametrize("start", [-1, 1 << 63, 1.0, True, None])
def test_where_no_part_starts(start: Any) -> None:
    tagging = Tagging(KEY, context=b"c")
    with pytest.raises(ParameterError, match="starts at"):
        tagging.add(vector([1]), start)


def test_parts_of_many_chunks() -> None:
    # Around the chunk of 2^14 elements that one pass takes.
    values = np.arange(-50_000, 50_000, dtype=np.int64) * 77_777_777
    tagging = Tagging(KEY, context=b"c")
    for start in range(0, len(values), 33_333):
        tagging.add(values[start : start + 33_333], start)
    assert tagging.tag(b"a") == KEY.tag(values, signer=b"a", context=b"c")


def test_no_key_in_the_repr() -> None:
    assert RAW.hex() not in repr(KEY)
    assert repr(RAW) not in repr(KEY)


def test_tags_are_stable() -> None:
    # Pinned: a change of labels, of the derivation or of the order of bytes would part old and new clients.
    tag = KEY.tag(vector([1, -1, 2**40]), signer=b"wien", context=b"round 1")
    assert tag == 0xB5A74C7162B2EA6E2E48C8B23EC0D67
