"""What runs in NVFlare's simulator to be timed: an average in the clear, and our protocols, in one job.

A site publishes one method for each contender, and the server's main function lets them take turns, so that a
busy neighbour meets all of them, and the simulator's start is nobody's. Training is next to nothing: every
site adds `STEP` to every value. A model that does not end where all their steps bring it is an error: a
contender that lost a round would look fast. (Where the clients learn the sum, the server's stays as it was.)

In the clear the arrays travel as Collab's users send them, numpy's own. Our sites keep their state and
release logs in files, as they would anywhere. `python -m bench.nvflare_app FOLDER` runs the job and leaves
seconds by contender in `report.json` there.
"""

import json
import os
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
from nvflare.collab import CollabRecipe, collab
from nvflare.recipe import SimEnv

from fl_integration.nvflare import Enrolment, Rehearsed, SecureClients, secure_aggregation
from protocols import CkksSum, LatticeSum, Learner, MaskedSum, PaillierSum

__all__ = ["CLEAR", "FOLDER_VARIABLE", "NODES", "PROTOCOLS", "REPORT"]

NODES: Final = 3
VALUES: Final = 10**6
STEP: Final = 0.01
TOLERANCE: Final = 1e-4
CLEAR: Final = "average in the clear"
REPORT: Final = "report.json"
FOLDER_VARIABLE: Final = "SECAGG_BENCH_NVFLARE"
"""Where the job's processes find the run's folder."""
ROUNDS_VARIABLE: Final = "SECAGG_BENCH_NVFLARE_ROUNDS"

FOLDER: Final = Path(os.environ.get(FOLDER_VARIABLE, "."))
SITES: Final = tuple(f"site-{place + 1}" for place in range(NODES))
SHAPE: Final = {"max_clients": NODES, "max_weight": 8}
PROTOCOLS: Final = {
    "MaskedSum": MaskedSum(**SHAPE),
    "LatticeSum": LatticeSum(**SHAPE),
    "LatticeSum over PaillierSum": LatticeSum(keys=PaillierSum, **SHAPE),
    "CkksSum": CkksSum(**SHAPE),
}
REHEARSAL: Final = Rehearsed(FOLDER / "rehearsal", SITES)


def train(model: dict[str, Any], config: dict[str, Any]) -> Any:
    """Next to nothing."""
    return {"w": model["w"] + np.float32(STEP)}, {"num-examples": 1}


def _enrol(contender: str, site: str) -> Enrolment:
    enrolment = REHEARSAL.enrol(site)
    return Enrolment(
        identity=enrolment.identity,
        roster=enrolment.roster,
        state_dir=FOLDER / contender / site,
    )


@collab.publish
def in_the_clear(model: Any) -> Any:
    """What a site answers without secagg."""
    return train(model, {})


def _published(contender: str) -> Any:
    return secure_aggregation(
        PROTOCOLS[contender],
        partial(_enrol, contender),
        train=train,
        study=contender,
        in_the_clear=("in_the_clear",),
    )


masked, lattice, paillier, ckks = map(_published, PROTOCOLS)


def average(model: Any) -> Any:
    """A round as Collab's users write it."""
    answers = [answer for _, answer in collab.clients(timeout=600.0).in_the_clear(model)]
    return {"w": np.mean([each["w"] for each, _ in answers], axis=0, dtype=np.float32)}


def _secure(contender: str, published: str) -> Callable[[Any], Any]:
    clients = SecureClients(
        PROTOCOLS[contender], roster=REHEARSAL.roster, study=contender, published=published, rounds=10**6
    )

    def run(model: Any) -> Any:
        end = clients.train(model)
        if len(end.contributors) != NODES:
            raise RuntimeError(f"{contender}: a round was lost: {end.aborted} {end.lost}")
        return end.model

    return run


@collab.main
def main() -> None:
    """All contenders in turns."""
    names = ("masked", "lattice", "paillier", "ckks")
    contenders = {CLEAR: average} | {
        name: _secure(name, published) for name, published in zip(PROTOCOLS, names, strict=True)
    }
    models = {name: {"w": np.zeros(VALUES, np.float32)} for name in contenders}
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for number in range(int(os.environ[ROUNDS_VARIABLE])):
        for name, run in contenders.items():
            before = time.perf_counter()
            models[name] = run(models[name])
            seconds[name].append(time.perf_counter() - before)
            moves = name == CLEAR or PROTOCOLS[name].learns is Learner.SERVER
            reached = (number + 1) * STEP if moves else 0.0
            if not np.allclose(models[name]["w"], reached, rtol=0, atol=(number + 1) * TOLERANCE):
                raise RuntimeError(f"{name}: the model is not where {number + 1} rounds bring it")
    (FOLDER / REPORT).write_text(json.dumps(seconds), encoding="utf-8")


def job(folder: Path, *, rounds: int) -> None:
    """Runs the job in NVFlare's simulator."""
    os.environ[FOLDER_VARIABLE], os.environ[ROUNDS_VARIABLE] = str(folder), str(rounds)
    module = sys.modules[__name__]
    recipe = CollabRecipe("bench", server=module, client=module, min_clients=NODES)
    recipe.execute(SimEnv(clients=list(SITES), workspace_root=str(folder / "workspace")))


if __name__ == "__main__":
    job(Path(sys.argv[1]), rounds=int(sys.argv[2]))
