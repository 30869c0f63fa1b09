"""Tables for tests of regressions and survival: a trial of the textbooks, and patients by institution."""

from typing import Any

import numpy as np
import pandas as pd

from fl_integration.statistics.columns import Category, Number

WEEKS = Number("weeks", low=0, high=40, unit=1)
RELAPSE = Category("relapse", ("no", "yes"))
ARM = Category("arm", ("6-MP", "placebo"))

_TREATED = (6, 6, 6, 7, 10, 13, 16, 22, 23)
_TREATED_CENSORED = (6, 9, 10, 11, 17, 19, 20, 25, 32, 32, 34, 35)
_PLACEBO = (1, 1, 2, 2, 3, 4, 4, 5, 5, 8, 8, 8, 8, 11, 11, 12, 12, 15, 17, 22, 23)


def leukaemia(*, sites: int = 3) -> list[dict[str, Any]]:
    """Weeks in remission of 42 children (Freireich et al. 1963), dealt to some sites."""
    rows = [(weeks, "yes", "6-MP") for weeks in _TREATED]
    rows += [(weeks, "no", "6-MP") for weeks in _TREATED_CENSORED]
    rows += [(weeks, "yes", "placebo") for weeks in _PLACEBO]
    dealt = [rows[site::sites] for site in range(sites)]
    return [dict(zip(("weeks", "relapse", "arm"), zip(*each, strict=True), strict=True)) for each in dealt]


AGE = Number("age", low=0, high=128, unit=1)
PRESSURE = Number("pressure", low=60, high=260, unit=1)
SEX = Category("sex", ("f", "m"))
DIED = Category("died", (0, 1))


def patients(seed: int = 1, *, rows: int = 240, sites: int = 3) -> list[pd.DataFrame]:
    """Patients whose risk depends on age and sex, a tenth of the values missing."""
    generator = np.random.default_rng(seed)
    age, pressure = generator.integers(30, 90, rows), generator.normal(130, 18, rows).round().clip(70, 250)
    sex = generator.choice(["f", "m"], rows)
    risk = 1 / (1 + np.exp(-(-5 + 0.06 * age + 0.8 * (sex == "m"))))
    table = pd.DataFrame({"age": age.astype(float), "pressure": pressure, "sex": sex.astype(object)})
    table["died"] = (generator.random(rows) < risk).astype(int)
    table.loc[generator.random(rows) < 0.1, "age"] = np.nan
    table.loc[generator.random(rows) < 0.1, "sex"] = None
    return [table.iloc[site::sites].reset_index(drop=True) for site in range(sites)]
