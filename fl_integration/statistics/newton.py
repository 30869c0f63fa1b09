"""Newton's method on a likelihood that is known only through sums, with the same bits at every party.

Several parties may open the same sums, and each makes the next step for itself: the coefficients must not
differ in the last bit, or the sites are asked two questions. So nothing here goes through BLAS, whose order
of additions depends on the machine. The system is solved by a Cholesky factorisation each of whose operations
is one correctly rounded float64 operation in a fixed order, and the coefficients are rounded to multiples of
2**-30.

A step that lowers the likelihood is halved (Boyd and Vandenberghe 2004, section 9.5). The method ends when
Newton's decrement is at most 2**-20: the last step, which is still taken, is then shorter than a millionth of
a standard error. Where the likelihood has no maximum, because some combination of predictors orders the
outcomes perfectly, the decrement falls by a constant factor, and the coefficients move by as much as before;
that is told apart from convergence, which is quadratic, and refused.
"""

import math
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from fl_integration.statistics.question import Step, Total
from secagg.errors import ParameterError

__all__ = ["BETA_LIMIT", "Fit", "Likelihood", "check_beta", "check_most_steps", "inverse", "maximise"]

BETA_LIMIT: Final = 1 << 8
"""No coefficient of a scaled column is larger in absolute value."""
_GRID: Final = 1 << 30
"""Coefficients that are published are multiples of one over this."""
_DECREMENT: Final = 2.0**-40
"""The square of Newton's decrement at which the method ends."""
_NEARLY: Final = 2.0**-6
"""The square of the decrement below which convergence must be quadratic."""
_SAME: Final = 2.0**-12
"""Log-likelihoods that fall by less have not fallen: it is more than the rounding of many sites."""
_PIVOT: Final = 2.0**-28
"""A column that keeps less than this part of its square, given the others, is determined by them."""
_LEAST_PIVOT: Final = 2.0**-26
"""Less information than this is not told from the rounding of the sites' summands."""
_MOST_STEPS: Final = 100


@dataclass(frozen=True, slots=True)
class Likelihood:
    """A log-likelihood at some coefficients.

    Attributes:
        value: the log-likelihood itself; minus infinity where it could not be computed.
        gradient: float64[width].
        information: float64[width, width], minus the Hessian.
    """

    value: float
    gradient: NDArray[np.float64]
    information: NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Fit:
    """Where the likelihood is largest.

    Attributes:
        beta: float64[width].
        covariance: float64[width, width], the inverse of the information, the ridge included.
        value: the log-likelihood there, without the ridge.
        start: the log-likelihood where all coefficients are 0.
        steps: how often the likelihood was computed.
    """

    beta: NDArray[np.float64]
    covariance: NDArray[np.float64]
    value: float
    start: float
    steps: int


Evaluating: TypeAlias = Callable[[NDArray[np.float64]], Generator[Step, Total, Likelihood]]


def check_most_steps(most_steps: object) -> None:
    """Refuses a limit of steps that is none.

    Raises:
        ParameterError: it is no int in [2, 100].
    """
    if type(most_steps) is not int or not 2 <= most_steps <= _MOST_STEPS:
        raise ParameterError(f"most_steps is {most_steps!r}; it must be an int in [2, {_MOST_STEPS}]")


def check_beta(parameters: tuple[float, ...], *, width: int) -> NDArray[np.float64]:
    """Coefficients as a site reads them from a step: float64[width].

    Raises:
        ParameterError: another number of them, or one that is not finite or beyond the limit.
    """
    if len(parameters) != width:
        raise ParameterError(f"the step has {len(parameters)} coefficients; this question has {width}")
    beta = np.array(parameters, dtype=np.float64)
    if not (np.abs(beta) <= BETA_LIMIT).all():
        raise ParameterError(f"a coefficient of the step is not finite, or larger than {BETA_LIMIT}")
    return beta


