"""FLamby's Fed-Heart-Disease, from the records that ship with `fl_integration`.

Ogier du Terrail et al. (FLamby, NeurIPS'22 Datasets and Benchmarks) take the patients of four sites without a
gap in ten of the findings, split each site's once and for all, two thirds for training, and code the findings
as 13 inputs. The same patients are here, site by site (303, 261, 46 and 130), with the same split: the seed
is FLamby's, and so is the splitter, scikit-learn's.

What is easily missed:

* Each site scales its inputs by the mean and standard deviation of its *own* training rows, but the *pooled*
  set by those of all training rows. The table's figure for all patients is taken on the pooled set, also for
  models that were trained on the sites' own scales, where FedAvg would be four points lower.
* A pressure or cholesterol of 0 means 'not measured' and stays 0: only an empty cell drops a patient.
* The weight of a site is its number of training examples, not of its batches; that moves the third decimal.

>>> cohort = load_cohort()
>>> [len(site.train) + len(site.test) for site in cohort.sites], [len(site.train) for site in cohort.sites]
([303, 261, 46, 130], [199, 172, 30, 85])
>>> cohort.pooled.train.x.shape, len(cohort.pooled.test)
((486, 14), 254)
"""

from dataclasses import dataclass
from functools import cache
from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt
from sklearn.model_selection import train_test_split

from fl_integration.studies.heart.records import Records, Site, read_records

__all__ = ["INPUTS", "NAMES", "Cohort", "Examples", "SiteExamples", "load_cohort"]

Floats: TypeAlias = npt.NDArray[np.float64]

_SITES: Final = (Site.CLEVELAND, Site.BUDAPEST, Site.SWITZERLAND, Site.LONG_BEACH)
"""In FLamby's order: its client 0 is Cleveland."""

NAMES: Final = tuple(site.value for site in _SITES)
"""The client ids, in FLamby's order."""

_NUMBERS: Final = ("age", "sex", "trestbps", "chol", "fbs", "thalch", "exang", "oldpeak")
_CODES: Final = {"cp": (2.0, 3.0, 4.0), "restecg": (1.0, 2.0)}  # the least code of each is the one left out

INPUTS: Final = len(_NUMBERS) + sum(map(len, _CODES.values()))
"""Inputs of the model: 13."""

_SHARE: Final = 0.66
_SPLIT_SEED: Final = 43


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Examples:
    """Patients with their diagnosis.

    Attributes:
        x: float64[n, 14]: the 13 inputs, scaled, and a 1 for the bias.
        y: float64[n], 1 for disease and 0 for none.
    """

    x: Floats
    y: Floats

    def __len__(self) -> int:
        return len(self.y)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SiteExamples:
    """What is trained on, and what is tested on."""

    train: Examples
    test: Examples


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Cohort:
    """All patients, site by site and together.

    Attributes:
        sites: in the order of `NAMES`, each on its own scale.
        pooled: the same patients in the same order, on the scale of all training rows.
        unscaled: the sites' inputs [n, 13] as they were written down, without the 1 for the bias.
    """

    sites: tuple[SiteExamples, ...]
    pooled: SiteExamples
    unscaled: tuple[SiteExamples, ...]


@cache
def load_cohort() -> Cohort:
    """The patients; the same at each call."""
    records = read_records()
    coded = [_coded(records[site]) for site in _SITES]
    trained = [_split(y) for _, y in coded]
    sites = tuple(_scaled(x, y, train) for (x, y), train in zip(coded, trained, strict=True))
    together = [np.concatenate(parts) for parts in zip(*coded, strict=True)]
    return Cohort(
        sites=sites,
        pooled=_scaled(*together, np.concatenate(trained)),
        unscaled=tuple(_cut(x, y, train) for (x, y), train in zip(coded, trained, strict=True)),
    )


def _coded(records: Records) -> tuple[Floats, Floats]:
    """Inputs [n, 13], not scaled, and diagnoses [n], of those without a gap."""
    columns = [records.values[name] for name in (*_NUMBERS, *_CODES)]
    whole = ~np.isnan(columns).any(axis=0)
    indicators = [
        (records.values[name] == code).astype(np.float64) for name, codes in _CODES.items() for code in codes
    ]
    x = np.stack([*columns[: len(_NUMBERS)], *indicators], axis=1)
    return x[whole], records.disease[whole].astype(np.float64)


def _split(y: Floats) -> npt.NDArray[np.bool_]:
    """bool[n]: which patients are trained on; by diagnosis where each has more than two patients."""
    _, counts = np.unique(y, return_counts=True)
    train, _ = train_test_split(
        np.arange(len(y)),
        train_size=_SHARE,
        test_size=1 - _SHARE,
        random_state=_SPLIT_SEED,
        stratify=y if len(counts) > 1 and counts.min() > 2 else None,
    )
    return np.isin(np.arange(len(y)), train)


def _scaled(x: Floats, y: Floats, train: npt.NDArray[np.bool_]) -> SiteExamples:
    scaled = (x - x[train].mean(axis=0)) / (x[train].std(axis=0, ddof=1) + 1e-9)
    return _cut(np.column_stack([scaled, np.ones(len(x))]), y, train)


def _cut(x: Floats, y: Floats, train: npt.NDArray[np.bool_]) -> SiteExamples:
    return SiteExamples(train=Examples(x=x[train], y=y[train]), test=Examples(x=x[~train], y=y[~train]))
