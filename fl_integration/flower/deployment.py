"""Flower's own engine on this machine: real processes that talk over TLS.

    with deployment(folder, nodes=3) as engine:
        report = engine.run(Apps(server="package.module:app", client="package.module:app"), seconds=120)

A SuperLink, `nodes` SuperNodes on free ports, one federation, each SuperNode known by its key. All that they
write is in `folder`: certificates, keys, logs, Flower's home. The apps are named by module and attribute and
imported from where this library lies; they find `folder` in the environment (`FOLDER_VARIABLE`), where they
may leave files, which is how whoever started them knows that a round is under way (`until`).

Flower is told to stay offline: it sends nothing about its use, asks for no newer version, and installs
nothing for an app (its SuperLink runs uv for each app otherwise, even for one that depends on nothing).

Nothing outlives the `with` block, and nothing is written elsewhere; `processes` says how.
"""

import contextlib
import json
import os
import re
import shlex
import signal
import socket
import ssl
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from functools import partial
from pathlib import Path
from typing import Final, TypeVar

from fl_integration.flower.bundle import Apps, Value, write_bundle
from fl_integration.loopback.certificates import write_certificates, write_node_keys
from fl_integration.loopback.processes import (
    FOLDER_VARIABLE,
    STOP_SECONDS,
    EngineFailedError,
    environment_of,
    home_of,
    kill_marked,
    reserve_port,
    script,
    start_guard,
    until,
)
from fl_integration.loopback.scratch import held_signals

__all__ = ["FOLDER_VARIABLE", "Admission", "Apps", "Deployment", "RunReport", "deployment", "until"]

NODE_VARIABLE: Final = "SECAGG_NODE"
CONNECTION: Final = "here"
START_SECONDS: Final = 60
REJOIN_SECONDS: Final = 120
"""A killed SuperNode counts as online for up to 60 s more, and its key is refused for so long."""
RESTART_SECONDS: Final = 1.0
SHOW_SECONDS: Final = 10
ONLINE: Final = "SuperNode ID:"
"""What a SuperNode says once it is let in."""
TAIL: Final = 4000

T = TypeVar("T")


