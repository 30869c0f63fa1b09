"""One client's local training, repeatable from a seed.

The client's half of FedAvg (McMahan et al., AISTATS'17, ClientUpdate): some epochs of mini-batch SGD from the
round's reference model. With `proximal` it is FedProx's (Li et al., MLSys'20): a pull of strength mu towards
that reference, which bounds how far clients with different data drift apart. What is sent afterwards, and
how, is not decided here.

Same model, examples, settings and seed: same result, bit for bit, on the same machine and torch build. The
order of examples comes from a generator of its own; layers that draw from torch's global generator (dropout)
see it seeded, and it is put back as it was. On a GPU some kernels are not deterministic whatever the seed.

This does not bound what an update reveals about its examples: clipping and noise are for that, elsewhere.

>>> import torch
>>> model = torch.nn.Linear(1, 1)
>>> x = torch.arange(8.0).unsqueeze(1)
>>> settings = LocalTraining(epochs=20, batch_size=4, learning_rate=0.02)
>>> train_locally(model, [(x, 3 * x)], loss=torch.nn.functional.mse_loss, settings=settings, seed=1)
8
>>> bool(abs(model.weight.item() - 3) < 0.5)
True
"""

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from secagg.errors import MissingExtraError, ParameterError
from secagg.numbers import is_number, plain, plain_fields

try:
    import torch
    from torch import nn
except ImportError as error:
    raise MissingExtraError(package="torch", extra="train") from error

__all__ = ["Examples", "LocalTraining", "Loss", "predict", "train_locally"]

Examples: TypeAlias = torch.Tensor | npt.NDArray[np.generic]
"""A tensor or array whose first axis counts examples."""

Loss: TypeAlias = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""`loss(prediction, y)`: a scalar, averaged over the batch."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalTraining:
    """What a client does with its examples in one round.

    Args:
        epochs: passes over the examples, at least 1.
        batch_size: examples a step, at least 1; None takes them all in one step. Batches are equal to
            within one example, so that no stray example makes a batch of its own.
        learning_rate: SGD's step, above 0.
        momentum: in [0, 1); starts from zero in each round.
        weight_decay: L2 penalty, at least 0.
        proximal: FedProx's mu, at least 0; 0 is FedAvg.

    Raises:
        ParameterError: a value is outside its range.
    """

    learning_rate: float
    epochs: int = 1
    batch_size: int | None = 32
    momentum: float = 0.0
    weight_decay: float = 0.0
    proximal: float = 0.0

    def __post_init__(self) -> None:
        plain_fields(self, "learning_rate", "epochs", "batch_size", "momentum", "weight_decay", "proximal")
        if type(self.epochs) is not int or self.epochs < 1:
            raise ParameterError(f"epochs is {self.epochs!r}; it must be an int of at least 1")
        if self.batch_size is not None and (type(self.batch_size) is not int or self.batch_size < 1):
            raise ParameterError(
                f"batch_size is {self.batch_size!r}; it must be an int of at least 1, or None"
            )
        if not is_number(self.learning_rate) or not 0 < self.learning_rate < math.inf:
            raise ParameterError(f"learning_rate is {self.learning_rate!r}; it must be finite and above 0")
        if not is_number(self.momentum) or not 0 <= self.momentum < 1:
            raise ParameterError(f"momentum is {self.momentum!r}; it must be in [0, 1)")
        if not is_number(self.weight_decay) or not 0 <= self.weight_decay < math.inf:
            raise ParameterError(f"weight_decay is {self.weight_decay!r}; it must be finite and at least 0")
        if not is_number(self.proximal) or not 0 <= self.proximal < math.inf:
            raise ParameterError(f"proximal is {self.proximal!r}; it must be finite and at least 0")


