"""The UCI heart-disease records of four hospitals, each of which prepares its own.

Detrano et al. (Am. J. Cardiology 64, 1989) collected 13 findings and the angiographic diagnosis of 920
patients at four sites. The sites are real, not a random split of one table: their patients differ (36 to
93 % have the disease), and so does what was measured. `data/README.md` beside this module names the
investigators, the codes and the known faults of the records.

Every step is local, as it has to be where rows may not leave the house. A hospital holds back a test set
stratified by diagnosis, fills gaps from the median (measurements) or the most frequent value (codes) of its
own training rows, and scales measurements by the mean and standard deviation of those same rows, or, where
the hospitals agree to, of all their training rows together (`pooling`). Test rows are prepared with the
training rows' figures and never contribute to them. The list of categories is fixed here, so that every
hospital has the same columns without having seen the others' data.

A cholesterol or blood pressure of 0 means 'not measured' and is treated as missing. A column that a site's
training rows lack altogether (cholesterol in Switzerland) is 0 after scaling: it says nothing about any
patient there. There is no input that says 'was missing': gaps follow the site, so the model would learn which
hospital a row is from, and with it how common the disease is there, instead of anything about the patient.

What this does not do: two pairs of rows (one in Budapest, one in Long Beach) are equal in every column, and
nothing tells whether they are two patients or one, so such a pair may fall on both sides of a split.

>>> [(h.site.name, len(h.train_y) + len(h.test_y)) for h in load_hospitals(seed=1)]
[('CLEVELAND', 303), ('BUDAPEST', 294), ('LONG_BEACH', 200)]
"""

import csv
import io
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from importlib import resources
from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt

from secagg.errors import ParameterError
from secagg.numbers import plain

__all__ = [
    "COLUMNS",
    "FEATURES",
    "Figures",
    "Hospital",
    "Records",
    "Site",
    "known",
    "load_hospitals",
    "prepare",
    "read_records",
    "training_values",
]

Floats: TypeAlias = npt.NDArray[np.float64]

Figures: TypeAlias = Mapping[str, tuple[float, float]]
"""Name of a measurement -> the mean and the standard deviation that it is scaled by."""

COLUMNS: Final = (
    "id", "site", "age", "sex", "cp", "trestbps", "chol", "fbs", "restecg", "thalch", "exang", "oldpeak",
    "num",
)  # fmt: skip
"""The columns of `data/heart_disease.csv`, in order."""

_MEASUREMENTS: Final = ("age", "trestbps", "chol", "thalch", "oldpeak")
_FLAGS: Final = ("sex", "fbs", "exang")
_CATEGORIES: Final = {"cp": (1, 2, 3, 4), "restecg": (0, 1, 2)}
_ZERO_IS_MISSING: Final = ("trestbps", "chol")

FEATURES: Final[tuple[str, ...]] = (
    *_MEASUREMENTS,
    *_FLAGS,
    *(f"{column}_{code}" for column, codes in _CATEGORIES.items() for code in codes),
)
"""The names of the model's inputs, in order: scaled measurements, 0/1 flags, one-hot codes."""


class Site(Enum):
    """A hospital; the value serves as its client id. The order is the order of the codes in the csv."""

    CLEVELAND = "cleveland"
    BUDAPEST = "budapest"
    LONG_BEACH = "long-beach"
    SWITZERLAND = "switzerland"

    @property
    def full_name(self) -> str:
        """The institution, as the investigators name it."""
        return _FULL_NAMES[self]

    @property
    def code(self) -> int:
        """The number, 1 to 4, that stands for this site in the csv."""
        return tuple(Site).index(self) + 1


_FULL_NAMES: Final = {
    Site.CLEVELAND: "Cleveland Clinic Foundation",
    Site.BUDAPEST: "Hungarian Institute of Cardiology, Budapest",
    Site.LONG_BEACH: "V.A. Medical Center, Long Beach",
    Site.SWITZERLAND: "University Hospitals, Zurich and Basel",
}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Records:
    """One site's rows as they were written down.

    Attributes:
        site: whose rows these are.
        ids: int64[n], the row ids of the source.
        values: column name -> float64[n], NaN where the csv is empty; all of `COLUMNS` but id and site.
    """

    site: Site
    ids: npt.NDArray[np.int64]
    values: dict[str, Floats]

    @property
    def disease(self) -> npt.NDArray[np.bool_]:
        """bool[n]: some artery is narrowed by more than half (num > 0)."""
        return self.values["num"] > 0


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Hospital:
    """What one hospital trains and tests on. f is `len(FEATURES)`; labels are 1 for disease and 0 for none.

    Attributes:
        site: which hospital.
        train_x: float32[n_train, f]; train_y: float32[n_train]; train_ids: int64[n_train].
        test_x: float32[n_test, f]; test_y: float32[n_test]; test_ids: int64[n_test].
    """

    site: Site
    train_x: npt.NDArray[np.float32]
    train_y: npt.NDArray[np.float32]
    train_ids: npt.NDArray[np.int64]
    test_x: npt.NDArray[np.float32]
    test_y: npt.NDArray[np.float32]
    test_ids: npt.NDArray[np.int64]

    @property
    def name(self) -> str:
        """The institution, as the investigators name it."""
        return self.site.full_name


