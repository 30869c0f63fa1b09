"""The server of MaskedSum: Bonawitz et al., CCS'17, Figure 4, on the graph of Bell et al., CCS'20.

It relays keys and sealed shares, adds masked vectors as they come, and removes from the sum the self masks
of those who contributed and the pair masks of those who vanished after dealing shares. It learns the sum.
Every answer is checked when it comes, and whoever can be caught by it is left out and named. A dealer whose
shares turn out wrong later is named too, but by then its masks are in the others' vectors: the round is
aborted, and the next can do without it.

Clients are numbered by their places in the epoch's cohort. What came from them is kept in the columns that
it came in, and relayed by slices.
"""

import hashlib
from collections import Counter
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from protocols.identity import ClientId
from protocols.machine.suite import Finished, Judged, Opened, ServerContext, ServerSteps
from protocols.masked.accusing import judge
from protocols.masked.admission import check_keys, open_sharing, require_enough, take_keys
from protocols.masked.collecting import check_words, lanes_of
from protocols.masked.epoch import Epoch
from protocols.masked.messages import (
    COMMITMENT_BYTES,
    AdvertiseKeys,
    Announcement,
    CollectInput,
    ConsistencyCheck,
    MaskedInput,
    Quorum,
    ShareKeys,
    Survivors,
    Unmask,
)
from protocols.masked.relay import (
    Dealings,
    Places,
    check_dealing,
    disagreements,
    flags,
    holders_left,
    layout_of,
    one_object,
    relay,
)
from protocols.masked.server_states import (
    Accusers,
    Advertising,
    Confirming,
    Idle,
    Sharing,
    Standing,
    Summing,
    Unmasking,
)
from protocols.masked.transcript import (
    SignedInput,
    SignedSurvivors,
    mask_transcript,
)
from protocols.masked.unmasking import check_reveals, remove_masks
from protocols.messages.envelope import Refusal
from protocols.messages.schema import encode
from protocols.planning.requirements import Adversary, Plan
from secagg import labels
from secagg.errors import ParameterError, PeerViolation, RoundAborted

__all__ = ["MaskedServerSteps"]


class MaskedServerSteps(ServerSteps):
    """The table of legal (state, message) pairs."""

    states: ClassVar[tuple[type, ...]] = (Idle, Advertising, Sharing, Summing, Confirming, Unmasking)

    def idle(self, state: Any) -> Idle:
        return state if isinstance(state, Idle) else Idle(accusers=accusers_in(state))

    def begin(self, context: ServerContext, state: Any, cohort: tuple[ClientId, ...]) -> Opened:
        standing = state.standing
        if standing is not None and _goes_on(standing, cohort):
            return open_collecting(
                context,
                state.accusers,
                standing.epoch,
                standing.minima,
                standing.dealings,
                present=frozenset(cohort),
            )
        request = Announcement(context.suite.digest, cohort, context.round.length)
        return Opened(Advertising(state.accusers), 0, dict.fromkeys(cohort, request))

    def check(self, context: ServerContext, state: Any, sender: ClientId, reply: Any) -> Any:
        match state, reply:
            case Advertising(), AdvertiseKeys():
                check_keys(context, sender, reply)
            case Sharing(), ShareKeys():
                place = state.epoch.members.index(sender)
                check_dealing(context, state.epoch, state.dealings, place, reply)
            case Summing(), MaskedInput():
                check_input(context, state, sender, reply)
            case Confirming(), ConsistencyCheck():
                # A signature on the very survivors that were sent.
                context.roster.verify(sender, reply.signature, state.statement, label=labels.SURVIVORS)
            case Unmasking(), Unmask():
                check_unmask(context, state, sender, reply)
        return reply

    def absorb(self, context: ServerContext, state: Any, sender: ClientId, reply: Any) -> Any:
        match state, reply:
            case Advertising(), AdvertiseKeys():
                return take_keys(state, sender, reply)
            case Sharing(), ShareKeys():
                state.dealings.made[state.epoch.members.index(sender)] = reply
                return state
            case Summing(), MaskedInput():
                return take_input(context, state, sender, reply)
            case Confirming(), ConsistencyCheck():
                state.signatures[state.sum.epoch.members.index(sender)] = reply.signature
                return state
            case Unmasking(), Unmask():
                place = state.sum.epoch.members.index(sender)
                state.revealed[place] = reply.shares
                state.following.made[place] = reply.next
                return state
        raise PeerViolation(f"{type(reply).__name__} came while {type(state).__name__}", culprit=sender)

    def close(self, context: ServerContext, state: Any, present: frozenset[ClientId]) -> Opened | Finished:
        match state:
            case Advertising():
                return open_sharing(context, state, present)
            case Sharing():
                return open_collecting(
                    context, state.accusers, state.epoch, state.minima, state.dealings, present=present
                )
            case Summing():
                return close_collecting(context, state, present)
            case Confirming():
                return close_confirming(context, state, present)
            case Unmasking():
                return finish(context, state, present)
        raise ParameterError("no exchange is open")

    def refused(self, context: ServerContext, state: Any, client: ClientId, refusal: Refusal) -> Judged:
        if not (isinstance(state, Summing) and state.dealings.first and refusal.accused):
            return Judged(state)
        epoch, accused = state.epoch, refusal.accused
        if epoch.members.index(client) in state.inputs:  # it has vouched for its edges
            return Judged(state)
        culprit, reason = judge(
            epoch, state.dealings, state.active, accuser=client, accused=accused, proof=refusal.proof
        )
        if culprit == accused:
            state = replace(state, guilty=state.guilty | {epoch.members.index(accused)})
        return Judged(state, {culprit: reason})

    def plan(self, context: ServerContext, state: Any) -> Plan:
        """That of the epoch's cohort, which may be larger than the round's."""
        match state:
            case Sharing() | Summing():
                return context.plan(len(state.epoch.cohort))
            case Confirming() | Unmasking():
                return context.plan(len(state.sum.epoch.cohort))
        return super().plan(context, state)

    def body_bytes(self, count: int, *, packed: int) -> int:
        return packed + 2 * 16  # the check words, and the rounding of both to whole bytes


def _goes_on(standing: Standing, cohort: tuple[ClientId, ...]) -> bool:
    """Whether this cohort's next round is prepared: nobody new, and enough neighbours around each."""
    epoch = standing.epoch
    if not all(client in epoch.members for client in cohort):
        return False
    places = frozenset(epoch.members.index(client) for client in cohort)
    if not places <= standing.dealings.made.keys():
        return False
    if len(places) < least_survivors(epoch, standing.minima, places):
        return False
    # Who vanished in an earlier round of the epoch counts as lost in this one too. When half of what may be
    # lost is gone, new keys are cheaper than an aborted round.
    if 2 * (len(places) - epoch.least) < len(epoch.cohort) - epoch.least:
        return False
    if not epoch.seed:
        return True
    return bool(holders_left(epoch, places)[sorted(places)].min() >= epoch.least_neighbours)


# Round 1, ShareKeys


def open_collecting(
    context: ServerContext,
    accusers: Accusers,
    epoch: Epoch,
    minima: dict[int, int],
    dealings: Dealings,
    *,
    present: frozenset[ClientId],
) -> Opened:
    """End of round 1, or the begin of a later round: assert |U_2| >= t, give each what was dealt to it."""
    active = one_object(frozenset(epoch.members.index(client) for client in present))
    require_survivors(epoch, minima, active, "dealt shares")
    # A client may have advertised keys and vanished before sharing (A16): it is a holder nobody will ask.
    surface, length = context.suite.surface, context.round.length
    lanes = lanes_of(surface)
    bitmap = epoch.members.bitmap(present)
    transcript = mask_transcript(
        epoch=epoch.digest,
        origin=dealings.origin,
        round=context.round.number,
        length=length,
        active=bitmap,
        model=hashlib.sha256(context.round.model).digest(),
    )
    requests, expected = {}, {}
    for holder, each in relay(epoch, dealings, active).items():
        requests[epoch.cohort[holder]] = CollectInput(
            dealings.origin,
            length,
            bitmap,
            each.sealed,
            each.hashes,
            each.edges,
            each.encapsulations,
            context.round.model,
        )
        expected[holder] = each.expected
    total = lanes.wide.zeros(lanes.words(surface.elements(length) + check_words(lanes.ring.bits)))
    kept = dealings.without_seals(active)
    following = Summing(accusers, epoch, minima, kept, active, expected, transcript, total, {}, {})
    return Opened(following, 2, requests)


