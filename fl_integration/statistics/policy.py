"""What a site answers. The question is the attack: a count of few rows, or two that differ in one patient.

A policy is the site's own, and no server talks it down. It says which questions are answered, over which
columns, with which cuts; how many rows a site must have to be counted, how many sites must stand beside it,
by how many rows two answers must differ (`ledger`), and how many sums there are in all. A server that learns
sums cannot suppress small cells: it has seen them. So what opens cells is answered as `SmallCells` says,
before anything is summed, or not at all.

>>> from fl_integration.statistics.columns import Number
>>> from fl_integration.statistics.moments import Moments
>>> age, weight = Number("age", low=0, high=128, unit=1), Number("weight", low=0, high=256)
>>> policy = SitePolicy(columns={"age": age})
>>> policy.check(Moments((age, weight)), site="wien", clients_learn=False, noised=False)
Traceback (most recent call last):
    ...
fl_integration.statistics.refusal.QuestionRefusedError: wien: the column 'weight' is not among those that ...
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Final

from fl_integration.privacy.ledger import BudgetLedger
from fl_integration.statistics.columns import Category, Column, Genotypes, Number
from fl_integration.statistics.ledger import AnswerLedger
from fl_integration.statistics.quantiles import Quantiles
from fl_integration.statistics.question import Question
from fl_integration.statistics.refusal import QuestionRefusedError
from secagg.errors import ParameterError
from secagg.numbers import is_number, plain, plain_fields

__all__ = ["SitePolicy", "SmallCells"]

_LIMITS: Final = {
    "min_rows": (1, 1 << 40),
    "min_sites": (2, 1 << 20),
    "min_difference": (1, 1 << 40),
    "max_answers": (1, 1 << 40),
    "max_sums": (1, 1 << 20),
    "max_length": (1, 1 << 32),
}


class SmallCells(Enum):
    """What a site does about questions whose sums open cells: numbers of rows that share something."""

    BINNED = "binned"
    """Only with columns and edges that the policy declares, so that whoever asks has no say in the cells."""
    NOISED = "noised"
    """Only with noise inside the sum."""
    CLIENTS_ONLY = "clients only"
    """Only where the clients learn the sums, and the server does not."""
    OPENED = "opened"
    """As they are: for data that may be told row by row, and for rehearsals."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SitePolicy:
    """What a site answers, whatever the server says.

    Args:
        questions: the classes that are answered; None: all.
        columns: the columns that are answered about, by name, conditions included: with bounds, unit and
            levels exactly as here, or None for any; None in place of the mapping: all columns.
        edges: for a column, where it may be cut, by histograms and conditions; a column that is not named may
            be cut anywhere, but not by what opens cells under `SmallCells.BINNED`.
        probabilities: of the quantiles that are answered: those at 0 and 1 are single rows' values, and
        many of
            them are all values. They do not bind what is noised, nor `SmallCells.OPENED`.
        min_rows: a site with fewer rows that count, or fewer values in a column, takes part as one that has
            none, at least 1.
        min_sites: a column that fewer sites hold is not answered about; and sites that came or went between
            two answers must be as many, at least 2.
        min_difference: rows by which two answered sets of rows differ if they do, at least 1.
        max_answers: sums over the ledger's life, and questions that were not answered for what the rows are.
        max_sums: of one question.
        max_length: values in one sum.
        small_cells: what becomes of questions that open cells.
        ledger: where it stands what was answered; left out, one in memory, which ends with the policy.
        budget: what all noised answers of this site may cost together, whoever else is asked. Noise sets
            aside all rules about rows, and who asks says how much of it there is, so without a budget nothing
            is answered under it; but for `SmallCells.OPENED`.

    Raises:
        ParameterError: a value is outside its range.
    """

    questions: frozenset[type[Question]] | None = None
    columns: Mapping[str, Column | None] | None = None
    edges: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    probabilities: tuple[float, ...] = (0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95)
    min_rows: int = 10
    min_sites: int = 3
    min_difference: int = 10
    max_answers: int = 1000
    max_sums: int = 100
    max_length: int = 1 << 22
    small_cells: SmallCells = SmallCells.BINNED
    ledger: AnswerLedger = field(default_factory=AnswerLedger, compare=False)
    budget: BudgetLedger | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        plain_fields(self, *_LIMITS)
        for name, (least, most) in _LIMITS.items():
            value = getattr(self, name)
            if type(value) is not int or not least <= value <= most:
                raise ParameterError(f"{name} is {value!r}; it must be an int in [{least}, {most}]")
        if not isinstance(self.small_cells, SmallCells):
            raise ParameterError("small_cells is a member of SmallCells, for example SmallCells.BINNED")
        if not isinstance(self.ledger, AnswerLedger):
            raise ParameterError(f"ledger is a {type(self.ledger).__name__}; pass an AnswerLedger(path)")
        if self.budget is not None and not isinstance(self.budget, BudgetLedger):
            raise ParameterError(
                f"budget is a {type(self.budget).__name__}; pass a BudgetLedger(path, epsilon=…, delta=…)"
            )
        if self.questions is not None:
            object.__setattr__(self, "questions", _classes(self.questions))
        if self.columns is not None:
            object.__setattr__(self, "columns", _columns(self.columns))
        object.__setattr__(self, "edges", _edges(self.edges))
        object.__setattr__(self, "probabilities", _probabilities(self.probabilities))

    def check(self, question: Question, *, site: str, clients_learn: bool, noised: bool) -> None:
        """Refuses a question that this policy does not allow, whatever the rows are.

        Args:
            question: what is asked.
            site: whose policy this is.
            clients_learn: whether the clients learn the sums, and not the server.
            noised: whether there is noise inside the sums.

        Raises:
            QuestionRefusedError: it is not answered.
        """
        if (reason := self._reason(question, clients_learn=clients_learn, noised=noised)) is not None:
            raise QuestionRefusedError({site: reason})

    def _reason(self, question: Question, *, clients_learn: bool, noised: bool) -> str | None:
        kind = type(question).__name__
        if self.questions is not None and type(question) not in self.questions:
            return f"a {kind} is not among the questions that this site answers"
        if question.most_sums > self.max_sums:
            return f"a {kind} of up to {question.most_sums} sums; this site answers {self.max_sums} at most"
        asked = (*question.columns, *(each.column for each in question.where))
        for column in asked:
            if isinstance(column, Category) and column.name in self.edges:
                return f"the column {column.name!r} is cut by its levels, and has edges in this site's policy"
            if self.columns is None:
                continue
            if column.name not in self.columns:
                return f"the column {column.name!r} is not among those that this site answers about"
            declared = self.columns[column.name]
            if declared is not None and declared != column:
                return f"the column {column.name!r} is declared with other bounds, unit or levels here"
        if noised and self.budget is None and self.small_cells is not SmallCells.OPENED:
            return "an answer under noise costs some of a budget, and this site's policy has none"
        for name, cuts in _cuts(question):
            if name in self.edges and not set(cuts) <= set(self.edges[name]):
                return f"the column {name!r} is cut where this site's policy does not cut it"
        if question.cells:
            return self._cells_reason(question, asked, clients_learn=clients_learn, noised=noised)
        return None

    def _cells_reason(
        self, question: Question, asked: Iterable[Column], *, clients_learn: bool, noised: bool
    ) -> str | None:
        kind = type(question).__name__
        if (
            isinstance(question, Quantiles)
            and not (noised or self.small_cells is SmallCells.OPENED)
            and not set(question.probabilities) <= set(self.probabilities)
        ):
            return f"quantiles at other probabilities than {self.probabilities}"
        match self.small_cells:
            case SmallCells.NOISED if not noised:
                return f"a {kind} opens cells; this site does so under noise alone, pass privacy="
            case SmallCells.CLIENTS_ONLY if not clients_learn:
                return f"a {kind} opens cells; this site does so where the clients alone learn the sums"
            case SmallCells.BINNED:
                for column in asked:
                    if self.columns is None or self.columns.get(column.name) is None:
                        return (
                            f"a {kind} opens cells, and the column {column.name!r} is not declared with its "
                            "bounds or levels in this site's policy"
                        )
                for name, _ in _cuts(question):
                    if name not in self.edges:
                        return f"a {kind} cuts the column {name!r}, and this site's policy says nowhere where"
        return None


