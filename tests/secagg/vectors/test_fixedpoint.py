"""Fixed point: a twin over fractions, the error bound, no bias, no overflow, and every wrong argument.

The twins round the product of weight and value, as the codec does; what it was worth to round it so, and not
the value, is in `tests/attacks/test_d03_weights.py`.
"""

import itertools
import warnings
from dataclasses import FrozenInstanceError
from fractions import Fraction
from math import inf, nan, nextafter, sqrt

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from hypothesis import given, settings
from hypothesis import strategies as st

from secagg.entropy import Entropy, SeededEntropy
from secagg.errors import ParameterError
from secagg.vectors.fixedpoint import Encoder, FixedPoint, Floats, Rounding, Segment, suggest_clip
from secagg.vectors.ring import Words

NEAREST, STOCHASTIC = Rounding.NEAREST, Rounding.STOCHASTIC
ENTROPY = SeededEntropy(b"fixed point")


def steps_of(codec: FixedPoint, values: Floats, *, weight: int = 1, entropy: Entropy = ENTROPY) -> list[int]:
    out = np.empty(len(values), dtype=np.uint64)
    codec.encode(values, weight=weight, out=out, entropy=entropy)
    steps: list[int] = out.view(np.int64).tolist()
    return steps


def no_entropy(size: int) -> bytes:
    raise AssertionError("no fraction is left to chance, and no randomness is drawn")


def fraction_bits(codec: FixedPoint, weight: int) -> int:
    """Of a product, as the module says."""
    return max(0, min(32, 49 - (weight * codec.largest_step).bit_length()))


def weighted(codec: FixedPoint, value: float, weight: int) -> Fraction:
    """The product of a clipped value, in units, exactly."""
    assert isinstance(codec.clip, float)
    clipped = min(max(Fraction(value), -Fraction(codec.clip)), Fraction(codec.clip))
    return clipped * weight * codec.largest_step / Fraction(codec.clip)


def weights_of(bits: int) -> list[int]:
    """Small ones, odd ones for many numbers of fraction bits, and the largest that 64 bits take."""
    largest = 2 ** (bits - 1) - 1
    most = (2**63 - 1) // largest
    return sorted(
        {1, 2, 3, 7, 500, *(min((1 << power) + 1, most) for power in range(0, 64 - bits, 5)), most - 1, most}
    )


# Known answers


def test_the_grid() -> None:
    codec = FixedPoint(bits=3, clip=3.0, rounding=NEAREST)
    values = np.array([-3.0, -2.4, -0.5, -0.4, -0.0, 0.0, 0.5, 0.51, 1.5, 2.5, 3.0])
    # Ties go to the even point.
    assert steps_of(codec, values, entropy=no_entropy) == [-3, -2, 0, 0, 0, 0, 0, 1, 2, 2, 3]
    assert codec.largest_step == 3


@pytest.mark.parametrize("rounding", Rounding)
@pytest.mark.parametrize("bits", range(2, 33))
@pytest.mark.parametrize("clip", [1.0, 0.1, 3e-7, 1234.5])
def test_points_of_the_grid_become_the_weight_times_their_number(
    bits: int, clip: float, rounding: Rounding
) -> None:
    codec = FixedPoint(bits=bits, clip=clip, rounding=rounding)
    largest = codec.largest_step
    points = np.unique(np.linspace(-largest, largest, 401).round()).astype(np.int64)
    assert 0 in points
    for weight in weights_of(bits):
        if (weight * largest).bit_length() <= 49:
            expected = (weight * points).tolist()
            assert steps_of(codec, points * (clip / largest), weight=weight) == expected
            assert steps_of(codec, points * clip / largest, weight=weight) == expected


