"""Sealed messages: ChaCha20-Poly1305 (RFC 8439) under a fresh random nonce.

`seal` hides the plaintext and binds it to the associated data; `open_sealed` gives it back only when key,
bytes and associated data are the ones that were sealed. What was changed, cut or moved is refused whole.

A sealed message is nonce (12 bytes) || ciphertext || tag (16 bytes). Random 96-bit nonces collide by the
birthday bound: q messages under one key repeat a nonce with probability under q^2 / 2^97, which is 2^-41 at
2^28 messages. Keys here are fresh for each pair or each state and seal few messages, far below that; a key
that outlives 2^28 of them must be replaced.

It hides neither the length nor that a message was sent, it does not stop a replay (put session, round, sender
and receiver in the associated data), and it does not commit to the key: whoever knows two keys can make
bytes that open under both.

>>> key = Secret(bytes(32))
>>> sealed = seal(key, b"a share", associated_data=b"round 7, alice to bob")
>>> open_sealed(key, sealed, associated_data=b"round 7, alice to bob").reveal()
b'a share'
>>> open_sealed(key, sealed, associated_data=b"round 8, alice to bob")
Traceback (most recent call last):
    ...
secagg.errors.VerificationError: the sealed message does not open: wrong key, wrong context or changed bytes
"""

from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from secagg.entropy import Entropy, draw, system_entropy
from secagg.errors import ParameterError, VerificationError
from secagg.secret import Secret

__all__ = ["KEY_BYTES", "MAXIMUM_BYTES", "NONCE_BYTES", "OVERHEAD", "TAG_BYTES", "open_sealed", "seal"]

KEY_BYTES: Final = 32
NONCE_BYTES: Final = 12
TAG_BYTES: Final = 16
OVERHEAD: Final = NONCE_BYTES + TAG_BYTES
"""Bytes that sealing adds to a plaintext of any length."""

MAXIMUM_BYTES: Final = 1 << 30
"""The longest plaintext and the longest associated data; the backend's own limit is just under 2^31."""


def seal(
    key: Secret, plaintext: bytes, *, associated_data: bytes, entropy: Entropy = system_entropy
) -> bytes:
    """Encrypt and authenticate; the result is `len(plaintext) + OVERHEAD` bytes.

    Args:
        key: 32 bytes, used for at most 2^28 messages.
        plaintext: at most MAXIMUM_BYTES bytes; may be empty.
        associated_data: public context that the opener must present again; may be empty.
        entropy: gives the nonce; a source that repeats itself reveals the XOR of two plaintexts.

    Raises:
        ParameterError: a wrong type, a wrong key length, too many bytes, or a broken entropy source.
    """
    cipher = _load(key)
    for name, value in (("plaintext", plaintext), ("associated_data", associated_data)):
        _require_bytes(name, value, MAXIMUM_BYTES)
    nonce = draw(entropy, NONCE_BYTES)
    return nonce + cipher.encrypt(nonce, plaintext, associated_data)


def open_sealed(key: Secret, sealed: bytes, *, associated_data: bytes) -> Secret:
    """The plaintext of what `seal` made under the same key and associated data.

    Raises:
        ParameterError: a wrong type, a wrong key length, or associated data over MAXIMUM_BYTES.
        VerificationError: too short, too long, changed, or sealed under another key or context.
    """
    cipher = _load(key)
    _require_bytes("associated_data", associated_data, MAXIMUM_BYTES)
    if type(sealed) is not bytes:
        raise ParameterError(f"sealed is of type {type(sealed).__name__}; bytes are needed")
    if not OVERHEAD <= len(sealed) <= OVERHEAD + MAXIMUM_BYTES:
        raise VerificationError(
            f"a sealed message has {OVERHEAD} to {OVERHEAD + MAXIMUM_BYTES} bytes, this one {len(sealed)}"
        )
    try:
        # A view: what was sealed may be large.
        return Secret(cipher.decrypt(sealed[:NONCE_BYTES], memoryview(sealed)[NONCE_BYTES:], associated_data))
    except InvalidTag:
        raise VerificationError(
            "the sealed message does not open: wrong key, wrong context or changed bytes"
        ) from None


def _load(key: Secret) -> ChaCha20Poly1305:
    if not isinstance(key, Secret) or len(key) != KEY_BYTES:
        raise ParameterError(f"key is of type {type(key).__name__}; a Secret of {KEY_BYTES} bytes is needed")
    return ChaCha20Poly1305(key.reveal())


def _require_bytes(name: str, value: object, maximum: int) -> None:
    if type(value) is not bytes:
        raise ParameterError(f"{name} is of type {type(value).__name__}; bytes are needed")
    if len(value) > maximum:
        raise ParameterError(f"{name} has {len(value)} bytes; at most {maximum} are allowed, split it")
