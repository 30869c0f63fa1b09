"""What a person sees of a running training: a bar, a line a round in the log, curves in TensorBoard.

`Watch` says who is told what. The bar is drawn by rich on standard error, and on a terminal alone: into a
pipe, a file or a notebook no control code is ever written, whatever the environment says of colours. The log
is `logging.getLogger("secagg")`: a line a round, INFO when all went well, WARNING when a site sat it out or
there is no mean. None of them is shown an update or a key: metrics, counts, names, reasons and bytes are all.
The logger has no handler of ours, not even a `NullHandler`: as Python's logging HOWTO has it, a program that
configures nothing then sees warnings on standard error, and that a round was aborted should be seen.

>>> Watch(progress=Progress.NEVER).progress
<Progress.NEVER: 'never'>
>>> human(999), human(1_250), human(31_400_000)
('999 B', '1.2 kB', '31.4 MB')
"""

import logging
import math
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Final, Protocol, Self, TextIO

from protocols.identity import SERVER
from protocols.interface import Outcome, Round, Sum
from protocols.machine.reasons import listed, printable
from protocols.simulation import Message
from secagg.errors import ParameterError, RoundAborted
from secagg.numbers import plain

if TYPE_CHECKING:
    import rich.progress

    from fl_integration.loop.report import RoundReport
    from fl_integration.vectors.arrays import Array

__all__ = [
    "Bar",
    "Progress",
    "Watch",
    "human",
    "log_left_open",
    "log_outcome",
    "log_round",
    "one_line",
    "to_tensorboard",
]

_LOG: Final = logging.getLogger("secagg")
_ASIDE: Final = frozenset({"auc_error", "clipped_examples", "examples"})
"""Metrics that are no figure of merit: they are in the report, not in a short line."""
_SHOWN: Final = 3
_UNITS: Final = ("B", "kB", "MB", "GB", "TB", "PB")
_REASON: Final = 200
_SUMMARY: Final = 2048
"""The most characters of one client's reason, and of the reason of an abort, which sums up those of many."""


class Progress(Enum):
    """When a bar is shown.

    ON_TERMINAL: if standard error is a terminal, and rich is installed.
    ALWAYS: as ON_TERMINAL, and where no bar can be drawn a plain line a round.
    NEVER: not at all.
    """

    ON_TERMINAL = "on terminal"
    ALWAYS = "always"
    NEVER = "never"


@dataclass(frozen=True, slots=True, kw_only=True)
class Watch:
    """Who is told what happens in a training.

    Args:
        on_round: called with the report after each round, aborted ones too.
        on_model: `on_model(round, sum, state)`, called once for each mean when it was applied, with the model
            as it is then: whoever wants the best model keeps it here.
        on_message: `on_message(round, message)` sees every byte on the wire.
        progress: see `Progress`.

    What one of them raises comes through and ends the training. With `checkpoint=` a round is on the disk
    when `on_round` is told of it; when another one raises, the round before is.

    Raises:
        ParameterError: one of them is not what it should be.
    """

    on_round: "Callable[[RoundReport], None] | None" = None
    on_model: "Callable[[int, Sum, Mapping[str, Array]], None] | None" = None
    on_message: Callable[[int, Message], None] | None = None
    progress: Progress = Progress.ON_TERMINAL

    def __post_init__(self) -> None:
        for name in ("on_round", "on_model", "on_message"):
            given = getattr(self, name)
            if given is not None and not callable(given):
                raise ParameterError(f"{name} is a {type(given).__name__}; it must be a function, or None")
        if not isinstance(self.progress, Progress):
            raise ParameterError(
                f"progress is {self.progress!r}; it must be one of {', '.join(map(str, Progress))}"
            )


