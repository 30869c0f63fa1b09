"""What runs on Flower's engine to be timed: FedAvg in the clear, our protocols, and Flower's SecAgg+.

Training is next to nothing: every client adds `STEP` to every value, so that a round's time is the engine's
and the protocol's. A contender is two apps. Its server looks at the clock after each round, in the function
with which a strategy evaluates the model, and leaves what it saw, or its error, in a file (`Report`). All
clients weigh the same, and a model that does not end where all their steps bring it is an error: a contender
that lost a round would look fast. (Where the clients learn the sum, the server's model stays as it was.)

Our clients keep their state and release logs in files, as they would anywhere. Their identities come from a
seed that is written here: keys for a clock and for nothing else. SecAgg+ is Flower's legacy workflow with its
defaults, shares to all clients, two thirds of which rebuild a key, as in `flower_secagg`.

A deployment loads `server` and `client` by name; which contender they are stands in the run's configuration.
A simulation takes a contender's apps themselves.
"""

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.client import NumPyClient
from flwr.client.mod import secaggplus_mod
from flwr.clientapp import ClientApp
from flwr.clientapp.typing import Mod
from flwr.common import ndarrays_to_parameters
from flwr.server import LegacyContext, ServerConfig
from flwr.server.strategy import FedAvg as LegacyFedAvg
from flwr.server.workflow import DefaultWorkflow, SecAggPlusWorkflow
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg

from fl_integration.flower import Enrolment, SecureGrid, secure_aggregation
from protocols import CkksSum, Identity, LatticeSum, Learner, MaskedSum, PaillierSum, Roster
from secagg.entropy import SeededEntropy

__all__ = ["CONTENDERS", "FEDAVG", "Work", "client", "read_report", "server"]

FEDAVG: Final = "FedAvg"
STEP: Final = 0.01
TOLERANCE: Final = 1e-4
"""How far a round's mean may be from the step: three grains of sixteen bits in [-1, 1]."""
WEIGHT: Final = 1000
"""The largest of SecAgg+'s, see `flower_secagg`."""
THRESHOLD: Final = 2 / 3

Pair = tuple[ServerApp, ClientApp]


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """One run.

    Attributes:
        contender: a key of `CONTENDERS`.
        nodes: clients, all of which take part in every round.
        rounds: how many rounds.
        values: float32 values of the model.
        folder: of this run's own: the report, and our clients' state.
    """

    contender: str
    nodes: int
    rounds: int
    values: int
    folder: str

    @property
    def report(self) -> Path:
        """Where the server leaves what it saw."""
        return Path(self.folder) / "report.json"

    def pair(self) -> Pair:
        """The contender's apps.

        Raises:
            MissingExtraError: the contender needs a library that is not there.
        """
        return CONTENDERS[self.contender](self)


class Rounds:
    """A server's clock: the moments at which its rounds ended, in seconds, the first of them at its start."""

    def __init__(self, work: Work, *, moves: bool = True) -> None:
        self._work, self._moves = work, moves
        self._moments: list[float] = []

    def end(self, number: int, model: Any) -> None:
        """A round has ended, or none has begun yet (0), with this model, 1-D.

        Raises:
            RuntimeError: the model is not where so many rounds of everybody's steps bring it.
        """
        self._moments.append(time.perf_counter())
        if self._moves and not np.allclose(model, number * STEP, rtol=0, atol=number * TOLERANCE):
            raise RuntimeError(f"the model has not moved by {number} rounds: one was lost on the way")

    def write(self, error: str = "") -> None:
        """Leaves the report."""
        said = {"moments": self._moments, "error": error}
        self._work.report.write_text(json.dumps(said), encoding="utf-8")


def read_report(path: Path) -> list[float]:
    """Seconds of each round of a run.

    Raises:
        RuntimeError: there is no report, or the run failed; the text has its words.
    """
    if not path.exists():
        raise RuntimeError("the server left no report")
    said = json.loads(path.read_text(encoding="utf-8"))
    if said["error"]:
        raise RuntimeError(said["error"])
    return [float(seconds) for seconds in np.diff(said["moments"])]


def reporting(rounds: Rounds, body: Callable[[Grid, Context], None]) -> ServerApp:
    """A server that does `body` and leaves its report, whichever way it ends."""
    app = ServerApp()

    @app.main()
    def main(grid: Grid, context: Context) -> None:
        try:
            body(grid, context)
        except Exception as error:  # whatever it is, the bench has to hear of it
            rounds.write(f"{type(error).__name__}: {error}")
            raise
        rounds.write()

    return app


# In the clear, and ours


