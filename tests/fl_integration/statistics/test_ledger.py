"""What was answered is remembered, on disk, and what is too near to it is refused."""

import os
import sqlite3
import stat
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fl_integration.site.release_log import SqliteReleaseLog
from fl_integration.statistics.ledger import AnswerLedger, Asked
from fl_integration.statistics.refusal import QuestionRefusedError
from fl_integration.statistics.row_names import contents_of, names_of
from fl_integration.statistics.rows import Rows
from secagg.errors import ParameterError

SITES = ("basel", "bern", "wien")
LIMITS: dict[str, int] = {"min_difference": 10, "min_sites": 3, "max_answers": 100}
TABLE = pd.DataFrame({"id": np.arange(100), "x": np.arange(100) / 7, "s": list("abcde") * 20})


def asked(
    chosen: Any = slice(None),
    *,
    known: Any = slice(None),
    question: bytes = b"q" * 32,
    sites: tuple[str, ...] = SITES,
    **more: Any,
) -> Asked:
    """A question about these rows, with a column `x` that is known in some of them."""
    table = TABLE.iloc[chosen]
    rows = Rows.of(table)
    has = np.zeros(len(rows), dtype=np.bool_)
    has[known] = True
    sets = {"": np.ones(len(rows), dtype=np.bool_), "x": has}
    return Asked(question=question, sites=sites, rows=contents_of(rows), sets=sets, **more)


def charge(ledger: AnswerLedger, what: Asked, session: bytes, number: int = 0, **limits: int) -> None:
    ledger.charge(what, site="wien", session=session, number=number, **{**LIMITS, **limits})


@pytest.fixture(params=["memory", "file"])
def ledger(request: Any, tmp_path: Path) -> AnswerLedger:
    return AnswerLedger(None if request.param == "memory" else tmp_path / "answers")


@pytest.mark.parametrize(
    ("second", "refused"),
    [
        (slice(0, 100), False),
        (slice(0, 99), True),
        (slice(0, 91), True),
        (slice(0, 90), False),
        (slice(0, 50), False),
    ],
)
def test_rows_that_differ_by_few_are_refused(ledger: AnswerLedger, second: slice, refused: bool) -> None:
    charge(ledger, asked(), b"one")
    if refused:
        with pytest.raises(QuestionRefusedError, match=r"the rows that count differ .* by fewer than 10"):
            charge(ledger, asked(second), b"two")
        with pytest.raises(QuestionRefusedError, match="another question was answered in this place"):
            charge(ledger, asked(), b"two")
    else:
        charge(ledger, asked(second), b"two")
    assert ledger.answers("wien") == 2  # a refusal says something as well
    charge(ledger, asked(second), b"three", min_difference=1)


def test_rows_that_come_and_go_count_twice(ledger: AnswerLedger) -> None:
    charge(ledger, asked(slice(0, 50)), b"one")
    with pytest.raises(QuestionRefusedError):
        charge(ledger, asked(slice(4, 54)), b"two")
    charge(ledger, asked(slice(5, 55)), b"three")
    with pytest.raises(QuestionRefusedError):  # near the second one
        charge(ledger, asked(slice(6, 56)), b"four")


def test_refusals_end_as_answers_do_and_leave_nothing_but_their_number(ledger: AnswerLedger) -> None:
    """Each tells whether few rows lie in between: so many, and no more."""
    charge(ledger, asked(slice(0, 50)), b"one")
    for number, cut in enumerate((49, 48, 47)):
        with pytest.raises(QuestionRefusedError, match="by fewer than 10"):
            charge(ledger, asked(slice(50 - cut, 51), columns={"x": b"other"}), bytes([number]))
    with pytest.raises(QuestionRefusedError, match="4 sums were answered, which is all"):
        charge(ledger, asked(slice(0, 46)), b"two", max_answers=4)
    ledger.refuse(site="wien", session=b"three", max_answers=5)
    with pytest.raises(QuestionRefusedError, match="5 sums were answered, which is all"):
        ledger.refuse(site="wien", session=b"four", max_answers=5)
    charge(
        ledger, asked(slice(10, 60), columns={"x": b"bounds"}), b"five"
    )  # of what was refused nothing stands


