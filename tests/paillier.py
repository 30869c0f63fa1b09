"""PaillierSum has the rooms of CkksSum, but for its scheme: what it repeats waits for the slow tests."""

from pathlib import Path

import pytest


def waits(items: list[pytest.Item], *, under: Path) -> None:
    """Marks the tests under a folder that say in their parameters that PaillierSum is in them."""
    for item in items:
        given = getattr(item, "callspec", None)
        if under in item.path.parents and given is not None and "paillier" in given.id:
            item.add_marker(pytest.mark.slow)
