"""The client's machine: one for every protocol.

It checks envelopes, answers a repeated message with the identical reply, refuses what breaks the protocol,
writes to the release log before a reply leaves, and saves and restores itself. The protocol's own table is
`ClientSteps.react`; nothing is committed until a step of it has succeeded.
"""

import hashlib
import os
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, Final

from protocols.identity import SERVER, Identity, Roster
from protocols.interface import Client, Learner, NeedUpdate, Policy, ReleaseLog, Reply, Sum, Update
from protocols.machine.guard import Guard, Guarded, guarded
from protocols.machine.reasons import OWN, described
from protocols.machine.suite import (
    Asked,
    ClientContext,
    Declined,
    OtherParametersError,
    Replied,
    Suite,
    UnknownKeyError,
)
from protocols.messages.envelope import (
    ACKNOWLEDGEMENT,
    REFUSAL,
    RESULT,
    STAGES,
    Envelope,
    Refusal,
    check_session,
    reply_stage,
)
from protocols.messages.schema import U8, U64, Body, Key32, Name, Size, UpTo, decode, encode, parts
from protocols.messages.sealing import open_state, seal_state
from secagg import labels
from secagg.entropy import Entropy
from secagg.errors import DecodeError, ParameterError, PeerViolation, RoundAborted, VerificationError
from secagg.secret import Secret
from secagg.standard.signing import SigningKey
from secagg.wire import Buffer, Piece, Writer

__all__ = ["KEPT_RESULTS", "ClientMachine", "Received", "Request"]

KEPT_RESULTS: Final = 4
"""Unopened results that a client keeps, and that a server keeps for a member who does not fetch them."""
MAXIMUM_ROUND: Final = (1 << 63) - 1
HEAD_BYTES: Final = 32
APART_BYTES: Final = 1 << 16
"""A reply that is longer need not be in the state."""
LOST: Final = bytes(32)
"""What no release has for a digest."""
FIND_THE_LOG: Final = (
    "find the log as this client left it; if it is lost for good, start this client afresh in a new session "
    "and do not continue this state"
)


@dataclass(frozen=True, slots=True)
class Request:
    """The body of whatever a server sends: results of earlier rounds, and the protocol's own message."""

    results: Annotated[tuple[Body, ...], UpTo(1024)]
    body: Body


@dataclass(frozen=True, slots=True)
class Received:
    """The body of an acknowledgement: the SHA-256 of each result that came."""

    results: Annotated[tuple[Key32, ...], UpTo(1024)]


@dataclass(frozen=True, slots=True)
class Answer:
    """An answered step: a repeated request gets the same reply.

    Attributes:
        request: SHA-256 of what was asked.
        reply: what was said; or its SHA-256, if it lies apart from the state.
        apart: whether it does.
    """

    request: Key32
    reply: bytes = field(repr=False)
    apart: bool = False


@dataclass(frozen=True, slots=True)
class Pending:
    """A request that waits for the update."""

    stage: U8
    request: Key32
    length: U64
    model: bytes


@dataclass(frozen=True, slots=True)
class Entry:
    """What this client wrote to its release log."""

    round: U64
    step: U64
    digest: Key32


@dataclass(frozen=True, slots=True)
class Logged:
    """The release log as a state knows it: which one, how many entries of this client it held, the last."""

    identity: Annotated[bytes, Size(16)]
    entries: U64
    last: Entry | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """Everything that a client remembers, as it is saved."""

    name: Name
    signing_key: Secret
    roster: tuple[tuple[Name, Key32], ...]
    session: Annotated[bytes, UpTo(64)]
    min_contributors: U64
    max_length: U64
    logged: Logged | None
    round: U64
    clipped: U64
    answers: dict[U8, Answer]
    pending: Pending | None
    results: tuple[bytes, ...]
    opened: dict[U64, Key32]
    failed: frozenset[Key32]
    state_kind: U8
    state: Secret


