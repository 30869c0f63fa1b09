"""Who takes part: long-term identities and the roster that was agreed out of band.

Every client has one Ed25519 identity. A `Roster` maps client ids to public keys, in an order that all
parties share. Ephemeral keys are signed by identities, so a server that relays them cannot put its own in
their place (ATTACKS A4). Agreeing on the roster, over the telephone or in a contract, is the one step that
this library cannot do for its users.

>>> alice, bob = Identity.generate("alice"), Identity.generate("bob")
>>> roster = Roster.of(alice, bob)
>>> roster.members
('alice', 'bob')
"""

import hashlib
import os
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final, TypeAlias

from secagg import labels
from secagg.entropy import Entropy
from secagg.errors import ParameterError, VerificationError
from secagg.standard.signing import SigningKey, verify
from secagg.wire import Writer

__all__ = ["SERVER", "ClientId", "Identity", "Roster", "check_client_id"]

ClientId: TypeAlias = str
"""1 to 64 bytes of printable UTF-8 in Unicode's normal form NFC, other than `"server"`."""

SERVER: Final = "server"
MAXIMUM_ID_BYTES: Final = 64


def check_client_id(value: object) -> ClientId:
    """`value`, if it may name a client; else `ParameterError`.

    Two spellings of one name look alike and are different bytes: a roster knows the composed one (NFC) alone.
    """
    if not isinstance(value, str):
        raise ParameterError(f"a client id is a str, not {type(value).__name__}: {_shown(value)}")
    if value == SERVER:
        raise ParameterError("'server' names the server; choose another client id")
    size = len(value.encode("utf-8", "replace"))
    if not 1 <= size <= MAXIMUM_ID_BYTES:
        raise ParameterError(
            f"the client id {_shown(value)} has {size} bytes in UTF-8; it may have 1 to {MAXIMUM_ID_BYTES}"
        )
    if not value.isprintable():
        raise ParameterError(f"the client id {_shown(value)} holds a character that is not printable")
    if not unicodedata.is_normalized("NFC", value):
        raise ParameterError(
            f"the client id {_shown(value)} ({value!a}) is not in Unicode's normal form NFC; "
            "pass unicodedata.normalize('NFC', …) of it, everywhere"
        )
    return value


def _shown(value: object) -> str:
    """An id in an error: so much that it is recognised, and no control character."""
    text = repr(value)
    return text if len(text) <= 2 * MAXIMUM_ID_BYTES else f"{text[:MAXIMUM_ID_BYTES]}…"


@dataclass(frozen=True, slots=True)
class Identity:
    """A client id and its long-term Ed25519 signing key."""

    client: ClientId
    key: SigningKey

    def __post_init__(self) -> None:
        check_client_id(self.client)

    @classmethod
    def generate(cls, client: ClientId, *, entropy: Entropy = os.urandom) -> "Identity":
        """A fresh identity; keep `identity.key.secret` as safe as any long-term key."""
        return cls(client, SigningKey.generate(entropy))


@dataclass(frozen=True, slots=True)
class Roster:
    """Client ids and their Ed25519 public keys (32 bytes each), in the agreed order.

    The order matters where a protocol needs a first member: the custodian of a consortium key, the index of
    a Shamir share. Two parties whose rosters differ do not understand each other's messages.

    Attributes:
        keys: (client id, public key) of each member, in order.
        members: the client ids, in order.
        digest: 32 bytes that commit to the keys in their order.
    """

    keys: tuple[tuple[ClientId, bytes], ...]
    members: tuple[ClientId, ...] = field(init=False, compare=False, repr=False)
    digest: bytes = field(init=False, compare=False, repr=False)
    _places: dict[ClientId, int] = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        if not self.keys:
            raise ParameterError("a roster without members; name each client and its public key")
        encoded = Writer().fixed(labels.ROSTER).uint(len(self.keys), 4)
        for client, key in self.keys:
            check_client_id(client)
            if type(key) is not bytes or len(key) != 32:
                raise ParameterError(f"the public key of {client!r} is not 32 bytes")
            encoded.text(client).fixed(key)
        places = {client: place for place, (client, _) in enumerate(self.keys)}
        if len(places) != len(self.keys):
            raise ParameterError("a client id stands in the roster twice")
        if len({key for _, key in self.keys}) != len(self.keys):
            raise ParameterError("a public key stands in the roster twice; each client needs its own")
        # A session asks for these with every message, so they are made once.
        object.__setattr__(self, "members", tuple(places))
        object.__setattr__(self, "digest", hashlib.sha256(encoded.finish()).digest())
        object.__setattr__(self, "_places", places)

    @classmethod
    def of(cls, *identities: Identity) -> "Roster":
        """The roster of identities that are all at hand: tests, simulations, notebooks."""
        return cls(tuple((identity.client, identity.key.public_key) for identity in identities))

    @classmethod
    def from_mapping(cls, keys: Mapping[ClientId, bytes]) -> "Roster":
        """The roster with the mapping's order."""
        return cls(tuple(keys.items()))

    def __contains__(self, client: object) -> bool:
        return isinstance(client, str) and client in self._places

    def __len__(self) -> int:
        return len(self.keys)

    def order(self, clients: Iterable[ClientId]) -> tuple[ClientId, ...]:
        """`clients` in the roster's order, each once.

        Raises:
            ParameterError: one of them is not a member.
        """
        wanted: dict[ClientId, None] = {}  # keeps the given order, which is mostly the roster's already
        for client in clients:
            if not isinstance(client, str):
                raise ParameterError(f"{client!r} is not a client id; an id is a str of the roster")
            wanted[client] = None
        if strangers := wanted.keys() - self._places.keys():
            stranger = min(strangers)
            if unicodedata.normalize("NFC", stranger) in self._places:
                check_client_id(stranger)
            raise ParameterError(f"{_shown(stranger)} is not in the roster; add it out of band first")
        return tuple(sorted(wanted, key=self._places.__getitem__))

    def public_key(self, client: ClientId) -> bytes:
        """The 32-byte Ed25519 key of a member; `VerificationError` for a stranger."""
        place = self._places.get(client)
        if place is None:
            raise VerificationError(f"{client!r} is not in the roster")
        return self.keys[place][1]

    def verify(self, client: ClientId, signature: bytes, message: bytes, *, label: bytes) -> None:
        """Raises `VerificationError` unless `client` is a member and signed `message` under `label`."""
        verify(self.public_key(client), signature, message, label=label)
