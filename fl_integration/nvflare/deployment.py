"""NVFlare's own engine on this machine: real processes that talk over TLS, under NVFlare's own startup kits.

    with deployment(folder, sites=("cleveland", "hungarian", "va")) as engine:
        report = engine.run(recipe, seconds=120)

A server and its sites, provisioned as NVFlare provisions hospitals (`provisioning`). All that they write is
in `folder`: kits, jobs, logs, what NVFlare would put under /tmp and into the user's home. A job's code finds
`folder` in the environment (`FOLDER_VARIABLE`), where it may leave files, which is how whoever started it
knows that a round is under way (`until`). What a site alone knows, such as where its key lies, comes to it
through `environment`: the site's process hands it on to its jobs, and no server can set it.

A job's processes start when it does and end with it. A site that is killed in the middle of a job is not in
that job again, whether it is started again or not: the job goes on without it, and the next one has it.

Nothing outlives the `with` block, and nothing is written elsewhere; `processes` says how. A site's two
processes talk to each other in the clear over loopback, as NVFlare has it: whoever has an account on the
machine of a hospital, or on this one, is inside its walls.
"""

import contextlib
import errno
import json
import math
import os
import shlex
import shutil
import signal
import socket
import ssl
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Final, Protocol, TypeVar

from fl_integration.loopback.processes import (
    FOLDER_VARIABLE,
    STOP_SECONDS,
    environment_of,
    kill_marked,
    reserve_port,
    start_guard,
    until,
)
from fl_integration.nvflare.command_line import PRIVATE, Answer, ask
from fl_integration.nvflare.provisioning import (
    ADMIN,
    HOST,
    PATH_VARIABLE,
    PROJECT,
    SERVER,
    Code,
    checked_sites,
    forget_authority,
    project,
    settle,
)
from secagg.errors import MissingExtraError, ParameterError

__all__ = ["FOLDER_VARIABLE", "SERVER", "Code", "Deployment", "Recipe", "RunReport", "deployment", "until"]

PROCESS_VARIABLE: Final = "SECAGG_PROCESS"
OURS: Final = {FOLDER_VARIABLE, PROCESS_VARIABLE, "HOME", "PYTHONPATH", "TMPDIR", PATH_VARIABLE}
KITS: Final = "kits"
START_SECONDS: Final = 60
OUTCOME_SECONDS: Final = 15
"""A job that has ended waits so long for a site that is gone; NVFlare's own patience is 900 s."""
POLL_SECONDS: Final = 0.5
TAIL: Final = 4000

T = TypeVar("T")


