"""The client of MaskedSum: Bonawitz et al., CCS'17, Figure 4, the honest-but-curious protocol.

Four steps, each a pure function from a state and a request to the next state and a reply. A state holds what
is known then and no more: the private keys are gone once the masks are on, the vector never stays.

Against a server that follows the protocol and reads everything, together with fewer than `threshold` clients.
A server that lies about who survived is not answered here; still, a client reveals one kind of share for a
peer, once in a round, whatever it is asked (`Reveal`).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Final

from protocols.identity import ClientId
from protocols.masked.keys import RoundKeys, channel_key, mask_private_key, pair_mask_seed, self_mask_seed
from protocols.masked.messages import (
    AdvertiseKeys,
    Announcement,
    CohortKeys,
    CohortTranscript,
    CollectInput,
    Kind,
    MaskedInput,
    PairKeyShare,
    SealedShares,
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
from protocols.schema import U32, U64, Key32, Name, encode
from protocols.suite import Asked, ClientContext, ClientSteps, Replied, check_request
from protocols.summand import Summand, Words
from secagg import labels
from secagg.aead import open_sealed, seal
from secagg.agreement import PrivateKey, check_canonical
from secagg.errors import DecodeError, ParameterError, PeerViolation, VerificationError
from secagg.masking import MaskStream
from secagg.secret import Secret
from secagg.shamir import SHARE_BYTES, Share, split

__all__ = ["MaskedClientSteps"]

FROM_SERVER: Final = "server"


@dataclass(frozen=True, slots=True)
class Idle:
    """Between rounds: no secret at all."""


@dataclass(frozen=True, slots=True)
class Advertised:
    """After AdvertiseKeys."""

    cohort: tuple[Name, ...]
    length: U64
    channel: Secret
    round_secret: Secret
    self_mask_seed: Secret
    mine: AdvertiseKeys


@dataclass(frozen=True, slots=True)
class Shared:
    """After ShareKeys: who is in the cohort (U_1), and the shares of its own secrets that it keeps."""

    length: U64
    least: U32
    transcript: Key32
    keys: dict[Name, AdvertiseKeys]
    channel: Secret
    mask_private: Secret
    self_mask_seed: Secret
    own_shares: Secret


@dataclass(frozen=True, slots=True)
class Collecting:
    """Asked for the update: the mask seeds are derived and the private keys are gone."""

    least: U32
    minima: dict[Name, U32]
    transcript: Key32
    dealers: tuple[Name, ...]
    held: dict[Name, Secret]
    add: tuple[Secret, ...]
    subtract: tuple[Secret, ...]


@dataclass(frozen=True, slots=True)
class Masked:
    """After MaskedInput: only shares are left."""

    least: U32
    minima: dict[Name, U32]
    dealers: tuple[Name, ...]
    held: dict[Name, Secret]


@dataclass(frozen=True, slots=True)
class Revealed:
    """After Unmask: nothing is left to say in this round."""


class MaskedClientSteps(ClientSteps):
    """The table of legal (state, request) pairs."""

    states: ClassVar[tuple[type, ...]] = (Idle, Advertised, Shared, Collecting, Masked, Revealed)

    def idle(self, state: Any) -> Idle:
        return Idle()

    def react(self, context: ClientContext, state: Any, request: Any) -> Replied | Asked:
        match state, request:
            case Idle(), Announcement():
                return advertise_keys(context, request)
            case Advertised(), CohortKeys():
                return share_keys(context, state, request)
            case Shared(), CollectInput():
                return prepare_input(context, state, request)
            case Masked(), Survivors():
                return unmask(context, state, request)
        raise PeerViolation(
            f"{type(request).__name__} came where this client is {type(state).__name__}", culprit=FROM_SERVER
        )

    def fold(self, context: ClientContext, state: Any, summand: Summand) -> Replied:
        return mask_input(context, state, summand)


def advertise_keys(context: ClientContext, request: Announcement) -> Replied:
    """Round 0, AdvertiseKeys: two fresh key pairs, signed."""
    check_request(context, parameters=request.parameters, cohort=request.cohort, length=request.length)
    # CCS'17, Fig. 4, round 0: generate <c_u^PK, c_u^SK> and <s_u^PK, s_u^SK>. The third secret, b_u, is drawn
    # here too, so that all of a round's secrets come from one place.
    keys = RoundKeys.draw(context.entropy)
    signed = SignedKeys(
        request.parameters,
        context.session,
        context.round,
        request.cohort,
        request.length,
        context.me,
        keys.channel_public,
        keys.mask_public,
        context.min_contributors,
    )
    signature = context.identity.key.sign(encode(signed), label=labels.KEY_ADVERTISEMENT)
    mine = AdvertiseKeys(keys.channel_public, keys.mask_public, context.min_contributors, signature)
    state = Advertised(
        request.cohort, request.length, keys.channel, keys.round_secret, keys.self_mask_seed, mine
    )
    return Replied(state, mine)


def share_keys(context: ClientContext, state: Advertised, request: CohortKeys) -> Replied:
    """Round 1, ShareKeys: check the others' keys, then deal sealed shares of both secrets."""
    keys = request.keys
    _check_keys(context, state, keys)
    # Fig. 4, round 1: assert |U_1| >= t. The plan is this client's own, not a number that the server may
    # choose, and is made for the cohort that was announced: dropouts make no corrupt client honest.
    try:
        plan = context.suite.plan(len(state.cohort))
    except ParameterError as error:
        raise PeerViolation(str(error), culprit=FROM_SERVER) from None
    threshold, least = plan.threshold, max(plan.min_survivors, context.min_contributors)
    if len(keys) < least:
        raise PeerViolation(f"keys of {len(keys)} clients; {least} are needed", culprit=FROM_SERVER)
    holders = context.roster.order(keys)
    transcript = CohortTranscript(
        context.suite.digest, context.session, context.round, state.cohort, state.length, threshold, keys
    ).digest()
    # Fig. 4, round 1: t-out-of-|U_1| shares of s_u^SK (here: of the secret behind it) and of b_u. A share's
    # index is its holder's place in the cohort, fixed by the roster and never chosen by a party (B4).
    indices = tuple(range(1, len(holders) + 1))
    pair_shares = split(state.round_secret, threshold=threshold, indices=indices, entropy=context.entropy)
    self_shares = split(state.self_mask_seed, threshold=threshold, indices=indices, entropy=context.entropy)
    dealt: dict[ClientId, SealedShares] = {}
    own = Secret(b"")
    channel = PrivateKey(state.channel)
    for holder, pair_share, self_share in zip(holders, pair_shares, self_shares, strict=True):
        plain = self_share.encode() + pair_share.encode()
        sealed = b""
        if holder == context.me:
            own = Secret(plain)
        else:
            # Fig. 4, round 1: e_{u,v} = AE.enc(KA.agree(c_u^SK, c_v^PK), u || v || shares).
            key = channel_key(
                channel,
                keys[holder].channel_key,
                transcript=transcript,
                sender=context.me,
                receiver=holder,
            )
            sealed = seal(key, plain, associated_data=transcript, entropy=context.entropy)
        dealt[holder] = SealedShares(
            sealed,
            _hash(context, context.me, holder, Kind.SELF_MASK, plain[:SHARE_BYTES]),
            _hash(context, context.me, holder, Kind.PAIR_KEY, plain[SHARE_BYTES:]),
        )
    commitment = seed_commitment(
        session=context.session, round=context.round, dealer=context.me, seed=state.self_mask_seed.reveal()
    )
    following = Shared(
        state.length,
        least,
        transcript,
        keys,
        state.channel,
        mask_private_key(state.round_secret),
        state.self_mask_seed,
        own,
    )
    return Replied(following, ShareKeys(dealt, commitment))


