"""Noise in the sums of a question: what one row changes, how much hides it, and what else is not told."""

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fl_integration.privacy.ledger import BudgetExceededError, BudgetLedger, roster_of
from fl_integration.privacy.rows import RowLevel
from fl_integration.statistics.asking import ask
from fl_integration.statistics.columns import Category, Number
from fl_integration.statistics.count import Count
from fl_integration.statistics.cross_table import CrossTable
from fl_integration.statistics.histogram import Histogram
from fl_integration.statistics.moments import Moments
from fl_integration.statistics.policy import SitePolicy, SmallCells
from fl_integration.statistics.quantiles import Quantiles
from fl_integration.statistics.question import Condition, Question, selected
from fl_integration.statistics.respondent import Respondent
from fl_integration.statistics.row_noise import RowNoise
from fl_integration.statistics.rows import Rows
from protocols.identity import Identity, Roster
from secagg.errors import ParameterError
from tests.fl_integration.statistics.sites import AGE, CHOL, MASKED, NAMES, PROTOCOLS, SEX, tables

WIDE = Number("age", low=-1000, high=500, unit=0.5)
QUESTIONS: dict[str, Question] = {
    "count": Count(where=(Condition(AGE, at_least=60),)),
    "moments": Moments((WIDE, CHOL)),
    "histogram": Histogram(AGE, (40, 60, 80)),
    "levels": Histogram(SEX),
    "quantiles": Quantiles((AGE, CHOL)),
    "one probability": Quantiles((AGE,), (0.5,)),
}
PRIVACY = RowLevel(epsilon=1.0, delta=1e-6)


def steps(question: Question, table: Any) -> list[Any]:
    """All steps, with the totals of one table."""
    asking, found = question.asking(max_rows=1000), []
    step = next(asking)
    while True:
        found.append(step)
        try:
            step = asking.send(question.summand(step, selected(Rows.of(table), question.where)))
        except StopIteration:
            return found


@pytest.mark.parametrize("name", QUESTIONS)
@given(
    row=st.tuples(
        st.one_of(st.floats(-2000, 2000), st.just(np.nan)),
        st.one_of(st.floats(-10, 600), st.just(np.nan)),
        st.sampled_from(["f", "m", None]),
    )
)
@settings(max_examples=20, deadline=None)
def test_one_row_changes_no_more_than_the_question_says(name: str, row: tuple[Any, ...]) -> None:
    """Added to the others, in every step that they lead to."""
    question, table = QUESTIONS[name], tables()["wien"]
    more = pd.concat([table, pd.DataFrame([row], columns=table.columns)], ignore_index=True)
    said = question.sensitivity
    assert said is not None
    length = 0
    for step in steps(question, table):
        one, other = (
            question.summand(step, selected(Rows.of(each), question.where)) for each in (table, more)
        )
        changed = np.abs(one - other)
        length = max(length, step.length)
        assert (changed <= said.entries[: step.length]).all()
        assert np.count_nonzero(changed) <= said.touched
    assert length == len(said.entries)


@cache
def noise_of(name: str) -> RowNoise:
    pytest.importorskip("dp_accounting")
    return RowNoise(PRIVACY, QUESTIONS[name], max_rows=1000, sites=3, protocol=MASKED)


@pytest.mark.parametrize("name", QUESTIONS)
def test_the_noise_is_for_all_entries_that_one_row_touches_and_for_all_sums(name: str) -> None:
    noise, said = noise_of(name), QUESTIONS[name].sensitivity
    assert said is not None
    moved = np.full(said.touched, noise._grid)
    assert noise.plan.release.l2**2 == pytest.approx((moved**2).sum())
    assert noise.plan.release.l1 == pytest.approx(moved.sum())
    assert noise.plan.rounds == QUESTIONS[name].most_sums


