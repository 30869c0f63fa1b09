"""Who said it: Ed25519 (RFC 8032), one label for each kind of statement.

What is signed is the label and the message, each behind its length, so that a signature on one kind of
statement never verifies as another. Signing is deterministic and needs no randomness.

`verify` refuses public keys of small order. Under such a key one signature verifies for every message, so its
owner could deny, or could have said, anything; RFC 8032 leaves the check out. A valid signature says that the
holder of the private key once signed these bytes: not when, and not that they are fresh.

>>> identity = SigningKey.generate()
>>> signature = identity.sign(b"my keys", label=b"an example")
>>> verify(identity.public_key, signature, b"my keys", label=b"an example")
>>> verify(identity.public_key, signature, b"my keys", label=b"another use")
Traceback (most recent call last):
    ...
secagg.errors.VerificationError: the signature does not verify: wrong key, wrong label or changed bytes
"""

from typing import Final, NoReturn, Self

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from secagg.entropy import Entropy, draw, system_entropy
from secagg.errors import ParameterError, VerificationError
from secagg.secret import Secret
from secagg.wire import Writer

__all__ = ["PUBLIC_KEY_BYTES", "SECRET_BYTES", "SIGNATURE_BYTES", "SigningKey", "verify"]

SECRET_BYTES: Final = 32
PUBLIC_KEY_BYTES: Final = 32
SIGNATURE_BYTES: Final = 64

_FIELD: Final = 2**255 - 19
_ORDER_EIGHT: Final = int.from_bytes(
    bytes.fromhex("26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05"), "little"
)
# The y-coordinates of the eight points whose order divides the cofactor: orders 1, 2, 4, 8 and 8.
_SMALL_ORDER: Final = frozenset({1, _FIELD - 1, 0, _ORDER_EIGHT, _FIELD - _ORDER_EIGHT})


class SigningKey:
    """A private Ed25519 key. Make one with `generate` or `from_secret`; it cannot be pickled or copied."""

    __slots__ = ("_private", "_public_key")

    def __init__(self, *, secret: Secret) -> None:
        if not isinstance(secret, Secret) or len(secret) != SECRET_BYTES:
            raise ParameterError(f"a signing key is made from a Secret of {SECRET_BYTES} bytes")
        self._private = Ed25519PrivateKey.from_private_bytes(secret.reveal())
        self._public_key = self._private.public_key().public_bytes_raw()

    @classmethod
    def generate(cls, entropy: Entropy = system_entropy) -> Self:
        """A fresh key from 32 bytes of `entropy`."""
        return cls(secret=Secret(draw(entropy, SECRET_BYTES)))

    @classmethod
    def from_secret(cls, secret: Secret) -> Self:
        """The key whose `.secret` was kept.

        Raises:
            ParameterError: `secret` is not a Secret of 32 bytes.
        """
        return cls(secret=secret)

    @property
    def secret(self) -> Secret:
        """The 32-byte private key of RFC 8032, for safe keeping."""
        return Secret(self._private.private_bytes_raw())

    @property
    def public_key(self) -> bytes:
        """The 32-byte public key."""
        return self._public_key

    def sign(self, message: bytes, *, label: bytes) -> bytes:
        """A 64-byte signature over `message` as the kind of statement that `label` names.

        Raises:
            ParameterError: `message` or `label` is not of type bytes, or `label` is empty.
        """
        return self._sign_raw(_statement(message, label))

    def _sign_raw(self, data: bytes) -> bytes:
        """RFC 8032, section 5.1.6, over raw bytes: what the published vectors exercise."""
        return self._private.sign(data)

    def __repr__(self) -> str:
        return f"SigningKey(public_key={self._public_key.hex()})"

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise TypeError("a SigningKey is not pickled or copied; keep its .secret sealed under a key")


def verify(public_key: bytes, signature: bytes, message: bytes, *, label: bytes) -> None:
    """Return when `signature` is `public_key`'s on this message under this label; raise otherwise.

    Raises:
        ParameterError: a wrong type, an empty label, or a public key that is not 32 bytes.
        VerificationError: anything else that keeps the signature from verifying, its length included.
    """
    if type(public_key) is not bytes or len(public_key) != PUBLIC_KEY_BYTES:
        raise ParameterError(
            f"a public key is {PUBLIC_KEY_BYTES} bytes of type bytes; take it from the roster"
        )
    if type(signature) is not bytes:
        raise ParameterError(f"signature is of type {type(signature).__name__}; bytes are needed")
    statement = _statement(message, label)
    if len(signature) != SIGNATURE_BYTES:
        raise VerificationError(f"a signature has {SIGNATURE_BYTES} bytes, this one {len(signature)}")
    if _coordinate(public_key) in _SMALL_ORDER:
        raise VerificationError(
            "the public key is of small order, which signs every message; refuse its owner"
        )
    _verify_raw(public_key, signature, statement)


def _verify_raw(public_key: bytes, signature: bytes, data: bytes) -> None:
    """RFC 8032, section 5.1.7, over raw bytes and any public key: what the published vectors exercise."""
    try:
        Ed25519PublicKey.from_public_bytes(public_key).verify(signature, data)
    except (InvalidSignature, ValueError):  # ValueError: a backend that decodes the point when it is loaded
        raise VerificationError(
            "the signature does not verify: wrong key, wrong label or changed bytes"
        ) from None


def _statement(message: bytes, label: bytes) -> bytes:
    for name, value in (("message", message), ("label", label)):
        if type(value) is not bytes:
            raise ParameterError(f"{name} is of type {type(value).__name__}; bytes are needed")
    if not label:
        raise ParameterError("label is empty; take the label of this statement from secagg.labels")
    return Writer().blob(label).blob(message).finish()


def _coordinate(public_key: bytes) -> int:
    # The top bit is the sign of x; a decoder that does not check y < p takes it mod p.
    return (int.from_bytes(public_key, "little") & ((1 << 255) - 1)) % _FIELD
