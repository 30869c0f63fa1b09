"""NVFlare's real engine on this machine: its processes, its kits, TLS, a site that is killed, no remains."""

import errno
import json
import os
import re
import socket
import ssl
import stat
from pathlib import Path

import pytest

pytest.importorskip("nvflare", reason="nvflare is not installed")

from nvflare.collab import CollabRecipe

from fl_integration.loopback.processes import FOLDER_VARIABLE
from fl_integration.nvflare.deployment import Deployment, deployment
from secagg.errors import ParameterError
from tests.fl_integration.nvflare import deployment_app as app

SITES = ("cleveland", "va")
JOB_SECONDS = 120


def recipe(*, seconds: float | None = None) -> CollabRecipe:
    made = CollabRecipe("greetings", server=app, client=app, min_clients=len(SITES))
    made.set_server_prop("seconds", seconds)
    return made


def processes_of(folder: Path) -> list[str]:
    mark = os.fsencode(f"{FOLDER_VARIABLE}={folder}")
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            if mark in path.read_bytes().split(b"\0"):
                found.append(path.parent.name)
        except OSError:
            continue  # another's, or gone while we looked
    return found


@pytest.mark.engine
@pytest.mark.xdist_group("engine")
def test_jobs_a_killed_site_and_nothing_left_behind(tmp_path: Path) -> None:
    own = {site: {app.OWN: f"{site}'s own"} for site in SITES}
    with deployment(tmp_path, sites=SITES, environment=own) as engine:
        assert_strangers_stay_outside(engine)

        # Code that a job brings is not run: the job of a stranger's folder is refused as a whole.
        theirs = tmp_path / "theirs"
        recipe().export(str(theirs))
        assert list(theirs.glob("*/*/custom"))  # else nothing is tried
        refused = engine.run(theirs / "greetings", seconds=JOB_SECONDS)
        assert refused.status != "FINISHED:COMPLETED"
        assert "BYOC not permitted" in refused.log
        assert not (tmp_path / app.GREETED.name).exists()

        # A site is killed between two calls of one job. The job goes on without it.
        job = engine.begin(recipe(seconds=5))
        greeted = tmp_path / app.GREETED.name
        assert engine.until(greeted.exists, seconds=JOB_SECONDS, what="all were greeted")
        engine.kill("va")
        assert not engine.is_running("va")
        assert engine.is_running("cleveland")
        (tmp_path / app.GO_ON.name).touch()
        assert engine.finish(job, seconds=JOB_SECONDS).status == "FINISHED:COMPLETED"
        assert json.loads((tmp_path / app.AGAIN.name).read_text()) == [["cleveland"], ["va"]]

        # Started again it is in the next job, with what is its own; and it runs the code installed there.
        engine.start("va")
        with pytest.raises(ParameterError, match="va is running; kill it before it is started again"):
            engine.start("va")
        greeted.unlink()
        assert engine.run(recipe(), seconds=JOB_SECONDS).status == "FINISHED:COMPLETED"
        answers = json.loads(greeted.read_text())
        assert answers == {site: [site, f"{site}'s own", app.__file__] for site in SITES}
        assert "log streaming" not in engine.log("va")  # what a site logs is not sent to the server
        running = processes_of(tmp_path)
    assert running
    assert not processes_of(tmp_path)
    assert_the_keys_are_private(tmp_path)


def assert_strangers_stay_outside(engine: Deployment) -> None:
    """TLS on both sides: who has no certificate of this authority gets no answer."""
    startup = engine.kit("va") / "startup"
    context = ssl.create_default_context(cafile=str(startup / "rootCA.pem"))
    assert answer(engine, context) == b""
    context.load_cert_chain(str(startup / "client.crt"), str(startup / "client.key"))
    assert answer(engine, context).startswith(b"HTTP/1.1")


def answer(engine: Deployment, context: ssl.SSLContext) -> bytes:
    with (
        socket.create_connection(("127.0.0.1", engine.port), timeout=10) as raw,
        context.wrap_socket(raw, server_hostname="localhost") as stream,
    ):
        stream.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        return stream.recv(100)


