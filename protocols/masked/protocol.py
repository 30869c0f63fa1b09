"""MaskedSum: additive masking that survives dropouts; the server learns the sum and nothing else.

Bonawitz et al., "Practical Secure Aggregation for Privacy-Preserving Machine Learning", CCS'17, on the random
graph of Bell et al., "Secure Single-Server Aggregation with (Poly)Logarithmic Overhead", CCS'20; on the
complete graph for small cohorts. Neighbours share a mask that one adds and the other subtracts; each client
adds a mask of its own; Shamir shares let the server take off what a vanished client left behind.

Against: up to c corrupt clients, a share γ of the roster whichever of them are in the cohort, together with a
server that reads everything (SEMI_HONEST), that also tells different clients different stories
(SEMI_MALICIOUS, the default), or that is kept to one story by a quorum of signatures (MALICIOUS, one exchange
more). Traffic that is recorded today stays closed to a quantum computer: all pair secrets and channels are
hybrids of X25519 and ML-KEM-768. Signatures are Ed25519, so who has a quantum computer *during* a round can
forge keys.
Not protected: what the sum itself says (of two contributors, everything), inputs that lie, the fact of
taking part. See `plan`, and the package's threat model.

>>> import numpy as np
>>> from protocols import Adversary, MaskedSum, Requirements, simulate
>>> updates = {name: np.full(4, value) for name, value in [("a", 0.0), ("b", 0.25), ("c", 0.5), ("d", 9.0)]}
>>> protocol = MaskedSum(max_clients=4, requirements=Requirements(adversary=Adversary.MALICIOUS))
>>> run = simulate(protocol, updates, drop={"d": "Unmask"}, seed=1)
>>> [round(x, 2) for x in run.mean.tolist()], run.clipped["d"], sorted(run.contributors)
([0.44, 0.44, 0.44, 0.44], 4, ['a', 'b', 'c', 'd'])
"""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

from protocols.interface import Learner
from protocols.machine.parameters import Parameters
from protocols.machine.summand import Surface
from protocols.planning.requirements import Adversary, Plan

if TYPE_CHECKING:
    from protocols.machine.suite import Suite

__all__ = ["MaskedSum"]

LONG_PATH = ("AdvertiseKeys", "ShareKeys")


@dataclass(frozen=True, kw_only=True)
class MaskedSum(Parameters):
    """Double masking over a planned graph. Arguments are those of `Parameters`.

    `plan(n, roster=…)` says what follows from `requirements` for n clients of a roster; it prints as a table.
    """

    withstands: ClassVar[frozenset[Adversary]] = frozenset(Adversary)
    sums_residues: ClassVar[bool] = True

    @property
    def learns(self) -> Learner:
        return Learner.SERVER

    def exchanges(self, *, first: bool) -> tuple[str, ...]:
        names = self.suite.exchanges
        return names if first else names[len(LONG_PATH) :]

    def suite_on(self, surface: Surface, *, digest: bytes) -> "Suite":
        # The steps are loaded with the first MaskedSum: most programs run one protocol of the package.
        from protocols.machine.suite import Suite
        from protocols.masked.client import MaskedClientSteps
        from protocols.masked.messages import (
            AdvertiseKeys,
            Announcement,
            CohortKeys,
            CollectInput,
            ConsistencyCheck,
            MaskedInput,
            Quorum,
            ShareKeys,
            Survivors,
            Unmask,
        )
        from protocols.masked.server import MaskedServerSteps
        from protocols.masked.traffic import control_bytes
        from protocols.planning.planner import plan_masked

        malicious = self.requirements.adversary is Adversary.MALICIOUS
        check = (("ConsistencyCheck", Survivors, ConsistencyCheck),) if malicious else ()
        table = (
            ("AdvertiseKeys", Announcement, AdvertiseKeys),
            ("ShareKeys", CohortKeys, ShareKeys),
            ("MaskedInput", CollectInput, MaskedInput),
            *check,
            ("Unmask", Quorum, Unmask),
        )

        def plan(n: int, roster: int) -> Plan:
            numbers = plan_masked(n, self.requirements, ring_bits=surface.ring.bits, roster=roster)
            sent, received = control_bytes(numbers)
            return replace(
                numbers,
                client_sends=sent,
                client_receives=received,
                one_update="opens to nobody, "
                + ("but see below" if numbers.exposure else "no key for it exists"),
                post_quantum=True,
            )

        return Suite(
            code=2,
            name="MaskedSum",
            learns=self.learns,
            surface=surface,
            requirements=self.requirements,
            max_clients=self.max_clients,
            digest=digest,
            exchanges=tuple(name for name, _, _ in table),
            collecting=2,
            requests=tuple(request for _, request, _ in table),
            replies=tuple(reply for _, _, reply in table),
            client=MaskedClientSteps(),
            server=MaskedServerSteps(),
            plan=plan,
        )
