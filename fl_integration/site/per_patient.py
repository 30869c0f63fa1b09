"""Each patient's own gradient of a site's loss, which is what differential privacy of patients begins with.

DP-SGD (Abadi et al., CCS'16, Algorithm 1) bounds what one person can move: the gradient of the loss at that
person's records alone is taken, and cut to a norm, before anything is added up. A mean over a batch cannot be
taken apart again, so each record goes through the model as a batch of one, many at a time through
`torch.func.vmap`. The gradients of one person's records are added up here, before anybody clips them.

What makes one record's result depend on others has no such gradient: a BatchNorm that is not frozen is
refused by its name, and GroupNorm is the way. Anything else cannot mix records, because it never sees two.
Dropout draws afresh for each record; its seed must be as secret as the noise, or whoever knows it could tell
where in the data a record lies.

Memory is bounded by the number of gradients that are held at once. All persons' gradients are taken, whoever
is in a round's sample, so that how long it takes does not tell who is.

Nothing here clips, and nothing here is private. Floats have a last bit, and how many records go through at
once may move it: one person more may change the others' gradients in it, which `PatientLevel` counts as
nothing.

>>> model = nn.Linear(1, 1, bias=False)
>>> _ = nn.init.zeros_(model.weight)
>>> x = torch.tensor([[1.0], [2.0], [3.0]])
>>> records = Records.of([(x, torch.ones(3, 1))], model, patients=np.array(["ann", "bob", "ann"]))
>>> squared = lambda prediction, y: ((prediction - y) ** 2).mean()
>>> [part.tolist() for part in gradients(model, records, loss=squared, names=("weight",), seed=1)]
[[[-8.0], [-4.0]]]
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, Self, TypeAlias

import numpy as np
import numpy.typing as npt

from fl_integration.site.scaling import ScaledLoader
from fl_integration.site.step import isolated
from fl_integration.site.training import Examples, Loss, pieces_of, train_mode
from secagg.errors import MissingExtraError, ParameterError

try:
    import torch
    from torch import nn
    from torch.func import functional_call, grad, vmap
    from torch.nn.modules.batchnorm import _BatchNorm
    from torch.nn.modules.instancenorm import _InstanceNorm
    from torch.utils.data import BatchSampler, DataLoader, IterableDataset, SequentialSampler
except ImportError as error:
    raise MissingExtraError(package="torch", extra="train") from error

__all__ = ["Gradients", "Records", "check_layers", "check_order", "gradients"]

Gradients: TypeAlias = npt.NDArray[Any]
"""float32 or float64[persons, d]: one row a person."""

_HELD: Final = 1 << 23
"""The most values of gradients that are held at once: 32 MB of float32, and as much again to add them up."""
_AT_ONCE: Final = 256
"""The most records that go through the model at once: what its layers remember is not counted above."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Records:
    """A site's records, those of one person side by side.

    Attributes:
        x, y: one record a row of the first axis.
        ends: int64[persons]: where the records of each person end, those of the first beginning at 0.
    """

    x: torch.Tensor
    y: torch.Tensor
    ends: npt.NDArray[np.int64]

    @classmethod
    def of(
        cls,
        data: Iterable[tuple[Examples, Examples]],
        model: nn.Module,
        *,
        patients: npt.ArrayLike | None = None,
    ) -> Self:
        """Reads a site's data, as `LocalTraining` does.

        Args:
            data: pieces `(x, y)` with equal first axes.
            model: on whose device, and in whose floating dtype, they go.
            patients: [records], an id for each record in the order of the data, numbers or texts; records
                with equal ids are one person's. None: each record is a person's only one.

        Raises:
            ParameterError: the data are no such pieces; there is another number of ids than of records, or
                the data are shuffled.
        """
        if patients is not None:
            check_order(data)
        pieces = pieces_of(data, model)
        x, y = (torch.cat(part) for part in zip(*pieces, strict=True)) if pieces else 2 * (torch.empty(0),)
        if patients is None:
            return cls(x=x, y=y, ends=np.arange(1, len(x) + 1, dtype=np.int64))
        ids = np.asarray(patients)
        if ids.ndim != 1 or len(ids) != len(x) or (len(ids) and ids.dtype.kind not in "iuUSO"):
            raise ParameterError(
                f"patients is {ids.dtype.name}{list(ids.shape)} for {len(x)} records; it must be a list with "
                "one id for each record, whole numbers or texts"
            )
        _, counts = np.unique(ids, return_counts=True)
        order = torch.from_numpy(np.argsort(ids, kind="stable")).to(x.device)
        return cls(x=x[order], y=y[order], ends=np.cumsum(counts, dtype=np.int64))

    @property
    def persons(self) -> int:
        """How many persons there are; of none there is no gradient, and no failure either."""
        return len(self.ends)


