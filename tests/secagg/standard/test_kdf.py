"""HKDF and scrypt: the vectors of RFC 5869 and 7914, domain separation, and every wrong argument."""

import hashlib
import hmac

import pytest
from hypothesis import given
from hypothesis import strategies as st

from secagg.errors import ParameterError
from secagg.secret import Secret
from secagg.standard import kdf
from secagg.standard.kdf import MAXIMUM_BYTES, STRETCHED_BYTES, hkdf, stretch

KEY = Secret(bytes(range(32)))

# RFC 5869, appendix A.1 to A.3: (key, salt, info, output).
RFC_5869 = [
    (
        b"\x0b" * 22,
        bytes(range(0x0D)),
        bytes(range(0xF0, 0xFA)),
        "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf34007208d5b887185865",
    ),
    (
        bytes(range(0x00, 0x50)),
        bytes(range(0x60, 0xB0)),
        bytes(range(0xB0, 0x100)),
        "b11e398dc80327a1c8e7f78c596a49344f012eda2d4efad8a050cc4c19afa97c"
        "59045a99cac7827271cb41c65e590e09da3275600c2f09b8367793a9aca3db71"
        "cc30c58179ec3e87c14c01d5c1f3434f1d87",
    ),
    (
        b"\x0b" * 22,
        b"",
        b"",
        "8da4e775a563c18f715f802a063c5a31b8a11f5c5ee1879ec3454e5f3c738d2d9d201395faa4b61a96c8",
    ),
]


