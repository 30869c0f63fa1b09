"""How good the global model is on the sites' own examples, which stay where they are.

Each site counts over its own examples into one vector of non-negative integers, the vectors are added by a
secure sum of their own (`SumProtocol.exact`), and the total alone becomes metrics. So all examples weigh the
same, wherever they lie: the AUC is that of all examples pooled, not a mean of the sites' AUCs.

What that tells whoever learns the sum: exact totals over the sites that took part. There is no noise in them,
and small test sets are told nearly whole: of a BINARY task the total has the histogram of the logits of each
class, of a REGRESSION the mean and the variance of the targets. How many examples there are, and how many of
each class, does not depend on the model: where sites come and go, two evaluations over sets of sites that
differ by one tell that site's. Of two sites each learns the other's. The protocol's least number of
contributors holds for this sum as for any other. A site that lies about its counts is not detected.

A model that diverged shows and does not stop the run: a loss that is not finite, or beyond what is summed,
counts as the largest, and the metric "clipped_examples" says how many there were. A logit that is NaN is
wrong, and ranks as 0.

>>> import torch
>>> from torch.nn import Identity  # a model whose inputs are its logits
>>> sites = {"basel": [(torch.tensor([-2.0, 0.5, 3.0]), torch.tensor([0, 0, 1]))],
...          "wien": [(torch.tensor([-1.0, 2.0]), torch.tensor([0, 1]))]}
>>> evaluate = OnSites(sites, task=Task.BINARY)
>>> total = sum(evaluate.counts(Identity(), data) for data in sites.values())  # in a run: the secure sum
>>> {name: round(value, 3) for name, value in evaluate.metrics(total).items()}
{'loss': 0.318, 'auc': 1.0, 'accuracy': 0.8, 'auc_error': 0.0, 'examples': 5.0, 'clipped_examples': 0.0}
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from fl_integration.loop.scoring import (
    NAMES,
    Data,
    Scored,
    Task,
    check_data,
    no_examples,
    per_example,
    ranking,
    scored,
    undisturbed,
)
from fl_integration.loop.stopping import Schedule
from protocols.identity import ClientId
from protocols.interface import SumProtocol
from secagg.errors import MissingExtraError, ParameterError
from secagg.numbers import is_number, plain, plain_fields

try:
    import torch
    from torch import nn
except ImportError as error:
    raise MissingExtraError(package="torch", extra="train") from error

__all__ = ["OnSites"]

LOGITS: Final = 8.0
"""The AUC's bins have equal widths over logits in [-8, 8), up to a probability of 0.99966; two are open."""

_UNIT_BITS: Final = 40
_LIMB_BITS: Final = 20
_MOST_EXAMPLES: Final = 1 << 32
_MOST_BINS: Final = 1 << 16
_LOSS: Final = 1024.0


