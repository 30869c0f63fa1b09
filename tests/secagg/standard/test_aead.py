"""ChaCha20-Poly1305: the vectors of RFC 8439, tampering bit by bit, and every wrong argument."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from secagg.entropy import SeededEntropy
from secagg.errors import ParameterError, VerificationError
from secagg.secret import Secret
from secagg.standard import aead
from secagg.standard.aead import KEY_BYTES, NONCE_BYTES, OVERHEAD, open_sealed, seal

KEY = Secret(bytes(range(0x80, 0xA0)))
CONTEXT = b"round 7"

# RFC 8439, section 2.8.2 (encryption) and appendix A.5 (decryption):
# (key, nonce, associated data, plaintext, ciphertext, tag).
RFC_8439 = [
    (
        bytes(range(0x80, 0xA0)).hex(),
        "070000004041424344454647",
        "50515253c0c1c2c3c4c5c6c7",
        b"Ladies and Gentlemen of the class of '99: If I could offer you only one tip for the future, "
        b"sunscreen would be it.",
        "d31a8d34648e60db7b86afbc53ef7ec2a4aded51296e08fea9e2b5a736ee62d6"
        "3dbea45e8ca9671282fafb69da92728b1a71de0a9e060b2905d6a5b67ecd3b36"
        "92ddbd7f2d778b8c9803aee328091b58fab324e4fad675945585808b4831d7bc"
        "3ff4def08e4b7a9de576d26586cec64b6116",
        "1ae10b594f09e26a7e902ecbd0600691",
    ),
    (
        "1c9240a5eb55d38af333888604f6b5f0473917c1402b80099dca5cbc207075c0",
        "000000000102030405060708",
        "f33388860000000000004e91",
        "Internet-Drafts are draft documents valid for a maximum of six months and may be updated, "
        "replaced, or obsoleted by other documents at any time. It is inappropriate to use Internet-Drafts "
        "as reference material or to cite them other than as /“work in progress./”".encode(),
        "64a0861575861af460f062c79be643bd5e805cfd345cf389f108670ac76c8cb2"
        "4c6cfc18755d43eea09ee94e382d26b0bdb7b73c321b0100d4f03b7f355894cf"
        "332f830e710b97ce98c8a84abd0b948114ad176e008d33bd60f982b1ff37c855"
        "9797a06ef4f0ef61c186324e2b3506383606907b6a7c02b0f9f6157b53c867e4"
        "b9166c767b804d46a59b5216cde7a4e99040c5a40433225ee282a1b0a06c523e"
        "af4534d7f83fa1155b0047718cbc546a0d072b04b3564eea1b422273f548271a"
        "0bb2316053fa76991955ebd63159434ecebb4e466dae5a1073a6727627097a10"
        "49e617d91d361094fa68f0ff77987130305beaba2eda04df997b714d6c6f2c29"
        "a6ad5cb4022b02709b",
        "eead9d67890cbb22392336fea1851f38",
    ),
]


@pytest.mark.parametrize(("key", "nonce", "context", "plaintext", "ciphertext", "tag"), RFC_8439)
def test_rfc_8439(key: str, nonce: str, context: str, plaintext: bytes, ciphertext: str, tag: str) -> None:
    secret, associated_data = Secret(bytes.fromhex(key)), bytes.fromhex(context)
    expected = bytes.fromhex(nonce + ciphertext + tag)
    sealed = seal(
        secret, plaintext, associated_data=associated_data, entropy=lambda size: bytes.fromhex(nonce)[:size]
    )
    assert sealed == expected
    assert open_sealed(secret, expected, associated_data=associated_data) == Secret(plaintext)


@given(key=st.binary(min_size=32, max_size=32), plaintext=st.binary(), associated_data=st.binary())
def test_round_trip(key: bytes, plaintext: bytes, associated_data: bytes) -> None:
    sealed = seal(Secret(key), plaintext, associated_data=associated_data)
    assert len(sealed) == len(plaintext) + OVERHEAD
    opened = open_sealed(Secret(key), sealed, associated_data=associated_data)
    assert type(opened) is Secret
    assert opened.reveal() == plaintext


@given(plaintext=st.binary(min_size=16), data=st.binary(max_size=200))
def test_arbitrary_bytes_open_to_nothing(plaintext: bytes, data: bytes) -> None:
    assert plaintext not in seal(KEY, plaintext, associated_data=CONTEXT)
    with pytest.raises(VerificationError):
        open_sealed(KEY, data, associated_data=CONTEXT)


def test_the_nonce_is_fresh_and_comes_from_the_entropy() -> None:
    assert (
        seal(KEY, b"x", associated_data=CONTEXT)[:NONCE_BYTES]
        != seal(KEY, b"x", associated_data=CONTEXT)[:NONCE_BYTES]
    )
    sealed = seal(KEY, b"x", associated_data=CONTEXT, entropy=SeededEntropy(b"nonce"))
    assert sealed[:NONCE_BYTES] == SeededEntropy(b"nonce")(NONCE_BYTES)
    with pytest.raises(ParameterError, match="asked for 12 bytes"):
        seal(KEY, b"x", associated_data=CONTEXT, entropy=lambda size: bytes(size + 1))


def test_every_flipped_bit_is_noticed() -> None:
    sealed = seal(KEY, b"a share", associated_data=CONTEXT)
    for bit in range(8 * len(sealed)):
        tampered = bytearray(sealed)
        tampered[bit // 8] ^= 1 << (bit % 8)
        with pytest.raises(VerificationError, match="does not open"):
            open_sealed(KEY, bytes(tampered), associated_data=CONTEXT)


def test_every_truncation_and_extension_is_noticed() -> None:
    sealed = seal(KEY, b"a share", associated_data=CONTEXT)
    for size in range(len(sealed)):
        match = "28 to" if size < OVERHEAD else "does not open"
        with pytest.raises(VerificationError, match=match):
            open_sealed(KEY, sealed[:size], associated_data=CONTEXT)
    for tail in (b"\x00", b"\xff" * 16):
        with pytest.raises(VerificationError, match="does not open"):
            open_sealed(KEY, sealed + tail, associated_data=CONTEXT)


def test_another_key_or_context_does_not_open() -> None:
    sealed = seal(KEY, b"a share", associated_data=CONTEXT)
    with pytest.raises(VerificationError, match="does not open"):
        open_sealed(Secret(bytes(32)), sealed, associated_data=CONTEXT)
    for context in (b"", b"round 8", CONTEXT + b"\x00"):
        with pytest.raises(VerificationError, match="does not open"):
            open_sealed(KEY, sealed, associated_data=context)


@pytest.mark.parametrize(
    "key", [bytes(32), "k" * 32, None, Secret(b""), Secret(bytes(31)), Secret(bytes(33))]
)
def test_wrong_key(key: object) -> None:
    with pytest.raises(ParameterError, match=f"Secret of {KEY_BYTES} bytes"):
        seal(key, b"", associated_data=b"")  # type: ignore[arg-type]
    with pytest.raises(ParameterError, match=f"Secret of {KEY_BYTES} bytes"):
        open_sealed(key, bytes(OVERHEAD), associated_data=b"")  # type: ignore[arg-type]


@pytest.mark.parametrize("value", ["text", bytearray(40), memoryview(bytes(40)), None, 7, Secret(bytes(40))])
def test_wrong_type(value: object) -> None:
    with pytest.raises(ParameterError, match="plaintext is of type"):
        seal(KEY, value, associated_data=b"")  # type: ignore[arg-type]
    with pytest.raises(ParameterError, match="associated_data is of type"):
        seal(KEY, b"", associated_data=value)  # type: ignore[arg-type]
    with pytest.raises(ParameterError, match="associated_data is of type"):
        open_sealed(KEY, bytes(40), associated_data=value)  # type: ignore[arg-type]
    with pytest.raises(ParameterError, match="sealed is of type"):
        open_sealed(KEY, value, associated_data=b"")  # type: ignore[arg-type]


def test_too_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aead, "MAXIMUM_BYTES", 64)
    sealed = seal(KEY, bytes(64), associated_data=bytes(64))
    assert open_sealed(KEY, sealed, associated_data=bytes(64)) == Secret(bytes(64))
    with pytest.raises(ParameterError, match="plaintext has 65 bytes"):
        seal(KEY, bytes(65), associated_data=b"")
    with pytest.raises(ParameterError, match="associated_data has 65 bytes"):
        seal(KEY, b"", associated_data=bytes(65))
    with pytest.raises(ParameterError, match="associated_data has 65 bytes"):
        open_sealed(KEY, sealed, associated_data=bytes(65))
    with pytest.raises(VerificationError, match="28 to 92 bytes"):
        open_sealed(KEY, sealed + b"\x00", associated_data=bytes(64))


def test_a_raw_key_given_by_mistake_stays_out_of_the_error() -> None:
    with pytest.raises(ParameterError) as caught:
        seal(b"a very secret key of 32 bytes...", b"", associated_data=b"")  # type: ignore[arg-type]
    assert "very secret" not in str(caught.value)
