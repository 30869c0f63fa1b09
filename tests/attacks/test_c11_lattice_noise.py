"""C11: noise that is not what the proof says, and noise that is looked up.

FrodoKEM samples by tables of 16-bit probabilities, with comparisons; older implementations of lattice schemes
look the inverse up in a table. Two things are wrong with that here:

* Sixteen bits are 2^-13 from the Gaussian in every coefficient. A vector has half a million of them, so the
  distance says nothing about the vector: whoever counts what lies beyond the table's end tells the two apart.
  And worse, the sum of errors is opened, and where it is twice a table's end it discloses both.
* The index of a look-up is a secret, and the cache tells which line was read (Groot Bruinderink, Hülsing,
  Lange and Yarom, "Flush, Gauss, and Reload", CHES 2016). A line of a sorted table nearly always holds one
  value, so an attacker on the same machine knows nearly all errors of a block, and solves for the key.

Ours counts coins: each sample is exactly a binomial, bit for bit, and the library's assumption is about
binomials and no Gaussian. There is nothing to look up. No stream serves two keys or two vectors.

Not covered: timing of numpy's own operations; Python promises none.
"""

import ast
import inspect
import math
import sys
import textwrap
from fractions import Fraction
from itertools import combinations
from types import FrameType
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from secagg.entropy import SeededEntropy
from secagg.rlwe import binomial
from secagg.rlwe import scheme as rlwe
from secagg.rlwe.binomial import CENTRE, COINS, VARIANCE, BinomialStream
from secagg.secret import Secret
from tests.attacks.weakened import updates_of
from tests.attacks.weakened_lattice import OVER_MASKED, Coefficients, Equations, LatticeStage, opened

# Distributions, exactly


def gaussian() -> dict[int, float]:
    """The discrete Gaussian of the same variance; beyond ±82 it has less than 2^-120."""
    weights = {k: math.exp(-k * k / (2 * VARIANCE)) for k in range(-CENTRE, CENTRE + 1)}
    total = math.fsum(weights.values())
    return {k: weight / total for k, weight in weights.items()}


def inverse() -> NDArray[np.uint8]:
    """A table of 2^16 counts: which one a uniform 16-bit number stands for."""
    cumulative = np.cumsum(list(gaussian().values()))
    ends = np.rint(cumulative * (1 << 16)).astype(np.int64)
    return np.searchsorted(ends, np.arange(1 << 16), side="right").astype(np.uint8)


TABLE = inverse()


def of_the_table() -> dict[int, Fraction]:
    values, counts = np.unique(TABLE, return_counts=True)
    return {int(v) - CENTRE: Fraction(int(n), 1 << 16) for v, n in zip(values, counts, strict=True)}


def binomial_of(coins: int) -> dict[int, Fraction]:
    return {k: Fraction(math.comb(coins, k), 1 << coins) for k in range(coins + 1)}


def distance(one: dict[int, Any], other: dict[int, Any]) -> float:
    """Statistical distance of two distributions on integers."""
    return float(sum(abs(one.get(k, 0) - other.get(k, 0)) for k in one.keys() | other.keys())) / 2


