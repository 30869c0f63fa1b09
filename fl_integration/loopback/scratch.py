"""A folder for a deployment's keys and states, and the promise that nothing of it stays.

    with interruptible(), scratch() as folder:
        ...

However the block ends, by its last line, an error, Ctrl-C in the middle of anything or the death of this very
process, a guard (`processes`) ends every process that names the folder in its environment and then removes
the folder. There is one path for all of these, so the rare ones are walked on every good day, too.

`held_signals` is for the moments in which an interruption would lose track of something: a signal that
arrives inside is acted upon right afterwards. A second Ctrl-C does not cut a clean-up short.

>>> with scratch() as folder:
...     _ = (folder / "key").write_text("of a hospital")
>>> folder.exists()
False
"""

import signal
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Final

from fl_integration.loopback.processes import Remains, end_all, start_guard

__all__ = ["held_signals", "interruptible", "scratch"]

_ENDS: Final = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name))
"""What ends a process that does not listen: `kill`, and a terminal that is closed."""


@contextmanager
def scratch() -> Iterator[Path]:
    """A new folder that only this user enters; it and its processes are gone after the block.

    Yields:
        Its path, without links in it.
    """
    folder: Path | None = None
    guard: subprocess.Popen[bytes] | None = None
    try:
        with held_signals():
            folder = Path(tempfile.mkdtemp(prefix="secagg-")).resolve()
            guard = start_guard(folder, remains=Remains.NOTHING)
        yield folder
    finally:
        with held_signals():
            if guard is not None:
                guard.communicate()
            if folder is not None:  # the guard may have been killed, too
                end_all(folder, Remains.NOTHING)


@contextmanager
def interruptible() -> Iterator[None]:
    """Inside, SIGTERM and SIGHUP are a `KeyboardInterrupt`, as SIGINT is: what was begun is ended first.

    One that is ignored, as under nohup, stays ignored. Outside the main thread no signal arrives anyway.
    """
    before = {}
    if threading.current_thread() is threading.main_thread():
        heard = [each for each in _ENDS if signal.getsignal(each) is signal.SIG_DFL]
        before = {each: signal.signal(each, signal.default_int_handler) for each in heard}
    try:
        yield
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


@contextmanager
def held_signals() -> Iterator[None]:
    """A signal that would interrupt the block is acted upon when it has ended."""
    came: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        came.append(number)

    before = {}
    if threading.current_thread() is threading.main_thread():
        # A handler that is no function of Python's is none that raises.
        heard = [each for each in (signal.SIGINT, *_ENDS) if callable(signal.getsignal(each))]
        before = {each: signal.signal(each, note) for each in heard}
    try:
        yield
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
        if came:
            signal.raise_signal(came[0])
