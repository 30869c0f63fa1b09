"""See `tests.paillier`."""

from pathlib import Path

import pytest

from tests.paillier import waits


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    waits(items, under=Path(__file__).parent)
