"""What all tests of NVFlare's adapter need: the engine, a fast disk, and a clock that nobody waits for."""

from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("nvflare", reason="the engine is an extra")

from tests.fl_integration.disks import folder_in_memory
from tests.fl_integration.nvflare.loopback import settle
from tests.fl_integration.waiting import Time, put_in


@pytest.fixture
def tmp_path() -> Iterator[Path]:
    """For states that are forced to the disk with every message."""
    with folder_in_memory() as folder:
        yield folder


@pytest.fixture(autouse=True)
def time(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Time:
    """The clock of every SecureClients of a test, which waits for all calls that went out."""
    return put_in(Time(settle), request, monkeypatch)
