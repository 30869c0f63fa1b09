"""A17: the key that Shamir rebuilds for a dropped client opens more than its masks.

In the weakened copy the channel keys follow from the round secret that is shared out. The server does nothing
but what the protocol asks: two clients vanish, it rebuilds their round secrets, and with them it opens what
everybody had sealed to those two. These are shares of the survivors' round secrets, as many as the threshold
asks for; the survivors' self-mask seeds it has anyway. It reads them all.

Ours has two independent key sets. From the server's own view of several rounds, first and steady, every key
that follows from a rebuilt secret is tried on everything that was ever sealed: it opens that client's pair
secrets of that round, which is what it is for, and nothing else.

Not covered: holders that hand the server their own channel keys; more than the threshold of them, and Shamir
has nothing to say.
"""

from typing import TypeAlias

import numpy as np
import pytest

from protocols import Adversary, MaskedSum, Requirements
from protocols.masked.keys import MaskKeys
from protocols.masked.messages import SHARE_BYTES, PairKeyShare, SelfMaskShare
from secagg.secret import Secret
from tests.attacks.recorded import Recorded, Recorder, every_key, first_seal_of
from tests.attacks.unmasked import is_read, pair_secrets, rebuild, revealed, strip
from tests.attacks.weakened import Curious, Stage, Vector, channel_of, one_key_set, updates_of

NAMES = "abcdefgh"
History: TypeAlias = tuple[Recorder, dict[str, Vector], dict[tuple[int, str], Secret]]
"""All rounds, the updates, and K_u by round and client that vanished in it."""
SEMI_HONEST = Requirements(adversary=Adversary.SEMI_HONEST)


def round_secret_of(played: Recorded, client: str) -> Secret:
    """K_u of a client that vanished, as the server rebuilds it."""
    return rebuild(played.view, client, revealed(played.view, played.unmasked, client, PairKeyShare))


def seed_of(played: Recorded, client: str) -> Secret:
    """b_u of a survivor."""
    return rebuild(played.view, client, revealed(played.view, played.unmasked, client, SelfMaskShare))


# One key set for both


def test_with_one_key_set_a_curious_server_reads_the_survivors(monkeypatch: pytest.MonkeyPatch) -> None:
    one_key_set(monkeypatch)
    names, dropped, survivors = "abcde", "bd", "ace"
    protocol = MaskedSum(max_clients=8, requirements=SEMI_HONEST)
    assert protocol.plan(5).threshold == len(dropped)
    stage, updates = Stage(protocol, names, server_steps=Curious()), updates_of(names)
    played = Recorder(stage).play(updates, gone=dict.fromkeys(dropped, 2))
    assert stage.server.outcome().contributors == frozenset(survivors)
    for victim in survivors:
        shares = {}
        for holder in dropped:
            key = first_seal_of(played, victim, holder, *channel_of(round_secret_of(played, holder)))
            blob = next(b for b in played.blobs() if (b.dealer, b.holder) == (victim, holder))
            opened = blob.open(key)
            assert opened is not None
            shares[holder] = opened.reveal()[SHARE_BYTES:]
        round_secret = rebuild(played.view, victim, shares)
        words = strip(stage, victim, seed=seed_of(played, victim), round_secret=round_secret)
        assert is_read(stage, words, updates[victim])


# Two key sets


@pytest.fixture(scope="module")
def history() -> History:
    """Four rounds of one epoch: in the first two somebody vanishes after dealing; and the rebuilt secrets."""
    protocol = MaskedSum(max_clients=8, requirements=SEMI_HONEST)
    stage, updates = Stage(protocol, NAMES, server_steps=Curious()), updates_of(NAMES)
    recorder = Recorder(stage)
    present = dict(updates)
    for lost in ("b", "e", "", ""):
        played = recorder.play(present, gone={lost: 2} if lost else {})
        assert stage.server.outcome().contributors == frozenset(present) - {lost}
        present.pop(lost, None)
        assert played.view.epoch.round == 0  # all in one epoch
    secrets = {
        (number, lost): round_secret_of(recorder.rounds[number], lost)
        for number, lost in enumerate(("b", "e"))
    }
    return recorder, updates, secrets


@pytest.mark.slow
def test_a_rebuilt_secret_opens_its_own_pair_secrets_and_nothing_else(
    history: History,
) -> None:
    recorder, _, secrets = history
    for (number, client), secret in secrets.items():
        keys = {key.reveal(): key for key in every_key(recorder, client, secret)}
        assert len(keys) > 800
        opened = {(blob.round, blob.dealer, blob.holder) for blob in recorder.opened_by(keys.values())}
        assert opened == {(number, client, "")}


def test_what_it_opens_is_one_secret_for_each_neighbour(
    history: History,
) -> None:
    """All of them, so that the sum comes out; and no pair secret serves two rounds."""
    recorder, updates, secrets = history
    found = {
        number: pair_secrets(recorder.rounds[number].view, client, secret)
        for (number, client), secret in secrets.items()
    }
    assert found[0].keys() == set(NAMES) - {"b"}
    assert found[1].keys() == set(NAMES) - {"b", "e"}
    everything = [secret.reveal() for each in found.values() for secret in each.values()]
    assert len(set(everything)) == len(everything)
    total = recorder.stage.server.outcome().total
    assert total is not None
    assert np.abs(total.mean - np.mean([updates[name] for name in "acdfgh"], axis=0)).max() < 1e-4


def test_its_masks_stay_on_in_every_other_round(
    history: History,
) -> None:
    """With e's round secret of round 1 and its self-mask seed of round 0, its vector of round 0 is closed."""
    recorder, updates, secrets = history
    first, second = recorder.rounds[:2]
    seed = seed_of(first, "e")
    stolen = pair_secrets(second.view, "e", secrets[1, "e"])
    for pairs in ({}, stolen):
        words = strip(recorder.stage, "e", seed=seed, pairs=pairs, view=first.view, vector=first.vectors["e"])
        assert not is_read(recorder.stage, words, updates["e"])


def test_channel_and_mask_keys_are_not_the_same(
    history: History,
) -> None:
    """A client that advertises one key for both is refused, so nobody can weaken itself."""
    recorder, _, secrets = history
    keys = recorder.rounds[0].keys
    mask = MaskKeys(secrets[0, "b"])
    assert mask.agreement.public_key == keys["b"].mask_key  # the secrets above are the real ones
    assert mask.encapsulation.encapsulation_key == keys["b"].mask_encapsulation
    for each in keys.values():
        assert each.channel_key != each.mask_key
        assert each.channel_encapsulation != each.mask_encapsulation
