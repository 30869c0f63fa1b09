"""From updates to integers and back, against slow exact arithmetic on both surfaces."""

import tracemalloc
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocols import IntegerSum, RoundAborted, Segment
from protocols.machine.integers import IntegerSurface
from protocols.machine.summand import FloatSurface, check_weight
from secagg.entropy import SeededEntropy
from secagg.errors import ParameterError
from secagg.vectors.fixedpoint import FixedPoint, Rounding

ENTROPY = SeededEntropy(b"summands")
Row = tuple[Any, int, dict[str, float]]
"""An update, its weight and its metrics."""


def surface(
    *,
    bits: int = 16,
    clip: Any = 1.0,
    clients: int = 4,
    weight: int = 10,
    total: int | None = None,
    metrics: tuple[tuple[str, float, float], ...] = (),
    rounding: Rounding = Rounding.NEAREST,
) -> FloatSurface:
    return FloatSurface(
        codec=FixedPoint(bits=bits, clip=clip, rounding=rounding),
        max_clients=clients,
        max_weight=weight,
        max_total_weight=total or clients * weight,
        ring_weight=total or clients * weight,
        metrics=metrics,
    )


def summed(made: Any, rows: list[Row]) -> Any:
    """The sum of encoded rows, in the ring, as a server would add them."""
    total = made.ring.zeros(made.elements(len(rows[0][0])))
    for update, weight, metrics in rows:
        words, _ = encoded(made, update, weight, metrics)
        made.ring.add_packed(total, made.ring.pack(words))
    return total


def encoded(
    made: Any, update: Any, weight: int = 1, metrics: dict[str, float] | None = None
) -> tuple[Any, int]:
    """All ring elements of a summand, and how many values were clipped."""
    summand = made.encode(update, length=len(update), weight=weight, metrics=metrics or {}, entropy=ENTROPY)
    words = np.concatenate([block.copy() for block in summand.blocks()])
    return words, summand.clipped


def slow_mean(rows: list[Row], clip: float, steps: int) -> list[Fraction]:
    """Σ q / Σ w in units of the values, with q the integer nearest to w·x (ties to even), in fractions."""
    weight = sum(w for _, w, _ in rows)
    means = []
    for place in range(len(rows[0][0])):
        values = [(Fraction(min(max(float(u[place]), -clip), clip)), w) for u, w, _ in rows]
        encoded = [round(w * value * steps / Fraction(clip)) for value, w in values]
        means.append(sum(encoded) * Fraction(clip) / steps / weight)
    return means


floats = st.floats(-3, 3, width=32)


@given(
    rows=st.lists(st.tuples(st.tuples(floats, floats, floats), st.integers(1, 10)), min_size=1, max_size=4),
    bits=st.sampled_from([2, 8, 16, 24]),
)
def test_sums_equal_slow_fractions(rows: list[tuple[tuple[float, ...], int]], bits: int) -> None:
    made = surface(bits=bits, clip=2.0)
    given_rows: list[Row] = [(np.array(values, dtype=np.float32), weight, {}) for values, weight in rows]
    learnt = made.decode(summed(made, given_rows), frozenset("abcd"[: len(rows)]))
    assert learnt.total_weight == sum(weight for _, weight in rows)
    expected = slow_mean(given_rows, 2.0, 2 ** (bits - 1) - 1)
    assert learnt.mean == pytest.approx([float(mean) for mean in expected], abs=1e-14)


@pytest.mark.parametrize("bits", [2, 3, 8, 16, 24, 32])
@pytest.mark.parametrize(("clients", "weight"), [(2, 1), (3, 1), (10, 1), (3, 1000), (1000, 7), (5, 2**20)])
def test_the_ring_holds_the_largest_sum_and_no_bit_more(bits: int, clients: int, weight: int) -> None:
    made = surface(bits=bits, clients=clients, weight=weight)
    steps = 2 ** (bits - 1) - 1
    assert made.summand_bound == weight * steps
    assert made.sum_bound == max(clients * weight * steps, clients * weight)
    largest = clients * weight * max(steps, 1)
    half = 2 ** (made.ring.bits - 1)
    assert largest < half
    assert 2 * largest + 1 > half or half == 1, "one bit less would not do"


@pytest.mark.parametrize("sign", [1.0, -1.0])
@pytest.mark.parametrize("bits", [2, 16, 32])
def test_the_largest_sums_do_not_wrap(sign: float, bits: int) -> None:
    made = surface(bits=bits, clients=5, weight=9)
    rows: list[Row] = [(np.full(3, sign), 9, {})] * 5
    learnt = made.decode(summed(made, rows), frozenset("abcde"))
    assert learnt.mean.tolist() == [sign] * 3
    assert learnt.total_weight == 45