class Tabled(BinomialStream):
    """Samples from the table. `lines` are the lines of the cache that were read, 64 entries each."""

    lines: list[NDArray[np.uint16]]

    def __init__(self, seed: Secret) -> None:
        super().__init__(seed)
        self._generator = np.random.default_rng(list(seed.reveal()))

    def fill(self, out: NDArray[np.uint8]) -> None:
        uniform = self._generator.integers(0, 1 << 16, len(out), dtype=np.uint16)
        type(self).lines.append(uniform // 64)
        out[:] = TABLE[uniform]


def samples(stream: BinomialStream, count: int) -> NDArray[np.int64]:
    out = np.empty(count, dtype=np.uint8)
    stream.fill(out)
    return out.astype(np.int64) - CENTRE


def test_a_16_bit_table_is_far_from_its_gaussian() -> None:
    """2^-13 in each coefficient; the half million of a vector of a million values leave nothing of it."""
    assert 2.0**-14 < distance(gaussian(), of_the_table()) < 2.0**-12
    end = max(of_the_table())
    beyond = math.fsum(p for k, p in gaussian().items() if abs(k) > end)
    # What the Gaussian does and the table never: found in a vector with this probability.
    assert 1 - (1 - beyond) ** 500_000 > 0.98


def test_counting_what_lies_beyond_the_table_tells_it_from_its_gaussian() -> None:
    """Ours has such tails, as its own distribution says; the table has none in four million samples."""
    Tabled.lines = []
    seed, count = Secret(bytes(range(32))), 1 << 22
    end = max(of_the_table())
    expected = count * float(sum(p for k, p in binomial_of(COINS).items() if abs(k - CENTRE) > end))
    assert expected > 20
    assert np.count_nonzero(np.abs(samples(Tabled(seed), count)) > end) == 0
    found = np.count_nonzero(np.abs(samples(BinomialStream(seed), count)) > end)
    assert abs(found - expected) < 6 * math.sqrt(expected)


@pytest.mark.parametrize(("distribution", "least", "most"), [("table", 2.0**-31, 1), ("ours", 0, 2.0**-320)])
def test_extreme_sums_of_two_disclose_both(distribution: str, least: float, most: float) -> None:
    """Where the opened sum of errors is twice the largest, both errors are the largest."""
    each = of_the_table() if distribution == "table" else binomial_of(COINS)
    chance = each[max(each)] ** 2 + each[min(each)] ** 2
    assert least <= chance < most


# Our samples are binomials, bit for bit


class Keystream:
    """Stands in for the cipher: hands out given bytes."""

    def __init__(self, data: NDArray[np.uint8]) -> None:
        self._data = data

    def update_into(self, zeros: Any, out: Any) -> None:
        out[:] = self._data.tobytes()


def counts_of(data: NDArray[np.uint8]) -> NDArray[np.int64]:
    """The samples that one chunk of keystream makes."""
    stream = BinomialStream(Secret(bytes(32)))
    stream._keystream = Keystream(data)  # type: ignore[assignment]
    return samples(stream, len(data) * 8 // COINS) + CENTRE


def test_every_coin_counts_in_exactly_one_sample() -> None:
    """So 164 fair coins make each sample, and its distance from the binomial is zero.

    Samples are additive over disjoint sets of coins, so each is a sum of coins with weights. All coins
    together make 164 in each; any set makes, over all samples, as many as there are in it. So weights are 0
    or 1, each coin has weight 1 once, and 164 coins have it in each sample.
    """
    size = binomial._CHUNK * COINS // 8
    generator = np.random.default_rng(1)
    assert (counts_of(np.zeros(size, np.uint8)) == 0).all()
    assert (counts_of(np.full(size, 255, np.uint8)) == COINS).all()
    for _ in range(40):
        whole, part = generator.integers(0, 256, (2, size), dtype=np.uint8)
        part &= whole
        apart = counts_of(part) + counts_of(whole ^ part)
        assert np.array_equal(counts_of(whole), apart)
        assert counts_of(whole).sum() == np.bitwise_count(whole).sum()
    single = np.zeros(size, np.uint8)
    for coin in generator.integers(0, 8 * size, 200):
        single[coin // 8] = 1 << coin % 8
        assert sorted(counts_of(single))[-2:] == [0, 1]
        single[coin // 8] = 0
    assert distance(binomial_of(COINS), _convolved([64, 64, 32, 4])) == 0


def _convolved(words: list[int]) -> dict[int, Fraction]:
    """The heads in words of these many bits together."""
    whole = {0: Fraction(1)}
    for bits in words:
        following: dict[int, Fraction] = {}
        for one, p in whole.items():
            for other, q in binomial_of(bits).items():
                following[one + other] = following.get(one + other, Fraction(0)) + p * q
        whole = following
    return whole


# Look-ups

DEGREE = 1024
PARAMETERS = rlwe.choose_parameters(sum_bound=3 * 127, signed=True, max_summands=3, degree=DEGREE)
COUNT = 8 * DEGREE * PARAMETERS.digits
SEED = bytes(range(32))


def hidden_vector() -> tuple[NDArray[np.int32], Coefficients]:
    """A client's values, and its vector as the server has it."""
    values = np.random.default_rng(1).integers(-127, 128, COUNT).astype(np.int32)
    entropy, words = SeededEntropy(b"one client"), values.view(np.uint32)
    group = PARAMETERS.digits * DEGREE
    masked = rlwe.mask_blocks(
        PARAMETERS,
        seed=SEED,
        key=rlwe.draw_key(entropy, degree=DEGREE),
        blocks=(words[at : at + group] for at in range(0, COUNT, group)),
        count=COUNT,
        entropy=entropy,
    )
    return values, np.concatenate([block.astype(np.uint64) for block in masked])


def test_the_cache_lines_of_a_table_give_the_key_away(monkeypatch: pytest.MonkeyPatch) -> None:
    """One client alone, no sum opened: 1,024 lines, of which all but a few dozen hold one value."""
    Tabled.lines = []
    monkeypatch.setattr(rlwe, "BinomialStream", Tabled)
    values, hidden = hidden_vector()
    monkeypatch.undo()
    seen = np.concatenate(Tabled.lines[1:])[: len(hidden)]  # first the key's, then the errors'
    by_line = TABLE.reshape(-1, 64)
    alone = by_line.min(axis=1) == by_line.max(axis=1)
    known = alone[seen]
    assert known.mean() > 0.95
    errors = by_line[seen, 0].astype(np.int64) - CENTRE
    nothing = np.full(DEGREE, np.iinfo(np.int64).min)
    key = Equations(PARAMETERS, seed=SEED, hidden=hidden).solved(errors, known=known, key=nothing)
    assert key is not None
    found = opened(PARAMETERS, hidden, seed=SEED, count=COUNT, key=key)
    assert found is not None
    assert np.array_equal(found, values)


def sampling_lines(seed: bytes) -> list[tuple[str, int]]:
    """Each line that runs while samples are drawn."""
    stream, lines, out = BinomialStream(Secret(seed)), list[tuple[str, int]](), np.empty(9000, np.uint8)

    def trace(frame: FrameType, event: str, argument: Any) -> Any:
        lines.append((frame.f_code.co_name, frame.f_lineno))
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        stream.fill(out)
    finally:
        sys.settrace(before)
    return lines


def test_ours_takes_the_same_way_whatever_the_coins_are() -> None:
    ways = [sampling_lines(bytes([each]) * 32) for each in range(8)]
    assert len(ways[0]) > 20
    assert all(way == ways[0] for way in ways)


def test_ours_looks_nothing_up() -> None:
    """Coins are counted, shifted, cut and added; no place in memory depends on them."""
    (function,) = ast.parse(textwrap.dedent(inspect.getsource(BinomialStream._draw))).body
    assert isinstance(function, ast.FunctionDef)
    tree = ast.Module(function.body, [])
    calls = {node.func.attr for node in ast.walk(tree) if isinstance(node, ast.Call)}  # type: ignore[attr-defined]
    assert calls == {"update_into", "view", "bitwise_count", "add", "bitwise_and", "right_shift"}
    places = [node.slice for node in ast.walk(tree) if isinstance(node, ast.Subscript)]
    names = {node.id for place in places for node in ast.walk(place) if isinstance(node, ast.Name)}
    assert places
    assert all(isinstance(place, ast.Slice) for place in places)
    assert names <= {"_CHUNK", "middle"}


# No stream twice


def test_no_stream_serves_two_keys_two_vectors_two_clients_or_two_rounds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Independent samples agree in 4.4 of 100 places; a block of noise that came twice would in all."""
    seeds, blocks = list[bytes](), list[NDArray[np.uint8]]()

    class Watched(BinomialStream):
        def __init__(self, seed: Secret) -> None:
            super().__init__(seed)
            seeds.append(seed.reveal())

        def fill(self, out: NDArray[np.uint8]) -> None:
            super().fill(out)
            blocks.extend(out[at : at + 4096].copy() for at in range(0, len(out) - 4095, 4096))

    monkeypatch.setattr(rlwe, "BinomialStream", Watched)
    stage = LatticeStage(OVER_MASKED, "abc")
    rounds, length = 3, 3 * stage.vectors.digits * stage.vectors.degree
    for _ in range(rounds):
        stage.play(updates_of("abc", length))
    assert len(seeds) == len(set(seeds)) == 2 * 3 * rounds
    # One block of each key, and three of the errors of each vector.
    assert len(blocks) == (1 + 3) * 3 * rounds
    alike = [np.mean(one == other) for one, other in combinations(blocks, 2)]
    assert 0.025 < min(alike) <= max(alike) < 0.065