class Admission(Enum):
    """Which SuperNodes the SuperLink lets in."""

    BY_KEY = auto()
    """Those whose public key was registered; a node keeps its id over a restart."""
    ANYONE = auto()
    """Everybody, under a key made at each start and with a new id each time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunReport:
    """How a run ended.

    Attributes:
        run_id: Flower's number for it.
        status: `finished:completed`, `finished:failed`, `finished:stopped`.
        log: what the ServerApp logged and printed.
    """

    run_id: int
    status: str
    log: str


class Deployment:
    """A SuperLink and its SuperNodes; `deployment` makes one. Nodes are numbered from 0."""

    def __init__(
        self,
        folder: Path,
        *,
        node_configs: Sequence[Mapping[str, Value]],
        admission: Admission,
        environment: Mapping[str, str],
        through: Callable[[int], Sequence[int]] | None,
        port: int,
    ):
        self.folder = folder.resolve()
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._admission, self._node_configs = admission, tuple(node_configs)
        nodes = range(len(self._node_configs))
        self._sockets = [reserve_port(port), *(reserve_port() for _ in nodes)]
        self._link_port, *self._node_ports = (each.getsockname()[1] for each in self._sockets)
        self._through = through
        self._ways = [self._link_port for _ in nodes]
        self._authority, self._certificate, self._key = write_certificates(self.folder)
        self._node_keys = [write_node_keys(self.folder, name=f"node-{node}") for node in nodes]
        self._environment = _environment(self.folder) | dict(environment)
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._log_starts: dict[str, int] = {}
        self._started: dict[int, float] = {}
        self._runs: list[int] = []

    # Runs

    def run(self, apps: Apps, *, seconds: float) -> RunReport:
        """Starts a run and waits for its end.

        Raises:
            TimeoutError: it did not end in `seconds`; the logs' ends are in the text.
        """
        return self.finish(self.begin(apps), seconds=seconds)

    def begin(self, apps: Apps) -> int:
        """Starts a run; returns its number."""
        app = self.folder / f"app-{len(self._runs) + 1}"
        write_bundle(app, apps)
        answer = json.loads(self._flwr("run", str(app), CONNECTION, "--format", "json"))
        self._runs.append(int(answer["run-id"]))
        return self._runs[-1]

    def finish(self, run_id: int, *, seconds: float) -> RunReport:
        """Waits for a run's end.

        Raises:
            TimeoutError: it did not end in `seconds`; the logs' ends are in the text.
        """
        self.until(lambda: self.has_ended(run_id), seconds=seconds, what=f"the end of run {run_id}")
        listed = json.loads(self._flwr("list", CONNECTION, "--run-id", str(run_id), "--format", "json"))
        status = str(listed["runs"][0]["status"])
        return RunReport(run_id=run_id, status=status, log=self.log(_run_name(run_id)))

    def has_ended(self, run_id: int) -> bool:
        """Whether a run is over; it may be asked often."""
        name = _run_name(run_id)
        if name not in self._processes:  # the log's stream ends with the run
            self._spawn(name, "flwr", ["log", str(run_id), CONNECTION, "--stream"])
        return self._processes[name].poll() is not None

    # Nodes

    def node_id(self, node: int) -> int:
        """The id under which a SuperNode last came online."""
        found = re.findall(r"SuperNode ID: (\d+)", self.log(f"node-{node}"))
        return int(found[-1])

    def kill(self, node: int) -> None:
        """Ends a SuperNode and its apps as a power cut does: no goodbye."""
        self._end(f"node-{node}", signal.SIGKILL)

    def stop(self, node: int) -> None:
        """Ends a SuperNode as its operator does: it tells the SuperLink."""
        self._end(f"node-{node}", signal.SIGTERM)

    def start(self, node: int, *, seconds: float = REJOIN_SECONDS) -> None:
        """Starts a SuperNode, again and again while the SuperLink refuses it, as a supervisor does.

        Raises:
            TimeoutError: it was not admitted in `seconds`.
        """
        end = time.monotonic() + seconds
        while not self._try_node(node):
            if time.monotonic() > end:
                raise TimeoutError(f"node {node} did not come online in {seconds:.0f} s\n{self.tails()}")
            time.sleep(1)

    def revive(self, node: int) -> bool:
        """Starts a SuperNode that is not running, at most once a second; whether it is online.

        It returns at once, so that whoever supervises can do something else meanwhile: ask again.
        """
        name = f"node-{node}"
        if self._processes[name].poll() is not None:
            if time.monotonic() - self._started[node] >= RESTART_SECONDS:
                self._spawn_node(node)
            return False
        return ONLINE in self.log(name)[self._log_starts[name] :]

    def is_running(self, node: int) -> bool:
        """Whether a SuperNode's process is there."""
        return self._processes[f"node-{node}"].poll() is None

    # What they said

    def log(self, name: str) -> str:
        """Everything that `superlink` or `node-0`, … and its apps wrote."""
        path = self.folder / f"{name}.log"
        return path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""

    def tails(self) -> str:
        """The ends of all logs, for a failure's text."""
        for run_id in self._runs:
            if _run_name(run_id) not in self._processes:
                # What is wrong already may be the SuperLink, and then it is its own log that tells.
                with contextlib.suppress(EngineFailedError, TimeoutError):
                    until(partial(self.has_ended, run_id), seconds=SHOW_SECONDS, what="the log")
        return "\n".join(self.tail(name) for name in self._processes if name != "guard")

    def tail(self, name: str) -> str:
        """The end of one log, under its name."""
        return f"--- {name}\n{self.log(name)[-TAIL:]}"

    def until(self, look: Callable[[], T | None], *, seconds: float, what: str) -> T:
        """As `processes.until`, with the logs' ends in the error's text."""
        try:
            return until(look, seconds=seconds, what=what)
        except TimeoutError as error:
            raise TimeoutError(f"{error}\n{self.tails()}") from None

    # Inside

    def open(self) -> None:
        """Starts everything and waits until all nodes are online."""
        self._processes["guard"] = start_guard(self.folder)
        arguments = ["--host", "127.0.0.1", "--port", str(self._link_port), *self._tls()]
        if self._admission is Admission.BY_KEY:
            arguments.append("--enable-supernode-auth")
        link = self._spawn("superlink", "flower-superlink", arguments)
        self.until(
            lambda: self._listens(self._link_port) or link.poll() is not None,
            seconds=START_SECONDS,
            what="the SuperLink listens",
        )
        if link.poll() is not None:
            raise EngineFailedError(
                f"the SuperLink did not start; is port {self._link_port} taken?\n{self.tail('superlink')}"
            )
        if self._through is not None:
            self._ways = list(self._through(self._link_port))
        self._write_connection()
        if self._admission is Admission.BY_KEY:
            for _, public in self._node_keys:
                self._flwr("supernode", "register", str(public), CONNECTION)
        for node in range(len(self._node_ports)):
            self._spawn_node(node)
        for node in range(len(self._node_ports)):
            if not self._joined(node):
                raise EngineFailedError(f"SuperNode {node} did not start\n{self.tail(f'node-{node}')}")

    def close(self) -> None:
        """Ends every process of this deployment."""
        with held_signals():
            self._close()

    def _close(self) -> None:
        for name in reversed([name for name in self._processes if name != "guard"]):
            self._end(name, signal.SIGKILL)
        kill_marked(FOLDER_VARIABLE, str(self.folder))
        if guard := self._processes.pop("guard", None):
            guard.communicate()  # closes its pipe, upon which it ends
        for each in self._sockets:
            each.close()

    def _try_node(self, node: int) -> bool:
        if (process := self._processes.get(f"node-{node}")) is None or process.poll() is not None:
            self._spawn_node(node)
        return self._joined(node)

    def _joined(self, node: int) -> bool:
        """Whether a SuperNode that was just started comes online; False when it gives up."""
        process = self._processes[f"node-{node}"]
        start = self._log_starts[f"node-{node}"]
        until(
            lambda: ONLINE in self.log(f"node-{node}")[start:] or process.poll() is not None,
            seconds=START_SECONDS,
            what=f"node {node} is online or has given up",
        )
        return process.poll() is None

    def _spawn_node(self, node: int) -> None:
        private, _ = self._node_keys[node]
        config = {"partition-id": node, "num-partitions": len(self._node_ports), **self._node_configs[node]}
        arguments = ["--superlink", f"127.0.0.1:{self._ways[node]}"]
        arguments += ["--root-certificates", str(self._authority)]
        arguments += ["--host", "127.0.0.1", "--port", str(self._node_ports[node]), *self._tls()]
        arguments += ["--node-config", " ".join(f"{key}={json.dumps(config[key])}" for key in config)]
        if self._admission is Admission.BY_KEY:
            arguments += ["--auth-supernode-private-key", str(private)]
        self._started[node] = time.monotonic()
        self._spawn(f"node-{node}", "flower-supernode", arguments)

    def _spawn(self, name: str, command: str, arguments: list[str]) -> subprocess.Popen[bytes]:
        environment = self._environment | {NODE_VARIABLE: f"{self.folder}:{name}"}
        self._log_starts[name] = len(self.log(name))
        with (self.folder / f"{name}.log").open("ab") as log:
            self._processes[name] = subprocess.Popen(
                [script(command), *arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self.folder,
                env=environment,
                start_new_session=True,
            )
        return self._processes[name]

    def _end(self, name: str, how: signal.Signals) -> None:
        """Signals a process and its group, waits, and ends what is left of it."""
        process = self._processes[name]
        if process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, how) if how is signal.SIGKILL else process.send_signal(how)
            try:
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        kill_marked(NODE_VARIABLE, f"{self.folder}:{name}")

    def _flwr(self, *arguments: str, seconds: float = START_SECONDS) -> str:
        """What Flower's command line says; an error with its words, and the logs' ends, when it fails."""
        try:
            done = self._call(*arguments, seconds=seconds)
        except subprocess.TimeoutExpired:
            raise EngineFailedError(
                f"flwr {shlex.join(arguments)} did not end in {seconds:.0f} s\n{self.tail('superlink')}"
            ) from None
        if done.returncode:
            said = f"{done.stdout}{done.stderr}"
            raise EngineFailedError(f"flwr {shlex.join(arguments)} failed:\n{said}\n{self.tails()}")
        return done.stdout

    def _call(self, *arguments: str, seconds: float = START_SECONDS) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [script("flwr"), *arguments],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=seconds,
            cwd=self.folder,
            env=self._environment,
            check=False,
        )

    def _tls(self) -> list[str]:
        return [
            *("--ssl-ca-certfile", str(self._authority)),
            *("--ssl-certfile", str(self._certificate), "--ssl-keyfile", str(self._key)),
        ]

    def _write_connection(self) -> None:
        """Flower's command line reads where the SuperLink is from a file in its home."""
        text = (
            f'[superlink]\ndefault = "{CONNECTION}"\n\n[superlink.{CONNECTION}]\n'
            f'address = "127.0.0.1:{self._link_port}"\n'
            f"root-certificates = {json.dumps(str(self._authority))}\n"
        )
        (home_of(self.folder) / "config.toml").write_text(text, encoding="utf-8")

    def _listens(self, port: int) -> bool:
        """Whether a port answers under our authority: whoever else listens there does not count."""
        context = ssl.create_default_context(cafile=str(self._authority))
        try:
            with (
                socket.create_connection(("127.0.0.1", port), timeout=1) as raw,
                context.wrap_socket(raw, server_hostname="localhost"),
            ):
                return True
        except OSError:
            return False


