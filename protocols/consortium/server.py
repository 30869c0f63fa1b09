"""The server of the consortium protocol: relays sealed keys, adds ciphertexts, can open neither.

Set-up takes place in the exchanges of the first round, and again for whoever joins later. The custodian is
the roster's first member that is present; if it vanishes, the next takes over. Custodians whose deliveries
were refused come last (`Custody`).

Nobody tells a server that a client lost its state. One that was asked to contribute and was not heard of may
have: the next round that asks it begins with its channel key, as for a newcomer. If that is the old one, it
was only slow, and the others lost one small exchange; if it is another one, the key is sealed to it in a
second exchange, and no second round is lost. A client that lies about it costs these two in each round.

Which of its results could be opened the server does not see, so it does not know which model an update
answers: contributions name their head, and the largest group of equal heads is the sum.
"""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Final

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
from protocols.machine.suite import Finished, Judged, LeftOutError, Opened, ServerContext, ServerSteps
from protocols.messages.envelope import Refusal
from protocols.messages.schema import U32, U64, Key32, Name, encode
from secagg import labels
from secagg.errors import ParameterError, PeerViolation, RoundAborted
from secagg.secret import Secret
from secagg.standard.agreement import agree
from secagg.vectors.linear_mac import PRIME, TAG_BYTES

__all__ = ["ConsortiumServerSteps"]

PATIENCE: Final = 8
"""Rounds in which one client alone asks for another key, before there is one."""


@dataclass(frozen=True, slots=True)
class Consortium:
    """What outlives a round: the public part, who holds the key, and what is still to be delivered.

    `asked`: in how many rounds a client has asked for another key. `channels`: under which channel key each
    was last sealed the key, or made it; whoever still has that one has lost nothing.
    """

    key_id: Key32
    public: bytes
    custodian: Name
    holders: frozenset[Name]
    deliveries: dict[Name, Delivery]
    asked: dict[Name, U32] = field(default_factory=dict)
    channels: dict[Name, Key32] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Custody:
    """Who should not be the first to be asked for a key.

    Nothing proves that a delivery is bad: the key of its channel would, and it opens the consortium's. So one
    refusal is enough to ask somebody else first, and nobody is shut out for good: who refuses may lie.

    Attributes:
        failed: custodians whose key nobody else ever used.
        accusers: by custodian, who ever refused what it had sealed.
    """

    failed: frozenset[Name] = frozenset()
    accusers: dict[Name, frozenset[Name]] = field(default_factory=dict)

    @property
    def distrusted(self) -> frozenset[ClientId]:
        """All of them."""
        return self.failed | self.accusers.keys()

    def among(self, cohort: Iterable[ClientId]) -> "Custody":
        """What is known, or nothing if that would leave nobody in the cohort to trust."""
        return Custody() if self.distrusted.issuperset(cohort) else self

    def accused(self, custodian: ClientId, accuser: ClientId) -> "Custody":
        """This, and one more refusal."""
        known = self.accusers.get(custodian, frozenset())
        return replace(self, accusers={**self.accusers, custodian: known | {accuser}})


@dataclass(frozen=True, slots=True)
class Idle:
    """Between rounds."""

    consortium: Consortium | None = None
    custody: Custody = Custody()
    head: bytes = b""
    """What most updates of the last round answered."""
    unheard: frozenset[Name] = frozenset()
    """Who was asked to contribute, was not heard of since, and may have lost its key meanwhile."""


@dataclass(frozen=True, slots=True)
class Advertising:
    """AdvertiseKeys is open, for those without a key."""

    consortium: Consortium | None
    custody: Custody
    head: bytes
    unheard: frozenset[Name]
    newcomers: dict[Name, AdvertiseKeys]


@dataclass(frozen=True, slots=True)
class Distributing:
    """DistributeKey is open, for one custodian."""

    consortium: Consortium | None
    custody: Custody
    head: bytes
    unheard: frozenset[Name]
    newcomers: dict[Name, AdvertiseKeys]
    custodian: Name
    next_custodians: tuple[Name, ...]
    answer: DistributeKey | None


@dataclass(frozen=True, slots=True)
class Group:
    """Contributions that name one head; the total is updated in place."""

    tags: dict[Name, bytes]
    minima: dict[Name, U32]
    total: Total


