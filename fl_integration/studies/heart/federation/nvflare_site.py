"""A hospital's part of the job on NVFlare's engine: one published method, and the training behind it.

Which protocol it takes part in, and under which name, is in the environment of the site's own process, which
the hospital sets and no server can. Its key and the roster are named by `secagg.json` in the site's folder.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from fl_integration.loopback.processes import FOLDER_VARIABLE
from fl_integration.nvflare import by_site_files, secure_aggregation
from fl_integration.studies.heart.choices import Choice
from fl_integration.studies.heart.federation.folders import Federation
from fl_integration.studies.heart.federation.journal import Event
from fl_integration.studies.heart.records import Site

__all__ = ["HOSPITAL", "PROTOCOL", "SEED", "SITES", "secure"]

HOSPITAL: Final = "SECAGG_STUDY_HOSPITAL"
PROTOCOL: Final = "SECAGG_STUDY_PROTOCOL"
SEED: Final = "SECAGG_STUDY_SEED"
SITES: Final = "SECAGG_STUDY_SITES"


def train(model: dict[str, Any], config: dict[str, Any]) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """One round on this hospital's patients."""
    from fl_integration.studies.heart.federation.local import trained

    site, number = Site(os.environ[HOSPITAL]), int(config["round"])
    here = Federation(Path(os.environ[FOLDER_VARIABLE])).at(site)
    here.journal.add(Event.TRAINS, round=number)
    state, weight = trained(
        model, here.load_patients(), client=site.value, round=number, seed=int(os.environ[SEED])
    )
    here.journal.add(Event.TRAINED, round=number)
    return state, {"num-examples": weight}


secure = secure_aggregation(
    # The server imports this module as well, to know what it may call, and has no such settings.
    Choice(os.environ.get(PROTOCOL, Choice.MASKED.value)).protocol(clients=int(os.environ.get(SITES, "3"))),
    by_site_files,
    train=train,
)
