"""A budget on disk: what is charged stays charged, and two at once do not overspend."""

import os
import sqlite3
import stat
import subprocess
import sys
import threading

import pytest

from fl_integration.privacy.accountant import Release, epsilon_of
from fl_integration.privacy.ledger import BudgetExceededError, BudgetLedger
from fl_integration.privacy.units import Noise
from secagg.errors import ParameterError
from tests.fresh import ROOT

pytest.importorskip("dp_accounting")

STEP = Release(noise=Noise.SKELLAM, l2=1024, l1=3000, sigma=8192)
OTHER = Release(noise=Noise.DISCRETE_GAUSSIAN, l2=10, l1=20, sigma=90, length=5, shares=3, sampling_rate=0.1)
BUDGET = {"epsilon": 2.0, "delta": 1e-5}
PLACE = {"site": "cleveland", "roster": b"roster", "session": b"session"}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "budget"


def charged(ledger, round=0, releases=(STEP,), **rest):
    return ledger.charge(**{**PLACE, "round": round, "releases": releases, **rest})


def test_it_says_what_all_releases_cost_together():
    with BudgetLedger(None, **BUDGET) as ledger:
        for round in range(5):
            assert charged(ledger, round) == epsilon_of({STEP: round + 1}, delta=1e-5)
        both = charged(ledger, 5, releases=[OTHER, OTHER, STEP])
        assert both == epsilon_of({STEP: 6, OTHER: 2}, delta=1e-5)
        assert ledger.spent(site="cleveland", roster=b"roster") == both
        assert ledger.rounds(site="cleveland", roster=b"roster") == 6


def test_a_round_is_charged_once_and_a_new_session_refills_nothing():
    with BudgetLedger(None, **BUDGET) as ledger:
        first = charged(ledger)
        assert charged(ledger) == first
        assert charged(ledger, session=b"another") > first
        assert charged(ledger, site="budapest") == first
        assert charged(ledger, roster=b"a new one") == first
        with pytest.raises(ParameterError, match="round 0 of this session was charged for other releases"):
            charged(ledger, releases=[OTHER])


def test_it_refuses_the_round_that_would_be_too_much_and_charges_nothing_for_it():
    with BudgetLedger(None, **BUDGET) as ledger:
        most = max(count for count in range(1, 60) if epsilon_of({STEP: count}, delta=1e-5) <= 2.0)
        for round in range(most):
            spent = charged(ledger, round)
        said = (
            rf"'cleveland' has spent ε = {spent:.4g} of 2 at delta 1e-05, and with this round it would be "
            r"2\.\d+: stop here, plan fewer rounds or more noise"
        )
        for _ in range(2):
            with pytest.raises(BudgetExceededError, match=said):
                charged(ledger, most)
        assert ledger.spent(site="cleveland", roster=b"roster") == spent <= 2.0
        assert charged(ledger, most - 1) == spent  # what was paid for may be tried again


def test_what_can_fail_beside_the_noise_comes_off_delta():
    with BudgetLedger(None, **BUDGET) as ledger:
        assert charged(ledger, 0, failure=4e-6) == epsilon_of([STEP], delta=6e-6)
        assert charged(ledger, 1, failure=4e-6) == pytest.approx(epsilon_of({STEP: 2}, delta=2e-6))
        with pytest.raises(BudgetExceededError, match="would use up delta 1e-05: raise the ledger's delta"):
            charged(ledger, 2, failure=4e-6)


def test_it_outlives_the_object(path):
    with BudgetLedger(path, **BUDGET) as ledger:
        spent, identity = charged(ledger), ledger.identity
    with BudgetLedger(str(path), **BUDGET) as ledger:
        assert ledger.identity == identity
        assert ledger.spent(site="cleveland", roster=b"roster") == spent
        assert charged(ledger, 1) > spent
    assert BudgetLedger(None, **BUDGET).identity != identity


def test_what_was_charged_is_committed_before_charge_returns(path):
    with BudgetLedger(path, **BUDGET) as ledger:
        charged(ledger, 7)
        other = sqlite3.connect(path)  # a second connection sees committed rows only
        assert other.execute("SELECT site, roster, session, round FROM charges").fetchall() == [
            ("cleveland", b"roster", b"session", 7)
        ]
        other.close()


@pytest.mark.skipif(os.name != "posix", reason="modes are POSIX")
def test_nobody_else_reads_it(path):
    with BudgetLedger(path, **BUDGET) as ledger:
        charged(ledger)
        for each in path.parent.iterdir():
            assert stat.S_IMODE(each.stat().st_mode) == 0o600


