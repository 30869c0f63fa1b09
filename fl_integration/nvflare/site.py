"""The site's side: plain functions that train and evaluate, behind the one method that the server may call.

    def train(model, config):
        ...
        return model, {"num-examples": 303, "train-loss": 0.4}

    secure = secure_aggregation(PROTOCOL, by_site_files, train=train)

`secure` is what Collab publishes, in a module or as an attribute of an object; `train` is not. The functions
see numpy arrays by name and plain values by name, of which each round binds the digest; what leaves the site
is what changed, weighted by the examples, inside the sum. An exception of theirs stays here: NVFlare would
send its traceback to the caller, paths and values and all, so this method raises none.

An app that publishes anything else could be trained in the clear through it. So it is refused, by this site,
until the name is given as `in_the_clear`.
"""

import logging
from collections.abc import Callable, Mapping
from contextlib import suppress
from threading import Lock
from typing import Any, Final, TypeAlias

import numpy as np

from fl_integration.embedding.answers import contribution_of
from fl_integration.embedding.delivery import Contribution
from fl_integration.embedding.enrolment import Enrolment
from fl_integration.embedding.member import UNABLE, Member, Memory, refused
from fl_integration.embedding.parcels import DEFAULT_STUDY, Hello, Parcel, Purpose, decode_head, said
from fl_integration.embedding.records import array_digest, records_digest
from fl_integration.embedding.sums import (
    DEFAULT_WEIGHT,
    Ranges,
    names_of,
    optimiser_of,
    study_of,
    sums_of,
    terms_of,
)
from fl_integration.loop.optimisers import FedAvg, ServerOptimiser
from fl_integration.nvflare.carrier import DOOR, node_of, packed
from fl_integration.nvflare.engine import collab
from fl_integration.nvflare.here import Here
from fl_integration.nvflare.names import check_names
from fl_integration.nvflare.shown import ARRAYS, SETTINGS, arrays_of, config_of, records_of
from protocols.machine.parameters import Parameters
from secagg.errors import DecodeError, ParameterError, SecAggError, VerificationError

__all__ = ["Evaluate", "Train", "secure_aggregation"]

_LOG: Final = logging.getLogger("secagg")
_CLEAR: Final = "names of published methods, such as ('version',)"
_SERVER: Final = "server"
"""NVFlare's name of the party that runs `@collab.main`."""

Train: TypeAlias = Callable[[dict[str, Any], dict[str, Any]], tuple[Mapping[str, Any], Mapping[str, Any]]]
"""(arrays by name, configuration by name) to (new arrays by name, metrics by name)."""
Evaluate: TypeAlias = Callable[[dict[str, Any], dict[str, Any]], Mapping[str, Any]]
"""(arrays by name, configuration by name) to metrics by name."""
Learnt: TypeAlias = Callable[[Mapping[str, float]], None]


def secure_aggregation(
    protocol: Parameters,
    enrol: Callable[[str], Enrolment],
    *,
    train: Train,
    evaluate: Evaluate | None = None,
    study: str = DEFAULT_STUDY,
    evaluate_metrics: Ranges | None = None,
    weighted_by_key: str = DEFAULT_WEIGHT,
    in_the_clear: tuple[str, ...] = (),
    server_optimiser: ServerOptimiser = FedAvg(),
    on_evaluation: Learnt | None = None,
) -> Callable[..., Any]:
    """What a site publishes: give it a name in the module, or make it an attribute of the client's object.

    Args:
        protocol: the very parameters that the server has, such as `MaskedSum(max_weight=10_000)`. Its
            `metrics` names what of the training's metrics is summed; others stay at the site.
        enrol: called with the site's name for each message; says who this site is and where its state lies:
            `by_site_files`, or `Rehearsed(...).enrol` in a simulation. Another roster holds from then on,
            whether or not the server likes it. A key that is slow to open it opens once.
        train: what the site does in a round. The arrays are its own to change; it answers with arrays of the
            same names and shapes, and with the number of examples among its metrics.
        evaluate: how good a model is on the site's data; goes together with `evaluate_metrics`.
        study: names the training, as at the server.
        evaluate_metrics: metric of the evaluation -> (low, high), as at the server: an example-weighted
            secure sum of its own.
        weighted_by_key: where the metrics have the example count, a positive integer.
        in_the_clear: what else the app publishes and the server, and every other site, may call and read.
        server_optimiser: where the clients learn the sum: what turns each mean into a step, at every site
            alike. Where the server does, that is its main function's affair.
        on_evaluation: where the clients learn the sum: called with the means of each evaluation that this
            site opened.

    Raises:
        ParameterError: an argument can never work.
    """
    sums, name = sums_of(protocol, evaluate_metrics), study_of(study)
    for function, what in ((enrol, "enrol"), (train, "train")):
        if not callable(function):
            raise ParameterError(f"{what} is a {type(function).__name__}; it is a function")
    if (evaluate is None) != (evaluate_metrics is None) or not (evaluate is None or callable(evaluate)):
        raise ParameterError(
            "evaluate, a function, and evaluate_metrics, the ranges of its metrics, go together"
        )
    optimiser_of(server_optimiser, learns=protocol.learns, moves="main function")
    site = _Site(
        enrol,
        study=name,
        sums=sums,
        terms=terms_of(sums, weighted_by_key=weighted_by_key),
        functions={Purpose.TRAIN: train} | ({} if evaluate is None else {Purpose.EVALUATE: evaluate}),
        weighted_by_key=weighted_by_key,
        clear=names_of(in_the_clear, of=_CLEAR),
        optimiser=server_optimiser,
        on_evaluation=on_evaluation,
    )

    def secure(secagg_head: bytes, secagg_body: bytes, secagg_shown: Any = None) -> dict[str, bytes]:
        return packed(site.answer(secagg_head, secagg_body, secagg_shown))

    published: Callable[..., Any] = collab.publish(secure)
    return published


