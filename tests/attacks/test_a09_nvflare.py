"""A9 over NVFlare: one site's functions are shown something of their own, and the sum is that site's update.

All but the victim are shown a learning rate of 0, and move nothing. The victim is shown another rate, another
array, an app property or a constructor's argument that only its job has, or a number of another type: an enum
that NVFlare carries, which is 0 to a digest that looks at its value, and which the victim's function reads as
a level that is on.

* The copy whose halves bind nothing of what is shown gives the victim's update away; so does the one that
  leaves the job's settings out, and the one that takes values of any type.
* On ours the victim sits the round out, and its function is not called.

Not covered: a configuration, or a model, that is the same for all and malicious for all; a job whose code
does not use this library.
"""

from collections.abc import Callable, Iterator
from enum import IntEnum
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("nvflare", reason="the engine is an extra")

from nvflare.collab import collab

from fl_integration.embedding import rounds
from fl_integration.embedding.records import HASH, Kind, Record
from fl_integration.nvflare import here, site
from fl_integration.nvflare.shown import records_of
from protocols import Adversary, MaskedSum, Requirements
from tests.fl_integration.disks import folder_in_memory
from tests.fl_integration.nvflare.stage import Study

VICTIM = "d"
SECRET = 0.25
"""What the victim's data make of the model."""
PROTOCOL = MaskedSum(max_weight=100, requirements=Requirements(adversary=Adversary.MALICIOUS))


class Level(IntEnum):
    """What a function of a site may look at by its type."""

    ON = 0


@pytest.fixture
def folder() -> Iterator[Path]:
    with folder_in_memory() as made:
        yield made


def trains(secret: float, called: list[str], name: str) -> Any:
    """A function that moves by its secret where anything tells it to, and by nothing elsewhere."""

    def train(model: dict[str, Any], config: dict[str, Any]) -> Any:
        called.append(name)
        told = (
            float(config["lr"])
            or isinstance(config["lr"], Level)
            or model["w"].any()
            or collab.get_app_prop("epochs", 0)
            or (here.Here.now().config / "on").exists()
        )
        return {"w": np.float32(secret if told else 0.0) + model["w"]}, {"num-examples": 10}

    return train


def another_rate(wire: dict[str, Any]) -> dict[str, Any]:
    return {**wire, "config": {"lr": 1.0}}


def another_array(wire: dict[str, Any]) -> dict[str, Any]:
    ((name, dtype, shape, data),) = wire["arrays"]
    return {**wire, "arrays": [[name, dtype, shape, np.full(8, 1.0, np.float32).tobytes()[: len(data)]]]}


def another_type(wire: dict[str, Any]) -> dict[str, Any]:
    return {**wire, "config": {"lr": Level.ON}}


def nothing(wire: dict[str, Any]) -> dict[str, Any]:
    return wire


LIES: dict[str, tuple[Callable[[Any], Any], dict[str, Any]]] = {
    "a rate": (another_rate, {}),
    "an array": (another_array, {}),
    "a type": (another_type, {}),
    "a property": (nothing, {"epochs": 1}),
}


def round_of(folder: Path, lie: str) -> tuple[Any, list[str]]:
    """A round in which the server lies to the victim; and whose functions were called."""
    study, called = Study(folder, protocol=PROTOCOL, names="abcd"), list[str]()
    change, props = LIES.get(lie, (nothing, {}))
    for name in study.names:
        secret = SECRET if name == VICTIM else 0.5
        study.join(name, trains(secret, called, name), joins=props if name == VICTIM else {})
    if lie == "a file":
        (next((folder / "workspaces" / VICTIM).glob("*/*/config")) / "on").write_text("1")

    def tamper(each: str, arguments: dict[str, Any]) -> dict[str, Any]:
        wire = arguments["secagg_shown"]
        return {**arguments, "secagg_shown": change(wire)} if each == VICTIM and wire else arguments

    study.job.tamper = tamper
    with study.secure() as secure:
        outcome = secure.train({"w": np.zeros(8, np.float32)}, {"lr": 0}, seconds=30.0)
    return outcome, called


def given_away(outcome: Any) -> float:
    """What the server reads: the others moved nothing, so the mean is the victim's, by its weight."""
    return float(outcome.model["w"].mean()) * outcome.weight / 10 if outcome.weight else 0.0


def constant(*_: Any, **__: Any) -> bytes:
    return HASH + bytes(32)


def of_any_type(wire: Any) -> dict[str, Record]:
    """What a copy makes of a wire if it takes an enum for its number."""
    plain = None if wire is None else {**wire, "config": {}}
    return {**records_of(plain), **({} if wire is None else {"config": Record(Kind.CONFIG, wire["config"])})}


@pytest.mark.parametrize("lie", ["a rate", "an array"])
def test_a_copy_that_binds_nothing_gives_the_victims_update(
    folder: Path, monkeypatch: pytest.MonkeyPatch, lie: str
) -> None:
    monkeypatch.setattr(rounds, "records_digest", constant)
    monkeypatch.setattr(site, "records_digest", constant)
    outcome, called = round_of(folder, lie)
    assert VICTIM in called
    # Where the array is another one, what the victim adds is still its secret: it sends what changed.
    assert given_away(outcome) == pytest.approx(SECRET, abs=1e-3)


@pytest.mark.parametrize("lie", ["a property", "a file"])
def test_a_copy_that_leaves_the_jobs_settings_out_gives_it_too(
    folder: Path, monkeypatch: pytest.MonkeyPatch, lie: str
) -> None:
    monkeypatch.setattr(here.Here, "settings", lambda self: bytes(32))
    outcome, _ = round_of(folder, lie)
    assert given_away(outcome) == pytest.approx(SECRET, abs=1e-3)


def test_a_copy_that_takes_values_of_any_type_gives_it_too(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(site, "records_of", of_any_type)  # the digest is as it is
    outcome, _ = round_of(folder, "a type")
    assert given_away(outcome) == pytest.approx(SECRET, abs=1e-3)


@pytest.mark.parametrize("lie", [*LIES, "a file"])
def test_on_ours_the_victim_sits_the_round_out(folder: Path, lie: str) -> None:
    outcome, called = round_of(folder, lie)
    assert VICTIM not in called
    assert VICTIM not in outcome.contributors
    assert VICTIM in outcome.lost
    assert given_away(outcome) == pytest.approx(0.0, abs=1e-3)


def test_without_a_lie_the_victim_is_one_of_four(folder: Path) -> None:
    outcome, called = round_of(folder, "")
    assert sorted(called) == list("abcd")
    assert outcome.contributors == ("a", "b", "c", "d")
