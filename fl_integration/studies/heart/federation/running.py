"""Follows a run over an engine to its end: tells what happens, kills a hospital and lets it come back.

One loop looks at the apps' journals and at the engine's processes and never waits for either, so that Ctrl-C
is heard at once and a hospital that is started anew holds up nobody.
"""

import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np

from fl_integration.loopback.meter import Carried
from fl_integration.loopback.processes import EngineFailedError
from fl_integration.studies.heart.federation.engine import Engine, Opened, Plan
from fl_integration.studies.heart.federation.folders import Federation, State, founded
from fl_integration.studies.heart.federation.journal import Event
from fl_integration.studies.heart.federation.outcome import EngineRound, EngineRun
from fl_integration.studies.heart.federation.own_disk import OwnDisk
from fl_integration.studies.heart.records import Hospital, Site

__all__ = ["Told", "run_over"]

LOOK_SECONDS: Final = 0.1
DISK_SECONDS: Final = 0.02
"""Where a model can be read only until the next round begins, which over NVFlare is soon."""
CHECK_SECONDS: Final = 1.0
STALL_SECONDS: Final = 300.0
"""Without any event, after which nothing is expected any more."""


class Told(Protocol):
    """Who is told what happens."""

    def starting(self) -> None:
        """The engine starts."""
        ...  # a Protocol's signature

    def working(self, number: int, training: tuple[Site, ...]) -> None:
        """In this round (from 0) these hospitals train now."""
        ...  # a Protocol's signature

    def killed(self, site: Site, number: int) -> None:
        """A hospital was killed in this round."""
        ...  # a Protocol's signature

    def back(self, site: Site) -> None:
        """Its node is there again."""
        ...  # a Protocol's signature

    def ended(self, found: EngineRound) -> None:
        """A round is over."""
        ...  # a Protocol's signature

    def read(self, site: Site, found: EngineRound) -> None:
        """A round's model was read on this hospital's disk."""
        ...  # a Protocol's signature


def run_over(
    opened: Opened, folder: Path, *, name: str, plan: Plan, hospitals: tuple[Hospital, ...], told: Told
) -> EngineRun:
    """Runs a plan on an engine.

    Args:
        opened: starts the engine.
        folder: a fresh one of this user's own, for everything; it is left as it is.
        name: the engine's, for people.
        plan: what to run.
        hospitals: with their patients.
        told: what happens, as it happens.

    Raises:
        ParameterError: a port is taken.
        EngineFailedError: the engine does not start, or stops too soon; its logs are in the text.
    """
    told.starting()
    federation = founded(folder, hospitals=hospitals)
    began = time.monotonic()
    try:
        with opened(folder, federation, plan) as engine:
            engine.begin()
            following = _Following(engine, federation, plan, told, began=began)
            following.to_the_end()
            following.read_the_last()
            engine.finish()
    except TimeoutError as error:
        raise EngineFailedError(str(error)) from error
    return EngineRun(
        engine=name,
        choice=plan.choice,
        sites=plan.sites,
        rounds=tuple(following.rounds),
        killed=plan.killed,
        before=following.before,
        start_seconds=following.start_seconds,
        read_at=plan.sites[0] if following.disk is not None else None,
        records=federation.coordinator.signed_records(),
    )


