"""The client's side: a mod that lets an unmodified app train, and sends what changed through a secure sum.

    app = ClientApp(mods=[secure_aggregation(PROTOCOL, enrol)])

The app's train function sees the message that it would see without secagg, and answers as it always does.
What leaves the site is what changed, weighted by the examples, inside the sum; of the app's metrics those
that the protocol names. A message that is no part of a secure sum is refused, so that nobody trains this app
in the clear; whoever wants that for a kind of message types it (`in_the_clear`).
"""

import logging
from collections.abc import Callable, Mapping
from typing import Any, Final

from fl_integration.embedding.answers import contribution_of
from fl_integration.embedding.delivery import Contribution
from fl_integration.embedding.enrolment import Enrolment
from fl_integration.embedding.member import UNABLE, Member, Memory, refused
from fl_integration.embedding.parcels import Purpose
from fl_integration.embedding.records import Kind, array_digest, records_digest
from fl_integration.embedding.sums import (
    DEFAULT_STUDY,
    DEFAULT_WEIGHT,
    Ranges,
    names_of,
    optimiser_of,
    study_of,
    sums_of,
    terms_of,
)
from fl_integration.flower.engine import (
    CLEAR,
    HEAD,
    ClientAppCallable,
    ConfigRecord,
    Context,
    Message,
    MetricRecord,
    Mod,
    arrays_in,
    beside,
    pack,
    records_of,
    refusal,
    settings_digest,
    unpack,
    visible,
    with_arrays,
)
from fl_integration.loop.optimisers import FedAvg, ServerOptimiser
from protocols.machine.parameters import Parameters
from protocols.messages.schema import decode, encode
from secagg.errors import DecodeError, ParameterError, SecAggError, VerificationError

__all__ = ["secure_aggregation"]

_LOG: Final = logging.getLogger("secagg")
_STATE: Final = "secagg"
_EVALUATION: Final = "secagg.evaluation"
"""Where an app finds the latest evaluation that this site opened, if its clients learn the sum."""
_CLEAR: Final = (
    "this app answers through secure aggregation alone; run the strategy over a SecureGrid of secagg"
)


def secure_aggregation(
    protocol: Parameters,
    enrol: Callable[[Context], Enrolment],
    *,
    study: str = DEFAULT_STUDY,
    evaluate_metrics: Ranges | None = None,
    weighted_by_key: str = DEFAULT_WEIGHT,
    in_the_clear: tuple[str, ...] = (),
    server_optimiser: ServerOptimiser = FedAvg(),
) -> Mod:
    """A mod for `ClientApp(mods=[...])`.

    Args:
        protocol: the very parameters that the server has, such as `MaskedSum(max_weight=10_000)`. Its
            `metrics` names what of the app's training metrics is summed; others stay at the site.
        enrol: called with the app's context for each message; says who this site is and where its state lies.
            A simulation pickles it for each message, and an `Identity` does not pickle: make or load it in
            the function, do not close over one.
        study: names the training, as at the server.
        evaluate_metrics: metric of the app's evaluation -> (low, high), as at the server: an example-weighted
            secure sum of its own. None: the app is not evaluated.
        weighted_by_key: where the app's metrics have the example count, a positive integer.
        in_the_clear: message types, such as "evaluate" or "query.version", that go to the app as they are,
            and whose answers the server reads.
        server_optimiser: where the clients learn the sum: what turns each mean into a step, at every client
            alike. Where the server does, that is its strategy's affair.

    Raises:
        ParameterError: an argument can never work.
    """
    sums, name = sums_of(protocol, evaluate_metrics), study_of(study)
    clear = names_of(in_the_clear, of=CLEAR)
    terms = terms_of(sums, weighted_by_key=weighted_by_key)
    optimiser_of(server_optimiser, learns=protocol.learns, moves="strategy")
    if not callable(enrol):
        raise ParameterError("enrol is called with the app's context and gives an Enrolment")

    def mod(message: Message, context: Context, call_next: ClientAppCallable) -> Message:
        if message.metadata.message_type in clear:
            return call_next(message, context)
        if message.has_error() or HEAD not in message.content:
            return refusal(_CLEAR, message)
        try:
            parcel = unpack(message.content)
        except DecodeError as error:
            return refusal(str(error), message)
        try:
            enrolment = enrol(context)
        except Exception:  # noqa: BLE001 - the app's own code, whatever it raises: its words and paths stay here
            _LOG.exception("this site cannot enrol")
            return Message(pack(refused(UNABLE)), reply_to=message)
        try:
            member = Member(
                enrolment,
                study=name,
                sums=sums,
                terms=terms,
                settings=settings_digest(context.run_config),
                optimiser=server_optimiser,
                remembered=_remembered(context),
            )
        except SecAggError as error:
            return Message(pack(refused(str(error))), reply_to=message)
        delivery = _Delivered(message, context, call_next, sums=sums, weighted_by_key=weighted_by_key)
        reply = member.answer(parcel, delivery)
        context.state[_STATE] = ConfigRecord(
            {purpose.name: encode(memory) for purpose, memory in member.remembers.items()}
        )
        if member.learnt:
            context.state[_EVALUATION] = MetricRecord(dict(member.learnt[max(member.learnt)].items()))
        return Message(pack(reply), reply_to=message)

    return mod


