"""The server's side of the filter pair: an aggregator that adds what it cannot read.

`SealedSum` stands in a job where HEInTimeAccumulateWeightedAggregator and HEModelShareableGenerator stood, as
both of them, under ScatterAndGather as it is. When the workflow asks for a round's task, the sites that are
there prove who they are, make keys if there are none, and each gets a letter of its own in its task; what
their tasks come back with is added, and the sum rides on the next round's letters, or is handed out behind
the last.

The server never learns the sum, so its own model stays as the persistor loaded it. There is no encrypted
model on its disk, and no HEModelSerializeFilter; the trained one is read at a site (`site_model`). A round
that is lost leaves the model as it was, and the workflow goes on.
"""

import logging
import threading
from collections.abc import Callable, Mapping
from typing import Any, Final

from fl_integration.embedding.carrier import Patience, check_seconds
from fl_integration.embedding.parcels import Purpose, study_of
from fl_integration.embedding.records import Record, Records
from fl_integration.embedding.rounds import RoundEnd, SecureRounds
from fl_integration.embedding.sums import DEFAULT_STUDY
from fl_integration.nvflare.engine import (
    DXO,
    Aggregator,
    AppConstants,
    DataKind,
    EventType,
    FLContext,
    FLContextKey,
    ModelLearnableKey,
    ReservedHeaderKey,
    ReturnCode,
    Shareable,
    ShareableGenerator,
    make_reply,
)
from fl_integration.nvflare.filters import ANSWERS, LETTERS, WEIGHT, check_weights
from fl_integration.nvflare.filters_carrier import Post, TaskCarrier
from fl_integration.nvflare.filters_delivered import SETTINGS
from fl_integration.nvflare.filters_letters import MODEL, Letter, Model, Shown, letter_in, without_letter
from fl_integration.nvflare.filters_settings import SERVER, SiteFile, here_of, protocol_of
from secagg.errors import DecodeError, RoundAborted, SecAggError, VerificationError

__all__ = ["SealedSum"]

_LOG: Final = logging.getLogger("secagg")
_NAME: Final = ReservedHeaderKey.TASK_NAME
_TASKS_OVER: Final = "its task ended without an answer"


