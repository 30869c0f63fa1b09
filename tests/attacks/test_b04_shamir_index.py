"""B4: a Shamir index that is zero, repeated or congruent to another.

The share at zero *is* the secret; so is the one at the field's order, and two equal indices cannot be
combined, or make a division by zero. An implementation that lets a party choose its own index, or sends
indices along with shares, lets a single holder read the secret. The weakened copy drops the check on indices.

Here indices are places, from one, among the holders that the graph gives a dealer; no message has a field for
them, and shares travel in columns in which who vanished leaves no hole that others could move into.

Not covered: parties whose rosters differ in order; their transcripts differ, and nothing of theirs adds up.
"""

from dataclasses import fields
from itertools import combinations
from typing import Any

import pytest

from protocols import MaskedSum, Requirements
from protocols.masked.dealing import SELF_MASK
from protocols.masked.messages import PairKeyShare, SelfMaskShare, ShareKeys, Unmask
from protocols.masked.transcript import commitment
from protocols.messages.schema import U32, U64
from secagg import shamir
from secagg.entropy import SeededEntropy
from secagg.errors import ParameterError
from secagg.secret import Secret
from secagg.shamir import PRIME, Share, combine, split
from tests.attacks.unmasked import rebuild, revealed
from tests.attacks.weakened import Stage, body_of, updates_of

SECRET = Secret(bytes(range(100, 132)))


def number(secret: Secret) -> int:
    return int.from_bytes(secret.reveal(), "big")


@pytest.fixture
def any_index(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shamir, "_require_index", lambda index: None)
    monkeypatch.setattr(shamir, "_require_distinct", lambda indices: None)


@pytest.mark.usefixtures("any_index")
@pytest.mark.parametrize("index", [0, PRIME, -PRIME, 2 * PRIME])
def test_without_the_check_one_holder_has_the_secret(index: int) -> None:
    shares = split(SECRET, threshold=3, indices=[1, 2, index], entropy=SeededEntropy(b"b4"))
    assert number(shares[2].value) == number(SECRET)


@pytest.mark.usefixtures("any_index")
def test_without_the_check_equal_indices_break_the_combination() -> None:
    shares = split(SECRET, threshold=2, indices=[1, 1 + PRIME], entropy=SeededEntropy(b"b4"))
    assert shares[0].value == shares[1].value  # one point twice
    with pytest.raises(ValueError, match="not invertible"):
        combine(shares, threshold=2)


@pytest.mark.parametrize("index", [0, -1, PRIME, 1 + PRIME, 1 << 16, True, 1.0, "1"])
def test_ours_refuses_the_index(index: int) -> None:
    with pytest.raises(ParameterError):
        split(SECRET, threshold=2, indices=[2, 3, index], entropy=SeededEntropy(b"b4"))
    with pytest.raises(ParameterError):
        Share(index=index, value=Secret(bytes(33)))


def test_ours_refuses_an_index_twice() -> None:
    with pytest.raises(ParameterError, match="repeated"):
        split(SECRET, threshold=2, indices=[1, 2, 1], entropy=SeededEntropy(b"b4"))
    one = split(SECRET, threshold=2, indices=[1, 2], entropy=SeededEntropy(b"b4"))[0]
    with pytest.raises(ParameterError, match="repeated"):
        combine([one, one], threshold=2)


def test_no_message_carries_an_index() -> None:
    for kind in (SelfMaskShare, PairKeyShare, ShareKeys, Unmask):
        assert not [each.name for each in fields(kind) if "index" in each.name]
        assert not [each.name for each in fields(kind) if each.type in (int, "int", U32, U64)]


@pytest.mark.parametrize("gone", ["", "b"])
@pytest.mark.parametrize("before", [0, 1])
def test_indices_are_places_among_the_holders_from_one(gone: str, before: int) -> None:
    """Whoever vanishes, and whoever says what: a share rebuilds at its holder's place and nowhere else."""
    names, left = "abcdef", [name for name in "abcdef" if name not in gone]
    protocol = MaskedSum(max_clients=8, requirements=Requirements(corrupt_fraction=0.0))
    stage = Stage(protocol, names)
    for _ in range(before):
        stage.play(updates_of(names))
    stage.open(updates_of(names), until=3, gone=dict.fromkeys(gone, 2 if before else 1))
    answers = {
        name: body_of(Unmask, stage.tell(name, stage.request(3, stage.quorum(name, left)))) for name in left
    }
    view: Any = stage.server._state.sum
    assert view.epoch.graph.holders(4) == tuple(range(6))  # b keeps its place although nobody will ask it
    shares = revealed(view, answers, "e")
    assert len(shares) == len(left)
    seeds = [
        rebuild(view, "e", {name: shares[name] for name in some})
        for some in combinations(sorted(shares), view.epoch.threshold)
    ]
    assert len(seeds) > 1
    assert all(seed == seeds[0] for seed in seeds)
    shifted = {**{name: shares[name] for name in "def"}, "a": shares["c"], "c": shares["a"]}
    some = dict(sorted(shifted.items())[: view.epoch.threshold])
    assert rebuild(view, "e", some) != seeds[0]


def test_on_a_random_graph_too() -> None:
    """A holder's index is its place among the dealer's neighbours, so each dealer has others."""
    names = [f"client {place:02d}" for place in range(28)]
    requirements = Requirements(
        corrupt_fraction=0.0, dropout_fraction=0.1, security_bits=10, liveness_bits=1, grinding_bits=0
    )
    stage = Stage(MaskedSum(max_clients=28, requirements=requirements), names)
    assert stage.protocol.plan(28).degree < 27
    stage.open(updates_of(names), until=3)
    answers = {
        name: body_of(Unmask, stage.tell(name, stage.request(3, stage.quorum(name, names)))) for name in names
    }
    view: Any = stage.server._state.sum
    bound = view.epoch.context(view.dealings.origin)
    for dealer, name in enumerate(names):
        shares = revealed(view, answers, name)
        assert len(shares) == view.epoch.degree
        promised = view.dealings.made[dealer].self_commitment
        for some in combinations(sorted(shares), view.epoch.threshold):
            seed = rebuild(view, name, {holder: shares[holder] for holder in some})
            assert commitment(bound, dealer=dealer, kind=SELF_MASK, secret=seed) == promised
