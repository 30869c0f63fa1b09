"""Folders and processes that are gone, however their owner goes."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from fl_integration.loopback.processes import (
    FOLDER_VARIABLE,
    EngineFailedError,
    Remains,
    end_all,
    reserve_port,
    start_guard,
    until,
)
from fl_integration.loopback.scratch import held_signals, interruptible, scratch
from secagg.errors import ParameterError, SecAggError
from tests.fresh import ROOT

SECONDS = 30
OWNER = f"""
import os, subprocess, sys
from fl_integration.loopback.scratch import interruptible, scratch

with interruptible(), scratch() as folder:
    (folder / "key").write_text("secret")
    sleeper = ["sleep", "600"]
    marked = os.environ | {{"{FOLDER_VARIABLE}": str(folder)}}
    child = subprocess.Popen(sleeper, env=marked, start_new_session=True)
    print(folder, child.pid, flush=True)
    child.wait()
"""


def sleeper(folder: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen(["sleep", "600"], env=os.environ | {FOLDER_VARIABLE: str(folder)})


def alive(pid: int) -> bool:
    try:
        return b"sleep" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


def guards_of(folder: Path) -> list[int] | None:
    """A process that was just started has none of its arguments yet, for a moment."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if os.fsencode(folder) in path.read_bytes():
                found.append(int(path.parent.name))
    return found or None


def test_a_folder_is_its_owners_alone_and_goes_with_its_processes() -> None:
    with scratch() as folder:
        assert folder.stat().st_mode & 0o777 == 0o700
        (folder / "deep").mkdir()
        (folder / "deep" / "key").write_text("secret")
        child = sleeper(folder)
    assert child.wait(SECONDS) == -signal.SIGKILL
    assert not folder.exists()


def test_an_error_takes_the_same_way() -> None:
    with pytest.raises(ZeroDivisionError), scratch() as folder:
        raise ZeroDivisionError
    assert not folder.exists()


def test_a_link_to_elsewhere_is_removed_and_not_followed(tmp_path: Path) -> None:
    (tmp_path / "kept").write_text("of somebody else")
    with scratch() as folder:
        (folder / "link").symlink_to(tmp_path)
    assert (tmp_path / "kept").exists()


def test_a_guard_that_was_killed_is_not_needed_where_its_owner_lives() -> None:
    with scratch() as folder:
        (guard,) = until(lambda: guards_of(folder), seconds=SECONDS, what="its guard has a command line")
        os.kill(guard, signal.SIGKILL)
    assert not folder.exists()


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGKILL])
def test_whatever_ends_the_owner_leaves_nothing(how: signal.Signals) -> None:
    owner = subprocess.Popen(
        [sys.executable, "-c", OWNER], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    assert owner.stdout is not None
    folder, pid = owner.stdout.readline().split()
    until(lambda: alive(int(pid)), seconds=SECONDS, what="its child has a command line")
    owner.send_signal(how)
    owner.communicate()
    until(lambda: not alive(int(pid)), seconds=SECONDS, what="its child has ended")
    until(lambda: not Path(os.fsdecode(folder)).exists(), seconds=SECONDS, what="its folder is gone")


def test_remains_may_be_the_folder(tmp_path: Path) -> None:
    child = sleeper(tmp_path)
    end_all(tmp_path, Remains.FOLDER)
    assert child.wait(SECONDS) == -signal.SIGKILL
    assert tmp_path.exists()
    start_guard(tmp_path, remains=Remains.NOTHING).communicate()
    assert not tmp_path.exists()


def test_a_signal_in_a_held_block_waits_for_its_end() -> None:
    reached = []

    def work() -> None:
        with held_signals():
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)
            reached.append("the end")

    with pytest.raises(KeyboardInterrupt):
        work()
    assert reached == ["the end"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_sigterm_interrupts_inside_and_ends_outside() -> None:
    with pytest.raises(KeyboardInterrupt), interruptible():
        signal.raise_signal(signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_what_is_ignored_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with interruptible(), held_signals():
            signal.raise_signal(signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before)


def test_other_threads_are_left_alone() -> None:
    found: list[Path] = []

    def work() -> None:
        with interruptible(), held_signals(), scratch() as folder:
            found.append(folder)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join(SECONDS)
    assert len(found) == 1
    assert not found[0].exists()


def test_a_port_that_is_taken_is_named() -> None:
    with reserve_port() as taken:
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(
            ParameterError, match=rf"port {port} of this machine cannot be had .*name another"
        ):
            reserve_port(port)


@pytest.mark.parametrize("port", [-1, 65536, 1.5, "80", None, True])
def test_what_is_no_port_is_refused(port) -> None:
    with pytest.raises(ParameterError, match=r"a number in \[1, 65535\], or 0"):
        reserve_port(port)


def test_an_engines_failure_is_one_of_this_librarys_errors() -> None:
    assert issubclass(EngineFailedError, SecAggError)
