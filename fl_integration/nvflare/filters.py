"""The filter pair of a site: secure sums in place of NVFlare's homomorphic-encryption filters.

`ModelOpener` stands in `task_data_filters`, where HEModelDecryptor stood: it opens the last sum, moves this
site's own model by it and shows it to the executor. `UpdateSealer` stands in `task_result_filters`, where
HEModelEncryptor stood: it seals what the executor answered. Between the two the executor is any that takes a
DXO of weights. `filters_server.SealedSum` is the server's side, FILTERS.md the manual.

Nothing leaves in the clear. NVFlare answers a filter that raises with an error of its own and drops the
result; but its base class DXOFilter hands on, as they are, results of another kind, collections' parts of
other kinds, empty ones and those with a return code. So these two are no DXOFilters. The sealer lets nothing
pass that it did not make: it empties the executor's result, which event handlers and the context hold as
well, and answers with a shareable of its own, whatever went wrong. The opener shows no model unless the
sealer stands in the chain of every task that has an executor. A site that lacks the opener has no model.

The job names these filters, and who writes the job can leave them out: a site that wants them in every job
puts the sealer into its own privacy.json. No filter holds what a job's own code sends by other ways.
"""

import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from fl_integration.embedding.member import Member, Memory, refused
from fl_integration.embedding.parcels import Parcel, Purpose, Refused, decode_head, said, study_of
from fl_integration.embedding.sums import DEFAULT_STUDY, sums_of, terms_of
from fl_integration.loop.optimisers import FedAvg
from fl_integration.nvflare.engine import (
    DXO,
    AppConstants,
    DataKind,
    EventType,
    Filter,
    FilterKey,
    FLContext,
    FLContextKey,
    ReservedHeaderKey,
    ReturnCode,
    Shareable,
    from_shareable,
    get_filters,
    make_reply,
)
from fl_integration.nvflare.filters_delivered import Delivered, settings_digest
from fl_integration.nvflare.filters_letters import Letter, Model, Shown, letter_in
from fl_integration.nvflare.filters_settings import SERVER, SiteFile, here_of, protocol_of
from fl_integration.nvflare.filters_turn import Ask, Turn
from protocols.machine.parameters import Parameters
from secagg.errors import ParameterError, SecAggError, VerificationError

__all__ = ["ANSWERS", "LETTERS", "WEIGHT", "ModelOpener", "UpdateSealer", "check_weights"]

_LOG: Final = logging.getLogger("secagg")
WEIGHT: Final = "NUM_STEPS_CURRENT_ROUND"
"""Where NVFlare's trainers say how many steps they made, and its HE filters look for a weight."""
LETTERS: Final = "secagg.letters"
"""The topic under which the server writes to sites that have no task."""
ANSWERS: Final = "secagg.answers"
"""The topic under which a site answers a task that its executor never saw."""
_TURN: Final = "secagg.turn"
_SEALED: Final = "secagg.sealed"
_ANSWER_SECONDS: Final = 10.0
_PATTERN: Final = frozenset("*?[")
_CODES: Final = frozenset(code for name, code in vars(ReturnCode).items() if name.isupper())
_KEPT_HEADERS: Final = (
    ReservedHeaderKey.TASK_NAME,
    ReservedHeaderKey.TASK_ID,
    ReservedHeaderKey.WORKFLOW,
    ReservedHeaderKey.AUDIT_EVENT_ID,
    ReservedHeaderKey.MSG_ROOT_ID,
    ReservedHeaderKey.MSG_ROOT_TTL,
)
"""What NVFlare itself needs of a task; an executor finds nothing there to train by."""


