"""Needs flwr. What a test changes in the process that Flower shares is put back."""

from collections.abc import Iterator
from functools import partial
from importlib.util import find_spec
from pathlib import Path

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
    """For states that are forced to the disk with every message."""
    from tests.fl_integration.disks import folder_in_memory

    with folder_in_memory() as folder:
        yield folder


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
def time(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Time:
    """The clock of every SecureGrid of a test: it goes on by what the coordinator waits, by nothing else."""
    from fl_integration.embedding import rounds

    clock = Time()
    if request.node.get_closest_marker("engine"):
        return clock  # processes answer when they do
    monkeypatch.setattr(
        rounds, "Coordinator", partial(Coordinator, monotonic=clock.monotonic, pause=clock.pause)
    )
    return clock
