"""What runs inside the deployment that `test_deployment` starts: a server that greets its sites, twice."""

import json
import os
from pathlib import Path

from nvflare.collab import collab

from fl_integration.loopback.processes import FOLDER_VARIABLE, until

FOLDER = Path(os.environ.get(FOLDER_VARIABLE, "."))
GREETED = FOLDER / "greeted.json"
GO_ON = FOLDER / "go-on"
AGAIN = FOLDER / "again.json"
OWN = "DEPLOYMENT_TEST_OWN"


@collab.publish
def greet() -> list[str]:
    return [collab.site_name, os.environ.get(OWN, ""), __file__]


@collab.main
def main() -> None:
    write(GREETED, dict(collab.clients.greet()))
    if (seconds := collab.get_app_prop("seconds")) is None:
        return
    until(GO_ON.exists, seconds=60, what="the test says so")
    answers = collab.clients(timeout=seconds).greet()
    write(AGAIN, [sorted(dict(answers)), sorted(answers.failures)])


def write(path: Path, content: object) -> None:
    path.with_suffix(".part").write_text(json.dumps(content))
    path.with_suffix(".part").replace(path)
