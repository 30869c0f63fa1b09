"""The server of the consortium protocol: relays sealed keys, adds ciphertexts, can open neither.

Set-up takes place in the exchanges of the first round, and again for whoever joins later. The custodian is
the roster's first member that is present; if it vanishes, the next takes over.
"""

import hashlib
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from protocols.consortium.messages import (
    AdvertiseKeys,
    Announcement,
    Collect,
    Contribution,
    Delivery,
    Distribute,
    DistributeKey,
    Result,
    SignedDistribution,
    SignedKey,
)
from protocols.consortium.scheme import Scheme, Total
from protocols.identity import ClientId
from protocols.machine.suite import Finished, Opened, ServerContext, ServerSteps
from protocols.messages.schema import U32, U64, Key32, Name, encode
from secagg import labels
from secagg.errors import ParameterError, PeerViolation, RoundAborted
from secagg.secret import Secret
from secagg.standard.agreement import agree
from secagg.vectors.linear_mac import PRIME, TAG_BYTES

__all__ = ["ConsortiumServerSteps"]


@dataclass(frozen=True, slots=True)
class Consortium:
    """What outlives a round: the public part, who holds the key, and what is still to be delivered."""

    key_id: Key32
    public: bytes
    custodian: Name
    holders: frozenset[Name]
    deliveries: dict[Name, Delivery]


@dataclass(frozen=True, slots=True)
class Idle:
    """Between rounds."""

    consortium: Consortium | None = None
    distrusted: Name | None = None


@dataclass(frozen=True, slots=True)
class Advertising:
    """AdvertiseKeys is open, for those without a key."""

    consortium: Consortium | None
    distrusted: Name | None
    newcomers: dict[Name, AdvertiseKeys]


@dataclass(frozen=True, slots=True)
class Distributing:
    """DistributeKey is open, for one custodian."""

    consortium: Consortium | None
    newcomers: dict[Name, AdvertiseKeys]
    custodian: Name
    next_custodians: tuple[Name, ...]
    answer: DistributeKey | None


@dataclass(frozen=True, slots=True)
class Summing:
    """Contribute is open; the total is updated in place."""

    consortium: Consortium
    tags: dict[Name, bytes]
    minima: dict[Name, U32]
    total: Total


@dataclass(frozen=True, slots=True)
class SavedSumming:
    """`Summing`, as it is saved."""

    consortium: Consortium
    tags: dict[Name, bytes]
    minima: dict[Name, U32]
    count: U64
    total: bytes


