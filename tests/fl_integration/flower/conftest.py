"""Needs flwr. What a test changes in the process that Flower shares is put back."""

import os
from collections.abc import Iterator
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from fl_integration.embedding.coordinator import Coordinator

collect_ignore_glob = [] if find_spec("flwr") else ["*.py"]


@pytest.fixture(autouse=True)
def identity_of_this_process() -> Iterator[None]:
    from tests.fl_integration.flower.loopback import identity_put_back

    with identity_put_back():
        yield


@pytest.fixture
def tmp_path() -> Iterator[Path]:
    """A folder in memory where there is one: every message of a site is forced to the disk, several times."""
    memory = Path("/dev/shm")
    with TemporaryDirectory(dir=memory if os.access(memory, os.W_OK) else None) as folder:
        yield Path(folder)


class Time:
    """A clock that goes on when somebody waits."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now

    def pause(self, seconds: float) -> None:
        assert seconds > 0, "a wait of no time never ends"
        self.now += seconds


@pytest.fixture(autouse=True)
def time(monkeypatch: pytest.MonkeyPatch) -> Time:
    """The clock of every SecureGrid of a test: it goes on by what the coordinator waits, by nothing else."""
    from fl_integration.flower import grid

    clock = Time()
    monkeypatch.setattr(
        grid, "Coordinator", partial(Coordinator, monotonic=clock.monotonic, pause=clock.pause)
    )
    return clock