def test_a_summand_is_weighted_values_and_the_weight() -> None:
    made = surface(bits=8, metrics=(("accuracy", 0.0, 1.0), ("loss", 0.0, 4.0)))
    words, clipped = encoded(made, np.array([0.0, 1.0, -1.0, 9.0]), 3, {"loss": 4.0, "accuracy": 0.0})
    assert made.ring.centred(words).tolist() == [0, 381, -381, 381, -381, 381, 3]
    assert clipped == 1
    assert made.elements(4) == 7
    assert words.dtype == made.ring.dtype


def test_values_and_metrics_are_rounded_after_they_are_weighted() -> None:
    made = surface(bits=8, metrics=(("accuracy", 0.0, 1.0),))
    words, _ = encoded(made, np.array([0.3, -0.3, 0.001]), 7, {"accuracy": 0.8})
    assert made.ring.centred(words).tolist() == [
        *(round(7 * 127 * Fraction(value)) for value in (0.3, -0.3, 0.001)),
        round(7 * 127 * Fraction(3, 5)),
        7,
    ]


def test_segments_have_their_own_clips() -> None:
    made = surface(clip=(Segment(length=2, clip=0.5), Segment(length=1, clip=8.0)))
    words, clipped = encoded(made, np.array([0.5, 1.0, 4.0]))
    assert made.ring.centred(words).tolist()[:2] == [32767, 32767]
    assert clipped == 1
    learnt = made.decode(words, frozenset("a"))
    assert learnt.mean == pytest.approx([0.5, 0.5, 4.0], abs=8 / 32767)
    made.check_length(3)
    for length in (1, 2, 4):
        with pytest.raises(ParameterError, match="3"):
            made.check_length(length)


@given(values=st.lists(st.tuples(st.floats(0, 10), st.integers(1, 10)), min_size=1, max_size=4))
def test_metrics_are_weighted_means(values: list[tuple[float, int]]) -> None:
    made = surface(metrics=(("loss", 0.0, 10.0),))
    rows = [(np.zeros(1), weight, {"loss": value}) for value, weight in values]
    learnt = made.decode(summed(made, rows), frozenset("abcd"[: len(values)]))
    expected = sum(value * weight for value, weight in values) / sum(weight for _, weight in values)
    assert learnt.metrics["loss"] == pytest.approx(expected, abs=10 / 2**15)
    assert 0 <= learnt.metrics["loss"] <= 10


@pytest.mark.parametrize("weights", [[0], [11, 11, 11, 11], [], [1], [10, 11], [20, 20]])
def test_total_weights_that_nobody_honest_makes(weights: list[int]) -> None:
    made = surface(clients=4, weight=10, total=40)
    total = made.ring.zeros(2)
    total[-1] = sum(weights)
    with pytest.raises(RoundAborted, match=r"outside \[2, 20\]") as caught:
        made.decode(total, frozenset("ab"))
    assert caught.value.opened == frozenset("ab")


@pytest.mark.parametrize(("total_weight", "fits"), [(2, True), (15, True), (16, False)])
def test_the_total_weight_is_within_what_both_caps_allow(total_weight: int, fits: bool) -> None:
    made = surface(clients=4, weight=10, total=15)
    total = made.ring.zeros(2)
    total[-1] = total_weight
    if fits:
        assert made.decode(total, frozenset("ab")).total_weight == total_weight
    else:
        with pytest.raises(RoundAborted, match=r"outside \[2, 15\]"):
            made.decode(total, frozenset("ab"))


# What no contributors may add up to


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("bits", [2, 8, 16, 31])
@pytest.mark.parametrize("place", [0, 5, 2**15 - 1, 2**15, 2**15 + 6])
def test_a_sum_beyond_the_weight_times_the_clip_is_no_sum(place: int, bits: int, sign: int) -> None:
    """The last sum that can be is decoded, the one after it is refused; wherever it stands."""
    made, length = surface(bits=bits, clients=3, weight=7), 2**15 + 7
    total = made.ring.zeros(length + 1)
    total[-1] = 12
    most = sign * 12 * made.codec.largest_step
    total[place] = np.int64(most).astype(made.ring.dtype)
    learnt = made.decode(total, frozenset("ab"))
    assert learnt.mean[place] == sign
    assert np.count_nonzero(learnt.mean) == 1
    total[place] = np.int64(most + sign).astype(made.ring.dtype)
    with pytest.raises(RoundAborted, match=r"2 contributors .* broke the clip") as caught:
        made.decode(total, frozenset("ab"))
    assert caught.value.opened == frozenset("ab")
    assert not caught.value.culprits


