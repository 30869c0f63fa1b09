"""A wrapper for key material that is hard to spill.

A `Secret` shows nothing in `repr`, compares in constant time, cannot be pickled, copied or hashed into a
dictionary key, and gives its bytes only to `.reveal()`, a word that can be searched for.

It does not wipe memory: CPython copies bytes as it likes, and nothing here can promise otherwise.

>>> key = Secret(bytes(32))
>>> key
Secret(32 bytes)
>>> key == Secret(bytes(32))
True
"""

import hmac
from typing import NoReturn

from secagg.errors import ParameterError

__all__ = ["Secret"]


class Secret:
    """Immutable secret bytes. `Secret(data)`; `len(secret)`; `secret.reveal() -> bytes`."""

    __slots__ = ("_data",)
    _data: bytes

    def __init__(self, data: bytes) -> None:
        if type(data) is not bytes:
            raise ParameterError(f"a Secret holds bytes, not {type(data).__name__}")
        object.__setattr__(self, "_data", data)

    def reveal(self) -> bytes:
        """The bytes themselves. Every call of this method deserves a reader's attention."""
        return self._data

    def __len__(self) -> int:
        return len(self._data)

    def __repr__(self) -> str:
        return f"Secret({len(self._data)} bytes)"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Secret):
            return NotImplemented
        return hmac.compare_digest(self._data, other._data)

    __hash__ = None  # type: ignore[assignment]  # a hash table would compare in variable time

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError("a Secret is immutable")

    def __delattr__(self, name: str) -> NoReturn:
        raise AttributeError("a Secret is immutable")

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise TypeError("a Secret is not pickled or copied; export() seals state under a key")
