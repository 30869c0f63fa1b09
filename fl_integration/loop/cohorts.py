"""Whom a round asks: everybody, or a sample; not whoever broke the protocol; and never nearly the same twice.

`Sampling` draws a cohort for each round from the run's seed. Who may be corrupt is planned for as a share of
the whole roster, all of whom may be in one cohort; so a sample for which that is too many has no plan and is
refused before anything runs.

`Unmoved` remembers sums that were opened and moved nobody. A sum of nearly the same clients for the same
model would tell the updates of those in which the two differ (ATTACKS A10).

>>> Sampling(size=2).cohort(("a", "b", "c"), seed=1, round=0)
('a', 'b')
"""

from collections import Counter
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

import numpy as np

from fl_integration.loop.parties import FederatedClient
from protocols.identity import ClientId
from protocols.interface import Learner
from protocols.machine.parameters import MachineProtocol
from secagg.errors import ParameterError, RoundAborted
from secagg.numbers import plain_fields

__all__ = ["Sampling", "Unmoved", "common_base"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """A cohort of `size` clients for each round, drawn afresh.

    Args:
        size: at least 1.

    Raises:
        ParameterError: size is anything else.
    """

    size: int

    def __post_init__(self) -> None:
        plain_fields(self, "size")
        if type(self.size) is not int or self.size < 1:
            raise ParameterError(f"size is {self.size!r}; a sample has at least one client")

    def check(self, protocol: MachineProtocol, members: Collection[ClientId]) -> None:
        """Refuses a sample that is no cohort of this protocol.

        Raises:
            ParameterError: it is larger than the roster, or so small that those who may be corrupt are too
                many in it.
        """
        if self.size > len(members):
            raise ParameterError(f"a sample of {self.size} out of {len(members)} sites; lower size")
        try:
            protocol.plan(self.size, roster=len(members))
        except ParameterError as error:
            raise ParameterError(f"a sample of {self.size} out of {len(members)} sites: {error}") from error

    def cohort(self, members: tuple[ClientId, ...], *, seed: int, round: int) -> tuple[ClientId, ...]:
        """The members that one round asks, in the order of the roster."""
        generator = np.random.Generator(np.random.PCG64((seed, round)))
        chosen = set(generator.choice(len(members), size=self.size, replace=False).tolist())
        return tuple(name for index, name in enumerate(members) if index in chosen)


class Unmoved:
    """Sums for the model at hand that moved nobody: they were opened and refused, or did not verify.

    Somebody may have seen them: the server, or a client that spoilt one and holds the key. So the next is
    asked of the same again (a culprit may be missing: that is its own update), or of others by as many as
    hide an honest one.

    Attributes:
        seen: the contributors of each such sum.
    """

    def __init__(self, protocol: MachineProtocol, clients: Mapping[ClientId, FederatedClient]) -> None:
        self._protocol, self._clients = protocol, clients
        self.seen: set[frozenset[ClientId]] = set()
        self._base = common_base(clients)
        self._sealed: frozenset[ClientId] | None = None  # contributors of a result that is not delivered yet
        self._delivered: frozenset[ClientId] | None = None  # of the one before

    def ended(self, contributors: frozenset[ClientId], failed: RoundAborted | None) -> None:
        """A round is over."""
        if self._protocol.learns is Learner.CLIENTS:
            self._delivered, self._sealed = self._sealed, contributors if failed is None else None
        elif failed is None:
            self.seen.clear()  # the model moved
        elif failed.opened:
            self.seen.add(failed.opened)

    def settle(self, deliver: Callable[[], None]) -> None:
        """Delivers the last sum at once, and takes note of whether it moved the clients.

        The one before is looked at first: afterwards nobody could tell which of the two moved them.
        """
        self._look(self._delivered)
        deliver()
        self._look(self._sealed)
        self._delivered = self._sealed = None

    def next_cohort(
        self,
        culprits: Collection[ClientId],
        *,
        deliver: Callable[[], None],
        wanted: tuple[ClientId, ...] | None = None,
    ) -> tuple[ClientId, ...]:
        """Whom the next round asks: those who are wanted, all if left out, but the culprits, if there is a
        plan for so few.

        Where the clients learn the sum, whether the last one moved them is known once they have it: it is
        delivered now if that makes a difference, and else with the round.
        """
        members = tuple(self._clients) if wanted is None else wanted
        self._look(self._delivered)
        self._delivered = None
        cohort = self._chosen(members, culprits, self.seen)
        if self._sealed is not None and self._chosen(members, culprits, self.seen | {self._sealed}) != cohort:
            deliver()
            self._look(self._sealed)
            self._sealed = None
            return self._chosen(members, culprits, self.seen)
        return cohort

    def _look(self, contributors: frozenset[ClientId] | None) -> None:
        """Takes note of whether a delivered sum of these moved the clients."""
        if (base := common_base(self._clients)) != self._base:
            self._base, self.seen = base, set()
        elif contributors is not None:
            self.seen.add(contributors)

    def _chosen(
        self,
        wanted: tuple[ClientId, ...],
        culprits: Collection[ClientId],
        seen: Collection[frozenset[ClientId]],
    ) -> tuple[ClientId, ...]:
        members = tuple(self._clients)
        least = self._protocol.suite.requirements.min_contributors

        largest = self._protocol.suite.max_clients

        def will_do(cohort: tuple[ClientId, ...]) -> bool:
            if len(cohort) > largest:
                return False
            try:
                apart = max(least, self._protocol.plan(len(cohort), roster=len(members)).corrupt + 2)
            except ParameterError:
                return False
            differences = [each.symmetric_difference(cohort).difference(culprits) for each in seen]
            if len(seen) > 1:  # three sums tell more than their differences
                return not all(differences)
            return all(not difference or len(difference) >= apart for difference in differences)

        sets = [frozenset(wanted).difference(culprits), frozenset(members).difference(culprits)]
        sets += [each.difference(culprits) for each in seen] + list(seen)
        cohorts = [tuple(name for name in members if name in each) for each in sets]
        return next(filter(will_do, cohorts), members if len(members) <= largest else wanted)


def common_base(clients: Mapping[ClientId, FederatedClient]) -> bytes:
    """What those who are furthest have applied to the initial model; of several, the largest group.

    Most of a roster may be behind: whoever was not asked since the beginning has no key to open a sum with.
    One that the others left behind is never ahead of them.
    """
    there = [each for each in clients.values() if not each.stranded] or list(clients.values())
    most = max(each.opened for each in there)
    return Counter(each.base for each in there if each.opened == most).most_common(1)[0][0]
