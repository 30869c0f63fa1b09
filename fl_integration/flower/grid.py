"""The server's side: a grid that answers a strategy with one reply, which holds the mean and nothing else.

    strategy = FedAvg(fraction_evaluate=0.0)
    strategy.start(grid=SecureGrid(grid, PROTOCOL, roster=ROSTER, strategy=strategy), initial_arrays=...)

A strategy asks its grid for nodes, hands over one message for each, and aggregates the replies. Here the
nodes are those that proved to be members of the roster, the messages become one round of a secure sum, and
the reply is what a single client would have sent that had trained the new arrays from all examples: the old
arrays, moved by the mean of what changed, with the total of the examples and the means of the metrics. Who
was lost, and why, comes as a failure, as a strategy expects it. A round that aborts is failures only: the
arrays stay.

A grid never sees its strategy, so it is told: whether a strategy can live on a mean is in its
`aggregate_train`, and one that chooses among clients is refused before anything runs.
"""

import logging
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final

import numpy as np

from fl_integration.embedding.carrier import Patience, check_seconds
from fl_integration.embedding.parcels import DEFAULT_STUDY, Purpose
from fl_integration.embedding.records import Kind, Record, Records, records_digest
from fl_integration.embedding.rounds import RoundEnd, SecureRounds
from fl_integration.embedding.sums import DEFAULT_WEIGHT, Ranges, names_of, sums_of
from fl_integration.flower.carrier import FlowerCarrier, node_id, node_of
from fl_integration.flower.engine import (
    CLEAR,
    UNAVAILABLE,
    Array,
    ArrayRecord,
    Error,
    Grid,
    Message,
    MessageType,
    MetricRecord,
    RecordDict,
    Strategy,
    admit,
    arrays_in,
    beside,
    record_of,
    records_of,
)
from protocols.identity import Identity, Roster
from protocols.machine.parameters import Parameters
from protocols.membership import RosterVersion
from secagg.errors import ParameterError
from secagg.numbers import plain
from secagg.secret import Secret

__all__ = ["SecureGrid"]

_LOG: Final = logging.getLogger("secagg")
_PURPOSES: Final = {MessageType.TRAIN: Purpose.TRAIN, MessageType.EVALUATE: Purpose.EVALUATE}
_INTEGERS: Final = frozenset(
    {"bool", *(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64))}
)
_ONE_BY_ONE: Final = (
    "a SecureGrid sends to all of a cohort at once, by send_and_receive; for messages in the clear use "
    "Flower's own grid"
)


