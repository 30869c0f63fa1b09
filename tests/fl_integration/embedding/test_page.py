"""EMBEDDING.md holds its examples as they stand, counts their lines, and names tests that there are."""

import asyncio
import re
import ssl
from contextlib import AsyncExitStack

import numpy as np
import pytest
from aiohttp import web

from fl_integration import run_round_async, save_identity, write_roster
from fl_integration.embedding.examples import https
from protocols import Identity, MaskedSum, Roster, RosterVersion, Round, session_id
from secagg.secret import Secret
from tests.fl_integration.embedding import page, test_page_promises
from tests.fl_integration.embedding.pki import Authority


@pytest.mark.parametrize("name", ["threads", "https"])
def test_the_page_has_the_examples_word_for_word(name: str) -> None:
    assert page.example(name) in page.blocks("python")


def test_the_page_counts_their_lines() -> None:
    threads, https = (page.example(name) for name in ("threads", "https"))
    assert f"## Queues between threads: {page.lines(threads)} lines\n" in page.TEXT
    counter, site = page.lines(https, "Counter"), page.lines(https, "take_part", "_length", "_answer")
    assert f"mutual TLS: {counter} lines at the coordinator, {site} at a site\n" in page.TEXT
    (backend,) = page.blocks("python pfl")
    assert f"in {page.lines(backend, 'SecureBackend')} lines" in page.TEXT


def test_each_promise_has_its_test_and_each_test_its_row() -> None:
    rows = re.findall(r"\| `(test_\w+)` \|$", page.TEXT, flags=re.MULTILINE)
    assert len(rows) == len(set(rows))
    assert set(rows) == {name for name in dir(test_page_promises) if name.startswith("test_")}


def test_the_table_of_systems_has_a_row_for_each() -> None:
    rows = re.findall(r"^\| [^|]*`([\w-]+)` \| (\d[\d.]*), (20\d\d-\d\d) \|", page.TEXT, flags=re.MULTILINE)
    assert {name for name, _, _ in rows} == {
        "tensorflow-federated", "pyfate", "syft", "openfl", "appfl", "substra", "pfl", "fluke-fl",
    }  # fmt: skip


def test_a_site_starts_as_the_page_says_and_goes_on_from_its_disk(
    tmp_path, monkeypatch, quick_passwords
) -> None:
    """Basel runs the page's block, twice, with a round behind each; the two others are there all along."""
    monkeypatch.chdir(tmp_path)
    names, password = ("basel", "bern", "zurich"), "correct horse battery"
    identities = {name: Identity.generate(name) for name in names}
    version = RosterVersion(Roster.of(*identities.values()))
    write_roster(version, "roster-1.txt")
    save_identity(identities["basel"], "basel.key", password=password)
    (tmp_path / "log").mkdir()
    authority, own = Authority(tmp_path / "pki"), {}
    for name in names:
        own[name] = authority.site(name)
    (tmp_path / "authority.crt").write_bytes(authority.certificate.read_bytes())
    (tmp_path / "basel.crt").write_bytes(own["basel"]["certificate"].read_bytes())
    (tmp_path / "basel.tls.key").write_bytes(own["basel"]["key"].read_bytes())
    protocol = MaskedSum(max_clients=3, max_weight=1000)
    around = {
        "roster": version.roster,
        "session": session_id(b"heart disease, 2027", version, epoch=0),
    }
    given = {
        "name": "basel",
        "password": password,
        "state_key": Secret(bytes(32)),
        "train": lambda asked: (np.full(asked.length, 0.25), 10),
    }
    (block,) = (each for each in page.blocks("python") if "restore_client(" in each)

    async def scene() -> None:
        async with AsyncExitStack() as stack:
            counter = https.Counter(version.roster, most=1 << 20)
            runner = web.AppRunner(counter.app, shutdown_timeout=0.1)
            await runner.setup()
            stack.push_async_callback(runner.cleanup)
            tls = https.mutual_tls(ssl.Purpose.CLIENT_AUTH, **authority.coordinator())
            await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls).start()
            given["url"] = f"https://127.0.0.1:{runner.addresses[0][1]}"
            for name in names[1:]:
                client = protocol.client(identity=identities[name], **around)
                tls = https.mutual_tls(ssl.Purpose.SERVER_AUTH, **own[name])
                call = https.take_part(
                    client, given["train"], lambda client: None, url=given["url"], tls=tls, most=1 << 20
                )
                stack.callback(asyncio.create_task(call).cancel)
            server = protocol.server(**around)
            for number in range(2):
                room = dict(given)
                exec(compile(block, "EMBEDDING.md", "exec"), room)
                assert (room["state"] is not None) == (number == 1)
                site = asyncio.create_task(room["site"])
                round = Round(number, names, 5)
                outcome = await run_round_async(server, round, counter.exchange, deadline=30)
                assert outcome.contributors == set(names)
                assert np.allclose(outcome.total.mean, 0.25, atol=1e-4)
                site.cancel()
                await asyncio.wait([site])
                room["log"].close()

    asyncio.run(asyncio.wait_for(scene(), 60))
