"""DEPLOY.md from its first command to its last: four folders for four machines, Flower's own processes."""

import ssl
from contextlib import ExitStack
from pathlib import Path

import pytest

pytest.importorskip("flwr", reason="flwr is not installed")

from fl_integration.embedding.archive import archived, read_archived
from tests.fl_integration.deploying import COORDINATOR, HOSPITALS, blocks, door, machines

pytestmark = [pytest.mark.engine, pytest.mark.xdist_group("engine")]

CONTROL = "/v1/control/list-runs"


def status(port: int, path: str, authority: Path) -> int:
    """What a port says to somebody who shows no credentials at all."""
    import httpx

    trusted = ssl.create_default_context(cafile=str(authority))
    return httpx.post(
        f"https://localhost:{port}{path}",
        headers={"content-type": "application/protobuf", "accept": "application/protobuf"},
        verify=trusted,
        timeout=30,
    ).status_code


def test_the_page_runs_from_its_first_command_to_its_last(tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="torch is not installed")
    _, *commands = blocks()  # the first installs, which this machine has done
    ran: list[str] = []
    with machines(tmp_path) as four, ExitStack() as running:
        for block in commands:
            if "while" in block.where and "link" not in ran:
                four.start(COORDINATOR, "Uvicorn running")
                running.enter_context(door(four))
                ran.append("link")
            if block.where.endswith("while all run") and "nodes" not in ran:
                for name in HOSPITALS:
                    four.start(name, "SuperNode ID:")
                ran.append("nodes")
            four.type(block)
            ran.append(block.where)
        authority = four.folder / COORDINATOR / "authority.crt"
        # What the page warns of: whoever reaches the link may do anything. The door lets nobody through.
        assert status(four.link_port, CONTROL, authority) == 200
        assert status(four.door_port, CONTROL, authority) == 403
        said = four.said[COORDINATOR]
        rounds = [read_archived(path) for path in archived(four.folder / COORDINATOR / "records")]
        assert [each.record.aborted for each in rounds] == ["", ""], said
        assert {each.record.contributors for each in rounds} == {frozenset(HOSPITALS)}
        assert {each.place.version for each in rounds} == {1, 2}
        for line in (
            "opens over version 1 of the roster",
            "opens over version 2",
            "the sum of 3 of 3",
        ):
            assert line in said
        for name in HOSPITALS:
            assert f"{name} enters session" in four.log(name)
            assert "refuses" not in four.log(name)
        for path in four.folder.rglob("*"):
            if path.is_file() and path.suffix in (".key", ".record", ".sealed", ".sqlite", ".npz"):
                assert path.stat().st_mode & 0o077 == 0, path
