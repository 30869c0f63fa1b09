"""PaillierSum: packed Paillier under one key that the clients share; the clients learn the sum.

A CLIENT THAT COLLUDES WITH THE SERVER READS EVERY UPDATE, and so does a server whose operator is also a
client: every client holds the one key (ATTACKS C1). Choose it where that cannot happen, or choose MaskedSum.

Paillier, EUROCRYPT'99; Damgård, Jurik, Nielsen, IJIS 2010 for the short exponent; packing as in BatchCrypt,
USENIX ATC'20, with guard bits that no sum can cross. Exact. Any dropout is survived. Not post-quantum.

>>> import numpy as np
>>> from protocols import PaillierSum, simulate
>>> updates = {name: np.full(3, value) for name, value in [("a", 0.0), ("b", 0.25), ("c", 0.5)]}
>>> [round(x, 3) for x in simulate(PaillierSum(max_clients=3, key_bits=2048), updates).mean.tolist()]
[0.25, 0.25, 0.25]
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from protocols.consortium.protocol import ConsortiumParameters
from protocols.consortium.scheme import Key, Scheme, Total
from protocols.machine.summand import Surface
from secagg.entropy import Entropy
from secagg.errors import DecodeError
from secagg.paillier import packing as paillier_packing
from secagg.paillier import scheme as paillier
from secagg.secret import Secret
from secagg.wire import Buffer

__all__ = ["PaillierSum"]


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


@dataclass(frozen=True, kw_only=True)
class PaillierSum(ConsortiumParameters):
    """The sum under Paillier; every client can open it, and every update. See the module's first line.

    Args:
        key_bits: length of the modulus, a multiple of 64 in [2048, 8192].
    """

    key_bits: int = 3072

    code = 5

    def scheme(self, surface: Surface) -> PaillierScheme:
        bound = surface.summand_bound
        packing = paillier_packing.Packing(
            key_bits=self.key_bits,
            bound=bound,
            max_summands=self.max_clients,
            max_sum=max(bound, surface.sum_bound),
        )
        return PaillierScheme(packing)