class SecureGrid(Grid):
    """A grid whose train and evaluate messages are secure sums.

    Args:
        grid: Flower's own, which a ServerApp's main function is given.
        protocol: the very parameters that the clients have, such as `MaskedSum(max_weight=10_000)`.
        roster: who may be there: a `Roster`, a `RosterVersion`, or a function that gives the version that
            holds now. It is called between rounds; a higher version opens a new session.
        strategy: the strategy that will run over this grid.
        study: names the training, as at the clients.
        evaluate_metrics: metric of the app's evaluation -> (low, high), as at the clients.
        mean_only: classes of yours whose `aggregate_train` needs nothing but the mean.
        in_the_clear: message types that go to the apps as they are, and whose answers come back one by one.
        rounds: how many rounds `start` will run. Where the clients learn the sum, the last one is handed out
            after its round; if it is not known which is the last, or the roster is a function, each is, for
            one exchange more.
        patience: how long it waits for what.
        state_dir: a folder for the server's state, so that a server that was restarted in mid-training goes
            on in the same session. None: a new grid opens a new session.
        state_key: 32 bytes under which that state is sealed; needed with `state_dir`.
        records: a folder for the signed record of each round, which `secagg audit` reads; a training that
            cannot write them stops. None: none is kept.
        identity: the coordinator's own, which signs them; needed with `records`.

    Raises:
        ParameterError: the strategy needs more than a mean, samples cohorts that the protocol does not allow,
            or evaluates what is not summed; or an argument is anything else. Nothing was sent.
    """

    def __init__(
        self,
        grid: Grid,
        protocol: Parameters,
        *,
        roster: Roster | RosterVersion | Callable[[], RosterVersion],
        strategy: Strategy,
        study: str = DEFAULT_STUDY,
        evaluate_metrics: Ranges | None = None,
        mean_only: tuple[type, ...] = (),
        in_the_clear: tuple[str, ...] = (),
        rounds: int | None = None,
        patience: Patience = Patience(),
        state_dir: str | os.PathLike[str] | None = None,
        state_key: Secret | None = None,
        records: str | os.PathLike[str] | None = None,
        identity: Identity | None = None,
    ) -> None:
        self._sums = sums_of(protocol, evaluate_metrics)
        admit(strategy, mean_only, learns=protocol.learns)
        self._grid, self._strategy = grid, strategy
        self._in_the_clear = names_of(in_the_clear, of=CLEAR)
        self._weighted_by_key = getattr(strategy, "weighted_by_key", DEFAULT_WEIGHT)
        self._carrier = FlowerCarrier(grid)
        self._integers: dict[str, str] = {}
        self._rounds = SecureRounds(
            self._carrier,
            protocol,
            roster=roster,
            study=study,
            evaluate_metrics=evaluate_metrics,
            weighted_by_key=self._weighted_by_key,
            rounds=rounds,
            patience=patience,
            state_dir=state_dir,
            state_key=state_key,
            records=records,
            identity=identity,
        )
        self._check_sampling()
        self._check_evaluation()

    # What stays Flower's

    def set_run(self, run: Any) -> None:
        self._grid.set_run(run)

    @property
    def run(self) -> Any:
        return self._grid.run

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        return self._grid.create_message(content, message_type, dst_node_id, group_id, ttl)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Refused: what is pushed and pulled one by one is no sum.

        Raises:
            ParameterError: always.
        """
        raise ParameterError(_ONE_BY_ONE)

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Refused, as `push_messages`.

        Raises:
            ParameterError: always.
        """
        raise ParameterError(_ONE_BY_ONE)

    # Nodes and sessions

    def renew(self) -> None:
        """Opens a new session over the same roster, between two rounds: new keys for all.

        For sites that lost their release log, which take part in no session that their state knows. Each
        session counts toward every site's `Enrolment(max_sessions=…)`.
        """
        self._rounds.coordinator.renew()

    def get_node_ids(self) -> Iterable[int]:
        """The nodes that are there and proved to be members of the roster, smallest cohort awaited."""
        return [node_id(node) for node in self._rounds.members()]

    def get_nodes(self) -> Iterable[Any]:
        members = set(self.get_node_ids())
        return [node for node in self._grid.get_nodes() if node.node_id in members]

    # Rounds

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """One round of a secure sum over these messages' nodes.

        Args:
            messages: one for each node of the cohort, all of one type and with the same content.
            timeout: for the whole round, in seconds; None takes an hour.

        Returns:
            One reply that holds the mean, and a failure for each node that is not in it.

        Raises:
            ParameterError: the messages are no round: they differ, or are of a type that is not summed; or
            the timeout is no finite number above zero.
        """
        if timeout is not None:
            check_seconds("timeout", timeout := plain(timeout))
        asked = list(messages)
        self._rounds.asked()
        if not asked:
            return []
        kind, node_ids = _one_type(asked), [message.metadata.dst_node_id for message in asked]
        if kind in self._in_the_clear:
            return self._grid.send_and_receive(asked, timeout=timeout)
        purpose = _PURPOSES.get(kind.split(".")[0])
        if purpose is None or purpose not in self._sums:
            raise ParameterError(
                f"messages of type {kind!r} are not summed here: pass evaluate_metrics= for evaluations, or "
                f"in_the_clear=({kind!r},), and the server reads each answer"
            )
        _same_content(asked)
        return self._round(purpose, kind, asked, dict(zip(node_ids, asked, strict=True)), timeout)

    def _round(
        self,
        purpose: Purpose,
        kind: str,
        asked: Sequence[Message],
        by_node: Mapping[int, Message],
        timeout: float | None,
    ) -> list[Message]:
        shown = self._with_integers(asked[0].content)
        old = arrays_in(shown, "the strategy") if purpose is Purpose.TRAIN else {}
        end = self._rounds.run(
            purpose,
            [node_of(node) for node in by_node],
            _Shown(self._carrier, kind, asked[0].metadata.group_id, shown),
            old=old,
            seconds=timeout,
        )
        replies = [
            Message(Error(UNAVAILABLE, reason), reply_to=by_node[node_id(node)])
            for node, reason in end.lost.items()
        ]
        if (content := self._mean(purpose, end)) is not None:
            replies.insert(0, Message(content, reply_to=asked[0]))
        return replies

    def _mean(self, purpose: Purpose, end: RoundEnd) -> RecordDict | None:
        """What a single client would have answered; of what clients learn, that the model is theirs now."""
        if end.outcome is None or (end.total is None and purpose is Purpose.EVALUATE):
            return None
        # Where clients learn, the arrays stay; nothing is known of the mean, nor of the examples behind it.
        examples, metrics = len(end.outcome.contributors), dict[str, float]()
        if end.total is not None:
            examples, metrics = end.total.total_weight, dict(end.total.metrics)
        content = RecordDict({"metrics": MetricRecord({self._weighted_by_key: examples, **metrics})})
        if end.arrays:
            content["arrays"] = record_of(end.arrays)
        return content

    def _with_integers(self, content: RecordDict) -> RecordDict:
        """What a round shows, integer arrays as integers.

        They are kept and not summed, but Flower's mean of one reply makes floats even of these.
        """
        arrays = {key: record for key, record in content.items() if isinstance(record, ArrayRecord)}
        made: dict[str, ArrayRecord] = {}
        for key, record in arrays.items():
            for name, array in record.items():
                if array.dtype in _INTEGERS:
                    self._integers.setdefault(name, array.dtype)
                elif name in self._integers and np.isfinite(array.numpy()).all():
                    whole = Array(np.asarray(np.rint(array.numpy()), self._integers[name]))
                    made.setdefault(key, ArrayRecord(dict(record.items())))[name] = whole
        return (
            RecordDict({key: made.get(key, record) for key, record in content.items()}) if made else content
        )

    # What can never work

    def _check_sampling(self) -> None:
        size, least = len(self._rounds.coordinator.version.roster), self._rounds.least()
        for what in ("train", "evaluate") if Purpose.EVALUATE in self._sums else ("train",):
            fraction = getattr(self._strategy, f"fraction_{what}", 1.0)
            cohort = max(int(size * fraction), getattr(self._strategy, f"min_{what}_nodes", 0))
            most = self._sums[Purpose.TRAIN].max_clients
            if fraction and min(cohort, size) > most:
                raise ParameterError(
                    f"fraction_{what}={fraction} of a roster of {size} is a cohort of {min(cohort, size)}; "
                    f"the protocol's max_clients is {most}: raise it on both sides"
                )
            if not fraction or cohort >= size:
                continue
            if cohort < least:
                try:
                    self._sums[Purpose.TRAIN].plan(cohort, roster=size)
                except ParameterError as error:
                    raise ParameterError(
                        f"fraction_{what}={fraction} of a roster of {size} is a cohort of {cohort}, and "
                        f"every client would refuse it: {error}"
                    ) from error
            first, steady = (self._sums[Purpose.TRAIN].exchanges(first=each) for each in (True, False))
            _LOG.info(
                "fraction_%s=%s: a cohort that is not the one before makes its keys anew: %d exchanges",
                what, fraction, max(len(first), len(steady)),
            )  # fmt: skip

    def _check_evaluation(self) -> None:
        fraction = getattr(self._strategy, "fraction_evaluate", 0.0)
        if Purpose.EVALUATE in self._sums:
            exchanges = len(self._sums[Purpose.EVALUATE].exchanges(first=True))
            if fraction:
                _LOG.info(
                    "an evaluation is a secure sum of its own, after each round: up to %d exchanges more",
                    exchanges,
                )
        elif fraction and not any(each.split(".")[0] == MessageType.EVALUATE for each in self._in_the_clear):
            raise ParameterError(
                f"the strategy evaluates (fraction_evaluate={fraction}), and no metric is summed: pass "
                "evaluate_metrics={'accuracy': (0.0, 1.0)} here and to secure_aggregation, or "
                "fraction_evaluate=0.0 to the strategy"
            )


