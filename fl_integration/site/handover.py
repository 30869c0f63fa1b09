"""Bringing one client along: a peer hands it what it missed, sealed, and others vouch for it.

Where the clients learn the sums the server has no model that it could send, and a client that missed too
many sums needs a peer's copy. The two have no line to each other but the server, which relays these bytes,
reads them, and delivers what it likes; so may the corrupt members of the roster.

* The client that is behind *asks* (`ask`): a fresh hybrid key, X25519 with ML-KEM-768, signed.
* One peer *answers* (`answer`) with its copy, sealed to that key and signed.
* Others *vouch* (`vouch`): each seals the digest of its own copy to that key and signs. In the clear a digest
  would let the server test guesses of a small model.
* The client *accepts* (`accept`) bytes that at least `needed` members, the giver among them, hold. With
  `needed` one above the corrupt members that are planned for, one of them is honest.

Every statement names session, roster, both parties and the digest of the request, and nothing opens or
verifies in another place. So an answer or a voucher is younger than its request, and a server that keeps old
ones has nothing to deliver. Who is not in the session's roster any more is answered by nobody. Each answer is
sealed under a key of its own, whatever the caller's state says: no nonce meets two plaintexts (ATTACKS A12,
A14). `base` says which sums are in a copy. Honest copies of one base are equal, so a giver whose copy differs
from what `needed` others hold at its own base is shown to have lied, and is named.

Not promised: that a peer answers; that the copy holds what was summed after the peers spoke; which one it is
if the server parted the honest clients and each part vouches for its own; that nobody sees who asked, who
gave and how long the copy is. Whoever steals `pending` opens the answer to it: keep it sealed, and delete it
when the copy is accepted. A member may ask as often as it likes, and learns what it may know.

>>> alice, bob, carol = (Identity.generate(name) for name in ("alice", "bob", "carol"))
>>> place = {"roster": Roster.of(alice, bob, carol), "session": bytes(16)}
>>> asked, mine = ask(identity=alice, **place), {"base": bytes(32), "copy": b"the model"}
>>> given = answer(asked.request, identity=bob, **place, **mine)
>>> voucher = vouch(asked.request, identity=carol, **place, **mine)
>>> accept(asked.pending, **place, answer=given, vouchers=[voucher], needed=2)
b'the model'
>>> accept(asked.pending, **place, answer=given, vouchers=[], needed=2)
Traceback (most recent call last):
    ...
secagg.errors.VerificationError: 1 of 2 members that are needed vouch for this copy; ask again
"""

import hashlib
import os
from collections.abc import Collection
from dataclasses import dataclass
from typing import Final

from fl_integration.site.relayed import Asker, Kind, Said, Teller, asked, read_request
from protocols.identity import ClientId, Identity, Roster
from secagg import labels
from secagg.entropy import Entropy
from secagg.errors import DecodeError, ParameterError, PeerViolation, VerificationError
from secagg.numbers import plain
from secagg.secret import Secret
from secagg.wire import Buffer

__all__ = ["MAXIMUM_VOUCHER", "Asked", "accept", "answer", "ask", "asker_of", "vouch"]

MAXIMUM_VOUCHER: Final = 8192
"""Bytes: more than any voucher has, with names of any length. Whoever relays them drops what is longer."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A request that was made.

    Attributes:
        pending: opens the answer; for a sealed file of the client that asks, until it has accepted one.
        request: for the peers, by way of the server. The same bytes may be sent again.
    """

    pending: Secret
    request: bytes


def ask(*, identity: Identity, roster: Roster, session: bytes, entropy: Entropy = os.urandom) -> Asked:
    """A request for the others' copy, under a fresh key.

    Raises:
        ParameterError: the session is none, or the roster holds another key for this client, or none.
    """
    return Asked(*asked(identity=identity, roster=roster, session=session, entropy=entropy))


def asker_of(request: Buffer, *, roster: Roster, session: bytes) -> ClientId:
    """Who asks, by a request that verifies.

    Raises:
        DecodeError: these are not the bytes of a request.
        VerificationError: it is of another session or roster, or its signature is no member's.
    """
    return read_request(request, roster=roster, session=session).asker