@pytest.mark.slow
@given(value=st.integers(-(2**31), 2**31), change=st.integers(-(3000**2), 3000**2))
@settings(max_examples=100, deadline=None)
def test_what_is_brought_to_one_size_moves_by_one_size(value: int, change: int) -> None:
    """The rounding is of the site's sum, and adds nothing to what one row changes."""
    noise = noise_of("moments")
    sizes, grid = noise._sizes, noise._grid
    place = int(np.argmax(sizes))
    before = value * grid // int(sizes[place])
    after = (value + int(np.clip(change, -sizes[place], sizes[place]))) * grid // int(sizes[place])
    assert abs(after - before) <= grid


@pytest.mark.slow
@pytest.mark.parametrize("name", QUESTIONS)
def test_what_a_site_sends_has_its_share_of_the_noise_and_what_is_read_is_near(name: str) -> None:
    question = QUESTIONS[name]
    noise = noise_of(name)
    entropy, nothing = np.random.default_rng(1).bytes, np.zeros(1, dtype=np.int64)
    sent = [noise.add(nothing, entropy=entropy) for _ in range(300)]
    assert {len(each) for each in sent} == {noise.length}
    spread = float(np.std(np.concatenate(sent)))
    assert spread == pytest.approx(noise.plan.sigma_client, rel=0.2)
    assert noise.plan.sigma_client >= noise.plan.release.sigma / np.sqrt(noise.plan.sure_honest)
    for step in steps(question, tables()["wien"])[:1]:
        summand = question.summand(step, selected(Rows.of(tables()["wien"]), question.where))
        scaled = np.zeros(noise.length, dtype=np.int64)
        scaled[: step.length] = summand * noise._grid // noise._sizes[: step.length]
        error = np.abs(noise.read(scaled, length=step.length) - summand)
        assert (error <= noise._sizes[: step.length] / noise._grid + 1).all()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["masked", "lattice", "ckks"])
def test_answers_are_near_and_say_what_they_promise(name: str) -> None:
    if name == "ckks":
        pytest.importorskip("tenseal")
    sites = tables(rows=3000)
    privacy = RowLevel(epsilon=4.0, delta=1e-6)
    whole = pd.concat(sites.values())

    def told(question: Question) -> Any:
        answer = ask(PROTOCOLS[name], sites, question, privacy=privacy)
        assert answer.provenance is not None
        assert answer.provenance.epsilon is not None
        assert answer.provenance.epsilon <= 4.0
        assert answer.provenance.sums == question.most_sums  # nobody is asked who covers what
        assert "each row is protected with ε = 4, δ = 1e-06" in str(answer)
        return answer

    assert told(Count()).rows == pytest.approx(9000, abs=40)
    moments = told(Moments((AGE, CHOL)))
    assert moments.mean[0] == pytest.approx(whole.age.mean(), abs=0.5)
    assert moments.mean[1] == pytest.approx(whole.chol.mean(), abs=3)
    histogram = told(Histogram(AGE, (40, 60, 80)))
    exact = np.histogram(whole.age, (40, 60, 80))[0]
    assert np.abs(histogram.counts - exact).max() < 60
    quantiles = told(Quantiles((AGE,)))
    assert quantiles.values[0].tolist() == pytest.approx(np.quantile(whole.age, (0.25, 0.5, 0.75)), abs=2)


@pytest.mark.slow
def test_no_two_answers_have_the_same_noise() -> None:
    pytest.importorskip("dp_accounting")
    assert len({ask(MASKED, tables(), Count(), privacy=PRIVACY).rows for _ in range(6)}) > 1


@pytest.mark.slow
def test_nothing_but_the_sums_depends_on_the_rows() -> None:
    """A site without rows, a lonely column, the same question over one row more: all are answered."""
    pytest.importorskip("dp_accounting")
    sites = tables()
    sites["wien"] = sites["wien"].iloc[:0]
    sites["bern"] = sites["bern"].assign(chol=np.nan)
    for each in (sites, {**sites, "basel": sites["basel"].iloc[:39]}):
        answer = ask(MASKED, each, Moments((AGE, CHOL)), privacy=PRIVACY)
        assert answer.provenance is not None
        assert answer.provenance.left_out == {}