def test_threads_do_not_overspend_together(path):
    """Each has a connection of its own, as a process has."""
    most = max(count for count in range(1, 60) if epsilon_of({STEP: count}, delta=1e-5) <= 2.0)
    ledgers = [BudgetLedger(path, **BUDGET) for _ in range(3)]
    barrier, paid, refused = threading.Barrier(3), [], []

    def spend(number):
        barrier.wait()
        for round in range(most):
            try:
                paid.append(charged(ledgers[number], round, session=b"%d" % number))
            except BudgetExceededError:
                refused.append(round)

    threads = [threading.Thread(target=spend, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(paid), len(refused)) == (most, 2 * most)
    assert len(set(paid)) == most
    for ledger in ledgers:
        assert ledger.rounds(site="cleveland", roster=b"roster") == most
        ledger.close()


@pytest.mark.slow
def test_processes_do_not_overspend_together(path):
    most = max(count for count in range(1, 60) if epsilon_of({STEP: count}, delta=1e-5) <= 2.0)
    BudgetLedger(path, **BUDGET).close()
    script = f"""
import sys
from fl_integration.privacy.accountant import Release
from fl_integration.privacy.ledger import BudgetExceededError, BudgetLedger
from fl_integration.privacy.units import Noise
step = Release(noise=Noise.SKELLAM, l2=1024, l1=3000, sigma=8192)
paid = 0
with BudgetLedger(sys.argv[1], epsilon=2.0, delta=1e-5) as ledger:
    for round in range({most}):
        try:
            session = sys.argv[2].encode()
            ledger.charge(site="cleveland", roster=b"roster", session=session, round=round, releases=[step])
            paid += 1
        except BudgetExceededError:
            pass
print(paid)
"""
    started = [
        subprocess.Popen(
            [sys.executable, "-c", script, str(path), name], stdout=subprocess.PIPE, text=True, cwd=ROOT
        )
        for name in ("a", "b")
    ]
    assert sum(int(each.communicate(timeout=120)[0]) for each in started) == most


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_child_opens_its_own(path):
    with BudgetLedger(path, **BUDGET) as ledger:
        ledger._home += 1  # as after a fork, which tests of threads do not make
        with pytest.raises(ParameterError, match="was opened in another process; open the file in this one"):
            charged(ledger)
        ledger._home -= 1


def test_thousands_of_rounds_are_summed_quickly():
    small = Release(noise=Noise.SKELLAM, l2=16, l1=50, sigma=160_000)
    with BudgetLedger(None, **BUDGET) as ledger:
        rows = ((*list(PLACE.values()), round) for round in range(1, 20_000))
        charged(ledger, 0, releases=[small])
        written = ledger._connection.execute("SELECT releases FROM charges").fetchone()[0]
        ledger._connection.executemany(
            "INSERT INTO charges VALUES (?, ?, ?, ?, ?, 0.0)", ((*row, written) for row in rows)
        )
        calls = []
        ledger._connection.set_progress_handler(lambda: calls.append(1), 100_000)
        assert charged(ledger, 20_000, releases=[small]) == epsilon_of({small: 20_001}, delta=1e-5)
        assert len(calls) < 40  # instructions of the database: it groups, and nothing is done by round


def test_it_prints_as_a_table():
    with BudgetLedger(None, **BUDGET) as ledger:
        charged(ledger)
        charged(ledger, 1)
        charged(ledger, site="budapest", roster=bytes(32))
        spent = [epsilon_of({STEP: count}, delta=1e-5) for count in (1, 2)]
        assert str(ledger) == (
            "site       roster        rounds  epsilon spent  of, at delta 1e-05\n"
            f"budapest   000000000000  1       {spent[0]:<13.4g}  2\n"
            f"cleveland  726f73746572  2       {spent[1]:<13.4g}  2"
        )


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"site": ""}, "the site is not a non-empty str"),
        ({"site": b"x"}, "the site is not a non-empty str"),
        ({"roster": b""}, "the roster is not a non-empty bytes object"),
        ({"session": "text"}, "the session is not a non-empty bytes object"),
        ({"round": -1}, r"the round is -1; it must be an int in \[0, 2\*\*63\)"),
        ({"round": True}, r"the round is True; it must be"),
        ({"releases": []}, "a round without releases; a vector that leaves has at least one"),
        ({"failure": -1.0}, r"failure is -1.0; it must be a number in \[0, 1\)"),
        ({"failure": float("nan")}, r"failure is nan; it must be a number in \[0, 1\)"),
    ],
)
def test_charges_that_are_none(change, said):
    with BudgetLedger(None, **BUDGET) as ledger, pytest.raises(ParameterError, match=said):
        charged(ledger, **change)


@pytest.mark.parametrize(("epsilon", "delta"), [(0, 1e-5), (-1, 1e-5), (float("nan"), 1e-5), (1, 0), (1, 2)])
def test_budgets_that_are_none(epsilon, delta):
    with pytest.raises(ParameterError, match=r"epsilon is|delta is"):
        BudgetLedger(None, epsilon=epsilon, delta=delta)


def test_files_that_are_none(tmp_path):
    for name in ("", ":memory:"):
        with pytest.raises(ParameterError, match="a ledger lasts in a file"):
            BudgetLedger(name, **BUDGET)
    other = tmp_path / "other"
    other.touch(mode=0o600)
    connection = sqlite3.connect(other)
    connection.execute("CREATE TABLE charges (site TEXT)")
    connection.close()
    with pytest.raises(ParameterError, match="holds something else than a budget ledger of version 1"):
        BudgetLedger(other, **BUDGET)
    text = tmp_path / "text"
    text.touch(mode=0o600)
    text.write_bytes(b"no database, and longer than the header of one" * 30)
    with pytest.raises(ParameterError, match="cannot be used: file is not a database; release nothing"):
        BudgetLedger(text, **BUDGET)
    with pytest.raises(ParameterError, match=r"cannot be opened: .*; release nothing until it can"):
        BudgetLedger(tmp_path / "nowhere" / "budget", **BUDGET)


def test_a_closed_ledger_charges_nothing(path):
    ledger = BudgetLedger(path, **BUDGET)
    ledger.close()
    ledger.close()
    with pytest.raises(ParameterError, match=r"cannot be written: .*; release nothing until it can"):
        charged(ledger)


def test_a_charge_is_on_the_disk_when_it_returns(tmp_path):
    with BudgetLedger(tmp_path / "ledger", epsilon=1.0, delta=1e-5) as ledger:
        assert ledger._connection.execute("PRAGMA synchronous").fetchone() == (3,)  # EXTRA: the folder too
