"""Tooling that the attacks share: a stage for parties that misbehave, and an adversary's view of a round.

An attack is worth a test only if it can succeed. So each one runs twice: on a copy with one thing taken away
(steps with a check removed, a seed cut short, one key set for two purposes), where it must work, and on the
library as it is, where it must not. `Stage` makes both copies: `steps` and `machine` put a party's own code
in place of the library's, and `request` writes whatever a server could write.

`Stage.open` plays an honest round up to an exchange and stops there. What the attacker then knows is what a
curious server has: its own states, which `Curious` remembers, and every message on the wire. `unmasked` takes
masks off with it.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import numpy as np
import pytest
from numpy.typing import NDArray

from protocols import Identity, NeedUpdate, Outcome, PeerViolation, Policy, Roster, Round, Sum
from protocols.identity import SERVER
from protocols.machine.client import ClientMachine, Request
from protocols.machine.parameters import MachineProtocol
from protocols.machine.server import ServerMachine
from protocols.machine.suite import (
    Asked,
    ClientContext,
    ClientSteps,
    Declined,
    Finished,
    Opened,
    Replied,
    ServerContext,
    ServerSteps,
)
from protocols.machine.summand import Summand
from protocols.masked import revealing
from protocols.masked.client import MaskedClientSteps
from protocols.masked.collecting import check_words, lanes_of
from protocols.masked.keys import EpochKeys
from protocols.masked.messages import AdvertiseKeys, MaskedInput, Quorum, Survivors
from protocols.masked.server import MaskedServerSteps
from protocols.masked.transcript import SignedKeys, cohort_digest
from protocols.messages.envelope import REFUSAL, RESULT, Envelope, request_stage
from protocols.messages.schema import decode, encode
from secagg import labels
from secagg.entropy import SeededEntropy
from secagg.secret import Secret
from secagg.standard.kdf import hkdf
from secagg.standard.kem import SEED_BYTES
from secagg.standard.signing import SIGNATURE_BYTES
from secagg.vectors.ring import Ring

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
        self.inputs: dict[
            str, bytes
        ] = {}  # each client's signature on the last transcript that it masked under
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
            if not refused(answer) and isinstance(self.protocol.suite.client, MaskedClientSteps):
                self.inputs[name] = body_of(MaskedInput, answer).signature
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

    @property
    def summing(self) -> Any:
        """MaskedSum: what the server's state says of the open sum: epoch, dealings, active, transcript."""
        return getattr(self.view, "sum", self.view)

    @property
    def unmasking(self) -> int:
        """MaskedSum: the number of the exchange that reveals shares."""
        return self.protocol.suite.exchanges.index("Unmask")

    def places(self, names: Iterable[str]) -> tuple[int, ...]:
        """MaskedSum: the places of these clients in the epoch."""
        return tuple(self.summing.epoch.members.index(name) for name in names)

    def bitmap(self, names: Iterable[str]) -> bytes:
        """MaskedSum: a set of clients, as a server would write it."""
        bits: bytes = self.summing.epoch.members.bitmap(tuple(names))
        return bits

    def survivors(self, survivors: Iterable[str], *, model: bytes = b"") -> Survivors:
        """MaskedSum: the request that opens ConsistencyCheck, with any survivors."""
        return Survivors(self.bitmap(survivors), hashlib.sha256(model).digest())

    def quorum(
        self,
        client: str,
        survivors: Iterable[str],
        *,
        signatures: Mapping[str, bytes] | None = None,
        inputs: Mapping[str, bytes] | None = None,
        model: bytes = b"",
    ) -> Quorum:
        """MaskedSum: the request that opens Unmask for a client, with any survivors and any signatures.

        Args:
            signatures: of signers of the survivors.
            inputs: signatures on transcripts that stand in place of those which `tell` last heard.
        """
        asked, signed = self.survivors(survivors, model=model), dict(signatures or {})
        order, heard = self.roster.order(signed), {**self.inputs, **(inputs or {})}
        epoch = self.summing.epoch
        near = epoch.among(
            epoch.graph.neighbours(epoch.members.index(client)), epoch.members.places(asked.survivors)
        )
        return Quorum(
            asked.survivors,
            asked.model,
            b"".join(heard.get(epoch.cohort[place], bytes(SIGNATURE_BYTES)) for place in near),
            self.bitmap(order),
            b"".join(signed[name] for name in order),
        )

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
        """A vector's elements from the wire, MaskedSum's check words with them; see `values`."""
        surface = self.protocol.suite.surface
        if not isinstance(self.protocol.suite.client, MaskedClientSteps):
            return surface.ring.unpack(packed, surface.elements(length))
        count = surface.elements(length) + check_words(surface.ring.bits)
        return self.ring.unpack(packed, lanes_of(surface).words(count))

    @property
    def ring(self) -> Ring:
        """Of the elements on the wire; MaskedSum puts several values into each."""
        surface = self.protocol.suite.surface
        masked = isinstance(self.protocol.suite.client, MaskedClientSteps)
        return lanes_of(surface).wide if masked else surface.ring

    def values(self, words: Vector, length: int = LENGTH) -> Vector:
        """The values in elements that carry no mask any more, or the sum of several, with their signs."""
        surface = self.protocol.suite.surface
        count = surface.elements(length)
        if not isinstance(self.protocol.suite.client, MaskedClientSteps):
            return surface.ring.centred(words)[:count]
        view = lanes_of(surface).view(words, count, padding=check_words(surface.ring.bits))
        return surface.ring.centred(view[:])


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


