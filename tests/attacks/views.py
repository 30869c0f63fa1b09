"""A server that tells each of the real machines a story of its own, and what it has at the end (ATTACKS A2).

`tell_stories` plays one `Story` to each client. Corrupt clients hand over all shares and pair secrets that
they hold, and sign whatever is wanted; the rest is what honest clients reveal because their stories are
consistent. `Coalition.opens` takes off all masks that follow from that.
"""

from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from protocols import Adversary, MaskedSum, Requirements
from protocols.masked.messages import (
    COMMITMENT_BYTES,
    HASHES_BYTES,
    SEALED_BYTES,
    SHARE_BYTES,
    CollectInput,
    ConsistencyCheck,
    MaskedInput,
    SelfMaskShare,
    Unmask,
    columns,
)
from protocols.masked.states import Dealt
from protocols.masked.transcript import SignedInput, SignedSurvivors
from protocols.messages.envelope import Refusal
from protocols.messages.schema import encode
from secagg import labels
from secagg.secret import Secret
from secagg.standard.kem import CIPHERTEXT_BYTES
from tests.attacks.stories import Cohort, Story
from tests.attacks.unmasked import pair_secrets, rebuild, strip
from tests.attacks.weakened import Stage, Vector, Wire, body_of, refused, request_of, updates_of


@dataclass(frozen=True)
class Coalition:
    """What the server and the corrupt clients have at the end.

    Attributes:
        views: the server's view of the round, with each client's own transcript and active clients.
        seeds, round_secrets: b_u and K_u, where shares enough were revealed.
        pairs: the corrupt clients' own pair secrets.
        shares: what was revealed, by client, whether it is of b_u, and holder.
        refused: who released nothing in the last exchanges, and why.
        tricked: who was made to accuse another of what it did not do; its K_u is in `round_secrets`.
    """

    stage: Stage
    views: Mapping[str, Any]
    seeds: Mapping[str, Secret]
    round_secrets: Mapping[str, Secret]
    pairs: Mapping[str, Mapping[str, Secret]]
    shares: Mapping[tuple[str, bool], Mapping[str, bytes]]
    refused: Mapping[str, str]
    tricked: Set[str] = frozenset()

    def opens(
        self,
        group: Iterable[str],
        updates: Mapping[str, Vector],
        *,
        edges: Mapping[frozenset[str], Secret] | None = None,
    ) -> bool:
        """Whether all that it has takes the masks off this group's sum, which is then its updates' sum.

        Args:
            edges: pair secrets that it has from elsewhere, by their two ends.
        """
        group = sorted(group)
        total: Any = 0
        for client in group:
            view = self.views[client]
            known = {corrupt: secrets[client] for corrupt, secrets in self.pairs.items() if client in secrets}
            for edge, secret in (edges or {}).items():
                if client in edge:
                    known.update(dict.fromkeys(edge - {client}, secret))
            for peer, secret in self.round_secrets.items():
                if peer != client:
                    known.update({peer: pair_secrets(view, peer, secret)[client]})
            if client in self.round_secrets:
                known.update(pair_secrets(view, client, self.round_secrets[client]))
            outside = {peer: secret for peer, secret in known.items() if peer not in group}
            total = total + strip(self.stage, client, seed=self.seeds.get(client), pairs=outside, view=view)
        surface: Any = self.stage.protocol.suite.surface
        truth = np.sum([updates[client] for client in group], axis=0)
        found = self.stage.values(total)[: len(truth)] / surface.codec.largest_step
        return bool(np.abs(found - truth).max() <= len(group) * self.stage.protocol.error_bound(1))


def narrowed(stage: Stage, client: str, request: CollectInput, active: Iterable[str]) -> CollectInput:
    """The request for a client that shall hear of these active clients only."""
    view = stage.summing
    epoch, keep = view.epoch, set(stage.places(active))
    me = epoch.members.index(client)
    near = epoch.among(epoch.graph.neighbours(me), view.active)
    before = [place for place in near if place < me]

    def kept(column: bytes, size: int, places: Sequence[int]) -> bytes:
        if not column:
            return b""
        return b"".join(
            piece for place, piece in zip(places, columns(column, size), strict=True) if place in keep
        )

    return replace(
        request,
        active=stage.bitmap(active),
        sealed=kept(request.sealed, SEALED_BYTES, near),
        hashes=kept(request.hashes, HASHES_BYTES, near),
        edges=kept(request.edges, COMMITMENT_BYTES, before),
        encapsulations=kept(request.encapsulations, CIPHERTEXT_BYTES, [*near, *before]),
    )


