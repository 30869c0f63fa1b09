"""Keys and ciphertexts of the `phe` package, to and from ours.

The one file that imports `phe` (python-paillier, under the GPL), and only when one of these functions is
called.
Both use g = n + 1, so ciphertexts are the same integers. Two things differ:

* A phe key has no h_s, and its primes need not be ≡ 3 mod 4. The short exponent of Damgård, Jurik and
  Nielsen then has no argument behind it, so a foreign key encrypts with Paillier's full r^n here (see
  `PublicKey`), about seventy times slower.
* A phe ciphertext carries the exponent of its float encoding *in clear*, and phe multiplies in fresh
  randomness only when asked (ATTACKS C7). Only exponent zero, that is integers, passes here, and always
  re-randomised.

phe's default encoding reads the upper third of [0, n) as negative numbers; ours are never negative.

>>> from secagg.entropy import SeededEntropy
>>> from secagg.paillier.scheme import generate_key
>>> ours = generate_key(key_bits=2048, entropy=SeededEntropy(b"a doctest"))
>>> theirs = to_phe_private_key(ours)
>>> theirs.decrypt(to_phe_ciphertext(ours.public_key, ours.public_key.encrypt_int(42)))
42
>>> ours.decrypt_int(from_phe_ciphertext(theirs.public_key.encrypt(42)))
42
"""

from types import ModuleType
from typing import Any

from secagg.errors import MissingExtraError, ParameterError
from secagg.paillier.scheme import PrivateKey, PublicKey

__all__ = [
    "from_phe_ciphertext",
    "from_phe_private_key",
    "from_phe_public_key",
    "to_phe_ciphertext",
    "to_phe_private_key",
    "to_phe_public_key",
]


def _phe() -> ModuleType:
    try:
        import phe
    except ImportError:
        raise MissingExtraError(package="phe", extra="phe") from None
    module: ModuleType = phe
    return module


def _checked(value: object, name: str) -> Any:
    if not isinstance(value, getattr(_phe(), name)):
        raise ParameterError(f"a {type(value).__name__} where a phe.{name} was expected")
    return value


def to_phe_public_key(public_key: PublicKey) -> Any:
    """The `phe.PaillierPublicKey` of a key; h_s is lost.

    Raises:
        MissingExtraError: phe is not installed; so all functions here.
    """
    return _phe().PaillierPublicKey(public_key.n)


def to_phe_private_key(private_key: PrivateKey) -> Any:
    """The `phe.PaillierPrivateKey` of a key. It can be pickled, printed and copied: it is out of our care."""
    p, q = private_key.reveal_primes()
    return _phe().PaillierPrivateKey(to_phe_public_key(private_key.public_key), p, q)


def from_phe_public_key(public_key: Any) -> PublicKey:
    """The key of a `phe.PaillierPublicKey`, without h_s.

    Raises:
        ParameterError: it is something else, or `PublicKey` refuses n: under 2048 bits, for example.
    """
    return PublicKey(n=int(_checked(public_key, "PaillierPublicKey").n), h_s=None)


def from_phe_private_key(private_key: Any) -> PrivateKey:
    """The key of a `phe.PaillierPrivateKey`, without h_s.

    Raises:
        ParameterError: it is something else, or `PrivateKey` refuses the primes.
    """
    theirs = _checked(private_key, "PaillierPrivateKey")
    return PrivateKey(p=int(theirs.p), q=int(theirs.q), h_s=None)


def to_phe_ciphertext(public_key: PublicKey, ciphertext: int) -> Any:
    """The `phe.EncryptedNumber` of a ciphertext in (0, n²), with exponent zero.

    Raises:
        ParameterError: the ciphertext is not an int in (0, n²).
    """
    if type(ciphertext) is not int or not 0 < ciphertext < public_key.n**2:
        raise ParameterError("a Paillier ciphertext is an int in (0, n²)")
    return _phe().EncryptedNumber(to_phe_public_key(public_key), ciphertext, 0)


def from_phe_ciphertext(encrypted: Any) -> int:
    """The ciphertext of a `phe.EncryptedNumber` with exponent zero, re-randomised if phe has not done so.

    Raises:
        ParameterError: it is something else, or it carries a float encoding.
    """
    theirs = _checked(encrypted, "EncryptedNumber")
    if theirs.exponent != 0:
        raise ParameterError(f"a phe number with exponent {theirs.exponent}; encrypt an integer instead")
    return int(theirs.ciphertext(be_secure=True))
