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

from protocols.consortium.protocol import ConsortiumParameters
from protocols.consortium.scheme import Scheme
from protocols.machine.summand import Surface
from secagg.numbers import plain_fields

__all__ = ["PaillierSum"]


@dataclass(frozen=True, kw_only=True)
class PaillierSum(ConsortiumParameters):
    """The sum under Paillier; every client can open it, and every update. See the module's first line.

    Args:
        key_bits: length of the modulus, a multiple of 64 in [2048, 8192].
    """

    key_bits: int = 3072

    code = 5

    def __post_init__(self) -> None:
        plain_fields(self, "key_bits")
        super().__post_init__()

    def scheme(self, surface: Surface) -> Scheme:
        from protocols.consortium.paillier_scheme import PaillierScheme
        from secagg.paillier.packing import Packing

        bound = surface.summand_bound
        packing = Packing(
            key_bits=self.key_bits,
            bound=bound,
            max_summands=self.max_clients,
            max_sum=max(bound, surface.sum_bound),
        )
        return PaillierScheme(packing)
