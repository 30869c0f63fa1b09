"""CkksSum: CKKS through TenSEAL under one key that the clients share; the clients learn the sum.

A CLIENT THAT COLLUDES WITH THE SERVER READS EVERY UPDATE, and so does a server whose operator is also a
client: every client holds the one key (ATTACKS C1). Choose it where that cannot happen, or choose MaskedSum.

Cheon, Kim, Kim, Song, ASIACRYPT 2017. Parameters are chosen for sums, for 128-bit security and so that
rounding is exact (`secagg.ckks.parameters` has the argument): what is opened does not depend on the noise
(ATTACKS C2), and all clients get identical sums. Any dropout is survived: the server adds whatever came.

>>> import numpy as np
>>> from protocols import CkksSum, simulate
>>> updates = {name: np.full(3, value) for name, value in [("a", 0.0), ("b", 0.25), ("c", 0.5)]}
>>> [round(x, 3) for x in simulate(CkksSum(max_clients=3), updates).mean.tolist()]
[0.25, 0.25, 0.25]
"""

from dataclasses import dataclass

from protocols.consortium.protocol import ConsortiumParameters
from protocols.consortium.scheme import Scheme
from protocols.machine.summand import Surface
from secagg.errors import ParameterError

__all__ = ["CkksSum"]


@dataclass(frozen=True, kw_only=True)
class CkksSum(ConsortiumParameters):
    """The sum under CKKS; every client can open it, and every update. See the module's first line."""

    code = 4

    def scheme(self, surface: Surface) -> Scheme:
        from protocols.consortium.ckks_scheme import CkksScheme
        from secagg.ckks import scheme as ckks

        try:
            parameters = ckks.choose_parameters(bound=surface.sum_bound, max_summands=self.max_clients)
        except ParameterError:
            raise ParameterError(
                f"sums of up to {surface.sum_bound} over {self.max_clients} clients are not exact under "
                "CKKS; lower bits, max_weight or max_clients (on the integer surface max_summand or "
                "max_abs), or take MaskedSum or PaillierSum"
            ) from None
        return CkksScheme(parameters)
