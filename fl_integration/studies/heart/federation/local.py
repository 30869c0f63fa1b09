"""One hospital's training in one round, as the study does it in one process, on arrays."""

import torch

from fl_integration.site.site import training_seed
from fl_integration.site.step import run_step
from fl_integration.studies.heart.federation.folders import Patients, State
from fl_integration.studies.heart.model import LOCAL, HeartModel

__all__ = ["trained"]


def trained(state: State, patients: Patients, *, client: str, round: int, seed: int) -> tuple[State, int]:
    """The model after a hospital's epochs, and how many patients it was trained on.

    Args:
        state: the global model of this round.
        patients: the hospital's own.
        client: its id.
        round: from 0.
        seed: of the whole study; see `training_seed`.
    """
    model = HeartModel()
    model.load_state_dict({name: torch.from_numpy(values.copy()) for name, values in state.items()})
    data = [(torch.from_numpy(patients[0]), torch.from_numpy(patients[1]))]
    seed = training_seed(seed=seed, round=round, client=client)
    weight = run_step(LOCAL, model, data, seed=seed, round=round).weight
    return {name: values.numpy() for name, values in model.state_dict().items()}, weight
