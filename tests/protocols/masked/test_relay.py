"""What the server does for all clients at once, against what it would do for each."""

from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocols.masked.epoch import Epoch
from protocols.masked.graph import SEED_BYTES
from protocols.masked.messages import COMMITMENT_BYTES, SHARE_BYTES
from protocols.masked.relay import Pairs, holders_left, layout_of, one_object
from protocols.masked.transcript import share_hash, share_hash_column
from protocols.masked.unmasking import _by_dealer

CLIENTS = 13


def epoch_of(degree: int, *, seed: bytes = bytes(range(SEED_BYTES))) -> Epoch:
    cohort = tuple(f"client {place:02}" for place in range(CLIENTS))
    complete = degree == CLIENTS - 1
    return Epoch(0, bytes(32), cohort, degree, 3, b"" if complete else seed, 3, 2, 1, 1, False)


EPOCHS = (epoch_of(4), epoch_of(8), epoch_of(CLIENTS - 1))
epochs = st.sampled_from(EPOCHS)
crowds = st.frozensets(st.integers(0, CLIENTS - 1))


def pieces(pairs: Pairs) -> list[tuple[int, int]]:
    return list(zip(pairs.dealers.tolist(), pairs.holders.tolist(), strict=True))


def slow_pieces(epoch: Epoch, present: frozenset[int], *, holders: bool) -> Iterator[tuple[int, int]]:
    for dealer in sorted(present):
        around = epoch.graph.holders(dealer) if holders else epoch.graph.neighbours(dealer)
        yield from ((dealer, holder) for holder in around if holder in present)


@given(epoch=epochs, present=crowds)
def test_the_layout_is_that_of_each_dealer(epoch: Epoch, present: frozenset[int]) -> None:
    layout = layout_of(epoch, present)
    neighbours = list(slow_pieces(epoch, present, holders=False))
    assert pieces(layout.neighbours) == neighbours
    assert pieces(layout.holders) == list(slow_pieces(epoch, present, holders=True))
    assert pieces(layout.behind) == [(dealer, holder) for dealer, holder in neighbours if holder > dealer]
    for dealer in range(CLIENTS):
        mine = [holder for other, holder in neighbours if other == dealer]
        assert layout.neighbours.holders_of(dealer).tolist() == mine
        assert layout.neighbours.count(dealer) == len(mine)
        assert layout.neighbours.positions(dealer) == {holder: at for at, holder in enumerate(mine)}


@given(epoch=epochs, there=crowds)
def test_holders_left(epoch: Epoch, there: frozenset[int]) -> None:
    expected = [len(there.intersection(epoch.graph.holders(place))) for place in range(CLIENTS)]
    assert holders_left(epoch, there).tolist() == expected


def test_equal_sets_are_one_object() -> None:
    first, second = frozenset(range(900, 1000)), frozenset(range(900, 1000))
    assert first is not second
    assert one_object(second) is one_object(first)


@given(epoch=epochs, data=st.data())
def test_shares_by_holder_become_shares_by_dealer(epoch: Epoch, data: st.DataObject) -> None:
    """Any holders, who revealed any of what they hold: each share stands under its dealer and its index."""
    revealed = {}
    for holder in data.draw(st.permutations(range(CLIENTS)))[: data.draw(st.integers(0, CLIENTS))]:
        dealers = [each for each in epoch.graph.holders(holder) if data.draw(st.booleans())]
        column = b"".join(bytes([dealer, holder]).ljust(SHARE_BYTES, b"!") for dealer in dealers)
        revealed[holder] = np.array(dealers, dtype=np.int64), column
    found = _by_dealer(epoch, revealed)
    assert len(found.bounds) == CLIENTS + 1
    for dealer in range(CLIENTS):
        holders = [each for each in sorted(revealed) if dealer in revealed[each][0]]
        start, stop = found.bounds[dealer : dealer + 2]
        indices = [epoch.graph.holders(dealer).index(holder) + 1 for holder in holders]
        assert found.indices[start:stop].tolist() == indices
        shares = [bytes([dealer, holder]).ljust(SHARE_BYTES, b"!") for holder in holders]
        assert found.shares[start * SHARE_BYTES : stop * SHARE_BYTES] == b"".join(shares)


@pytest.mark.parametrize("count", [0, 1, 9])
def test_a_column_of_hashes_is_the_hash_of_each_share(count: int) -> None:
    dealers = np.arange(count) * 70_001 + 3
    kinds = np.arange(count) % 3 == 1
    shares = bytes(range(count * SHARE_BYTES % 256)).ljust(count * SHARE_BYTES, b"s")
    column = share_hash_column(b"context", dealers=dealers, holder=1 << 20, kinds=kinds, shares=shares)
    each = [
        share_hash(b"context", dealer, 1 << 20, int(kind), shares[at * SHARE_BYTES : (at + 1) * SHARE_BYTES])
        for at, (dealer, kind) in enumerate(zip(dealers.tolist(), kinds.tolist(), strict=True))
    ]
    assert column == b"".join(each)
    assert len(column) == count * COMMITMENT_BYTES
