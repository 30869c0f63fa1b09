"""A clock for tests of an engine's server: it goes on by what the coordinator waits, by nothing else."""

from collections.abc import Callable
from functools import partial

import pytest

from fl_integration.embedding import rounds
from fl_integration.embedding.coordinator import Coordinator

__all__ = ["Time", "put_in"]


class Time:
    """A clock that goes on when somebody waits.

    Args:
        settle: called before each wait: until what is under way has arrived.
    """

    def __init__(self, settle: Callable[[], object] = lambda: None) -> None:
        self.now, self._settle = 0.0, settle

    def monotonic(self) -> float:
        return self.now

    def pause(self, seconds: float) -> None:
        assert seconds > 0, "a wait of no time never ends"
        self._settle()
        self.now += seconds


def put_in(clock: Time, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Time:
    """Gives every coordinator of a test this clock; with a real engine processes answer when they do."""
    if not request.node.get_closest_marker("engine"):
        made = partial(Coordinator, monotonic=clock.monotonic, pause=clock.pause)
        monkeypatch.setattr(rounds, "Coordinator", made)
    return clock
