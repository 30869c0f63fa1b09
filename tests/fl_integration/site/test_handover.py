"""A copy is handed over through a server that relays, reads and lies, and past peers that lie."""

import hashlib
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fl_integration.site import relayed
from fl_integration.site.handover import Asked, accept, answer, ask, asker_of, vouch
from fl_integration.site.relayed import Kind
from protocols import DecodeError, Identity, ParameterError, PeerViolation, Roster
from protocols.messages.schema import decode, encode
from secagg.entropy import SeededEntropy
from secagg.errors import SecAggError, VerificationError
from secagg.secret import Secret

NAMES = "abcde"
WHO = {name: Identity.generate(name, entropy=SeededEntropy(b"key", name.encode())) for name in NAMES}
ROSTER = Roster.of(*WHO.values())
SESSION = bytes(range(16))
PLACE: dict[str, Any] = {"roster": ROSTER, "session": SESSION}
BASE, COPY = b"b" * 32, b"the model and what its optimiser keeps"
DOCTORED = COPY.replace(b"model", b"devil")
NEEDED = 2
"""Of five, one may be corrupt."""

Message = Callable[..., bytes]


def asked(name: str = "a", **other: Any) -> Asked:
    return ask(identity=WHO[name], **{**PLACE, **other})


def tells(act: Message, request: bytes, name: str, copy: bytes = COPY, **other: Any) -> bytes:
    return act(request, **{"identity": WHO[name], **PLACE, "base": BASE, "copy": copy, **other})


def accepted(mine: Asked, given: bytes, *vouchers: bytes, needed: int = NEEDED, **other: Any) -> bytes:
    return accept(mine.pending, answer=given, vouchers=vouchers, needed=needed, **{**PLACE, **other})


@pytest.fixture
def mine() -> Asked:
    return asked()


# --- honest -----------------------------------------------------------------------------------------------


def test_a_copy_comes_over(mine: Asked) -> None:
    assert asker_of(mine.request, **PLACE) == "a"
    given = tells(answer, mine.request, "b")
    assert accepted(mine, given, tells(vouch, mine.request, "c")) == COPY
    vouchers = [tells(vouch, mine.request, name) for name in "cde"]
    assert accepted(mine, given, *vouchers, needed=4) == COPY
    assert accepted(mine, given, needed=1) == COPY


@given(st.binary(min_size=1, max_size=200), st.integers(1, 70))
def test_any_copy_in_any_number_of_boxes(copy: bytes, box: int) -> None:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(relayed, "_BOX", box)
        mine = asked()
        given = tells(answer, mine.request, "b", copy)
        assert accepted(mine, memoryview(given), needed=1) == copy  # type: ignore[arg-type]


def test_the_server_reads_nothing_and_a_voucher_is_small(mine: Asked) -> None:
    """Not the copy, and no digest by which it could test a guess of it."""
    given, voucher = tells(answer, mine.request, "b"), tells(vouch, mine.request, "c")
    digests = [hashlib.sha256(label + COPY).digest() for label in (b"", b"secagg/1/handover copy")]
    for message in (mine.request, given, voucher):
        assert not any(secret in message for secret in (COPY, *digests, mine.pending.reveal()[:32]))
    assert len(voucher) < 1500
    assert "the model" not in repr(mine)


def test_the_same_request_gets_the_same_answer(mine: Asked) -> None:
    """Though the copy went on: of one request the server cannot choose among several."""
    for act in (answer, vouch):
        first = tells(act, mine.request, "b")
        assert tells(act, mine.request, "b", b"a later copy", before=first) == first
        fresh = asked().request
        later = tells(act, fresh, "b", b"a later copy", before=first)
        assert later != first
        assert tells(act, fresh, "b", before=later) == later


def test_no_key_seals_twice_even_after_a_rollback(mine: Asked) -> None:
    """A12, A14: the giver forgot what it answered, and its entropy repeats."""
    first, other = (
        tells(answer, mine.request, "b", copy, entropy=SeededEntropy(b"again")) for copy in (COPY, DOCTORED)
    )
    boxes = [bytes(relayed._parted(Kind.ANSWER, each).body) for each in (first, other)]
    nonce, tag = 12, 16
    assert boxes[0][:nonce] == boxes[1][:nonce]  # and still the keys differ, by the encapsulation
    streams = [
        bytes(x ^ y for x, y in zip(box[nonce:-tag], copy, strict=True))
        for box, copy in zip(boxes, (COPY, DOCTORED), strict=True)
    ]
    assert streams[0] != streams[1]


