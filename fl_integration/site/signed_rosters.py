"""What a key has signed: one successor of a version of a roster, and not a second.

That a version has one successor rests on honest members who sign one (`protocols.membership`). People do not
remember digests, and whoever sends them two rosters a month apart counts on that. So `sign_roster` keeps a
private file beside the key: for each version that was succeeded the digest of the successor that was signed.
It is on the disk before the signature is out. Another successor of the same version is refused, unless the
caller says that all members have given the first up (`Second.GIVEN_UP`).

First versions are not counted: one key may stand in the rosters of many trainings. Who deletes the file, or
signs with a copy of the key elsewhere, signs a second time.

>>> import tempfile, pathlib
>>> from protocols.identity import Identity, Roster
>>> alice, bob, carol = map(Identity.generate, ("alice", "bob", "carol"))
>>> first = RosterVersion(Roster.of(alice, bob, carol))
>>> with tempfile.TemporaryDirectory() as folder:
...     memory = pathlib.Path(folder) / "alice.key.signed"
...     _ = sign_roster(first.successor(Roster.of(alice, bob)), alice, memory)
...     _ = sign_roster(first.successor(Roster.of(alice, carol)), alice, memory)
Traceback (most recent call last):
    ...
secagg.errors.ParameterError: this key has signed another successor of the same version, ...
"""

import os
import re
from enum import Enum
from typing import Final

from fl_integration.site.private_files import WithoutModes, read_private, write_private
from fl_integration.site.whole_files import file_path
from protocols.identity import Identity
from protocols.membership import RosterVersion, digest_fingerprint
from secagg.errors import ParameterError

__all__ = ["Second", "sign_roster"]

_HEAD: Final = "secagg signed rosters 1"
_LINE: Final = re.compile(r"([0-9a-f]{64}) ([0-9a-f]{64})")
_MAXIMUM_FILE: Final = 1 << 20


class Second(Enum):
    """What happens to a second successor of a version that was signed for already."""

    REFUSE = "refuse"
    GIVEN_UP = "given up"
    """All members have agreed to give up the one that this key signed."""


def sign_roster(
    version: RosterVersion,
    identity: Identity,
    memory: str | os.PathLike[str],
    *,
    second: Second = Second.REFUSE,
    without_modes: WithoutModes = WithoutModes.REFUSE,
) -> RosterVersion:
    """`version.signed(identity)`, once it is remembered that this key signed it.

    Args:
        version: to be signed.
        identity: that signs.
        memory: the private file of this key, made when it is not there.
        second: what to do if this key signed another successor of the same version.
        without_modes: what to do where file modes mean nothing, see `private_files`.

    Raises:
        ParameterError: an argument is anything else, the key signed another successor, or the memory is
            something else, is open to others, or cannot be written. Nothing is signed then.
    """
    if not isinstance(version, RosterVersion):
        raise ParameterError(f"what is signed is a RosterVersion, not {type(version).__name__}")
    if not isinstance(second, Second):
        raise ParameterError("second is a member of Second: Second.REFUSE or Second.GIVEN_UP")
    signed = version.signed(identity)
    if not version.previous:
        return signed
    known = _read(memory, without_modes)
    before = known.get(version.previous.hex(), version.digest.hex())
    if before != version.digest.hex() and second is Second.REFUSE:
        raise ParameterError(
            "this key has signed another successor of the same version, "
            f"{digest_fingerprint(bytes.fromhex(before))}; a second one can split the members. Say "
            "Second.GIVEN_UP (--given-up) if all of them have given that one up"
        )
    lines = {**known, version.previous.hex(): version.digest.hex()}
    if lines != known:
        text = "".join(f"{line}\n" for line in [_HEAD, *(f"{key} {value}" for key, value in lines.items())])
        write_private(memory, text.encode(), without_modes=without_modes)
    return signed


def _read(memory: str | os.PathLike[str], without_modes: WithoutModes) -> dict[str, str]:
    """The digest that was signed, by the digest of its predecessor."""
    place = file_path(memory, "the memory of a key")
    if not os.path.lexists(place):
        return {}
    data = read_private(place, maximum=_MAXIMUM_FILE, without_modes=without_modes)
    head, *lines = data.decode("ascii", "replace").split("\n")
    found = [_LINE.fullmatch(line) for line in lines[:-1]]
    known = {each[1]: each[2] for each in found if each is not None}
    if head != _HEAD or not lines or lines[-1] or len(known) != len(found):  # a line is none, or one of two
        raise ParameterError(
            f"{str(place)!r} is not what `secagg roster sign` remembers; find out who changed it, then sign"
        )
    return known
