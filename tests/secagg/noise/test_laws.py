"""Skellam and discrete Gaussian noise: the laws by other means, sums, known answers, wrong arguments."""

import hashlib
import logging
import math
from bisect import bisect_right

import gmpy2
import mpmath
import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from hypothesis import given, settings
from hypothesis import strategies as st

from secagg.entropy import SeededEntropy
from secagg.errors import ParameterError
from secagg.noise import DiscreteGaussian, Skellam
from secagg.noise.law import _TABLES, Law, _masses, _table
from tests.fresh import run
from tests.secagg.noise.laws import DIGITS, chances, deviation, exact, variation

COUNT = 1 << 20
SIGMAS = (0.5, 1.0, 2.0, 10.0, 1000.0)
BOTH = [law for s in SIGMAS for law in (Skellam(variance=s * s), DiscreteGaussian(sigma=s))]
NARROW = [
    *(Skellam(variance=v) for v in (2.0**-20, 0.01, 0.3, 4.0, 100.0)),
    *(DiscreteGaussian(sigma=s) for s in (0.1, 0.37, 1.0, 2.0, 10.0)),
]


def name(law: Law) -> str:
    return repr(law).replace("secagg.noise.", "")


def entropy(purpose: bytes = b"") -> SeededEntropy:
    return SeededEntropy(b"noise", purpose)


# The laws


@pytest.mark.parametrize("law", BOTH, ids=name)
def test_samples_have_their_law(law: Law) -> None:
    samples = law.sample(COUNT, entropy=entropy())
    assert samples.dtype == np.int64
    assert samples.shape == (COUNT,)
    assert abs(deviation(samples, law)) < 5
    assert np.abs(samples).max() <= law.bound


@pytest.mark.parametrize("law", BOTH, ids=name)
def test_mean_variance_and_neighbours(law: Law) -> None:
    samples = law.sample(COUNT, entropy=entropy(b"moments")).astype(np.float64)
    sd, root = law.standard_deviation, COUNT**0.5
    values = np.arange(-law.bound, law.bound + 1)
    fourth = float((values.astype(float) ** 4 * law.pmf(values)).sum())
    assert abs(samples.mean()) * root / sd < 5
    assert abs((samples**2).mean() - sd**2) * root / (fourth - sd**4) ** 0.5 < 5
    assert abs((samples[1:] * samples[:-1]).mean()) * root / sd**2 < 5


@pytest.mark.parametrize("law", NARROW, ids=name)
def test_a_table_is_within_the_stated_distance(law: Law) -> None:
    found = variation(_table(law).thresholds(), law)
    assert found < law.distance < 2.0**-109
    # What each threshold may be off, without what the stated distance allows for the tail.
    beyond = 2 * float(_beyond(law))
    assert found < beyond + (law.bound + 1) * 2.0**-127


def _beyond(law: Law) -> mpmath.mpf:
    with mpmath.workdps(DIGITS):
        chance = exact(law)
        return mpmath.fsum(chance(k) for k in range(law.bound + 1, 3 * law.bound + 9))


@pytest.mark.parametrize("law", NARROW, ids=name)
def test_little_lies_beyond_the_bound(law: Law) -> None:
    assert 2 * _beyond(law) < 2.0**-110


