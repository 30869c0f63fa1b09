"""A client signs who survived and reveals its shares: rounds 3 and 4 of CCS'17, Figure 4."""

from protocols.machine.suite import ClientContext, Replied
from protocols.masked.dealing import deal_next
from protocols.masked.messages import (
    ConsistencyCheck,
    PairKeyShare,
    Quorum,
    Reveal,
    SelfMaskShare,
    Survivors,
    Unmask,
    columns,
)
from protocols.masked.states import FROM_SERVER, Confirmed, Masked, Ready, require_enough
from protocols.masked.transcript import SignedInput, SignedSurvivors
from protocols.messages.schema import encode
from protocols.planning.requirements import Adversary
from secagg import labels
from secagg.errors import PeerViolation, VerificationError
from secagg.shamir import SHARE_BYTES
from secagg.standard.signing import SIGNATURE_BYTES

__all__ = ["check_consistency", "check_quorum", "unmask"]


# Round 3, ConsistencyCheck


def check_consistency(context: ClientContext, state: Masked, request: Survivors) -> Replied:
    """Against a malicious server: sign the survivors, once (CCS'17, Fig. 4, round 3)."""
    survivors = _survivors(state, request.survivors, request.model)
    statement = encode(SignedSurvivors(state.active.transcript, request.survivors))
    signature = context.identity.key.sign(statement, label=labels.SURVIVORS)
    return Replied(Confirmed(state, survivors), ConsistencyCheck(signature), spends=state.active.origin)


def _survivors(state: Masked, bitmap: bytes, model: bytes) -> frozenset[int]:
    """U_3, checked against everything that this client knows."""
    survivors = frozenset(state.view.epoch.members.places(bitmap))
    if model != state.active.model:
        raise PeerViolation(
            "the sum is to answer another model than this client's update", culprit=FROM_SERVER
        )
    if not survivors <= state.active.places:
        raise PeerViolation("a survivor that never dealt shares", culprit=FROM_SERVER)
    if state.view.me not in survivors:
        raise PeerViolation("this client sent its vector and is listed as dropped", culprit=FROM_SERVER)
    # Fig. 4, round 3: assert |U_3| >= t; and the neighbours that are left connect this client to the others.
    require_enough(state.view, survivors, "survived")
    return survivors


def check_quorum(context: ClientContext, state: Confirmed, request: Quorum) -> None:
    """Fig. 4, round 4: enough signatures on the very set that this client signed."""
    masked, epoch = state.masked, state.masked.view.epoch
    if frozenset(epoch.members.places(request.survivors)) != state.survivors:
        raise PeerViolation("another survivor set than this client signed", culprit=FROM_SERVER)
    signers = epoch.members.places(request.signers)
    quorum = epoch.quorum
    if not masked.active.places.issuperset(signers) or len(signers) < quorum:
        raise PeerViolation(
            f"{len(signers)} signers of the survivor set; {quorum} active ones are needed",
            culprit=FROM_SERVER,
        )
    if len(request.signatures) != len(signers) * SIGNATURE_BYTES:
        raise PeerViolation("another number of signatures than of signers", culprit=FROM_SERVER)
    statement = encode(SignedSurvivors(masked.active.transcript, request.survivors))
    for place, signature in zip(signers, columns(request.signatures, SIGNATURE_BYTES), strict=True):
        try:
            context.roster.verify(epoch.cohort[place], signature, statement, label=labels.SURVIVORS)
        except VerificationError:
            raise PeerViolation(
                f"the signature of {epoch.cohort[place]!r} on the survivors does not verify",
                culprit=FROM_SERVER,
            ) from None


# Round 3 or 4, Unmasking


def unmask(context: ClientContext, state: Masked, request: Quorum) -> Replied:
    """For a survivor the share of its self mask, for a dropped client that of its round secret."""
    view, epoch = state.view, state.view.epoch
    survivors = _survivors(state, request.survivors, request.model)
    if context.suite.requirements.adversary is not Adversary.MALICIOUS and (
        request.signatures or epoch.members.places(request.signers)
    ):
        raise PeerViolation("signatures, where the plan asks for none", culprit=FROM_SERVER)
    _check_stories(context, state, survivors, request.inputs)
    reveals: list[Reveal] = []
    for dealer, shares in sorted(state.held.items()):
        first, second = columns(shares.reveal(), SHARE_BYTES)
        reveals.append(SelfMaskShare(first) if dealer in survivors else PairKeyShare(second))
    chains = {place: chain for place, chain in state.chains.items() if place in survivors}
    prepared, following = deal_next(context, epoch, me=view.me, chains=chains)
    return Replied(Ready(view, prepared), Unmask.of(reveals, following=following), spends=state.active.origin)


def _check_stories(
    context: ClientContext, state: Masked, survivors: frozenset[int], signatures: bytes
) -> None:
    """Each surviving neighbour made its masks in this very story of the round.

    Without this a server could tell one client that half of its neighbours are inactive, and the others that
    the other half vanished: it would have no masks with the former and those with the latter (ATTACKS A2).
    """
    epoch = state.view.epoch
    neighbours = epoch.among(state.view.neighbours, survivors)
    if len(signatures) != len(neighbours) * SIGNATURE_BYTES:
        raise PeerViolation(
            "another number of signed transcripts than of surviving neighbours", culprit=FROM_SERVER
        )
    statement = encode(SignedInput(state.active.transcript))
    for place, signature in zip(neighbours, columns(signatures, SIGNATURE_BYTES), strict=True):
        try:
            context.roster.verify(epoch.cohort[place], signature, statement, label=labels.MASKED_INPUT)
        except VerificationError:
            raise PeerViolation(
                f"{epoch.cohort[place]!r} did not sign this client's story of the round", culprit=FROM_SERVER
            ) from None
