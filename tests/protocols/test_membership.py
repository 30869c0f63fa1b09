"""Versions of a roster: their line, who must sign, what people and sessions make of their digests."""

import hashlib
import re
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocols import (
    Identity,
    MaskedSum,
    ParameterError,
    PeerViolation,
    Roster,
    RosterVersion,
    Round,
    session_id,
)
from protocols.membership import digest_fingerprint, digest_session_id, fingerprint, quorum
from secagg import labels
from secagg.entropy import SeededEntropy
from secagg.errors import VerificationError

ALICE, BOB, CAROL, DAVE, EVE = (
    Identity.generate(name, entropy=SeededEntropy(b"test", name.encode()))
    for name in ("alice", "bob", "carol", "dave", "eve")
)
KEY_OF_ZEROS = "LFGU 4ATJ P2MN C37P CYLI"
NEW_BOB = Identity.generate("bob", entropy=SeededEntropy(b"test", b"a new key"))
FIRST = RosterVersion(Roster.of(ALICE, BOB, CAROL, DAVE))
FIRST_FINGERPRINT = "SWMB J2YU HVDT AOEP KMKB TAJJ X5VK VDQF"
WITHOUT_DAVE = FIRST.successor(Roster.of(ALICE, BOB, CAROL))


def signed(version: RosterVersion, *identities: Identity) -> RosterVersion:
    for identity in identities:
        version = version.signed(identity)
    return version


# --- quorums --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("members", "corrupt", "needed"),
    [(1, 0, 1), (2, 0, 2), (3, 0, 2), (3, 1, 3), (4, 1, 3), (5, 1, 4), (10, 2, 7), (4, 3, 4), (100, 20, 61)],
)
def test_quorums(members: int, corrupt: int, needed: int) -> None:
    assert quorum(members, corrupt) == needed
    assert quorum(np.int64(members), np.int16(corrupt)) == needed


@given(st.integers(1, 60).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n - 1))))
def test_two_quorums_share_more_than_the_corrupt_ones_and_no_fewer_signatures_do(
    case: tuple[int, int],
) -> None:
    members, corrupt = case
    needed = quorum(members, corrupt)
    assert needed <= members
    assert 2 * needed - members > corrupt
    assert 2 * (needed - 1) - members <= corrupt


@pytest.mark.parametrize(
    ("members", "corrupt", "named"),
    [
        (0, 0, "members is 0"),
        (-1, 0, "members is -1"),
        (True, 0, "members is True"),
        ("3", 0, "members is '3'"),
        (3.0, 0, "members is 3.0"),
        (3, -1, "corrupt is -1; of 3 members"),
        (3, 3, "corrupt is 3; of 3 members"),
        (3, False, "corrupt is False"),
        (3, None, "corrupt is None"),
    ],
)
def test_quorums_that_are_refused(members: Any, corrupt: Any, named: str) -> None:
    with pytest.raises(ParameterError, match=re.escape(named)):
        quorum(members, corrupt)


# --- versions -------------------------------------------------------------------------------------


def test_the_digest_commits_to_version_predecessor_and_roster_and_to_no_signature() -> None:
    # Written by hand: the label, the version, the digest before behind its length, the roster's digest.
    encoded = b"secagg/1/roster version" + bytes(7) + b"\x02" + bytes(3) + b"\x20" + FIRST.digest
    assert WITHOUT_DAVE.digest == hashlib.sha256(encoded + WITHOUT_DAVE.roster.digest).digest()
    encoded = b"secagg/1/roster version" + bytes(7) + b"\x01" + bytes(4)
    assert FIRST.digest == hashlib.sha256(encoded + FIRST.roster.digest).digest()
    assert signed(FIRST, ALICE).digest == FIRST.digest
    others = [
        RosterVersion(FIRST.roster, version=2, previous=bytes(32)),
        RosterVersion(FIRST.roster, version=3, previous=bytes(32)),
        RosterVersion(FIRST.roster, version=2, previous=FIRST.digest),
        RosterVersion(Roster.of(BOB, ALICE, CAROL, DAVE)),
        RosterVersion(Roster.of(ALICE, NEW_BOB, CAROL, DAVE)),
    ]
    assert len({FIRST.digest, *(each.digest for each in others)}) == 6


def test_a_successor_has_the_next_number_names_the_digest_and_has_no_signatures() -> None:
    made = signed(FIRST, ALICE).successor(Roster.of(ALICE))
    assert (made.version, made.previous, made.signatures) == (2, FIRST.digest, ())
    assert RosterVersion(FIRST.roster, version=np.int64(2), previous=FIRST.digest).version == 2