def read_records() -> dict[Site, Records]:
    """All 920 rows by site, in the order of the csv that ships with this package.

    >>> {site.value: len(records.ids) for site, records in read_records().items()}
    {'cleveland': 303, 'budapest': 294, 'long-beach': 200, 'switzerland': 123}
    """
    text = resources.files(__package__).joinpath("data", "heart_disease.csv").read_text(encoding="ascii")
    rows = list(csv.DictReader(io.StringIO(text)))
    table = {name: np.array([float(row[name] or "nan") for row in rows]) for name in COLUMNS}
    ids, sites = table.pop("id").astype(np.int64), table.pop("site")
    found = {site: sites == site.code for site in Site}
    return {
        site: Records(site=site, ids=ids[here], values={name: column[here] for name, column in table.items()})
        for site, here in found.items()
    }


def known(records: Records, name: str) -> Floats:
    """float64[n]: a column in which NaN is all that was not measured."""
    column = records.values[name]
    return np.where(column == 0, np.nan, column) if name in _ZERO_IS_MISSING else column


def training_values(records: Records, name: str, *, seed: int, test_fraction: float = 0.2) -> Floats:
    """float64[n_train]: a column's values as they were measured, of the rows that are trained on."""
    return known(records, name)[~_held_back(records, seed=seed, fraction=test_fraction)]


def load_hospitals(
    *, sites: int = 3, seed: int, test_fraction: float = 0.2, figures: Figures | None = None
) -> tuple[Hospital, ...]:
    """The first `sites` hospitals, each with its own split and its own preparation.

    A hospital's arrays depend on its own rows, `seed` and `test_fraction` alone: they are the same whether
    three or four join.

    Args:
        sites: 3 (Cleveland, Budapest, Long Beach) or 4 (Switzerland joins).
        seed: at least 0; chooses the test rows.
        test_fraction: in (0, 1), the share of each class that is held back, at least one row of each class
            on either side.
        figures: what measurements are scaled by, everywhere alike; None: by each hospital's own.

    Raises:
        ParameterError: an argument is outside its range.
    """
    sites = plain(sites)
    if type(sites) is not int or sites not in (3, 4):
        raise ParameterError(f"sites is {sites!r}; 3 or 4 hospitals can take part")
    records = read_records()
    return tuple(
        prepare(records[site], seed=seed, test_fraction=test_fraction, figures=figures)
        for site in tuple(Site)[:sites]
    )


def prepare(
    records: Records, *, seed: int, test_fraction: float = 0.2, figures: Figures | None = None
) -> Hospital:
    """Split, impute and scale one site's rows, knowing nothing of any other site but `figures`.

    Arguments as above.

    Raises:
        ParameterError: an argument is outside its range, or a class has fewer than two rows.
    """
    seed, test_fraction = plain(seed), plain(test_fraction)
    if type(seed) is not int or seed < 0:
        raise ParameterError(f"seed is {seed!r}; it must be an int of at least 0")
    if not isinstance(test_fraction, float) or not 0 < test_fraction < 1:
        raise ParameterError(
            f"test_fraction is {test_fraction!r}; it must be a float strictly between 0 and 1"
        )
    test = _held_back(records, seed=seed, fraction=test_fraction)
    features, labels = _features(records, ~test, figures or {}), records.disease.astype(np.float32)
    return Hospital(
        site=records.site,
        train_x=features[~test],
        train_y=labels[~test],
        train_ids=records.ids[~test],
        test_x=features[test],
        test_y=labels[test],
        test_ids=records.ids[test],
    )


def _held_back(records: Records, *, seed: int, fraction: float) -> npt.NDArray[np.bool_]:
    """bool[n], True for the test rows: `fraction` of each class, at least one, never all."""
    rng = np.random.default_rng((seed, records.site.code))
    test = np.zeros(len(records.ids), np.bool_)
    for diseased in (False, True):
        rows = np.flatnonzero(records.disease == diseased)
        if len(rows) < 2:
            raise ParameterError(
                f"{records.site.value} has {len(rows)} rows {'with' if diseased else 'without'} disease; "
                "a split needs at least 2 of each class"
            )
        size = min(max(round(fraction * len(rows)), 1), len(rows) - 1)
        test[rng.permutation(rows)[:size]] = True
    return test


def _features(records: Records, train: npt.NDArray[np.bool_], figures: Figures) -> npt.NDArray[np.float32]:
    """float32[n, f] for all rows of a site, prepared by `figures` and by the rows of `train` alone."""
    columns = [_scaled(known(records, name), train, figures.get(name)) for name in _MEASUREMENTS]
    columns += [_most_frequent_for_missing(known(records, name), train) for name in _FLAGS]
    for name, codes in _CATEGORIES.items():
        filled = _most_frequent_for_missing(known(records, name), train)
        columns += [(filled == code).astype(np.float64) for code in codes]
    return np.column_stack(columns).astype(np.float32)


def _scaled(column: Floats, train: npt.NDArray[np.bool_], figures: tuple[float, float] | None) -> Floats:
    """Median for missing, then by these figures, or by those of the training rows."""
    measured = column[train & ~np.isnan(column)]
    if measured.size == 0:
        return np.zeros_like(column)
    filled = np.where(np.isnan(column), np.median(measured), column)
    mean, spread = (filled[train].mean(), filled[train].std()) if figures is None else figures
    return np.asarray((filled - mean) / (spread if spread > 0 else 1.0), np.float64)


def _most_frequent_for_missing(column: Floats, train: npt.NDArray[np.bool_]) -> Floats:
    """The training rows' most frequent code (the smallest of several) for missing; 0 if none is known."""
    codes, counts = np.unique(column[train & ~np.isnan(column)], return_counts=True)
    return np.where(np.isnan(column), codes[counts.argmax()] if codes.size else 0.0, column)
