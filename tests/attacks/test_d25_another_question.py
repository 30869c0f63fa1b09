"""D25. A server that asks another question than the sites agreed to, or another step, or one site another.

What goes down with each request is the question itself, and a site answers one that it agreed to and no
other. It knows the first step itself, numbers are in order, and the coverage is told once. On a copy that
answers what it is asked, a server that was allowed a mean of the marker asks for the marker of one patient.
"""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from fl_integration.statistics import asking
from fl_integration.statistics.count import Count
from fl_integration.statistics.encoding import decode, encode
from fl_integration.statistics.moments import Moments
from fl_integration.statistics.quantiles import Quantiles
from fl_integration.statistics.question import Condition, Step, selected
from fl_integration.statistics.refusal import QuestionRefusedError
from fl_integration.statistics.request import Request
from fl_integration.statistics.respondent import Respondent
from fl_integration.statistics.rows import Rows
from protocols import NeedUpdate, RoundAborted
from protocols.machine.client import Request as Sent
from protocols.masked.messages import CollectInput
from protocols.messages.envelope import Envelope
from protocols.messages.schema import decode as read
from protocols.messages.schema import encode as written
from tests.attacks.questions import AGE, CLIENTS_LEARN, MARKER, SERVER_LEARNS, Lying, hospitals, serving, told

AGREED = Moments((MARKER,))
WANTED = Moments((MARKER,), where=(Condition(AGE, at_least=59),))
"""The three oldest, one at each hospital."""


class Greedy(Lying):
    """Asks for the rows of few in the place of all."""

    def lie(self, request: Request) -> Request:
        return replace(request, question=WANTED)


def obedient(monkeypatch: pytest.MonkeyPatch) -> None:
    """The weakened copy: a site that counts what the request says."""

    def checked(self: Respondent, asked: Any) -> Request:
        return decode(Request, asked.model)

    def summand(self: Respondent, request: Request) -> Any:
        if request.step is None:
            return _covered(self, request)
        rows = selected(Rows.of(hospitals()[self.name]), request.question.where)
        return request.question.summand(request.step, rows)

    monkeypatch.setattr(Respondent, "_checked", checked)
    monkeypatch.setattr(Respondent, "_summand", summand)


def _covered(self: Respondent, request: Request) -> Any:
    return np.array(self._covers, dtype=np.int64)


def test_on_the_copy_it_learns_what_three_patients_have(monkeypatch: pytest.MonkeyPatch) -> None:
    serving(monkeypatch, Greedy)
    obedient(monkeypatch)
    answer = told(AGREED)
    few = [frame.marker[frame.age >= 59] for frame in hospitals().values()]
    assert answer.count[0] == 3
    assert answer.mean[0] == pytest.approx(sum(each.sum() for each in few) / 3)


def test_ours_answers_the_question_that_it_agreed_to(monkeypatch: pytest.MonkeyPatch) -> None:
    serving(monkeypatch, Greedy)
    with pytest.raises(QuestionRefusedError, match="another question, or of other sites") as found:
        told(AGREED)
    assert set(found.value.reasons) == {"basel", "bern", "wien"}


def changing(**changes: Any) -> type[Lying]:
    """A server that changes the requests from number `since` on."""
    since = changes.pop("since", 0)

    class Changing(Lying):
        def lie(self, request: Request) -> Request:
            return replace(request, **changes) if request.number >= since else request

    return Changing


FIRST = Step("count and thresholds", 2, (64.0, -64.0))