def test_signatures_are_sorted_and_one_for_each_key() -> None:
    version = signed(FIRST, DAVE, ALICE, BOB)
    assert list(version.signatures) == sorted(version.signatures)
    assert signed(FIRST, BOB, DAVE, ALICE, BOB) == version
    assert RosterVersion(FIRST.roster, signatures=version.signatures[::-1]) == version
    assert version.signers == ("alice", "bob", "dave")
    spoilt = RosterVersion(FIRST.roster, signatures=((ALICE.key.public_key, bytes(64)),))
    assert spoilt.signers == ()
    assert spoilt.signed(ALICE).signers == ("alice",)


def test_a_signature_counts_for_its_version_and_as_this_statement_alone() -> None:
    key = ALICE.key
    other_version = signed(WITHOUT_DAVE, ALICE).signatures
    other_label = ((key.public_key, key.sign(FIRST.digest, label=labels.ROSTER)),)
    another_hand = ((key.public_key, BOB.key.sign(FIRST.digest, label=labels.ROSTER_SIGNATURE)),)
    for signatures in (other_version, other_label, another_hand):
        assert RosterVersion(FIRST.roster, signatures=signatures).signers == ()


def test_a_key_of_small_order_signs_nothing() -> None:
    """Under the identity point of the curve one signature verifies for every message."""
    point = b"\x01" + bytes(31)
    roster = Roster((("alice", point), ("bob", BOB.key.public_key)))
    assert RosterVersion(roster, signatures=((point, point + bytes(32)),)).signers == ()


def test_a_quorum_of_the_version_before_makes_a_successor() -> None:
    for corrupt, names in (
        (0, (ALICE, BOB, CAROL)),
        (1, (ALICE, CAROL, DAVE)),
        (3, (ALICE, BOB, CAROL, DAVE)),
    ):
        version = signed(WITHOUT_DAVE, *names)
        version.check_succeeds(FIRST, corrupt=corrupt)
        version.check_succeeds(signed(FIRST, ALICE), corrupt=np.int64(corrupt))
        assert quorum(4, corrupt) == len(names)


@pytest.mark.parametrize(("corrupt", "names", "needed"), [(0, 2, 3), (1, 2, 3), (2, 3, 4)])
def test_fewer_signatures_than_a_quorum(corrupt: int, names: int, needed: int) -> None:
    version = signed(WITHOUT_DAVE, *(ALICE, BOB, CAROL)[:names])
    with pytest.raises(VerificationError) as caught:
        version.check_succeeds(FIRST, corrupt=corrupt)
    said = str(caught.value)
    assert version.fingerprint in said
    assert FIRST.fingerprint in said
    assert f"{names} of the 4 members of version 1 signed it" in said
    assert f"{needed} are needed" in said


def test_who_is_new_or_a_stranger_does_not_count() -> None:
    joined = FIRST.successor(Roster.of(ALICE, BOB, CAROL, DAVE, EVE))
    with pytest.raises(VerificationError, match="2 of the 4 members"):
        signed(joined, ALICE, BOB, EVE, NEW_BOB).check_succeeds(FIRST, corrupt=0)
    signed(joined, ALICE, BOB, DAVE, EVE).check_succeeds(FIRST, corrupt=1)


def test_a_rotated_key_is_signed_for_by_the_old_one() -> None:
    rotated = FIRST.successor(Roster.of(ALICE, NEW_BOB, CAROL, DAVE))
    with pytest.raises(VerificationError, match="2 of the 4 members"):
        signed(rotated, ALICE, CAROL, NEW_BOB).check_succeeds(FIRST, corrupt=0)
    version = signed(rotated, ALICE, CAROL, BOB, NEW_BOB)
    version.check_succeeds(FIRST, corrupt=0)
    assert version.signers == ("alice", "bob", "carol")
    assert signed(rotated, BOB).signers == ()
    assert signed(rotated, BOB).signers_among(FIRST.roster) == ("bob",)


def test_an_old_key_means_nothing_to_the_version_after_the_rotation() -> None:
    rotated = FIRST.successor(Roster.of(ALICE, NEW_BOB, CAROL, DAVE))
    third = rotated.successor(Roster.of(ALICE, NEW_BOB))
    with pytest.raises(VerificationError, match="2 of the 4 members"):
        signed(third, ALICE, BOB, CAROL).check_succeeds(rotated, corrupt=0)
    signed(third, ALICE, NEW_BOB, CAROL).check_succeeds(rotated, corrupt=0)


