"""Table 1 of a medical paper: who the patients are, in all and by outcome, from secure sums alone.

Numbers are shown as mean (sd), or as median [quartiles] where that is asked for; categories as n (%) of those
whose value is known; how many lack one stands beside. Groups are compared as papers do: Welch's t for two
means, an analysis of variance for more; χ² for categories, Fisher's exact test where two by two are few;
ranks (Mann-Whitney for two groups, Kruskal-Wallis for more, both with ties and without correction) for
medians, on the counts of equal bins, which for the values themselves is an approximation. p-values are not
corrected for their number, and with small groups say little.

Each figure is a question of its own under the sites' policies (`policy`), and takes as many sums as it takes:
`TableOne.provenance` says how many, and what they cost. A site with too few rows in a group is in no figure
of that group, and the notes below the table say so. A table that is printed says more than a sum that is
opened: counts below `least_shown` are printed as "<" with it. That is manners and no protection: whoever
learnt the sum has seen them, and one that stands alone follows from what is beside it.
"""

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeVar

import numpy as np

from fl_integration.statistics.answer import Answer, Provenance
from fl_integration.statistics.asking import ask
from fl_integration.statistics.cohort import CategoryLine, Label, NumberLine, TableOne
from fl_integration.statistics.columns import Category, Level, Number
from fl_integration.statistics.comparing import (
    compared_counts,
    compared_means,
    compared_ranks,
    pooled_moments,
)
from fl_integration.statistics.count import Count, CountAnswer
from fl_integration.statistics.course import ROWS
from fl_integration.statistics.histogram import Histogram, HistogramAnswer
from fl_integration.statistics.moments import Moments, MomentsAnswer
from fl_integration.statistics.policy import SitePolicy
from fl_integration.statistics.quantiles import Quantiles, QuantilesAnswer
from fl_integration.statistics.question import Condition, Question
from protocols.identity import ClientId
from protocols.machine.parameters import MachineProtocol
from secagg.errors import ParameterError
from secagg.numbers import plain

__all__ = ["questions", "rank_edges", "table_one"]

_QUARTILES: Final = (0.25, 0.5, 0.75)
_BINS: Final = 32
"""Equal bins of a number whose ranks are compared."""

_Kind = TypeVar("_Kind", bound=Answer)


def questions(
    columns: Sequence[Number | Category], *, by: Category | None = None, medians: Collection[str] = ()
) -> int:
    """How many questions `table_one` asks, and so how often it calls its `tick`."""
    return len(_asked(_checked(columns, by, medians), by, medians))


def rank_edges(column: Number) -> tuple[float, ...]:
    """Where a number that is told as a median is cut, to compare ranks; a policy may have to allow it."""
    return tuple(column.low + (column.high - column.low) * place / _BINS for place in range(_BINS + 1))


def table_one(
    protocol: MachineProtocol,
    tables: Mapping[ClientId, Any],
    columns: Sequence[Number | Category],
    *,
    by: Category | None = None,
    medians: Collection[str] = (),
    labels: Mapping[str, Label] | None = None,
    least_shown: int = 1,
    policy: SitePolicy | Mapping[ClientId, SitePolicy] | None = None,
    max_rows: int = 100_000,
    seed: int | None = None,
    tick: Callable[[str], None] = lambda title: None,
) -> TableOne:
    """Describes the rows of all sites.

    Args:
        protocol, tables, policy, max_rows, seed: as of `ask`, once for each question.
        columns: the characteristics, in the order of the table.
        by: the outcome whose levels are the groups; a row that lacks it is left out.
        medians: names of the numbers that are told as median [quartiles].
        labels: what is printed for a column: a text, or for a category a mapping from its levels to texts,
            with that of the column itself under "".
        least_shown: counts below it are not printed.
        tick: called before each question, with what it asks.

    Raises:
        ParameterError: columns that are none, or named twice.
        QuestionRefusedError: a site does not answer; the text says why.
    """
    columns = _checked(columns, by, medians)
    least_shown = plain(least_shown)
    if type(least_shown) is not int or least_shown < 1:
        raise ParameterError(f"least_shown is {least_shown!r}; it must be an int of at least 1")
    answers: dict[_Key, Answer] = {}
    for place, (key, question) in enumerate(_asked(columns, by, medians).items()):
        tick(key.what)
        of_question = None if seed is None else (plain(seed) + (place << 96)) % (1 << 128)  # another session
        answers[key] = ask(protocol, tables, question, policy=policy, max_rows=max_rows, seed=of_question)
    found = _Answers(answers, by)
    lines = tuple(
        found.category(each)
        if isinstance(each, Category)
        else found.median(each)
        if each.name in medians
        else found.mean(each)
        for each in columns
    )
    return TableOne(
        by=by,
        rows=found.rows,
        lines=lines,
        provenance=_together(tuple(answers.values())),
        left_out=_left_out(answers),
        least_shown=least_shown,
        labels=labels or {},
    )


