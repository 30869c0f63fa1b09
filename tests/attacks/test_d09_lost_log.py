"""D9: a saved client comes back with another release log, and what stopped a rollback (A14) is gone.

The log is what keeps a client that was restored to an older state from a second, different answer. Whoever
restores the state may lose the log on the way: by accident (a new volume, a wrong path, a backup of the log
from last week), or because that is the attack. An empty log has no entry in the place of the second vector,
so two vectors go out under the same masks, and y - y' = x - x'.

The weakened copy takes whatever log it is given, as a log of no identity must be taken. Ours knows its log by
16 random bytes that were drawn when the log was made, how many entries of its own it has seen there, and
which was the last. For a copy that only counts (`Counting`) is misled by an older log that went on since,
with another copy of the client, to as many entries: what it holds is not what this state saw.

Not covered: a log and a state that are restored together from one backup. They agree with each other, and
nobody on that machine can tell: the last test shows it. The log belongs on storage of its own.
"""

import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from copy import deepcopy
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fl_integration.site.release_log import SqliteReleaseLog
from protocols import (
    CkksSum,
    LatticeSum,
    MaskedSum,
    MemoryReleaseLog,
    NeedUpdate,
    PaillierSum,
    ParameterError,
    Policy,
    ReleaseLog,
)
from protocols.machine.client import ClientMachine, Logged
from protocols.masked.messages import Announcement, MaskedInput
from protocols.messages.envelope import Refusal
from secagg.secret import Secret
from tests.attacks.weakened import LENGTH, Stage, body_of, refused, updates_of

NAMES = "abcde"
VICTIM = "c"
KEY = Secret(bytes(range(32)))
MASKED = MaskedSum(max_clients=8)
FIRST, SECOND = (updates_of(NAMES, seed=seed)[VICTIM] for seed in (1, 2))


class Trusting(ClientMachine):
    """A client that takes any log for its own."""

    def _check_log(self, saved: Logged | None) -> None:
        pass


class Counting(ClientMachine):
    """A client that counts its entries, and does not look at them."""

    def _check_log(self, saved: Logged | None) -> None:
        super()._check_log(None if saved is None else replace(saved, last=None))


class RolledBack:
    """The victim contributes, and its disk is set back to the moment before.

    Args:
        log: what it writes to.
        before: whole rounds that it played before.
        watch: called before each request of the last round with the exchange, and with the number of
            exchanges when the victim's state is saved.
    """

    def __init__(
        self,
        log: ReleaseLog | None,
        *,
        protocol: Any = MASKED,
        before: int = 0,
        watch: Callable[[int], None] = lambda exchange: None,
    ) -> None:
        def seen(exchange: int, name: str, message: bytes) -> bytes:
            if name == VICTIM:
                watch(exchange)
            return message

        self.stage = Stage(protocol, NAMES, policies={VICTIM: Policy(release_log=log)})
        for _ in range(before):
            self.stage.play(updates_of(NAMES))
        collecting = protocol.suite.collecting
        outbox = self.stage.open(updates_of(NAMES, seed=1), until=collecting, request=seen)
        party = self.stage.clients[VICTIM]
        assert isinstance(party.receive(outbox[VICTIM]), NeedUpdate)
        self.saved = party.export(key=KEY)
        watch(collecting)
        self.once = party.contribute(FIRST)
        assert not refused(self.once)
        self.newest = party.export(key=KEY)

    def restored(
        self, log: ReleaseLog | None, *, machine: type[ClientMachine] = ClientMachine, newest: bool = False
    ) -> ClientMachine:
        return machine.restore(
            self.stage.protocol.suite,
            self.newest if newest else self.saved,
            key=KEY,
            release_log=log,
            entropy=self.stage.entropy("another day"),
        )

    def is_read(self, again: bytes) -> bool:
        """Whether the server sees how the victim's update changed."""
        one, other = (self.stage.words(body_of(MaskedInput, each).vector) for each in (self.once, again))
        surface: Any = self.stage.protocol.suite.surface
        seen = self.stage.values(one - other)[:LENGTH] / surface.codec.largest_step
        return bool(np.abs(seen - (FIRST - SECOND)).max() < 1e-4)


