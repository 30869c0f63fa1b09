"""The filter pair between NVFlare's own objects: what is ours is a wire, and a workflow that is one loop.

Sites are NVFlare's `ClientRunner` with its chains of filters, contexts, workspaces and FOBS; the tasks are
made, sent and taken as ScatterAndGather and the server's runner do it. Every byte between them goes through
FOBS, and `Wire.seen` holds all of what left a site.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from nvflare.apis.client import Client
from nvflare.apis.dxo import DXO, DataKind, from_shareable
from nvflare.apis.event_type import EventType
from nvflare.apis.executor import Executor
from nvflare.apis.fl_constant import FilterKey, FLContextKey, ReservedKey, ReturnCode
from nvflare.apis.fl_context import FLContext, FLContextManager
from nvflare.apis.shareable import ReservedHeaderKey, Shareable, make_copy, make_reply
from nvflare.apis.workspace import Workspace
from nvflare.app_common.abstract.model import make_model_learnable
from nvflare.app_common.app_constant import AppConstants
from nvflare.app_common.decomposers import numpy_decomposers
from nvflare.fuel.utils import fobs
from nvflare.private.fed.client.client_engine_executor_spec import TaskAssignment
from nvflare.private.fed.client.client_runner import ClientRunner, ClientRunnerConfig, TaskRouter

from fl_integration.nvflare.filters import ModelOpener, UpdateSealer
from fl_integration.nvflare.filters_server import SealedSum
from fl_integration.site.keys import save_identity
from fl_integration.site.roster_file import write_roster
from protocols.identity import Identity, Roster
from protocols.membership import RosterVersion

JOB = "job-1"
PASSWORD = "correct horse battery staple"
SITES = ("site-1", "site-2", "site-3")
CKKS: dict[str, Any] = {"name": "CkksSum", "max_clients": 3, "max_weight": 100, "clip": 4.0}
LATTICE: dict[str, Any] = {
    "name": "LatticeSum",
    "keys": {"name": "PaillierSum", "key_bits": 2048},
    "max_clients": 3,
    "max_weight": 100,
    "clip": 4.0,
}
numpy_decomposers.register()

Train = Callable[[str, DXO], Shareable]


class Engine:
    """What components ask of NVFlare's engine, over a wire of this process."""

    def __init__(self, wire: "Wire", name: str, folder: Path) -> None:
        self.wire, self.name = wire, name
        (folder / "local").mkdir(parents=True)
        (folder / "startup").mkdir()
        app = folder / JOB / f"app_{name}" / "config"
        app.mkdir(parents=True)
        (app / "config_fed_client.json").write_text("{}")
        self.workspace = Workspace(str(folder), site_name=name)
        # No startup kit is here, as in NVFlare's simulator.
        self.manager = FLContextManager(self, name, JOB, private_stickers={FLContextKey.SIMULATE_MODE: True})
        self.handlers: dict[str, Any] = {}
        self.app = app

    def new_context(self) -> FLContext:
        return self.manager.new_context()

    def get_workspace(self) -> Workspace:
        return self.workspace

    def get_clients(self) -> list[Client]:
        return [Client(name, "token") for name in self.wire.there]

    def get_cell(self) -> None:
        return None

    def fire_event(self, event_type: str, fl_ctx: FLContext) -> None:
        return None

    def register_aux_message_handler(self, topic: str, message_handle_func: Any) -> None:
        self.handlers[topic] = message_handle_func

    def send_aux_request(
        self, targets: list[str], topic: str, request: Shareable, timeout: float, fl_ctx: FLContext, **_: Any
    ) -> dict[str, Shareable]:
        return {
            target: self.wire.carry(self.name, target, topic, request)
            for target in targets
            if target == "server" or target in self.wire.there
        }


class Answering(Executor):
    """An executor that trains by a function, and remembers what it was shown."""

    def __init__(self, train: Train) -> None:
        super().__init__()
        self.train, self.shown = train, list[Shareable]()

    def execute(
        self, task_name: str, shareable: Shareable, fl_ctx: FLContext, abort_signal: Any
    ) -> Shareable:
        self.shown.append(shareable)
        return self.train(fl_ctx.get_identity_name(), from_shareable(shareable))