@pytest.mark.parametrize("bits", [5, 8, 16, 24])
@pytest.mark.parametrize("place", [0, 1])
@pytest.mark.parametrize("sign", [1, -1])
def test_a_metric_beyond_its_range_is_no_sum(sign: int, place: int, bits: int) -> None:
    made = surface(bits=bits, clients=3, weight=7, metrics=(("auc", 0.0, 1.0), ("loss", -2.0, 4.0)))
    most = 12 * (2 ** (min(bits, 16) - 1) - 1)
    total = made.ring.zeros(5)
    total[2 + place], total[-1] = np.int64(sign * most).astype(made.ring.dtype), 12
    name = ("auc", "loss")[place]
    learnt = made.decode(total, frozenset("ab"))
    assert learnt.metrics[name] == {"auc": (0.0, 1.0), "loss": (-2.0, 4.0)}[name][sign > 0]
    total[2 + place] = np.int64(sign * (most + 1)).astype(made.ring.dtype)
    with pytest.raises(RoundAborted, match=f"metric '{name}' .* broke its range") as caught:
        made.decode(total, frozenset("ab"))
    assert caught.value.opened == frozenset("ab")


def test_the_lowest_number_of_the_widest_ring_is_no_sum() -> None:
    """It has no opposite in 64 bits, and would pass where a magnitude is compared."""
    made = surface(bits=32, clients=2, weight=2**31)
    assert made.ring.bits == 64
    total = np.array([1 << 63, 2], dtype=np.uint64)
    with pytest.raises(RoundAborted, match="broke the clip"):
        made.decode(total, frozenset("ab"))


@given(
    rows=st.lists(
        st.tuples(st.lists(floats, min_size=3, max_size=3), st.integers(1, 2**20)), min_size=1, max_size=5
    ),
    bits=st.integers(2, 32),
    rounding=st.sampled_from(Rounding),
    dtype=st.sampled_from([np.float32, np.float64]),
    metric=st.floats(-5, 5),
)
def test_no_honest_sum_is_refused(
    rows: list[tuple[list[float], int]], bits: int, rounding: Rounding, dtype: type, metric: float
) -> None:
    made = surface(
        bits=bits, clip=2.0, clients=5, weight=2**20, rounding=rounding, metrics=(("loss", -5.0, 5.0),)
    )
    encoded_rows: list[Row] = [(np.array(row, dtype=dtype), w, {"loss": metric}) for row, w in rows]
    learnt = made.decode(summed(made, encoded_rows), frozenset("abcde"[: len(rows)]))
    assert learnt.total_weight == sum(w for _, w in rows)
    bound = made.codec.error_bound(summands=len(rows), total_weight=learnt.total_weight)
    clipped = np.clip([row for row, _ in rows], -2, 2)
    assert (
        np.abs(learnt.mean - np.average(clipped, axis=0, weights=[w for _, w in rows])).max() <= bound + 1e-14
    )
    assert abs(learnt.metrics["loss"] - metric) <= 5 / (2 ** (min(bits, 16) - 1) - 1)


def test_a_negative_total_weight_is_no_weight() -> None:
    made = surface()
    total = made.ring.zeros(2)
    total[-1] = 2**made.ring.bits - 3
    with pytest.raises(RoundAborted):
        made.decode(total, frozenset("ab"))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_values_that_are_not_finite_are_named_by_index(value: float, dtype: type) -> None:
    made = surface()
    update: Any = np.zeros(9, dtype=dtype)
    update[[4, 7]] = value
    for call in (
        lambda: made.check(update, length=9, weight=1, metrics={}),
        lambda: encoded(made, update),
    ):
        with pytest.raises(ParameterError, match=r"\b4\b"):
            call()


@pytest.mark.parametrize(
    "update",
    [
        np.zeros(3),
        np.zeros((4, 1)),
        np.zeros(4, dtype=int),
        np.zeros(4, dtype=np.float16),
        [0.0] * 4,
        None,
        np.zeros(4, dtype=">f8"),
    ],
    ids=["short", "2-D", "integers", "float16", "list", "None", "big-endian"],
)
def test_check_and_encode_refuse_the_same(update: Any) -> None:
    made = surface()
    with pytest.raises(ParameterError):
        made.check(update, length=4, weight=1, metrics={})
    with pytest.raises(ParameterError):
        made.encode(update, length=4, weight=1, metrics={}, entropy=ENTROPY)


