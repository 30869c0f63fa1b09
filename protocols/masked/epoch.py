"""What outlives a round of MaskedSum: the epoch's graph and parameters, and a client's prepared secrets.

An *epoch* begins on the long path, with new keys and a new graph, and lasts as long as rounds take the short
one. Its members are the announced cohort; who vanishes stays a vertex of the graph and counts as dropped
until the next epoch, so that nobody can move the others' places by choosing who is left (ATTACKS A5).
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from functools import cached_property, lru_cache

from protocols.identity import ClientId
from protocols.masked.graph import Graph
from protocols.masked.members import Members
from protocols.masked.transcript import share_context
from protocols.messages.schema import U32, U64, Key32, Name
from protocols.planning.requirements import Adversary, Plan
from secagg.secret import Secret

__all__ = ["Edge", "Epoch", "Prepared", "members_of"]


@lru_cache(maxsize=16)
def members_of(cohort: tuple[ClientId, ...]) -> Members:
    """The cohort with its bitmaps; made once for all parties of a process."""
    return Members(cohort)


@dataclass(frozen=True)  # without slots, so that it remembers what follows from its fields
class Epoch:
    """What all members of an epoch agree on.

    Attributes:
        round: the round that began it.
        digest: the transcript that every key, share and signature is bound to.
        cohort: its members (U), in the roster's order; a member's place in it is its number.
        degree, threshold: k and t.
        seed: of the random graph; empty on the complete graph.
        least: without so many survivors nothing is revealed.
        least_neighbours: without so many surviving neighbours a client reveals nothing.
        corrupt: the number of corrupt clients that is planned for (c).
        corrupt_neighbours: the most of them that are planned for around one client.
        splits: whether a server that tells different clients different survivors is planned for.
    """

    round: U64
    digest: Key32
    cohort: tuple[Name, ...]
    degree: U32
    threshold: U32
    seed: bytes
    least: U32
    least_neighbours: U32
    corrupt: U32
    corrupt_neighbours: U32
    splits: bool

    @classmethod
    def of(
        cls, plan: Plan, *, round: int, digest: bytes, cohort: tuple[ClientId, ...], seed: bytes
    ) -> "Epoch":
        """The epoch of a cohort under its plan."""
        return cls(
            round,
            digest,
            cohort,
            plan.degree,
            plan.threshold,
            seed,
            plan.min_survivors,
            plan.min_neighbours,
            plan.corrupt,
            plan.corrupt_neighbours,
            plan.adversary is Adversary.SEMI_MALICIOUS,
        )

    def __hash__(self) -> int:
        return hash(self.digest)  # which stands for the rest; a server looks epochs up with every message

    @cached_property
    def members(self) -> Members:
        """The members and their bitmaps."""
        return members_of(self.cohort)

    @cached_property
    def graph(self) -> Graph:
        """Who shares secrets and masks with whom."""
        if not self.seed:
            return Graph.complete(len(self.cohort))
        return Graph.harary(len(self.cohort), degree=self.degree, seed=self.seed)

    def context(self, origin: int) -> bytes:
        """What the hashes and seals of the dealings for round `origin` are bound to."""
        return share_context(epoch=self.digest, origin=origin)

    def survivors_for(self, minimum: int) -> int:
        """Without how many survivors a client that insists on `minimum` contributors reveals nothing.

        A server that splits views can open a group of only 2m - n contributors where every client saw m
        survivors (ATTACKS A2; `planner` says why, and that it holds on the complete graph only).
        """
        return -(-(len(self.cohort) + minimum) // 2) if self.splits and len(self.cohort) > 2 else minimum

    @property
    def quorum(self) -> int:
        """Signatures without which no survivor set stands: two such sets share an honest signer.

        All members count, and not only those whom a server calls active, which it may tell each differently.
        """
        return (len(self.cohort) + self.corrupt) // 2 + 1

    def among(self, places: Iterable[int], there: Collection[int]) -> tuple[int, ...]:
        """Those of `places` that are in `there`, in order."""
        return tuple(place for place in places if place in there)


@dataclass(frozen=True, slots=True)
class Edge:
    """What a client has prepared with one neighbour.

    Attributes:
        pair_secret: of the next round's masks.
        incoming: opens what the neighbour dealt to this client.
        chain: the channel's next link.
    """

    pair_secret: Secret
    incoming: Secret
    chain: Secret


@dataclass(frozen=True, slots=True)
class Prepared:
    """A client's secrets for one later round, used once.

    Attributes:
        origin: the first round that they can serve.
        edges: by the place of each neighbour that was there.
        self_mask_seed: b_u.
        own_shares: the shares of its own secrets that a client keeps on the complete graph, else empty.
    """

    origin: U64
    edges: dict[U32, Edge]
    self_mask_seed: Secret
    own_shares: Secret
