"""A site's local training: epochs of mini-batches over pairs (x, y), repeatable from a seed.

The client's half of FedAvg (McMahan et al., AISTATS'17, ClientUpdate): some epochs of mini-batch SGD, or of
another optimiser, from the round's reference model. With `proximal` it is FedProx's (Li et al., MLSys'20): a
pull of strength mu towards that reference, which bounds how far sites with different data drift apart. What
is sent afterwards, and how, is not decided here. Whoever needs other batches, several losses or mixed
precision writes a step instead (`fl_integration.site.step`).

Same model, examples, settings and seed: same result, bit for bit, on the same machine and torch build. The
order of examples comes from a generator of its own; what draws from the global ones (dropout) sees them
seeded, and they are put back as they were. On a GPU some kernels are not deterministic whatever the seed.

This does not bound what an update reveals about its examples: clipping and noise are for that, elsewhere.
`clip_gradient` clips the mean gradient of a batch, which bounds no single example's part.

>>> import torch
>>> model = torch.nn.Linear(1, 1)
>>> x = torch.arange(8.0).unsqueeze(1)
>>> local = LocalTraining(loss=torch.nn.functional.mse_loss, learning_rate=0.02, epochs=20, batch_size=4)
>>> trained = local(model, [(x, 3 * x)], seed=1)
>>> trained.weight, trained.metrics["loss"] < 1, bool(abs(model.weight.item() - 3) < 0.5)
(8, True, True)
"""

import inspect
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from fl_integration.site.step import Trained, checked_seed, isolated, kept_modes
from secagg.errors import MissingExtraError, ParameterError
from secagg.numbers import is_number, plain, plain_fields

try:
    import torch
    from torch import nn
    from torch.nn.modules.batchnorm import _BatchNorm
except ImportError as error:
    raise MissingExtraError(package="torch", extra="train") from error

__all__ = ["Examples", "LocalTraining", "Loss", "OptimiserFactory", "pieces_of", "predict", "train_mode"]

Examples: TypeAlias = torch.Tensor | npt.NDArray[np.generic]
"""A tensor or array whose first axis counts examples."""

Loss: TypeAlias = Callable[..., torch.Tensor]
"""`loss(prediction, y)`: a scalar, averaged over the batch."""

