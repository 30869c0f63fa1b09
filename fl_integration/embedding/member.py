"""A site's half: parcels in, parcels out, its machines on disk in between.

An engine gives each message a process of its own, so nothing here lasts. `answer` opens the site's sealed
state, hands the message to the machine that it is for, lets the application train when the machine asks for
an update, stores the new state and only then returns the reply: what left this site is always behind what its
disk remembers (ATTACKS A14).

Before the application is called, the digest of all that it is about to see is made anew from what was
delivered, and must be the one that the round binds (A9): `Delivery.digest`.

A state that does not go on (the file is gone, or is not the one that the engine's own memory names) is a
fresh join in the same session: logged, and answered like any newcomer. The release log keeps it from saying
anything else than it said before. Without the log that a state knows it stops: see `Client` of the interface.

Why an application did not contribute stays at its site. The server chose the model, so which exception it
led to, where the first NaN is or how many examples there were is its question answered for one site alone
(D17). It hears that this site sits the round out; the log there, `logging.getLogger("secagg")`, says why.
"""

import hashlib
import logging
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field, replace
from typing import Annotated, Final

from fl_integration.embedding.admission import Ledger, check_version
from fl_integration.embedding.delivery import Delivery
from fl_integration.embedding.enrolment import Enrolment
from fl_integration.embedding.held_model import HeldModel, answered_head
from fl_integration.embedding.own_model import PENDING, Open, OwnModel, file_of, standing
from fl_integration.embedding.parcels import (
    Answer,
    Handover,
    Hello,
    Parcel,
    Place,
    Purpose,
    Refused,
    Step,
    decode_head,
    encode_head,
    purpose_session,
    said,
    sign_welcome,
)
from fl_integration.embedding.replies import KEPT_REPLIES, Replies
from fl_integration.loop.optimisers import ServerOptimiser
from fl_integration.site.sealed_folder import SealedFolder
from protocols.identity import Roster
from protocols.interface import Client, Learner, NeedUpdate, ReleaseLog
from protocols.machine.parameters import MachineProtocol
from protocols.membership import RosterVersion, session_id
from protocols.messages.schema import U64, Body, Key32, Name, UpTo, decode, encode
from protocols.planning.requirements import ceil_fraction
from secagg.errors import (
    DecodeError,
    ParameterError,
    PeerViolation,
    RoundAborted,
    SecAggError,
    VerificationError,
)

__all__ = ["SITS_OUT", "UNABLE", "Member", "Memory", "refused"]

_LOG: Final = logging.getLogger("secagg")
PATIENCE_SECONDS: Final = 30.0
_SPOILT: Final = "the state of this site is another one's or spoilt"
UNABLE: Final = "this site cannot take part; its own log says why"
SITS_OUT: Final = "this site sits the round out; its own log says why"


@dataclass(frozen=True, slots=True)
class SavedSession:
    """The session that a site takes part in, as it is saved once for each."""

    version: U64
    previous: Annotated[bytes, UpTo(32)]
    roster: tuple[tuple[Name, Key32], ...]
    epoch: U64
    session: Key32

    @property
    def roster_version(self) -> RosterVersion:
        """The version of the roster, without signatures."""
        return RosterVersion(Roster(self.roster), version=self.version, previous=self.previous)


@dataclass(frozen=True, slots=True)
class SavedMachine:
    """The machine for one purpose, as it is saved behind each message.

    The machine seals itself; the rest is no secret, and who changes it only makes this site join afresh.

    Attributes:
        counter: how often it was stored.
        session: in which session.
        replies: SHA-256 of what it sent that was large, and lies in files of its own.
        machine: its own state.
    """

    counter: U64
    session: Key32
    replies: Annotated[tuple[Key32, ...], UpTo(KEPT_REPLIES)]
    machine: Body = field(repr=False)


@dataclass(frozen=True, slots=True)
class Memory:
    """What the engine itself remembers of a machine's state: enough to see that the file is another one.

    Attributes:
        counter: how often it was stored.
        session: in which session.
        digest: of what was stored, 32 bytes.
    """

    counter: U64
    session: Key32
    digest: Key32