@pytest.mark.parametrize(
    "metrics",
    [{}, {"loss": 1.0, "other": 1.0}, {"other": 1.0}, {"loss": 1.5}, {"loss": float("nan")}, {"loss": True}],
)
def test_metrics_that_do_not_fit(metrics: dict[str, float]) -> None:
    made = surface(metrics=(("loss", 0.0, 1.0),))
    with pytest.raises(ParameterError, match="metric"):
        made.check(np.zeros(2), length=2, weight=1, metrics=metrics)
    with pytest.raises(ParameterError, match="metric"):
        made.encode(np.zeros(2), length=2, weight=1, metrics=metrics, entropy=ENTROPY)


@pytest.mark.parametrize(
    "metrics", [{"loss": 0.0}, {"loss": 1}, {"loss": np.float32(0.5)}, {"loss": np.int64(1)}]
)
def test_metrics_that_fit(metrics: dict[str, Any]) -> None:
    surface(metrics=(("loss", 0.0, 1.0),)).check(np.zeros(2), length=2, weight=1, metrics=metrics)


def test_weights() -> None:
    assert check_weight(3, 3) == 3
    assert check_weight(np.int64(3), 3) == 3
    assert type(check_weight(np.uint8(3), 3)) is int
    for weight in (0, -1, np.int64(0)):
        with pytest.raises(ParameterError, match="at least 1"):
            check_weight(weight, 3)
    with pytest.raises(ParameterError, match="max_weight=4"):
        check_weight(4, 3)
    for odd in (1.0, True, "1", None, np.float64(1)):
        with pytest.raises(ParameterError, match="int"):
            check_weight(odd, 3)


def test_blocks_join_to_the_whole() -> None:
    # Around the block of 2^15 elements: values, metrics and weight stand where they belong.
    for length in (2**15 - 4, 2**15 - 3, 2**15 - 2, 2**15 - 1, 2**15, 2**15 + 1, 3 * 2**15):
        made = surface(metrics=(("a", -1.0, 1.0), ("b", -1.0, 1.0)))
        update = np.linspace(-1, 1, length)
        words, clipped = encoded(made, update, 7, {"a": 1.0, "b": -1.0})
        assert len(words) == made.elements(length) == length + 3
        assert made.ring.centred(words[-3:]).tolist() == [7 * 32767, -7 * 32767, 7]
        assert np.abs(made.ring.centred(words[:-3]) / (7 * 32767) - update).max() <= 0.5001 / 32767
        assert clipped == 0
        summand = made.encode(update, length=length, weight=7, metrics={"a": 1.0, "b": -1.0}, entropy=ENTROPY)
        assert np.array_equal(summand.integers(), made.ring.centred(words))


@pytest.mark.parametrize("padding", [0, 1, 2, 7, 2**15, 2**15 + 1])
@pytest.mark.parametrize("length", [1, 2**15 - 2, 2**15 - 1, 2**15, 2**15 + 1])
def test_padding_is_zeros_behind_the_last_element(length: int, padding: int) -> None:
    # Stale values of the block before would show: the buffer is reused, and nearly no value here is zero.
    integers = IntegerSurface(max_clients=4, max_summand=9)
    for made, update in (
        (surface(), np.linspace(0.5, 1, length)),
        (integers, np.full(length, 9, dtype=np.uint64)),
    ):
        summand = made.encode(update, length=length, weight=1, metrics={}, entropy=ENTROPY)
        blocks = [block.copy() for block in summand.blocks(padding)]
        assert summand.elements == made.elements(length)
        assert all(len(block) == 2**15 for block in blocks[:-1])
        assert 0 < len(blocks[-1]) <= 2**15
        words = np.concatenate(blocks)
        assert len(words) == made.elements(length) + padding
        assert np.array_equal(words[: summand.elements], encoded(made, update)[0])
        assert not words[summand.elements :].any()


