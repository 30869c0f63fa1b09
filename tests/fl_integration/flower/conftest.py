"""Needs flwr. What a test changes in the process that Flower shares is put back."""

from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.fl_integration.waiting import Time, put_in

collect_ignore_glob = [] if find_spec("flwr") else ["*.py"]


@pytest.fixture(autouse=True)
def identity_of_this_process() -> Iterator[None]:
    from tests.fl_integration.flower.loopback import identity_put_back

    with identity_put_back():
        yield


@pytest.fixture
def tmp_path() -> Iterator[Path]:
    """For states that are forced to the disk with every message."""
    from tests.fl_integration.disks import folder_in_memory

    with folder_in_memory() as folder:
        yield folder


@pytest.fixture(autouse=True)
def time(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Time:
    """The clock of every SecureGrid of a test."""
    return put_in(Time(), request, monkeypatch)