def train_locally(
    model: nn.Module,
    loader: Iterable[tuple[Examples, Examples]],
    *,
    loss: Loss,
    settings: LocalTraining,
    seed: int,
) -> int:
    """Train `model` in place on one client's examples.

    Args:
        model: holds the round's reference parameters; those with `requires_grad` are trained.
        loader: pieces `(x, y)` with equal first axes: `[(x, y)]`, or a DataLoader. It is read once, its
            pieces are joined in memory, and batches are cut afresh as `settings` say.
        loss: averaged over a batch.
        settings: see `LocalTraining`.
        seed: in [0, 2**63); give each client and round its own.

    Returns:
        The number of examples, which is this client's weight in the mean. No gradient is left behind.

    Raises:
        ParameterError: the seed, a piece or the model does not fit; the model is as it was.
    """
    seed = plain(seed)
    if type(seed) is not int or not 0 <= seed < 1 << 63:
        raise ParameterError(f"seed is {seed!r}; it must be an int in [0, 2**63)")
    trained = [p for p in model.parameters() if p.requires_grad]
    if not trained:
        raise ParameterError("the model has no parameter with requires_grad; there is nothing to train")
    shuffle = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())), _mode(model, training=True):
        torch.manual_seed(int(torch.randint(1 << 62, (), generator=shuffle)))
        x, y = _joined(loader, device=trained[0].device)
        reference = [p.detach().clone() for p in trained] if settings.proximal else []
        optimiser = torch.optim.SGD(
            trained,
            lr=settings.learning_rate,
            momentum=settings.momentum,
            weight_decay=settings.weight_decay,
        )
        batches = 1 if settings.batch_size is None else -(-len(x) // settings.batch_size)
        for _ in range(settings.epochs):
            order = torch.randperm(len(x), generator=shuffle).to(x.device)
            for rows in order.tensor_split(batches):
                optimiser.zero_grad()
                loss(model(x[rows]), y[rows]).backward()  # type: ignore[no-untyped-call]
                # FedProx, eq. 2: the gradient of mu/2 · ||w - w_t||^2.
                for parameter, start in zip(trained, reference, strict=False):
                    if parameter.grad is not None:
                        parameter.grad.add_(parameter.detach() - start, alpha=settings.proximal)
                optimiser.step()
        optimiser.zero_grad()
    return len(x)


def predict(model: nn.Module, x: Examples, *, batch_size: int = 1024) -> npt.NDArray[np.float32]:
    """What the model says of each example, in evaluation mode and without gradients.

    Args:
        model: is left in the mode that it was in.
        x: [n, …].
        batch_size: examples at a time, at least 1; it bounds memory and nothing else.

    Returns:
        float32[n, …], the model's raw output (log-odds, say).
    """
    batch_size = plain(batch_size)
    if type(batch_size) is not int or batch_size < 1:
        raise ParameterError(f"batch_size is {batch_size!r}; it must be an int of at least 1")
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    with torch.inference_mode(), _mode(model, training=False):
        parts = [model(part.to(device)).float().cpu() for part in torch.split(torch.as_tensor(x), batch_size)]
    return np.asarray(torch.cat(parts).numpy(), np.float32)


def _joined(
    loader: Iterable[tuple[Examples, Examples]], *, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """All pieces as one pair of tensors on `device`."""
    pieces = [_pair(index, piece) for index, piece in enumerate(loader)]
    for axis, name in enumerate("xy"):
        forms = sorted({f"{piece[axis].dtype} {list(piece[axis].shape[1:])}" for piece in pieces})
        if len(forms) > 1:
            raise ParameterError(f"the pieces' {name} are {' and '.join(forms)}; all examples must be alike")
    if not sum(len(x) for x, _ in pieces):
        raise ParameterError("the loader has no examples; a client without any sits the round out")
    return torch.cat([x for x, _ in pieces]).to(device), torch.cat([y for _, y in pieces]).to(device)


def _pair(index: int, piece: tuple[Examples, Examples]) -> tuple[torch.Tensor, torch.Tensor]:
    try:
        x, y = (torch.as_tensor(part) for part in piece)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ParameterError(f"piece {index} of the loader is not a pair (x, y) of arrays") from error
    if x.ndim == 0 or y.ndim == 0 or len(x) != len(y):
        raise ParameterError(
            f"piece {index} has x of shape {tuple(x.shape)} and y of shape {tuple(y.shape)}; "
            "their first axes must count the same examples"
        )
    return x, y


@contextmanager
def _mode(model: nn.Module, *, training: bool) -> Iterator[None]:
    """Training or evaluation mode inside, every module's own mode back afterwards."""
    modes = [(module, module.training) for module in model.modules()]
    model.train(training)
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode
