"""D9: a saved client comes back with another release log, and what stopped a rollback (A14) is gone.

The log is what keeps a client that was restored to an older state from a second, different answer. Whoever
restores the state may lose the log on the way: by accident (a new volume, a wrong path, a backup of the log
from last week), or because that is the attack. An empty log has no entry in the place of the second vector,
so two vectors go out under the same masks, and y - y' = x - x'.

The weakened copy takes whatever log it is given, as a log of no identity must be taken. Ours knows its log by
16 random bytes that were drawn when the log was made, and how many entries of its own it has seen there.

Not covered: a log and a state that are restored together from one backup. They agree with each other, and
nobody on that machine can tell: the last test shows it. The log belongs on storage of its own.
"""

import shutil
from collections.abc import Callable
from copy import deepcopy
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
from protocols.masked.messages import MaskedInput
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
