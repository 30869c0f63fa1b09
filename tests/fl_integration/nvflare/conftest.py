"""What all tests of NVFlare's adapter need: the engine, a fast disk, and a clock that nobody waits for."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

pytest.importorskip("nvflare", reason="the engine is an extra")

from fl_integration.embedding import rounds
from fl_integration.embedding.coordinator import Coordinator
from tests.fl_integration.disks import folder_in_memory
from tests.fl_integration.nvflare.loopback import settle


@pytest.fixture
def tmp_path() -> Iterator[Path]:
    """For states that are forced to the disk with every message."""
    with folder_in_memory() as folder:
        yield folder


class Time:
    """A clock that goes on when somebody waits, once all calls that went out arrived."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now

    def pause(self, seconds: float) -> None:
        assert seconds > 0, "a wait of no time never ends"
        settle()
        self.now += seconds


@pytest.fixture(autouse=True)
def time(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Time:
    """The clock of every SecureClients of a test: it goes on by what the coordinator waits, no more."""
    clock = Time()
    if request.node.get_closest_marker("engine"):
        return clock  # processes answer when they do
    monkeypatch.setattr(
        rounds, "Coordinator", partial(Coordinator, monotonic=clock.monotonic, pause=clock.pause)
    )
    return clock
