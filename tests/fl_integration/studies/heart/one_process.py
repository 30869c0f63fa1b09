"""An engine of the study in one thread: the study's own training, averaged in the clear, without a process.

It stands where Flower does, so that what follows a run, judges it and reports it can be tested in a second.
"""

import threading
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from fl_integration.embedding.enrolment import Enrolment
from fl_integration.embedding.held_model import HeldModel
from fl_integration.embedding.member import SavedSession
from fl_integration.embedding.own_model import COPY, file_of
from fl_integration.embedding.parcels import DEFAULT_STUDY, study_of
from fl_integration.loop.optimisers import FedAvg
from fl_integration.loopback.meter import Carried
from fl_integration.loopback.processes import EngineFailedError
from fl_integration.site.roster_file import read_roster
from fl_integration.studies.heart.federation.engine import Plan
from fl_integration.studies.heart.federation.folders import Federation, HospitalFiles, State, first_state
from fl_integration.studies.heart.federation.journal import Event
from fl_integration.studies.heart.federation.local import trained
from fl_integration.studies.heart.records import Site
from protocols.membership import session_id
from protocols.messages.schema import encode

REFUSED = "2 clients contributed, at least 3 are needed"
GONE = "the engine says: the node is unavailable"


@dataclass(slots=True)
class OneProcess:
    """The engine; a test may ask it to fail.

    Attributes:
        least: contributors that a sum needs.
        fails: the server's app says that it cannot go on, in this round.
        ends: a process ends that should not.
        trained: called with each round in which all have trained.
        hands_out_early: the last sum is at the sites as soon as they have trained.
    """

    federation: Federation
    plan: Plan
    least: int = 3
    fails: int | None = None
    ends: bool = False
    trained: Callable[[int], None] = lambda number: None
    hands_out_early: bool = False
    finished: bool = False
    killed: list[Site] = field(default_factory=list)
    refused: int = 2
    _gone: threading.Event = field(default_factory=threading.Event)
    _back: threading.Event = field(default_factory=threading.Event)
    _wire: dict[Site, Carried] = field(default_factory=dict)
    _disk: "Disk | None" = None

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
        if self.plan.choice.hospitals_learn:
            self._disk = Disk(self.federation.at(self.plan.sites[0]))
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
            if self._disk is not None:
                self._disk.begin()
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
            before = state
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
            model = None if self._disk else {name: values.tolist() for name, values in state.items()}
            if self._disk is not None:
                last, weight = number == self.plan.rounds - 1, None
                self._disk.end(state if last and self.hands_out_early else before)
                self.trained(number)
                self._disk.hand_out(state if last else before)
            journal.add(Event.ENDED, round=number, weight=weight, missing=missing, model=model)
            if (number, missing != {}) == ((self.plan.killed or (None, -1))[1], True):
                self._back.wait(30)


@dataclass(slots=True)
class Opener:
    """Opens one, and keeps it for a test to look at."""

    least: int = 3
    fails: int | None = None
    ends: bool = False
    trained: Callable[[int], None] = lambda number: None
    hands_out_early: bool = False
    engine: OneProcess | None = None

    @contextmanager
    def __call__(self, folder: Path, federation: Federation, plan: Plan) -> Iterator[OneProcess]:
        self.engine = OneProcess(
            federation,
            plan,
            least=self.least,
            fails=self.fails,
            ends=self.ends,
            trained=self.trained,
            hands_out_early=self.hands_out_early,
        )
        yield self.engine


class Disk:
    """One hospital's sealed folder, written as a site does where it opens the sums itself."""

    def __init__(self, files: HospitalFiles) -> None:
        self._enrolment = Enrolment(
            identity=files.load_identity(), roster=read_roster(files.roster), state_dir=files.state
        )
        self._client, self._files = self._enrolment.identity.client, self._enrolment.files()
        self._lock = ExitStack()

    def begin(self) -> None:
        """A message comes: the site alone is at its folder."""
        self._lock.enter_context(self._files.alone(self._client, patience=10))

    def end(self, state: State) -> None:
        """It was answered."""
        self._write(state)
        self._lock.close()

    def hand_out(self, state: State) -> None:
        """Another message, without training."""
        self.begin()
        self.end(state)

    def _write(self, state: State) -> None:
        version = self._enrolment.version
        session = session_id(study_of(DEFAULT_STUDY), version, 1)
        saved = SavedSession(
            version=version.version,
            previous=version.previous,
            roster=version.roster.keys,
            epoch=1,
            session=session,
        )
        model = HeldModel.begin(state, began=bytes(32), optimiser=FedAvg())
        self._files.write(self._client, encode(saved))
        self._files.write(file_of(self._client, COPY), model.to_bytes(session=session))