def _cuts(question: Question) -> Iterable[tuple[str, tuple[float, ...]]]:
    """Where a question cuts which column."""
    yield from question.cuts.items()
    for condition in question.where:
        if condition.cuts:
            yield condition.column.name, condition.cuts


def _classes(given: object) -> frozenset[type[Question]]:
    if not isinstance(given, frozenset | set | tuple | list) or not all(
        isinstance(each, type) and issubclass(each, Question) for each in given
    ):
        raise ParameterError("questions holds classes of questions, for example {Count, Moments}")
    return frozenset(given)


def _edges(given: object) -> dict[str, tuple[float, ...]]:
    if not isinstance(given, Mapping) or not all(
        isinstance(cuts, tuple | list) and all(is_number(plain(cut)) for cut in cuts)
        for cuts in given.values()
    ):
        raise ParameterError("edges maps a column's name to a tuple of the values where it may be cut")
    return {str(name): tuple(float(plain(cut)) for cut in cuts) for name, cuts in given.items()}


def _probabilities(given: object) -> tuple[float, ...]:
    if not isinstance(given, tuple | list) or not all(is_number(plain(each)) for each in given):
        raise ParameterError("probabilities is a tuple of numbers in [0, 1], such as (0.25, 0.5, 0.75)")
    found = tuple(float(plain(each)) for each in given)
    if not all(0 <= each <= 1 for each in found):
        raise ParameterError("probabilities has a number outside [0, 1]")
    return found


def _columns(given: object) -> dict[str, Column | None]:
    if not isinstance(given, Mapping):
        raise ParameterError("columns maps a column's name to the column, or to None for any of that name")
    for name, column in given.items():
        if column is not None and not isinstance(column, Number | Category | Genotypes):
            raise ParameterError(f"columns maps {name!r} to a {type(column).__name__}; it must be a column")
        if column is not None and column.name != name:
            raise ParameterError(f"columns maps {name!r} to the column {column.name!r}; names must agree")
    return dict(given)
