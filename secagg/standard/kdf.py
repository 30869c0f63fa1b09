"""Keys from keys: HKDF-SHA256 (RFC 5869), one label for each use.

HKDF first extracts a uniform key from `key` and `salt`, then expands it under `info`. Here `info` is the
label and the context, each behind its length, so that no two (label, context) pairs share an encoding: moving
a byte from the label to the context gives an unrelated key. Labels come from `secagg.labels`.

Against an adversary that sees any number of derived keys, the others stay uniform to it as long as `key` has
enough entropy. HKDF is fast: it adds no work for who guesses, so a password is not a key.

`stretch` is the opposite and for public input: scrypt (RFC 7914), which makes each try at another input cost
tens of milliseconds and 16 MiB. It hides nothing.

>>> root = Secret(bytes(range(32)))
>>> hkdf(root, label=b"an example", context=b"round 1")
Secret(32 bytes)
>>> hkdf(root, label=b"an example", context=b"1") == hkdf(root, label=b"an example1")
False
"""

from functools import lru_cache
from typing import Final

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from secagg.errors import ParameterError
from secagg.secret import Secret

__all__ = ["MAXIMUM_BYTES", "STRETCHED_BYTES", "hkdf", "stretch"]

MAXIMUM_BYTES: Final = 255 * 32
"""The longest output of one call: the block counter of RFC 5869, section 2.3, is one byte."""

STRETCHED_BYTES: Final = 32
"""What `stretch` returns."""


def hkdf(key: Secret, *, label: bytes, context: bytes = b"", salt: bytes = b"", size: int = 32) -> Secret:
    """Derive `size` bytes from `key` for the one use that `label` and `context` name.

    Args:
        key: the input keying material, at least one byte.
        label: what the derived key is for, from `secagg.labels`; not empty.
        context: what the derived key is bound to, for example a session and a round; may be empty.
        salt: public and not chosen by an adversary; empty means the zero salt of RFC 5869.
        size: bytes of output, in [1, MAXIMUM_BYTES].

    Raises:
        ParameterError: a wrong type, an empty key or label, or a size out of range.
    """
    if not isinstance(key, Secret) or len(key) == 0:
        raise ParameterError(f"key is of type {type(key).__name__}; a Secret of at least one byte is needed")
    for name, value in (("label", label), ("context", context), ("salt", salt)):
        if type(value) is not bytes:
            raise ParameterError(f"{name} is of type {type(value).__name__}; bytes are needed")
    if not label:
        raise ParameterError("label is empty; take the label of this use from secagg.labels")
    if type(size) is not int or not 1 <= size <= MAXIMUM_BYTES:
        raise ParameterError(f"size is {size!r}; an int in [1, {MAXIMUM_BYTES}] is needed")
    # What Writer().blob(label).blob(context) writes. A server derives tens of thousands of keys in a round.
    info = b"".join((len(label).to_bytes(4, "big"), label, len(context).to_bytes(4, "big"), context))
    return _derive(key, salt=salt, info=info, size=size)


def _derive(key: Secret, *, salt: bytes, info: bytes, size: int) -> Secret:
    """RFC 5869 as it stands, extract and expand, with a raw `info`: what the published vectors exercise."""
    return Secret(HKDF(hashes.SHA256(), size, salt=salt, info=info).derive(key.reveal()))


def stretch(secretless: bytes, *, label: bytes) -> bytes:
    """`STRETCHED_BYTES` of scrypt over a public input, so that trying many inputs is costly.

    For a seed that an adversary would like to choose by trying: each try costs 2**14 blocks of 1 KiB
    (N = 2**14, r = 8, p = 1), 30 to 40 ms of one core and 16 MiB. The honest pay it once. Not for passwords:
    the salt is the label, the same for everybody, and results are cached in memory, which is what all the
    parties of one process want.

    Args:
        secretless: public bytes, all of what the result depends on.
        label: what the result is for, from `secagg.labels`; not empty. It is the salt.

    Raises:
        ParameterError: a wrong type, or an empty label.
    """
    for name, value in (("secretless", secretless), ("label", label)):
        if type(value) is not bytes:
            raise ParameterError(f"{name} is of type {type(value).__name__}; bytes are needed")
    if not label:
        raise ParameterError("label is empty; take the label of this use from secagg.labels")
    return _stretch(secretless, label)


@lru_cache(maxsize=64)
def _stretch(secretless: bytes, label: bytes) -> bytes:
    return _scrypt(secretless, salt=label, n=2**14, r=8, p=1, size=STRETCHED_BYTES)


def _scrypt(data: bytes, *, salt: bytes, n: int, r: int, p: int, size: int) -> bytes:
    """RFC 7914 as it stands: what the published vectors exercise."""
    return Scrypt(salt=salt, length=size, n=n, r=r, p=p).derive(data)