@dataclass
class Site:
    """One site's job process."""

    engine: Engine
    runner: ClientRunner
    executor: Answering
    filters: dict[str, list[Any]]

    def do(self, task: str, data: Shareable, server: FLContext) -> Shareable:
        """NVFlare's own way of a task through the filters and the executor."""
        with self.engine.new_context() as fl_ctx:
            fl_ctx.set_peer_context(server)
            fl_ctx.set_prop(FLContextKey.RUNNER, self.runner, private=True, sticky=False)
            assignment = TaskAssignment(task, "task-1", data)
            reply: Shareable = self.runner._process_task(assignment, fl_ctx)
            return reply

    def tell(self, event: str) -> None:
        with self.engine.new_context() as fl_ctx:
            for each in [*self.filters["data"], *self.filters["result"]]:
                each.handle_event(event, fl_ctx)


def step(site: str, dxo: DXO) -> Shareable:
    """A training that adds the site's number to every float, and counts its steps."""
    number = 1 + SITES.index(site)
    change = {
        name: np.full(np.shape(value), 0.25 * number)
        for name, value in dxo.data.items()
        if np.asarray(value).dtype.kind == "f"
    }
    made = DXO(DataKind.WEIGHT_DIFF, change, {"NUM_STEPS_CURRENT_ROUND": number})
    return made.to_shareable()


@dataclass
class Wire:
    """A server, its sites, and all that passes between them.

    Attributes:
        there: the sites that run the job.
        seen: (from, to, bytes) of each message, as FOBS wrote it.
    """

    there: list[str] = field(default_factory=lambda: list(SITES))
    seen: list[tuple[str, str, bytes]] = field(default_factory=list)
    engines: dict[str, Engine] = field(default_factory=dict)

    def pass_on(self, sender: str, to: str, message: Shareable) -> Shareable:
        data = fobs.dumps(message)
        self.seen.append((sender, to, data))
        passed: Shareable = fobs.loads(data)
        return passed

    def carry(self, sender: str, to: str, topic: str, request: Shareable) -> Shareable:
        arrived, engine = self.pass_on(sender, to, request), self.engines[to]
        if topic not in engine.handlers:
            return make_reply(ReturnCode.TOPIC_UNKNOWN)
        with engine.new_context() as fl_ctx:
            fl_ctx.set_peer_context(self.context_of(sender))
            reply = engine.handlers[topic](topic=topic, request=arrived, fl_ctx=fl_ctx)
        return self.pass_on(to, sender, reply)

    def context_of(self, name: str) -> FLContext:
        peer = FLContext()
        peer.set_public_props(self.engines[name].new_context().get_all_public_props())
        return peer


class _Communicator:
    """Which site a task was made for: here its id says so."""

    def process_task_check(self, task_id: str, fl_ctx: FLContext) -> Any:
        return SimpleNamespace(client=Client(task_id, "token"))


_RUNNER = SimpleNamespace(
    current_wf=SimpleNamespace(controller=SimpleNamespace(communicator=_Communicator()))
)


@dataclass
class Job:
    """A ScatterAndGather job, as one loop."""

    wire: Wire
    server: SealedSum
    sites: dict[str, Site]
    model: dict[str, Any]
    rounds: int = 3
    number: int = 0
    codes: dict[str, str] = field(default_factory=dict)
    accepted: dict[str, bool] = field(default_factory=dict)

    def context(self) -> FLContext:
        fl_ctx = self.wire.engines["server"].new_context()
        learnable = make_model_learnable(self.model, {})
        for key, value in (
            (AppConstants.GLOBAL_MODEL, learnable),
            (AppConstants.CURRENT_ROUND, self.number),
            (AppConstants.NUM_ROUNDS, self.rounds),
            (AppConstants.START_ROUND, 0),
        ):
            fl_ctx.set_prop(key, value, private=True, sticky=False)
        return fl_ctx

    def task(self, shared: Shareable, name: str, *, called: str = "train", claimed: str = "") -> Shareable:
        """The task as the server's runner makes it for one site."""
        data = make_copy(shared)
        data.set_header(AppConstants.CURRENT_ROUND, self.number)
        data.set_header(ReservedHeaderKey.TASK_NAME, called)
        data.set_header(ReservedHeaderKey.TASK_ID, name)
        fl_ctx = self.context()
        fl_ctx.set_prop(FLContextKey.RUNNER, _RUNNER, private=True, sticky=False)
        fl_ctx.set_prop(FLContextKey.TASK_DATA, data, private=True, sticky=False)
        # Whatever a site says of itself here is its own word.
        fl_ctx.set_peer_context(self.wire.context_of(claimed or name))
        self.server.handle_event(EventType.BEFORE_TASK_DATA_FILTER, fl_ctx)
        return data

    def round(
        self,
        *,
        only: tuple[str, ...] = SITES,
        on_the_way: Callable[[str, Shareable], Shareable] = lambda _, each: each,
        coming_back: Callable[[str, Shareable], Shareable] = lambda _, each: each,
    ) -> Shareable:
        """One round of the workflow.

        Args:
            only: the sites that fetch their task.
            on_the_way, coming_back: what becomes of a task, of a result.
        """
        fl_ctx = self.context()
        shared = self.server.learnable_to_shareable(fl_ctx.get_prop(AppConstants.GLOBAL_MODEL), fl_ctx)
        for name in only:
            data = self.wire.pass_on("server", name, on_the_way(name, self.task(shared, name)))
            result = self.sites[name].do("train", data, self.wire.context_of("server"))
            result = self.wire.pass_on(name, "server", coming_back(name, result))
            self.codes[name] = result.get_return_code()
            if self.codes[name] == ReturnCode.OK:
                result.set_peer_props({ReservedKey.IDENTITY_NAME: name})
                self.accepted[name] = self.server.accept(result, fl_ctx)
        ended = self.server.aggregate(fl_ctx)
        self.server.reset(fl_ctx)
        self.number += 1
        return ended