def test_the_rows_that_have_a_value_are_compared_column_by_column(ledger: AnswerLedger) -> None:
    """Sixty rows more, of which one has a value in x."""
    charge(ledger, asked(slice(0, 40), known=slice(0, 20)), b"one")
    with pytest.raises(QuestionRefusedError, match="the rows that have 'x' differ"):
        charge(ledger, asked(slice(0, 100), known=slice(0, 21)), b"two")


def test_sites_that_differ_by_few_are_refused(ledger: AnswerLedger) -> None:
    charge(ledger, asked(), b"one")
    for sites in (("basel", "wien"), (*SITES, "genf"), ("basel", "genf", "wien")):
        with pytest.raises(QuestionRefusedError, match="the sites differ from those of an earlier answer"):
            charge(ledger, asked(sites=sites), b"two")
    charge(ledger, asked(sites=(*SITES, "genf", "chur", "lausanne")), b"two")
    charge(ledger, asked(sites=SITES[::-1]), b"three")


def test_a_column_keeps_its_bounds(ledger: AnswerLedger) -> None:
    charge(ledger, asked(columns={"x": b"0 to 90"}), b"one")
    with pytest.raises(QuestionRefusedError, match="'x' was answered about with other bounds"):
        charge(ledger, asked(columns={"x": b"0 to 91"}), b"two")
    charge(ledger, asked(columns={"x": b"0 to 90", "y": b"0 to 1"}), b"two")


def test_sums_are_counted_and_one_sum_once(ledger: AnswerLedger) -> None:
    for number in (0, 1, 1, 2):
        charge(ledger, asked(), b"one", number, max_answers=3)
    assert ledger.answers("wien") == 3
    assert ledger.answers("basel") == 0
    with pytest.raises(QuestionRefusedError, match="3 sums were answered, which is all"):
        charge(ledger, asked(), b"one", 3, max_answers=3)
    charge(ledger, asked(), b"one", 2, max_answers=3)  # answered already
    with pytest.raises(QuestionRefusedError, match="another question was answered in this place"):
        charge(ledger, asked(question=b"p" * 32), b"one", 2)


def test_each_site_has_its_own(ledger: AnswerLedger) -> None:
    charge(ledger, asked(), b"one")
    ledger.charge(asked(slice(0, 99)), site="basel", session=b"two", number=0, **LIMITS)


def test_it_outlives_its_process_and_is_read_by_its_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "answers"
    with AnswerLedger(path) as first:
        charge(first, asked(), b"one")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    with AnswerLedger(path) as again:
        assert again.answers("wien") == 1
        with pytest.raises(QuestionRefusedError):
            charge(again, asked(slice(1, 100)), b"two")
    again.close()
    with pytest.raises(ParameterError, match="answer nothing until it can"):
        charge(again, asked(), b"three")


def test_the_file_holds_no_value_and_two_files_no_common_hash(tmp_path: Path) -> None:
    stored = []
    for name in ("one", "two"):
        with AnswerLedger(tmp_path / name) as ledger:
            charge(ledger, asked(), b"one")
        with sqlite3.connect(tmp_path / name) as file:
            ((names,),) = file.execute("SELECT names FROM rows")
        stored.append({names[i : i + 8] for i in range(0, len(names), 8)})
    assert [len(each) for each in stored] == [100, 100]
    assert not stored[0] & stored[1]
    assert not any(each.tobytes() in b"".join(stored[0]) for each in TABLE.x.to_numpy()[1:])


@pytest.mark.parametrize("content", [b"no database at all" * 90, b"ledger"])
def test_another_file_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "other"
    if content == b"ledger":
        SqliteReleaseLog(path).close()
    else:
        path.touch(mode=0o600)
        path.write_bytes(content)
    with pytest.raises(ParameterError, match=r"cannot be used|holds something else"):
        AnswerLedger(path)


@pytest.mark.parametrize("path", ["", ":memory:"])
def test_a_path_that_names_no_file(path: str) -> None:
    with pytest.raises(ParameterError, match="does not name one"):
        AnswerLedger(path)


