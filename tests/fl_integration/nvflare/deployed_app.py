"""What runs inside a provisioned deployment: sites that are who their kits say, by files of their own.

The module is installed at the sites, as a hospital would have it; no job brings it.
"""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
from nvflare.collab import collab

from fl_integration.embedding.carrier import Patience
from fl_integration.loopback.processes import FOLDER_VARIABLE
from fl_integration.nvflare import SecureClients, by_site_files, secure_aggregation
from fl_integration.site.roster_file import read_roster
from protocols import MaskedSum

SITES = ("cleveland", "hungarian", "va", "zurich")
FOLDER = Path(os.environ.get(FOLDER_VARIABLE, "."))
ROSTER = FOLDER / "roster.txt"
SAID = FOLDER / "said.json"
PROTOCOL = MaskedSum(max_weight=100)


def train(model: dict[str, Any], config: dict[str, Any]) -> Any:
    place = 1 + SITES.index(collab.site_name)
    return {"w": model["w"] + np.float32(config["lr"] * 0.1 * place)}, {"num-examples": 10 * place}


secure = secure_aggregation(PROTOCOL, by_site_files, train=train)


@collab.main
def main() -> None:
    clients = SecureClients(PROTOCOL, roster=read_roster(ROSTER), patience=Patience(connect=10.0), rounds=2)
    model, said = {"w": np.zeros(10**5, np.float32)}, []
    for _ in range(2):
        end = clients.train(model, {"lr": 0.5})
        model = dict(end.model)
        reached = float(model["w"].mean())
        said.append([list(end.contributors), dict(end.lost), end.aborted, end.weight, reached])
    SAID.write_text(json.dumps(said))
