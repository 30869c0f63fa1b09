"""What an engine has to do for the study: run the apps of both sides, kill a hospital, count its wire.

An implementation starts a server and one node for each hospital, as processes of their own that talk over
TLS, and hands its apps the folders of a `Federation`. What the apps see is in their journals; whoever
follows a run asks the engine only for what apps cannot know.
"""

from collections.abc import Callable, Collection
from contextlib import AbstractContextManager
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Protocol, TypeAlias

from fl_integration.loopback.meter import Carried
from fl_integration.studies.heart.choices import Choice
from fl_integration.studies.heart.federation.folders import Federation
from fl_integration.studies.heart.records import Site

__all__ = ["Engine", "EngineName", "Opened", "Plan"]


class EngineName(Enum):
    """An engine of the study; the value is its name on the command line."""

    FLOWER = "flower"
    NVFLARE = "nvflare"


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is to be run.

    Attributes:
        choice: the protocol.
        sites: the hospitals, in their order.
        rounds: at least 1.
        seed: of the local training; keys and masks come from the system's entropy.
        killed: whom to kill while it trains, and in which round (from 0).
        port: the server's; 0 for one that is free.
    """

    choice: Choice
    sites: tuple[Site, ...]
    rounds: int
    seed: int
    killed: tuple[Site, int] | None = None
    port: int = 0


class Engine(Protocol):
    """A run on an engine that is up."""

    def begin(self) -> None:
        """Starts the run.

        Raises:
            EngineFailedError: it cannot be started.
        """
        ...  # a Protocol's signature

    def check(self, away: Collection[Site]) -> None:
        """Returns if everything still runs, but for hospitals that may be away.

        Raises:
            EngineFailedError: a process ended that should not have.
        """
        ...  # a Protocol's signature

    def site_of(self, node: str) -> Site | None:
        """The hospital behind the engine's name for a node."""
        ...  # a Protocol's signature

    def kill(self, site: Site) -> None:
        """Ends a hospital's node and app as a power cut does."""
        ...  # a Protocol's signature

    def revive(self, site: Site) -> bool:
        """Starts a node that is not running; whether it is back. Returns at once: ask again."""
        ...  # a Protocol's signature

    def carried(self) -> dict[Site, Carried]:
        """What each hospital's wire has carried so far."""
        ...  # a Protocol's signature

    def finish(self) -> None:
        """Waits for the run's orderly end.

        Raises:
            EngineFailedError: it ended otherwise, or does not.
        """
        ...  # a Protocol's signature


Opened: TypeAlias = Callable[[Path, Federation, Plan], AbstractContextManager[Engine]]
"""Starts an engine in a folder, with the federation's files in it; everything ends with the block."""
