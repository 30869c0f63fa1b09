"""The graph: a slow twin, what makes it a random Harary graph, who computes it, and every wrong argument."""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import combinations, permutations
from math import comb

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocols.masked import graph as module
from protocols.masked.graph import MAXIMUM_CLIENTS, SEED_BYTES, Graph, graph_seed
from secagg import labels
from secagg.entropy import SeededEntropy, uniform_below
from secagg.errors import ParameterError
from secagg.standard import kdf
from secagg.standard.merkle import Tree

SEED = bytes(range(SEED_BYTES))


def seeds(count: int) -> Iterator[bytes]:
    """A fixed stream of seeds."""
    entropy = SeededEntropy(b"seeds of graphs")
    return (entropy(SEED_BYTES) for _ in range(count))


def edges(graph: Graph) -> set[tuple[int, int]]:
    return {(a, b) for a in range(graph.clients) for b in graph.neighbours(a) if a < b}


def slow_circle(n: int, seed: bytes) -> list[int]:
    """The members in the order of their places: sorted by the 16 bytes that each draws."""
    label = labels.GRAPH_ORDER
    stream = hashlib.shake_256(len(label).to_bytes(4, "big") + label + seed).digest(16 * n)

    def drawn(member: int) -> tuple[int, int]:
        own = stream[16 * member : 16 * member + 16]
        return int.from_bytes(own[:8], "little"), int.from_bytes(own[8:], "little")

    return sorted(range(n), key=drawn)


