"""What the hospitals' columns may hold, as statistics need it said beforehand; and their rows as tables.

Bounds are of medicine and of the instruments, not of these patients: who looked for the extremes first would
have told them. A value outside counts as the nearer bound.

>>> [column.name for column in MEASUREMENTS]
['age', 'trestbps', 'chol', 'thalch', 'oldpeak']
>>> {name: len(table["age"]) for name, table in tables(sites=3).items()}
{'cleveland': 303, 'budapest': 294, 'long-beach': 200}
"""

from collections.abc import Mapping
from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt

from fl_integration.statistics.cohort import Label
from fl_integration.statistics.columns import Category, Number
from fl_integration.studies.heart.records import Site, known, read_records

__all__ = ["CODES", "DISEASE", "LABELS", "MEASUREMENTS", "Table", "tables"]

Table: TypeAlias = dict[str, npt.NDArray[np.float64]]
"""Column name -> float64[rows], NaN where nothing is known."""

MEASUREMENTS: Final = (
    Number("age", low=0, high=128, unit=1),
    Number("trestbps", low=0, high=256, unit=1),
    Number("chol", low=0, high=1024, unit=1),
    Number("thalch", low=0, high=256, unit=1),
    Number("oldpeak", low=-8, high=8, unit=0.1),
)
"""The numbers, in the units in which they were written down."""

CODES: Final = (
    Category("sex", (0, 1)),
    Category("cp", (1, 2, 3, 4)),
    Category("fbs", (0, 1)),
    Category("restecg", (0, 1, 2)),
    Category("exang", (0, 1)),
)

DISEASE: Final = Category("disease", (0, 1))
"""Some artery is narrowed by more than half."""

LABELS: Final[Mapping[str, Label]] = {
    "age": "Age, years",
    "trestbps": "Blood pressure at rest, mm Hg",
    "chol": "Serum cholesterol, mg/dl",
    "thalch": "Highest heart rate, 1/min",
    "oldpeak": "ST depression, mm",
    "sex": {"": "Sex", 0: "female", 1: "male"},
    "cp": {"": "Chest pain", 1: "typical angina", 2: "atypical angina", 3: "non-anginal", 4: "asymptomatic"},
    "fbs": {"": "Fasting sugar > 120 mg/dl", 0: "no", 1: "yes"},
    "restecg": {"": "ECG at rest", 0: "normal", 1: "ST-T abnormality", 2: "hypertrophy"},
    "exang": {"": "Angina on exercise", 0: "no", 1: "yes"},
    "disease": {"": "Disease", 0: "no disease", 1: "disease"},
}
"""What a table says for a column, and for each of its levels."""


def tables(*, sites: int) -> dict[str, Table]:
    """All rows of the first `sites` hospitals, by client id; a 0 that means 'not measured' is missing."""
    records = read_records()
    found: dict[str, Table] = {}
    for site in tuple(Site)[:sites]:
        of_site = records[site]
        columns = {each.name: known(of_site, each.name) for each in (*MEASUREMENTS, *CODES)}
        found[site.value] = {**columns, DISEASE.name: of_site.disease.astype(np.float64)}
    return found
