"""What a server that tells each client a story of its own can open, on paper (ATTACKS A2).

A `Story` is what one client hears in a round: who is active (U_2), and who survived (U_3). A client reveals
shares only if its story is one that an honest server could tell, and all its honest surviving neighbours
heard, and signed, the same of who is active (`releasing`). Corrupt clients reveal all that they hold.

What can be opened is linear algebra. Each honest vector is its input plus its self mask plus a signed pair
mask for each neighbour that it hears of as active. Masks that follow from rebuilt secrets, or that are shared
with a corrupt client, are known. All others are independent uniform unknowns, and the mask of an edge is
another one under another transcript. The server computes something that depends on the inputs of a set of
clients, and on no others, if and only if the rows of these clients are linearly dependent in the unknowns.
`smallest_opened` looks for the smallest such set by ranks; it knows nothing of how the machines are written.
`Cohort` goes through all splits of a small cohort.
"""

from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass, replace
from itertools import combinations, product
from typing import Any

import numpy as np

from protocols import Requirements
from protocols.planning.planner import plan_masked
from protocols.planning.requirements import Plan

LETTERS = "abcdefghijklmnopqrstuvwxyz"


@dataclass(frozen=True)
class Story:
    """What one client hears: who is active, and who of them survived."""

    active: Set[str]
    survivors: Set[str]


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
    believed: bool = False,
) -> dict[str, Story] | None:
    """Stories that have the round secrets of `opened` rebuilt, while the group never hears of `unheard`.

    Args:
        everybody: all clients; those that `needs` names are honest.
        holders: by client, who holds its shares.
        needs: by honest client, how many honest votes rebuild a secret of its.
        least, least_neighbours: what every client insists on.
        believed: whether clients reveal shares without asking which story their neighbours heard.
    """
    said: dict[str, set[str]] = {}
    budgets = {}
    for client in needs:
        skipped = unheard if client in group else set()
        near = len(holders[client] - {client})
        budgets[client] = min(
            len(everybody) - least - len(skipped), near - least_neighbours - len(skipped & holders[client])
        )
        if budgets[client] < 0:
            return None
        # A neighbour that heard another story must not be among the survivors.
        others = needs.keys() - group - unheard if client in group else group & needs.keys()
        forced = set() if believed or not unheard else set(others & holders[client] - {client})
        if len(forced) > budgets[client]:
            forced, budgets[client] = set(), 0  # whatever it hears, it refuses
        said[client], budgets[client] = forced, budgets[client] - len(forced)
    stories = {
        client: Story(frozenset(everybody - unheard if client in group else everybody), frozenset())
        for client in needs
    }
    alone = {client: Story(story.active, story.active - said[client]) for client, story in stories.items()}
    talking = set(needs) if believed else releasing(alone, holders)
    left = {client: needs[client] - _votes(said, talking, client) for client in sorted(opened)}
    voters = {
        client: {
            holder
            for holder in holders[client] & talking - {client}
            if client in stories[holder].active and client not in said[holder]
        }
        for client in opened
    }
    more = votes_for(left, {client: budgets[client] for client in talking}, voters)
    if more is None:
        return None
    return {
        client: Story(story.active, story.survivors - more.get(client, set()))
        for client, story in alone.items()
    }


def _votes(said: Mapping[str, Set[str]], voters: Set[str], client: str) -> int:
    return sum(client in said[voter] for voter in voters)


def releasing(stories: Mapping[str, Story], holders: Mapping[str, Set[str]]) -> set[str]:
    """Who reveals anything: whose honest surviving neighbours all heard the same of who is active."""
    return {
        client
        for client, story in stories.items()
        if all(
            stories[peer].active == story.active
            for peer in holders[client] & story.survivors & stories.keys()
        )
    }


