"""Results that are written as they come, and what the JSON of a run says about itself.

After each benchmark the file has all that was measured so far, whole: a run that is killed keeps it.
"""

import os
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import pytest
from pytest_benchmark.utils import safe_dumps

PACKAGES = ("numpy", "cryptography", "gmpy2", "tenseal", "phe", "flwr")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--results", type=Path, help="JSON file that is written anew after each benchmark")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "lengthy: takes many seconds; --quick leaves it out")
    if (path := config.getoption("--results")) is not None:
        config.pluginmanager.register(Results(config, path))


class Results:
    """Writes what was measured so far, in pytest-benchmark's own format, and says how far the run is."""

    def __init__(self, config: pytest.Config, path: Path) -> None:
        self._config, self._path = config, path
        self._done = self._all = 0
        self._machine: dict[str, Any] | None = None

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        self._all = len(session.items)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when != "call":
            return
        self._done += 1
        terminal: Any = self._config.pluginmanager.get_plugin("terminalreporter")
        name = report.nodeid.rpartition("/")[2]
        terminal.write_line(
            f"{self._done:3} of {self._all}  {report.duration:6.1f} s  {report.outcome}  {name}"
        )
        self._write()

    def _write(self) -> None:
        measured: Any = self._config._benchmarksession  # type: ignore[attr-defined]  # where the plugin keeps it
        if self._machine is None:
            self._machine = measured.get_machine_info()
        found = self._config.hook.pytest_benchmark_generate_json(
            config=self._config,
            benchmarks=measured.benchmarks,
            include_data=True,
            machine_info=self._machine,
            commit_info={},
        )
        beside = self._path.with_suffix(".part")
        beside.write_text(safe_dumps(found, indent=1), encoding="utf-8")
        os.replace(beside, self._path)


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
