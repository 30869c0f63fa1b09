"""The server's side: inside of `@collab.main`, one secure sum after the other over the job's sites.

    @collab.main
    def main():
        secure = SecureClients(PROTOCOL, roster=read_roster("roster.txt"), rounds=10)
        for _ in range(10):
            model = secure.train(model, {"lr": 0.1}).model

A round is what the sites' train functions come to: the old arrays, moved by the mean of what changed, with
the total of the examples and the means of the metrics. Who was lost, and why, stands beside it. A round that
aborts says so and leaves the model as it was; the next one may well succeed, so it is nothing to raise.

Collab offers `collab.clients` beside this, in the clear; what a site answers there is its own affair. One
that publishes more than its `secure_aggregation` refuses these sums, unless it says so.
"""

import os
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from fl_integration.embedding.carrier import Patience
from fl_integration.embedding.parcels import DEFAULT_STUDY, Purpose
from fl_integration.embedding.records import Record, Records
from fl_integration.embedding.rounds import SecureRounds
from fl_integration.embedding.sums import DEFAULT_WEIGHT, Ranges
from fl_integration.nvflare.carrier import CollabCarrier, node_of, site_of
from fl_integration.nvflare.shown import ARRAYS, CONFIG, SETTINGS, arrays_of, records_of, to_wire
from protocols.identity import Identity, Roster
from protocols.machine.parameters import Parameters
from protocols.membership import RosterVersion
from secagg.errors import ParameterError
from secagg.numbers import plain
from secagg.secret import Secret

__all__ = ["SecureClients", "SecureRound"]

_NO_MODEL: Final = "the model has no arrays; a secure sum works on numpy arrays by name"


@dataclass(frozen=True, slots=True, kw_only=True)
class SecureRound:
    """What one round came to.

    Attributes:
        model: arrays by name, of the shapes and dtypes that went in: moved by the mean, or as they were. They
            stay as they were in an evaluation, if the round was aborted, and where the clients learn the sum.
        weight: the total of the examples; None if the server does not learn it, or there is no sum.
        metrics: means by name, weighted by the examples; empty where there is no weight.
        contributors: the sites whose answers are in the sum, in the roster's order.
        lost: sites that are not, and why, in their own words or the engine's.
        aborted: why there is no sum; empty if there is one.
    """

    model: Mapping[str, Any] = field(repr=False)
    weight: int | None
    metrics: Mapping[str, float]
    contributors: tuple[str, ...]
    lost: Mapping[str, str]
    aborted: str