class Doctored(Summand):
    """A summand whose elements are changed before they are masked or encrypted, padding included.

    Args:
        change: what is done in place to each block, or to all elements where they are asked for as integers.
    """

    def __init__(self, summand: Summand, change: Callable[[Vector], None]) -> None:
        super().__init__(summand._ring, summand.elements)
        self._summand, self._change = summand, change

    def blocks(self, padding: int = 0, **size: int) -> Iterator[Any]:
        for block in self._summand.blocks(padding, **size):
            self._change(block)
            yield block
        self.clipped = self._summand.clipped

    def integers(self) -> NDArray[np.int64]:
        vector = self._summand.integers()
        self._change(vector)
        return vector

    def _write(self, start: int, block: Any) -> None:
        raise AssertionError("blocks are doctored as a whole")


class Breaks(ClientSteps):
    """A corrupt client of any protocol, which puts into its vector what it likes.

    Args:
        honest: the protocol's own steps.
        change: see `Doctored`.
    """

    def __init__(self, honest: ClientSteps, change: Callable[[Vector], None]) -> None:
        self.states = honest.states  # type: ignore[misc]  # of the steps at hand, not of the class
        self._honest, self._change = honest, change

    def idle(self, state: Any) -> Any:
        return self._honest.idle(state)

    def react(self, context: ClientContext, state: Any, request: Any) -> Replied | Asked | Declined:
        return self._honest.react(context, state, request)

    def fold(self, context: ClientContext, state: Any, summand: Summand) -> Replied:
        return self._honest.fold(context, state, Doctored(summand, self._change))

    def common_secret(self, state: Any) -> Secret | None:
        return self._honest.common_secret(state)

    def round_of(self, context: ClientContext, result: Any) -> int:
        return self._honest.round_of(context, result)

    def open(self, context: ClientContext, state: Any, result: Any) -> Sum:
        return self._honest.open(context, state, result)


class Advertises(Liar):
    """A client that signs for keys of its choice."""

    def __init__(self, change: Callable[[AdvertiseKeys], AdvertiseKeys]) -> None:
        super().__init__(lambda context, state, message: message)
        self._change = change

    def react(self, context: Any, state: Any, request: Any) -> Any:
        step: Any = super().react(context, state, request)
        if not isinstance(getattr(step, "message", None), AdvertiseKeys):
            return step
        mine = self._change(step.message)
        statement = SignedKeys.of(
            mine,
            parameters=request.parameters,
            session=context.session,
            round=context.round,
            roster=context.roster.digest,
            cohort=cohort_digest(request.cohort),
            length=request.length,
            client=context.me,
        )
        signature = context.identity.key.sign(statement, label=labels.KEY_ADVERTISEMENT)
        mine = replace(mine, signature=signature)
        return replace(step, state=replace(step.state, mine=mine), message=mine)


def believe_all_stories(monkeypatch: pytest.MonkeyPatch) -> None:
    """Clients do not ask under which transcript their neighbours made their masks."""
    monkeypatch.setattr(revealing, "_check_stories", lambda *_: None)


def channel_of(round_secret: Secret) -> tuple[Secret, Secret]:
    """The weakened copy's channel keys."""
    return (
        hkdf(round_secret, label=b"the weakened copy's channel key"),
        hkdf(round_secret, label=b"the weakened copy's channel seed", size=SEED_BYTES),
    )


def one_key_set(monkeypatch: pytest.MonkeyPatch) -> None:
    """Clients whose channel keys follow from the round secret (A17): see `channel_of`."""
    honest = EpochKeys.draw

    def draw(entropy: Any) -> EpochKeys:
        keys = honest(entropy)
        return EpochKeys(*channel_of(keys.round_secret), keys.round_secret, keys.self_mask_seed)

    monkeypatch.setattr(EpochKeys, "draw", staticmethod(draw))


class Agreeable(bytes):
    """Says that it is whatever it is compared with."""

    def __eq__(self, other: object) -> bool:
        return True

    def __ne__(self, other: object) -> bool:
        return False

    __hash__ = bytes.__hash__


class AmnesicLog:
    """A release log that forgets: every release is the first one, and whatever is asked for stands there."""

    identity = bytes(16)

    def insert(self, session: bytes, round: int, step: int, digest: bytes) -> bytes:
        return Agreeable(digest)

    def count(self, session: bytes) -> int:
        return 0