# Another log in its place


@pytest.mark.parametrize("before", [0, 1, 2])
def test_a_client_that_takes_any_log_for_its_own_is_read(before: int) -> None:
    victim = RolledBack(MemoryReleaseLog(), before=before)
    again = victim.restored(MemoryReleaseLog(), machine=Trusting).contribute(SECOND)
    assert victim.is_read(again)


@pytest.mark.parametrize("before", [0, 1])
@pytest.mark.parametrize(
    "protocol",
    [
        MASKED,
        CkksSum(max_clients=8),
        PaillierSum(max_clients=8, key_bits=2048),
        LatticeSum(max_clients=8),
        LatticeSum(max_clients=8, keys=partial(PaillierSum, key_bits=2048)),
    ],
)
def test_ours_does_not_come_back_with_an_empty_log(protocol: Any, before: int) -> None:
    log = MemoryReleaseLog()
    victim = RolledBack(log, protocol=protocol, before=before)
    with pytest.raises(ParameterError, match=r"another release log.*in a new session"):
        victim.restored(MemoryReleaseLog())
    with pytest.raises(ParameterError, match="pass the same one as release_log"):
        victim.restored(None)
    assert refused(victim.restored(log).contribute(SECOND))


def test_nor_does_it_if_it_has_released_nothing_yet() -> None:
    """Its log is known from the first state on, before there is an entry."""
    stage = Stage(MASKED, NAMES, policies={VICTIM: Policy(release_log=MemoryReleaseLog())})
    blob = stage.clients[VICTIM].export(key=KEY)
    with pytest.raises(ParameterError, match="another release log"):
        MASKED.restore_client(blob, key=KEY, release_log=MemoryReleaseLog())


def test_another_clients_log_is_another_log(tmp_path: Path) -> None:
    with SqliteReleaseLog(tmp_path / "c") as mine, SqliteReleaseLog(tmp_path / "a") as other:
        victim = RolledBack(mine)
        Stage(MASKED, NAMES, policies={"a": Policy(release_log=other)}).play(updates_of(NAMES))
        assert victim.is_read(victim.restored(other, machine=Trusting).contribute(SECOND))
        with pytest.raises(ParameterError) as refusal:
            victim.restored(other)
        assert all(each.identity.hex() in str(refusal.value) for each in (mine, other))
        assert refused(victim.restored(mine).contribute(SECOND))


def test_a_new_file_under_the_old_name_is_another_log(tmp_path: Path) -> None:
    path = tmp_path / "releases"
    with SqliteReleaseLog(path) as log:
        victim = RolledBack(log)
    path.unlink()
    with SqliteReleaseLog(path) as log:
        with pytest.raises(ParameterError, match="another release log"):
            victim.restored(log)
        assert victim.is_read(victim.restored(log, machine=Trusting).contribute(SECOND))


# An older copy of the same log


class Backups:
    """A log in a file, copied before each exchange and when the state is saved."""

    def __init__(self, folder: Path, before: int = 0) -> None:
        self.path, self.folder = folder / "releases", folder
        self.kept: list[int] = []
        with SqliteReleaseLog(self.path) as log:
            self.victim = RolledBack(log, before=before, watch=self.copy)

    def copy(self, exchange: int) -> None:
        shutil.copy(self.path, self.folder / f"backup {exchange}")
        self.kept.append(exchange)

    def set_back(self, exchange: int) -> SqliteReleaseLog:
        shutil.copy(self.folder / f"backup {exchange}", self.path)
        return SqliteReleaseLog(self.path)


@pytest.mark.parametrize("exchange", [0, 1])
def test_a_client_that_does_not_count_takes_an_older_copy_and_is_read(exchange: int, tmp_path: Path) -> None:
    backups = Backups(tmp_path)
    with backups.set_back(exchange) as log:
        again = backups.victim.restored(log, machine=Trusting).contribute(SECOND)
    assert backups.victim.is_read(again)