class ModelOpener(Filter):  # type: ignore[misc]  # NVFlare has no types
    """Opens the model of a training task: a task-data filter.

    Args:
        protocol: as in `filters_settings.protocol_of`, the same at all sites and at the server.
        study: names the training, as at the server; each has another.
        weighted_by: key of the result's meta that holds the weight, a positive integer; "" weighs all alike.
        train_task: the one task that is summed.
        in_the_clear: tasks that go to the executor as they are, and whose results the server reads.

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
        in_the_clear: Sequence[str] = (),
    ) -> None:
        super().__init__()
        # NVFlare's job API writes a job from attributes that are named like these arguments.
        self._protocol, self._study, self._weighted_by = dict(protocol), study, weighted_by
        self._named, self._clear = study_of(study), names_of(in_the_clear, but=train_task)
        self._train_task, self._in_the_clear = train_task, list(in_the_clear)
        self._sums = sums_of(protocol_of(protocol), None)
        check_weights(self._sums[Purpose.TRAIN], weighted_by)
        self._terms = terms_of(self._sums, weighted_by_key=weighted_by)
        self._remembered: dict[Purpose, Memory] = {}
        self._turn: Turn | None = None
        self._alone = threading.Lock()

    def handle_event(self, event_type: str, fl_ctx: FLContext) -> None:
        """Listens for the server's letters from the start of the run on, and gives up a turn at its end."""
        if event_type == EventType.START_RUN:
            fl_ctx.get_engine().register_aux_message_handler(LETTERS, self._letter)
        elif event_type in (EventType.ABORT_TASK, EventType.END_RUN):
            self._give_up()

    def process(self, shareable: Shareable, fl_ctx: FLContext) -> Shareable:
        """The task with the model in it, for the executor.

        Raises:
            SecAggError: nothing was opened, and the executor must not run. NVFlare answers the task with an
                error; what this site has to say goes to the server beside it.
        """
        task = fl_ctx.get_prop(FLContextKey.TASK_NAME)
        if task in self._clear:
            return shareable
        if task != self._train_task:
            raise VerificationError(
                f"the task {task!r} is not summed: name it in in_the_clear, and the server reads its results"
            )
        self._check_chains(fl_ctx)
        letter = letter_in(shareable)
        turn = Turn(
            lambda ask: self._answer(letter, fl_ctx, task=task, ask=ask), weighted_by=self._weighted_by
        )
        self._give_up(turn)  # the executor of an earlier task never came back
        first = turn.first()
        if isinstance(first, Parcel):
            _tell(first, letter, fl_ctx)
            raise VerificationError(f"this site has no part in the round: {_reason(first)}")
        try:
            made = _shown_task(first, letter.shown, shareable)
        except Exception:
            turn.give_up()  # or the folder stays taken until the next letter
            raise
        held = _Held(turn, letter, shareable.get_cookie_jar())
        fl_ctx.set_prop(_TURN, held, private=True, sticky=False)
        return made

    def _answer(self, letter: Letter, fl_ctx: FLContext, *, task: str, ask: Ask | None) -> Parcel:
        """The member's answer; it raises nothing."""
        site = fl_ctx.get_identity_name()
        try:
            here = here_of(fl_ctx)
            file = SiteFile.of(here)
            file.allows(self._sums[Purpose.TRAIN])
            settings = settings_digest(here.config.parent)
            member = Member(
                file.enrolment(),
                study=self._named,
                sums=self._sums,
                terms=self._terms,
                settings=settings,
                optimiser=FedAvg(),
                remembered=self._remembered,
            )
        except (SecAggError, OSError) as error:  # of this site's own files, whose names are its own affair
            _LOG.warning("%s does not take part: %s", site, error)
            return refused("this site cannot take part; its own log says why")
        answer = member.answer(letter.parcel, Delivered(letter, task=task, settings=settings, ask=ask))
        with self._alone:
            self._remembered = dict(member.remembers)
        return answer

    def _letter(self, topic: str, request: Shareable, fl_ctx: FLContext) -> Shareable:
        """The answer to a letter that is no task: nobody trains for it."""
        try:
            letter = letter_in(request)
        except SecAggError as error:
            return Letter(refused(str(error))).put(make_reply(ReturnCode.OK))
        # The server writes beside tasks before a round's and behind it: an executor that is still at work, or
        # that raised, works for a round that is over, and this site's folder is not free before that ends.
        self._give_up()
        answer = self._answer(letter, fl_ctx, task=self._train_task, ask=None)
        return Letter(answer, letter.ticket).put(make_reply(ReturnCode.OK))

    def _give_up(self, follower: Turn | None = None) -> None:
        """Ends the turn that is open; of tasks that come at once the last has its turn."""
        with self._alone:
            turn, self._turn = self._turn, follower
        if turn is not None:
            turn.give_up()

    def _check_chains(self, fl_ctx: FLContext) -> None:
        """No result may leave this site but through the sealer, or under a name that goes in the clear."""
        runner = fl_ctx.get_prop(FLContextKey.RUNNER)
        job = getattr(runner, "task_result_filters", None)
        router = getattr(runner, "task_router", None)
        tasks = getattr(router, "task_table", None)
        if not isinstance(job, dict) or not isinstance(tasks, dict):
            raise VerificationError("this site's chains of filters cannot be read; the model stays closed")
        for task in {*tasks, self._train_task} - self._clear:
            chain = get_filters("task_result_filters", fl_ctx, job, task, FilterKey.OUT)
            if not any(isinstance(each, UpdateSealer) and each.seals(task) for each in chain):
                pattern = " (a job's filters know no patterns: list the names)" if _PATTERN & {*task} else ""
                raise VerificationError(
                    f"results of the task {task!r} would leave without UpdateSealer{pattern}: put it into "
                    "task_result_filters for this task, or name the task in in_the_clear of both filters"
                )


