"""The coordinator's part of the job on NVFlare's engine: FedAvg over `SecureClients`, written down."""

import os
from pathlib import Path
from typing import Final

from fl_integration.loopback.processes import FOLDER_VARIABLE
from fl_integration.nvflare import Patience, SecureClients
from fl_integration.nvflare.engine import collab
from fl_integration.studies.heart.choices import Choice
from fl_integration.studies.heart.federation.folders import Federation, first_state
from fl_integration.studies.heart.federation.journal import Event

__all__ = ["PROTOCOL", "ROUNDS", "main"]

PROTOCOL: Final = "protocol"
ROUNDS: Final = "rounds"
ROUND_SECONDS: Final = 240.0


@collab.main  # type: ignore[untyped-decorator]  # NVFlare has no types
def main() -> None:
    """Trains, and says in the journal why if it cannot."""
    coordinator = Federation(Path(os.environ[FOLDER_VARIABLE])).coordinator
    journal, roster = coordinator.journal, coordinator.roster
    try:
        rounds = int(collab.get_app_prop(ROUNDS))
        choice = Choice(collab.get_app_prop(PROTOCOL))
        protocol = choice.protocol(clients=len(roster.roster))
        secure = SecureClients(
            protocol,
            roster=roster,
            rounds=rounds,
            patience=Patience(last_look=0.1),
            records=coordinator.records,
            identity=coordinator.load_identity(),
        )
        model = dict(first_state())
        for number in range(rounds):
            secure.sites()  # waits for the smallest cohort
            journal.add(Event.ASKED, round=number)
            found = secure.train(model, {"round": number}, seconds=ROUND_SECONDS)
            model = dict(found.model)
            arrays = {name: values.tolist() for name, values in model.items()}
            state = None if choice.hospitals_learn else arrays
            missing = dict(found.lost)
            if found.aborted:  # whoever was there has no sum either
                missing = dict.fromkeys(roster.roster.members, found.aborted) | missing
            journal.add(Event.ENDED, round=number, weight=found.weight, missing=missing, model=state)
    except Exception as error:  # written down for whoever follows the run, and raised again
        journal.add(Event.FAILED, reason=f"{type(error).__name__}: {error}")
        raise
