"""`secagg.paillier` behind the consortium's interface."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from protocols.consortium.scheme import Key, Scheme, Total
from secagg.entropy import Entropy
from secagg.errors import DecodeError
from secagg.paillier import packing as paillier_packing
from secagg.paillier import scheme as paillier
from secagg.secret import Secret
from secagg.wire import Buffer

__all__ = ["PaillierKey", "PaillierScheme"]


@dataclass(frozen=True, slots=True)
class PaillierKey(Key):
    """`paillier.PrivateKey` behind the scheme's interface."""

    key: paillier.PrivateKey
    packing: paillier_packing.Packing

    def encode(self) -> Secret:
        return self.key.encode()

    def public(self) -> bytes:
        return self.key.public_key.encode()

    def encrypt(self, values: NDArray[np.int64], *, entropy: Entropy) -> bytes:
        return paillier_packing.encrypt_vector(
            self.key.public_key, values, packing=self.packing, entropy=entropy
        )

    def decrypt(self, body: Buffer, *, count: int, summands: int) -> NDArray[np.int64]:
        return paillier_packing.decrypt_vector(
            self.key, body, packing=self.packing, count=count, summands=summands
        )


@dataclass(frozen=True, slots=True)
class PaillierScheme(Scheme):
    """`paillier` behind the scheme's interface."""

    packing: paillier_packing.Packing

    def generate(self, entropy: Entropy) -> PaillierKey:
        key = paillier.generate_key(key_bits=self.packing.key_bits, entropy=entropy)
        return PaillierKey(key, self.packing)

    def open_key(self, secret: Secret) -> PaillierKey:
        key = paillier.PrivateKey.decode(secret)
        self._check(key.public_key)
        return PaillierKey(key, self.packing)

    def check_public(self, public: bytes) -> None:
        self._check(paillier.PublicKey.decode(public))

    def _check(self, key: paillier.PublicKey) -> None:
        if key.key_bits != self.packing.key_bits or key.h_s is None:
            raise DecodeError(f"a key of {key.key_bits} bits; {self.packing.key_bits} and a base were agreed")

    def body_bytes(self, count: int) -> int:
        return self.packing.body_bytes(count)

    def total(self, public: bytes, *, count: int) -> Total:
        key = paillier.PublicKey.decode(public)
        return paillier_packing.Accumulator(key, self.packing.ciphertexts(count))

    def restore_total(self, public: bytes, body: bytes, *, count: int, summands: int) -> Total:
        total = self.total(public, count=count)
        if summands:
            total.add(body)
        return total
