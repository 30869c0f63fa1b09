"""A study whose clients learn the sum, driven round by round, so that a test may break something in between.

CkksSum stands for its kin, for its rounds cost the least; the slow tests run the others.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, RecordDict
from flwr.serverapp.strategy import FedAvg

from fl_integration.embedding import rounds
from fl_integration.embedding.carrier import Patience
from fl_integration.embedding.coordinator import Coordinator
from fl_integration.embedding.held_model import _Answering
from fl_integration.flower import SecureGrid, SiteModel, secure_aggregation, site_model
from fl_integration.loop.optimisers import FedAvg as Plain
from fl_integration.loop.optimisers import ServerOptimiser
from fl_integration.vectors.vectorise import manifest_of
from protocols import CkksSum, LatticeSum, PaillierSum, Rounding
from protocols.interface import Sum
from tests.fl_integration.flower.loopback import Node
from tests.fl_integration.flower.stage import FIRST_NODE, State, Study, app_of, average, context_of, record_of

SHAPE: dict[str, Any] = {"max_clients": 6, "max_weight": 100, "rounding": Rounding.NEAREST}
CKKS = CkksSum(**SHAPE)
PAILLIER = PaillierSum(key_bits=2048, **SHAPE)
LATTICE = LatticeSum(keys=partial(PaillierSum, key_bits=2048), **SHAPE)
KINDS = [
    pytest.param(CKKS, id="ckks"),
    pytest.param(PAILLIER, id="paillier", marks=pytest.mark.slow),
    pytest.param(LATTICE, id="lattice", marks=pytest.mark.slow),
]
"""Every protocol whose clients learn the sum."""
SHORT = Patience(exchange=2.0, hello=2.0, connect=4.0, again=0.5)
PARAMETERS = ("layer.weight", "bias")


class Clock:
    """It goes on when somebody waits, and a little whenever somebody looks."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now

    def pause(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The clock of every SecureGrid of this test."""
    made = Clock()
    monkeypatch.setattr(
        rounds, "Coordinator", partial(Coordinator, monotonic=made.monotonic, pause=made.pause)
    )
    return made


@pytest.fixture
def sums(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Sum]]:
    """Every sum of updates that a site opened, in order."""
    found: list[Sum] = []
    real = _Answering.open

    def seen(self: _Answering, result: bytes) -> Sum:
        found.append(real(self, result))
        return found[-1]

    monkeypatch.setattr(_Answering, "open", seen)
    return found


def start() -> dict[str, Any]:
    """A model with everything in it that a state may have: an order, scalars, a negative zero, no values."""
    return {
        "layer.weight": np.array([[0.5, -0.0], [0.25, -1.5]], np.float32),
        "bn.running_mean": np.array([0.1, -0.2], np.float32),
        "bn.running_var": np.array([1.0, 0.5], np.float32),
        "bn.num_batches_tracked": np.array(7, np.int64),
        "mask": np.array([True, False]),
        "nothing": np.zeros(0, np.int32),
        "bias": np.array([-0.125], np.float32),
    }


def toward(target: float, examples: int, seen: list[State] | None = None, **metrics: float) -> Any:
    """A training that goes a part of the way from wherever it is shown to be; it depends on the model."""

    def train(arrays: dict[str, Any], message: Message, context: Context) -> tuple[State, dict[str, Any]]:
        if seen is not None:
            seen.append(arrays)
        moved = {
            name: (value + 0.25 * (target - value)).astype(value.dtype) if value.dtype.kind == "f" else value
            for name, value in arrays.items()
        }
        return moved, {"num-examples": examples, **metrics}

    return train


@dataclass
class Learners(Study):
    """A `Study` of four sites whose clients learn the sum.

    Attributes:
        optimiser: of every site.
        seen: what each site's app was shown, in order.
    """

    protocol: Any = CKKS
    names: str = "abcd"
    optimiser: ServerOptimiser = Plain()
    seen: dict[str, list[State]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in self.names:
            self.enter(name)

    def enter(self, name: str, **others: Any) -> Node:
        """A node of this site, with a fresh context; its folder is what it was."""
        place = "abcdefgh".index(name)
        shown = self.seen.setdefault(name, [])
        step = toward(0.3 * place - 0.4, 10 * (place + 1), shown, loss=0.1 + place)
        mod = secure_aggregation(
            self.protocol,
            partial(self.enrol, name),
            **{"evaluate_metrics": self.evaluate_metrics, "server_optimiser": self.optimiser, **others},
        )
        node = FIRST_NODE + place
        found = dict.fromkeys(self.evaluate_metrics or {}, 0.05 * (place + 1))
        self.grid.nodes[node] = Node(app_of(step, mods=[mod], **found), context_of(node))
        return self.grid.nodes[node]

    def node(self, name: str) -> Node:
        return self.grid.nodes[FIRST_NODE + "abcdefgh".index(name)]

    def model(self, name: str, which: SiteModel = SiteModel.LATEST) -> dict[str, Any]:
        """What this site reads of its model."""
        return site_model(self.enrol(name, context_of(0)), which=which)

    def agree(self, names: str) -> dict[str, Any]:
        """The model of these sites, who must have it in every bit."""
        first, *others = (self.model(name) for name in names)
        for other in others:
            same(other, first)
        return first


def same(one: Mapping[str, Any], other: Mapping[str, Any]) -> None:
    """Both hold the same names, in order, and the same bits."""
    assert [*one] == [*other]
    for name, value in one.items():
        assert (value.dtype, value.shape) == (other[name].dtype, other[name].shape), name
        assert value.tobytes() == other[name].tobytes(), name


@dataclass
class Course:
    """A training, a round at a time.

    Attributes:
        arrays: what the server shows. No reply ever changes them.
        failures: of the last round, by site: why it is not in the sum.
    """

    study: Learners
    arrays: ArrayRecord = field(default_factory=lambda: record_of(start()))
    given: dict[str, Any] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.secure: SecureGrid = self.study.secure(average(), **{"patience": SHORT, **self.given})

    def train(self, *names: str, kind: str = "train", **config: Any) -> bool:
        """One round; whether there was a sum. Names: who is asked; nobody named is all who are there."""
        nodes = [FIRST_NODE + "abcdefgh".index(name) for name in names] or list(self.secure.get_node_ids())
        content = RecordDict({"arrays": self.arrays, "config": ConfigRecord({"lr": 1.0, **config})})
        asked = [Message(content, dst_node_id=node, message_type=kind) for node in nodes]
        replies = list(self.secure.send_and_receive(asked, timeout=10.0))
        self.failures = {
            "abcdefgh"[each.metadata.src_node_id - FIRST_NODE]: each.error.reason
            for each in replies
            if each.has_error()
        }
        found = [each for each in replies if not each.has_error()]
        for each in found:
            if kind == "train":
                assert each.content["arrays"].object_id == self.arrays.object_id
        return bool(found)

    def rounds(self, count: int) -> None:
        """So many rounds, each with a sum of all who are there."""
        for _ in range(count):
            assert self.train(), self.failures
            assert not self.failures


def reached_the_server(study: Study) -> bytes:
    """All bytes of all answers, as Flower's own encoding has them, records and errors."""
    found = b""
    for _, _, answer in study.grid.sent:
        if answer is None:
            continue
        if answer.has_error():
            found += answer.error.reason.encode()
            continue
        for record in answer.content.values():
            for name, value in record.items():
                found += name.encode()
                found += (
                    value.data
                    if isinstance(value, Array)
                    else value
                    if isinstance(value, bytes)
                    else (repr(value).encode())
                )
    return found


def needles(values: Any) -> list[bytes]:
    """How values might stand among other bytes: each in double precision, in single, in text."""
    flat = np.asarray(values, np.float64).ravel()
    flat = flat[np.abs(flat) > 1e-6]
    found = [np.array([value], kind).tobytes() for value in flat for kind in ("<f8", ">f8")]
    # A text of few characters stands among any bytes sooner or later.
    found += [text.encode() for value in flat if len(text := repr(float(value))) > 7]
    pairs = [
        flat[at : at + 2].astype(kind).tobytes() for at in range(len(flat) - 1) for kind in ("<f4", ">f4")
    ]
    return found + pairs


def replayed(optimiser: ServerOptimiser, initial: State, found: list[Sum]) -> dict[str, Any]:
    """What the optimiser makes of these means, written down again; statistics take the mean."""
    manifest = manifest_of(dict(initial))
    parts = manifest.slices()
    moved = np.concatenate([np.arange(parts[name].start, parts[name].stop) for name in PARAMETERS])
    flat = np.concatenate([np.ravel(initial[name]) for name in parts if parts[name].stop > parts[name].start])
    state = optimiser.start(len(moved))
    for total in found:
        step = total.mean.copy()
        state, step[moved] = optimiser.step(state, total.mean[moved], round=total.round or 0)
        flat = (flat.astype(np.float64) + step).astype(np.float32)
    made = dict(initial)
    for name, part in parts.items():
        if part.stop > part.start:
            made[name] = flat[part].reshape(initial[name].shape)
    return made


def blind(**others: Any) -> FedAvg:
    """FedAvg of four sites."""
    return average(min_available_nodes=4, min_train_nodes=4, min_evaluate_nodes=4, **others)
