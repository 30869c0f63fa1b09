"""Identities and rosters: the names that may be, the order that all share, signatures under the roster."""

import hashlib
import pickle
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocols import Identity, MaskedSum, ParameterError, PlainSum, Roster
from protocols.identity import check_client_id
from secagg import labels
from secagg.entropy import SeededEntropy
from secagg.errors import VerificationError

ALICE, BOB, CAROL = (
    Identity.generate(n, entropy=SeededEntropy(b"test", n.encode())) for n in ("alice", "bob", "carol")
)
ROSTER = Roster.of(CAROL, ALICE, BOB)


@pytest.mark.parametrize(
    "name", ["a", "Zürich", "東京", "with a space", "x" * 64, "ü" * 32, "Server", "server "]
)
def test_names(name: str) -> None:
    assert check_client_id(name) == name
    assert Identity.generate(name).client == name


@pytest.mark.parametrize(
    "name",
    ["", "server", "x" * 65, "ü" * 33, "a\nb", "tab\t", "\x00", "\x7f", "\ud800", None, 7, b"bytes", ("a",)],
    ids=repr,
)
def test_names_that_are_refused(name: Any) -> None:
    with pytest.raises(ParameterError):
        check_client_id(name)
    with pytest.raises(ParameterError):
        Identity.generate(name)
    with pytest.raises(ParameterError):
        Roster(((name, bytes(32)),))


def test_an_identity_repeats_with_its_entropy_and_shows_no_key() -> None:
    again = Identity.generate("alice", entropy=SeededEntropy(b"test", b"alice"))
    assert again.key.public_key == ALICE.key.public_key
    assert Identity.generate("alice").key.public_key != ALICE.key.public_key
    assert ALICE.key.secret.reveal().hex() not in repr(ALICE)
    assert repr(ALICE.key.secret.reveal()) not in repr(ALICE)


def test_the_order_is_the_rosters() -> None:
    assert ROSTER.members == ("carol", "alice", "bob")
    assert ROSTER.order(["bob", "carol"]) == ("carol", "bob")
    assert ROSTER.order({"alice", "bob", "carol"}) == ROSTER.members
    assert ROSTER.order(["bob", "bob"]) == ("bob",)
    assert ROSTER.order([]) == ()
    assert len(ROSTER) == 3
    assert "bob" in ROSTER
    for stranger in ("dave", "", None, 7, b"bob", "Bob"):
        assert stranger not in ROSTER


@pytest.mark.parametrize(
    "strangers", [["dave"], ["alice", "dave"], ["alice", 7], [7, "dave"], [None, "x", 3], [["x"]]]
)
def test_strangers_have_no_place(strangers: list[Any]) -> None:
    with pytest.raises(ParameterError):
        ROSTER.order(strangers)


@given(st.permutations(range(12)), st.lists(st.integers(0, 11)))
def test_the_order_of_any_selection_is_that_of_a_slow_search(places: list[int], chosen: list[int]) -> None:
    roster = Roster(tuple((f"client {place}", bytes([place]) * 32) for place in places))
    wanted = [f"client {place}" for place in chosen]
    assert roster.order(wanted) == tuple(client for client in roster.members if client in wanted)
    assert roster.order(iter(wanted)) == roster.order(set(wanted))
    for client, key in roster.keys:
        assert client in roster
        assert roster.public_key(client) == key


def test_the_public_key_of_a_stranger() -> None:
    assert ROSTER.public_key("alice") == ALICE.key.public_key
    for stranger in ("dave", "", "Alice"):
        with pytest.raises(VerificationError, match="not in the roster"):
            ROSTER.public_key(stranger)


def test_unhashable_things_are_no_members() -> None:
    assert ["alice"] not in ROSTER
    assert {} not in ROSTER


def test_the_digest_commits_to_names_keys_and_order() -> None:
    two = Roster((("a", bytes(32)), ("bc", b"\x01" * 32)))
    # Written by hand: the label, the number of members, each name behind its length and then its key.
    encoded = b"secagg/1/roster" + bytes([0, 0, 0, 2])
    encoded += bytes([0, 0, 0, 1]) + b"a" + bytes(32) + bytes([0, 0, 0, 2]) + b"bc" + b"\x01" * 32
    assert two.digest == hashlib.sha256(encoded).digest()
    others = [
        Roster((("bc", b"\x01" * 32), ("a", bytes(32)))),
        Roster((("a", b"\x01" * 32), ("bc", bytes(32)))),
        Roster((("a", bytes(32)), ("bd", b"\x01" * 32))),
        Roster((("a", bytes(32)),)),
    ]
    assert len({two.digest, *(other.digest for other in others)}) == 5


