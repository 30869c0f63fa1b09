"""The evaluation after a round, as the loop runs it: on the model that the round moved, and on no other.

A model is evaluated once: after a round that moved nobody it may be that of the evaluation before, and a sum
of counts over other sites would tell, by the difference, what one site counts. A sum of counts that does not
end costs that evaluation, and one that was opened is not tried again; a site that cannot count sits that
evaluation out. The training goes on, and the log says why.

>>> from fl_integration.loop.evaluation import Custom
>>> Evaluator(Custom(lambda number, model: {"one": 1.0}, every=2), rounds=5).is_due(1)
True
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from functools import partial

from fl_integration.loop.evaluation import Central, Custom, Evaluation, Metric, OnSites, evaluation_of
from fl_integration.loop.global_model import Delivered
from fl_integration.loop.parties import FederatedClient
from fl_integration.loop.report import RoundReport
from fl_integration.loop.side_sums import Counts, SideSums
from fl_integration.loop.watch import one_line
from fl_integration.site.site import SiteFailedError
from protocols.identity import ClientId
from protocols.interface import Learner
from protocols.machine.parameters import MachineProtocol
from protocols.simulation import Traffic
from secagg.errors import MissingExtraError, ParameterError, RoundAborted

try:
    from torch import nn
except ImportError as error:
    raise MissingExtraError(package="torch", extra="train") from error

__all__ = ["Evaluator"]

_LOG = logging.getLogger("secagg")


class Evaluator:
    """Asks one kind of evaluation at the right rounds.

    Args:
        evaluate: as given to `federate`; None evaluates nothing.
        rounds: of the training.
        sites: the training's clients; None where their number does not matter.
        protocol: that sums the counts of `OnSites`; None in the clear.

    Raises:
        ParameterError: it asks sites that there are not, too few for the protocol, or counts that do not fit.
    """

    def __init__(
        self,
        evaluate: Evaluation | Metric | None,
        *,
        rounds: int,
        sites: Mapping[ClientId, object] | None = None,
        protocol: MachineProtocol | None = None,
    ) -> None:
        self._kind, self._rounds = evaluation_of(evaluate), rounds
        if isinstance(self._kind, OnSites):
            unknown = [name for name in self._kind.data if sites is not None and name not in sites]
            if unknown:
                raise ParameterError(
                    f"evaluate asks {unknown}, which are no sites of this training; they are "
                    f"{list(sites or ())}"
                )
            if protocol is not None:
                self._kind.sum_of(protocol)
                if len(self._kind.data) > protocol.suite.max_clients:
                    raise ParameterError(
                        f"evaluate asks {len(self._kind.data)} sites, max_clients is "
                        f"{protocol.suite.max_clients}; ask fewer, or raise it"
                    )
                try:
                    protocol.plan(len(self._kind.data), roster=len(sites or self._kind.data))
                except ParameterError as error:
                    raise ParameterError(f"evaluate asks {len(self._kind.data)} sites: {error}") from error

    @property
    def on_sites(self) -> OnSites | None:
        """The evaluation that needs a sum, if it is of that kind."""
        return self._kind if isinstance(self._kind, OnSites) else None

    def is_due(self, number: int) -> bool:
        """Whether round `number` ends with an evaluation."""
        return self._kind is not None and self._kind.due(number, rounds=self._rounds)

    def asks(self, history: Sequence[RoundReport]) -> bool:
        """Whether the last of these rounds ends with an evaluation: of a model that had none."""
        if not history or not self.is_due(history[-1].number):
            return False
        for report in reversed(history):
            if report.evaluated:
                return False
            if report.total_weight is not None:
                return True
        return False

    def stops(self, history: Sequence[RoundReport]) -> str:
        """Why the training ends before the next round; empty if it does not."""
        stop = self._kind.stop if self._kind is not None else None
        figures = [report.evaluation for report in history]
        if stop is None or not any(figures):
            return ""
        if stop.metric in getattr(self._kind, "names", ()) and not any(
            stop.metric in each for each in figures
        ):
            return ""  # it will come, an AUC with the first example of the other class
        if not stop.stops(figures):
            return ""
        best = stop.best_of(figures)
        at = "at any time" if best is None else f"since round {history[best].number}"
        return f"{stop.metric} has not improved {at}, for {stop.patience} evaluations"

    def at_one_place(self, number: int, module: Callable[[], nn.Module]) -> dict[str, float]:
        """The figures of an evaluation that needs no sum; `module` makes the global model."""
        if isinstance(self._kind, Central):
            return self._kind.metrics(module())
        return self._kind.metrics(number, module()) if isinstance(self._kind, Custom) else {}

    def through_a_sum(
        self,
        number: int,
        clients: Mapping[ClientId, FederatedClient],
        sums: SideSums,
        *,
        model: bytes,
        learns: Learner,
    ) -> tuple[dict[str, float], dict[str, Traffic], dict[ClientId, str]]:
        """The figures of an evaluation on the sites, bytes by party, and who sat it out, and why.

        Args:
            number: of the round.
            clients: of the training.
            sums: the sums of counts.
            model: what goes down: the model where the server learns the sum, else what all begin from.
            learns: who learns it.
        """
        kind = self._kind
        if not isinstance(kind, OnSites):
            return {}, {}, {}

        def count(name: ClientId, body: bytes) -> Counts:
            client = clients[name]
            values = client.model.values
            if learns is Learner.SERVER:
                values = Delivered.decode(body, client.model.layout).values
            return _counts_of(kind, name, partial(client.site.load, values))

        try:
            found, traffic = sums.run(
                number, tuple(kind.data), count, model=model, head=lambda name: clients[name].base
            )
        except RoundAborted as error:
            _LOG.warning("round %d: not evaluated, %s", number, one_line(error.reason))
            return {}, sums.traffic, sums.missing
        for name, reason in sums.missing_in_a_log.items():
            _say_who_sat_out(number, name, reason)
        total = next((each.total for each in found.values()), None)
        if total is None:
            _LOG.warning("round %d: not evaluated, no client opened the sum of counts", number)
        return ({} if total is None else kind.metrics(total)), traffic, sums.missing

    def in_the_clear(
        self,
        number: int,
        modules: Mapping[ClientId, Callable[[], nn.Module]],
        module: Callable[[], nn.Module],
    ) -> tuple[dict[str, float], dict[ClientId, str]]:
        """The same figures without a protocol, and who sat it out: `modules` makes each site's model."""
        kind = self._kind
        if not isinstance(kind, OnSites):
            return self.at_one_place(number, module), {}
        counts: list[Counts] = []
        dropped: dict[ClientId, str] = {}
        for name in kind.data:
            try:
                counts.append(_counts_of(kind, name, modules[name]))
            except SiteFailedError as error:
                _say_who_sat_out(number, name, error.logged)
                dropped[name] = error.reason
        return (kind.metrics(sum(counts[1:], counts[0])) if counts else {}), dropped


def _counts_of(kind: OnSites, name: ClientId, module: Callable[[], nn.Module]) -> Counts:
    """What a site adds to the sum."""
    try:
        return kind.counts(module(), kind.data[name])
    except Exception as error:  # the site's own data may raise anything
        raise SiteFailedError.of(error) from error


def _say_who_sat_out(number: int, name: ClientId, reason: str) -> None:
    _LOG.warning("round %d: %s sat the evaluation out, %s", number, one_line(name), one_line(reason))
