"""Two parties, one secret: X25519 (RFC 7748).

Each party keeps a private scalar and publishes one 32-byte u-coordinate. Both compute the same shared
coordinate; who sees only the two public keys does not (computational Diffie-Hellman on Curve25519).

The result is a group element and not yet a key: pass it through `kdf.hkdf` together with both public
keys. Nothing here says *whose* public key it was; that is what signatures and the roster are for. A quantum
computer breaks it, which is why pair secrets are hybrid.

Two answers are refused. A low-order point forces the shared secret to zero whatever the private key is, and a
party's own key sent back to it makes it share a secret with itself (ATTACKS B5).

>>> ours, theirs = generate(), generate()
>>> agree(ours, public_key(theirs)) == agree(theirs, public_key(ours))
True
"""

from typing import Final, NoReturn

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey

from secagg.entropy import Entropy, draw, system_entropy
from secagg.errors import ParameterError, VerificationError
from secagg.secret import Secret

__all__ = [
    "PRIVATE_KEY_BYTES",
    "PUBLIC_KEY_BYTES",
    "PrivateKey",
    "agree",
    "check_canonical",
    "generate",
    "public_key",
]

PRIVATE_KEY_BYTES: Final = 32
PUBLIC_KEY_BYTES: Final = 32

_FIELD: Final = 2**255 - 19


def generate(entropy: Entropy = system_entropy) -> Secret:
    """A fresh private key: 32 uniform bytes. X25519 clamps them itself (RFC 7748, section 5)."""
    return Secret(draw(entropy, PRIVATE_KEY_BYTES))


class PrivateKey:
    """A private key, loaded once for many agreements. Its repr is redacted and it cannot be pickled.

    Raises:
        ParameterError: `private` is not a Secret of 32 bytes.
    """

    __slots__ = ("_coordinate", "_key", "public_key")
    public_key: bytes

    def __init__(self, private: Secret) -> None:
        self._key = _load(private)
        self.public_key = self._key.public_key().public_bytes_raw()
        self._coordinate = _coordinate(self.public_key)

    def __repr__(self) -> str:
        return "PrivateKey(...)"

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise TypeError("a PrivateKey is not pickled or copied; keep the Secret that it was made of")

    def agree(self, public: bytes, *, own: bool = False) -> Secret:
        """The raw shared secret, 32 bytes, with a peer's public key (RFC 7748, section 6.1).

        Args:
            own: whether our own public key will do, which a peer may have copied; for those who bind what
                they derive to the places of both parties.

        Raises:
            ParameterError: a wrong type, or not 32 bytes.
            VerificationError: `public` is of low order, or our own public key in any of its encodings.
        """
        if type(public) is not bytes or len(public) != PUBLIC_KEY_BYTES:
            raise ParameterError(
                f"a public key is {PUBLIC_KEY_BYTES} bytes of type bytes; decode the field first"
            )
        if not own and _coordinate(public) == self._coordinate:
            raise VerificationError("the peer's public key is our own; ask for a key that it generated")
        try:
            return Secret(self._key.exchange(X25519PublicKey.from_public_bytes(public)))
        except ValueError:
            # RFC 7748, section 6.1: the check for the all-zero value, made by the backend in constant time.
            raise VerificationError(
                "the peer's public key is a point of low order; refuse this peer"
            ) from None


def check_canonical(public: bytes) -> None:
    """Refuses all but one encoding of a point, so that equal points have equal bytes.

    Raises:
        ParameterError: not 32 bytes.
        VerificationError: the top bit is set, or the coordinate is not below the field's prime.
    """
    if type(public) is not bytes or len(public) != PUBLIC_KEY_BYTES:
        raise ParameterError(f"a public key is {PUBLIC_KEY_BYTES} bytes of type bytes")
    if int.from_bytes(public, "little") != _coordinate(public):
        raise VerificationError("a public key that is not in its canonical encoding")


def public_key(private: Secret) -> bytes:
    """The 32-byte public key of a private key; `ParameterError` as `PrivateKey`."""
    return PrivateKey(private).public_key


def agree(private: Secret, public: bytes) -> Secret:
    """`PrivateKey(private).agree(public)`, for a single agreement."""
    return PrivateKey(private).agree(public)


def _load(private: Secret) -> X25519PrivateKey:
    if not isinstance(private, Secret) or len(private) != PRIVATE_KEY_BYTES:
        raise ParameterError(
            f"private is of type {type(private).__name__}; a Secret of {PRIVATE_KEY_BYTES} bytes is needed"
        )
    return X25519PrivateKey.from_private_bytes(private.reveal())


def _coordinate(public: bytes) -> int:
    # RFC 7748, section 5: the top bit is ignored and values from p to 2^255 - 1 are taken mod p, so one
    # point has several encodings and bytes alone cannot tell whether two keys are the same.
    return (int.from_bytes(public, "little") & ((1 << 255) - 1)) % _FIELD