def assert_the_keys_are_private(folder: Path) -> None:
    files = [path for path in folder.rglob("*") if path.is_file()]
    keys = [path for path in files if re.match(rb"-----BEGIN [A-Z ]*PRIVATE KEY", path.read_bytes())]
    assert not [path for path in files if b"BEGIN PRIVATE" in path.read_bytes() and path.suffix == ".json"]
    assert {path.name for path in keys} == {"client.key", "server.key"}
    assert len(keys) == len(SITES) + 2  # the server's and the administrator's; the authority's is forgotten
    assert not [path for path in keys if stat.S_IMODE(path.stat().st_mode) & 0o077]


@pytest.mark.engine
@pytest.mark.xdist_group("engine")
def test_a_port_that_is_taken_is_named(tmp_path: Path) -> None:
    engine = Deployment(tmp_path, sites=SITES)
    with socket.socket() as squatter:
        squatter.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        squatter.bind(("127.0.0.1", engine.port))
        squatter.listen()
        try:
            with pytest.raises(
                OSError, match=rf"port {engine.port} of this machine was taken by another"
            ) as error:
                engine.open()
        finally:
            engine.close()
    assert error.value.errno == errno.EADDRINUSE
    assert not processes_of(tmp_path)


@pytest.mark.parametrize(
    ("sites", "message"),
    [
        ((), "sites is (); give a tuple of at least one site's name"),
        ("va", "sites is 'va'; give a tuple of at least one site's name"),
        (("va", "va"), "two sites have one name"),
        (("va", "VA"), "two sites have one name; give each another, in more than upper and lower case"),
        (("../va",), "'../va' is no name for a site; letters, digits, '_' and '-' are, at most 63"),
        (("va\n",), "'va\\n' is no name for a site"),
        (("",), "'' is no name for a site"),
        (("-m",), "'-m' is no name for a site"),
        (("v" * 64,), "is no name for a site"),
        ((3,), "3 is no name for a site"),
        (("Server",), "'Server' is no name for a site"),
        (("localhost",), "'localhost' is no name for a site"),
    ],
)
def test_sites_need_names(tmp_path: Path, sites: tuple[str, ...], message: str) -> None:
    with pytest.raises(ParameterError, match=re.escape(message)):
        Deployment(tmp_path / "new", sites=sites)
    assert not (tmp_path / "new").exists()


def test_variables_are_for_somebody_and_not_the_deployments_own(tmp_path: Path) -> None:
    message = "environment is for 'budapest'; there are cleveland, server, va"
    with pytest.raises(ParameterError, match=message):
        Deployment(tmp_path / "new", sites=SITES, environment={"budapest": {}})
    for name in (FOLDER_VARIABLE, "HOME"):
        message = f"environment sets {name} for va, which the deployment sets; leave it out"
        with pytest.raises(ParameterError, match=message):
            Deployment(tmp_path / "new", sites=SITES, environment={"va": {name: "elsewhere"}})


@pytest.mark.parametrize("name", ["a folder", "$(touch x)", "it's"])
def test_a_folder_needs_a_plain_path(tmp_path: Path, name: str) -> None:
    with pytest.raises(
        ParameterError, match="the folder's path has a space or another character that a shell"
    ):
        Deployment(tmp_path / name, sites=SITES)
    assert not (tmp_path / name).exists()


def test_only_sites_are_killed_and_started(tmp_path: Path) -> None:
    engine = Deployment(tmp_path, sites=SITES)
    try:
        for act in (engine.kill, engine.start, engine.is_running):
            with pytest.raises(ParameterError, match="there is no site 'server'; there are cleveland, va"):
                act("server")
    finally:
        engine.close()


def test_every_site_needs_a_port(tmp_path: Path) -> None:
    def none_for_the_last(port: int) -> list[int]:
        assert port > 0
        return [port]

    message = "through gave 1 ports for 2 sites; give each one"
    with (
        pytest.raises(ParameterError, match=message),
        deployment(tmp_path, sites=SITES, through=none_for_the_last),
    ):
        pytest.fail("it has started")
    assert not processes_of(tmp_path)