def _chains(tasks: tuple[str, ...], way: str, filters: list[Any]) -> dict[str, list[Any]]:
    """Filters by task, as NVFlare's configurator lays them out."""
    return {task + FilterKey.DELIMITER + way: filters for task in tasks if filters}


@contextmanager
def job(
    folder: Path,
    model: dict[str, Any],
    *,
    protocol: Mapping[str, Any] = CKKS,
    train: Train = step,
    rounds: int = 3,
    data_filters: Callable[[str], list[Any]] | None = None,
    result_filters: Callable[[str], list[Any]] | None = None,
    tasks: tuple[str, ...] = ("train",),
    executor_tasks: tuple[str, ...] = ("train",),
    said: Callable[[str, dict[str, Any]], dict[str, Any]] = lambda _, each: each,
    connect_seconds: float = 0.3,
) -> Iterator[Job]:
    """A job over three sites with keys, rosters and folders of their own."""
    wire = Wire()
    identities = {name: Identity.generate(name) for name in SITES}
    write_roster(RosterVersion(Roster.of(*identities.values())), folder / "roster.txt")
    wire.engines["server"] = Engine(wire, "server", folder / "server")
    sites = {}
    for name, identity in identities.items():
        engine = wire.engines[name] = Engine(wire, name, folder / name)
        save_identity(identity, folder / f"{name}.pem", password=PASSWORD)
        (folder / "password").write_text(PASSWORD)
        (folder / "password").chmod(0o600)
        entry = {
            "identity": f"../../{name}.pem",
            "password-file": "../../password",
            "roster": "../../roster.txt",
            "state": "../state",
        }
        (folder / name / "local" / "secagg.json").write_text(json.dumps(said(name, entry)))
        filters = {
            "data": [ModelOpener(protocol=protocol)] if data_filters is None else data_filters(name),
            "result": [UpdateSealer()] if result_filters is None else result_filters(name),
        }
        router, executor = TaskRouter(), Answering(train)
        router.add_executor(list(executor_tasks), executor)
        runner = ClientRunner(
            {},
            ClientRunnerConfig(
                router,
                {
                    task + FilterKey.DELIMITER + FilterKey.IN: filters["data"]
                    for task in tasks
                    if filters["data"]
                },
                {
                    task + FilterKey.DELIMITER + FilterKey.OUT: filters["result"]
                    for task in tasks
                    if filters["result"]
                },
            ),
            JOB,
            engine,
        )
        sites[name] = Site(engine, runner, executor, filters)
        sites[name].tell(EventType.START_RUN)
    (folder / "server" / "local" / "secagg.json").write_text(json.dumps({"roster": "../../roster.txt"}))
    server = SealedSum(protocol=protocol, connect_seconds=connect_seconds, exchange_seconds=20.0)
    with wire.engines["server"].new_context() as fl_ctx:
        server.handle_event(EventType.START_RUN, fl_ctx)
    made = Job(wire, server, sites, model, rounds=rounds)
    try:
        yield made
    finally:
        for site in sites.values():
            site.tell(EventType.END_RUN)
        with wire.engines["server"].new_context() as fl_ctx:
            server.handle_event(EventType.END_RUN, fl_ctx)
