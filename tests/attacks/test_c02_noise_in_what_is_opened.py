"""C2: what is opened from an approximate scheme carries its noise, and the noise is about the key.

Li and Micciancio, "On the Security of Homomorphic Encryption on Approximate Numbers" (EUROCRYPT'21): who sees
a ciphertext and its approximate decryption solves a linear equation for the key. The weakened copy opens what
TenSEAL decrypts. Ours sums integers and rounds: what leaves the wrapper is the same to the last bit whatever
the noise was, and whatever the key is.

Not covered: whether a doctored result opens at all. A client tries few of them (see C4).
"""

from typing import Any

import numpy as np
import pytest

from protocols import CkksSum
from secagg.ckks import scheme as ckks
from secagg.ckks.encoding import from_slots
from secagg.errors import VerificationError
from tests.attacks.weakened import Stage, updates_of

PARAMETERS = ckks.choose_parameters(bound=3 * 32767, max_summands=3)
VALUES = np.random.default_rng(2).integers(-32767, 32768, 300)


def raw(key: ckks.SecretKey, body: bytes) -> Any:
    """The weakened copy: coefficients as they are decrypted, before rounding."""
    (block,) = ckks._blocks(body, PARAMETERS, len(VALUES))
    return from_slots(np.array(ckks._load(key._context, PARAMETERS, block).decrypt()))


def test_the_raw_decryption_shows_the_noise() -> None:
    key = ckks.generate_key(PARAMETERS)
    one, other = (raw(key, key.encrypt_vector(VALUES)) for _ in range(2))
    assert not np.array_equal(one, other)
    # And it is the noise of the ciphertext, a multiple of 1/Δ, not the noise of arithmetic on floats.
    halves = 2 * (one - np.rint(one)) * 2.0**PARAMETERS.scale_bits  # real slots average two coefficients
    assert np.abs(halves).max() > 1
    assert np.abs(halves - np.rint(halves)).max() < 0.1


def test_what_is_opened_does_not_depend_on_noise_or_key() -> None:
    opened = []
    for _ in range(3):
        key = ckks.generate_key(PARAMETERS)
        for _ in range(3):
            body = key.encrypt_vector(VALUES)
            opened.append(key.decrypt_vector(body, count=len(VALUES), bound=PARAMETERS.bound))
    assert all(each.dtype == np.int64 for each in opened)
    assert all(np.array_equal(each, VALUES) for each in opened)


def test_the_sum_that_clients_open_is_identical_for_all_and_for_every_key() -> None:
    grid = np.round(updates_of("abc")["a"] * 100)  # on the grid, so that quantisation is exact
    means = []
    for seed in (b"one", b"two"):
        stage = Stage(CkksSum(max_clients=3, clip=32767.0), "abc", seed=seed)
        outcome = stage.play({name: grid + place for place, name in enumerate("abc")})
        means += [client.open(outcome.result or b"").mean for client in stage.clients.values()]
    assert all(np.array_equal(mean, means[0]) for mean in means)
    assert np.array_equal(means[0], grid + 1)


@pytest.mark.parametrize(
    ("shift", "opens"), [(0.0, True), (0.1, True), (-0.2, True), (0.3, False), (0.5, False)]
)
def test_a_shift_is_rounded_away_or_refused(shift: float, opens: bool) -> None:
    """A fraction of a step added to a ciphertext never shows in what is opened."""
    key = ckks.generate_key(PARAMETERS)
    context = ckks.PublicContext.from_parameters(PARAMETERS)
    (block,) = ckks._blocks(key.encrypt_vector(VALUES), PARAMETERS, len(VALUES))
    vector = ckks._load(context._context, PARAMETERS, block)
    vector.add_([shift] * 2048)  # the first coefficient of each slot's polynomial
    body = ckks._block_of(vector, PARAMETERS)
    if opens:
        values = key.decrypt_vector(body, count=len(VALUES), bound=PARAMETERS.bound)
        assert np.array_equal(values, VALUES)
    else:
        with pytest.raises(VerificationError, match="not near an integer"):
            key.decrypt_vector(body, count=len(VALUES), bound=PARAMETERS.bound)
