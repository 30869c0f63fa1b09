"""The server of MaskedSum: Bonawitz et al., CCS'17, Figure 4.

It relays keys and sealed shares, adds masked vectors as they come, and removes from the sum the self masks
of those who contributed and the pair masks of those who vanished after dealing shares. It learns the sum.
Every answer is checked when it comes, and whoever can be caught by it is left out and named. A dealer whose
shares do not open at enough holders is named too, but by then its masks are in the others' vectors: the round
is aborted, and the next can do without it.
"""

from dataclasses import dataclass, replace
from typing import Any, ClassVar, Final

from numpy.typing import NDArray

from protocols.identity import ClientId
from protocols.masked.keys import mask_private_key, pair_mask_seed, self_mask_seed
from protocols.masked.messages import (
    SHARE_PAIR_BYTES,
    AdvertiseKeys,
    Announcement,
    CohortKeys,
    CohortTranscript,
    CollectInput,
    Kind,
    MaskedInput,
    SelfMaskShare,
    ShareKeys,
    SignedKeys,
    Survivors,
    Unmask,
    least_survivors,
    mask_transcript,
    seed_commitment,
    share_hash,
)
from protocols.schema import U32, Key32, Name, encode
from protocols.suite import Finished, Opened, ServerContext, ServerSteps
from secagg import labels
from secagg.aead import OVERHEAD
from secagg.agreement import PrivateKey, check_canonical
from secagg.errors import ParameterError, PeerViolation, RoundAborted, VerificationError
from secagg.masking import apply_masks
from secagg.secret import Secret
from secagg.shamir import Share, combine

__all__ = ["MaskedServerSteps"]

PROBE: Final = PrivateKey(Secret(bytes(range(32))))
"""Any scalar shows a low-order point; nothing is protected by this one."""


@dataclass(frozen=True, slots=True)
class Idle:
    """Between rounds."""


@dataclass(frozen=True, slots=True)
class Advertising:
    """AdvertiseKeys is open: the keys so far (U_1)."""

    keys: dict[Name, AdvertiseKeys]


@dataclass(frozen=True, slots=True)
class Sharing:
    """ShareKeys is open: the dealt shares so far (U_2)."""

    threshold: U32
    least: U32
    transcript: Key32
    keys: dict[Name, AdvertiseKeys]
    dealt: dict[Name, ShareKeys]


@dataclass(frozen=True, slots=True)
class Summing:
    """MaskedInput is open: the sum of masked vectors so far, updated in place (U_3)."""

    threshold: U32
    least: U32
    holders: tuple[Name, ...]
    transcript: Key32
    keys: dict[Name, AdvertiseKeys]
    dealt: dict[Name, ShareKeys]
    total: NDArray[Any]
    unopened: dict[Name, frozenset[Name]]


@dataclass(frozen=True, slots=True)
class Unmasking:
    """Unmask is open: the shares revealed so far."""

    threshold: U32
    holders: tuple[Name, ...]
    transcript: Key32
    keys: dict[Name, AdvertiseKeys]
    dealt: dict[Name, ShareKeys]
    total: NDArray[Any]
    unopened: dict[Name, frozenset[Name]]
    survivors: frozenset[Name]
    revealed: dict[Name, Unmask]


class MaskedServerSteps(ServerSteps):
    """The table of legal (state, message) pairs."""

    states: ClassVar[tuple[type, ...]] = (Idle, Advertising, Sharing, Summing, Unmasking)

    def idle(self, state: Any) -> Idle:
        return Idle()

    def begin(self, context: ServerContext, state: Any, cohort: tuple[ClientId, ...]) -> Opened:
        request = Announcement(context.suite.digest, cohort, context.round.length)
        return Opened(Advertising({}), 0, dict.fromkeys(cohort, request))

    def absorb(self, context: ServerContext, state: Any, sender: ClientId, reply: Any) -> Any:
        match state, reply:
            case Advertising(), AdvertiseKeys():
                return take_keys(context, state, sender, reply)
            case Sharing(), ShareKeys():
                return take_shares(state, sender, reply)
            case Summing(), MaskedInput():
                return take_input(context, state, sender, reply)
            case Unmasking(), Unmask():
                return take_reveals(context, state, sender, reply)
        raise PeerViolation(f"{type(reply).__name__} came while {type(state).__name__}", culprit=sender)

    def close(self, context: ServerContext, state: Any, present: frozenset[ClientId]) -> Opened | Finished:
        match state:
            case Advertising():
                return open_sharing(context, state, present)
            case Sharing():
                return open_collecting(context, state, present)
            case Summing():
                return open_unmasking(state, present)
            case Unmasking():
                return finish(context, state, present)
        raise ParameterError("no exchange is open")


