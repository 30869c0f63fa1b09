"""The coordinator's app on Flower's engine: FedAvg over a `SecureGrid`, which writes down what it sees.

What it sees is all that the report knows of the engine's rounds: the sum of each round, who was not in it and
why, the model that came out. It waits for every hospital before a round begins, so that one that was killed
is in the next one.
"""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

from fl_integration.flower import Patience, SecureGrid
from fl_integration.flower.engine import (
    ArrayRecord,
    ConfigRecord,
    Context,
    FedAvg,
    Grid,
    Message,
    MetricRecord,
    ServerApp,
    record_of,
)
from fl_integration.loopback.processes import FOLDER_VARIABLE
from fl_integration.studies.heart.choices import Choice
from fl_integration.studies.heart.federation.folders import Federation, first_state
from fl_integration.studies.heart.federation.journal import Event, Journal

__all__ = ["app"]

ROUND_SECONDS: Final = 240.0
"""For a round; a SuperNode that was killed is missed after a minute."""

app = ServerApp()


class _Recorded(FedAvg):
    """FedAvg, whose rounds are in a journal."""

    def __init__(self, journal: Journal, *, nodes: int) -> None:
        super().__init__(fraction_evaluate=0.0, min_train_nodes=nodes, min_available_nodes=nodes)
        self._journal = journal
        self._weight: int | None = None
        self._missing: dict[str, str] = {}

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """As FedAvg."""
        messages = list(super().configure_train(server_round, arrays, config, grid))
        self._journal.add(Event.ASKED, round=server_round - 1)
        return messages

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """As FedAvg: of the one reply, which holds the mean."""
        found = list(replies)
        failures = [each for each in found if each.has_error()]
        self._missing = {str(each.metadata.src_node_id): str(each.error.reason) for each in failures}
        arrays, metrics = super().aggregate_train(server_round, found)
        sums: list[Any] = [each.content for each in found if not each.has_error()]
        self._weight = int(sums[0]["metrics"]["num-examples"]) if sums else None
        return arrays, metrics

    def ended(self, server_round: int, arrays: ArrayRecord) -> None:
        """Writes down what a round came to."""
        if server_round:
            model = {name: array.numpy().tolist() for name, array in arrays.items()}
            self._journal.add(
                Event.ENDED, round=server_round - 1, weight=self._weight, missing=self._missing, model=model
            )


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Trains, and says in the journal why if it cannot."""
    coordinator = Federation(Path(os.environ[FOLDER_VARIABLE])).coordinator
    config: Any = context.run_config
    roster = coordinator.roster
    strategy = _Recorded(coordinator.journal, nodes=len(roster.roster))
    try:
        secure = SecureGrid(
            grid,
            Choice(config["protocol"]).protocol(clients=len(roster.roster)),
            roster=roster,
            strategy=strategy,
            mean_only=(_Recorded,),
            patience=Patience(last_look=0.1),
        )
        strategy.start(
            grid=secure,
            initial_arrays=record_of(first_state()),
            num_rounds=int(config["rounds"]),
            timeout=ROUND_SECONDS,
            evaluate_fn=strategy.ended,
        )
    except Exception as error:
        coordinator.journal.add(Event.FAILED, reason=f"{type(error).__name__}: {error}")
        raise