def _hash(context: ClientContext, dealer: ClientId, holder: ClientId, kind: Kind, share: bytes) -> bytes:
    return share_hash(
        session=context.session, round=context.round, dealer=dealer, holder=holder, kind=kind, share=share
    )


def _check_keys(context: ClientContext, state: Advertised, keys: dict[ClientId, AdvertiseKeys]) -> None:
    """Everything that may be wrong with the keys that the server relays (ATTACKS A4, A11, B5)."""
    if not keys.keys() <= set(state.cohort):
        raise PeerViolation("keys of a client that was not announced", culprit=FROM_SERVER)
    if keys.get(context.me) != state.mine:
        raise PeerViolation("the cohort's keys do not hold this client's own", culprit=FROM_SERVER)
    public = [key for each in keys.values() for key in (each.channel_key, each.mask_key)]
    for key in public:
        check_canonical(key)
    if len(set(public)) != len(public):  # Fig. 4, round 1: assert that all the public key pairs differ
        raise PeerViolation("a public key stands in the cohort twice", culprit=FROM_SERVER)
    for client, each in keys.items():
        signed = SignedKeys(
            context.suite.digest,
            context.session,
            context.round,
            state.cohort,
            state.length,
            client,
            each.channel_key,
            each.mask_key,
            each.minimum,
        )
        try:
            context.roster.verify(client, each.signature, encode(signed), label=labels.KEY_ADVERTISEMENT)
        except VerificationError:
            raise PeerViolation(
                f"the keys of {client!r} are not signed by it for this round", culprit=FROM_SERVER
            ) from None