# --- lying peers ------------------------------------------------------------------------------------------


def test_nobody_hands_over_a_copy_alone(mine: Asked) -> None:
    given = tells(answer, mine.request, "b", DOCTORED)
    own = tells(vouch, mine.request, "b", DOCTORED)
    for vouchers in ([], [own], [own] * 5, [tells(vouch, mine.request, "c")]):
        with pytest.raises(VerificationError, match="1 of 2 members that are needed vouch for this copy"):
            accepted(mine, given, *vouchers)


def test_a_giver_that_others_contradict_is_named(mine: Asked) -> None:
    given = tells(answer, mine.request, "b", DOCTORED)
    vouchers = [tells(vouch, mine.request, name) for name in "cd"]
    with pytest.raises(PeerViolation, match="differs from the one that 2 others hold") as caught:
        accepted(mine, given, *vouchers)
    assert caught.value.culprit == "b"
    helper = tells(vouch, mine.request, "e", DOCTORED)
    with pytest.raises(PeerViolation, match="differs from the one that 2 others hold"):
        accepted(mine, given, *vouchers, helper)


def test_as_many_as_may_be_corrupt_neither_keep_a_copy_away_nor_frame_its_giver(mine: Asked) -> None:
    given, honest = tells(answer, mine.request, "b"), tells(vouch, mine.request, "c")
    lie, other = (tells(vouch, mine.request, "d", copy) for copy in (DOCTORED, b"another"))
    assert accepted(mine, given, lie, other, lie, honest) == COPY
    with pytest.raises(VerificationError, match="1 of 2"):
        accepted(mine, given, lie, other, lie)
    told = tells(vouch, mine.request, "b", DOCTORED)  # its own other word does not count against it twice
    with pytest.raises(VerificationError, match="1 of 2"):
        accepted(mine, given, lie, told)


def test_who_went_on_from_other_sums_accuses_nobody(mine: Asked) -> None:
    """The server parted the honest clients; both parts are right."""
    given = tells(answer, mine.request, "b")
    vouchers = [tells(vouch, mine.request, name, b"another copy", base=bytes(32)) for name in "cd"]
    with pytest.raises(VerificationError, match="1 of 2"):
        accepted(mine, given, *vouchers)
    assert accepted(mine, given, *vouchers, tells(vouch, mine.request, "e")) == COPY


def resigned(kind: Kind, message: bytes, name: str, **changes: Any) -> bytes:
    """What `name` signs over parts of another's message."""
    parts = relayed._parted(kind, message)
    place = replace(decode(relayed._Place, parts.statement), **changes)
    return relayed._signed(kind, encode(place), WHO[name], bytes(parts.body))


def test_one_that_seals_what_does_not_open_is_named(mine: Asked) -> None:
    given = tells(answer, mine.request, "b")
    for changes in ({"ciphertext": bytes(1088)}, {"agreement": bytes(32)}, {"base": bytes(32)}):
        with pytest.raises(PeerViolation, match=r"does not open|low order") as caught:
            accepted(mine, resigned(Kind.ANSWER, given, "b", **changes), needed=1)
        assert caught.value.culprit == "b"


@pytest.mark.parametrize("kind", [Kind.ANSWER, Kind.VOUCHER])
def test_what_another_sealed_is_nobodys_to_sign(mine: Asked, kind: Kind) -> None:
    """A corrupt member puts its name under an honest one's word."""
    act = answer if kind is Kind.ANSWER else vouch
    stolen = resigned(kind, tells(act, mine.request, "b"), "c", giver="c")
    if kind is Kind.ANSWER:
        with pytest.raises(PeerViolation, match="does not open") as caught:
            accepted(mine, stolen, needed=1)
        assert caught.value.culprit == "c"
    else:
        with pytest.raises(VerificationError, match="1 of 2"):
            accepted(mine, tells(answer, mine.request, "d"), stolen)


