"""Newton's method alone: the same bits everywhere, and what it does where there is no maximum."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fl_integration.statistics.newton import BETA_LIMIT, Likelihood, inverse, maximise
from fl_integration.statistics.question import Step
from secagg.errors import ParameterError

HILBERT = 1 / (np.arange(4)[:, None] + np.arange(4)[None, :] + 1.0)
NAMES = ("a", "b", "c", "d")


def found(evaluate, *, width=1, most_steps=20, ridge=0.0):
    def asked(beta):
        yield Step("newton", 1)
        return evaluate(beta)

    asking = maximise(asked, names=NAMES[:width], most_steps=most_steps, penalty=np.full(width, ridge))
    try:
        next(asking)
        while True:
            asking.send(np.zeros(1, dtype=np.int64))
    except StopIteration as done:
        return done.value


def test_an_inverse_has_the_bits_of_plain_floats_in_a_plain_order():
    """Python's floats know no BLAS, no fused products, no sums in another order."""
    left, right, places = HILBERT.tolist(), np.eye(4).tolist(), range(4)
    for j in places:
        factors = [left[i][j] / left[j][j] for i in places]
        for i in places[j + 1 :]:
            left[i] = [mine - factors[i] * above for mine, above in zip(left[i], left[j], strict=True)]
            right[i] = [mine - factors[i] * above for mine, above in zip(right[i], right[j], strict=True)]
    for j in reversed(places):
        right[j] = [mine / left[j][j] for mine in right[j]]
        for i in places[:j]:
            right[i] = [mine - left[i][j] * below for mine, below in zip(right[i], right[j], strict=True)]
    expected = (np.array(right) + np.array(right).T) / 2
    assert inverse(HILBERT, names=NAMES).tobytes() == expected.tobytes()
    assert expected == pytest.approx(np.linalg.inv(HILBERT), rel=1e-9)


@given(st.integers(0, 2**32 - 1), st.integers(1, 12))
@settings(max_examples=30, deadline=None)
def test_an_inverse_is_one(seed, width):
    rows = np.random.default_rng(seed).normal(size=(3 * width, width))
    matrix = rows.T @ rows
    inverted = inverse(matrix, names=tuple(map(str, range(width))))
    assert inverted @ matrix == pytest.approx(np.eye(width), abs=1e-9)
    assert (inverted == inverted.T).all()


def test_the_column_that_others_determine_is_named():
    rows = np.random.default_rng(1).normal(size=(9, 3))
    rows = np.c_[rows, rows[:, 0] - rows[:, 2]]
    with pytest.raises(ParameterError, match="do not determine the coefficient of 'd'"):
        inverse(rows.T @ rows, names=NAMES)


def test_a_step_too_far_is_halved():
    """-sqrt(1 + (x - 9)²) is flat far from its maximum, so that Newton's step from 0 goes to 738."""

    def evaluate(beta):
        assert abs(beta[0]) <= BETA_LIMIT
        away = beta[0] - 9
        root = np.sqrt(1 + away**2)
        return Likelihood(-root, np.array([-away / root]), np.array([[root**-3]]))

    fit = found(evaluate, most_steps=40)
    assert fit.beta[0] == pytest.approx(9, abs=1e-9)
    assert fit.value == pytest.approx(-1, abs=1e-9)
    assert fit.start == -np.sqrt(82)


def test_a_likelihood_without_a_maximum_is_refused():
    """-exp(-x) rises for ever: every step is 1."""

    def rising(beta):
        return Likelihood(-np.exp(-beta[0]), np.exp(-beta), np.exp(-beta)[:, None])

    with pytest.raises(ParameterError, match="the predictors separate the outcomes: the coefficient of 'a'"):
        found(rising)
    assert found(rising, ridge=0.1).beta[0] > 0


def test_a_coefficient_beyond_its_limit_is_refused():
    def slope(beta):
        return Likelihood(float(1e-3 * beta[0]), np.array([1e-3]), np.array([[1e-6]]))

    with pytest.raises(
        ParameterError, match=r"'a' would be larger than 256 .* declare bounds that are nearer"
    ):
        found(slope)


def test_what_could_not_be_computed_counts_as_fallen():
    asked = []

    def evaluate(beta):
        asked.append(beta[0])
        value = -((beta[0] - 8) ** 2) / 2 if beta[0] < 5 or len(asked) > 4 else -np.inf
        return Likelihood(value, np.array([8 - beta[0]]), np.eye(1))

    assert found(evaluate).beta[0] == pytest.approx(8)
    assert asked[:3] == [0, 8, 4]
