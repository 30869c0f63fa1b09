"""What travels in NVFlare's tasks and results under the filter pair, and what a site's executor sees of it.

A letter is a parcel of `fl_integration.embedding` in a DXO of kind APP_DEFINED, its arrays in one run of
bytes: an executor behind no filter has no model that it could train. What an executor is shown is made at
the site from the letter alone: the task's name, the round's number, the model. All of it is in the digest
that the round binds (ATTACKS A9); whatever else stood in a header stays outside.

Integer entries are kept and not summed, scalars are arrays without dimensions on the way, and both come back
as what they were: a Python number as a Python number, a bool as a bool, float16 as float16.

>>> model = Model.of({"w": np.ones((2, 1), np.float16), "steps": 7, "on": True})
>>> again = Model.from_bytes(model.to_bytes(), forms=model.forms)
>>> again.values()["steps"], again.values()["on"], again.values()["w"].dtype
(7, True, dtype('float16'))
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Annotated, Any, Final, Self

import numpy as np
from numpy.typing import NDArray

from fl_integration.embedding.delivery import Contribution
from fl_integration.embedding.parcels import Parcel
from fl_integration.embedding.records import ArrayBytes, Kind, Record
from fl_integration.nvflare.engine import DXO, DataKind, Shareable, from_shareable
from fl_integration.vectors.manifest import SUMMED
from fl_integration.vectors.vectorise import manifest_of
from protocols.messages.schema import U8, U64, Body, UpTo, decode, encode
from secagg.errors import DecodeError, ParameterError
from secagg.numbers import plain

__all__ = ["MODEL", "Form", "Letter", "Model", "Shown", "contribution_of", "letter_in", "without_letter"]

MODEL: Final = "model"
"""The record's name under which the digest of a round holds the arrays."""
_HEAD: Final = "secagg.head"
_BODY: Final = "secagg.body"
_TICKET: Final = "secagg.ticket"
_SHOWN: Final = "secagg.shown"
_ARRAYS: Final = "secagg.arrays"
_NONE: Final = Parcel(b"")
MOST_ENTRIES: Final = 1 << 20


class Form(Enum):
    """What an entry of a model is in NVFlare's dictionary. The values are on the wire."""

    ARRAY = 0
    BOOL = 1
    INT = 2
    FLOAT = 3
    SCALAR = 4
    """A scalar of numpy's, such as np.float32(1)."""


_PYTHON: Final[dict[type, Form]] = {bool: Form.BOOL, int: Form.INT, float: Form.FLOAT}


@dataclass(frozen=True, slots=True)
class _SavedEntry:
    name: str
    dtype: Annotated[str, UpTo(16)]
    shape: Annotated[tuple[U64, ...], UpTo(32)]
    data: Body


@dataclass(frozen=True, slots=True)
class _SavedModel:
    entries: Annotated[tuple[_SavedEntry, ...], UpTo(MOST_ENTRIES)]


