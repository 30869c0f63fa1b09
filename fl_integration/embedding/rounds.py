"""The server's side of one round, whatever the engine: who is waited for, what is shown, what it came to.

An engine's adapter says which nodes are asked and what their applications are shown (`Showing`). Here stands
what is the same over all of them: members are waited for until the smallest cohort is there; where the
clients learn the sum those that were left behind are brought along, and a model that all hold does not travel
again; the round binds all that is shown; sums that no later round may carry are handed out at once.
"""

import logging
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

from fl_integration.embedding.archive import Archive
from fl_integration.embedding.carrier import Carrier, Node, Patience, check_seconds
from fl_integration.embedding.coordinator import Coordinator
from fl_integration.embedding.parcels import Purpose
from fl_integration.embedding.records import Record, Records, array_digest, records_digest
from fl_integration.embedding.sums import Ranges, study_of, sums_of, terms_of
from fl_integration.site.sealed_folder import SealedFolder
from fl_integration.vectors.vectorise import apply_delta, manifest_of
from protocols.identity import ClientId, Identity, Roster
from protocols.interface import Learner, Outcome, Sum
from protocols.machine.parameters import Parameters
from protocols.membership import RosterVersion
from secagg.errors import ParameterError, RoundAborted
from secagg.numbers import plain
from secagg.secret import Secret

__all__ = ["RoundEnd", "SecureRounds", "Showing"]

_LOG: Final = logging.getLogger("secagg")
_DEFAULT_SECONDS: Final = 3600.0
"""What Flower's own strategies give a round."""


class Showing(Protocol):
    """What one round shows to applications, in an engine's terms."""

    def records(self) -> Records:
        """All that is shown, as it stands now."""
        ...  # a Protocol's signature

    def model(self) -> tuple[str, Record]:
        """The one record of arrays among them, with its name.

        Raises:
            ParameterError: there is none, or another one.
        """
        ...  # a Protocol's signature

    def beside(self, settings: bytes) -> Mapping[str, bytes]:
        """Digests of what an application sees beside the records, given that of the run's settings."""
        ...  # a Protocol's signature

    def begin(self) -> None:
        """From here on the carrier's parcels that show anything show this."""
        ...  # a Protocol's signature

    def withhold(self, name: str) -> None:
        """From here on the record of this name does not travel."""
        ...  # a Protocol's signature

    def end(self) -> None:
        """The round is over."""
        ...  # a Protocol's signature


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundEnd:
    """What a round came to.

    Attributes:
        outcome: who contributed, and the sum if the server learns it; None: the round was aborted.
        aborted: why, if it was.
        lost: the nodes that were asked and are not in the sum, and why, as their sites or the engine say.
        arrays: of a training the old arrays, moved by the mean; the old ones where the clients learn the sum
            or there is none. Empty of an evaluation.
    """

    outcome: Outcome | None
    aborted: str
    lost: Mapping[Node, str]
    arrays: Mapping[str, Any]

    @property
    def total(self) -> Sum | None:
        """The sum, if there is one and the server learns it."""
        return None if self.outcome is None else self.outcome.total


