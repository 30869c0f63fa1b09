"""What one site does with its examples in one round, whoever wrote it.

A step trains a model in place and says what its result weighs: `local(model, data, *, seed)`. Inside it may
do as it likes: any optimiser, schedule and number of losses, mixed precision, batches of any form.
`LocalTraining` (`fl_integration.site.training`) is the step that most sites need.

`run_step` holds a step to what the loop relies on. It runs with the global generators of torch, numpy and
Python seeded, so that dropout, augmentation and a shuffling DataLoader repeat (a DataLoader draws its order
from torch's global generator; one that it was given is the site's to keep). They are put back afterwards, as
are the modes of the model's modules, and no gradient is left behind. All of this holds when the step raises,
too; what it had done to the model's values by then stays done.

Not promised: on a GPU some kernels are not deterministic whatever the seed. A step that lies about its weight
is not detected here.

>>> import torch
>>> def halve(model, data, *, seed):
...     with torch.no_grad():
...         model.weight.mul_(0.5)
...     return len(data)
>>> run_step(halve, torch.nn.Linear(2, 1), ["a", "b", "c"], seed=1, round=0)
Trained(weight=3, metrics={})
"""

import math
import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import numpy as np

from fl_integration.site.scaling import ScaledLoader
from secagg.errors import MissingExtraError, ParameterError
from secagg.numbers import is_number, plain, plain_fields

try:
    import torch
    from torch import nn
    from torch.utils.data import BatchSampler, DataLoader
except ImportError as error:
    raise MissingExtraError(package="torch", extra="train") from error

