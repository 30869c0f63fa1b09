"""What a protocol only repeats waits for the slow tests.

To the loop lattice is as masked is, and paillier as ckks: who learns the sum is what differs. Where the
clients do is tried at once by the tests of the loop itself, of its faults and of its evaluations; what else
the loop can do is tried at once where the server does.
"""

from pathlib import Path
from typing import Final

import pytest

REPEATS: Final = {"lattice", "paillier"}
WHERE_CLIENTS_LEARN: Final = {
    "test_asynchronous",
    "test_federated",
    "test_faults",
    "test_evaluating",
    "test_side_sums",
    "test_two_at_once",
}
HERE: Final = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if HERE not in item.path.parents:
            continue
        later = REPEATS if item.path.stem in WHERE_CLIENTS_LEARN else {*REPEATS, "ckks"}
        given = getattr(item, "callspec", None)
        if given is not None and any(type(each) is str and each in later for each in given.params.values()):
            item.add_marker(pytest.mark.slow)