def averaging(
    work: Work, rounds: Rounds, secured: Callable[[Grid, FedAvg], Grid] = lambda grid, strategy: grid
) -> ServerApp:
    """FedAvg over the grid that `secured` makes of Flower's."""

    def body(grid: Grid, context: Context) -> None:
        strategy = FedAvg(fraction_evaluate=0.0, min_train_nodes=work.nodes, min_available_nodes=work.nodes)

        def evaluate(number: int, arrays: ArrayRecord) -> None:
            (model,) = arrays.to_numpy_ndarrays()
            rounds.end(number, model)

        strategy.start(
            grid=secured(grid, strategy),
            initial_arrays=ArrayRecord([np.zeros(work.values, dtype=np.float32)]),
            num_rounds=work.rounds,
            evaluate_fn=evaluate,
        )

    return reporting(rounds, body)


def adding(*mods: Mod) -> ClientApp:
    """A client that moves every value by `STEP`."""
    app = ClientApp(mods=list(mods))

    @app.train()
    def train(message: Message, context: Context) -> Message:
        arrays: Any = message.content["arrays"]
        (model,) = arrays.to_numpy_ndarrays()
        content = {
            "arrays": ArrayRecord([model + np.float32(STEP)]),
            "metrics": MetricRecord({"num-examples": 1}),
        }
        return Message(RecordDict(content), reply_to=message)

    return app


def in_the_clear(work: Work) -> Pair:
    """FedAvg as it is."""
    return averaging(work, Rounds(work)), adding()


def under(protocol: Callable[..., Any], work: Work) -> Pair:
    """FedAvg under one of our protocols."""
    parameters = protocol(max_clients=work.nodes, max_weight=8)
    roster, folder = Roster.of(*map(_identity, range(work.nodes))), Path(work.folder)

    def enrol(context: Context) -> Enrolment:
        place: Any = context.node_config["partition-id"]
        # Ray pickles this function, which an identity that was made outside would not bear.
        return Enrolment(identity=_identity(place), roster=roster, state_dir=folder / f"site-{place}")

    def secured(grid: Grid, strategy: FedAvg) -> Grid:
        return SecureGrid(grid, parameters, roster=roster, strategy=strategy)

    rounds = Rounds(work, moves=parameters.learns is Learner.SERVER)
    return averaging(work, rounds, secured), adding(secure_aggregation(parameters, enrol))


def _identity(place: int) -> Identity:
    return Identity.generate(f"site-{place}", entropy=SeededEntropy(b"bench.engines %d" % place))


# Flower's


def secagg_plus(work: Work) -> Pair:
    """Flower's own secure aggregation."""
    rounds = Rounds(work)

    def evaluate(number: int, model: Any, config: Any) -> Any:
        rounds.end(number, model[0])
        return 0.0, {}

    def body(grid: Grid, context: Context) -> None:
        strategy = LegacyFedAvg(
            fraction_evaluate=0.0,
            min_fit_clients=work.nodes,
            min_available_clients=work.nodes,
            evaluate_fn=evaluate,
            initial_parameters=ndarrays_to_parameters([np.zeros(work.values, dtype=np.float32)]),
        )
        workflow = DefaultWorkflow(
            fit_workflow=SecAggPlusWorkflow(num_shares=1.0, reconstruction_threshold=THRESHOLD)
        )
        settings = ServerConfig(num_rounds=work.rounds)
        workflow(grid, LegacyContext(context, config=settings, strategy=strategy))

    return reporting(rounds, body), ClientApp(client_fn=_adding_client, mods=[secaggplus_mod])


class _Adding(NumPyClient):
    def fit(self, parameters: Any, config: Any) -> Any:
        return [parameters[0] + np.float32(STEP)], WEIGHT, {}


def _adding_client(context: Context) -> Any:
    return _Adding().to_client()


CONTENDERS: Final[Mapping[str, Callable[[Work], Pair]]] = {
    FEDAVG: in_the_clear,
    "MaskedSum": partial(under, MaskedSum),
    "LatticeSum": partial(under, LatticeSum),
    "LatticeSum over PaillierSum": partial(under, partial(LatticeSum, keys=PaillierSum)),
    "CkksSum": partial(under, CkksSum),
    "Flower's SecAgg+": secagg_plus,
}


# For a deployment


class _Client(ClientApp):
    """The client of whichever contender runs."""

    def __call__(self, message: Message, context: Context) -> Message:
        _, app = _work(context).pair()
        return app(message=message, context=context)


def _work(context: Context) -> Work:
    config: Any = dict(context.run_config)
    return Work(**config)


client = _Client()
server = ServerApp()


@server.main()
def main(grid: Grid, context: Context) -> None:
    """The server of whichever contender runs."""
    app, _ = _work(context).pair()
    app(grid=grid, context=context)
