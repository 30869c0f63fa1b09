"""Who shares secrets and masks with whom: the random Harary graph of Bell et al. (CCS'20).

On the complete graph every pair of n clients has a mask and every client holds a share of every other: n**2
of everything. Bell et al. show that k = O(log n) neighbours for each do as well, if a corrupt client cannot
choose whom it is next to: with the planner's k, except with the planned probability, no client has too many
corrupt neighbours and the honest survivors stay connected. The graph is Harary's (1962): n places on a
circle, each joined to the k/2 next ones on both sides, and the clients sit on the places in an order drawn
uniformly.

**The order must be nobody's choice** (ATTACKS A5), and there is no party here that all trust to draw it. It
comes from a seed that all clients compute alike: the Merkle root of the signed keys of the cohort, each drawn
afresh for this graph, and its context. One honest key among them makes the seed new. But a server that
decides who is in the cohort, with corrupt clients that choose their keys last, sees the graph of each choice
and can make another: it *grinds*. Two things answer that. Every try costs one evaluation of scrypt
(`secagg.standard.kdf.stretch`; 30 to 40 ms of a core of 2.5 GHz, and 16 MiB), and the plan has paid for
2**grinding_bits tries beforehand: one graph fails with probability at most 2**-(σ + grinding_bits), so any of
that many with at most 2**-σ. 2**40 tries are some 1,200 core-years; dedicated hardware is cheaper, and
whoever expects it raises the bits. A public beacon would need neither, but it is a source outside the server
that each client must be able to reach.

Each client computes the whole graph from the root and takes nobody's word for its place in it. That all were
told the same root is not checked here: the transcript is for that. And nothing is hidden: the server and the
corrupt clients know the graph as soon as the cohort is announced.

>>> graph = Graph.harary(10, degree=4, seed=bytes(32))
>>> [len(graph.neighbours(index)) for index in range(3)]
[4, 4, 4]
>>> Graph.complete(4).neighbours(1), Graph.complete(4).holders(1)
((0, 2, 3), (0, 1, 2, 3))
"""

from dataclasses import dataclass
from functools import lru_cache
from hashlib import shake_256
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from secagg import labels
from secagg.errors import ParameterError
from secagg.standard import kdf
from secagg.standard.merkle import HASH_BYTES
from secagg.wire import Writer

__all__ = ["MAXIMUM_CLIENTS", "SEED_BYTES", "Graph", "graph_seed"]

SEED_BYTES: Final = kdf.STRETCHED_BYTES
MAXIMUM_CLIENTS: Final = 2**24
"""Beyond it the draws of two members would be equal with more than negligible probability."""

_SORT_KEY_BYTES: Final = 16


class _Circle(NamedTuple):
    """Who sits where. Each of the two arrays, of shape (n,), is the other's inverse, and read-only."""

    members: npt.NDArray[np.int32]
    places: npt.NDArray[np.int32]


