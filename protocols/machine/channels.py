"""Channels between two clients: what seals what one client sends another, through a server that relays it.

A channel is a hybrid of X25519 and ML-KEM-768: its keys hold while either assumption does. It is made once,
between two clients that stand at known places in a cohort. Each end encapsulates to the other, so that each
can seal its first message at once (`first_seal_key`); from both secrets and the Diffie-Hellman value comes a
chain key (`chain_key`). The chain is ratcheted once for each later use (`ratchet`), and old links are erased:
what a client's state holds today opens nothing earlier.

Channel keys are never shared out and never derived from anything that is (ATTACKS A17). Whose public keys
these are is for signatures and the roster to say.
"""

import hashlib
import struct
from dataclasses import dataclass
from typing import Final

from secagg import labels
from secagg.secret import Secret
from secagg.standard.kdf import hkdf
from secagg.wire import Writer

__all__ = [
    "SECRET_BYTES",
    "Link",
    "chain_key",
    "first_seal_key",
    "hybrid",
    "pair_bytes",
    "ratchet",
]

SECRET_BYTES: Final = 32
_PAIR: Final = struct.Struct(">II")


def pair_bytes(first: int, second: int) -> bytes:
    """Two places in the cohort, the lower one first."""
    return _PAIR.pack(first, second) if first < second else _PAIR.pack(second, first)


def hybrid(
    classical: Secret, *quantum_safe: Secret, label: bytes, context: bytes, size: int = SECRET_BYTES
) -> Secret:
    """A key from a Diffie-Hellman value and encapsulated secrets; each has a fixed size, none can shift."""
    joined = Secret(b"".join(each.reveal() for each in (classical, *quantum_safe)))
    return hkdf(joined, label=label, context=context, size=size)


def first_seal_key(
    shared: Secret, encapsulated: Secret, ciphertext: bytes, *, epoch: bytes, dealer: int, holder: int
) -> Secret:
    """Seals the first shares that `dealer` sends `holder`, under the dealer's own encapsulation."""
    digest = hashlib.sha256(ciphertext).digest()
    context = Writer().fixed(epoch).uint(dealer, 4).uint(holder, 4).fixed(digest).finish()
    return hybrid(shared, encapsulated, label=labels.FIRST_SEAL, context=context)


def chain_key(shared: Secret, from_low: Secret, from_high: Secret, *, epoch: bytes, pair: bytes) -> Secret:
    """The first link of a channel: from the X25519 value and what each end encapsulated to the other."""
    return hybrid(shared, from_low, from_high, label=labels.CHANNEL, context=epoch + pair)


@dataclass(frozen=True, slots=True)
class Link:
    """One step of a channel's chain: the keys of one dealing, and the next link.

    Attributes:
        pair_secret: what the edge's two masks are made from (pq_uv).
        seals: the keys for what the low end seals to the high one, and the other way round.
        following: the next link; with it the current one is forgotten.
    """

    pair_secret: Secret
    seals: tuple[Secret, Secret]
    following: Secret


def ratchet(chain: Secret, *, epoch: bytes, origin: int) -> Link:
    """The keys of the dealing for round `origin`."""
    keys = hkdf(
        chain, label=labels.RATCHET, context=epoch + origin.to_bytes(8, "big"), size=4 * SECRET_BYTES
    ).reveal()
    parts = [Secret(keys[start : start + SECRET_BYTES]) for start in range(0, len(keys), SECRET_BYTES)]
    return Link(parts[0], (parts[1], parts[2]), parts[3])
