"""The server takes the clients' keys and draws the graph: round 0 of CCS'17, Figure 4, after CCS'20."""

import hashlib

from protocols.identity import ClientId
from protocols.machine.suite import Opened, ServerContext
from protocols.masked.epoch import Epoch, members_of
from protocols.masked.graph import graph_seed
from protocols.masked.messages import (
    AdvertiseKeys,
    CohortKeys,
)
from protocols.masked.relay import Dealings, layout_of, one_object
from protocols.masked.server_states import Advertising, Sharing
from protocols.masked.transcript import (
    EpochTranscript,
    SignedKeys,
    cohort_digest,
)
from protocols.messages.schema import encode
from secagg import labels
from secagg.errors import PeerViolation, RoundAborted
from secagg.secret import Secret
from secagg.standard.agreement import PrivateKey, check_canonical
from secagg.standard.kem import encapsulate
from secagg.standard.merkle import Tree

__all__ = ["check_keys", "open_sharing", "require_enough", "take_keys"]

PROBE = PrivateKey(Secret(bytes(range(32))))
"""Any scalar shows a low-order point; nothing is protected by this one."""


def check_keys(context: ServerContext, sender: ClientId, reply: AdvertiseKeys) -> None:
    """Checks the signature and all keys, so that one bad key does not stop everybody else."""
    if reply.minimum > len(context.round.cohort):
        raise PeerViolation(
            f"it wants {reply.minimum} contributors, the cohort has {len(context.round.cohort)}",
            culprit=sender,
        )
    statement = SignedKeys.of(
        reply,
        parameters=context.suite.digest,
        session=context.session,
        round=context.round.number,
        roster=context.roster.digest,
        cohort=cohort_digest(context.round.cohort),
        length=context.round.length,
        client=sender,
    )
    context.roster.verify(sender, reply.signature, statement, label=labels.KEY_ADVERTISEMENT)
    if reply.channel_key == reply.mask_key:
        raise PeerViolation("one public key for both purposes", culprit=sender)
    for key in (reply.channel_key, reply.mask_key):
        check_canonical(key)
        PROBE.agree(key)
    for key in (reply.channel_encapsulation, reply.mask_encapsulation):
        encapsulate(key)  # refuses what is no key


def take_keys(state: Advertising, sender: ClientId, reply: AdvertiseKeys) -> Advertising:
    """Keeps checked keys. They may be another client's: see SPEC, "Copied keys"."""
    state.keys[sender] = reply
    return state


def open_sharing(context: ServerContext, state: Advertising, present: frozenset[ClientId]) -> Opened:
    """End of round 0: assert |U_1| >= t, fix all keys under one root, draw the graph, send each its part.

    The graph spans the cohort that was announced: dropouts make no corrupt client honest.
    """
    cohort = context.round.cohort
    plan = context.plan(len(cohort))
    require_enough(len(present), plan.min_survivors, "advertised keys")
    members = members_of(cohort)
    # After Bell et al., CCS'20: commit to everybody's keys, then draw the graph.
    tree = Tree([encode(state.keys[client]) if client in present else b"" for client in cohort])
    advertised = members.bitmap(present)
    digest = EpochTranscript(
        context.suite.digest,
        context.session,
        context.round.number,
        context.roster.digest,
        cohort_digest(cohort),
        context.round.length,
        advertised,
        tree.root,
        plan.degree,
        plan.threshold,
    ).digest()
    complete = plan.degree == len(cohort) - 1
    seed = b"" if complete else graph_seed(root=tree.root, context=digest)
    epoch = Epoch.of(plan, round=context.round.number, digest=digest, cohort=cohort, seed=seed)
    there = one_object(frozenset(members.index(client) for client in present))
    requests = {}
    for place in sorted(there):
        keys = tuple(state.keys[cohort[each]] for each in epoch.among(epoch.graph.neighbours(place), there))
        requests[cohort[place]] = CohortKeys(advertised, tree.root, tree.path(place), keys)
    minima = {place: state.keys[cohort[place]].minimum for place in sorted(there)}
    mask_keys = {}
    for place in sorted(there):
        keys_of = state.keys[cohort[place]]
        mask_keys[place] = (keys_of.mask_key, hashlib.sha256(keys_of.mask_encapsulation).digest())
    dealings = Dealings(epoch.round, there, {}, mask_keys)
    layout_of(epoch, there)  # made once, before many threads check their dealings against it
    return Opened(Sharing(state.accusers, epoch, minima, dealings), 1, requests)


def require_enough(count: int, needed: int, what: str) -> None:
    """Aborts when fewer are left than are needed."""
    if count < needed:
        raise RoundAborted(f"{count} clients {what}, at least {needed} are needed")
