"""What the opened mean does to the model: server optimisers.

FedAvg adds the mean update to the model. Reddi et al. (Adaptive Federated Optimization, ICLR'21, Alg. 2) take
its negative for a gradient and let an optimiser use it, with a memory that lives from round to round: FedAvgM
(Hsu et al., 2019), FedAdagrad, FedAdam and FedYogi. In their notation, with the mean Delta and elementwise:

    m <- beta_1 m + (1 - beta_1) Delta
    v <- v + Delta^2                                            FedAdagrad
         beta_2 v + (1 - beta_2) Delta^2                        FedAdam
         v - (1 - beta_2) Delta^2 sign(v - Delta^2)             FedYogi
    model <- model + eta m / (sqrt(v) + tau)

Both moments start at zero (the paper lets v start at tau^2 or above), without bias correction.

Where the clients learn the sum, each of them takes this step on its own copy of the model, and the copies
have to stay equal in every bit. So all is float64 and elementwise, in +, -, *, / and sqrt, which IEEE 754
rounds correctly, one numpy call for each: nothing is fused, and no sum's order depends on the machine.
Flushing subnormals to zero (`torch.set_flush_denormal`) would spoil that; nothing here turns it on.

An optimiser knows what its owner knows, the mean, and reveals nothing more. A round that was aborted is no
step. Rounding to the protocol's grid moves a coordinate that stands still by a step of it now and then, and
the root of its v is no larger than that: an adaptivity below the grid's step makes moves of full size from
such noise. Choose it above.

>>> optimiser = FedAdam(learning_rate=0.1)
>>> state = optimiser.start(2)
>>> state, delta = optimiser.step(state, np.array([0.5, -0.25]), round=0)
>>> delta.round(4), state.steps
(array([ 0.098 , -0.0962]), 1)
>>> FedAvg(learning_rate=[1.0, 0.5, 0.25]).rate(2)
0.25
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum, auto
from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt

from secagg.errors import ParameterError
from secagg.numbers import is_number, plain, plain_fields

__all__ = [
    "BiasCorrection",
    "FedAdagrad",
    "FedAdam",
    "FedAvg",
    "FedAvgM",
    "FedYogi",
    "OptimiserState",
    "ServerOptimiser",
]

_Values: TypeAlias = npt.NDArray[np.float64]

_CHUNK: Final = 1 << 14
"""Values at a time: the seven arrays that an adaptive step touches are 896 KiB, and stay in the L2 cache."""


class BiasCorrection(Enum):
    """What makes up for moments that start at zero: the rate times sqrt(1 - beta_2^t) / (1 - beta_1^t)."""

    NONE = auto()
    """None, as in Reddi et al."""
    KINGMA = auto()
    """t counts the steps from 1 (Kingma and Ba, ICLR'15, end of section 2)."""
    FLOWER = auto()
    """t counts them from 2, as flwr 1.41 does: for comparing with it."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class OptimiserState:
    """An optimiser's memory between rounds; it belongs to one model, and travels and is stored with it.

    Args:
        steps: means applied so far, at least 0.
        moments: float64[d] each, laid out as the model's vector. FedAvg has none, FedAvgM one; the adaptive
            ones have v, and m before it if their momentum is above 0. Nobody writes to them.

    Raises:
        ParameterError: a value is of another type, or the moments differ in length.
    """

    steps: int
    moments: tuple[_Values, ...]

    def __post_init__(self) -> None:
        plain_fields(self, "steps")
        if type(self.steps) is not int or self.steps < 0:
            raise ParameterError(f"steps is {self.steps!r}; it must be an int of at least 0")
        if type(self.moments) is not tuple:
            raise ParameterError(f"moments is a {type(self.moments).__name__}; it must be a tuple of arrays")
        for moment in self.moments:
            _check_vector(moment, what="a moment")
        if len(lengths := {len(moment) for moment in self.moments}) > 1:
            raise ParameterError(f"the moments have lengths {sorted(lengths)}; they belong to one model")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Chunk:
    """One part of the vectors of a step, float64[c] each: the first two are read, the others are filled."""

    before: Sequence[_Values]
    mean: _Values
    moments: Sequence[_Values]
    delta: _Values
    scratch: _Values


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerOptimiser(ABC):
    """Turns a round's mean into what is added to the model.

    Args:
        learning_rate: the paper's eta, finite and above 0; or one for each round, from round 0. Any sequence
            of numbers will do, and is kept as a tuple.

    Raises:
        ParameterError: a value is outside its range.
    """

    learning_rate: float | Sequence[float] = 1.0

    def __post_init__(self) -> None:
        self._check_rates()

    @property
    def adaptivity(self) -> float | None:
        """The paper's tau, to be at least a step of the protocol's grid; None where there is none."""
        return None

    @property
    def controls(self) -> bool:
        """Whether control variates travel with the updates (`Scaffold`)."""
        return False

    def check(self, *, rounds: int) -> None:
        """Whether this optimiser serves for a training of so many rounds; ask before the first one.

        Raises:
            ParameterError: there is a schedule, and its length is not `rounds`.
        """
        rounds = plain(rounds)
        if type(rounds) is not int or rounds < 1:
            raise ParameterError(f"rounds is {rounds!r}; it must be an int of at least 1")
        if isinstance(self.learning_rate, Sequence) and len(self.learning_rate) != rounds:
            raise ParameterError(
                f"the schedule has {len(self.learning_rate)} learning rates for {rounds} rounds; "
                "give one for each round, or a single number"
            )

    def rate(self, round: int) -> float:
        """The learning rate of a round (from 0).

        Raises:
            ParameterError: the schedule does not reach so far.
        """
        round = plain(round)
        if type(round) is not int or round < 0:
            raise ParameterError(f"round is {round!r}; it must be an int of at least 0")
        if not isinstance(self.learning_rate, Sequence):
            return self.learning_rate
        if round >= len(self.learning_rate):
            raise ParameterError(
                f"round {round} is beyond the schedule, which has {len(self.learning_rate)} learning rates"
            )
        return self.learning_rate[round]

    def start(self, length: int) -> OptimiserState:
        """The state before the first round, for a model of `length` values: zeros.

        Raises:
            ParameterError: `length` is not an int of at least 1.
        """
        length = plain(length)
        if type(length) is not int or length < 1:
            raise ParameterError(f"length is {length!r}; it must be an int of at least 1")
        return OptimiserState(steps=0, moments=tuple(np.zeros(length) for _ in range(self._memory)))

    def step(self, state: OptimiserState, mean: _Values, *, round: int) -> tuple[OptimiserState, _Values]:
        """One step; `state` and `mean` are left alone.

        Args:
            state: from `start` or the step before, of an equal optimiser.
            mean: float64[d], the opened mean update; contiguous.
            round: from 0; it chooses the learning rate.

        Returns:
            The state to go on from, and float64[d] to add to the model: fresh, or `mean` itself.

        Raises:
            ParameterError: the arguments do not fit each other, or the step would not be finite.
        """
        self._check_fit(state, mean)
        rate = self._corrected(self.rate(round), state.steps + 1)
        moments = tuple(np.empty_like(moment) for moment in state.moments)
        delta = np.empty_like(mean)
        scratch = np.empty(min(_CHUNK, len(mean)))
        try:
            with np.errstate(over="raise", invalid="raise", under="ignore"):
                for begin in range(0, len(mean), _CHUNK):
                    part = slice(begin, begin + _CHUNK)
                    chunk = _Chunk(
                        before=[moment[part] for moment in state.moments],
                        mean=mean[part],
                        moments=[moment[part] for moment in moments],
                        delta=delta[part],
                        scratch=scratch[: len(mean) - begin],
                    )
                    self._advance(chunk, rate)
                    if not np.isfinite(chunk.delta).all():
                        raise FloatingPointError
        except FloatingPointError:
            raise ParameterError(
                f"the step of {type(self).__name__} is not finite: the mean or the state holds a NaN, an inf "
                "or a value whose square overflows; go on from the last good model"
            ) from None
        return OptimiserState(steps=state.steps + 1, moments=moments), delta

    @property
    @abstractmethod
    def _memory(self) -> int:
        """How many moments there are."""

    @abstractmethod
    def _advance(self, chunk: "_Chunk", rate: float) -> None:
        """The step of one chunk."""

    def _corrected(self, rate: float, step: int) -> float:
        """The rate after bias correction in a step, counted from 1."""
        return rate

    def _check_rates(self) -> None:
        given = plain(self.learning_rate)
        if isinstance(given, Sequence | np.ndarray) and not isinstance(given, str | bytes):
            rates = tuple(plain(each) for each in given)
            if not rates:
                raise ParameterError("the schedule has no learning rate; give one for each round")
        else:
            rates = (given,)
        for number, each in enumerate(rates):
            if not is_number(each) or not 0 < each < math.inf:
                where = f" of round {number}" if len(rates) > 1 else ""
                raise ParameterError(f"learning_rate{where} is {each!r}; it must be finite and above 0")
        normal = tuple(float(each) for each in rates)
        object.__setattr__(self, "learning_rate", normal[0] if given is rates[0] else normal)

    def _check_fit(self, state: OptimiserState, mean: _Values) -> None:
        _check_vector(mean, what="the mean")
        if len(state.moments) != self._memory:
            raise ParameterError(
                f"the state has {len(state.moments)} moments, {type(self).__name__} keeps {self._memory}; "
                "go on with the optimiser that made it"
            )
        if state.moments and len(state.moments[0]) != len(mean):
            raise ParameterError(
                f"the mean has {len(mean)} values, the optimiser's state {len(state.moments[0])}"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class FedAvg(ServerOptimiser):
    """The mean itself, times a learning rate (McMahan et al., AISTATS'17, for 1).

    With a learning rate of exactly 1 the delta is the mean, the same array.
    """

    def step(self, state: OptimiserState, mean: _Values, *, round: int) -> tuple[OptimiserState, _Values]:
        """See `ServerOptimiser.step`."""
        if self.rate(round) != 1.0:
            return ServerOptimiser.step(self, state, mean, round=round)
        self._check_fit(state, mean)
        return OptimiserState(steps=state.steps + 1, moments=()), mean

    @property
    def _memory(self) -> int:
        return 0

    def _advance(self, chunk: "_Chunk", rate: float) -> None:
        np.multiply(chunk.mean, rate, out=chunk.delta)


@dataclass(frozen=True, slots=True, kw_only=True)
class FedAvgM(ServerOptimiser):
    """Server momentum (Hsu et al., 2019, arXiv:1909.06335): v <- momentum v + mean; delta = learning_rate v.

    Args:
        momentum: in [0, 1). In the long run a mean moves the model 1 / (1 - momentum) times as far.
    """

    momentum: float = 0.9

    def __post_init__(self) -> None:
        self._check_rates()
        _check_momenta(self, "momentum")

    @property
    def _memory(self) -> int:
        return 1

    def _advance(self, chunk: "_Chunk", rate: float) -> None:
        (velocity,) = chunk.moments
        np.multiply(chunk.before[0], self.momentum, out=velocity)
        np.add(velocity, chunk.mean, out=velocity)
        np.multiply(velocity, rate, out=chunk.delta)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Adaptive(ServerOptimiser):
    """Alg. 2 of Reddi et al., up to how v is accumulated."""

    learning_rate: float | Sequence[float] = 0.1
    momentum: float = 0.9
    adaptivity: float = 1e-3

    def __post_init__(self) -> None:
        self._check_rates()
        _check_momenta(self, "momentum")
        plain_fields(self, "adaptivity")
        if not is_number(self.adaptivity) or not 0 < self.adaptivity < math.inf:
            raise ParameterError(f"adaptivity is {self.adaptivity!r}; it must be finite and above 0")

    @property
    def _memory(self) -> int:
        return 2 if self.momentum else 1  # without momentum m is the mean

    def _advance(self, chunk: "_Chunk", rate: float) -> None:
        first, scratch, delta = chunk.mean, chunk.scratch, chunk.delta
        if self.momentum:
            first = chunk.moments[0]
            np.multiply(chunk.before[0], self.momentum, out=first)
            np.multiply(chunk.mean, 1.0 - self.momentum, out=scratch)
            np.add(first, scratch, out=first)
        np.multiply(chunk.mean, chunk.mean, out=scratch)
        self._accumulate(chunk.before[-1], scratch, out=chunk.moments[-1], spare=delta)
        np.sqrt(chunk.moments[-1], out=scratch)
        np.add(scratch, self.adaptivity, out=scratch)
        np.multiply(first, rate, out=delta)
        np.divide(delta, scratch, out=delta)

    @abstractmethod
    def _accumulate(self, second: _Values, squared: _Values, *, out: _Values, spare: _Values) -> None:
        """The new v of a chunk into `out`; `squared` is Delta^2, and it and `spare` may be overwritten."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FedAdagrad(_Adaptive):
    """v <- v + mean^2: steps that only ever get shorter.

    Args:
        learning_rate: as `ServerOptimiser`; 0.1 is flwr's default. Tune it: each task has its own.
        momentum: the paper's beta_1, in [0, 1); 0 there.
        adaptivity: the paper's tau, above 0; 1e-3 is good on most of its tasks.
    """

    momentum: float = 0.0

    def _accumulate(self, second: _Values, squared: _Values, *, out: _Values, spare: _Values) -> None:
        np.add(second, squared, out=out)


@dataclass(frozen=True, slots=True, kw_only=True)
class FedAdam(_Adaptive):
    """v <- beta_2 v + (1 - beta_2) mean^2.

    Args:
        learning_rate: as `ServerOptimiser`; 0.1 is flwr's default. Tune it: each task has its own.
        momentum: the paper's beta_1, in [0, 1); 0.9 there.
        second_momentum: beta_2, in [0, 1); 0.99 there.
        adaptivity: tau, above 0; 1e-3 is good on most of its tasks.
        bias_correction: none in the paper.
    """

    second_momentum: float = 0.99
    bias_correction: BiasCorrection = BiasCorrection.NONE

    def __post_init__(self) -> None:
        _Adaptive.__post_init__(self)
        _check_momenta(self, "second_momentum")
        if not isinstance(self.bias_correction, BiasCorrection):
            raise ParameterError(f"bias_correction is {self.bias_correction!r}; it must be a BiasCorrection")

    def _accumulate(self, second: _Values, squared: _Values, *, out: _Values, spare: _Values) -> None:
        np.multiply(squared, 1.0 - self.second_momentum, out=spare)
        np.multiply(second, self.second_momentum, out=out)
        np.add(out, spare, out=out)

    def _corrected(self, rate: float, step: int) -> float:
        if self.bias_correction is BiasCorrection.NONE:
            return rate
        exponent = step + (self.bias_correction is BiasCorrection.FLOWER)
        second, first = _power(self.second_momentum, exponent), _power(self.momentum, exponent)
        return rate * math.sqrt(1.0 - second) / (1.0 - first)


@dataclass(frozen=True, slots=True, kw_only=True)
class FedYogi(_Adaptive):
    """v <- v - (1 - beta_2) mean^2 sign(v - mean^2): v grows as fast as Adagrad's, and falls only slowly.

    Args:
        learning_rate: as `ServerOptimiser`; 0.1 is flwr's for FedAdam. Tune it: each task has its own.
        momentum: the paper's beta_1, in [0, 1); 0.9 there.
        second_momentum: beta_2, in [0, 1); 0.99 there.
        adaptivity: tau, above 0; 1e-3 is good on most of its tasks.
    """

    second_momentum: float = 0.99

    def __post_init__(self) -> None:
        _Adaptive.__post_init__(self)
        _check_momenta(self, "second_momentum")

    def _accumulate(self, second: _Values, squared: _Values, *, out: _Values, spare: _Values) -> None:
        np.subtract(second, squared, out=spare)
        np.sign(spare, out=spare)
        np.multiply(squared, 1.0 - self.second_momentum, out=squared)
        np.multiply(squared, spare, out=squared)
        np.subtract(second, squared, out=out)


def _power(base: float, exponent: int) -> float:
    """By repeated multiplication: libm's pow is not the same to the last bit everywhere."""
    product = 1.0
    for _ in range(exponent):
        product *= base
    return product


def _check_momenta(optimiser: ServerOptimiser, name: str) -> None:
    plain_fields(optimiser, name)
    value = getattr(optimiser, name)
    if not is_number(value) or not 0 <= value < 1:
        raise ParameterError(f"{name} is {value!r}; it must be in [0, 1)")


def _check_vector(vector: object, *, what: str) -> None:
    if not isinstance(vector, np.ndarray):
        raise ParameterError(f"{what} is a {type(vector).__name__}; it must be an array of float64")
    if vector.dtype != np.float64 or vector.ndim != 1 or not vector.flags.c_contiguous or not len(vector):
        strided = "" if vector.flags.c_contiguous else " with strides"
        raise ParameterError(
            f"{what} is {vector.dtype}{list(vector.shape)}{strided}; it must be a contiguous float64[d], "
            "d at least 1"
        )
