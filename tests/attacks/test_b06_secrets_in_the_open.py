"""B6: secrets in reprs, exceptions, logs, pickles, saved states and on the wire.

Rounds run to their end while every `Secret` that a party holds is collected at every step; then everything
that a log, a debugger, a crash report or a careless colleague could see is searched for their bytes, as they
are and as Python, hex, Base64 or a number would show them. The weakened copies, which keep plain bytes in a
state or save it unsealed, show that the search finds what is there.

Not covered: memory is not wiped, and a tool that prints the local variables of frames sees what code works
on.
"""

import base64
import copy
import logging
import pickle
import traceback
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields, is_dataclass, replace
from functools import partial
from typing import Any

import pytest

from protocols import (
    Adversary,
    CkksSum,
    LatticeSum,
    MaskedSum,
    PaillierSum,
    PeerViolation,
    Requirements,
    SecAggError,
)
from protocols.masked.client import MaskedClientSteps
from protocols.masked.messages import Unmask, columns
from protocols.masked.server_states import Unmasking
from protocols.messages.schema import encode
from secagg.secret import Secret
from secagg.shamir import SHARE_BYTES
from secagg.vectors.linear_mac import KEY_BYTES
from tests.attacks.weakened import Curious, Stage, Wire, body_of, refused, request_of, updates_of

NAMES = "abcde"
KEY = Secret(bytes(range(32)))
MALICIOUS = MaskedSum(max_clients=6, requirements=Requirements(adversary=Adversary.MALICIOUS))
PROTOCOLS = [
    pytest.param(MaskedSum(max_clients=6), id="masked"),
    pytest.param(MALICIOUS, id="masked, malicious"),
    pytest.param(CkksSum(max_clients=6), id="ckks"),
    pytest.param(PaillierSum(max_clients=6, key_bits=2048), id="paillier"),
    pytest.param(LatticeSum(max_clients=6), id="lattice"),
    pytest.param(
        LatticeSum(max_clients=6, keys=partial(PaillierSum, key_bits=2048)), id="lattice over paillier"
    ),
]


def secrets_in(value: Any) -> Iterator[bytes]:
    """The bytes of every `Secret` inside dataclasses, mappings and sequences."""
    if isinstance(value, Secret):
        yield value.reveal()
    elif is_dataclass(value) and not isinstance(value, type):
        for each in fields(value):
            yield from secrets_in(getattr(value, each.name))
    elif isinstance(value, dict):
        for each in value.values():
            yield from secrets_in(each)
    elif isinstance(value, tuple | list | frozenset | set):
        for each in value:
            yield from secrets_in(each)


def pieces(secret: bytes) -> Iterator[bytes]:
    """A secret and its parts: a pair of shares is two shares, a consortium's key is a MAC key and more."""
    if 16 <= len(secret) <= 64:
        yield secret
    elif len(secret) == 2 * SHARE_BYTES:
        yield from (secret[:SHARE_BYTES], secret[SHARE_BYTES:])
    elif len(secret) > 64:
        yield secret[4 : 4 + KEY_BYTES]  # the MAC key, behind its length
        yield from (secret[start : start + 32] for start in (64, 200))  # Paillier's p and q, or CKKS's key


def spelled(secret: bytes) -> Iterator[str]:
    """How a text may show it."""
    yield repr(secret)[2:-1]
    yield secret.hex()
    yield base64.b64encode(secret).decode().rstrip("=")
    yield str(int.from_bytes(secret, "big"))
    yield str(int.from_bytes(secret, "little"))
    yield str(list(secret))[1:-1]


def in_text(secrets: set[bytes], text: str) -> bool:
    return any(form in text for piece in {p for s in secrets for p in pieces(s)} for form in spelled(piece))


def in_bytes(secrets: set[bytes], data: bytes) -> bool:
    return any(piece in data for secret in secrets for piece in pieces(secret))


@dataclass
class Watched:
    """What one stage held and showed."""

    stage: Stage
    secrets: set[bytes]
    shown: set[str]
    saved: list[bytes]
    kinds: set[type]
    wire: list[Wire]