# Round 2, MaskedInputCollection


def check_input(context: ServerContext, state: Summing, sender: ClientId, reply: MaskedInput) -> None:
    """A vector whose masks were made under the transcript of this round, signed; else its maker is named.

    So is who complains of more dealers than can all have lied to it.
    """
    if reply.transcript != state.transcript:
        raise PeerViolation("masks made under another transcript; they would not cancel", culprit=sender)
    epoch = state.epoch
    place = epoch.members.index(sender)
    unopened = frozenset(epoch.members.places(reply.unopened))
    if unopened and not unopened <= set(epoch.among(epoch.graph.neighbours(place), state.active)):
        raise PeerViolation("a complaint about a client that dealt it nothing", culprit=sender)
    liars = max(epoch.corrupt_neighbours, 1)  # where none is planned for, one may lie all the same
    if len(unopened) > liars:
        raise PeerViolation(
            f"complaints about {len(unopened)} clients, of whom {liars} may be corrupt",
            culprit=sender,
        )
    statement = encode(SignedInput(reply.transcript))
    context.roster.verify(sender, reply.signature, statement, label=labels.MASKED_INPUT)


def take_input(context: ServerContext, state: Summing, sender: ClientId, reply: MaskedInput) -> Summing:
    """Adds a checked vector. The buffer is checked before it is added to anything."""
    place = state.epoch.members.index(sender)
    lanes_of(context.suite.surface).wide.add_packed(state.total, reply.vector)
    state.unopened[place] = frozenset(state.epoch.members.places(reply.unopened))
    state.inputs[place] = reply.signature
    return state


def close_collecting(context: ServerContext, state: Summing, present: frozenset[ClientId]) -> Opened:
    """End of round 2: assert |U_3| >= t and that all can be unmasked, tell the survivors who they are."""
    epoch = state.epoch
    survivors = one_object(frozenset(epoch.members.index(client) for client in present))
    if caught := survivors & state.guilty:
        # Its masks are in the sum. They cannot be taken off, so nobody needs to reveal anything any more.
        names = frozenset(epoch.cohort[place] for place in caught)
        raise RoundAborted(f"{sorted(names)} contributed, and dealt a wrong pair secret", culprits=names)
    require_survivors(epoch, state.minima, survivors, "contributed")
    left = holders_left(epoch, survivors).tolist()
    against = Counter(dealer for holder in survivors for dealer in state.unopened[holder])
    for dealer in sorted(state.active):
        complaints = against[dealer]
        holding = left[dealer] - complaints
        if holding < epoch.threshold:
            raise RoundAborted(
                f"{holding} surviving holders could open what {epoch.cohort[dealer]!r} dealt, "
                f"{epoch.threshold} must; {complaints} complain",
                culprits=blamed(state, dealer, complaints),
            )
    bitmap, model = epoch.members.bitmap(present), hashlib.sha256(context.round.model).digest()
    if context.suite.requirements.adversary is Adversary.MALICIOUS:
        request = Survivors(bitmap, model)
        statement = encode(SignedSurvivors(state.transcript, bitmap))
        following = Confirming(state, survivors, statement, {})
        return Opened(following, 3, dict.fromkeys(sorted(present), request))
    return open_unmasking(context, state, survivors, sorted(survivors), signatures={})


