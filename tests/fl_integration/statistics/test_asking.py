"""Questions among sites, over every protocol: who learns the answer, and what is refused when."""

import sys
from typing import Any

import numpy as np
import pandas as pd
import pytest

from fl_integration.statistics import asking
from fl_integration.statistics.asking import Asker, ask
from fl_integration.statistics.columns import Category, Number
from fl_integration.statistics.correlation import Correlation
from fl_integration.statistics.count import Count
from fl_integration.statistics.course import Course
from fl_integration.statistics.histogram import Histogram
from fl_integration.statistics.moments import Moments
from fl_integration.statistics.policy import SitePolicy, SmallCells
from fl_integration.statistics.quantiles import Quantiles
from fl_integration.statistics.question import Condition, Question, Step
from fl_integration.statistics.refusal import QuestionRefusedError
from fl_integration.statistics.respondent import Respondent, _counted
from protocols import MaskedSum, RoundAborted
from secagg.errors import MissingExtraError, ParameterError, VerificationError
from tests.fl_integration.statistics.pooled import pooled
from tests.fl_integration.statistics.sites import AGE, CHOL, EACH, MASKED, NAMES, PROTOCOLS, SEX, tables
from tests.fresh import run


def numbers(answer: Any) -> list[Any]:
    """All figures of an answer."""
    return [np.asarray(each).tolist() for each in vars(answer).values() if isinstance(each, int | np.ndarray)]


@pytest.mark.parametrize("name", EACH)
def test_answers_are_those_of_the_pooled_rows(name: str) -> None:
    if name == "ckks":
        pytest.importorskip("tenseal")
    sites = tables()
    old = (Condition(AGE, at_least=50),)
    questions: tuple[Question, ...] = (Count(where=old), Moments((AGE, CHOL)), Quantiles((AGE, CHOL)))
    for question in questions:
        answer = ask(PROTOCOLS[name], sites, question, seed=3)
        assert numbers(answer) == numbers(pooled(question, sites.values()))
        assert answer.provenance is not None
        assert answer.provenance.contributors == set(NAMES)
        assert answer.provenance.sums == question.most_sums + 1
        assert min(answer.provenance.sent.values()) > 0
        assert set(answer.provenance.seconds) == {*NAMES, "server"}
        assert answer.provenance.left_out == {}
        assert "3 sites" in str(answer)


def test_with_a_seed_everything_repeats_and_without_one_it_does_not() -> None:
    wire: list[list[bytes]] = []

    class Seen(Respondent):
        def answer(self, request: bytes) -> bytes:
            wire[-1].append(super().answer(request))
            return wire[-1][-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(asking, "Respondent", Seen)
        for seed in (1, 1, 2, None, None):
            wire.append([])
            ask(PROTOCOLS["plain"], tables(), Count(), seed=seed)
    assert wire[0] == wire[1]
    assert len({b"".join(each) for each in wire}) == 4


def test_a_site_hears_how_many_of_its_values_were_beyond_the_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    halves: dict[str, Respondent] = {}

    class Kept(Respondent):
        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **options)
            halves[self.name] = self

    monkeypatch.setattr(asking, "Respondent", Kept)
    sites = tables()
    sites["wien"].loc[:2, "age"] = [200.0, -1.0, np.nan]
    with pytest.warns(UserWarning, match="wien: 2 of 'age'"):  # all sites are one's own, in this process
        ask(MASKED, sites, Moments((AGE,)), seed=1)
    assert {name: each.clipped for name, each in halves.items()} == {
        name: {"age": 2} if name == "wien" else {} for name in NAMES
    }


# What is left out


def test_a_site_with_few_values_counts_as_one_that_has_none() -> None:
    sites = tables(names=(*NAMES, "zürich"))
    sites["zürich"]["chol"] = [200.0] * 9 + [np.nan] * 31
    answer = ask(MASKED, sites, Moments((AGE, CHOL)), seed=1)
    without = [sites[name].chol for name in NAMES]
    assert answer.count.tolist() == [160, int(pd.concat(without).count())]
    assert answer.mean[1] == pytest.approx(pd.concat(without).mean())
    assert answer.provenance.left_out == {"chol": 1}
    assert "1 without 'chol'" in str(answer)


