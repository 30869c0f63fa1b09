"""Ed25519: the vectors of RFC 8032, labels, keys of small order, and every wrong argument."""

import copy
import hashlib
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from secagg.entropy import SeededEntropy
from secagg.errors import ParameterError, VerificationError
from secagg.secret import Secret
from secagg.standard import signing
from secagg.standard.signing import PUBLIC_KEY_BYTES, SIGNATURE_BYTES, SigningKey, verify

KEY = SigningKey.generate(SeededEntropy(b"signer"))
OTHER = SigningKey.generate(SeededEntropy(b"another signer"))
LABEL = b"a label"
FIELD = 2**255 - 19
GROUP_ORDER = 2**252 + 27742317777372353535851937790883648493

# RFC 8032, section 7.1, tests 1, 2, 3 and SHA(abc): (secret, public key, message, signature).
RFC_8032 = [
    (
        "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60",
        "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
        b"",
        "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555"
        "fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b",
    ),
    (
        "4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb",
        "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
        b"\x72",
        "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da"
        "085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00",
    ),
    (
        "c5aa8df43f9f837bedb7442f31dcb7b166d38535076f094b85ce3a2e0b4458f7",
        "fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025",
        b"\xaf\x82",
        "6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac"
        "18ff9b538d16f290ae67f760984dc6594a7c15e9716ed28dc027beceea1ec40a",
    ),
    (
        "833fe62409237b9d62ec77587520911e9a759cec1d19755b7da901b96dca3d42",
        "ec172b93ad5e563bf4932c70e1245034c35467ef2efd4d64ebf819683467e2bf",
        hashlib.sha512(b"abc").digest(),
        "dc2a4459e7369633a52b1bf277839a00201009a3efbf3ecb69bea2186c26b589"
        "09351fc9ac90b3ecfdfbc7c66431e0303dca179c138ac17ad9bef1177331a704",
    ),
]


@pytest.mark.parametrize(("secret", "public_key", "message", "signature"), RFC_8032)
def test_rfc_8032(secret: str, public_key: str, message: bytes, signature: str) -> None:
    key = SigningKey.from_secret(Secret(bytes.fromhex(secret)))
    assert key.public_key.hex() == public_key
    assert key._sign_raw(message).hex() == signature
    signing._verify_raw(key.public_key, bytes.fromhex(signature), message)
    with pytest.raises(VerificationError):
        signing._verify_raw(key.public_key, bytes.fromhex(signature), message + b"\x00")


@given(secret=st.binary(min_size=32, max_size=32), message=st.binary(), label=st.binary(min_size=1))
def test_round_trip(secret: bytes, message: bytes, label: bytes) -> None:
    key = SigningKey.from_secret(Secret(secret))
    signature = key.sign(message, label=label)
    assert len(signature) == SIGNATURE_BYTES
    assert signature == key.sign(message, label=label)
    verify(key.public_key, signature, message, label=label)
    statement = len(label).to_bytes(4, "big") + label + len(message).to_bytes(4, "big") + message
    signing._verify_raw(key.public_key, signature, statement)


@given(data=st.binary(min_size=2, max_size=40), cuts=st.tuples(st.integers(1, 40), st.integers(1, 40)))
def test_label_and_message_never_run_into_each_other(data: bytes, cuts: tuple[int, int]) -> None:
    first, second = (min(cut, len(data)) for cut in cuts)
    signature = KEY.sign(data[first:], label=data[:first])
    if first == second:
        verify(KEY.public_key, signature, data[second:], label=data[:second])
    else:
        with pytest.raises(VerificationError):
            verify(KEY.public_key, signature, data[second:], label=data[:second])


def test_secret_makes_the_same_key_again() -> None:
    again = SigningKey.from_secret(KEY.secret)
    assert again.public_key == KEY.public_key
    assert again.sign(b"m", label=LABEL) == KEY.sign(b"m", label=LABEL)