def blamed(state: Summing, dealer: int, complaints: int) -> frozenset[ClientId]:
    """The dealer, if more complain of it than could all have made it up; and who complained of too many.

    A share that does not open proves nothing without the key of its channel, which opens all that the dealer
    ever sealed to that client. So accusers are counted: those of one round against the corrupt neighbours
    that a client may have; and all of the session against the corrupt clients that there may be, for a dealer
    may wrong one client at a time, and a client cry wolf. On a random graph the session's cannot be held
    against the former: each epoch has another graph, and brings other corrupt neighbours.
    """
    epoch, accusers = state.epoch, accusers_in(state)
    name = epoch.cohort[dealer]
    found = {name} if complaints > epoch.corrupt_neighbours else set()
    found |= {accused for accused in accusers if len(accusers[accused]) > epoch.corrupt}
    accused_by = Counter(accuser for those in accusers.values() for accuser in those)
    found |= {accuser for accuser, count in accused_by.items() if count > max(epoch.corrupt, 1)}
    return frozenset(found).intersection(epoch.cohort)


def accusers_in(state: Any) -> Accusers:
    """Who complained of whom so far, this round included."""
    summing = state.sum if isinstance(state, Confirming | Unmasking) else state
    accusers: Accusers = dict(summing.accusers)
    if isinstance(summing, Summing):
        cohort = summing.epoch.cohort
        for holder, dealers in summing.unopened.items():
            for dealer in dealers:
                name = cohort[dealer]
                accusers[name] = accusers.get(name, frozenset()) | {cohort[holder]}
    return accusers


def open_unmasking(
    context: ServerContext,
    state: Summing,
    survivors: frozenset[int],
    asked: list[int],
    *,
    signatures: dict[int, bytes],
) -> Opened:
    """Asks for shares: tells who survived, and shows each client that its neighbours heard the same story."""
    epoch = state.epoch
    bitmap = epoch.members.bitmap_of(survivors)
    signers = epoch.members.bitmap_of(signatures)
    model = hashlib.sha256(context.round.model).digest()
    signed = b"".join(signature for _, signature in sorted(signatures.items()))
    near = layout_of(epoch, survivors).neighbours
    layout_of(epoch, state.active)  # as in `open_sharing`: what many threads need is made before
    requests = {}
    for place in asked:
        inputs = b"".join(map(state.inputs.__getitem__, near.holders_of(place).tolist()))
        requests[epoch.cohort[place]] = Quorum(bitmap, model, inputs, signers, signed)
    following = Dealings(context.round.number + 1, survivors, {}, {})
    exchange = len(context.suite.exchanges) - 1
    return Opened(Unmasking(state, survivors, {}, following), exchange, requests)


# Round 3, ConsistencyCheck: only against a malicious server


def close_confirming(context: ServerContext, state: Confirming, present: frozenset[ClientId]) -> Opened:
    """End of round 3: a quorum's signatures go to all who signed."""
    epoch = state.sum.epoch
    require_enough(len(present), epoch.quorum, "signed the survivors")
    asked = sorted(epoch.members.index(client) for client in present)
    signatures = {place: state.signatures[place] for place in asked[: epoch.quorum]}
    return open_unmasking(context, state.sum, state.survivors, asked, signatures=signatures)


# Round 3 or 4, Unmasking


def check_unmask(context: ServerContext, state: Unmasking, sender: ClientId, reply: Unmask) -> None:
    """Every share must be of the right kind and the very one that was dealt (ATTACKS B3)."""
    summing = state.sum
    epoch = summing.epoch
    place = epoch.members.index(sender)
    opened = opened_by(summing, place)
    dealers = dealers_of(summing, place)[opened]
    promised = np.frombuffer(summing.expected[place], dtype=np.uint8).reshape(-1, 2, COMMITMENT_BYTES)
    check_reveals(
        reply,
        bound=epoch.context(summing.dealings.origin),
        holder=place,
        client=sender,
        dealers=dealers,
        promised=promised[opened],
        survived=flags(epoch, state.survivors)[dealers],
    )
    check_dealing(context, epoch, state.following, place, reply.next)


