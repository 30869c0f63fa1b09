"""`secagg.ckks` behind the consortium's interface."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from protocols.consortium.scheme import Key, Scheme, Total
from secagg.ckks import scheme as ckks
from secagg.entropy import Entropy
from secagg.errors import DecodeError
from secagg.secret import Secret
from secagg.wire import Buffer

__all__ = ["CkksKey", "CkksScheme"]


@dataclass(frozen=True, slots=True)
class CkksKey(Key):
    """`ckks.SecretKey` behind the scheme's interface. TenSEAL draws its own randomness."""

    key: ckks.SecretKey

    def encode(self) -> Secret:
        return self.key.encode()

    def public(self) -> bytes:
        return b""  # the server adds in a context of the parameters alone: no key material leaves the clients

    def encrypt(self, values: NDArray[np.int64], *, entropy: Entropy) -> bytes:
        return self.key.encrypt_vector(values)

    def decrypt(self, body: Buffer, *, count: int, summands: int) -> NDArray[np.int64]:
        return self.key.decrypt_vector(body, count=count, bound=self.key.parameters.bound)


@dataclass(frozen=True, slots=True)
class CkksScheme(Scheme):
    """`ckks` behind the scheme's interface."""

    parameters: ckks.Parameters

    def generate(self, entropy: Entropy) -> CkksKey:
        return CkksKey(ckks.generate_key(self.parameters))

    def open_key(self, secret: Secret) -> CkksKey:
        return CkksKey(ckks.SecretKey.decode(secret, self.parameters))

    def check_public(self, public: bytes) -> None:
        if public:
            raise DecodeError("a public part with bytes in it; the server needs the parameters alone")

    def body_bytes(self, count: int) -> int:
        return self.parameters.blocks(count) * self.parameters.block_bytes

    def total(self, public: bytes, *, count: int) -> Total:
        return ckks.Accumulator(ckks.PublicContext.from_parameters(self.parameters), count=count)

    def restore_total(self, public: bytes, body: bytes, *, count: int, summands: int) -> Total:
        if not summands:
            return self.total(public, count=count)
        context = ckks.PublicContext.from_parameters(self.parameters)
        return ckks.Accumulator.restore(context, body, count=count, summands=summands)
