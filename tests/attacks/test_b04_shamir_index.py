"""B4: a Shamir index that is zero, repeated or congruent to another.

The share at zero *is* the secret; so is the one at the field's order, and two equal indices cannot be
combined, or make a division by zero. An implementation that lets a party choose its own index, or sends
indices along with shares, lets a single holder read the secret. The weakened copy drops the check on indices.

Here indices are places in the roster, from one; no message has a field for them.

Not covered: parties whose rosters differ in order; their transcripts differ, and nothing of theirs adds up.
"""

from dataclasses import fields

import pytest

from protocols import MaskedSum
from protocols.masked.messages import PairKeyShare, SealedShares, SelfMaskShare, Survivors, Unmask
from secagg import shamir
from secagg.entropy import SeededEntropy
from secagg.errors import ParameterError
from secagg.secret import Secret
from secagg.shamir import PRIME, Share, combine, split
from tests.attacks.weakened import Stage, body_of, rebuild, revealed, updates_of

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
    for kind in (SelfMaskShare, PairKeyShare, SealedShares):
        assert not [each.name for each in fields(kind) if "index" in each.name]
        assert not [each.name for each in fields(kind) if each.type in (int, "int", "U32", "U64")]


def test_indices_are_places_in_the_roster_from_one() -> None:
    """Whoever vanishes, and whoever says what: a share rebuilds at its holder's place and nowhere else."""
    stage = Stage(MaskedSum(max_clients=8), "abcde")
    stage.open(updates_of("abcde"), until=3, gone={"b": 1})
    message = stage.request(3, Survivors(frozenset("acde")))
    answers = {name: body_of(Unmask, stage.tell(name, message)) for name in "acde"}
    view = stage.view
    assert view.holders == tuple("abcde")  # b keeps its place although nobody will ask it
    shares = revealed(answers, "e")
    seed = rebuild(view, shares)
    assert rebuild(view, {name: shares[name] for name in "de"}) == seed
    shifted = {"a": shares["c"], "c": shares["a"]}
    assert rebuild(view, shifted) != seed