class Bar:
    """Rounds done, the last metrics, bytes so far and the time left, for as long as the training runs.

    A context manager: on leaving, by an error too, the bar stays where it is and the cursor is back.

    Args:
        watch: its `progress` says when a bar is shown.
        rounds: of the whole training, at least 1.
        done: rounds that an earlier part of this training did, in [0, rounds]; their bytes are not counted.

    Raises:
        ParameterError: a number is outside its range.
    """

    def __init__(self, watch: Watch, *, rounds: int, done: int = 0) -> None:
        rounds, done = plain(rounds), plain(done)
        if type(rounds) is not int or rounds < 1:
            raise ParameterError(f"rounds is {rounds!r}; it must be an int of at least 1")
        if type(done) is not int or not 0 <= done <= rounds:
            raise ParameterError(f"done is {done!r}; it must be an int in [0, {rounds}]")
        self._when, self._rounds, self._done = watch.progress, rounds, done
        self._bytes, self._metrics, self._evaluated = 0, "", False
        self._drawn: rich.progress.Progress | None = None

    def __enter__(self) -> Self:
        if self._when is not Progress.NEVER and (drawn := _drawn_on(sys.stderr)) is not None:
            drawn.add_task("", total=self._rounds, completed=self._done, said="")
            drawn.start()
            self._drawn = drawn
        return self

    def __exit__(self, *_: object) -> None:
        if self._drawn is not None:
            self._drawn.stop()
            self._drawn = None

    def update(self, report: "RoundReport") -> None:
        """One more round is done."""
        self._done = min(self._done + 1, self._rounds)
        self._bytes += report.sent
        # Once there was an evaluation, its metrics stay until the next one: training's are another thing.
        if report.evaluation or not self._evaluated:
            self._evaluated = bool(report.evaluation)
            self._metrics = _short(report.evaluation or report.metrics)
        spent = "" if report.epsilon is None else f"ε {report.epsilon:.3g}"
        said = ", ".join(filter(None, [self._metrics, spent, human(self._bytes)]))
        if self._drawn is not None:
            [task] = self._drawn.task_ids
            self._drawn.update(task, completed=self._done, said=said, refresh=True)
        elif self._when is Progress.ALWAYS:
            _write_line(sys.stderr, f"round {self._done} of {self._rounds}: {said}")


class Writer(Protocol):
    """`torch.utils.tensorboard.SummaryWriter`, tensorboardX's, or anything else with this method."""

    def add_scalar(self, tag: str, value: float, step: int, /) -> object: ...  # a Protocol's signature


def to_tensorboard(writer: Writer) -> "Callable[[RoundReport], None]":
    """An `on_round` that writes one scalar a curve, with the round (from 0) as its step.

    The curves are `training/…` and `evaluation/…`, a metric each; `round/contributors`, 0 if it was aborted;
    `round/total_weight` and `round/epsilon`, where there is one; `round/clipped_share`; and `bytes/up` and
    `bytes/down`, what the server received and sent, with `bytes/beside_up` and `bytes/beside_down` for the
    sums beside the round, an evaluation for example. The writer is the caller's to close.

    Raises:
        ParameterError: the writer has no `add_scalar`.
    """
    if not callable(getattr(writer, "add_scalar", None)):
        raise ParameterError(
            f"a {type(writer).__name__} has no add_scalar(tag, value, step); pass a SummaryWriter"
        )

    def write(report: "RoundReport") -> None:
        for tag, value in _scalars(report).items():
            writer.add_scalar(tag, value, report.number)

    return write


def log_round(report: "RoundReport", rounds: int, *, said: Mapping[str, str] | None = None) -> None:
    """A line to `logging.getLogger("secagg")`: INFO, or WARNING if a site sat out or there is no mean.

    Args:
        report: of the round that ended.
        rounds: of the whole training.
        said: in place of the report's reason, by client: that may hold what a site's own code wrote, and with
            it data, which does not belong in a log.
    """
    said = said or {}
    contributed = f"{len(report.contributors)} of {len(report.asked)} sites"
    parts = [f"aborted: {printable(report.aborted, _SUMMARY)}" if report.aborted else contributed]
    if report.total_weight is not None:
        parts.append(f"total weight {report.total_weight}")
    if report.epsilon is not None:
        parts.append(f"epsilon {report.epsilon:.3g}")
    for name, metrics in (("training", report.metrics), ("evaluation", report.evaluation)):
        if metrics:
            parts.append(f"{name} {_listed(metrics)}")
    parts.append(human(report.sent))
    if report.dropped:
        reasons = {**report.dropped, **said}
        out = ", ".join(_out(report, client, reasons[client]) for client in sorted(report.dropped))
        parts.append(f"{len(report.dropped)} sat out: {out}")
    level = logging.WARNING if report.dropped or report.aborted else logging.INFO
    _LOG.log(level, "round %d (%d of %d): %s", report.number, report.number + 1, rounds, "; ".join(parts))


