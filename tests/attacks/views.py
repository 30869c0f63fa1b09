"""A server that tells each client a story of its own (ATTACKS A2), and what it can open with it.

A `Story` is what one client hears in a round: who is active (U_2), and who survived (U_3). `tell_stories`
plays one to each of the real machines. Corrupt clients hand over all shares and pair secrets that they hold,
and sign whatever is wanted; the rest is what honest clients reveal because their stories are consistent.

What can be opened is linear algebra. Each honest vector is its input plus its self mask plus a signed pair
mask for each neighbour that it hears of as active. Masks that follow from rebuilt secrets, or that are shared
with a corrupt client, are known. All others are independent uniform unknowns, and the mask of an edge is
another one under another transcript. The server computes something that depends on the inputs of a set of
clients, and on no others, if and only if the rows of these clients are linearly dependent in the unknowns.
`smallest_opened` looks for the smallest such set by ranks; it knows nothing of how the machines are written.
"""

from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any

import numpy as np

from protocols.masked.messages import (
    COMMITMENT_BYTES,
    HASHES_BYTES,
    SEALED_BYTES,
    SHARE_BYTES,
    CollectInput,
    ConsistencyCheck,
    MaskedInput,
    SelfMaskShare,
    Survivors,
    Unmask,
    columns,
)
from protocols.masked.states import Dealt
from protocols.masked.transcript import SignedSurvivors
from protocols.schema import encode
from secagg import labels
from secagg.kem import CIPHERTEXT_BYTES
from secagg.secret import Secret
from tests.attacks.unmasked import pair_secrets, rebuild, strip
from tests.attacks.weakened import Stage, Vector, Wire, body_of, refused, request_of


@dataclass(frozen=True)
class Story:
    """What one client hears: who is active, and who of them survived."""

    active: Set[str]
    survivors: Set[str]


# On paper


def smallest_opened(
    stories: Mapping[str, Story],
    *,
    seeds: Set[str],
    round_secrets: Set[str],
    neighbours: Mapping[str, Set[str]],
    most: int,
) -> tuple[str, ...] | None:
    """The smallest set of honest clients whose inputs alone are mixed in something that can be computed.

    Args:
        stories: of each honest client; all others are corrupt.
        seeds, round_secrets: the honest clients whose b_u and K_u are rebuilt.
        neighbours: of each client in the graph.
        most: larger sets are not looked for.
    """
    rows = {client: row for row, client in enumerate(stories)}
    unknown: dict[Any, int] = {}
    entries: list[tuple[int, int, int]] = []
    for client, story in stories.items():
        if client not in seeds:
            entries.append((rows[client], unknown.setdefault(client, len(unknown)), 1))
        if client in round_secrets:
            continue
        for peer in sorted(neighbours[client] & story.active & stories.keys() - round_secrets - {client}):
            # One pair secret gives another mask under each transcript, and the active clients are in that.
            mask = (min(client, peer), max(client, peer), frozenset(story.active))
            entries.append((rows[client], unknown.setdefault(mask, len(unknown)), 1 if client > peer else -1))
    matrix = np.zeros((len(rows), max(len(unknown), 1)))
    for row, column, sign in entries:
        matrix[row, column] = sign
    for size in range(1, min(most, len(rows)) + 1):
        for chosen in combinations(stories, size):
            if np.linalg.matrix_rank(matrix[[rows[client] for client in chosen]]) < size:
                return chosen
    return None


def votes_for(
    needs: Mapping[str, int], budgets: Mapping[str, int], voters: Mapping[str, Set[str]]
) -> dict[str, set[str]] | None:
    """Who must hear that whom vanished, so that each client of `needs` has its votes; None if it cannot be.

    Args:
        needs: by client, how many honest holders must hear that it vanished.
        budgets: by voter, how many it may be told to have vanished.
        voters: by client, who can vote on it.
    """
    said: dict[str, set[str]] = {voter: set() for voter in budgets}

    def place(client: str, tried: set[str]) -> bool:
        # Augmenting paths: a voter that has said enough is made to say it of this client instead.
        for voter in sorted(voters[client], key=lambda each: len(said[each]) - budgets[each]):
            if voter in tried or client in said[voter]:
                continue
            tried.add(voter)
            if len(said[voter]) < budgets[voter]:
                said[voter].add(client)
                return True
            for other in sorted(said[voter]):
                if place(other, tried):
                    said[voter].remove(other)
                    said[voter].add(client)
                    return True
        return False

    for client, need in needs.items():
        for _ in range(need):
            if not place(client, set()):
                return None
    return said