@pytest.mark.parametrize(
    ("server", "said"),
    [
        (changing(max_rows=5), "another question, or of other sites"),
        (changing(sites=("basel", "bern")), "another question, or of other sites"),
        (changing(number=1), "sum 1 is asked for; the next one is 0"),
        (changing(number=0, since=1), "sum 0 is asked for; the next one is 1"),
        (changing(number=3, since=2), "sum 3 is asked for; the next one is 2"),
        (changing(step=FIRST), "values are asked for before it is known"),
        (changing(coverage=(3, 3)), "values are asked for before it is known"),
        (changing(step=replace(FIRST, parameters=(32.0, -64.0)), since=1), "the first step is not that of"),
        (changing(step=None, since=1), "sum 1 of a Quantiles"),
        (changing(coverage=(3,), since=1), "the coverage of 1 columns; there are 2"),
        (changing(coverage=(3, 4), since=1), "contradicts what this site has itself"),
        (changing(coverage=(3, 0), since=1), "contradicts what this site has itself"),
        (changing(step=Step("moments", 4), since=2), "none of these Quantiles'"),
    ],
)
def test_requests_that_are_no_step_of_it(
    server: type[Lying], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    serving(monkeypatch, server)
    with pytest.raises(QuestionRefusedError, match=said):
        told(Quantiles((AGE,), (0.5,)))


def test_the_coverage_is_told_once(monkeypatch: pytest.MonkeyPatch) -> None:
    tables = {**hospitals(), "genf": hospitals()["wien"]}
    serving(monkeypatch, changing(coverage=(4, 3), since=2))
    with pytest.raises(QuestionRefusedError, match="another coverage than before"):
        told(Quantiles((AGE,), (0.5,)), tables=tables)


def test_bytes_that_are_no_request(monkeypatch: pytest.MonkeyPatch) -> None:
    class Babbling(Lying):
        @property
        def round(self) -> Any:
            honest = super().round
            return None if honest is None else replace(honest, model=b"pickle me")

    serving(monkeypatch, Babbling)
    with pytest.raises(QuestionRefusedError, match="is no request"):
        told(Count())


def test_who_refused_once_answers_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    halves: list[Respondent] = []

    class Kept(Respondent):
        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **options)
            halves.append(self)

    monkeypatch.setattr(asking, "Respondent", Kept)
    serving(monkeypatch, Greedy)
    with pytest.raises(QuestionRefusedError):
        told(AGREED)
    honest = encode(halves[0]._base)
    with pytest.raises(QuestionRefusedError, match="another question"):
        halves[0]._checked(NeedUpdate(0, 2, honest))


EXCHANGES = SERVER_LEARNS.exchanges(first=True)


class TwoFaced(asking._Wire):
    """The line to the sites: one of them is sent another step than the others."""

    def __call__(self, outbox: Any) -> Any:
        return super().__call__({site: self._changed(site, each) for site, each in outbox.items()})

    @staticmethod
    def _changed(site: str, message: bytes) -> bytes:
        envelope = Envelope.decode(message)
        if site != "wien" or envelope.round != 2 or EXCHANGES[envelope.stage // 2] != "MaskedInput":
            return message
        sent = read(Sent, envelope.body)
        asked = read(CollectInput, sent.body)
        request = decode(Request, bytes(asked.model))
        assert request.step is not None
        gap, *lows = request.step.parameters
        step = replace(request.step, parameters=(gap, *(-64 - low for low in lows)))  # the other half
        told_ = written(replace(asked, model=encode(replace(request, step=step))))
        return replace(envelope, body=written(replace(sent, body=memoryview(told_)))).encode()


def test_one_site_that_is_asked_another_step_is_in_no_sum(monkeypatch: pytest.MonkeyPatch) -> None:
    """A9: its masks are made under another transcript. Everybody must be in the sum, so there is none."""
    monkeypatch.setattr(asking, "_Wire", TwoFaced)
    with pytest.raises(RoundAborted):
        told(Quantiles((AGE,), (0.5,)))


def test_where_the_clients_learn_the_sums_a_step_is_the_clients(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("tenseal")
    serving(monkeypatch, changing(step=FIRST, since=1))
    with pytest.raises(QuestionRefusedError, match="the server says what is summed"):
        told(Quantiles((AGE,), (0.5,)), protocol=CLIENTS_LEARN)
    serving(monkeypatch, Greedy)
    with pytest.raises(QuestionRefusedError, match="another question"):
        told(AGREED, protocol=CLIENTS_LEARN)