def test_a_voucher_that_says_something_else_than_a_digest_counts_for_nothing(mine: Asked) -> None:
    teller = relayed.Teller(Kind.VOUCHER, WHO["c"], ROSTER, SESSION, SeededEntropy(b""))
    for content in (b"", b"short", bytes(33)):
        odd = teller.told(mine.request, base=BASE, content=content, before=None)
        with pytest.raises(VerificationError, match="1 of 2"):
            accepted(mine, tells(answer, mine.request, "b"), odd)


def test_a_key_that_is_none_names_the_one_that_asks(mine: Asked) -> None:
    parts = relayed._parted(Kind.REQUEST, mine.request)
    found = decode(relayed.Request, parts.statement)
    for changes in (
        {"agreement": bytes(32)},
        {"agreement": b"\xff" * 32},
        {"encapsulation": b"\xff" * len(found.encapsulation)},
    ):
        request = relayed._signed(Kind.REQUEST, encode(replace(found, **changes)), WHO["a"])
        for act in (answer, vouch):
            with pytest.raises(PeerViolation, match="asks under a key that is none") as caught:
                tells(act, request, "b")
            assert caught.value.culprit == "a"


def test_nothing_stands_behind_a_request_even_if_it_is_signed(mine: Asked) -> None:
    statement = relayed._parted(Kind.REQUEST, mine.request).statement
    with pytest.raises(DecodeError, match="4 bytes are left over behind a request"):
        asker_of(relayed._signed(Kind.REQUEST, statement, WHO["a"], b"more"), **PLACE)


# --- a lying server ---------------------------------------------------------------------------------------


def test_old_answers_and_vouchers_are_worth_nothing(mine: Asked) -> None:
    """Kept from an earlier request of the same client."""
    given, vouchers = tells(answer, mine.request, "b"), [tells(vouch, mine.request, name) for name in "cde"]
    again = asked()
    with pytest.raises(VerificationError, match="another request"):
        accepted(again, given, *vouchers)
    with pytest.raises(VerificationError, match="1 of 2"):
        accepted(again, tells(answer, again.request, "b"), *vouchers)


def test_an_answer_to_another_client_is_worth_nothing(mine: Asked) -> None:
    other = asked("e")
    with pytest.raises(VerificationError, match="to another client"):
        accepted(mine, tells(answer, other.request, "b"), needed=1)


OTHERS: list[dict[str, Any]] = [
    {"session": bytes(16)},
    {"session": SESSION + b"\0"},
    {"roster": Roster.of(*reversed(WHO.values()))},
    {"roster": Roster.of(*(WHO[name] for name in "abcd"))},
]


@pytest.mark.parametrize("other", OTHERS, ids=["session", "longer", "order", "member"])
def test_another_session_or_roster_is_another_world(mine: Asked, other: dict[str, Any]) -> None:
    elsewhere = asked(**other)
    for act in (answer, vouch):
        with pytest.raises(VerificationError, match="a request of another session or of another roster"):
            tells(act, elsewhere.request, "b")
    with pytest.raises(VerificationError, match="a request of another session or of another roster"):
        asker_of(elsewhere.request, **PLACE)
    given = tells(answer, elsewhere.request, "b", **other)
    with pytest.raises(VerificationError, match="another session"):
        accepted(mine, given, needed=1)
    with pytest.raises(ParameterError, match="pending is no request of this session; ask anew"):
        accepted(elsewhere, given, needed=1)


def test_who_left_the_roster_is_answered_by_nobody(mine: Asked) -> None:
    """A new roster comes with a new session; one that kept the old request, or asks anew, is a stranger."""
    left = Roster.of(*(WHO[name] for name in "bcde"))
    with pytest.raises(ParameterError, match="the roster does not hold the key of 'a'"):
        ask(identity=WHO["a"], roster=left, session=SESSION)
    parts = relayed._parted(Kind.REQUEST, mine.request)
    found = replace(decode(relayed.Request, parts.statement), roster=left.digest)
    for request in (mine.request, relayed._signed(Kind.REQUEST, encode(found), WHO["a"])):
        for act in (answer, vouch):
            with pytest.raises(VerificationError, match=r"another roster|'a' is not in the roster"):
                tells(act, request, "b", roster=left)


