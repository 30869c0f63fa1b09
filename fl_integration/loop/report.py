"""What a training leaves behind: a report for each round, and the run.

`print(run)` is a small table, `run.to_frame()` a pandas DataFrame with a row for each round. In a deployment
each party would know only its own part of a report: the clipped values, the processor time and the reasons of
a site that sat out are the site's own.

>>> RoundReport(number=0, asked=frozenset("abc"), contributors=frozenset("abc"), total_weight=12)
RoundReport(0: 3 of 3, weight 12)
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from fl_integration.privacy.plan import PrivacyPlan
from protocols.identity import SERVER, ClientId
from protocols.simulation import Traffic, aligned
from secagg.errors import MissingExtraError, RoundAborted

try:
    from torch import nn
except ImportError as error:
    raise MissingExtraError(package="torch", extra="train") from error

if TYPE_CHECKING:
    import pandas as pd

    from fl_integration.loop.standardising import Standardised

__all__ = ["FederatedRun", "RoundReport", "TrainingAborted"]


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class RoundReport:
    """What one round did and cost.

    Attributes:
        number: from 0.
        asked: the round's cohort.
        contributors: whose updates are in the mean; in an aborted round those of a sum that was opened and
            refused, or nobody.
        dropped: reason by client; one that had contributed stands in both. Of a site that could not train it
            is the site's own word.
        culprits: those of them who broke the protocol.
        total_weight: the contributors' examples together. Where only clients learn it, it is None while the
            run goes on and filled in afterwards.
        aborted: why there is no mean; empty when there is one.
        epsilon: what the patients, or the clients, of the site that has spent most have spent by now, of a
            private training; aborted rounds count. None without privacy.
        clipped: values clipped, by contributor; in a deployment only the client itself knows.
        clipped_share: of all values of the contributors, those that were clipped, in [0, 1].
        clipped_entries: the same by entry of the model, those with any.
        metrics: of training, their means by weight, where the protocol names some.
        evaluated: an evaluation was asked after this round, whatever came of it.
        evaluation: its figures; empty where there are none.
        evaluation_dropped: reason by client of those that sat the evaluation out.
        traffic: bytes of the round by party, `"server"` included.
        side_traffic: bytes of sums beside the round, by party: evaluation, and the first scales.
        seconds: processor seconds of cryptography in the round by party, `"server"` included; training is not
            in it.
    """

    number: int
    asked: frozenset[ClientId] = frozenset()
    contributors: frozenset[ClientId] = frozenset()
    dropped: dict[ClientId, str] = field(default_factory=dict)
    culprits: frozenset[ClientId] = frozenset()
    total_weight: int | None = None
    aborted: str = ""
    epsilon: float | None = None
    clipped: dict[ClientId, int] = field(default_factory=dict)
    clipped_share: float = 0.0
    clipped_entries: dict[str, float] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)
    evaluated: bool = False
    evaluation: dict[str, float] = field(default_factory=dict)
    evaluation_dropped: dict[ClientId, str] = field(default_factory=dict)
    traffic: dict[str, Traffic] = field(default_factory=dict)
    side_traffic: dict[str, Traffic] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def sent(self) -> int:
        """Bytes on the wire in this round, all parties together, sums beside it included."""
        return sum(each.sent for part in (self.traffic, self.side_traffic) for each in part.values())

    @property
    def figures(self) -> dict[str, float]:
        """Metrics of training (`training …`) and of evaluation under one roof."""
        return {**{f"training {name}": value for name, value in self.metrics.items()}, **self.evaluation}

    def __repr__(self) -> str:
        if self.aborted:
            return f"RoundReport({self.number}: aborted, {self.aborted})"
        said = [f"{len(self.contributors)} of {len(self.asked)}"]
        if self.total_weight is not None:
            said.append(f"weight {self.total_weight}")
        if self.epsilon is not None:
            said.append(f"ε {self.epsilon:.3g}")
        said += [f"{name} {value:.4g}" for name, value in self.figures.items()]
        return f"RoundReport({self.number}: {', '.join(said)})"


class Models(Mapping[ClientId, nn.Module]):
    """Every site's model, made when it is asked for."""

    def __init__(self, made: Mapping[ClientId, Callable[[], nn.Module]]) -> None:
        self._made = dict(made)

    def __getitem__(self, client: ClientId) -> nn.Module:
        return self._made[client]()

    def __iter__(self) -> Iterator[ClientId]:
        return iter(self._made)

    def __len__(self) -> int:
        return len(self._made)

    def __repr__(self) -> str:
        return f"Models({', '.join(self._made)})"


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class FederatedRun:
    """A finished training.

    Attributes:
        model: a trained copy; the one that was passed in is as it was. Entries that are not shared are as
            they were in it.
        models: each site's own: the shared entries with that site's own part, a fresh copy at each look.
        history: one report a round.
        digest: `model_digest` of `model` (32 bytes); all who hold the global model hold the same.
        handed_over: clients that the others left behind, and that took the model from a peer.
        stopped: why the training ended before its last round; empty when it did not.
        standardised: by what the inputs were scaled, and new patients' must be; None where nothing was.
        privacy: what was promised to whom, of a private training; None without privacy.
    """

    model: nn.Module
    models: Mapping[ClientId, nn.Module]
    history: tuple[RoundReport, ...]
    digest: bytes
    handed_over: frozenset[ClientId] = frozenset()
    stopped: str = ""
    standardised: "Standardised | None" = None
    privacy: PrivacyPlan | None = None

    def to_frame(self) -> "pd.DataFrame":
        """One row a round: counts, weight, ε, bytes, seconds, clipping, each metric in a column of its own.

        Raises:
            MissingExtraError: pandas is not installed.
        """
        return frame_of(self.history)

    def __repr__(self) -> str:
        last = repr(self.history[-1]) if self.history else "no round"
        return f"FederatedRun({len(self.history)} rounds, digest {self.digest.hex()[:12]}, last {last})"

    def __str__(self) -> str:
        lines = table_of(self.history)
        tail = [f"model {self.digest.hex()[:16]}, {sum(report.sent for report in self.history):,} bytes"]
        if self.standardised is not None:
            tail.append(repr(self.standardised))
        if self.privacy is not None:
            tail.append(_promised(self.history, self.privacy))
        if self.stopped:
            tail.append(f"stopped early: {self.stopped}")
        if self.handed_over:
            tail.append(f"took the model from a peer: {', '.join(sorted(self.handed_over))}")
        return "\n".join([*lines, *tail])


