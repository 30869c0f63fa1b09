"""Tooling that the attacks share: a stage for parties that misbehave, and an adversary's view of a round.

An attack is worth a test only if it can succeed. So each one runs twice: on a copy with one thing taken away
(steps with a check removed, a seed cut short, one key set for two purposes), where it must work, and on the
library as it is, where it must not. `Stage` makes both copies: `steps` and `machine` put a party's own code
in place of the library's, and `request` writes whatever a server could write.

`Stage.open` plays an honest round up to an exchange and stops there. What the attacker then knows is what a
curious server has: its own states, which `Curious` remembers, and every message on the wire.
"""

from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from protocols import Identity, NeedUpdate, Outcome, PeerViolation, Policy, Roster, Round, Sum
from protocols.client_machine import ClientMachine, Request
from protocols.envelope import REFUSAL, RESULT, Envelope, request_stage
from protocols.identity import SERVER
from protocols.masked.client import MaskedClientSteps
from protocols.masked.keys import mask_private_key, pair_mask_seed, self_mask_seed
from protocols.masked.messages import MaskedInput, SelfMaskShare, Unmask
from protocols.masked.server import MaskedServerSteps
from protocols.parameters import MachineProtocol
from protocols.schema import decode, encode
from protocols.server_machine import ServerMachine
from protocols.suite import ClientContext, ClientSteps, Finished, Opened, Replied, ServerContext, ServerSteps
from secagg.agreement import PrivateKey
from secagg.entropy import SeededEntropy
from secagg.masking import apply_masks
from secagg.secret import Secret
from secagg.shamir import Share, combine

T = TypeVar("T")
Vector = NDArray[Any]
Hook = Callable[[int, str, bytes], bytes | None]
"""(exchange, client, message) to what arrives instead; None for nothing."""

LENGTH = 24


@dataclass(frozen=True)
class Wire:
    """One message: to `client` where `down`, from it otherwise."""

    down: bool
    exchange: int
    client: str
    message: bytes