def check_order(data: object) -> None:
    """Refuses a loader that gives records in an order of its own, where ids stand in the order of the data.

    Under another's id a record is clipped with another's, and who has several is bounded several times.

    Raises:
        ParameterError: it is one; the text says what to take.
    """
    loader = data.loader if isinstance(data, ScaledLoader) else data
    if not isinstance(loader, DataLoader) or isinstance(loader.dataset, IterableDataset):
        return
    batches = loader.batch_sampler
    sampler = loader.sampler if batches is None else getattr(batches, "sampler", None)
    own = type(batches) in (type(None), BatchSampler) and type(loader).__iter__ is DataLoader.__iter__
    if not own or not isinstance(sampler, SequentialSampler):
        raise ParameterError(
            "a DataLoader with an order of its own, beside patients=, whose ids are in the order of the "
            "records: take shuffle=False and no sampler (which patients a round takes is PatientLevel's to "
            "draw)"
        )


def check_layers(model: nn.Module) -> None:
    """Refuses a model one of whose layers mixes the records of a batch.

    Raises:
        ParameterError: the text names the layer, and what to take in its place.
    """
    for name, module in model.named_modules():
        if isinstance(module, _BatchNorm):
            # As `LocalTraining` has it: a frozen one is in evaluation mode, and looks at no batch.
            mixes = not module.affine or any(p.requires_grad for p in module.parameters(recurse=False))
        else:
            mixes = isinstance(module, _InstanceNorm) and module.track_running_stats
        if mixes:
            raise ParameterError(
                f"layer {name or 'the model'!r} is a {type(module).__name__}, whose statistics mix the "
                "records of many patients, so that no patient has a gradient of her own; take "
                "torch.nn.GroupNorm in its place, or freeze its weight and bias"
            )


def gradients(
    model: nn.Module,
    records: Records,
    *,
    loss: Loss,
    names: tuple[str, ...],
    seed: int,
) -> Iterator[Gradients]:
    """The gradients of all persons, a part of the persons at a time.

    Args:
        model: is as it was afterwards; it is in training mode meanwhile.
        records: of the site.
        loss: `loss(prediction, y)` of a batch of one.
        names: of the parameters, in the order of the vector; each requires a gradient.
        seed: in [0, 2**63), of what a model draws, dropout for instance; from secret randomness.

    Yields:
        Rows of d values, one a person. A gradient that is not finite is as it came.

    Raises:
        ParameterError: the loss of one record is no single value, or torch cannot take this model's gradients
            so.
    """
    parameters = dict(model.named_parameters(remove_duplicate=False))
    moved = {name: parameters[name].detach() for name in names}
    taken = {id(parameters[name]) for name in names}
    rest = {
        name: value.detach()
        for name, value in (*model.named_parameters(), *model.named_buffers())
        if id(value) not in taken  # a tied parameter is there under one of its names
    }
    each = vmap(_of_one(model, rest, loss), in_dims=(None, 0, 0), randomness="different")
    length = sum(value.numel() for value in moved.values())
    most = max(1, min(_HELD // max(length, 1), _AT_ONCE))

    def of_rows(rows: slice) -> torch.Tensor:
        found = each(moved, records.x[rows], records.y[rows])
        part = torch.cat([found[name].flatten(1) for name in names], dim=1)
        return part if part.dtype in (torch.float32, torch.float64) else part.float()

    with isolated(model, seed=seed):
        train_mode(model)
        for first in range(0, records.persons, most):
            start = int(records.ends[first - 1]) if first else 0
            found = _by_person(of_rows, start=start, ends=records.ends[first : first + most], most=most)
            yield found.cpu().numpy()


def _of_one(
    model: nn.Module, rest: Mapping[str, torch.Tensor], loss: Loss
) -> Callable[..., dict[str, torch.Tensor]]:
    """The gradient of one record's loss by the parameters that move."""

    def of_record(moved: dict[str, torch.Tensor], x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        prediction = functional_call(model, {**rest, **moved}, (x.unsqueeze(0),))
        found = loss(prediction, y.unsqueeze(0))
        if not isinstance(found, torch.Tensor) or found.numel() != 1:
            shape = list(found.shape) if isinstance(found, torch.Tensor) else f"a {type(found).__name__}"
            raise ParameterError(
                f"the loss of one record is {shape}; it must be a tensor of one value, the mean of a batch"
            )
        return found.reshape(())

    found: Callable[..., dict[str, torch.Tensor]] = grad(of_record)
    return found


def _by_person(
    of_rows: Callable[[slice], torch.Tensor], *, start: int, ends: npt.NDArray[np.int64], most: int
) -> torch.Tensor:
    """[persons, d]: the gradients of these persons' records, added up by person."""
    stop = int(ends[-1])
    if stop - start == len(ends):
        return of_rows(slice(start, stop))
    total = torch.empty(0)
    for at in range(start, stop, most):
        rows = slice(at, min(at + most, stop))
        part = of_rows(rows)
        if at == start:
            total = part.new_zeros((len(ends), part.shape[1]))
        whose = np.searchsorted(ends, np.arange(rows.start, rows.stop), side="right")
        total.index_add_(0, torch.from_numpy(whose).to(part.device), part)
    return total
