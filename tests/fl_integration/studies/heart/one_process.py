"""An engine of the study in one thread: the study's own training, averaged in the clear, without a process.

It stands where Flower does, so that what follows a run, judges it and reports it can be tested in a second.
"""

import threading
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from fl_integration.loopback.meter import Carried
from fl_integration.loopback.processes import EngineFailedError
from fl_integration.studies.heart.federation.engine import Plan
from fl_integration.studies.heart.federation.folders import Federation, State, first_state
from fl_integration.studies.heart.federation.journal import Event
from fl_integration.studies.heart.federation.local import trained
from fl_integration.studies.heart.records import Site

REFUSED = "2 clients contributed, at least 3 are needed"
GONE = "the engine says: the node is unavailable"


@dataclass(slots=True)
class OneProcess:
    """The engine; a test may ask it to fail.

    Attributes:
        least: contributors that a sum needs.
        fails: the server's app says that it cannot go on, in this round.
        ends: a process ends that should not.
    """

    federation: Federation
    plan: Plan
    least: int = 3
    fails: int | None = None
    ends: bool = False
    finished: bool = False
    killed: list[Site] = field(default_factory=list)
    refused: int = 2
    _gone: threading.Event = field(default_factory=threading.Event)
    _back: threading.Event = field(default_factory=threading.Event)
    _wire: dict[Site, Carried] = field(default_factory=dict)

    def begin(self) -> None:
        self._wire = {site: Carried(up=100, down=50) for site in self.plan.sites}
        threading.Thread(target=self._run, daemon=True).start()

    def check(self, away: Collection[Site]) -> None:
        if self.ends:
            raise EngineFailedError("a node ended\n--- node-0\nout of memory")

    def site_of(self, node: str) -> Site | None:
        return {f"node of {site.value}": site for site in self.plan.sites}.get(node)

    def kill(self, site: Site) -> None:
        self.killed.append(site)
        self._gone.set()

    def revive(self, site: Site) -> bool:
        self.refused -= 1
        if self.refused < 0:
            self._back.set()
        return self.refused < 0

    def carried(self) -> dict[Site, Carried]:
        return dict(self._wire)

    def finish(self) -> None:
        self.finished = True

    def _run(self) -> None:
        state, journal = first_state(), self.federation.coordinator.journal
        for number in range(self.plan.rounds):
            if number == self.fails:
                journal.add(Event.FAILED, reason="ValueError: no such protocol")
                return
            journal.add(Event.ASKED, round=number)
            self._wire = {
                site: each + Carried(up=1000 * (number + 1) + place, down=500)
                for place, (site, each) in enumerate(self._wire.items())
            }
            answers: dict[Site, tuple[State, int]] = {}
            for site in self.plan.sites:
                files = self.federation.at(site)
                files.journal.add(Event.TRAINS, round=number)
                answers[site] = trained(
                    state, files.load_patients(), client=site.value, round=number, seed=self.plan.seed
                )
                files.journal.add(Event.TRAINED, round=number)
                if (site, number) == self.plan.killed:
                    self._gone.wait(30)
                    del answers[site]
            missing = {f"node of {site.value}": GONE for site in self.plan.sites if site not in answers}
            weight: int | None = sum(each for _, each in answers.values())
            if len(answers) < self.least:
                missing |= {f"node of {site.value}": REFUSED for site in answers}
                weight = None
            else:
                state = {
                    name: np.float32(
                        sum(each[name].astype(np.float64) * count for each, count in answers.values())
                        / weight
                    )
                    for name in state
                }
            model = {name: values.tolist() for name, values in state.items()}
            journal.add(Event.ENDED, round=number, weight=weight, missing=missing, model=model)
            if (number, missing != {}) == ((self.plan.killed or (None, -1))[1], True):
                self._back.wait(30)


@dataclass(slots=True)
class Opener:
    """Opens one, and keeps it for a test to look at."""

    least: int = 3
    fails: int | None = None
    ends: bool = False
    engine: OneProcess | None = None

    @contextmanager
    def __call__(self, folder: Path, federation: Federation, plan: Plan) -> Iterator[OneProcess]:
        self.engine = OneProcess(federation, plan, least=self.least, fails=self.fails, ends=self.ends)
        yield self.engine