class ConsortiumServerSteps(ServerSteps):
    """The table of legal (state, message) pairs, over one scheme."""

    states: ClassVar[tuple[type, ...]] = (Idle, Advertising, Distributing, SavedSumming)

    def __init__(self, scheme: Scheme) -> None:
        self._scheme = scheme

    def idle(self, state: Any) -> Idle:
        # A key that nobody but its maker ever used may be one that nobody else can open: then make another,
        # and let somebody else make it.
        consortium = state.consortium
        if consortium is not None and len(consortium.holders) < 2:
            return Idle(None, consortium.custodian)
        return Idle(consortium, getattr(state, "distrusted", None))

    def body_bytes(self, count: int, *, packed: int) -> int:
        return self._scheme.body_bytes(count)

    def refused(self, state: Any, client: ClientId) -> Any:
        """A client that refused may have lost its key: the next round gives it one again."""
        if not isinstance(state, Summing):
            return state
        known = state.consortium
        deliveries = {name: each for name, each in known.deliveries.items() if name != client}
        return replace(
            state, consortium=replace(known, holders=known.holders - {client}, deliveries=deliveries)
        )

    def begin(self, context: ServerContext, state: Idle, cohort: tuple[ClientId, ...]) -> Opened:
        consortium = state.consortium
        known = consortium.holders | consortium.deliveries.keys() if consortium is not None else frozenset()
        newcomers = [client for client in cohort if client not in known]
        if not newcomers and consortium is not None:
            return self._collect(context, consortium)
        if consortium is not None and not consortium.holders & set(cohort):
            raise ParameterError(
                f"nobody of the cohort holds the session's key yet and can pass it on; ask one of "
                f"{sorted(consortium.holders)} as well"
            )
        request = Announcement(context.suite.digest, cohort, context.round.length)
        return Opened(Advertising(consortium, state.distrusted, {}), 0, dict.fromkeys(newcomers, request))

    def check(self, context: ServerContext, state: Any, sender: ClientId, reply: Any) -> Any:
        match state, reply:
            case Advertising(), AdvertiseKeys():
                signed = SignedKey(context.suite.digest, context.session, sender, reply.channel_key)
                context.roster.verify(
                    sender, reply.signature, encode(signed), label=labels.CONSORTIUM_ADVERTISEMENT
                )
                agree(Secret(bytes(range(32))), reply.channel_key)  # any scalar shows a low-order point
            case Distributing(), DistributeKey():
                self._check_key(context, state, sender, reply)
            case Summing(), Contribution():
                self._check_update(context, state, sender, reply)
        return reply

    def absorb(self, context: ServerContext, state: Any, sender: ClientId, reply: Any) -> Any:
        match state, reply:
            case Advertising(), AdvertiseKeys():
                return replace(state, newcomers={**state.newcomers, sender: reply})
            case Distributing(), DistributeKey():
                return replace(state, answer=reply)
            case Summing(), Contribution():
                return self._take_update(state, sender, reply)
        raise PeerViolation(f"{type(reply).__name__} came while {type(state).__name__}", culprit=sender)

    def close(self, context: ServerContext, state: Any, present: frozenset[ClientId]) -> Opened | Finished:
        match state:
            case Advertising():
                return self._open_distribution(context, state, present)
            case Distributing():
                return self._end_distribution(context, state, present)
            case Summing():
                return self._finish(context, state, present)
        raise ParameterError("no exchange is open")

    # Set-up

    def _open_distribution(
        self, context: ServerContext, state: Advertising, present: frozenset[ClientId]
    ) -> Opened:
        newcomers = {client: state.newcomers[client] for client in sorted(present)}
        consortium = state.consortium
        if consortium is not None and not newcomers:
            return self._collect(context, consortium)
        if consortium is None and len(newcomers) < (least := _least(context)):
            raise RoundAborted(f"{len(newcomers)} clients advertised a key, at least {least} are needed")
        able = consortium.holders & set(context.round.cohort) if consortium is not None else set(newcomers)
        able -= context.dropped
        # The roster's first member that is present; one whose key or seals failed before comes last.
        failed = state.distrusted if consortium is None else consortium.custodian
        custodians = sorted(context.roster.order(able), key=lambda client: client == failed)
        return self._ask(context, consortium, newcomers, tuple(custodians))

    def _ask(
        self,
        context: ServerContext,
        consortium: Consortium | None,
        newcomers: dict[ClientId, AdvertiseKeys],
        custodians: tuple[ClientId, ...],
    ) -> Opened:
        """Asks the first custodian; the others wait in case it vanishes."""
        if not custodians:
            raise RoundAborted("no client is left that could seal the key to the others")
        custodian, *others = custodians
        request = Distribute(
            context.suite.digest,
            context.round.cohort,
            context.round.length,
            {client: key for client, key in newcomers.items() if client != custodian},
        )
        state = Distributing(consortium, newcomers, custodian, tuple(others), None)
        return Opened(state, 1, {custodian: request})

    def _check_key(
        self, context: ServerContext, state: Distributing, sender: ClientId, reply: DistributeKey
    ) -> None:
        wanted = state.newcomers.keys() - {sender}
        if reply.sealed.keys() != wanted:
            raise PeerViolation("a key sealed to other clients than the newcomers", culprit=sender)
        known = state.consortium
        if known is not None and (reply.key_id, reply.public) != (known.key_id, known.public):
            raise PeerViolation("another key than the session's", culprit=sender)
        distribution = SignedDistribution(
            context.suite.digest,
            context.session,
            sender,
            reply.key_id,
            hashlib.sha256(reply.public).digest(),
            reply.channel_key,
        )
        context.roster.verify(sender, reply.signature, encode(distribution), label=labels.CONSORTIUM_SEAL)
        self._scheme.check_public(reply.public)

    def _end_distribution(
        self, context: ServerContext, state: Distributing, present: frozenset[ClientId]
    ) -> Opened:
        answer, known = state.answer, state.consortium
        if answer is None or state.custodian not in present:
            newcomers = {c: key for c, key in state.newcomers.items() if c != state.custodian}
            if known is None and len(newcomers) < _least(context):
                raise RoundAborted("too few clients are left to make a key for")
            left = tuple(client for client in state.next_custodians if client not in context.dropped)
            return self._ask(context, known, newcomers, left)
        delivered = {
            client: Delivery(state.custodian, answer.public, answer.channel_key, sealed, answer.signature)
            for client, sealed in answer.sealed.items()
        }
        consortium = Consortium(
            answer.key_id,
            answer.public,
            state.custodian,
            (known.holders if known is not None else frozenset()) | {state.custodian},
            {**(known.deliveries if known is not None else {}), **delivered},
        )
        return self._collect(context, consortium)

    # Every round

    def _collect(self, context: ServerContext, consortium: Consortium) -> Opened:
        ready = consortium.holders | consortium.deliveries.keys()
        surface, round = context.suite.surface, context.round
        plain = Collect(
            context.suite.digest, round.cohort, round.length, consortium.key_id, None, round.model
        )
        requests = {
            client: plain
            if client in consortium.holders
            else replace(plain, delivery=consortium.deliveries[client])
            for client in round.cohort
            if client in ready
        }
        total = self._scheme.total(consortium.public, count=surface.elements(round.length))
        return Opened(Summing(consortium, {}, {}, total), 2, requests)

    def _check_update(
        self, context: ServerContext, state: Summing, sender: ClientId, reply: Contribution
    ) -> None:
        if reply.key_id != state.consortium.key_id:
            raise PeerViolation("a vector under another key", culprit=sender)
        if reply.model != hashlib.sha256(context.round.model).digest():
            raise PeerViolation("a vector that answers another model", culprit=sender)
        if reply.minimum > len(context.round.cohort):
            raise PeerViolation(
                f"it wants {reply.minimum} contributors, more than were asked", culprit=sender
            )
        if int.from_bytes(reply.tag, "big") >= PRIME:
            raise PeerViolation("a tag outside its field", culprit=sender)

    def _take_update(self, state: Summing, sender: ClientId, reply: Contribution) -> Summing:
        state.total.add(reply.vector)
        consortium = state.consortium
        deliveries = {client: each for client, each in consortium.deliveries.items() if client != sender}
        return Summing(
            replace(consortium, holders=consortium.holders | {sender}, deliveries=deliveries),
            {**state.tags, sender: reply.tag},
            {**state.minima, sender: reply.minimum},
            state.total,
        )

    def _finish(self, context: ServerContext, state: Summing, present: frozenset[ClientId]) -> Finished:
        if len(present) < (planned := _least(context)):
            raise RoundAborted(f"{len(present)} contributors, at least {planned} are needed by the plan")
        least = max(state.minima[client] for client in present)
        if len(present) < least:
            strict = sorted(client for client in present if state.minima[client] > len(present))
            raise RoundAborted(f"{len(present)} contributors; {strict} ask for up to {least}")
        tag = sum(int.from_bytes(state.tags[client], "big") for client in present) % PRIME
        result = Result(
            context.round.number,
            state.consortium.key_id,
            {client: state.minima[client] for client in present},
            context.round.length,
            hashlib.sha256(context.round.model).digest(),
            tag.to_bytes(TAG_BYTES, "big"),
            memoryview(state.total.to_bytes()),
        )
        return Finished(Idle(state.consortium), result=encode(result))

    # Saved states

    def freeze(self, context: ServerContext, state: Any) -> Any:
        if not isinstance(state, Summing):
            return state
        body = state.total.to_bytes() if state.tags else b""
        return SavedSumming(
            state.consortium,
            state.tags,
            state.minima,
            context.suite.surface.elements(context.round.length),
            body,
        )

    def thaw(self, state: Any) -> Any:
        if not isinstance(state, SavedSumming):
            return state
        total = self._scheme.restore_total(
            state.consortium.public, state.total, count=state.count, summands=len(state.tags)
        )
        return Summing(state.consortium, state.tags, state.minima, total)


def _least(context: ServerContext) -> int:
    """Without how many clients of the round's cohort the plan opens nothing."""
    return context.plan(len(context.round.cohort)).min_survivors