class _Delivered:
    """One message's records, and the app that works on them."""

    def __init__(
        self,
        message: Message,
        context: Context,
        call_next: ClientAppCallable,
        *,
        sums: Mapping[Purpose, Parameters],
        weighted_by_key: str,
    ) -> None:
        self._message, self._context, self._call_next = message, context, call_next
        self._sums, self._weighted_by_key = sums, weighted_by_key
        self._shown = visible(message.content)

    def digest(self, withheld: Mapping[str, bytes]) -> bytes:
        metadata = self._message.metadata
        own = beside(metadata.message_type, metadata.group_id, settings_digest(self._context.run_config))
        if withheld.keys() & own.keys():  # a model under such a name would be bound by none
            raise VerificationError("a record was withheld under a name that is this library's own")
        return records_digest(records_of(self._shown), replaced={**withheld, **own})

    def arrays(self) -> tuple[Mapping[str, Any], bytes] | None:
        records = [record for record in records_of(self._shown).values() if record.kind is Kind.ARRAYS]
        if not records:
            return None
        return arrays_in(self._shown, "the server"), array_digest(records[0])

    def contribute(self, purpose: Purpose, model: Mapping[str, Any] | None, *, named: str) -> Contribution:
        if model is not None:
            self._shown = with_arrays(self._shown, model, named=named)
        # Before the app is called: it may train in the arrays that it was given, and answer with them.
        old: Mapping[str, Any] = {}
        if purpose is not Purpose.EVALUATE:
            old = arrays_in(self._shown, "the server") if model is None else model
        self._message.content = self._shown
        answer = self._call_next(self._message, self._context)
        if answer.has_error():
            raise ParameterError("the app answered with an error, see the log of this site")
        return contribution_of(
            None if purpose is Purpose.EVALUATE else arrays_in(answer.content, "the app"),
            self._metrics(answer),
            old=old,
            protocol=self._sums[purpose],
            weighted_by_key=self._weighted_by_key,
        )

    def _metrics(self, answer: Message) -> dict[str, Any]:
        records = [each for each in answer.content.values() if isinstance(each, MetricRecord)]
        if len(records) != 1:
            raise ParameterError(f"the app answers with {len(records)} MetricRecords; a strategy needs one")
        return dict(records[0].items())


def _remembered(context: Context) -> dict[Purpose, Memory]:
    record = context.state.get(_STATE)
    if not isinstance(record, ConfigRecord):
        return {}
    try:
        return {
            Purpose[name]: decode(Memory, value) for name, value in record.items() if isinstance(value, bytes)
        }
    except (DecodeError, KeyError):
        return {}