def log_outcome(round: Round, outcome: Outcome) -> None:
    """The same line for a round without a training around it, for whoever runs the machines: see `log_round`.

    It tells who took part and who did not. What was summed, and its weight, are not in it.
    """
    said = f"{len(outcome.contributors)} of {len(round.cohort)} clients"
    if outcome.dropped:
        lost = listed(sorted(outcome.dropped), outcome.dropped)
        _LOG.warning("round %d: %s; %d lost: %s", round.number, said, len(outcome.dropped), lost)
    else:
        _LOG.info("round %d: %s", round.number, said)


def log_left_open(round: Round, error: BaseException) -> None:
    """The line of a round that has no outcome: it was aborted, or something else ended it, an interrupt too.

    Of any other error than ours only the kind is told: its text is not from here, and may hold anything.
    """
    if isinstance(error, RoundAborted):
        _LOG.warning("round %d: aborted: %s", round.number, printable(error.reason, _SUMMARY))
    else:
        _LOG.warning("round %d: left open by a %s", round.number, type(error).__name__)


def human(size: int) -> str:
    """A number of bytes in decimal units: kB is 1000 of them.

    >>> human(0), human(999_999), human(10**18)
    ('0 B', '1.0 MB', '1000.0 PB')
    """
    power = min(max(len(str(size)) - 1, 0) // 3, len(_UNITS) - 1)
    if power and round(size / 1000**power, 1) >= 1000 and power < len(_UNITS) - 1:
        power += 1
    return f"{size / 1000**power:.1f} {_UNITS[power]}" if power else f"{size} B"


def _drawn_on(stream: TextIO | None) -> "rich.progress.Progress | None":
    """A bar for a terminal; None where there is none, or no rich, or another display is on it already."""
    try:
        # Asked of the stream itself: rich takes a pipe for a terminal if FORCE_COLOR says so.
        terminal = stream is not None and stream.isatty() and not hasattr(stream, "rich_proxied_file")
    except ValueError:  # it is closed
        terminal = False
    if not terminal:
        return None
    try:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
    except ImportError:
        return None
    console = Console(stderr=True)
    if not console.is_interactive:  # a terminal that knows no control codes
        return None
    return Progress(
        TextColumn("round"),
        MofNCompleteColumn(),
        BarColumn(bar_width=20),
        TextColumn("{task.fields[said]}", markup=False),
        TimeRemainingColumn(compact=True),
        console=console,
        # Drawn once a round. A thread that draws in between would be there when a DataLoader forks.
        auto_refresh=False,
        speed_estimate_period=math.inf,
        # What is printed meanwhile goes above the bar, unless it goes to a file: then it stays on its way.
        redirect_stdout=sys.stdout is not None and sys.stdout.isatty(),
    )


def _write_line(stream: TextIO | None, line: str) -> None:
    if stream is not None and not stream.closed:
        stream.write(f"{line}\n")
        stream.flush()


def _scalars(report: "RoundReport") -> dict[str, float]:
    scalars: dict[str, float] = {f"training/{name}": value for name, value in report.metrics.items()}
    scalars |= {f"evaluation/{name}": value for name, value in report.evaluation.items()}
    scalars["round/contributors"] = 0 if report.aborted else len(report.contributors)
    scalars["round/clipped_share"] = report.clipped_share
    if report.total_weight is not None:
        scalars["round/total_weight"] = report.total_weight
    if report.epsilon is not None:
        scalars["round/epsilon"] = report.epsilon
    for kind, traffic in (("", report.traffic), ("beside_", report.side_traffic)):
        if (server := traffic.get(SERVER)) is not None:
            scalars |= {f"bytes/{kind}up": server.received, f"bytes/{kind}down": server.sent}
    return scalars


def _short(metrics: Mapping[str, float]) -> str:
    kept = [name for name in metrics if name not in _ASIDE][:_SHOWN]
    return _listed({name: metrics[name] for name in kept})


def _listed(metrics: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {value:.4g}" for name, value in metrics.items())


def _out(report: "RoundReport", client: str, reason: str) -> str:
    blame = ", broke the protocol" if client in report.culprits else ""
    return f"{one_line(client)} ({one_line(reason)}{blame})"


def one_line(text: str) -> str:
    """Another party's words on one line of the log: printable, and not too many."""
    return printable(text, _REASON)