def slow_neighbours(circle: list[int], degree: int, index: int) -> tuple[int, ...]:
    place = circle.index(index)
    steps = [step for step in range(-degree // 2, degree // 2 + 1) if step]
    return tuple(sorted(circle[(place + step) % len(circle)] for step in steps))


def is_connected(neighbours: Callable[[int], tuple[int, ...]], alive: set[int]) -> bool:
    seen, queue = set(), [min(alive)]
    while queue:
        index = queue.pop()
        if index not in seen:
            seen.add(index)
            queue.extend(alive.intersection(neighbours(index)))
    return seen == alive


def chi_square(counts: Counter[object], expected: dict[object, float]) -> float:
    assert set(counts) <= set(expected)
    return sum((counts[cell] - mean) ** 2 / mean for cell, mean in expected.items())


sizes = st.integers(3, 60).flatmap(
    lambda n: st.tuples(st.just(n), st.integers(1, (n - 1) // 2).map(lambda half: 2 * half))
)


@given(size=sizes, seed=st.binary(min_size=SEED_BYTES, max_size=SEED_BYTES))
def test_the_graph_is_that_of_the_slow_twin(size: tuple[int, int], seed: bytes) -> None:
    n, degree = size
    graph, circle = Graph.harary(n, degree=degree, seed=seed), slow_circle(n, seed)
    assert (graph.clients, graph.degree, graph.is_complete) == (n, degree, False)
    for index in range(n):
        expected = slow_neighbours(circle, degree, index)
        assert graph.neighbours(index) == expected
        assert graph.holders(index) == expected
        assert {other for other in range(n) if graph.are_neighbours(index, other)} == set(expected)


@given(size=sizes, seed=st.binary(min_size=SEED_BYTES, max_size=SEED_BYTES))
def test_regular_symmetric_connected_and_without_loops(size: tuple[int, int], seed: bytes) -> None:
    n, degree = size
    graph = Graph.harary(n, degree=degree, seed=seed)
    for index in range(n):
        neighbours = graph.neighbours(index)
        assert len(neighbours) == degree
        assert list(neighbours) == sorted(set(neighbours))
        assert index not in neighbours
        assert all(index in graph.neighbours(other) for other in neighbours)
    assert len(edges(graph)) == n * degree // 2
    assert is_connected(graph.neighbours, set(range(n)))


def test_any_degree_less_one_vertices_may_vanish() -> None:
    """Harary, 1962: k-connected, with the fewest edges that allow it."""
    graph = Graph.harary(10, degree=4, seed=SEED)
    everybody = set(range(10))
    assert all(is_connected(graph.neighbours, everybody - set(gone)) for gone in combinations(everybody, 3))
    assert not all(
        is_connected(graph.neighbours, everybody - set(gone)) for gone in combinations(everybody, 4)
    )


@pytest.mark.parametrize("n", [2, 3, 4, 19])
def test_the_complete_graph(n: int) -> None:
    graph = Graph.complete(n)
    assert (graph.clients, graph.degree, graph.is_complete) == (n, n - 1, True)
    for index in range(n):
        assert graph.neighbours(index) == tuple(other for other in range(n) if other != index)
        assert graph.holders(index) == tuple(range(n))
        assert [graph.are_neighbours(index, other) for other in range(n)] == [
            other != index for other in range(n)
        ]


def test_a_harary_graph_of_full_degree_joins_everybody_and_keeps_no_own_share() -> None:
    graph = Graph.harary(7, degree=6, seed=SEED)
    assert edges(graph) == edges(Graph.complete(7))
    assert not graph.is_complete
    assert all(index not in graph.holders(index) for index in range(7))


def test_pinned_graph() -> None:
    """Changing any of these cuts a new client off from the old ones."""
    seed = graph_seed(root=SEED, context=b"round 1")
    assert seed.hex() == "a0ec309d8794a96d40de25a0a0b50c608d9c5f393e78f09cc66ab72cdf339087"
    graph = Graph.harary(12, degree=4, seed=seed)
    assert [graph.neighbours(index) for index in range(3)] == [(5, 6, 7, 10), (4, 5, 6, 11), (7, 8, 9, 10)]


# The order


def uniform_order(seed: bytes) -> tuple[int, ...]:
    return tuple(module._draw_circle(4, seed).members.tolist())


def naive_shuffle(seed: bytes) -> tuple[int, ...]:
    """Exchanges each place with *any* other: 4**4 equally likely runs cannot be 4! equally likely orders."""
    entropy, order = SeededEntropy(seed), [0, 1, 2, 3]
    for place in range(4):
        other = uniform_below(entropy, 4)
        order[place], order[other] = order[other], order[place]
    return tuple(order)


def test_every_order_is_equally_likely() -> None:
    """Chi-square with 23 degrees of freedom: mean 23, beyond 60 with probability 4e-5."""
    draws = 4800
    expected: dict[object, float] = dict.fromkeys(permutations(range(4)), draws / 24)
    drawn: Counter[object] = Counter(uniform_order(seed) for seed in seeds(draws))
    assert chi_square(drawn, expected) < 60
    biased: Counter[object] = Counter(naive_shuffle(seed) for seed in seeds(draws))
    assert chi_square(biased, expected) > 120


def test_every_cycle_is_equally_likely() -> None:
    """Degree 2 over 5 members: 4!/2 cycles. Chi-square, 11 degrees of freedom, beyond 42 with 2e-5."""
    draws = 2400
    drawn: Counter[object] = Counter(
        frozenset(edges(Graph.harary(5, degree=2, seed=seed))) for seed in seeds(draws)
    )
    assert len(drawn) == 12
    assert chi_square(drawn, dict.fromkeys(drawn, draws / 12)) < 42


def corrupt_neighbours(seed: bytes) -> int:
    """How many of the members 0 to 19 are next to member 59."""
    return sum(other < 20 for other in Graph.harary(60, degree=10, seed=seed).neighbours(59))


def test_a5_corrupt_neighbours_are_hypergeometric_unless_the_seed_is_chosen() -> None:
    """What the planner's bounds stand on: 10 neighbours drawn of 59 others, 20 of them corrupt."""
    draws = 3000
    expected = {count: draws * comb(20, count) * comb(39, 10 - count) / comb(59, 10) for count in range(11)}
    # Cells of few are counted as one, as the chi-square approximation needs.
    first_rare = next(count for count in range(4, 11) if expected[count] < 40)

    def cell(count: int) -> object:
        return min(count, first_rare)

    cells: Counter[object] = Counter()
    for count, mean in expected.items():
        cells[cell(count)] += mean  # type: ignore[assignment]
    assert (len(cells), min(cells.values()) > 20) == (8, True)

    drawn: Counter[object] = Counter(cell(corrupt_neighbours(seed)) for seed in seeds(draws))
    # 7 degrees of freedom: beyond 40 with probability 2e-6.
    assert chi_square(drawn, dict(cells)) < 40
    # A server that may take the best of four seeds puts more of its own around the victim.
    chosen: Counter[object] = Counter(
        cell(max(corrupt_neighbours(bytes([attempt]) + seed[1:]) for attempt in range(4)))
        for seed in seeds(draws)
    )
    assert chi_square(chosen, dict(cells)) > 1000


# Who computes it


def test_clients_and_server_compute_the_same_graph_each_by_itself() -> None:
    keys = [hashlib.sha256(bytes([member])).digest() for member in range(30)]

    def compute() -> Graph:
        kdf._stretch.cache_clear()
        module._draw_circle.cache_clear()
        seed = graph_seed(root=Tree(keys).root, context=b"session, round 7")
        return Graph.harary(30, degree=6, seed=seed)

    at_server = compute()
    for member in range(0, 30, 7):
        at_client = compute()
        assert at_client.neighbours(member) == at_server.neighbours(member)
        assert all(at_server.are_neighbours(member, other) for other in at_client.neighbours(member))
    assert edges(compute()) == edges(at_server)


def test_a5_another_key_or_context_gives_an_unrelated_graph() -> None:
    keys = [bytes([member]) * 32 for member in range(40)]
    root = Tree(keys).root
    others = [
        (Tree([*keys[:-1], bytes(32)]).root, b"round 1"),
        (Tree(keys[:-1]).root, b"round 1"),
        (root, b"round 2"),
        (root, b""),
    ]
    first = edges(Graph.harary(40, degree=4, seed=graph_seed(root=root, context=b"round 1")))
    for other_root, context in others:
        other = edges(Graph.harary(40, degree=4, seed=graph_seed(root=other_root, context=context)))
        # 80 edges of 780 possible ones: 8.2 are shared by chance, 30 never.
        assert len(first & other) < 30


def test_a_seed_is_stretched_and_cannot_trade_bytes_with_its_context() -> None:
    seed = graph_seed(root=bytes(32), context=b"context")
    assert seed == kdf.stretch(bytes(32) + b"context", label=labels.GRAPH_SEED)
    with pytest.raises(ParameterError, match="root of 32 bytes"):
        graph_seed(root=bytes(33), context=b"context")


def test_parties_of_one_process_share_one_drawn_order() -> None:
    first, second = (Graph.harary(50, degree=degree, seed=SEED) for degree in (4, 8))
    assert first._circle is not None
    assert first._circle is second._circle
    assert not any(array.flags.writeable for array in first._circle)


def test_a_large_graph_is_two_arrays() -> None:
    graph = Graph.harary(100_000, degree=100, seed=SEED)
    assert graph._circle is not None
    assert sum(array.nbytes for array in graph._circle) == 8 * 100_000
    neighbours = graph.neighbours(54_321)
    assert len(set(neighbours)) == 100
    assert all(graph.are_neighbours(other, 54_321) for other in neighbours)
    assert all(type(other) is int for other in neighbours)


# Wrong arguments


@pytest.mark.parametrize("n", [-1, 0, 1, MAXIMUM_CLIENTS + 1, True, 4.0, "4", None])
def test_wrong_size(n: object) -> None:
    with pytest.raises(ParameterError, match="n is"):
        Graph.complete(n)  # type: ignore[arg-type]
    with pytest.raises(ParameterError, match="n is"):
        Graph.harary(n, degree=2, seed=SEED)  # type: ignore[arg-type]


@pytest.mark.parametrize("degree", [-2, 0, 1, 3, 9, 10, 12, True, 4.0, "4", None])
def test_wrong_degree(degree: object) -> None:
    with pytest.raises(ParameterError, match="degree is"):
        Graph.harary(10, degree=degree, seed=SEED)  # type: ignore[arg-type]


def test_two_members_have_no_harary_graph() -> None:
    with pytest.raises(ParameterError, match="degree is"):
        Graph.harary(2, degree=2, seed=SEED)


@pytest.mark.parametrize("seed", [b"", bytes(31), bytes(33), bytearray(32), "s" * 32, None, 7])
def test_wrong_seed(seed: object) -> None:
    with pytest.raises(ParameterError, match="seed is 32 bytes"):
        Graph.harary(10, degree=4, seed=seed)  # type: ignore[arg-type]


@pytest.mark.parametrize("graph", [Graph.complete(10), Graph.harary(10, degree=4, seed=SEED)])
@pytest.mark.parametrize("index", [-1, 10, True, 1.0, "1", None])
def test_wrong_index(graph: Graph, index: object) -> None:
    for call in (graph.neighbours, graph.holders, lambda i: graph.are_neighbours(0, i)):
        with pytest.raises(ParameterError, match="index is"):
            call(index)  # type: ignore[arg-type]
    with pytest.raises(ParameterError, match="index is"):
        graph.are_neighbours(index, 0)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("root", "context"),
    [
        (bytes(31), b""),
        (bytes(33), b""),
        (bytearray(32), b""),
        ("r" * 32, b""),
        (bytes(32), "round"),
        (None, b""),
    ],
)
def test_wrong_root_or_context(root: object, context: object) -> None:
    with pytest.raises(ParameterError, match="root of 32 bytes"):
        graph_seed(root=root, context=context)  # type: ignore[arg-type]


def test_a_graph_says_what_it_is() -> None:
    assert repr(Graph.complete(4)) == "Graph(complete, clients=4, degree=3)"
    assert repr(Graph.harary(10, degree=4, seed=SEED)) == "Graph(harary, clients=10, degree=4)"
    with pytest.raises(AttributeError):
        Graph.complete(4).degree = 2  # type: ignore[misc]
