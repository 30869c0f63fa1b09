"""Numbers of other kinds, numpy's scalars above all, as Python's own.

Whoever counts examples with numpy has an `np.int64`, and it is a number. It becomes an `int` before anything
is computed: numpy's integers wrap around, and parameters are compared and hashed by how they are written. A
bool is no number here.

>>> import numpy as np
>>> plain(np.int64(3)), plain(np.float32(0.5)), plain(True), plain("3")
(3, 0.5, True, '3')
"""

from numbers import Integral, Real
from typing import Any

__all__ = ["is_number", "plain", "plain_fields"]


def plain(value: Any) -> Any:
    """An `int` for every integral number, a `float` for every other real one, and anything else as it is."""
    if type(value) in (int, float, bool):
        return value
    if isinstance(value, Integral):
        return int(value)
    return float(value) if isinstance(value, Real) else value


def plain_fields(instance: object, *names: str) -> None:
    """`plain` for these fields of a frozen dataclass, in its `__post_init__`."""
    for name in names:
        object.__setattr__(instance, name, plain(getattr(instance, name)))


def is_number(value: object) -> bool:
    """Whether a value is an `int` or a `float`, and no bool; ask it of what is plain."""
    return type(value) in (int, float)
