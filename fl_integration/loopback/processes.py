"""Processes of an engine on this machine: their ports, what they find around them, and their end.

Engines detach some of their processes from the group that started them, so a process counts as one of a
deployment when its environment names the deployment's folder. Where the process that started them is itself
killed, a guard that holds one end of a pipe notices, and ends them. Looking into environments needs /proc;
elsewhere process groups have to do, and what an engine detaches ends itself when its parent is gone.
"""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable
from enum import Enum
from pathlib import Path
from typing import Final, TypeVar

from secagg.errors import ParameterError, SecAggError

__all__ = [
    "FOLDER_VARIABLE",
    "STOP_SECONDS",
    "EngineFailedError",
    "Remains",
    "end_all",
    "environment_of",
    "home_of",
    "kill_marked",
    "reserve_port",
    "script",
    "start_guard",
    "until",
]

ROOT: Final = Path(__file__).resolve().parents[2]
"""Where this library is imported from; its processes import the same one."""
FOLDER_VARIABLE: Final = "SECAGG_DEPLOYMENT"
STOP_SECONDS: Final = 10
LOOK_SECONDS: Final = 0.05

T = TypeVar("T")


class EngineFailedError(SecAggError, RuntimeError):
    """An engine's processes on this machine did not do what they should; the text ends with their logs."""


class Remains(Enum):
    """What is left of a deployment that has ended."""

    FOLDER = "folder"
    """What it wrote, for whoever started it to look at."""
    NOTHING = "nothing"
    """Its folder is removed: keys lie there."""


def until(look: Callable[[], T | None], *, seconds: float, what: str) -> T:
    """Looks until it gets something that is neither None nor False.

    Raises:
        TimeoutError: `what` did not come about in time.
    """
    end = time.monotonic() + seconds
    while True:
        if (found := look()) is not None and found is not False:
            return found
        if time.monotonic() > end:
            raise TimeoutError(f"not within {seconds:.0f} s: {what}")
        time.sleep(LOOK_SECONDS)


def environment_of(folder: Path, *, without: str) -> dict[str, str]:
    """What every process of a deployment gets.

    Args:
        folder: the deployment's; a home of its own is made in it.
        without: the prefix of the engine's variables, of which none that happens to be set here is passed on.
    """
    home = home_of(folder)
    home.mkdir(exist_ok=True)
    inherited = {key: value for key, value in os.environ.items() if not key.startswith(without)}
    scripts = sysconfig.get_path("scripts")
    return inherited | {
        FOLDER_VARIABLE: str(folder),
        "HOME": str(home),
        # Engines start their own by name.
        "PATH": os.pathsep.join([scripts, os.environ.get("PATH", os.defpath)]),
        "PYTHONPATH": str(ROOT),  # the library that runs here, not another that is installed
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
    }


def home_of(folder: Path) -> Path:
    """The home folder of a deployment's processes."""
    return folder / "home"


def script(name: str) -> str:
    """The path of a command that stands beside this interpreter."""
    return str(Path(sysconfig.get_path("scripts")) / name)


def reserve_port(port: int = 0) -> socket.socket:
    """A port of this machine, kept from others while the socket is open.

    An engine's servers may bind it all the same: on Linux two sockets share an address when both say so and
    neither listens yet.

    Args:
        port: in [1, 65535]; 0 takes one that is free.

    Raises:
        ParameterError: the port is no such number, is taken, or is not for this user.
    """
    if type(port) is not int or not 0 <= port <= 65535:
        raise ParameterError(f"the port is {port!r}; it is a number in [1, 65535], or 0 for one that is free")
    reserved = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        reserved.bind(("127.0.0.1", port))
    except OSError as error:
        reserved.close()
        raise ParameterError(
            f"port {port} of this machine cannot be had ({error.strerror}); name another, or none for one "
            "that is free"
        ) from error
    return reserved


def kill_marked(variable: str, value: str) -> None:
    """Ends every process whose environment has this, until there is none."""
    mark = os.fsencode(f"{variable}={value}")
    until(lambda: not _kill_once(mark), seconds=STOP_SECONDS, what=f"all with {variable}={value} have ended")


def _kill_once(mark: bytes) -> bool:
    """Ends who is marked; whether there was anybody. A process that has ended has an empty environment."""
    found = False
    for path in Path("/proc").glob("[0-9]*/environ"):
        # Others' processes are not readable, and one may end while it is looked at.
        with contextlib.suppress(OSError):
            if mark in path.read_bytes().split(b"\0") and int(path.parent.name) != os.getpid():
                os.kill(int(path.parent.name), signal.SIGKILL)
                found = True
    return found


def end_all(folder: Path, remains: Remains) -> None:
    """Ends every process of a deployment, and then what is to go with it."""
    kill_marked(FOLDER_VARIABLE, str(folder))
    if remains is Remains.NOTHING and folder.exists():
        shutil.rmtree(folder)


def start_guard(folder: Path, *, remains: Remains = Remains.FOLDER) -> subprocess.Popen[bytes]:
    """A process that ends everything of a deployment when this one is gone, however it went.

    It also does so when its standard input is closed, and then ends itself: `communicate()` waits for that.
    """
    return subprocess.Popen(
        [sys.executable, "-m", __spec__.name, str(folder), remains.value],
        stdin=subprocess.PIPE,
        cwd=ROOT,
        start_new_session=True,
    )


if __name__ == "__main__":
    sys.stdin.read()  # until the pipe closes: whoever started us has ended
    end_all(Path(sys.argv[1]), Remains(sys.argv[2]))
