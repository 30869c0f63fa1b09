"""The server's machine: one for every protocol.

It keeps the books of a round: who was asked, who answered with what, who was lost and why, who contributed,
and it signs the record at the end. It never trusts a message: decoding, sender, session, round and step are
checked before a protocol's own `ServerSteps` see it, and a message counts whole or not at all. Many threads
may hand messages in at once; see `guard`.
"""

import bisect
import hashlib
import os
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from protocols.identity import SERVER, ClientId, Identity, Roster
from protocols.interface import Learner, Outcome, Round, Server
from protocols.machine.client import Received, Request
from protocols.machine.guard import Guard, Guarded, guarded
from protocols.machine.mailbox import Mailbox
from protocols.machine.reasons import REFUSED, compared, summarised
from protocols.machine.server_memory import Ending, Memory, SavedSum, Status
from protocols.machine.suite import Finished, LeftOutError, Opened, ServerContext, Suite
from protocols.messages.envelope import (
    ACKNOWLEDGEMENT,
    REFUSAL,
    RESULT,
    STAGES,
    Envelope,
    Refusal,
    check_session,
    request_stage,
)
from protocols.messages.record import RoundRecord, SignedRecord, Transcript
from protocols.messages.schema import MAXIMUM_BYTES, Parts, Stream, decode, encode, parts
from protocols.messages.sealing import open_state, seal_state
from secagg.entropy import Entropy
from secagg.errors import DecodeError, ParameterError, PeerViolation, RoundAborted, VerificationError
from secagg.secret import Secret
from secagg.standard.signing import SigningKey
from secagg.wire import Buffer

__all__ = ["ServerMachine"]

EMPTY_ROUND = Round(0, (), 1)
PATIENCE = 8
"""Rounds that a sum is put off at most, whatever the plan: in a large cohort somebody is always missing."""
KEPT_SUMS = 16
"""Contributors of so many sums that moved nobody are remembered, the latest."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What an answer is checked against, outside the guard.

    Attributes:
        exchange: which one it was, among all of the session.
        state, context, kind: what the protocol's check takes, and the answer's type.
    """

    exchange: int
    state: Any
    context: ServerContext
    kind: type


def _digest(model: bytes) -> bytes:
    return hashlib.sha256(model).digest()


