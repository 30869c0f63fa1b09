"""D21. Two questions whose rows differ in one patient: the difference is what that patient has.

On the weakened copy, a site that looks at each question alone, both are harmless and the pair is not. Ours
remembers which rows it answered about. The same goes for two sets of sites that differ in one, and for two
pairs of bounds of one column. Three sets that tell one patient together are not found: that succeeds.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fl_integration.statistics.columns import Number
from fl_integration.statistics.count import Count
from fl_integration.statistics.ledger import AnswerLedger
from fl_integration.statistics.moments import Moments
from fl_integration.statistics.policy import SitePolicy, SmallCells
from fl_integration.statistics.question import Condition
from fl_integration.statistics.refusal import QuestionRefusedError
from protocols import CkksSum, MaskedSum
from tests.attacks.questions import AGE, CLIENTS_LEARN, MARKER, NAMES, hospitals, remembering, told

VICTIM = "wien"


def victim() -> Any:
    """A patient of one hospital who is older than anybody else there."""
    tables = hospitals()
    tables[VICTIM].loc[39, "age"] = 77.0
    return tables


EVERYBODY = Moments((MARKER,))
ALL_BUT_ONE = Moments((MARKER,), where=(Condition(AGE, below=77),))


def secret(tables: Any) -> float:
    found: float = tables[VICTIM].marker[39]
    return found


def total(answer: Any) -> float:
    return float(answer.mean[0] * answer.count[0])


def test_on_the_copy_the_difference_of_two_answers_is_one_patient() -> None:
    tables = victim()
    both = [told(question, tables=tables) for question in (EVERYBODY, ALL_BUT_ONE)]
    assert both[0].count[0] - both[1].count[0] == 1
    assert total(both[0]) - total(both[1]) == pytest.approx(secret(tables))


@pytest.mark.parametrize("first", [EVERYBODY, ALL_BUT_ONE], ids=["all first", "all but one first"])
def test_ours_answers_one_of_them_and_that_one_again(first: Moments) -> None:
    tables, policy = victim(), remembering()
    assert (
        told(first, tables=tables, policy=policy).count[0]
        == told(first, tables=tables, policy=policy).count[0]
    )
    second = ALL_BUT_ONE if first is EVERYBODY else EVERYBODY
    with pytest.raises(
        QuestionRefusedError, match="differ from those of an earlier answer by fewer"
    ) as found:
        told(second, tables=tables, policy=policy)
    assert set(found.value.reasons) == {VICTIM}  # to the others the two are one


def test_a_ledger_on_disk_remembers_it_another_day(tmp_path: Path) -> None:
    tables = victim()
    for question in (EVERYBODY, ALL_BUT_ONE):
        with AnswerLedger(tmp_path / "answers") as ledger:
            policy = SitePolicy(small_cells=SmallCells.OPENED, ledger=ledger)
            if question is EVERYBODY:
                told(question, tables=tables, policy=policy)
            else:
                with pytest.raises(QuestionRefusedError):
                    told(question, tables=tables, policy=policy)


def test_a_table_that_gained_one_patient_is_such_a_pair() -> None:
    tables, policy = victim(), remembering()
    before = {**tables, VICTIM: tables[VICTIM].iloc[:39]}
    told(EVERYBODY, tables=before, policy=policy)
    with pytest.raises(QuestionRefusedError):
        told(EVERYBODY, tables=tables, policy=policy)


def test_a_patient_whose_row_turns_numbers_into_texts_gives_nobody_else_a_new_name() -> None:
    """A column that nobody asks about: codes, until one comes with letters."""
    tables, policy = victim(), remembering()
    tables[VICTIM]["code"] = range(8000, 8040)
    told(EVERYBODY, tables={**tables, VICTIM: tables[VICTIM].iloc[:39]}, policy=policy)
    tables[VICTIM]["code"] = [*map(str, range(8000, 8039)), "A-1090"]
    with pytest.raises(QuestionRefusedError):
        told(EVERYBODY, tables=tables, policy=policy)


def test_a_count_is_about_rows_as_well() -> None:
    tables, policy = victim(), remembering()
    told(EVERYBODY, tables=tables, policy=policy)
    with pytest.raises(QuestionRefusedError):
        told(Count(where=ALL_BUT_ONE.where), tables=tables, policy=policy)


def test_a_condition_is_about_the_rows_that_have_a_value_too() -> None:
    """Half of the ages are unknown: all rows and those that count differ by many, the known ones by one."""
    tables, policy = victim(), remembering()
    tables[VICTIM].loc[:19, "age"] = np.nan
    told(Moments((AGE,)), tables=tables, policy=policy)
    with pytest.raises(QuestionRefusedError, match="the rows that have 'age' differ") as found:
        told(Count(where=ALL_BUT_ONE.where), tables=tables, policy=policy)
    assert set(found.value.reasons) == {VICTIM}


@pytest.mark.slow  # D23 and D25 show it at once
def test_where_the_clients_learn_the_sums_it_is_the_same() -> None:
    pytest.importorskip("tenseal")
    tables, policy = victim(), remembering()
    told(EVERYBODY, tables=tables, policy=policy, protocol=CLIENTS_LEARN)
    with pytest.raises(QuestionRefusedError):
        told(ALL_BUT_ONE, tables=tables, policy=policy, protocol=CLIENTS_LEARN)


# Two sets of sites


def test_sites_that_differ_in_one() -> None:
    tables = {**hospitals(), "genf": hospitals()["wien"]}
    three = {name: tables[name] for name in NAMES}
    both = [told(EVERYBODY, tables=each) for each in (tables, three)]
    assert total(both[0]) - total(both[1]) == pytest.approx(tables["genf"].marker.sum())
    policy = remembering()
    told(EVERYBODY, tables=tables, policy=policy)
    with pytest.raises(
        QuestionRefusedError, match="the sites differ from those of an earlier answer"
    ) as found:
        told(EVERYBODY, tables=three, policy=policy)
    assert set(found.value.reasons) == set(NAMES)


def test_sites_that_differ_in_one_tell_its_rows_to_a_count() -> None:
    policy = remembering()
    told(Count(), policy=policy)
    with pytest.raises(QuestionRefusedError, match="the sites differ from those of an earlier answer"):
        told(Count(), tables={**hospitals(), "genf": hospitals()["wien"]}, policy=policy)


@pytest.mark.parametrize("kind", [MaskedSum, pytest.param(CkksSum, marks=pytest.mark.slow)])
def test_sites_that_hold_nothing_do_not_hide_the_one_that_came(kind: Any) -> None:
    """Three sites came, which are enough, but two of them never measured the marker."""
    if kind is CkksSum:
        pytest.importorskip("tenseal")
    tables, options = hospitals(), {"protocol": kind(max_clients=6)}
    came = {name: hospitals()["wien"] for name in ("chur", "genf", "zug")}
    full = {**tables, **{name: hospitals()["wien"] for name in came}}
    for name in ("chur", "genf"):
        came[name]["marker"] = np.nan
    three, six = (told(EVERYBODY, tables=each, **options) for each in (tables, {**tables, **came}))
    assert total(six) - total(three) == pytest.approx(came["zug"].marker.sum())
    policy = remembering()
    told(EVERYBODY, tables=tables, policy=policy, **options)
    with pytest.raises(
        QuestionRefusedError, match="enough values in 'marker' may differ from those of an earlier"
    ) as found:
        told(EVERYBODY, tables={**tables, **came}, policy=policy, **options)
    assert set(found.value.reasons) == set(NAMES)
    assert told(EVERYBODY, tables=full, policy=policy, **options).count[0] == 240


# Two pairs of bounds


def test_bounds_that_move_count_the_rows_in_between() -> None:
    """Values beyond the bounds count as the bounds: that is a threshold, and it needs no condition."""
    tables = victim()

    def asked(high: int) -> Moments:
        return Moments((Number("age", low=0, high=high, unit=1),))

    both = [told(asked(high), tables=tables) for high in (60, 61)]
    assert round(total(both[1]) - total(both[0])) == 1  # one is older than 60, of 120
    policy = remembering()
    told(asked(60), tables=tables, policy=policy)
    with pytest.raises(QuestionRefusedError, match="'age' was answered about with other bounds"):
        told(asked(61), tables=tables, policy=policy)
    moved = Condition(Number("age", low=0, high=61, unit=1), at_least=40)
    with pytest.raises(QuestionRefusedError, match="'age' was answered about with other bounds"):
        told(Count(where=(moved,)), tables=tables, policy=policy)
    declared = remembering(columns={"age": AGE})
    with pytest.raises(QuestionRefusedError, match="declared with other bounds"):
        told(asked(60), tables=tables, policy=declared)


# Three sets of rows


def test_three_answers_that_tell_one_patient_together_are_answered_and_that_is_said() -> None:
    """The residue: pairs are compared. All, those below 45, and those from 46 on: who is 45?"""
    policy = remembering()
    young, old = Condition(AGE, below=45), Condition(AGE, at_least=46)
    whole, below, above = (
        told(Moments((MARKER,), where=where), policy=policy) for where in ((), (young,), (old,))
    )
    aged = sum(frame.marker[frame.age == 45].sum() for frame in hospitals().values())
    assert total(whole) - total(below) - total(above) == pytest.approx(aged)
    page = (Path(__file__).parents[2] / "protocols" / "THREAT_MODEL.md").read_text(encoding="utf-8")
    row = next(line for line in page.splitlines() if line.startswith("| D21 "))
    assert "three" in row
    assert "**succeeds**" in row