def rebuilt_from(
    stories: Mapping[str, Story],
    *,
    needs: Mapping[str, int],
    holders: Mapping[str, Set[str]],
    believed: bool = False,
) -> tuple[set[str], set[str]]:
    """Whose b_u and whose K_u the stories put into the server's hands."""
    seeds, round_secrets = set(), set()
    talking = set(needs) if believed else releasing(stories, holders)
    for client, need in needs.items():
        heard = [stories[holder] for holder in holders[client] & talking]
        if sum(client in story.survivors for story in heard) >= need:
            seeds.add(client)
        if sum(client in story.active - story.survivors for story in heard) >= need:
            round_secrets.add(client)
    return seeds, round_secrets


class Cohort:
    """The complete graph on the clients of a plan, of whom the last ones are corrupt."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.names = LETTERS[: plan.clients]
        self.everybody = frozenset(self.names)
        self.honest = self.names[: plan.clients - plan.corrupt]
        self.holders = dict.fromkeys(self.names, self.everybody)
        self.neighbours = {name: self.everybody - {name} for name in self.names}
        self.needs = dict.fromkeys(self.honest, max(plan.threshold - plan.corrupt, 0))

    def splits(self) -> Iterator[dict[str, Story]]:
        """All splits up to the names of honest clients, in which one group hears of fewer active ones.

        More than one such group gives the server nothing: masks of two groups never cancel, and clients of
        one reveal nothing unless those of the others are missing in what they hear.
        """
        spare = self.plan.clients - self.plan.min_survivors
        for size in range(1, len(self.honest) + 1):
            group, others = self.honest[:size], self.honest[size:]
            for count in range(min(spare, len(others)) + 1):
                unheard, rest = others[:count], others[count:]
                for sizes in product(range(size + 1), range(count + 1), range(len(rest) + 1)):
                    parts = zip((group, unheard, rest), sizes, strict=True)
                    stories = stories_against(
                        set(group),
                        unheard=set(unheard),
                        opened={name for part, first in parts for name in part[:first]},
                        everybody=self.everybody,
                        holders=self.holders,
                        needs=self.needs,
                        least=self.plan.min_survivors,
                        least_neighbours=self.plan.min_neighbours,
                    )
                    if stories is not None:
                        yield stories

    def every_story(self) -> Iterator[dict[str, Story]]:
        """All splits, one by one. Nothing is said of corrupt clients: their secrets are known anyway."""
        spare = self.plan.clients - self.plan.min_survivors
        assert spare <= 1
        lists = []
        for name in self.honest:
            lists.append([Story(self.everybody, self.everybody)])
            for other in self.honest if spare else "":
                if other != name:
                    fewer = self.everybody - {other}
                    lists[-1] += [Story(self.everybody, fewer), Story(fewer, fewer)]
        for chosen in product(*lists):
            yield dict(zip(self.honest, chosen, strict=True))

    def opened(self, stories: Mapping[str, Story], most: int) -> int | None:
        """How many honest inputs are in the smallest sum that these stories open, up to `most`."""
        seeds, round_secrets = rebuilt_from(stories, needs=self.needs, holders=self.holders)
        found = smallest_opened(
            stories, seeds=seeds, round_secrets=round_secrets, neighbours=self.neighbours, most=most
        )
        return None if found is None else len(found)

    def worst(self, most: int, *, brute: bool = False) -> int | None:
        """The smallest over all splits."""
        found: int | None = None
        for stories in self.every_story() if brute else self.splits():
            here = self.opened(stories, most if found is None else found - 1)
            found = here or found
        return found

    @property
    def promised(self) -> int:
        """Honest contributors that are sure, by the plan."""
        return self.plan.sure_honest


ASKED = {
    "default": Requirements(),
    "nobody corrupt": Requirements(corrupt_fraction=0.0),
    "nobody corrupt, two contributors": Requirements(corrupt_fraction=0.0, min_contributors=2),
    "a third corrupt": Requirements(corrupt_fraction=0.33),
}


def cohort(asked: str, n: int, *, lower: int = 0) -> Cohort:
    plan = plan_masked(n, ASKED[asked], ring_bits=20)
    return Cohort(replace(plan, threshold=plan.threshold - lower))
