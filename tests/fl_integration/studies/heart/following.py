"""Runs of the study over an engine of one process, and who listens to them."""

from pathlib import Path

from fl_integration.studies.heart.choices import Choice
from fl_integration.studies.heart.federation import running
from fl_integration.studies.heart.federation.engine import Plan
from fl_integration.studies.heart.federation.outcome import EngineRun
from fl_integration.studies.heart.records import Site, load_hospitals
from tests.fl_integration.studies.heart.one_process import Opener

THREE = load_hospitals(sites=3, seed=1)
FOUR = load_hospitals(sites=4, seed=1)


class Heard:
    """What was told, in its order."""

    def __init__(self) -> None:
        self.said: list[tuple[str, object]] = []

    def starting(self) -> None:
        self.said.append(("starting", None))

    def working(self, number: int, training: tuple[Site, ...]) -> None:
        self.said.append(("working", number))

    def killed(self, site: Site, number: int) -> None:
        self.said.append(("killed", (site, number)))

    def back(self, site: Site) -> None:
        self.said.append(("back", site))

    def ended(self, found) -> None:
        self.said.append(("ended", found.number))

    def read(self, site: Site, found) -> None:
        self.said.append(("read", found.number))


def follow(
    folder: Path,
    opener: Opener,
    *,
    hospitals=THREE,
    rounds=3,
    killed=None,
    told=None,
    choice=Choice.MASKED,
) -> EngineRun:
    sites = tuple(each.site for each in hospitals)
    plan = Plan(choice=choice, sites=sites, rounds=rounds, seed=1, killed=killed)
    return running.run_over(opener, folder, name="One", plan=plan, hospitals=hospitals, told=told or Heard())