@dataclass
class Stage:
    """All parties of one session.

    Args:
        protocol: whose machines they are.
        names: the clients, in the roster's order.
        steps: for a client, the steps that it runs in place of the protocol's.
        server_steps: the same for the server.
        machine: for a client, the machine class in place of the library's.
        server_machine: the same for the server.
        policies: what a client insists on.
        seed: separates the randomness of stages.
    """

    protocol: MachineProtocol
    names: Iterable[str] = "abcd"
    steps: Mapping[str, ClientSteps] = field(default_factory=dict)
    server_steps: ServerSteps | None = None
    machine: Mapping[str, type[ClientMachine]] = field(default_factory=dict)
    server_machine: type[ServerMachine] = ServerMachine
    policies: Mapping[str, Policy] = field(default_factory=dict)
    seed: bytes = b"stage"

    def __post_init__(self) -> None:
        self.names = tuple(self.names)
        self.identities = {name: Identity.generate(name, entropy=self.entropy(name)) for name in self.names}
        self.roster = Roster.of(*self.identities.values())
        self.session = self.entropy("session")(16)
        suite = self.protocol.suite
        self.server = self.server_machine(
            replace(suite, server=self.server_steps or suite.server),
            roster=self.roster,
            session=self.session,
            identity=None,
            entropy=self.entropy("server"),
        )
        self.clients = {name: self.join(name) for name in self.names}
        self.wire: list[Wire] = []
        self.number = -1

    def entropy(self, purpose: str) -> SeededEntropy:
        return SeededEntropy(self.seed, purpose.encode())

    def join(self, name: str) -> ClientMachine:
        """A fresh machine for `name`."""
        suite = self.protocol.suite
        return self.machine.get(name, ClientMachine)(
            replace(suite, client=self.steps.get(name, suite.client)),
            identity=self.identities[name],
            roster=self.roster,
            session=self.session,
            policy=self.policies.get(name),
            entropy=self.entropy(f"machine/{name}"),
        )

    # Honest rounds, up to where they are spoilt

    def play(self, updates: Mapping[str, Vector], **spoilt: Any) -> Outcome:
        """One round to its end; arguments are those of `open`."""
        self.open(updates, until=None, **spoilt)
        return self.server.outcome()

    def open(
        self,
        updates: Mapping[str, Vector],
        *,
        until: int | None,
        weights: Mapping[str, int] | None = None,
        model: bytes = b"",
        gone: Mapping[str, int] | None = None,
        request: Hook | None = None,
        reply: Hook | None = None,
    ) -> dict[str, bytes]:
        """Plays a round until exchange `until` is open, and returns its requests, undelivered.

        Args:
            updates: the cohort, and what each member contributes.
            gone: for a client, the exchange from which on it neither hears nor answers.
            request, reply: see and replace messages.
        """
        self.number += 1
        self.wire = []
        length = len(next(iter(updates.values())))
        outbox = self.server.start(Round(self.number, tuple(updates), length, model))
        while outbox:
            for name, message in outbox.items():
                exchange = Envelope.decode(message).stage // 2
                if exchange == until:
                    return outbox
                if (gone or {}).get(name, 1 << 10) <= exchange:
                    continue
                arrived = message if request is None else request(exchange, name, message)
                if arrived is None:
                    continue
                self.wire.append(Wire(True, exchange, name, arrived))
                answer = self.tell(name, arrived, updates.get(name), weight=(weights or {}).get(name, 1))
                back = answer if reply is None else reply(exchange, name, answer)
                if back is None:
                    continue
                self.wire.append(Wire(False, exchange, name, back))
                with suppress(PeerViolation):
                    self.server.receive(name, back)
            outbox = self.server.advance()
        return {}

    def tell(self, name: str, message: bytes, update: Vector | None = None, *, weight: int = 1) -> bytes:
        """What a client answers; with an update, should it be asked for one."""
        answer = self.clients[name].receive(message)
        if isinstance(answer, NeedUpdate):
            assert update is not None
            answer = self.clients[name].contribute(update, weight=weight)
        return answer

    # A server that writes what it likes

    def request(self, exchange: int, body: Any, *, round: int | None = None) -> bytes:
        """A server's message; `body` is a dataclass, or bytes as they are."""
        return Envelope(
            protocol=self.protocol.suite.code,
            session=self.session,
            round=self.number if round is None else round,
            stage=request_stage(exchange),
            sender=SERVER,
            body=encode(Request((), memoryview(body if isinstance(body, bytes) else encode(body)))),
        ).encode()

    def results(self, *results: bytes, round: int | None = None) -> bytes:
        """A server's message that carries results."""
        return Envelope(
            protocol=self.protocol.suite.code,
            session=self.session,
            round=max(self.number, 0) if round is None else round,
            stage=RESULT,
            sender=SERVER,
            body=encode(Request(tuple(memoryview(each) for each in results), memoryview(b""))),
        ).encode()

    # What a curious server has

    @property
    def view(self) -> Any:
        """The server's last state of the round, kept by `Curious` where the round is over."""
        steps = self.server._suite.server
        return steps.seen[-1] if isinstance(steps, Curious) and steps.seen else self.server._state

    def answers(self, exchange: int, kind: type[T]) -> dict[str, T]:
        """The clients' answers of the round so far."""
        return {
            each.client: body_of(kind, each.message)
            for each in self.wire
            if each.exchange == exchange and not each.down and not refused(each.message)
        }

    def read(self, words: Vector) -> Sum:
        """One client's vector, read as if it were a sum of one; `RoundAborted` where it cannot be one."""
        return self.protocol.suite.surface.decode(words, frozenset({"alone"}))

    def words(self, packed: Any, length: int = LENGTH) -> Vector:
        """A vector's words from the wire."""
        surface = self.protocol.suite.surface
        return surface.ring.unpack(packed, surface.elements(length))


def updates_of(names: Iterable[str], length: int = LENGTH, *, seed: int = 1) -> dict[str, Vector]:
    """One vector a client, uniform within the clip."""
    generator = np.random.default_rng(seed)
    return {name: generator.uniform(-1, 1, length) for name in names}


def body_of(kind: type[T], message: bytes) -> T:
    """What is inside an envelope."""
    return decode(kind, Envelope.decode(message).body)


