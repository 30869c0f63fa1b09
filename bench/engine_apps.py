"""What runs on Flower's engine to be timed: FedAvg in the clear, Flower's SecAgg+, and ours where it is there.

Training is next to nothing: every client adds `STEP` to every value, so that a round's time is the engine's
and the protocol's. A contender is two apps, which find in `context.run_config`:

    rounds, nodes, values    how much there is to do
    contender                which of them this is, for the processes of a deployment
    report                   a file, into which `timed` writes how long the server's part took, or its error

`server` and `client` are what a deployment loads by name; a simulation takes a contender's apps themselves.
All clients weigh the same, and a run whose model does not end where all their steps bring it is an error.
SecAgg+ is Flower's legacy workflow with its defaults, shares to all clients, two thirds of which rebuild a
key, as in `flower_secagg`.
"""

import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.client import NumPyClient
from flwr.client.mod import secaggplus_mod
from flwr.clientapp import ClientApp
from flwr.common import ndarrays_to_parameters, parameters_to_ndarrays
from flwr.server import LegacyContext, ServerConfig
from flwr.server.strategy import FedAvg as LegacyFedAvg
from flwr.server.workflow import DefaultWorkflow, SecAggPlusWorkflow
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg

from protocols import CkksSum, LatticeSum, MaskedSum, PaillierSum

__all__ = ["CONTENDERS", "FEDAVG", "SECAGG_PLUS", "client", "server", "timed"]

FEDAVG: Final = "FedAvg"
SECAGG_PLUS: Final = "Flower's SecAgg+"
STEP: Final = 0.01
TOLERANCE: Final = 1e-4
"""How far a round's mean may be from the step: three grains of sixteen bits in [-1, 1]."""
WEIGHT: Final = 1000
"""The largest of SecAgg+'s, see `flower_secagg`."""
THRESHOLD: Final = 2 / 3

Pair = tuple[ServerApp, ClientApp]
Contender = Callable[[int], Pair]
"""Makes the apps for so many nodes."""


def fedavg(nodes: int) -> Pair:
    """FedAvg in the clear."""
    server, client = ServerApp(), ClientApp()

    @server.main()
    def main(grid: Grid, context: Context) -> None:
        config: Any = context.run_config
        initial = np.zeros(config["values"], dtype=np.float32)
        strategy = FedAvg(fraction_evaluate=0.0, min_train_nodes=nodes, min_available_nodes=nodes)
        result = strategy.start(grid=grid, initial_arrays=ArrayRecord([initial]), num_rounds=config["rounds"])
        (last,) = result.arrays.to_numpy_ndarrays()
        check(last, config["rounds"])

    @client.train()
    def train(message: Message, context: Context) -> Message:
        arrays: Any = message.content["arrays"]
        (values,) = arrays.to_numpy_ndarrays()
        content = RecordDict(
            {
                "arrays": ArrayRecord([values + np.float32(STEP)]),
                "metrics": MetricRecord({"num-examples": 1}),
            }
        )
        return Message(content, reply_to=message)

    return server, client


def secagg_plus(nodes: int) -> Pair:
    """Flower's own secure aggregation."""
    server = ServerApp()

    @server.main()
    def main(grid: Grid, context: Context) -> None:
        config: Any = context.run_config
        strategy = _Keeping(
            fraction_evaluate=0.0,
            min_fit_clients=nodes,
            min_available_clients=nodes,
            initial_parameters=ndarrays_to_parameters([np.zeros(config["values"], dtype=np.float32)]),
        )
        workflow = DefaultWorkflow(
            fit_workflow=SecAggPlusWorkflow(num_shares=1.0, reconstruction_threshold=THRESHOLD)
        )
        legacy = LegacyContext(context, config=ServerConfig(num_rounds=config["rounds"]), strategy=strategy)
        workflow(grid, legacy)
        check(strategy.last, config["rounds"])

    return server, ClientApp(client_fn=_adding_client, mods=[secaggplus_mod])


class _Adding(NumPyClient):
    def fit(self, parameters: Any, config: Any) -> Any:
        return [parameters[0] + np.float32(STEP)], WEIGHT, {}


def _adding_client(context: Context) -> Any:
    return _Adding().to_client()


class _Keeping(LegacyFedAvg):
    """FedAvg that keeps the last mean, which Flower's workflow throws away at the end."""

    last: Any = None

    def aggregate_fit(self, *given: Any) -> Any:
        parameters, metrics = super().aggregate_fit(*given)
        if parameters is not None:
            (self.last,) = parameters_to_ndarrays(parameters)
        return parameters, metrics


def check(model: Any, rounds: int) -> None:
    """A contender that lost a round would look fast.

    Raises:
        RuntimeError: the model is not where `rounds` rounds of everybody's steps bring it.
    """
    if model is None or not np.allclose(model, rounds * STEP, atol=rounds * TOLERANCE):
        raise RuntimeError(f"the model has not moved by {rounds} rounds: a round was lost on the way")


def secure(protocol: Callable[[int], Any]) -> Contender:
    """Ours: the apps of `fl_integration.flower` under the protocol that `protocol` makes for so many nodes."""

    def pair(nodes: int) -> Pair:
        from fl_integration.flower import secure_apps

        apps: Pair = secure_apps(protocol(nodes))
        return apps

    return pair


CONTENDERS: Final[Mapping[str, Contender]] = {
    FEDAVG: fedavg,
    "MaskedSum": secure(lambda nodes: MaskedSum(max_clients=nodes)),
    "LatticeSum": secure(lambda nodes: LatticeSum(max_clients=nodes)),
    "LatticeSum over PaillierSum": secure(lambda nodes: LatticeSum(max_clients=nodes, keys=PaillierSum)),
    "CkksSum": secure(lambda nodes: CkksSum(max_clients=nodes)),
    SECAGG_PLUS: secagg_plus,
}


def timed(app: ServerApp, config: Mapping[str, Any] | None = None) -> ServerApp:
    """The same app, which leaves its seconds, or its error, in the file that its configuration names.

    Args:
        app: a contender's.
        config: the run's configuration, where the engine has no way to pass one (`run_simulation`).
    """
    wrapped = ServerApp()

    @wrapped.main()
    def main(grid: Grid, context: Context) -> None:
        if config is not None:
            context.run_config = dict(config)
        report = Path(str(context.run_config["report"]))
        start = time.perf_counter()
        try:
            app(grid=grid, context=context)
        except Exception as error:
            report.write_text(json.dumps({"error": f"{type(error).__name__}: {error}"}), encoding="utf-8")
            raise
        report.write_text(json.dumps({"seconds": time.perf_counter() - start}), encoding="utf-8")

    return wrapped


class _Client(ClientApp):
    """The client of whichever contender runs."""

    def __call__(self, message: Message, context: Context) -> Message:
        _, app = _pair(context)
        return app(message=message, context=context)


def _pair(context: Context) -> Pair:
    config: Any = context.run_config
    return CONTENDERS[config["contender"]](config["nodes"])


client = _Client()
server = ServerApp()


@server.main()
def main(grid: Grid, context: Context) -> None:
    """The server of whichever contender runs."""
    app, _ = _pair(context)
    timed(app)(grid=grid, context=context)
