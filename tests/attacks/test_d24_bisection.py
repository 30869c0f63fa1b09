"""D24. Bisection without end: who may ask for counts below thresholds of its own finds single values.

Three ways. A question a threshold: counts with conditions, which the ledger stops when two thresholds have
few rows between them. A server that writes thresholds of its own into the steps of `Quantiles`, where it
learns the
sums: it has as many steps as the question, and then none; within them it **succeeds** in choosing
thresholds. And the question asked again and again, which the ledger counts.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fl_integration.statistics.count import Count
from fl_integration.statistics.encoding import encode
from fl_integration.statistics.policy import SitePolicy
from fl_integration.statistics.quantiles import Quantiles
from fl_integration.statistics.question import Condition, Step
from fl_integration.statistics.refusal import QuestionRefusedError
from fl_integration.statistics.request import Request
from protocols import RoundAborted
from protocols.interface import Round
from tests.attacks.questions import AGE, CLIENTS_LEARN, Lying, hospitals, remembering, serving, told

OLDEST = 97


def one_is_old() -> Any:
    """The oldest of Wien is older than all others."""
    tables = hospitals()
    tables["wien"].loc[39, "age"] = float(OLDEST)
    return tables


def bisected(policy: SitePolicy | None) -> int:
    """Who is the oldest, by counts below thresholds: half of the ages at a time."""
    tables, low, high = one_is_old(), 60, 128
    while low < high:
        middle = (low + high) // 2
        rows = told(Count(where=(Condition(AGE, below=middle),)), tables=tables, policy=policy).rows
        low, high = (low, middle) if rows == 120 else (middle + 1, high)
    return low - 1


# A question a threshold


def test_on_the_copy_counts_find_the_oldest() -> None:
    assert bisected(None) == OLDEST


def test_ours_stops_where_few_rows_lie_in_between() -> None:
    with pytest.raises(QuestionRefusedError, match="by fewer than 10"):
        bisected(remembering())


# A server with thresholds of its own

QUESTION = Quantiles((AGE,), (1.0,))


class Searching(Lying):
    """Asks below thresholds of its own, one apart, from the oldest of the others on, and does not stop.

    Attributes:
        counts: by age, how many are at most so old.
    """

    counts: dict[int, int]

    @property
    def round(self) -> Round | None:
        if self._number < 2:
            return super().round
        if 120 in self.counts.values():
            return None
        step = Step("thresholds", 7, (1.0, float(self.start - 64)))  # in units from the column's middle
        request = replace(self._base, number=self._number, coverage=self._course.coverage, step=step)
        return Round(self._number, request.sites, 7, encode(request))

    @property
    def start(self) -> int:
        return 60 + 7 * (self._number - 2)

    def ended(self, outcome: Any, **given: Any) -> None:
        if self._number < 2:
            super().ended(outcome, **given)
            return
        for place, count in enumerate(outcome.total.total.tolist()):
            self.counts[self.start + place] = count
        self._number += 1


def searching(monkeypatch: pytest.MonkeyPatch) -> dict[int, int]:
    """A server that searches; what it has counted."""
    counts: dict[int, int] = {}
    monkeypatch.setattr(Searching, "counts", counts, raising=False)
    serving(monkeypatch, Searching)
    return counts


def test_on_a_copy_that_does_not_count_steps_it_finds_the_oldest(monkeypatch: pytest.MonkeyPatch) -> None:
    counts = searching(monkeypatch)
    monkeypatch.setattr(Quantiles, "most_sums", 100)
    with pytest.raises(RoundAborted, match="ended without an answer"):  # it wanted none
        told(QUESTION, tables=one_is_old())
    assert min(age for age, count in counts.items() if count == 120) == OLDEST


def test_within_the_questions_steps_it_chooses_and_that_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two of three sums are its own, fourteen ages; then the sites have answered what they agreed to."""
    counts = searching(monkeypatch)
    assert QUESTION.most_sums == 3
    with pytest.raises(QuestionRefusedError, match="sum 4 of a Quantiles, which takes 3 at most"):
        told(QUESTION, tables=one_is_old())
    assert sorted(counts) == list(range(60, 74))
    assert set(counts.values()) == {119}
    page = (Path(__file__).parents[2] / "protocols" / "THREAT_MODEL.md").read_text(encoding="utf-8")
    row = next(line for line in page.splitlines() if line.startswith("| D24 "))
    assert "**succeeds**" in row
    assert "thresholds of its own" in row


@pytest.mark.slow  # D23 and D25 show it at once
def test_where_the_clients_learn_the_sums_the_server_has_no_say(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("tenseal")

    class Choosing(Lying):
        def lie(self, request: Request) -> Request:
            step = Step("thresholds", 7, (1.0, 0.0))
            return replace(request, step=step) if request.number == 2 else request

    serving(monkeypatch, Choosing)
    with pytest.raises(QuestionRefusedError, match="the server says what is summed"):
        told(QUESTION, tables=one_is_old(), protocol=CLIENTS_LEARN)


# The question again and again


def test_sums_are_counted_over_the_ledgers_life() -> None:
    policy = remembering(max_answers=8)  # two questions of four sums
    for _ in range(2):
        told(QUESTION, policy=policy)
    with pytest.raises(QuestionRefusedError, match="8 sums were answered, which is all"):
        told(QUESTION, policy=policy)
