"""What a guarantee is about, and the numbers that every guarantee has.

Two data sets are neighbours if they differ in one unit: one patient with all of her records, the update of
one client, or one row of a table. Noise hides which of two neighbours a sum was made from. A unit is added or
removed, or, for a client, set to zero: who replaces one patient by another changes a sum by up to twice the
clip, and the guarantee for that is the one of two units.

>>> Unit.PATIENT.neighbours
'one patient, with all of her records, is added or removed'
"""

import math
from enum import Enum
from typing import Any, Final

from secagg.errors import ParameterError
from secagg.numbers import is_number, plain

__all__ = [
    "LARGEST_EPSILON",
    "Noise",
    "Unit",
    "check_choice",
    "check_count",
    "check_epsilon_delta",
    "check_positive",
]

LARGEST: Final = 1e100
"""Clips lie between this number's inverse and it, so that no square leaves the range of float64."""


LARGEST_EPSILON: Final = 20.0
"""Of a plan and of a ledger: beyond it nothing is promised, and δ is charged for all up to it."""


class Noise(Enum):
    """The law of the noise; a client's share of it is an integer for each value of the sum."""

    SKELLAM = "Skellam"
    """The difference of two Poisson numbers: shares of it add up to it exactly (Agarwal+ 2021)."""
    DISCRETE_GAUSSIAN = "discrete Gaussian"
    """Shares add up to it nearly (Kairouz+ 2021); its share needs a standard deviation of 1/2 or more."""


class Unit(Enum):
    """Whom a guarantee is for."""

    PATIENT = "patient"
    CLIENT = "client"
    ROW = "row"

    @property
    def neighbours(self) -> str:
        """In what two data sets differ that the noise makes alike."""
        return {
            Unit.PATIENT: "one patient, with all of her records, is added or removed",
            Unit.CLIENT: "the update of one client is set to zero",
            Unit.ROW: "one row of one table is added or removed",
        }[self]


def check_epsilon_delta(epsilon: Any, delta: Any) -> tuple[float, float]:
    """Both as floats.

    Raises:
        ParameterError: epsilon is no number in (0, 20], or delta none in (0, 1).
    """
    epsilon, delta = plain(epsilon), plain(delta)
    if not is_number(epsilon) or not 0 < epsilon <= LARGEST_EPSILON:
        raise ParameterError(
            f"epsilon is {epsilon!r}; it must be a number in (0, 20]: 1 is strict, 10 is weak, and beyond 20 "
            "nothing is promised, for which privacy=None is the honest choice"
        )
    if not is_number(delta) or not 0 < delta < 1:
        raise ParameterError(f"delta is {delta!r}; it must be a number in (0, 1), below 1 over the patients")
    return float(epsilon), float(delta)


def check_positive(name: str, value: Any) -> float:
    """A number in [1e-100, 1e100] as a float; `ParameterError` names it otherwise."""
    value = plain(value)
    if not is_number(value) or not math.isfinite(value) or not 1 / LARGEST <= value <= LARGEST:
        raise ParameterError(f"{name} is {value!r}; it must be a finite number above 0")
    return float(value)


def check_count(name: str, value: Any, *, least: int = 1, most: int = 1 << 40) -> int:
    """An integer in [least, most]; `ParameterError` names it otherwise."""
    value = plain(value)
    if type(value) is not int or not least <= value <= most:
        raise ParameterError(f"{name} is {value!r}; it must be an integer in [{least}, {most}]")
    return value


def check_choice(name: str, value: object, kind: type[Enum]) -> None:
    """A member of an enum; `ParameterError` lists them otherwise."""
    if not isinstance(value, kind):
        members = ", ".join(f"{kind.__name__}.{each.name}" for each in kind)
        raise ParameterError(f"{name} is {value!r}; it must be one of {members}")