@pytest.mark.parametrize("exchange", [0, 1])
def test_ours_misses_the_entries_that_it_saw(exchange: int, tmp_path: Path) -> None:
    backups = Backups(tmp_path)
    with (
        backups.set_back(exchange) as log,
        pytest.raises(ParameterError, match=f"lost entries: it holds {exchange}, the state saw 2; .* new"),
    ):
        backups.victim.restored(log)


@pytest.mark.parametrize("before", [0, 1])
def test_the_newest_state_misses_what_only_it_saw(before: int, tmp_path: Path) -> None:
    """Also where the copy is as old as the older state, which it would suit."""
    backups = Backups(tmp_path, before)
    with (
        backups.set_back(backups.kept[-1]) as log,
        pytest.raises(ParameterError, match="the release log lost entries"),
    ):
        backups.victim.restored(log, newest=True)


def test_entries_of_others_do_not_stand_in_for_what_is_lost(tmp_path: Path) -> None:
    backups = Backups(tmp_path)
    with backups.set_back(0) as log:
        shared = {name: Policy(release_log=log) for name in NAMES if name != VICTIM}
        Stage(MASKED, NAMES, policies=shared).play(updates_of(NAMES))
        Stage(MASKED, NAMES, policies={VICTIM: Policy(release_log=log)}, seed=b"another").play(
            updates_of(NAMES)
        )
        with pytest.raises(ParameterError, match="it holds 0, the state saw 2"):
            backups.victim.restored(log)


# An older copy that went on


class WentOn:
    """Log and state are set back together, and go on; then the newest state is found.

    Attributes:
        victim: its newest state was saved behind its last release.
    """

    def __init__(self, log: ReleaseLog, back: Callable[[], ReleaseLog], keep: Callable[[], object]) -> None:
        def watch(exchange: int) -> None:
            if exchange == MASKED.suite.collecting and not self.kept:  # the state is saved
                keep()
                self.kept = True

        self.kept = False
        self.victim = RolledBack(log, before=1, watch=watch)
        self.log = back()
        stage, machine = self.victim.stage, self.victim.restored(self.log)
        for number in range(50, 54):  # a server asks what it likes
            answer = machine.receive(
                stage.request(0, Announcement(MASKED.suite.digest, tuple(NAMES), LENGTH), round=number)
            )
            assert not refused(answer)
        name = machine._log_name
        assert self.log.count(name) >= stage.clients[VICTIM]._logged().entries  # type: ignore[union-attr]

    def second(self, *, machine: type[ClientMachine] = ClientMachine) -> ClientMachine:
        """The newest state with the log that went on."""
        return self.victim.restored(self.log, machine=machine, newest=True)


