"""C1: one secret key for everyone: the server and any one client read every update.

This attack works on CkksSum and PaillierSum as they are, and on every system in which all clients hold one
homomorphic key; two shipped ones hide it in their documentation or ship the key to the server. The first line
of our modules says so. It is shown here without weakening anything, next to MaskedSum, where the same
coalition reads nothing but the sum of the others.

Not covered: a threshold scheme would answer it, and there is none here yet.
"""

import sys
from typing import Any

import numpy as np
import pytest

from protocols import CkksSum, MaskedSum, PaillierSum
from protocols.consortium.messages import ConsortiumSecret, Contribution
from protocols.masked.messages import SelfMaskShare, Unmask
from protocols.messages.schema import decode
from tests.attacks.unmasked import is_read, pair_secrets, rebuild, revealed, strip
from tests.attacks.weakened import LENGTH, Curious, Stage, updates_of

NAMES = "abcd"
CORRUPT = "c"
CONSORTIA = [
    pytest.param(CkksSum(max_clients=4), id="ckks"),
    pytest.param(PaillierSum(max_clients=4, key_bits=2048), id="paillier"),
]


@pytest.mark.parametrize("protocol", CONSORTIA)
def test_the_server_and_one_client_read_everybody(protocol: Any) -> None:
    stage, updates = Stage(protocol, NAMES), updates_of(NAMES)
    stage.play(updates)
    stolen = decode(ConsortiumSecret, stage.clients[CORRUPT]._state.secret.reveal())
    key = protocol.scheme(protocol.surface).open_key(stolen.private_key)
    for victim, contribution in stage.answers(2, Contribution).items():
        values = key.decrypt(contribution.vector, count=protocol.surface.elements(LENGTH), summands=1)
        assert is_read(stage, values.astype(protocol.surface.ring.dtype), updates[victim])


@pytest.mark.parametrize("protocol", CONSORTIA)
def test_the_module_says_so_before_anything_else(protocol: Any) -> None:
    document = sys.modules[type(protocol).__module__].__doc__ or ""
    warning = "A CLIENT THAT COLLUDES WITH THE SERVER READS EVERY UPDATE"
    assert warning in document
    assert document.index(warning) < 200
    assert "every update" in " ".join((type(protocol).__doc__ or "").split())


def test_the_same_coalition_does_not_read_maskedsum() -> None:
    stage, updates = Stage(MaskedSum(max_clients=4), NAMES, server_steps=Curious()), updates_of(NAMES)
    stolen: dict[tuple[int, str], Any] = {}

    def steal(exchange: int, name: str, message: bytes) -> bytes:
        stolen[exchange, name] = stage.clients[name]._state
        return message

    total = stage.play(updates, reply=steal).total
    assert total is not None
    view, answers = stage.summing, stage.answers(3, Unmask)
    own = pair_secrets(view, CORRUPT, stolen[1, CORRUPT].secrets.round_secret)
    for victim in "abd":
        shares = revealed(view, answers, victim, SelfMaskShare)
        seed = rebuild(view, victim, dict(list(shares.items())[: view.epoch.threshold]))
        words = strip(stage, victim, seed=seed, pairs={CORRUPT: own[victim]})
        assert not is_read(stage, words, updates[victim])
    # What it does have: the sum of the others, which no protocol can hide from it.
    others = (total.mean * 4 - updates[CORRUPT]) / 3
    assert np.abs(others - np.mean([updates[name] for name in "abd"], axis=0)).max() < 1e-3