class ClientMachine(Guarded, Client):
    """See `protocols.interface.Client` for what it promises."""

    def __init__(
        self,
        suite: Suite,
        *,
        identity: Identity,
        roster: Roster,
        session: bytes,
        policy: Policy | None,
        entropy: Entropy = os.urandom,
    ) -> None:
        policy = policy or Policy()
        if identity.client not in roster or roster.public_key(identity.client) != identity.key.public_key:
            raise ParameterError(
                f"the roster does not hold {identity.client!r} with this identity's public key"
            )
        least = suite.requirements.min_contributors
        self._guard = Guard()
        self._suite = suite
        self._identity = identity
        self._roster = roster
        self._session = check_session(session)
        # With lengths: a slash may stand in either, and two clients must not share a place in one log.
        self._log_name = Writer().blob(session).text(identity.client).finish()
        self._min_contributors = (
            least if policy.min_contributors is None else max(least, policy.min_contributors)
        )
        self._max_length = policy.max_length
        self._log = policy.release_log
        self._last_entry: Entry | None = None
        self._entropy = entropy
        self._round = 0  # rounds are numbered from 1 inside: a message's number plus one
        self._answers: dict[int, Answer] = {}
        self._apart: Mapping[bytes, bytes] = {}  # replies that a restored state has the digests of, by these
        self._pending: Pending | None = None
        self._state: Any = suite.client.states[0]()
        self.refusal = None
        self.clipped = 0
        self.results = ()
        self._failed: frozenset[bytes] = frozenset()  # digests of results that did not verify
        self._opened: dict[int, bytes] = {}  # digest of the one result that was tried, by round

    # Messages

    @guarded
    def receive(self, message: Buffer) -> Reply | NeedUpdate:
        self.refusal = None
        number, stage = max(self._round - 1, 0), RESULT
        try:
            envelope = Envelope.decode(message)
            number, stage = envelope.round, envelope.stage
            self._check_header(envelope)
            digest = hashlib.sha256(message).digest()
            if (known := self._repeated(number, stage, digest)) is not None:
                self.refusal = _refusal_in(known)
                return known
            request = decode(Request, envelope.body)
            self._check_results(request)
            if stage == RESULT:
                self._take_results(request)
                received = tuple(hashlib.sha256(result).digest() for result in request.results)
                return self._envelope(number, ACKNOWLEDGEMENT, encode(Received(received)))
            return self._step(number, stage, digest, request)
        except OtherParametersError as error:  # whoever reads the refusal should not have to guess
            return self._refuse(number, stage, f"{error.reason}{OWN}{described(self._suite)}")
        except PeerViolation as error:
            return self._refuse(number, stage, error.reason, accused=error.culprit)
        except (DecodeError, VerificationError) as error:
            return self._refuse(number, stage, str(error))

    def _check_header(self, envelope: Envelope) -> None:
        if envelope.protocol != self._suite.code:
            raise DecodeError(
                f"a message of another protocol, number {envelope.protocol} on the wire; this client runs "
                f"{self._suite.name}, number {self._suite.code}"
            )
        if envelope.session != self._session:
            raise DecodeError("a message of another session")
        if envelope.sender != SERVER:
            raise DecodeError("a request that names another sender than the server")
        if envelope.round > MAXIMUM_ROUND:
            raise DecodeError(f"round {envelope.round}; rounds are numbered up to {MAXIMUM_ROUND}")
        if envelope.stage != RESULT and (
            envelope.stage % 2 or envelope.stage // 2 >= len(self._suite.requests)
        ):
            raise DecodeError("a message of a stage that no server sends")
        if envelope.round + 1 < self._round and envelope.stage != RESULT:
            raise DecodeError(f"a message of round {envelope.round}; round {self._round - 1} is under way")

    def _repeated(self, number: int, stage: int, digest: bytes) -> Reply | NeedUpdate | None:
        """What was said before to this very request; a different one for an answered step is refused."""
        if number + 1 != self._round:
            return None
        if (answer := self._answers.get(stage)) is not None:
            if answer.request == digest:
                return self._whole(answer).reply
            raise DecodeError("a different message for a step that was answered already")
        if self._pending is not None and self._pending.stage == stage:
            if self._pending.request == digest:
                return NeedUpdate(number, self._pending.length, self._pending.model)
            raise DecodeError("a different message for a step that waits for its update")
        return None

    def _step(self, number: int, stage: int, digest: bytes, request: Request) -> Reply | NeedUpdate:
        fresh = number + 1 > self._round
        steps = self._suite.client
        state = steps.idle(self._state) if fresh else self._state
        step = steps.react(
            self._context(number), state, decode(self._suite.requests[stage // 2], request.body)
        )
        if isinstance(step, Replied):
            reply = self._reply(number, stage, step)
            return self._release(number, stage, digest, step, reply, fresh=fresh, request=request)
        if isinstance(step, Declined):
            refusal = self._refusal(number, stage, step.reason, accused=step.accused, proof=step.proof)
            reply = self._release(number, stage, digest, step, refusal, fresh=fresh, request=request)
            self.refusal = self.refusal or step.reason
            return reply
        self._enter(number, step, fresh=fresh)
        self._take_results(request)
        self._pending = Pending(stage, digest, step.length, step.model)
        return NeedUpdate(number, step.length, step.model)

    @guarded
    def contribute(
        self,
        update: Update,
        *,
        weight: int = 1,
        metrics: Mapping[str, float] | None = None,
        head: bytes | None = None,
    ) -> Reply:
        pending = self._pending
        if pending is None:
            raise ParameterError("no update was asked for; contribute once after each NeedUpdate")
        context = replace(self._context(self._round - 1), head=self._head(head, pending))
        summand = self._suite.surface.encode(
            update, length=pending.length, weight=weight, metrics=metrics or {}, entropy=self._entropy
        )
        self.refusal = None
        number = self._round - 1
        try:
            step = self._suite.client.fold(context, self._state, summand)
            reply = self._reply(number, pending.stage, step)
            reply = self._release(
                number, pending.stage, pending.request, step, reply, fresh=False, request=None
            )
        except (PeerViolation, VerificationError, DecodeError) as error:
            return self._refuse(number, pending.stage, getattr(error, "reason", str(error)))
        if self.refusal is None:
            self.clipped = summand.clipped  # the blocks are made while the reply is written, not before
        return reply

    def _head(self, head: bytes | None, pending: Pending) -> bytes:
        """What an update answers."""
        if head is None:
            return hashlib.sha256(pending.model).digest()
        if self._suite.learns is not Learner.CLIENTS:
            raise ParameterError(
                f"{self._suite.name} tells the sum to the server: an update answers the model that came with "
                "the request; leave head out"
            )
        if type(head) is not bytes or len(head) != HEAD_BYTES:
            raise ParameterError(f"a head is {HEAD_BYTES} bytes, for example a digest of the model")
        return head

    def _reply(self, number: int, stage: int, step: Replied) -> Reply:
        return self._envelope(number, reply_stage(stage // 2), *parts(step.message))

    def _release(
        self,
        number: int,
        stage: int,
        digest: bytes,
        step: Replied | Declined,
        reply: Reply,
        *,
        fresh: bool,
        request: Request | None,
    ) -> Reply:
        """Commits a step: first to the log, which may know of a different release, then to the state."""
        release = self._release_digest(number, digest, reply)
        if not self._log_allows(number, stage, release):
            return self._refuse(
                number, stage, "this step was answered before by a later state of this client"
            )
        if step.spends is not None and not self._log_allows(step.spends, STAGES + stage, release):
            return self._refuse(
                number,
                stage,
                f"what round {step.spends} prepared for this step was used before by a later state of this "
                f"client, in whatever round",
            )
        self._enter(number, step, fresh=fresh)
        if request is not None:
            self._take_results(request)
        self._pending = None
        self._answers[stage] = Answer(digest, reply)
        return reply

    def _release_digest(self, number: int, digest: bytes, reply: bytes) -> bytes:
        """What the log remembers of this very reply to this very request; nothing where there is no log."""
        if self._log is None:
            return b""
        answered = hashlib.sha256(reply).digest()
        return hashlib.sha256(labels.RELEASE + number.to_bytes(8, "big") + digest + answered).digest()

    def _log_allows(self, number: int, step: int, release: bytes) -> bool:
        """Whether this release may leave: the log has none in its place, or this very one."""
        if self._log is None:
            return True
        if self._log.insert(self._log_name, number, step, release) != release:
            return False
        self._last_entry = Entry(number, step, release)
        return True

    def _enter(self, number: int, step: Replied | Asked | Declined, *, fresh: bool) -> None:
        if fresh:
            self._round = number + 1
            self._answers = {}
            self._pending = None
        self._state = step.state

    def _check_results(self, request: Request) -> None:
        """Nobody fills this client's memory with what is no result."""
        if request.results and self._suite.learns is not Learner.CLIENTS:
            raise DecodeError("a result, in a protocol whose clients learn none")
        for result in request.results:
            self._suite.client.round_of(self._context(0), result)

    def _take_results(self, request: Request) -> None:
        """Keeps what is new: a result that was opened, or that failed to, does not come back."""
        for result in request.results:
            digest = hashlib.sha256(result).digest()
            known = digest in self._opened.values() or digest in self._failed
            if not known and (copy := bytes(result)) not in self.results:
                self.results = (*self.results, copy)[-KEPT_RESULTS:]

    def _refuse(self, number: int, stage: int, reason: str, *, accused: str = SERVER) -> Reply:
        self.refusal = reason
        return self._refusal(number, stage, reason, accused=accused, proof=b"")

    def _refusal(self, number: int, stage: int, reason: str, *, accused: str, proof: bytes) -> Reply:
        said = f"{self._stage_name(stage)}: {reason}"[:1024]
        blamed = "" if accused == SERVER else accused  # the server hears of its own faults in words
        return self._envelope(number, REFUSAL, encode(Refusal(said, blamed, proof)))

    def _stage_name(self, stage: int) -> str:
        names = self._suite.exchanges
        return names[stage // 2] if stage // 2 < len(names) else "message"

    def _envelope(self, number: int, stage: int, *body: Piece) -> bytes:
        return Envelope(
            protocol=self._suite.code,
            session=self._session,
            round=number,
            stage=stage,
            sender=self._identity.client,
        ).encode(*body)

    def _context(self, number: int) -> ClientContext:
        return ClientContext(
            suite=self._suite,
            identity=self._identity,
            roster=self._roster,
            session=self._session,
            min_contributors=self._min_contributors,
            max_length=self._max_length,
            round=number,
            entropy=self._entropy,
        )

    # Results

    @guarded
    def open(self, result: Buffer) -> Sum:
        try:
            digest = hashlib.sha256(result).digest()
        except (TypeError, ValueError, BufferError):
            raise ParameterError("a result is a contiguous buffer of bytes") from None
        try:
            return self._open(digest, result)
        except DecodeError as error:
            if not isinstance(error, UnknownKeyError):
                self._done_with(digest)
            raise PeerViolation(f"a result that does not decode: {error}", culprit=SERVER) from error
        except VerificationError as error:
            raise PeerViolation(f"a result that does not verify: {error}", culprit=SERVER) from error
        except PeerViolation:
            self._done_with(digest)
            raise

    def _open(self, digest: bytes, result: Buffer) -> Sum:
        """Opens a result. Once the key was used on it, no other one of its round is tried."""
        steps, context = self._suite.client, self._context(max(self._round - 1, 0))
        number = steps.round_of(context, result)
        if self._opened.get(number, digest) != digest:
            raise PeerViolation(f"a second, different result of round {number}", culprit=SERVER)
        if digest in self._failed:
            raise PeerViolation(
                f"the result of round {number} did not verify, and is not tried again", culprit=SERVER
            )
        try:
            total = steps.open(self._context(number), self._state, result)
        except VerificationError:
            self._failed |= {digest}
            self._state = steps.failed(self._state)
            self._settle(number, digest)
            raise
        except RoundAborted:
            self._settle(number, digest)
            raise
        self._settle(number, digest)
        return replace(total, round=number, head=steps.head_of(context, result))

    def _settle(self, number: int, digest: bytes) -> None:
        self._opened[number] = digest
        self._done_with(digest)

    def _done_with(self, digest: bytes) -> None:
        self.results = tuple(each for each in self.results if hashlib.sha256(each).digest() != digest)

    # Saved states

    @guarded
    def export(self, *, key: Secret, apart: MutableMapping[bytes, bytes] | None = None) -> bytes:
        memory = Memory(
            name=self._identity.client,
            signing_key=self._identity.key.secret,
            roster=self._roster.keys,
            session=self._session,
            min_contributors=self._min_contributors,
            max_length=self._max_length,
            logged=self._logged(),
            round=self._round,
            clipped=self.clipped,
            answers=self._answers_in(apart),
            pending=self._pending,
            results=self.results,
            opened=self._opened,
            failed=self._failed,
            state_kind=self._suite.client.states.index(type(self._state)),
            state=Secret(encode(self._state)),
        )
        return seal_state(
            encode(memory), key=key, role="client", parameters=self._suite.digest, entropy=self._entropy
        )

    def _answers_in(self, apart: MutableMapping[bytes, bytes] | None) -> dict[int, Answer]:
        """The answers as they are saved: those that are large lie in `apart`, if there is one."""
        if apart is None:
            return {stage: self._whole(answer) for stage, answer in self._answers.items()}
        saved = {}
        for stage, answer in self._answers.items():
            saved[stage] = answer
            if not answer.apart and len(answer.reply) > APART_BYTES:
                digest = hashlib.sha256(answer.reply).digest()
                apart[digest] = answer.reply
                saved[stage] = Answer(answer.request, digest, apart=True)
        for digest in apart.keys() - {answer.reply for answer in saved.values() if answer.apart}:
            del apart[digest]  # of a round that is over
        return saved

    def _whole(self, answer: Answer) -> Answer:
        """An answer with its reply, wherever that lies."""
        if not answer.apart:
            return answer
        reply = self._apart.get(answer.reply)
        if reply is None or hashlib.sha256(reply).digest() != answer.reply:
            raise DecodeError("the reply to this step lay apart from this client's state, and is gone")
        return Answer(answer.request, reply)

    def _logged(self) -> Logged | None:
        if self._log is None:
            return None
        return Logged(self._log.identity, self._log.count(self._log_name), self._last_entry)

    def _check_log(self, saved: Logged | None) -> None:
        """A state goes on with its own log alone: an entry that is missing is a release that is forgotten."""
        if saved is None:
            return
        if self._log is None:
            raise ParameterError("this client wrote to a release log; pass the same one as release_log")
        if (found := self._log.identity) != saved.identity:
            raise ParameterError(
                f"this client wrote to another release log: its log is {saved.identity.hex()}, this one is "
                f"{found.hex()}; {FIND_THE_LOG}"
            )
        # More than the state saw is fine: the state is an older one, and the entries hold it to what it said.
        if (entries := self._log.count(self._log_name)) < saved.entries:
            raise ParameterError(
                f"the release log lost entries: it holds {entries}, the state saw {saved.entries}; it was "
                f"restored from an older copy; {FIND_THE_LOG}"
            )
        last = saved.last
        if last is not None and self._log.insert(self._log_name, last.round, last.step, LOST) != last.digest:
            # An older copy went on by as many others. That it lacked this one stands there from now on.
            raise ParameterError(
                "the release log lost the last entry that the state saw, whatever it got since; it was "
                f"restored from an older copy; {FIND_THE_LOG}"
            )
        self._last_entry = last

    @classmethod
    def restore(
        cls,
        suite: Suite,
        blob: Buffer,
        *,
        key: Secret,
        release_log: ReleaseLog | None,
        apart: Mapping[bytes, bytes] | None = None,
        entropy: Entropy,
    ) -> "ClientMachine":
        """The machine that `export` saved."""
        memory = decode(Memory, open_state(blob, key=key, role="client", parameters=suite.digest))
        machine = cls(
            suite,
            identity=Identity(memory.name, SigningKey.from_secret(memory.signing_key)),
            roster=Roster(memory.roster),
            session=memory.session,
            policy=Policy(
                min_contributors=memory.min_contributors,
                max_length=memory.max_length,
                release_log=release_log,
            ),
            entropy=entropy,
        )
        machine._check_log(memory.logged)
        machine._round = memory.round
        machine._answers, machine._apart = memory.answers, {} if apart is None else apart
        machine._pending = memory.pending
        machine._state = decode(suite.client.states[memory.state_kind], memory.state.reveal())
        machine.results = memory.results
        machine._opened = memory.opened
        machine._failed = memory.failed
        machine.clipped = memory.clipped
        return machine


def _refusal_in(reply: Reply | NeedUpdate) -> str | None:
    """The reason in a reply that was given before, if that was a refusal."""
    if isinstance(reply, NeedUpdate) or (envelope := Envelope.decode(reply)).stage != REFUSAL:
        return None
    return decode(Refusal, envelope.body).reason
