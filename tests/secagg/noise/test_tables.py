"""Look-ups against their definition, ties that the second word decides, and weak tables (C11)."""

from bisect import bisect_right
from collections.abc import Callable, Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from secagg.entropy import SeededEntropy
from secagg.noise import DiscreteGaussian, Skellam
from secagg.noise.law import Law, _table
from secagg.noise.sampler import WordStream, draw_samples, samples_of
from secagg.noise.tables import Samples, Table, Words
from secagg.secret import Secret
from tests.secagg.noise.laws import UNIT, deviation, variation

SEED = Secret(SeededEntropy(b"tables")(32))
COUNT = 1 << 20
LOW = (1 << 64) - 1


def found(table: Table, words: Sequence[int]) -> tuple[list[int], list[int]]:
    """What a table finds for words by their upper 63 bits, and where these tie."""
    out = np.empty(len(words), dtype=np.int64)
    spare = np.empty(len(words), dtype=np.int32)
    ties = table.look_up(np.array(words, dtype=np.uint64), out=out, spare=spare)
    return out.tolist(), ties.tolist()


# Thresholds that crowd: few upper halves, some at the very ends.
uppers = st.sampled_from([0, 1, 2, 1 << 40, (1 << 40) + 1, 1 << 62, (1 << 63) - 2, (1 << 63) - 1])
lowers = st.sampled_from([0, 1, 2, 1 << 63, LOW - 1, LOW])
numbers = st.builds(
    lambda upper, lower: (upper << 64) + lower, uppers | st.integers(0, (1 << 63) - 1), lowers
)


@given(
    thresholds=st.lists(numbers | st.just(UNIT), min_size=1, max_size=40).map(sorted),
    drawn=st.lists(st.tuples(numbers, st.booleans()), min_size=1, max_size=40),
)
def test_look_up_and_settle_are_counting_thresholds(
    thresholds: list[int], drawn: list[tuple[int, bool]]
) -> None:
    table = Table.of(thresholds)
    assert table.thresholds() == thresholds
    assert len(table) == len(thresholds)
    magnitudes, ties = found(table, [(number >> 64 << 1) + sign for number, sign in drawn])
    tops = {each >> 64 for each in thresholds}
    assert ties == [index for index, (number, _) in enumerate(drawn) if number >> 64 in tops]
    for tied in ties:
        magnitudes[tied] = table.settle(drawn[tied][0] >> 64, drawn[tied][0] & LOW)
    assert magnitudes == [bisect_right(thresholds, number) for number, _ in drawn]


class Given(WordStream):
    """A stream of given words, and of given further words."""

    __slots__ = ("left", "words")

    def __init__(self, words: Sequence[int], further: Sequence[int]) -> None:
        super().__init__(SEED)
        self.words, self.left = list(words), list(further)

    def fill(self, words: Words) -> None:
        words[:], self.words = self.words[: len(words)], self.words[len(words) :]

    def further(self) -> int:
        return self.left.pop(0)


def test_ties_are_decided_by_further_words_in_order() -> None:
    top = 5 << 60
    thresholds = [7, (top << 64) + 10, (top << 64) + 20, (top << 64) + LOW]
    words = [top << 1, (top << 1) + 1, (top + 1) << 1, 0, (top << 1) + 1, top << 1, (top << 1) - 1]
    stream = Given(words, [9, 10, 7, LOW - 1, LOW])
    samples = samples_of(Table.of(thresholds), stream, count=len(words))
    assert samples.tolist() == [1, -2, 4, 1, -3, 4, -1]
    assert not stream.left


def test_a_tie_of_the_real_table_at_every_threshold() -> None:
    """One unit below a threshold and on it are different samples, sixty-four bits behind the first."""
    for law in (Skellam(variance=4.0), DiscreteGaussian(sigma=10.0)):
        table = _table(law)
        thresholds = [each for each in table.thresholds() if 0 < each < UNIT]
        words = [each >> 64 << 1 for each in thresholds for _ in (0, 1)]
        further = [number & LOW for each in thresholds for number in (each - 1, each)]
        kept = [index for index, each in enumerate(thresholds) if each & LOW]  # the word before is the same
        samples = samples_of(table, Given(words, further), count=len(words)).reshape(-1, 2)
        assert len(kept) > 20
        assert (samples[kept, 1] - samples[kept, 0]).tolist() == [1] * len(kept)