class SealedSum(Aggregator, ShareableGenerator):  # type: ignore[misc]  # NVFlare has no types
    """The aggregator and the shareable generator of a ScatterAndGather workflow.

    Args:
        protocol: as in `filters_settings.protocol_of`, the same as at the sites.
        study: names the training, as at the sites.
        weighted_by: as at the sites.
        train_task: the workflow's train_task_name.
        connect_seconds: how long a round waits for as many sites as the smallest cohort needs.
        exchange_seconds: for an exchange in which nobody trains.
        round_seconds: for a whole round; the workflow's own train_timeout ends it sooner.

    Raises:
        ParameterError: an argument can never work.
    """

    def __init__(
        self,
        *,
        protocol: Mapping[str, Any],
        study: str = DEFAULT_STUDY,
        weighted_by: str = WEIGHT,
        train_task: str = AppConstants.TASK_TRAIN,
        connect_seconds: float = 600.0,
        exchange_seconds: float = 180.0,
        round_seconds: float = 86_400.0,
    ) -> None:
        super().__init__()
        # NVFlare's job API writes a job from attributes that are named like these arguments.
        self._protocol, self._study, self._weighted_by = dict(protocol), study, weighted_by
        self._train_task = train_task
        self._connect_seconds, self._exchange_seconds = connect_seconds, exchange_seconds
        self._round_seconds = round_seconds
        self._sum = protocol_of(protocol)
        check_weights(self._sum, weighted_by)
        study_of(study)
        self._patience = Patience(
            connect=connect_seconds, exchange=exchange_seconds, hello=min(60.0, exchange_seconds), again=2.0
        )
        check_seconds("round_seconds", round_seconds)
        self._engine: Any = None
        self._carrier = TaskCarrier(Post(self._sites, self._send))
        self._rounds: SecureRounds | None = None
        self._open: _OpenRound | None = None

    def handle_event(self, event_type: str, fl_ctx: FLContext) -> None:
        """Writes each site's letter into its task, and takes what comes beside the tasks."""
        if event_type == EventType.START_RUN:
            self._engine = fl_ctx.get_engine()
            self._engine.register_aux_message_handler(ANSWERS, self._beside)
        elif event_type == EventType.BEFORE_TASK_DATA_FILTER:
            self._address(fl_ctx)
        elif event_type == EventType.END_RUN:
            self._carrier.stop()  # a round that is open has nobody left to wait for
            self._close("the run is over")

    # A round's beginning

    def learnable_to_shareable(self, model: Any, fl_ctx: FLContext) -> Shareable:
        """The task of a round, without the letters: those differ from site to site."""
        found = Model.of(model[ModelLearnableKey.WEIGHTS])
        number = fl_ctx.get_prop(AppConstants.CURRENT_ROUND, 0)
        count = fl_ctx.get_prop(AppConstants.NUM_ROUNDS, 0)
        last = fl_ctx.get_prop(AppConstants.START_ROUND, 0) + count - 1
        shown = Shown(
            self._train_task, number, count, {name: form.value for name, form in found.forms.items()}
        )
        self._close("another round begins")
        self._carrier.forget()
        rounds = self._secure_rounds(fl_ctx, left=max(1, last - number + 1) if count else None)
        self._open = _OpenRound(
            rounds, self._carrier, _Task(self._carrier, shown, found), self._round_seconds
        )
        signal = fl_ctx.get_run_abort_signal()
        self._open.wait_posted(lambda: signal is not None and signal.triggered)
        return without_letter()

    def _secure_rounds(self, fl_ctx: FLContext, *, left: int | None) -> SecureRounds:
        if self._rounds is None:
            file = SiteFile.of(here_of(fl_ctx), called=SERVER)
            file.allows(self._sum)
            self._rounds = SecureRounds(
                self._carrier,
                self._sum,
                roster=file.roster,
                study=self._study,
                evaluate_metrics=None,
                weighted_by_key=self._weighted_by,
                rounds=left,
                patience=self._patience,
                state_dir=None,
                state_key=None,
                records=None,
                identity=None,
                member_at=lambda node: node.decode(),
            )
        return self._rounds

    def _address(self, fl_ctx: FLContext) -> None:
        task = fl_ctx.get_prop(FLContextKey.TASK_DATA)
        if not isinstance(task, Shareable) or task.get_header(_NAME) != self._train_task:
            return
        letter = self._carrier.letter_for(_addressee(task, fl_ctx))
        if letter is not None:  # the shareable is this site's; what all share is only replaced in it
            letter.put(task)

    # Its end

    def accept(self, shareable: Shareable, fl_ctx: FLContext) -> bool:
        """Takes a site's result; whether this round waited for it."""
        try:
            taken = self._carrier.answered(letter_in(shareable))
        except SecAggError as error:
            _LOG.warning("a result counts as none: %s", error)
            return False
        if not taken:
            _LOG.warning("a result counts as none: no task of this round waits for it")
        return taken

    def aggregate(self, fl_ctx: FLContext) -> Shareable:
        """Ends the round. The server's model is handed back as it is: what the sum says is the sites' own."""
        end = self._close(_TASKS_OVER)
        if end is not None and end.outcome is None:
            _LOG.warning("round without a sum; every model stays as it is: %s", end.aborted)
        for node, why in {} if end is None else dict(end.lost).items():
            _LOG.warning("%s is not in the sum: %s", node.decode(), why)
        model = fl_ctx.get_prop(AppConstants.GLOBAL_MODEL)
        weights = {} if model is None else model[ModelLearnableKey.WEIGHTS]
        filled: Shareable = DXO(data_kind=DataKind.WEIGHTS, data=dict(weights)).to_shareable()
        return filled

    def shareable_to_learnable(self, shareable: Shareable, fl_ctx: FLContext) -> Any:
        """The server's model, which stays as it is."""
        return fl_ctx.get_prop(AppConstants.GLOBAL_MODEL)

    def reset(self, fl_ctx: FLContext) -> None:
        """Nothing of a round is left behind it."""

    def _close(self, reason: str) -> RoundEnd | None:
        if self._open is None:
            return None
        opened, self._open = self._open, None
        self._carrier.close(reason)
        return opened.end()

    # Messages beside the tasks

    def _beside(self, topic: str, request: Shareable, fl_ctx: FLContext) -> Shareable:
        try:
            self._carrier.answered(letter_in(request))
        except DecodeError as error:
            _LOG.warning("a message counts as none: %s", error)
        return make_reply(ReturnCode.OK)

    def _sites(self) -> list[str]:
        return [client.name for client in self._engine.get_clients()]

    def _send(self, site: str, letter: Letter, seconds: float) -> Letter:
        with self._engine.new_context() as fl_ctx:
            replies = self._engine.send_aux_request(
                targets=[site],
                topic=LETTERS,
                request=letter.put(Shareable()),
                timeout=seconds,
                fl_ctx=fl_ctx,
                optional=True,
            )
        reply = (replies or {}).get(site)
        if reply is None:
            raise VerificationError("it could not be reached")
        if (code := reply.get_return_code()) != ReturnCode.OK:
            raise VerificationError(f"the engine says: {code}")
        answer = letter_in(reply)
        if answer.ticket != letter.ticket:
            raise VerificationError("it answers another letter")
        return answer