class _Site:
    """What stands behind the published method, from message to message."""

    def __init__(
        self,
        enrol: Callable[[str], Enrolment],
        *,
        study: bytes,
        sums: Mapping[Purpose, Parameters],
        terms: tuple[str, ...],
        functions: Mapping[Purpose, Callable[..., Any]],
        weighted_by_key: str,
        clear: frozenset[str],
        optimiser: ServerOptimiser,
        on_evaluation: Learnt | None,
    ) -> None:
        self._enrol, self._study, self._sums, self._terms = enrol, study, sums, terms
        self._functions, self._weighted_by_key, self._clear = functions, weighted_by_key, clear
        self._optimiser, self._on_evaluation = optimiser, on_evaluation
        # By site, because a simulator may run more than one in a process. NVFlare calls in threads, of which
        # one works on a state; a state ahead of what is remembered here was not restored from a backup.
        self._remembered: dict[str, dict[Purpose, Memory]] = {}
        self._remembering = Lock()

    def answer(self, head: object, body: object, shown: object) -> Parcel:
        """The reply to one call. It raises nothing."""
        try:
            return self._answer(head, body, shown)
        except (DecodeError, VerificationError) as error:
            why = said(str(error))  # it may quote the server, who would write lines of this log
            _LOG.warning("this site does not take part: %s", why)
            return refused(why)
        except SecAggError as error:  # of this site's own files, whose names are its own affair
            _LOG.warning("this site does not take part: %s", error)
        except (Exception, SystemExit) as error:  # noqa: BLE001 - NVFlare would send the server its traceback
            # No error: NVFlare sends a site's log of errors to the server, too.
            _LOG.warning("this site does not take part", exc_info=error)
        return refused(UNABLE)

    def _answer(self, head: object, body: object, shown: object) -> Parcel:
        if type(head) is not bytes or type(body) is not bytes:
            raise DecodeError("a parcel whose head or body is of another type")
        here = Here.now()
        if here.caller != _SERVER:
            raise VerificationError(f"{here.caller!r} calls; a site answers the server of its job alone")
        self._check_published(here)
        asked = decode_head(head)
        if isinstance(asked, Hello) and asked.node != node_of(here.name):
            raise VerificationError(f"a greeting for another site came to {here.name!r}")
        enrolment = self._enrolled(here.name)
        check_names(here, enrolment.identity.client)
        delivery = _Delivered(
            shown,
            here.settings(),
            functions=self._functions,
            sums=self._sums,
            weighted_by_key=self._weighted_by_key,
        )
        return self._reply(Parcel(head, body, shows=shown is not None), delivery, enrolment, here)

    def _enrolled(self, site: str) -> Enrolment:
        """A site's part in the study as it is now: a server that greets nobody again keeps no old roster."""
        try:
            enrolment = self._enrol(site)
        except SecAggError as error:  # its words are of this site's own files
            raise ParameterError(f"this site cannot enrol: {error}") from error
        if not isinstance(enrolment, Enrolment):
            raise ParameterError(f"enrol gave a {type(enrolment).__name__}; it gives an Enrolment")
        return enrolment

    def _reply(self, parcel: Parcel, delivery: "_Delivered", enrolment: Enrolment, here: Here) -> Parcel:
        member = Member(
            enrolment,
            study=self._study,
            sums=self._sums,
            terms=self._terms,
            settings=delivery.settings,
            optimiser=self._optimiser,
            remembered=self.remembered(here.name),
        )
        reply = member.answer(parcel, delivery)
        self.remember(here.name, member.remembers)
        if member.learnt and self._on_evaluation is not None:
            try:
                self._on_evaluation(dict(member.learnt[max(member.learnt)]))
            except (Exception, SystemExit) as error:  # noqa: BLE001 - the reply leaves: the state has it already
                _LOG.warning("on_evaluation failed", exc_info=error)
        return reply

    def remembered(self, site: str) -> Mapping[Purpose, Memory]:
        """What is known of a site's states, as it is now."""
        with self._remembering:
            return dict(self._remembered.get(site, {}))

    def remember(self, site: str, found: Mapping[Purpose, Memory]) -> None:
        """Keeps the later of what is known and what was found: two calls may end in another order than began.

        What one of them knew when it began would else take the place of what the other has stored since.
        """
        with self._remembering:
            kept = self._remembered.setdefault(site, {})
            for purpose, memory in found.items():
                if purpose not in kept or kept[purpose].counter < memory.counter:
                    kept[purpose] = memory

    def _check_published(self, here: Here) -> None:
        others = [name for name, parameters in here.published if parameters != DOOR]
        if strange := sorted({*others} - self._clear):
            raise VerificationError(
                f"this app publishes {strange[0]!r} beside its secure aggregation, which the server could "
                f"call in the clear; take @collab.publish away, or say in_the_clear=({strange[0]!r},)"
            )