def prepare_input(context: ClientContext, state: Shared, request: CollectInput) -> Asked:
    """Round 2, MaskedInputCollection, first half: open the shares, derive the mask seeds, drop the keys."""
    dealers = context.roster.order(set(request.sealed) & set(state.keys) | {context.me})
    if set(request.sealed) != set(dealers) - {context.me}:
        raise PeerViolation("shares of a client whose keys were not in the cohort", culprit=FROM_SERVER)
    # Fig. 4, round 2: assert |U_2| >= t.
    if len(dealers) < state.least:
        raise PeerViolation(
            f"{len(dealers)} clients dealt shares; {state.least} are needed", culprit=FROM_SERVER
        )
    held = {context.me: state.own_shares}
    channel = PrivateKey(state.channel)
    for dealer, sealed in request.sealed.items():
        held.update(_open_shares(context, state, channel, dealer, sealed))
    transcript = mask_transcript(cohort_digest=state.transcript, dealers=dealers, model=request.model)
    add = [self_mask_seed(state.self_mask_seed, transcript=transcript, client=context.me)]
    subtract: list[Secret] = []
    private = PrivateKey(state.mask_private)
    place = {client: position for position, client in enumerate(dealers)}
    for peer in dealers:
        if peer == context.me:
            continue
        # Fig. 4, round 2: p_{u,v} = Δ_{u,v}·PRG(s_{u,v}), with Δ = 1 for u > v and -1 for u < v.
        low, high = sorted((context.me, peer), key=place.__getitem__)
        seed = pair_mask_seed(private, state.keys[peer].mask_key, transcript=transcript, low=low, high=high)
        (add if place[context.me] > place[peer] else subtract).append(seed)
    minima = {dealer: state.keys[dealer].minimum for dealer in dealers}
    following = Collecting(state.least, minima, transcript, dealers, held, tuple(add), tuple(subtract))
    return Asked(following, state.length, request.model)


def _open_shares(
    context: ClientContext, state: Shared, channel: PrivateKey, dealer: ClientId, dealt: SealedShares
) -> dict[ClientId, Secret]:
    """The shares that `dealer` sealed to this client; none when they do not open or differ from its hashes.

    This client then holds no share of that dealer, and says so with its vector: the blame is the dealer's,
    and nobody can be made to reveal a share that looks wrong to the server (ATTACKS B3).
    """
    try:
        key = channel_key(
            channel,
            state.keys[dealer].channel_key,
            transcript=state.transcript,
            sender=dealer,
            receiver=context.me,
        )
        shares = open_sealed(key, dealt.sealed, associated_data=state.transcript)
        plain = shares.reveal()
        self_share, pair_share = plain[:SHARE_BYTES], plain[SHARE_BYTES:]
        for share in (self_share, pair_share):
            Share.decode(1, share)  # canonical, or the server could not use it
    except (VerificationError, DecodeError):
        return {}
    promised = dealt.self_mask_hash, dealt.pair_key_hash
    found = (
        _hash(context, dealer, context.me, Kind.SELF_MASK, self_share),
        _hash(context, dealer, context.me, Kind.PAIR_KEY, pair_share),
    )
    return {dealer: shares} if found == promised else {}


def mask_input(context: ClientContext, state: Collecting, summand: Summand) -> Replied:
    """Round 2, second half: y_u = x_u + PRG(b_u) + Σ_v p_{u,v} mod R, in one pass over the blocks."""
    ring = context.suite.surface.ring
    masks = MaskStream(ring=ring, add=state.add, subtract=state.subtract)

    def masked() -> Iterator[Words]:
        for block in summand.blocks():
            masks.apply(block)
            yield block

    unopened = frozenset(state.dealers) - state.held.keys()
    body = b"".join(ring.pack_stream(masked()))
    message = MaskedInput(state.transcript, unopened, memoryview(body))
    return Replied(Masked(state.least, state.minima, state.dealers, state.held), message)


def unmask(context: ClientContext, state: Masked, request: Survivors) -> Replied:
    """Round 3, Unmasking: for a survivor the share of its self mask, for a dropped client that of its key."""
    survivors = request.survivors
    if not survivors <= set(state.dealers):
        raise PeerViolation("a survivor that never dealt shares", culprit=FROM_SERVER)
    if context.me not in survivors:
        raise PeerViolation("this client sent its vector and is listed as dropped", culprit=FROM_SERVER)
    # Fig. 4, round 3: assert |U_3| >= t.
    if len(survivors) < (least := least_survivors(state.least, state.minima, survivors)):
        raise PeerViolation(f"{len(survivors)} survivors; {least} are needed", culprit=FROM_SERVER)
    reveals: dict[ClientId, SelfMaskShare | PairKeyShare] = {}
    for dealer, shares in state.held.items():
        plain = shares.reveal()
        if dealer in survivors:
            reveals[dealer] = SelfMaskShare(plain[:SHARE_BYTES])
        else:
            reveals[dealer] = PairKeyShare(plain[SHARE_BYTES:])
    return Replied(Revealed(), Unmask(reveals))