@settings(deadline=None)
@given(
    bits=st.integers(2, 32),
    weight=st.integers(1, 2**47),
    clip=st.floats(1e-100, 1e100),
    rounding=st.sampled_from(Rounding),
    data=st.data(),
)
def test_a_point_of_any_grid_is_exact_up_to_49_bits(
    bits: int, weight: int, clip: float, rounding: Rounding, data: st.DataObject
) -> None:
    codec = FixedPoint(bits=bits, clip=clip, rounding=rounding)
    largest = codec.largest_step
    weight = min(weight, (2**49 - 1) // largest)
    points = data.draw(st.lists(st.integers(-largest, largest), min_size=1, max_size=20))
    values = np.array(points) * (clip / largest)
    assert steps_of(codec, values, weight=weight) == [weight * point for point in points]


@pytest.mark.parametrize("rounding", Rounding)
@pytest.mark.parametrize("bits", range(2, 33))
@pytest.mark.parametrize("clip", [1.0, 0.1, 1 / 3, 1e-100, 1e100])
def test_zero_and_the_ends_are_exact_under_every_weight(bits: int, clip: float, rounding: Rounding) -> None:
    codec = FixedPoint(bits=bits, clip=clip, rounding=rounding)
    values = np.array([0.0, -0.0, clip, -clip] * 50)
    for weight in weights_of(bits):
        end = weight * codec.largest_step
        assert steps_of(codec, values, weight=weight) == [0, 0, end, -end] * 50


# With clip 1, float32 values and these weights, every product of the codec is exact in float64.
EXACT = [
    (16, 1),
    (16, 3),
    (16, 500),
    (16, 2**14),
    (8, 12_345),
    (12, 77_777),
    (24, 1),
    (24, 21),
    (3, 2**27 - 1),
]


@pytest.mark.parametrize(("bits", "weight"), EXACT)
def test_stochastic_rounding_agrees_with_fractions(bits: int, weight: int) -> None:
    codec = FixedPoint(bits=bits, clip=1.0)
    key = bytes(range(32))
    values = np.random.default_rng(7).uniform(-1, 1, 20_011).astype(np.float32)
    stream = Cipher(algorithms.AES256(key), modes.CTR(bytes(16))).encryptor().update(bytes(4 * len(values)))
    one = 2 ** fraction_bits(codec, weight)
    expected = [
        (
            round(weighted(codec, value, weight) * one)
            + int.from_bytes(stream[4 * i : 4 * i + 4], "little") % one
        )
        // one
        for i, value in enumerate(values.tolist())
    ]
    assert steps_of(codec, values, weight=weight, entropy=lambda size: key[:size]) == expected


@pytest.mark.parametrize(("bits", "weight"), EXACT)
def test_nearest_rounding_agrees_with_fractions(bits: int, weight: int) -> None:
    codec = FixedPoint(bits=bits, clip=1.0, rounding=NEAREST)
    values = np.random.default_rng(7).uniform(-1, 1, 20_011).astype(np.float32)
    expected = [round(weighted(codec, value, weight)) for value in values.tolist()]
    assert steps_of(codec, values, weight=weight, entropy=no_entropy) == expected


def test_the_product_is_rounded_and_not_the_value() -> None:
    # Half a step under a weight of 7 is 3.5 units: no multiple of the weight, whichever way it is rounded.
    values = np.full(1000, 0.5 / 127)
    assert set(steps_of(FixedPoint(bits=8), values, weight=7)) == {3, 4}
    assert set(steps_of(FixedPoint(bits=8, rounding=NEAREST), values, weight=7)) == {4}


@settings(deadline=None)
@given(
    bits=st.integers(2, 32),
    weight=st.integers(1, 2**62),
    clip=st.floats(1e-100, 1e100),
    rounding=st.sampled_from(Rounding),
    kind=st.sampled_from([np.float32, np.float64]),
    shares=st.lists(st.floats(-1.5, 1.5), min_size=1, max_size=20),
)
def test_an_integer_is_within_a_unit_of_its_product_and_within_the_clip(
    bits: int, weight: int, clip: float, rounding: Rounding, kind: type, shares: list[float]
) -> None:
    codec = FixedPoint(bits=bits, clip=clip, rounding=rounding)
    end = codec.largest_step * (weight := min(weight, (2**63 - 1) // codec.largest_step))
    with np.errstate(all="ignore"):  # float32 has no number for some of these
        values = np.array([0.0, -0.0, *(share * clip for share in shares)]).astype(kind)
    values = values[np.isfinite(values)]
    integers = steps_of(codec, values, weight=weight)
    assert integers[:2] == [0, 0]
    unit = 1 if rounding is STOCHASTIC and fraction_bits(codec, weight) else Fraction(1, 2)
    for value, integer in zip(values.tolist(), integers, strict=True):
        exact = weighted(codec, value, weight)
        assert abs(integer) <= end
        assert integer == 0 or (integer < 0) == (value < 0)
        assert abs(integer - exact) <= unit + end * Fraction(1, 2**52) * Fraction(5, 4)


# Bias


@pytest.mark.parametrize("step", [0.001, 0.3, 0.5, 0.999, -0.3, 1000.7, -32766.5])
def test_stochastic_rounding_is_unbiased(step: float) -> None:
    codec = FixedPoint(bits=16, clip=1.0)
    count = 200_000
    steps = np.array(steps_of(codec, np.full(count, step / codec.largest_step)))
    fraction = step % 1
    assert set(np.unique(steps)) == {step - fraction, step - fraction + 1}
    sigma = sqrt(fraction * (1 - fraction) / count)
    assert abs(steps.mean() - step) < 5 * sigma


@pytest.mark.parametrize(("bits", "weight"), [(16, 2**27 + 1), (24, 2**20 - 3), (30, 2**16 - 1), (32, 2**15)])
@pytest.mark.parametrize("clip", [1.0, 0.1])
def test_over_all_random_words_the_mean_is_the_product(
    bits: int, weight: int, clip: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Few fraction bits are left, so that all words can be tried: each comes up once, above garbage.
    codec = FixedPoint(bits=bits, clip=clip)
    one = 2 ** fraction_bits(codec, weight)
    assert 2 <= one <= 128
    words = (np.arange(one) + one * np.arange(one)[::-1] * 1234567 % 2**32).astype("<u4").tobytes()

    class Counting:
        def update_into(self, zeros: memoryview, out: memoryview) -> None:
            out[:] = words[: len(out)]

    for value in np.random.default_rng(bits).uniform(-clip, clip, 50):
        encoder = Encoder(codec, weight=weight, entropy=ENTROPY)
        monkeypatch.setattr(encoder._rounder, "_keystream", Counting())
        out = np.empty(one, dtype=np.uint64)
        encoder.encode(np.full(one, value), start=0, out=out)
        integers = out.view(np.int64).tolist()
        exact = weighted(codec, value, weight)
        # Beside the rounding to a multiple of 2**-F: the round-off of the product.
        bias = Fraction(1, 2 * one) + abs(exact) / 2**52
        assert abs(Fraction(sum(integers), one) - exact) <= bias
        assert max(integers) - min(integers) <= 1


@pytest.mark.parametrize(
    ("bits", "weight", "step"), [(8, 500, 0.0007), (16, 500, 1000.7713), (16, 3, -0.1), (24, 500, -0.3007)]
)
@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_stochastic_rounding_is_unbiased_under_weights(
    bits: int, weight: int, step: float, kind: type
) -> None:
    codec, count = FixedPoint(bits=bits, clip=1.0), 200_000
    value = kind(step / codec.largest_step)
    integers = np.array(steps_of(codec, np.full(count, value), weight=weight))
    product = float(weighted(codec, float(value), weight))
    fraction = product % 1
    assert set(np.unique(integers)) == {product - fraction, product - fraction + 1}
    assert abs(integers.mean() - product) < 5 * sqrt(fraction * (1 - fraction) / count)


def test_without_a_fraction_no_randomness_is_drawn() -> None:
    codec = FixedPoint(bits=32)
    values = np.random.default_rng(0).uniform(-1, 1, 1000)
    for weight in (2**17 + 1, 2**25, 2**32):
        assert fraction_bits(codec, weight) == 0
        nearest = steps_of(FixedPoint(bits=32, rounding=NEAREST), values, weight=weight)
        assert steps_of(codec, values, weight=weight, entropy=no_entropy) == nearest
    with pytest.raises(AssertionError):
        codec.encode(values, weight=2**17, out=np.empty(1000, dtype=np.uint64), entropy=no_entropy)


def test_rounding_to_nearest_loses_what_stochastic_rounding_keeps() -> None:
    updates = np.full(100_000, 0.3 / 32767)
    assert sum(steps_of(FixedPoint(rounding=NEAREST), updates)) == 0
    assert abs(sum(steps_of(FixedPoint(rounding=STOCHASTIC), updates)) - 30_000) < 1000


def test_rounding_is_independent_from_value_to_value_and_call_to_call() -> None:
    codec = FixedPoint()
    values = np.full(100_000, 0.5 / 32767)
    first = np.array(steps_of(codec, values)) - 0.5
    second = np.array(steps_of(codec, values)) - 0.5
    # Correlations of n fair signs have deviation 1 / sqrt(n).
    for correlation in (4 * (first[:-1] * first[1:]).mean(), 4 * (first * second).mean()):
        assert abs(correlation) < 5 / sqrt(len(values))


def test_equal_entropy_gives_equal_steps() -> None:
    codec, values = FixedPoint(), np.random.default_rng(0).uniform(-1, 1, 1000)
    runs = [steps_of(codec, values, entropy=SeededEntropy(seed)) for seed in (b"a", b"a", b"b")]
    assert runs[0] == runs[1] != runs[2]


# The error bound, through the ring


@settings(deadline=None)
@given(
    bits=st.integers(2, 32),
    clip=st.floats(1e-6, 1e6),
    rounding=st.sampled_from(Rounding),
    weights=st.lists(st.integers(1, 1000) | st.integers(1, 2**28), min_size=1, max_size=5),
    seed=st.integers(0, 2**32 - 1),
)
def test_the_mean_is_within_the_error_bound(
    bits: int, clip: float, rounding: Rounding, weights: list[int], seed: int
) -> None:
    codec = FixedPoint(bits=bits, clip=clip, rounding=rounding)
    ring = codec.sum_ring(max_total_weight=sum(weights))
    updates = np.random.default_rng(seed).uniform(-1.2 * clip, 1.2 * clip, (len(weights), 7))
    updates[:, 0], updates[:, 1], updates[:, 2] = clip, -clip, 0.0
    total = ring.zeros(7)
    for update, weight in zip(updates, weights, strict=True):
        steps = ring.zeros(7)
        clipped = codec.encode(update, weight=weight, out=steps, entropy=ENTROPY)
        assert clipped == sum(abs(value) > clip for value in update.tolist())
        ring.add_packed(total, ring.pack(steps))
    mean = codec.decode(ring.centred(total), total_weight=sum(weights))
    bound = Fraction(codec.error_bound(summands=len(weights), total_weight=sum(weights)))
    assert bound <= Fraction(codec.error_bound())
    exact_clip = Fraction(clip)
    for index, decoded in enumerate(mean.tolist()):
        exact = sum(
            weight * min(max(Fraction(value), -exact_clip), exact_clip)
            for weight, value in zip(weights, updates[:, index].tolist(), strict=True)
        ) / sum(weights)
        assert abs(Fraction(decoded) - exact) <= bound
        assert abs(decoded) <= clip
    assert mean[2] == 0.0


def test_the_error_bound_is_not_idle() -> None:
    for rounding, share in ((NEAREST, 0.99), (STOCHASTIC, 0.99)):
        codec = FixedPoint(bits=8, clip=1.0, rounding=rounding)
        values = np.random.default_rng(3).uniform(-1, 1, 100_000)
        decoded = codec.decode(np.array(steps_of(codec, values)), total_weight=1)
        error = np.abs(decoded - values).max()
        assert share * codec.error_bound() < error <= codec.error_bound()
    assert FixedPoint(bits=8, rounding=NEAREST).error_bound() == pytest.approx(0.5 / 127)
    assert FixedPoint(bits=8, rounding=STOCHASTIC).error_bound() == pytest.approx(1 / 127)


@pytest.mark.parametrize("rounding", Rounding)
def test_the_error_bound_is_not_idle_under_weights(rounding: Rounding) -> None:
    # Three parties whose errors come near their worst together in some of 100,000 values.
    codec, weights = FixedPoint(bits=8, rounding=rounding), (40, 70, 90)
    updates = np.random.default_rng(3).uniform(-1, 1, (3, 100_000))
    steps = [steps_of(codec, each, weight=w) for each, w in zip(updates, weights, strict=True)]
    error = np.abs(
        codec.decode(np.sum(steps, axis=0), total_weight=200) - np.average(updates, axis=0, weights=weights)
    ).max()
    bound = codec.error_bound(summands=3, total_weight=200)
    assert 0.75 * bound < error <= bound
    share = 1.0 if rounding is STOCHASTIC else 0.5
    assert bound == pytest.approx(3 / 200 * share / 127)
    assert codec.error_bound(summands=3) == codec.error_bound(summands=3, total_weight=3)
    assert codec.error_bound(summands=3) == codec.error_bound() == pytest.approx(share / 127)


@pytest.mark.parametrize(
    ("summands", "total_weight"),
    [
        (0, None),
        (-1, None),
        (1.0, None),
        (True, None),
        ("1", None),
        (2, 1),
        (2, 0),
        (2, -5),
        (2, 3.0),
        (1, True),
        (1, "3"),
    ],
)
def test_error_bounds_of_nothing(summands: int, total_weight: int | None) -> None:
    with pytest.raises(ParameterError, match="is an integer"):
        FixedPoint().error_bound(summands=summands, total_weight=total_weight)


def test_numbers_of_numpy_make_the_same_error_bound() -> None:
    codec = FixedPoint()
    ours = codec.error_bound(summands=3, total_weight=200)
    assert codec.error_bound(summands=np.int64(3), total_weight=np.uint16(200)) == ours  # type: ignore[arg-type]


def test_the_error_bound_covers_float64_at_its_limit() -> None:
    # At 32 bits the middle between two points is not a float64, and half a step alone is too little.
    codec = FixedPoint(bits=32, clip=0.1, rounding=NEAREST)
    step = Fraction(0.1) / codec.largest_step
    middles = np.array([float(step * (2 * k + 1) / 2) for k in range(2**31 - 2000, 2**31 - 2)])
    decoded = codec.decode(np.array(steps_of(codec, middles)), total_weight=1)
    errors = [abs(Fraction(a) - Fraction(b)) for a, b in zip(decoded.tolist(), middles.tolist(), strict=True)]
    assert step / 2 < max(errors) <= Fraction(codec.error_bound())


@pytest.mark.parametrize("weight", [1, 7, 2**17, 2**18 - 1, 2**20, 2**22 + 1, 2**31, 2**32])
def test_rounding_never_leaves_the_grid(weight: int) -> None:
    # Clips that float64 scales to a hair over the limit, and values beside them.
    codec = FixedPoint(bits=32, clip=0.1)
    end = weight * codec.largest_step
    limit = float(end << fraction_bits(codec, weight))
    clips = np.linspace(0.1, 0.2, 1000).tolist()
    for clip in sorted(clips, key=lambda clip: clip * (limit / clip))[-20:]:
        codec = FixedPoint(bits=32, clip=clip)
        values = np.repeat([clip, -clip, nextafter(clip, 0), -nextafter(clip, 0)], 5000)
        integers = steps_of(codec, values, weight=weight)
        assert set(integers[:5000]) == {end}
        assert set(integers[5000:10_000]) == {-end}
        assert max(integers) == end
        assert min(integers) == -end


def test_an_end_that_float64_does_not_have_is_reached_and_not_passed() -> None:
    # float64 rounds these limits up, past the clip, or down, short of it.
    for bits in (32, 16, 2):
        codec = FixedPoint(bits=bits)
        most = (2**63 - 1) // codec.largest_step
        for weight in (most, most - 1, most - 2, most // 2 + 1, most // 3, most // 500 + 7):
            end = weight * codec.largest_step
            values = np.array([1.0, -1.0, nextafter(1.0, 0), -nextafter(1.0, 0), 7.0])
            integers = steps_of(codec, values, weight=weight)
            assert integers[:2] == [end, -end]
            assert integers[4] == end
            assert end - end // 2**51 - 1 <= integers[2] == -integers[3] <= end


def test_a_small_weight_loses_no_precision() -> None:
    # B8: the bound does not know the weights, and a hospital of weight 1 beside 999 is still there.
    codec = FixedPoint(rounding=NEAREST)
    total = sum(
        np.array(steps_of(codec, np.array([value]), weight=weight))
        for value, weight in ((1.0, 1), (0.0, 999))
    )
    assert codec.decode(total, total_weight=1000)[0] == 1 / 1000


@pytest.mark.parametrize("kind", [np.float32, np.float64])
@pytest.mark.parametrize("word", [np.uint32, np.uint64])
@pytest.mark.parametrize("length", [1, 2, 16383, 16384, 16385, 40_001])
def test_inputs_outputs_and_lengths(kind: type, word: type, length: int) -> None:
    codec = FixedPoint(bits=12, clip=0.7, rounding=NEAREST)
    values = np.random.default_rng(length).uniform(-1, 1, length).astype(kind)
    expected = np.rint(np.clip(values.astype(np.float64), -0.7, 0.7) * (3 * 2047 / 0.7)).astype(np.int64)
    before = values.copy()
    out = np.empty(length, dtype=word)
    clipped = codec.encode(values, weight=3, out=out, entropy=ENTROPY)
    assert clipped == np.count_nonzero(np.abs(values.astype(np.float64)) > 0.7)
    assert np.array_equal(out, expected.astype(word))
    assert np.array_equal(values, before)
    spread, gaps = np.zeros(3 * length, dtype=kind), np.zeros(2 * length, dtype=word)
    spread[::3] = values
    codec.encode(spread[::3], weight=3, out=gaps[::2], entropy=ENTROPY)
    assert np.array_equal(gaps[::2], out)
    assert not gaps[1::2].any()
    values.flags.writeable = False
    codec.encode(values, weight=3, out=out, entropy=ENTROPY)


def test_clipping_is_counted_beyond_the_clip_only() -> None:
    clip = 0.1
    values = np.array([clip, -clip, nextafter(clip, 1), -nextafter(clip, 1), 5.0, -1e308, 0.0])
    out = np.empty(7, dtype=np.uint32)
    for rounding in Rounding:
        codec = FixedPoint(clip=clip, rounding=rounding)
        assert codec.encode(values, out=out, entropy=ENTROPY) == 4
        assert out.view(np.int32).tolist() == [32767, -32767, 32767, -32767, 32767, -32767, 0]


def test_extremes_of_the_input_types_raise_no_warning() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for kind in (np.float32, np.float64):
            limits = np.finfo(kind)
            values = np.array([limits.max, limits.min, limits.smallest_subnormal, limits.tiny], dtype=kind)
            out = np.empty(4, dtype=np.uint32)
            for clip in (1e-100, 1.0, 1e100):
                assert FixedPoint(clip=clip).encode(values, out=out, entropy=ENTROPY) <= 4


# Segments


def test_segments_have_their_own_clip() -> None:
    segments = (Segment(length=3, clip=1.0), Segment(length=2, clip=100.0), Segment(length=20_000, clip=0.01))
    codec = FixedPoint(clip=segments, rounding=NEAREST)
    scale = np.repeat([1.0, 100.0, 0.01], [3, 2, 20_000])
    relative = np.random.default_rng(0).uniform(-1.1, 1.1, 20_005)
    out = np.empty(20_005, dtype=np.uint32)
    clipped = codec.encode(relative * scale, out=out, entropy=ENTROPY)
    assert clipped == np.count_nonzero(np.abs(relative * scale) > scale)
    steps = out.view(np.int32).astype(np.int64)
    expected = np.rint(np.clip(relative, -1, 1) * 32767)
    # The two products may fall on either side of a tie.
    assert np.abs(steps - expected).max() <= 1
    assert np.count_nonzero(steps - expected) < 3
    decoded = codec.decode(steps, total_weight=1)
    assert np.allclose(decoded, np.clip(relative, -1, 1) * scale, rtol=0, atol=0.51 * scale / 32767)
    assert codec.error_bound() == pytest.approx(50 / 32767)


def test_neighbours_of_equal_clip_are_one_segment() -> None:
    values = np.random.default_rng(0).uniform(-1, 1, 1000)
    cut = FixedPoint(clip=tuple(Segment(length=10, clip=0.5) for _ in range(100)))
    whole = FixedPoint(clip=0.5)
    assert steps_of(cut, values, entropy=SeededEntropy(b"s")) == steps_of(
        whole, values, entropy=SeededEntropy(b"s")
    )


@given(
    lengths=st.lists(st.integers(1, 6), min_size=1, max_size=6),
    data=st.data(),
)
def test_a_part_encodes_its_slice(lengths: list[int], data: st.DataObject) -> None:
    clips = itertools.cycle([1.0, 0.25, 0.25, 8.0])
    segments = tuple(Segment(length=length, clip=clip) for length, clip in zip(lengths, clips, strict=False))
    codec = FixedPoint(clip=segments, rounding=NEAREST)
    length = sum(lengths)
    start = data.draw(st.integers(0, length - 1))
    stop = data.draw(st.integers(start + 1, length))
    values = np.linspace(-2, 2, length)
    part = codec.part(start, stop)
    part.check_length(stop - start)
    assert steps_of(part, values[start:stop]) == steps_of(codec, values)[start:stop]
    assert FixedPoint(clip=0.5).part(start, stop) == FixedPoint(clip=0.5)


@pytest.mark.parametrize(("start", "stop"), [(-1, 2), (2, 2), (3, 2), (0, 6), (0.0, 2), (0, None)])
def test_what_is_not_a_part(start: int, stop: int) -> None:
    codec = FixedPoint(clip=(Segment(length=2, clip=1.0), Segment(length=3, clip=2.0)))
    with pytest.raises(ParameterError, match="a part"):
        codec.part(start, stop)


@pytest.mark.parametrize("length", [4, 6])
def test_a_length_that_the_segments_do_not_hold(length: int) -> None:
    codec = FixedPoint(clip=(Segment(length=2, clip=1.0), Segment(length=3, clip=2.0)))
    codec.check_length(5)
    for use in (
        lambda: codec.check_length(length),
        lambda: codec.encode(np.zeros(length), out=np.zeros(length, dtype=np.uint32), entropy=ENTROPY),
        lambda: codec.decode(np.zeros(length, dtype=np.int64), total_weight=1),
    ):
        with pytest.raises(ParameterError, match=f"of {length} values, but the clip's segments hold 5"):
            use()


# Sums


@pytest.mark.parametrize("bits", [2, 8, 16, 20, 32])
@pytest.mark.parametrize("weight", [1, 2, 3, 10, 1000, 12345])
def test_the_ring_is_wide_enough_and_not_wider(bits: int, weight: int) -> None:
    codec = FixedPoint(bits=bits, rounding=NEAREST)
    ring = codec.sum_ring(max_total_weight=weight)
    largest = weight * codec.largest_step
    assert ring.bits == codec.sum_bits(max_total_weight=weight)
    assert -(2 ** (ring.bits - 1)) <= -largest < largest < 2 ** (ring.bits - 1)
    assert not -(2 ** (ring.bits - 2)) <= -largest < largest < 2 ** (ring.bits - 2)
    total = np.zeros(2, dtype=ring.dtype)
    codec.encode(np.array([1.0, -1.0]), weight=weight, out=total, entropy=ENTROPY)
    assert codec.decode(ring.centred(total), total_weight=weight).tolist() == [1.0, -1.0]


def test_the_widest_ring_still_decodes_precisely() -> None:
    codec = FixedPoint(bits=32, rounding=NEAREST)
    weight = 2**32 + 2
    assert codec.sum_ring(max_total_weight=weight).bits == 64
    totals = [weight * codec.largest_step, -weight * codec.largest_step, 2**62 - 1, 1, 0]
    decoded = codec.decode(np.array(totals), total_weight=weight)
    for total, mean in zip(totals, decoded.tolist(), strict=True):
        exact = Fraction(total, weight * codec.largest_step)
        assert abs(Fraction(mean) - exact) <= abs(exact) / 2**50


def test_a_sum_beyond_64_bits_is_refused() -> None:
    # B1: refused at construction, with the number to change.
    codec = FixedPoint(bits=32)
    with pytest.raises(ParameterError, match="take 65 bits, 64 are possible; lower max_total_weight"):
        codec.sum_ring(max_total_weight=2**33)
    assert codec.sum_bits(max_total_weight=2**33) == 65


@pytest.mark.parametrize(("word", "width"), [(np.uint32, 32), (np.uint64, 64)])
def test_a_weight_that_overflows_the_word_is_refused(word: type, width: int) -> None:
    codec = FixedPoint(bits=16, rounding=NEAREST)
    out = np.zeros(2, dtype=word)
    largest = (2 ** (width - 1) - 1) // 32767
    values = np.array([1.0, -1.0])
    codec.encode(values, weight=largest, out=out, entropy=ENTROPY)
    signed = out.view(f"i{width // 8}").tolist()
    assert signed == [largest * 32767, -largest * 32767]
    with pytest.raises(ParameterError, match="overflows") as refusal:
        codec.encode(values, weight=largest + 1, out=out, entropy=ENTROPY)
    # A weight is an example count, and nobody else's business.
    assert str(largest + 1) not in str(refusal.value)


def test_a_weight_of_exactly_the_word_is_refused() -> None:
    codec, out = FixedPoint(bits=2), np.zeros(1, dtype=np.uint32)
    codec.encode(np.array([-1.0]), weight=2**31 - 1, out=out, entropy=ENTROPY)
    assert out.view(np.int32).tolist() == [-(2**31 - 1)]
    with pytest.raises(ParameterError, match="overflows"):
        codec.encode(np.array([-1.0]), weight=2**31, out=out, entropy=ENTROPY)


def test_noise_may_carry_a_total_over_the_range() -> None:
    codec = FixedPoint(bits=8, clip=1.0)
    assert codec.decode(np.array([254, -381]), total_weight=1).tolist() == [2.0, -3.0]


# Refusals


@pytest.mark.parametrize("kind", [np.float32, np.float64])
@pytest.mark.parametrize("bad", [nan, inf, -inf])
@pytest.mark.parametrize("index", [0, 5, 16_383, 16_384, 39_999])
def test_the_first_bad_value_is_named_by_its_index(kind: type, bad: float, index: int) -> None:
    segmented = FixedPoint(clip=(Segment(length=100, clip=1.0), Segment(length=39_900, clip=3.0)))
    values = np.full(40_000, 0.125, dtype=kind)
    values[index] = bad
    values[39_999] = nan
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for codec in (FixedPoint(), FixedPoint(rounding=NEAREST), segmented):
            with pytest.raises(ParameterError, match=f"at index {index} is NaN or infinite") as refusal:
                codec.encode(values, out=np.zeros(40_000, dtype=np.uint32), entropy=ENTROPY)
            assert "0.125" not in str(refusal.value)


def test_a_mask_does_not_hide_nan() -> None:
    values = np.ma.masked_invalid(np.array([0.5, nan]))
    with pytest.raises(ParameterError, match="index 1"):
        FixedPoint().encode(values, out=np.zeros(2, dtype=np.uint32), entropy=ENTROPY)
    with pytest.raises(ParameterError, match="index 1"):
        suggest_clip(values)


@pytest.mark.parametrize(
    "values",
    [
        [0.5],
        None,
        np.array([1]),
        np.array([0.5], dtype=np.float16),
        np.zeros((1, 1)),
        np.array(0.5),
        np.array([1j]),
    ],
)
def test_what_is_not_a_vector_of_values(values: Floats) -> None:
    with pytest.raises(ParameterError, match="one-dimensional array of float32 or float64"):
        FixedPoint().encode(values, out=np.zeros(1, dtype=np.uint32), entropy=ENTROPY)
    with pytest.raises(ParameterError, match="one-dimensional array of float32 or float64"):
        suggest_clip(values)


def read_only(count: int) -> Words:
    words = np.zeros(count, dtype=np.uint32)
    words.flags.writeable = False
    return words


@pytest.mark.parametrize(
    "out",
    [
        None,
        [0, 0],
        np.zeros(2, dtype=np.int32),
        np.zeros(2, dtype=np.int64),
        np.zeros(2, dtype=np.uint16),
        np.zeros(3, dtype=np.uint32),
        np.zeros((1, 2), dtype=np.uint32),
        read_only(2),
    ],
)
def test_what_is_not_an_output(out: Words) -> None:
    with pytest.raises(ParameterError, match="out is a writeable array of uint32 or uint64"):
        FixedPoint().encode(np.zeros(2), out=out, entropy=ENTROPY)


@pytest.mark.parametrize("weight", [0, -1, 1.0, True, None, np.int64(3), 2**63])
def test_wrong_weights(weight: int) -> None:
    codec = FixedPoint()
    with pytest.raises(ParameterError, match=r"^weight is an integer"):
        codec.encode(np.zeros(1), weight=weight, out=np.zeros(1, dtype=np.uint64), entropy=ENTROPY)
    with pytest.raises(ParameterError, match=r"^total_weight is an integer"):
        codec.decode(np.zeros(1, dtype=np.int64), total_weight=weight)
    with pytest.raises(ParameterError, match=r"^weight is an integer"):
        Encoder(codec, weight=weight, entropy=ENTROPY)
    for use in (codec.sum_bits, codec.sum_ring):
        with pytest.raises(ParameterError, match=r"^max_total_weight is an integer"):
            use(max_total_weight=weight)


@pytest.mark.parametrize(
    "total",
    [[1], None, np.zeros(1), np.zeros(1, dtype=np.uint64), np.zeros(1, dtype=np.int32), np.zeros((1, 1))],
)
def test_what_is_not_a_total(total: np.ndarray) -> None:
    with pytest.raises(ParameterError, match="one-dimensional array of int64"):
        FixedPoint().decode(total, total_weight=1)


def test_empty_vectors() -> None:
    codec = FixedPoint()
    with pytest.raises(ParameterError, match="at least 1"):
        codec.encode(np.zeros(0), out=np.zeros(0, dtype=np.uint32), entropy=ENTROPY)
    with pytest.raises(ParameterError, match="at least 1"):
        codec.decode(np.zeros(0, dtype=np.int64), total_weight=1)
    for length in (0, -1, 1.0, True, None):
        with pytest.raises(ParameterError, match="at least 1"):
            codec.check_length(length)  # type: ignore[arg-type]


@pytest.mark.parametrize("answer", [b"", bytes(31), bytes(33), bytearray(32), None])
def test_a_broken_entropy_source(answer: bytes) -> None:
    with pytest.raises(ParameterError, match="asked for 32 bytes"):
        FixedPoint().encode(np.zeros(1), out=np.zeros(1, dtype=np.uint32), entropy=lambda size: answer)


@pytest.mark.parametrize("bits", [1, 0, -1, 33, 16.0, True, None, "16"])
def test_wrong_bits(bits: int) -> None:
    with pytest.raises(ParameterError, match="from 2 to 32"):
        FixedPoint(bits=bits)


@pytest.mark.parametrize("clip", [0.0, -1.0, nan, inf, -inf, True, None, "1", 1e-101, 1e101, 10**400, [1.0]])
def test_wrong_clips(clip: float) -> None:
    with pytest.raises(ParameterError, match="a clip is a number"):
        FixedPoint(clip=clip)
    with pytest.raises(ParameterError, match="a clip is a number"):
        Segment(length=1, clip=clip)


@pytest.mark.parametrize("clip", [(), (1.0,), (Segment(length=1, clip=1.0), 1.0)])
def test_wrong_segments(clip: tuple[Segment, ...]) -> None:
    with pytest.raises(ParameterError, match="a tuple of at least one Segment"):
        FixedPoint(clip=clip)


@pytest.mark.parametrize("length", [0, -1, 1.0, True, None])
def test_wrong_segment_lengths(length: int) -> None:
    with pytest.raises(ParameterError, match="integer of at least 1"):
        Segment(length=length, clip=1.0)


def test_wrong_rounding() -> None:
    with pytest.raises(ParameterError, match=r"Rounding\.STOCHASTIC or Rounding\.NEAREST"):
        FixedPoint(rounding="nearest")  # type: ignore[arg-type]


def test_a_codec_is_a_value() -> None:
    codec = FixedPoint(clip=(Segment(length=1, clip=1),))
    assert codec == FixedPoint(clip=(Segment(length=1, clip=1.0),))
    assert len({codec, FixedPoint(clip=(Segment(length=1, clip=1.0),)), FixedPoint(clip=2)}) == 2
    with pytest.raises(FrozenInstanceError):
        codec.bits = 8  # type: ignore[misc]
    with pytest.raises(TypeError):
        FixedPoint(16)  # type: ignore[call-arg]


# The suggestion


@given(
    values=st.lists(st.floats(-100, 100, width=32), min_size=1, max_size=60),
    fraction=st.sampled_from([0.0, 1e-4, 0.05, 0.25, 0.5, 0.99]),
)
def test_the_suggested_clip_is_the_smallest(values: list[float], fraction: float) -> None:
    sample = np.array(values, dtype=np.float32)
    allowed = int(len(values) * fraction)
    try:
        clip = suggest_clip(sample, clipped_fraction=fraction)
    except ParameterError:
        assert np.count_nonzero(sample) <= allowed
        return
    magnitudes = np.abs(sample.astype(np.float64))
    assert np.count_nonzero(magnitudes > clip) <= allowed
    assert np.count_nonzero(magnitudes >= clip) > allowed


def test_the_suggested_clip_of_a_million() -> None:
    sample = np.random.default_rng(0).permutation(np.arange(1, 1_000_001)) / 1_000_000
    assert suggest_clip(sample) == 0.9999
    assert suggest_clip(sample, clipped_fraction=0.0) == 1.0
    assert suggest_clip(-sample, clipped_fraction=0.5) == 0.5


def test_samples_without_a_clip() -> None:
    with pytest.raises(ParameterError, match="empty"):
        suggest_clip(np.zeros(0))
    with pytest.raises(ParameterError, match="zero"):
        suggest_clip(np.zeros(10))
    with pytest.raises(ParameterError, match="lower clipped_fraction"):
        suggest_clip(np.array([0.0] * 9 + [1.0]), clipped_fraction=0.1)
    for bad in (nan, inf, -inf):
        with pytest.raises(ParameterError, match="index 2 of the sample"):
            suggest_clip(np.array([0.5, 1.0, bad, nan]))


@pytest.mark.parametrize("fraction", [-0.1, 1.0, 2, nan, None, "0.1"])
def test_wrong_fractions(fraction: float) -> None:
    with pytest.raises(ParameterError, match=r"in \[0, 1\)"):
        suggest_clip(np.ones(3), clipped_fraction=fraction)