def maximise(
    evaluate: Evaluating, *, names: tuple[str, ...], most_steps: int, penalty: NDArray[np.float64]
) -> Generator[Step, Total, Fit]:
    """The largest likelihood, from coefficients of 0.

    Args:
        evaluate: asks for what the likelihood at given coefficients takes, one sum each time.
        names: of the coefficients, for messages.
        most_steps: how often it may ask.
        penalty: float64[width], what half of the square of each coefficient costs.

    Raises:
        ParameterError: there is no maximum, more than one, or it was not found in so many steps.
    """
    beta = np.zeros(len(names))
    start = current = yield from evaluate(beta)
    metric = current.information
    delta, decrement = _direction(current, beta, penalty, names)
    whole, moved, steps = True, math.inf, 1
    while decrement > _DECREMENT:
        movement = _form(metric, delta)
        if whole and decrement < _NEARLY and movement > max(moved / 4, 2.0**-10) and not penalty.any():
            raise ParameterError(
                f"the predictors separate the outcomes: the coefficient of {names[_largest(delta)]!r} grows "
                "without end while the likelihood no longer does; drop that predictor, merge its levels, or "
                "pass a ridge where the question has one"
            )
        if steps == most_steps:
            raise ParameterError(
                f"after {steps} steps the coefficient of {names[_largest(delta)]!r} still moves; raise "
                "most_steps, or, if it grows without end because the predictors separate the outcomes, drop "
                "that predictor, merge its levels, or pass a ridge where the question has one"
            )
        if np.abs(beta).max() > BETA_LIMIT / 2 and np.abs(beta + delta).max() > BETA_LIMIT:
            raise ParameterError(
                f"the coefficient of {names[_largest(beta + delta)]!r} would be larger than {BETA_LIMIT} for "
                "half of the range between its bounds; declare bounds that are nearer to the data"
            )
        while np.abs(beta + delta).max() > BETA_LIMIT:
            delta, whole = delta / 2, False
        candidate = np.rint((beta + delta) * _GRID) / _GRID
        trial = yield from evaluate(candidate)
        steps += 1
        gain = _penalised(trial, candidate, penalty) - _penalised(current, beta, penalty)
        if gain < -_SAME:
            delta, whole = delta / 2, False
            continue
        moved, whole = (movement if whole else math.inf), True
        beta, current = candidate, trial
        delta, decrement = _direction(current, beta, penalty, names)
    precise = current.information + np.diag(penalty)
    return Fit(
        beta=beta + delta,
        covariance=inverse(precise, names=names),
        value=current.value
        + math.fsum((current.gradient * delta).tolist())
        - _form(current.information, delta) / 2,
        start=start.value,
        steps=steps,
    )


def inverse(matrix: NDArray[np.float64], *, names: tuple[str, ...]) -> NDArray[np.float64]:
    """The inverse of a symmetric positive definite matrix.

    Raises:
        ParameterError: it is not definite; the text names the column that the others determine.
    """
    inverted = _solve(matrix, np.eye(len(matrix)), names)
    return (inverted + inverted.T) / 2


def _direction(
    at: Likelihood, beta: NDArray[np.float64], penalty: NDArray[np.float64], names: tuple[str, ...]
) -> tuple[NDArray[np.float64], float]:
    """Newton's step, and the square of its decrement."""
    slope = at.gradient - penalty * beta
    delta = _solve(at.information + np.diag(penalty), slope[:, None], names)[:, 0]
    return delta, math.fsum((slope * delta).tolist())


def _solve(
    matrix: NDArray[np.float64], right: NDArray[np.float64], names: tuple[str, ...]
) -> NDArray[np.float64]:
    """Solves by L·D·Lᵀ, elementwise and in a fixed order, so that every machine has the same bits."""
    left, right, diagonal = matrix.copy(), right.copy(), matrix.diagonal().copy()
    for j in range(len(left)):
        pivot = left[j, j]
        if not pivot > max(diagonal[j] * _PIVOT, _LEAST_PIVOT):
            raise ParameterError(
                f"the rows do not determine the coefficient of {names[j]!r}: it does not vary in them, or "
                "other predictors determine it; drop one, or pass a ridge where the question has one"
            )
        factor = left[j + 1 :, j] / pivot
        left[j + 1 :, j + 1 :] -= factor[:, None] * left[j, None, j + 1 :]
        right[j + 1 :] -= factor[:, None] * right[j]
    for j in reversed(range(len(left))):
        right[j] /= left[j, j]
        right[:j] -= left[:j, j, None] * right[j]
    return right


def _form(matrix: NDArray[np.float64], vector: NDArray[np.float64]) -> float:
    return math.fsum((vector[:, None] * matrix * vector).ravel().tolist())


def _penalised(at: Likelihood, beta: NDArray[np.float64], penalty: NDArray[np.float64]) -> float:
    return at.value - math.fsum((penalty * beta * beta).tolist()) / 2


def _largest(vector: NDArray[np.float64]) -> int:
    return int(np.abs(vector).argmax())