def slow_hkdf(key: bytes, *, salt: bytes, info: bytes, size: int) -> bytes:
    """RFC 5869, sections 2.2 and 2.3, from the standard library's HMAC."""
    extracted = hmac.digest(salt or bytes(32), key, hashlib.sha256)
    block, output = b"", b""
    for counter in range(1, -(-size // 32) + 1):
        block = hmac.digest(extracted, block + info + bytes([counter]), hashlib.sha256)
        output += block
    return output[:size]


@pytest.mark.parametrize(("key", "salt", "info", "expected"), RFC_5869)
def test_rfc_5869(key: bytes, salt: bytes, info: bytes, expected: str) -> None:
    size = len(expected) // 2
    assert kdf._derive(Secret(key), salt=salt, info=info, size=size).reveal().hex() == expected
    assert slow_hkdf(key, salt=salt, info=info, size=size).hex() == expected


@given(
    key=st.binary(min_size=1, max_size=100),
    label=st.binary(min_size=1, max_size=40),
    context=st.binary(max_size=40),
    salt=st.binary(max_size=100),
    size=st.integers(1, 100) | st.just(MAXIMUM_BYTES),
)
def test_info_is_the_length_prefixed_label_and_context(
    key: bytes, label: bytes, context: bytes, salt: bytes, size: int
) -> None:
    info = len(label).to_bytes(4, "big") + label + len(context).to_bytes(4, "big") + context
    derived = hkdf(Secret(key), label=label, context=context, salt=salt, size=size)
    assert derived.reveal() == slow_hkdf(key, salt=salt, info=info, size=size)


@given(data=st.binary(min_size=2, max_size=40), cuts=st.tuples(st.integers(1, 40), st.integers(1, 40)))
def test_label_and_context_never_run_into_each_other(data: bytes, cuts: tuple[int, int]) -> None:
    first, second = (min(cut, len(data)) for cut in cuts)
    same = hkdf(KEY, label=data[:first], context=data[first:]) == hkdf(
        KEY, label=data[:second], context=data[second:]
    )
    assert same == (first == second)


def test_every_argument_changes_the_key() -> None:
    derived = [
        hkdf(KEY, label=b"label"),
        hkdf(KEY, label=b"Label"),
        hkdf(KEY, label=b"label", context=b"\x00"),
        hkdf(KEY, label=b"label", salt=b"salt"),
        hkdf(Secret(bytes(32)), label=b"label"),
    ]
    assert len({secret.reveal() for secret in derived}) == len(derived)


def test_a_shorter_key_is_a_prefix_of_a_longer_one() -> None:
    """RFC 5869 does not bind the size: who needs keys of two sizes gives them two labels."""
    assert hkdf(KEY, label=b"l", size=64).reveal()[:16] == hkdf(KEY, label=b"l", size=16).reveal()


@pytest.mark.parametrize("key", [bytes(32), bytearray(32), "key", None, 7, Secret(b"")])
def test_wrong_key(key: object) -> None:
    with pytest.raises(ParameterError, match="Secret of at least one byte"):
        hkdf(key, label=b"label")  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["label", "context", "salt"])
@pytest.mark.parametrize("value", ["text", bytearray(b"b"), memoryview(b"m"), None, 7, KEY])
def test_wrong_type(name: str, value: object) -> None:
    arguments: dict[str, object] = {"label": b"label"} | {name: value}
    with pytest.raises(ParameterError, match=f"{name} is of type"):
        hkdf(KEY, **arguments)  # type: ignore[arg-type]


def test_empty_label() -> None:
    with pytest.raises(ParameterError, match="label is empty"):
        hkdf(KEY, label=b"")


@pytest.mark.parametrize("size", [0, -1, MAXIMUM_BYTES + 1, True, 32.0, "32", None])
def test_wrong_size(size: object) -> None:
    with pytest.raises(ParameterError, match="size is"):
        hkdf(KEY, label=b"label", size=size)  # type: ignore[arg-type]


def test_a_raw_key_given_by_mistake_stays_out_of_the_error() -> None:
    with pytest.raises(ParameterError) as caught:
        hkdf(b"a very secret key", label=b"label")  # type: ignore[arg-type]
    assert "very secret" not in str(caught.value)


# RFC 7914, section 12: (password, salt, N, r, p, output). The fourth vector needs a gibibyte and is left out.
RFC_7914 = [
    (
        b"",
        b"",
        (16, 1, 1),
        "77d6576238657b203b19ca42c18a0497f16b4844e3074ae8dfdffa3fede21442"
        "fcd0069ded0948f8326a753a0fc81f17e8d3e0fb2e0d3628cf35e20c38d18906",
    ),
    (
        b"password",
        b"NaCl",
        (1024, 8, 16),
        "fdbabe1c9d3472007856e7190d01e9fe7c6ad7cbc8237830e77376634b373162"
        "2eaf30d92e22a3886ff109279d9830dac727afb94a83ee6d8360cbdfa2cc0640",
    ),
    (
        b"pleaseletmein",
        b"SodiumChloride",
        (16384, 8, 1),
        "7023bdcb3afd7348461c06cd81fd38ebfda8fbba904f8e3ea9b543f6545da1f2"
        "d5432955613f0fcf62d49705242a9af9e61e85dc0d651e40dfcf017b45575887",
    ),
]


@pytest.mark.parametrize(("password", "salt", "cost", "expected"), RFC_7914)
def test_rfc_7914(password: bytes, salt: bytes, cost: tuple[int, int, int], expected: str) -> None:
    n, r, p = cost
    assert kdf._scrypt(password, salt=salt, n=n, r=r, p=p, size=64).hex() == expected


def test_stretch_is_scrypt_at_its_full_cost_with_the_label_as_salt() -> None:
    """The third vector of RFC 7914 has our cost; a shorter output of PBKDF2 is a prefix of a longer one."""
    stretched = stretch(b"pleaseletmein", label=b"SodiumChloride")
    assert stretched.hex() == RFC_7914[2][3][: 2 * STRETCHED_BYTES]
    expected = hashlib.scrypt(b"input", salt=b"label", n=2**14, r=8, p=1, dklen=STRETCHED_BYTES)
    assert stretch(b"input", label=b"label") == expected


def test_stretch_depends_on_input_and_label_also_when_cached() -> None:
    pairs = [(b"a", b"bc"), (b"ab", b"c"), (b"", b"abc"), (b"bc", b"a")]
    first = [stretch(data, label=label) for data, label in pairs]
    assert len(set(first)) == len(pairs)
    hits = kdf._stretch.cache_info().hits
    assert [stretch(data, label=label) for data, label in pairs] == first
    assert kdf._stretch.cache_info().hits == hits + len(pairs)
    kdf._stretch.cache_clear()
    assert stretch(b"a", label=b"bc") == first[0]


@pytest.mark.parametrize("value", ["text", bytearray(b"b"), memoryview(b"m"), None, 7, KEY])
def test_stretch_wrong_type(value: object) -> None:
    with pytest.raises(ParameterError, match="secretless is of type"):
        stretch(value, label=b"label")  # type: ignore[arg-type]
    with pytest.raises(ParameterError, match="label is of type"):
        stretch(b"input", label=value)  # type: ignore[arg-type]


def test_stretch_empty_label() -> None:
    with pytest.raises(ParameterError, match="label is empty"):
        stretch(b"input", label=b"")
