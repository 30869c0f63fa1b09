"""A secret that only one reader can open: ML-KEM-768 (FIPS 203), by `cryptography`.

A party publishes an encapsulation key. Whoever has it makes a secret together with a ciphertext; the holder
of the decapsulation key, a 64-byte seed, gets the secret back from the ciphertext. A passive or active
adversary that lacks the seed learns nothing about the secret (IND-CCA2, under the module learning-with-errors
assumption), and no quantum algorithm is known that would. It is a young assumption: pair secrets are hybrid,
both this secret and that of `agreement` go into one `kdf.hkdf`, together with the ciphertext
and all public keys, and stay closed while either holds.

**Nothing says whose key it was**, as for X25519: that is what signatures and the roster are for. And
**a wrong ciphertext is never an error** (implicit rejection, FIPS 203, section 6.3): it gives another secret,
pseudo-random under the seed, so that a decryption failure tells an adversary nothing. Two parties know that
they hold the same secret only once they have compared a hash of it or opened a box under it.

The backend draws the randomness of an encapsulation itself and takes none from outside; keys come from a
seed, and the seed from an `Entropy`. Seeded runs therefore repeat keys and not ciphertexts.

>>> ours = DecapsulationKey(Secret(bytes(64)))
>>> secret, ciphertext = encapsulate(ours.encapsulation_key)
>>> ours.decapsulate(ciphertext) == secret
True
>>> ours.decapsulate(bytes(CIPHERTEXT_BYTES)) == secret
False
"""

from typing import Final, NoReturn

from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey, MLKEM768PublicKey

from secagg.errors import ParameterError, VerificationError
from secagg.secret import Secret

__all__ = [
    "CIPHERTEXT_BYTES",
    "ENCAPSULATION_KEY_BYTES",
    "SEED_BYTES",
    "SHARED_SECRET_BYTES",
    "DecapsulationKey",
    "encapsulate",
]

SEED_BYTES: Final = 64
"""d and z of FIPS 203, Algorithm 16, one after the other: a private key in its shortest form."""
ENCAPSULATION_KEY_BYTES: Final = 1184
CIPHERTEXT_BYTES: Final = 1088
SHARED_SECRET_BYTES: Final = 32


class DecapsulationKey:
    """A private key, expanded once for many ciphertexts. Its repr is redacted and it cannot be pickled.

    Args:
        seed: `SEED_BYTES` uniform secret bytes, d followed by z (FIPS 203, section 7.1).

    Attributes:
        encapsulation_key: the public key, `ENCAPSULATION_KEY_BYTES`.

    Raises:
        ParameterError: `seed` is not a Secret of `SEED_BYTES`.
    """

    __slots__ = ("_key", "encapsulation_key")
    encapsulation_key: bytes

    def __init__(self, seed: Secret) -> None:
        if not isinstance(seed, Secret) or len(seed) != SEED_BYTES:
            raise ParameterError(
                f"seed is of type {type(seed).__name__}; a Secret of {SEED_BYTES} bytes is needed"
            )
        self._key = MLKEM768PrivateKey.from_seed_bytes(seed.reveal())
        self.encapsulation_key = self._key.public_key().public_bytes_raw()

    def __repr__(self) -> str:
        return "DecapsulationKey(...)"

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise TypeError("a DecapsulationKey is not pickled or copied; keep the Secret that it was made of")

    def decapsulate(self, ciphertext: bytes) -> Secret:
        """The secret inside `ciphertext`, `SHARED_SECRET_BYTES`; another one if it was tampered with.

        Raises:
            ParameterError: a wrong type, or not `CIPHERTEXT_BYTES`. A wrong *value* is never an error.
        """
        if type(ciphertext) is not bytes or len(ciphertext) != CIPHERTEXT_BYTES:
            raise ParameterError(
                f"a ciphertext is {CIPHERTEXT_BYTES} bytes of type bytes; decode the field first"
            )
        return Secret(self._key.decapsulate(ciphertext))


def encapsulate(encapsulation_key: bytes) -> tuple[Secret, bytes]:
    """A fresh secret for whoever holds the matching `DecapsulationKey`.

    Returns:
        the secret (`SHARED_SECRET_BYTES`) and the ciphertext to send (`CIPHERTEXT_BYTES`).

    Raises:
        ParameterError: a wrong type, or not `ENCAPSULATION_KEY_BYTES`.
        VerificationError: a coefficient of the key is not below 3329 (FIPS 203, section 7.2).
    """
    if type(encapsulation_key) is not bytes or len(encapsulation_key) != ENCAPSULATION_KEY_BYTES:
        raise ParameterError(
            f"an encapsulation key is {ENCAPSULATION_KEY_BYTES} bytes of type bytes; decode the field first"
        )
    try:
        public = MLKEM768PublicKey.from_public_bytes(encapsulation_key)
    except ValueError:
        raise VerificationError(
            "the peer's encapsulation key fails the modulus check of FIPS 203; refuse this peer"
        ) from None
    secret, ciphertext = public.encapsulate()
    return Secret(secret), ciphertext