class ServerMachine(Guarded, Server):
    """See `protocols.interface.Server` for what it promises."""

    def __init__(
        self,
        suite: Suite,
        *,
        roster: Roster,
        session: bytes,
        identity: Identity | None,
        entropy: Entropy = os.urandom,
    ) -> None:
        self._guard = Guard()
        self._suite = suite
        self._roster = roster
        self._session = check_session(session)
        self._entropy = entropy
        self._key = identity.key if identity is not None else SigningKey.generate(entropy)
        self._round = EMPTY_ROUND
        self._cohort: frozenset[ClientId] = frozenset()
        self._rounds = 0  # number of the latest round plus one
        self._status = Status.IDLE
        self._exchange = 0
        self._opened = 0  # exchanges so far, of all rounds: what was checked for one counts in no other
        self._expected: frozenset[ClientId] = frozenset()
        self._answered: dict[ClientId, bytes] = {}
        self._seen: set[tuple[ClientId, bytes]] = set()
        self._seen_before: set[tuple[ClientId, bytes]] = set()
        self._dropped: dict[ClientId, str] = {}
        self._culprits: frozenset[ClientId] = frozenset()
        self._ever_culprits: frozenset[ClientId] = frozenset()
        self._seen_sums: dict[bytes, tuple[frozenset[ClientId], ...]] = {}  # by what they answered
        self._put_off = 0
        self._lost: frozenset[ClientId] | None = (
            None  # the keys of `_dropped`, made when a step asks for them
        )
        self._contributors: frozenset[ClientId] = frozenset()
        self._transcript = Transcript()
        self._mailbox = Mailbox(roster.members)
        self._carried: dict[ClientId, tuple[int, ...]] = {}
        self._ending: Ending | None = None
        self._state: Any = suite.server.states[0]()

    @property
    @guarded
    def collecting(self) -> bool:
        return self._collects()

    def _collects(self) -> bool:
        return self._status is Status.OPEN and self._exchange == self._suite.collecting

    # A round's life

    @guarded
    def start(self, round: Round) -> dict[ClientId, bytes]:
        cohort = self._check_round(round)
        steps = self._suite.server
        checked = Round(round.number, cohort, round.length, round.model)
        opened = steps.begin(self._context(checked), steps.idle(self._state), cohort)
        if self._status is Status.OPEN and (shown := self._shown()):  # that one is given up
            self._remember(_digest(self._round.model) if self._round.model else b"", shown)
        self._round, self._cohort, self._rounds = checked, frozenset(cohort), round.number + 1
        self._status, self._ending = Status.OPEN, None
        self._dropped, self._lost, self._contributors = {}, None, frozenset()
        self._culprits = frozenset()
        self._seen_before, self._seen, self._carried = self._seen, set(), {}
        self._transcript = Transcript()
        return self._enter(opened, start=True)

    def _shown(self) -> frozenset[ClientId]:
        """Whose sum must be taken for seen in the open round: of those for whom shares are being revealed."""
        revealing = self._suite.collecting < self._exchange == len(self._suite.exchanges) - 1
        return self._contributors if revealing else frozenset()

    def _check_round(self, round: Round) -> tuple[ClientId, ...]:
        """The cohort in the roster's order; everything that can be wrong with a round is said here."""
        if type(round.number) is not int or not self._rounds <= round.number < 1 << 63:
            raise ParameterError(
                f"round {round.number!r}; the next round's number is at least {self._rounds}"
            )
        cohort = self._roster.order(round.cohort)
        if len(cohort) != len(tuple(round.cohort)):
            raise ParameterError("a client stands in the cohort twice")
        least = self._suite.requirements.min_contributors
        if len(cohort) < least:
            raise ParameterError(
                f"a cohort of {len(cohort)}, min_contributors is {least}: ask more clients, or pass "
                f"Requirements(min_contributors={max(2, len(cohort))}) and read what it reveals"
            )
        if len(cohort) > self._suite.max_clients:
            raise ParameterError(
                f"a cohort of {len(cohort)}, max_clients is {self._suite.max_clients}; "
                f"pass max_clients={len(cohort)}"
            )
        if type(round.length) is not int or round.length < 1:
            raise ParameterError(f"a length of {round.length!r}; an update has at least one value")
        surface = self._suite.surface
        surface.check_length(round.length)
        if not self._carries(round.length):
            longest = bisect.bisect_left(range(1, round.length), True, key=lambda n: not self._carries(n))
            raise ParameterError(
                f"a round of {round.length} values; {self._suite.name} with these parameters carries up to "
                f"{longest} in a message. Split the update, and sum its parts in rounds of their own"
            )
        if type(round.model) is not bytes:
            raise ParameterError(f"a round's model is bytes, not {type(round.model).__name__}")
        self._suite.plan(len(cohort), len(self._roster))
        return cohort

    def _carries(self, length: int) -> bool:
        """Whether a vector of this length fits a message."""
        surface = self._suite.surface
        elements = surface.elements(length)
        try:
            size = self._suite.server.body_bytes(elements, packed=surface.ring.packed_size(elements))
        except ParameterError:  # it says so in the words of a room further in
            return False
        return size <= MAXIMUM_BYTES

    def _enter(self, opened: Opened, *, start: bool = False) -> dict[ClientId, bytes]:
        """Opens an exchange; one encoding serves all who get the same request."""
        self._state, self._exchange, self._answered = opened.state, opened.exchange, {}
        self._opened += 1
        self._carried = {}
        asked = {client: body for client, body in opened.requests.items() if client not in self._dropped}
        self._expected = frozenset(asked)
        encoded: dict[tuple[int, tuple[int, ...]], bytes] = {}
        outbox: dict[ClientId, bytes] = {}
        for client, request in asked.items():
            owed = self._mailbox.waiting(client) if start else ()
            if owed:
                self._carried[client] = owed
            kind = (id(request), owed)
            if kind not in encoded:
                encoded[kind] = self._request(request_stage(opened.exchange), owed, parts(request))
            outbox[client] = encoded[kind]
        if start:
            outbox.update(self._deliver(except_to=self._expected))
        return outbox

    def _request(self, stage: int, owed: tuple[int, ...], body: Parts) -> bytes:
        """A message of these results and this body; both are copied once, into it."""
        request = Request(self._mailbox.views(owed), Stream.of(body))
        return Envelope(
            protocol=self._suite.code,
            session=self._session,
            round=self._round.number,
            stage=stage,
            sender=SERVER,
        ).encode(*parts(request))

    @guarded
    def advance(self) -> dict[ClientId, bytes]:
        if self._status is Status.DONE:
            return {}
        if self._status is Status.ABORTED:
            raise self._aborted()
        if self._status is Status.IDLE:
            raise ParameterError("no round was started; call start first")
        try:
            return self._close()
        except BaseException:
            # An interrupt, or memory that ran out: sums change in place, and a second try would be false.
            if self._status is Status.OPEN:
                name = self._suite.exchanges[self._exchange]
                self._abort(f"interrupted while {name} was closed", opened=self._shown())
            raise

    def _close(self) -> dict[ClientId, bytes]:
        """Closes the open exchange with whoever answered it."""
        name = self._suite.exchanges[self._exchange]
        for client in sorted(self._expected - set(self._answered) - set(self._dropped)):
            self._lose(client, f"did not answer in {name}")
        self._transcript.absorb(self._exchange, self._answered)
        if self._exchange == self._suite.collecting:
            self._contributors = present = frozenset(self._answered)
        else:
            present = frozenset(self._answered) - set(self._dropped)
        try:
            least = self._suite.requirements.min_contributors
            if self._collects() and len(present) < least:
                raise RoundAborted(
                    f"{len(present)} contributors, at least {least} are needed before anything is opened"
                )
            if self._collects() and self._suite.learns is Learner.SERVER:
                self._put_off_near(_digest(self._round.model) if self._round.model else b"", present)
            step = self._suite.server.close(self._context(self._round), self._state, present)
            if isinstance(step, Finished) and step.result is not None:
                named = step.head != _digest(self._round.model)  # which is what no application says
                self._put_off_near(step.head if named else b"", present.difference(step.left_out))
        except RoundAborted as error:
            for culprit in error.culprits:
                self._blame(culprit, error.reason)
            self._abort(self._summary(error.reason, name, present), opened=error.opened)
            raise self._aborted() from error
        if isinstance(step, Opened):
            if (
                step.requests.keys() <= self._dropped.keys()
            ):  # an empty outbox would say that the round is over
                self._state = step.state
                reason = f"nobody is left to ask in {self._suite.exchanges[step.exchange]}"
                self._abort(self._summary(reason, name, present))
                raise self._aborted()
            return self._enter(step)
        self._finish(step)
        return {}

    def _summary(self, reason: str, exchange: str, present: frozenset[ClientId]) -> str:
        """Why the round is aborted, with what became of those who were asked."""
        return summarised(
            reason,
            exchange=exchange,
            answered=len(present),
            cohort=self._round.cohort,
            dropped=self._dropped,
        )

    def _put_off_near(self, answered: bytes, contributors: frozenset[ClientId]) -> None:
        """Aborts if the sum of these would differ by one client, or few, from one that somebody saw.

        That one was for the same model, for it moved nobody: it was refused, or spoilt, though not for who
        spoilt it. Their difference would tell the update of whoever is in one of them only (ATTACKS A10);
        whose own fault that is does not count. So the round waits for those who are missing, once more than
        there may be liars that make others be missing, but not for ever; then the training goes on.
        """
        plan = self._context(self._round).plan(len(self._round.cohort))
        apart = max(self._suite.requirements.min_contributors, plan.corrupt + 2)
        patience = min(plan.corrupt + 1, PATIENCE)
        seen = self._seen_sums.get(answered, ())
        missing = [each.symmetric_difference(contributors) - self._ever_culprits for each in seen]
        if any(0 < len(each) < apart for each in missing) and self._put_off < patience:
            self._put_off += 1
            raise RoundAborted(
                f"a sum for this model was seen, and refused or spoilt; one of these contributors would tell "
                f"their difference, of fewer than {apart} clients: put off ({self._put_off} of {patience})"
            )
        if self._suite.learns is Learner.CLIENTS:  # nobody here will know whether it opened
            self._remember(answered, contributors)

    @guarded
    def remember(
        self,
        contributors: Collection[ClientId],
        *,
        culprits: Collection[ClientId] = (),
        model: bytes = b"",
        head: bytes = b"",
    ) -> None:
        seen, guilty = (frozenset(self._roster.order(each)) for each in (contributors, culprits))
        self._remember(head or (_digest(model) if model else b""), seen)
        self._ever_culprits |= guilty

    def _remember(self, answered: bytes, contributors: frozenset[ClientId]) -> None:
        """A sum that may be seen without moving anybody."""
        if not answered:
            return
        if answered not in self._seen_sums:
            self._seen_sums, self._put_off = {}, 0
        before = [each for each in self._seen_sums.get(answered, ()) if each != contributors]
        self._seen_sums[answered] = (*before, contributors)[-KEPT_SUMS:]

    def _finish(self, step: Finished) -> None:
        if self._suite.learns is Learner.SERVER:
            self._seen_sums, self._put_off = {}, 0
        for client, reason in step.left_out.items():
            self._lose(client, reason)
        self._contributors = self._contributors.difference(step.left_out)
        record = self._sign("", opened=True)
        self._state, self._status = self._suite.server.idle(step.state), Status.DONE
        total = None if step.total is None else SavedSum.of(step.total, round=self._round.number)
        self._ending = Ending(total=total, result=step.result, record=record, reason="")
        if step.result is not None:
            self._mailbox.put(self._round.number, step.result)

    def _abort(self, reason: str, *, opened: frozenset[ClientId] = frozenset()) -> None:
        self._status = Status.ABORTED  # first: whatever else can be done or not, this round has no sum
        self._contributors = opened
        if opened:
            self._remember(_digest(self._round.model) if self._round.model else b"", opened)
        record = self._sign(reason, opened=bool(opened))
        self._state = self._suite.server.idle(self._state)
        self._ending = Ending(total=None, result=None, record=record, reason=record.record.aborted)

    def _sign(self, aborted: str, *, opened: bool) -> SignedRecord:
        plan = self._suite.server.plan(self._context(self._round), self._state)
        return SignedRecord.sign(
            RoundRecord(
                protocol=self._suite.code,
                parameters=self._suite.digest,
                session=self._session,
                round=self._round.number,
                length=self._round.length,
                model=hashlib.sha256(self._round.model).digest(),
                cohort=self._round.cohort,
                contributors=self._contributors,
                dropped=self._dropped,
                culprits=self._culprits,
                opened=opened,
                degree=plan.degree,
                threshold=plan.threshold,
                ring_bits=plan.ring_bits,
                roster=len(self._roster),
                corrupt=plan.corrupt,
                transcript=self._transcript.digest(),
                aborted=aborted[:2048],
            ),
            self._key,
        )

    def _aborted(self) -> RoundAborted:
        if self._ending is None:
            return RoundAborted("interrupted", culprits=self._culprits)
        return RoundAborted(self._ending.reason, culprits=self._culprits, opened=self._contributors)

    @guarded
    def outcome(self) -> Outcome:
        if self._status is Status.ABORTED:
            raise self._aborted()
        if self._ending is None:
            raise ParameterError("no round has ended; run one to its empty outbox first")
        total = None if self._ending.total is None else self._ending.total.restore()
        return Outcome(
            round=self._round.number,
            contributors=self._contributors,
            dropped=dict(self._dropped),
            culprits=self._culprits,
            total=total,
            result=self._ending.result,
            record=self._ending.record,
        )

    @guarded
    def record(self) -> SignedRecord:
        if self._ending is None:
            raise ParameterError("no round has ended; run one to its empty outbox first")
        return self._ending.record

    def _lose(self, client: ClientId, reason: str) -> None:
        """Puts a client out of the open round; the first reason stands."""
        self._dropped.setdefault(client, reason[:2048])
        self._lost = None

    def _blame(self, client: ClientId, reason: str) -> None:
        """The same for who broke the protocol."""
        self._culprits |= {client}
        self._ever_culprits |= {client}
        self._lose(client, reason)

    # Results that only clients open

    @guarded
    def deliver(self) -> dict[ClientId, bytes]:
        return self._deliver(except_to=frozenset())

    def _deliver(self, *, except_to: frozenset[ClientId]) -> dict[ClientId, bytes]:
        owed = {
            client: waiting
            for client in self._roster.members
            if (waiting := self._mailbox.waiting(client)) and client not in except_to
        }
        encoded = {waiting: self._request(RESULT, waiting, ()) for waiting in set(owed.values())}
        return {client: encoded[waiting] for client, waiting in owed.items()}

    # Messages

    def receive(self, sender: ClientId, message: Buffer) -> None:
        round = self._open_round()  # what a bad message may cost its sender, if it is still open then
        if sender not in self._roster:
            raise PeerViolation(
                "a message of a stranger; the roster does not hold this id", culprit=str(sender)
            )
        try:
            digest = hashlib.sha256(message).digest()
        except (TypeError, ValueError, BufferError):
            raise self._expel(round, sender, "a message that is no contiguous buffer of bytes") from None
        if self._passes_over(sender, digest):
            return
        try:
            envelope = Envelope.decode(message)
        except DecodeError as error:
            raise self._expel(round, sender, str(error)) from error
        if self._is_late(round, sender, envelope):
            # An honest straggler must not lose this round for an earlier one, or be blamed for being late.
            raise PeerViolation(
                f"a message of an earlier round or exchange; this is round {round.number}", culprit=sender
            )
        try:
            self._take(sender, envelope, digest)
        except LeftOutError as error:
            raise self._leave_out(round, sender, error.reason) from error
        except (DecodeError, VerificationError) as error:
            raise self._expel(round, sender, str(error)) from error
        except PeerViolation as error:
            raise self._expel(round, sender, error.reason) from error

    @guarded
    def _open_round(self) -> Round:
        return self._round

    @guarded
    def _passes_over(self, sender: ClientId, digest: bytes) -> bool:
        return self._is_known(sender, digest)

    def _is_known(self, sender: ClientId, digest: bytes) -> bool:
        return (sender, digest) in self._seen or (sender, digest) in self._seen_before

    def _is_late(self, round: Round, sender: ClientId, envelope: Envelope) -> bool:
        ours = envelope.protocol == self._suite.code and envelope.session == self._session
        named = envelope.sender == sender and envelope.stage != ACKNOWLEDGEMENT
        return ours and named and (envelope.round < round.number or self._is_too_late(sender, envelope))

    @guarded
    def _is_too_late(self, sender: ClientId, envelope: Envelope) -> bool:
        """Whether this answers an exchange of the open round that went on without it."""
        now = self._status is Status.OPEN and envelope.round == self._round.number
        if not now or envelope.stage % 2 == 0 or envelope.stage >= STAGES:
            return False
        lost = sender in self._dropped and sender not in self._expected  # others were asked in its place
        open_now = request_stage(self._exchange) + 1
        return envelope.stage < open_now or (envelope.stage == open_now and lost)

    def _take(self, sender: ClientId, envelope: Envelope, digest: bytes) -> None:
        """Takes a message, whole or not at all.

        What can be said of an answer without the others is found out between the two guarded parts, so that
        threads pay. It counts for the exchange that was open then; in another one, the answer is late.
        """
        while (asked := self._ask_about(sender, envelope, digest)) is not None:
            reply: Any = decode(asked.kind, envelope.body)
            checked = self._suite.server.check(asked.context, asked.state, sender, reply)
            if self._commit(sender, envelope, digest, asked, checked):
                return

    @guarded
    def _ask_about(self, sender: ClientId, envelope: Envelope, digest: bytes) -> "Asked | None":
        """What an answer that the open exchange waits for is checked against; None if it is none."""
        state = self._state
        if not self._admit(sender, envelope, digest):
            return None
        kind = self._suite.replies[self._exchange]
        return Asked(self._opened, state, self._context(self._round), kind)

    @guarded
    def _commit(
        self, sender: ClientId, envelope: Envelope, digest: bytes, asked: "Asked", checked: Any
    ) -> bool:
        """Takes a checked answer; False if another exchange is open by now than it was checked for."""
        if self._admit(sender, envelope, digest):
            if self._opened != asked.exchange:
                return False
            self._absorb(sender, checked, digest)
        return True

    def _admit(self, sender: ClientId, envelope: Envelope, digest: bytes) -> bool:
        """Whether this is an answer that the open exchange waits for; deals with what is none."""
        if self._is_known(sender, digest):
            return False
        if envelope.sender != sender:
            raise DecodeError("a message in another party's name")
        if envelope.protocol != self._suite.code:
            raise DecodeError(
                f"a message of another protocol, number {envelope.protocol} on the wire; this server runs "
                f"{self._suite.name}, number {self._suite.code}"
            )
        if envelope.session != self._session:
            raise DecodeError("a message of another session")
        if envelope.round != self._round.number and envelope.stage != ACKNOWLEDGEMENT:
            raise DecodeError(f"a message for round {envelope.round}; this is round {self._round.number}")
        if envelope.stage == ACKNOWLEDGEMENT:
            self._mailbox.acknowledged(sender, decode(Received, envelope.body).results)
            return False
        if self._status is not Status.OPEN:
            raise DecodeError("a message after the round's end")
        if sender not in self._cohort:
            raise DecodeError("a message of a client that this round did not ask")
        if envelope.stage == REFUSAL:
            refusal = decode(Refusal, envelope.body)
            if sender not in self._dropped:
                self._judge(sender, refusal)
            return False
        if envelope.stage != request_stage(self._exchange) + 1:
            raise DecodeError(f"a message of another step than {self._suite.exchanges[self._exchange]}")
        if sender in self._answered:
            raise DecodeError("a different message for a step that was answered already")
        if sender not in self._expected or sender in self._dropped:
            raise DecodeError("a message of a client that is not asked in this exchange")
        return True

    def _judge(self, sender: ClientId, refusal: Refusal) -> None:
        """Loses a client that refuses, and whoever is shown to have made it refuse."""
        judged = self._suite.server.refused(self._context(self._round), self._state, sender, refusal)
        self._state = judged.state
        for culprit, reason in judged.culprits.items():
            self._blame(culprit, reason)
        self._lose(sender, f"{REFUSED}{compared(self._suite, refusal.reason)}")

    def _absorb(self, sender: ClientId, checked: Any, digest: bytes) -> None:
        try:
            self._state = self._suite.server.absorb(self._context(self._round), self._state, sender, checked)
        except (DecodeError, VerificationError, PeerViolation):
            raise  # nothing was changed
        except BaseException:
            # A signal, or memory that ran out: a part of this vector may be in the sum, and no sum is false.
            self._abort(f"a message of {sender!r} was interrupted while it was taken in")
            raise
        self._answered[sender] = digest
        self._seen.add((sender, digest))
        self._mailbox.arrived(sender, self._carried.pop(sender, ()))

    @guarded
    def _expel(self, round: Round, sender: ClientId, reason: str) -> PeerViolation:
        """Puts a culprit out of the round in which its message came, if that is open."""
        if self._round is round and self._status is Status.OPEN and sender in self._cohort:
            self._blame(sender, reason)
        return PeerViolation(reason, culprit=sender)

    @guarded
    def _leave_out(self, round: Round, sender: ClientId, reason: str) -> PeerViolation:
        """The same for who is not to blame."""
        if self._round is round and self._status is Status.OPEN and sender in self._cohort:
            self._lose(sender, reason)
        return PeerViolation(reason, culprit=sender)

    def _context(self, round: Round) -> ServerContext:
        if self._lost is None:
            self._lost = frozenset(self._dropped)
        return ServerContext(
            suite=self._suite,
            roster=self._roster,
            session=self._session,
            round=round,
            dropped=self._lost if round is self._round else frozenset(),
            entropy=self._entropy,
        )

    # Saved states

    @guarded
    def export(self, *, key: Secret) -> bytes:
        state = self._suite.server.freeze(self._context(self._round), self._state)
        memory = Memory(
            signing_key=self._key.secret,
            roster=self._roster.keys,
            session=self._session,
            rounds=self._rounds,
            cohort=self._round.cohort,
            length=self._round.length,
            model=self._round.model,
            status=self._status.value,
            exchange=self._exchange,
            expected=self._expected,
            answered=self._answered,
            seen=frozenset(self._seen),
            seen_before=frozenset(self._seen_before),
            dropped=self._dropped,
            culprits=self._culprits,
            ever_culprits=self._ever_culprits,
            seen_sums=self._seen_sums,
            put_off=self._put_off,
            contributors=self._contributors,
            transcript=self._transcript.digest(),
            results=self._mailbox.results,
            owed=self._mailbox.owed,
            carried=self._carried,
            ending=self._ending,
            state_kind=self._suite.server.states.index(type(state)),
            state=Secret(encode(state)),
        )
        return seal_state(
            encode(memory), key=key, role="server", parameters=self._suite.digest, entropy=self._entropy
        )

    @classmethod
    def restore(cls, suite: Suite, blob: Buffer, *, key: Secret, entropy: Entropy) -> "ServerMachine":
        """The machine that `export` saved."""
        saved = decode(Memory, open_state(blob, key=key, role="server", parameters=suite.digest))
        identity = Identity("record", SigningKey.from_secret(saved.signing_key))
        machine = cls(
            suite, roster=Roster(saved.roster), session=saved.session, identity=identity, entropy=entropy
        )
        machine._rounds = saved.rounds
        machine._round = Round(max(saved.rounds - 1, 0), saved.cohort, saved.length, saved.model)
        machine._cohort = frozenset(saved.cohort)
        machine._status = Status(saved.status)
        machine._exchange = saved.exchange
        machine._expected, machine._answered = saved.expected, saved.answered
        machine._seen, machine._seen_before = set(saved.seen), set(saved.seen_before)
        machine._dropped, machine._contributors = saved.dropped, saved.contributors
        machine._culprits, machine._ever_culprits = saved.culprits, saved.ever_culprits
        machine._seen_sums, machine._put_off = saved.seen_sums, saved.put_off
        machine._transcript = Transcript(saved.transcript)
        machine._mailbox = Mailbox(machine._roster.members, results=saved.results, owed=saved.owed)
        machine._carried = saved.carried
        machine._ending = saved.ending
        machine._state = suite.server.thaw(
            decode(suite.server.states[saved.state_kind], saved.state.reveal())
        )
        return machine