@dataclass(frozen=True, slots=True)
class Model:
    """A model as NVFlare's DXO holds it: values by name.

    Attributes:
        arrays: each entry as an array, a scalar without dimensions.
        forms: what each entry is that is no array.
    """

    arrays: Mapping[str, NDArray[Any]]
    forms: Mapping[str, Form]

    @classmethod
    def of(cls, weights: object) -> Self:
        """The model in a DXO's data.

        Raises:
            ParameterError: it is no mapping of names to arrays and numbers, or nothing in it can be summed.
        """
        if not isinstance(weights, Mapping) or not all(isinstance(name, str) for name in weights):
            raise ParameterError(
                f"the model is a {type(weights).__name__}; a DXO's data is a dict of arrays by name"
            )
        arrays: dict[str, NDArray[Any]] = {}
        forms: dict[str, Form] = {}
        for name, value in weights.items():
            arrays[name], form = _entry(name, value)
            if form is not Form.ARRAY:
                forms[name] = form
        manifest_of(arrays)  # says what cannot be summed
        return cls(arrays, forms)

    def values(self) -> dict[str, Any]:
        """The entries in the forms that they came in; the caller's own."""
        return {name: _formed(array, self.forms.get(name, Form.ARRAY)) for name, array in self.arrays.items()}

    def record(self) -> Record:
        """The arrays as a round's digest holds them; nothing is copied."""
        return Record(
            Kind.ARRAYS,
            {
                name: ArrayBytes(str(each.dtype), each.shape, "numpy", each.reshape(-1).view(np.uint8).data)
                for name, each in self.arrays.items()
            },
        )

    def to_bytes(self) -> bytes:
        """The arrays; their forms travel with `Shown`."""
        entries = tuple(
            _SavedEntry(name, str(each.dtype), each.shape, each.reshape(-1).view(np.uint8).data)
            for name, each in self.arrays.items()
        )
        return encode(_SavedModel(entries))

    @classmethod
    def from_bytes(cls, data: bytes, *, forms: Mapping[str, Form]) -> Self:
        """The model that `to_bytes` wrote. The arrays are new.

        Raises:
            DecodeError: these bytes are none.
        """
        arrays: dict[str, NDArray[Any]] = {}
        for each in decode(_SavedModel, data).entries:
            try:
                dtype = np.dtype(each.dtype)
                if dtype.kind not in "fiub" or each.name in arrays:
                    raise DecodeError("a model's entry of no numeric dtype, or two of one name")
                found = np.frombuffer(each.data, dtype).reshape(each.shape)
            except (TypeError, ValueError) as error:
                raise DecodeError("a model's entry that is no array") from error
            arrays[each.name] = found.astype(dtype.newbyteorder("="), copy=True)
        return cls(arrays, forms)


def _entry(name: str, value: object) -> tuple[NDArray[Any], Form]:
    form = _PYTHON.get(type(value), Form.SCALAR if isinstance(value, np.generic) else Form.ARRAY)
    if not isinstance(value, np.ndarray | np.generic | bool | int | float):
        raise ParameterError(
            f"entry {name!r} is a {type(value).__name__}; arrays of numpy and numbers are summed: set the "
            'exchange format to "numpy"'
        )
    try:
        array = np.array(value, np.int64 if form is Form.INT else None)
    except OverflowError:
        raise ParameterError(f"entry {name!r} is an integer that does not fit in 64 bits") from None
    native = array.astype(array.dtype.newbyteorder("="), copy=False)
    return (np.ascontiguousarray(native) if native.ndim else native), form


def _formed(array: NDArray[Any], form: Form) -> Any:
    match form:
        case Form.ARRAY:
            return array.copy()
        case Form.SCALAR:
            return array[()]
        case Form.BOOL:
            return bool(array)
        case Form.INT:
            return int(array)
        case Form.FLOAT:
            return float(array)


@dataclass(frozen=True, slots=True)
class Shown:
    """What an executor sees beside the model.

    Attributes:
        task: its task's name.
        round: the number of the workflow's round.
        rounds: how many the workflow runs.
        forms: the entries of the model that are no arrays, as values of `Form`.
    """

    task: Annotated[str, UpTo(255)]
    round: U64
    rounds: U64
    forms: Annotated[dict[str, U8], UpTo(MOST_ENTRIES)] = field(default_factory=dict)

    def record(self) -> Record:
        """It, as a round's digest holds it."""
        forms = [f"{name}:{form}" for name, form in sorted(self.forms.items())]
        return Record(
            Kind.CONFIG,
            {"task": self.task, "round": self.round, "rounds": self.rounds, "forms": forms},
        )

    def named_forms(self) -> dict[str, Form]:
        """The forms.

        Raises:
            DecodeError: one is none.
        """
        try:
            return {name: Form(form) for name, form in self.forms.items()}
        except ValueError:
            raise DecodeError("an entry of a form that there is not") from None


@dataclass(frozen=True, slots=True)
class Letter:
    """What one task, result or message carries.

    Attributes:
        parcel: for the machines.
        ticket: 16 bytes of the server's, which the answer repeats: who never had them answers for nobody.
        shown: what the executor will see, if the parcel shows anything.
        arrays: of the model, if they travel.
    """

    parcel: Parcel
    ticket: bytes = b""
    shown: Shown | None = None
    arrays: bytes | None = None

    def put(self, shareable: Shareable) -> Shareable:
        """The shareable, with the letter in it and no other content."""
        data = {_HEAD: self.parcel.head, _BODY: bytes(self.parcel.body), _TICKET: self.ticket}
        if self.shown is not None:
            data[_SHOWN] = encode(self.shown)
        if self.arrays is not None:
            data[_ARRAYS] = self.arrays
        filled: Shareable = DXO(data_kind=DataKind.APP_DEFINED, data=data).update_shareable(shareable)
        return filled