def test_a_server_asks_for_nobody(mine: Asked) -> None:
    """It puts its own key into a client's request, or its own name under an answer."""
    theirs = asked("e")
    parts = relayed._parted(Kind.REQUEST, mine.request)
    own = decode(relayed.Request, relayed._parted(Kind.REQUEST, theirs.request).statement)
    forged = encode(replace(own, asker="a"))
    for request in (
        relayed._signed(Kind.REQUEST, forged, WHO["e"]),
        mine.request.replace(parts.statement, forged),
    ):
        with pytest.raises(VerificationError, match="does not verify"):
            tells(answer, request, "b")
    given = tells(answer, mine.request, "b")
    with pytest.raises(VerificationError, match="does not verify"):
        accepted(mine, resigned(Kind.ANSWER, given, "e"), needed=1)
    stranger = resigned(Kind.ANSWER, given, "e", giver="f")
    with pytest.raises(VerificationError, match="'f' is not in the roster"):
        accepted(mine, stranger, needed=1)


def test_a_request_that_comes_back_to_its_client_is_refused(mine: Asked) -> None:
    with pytest.raises(VerificationError, match="own request came back"):
        tells(answer, mine.request, "a")
    given = resigned(Kind.ANSWER, tells(answer, mine.request, "b"), "a", giver="a")
    with pytest.raises(VerificationError, match="does not answer itself"):
        accepted(mine, given, needed=1)


def test_a_voucher_is_no_answer_and_an_answer_no_voucher(mine: Asked) -> None:
    given, voucher = tells(answer, mine.request, "b"), tells(vouch, mine.request, "b")
    with pytest.raises(DecodeError, match="this is to be the answer"):
        accepted(mine, voucher, needed=1)
    with pytest.raises(VerificationError, match="1 of 2"):
        accepted(mine, given, tells(answer, mine.request, "c"))
    relabelled = voucher[:5] + bytes([Kind.ANSWER.code]) + voucher[6:]
    with pytest.raises(VerificationError, match="another request"):
        accepted(mine, relabelled, needed=1)
    with pytest.raises(VerificationError, match="does not verify"):
        accepted(mine, relabelled.replace(b"\x02\x00\x00\x00\x10", b"\x01\x00\x00\x00\x10", 1), needed=1)


def test_a_flood_of_vouchers_is_refused(mine: Asked) -> None:
    given, voucher = tells(answer, mine.request, "b"), tells(vouch, mine.request, "c")
    with pytest.raises(VerificationError, match="6 vouchers of 5 members; each gives one"):
        accepted(mine, given, *[voucher] * 6)