@dataclass(frozen=True, slots=True)
class _Key:
    """What a question is for: a figure, of one column or of all, in one group or in all."""

    what: str
    group: Level | None = None
    column: str = ""


def _asked(
    columns: Sequence[Number | Category], by: Category | None, medians: Collection[str]
) -> dict[_Key, Question]:
    """All questions, in order."""
    means = tuple(each for each in columns if isinstance(each, Number) and each.name not in medians)
    middles = tuple(each for each in columns if isinstance(each, Number) and each.name in medians)
    asked: dict[_Key, Question] = {}
    for group in _groups(by):
        where = _where(by, group)
        if means:
            asked[_Key("means", group)] = Moments(means, where=where)
        else:
            asked[_Key("rows", group)] = Count(where=where)
        for each in middles if by is not None else ():
            asked[_Key("ranks", group, each.name)] = Histogram(each, rank_edges(each), where=where)
    for group in dict.fromkeys([None, *_groups(by)]) if middles else ():
        asked[_Key("quartiles", group)] = Quantiles(middles, _QUARTILES, where=_where(by, group))
    for category in columns:
        # Not a table of two columns: who lacks one of their values is left out of it, and the ledgers would
        # see that from one category to the next its rows differ by few.
        for group in _groups(by) if isinstance(category, Category) else ():
            asked[_Key("levels", group, category.name)] = Histogram(category, where=_where(by, group))
    return asked


def _groups(by: Category | None) -> tuple[Level | None, ...]:
    return (None,) if by is None else by.levels


def _where(by: Category | None, group: Level | None) -> tuple[Condition, ...]:
    if by is None:
        return ()
    return (Condition(by, among=by.levels if group is None else (group,)),)


