"""MaskedSum: additive masking that survives dropouts; the server learns the sum and nothing else.

Bonawitz et al., "Practical Secure Aggregation for Privacy-Preserving Machine Learning", CCS'17, on the
complete graph. Each pair of clients shares a mask that one adds and the other subtracts; each client adds a
mask of its own; Shamir shares let the server take off what a vanished client left behind.

Against: a server that follows the protocol and reads everything, together with up to ⌈γn⌉ clients.
Not protected: what the sum itself says (of two contributors, everything), inputs that lie, the fact of
taking part, and anything against a server that lies about who survived.

>>> import numpy as np
>>> from protocols import MaskedSum, simulate
>>> updates = {name: np.full(4, value) for name, value in [("a", 0.0), ("b", 0.25), ("c", 0.5), ("d", 9.0)]}
>>> run = simulate(MaskedSum(max_clients=4), updates, drop={"d": "Unmask"}, seed=1)
>>> [round(x, 2) for x in run.mean.tolist()], run.clipped["d"], sorted(run.contributors)
([0.44, 0.44, 0.44, 0.44], 4, ['a', 'b', 'c', 'd'])
"""

from dataclasses import dataclass

from protocols.interface import Learner
from protocols.masked.client import MaskedClientSteps
from protocols.masked.messages import (
    AdvertiseKeys,
    Announcement,
    CohortKeys,
    CollectInput,
    MaskedInput,
    ShareKeys,
    Survivors,
    Unmask,
)
from protocols.masked.server import MaskedServerSteps
from protocols.parameters import Parameters
from protocols.requirements import plan_complete
from protocols.suite import Suite
from protocols.summand import Surface

__all__ = ["MaskedSum"]


@dataclass(frozen=True, kw_only=True)
class MaskedSum(Parameters):
    """Double masking on the complete graph. Arguments are those of `Parameters`.

    `requirements.adversary` must be `SEMI_HONEST`; the others raise `ParameterError`.
    """

    @property
    def learns(self) -> Learner:
        return Learner.SERVER

    def suite_on(self, surface: Surface, *, digest: bytes) -> Suite:
        return Suite(
            code=2,
            name="MaskedSum",
            learns=self.learns,
            surface=surface,
            requirements=self.requirements,
            max_clients=self.max_clients,
            digest=digest,
            exchanges=("AdvertiseKeys", "ShareKeys", "MaskedInput", "Unmask"),
            collecting=2,
            requests=(Announcement, CohortKeys, CollectInput, Survivors),
            replies=(AdvertiseKeys, ShareKeys, MaskedInput, Unmask),
            client=MaskedClientSteps(),
            server=MaskedServerSteps(),
            plan=lambda n: plan_complete(n, self.requirements, ring_bits=surface.ring.bits),
        )
