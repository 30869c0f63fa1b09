"""Whose mean and deviation the inputs are scaled by: each site's own, or those of all sites together.

* `Standardise.SITE`: each site scales by its own rows. Nobody is asked anything. But one and the same patient
  then looks different to the model at each site, and what differs between the sites (age, say) is lost to it.
* `Standardise.POOLED`: all scale by the mean and deviation of all sites' rows, which one exact secure sum
  finds (`Moments`, after one that counts which sites have enough rows to be in it: ten), equal to those of
  the rows in one pile. That sum is a question like any other: whoever learns the sums learns the columns'
  counts, means and deviations, and of three sites each can subtract its own. A column needs bounds, declared
  beforehand and public; a value outside counts as the nearer bound in the figures, and is then scaled as it
  is.

On FLamby's heart patients the same training reaches .774 with pooled figures and .705 with each site's own
(bench/FLAMBY.md). Where the clients learn the sums, they alone learn these figures too.

Under differential privacy both are refused unless the figures themselves are noised: a mean without noise is
an answer about the patients that the budget would not count, and scaling by it moves every gradient.

>>> from fl_integration.statistics.columns import Number
>>> from protocols import MaskedSum
>>> ages = {"basel": np.arange(20.0, 40.0), "graz": np.arange(40.0, 60.0), "wien": np.arange(60.0, 81.0)}
>>> sites = {name: [(each[:, None], np.zeros(len(each)))] for name, each in ages.items()}
>>> scaling = Standardisation(columns=(Number("age", low=0, high=128),))
>>> scaled_sites, found = standardised(MaskedSum(max_clients=3), sites, scaling, seed=1)
>>> found.scale.mean.tolist(), float(scaled_sites["graz"][0][0][10, 0])
([50.0], 0.0)
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import Enum
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from fl_integration.loop.evaluation import Central, Evaluation, Metric, OnSites
from fl_integration.site.scaling import Scale, inputs_of, scaled
from fl_integration.statistics.asking import ask
from fl_integration.statistics.columns import Number
from fl_integration.statistics.moments import Moments, MomentsAnswer
from protocols.identity import ClientId
from protocols.machine.parameters import MachineProtocol
from secagg.errors import ParameterError
from secagg.numbers import plain_fields

if TYPE_CHECKING:
    from fl_integration.privacy.rows import RowLevel

__all__ = [
    "Standardisation",
    "Standardise",
    "Standardised",
    "check_standardise",
    "evaluation_on",
    "standardised",
]


class Standardise(Enum):
    """Whose mean and standard deviation the inputs are scaled by; see this module's first words."""

    SITE = "site"
    POOLED = "pooled"


@dataclass(frozen=True, slots=True, kw_only=True)
class Standardisation:
    """How a training's inputs are scaled: x of shape [rows, columns], floating.

    Args:
        columns: one for each column of x, in order, with its bounds; None for one that stays as it is, such
            as a 0/1 flag.
        how: whose figures.
        max_rows: the most rows that one site may have, at least 1.
        privacy: of the pooled figures: noise for one row. None asks for them exactly.

    Raises:
        ParameterError: no column is to be scaled, two have one name, or a value is outside its range.
    """

    columns: tuple[Number | None, ...]
    how: Standardise = Standardise.POOLED
    max_rows: int = 100_000
    privacy: "RowLevel | None" = None

    def __post_init__(self) -> None:
        plain_fields(self, "max_rows")
        object.__setattr__(self, "columns", tuple(self.columns))
        for each in self.columns:
            if each is not None and not isinstance(each, Number):
                raise ParameterError(
                    f"columns holds a {type(each).__name__}; pass a Number with bounds for each column of "
                    "x, or None for one that is to stay as it is"
                )
        names = [each.name for each in self.numbers]
        if not names:
            raise ParameterError(
                "columns names no column to scale; pass a Number with bounds for one at least"
            )
        if len(set(names)) < len(names):
            raise ParameterError(f"columns has a name twice, among {names}; each column needs its own")
        if not isinstance(self.how, Standardise):
            raise ParameterError(
                f"how is a {type(self.how).__name__}; pass Standardise.POOLED or Standardise.SITE"
            )
        if type(self.max_rows) is not int or self.max_rows < 1:
            raise ParameterError(f"max_rows is {self.max_rows!r}; it must be an int of at least 1")
        if self.privacy is not None and self.how is Standardise.SITE:
            raise ParameterError(
                "privacy= is of pooled figures, and Standardise.SITE asks for none; leave it out"
            )

    @property
    def numbers(self) -> tuple[Number, ...]:
        """The columns that are scaled."""
        return tuple(each for each in self.columns if each is not None)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False, repr=False)
