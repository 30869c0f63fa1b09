"""The server: an ordinary Flower strategy, over a grid that shows it sums alone."""

from pathlib import Path

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Context
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg

from fl_integration.flower import SecureGrid
from secagg_quickstart.sites import EVALUATION, PROTOCOL, kept, roster
from secagg_quickstart.task import Net

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Trains one model across all hospitals."""
    config = context.run_config
    strategy = FedAvg(
        fraction_train=float(config["fraction-train"]), fraction_evaluate=float(config["fraction-evaluate"])
    )
    secure = SecureGrid(
        grid,
        PROTOCOL,
        roster=roster(context),
        strategy=strategy,
        evaluate_metrics=EVALUATION,
        **kept(context),
    )
    result = strategy.start(
        grid=secure,
        initial_arrays=ArrayRecord(Net().state_dict()),
        train_config=ConfigRecord({"learning-rate": float(config["learning-rate"])}),
        num_rounds=int(config["num-server-rounds"]),
    )
    for number, metrics in sorted(result.evaluate_metrics_clientapp.items()):
        print(f"round {number}: accuracy {float(metrics['accuracy']):.3f} over all hospitals' test patients")
    if folder := str(config["coordinator"]):
        np.savez(Path(folder) / "model.npz", **{name: each.numpy() for name, each in result.arrays.items()})
