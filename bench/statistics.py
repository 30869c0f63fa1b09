"""What statistics through secure sums cost: `python -m bench statistics`.

Processor time of all parties, sites and server, one after the other in one process, from the tables to the
finished answer: the least of several questions after a first one, which loads libraries. Bytes are those that
the site that sends most sends.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from rich.table import Table

from fl_integration.statistics.allele_test import AlleleTest, Calls
from fl_integration.statistics.asking import ask
from fl_integration.statistics.columns import Category, Genotypes, Number
from fl_integration.statistics.logistic_regression import LogisticRegression
from fl_integration.statistics.question import Question
from fl_integration.statistics.rows import Rows
from protocols import MaskedSum

__all__ = ["ROWS", "Row", "measure", "table_of"]

SITES: Final = ("basel", "bern", "genf", "wien")
RUNS: Final = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A measurement and what it is held to.

    Attributes:
        what: was asked, or what of it was done.
        seconds: processor time of all who took part in that.
        most_seconds: the target.
        sent: bytes, of the site that sends most; 0 where nothing is sent.
        most_sent: the target; 0 where there is none.
    """

    what: str
    seconds: float
    most_seconds: float
    sent: int = 0
    most_sent: int = 0


def asked(
    question: Question, tables: dict[str, dict[str, np.ndarray]], *, max_rows: int
) -> tuple[float, int]:
    """Seconds of the quickest of some askings, and bytes."""
    seconds = []
    for _ in range(1 + RUNS):
        since = time.process_time()
        answer = ask(MaskedSum(max_clients=len(tables)), tables, question, max_rows=max_rows)
        seconds.append(time.process_time() - since)
    assert answer.provenance is not None
    return min(seconds[1:]), max(answer.provenance.sent.values())


def alleles(markers: int = 100_000, persons: int = 300) -> Row:
    """Allelic tests of very many markers, half of the persons cases, no genotype missing."""
    rng = np.random.default_rng(5)
    frequencies = rng.uniform(0.05, 0.5, markers)
    ill = np.arange(persons) % 2
    tables = {
        site: {"snps": rng.binomial(2, frequencies, (persons, markers)).astype(np.int8), "ill": ill}
        for site in SITES
    }
    question = AlleleTest(Genotypes("snps", markers), Category("ill", (0, 1)), calls=Calls.COMPLETE)
    # Sums of four sites of up to 1000 rows take 13 bits; of 1024 rows 14, for the sake of one value.
    seconds, sent = asked(question, tables, max_rows=1000)
    return Row(
        what=f"{markers:,} allele tests, {len(SITES)} sites of {persons}, MaskedSum",
        seconds=seconds,
        most_seconds=0.6,
        sent=sent,
        most_sent=360_000,
    )


def newton(columns: int = 100, rows: int = 2000) -> Row:
    """What one site does in one step of a logistic regression."""
    rng = np.random.default_rng(5)
    table: dict[str, np.ndarray] = {f"x{place}": rng.normal(size=rows) for place in range(columns)}
    table["ill"] = rng.integers(0, 2, rows)
    predictors = tuple(Number(f"x{place}", low=-8, high=8, unit=2.0**-12) for place in range(columns))
    question = LogisticRegression(Category("ill", (0, 1)), predictors)
    step = replace(
        next(question.asking(max_rows=rows)), parameters=tuple(rng.normal(size=1 + columns).tolist())
    )
    seconds, site = [], Rows.of(table)
    for _ in range(1 + RUNS):
        since = time.process_time()
        question.summand(step, site)
        seconds.append(time.process_time() - since)
    return Row(
        what=f"a Newton step over {columns} columns, a site of {rows:,}",
        seconds=min(seconds[1:]),
        most_seconds=0.05,
    )


ROWS: Final[tuple[Callable[[], Row], ...]] = (alleles, newton)
"""What is measured, a row each."""


def measure() -> list[Row]:
    """All rows."""
    return [row() for row in ROWS]


def table_of(rows: list[Row]) -> Table:
    """The rows beside their targets."""
    table = Table("question", "seconds of all parties", "at most", "bytes a site sends", "at most")
    for row in rows:
        bytes_sent = f"{row.sent:,}" if row.sent else "–"
        most_sent = f"{row.most_sent:,}" if row.most_sent else "–"
        table.add_row(row.what, f"{row.seconds:.3f}", f"{row.most_seconds:g}", bytes_sent, most_sent)
    return table