class Standardised:
    """By what the inputs were scaled; new patients must be scaled alike.

    Attributes:
        how: whose figures.
        columns: as they were declared.
        scales: by site; under `Standardise.POOLED` all the same. In a deployment a site's own is its own.
        answer: the pooled figures, with how they came about; None under `Standardise.SITE`.
    """

    how: Standardise
    columns: tuple[Number | None, ...]
    scales: Mapping[ClientId, Scale]
    answer: MomentsAnswer | None = None

    @property
    def scale(self) -> Scale:
        """The one scale of all sites.

        Raises:
            ParameterError: each site has its own.
        """
        if self.how is Standardise.SITE:
            raise ParameterError("each site has a scale of its own (Standardise.SITE); take scales[site]")
        return next(iter(self.scales.values()))

    @property
    def digest(self) -> str:
        """SHA-256 of all scales, in hexadecimal."""
        hashed = hashlib.sha256()
        for name, each in sorted(self.scales.items()):
            hashed.update(repr(name).encode() + each.mean.tobytes() + each.deviation.tobytes())
        return hashed.hexdigest()

    def __repr__(self) -> str:
        whose = (
            "the pooled mean and deviation"
            if self.how is Standardise.POOLED
            else "each site's own mean and deviation"
        )
        came = None if self.answer is None else self.answer.provenance
        noise = (
            f", with noise: ε {came.epsilon:.3g} at δ {came.delta:.3g} a row, on top of what training spends"
            if came is not None and came.epsilon is not None and came.delta is not None
            else ""
        )
        return f"inputs scaled by {whose} (Standardise.{self.how.name}){noise}"


def standardised(
    protocol: MachineProtocol,
    sites: Mapping[ClientId, Any],
    standardisation: Standardisation,
    *,
    seed: int | None = None,
) -> tuple[dict[ClientId, Any], Standardised]:
    """The sites' data on the chosen scale, and that scale.

    `federate(standardise=…)` does this; who wants to look at the figures first, or evaluates by a function of
    their own, does it here and passes the scaled sites.

    Args:
        protocol: that sums the pooled figures.
        sites: each site's data: a DataLoader, or a list of pairs (x, y) with x floating [rows, columns].
        standardisation: the columns, and whose figures.
        seed: makes the protocol's randomness repeat, for tests alone.

    Raises:
        ParameterError: a site's data is of another form; the text says what to do.
        QuestionRefusedError: fewer than three sites have ten values in a column, so that few would be told
            apart; take Standardise.SITE, or leave the column out (None).
        RoundAborted: the sum of the pooled figures did not end.
    """
    scales: dict[ClientId, Scale] = {}
    answer = None
    inputs = {name: _inputs(name, data, standardisation) for name, data in sites.items()}
    if standardisation.how is Standardise.POOLED:
        tables = {name: _table(x, standardisation) for name, x in inputs.items()}
        asked = ask(
            protocol,
            tables,
            Moments(standardisation.numbers),
            max_rows=standardisation.max_rows,
            privacy=standardisation.privacy,
            seed=seed,
        )
        if not isinstance(asked, MomentsAnswer):
            raise TypeError("a question was answered with another's answer; this is a fault")
        answer = asked
        scale = _scale(standardisation, asked.mean, asked.sd)
        scales = dict.fromkeys(sites, scale)
    else:
        scales = {name: _own(x, standardisation) for name, x in inputs.items()}
    found = Standardised(
        how=standardisation.how, columns=standardisation.columns, scales=scales, answer=answer
    )
    return {name: scaled(data, scales[name]) for name, data in sites.items()}, found


