"""Apps for the real engine: a server and clients that add a constant, and leave word of what happened.

Loaded by name in Flower's own processes. `deployment.FOLDER_VARIABLE` names the folder in which all of them
leave their files: the server its report, each client a mark when it trains, and the sites their state.
"""

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg

from fl_integration.flower import Enrolment, Patience, Rehearsed, SecureGrid, secure_aggregation
from protocols import MaskedSum
from tests.fl_integration.flower.deployment import FOLDER_VARIABLE

SETTINGS = "settings.json"
STEP = 0.0625
SLOW_SECONDS = 6.0
"""How long a site trains in a round that a test looks into."""
PROTOCOL = MaskedSum(max_weight=100, metrics={"loss": (0.0, 4.0)})


def folder() -> Path:
    """Where this deployment's files are."""
    return Path(os.environ[FOLDER_VARIABLE])


def settings() -> dict[str, float]:
    """What the test asks for; in a file, because a simulation has no run's configuration."""
    found: dict[str, float] = json.loads((folder() / SETTINGS).read_text())
    return found


def rehearsed() -> Rehearsed:
    """The sites of a run."""
    return Rehearsed(folder() / "sites", int(settings()["sites"]))


def enrol(context: Context) -> Enrolment:
    """This node's site."""
    return rehearsed().enrol(context)


server = ServerApp()
client = ClientApp(mods=[secure_aggregation(PROTOCOL, enrol, evaluate_metrics={"accuracy": (0.0, 1.0)})])


@client.train()
def train(message: Message, context: Context) -> Message:
    """Adds `STEP` times the site's place, counted from 1."""
    place = int(context.node_config["partition-id"])
    config: Any = message.content["config"]
    number = int(config["server-round"])
    with (folder() / f"trains-{place}").open("a") as marks:
        marks.write(f"{number}\n")
    if number == settings()["slow-round"]:
        time.sleep(SLOW_SECONDS)
    record: Any = message.content["arrays"]
    arrays = [array + np.float32(STEP * (place + 1)) for array in record.to_numpy_ndarrays()]
    metrics = MetricRecord({"num-examples": 10, "loss": float(place)})
    return Message(RecordDict({"arrays": ArrayRecord(arrays), "metrics": metrics}), reply_to=message)


@client.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    """Each site is right as often as its place says."""
    place = int(context.node_config["partition-id"])
    metrics = MetricRecord({"num-examples": 10 * (place + 1), "accuracy": place / 10})
    return Message(RecordDict({"metrics": metrics}), reply_to=message)


@server.main()
def main(grid: Grid, context: Context) -> None:
    """FedAvg over a secure grid; the report has the model behind each round."""
    asked = settings()
    strategy = FedAvg(fraction_evaluate=asked["fraction-evaluate"], min_train_nodes=3)
    secure = SecureGrid(
        grid,
        PROTOCOL,
        roster=rehearsed().roster,
        strategy=strategy,
        evaluate_metrics={"accuracy": (0.0, 1.0)},
        patience=Patience(again=2.0),
    )
    models: list[float] = []

    def note(number: int, arrays: ArrayRecord) -> None:
        first, _ = arrays.to_numpy_ndarrays()
        models.append(float(first[0]))
        (folder() / "rounds").write_text(str(number))

    while len(set(secure.get_node_ids())) < asked["sites"]:
        time.sleep(0.5)
    result = strategy.start(
        grid=secure,
        initial_arrays=ArrayRecord([np.zeros(1000, np.float32), np.zeros((2, 3), np.float32)]),
        num_rounds=int(asked["rounds"]),
        evaluate_fn=note,
    )
    said = {
        "models": models,
        "losses": {k: float(v["loss"]) for k, v in result.train_metrics_clientapp.items()},
        "accuracies": {k: float(v["accuracy"]) for k, v in result.evaluate_metrics_clientapp.items()},
        "here": [each for each in sys.path if each.rstrip("/").endswith("fl_integration")],
    }
    (folder() / "report.json").write_text(json.dumps(said))
