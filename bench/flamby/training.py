"""FLamby's training of a logistic regression, in numpy: a site's step, and baselines without a federation.

A site takes 100 updates of four examples a round from an endless run through its examples, newly shuffled
each time. Here the run's order is a function of (seed, site, pass), so that a round is repeated from its
number alone. With 14 weights torch's overhead would be most of the time: the gradient is written out, in
float64, and the module's weights are read before and written after.
"""

from dataclasses import dataclass, replace
from typing import Final, Self, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from bench.flamby.patients import INPUTS, Examples

__all__ = ["Epochs", "SiteSgd", "train_alone", "untrained", "weights_of"]

Floats: TypeAlias = npt.NDArray[np.float64]

BATCH: Final = 4
UPDATES: Final = 100


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Epochs:
    """One site's examples, and the order in which they come.

    Args:
        examples: of the site.
        seed: what the order is drawn from, together with the number of the pass.
    """

    examples: Examples
    seed: tuple[int, ...]

    @property
    def batches(self) -> int:
        """Batches in a pass; the last one is smaller if it must."""
        return -(-len(self.examples) // BATCH)

    def batch_rows(self, first: int, count: int) -> list[npt.NDArray[np.int64]]:
        """The rows of `count` batches, from the one of number `first` (from 0) of the endless run."""
        passes = range(first // self.batches, (first + count - 1) // self.batches + 1)
        rows = [part for number in passes for part in self._pass(number)]
        skipped = first - passes[0] * self.batches
        return rows[skipped : skipped + count]

    def _pass(self, number: int) -> list[npt.NDArray[np.int64]]:
        order = np.random.default_rng([*self.seed, number]).permutation(len(self.examples))
        return [order[start : start + BATCH] for start in range(0, len(order), BATCH)]


@dataclass(frozen=True, slots=True, kw_only=True)
class SiteSgd:
    """One round of a site: 100 updates of SGD.

    Args:
        learning_rate: of each update.
        proximal: FedProx's mu; 0 is FedAvg.
        round: its number: it takes the run's batches [100·round, 100·round + 100).
    """

    learning_rate: float
    proximal: float = 0.0
    round: int = 0

    def at(self, round: int) -> Self:
        """The same in another round."""
        return replace(self, round=round)

    def __call__(self, model: nn.Module, data: Epochs, *, seed: int) -> int:
        """Trains `model` in place; the weight is the number of examples. `data` has the seed that counts."""
        start = weights_of(model)
        weights, (x, y) = start.copy(), (data.examples.x, data.examples.y)
        for rows in data.batch_rows(UPDATES * self.round, UPDATES):
            gradient = _gradient(weights, x[rows], y[rows])
            weights -= self.learning_rate * (gradient + self.proximal * (weights - start))
        _write(model, weights)
        return len(data.examples)


def train_alone(model: nn.Module, data: Epochs, *, epochs: int = 50) -> None:
    """FLamby's baselines: Adam (Kingma and Ba, ICLR'15) with its usual constants and a rate of 1e-3."""
    weights, (x, y) = weights_of(model), (data.examples.x, data.examples.y)
    first, second = np.zeros_like(weights), np.zeros_like(weights)
    for number, rows in enumerate(data.batch_rows(0, epochs * data.batches), start=1):
        gradient = _gradient(weights, x[rows], y[rows])
        first = 0.9 * first + 0.1 * gradient
        second = 0.999 * second + 0.001 * gradient**2
        size = np.sqrt(second / (1 - 0.999**number)) + 1e-8
        weights -= 1e-3 * first / (1 - 0.9**number) / size
    _write(model, weights)


def untrained(seed: int) -> nn.Module:
    """Torch's own initial values from this seed, as float64; torch's generator is put back."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Linear(INPUTS, 1).double()


def weights_of(model: nn.Module) -> Floats:
    """float64[14]: a copy of the weights, the bias last."""
    return np.concatenate([p.detach().numpy().reshape(-1) for p in model.parameters()])


def _gradient(weights: Floats, x: Floats, y: Floats) -> Floats:
    """Of the mean cross-entropy over a batch."""
    probability = 1.0 / (1.0 + np.exp(-(x @ weights)))
    return (probability - y) @ x / len(y)


def _write(model: nn.Module, weights: Floats) -> None:
    with torch.no_grad():
        for parameter, values in zip(model.parameters(), np.split(weights, [INPUTS]), strict=True):
            parameter.copy_(torch.from_numpy(values).view_as(parameter))