@dataclass(frozen=True, slots=True, eq=False)
class OnSites(Schedule):
    """The sites' own test examples, through a secure sum of their own.

    The metrics are over all examples of the sites that took part: "loss", the mean of `loss`; "examples", and
    "clipped_examples", those with a loss or an error beyond what is summed. BINARY has "accuracy" (a logit
    above 0 says 1), "auc", and "auc_error": the AUC of these very logits is not further away, because that is
    half the share of pairs in one bin. MULTICLASS has "accuracy", REGRESSION "mse", "rmse" and "r2". What the
    examples do not define is absent: an AUC of one class, an r2 of equal targets.

    Counts are exact. Losses, and targets and squared errors as parts of the range and of its square, are
    rounded for each example to 2**-40 of their maximum. So "loss" is within max_loss * 2**-41 of the mean of
    the clipped values, "mse" within (high - low)**2 * 2**-41, and "r2" within (4 - 3 * r2) * 2**-41 / v to
    first order, where v is the targets' variance divided by (high - low)**2. These sums go as limbs of 20
    bits, which tell how often they carried beside the total.

    Args:
        data: each site's examples, by client id; a site that is not in it is not asked.
        task: what the model predicts; see `Task` for shapes.
        loss: a function that takes `reduction="none"` or a module with a `reduction`; any other is asked of
            each example alone. None: cross entropy, or the squared error.
        every: rounds from one evaluation to the next, at least 1; the last round has one in any case.
        bins: of the AUC, in [3, 2**16], see `LOGITS`; more of them make "auc_error" smaller.
        max_examples: the most that one site may have, in [1, 2**32].
        stop: when to end early.
        max_loss: a loss is summed as a number in [0, max_loss]. None: 1024; with REGRESSION and no `loss` of
            your own (high - low)**2.
        target_range: `(low, high)`, of REGRESSION alone, where it is needed: all targets are within, and an
            error above high - low counts as that.

    Raises:
        ParameterError: a value is outside its range, or `stop` asks for a metric that is not there.
    """

    data: Mapping[ClientId, Data]
    _: KW_ONLY
    task: Task
    loss: Callable[..., torch.Tensor] | None = None
    bins: int = 256
    max_examples: int = 1_000_000
    max_loss: float | None = None
    target_range: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        Schedule.__post_init__(self)
        plain_fields(self, "bins", "max_examples", "max_loss")
        if not isinstance(self.data, Mapping) or not self.data:
            raise ParameterError("data has no sites; map each client's id to its test examples")
        for client, data in self.data.items():
            check_data(data, f"the data of {client!r}")
        per_example(self.loss, self.task)
        if type(self.bins) is not int or not 3 <= self.bins <= _MOST_BINS:
            raise ParameterError(f"bins is {self.bins!r}; it must be an int in [3, {_MOST_BINS}]")
        if type(self.max_examples) is not int or not 1 <= self.max_examples <= _MOST_EXAMPLES:
            raise ParameterError(f"max_examples is {self.max_examples!r}; it must be an int in [1, 2**32]")
        if self.max_loss is not None and not (is_number(self.max_loss) and 0 < self.max_loss < math.inf):
            raise ParameterError(f"max_loss is {self.max_loss!r}; it must be finite and above 0")
        if (self.target_range is None) is (self.task is Task.REGRESSION):
            raise ParameterError(
                "target_range goes with Task.REGRESSION, which needs it: (low, high), all targets within"
            )
        if self.target_range is not None:
            object.__setattr__(self, "target_range", _range(self.target_range))
        if self.stop is not None:
            self.stop.check(self.names)

    @property
    def names(self) -> tuple[str, ...]:
        """All metrics that it can have; a few are absent where the examples do not define them."""
        return (*NAMES[self.task], "clipped_examples")

    @property
    def length(self) -> int:
        """Values in a vector of counts."""
        return self._counters + len(self._limits) * self._limbs

    @property
    def max_summand(self) -> int:
        """The largest value of an honest vector of counts, at least 2**20 - 1."""
        return max(self.max_examples, (1 << _LIMB_BITS) - 1)

    def sum_of(self, protocol: SumProtocol) -> SumProtocol:
        """The integer surface of `protocol` that sums these counts.

        Raises:
            ParameterError: they do not fit the protocol.
        """
        try:
            return protocol.exact(max_summand=self.max_summand)
        except ParameterError as error:
            raise ParameterError(
                f"counts of up to {self.max_examples} examples a site do not fit this protocol; "
                f"lower max_examples (below 2**20 it makes no difference) or max_clients: {error}"
            ) from error

    def counts(self, model: nn.Module, data: Data) -> NDArray[np.uint64]:
        """A site's side: what it adds to the sum.

        Args:
            model: the global model; its modes, and torch's generator, are as they were afterwards.
            data: the site's examples.

        Returns:
            uint64[length], each value in [0, max_summand]. Counts of two parts of the data give the metrics
            of the whole, to the last bit where the model says the same of an example in any batch.

        Raises:
            ParameterError: no examples or more than `max_examples`, a label outside, shapes that do not fit.
                The text holds no value of an example.
        """
        counters = np.zeros(self._counters, np.uint64)
        sums = [0] * len(self._limits)
        with undisturbed(model):
            loss = per_example(self.loss, self.task)
            for piece in scored(model, data, task=self.task, loss=loss):
                summed = self._summed(piece)
                inside = [(x >= 0) & (x <= most) for x, most in zip(summed, self._limits, strict=True)]
                counters += self._counted(piece, clipped=~np.logical_and.reduce(inside))
                for i, (x, most) in enumerate(zip(summed, self._limits, strict=True)):
                    sums[i] += _units(x, most)
                if counters[0] > self.max_examples:
                    raise ParameterError(f"more than max_examples = {self.max_examples}; raise it")
        if not counters[0]:
            raise no_examples()
        limbs = [
            (total >> _LIMB_BITS * place) % (1 << _LIMB_BITS)
            for total in sums
            for place in range(self._limbs)
        ]
        return np.concatenate([counters, np.array(limbs, np.uint64)])

    def metrics(self, total: NDArray[np.uint64]) -> dict[str, float]:
        """What the sum of the sites' counts says.

        Args:
            total: uint64[length], the sum of the vectors of any number of sites.

        Raises:
            ParameterError: it is of another shape or dtype, or says that there are no examples.
        """
        if not isinstance(total, np.ndarray) or total.shape != (self.length,) or total.dtype != np.uint64:
            found = (
                f"{total.dtype}{list(total.shape)}" if isinstance(total, np.ndarray) else type(total).__name__
            )
            raise ParameterError(f"the total is {found}; it must be uint64[{self.length}], a sum of counts")
        counters, limbs = total[: self._counters], total[self._counters :].reshape(-1, self._limbs)
        sums = [sum(limb << _LIMB_BITS * place for place, limb in enumerate(row)) for row in limbs.tolist()]
        examples, clipped = counters[:2].tolist()
        if not examples:
            raise no_examples()
        unit = examples << _UNIT_BITS
        metrics = {"loss": sums[0] / unit * self._limits[0]}
        match self.task:
            case Task.BINARY:
                metrics |= ranking(*counters[3:].reshape(2, self.bins))
                metrics["accuracy"] = int(counters[2]) / examples
            case Task.MULTICLASS:
                metrics["accuracy"] = int(counters[2]) / examples
            case Task.REGRESSION:
                metrics |= _fit(unit, *sums[1:], width=self._width)
        metrics |= {"examples": float(examples), "clipped_examples": float(clipped)}
        return {name: metrics[name] for name in self.names if name in metrics}

    @property
    def _counters(self) -> int:
        """Examples, clipped; correct; a histogram a class."""
        return {Task.BINARY: 3 + 2 * self.bins, Task.MULTICLASS: 3, Task.REGRESSION: 2}[self.task]

    @property
    def _limits(self) -> tuple[float, ...]:
        """The maxima of what `_summed` gives."""
        if self.task is not Task.REGRESSION:
            return (self.max_loss or _LOSS,)
        return (self.max_loss or (self._width**2 if self.loss is None else _LOSS), 1.0, 1.0, 1.0)

    @property
    def _width(self) -> float:
        low, high = self.target_range or (0.0, 1.0)
        return high - low

    @property
    def _limbs(self) -> int:
        # A whole sum would take 60 bits and more, which not every protocol adds up; limbs fit them all.
        return -(-(self.max_examples << _UNIT_BITS).bit_length() // _LIMB_BITS)

    def _counted(self, piece: Scored, *, clipped: NDArray[np.bool_]) -> NDArray[np.uint64]:
        head = [len(piece.loss), np.count_nonzero(clipped)]
        match self.task:
            case Task.BINARY:
                inner = np.floor((piece.rank / LOGITS + 1) / 2 * (self.bins - 2))
                place = (np.clip(inner, -1, self.bins - 2) + 1).astype(np.int64)
                classes = (np.bincount(place[piece.label == y], minlength=self.bins) for y in (1, 0))
                return np.concatenate([[*head, piece.correct], *classes]).astype(np.uint64)
            case Task.MULTICLASS:
                return np.array([*head, piece.correct], np.uint64)
            case Task.REGRESSION:
                return np.array(head, np.uint64)

    def _summed(self, piece: Scored) -> list[NDArray[np.float64]]:
        """Losses; of a regression the targets, their squares and the squared errors too, all in [0, 1]."""
        if self.target_range is None:
            return [piece.loss]
        low, high = self.target_range
        if not ((low <= piece.label) & (piece.label <= high)).all():
            raise ParameterError("a target is outside target_range; widen it, for all sites alike")
        target = (piece.label - low) / (high - low)
        with np.errstate(over="ignore"):  # a model that diverged
            return [piece.loss, target, target**2, ((piece.prediction - piece.label) / (high - low)) ** 2]


def _units(values: NDArray[np.float64], most: float) -> int:
    """The sum of what is in [0, most], each in units of most * 2**-40; what is above, or NaN, is `most`."""
    inside = np.clip(np.where(values <= most, values, most), 0, None)
    return int(np.rint(inside / most * 2.0**_UNIT_BITS).astype(np.uint64).sum())


def _fit(unit: int, targets: int, squares: int, errors: int, *, width: float) -> dict[str, float]:
    """Of n = unit / 2**40 examples, from the sums of u, u**2 and (error / width)**2 for u in [0, 1]."""
    error = errors / unit
    metrics = {"mse": error * width**2, "rmse": math.sqrt(error) * width}
    # Two large sums nearly cancel, so they meet as integers.
    variance = (squares * unit - targets**2) / unit**2
    if variance > 3 * 2.0 ** -(_UNIT_BITS + 1):  # which rounding alone could make of equal targets
        metrics["r2"] = 1 - error / variance
    return metrics


def _range(given: object) -> tuple[float, float]:
    refused = ParameterError(f"target_range is {given!r}; it must be (low, high), finite and low < high")
    if not isinstance(given, Sequence) or len(given) != 2:
        raise refused
    low, high = (plain(each) for each in given)
    if not is_number(low) or not is_number(high) or not low < high:
        raise refused
    if not 0 < (high - low) * (high - low) < math.inf:  # which is what errors are measured in
        raise refused
    return float(low), float(high)
