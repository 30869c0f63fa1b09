"""The page's example over HTTPS: real sockets on this machine, TLS from both sides, saved states."""

import asyncio
import ssl
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from hashlib import sha256

import aiohttp
import numpy as np
import pytest
from aiohttp import web

from fl_integration import SqliteReleaseLog, run_round_async
from fl_integration.embedding.examples import https
from fl_integration.site.sealed_folder import SealedFolder
from protocols import Adversary, Identity, MaskedSum, Policy, Requirements, Roster, Round, RoundAborted
from secagg.errors import PeerViolation
from secagg.secret import Secret
from tests.fl_integration.embedding.pki import Authority

NAMES = ("basel", "bern", "zurich")
ONE_MAY_BE_LOST = Requirements(adversary=Adversary.MALICIOUS, dropout_fraction=0.25)
PROTOCOL = MaskedSum(max_clients=4, max_weight=1000, requirements=ONE_MAY_BE_LOST)
MOST = 1 << 20
KEY = Secret(bytes(range(32)))


@pytest.fixture
def authority(tmp_path):
    return Authority(tmp_path / "pki")


class Stage:
    """Who takes part, and the coordinator's counter on a port of this machine."""

    def __init__(self, authority, names=NAMES):
        self.authority = authority
        self.identities = {name: Identity.generate(name) for name in names}
        self.around = {"roster": Roster.of(*self.identities.values()), "session": bytes(16)}
        self.server = PROTOCOL.server(**self.around)
        self.number = -1

    def client(self, name, **policy):
        return PROTOCOL.client(identity=self.identities[name], policy=Policy(**policy), **self.around)

    def tls(self, **files):
        return https.mutual_tls(ssl.Purpose.SERVER_AUTH, **files)

    @asynccontextmanager
    async def open(self, *, most=MOST):
        self.counter = https.Counter(self.around["roster"], most=most)
        runner = web.AppRunner(self.counter.app, shutdown_timeout=0.1)
        await runner.setup()
        tls = https.mutual_tls(ssl.Purpose.CLIENT_AUTH, **self.authority.coordinator())
        site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls)
        await site.start()
        self.url = f"https://127.0.0.1:{runner.addresses[0][1]}"
        try:
            yield
        finally:
            await runner.cleanup()

    @asynccontextmanager
    async def site(self, name, client, train, *, save=lambda client: None, certificate=None):
        tls = self.tls(**self.authority.site(certificate or name))
        call = https.take_part(client, train, save, url=self.url, tls=tls, most=MOST)
        task = asyncio.create_task(call)
        try:
            yield task
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

    async def round(self, *, deadline=30, but=()):
        self.number += 1
        cohort = tuple(name for name in self.identities if name not in but)
        exchange = self.counter.exchange
        return await run_round_async(self.server, Round(self.number, cohort, 5), exchange, deadline=deadline)


def halves(asked):
    return np.full(asked.length, 0.5), 100


async def all_of(stage, stack, *, but=()):
    for name in stage.identities:
        if name not in but:
            await stack.enter_async_context(stage.site(name, stage.client(name), halves))


def run(scene):
    asyncio.run(asyncio.wait_for(scene(), 60))


def test_three_sites_with_states_on_their_disks_sum_twice(authority, tmp_path) -> None:
    stage = Stage(authority)

    async def scene():
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(stage.open())
            for weight, name in enumerate(NAMES, start=1):
                files = SealedFolder(tmp_path / name, key=KEY)
                log = stack.enter_context(SqliteReleaseLog(tmp_path / f"{name}.log"))

                def train(asked, weight=weight):
                    return np.full(asked.length, weight / 8), weight

                def save(client, files=files):
                    files.write("machine", client.export(key=KEY))

                client = stage.client(name, release_log=log)
                await stack.enter_async_context(stage.site(name, client, train, save=save))
            for _ in range(2):
                outcome = await stage.round()
                assert outcome.total.contributors == set(NAMES)
                assert outcome.total.total_weight == 6
                assert np.allclose(outcome.total.mean, 14 / 48, atol=1e-4)

    run(scene)


