"""Saved states: versioned bytes, sealed whole under a key of the caller and a fresh nonce.

Sealing keeps a state secret and unchanged. It cannot tell an old state from the newest one: that is what a
`ReleaseLog` is for. A client's state says which log that is, and how many of its entries it has seen.
"""

from typing import Final

from protocols.messages.envelope import VERSION
from secagg import labels
from secagg.entropy import Entropy
from secagg.errors import DecodeError, ParameterError
from secagg.release import RELEASE
from secagg.secret import Secret
from secagg.standard.aead import KEY_BYTES, open_sealed, seal
from secagg.wire import Buffer, Reader, Writer

__all__ = ["open_state", "seal_state"]

MAGIC: Final = b"SAGX"


def _check_key(key: object) -> Secret:
    if not isinstance(key, Secret) or len(key) != KEY_BYTES:
        raise ParameterError(f"a state is sealed under a Secret of {KEY_BYTES} bytes")
    return key


def _header(role: str, parameters: bytes) -> bytes:
    return Writer().fixed(MAGIC).uint(VERSION, 1).text(role).fixed(parameters).finish()


def seal_state(body: bytes, *, key: Secret, role: str, parameters: bytes, entropy: Entropy) -> bytes:
    """`body` under `key`, marked with the role and the parameters' digest that it belongs to."""
    header = _header(role, parameters)
    associated = Writer().blob(labels.STATE_SEAL).blob(header).finish()
    return header + seal(_check_key(key), body, associated_data=associated, entropy=entropy)


def open_state(blob: Buffer, *, key: Secret, role: str, parameters: bytes) -> bytes:
    """The body that `seal_state` sealed.

    Raises:
        ParameterError: the blob is not a state of this version, role and parameters.
        VerificationError: the key is wrong or the blob was changed.
    """
    header = _header(role, parameters)
    try:
        reader = Reader(blob)
        found = bytes(reader.fixed(len(header)))
        if found[:4] == MAGIC and found[4] != VERSION:
            raise ParameterError(
                f"a state that was saved under wire version {found[4]}; secagg {RELEASE} reads version "
                f"{VERSION}. Restore it with the release that saved it, or start a new session"
            )
        if found != header:
            raise DecodeError("another header")
        sealed = bytes(reader.rest())
    except DecodeError:
        raise ParameterError(
            f"these bytes are not a saved {role} of this protocol, with these parameters and of this version"
        ) from None
    associated = Writer().blob(labels.STATE_SEAL).blob(header).finish()
    return open_sealed(_check_key(key), sealed, associated_data=associated).reveal()