@dataclass(frozen=True, slots=True)
class Summing:
    """Contribute is open: the sums so far, by head; how many named each head; who asked for another key.

    `head` is what most updates of the last round answered, `unheard` who has not been heard of since it was
    asked, now or in an earlier round.
    """

    consortium: Consortium
    custody: Custody
    head: bytes
    unheard: frozenset[Name]
    groups: dict[bytes, Group]
    named: dict[bytes, U32]
    renewing: frozenset[Name]


@dataclass(frozen=True, slots=True)
class SavedGroup:
    """`Group`, as it is saved."""

    tags: dict[Name, bytes]
    minima: dict[Name, U32]
    total: bytes


@dataclass(frozen=True, slots=True)
class SavedSumming:
    """`Summing`, as it is saved."""

    consortium: Consortium
    custody: Custody
    head: bytes
    unheard: frozenset[Name]
    count: U64
    groups: tuple[tuple[Key32, SavedGroup], ...]
    named: dict[Key32, U32]
    renewing: frozenset[Name]


class ConsortiumServerSteps(ServerSteps):
    """The table of legal (state, message) pairs, over one scheme."""

    states: ClassVar[tuple[type, ...]] = (Idle, Advertising, Distributing, SavedSumming)

    def __init__(self, scheme: Scheme) -> None:
        self._scheme = scheme

    def idle(self, state: Any) -> Idle:
        if isinstance(state, Idle):
            return state
        # A key that nobody but its maker ever used may be one that nobody else can open: then make another,
        # and let somebody else make it.
        consortium, custody = state.consortium, state.custody
        head = _most_named(state) if isinstance(state, Summing) else state.head
        if consortium is not None and len(consortium.holders) < 2:
            return Idle(None, replace(custody, failed=custody.failed | {consortium.custodian}), head)
        return Idle(consortium, custody, head, state.unheard)

    def body_bytes(self, count: int, *, packed: int) -> int:
        return self._scheme.body_bytes(count)

    def head_of(self, reply: Any) -> bytes:
        return bytes(reply.head)

    def heads(self, state: Any) -> frozenset[bytes]:
        return frozenset(state.groups)

    def refused(self, context: ServerContext, state: Any, client: ClientId, refusal: Refusal) -> Judged:
        """A client that refused may have lost its key: the next round gives it one again."""
        if isinstance(state, Distributing) and state.custodian == client and state.consortium is not None:
            # Whoever cannot pass the key on cannot contribute under it either.
            holders = state.consortium.holders - {client}
            return Judged(replace(state, consortium=replace(state.consortium, holders=holders)))
        if not isinstance(state, Summing):
            return Judged(state)
        known, custody, culprits = state.consortium, state.custody, {}
        delivery = known.deliveries.get(client)
        if delivery is not None and refusal.accused == delivery.custodian:
            custodian = delivery.custodian
            custody = custody.accused(custodian, client)
            if len(custody.accusers[custodian]) > corrupt_in(context):
                culprits = {custodian: "more clients say that it sealed them no key than could all be lying"}
        deliveries = {name: each for name, each in known.deliveries.items() if name != client}
        consortium = replace(known, holders=known.holders - {client}, deliveries=deliveries)
        heard = state.unheard - {client}
        return Judged(replace(state, consortium=consortium, custody=custody, unheard=heard), culprits)

    def begin(self, context: ServerContext, state: Idle, cohort: tuple[ClientId, ...]) -> Opened:
        consortium, custody, unheard = state.consortium, state.custody.among(cohort), state.unheard
        if consortium is not None:
            known = consortium.holders | consortium.deliveries.keys()
            # Somebody must be left of whom it is known that it can pass the key on: otherwise all are asked
            # as if they had kept it, and those who did not say so.
            if not (consortium.holders - unheard - custody.distrusted).isdisjoint(cohort):
                known -= unheard
            if known.issuperset(cohort):
                return self._collect(context, consortium, custody, state.head, unheard)
            able = consortium.holders.intersection(cohort)
            if not able and not consortium.holders <= custody.distrusted:
                raise ParameterError(
                    f"nobody of the cohort holds the session's key yet and can pass it on; ask one of "
                    f"{sorted(consortium.holders - custody.distrusted)} as well"
                )
            if able <= custody.distrusted:  # a key that only they can pass on is better made anew
                consortium = None
        newcomers = [client for client in cohort if consortium is None or client not in known]
        request = Announcement(context.suite.digest, cohort, context.round.length)
        following = Advertising(consortium, custody, state.head, unheard, {})
        return Opened(following, 0, dict.fromkeys(newcomers, request))

    def check(self, context: ServerContext, state: Any, sender: ClientId, reply: Any) -> Any:
        match state, reply:
            case Advertising(), AdvertiseKeys():
                signed = SignedKey(
                    context.suite.digest, context.session, context.roster.digest, sender, reply.channel_key
                )
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
                return self._take_update(context, state, sender, reply)
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
        consortium = state.consortium
        newcomers = {
            client: state.newcomers[client]
            for client in sorted(present)
            if consortium is None or not _kept(consortium, client, state.newcomers[client])
        }
        if consortium is not None and not newcomers:
            return self._collect(context, consortium, state.custody, state.head, state.unheard)
        if consortium is None and len(newcomers) < (least := _least(context)):
            raise RoundAborted(f"{len(newcomers)} clients advertised a key, at least {least} are needed")
        able = consortium.holders & set(context.round.cohort) if consortium is not None else set(newcomers)
        able -= context.dropped
        # The roster's first member that is present. Who was refused comes last, before that who may have lost
        # the key, and before that who made a delivery that nobody has taken yet.
        waiting = {each.custodian for each in consortium.deliveries.values()} if consortium else set()
        custodians = sorted(
            context.roster.order(able),
            key=lambda client: (
                client in state.custody.distrusted,
                client in state.unheard,
                client in waiting,
            ),
        )
        return self._ask(context, consortium, state, newcomers, tuple(custodians))

    def _ask(
        self,
        context: ServerContext,
        consortium: Consortium | None,
        before: Advertising | Distributing,
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
            consortium.key_id if consortium is not None else None,
            {client: key for client, key in newcomers.items() if client != custodian},
        )
        state = Distributing(
            consortium, before.custody, before.head, before.unheard, newcomers, custodian, tuple(others), None
        )
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
            context.roster.digest,
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
            return self._ask(context, known, state, newcomers, left)
        delivered = {
            client: Delivery(state.custodian, answer.public, answer.channel_key, sealed, answer.signature)
            for client, sealed in answer.sealed.items()
        }
        advertised = {client: each.channel_key for client, each in state.newcomers.items()}
        consortium = Consortium(
            answer.key_id,
            answer.public,
            state.custodian,
            (known.holders if known is not None else frozenset()) | {state.custodian},
            {**(known.deliveries if known is not None else {}), **delivered},
            known.asked if known is not None else {},
            {**(known.channels if known is not None else {}), **advertised},
        )
        return self._collect(context, consortium, state.custody, state.head, state.unheard)

    # Every round

    def _collect(
        self,
        context: ServerContext,
        consortium: Consortium,
        custody: Custody,
        head: bytes,
        unheard: frozenset[ClientId],
    ) -> Opened:
        ready = consortium.holders | consortium.deliveries.keys()
        round = context.round
        plain = Collect(
            context.suite.digest, round.cohort, round.length, consortium.key_id, None, round.model
        )
        requests = {
            client: replace(plain, delivery=consortium.deliveries[client])
            if client in consortium.deliveries  # who holds the key all the same does not look at it
            else plain
            for client in round.cohort
            if client in ready
        }
        asked = frozenset(requests.keys() - context.dropped)
        return Opened(Summing(consortium, custody, head, unheard | asked, {}, {}, frozenset()), 2, requests)

    def _total(self, context: ServerContext, consortium: Consortium) -> Total:
        count = context.suite.surface.elements(context.round.length)
        return self._scheme.total(consortium.public, count=count)

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

    def _take_update(
        self, context: ServerContext, state: Summing, sender: ClientId, reply: Contribution
    ) -> Summing:
        group = state.groups.get(reply.head)
        if group is None:
            state = _with_room(context, state, sender)
            group = Group({}, {}, self._total(context, state.consortium))
        group.total.add(reply.vector)
        consortium = state.consortium
        deliveries = {client: each for client, each in consortium.deliveries.items() if client != sender}
        taken = Group({**group.tags, sender: reply.tag}, {**group.minima, sender: reply.minimum}, group.total)
        return replace(
            state,
            consortium=replace(consortium, holders=consortium.holders | {sender}, deliveries=deliveries),
            unheard=state.unheard - {sender},
            groups={**state.groups, reply.head: taken},
            named={**state.named, reply.head: state.named.get(reply.head, 0) + 1},
            renewing=state.renewing | {sender} if reply.renew else state.renewing,
        )

    def _finish(self, context: ServerContext, state: Summing, present: frozenset[ClientId]) -> Finished:
        # The largest group; of equal ones, that of the roster's first member.
        place = context.round.cohort.index
        head, group = max(
            state.groups.items(), key=lambda each: (len(each[1].tags), -min(map(place, each[1].tags)))
        )
        minima, left = group.minima, len(present) - len(group.minima)
        others = f", and {left} whose updates answer other heads" if left else ""
        if len(minima) < (planned := _least(context)):
            raise RoundAborted(
                f"{len(minima)} contributors, at least {planned} are needed by the plan{others}"
            )
        if len(minima) < (least := max(minima.values())):
            strict = sorted(client for client, minimum in minima.items() if minimum > len(minima))
            raise RoundAborted(f"{len(minima)} contributors{others}; {strict} ask for up to {least}")
        tag = sum(int.from_bytes(each, "big") for each in group.tags.values()) % PRIME
        result = Result(
            context.round.number,
            state.consortium.key_id,
            minima,
            context.round.length,
            hashlib.sha256(context.round.model).digest(),
            head,
            tag.to_bytes(TAG_BYTES, "big"),
            memoryview(group.total.to_bytes()),
        )
        return Finished(
            Idle(_renewed(context, state), state.custody, _most_named(state), state.unheard),
            result=encode(result),
            left_out=dict.fromkeys(present - minima.keys(), "its update answers another head than the sum"),
            head=head,
        )

    # Saved states

    def freeze(self, context: ServerContext, state: Any) -> Any:
        if not isinstance(state, Summing):
            return state
        groups = tuple(
            (head, SavedGroup(each.tags, each.minima, each.total.to_bytes()))
            for head, each in state.groups.items()
        )
        count = context.suite.surface.elements(context.round.length)
        return SavedSumming(
            state.consortium,
            state.custody,
            state.head,
            state.unheard,
            count,
            groups,
            state.named,
            state.renewing,
        )

    def thaw(self, state: Any) -> Any:
        if not isinstance(state, SavedSumming):
            return state
        public, count = state.consortium.public, state.count
        groups = {
            head: Group(
                each.tags,
                each.minima,
                self._scheme.restore_total(public, each.total, count=count, summands=len(each.tags)),
            )
            for head, each in state.groups
        }
        return Summing(
            state.consortium,
            state.custody,
            state.head,
            state.unheard,
            groups,
            dict(state.named),
            state.renewing,
        )