__all__ = [
    "RoundStep",
    "Step",
    "Trained",
    "check_data",
    "checked_seed",
    "isolated",
    "kept_modes",
    "run_step",
    "size_of",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """What a step reports.

    Args:
        weight: of this site's update in the mean, at least 1: the number of examples it was trained on.
        metrics: training metrics by name, such as "loss"; finite.

    Raises:
        ParameterError: the weight is no int of at least 1, or a metric is no finite number.
    """

    weight: int
    metrics: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        plain_fields(self, "weight")
        if type(self.weight) is not int or self.weight < 1:
            raise ParameterError(
                f"a step's weight is {_described(self.weight)}; "
                "return the number of examples that it was trained on, an int of at least 1"
            )
        if not isinstance(self.metrics, Mapping):
            raise ParameterError(f"metrics is {_described(self.metrics)}; map names to numbers")
        metrics = {name: plain(value) for name, value in self.metrics.items()}
        for name, value in metrics.items():
            if type(name) is not str:
                raise ParameterError(f"a metric's name is {_described(name)}; it must be a str")
            if not is_number(value) or not math.isfinite(value):
                raise ParameterError(
                    f"metric {name!r} is {_described(value)}; it must be a finite number (a tensor's .item())"
                )
        object.__setattr__(self, "metrics", {name: float(value) for name, value in metrics.items()})


class Step(Protocol):
    """Trains `model` in place on `data`; returns the weight, or `Trained` with training metrics as well.

    The model comes with the round's values; its parameters' `requires_grad` and its modules' modes are the
    site's. `seed` is in [0, 2**63), and another in each round and at each site.
    """

    def __call__(self, model: nn.Module, data: Any, /, *, seed: int) -> int | Trained: ...


@runtime_checkable
class RoundStep(Protocol):
    """A step that differs from round to round, by a schedule, say."""

    def at(self, round: int, /) -> Step:
        """The step of this round, which counts from 0."""
        ...


def run_step(local: Step, model: nn.Module, data: Any, *, seed: int, round: int) -> Trained:
    """One site's training in one round.

    Args:
        local: the step. One with a method `at(round)` (see `RoundStep`) is asked for this round's first.
        model: holds the round's values and is trained in place.
        data: handed to the step as it is.
        seed: in [0, 2**63); it seeds all global generators, and goes to the step.
        round: at least 0.

    Raises:
        ParameterError: the seed, the round or what the step returned is not as described. Whatever the step
            itself raises comes through unchanged.
    """
    seed, round = checked_seed(seed), plain(round)
    if type(round) is not int or round < 0:
        raise ParameterError(f"round is {round!r}; it must be an int of at least 0")
    step = local.at(round) if isinstance(local, RoundStep) else local
    with isolated(model, seed=seed):
        found = step(model, data, seed=seed)
    return found if isinstance(found, Trained) else Trained(weight=found)


def size_of(data: Any) -> int | None:
    """How many examples one pass over `data` yields, where that is known without reading any.

    Args:
        data: of a site, anything. A DataLoader tells, unless it streams or makes up its own batches; so does
            a list or tuple of pairs `(x, y)` of arrays or tensors.

    Returns:
        At least 0, without what `drop_last` leaves out; None where only reading would tell.
    """
    # Lengths are asked of objects of any kind here, and one that fails to tell is no fault.
    with suppress(Exception):
        if isinstance(data, DataLoader):
            return _loader_size(data)
        if isinstance(data, ScaledLoader):
            return _loader_size(data.loader)
        if isinstance(data, list | tuple):
            sizes = [_pair_size(piece) for piece in data]
            return sum(sizes)
    return None


def check_data(name: str, data: Any) -> None:
    """Refuse data that can be read only once; nothing is read.

    Args:
        name: of the site.
        data: of the site.

    Raises:
        ParameterError: `data` is an iterator: a generator, a `zip`, a `map`.
    """
    # A DataLoader is no iterator and must not be asked for one: that would start its workers.
    if isinstance(data, Iterator) and iter(data) is data:
        raise ParameterError(
            f"the data of {name!r} is a {type(data).__name__}, which can be read once, and each round reads "
            "it anew; pass a list, a DataLoader, or an object whose __iter__ begins anew"
        )


def checked_seed(seed: int) -> int:
    """The seed as a plain `int`.

    Raises:
        ParameterError: it is not in [0, 2**63).
    """
    seed = plain(seed)
    if type(seed) is not int or not 0 <= seed < 1 << 63:
        raise ParameterError(f"seed is {seed!r}; it must be an int in [0, 2**63)")
    return seed


@contextmanager
def isolated(model: nn.Module, *, seed: int) -> Iterator[None]:
    """Training inside leaves no trace but the model's values: see this module's first words.

    Args:
        model: begins and ends without gradients; its modules' modes are put back.
        seed: in [0, 2**63), of the global generators of torch (CPU and every CUDA device), numpy and Python.
    """
    of_numpy, of_python = np.random.get_state(), random.getstate()
    devices = range(torch.cuda.device_count())
    with torch.random.fork_rng(devices=devices), kept_modes(model):
        try:
            torch.manual_seed(seed)
            # Both are Mersenne twisters: from the same words, numpy would draw what Python draws.
            np.random.seed([1, seed & 0xFFFFFFFF, seed >> 32])
            random.seed(seed)
            model.zero_grad(set_to_none=True)
            yield
        finally:
            np.random.set_state(of_numpy)
            random.setstate(of_python)
            model.zero_grad(set_to_none=True)


@contextmanager
def kept_modes(model: nn.Module) -> Iterator[None]:
    """Every module's own mode, training or evaluation, is back afterwards."""
    modes = [(module, module.training) for module in model.modules()]
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


def _loader_size(loader: DataLoader[Any]) -> int | None:
    batches: Any = loader.batch_sampler
    # Without batches a piece may hold any number; another class's batches, or passes, are its own affair.
    own = type(batches) is BatchSampler and type(loader).__iter__ is DataLoader.__iter__
    if not own:
        return None
    n = len(batches.sampler)  # a stream's has no length
    return n - n % batches.batch_size if batches.drop_last else n


def _pair_size(piece: Any) -> int:
    x, y = piece if isinstance(piece, list | tuple) else ()
    if not all(isinstance(part, np.ndarray | torch.Tensor) for part in piece):
        raise TypeError("no pair of arrays")
    if len(x) != len(y):
        raise ValueError("the axes differ")
    return len(x)


def _described(value: object) -> str:
    """A number as it is, of anything else what kind it is."""
    return repr(value) if value is None or type(value) in (bool, int, float) else f"a {type(value).__name__}"
