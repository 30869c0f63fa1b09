"""What one protocol brings to the shared machines: its messages and its pure steps.

A protocol is two tables of pure steps over frozen states:

* `ClientSteps.react(context, state, request)` is the table of legal (state, request) pairs. It returns
  `Replied`, `Asked` or `Declined`, or raises what makes the client refuse.
* `ServerSteps.begin`, `check`, `absorb` and `close` open a round, look at one answer by itself, take it, and
  close an exchange with whoever answered; `close` returns `Opened` or `Finished`, or raises `RoundAborted`.
  `refused` judges a refusal.

The machines (`client`, `server`) do everything that does not depend on the protocol.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from protocols.identity import ClientId, Identity, Roster
from protocols.interface import Learner, Round, Sum
from protocols.machine.summand import Summand, Surface
from protocols.messages.envelope import Refusal
from protocols.planning.requirements import Plan, Requirements
from secagg.entropy import Entropy
from secagg.errors import DecodeError, ParameterError, PeerViolation
from secagg.secret import Secret
from secagg.wire import Buffer

__all__ = [
    "Asked",
    "ClientContext",
    "ClientSteps",
    "Declined",
    "Finished",
    "Judged",
    "LeftOutError",
    "Opened",
    "OtherParametersError",
    "Replied",
    "ServerContext",
    "ServerSteps",
    "Suite",
    "UnknownKeyError",
    "check_length",
    "check_request",
]


@dataclass(frozen=True, slots=True)
class Replied:
    """A client's step that answers with a message.

    Attributes:
        state: the state behind this step. A `Stream` in the message has not run yet when it is made.
        message: the answer.
        spends: the number of the round in which the material that this release uses up was prepared: it is
            released once, whatever round asks. None where a release uses up nothing but its own round's.
    """

    state: Any
    message: Any
    spends: int | None = None


@dataclass(frozen=True, slots=True)
class Asked:
    """A client's step that needs an update of `length` values first; `fold` will finish it."""

    state: Any
    length: int
    model: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Declined:
    """A client's step that refuses because of another client's bytes, and reveals something to prove it.

    What it reveals is a release as any other: the log hears of it first, and nothing else uses up the same.

    Attributes:
        state: the state behind this step.
        reason, accused, proof: as in `Refusal`.
        spends: as in `Replied`.
    """

    state: Any
    reason: str
    accused: ClientId
    proof: bytes = field(repr=False)
    spends: int | None = None


class LeftOutError(PeerViolation):
    """A contribution that cannot be in this sum, through no fault that can be shown."""


class OtherParametersError(PeerViolation):
    """A request of a server with other public parameters."""


class UnknownKeyError(DecodeError):
    """A result under a key that this client does not hold, and may be given later."""


