"""Attacks over PaillierSum wait, see `tests.paillier`; on a training they need torch, through Flower flwr."""

from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.paillier import waits

collect_ignore_glob = [] if find_spec("torch") else ["test_d16_*", "test_d17_*", "test_d18_*", "test_d19_*"]
collect_ignore_glob += [] if find_spec("flwr") else ["*_flower.py"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    waits(items, under=Path(__file__).parent)