def test_a_site_goes_on_from_its_disk_in_mid_round(authority, tmp_path) -> None:
    stage, kept = Stage(authority), {}
    log = SqliteReleaseLog(tmp_path / "log")
    trained = []

    def save(client):
        kept["state"] = client.export(key=KEY)

    def ends(client):
        """The process ends when the vector is stored, and before it leaves."""
        save(client)
        if trained:
            raise asyncio.CancelledError

    def train(asked):
        trained.append(asked.round)
        return halves(asked)

    async def scene():
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(stage.open())
            await all_of(stage, stack, but=["bern"])
            round = asyncio.create_task(stage.round())
            first = stage.client("bern", release_log=log)
            async with stage.site("bern", first, train, save=ends) as task:
                with pytest.raises(asyncio.CancelledError):
                    await task
            again = PROTOCOL.restore_client(kept["state"], key=KEY, release_log=log)
            async with stage.site("bern", again, train, save=save):
                outcome = await round
            assert outcome.total.contributors == set(NAMES)
            assert trained == [0]  # the vector that was stored is the one that left

    with log:
        run(scene)


def test_what_fails_at_a_site_costs_nobody_time_and_it_is_there_for_the_next_round(authority, caplog) -> None:
    stage = Stage(authority, (*NAMES, "geneva"))

    def train(asked):
        if asked.round == 0:
            raise OSError("no space left")
        return halves(asked)

    async def scene():
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(stage.open())
            await all_of(stage, stack, but=["geneva"])
            await stack.enter_async_context(stage.site("geneva", stage.client("geneva"), train))
            first = await stage.round(deadline=3600)
            assert first.contributors == set(NAMES)
            assert not first.culprits  # it is silent, and nobody's fault
            assert (await stage.round()).contributors == {*NAMES, "geneva"}

    run(scene)
    assert "this site sits the round out" in caplog.text


def test_another_sites_certificate_does_not_speak_for_this_one(authority) -> None:
    """Bern's machine behind Basel's certificate: refused, and it is Basel's certificate that is named."""
    stage = Stage(authority, (*NAMES, "geneva"))

    async def scene():
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(stage.open())
            await all_of(stage, stack, but=["basel", "bern"])
            site = stage.site("bern", stage.client("bern"), halves, certificate="basel")
            await stack.enter_async_context(site)
            with pytest.raises(RoundAborted, match="in another party's name") as aborted:
                await stage.round(deadline=3600, but=["bern"])
            assert aborted.value.culprits == {"basel"}

    run(scene)


async def posted(stage, tls, path="nothing", data=b""):
    connector = aiohttp.TCPConnector(ssl=tls)
    async with (
        aiohttp.ClientSession(connector=connector) as http,
        http.post(f"{stage.url}/{path}", data=data) as response,
    ):
        return response.status, await response.read()


@pytest.mark.parametrize("names", [("mallory",), ("basel", "bern"), ("Basel",), ("basel ",)])
def test_a_common_name_that_is_no_members_is_turned_away(authority, names) -> None:
    stage = Stage(authority)

    async def scene():
        async with stage.open():
            tls = stage.tls(**authority.site(*names))
            assert (await posted(stage, tls))[0] == 403
            call = https.take_part(
                stage.client("bern"), halves, lambda client: None, url=stage.url, tls=tls, most=MOST
            )
            with pytest.raises(aiohttp.ClientResponseError, match="403"):  # it does not call for ever
                await call

    run(scene)


def test_without_a_certificate_of_the_authority_there_is_no_connection(authority, tmp_path) -> None:
    stage, stranger = Stage(authority), Authority(tmp_path / "strangers")
    none = ssl.create_default_context(ssl.Purpose.SERVER_AUTH, cafile=authority.certificate)
    forged = stage.tls(**{**stranger.site("basel"), "authority": authority.certificate})
    old = stage.tls(**authority.site("basel"))
    old.minimum_version, old.maximum_version = ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_2
    coordinators = stage.tls(**authority.coordinator())  # which is for a server alone

    async def scene():
        async with stage.open():
            for tls in (none, forged, old, coordinators):
                with pytest.raises(aiohttp.ClientError):
                    await posted(stage, tls)

    run(scene)


def test_a_site_does_not_talk_to_a_coordinator_of_another_authority(authority, tmp_path) -> None:
    stage, stranger = Stage(authority), Authority(tmp_path / "strangers")

    async def scene():
        async with stage.open():
            tls = stage.tls(**{**authority.site("basel"), "authority": stranger.certificate})
            with pytest.raises(aiohttp.ClientConnectorCertificateError):
                await posted(stage, tls)

    run(scene)


