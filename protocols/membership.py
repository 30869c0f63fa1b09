"""How a roster changes: numbered versions, each signed by its members, and a session for each.

A `Roster` is fixed for the length of a session. When a hospital joins, leaves or takes a new key, people make
the next `RosterVersion`: it has the next number, names the digest of the version before, and carries members'
signatures over its own digest. Whoever holds version v takes version v + 1 if ⌊(n + c)/2⌋ + 1 of the n
members of version v signed it, under the keys that they had *there* (`check_succeeds`). With at most c
corrupt members two quorums share an honest one, who signs one successor of a version and never a second
(Malkhi and Reiter, Byzantine quorum systems, 1998). So a version has one successor, and neither the server
nor a minority of the members adds one or changes a key.

The first version has no predecessor. Its members compare `fingerprint` by telephone; all of them signing it
shows each that all hold the same, but under keys that stand in the very file, so it replaces no call.

What it does not promise. Nobody here knows whether a version has been succeeded already: clients keep the
highest version that they took and refuse lower ones. An honest member who signs two successors of one version
gives away the argument above; the training floor's `signed_rosters` remembers for it. Where n - 1 members are
no quorum, as with three of whom one may be corrupt, nobody is removed without signing; the others then agree
on a new first version, as they agreed on the old.

>>> from protocols.identity import Identity
>>> alice, bob, carol = (Identity.generate(name) for name in ("alice", "bob", "carol"))
>>> first = RosterVersion(Roster.of(alice, bob))
>>> second = first.successor(Roster.of(alice, bob, carol)).signed(alice).signed(bob)
>>> second.check_succeeds(first, corrupt=0)
>>> second.version, second.signers
(2, ('alice', 'bob'))
>>> session_id(b"chest x-rays", first, 0) == session_id(b"chest x-rays", second, 0)
False
"""

import base64
import hashlib
from dataclasses import dataclass, field, replace
from typing import Final

from protocols.identity import ClientId, Identity, Roster
from secagg import labels
from secagg.errors import ParameterError, VerificationError
from secagg.numbers import plain, plain_fields
from secagg.standard.signing import PUBLIC_KEY_BYTES, SIGNATURE_BYTES, verify
from secagg.wire import Writer

__all__ = [
    "RosterVersion",
    "digest_fingerprint",
    "digest_session_id",
    "fingerprint",
    "quorum",
    "session_id",
]

DIGEST_BYTES: Final = 32
MAXIMUM_PREFIX: Final = 255
_INTEGERS: Final = 1 << 63

_GROUP: Final = 4
_KEY_LETTERS: Final = 20
"""100 bits. Who wants to pass for a member looks for a second key with its fingerprint: 2¹⁰⁰ keys to try."""

_ROSTER_LETTERS: Final = 32
"""160 bits. Who composes a roster may look for *two* with one fingerprint, to show one to each of two
members: a birthday search of half as many bits, so 2⁸⁰ rosters to try."""


def quorum(members: int, corrupt: int) -> int:
    """⌊(n + c)/2⌋ + 1: the fewest of n members of whom any two sets share more than c.

    Args:
        members: n, at least 1.
        corrupt: c in [0, n), the members that may be corrupt.

    Raises:
        ParameterError: an argument is anything else.
    """
    members, corrupt = plain(members), plain(corrupt)
    if type(members) is not int or members < 1:
        raise ParameterError(f"members is {members!r}; it must be an integer of at least 1")
    if type(corrupt) is not int or not 0 <= corrupt < members:
        raise ParameterError(
            f"corrupt is {corrupt!r}; of {members} members an integer in [0, {members}) may be"
        )
    return (members + corrupt) // 2 + 1