def take_keys(
    context: ServerContext, state: Advertising, sender: ClientId, reply: AdvertiseKeys
) -> Advertising:
    """Round 0: checks the signature and both points, so that one bad key does not stop everybody else."""
    signed = SignedKeys(
        context.suite.digest,
        context.session,
        context.round.number,
        context.round.cohort,
        context.round.length,
        sender,
        reply.channel_key,
        reply.mask_key,
        reply.minimum,
    )
    if reply.minimum > len(context.round.cohort):
        raise PeerViolation(
            f"it wants {reply.minimum} contributors, the cohort has {len(context.round.cohort)}",
            culprit=sender,
        )
    context.roster.verify(sender, reply.signature, encode(signed), label=labels.KEY_ADVERTISEMENT)
    known = {key for each in state.keys.values() for key in (each.channel_key, each.mask_key)}
    if reply.channel_key == reply.mask_key or known & {reply.channel_key, reply.mask_key}:
        raise PeerViolation("a public key that stands in the cohort already", culprit=sender)
    for key in (reply.channel_key, reply.mask_key):
        check_canonical(key)
        PROBE.agree(key)
    return Advertising({**state.keys, sender: reply})


def open_sharing(context: ServerContext, state: Advertising, present: frozenset[ClientId]) -> Opened:
    """End of round 0: assert |U_1| >= t, send everybody all keys."""
    keys = {client: state.keys[client] for client in sorted(present)}
    # The plan is made for the cohort that was announced: dropouts make no corrupt client honest.
    plan = context.suite.plan(len(context.round.cohort))
    threshold, least = plan.threshold, plan.min_survivors
    _enough(len(keys), least, "advertised keys")
    transcript = CohortTranscript(
        context.suite.digest,
        context.session,
        context.round.number,
        context.round.cohort,
        context.round.length,
        threshold,
        keys,
    ).digest()
    return Opened(Sharing(threshold, least, transcript, keys, {}), 1, dict.fromkeys(keys, CohortKeys(keys)))


def take_shares(state: Sharing, sender: ClientId, reply: ShareKeys) -> Sharing:
    """Round 1: one sealed pair of shares for each holder, none missing, none too many."""
    if reply.shares.keys() != state.keys.keys():
        raise PeerViolation("shares for other holders than the cohort's", culprit=sender)
    for holder, each in reply.shares.items():
        allowed = 0 if holder == sender else SHARE_PAIR_BYTES + OVERHEAD
        if len(each.sealed) != allowed:
            raise PeerViolation(f"a sealed share of {len(each.sealed)} bytes, not {allowed}", culprit=sender)
    return replace(state, dealt={**state.dealt, sender: reply})


def open_collecting(context: ServerContext, state: Sharing, present: frozenset[ClientId]) -> Opened:
    """End of round 1: assert |U_2| >= t, give each holder what was dealt to it."""
    dealt = {dealer: state.dealt[dealer] for dealer in sorted(present)}
    _enough(len(dealt), state.least, "dealt shares")
    # A client may have advertised keys and vanished before sharing (A16): it is a holder nobody will ask.
    holders = context.roster.order(state.keys)
    dealers = context.roster.order(dealt)
    surface = context.suite.surface
    total = surface.ring.zeros(surface.elements(context.round.length))
    transcript = mask_transcript(cohort_digest=state.transcript, dealers=dealers, model=context.round.model)
    requests = {
        holder: CollectInput(
            {dealer: each.shares[holder] for dealer, each in dealt.items() if dealer != holder},
            context.round.model,
        )
        for holder in dealers
    }
    keys = {dealer: state.keys[dealer] for dealer in dealers}
    following = Summing(state.threshold, state.least, holders, transcript, keys, dealt, total, {})
    return Opened(following, 2, requests)


def take_input(context: ServerContext, state: Summing, sender: ClientId, reply: MaskedInput) -> Summing:
    """Round 2: adds a vector whose masks were made under the transcript of this round, or names its maker."""
    if reply.transcript != state.transcript:
        raise PeerViolation("masks made under another transcript; they would not cancel", culprit=sender)
    if sender in reply.unopened or not reply.unopened <= state.dealt.keys():
        raise PeerViolation("a complaint about a client that dealt it nothing", culprit=sender)
    context.suite.surface.ring.add_packed(state.total, reply.vector)
    return replace(state, unopened={**state.unopened, sender: reply.unopened})


