"""A17: the key that Shamir rebuilds for a dropped client opens more than its masks.

In the weakened copy the channel key follows from the round secret that is shared out. The server does nothing
but what the protocol asks: two clients vanish, it rebuilds their round secrets, and with them it opens what
everybody had sealed to those two. These are shares of the survivors' round secrets, as many as the threshold
asks for; the survivors' self-mask seeds it has anyway. It reads them all.

Ours has two independent key sets, and a test that tries every key which follows from a rebuilt secret.

Not covered: holders that hand the server their own channel keys; more than the threshold of them, and Shamir
has nothing to say.
"""

from typing import Any

import pytest

from protocols import MaskedSum
from protocols.masked.keys import RoundKeys, channel_key, mask_private_key
from protocols.masked.messages import PairKeyShare, SelfMaskShare, Unmask
from protocols.masked.server import Sharing
from secagg import labels
from secagg.aead import open_sealed
from secagg.agreement import PrivateKey
from secagg.errors import VerificationError
from secagg.kdf import hkdf
from secagg.secret import Secret
from secagg.shamir import SHARE_BYTES
from tests.attacks.weakened import Curious, Stage, is_read, rebuild, revealed, strip, updates_of

NAMES = "abcde"
DROPPED = "bd"
SURVIVORS = "ace"


def channel_of(round_secret: Secret) -> Secret:
    return hkdf(round_secret, label=b"the weakened copy's channel key")


@pytest.fixture
def one_key_set(monkeypatch: pytest.MonkeyPatch) -> None:
    honest = RoundKeys.draw

    def draw(entropy: Any) -> RoundKeys:
        keys = honest(entropy)
        return RoundKeys(channel_of(keys.round_secret), keys.round_secret, keys.self_mask_seed)

    monkeypatch.setattr(RoundKeys, "draw", staticmethod(draw))


def played() -> tuple[Stage, dict[str, Any], dict[str, Secret]]:
    """An honest round in which two clients vanish; and the round secrets that the server rebuilt."""
    stage, updates = Stage(MaskedSum(max_clients=8), NAMES, server_steps=Curious()), updates_of(NAMES)
    outcome = stage.play(updates, gone=dict.fromkeys(DROPPED, 2))
    assert outcome.contributors == frozenset(SURVIVORS)
    answers = stage.answers(3, Unmask)
    return (
        stage,
        updates,
        {name: rebuild(stage.view, revealed(answers, name, PairKeyShare)) for name in DROPPED},
    )


def sealed_to(stage: Stage, holder: str, private: Secret, dealer: str) -> bytes:
    """The pair of shares that `dealer` sealed to `holder`, opened with a key of the holder's."""
    transcript = cohort_transcript(stage)
    key = channel_key(
        PrivateKey(private),
        stage.view.keys[dealer].channel_key,
        transcript=transcript,
        sender=dealer,
        receiver=holder,
    )
    sealed = stage.view.dealt[dealer].shares[holder].sealed
    return open_sealed(key, sealed, associated_data=transcript).reveal()


def cohort_transcript(stage: Stage) -> bytes:
    steps: Any = stage.server._suite.server
    transcript: bytes = next(state.transcript for state in steps.seen if isinstance(state, Sharing))
    return transcript


@pytest.mark.usefixtures("one_key_set")
def test_with_one_key_set_a_curious_server_reads_the_survivors() -> None:
    stage, updates, secrets = played()
    assert stage.view.threshold == len(DROPPED)
    for victim in SURVIVORS:
        shares = {
            holder: sealed_to(stage, holder, channel_of(secrets[holder]), victim)[SHARE_BYTES:]
            for holder in DROPPED
        }
        seed = rebuild(stage.view, revealed(stage.answers(3, Unmask), victim, SelfMaskShare))
        words = strip(stage, victim, seed=seed, round_secret=rebuild(stage.view, shares))
        assert is_read(stage, words, updates[victim])


def test_nothing_that_follows_from_a_rebuilt_secret_opens_a_sealed_share() -> None:
    stage, _, secrets = played()
    every_label = [value for value in vars(labels).values() if isinstance(value, bytes)]
    assert labels.CHANNEL in every_label
    tried = 0
    for holder, secret in secrets.items():
        roots = [secret, mask_private_key(secret)]
        candidates = [*roots, *(hkdf(root, label=label) for root in roots for label in every_label)]
        for dealer in NAMES:
            if dealer == holder or not stage.view.dealt[dealer].shares[holder].sealed:
                continue
            for private in candidates:
                with pytest.raises(VerificationError):
                    sealed_to(stage, holder, private, dealer)
                tried += 1
    assert tried > 200


def test_the_rebuilt_secret_does_open_the_masks_that_it_should() -> None:
    """What it is for: the sum came out right, so the secrets that were tried above are the real ones."""
    stage, updates, secrets = played()
    total = stage.server.outcome().total
    assert total is not None
    assert abs(total.mean - sum(updates[name] for name in SURVIVORS) / 3).max() < 1e-4
    for name, secret in secrets.items():
        keys = RoundKeys(secret, secret, secret)
        assert keys.mask_public == stage.view.keys[name].mask_key


def test_channel_and_mask_keys_are_not_the_same() -> None:
    """A client that advertises one key for both is refused (see `take_keys`), so nobody can weaken itself."""
    stage, _, _ = played()
    for keys in stage.view.keys.values():
        assert keys.channel_key != keys.mask_key
