"""A7: masks from a seed that can be tried out.

Seen twice: Mersenne Twister or a 32-bit seed behind the masks of shipped code (one seed was found in 39 s), a
16-bit one in a prototype. A curious server and one corrupt client know all masks of an honest pair but their
common one; they try every seed until what is left looks like an update.

The weakened copy cuts the pair seeds to 16 bits, so that the search takes a second here; 28 or 32 bits take
2^12 or 2^16 times as long, an hour or a day on one core. Ours has 128 bits and is not searched: its test is
that a seed has them, and that the search does not find it among the short ones.

Not covered: a machine whose `os.urandom` is predictable.
"""

from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from protocols import MaskedSum
from protocols.machine import channels
from protocols.masked import collecting, keys, unmasking
from protocols.masked.messages import SelfMaskShare, Unmask
from secagg.secret import Secret
from secagg.vectors.masking import apply_masks
from tests.attacks.unmasked import is_read, pair_secrets, rebuild, revealed, strip
from tests.attacks.weakened import Curious, Stage, Vector, updates_of

NAMES = "abc"
CORRUPT = "c"
BITS = 16
PEEK = 4
"""Words of each mask that the search looks at: one AES block."""


def short(seed: Secret) -> Secret:
    return Secret(bytes(16 - BITS // 8) + seed.reveal()[: BITS // 8])


@pytest.fixture
def short_seeds(monkeypatch: pytest.MonkeyPatch) -> None:
    def cut(*arguments: Any, **named: Any) -> Secret:
        return short(keys.pair_mask_seed(*arguments, **named))

    for module in (collecting, unmasking):
        monkeypatch.setattr(module, "pair_mask_seed", cut)


def what_the_coalition_leaves(stage: Stage, updates: dict[str, Vector], *, cut: bool) -> Vector:
    """Client a's vector without its self mask and its pair mask with the corrupt client."""
    known: dict[str, Any] = {}

    def spy(exchange: int, name: str, message: bytes) -> bytes:
        if exchange == 1 and name == CORRUPT:  # the corrupt client hands over all that it has
            known["round_secret"] = stage.clients[CORRUPT]._state.secrets.round_secret
        return message

    stage.play(updates, reply=spy)
    view = stage.summing
    seed = rebuild(view, "a", revealed(view, stage.answers(3, Unmask), "a", SelfMaskShare))
    vector = strip(stage, "a", seed=seed)
    secret = pair_secrets(view, CORRUPT, known["round_secret"])["a"]
    pair = keys.pair_mask_seed(secret, transcript=view.transcript, pair=channels.pair_bytes(0, 2))
    # a comes first in the roster, so it subtracted the mask.
    apply_masks(vector, ring=stage.ring, add=[short(pair) if cut else pair], subtract=[])
    return vector


def search(stage: Stage, vector: Vector) -> Secret | None:
    """The one short seed whose mask leaves something that looks like an update, by trying all."""
    blocks = bytearray()
    for guess in range(1 << BITS):
        key = bytes(16 - BITS // 8) + guess.to_bytes(BITS // 8, "big")
        blocks += Cipher(algorithms.AES128(key), modes.CTR(bytes(16))).encryptor().update(bytes(16))
    masks = np.frombuffer(bytes(blocks), dtype="<u4").reshape(-1, PEEK)
    surface = stage.protocol.suite.surface
    assert stage.ring == surface.ring  # one value in each element
    left = surface.ring.centred((vector[:PEEK] + masks).astype(np.uint32).reshape(-1)).reshape(-1, PEEK)
    fits = np.flatnonzero((np.abs(left) <= surface.summand_bound).all(axis=1))
    for found in fits.tolist():
        seed = Secret(bytes(16 - BITS // 8) + found.to_bytes(BITS // 8, "big"))
        words = vector.copy()
        apply_masks(words, ring=surface.ring, add=[seed], subtract=[])
        if (np.abs(surface.ring.centred(words)[:-1]) <= surface.summand_bound).all():
            return seed
    return None


@pytest.mark.usefixtures("short_seeds")
def test_a_short_seed_is_found_and_the_update_read() -> None:
    stage, updates = Stage(MaskedSum(max_clients=64), NAMES, server_steps=Curious()), updates_of(NAMES)
    vector = what_the_coalition_leaves(stage, updates, cut=True)
    seed = search(stage, vector)
    assert seed is not None
    apply_masks(vector, ring=stage.protocol.suite.surface.ring, add=[seed], subtract=[])
    assert is_read(stage, vector, updates["a"])


def test_ours_is_not_among_the_short_ones() -> None:
    stage, updates = Stage(MaskedSum(max_clients=64), NAMES, server_steps=Curious()), updates_of(NAMES)
    vector = what_the_coalition_leaves(stage, updates, cut=False)
    assert not is_read(stage, vector, updates["a"])
    assert search(stage, vector) is None


def test_every_seed_has_128_bits_and_differs() -> None:
    stage = Stage(MaskedSum(max_clients=8), "abcdef")
    seeds: list[bytes] = []

    outbox = stage.open(updates_of("abcdef"), until=2)
    for name, request in outbox.items():
        stage.clients[name].receive(request)
        state = stage.clients[name]._state
        assert all(len(seed) == 16 for seed in (*state.add, *state.subtract))
        seeds += [seed.reveal() for seed in (*state.add, *state.subtract)]
    # Six self masks, and each of fifteen pairs at both of its ends.
    assert len(seeds) == 6 + 2 * 15
    assert len(set(seeds)) == 6 + 15
