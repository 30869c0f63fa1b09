"""A18: one lie opens one edge.

In some protocols a neighbour that hears that its peer vanished reveals the pair seed of the two itself. It is
cheaper than shares, and it takes one lie, not t votes, to open an edge. The weakened copy does so. A server
that tells different stories then isolates two clients of its choice: it tells each of them that some others
vanished, and the rest of the others that the two did. Every story is one that an honest server could tell.

Ours reveals shares of a round secret, of which t are needed, and no message of ours carries a pair secret or
a mask seed of anybody. The same stories open nothing.

Not covered: what t votes open (A2).
"""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from protocols import Adversary, MaskedSum, Requirements
from protocols.machine.channels import pair_bytes
from protocols.masked.client import MaskedClientSteps
from protocols.masked.keys import pair_mask_seed
from protocols.masked.messages import CollectInput, PairKeyShare, Quorum, Unmask
from protocols.masked.states import Dealt, Ready
from secagg.secret import Secret
from tests.attacks.recorded import Recorder
from tests.attacks.stories import Story
from tests.attacks.unmasked import pair_secrets
from tests.attacks.views import Coalition, tell_stories
from tests.attacks.weakened import Curious, Stage, Vector, updates_of

NAMES = "abcdefgh"
CORRUPT = "gh"
CHOSEN = "ab"


class Keeps(MaskedClientSteps):
    """A client of ours that lets the test look at the pair secrets that it used."""

    def __init__(self) -> None:
        self.used: list[dict[int, Secret]] = []

    def react(self, context: Any, state: Any, request: Any) -> Any:
        if isinstance(state, Ready) and isinstance(request, CollectInput):
            self.used.append({place: edge.pair_secret for place, edge in state.prepared.edges.items()})
        return super().react(context, state, request)


class Tells(Keeps):
    """The weakened copy: for a neighbour that vanished it reveals the pair secret of the two."""

    def react(self, context: Any, state: Any, request: Any) -> Any:
        step: Any = super().react(context, state, request)
        if not isinstance(request, Quorum):
            return step
        dealers = sorted(state.held)
        reveals = [
            PairKeyShare(b"\0" + self.used[-1][dealer].reveal()) if isinstance(each, PairKeyShare) else each
            for dealer, each in zip(dealers, step.message.reveals(len(dealers)), strict=True)
        ]
        return replace(step, message=Unmask.of(reveals, following=step.message.next))


def isolated(steps: type[Keeps]) -> tuple[Coalition, dict[str, Vector]]:
    """A steady round in which the server means to have the sum of two clients."""
    protocol = MaskedSum(max_clients=8)
    plan = protocol.plan(8)
    assert (plan.threshold, plan.min_survivors, plan.corrupt) == (6, 6, len(CORRUPT))
    stage, updates = Stage(protocol, NAMES, steps={name: steps() for name in NAMES}), updates_of(NAMES)
    stage.play(updates)
    everybody = frozenset(NAMES)
    # The two hear that c and d vanished, e and f that the two did; nobody hears of more than may vanish.
    vanished = {"a": "cd", "b": "cd", "c": "", "d": "", "e": CHOSEN, "f": CHOSEN}
    stories = {name: Story(everybody, everybody - set(lost)) for name, lost in vanished.items()}
    return tell_stories(stage, updates, stories, CORRUPT), updates


def told_edges(coalition: Coalition) -> dict[frozenset[str], Secret]:
    """What honest clients said of those that they heard had vanished, read as pair secrets."""
    return {
        frozenset({dealer, holder}): Secret(share[1:])
        for (dealer, alive), shares in coalition.shares.items()
        for holder, share in shares.items()
        if not alive and holder not in CORRUPT and holder != dealer
    }


def test_where_a_neighbour_tells_the_pair_secret_two_clients_are_isolated() -> None:
    coalition, updates = isolated(Tells)
    assert not coalition.refused
    assert set(CHOSEN) <= coalition.seeds.keys()
    assert not coalition.round_secrets.keys() & set(NAMES) - set(CORRUPT)  # no t votes against anybody
    edges = told_edges(coalition)
    assert coalition.opens(CHOSEN, updates, edges=edges)
    assert not any(coalition.opens(name, updates, edges=edges) for name in CHOSEN)


def test_ours_keeps_every_edge_closed_under_the_same_stories() -> None:
    coalition, updates = isolated(Keeps)
    assert not coalition.refused
    assert not coalition.opens(CHOSEN, updates, edges=told_edges(coalition))
    assert not coalition.opens(CHOSEN, updates)


# What is on the wire


def secrets_of(
    recorder: Recorder, steps: dict[str, Keeps], first: dict[str, dict[str, Secret]]
) -> Iterator[bytes]:
    """All pair secrets and mask seeds of all rounds."""
    for each in recorder.rounds:
        epoch, transcript = each.view.epoch, each.view.transcript
        for name in each.vectors:
            me = epoch.members.index(name)
            used = (
                {epoch.members.index(peer): secret for peer, secret in first[name].items()}
                if each.number == 0
                else steps[name].used[each.number - 1]
            )
            for place, secret in used.items():
                yield secret.reveal()
                yield pair_mask_seed(secret, transcript=transcript, pair=pair_bytes(me, place)).reveal()


@pytest.mark.parametrize("adversary", list(Adversary))
def test_no_message_carries_a_pair_secret_or_a_mask_seed(adversary: Adversary) -> None:
    """A first round that loses a client after it dealt, and a steady one: all secrets of the survivors."""
    requirements = Requirements(adversary=adversary, corrupt_fraction=0.0, min_contributors=2)
    protocol = MaskedSum(max_clients=8, requirements=requirements)
    steps = {name: Keeps() for name in NAMES}
    stage = Stage(protocol, NAMES, steps=steps, server_steps=Curious())
    recorder, first = Recorder(stage), dict[str, dict[str, Secret]]()
    seeds: list[bytes] = []

    def look(exchange: int, name: str, message: bytes) -> bytes:
        state: Any = stage.clients[name]._state
        if exchange == 2 and isinstance(state, Dealt):
            first[name] = dict(pair_secrets(stage.summing, name, state.secrets.round_secret))
            seeds.append(state.secrets.self_mask_seed.reveal())
        return message

    present, wire = updates_of(NAMES), b""
    for lost in ("c", ""):
        recorder.play(present, gone={lost: 2} if lost else {}, request=look)
        present.pop(lost, None)
        wire += b"".join(each.message for each in stage.wire)
    assert recorder.rounds[-1].view.epoch.round == 0
    secrets = {*secrets_of(recorder, steps, first), *seeds}
    # A pair secret and a mask seed for each pair with a survivor, of two rounds, and b_u of the first.
    assert len(secrets) == 2 * 28 + 2 * 21 + 7
    assert all(secret not in wire for secret in secrets)
    dealt = recorder.rounds[0].dealt["a"]
    assert dealt.pairs in wire  # the search would find them: what seals them is there
