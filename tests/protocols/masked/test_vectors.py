"""MaskedSum on the wire, pinned: whole sessions byte for byte, and messages that must be refused.

`vectors/masked_semi_malicious.json` and `vectors/masked_malicious.json` are sessions of three clients on the
integer surface: a round on the long path and a steady one (in the second session with a client that vanishes
after its masks are in the others' vectors). Everything random is `SeededEntropy` of the seed in the file, one
stream for each purpose (see `World`); only ML-KEM encapsulations are recorded, because the backend draws
their randomness itself. Every message stands there with its fields: up to 64 bytes as they are, more by size
and SHA-256.

`vectors/masked_bad.json` is a list of messages of those sessions with edits (see `edited`), each with the way
in which the reason begins for which its receiver must refuse it. A refusal leaves no trace: the session then
goes on, and all its other messages are the pinned ones.

Whoever changes the wire on purpose raises the wire version, calls `record()` here and reads the difference in
the two sessions; `masked_bad.json` is written by hand:

    .venv/bin/python -c "from tests.protocols.masked.test_vectors import record; record()"
"""

import hashlib
import json
from collections.abc import Callable, Generator, Mapping
from contextlib import closing, suppress
from dataclasses import dataclass, fields, is_dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from protocols import Adversary, IntegerSum, MaskedSum, PeerViolation, Requirements, RoundAborted
from protocols.machine.client import Request
from protocols.masked import dealing
from protocols.masked.messages import AdvertiseKeys
from protocols.masked.transcript import SignedKeys, cohort_digest
from protocols.messages.envelope import Envelope, Refusal
from protocols.messages.schema import decode, encode
from secagg import labels
from secagg.secret import Secret
from secagg.standard.kem import encapsulate
from tests.protocols.conftest import TWO, Sent, World, is_refusal

VECTORS = Path(__file__).parents[1] / "vectors"
NAMES = ("a", "b", "c")
LENGTH = 8
MOST = 1000
SHORT = 64

Encapsulated = tuple[Secret, bytes]
Encapsulating = Callable[[bytes], Encapsulated]
Hook = Callable[[int, int, str, bytes], bytes | None]
"""(round, exchange on the wire, client, message) to what arrives instead; None for nothing."""


@dataclass(frozen=True)
class Play:
    """One pinned session: which adversary, and who is gone from which exchange on in the second round."""

    requirements: Requirements
    gone: Mapping[str, int]


SESSIONS = {
    "masked_semi_malicious": Play(Requirements(adversary=Adversary.SEMI_MALICIOUS), {}),
    "masked_malicious": Play(replace(TWO, adversary=Adversary.MALICIOUS), {"c": 2}),
}


# Sessions


def world_of(session: str) -> World:
    """The parties of a session before its first round."""
    protocol = MaskedSum(max_clients=len(NAMES), requirements=SESSIONS[session].requirements)
    return World(protocol.exact(max_summand=MOST), NAMES, seed=session.encode())


def updates_of_round(number: int) -> dict[str, NDArray[np.uint64]]:
    """What the clients contribute; 0 and the largest summand among it."""
    values = np.arange(LENGTH, dtype=np.uint64) * 131
    updates = {name: (values + 389 * place + 57 * number) % MOST for place, name in enumerate(NAMES)}
    updates["a"][:2] = 0, MOST
    return updates


def as_it_is(number: int, exchange: int, name: str, message: bytes) -> bytes:
    return message


def model_of_round(number: int) -> bytes:
    return b"the model of round %d" % number


