"""Flower's engine for the study: a SuperLink, a SuperNode for each hospital, TLS between them.

A SuperNode is let in by a key of its own that was registered with the SuperLink; who is summed is decided by
the roster and by another key, which the SuperLink never sees. Each reaches the SuperLink through a relay that
counts.

A SuperNode that is killed without a goodbye is refused for about a minute: the SuperLink takes it for online
until its heartbeat is overdue.
"""

from collections.abc import Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

from fl_integration.flower.bundle import Apps, Value
from fl_integration.flower.deployment import Deployment, deployment
from fl_integration.loopback.meter import Carried, Meter
from fl_integration.loopback.processes import EngineFailedError
from fl_integration.studies.heart.federation.engine import Plan
from fl_integration.studies.heart.federation.flower_client import HELD
from fl_integration.studies.heart.federation.folders import Federation
from fl_integration.studies.heart.records import Site

__all__ = ["flower"]

ROOM: Final = "fl_integration.studies.heart.federation"
FINISH_SECONDS: Final = 60.0
COMPLETED: Final = "finished:completed"


@contextmanager
def flower(folder: Path, federation: Federation, plan: Plan) -> Iterator["OverFlower"]:
    """Flower's engine while the block lasts; see `engine.Opened`.

    Raises:
        ParameterError: the port is taken.
        EngineFailedError: the engine did not start.
    """
    configs = [_node_config(federation, plan, site) for site in plan.sites]
    with ExitStack() as relays:
        meters: list[Meter] = []

        def through(port: int) -> Sequence[int]:
            meters.append(relays.enter_context(Meter(to=port, wires=len(plan.sites))))
            return meters[0].ports

        with deployment(folder, node_configs=configs, through=through, port=plan.port) as running:
            yield OverFlower(running, plan, meters[0])


class OverFlower:
    """A run on Flower's engine."""

    def __init__(self, running: Deployment, plan: Plan, meter: Meter) -> None:
        self._running, self._plan, self._meter = running, plan, meter
        self._run = 0

    def begin(self) -> None:
        """Hands both apps to the SuperLink."""
        config = {"protocol": self._plan.choice.value, "rounds": self._plan.rounds}
        self._run = self._running.begin(
            Apps(server=f"{ROOM}.flower_server:app", client=f"{ROOM}.flower_client:app", config=config)
        )

    def check(self, away: Collection[Site]) -> None:
        """See `Engine`."""
        for place, site in enumerate(self._plan.sites):
            if site not in away and not self._running.is_running(place):
                name = f"node-{place}"
                raise EngineFailedError(f"the SuperNode of {site.value} ended\n{self._running.tail(name)}")
        if self._running.has_ended(self._run):
            raise EngineFailedError(f"the run ended before its last round\n{self._running.tails()}")

    def site_of(self, node: str) -> Site | None:
        """See `Engine`."""
        ids = {str(self._running.node_id(place)): site for place, site in enumerate(self._plan.sites)}
        return ids.get(node)

    def kill(self, site: Site) -> None:
        """See `Engine`."""
        self._running.kill(self._plan.sites.index(site))

    def revive(self, site: Site) -> bool:
        """See `Engine`."""
        return self._running.revive(self._plan.sites.index(site))

    def carried(self) -> dict[Site, Carried]:
        """See `Engine`."""
        return dict(zip(self._plan.sites, self._meter.carried(), strict=True))

    def finish(self) -> None:
        """See `Engine`."""
        report = self._running.finish(self._run, seconds=FINISH_SECONDS)
        if report.status != COMPLETED:
            raise EngineFailedError(f"the run is {report.status}\n{self._running.tails()}")


def _node_config(federation: Federation, plan: Plan, site: Site) -> dict[str, Value]:
    """What a hospital tells its SuperNode."""
    files = federation.at(site)
    config: dict[str, Value] = {
        "secagg-identity": str(files.identity),
        "secagg-roster": str(files.roster),
        "secagg-state": str(files.state),
        "secagg-password-file": str(files.password),
        "hospital": site.value,
        "protocol": plan.choice.value,
        "seed": plan.seed,
    }
    if plan.killed is not None and plan.killed[0] is site:
        config[HELD] = plan.killed[1]
    return config
