"""The keys of MaskedSum and what is derived from them.

Two independent key sets (ATTACKS A17). *Channel* keys seal what one client sends another; they are never
shared out and never derived from anything that is. *Mask* secrets come from the round secret K_u, which
Shamir shares may rebuild. So whoever rebuilds a dropped client's K_u opens that client's pair masks of this
round and nothing else: not one sealed share, and no other round.

Both are hybrids of X25519 and ML-KEM-768: a key holds while either assumption does.

* A *channel* (`protocols.machine.channels`) is made once in an epoch, on the long path, and ratcheted once
  for each later dealing.
* The *pair secret* of an edge is what its two ends make their masks from. In an epoch's first round neither
  end could know a channel in time to put it under its K_u, so there the pair secret is agreed between mask
  keys that follow from K: the end that stands first in the cohort encapsulates to the other. Whoever rebuilds
  K of either end has it: as the one encapsulated to, or from `pairs`, which the encapsulating end seals
  under its own K. In later rounds the chain gives the pair secret, and both ends seal it under their K.
"""

import hashlib
import os
from dataclasses import dataclass

from protocols.machine.channels import SECRET_BYTES, hybrid
from secagg import labels
from secagg.entropy import Entropy, draw
from secagg.secret import Secret
from secagg.standard.agreement import PrivateKey
from secagg.standard.kdf import hkdf
from secagg.standard.kem import SEED_BYTES, DecapsulationKey
from secagg.vectors.masking import MASK_KEY_BYTES
from secagg.wire import Writer

__all__ = [
    "EpochKeys",
    "MaskKeys",
    "first_pair_secret",
    "pair_mask_seed",
    "pairs_key",
    "self_mask_seed",
]


@dataclass(frozen=True, slots=True)
class EpochKeys:
    """What a client draws on the long path.

    Attributes:
        channel: X25519 private key (c_u^SK); never leaves the client.
        channel_seed: 64-byte seed of the ML-KEM key beside it.
        round_secret: K_u, 32 bytes that are shared out; the mask keys follow from them.
        self_mask_seed: b_u, 32 bytes that are shared out.
    """

    channel: Secret
    channel_seed: Secret
    round_secret: Secret
    self_mask_seed: Secret

    @classmethod
    def draw(cls, entropy: Entropy = os.urandom) -> "EpochKeys":
        """Fresh keys."""
        return cls(
            Secret(draw(entropy, SECRET_BYTES)),
            Secret(draw(entropy, SEED_BYTES)),
            Secret(draw(entropy, SECRET_BYTES)),
            Secret(draw(entropy, SECRET_BYTES)),
        )


class MaskKeys:
    """The hybrid key pair that follows from a round secret K_u: s_u of CCS'17, Fig. 4."""

    __slots__ = ("agreement", "encapsulation")

    def __init__(self, round_secret: Secret) -> None:
        self.agreement = PrivateKey(hkdf(round_secret, label=labels.MASK_KEY))
        self.encapsulation = DecapsulationKey(
            hkdf(round_secret, label=labels.MASK_ENCAPSULATION, size=SEED_BYTES)
        )

    @property
    def advertised(self) -> tuple[bytes, bytes]:
        """The X25519 public key, and the SHA-256 of the ML-KEM one."""
        return self.agreement.public_key, hashlib.sha256(self.encapsulation.encapsulation_key).digest()


def first_pair_secret(
    shared: Secret, encapsulated: Secret, ciphertext: bytes, *, epoch: bytes, pair: bytes
) -> Secret:
    """The pair secret of an epoch's first round: agreed between mask keys, the low end encapsulating."""
    context = Writer().fixed(epoch).fixed(pair).fixed(hashlib.sha256(ciphertext).digest()).finish()
    return hybrid(shared, encapsulated, label=labels.PAIR_SECRET, context=context)


def pairs_key(round_secret: Secret, *, context: bytes) -> Secret:
    """The key under which a client leaves its pair secrets with the server, for whoever rebuilds K_u."""
    return hkdf(round_secret, label=labels.PAIR_SEAL, context=context)


def pair_mask_seed(pair_secret: Secret, *, transcript: bytes, pair: bytes) -> Secret:
    """The seed of the mask that two clients share (s_{u,v}); equal at both ends if their transcripts are."""
    return hkdf(pair_secret, label=labels.PAIR_MASK, context=transcript + pair, size=MASK_KEY_BYTES)


def self_mask_seed(seed: Secret, *, transcript: bytes, client: int) -> Secret:
    """The seed of a client's own mask, PRG(b_u)."""
    context = transcript + client.to_bytes(4, "big")
    return hkdf(seed, label=labels.SELF_MASK, context=context, size=MASK_KEY_BYTES)
