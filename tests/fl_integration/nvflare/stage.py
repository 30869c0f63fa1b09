"""A study of a few sites in one process: functions as users write them, behind the published method.

A site's faults are in `Site`, its clock in the conftest: no test waits for time to pass.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from fl_integration.embedding.carrier import Patience
from fl_integration.embedding.enrolment import Enrolment
from fl_integration.embedding.parcels import Step as StepHead
from fl_integration.embedding.parcels import decode_head
from fl_integration.nvflare import SecureClients, secure_aggregation
from protocols import Adversary, Identity, MaskedSum, PlainSum, Requirements, Roster
from tests.fl_integration.nvflare.loopback import Loopback, Site

PATIENCE = Patience(exchange=2.0, hello=2.0, connect=4.0, again=1.0)
PLAIN = PlainSum(max_weight=1000)
MASKED = MaskedSum(max_weight=1000)
OF_FOUR = MaskedSum(max_weight=1000, requirements=Requirements(adversary=Adversary.MALICIOUS))
"""Of four sites one may be lost. At the defaults, where the adversary is another, all four are needed."""
ACCURACY = {"accuracy": (0.0, 1.0)}
Model = Mapping[str, Any]
Step = Callable[[dict[str, Any], dict[str, Any]], tuple[Model, dict[str, Any]]]


def by(step: float, examples: int = 10, **metrics: float) -> Step:
    """A training that moves each floating value by `step`, and leaves the others."""

    def train(model: dict[str, Any], config: dict[str, Any]) -> tuple[Model, dict[str, Any]]:
        rate = config.get("lr", 1.0)
        moved = {
            name: np.asarray(value + rate * step).astype(value.dtype) if value.dtype.kind == "f" else value
            for name, value in model.items()
        }
        return moved, {"num-examples": examples, **metrics}

    return train


def finds(**metrics: float) -> Callable[[dict[str, Any], dict[str, Any]], dict[str, Any]]:
    """An evaluation that always finds these."""
    return lambda model, config: {"num-examples": 10, **metrics}


def zeros(length: int = 8) -> dict[str, Any]:
    return {"w": np.zeros(length, np.float32)}


@dataclass
class Study:
    """Sites a, b, c, … of one job.

    Attributes:
        folder: each site's state lies in a folder of its name in here.
        protocol: of all.
        names: of the sites.
        enrols: further arguments of each site's `Enrolment`.
    """

    folder: Path
    protocol: Any = PLAIN
    names: str = "abc"
    evaluate_metrics: Mapping[str, tuple[float, float]] | None = None
    enrols: dict[str, Any] = field(default_factory=dict)
    ids: dict[str, Identity] = field(default_factory=dict)
    rosters: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.job = Loopback(self.folder)
        for name in self.names:
            self.ids[name] = Identity.generate(name)
        self.roster: Any = Roster.of(*self.ids.values())
        for place, name in enumerate(self.names):
            self.join(name, by(0.1 * (place + 1), 10 * (place + 1)))

    def enrol(self, name: str) -> Enrolment:
        roster = self.rosters.get(name, self.roster)
        return Enrolment(identity=self.ids[name], roster=roster, state_dir=self.folder / name, **self.enrols)

    def door(self, train: Step, **others: Any) -> Any:
        """What a site publishes."""
        given = {"evaluate_metrics": self.evaluate_metrics, "enrol": self.enrol, **others}
        if given["evaluate_metrics"] is not None:
            given.setdefault("evaluate", finds(accuracy=0.5))
        return secure_aggregation(self.protocol, given.pop("enrol"), train=train, **given)

    def join(self, name: str, train: Step, *, joins: Mapping[str, Any] | None = None, **others: Any) -> Site:
        """A site whose functions are these; its process is a new one."""
        return self.job.join(name, SimpleNamespace(secure=self.door(train, **others)), **(joins or {}))

    @contextmanager
    def secure(self, **others: Any) -> Iterator[SecureClients]:
        given = {
            "roster": self.roster,
            "patience": PATIENCE,
            "evaluate_metrics": self.evaluate_metrics,
            **others,
        }
        with self.job.main():
            yield SecureClients(self.protocol, **given)

    def train(self, config: Mapping[str, Any] | None = None, **others: Any) -> Any:
        """What one round of a new server comes to."""
        with self.secure(**others) as secure:
            return secure.train(zeros(), config)

    def steps(self, name: str) -> list[dict[str, Any]]:
        """The calls of the rounds, greetings left out, that reached a site."""
        return [
            call
            for each, call, _ in self.job.sent
            if each == name and isinstance(decode_head(call["secagg_head"]), StepHead)
        ]


def mean_of(*names: str) -> float:
    """What a round moves the model by, if these sites are in it."""
    weights = {name: 10 * (1 + "abcd".index(name)) for name in names}
    return sum(0.01 * weight * weight for weight in weights.values()) / sum(weights.values())


def near(expected: float) -> Any:
    return pytest.approx(expected, abs=2e-4)


def moved(outcome: Any) -> float:
    """How far a round moved a model of zeros."""
    return float(outcome.model["w"].mean())
