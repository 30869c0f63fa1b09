"""The page on deployment as something that runs: its blocks, four folders for four machines, and the door.

A block says in its first line on which machines it is typed. What systemd does on a machine, `Machines.start`
does here; what nginx does on the coordinator's, `door` does, with the same two rules.
"""

import contextlib
import os
import re
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from fl_integration.loopback.processes import environment_of, kill_marked, reserve_port, start_guard, until
from tests.fresh import ROOT

PAGE: Final = ROOT / "fl_integration" / "DEPLOY.md"
HOSPITALS: Final = ("cleveland", "budapest", "longbeach")
COORDINATOR: Final = "coordinator"
BLOCK_SECONDS: Final = 240
START_SECONDS: Final = 60
FLEET: Final = "/v1/fleet/"


@dataclass(frozen=True)
class Block:
    """Commands of the page.

    Attributes:
        where: who types them, and what is running then: the first line, a comment.
        commands: the rest.
    """

    where: str
    commands: str

    @property
    def machines(self) -> tuple[str, ...]:
        who = self.where.split(",")[0]
        groups = {"all": (COORDINATOR, *HOSPITALS), "each hospital": HOSPITALS}
        return groups.get(who, (who,))


def fenced(kind: str) -> list[str]:
    """What stands in the page's blocks of a kind, in order."""
    return re.findall(rf"```{kind}\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL)


def blocks() -> list[Block]:
    """The page's commands, in order."""
    found = []
    for text in fenced("sh"):
        first, commands = text.split("\n", 1)
        found.append(Block(first.removeprefix("# "), commands))
    return found


def settings() -> dict[str, str]:
    """What the page says is in `secagg.env`."""
    return dict(line.split("=", 1) for line in fenced("ini")[0].splitlines())


@dataclass
class Machines:
    """Four folders under one, and the processes that are theirs."""

    folder: Path
    said: dict[str, str] = field(default_factory=dict)
    _processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    _sockets: list[Any] = field(default_factory=list)
    _environments: dict[str, dict[str, str]] = field(default_factory=dict)

    def open(self) -> None:
        self._sockets = [reserve_port() for _ in range(5)]
        self.door_port, self.link_port, *nodes = (each.getsockname()[1] for each in self._sockets)
        common = environment_of(self.folder, without="FLWR_")
        common["FLWR_SUPEREXEC_TASK_POLL_INTERVAL"] = "0.1"  # 1 s by default, for which an app waits
        common["PATH"] = f"{self._command()}{os.pathsep}{common['PATH']}"
        (self.folder / "exchange").mkdir()
        for place, name in enumerate((*HOSPITALS, COORDINATOR)):
            base = self.folder / name
            base.mkdir(mode=0o700)
            here = {
                "SITE": name,
                "PLACE": str(place),
                "COORDINATOR": "localhost",
                "PORT": str(self.door_port),
                "LINK_PORT": str(self.link_port),
                "NODE_PORT": str(nodes[place]) if name != COORDINATOR else "",
                "BASE": str(base),
                "EXCHANGE": str(self.folder / "exchange"),
                "FLWR_HOME": str(base / "flwr"),
            }
            assert here.keys() <= settings().keys(), "the page does not set what is set here"
            self._environments[name] = common | settings() | here
        self._processes["guard"] = start_guard(self.folder)

    def _command(self) -> Path:
        """A folder with the command `secagg` of the tree that runs here, whatever is installed."""
        folder = self.folder / "bin"
        folder.mkdir()
        file = folder / "secagg"
        file.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m fl_integration.command.main "$@"\n')
        file.chmod(0o755)
        return folder

    def close(self) -> None:
        guard = self._processes.pop("guard")
        kill_marked("SECAGG_DEPLOYMENT", str(self.folder))
        for process in self._processes.values():
            process.wait()
        guard.communicate()  # closes its pipe, upon which it ends
        for each in self._sockets:
            each.close()

    def type(self, block: Block) -> dict[str, str]:
        """Runs a block on its machines; what each said."""
        for name in block.machines:
            done = subprocess.run(
                ["bash", "-euo", "pipefail", "-c", f"umask 077\n{block.commands}"],
                cwd=self.folder / name, env=self._environments[name], stdin=subprocess.DEVNULL,
                capture_output=True, text=True, timeout=BLOCK_SECONDS, check=False,
            )  # fmt: skip
            text = f"{done.stdout}{done.stderr}"
            assert done.returncode == 0, f"{name}: {block.commands}\n{text}\n{self.tails()}"
            self.said[name] = self.said.get(name, "") + text
        return {name: self.said[name] for name in block.machines}

    def start(self, name: str, shown: str) -> None:
        """What systemd does with the page's unit: the file `start`, in the machine's folder."""
        log = self.folder / f"{name}.log"
        with log.open("ab") as file:
            self._processes[name] = subprocess.Popen(
                ["/bin/sh", "start"], cwd=self.folder / name, env=self._environments[name],
                stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT, start_new_session=True,
                umask=int(unit()["Service"]["UMask"], 8),
            )  # fmt: skip
        process = self._processes[name]

        def there() -> bool:
            assert process.poll() is None, f"{name} ended\n{self.tails()}"
            return shown in self.log(name)

        until(there, seconds=START_SECONDS, what=f"{name} says {shown!r}; it says {self.log(name)[-2000:]}")

    def log(self, name: str) -> str:
        path = self.folder / f"{name}.log"
        return path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""

    def tails(self) -> str:
        return "\n".join(f"--- {name}\n{self.log(name)[-3000:]}" for name in (COORDINATOR, *HOSPITALS))


@contextlib.contextmanager
def machines(folder: Path) -> Iterator[Machines]:
    """Four machines, without anything on them yet."""
    four = Machines(folder)
    four.open()
    try:
        yield four
    finally:
        four.close()


@contextlib.contextmanager
def door(four: Machines) -> Iterator[None]:
    """What nginx does on the coordinator's machine: what SuperNodes need passes, and nothing else."""
    import httpx
    import uvicorn
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.routing import Route

    base = four.folder / COORDINATOR
    trusted = ssl.create_default_context(cafile=str(base / "authority.crt"))
    behind = httpx.AsyncClient(base_url=f"https://localhost:{four.link_port}", verify=trusted, timeout=60)
    hop = {"host", "connection", "content-length", "transfer-encoding"}

    async def passed(request: Request) -> Response:
        if not request.url.path.startswith(FLEET):
            return Response(status_code=403)
        kept = [(key, value) for key, value in request.headers.items() if key not in hop]
        sent = behind.build_request(
            request.method, request.url.path, headers=kept, content=await request.body()
        )
        answer = await behind.send(sent, stream=True)
        body = b"".join([piece async for piece in answer.aiter_raw()])
        await answer.aclose()
        headers = {key: value for key, value in answer.headers.items() if key not in hop}
        return Response(body, answer.status_code, headers)

    app = Starlette(routes=[Route("/{path:path}", passed, methods=["GET", "POST"])])
    config = uvicorn.Config(
        app, host="127.0.0.1", port=four.door_port, log_level="error", ws="none",
        ssl_certfile=str(base / "server.crt"), ssl_keyfile=str(base / "server.key"),
    )  # fmt: skip
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    try:
        until(lambda: server.started, seconds=START_SECONDS, what="the door is open")
        yield
    finally:
        server.should_exit = True
        thread.join(10)


def unit() -> dict[str, dict[str, str]]:
    """The page's systemd unit: options by section."""
    found: dict[str, dict[str, str]] = {}
    for line in fenced("ini")[1].splitlines():
        if line.startswith("["):
            found[section := line.strip("[]")] = {}
        elif line:
            key, value = line.split("=", 1)
            found[section][key] = value
    return found