def test_generate_takes_32_bytes_of_the_entropy_it_is_given() -> None:
    assert KEY.secret.reveal() == SeededEntropy(b"signer")(32)
    assert SigningKey.generate().public_key != SigningKey.generate().public_key
    with pytest.raises(ParameterError, match="asked for 32 bytes"):
        SigningKey.generate(lambda size: bytes(size - 1))


def test_every_flipped_bit_is_noticed() -> None:
    signature = KEY.sign(b"message", label=LABEL)
    for bit in range(8 * SIGNATURE_BYTES):
        tampered = bytearray(signature)
        tampered[bit // 8] ^= 1 << (bit % 8)
        with pytest.raises(VerificationError, match="does not verify"):
            verify(KEY.public_key, bytes(tampered), b"message", label=LABEL)
    for bit in range(8 * PUBLIC_KEY_BYTES):
        tampered = bytearray(KEY.public_key)
        tampered[bit // 8] ^= 1 << (bit % 8)
        with pytest.raises(VerificationError, match="does not verify"):
            verify(bytes(tampered), signature, b"message", label=LABEL)


def test_another_key_message_or_label_does_not_verify() -> None:
    signature = KEY.sign(b"message", label=LABEL)
    for public_key, message, label in (
        (OTHER.public_key, b"message", LABEL),
        (KEY.public_key, b"message!", LABEL),
        (KEY.public_key, b"", LABEL),
        (KEY.public_key, b"message", b"another label"),
    ):
        with pytest.raises(VerificationError, match="does not verify"):
            verify(public_key, signature, message, label=label)


def test_a_second_signature_cannot_be_made_from_one() -> None:
    """S and S + group order are the same scalar; RFC 8032 accepts only the smaller."""
    signature = KEY.sign(b"message", label=LABEL)
    scalar = int.from_bytes(signature[32:], "little") + GROUP_ORDER
    with pytest.raises(VerificationError, match="does not verify"):
        verify(KEY.public_key, signature[:32] + scalar.to_bytes(32, "little"), b"message", label=LABEL)


@pytest.mark.parametrize("size", [0, 1, 32, 63, 65, 128])
def test_signature_of_another_length(size: int) -> None:
    with pytest.raises(VerificationError, match="64 bytes"):
        verify(KEY.public_key, (KEY.sign(b"m", label=LABEL) * 2)[:size], b"m", label=LABEL)


@given(public_key=st.binary(min_size=32, max_size=32), signature=st.binary(max_size=80))
def test_arbitrary_bytes_do_not_verify(public_key: bytes, signature: bytes) -> None:
    with pytest.raises(VerificationError):
        verify(public_key, signature, b"message", label=LABEL)


# Keys of small order.


def edwards_add(left: tuple[int, int], right: tuple[int, int]) -> tuple[int, int]:
    """The addition law of -x² + y² = 1 + d·x²y² (RFC 8032, section 5.1), affine and slow."""
    d = -121665 * pow(121666, -1, FIELD) % FIELD
    (x1, y1), (x2, y2) = left, right
    product = d * x1 * x2 * y1 * y2
    x = (x1 * y2 + x2 * y1) * pow(1 + product, -1, FIELD)
    y = (y1 * y2 + x1 * x2) * pow(1 - product, -1, FIELD)
    return x % FIELD, y % FIELD


def edwards_point(y: int) -> tuple[int, int] | None:
    """A point with this y, if the curve has one (RFC 8032, section 5.1.3)."""
    d = -121665 * pow(121666, -1, FIELD) % FIELD
    square = (y * y - 1) * pow(d * y * y + 1, -1, FIELD) % FIELD
    root = pow(square, (FIELD + 3) // 8, FIELD)
    if root * root % FIELD != square:
        root = root * pow(2, (FIELD - 1) // 4, FIELD) % FIELD
    return (root, y) if root * root % FIELD == square else None


def test_the_list_of_small_order_is_complete() -> None:
    """The group order times any point is a point of small order, and a few points reach all eight."""
    found = set()
    for y in range(2, 60):
        point = edwards_point(y)
        if point is None:
            continue
        result = (0, 1)
        for bit in f"{GROUP_ORDER:b}":
            result = edwards_add(result, result)
            if bit == "1":
                result = edwards_add(result, point)
        found |= {result, (-result[0] % FIELD, result[1])}
    assert len(found) == 8
    assert {y for _, y in found} == signing._SMALL_ORDER


@pytest.mark.parametrize("sign", [0, 1])
@pytest.mark.parametrize("y", [*sorted(signing._SMALL_ORDER), FIELD, FIELD + 1])
def test_public_keys_of_small_order_are_refused(y: int, sign: int) -> None:
    weak = (y | sign << 255).to_bytes(32, "little")
    with pytest.raises(VerificationError, match="small order"):
        verify(weak, bytes(64), b"message", label=LABEL)


def test_one_signature_for_every_message_works_on_the_raw_check_and_fails_on_ours() -> None:
    neutral = (1).to_bytes(32, "little")
    forgery = neutral + bytes(32)
    for message in (b"", b"yes", b"no"):
        signing._verify_raw(neutral, forgery, message)
        with pytest.raises(VerificationError, match="small order"):
            verify(neutral, forgery, message, label=LABEL)


# Misuse.


@pytest.mark.parametrize(
    "secret", [bytes(32), "s" * 32, None, Secret(b""), Secret(bytes(31)), Secret(bytes(33))]
)
def test_wrong_secret(secret: object) -> None:
    with pytest.raises(ParameterError, match="Secret of 32 bytes"):
        SigningKey.from_secret(secret)  # type: ignore[arg-type]


@pytest.mark.parametrize("public_key", [b"", bytes(31), bytes(33), bytearray(32), "p" * 32, None, KEY])
def test_wrong_public_key(public_key: object) -> None:
    with pytest.raises(ParameterError, match="32 bytes of type bytes"):
        verify(public_key, bytes(64), b"m", label=LABEL)  # type: ignore[arg-type]


@pytest.mark.parametrize("value", ["text", bytearray(64), memoryview(bytes(64)), None, 7, Secret(bytes(64))])
def test_wrong_type(value: object) -> None:
    with pytest.raises(ParameterError, match="message is of type"):
        KEY.sign(value, label=LABEL)  # type: ignore[arg-type]
    with pytest.raises(ParameterError, match="label is of type"):
        KEY.sign(b"m", label=value)  # type: ignore[arg-type]
    with pytest.raises(ParameterError, match="signature is of type"):
        verify(KEY.public_key, value, b"m", label=LABEL)  # type: ignore[arg-type]
    with pytest.raises(ParameterError, match="message is of type"):
        verify(KEY.public_key, bytes(64), value, label=LABEL)  # type: ignore[arg-type]
    with pytest.raises(ParameterError, match="label is of type"):
        verify(KEY.public_key, bytes(64), b"m", label=value)  # type: ignore[arg-type]


def test_empty_label() -> None:
    with pytest.raises(ParameterError, match="label is empty"):
        KEY.sign(b"m", label=b"")
    with pytest.raises(ParameterError, match="label is empty"):
        verify(KEY.public_key, bytes(64), b"m", label=b"")


def test_the_private_key_is_hard_to_spill() -> None:
    secret = KEY.secret.reveal()
    for shown in (repr(KEY), str(KEY), f"{KEY}"):
        assert shown == f"SigningKey(public_key={KEY.public_key.hex()})"
        assert secret.hex() not in shown
    for spill in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError, match="not pickled or copied"):
            spill(KEY)
    assert not hasattr(KEY, "__dict__")
    with pytest.raises(AttributeError):
        KEY.public_key = bytes(32)  # type: ignore[misc]