@dataclass(slots=True)
class _Following:
    engine: Engine
    federation: Federation
    plan: Plan
    told: Told
    began: float
    rounds: list[EngineRound] = field(default_factory=list)
    before: dict[Site, Carried] = field(default_factory=dict)
    start_seconds: float = 0.0
    disk: OwnDisk | None = None
    _seen: int = 0
    _away: set[Site] = field(default_factory=set)
    _struck: bool = False
    _last: dict[Site, Carried] = field(default_factory=dict)
    _last_time: float = 0.0
    _last_word: float = 0.0
    _training: tuple[Site, ...] = ()

    def __post_init__(self) -> None:
        if self.plan.choice.hospitals_learn:
            self.disk = OwnDisk(self.federation.at(self.plan.sites[0]))

    def to_the_end(self) -> None:
        self._last_word = checked = time.monotonic()
        while len(self.rounds) < self.plan.rounds:
            self._look_at_the_server()
            self._look_at_the_hospitals()
            if self.disk is not None:
                self._look_at_the_disk(self.disk)
            now = time.monotonic()
            if now - checked >= CHECK_SECONDS:
                checked = now
                self._supervise()
                if now - self._last_word > STALL_SECONDS:
                    raise TimeoutError(f"nothing has happened for {STALL_SECONDS:.0f} s")
            time.sleep(LOOK_SECONDS if self.disk is None else DISK_SECONDS)

    def _supervise(self) -> None:
        for site in sorted(self._away, key=self.plan.sites.index):
            if self.engine.revive(site):
                self._away.remove(site)
                self._last_word = time.monotonic()
                self.told.back(site)
        if len(self.rounds) < self.plan.rounds:
            self.engine.check(self._away)

    def _look_at_the_server(self) -> None:
        events = self.federation.coordinator.journal.read()
        for event, values in events[self._seen :]:
            self._last_word = time.monotonic()
            if event is Event.FAILED:
                raise EngineFailedError(f"the server's app cannot go on: {values['reason']}")
            if event is Event.ASKED and not self.rounds and not self.before:
                self.before = self._last = self.engine.carried()
                self._last_time = self._last_word
                self.start_seconds = self._last_word - self.began
            if event is Event.ASKED:
                self.told.working(values["round"], ())
            if event is Event.ENDED:
                self._ended(values)
        self._seen = len(events)

    def _ended(self, values: Mapping[str, Any]) -> None:
        carried, now = self.engine.carried(), time.monotonic()
        missing = {self.engine.site_of(node): reason for node, reason in values["missing"].items()}
        known = {site: reason for site, reason in missing.items() if site is not None}
        aborted = "" if len(known) < len(self.plan.sites) else _common(known)
        found = EngineRound(
            number=values["round"],
            missing=known,
            total_weight=values["weight"],
            aborted=aborted,
            state=None
            if values["model"] is None
            else {name: np.array(each, np.float32) for name, each in values["model"].items()},
            seconds=now - self._last_time,
            carried={site: carried[site] - self._last[site] for site in self.plan.sites},
        )
        self._last, self._last_time, self._training = carried, now, ()
        self.rounds.append(found)
        self.told.ended(found)

    def _look_at_the_hospitals(self) -> None:
        number, training = len(self.rounds), []
        for site in self.plan.sites:
            events = self.federation.at(site).journal.read()
            if not events or events[-1][1]["round"] != number:
                continue
            event = events[-1][0]
            if event is Event.TRAINS:
                training.append(site)
            if (site, number) == self.plan.killed and not self._struck and event is Event.TRAINED:
                self._struck = True
                self.engine.kill(site)
                self._away.add(site)
                self.told.killed(site, number)
        if tuple(training) != self._training:
            self._training, self._last_word = tuple(training), time.monotonic()
            self.told.working(number, self._training)

    # Where the hospitals alone learn the model

    def _look_at_the_disk(self, disk: OwnDisk) -> None:
        """Reads the model of the round before the one in which the hospital has trained."""
        trained = disk.trained_in()
        if trained is None or not 1 <= trained <= len(self.rounds):
            return
        before = self.rounds[trained - 1]
        if before.aborted or before.state is not None:
            return
        if (model := disk.model_before(trained)) is not None:
            self._read(before.number, model)

    def read_the_last(self) -> None:
        """Reads the model that the training came to."""
        summed = [each.number for each in self.rounds if not each.aborted]
        if self.disk is None or not summed:
            return
        model, last = self.disk.model(), summed[-1]
        for number in summed[-2:-1]:
            before = self.rounds[number]
            if before.state is not None and _equal(before.state, model):
                # It was read when the last sum was there already, which is handed out before its round ends.
                self.rounds[number] = replace(before, state=None)
        self._read(last, model)

    def _read(self, number: int, model: State) -> None:
        self.rounds[number] = replace(self.rounds[number], state=model)
        self.told.read(self.plan.sites[0], self.rounds[number])


def _equal(one: State, other: State) -> bool:
    return all(np.array_equal(one[name], other[name]) for name in one)


def _common(missing: Mapping[Site, str]) -> str:
    """Why a round was aborted: what most of its hospitals are told, who were there and have no sum."""
    return Counter(missing.values()).most_common(1)[0][0]
