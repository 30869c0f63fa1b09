"""Apps for a deployment in which a SuperNode dies in mid-round: FedAvg under MaskedSum.

At the defaults a sum has at least three honest contributors, so that three sites need all three. That of four
one may go, if the server proves to a quorum who contributed, the study of the hospitals shows
(`secagg study heart --engine flower --sites 4 --kill`).

Every site adds one step to every value. In the round that the run's configuration names, one site says that
it trains (a file in the deployment's folder) and then trains until it is killed. After each round the server
appends to a file what has become of the model, a number of steps.
"""

import os
import sys
import time
from pathlib import Path
from typing import Any, Final

import numpy as np
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg

import fl_integration
from fl_integration.flower import Enrolment, SecureGrid, secure_aggregation
from fl_integration.loopback.processes import FOLDER_VARIABLE
from protocols import Identity, MaskedSum, Roster
from secagg.entropy import SeededEntropy

__all__ = [
    "STEP",
    "VICTIM",
    "client",
    "rounds_file",
    "server",
    "training_file",
]

STEP: Final = 0.125
TOLERANCE: Final = 0.002
"""Of a step: what the grid of sixteen bits in [-1, 1] costs in a few rounds."""
VALUES: Final = 1000
VICTIM: Final = 1
SECONDS: Final = 300.0
PROTOCOL: Final = MaskedSum(max_clients=3, max_weight=8)


def rounds_file(folder: Path) -> Path:
    """Where the server counts the steps of its model, a line a round."""
    return folder / "rounds.txt"


def training_file(folder: Path) -> Path:
    """Is there once the victim trains."""
    return folder / "training"


def identity(place: int) -> Identity:
    """A site's key, for this test alone."""
    return Identity.generate(f"site-{place}", entropy=SeededEntropy(b"engine_apps %d" % place))


def roster(sites: int) -> Roster:
    """The first so many sites."""
    return Roster.of(*(identity(place) for place in range(sites)))


def enrol(context: Context) -> Enrolment:
    """This site, whose state lies where it survives the node."""
    config: Any = context.node_config
    place, sites = config["partition-id"], config["num-partitions"]
    return Enrolment(identity=identity(place), roster=roster(sites), state_dir=_folder() / f"state-{place}")


server, client = ServerApp(), ClientApp(mods=[secure_aggregation(PROTOCOL, enrol)])


@client.train()
def train(message: Message, context: Context) -> Message:
    """One step, or, for the victim in its round, no end."""
    content: Any = message.content
    (model,) = content["arrays"].to_numpy_ndarrays()
    deadly = content["config"]["server-round"] == context.run_config["deadly-round"]
    if deadly and context.node_config["partition-id"] == VICTIM:
        training_file(_folder()).touch()
        time.sleep(SECONDS)
    assert not hidden_by_us(), "the library's own folders are on the path of an app"
    answer = {
        "arrays": ArrayRecord([model + np.float32(STEP)]),
        "metrics": MetricRecord({"num-examples": 4}),
    }
    return Message(RecordDict(answer), reply_to=message)


def hidden_by_us() -> list[str]:
    """Folders on this process' path in which `statistics` or `flower` would be ours."""
    ours = Path(fl_integration.__file__).parent
    return [each for each in sys.path if each and Path(each).resolve() in (ours, *ours.rglob("*"))]


@server.main()
def main(grid: Grid, context: Context) -> None:
    """Trains, and writes down how far the model has come after each round."""
    config: Any = context.run_config
    strategy = FedAvg(fraction_evaluate=0.0, min_train_nodes=3, min_available_nodes=3)
    assert not hidden_by_us(), "the library's own folders are on the path of an app"

    def evaluate(number: int, arrays: ArrayRecord) -> None:
        (model,) = arrays.to_numpy_ndarrays()
        steps = model / STEP
        assert np.ptp(steps) < TOLERANCE, "a sum has gone wrong in some values"
        with rounds_file(_folder()).open("a", encoding="utf-8") as file:
            file.write(f"{np.mean(steps):.2f}\n")

    strategy.start(
        grid=SecureGrid(grid, PROTOCOL, roster=roster(config["sites"]), strategy=strategy),
        initial_arrays=ArrayRecord([np.zeros(VALUES, dtype=np.float32)]),
        num_rounds=config["rounds"],
        timeout=SECONDS,
        evaluate_fn=evaluate,
    )


def _folder() -> Path:
    return Path(os.environ[FOLDER_VARIABLE])