def play(
    session: str,
    world: World,
    encapsulating: Encapsulating,
    *,
    request: Hook = as_it_is,
    reply: Hook = as_it_is,
) -> Generator[tuple[list[Sent], IntegerSum], None, None]:
    """Both rounds of a session: the messages of each, and its sum. The hooks see and replace messages."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dealing, "encapsulate", encapsulating)
        for number in range(2):
            outcome = world.play(
                updates_of_round(number),
                model=model_of_round(number),
                gone=SESSIONS[session].gone if number else {},
                request=partial(request, number),
                reply=partial(reply, number),
            )
            assert isinstance(outcome.total, IntegerSum)
            yield world.log, outcome.total


def replaying(vector: Mapping[str, Any]) -> Encapsulating:
    """`encapsulate`, as it was recorded."""
    recorded = iter(vector["encapsulations"])

    def encapsulating(encapsulation_key: bytes) -> Encapsulated:
        each = next(recorded)
        assert each["key"] == hashlib.sha256(encapsulation_key).hexdigest()
        return Secret(bytes.fromhex(each["secret"])), bytes.fromhex(each["ciphertext"])

    return encapsulating


def load(name: str) -> Any:
    return json.loads((VECTORS / f"{name}.json").read_text(encoding="utf-8"))


# How messages stand in a file


def pinned(value: Any) -> Any:
    """A field: short bytes in hex, longer ones by size and SHA-256; dataclasses by their fields."""
    if is_dataclass(value):
        return {each.name: pinned(getattr(value, each.name)) for each in fields(value)}
    if isinstance(value, tuple):
        return [pinned(each) for each in value]
    if isinstance(value, dict):
        return {name: pinned(each) for name, each in value.items()}
    if isinstance(value, bytes | memoryview):
        if len(value) <= SHORT:
            return bytes(value).hex()
        return f"{len(value)} bytes, SHA-256 {hashlib.sha256(value).hexdigest()}"
    return value


def described(world: World, sent: Sent) -> dict[str, Any]:
    """A message: its place, its bytes, and its content field by field."""
    parties = ("server", sent.client) if sent.down else (sent.client, "server")
    content = unwrapped(world, sent.exchange, sent.body, down=sent.down)
    return {
        "from": parties[0],
        "to": parties[1],
        "message": type(content).__name__,
        "bytes": pinned(sent.body),
        "fields": pinned(content),
    }


def unwrapped(world: World, exchange: int, message: bytes, *, down: bool) -> Any:
    """The protocol's own message in an envelope."""
    body, suite = Envelope.decode(message).body, world.protocol.suite  # type: ignore[attr-defined]
    if down:
        return decode(suite.requests[exchange], decode(Request, body).body)
    return decode(suite.replies[exchange], body)


def wrapped(message: bytes, content: Any, *, down: bool) -> bytes:
    """`content` in the envelope of `message`."""
    envelope = Envelope.decode(message)
    body = encode(content)
    return replace(envelope, body=encode(Request((), memoryview(body))) if down else body).encode()


def transcribed(session: str, encapsulating: Encapsulating) -> dict[str, Any]:
    """A session as it stands in its file."""
    encapsulations: list[dict[str, str]] = []

    def noting(key: bytes) -> Encapsulated:
        secret, ciphertext = encapsulating(key)
        each = {"key": hashlib.sha256(key).hexdigest(), "secret": secret.reveal().hex()}
        encapsulations.append({**each, "ciphertext": ciphertext.hex()})
        return secret, ciphertext

    world, requirements = world_of(session), SESSIONS[session].requirements
    rounds = [
        {
            "model": model_of_round(number).hex(),
            "updates": {name: each.tolist() for name, each in updates_of_round(number).items()},
            "contributors": sorted(total.contributors),
            "sum": total.total.tolist(),
            "messages": [described(world, sent) for sent in log],
        }
        for number, (log, total) in enumerate(play(session, world, noting))
    ]
    return {
        "adversary": requirements.adversary.value,
        "min_contributors": requirements.min_contributors,
        "corrupt_fraction": requirements.corrupt_fraction,
        "max_clients": len(NAMES),
        "max_summand": MOST,
        "seed": session,
        "session": world.session.hex(),
        "roster": {name: world.roster.public_key(name).hex() for name in NAMES},
        "encapsulations": encapsulations,
        "rounds": rounds,
    }


def record() -> None:
    """Writes the files of the sessions anew; encapsulations to keys that are the same as before are kept."""
    for session in SESSIONS:
        known: dict[str, list[Mapping[str, str]]] = {}
        if (VECTORS / f"{session}.json").exists():
            for each in load(session)["encapsulations"]:
                known.setdefault(each["key"], []).append(each)

        def encapsulating(key: bytes, known: dict[str, list[Mapping[str, str]]] = known) -> Encapsulated:
            if not (again := known.get(hashlib.sha256(key).hexdigest())):
                return encapsulate(key)
            each = again.pop(0)
            return Secret(bytes.fromhex(each["secret"])), bytes.fromhex(each["ciphertext"])

        text = json.dumps(transcribed(session, encapsulating), indent=1)
        (VECTORS / f"{session}.json").write_text(text + "\n", encoding="utf-8")


# The pinned sessions