@pytest.mark.parametrize("size", [1, 7, 4096, 8192, 3 * 2**15])
@pytest.mark.parametrize("length", [1, 4095, 8191, 8192, 2**15 + 1])
def test_blocks_of_another_size_hold_the_same_elements(length: int, size: int) -> None:
    if size == 1 and length > 5000:
        pytest.skip("a block for each element shows nothing more on a longer vector")
    made, update = surface(), np.linspace(-1, 1, length)
    summand = made.encode(update, length=length, weight=1, metrics={}, entropy=ENTROPY)
    blocks = [block.copy() for block in summand.blocks(size=size)]
    assert all(len(block) == size for block in blocks[:-1])
    assert 0 < len(blocks[-1]) <= size
    assert np.array_equal(np.concatenate(blocks), encoded(made, update)[0])


@pytest.mark.parametrize("bits", [8, 16, 31])
@pytest.mark.parametrize("length", [1, 2**15 - 1, 2**15, 2**15 + 1, 5 * 2**15 + 3])
def test_a_mean_decoded_in_blocks_is_the_mean_decoded_at_once(length: int, bits: int) -> None:
    cuts = sorted({1, length // 3 + 1, length})
    clips = tuple(
        Segment(length=stop - start, clip=0.7 + start) for start, stop in zip([0, *cuts], cuts, strict=False)
    )
    for clip in (3.0, clips):
        made = surface(bits=bits, clip=clip, clients=3, weight=7)
        total = made.ring.zeros(made.elements(length))
        most = 20 * made.codec.largest_step
        sums = np.random.default_rng(length).integers(-most, most, length, endpoint=True)
        sums[[0, -1]] = most, -most
        total[:length] = sums.astype(made.ring.dtype)
        total[-1] = 20
        learnt = made.decode(total, frozenset("abc"))
        expected = made.codec.decode(made.ring.centred(total[:length]), total_weight=20)
        assert learnt.mean.dtype == np.float64
        assert np.array_equal(learnt.mean, expected)


@pytest.mark.parametrize("made", [surface(), IntegerSurface(max_clients=4, max_summand=9)])
def test_decoding_makes_nothing_of_the_vectors_size_but_the_result(made: Any) -> None:
    length = 10**6
    total = made.ring.zeros(made.elements(length))
    total[-1] = 2
    made.decode(total[-2:], frozenset("ab"))
    tracemalloc.start()
    try:
        learnt = made.decode(total, frozenset("ab"))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    result = learnt.mean.nbytes + (learnt.total.nbytes if isinstance(learnt, IntegerSum) else 0)
    assert peak < result + 10**6


# Integers


@given(
    rows=st.lists(st.lists(st.integers(0, 10**6), min_size=3, max_size=3), min_size=1, max_size=5),
)
def test_integer_sums(rows: list[list[int]]) -> None:
    made = IntegerSurface(max_clients=5, max_summand=10**6)
    total = summed(made, [(np.array(row, dtype=np.uint64), 1, {}) for row in rows])
    learnt = made.decode(total, frozenset("abcde"[: len(rows)]))
    assert isinstance(learnt, IntegerSum)
    assert learnt.total.tolist() == [sum(column) for column in zip(*rows, strict=True)]
    assert learnt.mean == pytest.approx(learnt.total / len(rows))
    assert learnt.total_weight == len(rows)


@pytest.mark.parametrize(
    ("clients", "most"), [(2, 1), (3, 5), (10, 2**59), (7, (2**63 - 1) // 7), (1, 2**63 - 1)]
)
def test_the_integer_ring_is_exactly_wide_enough(clients: int, most: int) -> None:
    made = IntegerSurface(max_clients=clients, max_summand=most)
    assert made.sum_bound == clients * most
    assert 2 ** (made.ring.bits - 1) <= clients * most < 2**made.ring.bits
    total = summed(made, [(np.array([most, 0], dtype=np.uint64), 1, {})] * clients)
    assert made.decode(total, frozenset(map(str, range(clients)))).total.tolist() == [clients * most, 0]  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("clients", "most"), [(3, 0), (3, -1), (3, 1.5), (3, True), (8, 2**60), (2, 2**62), (1, 2**63)]
)
def test_integer_surfaces_that_do_not_fit(clients: int, most: Any) -> None:
    with pytest.raises(ParameterError, match="max_summand"):
        IntegerSurface(max_clients=clients, max_summand=most)


def test_a_sum_above_its_contributors_is_no_sum() -> None:
    made = IntegerSurface(max_clients=5, max_summand=10)
    total = np.array([21, 0], dtype=made.ring.dtype)
    assert made.decode(total, frozenset("abc")).total.tolist() == [21, 0]  # type: ignore[attr-defined]
    with pytest.raises(RoundAborted, match="max_summand") as caught:
        made.decode(total, frozenset("ab"))
    assert caught.value.opened == frozenset("ab")
