"""Keys from keys: HKDF-SHA256 (RFC 5869), one label for each use.

HKDF first extracts a uniform key from `key` and `salt`, then expands it under `info`. Here `info` is the
label and the context, each behind its length, so that no two (label, context) pairs share an encoding: moving
a byte from the label to the context gives an unrelated key. Labels come from `secagg.labels`.

Against an adversary that sees any number of derived keys, the others stay uniform to it as long as `key` has
enough entropy. HKDF is fast: it adds no work for who guesses, so a password is not a key.

>>> root = Secret(bytes(range(32)))
>>> hkdf(root, label=b"an example", context=b"round 1")
Secret(32 bytes)
>>> hkdf(root, label=b"an example", context=b"1") == hkdf(root, label=b"an example1")
False
"""

from typing import Final

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from secagg.errors import ParameterError
from secagg.secret import Secret
from secagg.wire import Writer

__all__ = ["MAXIMUM_BYTES", "hkdf"]

MAXIMUM_BYTES: Final = 255 * 32
"""The longest output of one call: the block counter of RFC 5869, section 2.3, is one byte."""


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
    return _derive(key, salt=salt, info=Writer().blob(label).blob(context).finish(), size=size)


def _derive(key: Secret, *, salt: bytes, info: bytes, size: int) -> Secret:
    """RFC 5869 as it stands, extract and expand, with a raw `info`: what the published vectors exercise."""
    return Secret(HKDF(hashes.SHA256(), size, salt=salt, info=info).derive(key.reveal()))