def check_standardise(
    standardise: object,
    evaluate: Evaluation | Metric | None,
    *,
    private: bool = False,
    checkpointed: bool = False,
) -> None:
    """Whether `federate` can do this with this evaluation.

    Args:
        standardise, evaluate: of `federate`.
        private: under differential privacy.
        checkpointed: with a checkpoint.

    Raises:
        ParameterError: it cannot; the text says what to do.
    """
    if standardise is None:
        return
    if not isinstance(standardise, Standardisation):
        found = standardise if isinstance(standardise, Standardise) else f"a {type(standardise).__name__}"
        raise ParameterError(
            f"standardise is {found}; pass Standardisation(columns=(…), how=…), in which each column has "
            "its bounds"
        )
    if private and standardise.privacy is None:
        raise ParameterError(
            f"privacy= and exact figures (Standardise.{standardise.how.name}): every patient moves the mean "
            "that all gradients are scaled by, which the budget would not count. Take Standardise.POOLED "
            "with Standardisation(privacy=RowLevel(epsilon=…, delta=…)), whose ε comes on top, or scale "
            "the inputs by constants that no patient moves and leave standardise= out"
        )
    if checkpointed and standardise.privacy is not None:
        raise ParameterError(
            "checkpoint= and noised figures: a training that is taken up would ask for others, and pay "
            "again; call standardised(…) once, keep its scale, and pass scaled sites without standardise="
        )
    if isinstance(evaluate, Central) and standardise.how is Standardise.SITE:
        raise ParameterError(
            "evaluate=Central(…) has examples of no site, and under Standardise.SITE each site has a scale "
            "of its own; take Standardise.POOLED, or OnSites(…)"
        )
    if evaluate is not None and not isinstance(evaluate, Central | OnSites):
        raise ParameterError(
            "evaluate is a function, whose examples nobody here can scale; call standardised(…) first, pass "
            "the sites that it returns, leave standardise= out, and scale the examples by what it found"
        )


def evaluation_on(evaluate: Evaluation | Metric | None, found: Standardised) -> Evaluation | Metric | None:
    """The evaluation with its examples on the training's scale."""
    if isinstance(evaluate, OnSites):
        return replace(
            evaluate, data={name: scaled(data, found.scales[name]) for name, data in evaluate.data.items()}
        )
    if isinstance(evaluate, Central):
        return replace(evaluate, data=scaled(evaluate.data, found.scale))
    return evaluate


def _inputs(name: ClientId, data: Any, standardisation: Standardisation) -> npt.NDArray[np.float64]:
    """float64[rows, columns] of one site, looked at."""
    try:
        inputs = inputs_of(data, columns=len(standardisation.columns))
    except ParameterError as error:
        raise ParameterError(f"the inputs of {name!r} cannot be scaled: {error}") from error
    if np.isinf(inputs).any():
        raise ParameterError(
            f"the inputs of {name!r} have an infinite value; make it missing (NaN), or repair it"
        )
    return inputs


def _table(
    inputs: npt.NDArray[np.float64], standardisation: Standardisation
) -> dict[str, npt.NDArray[np.float64]]:
    return {
        each.name: inputs[:, place] for place, each in enumerate(standardisation.columns) if each is not None
    }


def _own(inputs: npt.NDArray[np.float64], standardisation: Standardisation) -> Scale:
    """A site's own figures, from its own rows; with n - 1, as those of all together."""
    means, deviations = [], []
    for column in _table(inputs, standardisation).values():
        known = column[~np.isnan(column)]
        means.append(known.mean() if len(known) else np.nan)
        deviations.append(known.std(ddof=1) if len(known) > 1 else np.nan)
    return _scale(standardisation, np.array(means), np.array(deviations))


def _scale(
    standardisation: Standardisation,
    means: npt.NDArray[np.float64],
    deviations: npt.NDArray[np.float64],
) -> Scale:
    """The scale of all columns; what is constant, or known of too few rows, is not divided."""
    mean, deviation = np.zeros(len(standardisation.columns)), np.ones(len(standardisation.columns))
    scaled_places = [place for place, each in enumerate(standardisation.columns) if each is not None]
    mean[scaled_places] = np.where(np.isfinite(means), means, 0.0)
    deviation[scaled_places] = np.where(np.isfinite(deviations) & (deviations > 0), deviations, 1.0)
    return Scale(mean=mean, deviation=deviation)
