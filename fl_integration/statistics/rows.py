"""A site's rows as a question reads them: checked, in the agreed units, missing values marked.

>>> from fl_integration.statistics.columns import Category, Number
>>> rows = Rows.of({"age": [63.0, float("nan"), 200.0], "sex": ["f", "m", "f"]})
>>> rows.steps(Number("age", low=0, high=128, unit=1)).tolist(), rows.clipped
([-1, 0, 64], {'age': 1})
>>> rows.present(Number("age", low=0, high=128, unit=1)).tolist()
[True, False, True]
>>> rows.codes(Category("sex", ("f", "m"))).tolist()
[0, 1, 0]
"""

from collections.abc import Collection, Mapping
from numbers import Real
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from fl_integration.statistics.columns import Category, Column, Genotypes, Number
from secagg.errors import ParameterError

__all__ = ["Rows", "is_missing"]


class Rows:
    """Columns of equal length.

    Attributes:
        clipped: values that were outside their column's bounds, by column; for this site's eyes alone.
    """

    def __init__(
        self, columns: Mapping[str, NDArray[Any]], count: int, *, hidden: frozenset[str] = frozenset()
    ) -> None:
        self._columns, self._count, self._hidden = dict(columns), count, hidden
        self._present: dict[Column, NDArray[np.bool_]] = {}
        self.clipped: dict[str, int] = {}

    @classmethod
    def of(cls, table: Any) -> Self:
        """Rows of a pandas DataFrame, or of a mapping from names to arrays.

        Raises:
            ParameterError: it is neither, or its columns differ in length.
        """
        if not isinstance(table, Mapping) and not hasattr(table, "columns"):
            raise ParameterError(
                f"a table is a {type(table).__name__}; pass a pandas DataFrame, or a dict of arrays of equal "
                "length"
            )
        names = list(table if isinstance(table, Mapping) else table.columns)
        if len({str(name) for name in names}) < len(names):
            raise ParameterError("a table has two columns of one name; rename one of them")
        columns = {str(name): _array(table[name]) for name in names}
        lengths = {name: each.shape[0] if each.ndim else -1 for name, each in columns.items()}
        if not columns or len(set(lengths.values())) > 1 or -1 in lengths.values():
            raise ParameterError(
                f"the columns have the lengths {lengths}; they must be equal, and there must be one"
            )
        return cls(columns, next(iter(lengths.values())))

    def __len__(self) -> int:
        return self._count

    @property
    def names(self) -> tuple[str, ...]:
        """The columns that there are."""
        return tuple(self._columns)

    @property
    def arrays(self) -> Mapping[str, NDArray[Any]]:
        """The columns as they came, by name."""
        return self._columns

    def where(self, chosen: NDArray[np.bool_]) -> "Rows":
        """The rows at which `chosen` (bool[rows]) is true."""
        kept = {name: each[chosen] for name, each in self._columns.items()}
        return Rows(kept, int(np.count_nonzero(chosen)), hidden=self._hidden)

    def hiding(self, names: Collection[str]) -> "Rows":
        """The same rows, in which all values of these columns are missing."""
        return Rows(self._columns, self._count, hidden=self._hidden.union(names))

    def numbers(self, column: Number) -> NDArray[np.float64]:
        """float64[rows], NaN where the value is missing; not clipped, not rounded.

        Raises:
            ParameterError: there is no such column, it holds text, or an infinite value.
        """
        found = self._found(column)
        if column.name in self._hidden:
            return np.full(len(self), np.nan)
        known = _known(found)
        if found.dtype.kind not in "biufO":
            raise ParameterError(
                f"column {column.name!r} holds something that is no number, its dtype is {found.dtype}; "
                "convert it, or ask for a Category"
            )
        if found.dtype == object:
            strange = [row for row in np.flatnonzero(known).tolist() if not isinstance(found[row], Real)]
            if strange:
                raise ParameterError(
                    f"column {column.name!r} holds something that is no number in {len(strange)} rows, "
                    f"first in row {strange[0]}; repair it, make it missing (NaN), or ask for a Category"
                )
        values = np.full(len(self), np.nan)
        try:
            values[known] = found[known].astype(np.float64)
        except OverflowError:
            raise ParameterError(
                f"column {column.name!r} holds an integer that is too large for a float64; repair it"
            ) from None
        if np.isinf(values).any():
            raise ParameterError(
                f"column {column.name!r} holds an infinite value, first in row "
                f"{int(np.isinf(values).argmax())}; make it missing (NaN), or repair it"
            )
        return values

    def present(self, column: Column) -> NDArray[np.bool_]:
        """bool[rows], where a value is known; of genotypes, where any marker is."""
        if column not in self._present:
            match column:
                case Number():
                    known = ~np.isnan(self.numbers(column))
                case Category():
                    known = self.codes(column) >= 0
                case Genotypes():
                    known = np.asarray(self.matrix(column).max(axis=1, initial=-1) >= 0)
            known.flags.writeable = False  # it is kept: a matrix is long to look through
            self._present[column] = known
        return self._present[column]

    def steps(self, column: Number) -> NDArray[np.int64]:
        """int64[rows], the values in units from `column.middle`, clipped to the bounds; 0 where missing."""
        values = self.numbers(column)
        known = ~np.isnan(values)
        inside = np.clip(values, column.low, column.high)
        self.clipped[column.name] = int(np.count_nonzero(known & (inside != values)))
        steps = np.rint(np.where(known, inside, column.middle * column.unit) / column.unit).astype(np.int64)
        steps -= column.middle
        return np.clip(steps, -column.largest, column.largest)

    def codes(self, column: Category) -> NDArray[np.int64]:
        """int64[rows], the index of each value among the levels, -1 where it is missing.

        Raises:
            ParameterError: there is no such column, or it holds a value that is no level.
        """
        found = self._found(column)
        codes = np.full(len(self), -1, dtype=np.int64)
        if column.name in self._hidden:
            return codes
        known = _known(found)
        values = found[known]
        among = np.full(len(values), -1, dtype=np.int64)
        for code, level in enumerate(column.levels):
            among[values == level] = code
        codes[known] = among
        if (known & (codes < 0)).any():
            row = int((known & (codes < 0)).argmax())
            raise ParameterError(
                f"column {column.name!r} holds a value in row {row} that is none of its "
                f"{len(column.levels)} levels; repair it, or agree on another list of levels"
            )
        return codes

    def matrix(self, column: Genotypes) -> NDArray[np.int8]:
        """int8[rows, markers] of allele counts, -1 where missing.

        Raises:
            ParameterError: there is no such matrix, or it is none of allele counts.
        """
        found = self._found(column, dimensions=2)
        if found.shape[1] != column.markers or found.dtype.kind not in "iu":
            raise ParameterError(
                f"{column.name!r} is {found.dtype} of {found.shape[1]} markers; it must hold integers of "
                f"{column.markers}"
            )
        if column.name in self._hidden:
            return np.full(found.shape, -1, dtype=np.int8)
        if found.size and not (int(found.min()) >= -1 and int(found.max()) <= 2):
            raise ParameterError(f"{column.name!r} holds allele counts outside -1 (missing), 0, 1, 2")
        return found.astype(np.int8, copy=False)

    def _found(self, column: Column, *, dimensions: int = 1) -> NDArray[Any]:
        if column.name not in self._columns:
            raise ParameterError(
                f"there is no column {column.name!r}; this table has {sorted(self._columns)}"
            )
        found = self._columns[column.name]
        if found.ndim != dimensions:
            raise ParameterError(
                f"column {column.name!r} has {found.ndim} dimensions; it must have {dimensions}"
            )
        return found


def _array(values: Any) -> NDArray[Any]:
    """A column as an array; what a masked array masks is missing, not what lies under the mask."""
    if isinstance(values, np.ma.MaskedArray):
        unmasked = np.asarray(values).astype(object)
        unmasked[np.ma.getmaskarray(values)] = None
        return unmasked
    found = np.asarray(values)
    # Of a list with texts and a NaN numpy would make the text "nan".
    if found.dtype.kind in "US" and isinstance(values, list | tuple):
        return np.asarray(values, dtype=object)
    return found


def _known(found: NDArray[Any]) -> NDArray[np.bool_]:
    """bool[rows], where there is a value."""
    if found.dtype == object:
        return np.array([not is_missing(each) for each in found], dtype=np.bool_)
    return ~np.isnan(found) if found.dtype.kind == "f" else np.ones(len(found), dtype=np.bool_)


def is_missing(value: Any) -> bool:
    """Whether a value is None, NaN, or pandas' NA or NaT."""
    if isinstance(value, float | np.floating):
        return bool(np.isnan(value))
    return value is None or type(value).__name__ in ("NAType", "NaTType")
