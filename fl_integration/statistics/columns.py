"""What a column holds, as all sites agree before anybody looks at data: bounds and units, levels, markers.

A sum is of integers. So a number is counted in units of its column, which is public, and so are its bounds:
the ring must hold the largest sum that can be. A value outside the bounds counts as the nearer bound, and
how many did is told to the site alone (`Respondent.clipped`). A missing value is no value: each column has
its own count.

>>> age = Number("age", low=0, high=128, unit=1)
>>> age.middle, age.largest
(64, 64)
"""

import math
from dataclasses import KW_ONLY, dataclass
from typing import Final, TypeAlias

from secagg.errors import ParameterError
from secagg.numbers import is_number, plain, plain_fields

__all__ = ["Category", "Column", "Genotypes", "Level", "Number"]

_UNITS: Final = 1 << 16
"""Units between the bounds of a number whose unit is left out, at least."""
_MOST_UNITS: Final = 1 << 24
_MOST_LEVELS: Final = 1 << 12
_MOST_MARKERS: Final = 1 << 24

Level: TypeAlias = str | int
"""One value of a category."""


def _check_name(name: object) -> None:
    if type(name) is not str or not name or len(name) > 200 or not name.isprintable():
        raise ParameterError(
            f"a column's name is {name!r}; it must be a str of 1 to 200 printable characters"
        )


@dataclass(frozen=True, slots=True)
class Number:
    """A measurement.

    Args:
        name: of the column.
        low, high: bounds, finite, low < high.
        unit: what is counted: values are rounded to the nearest multiple of it, ties to even. A power of two
            represents halves, quarters and so on exactly. Left out: the largest power of two of which at
            least 2**16 lie between the bounds.

    Raises:
        ParameterError: bounds or unit cannot work.
    """

    name: str
    _: KW_ONLY
    low: float
    high: float
    unit: float = 0.0

    def __post_init__(self) -> None:
        _check_name(self.name)
        plain_fields(self, "low", "high", "unit")
        for limit in (self.low, self.high, self.unit):
            if not is_number(limit) or not math.isfinite(limit):
                raise ParameterError(
                    f"column {self.name!r} has the bound or unit {limit!r}; it must be a finite number"
                )
        if not self.low < self.high or not math.isfinite(self.high - self.low):
            raise ParameterError(
                f"column {self.name!r} has the bounds ({self.low}, {self.high}); low must be less than high"
            )
        for name in ("low", "high", "unit"):
            object.__setattr__(self, name, float(getattr(self, name)))
        if self.unit == 0:
            object.__setattr__(self, "unit", 2.0 ** math.floor(math.log2((self.high - self.low) / _UNITS)))
        if self.unit < 0 or (self.high - self.low) / self.unit > _MOST_UNITS:
            raise ParameterError(
                f"column {self.name!r} has the unit {self.unit}, of which more than {_MOST_UNITS} lie "
                f"between {self.low} and {self.high}, or which is negative; "
                f"pass at least {(self.high - self.low) / _MOST_UNITS:g}"
            )
        if max(abs(self.low), abs(self.high)) / self.unit > 1 << 52:
            raise ParameterError(
                f"column {self.name!r} lies too far from zero for its unit {self.unit}; pass a larger unit"
            )

    @property
    def middle(self) -> int:
        """The value, in units, that is subtracted before values are summed."""
        return round((self.low / 2 + self.high / 2) / self.unit)

    @property
    def largest(self) -> int:
        """Largest absolute value of a summand, in units from `middle`."""
        return max(round(self.high / self.unit) - self.middle, self.middle - round(self.low / self.unit))


@dataclass(frozen=True, slots=True)
class Category:
    """One of a few levels.

    Args:
        name: of the column.
        levels: all that may occur, at least 1, each once: all str or all int (then 1.0 and True in the data
            count as 1).

    Raises:
        ParameterError: levels that are none.
    """

    name: str
    levels: tuple[Level, ...]

    def __post_init__(self) -> None:
        _check_name(self.name)
        levels = tuple(plain(each) for each in self.levels)
        if not 1 <= len(levels) <= _MOST_LEVELS:
            raise ParameterError(
                f"column {self.name!r} has {len(levels)} levels; it must have 1 to {_MOST_LEVELS}"
            )
        if {type(each) for each in levels} not in ({str}, {int}):
            raise ParameterError(
                f"column {self.name!r} has levels that are neither all str nor all int; for False and True "
                "take (0, 1)"
            )
        if len(set(levels)) < len(levels):
            raise ParameterError(f"column {self.name!r} names a level twice")
        object.__setattr__(self, "levels", levels)


@dataclass(frozen=True, slots=True)
class Genotypes:
    """A matrix of allele counts: a row for each person, a column for each marker, 0, 1 or 2; -1 is missing.

    Args:
        name: of the matrix in the site's table (a dict of arrays).
        markers: how many there are, in one order that all sites agree on.

    Raises:
        ParameterError: markers is no int in [1, 2**24].
    """

    name: str
    markers: int

    def __post_init__(self) -> None:
        _check_name(self.name)
        plain_fields(self, "markers")
        if type(self.markers) is not int or not 1 <= self.markers <= _MOST_MARKERS:
            raise ParameterError(f"markers is {self.markers!r}; it must be an int in [1, {_MOST_MARKERS}]")


Column: TypeAlias = Number | Category | Genotypes