def test_a_reply_names_its_message_and_a_late_one_is_left_aside(authority) -> None:
    stage = Stage(authority)

    async def scene():
        async with stage.open():
            tls = stage.tls(**authority.site("basel"))
            first = stage.counter.exchange({"basel": b"first"})
            waiting = asyncio.create_task(anext(first))
            assert await posted(stage, tls) == (200, b"first")
            assert await posted(stage, tls) == (200, b"first")  # the answer was lost: it is given again
            waiting.cancel()
            second = stage.counter.exchange({"basel": b"second"})
            waiting = asyncio.create_task(anext(second))
            await asyncio.sleep(0)
            late = sha256(b"first").hexdigest()
            assert await posted(stage, tls, late, b"late") == (200, b"second")
            assert not waiting.done()
            call = asyncio.create_task(posted(stage, tls, sha256(b"second").hexdigest(), b"reply"))
            assert await waiting == ("basel", b"reply")
            call.cancel()

    run(scene)


def test_a_body_beyond_what_was_agreed_is_refused_on_both_sides(authority) -> None:
    stage = Stage(authority)

    async def scene():
        async with stage.open(most=1000):
            tls = stage.tls(**authority.site("basel"))
            assert (await posted(stage, tls, data=bytes(1001)))[0] == 413
            waiting = asyncio.create_task(anext(stage.counter.exchange({"basel": bytes(1001)})))
            call = https.take_part(
                stage.client("basel"), halves, lambda client: None, url=stage.url, tls=tls, most=1000
            )
            with pytest.raises(PeerViolation, match="more than 1000 bytes"):
                await call
            waiting.cancel()

    run(scene)


def test_a_site_calls_again_when_the_coordinator_is_away(authority, monkeypatch, caplog) -> None:
    monkeypatch.setattr(https, "AGAIN_SECONDS", 0.01)
    stage = Stage(authority)

    async def scene():
        async with stage.open():
            pass
        async with AsyncExitStack() as stack:
            call = await stack.enter_async_context(stage.site("basel", stage.client("basel"), halves))
            while "the coordinator is not reached" not in caplog.text:
                await asyncio.sleep(0.01)
            assert not call.done()

    run(scene)


@asynccontextmanager
async def other_server(stage, answer):
    """Something that is no coordinator, under a coordinator's certificate."""
    app = web.Application()
    app.router.add_post("/{answers}", answer)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    tls = https.mutual_tls(ssl.Purpose.CLIENT_AUTH, **stage.authority.coordinator())
    await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls).start()
    stage.url = f"https://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield
    finally:
        await runner.cleanup()


def test_a_message_that_breaks_off_is_asked_for_again(authority, monkeypatch) -> None:
    monkeypatch.setattr(https, "AGAIN_SECONDS", 0.01)
    stage, asked = Stage(authority), []
    again = asyncio.Event()

    async def breaks_off(request):
        asked.append(request.match_info["answers"])
        if len(asked) > 1:
            again.set()
        response = web.StreamResponse(headers={"Content-Length": "1000"})
        await response.prepare(request)
        await response.write(bytes(100))
        request.transport.abort()
        return response

    async def scene():
        async with other_server(stage, breaks_off), stage.site("basel", stage.client("basel"), halves):
            await again.wait()

    run(scene)
    assert asked[:2] == ["nothing", "nothing"]


def test_a_site_follows_nobody_elsewhere_and_takes_no_body_without_its_length(authority) -> None:
    stage = Stage(authority)

    async def redirects(request):
        raise web.HTTPTemporaryRedirect("https://127.0.0.1:9/nothing")

    async def endless(request):
        response = web.StreamResponse()
        response.enable_chunked_encoding()
        await response.prepare(request)
        return response

    async def scene():
        for answer in (redirects, endless):
            async with other_server(stage, answer):
                with pytest.raises(PeerViolation, match="no coordinator gives"):
                    async with stage.site("basel", stage.client("basel"), halves) as call:
                        await call

    run(scene)


def test_nothing_leaves_before_it_is_stored(authority) -> None:
    """A disk that is full: the site says nothing, and what it said when there was room again is the same."""
    stage, room = Stage(authority), []
    message = stage.server.start(Round(0, NAMES, 5))["basel"]
    client = stage.client("basel")

    def save(client):
        if not room:
            raise OSError("no space left")
        room.append(client.export(key=KEY))

    assert https._answer(client, message, halves, save) == b""
    room.append(b"")
    assert https._answer(client, message, halves, save) == client.receive(message)
    restored = PROTOCOL.restore_client(room[-1], key=KEY)
    assert restored.receive(message) == client.receive(message)