def without_letter() -> Shareable:
    """A task's content before it is known for whom it is: a letter that says nothing."""
    return Letter(_NONE).put(Shareable())


def letter_in(shareable: object) -> Letter:
    """The letter in what the other side sent.

    Raises:
        DecodeError: there is none: it is of another kind, or in the clear.
    """
    try:
        dxo = from_shareable(shareable)
    except (ValueError, AttributeError):
        raise DecodeError(
            "what came is no DXO; the other side runs without this library's components"
        ) from None
    data = dxo.data
    if dxo.data_kind != DataKind.APP_DEFINED or not isinstance(data, dict) or _HEAD not in data:
        raise DecodeError(
            f"a DXO of kind {_kind(dxo)!r} came where a sealed letter belongs; the other side runs "
            "without this library's components"
        )
    head, body, ticket = (data.get(name, b"") for name in (_HEAD, _BODY, _TICKET))
    shown, arrays = data.get(_SHOWN), data.get(_ARRAYS)
    if not all(isinstance(each, bytes) for each in (head, body, ticket)):
        raise DecodeError("a letter whose parts are no bytes")
    if not isinstance(shown, bytes | None) or not isinstance(arrays, bytes | None):
        raise DecodeError("a letter whose parts are no bytes")
    return Letter(
        Parcel(head, body, shows=shown is not None),
        ticket,
        None if shown is None else decode(Shown, shown),
        arrays,
    )


def contribution_of(dxo: DXO, model: Model, *, weighted_by: str) -> Contribution:
    """What an executor's result adds to the sum.

    Args:
        dxo: the result: of kind WEIGHT_DIFF, or WEIGHTS, from which `model` is subtracted.
        model: what the executor was shown. Entries of it that are not summed may be in the result, or not.
        weighted_by: where the result's meta has the weight; empty: all sites weigh the same.

    Raises:
        ParameterError: the result is anything else; the text holds names and shapes, and no value.
    """
    kinds = (DataKind.WEIGHT_DIFF, DataKind.WEIGHTS)
    if dxo.data_kind not in kinds or not isinstance(dxo.data, dict):
        raise ParameterError(
            f"the result is a DXO of kind {_kind(dxo)!r}; what is summed is of kind "
            "'WEIGHT_DIFF' or 'WEIGHTS'"
        )
    manifest = manifest_of(dict(model.arrays))
    if odd := sorted(str(name) for name in dxo.data if name not in model.arrays):
        raise ParameterError(f"the result has an entry {odd[0]!r}, and the model has none of that name")
    update = np.empty(manifest.length, manifest.dtype)
    for name, part in manifest.slices().items():
        if name not in dxo.data:
            raise ParameterError(f"the result lacks the entry {name!r} of the model")
        old, (new, _) = model.arrays[name], _entry(name, dxo.data[name])
        if str(new.dtype) not in SUMMED or new.size != old.size or new.shape not in (old.shape, (old.size,)):
            raise ParameterError(
                f"entry {name!r} of the result is {new.dtype}{list(new.shape)}, of the model "
                f"{old.dtype}{list(old.shape)}; answer in floats of the same shape"
            )
        change = new.reshape(-1).astype(np.float64)
        if dxo.data_kind == DataKind.WEIGHTS:
            change -= old.reshape(-1)
        with np.errstate(over="ignore"):  # whoever sums looks for what is not finite
            update[part] = change
    return Contribution(update=update, weight=_weight(dxo, weighted_by), metrics={})


def _kind(dxo: DXO) -> str:
    return str(getattr(dxo.data_kind, "value", dxo.data_kind))


def _weight(dxo: DXO, weighted_by: str) -> int:
    if not weighted_by:
        return 1
    weight = plain(dxo.get_meta_prop(weighted_by))
    if isinstance(weight, float) and weight.is_integer():
        weight = int(weight)
    if type(weight) is not int or weight < 1:
        raise ParameterError(
            f"the result's meta has no positive integer under {weighted_by!r}, by which it is weighted; set "
            'it in the training, or weighted_by to "" on both sides'
        )
    return weight
