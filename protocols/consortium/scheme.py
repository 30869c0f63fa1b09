"""What an additively homomorphic scheme brings to the consortium protocol: integers in, bytes out.

All clients hold one private key. The server holds at most a public part and adds. Opening is exact, so what
is opened does not depend on any noise.
"""

from abc import ABC, abstractmethod
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from secagg.entropy import Entropy
from secagg.secret import Secret
from secagg.wire import Buffer

__all__ = ["Key", "Scheme", "Total"]

Integers = NDArray[np.int64]


class Total(Protocol):
    """The server's running sum."""

    def add(self, body: Buffer) -> None:
        """Adds one encrypted vector whole, or raises `DecodeError` or `VerificationError`."""
        ...

    def to_bytes(self) -> bytes:
        """The encrypted sum."""
        ...


class Key(ABC):
    """The consortium's private key, opened for use."""

    @abstractmethod
    def encode(self) -> Secret:
        """The private key's bytes."""

    @abstractmethod
    def public(self) -> bytes:
        """What the server needs to add; it opens nothing."""

    @abstractmethod
    def encrypt(self, values: Integers, *, entropy: Entropy) -> bytes:
        """A fresh encryption of one client's integers."""

    @abstractmethod
    def decrypt(self, body: Buffer, *, count: int, summands: int) -> Integers:
        """The exact sum of `summands` encrypted vectors of `count` integers."""


class Scheme(ABC):
    """The scheme with its parameters."""

    @abstractmethod
    def generate(self, entropy: Entropy) -> Key:
        """A fresh private key."""

    @abstractmethod
    def open_key(self, secret: Secret) -> Key:
        """The private key of these bytes; `DecodeError` if they are none."""

    @abstractmethod
    def check_public(self, public: bytes) -> None:
        """Raises `DecodeError` or `VerificationError` unless these bytes are a public part."""

    @abstractmethod
    def body_bytes(self, count: int) -> int:
        """Upper bound of an encrypted vector of `count` integers; `ParameterError` if there is none."""

    @abstractmethod
    def total(self, public: bytes, *, count: int) -> Total:
        """An empty sum of vectors of `count` integers."""

    @abstractmethod
    def restore_total(self, public: bytes, body: bytes, *, count: int, summands: int) -> Total:
        """The sum whose `to_bytes` was `body`, or an empty one when `summands` is 0."""
