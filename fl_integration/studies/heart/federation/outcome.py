"""What came of a run over an engine: each round's sum, who was missing and why, what the wires carried."""

from dataclasses import dataclass

from fl_integration.loopback.meter import Carried
from fl_integration.studies.heart.choices import Choice
from fl_integration.studies.heart.federation.folders import State
from fl_integration.studies.heart.federation.signed import SignedRecords
from fl_integration.studies.heart.records import Site

__all__ = ["EngineRound", "EngineRun"]


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineRound:
    """One round.

    Attributes:
        number: from 0.
        missing: who was asked and is not in the sum, and why, in the engine's words or the protocol's.
        total_weight: training patients behind the mean; None where the server does not learn it.
        aborted: why there is no sum; empty when there is one.
        state: the model after the round; None where nobody saw it in time.
        seconds: from the end of the round before to its own.
        carried: bytes on each hospital's wire in that time.
    """

    number: int
    missing: dict[Site, str]
    total_weight: int | None
    aborted: str
    state: State | None
    seconds: float
    carried: dict[Site, Carried]


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineRun:
    """A run that came to its end.

    Attributes:
        engine: its name, for people.
        choice: the protocol.
        sites: the hospitals, in their order.
        rounds: one after the other.
        killed: who was killed while it trained, and in which round (from 0).
        before: bytes on each wire before the first round was asked for.
        start_seconds: until then.
        read_at: where the hospitals alone learn the model, the one on whose own disk it was read.
        records: what the coordinator signed, if it did.
    """

    engine: str
    choice: Choice
    sites: tuple[Site, ...]
    rounds: tuple[EngineRound, ...]
    killed: tuple[Site, int] | None
    before: dict[Site, Carried]
    start_seconds: float
    read_at: Site | None = None
    records: SignedRecords | None = None

    @property
    def unseen(self) -> tuple[int, ...]:
        """The rounds (from 0) whose model nobody saw in time; one that was aborted has none."""
        return tuple(each.number for each in self.rounds if each.state is None and not each.aborted)

    def contributors(self, number: int) -> tuple[Site, ...]:
        """Whose updates are in a round's sum; nobody's in one that was aborted."""
        found = self.rounds[number]
        return () if found.aborted else tuple(site for site in self.sites if site not in found.missing)
