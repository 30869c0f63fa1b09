"""The model, the data and the training of one site: nothing here knows of Flower, nor of secure sums."""

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from fl_integration.studies.heart.records import load_hospitals
from secagg_quickstart.sites import HOSPITALS


class Net(nn.Module):
    """A small network over one patient's record."""

    def __init__(self, features: int = 15) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(features, 16), nn.ReLU(), nn.Linear(16, 1))

    def forward(self, records: torch.Tensor) -> torch.Tensor:
        """One logit for each record: float32[n, features] -> float32[n]."""
        logits: torch.Tensor = self.layers(records)
        return logits.squeeze(1)


def load_data(partition_id: int) -> tuple[DataLoader, DataLoader]:
    """One hospital's patients, for training and for testing."""
    hospital = load_hospitals(sites=HOSPITALS, seed=0)[partition_id]
    parts = ((hospital.train_x, hospital.train_y), (hospital.test_x, hospital.test_y))
    loaders = []
    for shuffle, (records, labels) in zip((True, False), parts, strict=True):
        tensors = (torch.from_numpy(np.asarray(each, np.float32)) for each in (records, labels))
        loaders.append(DataLoader(TensorDataset(*tensors), batch_size=32, shuffle=shuffle))
    return loaders[0], loaders[1]


def train(net: nn.Module, patients: DataLoader, *, epochs: int, learning_rate: float) -> float:
    """Trains in place; the mean loss of the last epoch."""
    optimiser, loss_of = torch.optim.SGD(net.parameters(), lr=learning_rate), nn.BCEWithLogitsLoss()
    net.train()
    losses: list[float] = []
    for _ in range(epochs):
        losses = []
        for records, labels in patients:
            optimiser.zero_grad()
            loss = loss_of(net(records), labels)
            loss.backward()
            optimiser.step()
            losses.append(loss.item())
    return sum(losses) / len(losses)


def test(net: nn.Module, patients: DataLoader) -> float:
    """The accuracy."""
    net.eval()
    right = 0
    with torch.no_grad():
        for records, labels in patients:
            right += int(((net(records) > 0) == (labels > 0.5)).sum())
    return right / len(patients.dataset)