class Recipe(Protocol):
    """A job that can be written into a folder, as each of NVFlare's recipes can."""

    def export(self, job_dir: str) -> None:
        """Writes the job's folder, and nothing else, into `job_dir`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunReport:
    """How a job ended.

    Attributes:
        job_id: NVFlare's id for it.
        status: `FINISHED:COMPLETED`; `FINISHED:EXECUTION_EXCEPTION` when the server's code raised;
            `FINISHED:ABNORMAL` also when a site was killed and came back before the end, whatever the
            server's code made of it; `FINISHED:ABORTED` and others.
        log: what the server and its part of the job wrote meanwhile.
    """

    job_id: str
    status: str
    log: str


class Deployment:
    """A server and its sites; `deployment` makes one and says what the arguments are.

    Attributes:
        folder: the deployment's.
        sites: the sites' names.
        port: the server's, on 127.0.0.1.
    """

    def __init__(
        self,
        folder: Path,
        *,
        sites: Sequence[str],
        environment: Mapping[str, Mapping[str, str]] | None = None,
        code: Code = Code.OF_THE_SITE,
        through: Callable[[int], Sequence[int]] | None = None,
    ):
        if find_spec("nvflare") is None:
            raise MissingExtraError(package="nvflare", extra="nvflare")
        self.folder = folder.resolve()
        self.sites = checked_sites(sites)
        self._own_environment = _checked_environment(environment or {}, {*self.sites, SERVER})
        if shlex.quote(str(self.folder)) != str(self.folder):
            raise ParameterError(
                "the folder's path has a space or another character that a shell would read, and NVFlare "
                "splits its commands there; choose a folder with a plain path"
            )
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._code = code
        self._socket = reserve_port()
        self.port = int(self._socket.getsockname()[1])
        self._through = through
        temporary = self.folder / "tmp"
        temporary.mkdir(exist_ok=True)
        self._environment = environment_of(self.folder, without="NVFL") | {
            "TMPDIR": str(temporary),
            PATH_VARIABLE: "1",
            "NVFLARE_CLIENT_OUTCOME_WAIT_TIMEOUT": str(OUTCOME_SECONDS),
        }
        self._guard: subprocess.Popen[bytes] | None = None
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._log_starts: dict[str, int] = {}
        self._jobs: dict[str, int] = {}
        self._exports = 0

    # Jobs

    def run(self, job: Recipe | Path, *, seconds: float) -> RunReport:
        """Submits a job and waits for its end.

        Raises:
            TimeoutError: it did not end in `seconds`; the logs' ends are in the text.
            RuntimeError: the server does not take it; NVFlare's reason is in the text.
        """
        return self.finish(self.begin(job), seconds=seconds)

    def begin(self, job: Recipe | Path) -> str:
        """Submits a job; returns its id. It starts some 8 s later.

        Args:
            job: a recipe, or the folder of a job, which is submitted as it is. The code that a recipe brings
                is left out where the sites run their own: what it names must be importable there.

        Raises:
            RuntimeError: the server does not take it; NVFlare's reason is in the text.
        """
        path = job if isinstance(job, Path) else self._export(job)
        start = len(self.log(SERVER))
        answer = self._ask("job", "submit", "-j", str(path), "--startup-kit", str(self.kit(ADMIN)))
        if answer.error:
            raise self._failed("submitting the job", answer)
        job_id = str(answer.data["job_id"])
        self._jobs[job_id] = start
        return job_id

    def finish(self, job_id: str, *, seconds: float) -> RunReport:
        """Waits for a job's end.

        Raises:
            TimeoutError: it did not end in `seconds`; the logs' ends are in the text.
        """
        answer = self._ask(
            *("job", "wait", job_id, "--startup-kit", str(self.kit(ADMIN))),
            *("--interval", str(POLL_SECONDS), "--timeout", str(max(1, math.ceil(seconds)))),
            seconds=seconds + START_SECONDS,
        )
        if answer.error == "TIMEOUT":
            raise TimeoutError(f"job {job_id} did not end in {seconds:.0f} s\n{self.tails()}")
        # To NVFlare a job that failed is an error, with the job's status in it.
        if (status := answer.data.get("status")) is None:
            raise self._failed("waiting for the job", answer)
        log = self.log(SERVER)[self._jobs.get(job_id, 0) :]
        return RunReport(job_id=job_id, status=str(status), log=log)

    # Sites

    def kit(self, name: str) -> Path:
        """A site's or the server's folder: its startup kit in `startup`, its operator's files in `local`."""
        return self.folder / KITS / PROJECT / "prod_00" / (HOST if name == SERVER else name)

    def kill(self, site: str) -> None:
        """Ends a site and its part of every job as a power cut does: no goodbye.

        The job of a site whose process for it alone has died, NVFlare ends for everybody.
        """
        self._end(self._known(site))

    def start(self, site: str, *, seconds: float = START_SECONDS) -> None:
        """Starts a site that was killed and waits until the server knows it. It is in jobs that begin now.

        Raises:
            ParameterError: it is running.
            TimeoutError, RuntimeError: it was not let in; the logs' ends are in the text.
        """
        if self.is_running(site):
            raise ParameterError(f"{site} is running; kill it before it is started again")
        self._spawn(site)
        self._await_site(site, seconds=seconds)

    def is_running(self, site: str) -> bool:
        """Whether a site's process is there."""
        process = self._processes.get(self._known(site))
        return process is not None and process.poll() is None

    # What they said

    def log(self, name: str) -> str:
        """Everything that `server` or a site, and its part of the jobs, wrote."""
        path = self.folder / f"{name}.log"
        return path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""

    def tails(self) -> str:
        """The ends of all logs, for a failure's text."""
        return "\n".join(f"--- {name}\n{self.log(name)[-TAIL:]}" for name in self._processes)

    def until(self, look: Callable[[], T | None], *, seconds: float, what: str) -> T:
        """As `processes.until`, with the logs' ends in the error's text."""
        try:
            return until(look, seconds=seconds, what=what)
        except TimeoutError as error:
            raise TimeoutError(f"{error}\n{self.tails()}") from None

    # Inside

    def open(self) -> None:
        """Starts everything and waits until the server knows all sites."""
        self._guard = start_guard(self.folder)
        self._provision()
        self._spawn(SERVER)
        self._await_server()
        for site in self.sites:
            self._spawn(site)
        for site in self.sites:
            self._await_site(site, seconds=START_SECONDS)

    def close(self) -> None:
        """Ends every process of this deployment."""
        for name in reversed(self._processes):
            self._end(name)
        kill_marked(FOLDER_VARIABLE, str(self.folder))
        if self._guard is not None:
            self._guard.communicate()  # closes its pipe, upon which it ends
        self._socket.close()

    def _provision(self) -> None:
        """Makes everybody's kit, as the coordinator, and settles it, as its operator."""
        ports = [self.port] * len(self.sites) if self._through is None else self._through(self.port)
        if len(ports) != len(self.sites):
            raise ParameterError(
                f"through gave {len(ports)} ports for {len(self.sites)} sites; give each one"
            )
        content = project(port=self.port, ports=dict(zip(self.sites, ports, strict=True)))
        (self.folder / "project.yml").write_text(json.dumps(content), encoding="utf-8")
        answer = self._ask("provision", "-p", "project.yml", "-w", KITS)
        if answer.error:
            raise self._failed("provisioning", answer)
        forget_authority(self.folder / KITS)
        for name in (SERVER, *self.sites):
            settle(self.kit(name), code=self._code, store=self.folder / "store")

    def _known(self, site: str) -> str:
        if site not in self.sites:
            raise ParameterError(f"there is no site {site!r}; there are {', '.join(self.sites)}")
        return site

    def _export(self, recipe: Recipe) -> Path:
        self._exports += 1
        jobs = self.folder / f"job-{self._exports}"
        recipe.export(str(jobs))
        (job,) = jobs.iterdir()
        if self._code is Code.OF_THE_SITE:
            for brought in job.glob("*/custom"):
                shutil.rmtree(brought)
        return job

    def _spawn(self, name: str) -> None:
        own = self._own_environment.get(name, {}) | {PROCESS_VARIABLE: f"{self.folder}:{name}"}
        self._log_starts[name] = len(self.log(name))
        path = self.folder / f"{name}.log"
        path.touch(mode=0o600)
        with path.open("ab") as log:
            self._processes[name] = subprocess.Popen(
                [sys.executable, "-u", *self._command(name)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self.kit(name),
                env=self._environment | own,
                start_new_session=True,
                umask=PRIVATE,
            )

    def _command(self, name: str) -> list[str]:
        """What NVFlare's start script runs, without the loop around it that starts it again."""
        kind = "server" if name == SERVER else "client"
        settings = ["secure_train=true", f"org={PROJECT}", "config_folder=config"]
        if name != SERVER:
            settings.append(f"uid={name}")
        module = f"nvflare.private.fed.app.{kind}.{kind}_train"
        return ["-m", module, "-m", str(self.kit(name)), "-s", f"fed_{kind}.json", "--set", *settings]

    def _await_server(self) -> None:
        """Waits until the server answers on its port; says so when somebody else does."""
        server = self._processes[SERVER]
        self.until(
            lambda: (
                self._listens() or "address already in use" in self.log(SERVER) or server.poll() is not None
            ),
            seconds=START_SECONDS,
            what=f"the server listens on port {self.port}",
        )
        if server.poll() is not None:
            raise RuntimeError(f"the server did not start\n{self.tails()}")
        if not self._listens():
            raise OSError(
                errno.EADDRINUSE,
                f"port {self.port} of this machine was taken by another process; start again",
            )

    def _await_site(self, site: str, *, seconds: float) -> None:
        process, start = self._processes[site], self._log_starts[site]
        self.until(
            lambda: "Successfully registered client" in self.log(site)[start:] or process.poll() is not None,
            seconds=seconds,
            what=f"{site} is known to the server",
        )
        if process.poll() is not None:
            raise RuntimeError(f"{site} did not start\n{self.tails()}")

    def _end(self, name: str) -> None:
        """Ends a process, then what it has detached: alive, it would report its job's end as a failure."""
        process = self._processes[name]
        if process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait(STOP_SECONDS)
        kill_marked(PROCESS_VARIABLE, f"{self.folder}:{name}")

    def _ask(self, *arguments: str, seconds: float = START_SECONDS) -> Answer:
        try:
            return ask(*arguments, folder=self.folder, environment=self._environment, seconds=seconds)
        except TimeoutError as error:
            raise TimeoutError(f"{error}\n{self.tails()}") from None

    def _failed(self, what: str, answer: Answer) -> RuntimeError:
        return RuntimeError(f"{what} failed:\n{answer.said}\n{self.tails()}")

    def _listens(self) -> bool:
        """Whether the port answers under our authority: whoever else listens there does not count."""
        context = ssl.create_default_context(cafile=str(self.kit(SERVER) / "startup" / "rootCA.pem"))
        try:
            with (
                socket.create_connection(("127.0.0.1", self.port), timeout=1) as raw,
                context.wrap_socket(raw, server_hostname=HOST),
            ):
                return True
        except OSError:
            return False


@contextlib.contextmanager
def deployment(
    folder: Path,
    *,
    sites: Sequence[str],
    environment: Mapping[str, Mapping[str, str]] | None = None,
    code: Code = Code.OF_THE_SITE,
    through: Callable[[int], Sequence[int]] | None = None,
) -> Iterator[Deployment]:
    """A server and sites while the block lasts.

    Args:
        folder: for all that they write; holds private keys, so let it be a fresh one of the caller's own.
        sites: their names, at least one, each another: letters, digits, `_` and `-`, at most 63.
        environment: further variables for a site, or for `server`, and for its part of the jobs alone.
        code: whose code runs at the sites.
        through: called with the server's port before anything starts, for the ports on 127.0.0.1 to which the
            sites are to connect in its place, in the order of `sites`: that is how a relay gets between.

    Raises:
        ParameterError: an argument is not one of these.
        MissingExtraError: nvflare is not installed.
        OSError: (EADDRINUSE) the port was taken between two steps; start again.
        RuntimeError, TimeoutError: it did not start; the text has the logs' ends.
    """
    engine = Deployment(folder, sites=sites, environment=environment, code=code, through=through)
    try:
        engine.open()
        yield engine
    finally:
        engine.close()


def _checked_environment(
    environment: Mapping[str, Mapping[str, str]], names: set[str]
) -> dict[str, dict[str, str]]:
    if strange := sorted(environment.keys() - names):
        raise ParameterError(f"environment is for {strange[0]!r}; there are {', '.join(sorted(names))}")
    for name, variables in environment.items():
        if taken := sorted(OURS & variables.keys()):
            raise ParameterError(
                f"environment sets {taken[0]} for {name}, which the deployment sets; leave it out"
            )
    return {name: dict(variables) for name, variables in environment.items()}