class UpdateSealer(Filter):  # type: ignore[misc]  # NVFlare has no types
    """Seals what the executor answered to a training task: a task-result filter.

    Args:
        in_the_clear: as in `ModelOpener`; results of other tasks do not leave.

    Raises:
        ParameterError: it is no list of names.
    """

    def __init__(self, *, in_the_clear: Sequence[str] = ()) -> None:
        super().__init__()
        self._clear = names_of(in_the_clear)
        self._in_the_clear = list(in_the_clear)

    def seals(self, task: str) -> bool:
        """Whether results of a task are sealed here, or stay; those of others leave as they are."""
        return task not in self._clear

    def process(self, shareable: Shareable, fl_ctx: FLContext) -> Shareable:
        """A shareable that holds the sealed update, or an error without any content. It never raises."""
        if shareable is fl_ctx.get_prop(_SEALED):
            return shareable  # the site's own sealer stood before the job's
        if not self.seals(fl_ctx.get_prop(FLContextKey.TASK_NAME)) and fl_ctx.get_prop(_TURN) is None:
            return shareable
        sealed = make_reply(ReturnCode.TASK_RESULT_FILTER_ERROR)
        try:
            sealed = self._sealed(shareable, fl_ctx)
        except SecAggError as error:
            _LOG.warning("a result did not leave: %s", error)
        except Exception as error:  # noqa: BLE001 - whatever it was, what was to be sealed stays here
            # No error: NVFlare sends its log of errors to the server, and why is this site's own affair.
            _LOG.warning("a result did not leave", exc_info=error)
        finally:
            # Who holds the executor's own shareable, such as the context, holds nothing that could be sent.
            shareable.clear()
        fl_ctx.set_prop(_SEALED, sealed, private=True, sticky=False)
        return sealed

    def _sealed(self, shareable: Shareable, fl_ctx: FLContext) -> Shareable:
        held = fl_ctx.get_prop(_TURN)
        fl_ctx.set_prop(_TURN, None, private=True, sticky=False)
        code = _code_of(shareable)
        if held is None:
            if code != ReturnCode.OK:
                return make_reply(code)
            raise VerificationError("no model was opened for this task: ModelOpener is missing here")
        made: DXO | None = None
        try:
            if code == ReturnCode.OK:
                made = from_shareable(shareable)
        except ValueError:
            _LOG.warning("the executor's result is no DXO")
        answer = held.turn.finish(made)
        reply = make_reply(code)
        if held.cookies:
            reply.set_cookie_jar(held.cookies)
        if code != ReturnCode.OK:
            _tell(answer, held.letter, fl_ctx)
            return reply
        return Letter(answer, held.letter.ticket).put(reply)


