"""What a protocol only repeats waits for the slow tests.

To the loop lattice is as masked is, and paillier as ckks: who learns the sum is what differs. Where the
clients do is tried at once by the tests of the loop itself, of its faults and of its evaluations; what else
the loop can do is tried at once where the server does.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

REPEATS: Final = {"lattice", "paillier"}
WHERE_CLIENTS_LEARN: Final = {
    "test_asking",
    "test_asynchronous",
    "test_federated",
    "test_faults",
    "test_evaluating",
    "test_side_sums",
    "test_two_at_once",
}
HERE: Final = Path(__file__).parent


@pytest.fixture(scope="module")
def quick_passwords() -> Iterator[None]:
    """Keys under a password that cost no time: scrypt with little of its work; `test_pkcs8` has all of it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fl_integration.site.pkcs8._N", 1 << 8)  # as many bytes as the real one
        patch.setattr("fl_integration.site.pkcs8._P", 1)
        yield


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if HERE not in item.path.parents:
            continue
        later = REPEATS if item.path.stem in WHERE_CLIENTS_LEARN else {*REPEATS, "ckks"}
        given = getattr(item, "callspec", None)
        if given is not None and any(type(each) is str and each in later for each in given.params.values()):
            item.add_marker(pytest.mark.slow)
