"""NVFlare's engine for the study: a server and a client for each hospital, provisioned, with mutual TLS.

A client is let in by its certificate, which the provisioning made; who is summed is decided by the roster and
by another key, which the server never sees. Each reaches the server through a relay that counts. A client
that is killed is in no round of the same job again, so that nobody is killed here.
"""

import json
from collections.abc import Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

from fl_integration.loopback.meter import Carried, Meter
from fl_integration.loopback.processes import EngineFailedError
from fl_integration.nvflare.deployment import Deployment, deployment
from fl_integration.nvflare.engine import CollabRecipe
from fl_integration.site.private_files import write_private
from fl_integration.studies.heart.federation import nvflare_server, nvflare_site
from fl_integration.studies.heart.federation.engine import Plan
from fl_integration.studies.heart.federation.folders import Federation
from fl_integration.studies.heart.records import Site

__all__ = ["nvflare"]

FINISH_SECONDS: Final = 120.0
COMPLETED: Final = "FINISHED:COMPLETED"
SETTINGS_FILE: Final = "secagg.json"


@contextmanager
def nvflare(folder: Path, federation: Federation, plan: Plan) -> Iterator["OverNVFlare"]:
    """NVFlare's engine while the block lasts; see `engine.Opened`.

    Raises:
        EngineFailedError: the engine did not start.
    """
    own = {site.value: _environment(plan, site) for site in plan.sites}
    with ExitStack() as relays:
        meters: list[Meter] = []

        def through(port: int) -> Sequence[int]:
            meters.append(relays.enter_context(Meter(to=port, wires=len(plan.sites))))
            return meters[0].ports

        try:
            with deployment(folder, sites=list(own), environment=own, through=through) as running:
                for site in plan.sites:
                    _write_settings(running.kit(site.value) / "local", federation, site)
                yield OverNVFlare(running, plan, meters[0])
        except (RuntimeError, OSError) as error:  # what NVFlare's deployment raises, time that is up among it
            if isinstance(error, EngineFailedError):
                raise
            raise EngineFailedError(str(error)) from error


class OverNVFlare:
    """A run on NVFlare's engine."""

    def __init__(self, running: Deployment, plan: Plan, meter: Meter) -> None:
        self._running, self._plan, self._meter = running, plan, meter
        self._job = ""

    def begin(self) -> None:
        """Submits the job."""
        recipe = CollabRecipe(
            "heart", server=nvflare_server, client=nvflare_site, min_clients=len(self._plan.sites)
        )
        recipe.set_server_prop(nvflare_server.PROTOCOL, self._plan.choice.value)
        recipe.set_server_prop(nvflare_server.ROUNDS, self._plan.rounds)
        self._job = self._running.begin(recipe)

    def check(self, away: Collection[Site]) -> None:
        """See `Engine`."""
        for site in self._plan.sites:
            if site not in away and not self._running.is_running(site.value):
                raise EngineFailedError(f"the client of {site.value} ended\n{self._running.tails()}")

    def site_of(self, node: str) -> Site | None:
        """See `Engine`."""
        return {site.value: site for site in self._plan.sites}.get(node)

    def kill(self, site: Site) -> None:
        """See `Engine`."""
        self._running.kill(site.value)

    def revive(self, site: Site) -> bool:
        """See `Engine`."""
        if not self._running.is_running(site.value):
            self._running.start(site.value)
        return True

    def carried(self) -> dict[Site, Carried]:
        """See `Engine`."""
        return dict(zip(self._plan.sites, self._meter.carried(), strict=True))

    def finish(self) -> None:
        """See `Engine`."""
        report = self._running.finish(self._job, seconds=FINISH_SECONDS)
        if report.status != COMPLETED:
            raise EngineFailedError(f"the job is {report.status}\n{self._running.tails()}")


def _environment(plan: Plan, site: Site) -> dict[str, str]:
    """What a hospital sets for its client's process."""
    return {
        nvflare_site.HOSPITAL: site.value,
        nvflare_site.PROTOCOL: plan.choice.value,
        nvflare_site.SEED: str(plan.seed),
        nvflare_site.SITES: str(len(plan.sites)),
    }


def _write_settings(local: Path, federation: Federation, site: Site) -> None:
    """Where a hospital's files lie, as `by_site_files` reads it."""
    files = federation.at(site)
    paths = {
        "identity": str(files.identity),
        "roster": str(files.roster),
        "state": str(files.state),
        "password-file": str(files.password),
    }
    write_private(local / SETTINGS_FILE, json.dumps(paths).encode())