@dataclass(frozen=True, slots=True)
class _Held:
    """What the sealer needs of a task and the executor does not see.

    Attributes:
        turn: of the task.
        letter: that came in it.
        cookies: the server's own, which it gets back; a workflow reads its round there.
    """

    turn: Turn
    letter: Letter
    cookies: object


def _code_of(result: Shareable) -> str:
    """The return code of an executor's result, if it is one of NVFlare's: another may say anything."""
    code = result.get_return_code(ReturnCode.OK)
    return code if isinstance(code, str) and code in _CODES else ReturnCode.EXECUTION_RESULT_ERROR


def check_weights(protocol: Parameters, weighted_by: object) -> None:
    """Returns if a protocol can weigh results by a key of their meta.

    Raises:
        ParameterError: the key is no str, or the protocol weighs all sites alike.
    """
    if not isinstance(weighted_by, str):
        raise ParameterError(f"weighted_by is {weighted_by!r}; it is a key of the result's meta, or empty")
    if weighted_by and protocol.max_weight == 1:
        raise ParameterError(
            f"results are weighted by {weighted_by!r}, and the protocol's max_weight is 1: pass the most "
            'that a site may say, or weighted_by "" to weigh all alike'
        )


def names_of(in_the_clear: object, *, but: str = "") -> frozenset[str]:
    """The tasks that go in the clear.

    Raises:
        ParameterError: it is no list of names, or holds the one that is summed; "validate", for one, is a
            str, and of one the letters would be looked at.
    """
    if not isinstance(in_the_clear, list | tuple) or not all(isinstance(each, str) for each in in_the_clear):
        raise ParameterError('in_the_clear is a list of names of tasks, such as ["validate"]')
    if but and but in in_the_clear:
        raise ParameterError(f"the task {but!r} is the one that is summed; leave it out of in_the_clear")
    return frozenset(in_the_clear)


def _shown_task(model: Model, shown: Shown | None, task: Shareable) -> Shareable:
    """A task as the executor sees it: made here, of nothing that the round does not bind."""
    made = Shareable()
    for key in _KEPT_HEADERS:
        if (value := task.get_header(key)) is not None:
            made.set_header(key, value)
    if shown is not None:
        made.set_header(AppConstants.CURRENT_ROUND, shown.round)
        made.set_header(AppConstants.NUM_ROUNDS, shown.rounds)
    filled: Shareable = DXO(data_kind=DataKind.WEIGHTS, data=model.values()).update_shareable(made)
    return filled


def _reason(answer: Parcel) -> str:
    """Why an answer is one that no executor had a part in."""
    head = decode_head(answer.head)
    if isinstance(head, Refused):
        return head.reason
    return getattr(head, "failure", "") or "its machine has answered, or refuses"


def _tell(answer: Parcel, letter: Letter, fl_ctx: FLContext) -> None:
    """Says to the server what no result will carry: why this site sits out, or what its machine refuses."""
    send: Callable[..., Any] = fl_ctx.get_engine().send_aux_request
    try:
        send(
            targets=[SERVER],
            topic=ANSWERS,
            request=Letter(answer, letter.ticket).put(Shareable()),
            timeout=_ANSWER_SECONDS,
            fl_ctx=fl_ctx,
            optional=True,
        )
    except Exception as error:  # noqa: BLE001 - the server goes on without it; this site has answered in any case
        _LOG.warning("the server was not told why: %s", said(type(error).__name__))
