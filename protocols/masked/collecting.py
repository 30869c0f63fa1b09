"""A client opens its shares, derives its masks and sends its vector: round 2 of CCS'17, Figure 4."""

import hashlib
from collections.abc import Iterator
from typing import Final

import numpy as np
from numpy.typing import NDArray

from protocols.machine.channels import chain_key, first_seal_key, pair_bytes
from protocols.machine.suite import Asked, ClientContext, Declined, Replied, check_length
from protocols.machine.summand import Summand, Surface, Words
from protocols.masked.dealing import sealed_context, share_hashes
from protocols.masked.epoch import Edge
from protocols.masked.keys import MaskKeys, first_pair_secret, pair_mask_seed, self_mask_seed
from protocols.masked.messages import (
    COMMITMENT_BYTES,
    HASHES_BYTES,
    SEALED_BYTES,
    CollectInput,
    MaskedInput,
    columns,
)
from protocols.masked.states import (
    FROM_SERVER,
    Active,
    Collecting,
    Dealt,
    Idle,
    Masked,
    Ready,
    View,
    require_enough,
)
from protocols.masked.transcript import SignedInput, edge_hash, mask_transcript
from protocols.messages.schema import Stream, encode
from secagg import labels
from secagg.errors import DecodeError, PeerViolation, VerificationError
from secagg.secret import Secret
from secagg.shamir import SHARE_BYTES, Share
from secagg.standard.aead import open_sealed
from secagg.standard.agreement import PrivateKey
from secagg.standard.kem import CIPHERTEXT_BYTES, DecapsulationKey
from secagg.vectors.lanes import Lanes
from secagg.vectors.masking import MaskStream

__all__ = ["check_words", "lanes_of", "mask_input", "prepare_first", "prepare_next", "received_values"]

CHECK_BITS: Final = 128