@pytest.mark.parametrize("law", [*BOTH, *NARROW], ids=name)
def test_chances_are_those_of_other_libraries_out_to_the_last(law: Law) -> None:
    ends = [0, 1, law.bound // 3, law.bound // 2, law.bound - 1, law.bound]
    table = [0, *_table(law).thresholds(), 1 << 127]
    with mpmath.workdps(DIGITS):
        chance = exact(law)
        for k in ends:
            expected = chance(k)
            assert float(abs(law.pmf(k) / expected - 1)) < 1e-15
            if k < law.bound:  # the last has what is beyond it too
                in_units = expected * (1 << 127) * (1 if k == 0 else 2)
                assert abs(table[k + 1] - table[k] - in_units) < 2
    values = np.arange(-law.bound // 2, law.bound // 2 + 1)
    assert np.allclose(law.pmf(values), chances(law, values), rtol=1e-9, atol=1e-300)


@pytest.mark.slow
@pytest.mark.parametrize("law", [Skellam(variance=9e8), DiscreteGaussian(sigma=3e4)], ids=name)
def test_wide_laws(law: Law) -> None:
    test_samples_have_their_law(law)
    test_chances_are_those_of_other_libraries_out_to_the_last(law)
    assert law.distance < 2.0**-107
    everything = 2 * math.fsum(law.pmf(np.arange(1, law.bound + 1))) + float(law.pmf(0))
    assert abs(everything - 1) < 1e-13


def test_the_variance_of_a_narrow_discrete_gaussian_is_not_sigma_squared() -> None:
    assert DiscreteGaussian(sigma=0.5).standard_deviation ** 2 / 0.25 == pytest.approx(0.8600, abs=1e-4)
    samples = DiscreteGaussian(sigma=0.5).sample(COUNT, entropy=entropy(b"variance"))
    assert (samples.astype(float) ** 2).mean() / 0.25 == pytest.approx(0.860, abs=0.006)
    for sigma in (0.1, 0.37, 1.0, 1.7, 1.999, 2.0, 5.0):
        law = DiscreteGaussian(sigma=sigma)
        values = np.arange(-law.bound, law.bound + 1)
        expected = math.sqrt(math.fsum(values**2.0 * law.pmf(values)))
        assert law.standard_deviation == pytest.approx(expected, rel=1e-13)
    assert Skellam(variance=0.25).standard_deviation == 0.5


# Sums


@pytest.mark.parametrize(("shares", "variance"), [(2, 0.02), (3, 4.0), (10, 100.0)])
def test_shares_of_skellam_noise_add_up_to_that_of_one_party(shares: int, variance: float) -> None:
    share = Skellam(variance=variance / shares)
    total = sum(share.sample(COUNT, entropy=entropy(b"%d" % party)) for party in range(shares))
    assert isinstance(total, np.ndarray)
    assert abs(deviation(total, Skellam(variance=variance))) < 5
    # As law, and not by sampling: the convolution of two is the third.
    values = np.arange(-40, 41)
    twice = np.convolve(share.pmf(values), share.pmf(values))
    assert np.allclose(
        twice, Skellam(variance=2 * share.variance).pmf(np.arange(-80, 81)), rtol=1e-12, atol=1e-25
    )


def test_shares_of_narrow_discrete_gaussian_noise_do_not() -> None:
    share = DiscreteGaussian(sigma=0.5)
    total = share.sample(COUNT, entropy=entropy(b"1")) + share.sample(COUNT, entropy=entropy(b"2"))
    assert deviation(total, DiscreteGaussian(sigma=0.5**0.5)) > 50


def test_noise_of_a_wrong_size_is_caught() -> None:
    assert deviation(Skellam(variance=100.0).sample(COUNT, entropy=entropy()), Skellam(variance=101.0)) > 5
    assert deviation(Skellam(variance=4.0).sample(COUNT, entropy=entropy()), DiscreteGaussian(sigma=2.0)) > 5


# Known answers


def test_pinned_samples() -> None:
    pinned: dict[Law, tuple[list[int], str]] = {
        Skellam(variance=4.0): (
            [0, -2, 2, 1, -3, 1, 5, 1],
            "bc15f332c749655cbdf06eb6d53b09dc5812807e2aa964b74d12b12e909a7c82",
        ),
        Skellam(variance=1000000.0): (
            [72, -864, 918, 430, -1537, 319, 2359, 644],
            "65577356bd814538890c2686ed99c77f95ef521e841a91b259563827f711f84f",
        ),
        DiscreteGaussian(sigma=0.5): (
            [0, 0, 0, 0, -1, 0, 1, 0],
            "dc71c03c0b110f8c785df72809ab49616c6814254a10c400ccb8927de3a0f013",
        ),
        DiscreteGaussian(sigma=1000.0): (
            [72, -864, 918, 430, -1537, 319, 2359, 644],
            "65577356bd814538890c2686ed99c77f95ef521e841a91b259563827f711f84f",
        ),
    }
    for law, (first, digest) in pinned.items():
        samples = law.sample(20_000, entropy=SeededEntropy(b"vectors"))
        assert samples[:8].tolist() == first
        assert hashlib.sha256(samples.astype("<i8").tobytes()).hexdigest() == digest


@pytest.mark.parametrize("law", [Skellam(variance=4.0), DiscreteGaussian(sigma=300.0)], ids=name)
def test_samples_against_their_definition(law: Law) -> None:
    """A word of AES-256-CTR for each: its upper 63 bits among the thresholds, its lowest the sign."""
    count, thresholds = 40_000, _table(law).thresholds()
    keystream = (
        Cipher(algorithms.AES256(entropy()(32)), modes.CTR(bytes(16))).encryptor().update(bytes(8 * count))
    )
    expected = []
    for at in range(0, 8 * count, 8):
        word = int.from_bytes(keystream[at : at + 8], "little")
        magnitude = bisect_right(thresholds, word >> 1 << 64)
        expected.append(-magnitude if word & 1 else magnitude)
    assert law.sample(count, entropy=entropy()).tolist() == expected


@settings(max_examples=20)
@given(first=st.integers(0, 40_000), second=st.integers(0, 40_000))
def test_how_many_are_drawn_does_not_change_the_first(first: int, second: int) -> None:
    law = DiscreteGaussian(sigma=10.0)
    one, other = law.sample(first, entropy=entropy()), law.sample(second, entropy=entropy())
    assert np.array_equal(one[:second], other[:first])


def test_seeds_make_unrelated_samples() -> None:
    one, other = (Skellam(variance=4.0).sample(COUNT, entropy=entropy(purpose)) for purpose in (b"1", b"2"))
    assert abs(np.corrcoef(one, other)[0, 1]) < 6 / COUNT**0.5


def test_entropy_is_asked_once_for_a_seed_and_fresh_by_default() -> None:
    asked = list[int]()

    def watched(size: int) -> bytes:
        asked.append(size)
        return bytes(size)

    law = Skellam(variance=4.0)
    law.sample(100_000, entropy=watched)
    assert asked == [32]
    assert not np.array_equal(law.sample(1000), law.sample(1000))


# Parameters


@given(st.floats(2.0**-20, 2.0**36) | st.floats(2.0**-20, 100.0))
def test_bound_and_distance_of_every_skellam(variance: float) -> None:
    law = Skellam(variance=variance)
    assert 0 < law.distance < 2.0**-104
    assert law._log2_tail(law.bound) < -110 < law._log2_tail(law.bound - 1) + 0.5 + 1e-9
    assert law.bound <= 13 * law.standard_deviation + 100
    assert law.bound <= law._last() <= 2 * law.bound + 4


@given(st.floats(0.1, 2.0**18))
def test_bound_and_distance_of_every_discrete_gaussian(sigma: float) -> None:
    law = DiscreteGaussian(sigma=sigma)
    assert 0 < law.distance < 2.0**-104
    assert 12.4 * sigma - 1 <= law.bound <= 12.5 * sigma + 1
    assert law.bound <= law._last() <= 1.25 * law.bound + 2


def test_equal_laws_share_a_table_and_few_are_kept() -> None:
    assert _table(Skellam(variance=3)) is _table(Skellam(variance=np.float64(3.0)))
    assert Skellam(variance=np.int64(3)) == Skellam(variance=3.0) != DiscreteGaussian(sigma=3.0)
    assert repr(Skellam(variance=3)) == "Skellam(variance=3.0)"
    assert repr(DiscreteGaussian(sigma=3)) == "DiscreteGaussian(sigma=3.0)"
    for cache in (_table, _masses):
        assert cache.cache_info().maxsize == _TABLES == 4


@pytest.mark.parametrize("law", [Skellam(variance=7.0), DiscreteGaussian(sigma=3.5)], ids=name)
def test_the_callers_arithmetic_does_not_matter_and_stays(law: Law) -> None:
    _table.cache_clear()
    expected = _table(law).thresholds()
    _table.cache_clear()
    with gmpy2.context(precision=20, round=gmpy2.RoundUp, emax=5, emin=-5, trap_inexact=True):
        assert _table(law).thresholds() == expected
        assert gmpy2.get_context().precision == 20
    _table.cache_clear()


def test_importing_makes_no_table_and_needs_no_statistics() -> None:
    said = run(
        """
        import sys
        from secagg.noise import Skellam
        from secagg.noise.law import _table
        print(_table.cache_info().currsize, end=" ")
        Skellam(variance=4.0).sample(3)
        print(sorted({"scipy", "mpmath", "torch", "pandas", "logging"} & set(sys.modules)))
        """
    )
    assert said == "0 []"


@pytest.mark.parametrize(
    "value", [0, -1.0, 2.0**-21, 2.0**37, 10**400, math.nan, math.inf, True, "1", None, 1j, np.array([1.0])]
)
def test_wrong_variance(value: object) -> None:
    with pytest.raises(
        ParameterError, match=r"variance is .*; a number in \[9.53674e-07, 6.87195e\+10\].*add samples"
    ):
        Skellam(variance=value)  # type: ignore[arg-type]


@pytest.mark.parametrize("value", [0, -1.0, 0.09, 2.0**18 + 1, 10**400, math.nan, math.inf, True, "1", None])
def test_wrong_sigma(value: object) -> None:
    with pytest.raises(
        ParameterError, match=r"sigma is .*; a number in \[0.1, 262144\] is needed: use fewer steps"
    ):
        DiscreteGaussian(sigma=value)  # type: ignore[arg-type]


@pytest.mark.parametrize("count", [-1, 1.0, True, "3", None, [3]])
def test_wrong_count(count: object) -> None:
    asked = list[int]()
    with pytest.raises(ParameterError, match=r"count is .*; give how many samples to draw"):
        Skellam(variance=4.0).sample(count, entropy=lambda size: asked.append(size) or bytes(size))  # type: ignore[arg-type,func-returns-value]
    assert not asked


def test_counts_of_numpy_and_none_at_all() -> None:
    law = Skellam(variance=4.0)
    assert len(law.sample(np.uint8(3))) == 3  # type: ignore[arg-type]
    empty = law.sample(0)
    assert empty.shape == (0,)
    assert empty.dtype == np.int64


@pytest.mark.parametrize("data", [b"", bytes(31), bytes(33), bytearray(32), "a" * 32, None])
def test_wrong_entropy(data: object) -> None:
    with pytest.raises(ParameterError, match="asked for 32 bytes"):
        Skellam(variance=4.0).sample(3, entropy=lambda _: data)  # type: ignore[arg-type,return-value]


@pytest.mark.parametrize("values", [0.5, [1.0], "3", [True], None, []])
def test_wrong_values(values: object) -> None:
    with pytest.raises(ParameterError, match="this is a law of integers: pass integers"):
        Skellam(variance=4.0).pmf(values)  # type: ignore[arg-type]


def test_chances_of_values_of_every_width_and_shape() -> None:
    law = Skellam(variance=1000.0)
    assert law.pmf(3).shape == ()
    assert law.pmf([[1, 2, 3], [4, 5, 6]]).shape == (2, 3)
    for kind in (np.int8, np.uint8, np.int16, np.uint16, np.int32, np.uint32, np.int64, np.uint64):
        limits = np.iinfo(kind)
        chances_there = law.pmf(np.array([limits.min, 3, limits.max], dtype=kind))
        assert chances_there[1] == law.pmf(3) == law.pmf(-3)
        assert chances_there[2] == (law.pmf(limits.max) if limits.max <= law.bound else 0)
        assert chances_there[0] == (law.pmf(int(limits.min)) if limits.min >= -law.bound else 0)
    assert law.pmf(law.bound) > 0 == law.pmf(law.bound + 1)
    with pytest.raises(ValueError, match="read-only"):
        _masses(law)[0] = 0


def test_no_seed_is_shown(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG), pytest.raises(ParameterError) as refusal:
        Skellam(variance=4.0).sample(3, entropy=lambda _: b"very secret")
    assert "very" not in str(refusal.value) + caplog.text


def test_laws_cannot_be_changed() -> None:
    with pytest.raises(AttributeError):
        Skellam(variance=4.0).variance = 1.0  # type: ignore[misc]
    with pytest.raises(TypeError):
        Skellam(4.0)  # type: ignore[misc]