def request_of(kind: type[T], message: bytes) -> T:
    """What is inside a server's request."""
    return decode(kind, body_of(Request, message).body)


def rewrite(message: bytes, body: Any) -> bytes:
    """The same envelope around another body."""
    return replace(Envelope.decode(message), body=encode(body)).encode()


def refused(answer: object) -> bool:
    """Whether a client's answer is a refusal and nothing else."""
    return isinstance(answer, bytes) and Envelope.decode(answer).stage == REFUSAL


class Curious(MaskedServerSteps):
    """A server that follows the protocol and forgets nothing. It is not weakened: this is the adversary."""

    def __init__(self) -> None:
        self.seen: list[Any] = []

    def close(self, context: ServerContext, state: Any, present: frozenset[str]) -> Opened | Finished:
        total = getattr(state, "total", None)  # the buffer is reused, so it is copied as it was
        self.seen.append(state if total is None else replace(state, total=total.copy()))
        return super().close(context, state, present)


class Liar(MaskedClientSteps):
    """A malicious client: it does what the protocol says and then changes what it sends.

    Args:
        lie: (context, state before, honest message) to the message that leaves instead.
    """

    def __init__(self, lie: Callable[[ClientContext, Any, Any], Any]) -> None:
        self._lie = lie

    def react(self, context: ClientContext, state: Any, request: Any) -> Any:
        step = super().react(context, state, request)
        return self._changed(context, state, step) if isinstance(step, Replied) else step

    def fold(self, context: ClientContext, state: Any, vector: Any) -> Replied:
        return self._changed(context, state, super().fold(context, state, vector))

    def _changed(self, context: ClientContext, state: Any, step: Replied) -> Replied:
        return replace(step, message=self._lie(context, state, step.message))


class AmnesicLog:
    """A release log that forgets: every release is the first one."""

    def insert(self, session: bytes, round: int, step: int, digest: bytes) -> bytes:
        return digest


# Taking masks off one client's vector


def rebuild(view: Any, shares: Mapping[str, bytes]) -> Secret:
    """The secret behind shares that were revealed, by holder."""
    decoded = [Share.decode(view.holders.index(holder) + 1, share) for holder, share in shares.items()]
    return combine(decoded, threshold=view.threshold)


def revealed(answers: Mapping[str, Unmask], dealer: str, kind: type = SelfMaskShare) -> dict[str, bytes]:
    """The shares of one kind that holders revealed of `dealer`'s secrets."""
    return {
        holder: answer.reveals[dealer].share
        for holder, answer in answers.items()
        if isinstance(answer.reveals.get(dealer), kind)
    }


def strip(
    stage: Stage,
    victim: str,
    *,
    seed: Secret | None = None,
    round_secret: Secret | None = None,
    view: Any = None,
) -> Vector:
    """The victim's masked vector without the masks that follow from these secrets."""
    view = stage.view if view is None else view
    vector = stage.words(stage.answers(2, MaskedInput)[victim].vector)
    order = {client: place for place, client in enumerate(stage.roster.order(view.dealt))}
    add: list[Secret] = []
    subtract: list[Secret] = []
    if seed is not None:
        subtract.append(self_mask_seed(seed, transcript=view.transcript, client=victim))
    if round_secret is not None:
        private = PrivateKey(mask_private_key(round_secret))
        for peer, place in order.items():
            if peer != victim:
                low, high = sorted((victim, peer), key=order.__getitem__)
                key = view.keys[peer].mask_key
                pair = pair_mask_seed(private, key, transcript=view.transcript, low=low, high=high)
                (subtract if order[victim] > place else add).append(pair)
    apply_masks(vector, ring=stage.protocol.suite.surface.ring, add=add, subtract=subtract)
    return vector


def is_read(stage: Stage, words: Vector, update: Vector) -> bool:
    """Whether `words` are the update, to within quantisation, on a clip of 1."""
    surface: Any = stage.protocol.suite.surface
    steps = surface.ring.centred(words)[: len(update)]
    return bool(np.abs(steps / surface.codec.largest_step - update).max() <= stage.protocol.error_bound(1))
