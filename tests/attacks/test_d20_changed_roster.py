"""D20. A roster of their own: who may not change the members changes them, or shows two halves two rosters.

On a copy that counts the signatures of the *new* roster's keys the server alone puts keys of its own in the
place of everybody's. On one in which a majority is enough, one corrupt member of five has two successors of
one version signed, each by another half of the honest ones. Ours counts the members of the version before,
under their keys there, and wants ⌊(n + c)/2⌋ + 1 of them.

What it cannot stop, and the last test shows: honest members who sign two successors. `sign_roster` remembers
for them, in a file.
"""

from collections.abc import Callable
from itertools import combinations
from pathlib import Path

import pytest

from fl_integration.site.signed_rosters import sign_roster
from protocols import Identity, ParameterError, Roster, RosterVersion
from protocols.membership import quorum
from secagg.entropy import SeededEntropy
from secagg.errors import VerificationError

NAMES = ("a", "b", "c", "d", "e")
HONEST = {name: Identity.generate(name, entropy=SeededEntropy(b"honest", name.encode())) for name in NAMES}
FORGED = {name: Identity.generate(name, entropy=SeededEntropy(b"forged", name.encode())) for name in NAMES}
FIRST = RosterVersion(Roster.of(*HONEST.values()))


def signed(version: RosterVersion, *identities: Identity) -> RosterVersion:
    for identity in identities:
        version = version.signed(identity)
    return version


def taken(version: RosterVersion, *, corrupt: int) -> bool:
    """Whether an honest member that holds the first version takes this one."""
    try:
        version.check_succeeds(FIRST, corrupt=corrupt)
    except VerificationError:
        return False
    return True


def taken_by_new_keys(version: RosterVersion, *, corrupt: int) -> bool:
    """The weakened copy: a quorum of the new roster's keys."""
    members = len(version.roster)
    return version.previous == FIRST.digest and len(version.signers) >= quorum(members, corrupt)


def taken_by_majority(version: RosterVersion) -> bool:
    """The weakened copy: more than half of the members of the version before."""
    signers = version.signers_among(FIRST.roster)
    return version.previous == FIRST.digest and 2 * len(signers) > len(FIRST.roster)


def test_the_server_replaces_every_key() -> None:
    version = signed(FIRST.successor(Roster.of(*FORGED.values())), *FORGED.values())
    assert taken_by_new_keys(version, corrupt=1)
    assert not any(taken(version, corrupt=corrupt) for corrupt in range(5))


@pytest.mark.parametrize("corrupt", [0, 1, 2])
def test_corrupt_members_and_the_server_replace_the_key_of_one(corrupt: int) -> None:
    """All corrupt members sign, and as many keys of nobody as you like; only honest hands are missing."""
    forged = Roster.of(*(FORGED[name] if name == "a" else HONEST[name] for name in NAMES))
    liars = [HONEST[name] for name in NAMES[5 - corrupt :]]
    version = signed(FIRST.successor(forged), *liars, *FORGED.values())
    assert not taken(version, corrupt=corrupt)
    while not taken(version, corrupt=corrupt):  # so many honest signatures it would need
        signers = version.signers_among(FIRST.roster)
        version = version.signed(next(HONEST[name] for name in NAMES if name not in signers))
    assert len(version.signers_among(FIRST.roster)) == quorum(5, corrupt) > corrupt


def test_signatures_on_another_version_are_not_moved_to_this_one() -> None:
    agreed = signed(FIRST.successor(Roster.of(*(HONEST[name] for name in "abc"))), *HONEST.values())
    assert taken(agreed, corrupt=1)
    forged = FIRST.successor(Roster.of(HONEST["a"], FORGED["b"]))
    moved = RosterVersion(
        forged.roster, version=forged.version, previous=forged.previous, signatures=agreed.signatures
    )
    assert not taken(moved, corrupt=0)


def split(is_taken: Callable[[RosterVersion], bool]) -> bool:
    """Whether e, and a division of the honest four who sign once each, have two successors taken."""
    without_a, without_b = (
        FIRST.successor(Roster.of(*(each for name, each in HONEST.items() if name != leaver)))
        for leaver in "ab"
    )
    for count in range(5):
        for one in combinations("abcd", count):
            left = signed(without_a, HONEST["e"], *(HONEST[name] for name in one))
            right = signed(without_b, HONEST["e"], *(HONEST[name] for name in "abcd" if name not in one))
            if is_taken(left) and is_taken(right):
                return True
    return False


def test_one_corrupt_member_has_two_successors_signed() -> None:
    assert split(taken_by_majority)
    assert not split(lambda version: taken(version, corrupt=1))


def test_honest_members_who_sign_twice_split_the_roster(tmp_path: Path) -> None:
    """Partial: it is refused where the key is used with its memory, and nowhere else."""
    without_a, without_b = (
        FIRST.successor(Roster.of(*(each for name, each in HONEST.items() if name != leaver)))
        for leaver in "ab"
    )
    for version in (without_a, without_b):
        assert taken(signed(version, *(HONEST[name] for name in "bcde")), corrupt=1)
    sign_roster(without_a, HONEST["c"], tmp_path / "c.key.signed")
    with pytest.raises(ParameterError, match="signed another successor of the same version"):
        sign_roster(without_b, HONEST["c"], tmp_path / "c.key.signed")