class SecureRounds:
    """One study's rounds over an engine's transport.

    Args:
        carrier: the engine's transport.
        protocol: the very parameters that the clients have.
        roster: who may be there: a `Roster`, a `RosterVersion`, or a function that gives the version that
            holds now.
        study: names the training, as at the clients.
        evaluate_metrics: metric of the app's evaluation -> (low, high), as at the clients.
        weighted_by_key: where an app's metrics have the number of examples.
        rounds: how many training rounds there will be; None: not known.
        patience: how long it waits for what.
        state_dir: a folder for the server's state. None: a new object opens a new session.
        state_key: 32 bytes under which that state is sealed; needed with `state_dir`.
        records: a folder for the signed record of each round; None: none is kept.
        identity: the coordinator's own, which signs them; needed with `records`.
        member_at: where an engine names nodes as the roster names members: who alone may prove to be there.

    Attributes:
        sums: the protocol of each purpose that is summed.
        coordinator: runs the sums.
        blind: the clients learn the sum, and the server's arrays never move.

    Raises:
        ParameterError: an argument is anything else. Nothing was sent.
    """

    def __init__(
        self,
        carrier: Carrier,
        protocol: Parameters,
        *,
        roster: Roster | RosterVersion | Callable[[], RosterVersion],
        study: str,
        evaluate_metrics: Ranges | None,
        weighted_by_key: str,
        rounds: int | None,
        patience: Patience,
        state_dir: str | os.PathLike[str] | None,
        state_key: Secret | None,
        records: str | os.PathLike[str] | None,
        identity: Identity | None,
        member_at: Callable[[Node], ClientId] | None = None,
    ) -> None:
        self.sums = sums_of(protocol, evaluate_metrics)
        if (state_dir is None) != (state_key is None):
            raise ParameterError("state_dir and state_key go together: a state is sealed")
        files = None if state_dir is None or state_key is None else SealedFolder(state_dir, key=state_key)
        if (records is None) != (identity is None):
            raise ParameterError("records and identity go together: a record is signed by the coordinator")
        archive = None if records is None or identity is None else Archive(records, identity=identity)
        self.coordinator = Coordinator(
            carrier,
            sums=self.sums,
            study=study_of(study),
            roster=_version_of(roster),
            terms=terms_of(self.sums, weighted_by_key=weighted_by_key),
            patience=patience,
            files=files,
            archive=archive,
            member_at=member_at,
        )
        rounds = plain(rounds)
        if rounds is not None and (type(rounds) is not int or rounds < 1):
            raise ParameterError(
                f"rounds is {rounds!r}; it is how many training rounds will run, at least 1, or None"
            )
        self._patience, self._rounds_left, self._waited = patience, rounds, 0.0
        # A site whose operator has the next roster takes no message of the session before.
        self._changes = callable(roster)
        self._smallest: dict[int, int] = {}
        if protocol.max_weight == 1:
            _LOG.warning(
                "max_weight is 1, so each site weighs the same and a site that says more than one example "
                "under %r is refused; pass max_weight=, the most examples of a site", weighted_by_key,
            )  # fmt: skip
        self.blind = protocol.learns is Learner.CLIENTS

    # Members

    def members(self) -> Mapping[Node, ClientId]:
        """The nodes that are there and proved to be members of the roster, smallest cohort awaited."""
        members = self.coordinator.members()
        # An engine may ask more than once for one round; together it waits once.
        while len(members) < self.least() and self._waited < self._patience.connect:
            if not self._waited:
                _LOG.info("%d of at least %d members are there; waiting", len(members), self.least())
            self.coordinator.pause()
            self._waited += self._patience.last_look
            members = self.coordinator.members()
        return members

    def least(self) -> int:
        """Members of the smallest cohort that the protocol allows, of this roster."""
        size, protocol = len(self.coordinator.version.roster), self.sums[Purpose.TRAIN]
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

    def asked(self) -> None:
        """The cohort of a round is chosen: whoever asks who is there from now on waits anew."""
        self._waited = 0.0

    # Rounds

    def run(
        self,
        purpose: Purpose,
        nodes: Sequence[Node],
        showing: Showing,
        *,
        old: Mapping[str, Any],
        seconds: float | None,
    ) -> RoundEnd:
        """One round of a secure sum.

        Args:
            purpose: what is summed.
            nodes: whom it asks.
            showing: what their applications are shown.
            old: of a training, the arrays among it by name; of an evaluation empty.
            seconds: for the whole round; None takes an hour.

        Raises:
            ParameterError: the round can never work; nothing was sent.
        """
        if seconds is not None:
            check_seconds("timeout", seconds)
        coordinator = self.coordinator
        members = coordinator.members()
        cohort = [members[node] for node in nodes if node in members]
        behind: dict[ClientId, str] = {}
        began, aborted = b"", ""
        lost = {node: "this node is no member" for node in nodes if node not in members}
        manifest = manifest_of(old) if old else None
        outcome: Outcome | None = None
        try:
            showing.begin()
            shown, withheld = dict(showing.records()), dict[str, bytes]()
            if self.blind:
                began, behind, withheld = self._brought_along(cohort, showing)
                cohort = [client for client in cohort if client not in behind]
            if len(cohort) < (least := self.least()):  # some went away since the engine asked who is there
                raise RoundAborted(f"{len(cohort)} members can take part, and a sum is of at least {least}")
            model = records_digest(shown, replaced=showing.beside(coordinator.settings(cohort)))
            outcome = coordinator.sum(
                purpose,
                cohort,
                length=1 if manifest is None else manifest.length,
                model=model,
                withheld=withheld,
                seconds=_DEFAULT_SECONDS if seconds is None else seconds,
                began=began,
            )
        except RoundAborted as error:
            aborted = error.reason
            reasons = {client: coordinator.reasons.get(client, aborted) for client in cohort}
            _LOG.warning("%s: no sum: %s", purpose.name.lower(), aborted)
        else:
            left = {**outcome.dropped, **coordinator.reasons}
            reasons = {client: why for client, why in left.items() if client not in outcome.contributors}
            _LOG.info("%s: the sum of %d of %d", purpose.name.lower(), len(outcome.contributors), len(cohort))
        finally:
            showing.end()
        self._hand_out(purpose)
        reasons |= behind
        lost |= {node: reasons[client] for node, client in members.items() if client in reasons}
        total, arrays = None if outcome is None else outcome.total, dict(old)
        if total is not None and manifest is not None:
            arrays = apply_delta(old, total.mean, manifest=manifest)
        return RoundEnd(
            outcome=outcome,
            aborted=aborted,
            lost={node: lost[node] for node in dict.fromkeys(nodes) if node in lost},
            arrays={name: arrays[name] for name in old},
        )

    # Where clients learn the sum

    def _brought_along(
        self, cohort: Collection[ClientId], showing: Showing
    ) -> tuple[bytes, dict[ClientId, str], dict[str, bytes]]:
        """The arrays' digest; who stays behind, and why; the digest by name, if the arrays do not travel."""
        name, record = showing.model()
        began = array_digest(record)
        behind = self.coordinator.bring_along(cohort, began=began)
        if not self.coordinator.withholds([client for client in cohort if client not in behind], began):
            return began, behind, {}
        showing.withhold(name)
        return began, behind, {name: began}

    def _hand_out(self, purpose: Purpose) -> None:
        """Hands out at once what no later round may carry, or what an evaluation builds upon.

        Whether or not this round had a sum: one of an earlier round may still wait for somebody.
        """
        if not self.blind:
            return
        if purpose is Purpose.TRAIN and self._rounds_left is not None:
            self._rounds_left -= 1
        last = self._rounds_left is None or self._rounds_left < 1
        if last or self._changes or (purpose is Purpose.TRAIN and Purpose.EVALUATE in self.sums):
            self.coordinator.deliver(purpose)


def _version_of(roster: object) -> Callable[[], RosterVersion]:
    if isinstance(roster, Roster):
        version = RosterVersion(roster)
        return lambda: version
    if isinstance(roster, RosterVersion):
        return lambda: roster
    if callable(roster):
        return roster
    raise ParameterError(f"roster is a {type(roster).__name__}; pass a Roster, a RosterVersion or a function")
