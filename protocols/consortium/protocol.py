"""The consortium protocol over any scheme: set-up in the first round, then one exchange a round."""

from abc import abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from protocols.consortium.scheme import Scheme
from protocols.interface import Learner
from protocols.machine.parameters import Parameters
from protocols.machine.summand import Surface
from protocols.planning.requirements import Adversary, plan_unshared

if TYPE_CHECKING:
    from protocols.machine.suite import Suite

__all__ = ["ConsortiumParameters"]


@dataclass(frozen=True, kw_only=True)
class ConsortiumParameters(Parameters):
    """What CkksSum and PaillierSum share."""

    code: ClassVar[int]
    withstands: ClassVar[frozenset[Adversary]] = frozenset({Adversary.SEMI_HONEST, Adversary.SEMI_MALICIOUS})
    """A lying server learns no sum at all, and a tag binds each result to its contributors. It can still give
    two clients sums of different contributors, so it is not held to one story."""

    @property
    def _ring_weight(self) -> int:
        # A vector that overflows its slots spoils the tag, and nobody could say why: room for all weights.
        return self.max_clients * self.max_weight

    @property
    def learns(self) -> Learner:
        return Learner.CLIENTS

    @abstractmethod
    def scheme(self, surface: Surface) -> Scheme:
        """The scheme, with parameters that hold the largest sum of `surface`."""

    def exchanges(self, *, first: bool) -> tuple[str, ...]:
        return self.suite.exchanges if first else self.suite.exchanges[2:]

    def suite_on(self, surface: Surface, *, digest: bytes) -> "Suite":
        # The steps, and the scheme with its arithmetic, are loaded with the first such sum.
        from protocols.consortium.client import ConsortiumClientSteps
        from protocols.consortium.messages import (
            AdvertiseKeys,
            Announcement,
            Collect,
            Contribution,
            Distribute,
            DistributeKey,
        )
        from protocols.consortium.server import ConsortiumServerSteps
        from protocols.machine.suite import Suite

        scheme = self.scheme(surface)
        return Suite(
            code=self.code,
            name=type(self).__name__,
            learns=self.learns,
            surface=surface,
            requirements=self.requirements,
            max_clients=self.max_clients,
            digest=digest,
            exchanges=("AdvertiseKeys", "DistributeKey", "Contribute"),
            collecting=2,
            requests=(Announcement, Distribute, Collect),
            replies=(AdvertiseKeys, DistributeKey, Contribution),
            client=ConsortiumClientSteps(scheme),
            server=ConsortiumServerSteps(scheme),
            plan=lambda n, roster: plan_unshared(
                n,
                self.requirements,
                roster=roster,
                ring_bits=surface.ring.bits,
                protects=True,
                one_update="opens to any client together with the server: every client holds the key",
                post_quantum=False,
            ),
        )