def test_a_forked_copy_refuses(tmp_path: Path) -> None:
    ledger = AnswerLedger(tmp_path / "answers")
    ledger._home = os.getpid() + 1
    with pytest.raises(ParameterError, match="opened in another process"):
        charge(ledger, asked(), b"one")


# Names of rows


def named(table: Any) -> list[int]:
    found: list[int] = names_of(contents_of(Rows.of(table)), key=bytes(32)).tolist()
    return found


def test_a_row_has_one_name_however_its_table_is_held() -> None:
    frame = pd.DataFrame({"b": [1, 0, 3], "a": ["x", None, "y"], "c": [True, False, True]})
    names = named(frame)
    assert len(set(names)) == 3
    assert named(frame.iloc[::-1]) == names[::-1]
    assert named({"a": ["x", np.nan, "y"], "c": [1, 0, 1], "b": np.array([1.0, -0.0, 3.0])}) == names
    assert named(frame.assign(b=frame.b.astype("Int64"), a=frame.a.astype("string"))) == names
    assert named(frame.assign(c=[True, False, False]))[2] != names[2]


def test_a_row_keeps_its_name_when_another_one_changes_the_kind_of_a_column() -> None:
    """As pandas reads a file: all numbers, or all texts for the sake of one."""
    codes, x = [8001, 8002, 8003], [1.5, 0.0, -2.0]
    names = named({"code": codes, "x": x})
    for last in ("A-1090", None, "nan", 7.5, True):
        for held in (codes, list(map(str, codes)), list(map(float, codes))):
            more = named({"code": np.array([*held, last], dtype=object), "x": [*x, 3.0]})
            assert more[:3] == names
            assert more[3] not in names


def test_equal_rows_have_names_of_their_own() -> None:
    one = named({"a": [1, 2, 1, 1, 2]})
    assert len(set(one)) == 5
    assert set(named({"a": [1, 1, 1]})) < set(one)
    assert one[0] == named({"a": [1]})[0]


def test_matrices_and_texts() -> None:
    genotypes = np.array([[0, 1, 2], [0, 1, -1], [0, 1, 2]], dtype=np.int8)
    assert len(set(named({"g": genotypes, "site": ["\ud800", "é", "\ud800"]}))) == 3
    assert named({"g": genotypes})[0] == named({"g": genotypes[:1]})[0]
    assert named({"g": genotypes})[0] != named({"g": genotypes})[1]
    assert named({"a": []}) == []
    assert len(set(named({"a": [10**400, 10**401, 1]}))) == 3
    early, late = ({"when": pd.date_range(year, periods=2)} for year in ("2020", "2021"))
    assert not set(named(early)) & set(named(late))


# Whatever is asked in whatever order


@given(st.lists(st.tuples(st.integers(0, 60), st.integers(0, 40)), min_size=2, max_size=12))
@settings(max_examples=25, deadline=None)
def test_no_two_answered_sets_differ_by_few(asks: list[tuple[int, int]]) -> None:
    answered: list[set[int]] = []
    with AnswerLedger() as ledger:
        for place, (first, count) in enumerate(asks):
            chosen = set(range(first, first + count))
            near = any(0 < len(chosen ^ each) < 10 for each in answered)
            try:
                charge(ledger, asked(slice(first, first + count)), bytes([place + 1]))
            except QuestionRefusedError:
                assert near
            else:
                assert not near
                answered.append(chosen)


def test_two_processes_cannot_answer_a_pair_together(tmp_path: Path) -> None:
    """Two ledgers on one file, as two processes have them: one of the pair is answered."""
    path, start = tmp_path / "answers", threading.Barrier(2)
    AnswerLedger(path).close()

    def answer(what: Asked) -> bool:
        with AnswerLedger(path) as ledger:
            start.wait()
            try:
                charge(ledger, what, what.question)
            except QuestionRefusedError:
                return False
            return True

    with ThreadPoolExecutor(2) as pool:
        pair = (asked(question=b"a" * 32), asked(slice(1, 100), question=b"b" * 32))
        assert sorted(pool.map(answer, pair)) == [False, True]