def graph_seed(*, root: bytes, context: bytes) -> bytes:
    """The seed of a round's graph, `SEED_BYTES`; it takes one evaluation of scrypt.

    Args:
        root: the Merkle root of the cohort's signed keys, `HASH_BYTES`.
        context: what else the graph is bound to, for example session and round.

    Raises:
        ParameterError: a wrong type, or a root of another size.
    """
    # The root has one size, so that root and context cannot run into each other.
    if type(root) is not bytes or len(root) != HASH_BYTES or type(context) is not bytes:
        raise ParameterError(f"a graph's seed takes a root of {HASH_BYTES} bytes and a context of type bytes")
    return kdf.stretch(root + context, label=labels.GRAPH_SEED)


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Graph:
    """A regular graph over the members 0 to clients - 1; made by `complete` or `harary`. It may be shared.

    Attributes:
        clients: how many vertices (n).
        degree: how many neighbours each has (k).
    """

    clients: int
    degree: int
    _circle: _Circle | None

    @classmethod
    def complete(cls, n: int) -> "Graph":
        """Everybody is everybody's neighbour.

        Raises:
            ParameterError: `n` is not in [2, MAXIMUM_CLIENTS].
        """
        _check_size(n)
        return cls(n, n - 1, None)

    @classmethod
    def harary(cls, n: int, *, degree: int, seed: bytes) -> "Graph":
        """The Harary graph over an order that `seed` draws uniformly.

        Args:
            n: clients, in [3, MAXIMUM_CLIENTS].
            degree: neighbours of each, even, in [2, n).
            seed: `SEED_BYTES` of `graph_seed`. Everybody who has it has the same graph.

        Raises:
            ParameterError: anything else.
        """
        _check_size(n)
        if type(degree) is not int or degree % 2 or not 2 <= degree < n:
            raise ParameterError(f"degree is {degree!r}; an even int in [2, {n}) is needed")
        if type(seed) is not bytes or len(seed) != SEED_BYTES:
            raise ParameterError(
                f"a graph's seed is {SEED_BYTES} bytes of type bytes; take it from graph_seed"
            )
        return cls(n, degree, _draw_circle(n, seed))

    @property
    def is_complete(self) -> bool:
        """Made by `complete`. (A Harary graph of degree n - 1 is not: nobody in it holds its own shares.)"""
        return self._circle is None

    def neighbours(self, index: int) -> tuple[int, ...]:
        """The `degree` members next to this one, ascending and without itself.

        Raises:
            ParameterError: `index` is not an int in [0, clients).
        """
        self._check_member(index)
        if self._circle is None:
            return (*range(index), *range(index + 1, self.clients))
        members, places = self._circle
        found = members[(int(places[index]) + self._steps()) % self.clients]
        found.sort()
        return tuple(found.tolist())

    def holders(self, index: int) -> tuple[int, ...]:
        """Who holds shares of this member's secrets, ascending; a holder's Shamir index is its place + 1.

        They are its neighbours, and on the complete graph itself too (Bonawitz et al., CCS'17, Fig. 4).

        Raises:
            ParameterError: `index` is not an int in [0, clients).
        """
        if self._circle is None:
            self._check_member(index)
            return tuple(range(self.clients))
        return self.neighbours(index)

    def holder_table(self) -> npt.NDArray[np.int64]:
        """`holders` of every member at once, for a server: a row for each, shape (clients, holders)."""
        if self._circle is None:
            return np.tile(np.arange(self.clients), (self.clients, 1))
        members, places = self._circle
        table: npt.NDArray[np.int64] = members[(places[:, None] + self._steps()) % self.clients]
        table = table.astype(np.int64)
        table.sort(axis=1)
        return table

    def are_neighbours(self, first: int, second: int) -> bool:
        """Whether these two share secrets and a mask; nobody does with itself.

        Raises:
            ParameterError: an index is not an int in [0, clients).
        """
        self._check_member(first)
        self._check_member(second)
        if self._circle is None:
            return first != second
        steps = int(self._circle.places[first] - self._circle.places[second]) % self.clients
        return 0 < min(steps, self.clients - steps) <= self.degree // 2

    def __repr__(self) -> str:
        kind = "complete" if self.is_complete else "harary"
        return f"Graph({kind}, clients={self.clients}, degree={self.degree})"

    def _steps(self) -> npt.NDArray[np.int64]:
        """How far each neighbour sits, to the left and to the right."""
        half = self.degree // 2
        # degree < clients, so that the steps to the left never meet those to the right.
        return np.concatenate([np.arange(-half, 0), np.arange(1, half + 1)])

    def _check_member(self, index: int) -> None:
        if type(index) is not int or not 0 <= index < self.clients:
            raise ParameterError(f"index is {index!r}; an int in [0, {self.clients}) is needed")


def _check_size(n: int) -> None:
    if type(n) is not int or not 2 <= n <= MAXIMUM_CLIENTS:
        raise ParameterError(f"n is {n!r}; an int in [2, {MAXIMUM_CLIENTS}] is needed")


@lru_cache(maxsize=8)
def _draw_circle(n: int, seed: bytes) -> _Circle:
    """A uniform order of n members: each draws 128 bits, and they sit down in ascending order of those.

    Cached, because all parties of one process ask for the same one.
    """
    # Two equal draws would favour the smaller index; among 2**24 members or fewer that has probability below
    # 2**-80.
    stream = shake_256(Writer().blob(labels.GRAPH_ORDER).fixed(seed).finish()).digest(n * _SORT_KEY_BYTES)
    high, low = np.frombuffer(stream, dtype="<u8").reshape(n, 2).T
    members = np.lexsort((low, high)).astype(np.int32)
    places = np.empty_like(members)
    places[members] = np.arange(n, dtype=np.int32)
    members.flags.writeable = places.flags.writeable = False
    return _Circle(members, places)
