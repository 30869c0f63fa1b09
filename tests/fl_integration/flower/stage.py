"""A study of a few sites in one process: apps as users write them, behind the mod, over the loopback grid.

A node's faults are in `Node`, its clock in the conftest: no test waits for time to pass.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp.strategy import FedAvg, Strategy

from fl_integration.embedding.carrier import Patience
from fl_integration.embedding.enrolment import Enrolment
from fl_integration.embedding.parcels import Step as StepHead
from fl_integration.embedding.parcels import decode_head
from fl_integration.flower import SecureGrid, secure_aggregation
from fl_integration.flower.engine import unpack
from protocols import Adversary, Identity, MaskedSum, PlainSum, Requirements, Roster
from tests.fl_integration.flower.loopback import RUN_CONFIG, LoopbackGrid, Node

FIRST_NODE = 100
PATIENCE = Patience(exchange=2.0, hello=2.0, connect=4.0, again=1.0)
PLAIN = PlainSum(max_weight=1000)
MASKED = MaskedSum(max_weight=1000)
OF_FOUR = MaskedSum(max_weight=1000, requirements=Requirements(adversary=Adversary.MALICIOUS))
"""Of four sites one may be lost. At the defaults, where the adversary is another, all four are needed."""
State = Mapping[str, Any]
Step = Callable[[dict[str, Any], Message, Context], tuple[State, dict[str, Any]]]
"""(arrays, message, context) to (new arrays, metrics): what a site's training does."""


def by(step: float, examples: int = 10, **metrics: float) -> Step:
    """A training that moves each floating value by `step`, and leaves the others."""

    def train(arrays: dict[str, Any], message: Message, context: Context) -> tuple[State, dict[str, Any]]:
        moved = {
            name: np.asarray(value + step).astype(value.dtype) if value.dtype.kind == "f" else value
            for name, value in arrays.items()
        }
        return moved, {"num-examples": examples, **metrics}

    return train


def app_of(step: Step, *, mods: Sequence[Any] = (), **metrics: float) -> ClientApp:
    """An app as Flower's users write it; `metrics` is what its evaluation finds."""
    app = ClientApp(mods=list(mods))

    @app.train()
    def train(message: Message, context: Context) -> Message:
        arrays = {name: array.numpy() for name, array in message.content["arrays"].items()}
        new, said = step(arrays, message, context)
        content = RecordDict({"arrays": record_of(new), "metrics": MetricRecord(said)})
        return Message(content, reply_to=message)

    @app.evaluate()
    def evaluate(message: Message, context: Context) -> Message:
        found = {"num-examples": 10, **metrics}
        return Message(RecordDict({"metrics": MetricRecord(found)}), reply_to=message)

    return app


def record_of(state: State) -> ArrayRecord:
    record = ArrayRecord()
    for name, value in state.items():
        record[name] = Array(value)
    return record


def zeros(length: int = 8) -> ArrayRecord:
    return record_of({"w": np.zeros(length, np.float32)})


@dataclass
class Study:
    """Sites a, b, c, … at nodes 100, 101, 102, …

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
    grid: LoopbackGrid = field(default_factory=LoopbackGrid)
    ids: dict[str, Identity] = field(default_factory=dict)
    rosters: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in self.names:
            self.ids[name] = Identity.generate(name)
        self.roster: Any = Roster.of(*self.ids.values())
        for place, name in enumerate(self.names):
            self.join(name, FIRST_NODE + place, by(0.1 * (place + 1), 10 * (place + 1)))

    def enrol(self, name: str, context: Context) -> Enrolment:
        roster = self.rosters.get(name, self.roster)
        return Enrolment(identity=self.ids[name], roster=roster, state_dir=self.folder / name, **self.enrols)

    def mod(self, name: str, **others: Any) -> Any:
        given = {"evaluate_metrics": self.evaluate_metrics, **others}
        return secure_aggregation(self.protocol, partial(self.enrol, name), **given)

    def join(self, name: str, node: int, step: Step, **metrics: float) -> Node:
        """A node with this site's identity; whatever stood there is gone."""
        self.grid.nodes[node] = Node(app_of(step, mods=[self.mod(name)], **metrics), context_of(node))
        return self.grid.nodes[node]

    def node(self, name: str) -> Node:
        return self.grid.nodes[FIRST_NODE + self.names.index(name)]

    def secure(self, strategy: Strategy, **others: Any) -> SecureGrid:
        given = {
            "roster": self.roster,
            "strategy": strategy,
            "patience": PATIENCE,
            "evaluate_metrics": self.evaluate_metrics,
            **others,
        }
        return SecureGrid(self.grid, self.protocol, **given)

    def run(
        self,
        strategy: Strategy | None = None,
        arrays: ArrayRecord | None = None,
        rounds: int = 1,
        **others: Any,
    ) -> Any:
        """What the strategy's `start` gives."""
        strategy = average() if strategy is None else strategy
        secure = self.secure(strategy, **others)
        return strategy.start(
            grid=secure, initial_arrays=zeros() if arrays is None else arrays, num_rounds=rounds
        )

    def heard(self, node: int) -> list[Message]:
        """What was answered from a node, in order."""
        return [answer for each, _, answer in self.grid.sent if each == node and answer is not None]


def average(**others: Any) -> FedAvg:
    return FedAvg(**{"min_available_nodes": 3, "min_train_nodes": 3, "fraction_evaluate": 0.0, **others})


def context_of(node: int) -> Context:
    return Context(1, node, {}, RecordDict(), dict(RUN_CONFIG))


def said(answers: Sequence[Message]) -> bytes:
    """All bytes that left a node in these answers, its own records' and the engine's words."""
    found = b""
    for answer in answers:
        if answer.has_error():
            found += str(answer.error.reason).encode()
            continue
        for record in answer.content.values():
            for value in record.values():
                found += (
                    value.data if isinstance(value, Array) else value if isinstance(value, bytes) else b""
                )
                found += b"" if isinstance(value, Array | bytes) else re.sub(r"\s", " ", str(value)).encode()
    return found


def four(**others: Any) -> FedAvg:
    return average(min_available_nodes=4, min_train_nodes=4, **others)


def mean_of(*names: str) -> float:
    """What a round moves the arrays by, if these sites are in it."""
    weights = {name: 10 * (1 + "abcd".index(name)) for name in names}
    return sum(0.01 * weight * weight for weight in weights.values()) / sum(weights.values())


def near(expected: float) -> Any:
    return pytest.approx(expected, abs=2e-4)


def moved(result: Any) -> float:
    """How far a training got; 0 if no round ended with a sum."""
    return float(result.arrays["w"].numpy().mean()) if result.arrays else 0.0


def steps(study: Study, node: int) -> list[Message]:
    """The messages of the rounds, greetings left out, that reached a node."""
    return [
        message
        for each, message, _ in study.grid.sent
        if each == node and isinstance(decode_head(unpack(message.content).head), StepHead)
    ]