def stories_against(
    group: Set[str],
    *,
    unheard: Set[str],
    opened: Set[str],
    everybody: Set[str],
    holders: Mapping[str, Set[str]],
    needs: Mapping[str, int],
    least: int,
    least_neighbours: int,
) -> dict[str, Story] | None:
    """Stories that have the round secrets of `opened` rebuilt, while the group never hears of `unheard`.

    Args:
        everybody: all clients; those that `needs` names are honest.
        holders: by client, who holds its shares.
        needs: by honest client, how many honest votes rebuild a secret of its.
        least, least_neighbours: what every client insists on.
    """
    budgets = {}
    for client in needs:
        skipped = unheard if client in group else set()
        near = len(holders[client] - {client})
        budgets[client] = min(
            len(everybody) - least - len(skipped), near - least_neighbours - len(skipped & holders[client])
        )
    if min(budgets.values()) < 0:
        return None
    voters = {client: holders[client] & needs.keys() - {client} for client in opened}
    said = votes_for({client: needs[client] for client in sorted(opened)}, budgets, voters)
    if said is None:
        return None
    stories = {}
    for client in needs:
        active = everybody - unheard if client in group else everybody
        stories[client] = Story(frozenset(active), frozenset(active - said[client]))
    return stories


def rebuilt_from(
    stories: Mapping[str, Story], *, needs: Mapping[str, int], holders: Mapping[str, Set[str]]
) -> tuple[set[str], set[str]]:
    """Whose b_u and whose K_u the stories put into the server's hands."""
    seeds, round_secrets = set(), set()
    for client, need in needs.items():
        heard = [stories[holder] for holder in holders[client] & needs.keys()]
        if sum(client in story.survivors for story in heard) >= need:
            seeds.add(client)
        if sum(client in story.active - story.survivors for story in heard) >= need:
            round_secrets.add(client)
    return seeds, round_secrets


# On the machines


@dataclass(frozen=True)
class Coalition:
    """What the server and the corrupt clients have at the end.

    Attributes:
        views: the server's view of the round, with each client's own transcript and active clients.
        seeds, round_secrets: b_u and K_u, where shares enough were revealed.
        pairs: the corrupt clients' own pair secrets.
        shares: what was revealed, by client, whether it is of b_u, and holder.
        refused: who released nothing in the last exchanges, and why.
    """

    stage: Stage
    views: Mapping[str, Any]
    seeds: Mapping[str, Secret]
    round_secrets: Mapping[str, Secret]
    pairs: Mapping[str, Mapping[str, Secret]]
    shares: Mapping[tuple[str, bool], Mapping[str, bytes]]
    refused: Mapping[str, str]

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
    stage: Stage, updates: Mapping[str, Vector], stories: Mapping[str, Story], corrupt: Iterable[str]
) -> Coalition:
    """Plays a round in which each client hears its own story; those of corrupt clients do not matter."""
    outbox = stage.open(updates, until=2)
    pairs = {client: _own_pairs(stage, client) for client in corrupt}
    view, views = stage.summing, {}
    for client in stage.names:
        request = request_of(CollectInput, outbox[client])
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
        answer = stage.tell(
            client, stage.request(stage.unmasking, stage.quorum(story.survivors, signatures=signed))
        )
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
    return Coalition(stage, views, rebuilt[True], rebuilt[False], pairs, shares, why)


def _own_pairs(stage: Stage, client: str) -> Mapping[str, Secret]:
    """The pair secrets of a client that waits for CollectInput."""
    state: Any = stage.clients[client]._state
    if isinstance(state, Dealt):
        return pair_secrets(stage.summing, client, state.secrets.round_secret)
    cohort = state.view.epoch.cohort
    return {cohort[place]: edge.pair_secret for place, edge in state.prepared.edges.items()}


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
        asked = Survivors(bitmap, stage.quorum(()).model)
        answer = stage.tell(client, stage.request(3, asked))
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
