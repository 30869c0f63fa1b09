"""Three hospitals train one model under a secure sum, in NVFlare's simulator: `python hospitals.py`.

The records are made up, each hospital's from its own name, and never leave it. The model is a logistic
regression in numpy. In earnest `REHEARSAL.enrol` becomes `by_site_files`, the roster is read from a file, and
the recipe runs in a provisioned deployment; nothing else changes.
"""

import os
import sys
import zlib

import numpy as np
from nvflare.collab import CollabRecipe, collab
from nvflare.recipe import SimEnv

from fl_integration.nvflare import Rehearsed, SecureClients, secure_aggregation
from protocols import MaskedSum

SITES = ("clinic-a", "clinic-b", "clinic-c")
FEATURES, ROUNDS = 12, 5
PROTOCOL = MaskedSum(max_weight=1000, metrics={"train-loss": (0.0, 2.0)})
EVALUATION = {"accuracy": (0.0, 1.0)}
FOLDER = os.environ.get("QUICKSTART_FOLDER", "quickstart-run")
REHEARSAL = Rehearsed(os.path.abspath(os.path.join(FOLDER, "rehearsal")), SITES)


def records():
    """This hospital's patients: features, and who is ill."""
    generator = np.random.default_rng(zlib.crc32(collab.site_name.encode()))
    patients = int(generator.integers(200, 400))
    features = generator.normal(size=(patients, FEATURES))
    ill = features @ np.linspace(-1.0, 1.0, FEATURES) + generator.normal(size=patients) > 0
    return features, ill.astype(float)


def probabilities(model, features):
    return 1 / (1 + np.exp(-(features @ model["weight"] + model["bias"])))


def train(model, config):
    features, ill = records()
    for _ in range(config["epochs"]):
        wrong = probabilities(model, features) - ill
        model["weight"] -= config["lr"] * (features.T @ wrong / len(ill)).astype(np.float32)
        model["bias"] -= np.float32(config["lr"] * wrong.mean())
    found = np.clip(probabilities(model, features), 1e-6, 1 - 1e-6)
    loss = -np.mean(ill * np.log(found) + (1 - ill) * np.log(1 - found))
    return model, {"num-examples": len(ill), "train-loss": loss}


def evaluate(model, config):
    features, ill = records()
    right = (probabilities(model, features) > 0.5) == (ill > 0.5)
    return {"num-examples": len(ill), "accuracy": right.mean()}


secure = secure_aggregation(
    PROTOCOL, REHEARSAL.enrol, train=train, evaluate=evaluate, evaluate_metrics=EVALUATION
)


@collab.main
def main():
    clients = SecureClients(PROTOCOL, roster=REHEARSAL.roster, evaluate_metrics=EVALUATION, rounds=ROUNDS)
    model = {"weight": np.zeros(FEATURES, np.float32), "bias": np.zeros((), np.float32)}
    for number in range(ROUNDS):
        end = clients.train(model, {"lr": 0.5, "epochs": 5})
        model = end.model
        print(f"round {number}: {end.weight} patients, loss {end.metrics.get('train-loss')}, lost {end.lost}")
    found = clients.evaluate(model)
    print(f"accuracy {found.metrics['accuracy']:.3f} of {found.weight} patients at {len(found.contributors)}")
    np.savez(os.path.join(FOLDER, "model.npz"), **model)


if __name__ == "__main__":
    # The job's processes start elsewhere, and look in the same place.
    FOLDER = os.environ["QUICKSTART_FOLDER"] = os.path.abspath(FOLDER)
    recipe = CollabRecipe("hospitals", min_clients=len(SITES))
    recipe.execute(SimEnv(clients=list(SITES), workspace_root=os.path.join(FOLDER, "workspace")))
    sys.exit(0 if os.path.exists(os.path.join(FOLDER, "model.npz")) else 1)