class SecureClients:
    """The sites of the job, whose trainings and evaluations are secure sums; made inside of `@collab.main`.

    Args:
        protocol: the very parameters that the sites have, such as `MaskedSum(max_weight=10_000)`.
        roster: who may be there: a `Roster`, a `RosterVersion`, or a function that gives the version that
            holds now. It is called between rounds; a higher version opens a new session. A member is named as
            NVFlare names its site.
        study: names the training, as at the sites.
        evaluate_metrics: metric of the sites' evaluation -> (low, high), as at the sites.
        weighted_by_key: where the sites' metrics have the number of examples, as at the sites.
        rounds: how many training rounds there will be. Where the clients learn the sum, the last one is
            handed out after its round; if it is not known which is the last, or the roster is a function,
            each is, for one exchange more.
        patience: how long it waits for what.
        state_dir: a folder for the server's state, so that the next job, or this one started anew, goes on in
            the same session. None: a new object opens a new session.
        state_key: 32 bytes under which that state is sealed; needed with `state_dir`.
        records: a folder for the signed record of each round, which `secagg audit` reads; a training that
            cannot write them stops. None: none is kept.
        identity: the coordinator's own, which signs them; needed with `records`.
        published: the name that the sites give what `secure_aggregation` gave them, if they publish more than
            one, each of a study of its own. None: the one that there is.

    Raises:
        ParameterError: an argument is anything else. Nothing was sent.
    """

    def __init__(
        self,
        protocol: Parameters,
        *,
        roster: Roster | RosterVersion | Callable[[], RosterVersion],
        study: str = DEFAULT_STUDY,
        evaluate_metrics: Ranges | None = None,
        weighted_by_key: str = DEFAULT_WEIGHT,
        rounds: int | None = None,
        patience: Patience = Patience(),
        state_dir: str | os.PathLike[str] | None = None,
        state_key: Secret | None = None,
        records: str | os.PathLike[str] | None = None,
        identity: Identity | None = None,
        published: str | None = None,
    ) -> None:
        self._carrier = CollabCarrier(published)
        self._rounds = SecureRounds(
            self._carrier,
            protocol,
            roster=roster,
            study=study,
            evaluate_metrics=evaluate_metrics,
            weighted_by_key=weighted_by_key,
            rounds=rounds,
            patience=patience,
            state_dir=state_dir,
            state_key=state_key,
            records=records,
            identity=identity,
            member_at=site_of,
        )

    def renew(self) -> None:
        """Opens a new session over the same roster, between two rounds: new keys for all.

        For sites that lost their release log, which take part in no session that their state knows. Each
        session counts toward every site's `Enrolment(max_sessions=…)`.
        """
        self._rounds.coordinator.renew()

    def sites(self) -> tuple[str, ...]:
        """The sites that are there and proved to be members, in the roster's order; a cohort is awaited."""
        there = self._rounds.members().values()
        return self._rounds.coordinator.version.roster.order(there)

    def train(
        self,
        model: Mapping[str, Any],
        config: Mapping[str, Any] | None = None,
        *,
        sites: Collection[str] | None = None,
        seconds: float | None = None,
    ) -> SecureRound:
        """One round of training.

        Args:
            model: numpy arrays by name. Integers are shown, kept and not summed.
            config: bool, int, float, str, bytes and lists of these, by name; all sites are shown the same.
            sites: whom it asks, by name; None: all of the job's.
            seconds: for the whole round; None takes an hour.

        Raises:
            ParameterError: an argument is anything else, or the protocol has no plan for so many sites.
        """
        return self._round(Purpose.TRAIN, model, config, sites, seconds)

    def evaluate(
        self,
        model: Mapping[str, Any],
        config: Mapping[str, Any] | None = None,
        *,
        sites: Collection[str] | None = None,
        seconds: float | None = None,
    ) -> SecureRound:
        """One evaluation, an example-weighted secure sum of its own; arguments and errors as in `train`.

        Where the clients learn the sum they evaluate the model that they hold, and learn what it came to.
        """
        return self._round(Purpose.EVALUATE, model, config, sites, seconds)

    def _round(
        self,
        purpose: Purpose,
        model: Mapping[str, Any],
        config: Mapping[str, Any] | None,
        sites: Collection[str] | None,
        seconds: float | None,
    ) -> SecureRound:
        if purpose not in self._rounds.sums:
            raise ParameterError(
                "no metric of an evaluation is summed: pass evaluate_metrics={'accuracy': (0.0, 1.0)} here "
                "and to secure_aggregation"
            )
        if not isinstance(model, Mapping) or not model:
            raise ParameterError(_NO_MODEL)
        if config is not None and not isinstance(config, Mapping):
            raise ParameterError(f"config is a {type(config).__name__}; it is values by name, or None")
        showing = _Shown(self._carrier, model, {} if config is None else config)
        nodes = self._asked(sites)
        self._rounds.members()  # waits for the smallest cohort
        self._rounds.asked()
        end = self._rounds.run(
            purpose,
            nodes,
            showing,
            old=showing.arrays() if purpose is Purpose.TRAIN else {},
            seconds=plain(seconds),
        )
        total, roster = end.total, self._rounds.coordinator.version.roster
        return SecureRound(
            model=end.arrays or showing.arrays(),
            weight=None if total is None else total.total_weight,
            metrics={} if total is None else dict(total.metrics),
            contributors=() if end.outcome is None else roster.order(end.outcome.contributors),
            lost={site_of(node): why for node, why in end.lost.items()},
            aborted=end.aborted,
        )

    def _asked(self, sites: Collection[str] | None) -> list[bytes]:
        there = list(self._carrier.nodes())
        if sites is None:
            return there
        if isinstance(sites, str) or not all(isinstance(each, str) for each in sites):
            raise ParameterError("sites is a list of names, such as ['clinic-a', 'clinic-b', 'clinic-c']")
        asked = [node_of(site) for site in dict.fromkeys(sites)]
        if strange := [site_of(node) for node in asked if node not in there]:
            raise ParameterError(
                f"the job has no site {strange[0]!r}; it has {', '.join(map(site_of, there))}"
            )
        return asked


class _Shown:
    """What a round's calls show, as NVFlare carries it."""

    def __init__(self, carrier: CollabCarrier, model: Mapping[str, Any], config: Mapping[str, Any]) -> None:
        self._carrier, self._wire = carrier, to_wire(model, config)
        self._records = records_of(self._wire)

    def arrays(self) -> dict[str, Any]:
        """The model, the caller's own."""
        return {name: array.copy() for name, array in arrays_of(self._records[ARRAYS]).items()}

    def records(self) -> Records:
        return self._records

    def model(self) -> tuple[str, Record]:
        return ARRAYS, self._records[ARRAYS]

    def beside(self, settings: bytes) -> Mapping[str, bytes]:
        return {SETTINGS: settings}

    def begin(self) -> None:
        self._carrier.shown = self._wire

    def withhold(self, name: str) -> None:
        self._carrier.shown = {CONFIG: self._wire[CONFIG]}

    def end(self) -> None:
        self._carrier.shown = None