def test_a_site_with_few_rows_that_count_takes_part_with_none() -> None:
    sites = tables(names=(*NAMES, "zürich"))
    sites["zürich"]["age"] = [80.0] * 9 + [40.0] * 31
    answer = ask(MASKED, sites, Count(where=(Condition(AGE, at_least=60),)), seed=1)
    assert answer.rows == sum((sites[name].age >= 60).sum() for name in NAMES)
    assert answer.provenance.left_out == {"(rows)": 1}


def test_a_column_that_few_sites_have_is_not_summed() -> None:
    sites = tables()
    sites["wien"]["chol"] = np.nan
    with pytest.raises(QuestionRefusedError, match="2 of 3 sites have enough values in 'chol'") as found:
        ask(MASKED, sites, Moments((AGE, CHOL)), seed=1)
    assert set(found.value.reasons) == set(NAMES)
    with pytest.raises(QuestionRefusedError, match="0 of 3 sites have enough rows that count"):
        ask(MASKED, sites, Count(where=(Condition(AGE, at_least=127),)), seed=1)


def test_empty_tables_are_sites_without_rows() -> None:
    sites: dict[str, Any] = {
        **tables(),
        "zürich": {"age": np.zeros(0), "sex": np.zeros(0), "chol": np.zeros(0)},
    }
    assert ask(MASKED, sites, Moments((AGE,)), seed=1).provenance.left_out == {"(rows)": 1, "age": 1}
    with pytest.raises(QuestionRefusedError, match="0 of 3"):
        ask(MASKED, {name: {"age": []} for name in NAMES}, Moments((AGE,)), seed=1)


def test_values_outside_their_bounds_are_warned_of_by_site() -> None:
    sites = tables()
    sites["wien"] = sites["wien"].assign(age=[900.0, *sites["wien"].age[1:]])
    with pytest.warns(UserWarning, match="nearer bound: wien: 1 of 'age'. Look at the unit") as said:
        ask(MASKED, sites, Moments((AGE,)), seed=1)
    assert [each.filename for each in said] == [__file__]
    assert "900" not in str(said[0].message)


def test_what_all_sites_say_is_said_once() -> None:
    with pytest.raises(ParameterError) as found:
        ask(MASKED, tables(), Moments((Number("years", low=0, high=128, unit=1),)))
    assert str(found.value).startswith("basel, bern, wien: there is no column 'years'")
    assert str(found.value).count("no column") == 1


class Complete(Moments):
    """Moments over the rows that lack nothing."""

    complete_cases = True


def test_complete_cases_are_counted_and_the_others_stay_for_the_question() -> None:
    sites = tables(names=(*NAMES, "zürich"))
    sites["zürich"]["chol"] = [200.0] * 9 + [np.nan] * 31
    question = Complete((AGE, CHOL))
    _, covers = _covered(question, sites["zürich"])
    assert covers == (0, 0, 0)
    rows, covers = _covered(question, sites["wien"])
    assert covers == (1, 1, 1)
    assert len(rows) == 40 > sites["wien"].chol.count()


def _covered(question: Question, table: Any) -> Any:
    return _counted(question, table, least=10, max_rows=100)


# What is refused


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"age": ["9163"] * 40}, "wien: column 'age' holds something that is no number"),
        ({"age": [9163.0, "ancient"] * 20}, "wien: column 'age' holds something that is no number"),
        ({"age": [9163.0, np.inf] * 20}, "wien: column 'age' holds an infinite value, first in row 1"),
        (
            {"sex": ["f", "ancient"] * 20},
            "wien: column 'sex' holds a value in row 1 that is none of its 2 levels",
        ),
        ({"age": pd.date_range("2020-01-01", periods=40)}, "wien: column 'age' holds something"),
    ],
)
def test_a_table_that_does_not_fit_is_named_before_anything_runs(change: Any, said: str) -> None:
    sites = tables()
    sites["wien"] = sites["wien"].assign(**change)
    question = Moments((AGE,), where=(Condition(SEX, among=("f", "m")),))
    with pytest.raises(ParameterError, match=said) as found:
        ask(MASKED, sites, question, seed=1)
    assert not any(secret in str(found.value) for secret in ("9163", "ancient", "2020"))


def test_columns_that_differ_between_sites_are_named_with_their_sites() -> None:
    sites = tables()
    del sites["basel"]["age"]
    sites["wien"] = sites["wien"].rename(columns={"age": "years"})
    said = "basel: there is no column 'age'; this table has .*chol.*; wien: there is no column 'age'"
    with pytest.raises(ParameterError, match=said):
        ask(MASKED, sites, Moments((AGE,)))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"tables": {}}, "tables maps each site's id"),
        ({"tables": [1]}, "tables maps each site's id"),
        ({"tables": dict.fromkeys(NAMES, 3)}, "basel, bern, wien: a table is a int"),
        ({"tables": {name: {"age": [1.0], "sex": []} for name in NAMES}}, "must be equal"),
        ({"tables": {name: {"age": [1.0]} for name in "abcde"}}, "max_clients"),
        ({"tables": {name: {"age": [1.0] * 20} for name in "ab"}}, "a cohort of 2, min_contributors is 3"),
        ({"tables": {"a": {"age": [1.0] * 20}}}, "tables is of 'a' alone"),
        ({"question": "mean"}, "question is a str"),
        ({"max_rows": 39}, "the table has more rows than max_rows, 39; raise it at all"),
        ({"max_rows": 0}, "max_rows is 0"),
        ({"max_rows": 1.5}, "max_rows is 1.5"),
        (
            {"max_rows": 1 << 40, "question": Moments((Number("chol", low=0, high=1e4),))},
            "a Moments over .* rows a site .* lower max_rows",
        ),
        ({"seed": -1}, "seed is -1"),
        ({"policy": {"wien": SitePolicy()}}, "policy names the sites"),
        ({"policy": {**dict.fromkeys(NAMES, SitePolicy()), "genf": SitePolicy()}}, "'genf'"),
        ({"policy": "open"}, "policy is a str"),
        ({"privacy": 1.0}, "privacy is a float"),
    ],
)
def test_arguments_that_can_never_work(options: dict[str, Any], said: str) -> None:
    given: dict[str, Any] = {"tables": tables(), "question": Moments((AGE,)), **options}
    with pytest.raises(ParameterError, match=said):
        ask(MASKED, given.pop("tables"), given.pop("question"), **given)


def test_a_site_whose_policy_says_no_ends_the_question() -> None:
    shy = SitePolicy(columns={"chol": CHOL})
    policies = {**dict.fromkeys(NAMES, SitePolicy()), "wien": shy}
    with pytest.raises(QuestionRefusedError) as found:
        ask(MASKED, tables(), Moments((AGE,)), policy=policies)
    assert list(found.value.reasons) == ["wien"]


class Silent(asking._Wire):
    """Brings nothing of one site when values are asked for."""

    seen: Any

    def __init__(self, respondents: Any) -> None:
        super().__init__(respondents)
        type(self).seen = respondents

    def __call__(self, outbox: Any) -> Any:
        for site, reply in super().__call__(outbox):
            if site != "wien" or self._respondents[site]._next < 2:
                yield site, reply


@pytest.mark.parametrize("name", EACH)
def test_no_sum_is_opened_without_a_site(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It would tell what that site has, next to a sum with it. Three of four are enough for the protocol."""
    if name == "ckks":
        pytest.importorskip("tenseal")
    askers: list[Asker] = []

    class Watched(Asker):
        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **options)
            askers.append(self)

    monkeypatch.setattr(asking, "Asker", Watched)
    monkeypatch.setattr(asking, "_Wire", Silent)
    with pytest.raises(RoundAborted):
        ask(PROTOCOLS[name], tables(names=(*NAMES, "zürich")), Moments((AGE,)), seed=1)
    record = askers[0].server.record().record
    assert record.round == 1
    if name in ("masked", "lattice"):
        assert not record.opened
    if name in ("ckks", "paillier"):  # the result is sealed, and stays so
        assert {each.course.number for each in Silent.seen.values()} == {1}


def test_a_course_refuses_what_no_sites_add_up_to() -> None:
    course = Course(Moments((AGE,)), max_rows=10, sites=3)
    for coverage in ([3, 4], [-1, 3]):
        with pytest.raises(RoundAborted, match="covered by more than the 3 sites"):
            course.take(np.array(coverage))
    course.take(np.array([3, 2]))
    assert course.left_out == {"age": 1}

    class Endless(Count):
        def asking(self, *, max_rows: int) -> Any:
            while True:
                yield Step("rows", 1)

    course = Course(Endless(), max_rows=10, sites=3)
    course.take(np.array([3]))
    with pytest.raises(ParameterError, match="a Endless wants a sum more than the 1"):
        course.take(np.array([7]))


def test_clients_that_open_different_sums_have_no_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("tenseal")

    class Doubting(Respondent):
        @property
        def course(self) -> Any:
            if self.name == "wien" and self._course.answer is not None:
                self._course._digest.update(b"another")
            return self._course

    monkeypatch.setattr(asking, "Respondent", Doubting)
    with pytest.raises(VerificationError, match="opened different sums"):
        ask(PROTOCOLS["ckks"], tables(), Count(), seed=1)


def test_a_missing_scipy_is_found_before_anything_is_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sums that were opened are spent, whether an answer comes of them or not."""
    monkeypatch.setitem(sys.modules, "scipy", None)
    policy = SitePolicy(small_cells=SmallCells.OPENED)
    with pytest.raises(MissingExtraError, match=r"secagg\[statistics\]"):
        ask(MASKED, tables(), Correlation((AGE, CHOL)), policy=policy)
    assert [policy.ledger.answers(name) for name in NAMES] == [0] * len(NAMES)
    assert ask(MASKED, tables(), Count(), policy=policy).rows == 120


def test_two_columns_of_one_name_are_refused() -> None:
    question = Moments((AGE,), where=(Condition(Number("age", low=0, high=99), below=50),))
    with pytest.raises(ParameterError, match="two different columns are named 'age'"):
        ask(MASKED, tables(), question)


def test_where_the_clients_learn_the_sums_the_server_has_no_answer() -> None:
    """It drives the rounds and is told how long the next sum is."""
    pytest.importorskip("tenseal")
    with pytest.MonkeyPatch.context() as patch:
        seen: list[Asker] = []

        class Watched(Asker):
            def __init__(self, *args: Any, **options: Any) -> None:
                super().__init__(*args, **options)
                seen.append(self)

        patch.setattr(asking, "Asker", Watched)
        answer = ask(PROTOCOLS["ckks"], tables(), Histogram(SEX), seed=1)
    assert answer.counts.sum() == 120
    assert seen[0].course.answer is None
    assert seen[0].course.coverage == ()
    assert seen[0].round is None


def test_a_category_of_ints_and_a_masked_array() -> None:
    level = Category("level", (0, 1))
    sites = {
        name: {"level": np.ma.masked_array([0, 1, 1, 0] * 5, mask=[False, False, True, False] * 5)}
        for name in NAMES
    }
    answer = ask(MaskedSum(max_clients=3), sites, Histogram(level), seed=1)
    assert (answer.counts.tolist(), answer.missing) == ([30, 15], 15)


def test_a_question_loads_no_backend() -> None:
    """Pandas, scipy and the accountant wait until somebody looks at an answer, or asks for noise."""
    loaded = run(
        """
        import sys
        from fl_integration import Moments, Number, ask
        from protocols import MaskedSum
        tables = {name: {"x": list(range(20))} for name in "abc"}
        answer = ask(MaskedSum(max_clients=3), tables, Moments((Number("x", low=0, high=32),)))
        heavy = {"pandas", "scipy", "dp_accounting", "torch", "matplotlib"}
        print(answer.mean[0], sorted(heavy & set(sys.modules)))
        """
    )
    assert loaded == "9.5 []"