def test_what_a_roster_keeps_at_hand_is_not_part_of_its_value() -> None:
    twin = Roster(ROSTER.keys)
    assert twin == ROSTER
    assert hash(twin) == hash(ROSTER)
    assert twin.digest == ROSTER.digest
    assert repr(ROSTER) == f"Roster(keys={ROSTER.keys!r})"
    copied = pickle.loads(pickle.dumps(ROSTER))
    assert copied == ROSTER
    assert copied.order(["bob", "carol"]) == ("carol", "bob")


def test_rosters_of_mappings() -> None:
    keys = {"bob": BOB.key.public_key, "alice": ALICE.key.public_key}
    assert Roster.from_mapping(keys).members == ("bob", "alice")
    assert Roster.from_mapping(keys) == Roster.of(BOB, ALICE)
    assert Roster.of(ALICE, BOB) != Roster.of(BOB, ALICE)


@pytest.mark.parametrize(
    "keys",
    [
        (),
        (("alice", bytes(31)),),
        (("alice", bytes(33)),),
        (("alice", "x" * 32),),
        (("alice", bytearray(32)),),
        (("alice", bytes(32)), ("alice", bytes(31) + b"\x01")),
        (("alice", bytes(32)), ("bob", bytes(32))),
    ],
)
def test_rosters_that_are_refused(keys: Any) -> None:
    with pytest.raises(ParameterError):
        Roster(keys)


def test_signatures_are_checked_under_the_roster() -> None:
    signature = ALICE.key.sign(b"keys", label=labels.KEY_ADVERTISEMENT)
    ROSTER.verify("alice", signature, b"keys", label=labels.KEY_ADVERTISEMENT)
    for client, message, label in (
        ("bob", b"keys", labels.KEY_ADVERTISEMENT),
        ("dave", b"keys", labels.KEY_ADVERTISEMENT),
        ("alice", b"other keys", labels.KEY_ADVERTISEMENT),
        ("alice", b"keys", labels.CONSORTIUM_ADVERTISEMENT),
    ):
        with pytest.raises(VerificationError):
            ROSTER.verify(client, signature, message, label=label)
    for place in range(64):
        changed = bytearray(signature)
        changed[place] ^= 1 << (place % 8)
        with pytest.raises(VerificationError):
            ROSTER.verify("alice", bytes(changed), b"keys", label=labels.KEY_ADVERTISEMENT)


@pytest.mark.parametrize("protocol", [PlainSum, MaskedSum])
def test_a_client_stands_in_the_roster_with_its_own_key(protocol: Any) -> None:
    made = protocol(max_clients=3)
    made.client(identity=ALICE, roster=ROSTER, session=bytes(16))
    impostor = Identity.generate("alice")
    for identity in (impostor, Identity.generate("dave")):
        with pytest.raises(ParameterError, match="roster"):
            made.client(identity=identity, roster=ROSTER, session=bytes(16))


@pytest.mark.parametrize("session", [b"", bytes(15), bytes(65), "x" * 16, None])
def test_machines_need_a_session(session: Any) -> None:
    with pytest.raises(ParameterError, match="session"):
        PlainSum(max_clients=3).server(roster=ROSTER, session=session)
    with pytest.raises(ParameterError, match="session"):
        PlainSum(max_clients=3).client(identity=ALICE, roster=ROSTER, session=session)


@pytest.mark.parametrize(
    ("name", "named"),
    [
        ("Zu\u0308rich", "'Zu\\u0308rich') is not in Unicode's normal form NFC"),
        ("\u212bngström", "normal form NFC"),
        ("a\nb", r"'a\nb' holds a character that is not printable"),
        ("x" * 65, "'xxx.*x' has 65 bytes"),
        ("ü" * 33, "has 66 bytes"),
        ("y" * 10_000, "'yyy.*y… has 10000 bytes"),
        ("\ud800", "not printable"),
        ("", "'' has 0 bytes"),
        (7, "not int: 7"),
    ],
)
def test_an_id_that_is_refused_is_named(name: Any, named: str) -> None:
    text = named if ".*" in named else re.escape(named)
    for make in (check_client_id, Identity.generate, lambda id: Roster(((id, bytes(32)),))):
        with pytest.raises(ParameterError, match=text) as caught:
            make(name)
        assert len(str(caught.value)) < 400


def test_a_member_in_another_normal_form_is_told_apart_from_a_stranger() -> None:
    roster = Roster((("Zürich", bytes(32)), ("Graz", b"1" * 32)))
    assert roster.members == ("Zürich", "Graz")
    with pytest.raises(ParameterError, match="normal form NFC"):
        roster.order(["Graz", "Zu\u0308rich"])
    with pytest.raises(ParameterError, match="'Wien' is not in the roster"):
        roster.order(["Graz", "Wien"])
