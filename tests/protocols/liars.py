"""Parties that lie: the tools of the tests of what the others do about it.

A server writes what it likes: `rewritten` is its tool. A lying client of MaskedSum runs the protocol's own
steps and changes what leaves it; where a signature stands over the lie it is the liar's own.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from protocols import RoundAborted
from protocols.consortium.messages import Result as ConsortiumResult
from protocols.lattice.client import LatticeClientSteps
from protocols.lattice.messages import Collect, Contribution, Result
from protocols.machine.client import Request
from protocols.machine.suite import Asked, ClientContext, Replied, Suite
from protocols.machine.summand import Summand
from protocols.masked.client import MaskedClientSteps
from protocols.masked.messages import AdvertiseKeys, MaskedInput, ShareKeys
from protocols.masked.states import Advertised, Dealt
from protocols.masked.transcript import SignedDealing, SignedInput, SignedKeys, cohort_digest, dealing_digest
from protocols.messages.envelope import Envelope
from protocols.messages.schema import decode, encode
from secagg import labels
from secagg.secret import Secret
from secagg.standard.agreement import PrivateKey
from secagg.standard.kem import DecapsulationKey
from tests.protocols.conftest import TWO, Family, Sent, World, assert_right, exchange_of, updates_of

NAMES = "abcdefg"
"""Of seven, TWO lets one vanish beside the liar. The liar is always b, in place 1."""
OTHERS = "acdefg"
WIDE = NAMES + "hijk"
"""Of eleven two may be missing in the steady state."""
FOREIGN = PrivateKey(Secret(bytes(range(32, 64))))
FOREIGN_ENCAPSULATION = DecapsulationKey(Secret(bytes(range(64)))).encapsulation_key
"""Keys that no client has."""
Change = Callable[[ClientContext, Any, Any], Any]
"""(context, the liar's state behind the step, the honest message) to the message that leaves."""


class Liar(MaskedClientSteps):
    """Does what the protocol says and changes one kind of message, in one round."""

    def __init__(self, kind: type, change: Change, *, round: int = 0) -> None:
        self._kind, self._change, self._round = kind, change, round

    def react(self, context: ClientContext, state: Any, request: Any) -> Replied | Asked:
        step = super().react(context, state, request)
        return self._changed(context, step) if isinstance(step, Replied) else step

    def fold(self, context: ClientContext, state: Any, summand: Summand) -> Replied:
        return self._changed(context, super().fold(context, state, summand))

    def _changed(self, context: ClientContext, step: Replied) -> Replied:
        if context.round != self._round or type(step.message) is not self._kind:
            return step
        message = self._change(context, step.state, step.message)
        # Its own keys are those that it advertised.
        state = replace(step.state, mine=message) if isinstance(step.state, Advertised) else step.state
        return replace(step, state=state, message=message)


def world_with(masked: Family, steps: MaskedClientSteps) -> World:
    return World(masked(max_clients=7, requirements=TWO), NAMES, steps={"b": steps})


def body_of(kind: type, message: bytes) -> Any:
    """What is inside a client's envelope."""
    return decode(kind, Envelope.decode(message).body)


def play_well(world: World, names: str, *, gone: dict[str, int] | None = None) -> None:
    """A round of which everybody stays in the sum who is there when vectors are collected."""
    updates = updates_of(names, seed=world.number + 2)
    outcome = world.play(updates, gone=gone)
    contributors = frozenset(name for name in names if (gone or {}).get(name, 99) > 2)
    assert outcome.contributors == contributors
    assert set(outcome.dropped) == set(gone or {})
    assert_right(world.learn(outcome), world.protocol, updates, contributors)


def play_aborted(world: World, *, culprits: str, gone: dict[str, int] | None = None) -> str:
    """A round that ends without a sum, and the reason. Whoever is to blame is in the signed record."""
    with pytest.raises(RoundAborted) as aborted:
        world.play(updates_of(NAMES), gone=gone)
    assert aborted.value.culprits == frozenset(culprits)
    with pytest.raises(RoundAborted):
        world.server.outcome()
    record = world.server.record().record
    assert record.aborted == aborted.value.reason
    assert record.contributors == aborted.value.opened
    assert record.opened is bool(aborted.value.opened)
    assert set(record.dropped) == {*culprits, *(gone or {})}
    assert all(repr(name) in aborted.value.reason for name in culprits)
    return aborted.value.reason


def spoilt(column: bytes, position: int, size: int) -> bytes:
    """A column with a bit of one piece flipped."""
    changed = bytearray(column)
    changed[position * size + size // 2] ^= 1
    assert len(changed) == len(column)
    return bytes(changed)


# What a liar signs


def signed_keys(**changes: Any) -> Change:
    """Advertised keys with other fields, signed by their owner."""

    def change(context: ClientContext, state: Any, message: AdvertiseKeys) -> AdvertiseKeys:
        keys = replace(message, **changes)
        statement = SignedKeys.of(
            keys,
            parameters=context.suite.digest,
            session=context.session,
            round=context.round,
            roster=context.roster.digest,
            cohort=cohort_digest(state.cohort),
            length=state.length,
            client=context.me,
        )
        signature = context.identity.key.sign(statement, label=labels.KEY_ADVERTISEMENT)
        return replace(keys, signature=signature)

    return change


def signed_input(transcript: bytes) -> Change:
    """A vector with its maker's signature on another transcript than it says."""

    def change(context: ClientContext, state: Any, message: MaskedInput) -> MaskedInput:
        statement = encode(SignedInput(transcript))
        return replace(message, signature=context.identity.key.sign(statement, label=labels.MASKED_INPUT))

    return change


def signed_dealing(change: Callable[[ShareKeys], ShareKeys], *, origin: int = 0) -> Change:
    """A dealing that is changed and signed by its dealer; `origin` is added to its true one."""

    def apply(context: ClientContext, state: Any, message: ShareKeys) -> ShareKeys:
        made, view = change(message), state.view
        first = isinstance(state, Dealt)
        near = state.keys if first else state.prepared.edges
        present = view.epoch.members.bitmap([view.epoch.cohort[place] for place in {*near, view.me}])
        true_origin = context.round if first else state.prepared.origin
        statement = SignedDealing(
            view.epoch.digest, true_origin + origin, context.me, present, dealing_digest(made)
        )
        return replace(made, signature=context.identity.key.sign(encode(statement), label=labels.DEALING))

    return apply


def in_unmask(change: Change) -> Change:
    """The same lie in the dealing that rides on Unmask."""
    return lambda context, state, message: replace(message, next=change(context, state, message.next))


def fields_of(**changes: Callable[[bytes], bytes]) -> Callable[[Any], Any]:
    """A message with these fields changed."""
    return lambda message: replace(
        message, **{name: change(getattr(message, name)) for name, change in changes.items()}
    )


def unsigned(**changes: Callable[[bytes], bytes]) -> Change:
    """A message with these fields changed and the signature left as it was."""
    return lambda context, state, message: fields_of(**changes)(message)


def shorter(column: bytes) -> bytes:
    return column[:-1]


def longer(column: bytes) -> bytes:
    return column + bytes(1)


def nothing(column: bytes) -> bytes:
    return b""


def zeros(column: bytes) -> bytes:
    return bytes(len(column))


def flipped(column: bytes) -> bytes:
    return spoilt(column, 0, 1)


def has_complaint(sent: Sent) -> bool:
    """Whether this is a vector whose sender complains about somebody."""
    if sent.down or sent.exchange != 2:
        return False
    return any(body_of(MaskedInput, sent.body).unopened)


# A server


def rewritten(kind: type, message: bytes, change: Callable[[Any], Any]) -> bytes:
    """A request with another body of the same type."""
    envelope = Envelope.decode(message)
    body = encode(change(decode(kind, decode(Request, envelope.body).body)))
    return replace(envelope, body=encode(Request((), memoryview(body)))).encode()


def first_request(world: World, message: bytes) -> type:
    suite = world.protocol.suite  # type: ignore[attr-defined]
    found: type = suite.requests[exchange_of(message)]
    return found


def retold(world: World, message: bytes, **changes: Any) -> bytes:
    """A request with other fields; of LatticeSum's, those of its key layer's message inside it."""
    suite: Suite = world.protocol.suite  # type: ignore[attr-defined]
    return rewritten(
        first_request(world, message),
        message,
        lambda told: inside(suite, told, lambda of_layer: replace(of_layer, **changes)),
    )


def inside(suite: Suite, message: Any, change: Callable[[Any], Any]) -> Any:
    """A message with `change` made to what the key layer says in it; to all of it without a key layer."""
    kinds: dict[type, type] = {}
    if isinstance(suite.client, LatticeClientSteps):
        keys = suite.client._keys
        kinds = {
            Collect: keys.requests[keys.collecting],
            Contribution: keys.replies[keys.collecting],
            Result: ConsortiumResult,
        }
    if type(message) not in kinds:
        return change(message)
    of_layer: Any = decode(kinds[type(message)], message.keys)
    return replace(message, keys=memoryview(encode(change(of_layer))))


def lying(world: World, result: bytes | None, **changes: Any) -> bytes:
    """A result with other fields; of LatticeSum's, those of its key layer's result."""
    suite: Suite = world.protocol.suite  # type: ignore[attr-defined]
    kind = Result if isinstance(suite.client, LatticeClientSteps) else ConsortiumResult
    assert result is not None
    return encode(inside(suite, decode(kind, result), lambda of_layer: replace(of_layer, **changes)))
