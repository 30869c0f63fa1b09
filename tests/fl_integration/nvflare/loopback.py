"""Collab in one process: real apps, proxies and dispatch, NVFlare's own bytes; sites fail when told to.

Each call and each answer goes through FOBS, and through the code that takes a call at a site, so that what a
function sees is what it would see over a link, and what comes back is what NVFlare would send. A site keeps
its app from call to call, as its job's process does.
"""

import json
import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nvflare.apis.fl_constant import FLContextKey
from nvflare.apis.fl_context import FLContext
from nvflare.apis.signal import Signal
from nvflare.apis.workspace import Workspace
from nvflare.collab import collab
from nvflare.collab.api._invocation import _InvocationDispatcher
from nvflare.collab.api.app import ClientApp, ServerApp
from nvflare.collab.api.constants import FL_CONTEXT_PROP
from nvflare.collab.api.context import get_call_context, set_call_context
from nvflare.collab.api.exceptions import CollabCallError
from nvflare.collab.api.proxy import Proxy
from nvflare.collab.runtime.defs import CallHeaderKey, CallReplyKey, ObjectCallKey
from nvflare.collab.runtime.dispatch import _call_app_method
from nvflare.fuel.f3.cellnet.utils import new_cell_message
from nvflare.fuel.utils import fobs

JOB = "job-1"
SERVER = "server"
DISPATCH = "collab_group_dispatch"
"""The name of NVFlare's threads that hand calls out."""
_LOG = logging.getLogger("loopback")


class Main:
    """A server object as Collab wants one; the tests run inside of its context."""

    @collab.main
    def main(self) -> None:
        """Nothing: the test is what runs."""


@dataclass
class Site:
    """A site's process, and what goes wrong with it.

    Attributes:
        app: NVFlare's, around the client's object.
        deaf: whether the nth call does not arrive.
        mute: whether the answer to the nth call does not leave.
        error: what NVFlare says instead of an answer, if it does.
        caller: who NVFlare says calls.
    """

    app: ClientApp
    deaf: Callable[[int], bool] = lambda nth: False
    mute: Callable[[int], bool] = lambda nth: False
    error: Callable[[int], Exception | None] = lambda nth: None
    caller: str = SERVER
    received: int = 0