@contextlib.contextmanager
def deployment(
    folder: Path,
    *,
    nodes: int = 3,
    node_configs: Sequence[Mapping[str, Value]] | None = None,
    admission: Admission = Admission.BY_KEY,
    environment: Mapping[str, str] | None = None,
    through: Callable[[int], Sequence[int]] | None = None,
    port: int = 0,
) -> Iterator[Deployment]:
    """A SuperLink and SuperNodes while the block lasts.

    Args:
        folder: for all that they write; holds private keys, so let it be a fresh one of the test's own.
        nodes: SuperNodes, at least one; node i has `partition-id` i in its `context.node_config`.
        node_configs: what each node has in there besides, in place of `nodes`.
        admission: whom the SuperLink lets in.
        environment: further variables for all processes.
        through: called with the SuperLink's port once that listens, for the ports on 127.0.0.1 to which the
            nodes are to connect in its place, one for each: that is how a relay gets between.
        port: the SuperLink's, in [1, 65535]; 0 takes one that is free.

    Raises:
        ParameterError: the port is taken; nothing was started.
        EngineFailedError, TimeoutError: it did not start; the text has the logs' ends.
    """
    engine = Deployment(
        folder,
        node_configs=[{} for _ in range(nodes)] if node_configs is None else node_configs,
        admission=admission,
        environment=environment or {},
        through=through,
        port=port,
    )
    try:
        engine.open()
        yield engine
    finally:
        engine.close()


def _run_name(run_id: int) -> str:
    """The name of a run's log."""
    return f"run-{run_id}"


def _environment(folder: Path) -> dict[str, str]:
    # What a process that is killed had no time to remove goes with the folder.
    temporary = folder / "tmp"
    temporary.mkdir(mode=0o700, exist_ok=True)
    return environment_of(folder, without="FLWR_") | {
        "TMPDIR": str(temporary),
        "FLWR_HOME": str(home_of(folder)),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
        "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "0.1",  # 1 s by default, for which an app waits to be started
    }
