"""The hospitals' patients as Table 1 of a paper, from secure sums under a policy that each hospital has.

A hospital answers about declared columns alone, and about a group of its patients if it has enough of them.
Switzerland has no cholesterol, and so is in none of its figures; what it and the others do have is summed.
"""

from collections.abc import Callable
from typing import Final

from fl_integration.statistics.cohort import TableOne
from fl_integration.statistics.policy import SitePolicy, SmallCells
from fl_integration.statistics.table_one import questions, rank_edges, table_one
from fl_integration.studies.heart.choices import Choice
from fl_integration.studies.heart.declared import CODES, DISEASE, LABELS, MEASUREMENTS, tables

__all__ = ["MIN_ROWS", "cohort", "cohort_ticks"]

MIN_ROWS: Final = 5
"""Patients of a group that a hospital must have to be counted, and the least count that is printed."""
_MAX_ROWS: Final = 512
_COLUMNS: Final = (*MEASUREMENTS, *CODES)
_SKEWED: Final = ("oldpeak",)


def cohort(
    choice: Choice,
    *,
    sites: int,
    seed: int | None = None,
    min_rows: int = MIN_ROWS,
    tick: Callable[[str], None] = lambda title: None,
) -> TableOne:
    """Table 1 of the first `sites` hospitals, by diagnosis.

    Args:
        choice: the protocol that sums.
        sites: 3 or 4.
        seed: of this demonstration's keys; None: of the system's entropy.
        min_rows: see `MIN_ROWS`.
        tick: called `cohort_ticks()` times, with what is asked.

    Raises:
        ParameterError: min_rows is outside its range.
    """
    rows = tables(sites=sites)
    policies = {
        site: SitePolicy(
            columns={each.name: each for each in (*_COLUMNS, DISEASE)},
            edges={each.name: rank_edges(each) for each in MEASUREMENTS if each.name in _SKEWED},
            min_rows=min_rows,
            min_difference=min_rows,
            small_cells=SmallCells.BINNED,
        )
        for site in rows
    }
    return table_one(
        choice.protocol(clients=sites),
        rows,
        _COLUMNS,
        by=DISEASE,
        medians=_SKEWED,
        labels=LABELS,
        least_shown=min_rows,
        policy=policies,
        max_rows=_MAX_ROWS,
        seed=seed,
        tick=tick,
    )


def cohort_ticks() -> int:
    """How often `cohort` calls its `tick`."""
    return questions(_COLUMNS, by=DISEASE, medians=_SKEWED)