class Member:
    """One message's worth of a site.

    Args:
        enrolment: the site's part in the study.
        study: names the training.
        sums: the protocol for each purpose that this site takes part in.
        terms: what both sides must agree on, as texts.
        settings: digest (32 bytes) of the run's settings as the engine gave them to this site.
        optimiser: where clients learn the sum: what turns a mean into a step at each of them.
        remembered: what the engine remembers of the states, by purpose.
        clock: seconds since 1970.

    Attributes:
        remembers: what the engine should remember from now on.
        learnt: means of the evaluations that were opened here, by round; where clients learn the sum.
    """

    def __init__(
        self,
        enrolment: Enrolment,
        *,
        study: bytes,
        sums: Mapping[Purpose, MachineProtocol],
        terms: tuple[str, ...],
        settings: bytes,
        optimiser: ServerOptimiser,
        remembered: Mapping[Purpose, Memory] | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._enrolment, self._study, self._sums = enrolment, study, sums
        self._terms, self._settings, self._clock = terms, settings, clock
        self.remembers = dict(remembered or {})
        self.learnt: dict[int, dict[str, float]] = {}
        self._me = enrolment.identity.client
        self._learns = sums[Purpose.TRAIN].learns is Learner.CLIENTS
        self._share = max(protocol.suite.requirements.corrupt_fraction for protocol in sums.values())
        self._own = OwnModel(enrolment, optimiser=optimiser, corrupt_share=self._share)

    def answer(self, parcel: Parcel, delivery: Delivery) -> Parcel:
        """The reply to one parcel of the server. It never raises for what a parcel says: it refuses."""
        try:
            head = decode_head(parcel.head)
            if isinstance(head, Hello | Step | Handover):
                with ExitStack() as stack:
                    files = self._enrolment.files()
                    stack.enter_context(files.alone(self._me, patience=PATIENCE_SECONDS))
                    log = stack.enter_context(self._enrolment.opened_log())
                    return self._answer(head, parcel, delivery, files, log)
            raise DecodeError("a head that no server sends")
        except ParameterError as error:  # of this site's own disk and folders, whose names are its own affair
            _LOG.warning("%s does not take part: %s", self._me, error)
            return refused(UNABLE)
        except SecAggError as error:
            why = said(str(error))  # it may quote the server, who would write lines of this log
            _LOG.warning("%s does not take part: %s", self._me, why)
            return refused(why)
        except Exception as error:  # noqa: BLE001 - an engine would tell the server its text, paths and all
            # No error: an engine may send a site's log of errors to the server, and NVFlare does.
            _LOG.warning("%s does not take part", self._me, exc_info=error)
            return refused(UNABLE)

    def _answer(
        self,
        head: Hello | Step | Handover,
        parcel: Parcel,
        delivery: Delivery,
        files: SealedFolder,
        log: ReleaseLog,
    ) -> Parcel:
        if head.place.study != self._study:
            raise VerificationError(
                f"the server's study is {head.place.study!r}, this site's {self._study!r}; both sides name it"
            )
        check_version(self._enrolment.version, head.place)
        if isinstance(head, Hello):
            self._check_terms(head.terms)
        session = self._admit(head.place, files, log)
        here = Open(session, files, log)
        if isinstance(head, Hello):
            welcome = sign_welcome(
                head, self._enrolment.identity, settings=self._settings, copy=standing(self._held(here))
            )
            return Parcel(encode_head(welcome))
        if isinstance(head, Handover):
            if not self._learns:
                raise VerificationError("under this protocol no site has a model to hand over")
            return self._own.errand(head, parcel, delivery, here)
        return self._step(head, parcel, delivery, here)

    def _check_terms(self, theirs: tuple[str, ...]) -> None:
        if theirs != self._terms:
            pairs = zip(theirs, self._terms, strict=False)
            one, other = next(
                ((a, b) for a, b in pairs if a != b), (f"{len(theirs)} terms", f"{len(self._terms)} terms")
            )
            raise VerificationError(
                f"the server goes by {one}, this site by {other}; both sides name the same"
            )

    # The session

    def _admit(self, place: Place, files: SealedFolder, log: ReleaseLog) -> bytes:
        """The id of the session at `place`, if this site takes part in it."""
        mine = self._enrolment.version
        ledger = Ledger(log, study=self._study, client=self._me, clock=self._clock)
        held = self._entered(files, ledger)
        if held is not None:
            self._check_line(held.roster_version)
            at, open_here = (place.version, place.epoch), (held.version, held.epoch)
            if at < open_here or (at == open_here and ledger.last is None):
                why = (
                    "lost that entry: find the log, or let the server open a new session"
                    if ledger.last is None
                    else "closed all before it"
                )
                raise VerificationError(
                    f"a session over version {place.version} of the roster, epoch {place.epoch}, was asked "
                    f"for; this site's state is of version {held.version}, epoch {held.epoch}, and its "
                    f"release log {why}"
                )
        admitted = ledger.admit(place, mine, most=self._enrolment.max_sessions)
        if held is None or held.session != admitted.session:
            kept = SavedSession(
                version=mine.version,
                previous=mine.previous,
                roster=mine.roster.keys,
                epoch=admitted.epoch,
                session=admitted.session,
            )
            files.write(self._me, encode(kept))
            for purpose in Purpose:  # their session is closed
                self._forget(purpose, files)
            files.remove(self._file(PENDING))
            _LOG.info(
                "%s enters session %s, over version %d of the roster (%s)",
                self._me, admitted.session.hex()[:8], mine.version, mine.fingerprint,
            )  # fmt: skip
        return admitted.session

    def _entered(self, files: SealedFolder, ledger: Ledger) -> SavedSession | None:
        """The session that this site's own file names; None if there is none to go by."""
        try:
            data = files.read(self._me)
            if data is None:
                return None
            saved = decode(SavedSession, data)
        except (DecodeError, VerificationError):
            if ledger.last is None:  # with neither of the two anything that was closed would open again
                raise
            _LOG.warning("%s: %s; it joins afresh", self._me, _SPOILT)
            return None
        if saved.session != session_id(self._study, saved.roster_version, saved.epoch):
            # Or the sessions of two studies would close each other, and one's model stand for the other's.
            raise VerificationError("the state folder of this site is another study's; each has its own")
        return saved

    def _check_line(self, held: RosterVersion) -> None:
        """The enrolment's roster is the one that this site held, or follows it, signed by a quorum."""
        mine = self._enrolment.version
        if mine.digest == held.digest:
            return
        if mine.version <= held.version:
            raise VerificationError(
                f"this site took part under version {held.version} of the roster ({held.fingerprint}); it "
                f"does not go back to version {mine.version} ({mine.fingerprint}); all who start anew with "
                "that one name another study, and give each site another state_dir"
            )
        line = [each for each in self._enrolment.earlier if held.version < each.version < mine.version]
        for each in (*line, mine):
            each.check_succeeds(held, corrupt=ceil_fraction(self._share, len(held.roster)))
            held = each

    # A message of the protocol

    def _step(
        self,
        head: Step,
        parcel: Parcel,
        delivery: Delivery,
        here: Open,
    ) -> Parcel:
        try:
            purpose = Purpose(head.purpose)
            protocol = self._sums[purpose]
        except (ValueError, KeyError):
            raise VerificationError("a sum for a purpose that this site takes no part in") from None
        saved = self._saved(purpose, here)
        machine = self._machine(protocol, purpose, here, saved)
        held = self._held(here)
        stood = None if held is None else held.standing
        reply, failure, contributed = machine.receive(parcel.body), "", False
        if self._learns:
            self._learn(purpose, machine, held, head.shown)
        if isinstance(reply, NeedUpdate):
            bound = delivery.digest(head.withheld) == reply.model
            if (
                self._learns
                and bound
                and (held is None or not self._own.began(held, delivery, head.withheld))
            ):
                begun, stood = self._own.begin(delivery, instead_of=held), None
                self._own.set_aside(None if begun is None else held, here)
                held = begun
                self._learn(purpose, machine, held, head.shown)  # the sums since then may be waiting here
            reply, failure = self._contribute(machine, reply, head, delivery, held, bound=bound)
            contributed = not failure
        if held is not None and held.standing != stood:
            # Before the machine: it does not open a sum again.
            self._own.write(held, here)
        self._store(purpose, here, machine, before=saved)
        if machine.refusal is not None:
            _LOG.warning("%s refuses: %s", self._me, said(machine.refusal))
        elif machine.clipped and purpose is Purpose.TRAIN and contributed:
            _LOG.warning(
                "%s: %d values of its update were outside the protocol's clip, and were clipped: pass a "
                "larger clip=", self._me, machine.clipped,
            )  # fmt: skip
        return Parcel(encode_head(Answer(standing(held), failure)), reply)

    def _contribute(
        self,
        machine: Client,
        asked: NeedUpdate,
        head: Step,
        delivery: Delivery,
        held: HeldModel | None,
        *,
        bound: bool,
    ) -> tuple[bytes, str]:
        """The reply to a request for an update, and why there is none."""
        if not bound:
            # Another client may have been shown this round's digest and its records; this one was not.
            return b"", "what was delivered here is not what the round binds: it was shown to nobody"
        if self._learns and held is None:
            return b"", "it holds no model, and the arrays to begin from did not travel"
        if head.withheld and not self._own.holds(head.withheld, delivery, held):
            return b"", "a record was withheld that is not the model which this site holds"
        if held is not None and held.own.stranded:
            return b"", "the others moved on by sums that it cannot open; it waits for a peer's copy"
        try:
            made = delivery.contribute(
                Purpose(head.purpose),
                None if held is None else held.arrays(),
                named=next(iter(head.withheld), ""),
            )
            answered = None if held is None else answered_head(held.own.base, asked.model)
            return (
                machine.contribute(made.update, weight=made.weight, metrics=made.metrics, head=answered),
                "",
            )
        except SecAggError as error:
            _LOG.warning("%s sits round %d out: %s", self._me, asked.round, error)
        except Exception as error:  # noqa: BLE001 - whatever an application raises keeps its own site out alone
            _LOG.warning("%s sits round %d out", self._me, asked.round, exc_info=error)
        return b"", SITS_OUT

    # The model, where clients learn the sum

    def _held(self, here: Open) -> HeldModel | None:
        return self._own.read(here) if self._learns else None

    def _learn(
        self, purpose: Purpose, machine: Client, held: HeldModel | None, shown: Mapping[int, bytes]
    ) -> None:
        """Opens what arrived: sums of updates move the model, sums of evaluations are told to this site."""
        if purpose is Purpose.TRAIN:
            if held is not None and held.catch_up(machine, shown):
                _LOG.info("%s opened a sum and moved its model", self._me)
            return
        for result in machine.results:
            with suppress(PeerViolation, RoundAborted, ParameterError):  # it told nothing
                total = machine.open(result)
                self.learnt[total.round or 0] = total.metrics
                _LOG.info("%s opened an evaluation", self._me)

    # The state

    def _file(self, what: str) -> str:
        return file_of(self._me, what)

    def _forget(self, purpose: Purpose, files: SealedFolder) -> None:
        """Removes a machine's state, and what lies apart from it."""
        name = self._file(purpose.name)
        with suppress(DecodeError):
            if (data := files.get(name)) is not None:
                Replies(files, name, decode(SavedMachine, data).replies).drop()
        files.remove(name)

    def _saved(self, purpose: Purpose, here: Open) -> SavedMachine | None:
        """The machine's state; None for a fresh join."""
        known = self.remembers.get(purpose)
        try:
            data = here.files.get(self._file(purpose.name))
            saved = None if data is None else decode(SavedMachine, data)
        except DecodeError:
            _LOG.warning("%s: %s; it joins afresh", self._me, _SPOILT)
            return None
        if known is not None and known.session != here.session:
            known = None  # of a session that was closed
        if saved is None or saved.session != here.session:
            if known is not None:
                _LOG.warning("%s: the state of this site is gone; it joins afresh", self._me)
            return None
        # The file may be ahead: a process that died behind its last store. Never behind, never another one.
        if known is not None and (
            saved.counter < known.counter
            or (saved.counter == known.counter and hashlib.sha256(data or b"").digest() != known.digest)
        ):
            _LOG.warning("%s: the state of this site is an older or another one; it joins afresh", self._me)
            self._forget(purpose, here.files)
            return None
        return saved

    def _machine(
        self,
        protocol: MachineProtocol,
        purpose: Purpose,
        here: Open,
        saved: SavedMachine | None,
    ) -> Client:
        if saved is not None:
            try:
                return protocol.restore_client(
                    saved.machine,
                    key=self._enrolment.sealing_key,
                    release_log=here.log,
                    apart=Replies(here.files, self._file(purpose.name), saved.replies),
                )
            except VerificationError:
                _LOG.warning("%s: %s; it joins afresh", self._me, _SPOILT)
        return protocol.client(
            identity=self._enrolment.identity,
            roster=self._enrolment.version.roster,
            session=purpose_session(here.session, purpose),
            policy=replace(self._enrolment.policy, release_log=here.log),
        )

    def _store(
        self,
        purpose: Purpose,
        here: Open,
        machine: Client,
        *,
        before: SavedMachine | None,
    ) -> None:
        known = self.remembers.get(purpose)
        counter = 1 + max(0 if each is None else each.counter for each in (known, before))
        stood = Replies(here.files, self._file(purpose.name), () if before is None else before.replies)
        apart = dict.fromkeys(stood.digests, b"")
        exported = machine.export(key=self._enrolment.sealing_key, apart=apart)
        replies = stood.followed_by(apart)  # before the state, which names them
        data = encode(SavedMachine(counter, here.session, replies.digests, memoryview(exported)))
        here.files.put(self._file(purpose.name), data)
        stood.drop(but=replies.digests)
        self.remembers[purpose] = Memory(counter, here.session, hashlib.sha256(data).digest())


def refused(reason: str) -> Parcel:
    """The parcel by which a site says why it does not take part."""
    return Parcel(encode_head(Refused(said(reason))))
