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
    Context,
    FedAvg,
    Grid,
    Message,
    ServerApp,
    record_of,
)
from fl_integration.loopback.processes import FOLDER_VARIABLE
from fl_integration.studies.heart.choices import Choice
from fl_integration.studies.heart.federation.folders import Coordinator, Federation, first_state
from fl_integration.studies.heart.federation.journal import Event

__all__ = ["app"]

ROUND_SECONDS: Final = 240.0
"""For a round; a SuperNode that was killed is missed after a minute."""

app = ServerApp()


class _WrittenDown(SecureGrid):
    """A grid of secure sums, whose rounds are in a journal."""

    def __init__(self, grid: Grid, choice: Choice, strategy: FedAvg, rounds: int, at: Coordinator) -> None:
        roster = at.roster
        super().__init__(
            grid,
            choice.protocol(clients=len(roster.roster)),
            roster=roster,
            strategy=strategy,
            rounds=rounds,
            patience=Patience(last_look=0.1),
            records=at.records,
            identity=at.load_identity(),
        )
        self._journal, self._told = at.journal, not choice.hospitals_learn
        self._weight: int | None = None
        self._missing: dict[str, str] = {}
        self._number = 0

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """As a SecureGrid: one reply, which holds the mean, and a failure for each node that is not in it."""
        asked = list(messages)
        if not asked:  # the evaluation, for which this strategy asks nobody
            return super().send_and_receive(asked, timeout=timeout)
        self._journal.add(Event.ASKED, round=self._number)
        found = list(super().send_and_receive(asked, timeout=timeout))
        self._missing = {
            str(each.metadata.src_node_id): str(each.error.reason) for each in found if each.has_error()
        }
        sums: list[Any] = [each.content for each in found if not each.has_error()]
        self._weight = int(sums[0]["metrics"]["num-examples"]) if sums and self._told else None
        return found

    def ended(self, server_round: int, arrays: ArrayRecord) -> None:
        """Writes down what a round came to. Flower calls it once before the first."""
        self._number = server_round
        if server_round:
            model = {name: array.numpy().tolist() for name, array in arrays.items()} if self._told else None
            self._journal.add(
                Event.ENDED, round=server_round - 1, weight=self._weight, missing=self._missing, model=model
            )


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Trains, and says in the journal why if it cannot."""
    coordinator = Federation(Path(os.environ[FOLDER_VARIABLE])).coordinator
    config: Any = context.run_config
    try:
        nodes, rounds = len(coordinator.roster.roster), int(config["rounds"])
        strategy = FedAvg(fraction_evaluate=0.0, min_train_nodes=nodes, min_available_nodes=nodes)
        secure = _WrittenDown(grid, Choice(config["protocol"]), strategy, rounds, coordinator)
        strategy.start(
            grid=secure,
            initial_arrays=record_of(first_state()),
            num_rounds=rounds,
            timeout=ROUND_SECONDS,
            evaluate_fn=secure.ended,
        )
    except Exception as error:  # written down for whoever follows the run, and raised again
        coordinator.journal.add(Event.FAILED, reason=f"{type(error).__name__}: {error}")
        raise