def check_words(bits: int) -> int:
    """Zeros at a vector's end: 128 bits that are zero in the sum exactly if all masks cancel."""
    return -(-CHECK_BITS // bits)


def lanes_of(surface: Surface) -> Lanes:
    """The words that the masks are added to."""
    return Lanes(ring=surface.ring, signed=surface.signed, wraps=surface.wraps)


def received_values(surface: Surface, message: MaskedInput, *, count: int) -> NDArray[np.uint64]:
    """The first `count` ring elements of a masked vector, as whoever has only the message can read them."""
    lanes = lanes_of(surface)
    padding = check_words(lanes.ring.bits)
    vector = lanes.wide.unpack(message.vector, lanes.words(count + padding))
    return lanes.ring.residues(lanes.view(vector, count, padding=padding)[:count])


# Round 2, MaskedInputCollection


def prepare_first(context: ClientContext, state: Dealt, request: CollectInput) -> Asked | Declined:
    """First half, on the long path: make channels and pair secrets, open the shares, derive the masks.

    A neighbour that signed for another pair secret than it sent is accused, with this client's round secret
    K_u for a proof: whoever has it can look (`accusing.judge`). It opens the pair masks of a vector that this
    client does not send, in this round or ever, and that survivors would rebuild it for; the state behind it
    holds no secret, and it uses up in the release log what the vector would have. Channel keys, which open
    what others dealt, are no part of it.
    """
    view, epoch = state.view, state.view.epoch
    if request.length != state.length:
        raise PeerViolation(
            f"{request.length} values after an announcement of {state.length}", culprit=FROM_SERVER
        )
    active = _active(context, view, request, origin=epoch.round, there=frozenset({view.me, *state.keys}))
    try:
        edges = _first_edges(state, active, request)
    except PeerViolation as error:
        if error.culprit == FROM_SERVER:
            raise
        proof = state.secrets.round_secret.reveal()
        return Declined(Idle(), error.reason, error.culprit, proof, spends=active.origin)
    dealing = state.dealing
    return _prepare(
        context, view, active, request, edges, seed=state.secrets.self_mask_seed, own=dealing.own_shares
    )


def prepare_next(context: ClientContext, state: Ready, request: CollectInput) -> Asked:
    """First half, in the steady state: what was prepared with the round before is used, once."""
    prepared = state.prepared
    if request.encapsulations or request.edges:
        raise PeerViolation("keys of a first dealing, in a later round", culprit=FROM_SERVER)
    active = _active(
        context,
        state.view,
        request,
        origin=prepared.origin,
        there=frozenset({state.view.me, *prepared.edges}),
    )
    return _prepare(
        context,
        state.view,
        active,
        request,
        prepared.edges,
        seed=prepared.self_mask_seed,
        own=prepared.own_shares,
    )


def _active(
    context: ClientContext, view: View, request: CollectInput, *, origin: int, there: frozenset[int]
) -> Active:
    """Who takes part, checked; `there` are the neighbours with whom something is prepared."""
    epoch = view.epoch
    if request.origin != origin:
        raise PeerViolation(
            f"shares of round {request.origin}; those of round {origin} are next", culprit=FROM_SERVER
        )
    check_length(context, request.length)
    places = frozenset(epoch.members.places(request.active))
    if view.me not in places:
        raise PeerViolation("this client dealt shares and is not active", culprit=FROM_SERVER)
    neighbours = epoch.among(view.neighbours, places)
    if not there.issuperset(neighbours):
        raise PeerViolation("shares of a client with which nothing is prepared", culprit=FROM_SERVER)
    # Fig. 4, round 2: assert |U_2| >= t.
    require_enough(view, places, "dealt shares")
    model = hashlib.sha256(request.model).digest()
    transcript = mask_transcript(
        epoch=epoch.digest,
        origin=origin,
        round=context.round,
        length=request.length,
        active=request.active,
        model=model,
    )
    return Active(origin, request.length, places, transcript, model)


def _first_edges(state: Dealt, active: Active, request: CollectInput) -> dict[int, Edge]:
    """The channel with each active neighbour, and the pair secret of the first round."""
    view, epoch = state.view, state.view.epoch
    me, bound = view.me, epoch.context(epoch.round)
    neighbours = epoch.among(view.neighbours, active.places)
    before = [place for place in neighbours if place < me]
    if len(request.encapsulations) != (len(neighbours) + len(before)) * CIPHERTEXT_BYTES:
        raise PeerViolation("encapsulations of other clients than the active neighbours", culprit=FROM_SERVER)
    if len(request.edges) != len(before) * COMMITMENT_BYTES:
        raise PeerViolation("hashes of other edges than those to clients before", culprit=FROM_SERVER)
    ciphertexts = columns(request.encapsulations, CIPHERTEXT_BYTES)
    to_mask = dict(zip(before, ciphertexts[len(neighbours) :], strict=True))
    promised = dict(zip(before, columns(request.edges, COMMITMENT_BYTES), strict=True))
    channel, mask = PrivateKey(state.secrets.channel), MaskKeys(state.secrets.round_secret)
    channel_decapsulation = DecapsulationKey(state.secrets.channel_seed)
    edges: dict[int, Edge] = {}
    for place, ciphertext in zip(neighbours, ciphertexts, strict=False):
        channel_key, mask_key = state.keys[place]
        shared = channel.agree(channel_key, own=True)
        theirs, mine = channel_decapsulation.decapsulate(ciphertext), state.dealing.encapsulated[place]
        low, high = (mine, theirs) if me < place else (theirs, mine)
        pair = pair_bytes(me, place)
        if me < place:
            secret = state.dealing.pair_secrets[place]
        else:
            secret = first_pair_secret(
                mask.agreement.agree(mask_key, own=True),
                mask.encapsulation.decapsulate(to_mask[place]),
                to_mask[place],
                epoch=epoch.digest,
                pair=pair,
            )
            # ML-KEM never says that a ciphertext is wrong; the hash of what its maker put in does.
            if edge_hash(bound, low=place, high=me, secret=secret) != promised[place]:
                raise PeerViolation(
                    f"the pair secret that {epoch.cohort[place]!r} sent has another hash than came with it",
                    culprit=epoch.cohort[place],
                )
        edges[place] = Edge(
            secret,
            first_seal_key(shared, theirs, ciphertext, epoch=epoch.digest, dealer=place, holder=me),
            chain_key(shared, low, high, epoch=epoch.digest, pair=pair),
        )
    return edges


def _prepare(
    context: ClientContext,
    view: View,
    active: Active,
    request: CollectInput,
    edges: dict[int, Edge],
    *,
    seed: Secret,
    own: Secret,
) -> Asked:
    """Open the shares, derive the mask seeds, keep nothing that they were made from."""
    epoch, me = view.epoch, view.me
    neighbours = epoch.among(view.neighbours, active.places)
    if len(request.sealed) != len(neighbours) * SEALED_BYTES or (
        len(request.hashes) != len(neighbours) * HASHES_BYTES
    ):
        raise PeerViolation("shares of other clients than the active neighbours", culprit=FROM_SERVER)
    held: dict[int, Secret] = {me: own} if len(own) else {}
    pieces = zip(
        neighbours, columns(request.sealed, SEALED_BYTES), columns(request.hashes, HASHES_BYTES), strict=True
    )
    bound = epoch.context(active.origin)
    for dealer, sealed, promised in pieces:
        shares = _open_shares(bound, edges[dealer].incoming, dealer, me, sealed)
        # This client then holds no share of that dealer, and says so with its vector: the blame is the
        # dealer's, and nobody can be made to reveal a share that looks wrong to the server (ATTACKS B3).
        if shares is not None and share_hashes(bound, dealer=dealer, holder=me, plain=shares.reveal()) == (
            promised
        ):
            held[dealer] = shares
    add = [self_mask_seed(seed, transcript=active.transcript, client=me)]
    subtract: list[Secret] = []
    for place in neighbours:
        # Fig. 4, round 2: p_{u,v} = Δ_{u,v}·PRG(s_{u,v}), with Δ = 1 for u > v and -1 for u < v.
        mask = pair_mask_seed(
            edges[place].pair_secret, transcript=active.transcript, pair=pair_bytes(me, place)
        )
        (add if me > place else subtract).append(mask)
    chains = {place: edges[place].chain for place in neighbours}
    following = Collecting(view, active, held, chains, tuple(add), tuple(subtract))
    return Asked(following, request.length, request.model)


def _open_shares(bound: bytes, key: Secret, dealer: int, me: int, sealed: bytes) -> Secret | None:
    """The two shares that `dealer` sealed to this client, if they open and the server could use them."""
    try:
        shares = open_sealed(key, sealed, associated_data=sealed_context(bound, dealer=dealer, holder=me))
        for share in columns(shares.reveal(), SHARE_BYTES):
            Share.decode(1, share)  # canonical
    except (VerificationError, DecodeError):
        return None
    return shares


def mask_input(context: ClientContext, state: Collecting, summand: Summand) -> Replied:
    """Second half: y_u = x_u + PRG(b_u) + Σ_v p_{u,v} mod R, in one pass, the check words last."""
    lanes, view = lanes_of(context.suite.surface), state.view
    masks = MaskStream(ring=lanes.wide, add=state.add, subtract=state.subtract)
    padding = check_words(lanes.ring.bits)

    def masked() -> Iterator[Words]:
        for block in lanes.joined(summand.blocks(padding=padding)):
            masks.apply(block)
            yield block

    dealers = view.epoch.among(view.neighbours, state.active.places)
    unopened = [view.epoch.cohort[place] for place in dealers if place not in state.held]
    elements = context.suite.surface.elements(state.active.length) + padding
    statement = encode(SignedInput(state.active.transcript))
    message = MaskedInput(
        state.active.transcript,
        context.identity.key.sign(statement, label=labels.MASKED_INPUT),
        view.epoch.members.bitmap(unopened),
        Stream(lanes.wide.packed_size(lanes.words(elements)), lanes.wide.pack_stream(masked())),
    )
    following = Masked(view, state.active, state.held, state.chains)
    return Replied(following, message, spends=state.active.origin)
