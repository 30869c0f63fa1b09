"""D23. The site that is alone in a column: the sum over all sites is what that one has.

`min_contributors` counts clients, not those that have a value. So who covers a column is summed first, and a
column that few sites cover is not summed at all. On a copy that does not look the lonely site's mean comes
out.

Where the server learns the sums the coverage that comes down is its word, and a lie about it **succeeds**:
the site cannot know what others have. Where the clients learn them each opens the coverage itself, and it
fails.
"""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from fl_integration.statistics.moments import Moments
from fl_integration.statistics.refusal import QuestionRefusedError
from fl_integration.statistics.request import Request
from fl_integration.statistics.respondent import Respondent
from tests.attacks.questions import AGE, CLIENTS_LEARN, MARKER, Lying, hospitals, remembering, serving, told

QUESTION = Moments((AGE, MARKER))


def lonely() -> Any:
    """Only Wien measures the marker."""
    tables = hospitals()
    for name in ("basel", "bern"):
        tables[name]["marker"] = np.nan
    return tables


def careless(monkeypatch: pytest.MonkeyPatch) -> None:
    """The weakened copy: sites that do not look at who covers what."""
    monkeypatch.setattr(Respondent, "_check_coverage", lambda self, coverage: None)


@pytest.mark.parametrize("protocol", ["server learns", "clients learn"])
def test_on_the_copy_the_mean_of_all_is_that_of_one(protocol: str, monkeypatch: pytest.MonkeyPatch) -> None:
    careless(monkeypatch)
    answer = _asked(protocol, lonely())
    assert answer.mean[1] == pytest.approx(lonely()["wien"].marker.mean())


@pytest.mark.parametrize("protocol", ["server learns", "clients learn"])
def test_ours_sum_no_value_of_it(protocol: str, monkeypatch: pytest.MonkeyPatch) -> None:
    counted: list[int] = []
    original = Moments.summand

    def seen(self: Moments, step: Any, rows: Any) -> Any:
        counted.append(step.length)
        return original(self, step, rows)

    monkeypatch.setattr(Moments, "summand", seen)
    with pytest.raises(QuestionRefusedError, match="1 of 3 sites have enough values in 'marker'") as found:
        _asked(protocol, lonely())
    assert set(found.value.reasons) == {"basel", "bern", "wien"}
    assert not counted


class Flattering(Lying):
    """Tells each site that all cover everything."""

    def lie(self, request: Request) -> Request:
        if not request.coverage:
            return request
        return replace(request, coverage=(3,) * len(request.coverage))


class Inventing(Lying):
    """Tells everybody that two others cover the column: true to all who cannot contradict it."""

    def lie(self, request: Request) -> Request:
        return replace(request, coverage=(3, 3, 2)) if request.coverage else request


def test_a_coverage_that_contradicts_a_sites_own_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    serving(monkeypatch, Flattering)
    with pytest.raises(QuestionRefusedError, match="contradicts what this site has itself") as found:
        told(QUESTION, tables=lonely())
    assert set(found.value.reasons) == {"basel", "bern"}  # who has no marker knows that three is a lie


def test_an_invented_coverage_succeeds_where_the_server_learns_the_sums(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The residue. A policy that allows two sites is told that there are two."""
    serving(monkeypatch, Inventing)
    with pytest.raises(QuestionRefusedError, match="2 of 3 sites"):
        told(QUESTION, tables=lonely())
    answer = told(QUESTION, tables=lonely(), policy=remembering(min_sites=2))
    assert answer.mean[1] == pytest.approx(lonely()["wien"].marker.mean())


def test_it_fails_where_the_clients_open_it_themselves(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("tenseal")
    serving(monkeypatch, Telling)
    with pytest.raises(
        QuestionRefusedError, match="the server says what is summed, where the clients know it"
    ):
        told(QUESTION, tables=lonely(), protocol=CLIENTS_LEARN)


class Telling(Lying):
    """Says who covers what to clients that learn it themselves."""

    def lie(self, request: Request) -> Request:
        return replace(request, coverage=(3, 3, 2)) if request.number else request


def _asked(protocol: str, tables: Any) -> Any:
    if protocol == "server learns":
        return told(QUESTION, tables=tables)
    pytest.importorskip("tenseal")
    return told(QUESTION, tables=tables, protocol=CLIENTS_LEARN)
