"""A6: the same masks in two rounds, so that y - y' = x - x'.

Seen in a published prototype, which expands the same 16-bit seed each round. The server subtracts what a
client sent in two rounds and reads how its update changed; with one update known, the other follows.

Ours draws fresh keys every round *and* derives each seed under the round's transcript; both are taken away
before the attack works.

Not covered: a client that is rolled back to before it drew its keys (A14).
"""

import hashlib
from typing import Any

import numpy as np
import pytest

from protocols import MaskedSum
from protocols.masked import client, server
from protocols.masked.keys import RoundKeys
from protocols.masked.messages import MaskedInput
from secagg.secret import Secret
from tests.attacks.weakened import LENGTH, Stage, updates_of

NAMES = "abc"


def weaken(monkeypatch: pytest.MonkeyPatch, *, keys: bool, transcript: bool) -> None:
    """One key set for all rounds, and seeds that no round is bound to."""
    if keys:
        kept: dict[Any, RoundKeys] = {}

        def draw(entropy: Any) -> RoundKeys:
            if id(entropy) not in kept:
                kept[id(entropy)] = RoundKeys(Secret(entropy(32)), Secret(entropy(32)), Secret(entropy(32)))
            return kept[id(entropy)]

        monkeypatch.setattr(RoundKeys, "draw", staticmethod(draw))
    if transcript:

        def unbound(*, cohort_digest: bytes, dealers: tuple[str, ...], model: bytes) -> bytes:
            return hashlib.sha256(repr(dealers).encode()).digest()

        monkeypatch.setattr(client, "mask_transcript", unbound)
        monkeypatch.setattr(server, "mask_transcript", unbound)


def differences(stage: Stage) -> tuple[Any, Any]:
    """What the server computes from two rounds, and the truth: how one client's update changed, in steps."""
    first, second = updates_of(NAMES, seed=1), updates_of(NAMES, seed=2)
    surface: Any = stage.protocol.suite.surface
    sent = []
    for updates in (first, second):
        stage.play(updates)
        sent.append(stage.words(stage.answers(2, MaskedInput)["a"].vector))
    seen = surface.ring.centred(sent[0] - sent[1])[:LENGTH] / surface.codec.largest_step
    return seen, first["a"] - second["a"]


def test_reused_masks_cancel(monkeypatch: pytest.MonkeyPatch) -> None:
    weaken(monkeypatch, keys=True, transcript=True)
    seen, truth = differences(Stage(MaskedSum(max_clients=4), NAMES))
    assert np.abs(seen - truth).max() < 1e-4


@pytest.mark.parametrize(("keys", "transcript"), [(True, False), (False, True), (False, False)])
def test_fresh_keys_or_bound_seeds_are_each_enough(
    monkeypatch: pytest.MonkeyPatch, keys: bool, transcript: bool
) -> None:
    weaken(monkeypatch, keys=keys, transcript=transcript)
    seen, truth = differences(Stage(MaskedSum(max_clients=4), NAMES))
    assert np.median(np.abs(seen - truth)) > 0.1


def test_no_key_is_advertised_twice() -> None:
    from protocols.masked.messages import AdvertiseKeys

    stage = Stage(MaskedSum(max_clients=4), NAMES)
    keys = []
    for _ in range(3):
        stage.play(updates_of(NAMES))
        for each in stage.answers(0, AdvertiseKeys).values():
            keys += [each.channel_key, each.mask_key]
    assert len(keys) == len(set(keys)) == 18
