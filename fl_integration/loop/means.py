"""Which rounds' means somebody has applied, and what they said.

Where the clients learn the sums, a round's mean is known here when the first of them has opened and applied
it, which may be rounds later.

>>> heard = []
>>> means = Means(lambda number, total, model: heard.append(number))
>>> total = Sum(None, 12, frozenset("abc"), {})
>>> means.applied(0, total, None), means.applied(0, total, None), means.weight(0), heard
(None, None, 12, [0])
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field

from fl_integration.loop.global_model import GlobalModel
from fl_integration.loop.report import RoundReport
from protocols.interface import Sum
from protocols.simulation import Traffic

__all__ = ["Means", "added"]


def added(one: Mapping[str, Traffic], other: Mapping[str, Traffic]) -> dict[str, Traffic]:
    """Bytes of two things together, by party."""
    none = Traffic(0, 0)
    return {
        party: Traffic(
            one.get(party, none).sent + other.get(party, none).sent,
            one.get(party, none).received + other.get(party, none).received,
        )
        for party in {**one, **other}
    }


@dataclass(slots=True)
class Means:
    """Which rounds' means somebody has applied."""

    then: Callable[[int, Sum, GlobalModel], None]
    _weights: dict[int, int] = field(default_factory=dict)
    _metrics: dict[int, dict[str, float]] = field(default_factory=dict)

    def applied(self, number: int, total: Sum, model: GlobalModel) -> None:
        """A party applied this round's sum."""
        if number in self._weights:
            return
        self._weights[number], self._metrics[number] = total.total_weight, dict(total.metrics)
        self.then(number, total, model)

    def recall(self, history: Collection[RoundReport]) -> None:
        """Rounds before a training was taken up again."""
        for report in history:
            if report.total_weight is not None:
                self._weights[report.number] = report.total_weight
                self._metrics[report.number] = report.metrics

    def weight(self, number: int) -> int | None:
        """The total weight of a round whose mean was applied."""
        return self._weights.get(number)

    def metrics(self, number: int) -> dict[str, float]:
        """Its metrics."""
        return self._metrics.get(number, {})