def test_further_words_are_the_second_half_of_the_keystream() -> None:
    stream, words = WordStream(SEED), np.empty(4, dtype=np.uint64)
    stream.fill(words)
    drawn = [stream.further() for _ in range(4)]
    assert not {*drawn} & {*words.tolist()}
    again = WordStream(SEED)
    assert [again.further() for _ in range(4)] == drawn  # they do not move the first half, nor it them


# Weak copies. Each is caught by the distance that ours states, or by chi-squared.


def rounded(bits: int) -> Callable[[list[int]], list[int]]:
    def weaken(thresholds: list[int]) -> list[int]:
        unit = 1 << (127 - bits)
        return [each // unit * unit for each in thresholds]

    return weaken


def floats_above(thresholds: list[int]) -> list[int]:
    """The upper half as 1 less a float: the tail carries no more than 2^-53."""
    return [int(each / UNIT * 2**53) << 74 for each in thresholds]


def zero_twice(thresholds: list[int]) -> list[int]:
    """Zero with a sign counts as two values."""
    first = thresholds[0]
    return [(each + first) * UNIT // (UNIT + first) for each in thresholds]


def one_off(thresholds: list[int]) -> list[int]:
    return [*thresholds[1:], UNIT]


def short_tail(thresholds: list[int]) -> list[int]:
    end = len(thresholds) // 3
    return [*thresholds[:end], *[UNIT] * (len(thresholds) - end)]


LAWS = [Skellam(variance=4.0), DiscreteGaussian(sigma=2.0)]


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize(
    ("weaken", "least"),
    [
        (rounded(16), 2.0**-19),
        (rounded(63), 2.0**-66),
        (floats_above, 2.0**-60),
        (zero_twice, 0.05),
        (one_off, 0.05),
        (short_tail, 2.0**-50),
    ],
)
def test_c11_weak_tables_are_further_from_the_law_than_ours(
    law: Law, weaken: Callable[[list[int]], list[int]], least: float
) -> None:
    ours = _table(law).thresholds()
    assert variation(ours, law) < law.distance < least < variation(weaken(ours), law)


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("weaken", [rounded(8), zero_twice, one_off])
def test_c11_samples_of_weak_tables_are_caught(law: Law, weaken: Callable[[list[int]], list[int]]) -> None:
    ours = _table(law)
    assert abs(deviation(draw_samples(ours, seed=SEED, count=COUNT), law)) < 5
    weak = Table.of(weaken(ours.thresholds()))
    assert deviation(draw_samples(weak, seed=SEED, count=COUNT), law) > 20


def complement(samples: Samples) -> Samples:
    """A sign that forgets to add one: -1 in place of every other zero."""
    return np.where(np.arange(len(samples)) % 2 == 0, samples, ~samples)


def one_sided(samples: Samples) -> Samples:
    return np.abs(samples)


def no_zero(samples: Samples) -> Samples:
    return np.where(samples == 0, 1, samples)


@pytest.mark.parametrize("weaken", [complement, one_sided, no_zero])
def test_c11_wrong_signs_are_caught(weaken: Callable[[Samples], Samples]) -> None:
    law = Skellam(variance=4.0)
    assert deviation(weaken(law.sample(COUNT, entropy=SeededEntropy(b"signs"))), law) > 20


def test_a_guide_that_is_off_by_one_bucket_is_caught() -> None:
    law = DiscreteGaussian(sigma=10.0)
    table = Table.of(_table(law).thresholds())
    table._guide = np.roll(table._guide, 1)
    assert deviation(draw_samples(table, seed=SEED, count=COUNT), law) > 5
