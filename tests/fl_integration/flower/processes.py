"""Processes of Flower's on this machine: their ports, what they find around them, and their end.

Flower detaches some of its processes from the group that started them, so a process counts as one of a
deployment when its environment names the deployment's folder. Where the process that started them is itself
killed, a guard that holds one end of a pipe notices, and ends them. Looking into environments needs /proc;
elsewhere process groups have to do, and what Flower detaches ends itself when its parent is gone.

Flower is told to stay offline: it sends nothing about its use, asks for no newer version, and installs
nothing for an app (its SuperLink runs uv for each app otherwise, even for one that depends on nothing).
"""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final, TypeVar

from tests.fresh import ROOT

__all__ = [
    "FOLDER_VARIABLE",
    "STOP_SECONDS",
    "environment_of",
    "home_of",
    "kill_marked",
    "reserve_port",
    "script",
    "start_guard",
    "until",
]

FOLDER_VARIABLE: Final = "SECAGG_DEPLOYMENT"
STOP_SECONDS: Final = 10
LOOK_SECONDS: Final = 0.05

T = TypeVar("T")


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


def environment_of(folder: Path) -> dict[str, str]:
    """What every process gets, and nothing else of Flower's that happens to be set here."""
    home = home_of(folder)
    home.mkdir(exist_ok=True)
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("FLWR_")}
    scripts = sysconfig.get_path("scripts")
    return inherited | {
        FOLDER_VARIABLE: str(folder),
        "FLWR_HOME": str(home),
        "HOME": str(home),
        "PATH": os.pathsep.join(
            [scripts, os.environ.get("PATH", os.defpath)]
        ),  # Flower starts its own by name
        "PYTHONPATH": str(ROOT),  # the checkout under test, not the one that is installed
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
        "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "0.1",  # 1 s by default, for which an app waits to be started
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
    }


def home_of(folder: Path) -> Path:
    return folder / "home"


def script(name: str) -> str:
    return str(Path(sysconfig.get_path("scripts")) / name)


def reserve_port() -> socket.socket:
    """A free port of this machine, kept from others while the socket is open.

    Flower's servers may bind it all the same: on Linux two sockets share an address when both say so and
    neither listens yet.
    """
    reserved = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    reserved.bind(("127.0.0.1", 0))
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


def start_guard(folder: Path) -> subprocess.Popen[bytes]:
    """A process that ends everything of a deployment when this one is gone, however it went."""
    return subprocess.Popen(
        [sys.executable, "-m", "tests.fl_integration.flower.processes", str(folder)],
        stdin=subprocess.PIPE,
        cwd=ROOT,
        start_new_session=True,
    )


if __name__ == "__main__":
    sys.stdin.read()  # until the pipe closes: whoever started us has ended
    kill_marked(FOLDER_VARIABLE, sys.argv[1])