@dataclass(frozen=True, slots=True)
class Judged:
    """What a server makes of a refusal.

    Attributes:
        state: the state behind it.
        culprits: whose fault it is, and how that is known; who refused is named here if it lied.
    """

    state: Any
    culprits: Mapping[ClientId, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Opened:
    """A server's step: the exchange that is open now, and each party's request in it."""

    state: Any
    exchange: int
    requests: Mapping[ClientId, Any]


@dataclass(frozen=True, slots=True)
class Finished:
    """A server's last step of a round. Exactly one of `total` and `result` is there.

    `left_out` are those who answered the collecting exchange and are not in the sum, and why. `head` is what
    a result answers.
    """

    state: Any
    total: Sum | None = None
    result: bytes | None = None
    left_out: Mapping[ClientId, str] = field(default_factory=dict)
    head: bytes = b""


@dataclass(frozen=True, slots=True, kw_only=True)
class Suite:
    """One protocol with its parameters, as the machines see it.

    Attributes:
        code: the protocol's number on the wire.
        name: the protocol's public name.
        learns: who learns the sum.
        surface: the numbers that are summed.
        max_clients: the largest cohort.
        digest: SHA-256 of the public parameters; every request carries it (ATTACKS A13).
        exchanges: the names of all exchanges, by their number on the wire.
        collecting: the number of the one that asks for updates.
        requests, replies: the message type of each exchange, down and up.
        plan: from the sizes of a cohort and of the roster that it was chosen from.
        public: the public parameters by name, as people write them; `digest` is what is compared.
    """

    code: int
    name: str
    learns: Learner
    surface: Surface
    requirements: Requirements
    max_clients: int
    digest: bytes
    exchanges: tuple[str, ...]
    collecting: int
    requests: tuple[type, ...]
    replies: tuple[type, ...]
    client: "ClientSteps"
    server: "ServerSteps"
    plan: Callable[[int, int], Plan]
    public: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientContext:
    """What a client's step may look at beside its state and the request."""

    suite: Suite
    identity: Identity
    roster: Roster
    session: bytes
    min_contributors: int
    max_length: int
    round: int
    entropy: Entropy
    head: bytes = b""
    """While an update is folded, what it answers."""

    @property
    def me(self) -> ClientId:
        """This client's id."""
        return self.identity.client

    def plan(self, n: int) -> Plan:
        """This client's own plan for a cohort of n from its roster: no numbers that a server may choose."""
        return self.suite.plan(n, len(self.roster))


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerContext:
    """What a server's step may look at beside its state. `dropped`: the clients lost in this round so far."""

    suite: Suite
    roster: Roster
    session: bytes
    round: Round
    dropped: frozenset[ClientId]
    entropy: Entropy

    def plan(self, n: int) -> Plan:
        """The plan for a cohort of n from the roster."""
        return self.suite.plan(n, len(self.roster))


class ClientSteps(ABC):
    """The client's half of a protocol. `states[0]` is the type of the state before the first message."""

    states: ClassVar[tuple[type, ...]]

    @abstractmethod
    def idle(self, state: Any) -> Any:
        """The state between rounds: what outlives a round, without the round's secrets."""

    @abstractmethod
    def react(self, context: ClientContext, state: Any, request: Any) -> Replied | Asked | Declined:
        """One row of the table. Raises what makes the client refuse; a `PeerViolation` names whose fault."""

    @abstractmethod
    def fold(self, context: ClientContext, state: Any, summand: Summand) -> Replied:
        """Finishes an `Asked` step with the encoded update; goes through it once."""

    def common_secret(self, state: Any) -> Secret | None:
        """What all clients hold and the server does not; None where there is no such thing."""
        return None

    def round_of(self, context: ClientContext, result: Buffer) -> int:
        """The round that a result says it belongs to; only where the clients learn the sum."""
        raise ParameterError(
            f"{context.suite.name} tells the sum to the server; clients have nothing to open"
        )

    def head_of(self, context: ClientContext, result: Buffer) -> bytes:
        """What the updates in a result answered, by its word; only where the clients learn the sum."""
        return b""

    def open(self, context: ClientContext, state: Any, result: Buffer) -> Sum:
        """The sum inside a result, checked.

        Raises:
            VerificationError: the key was needed to see that it is wrong.
            DecodeError: it was not; `UnknownKeyError` where it may open under another key than this client's.
            RoundAborted: it is authentic, and no sum of honest summands.
            ParameterError: this client has no key yet.
        """
        raise ParameterError(
            f"{context.suite.name} tells the sum to the server; clients have nothing to open"
        )

    def failed(self, state: Any) -> Any:
        """The state behind an opening that ended in a `VerificationError`."""
        return state


class ServerSteps(ABC):
    """The server's half of a protocol. `states[0]` is the type of the state before the first round."""

    states: ClassVar[tuple[type, ...]]

    @abstractmethod
    def idle(self, state: Any) -> Any:
        """The state between rounds."""

    @abstractmethod
    def begin(self, context: ServerContext, state: Any, cohort: tuple[ClientId, ...]) -> Opened:
        """Opens a round for a checked cohort, in the roster's order."""

    def check(self, context: ServerContext, state: Any, sender: ClientId, reply: Any) -> Any:
        """What can be said of a decoded answer without the others: signatures, shapes, commitments.

        It changes nothing, and reads of `state` only what stands as long as the exchange is open: many
        threads may be here at once, beside one in `absorb`. Raises what makes the sender a culprit; returns
        what `absorb` takes.
        """
        return reply

    @abstractmethod
    def absorb(self, context: ServerContext, state: Any, sender: ClientId, reply: Any) -> Any:
        """Takes one checked answer whole or raises; the next state. Bulk buffers may be updated in place."""

    @abstractmethod
    def close(self, context: ServerContext, state: Any, present: frozenset[ClientId]) -> Opened | Finished:
        """Ends the open exchange with those who answered it well. May raise `RoundAborted`."""

    def plan(self, context: ServerContext, state: Any) -> Plan:
        """The plan that the round runs under, for its record."""
        return context.plan(len(context.round.cohort))

    def head_of(self, reply: Any) -> bytes:
        """What a decoded contribution answers, where the clients learn the sum: only equals are summed."""
        return b""

    def heads(self, state: Any) -> frozenset[bytes]:
        """The heads that are being summed."""
        return frozenset([b""])

    def body_bytes(self, count: int, *, packed: int) -> int:
        """Upper bound of a vector of `count` ring elements in a message; `packed` is its size bit-packed."""
        return packed

    def refused(self, context: ServerContext, state: Any, client: ClientId, refusal: Refusal) -> Judged:
        """Judges the refusal of `client`, which is lost in this round."""
        return Judged(state)

    def freeze(self, context: ServerContext, state: Any) -> Any:
        """`state` as one of `states`, all fields encodable; most states are so already."""
        return state

    def thaw(self, state: Any) -> Any:
        """The inverse of `freeze`."""
        return state


def check_request(
    context: ClientContext, *, parameters: bytes, cohort: tuple[ClientId, ...], length: int
) -> None:
    """What every protocol's client checks when a round is announced to it.

    Raises:
        OtherParametersError: the parties were given different parameters.
        PeerViolation: a cohort that is not canonical, too small, too large or without this
            client, one in which the corrupt clients of the whole roster would be too many (ATTACKS D1), or a
            length that this client does not contribute.
    """
    suite = context.suite
    if parameters != suite.digest:
        raise OtherParametersError(
            "the server runs other protocol parameters than this client", culprit="server"
        )
    try:
        canonical = context.roster.order(cohort) == cohort
    except ParameterError as error:
        raise PeerViolation(str(error), culprit="server") from None
    if not canonical:
        raise PeerViolation("a cohort that is not in the roster's order", culprit="server")
    if context.me not in cohort:
        raise PeerViolation("a cohort without this client", culprit="server")
    if not context.min_contributors <= len(cohort) <= suite.max_clients:
        raise PeerViolation(
            f"a cohort of {len(cohort)}; this client takes part among {context.min_contributors} to "
            f"{suite.max_clients}",
            culprit="server",
        )
    try:
        context.plan(len(cohort))
    except ParameterError as error:
        raise PeerViolation(str(error), culprit="server") from None
    check_length(context, length)


def check_length(context: ClientContext, length: int) -> None:
    """Raises `PeerViolation` for a number of values that this client does not contribute."""
    if not 1 <= length <= context.max_length:
        raise PeerViolation(
            f"{length} values were asked for, 1 to {context.max_length} are given", culprit="server"
        )
    try:
        context.suite.surface.check_length(length)
    except ParameterError as error:
        raise PeerViolation(str(error), culprit="server") from None
