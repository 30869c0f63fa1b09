"""X25519: the vectors of RFC 7748, low-order points, a key echoed back, and every wrong argument."""

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from hypothesis import given
from hypothesis import strategies as st

from secagg.entropy import SeededEntropy
from secagg.errors import ParameterError, VerificationError
from secagg.secret import Secret
from secagg.standard.agreement import PUBLIC_KEY_BYTES, agree, generate, public_key

FIELD = 2**255 - 19
TOP_BIT = 1 << 255

# RFC 7748, section 5.2: (scalar, u-coordinate, result). The second coordinate has its top bit set.
RFC_7748_SECTION_5_2 = [
    (
        "a546e36bf0527c9d3b16154b82465edd62144c0ac1fc5a18506a2244ba449ac4",
        "e6db6867583030db3594c1a424b15f7c726624ec26b3353b10a903a6d0ab1c4c",
        "c3da55379de9c6908e94ea4df28d084f32eccf03491c71f754b4075577a28552",
    ),
    (
        "4b66e9d4d1b4673c5ad22691957d6af5c11b6421e0ea01d42ca4169e7918ba0d",
        "e5210f12786811d3f4b7959d0538ae2c31dbe7106fc03c3efc4cd549c715a493",
        "95cbde9476e8907d7aade45cb4b873f88b595a68799fa152e6f8f7647aac7957",
    ),
]

# Bernstein, "Curve25519: new Diffie-Hellman speed records", and cr.yp.to/ecdh.html: the u-coordinates of
# order 1, 2, 4 and 8 on the curve and its twist, in every encoding below 2^255.
ORDER_EIGHT = (
    325606250916557431795983626356110631294008115727848805560023387167927233504,
    39382357235489614581723060781553021112529911719440698176882885853963445705823,
)
LOW_ORDER = [0, 1, *ORDER_EIGHT, FIELD - 1, FIELD, FIELD + 1]


def secret(text: str) -> Secret:
    return Secret(bytes.fromhex(text))


@pytest.mark.parametrize(("scalar", "coordinate", "result"), RFC_7748_SECTION_5_2)
def test_rfc_7748_section_5_2(scalar: str, coordinate: str, result: str) -> None:
    assert agree(secret(scalar), bytes.fromhex(coordinate)) == secret(result)


def test_rfc_7748_section_5_2_iterated() -> None:
    scalar = coordinate = (9).to_bytes(32, "little")
    for iteration in range(1, 1001):
        scalar, coordinate = agree(Secret(scalar), coordinate).reveal(), scalar
        if iteration == 1:
            assert scalar.hex() == "422c8e7a6227d7bca1350b3e2bb7279f7897b87bb6854b783c60e80311ae3079"
    assert scalar.hex() == "684cf59ba83309552800ef566f2f4d3c1c3887c49360e3875f2eb94d99532c51"


def test_rfc_7748_section_6_1() -> None:
    alice = secret("77076d0a7318a57d3c16c17251b26645df4c2f87ebc0992ab177fba51db92c2a")
    bob = secret("5dab087e624a8a4b79e17f8b83800ee66f3bb1292618b6fd1c2f8b27ff88e0eb")
    shared = secret("4a5d9d5ba4ce2de1728e3bf480350f25e07e21c947d19e3376f09b3c1e161742")
    assert public_key(alice).hex() == "8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a"
    assert public_key(bob).hex() == "de9edb7d7b7dc1b4d35b61c2ece435373f8343c85b78674dadfc7e146f882b4f"
    assert agree(alice, public_key(bob)) == shared
    assert agree(bob, public_key(alice)) == shared


@given(ours=st.binary(min_size=32, max_size=32), theirs=st.binary(min_size=32, max_size=32))
def test_both_sides_agree(ours: bytes, theirs: bytes) -> None:
    a, b = Secret(ours), Secret(theirs)
    if public_key(a) == public_key(b):
        with pytest.raises(VerificationError):
            agree(a, public_key(b))
    else:
        assert agree(a, public_key(b)) == agree(b, public_key(a))


def test_generate_takes_32_bytes_of_the_entropy_it_is_given() -> None:
    assert generate(SeededEntropy(b"a")).reveal() == SeededEntropy(b"a")(32)
    assert generate() != generate()
    with pytest.raises(ParameterError, match="asked for 32 bytes"):
        generate(lambda size: bytes(size - 1))


@pytest.mark.parametrize("top_bit", [0, TOP_BIT])
@pytest.mark.parametrize("coordinate", LOW_ORDER)
def test_b5_low_order_points_are_refused(coordinate: int, top_bit: int) -> None:
    for _ in range(3):
        with pytest.raises(VerificationError, match="low order"):
            agree(generate(), (coordinate | top_bit).to_bytes(32, "little"))


@pytest.mark.parametrize("coordinate", [2, 9, FIELD + 9, FIELD - 2, ORDER_EIGHT[0] + 1])
def test_other_points_are_not_refused(coordinate: int) -> None:
    assert agree(generate(), coordinate.to_bytes(32, "little")) != Secret(bytes(32))


def test_b5_own_key_echoed_is_refused_in_every_encoding() -> None:
    ours = generate()
    own = int.from_bytes(public_key(ours), "little")
    for encoding in (own, own | TOP_BIT):
        echoed = encoding.to_bytes(32, "little")
        # Without the check a party would hold a secret with itself, and a relay could play both ends.
        unchecked = X25519PrivateKey.from_private_bytes(ours.reveal())
        assert any(unchecked.exchange(X25519PublicKey.from_public_bytes(echoed)))
        with pytest.raises(VerificationError, match="our own"):
            agree(ours, echoed)


def test_tampered_public_key_gives_another_secret() -> None:
    ours, theirs = generate(SeededEntropy(b"ours")), generate(SeededEntropy(b"theirs"))
    expected = agree(ours, public_key(theirs))
    for bit in range(255):
        tampered = (int.from_bytes(public_key(theirs), "little") ^ (1 << bit)).to_bytes(32, "little")
        assert agree(ours, tampered) != expected


@pytest.mark.parametrize(
    "private", [bytes(32), bytearray(32), "a" * 32, None, Secret(bytes(31)), Secret(bytes(33))]
)
def test_wrong_private_key(private: object) -> None:
    with pytest.raises(ParameterError, match="Secret of 32 bytes"):
        public_key(private)  # type: ignore[arg-type]
    with pytest.raises(ParameterError, match="Secret of 32 bytes"):
        agree(private, public_key(generate()))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "public", [b"", b"9" * 31, b"9" * 33, bytearray(b"9" * 32), "9" * 32, None, Secret(b"9" * 32)]
)
def test_wrong_public_key(public: object) -> None:
    with pytest.raises(ParameterError, match=f"{PUBLIC_KEY_BYTES} bytes of type bytes"):
        agree(generate(), public)  # type: ignore[arg-type]


def test_a_raw_key_given_by_mistake_stays_out_of_the_error() -> None:
    with pytest.raises(ParameterError) as caught:
        public_key(b"a very secret key of 32 bytes...")  # type: ignore[arg-type]
    assert "very secret" not in str(caught.value)
