"""What makes the sums secure, for both sides: the protocol, what an evaluation tells, who the sites are."""

import getpass
import logging
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from flwr.app import Context

from fl_integration import load_identity, read_roster
from fl_integration.flower import Enrolment, Rehearsed, by_node_config
from fl_integration.site.private_files import read_private
from protocols import MaskedSum
from protocols.identity import Roster
from protocols.membership import RosterVersion
from secagg.secret import Secret

LOG = logging.getLogger("secagg")  # a line a round, never a value or a key
LOG.setLevel(logging.INFO)
LOG.addHandler(logging.StreamHandler())

HOSPITALS = 3
PROTOCOL = MaskedSum(max_weight=1000, metrics={"train-loss": (0.0, 2.0)})
EVALUATION = {"accuracy": (0.0, 1.0)}
REHEARSED = Rehearsed(Path(tempfile.gettempdir()) / f"secagg-quickstart-{getpass.getuser()}", HOSPITALS)


def enrol(context: Context) -> Enrolment:
    """This site's own files, if its SuperNode names them; else a part in the rehearsal."""
    return by_node_config(context) if "secagg-identity" in context.node_config else REHEARSED.enrol(context)


def roster(context: Context) -> Roster | Callable[[], RosterVersion]:
    """The roster that all agreed on, as its file stands before each round; or the rehearsal's."""
    path = str(context.run_config["roster"])
    return (lambda: read_roster(path)) if path else REHEARSED.roster


def kept(context: Context) -> dict[str, Any]:
    """What the coordinator keeps in its folder, for a `SecureGrid`; nothing in a rehearsal.

    Its state, so that it goes on where it stopped, and the signed record of each round.
    """
    if not (name := str(context.run_config["coordinator"])):
        return {}
    folder = Path(name)
    password = read_private(folder / "password", maximum=4096).decode().rstrip("\n")
    return {
        "state_dir": folder / "state",
        "state_key": Secret(read_private(folder / "state.key", maximum=32)),
        "records": folder / "records",
        "identity": load_identity(folder / "coordinator.key", password=password),
    }
