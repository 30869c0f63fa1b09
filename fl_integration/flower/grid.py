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
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, Final

import numpy as np

from fl_integration.embedding.archive import Archive
from fl_integration.embedding.carrier import Patience, check_seconds
from fl_integration.embedding.coordinator import Coordinator
from fl_integration.embedding.parcels import Purpose
from fl_integration.embedding.records import Kind, array_digest, records_digest
from fl_integration.flower.carrier import FlowerCarrier, node_id
from fl_integration.flower.engine import (
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
from fl_integration.flower.sums import (
    DEFAULT_STUDY,
    DEFAULT_WEIGHT,
    Ranges,
    kinds_of,
    study_of,
    sums_of,
    terms_of,
)
from fl_integration.site.sealed_folder import SealedFolder
from fl_integration.vectors.manifest import Manifest
from fl_integration.vectors.vectorise import apply_delta, manifest_of
from protocols.identity import ClientId, Identity, Roster
from protocols.interface import Learner, Outcome
from protocols.machine.parameters import Parameters
from protocols.membership import RosterVersion
from secagg.errors import ParameterError, RoundAborted
from secagg.numbers import plain
from secagg.secret import Secret

__all__ = ["SecureGrid"]

_LOG: Final = logging.getLogger("secagg")
_PURPOSES: Final = {MessageType.TRAIN: Purpose.TRAIN, MessageType.EVALUATE: Purpose.EVALUATE}
_DEFAULT_SECONDS: Final = 3600.0
"""What Flower's own strategies give a round."""
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
        self._grid, self._strategy, self._in_the_clear = grid, strategy, kinds_of(in_the_clear)
        self._weighted_by_key = getattr(strategy, "weighted_by_key", DEFAULT_WEIGHT)
        self._carrier = FlowerCarrier(grid)
        self._integers: dict[str, str] = {}
        self._waited = 0.0
        if (state_dir is None) != (state_key is None):
            raise ParameterError("state_dir and state_key go together: a state is sealed")
        files = None if state_dir is None or state_key is None else SealedFolder(state_dir, key=state_key)
        if (records is None) != (identity is None):
            raise ParameterError("records and identity go together: a record is signed by the coordinator")
        archive = None if records is None or identity is None else Archive(records, identity=identity)
        self._coordinator = Coordinator(
            self._carrier,
            sums=self._sums,
            study=study_of(study),
            roster=_version_of(roster),
            terms=terms_of(self._sums, weighted_by_key=self._weighted_by_key),
            patience=patience,
            files=files,
            archive=archive,
        )
        rounds = plain(rounds)
        if rounds is not None and (type(rounds) is not int or rounds < 1):
            raise ParameterError(
                f"rounds is {rounds!r}; it is how many rounds start will run, at least 1, or None"
            )
        self._patience, self._rounds_left = patience, rounds
        # A site whose operator has the next roster takes no message of the session before.
        self._changes = callable(roster)
        self._smallest: dict[int, int] = {}
        if protocol.max_weight == 1:
            _LOG.warning(
                "max_weight is 1, so each site weighs the same and a site that says more than one example "
                "under %r is refused; pass max_weight=, the most examples of a site", self._weighted_by_key,
            )  # fmt: skip
        self._blind = protocol.learns is Learner.CLIENTS
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
        self._coordinator.renew()

    def get_node_ids(self) -> Iterable[int]:
        """The nodes that are there and proved to be members of the roster, smallest cohort awaited."""
        return [node_id(node) for node in self._members()]

    def get_nodes(self) -> Iterable[Any]:
        members = set(self.get_node_ids())
        return [node for node in self._grid.get_nodes() if node.node_id in members]

    def _members(self) -> Mapping[bytes, ClientId]:
        members = self._coordinator.members()
        # A strategy asks more than once for one round; together it waits once.
        while len(members) < self._least() and self._waited < self._patience.connect:
            if not self._waited:
                _LOG.info("%d of at least %d members are there; waiting", len(members), self._least())
            self._coordinator.pause()
            self._waited += self._patience.last_look
            members = self._coordinator.members()
        return members

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
        asked, self._waited = list(messages), 0.0
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
        members = {node_id(node): client for node, client in self._coordinator.members().items()}
        cohort = [members[node] for node in by_node if node in members]
        behind: dict[ClientId, str] = {}
        began = b""
        failures = {node: "this node is no member" for node in by_node if node not in members}
        old = arrays_in(shown, "the strategy") if purpose is Purpose.TRAIN else {}
        manifest = manifest_of(old) if old else None
        outcome: Outcome | None = None
        try:
            group = asked[0].metadata.group_id
            self._carrier.begin(kind, group, shown)
            withheld: dict[str, bytes] = {}
            if self._blind:
                began, behind, withheld = self._brought_along(cohort, shown)
                cohort = [client for client in cohort if client not in behind]
            if len(cohort) < (least := self._least()):  # some went away since the strategy asked who is there
                raise RoundAborted(f"{len(cohort)} members can take part, and a sum is of at least {least}")
            called = beside(kind, group, self._coordinator.settings(cohort))
            model = records_digest(records_of(shown), replaced=called)
            outcome = self._coordinator.sum(
                purpose,
                cohort,
                length=1 if manifest is None else manifest.length,
                model=model,
                withheld=withheld,
                seconds=_DEFAULT_SECONDS if timeout is None else timeout,
                began=began,
            )
        except RoundAborted as error:
            reasons = {client: self._coordinator.reasons.get(client, error.reason) for client in cohort}
            _LOG.warning("%s: no sum: %s", purpose.name.lower(), error.reason)
        else:
            lost = {**outcome.dropped, **self._coordinator.reasons}
            reasons = {client: why for client, why in lost.items() if client not in outcome.contributors}
            _LOG.info("%s: the sum of %d of %d", purpose.name.lower(), len(outcome.contributors), len(cohort))
        finally:
            self._carrier.end()
        self._hand_out(purpose)
        reasons |= behind
        failures |= {node: reasons[client] for node, client in members.items() if client in reasons}
        replies = [
            Message(Error(UNAVAILABLE, reason), reply_to=by_node[node])
            for node, reason in failures.items()
            if node in by_node
        ]
        content = None if outcome is None else self._mean(outcome, old, manifest)
        if content is not None:
            replies.insert(0, Message(content, reply_to=asked[0]))
        return replies

    def _mean(self, outcome: Outcome, old: Mapping[str, Any], manifest: Manifest | None) -> RecordDict | None:
        """What a single client would have answered; of what clients learn, that the model is theirs now."""
        total = outcome.total
        if total is None:
            if manifest is None:
                return None
            # The arrays stay; nothing here is known of the mean, nor of the examples behind it.
            examples, metrics, arrays = len(outcome.contributors), {}, dict(old)
        else:
            examples, metrics = total.total_weight, total.metrics
            arrays = {} if manifest is None else apply_delta(old, total.mean, manifest=manifest)
        content = RecordDict({"metrics": MetricRecord({self._weighted_by_key: examples, **metrics})})
        if arrays:
            content["arrays"] = record_of({name: arrays[name] for name in old})
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

    # Where clients learn the sum

    def _brought_along(
        self, cohort: Collection[ClientId], shown: RecordDict
    ) -> tuple[bytes, dict[ClientId, str], dict[str, bytes]]:
        """The arrays' digest; who stays behind, and why; the digest by name, if the arrays do not travel."""
        arrays = {name: each for name, each in records_of(shown).items() if each.kind is Kind.ARRAYS}
        if len(arrays) != 1:
            raise ParameterError(f"the strategy sends {len(arrays)} ArrayRecords; a secure sum works on one")
        ((name, record),) = arrays.items()
        began = array_digest(record)
        behind = self._coordinator.bring_along(cohort, began=began)
        if not self._coordinator.withholds([client for client in cohort if client not in behind], began):
            return began, behind, {}
        self._carrier.shows(RecordDict({each: value for each, value in shown.items() if each != name}))
        return began, behind, {name: began}

    def _hand_out(self, purpose: Purpose) -> None:
        """Hands out at once what no later round may carry, or what an evaluation builds upon.

        Whether or not this round had a sum: one of an earlier round may still wait for somebody.
        """
        if not self._blind:
            return
        if purpose is Purpose.TRAIN and self._rounds_left is not None:
            self._rounds_left -= 1
        last = self._rounds_left is None or self._rounds_left < 1
        if last or self._changes or (purpose is Purpose.TRAIN and Purpose.EVALUATE in self._sums):
            self._coordinator.deliver(purpose)

    # What can never work

    def _least(self) -> int:
        """Members of the smallest cohort that the protocol allows, of this roster."""
        size, protocol = len(self._coordinator.version.roster), self._sums[Purpose.TRAIN]
        if size in self._smallest:
            return self._smallest[size]
        for n in range(protocol.requirements.min_contributors, size + 1):
            try:
                protocol.plan(n, roster=size)
            except ParameterError:
                continue
            self._smallest[size] = n
            return n
        protocol.plan(size)  # says what to change
        return size

    def _check_sampling(self) -> None:
        size, least = len(self._coordinator.version.roster), self._least()
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


def _version_of(roster: object) -> Callable[[], RosterVersion]:
    if isinstance(roster, Roster):
        version = RosterVersion(roster)
        return lambda: version
    if isinstance(roster, RosterVersion):
        return lambda: roster
    if callable(roster):
        return roster
    raise ParameterError(f"roster is a {type(roster).__name__}; pass a Roster, a RosterVersion or a function")


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