def dealers_of(state: Summing, holder: int) -> Places:
    """The dealers whose shares went to a holder, ascending."""
    return layout_of(state.epoch, state.active).holders.holders_of(holder)


def opened_by(state: Summing, holder: int) -> NDArray[np.bool_]:
    """Which of `dealers_of` a survivor holds a share of, by its own word."""
    dealers = dealers_of(state, holder)
    if not state.unopened[holder]:
        return np.ones(len(dealers), dtype=bool)
    return ~np.isin(dealers, sorted(state.unopened[holder]))


def finish(context: ServerContext, state: Unmasking, present: frozenset[ClientId]) -> Finished:
    """End of round 3: rebuild the secrets, take the masks off, see that they cancelled, decode the sum.

    Shares were revealed for this sum. Should it not end well, it must be taken for opened: whoever lied may
    have spoilt no more than a hash or a check word, and who vanished may have given its shares to somebody.
    """
    contributors = frozenset(state.sum.epoch.cohort[place] for place in state.survivors)
    try:
        return _opened(context, state, present, contributors)
    except RoundAborted as error:
        raise RoundAborted(error.reason, culprits=error.culprits, opened=contributors) from error


def _opened(
    context: ServerContext, state: Unmasking, present: frozenset[ClientId], contributors: frozenset[ClientId]
) -> Finished:
    summing, epoch = state.sum, state.sum.epoch
    there = frozenset(epoch.members.index(client) for client in present)
    shares = {
        holder: (dealers_of(summing, holder)[opened_by(summing, holder)], state.revealed[holder])
        for holder in there
    }
    surface = context.suite.surface
    lanes = lanes_of(surface)
    remove_masks(
        summing.total,
        ring=lanes.wide,
        epoch=epoch,
        dealings=summing.dealings,
        transcript=summing.transcript,
        active=summing.active,
        survivors=state.survivors,
        shares=shares,
    )
    elements, padding = surface.elements(context.round.length), check_words(lanes.ring.bits)
    if lanes.ring.residues(lanes.view(summing.total, elements + padding)[elements:]).any():
        raise RoundAborted(
            "the masks do not cancel: some clients made theirs from other secrets than they dealt; what is "
            "left is no sum"
        )
    total = surface.decode(lanes.view(summing.total, elements, padding=padding), contributors)
    return Finished(Idle(_standing(state, there), accusers_in(state)), total=total)


def _standing(state: Unmasking, there: frozenset[int]) -> Standing | None:
    """What the next round can build on: the dealings of those who answered and agree on their edges."""
    epoch = state.sum.epoch
    made = {place: state.following.made[place] for place in sorted(there)}
    following = Dealings(state.following.origin, state.following.present, made, {})
    for place in disagreements(epoch, following):
        del made[place]
    if len(made) < epoch.least:
        return None
    return Standing(epoch, state.sum.minima, following)


def least_survivors(epoch: Epoch, minima: dict[int, int], there: frozenset[int]) -> int:
    """Without how many survivors the clients reveal nothing: see `View.least`."""
    bound = minima if epoch.splits else there
    return max(epoch.least, epoch.survivors_for(max((minima[place] for place in bound), default=0)))


def require_survivors(epoch: Epoch, minima: dict[int, int], there: frozenset[int], what: str) -> None:
    """Aborts when fewer are left than the plan or the strictest client asks for."""
    if len(there) >= (least := least_survivors(epoch, minima, there)):
        return
    bound = minima if epoch.splits else there
    most = max((minima[place] for place in bound), default=0)
    strict = sorted(epoch.cohort[place] for place in bound if minima[place] == most)
    raise RoundAborted(f"{len(there)} clients {what}, at least {least} are needed; strictest: {strict}")
