"""A client enters an epoch: rounds 0 and 1 of Bonawitz et al., CCS'17, Figure 4, on the long path."""

from protocols.identity import ClientId
from protocols.machine.suite import ClientContext, Replied, check_request
from protocols.masked.dealing import deal_first
from protocols.masked.epoch import Epoch
from protocols.masked.graph import graph_seed
from protocols.masked.keys import EpochKeys, MaskKeys
from protocols.masked.messages import (
    AdvertiseKeys,
    Announcement,
    CohortKeys,
)
from protocols.masked.states import FROM_SERVER, Advertised, Dealt, View
from protocols.masked.transcript import (
    EpochTranscript,
    SignedKeys,
    cohort_digest,
)
from protocols.messages.schema import encode
from protocols.planning.requirements import Plan
from secagg import labels
from secagg.errors import ParameterError, PeerViolation, VerificationError
from secagg.standard.agreement import PrivateKey, check_canonical
from secagg.standard.kem import DecapsulationKey
from secagg.standard.merkle import verify_path
from secagg.standard.signing import SIGNATURE_BYTES

__all__ = ["advertise_keys", "share_keys"]


# Round 0, AdvertiseKeys


def advertise_keys(context: ClientContext, request: Announcement) -> Replied:
    """Two fresh hybrid key pairs, signed; whatever was prepared before is gone."""
    check_request(context, parameters=request.parameters, cohort=request.cohort, length=request.length)
    # CCS'17, Fig. 4, round 0: generate <c_u^PK, c_u^SK> and <s_u^PK, s_u^SK>. The third secret, b_u, is drawn
    # here too, so that all of a round's secrets come from one place.
    secrets = EpochKeys.draw(context.entropy)
    mask = MaskKeys(secrets.round_secret)
    unsigned = AdvertiseKeys(
        PrivateKey(secrets.channel).public_key,
        DecapsulationKey(secrets.channel_seed).encapsulation_key,
        mask.agreement.public_key,
        mask.encapsulation.encapsulation_key,
        context.min_contributors,
        bytes(SIGNATURE_BYTES),
    )
    statement = _signed_keys(context, request.cohort, request.length, context.me, unsigned)
    signature = context.identity.key.sign(statement, label=labels.KEY_ADVERTISEMENT)
    mine = AdvertiseKeys(
        unsigned.channel_key,
        unsigned.channel_encapsulation,
        unsigned.mask_key,
        unsigned.mask_encapsulation,
        unsigned.minimum,
        signature,
    )
    return Replied(Advertised(request.cohort, request.length, secrets, mine), mine)


def _signed_keys(
    context: ClientContext, cohort: tuple[ClientId, ...], length: int, client: ClientId, keys: AdvertiseKeys
) -> bytes:
    return SignedKeys.of(
        keys,
        parameters=context.suite.digest,
        session=context.session,
        round=context.round,
        roster=context.roster.digest,
        cohort=cohort_digest(cohort),
        length=length,
        client=client,
    )


# Round 1, ShareKeys


def share_keys(context: ClientContext, state: Advertised, request: CohortKeys) -> Replied:
    """Find one's place in the graph, check the neighbours' keys, deal sealed shares of both secrets."""
    plan = _plan(context, len(state.cohort))
    view, neighbours = _enter_epoch(context, state, request, plan)
    dealing, message = deal_first(
        context, view.epoch, me=view.me, secrets=state.secrets, neighbours=neighbours
    )
    keys = {place: (each.channel_key, each.mask_key) for place, each in neighbours.items()}
    return Replied(Dealt(view, state.length, state.secrets, keys, dealing), message)


def _plan(context: ClientContext, n: int) -> Plan:
    """This client's own plan, not numbers that a server may choose, for the cohort that was announced."""
    try:
        return context.plan(n)
    except ParameterError as error:
        raise PeerViolation(str(error), culprit=FROM_SERVER) from None


def _enter_epoch(
    context: ClientContext, state: Advertised, request: CohortKeys, plan: Plan
) -> tuple[View, dict[int, AdvertiseKeys]]:
    """Everything that may be wrong with the keys that the server relays (ATTACKS A4, A5, A11, B5)."""
    provisional = Epoch.of(plan, round=context.round, digest=bytes(32), cohort=state.cohort, seed=b"")
    members = provisional.members
    me = members.index(context.me)
    there = frozenset(members.places(request.advertised))
    # CCS'17, Fig. 4, round 1: assert |U_1| >= t. The graph spans all who were announced: dropouts make no
    # corrupt client honest, and move nobody's place.
    if me not in there or len(there) < max(plan.min_survivors, context.min_contributors):
        raise PeerViolation(
            f"keys of {len(there)} clients; {plan.min_survivors} and this one are needed", culprit=FROM_SERVER
        )
    # After Bell et al., CCS'20: a Merkle root fixes everybody's keys before the graph is drawn, here from it.
    verify_path(request.root, leaf=encode(state.mine), index=me, count=len(state.cohort), path=request.path)
    transcript = EpochTranscript(
        context.suite.digest,
        context.session,
        context.round,
        context.roster.digest,
        cohort_digest(state.cohort),
        state.length,
        request.advertised,
        request.root,
        plan.degree,
        plan.threshold,
    ).digest()
    complete = plan.degree == len(state.cohort) - 1
    seed = b"" if complete else graph_seed(root=request.root, context=transcript)
    epoch = Epoch.of(plan, round=context.round, digest=transcript, cohort=state.cohort, seed=seed)
    places = epoch.among(epoch.graph.neighbours(me), there)
    if len(places) != len(request.keys):
        raise PeerViolation(
            f"keys of {len(request.keys)} neighbours; {len(places)} advertised", culprit=FROM_SERVER
        )
    if len(places) < epoch.least_neighbours:
        raise PeerViolation(
            f"{len(places)} neighbours are left; {epoch.least_neighbours} are needed", culprit=FROM_SERVER
        )
    neighbours = dict(zip(places, request.keys, strict=True))
    _check_keys(context, state, epoch, neighbours)
    minima = {place: keys.minimum for place, keys in neighbours.items()}
    return View(epoch, me, {**minima, me: context.min_contributors}), neighbours


def _check_keys(
    context: ClientContext, state: Advertised, epoch: Epoch, neighbours: dict[int, AdvertiseKeys]
) -> None:
    # Fig. 4, round 1, asserts that all the public key pairs differ. Here they need not: whatever is derived
    # from a pair of keys is bound to both places (SPEC, "Copied keys"), and who is copied should not pay.
    for place, keys in neighbours.items():
        for key in (keys.channel_key, keys.mask_key):
            check_canonical(key)
        client = epoch.cohort[place]
        statement = _signed_keys(context, state.cohort, state.length, client, keys)
        try:
            context.roster.verify(client, keys.signature, statement, label=labels.KEY_ADVERTISEMENT)
        except VerificationError:
            raise PeerViolation(
                f"the keys of {client!r} are not signed by it for this round", culprit=FROM_SERVER
            ) from None
