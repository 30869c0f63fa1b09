"""D24. Bisection without end: who may ask for counts below thresholds of its own finds single values.

Three ways. A question a threshold: counts with conditions, which the ledger stops when two thresholds have
few rows between them. A server that writes thresholds of its own into the steps of `Quantiles`, where it
learns the
sums: each step must lie within a part of the one before, and there are as many as the question has. Which
part, is the server's word: so it **succeeds** in asking for another quantile than was agreed to, and for no
more. And the question asked again and again, which the ledger counts.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fl_integration.statistics.columns import Category
from fl_integration.statistics.count import Count
from fl_integration.statistics.encoding import encode
from fl_integration.statistics.policy import SitePolicy
from fl_integration.statistics.quantiles import Quantiles
from fl_integration.statistics.question import Condition, Step
from fl_integration.statistics.refusal import QuestionRefusedError
from fl_integration.statistics.request import Request
from protocols import RoundAborted
from protocols.interface import Round
from secagg.errors import ParameterError
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

QUESTION = Quantiles((AGE,), (0.5,))


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
        if self.found:
            return None
        request = replace(
            self._base,
            number=self._number,
            coverage=self._course.coverage,
            step=Step("thresholds", 7, self.own),
        )
        return Round(self._number, request.sites, 7, encode(request))

    @property
    def found(self) -> bool:
        return 120 in self.counts.values()

    @property
    def own(self) -> tuple[float, ...]:
        """The gap between thresholds and where they begin, in units from the column's middle."""
        return (1.0, float(60 - 64 + 7 * (self._number - 2)))

    def ended(self, outcome: Any, **given: Any) -> None:
        if self._number < 2:
            super().ended(outcome, **given)
            return
        gap, low = map(int, self.own)
        for place, count in enumerate(outcome.total.total.tolist(), start=1):
            self.counts[64 + low + place * gap - 1] = count
        self._number += 1


class Climbing(Searching):
    """Asks for the oldest where the median was agreed to: always into the highest part that is not empty."""

    @property
    def found(self) -> bool:
        return self._number > QUESTION.most_sums

    @property
    def own(self) -> tuple[float, ...]:
        gap = {2: 8, 3: 1}[self._number]
        reached = max((age for age, count in self.counts.items() if count < 120), default=63)
        return (float(gap), float(reached + 1 - 64))


def lying(monkeypatch: pytest.MonkeyPatch, kind: type[Searching]) -> dict[int, int]:
    """A server that searches; what it has counted."""
    counts: dict[int, int] = {}
    monkeypatch.setattr(Searching, "counts", counts, raising=False)
    serving(monkeypatch, kind)
    return counts


def oldest(counts: dict[int, int]) -> int:
    return min(age for age, count in counts.items() if count == 120)


def test_on_a_copy_that_does_not_look_at_steps_it_finds_the_oldest(monkeypatch: pytest.MonkeyPatch) -> None:
    counts = lying(monkeypatch, Searching)
    monkeypatch.setattr(Quantiles, "most_sums", 100)
    monkeypatch.setattr(Quantiles, "follows", lambda *steps: True)
    with pytest.raises(RoundAborted, match="ended without an answer"):  # it wanted none
        told(QUESTION, tables=one_is_old())
    assert oldest(counts) == OLDEST


def test_on_a_copy_that_counts_steps_alone_it_has_thresholds_of_its_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    counts = lying(monkeypatch, Searching)
    monkeypatch.setattr(Quantiles, "follows", lambda *steps: True)
    with pytest.raises(QuestionRefusedError, match="sum 4 of a Quantiles, which takes 3 at most"):
        told(QUESTION, tables=one_is_old())
    assert sorted(counts) == list(range(60, 74))


def test_ours_answer_steps_that_follow_from_one_another(monkeypatch: pytest.MonkeyPatch) -> None:
    counts = lying(monkeypatch, Searching)
    with pytest.raises(QuestionRefusedError, match="a step that does not follow from the one before"):
        told(QUESTION, tables=one_is_old())
    assert not counts


def test_it_chooses_another_quantile_and_that_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """The residue: the oldest in the median's place. What totals a step follows from, no site knows."""
    counts = lying(monkeypatch, Climbing)
    with pytest.raises(RoundAborted, match="ended without an answer"):
        told(QUESTION, tables=one_is_old())
    assert oldest(counts) == OLDEST
    page = (Path(__file__).parents[2] / "protocols" / "THREAT_MODEL.md").read_text(encoding="utf-8")
    row = next(line for line in page.splitlines() if line.startswith("| D24 "))
    assert "**succeeds** in asking for another quantile" in row


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


# Refusals


def test_what_is_refused_for_its_rows_counts_as_well() -> None:
    """Whether a threshold is refused tells whether it has one to nine below it: who is the youngest?"""
    policy = remembering(max_answers=4)
    told(Count(), policy=policy)  # two sums
    for age in (22, 21):
        with pytest.raises(QuestionRefusedError, match="by fewer than 10"):
            told(Count(where=(Condition(AGE, at_least=age),)), policy=policy)
    with pytest.raises(QuestionRefusedError, match="4 sums were answered, which is all"):
        told(Count(where=(Condition(AGE, at_least=20),)), policy=policy)


def test_a_level_that_is_left_out_is_asked_for_as_often_as_sums_are() -> None:
    """A category of all ages but one does not fit where somebody is so old, at the hospital that is named."""
    policy = remembering(max_answers=2)

    def nobody_is(age: int) -> Count:
        others = Category("age", tuple(each for each in range(128) if each != age))
        return Count(where=(Condition(others, among=(100,)),))

    for age in (97, 96):
        with pytest.raises(ParameterError if age == 97 else QuestionRefusedError):
            told(nobody_is(age), tables=one_is_old(), policy=policy)
    with pytest.raises(QuestionRefusedError, match="2 sums were answered, which is all"):
        told(nobody_is(97), tables=one_is_old(), policy=policy)
