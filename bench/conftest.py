"""What the JSON of a run says about itself: the versions it ran with, and the marker of lengthy cases."""

from importlib.metadata import PackageNotFoundError, version
from typing import Any

import pytest

PACKAGES = ("numpy", "cryptography", "gmpy2", "tenseal", "phe", "flwr")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "lengthy: takes many seconds; --quick leaves it out")


def pytest_benchmark_update_machine_info(config: pytest.Config, machine_info: dict[str, Any]) -> None:
    """Adds package versions (None: not installed), and drops the machine's name."""
    machine_info.pop("node", None)
    machine_info["packages"] = {name: _version(name) for name in PACKAGES}
    machine_info["quick"] = _is_quick(config)


@pytest.fixture
def quick(pytestconfig: pytest.Config) -> bool:
    """Whether one sample must do."""
    return _is_quick(pytestconfig)


def _is_quick(config: pytest.Config) -> bool:
    return "lengthy" in config.getoption("markexpr")


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