def watch(protocol: Any) -> Watched:
    """Three rounds, one of them with a dropout, every party looked at after every message."""
    stage = Stage(protocol, NAMES)
    watched = Watched(stage, set(), set(), [], set(), [])
    for identity in stage.identities.values():
        watched.secrets.add(identity.key.secret.reveal())

    def look(clients: Iterable[str] = NAMES) -> None:
        for client in (stage.clients[name] for name in clients):
            watched.kinds.add(type(client._state))
            watched.secrets.update(secrets_in(client._state))
            watched.shown.add(f"{client._state!r} {client._state!s} {client!r} {client.refusal}")
            watched.saved.append(client.export(key=KEY))
        state = stage.server._state
        if not isinstance(getattr(state, "keys", state), Unmasking):  # a test of its own
            watched.shown.add(f"{stage.server._state!r} {stage.server!r}")
        watched.saved.append(stage.server.export(key=KEY))

    def spy(exchange: int, name: str, message: bytes) -> bytes:
        client, pending = stage.clients[name], stage.clients[name]._pending
        look([name])
        if client._pending is None and pending is None and exchange == protocol.suite.collecting:
            client.receive(message)  # the moment between the request and the update is one more state
            look([name])
        return message

    data = updates_of(NAMES)
    for gone in ({}, {"d": protocol.suite.collecting}, {}):
        stage.play(data, gone=gone, request=spy, reply=spy)
        watched.wire += stage.wire
        look()
    watched.shown.add(
        f"{stage.server.outcome()!r} {stage.server.record()!r} {stage.identities!r} {stage.roster!r}"
    )
    return watched


@pytest.fixture(params=PROTOCOLS, scope="module")
def watched(request: pytest.FixtureRequest) -> Watched:
    return watch(request.param)


def test_there_is_something_to_find(watched: Watched) -> None:
    assert len(watched.secrets) > len(NAMES)
    if "Unmask" in watched.stage.protocol.suite.exchanges:
        assert len(watched.secrets) > 100


def test_every_state_of_a_client_was_looked_at(watched: Watched) -> None:
    if watched.stage.protocol is MALICIOUS:
        assert watched.kinds == set(MaskedClientSteps.states)


def test_the_search_finds_what_is_there() -> None:
    @dataclass(frozen=True)
    class Careless:
        key: bytes
        pair: Secret

    secret = bytes(range(66, 66 + 32))
    found = {secret}
    state = Careless(secret, Secret(secret))
    assert in_text(found, repr(state))
    assert not in_text(found, repr(state.pair))
    for form in (
        f"{secret.hex()}",
        f"{secret!r}",
        base64.b64encode(secret).decode(),
        str(int.from_bytes(secret, "big")),
    ):
        assert in_text(found, f"something went wrong with {form}!")
    assert in_text({bytes(range(66))}, repr(bytes(range(33, 66))))
    assert in_bytes(found, b"SAGX" + secret)


@pytest.mark.slow
def test_no_repr_of_a_state_shows_a_secret(watched: Watched) -> None:
    assert not in_text(watched.secrets, "\n".join(watched.shown))


def test_no_saved_state_contains_one(watched: Watched) -> None:
    assert watched.saved
    for blob in watched.saved:
        assert not in_bytes(watched.secrets, blob)


def test_an_unsealed_state_would() -> None:
    stage = Stage(MaskedSum(max_clients=6), NAMES)
    stage.open(updates_of(NAMES), until=2)
    for client in stage.clients.values():
        secrets = set(secrets_in(client._state))
        assert secrets
        assert in_bytes(secrets, encode(client._state))
        assert not in_bytes(secrets, client.export(key=KEY))


def test_two_saved_states_have_nothing_in_common(watched: Watched) -> None:
    """A fresh nonce each time: equal states leave different bytes."""
    client = watched.stage.clients["a"]
    one, other = client.export(key=KEY), client.export(key=KEY)
    header = 64
    assert one[:16] == other[:16]
    assert not {one[i : i + 16] for i in range(header, len(one) - 16)} & {
        other[i : i + 16] for i in range(header, len(other) - 16)
    }


def test_nothing_on_the_wire_contains_a_secret(watched: Watched) -> None:
    """But for the shares that Unmask reveals, which are meant for the server."""
    masked = "Unmask" in watched.stage.protocol.suite.exchanges
    for each in watched.wire:
        if masked and each.exchange == watched.stage.unmasking and not each.down:
            answer = body_of(Unmask, each.message)
            assert not in_bytes(watched.secrets, encode(answer.next))
        else:
            assert not in_bytes(watched.secrets, each.message)