@dataclass(frozen=True, slots=True)
class RosterVersion:
    """A roster, its place in the line of versions, and who signed it.

    Args:
        roster: the members and their keys.
        version: in [1, 2**63).
        previous: the digest of the version before, 32 bytes; empty for version 1.
        signatures: (public key, signature), 32 and 64 bytes, one for each key, in any order. They are counted
            when somebody asks, and only if they verify: a wrong one is as good as none.

    Attributes:
        signatures: sorted by public key.
        digest: 32 bytes, SHA-256 over version, previous and roster. Signatures are not part of it, so that it
            stays the same while they are collected.

    Raises:
        ParameterError: an argument is anything else.
    """

    roster: Roster
    version: int = field(default=1, kw_only=True)
    previous: bytes = field(default=b"", kw_only=True)
    signatures: tuple[tuple[bytes, bytes], ...] = field(default=(), kw_only=True)
    digest: bytes = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        if not isinstance(self.roster, Roster):
            raise ParameterError(f"a RosterVersion holds a Roster, not {type(self.roster).__name__}")
        plain_fields(self, "version")
        if type(self.version) is not int or not 1 <= self.version < _INTEGERS:
            raise ParameterError(f"version is {self.version!r}; it must be an integer in [1, 2**63)")
        size = 0 if self.version == 1 else DIGEST_BYTES
        if type(self.previous) is not bytes or len(self.previous) != size:
            raise ParameterError(
                f"previous of version {self.version} must be {size} bytes: the digest of the version before, "
                "and nothing for version 1; use RosterVersion.successor"
            )
        object.__setattr__(self, "signatures", _sorted(self.signatures))
        encoded = Writer().fixed(labels.ROSTER_VERSION).uint(self.version, 8).blob(self.previous)
        object.__setattr__(
            self, "digest", hashlib.sha256(encoded.fixed(self.roster.digest).finish()).digest()
        )

    @property
    def fingerprint(self) -> str:
        """The first 160 bits of the digest, eight groups of four letters and digits for people to compare.

        So many that nobody finds two rosters with one fingerprint. Compare all eight, over a channel on which
        you know the other's voice; that the file came from the same address says nothing.
        """
        return digest_fingerprint(self.digest)

    @property
    def signers(self) -> tuple[ClientId, ...]:
        """The members, in the roster's order, whose signatures verify under their keys in this roster."""
        return self.signers_among(self.roster)

    def signers_among(self, roster: Roster) -> tuple[ClientId, ...]:
        """The members of `roster`, in its order, whose signatures verify under their keys there."""
        signed = dict(self.signatures)
        return tuple(client for client, key in roster.keys if key in signed and self._holds(key, signed[key]))

    def _holds(self, public_key: bytes, signature: bytes) -> bool:
        try:
            verify(public_key, signature, self.digest, label=labels.ROSTER_SIGNATURE)
        except VerificationError:
            return False
        return True

    def signed(self, identity: Identity) -> "RosterVersion":
        """This version with the identity's signature, in place of one that stands there under its key.

        An identity that is no member of this roster may sign: who leaves, and the old key of who takes a new
        one, sign the successor as members of the version before. **Sign one successor of a version, ever.**

        Raises:
            ParameterError: `identity` is no Identity.
        """
        if not isinstance(identity, Identity):
            raise ParameterError(f"a roster is signed by an Identity, not {type(identity).__name__}")
        signature = identity.key.sign(self.digest, label=labels.ROSTER_SIGNATURE)
        others = dict(self.signatures)
        return replace(self, signatures=tuple({**others, identity.key.public_key: signature}.items()))

    def with_signatures(self, copy: "RosterVersion") -> "RosterVersion":
        """This version with those signatures of another copy that verify; what verifies here already stays.

        Raises:
            VerificationError: the copy is another version or another roster.
            ParameterError: it is no RosterVersion.
        """
        if not isinstance(copy, RosterVersion):
            raise ParameterError(f"copy is a RosterVersion, not {type(copy).__name__}")
        if copy.digest != self.digest:
            raise VerificationError(
                f"the copy is another roster: version {copy.version} ({copy.fingerprint}), not version "
                f"{self.version} ({self.fingerprint})"
            )
        found = {key: signature for key, signature in copy.signatures if self._holds(key, signature)}
        kept = {key: signature for key, signature in self.signatures if self._holds(key, signature)}
        return replace(self, signatures=tuple({**dict(self.signatures), **found, **kept}.items()))

    def successor(self, roster: Roster) -> "RosterVersion":
        """The next version, with another roster and no signatures yet.

        A member whose key differs between the two takes a new key.

        Raises:
            ParameterError: `roster` is no Roster, or the one that this version has.
        """
        made = RosterVersion(roster, version=self.version + 1, previous=self.digest)
        if roster == self.roster:
            raise ParameterError("the next version has the same roster as this one; there is nothing to sign")
        return made

    def check_succeeds(self, previous: "RosterVersion", *, corrupt: int) -> None:
        """Returns when this version follows `previous` and enough of its members signed it; raises otherwise.

        Signatures count under the keys that the members had in `previous`. Others may stand there: a
        newcomer's says that it agrees, and does not count.

        Args:
            previous: the version that the caller holds and trusts.
            corrupt: c, members of `previous` that may be corrupt, in [0, n).

        Raises:
            VerificationError: another number or predecessor, or fewer than `quorum(n, corrupt)` signatures.
            ParameterError: an argument is anything else.
        """
        if not isinstance(previous, RosterVersion):
            raise ParameterError(f"previous is a RosterVersion, not {type(previous).__name__}")
        needed = quorum(len(previous.roster), corrupt)
        pair = (
            f"version {self.version} ({self.fingerprint}) does not succeed "
            f"version {previous.version} ({previous.fingerprint})"
        )
        if self.version != previous.version + 1:
            raise VerificationError(f"{pair}: version {previous.version + 1} would")
        if self.previous != previous.digest:
            raise VerificationError(f"{pair}: it names another version {previous.version} as the one before")
        signed = len(self.signers_among(previous.roster))
        if signed < needed:
            raise VerificationError(
                f"{pair}: {signed} of the {len(previous.roster)} members of version {previous.version} "
                f"signed it under the keys that they had there, {needed} are needed"
            )