def answer(
    request: Buffer,
    *,
    identity: Identity,
    roster: Roster,
    session: bytes,
    base: bytes,
    copy: bytes,
    before: bytes | None = None,
    entropy: Entropy = os.urandom,
) -> bytes:
    """This client's copy, for the client that asks and nobody else.

    Args:
        request: as it was relayed.
        identity: of the giver.
        roster, session: of the session that runs now.
        base: 32 bytes that name the sums in the copy; no secret.
        copy: the copy, at least one byte, as all that are in step have it.
        before: the last answer that this client gave the one that asks, if it was kept. If it is to this very
            request it is given again, whatever the copy is now. Without it a request that comes twice has two
            answers, each under keys of its own: they tell a member nothing that it may not know.
        entropy: for fresh keys and nonces.

    Raises:
        DecodeError, VerificationError: as `asker_of`, or it is the own request; nothing was sealed.
        PeerViolation: the client that asks signed a key that is none.
        ParameterError: an argument of the caller's can never work.
    """
    _check_copy(copy)
    teller = Teller(Kind.ANSWER, identity, roster, session, entropy)
    return teller.told(request, base=base, content=copy, before=before)


def vouch(
    request: Buffer,
    *,
    identity: Identity,
    roster: Roster,
    session: bytes,
    base: bytes,
    copy: bytes,
    before: bytes | None = None,
    entropy: Entropy = os.urandom,
) -> bytes:
    """The digest of this client's own copy, for the client that asks and nobody else: about 1.4 kB.

    Args and errors are those of `answer`; `before` is the last voucher that it gave the one that asks.
    """
    _check_copy(copy)
    teller = Teller(Kind.VOUCHER, identity, roster, session, entropy)
    return teller.told(request, base=base, content=_digest(copy), before=before)


def accept(
    pending: Secret,
    *,
    roster: Roster,
    session: bytes,
    answer: Buffer,
    vouchers: Collection[Buffer],
    needed: int,
) -> bytes:
    """The copy in an answer, if enough members hold the very same.

    A voucher that does not verify counts for nothing, for anybody may have put it there.

    Args:
        pending: of the request, from `ask`.
        roster, session: of the session that runs now.
        answer, vouchers: as they were relayed; at most one voucher for each member.
        needed: how many members must hold these bytes, the giver among them: one more than may be corrupt,
            `protocol.plan(len(roster)).corrupt + 1`. In [1, members - 1].

    Raises:
        PeerViolation: the giver is shown to have lied: it sealed what does not open, or `needed` others hold
            one other copy of the same sums.
        VerificationError: the answer is of another session, roster or request, or its signature is no other
            member's; there are more vouchers than members; or too few hold these bytes. Ask again.
        DecodeError: the answer is none.
        ParameterError: `pending` is of another session or roster, or `needed` is out of range.
    """
    needed = plain(needed)
    if type(needed) is not int or not 1 <= needed < len(roster):
        raise ParameterError(
            f"needed is {needed!r}; of {len(roster)} members 1 to {len(roster) - 1} can vouch, take the "
            "corrupt ones that are planned for and one more"
        )
    if len(vouchers) > len(roster):
        raise VerificationError(f"{len(vouchers)} vouchers of {len(roster)} members; each gives one")
    asker = Asker(pending, roster=roster, session=session)
    given = asker.opened(Kind.ANSWER, answer)
    held = _digest(given.content)
    told = [said for voucher in vouchers if (said := _voucher(asker, voucher)) is not None]
    _check_giver(given, told, needed=needed)
    for_it = {given.member} | {said.member for said in told if said.content == held}
    if len(for_it) < needed:
        raise VerificationError(
            f"{len(for_it)} of {needed} members that are needed vouch for this copy; ask again"
        )
    return given.content


def _check_giver(given: Said, told: list[Said], *, needed: int) -> None:
    """Names a giver whose bytes differ from those that `needed` others hold after the same sums.

    One of them is honest, and so its copy is what these sums make of the initial model: the giver's is not.
    """
    against: dict[bytes, set[ClientId]] = {}
    for said in told:
        if said.base == given.base and said.member != given.member:
            against.setdefault(said.content, set()).add(said.member)
    against.pop(_digest(given.content), None)
    most = max(map(len, against.values()), default=0)
    if most >= needed:
        raise PeerViolation(
            f"its copy differs from the one that {most} others hold after the same sums", culprit=given.member
        )


def _voucher(asker: Asker, voucher: Buffer) -> Said | None:
    """What a voucher says; None for one that anybody may have made, or that its member made badly."""
    try:
        return asker.opened(Kind.VOUCHER, voucher)
    except (DecodeError, VerificationError, PeerViolation):
        return None


def _check_copy(copy: object) -> None:
    if type(copy) is not bytes or not copy:
        raise ParameterError("a copy is bytes, at least one")


def _digest(copy: bytes) -> bytes:
    """What members vouch for."""
    hashed = hashlib.sha256(labels.HANDOVER_COPY)
    hashed.update(copy)  # not joined: a copy may be large
    return hashed.digest()
