"""A6: the same masks in two rounds, so that y - y' = x - x'.

Seen in a published prototype, which expands the same 16-bit seed each round. The server subtracts what a
client sent in two rounds and reads how its update changed; with one update known, the other follows.

Ours has fresh secrets every round *and* derives each seed under the round's transcript; both are taken away
before the attack works. That is so on the long path, where secrets come from new keys, and in the steady
state, where they come from a ratchet and new draws.

Not covered: a client that is rolled back to before it drew its keys (A14).
"""

import hashlib
from typing import Any

import numpy as np
import pytest

from protocols import MaskedSum
from protocols.machine.channels import Link, ratchet
from protocols.masked import collecting, dealing, server
from protocols.masked.keys import EpochKeys
from protocols.masked.messages import AdvertiseKeys, MaskedInput, Unmask
from protocols.masked.server import MaskedServerSteps
from protocols.masked.server_states import Idle
from protocols.masked.transcript import EpochTranscript
from secagg.secret import Secret
from secagg.standard.kem import encapsulate
from tests.attacks.weakened import LENGTH, Stage, updates_of

NAMES = "abc"


class Forgetful(MaskedServerSteps):
    """A server that begins every round on the long path."""

    def idle(self, state: Any) -> Idle:
        return Idle()


def one_transcript(monkeypatch: pytest.MonkeyPatch) -> None:
    """Seeds that no round is bound to."""

    def unbound(*, active: bytes, **_: Any) -> bytes:
        return hashlib.sha256(active).digest()

    monkeypatch.setattr(EpochTranscript, "digest", lambda self: bytes(32))
    for module in (collecting, server):
        monkeypatch.setattr(module, "mask_transcript", unbound)


def one_key_set(monkeypatch: pytest.MonkeyPatch) -> None:
    """On the long path: the same keys in every epoch, and the same secret encapsulated to them."""
    kept: dict[Any, EpochKeys] = {}
    made: dict[bytes, tuple[Secret, bytes]] = {}

    def draw(entropy: Any) -> EpochKeys:
        if id(entropy) not in kept:
            kept[id(entropy)] = EpochKeys(*(Secret(entropy(size)) for size in (32, 64, 32, 32)))
        return kept[id(entropy)]

    def again(key: bytes) -> tuple[Secret, bytes]:
        return made.setdefault(key, encapsulate(key))

    monkeypatch.setattr(EpochKeys, "draw", staticmethod(draw))
    monkeypatch.setattr(dealing, "encapsulate", again)


def one_link(monkeypatch: pytest.MonkeyPatch) -> None:
    """In the steady state: a chain that stands still, and self-mask seeds that are always the same."""

    def still(chain: Secret, *, epoch: bytes, origin: int) -> Link:
        link = ratchet(chain, epoch=epoch, origin=0)
        return Link(link.pair_secret, link.seals, chain)

    monkeypatch.setattr(dealing, "ratchet", still)
    monkeypatch.setattr(dealing, "draw", lambda entropy, size: bytes(size))


def differences(stage: Stage, *, before: int) -> tuple[Any, Any]:
    """What the server computes from two rounds, and the truth: how one client's update changed."""
    first, second = updates_of(NAMES, seed=1), updates_of(NAMES, seed=2)
    surface: Any = stage.protocol.suite.surface
    for _ in range(before):
        stage.play(first)
    sent = []
    for updates in (first, second):
        stage.play(updates)
        sent.append(stage.words(stage.answers(2, MaskedInput)["a"].vector))
    seen = stage.values(sent[0] - sent[1])[:LENGTH] / surface.codec.largest_step
    return seen, first["a"] - second["a"]


def long_path() -> Stage:
    return Stage(MaskedSum(max_clients=4), NAMES, server_steps=Forgetful())


def test_reused_keys_cancel(monkeypatch: pytest.MonkeyPatch) -> None:
    one_key_set(monkeypatch)
    one_transcript(monkeypatch)
    seen, truth = differences(long_path(), before=0)
    assert np.abs(seen - truth).max() < 1e-4


def test_a_ratchet_that_stands_still_cancels(monkeypatch: pytest.MonkeyPatch) -> None:
    one_link(monkeypatch)
    one_transcript(monkeypatch)
    seen, truth = differences(Stage(MaskedSum(max_clients=4), NAMES), before=1)
    assert np.abs(seen - truth).max() < 1e-4


@pytest.mark.parametrize("weaken", [one_key_set, one_transcript, None])
def test_on_the_long_path_fresh_keys_or_bound_seeds_are_each_enough(
    monkeypatch: pytest.MonkeyPatch, weaken: Any
) -> None:
    if weaken:
        weaken(monkeypatch)
    seen, truth = differences(long_path(), before=0)
    assert np.median(np.abs(seen - truth)) > 0.1


@pytest.mark.parametrize("weaken", [one_link, one_transcript, None])
def test_in_the_steady_state_the_ratchet_or_bound_seeds_are_each_enough(
    monkeypatch: pytest.MonkeyPatch, weaken: Any
) -> None:
    if weaken:
        weaken(monkeypatch)
    seen, truth = differences(Stage(MaskedSum(max_clients=4), NAMES), before=1)
    assert np.median(np.abs(seen - truth)) > 0.1


def test_no_key_is_advertised_twice() -> None:
    stage = long_path()
    keys = []
    for _ in range(3):
        stage.play(updates_of(NAMES))
        for each in stage.answers(0, AdvertiseKeys).values():
            keys += [each.channel_key, each.mask_key, each.channel_encapsulation, each.mask_encapsulation]
    assert len(keys) == len(set(keys)) == 36


def test_no_seed_serves_two_rounds() -> None:
    """All seeds of five steady rounds, at both ends of each pair."""
    stage, seeds = Stage(MaskedSum(max_clients=4), NAMES), list[bytes]()
    updates = updates_of(NAMES)
    for _ in range(5):
        for name, request in stage.open(updates, until=2).items():
            stage.clients[name].receive(request)
            state: Any = stage.clients[name]._state
            seeds += [seed.reveal() for seed in (*state.add, *state.subtract)]
            stage.server.receive(name, stage.clients[name].contribute(updates[name]))
        for name, request in stage.server.advance().items():
            stage.server.receive(name, stage.tell(name, request))
        assert stage.server.advance() == {}
    # Each round three self masks, and each of three pairs at both of its ends.
    assert len(seeds) == 5 * (3 + 2 * 3)
    assert len(set(seeds)) == 5 * (3 + 3)


def test_no_dealing_repeats_anything_of_the_one_before() -> None:
    stage, parts = Stage(MaskedSum(max_clients=4), NAMES), list[bytes]()
    for _ in range(4):
        stage.play(updates_of(NAMES))
        for answer in stage.answers(3, Unmask).values():
            dealt = answer.next
            columns = (dealt.sealed, dealt.hashes, dealt.edges, dealt.pairs)
            parts += [column[at : at + 16] for column in columns for at in range(0, len(column) - 15, 16)]
            parts += [dealt.self_commitment, dealt.round_commitment, answer.shares[:33]]
    # Two ends of an edge say the same hash of it, and nothing else stands anywhere twice.
    assert len(parts) - len(set(parts)) == 4 * 3