def session_id(prefix: bytes, version: RosterVersion, epoch: int) -> bytes:
    """The name of a session over this version of the roster: 32 bytes.

    Another version is another session, so who was removed, or has not heard of it, is understood by nobody.

    Args:
        prefix: 1 to 255 bytes that name the training, and are no other's.
        version: the roster.
        epoch: in [0, 2**63): raised whenever a session over the same version begins anew. Parties never use
            one session id twice.

    Raises:
        ParameterError: an argument is anything else.
    """
    if not isinstance(version, RosterVersion):
        raise ParameterError(f"a session is opened over a RosterVersion, not {type(version).__name__}")
    return digest_session_id(prefix, version.digest, epoch)


def digest_session_id(prefix: bytes, digest: bytes, epoch: int) -> bytes:
    """The `session_id` over a version whose digest alone is at hand.

    Raises:
        ParameterError: `digest` is not 32 bytes, or as `session_id`.
    """
    if type(prefix) is not bytes or not 1 <= len(prefix) <= MAXIMUM_PREFIX:
        raise ParameterError(
            f"prefix must be 1 to {MAXIMUM_PREFIX} bytes of type bytes that name the training"
        )
    if type(digest) is not bytes or len(digest) != DIGEST_BYTES:
        raise ParameterError(f"the digest of a version is {DIGEST_BYTES} bytes of type bytes")
    epoch = plain(epoch)
    if type(epoch) is not int or not 0 <= epoch < _INTEGERS:
        raise ParameterError(f"epoch is {epoch!r}; it must be an integer in [0, 2**63)")
    encoded = Writer().fixed(labels.SESSION).blob(prefix).fixed(digest).uint(epoch, 8)
    return hashlib.sha256(encoded.finish()).digest()


def fingerprint(public_key: bytes) -> str:
    """Of one Ed25519 key of 32 bytes: 100 bits of its hash, five groups of four letters and digits.

    So many that nobody finds a second key with the fingerprint of a member. Its owner alone may have found
    two, and shows one key to some and one to others: the fingerprint of the roster tells these apart.

    Raises:
        ParameterError: `public_key` is not 32 bytes.
    """
    if type(public_key) is not bytes or len(public_key) != PUBLIC_KEY_BYTES:
        raise ParameterError(f"a public key is {PUBLIC_KEY_BYTES} bytes of type bytes")
    digest = hashlib.sha256(Writer().fixed(labels.KEY_FINGERPRINT).fixed(public_key).finish()).digest()
    return _groups(digest, _KEY_LETTERS)


def digest_fingerprint(digest: bytes) -> str:
    """The `RosterVersion.fingerprint` of a version whose digest alone is at hand.

    Raises:
        ParameterError: `digest` is not 32 bytes.
    """
    if type(digest) is not bytes or len(digest) != DIGEST_BYTES:
        raise ParameterError(f"the digest of a version is {DIGEST_BYTES} bytes of type bytes")
    return _groups(digest, _ROSTER_LETTERS)


def _groups(digest: bytes, letters: int) -> str:
    """The first 5·`letters` bits in base 32 (RFC 4648), which has no 0, 1, 8 or 9 to be misread."""
    text = base64.b32encode(digest).decode("ascii")[:letters]
    return " ".join(text[at : at + _GROUP] for at in range(0, letters, _GROUP))


def _sorted(signatures: object) -> tuple[tuple[bytes, bytes], ...]:
    """Signatures in the order of their keys, if they are pairs of bytes with one for each key."""
    if type(signatures) is not tuple:
        raise ParameterError(
            f"signatures is a tuple of (public key, signature), not {type(signatures).__name__}"
        )
    for pair in signatures:
        if type(pair) is not tuple or [type(each) for each in pair] != [bytes, bytes]:
            raise ParameterError("a signature of a roster is a pair of bytes: (public key, signature)")
        if [len(each) for each in pair] != [PUBLIC_KEY_BYTES, SIGNATURE_BYTES]:
            raise ParameterError(
                f"a signature of a roster is a public key of {PUBLIC_KEY_BYTES} bytes and a signature of "
                f"{SIGNATURE_BYTES}, not {len(pair[0])} and {len(pair[1])}"
            )
    if len({key for key, _ in signatures}) != len(signatures):
        raise ParameterError("a public key signs a roster once; it stands there twice")
    return tuple(sorted(signatures))