def test_no_state_with_a_secret_is_pickled_or_copied(watched: Watched) -> None:
    for client in watched.stage.clients.values():
        values = [client._identity]
        if list(secrets_in(client._state)):
            values.append(client._state)
        for value in values:
            for copying in (pickle.dumps, copy.deepcopy):
                with pytest.raises(TypeError, match="not pickled or copied"):
                    copying(value)
    for party in (watched.stage.server, *watched.stage.clients.values()):
        with pytest.raises((TypeError, AttributeError)):
            pickle.dumps(party)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_nothing_is_logged_or_printed(
    protocol: Any, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    Stage(protocol, NAMES).play(updates_of(NAMES), gone={"d": protocol.suite.collecting})
    assert caplog.records == []
    assert capfd.readouterr() == ("", "")


def errors_of(stage: Stage, data: Any) -> Iterator[BaseException]:
    """Whatever can be made to go wrong with a stage."""
    number = stage.number + 1
    box = stage.open(data, until=stage.protocol.suite.collecting)
    for name, message in box.items():
        client = stage.clients[name]
        for wrong in (b"", message[:-1], message + b"!", bytes(len(message))):
            assert refused(client.receive(wrong))
            yield RuntimeError(client.refusal)
        client.receive(message)
        for update in (
            data[name][:-1],
            data[name].astype(int),
            data[name] * float("nan"),
            list(data[name]),
            None,
        ):
            try:
                client.contribute(update)  # type: ignore[arg-type]
            except SecAggError as error:
                yield error
        answer = client.contribute(data[name])
        for wrong in (b"", answer[:-1], answer + b"!", bytes(len(answer))):
            try:
                stage.server.receive(name, wrong)
            except SecAggError as error:
                yield error
    for call in (stage.server.advance, lambda: stage.clients["a"].open(b"no result"), stage.server.outcome):
        try:
            call()
        except SecAggError as error:
            yield error
    assert stage.number == number
    try:
        stage.protocol.restore_client(stage.clients["a"].export(key=KEY), key=Secret(bytes(32)))
    except SecAggError as error:
        yield error


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_no_exception_or_refusal_shows_a_secret_or_a_value(protocol: Any) -> None:
    stage = Stage(protocol, NAMES)
    data = {name: update + 0.001234567 for name, update in updates_of(NAMES).items()}
    secrets: set[bytes] = set()
    texts = []
    for error in errors_of(stage, data):
        for client in stage.clients.values():
            secrets.update(secrets_in(client._state))
        texts.append("".join(traceback.format_exception(error)))
    assert len(texts) > 20
    text = "\n".join(texts)
    assert not in_text(secrets, text)
    for update in data.values():
        for value in update:
            assert repr(float(value))[:8] not in text


def late_errors_of(stage: Stage, data: Any) -> Iterator[BaseException]:
    """What can be made to go wrong when clients sign the survivors and reveal shares."""
    for exchange in range(3, stage.unmasking + 1):
        box = stage.open(data, until=exchange)
        for name, message in box.items():
            body: Any = request_of(stage.protocol.suite.requests[exchange], message)
            for wrong in (
                replace(body, model=bytes(32)),
                replace(body, survivors=stage.bitmap("a")),
                replace(body, survivors=stage.bitmap(set(NAMES) - {name})),
                replace(body, survivors=b"\xff"),
            ):
                assert refused(stage.tell(name, stage.request(exchange, wrong)))
                yield RuntimeError(stage.clients[name].refusal)
            answer = stage.tell(name, message)
            assert not refused(answer)
            for bad in (answer[:-1], answer[:-200] + bytes(200), answer + b"!"):
                try:
                    stage.server.receive(name, bad)
                except PeerViolation as error:
                    yield error
        try:
            stage.server.advance()
        except SecAggError as error:
            yield error


@pytest.mark.parametrize("protocol", [MaskedSum(max_clients=6), MALICIOUS])
@pytest.mark.parametrize("before", [0, 1])
def test_no_late_exception_or_refusal_shows_a_secret(protocol: Any, before: int) -> None:
    stage, data = Stage(protocol, NAMES), updates_of(NAMES)
    for _ in range(before):
        stage.play(data)
    secrets: set[bytes] = set()
    texts = []
    for error in late_errors_of(stage, data):
        for client in stage.clients.values():
            secrets.update(secrets_in(client._state))
        texts.append("".join(traceback.format_exception(error)))
    assert len(texts) > 20
    assert len(secrets) > 50
    assert not in_text(secrets, "\n".join(texts))


@pytest.mark.parametrize("protocol", [MaskedSum(max_clients=6), MALICIOUS])
@pytest.mark.parametrize("where", ["the message", "the client's answers", "the server's state"])
def test_no_repr_shows_a_revealed_share(protocol: Any, where: str) -> None:
    """Enough of them in one log file are the secret. They go to the server, not to whoever reads its logs."""
    stage = Stage(protocol, NAMES, server_steps=Curious())
    shown = {}

    def spy(exchange: int, name: str, message: bytes) -> bytes:
        shown["the client's answers"] = repr(stage.clients[name]._answers)
        return message

    stage.play(updates_of(NAMES), gone={"d": 2}, reply=spy)
    answers = stage.answers(stage.unmasking, Unmask)
    shown["the message"] = repr(answers)
    shown["the server's state"] = repr(stage.view)
    shares = {share for answer in answers.values() for share in columns(answer.shares, SHARE_BYTES)}
    assert len(shares) == 4 * 5
    assert not in_text(shares, shown[where])