def test_the_line_has_no_gap_no_repetition_and_no_fork() -> None:
    everybody = (ALICE, BOB, CAROL, DAVE)
    second = signed(WITHOUT_DAVE, *everybody)
    third = signed(second.successor(Roster.of(ALICE, BOB)), *everybody)
    third.check_succeeds(second, corrupt=1)
    for version in (FIRST, third, signed(FIRST, *everybody)):
        with pytest.raises(VerificationError, match=r"does not succeed.*: version 2 would"):
            version.check_succeeds(FIRST, corrupt=0)
    fork = signed(FIRST.successor(Roster.of(ALICE, BOB, DAVE)), *everybody)
    with pytest.raises(VerificationError, match="names another version 2 as the one before"):
        third.check_succeeds(fork, corrupt=0)


def test_signatures_of_copies_are_put_together_and_none_that_verifies_is_lost() -> None:
    merged = signed(FIRST, ALICE).with_signatures(signed(FIRST, BOB, EVE)).with_signatures(FIRST)
    assert merged == signed(FIRST, ALICE, BOB, EVE)
    wrong = RosterVersion(FIRST.roster, signatures=((ALICE.key.public_key, bytes(64)),))
    assert signed(FIRST, ALICE).with_signatures(wrong) == signed(FIRST, ALICE)
    assert wrong.with_signatures(signed(FIRST, ALICE)) == signed(FIRST, ALICE)
    assert FIRST.with_signatures(wrong) == FIRST
    with pytest.raises(VerificationError, match=f"another roster: version 2 .{WITHOUT_DAVE.fingerprint}"):
        FIRST.with_signatures(signed(WITHOUT_DAVE, ALICE))
    with pytest.raises(ParameterError, match="copy is a RosterVersion, not Roster"):
        FIRST.with_signatures(FIRST.roster)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"roster": (("alice", bytes(32)),)}, "holds a Roster, not tuple"),
        ({"version": 0}, "version is 0"),
        ({"version": 1 << 63, "previous": bytes(32)}, "version is 9223372036854775808"),
        ({"version": True}, "version is True"),
        ({"version": "1"}, "version is '1'"),
        ({"version": 1.0}, "version is 1.0"),
        ({"previous": bytes(32)}, "previous of version 1 must be 0 bytes"),
        ({"version": 2}, "previous of version 2 must be 32 bytes"),
        ({"version": 2, "previous": bytes(31)}, "must be 32 bytes"),
        ({"version": 2, "previous": bytearray(32)}, "must be 32 bytes"),
        ({"signatures": []}, "a tuple of (public key, signature), not list"),
        ({"signatures": (b"",)}, "a pair of bytes"),
        ({"signatures": ((bytes(32),),)}, "a pair of bytes"),
        ({"signatures": ((bytes(32), "x" * 64),)}, "a pair of bytes"),
        ({"signatures": ((bytes(31), bytes(64)),)}, "not 31 and 64"),
        ({"signatures": ((bytes(32), bytes(65)),)}, "not 32 and 65"),
        ({"signatures": ((bytes(32), bytes(64)), (bytes(32), b"1" * 64))}, "stands there twice"),
    ],
    ids=repr,
)
def test_versions_that_are_refused(arguments: Any, named: str) -> None:
    with pytest.raises(ParameterError, match=re.escape(named)):
        RosterVersion(**{"roster": FIRST.roster, **arguments})


def test_steps_that_are_refused() -> None:
    with pytest.raises(ParameterError, match="the same roster as this one"):
        FIRST.successor(Roster(FIRST.roster.keys))
    with pytest.raises(ParameterError, match="holds a Roster, not RosterVersion"):
        FIRST.successor(FIRST)  # type: ignore[arg-type]
    with pytest.raises(ParameterError, match="by an Identity, not SigningKey"):
        FIRST.signed(ALICE.key)  # type: ignore[arg-type]
    with pytest.raises(ParameterError, match="is a RosterVersion, not Roster"):
        WITHOUT_DAVE.check_succeeds(FIRST.roster, corrupt=0)  # type: ignore[arg-type]
    with pytest.raises(ParameterError, match="corrupt is 4; of 4 members"):
        WITHOUT_DAVE.check_succeeds(FIRST, corrupt=4)
    assert not hasattr(FIRST, "__dict__")


# --- what people and sessions make of them --------------------------------------------------------