@pytest.fixture(params=["memory", "sqlite"])
def went_on(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[WentOn]:
    if request.param == "memory":
        log, copies = MemoryReleaseLog(), list[MemoryReleaseLog]()
        yield WentOn(log, lambda: copies[0], lambda: copies.append(deepcopy(log)))
        return
    path, backup = tmp_path / "releases", tmp_path / "backup"

    def back() -> ReleaseLog:
        shutil.copy(backup, other)
        return stack.enter_context(SqliteReleaseLog(other))

    other = tmp_path / "set back"
    with ExitStack() as stack:
        yield WentOn(stack.enter_context(SqliteReleaseLog(path)), back, lambda: shutil.copy(path, backup))


def test_a_client_that_only_counts_takes_a_log_that_went_on(went_on: WentOn) -> None:
    """What it said before is not in there: it does not know that it has said it."""
    machine = went_on.second(machine=Counting)
    last = went_on.victim.stage.clients[VICTIM]._last_entry
    assert last is not None
    other = bytes(range(32))
    assert went_on.log.insert(machine._log_name, last.round, last.step, other) == other


def test_ours_misses_the_last_entry_that_it_saw(went_on: WentOn) -> None:
    with pytest.raises(ParameterError, match=r"lost the last entry that the state saw.*in a new session"):
        went_on.second()


def test_and_does_not_find_it_the_second_time(went_on: WentOn) -> None:
    """Asking leaves no entry that would answer the next time; nor does it where somebody asks in between."""
    for _ in range(3):
        with pytest.raises(ParameterError, match="lost the last entry"):
            went_on.second()
    older = went_on.victim.restored(went_on.log)
    assert older.export(key=KEY)  # which has all its entries there, and goes on
    with pytest.raises(ParameterError, match="lost the last entry"):
        went_on.second()


def test_a_step_whose_entry_was_lost_is_answered_no_more(went_on: WentOn) -> None:
    """Not by the older state either: what was said there is not known any more."""
    with pytest.raises(ParameterError, match="lost the last entry"):
        went_on.second()
    again = went_on.victim.restored(went_on.log).contribute(SECOND)
    assert refused(again)


def test_its_own_log_has_its_last_entry_however_often_it_is_asked(tmp_path: Path) -> None:
    with SqliteReleaseLog(tmp_path / "releases") as kept:
        for log in (MemoryReleaseLog(), kept):
            victim = RolledBack(log, before=1)
            entries = log.count(victim.stage.clients[VICTIM]._log_name)
            for _ in range(3):
                machine = victim.restored(log, newest=True)
                assert log.count(machine._log_name) == entries
            victim.stage.clients[VICTIM] = machine
            assert victim.stage.play(updates_of(NAMES)).contributors == frozenset(NAMES)


# What still works, and what still succeeds


def test_its_own_log_holds_an_older_state_and_lets_the_newest_go_on(tmp_path: Path) -> None:
    """A log that holds more than the state saw is what a rollback, or a crash before saving, looks like."""
    path = tmp_path / "releases"
    with SqliteReleaseLog(path) as log:
        victim = RolledBack(log)
    with SqliteReleaseLog(path) as log:
        answer = victim.restored(log).contribute(SECOND)
        assert "later state" in body_of(Refusal, answer).reason
        victim.stage.clients[VICTIM] = victim.restored(log, newest=True)
        assert victim.stage.play(updates_of(NAMES)).contributors == frozenset(NAMES)


def test_a_client_that_had_no_log_may_be_given_one() -> None:
    victim, log = RolledBack(None), MemoryReleaseLog()
    first = victim.restored(log).contribute(FIRST)
    assert not refused(first)
    assert refused(victim.restored(log).contribute(SECOND))
    # From now on that one is its log.
    blob = victim.restored(log).export(key=KEY)
    with pytest.raises(ParameterError, match="pass the same one as release_log"):
        MASKED.restore_client(blob, key=KEY)
    with pytest.raises(ParameterError, match="another release log"):
        MASKED.restore_client(blob, key=KEY, release_log=MemoryReleaseLog())


def test_a_client_that_starts_afresh_may_take_any_log() -> None:
    log = MemoryReleaseLog()
    RolledBack(log)
    stage = Stage(MASKED, NAMES, policies={VICTIM: Policy(release_log=log)}, seed=b"a new session")
    assert stage.play(updates_of(NAMES)).contributors == frozenset(NAMES)


@pytest.mark.parametrize("before", [0, 1])
def test_a_log_and_a_state_from_one_backup_still_succeed(before: int, tmp_path: Path) -> None:
    """On ours. They agree with each other; only storage that is not in that backup tells."""
    backups = Backups(tmp_path, before)
    with backups.set_back(backups.kept[-1]) as log:
        assert backups.victim.is_read(backups.victim.restored(log).contribute(SECOND))
    copies = list[MemoryReleaseLog]()
    kept = MemoryReleaseLog()
    victim = RolledBack(kept, before=before, watch=lambda exchange: copies.append(deepcopy(kept)))
    assert victim.is_read(victim.restored(copies[-1]).contribute(SECOND))