def open_unmasking(state: Summing, present: frozenset[ClientId]) -> Opened:
    """End of round 2: assert |U_3| >= t and that all can be unmasked, tell the survivors who they are."""
    minima = {client: state.keys[client].minimum for client in present}
    if len(present) < (least := least_survivors(state.least, minima, present)):
        strict = sorted(client for client in present if minima[client] > max(len(present), state.least))
        raise RoundAborted(
            f"{len(present)} clients contributed, at least {least} are needed; strictest: {strict}"
        )
    for dealer in state.dealt:
        holding = sum(dealer not in state.unopened[holder] for holder in present)
        if holding < state.threshold:
            raise RoundAborted(
                f"{holding} survivors say that they could open what {dealer!r} dealt, {state.threshold} must",
                culprits=frozenset([dealer]),
            )
    following = Unmasking(
        state.threshold,
        state.holders,
        state.transcript,
        state.keys,
        state.dealt,
        state.total,
        state.unopened,
        present,
        {},
    )
    return Opened(following, 3, dict.fromkeys(sorted(present), Survivors(present)))


def take_reveals(context: ServerContext, state: Unmasking, sender: ClientId, reply: Unmask) -> Unmasking:
    """Round 3: every share must be of the right kind and the very one that was dealt (ATTACKS B3)."""
    if reply.reveals.keys() != state.dealt.keys() - state.unopened[sender]:
        raise PeerViolation("other shares than it holds, by its own word", culprit=sender)
    for dealer, reveal in reply.reveals.items():
        kind = Kind.SELF_MASK if isinstance(reveal, SelfMaskShare) else Kind.PAIR_KEY
        if (kind is Kind.SELF_MASK) != (dealer in state.survivors):
            raise PeerViolation("a share of the other kind than was asked for", culprit=sender)
        sealed = state.dealt[dealer].shares[sender]
        promised = sealed.self_mask_hash if kind is Kind.SELF_MASK else sealed.pair_key_hash
        found = share_hash(
            session=context.session,
            round=context.round.number,
            dealer=dealer,
            holder=sender,
            kind=kind,
            share=reveal.share,
        )
        if found != promised:
            raise PeerViolation("a share that differs from the one that was dealt", culprit=sender)
        Share.decode(state.holders.index(sender) + 1, reveal.share)
    return replace(state, revealed={**state.revealed, sender: reply})


def finish(context: ServerContext, state: Unmasking, present: frozenset[ClientId]) -> Finished:
    """End of round 3: rebuild the secrets, take the masks off, decode the sum."""
    revealed = {holder: state.revealed[holder] for holder in sorted(present)}
    _enough(len(revealed), state.threshold, "revealed shares")
    order = {client: position for position, client in enumerate(context.roster.order(state.dealt))}
    seeds: list[Secret] = []
    pairs_add: list[Secret] = []
    pairs_subtract: list[Secret] = []
    for dealer, position in order.items():
        secret = _rebuild(state, dealer, revealed)
        if dealer in state.survivors:
            _check_seed(context, state, dealer, secret)
            seeds.append(self_mask_seed(secret, transcript=state.transcript, client=dealer))
            continue
        # Fig. 4, round 3: recompute p_{v,u} of a dropped client for every survivor, with the other sign.
        private = PrivateKey(mask_private_key(secret))
        if private.public_key != state.keys[dealer].mask_key:
            raise _misdealt(dealer, "that do not rebuild the key it advertised")
        for survivor in state.survivors:
            low, high = sorted((dealer, survivor), key=order.__getitem__)
            seed = pair_mask_seed(
                private, state.keys[survivor].mask_key, transcript=state.transcript, low=low, high=high
            )
            (pairs_subtract if order[survivor] > position else pairs_add).append(seed)
    ring = context.suite.surface.ring
    apply_masks(state.total, ring=ring, add=pairs_add, subtract=[*seeds, *pairs_subtract])
    return Finished(Idle(), total=context.suite.surface.decode(state.total, state.survivors))


def _rebuild(state: Unmasking, dealer: ClientId, revealed: dict[ClientId, Unmask]) -> Secret:
    shares = [
        Share.decode(state.holders.index(holder) + 1, reply.reveals[dealer].share)
        for holder, reply in revealed.items()
        if dealer in reply.reveals
    ]
    if len(shares) < state.threshold:
        raise RoundAborted(f"{len(shares)} shares of {dealer!r} are left, {state.threshold} are needed")
    try:
        return combine(shares, threshold=state.threshold)
    except VerificationError:
        raise _misdealt(dealer, "that do not lie on one polynomial") from None


def _check_seed(context: ServerContext, state: Unmasking, dealer: ClientId, seed: Secret) -> None:
    found = seed_commitment(
        session=context.session, round=context.round.number, dealer=dealer, seed=seed.reveal()
    )
    if found != state.dealt[dealer].commitment:
        raise _misdealt(dealer, "that do not rebuild the seed it committed to")


def _misdealt(dealer: ClientId, how: str) -> RoundAborted:
    return RoundAborted(f"{dealer!r} dealt shares {how}", culprits=frozenset([dealer]))


def _enough(count: int, needed: int, what: str) -> None:
    if count < needed:
        raise RoundAborted(f"{count} clients {what}, at least {needed} are needed")
