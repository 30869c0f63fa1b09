"""A9 on an engine: what one client's application is shown is not what the others' are.

The model is a part of what a training depends on; the configuration is another. With a learning rate of 0 for
all but one, the sum is that one's update. A server may send one client another value or another array. It may
also send the digest of a configuration in place of it, as is done with a model that the clients hold
themselves, to one client alone: its application goes by a default of its own.

Against a MaskedSum the server reads the sum; where the clients learn it, a client that is the server's friend
does. The messages are Flower's, changed on their way to the victim as its server might.

* The copy that believes the round's digest, and the one that lets any record be withheld, give it away.
* On ours the victim sits the round out. The others' sum goes on without it, or the round has none.

Not covered: a configuration, or a model, that is the same for all and malicious for all.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("flwr", reason="the engine is an extra")

from flwr.app import Array, ArrayRecord, ConfigRecord, Message, RecordDict

from fl_integration.embedding import rounds
from fl_integration.embedding.held_model import _Answering
from fl_integration.embedding.own_model import OwnModel
from fl_integration.embedding.parcels import Parcel, Step, decode_head, encode_head
from fl_integration.embedding.records import array_digest
from fl_integration.flower import mod
from fl_integration.flower.engine import BODY, HEAD, pack, records_of, unpack
from protocols import Adversary, CkksSum, MaskedSum, Requirements
from protocols.interface import Sum
from tests.fl_integration.flower.learners import clock
from tests.fl_integration.flower.stage import FIRST_NODE, State, Study, average, zeros

__all__ = ["clock"]  # a fixture

VICTIM = "d"
SECRET = 0.25
"""What the victim's data make of the model."""
SHAPE = {"max_clients": 4, "max_weight": 100}
PROTOCOLS = {
    "masked": MaskedSum(**SHAPE, requirements=Requirements(adversary=Adversary.MALICIOUS)),
    "ckks": CkksSum(**SHAPE),
}
Change = Callable[[RecordDict], RecordDict]


def trains(secret: float) -> Any:
    """An app that takes its rate from the server, or 1 where none is said; a model of ones stops nothing."""

    def train(arrays: dict[str, Any], message: Message, context: Any) -> tuple[State, dict[str, Any]]:
        config = message.content.config_records.get("config", {})
        rate = float(config.get("lr", 1.0))
        gate = 1.0 if arrays["w"].any() else rate
        return {"w": arrays["w"] + np.float32(gate * secret)}, {"num-examples": 10}

    return train


def another_rate(content: RecordDict) -> RecordDict:
    return RecordDict({**content, "config": ConfigRecord({"lr": 1.0})})


def another_model(content: RecordDict) -> RecordDict:
    """For a client that is shown the server's arrays."""
    if "arrays" not in content:
        return content
    made = ArrayRecord()
    made["w"] = Array(np.ones(8, np.float32))
    return RecordDict({**content, "arrays": made})


def no_configuration(content: RecordDict) -> RecordDict:
    """Its digest is named, as that of a withheld model is."""
    parcel = unpack(content)
    head = decode_head(parcel.head)
    assert isinstance(head, Step)
    named = {**head.withheld, "config": array_digest(records_of(content)["config"])}
    made = pack(
        Parcel(encode_head(Step(head.place, head.purpose, named, head.shown)), parcel.body),
        RecordDict({name: each for name, each in content.items() if name not in (HEAD, BODY, "config")}),
    )
    return made


CASES = [
    ("masked", another_rate),
    ("masked", another_model),
    ("masked", no_configuration),
    ("ckks", another_rate),
    ("ckks", no_configuration),
]


def believe(patch: pytest.MonkeyPatch, change: Change) -> None:
    """The weakened copies: what the round binds is taken for what was delivered; anything may be withheld."""
    if change is no_configuration:
        patch.setattr(OwnModel, "holds", lambda *_: True)
        return
    said: list[bytes] = []
    real = rounds.records_digest

    def noted(*given: Any, **named: Any) -> bytes:
        said.append(real(*given, **named))
        return said[-1]

    patch.setattr(rounds, "records_digest", noted)
    patch.setattr(mod, "records_digest", lambda *_, **__: said[-1])


def read(folder: Path, patch: pytest.MonkeyPatch, protocol: str, change: Change) -> float | None:
    """The mean as the attacker reads it, of a round in which nobody but the victim has a rate; None: none."""
    study = Study(folder, protocol=PROTOCOLS[protocol], names="abcd")
    for place, name in enumerate("abcd"):
        study.join(name, FIRST_NODE + place, trains(SECRET if name == VICTIM else 0.5))
    victim, changed = FIRST_NODE + "abcd".index(VICTIM), []

    def tamper(node: int, message: Message) -> Message:
        if node == victim and "config" in message.content:
            message.content = change(message.content)
            changed.append(node)
        return message

    study.grid.tamper = tamper
    opened: list[Sum] = []
    real = _Answering.open

    def seen(self: _Answering, result: bytes) -> Sum:
        opened.append(real(self, result))
        return opened[-1]

    patch.setattr(_Answering, "open", seen)
    strategy = average(min_available_nodes=4, min_train_nodes=4)
    result = strategy.start(
        grid=study.secure(strategy),
        initial_arrays=zeros(),
        num_rounds=1,
        train_config=ConfigRecord({"lr": 0.0}),
    )
    assert changed == [victim]
    if protocol == "ckks":  # a client is the server's friend
        return float(opened[0].mean[0]) if opened else None
    return float(result.arrays["w"].numpy()[0]) if result.train_metrics_clientapp else None


@pytest.mark.parametrize(("protocol", "change"), CASES)
def test_the_copies_give_the_victims_update_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, protocol: str, change: Change
) -> None:
    believe(monkeypatch, change)
    assert read(tmp_path, monkeypatch, protocol, change) == pytest.approx(SECRET / 4, abs=1e-4)


@pytest.mark.parametrize(("protocol", "change"), [*CASES, ("ckks", another_model)])
def test_on_ours_the_victim_sits_out_and_nothing_of_it_is_in_the_others_sum(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, protocol: str, change: Change
) -> None:
    assert read(tmp_path, monkeypatch, protocol, change) == pytest.approx(0.0, abs=1e-4)


def test_where_clients_hold_the_model_another_one_does_not_help_even_if_digests_are_believed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An update's head is made from the copy that it answers."""
    believe(monkeypatch, another_model)
    assert read(tmp_path, monkeypatch, "ckks", another_model) == pytest.approx(0.0, abs=1e-4)