def _kept(consortium: Consortium, client: ClientId, reply: AdvertiseKeys) -> bool:
    """Whether a client that was asked again still has what it had, so that nothing need be sealed to it."""
    known = client in consortium.holders or client in consortium.deliveries
    return known and consortium.channels.get(client) == reply.channel_key


def corrupt_in(context: ServerContext) -> int:
    """The corrupt clients that the round's plan counts on."""
    return context.plan(len(context.round.cohort)).corrupt


def _with_room(context: ServerContext, state: Summing, sender: ClientId) -> Summing:
    """The open sum with room for one more head.

    Each corrupt client may name a head of its own, beside the one that the honest have in common. If there
    are more, for somebody honest was away too long, the newest head that one client alone names gives way;
    but not what most named in the last round, so that a majority loses one round to the order of arrival.
    """
    if len(state.groups) <= corrupt_in(context):
        return state
    alone = [head for head, group in state.groups.items() if len(group.tags) == 1 and head != state.head]
    if not alone:
        raise LeftOutError("its update answers another head than the others", culprit=sender)
    return replace(state, groups={head: group for head, group in state.groups.items() if head != alone[-1]})


def _most_named(state: Summing) -> bytes:
    """What most updates of a round answered, those included whose head gave way."""
    return max(state.named, key=lambda head: state.named[head], default=b"")


def _renewed(context: ServerContext, state: Summing) -> Consortium | None:
    """The consortium, or nothing if the next set-up is to make another key.

    That is when more ask for it than may be corrupt, or half of all; or when one has asked for long, which
    may have seen more fail than the others.
    """
    asking, contributors = state.renewing, sum(len(each.tags) for each in state.groups.values())
    asked = {client: state.consortium.asked.get(client, 0) + 1 for client in asking}
    if len(asking) > corrupt_in(context) or 2 * len(asking) >= contributors:
        return None
    if max(asked.values(), default=0) >= PATIENCE:
        return None
    return replace(state.consortium, asked={**state.consortium.asked, **asked})


def _least(context: ServerContext) -> int:
    """Without how many clients of the round's cohort the plan opens nothing."""
    return context.plan(len(context.round.cohort)).min_survivors
