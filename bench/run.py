"""One run of the suite, as its JSON has it, and how to find a benchmark in it.

A benchmark says what it is in `extra_info`; whatever was not measured is absent, and the reason is a package
that is not installed, or a case that `--quick` left out.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

__all__ = ["NotMeasured", "Run", "least", "ratio"]

NEEDS: Final = {
    "CkksSum": "tenseal",
    "tenseal": "tenseal",
    "tenseal lattice": "tenseal",
    "phe": "phe",
    "flower": "flwr",
}
"""The package without which a protocol, or a kind of benchmark, is not in a run."""


class NotMeasured(LookupError):
    """This run has no such benchmark; the text says why."""


@dataclass(frozen=True, slots=True)
class Run:
    """One run of the suite, as pytest-benchmark wrote it."""

    machine: dict[str, Any]
    benchmarks: tuple[dict[str, Any], ...]

    @classmethod
    def load(cls, path: Path) -> "Run":
        """The run in a file of `--benchmark-json`."""
        data = json.loads(path.read_text(encoding="utf-8"))
        return cls(data["machine_info"], tuple(data["benchmarks"]))

    def all(self, kind: str) -> Iterator[dict[str, Any]]:
        """`extra_info` of each benchmark of a kind, with the minimum of its own clock as `seconds`."""
        for each in self.benchmarks:
            if each["extra_info"].get("kind") == kind:
                yield {**each["extra_info"], "seconds": each["stats"]["min"]}

    def one(self, kind: str, **fields: Any) -> dict[str, Any]:
        """The benchmark of this kind with these fields; `NotMeasured` if there is none."""
        for each in self.all(kind):
            if all(each.get(name) == value for name, value in fields.items()):
                return each
        package = NEEDS.get(fields.get("protocol", kind), "")
        if package and self.machine["packages"].get(package) is None:
            raise NotMeasured(f"{package} is not installed")
        raise NotMeasured("not in this run (--quick)" if self.machine.get("quick") else "not in this run")

    def largest_round(self, protocol: str, *, clients: int) -> dict[str, Any]:
        """The whole round of most parameters."""
        rounds = [e for e in self.all("round") if (e["protocol"], e["clients"]) == (protocol, clients)]
        if not rounds:
            return self.one("round", protocol=protocol, clients=clients)
        return max(rounds, key=lambda each: int(each["parameters"]))


def least(entry: dict[str, Any], contender: str, clock: str = "cpu") -> float:
    """Least seconds a value of a contender in a lap."""
    samples = entry["laps"][contender]
    return float(min(samples[clock])) / int(samples["values"])


def ratio(entry: dict[str, Any], contender: str, other: str, clock: str = "cpu") -> float:
    """How many times the other's time a contender takes, by the value; minima of one interleaved run."""
    return least(entry, contender, clock) / least(entry, other, clock)
