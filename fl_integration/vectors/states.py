"""A model's state by name: which of its entries are shared, what they are, whether they fit a manifest.

The reference's values are looked at once, when its manifest is made; a state that is held against a manifest
is looked at by name, shape, dtype and memory alone.

>>> manifest = described({"w": np.zeros(2), "mask": np.array([0.0, -np.inf])})
>>> print(*manifest.entries, sep="; ")
'w' float64[2]; 'mask' float64[2], constant
>>> fitting({"mask": np.zeros(2), "w": np.array([1.0, np.nan]), "more": object()}, manifest)
{'w': array([ 1., nan]), 'mask': array([0., 0.])}
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TypeAlias

import numpy as np

from fl_integration.vectors.arrays import Array, all_finite, dtype_name
from fl_integration.vectors.manifest import SUMMED, Entry, Manifest
from fl_integration.vectors.memory import place_of, require_apart, ties
from secagg.errors import ParameterError

__all__ = ["State", "chosen", "described", "fitting", "has_form", "items", "some"]

State: TypeAlias = Mapping[str, Array] | Sequence[Array]
"""A `state_dict`, a mapping of names to arrays, or a list of arrays (named by position, "0", "1", …).

Entries that stay home may be anything.
"""


def items(state: State) -> dict[str, Array]:
    """A state's entries by name, in their order, whatever they are.

    Raises:
        ParameterError: it is neither a mapping of str nor a list or tuple.
    """
    if not isinstance(state, Mapping | list | tuple):
        raise ParameterError(
            f"a state is a mapping of names to arrays or a list of arrays, not a {type(state).__name__}"
        )
    if not isinstance(state, Mapping):
        return {str(index): value for index, value in enumerate(state)}
    for name in state:
        if type(name) is not str:
            raise ParameterError(f"an entry's name is a {type(name).__name__}; it must be a str")
    return dict(state)


def chosen(names: Collection[str], shared: Callable[[str], bool] | None) -> dict[str, None]:
    """The names that are shared, in their order; all for None.

    Raises:
        ParameterError: `shared` is no predicate, answers with something else than a bool, or has a method
            `check` that refuses these names.
    """
    if shared is None:
        return dict.fromkeys(names)
    if not callable(shared):
        raise ParameterError(
            f"shared is a {type(shared).__name__}; it must be a function of an entry's name that returns a "
            "bool, such as sharing.only('head.*')"
        )
    if (check := getattr(shared, "check", None)) is not None:
        check(list(names))
    answers = {name: shared(name) for name in names}
    for name, answer in answers.items():
        if not isinstance(answer, bool | np.bool_):
            raise ParameterError(f"shared({name!r}) is a {type(answer).__name__}; it must be a bool")
    return dict.fromkeys(name for name, answer in answers.items() if answer)


def described(
    values: Mapping[str, Array],
    *,
    constants: Collection[str] | None = None,
    beside: Mapping[str, Array] | None = None,
) -> Manifest:
    """The manifest of these entries, in their order.

    Args:
        constants: the floating entries that are kept, decided before; None decides by the values.
        beside: what stays home, in whose memory nothing shared may lie.

    Raises:
        ParameterError: an entry cannot be carried, two overlap in part, or one is tied to what stays home.
    """
    dtypes = {name: dtype_name(name, value) for name, value in values.items()}
    floating = dict.fromkeys(name for name, dtype in dtypes.items() if dtype in SUMMED)
    if constants is None:
        constants = {name for name in floating if not all_finite(values[name])}
    places = {name: place_of(values[name]) for name in floating if name not in constants}
    home = {name: place_of(value) for name, value in (beside or {}).items()}
    for name, first in ties({**places, **home}).items():
        if name in home and first in places:
            raise ParameterError(
                f"entries {first!r} and {name!r} are one tensor and only {first!r} is shared; "
                "share both or neither"
            )
    tied = ties(places)
    kept = {name: place_of(value) for name, value in values.items() if name not in places}
    require_apart({name: place for name, place in places.items() if name not in tied}, beside=kept | home)
    return Manifest(
        entries=tuple(
            Entry(
                name=name,
                dtype=dtypes[name],
                shape=tuple(value.shape),
                constant=name in floating and name in constants,
                tied=tied.get(name, ""),
            )
            for name, value in values.items()
        )
    )


def has_form(name: str, value: Array) -> bool:
    """Whether an entry can be in a manifest: shared, or kept by its receiver."""
    try:
        described({name: value}, constants={name} if dtype_name(name, value) in SUMMED else ())
    except ParameterError:
        return False
    return True


def fitting(state: State, manifest: Manifest) -> dict[str, Array]:
    """A state's entries that a manifest knows, in its order.

    Raises:
        ParameterError: the state lacks one, or has it in another form.
    """
    values = items(state)
    for entry in manifest.entries:
        if entry.name not in values:
            raise ParameterError(f"only one of the models has {entry}; all parties must build the same model")
    known = {entry.name: values[entry.name] for entry in manifest.entries}
    manifest.require_same(described(known, constants={e.name for e in manifest.entries if e.constant}))
    return known


def some(names: Collection[str]) -> str:
    """A few of the names."""
    first = ", ".join(repr(name) for name in list(names)[:4])
    return first if len(names) <= 4 else f"{first} and {len(names) - 4} more"