def test_fingerprints_are_known_answers() -> None:
    """Computed by hand from SHA-256 and RFC 4648: they stand in files and on paper, and never change."""
    assert fingerprint(bytes(32)) == KEY_OF_ZEROS
    digest = hashlib.sha256(b"secagg/1/key fingerprint" + bytes(32)).digest()
    bits = f"{int.from_bytes(digest, 'big'):0256b}"[:100]
    letters = ["ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"[int(bits[at : at + 5], 2)] for at in range(0, 100, 5)]
    assert fingerprint(bytes(32)).replace(" ", "") == "".join(letters)
    assert FIRST.fingerprint == digest_fingerprint(FIRST.digest) == FIRST_FINGERPRINT


@given(st.binary(min_size=32, max_size=32), st.binary(min_size=32, max_size=32))
def test_fingerprints_have_one_form_and_tell_keys_apart(one: bytes, other: bytes) -> None:
    assert re.fullmatch(r"[A-Z2-7]{4}( [A-Z2-7]{4}){4}", fingerprint(one))
    assert (fingerprint(one) == fingerprint(other)) == (one == other)
    version = RosterVersion(Roster((("alice", one),)))
    assert re.fullmatch(r"[A-Z2-7]{4}( [A-Z2-7]{4}){7}", version.fingerprint)


@pytest.mark.parametrize("key", [b"", bytes(31), bytes(33), "x" * 32, bytearray(32), None])
def test_fingerprints_of_no_key(key: Any) -> None:
    with pytest.raises(ParameterError, match="a public key is 32 bytes"):
        fingerprint(key)
    with pytest.raises(ParameterError, match="the digest of a version is 32 bytes"):
        digest_fingerprint(key)


def test_a_session_is_bound_to_training_version_and_epoch() -> None:
    encoded = b"secagg/1/session" + bytes(3) + b"\x02xy" + FIRST.digest + bytes(7) + b"\x05"
    assert session_id(b"xy", FIRST, 5) == hashlib.sha256(encoded).digest()
    sessions = [
        session_id(prefix, version, epoch)
        for prefix in (b"x", b"xy", b"x" * 255)
        for version in (FIRST, WITHOUT_DAVE)
        for epoch in (0, 1, np.int64(2), (1 << 63) - 1)
    ]
    assert len(set(sessions)) == 24
    assert session_id(b"x", signed(FIRST, ALICE), 0) == session_id(b"x", FIRST, 0)
    assert digest_session_id(b"xy", FIRST.digest, 5) == session_id(b"xy", FIRST, 5)


@pytest.mark.parametrize(
    ("prefix", "version", "epoch", "named"),
    [
        (b"", FIRST, 0, "1 to 255 bytes"),
        (b"x" * 256, FIRST, 0, "1 to 255 bytes"),
        ("x", FIRST, 0, "1 to 255 bytes"),
        (b"x", FIRST.roster, 0, "over a RosterVersion, not Roster"),
        (b"x", FIRST, -1, "epoch is -1"),
        (b"x", FIRST, 1 << 63, "epoch is 9223372036854775808"),
        (b"x", FIRST, True, "epoch is True"),
        (b"x", FIRST, None, "epoch is None"),
    ],
)
def test_sessions_that_are_refused(prefix: Any, version: Any, epoch: Any, named: str) -> None:
    with pytest.raises(ParameterError, match=re.escape(named)):
        session_id(prefix, version, epoch)


@pytest.mark.parametrize("digest", [b"", bytes(31), bytes(33), "x" * 32, bytearray(32), None])
def test_sessions_over_no_version(digest: Any) -> None:
    with pytest.raises(ParameterError, match="the digest of a version is 32 bytes"):
        digest_session_id(b"x", digest, 0)


def test_a_leaver_neither_speaks_nor_is_spoken_to() -> None:
    protocol = MaskedSum(max_clients=3)
    server = protocol.server(roster=WITHOUT_DAVE.roster, session=session_id(b"x-rays", WITHOUT_DAVE, 0))
    stale = protocol.client(identity=DAVE, roster=FIRST.roster, session=session_id(b"x-rays", FIRST, 0))
    outbox = server.start(Round(number=0, cohort=("alice", "bob", "carol"), length=2))
    with pytest.raises(PeerViolation, match=r"dave: .* stranger"):
        server.receive("dave", b"anything")
    refusal = stale.receive(outbox["alice"])
    assert isinstance(refusal, bytes)
    assert b"a message of another session" in refusal