class _Shown:
    """What a round's messages show, as Flower carries it."""

    def __init__(self, carrier: FlowerCarrier, kind: str, group: str, content: RecordDict) -> None:
        self._carrier, self._kind, self._group, self._content = carrier, kind, group, content

    def records(self) -> Records:
        return records_of(self._content)

    def model(self) -> tuple[str, Record]:
        arrays = {name: each for name, each in self.records().items() if each.kind is Kind.ARRAYS}
        if len(arrays) != 1:
            raise ParameterError(f"the strategy sends {len(arrays)} ArrayRecords; a secure sum works on one")
        ((name, record),) = arrays.items()
        return name, record

    def beside(self, settings: bytes) -> Mapping[str, bytes]:
        return beside(self._kind, self._group, settings)

    def begin(self) -> None:
        self._carrier.begin(self._kind, self._group, self._content)

    def withhold(self, name: str) -> None:
        self._carrier.shows(
            RecordDict({each: value for each, value in self._content.items() if each != name})
        )

    def end(self) -> None:
        self._carrier.end()


def _one_type(messages: Sequence[Message]) -> str:
    kinds = sorted({message.metadata.message_type for message in messages})
    groups = sorted({message.metadata.group_id for message in messages})
    if len(groups) > 1:
        raise ParameterError(
            f"messages of groups {groups[0]!r} and {groups[1]!r} in one round; an app sees its message's "
            "group, and in a secure sum all see the same"
        )
    if len(kinds) > 1:
        raise ParameterError(
            f"messages of types {kinds[0]!r} and {kinds[1]!r} in one round; send one type at a time"
        )
    return kinds[0]


def _same_content(messages: Sequence[Message]) -> None:
    """All nodes are shown the same: one that is shown something else could be read out of the sum."""
    first = messages[0].content
    expected = None
    for message in messages[1:]:
        if message.content is first:
            continue
        expected = expected or records_digest(records_of(first))
        if records_digest(records_of(message.content)) != expected:
            raise ParameterError(
                f"node {message.metadata.dst_node_id} would be shown other records than node "
                f"{messages[0].metadata.dst_node_id}; in a secure sum all are shown the same, or one could "
                "be read out of it"
            )
