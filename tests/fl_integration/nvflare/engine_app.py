"""A module as NVFlare's users write one, for its simulator: sites learn the sum, and one fails once.

The folder of the run stands in the environment, which the simulator's processes share.
"""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
from nvflare.collab import collab

from fl_integration.loopback.processes import FOLDER_VARIABLE
from fl_integration.nvflare import Rehearsed, SecureClients, secure_aggregation
from protocols import CkksSum, Rounding

SITES = ("site-1", "site-2", "site-3", "site-4")
FOLDER = Path(os.environ.get(FOLDER_VARIABLE, "."))
REHEARSAL = Rehearsed(FOLDER / "rehearsal", SITES)
PROTOCOL = CkksSum(max_clients=4, max_weight=100, rounding=Rounding.NEAREST)
SECRET = "a patient's name"


def train(model: dict[str, Any], config: dict[str, Any]) -> Any:
    if collab.site_name == config["fails"]:
        raise ValueError(SECRET)
    place = SITES.index(collab.site_name)
    model["w"] += np.float32(0.1 * (place + 1))
    return model, {"num-examples": 10}


secure = secure_aggregation(PROTOCOL, REHEARSAL.enrol, train=train)


@collab.main
def main() -> None:
    clients = SecureClients(PROTOCOL, roster=REHEARSAL.roster, rounds=3)
    model = {"w": np.zeros(1000, np.float32)}
    ends = [clients.train(model, {"fails": name}) for name in ("", "site-4", "")]
    said = [[list(end.contributors), dict(end.lost), end.aborted] for end in ends]
    (FOLDER / "said.json").write_text(json.dumps(said))