@pytest.mark.parametrize("session", SESSIONS)
def test_a_session_byte_for_byte(session: str) -> None:
    vector = load(session)
    found = transcribed(session, replaying(vector))
    for ours, theirs in zip(found["rounds"], vector["rounds"], strict=True):
        for message, as_pinned in zip(ours["messages"], theirs["messages"], strict=True):
            assert message == as_pinned
    assert found == vector
    for each in vector["rounds"]:
        updates = np.array([each["updates"][name] for name in each["contributors"]])
        assert each["sum"] == updates.sum(axis=0).tolist()


def test_both_paths_and_both_kinds_of_reveals_are_pinned() -> None:
    """What the files are there to pin is in them."""
    short, long = load("masked_semi_malicious")["rounds"][1], load("masked_malicious")["rounds"][0]
    assert {each["message"] for each in short["messages"]} == {
        "CollectInput",
        "MaskedInput",
        "Quorum",
        "Unmask",
    }
    assert len({each["message"] for each in long["messages"]}) == 10
    unmask = load("masked_malicious")["rounds"][1]["messages"][-1]
    assert unmask["message"] == "Unmask"
    assert unmask["fields"]["kinds"] == "04"  # a pair-key share of the third client, self-mask shares else


def test_the_files_stay_small() -> None:
    assert len(list(VECTORS.glob("masked_*.json"))) == 3
    assert sum(path.stat().st_size for path in VECTORS.glob("masked_*.json")) < 300_000


# Messages that must be refused


@cache
def clean(session: str) -> list[list[Sent]]:
    """All messages of a pinned session, by round."""
    return [list(log) for log, _ in play(session, world_of(session), replaying(load(session)))]


def edited(world: World, bad: Mapping[str, Any], message: bytes) -> bytes:
    """The message with all edits of an entry, in order.

    An edit is one of
        {"instead": {"round", "exchange", "from", "to"}}: another message of the session in its place;
        {"sign": "advertised keys"}: the sender's own signature, over what the message says now;
        {"field": path, ...}: a change to one field of the content, or to the whole message without a path:
            "xor" or "write", and "at": these bytes, from there on; "cut": so many bytes or items at the end;
            "append": these bytes; "set": another value; "like": a field of another message of the session.
            Bytes are in hex.
    """
    down = bad["from"] == "server"
    for edit in bad["edits"]:
        match edit:
            case {"instead": other}:
                message = message_of(bad["session"], other)
            case {"sign": "advertised keys"}:
                keys = unwrapped(world, 0, message, down=False)
                message = wrapped(message, signed(world, keys, client=bad["from"]), down=False)
            case {"field": path, "like": other}:
                content = unwrapped(world, Envelope.decode(message).stage // 2, message, down=down)
                taken = {"set": field_of(world, bad["session"], other)}
                message = wrapped(message, with_field(content, path.split("."), taken), down=down)
            case {"field": path}:
                content = unwrapped(world, Envelope.decode(message).stage // 2, message, down=down)
                message = wrapped(message, with_field(content, path.split("."), edit), down=down)
            case _:
                message = bytes(changed(message, edit))
    return message


def message_of(session: str, place: Mapping[str, Any]) -> bytes:
    """One message of a pinned session."""
    names = world_of(session).protocol.exchanges(first=True)
    wanted = (place["from"] == "server", names.index(place["exchange"]))
    client = place["to"] if wanted[0] else place["from"]
    log = clean(session)[place["round"]]
    [found] = [sent for sent in log if (sent.down, sent.exchange, sent.client) == (*wanted, client)]
    body: bytes = found.body
    return body


def field_of(world: World, session: str, place: Mapping[str, Any]) -> bytes:
    """One field of a message of a pinned session."""
    message = message_of(session, place)
    down = place["from"] == "server"
    content = unwrapped(world, Envelope.decode(message).stage // 2, message, down=down)
    value = getattr(content, place["field"])
    assert type(value) is bytes
    return value


def with_field(content: Any, path: list[str], edit: Mapping[str, Any]) -> Any:
    """A copy of a message in which the field at the end of the path is changed."""
    if not path:
        return changed(content, edit)
    if isinstance(content, tuple):
        place = int(path[0])
        return (*content[:place], with_field(content[place], path[1:], edit), *content[place + 1 :])
    return replace(content, **{path[0]: with_field(getattr(content, path[0]), path[1:], edit)})


def changed(value: Any, edit: Mapping[str, Any]) -> Any:
    match edit:
        case {"xor": bits, "at": at}:
            data = bytearray(value)
            for place, each in enumerate(bytes.fromhex(bits)):
                data[at + place] ^= each
            return bytes(data)
        case {"write": data, "at": at}:
            new = bytes.fromhex(data)
            return value[:at] + new + value[at + len(new) :]
        case {"cut": count}:
            return value[: len(value) - count]
        case {"append": more}:
            return bytes(value) + bytes.fromhex(more)
        case {"set": list(items)}:
            return tuple(items)
        case {"set": str(data)}:
            return bytes.fromhex(data)
        case {"set": int() | bytes() as other}:
            return other
    raise AssertionError(f"no such edit: {edit}")


def signed(world: World, keys: AdvertiseKeys, *, client: str) -> AdvertiseKeys:
    """Keys with their sender's signature: a client that lies signs its lie."""
    statement = SignedKeys.of(
        keys,
        parameters=world.protocol.suite.digest,  # type: ignore[attr-defined]
        session=world.session,
        round=0,
        roster=world.roster.digest,
        cohort=cohort_digest(NAMES),
        length=LENGTH,
        client=client,
    )
    signature = world.identities[client].key.sign(statement, label=labels.KEY_ADVERTISEMENT)
    return replace(keys, signature=signature)


BAD = load("masked_bad")


@pytest.mark.parametrize("bad", BAD, ids=[each["name"] for each in BAD])
def test_a_bad_message_is_refused(bad: Mapping[str, Any]) -> None:
    world = world_of(bad["session"])
    down = bad["from"] == "server"
    place = (bad["round"], world.protocol.exchanges(first=True).index(bad["exchange"]))
    client = bad["to"] if down else bad["from"]
    reached = False

    def deliver_to_client(number: int, exchange: int, name: str, message: bytes) -> bytes:
        nonlocal reached
        if down and (number, exchange, name) == (*place, client):
            reached = True
            wrong = edited(world, bad, message)
            assert wrong != message
            answer = world.clients[name].receive(wrong)
            assert isinstance(answer, bytes)
            assert is_refusal(answer)
            assert (world.clients[name].refusal or "").startswith(bad["error"])
            refusal = decode(Refusal, Envelope.decode(answer).body)
            assert refusal.accused == bad.get("accuses", "")
            assert len(refusal.proof) == (32 if refusal.accused else 0)
        return message

    def deliver_to_server(number: int, exchange: int, name: str, message: bytes) -> bytes | None:
        nonlocal reached
        if down or (number, exchange, name) != (*place, client):
            return message
        reached = True
        arrives_from = bad.get("arrives_from", name)
        wrong = edited(world, bad, message)
        assert (wrong, arrives_from) != (message, name)
        with pytest.raises(PeerViolation) as violation:
            world.server.receive(arrives_from, wrong)
        assert violation.value.reason.startswith(bad["error"])
        assert violation.value.culprit == arrives_from
        return None if bad["expelled"] else message

    sessions = play(
        bad["session"],
        world,
        replaying(load(bad["session"])),
        request=deliver_to_client,
        reply=deliver_to_server,
    )
    if "accuses" in bad:  # who proves something has had its round: the right message is refused then
        with closing(sessions), suppress(RoundAborted):
            next(sessions)
        found = world.server.record().record
        assert "a different message for a step that was answered" in found.dropped[client]
    elif down or not bad["expelled"]:
        # It is as if the message had never come: every other one is the pinned one.
        assert [list(log) for log, _ in sessions] == clean(bad["session"])
    else:
        with closing(sessions), suppress(RoundAborted):
            for number, _ in enumerate(sessions):
                if number == bad["round"]:
                    break
        found = world.server.record().record
        assert found.round == bad["round"]
        assert found.dropped[bad.get("arrives_from", client)].startswith(bad["error"])
    assert reached


def test_every_message_has_a_bad_twin() -> None:
    """Each exchange in each direction, under both adversaries' sessions together; names are unique."""
    tried = {(each["exchange"], each["from"] == "server") for each in BAD}
    protocol = world_of("masked_malicious").protocol
    assert tried == {(name, down) for name in protocol.exchanges(first=True) for down in (True, False)}
    assert len({each["name"] for each in BAD}) == len(BAD) >= 25