def changed(message: bytes) -> list[bytes]:
    """Cut, longer, and with one byte changed, at places all over it."""
    step = max(1, len(message) // 150)
    cut = [message[:size] for size in range(0, len(message), step)]
    bits = [
        message[:at] + bytes([message[at] ^ 1]) + message[at + 1 :] for at in range(0, len(message), step)
    ]
    return [*cut, *bits, message + b"\0"]


def test_whatever_is_changed_on_the_way_is_refused(mine: Asked) -> None:
    for request in changed(mine.request):
        with pytest.raises((DecodeError, VerificationError)):
            asker_of(request, **PLACE)
    for odd in changed(tells(answer, mine.request, "b")):
        with pytest.raises((DecodeError, VerificationError)):
            accepted(mine, odd, needed=1)


def test_a_voucher_that_was_changed_counts_for_nothing(mine: Asked) -> None:
    given, voucher = tells(answer, mine.request, "b"), tells(vouch, mine.request, "c")
    assert accepted(mine, given, voucher) == COPY
    for odd in changed(voucher)[::5]:
        with pytest.raises(VerificationError, match="1 of 2"):
            accepted(mine, given, odd)


def test_boxes_keep_their_places(mine: Asked, monkeypatch: pytest.MonkeyPatch) -> None:
    """Signed again by its giver, so that the seal alone speaks."""
    monkeypatch.setattr(relayed, "_BOX", 4)
    parts = relayed._parted(Kind.ANSWER, tells(answer, mine.request, "b", b"abcdefgh"))
    one, two = bytes(parts.body[:32]), bytes(parts.body[32:])
    for body in (two + one, one, two, one + two + one, one + two[:-1], one + two + b"x"):
        moved = relayed._signed(Kind.ANSWER, parts.statement, WHO["b"], body)
        with pytest.raises(PeerViolation, match="does not open"):
            accepted(mine, moved, needed=1)


@given(st.binary(max_size=100))
def test_any_bytes_are_refused(data: bytes) -> None:
    mine = MINE
    for each in (data, b"SAGH" + data, b"SAGH\1\0" + data, b"SAGH\1\1" + data):
        with pytest.raises(DecodeError):
            asker_of(each, **PLACE)
        with pytest.raises(DecodeError):
            accepted(mine, each, needed=1)


MINE = asked()


# --- one's own faults -------------------------------------------------------------------------------------


@pytest.mark.parametrize("needed", [0, -1, 5, 6, True, "2", 2.5, None])
def test_needed_is_checked(mine: Asked, needed: Any) -> None:
    with pytest.raises(ParameterError, match=r"needed is .*; of 5 members 1 to 4 can vouch"):
        accepted(mine, tells(answer, mine.request, "b"), needed=needed)


@pytest.mark.parametrize("pending", [b"bytes", None, Secret(b""), Secret(bytes(1600))])
def test_pending_is_checked(mine: Asked, pending: Any) -> None:
    with pytest.raises(ParameterError, match="pending is"):
        accept(pending, **PLACE, answer=tells(answer, mine.request, "b"), vouchers=[], needed=1)


def test_keys_of_another_request_accuse_nobody(mine: Asked) -> None:
    """A state that was put together from two: the giver sealed rightly, and is not named."""
    kept, other = (decode(relayed._Pending, each.pending.reveal()) for each in (mine, asked()))
    mixed = Secret(encode(replace(kept, encapsulation=other.encapsulation)))
    with pytest.raises(ParameterError, match="pending holds keys of another request"):
        accepted(Asked(mixed, mine.request), tells(answer, mine.request, "b"), needed=1)


@pytest.mark.parametrize("act", [answer, vouch])
@pytest.mark.parametrize(
    ("other", "match"),
    [
        ({"base": b"short"}, "a base is 32 bytes"),
        ({"base": "b" * 32}, "a base is 32 bytes"),
        ({"copy": b""}, "a copy is bytes, at least one"),
        ({"copy": bytearray(b"copy")}, "a copy is bytes, at least one"),
        ({"session": b"short"}, "a session is 16 to 64 bytes"),
        ({"identity": Identity.generate("b")}, "the roster does not hold the key of 'b'"),
        ({"identity": Identity.generate("z")}, "the roster does not hold the key of 'z'"),
        ({"before": b"nothing"}, "that this client signed; pass the last one"),
    ],
)
def test_arguments_are_checked(mine: Asked, act: Message, other: dict[str, Any], match: str) -> None:
    with pytest.raises(ParameterError, match=match):
        tells(act, mine.request, "b", **other)


def test_before_is_ones_own_and_of_the_kind(mine: Asked) -> None:
    first = tells(answer, mine.request, "b")
    for before in (tells(answer, mine.request, "c"), tells(vouch, mine.request, "b"), first + b"x"):
        with pytest.raises(ParameterError, match="before is no answer that this client signed"):
            tells(answer, mine.request, "b", before=before)


def test_no_error_tells_a_secret(mine: Asked) -> None:
    said = []
    given = tells(answer, mine.request, "b", DOCTORED)
    for vouchers in ([], [tells(vouch, mine.request, name) for name in "cd"]):
        with pytest.raises(SecAggError) as caught:
            accepted(mine, given, *vouchers)
        said.append(str(caught.value))
    secrets = (DOCTORED.decode(), COPY.decode(), hashlib.sha256(COPY).hexdigest())
    assert not any(secret in text for secret in secrets for text in said)


def test_session_is_checked_when_asking() -> None:
    with pytest.raises(ParameterError, match="a session is 16 to 64 bytes"):
        asked(session=b"short")