class TrainingAborted(RoundAborted):
    """No round of a training had a mean: there is no trained model.

    Attributes:
        history: what was tried, one report a round.
    """

    def __init__(self, reason: str, *, history: tuple[RoundReport, ...]) -> None:
        super().__init__(reason)
        self.history = history


def table_of(history: tuple[RoundReport, ...]) -> list[str]:
    """The rounds as lines of a table."""
    names = list(dict.fromkeys(name for report in history for name in report.figures))[:_FIGURES]
    private = ["ε"] if any(report.epsilon is not None for report in history) else []
    head = ["round", "summed", "weight", *private, *names, "clipped", "bytes", ""]
    return aligned([head, *(_row(report, names, private=bool(private)) for report in history)])


def _promised(history: tuple[RoundReport, ...], plan: PrivacyPlan) -> str:
    """What was spent, what was planned, and for whom."""
    spent = max((report.epsilon for report in history if report.epsilon is not None), default=0.0)
    return (
        f"private: ε {spent:.3g} is spent at the site that has spent most; these rounds were planned for "
        f"{plan.epsilon:.3g} at δ {plan.delta:.3g}; {plan.unit.neighbours}"
    )


def _row(report: RoundReport, names: list[str], *, private: bool) -> list[str]:
    values = report.figures
    epsilon = "" if report.epsilon is None else f"{report.epsilon:.3g}"
    notes = report.aborted or "; ".join(f"{client}: {reason}" for client, reason in report.dropped.items())
    weight = "" if report.total_weight is None else str(report.total_weight)
    return [
        str(report.number),
        f"{len(report.contributors)}/{len(report.asked)}",
        weight,
        *([epsilon] if private else []),
        *(f"{values[name]:.4g}" if name in values else "" for name in names),
        f"{report.clipped_share:.2%}" if report.clipped_share else "",
        f"{report.sent:,}",
        notes if len(notes) <= _NOTE else notes[: _NOTE - 1] + "…",
    ]


_NOTE = 60
_FIGURES = 4


def frame_of(history: tuple[RoundReport, ...]) -> "pd.DataFrame":
    """A row for each round."""
    try:
        import pandas as pd
    except ImportError as error:
        raise MissingExtraError(package="pandas", extra="train") from error
    rows: list[dict[str, Any]] = []
    for report in history:
        server = report.traffic.get(SERVER, Traffic(0, 0))
        rows.append(
            {
                "round": report.number,
                "asked": len(report.asked),
                "contributors": len(report.contributors),
                "dropped": len(report.dropped),
                "total_weight": report.total_weight,
                **({} if report.epsilon is None else {"epsilon": report.epsilon}),
                "aborted": report.aborted,
                "clipped_share": report.clipped_share,
                "bytes_up": server.received,
                "bytes_down": server.sent,
                "bytes_beside": sum(each.sent for each in report.side_traffic.values()),
                "client_seconds": sum(s for party, s in report.seconds.items() if party != SERVER),
                "server_seconds": report.seconds.get(SERVER, 0.0),
                **report.figures,
            }
        )
    return pd.DataFrame(rows).set_index("round") if rows else pd.DataFrame()