OptimiserFactory: TypeAlias = Callable[..., torch.optim.Optimizer]
"""`optimiser(parameters, lr=rate)`: a class of `torch.optim`, or a `functools.partial` of one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalTraining:
    """What a site does with its examples in one round; it is a `Step`.

    Args:
        loss: `loss(prediction, y)`, averaged over the batch; see `Loss`.
        learning_rate: the optimiser's step, above 0; or a sequence with one for each round.
        optimiser: see `OptimiserFactory`; it starts afresh in each round. SGD if left out. One that evaluates
            the loss itself (LBFGS) needs a step of one's own.
        epochs: passes over the examples, at least 1.
        batch_size: examples a step, at least 1; None takes them all in one step. Batches are equal to
            within one example, so that no stray example makes a batch of its own.
        momentum: SGD's, in [0, 1); starts from zero in each round.
        weight_decay: SGD's L2 penalty, at least 0.
        proximal: FedProx's mu, at least 0; 0 is FedAvg.
        clip_gradient: the largest L2 norm, above 0, that a step's gradient (all parameters together, the
            proximal pull included) may have; a longer one is scaled down. None for no limit.
        class_weights: one weight above 0 for each class, where y holds class numbers from 0. A batch's loss
            is then sum(w_i · l_i) / sum(w_i) over its labels, which is what torch's `cross_entropy` does with
            its `weight`; `loss` must take `reduction="none"` for it, as those of `torch.nn.functional` do.

    Raises:
        ParameterError: a value is outside its range, or two do not go together.
    """

    loss: Loss
    learning_rate: float | Sequence[float]
    optimiser: OptimiserFactory | None = None
    epochs: int = 1
    batch_size: int | None = 32
    momentum: float = 0.0
    weight_decay: float = 0.0
    proximal: float = 0.0
    clip_gradient: float | None = None
    class_weights: Sequence[float] | None = None

    def __post_init__(self) -> None:
        plain_fields(self, "epochs", "batch_size", "momentum", "weight_decay", "proximal", "clip_gradient")
        if not callable(self.loss):
            raise ParameterError(f"loss is {self.loss!r}; it must be a function loss(prediction, y)")
        object.__setattr__(self, "learning_rate", _rates(self.learning_rate))
        if type(self.epochs) is not int or self.epochs < 1:
            raise ParameterError(f"epochs is {self.epochs!r}; it must be an int of at least 1")
        if self.batch_size is not None and (type(self.batch_size) is not int or self.batch_size < 1):
            raise ParameterError(
                f"batch_size is {self.batch_size!r}; it must be an int of at least 1, or None"
            )
        if not is_number(self.momentum) or not 0 <= self.momentum < 1:
            raise ParameterError(f"momentum is {self.momentum!r}; it must be in [0, 1)")
        for name, value in {"weight_decay": self.weight_decay, "proximal": self.proximal}.items():
            if not is_number(value) or not 0 <= value < math.inf:
                raise ParameterError(f"{name} is {value!r}; it must be finite and at least 0")
        if self.clip_gradient is not None and not _above_zero(self.clip_gradient):
            raise ParameterError(
                f"clip_gradient is {self.clip_gradient!r}; it must be finite and above 0, or None"
            )
        self._check_optimiser()
        self._check_class_weights()

    def check(self, *, rounds: int) -> None:
        """Whether the learning rates do for so many rounds.

        Raises:
            ParameterError: there is one for each round, and their number is another.
        """
        if isinstance(self.learning_rate, Sequence) and len(self.learning_rate) != plain(rounds):
            raise ParameterError(
                f"learning_rate has {len(self.learning_rate)} rates and there are {rounds!r} rounds; "
                "give one number, or one for each round"
            )

    def at(self, round: int) -> "LocalTraining":
        """The same with the learning rate of one round.

        Args:
            round: from 0.

        Raises:
            ParameterError: there is no rate for this round.
        """
        if not isinstance(self.learning_rate, Sequence):
            return self
        round = plain(round)
        if type(round) is not int or not 0 <= round < len(self.learning_rate):
            raise ParameterError(
                f"round is {round!r}; learning_rate has those of rounds 0 to {len(self.learning_rate) - 1}"
            )
        return replace(self, learning_rate=self.learning_rate[round])

    def __call__(self, model: nn.Module, data: Iterable[tuple[Examples, Examples]], *, seed: int) -> Trained:
        """Train `model` in place on one site's examples.

        Args:
            model: holds the round's reference parameters; those with `requires_grad` are trained. A BatchNorm
                whose weight and bias are both frozen stays in evaluation mode: its statistics do not move.
            data: pieces `(x, y)` with equal first axes: `[(x, y)]`, or a DataLoader. It is read once, its
                pieces are joined on the model's device, and batches are cut afresh as these settings say.
                Floating x and y take the dtype of the model's first floating parameter, integers keep theirs.
            seed: in [0, 2**63); give each site and round its own.

        Returns:
            The number of examples as weight, and the metric "loss": the mean training loss of the last epoch,
            each batch's as it was before its step, without the proximal term.

        Raises:
            ParameterError: the seed, a piece or the model does not fit, and the model is as it was; or
                training diverged, and the model is of no use.
        """
        if isinstance(self.learning_rate, Sequence):
            raise ParameterError(
                "learning_rate has one rate for each round; at(round) gives the settings of one"
            )
        shuffle = torch.Generator().manual_seed(checked_seed(seed))
        trained = [p for p in model.parameters() if p.requires_grad]
        if not trained:
            raise ParameterError("the model has no parameter with requires_grad; there is nothing to train")
        if name := _first_not_finite(model):
            raise ParameterError(f"parameter {name!r} is not finite before training has begun")
        drawn = int(torch.randint(1 << 62, (), generator=shuffle, device="cpu"))
        with isolated(model, seed=drawn):
            train_mode(model)
            x, y = _joined(data, model)
            weights = self._example_weights(y, dtype=trained[0].dtype)
            reference = [p.detach().clone() for p in trained] if self.proximal else []
            optimiser = self._optimiser(trained, rate=self.learning_rate)
            batches = 1 if self.batch_size is None else -(-len(x) // self.batch_size)
            for _ in range(self.epochs):
                order = torch.randperm(len(x), generator=shuffle, device="cpu").to(x.device)
                losses, sizes = [], []
                for rows in order.tensor_split(batches):
                    optimiser.zero_grad()
                    loss = self._batch_loss(
                        model(x[rows]), y[rows], None if weights is None else weights[rows]
                    )
                    loss.backward()  # type: ignore[no-untyped-call]
                    self._adjust_gradient(trained, reference)
                    optimiser.step()
                    losses.append(loss.detach())
                    sizes.append(len(rows))
        # The losses stay on the device until here: to read one in the loop would make each step wait for it.
        mean = float(np.average(torch.stack(losses).cpu().double().numpy(), weights=sizes))
        if not math.isfinite(mean) or _first_not_finite(model):
            raise ParameterError(
                "training diverged: the loss or a parameter is not finite; "
                "lower the learning rate, or look for NaN in the examples"
            )
        return Trained(weight=len(x), metrics={"loss": mean})

    def _optimiser(self, parameters: list[nn.Parameter], *, rate: float) -> torch.optim.Optimizer:
        if self.optimiser is None:
            return torch.optim.SGD(
                parameters, lr=rate, momentum=self.momentum, weight_decay=self.weight_decay
            )
        optimiser = self.optimiser(parameters, lr=rate)
        if not isinstance(optimiser, torch.optim.Optimizer):
            raise ParameterError(
                f"optimiser made a {type(optimiser).__name__}; it must make a torch.optim.Optimizer"
            )
        closure = inspect.signature(optimiser.step).parameters.get("closure")
        if closure is not None and closure.default is closure.empty:
            raise ParameterError(
                f"{type(optimiser).__name__} evaluates the loss itself, by a closure; "
                "write a step of your own for it (fl_integration.site.step)"
            )
        return optimiser

    def _batch_loss(
        self, prediction: torch.Tensor, y: torch.Tensor, weights: torch.Tensor | None
    ) -> torch.Tensor:
        """The loss that is followed downhill, a tensor without axes."""
        if weights is None:
            loss = self.loss(prediction, y)
            if not isinstance(loss, torch.Tensor) or loss.numel() != 1:
                found = list(loss.shape) if isinstance(loss, torch.Tensor) else f"a {type(loss).__name__}"
                raise ParameterError(
                    f"the loss of a batch is {found}; it must be a tensor of one value, the mean"
                )
            return loss.reshape(())
        each = self.loss(prediction, y, reduction="none")
        if each.shape != weights.shape:
            raise ParameterError(
                f'the loss with reduction="none" is {list(each.shape)} where y is {list(y.shape)}; '
                "class_weights need one loss for each label"
            )
        return (weights * each).sum() / weights.sum()

    def _adjust_gradient(self, trained: list[nn.Parameter], reference: list[torch.Tensor]) -> None:
        # FedProx, eq. 2: the gradient of mu/2 · ||w - w_t||^2.
        for parameter, start in zip(trained, reference, strict=False):
            if parameter.grad is not None:
                parameter.grad.add_(parameter.detach() - start, alpha=self.proximal)
        if self.clip_gradient is not None:
            nn.utils.clip_grad_norm_(trained, self.clip_gradient)

    def _example_weights(self, y: torch.Tensor, *, dtype: torch.dtype) -> torch.Tensor | None:
        """Each label's weight, of y's shape."""
        if self.class_weights is None:
            return None
        table = torch.from_numpy(np.array(self.class_weights)).to(dtype).to(y.device)
        labels = y.long()
        if bool(((labels != y) | (labels < 0) | (labels >= len(table))).any()):
            raise ParameterError(
                f"y has a label that is none of the classes 0 to {len(table) - 1}; "
                "class_weights has one weight for each class"
            )
        return table[labels]

    def _check_optimiser(self) -> None:
        if self.optimiser is None:
            return
        if not callable(self.optimiser):
            raise ParameterError(
                f"optimiser is a {type(self.optimiser).__name__}; it must be a class of torch.optim, "
                "or another function of (parameters, lr=…)"
            )
        if self.momentum or self.weight_decay:
            raise ParameterError(
                "momentum and weight_decay are the default optimiser's; give yours its own: "
                "functools.partial(torch.optim.AdamW, weight_decay=…)"
            )
        if isinstance(self.optimiser, partial) and "lr" in self.optimiser.keywords:
            raise ParameterError("the optimiser has an lr of its own; its rate is learning_rate")

    def _check_class_weights(self) -> None:
        if self.class_weights is None:
            return
        weights = _numbers(self.class_weights)
        if not isinstance(weights, tuple) or len(weights) < 2 or not all(map(_above_zero, weights)):
            raise ParameterError(
                f"class_weights is {weights!r}; it must be a list of finite numbers above 0, one a class"
            )
        object.__setattr__(self, "class_weights", weights)
        if not _takes_reduction(self.loss):
            raise ParameterError(
                "class_weights need a loss that takes reduction=, such as torch.nn.functional.cross_entropy; "
                "this one does not"
            )


def predict(model: nn.Module, x: Examples, *, batch_size: int = 1024) -> npt.NDArray[np.float32]:
    """What the model says of each example, in evaluation mode and without gradients.

    Args:
        model: is left in the mode that it was in.
        x: [n, …]; floating values take the dtype of the model's first floating parameter.
        batch_size: examples at a time, at least 1; it bounds memory and nothing else.

    Returns:
        float32[n, …], the model's raw output (log-odds, say).
    """
    batch_size = plain(batch_size)
    if type(batch_size) is not int or batch_size < 1:
        raise ParameterError(f"batch_size is {batch_size!r}; it must be an int of at least 1")
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    with torch.inference_mode(), kept_modes(model):
        model.eval()
        parts = [
            model(_fitted(part, model, device)).float().cpu() for part in torch.split(_tensor(x), batch_size)
        ]
    return np.asarray(torch.cat(parts).numpy(), np.float32)


def _takes_reduction(loss: Loss) -> bool:
    try:
        taken = inspect.signature(loss.forward if isinstance(loss, nn.Module) else loss).parameters.values()
    except ValueError:  # what is written in C may have no signature
        return False
    return any(p.name == "reduction" or p.kind is p.VAR_KEYWORD for p in taken)


def train_mode(model: nn.Module) -> None:
    """Training mode, but for a frozen BatchNorm: its statistics belong to the values that do not move."""
    model.train()
    for module in model.modules():
        if isinstance(module, _BatchNorm) and module.affine:
            module.training = any(p.requires_grad for p in module.parameters(recurse=False))


def _first_not_finite(model: nn.Module) -> str | None:
    """The first parameter with NaN, or with an infinity that is trained (a frozen one may be a mask)."""
    named = {name: p for name, p in model.named_parameters() if p.numel()}
    # The ends of a tensor's range speak for all of it, in one pass: NaN is both.
    ends = {name: torch.stack(p.detach().aminmax()) for name, p in named.items()}
    fine = [(ends[n].isfinite() if p.requires_grad else ~ends[n].isnan()).all() for n, p in named.items()]
    flags = torch.stack([flag.to(fine[0].device) for flag in fine]).cpu().tolist() if fine else []
    return next((name for name, flag in zip(named, flags, strict=True) if not flag), None)


def pieces_of(
    data: Iterable[tuple[Examples, Examples]], model: nn.Module
) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """All pieces as tensors that fit the model, on its device; there may be none, or none with an example.

    Raises:
        ParameterError: the data are no pieces (x, y), or their examples are not alike.
    """
    if not isinstance(data, Iterable):
        raise ParameterError(
            f"the data is a {type(data).__name__}; it must be pieces (x, y): a list [(x, y)], or a DataLoader"
        )
    pieces = [_pair(index, piece) for index, piece in enumerate(data)]
    for axis, name in enumerate("xy"):
        forms = sorted({f"{piece[axis].dtype} {list(piece[axis].shape[1:])}" for piece in pieces})
        if len(forms) > 1:
            raise ParameterError(f"the pieces' {name} are {' and '.join(forms)}; all examples must be alike")
    device = next((p.device for p in model.parameters() if p.requires_grad), torch.device("cpu"))
    return [(_fitted(x, model, device), _fitted(y, model, device)) for x, y in pieces]


def _joined(data: Iterable[tuple[Examples, Examples]], model: nn.Module) -> tuple[torch.Tensor, torch.Tensor]:
    """All pieces as one pair of tensors that fit the model."""
    pieces = pieces_of(data, model)
    if not sum(len(x) for x, _ in pieces):
        raise ParameterError(
            "the loader has no examples; a site without any sits the round out "
            "(an iterator has them once: each round reads anew)"
        )
    x, y = zip(*pieces, strict=True)
    return torch.cat(x), torch.cat(y)


def _pair(index: int, piece: object) -> tuple[torch.Tensor, torch.Tensor]:
    try:
        if not isinstance(piece, tuple | list):
            raise TypeError("neither a tuple nor a list")
        x, y = (_tensor(part) for part in piece)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ParameterError(
            f"piece {index} of the loader is not a pair (x, y) of arrays, it is a {type(piece).__name__}. "
            "One pair is [(x, y)]; other batches need a step of your own (fl_integration.site.step)"
        ) from error
    if x.ndim == 0 or y.ndim == 0 or len(x) != len(y):
        raise ParameterError(
            f"piece {index} has x of shape {tuple(x.shape)} and y of shape {tuple(y.shape)}; "
            "their first axes must count the same examples"
        )
    return x, y


def _tensor(values: Any) -> torch.Tensor:
    if isinstance(values, torch.Tensor):
        return values
    array = np.asarray(values)
    # Torch shares neither an array that is read backwards nor, safely, one that is read-only.
    fit = array.flags.writeable and all(stride >= 0 for stride in array.strides)
    return torch.from_numpy(array if fit else array.copy())


def _fitted(values: torch.Tensor, model: nn.Module, device: torch.device) -> torch.Tensor:
    """On the device, and in the model's floating dtype where the values are floating."""
    floating = (p.dtype for p in model.parameters() if p.is_floating_point())
    return values.to(device, next(floating, None) if values.is_floating_point() else None)


def _rates(value: Any) -> float | tuple[float, ...]:
    rates = _numbers(value)
    if isinstance(rates, tuple) and rates and all(map(_above_zero, rates)):
        return rates
    if _above_zero(rates):
        return float(rates)
    raise ParameterError(
        f"learning_rate is {rates!r}; it must be finite and above 0, or a list of such, one a round"
    )


def _numbers(value: Any) -> Any:
    """A sequence or array as a tuple, a number as it is, their numbers as Python's own."""
    if isinstance(value, np.ndarray | torch.Tensor):
        value = value.tolist()
    return tuple(map(plain, value)) if isinstance(value, list | tuple) else plain(value)


def _above_zero(value: Any) -> bool:
    return is_number(value) and 0 < value < math.inf