@pytest.mark.slow
def test_the_budget_is_charged_before_a_vector_leaves_and_ends(tmp_path: Path) -> None:
    pytest.importorskip("dp_accounting")
    with BudgetLedger(tmp_path / "budget", epsilon=1.6, delta=1e-5) as ledger:
        privacy = RowLevel(epsilon=1.0, delta=1e-6, ledger=ledger)
        ask(MASKED, tables(), Quantiles((AGE,)), privacy=privacy, seed=1)
        roster = roster_of(NAMES)
        assert ledger.rounds(site="wien", roster=roster) == Quantiles((AGE,)).most_sums
        assert 0.5 < ledger.spent(site="wien", roster=roster) <= 1.0
        with pytest.raises(BudgetExceededError, match="has spent"):
            spend(privacy)


@pytest.mark.slow
def test_a_sites_budget_is_one_whoever_asks_and_whoever_else_is_asked() -> None:
    pytest.importorskip("dp_accounting")
    sites = tables(names=(*NAMES, "zürich"))
    with BudgetLedger(None, epsilon=1.6, delta=1e-5) as budget:
        policy = SitePolicy(budget=budget, columns={"age": AGE})
        three = {name: sites[name] for name in NAMES}
        ask(MASKED, three, Count(), policy=policy, privacy=PRIVACY)
        with pytest.raises(BudgetExceededError, match="has spent"):
            spend(PRIVACY, sites=sites, policy=policy)
    weak = RowLevel(epsilon=20.0, delta=1e-6)
    with BudgetLedger(None, epsilon=1.6, delta=1e-5) as budget:
        policy = SitePolicy(budget=budget)
        with pytest.raises(BudgetExceededError):
            ask(MASKED, three, Count(), policy=policy, privacy=weak)


def spend(privacy: RowLevel, *, sites: Any = None, policy: SitePolicy | None = None) -> None:
    """The same seed again is another release: its rows may differ."""
    for _ in range(4):
        ask(MASKED, sites or tables(), Quantiles((AGE,)), policy=policy, privacy=privacy, seed=1)


def test_what_no_noise_can_hide_is_refused_by_name() -> None:
    with pytest.raises(ParameterError, match=r"a CrossTable is not answered under privacy=.*Count, Moments"):
        ask(MASKED, tables(), CrossTable(SEX, Category("ill", (0, 1))), privacy=PRIVACY)
    with pytest.raises(ParameterError, match="not with its integer surface"):
        ask(MASKED.exact(max_summand=1), tables(), Count(), privacy=PRIVACY)  # type: ignore[arg-type]
    with pytest.raises(ParameterError, match="PlainSum shows each client's vector"):
        ask(PROTOCOLS["plain"], tables(), Count(), privacy=PRIVACY)
    with pytest.raises(ParameterError, match="do not fit 62 bits under noise"):
        ask(MASKED, tables(), Moments((WIDE,)), privacy=PRIVACY, max_rows=1 << 40)


def test_a_site_does_not_answer_a_part_of_its_roster_under_noise() -> None:
    """Each part would have a budget of its own, and corrupt members of all of the roster in it."""
    identities = [Identity.generate(name) for name in (*NAMES, "zug")]
    with pytest.raises(ParameterError, match="3 sites of a roster of 4 are asked under noise"):
        Respondent(
            QUESTIONS["count"],
            table=tables()["wien"],
            policy=SitePolicy(),
            protocol=MASKED,
            identity=identities[2],
            roster=Roster.of(*identities),
            session=bytes(16),
            sites=NAMES,
            max_rows=1000,
            noise=noise_of("count"),
        )


def test_a_site_of_few_rows_is_in_a_noised_sum_as_any_other() -> None:
    """Whether it has few would be an answer without noise."""
    pytest.importorskip("dp_accounting")
    given = {**tables(), "wien": tables()["wien"].iloc[:9]}
    unit = RowLevel(epsilon=20.0, delta=1e-3)
    policy = SitePolicy(min_rows=10, small_cells=SmallCells.OPENED)
    answer = ask(MASKED, given, Count(), privacy=unit, policy=policy, seed=1)
    assert abs(answer.rows - sum(map(len, given.values()))) < 9 / 2