@dataclass
class Loopback:
    """A job over sites in this process.

    Attributes:
        folder: the sites' workspaces lie in here.
        sites: by name.
        sent: every call that reached a site, in order: (site, its arguments, the answer's payload).
        tamper: may change the arguments of a call on its way: `tamper(site, arguments)`.
        forge: may change an answer on its way back: `forge(site, payload)`.
    """

    folder: Path
    sites: dict[str, Site] = field(default_factory=dict)
    sent: list[tuple[str, dict[str, Any], Any]] = field(default_factory=list)
    tamper: Callable[[str, dict[str, Any]], dict[str, Any]] = lambda site, arguments: arguments
    forge: Callable[[str, Any], Any] = lambda site, payload: payload
    abort: Signal = field(default_factory=Signal)

    def join(
        self, name: str, client: Any, *, simulated: bool = True, config: Any = None, **props: Any
    ) -> Site:
        """A site with this client's object; whatever was there of this name is gone."""
        root = self.folder / "workspaces" / name
        for each in ("startup", "local", f"{JOB}/app_{name}/config"):
            (root / each).mkdir(parents=True, exist_ok=True)
        written = {"executors": []} if config is None else config
        (root / JOB / f"app_{name}" / "config" / "config_fed_client.json").write_text(json.dumps(written))
        app, context = ClientApp(client), FLContext()
        app.name = name
        context.set_prop(FLContextKey.CURRENT_RUN, JOB)
        if simulated:
            context.set_prop(FLContextKey.SIMULATE_MODE, True, private=True, sticky=True)
        app.update_props(props)
        app.set_prop(FL_CONTEXT_PROP, context)
        app._workspace, app._abort_signal = Workspace(str(root), name), self.abort
        self.sites[name] = Site(app)
        return self.sites[name]

    @contextmanager
    def main(self) -> Iterator[None]:
        """Inside of `@collab.main`, over the sites that joined."""
        server = ServerApp(Main())
        server.name = SERVER
        proxies = [self._proxy(server, name, site.app) for name, site in self.sites.items()]
        mine = Proxy(server, SERVER, SERVER, _Dispatcher(self, ""), {})
        (self.folder / "workspaces" / SERVER / "startup").mkdir(parents=True, exist_ok=True)
        (self.folder / "workspaces" / SERVER / "local").mkdir(exist_ok=True)
        server.setup(Workspace(str(self.folder / "workspaces" / SERVER), SERVER), mine, proxies, self.abort)
        before = get_call_context()
        server.new_context(SERVER, SERVER)
        try:
            yield
        finally:
            settle()
            set_call_context(before)

    def _proxy(self, server: ServerApp, name: str, app: ClientApp) -> Proxy:
        dispatcher = _Dispatcher(self, name)
        interfaces = through_bytes(app.get_collab_interface())
        proxy = Proxy(server, name, name, dispatcher, interfaces.get(""))
        for child, interface in interfaces.items():
            if child:
                proxy.add_child(child, Proxy(server, f"{name}.{child}", "", dispatcher, interface))
        return proxy

    def deliver(self, target: str, method: str, arguments: dict[str, Any]) -> Any:
        """What a site's answer holds, as NVFlare would say it; an exception if it would raise one."""
        name = target.split(".", 1)[0]
        site = self.sites[name]
        nth, site.received = site.received, site.received + 1
        if (error := site.error(nth)) is not None:
            raise CollabCallError(target, method, error)
        if site.deaf(nth):
            return None
        payload = {
            ObjectCallKey.CALLER: site.caller,
            ObjectCallKey.TARGET_NAME: target,
            ObjectCallKey.METHOD_NAME: method,
            ObjectCallKey.ARGS: (),
            ObjectCallKey.KWARGS: self.tamper(name, through_bytes(arguments)),
        }
        request = new_cell_message(
            {
                CallHeaderKey.TARGET_NAME: target,
                CallHeaderKey.METHOD_NAME: method,
                CallHeaderKey.AUTHENTICATED_CALLER: site.caller,
            },
            through_bytes(payload),
        )
        reply = through_bytes(_call_app_method(request, site.app, _LOG).payload)
        self.sent.append((name, arguments, reply))
        return None if site.mute(nth) else self.forge(name, reply)

    def heard(self, name: str) -> list[Any]:
        """What a site answered, in order."""
        return [reply for each, _, reply in self.sent if each == name]


class _Dispatcher(_InvocationDispatcher):
    """A site's proxy sends by this, in the thread that NVFlare hands calls out in."""

    def __init__(self, loopback: Loopback, name: str) -> None:
        super().__init__(loopback.abort)
        self._loopback, self._name = loopback, name

    def call_target_in_group(self, gcc: Any, func_name: str, *args: Any, **kwargs: Any) -> None:
        assert gcc.call_opt.timeout >= 1, "NVFlare's own limit is for whoever sets none"
        try:
            reply = self._loopback.deliver(gcc.target_name, func_name, kwargs)
        except CollabCallError as error:
            gcc.set_exception(error)
            return
        if reply is None:
            return  # it is waited for until somebody's patience ends
        if CallReplyKey.ERROR in reply:
            gcc.set_exception(
                CollabCallError(
                    gcc.target_name,
                    func_name,
                    reply[CallReplyKey.ERROR],
                    cause_type=reply.get(CallReplyKey.ERROR_TYPE),
                    remote_traceback=reply.get(CallReplyKey.ERROR_TRACEBACK),
                )
            )
            return
        gcc.set_result(reply[CallReplyKey.RESULT])


def through_bytes(value: Any) -> Any:
    """The value as it comes out of NVFlare's own encoding."""
    return fobs.loads(fobs.dumps(value))


def settle() -> None:
    """Waits until all calls that went out arrived."""
    for thread in threading.enumerate():
        if thread.name == DISPATCH:
            thread.join()