class _Delivered:
    """One call's records, and the functions that work on them."""

    def __init__(
        self,
        shown: object,
        settings: bytes,
        *,
        functions: Mapping[Purpose, Callable[..., Any]],
        sums: Mapping[Purpose, Parameters],
        weighted_by_key: str,
    ) -> None:
        self.settings = settings
        self._records = records_of(shown)
        self._functions, self._sums, self._weighted_by_key = functions, sums, weighted_by_key

    def digest(self, withheld: Mapping[str, bytes]) -> bytes:
        if SETTINGS in withheld:  # a model under such a name would be bound by none
            raise VerificationError("a record was withheld under a name that is this library's own")
        return records_digest(self._records, replaced={**withheld, SETTINGS: self.settings})

    def arrays(self) -> tuple[Mapping[str, Any], bytes] | None:
        if ARRAYS not in self._records:
            return None
        record = self._records[ARRAYS]
        return arrays_of(record), array_digest(record)

    def contribute(self, purpose: Purpose, model: Mapping[str, Any] | None, *, named: str) -> Contribution:
        if model is None:
            delivered = self.arrays()
            if delivered is None:
                raise ParameterError("the server sends no model, and this site holds none")
            model = delivered[0]
        # A function may train in the arrays that it was given, and answer with them.
        given = {name: np.array(value) for name, value in model.items()}
        try:
            answer = self._functions[purpose](given, config_of(self._records))
        except SystemExit as error:  # it would end a thread of NVFlare's, and the server would wait for it
            raise ParameterError(f"the function for {purpose.name.lower()} ended its process") from error
        new, metrics = _arrays_and_metrics(answer) if purpose is Purpose.TRAIN else (None, _metrics(answer))
        return contribution_of(
            new,
            metrics,
            old=model,
            protocol=self._sums[purpose],
            weighted_by_key=self._weighted_by_key,
        )


def _arrays_and_metrics(answer: object) -> tuple[dict[str, Any], dict[str, Any]]:
    if not isinstance(answer, tuple) or len(answer) != 2 or not isinstance(answer[0], Mapping):
        raise ParameterError("train answers with a pair: arrays by name, and metrics by name")
    arrays = dict(answer[0])
    if odd := [name for name, each in arrays.items() if not isinstance(each, np.ndarray | np.generic)]:
        raise ParameterError(
            f"train answers with a {type(arrays[odd[0]]).__name__} as {odd[0]!r}; it answers with numpy "
            "arrays"
        )
    return {name: np.asarray(each) for name, each in arrays.items()}, _metrics(answer[1])


def _metrics(answer: object) -> dict[str, Any]:
    """Numbers by name; those of numpy and of torch as Python's own."""
    if not isinstance(answer, Mapping):
        raise ParameterError(f"metrics are a {type(answer).__name__}; they are numbers by name")
    found = dict(answer)
    for name, value in found.items():
        with suppress(AttributeError, ValueError, TypeError, RuntimeError):  # it is not one number
            found[name] = value.item()
    return found