def tell_stories(
    stage: Stage,
    updates: Mapping[str, Vector],
    stories: Mapping[str, Story],
    corrupt: Iterable[str],
    *,
    tricked: Set[str] = frozenset(),
) -> Coalition:
    """Plays a round in which each client hears its own story; those of corrupt clients do not matter.

    Args:
        tricked: honest clients, without a story, whose hashes of pair secrets the server spoils (ATTACKS D5).
    """
    outbox = stage.open(updates, until=2)
    pairs = {client: _own_pairs(stage, client) for client in corrupt}
    view, views = stage.summing, {}
    proofs: dict[str, Secret] = {}
    for client in stage.names:
        request = request_of(CollectInput, outbox[client])
        if client in tricked:
            request = replace(request, edges=bytes(len(request.edges)))
            said = body_of(Refusal, stage.tell(client, stage.request(2, request), updates[client]))
            assert said.accused, stage.clients[client].refusal
            proofs[client] = Secret(said.proof)
            continue
        if client in stories:
            request = narrowed(stage, client, request, stories[client].active)
        answer = stage.tell(client, stage.request(2, request), updates[client])
        assert not refused(answer), stage.clients[client].refusal
        stage.wire.append(Wire(False, 2, client, answer))
        transcript = body_of(MaskedInput, answer).transcript
        active = frozenset(view.epoch.members.places(request.active))
        views[client] = replace(view, transcript=transcript, active=active)
    shares: dict[tuple[str, bool], dict[str, bytes]] = {}
    for client in corrupt:
        for dealer, both in stage.clients[client]._state.held.items():
            name = view.epoch.cohort[dealer]
            for kind, share in zip((True, False), columns(both.reveal(), SHARE_BYTES), strict=True):
                shares.setdefault((name, kind), {})[client] = share
    signatures, why = _signatures(stage, stories, views, corrupt)
    for client, story in stories.items():
        if client in why:
            continue
        signed = signatures.get((views[client].transcript, frozenset(story.survivors)), {})
        inputs = _signed_by_corrupt(stage, views[client].transcript, corrupt)
        asked = stage.quorum(client, story.survivors, signatures=signed, inputs=inputs)
        answer = stage.tell(client, stage.request(stage.unmasking, asked))
        if refused(answer):
            why[client] = str(stage.clients[client].refusal)
            continue
        mine = views[client]
        dealers = mine.epoch.among(mine.epoch.graph.holders(mine.epoch.members.index(client)), mine.active)
        for dealer, reveal in zip(dealers, body_of(Unmask, answer).reveals(len(dealers)), strict=True):
            key = mine.epoch.cohort[dealer], isinstance(reveal, SelfMaskShare)
            shares.setdefault(key, {})[client] = reveal.share
    threshold = view.epoch.threshold
    rebuilt = {
        kind: {
            name: rebuild(view, name, there)
            for (name, each), there in shares.items()
            if each is kind and len(there) >= threshold
        }
        for kind in (True, False)
    }
    round_secrets = {**rebuilt[False], **proofs}
    return Coalition(stage, views, rebuilt[True], round_secrets, pairs, shares, why, tricked)


def _own_pairs(stage: Stage, client: str) -> Mapping[str, Secret]:
    """The pair secrets of a client that waits for CollectInput."""
    state: Any = stage.clients[client]._state
    if isinstance(state, Dealt):
        return pair_secrets(stage.summing, client, state.secrets.round_secret)
    cohort = state.view.epoch.cohort
    return {cohort[place]: edge.pair_secret for place, edge in state.prepared.edges.items()}


def _signed_by_corrupt(stage: Stage, transcript: bytes, corrupt: Iterable[str]) -> dict[str, bytes]:
    """Corrupt clients sign any story."""
    statement = encode(SignedInput(transcript))
    return {liar: stage.identities[liar].key.sign(statement, label=labels.MASKED_INPUT) for liar in corrupt}


def _signatures(
    stage: Stage, stories: Mapping[str, Story], views: Mapping[str, Any], corrupt: Iterable[str]
) -> tuple[dict[tuple[bytes, Set[str]], dict[str, bytes]], dict[str, str]]:
    """ConsistencyCheck, where there is one: who signed what, corrupt clients everything; and who refused."""
    found: dict[tuple[bytes, Set[str]], dict[str, bytes]] = {}
    why: dict[str, str] = {}
    if "ConsistencyCheck" not in stage.protocol.suite.exchanges:
        return found, why
    for client, story in stories.items():
        bitmap = stage.bitmap(story.survivors)
        answer = stage.tell(client, stage.request(3, stage.survivors(story.survivors)))
        if refused(answer):
            why[client] = str(stage.clients[client].refusal)
            continue
        what = views[client].transcript, frozenset(story.survivors)
        if what not in found:
            statement = encode(SignedSurvivors(what[0], bitmap))
            found[what] = {
                liar: stage.identities[liar].key.sign(statement, label=labels.SURVIVORS) for liar in corrupt
            }
        found[what][client] = body_of(ConsistencyCheck, answer).signature
    return found, why


def malicious(n: int) -> tuple[Stage, dict[str, Vector], Cohort]:
    """A stage on which survivor sets are signed, with its updates and its cohort."""
    protocol = MaskedSum(max_clients=n, requirements=Requirements(adversary=Adversary.MALICIOUS))
    each = Cohort(protocol.plan(n))
    return Stage(protocol, each.names), updates_of(each.names), each