class _Answers:
    """What the questions brought, as lines."""

    def __init__(self, answers: Mapping[_Key, Answer], by: Category | None) -> None:
        self._answers, self._by = answers, by
        counts = [self._rows_of(group) for group in _groups(by)]
        self.rows = np.array(counts if by is None else [sum(counts), *counts], dtype=np.int64)

    def _of(self, what: str, kind: type[_Kind], *, group: Level | None = None, column: str = "") -> _Kind:
        answer = self._answers[_Key(what, group, column)]
        if not isinstance(answer, kind):
            raise TypeError("a question was answered with another's answer; this is a fault")
        return answer

    def _rows_of(self, group: Level | None) -> int:
        if _Key("means", group) in self._answers:
            return self._of("means", MomentsAnswer, group=group).rows
        return self._of("rows", CountAnswer, group=group).rows

    def mean(self, column: Number) -> NumberLine:
        """Mean and deviation of all are put together from the groups': no question more."""
        found = [self._of("means", MomentsAnswer, group=group) for group in _groups(self._by)]
        place = found[0].numbers.index(column)
        count = np.array([each.count[place] for each in found], dtype=np.int64)
        mean = np.array([each.mean[place] for each in found])
        deviation = np.array([each.sd[place] for each in found])
        p, test = compared_means(count, mean, deviation) if self._by is not None else (math.nan, None)
        if self._by is not None:
            of_all = pooled_moments(count, mean, deviation)
            count = np.concatenate([[count.sum()], count])
            mean, deviation = (
                np.concatenate([[one], each]) for one, each in zip(of_all, (mean, deviation), strict=True)
            )
        return NumberLine(
            column=column,
            median=False,
            count=count,
            missing=self.rows - count,
            centre=mean,
            spread=np.stack([deviation, deviation], axis=1),
            p_value=p,
            test=test,
        )

    def median(self, column: Number) -> NumberLine:
        groups = tuple(dict.fromkeys([None, *_groups(self._by)]))
        found = [self._of("quartiles", QuantilesAnswer, group=group) for group in groups]
        place = found[0].numbers.index(column)
        values = np.array([each.values[place] for each in found])
        count = np.array([each.count[place] for each in found], dtype=np.int64)
        p, test = math.nan, None
        if self._by is not None:
            bins = [
                self._of("ranks", HistogramAnswer, group=group, column=column.name)
                for group in _groups(self._by)
            ]
            p, test = compared_ranks(np.array([[each.below, *each.counts, each.above] for each in bins]))
        return NumberLine(
            column=column,
            median=True,
            count=count,
            missing=self.rows - count,
            centre=values[:, 1],
            spread=values[:, [0, 2]],
            p_value=p,
            test=test,
        )

    def category(self, column: Category) -> CategoryLine:
        found = [
            self._of("levels", HistogramAnswer, group=group, column=column.name).counts
            for group in _groups(self._by)
        ]
        counts = np.stack(found, axis=1)
        p, test = math.nan, None
        if self._by is not None:
            p, test = compared_counts(counts)
            counts = np.concatenate([counts.sum(axis=1, keepdims=True), counts], axis=1)
        return CategoryLine(
            column=column, counts=counts, missing=self.rows - counts.sum(axis=0), p_value=p, test=test
        )


def _together(answers: Sequence[Answer]) -> Provenance:
    """One provenance for all questions."""
    each = [answer.provenance for answer in answers if answer.provenance is not None]
    parties = {party for one in each for party in one.seconds}
    return Provenance(
        contributors=frozenset().union(*(one.contributors for one in each)),
        sums=sum(one.sums for one in each),
        sent={site: sum(one.sent.get(site, 0) for one in each) for one in each for site in one.sent},
        seconds={party: sum(one.seconds.get(party, 0.0) for one in each) for party in sorted(parties)},
    )


def _left_out(answers: Mapping[_Key, Answer]) -> dict[tuple[Level | None, str], int]:
    """By group and column, how many sites had too few to be counted; what `by` is has no column of its
    own."""
    found: dict[tuple[Level | None, str], int] = {}
    for key, answer in answers.items():
        for label, sites in (answer.provenance.left_out if answer.provenance is not None else {}).items():
            place = key.group, "" if label == ROWS else label
            found[place] = max(found.get(place, 0), sites)
    # Who has too few rows has too few values, which need not be said of each column.
    return {
        place: sites for place, sites in found.items() if not place[1] or sites > found.get((place[0], ""), 0)
    }


def _checked(columns: object, by: object, medians: Collection[str]) -> tuple[Number | Category, ...]:
    """The columns as a tuple.

    Raises:
        ParameterError: they are none, or do not go together.
    """
    if not isinstance(columns, tuple | list) or not all(
        isinstance(each, Number | Category) for each in columns
    ):
        raise ParameterError(
            f"columns is a {type(columns).__name__}, or holds something else than Number(…) and "
            "Category(…); pass a list of the characteristics to describe"
        )
    if by is not None and not isinstance(by, Category):
        raise ParameterError(
            f"by is a {type(by).__name__}; pass the Category whose levels are the groups, or None"
        )
    names = [each.name for each in (*columns, *((by,) if by is not None else ()))]
    if not columns or len(set(names)) < len(names):
        raise ParameterError(
            f"the columns are {names}; there must be one, each once, and `by` not among them"
        )
    numbers = {each.name for each in columns if isinstance(each, Number)}
    if isinstance(medians, str) or not set(medians) <= numbers:
        raise ParameterError(f"medians is {medians!r}; it must be names of numbers, among {sorted(numbers)}")
    return tuple(columns)
