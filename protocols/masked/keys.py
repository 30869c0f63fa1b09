"""The keys of one round of MaskedSum and what is derived from them.

Two independent key sets (ATTACKS A17). The *channel* key seals what one client sends another; it is never
shared out. The *mask* key comes from the round secret, which Shamir shares may rebuild. So whoever rebuilds a
dropped client's round secret opens that client's pair masks of this round and nothing else: not one sealed
share. The self-mask seed is independent of both.
"""

import os
from dataclasses import dataclass

from protocols.identity import ClientId
from secagg import labels
from secagg.agreement import PrivateKey, public_key
from secagg.entropy import Entropy, draw
from secagg.kdf import hkdf
from secagg.masking import MASK_KEY_BYTES
from secagg.secret import Secret
from secagg.wire import Writer

__all__ = ["RoundKeys", "channel_key", "mask_private_key", "pair_mask_seed", "self_mask_seed"]


@dataclass(frozen=True, slots=True)
class RoundKeys:
    """What a client draws for a round.

    Attributes:
        channel: X25519 private key (c_u^SK); never leaves the client.
        round_secret: 32 bytes that are shared out; the mask key pair (s_u) follows from them.
        self_mask_seed: 32 bytes that are shared out (b_u).
    """

    channel: Secret
    round_secret: Secret
    self_mask_seed: Secret

    @classmethod
    def draw(cls, entropy: Entropy = os.urandom) -> "RoundKeys":
        """Fresh keys."""
        return cls(Secret(draw(entropy, 32)), Secret(draw(entropy, 32)), Secret(draw(entropy, 32)))

    @property
    def channel_public(self) -> bytes:
        """c_u^PK."""
        return public_key(self.channel)

    @property
    def mask_public(self) -> bytes:
        """s_u^PK."""
        return public_key(mask_private_key(self.round_secret))


def mask_private_key(round_secret: Secret) -> Secret:
    """s_u^SK, the X25519 private key that makes a client's pair masks."""
    return hkdf(round_secret, label=labels.MASK_KEY)


def channel_key(
    private: PrivateKey, public: bytes, *, transcript: bytes, sender: ClientId, receiver: ClientId
) -> Secret:
    """The AEAD key for what `sender` seals to `receiver` in this round (KA.agree(c_u^SK, c_v^PK))."""
    context = Writer().fixed(transcript).text(sender).text(receiver).finish()
    return hkdf(private.agree(public), label=labels.CHANNEL, context=context)


def pair_mask_seed(
    private: PrivateKey, public: bytes, *, transcript: bytes, low: ClientId, high: ClientId
) -> Secret:
    """The seed of the mask that two clients share (s_{u,v}); equal at both ends if their transcripts are."""
    context = Writer().fixed(transcript).text(low).text(high).finish()
    return hkdf(private.agree(public), label=labels.PAIR_MASK, context=context, size=MASK_KEY_BYTES)


def self_mask_seed(seed: Secret, *, transcript: bytes, client: ClientId) -> Secret:
    """The seed of a client's own mask, PRG(b_u)."""
    context = Writer().fixed(transcript).text(client).finish()
    return hkdf(seed, label=labels.SELF_MASK, context=context, size=MASK_KEY_BYTES)