def _addressee(task: Shareable, fl_ctx: FLContext) -> str:
    """The site that a task goes to, as the server knows it: a site's own context may say any name."""
    workflow = getattr(fl_ctx.get_prop(FLContextKey.RUNNER), "current_wf", None)
    if workflow is None:
        return ""
    sent = workflow.controller.communicator.process_task_check(
        task_id=task.get_header(ReservedHeaderKey.TASK_ID), fl_ctx=fl_ctx
    )
    return "" if sent is None else str(sent.client.name)


class _Task:
    """What a round shows: see `Showing`."""

    def __init__(self, carrier: TaskCarrier, shown: Shown, model: Model) -> None:
        self._carrier, self.shown, self.found = carrier, shown, model

    def records(self) -> Records:
        return {"task": self.shown.record(), MODEL: self.found.record()}

    def model(self) -> tuple[str, Record]:
        return MODEL, self.found.record()

    def beside(self, settings: bytes) -> Mapping[str, bytes]:
        return {SETTINGS: settings}

    def begin(self) -> None:
        self._carrier.begin(self.shown, self.found.to_bytes())

    def withhold(self, name: str) -> None:
        self._carrier.withhold()

    def end(self) -> None:
        """What comes late is forgotten before the next round."""


class _OpenRound:
    """A round at work beside the workflow, which waits for results meanwhile."""

    def __init__(self, rounds: SecureRounds, carrier: TaskCarrier, task: _Task, seconds: float) -> None:
        self._rounds, self._carrier, self._task, self._seconds = rounds, carrier, task, seconds
        self._over = threading.Event()
        self._end: RoundEnd | None = None
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._run, name="secagg-round", daemon=True)
        self._thread.start()

    def wait_posted(self, aborted: Callable[[], bool]) -> None:
        """Waits until each site's letter is there, or the round or the run is over without.

        Raises:
            ParameterError: it can never work.
        """
        if self._carrier.wait_posted(lambda: self._over.is_set() or aborted()):
            return
        if aborted():
            self._carrier.stop()
        elif self._error is not None:
            raise self._error

    def end(self) -> RoundEnd | None:
        """What it came to, when the carrier was closed.

        Raises:
            SecAggError: it could not go on.
        """
        self._thread.join()
        if self._error is not None:
            raise self._error
        return self._end

    def _run(self) -> None:
        try:
            nodes = list(self._rounds.members())
            self._rounds.asked()
            self._end = self._rounds.run(
                Purpose.TRAIN, nodes, self._task, old=self._task.found.arrays, seconds=self._seconds
            )
        except RoundAborted as error:
            _LOG.warning("a round without an end: %s", error.reason)
        except Exception as error:  # noqa: BLE001 - the workflow's own thread raises it again
            self._error = error
        finally:
            self._over.set()
